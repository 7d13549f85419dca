"""Ctrl-C: long operations end soon, and what belongs together stays whole.

Do not break: it is a real signal that comes, and each test would see a step that is half done.
"""

import os
import signal
import threading

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, IndexedSlices, initializers, ops, optimizers
from fastembed.threads import Whole

V, D = 1000, 8


def press():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def heard():
    """As Python hears it by itself, but where whoever started it does not want that (a shell in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def pressed_at_each(monkeypatch):
    """Lets a function, of the core if no other module is named, press Ctrl-C at the end of each of its calls; returns
    the list of these calls."""

    def at(name, module=ops.cores.SINGLE.module):
        calls, driver = [], getattr(module, name)

        def then_press(*args):
            done = driver(*args)
            calls.append(args)
            press()
            return done

        monkeypatch.setattr(module, name, then_press)
        return calls

    return at


@pytest.fixture
def small_moments(monkeypatch):
    monkeypatch.setattr(ops.tables, "_MOMENT", 100 * D)


def test_making_a_table(pressed_at_each, small_moments):
    calls = pressed_at_each("fill")
    layer = Embedding(V, D, initializers.RandomUniform(seed=1))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            layer.build()
    assert len(calls) == 2  # of ten each
    assert not layer.built


def test_moments_are_one_table(small_moments, monkeypatch):
    made = [ops.zeros((V + 7, D)) for _ in range(2)]
    ops.fill(made[0], "normal", 0.0, 1.0, seed=3, first_row=5)
    numbers = np.random.default_rng(1).permutation(V + 7)
    few = ops.zeros((V + 7, D))
    ops.fill(few, "normal", 0.0, 1.0, seed=3, numbers=numbers + 5)
    monkeypatch.undo()
    ops.fill(made[1], "normal", 0.0, 1.0, seed=3, first_row=5)
    assert np.array_equal(*made)
    assert np.array_equal(few, made[1][numbers])


def test_reading_a_table_of_codes(pressed_at_each, small_moments):
    layer = Embedding(V, D, dtype="float16")
    half = layer.embeddings.numpy().astype(np.float32)
    assert np.array_equal(ops.decode(layer.embeddings.rows), half)  # in ten moments
    calls = pressed_at_each("decode")
    with pytest.raises(KeyboardInterrupt):
        ops.decode(layer.embeddings.rows)
    assert len(calls) == 1


@pytest.mark.parametrize("untouched", ["skip", "dense", "catch_up"])
def test_a_step_is_whole(pressed_at_each, untouched, monkeypatch):
    """It is taken, counted, and then Ctrl-C is heard."""
    tables = [fastembed.Table((V, D)) for _ in range(2)]
    twins = [fastembed.Table((V, D)) for _ in range(2)]
    gradient = IndexedSlices(np.ones((3, D), np.float32), [1, 5, 1], (V, D))
    adam, twin = (optimizers.Adam(0.1, untouched=untouched, clipnorm=1.0) for _ in range(2))
    for _ in range(3):
        twin.apply([gradient] * 2, twins)
    calls = pressed_at_each("run", ops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            adam.apply([gradient] * 2, tables)
    assert len(calls) > 3  # norms, too
    monkeypatch.undo()
    assert adam.iterations == 3
    for table, other in zip(tables, twins, strict=True):
        assert np.array_equal(table.numpy(), other.numpy())
        for name, state in adam.state(table).items():
            assert np.array_equal(state, twin.state(other)[name])


def test_at_any_moment():
    """A training that is interrupted again and again; each step that was begun is done and counted."""
    table, sgd = fastembed.Table((V, D)), optimizers.SGD(1.0)
    gradient = IndexedSlices(np.ones((V, D), np.float32), np.arange(V), (V, D))
    heard, stop = 0, threading.Event()

    def often():
        while not stop.wait(0.003):
            press()

    presses = threading.Thread(target=often)
    try:
        presses.start()
        while heard < 50:
            try:
                while True:
                    sgd.apply([gradient], [table])
            except KeyboardInterrupt:
                heard += 1
                assert (table.numpy() == -sgd.iterations).all()
    finally:
        for _ in range(100):  # one more may come while we wait
            try:
                stop.set()
                presses.join()
                break
            except KeyboardInterrupt:
                continue
    assert sgd.iterations > 0


def test_saving_and_loading(tmp_path, pressed_at_each):
    """The save that was there stays; no layer is half loaded."""
    layer = Embedding(V, D, dtype="bfloat16")
    layer.save(tmp_path / "layer")
    before = layer.embeddings.numpy().copy()
    layer.embeddings.assign(np.ones((V, D)))
    timer = threading.Timer(0.0, press)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        for _ in range(10_000):
            layer.save(tmp_path / "layer")
    found = fastembed.load(tmp_path / "layer").embeddings.numpy()
    assert np.array_equal(found, before) or np.array_equal(found, layer.embeddings.numpy())


def test_resizing(tmp_path):
    """A table that grows and shrinks under Ctrl-C fits its optimizer's state after each."""
    layer, adam = Embedding(V, D, "ones"), optimizers.Adam()
    gradient = layer.gradient([1, 2], np.ones((2, D)))
    adam.apply([gradient], [layer.embeddings])
    sizes = set()
    for turn in range(40):
        timer = threading.Timer(0.001 * (turn % 5), press)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            for k in range(100_000):
                layer.resize(V + k % 7)
        sizes.add(rows := layer.embeddings.shape[0])
        assert layer.input_dim == rows
        assert [state.shape for state in adam.state(layer.embeddings).values()] == [(rows, D)] * 2
        assert (layer.embeddings.numpy()[3:] == 1).all()
    assert len(sizes) > 1


def test_whole():
    """Inside another, in another thread, after an error, and with a handler that is not Python's."""
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(len(heard)))
    try:
        with Whole():
            with Whole():
                press()
                press()
            assert heard == []
        assert heard == [0]  # once
        with pytest.raises(ZeroDivisionError), Whole():
            press()
            raise ZeroDivisionError
        assert heard == [0, 1]
        other = threading.Thread(target=lambda: Whole().__enter__())
        other.start()
        other.join()
        press()
        assert heard == [0, 1, 2]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Whole():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            press()
    finally:
        signal.signal(signal.SIGINT, before)
