"""A user's program that uses all public names, for tests/test_types.py: `mypy --strict` passes, and it runs.

May import: fastembed, NumPy and the standard library, as any program. Do not break: it has types where a strict checker
asks for them, and nowhere a cast, an ignored error, or more than a user would write. `assert_type` says what is
promised.
"""

import contextlib
import copy
import sys
from array import array
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fastembed
from fastembed import (
    Checkpoint,
    Embedding,
    EmbeddingBag,
    IndexedSlices,
    Ragged,
    Table,
    constraints,
    formats,
    initializers,
    interop,
    ops,
    optimizers,
    regularizers,
    saving,
    schedules,
    serialization,
)

Floats = NDArray[np.floating[Any]]
Float32 = NDArray[np.float32]


def readme(folder: Path) -> None:
    """The program of the README."""
    words = fastembed.EmbeddingBag(10_000, 64, combiner="mean")
    optimizer = fastembed.optimizers.RowwiseAdagrad(learning_rate=0.05)
    dense = np.zeros((64, 1), "float32")
    ids = fastembed.Ragged.from_lists([[3, 1_415], [], [5, 358, 9_793]])
    labels = np.array([[1.0], [0.0], [1.0]], "float32")
    for _ in range(10):
        vectors = words(ids)
        error = vectors @ dense - labels
        gradient = words.gradient(ids, error @ dense.T)
        optimizer.apply_gradients([(gradient, words.embeddings), (vectors.T @ error, dense)])
    words.save(folder / "words")
    served = fastembed.load(folder / "words", mmap_mode="r")
    assert np.array_equal(served(ids), words(ids))
    bag: EmbeddingBag = saving.load(str(folder / "words"))
    assert_type(bag(ids), Floats)


def mean(vectors: Float32) -> float:
    """Of somebody whose model is float32, as layers are by default."""
    return float(vectors.mean())


def look_ups() -> None:
    """Ids of all kinds."""
    layer = Embedding(100, 8, "uniform", mask_zero=True, padding_idx=0, name="items")
    ids = np.array([[1, 2], [3, 4]])
    assert_type(layer(ids), Floats)
    assert_type(layer(3), Floats)
    assert_type(layer([[1, 2], [3, 0]]), Floats)
    layer(range(3))
    layer(array("q", [3, 4]))
    assert mean(layer(ids, out=np.empty((2, 2, 8), np.float32))) == mean(layer.call(ids))
    ragged = Ragged.from_lists([[1, 2], [3]])
    rows = layer(ragged)
    assert_type(rows, Ragged)
    assert_type(layer.compute_mask(ragged), Ragged | Any)
    assert_type(layer.compute_mask(ids), NDArray[np.bool_] | Any)
    assert_type(layer.compute_output_shape((None, 3)), tuple[int | None, ...])
    assert_type(layer.gradient(ragged, rows), IndexedSlices)
    bag = EmbeddingBag(100, 8, "sqrtn", embeddings_regularizer="l2", activity_regularizer=regularizers.L1())
    weights = np.array([0.5, 1.0, 2.0])
    pooled = bag(ragged, weights)
    assert_type(pooled, Floats)
    bag.gradient(ragged, pooled, weights)
    assert_type(bag.weights_gradient(ragged, pooled, weights), Floats)
    assert_type(bag.losses, list[float])
    assert bag.combiner.upper() == "SQRTN"


def layers(folder: Path) -> None:
    """What a layer does besides."""
    layer = fastembed.layers.Embedding(100, 8, np.ones((100, 8)), dtype="mixed_float16", trainable=np.True_)
    layer.build()
    assert layer.built and layer.embeddings_initializer is not None and layer.count_params() == 800
    assert_type(Embedding.from_config(layer.get_config()), Embedding)
    assert_type(EmbeddingBag.from_config({**layer.get_config(), "combiner": "sum"}), EmbeddingBag)
    layer = copy.deepcopy(Embedding(100, 8, activity_regularizer=None))
    layer.resize(np.int64(120))
    layer.remap(list(range(120)), np.arange(110))
    layer.enable_lora(4, lora_alpha=8, a_initializer=initializers.HeNormal(seed=1))
    a, b = layer.lora_gradients([3, 5], np.ones((2, 8), np.float32))
    optimizers.SGD(0.1).apply([a, b], layer.trainable_weights)
    layer.merge_lora()
    layer.set_weights([weight + 1 for weight in layer.get_weights()])
    assert_type(layer.regularization_gradient(), Floats | Any)
    layer.quantize("int4")
    assert_type(layer.embeddings.to_float32(), Float32)
    assert layer.dtype == "int4" and layer.compute_dtype == "float32" and not layer.trainable_weights
    stored = Embedding(50, 4, initializers.RandomUniform(seed=1), path=folder / "items.npy", lazy=True)
    stored([4])
    stored.embeddings.flush()
    doubles = EmbeddingBag(10, 2, dtype=np.float64, weights=[np.eye(10, 2)], input_length=(3,))
    assert doubles([[1, 0, 0]]).dtype == np.float64


def tables(folder: Path) -> None:
    """Tables, ragged arrays, row-sparse gradients."""
    table = Table((10, 4), "bfloat16", constraint=constraints.MaxNorm(1.0, axis=1))
    table.assign(np.ones((10, 4)))
    table.freeze([1, 2])
    table.scale_learning_rate(3, 0.5)
    table.resize(12)
    assert_type(table[[3, 4]], Floats)
    assert_type(table.shape, tuple[int, int])
    assert_type(table.numpy(), NDArray[Any])
    assert np.asarray(table, np.float32).shape == (12, 4) and len(table) == 12 and table.nbytes == 96
    with table.lock:
        table.changing(np.array([3]))
        table.numpy()[3] = 0
    Table((10, 4), path=str(folder / "table.npy"), mmap_mode="r+", lazy=True, trainable=False, name="other")

    ragged = Ragged([7, 8, 9], np.array([0, 2, 2, 3]))
    assert_type(ragged.flat_values, NDArray[Any])
    assert_type(ragged[1:], Ragged)
    assert_type(ragged[[0, 2]], Ragged)
    assert_type(ragged[ragged.row_lengths() > 0], Ragged)
    assert ragged[0].tolist() == [7, 8] and [len(row) for row in ragged] == [2, 0, 1]
    assert ragged.shape == (3, None) and ragged.dtype == np.int64 and ragged.ragged_rank == 1
    assert_type(ragged.with_values(np.ones((3, 4))), Ragged)
    assert ragged.to_padded(-1)[1, 0] == -1 and ragged.to_list()[1] == []
    Ragged.from_row_lengths([1, 2, 3], [2, 0, 1])
    Ragged.from_value_rowids([1, 2, 3], [0, 0, 2], nrows=4)
    Ragged.from_padded(np.eye(2), padding=0)
    nested = Ragged.from_lists([[[1], []], []], dtype=np.int32)
    inner = nested.values
    assert isinstance(inner, Ragged)
    assert np.array_equal(inner.row_splits, nested.nested_row_splits[1])

    slices = IndexedSlices(np.ones((3, 2)), [4, 1, 4], dense_shape=(5, 2))
    total = 0.5 * (slices + slices) * np.float32(2)
    assert_type(total.coalesce().values, Floats)
    assert total.indices.sum() == 18 and total.to_dense().shape == slices.dense_shape


@fastembed.register_serializable("mine")
class Halving(schedules.LearningRateSchedule):
    """A schedule of a user's own."""

    def __call__(self, step: int) -> float:
        return float(0.5**step)


class Halves(initializers.Initializer):
    """An initializer of a user's own."""

    def __call__(self, shape: Any, dtype: Any = None) -> Float32:
        return np.full(shape, 0.5, np.float32)


class Ridge(regularizers.Regularizer):
    """A regularizer of a user's own."""

    def __call__(self, x: ArrayLike) -> float:
        return float(np.square(x).sum())

    def gradient(self, x: ArrayLike) -> Floats:
        return 2 * np.asarray(x, np.float32)


class AtMostOne(constraints.Constraint):
    """A constraint of a user's own."""

    def __call__(self, w: ArrayLike) -> NDArray[Any]:
        return np.minimum(w, 1)


@fastembed.register_serializable("mine")
def quarters(shape: tuple[int, ...], dtype: Any = None) -> Float32:
    """An initializer that is a function."""
    return np.full(shape, 0.25, np.float32)


def training(folder: Path) -> None:
    """Optimizers, and what they take."""
    layer = Embedding(20, 4, Halves(), Ridge(), None, AtMostOne())
    other = Embedding(20, 4, quarters, regularizers.get("l1"))
    rate = schedules.CosineDecay(0.1, 100, warmup_target=0.5, warmup_steps=10)
    known = [
        optimizers.SGD(rate, momentum=0.9, nesterov=True, state_dtype="int8"),
        optimizers.RMSprop(Halving(), centered=True),
        optimizers.Adam(lambda step: 0.1 / (step + 1), untouched="catch_up", clipnorm=1),
        optimizers.AdamW(weight_decay=0.01, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=2),
        optimizers.Adadelta(np.float32(0.5)),
        optimizers.Adagrad(0.1, path=folder / "state", rounding="nearest", rounding_seed=3),
        optimizers.Adamax(on_nonfinite="skip", loss_scale_factor=8.0),
        optimizers.Adafactor(clip_threshold=2.0, global_clipnorm=1.0),
        optimizers.Nadam(weight_decay=0.1),
        optimizers.Ftrl(l1_regularization_strength=0.1),
        optimizers.Lion(clipvalue=1),
        optimizers.Lamb(untouched="dense"),
        optimizers.RowwiseAdagrad(),
        optimizers.PartialRowwiseAdam(name="mine"),
        optimizers.RowwiseLamb(weight_decay=0.1),
        optimizers.RowwiseLARS(eta=0.01),
        optimizers.RowwiseRMSprop(rho=0.8),
        optimizers.get("adam"),
        optimizers.get({"class_name": "SGD", "config": {"learning_rate": 0.5}}),
        optimizers.LossScaleOptimizer(optimizers.SGD(), initial_scale=4.0),
    ]
    for optimizer in known:
        table = Table((20, 4))
        slices = IndexedSlices(np.ones((1, 4)), [3], table.shape)
        optimizer.build([table])
        optimizer.apply_gradients([(slices, table)])
        optimizer.apply([slices], [table])
        assert optimizer.learning_rate >= 0 and optimizer.iterations > 0 and optimizer.scale_loss(1.0) > 0
        assert_type(optimizer.state(table), dict[str, NDArray[Any]])
    adam = optimizers.Adam()
    adam.learning_rate = Halving()
    assert_type(adam.learning_rate, float)
    assert_type(adam.beta_1, float)
    assert_type(optimizers.Adam.from_config(adam.get_config()), optimizers.Adam)
    assert_type(optimizers.get(adam), optimizers.Adam)
    adam.exclude_from_weight_decay([layer.embeddings], var_names=["bias"])
    for each in (layer, other):
        ids, upstream = [1, 2], np.ones((2, 4))
        adam.apply_gradients(zip([each.gradient(ids, upstream)], [each.embeddings], strict=True))
    adam.catch_up(layer.embeddings)
    adam.catch_up()
    adam.flush()


def checkpoints(folder: Path) -> None:
    """Trainings on disk."""
    table, optimizer = Table((20, 4)), optimizers.SGD()
    checkpoint = Checkpoint({"items": table, "bag": EmbeddingBag(10, 2), "bias": np.zeros(3)}, optimizer)
    checkpoint.save(folder / "training", extra={"epoch": 3, "rng": np.random.default_rng(1)})
    pending = checkpoint.save(folder / "training", delta=True, keep=2, wait=False, progress=False)
    pending.wait()
    assert pending.done
    assert_type(Checkpoint.saves(folder / "training"), list[int])
    extra = checkpoint.restore(folder / "training", 1)
    assert extra["epoch"] == 3
    checkpoint.compact(folder / "training")
    fastembed.verify(folder / "training")
    Checkpoint([table, Embedding(3, 2)]).save(folder / "other")


def files(folder: Path) -> None:
    """Files of others, and columns."""
    layer = Embedding(3, 2)
    formats.save(layer, folder / "words.txt", vocabulary=["to", "be", "or"])
    formats.save(layer, folder / "words.npz", "npz", progress=lambda done, total: None)
    loaded = formats.load(folder / "words.npz", name=layer.name, dtype="bfloat16", table_path=folder / "new.npy")
    assert_type(loaded, Embedding)
    assert_type(formats.load_vocabulary(folder / "words.txt", errors="replace"), list[str])
    assert [found.shape for found in formats.find(folder / "words.npz") if found.fits] == [(3, 2)]
    assert formats.format_of("words.bin") == "word2vec_binary"
    assert_type(interop.as_ragged([[3, 1], None], null_rows="empty"), Ragged)


def functions() -> None:
    """Plain arrays, and the rest."""
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert_type(ops.gather(table, [2, 0]), Floats)
    assert_type(ops.pool(table, [2, 0], np.array([0, 1, 2]), combiner="max"), Floats)
    parts = ops.parts([4, 1, 4], np.ones((3, 2)), padding_idx=0)
    rows, values = ops.reduce(parts, ops.group(parts, 5))
    assert_type(rows, NDArray[np.int64])
    assert_type(values, Floats)
    ops.update(table, parts, "sgd", {"learning_rate": 0.5}, constraint=ops.RowConstraint(ops.NON_NEG))
    state = np.zeros((5, ops.state_width("adagrad", 2)), np.float32)
    ops.update_dense(table, np.ones((5, 2)), "adagrad", {"learning_rate": 0.1}, state, rounding=ops.Rounding(1, 2))
    fastembed.set_num_threads(2)
    assert_type(fastembed.get_num_threads(), int)
    fastembed.set_num_threads(None)
    fastembed.set_random_seed(7)
    with contextlib.redirect_stdout(None):
        fastembed.show_config()
    needs = fastembed.estimate(1_000_000, 64, "bfloat16", optimizer="adagrad")
    assert_type(needs, fastembed.Estimate)
    assert needs.fits in (True, False) and needs.total == needs.table + needs.state
    assert_type(fastembed.__version__, str)


def identifiers() -> None:
    """What goes by Keras's names."""
    made = initializers.get("uniform")
    assert_type(made, initializers.Initializer)
    assert_type(initializers.get(None), None)
    assert_type(initializers.get(initializers.Zeros), initializers.Zeros)
    assert_type(initializers.Orthogonal(seed=3)((4, 4)), Floats)
    initializers.Constant([1, 2]).fill(np.empty((3, 2), np.float32))
    initializers.VarianceScaling(2.0, "fan_avg", "normal", input_axes=[0])
    assert serialization.deserialize(serialization.serialize(made)).get_config() == made.get_config()
    assert serialization.serialize(regularizers.l1_l2(), version=2)["class_name"] == "L1L2"
    assert_type(regularizers.L2(0.5)(np.ones(3)), float)
    assert regularizers.get("l2").get_config() == regularizers.L2().get_config()
    assert constraints.get("unit_norm").rows is None and constraints.get(None) is None
    decays: list[schedules.LearningRateSchedule] = [
        schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True),
        schedules.InverseTimeDecay(0.1, 10, 0.5),
        schedules.PolynomialDecay(0.1, 10),
        schedules.PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.1]),
        schedules.CosineDecayRestarts(0.1, 10),
        schedules.get({"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1, "decay_steps": 10}}),
    ]
    assert all(0 <= decay(3) <= 1 for decay in decays)


def main(folder: Path) -> None:
    """Runs all."""
    readme(folder)
    look_ups()
    layers(folder)
    tables(folder)
    training(folder)
    checkpoints(folder)
    files(folder)
    functions()
    identifiers()
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
