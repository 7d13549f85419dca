"""Every wrong argument gives a clear error, and nothing has been written then: not one bit of any array."""

import contextlib

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, ops, optimizers

V, D = 10, 4
F4 = np.float32


@contextlib.contextmanager
def refused(error, message, *watched):
    """The block raises `error` with `message` in its text, and leaves arrays and optimizers as they were."""

    def now():
        arrays = [x for w in watched for x in ([w] if isinstance(w, np.ndarray) else w.variables)]
        return [array.tobytes() for array in arrays], [getattr(w, "iterations", 0) for w in watched]

    before = now()
    with pytest.raises(error) as caught:
        yield
    assert message in str(caught.value)
    assert now() == before


class World:
    """A layer, a bag layer, an optimizer with state for both, and an array to write to."""

    def __init__(self):
        self.layer = Embedding(V, D)
        self.bag = EmbeddingBag(V, D)
        self.adam = optimizers.Adam()
        self.dense = np.ones((3, 2), F4)
        self.out = np.full((2, D), 7, F4)
        self.apply(self.layer.gradient([1, 2], np.ones((2, D))), self.layer.embeddings)
        self.apply(self.bag.gradient([[1, 2]], np.ones((1, D))), self.bag.embeddings)

    def apply(self, gradient, variable):
        self.adam.apply_gradients([(np.ones((3, 2)), self.dense), (gradient, variable)])

    @property
    def watched(self):
        tables = [layer.embeddings.numpy() for layer in (self.layer, self.bag)]
        return [*tables, self.dense, self.out, self.adam]


@pytest.fixture
def world():
    return World()


# ---- ids ---------------------------------------------------------------------------------------------

# Two ids, of which the second is wrong.
BAD_IDS = {
    "N": ([1, V], IndexError, f"must lie in [0, {V}). Received: ids[{{}}] = {V} at flat position 1"),
    "negative": ([1, -1], IndexError, f"must lie in [0, {V}). Received: ids[{{}}] = -1 at flat position 1"),
    "int8": (np.array([1, -128], np.int8), IndexError, "= -128 at flat position 1"),
    "int32": (np.array([1, -(2**31)], np.int32), IndexError, "= -2147483648 at flat position 1"),
    "past int32": ([1, 2**32 + 1], IndexError, "= 4294967297 at flat position 1"),
    "int64": ([1, -(2**63)], IndexError, "= -9223372036854775808 at flat position 1"),
    "uint64": (np.array([1, 2**64 - 1], np.uint64), IndexError, "= 18446744073709551615 at flat position 1"),
    "whole float": ([1.0, 10.0], IndexError, "= 10 at flat position 1"),
    "fraction": ([1.0, 1.5], ValueError, "= 1.5 at flat position 1"),
    "NaN": ([1.0, np.nan], ValueError, "= nan at flat position 1"),
    "infinity": ([1.0, -np.inf], ValueError, "= -inf at flat position 1"),
    "inexact": ([1.0, 2.0**60], ValueError, "at flat position 1"),
    "inexact float32": (np.array([1, 2**25], F4), ValueError, "at flat position 1"),
    "inexact float16": (np.array([1, 4096], np.float16), ValueError, "at flat position 1"),
    "bool": ([True, False], TypeError, "`ids` must be integers. Received: ids of dtype bool"),
    "object": (np.array([1, 2], object), TypeError, "dtype object"),
    "huge int": ([1, 2**70], TypeError, "dtype object"),
    "None": ([1, None], TypeError, "dtype object"),
    "string": (["1", "2"], TypeError, "`ids` must be integers. Received: ids of dtype <U1"),
    "bytes": ([b"1", b"2"], TypeError, "`ids` must be integers"),
    "complex": ([1j, 2], TypeError, "dtype complex128"),
    "date": (np.array([1, 2], "M8[s]"), TypeError, "`ids` must be integers"),
    "record": (np.zeros(2, "i4,i4"), TypeError, "`ids` must be integers"),
}
USES = {
    "layer": lambda w, ids: w.layer(ids),
    "layer out": lambda w, ids: w.layer(ids, out=w.out),
    "layer of ragged": lambda w, ids: w.layer(Ragged(ids, [0, 2])),
    "layer step": lambda w, ids: w.apply(w.layer.gradient(ids, np.ones((2, D))), w.layer.embeddings),
    "bag": lambda w, ids: w.bag(np.asarray(ids)[None]),
    "bag out": lambda w, ids: w.bag(np.asarray(ids)[:, None], out=w.out),
    "bag of ragged": lambda w, ids: w.bag(Ragged(ids, [0, 2])),
    "bag step": lambda w, ids: w.apply(w.bag.gradient([ids], np.ones((1, D))), w.bag.embeddings),
    "bag step of ragged": lambda w, ids: w.bag.gradient(Ragged(ids, [0, 2]), np.ones((1, D))).coalesce(),
    "bag weights": lambda w, ids: w.bag.weights_gradient(Ragged(ids, [0, 2]), np.ones((1, D)), np.ones(2)),
    "slices": lambda w, ids: w.apply(IndexedSlices(np.ones((2, D)), ids, (V, D)), w.layer.embeddings),
    "coalesce": lambda w, ids: IndexedSlices(np.ones((2, D)), ids, (V, D)).coalesce(),
    "to_dense": lambda w, ids: IndexedSlices(np.ones((2, D)), ids, (V, D)).to_dense(),
    "table": lambda w, ids: w.layer.embeddings[ids],
    "gather": lambda w, ids: ops.gather(w.layer.embeddings.numpy(), ids, w.out),
    "pool": lambda w, ids: ops.pool(w.layer.embeddings.numpy(), ids, [0, 1, 2], out=w.out, combiner="max"),
    "update": lambda w, ids: ops.update(np.ones((V, D), F4), ops.parts(ids, np.ones((2, D))), "sgd", {}),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", BAD_IDS)
def test_ids(use, case, world):
    ids, error, message = BAD_IDS[case]
    message = message.partition("{}")[2] or message
    with refused(error, message, *world.watched):
        USES[use](world, ids)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_position_of_an_id(dtype, world):
    """The first wrong id among many is named, by index and by flat position."""
    ids = np.zeros((300, 20), dtype)
    ids[123, 4] = -7
    ids[200] = V
    with refused(IndexError, "ids[123, 4] = -7 at flat position 2464", *world.watched):
        world.layer(ids)
    with refused(IndexError, "ids[123, 4] = -7 at flat position 2464", *world.watched):
        world.bag(ids)
    with refused(IndexError, "= -7 at flat position 2464", *world.watched):
        world.apply(world.bag.gradient(ids, np.ones((300, D))), world.bag.embeddings)
    with refused(IndexError, "must lie in [0, 10). Received: ids[] = 11 at flat position 0", *world.watched):
        world.layer(11)


def test_padding_hides_no_bad_id(world):
    layer = EmbeddingBag(V, D, padding_idx=0)
    table = layer.embeddings.numpy()
    for ids in ([[0, V]], [[-1, 0]]):
        with refused(IndexError, "must lie in [0, 10)", table, *world.watched):
            layer(ids)
        with refused(IndexError, "must lie in [0, 10)", table, *world.watched):
            world.apply(layer.gradient(ids, np.ones((1, D))), layer.embeddings)


def test_nested_lists_of_different_lengths(world):
    with refused(ValueError, "Ragged.from_lists"):
        world.layer([[1], [2, 3]])


# ---- row splits --------------------------------------------------------------------------------------

BAD_SPLITS = {
    "fall": ([0, 2, 1, 3], ValueError, "`row_splits` must"),
    "start": ([1, 3], ValueError, "`row_splits` must start at 0"),
    "negative": ([-1, 3], ValueError, "`row_splits` must start at 0"),
    "short": ([0, 2], ValueError, "`row_splits` must end at"),
    "long": ([0, 4], ValueError, "`row_splits` must end at"),
    "far": ([0, 2**40], ValueError, "`row_splits` must end at"),
    "empty": (np.zeros(0, np.int64), ValueError, "`row_splits` must"),
    "matrix": ([[0, 3]], ValueError, "`row_splits` must"),
    "float": ([0.0, 3.0], TypeError, "`row_splits` must be int32 or int64"),
    "uint64": (np.array([0, 3], np.uint64), TypeError, "`row_splits` must be int32 or int64"),
    "bool": ([False, True], TypeError, "`row_splits` must be int32 or int64"),
    "None": (None, TypeError, "`row_splits` must"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_row_splits(case):
    splits, error, message = BAD_SPLITS[case]
    table, out = np.ones((V, D), F4), np.zeros((1, D), F4)
    with refused(error, message, table, out):
        ops.pool(table, [1, 2, 3], splits, out=out)
    if splits is not None:  # there None means one upstream row for each id
        with refused(error, message, table):
            ops.parts([1, 2, 3], np.ones((1, D)), splits)


def test_row_splits_that_change_later(world):
    """Splits are checked when a Ragged is made; one that is changed afterwards must still do no harm."""
    for combiner in ops.COMBINERS:
        layer = EmbeddingBag(V, D, combiner=combiner)
        for changed in ([0, 2**60, 4], [0, -5, 4], [0, 3, 2**40], [-(2**50), 3, 4], [3, 1, 4]):
            ids = Ragged([1, 2, 3, 4], np.array([0, 3, 4]))
            ids.row_splits[:] = changed
            with pytest.raises((ValueError, RuntimeError, IndexError)):
                layer(ids)
            table = layer.embeddings.numpy().copy()
            with contextlib.suppress(ValueError, RuntimeError, IndexError):
                gradient = layer.gradient(ids, np.ones((2, D)))
                world.adam.apply_gradients([(gradient, layer.embeddings)])
            assert np.isfinite(layer.embeddings.numpy()).all()
            layer.embeddings.assign(table)


# ---- other arguments of a look-up or a step ----------------------------------------------------------

READ_ONLY = np.zeros((2, D), F4)
READ_ONLY.flags.writeable = False
BAD_OUT = {
    "short": (np.zeros((1, D), F4), ValueError),
    "long": (np.zeros((3, D), F4), ValueError),
    "narrow": (np.zeros((2, D - 1), F4), ValueError),
    "flat": (np.zeros(2 * D, F4), ValueError),
    "deep": (np.zeros((1, 2, D), F4), ValueError),
    "float64": (np.zeros((2, D)), TypeError),
    "int32": (np.zeros((2, D), np.int32), TypeError),
    "big-endian": (np.zeros((2, D), ">f4"), TypeError),
    "strided": (np.zeros((2, 2 * D), F4)[:, ::2], ValueError),
    "Fortran": (np.zeros((2, D), F4, order="F"), ValueError),
    "unaligned": (np.zeros(8 * D + 1, np.uint8)[1:].view(F4).reshape(2, D), ValueError),
    "read-only": (READ_ONLY, ValueError),
    "list": ([[0.0] * D] * 2, TypeError),
}


@pytest.mark.parametrize("case", BAD_OUT)
def test_out(case, world):
    out, error = BAD_OUT[case]
    for look_up in (
        lambda: world.layer([1, 2], out=out),
        lambda: world.bag([[1], [2]], out=out),
        lambda: world.layer(Ragged([1, 2], [0, 2]), out=out),
        lambda: ops.pool(world.layer.embeddings.numpy(), [1, 2], [0, 1, 2], out=out),
    ):
        with refused(error, "`out` must", *world.watched, np.asarray(out)):
            look_up()


def test_out_that_overlaps(world):
    for layer, ids in ((world.layer, np.array([3, 4])), (world.bag, np.array([[3], [4]]))):
        with refused(ValueError, "`out` must not overlap", *world.watched):
            layer(ids, out=layer.embeddings.numpy()[2:4])
    ids = np.array([3, 4, 5, 6], np.int64)
    with refused(ValueError, "`out` must not overlap", ids):
        ops.gather(np.ones((V, 2), F4), ids, out=ids.view(F4).reshape(4, 2))
    weights = np.ones(2, F4)
    with refused(ValueError, "`out` must not overlap", weights):
        ops.pool(np.ones((V, 1), F4), [3, 4], [0, 1, 2], weights, out=weights.reshape(2, 1))


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.ones(3), ValueError),
        (np.ones((1, 3)), ValueError),
        (np.ones((2, 1)), ValueError),
        (np.ones((1, 2), int), TypeError),
        (np.ones((1, 2), bool), TypeError),
        (np.ones((1, 2), complex), TypeError),
        ([["a", "b"]], TypeError),
        (np.ones((1, 2), object), TypeError),
        (1.0, ValueError),
    ],
    ids=str,
)
def test_weights(weights, error, world):
    ids, upstream = [[1, 2]], np.ones((1, D))
    for use in (
        lambda: world.bag(ids, weights),
        lambda: world.bag(ids, weights, out=world.out[:1]),
        lambda: world.bag.gradient(ids, upstream, weights),
        lambda: world.bag.weights_gradient(ids, upstream, weights),
    ):
        with refused(error, "`weights` must", *world.watched):
            use()


def test_ragged_weights_and_upstream_of_other_rows(world):
    ids, other = Ragged([1, 2, 3], [0, 2, 3]), Ragged([1.0, 1.0, 1.0], [0, 1, 3])
    with refused(ValueError, "`weights` must", *world.watched):
        world.bag(ids, other)
    with refused(ValueError, "`weights` must", *world.watched):
        world.bag.gradient(ids, np.ones((2, D)), other)
    with refused(ValueError, "`upstream` must", *world.watched):
        world.layer.gradient(ids, other.with_values(np.ones((3, D))))


@pytest.mark.parametrize(
    ("upstream", "error"),
    [
        (np.ones((3, D)), ValueError),
        (np.ones((2, D + 1)), ValueError),
        (np.ones(2 * D), ValueError),
        (np.ones((2, 1, D)), ValueError),
        (np.ones((2, D), int), TypeError),
        (np.ones((2, D), bool), TypeError),
        (np.ones((2, D), np.float16), TypeError),
        (np.ones((2, D), complex), TypeError),
        (np.full((2, D), "a"), TypeError),
        (None, (TypeError, ValueError)),
    ],
    ids=lambda value: str(getattr(value, "shape", value)) + str(getattr(value, "dtype", "")),
)
def test_upstream(upstream, error, world):
    for use in (
        lambda: world.layer.gradient([1, 2], upstream),
        lambda: world.layer.gradient(Ragged([1, 2], [0, 2]), upstream),
        lambda: world.bag.gradient([[1], [2]], upstream),
        lambda: world.bag.weights_gradient([[1], [2]], upstream, np.ones((2, 1))),
    ):
        with refused(error, "`upstream` must", *world.watched):
            use()


def test_shape_of_bags(world):
    for ids in ([1, 2], 3, [[[1]]], Ragged.from_lists([[[1]]]), Ragged([[1]], [0, 1])):
        with refused(ValueError, "`ids` must", *world.watched):
            world.bag(ids)
        with refused(ValueError, "`ids` must", *world.watched):
            world.bag.gradient(ids, np.ones((1, D)))


# ---- plain arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (np.ones((V, D), np.longdouble), TypeError),
        (np.ones((V, D), ">f4"), TypeError),
        (np.ones((V, D), ">f8"), TypeError),
        (np.ones((V, D), ">f2"), TypeError),
        (np.ones((V, D), int), TypeError),
        ([[1.0] * D] * V, TypeError),
        (None, TypeError),
        (np.ones((V, D), F4, order="F"), ValueError),
        (np.ones((V, 2 * D), F4)[:, ::2], ValueError),
        (np.ones((2 * V, D), F4)[::2], ValueError),
        (np.ones(V, F4), ValueError),
        (np.ones((V, D, 1), F4), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", str(np.shape(value))),
)
def test_table(table, error):
    arrays = [table] if isinstance(table, np.ndarray) else []
    for use in (
        lambda: ops.gather(table, [1, 2]),
        lambda: ops.pool(table, [1, 2], [0, 2]),
        lambda: ops.update(table, ops.parts([1, 2], np.ones((2, D))), "sgd", {"learning_rate": 1.0}),
    ):
        with refused(error, "`table` must", *arrays):
            use()


def test_update_arguments():
    table, state = np.ones((V, D), F4), np.ones((V, D), F4)
    read_only = np.ones((V, D), F4)
    read_only.flags.writeable = False
    parts = ops.parts([1, 2], np.ones((2, D)))
    rate = {"learning_rate": 1.0}
    for arguments, error, message in (
        ((read_only, parts, "sgd", rate), ValueError, "`table` must be writeable"),
        ((np.ones((V, D + 1), F4), parts, "sgd", rate), ValueError, "`table` must have 4 columns"),
        ((table, parts, "adamw", rate), ValueError, "`step` must be one of"),
        ((table, parts, "sgd", {"lr": 1.0}), ValueError, "`hyper` must have keys"),
        ((table, parts, "adagrad", rate), ValueError, "`state` must"),
        ((table, parts, "adagrad", rate, read_only), ValueError, "`state` must be writeable"),
        ((table, parts, "adagrad", rate, state[:-1]), ValueError, "`state` must have shape"),
        ((table, parts, "adam", rate, state), ValueError, "`state` must have shape"),
        ((table, parts, "adagrad", rate, state.astype(float)), TypeError, "`state` must"),
        ((table[:2], parts, "sgd", rate), IndexError, "must lie in [0, 2)"),
    ):
        with refused(error, message, table, state, read_only):
            ops.update(*arguments)


def test_names_and_padding():
    table = np.ones((V, D), F4)
    for combiner in ("average", "", None, 1):
        with refused(ValueError, "`combiner` must be one of"):
            ops.pool(table, [1], [0, 1], combiner=combiner)
        with refused(ValueError, "`combiner` must be one of"):
            EmbeddingBag(V, D, combiner=combiner)
    for padding_idx in (-1, V, 1.5, "0", True):
        with refused((ValueError, TypeError), "`padding_idx` must"):
            Embedding(V, D, padding_idx=padding_idx)
        with refused((ValueError, TypeError), "`padding_idx` must"):
            ops.pool(table, [1], [0, 1], padding_idx=padding_idx)
    for padding_idx in (-1, 1.5, "0", True):
        with refused((ValueError, TypeError), "`padding_idx` must"):
            ops.parts([1], np.ones((1, D)), padding_idx=padding_idx)


# ---- making things -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag, lambda *shape: Table(shape)])
@pytest.mark.parametrize("size", [0, -1, 2.5, 3.0, True, "3", None, np.float64(3), [3]], ids=repr)
def test_sizes(make, size):
    for sizes in ((size, 3), (3, size)):
        with refused(ValueError, "must be a positive integer"):
            make(*sizes)


def test_layer_arguments():
    for arguments, error, message in (
        ({"dtype": "float128"}, TypeError, "`dtype` must be one of"),
        ({"dtype": "int8"}, TypeError, "`dtype` must be one of"),
        ({"dtype": np.int64}, TypeError, "`dtype` must be one of"),
        ({"embeddings_initializer": "nobody"}, ValueError, "nobody"),
        ({"weights": np.ones((V, D + 1))}, ValueError, "`weights` must have shape"),
        ({"weights": np.full((V, D), "a")}, (ValueError, TypeError), "must"),
        ({"embeddings_regularizer": "nobody"}, ValueError, "Could not interpret regularizer"),
    ):
        with refused(error, message):
            Embedding(V, D, **arguments)
    for shape in ((3,), (3, 4, 5)):
        with pytest.raises(ValueError, match="shape"):
            Table(shape)


def test_set_weights(world):
    good = np.ones((V, D))
    for weights in ([], [good] * 2, [good[1:]], [good[0]], good, [good.astype(str)], [None]):
        with refused((ValueError, TypeError), "must", *world.watched):
            world.layer.set_weights(weights)
    with refused((ValueError, TypeError), "must", *world.watched):
        world.layer.embeddings.assign(np.ones((V, D), complex))


# ---- optimizers --------------------------------------------------------------------------------------


def test_gradients_and_variables(world):
    strided = np.ones((V, 2 * D), F4)[:, ::2]
    good = world.layer.gradient([1, 2], np.ones((2, D)))
    table = world.layer.embeddings
    read_only = np.ones((V, D), F4)
    read_only.flags.writeable = False
    for gradient, variable, error in (
        (None, table, ValueError),
        (np.ones((V, D + 1)), table, ValueError),
        (np.ones((V, D), int), table, TypeError),
        (np.full((V, D), None), table, TypeError),
        (IndexedSlices(np.ones((1, D)), [1], (V + 1, D)), table, ValueError),
        (IndexedSlices(np.ones((1, D + 1)), [1], (V, D + 1)), table, ValueError),
        (good, np.ones((V, D), int), (TypeError, ValueError)),
        (good, [[1.0] * D] * V, TypeError),
        (good, strided, ValueError),
        (good, read_only, ValueError),
        (good, None, TypeError),
        (np.ones(V, F4), world.dense, ValueError),
    ):
        with refused(error, "Received", *world.watched, strided, read_only):
            world.apply(gradient, variable)
    with refused(ValueError, "twice", *world.watched):
        world.adam.apply_gradients([(good, table), (good, table)])
    with refused(ValueError, "as many", *world.watched):
        world.adam.apply([good], [table, world.dense])
    world.layer.trainable = False
    with refused(ValueError, "trainable", *world.watched):
        world.apply(good, table)


def test_a_wrong_id_in_the_last_gradient(world):
    """The first gradients are good; still nothing has been written."""
    first, last = Table((V, D)), Table((V, D))
    gradients = [(np.ones((3, 2)), world.dense)]
    gradients += [(IndexedSlices(np.ones((2, D)), [1, i], (V, D)), t) for i, t in ((2, first), (V, last))]
    with refused(IndexError, "at flat position 1", *world.watched, first.numpy(), last.numpy()):
        world.adam.apply_gradients(gradients)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, "0.1", None, [0.1, 0.2]], ids=repr)
def test_hyperparameters(value):
    for make, name in (
        (optimizers.SGD, "learning_rate"),
        (optimizers.SGD, "momentum"),
        (optimizers.Adagrad, "initial_accumulator_value"),
        (optimizers.RowwiseAdagrad, "epsilon"),
        (optimizers.Adam, "beta_1"),
        (optimizers.Adam, "beta_2"),
    ):
        with refused((ValueError, TypeError), f"`{name}` must"):
            make(**{name: value})
    optimizer = optimizers.SGD()
    with refused((ValueError, TypeError), "`learning_rate` must"):
        optimizer.learning_rate = value
    assert optimizer.learning_rate == 0.01


def test_slices():
    for values, indices, shape, error in (
        (np.ones((2, D)), [1], (V, D), ValueError),
        (np.ones((2, D)), [1, 2], (V, D + 1), ValueError),
        (np.ones(2), [1, 2], (V, D), ValueError),
        (np.ones((2, D), int), [1, 2], (V, D), TypeError),
        (np.ones((2, D)), [1, 2], (V,), ValueError),
    ):
        with refused(error, "must"):
            IndexedSlices(values, indices, shape)
    slices = IndexedSlices(np.ones((2, D)), [1, 2], (V, D))
    with refused(ValueError, "`dense_shape` must"):
        slices + IndexedSlices(np.ones((2, D)), [1, 2], (V + 1, D))
    with pytest.raises(TypeError):
        slices + 1
    with pytest.raises(TypeError):
        slices * np.ones(D)


# ---- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True])
def test_num_threads(number):
    before = fastembed.get_num_threads()
    with refused(ValueError, "`num_threads` must"):
        fastembed.set_num_threads(number)
    assert fastembed.get_num_threads() == before


@pytest.mark.parametrize("seed", [-1, 1.5, "2", True, None])
def test_seed(seed):
    with refused(ValueError, "`seed` must"):
        fastembed.set_random_seed(seed)


def test_initializers():
    for make, arguments in (
        (fastembed.initializers.RandomUniform, {"minval": 1.0, "maxval": 0.0}),
        (fastembed.initializers.RandomUniform, {"minval": -3e38, "maxval": 3e38}),
        (fastembed.initializers.RandomUniform, {"maxval": 1e39}),
        (fastembed.initializers.RandomUniform, {"maxval": np.inf}),
        (fastembed.initializers.RandomUniform, {"seed": 1.5}),
        (fastembed.initializers.RandomNormal, {"stddev": -1.0}),
        (fastembed.initializers.RandomNormal, {"mean": np.nan}),
    ):
        with refused(ValueError, "Received"):
            make(**arguments)
    for get in (fastembed.initializers.get, fastembed.optimizers.get):
        for identifier in ("nobody", {"class_name": "nobody", "config": {}}):
            with refused(ValueError, "nobody"):
                get(identifier)
