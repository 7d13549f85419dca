"""Orthogonal: orthonormal to the rounding of float32, in place, and uniform among orthonormal matrices.

Do not break: what takes LAPACK and what takes the chunks are both tested, and both sides of the limit between them.
"""

import sys

import numpy as np
import pytest

from fastembed import initializers, ops
from fastembed.initializers import Orthogonal
from fastembed.initializers import orthogonal as module

DIMS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127]


def error(matrix, gain=1.0):
    """The largest distance of the small Gram matrix, divided by gain^2, from the identity."""
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).astype(np.float64)
    return np.abs(tall.T @ tall / gain**2 - np.eye(tall.shape[1])).max()


@pytest.mark.parametrize("d", DIMS)
def test_orthonormal(d):
    for v in (1, 2, d, d + 1, 2 * d, 300, 5000):
        assert error(Orthogonal(seed=d)((v, d))) < 1e-6
        assert error(Orthogonal(gain=-3, seed=d)((v, d)), -3) < 1e-6


@pytest.mark.parametrize(
    "shape", [(100_000, 17), (17, 100_000), (20_000, 64), (1200, 600), (1199, 600), (600, 600)], ids=str
)
def test_large(shape):
    assert error(Orthogonal(seed=1)(shape)) < 1e-6


@pytest.mark.parametrize("shape", [(3000, 40), (40, 3000), (700, 350)], ids=str)
def test_chunks_and_lapack_agree(shape, monkeypatch):
    """Also where the last chunk is a short one."""
    by_lapack = Orthogonal(2.5, seed=3)(shape)
    monkeypatch.setattr(module, "SMALL", 0)
    for chunk in (1, 7000, 1 << 19):
        monkeypatch.setattr(module, "CHUNK", chunk)
        np.testing.assert_allclose(Orthogonal(2.5, seed=3)(shape), by_lapack, atol=1e-7)


@pytest.mark.parametrize("shape", [(50, 7), (7, 7), (7, 50)], ids=str)
def test_signs(shape):
    """Q of the normal matrix, where R has a positive diagonal, as Keras has it."""
    normal = np.empty(shape, np.float32)
    ops.fill(normal, "normal", 0.0, 1.0, seed=3)
    q = Orthogonal(seed=3)(shape)
    r = (q.T @ normal) if shape[0] >= shape[1] else (q @ normal.T)
    assert (np.diagonal(r) > 0).all()
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-5)


def test_uniform_among_rotations():
    """Elements of a random rotation in three dimensions are uniform in [-1, 1]."""
    values = np.sort([Orthogonal(seed=seed)((3, 3)) for seed in range(3000)], axis=0)
    p = np.arange(0.5, 3000)[:, None, None] / 3000
    assert np.abs((values + 1) / 2 - p).max() * np.sqrt(3000) < 2.2  # 9 elements, each below 1.95 in 999 of 1000


def test_more_dimensions():
    """As Keras: all but the last are one."""
    assert error(Orthogonal(seed=1)((5, 6, 4)).reshape(30, 4)) < 1e-6
    assert error(Orthogonal(seed=1)((2, 3, 40)).reshape(6, 40)) < 1e-6


def test_gain_zero_and_empty():
    assert not Orthogonal(0, seed=1)((50, 4)).any()
    assert not Orthogonal(0, seed=1)((100_000, 4)).any()
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert Orthogonal(seed=1)(shape).shape == shape


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(run_python):
    """100 MB become orthonormal with less than 40 MB beside them."""
    program = """
        import numpy as np
        from fastembed import ops
        from fastembed.initializers import Orthogonal

        def peak():
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

        Orthogonal(seed=1)((50_000, 64))  # libraries are loaded, threads have their buffers
        table = ops.zeros((100 * 2**20 // 256, 64))
        table[...] = 1
        before = peak()
        Orthogonal(seed=1).fill(table)
        assert np.isclose(np.linalg.norm(table[:, 0]), 1, atol=1e-3)
        print(table.nbytes / 2**20, peak() - before)
    """
    size, more = map(float, run_python(program).split())
    assert size == 100
    assert more < 40


def test_a_layer(tmp_path):
    from fastembed import Embedding

    layer = Embedding(5000, 64, "orthogonal", path=str(tmp_path / "table.npy"))
    assert error(layer.embeddings.numpy()) < 1e-6
    assert type(layer.embeddings_initializer) is initializers.Orthogonal
