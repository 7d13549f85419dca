"""The word before memory runs out: what `estimate` says is what is made, and what cannot fit is refused in time."""

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, IndexedSlices, Table, dtypes, estimate, memory, optimizers
from fastembed.optimizers import kept as kept_module

V, D = 50, 12
OPTIMIZERS = sorted(set(optimizers.__all__) - {"LossScaleOptimizer", "Optimizer", "get", "schedules"})


def bytes_kept(optimizer, table):
    """Of all arrays that have something for each row."""
    gradient = IndexedSlices(np.ones((1, D)), [3], table.shape)
    optimizer.apply([gradient], [table])
    (kept,) = getattr(optimizer, "inner_optimizer", optimizer)._variables.values()
    assert isinstance(kept, kept_module.Kept)
    return sum(array.nbytes for name, array in kept.memory().items() if not name.startswith("own."))


@pytest.mark.parametrize("storage", dtypes.PLAIN)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_estimate_is_what_is_made(name, storage):
    cls = getattr(optimizers, name)
    cases = [{"untouched": mode} for mode in cls.modes] + [{"use_ema": True}, {"weight_decay": 0.01}]
    cases += [{"untouched": "catch_up", "weight_decay": 0.01}] if "catch_up" in cls.modes else []
    cases += [{"state_dtype": "bfloat16"}] if storage != "float64" else []
    for arguments in cases:
        table, optimizer = Table((V, D), storage), cls(**arguments)
        found = estimate(V, D, storage, cls(**arguments))
        assert (found.table, found.state) == (table.nbytes, bytes_kept(optimizer, table)), arguments
        assert found.total == found.table + found.state
        assert found.fits


@pytest.mark.parametrize("storage", dtypes.QUANTISED)
def test_tables_for_look_ups(storage):
    layer = Embedding(V, 13)
    layer.quantize(storage)
    found = estimate(V, 13, storage)
    assert (found.table, found.state) == (layer.embeddings.nbytes, 0)
    with pytest.raises(TypeError, match="one that trains"):
        estimate(V, 13, storage, "adam")


def test_what_an_optimizer_may_be():
    adam = estimate(V, D, optimizer=optimizers.Adam())
    for same in ("adam", optimizers.LossScaleOptimizer(optimizers.Adam()), {"class_name": "Adam", "config": {}}):
        assert estimate(V, D, optimizer=same).state == adam.state == 2 * 4 * V * D
    with pytest.raises(ValueError, match="`input_dim`"):
        estimate(0, 3)
    with pytest.raises(TypeError, match="`dtype`"):
        estimate(3, 3, "int3")


def test_for_people(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 24 * 10**9)
    text = str(estimate(1_000_000_000, 64, optimizer="adagrad"))
    assert "256 GB   1,000,000,000 x 64 float32" in text
    assert "512 GB   does not fit" in text
    assert "lazy=True" in text
    assert "does not" not in str(estimate(1000, 64))
    assert [memory.readable(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.5 MB",
        "2 TB",
    ]


def test_what_cannot_fit_is_refused_before_a_page_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    with pytest.raises(MemoryError, match=r"a table of 10,000,000 x 64 float32 takes 2.56 GB, and 1 GB of memory are"):
        Embedding(10_000_000, 64)(3)
    layer = Embedding(3_000_000, 64, "zeros")
    assert not layer(3).any()
    gradient = layer.gradient([3], np.ones((1, 64)))
    with pytest.raises(MemoryError, match="what an optimizer keeps of 3,000,000 rows"):
        optimizers.Adam().apply([gradient], [layer.embeddings])
    assert not layer(3).any()
    optimizers.RowwiseAdagrad().apply([gradient], [layer.embeddings])
    for arguments in ({"lazy": True}, {"lazy": True, "path": tmp_path / "table.npy"}):
        assert not Embedding(10_000_000, 64, "zeros", **arguments)(3).any()


def test_limits_of_the_system(monkeypatch):
    """Whatever /proc and control groups say, or do not."""
    assert 0 < memory.available() < 2**50
    monkeypatch.setattr(memory, "_of_system", lambda: 5)
    assert memory.available() <= 5
    fastembed.memory.check_fits(memory._SMALL - 1, "little")
