"""Ragged against plain nested lists."""

import copy
import itertools
import pickle

import numpy as np
import pytest

from fastembed import Ragged

LISTS = [
    [],
    [[]],
    [[1]],
    [[1, 2], [], [3], [], []],
    [[], [4, 5, 6], [7]],
    [[[1], [2, 3]], [], [[], [4]], [[]]],
    [[[[1]], []], [[[2, 3], []]]],
]


def depth_of(rows):
    return 1 + max(map(depth_of, rows), default=0) if isinstance(rows, list) else 0


def leaves(rows, path=()):
    """Each number with its path of indices."""
    if isinstance(rows, list):
        for i, row in enumerate(rows):
            yield from leaves(row, (*path, i))
    else:
        yield path, rows


def as_list(row):
    return row.to_list() if isinstance(row, Ragged) else row.tolist()


@pytest.mark.parametrize("rows", LISTS, ids=str)
def test_is_like_lists(rows):
    ragged = Ragged.from_lists(rows)
    depth = max(depth_of(rows), 2)
    assert ragged.to_list() == rows
    assert list(map(as_list, ragged)) == rows
    assert len(ragged) == len(rows)
    assert ragged.dtype == np.int64
    assert ragged.shape == (len(rows),) + (None,) * (depth - 1)
    assert ragged.ndim == depth
    assert ragged.ragged_rank == len(ragged.nested_row_splits) == depth - 1
    assert ragged.nested_row_splits[0] is ragged.row_splits
    assert ragged.row_lengths().tolist() == list(map(len, rows))
    assert repr(ragged) == f"Ragged(shape={ragged.shape}, dtype=int64)"
    for index in range(-len(rows), len(rows)):
        assert as_list(ragged[np.int32(index)]) == rows[index]
    bounds = [None, -9, -2, 0, 1, 3, 9]
    for start, stop, step in itertools.product(bounds, bounds, [None, 1, 2, -1, -2]):
        part = ragged[start:stop:step]
        assert part.to_list() == rows[start:stop:step]
        Ragged(part.values, part.row_splits)  # its splits pass the checks
    for numbers in ([], [len(rows) - 1, 0, 0], [-1, -len(rows)]) if rows else ([],):
        assert ragged[numbers].to_list() == [rows[number] for number in numbers]
        assert ragged[np.array(numbers, np.int32)].to_list() == ragged[numbers].to_list()
    assert ragged[np.arange(len(rows)) % 2 == 1].to_list() == rows[1::2]
    for other in (copy.copy(ragged), copy.deepcopy(ragged), pickle.loads(pickle.dumps(ragged))):
        assert other.to_list() == rows
        assert other != ragged


@pytest.mark.parametrize("rows", LISTS, ids=str)
def test_to_padded(rows):
    ragged = Ragged.from_lists(rows)
    padded = ragged.to_padded(-1)
    longest = [int(np.diff(splits).max(initial=0)) for splits in ragged.nested_row_splits]
    expected = np.full((len(rows), *longest), -1)
    for path, value in leaves(rows):
        expected[path] = value
    assert padded.dtype == np.int64
    assert np.array_equal(padded, expected)


def test_to_padded_of_vectors_and_masks():
    vectors = Ragged(np.arange(6, dtype=np.float32).reshape(3, 2), [0, 1, 1, 3])
    assert vectors.shape == (3, None, 2)
    assert vectors.to_padded(0.1).shape == (3, 2, 2)
    assert vectors.to_padded()[0].tolist() == [[0, 1], [0, 0]]
    assert Ragged([True, True], [0, 0, 2]).to_padded().tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_keeps_what_it_is_given(dtype):
    values, splits = np.arange(12, dtype=np.uint8)[::2], np.array([0, 2, 6], dtype)
    ragged = Ragged(values, splits)
    assert ragged.values is values
    assert ragged.row_splits is splits
    for part in (ragged[:], ragged[1:], ragged[::-1], ragged.with_values(np.zeros((6, 4)))):
        assert part.row_splits.dtype == dtype
    assert ragged.row_lengths().dtype == dtype
    assert np.shares_memory(ragged[0], values)
    assert np.shares_memory(ragged[1:].values, values)


def test_with_values_of_nested():
    ids = Ragged.from_lists([[[1], [2, 3]], []])
    vectors = ids.with_values(np.arange(6.0).reshape(3, 2))
    assert vectors.shape == (2, None, None, 2)
    assert vectors.nested_row_splits[1] is ids.nested_row_splits[1]
    assert vectors.to_list() == [[[[0, 1]], [[2, 3], [4, 5]]], []]
    deeper = ids.with_values(Ragged([7, 8], [0, 1, 2, 2]))
    assert deeper.to_list() == [[[[7]], [[8], []]], []]


def test_other_makers():
    rows = [[1, 2], [], [3]]
    assert Ragged.from_row_lengths([1, 2, 3], [2, 0, 1]).to_list() == rows
    assert Ragged.from_row_lengths([], []).to_list() == []
    assert Ragged.from_value_rowids([1, 2, 3], [0, 0, 2]).to_list() == rows
    assert Ragged.from_value_rowids([1, 2, 3], np.uint8([0, 0, 2]), nrows=5).to_list() == [*rows, [], []]
    assert Ragged.from_value_rowids([], []).to_list() == []
    assert Ragged.from_value_rowids([], [], nrows=2).to_list() == [[], []]
    array = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 3, 3, 3]]
    assert Ragged.from_padded(array).to_list() == array
    assert Ragged.from_padded(array, padding=0).to_list() == [[1, 0, 2], [], [3, 3, 3, 3]]
    assert Ragged.from_padded(array, row_lengths=[0, 4, 1]).to_list() == [[], array[1], [3]]
    vectors = np.array([[[0, 0], [0, 1], [0, 0]], [[0, 0]] * 3])
    assert Ragged.from_padded(vectors, padding=0).to_list() == [[[0, 0], [0, 1]], []]
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert Ragged.from_padded(np.zeros(shape), padding=0).shape == (shape[0], None)
    nested = Ragged.from_row_lengths(Ragged.from_lists(rows), [1, 2])
    assert nested.to_list() == [[[1, 2]], [[], [3]]]


def test_from_lists_dtype():
    assert Ragged.from_lists([[1], []], dtype=np.int32).dtype == np.int32
    assert Ragged.from_lists([[]], dtype="float32").dtype == np.float32
    assert Ragged.from_lists([[0.1]], dtype="float32").dtype == np.float32
    assert Ragged.from_lists([[1.5], [2]]).dtype == np.float64
    rows = Ragged.from_lists([np.array([1, 2], np.int16), (), [3]])
    assert rows.to_list() == [[1, 2], [], [3]]


BAD = [
    (lambda: Ragged([1], [0.0, 1.0]), TypeError, "must be int32 or int64. Received: dtype float64"),
    (lambda: Ragged([1], np.array([0, 1], np.uint64)), TypeError, "dtype uint64"),
    (lambda: Ragged([1], np.array([0, 1], np.int16)), TypeError, "dtype int16"),
    (lambda: Ragged([1], [False, True]), TypeError, "dtype bool"),
    (lambda: Ragged([1], None), TypeError, "dtype object"),
    (lambda: Ragged([1], ["0", "1"]), TypeError, "`row_splits` must be int32 or int64"),
    (lambda: Ragged([1], []), ValueError, "`row_splits` must be 1-D and not empty. Received: shape (0,)"),
    (lambda: Ragged([1], [[0, 1]]), ValueError, "Received: shape (1, 2)"),
    (lambda: Ragged([1], 1), ValueError, "Received: shape ()"),
    (lambda: Ragged([1], [1, 1]), ValueError, "`row_splits` must start at 0. Received: row_splits[0]=1"),
    (lambda: Ragged([1], [-1, 1]), ValueError, "`row_splits` must start at 0. Received: row_splits[0]=-1"),
    (lambda: Ragged([1, 2], [0, 2, 1, 0, 2]), ValueError, "never fall. Received: row_splits[2]=1 after 2"),
    (lambda: Ragged([1, 2], [0, 1]), ValueError, "end at the number of values, 2. Received: row_splits[1]=1"),
    (lambda: Ragged([1, 2], [0, 3]), ValueError, "end at the number of values, 2. Received: row_splits[1]=3"),
    (lambda: Ragged(Ragged([1, 2], [0, 2]), [0, 2]), ValueError, "end at the number of values, 1"),
    (lambda: Ragged(1, [0, 1]), ValueError, "`values` must have at least one axis"),
    (lambda: Ragged.from_lists([1, 2]), ValueError, "`rows` must be a list of lists"),
    (lambda: Ragged.from_lists([[1], 2]), ValueError, "`rows` must be nested to one depth. Received: 2"),
    (lambda: Ragged.from_lists([[1], [[2]]]), ValueError, "`rows` must be nested to one depth. Received: 1"),
    (lambda: Ragged.from_lists([[1.5]], dtype=int), ValueError, "`rows` must fit int64. Received: 1.5"),
    (lambda: Ragged.from_lists([[2**31]], dtype="int32"), ValueError, "must fit int32. Received: 2147483648"),
    (lambda: Ragged.from_lists([[float("nan")]], dtype=int), ValueError, "`rows` must fit int64"),
    (lambda: Ragged.from_row_lengths([1], [2, -1]), ValueError, "be 0 or more. Received: row_lengths[1]=-1"),
    (lambda: Ragged.from_row_lengths([1], [2]), ValueError, "end at the number of values, 1"),
    (lambda: Ragged.from_row_lengths([1], [1.0]), TypeError, "`row_lengths` must be integers"),
    (lambda: Ragged.from_row_lengths([1], [[1]]), ValueError, "`row_lengths` must be 1-D"),
    (lambda: Ragged.from_value_rowids([1], [-1]), ValueError, "be 0 or more. Received: value_rowids[0]=-1"),
    (lambda: Ragged.from_value_rowids([1, 2], [1, 0]), ValueError, "fall. Received: value_rowids[1]=0"),
    (lambda: Ragged.from_value_rowids([1, 2], [0]), ValueError, "end at the number of values, 2"),
    (lambda: Ragged.from_value_rowids([1], [2], nrows=2), ValueError, "`nrows` must be"),
    (lambda: Ragged.from_value_rowids([], [], nrows=-1), ValueError, "`nrows` must be"),
    (lambda: Ragged.from_padded([1]), ValueError, "`array` must have at least two axes"),
    (lambda: Ragged.from_padded([[1]], [1], 0), ValueError, "`row_lengths` and `padding`"),
    (lambda: Ragged.from_padded([[1]], [2]), ValueError, "from 0 to 1. Received: row_lengths[0]=2"),
    (lambda: Ragged.from_padded([[1]], [-1]), ValueError, "from 0 to 1. Received: row_lengths[0]=-1"),
    (lambda: Ragged.from_padded([[1]], [1, 1]), ValueError, "`row_lengths` must have 1 lengths. Received: 2"),
    (lambda: Ragged([1], [0, 1]).with_values([1, 2]), ValueError, "`values` must have 1 rows"),
    (lambda: Ragged([1], [0, 1]).with_values(3), ValueError, "`values` must have 1 rows"),
    (lambda: Ragged([1], [0, 1]).to_padded(0.5), ValueError, "`default_value` must fit int64. Received: 0.5"),
    (lambda: Ragged([1], [0, 1])[1], IndexError, "`index` must be a row of 1. Received: 1"),
    (lambda: Ragged([1], [0, 1])[-2], IndexError, "Received: -2"),
    (lambda: Ragged([1], [0, 1])[[0.5]], TypeError, "`index` must be integers or a mask. Received: float64"),
    (lambda: Ragged([1], [0, 1])[[1]], IndexError, "out of bounds"),
    (lambda: Ragged([1], [0, 1])[0, 0], TypeError, "`index` must be an integer, a slice or row numbers"),
    (lambda: np.asarray(Ragged([1], [0, 1])), TypeError, "call `to_padded()`"),
    (lambda: np.add(Ragged([1], [0, 1]), 1), TypeError, "call `to_padded()`"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
