"""Many Python threads at once, on one layer, one table, one initializer; on free-threaded Python they really run so.

Do not break: threads change places as often as Python lets them, so that what is not locked shows with a GIL too.
"""

import sys
import sysconfig
import threading

import numpy as np
import pytest
import reference as ref
from test_threads import together

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, initializers, optimizers

MANY = 8
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True)
def often():
    """Threads change places every ten microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def all_of(work):
    """What `work(me)` returns in each of MANY threads that run at once."""
    results = [None] * MANY

    def run(me):
        results[me] = work(me)

    together(*(lambda me=me: run(me) for me in range(MANY)))
    return results


@pytest.mark.skipif(not FREE_THREADED, reason="this Python always has a GIL")
def test_importing_leaves_the_gil_off(run_python):
    program = """
        import sys
        import numpy as np
        import fastembed

        layer = fastembed.Embedding(10, 4, dtype="float64")  # the core of float64 is imported here
        assert layer([1, 2]).shape == (2, 4)
        print(sys._is_gil_enabled())
    """
    assert run_python(program) == "False\n"


# ---- what is made at first use -----------------------------------------------------------------------


def test_the_first_use_of_float64_may_be_in_many_threads(run_python):
    program = """
        import numpy as np
        import fastembed
        from test_threads import together

        tables, errors = [np.arange(40.0).reshape(10, 4) + me for me in range(8)], []

        def work(me):
            if not np.array_equal(fastembed.ops.gather(tables[me], np.array([3, 1])), tables[me][[3, 1]]):
                errors.append(me)

        together(*(lambda me=me: work(me) for me in range(8)))
        print(errors)
    """
    assert run_python(program) == "[]\n"


def test_initializers_without_a_seed_get_another_one_in_each_thread():
    fastembed.set_random_seed(5)
    tables = all_of(lambda me: [Embedding(3, 5)([0, 1, 2]).tobytes() for _ in range(20)])
    assert len({table for some in tables for table in some}) == 20 * MANY
    fastembed.set_random_seed(5)
    expected = {Embedding(3, 5)([0, 1, 2]).tobytes() for _ in range(20 * MANY)}
    assert {table for some in tables for table in some} == expected


def test_a_seed_generator_gives_other_values_to_each_thread():
    envelope = {"module": "keras.random", "class_name": "SeedGenerator", "config": {"seed": 3}, "registered_name": None}
    one = initializers.RandomNormal(seed=envelope)
    made = all_of(lambda me: [one((3, 5)).tobytes() for _ in range(50)])
    other = initializers.RandomNormal(seed=envelope)
    expected = {other((3, 5)).tobytes() for _ in range(50 * MANY)}
    assert {array for some in made for array in some} == expected
    assert len(expected) == 50 * MANY


def test_layers_of_many_threads_have_names_of_their_own():
    names = all_of(lambda me: [Embedding(2, 2).name for _ in range(100)])
    assert len({name for some in names for name in some}) == 100 * MANY


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_lazy_table_are_made_once_whoever_asks_first(dtype, rng):
    seeded = initializers.RandomNormal(seed=1)
    whole, lazy = Embedding(5000, 9, seeded, dtype=dtype), Embedding(5000, 9, seeded, dtype=dtype, lazy=True)
    batches = [ref.random_ids(rng, 300, 5000) for _ in range(20)]
    expected = [whole(ids) for ids in batches]

    def work(me):
        for number in np.random.default_rng(me).permutation(len(batches)):
            assert np.array_equal(lazy(batches[number]), expected[number])

    all_of(work)
    assert lazy.embeddings.numpy().tobytes() == whole.embeddings.numpy().tobytes()


def test_a_lazy_table_trains_in_many_threads():
    """Each has rows of its own, so the order of the steps shows nowhere."""
    v, d = 4000, 5
    layer = Embedding(v, d, initializers.Constant(1.0), lazy=True)
    all_rows = np.random.default_rng(0).permutation(v).reshape(MANY, -1)

    def work(me):
        optimizer = optimizers.SGD(1.0)
        for rows in all_rows[me].reshape(20, -1):
            optimizer.apply([IndexedSlices(np.full((len(rows), d), float(me)), rows, (v, d))], [layer.embeddings])
            assert (layer(rows) == 1 - me).all()

    all_of(work)
    expected = np.empty(v)
    expected[all_rows] = 1 - np.arange(MANY)[:, None]
    assert np.array_equal(layer.embeddings.numpy(), np.repeat(expected[:, None], d, 1))


# ---- look-ups beside steps ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [optimizers.Adam, optimizers.SGD, optimizers.RowwiseAdagrad])
@pytest.mark.parametrize("untouched", ["skip", "catch_up", "dense"])
def test_look_ups_beside_training_change_no_step(untouched, make, rng):
    """One thread trains, the others look up, pool and read; the training ends as it would have alone, but for the last
    bits where rows catch up sooner."""
    v, d, rounds = 400, 8, 30
    batches = [(ref.random_ids(rng, 50, v), rng.standard_normal((50, d)).astype(np.float32)) for _ in range(rounds)]
    extra = {"weight_decay": 0.01} if untouched != "skip" else {}

    def train(layer, optimizer):
        for ids, values in batches:
            optimizer.apply([IndexedSlices(values, ids, (v, d))], [layer.embeddings])

    def new():
        return Embedding(v, d, initializers.RandomNormal(seed=2)), make(0.01, untouched=untouched, **extra)

    alone, beside = new(), new()
    train(*alone)
    done = threading.Event()

    def look_up():
        ids, bags = np.arange(0, v, 7), Ragged.from_row_lengths(np.arange(40), [10, 0, 25, 5])
        bag = EmbeddingBag(v, d, "max")
        bag.set_weights([np.zeros((v, d))])
        while not done.is_set():
            assert np.isfinite(beside[0](ids)).all()
            assert np.isfinite(fastembed.ops.pool(beside[0].embeddings.memory, bags.values, bags.row_splits)).all()
            assert np.isfinite(beside[0].embeddings[3:9]).all()
            assert not bag(bags).any()

    def work(me):
        if me:
            look_up()
            return
        try:
            train(*beside)
        finally:
            done.set()

    all_of(work)
    assert beside[1].iterations == rounds
    ours, expected = (layer.embeddings.numpy() for layer, _ in (beside, alone))
    if untouched == "catch_up":
        np.testing.assert_allclose(ours, expected, 1e-4, 1e-6)
    else:
        assert ours.tobytes() == expected.tobytes()


def test_the_debt_of_a_table_may_end_beside_look_ups():
    """Optimizers that catch up and others take turns on one table: its debt comes and goes under the look-ups."""
    layer = Embedding(50, 4, "zeros")
    table, ids = layer.embeddings, np.arange(50)
    gradient = IndexedSlices(np.ones((2, 4), np.float32), [3, 7], (50, 4))
    adam, sgd, done = optimizers.Adam(0.1, untouched="catch_up"), optimizers.SGD(0.1), threading.Event()

    def train():
        try:
            for _ in range(80):
                adam.apply([gradient], [table])
                sgd.apply([gradient], [table])
        finally:
            done.set()

    def look_up():
        while not done.is_set():
            seen = layer(ids)
            assert (seen[[3, 7]] <= 0).all()
            assert not np.delete(seen, [3, 7], 0).any()

    together(train, *[look_up] * (MANY - 1))
    assert table.debt is None


def test_a_lazy_table_in_a_file_may_become_whole_beside_look_ups(tmp_path):
    """`remap` ends that it is lazy."""
    seeded = initializers.RandomNormal(seed=1)
    layer = Embedding(600, 4, seeded, path=tmp_path / "table.npy", lazy=True)
    words = np.arange(600)
    rows = Embedding(600, 4, seeded)(words)
    done = threading.Event()

    def remap():
        try:
            layer.remap(words, words[::-1])
        finally:
            done.set()

    def look_up():
        generator = np.random.default_rng()
        while not done.is_set():
            ids = generator.integers(0, 600, 20)
            seen = layer(ids)
            assert ((seen == rows[ids]) | (seen == rows[599 - ids])).all()

    together(remap, *[look_up] * (MANY - 1))
    assert np.array_equal(layer(words), rows[::-1])
