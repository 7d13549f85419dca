"""Embedding, EmbeddingBag, Table and IndexedSlices: the surface that users hold."""

import copy
import pickle

import numpy as np
import pytest
import reference as ref

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, optimizers

V, D = 50, 6
LAYERS = [Embedding, EmbeddingBag]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
COMBINERS = ["sum", "mean", "sqrtn", "max"]


def rectangular(ids):
    """Row splits of a rectangle of ids."""
    return np.arange(len(ids) + 1) * ids.shape[1]


# ---- look-ups ----------------------------------------------------------------------------------------


def test_embedding_of_all_kinds_of_ids(rng):
    layer = Embedding(V, D)
    table = layer.embeddings.numpy()
    arrays = np.int32(3), np.zeros((2, 3, 4), np.uint8), np.zeros((0, 4), int)
    for ids in (7, [1, 2], [[1, 2], [3, 4]], (5, 6), *arrays):
        out = layer(ids)
        assert out.dtype == np.float32
        assert np.array_equal(out, ref.gather(table, ids))
        assert not np.shares_memory(out, table)
    assert layer([]).shape == (0, D)
    ids = ref.random_ids(rng, 12, V).reshape(3, 4)
    out = np.zeros((3, 4, D), np.float32)
    assert layer(ids, out=out) is out
    assert np.array_equal(out, table[ids])


def test_embedding_of_ragged():
    layer = Embedding(V, D)
    for rows in ([[1, 2], [], [3]], [[[1], [2, 3]], [], [[]]], [], [[], []]):
        ids = Ragged.from_lists(rows)
        out = layer(ids)
        assert isinstance(out, Ragged)
        assert out.shape == (*ids.shape, D)
        assert out.row_splits is ids.row_splits
        assert np.array_equal(out.flat_values, layer.embeddings.numpy()[ids.flat_values])
    buffer = np.zeros((3, D), np.float32)
    out = layer(Ragged([1, 2, 3], np.array([0, 1, 3], np.int32)), out=buffer)
    assert out.flat_values is buffer
    assert buffer.any()


@pytest.mark.parametrize("combiner", COMBINERS)
def test_bag(combiner, rng):
    layer = EmbeddingBag(V, D, combiner)
    table = layer.embeddings.numpy()
    ids, weights = ref.random_ids(rng, 20, V).reshape(5, 4), rng.uniform(1, 2, (5, 4))
    upstream = rng.standard_normal((5, D))
    ragged = Ragged(ids.ravel(), rectangular(ids).astype(np.int32))
    given, flat = (table, ids.ravel(), rectangular(ids)), weights.ravel()
    for bags, w in (
        (ids, None),
        (ragged, None),
        (ids, weights),
        (ids.tolist(), weights.tolist()),
        (ragged, flat),
        (ragged, ragged.with_values(flat)),
    ):
        given_w = None if w is None else flat
        expected = ref.pool(*given, given_w, combiner)
        out = np.zeros((5, D), np.float32)
        assert layer(bags, weights=w, out=out) is out
        np.testing.assert_allclose(out, expected, **CLOSE)
        assert np.array_equal(layer(bags, w), out)
        gradient, touched = ref.pool_gradient(*given, upstream, given_w, combiner)
        slices = layer.gradient(bags, upstream, w)
        np.testing.assert_allclose(slices.to_dense(), gradient, **CLOSE)
        assert slices.coalesce().indices.tolist() == sorted(touched)
        if w is not None:
            actual = layer.weights_gradient(bags, upstream, w)
            wanted = ref.weights_gradient(*given, upstream, flat, combiner)
            assert actual.shape == ((ids.size,) if bags is ragged else ids.shape)
            np.testing.assert_allclose(actual.ravel(), wanted, **CLOSE)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_bag_of_nothing(combiner):
    layer = EmbeddingBag(V, D, combiner)
    for empty in (np.zeros((0, 3), int), np.zeros((0, 0), int), Ragged([], [0])):
        assert layer(empty).shape == (0, D)
    for empty in (np.zeros((2, 0), int), Ragged.from_lists([[], []])):
        assert np.array_equal(layer(empty), np.zeros((2, D)))
        assert layer.gradient(empty, np.ones((2, D))).coalesce().indices.size == 0


def test_bag_of_strided_splits():
    layer = EmbeddingBag(V, D)
    splits = np.repeat([0, 2, 3], 2)[::2]
    expected = layer(Ragged([1, 2, 3], [0, 2, 3]))
    assert np.array_equal(layer(Ragged([1, 2, 3], splits)), expected)
    assert layer.gradient(Ragged([1, 2, 3], splits), expected).coalesce().indices.tolist() == [1, 2, 3]


def test_embedding_gradient(rng):
    layer = Embedding(V, D)
    ids = ref.random_ids(rng, 24, V).reshape(2, 3, 4)
    upstream = rng.standard_normal((2, 3, 4, D)).astype(np.float32)
    dense, touched = ref.gather_gradient((V, D), ids, upstream)
    flat = upstream.reshape(-1, D)
    ragged = Ragged(ids.ravel(), [0, 10, 10, 24])
    for slices in (
        layer.gradient(ids, upstream),
        layer.gradient(ids.tolist(), upstream.astype(float)),
        layer.gradient(ragged, flat),
        layer.gradient(ragged, ragged.with_values(flat)),
    ):
        assert slices.dense_shape == (V, D)
        assert np.array_equal(slices.indices, ids.ravel())
        assert np.array_equal(slices.values, flat)
        np.testing.assert_allclose(slices.to_dense(), dense, **CLOSE)
        unique = slices.coalesce()
        assert unique.indices.tolist() == sorted(touched)
        np.testing.assert_allclose(unique.values, dense[unique.indices], **CLOSE)
    one = layer.gradient(3, np.ones(D))
    assert one.indices.tolist() == [3]


def test_gradients_hold_no_expanded_values():
    """The slices of a bag layer hold the bags' gradients: 1,000 ids of a bag are one upstream row."""
    layer = EmbeddingBag(V, D, "sum")
    upstream = np.ones((3, D), np.float32)
    slices = layer.gradient(np.zeros((3, 1000), int), upstream)
    assert slices.parts.upstream_bd.shape == (3, D)
    assert slices.indices.shape == (3000,)
    assert np.array_equal(slices.values, np.ones((3000, D)))


# ---- padding and masks -------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [0, 7, V - 1])
def test_padding_idx(padding_idx, rng):
    layer = Embedding(V, D, padding_idx=padding_idx)
    table = layer.embeddings.numpy()
    assert not table[padding_idx].any()
    assert table[np.arange(V) != padding_idx].all()
    ids = np.array([padding_idx, 1, padding_idx, 2])
    slices = layer.gradient(ids, np.ones((4, D)))
    assert slices.indices.tolist() == [1, 2]
    assert slices.values.shape == (2, D)
    for optimizer in (optimizers.SGD(1.0, momentum=0.9), optimizers.Adam(1.0)):
        optimizer.apply_gradients([(slices, layer.embeddings)])
        assert not table[padding_idx].any()
    for combiner in COMBINERS:
        bag = EmbeddingBag(V, D, combiner, weights=rng.standard_normal((V, D)), padding_idx=padding_idx)
        rows = bag.embeddings.numpy()
        assert not rows[padding_idx].any()
        without = bag([[1, 2]])
        assert np.array_equal(bag([ids]), without)
        assert not bag([[padding_idx]]).any()
        assert bag.gradient([ids], np.ones((1, D))).coalesce().indices.tolist() == [1, 2]
        assert bag.weights_gradient([ids], np.ones((1, D)), np.ones((1, 4)))[0, [0, 2]].tolist() == [0, 0]
    layer.set_weights([np.ones((V, D))])
    assert not table[padding_idx].any()


def test_mask_zero():
    layer = Embedding(V, D, mask_zero=True)
    assert layer.supports_masking
    assert layer.embeddings.numpy()[0].any()
    assert layer.compute_mask([[1, 0], [0, 2]]).tolist() == [[True, False], [False, True]]
    assert Embedding(V, D).compute_mask([[1, 0]]) is None
    mask = layer.compute_mask(Ragged.from_lists([[1, 0], [], [0]]))
    assert isinstance(mask, Ragged)
    assert mask.to_list() == [[True, False], [], [False]]
    assert layer.compute_mask(Ragged.from_lists([[[0]], []])).to_list() == [[[False]], []]
    bag = EmbeddingBag(V, D, "sum", mask_zero=True)
    assert bag.compute_mask([[1, 0]]) is None
    assert np.array_equal(bag([[1, 0]]), bag([[1]]))


# ---- the Keras surface -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", LAYERS)
def test_keras_surface(make):
    layer = make(V, D, name="items")
    assert not layer.built
    assert layer.weights == layer.trainable_weights == layer.get_weights() == []
    assert layer.count_params() == V * D
    layer.build((None, 3))
    assert layer.built
    table = layer.embeddings
    assert layer.weights == layer.trainable_weights == [table]
    assert layer.non_trainable_weights == layer.losses == []
    assert (layer.name, layer.dtype, layer.trainable) == ("items", "float32", True)
    assert (layer.input_dim, layer.output_dim) == (V, D)
    (values,) = layer.get_weights()
    assert not np.shares_memory(values, table.numpy())
    layer.set_weights([values + 1])
    assert np.array_equal(table.numpy(), values + 1)
    assert layer.embeddings is table
    layer.trainable = False
    assert not table.trainable
    assert layer.trainable_weights == []
    assert layer.non_trainable_weights == [table]
    assert not make(V, D, trainable=False).embeddings.trainable


def test_compute_output_shape():
    assert Embedding(V, D).compute_output_shape((None, 3)) == (None, 3, D)
    assert Embedding(V, D).compute_output_shape(()) == (D,)
    assert EmbeddingBag(V, D).compute_output_shape((5, None)) == (5, D)


def test_names_count_up():
    first, second = Embedding(2, 2).name, Embedding(2, 2).name
    assert first.startswith("embedding")
    assert first != second
    assert EmbeddingBag(2, 2).name.startswith("embedding_bag")


def test_weights_argument(rng):
    values = rng.standard_normal((V, D))
    for given in (values, [values], values.astype(np.float32), values.tolist(), np.asfortranarray(values)):
        layer = Embedding(V, D, weights=given)
        assert layer.built
        assert np.array_equal(layer.embeddings.numpy(), values.astype(np.float32))
    integers = Embedding(V, D, weights=np.ones((V, D), int))
    assert (integers.embeddings.numpy() == 1).all()


@pytest.mark.parametrize("make", LAYERS)
def test_config_round_trip(make):
    arguments = {"name": "n", "mask_zero": True, "trainable": False, "input_length": 3, "padding_idx": 0}
    initializer = fastembed.initializers.RandomNormal(stddev=2.0, seed=5)
    layer = make(np.int64(V), D, embeddings_initializer=initializer, **arguments)
    config = layer.get_config()
    again = make.from_config(pickle.loads(pickle.dumps(config)))
    assert again.get_config() == config
    assert {key: getattr(again, key) for key in arguments} == arguments
    assert np.array_equal(again.embeddings.numpy(), layer.embeddings.numpy())
    assert config["dtype"]["config"] == {"name": "float32"}
    assert type(config["input_dim"]) is int
    if make is EmbeddingBag:
        assert EmbeddingBag.from_config(EmbeddingBag(V, D, "max").get_config()).combiner == "max"


def test_config_is_that_of_keras_3():
    """Keys in Keras's order and its envelopes, for a layer with nothing that Keras does not know."""
    config = Embedding(V, D, name="n").get_config()
    assert list(config) == [
        "name",
        "trainable",
        "dtype",
        "input_dim",
        "output_dim",
        "embeddings_initializer",
        "embeddings_regularizer",
        "activity_regularizer",
        "embeddings_constraint",
        "mask_zero",
        "quantization_config",
    ]
    assert config["embeddings_initializer"] == {
        "module": "keras.initializers",
        "class_name": "RandomUniform",
        "config": {"seed": None, "minval": -0.05, "maxval": 0.05},
        "registered_name": None,
    }


@pytest.mark.parametrize("make", LAYERS)
def test_pickle_and_deepcopy(make):
    layer = make(V, D, name="n", mask_zero=True)
    for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        unbuilt = duplicate(make(V, D))
        assert not unbuilt.built
        assert unbuilt([[1]]).any()
        layer.build()
        other = duplicate(layer)
        assert other.get_config() == layer.get_config()
        assert np.array_equal(other([[1, 2]]), layer([[1, 2]]))
        assert not np.shares_memory(other.embeddings.numpy(), layer.embeddings.numpy())
        before = layer.get_weights()[0]
        gradient = other.gradient([[1, 2]], np.ones_like(other([[1, 2]])))
        optimizers.SGD(1.0).apply_gradients([(gradient, other.embeddings)])
        assert np.array_equal(layer.embeddings.numpy(), before)
        assert not np.array_equal(other.embeddings.numpy(), before)


# ---- Table and IndexedSlices -------------------------------------------------------------------------


def test_table(tmp_path, rng):
    values = rng.standard_normal((V, D)).astype(np.float32)
    for path in (None, tmp_path / "table.npy"):
        table = Table((V, D), path=path)
        assert not table.numpy().any()
        table.assign(values)
        assert (table.shape, table.dtype, table.nbytes, len(table)) == ((V, D), np.float32, V * D * 4, V)
        assert np.shares_memory(table.numpy(), table.numpy())
        assert np.array_equal(table[[3, 1]], values[[3, 1]])
        assert np.array_equal(np.asarray(table), values)
        assert np.asarray(table, np.float64).dtype == np.float64
        assert np.shares_memory(np.asarray(table), table.numpy())
        assert not np.shares_memory(np.array(table), table.numpy())
        with pytest.raises(ValueError, match="must be float32 where nothing may be copied"):
            table.__array__(np.float64, copy=False)
        assert table.path == (path and str(path))
    del table
    reopened = Table((V, D), path=path)
    assert np.array_equal(reopened.numpy(), values)
    assert np.array_equal(np.load(path), values)
    with pytest.raises(ValueError, match="`path` must hold"):
        Table((V + 1, D), path=path, mmap_mode="r")
    duplicate = pickle.loads(pickle.dumps(reopened))
    duplicate.assign(np.zeros((V, D)))
    assert np.array_equal(reopened.numpy(), values)


def test_layer_in_a_file(tmp_path):
    path = tmp_path / "table.npy"
    layer = Embedding(V, D, path=path)
    optimizers.SGD(1.0).apply_gradients([(layer.gradient([3], np.ones((1, D))), layer.embeddings)])
    values = layer.get_weights()[0]
    del layer
    assert np.array_equal(np.load(path), values)
    assert np.array_equal(Embedding(V, D, path=path).embeddings.numpy(), values)


def test_slices_arithmetic(rng):
    ids, values = ref.random_ids(rng, 30, V), rng.standard_normal((30, D)).astype(np.float32)
    a, b = IndexedSlices(values, ids, (V, D)), IndexedSlices(values[:4], ids[:4], (V, D))
    dense_a, dense_b = a.to_dense(), b.to_dense()
    np.testing.assert_allclose(dense_a, ref.gather_gradient((V, D), ids, values)[0], **CLOSE)
    np.testing.assert_allclose((a + b).to_dense(), dense_a + dense_b, **CLOSE)
    for factor in (2, 0.5, np.float32(0.5), np.array(3.0)):
        np.testing.assert_allclose((a * factor).to_dense(), dense_a * factor, **CLOSE)
        np.testing.assert_allclose((factor * a).to_dense(), dense_a * factor, **CLOSE)
    bag = EmbeddingBag(V, D, "mean", padding_idx=ids[0])
    mean = bag.gradient(ids.reshape(5, 6), values[:5])
    np.testing.assert_allclose((mean * 2 + a).to_dense(), 2 * mean.to_dense() + dense_a, **CLOSE)
    assert np.array_equal(a.indices, ids)
    assert np.array_equal(a.values, values)
    empty = IndexedSlices(np.zeros((0, D), np.float32), [], (V, D))
    assert not empty.to_dense().any()
    assert np.array_equal((a + empty).to_dense(), dense_a)


def test_show_config(capsys):
    fastembed.show_config()
    text = capsys.readouterr().out
    for word in (fastembed.__version__, "instruction sets", "threads"):
        assert word in text


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_a_gradient_makes_no_table(make):
    """Where nothing of the table is in it."""
    for more in ({}, {"lora_rank": 2, "embeddings_regularizer": "l2"}):
        layer = make(V, D, **more)
        ids = np.array([[1, 2], [2, 3]])
        layer.gradient(ids, np.ones(layer.compute_output_shape(ids.shape)))
        assert not layer.built
