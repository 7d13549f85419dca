"""The saves of a checkpoint directory: which there are, and how one is added.

May import: files, saving, _version. Do not break: checkpoint.json alone says which saves there are, and is replaced at
one stroke after all that it names is on disk; so a reader finds the old saves or the new ones.

    checkpoint.json     {"format", "fastembed", "saves": [{"name", "after", "digest"}, ...], "crc32"}
    00000001/           a save: save.json, and an array in each file NUMBER.WHAT.npy (bfloat16 as uint16)
    00000002/           a delta goes on from the save that it comes "after": of the arrays chain.ROWS of a variable it
                        has only the rows that NUMBER.rows.npy lists, unless save.json says "rows": null. A save of a
                        lazy table always has such a list, and a checksum of rows that were not made, "initial"
    .00000003.saving/   one under way, or what a killed process has left: the next save removes it

NUMBER is the variable's place in save.json, WHAT is "weights", "scales" (Table.row_scales), or a name of what the
optimizer keeps (`Kept`). save.json has a checksum for each chunk of each file, and checkpoint.json one of save.json.
A save that "folds" others has the identity of the last of them, too.
"""

import contextlib
import json
import os
import re
import threading
import zlib

from fastembed import saving
from fastembed._version import __version__
from fastembed.files import FileLock, directory_to_disk, new_file, write_json

FORMAT = 2
LIST, SAVE = "checkpoint.json", "save.json"
_NAME = "[0-9]{8,18}"
_OURS = re.compile(rf"({_NAME})|\.{_NAME}\.saving|\.checkpoint\.json\.\w+\.saving")
_writers = {}  # a lock for each path
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_writers.clear)


@contextlib.contextmanager
def damage(path):
    """Whatever goes wrong inside is a ValueError that says the path."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError, UnicodeError) as error:
        raise ValueError(f"`path` must hold a whole checkpoint. Received: path={path!r}: {error!r}") from error


@contextlib.contextmanager
def one_writer(path):
    """Inside, nobody else writes to this directory: threads wait, other processes are refused. Another thread than the
    one that came in may leave."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _writers.setdefault(path, threading.Lock()), contextlib.closing(FileLock(path)):
        yield


# ---- the list of saves -----------------------------------------------------------------------------------------------


def read_list(path):
    """The saves in checkpoint.json, from the first to the last."""
    with open(os.path.join(path, LIST), encoding="utf-8") as file, damage(path):
        about = from_json(file.read(), LIST)
        if about["format"] != FORMAT:
            raise ValueError(f"`path` must hold a checkpoint of format {FORMAT}. Received: {about['format']!r}")
        if about.pop("crc32") != _digest(about):
            raise ValueError(f"{LIST} must be what was written. Received: path={path!r} with another checksum")
        return _checked(about["saves"])


def _checked(saves):
    """The entries of a list, each after one that comes before it: whoever follows them comes to an end."""
    names = {None}
    for entry in saves:
        name, after, digest = entry["name"], entry["after"], entry["digest"]
        if not (isinstance(name, str) and re.fullmatch(_NAME, name)) or type(digest) is not int:
            raise ValueError(f"{LIST} must have names that are numbers, and digests. Received: {entry!r:.300}")
        if after not in names or name in names:
            raise ValueError(f"{LIST} must have each save once, after one before it. Received: {entry!r:.300}")
        names.add(name)
    return saves


def from_json(text, name):
    """The JSON in the text of a file; TypeError: it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TypeError(f"{name}: {error}") from error


def _digest(about):
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def identity(entry):
    """What tells a save from all others."""
    return [entry["name"], entry["digest"]]


def find(saves, wanted):
    """The entry of the save with this identity, or of the one that folds it; None: there is none."""
    return next((entry for entry in saves if wanted in (identity(entry), entry.get("folds"))), None)


def of_one_list(path, run):
    """What `run()` returns: again, if it fails because another process has added and removed saves meanwhile."""
    file = os.path.join(path, LIST)
    while True:
        before = saving.identity(file)
        try:
            return run()
        except (OSError, ValueError):
            if saving.identity(file) == before:
                raise


def numbers(path):
    """The numbers of the saves that can be restored, from the first to the last."""
    return numbers_of(read_list(os.path.abspath(os.fspath(path))))


def numbers_of(saves):
    """The numbers of some saves."""
    return [int(entry["name"]) for entry in saves]


def _with_chains(kept, saves):
    """Those of the saves that `kept` needs."""
    by_name, needed = {entry["name"]: entry for entry in saves}, set()
    for entry in kept:
        while entry is not None and entry["name"] not in needed:
            needed.add(entry["name"])
            entry = by_name.get(entry["after"])
    return [entry for entry in saves if entry["name"] in needed]


class NewSave:
    """A save under way, in a directory of its own: for `with`, which leaves `path` as it was unless `commit` is called.

    Args:
        path: the checkpoint directory; made if it is missing.

    Raises:
        FileExistsError: `path` is there and is no checkpoint. BlockingIOError: another process is saving there.
    """

    def __init__(self, path):
        self._path, self._list = path, os.path.join(path, LIST)
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as held:
            held.enter_context(one_writer(path))
            self._committed, self._new = False, not os.path.lexists(path)
            if self._new:
                os.makedirs(path)
            self.saves = read_list(path) if os.path.exists(self._list) else []
            self._number = max(numbers_of(self.saves), default=0) + 1
            if not self.saves and not all(map(self._is_ours, os.listdir(path) if os.path.isdir(path) else [""])):
                raise FileExistsError(f"`path` must be free or an earlier save, with a {LIST}. Received: path={path!r}")
            self._tidy(self.saves)
            self.name = f"{self._number:08d}"
            self.folder = os.path.join(path, f".{self.name}.saving")
            os.mkdir(self.folder)
            self._held = held.pop_all()

    def _is_ours(self, name):
        """Whether a save has made it: not so a directory of the user's that is called 20261125."""
        match = _OURS.fullmatch(name)
        return match is not None and (match[1] is None or int(match[1]) <= self._number)

    def _tidy(self, saves):
        """Removes what killed processes have left, or is in no list any more."""
        import shutil  # see saving.new_directory

        listed = {entry["name"] for entry in saves}
        for name in filter(self._is_ours, os.listdir(self._path)):
            whole = os.path.join(self._path, name)
            if os.path.isdir(whole) and name not in listed:
                shutil.rmtree(whole, ignore_errors=True)
            elif os.path.isfile(whole):
                with contextlib.suppress(OSError):
                    os.remove(whole)

    def commit(self, about, after, keep, folds=None):
        """Puts the save in its place, where all files of it are on disk but save.json. `keep` saves remain, and what
        they need. folds: the entry of a save that is the same and needs not remain. Returns the entry of this one."""
        write_json(os.path.join(self.folder, SAVE), about)
        with open(os.path.join(self.folder, SAVE), "rb") as file:
            digest = zlib.crc32(file.read())
        directory_to_disk(self.folder)
        os.rename(self.folder, os.path.join(self._path, self.name))
        directory_to_disk(self._path)
        entry = {"name": self.name, "after": after and after["name"], "digest": digest}
        if folds is not None:
            entry["folds"] = identity(folds)
        earlier = [one for one in self.saves if one != folds]
        kept = _with_chains([*earlier, entry][-keep:], [*self.saves, entry])
        listed = {"format": FORMAT, "fastembed": __version__, "saves": kept}
        with new_file(self._list) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump({**listed, "crc32": _digest(listed)}, file, indent=2)
        if self._new:
            directory_to_disk(os.path.dirname(self._path))
        self._committed = True
        self._tidy(kept)
        return entry

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._held:
            if self._committed:
                return
            with contextlib.suppress(OSError, ValueError):
                there = os.path.exists(self._list)  # even so, if its folder could not be forced to disk
                self._tidy(read_list(self._path) if there else [])
                if self._new and not there:
                    os.rmdir(self._path)
