"""Tables that get another number of rows, or another vocabulary: rows and optimizers go on as if it had always been so.

Do not break: what is resized is compared, bit by bit, with what had that size from the start; and whatever fails, or
dies, in the middle leaves a whole table.
"""

import copy
import errno
import functools
import gc
import mmap
import os
import pickle
import threading

import numpy as np
import pytest
from test_modes import MODES, made

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, dtypes, initializers, memory, optimizers

V, GROWN, D = 43, 61, 6
SUMMED = ("adafactor", "adafactor, clipped", "lamb of Keras")  # their steps depend on sums over all rows


def uniform():
    return initializers.RandomUniform(seed=5)


def layer_of(num_rows, cls=Embedding, **arguments):
    return cls(num_rows, D, **{"embeddings_initializer": uniform(), **arguments})


def step(layer, optimizer, ids, seed=1):
    """A step whose gradient of an id does not depend on where its row is."""
    ids = np.asarray(ids)
    upstream = np.random.default_rng(seed).standard_normal((*ids.shape, D)).astype(np.float32)
    optimizer.apply([layer.gradient(ids, upstream)], [layer.embeddings])


def octets(table, rows=slice(None)):
    return table.current(None).octets_vb[rows]


def same(layer, other, rows=slice(None), equal=np.array_equal):
    assert equal(layer.embeddings.to_real(), other.embeddings.to_real()[rows])


def same_states(optimizers_, layers, rows=slice(None), equal=np.array_equal):
    one, other = (optimizer.state(layer.embeddings) for optimizer, layer in zip(optimizers_, layers, strict=True))
    for name, array in one.items():
        if name != "c":
            assert equal(array, other[name][rows]), name


# ---- every optimizer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("case", "mode"), MODES)
def test_training_goes_on_as_in_a_table_of_that_size(case, mode, lazy, rng):
    """What was done before is as if the later rows had been there, for optimizers that leave untouched rows alone; for
    all others nothing was done before."""
    both = [made(case, untouched=mode) for _ in range(2)]
    if lazy and both[0].reads_all_rows:
        pytest.skip("needs all rows")
    layers = [layer_of(V, lazy=lazy), layer_of(GROWN, lazy=lazy)]
    for optimizer, layer in zip(both, layers, strict=True):
        optimizer.build([layer.embeddings])
    alone = both[0].idle and not both[0].weight_decay and case not in SUMMED
    plan = [(V, 4 if alone else 0), (GROWN, 3), (50, 3 if case not in SUMMED else 0), (50, 0)]
    for num_rows, steps in plan:
        layers[0].resize(num_rows)
        for _ in range(steps):
            ids = rng.integers(0, num_rows - 3, (3, 3))
            for optimizer, layer in zip(both, layers, strict=True):
                step(layer, optimizer, ids)
                layer(ids[:1])
    same(*layers, slice(50))
    same_states(both, layers, slice(50))


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_training_goes_on_with_other_numbers(case, mode, rng):
    """Sums over all rows run in another order then."""
    both = [made(case, untouched=mode) for _ in range(2)]
    layers = [layer_of(V), layer_of(V)]
    words = rng.permutation(V)
    place = np.argsort(words)
    for number in range(6):
        ids = rng.integers(0, V, (3, 3))
        step(layers[0], both[0], ids if number < 3 else place[ids])
        step(layers[1], both[1], ids)
        if number == 2:
            layers[0].remap(np.arange(V), words)
    equal = np.array_equal if case not in SUMMED else lambda a, b: np.allclose(a, b, 1e-5, 1e-7)
    same(*layers, words, equal)
    same_states(both, layers, words, equal)


@pytest.mark.parametrize(
    ("storage", "state"),
    [("float64", "float32"), ("bfloat16", "bfloat16"), ("float16", "int8"), ("float32", "int8")],
)
@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_states_of_other_dtypes(storage, state, mode, rng):
    """Rounded stochastically, too: that goes by the number of the row."""
    both = [optimizers.SGD(0.1, momentum=0.9, state_dtype=state, untouched=mode) for _ in range(2)]
    layers = [layer_of(V, dtype=storage), layer_of(GROWN, dtype=storage)]
    for num_rows in (V, GROWN, 50):
        layers[0].resize(num_rows)
        for _ in range(3):
            ids = rng.integers(0, num_rows, (3, 3))
            for optimizer, layer in zip(both, layers, strict=True):
                step(layer, optimizer, ids)
    same(*layers, slice(50))
    same_states(both, layers, slice(50))


def test_sums_over_rows_are_those_of_the_rows_there_are(rng):
    layer, adafactor = layer_of(V), optimizers.Adafactor(0.1)
    for number in range(3):
        step(layer, adafactor, rng.integers(0, V, (3, 3)), number)

    def estimate():
        r = adafactor.state(layer.embeddings)["r"]
        return r[:30, None] * adafactor.state(layer.embeddings)["c"] / r.mean()

    before = estimate()
    for num_rows in (GROWN, 31):
        layer.resize(num_rows)
        own = layer.embeddings.kept()[0][1].own
        assert own["size"] == num_rows * D
        assert np.isclose(own["w_squares"], np.square(layer.embeddings.to_float32(), dtype=float).sum())
        assert np.allclose(estimate(), before, 1e-5)


def test_averages_begin_with_the_row(rng):
    both, layers = [optimizers.Adam(use_ema=True) for _ in range(2)], [layer_of(V), layer_of(GROWN)]
    for num_rows in (V, GROWN):
        layers[0].resize(num_rows)
        for _ in range(3):
            ids = rng.integers(0, num_rows, (3, 3))
            for optimizer, layer in zip(both, layers, strict=True):
                step(layer, optimizer, ids)
    same_states(both, layers)
    layers[0].remap(np.arange(GROWN), np.arange(GROWN + 3)[::-1])
    average = both[0].average(layers[0].embeddings)
    assert np.array_equal(average[3:], both[1].average(layers[1].embeddings)[::-1])
    assert np.array_equal(average[:3], layers[0].embeddings.numpy()[:3])


@pytest.mark.parametrize("dense", [False, True])
def test_gradients_that_wait(dense):
    layer, other = layer_of(V), layer_of(GROWN)
    both = [optimizers.Adagrad(0.1, gradient_accumulation_steps=2) for _ in range(2)]
    for which, optimizer in zip((layer, other), both, strict=True):
        gradient = which.gradient([3, 40, 3], np.ones((3, D)))
        optimizer.apply([gradient.to_dense() if dense else gradient], [which.embeddings])
    layer.resize(GROWN)
    for which, optimizer in zip((layer, other), both, strict=True):
        step(which, optimizer, [3, 60])
    same(layer, other)
    for which, optimizer, row in ((layer, both[0], 2), (other, both[1], 3)):
        gradient = which.gradient([3, 40], np.ones((2, D)))
        optimizer.apply([gradient.to_dense() if dense else gradient], [which.embeddings])
        if which is layer:
            layer.remap(range(GROWN), [*range(1, 40), 100])
        step(which, optimizer, [row])
    assert np.array_equal(layer(np.arange(39)), other(np.arange(1, 40)))
    assert np.array_equal(layer(39), layer_of(40)(39))


def test_rows_with_rates_of_their_own():
    layer, optimizer = layer_of(V), optimizers.SGD(1.0)
    layer.embeddings.scale_learning_rate([3, 5], [0, 0.5])
    layer.resize(GROWN)
    assert layer.embeddings.row_scales.tolist() == [1, 1, 1, 0, 1, 0.5, *[1] * (GROWN - 6)]
    layer.remap(range(GROWN), [70, 5, 3, 71])
    assert layer.embeddings.row_scales.tolist() == [1, 0.5, 0, 1]
    before = layer(2)
    step(layer, optimizer, [2, 3])
    assert np.array_equal(layer(2), before)
    layer.resize(2)
    assert layer.embeddings.row_scales.tolist() == [1, 0.5]


def test_all_optimizers_of_a_table_go_on():
    layer, copied = layer_of(V), layer_of(GROWN)
    first = optimizers.Adam(untouched="catch_up"), optimizers.LossScaleOptimizer(optimizers.Adagrad(0.1))
    second = optimizers.Adam(untouched="catch_up"), optimizers.LossScaleOptimizer(optimizers.Adagrad(0.1))
    for number in range(4):
        for mine, others in zip(first, second, strict=True):
            step(layer, mine, [3, 5 * number])
            step(copied, others, [3, 5 * number])
        if number == 1:
            layer.resize(GROWN)
    assert len(layer.embeddings.optimizers) == 2
    same(layer, copied)
    for mine, others in zip(first, second, strict=True):
        same_states((mine, others), (layer, copied))


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", dtypes.STORAGE)
@pytest.mark.parametrize("cls", [Embedding, EmbeddingBag])
def test_every_storage_dtype(storage, cls):
    quantised = storage in dtypes.QUANTISED
    layers = [layer_of(n, cls, dtype="float32" if quantised else storage, padding_idx=3) for n in (V, GROWN)]
    for layer in layers:
        layer.quantize(storage) if quantised else layer.build()
    table, whole = layers[0].embeddings, layers[1].embeddings
    for num_rows in (GROWN, 17, GROWN):
        layers[0].resize(num_rows)
        assert layers[0].embeddings is table and table.shape == (num_rows, D) == (layers[0].input_dim, D)
        assert np.array_equal(octets(table), octets(whole, slice(num_rows)))
    words = [5, 60, 2, 3, 99, 0]
    layers[0].remap(range(GROWN), words)
    assert np.array_equal(octets(table)[[0, 1, 2, 3, 5]], octets(whole)[[5, 60, 2, 3, 0]])
    assert np.array_equal(octets(table)[4], octets(whole)[4])
    assert layers[0].get_config()["input_dim"] == 6


def test_constraints_hold_for_new_rows():
    for constraint in ({"class_name": "UnitNorm", "config": {"axis": 1}}, "non_neg"):
        for storage in ("float32", "float16"):
            layer, whole = (layer_of(n, embeddings_constraint=constraint, dtype=storage) for n in (V, GROWN))
            layer.build()
            layer.resize(GROWN)
            assert np.array_equal(octets(layer.embeddings), octets(whole.embeddings))
    with pytest.warns(UserWarning, match="rescales the whole table"):
        layer = layer_of(V, embeddings_constraint=fastembed.constraints.MaxNorm(0.1, axis=[0, 1]))
    layer.build()
    layer.resize(GROWN)
    assert np.linalg.norm(layer.embeddings.numpy()) < 0.1001


@pytest.mark.parametrize("kind", ["generator", "constant", "row", "identity", "normal", None])
def test_initializers_go_on(kind):
    config = {"class_name": "SeedGenerator", "config": {"seed": 3}}
    make = {
        "generator": lambda: initializers.get({"class_name": "RandomUniform", "config": {"seed": config}}),
        "constant": lambda: initializers.Constant(0.3),
        "row": lambda: initializers.Constant(np.arange(D) / 7),
        "identity": initializers.Identity,
        "normal": lambda: initializers.TruncatedNormal(seed=1),
        None: lambda: initializers.GlorotUniform(seed=1),
    }[kind]
    layer, short, whole = (layer_of(n, embeddings_initializer=make()) for n in (V, V, GROWN))
    layer.build()
    layer.resize(GROWN)
    assert np.array_equal(layer(np.arange(V)), short(np.arange(V)))
    assert np.array_equal(layer(np.arange(V, GROWN)), whole(np.arange(V, GROWN)))
    if kind is not None:
        assert np.array_equal(layer(np.arange(GROWN)), whole(np.arange(GROWN)))


@pytest.mark.parametrize("initializer", ["orthogonal", lambda shape, dtype=None: np.ones(shape), np.ones((V, D))])
def test_initializers_of_whole_tables_make_no_rows(initializer):
    layer = layer_of(V, embeddings_initializer=initializer)
    before = layer(np.arange(V))
    for change in (lambda: layer.resize(GROWN), lambda: layer.remap(range(V), range(-1, V))):
        with pytest.raises(ValueError, match=r"single rows|`shape` must be"):
            change()
    layer.resize(20)
    layer.remap(range(20), range(20)[::-1])
    assert np.array_equal(layer(np.arange(20)), before[:20][::-1])


def test_lora(rng):
    layers = [layer_of(n, padding_idx=0) for n in (V, GROWN)]
    for layer in layers:
        layer.build()
        layer.enable_lora(2, a_initializer=uniform(), b_initializer=initializers.RandomNormal(seed=1))
    both = [optimizers.Adam() for _ in range(2)]
    for num_rows in (V, GROWN):
        layers[0].resize(num_rows)
        ids, upstream = rng.integers(0, num_rows, 9), rng.standard_normal((9, D))
        for layer, optimizer in zip(layers, both, strict=True):
            optimizer.apply(layer.lora_gradients(ids, upstream), layer.trainable_weights)
    assert np.array_equal(layers[0](np.arange(GROWN)), layers[1](np.arange(GROWN)))
    layers[0].remap(range(GROWN), [0, 9, 7])
    assert layers[0].lora_embeddings_a.shape == (3, 2)
    for layer in layers:
        layer.merge_lora()
    assert np.array_equal(layers[0]([0, 1, 2]), layers[1]([0, 9, 7]))


def test_a_plain_table():
    table = Table((V, D))
    table.assign(np.ones((V, D)))
    table.resize(GROWN)
    assert table[V - 1 : V + 1].tolist() == [[1.0] * D, [0.0] * D]
    table.resize(70, lambda values_ud, rows_u: np.copyto(values_ud, rows_u[:, None]))
    assert table[[60, 61, 69]].tolist() == [[0.0] * D, [61.0] * D, [69.0] * D]
    table.resize(5)
    table.resize(7)
    assert table[4:6].tolist() == [[1.0] * D, [0.0] * D]
    gradient = IndexedSlices(np.ones((1, D)), [6], (7, D))
    optimizers.SGD(1.0).apply([gradient], [table])
    assert (table[6] == -1).all()


# ---- lazy tables -----------------------------------------------------------------------------------------------------


def unmade(layer):
    return layer.embeddings.lazy.missing(slice(None)).tolist()


def test_rows_that_are_not_made_stay_so():
    layer, whole = layer_of(V, lazy=True, padding_idx=3), layer_of(GROWN, padding_idx=3)
    layer([5, 40])
    layer.resize(GROWN)
    assert unmade(layer) == [row for row in range(GROWN) if row not in (5, 40)]
    layer.resize(41)
    layer.resize(GROWN)
    layer([50])
    assert unmade(layer) == [row for row in range(GROWN) if row not in (5, 40, 50)]
    words = [0, 1, 50, 3, 4, 99, 5]
    layer.remap(np.arange(GROWN), np.array(words))
    assert unmade(layer) == [0, 1, 3, 4, 5]
    assert np.array_equal(layer(np.arange(7)), whole([0, 1, 50, 3, 4, 5, 5]))


@pytest.mark.parametrize("in_file", [False, True])
def test_states_that_are_not_made(tmp_path, in_file):
    """With rows of state that begin with a number."""
    paths = (None, tmp_path / "state") if in_file else (None, None)
    both = [optimizers.Adagrad(0.1, initial_accumulator_value=0.5, path=path) for path in paths]
    layers = [layer_of(GROWN), layer_of(V, lazy=True, path=tmp_path / "t.npy" if in_file else None)]
    for layer, optimizer in zip(layers, both, strict=True):
        step(layer, optimizer, [5, 40])
    layers[1].resize(GROWN)
    for layer, optimizer in zip(layers, both, strict=True):
        step(layer, optimizer, [5, 60])
    assert len(layers[1].embeddings.kept()[0][1].lazy.missing(slice(None))) == GROWN - 3
    for words in (np.arange(GROWN)[::-1], np.arange(50)):
        for layer in layers:
            layer.remap(np.arange(layer.input_dim), words)
    for layer, optimizer in zip(layers, both, strict=True):
        step(layer, optimizer, [5, 45])
    same(*layers)
    same_states(both, layers)


def test_a_lazy_table_larger_than_memory():
    layer, optimizer = layer_of(10**10, lazy=True), optimizers.Adam()
    step(layer, optimizer, [3, 10**10 - 1])
    layer.resize(2 * 10**10)
    step(layer, optimizer, [3, 2 * 10**10 - 1])
    again = layer_of(10**10, lazy=True)
    assert np.array_equal(layer([5, 10**10 - 2]), again([5, 10**10 - 2]))


def test_lazy_tables_have_a_fill():
    table = layer_of(V, lazy=True).embeddings
    with pytest.raises(ValueError, match="`fill` must be None for a lazy table"):
        table.resize(GROWN, lambda values_ud, rows_u: None)


def test_lazy_and_scaled():
    layer = layer_of(V, embeddings_initializer="glorot_uniform", lazy=True)
    with pytest.raises(ValueError, match="must not scale values"):
        layer.resize(GROWN)
    before = layer(np.arange(V))
    layer.remap(range(V), range(V)[::-1])
    assert np.array_equal(layer(np.arange(V)), before[::-1])


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", dtypes.PLAIN)
@pytest.mark.parametrize("lazy", [False, True])
def test_files(tmp_path, storage, lazy, rng):
    path = tmp_path / "table.npy"
    arguments = {"dtype": storage, "lazy": lazy, "path": path}
    layer, whole = layer_of(V, **arguments), layer_of(GROWN, dtype=storage)
    adam = functools.partial(optimizers.Adam, 0.1, untouched="catch_up", rounding="nearest")
    both = [adam(path=tmp_path / "state"), adam()]
    for num_rows in (V, GROWN, 50):
        layer.resize(num_rows)
        for _ in range(2):
            ids = rng.integers(0, num_rows, (3, 3))
            for optimizer, which in zip(both, (layer, whole), strict=True):
                step(which, optimizer, ids)
    inode = os.stat(path).st_ino
    same(layer, whole, slice(50))
    same_states(both, (layer, whole), slice(50))
    both[0].flush()
    layer.embeddings.flush()
    assert np.load(path).shape == (50, D)
    assert os.path.getsize(path) == os.path.getsize(np.save(tmp_path / "x.npy", np.load(path)) or tmp_path / "x.npy")
    with pytest.raises(BlockingIOError):
        Embedding(50, D, path=path).build()
    del layer, which, optimizer
    both[0] = None
    layer = layer_of(50, **arguments)
    both[0] = adam(path=tmp_path / "state")
    words = np.array([4, 0, 49, 70])
    step(layer, both[0], [4, 9])
    step(whole, both[1], [4, 9])
    assert os.stat(path).st_ino == inode
    layer.remap(np.arange(50), words)
    step(layer, both[0], [0, 2])
    step(whole, both[1], [4, 49])
    assert np.array_equal(octets(layer.embeddings)[:3], octets(whole.embeddings)[words[:3]])
    assert np.array_equal(octets(layer.embeddings)[3], octets(layer_of(4, dtype=storage).embeddings)[3])
    both[0].flush()
    del layer
    both[0] = None
    assert layer_of(4, **arguments)(np.arange(4)).shape == (4, D)
    assert adam(path=tmp_path / "state").iterations == 8
    assert not [name for name in os.listdir(tmp_path) + os.listdir(tmp_path / "state") if name.endswith(".new")]


@pytest.mark.parametrize("storage", dtypes.STORAGE)
def test_a_table_in_a_file(tmp_path, storage):
    table, path = Table((V, D), storage, tmp_path / "table.npy"), tmp_path / "table.npy"
    values = np.random.default_rng(1).standard_normal((V, D)).astype(np.float32)
    table.assign(values)
    before = octets(table).copy()
    table.resize(GROWN, lambda values_ud, rows_u: np.copyto(values_ud, 1))
    del table
    table = Table((GROWN, D), storage, path)
    assert np.array_equal(octets(table, slice(V)), before) and (table[V:] == 1).all()
    table.resize(5)
    del table
    assert np.array_equal(octets(Table((5, D), storage, path)), before[:5])


def test_a_file_that_is_open_for_reading(tmp_path):
    path = tmp_path / "table.npy"
    layer_of(V, path=path).build()
    for mode in ("r", "c"):
        layer = layer_of(V, path=path, mmap_mode=mode)
        with pytest.raises(ValueError, match="`mmap_mode` must be 'r\\+'"):
            layer.resize(GROWN)
        assert layer(V - 1).shape == (D,) and layer.input_dim == V


def test_a_file_whose_header_has_no_room(tmp_path):
    """As those of old versions of NumPy."""
    path, values = tmp_path / "table.npy", np.arange(9 * D, dtype=np.float32).reshape(9, D)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9, 6), }"
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values.tobytes())
    table = Table((9, D), path=path)
    table.resize(10)
    table.flush()
    assert np.array_equal(np.load(path), np.concatenate([values, np.zeros((1, D))]))


def test_old_views_of_a_file(tmp_path):
    """Its end stays, as long as somebody sees it."""
    table = Table((5000, D), path=tmp_path / "table.npy")
    table.numpy()[:] = 1
    view, size = table.numpy(), os.path.getsize(table.path)
    table.resize(10)
    assert (view == 1).all() and os.path.getsize(table.path) == size
    del view
    table.resize(4000)
    assert (table[9] == 1).all() and not table[10:].any()
    table.resize(10)
    assert os.path.getsize(table.path) < 2000


CHANGES = {
    "grow": lambda layer: layer.resize(GROWN),
    "shrink": lambda layer: layer.resize(20),
    "remap": lambda layer: layer.remap(range(V), [*range(V + 5)][::-1]),
}
CALLS = [(os, "fsync"), (os, "truncate"), (os, "replace"), (os, "posix_fallocate"), (os, "remove")]


def at_call(number, action):
    """Lets `action` happen instead of call `number` of those that change files; returns how to end that."""
    gc.collect()  # of files that nobody has any more, the locks are removed now
    calls, before = [0], [getattr(module, name) for module, name in CALLS]

    def instead(function):
        def call(*arguments):
            calls[0] += 1
            if calls[0] == number:
                action()
            return function(*arguments)

        return call

    for (module, name), function in zip(CALLS, before, strict=True):
        setattr(module, name, instead(function))

    def end():
        for (module, name), function in zip(CALLS, before, strict=True):
            setattr(module, name, function)
        return calls[0]

    return end


def start(directory, lazy):
    layer = layer_of(V, path=directory / "table.npy", lazy=lazy)
    optimizer = optimizers.Adagrad(0.1, path=directory / "state")
    step(layer, optimizer, [3, 40])
    optimizer.flush()
    layer.embeddings.flush()
    return layer, optimizer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_process_that_dies_leaves_a_whole_table(tmp_path, change, lazy):
    wanted, died = layer_of(V), 1
    step(wanted, optimizers.Adagrad(0.1), [3, 40])
    before = wanted(np.arange(V))
    CHANGES[change](wanted)
    after = wanted(np.arange(wanted.input_dim))
    for number in range(1, 40):
        directory = tmp_path / str(number)
        directory.mkdir()
        pid = os.fork()
        if pid == 0:
            try:
                layer, _optimizer = start(directory, lazy)
                at_call(number, lambda: os._exit(1))
                CHANGES[change](layer)
                os._exit(0)
            except BaseException:
                os._exit(2)
        died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert died in (0, 1)
        num_rows = len(np.load(directory / "table.npy", mmap_mode="r"))
        layer = layer_of(num_rows, path=directory / "table.npy", lazy=lazy)
        there = layer(np.arange(num_rows))
        if (directory / "state" / "optimizer.json").exists():  # the state goes on where it was
            assert np.array_equal(there, before)
        assert np.array_equal(there, before) or np.array_equal(there, after)
        if not died:
            assert np.array_equal(there, after)
            break
        layer.resize(GROWN + 1)
        assert np.array_equal(layer(np.arange(num_rows)), there)
        assert np.array_equal(layer.embeddings[num_rows:], layer_of(GROWN + 1).embeddings[num_rows:])
    assert not died and number > 5


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system takes no space")
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_changes_nothing(tmp_path, change, lazy):
    other, whole = optimizers.Adagrad(0.1), layer_of(V)
    step(whole, other, [3, 40])
    failed = 0
    for number in range(1, 40):
        directory = tmp_path / str(number)
        directory.mkdir()
        layer, optimizer = start(directory, lazy)

        def full():
            raise OSError(errno.ENOSPC, "no space is left")

        end = at_call(number, full)
        try:
            CHANGES[change](layer)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
        finally:
            end()
        failed += 1
        assert layer.input_dim == V
        same(layer, whole)
        same_states((optimizer, other), (layer, whole))
        step(layer, optimizer, [5])
        optimizer.flush()
        layer.resize(GROWN)
        assert layer(GROWN - 1).shape == (D,)
    assert failed > 2


def test_a_state_that_was_changed_half_way_is_refused(tmp_path):
    _, optimizer = start(tmp_path, False)
    os.remove(tmp_path / "state" / "optimizer.json")
    del optimizer, _
    with pytest.raises(ValueError, match="a training that ended with `flush`"):
        start(tmp_path, False)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_large_table_grows_in_place(run_python):
    code = """
    import resource, numpy as np, fastembed
    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    layer = fastembed.Embedding(1_000_000, 64, fastembed.initializers.RandomUniform(seed=1))
    optimizer = fastembed.optimizers.SGD(0.1, momentum=0.5)
    optimizer.apply([layer.gradient([3], np.ones((1, 64)))], [layer.embeddings])
    ids = np.arange(0, 1_000_000, 999)
    before, start = layer(ids), most()
    layer.resize(1_100_000)
    print(most() - start, np.array_equal(layer(ids), before), optimizer.state(layer.embeddings)["momentum"].shape)
    view, old = layer.embeddings.numpy(), layer(ids)
    layer.resize(1_110_000)
    print(np.array_equal(view[ids], old), np.array_equal(layer(ids), old), np.may_share_memory(view, layer.embeddings))
    layer.resize(1000)
    print(layer(999).shape)
    """
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system may copy")
    first, second, third = run_python(code).splitlines()
    assert float(first.split()[0]) < 100  # MB, of two times 256; 51 are new
    assert first.split(maxsplit=1)[1] == "True (1100000, 64)"
    assert (second, third) == ("True True False", "(64,)")


def test_pages_that_somebody_wraps():
    """Who has the end of an array's pages does not get its beginning."""
    whole = fastembed.ops.zeros((1 << 20, 16))
    whole[:] = np.arange(1 << 20)[:, None]
    table = Table.wrap(whole[1 << 19 :])
    del whole
    table.resize((1 << 19) + 3)
    assert table[0][0] == 1 << 19 and not table[1 << 19].any()
    table.resize(5)
    assert table[4][0] == (1 << 19) + 4


def test_rows_that_come_again_are_new():
    table = Table((1 << 20, 16))
    table.numpy()[:] = 1
    table.resize(1001)
    table.resize(1 << 20)
    assert (table[1000] == 1).all() and not table[1001:].any()
    table.numpy()[:] = 1
    view = table.numpy()
    table.resize(1001)
    del view
    table.resize(1 << 20)
    assert (table[1000] == 1).all() and not table[1001:].any()


def pages_of(array):
    """Bytes of the pages of an array."""
    while not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else array.base
    return len(array)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_too_little_memory_changes_nothing(monkeypatch, failing):
    """Whatever does not fit: the table, or what an optimizer keeps."""
    num_rows, calls = 1 << 17, []
    layer, whole = (Embedding(num_rows, 64, uniform()) for _ in range(2))
    optimizer, other = optimizers.Adam(use_ema=True), optimizers.Adam(use_ema=True)
    step_of = lambda layer, optimizer: optimizer.apply(  # noqa: E731
        [layer.gradient([3, 5], np.ones((2, 64)))], [layer.embeddings]
    )
    step_of(layer, optimizer)
    step_of(whole, other)
    table, size = layer.embeddings, pages_of(layer.embeddings.memory)

    def refuse(num_bytes, what):
        calls.append(what)
        if len(calls) == failing:
            raise MemoryError(what)

    monkeypatch.setattr(fastembed.ops.pages, "check_fits", refuse)
    with pytest.raises(MemoryError):
        layer.resize(2 * num_rows)
    monkeypatch.undo()
    assert layer.input_dim == num_rows and layer.embeddings is table
    assert pages_of(table.memory) == size  # what was taken is given back
    step_of(layer, optimizer)
    step_of(whole, other)
    same(layer, whole)
    same_states((optimizer, other), (layer, whole))


def test_more_than_there_is():
    layer = layer_of(V)
    before = layer(np.arange(V))
    with pytest.raises(MemoryError):
        layer.resize(1 << 50)
    assert layer.input_dim == V and np.array_equal(layer(np.arange(V)), before)
    assert memory.available() < D << 52


# ---- what is refused, copies, threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [0, -1, True, 2.0, "5", None, 2**63])
def test_numbers_that_are_refused(num_rows):
    layer = layer_of(V)
    for resize in (layer.resize, layer.embeddings.resize):
        with pytest.raises(ValueError, match="must be a positive integer"):
            resize(num_rows)
    assert layer.embeddings.shape == (V, D)


def test_the_padding_row():
    layer = layer_of(V, padding_idx=7)
    for num_rows in (7, 1):
        with pytest.raises(ValueError, match="must be above `padding_idx`, 7"):
            layer.resize(num_rows)
    for words in ([*range(V)][::-1], range(7), [*range(7), 99, 7]):
        with pytest.raises(ValueError, match="must have 7 at `padding_idx`, 7"):
            layer.remap(range(V), words)
    layer.resize(8)
    layer.remap([*"abcdefg", "<pad>"], [*"baxyzwv", "<pad>", "u"])
    assert not layer(7).any() and layer(8).any()


@pytest.mark.parametrize("made_of", [list, np.array, lambda words: [f"w{word}" for word in words], iter])
def test_vocabularies(made_of):
    layer, whole = layer_of(5), layer_of(9)
    before = layer(np.arange(5))
    layer.remap(made_of([4, 9, 2, 7, 5]), made_of([5, 1, 4, 8, 2, 3]))
    assert np.array_equal(layer(np.arange(6))[[0, 2, 4]], before[[4, 0, 2]])
    assert np.array_equal(layer([1, 3, 5]), whole([1, 3, 5]))
    layer.remap(made_of([1, 2, 3, 4, 5, 6]), made_of([1, 2, 3, 4, 5, 6, 7]))
    assert np.array_equal(layer(6), whole(6))


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        ("abc", ["a"], TypeError, "`old_vocabulary` must be a sequence of words. Received: str"),
        (["a", "b", "c"], {"a": 0}, TypeError, "`new_vocabulary` must be a sequence of words. Received: dict"),
        (["a", "b"], ["a"], ValueError, "a word for each of 3 rows. Received: 2 words"),
        (["a", "b", "a"], ["a"], ValueError, "`old_vocabulary` must have each word once. Received: 'a' at 0 and 2"),
        (["a", "b", "c"], ["a", "x", "x"], ValueError, "`new_vocabulary` .* once. Received: 'x' at 1 and 2"),
        (np.array([1, 5, 5]), np.array([1]), ValueError, "`old_vocabulary` .* once. Received: 5 at 1 and 2"),
        (np.array([1, 2, 3]), np.array([7, 1, 7]), ValueError, "`new_vocabulary` .* once. Received: 7 at 0 and 2"),
        (["a", "b", "c"], [["a"]], TypeError, "`new_vocabulary` must have words that are hashable"),
        (["a", "b", "c"], [], ValueError, "`new_vocabulary` must have words. Received: none"),
        (np.ones((3, 1), int), [1], ValueError, "`old_vocabulary` must have one dimension"),
        (5, [1], TypeError, "`old_vocabulary` must be a sequence of words. Received: int"),
    ],
)
def test_vocabularies_that_are_refused(old, new, error, match):
    layer = layer_of(3)
    before = layer([0, 1, 2])
    with pytest.raises(error, match=match):
        layer.remap(old, new)
    assert np.array_equal(layer([0, 1, 2]), before)


def test_copies_go_their_own_ways():
    layer, optimizer = layer_of(V), optimizers.Adam(untouched="catch_up")
    step(layer, optimizer, [3, 5])
    layer.resize(50)
    step(layer, optimizer, [3, 49])
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, its_own = copied((layer, optimizer))
        other.resize(GROWN)
        assert layer.input_dim == 50 and len(layer.embeddings) == 50
        step(other, its_own, [3, 60])
        assert its_own.state(other.embeddings)["momentum"].shape == (GROWN, D)


def test_saved_and_restored(tmp_path):
    layer, optimizer = layer_of(V), optimizers.Adam(untouched="catch_up")
    step(layer, optimizer, [3, 5])
    layer.resize(GROWN)
    step(layer, optimizer, [3, 60])
    fastembed.Checkpoint(layer, optimizer).save(tmp_path / "training")
    again, other = layer_of(GROWN), optimizers.Adam(untouched="catch_up")
    fastembed.Checkpoint(again, other).restore(tmp_path / "training")
    with pytest.raises(ValueError, match="shape"):
        fastembed.Checkpoint(layer_of(V), optimizers.Adam(untouched="catch_up")).restore(tmp_path / "training")
    for which, its_own in ((layer, optimizer), (again, other)):
        which.resize(50)
        step(which, its_own, [3, 49])
    same(layer, again)
    same_states((optimizer, other), (layer, again))
    layer.save(tmp_path / "saved")
    loaded = fastembed.load(tmp_path / "saved")
    loaded.resize(GROWN)
    assert np.array_equal(loaded(np.arange(50)), layer(np.arange(50)))
    assert np.array_equal(loaded(np.arange(50, GROWN)), layer_of(GROWN)(np.arange(50, GROWN)))
    served = fastembed.load(tmp_path / "saved", mmap_mode="r")
    with pytest.raises(ValueError, match="`mmap_mode` must be 'r\\+'"):
        served.resize(GROWN)


def test_an_optimizer_that_is_gone():
    layer = layer_of(V)
    step(layer, optimizers.Adam(), [3])
    layer.resize(GROWN)
    assert not layer.embeddings.kept()


def test_who_watches_hears_of_it_once():
    """Row numbers mean nothing to it afterwards."""
    heard, table = [], Table((V, D))

    class Watcher:
        def before(self, rows_u):
            heard.append(rows_u)

    table.watchers.append(Watcher())
    table.resize(V)
    assert not heard
    table.resize(GROWN)
    assert heard == [None] and not table.watchers


def test_bags():
    bag, whole = layer_of(V, EmbeddingBag, combiner="max"), layer_of(GROWN, EmbeddingBag, combiner="max")
    bag.build()
    bag.resize(GROWN)
    ids = Ragged.from_lists([[3, 60], [], [50, 9, 3]])
    assert np.array_equal(bag(ids), whole(ids))


def test_threads():
    """Look-ups and steps of other threads come before or after."""
    layer, optimizer, errors = Embedding(1 << 17, 64, uniform()), optimizers.Adam(untouched="catch_up"), []
    ids = np.arange(0, 1 << 17, 64)
    wanted, stop = layer(ids), threading.Event()

    def look():
        try:
            while not stop.is_set():
                assert np.array_equal(layer(ids), wanted)
                assert layer.embeddings.shape[1] == 64
        except BaseException as error:
            errors.append(error)

    def train():
        try:
            while not stop.is_set():
                gradient = IndexedSlices(np.ones((1, 64)), [5], layer.embeddings.shape)
                try:
                    optimizer.apply([gradient], [layer.embeddings])
                except ValueError as error:
                    assert "variable's shape" in str(error)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (look, look, train)]
    for thread in threads:
        thread.start()
    for number in range(20):
        layer.resize((1 << 17) + 100 * (number % 3))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
