"""Lazy tables: a row has the bits that it would have had from the start, and rows that nobody touches cost nothing.

Do not break: each lazy table is compared with one that is made at once, bit by bit.
"""

import os

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, dtypes, initializers, optimizers

V, D = 203, 6
INITIALIZERS = {
    "uniform": lambda: initializers.RandomUniform(seed=5),
    "normal": lambda: initializers.RandomNormal(seed=5),
    "truncated": lambda: initializers.TruncatedNormal(seed=5),
    "glorot": lambda: initializers.GlorotUniform(seed=5),
    "he": lambda: initializers.HeNormal(seed=5),
    "zeros": initializers.Zeros,
    "constant": lambda: initializers.Constant(0.3),
    "row": lambda: initializers.Constant(np.arange(D) / 7),
    "array": lambda: initializers.Constant(np.arange(V * D).reshape(V, D) / 999),
    "identity": lambda: initializers.Identity(2.0),
    "generator": lambda: initializers.get(
        {"class_name": "RandomUniform", "config": {"seed": {"class_name": "SeedGenerator", "config": {"seed": 3}}}}
    ),
}
OPTIMIZERS = {
    "SGD": {},
    "Adagrad": {"learning_rate": 0.1, "initial_accumulator_value": 0.5},
    "RowwiseAdagrad": {"learning_rate": 0.1},
    "Adam": {},
    "AdamW": {},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Adadelta": {},
    "Adamax": {},
    "Nadam": {},
    "Ftrl": {"initial_accumulator_value": 0.5},
    "Lion": {},
    "Lamb": {},
    "PartialRowwiseAdam": {},
    "RowwiseLamb": {},
    "RowwiseLARS": {},
    "RowwiseRMSprop": {},
}


def pair(kind="uniform", cls=Embedding, **arguments):
    """The same layer, made at once and lazily."""
    return [cls(V, D, embeddings_initializer=INITIALIZERS[kind](), lazy=lazy, **arguments) for lazy in (False, True)]


def made(layer):
    return len(layer.embeddings) - len(layer.embeddings.lazy.missing(slice(None)))


def octets(table):
    return table.numpy().view(np.uint8)


@pytest.mark.parametrize("kind", INITIALIZERS)
@pytest.mark.parametrize("storage", dtypes.PLAIN)
def test_rows_have_the_bits_that_they_would_have_had(kind, storage, rng):
    at_once, lazy = pair(kind, dtype=storage, padding_idx=3)
    for ids in ([], [7], [[3, 0], [V - 1, 7]], rng.integers(0, V, (5, 4)), np.int32([8, 8])):
        assert np.array_equal(at_once(ids), lazy(ids))
    assert 4 <= made(lazy) <= 25
    assert np.array_equal(at_once.embeddings[20:60:3], lazy.embeddings[20:60:3])
    assert made(lazy) < V
    assert np.array_equal(octets(at_once.embeddings), octets(lazy.embeddings))
    assert made(lazy) == V


def test_reading_a_whole_table_in_blocks_makes_no_row():
    at_once, lazy = pair(padding_idx=3)
    lazy([5, 9])
    for rows in (slice(None), slice(0, 0), slice(3, 12), slice(9, 10), slice(13, V), slice(16, 24)):
        assert np.array_equal(lazy.embeddings.to_float32(rows), at_once.embeddings.to_float32(rows))
        assert np.array_equal(lazy.embeddings.read(rows), at_once.embeddings.read(rows))
    assert made(lazy) == 2


def test_bags():
    at_once, lazy = pair(cls=EmbeddingBag, combiner="max")
    ids = Ragged.from_lists([[3, 1], [], [150, 9, 3]])
    upstream = np.ones((3, D), np.float32)
    assert np.array_equal(at_once(ids), lazy(ids))
    gradients = [layer.gradient(ids, upstream) for layer in (at_once, lazy)]
    assert np.array_equal(gradients[0].to_dense(), gradients[1].to_dense())
    assert made(lazy) == 4


@pytest.mark.parametrize("untouched", optimizers.arguments.MODES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training(name, untouched, rng, tmp_path):
    """Rows may be updated before they are looked up, and with rows of state that begin with a number."""
    cls = getattr(optimizers, name)
    if untouched not in cls.modes:
        pytest.skip(f"{name} has no {untouched}")
    layers = [*pair(), Embedding(V, D, INITIALIZERS["uniform"](), lazy=True, path=tmp_path / "table.npy")]
    paths = None, None, tmp_path / "state"
    steppers = [cls(**OPTIMIZERS[name], untouched=untouched, path=path) for path in paths]
    for _ in range(6):
        ids, upstream = rng.integers(0, 60, (2, 4)), rng.standard_normal((2, 4, D))
        for layer, optimizer in zip(layers, steppers, strict=True):
            optimizer.apply([layer.gradient(ids, upstream)], [layer.embeddings])
            layer(ids[:, :2])
    if untouched == "skip":
        assert made(layers[1]) <= 60
    states = [optimizer.state(layer.embeddings) for optimizer, layer in zip(steppers, layers, strict=True)]
    for layer, state in zip(layers[1:], states[1:], strict=True):
        assert np.array_equal(layers[0].embeddings.to_float32(), layer.embeddings.to_float32())
        for part, array in states[0].items():
            assert np.array_equal(array, state[part]), part


def test_rows_that_nobody_touches_do_not_catch_up():
    _, lazy = pair()
    optimizer = optimizers.Adam(untouched="catch_up")
    for i in (3, 4, 5):
        optimizer.apply([lazy.gradient([i], np.ones((1, D)))], [lazy.embeddings])
        lazy([9])
    optimizer.catch_up()
    assert made(lazy) == 4


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"embeddings_initializer": "orthogonal"}, "makes whole tables"),
        ({"embeddings_initializer": lambda shape, dtype=None: np.ones(shape)}, "makes whole tables"),
        ({"weights": np.ones((V, D))}, "goes without"),
        ({"embeddings_constraint": "non_neg"}, "goes without"),
        ({"path": "x.npy"}, "needs an initializer with a seed"),
        ({"embeddings_initializer": np.ones((3, 3))}, "`shape` must be"),
    ],
    ids=["orthogonal", "function", "weights", "constraint", "no seed", "array"],
)
def test_what_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Embedding(V, D, lazy=True, **arguments)
    assert not os.path.exists("x.npy")


def test_optimizers_that_need_all_rows():
    _, lazy = pair()
    gradient = lazy.gradient([3], np.ones((1, D)))
    for optimizer in (optimizers.Adafactor(), optimizers.Adam(use_ema=True)):
        with pytest.raises(ValueError, match="`lazy`"):
            optimizer.apply([gradient], [lazy.embeddings])
    assert made(lazy) == 0


def test_ids_that_are_no_rows_make_none():
    _, lazy = pair()
    for ids in ([3, V], [-1, 3], [2**40]):
        with pytest.raises(IndexError, match="must lie in"):
            lazy(ids)
        with pytest.raises(IndexError, match="must lie in"):
            optimizers.SGD().apply([lazy.gradient(ids, np.ones((len(ids), D)))], [lazy.embeddings])
    assert made(lazy) == 0


def test_a_table_of_zeros_or_of_a_function():
    table = Table((V, D), lazy=True)
    gradient = IndexedSlices(np.ones((1, D)), [7], (V, D))
    optimizers.SGD(1.0).apply([gradient], [table])
    assert (table[7] == -1).all() and not table[8].any()
    numbered = Table((V, D), lazy=lambda values_ud, rows_u: np.copyto(values_ud, rows_u[:, None]))
    assert numbered[[5, 9]].tolist() == [[5.0] * D, [9.0] * D]


def test_a_file_is_gone_on_with(tmp_path):
    path = tmp_path / "table.npy"
    at_once, lazy = pair(path=None)[0], Embedding(V, D, INITIALIZERS["uniform"](), lazy=True, path=path)
    assert np.array_equal(lazy([5, 9]), at_once([5, 9]))
    lazy.embeddings.flush()
    del lazy
    with pytest.raises(ValueError, match="`lazy` must be True"):
        Embedding(V, D, path=path).build()
    again = Embedding(V, D, INITIALIZERS["uniform"](), lazy=True, path=path)
    assert made(again) == 2
    assert np.array_equal(again(np.arange(V)), at_once(np.arange(V)))
    reader = Embedding(V, D, INITIALIZERS["uniform"](), lazy=True, path=path, mmap_mode="r")
    assert np.array_equal(reader(np.arange(V)), at_once(np.arange(V)))


def test_a_reader_makes_rows_for_itself_alone(tmp_path):
    """Which were not made when it opened the file."""
    arguments = {"embeddings_initializer": INITIALIZERS["uniform"](), "lazy": True, "path": tmp_path / "table.npy"}
    writer = Embedding(V, D, **arguments)
    writer([5])
    for mode in ("r", "c"):
        reader = Embedding(V, D, **arguments, mmap_mode=mode)
        assert np.array_equal(reader(np.arange(V)), pair()[0](np.arange(V)))
        assert made(writer) == 1


def test_a_copy_is_whole():
    import copy
    import pickle

    at_once, lazy = pair()
    lazy([3])
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert np.array_equal(other(np.arange(V)), at_once(np.arange(V)))
        assert other.embeddings.lazy is None


def test_saved_and_quantised(tmp_path):
    at_once, lazy = pair()
    lazy([3])
    lazy.save(tmp_path / "saved")
    assert made(lazy) == 1
    assert np.array_equal(fastembed.load(tmp_path / "saved")(np.arange(V)), at_once(np.arange(V)))
    lazy.quantize("int8")
    at_once.quantize("int8")
    assert np.array_equal(lazy(np.arange(V)), at_once(np.arange(V)))


def test_memory(run_python):
    """256 GB, of which 20,000 rows are used; each takes a page of the table, perhaps two of the state, and of bits."""
    code = """
import resource, numpy as np, fastembed
table = fastembed.Embedding(1_000_000_000, 64, fastembed.initializers.RandomNormal(seed=1), lazy=True)
optimizer = fastembed.optimizers.Adam()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids = np.random.default_rng(1).integers(0, 1_000_000_000, 20_000)
optimizer.apply([table.gradient(ids, table(ids))], [table.embeddings])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    assert int(run_python(code)) < 20_000 * 5 * 4 + 100_000  # kB
