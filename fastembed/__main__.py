"""The command line: `python -m fastembed convert | info | verify | estimate`, see `--help`.

May import: everything. Do not break: an error is one line on stderr and the exit code 1, and leaves what was there; a
file is converted in chunks, however large the table.
"""

import argparse
import os
import sys
import tempfile

import fastembed
from fastembed import dtypes, files, formats, ops, saving
from fastembed.checkpoint import chain, series
from fastembed.table import Table

_SAVE = "fastembed"  # what --from and --to call our own saves
_WORDS = "vocabulary.txt"  # in a save: a word in each line, in UTF-8, in the order of the rows


def main(arguments=None):
    """Runs a command.

    Args:
        arguments: list of str, those of the program if None.

    Returns:
        the exit code: 0, or 1 after an error, which is on stderr.

    Example:
        >>> import fastembed.__main__
        >>> fastembed.Embedding(10, 4, "ones").save(directory + "/items")
        >>> fastembed.__main__.main(["convert", directory + "/items", directory + "/items.npy"])
        0
        >>> np.load(directory + "/items.npy").shape
        (10, 4)
    """
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"fastembed {given.command}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser("python -m fastembed", description="Embedding tables in files.")
    parser.add_argument("--version", action="version", version=fastembed.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    known = [_SAVE, *formats.FORMATS]

    def command(run, text):
        made = commands.add_parser(run.__name__.strip("_"), help=text, description=text)
        made.set_defaults(run=run)
        return made

    convert = command(_convert, "Writes a table in another format.")
    convert.add_argument("source", metavar="IN", help="a file of another library, or a save (a directory)")
    convert.add_argument("target", metavar="OUT", help="a file; or a save, which has no suffix or ends in /")
    convert.add_argument("--from", dest="format", choices=known, help="the format of IN; else the suffix tells")
    convert.add_argument("--to", choices=known, help="the format of OUT; else the suffix tells")
    convert.add_argument("--name", help="which table of IN")
    convert.add_argument("--dtype", choices=dtypes.STORAGE, help="the dtype that the table gets")
    convert.add_argument("--vocabulary", metavar="FILE", help="a word for each row, in a line each; else those of IN")
    convert.add_argument(
        "--errors", choices=("strict", "replace", "ignore"), default="strict", help="words of IN in no UTF-8"
    )
    for run, text in (
        (_info, "Says what is in a file, a save or a checkpoint."),
        (_verify, "Reads all of a file, a save or a checkpoint, and fails if it is damaged."),
    ):
        made = command(run, text)
        made.add_argument("path", metavar="PATH")
        made.add_argument("--from", dest="format", choices=list(formats.FORMATS), help="else the suffix tells")
    estimate = command(_estimate, "Says what memory a table and its training take.")
    estimate.add_argument("rows", metavar="ROWS", type=int)
    estimate.add_argument("dim", metavar="DIM", type=int)
    estimate.add_argument("--dtype", choices=dtypes.STORAGE, default="float32")
    estimate.add_argument("--optimizer", help="e.g. Adam; none: for look-ups")
    return parser


# ---- convert ---------------------------------------------------------------------------------------------------------


def _convert(given):
    target = os.path.abspath(given.target)
    named = given.to or (_SAVE if _is_save(given.target) else formats.format_of(target))
    os.stat(given.source)  # FileNotFoundError says more than an unknown suffix
    os.makedirs(os.path.dirname(target), exist_ok=True)
    # The table is on its way in a file beside the target, where there is space for one like it.
    with tempfile.TemporaryDirectory(prefix=".", suffix=".converting", dir=os.path.dirname(target)) as folder:
        layer = _read(given, os.path.join(folder, "table.npy"))
        words = _words(given) if named == _SAVE or named in formats.OF_WORDS else None
        if named != _SAVE:
            formats.save(layer, target, named, words, progress=_progress("writing"))
            return
        if words is not None and (len(words) != layer.input_dim or any("\n" in word for word in words)):
            raise ValueError(
                f"a vocabulary must have a line for each of {layer.input_dim} rows. Received: {len(words)}"
            )
        made = os.path.join(folder, "save")
        layer.save(made)
        if words is not None:
            _write_words(words, os.path.join(made, _WORDS))
        with saving.new_directory(target, "config.json") as beside:
            for name in os.listdir(made):
                os.rename(os.path.join(made, name), os.path.join(beside, name))


def _is_save(path):
    """Whether a target is a save of ours, by its name or because a directory is there."""
    return path.endswith(("/", os.sep)) or os.path.isdir(path) or "." not in os.path.basename(path)


def _read(given, table_path):
    """The layer of a source, whose table may live at `table_path`."""
    source = given.source
    if not _is_own(given):
        about = {"dtype": given.dtype, "table_path": table_path, "progress": _progress("reading")}
        return formats.load(source, given.format, given.name, **about)
    _refuse_checkpoint(source)
    layer = fastembed.load(source, mmap_mode="r")
    if given.name not in (None, layer.name):
        raise ValueError(f"`name` must be that of the layer, {layer.name!r}. Received: name={given.name!r}")
    return layer if given.dtype in (None, layer.dtype) else _as_dtype(layer, given.dtype, table_path)


def _is_own(given):
    """Whether the source is a save of ours."""
    return given.format == _SAVE or os.path.isdir(given.source)


def _words(given):
    """The words of a source, or those that are given for it; None if there are none."""
    if given.vocabulary is not None:
        return _read_words(given.vocabulary)
    if _is_own(given):
        path = os.path.join(given.source, _WORDS)
        return _read_words(path) if os.path.exists(path) else None
    named = formats.format_of(given.source, given.format, reading=True)
    return formats.load_vocabulary(given.source, named, given.errors) if named in formats.OF_WORDS else None


def _as_dtype(layer, storage, table_path):
    """The layer with its table, and LoRA merged, in another storage dtype."""

    def fill(table):
        for first_row, values_vd in layer.merged_blocks():
            ops.encode(table.rows, values_vd, first_row)

    policy = storage if storage in dtypes.PLAIN else dtypes.quantised("float32", storage, layer.output_dim)
    config = {**layer.get_config(), "dtype": policy, "quantization_config": None, "lora_rank": None, "lora_alpha": None}
    made = type(layer).from_config(config)
    made.adopt(Table.new_file(table_path, layer.embeddings.shape, storage, fill))
    return made


def _read_words(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        return [line.removesuffix("\n") for line in file]


def _write_words(words, path):
    with files.new_file(path) as beside, open(beside, "x", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word}\n" for word in words)


def _progress(text):
    """A function that shows how much is done, or None: without tqdm, or where nobody looks."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar = tqdm(desc=text, unit_scale=True)

    def show(done, total):
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


# ---- info, verify, estimate ------------------------------------------------------------------------------------------


def _info(given):
    path = given.path
    os.stat(path)
    if os.path.exists(os.path.join(path, "checkpoint.json")):
        _info_checkpoint(path)
    elif os.path.isdir(path):
        layer = fastembed.load(path, mmap_mode="r")
        _say(format=_SAVE, layer=type(layer).__name__, name=layer.name, bytes=layer.embeddings.nbytes)
        _say(shape=layer.embeddings.shape, dtype=layer.dtype)
        words = os.path.join(path, _WORDS)
        if os.path.exists(words):
            _say(words=len(_read_words(words)))
    else:
        found, named = formats.find(path, given.format), formats.format_of(path, given.format, reading=True)
        _say(format=named, bytes=os.path.getsize(path))
        if named in formats.OF_WORDS:
            _say(words=found[0].shape[0])
        for each in found:
            title = "" if each.title in (None, each.name) else f" ({each.title})"
            note = "" if each.blocks else ", no table"
            print(f"{each.name or '(no name)'}{title}: {each.storage} {each.shape}{note}")


def _info_checkpoint(path):
    opened = series.of_one_list(os.path.abspath(path), lambda: chain.open_chain(path))
    _say(format="checkpoint", saves=fastembed.Checkpoint.saves(path))
    _say(optimizer=(opened.about["optimizer"] or {}).get("class_name"), bytes=sum(file.nbytes for file in opened.files))
    for name, one in opened.about["variables"].items():
        print(f"{name}: {one['arrays']['weights'][0]} {tuple(one['shape'])}")


def _say(**values):
    for name, value in values.items():
        print(f"{name}: {value}")


def _verify(given):
    path = given.path
    os.stat(path)
    if os.path.isdir(path):
        _verify_save(path)
    else:
        named = formats.format_of(path, given.format, reading=True)
        for each in formats.find(path, given.format):
            for _ in each.blocks() if each.blocks else ():
                pass
        if named in formats.OF_WORDS:
            formats.load_vocabulary(path, given.format)
    print(f"{path}: whole")


def _verify_save(path):
    """Reads all of a save or a checkpoint of this library; ValueError if it is damaged."""
    fastembed.verify(path)
    if os.path.exists(os.path.join(path, "checkpoint.json")):
        return
    for _ in fastembed.load(path, mmap_mode="r").merged_blocks():
        pass


def _refuse_checkpoint(path):
    if os.path.exists(os.path.join(path, "checkpoint.json")):
        raise ValueError(
            f"`path` must be a save of a layer; rows of a checkpoint may have steps to take. Received: {path!r}"
        )


def _estimate(given):
    print(fastembed.estimate(given.rows, given.dim, dtype=given.dtype, optimizer=given.optimizer))


if __name__ == "__main__":
    sys.exit(main())
