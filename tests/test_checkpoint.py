"""Checkpoints: training that goes on from one gives the bits of training that never stopped.

Do not break: `whole` compares every byte that the library keeps, what users cannot see too. Each failure is made to
happen (a full disk, a kill in the middle), not described.
"""

import errno
import json
import os
import shutil
import threading
import time
import zlib

import numpy as np
import pytest
from trainings import (
    HEAD,
    D,
    Model,
    V,
    addresses,
    arrays_of,
    changed,
    initial,
    last_save,
    npy,
    rewrite,
    seen,
    sign,
    whole,
    write,
)

import fastembed
from fastembed import Checkpoint, Embedding, IndexedSlices, Table, constraints, optimizers, schedules

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def path(tmp_path):
    """Where to save: a folder of its own, so that leftovers are seen."""
    return tmp_path / "saves" / "training"


def goes_on(make, path, before=6, after=6, prepare=None):
    """The same bits without a save, after a save, and from the checkpoint, in objects old and new."""
    first, later = range(before), range(before, before + after)
    never, saved = make(), make()
    for model in (never, saved):
        if prepare is not None:
            prepare(model)
        model.train(*first)
    kept = whole(saved)
    saved.checkpoint.save(path)
    assert whole(saved) == kept == whole(never)
    fresh, used = make(), make().train(100, 101, 102)
    for model in (fresh, used):
        model.bag.build()
        places = addresses(model)
        model.checkpoint.restore(path)
        assert whole(model) == kept
        assert places <= addresses(model) or addresses(model) <= places
    for model in (never, saved, fresh, used):
        model.train(*later)
    expected = whole(never)
    assert expected != kept
    assert [whole(model) == expected for model in (saved, fresh, used)] == [True] * 3
    expected = seen(never)
    assert [seen(model) == expected for model in (saved, fresh, used)] == [True] * 3
    return never


# ---- every optimizer, in every mode ----------------------------------------------------------------------------------

CLASSES = [getattr(optimizers, name) for name in optimizers.__all__ if name[0].isupper()]
CLASSES = [cls for cls in CLASSES if cls not in (optimizers.Optimizer, optimizers.LossScaleOptimizer)]
CASES = [(cls, mode, {}) for cls in CLASSES for mode in cls.modes]
CASES += [
    (cls, mode, arguments)
    for mode in ("skip", "dense", "catch_up")
    for cls, arguments in (
        (optimizers.SGD, {"momentum": 0.8}),
        (optimizers.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
        (optimizers.Adam, {"amsgrad": True, "clipnorm": 0.5}),
        (optimizers.Adam, {"weight_decay": 0.1, "global_clipnorm": 0.5}),
        (optimizers.Adagrad, {"weight_decay": 0.1, "clipvalue": 0.5}),
        (optimizers.RMSprop, {"momentum": 0.5, "centered": True}),
        (optimizers.Adafactor, {"weight_decay": 0.1}),
        (optimizers.Ftrl, {"l2_shrinkage_regularization_strength": 0.1}),
    )
]
CASES += [
    (optimizers.Adam, mode, {"use_ema": True, "ema_momentum": 0.8, **more})
    for mode in ("skip", "dense")
    for more in ({}, {"ema_overwrite_frequency": 4}, {"gradient_accumulation_steps": 2})
]
CASES += [(cls, "catch_up", {"use_ema": True}) for cls in (optimizers.Adagrad, optimizers.RMSprop)]


@pytest.mark.parametrize(("cls", "mode", "arguments"), CASES)
def test_goes_on(cls, mode, arguments, path):
    goes_on(lambda: Model(cls(0.05, untouched=mode, **arguments)), path)


HALVES = [
    ("bfloat16", "bfloat16", "stochastic"),
    ("float16", "float32", "stochastic"),
    ("float16", "bfloat16", "nearest"),
]
MORE = [{"use_ema": True}, {"gradient_accumulation_steps": 4}, {"weight_decay": 0.1}]


@pytest.mark.parametrize("dtypes", HALVES, ids=str)
@pytest.mark.parametrize(("cls", "mode"), [(cls, mode) for cls in CLASSES for mode in cls.modes])
def test_halves_go_on(cls, mode, dtypes, path):
    """The choices of stochastic rounding, too."""
    storage, state_dtype, rounding = dtypes
    how = {"untouched": mode, "state_dtype": state_dtype, "rounding": rounding, "rounding_seed": 3}
    goes_on(lambda: Model(cls(0.05, **how), storage), path)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_a_state_of_codes_goes_on(mode, storage, path):
    goes_on(lambda: Model(optimizers.SGD(0.05, 0.9, state_dtype="int8", untouched=mode), storage), path)


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("arguments", MORE, ids=str)
def test_halves_with_more_go_on(arguments, storage, path, tmp_path):
    numbers = iter(range(10))

    def make():
        optimizer = optimizers.Adam(0.05, state_dtype="bfloat16", **arguments)
        model = Model(optimizer, storage, path=tmp_path / f"{next(numbers)}")
        model.table.freeze([3])
        return model

    goes_on(make, path, 5, 6)


def test_halves_with_a_dynamic_loss_scale_go_on(path):
    def make():
        inner = optimizers.Adam(0.05, untouched="catch_up", state_dtype="bfloat16", rounding_seed=9)
        return Model(optimizers.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=4), "float16")

    goes_on(make, path)


def test_a_loss_scale_over_what_an_int64_holds(path):
    """As large as it gets where no gradient was infinite for long."""

    def make(scale):
        return Model(optimizers.LossScaleOptimizer(optimizers.SGD(0.05), initial_scale=scale))

    make(2.0**127).checkpoint.save(path)
    other = make(2.0**127)
    other.checkpoint.restore(path)
    assert other.optimizer.scale == 2.0**127


def test_what_stands_in_the_files_of_halves(path):
    def make(storage="bfloat16"):
        return Model(optimizers.Adam(0.05, state_dtype="bfloat16"), storage)

    model = make().train(0, 1, 2)
    model.checkpoint.save(path)
    save = last_save(path)
    stored = {name: np.load(save / name) for name in arrays_of(save)}
    kinds = {name: str(array.dtype) for name, array in stored.items()}
    assert kinds.pop("3.weights.npy") == "float32"  # the vector
    assert set(kinds.values()) == {"uint16"}
    assert stored["0.weights.npy"].tobytes() == model.bag.embeddings.memory.tobytes()
    about = json.loads((save / "save.json").read_text())["variables"]["bag/embeddings"]
    assert about["arrays"]["state"] == ["bfloat16", V, 2 * D]
    # What one of another dtype has is not taken.
    refuses(
        make("float16").train(5), path, "'weights' of bag/embeddings must be float16 of shape .* Received: bfloat16"
    )
    refuses(Model(optimizers.Adam(0.05), "bfloat16"), path, r"state_dtype='float32' \(saved: 'bfloat16'\)")
    for name in ("rounded", "number"):
        for bad in (-1, 0.5, "1", None):
            damaged = path.with_name(f"{name} {bad}")
            shutil.copytree(path, damaged)
            write(
                last_save(damaged) / "save.json",
                changed((save / "save.json").read_text(), *BAG, "numbers", name, to=bad),
            )
            sign(damaged)
            refuses(make().train(5), damaged, "must be a whole number")


@pytest.mark.parametrize("mode", ["int8", "int4", "int2"])
def test_codes(mode, path):
    """Of a layer that is not trained, beside one that is."""

    def make(seed, d=5):
        layer = Embedding(V, d, initial(seed))
        layer.quantize(mode)
        return layer, Table((4, 2))

    layers, others = make(1), make(2)
    optimizer, again = optimizers.Adam(), optimizers.Adam()
    optimizer.apply([np.ones((4, 2))], [layers[1]])
    Checkpoint(list(layers), optimizer).save(path)
    Checkpoint(list(others), again).restore(path)
    for layer, other in zip((layers[0].embeddings, layers[1]), (others[0].embeddings, others[1]), strict=True):
        assert layer.memory.tobytes() == other.memory.tobytes()
    for wrong in (make(3, 6), (Embedding(V, 5), Table((4, 2)))):
        before = wrong[0]([1, 2])
        with pytest.raises(ValueError, match=r"must have the shapes|must be float32 of shape .* Received: int"):
            Checkpoint(list(wrong), optimizers.Adam()).restore(path)
        assert np.array_equal(wrong[0]([1, 2]), before)


@pytest.mark.parametrize("before", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_gradients_that_wait(mode, before, path):
    """Saved between the calls that make a step."""

    def make():
        return Model(optimizers.Adam(0.05, untouched=mode, gradient_accumulation_steps=4))

    goes_on(make, path, before, 7)


@pytest.mark.parametrize("cls", [optimizers.Adam, optimizers.Nadam, optimizers.Ftrl])
def test_a_schedule(cls, path):
    def make():
        return Model(cls(schedules.ExponentialDecay(0.1, 3, 0.7), untouched="catch_up"))

    goes_on(make, path)


@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_a_dynamic_loss_scale(mode, path):
    def make():
        inner = optimizers.Adam(0.05, untouched=mode)
        return Model(optimizers.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=4))

    def overflow(model):
        model.optimizer.apply([np.full(D, np.inf)], [model.bias])

    model = goes_on(make, path, prepare=overflow)
    assert (model.optimizer.scale, model.optimizer.skipped, model.optimizer.iterations) == (256.0, 1, 12)


def test_a_learning_rate_that_was_set(path):
    def make():
        return Model(optimizers.SGD(0.5, momentum=0.9))

    def slower(model):
        model.optimizer.learning_rate = 0.1

    assert goes_on(make, path, prepare=slower).optimizer.learning_rate == 0.1
    model = Model(optimizers.SGD(schedules.ExponentialDecay(0.1, 3, 0.7), momentum=0.9))
    model.checkpoint.restore(path)
    assert model.optimizer.learning_rate == pytest.approx(0.1 * 0.7**2)


def test_skipped_calls(path):
    def make():
        return Model(optimizers.Adam(0.05, on_nonfinite="skip"))

    goes_on(make, path, prepare=lambda model: model.optimizer.apply([np.full(D, np.nan)], [model.bias]))


@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_learning_rates_of_rows(mode, path):
    """Set before the first step, and frozen in the middle of the training."""

    def make():
        return Model(optimizers.Adam(0.05, untouched=mode))

    def scale(model):
        model.bag.embeddings.scale_learning_rate([1, 2, 3], [0.5, 0.0, 2.0])
        model.train(90, 91)
        model.table.freeze([3, 5])
        model.bag.embeddings.unfreeze([2])

    goes_on(make, path, prepare=scale)


@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_rows_that_freeze_after_the_first_step(mode, path):
    """In catch-up training, missed steps are leaped on both sides, though rows are frozen now."""
    plain, frozen = Model(optimizers.Adam(0.05, untouched=mode)), Model(optimizers.Adam(0.05, untouched=mode))
    for model in (plain, frozen):
        model.train(0, 1, 2)
    frozen.bag.embeddings.freeze([1, 2])
    frozen.train(3, 4).checkpoint.save(path)
    scaled = Model(optimizers.Adam(0.05, untouched=mode))
    scaled.bag.embeddings.scale_learning_rate([1], 0.5)
    scaled.train(1, 2)
    for model in (plain, scaled):
        model.checkpoint.restore(path)
        assert whole(model) == whole(frozen)
    for model in (plain, scaled, frozen):
        model.train(5, 6, 7)
    assert whole(plain) == whole(scaled) == whole(frozen)
    plain.train(8).checkpoint.save(path)


@pytest.mark.parametrize("constraint", [constraints.MaxNorm(1.0, axis=1), constraints.MaxNorm(3.0, axis=0)], ids=repr)
@pytest.mark.filterwarnings("ignore:.*axis")
def test_a_constraint(constraint, path):
    mode = "catch_up" if constraint.axis == 1 else "dense"
    for cls in (optimizers.Adam, optimizers.Adafactor):
        goes_on(lambda cls=cls: Model(cls(0.05, untouched=mode), embeddings_constraint=constraint), path)


def test_excluded_from_weight_decay(path):
    def make():
        optimizer = optimizers.AdamW(0.05, untouched="catch_up")
        optimizer.exclude_from_weight_decay(var_names=["own"])
        return Model(optimizer)

    goes_on(make, path)
    model = Model(optimizers.AdamW(0.05, untouched="catch_up"))
    refuses(model, path, "`weight_decay` of a variable must be")


def test_a_long_history(path):
    """More steps than the lines of a new history."""

    def make():
        return Model(optimizers.Adam(0.05, untouched="catch_up"))

    goes_on(make, path, 300, 300)


def test_a_history_that_was_forgotten(path, monkeypatch):
    """All rows have caught up at some step, and lines begin there."""
    monkeypatch.setattr(optimizers.history, "_CAPACITY", {True: 5, False: 4})
    for constraint in (None, constraints.NonNeg()):
        for cls in (optimizers.Adam, optimizers.AdamW):
            goes_on(lambda cls=cls, c=constraint: Model(cls(0.05, untouched="catch_up"), embeddings_constraint=c), path)


@pytest.mark.parametrize("cls", [optimizers.Adam, optimizers.AdamW, optimizers.Ftrl, optimizers.RMSprop])
def test_frozen_rows_of_a_history_that_was_forgotten(cls, path, monkeypatch):
    """Their last step is moved to the first line: unfrozen later, they look for no earlier one."""
    monkeypatch.setattr(optimizers.history, "_CAPACITY", {True: 5, False: 4})

    def freeze(model):
        model.train(20, 21)
        model.bag.embeddings.freeze(range(8))

    model = goes_on(lambda: Model(cls(0.05, untouched="catch_up")), path, 9, 9, prepare=freeze)
    (kept,) = [one for one in model.optimizer.snapshot()[1] if one.variable is model.bag.embeddings]
    last_v, first = kept.history.last_v, kept.history.first
    assert (last_v[:8] == first).any()
    assert first > 5
    assert (last_v[last_v > 0] >= first).all()
    model.bag.embeddings.unfreeze(range(8))
    assert np.isfinite(model.train(*range(30, 40)).bag.embeddings).all()


@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_a_table_in_a_file(mode, path, tmp_path):
    numbers = iter(range(10))

    def make():
        return Model(optimizers.Adam(0.05, untouched=mode), path=tmp_path / f"{next(numbers)}.npy")

    model = goes_on(make, path)
    assert isinstance(model.bag.embeddings.memory, np.memmap)
    inside = Table(model.bag.embeddings.shape, path=path / "mine.npy")
    with pytest.raises(ValueError, match="must not be where the table is trained"):
        Checkpoint(inside).save(path)
    assert (path / "mine.npy").exists()


@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_lora(mode, path):
    """All weights of a layer, also the frozen one; a rank that the layer begins with, or that came later."""

    def train(layer, optimizer, *steps):
        for number in steps:
            ids = np.random.default_rng(number).integers(0, V, 9)
            optimizer.apply(layer.lora_gradients(ids, 0.1 * layer(ids)), layer.trainable_weights)

    def start(late):
        layer = Embedding(V, D, initial(5), lora_rank=None if late else 2)
        if late:
            layer.build()
            layer.enable_lora(2)
        return layer, optimizers.Adam(0.1, untouched=mode)

    for late in (False, True):
        layer, optimizer = start(late)
        train(layer, optimizer, 1, 2, 3)
        Checkpoint(layer, optimizer).save(path)
        train(layer, optimizer, 4, 5, 6)
        again, other = start(late)
        again.set_weights([np.zeros(table.shape) for table in again.weights] or [np.zeros((V, D))] * (1 + 2 * late))
        Checkpoint([again], other).restore(path)
        train(again, other, 4, 5, 6)
        for ours, theirs in zip(layer.weights, again.weights, strict=True):
            assert np.array_equal(ours, theirs)
    with pytest.raises(ValueError, match="must have the weights that were saved"):
        Checkpoint(Embedding(V, D), optimizers.Adam(untouched=mode)).restore(path)


def test_what_layers_may_be(path):
    """One, a list, names; weights without an optimizer; a frozen layer; a table that two layers share."""
    layer, frozen = Embedding(V, D), Embedding(V, D, trainable=False)
    tied = Embedding(V, D)
    tied.adopt(layer.embeddings)
    array = np.arange(3, dtype=np.float32)
    frozen.build()
    expected = layer.get_weights()[0], frozen.get_weights()[0]
    Checkpoint([layer, frozen, array, tied]).save(path)
    assert sorted(os.listdir(path)) == ["00000001", "checkpoint.json"]
    assert sorted(os.listdir(last_save(path))) == ["0.weights.npy", "1.weights.npy", "2.weights.npy", "save.json"]
    assert np.array_equal(np.load(last_save(path) / "1.weights.npy"), expected[1])
    for one in (layer, frozen):
        one.set_weights([np.zeros((V, D))])
    array[:] = 0
    Checkpoint((layer, frozen, array, tied)).restore(path)
    assert np.array_equal(tied.embeddings, expected[0])
    assert np.array_equal(frozen.embeddings, expected[1])
    assert array.tolist() == [0, 1, 2]
    number = np.array(3, np.float32)
    Checkpoint({"a/b": layer.embeddings, "": number, "c": np.zeros((2, 0), np.float32)}).save(path)
    fresh, other = Table((V, D)), np.array(0, np.float32)
    Checkpoint({"": other, "c": np.zeros((2, 0), np.float32), "a/b": fresh}).restore(path)
    assert np.array_equal(fresh, expected[0])
    assert other == 3


def test_wrong_arguments():
    layer = Embedding(V, D)
    for wrong in (None, "layer", [3], {"a": None}, [[layer]], optimizers.Adam()):
        with pytest.raises(TypeError, match="`layers` must be"):
            Checkpoint(wrong)
    for wrong in (np.zeros(3, ">f4"), np.zeros((3, 2), np.float32).T, np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match="must have arrays that are float32"):
            Checkpoint(wrong)
    with pytest.raises(TypeError, match="strings as names"):
        Checkpoint({1: layer})
    with pytest.raises(TypeError, match="`optimizer` must be"):
        Checkpoint(layer, "adam")


# ---- in another process, and beside other threads --------------------------------------------------------------------

FRESH = """
    import sys
    import numpy as np
    from fastembed import Checkpoint, EmbeddingBag, optimizers

    bag, dense = EmbeddingBag(500, 8, embeddings_initializer="ones"), np.ones((8, 3), "float32")
    optimizer = optimizers.Nadam(0.1, untouched="catch_up", weight_decay=0.01)
    start, stop = map(int, sys.argv[2:])
    training = Checkpoint([bag, dense], optimizer)
    if start:
        training.restore(sys.argv[1])
    for number in range(start, stop):
        ids = np.random.default_rng(number).integers(0, 500, (4, 5))
        vectors = bag(ids)
        optimizer.apply([bag.gradient(ids, vectors), vectors.T @ vectors[:, :3]], [bag.embeddings, dense])
    training.save(sys.argv[1])
    import zlib
    print(zlib.crc32(bag.embeddings.memory), zlib.crc32(dense), zlib.crc32(bag.embeddings.numpy()))
"""


def test_in_fresh_processes(path, run_python):
    expected = run_python(FRESH, path, 0, 9)
    for start, stop in ((0, 4), (4, 5)):
        run_python(FRESH, path, start, stop)
    assert run_python(FRESH, path, 5, 9) == expected


@pytest.mark.parametrize("scaled", [False, True])
def test_while_another_thread_trains(path, scaled):
    """A checkpoint is of one moment between two steps."""

    def make():
        optimizer = optimizers.Adam(0.05, untouched="catch_up")
        return Model(optimizers.LossScaleOptimizer(optimizer, 4.0, 7) if scaled else optimizer)

    model, steps, done = make(), range(100_000), []
    stop = threading.Event()

    def train():
        for number in steps:
            model.train(number)
            done.append(number)
            if stop.is_set():
                return

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(8):
            before = len(done)
            while len(done) < before + 5:
                assert thread.is_alive()
                time.sleep(0.001)
            model.checkpoint.save(path)
            other = make()
            other.checkpoint.restore(path)
            assert before + 5 <= other.optimizer.iterations <= len(done) + 1
    finally:
        stop.set()
        thread.join()
    # What was restored last goes on to where the thread has stopped.
    other.train(*steps[other.optimizer.iterations : len(done)])
    assert whole(other) == whole(model)


def test_a_save_changes_nothing_of_other_optimizers(path):
    """A table whose rows owe steps to an optimizer that is not in the checkpoint."""
    table, catching = Table((V, D)), optimizers.Adam(untouched="catch_up")
    gradient = IndexedSlices(np.ones((1, D)), [3], (V, D))
    other = optimizers.SGD()
    other.apply([gradient], [table])
    catching.apply([gradient], [table])
    for optimizer in (None, other):
        with pytest.raises(ValueError, match="must be the one that lets rows"):
            Checkpoint(table, optimizer).save(path)
    assert os.listdir(path.parent) == []
    Checkpoint(table, catching).save(path)
    # A table that owes steps to another one takes the weights, and owes nothing.
    fresh, again = Table((V, D)), optimizers.Adam(untouched="catch_up")
    foreign = optimizers.Adam(0.5, untouched="catch_up")
    for row in (5, 7):
        foreign.apply([IndexedSlices(np.ones((1, D)), [row], (V, D))], [fresh])
    Checkpoint(fresh, again).restore(path)
    assert fresh.memory.tobytes() == table.memory.tobytes()
    assert np.array_equal(fresh, table)
    foreign.apply([gradient], [fresh])  # takes over
    assert fresh.debt.variable is fresh
    assert (fresh.numpy()[8:] == 0).all()


def test_variables_that_are_not_in_layers(path):
    model = Model(optimizers.Adam()).train(1, 2, 3)
    del model.layers["dense"]
    with pytest.raises(ValueError, match=r"all variables of the optimizer.* an array float32 of shape \(6, 2\)"):
        model.checkpoint.save(path)
    assert os.listdir(path.parent) == []
    model.layers["dense"] = model.dense
    model.checkpoint.save(path)
    del model.layers["table"]
    with pytest.raises(ValueError, match=r"all variables of the optimizer.* <Table 'own'"):
        model.checkpoint.restore(path)


# ---- over an earlier checkpoint, and failures ------------------------------------------------------------------------


def make(value):
    table = Table((V, D))
    table.assign(np.full((V, D), value))
    return Checkpoint(table)


def holds(path, value):
    """The checkpoint is whole, and nothing lies beside it, or in it."""
    table = Table((V, D))
    Checkpoint(table).restore(path)
    files = sorted([last_save(path).name, "checkpoint.json"])
    alone = os.listdir(path.parent) == [path.name] and sorted(os.listdir(path)) == files
    return alone and bool((table.numpy() == value).all())


@pytest.mark.parametrize("what", ["file", "folder", "a layer"])
def test_refuses_what_is_no_checkpoint(what, path):
    path.parent.mkdir()
    if what == "file":
        path.write_text("mine")
    elif what == "a layer":
        Embedding(3, 2).save(path)
    else:
        path.mkdir()
        if what == "folder":
            (path / "mine.txt").write_text("mine")
    before = path.read_text() if what == "file" else sorted(os.listdir(path))
    with pytest.raises(FileExistsError, match="`path` must be free or an earlier save"):
        make(1).save(path)
    assert os.listdir(path.parent) == [path.name]
    assert before == (path.read_text() if what == "file" else sorted(os.listdir(path)))


def test_folders_of_the_user(path):
    """In a checkpoint, and where none is."""
    (path / "20261125").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        make(1).save(path)
    (path / "20261125").rmdir()
    make(1).save(path)
    for name in ("20261125", "00000007", ".mine.saving"):
        (path / name).mkdir()
    make(2).save(path)
    make(3).save(path)
    assert sorted(os.listdir(path)) == [".mine.saving", "00000003", "00000007", "20261125", "checkpoint.json"]


def test_is_no_save_of_a_layer(path):
    """Rows may owe steps: nobody should serve them by mistake."""
    layer = Embedding(V, D)
    Checkpoint(layer).save(path)
    with pytest.raises(FileNotFoundError):
        fastembed.load(path)
    with pytest.raises(FileExistsError):
        layer.save(path)
    make(1).save(path)
    assert holds(path, 1)


def test_full_disk(path, monkeypatch):
    """Any of the writes that are forced to disk may be the one that fails."""
    make(1).save(path)
    left = [0]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    for count in (1, 2, 3, 4, 5):  # the table, save.json, their folder, that around it, checkpoint.json
        for place in (path, path.with_name("other")):
            left[0] = count
            with pytest.raises(OSError, match="No space left"):
                make(2).save(place)
            assert holds(path, 1)
    left[0] = 6  # the folder, where the new list is already
    with pytest.raises(OSError, match="No space left"):
        make(2).save(path)
    assert holds(path, 2)
    left[0] = 0
    make(3).save(path)
    assert left[0] == -6
    assert holds(path, 3)


KILL = """
    import os
    import signal
    import sys
    import numpy as np
    from fastembed import Checkpoint, Table

    path, count = sys.argv[1], int(sys.argv[2])

    def killed(handle):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = killed
    table = Table((300, 6))
    table.assign(np.full((300, 6), 2))
    pid = os.fork()
    if pid == 0:
        try:
            Checkpoint(table).save(path)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(("count", "value"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)])
def test_killed_at_a_point(count, value, path, run_python):
    make(1).save(path)
    assert int(run_python(KILL, path, count)) == -9
    table = Table((V, D))
    Checkpoint(table).restore(path)
    assert (table.numpy() == value).all()
    make(3).save(path)  # tidies up
    assert holds(path, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_killed_in_the_first_save(count, path, run_python):
    assert int(run_python(KILL, path, count)) == -9
    with pytest.raises(FileNotFoundError):
        make(1).restore(path)
    make(3).save(path)
    assert holds(path, 3)


# ---- what is not restored, and changes nothing -----------------------------------------------------------------------


def refuses(model, path, message=None, error=ValueError):
    before = whole(model)
    with pytest.raises(error, match=message):
        model.checkpoint.restore(path)
    assert whole(model) == before


def test_missing(path):
    model = Model(optimizers.Adam()).train(1, 2)
    refuses(model, path, None, FileNotFoundError)
    model.checkpoint.save(path)
    (last_save(path) / "1.state.npy").rename(path.parent / "x")
    refuses(model, path, None, FileNotFoundError)
    (path / "checkpoint.json").unlink()
    refuses(model, path, None, FileNotFoundError)


@pytest.fixture
def saved(path):
    """Of a training in catch-up mode, with gradients that wait."""
    model = Model(optimizers.AdamW(0.05, untouched="catch_up", gradient_accumulation_steps=2))
    model.train(1, 2, 3, 4, 5, 6, 7).checkpoint.save(path)
    return path


OTHERS = {
    "another class": (optimizers.Adam(untouched="catch_up"), "of the class that was saved, AdamW. Received: Adam"),
    "another mode": (optimizers.AdamW(gradient_accumulation_steps=2), r"untouched='skip' \(saved: 'catch_up'\)"),
    "other arguments": (
        optimizers.AdamW(untouched="catch_up", gradient_accumulation_steps=3, beta_1=0.8),
        r"steps=3 \(saved: 2\), beta_1=0.8 \(saved: 0.9\)",
    ),
    "a loss scale": (optimizers.LossScaleOptimizer(optimizers.AdamW()), "Received: LossScaleOptimizer"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_optimizer(case, saved):
    optimizer, message = OTHERS[case]
    refuses(Model(optimizer).train(1, 2, 3), saved, message)


def test_no_optimizer(saved, path):
    with pytest.raises(ValueError, match="Received: None"):
        Checkpoint(Table((V, D))).restore(saved)
    make(1).save(path)
    with pytest.raises(ValueError, match="of the class that was saved, None"):
        Checkpoint(Table((V, D)), optimizers.Adam()).restore(path)


def like_saved():
    return Model(optimizers.AdamW(0.05, untouched="catch_up", gradient_accumulation_steps=2)).train(50, 51, 52)


def test_other_layers(saved):
    model = like_saved()
    model.layers["other"] = model.layers.pop("bias")
    refuses(model, saved, "must have the weights that were saved")
    for name, other in {
        "bias": np.zeros(D + 1, np.float32),
        "table": Table((3, 40)),
        "bag": Embedding(V + 1, D),
        "dense": np.zeros(2 * D, np.float32),
    }.items():
        model = Model(optimizers.AdamW(0.05, untouched="catch_up", gradient_accumulation_steps=2))
        model.layers[name] = other
        refuses(model, saved, "must have the shapes that were saved")
    model.layers["dense"] = model.dense
    model.layers["bag"] = model.bag
    model.layers["bias"] = model.bias
    model.layers["table"] = np.zeros((40, 3), np.float32)
    model.checkpoint.restore(saved)  # an array in place of a table is as good
    model.layers["table"].flags.writeable = False
    refuses(model, saved, "all variables|writeable")


def test_read_only(path, tmp_path):
    """A mapped table that cannot be written to is found before anything is."""
    layer, array = Embedding(V, D), np.ones(3, np.float32)
    layer.save(tmp_path / "layer")
    served = fastembed.load(tmp_path / "layer", mmap_mode="r")
    Checkpoint([array, served]).save(path)
    array[:] = 7
    with pytest.raises(ValueError, match="must be writeable"):
        Checkpoint([array, served]).restore(path)
    assert (array == 7).all()


BAG = ("variables", "bag/embeddings")
DAMAGED_JSON = {
    "empty": lambda about: "",
    "cut": lambda about: about[:-30],
    "no UTF-8": lambda about: b"\xff\xfe{}",
    "a list": lambda about: "[]",
    "a number": lambda about: "3",
    "too deep": lambda about: "[" * 100_000,
    "no optimizer": lambda about: changed(about, "optimizer", to=None),
    "optimizer of another type": lambda about: changed(about, "optimizer", to=[3]),
    "no settings": lambda about: changed(about, "optimizer", "settings", to={}),
    "more settings": lambda about: changed(about, "optimizer", "settings", "colour", to="red"),
    "no counters": lambda about: changed(about, "optimizer", "counters", to={}),
    "calls below 0": lambda about: changed(about, "optimizer", "counters", "calls", to=-1),
    "half a call": lambda about: changed(about, "optimizer", "counters", "calls", to=0.5),
    "rate as text": lambda about: changed(about, "optimizer", "counters", "learning_rate", to="fast"),
    "an unknown variable": lambda about: changed(about, "optimizer", "trains", to=["hat"]),
    "no variables": lambda about: changed(about, "variables", to={}),
    "variables of another type": lambda about: changed(about, "variables", to=[1]),
    "no arrays": lambda about: changed(about, *BAG, "arrays", to={}),
    "an array of objects": lambda about: changed(about, *BAG, "arrays", "weights", to=["object", V, D]),
    "another dtype": lambda about: changed(about, *BAG, "arrays", "state", to=["float64", V, 2 * D]),
    "another shape": lambda about: changed(about, *BAG, "arrays", "state", to=["float32", V, 3 * D]),
    "no numbers": lambda about: changed(about, *BAG, "numbers", to=None),
    "other numbers": lambda about: changed(about, *BAG, "numbers", "own", to={"size": 3}),
    "no history": lambda about: changed(about, *BAG, "numbers", "history", to=None),
    "a history that is longer": lambda about: changed(about, *BAG, "numbers", "history", "now", to=4),
    "a history that is earlier": lambda about: changed(about, *BAG, "numbers", "history", "now", to=2),
    "a history without end": lambda about: changed(about, *BAG, "numbers", "history", "now", to=2**40),
    "a history of another kind": lambda about: changed(about, *BAG, "numbers", "history", "leaped", to=False),
    "numbers as text": lambda about: changed(about, *BAG, "numbers", "hyper", to={"epsilon": "small"}),
    "other sizes": lambda about: changed(about, *BAG, "numbers", "pending", to=[3]),
    "sizes below 0": lambda about: changed(about, *BAG, "numbers", "pending", to=[-1, 20]),
    "sizes as text": lambda about: changed(about, *BAG, "numbers", "pending", to="all"),
}


DAMAGED_LIST = {
    **{case: DAMAGED_JSON[case] for case in ("empty", "cut", "no UTF-8", "a list", "a number", "too deep")},
    "another format": lambda about: changed(about, "format", to=1),
    "another version": lambda about: changed(about, "fastembed", to="9"),
    "another save": lambda about: changed(about, "saves", 0, "digest", to=3),
    "no saves": lambda about: changed(about, "saves", to=[]),
    "no checksum": lambda about: changed(about, "crc32", to=None),
}
# Behind the checksum.
SIGNED_LIST = {
    "no saves": lambda about: changed(about, "saves", to=[]),
    "saves of another type": lambda about: changed(about, "saves", to=3),
    "no name": lambda about: changed(about, "saves", 0, to={"digest": 3, "after": None}),
    "another name": lambda about: changed(about, "saves", 0, "name", to="last"),
    "a missing delta": lambda about: changed(about, "saves", 0, "after", to="00000007"),
}


@pytest.mark.parametrize("case", DAMAGED_LIST)
def test_damaged_list(case, saved):
    file = saved / "checkpoint.json"
    write(file, DAMAGED_LIST[case](file.read_text()))
    refuses(like_saved(), saved)


@pytest.mark.parametrize("case", SIGNED_LIST)
def test_a_list_of_other_things(case, saved):
    file = saved / "checkpoint.json"
    about = json.loads(SIGNED_LIST[case](file.read_text()))
    about.pop("crc32")
    about["crc32"] = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    file.write_text(json.dumps(about))
    refuses(like_saved(), saved)


@pytest.mark.parametrize("case", DAMAGED_JSON)
def test_damaged_json(case, saved):
    """Found by its checksum, and by what it says."""
    file = last_save(saved) / "save.json"
    write(file, DAMAGED_JSON[case](file.read_text()))
    refuses(like_saved(), saved, r"save\.json must be what was written")
    sign(saved)
    refuses(like_saved(), saved)


def test_damaged_arrays(saved):
    """Each of the files: empty, cut, of another shape, of another dtype. Nothing has changed then."""
    save = last_save(saved)
    names = arrays_of(save)
    whats = {name.partition(".")[2].removesuffix(".npy") for name in names}
    assert whats == {"weights", "state", "last", "lines", "pending", "pending.rows", "pending.values"}
    model = like_saved()
    for name in names:
        file = save / name
        good = file.read_bytes()
        array = np.load(file)
        other = npy(array[:-1]), npy(array.astype(">f2")), npy(array.astype(array.dtype.newbyteorder()))
        for bad in (b"", good[:-1], good + b"0", good[:100], b"no npy at all" * 20, *other):
            file.write_bytes(bad)
            refuses(model, saved, rf"{name} must have {len(good)} bytes. Received: {len(bad)}")
        for bad in (good.replace(b"'shape': (", b"'shape': (1"), good.replace(b"'descr': '<", b"'descr': '>")):
            file.write_bytes(bad[: len(good)])
            refuses(model, saved, rf"{name} must be what was written. Received: other bytes from 0 to {HEAD}")
        file.write_bytes(good)
    model.checkpoint.restore(saved)


@pytest.mark.parametrize(("what", "value"), [("last", -1), ("last", 4), ("pending.rows", -1), ("pending.rows", V)])
def test_rows_that_are_not_there(what, value, saved):
    """Numbers that the core would take for places in memory."""
    array = np.load(last_save(saved) / f"0.{what}.npy")
    array[-1] = value
    rewrite(saved, f"0.{what}.npy", array)
    refuses(like_saved(), saved, "must")
