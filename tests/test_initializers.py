"""Initializers: the exact bits of their generator, their distributions, seeds, and tables in pieces.

Do not break: the bits are compared with tests/philox.py, so a saved seed gives the same table in every version.
"""

import statistics

import numpy as np
import philox
import pytest

import fastembed
from fastembed import Embedding, initializers, ops
from fastembed.initializers import RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling

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


@pytest.mark.parametrize("d", DIMS)
def test_truncated_normal_bits(d):
    for seed, first_row, mean, stddev in ((0, 0, 0, 1), (-1, 2**32 - 3, 0, 0.05), (5, 7, -3, 2), (5, 2**40, 1, 0)):
        actual = filled("truncated_normal", (37, d), mean, stddev, seed, first_row)
        expected = philox.normal((37, d), seed, mean, stddev, first_row, cut=2).astype(np.float32)
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
    for stddev in (1, 0.05, 1 / 3, 1e30):  # never further than 2 standard deviations, and nearly as far
        z = filled("truncated_normal", (1, 4), 0, stddev, 2026, row)[0, column]
        assert abs(z) <= np.float32(2) * np.float32(stddev)
        np.testing.assert_allclose(abs(z), np.float32(2 * stddev), rtol=1e-7)


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


def truncated_cdf(mean, stddev, cut=2):
    normal = statistics.NormalDist()
    low = normal.cdf(-cut)
    return np.vectorize(lambda x: (normal.cdf((x - mean) / stddev) - low) / (1 - 2 * low))


def truncated_moments(cut=2):
    """Variance and fourth moment of a standard normal without what is beyond +-cut, by integration by parts."""
    normal = statistics.NormalDist()
    inside = 1 - 2 * normal.cdf(-cut)
    edge = 2 * normal.pdf(cut) / inside
    variance = 1 - cut * edge
    return variance, 3 * variance - cut**3 * edge


def check_truncated(values, mean, stddev):
    """`stddev`: before the cut."""
    n = values.size
    assert kolmogorov_smirnov(values, truncated_cdf(mean, stddev)) < 1.95
    z = (values.astype(float) - mean) / stddev
    assert np.abs(z).max() <= 2 + 1e-6
    variance, fourth = truncated_moments()
    assert abs(z.mean()) < 4 * np.sqrt(variance / n)
    assert abs((z**2).mean() - variance) < 4 * np.sqrt((fourth - variance**2) / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(2 * fourth / n)
    assert abs((z**4).mean() - fourth) < 4 * np.sqrt(4 * fourth / n)


@pytest.mark.parametrize("d", [1, 17, 64])
def test_truncated_normal(d):
    assert abs(np.sqrt(truncated_moments()[0]) - 0.87962566103423978) < 1e-15
    shape = (40_000 // d, d)
    check_truncated(TruncatedNormal(2, 3, seed=11)(shape), 2, 3)
    check_truncated(TruncatedNormal(seed=12)(shape), 0, 0.05)


# ---- variance scaling --------------------------------------------------------------------------------

# (scale, mode, distribution) of each name.
NAMED = {
    "GlorotUniform": (1, "fan_avg", "uniform"),
    "GlorotNormal": (1, "fan_avg", "truncated_normal"),
    "HeUniform": (2, "fan_in", "uniform"),
    "HeNormal": (2, "fan_in", "truncated_normal"),
    "LecunUniform": (1, "fan_in", "uniform"),
    "LecunNormal": (1, "fan_in", "truncated_normal"),
}


def check_scaled(values, variance, distribution):
    """The distribution with this variance."""
    n = values.size
    if distribution == "uniform":
        limit = np.sqrt(3 * variance)
        assert kolmogorov_smirnov(values, lambda x: (x / limit + 1) / 2) < 1.95
        assert limit * 0.99 < np.abs(values).max() <= np.float32(limit)
    elif distribution == "untruncated_normal":
        assert kolmogorov_smirnov(values, normal_cdf(0, np.sqrt(variance))) < 1.95
        assert np.abs(values).max() > 3 * np.sqrt(variance)
    else:
        check_truncated(values, 0, np.sqrt(variance / truncated_moments()[0]))
    assert abs(values.mean(dtype=float)) < 4 * np.sqrt(variance / n)
    assert abs(values.var(dtype=float) / variance - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize("shape", [(4000, 9), (90, 400), (5, 20, 30, 12), (36_000,)], ids=str)
@pytest.mark.parametrize("distribution", ["uniform", "truncated_normal", "untruncated_normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_variance_scaling(mode, distribution, shape):
    fan_in, fan_out = {1: (36_000,) * 2, 2: shape, 4: (3000, 1200)}[len(shape)]
    n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    values = VarianceScaling(0.7, mode, distribution, seed=13)(shape)
    assert values.shape == shape
    check_scaled(values, 0.7 / n, distribution)


@pytest.mark.parametrize("name", NAMED)
def test_named_scalings(name):
    scale, mode, distribution = NAMED[name]
    values = getattr(initializers, name)(seed=14)((3000, 12))
    assert np.array_equal(values, VarianceScaling(scale, mode, distribution, seed=14)((3000, 12)))
    check_scaled(values, scale / (3000 if mode == "fan_in" else 1506), distribution)


def test_axes_of_the_fans():
    def limit(shape, **arguments):
        return np.abs(VarianceScaling(3, distribution="uniform", seed=1, **arguments)(shape)).max()

    for shape, axes, n in (((30, 40, 50), ([1], [0, 2]), 40), ((30, 40), ([0, 1], []), 1200), ((30, 40), ([], [0]), 1)):
        both = dict(zip(("input_axes", "output_axes"), axes, strict=True))
        assert abs(limit(shape, **both) * np.sqrt(n) / 3 - 1) < 0.02
    for one in ({"input_axes": [1]}, {"output_axes": [0]}):  # they count together only, as in Keras
        assert limit((30, 40), **one) == limit((30, 40))
    with pytest.raises(ValueError, match="must be axes of the shape"):
        limit((30, 40), input_axes=[0], output_axes=[2])


def test_a_fan_is_at_least_one():
    for shape in ((0, 3), (3, 0), (0,), ()):
        for mode in ("fan_in", "fan_out", "fan_avg"):
            assert VarianceScaling(mode=mode, seed=1)(shape).shape == shape
    assert VarianceScaling(3, distribution="uniform", seed=1)(()) == RandomUniform(-3, 3, seed=1)(())


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


RANDOM = [
    RandomUniform,
    RandomNormal,
    TruncatedNormal,
    VarianceScaling,
    *(getattr(initializers, name) for name in NAMED),
    initializers.Orthogonal,
]


@pytest.mark.parametrize("make", RANDOM)
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


@pytest.mark.parametrize("make", RANDOM)
def test_seed_generators(make):
    """The config of a Keras SeedGenerator: other values at each call, and the same ones again in a new instance."""
    config = {"class_name": "SeedGenerator", "config": {"seed": 5, "name": "mine"}}
    one, two = make(seed=config), make(seed=config)
    first, second = one((300, 17)), one((300, 17))
    assert (first != second).mean() > 0.99
    assert (first != make(seed=5)((300, 17))).mean() > 0.99
    assert np.array_equal(two((300, 17)), first)
    assert np.array_equal(two((300, 17)), second)
    envelope = {"module": "keras.random", **config, "registered_name": None}
    assert one.get_config()["seed"] == envelope
    assert np.array_equal(make.from_config(one.get_config())((300, 17)), first)
    assert one.legacy_config()["seed"] == 5
    unseeded = make(seed={"class_name": "SeedGenerator", "config": {"seed": None}})
    assert (unseeded((300, 17)) != unseeded((300, 17))).mean() > 0.99


@pytest.mark.parametrize("seed", [None, 5, {"class_name": "SeedGenerator", "config": {"seed": 5}}], ids=str)
@pytest.mark.parametrize("make", RANDOM[:-1])
def test_pieces(make, seed):
    """Rows may be filled a part at a time, in a table whose length is known."""
    for d in (1, 17, 64):
        initializer, whole = make(seed=seed), np.empty((1000, d), np.float32)
        again = initializer.clone()
        again._key = initializer._key
        initializer.fill(whole)
        pieces = [np.empty((n, d), np.float32) for n in (300, 0, 1, 699)]
        for first_row, piece in zip((0, 300, 300, 301), pieces, strict=True):
            again.fill(piece, first_row, num_rows=1000)
        assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("make", RANDOM[3:-1])
def test_the_scale_alone_depends_on_the_number_of_rows(make):
    for d in (1, 17, 64):
        short, long = make(seed=5)((100, d)).astype(float), make(seed=5)((5000, d))[:100]
        large = np.abs(short) > 0.01 * np.abs(short).max()  # others have lost digits to low + step * span
        ratio = long[large] / short[large]
        assert ratio.max() / ratio.min() < 1.0001
        assert ratio.mean() < 1


@pytest.mark.parametrize("make", [RandomUniform, RandomNormal, TruncatedNormal])
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
