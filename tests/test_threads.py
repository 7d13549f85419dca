"""The same bits for any number of threads, and Python threads that share a layer.

Do not break: the arrays are so large that seven threads really get work (see `threads_for`), and some rows so frequent
that all threads sum them together.
"""

import os
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import reference as ref
import threadpoolctl
from peers import need
from test_modes import every_mode, made

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, initializers, ops, optimizers
from fastembed import threads as _threads

NUMBERS = [1, 2, 7]
V, N, B, D = 3000, 120_000, 12_000, 17
COMBINERS = ["sum", "mean", "sqrtn", "max"]
HYPER = {"learning_rate": 0.1, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3, "weight_decay": 0.01}
HYPER |= {"scale_m": 1.1, "scale_g": 0.9, "scale_v": 1.2, "l1": 0.1, "l2": 0.2, "l2_shrinkage": 0.3, "power": 0.5}
HYPER["columns"] = np.linspace(0.5, 2, D, dtype=np.float32)
LINUX = sys.platform == "linux"


@pytest.fixture
def same_bits(threads):
    """Runs work() with each number of threads and compares all bytes of the arrays it returns."""

    def check(work):
        expected = None
        for number in NUMBERS:
            threads(number)
            assert fastembed.get_num_threads() == number
            results = [np.asarray(array).tobytes() for array in work()]
            expected = results if expected is None else expected
            assert [a == b for a, b in zip(results, expected, strict=True)] == [True] * len(results), number

    return check


@pytest.fixture
def zipf(rng):
    """Ids of which two rows have many thousands and most a few."""
    ids = ref.random_ids(rng, N, V)
    ids[rng.random(N) < 0.3] = 7
    ids[rng.random(N) < 0.15] = V - 1
    assert min(np.bincount(ids)[[7, V - 1]]) > 3 * 4096
    return ids


@pytest.fixture
def splits(rng):
    """Bags of about ten ids, empty ones, and one of 30,000."""
    splits = ref.random_splits(rng, N, B)
    splits[(splits > 40_000) & (splits < 70_000)] = 70_000
    return splits


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("d", [3, 17, 64])
def test_gather(d, dtype, rng, zipf, same_bits):
    table, ids = ref.random_table(rng, V, d), zipf.astype(dtype)
    same_bits(lambda: [ops.gather(table, ids)])
    assert np.array_equal(ops.gather(table, ids), table[ids])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_pool_and_gradients(combiner, weighted, rng, zipf, splits, same_bits):
    table, upstream = ref.random_table(rng, V, D), rng.standard_normal((B, D)).astype(np.float32)
    weights = rng.uniform(0.5, 2, N).astype(np.float32) if weighted else None

    def work():
        for ids, padding_idx in ((zipf, None), (zipf.astype(np.int32), 7)):
            yield ops.pool(table, ids, splits, weights, combiner, padding_idx=padding_idx)
            arg = ops.argmax(table, ids, splits, weights, padding_idx) if combiner == "max" else None
            parts = ops.parts(ids, upstream, splits, weights, combiner, padding_idx, arg)
            yield from [arg] if combiner == "max" else []
            yield from ops.reduce(parts, ops.group(parts, V))
            if weighted:
                yield ops.weights_gradient(table, ids, splits, weights, combiner, upstream, padding_idx)

    same_bits(work)


@pytest.mark.parametrize("step", ops.STATES)
def test_update(step, rng, zipf, splits, same_bits):
    """Three steps: of a look-up, of bags with weights, and of a dense gradient; and the sums that they leave."""
    start, width = ref.random_table(rng, V, D), ops.state_width(step, D)
    upstream, bags = (rng.standard_normal((n, D)).astype(np.float32) for n in (N, B))
    weights, dense = rng.uniform(0.5, 2, N), np.repeat(ref.random_table(rng, V, D), 10, axis=0)

    def work():
        table, state = start.copy(), np.zeros((V, width), np.float32) if width else None
        sums = []
        for parts in (ops.parts(zipf, upstream), ops.parts(zipf, bags, splits, weights, "mean")):
            sums += ops.run([ops.Update(table, parts, step, HYPER, state, ops.group(parts, V))])
        many, states = np.repeat(table, 10, axis=0), None if state is None else np.repeat(state, 10, axis=0)
        sums += ops.run([ops.Update(many, dense, step, HYPER, states)])
        return [table, many, sums] + [array for array in (state, states) if array is not None]

    same_bits(work)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.SGD(0.1, momentum=0.9),
        lambda: optimizers.Adagrad(0.1),
        lambda: optimizers.RowwiseAdagrad(0.1),
        lambda: optimizers.Adam(0.1),
    ],
    ids=["SGD", "Adagrad", "RowwiseAdagrad", "Adam"],
)
def test_training(make, rng, zipf, same_bits):
    """Layers from the initializer to the trained table."""
    upstream = rng.standard_normal((N // 10, D)).astype(np.float32)

    def work():
        layer = EmbeddingBag(200_000, D, "mean", initializers.RandomUniform(seed=3))
        optimizer = make()
        for shift in range(2):
            ids = zipf.reshape(-1, 10) * (shift + 1)
            out = layer(ids)
            optimizer.apply_gradients([(layer.gradient(ids, out + upstream), layer.embeddings)])
        return [out, layer.embeddings.numpy(), *optimizer.variables]

    same_bits(work)


@pytest.mark.skipif(not ops.openmp, reason="built without OpenMP")
@pytest.mark.parametrize(("policy", "expected"), [("passive", [1, 2]), ("active", [2, 2])])
def test_small_work_wakes_no_thread(policy, expected, run_python):
    """Where idle threads sleep, a second one has to have more to do."""
    program = """
        import fastembed
        fastembed.set_num_threads(2)
        print([fastembed.threads.threads_for(size) for size in (1 << 18, 1 << 19)])
    """
    assert run_python(program, OMP_WAIT_POLICY=policy) == f"{expected}\n"


@every_mode
def test_optimizers(case, mode, rng, same_bits):
    """Three steps of a table, look-ups and a plain array; the norm is clipped, all rows are read at the end."""
    v, d = 8000, 9
    start, bias = ref.random_table(rng, v, d), ref.random_table(rng, v, d)
    batches = [(ref.random_ids(rng, 9000, v), rng.standard_normal((9000, d)).astype(np.float32)) for _ in range(3)]

    def work():
        table, array = fastembed.Table((v, d)), bias.copy()
        table.assign(start)
        table.freeze([0, 5, v - 1])
        table.unfreeze([0])
        optimizer = made(case, untouched=mode, clipnorm=1.0, weight_decay=0.1)
        for ids, values in batches:
            optimizer.apply([IndexedSlices(values, ids, (v, d)), values[:v]], [table, array])
            looked = table[ids[::7]]
        optimizer.catch_up()
        return [looked, table.numpy(), array, *optimizer.variables]

    same_bits(work)


def test_coalesce(rng, zipf, same_bits):
    slices = IndexedSlices(rng.standard_normal((N, D)).astype(np.float32), zipf, (V, D))

    def work():
        unique = slices.coalesce()
        return [unique.indices, unique.values, slices.to_dense(), (slices + slices * 0.5).coalesce().values]

    same_bits(work)


@pytest.mark.parametrize("d", [1, 17, 64])
def test_initializers(d, same_bits):
    """20 MB, of which a thread takes 2 at a time."""
    seeded = ["RandomUniform", "RandomNormal", "TruncatedNormal", "GlorotNormal", "HeUniform", "Orthogonal"]
    made = [getattr(initializers, name)(seed=1) for name in seeded] + [initializers.Constant(2.0)]
    made += [initializers.Identity(), initializers.Constant(np.arange(d))]
    same_bits(lambda: [initializer((5_000_000 // d, d)) for initializer in made])


DIGEST = """
    import hashlib
    import numpy as np
    import reference as ref
    import fastembed
    from fastembed import ops

    fastembed.set_num_threads(7)
    rng = np.random.default_rng(1)
    ids, table = ref.random_ids(rng, 120_000, 3000), ref.random_table(rng, 3000, 17)
    parts = ops.parts(ids, rng.standard_normal((120_000, 17)))
    rows, values = ops.reduce(parts, ops.group(parts, 3000))
    pooled = ops.pool(table, ids, ref.random_splits(rng, 120_000, 5000), combiner="mean")
    arrays = [ops.gather(table, ids), pooled, rows, values]
    print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


def test_fewer_threads_than_asked_for(run_python):
    """OpenMP may give a team of any size."""
    expected = run_python(DIGEST)
    assert len(expected) == 65
    assert run_python(DIGEST, OMP_THREAD_LIMIT="1") == expected
    assert run_python(DIGEST, OMP_THREAD_LIMIT="3") == expected
    assert run_python(DIGEST, OMP_DYNAMIC="true") == expected


# ---- how many ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not LINUX or not ops.openmp, reason="threads are counted in /proc; OpenMP makes them")
def test_threads_are_used(run_python):
    """Only large work wakes threads, and no more than it is told to."""
    program = """
        import os
        import numpy as np
        import fastembed
        from fastembed import ops

        def threads():
            return len(os.listdir("/proc/self/task"))

        table, counts = np.ones((1000, 64), np.float32), []
        before = threads()
        for number, n in ((7, 10), (1, 100_000), (2, 100_000), (7, 100_000)):
            fastembed.set_num_threads(number)
            ids = np.arange(n) % 1000
            ops.gather(table, ids)
            ops.update(table, ops.parts(ids, np.ones((n, 64), np.float32)), "sgd", {})
            counts.append(threads() - before)
        print(counts)
    """
    assert run_python(program, OMP_NUM_THREADS="1") == "[0, 0, 1, 6]\n"


def test_set_and_get(threads):
    for number in (1, 3, 100):
        threads(number)
        assert fastembed.get_num_threads() == number
    threads(None)
    default = fastembed.get_num_threads()
    assert 1 <= default <= os.cpu_count()
    if LINUX:
        assert default <= len(os.sched_getaffinity(0))


GET = "import fastembed; print(fastembed.get_num_threads())"


def test_omp_num_threads(run_python):
    """It lowers the default and never raises it; set_num_threads is stronger."""
    default = int(run_python(GET, OMP_NUM_THREADS="", PYTEST_XDIST_WORKER_COUNT=None))
    for text, expected in (("1", 1), ("1,4", 1), (" 1 ", 1), ("1000", default), ("0", default), ("many", default)):
        assert int(run_python(GET, OMP_NUM_THREADS=text, PYTEST_XDIST_WORKER_COUNT=None)) == expected, text
    told = "import fastembed; fastembed.set_num_threads(5); print(fastembed.get_num_threads())"
    assert int(run_python(told, OMP_NUM_THREADS="1")) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_affinity(run_python):
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert int(run_python(pinned + GET, OMP_NUM_THREADS="")) == 1


QUOTAS = {  # files of a system, and the processors that they grant
    "none": ({}, None),
    "no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "a service": (
        {
            "proc/self/cgroup": "0::/system.slice/it.service\n",
            "sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/system.slice/it.service/cpu.max": "max 100000\n",
        },
        3,
    ),
    "less than one": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/a\n4:cpuacct,cpu:/a\n1:name=systemd:/a\n0::/a\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota(name, tmp_path):
    files, expected = QUOTAS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert _threads._quota(tmp_path) == expected


@pytest.mark.skipif(not ops.openmp, reason="built without OpenMP")
def test_threadpoolctl(threads):
    """It sees the runtime, and limits it, but in the Python thread that asks; results stay as they are."""
    controller = threadpoolctl.ThreadpoolController()
    assert [one["num_threads"] for one in controller.info() if one["user_api"] == "openmp"]
    layer, ids = EmbeddingBag(V, 64, "sum"), np.arange(60_000).reshape(-1, 10) % V
    expected = layer(ids)
    threads(None)
    default = fastembed.get_num_threads()
    for told in (None, 7):
        threads(told)
        with threadpoolctl.threadpool_limits(1):
            assert fastembed.get_num_threads() == (1 if default > 1 else told or 1)
            assert np.array_equal(layer(ids), expected)
        assert fastembed.get_num_threads() == (told or default)


@pytest.mark.skipif(not LINUX or not ops.openmp, reason="threads are counted in /proc; OpenMP makes them")
def test_a_limit_keeps_threads_from_starting(run_python):
    program = """
        import os
        import threadpoolctl
        import fastembed

        fastembed.set_num_threads(7)
        with threadpoolctl.threadpool_limits(1):
            fastembed.Embedding(100_000, 64)([1])
        assert len(os.listdir("/proc/self/task")) == (1 if fastembed.threads._default > 1 else 7)
    """
    run_python(program, OPENBLAS_NUM_THREADS="1")


# ---- programs that start many ------------------------------------------------------------------------


def test_pytest_xdist(run_python):
    """Its workers share the processors, unless OMP_NUM_THREADS leaves them fewer."""
    alone = int(run_python(GET, OMP_NUM_THREADS=None, PYTEST_XDIST_WORKER_COUNT=None))
    for workers, expected in (("2", max(1, alone // 2)), ("1000", 1), ("0", alone), ("many", alone)):
        assert int(run_python(GET, OMP_NUM_THREADS=None, PYTEST_XDIST_WORKER_COUNT=workers)) == expected
    assert int(run_python(GET, OMP_NUM_THREADS="1", PYTEST_XDIST_WORKER_COUNT="1")) == 1


DEFAULT = """
import fastembed

def default():
    return fastembed.get_num_threads()

class Defaults:
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return default()
"""


def test_joblib(tmp_path, run_python):
    """Its processes share the processors."""
    need("joblib")
    (tmp_path / "workers.py").write_text(DEFAULT)
    program = """
        import joblib
        import workers

        default = workers.default()
        for jobs in (2, default + 1):
            found = joblib.Parallel(n_jobs=jobs)(joblib.delayed(workers.default)() for _ in range(2 * jobs))
            assert set(found) == {max(1, min(default, joblib.cpu_count() // jobs))}, found
    """
    run_python(program, OMP_NUM_THREADS=None)


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_data_loader(how, tmp_path, run_python):
    """Each of its workers has one thread, unless it asks for more."""
    need("torch")
    (tmp_path / "workers.py").write_text(DEFAULT)
    program = """
        import sys
        import fastembed
        import torch
        import workers

        if __name__ == "__main__":
            loader = torch.utils.data.DataLoader(workers.Defaults(), num_workers=2, multiprocessing_context=sys.argv[1])
            assert torch.cat(list(loader)).tolist() == [1] * 4
            assert fastembed.get_num_threads() == fastembed.threads._default
    """
    run_python(program, how, timeout=120, PYTHONWARNINGS="ignore")


def test_beside_torch(run_python):
    """Calls of both in turn cost at most twice the calls apart, whichever was imported first. A plain copy of the
    OpenMP runtime, whose threads spin, costs a hundred times; a machine that has other work gets a second chance."""
    need("torch")
    program = """
        import importlib
        import statistics
        import sys
        import time

        for name in sys.argv[1:]:
            importlib.import_module(name)
        import fastembed
        import numpy as np
        import torch

        fastembed.set_num_threads(2)
        torch.set_num_threads(2)
        layer, ids = fastembed.EmbeddingBag(4096, 64), np.arange(4096).reshape(256, 16)
        x = torch.ones(1 << 18)

        def ours():
            layer(ids)

        def theirs():
            torch.add(x, x)

        def both():
            theirs()
            ours()

        def median(call):
            time.sleep(0.01)
            seconds = []
            for _ in range(20):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            return statistics.median(seconds[5:])

        ratios = []
        for _ in range(10):
            rounds = [[median(call) for call in (ours, theirs, both)] for _ in range(5)]
            ratios.append(statistics.median(c / (a + b) for a, b, c in rounds))
            if ratios[-1] <= 2:
                break
        print(ratios)
        assert ratios[-1] <= 2
    """
    for order in (("torch", "fastembed"), ("fastembed", "torch")):
        run_python(program, *order, timeout=120)


# ---- how the runtime waits ---------------------------------------------------------------------------

CORE = """
import os

def max_threads():
    print(os.environ.get("OMP_WAIT_POLICY"))
    return 1
"""
WAITING = """
    import os
    import sys

    sys.path.insert(0, sys.argv[1])
    before = dict(os.environ)
    import fastembed.threads
    assert dict(os.environ) == before
"""


@pytest.mark.parametrize("told", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "9"}, {"KMP_BLOCKTIME": "0"}])
@pytest.mark.parametrize("own", [None, "fastembed_cython.libs", "fastembed/.dylibs"])
def test_an_own_runtime_sleeps(own, told, tmp_path, run_python):
    """While `threads` loads the core of a wheel that has one, unless the environment says how to wait."""
    package = tmp_path / "fastembed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_core.py").write_text(CORE)
    shutil.copy(_threads.__file__, package)
    if own:
        (tmp_path / own).mkdir()
    none = dict.fromkeys(_threads._WAITS)
    printed = run_python(WAITING, tmp_path, **{**none, **told})
    assert printed.strip() == told.get("OMP_WAIT_POLICY", "passive" if own and not told else "None")


# ---- Python threads ----------------------------------------------------------------------------------


def together(*work):
    """Runs functions at once, each in a thread of its own; the first error is raised here."""
    errors, start = [], threading.Barrier(len(work))

    def run(function):
        try:
            start.wait(10)
            function()
        except BaseException as error:  # whatever it is, it belongs to the test
            errors.append(error)

    running = [threading.Thread(target=run, args=(function,), daemon=True) for function in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("shared", [True, False], ids=["one optimizer", "an optimizer each"])
@pytest.mark.parametrize("n", [40, 20_000])
def test_eight_python_threads_on_one_layer(n, shared, threads):
    """Integer gradients, so the sum is exact in any order, and whoever reads sees integers on their way to it."""
    v, d, rounds = 500, 16, 10
    threads(2)
    layer = Embedding(v, d, "zeros")  # not built: all threads make the table at once
    one = optimizers.SGD(1.0)
    made = [one if shared else optimizers.SGD(1.0) for _ in range(8)]
    sums = np.zeros((8, v, d))

    def work(me):
        rng = np.random.default_rng(me)
        for _ in range(rounds):
            ids, upstream = ref.random_ids(rng, n, v), rng.integers(1, 4, (n, d)).astype(np.float32)
            np.add.at(sums[me], ids, upstream)
            made[me].apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
            seen = layer(ids)
            assert (seen == np.round(seen)).all()
            assert (seen < 0).all()

    together(*(lambda me=me: work(me) for me in range(8)))
    assert sums.sum(0).max() < 2**24
    assert np.array_equal(layer.embeddings.numpy(), -sums.sum(0))
    assert made[0].iterations == (8 if shared else 1) * rounds


def test_python_threads_on_two_tables():
    """Optimizers that take the same tables in another order do not wait for each other forever."""
    a, b = Embedding(50, 4, "zeros"), Embedding(50, 4, "zeros")

    def work(layers):
        optimizer = optimizers.SGD(1.0)
        for _ in range(200):
            pairs = [(layer.gradient([1, 2, 1], np.ones((3, 4))), layer.embeddings) for layer in layers]
            optimizer.apply_gradients(pairs)

    together(*(lambda pair=pair: work(pair) for pair in [(a, b), (b, a)] * 4))
    for layer in (a, b):
        assert layer.embeddings.numpy()[:3, 0].tolist() == [0, -2 * 1600, -1600]


def test_updates_of_a_table_wait_for_each_other(tmp_path):
    """Whoever writes to a table, or saves it, holds its lock."""
    layer = Embedding(50, 4, "zeros")
    table, gradient = layer.embeddings, layer.gradient([1], np.ones((1, 4)))
    for write in (
        lambda: optimizers.SGD(1.0).apply_gradients([(gradient, table)]),
        lambda: table.assign(np.ones((50, 4))),
        lambda: layer.save(tmp_path / "layer"),
    ):
        done = threading.Event()
        thread = threading.Thread(target=lambda write=write, done=done: (write(), done.set()), daemon=True)
        with table.lock:
            thread.start()
            assert not done.wait(0.1)
        assert done.wait(10)


def test_python_threads_that_only_look_up(rng, threads):
    threads(2)
    layer = EmbeddingBag(V, D, "sum")
    table = layer.embeddings.numpy().copy()
    ids = rng.integers(0, V, (2000, 20))
    expected, upstream = layer(ids), rng.standard_normal((2000, D)).astype(np.float32)
    gradient = layer.gradient(ids, upstream).coalesce().values

    def work():
        for _ in range(20):
            assert np.array_equal(layer(ids), expected)
            assert np.array_equal(layer.gradient(ids, upstream).coalesce().values, gradient)

    together(*[work] * 8)
    assert np.array_equal(layer.embeddings.numpy(), table)


def test_look_ups_run_beside_each_other(threads):
    """While one thread is in a long look-up, another makes many short ones in the same layer."""
    threads(1)
    layer = EmbeddingBag(V, 64, "sum")
    ids, expected = np.arange(5_000_000).reshape(10, -1) % V, layer([[1, 2]])
    times, begun = [], threading.Event()

    def long():
        layer([[1]])
        begun.wait(10)
        times.append(time.perf_counter())
        layer(ids)
        times.append(time.perf_counter())

    def short():
        seen = []
        while len(times) < 2:
            assert np.array_equal(layer([[1, 2]]), expected)
            begun.set()
            seen.append(time.perf_counter())
        begin, end = times
        middle = [moment for moment in seen if begin + 0.2 * (end - begin) < moment < end - 0.2 * (end - begin)]
        assert len(middle) > 20

    together(long, short)
