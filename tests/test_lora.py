"""LoRA: look-ups, gradients and training against W + (alpha / rank) A B made whole, in float64.

Do not break: the expected numbers come from the oracle on the effective table, which the package itself never makes.
"""

import copy
import json
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import reference as ref

import fastembed
from fastembed import Embedding, EmbeddingBag, Ragged, optimizers, regularizers

V, D, RANK, ALPHA = 30, 7, 3, 5.0
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SUMS = ["sum", "mean", "sqrtn"]


def with_lora(rng, make=Embedding, *args, alpha=ALPHA, **arguments):
    """A layer whose W, A and B are random, and the three as float64 arrays."""
    layer = make(V, D, *args, weights=ref.random_table(rng, V, D), **arguments)
    layer.enable_lora(RANK, alpha)
    w, a, b = (ref.random_table(rng, *table.shape) for table in layer.weights)
    layer.set_weights([w, a, b])
    return layer, *(table.numpy().astype(np.float64) for table in layer.weights)


def effective(w, a, b, alpha=ALPHA):
    return w + (RANK if alpha is None else alpha) / RANK * a @ b


def gradients(dense_vd, a, b, alpha=ALPHA):
    """Those of A and B from that of the effective table."""
    scale = (RANK if alpha is None else alpha) / RANK
    return scale * dense_vd @ b.T, scale * a.T @ dense_vd


# ---- look-ups and gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 5, 0.5, 0, -2])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding(padding_idx, alpha, rng):
    layer, w, a, b = with_lora(rng, padding_idx=padding_idx, alpha=alpha)
    if padding_idx is not None:
        assert not w[2].any()
        assert not a[2].any()
    table = effective(w, a, b, alpha)
    for ids in (3, [1, 2, 2], rng.integers(0, V, (4, 5)), rng.integers(0, V, (2, 3, 4)), np.zeros((0, 3), int)):
        ids = np.asarray(ids)
        out = layer(ids)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, table[ids], **CLOSE)
        given = np.zeros(out.shape, np.float32)
        assert layer(ids, out=given) is given
        assert np.array_equal(given, out)
        upstream = rng.standard_normal(out.shape)
        check_gradients(layer, a, b, alpha, ids.ravel(), ids, upstream, padding_idx)
    ragged = Ragged.from_lists([[[1], [2, 3]], [], [[3]]])
    out = layer(ragged)
    np.testing.assert_allclose(out.flat_values, table[[1, 2, 3, 3]], **CLOSE)
    upstream = rng.standard_normal((4, D))
    for given in (upstream, ragged.with_values(upstream)):
        check_gradients(layer, a, b, alpha, ragged.flat_values, ragged, given, padding_idx)


def check_gradients(layer, a, b, alpha, flat, ids, upstream, padding_idx):
    values = upstream.flat_values if isinstance(upstream, Ragged) else upstream
    dense, touched = ref.gather_gradient((V, D), flat, values, padding_idx)
    expected_a, expected_b = gradients(dense, a, b, alpha)
    of_a, of_b = layer.lora_gradients(ids, upstream)
    assert of_a.dense_shape == (V, RANK)
    assert of_a.coalesce().indices.tolist() == sorted(touched)
    np.testing.assert_allclose(of_a.to_dense(), expected_a, **CLOSE)
    assert of_b.shape == (RANK, D)
    assert of_b.dtype == np.float32
    np.testing.assert_allclose(of_b, expected_b, **CLOSE)
    np.testing.assert_allclose(layer.gradient(ids, upstream).to_dense(), dense, **CLOSE)  # of W, which is frozen


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("combiner", SUMS)
def test_bags(combiner, padding_idx, weighted, ragged, rng):
    bag, w, a, b = with_lora(rng, EmbeddingBag, combiner, padding_idx=padding_idx)
    table = effective(w, a, b)
    ids = rng.integers(0, 6, (4, 3))
    flat, splits = ids.ravel(), np.array([0, 3, 3, 8, 12]) if ragged else np.arange(0, 13, 3)
    given = Ragged(flat, splits) if ragged else ids
    weights = rng.uniform(0.5, 2, 12) if weighted else None
    shaped = weights if weights is None or ragged else weights.reshape(ids.shape)
    upstream = rng.standard_normal((4, D))
    expected = ref.pool(table, flat, splits, weights, combiner, padding_idx)
    np.testing.assert_allclose(bag(given, shaped), expected, **CLOSE)
    dense, touched = ref.pool_gradient(table, flat, splits, upstream, weights, combiner, padding_idx)
    of_a, of_b = bag.lora_gradients(given, upstream, shaped)
    expected_a, expected_b = gradients(dense, a, b)
    assert of_a.coalesce().indices.tolist() == sorted(touched)
    np.testing.assert_allclose(of_a.to_dense(), expected_a, **CLOSE)
    np.testing.assert_allclose(of_b, expected_b, **CLOSE)
    if weighted:
        of_weights = bag.weights_gradient(given, upstream, shaped)
        wanted = ref.weights_gradient(table, flat, splits, upstream, weights, combiner, padding_idx)
        assert of_weights.shape == np.shape(shaped)
        np.testing.assert_allclose(of_weights.ravel(), wanted, rtol=1e-3, atol=1e-4)


def test_mask_zero_bags(rng):
    bag, w, a, b = with_lora(rng, EmbeddingBag, "sum", mask_zero=True)
    np.testing.assert_allclose(bag([[0, 1, 2]])[0], effective(w, a, b)[[1, 2]].sum(0), **CLOSE)
    of_a, _ = bag.lora_gradients([[0, 1, 2]], np.ones((1, D)))
    assert of_a.coalesce().indices.tolist() == [1, 2]


def test_regularizers(rng):
    """Of the output as of any layer; of A and of B in place of the table, as in Keras."""
    layer, w, a, b = with_lora(rng, embeddings_regularizer=regularizers.L2(0.5), activity_regularizer="l2")
    out = effective(w, a, b)[[[1, 2], [2, 3]]]
    layer([[1, 2], [2, 3]])
    expected = [0.01 * (out**2).sum() / 2, 0.5 * (a**2).sum(), 0.5 * (b**2).sum()]
    np.testing.assert_allclose(layer.losses, expected, **CLOSE)
    upstream = rng.standard_normal((2, 2, D))
    whole = upstream + 0.02 * out / 2
    dense, _ = ref.gather_gradient((V, D), [1, 2, 2, 3], whole.reshape(-1, D))
    expected_a, expected_b = gradients(dense, a, b)
    of_a, of_b = layer.lora_gradients([[1, 2], [2, 3]], upstream)
    np.testing.assert_allclose(of_a.to_dense()[1:4], expected_a[1:4] + a[1:4], **CLOSE)
    np.testing.assert_allclose(of_b, expected_b + b, **CLOSE)
    layer.trainable = False
    assert len(layer.losses) == 1


@pytest.mark.parametrize("dtype", ["mixed_float16"])
def test_mixed_precision(dtype, rng):
    layer, w, a, b = with_lora(rng, dtype=dtype)
    out = layer([1, 2])
    assert out.dtype == np.float16
    np.testing.assert_allclose(out, effective(w, a, b)[[1, 2]], rtol=2e-3, atol=2e-3)
    assert [table.dtype for table in layer.weights] == [np.float32] * 3
    of_a, _ = layer.lora_gradients([1, 2], np.ones((2, D), np.float16))
    assert of_a.to_dense().any()


# ---- training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.SGD(0.1), optimizers.SGD(0.1, momentum=0.5), optimizers.Adagrad(0.1), optimizers.Adam(0.05)],
    ids=repr,
)
@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_training_lowers_a_loss_and_leaves_the_table(make, optimizer, rng):
    optimizer = copy.deepcopy(optimizer)
    layer = make(V, D, weights=ref.random_table(rng, V, D))
    before = layer.get_weights()[0]
    layer.enable_lora(RANK)
    ids = rng.integers(0, V, (20, 3))
    assert np.array_equal(layer(ids), make(V, D, weights=before)(ids))  # B is zero at first
    target = layer(ids) + rng.standard_normal(D)
    losses = []
    for _ in range(40):
        difference = layer(ids) - target
        losses.append(np.mean(difference**2))
        optimizer.apply(layer.lora_gradients(ids, 2 * difference / 20), layer.trainable_weights)
    assert losses[-1] < 0.8 * losses[0]
    assert np.array_equal(layer.embeddings.numpy(), before)
    out = layer(ids)
    layer.merge_lora()
    np.testing.assert_allclose(layer(ids), out, rtol=1e-4, atol=1e-4)


def test_the_frozen_table_takes_no_update(rng):
    layer, *_ = with_lora(rng)
    gradient = layer.gradient([1], np.ones((1, D)))
    with pytest.raises(ValueError, match="must be trainable"):
        optimizers.SGD().apply_gradients([(gradient, layer.embeddings)])


# ---- merging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_merge(block, rng, monkeypatch):
    monkeypatch.setattr("fastembed.layers.lora._BLOCK", block)
    layer, w, a, b = with_lora(rng, padding_idx=4)
    memory = layer.embeddings.numpy()
    layer.merge_lora()
    assert layer.embeddings.numpy() is memory
    np.testing.assert_allclose(memory, effective(w, a, b), **CLOSE)
    assert not memory[4].any()
    assert not layer.lora_enabled
    assert layer.lora_embeddings_a is layer.lora_embeddings_b is None
    assert layer.trainable_weights == layer.weights == [layer.embeddings]
    assert (layer.lora_rank, layer.lora_alpha) == (None, None)
    assert "lora_rank" not in layer.get_config()
    optimizers.SGD(1.0).apply_gradients([(layer.gradient([1], np.ones((1, D))), layer.embeddings)])
    with pytest.raises(ValueError, match="`merge_lora` needs `enable_lora`"):
        layer.merge_lora()
    layer.enable_lora(2)
    assert layer.lora_embeddings_a.shape == (V, 2)


def test_merge_of_a_frozen_layer(rng):
    layer, w, a, b = with_lora(rng, trainable=False)
    assert layer.trainable_weights == []
    layer.merge_lora()
    np.testing.assert_allclose(layer.embeddings.numpy(), effective(w, a, b), **CLOSE)
    assert not layer.embeddings.trainable


# ---- the Keras surface -------------------------------------------------------------------------------


def test_surface(rng):
    layer = Embedding(V, D)
    layer.build()
    assert not layer.lora_enabled
    layer.enable_lora(RANK)
    table, a, b = layer.weights
    assert layer.lora_enabled
    assert (a, b) == (layer.lora_embeddings_a, layer.lora_embeddings_b)
    assert table is layer.embeddings
    assert [x.name for x in layer.weights] == ["embeddings", "lora_embeddings_a", "lora_embeddings_b"]
    assert [x.shape for x in layer.weights] == [(V, D), (V, RANK), (RANK, D)]
    assert layer.trainable_weights == [a, b]
    assert layer.non_trainable_weights == [table]
    assert layer.count_params() == V * D + RANK * (V + D)
    assert (layer.lora_rank, layer.lora_alpha) == (RANK, RANK)
    assert a.numpy().any()
    assert not b.numpy().any()
    layer.trainable = False
    assert layer.trainable_weights == []
    layer.trainable = True
    assert layer.trainable_weights == [a, b]


def test_get_and_set_weights(rng):
    layer, *_ = with_lora(rng, padding_idx=1)
    values = layer.get_weights()
    assert [array.shape for array in values] == [(V, D), (V, RANK), (RANK, D)]
    assert not any(np.shares_memory(x, table.numpy()) for x, table in zip(values, layer.weights, strict=True))
    layer.set_weights([np.ones_like(array) for array in values])
    assert layer(2).tolist() == [1 + ALPHA] * D
    assert not layer(1).any()  # the padding row of A too
    layer.set_weights(values)
    for wrong in (
        values[:1],
        values + values[:1],
        [values[0], values[2], values[1]],
        [values[0], values[1], values[2][:1]],
        [values[0] + 1, values[1], np.full(values[2].shape, "x")],
        [values[0] + 1, np.full(values[1].shape, None), values[2]],
        None,
        3,
    ):
        with pytest.raises(ValueError, match="`weights` must"):
            layer.set_weights(wrong)
        assert all(map(np.array_equal, layer.get_weights(), values))  # nothing was written


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_built_by_the_argument(make, rng):
    layer = make(V, D, lora_rank=RANK, lora_alpha=2 * RANK)
    assert not layer.lora_enabled
    layer.build()
    assert layer.lora_enabled
    assert layer.lora_embeddings_a.numpy().any()
    assert (layer.lora_rank, layer.lora_alpha) == (RANK, 2 * RANK)
    assert layer.trainable_weights == layer.weights[1:]
    given = make(V, D, lora_rank=RANK, weights=ref.random_table(rng, V, D))
    assert given.lora_enabled
    assert given.lora_alpha == RANK


def test_python_threads_build_it_once(rng):
    """None of them ever sees the table without A and B."""
    for _ in range(20):
        layer = Embedding(2000, D, lora_rank=RANK)
        seen, start = [], threading.Barrier(8)

        def work(layer=layer, seen=seen, start=start):
            start.wait(10)
            layer.build()
            seen.append((layer.lora_enabled, layer.embeddings.trainable, layer.lora_embeddings_a))
            layer.lora_gradients([1], np.ones((1, D)))

        running = [threading.Thread(target=work) for _ in range(8)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(10)
        assert seen == [(True, False, layer.lora_embeddings_a)] * 8


# ---- configs, copies, files --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_config(make, rng):
    layer, *_ = with_lora(rng, make)
    config = layer.get_config()
    assert (config["lora_rank"], config["lora_alpha"]) == (RANK, ALPHA)
    again = make.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    again.build()
    assert again.lora_enabled
    assert again.lora_embeddings_b.shape == (RANK, D)
    assert "lora_rank" not in make(V, D).get_config()


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_copies_and_files(make, rng, tmp_path):
    layer, *_ = with_lora(rng, make)
    layer.save(tmp_path / "layer")
    ids = rng.integers(0, V, (3, 4))
    for mode in (None, "r", "c", "r+"):
        again = fastembed.load(tmp_path / "layer", mode)
        assert again.lora_enabled
        assert all(map(np.array_equal, again.get_weights(), layer.get_weights()))
        assert np.array_equal(again(ids), layer(ids))
        assert again.trainable_weights == again.weights[1:]
        assert again.get_config() == layer.get_config()
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(again(ids), layer(ids))
        upstream = np.ones_like(again(ids))
        optimizers.SGD(1.0).apply(again.lora_gradients(ids, upstream), again.trainable_weights)
        assert not np.array_equal(again(ids), layer(ids))
    layer.merge_lora()
    layer.save(tmp_path / "layer")
    assert sorted(path.name for path in (tmp_path / "layer").iterdir()) == ["config.json", "embeddings.npy"]
    np.testing.assert_allclose(fastembed.load(tmp_path / "layer")(ids), layer(ids))


def test_a_table_in_a_file(rng, tmp_path):
    path = tmp_path / "table.npy"
    values = ref.random_table(rng, V, D)
    np.save(path, values)
    layer = Embedding(V, D, path=path, lora_rank=RANK)
    optimizers.SGD(0.1).apply(layer.lora_gradients([1], np.ones((1, D))), layer.trainable_weights)
    optimizers.SGD(0.1).apply(layer.lora_gradients([1], np.ones((1, D))), layer.trainable_weights)
    assert np.array_equal(np.load(path), values)
    layer.merge_lora()
    assert not np.array_equal(np.load(path)[1], values[1])


# ---- what is refused ---------------------------------------------------------------------------------


def test_refusals(rng):
    with pytest.raises(ValueError, match="LoRA needs a layer that is built"):
        Embedding(V, D).enable_lora(2)
    for make in (Embedding, EmbeddingBag):
        layer = make(V, D, embeddings_constraint="non_neg")
        layer.build()
        with pytest.raises(ValueError, match="LoRA needs a layer without `embeddings_constraint`"):
            layer.enable_lora(2)
        assert not layer.lora_enabled
        with pytest.raises(ValueError, match="LoRA needs a layer without `embeddings_constraint`"):
            make(V, D, embeddings_constraint="non_neg", lora_rank=2)
    layer = EmbeddingBag(V, D, "max")
    layer.build()
    with pytest.raises(ValueError, match="LoRA needs a combiner that is a sum"):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="LoRA needs a combiner that is a sum"):
        EmbeddingBag(V, D, "max", lora_rank=2)
    layer, *_ = with_lora(rng)
    with pytest.raises(ValueError, match="LoRA can be enabled once"):
        layer.enable_lora(2)
    plain = Embedding(V, D)
    for call in (lambda: plain.lora_gradients([1], np.ones((1, D))), plain.merge_lora):
        with pytest.raises(ValueError, match="needs `enable_lora` before it"):
            call()


@pytest.mark.parametrize("rank", [0, -1, 2.0, "2", True, None, [2], 10**400], ids=str)
def test_wrong_ranks(rank):
    layer = Embedding(V, D)
    layer.build()
    with pytest.raises(ValueError, match="`rank` must be a positive integer"):
        layer.enable_lora(rank)
    assert not layer.lora_enabled
    assert layer.embeddings.trainable
    if rank is not None:
        with pytest.raises(ValueError, match="`lora_rank` must be a positive integer"):
            Embedding(V, D, lora_rank=rank)


@pytest.mark.parametrize("alpha", ["1", True, [1], 1j, np.nan, np.inf, 10**400, 1e308], ids=str)
def test_wrong_alphas(alpha):
    layer = Embedding(V, D)
    layer.build()
    with pytest.raises((TypeError, ValueError), match="`lora_alpha` must be a"):
        layer.enable_lora(2, alpha)
    assert not layer.lora_enabled
    with pytest.raises((TypeError, ValueError), match="`lora_alpha` must be a"):
        Embedding(V, D, lora_rank=2, lora_alpha=alpha)


def test_initializers(rng):
    layer = Embedding(V, D)
    layer.build()
    layer.enable_lora(RANK, a_initializer="ones", b_initializer=fastembed.initializers.Constant(2.0))
    np.testing.assert_allclose(layer([1]), layer.embeddings.numpy()[[1]] + 2 * RANK, rtol=1e-6)
    for wrong in ("nobody", 3):
        other = Embedding(V, D)
        other.build()
        with pytest.raises((ValueError, TypeError)):
            other.enable_lora(RANK, a_initializer=wrong)
        assert not other.lora_enabled


def test_bad_ids_and_upstream(rng):
    layer, *_ = with_lora(rng)
    before = layer.get_weights()
    out = np.full((2, D), 7, np.float32)
    with pytest.raises(IndexError, match=f"must lie in \\[0, {V}\\)"):
        layer([1, V], out=out)
    assert (out == 7).all()
    with pytest.raises(IndexError):
        layer.lora_gradients([1, V], np.ones((2, D)))
    with pytest.raises(ValueError, match="`upstream` must have shape"):
        layer.lora_gradients([1, 2], np.ones((2, RANK)))
    for wrong in (layer.embeddings.numpy()[:2], layer.lora_embeddings_b.numpy()[:2]):
        with pytest.raises(ValueError, match="`out` must not overlap"):
            layer([1, 2], out=wrong)
    assert all(map(np.array_equal, layer.get_weights(), before))


# ---- memory ------------------------------------------------------------------------------------------


def test_a_look_up_costs_what_its_batch_costs():
    """Eight ids of a million rows: A B, or a gradient, as large as the table would be 64 MB."""
    layer = Embedding(1_000_000, 16, "zeros")
    layer.build()
    layer.enable_lora(4, b_initializer="ones")
    ids, upstream = np.arange(8) * 100_000, np.ones((8, 16), np.float32)
    optimizer = optimizers.SGD(0.1)
    layer(ids)
    tracemalloc.start()
    try:
        layer(ids)
        pair = layer.lora_gradients(ids, upstream)
        optimizer.apply(pair, layer.trainable_weights)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        start, _ = tracemalloc.get_traced_memory()
        layer.merge_lora()
        _, of_merge = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert of_merge - start < 20_000_000
