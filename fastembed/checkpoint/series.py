"""The saves of a checkpoint directory: which there are, and how one is added.

May import: files, saving, _version. Do not break: checkpoint.json alone says which saves there are, and is replaced at
one stroke after all that it names is on disk; so a reader finds the old saves or the new ones.

    checkpoint.json     {"format", "fastembed", "saves": [{"name", "after", "folds", "digest"}, ...], "crc32"}
    00000001/           a save: save.json, and an array in each file NUMBER.WHAT.npy (bfloat16 as uint16)
    00000002/           a delta has of the arrays ROWS only the rows that NUMBER.rows.npy lists, and refers to the save
                        "after" which it comes. Of a lazy table (then "initial" is a checksum of rows that were not
                        made) any save has those that were made, or are new
    .00000003.saving/   one under way, or what a killed process has left: the next save removes it

NUMBER is the variable's place in save.json, WHAT is "weights", "scales" (Table.row_scales), or a name of what the
optimizer keeps (`Kept`). save.json has a checksum for each chunk of each file, and checkpoint.json one of save.json.
"""

import contextlib
import json
import os
import re
import shutil
import zlib

from fastembed import saving
from fastembed._version import __version__
from fastembed.files import FileLock, directory_to_disk

FORMAT = 2
LIST, SAVE = "checkpoint.json", "save.json"
_OURS = re.compile(r"\d{8,}|\..*\.saving|checkpoint\.json")


@contextlib.contextmanager
def damage(path):
    """Whatever goes wrong inside is a ValueError that says the path."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError, UnicodeError) as error:
        raise ValueError(f"`path` must hold a whole checkpoint. Received: path={path!r}: {error!r}") from error


# ---- the list of saves -----------------------------------------------------------------------------------------------


def read_list(path):
    """The saves in checkpoint.json, from the first to the last."""
    with open(os.path.join(path, LIST), encoding="utf-8") as file, damage(path):
        about = from_json(file.read(), LIST)
        if about["format"] != FORMAT:
            raise ValueError(f"`path` must hold a checkpoint of format {FORMAT}. Received: {about['format']!r}")
        if about.pop("crc32") != _digest(about):
            raise ValueError(f"{LIST} must be what was written. Received: path={path!r} with another checksum")
        return about["saves"]


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
    return [int(entry["name"]) for entry in read_list(os.path.abspath(os.fspath(path)))]


def _with_chains(kept, saves):
    """Those of the saves that `kept` needs."""
    by_name, needed = {entry["name"]: entry for entry in saves}, set()
    for entry in kept:
        while entry is not None and entry["name"] not in needed:
            needed.add(entry["name"])
            entry = by_name.get(entry["after"])
    return [entry for entry in saves if entry["name"] in needed]


class NewSave:
    """A save under way, in a directory of its own; then `commit` or `abort`.

    Args:
        path: the checkpoint directory; made if it is missing.

    Raises:
        FileExistsError: `path` is there and is no checkpoint. BlockingIOError: another process is saving there.
    """

    def __init__(self, path):
        self._path = path
        self._held = contextlib.ExitStack()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._held.enter_context(contextlib.closing(FileLock(path)))
        try:
            self._new = not os.path.lexists(path)
            if self._new:
                os.mkdir(path)
            self.saves = self._begin()
            numbers = [int(entry["name"]) for entry in self.saves]
            self.name = f"{max(numbers, default=0) + 1:08d}"
            self.folder = os.path.join(path, f".{self.name}.saving")
            os.mkdir(self.folder)
        except BaseException:
            self._held.close()
            raise

    def _begin(self):
        """The saves that are there; what killed processes have left goes."""
        names = os.listdir(self._path) if os.path.isdir(self._path) else [None]
        if LIST not in names and not all(name and _OURS.fullmatch(name) for name in names):
            raise FileExistsError(
                f"`path` must be free or an earlier save, with a {LIST}. Received: path={self._path!r}"
            )
        saves = read_list(self._path) if LIST in names else []
        self._tidy(saves)
        return saves

    def _tidy(self, saves):
        """Removes what is ours and in no list."""
        listed = {LIST, *(entry["name"] for entry in saves)}
        for name in set(os.listdir(self._path)) - listed:
            if _OURS.fullmatch(name):
                whole = os.path.join(self._path, name)
                if os.path.isdir(whole):
                    shutil.rmtree(whole, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.remove(whole)

    def commit(self, about, after, keep, folds=None):
        """Puts the save in its place, where all files of it are on disk but save.json. `keep` saves remain, and what
        they need. folds: the entry of a save that is the same and needs not remain. Returns the entry of this one."""
        with self._held:
            saving.write_json(os.path.join(self.folder, SAVE), about)
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
            with saving.new_file(os.path.join(self._path, LIST)) as beside, open(beside, "w", encoding="utf-8") as file:
                json.dump({**listed, "crc32": _digest(listed)}, file, indent=2)
            if self._new:
                directory_to_disk(os.path.dirname(self._path))
            self._tidy(kept)
        return entry

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.abort()

    def abort(self):
        """Leaves `path` as it was."""
        with self._held, contextlib.suppress(OSError, ValueError):
            committed = os.path.exists(os.path.join(self._path, LIST))
            self._tidy(read_list(self._path) if committed else [])
            if self._new and not committed:
                os.rmdir(self._path)
