"""Initializers: the exact bits of their generator, their distributions, seeds, names and configs.

Do not break: the bits are compared with tests/philox.py, so a saved seed gives the same table in every version.
"""

import statistics

import numpy as np
import philox
import pytest

import fastembed
from fastembed import Embedding, initializers, ops
from fastembed.initializers import Constant, Ones, RandomNormal, RandomUniform, Zeros

DIMS = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 256]
SEEDS = [0, 1, 2**32 + 5, 2**63 - 1, -1]
# Of the words of seed 2026 in rows of four: the smallest there is, and one of the largest.
EXTREMES = [(13974724, 3, 0), (111226503, 2, 2**32 - 4)]


def test_philox_is_the_published_one():
    """The known answers that come with the authors' own code."""
    ones = 0xFFFFFFFF
    for counter, key, answer in (
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ones] * 4, [ones] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ):
        assert " ".join(f"{int(word):08x}" for word in philox.philox(counter, key)) == answer


def filled(kind, shape, a, b, seed, first_row):
    table = np.empty(shape, np.float32)
    ops.fill(table, kind, a, b, seed, first_row)
    return table


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("d", DIMS)
def test_uniform_bits(d, seed):
    for first_row, low, high in ((0, -0.05, 0.05), (2**32 - 3, 0, 1), (7, -3, -1), (2**40, 2, 2)):
        expected = philox.uniform((37, d), seed, low, high, first_row)
        assert np.array_equal(filled("uniform", (37, d), low, high, seed, first_row), expected)


@pytest.mark.parametrize("d", DIMS)
def test_normal_bits(d):
    for seed, first_row, mean, stddev in ((0, 0, 0, 1), (-1, 2**32 - 3, 0, 0.05), (5, 7, -3, 2), (5, 2**40, 1, 0)):
        actual = filled("normal", (37, d), mean, stddev, seed, first_row)
        expected = philox.normal((37, d), seed, mean, stddev, first_row).astype(np.float32)
        np.testing.assert_array_max_ulp(actual, expected, maxulp=1)
        assert (actual == expected).mean() > 0.99


@pytest.mark.parametrize(("row", "column", "word"), EXTREMES)
def test_the_ends_of_the_range(row, column, word):
    assert philox.words((1, 4), 2026, row)[0, column] == word
    assert filled("uniform", (1, 4), 0, 1, 2026, row)[0, column] == (0 if word == 0 else 1 - 2**-24)
    z = filled("normal", (1, 4), 0, 1, 2026, row)[0, column]
    expected = np.float32(statistics.NormalDist().inv_cdf((word + 0.5) / 2**32))
    np.testing.assert_array_max_ulp(z, expected, maxulp=1)
    assert 6 < abs(z) < 7


def test_uniform_never_reaches_maxval():
    """Where the range has few floats, rounding would."""
    for low, high in ((1000, 1000.0002), (-1, -0.9999999), (-1e-7, 0), (0, 1e-45), (-1e30, 1e30)):
        low, high = np.float32(low), np.float32(high)
        table = RandomUniform(low, high, seed=3)((1000, 64))
        assert table.min() >= low
        assert table.max() < high


def kolmogorov_smirnov(values, cdf):
    """sqrt(n) times the largest distance between the empirical distribution and `cdf`."""
    values = np.sort(values, axis=None)
    n, p = len(values), cdf(values.astype(np.float64))
    return np.sqrt(n) * max((np.arange(1, n + 1) / n - p).max(), (p - np.arange(n) / n).max())


def normal_cdf(mean, stddev):
    return np.vectorize(statistics.NormalDist(mean, stddev).cdf)


@pytest.mark.parametrize("d", [1, 17, 64])
def test_distributions(d):
    """Below 1.95 in 999 cases of 1000; the seeds are fixed."""
    shape, n = (40_000 // d, d), 40_000 // d * d
    uniform = RandomUniform(-1, 3, seed=11)(shape)
    assert kolmogorov_smirnov(uniform, lambda x: (x + 1) / 4) < 1.95
    assert abs(uniform.mean(dtype=float) - 1) < 4 * np.sqrt(16 / 12 / n)
    assert abs(uniform.var(dtype=float) - 16 / 12) < 0.03
    assert uniform.min() >= -1
    assert uniform.max() < 3
    normal = RandomNormal(2, 3, seed=11)(shape)
    assert kolmogorov_smirnov(normal, normal_cdf(2, 3)) < 1.95
    z = (normal.astype(float) - 2) / 3
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)


def test_rows_columns_and_seeds_are_independent():
    """Neighbours are not correlated: along a row, along a column, and from seed to seed."""
    tables = [RandomNormal(stddev=1.0, seed=seed)((2000, 32)).astype(float) for seed in (1, 2)]
    for a, b in (
        (tables[0][:, 1:], tables[0][:, :-1]),
        (tables[0][:, 8:], tables[0][:, :-8]),
        (tables[0][1:], tables[0][:-1]),
        tables,
    ):
        assert abs((a * b).mean()) < 4 / np.sqrt(a.size)
    assert len(np.unique(RandomUniform(0, 1, seed=1)((2000, 32)))) > 63_700  # of 64,000 with 24 bits


# ---- seeds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [RandomUniform, RandomNormal])
def test_seeds(make):
    shape = (300, 17)
    one = make(seed=1)
    first = one(shape)
    assert np.array_equal(one(shape), first)
    assert np.array_equal(make(seed=1)(shape), first)
    assert np.array_equal(make(seed=np.int64(1))(shape), first)
    others = [make(seed=seed)(shape) for seed in (0, 2, -1, 2**32 + 1, None, None)]
    assert all((other != first).mean() > 0.99 for other in others)
    assert (others[-1] != others[-2]).mean() > 0.99
    unseeded = make()
    assert unseeded.seed is None
    assert np.array_equal(unseeded(shape), unseeded(shape))


@pytest.mark.parametrize("make", [RandomUniform, RandomNormal])
def test_a_row_does_not_depend_on_the_number_of_rows(make):
    for d in (1, 17, 64):
        long = make(seed=5)((3000, d))
        assert np.array_equal(make(seed=5)((10, d)), long[:10])
        tail = np.empty((100, d), np.float32)
        make(seed=5).fill(tail, first_row=2900)
        assert np.array_equal(tail, long[2900:])
        assert np.array_equal(Embedding(70, d, make(seed=5)).embeddings.numpy(), long[:70])


def test_set_random_seed():
    def made():
        return [Embedding(20, 3).embeddings.numpy().tobytes(), RandomNormal()((20, 3)).tobytes()]

    fastembed.set_random_seed(7)
    first, second = made(), made()
    fastembed.set_random_seed(7)
    assert made() == first
    assert made() == second != first
    fastembed.set_random_seed(np.int64(8))
    assert made() != first
    fastembed.set_random_seed(7)
    assert np.array_equal(RandomUniform(seed=3)((20, 3)), RandomUniform(seed=3)((20, 3)))
    assert made() == first  # one that has a seed of its own takes none of these


# ---- constants, names, configs -----------------------------------------------------------------------


def test_constants(guarded):
    for d in (1, 3, 16, 65):
        for initializer, value in ((Zeros(), 0), (Ones(), 1), (Constant(-2.5), -2.5), (Constant(), 0)):
            table = guarded(np.full((9, d), 7, np.float32))
            initializer.fill(table)
            assert (table == value).all()
    assert np.isnan(Constant(float("nan"))((2, 2))).all()


@pytest.mark.parametrize("d", DIMS)
def test_nothing_is_written_outside(d, guarded):
    for initializer in (RandomUniform(seed=1), RandomNormal(seed=1)):
        initializer.fill(guarded(np.zeros((23, d), np.float32)))


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3), (0, 3), (3, 0), (2, 3, 4)], ids=str)
def test_shapes(shape):
    for initializer in (RandomUniform(seed=1), RandomNormal(seed=1), Ones()):
        array = initializer(shape)
        assert array.shape == shape
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    with pytest.raises(TypeError, match="`dtype` must be 'float32'"):
        Ones()((2, 2), dtype="float64")


INSTANCES = [
    Zeros(),
    Ones(),
    Constant(2.5),
    RandomUniform(-2.0, 3.0, seed=4),
    RandomNormal(1.0, 2.0, seed=np.int64(4)),
    RandomUniform(),
    RandomNormal(),
]


@pytest.mark.parametrize("initializer", INSTANCES, ids=repr)
def test_configs(initializer):
    name, config = type(initializer).__name__, initializer.get_config()
    keras_3 = fastembed.serialization.serialize(initializer)
    assert keras_3 == {
        "module": "keras.initializers",
        "class_name": name,
        "config": config,
        "registered_name": None,
    }
    for again in (
        type(initializer).from_config(config),
        initializers.get(keras_3),
        initializers.get({"class_name": name, "config": config}),
    ):
        assert type(again) is type(initializer)
        assert again.get_config() == config
        if config.get("seed", 0) is not None:
            assert np.array_equal(again((5, 3)), initializer((5, 3)))
    assert initializers.get(initializer) is initializer


def test_names():
    names = {
        "uniform": RandomUniform,
        "random_uniform": RandomUniform,
        "RandomUniform": RandomUniform,
        "normal": RandomNormal,
        "random_normal": RandomNormal,
        "RandomNormal": RandomNormal,
        "zeros": Zeros,
        "zero": Zeros,
        "Zeros": Zeros,
        "ones": Ones,
        "one": Ones,
        "Ones": Ones,
        "constant": Constant,
        "Constant": Constant,
    }
    for name, cls in names.items():
        assert type(initializers.get(name)) is cls
        assert type(initializers.get(cls)) is cls
    assert initializers.get({"class_name": "Zeros"}).get_config() == {}
    assert initializers.get(None) is None
    assert initializers.get("uniform").get_config() == {"seed": None, "minval": -0.05, "maxval": 0.05}
    assert initializers.get("normal").get_config() == {"seed": None, "mean": 0.0, "stddev": 0.05}


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "glorot",
        "UNIFORM",
        3,
        1.5,
        True,
        [],
        dict,
        np.zeros(3),
        {},
        {"class_name": None},
        {"class_name": "Uniform"},
        {"class_name": "Zeros", "config": 3},
        {"class_name": "Zeros", "config": {"value": 1}},
        {"config": {}},
    ],
    ids=str,
)
def test_unknown(identifier):
    for use in (initializers.get, lambda x: Embedding(3, 2, x)):
        with pytest.raises((ValueError, TypeError)):
            use(identifier)


def test_zeros_and_ones_take_no_value():
    for cls in (Zeros, Ones):
        assert cls().get_config() == {}
        with pytest.raises(TypeError):
            cls(3.0)
