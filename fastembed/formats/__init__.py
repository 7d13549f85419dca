"""Files of other libraries: Keras, NumPy, torch, safetensors, word2vec, GloVe, gensim.

May import: its own modules, by name and at the first file; dtypes, layers. Do not break: importing this package costs
nothing, and what a format needs of others (an extra) is imported where it is used.
"""

import importlib
import os

from fastembed import dtypes
from fastembed.layers import Embedding

# A format's name: its suffixes, and the module here, which has
#   find(path, format) -> what the file holds, as `matrix.Matrix`,
#   save(layer, path, format, vocabulary, progress),
#   load(path, name, target) where a file says more of a layer than a matrix,
#   words(path, format, errors) where it has words.
FORMATS = {
    "keras": ((".keras",), "keras_files"),
    "keras_weights": ((".weights.h5",), "keras_files"),
    "keras2_h5": ((".h5", ".hdf5"), "keras_files"),
    "npy": ((".npy",), "numpy_files"),
    "npz": ((".npz",), "numpy_files"),
    "safetensors": ((".safetensors",), "safetensors_files"),
    "torch": ((".pt", ".pth"), "torch_files"),
    "word2vec": ((".txt", ".vec"), "word_files"),
    "word2vec_binary": ((".bin",), "word_files"),
    "glove": ((), "word_files"),
    "gensim": ((".kv",), "gensim_files"),
}
OF_WORDS = ("word2vec", "word2vec_binary", "glove", "gensim")


def load(path, format=None, name=None, *, dtype=None, table_path=None, progress=None):
    """Reads one table of a file as a layer.

    Args:
        path: str or path: a file of one of `fastembed.formats.FORMATS`. Those of Keras need h5py
            (`fastembed-cython[h5]`), the others nothing.
        format: "keras", "keras_weights", "keras2_h5", "npy", "npz", "safetensors", "torch", "word2vec",
            "word2vec_binary", "glove", "gensim"; or None: the suffix tells, and for `.bin`, `.txt` and `.vec` (also
            with `.gz`) the content, too.
        name: str, which table: of Keras the layer's name, or its place in the file (`layers/embedding_1`); of .npz the
            array's, of safetensors and torch the tensor's (`words.weight`); None if there is but one.
        dtype: the storage dtype of the table, e.g. "bfloat16" or "int8"; None: the file's.
        table_path: a new .npy file for the table to live in, as `Embedding(path=...)` has it; the table then needs no
            memory. None: memory.
        progress: a function of (done, in all), two ints, that is called after each chunk; or None.

    Returns:
        Embedding, built. From files of Keras with the config that they have, or from weights alone with their name,
        shape and dtype; int8 and int4 stay so, but int4 with several scales for a row becomes a table of the dtype
        before (float32). From other files with shape and dtype; `load_vocabulary` reads their words.

    Raises:
        ValueError: no such table, or several and no `name` (the message lists them); a damaged file; one that
            refers to other files, or to code, which is never run; codes of which nothing says whether they are int8
            or int4.
        TypeError: a dtype that tables do not have.
        FileExistsError: `table_path` is there. OSError: the file cannot be read. ImportError: h5py is missing.

    Source: keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15); for others see
    the modules.

    Example:
        >>> layer = fastembed.Embedding(10, 4, name="items")
        >>> fastembed.formats.save(layer, directory + "/items.npz")
        >>> fastembed.formats.load(directory + "/items.npz", name="items", dtype="bfloat16")
        <Embedding 'items' input_dim=10 output_dim=4>
    """
    if not isinstance(name, (str, type(None))):
        raise TypeError(f"`name` must be a string or None. Received: name={name!r}")
    module, format = _reader(path, format)
    path = os.fspath(path)
    if table_path is not None and os.path.lexists(table_path):
        raise FileExistsError(f"`table_path` must be free. Received: table_path={os.fspath(table_path)!r}")
    matrix = _module("matrix")
    storage = None if dtype is None else dtypes.storage(dtype)
    target = matrix.Target(storage, table_path and os.fspath(table_path), progress)
    if hasattr(module, "load"):
        return module.load(path, name, target)
    return matrix.load(matrix.choose(module.find(path, format), name, path), path, target)


def save(layer, path, format=None, vocabulary=None, *, progress=None):
    """Writes a layer for another library. The file is there whole or not at all.

    Args:
        layer: Embedding or EmbeddingBag; "keras" and "keras2_h5" have the former alone.
        path: str or path; a file that is there is replaced at one stroke. Those of Keras need h5py
            (`fastembed-cython[h5]`).
        format: "keras" (`.keras`): a Sequential of this layer, for `keras.models.load_model` of Keras 3.
            "keras_weights" (`.weights.h5`): its weights, for `load_weights` of Keras 3.
            "keras2_h5" (`.h5`, `.hdf5`): that model, for `load_model` and `load_weights` of Keras 2 and 3.
            "npy" (`.npy`), "npz" (`.npz`): for `np.load`; in the latter the array has the layer's name.
            "safetensors" (`.safetensors`): a tensor of the layer's name.
            "torch" (`.pt`, `.pth`): the state dict of `torch.nn.Embedding` or `EmbeddingBag`, {"weight": tensor}.
            "word2vec" (`.txt`, `.vec`), "word2vec_binary" (`.bin`), "glove": each word with its vector in float32.
            None: the suffix tells.
        vocabulary: list of a str for each row, which word formats need, without spaces and newlines in them; others
            have no words: None.
        progress: as for `load`.

    Raises:
        ValueError: an unknown suffix; a layer that Keras has no class for; a table that is trained in this very file;
            a vocabulary that is missing, or has another length, a word twice, or words that the format cannot have.
        OSError: the disk is full, ...; `path` is then as it was. ImportError: h5py is missing.

    Where a format has not the layer's dtype, it is written as float32: quantised tables, and bfloat16 but for torch,
    safetensors and Keras 3. LoRA is merged. Keras has no `padding_idx`: the row is written as it is, zero, and would
    train there.

    Example:
        >>> layer = fastembed.Embedding(2, 4)
        >>> fastembed.formats.save(layer, directory + "/words.bin", vocabulary=["to", "be"])
        >>> loaded = fastembed.formats.load(directory + "/words.bin")
        >>> bool((loaded([1, 0]) == layer([1, 0])).all())
        True
    """
    format = format_of(path, format)
    if not isinstance(layer, Embedding):
        raise TypeError(f"`layer` must be an Embedding. Received: {layer!r}")
    if vocabulary is not None and format not in OF_WORDS:
        raise ValueError(f"`vocabulary` must be None for a format without words. Received: format={format!r}")
    own = layer.embeddings.path
    trained = own is not None and layer.embeddings.numpy().mode in ("r+", "w+")
    if trained and os.path.exists(path) and os.path.samefile(own, path):
        raise ValueError(f"`path` must not be where the table is trained. Received: path={path!r}")
    _module(FORMATS[format][1]).save(layer, os.fspath(path), format, vocabulary, progress)


def load_vocabulary(path, format=None, errors="strict"):
    """Reads the words of a file of word vectors.

    Args:
        path, format: as for `load`.
        errors: what becomes of words that are no UTF-8: "strict" is an error, "replace" and "ignore" are those of
            `bytes.decode`.

    Returns:
        list of str, in the order of the rows.

    Raises:
        ValueError: a format without words; a damaged file; a word that is there twice (the message has both rows).

    Example:
        >>> fastembed.formats.save(fastembed.Embedding(2, 4), directory + "/words.txt", vocabulary=["to", "be"])
        >>> fastembed.formats.load_vocabulary(directory + "/words.txt")
        ['to', 'be']
    """
    module, format = _reader(path, format)
    if format not in OF_WORDS:
        raise ValueError(f"`path` must be of a format with words: {list(OF_WORDS)}. Received: format={format!r}")
    if errors not in ("strict", "replace", "ignore"):
        raise ValueError(f"`errors` must be 'strict', 'replace' or 'ignore'. Received: errors={errors!r}")
    words = module.words(os.fspath(path), format, errors)
    _module("word_files").refuse_twins(words, "path")
    return words


def find(path, format=None):
    """What is in a file: its arrays, or of Keras its Embeddings.

    Args:
        path, format: as for `load`.

    Returns:
        list of `matrix.Matrix`, with `name` and `title` (either is a name for `load`), `shape`, `storage` (the name of
        the dtype) and `fits` (whether it can be a table).

    Raises: as `load`.

    Example:
        >>> np.savez(directory + "/model.npz", words=np.ones((10, 4), "float32"), counts=np.arange(10))
        >>> [(each.name, each.shape, each.fits) for each in fastembed.formats.find(directory + "/model.npz")]
        [('words', (10, 4), True), ('counts', (10,), False)]
    """
    module, format = _reader(path, format)
    return module.find(os.fspath(path), format)


def format_of(path, format=None, reading=False):
    """The name of the format of a file.

    Args:
        path: str or path.
        format: a name that is checked, or None: the suffix tells.
        reading: whether the file is there, and its content tells where the suffix is that of several formats.

    Raises:
        ValueError: an unknown name or suffix.

    Example:
        >>> fastembed.formats.format_of("words.bin")
        'word2vec_binary'
    """
    if format is not None:
        if format not in FORMATS:
            raise ValueError(f"`format` must be one of {sorted(FORMATS)} or None. Received: format={format!r}")
        return format
    file = os.path.basename(os.fspath(path)).lower()
    file = file.removesuffix(".gz") if reading else file
    suffixes = {suffix: name for name, (of_name, _) in FORMATS.items() for suffix in of_name}
    found = [suffix for suffix in suffixes if file.endswith(suffix)]
    if not found:
        raise ValueError(f"`path` must end in one of {sorted(suffixes)}, or `format` be given. Received: path={path!r}")
    format = suffixes[max(found, key=len)]
    if reading and format == "word2vec_binary":
        with open(path, "rb") as opened:
            return "torch" if opened.read(4) == b"PK\x03\x04" else format
    if reading and format == "word2vec" and not _module("word_files").has_sizes(path):
        return "glove"
    return format


def _module(name):
    return importlib.import_module(f"fastembed.formats.{name}")


def _reader(path, format):
    """The module that reads a file, and the format's name."""
    format = format_of(path, format, reading=True)
    return _module(FORMATS[format][1]), format
