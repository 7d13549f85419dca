"""A forked child looks up and updates, on one thread and on many, after the parent has used its threads.

Do not break: a child that hangs is killed after 30 seconds and fails the test. Each case has a process of its own.
"""

import os

import pytest
from peers import need

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROGRAM = """
    import multiprocessing
    import os
    import signal
    import sys
    import time
    import traceback

    import numpy as np

    how, with_torch = sys.argv[1:]
    if with_torch == "first":
        import torch
    import fastembed
    from fastembed import Embedding, EmbeddingBag, initializers, optimizers
    if with_torch == "last":
        import torch

    V, D, N = 20_000, 64, 50_000
    LIMIT = 30
    IDS = np.random.default_rng(1).integers(0, V // 2, N)
    IDS[::3] = 7
    COUNTS = np.bincount(IDS, minlength=V)[:, None]
    fastembed.set_num_threads(4)


    def work(layer, times):
        '''Large enough for threads everywhere; every expected number is exact.'''
        optimizer = optimizers.SGD(1.0)
        gradient = layer.gradient(IDS, np.ones((N, D), np.float32))
        optimizer.apply_gradients([(gradient, layer.embeddings)])
        assert (layer.embeddings.numpy() == -times * COUNTS).all()
        assert (layer(IDS) == -times * COUNTS[IDS]).all()
        assert (gradient.coalesce().values == COUNTS[COUNTS[:, 0] > 0]).all()

        made = EmbeddingBag(V, D, "sum", initializers.RandomUniform(seed=3))
        pooled, table = made(IDS.reshape(-1, 10)), made.embeddings.numpy()
        expected = table[IDS].reshape(-1, 10, D).sum(1)
        assert np.abs(pooled - expected).max() < 1e-5
        for optimizer in (optimizers.Adam(), optimizers.RowwiseAdagrad()):
            before = table.copy()
            optimizer.apply_gradients([(made.gradient(IDS.reshape(-1, 10), pooled), made.embeddings)])
            moved = (table != before).any(axis=1)
            assert (moved == (COUNTS[:, 0] > 0)).all()
        optimizer.apply_gradients([(np.ones((V, D)), made.embeddings)])


    def threads():
        return len(os.listdir("/proc/self/task"))


    def use_torch():
        torch.set_num_threads(4)
        weight = torch.ones(1000, 64, requires_grad=True)
        torch.nn.functional.embedding_bag(torch.zeros(5000, 20, dtype=torch.int64), weight).sum().backward()
        (torch.ones(500, 500) @ torch.ones(500, 500)).sum().item()


    def child(layer):
        assert fastembed.get_num_threads() == 1
        work(layer, 2)
        assert threads() == 1
        fastembed.set_num_threads(4)
        work(layer, 3)
        assert threads() == (4 if fastembed.ops.openmp else 1)
        fastembed.set_num_threads(None)
        assert fastembed.get_num_threads() == 1


    def fork(function, *arguments):
        '''The exit code of the function in a child; -9 if it took too long.'''
        if how == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
            process.start()
            process.join(LIMIT)
            if process.is_alive():
                process.kill()
                process.join()
            return process.exitcode
        pid = os.fork()
        if pid == 0:
            try:
                function(*arguments)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        end = time.monotonic() + LIMIT
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


    layer = Embedding(V, D, "zeros")
    if with_torch != "never":
        use_torch()
    work(layer, 1)
    for _ in range(2):
        code = fork(child, layer)
        assert code == 0, f"the child's exit code is {code}"
    assert fastembed.get_num_threads() == 4
    work(layer, 2)  # the parent's table and threads are as they were
    if with_torch != "never":
        use_torch()
    print("good")
"""


def run(run_python, how, with_torch):
    # Python 3.12 warns of any fork in a process with threads.
    printed = run_python(PROGRAM, how, with_torch, timeout=150, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert printed == "good\n"


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_fork(how, run_python):
    run(run_python, how, "never")


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
@pytest.mark.parametrize("imported", ["first", "last"])
def test_fork_with_torch(imported, how, run_python):
    need("torch")
    run(run_python, how, imported)


def test_pool_of_workers(run_python):
    """What a data loader does: workers made by fork that look up in the parent's table."""
    program = """
        import multiprocessing
        import numpy as np
        from fastembed import EmbeddingBag

        layer = EmbeddingBag(1000, 64, "sum", "ones")
        IDS = np.zeros((5000, 20), int)

        def look_up(k):
            return float(layer(IDS[:k]).sum())

        assert look_up(5000) == 5000 * 20 * 64
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map_async(look_up, [1, 5000, 2, 4000]).get(30))
    """
    printed = run_python(program, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert printed == "[1280.0, 6400000.0, 2560.0, 5120000.0]\n"


def test_fork_while_a_thread_trains(run_python):
    """Locks that a thread held at the moment of the fork are free in the child."""
    run_python(
        """
        import os, signal, threading, time
        import numpy as np
        from fastembed import Embedding, optimizers

        layer, optimizer, stop = Embedding(20_000, 64, "zeros"), optimizers.SGD(1.0), threading.Event()
        ids = np.arange(100_000) % 20_000
        gradient = layer.gradient(ids, np.ones((100_000, 64), np.float32))

        def train():
            while not stop.is_set():
                optimizer.apply_gradients([(gradient, layer.embeddings)])

        thread = threading.Thread(target=train)
        thread.start()
        for _ in range(5):
            time.sleep(0.05)
            pid = os.fork()
            if pid == 0:
                for chosen in (optimizer, optimizers.SGD(1.0)):
                    chosen.apply_gradients([(gradient, layer.embeddings)])
                os._exit(0)
            end = time.monotonic() + 15
            while not os.waitpid(pid, os.WNOHANG)[0]:
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    os._exit(1)
                time.sleep(0.01)
        stop.set()
        thread.join()
        """,
        PYTHONWARNINGS="ignore",
    )
