"""Checkpoints of lazy tables: rows that were never used are on no disk, and have their bits all the same."""

import os
import shutil
import threading

import numpy as np
import pytest
from test_lazy import OPTIMIZERS, D, V, made

import fastembed
from fastembed import Checkpoint, Embedding, initializers, optimizers

pytestmark = pytest.mark.usefixtures("quick")


def make(name="Adam", seed=5, lazy=True, path=None, **arguments):
    arguments = {**OPTIMIZERS[name], **arguments}
    paths = (None, None) if path is None else (path / "table.npy", path / "state")
    layer = Embedding(V, D, initializers.RandomUniform(seed=seed), lazy=lazy, path=paths[0])
    return layer, getattr(optimizers, name)(**arguments, path=paths[1])


def train(layer, optimizer, *steps):
    for number in steps:
        rng = np.random.default_rng(number)
        ids = rng.integers(number * 20, number * 20 + 40, (2, 4)) % V
        optimizer.apply([layer.gradient(ids, layer(ids) + 1)], [layer.embeddings])


def same(one, other):
    assert np.array_equal(one[0](np.arange(V)), other[0](np.arange(V)))
    states = [optimizer.state(layer.embeddings) for layer, optimizer in (one, other)]
    assert states[0].keys() == states[1].keys()
    for part in states[0]:
        assert np.array_equal(states[0][part], states[1][part]), part


@pytest.mark.parametrize("in_files", [False, True], ids=["memory", "files"])
@pytest.mark.parametrize("untouched", optimizers.arguments.MODES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on(name, untouched, in_files, tmp_path):
    """From a base, a delta, another, and all of them folded; into a new layer, and into one that has trained on."""
    if untouched not in getattr(optimizers, name).modes:
        pytest.skip(f"{name} has no {untouched}")
    path = tmp_path if in_files else None
    trained, path_of = make(name, untouched=untouched, path=path), str(tmp_path / "checkpoint")
    checkpoint = Checkpoint(*trained)
    for step in range(3):
        train(*trained, step)
        checkpoint.save(path_of, delta=step > 0, keep=9)
    folded = str(tmp_path / "folded")
    shutil.copytree(path_of, folded)
    Checkpoint.compact(folded)
    fastembed.verify(path_of)
    fastembed.verify(folded)
    if untouched == "skip":
        assert made(trained[0]) <= 100
    for place, number in ((path_of, 1), (path_of, 2), (path_of, 3), (folded, None)):
        steps = range(3 if number is None else number)
        expected = make(name, untouched=untouched)
        train(*expected, *steps)
        again = make(name, untouched=untouched)
        train(*again, 7, 8)  # other rows than those of the save
        for other in (again, trained):
            Checkpoint(*other).restore(place, number)
            if untouched == "skip":
                assert made(other[0]) == made(expected[0])
        train(*expected, 9)
        train(*again, 9)
        same(expected, again)
    train(*trained, 9)
    same(expected, trained)


def test_the_disk_has_what_is_made(tmp_path):
    layer, optimizer = make()
    train(layer, optimizer, 0)
    Checkpoint(layer, optimizer).save(tmp_path / "checkpoint")
    saved = np.load(tmp_path / "checkpoint" / "00000001" / "0.weights.npy")
    rows = np.load(tmp_path / "checkpoint" / "00000001" / "0.rows.npy")
    assert len(rows) == made(layer) < 20
    assert np.array_equal(saved, layer(rows))


def test_a_lazy_one_is_for_a_lazy_one_with_the_same_initializer(tmp_path):
    trained = make()
    train(*trained, 0)
    Checkpoint(*trained).save(tmp_path / "lazy")
    at_once = make(lazy=False)
    train(*at_once, 0)
    Checkpoint(*at_once).save(tmp_path / "whole")
    for other, place, match in (
        (at_once, "lazy", "must be lazy, as it was"),
        (trained, "whole", "must not be lazy"),
        (make(seed=6), "lazy", "must have the initializer, and its seed"),
    ):
        with pytest.raises(ValueError, match=match):
            Checkpoint(*other).restore(tmp_path / place)
    same(trained, at_once)


def test_saved_beside_a_training(tmp_path):
    """What is made and changed meanwhile is not in the save."""
    trained, expected, again = make(), make(), make()
    train(*trained, 0, 1)
    train(*expected, 0, 1)
    checkpoint = Checkpoint(*trained)
    go_on = threading.Event()
    writing = fastembed.checkpoint.files.Writing.write

    def slow(self, number):
        go_on.wait(10)
        return writing(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastembed.checkpoint.files.Writing, "write", slow)
        background = checkpoint.save(tmp_path / "checkpoint", wait=False)
        train(*trained, 1, 2, 5)
        go_on.set()
        background.wait()
    Checkpoint(*again).restore(tmp_path / "checkpoint")
    assert made(again[0]) == made(expected[0])
    same(expected, again)
    checkpoint.save(tmp_path / "checkpoint", delta=True)
    Checkpoint(*again).restore(tmp_path / "checkpoint")
    same(trained, again)


@pytest.mark.parametrize("lazy", [False, True], ids=["at once", "lazy"])
def test_after_a_change_of_rows_a_delta_is_whole(lazy, tmp_path):
    """And the next one is not."""
    layer, optimizer = make(lazy=lazy)
    checkpoint = Checkpoint(layer, optimizer)
    train(layer, optimizer, 0)
    checkpoint.save(tmp_path / "checkpoint")
    layer.resize(V + 10)
    train(layer, optimizer, 1)
    checkpoint.save(tmp_path / "checkpoint", delta=True)
    train(layer, optimizer, 2)
    checkpoint.save(tmp_path / "checkpoint", delta=True)
    assert Checkpoint.saves(tmp_path / "checkpoint") == [2, 3]  # the delta and what it follows
    assert sorted(os.listdir(tmp_path / "checkpoint")) == ["00000002", "00000003", "checkpoint.json"]
    again = Embedding(V + 10, D, initializers.RandomUniform(seed=5), lazy=lazy), optimizers.Adam()
    Checkpoint(*again).restore(tmp_path / "checkpoint")
    same((layer, optimizer), again)
