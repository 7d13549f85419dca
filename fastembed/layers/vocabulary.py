"""Vocabularies: which row the word of each new id had.

May import: NumPy only. Do not break: two words are one word if they are equal and hash alike, as keys of a dict are.
"""

import contextlib

import numpy as np


def places(old, new, num_rows, padding_idx=None):
    """(the number of new words, int64 for each of them: its place among the old ones, -1: none). In place of the array
    None, where the new words begin with all old ones in their order, or the old with all new ones.

    Args:
        old, new: as `Embedding.remap` takes them.
        num_rows: how many old words there have to be.
        padding_idx: the place of a word that is the same in both; or None.
    """
    old, new = _words(old, "old_vocabulary"), _words(new, "new_vocabulary")
    if len(old) != num_rows:
        raise ValueError(f"`old_vocabulary` must have a word for each of {num_rows} rows. Received: {len(old)} words")
    if not len(new):
        raise ValueError("`new_vocabulary` must have words. Received: none")
    both_integers = all(isinstance(words, np.ndarray) for words in (old, new))
    if both_integers and np.result_type(old, new).kind in "iu":
        from_v = _integers(old, new)
    else:
        from_v = _any(*(words.tolist() if isinstance(words, np.ndarray) else words for words in (old, new)))
    if padding_idx is not None and (padding_idx >= len(new) or from_v[padding_idx] != padding_idx):
        there = repr(new[padding_idx]) if padding_idx < len(new) else "nothing"
        raise ValueError(
            f"`new_vocabulary` must have {old[padding_idx]!r} at `padding_idx`, {padding_idx}, as `old_vocabulary` "
            f"has. Received: {there} there"
        )
    stay = min(len(old), len(new))
    in_order = np.array_equal(from_v[:stay], np.arange(stay)) and (from_v[stay:] == -1).all()
    return len(new), None if in_order else from_v


def _words(words, name):
    """A list, or an array of integers."""
    if isinstance(words, (str, bytes, dict, set, frozenset)) or not hasattr(words, "__iter__"):
        raise TypeError(f"`{name}` must be a sequence of words. Received: {type(words).__name__}")
    if isinstance(words, np.ndarray):
        if words.ndim != 1:
            raise ValueError(f"`{name}` must have one dimension. Received: shape {words.shape}")
        return words if words.dtype.kind in "iu" else words.tolist()
    return words if isinstance(words, (list, tuple)) else list(words)


def _integers(old, new):
    """The places of integers, by sorting them."""
    (order_v, old), (new_order_v, new) = _sorted(old, "old_vocabulary"), _sorted(new, "new_vocabulary")
    at_v = np.minimum(np.searchsorted(old, new), len(old) - 1)
    from_v = np.empty(len(new), np.int64)
    from_v[new_order_v] = np.where(old[at_v] == new, order_v[at_v], -1)
    return from_v


def _sorted(words, name):
    """(the order of integers that come once each, the integers in that order)"""
    order_v = np.argsort(words, kind="stable")
    sorted_v = words[order_v]
    twice_v = np.flatnonzero(sorted_v[1:] == sorted_v[:-1])
    if len(twice_v):
        first, second = order_v[twice_v[0] : twice_v[0] + 2]
        raise _comes_twice(name, int(words[first]), first, second)
    return order_v, sorted_v


def _any(old, new):
    """The places of hashable words."""
    places = _by_word(old, "old_vocabulary")
    with _hashable("new_vocabulary"):
        from_v = np.fromiter((places.get(word, -1) for word in new), np.int64, len(new))
    is_there_v = np.zeros(len(old), bool)
    is_there_v[from_v[from_v >= 0]] = True
    if is_there_v.sum() + len({new[place] for place in np.flatnonzero(from_v < 0)}) < len(new):
        _by_word(new, "new_vocabulary")  # says which word comes twice
    return from_v


def _by_word(words, name):
    """The place of each word, which comes once."""
    with _hashable(name):
        places = dict(zip(words, range(len(words)), strict=True))
    if len(places) < len(words):  # each has the last of its places
        first = next(place for place, word in enumerate(words) if places[word] != place)
        raise _comes_twice(name, words[first], first, places[words[first]])
    return places


@contextlib.contextmanager
def _hashable(name):
    try:
        yield
    except TypeError as error:
        raise TypeError(f"`{name}` must have words that are hashable. Received: {error}") from error


def _comes_twice(name, word, first, second):
    return ValueError(f"`{name}` must have each word once. Received: {word!r} at {first} and {second}")
