"""Files of other libraries: Keras's so far.

May import: its own modules, by name and at the first file. Do not break: importing this package costs nothing, and what
a format needs of others (an extra) is imported where it is used.
"""

import importlib
import os

# A format's name: its suffixes, and the module here that has `load(path, name)` and `save(layer, path, format)`.
FORMATS = {
    "keras": ((".keras",), "keras_files"),
    "keras_weights": ((".weights.h5",), "keras_files"),
    "keras2_h5": ((".h5", ".hdf5"), "keras_files"),
}


def load(path, format=None, name=None):
    """Reads one Embedding of a file.

    Args:
        path: str or path: a `.keras` or `.weights.h5` file, or an HDF5 file of Keras 2, of a whole model or of weights
            alone. Which of them it is, its content decides. They need h5py (`fastembed-cython[h5]`).
        format: "keras" | "keras_weights" | "keras2_h5", or None: the suffix tells.
        name: str, which Embedding: the layer's name, or its place in the file (`layers/embedding_1`); None if there is
            but one.

    Returns:
        Embedding, built, with the config that the file has; from weights alone with their name, shape and dtype.
        Keras's int8 and int4 stay so, but int4 with several scales for a row becomes a table of the dtype before
        (float32).

    Raises:
        ValueError: no such Embedding, or several and no `name` (the message lists them); a damaged file; one that
            refers to other files; codes of which nothing says whether they are int8 or int4.
        TypeError: a dtype that tables do not have.
        OSError: the file cannot be read. ImportError: h5py is missing.

    Source: keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py (Keras 3.15).

    Example:
        >>> layer = fastembed.Embedding(10, 4, name="items")
        >>> fastembed.formats.save(layer, directory + "/items.keras")
        >>> fastembed.formats.load(directory + "/items.keras", name="items")
        <Embedding 'items' input_dim=10 output_dim=4>
    """
    if not isinstance(name, (str, type(None))):
        raise TypeError(f"`name` must be a string or None. Received: name={name!r}")
    return _module(path, format)[0].load(os.fspath(path), name)


def save(layer, path, format=None):
    """Writes a layer for another library. The file is there whole or not at all.

    Args:
        layer: Embedding; for "keras_weights" also EmbeddingBag.
        path: str or path; a file that is there is replaced at one stroke. They need h5py (`fastembed-cython[h5]`).
        format: "keras" (`.keras`): a Sequential of this layer, for `keras.models.load_model` of Keras 3.
            "keras_weights" (`.weights.h5`): its weights, for `load_weights` of Keras 3.
            "keras2_h5" (`.h5`, `.hdf5`): that model, for `load_model` and `load_weights` of Keras 2 and 3.
            None: the suffix tells.

    Raises:
        ValueError: an unknown suffix; a layer that Keras has no class for; a table that is trained in this very file.
        OSError: the disk is full, ...; `path` is then as it was. ImportError: h5py is missing.

    Keras has no `padding_idx`: the row is written as it is, zero, and would train there. Its int8 and int4 have no
    offsets: a quantised table is written as the float32 one that it decodes to. LoRA is merged.

    Example:
        >>> layer = fastembed.Embedding(10, 4, name="items")
        >>> fastembed.formats.save(layer, directory + "/items.weights.h5")
        >>> loaded = fastembed.formats.load(directory + "/items.weights.h5")
        >>> bool((loaded([3, 5]) == layer([3, 5])).all())
        True
    """
    module, format = _module(path, format)
    own = layer.embeddings.path
    trained = own is not None and layer.embeddings.numpy().mode in ("r+", "w+")
    if trained and os.path.exists(path) and os.path.samefile(own, path):
        raise ValueError(f"`path` must not be where the table is trained. Received: path={path!r}")
    module.save(layer, os.fspath(path), format)


def _module(path, format):
    """The module of a format, and the format's name."""
    if format is None:
        file = os.path.basename(os.fspath(path)).lower()
        suffixes = {suffix: name for name, (of_name, _) in FORMATS.items() for suffix in of_name}
        found = [suffix for suffix in suffixes if file.endswith(suffix)]
        if not found:
            raise ValueError(
                f"`path` must end in one of {sorted(suffixes)}, or `format` be given. Received: path={path!r}"
            )
        format = suffixes[max(found, key=len)]
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {sorted(FORMATS)} or None. Received: format={format!r}")
    return importlib.import_module(f"fastembed.formats.{FORMATS[format][1]}"), format
