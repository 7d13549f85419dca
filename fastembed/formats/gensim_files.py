"""Word vectors that gensim's `KeyedVectors.save` wrote: a pickle, and large arrays beside it in `.npy` files.

May import: matrix, numpy_files, pickles. Do not break: a file is data. Of the pickle the words and the vectors are
used, and nothing in it is imported or run.

Source: gensim/models/keyedvectors.py and gensim/utils.py, `SaveLoad` (gensim 4.4, and 3.8 for its names).
"""

import io
import math
import os

from fastembed.formats import matrix, numpy_files, pickles
from fastembed.formats.matrix import Matrix

_CLASSES = ["KeyedVectors", "FastTextKeyedVectors", "Vocab", "CompatVocab", "SimpleVocab"]
_CLASSES += ["Word2VecKeyedVectors", "WordEmbeddingsKeyedVectors", "EuclideanKeyedVectors"]
_KNOWN = {**pickles.NUMPY, **{("gensim.models.keyedvectors", name): pickles.Object for name in _CLASSES}}
_KNOWN["gensim.models.fasttext", "FastTextKeyedVectors"] = pickles.Object
_KNOWN["collections", "OrderedDict"] = pickles.Dict
_KNOWN |= {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)}


def find(path, format):
    """The vectors of a file, whether they are in the pickle or beside it."""
    return [_vectors(_state(path), path)]


def _vectors(state, path):
    beside, name = f"{path}.vectors.npy", "vectors"
    apart = state.get("__numpys")
    if isinstance(apart, list) and name in apart:
        if not os.path.exists(beside):
            raise ValueError(f"`path` must have its vectors beside it. Received: path={path!r} without {beside!r}")
        return numpy_files.find(beside, "npy")[0]._replace(name=name)
    try:
        array = pickles.array_of(state.get(name))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`path` must hold a whole KeyedVectors. Received: path={path!r}: {error}") from error
    if array is None:
        raise ValueError(
            f"`path` must hold the vectors of a KeyedVectors; those of FastText, which it makes of parts, gensim's "
            f"save_word2vec_format writes. Received: path={path!r}, which has none"
        )
    size, there = math.prod(array.shape) * array.dtype.itemsize, len(array.octets)
    if size != there or array.columns_first:
        raise ValueError(
            f"`path` must hold vectors with their rows first. Received: path={path!r}: shape {array.shape} in {there} "
            f"bytes, or columns first"
        )
    storage = matrix.storage_of(array.dtype) or str(array.dtype)
    return Matrix(name, array.shape, storage, lambda: _blocks(array, path))


def _blocks(array, path):
    return matrix.stored(io.BytesIO(array.octets), array.dtype, array.shape, path)


def words(path, format, errors):
    """The words of a file."""
    state = _state(path)
    found = state.get("index_to_key", state.get("index2word", state.get("index2entity")))
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise ValueError(f"`path` must hold the words of a KeyedVectors. Received: path={path!r}, which has none")
    rows = matrix.choose([_vectors(state, path)], None, path).shape[0]
    if len(found) != rows:
        raise ValueError(f"`path` must hold {rows} words. Received: path={path!r}, which has {len(found)}")
    return found


def _state(path):
    """The attributes of the object in a file."""
    with open(path, "rb") as file, matrix.damage(path, "KeyedVectors"):
        try:
            value = pickles.read(file, _KNOWN)
        except ValueError as error:
            raise ValueError(f"`path` must hold a KeyedVectors of gensim. Received: path={path!r}: {error}") from error
    if not isinstance(value, pickles.Object) or not isinstance(value.state, dict):
        raise ValueError(
            f"`path` must hold a KeyedVectors of gensim. Received: path={path!r}, which has another object"
        )
    return value.state


def save(layer, path, format, vocabulary, progress):
    """Refuses: see the message."""
    raise ValueError(
        f"`format` must be one that gensim reads everywhere: 'word2vec_binary' (.bin), for "
        f"KeyedVectors.load_word2vec_format(path, binary=True); its own is a pickle of its classes. Received: "
        f"format={format!r}"
    )
