"""The same look-ups, gradients and steps in torch and FBGEMM, where they are installed.

Do not break: settings are those under which both sides have the same formula; what differs is said here.
"""

import numpy as np
import pytest
import reference as ref
from peers import need, peer

import fastembed
from fastembed import Embedding, EmbeddingBag, Ragged, optimizers

torch = peer("torch")
pytestmark = pytest.mark.filterwarnings("ignore")

V, D, N, B = 60, 13, 300, 40
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tensor(array):
    return torch.from_numpy(np.array(array))


@pytest.fixture
def table(rng):
    return ref.random_table(rng, V, D)


@pytest.fixture
def ids(rng):
    return ref.random_ids(rng, N, V)


@pytest.fixture
def splits(rng):
    return ref.random_splits(rng, N, B)


# ---- look-ups and gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 0, V - 1])
def test_embedding(padding_idx, rng, table, ids):
    """torch's padding row is only zero in what it makes itself; here it is so in both."""
    ours = Embedding(V, D, weights=table, padding_idx=padding_idx)
    theirs = torch.nn.Embedding(V, D, padding_idx=padding_idx, sparse=True, _weight=tensor(ours.embeddings.numpy()))
    for shape in ((N,), (N // 4, 4), (N // 12, 3, 4)):
        upstream = rng.standard_normal((*shape, D)).astype(np.float32)
        out = theirs(tensor(ids.reshape(shape)))
        assert np.array_equal(ours(ids.reshape(shape)), out.detach().numpy())
        theirs.weight.grad = None
        out.backward(tensor(upstream))
        gradient = theirs.weight.grad.coalesce()
        slices = ours.gradient(ids.reshape(shape), upstream).coalesce()
        keep = gradient.indices()[0].numpy() != (-1 if padding_idx is None else padding_idx)
        assert np.array_equal(slices.indices, gradient.indices()[0].numpy()[keep])
        np.testing.assert_allclose(slices.values, gradient.values().numpy()[keep], **CLOSE)


@pytest.mark.parametrize("padding_idx", [None, 0, V - 1])
@pytest.mark.parametrize(
    ("mode", "weighted"), [("sum", False), ("sum", True), ("mean", False), ("max", False)], ids=str
)
def test_embedding_bag(mode, weighted, padding_idx, rng, table, ids, splits):
    """Per-sample weights are for sums alone there; gradients of a maximum are dense."""
    ours = EmbeddingBag(V, D, mode, weights=table, padding_idx=padding_idx)
    theirs = torch.nn.EmbeddingBag(
        V,
        D,
        mode=mode,
        sparse=mode != "max",
        include_last_offset=True,
        padding_idx=padding_idx,
        _weight=tensor(ours.embeddings.numpy()),
    )
    weights = rng.standard_normal(N).astype(np.float32) if weighted else None
    their_weights = tensor(weights).requires_grad_() if weighted else None
    upstream = rng.standard_normal((B, D)).astype(np.float32)
    out = theirs(tensor(ids), tensor(splits), their_weights)
    bags = Ragged(ids, splits)
    np.testing.assert_allclose(ours(bags, weights), out.detach().numpy(), **CLOSE)
    out.backward(tensor(upstream))
    dense = theirs.weight.grad.to_dense().numpy()
    np.testing.assert_allclose(ours.gradient(bags, upstream, weights).to_dense(), dense, **CLOSE)
    if weighted:
        actual = ours.weights_gradient(bags, upstream, weights)
        np.testing.assert_allclose(actual, their_weights.grad.numpy(), **CLOSE)


def test_rectangles_of_ids(rng, table, ids):
    ours = EmbeddingBag(V, D, "mean", weights=table)
    theirs = torch.nn.EmbeddingBag(V, D, mode="mean", _weight=tensor(table))
    out = theirs(tensor(ids.reshape(-1, 10))).detach().numpy()
    np.testing.assert_allclose(ours(ids.reshape(-1, 10)), out, **CLOSE)


# ---- optimizers --------------------------------------------------------------------------------------

SPARSE = {
    "SGD": (optimizers.SGD(0.1), lambda w: torch.optim.SGD(w, lr=0.1)),
    # Keras has sqrt(a + epsilon), torch sqrt(a) + epsilon: with 0 they agree.
    "Adagrad": (
        optimizers.Adagrad(0.1, initial_accumulator_value=0.1, epsilon=0.0),
        lambda w: torch.optim.Adagrad(w, lr=0.1, initial_accumulator_value=0.1, eps=0.0),
    ),
    "SparseAdam": (
        optimizers.Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-5),
        lambda w: torch.optim.SparseAdam(w, lr=0.01, betas=(0.8, 0.95), eps=1e-5),
    ),
}


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("mode", ["rows", "sum", "mean"])
def test_sparse_steps(mode, name, rng, table):
    """Five batches with duplicates, of which some rows are in none: those keep their values in both."""
    ours, make = SPARSE[name]
    ours = type(ours).from_config(ours.get_config())
    if mode == "rows":
        layer = Embedding(V, D, weights=table)
        theirs = torch.nn.Embedding(V, D, sparse=True, _weight=tensor(table))
    else:
        layer = EmbeddingBag(V, D, mode, weights=table)
        theirs = torch.nn.EmbeddingBag(V, D, mode=mode, sparse=True, _weight=tensor(table))
    optimizer = make(theirs.parameters())
    for batch in range(5):
        ids = ref.random_ids(rng, N, V - 20 + 2 * batch).reshape(-1, 6)
        upstream = rng.standard_normal(layer(ids).shape).astype(np.float32)
        ours.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
        optimizer.zero_grad()
        theirs(tensor(ids)).backward(tensor(upstream))
        optimizer.step()
    weight = theirs.weight.detach().numpy()
    np.testing.assert_allclose(layer.embeddings.numpy(), weight, rtol=1e-4, atol=1e-4)
    assert np.array_equal(layer.embeddings.numpy()[V - 10 : V - 1], table[V - 10 : V - 1])
    assert np.abs(weight - table).max() > 0.01


LONG = {
    **SPARSE,
    # With this epsilon the two places of it are 1e-9 apart, relative to steps.
    "Adagrad, epsilon": (
        optimizers.Adagrad(0.1, initial_accumulator_value=0.1, epsilon=1e-10),
        lambda w: torch.optim.Adagrad(w, lr=0.1, initial_accumulator_value=0.1, eps=1e-10),
    ),
    "SparseAdam, defaults": (
        optimizers.Adam(0.01, epsilon=1e-8),
        lambda w: torch.optim.SparseAdam(w, lr=0.01, betas=(0.9, 0.999), eps=1e-8),
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_fifty_sparse_steps(name, rng, table):
    """Every batch has rows many times, and rows pause for many steps; value and state."""
    ours, make = LONG[name]
    ours = type(ours).from_config(ours.get_config())
    layer, theirs = Embedding(V, D, weights=table), torch.nn.Embedding(V, D, sparse=True, _weight=tensor(table))
    optimizer = make(theirs.parameters())
    for step in range(50):
        ids = ref.random_ids(rng, 60, 10 + step % 9 * 5)
        assert len(np.unique(ids)) < 40
        upstream = rng.standard_normal((60, D)).astype(np.float32)
        ours.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
        optimizer.zero_grad()
        theirs(tensor(ids)).backward(tensor(upstream))
        optimizer.step()
    weight = theirs.weight.detach().numpy()
    np.testing.assert_allclose(layer.embeddings.numpy(), weight, rtol=2e-4, atol=2e-5)
    assert np.array_equal(weight[V - 9 :], table[V - 9 :])
    state = optimizer.state[theirs.weight]
    for name, key in (("accumulator", "sum"), ("momentum", "exp_avg"), ("velocity", "exp_avg_sq")):
        if key in state:
            actual = ours.state(layer.embeddings)[name]
            np.testing.assert_allclose(actual, state[key].numpy(), rtol=2e-4, atol=1e-6)


# Dense gradients: torch's momentum keeps lr out of the buffer, which is the same while lr does not change.
DENSE = {
    "momentum": (optimizers.SGD(0.1, momentum=0.9), lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9)),
    "nesterov": (
        optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, nesterov=True),
    ),
    # torch divides sqrt(v) by its bias correction before it adds epsilon.
    "Adam": (optimizers.Adam(0.01, epsilon=1e-12), lambda w: torch.optim.Adam(w, lr=0.01, eps=1e-12)),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_steps(name, rng, table):
    ours, make = DENSE[name]
    ours = type(ours).from_config(ours.get_config())
    array, weight = table.copy(), torch.nn.Parameter(tensor(table))
    optimizer = make([weight])
    for _ in range(5):
        gradient = rng.standard_normal((V, D)).astype(np.float32)
        ours.apply([gradient], [array])
        weight.grad = tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(array, weight.detach().numpy(), rtol=1e-4, atol=1e-5)


# ---- FBGEMM ------------------------------------------------------------------------------------------


@pytest.fixture
def fbgemm():
    """Makes its CPU kernel for one table, with an optimizer inside."""
    need("fbgemm_gpu")
    training = peer("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    common = peer("fbgemm_gpu.split_table_batched_embeddings_ops_common")
    configs = peer("fbgemm_gpu.split_embedding_configs")

    def make(table, optimizer, pooling, **hyper):
        module = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(*table.shape, common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)],
            optimizer=configs.EmbOptimType[optimizer],
            pooling_mode=common.PoolingMode[pooling],
            **hyper,
        )
        module.split_embedding_weights()[0].copy_(tensor(table))
        return module

    return make


@pytest.mark.parametrize(("pooling", "weighted"), [("sum", False), ("sum", True), ("mean", False)], ids=str)
@pytest.mark.parametrize("name", ["EXACT_SGD", "EXACT_ROWWISE_ADAGRAD"])
def test_fbgemm(name, pooling, weighted, rng, splits, fbgemm):
    """Rows are multiples of four floats there; its mean of weighted ids divides by their number."""
    table = ref.random_table(rng, V, 16)
    theirs = fbgemm(table, name, pooling.upper(), learning_rate=0.1, eps=1e-6)
    ours = {"EXACT_SGD": optimizers.SGD(0.1), "EXACT_ROWWISE_ADAGRAD": optimizers.RowwiseAdagrad(0.1, epsilon=1e-6)}
    layer, optimizer = EmbeddingBag(V, 16, pooling, weights=table), ours[name]
    for batch in range(50):
        ids = ref.random_ids(rng, N, V - 20 + 2 * (batch % 5))
        weights = rng.uniform(0.5, 2, N).astype(np.float32) if weighted else None
        upstream = rng.standard_normal((B, 16)).astype(np.float32)
        bags = Ragged(ids, splits)
        out = theirs(tensor(ids), tensor(splits), *([] if weights is None else [tensor(weights)]))
        np.testing.assert_allclose(layer(bags, weights), out.detach().numpy(), rtol=1e-4, atol=1e-4)
        optimizer.apply_gradients([(layer.gradient(bags, upstream, weights), layer.embeddings)])
        out.backward(tensor(upstream))
    weight = theirs.split_embedding_weights()[0].detach().numpy()
    np.testing.assert_allclose(layer.embeddings.numpy(), weight, rtol=1e-4, atol=1e-4)
    assert np.abs(weight - table).max() > 0.01
    if optimizer.variables:
        (state,) = optimizer.variables
        (theirs_state,) = theirs.split_optimizer_states()[0]
        np.testing.assert_allclose(state.ravel(), theirs_state.numpy().ravel(), rtol=1e-4, atol=1e-6)


def test_both_in_one_process(rng, threads):
    """Threads of torch and ours, in turn."""
    threads(2)
    torch.set_num_threads(2)
    table = ref.random_table(rng, 5000, 64)
    layer = Embedding(5000, 64, weights=table)
    ids = rng.integers(0, 5000, 50_000)
    for _ in range(5):
        out = torch.nn.functional.embedding(tensor(ids), tensor(table)).numpy()
        assert np.array_equal(layer(ids), out)
    assert fastembed.get_num_threads() == 2
