"""Storage dtypes: every value of float16 and bfloat16, both roundings, the quantiser, training, and what is refused.

Do not break: a half is told by its bits (uint16), so that nothing here needs ml_dtypes; statistics have fixed seeds,
so that they never flake; `check_*` run in a process of their own for each instruction set.
"""

import copy
import json
import math
import os
import pickle
import sys

import numpy as np
import pytest
import reference as ref
from peers import peer
from test_isa import DIMS
from test_modes import CASES, Oracle, made

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, constraints, ops, optimizers

HALVES = ("bfloat16", "float16")
INTS = {"int8": 8, "int4": 4, "int2": 2}
ALL = np.arange(1 << 16, dtype=np.uint16)
NEAREST, STOCHASTIC = None, ops.Rounding(11, 3)
every_half = pytest.mark.parametrize("storage", HALVES)
every_int = pytest.mark.parametrize("storage", INTS)
REFUSED = r"trainable=False|for look-ups|must be (a )?writeable|trainable. Received"
every_isa = pytest.mark.parametrize("isa", ops.usable_isas())


# ---- the oracle: NumPy's float16, and integer arithmetic -------------------------------------------------------------


def decoded(bits, storage):
    """The float32 numbers of halves."""
    if storage == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest(x, storage):
    """The bits of the nearest halves, the even one of two."""
    if storage == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32)
    half, rest = bits >> 16, bits & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (half & 1 == 1))
    return np.where(np.isnan(x), half | 0x40, half + up).astype(np.uint16)


def neighbours(x, storage):
    """The sizes, as bits without the sign, of the half next to each finite x towards zero (or x itself), and of the one
    behind it; infinity follows the largest one."""
    size = np.abs(x)
    down = nearest(size, storage)
    down = down - ((decoded(down, storage) > size) & (down > 0))
    exact = decoded(down, storage) == size
    return down, np.where(exact, down, down + np.uint16(1))


def same(a, b, storage):
    """Whether bits of halves are the same, or both NaN."""
    nan = np.isnan(decoded(a, storage)), np.isnan(decoded(b, storage))
    return bool((nan[0] == nan[1]).all() and (nan[0] | (a == b)).all())


def table_of(bits_vd, storage):
    """A table of the library on halves given as bits."""
    table = ops.zeros(bits_vd.shape, storage)
    table.view(np.uint16)[...] = bits_vd
    return table


def encoded(values, storage, rounding=None):
    """The bits that the library makes of a matrix."""
    table = ops.zeros(values.shape, storage)
    ops.encode(table, values, rounding=rounding)
    return table.view(np.uint16)


def rows_with(values, d):
    """A matrix with d columns: each value is in each column; if it is wide, in every fifth."""
    rows_vd = np.lib.stride_tricks.sliding_window_view(np.concatenate([values, values[: d - 1]]), d)
    return np.ascontiguousarray(rows_vd if d <= 17 else rows_vd[::5])


def random_floats(rng, n):
    """Random bits: all sizes of finite float32, infinities, NaN."""
    return rng.integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)


def difficult(storage):
    """Halves, the points between them, and the floats beside those: ties, subnormals, overflow."""
    finite = decoded(ALL, storage)
    finite = np.sort(finite[np.isfinite(finite)])
    with np.errstate(over="ignore"):
        middles = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    values = np.concatenate([finite, middles.astype(np.float32)])
    if storage == "float16":
        values = np.concatenate([values, np.float32([65519.996, 65520, 65535, 65536, 1e9, 2.0**-25, 2.0**-26, 1e-45])])
    beside = [np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([values, *beside, np.float32([np.inf, -np.inf, np.nan, 3.4028235e38, -0.0])])


# ---- all values, every column, every instruction set -----------------------------------------------------------------


def check_values(storage):
    """All 65,536 halves are read exactly and written back, at each place of rows of each length."""
    for d in DIMS:
        bits_vd = rows_with(ALL, d)
        table, wanted = table_of(bits_vd, storage), decoded(bits_vd, storage)
        ids = np.arange(len(table))
        gathered = ops.gather(table, ids)
        for values in (ops.decode(table), gathered, ops.pool(table, ids, np.arange(len(table) + 1))):
            assert np.array_equal(values, wanted, equal_nan=True), d
        assert same_floats(ops.decode(table), wanted), d
        assert same_floats(gathered, wanted), d
        for rounding in (NEAREST, STOCHASTIC):
            assert same(encoded(gathered, storage, rounding), bits_vd, storage), (d, rounding)
        ops.update(table, ops.parts(ids, np.zeros((len(table), d), np.float32)), "sgd", {}, rounding=STOCHASTIC)
        assert same(table.view(np.uint16), bits_vd, storage), d


def same_floats(a, b):
    """The same bits, or both NaN."""
    nan = np.isnan(b)
    return bool((np.isnan(a) == nan).all() and (nan | (a.view(np.uint32) == b.view(np.uint32))).all())


def check_nearest(storage):
    """Millions of floats are rounded as the oracle does."""
    rng, hard = np.random.default_rng(5), difficult(storage)
    for d in (1, 7, 127):
        values = np.concatenate([hard, random_floats(rng, 1 << 20)])
        values = values[: len(values) // d * d].reshape(-1, d)
        assert same(encoded(values, storage), nearest(values, storage), storage), d


def check_stochastic(storage):
    """Never past the two neighbours, and never another number where it is exact."""
    rng, hard = np.random.default_rng(6), difficult(storage)
    values = np.concatenate([hard, random_floats(rng, 1 << 18)])
    values = np.concatenate([values, decoded(ALL, storage) * np.float32(1.001)])[: len(values) // 33 * 33]
    values = values.reshape(-1, 33)
    finite = np.isfinite(values)
    down, up = neighbours(np.where(finite, values, 0), storage)
    went = 0
    for step in range(3):
        found = encoded(values, storage, ops.Rounding(2**63 + 1, step))
        size = found & np.uint16(0x7FFF)
        assert ((size == down) | (size == up) | ~finite).all()
        assert (np.isnan(values) | (found >> 15 == values.view(np.uint32) >> 31)).all()
        assert same(found[~finite], nearest(values[~finite], storage), storage)
        went += ((size == up) & (up != down))[finite].sum()
    assert 0.3 < went / (3 * ((up != down) & finite).sum()) < 0.7


@every_half
@every_isa
def test_halves(isa, storage, run_python):
    program = f"""
        import test_dtypes as tests
        tests.fastembed.set_num_threads(1)
        tests.check_values({storage!r})
        tests.check_nearest({storage!r})
        tests.check_stochastic({storage!r})
        print(tests.ops.isa)
    """
    assert run_python(program, FASTEMBED_ISA=isa).strip() == isa


def test_ml_dtypes_rounds_alike():
    """The oracle here, by a library that others use."""
    bfloat16 = peer("ml_dtypes").bfloat16
    values = np.concatenate([difficult("bfloat16"), random_floats(np.random.default_rng(7), 1 << 20)])
    with np.errstate(all="ignore"):
        assert same(nearest(values, "bfloat16"), values.astype(bfloat16).view(np.uint16), "bfloat16")
    assert same_floats(decoded(ALL, "bfloat16"), ALL.view(bfloat16).astype(np.float32))


# ---- stochastic rounding ---------------------------------------------------------------------------------------------

# Exponents of 2 whose numbers are rounded; and how far they lie between two neighbours, in parts of 1.
EXPONENTS = {
    "bfloat16": (-149, -140, -127, -126, -60, -1, 0, 7, 100, 127),
    "float16": (-30, -25, -24, -20, -15, -14, -1, 0, 15),
}
SHARES = (2.0**-7, 0.1, 0.25, 0.5, 0.7, 1 - 2.0**-6)


def between(storage):
    """Numbers of all sizes, both signs, and which share of the way from one neighbour to the next they lie at."""
    values, shares = [], []
    digits, smallest = (7, -133) if storage == "bfloat16" else (10, -24)
    for exponent in EXPONENTS[storage]:
        for share in SHARES:
            for sign in (1, -1):
                least = 2.0 ** max(exponent - digits, smallest)
                whole = 2.0**exponent // least + (5 if exponent >= smallest + digits else 0)
                values.append(np.float32(sign * (whole + share) * least))
                exact = abs(float(values[-1])) / least
                shares.append(exact - math.floor(exact))
    return np.array(values, np.float32), np.array(shares)


@every_half
def test_the_mean_is_right(storage):
    """Over rows, steps and seeds."""
    values, shares = between(storage)
    down, up = neighbours(values, storage)
    assert ((shares == 0) == (down == up)).all()
    copies, counts = 1024, np.zeros(len(values))
    matrix = np.repeat(values[None], copies, axis=0)
    for seed in range(4):
        for step in range(5):
            found = encoded(matrix, storage, ops.Rounding(seed, step)) & np.uint16(0x7FFF)
            counts += ((found == up) & (down != up)).sum(0)
    n = 20 * copies
    deviations = (counts - n * shares) / np.sqrt(np.maximum(n * shares * (1 - shares), 1e-9))
    assert (np.abs(deviations) < 4.5).all(), deviations.round(1).tolist()
    assert 0.5 < np.std(deviations[shares > 0]) < 1.5  # as independent choices scatter


def quarters(storage, rows, columns, seed=0, step=1, exponent=0):
    """The random number behind each choice, by quarters, as (rows, columns): three numbers are rounded with it."""
    total = np.zeros((rows, columns), int)
    for share in (0.25, 0.5, 0.75):
        half = np.float32(2.0**exponent * (1 + share * 2.0 ** -(7 if storage == "bfloat16" else 10)))
        bits = encoded(np.full((rows, columns), half), storage, ops.Rounding(seed, step))
        total += bits != nearest(np.float32([2.0**exponent]), storage)
    return total


def chi_square(a, b):
    """Of the 16 pairs of quarters; 15 degrees of freedom."""
    counts = np.bincount((4 * a + b).ravel(), minlength=16)
    expected = a.size / 16
    return float(((counts - expected) ** 2 / expected).sum())


@every_half
def test_choices_are_independent(storage):
    """Between columns, rows, steps and seeds near each other; 50 is passed once in 90,000 times."""
    rows, columns = 1024, 200
    base = quarters(storage, rows, columns)
    pairs = {f"column + {lag}": (base[:, lag:], base[:, :-lag]) for lag in (1, 2, 3, 4, 8, 16, 64, 128)}
    pairs |= {f"row + {lag}": (base[lag:], base[:-lag]) for lag in (1, 2, 8, 16, 256)}
    above = np.triu_indices(columns, 1)
    pairs["row is column"] = base[above], base[above[::-1]]
    pairs["diagonal"] = base[1:, 1:], base[:-1, :-1]
    for step in (0, 2, 5, 1 + 2**20):
        pairs[f"step {step}"] = quarters(storage, rows, columns, step=step), base
    for seed in (1, 2, 2**32, 2**63, 2**64 - 1):
        pairs[f"seed {seed}"] = quarters(storage, rows, columns, seed=seed), base
    assert {name: chi for name, (a, b) in pairs.items() if not 1 < (chi := chi_square(a, b)) < 50} == {}
    assert np.array_equal(base, quarters(storage, rows, columns))
    # Wider numbers: the choice is keyed by the column's number alone, not by what is beside it.
    assert np.array_equal(base[:, :7], quarters(storage, rows, 7))
    wide = quarters(storage, 8, 1100)
    assert np.array_equal(base[:8], wide[:, :columns])
    assert chi_square(wide[:, :512], wide[:, 512:1024]) < 50
    assert chi_square(quarters(storage, rows, columns, exponent=3), base) > 1e5  # the same choices


@every_half
@pytest.mark.parametrize("share", [0.5, 0.25, 2.0**-5])
def test_sums_of_choices_scatter_as_they_should(storage, share):
    """Over the columns of a row: more than pairs of choices would show there."""
    half = np.float32(1 + share * 2.0 ** -(7 if storage == "bfloat16" else 10))
    ups = encoded(np.full((4096, 128), half), storage, STOCHASTIC) != nearest(np.float32([1]), storage)
    assert abs(np.var(ups.sum(1)) / (128 * share * (1 - share)) - 1) < 0.1
    assert abs(np.var(ups.sum(0)) / (4096 * share * (1 - share)) - 1) < 0.56


def test_choices_of_the_state_are_its_own():
    """Not those of the table's columns, nor of columns behind them."""
    values = np.full((1024, 128), 1 + 2.0**-8, np.float32)
    table, state = encoded(values, "bfloat16", STOCHASTIC), rounded_state(values, STOCHASTIC)
    ups = [(bits != 0x3F80).astype(int) * 2 - 1 for bits in (table, state)]
    a, b = ups
    for one, two in [(a, b), (a[:, 64:], b[:, :64]), (b[:, 16:], b[:, :-16]), (b[1:], b[:-1])]:
        assert abs((one * two).sum()) < 4.5 * math.sqrt(one.size)
        assert abs(two.sum()) < 4.5 * math.sqrt(one.size)


@every_half
def test_rows_are_numbered_from_the_first(storage):
    values = np.full((40, 9), 1.001, np.float32)
    table = ops.zeros((40, 9), storage)
    ops.encode(table, values[:13], 0, ops.Rounding(3, 4))
    ops.encode(table, values[13:], 13, ops.Rounding(3, 4))
    assert np.array_equal(table.view(np.uint16), encoded(values, storage, ops.Rounding(3, 4)))


@every_half
def test_passes_of_a_step_differ(storage):
    """Each of the four passes, the one before and the next step."""
    found = []
    for step, turn in [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]:
        table = table_of(np.zeros((64, 50), np.uint16), storage)
        gradient = np.full((64, 50), -(2.0**-140 if storage == "bfloat16" else 2.0**-25), np.float32)
        update = ops.Update(table, gradient, "sgd", {"learning_rate": 1.0}, rounding=ops.Rounding(5, step, turn))
        ops.run([update])
        found.append((table.view(np.uint16) != 0).ravel())
    shares = np.mean(found, axis=1)
    assert np.allclose(shares, 2.0**-7 if storage == "bfloat16" else 0.5, atol=0.03)
    if storage == "float16":
        together = np.corrcoef(np.array(found)) - np.eye(5)
        assert np.abs(together).max() < 0.09


@every_half
@pytest.mark.parametrize("mode", ["row-sparse", "dense"])
def test_small_updates_add_up(storage, mode):
    """Each is 1/50 of the distance to the next half: to the nearest, none is ever seen."""
    ulp, steps, shape = 2.0 ** (-7 if storage == "bfloat16" else -10), 2000, (16, 64)
    gradient = np.full(shape, -ulp / 50, np.float32)
    if mode == "row-sparse":
        gradient = IndexedSlices(gradient, np.arange(16), shape)
    moved = {}
    for rounding in ("nearest", "stochastic"):
        table, optimizer = Table(shape, storage), optimizers.SGD(1.0, rounding=rounding)
        table.assign(np.ones(shape, np.float32))
        for _ in range(steps):
            optimizer.apply([gradient], [table])
        moved[rounding] = table.to_float32() - 1
    assert (moved["nearest"] == 0).all()
    ways = moved["stochastic"].astype(np.float64) / ulp
    # n Bernoulli steps of one ulp with p = 1/50
    deviation = math.sqrt(steps * 0.02 * 0.98)
    assert abs(ways.mean() - steps / 50) < 4.5 * deviation / math.sqrt(ways.size)
    assert 0.8 * deviation < ways.std() < 1.2 * deviation
    assert (ways == np.round(ways)).all()


# ---- codes of 8, 4 and 2 bits ----------------------------------------------------------------------------------------


def codes_of(table, storage, d):
    """The codes of a structured array as numbers, by hand: the first in the lowest bits, two's complement."""
    bits = INTS[storage]
    octets = table[storage].view(np.uint8)
    codes = np.stack([octets >> shift & (2**bits - 1) for shift in range(0, 8, bits)], axis=2)
    codes = codes.reshape(len(table), -1).astype(np.int64)[:, :d]
    return codes - (codes >= 2 ** (bits - 1)) * 2**bits


def decoded_codes(table, storage, d):
    """What a structured array stands for, in float32 arithmetic."""
    with np.errstate(over="ignore"):
        return table["scale"][:, None] * codes_of(table, storage, d).astype(np.float32) + table["offset"][:, None]


BIG = np.finfo(np.float32).max
ROWS = {
    "normal": lambda rng, d: rng.standard_normal((20, d)),
    "uniform, far from 0": lambda rng, d: 1000 + rng.random((20, d)),
    "zeros": lambda rng, d: np.zeros((2, d)),
    "negative zeros": lambda rng, d: np.where(rng.random((3, d)) < 0.5, -0.0, 0.0),
    "constants": lambda rng, d: np.outer([1.1, -3e38, 1e-45, -7e-39, BIG], np.ones(d)),
    "huge": lambda rng, d: rng.uniform(-3, 3, (50, d)) * 1e38,
    "the largest": lambda rng, d: rng.choice([BIG, -BIG, 0.99 * BIG, -0.995 * BIG, 1e38], (50, d)),
    "all sizes": lambda rng, d: rng.standard_normal((50, d)) * 10.0 ** rng.integers(-44, 38, (50, 1)),
    "tiny": lambda rng, d: rng.standard_normal((50, d)) * 10.0 ** rng.integers(-44, -36, (50, 1)),
    "subnormal steps": lambda rng, d: rng.integers(-400, 400, (99, d)) * 2.0**-149,
    "few subnormals": lambda rng, d: rng.integers(0, 30, (99, d)) * 2.0**-149 + 2.0**-130,
    "an outlier": lambda rng, d: np.where(np.arange(d) == d // 2, 1e30, rng.standard_normal((9, d))),
    "two values": lambda rng, d: rng.choice([-1.5, 2.25], (9, d)),
    "neighbours": lambda rng, d: np.float32(1) + rng.integers(0, 9, (20, d)) * np.float32(2.0**-23),
}


@pytest.mark.parametrize("case", ROWS)
@every_int
def test_quantiser(storage, case, rng):
    """Each element is wrong by half a step at most, and by what float32 rounds away."""
    for d in DIMS:
        with np.errstate(over="ignore"):
            values = ROWS[case](rng, d).astype(np.float32)
        values = values[np.isfinite(values).all(1)]
        table = ops.zeros(values.shape, storage)
        ops.encode(table, values)
        found = ops.decode(ops.rows_of(table, dim=d))
        assert same_floats(found, decoded_codes(table, storage, d))
        assert np.isfinite(found).all()
        exact = values.astype(np.float64)
        size = np.abs(exact).max(1)
        scale = table["scale"].astype(np.float64)
        rounding = 3 * np.maximum(size * 2.0**-23, 2.0**-149)
        assert (np.abs(found - exact).max(1) <= scale / 2 + rounding).all(), d
        # The scale is no larger than the range needs, but for the row that would overflow, which has a code less.
        way = exact.max(1) - exact.min(1)
        codes = 2 ** INTS[storage]
        wanted = way / (codes - 1)
        wanted = np.where(wanted * codes / 2 > 3.4e38, way / (codes - 2), wanted)
        assert (scale <= wanted * (1 + 1e-6) + 2.0**-149).all(), d
        assert (table[storage].view(np.uint8).reshape(len(table), -1)[:, (d * INTS[storage] + 7) // 8 :] == 0).all()
        constant = way == 0
        assert np.array_equal(found[constant], values[constant])


@every_int
def test_layout(storage):
    """Codes as dtypes.py documents them, written by hand; odd dimensions too."""
    for d in (1, 2, 3, 5, 16, 33):
        table = ops.zeros((3, d), storage)
        assert table.dtype.itemsize % 4 == 0
        assert table.dtype.itemsize - 8 - (d * INTS[storage] + 7) // 8 < 4
        table["scale"], table["offset"] = [0.5, 2.0, 0.0], [1.0, -3.0, 7.0]
        codes = np.arange(3 * d).reshape(3, d) % 2 ** INTS[storage]  # as unsigned numbers
        octets = table[storage].view(np.uint8)
        for (row, column), code in np.ndenumerate(codes):
            per_byte = 8 // INTS[storage]
            octets[row, column // per_byte] |= code << column % per_byte * INTS[storage]
        signed = codes - (codes >= 2 ** (INTS[storage] - 1)) * 2 ** INTS[storage]
        wanted = table["scale"][:, None] * signed + table["offset"][:, None]
        rows = ops.rows_of(table, dim=d)
        assert np.array_equal(ops.decode(rows), wanted)
        assert np.array_equal(Table.wrap(table, dim=d)[[2, 0, 1]], wanted[[2, 0, 1]])


@pytest.mark.parametrize("storage", [*HALVES, *INTS])
def test_look_ups_are_those_of_the_decoded_table(storage, rng):
    """gather, pool, the gradient of weights and the place of a maximum, to the bit; but sums of codes and of offsets
    are taken apart."""
    for d in DIMS:
        table = ops.zeros((50, d), storage)
        ops.encode(table, ref.random_table(rng, 50, d))
        rows = ops.rows_of(table, dim=d)
        plain = np.array(ops.decode(rows))
        ids, splits, weights = ref.random_ids(rng, 700, 50), ref.random_splits(rng, 700, 40), rng.uniform(-1, 2, 700)
        upstream = rng.standard_normal((40, d))
        assert np.array_equal(ops.gather(rows, ids), plain[ids])
        for combiner in ops.COMBINERS:
            for w, padding_idx in ((None, None), (weights, None), (weights, 2)):
                given = ids, splits, w, combiner
                found = ops.pool(rows, *given, padding_idx=padding_idx)
                if storage in HALVES or combiner == "max":
                    assert np.array_equal(found, ops.pool(plain, *given, padding_idx=padding_idx)), (d, combiner)
                wanted = ref.pool(plain, *given, padding_idx)
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
                if w is not None:
                    both = [ops.weights_gradient(x, *given, upstream, padding_idx) for x in (rows, plain)]
                    assert np.array_equal(*both), (d, combiner)
                if combiner == "max":
                    assert np.array_equal(*[ops.argmax(x, ids, splits, w, padding_idx) for x in (rows, plain)])


@pytest.mark.parametrize("storage", [*HALVES, *INTS])
def test_sums_and_blocks(storage, rng, monkeypatch):
    """What goes over a table in blocks gives what it gives in one."""
    values = ref.random_table(rng, 37, 5)
    table = ops.zeros((37, 5), storage)
    ops.encode(table, values)
    rows = ops.rows_of(table, dim=5)
    plain = np.array(ops.decode(rows))
    monkeypatch.setattr(ops.tables, "_BLOCK", 40)  # blocks of 8 rows
    assert len(ops.blocks(rows)) == 5
    np.testing.assert_allclose(ops.sums(rows), [np.abs(plain).sum(), (plain.astype(np.float64) ** 2).sum()], rtol=1e-6)
    assert np.array_equal(ops.decode(rows, slice(3, 11)), plain[3:11])
    assert ops.decode(rows, slice(5, 5)).shape == (0, 5)
    ops.change(rows, lambda values_vd, first: np.copyto(values_vd, values[first : first + len(values_vd)]))
    assert np.array_equal(ops.decode(rows), plain)


@every_int
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_has_no_codes(storage, bad, rng, monkeypatch):
    """The row is named, and nothing is written: not even rows before it, in an earlier block."""
    monkeypatch.setattr(ops.tables, "_BLOCK", 40)
    values = ref.random_table(rng, 40, 5).astype(np.float64)
    layer = Embedding(40, 5, weights=values)
    table = Table((40, 5), storage)
    table.assign(values)
    before, values[33, 2] = table.numpy().tobytes(), bad
    with pytest.raises(ValueError, match=rf"rows must be finite to be {storage}.*row 33"):
        table.assign(values)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="row 33"):
        ops.encode(table.rows, values.astype(np.float32))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="row 35"):
        ops.encode(table.rows, values[3:].astype(np.float32)[:-3], first_row=5)
    assert table.numpy().tobytes() == before
    if np.isfinite(bad):
        return
    layer.set_weights([values])
    table = layer.embeddings
    with pytest.raises(ValueError, match="row 33"):
        layer.quantize(storage)
    assert (layer.dtype, layer.dtype_policy, layer.embeddings) == ("float32", "float32", table)
    assert np.array_equal(table, values.astype(np.float32), equal_nan=True)


# ---- training: each step is that of a float32 twin, rounded ----------------------------------------------------------

V, D = 40, 9
SEVERAL_PASSES = ("lamb of Keras", "adafactor", "adafactor, clipped")


def pair(case, storage, state_dtype, rounding, more, rng, prepare=lambda table: None, constraint=None):
    """An optimizer and its table of halves; and a function that makes float32 twins of both as they are now."""
    table = Table((V, D), storage, constraint=constraint)
    table.assign(ref.random_table(rng, V, D))
    optimizer = made(case, state_dtype=state_dtype, rounding=rounding, rounding_seed=77, **more)
    prepare(table)
    optimizer.build([table])

    def twin():
        other, again = Table((V, D), constraint=constraint), made(case, **more)
        np.copyto(other.memory, table.to_float32())
        prepare(other)
        again.build([other])
        again.calls = optimizer.calls
        old, new = optimizer._known(table), again._known(other)
        new.own = copy.deepcopy(old.own)
        if old.state_vs is not None:
            new.state_vs[...] = ops.decode(old.state_vs)
        return again, other

    return optimizer, table, twin


def gradients(rng, kind):
    """Gradients with duplicates, of some rows; or dense ones."""
    while True:
        if kind == "dense":
            yield rng.standard_normal((V, D))
        else:
            ids = ref.random_ids(rng, 30, V - 10)
            yield IndexedSlices(rng.standard_normal((30, D)), ids, (V, D))


def rounded_as(storage, values, rounding, step):
    """The bits of a table after a step of the optimizers here."""
    return encoded(values, storage, ops.Rounding(77, step) if rounding == "stochastic" else None)


def rounded_state(values, rounding):
    """The bits of a bfloat16 state, which has choices of its own: of a momentum that is the gradient."""
    table, state = np.zeros_like(values), ops.zeros(values.shape, "bfloat16")
    ops.update_dense(table, values, "momentum", {"learning_rate": -1.0}, state, rounding=rounding)
    assert np.array_equal(table, values)
    return state.view(np.uint16)


def check_twins(case, storage, state_dtype, rounding, more, rng, kind="row-sparse", **about):
    """Five steps. Where a step has several passes, the last one rounds in its own way, and reads a rounded state."""
    optimizer, half, twin = pair(case, storage, state_dtype, rounding, more, rng, **about)
    several, calls = case in SEVERAL_PASSES, more.get("gradient_accumulation_steps", 1)
    made_of = gradients(rng, kind)
    for step in range(1, 6):
        before = half.to_float32().copy()
        again, plain = twin()
        for gradient in (next(made_of) for _ in range(calls)):
            optimizer.apply([gradient], [half])
            again.apply([gradient], [plain])
        values, found = plain.numpy(), half.memory.view(np.uint16)
        if storage == "float32" and not several:
            assert np.array_equal(half.numpy(), values), step
        elif not several or (rounding == "nearest" and state_dtype == "float32"):
            assert np.array_equal(found, rounded_as(storage, values, rounding, step)), step
        elif state_dtype == "float32":
            size = found & np.uint16(0x7FFF)
            down, up = neighbours(values, storage)
            assert ((size == down) | (size == up)).all()
        else:
            digits = {"bfloat16": 7, "float16": 10, "float32": 23}[storage]
            spacing = np.abs(values) * 2.0**-digits + 1e-7
            # From pass to pass Lamb with weight decay rounds twice.
            assert (np.abs(half.to_float32() - values) <= 2.1 * spacing + 0.02 * np.abs(values - before)).all()
        for state, wanted in zip(optimizer.variables, again.variables, strict=True):
            if state_dtype == "float32":
                assert np.array_equal(state, wanted)
            else:
                how = ops.Rounding(77, step) if rounding == "stochastic" else None
                wanted = decoded(rounded_state(wanted, how), "bfloat16")
                assert np.array_equal(decoded(state.view(np.uint16), "bfloat16"), wanted), step
    return optimizer, half


ROUNDINGS = [
    ("bfloat16", "float32", "nearest"),
    ("bfloat16", "bfloat16", "stochastic"),
    ("float16", "float32", "stochastic"),
    ("float16", "bfloat16", "nearest"),
]
HOW = ("storage", "state_dtype", "rounding")
every_rounding = pytest.mark.parametrize(HOW, [*ROUNDINGS, ("float32", "bfloat16", "stochastic")])
SETTINGS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scale": {"loss_scale_factor": 8.0},
}


@every_rounding
@pytest.mark.parametrize("untouched", ["skip", "dense"])
@pytest.mark.parametrize("case", CASES)
def test_steps(case, untouched, storage, state_dtype, rounding, rng):
    """Every optimizer: decoded, stepped as float32 rows are, and encoded once."""
    check_twins(case, storage, state_dtype, rounding, {"untouched": untouched}, rng)


@pytest.fixture(params=[9, 64])
def dimension(request, monkeypatch):
    """Rows of other lengths: those of whole blocks of columns may take a way of their own."""
    monkeypatch.setattr(sys.modules[__name__], "D", request.param)


@every_rounding
@pytest.mark.parametrize("case", CASES)
def test_long_rows(case, storage, state_dtype, rounding, rng, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "D", 96)
    check_twins(case, storage, state_dtype, rounding, {}, rng)


@every_rounding
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", ["sgd", "adam", "adagrad", "rowwise"])
@pytest.mark.usefixtures("dimension")
def test_settings(case, setting, storage, state_dtype, rounding, rng):
    for kind in ("row-sparse", "dense"):
        check_twins(case, storage, state_dtype, rounding, SETTINGS[setting], rng, kind)


@every_rounding
@pytest.mark.parametrize("untouched", ["skip", "dense"])
@pytest.mark.parametrize("case", ["momentum", "adamax", "lamb", "adafactor"])
def test_frozen_rows(case, untouched, storage, state_dtype, rounding, rng):
    """And rows with a learning rate of their own."""

    def prepare(table):
        table.scale_learning_rate([0, 3, 5], [0.0, 0.5, 2.0])

    optimizer, table = check_twins(case, storage, state_dtype, rounding, {"untouched": untouched}, rng, prepare=prepare)
    before = table.memory[0].copy()
    optimizer.apply([np.ones((V, D))], [table])
    assert table.memory[0].tobytes() == before.tobytes()
    assert (table.memory[1] != before).any()


@every_rounding
@pytest.mark.parametrize("constraint", [constraints.NonNeg(), constraints.MaxNorm(1.5, axis=1)], ids=repr)
def test_constraints_of_rows(constraint, storage, state_dtype, rounding, rng):
    check_twins("momentum", storage, state_dtype, rounding, {}, rng, constraint=constraint)
    check_twins("adagrad", storage, state_dtype, rounding, {"untouched": "dense"}, rng, constraint=constraint)


@every_half
@pytest.mark.parametrize("constraint", [constraints.MaxNorm(1.5, axis=0), constraints.UnitNorm(axis=0)], ids=repr)
def test_constraints_of_the_whole_table(storage, constraint, rng):
    """Projected in float32, and rounded to the nearest; frozen rows stay."""
    table, optimizer = Table((V, D), storage, constraint=constraint), optimizers.SGD(0.1)
    table.assign(ref.random_table(rng, V, D))
    limit, rounding = constraint.get_config().get("max_value", 1.0), 2.0 ** (-8 if storage == "bfloat16" else -11)
    for gradient, _ in zip(gradients(rng, "row-sparse"), range(5), strict=False):
        norms = np.linalg.norm(table.to_float32(), axis=0)
        assert (norms <= limit * (1 + rounding)).all()
        assert norms.max() > limit * (1 - rounding)
        optimizer.apply([gradient], [table])
    table.freeze([4])
    before = table.memory[4].copy()
    optimizer.apply([np.ones((V, D))], [table])
    assert table.memory[4].tobytes() == before.tobytes()
    assert (table.memory[5] != table.memory[4]).any()


@pytest.mark.parametrize("untouched", ["skip", "dense"])
@every_half
def test_averages(storage, untouched, rng):
    """Of float32, and of the rows before they are rounded at this step; overwriting rounds."""
    table = Table((V, D), storage)
    table.assign(ref.random_table(rng, V, D))
    arguments = {"use_ema": True, "ema_momentum": 0.75, "untouched": untouched}
    optimizer = optimizers.Adam(0.05, **arguments)
    average, size = table.to_float32().astype(np.float64), 0
    for step, gradient in zip(range(8), gradients(rng, "row-sparse"), strict=False):
        optimizer.apply([gradient], [table])
        now = table.to_float32().astype(np.float64)
        average = now if step == 0 else average + (now - average) * 0.25
        found = optimizer.average(table)
        assert found.dtype == np.float32
        size = np.maximum(size, np.abs(now))
        ulp = size * 2.0 ** (-7 if storage == "bfloat16" else -10) + 1e-6
        assert (np.abs(found - average) <= ulp).all()
    optimizer.finalize_variable_values([table])
    assert np.array_equal(table.memory.view(np.uint16), nearest(found, storage))
    optimizer = optimizers.Adam(0.05, ema_overwrite_frequency=3, **arguments)
    for gradient, _ in zip(gradients(rng, "row-sparse"), range(3), strict=False):
        optimizer.apply([gradient], [table])
    assert np.array_equal(table.memory.view(np.uint16), nearest(optimizer.average(table), storage))


@pytest.mark.parametrize(HOW, ROUNDINGS)
@pytest.mark.parametrize("shape", [(7,), (30, 9), (2, 3, 4), (0,), (0, 3), (3, 0)], ids=str)
def test_plain_arrays(shape, storage, state_dtype, rounding, rng):
    """Of any rank; a row is the last axis, and the memory stays. As a table does, where they are matrices."""
    matrix = (math.prod(shape[:-1]), shape[-1])
    bits = nearest(ref.random_table(rng, *matrix), storage)
    array, table = table_of(bits, storage).reshape(shape), table_of(bits, storage)
    how = {"state_dtype": state_dtype, "rounding": rounding}
    for _ in range(3):
        pair = [(array, optimizers.Adam(0.05, **how)), (table, optimizers.Adam(0.05, **how))]
        gradient = rng.standard_normal(shape)
        for variable, optimizer in pair:
            optimizer.apply([gradient.reshape(variable.shape)], [variable])
    assert np.array_equal(array.view(np.uint16).reshape(matrix), table.view(np.uint16))
    assert np.array_equal(table.view(np.uint16), bits) == (0 in shape)


def test_variables_round_in_their_own_ways(rng):
    """Two of one shape with one gradient."""
    arrays = [ops.zeros((20, 30), "float16") for _ in range(2)]
    gradient = np.full((20, 30), -(2.0**-25))
    optimizers.SGD(1.0).apply([gradient, gradient], arrays)
    ups = [(array.view(np.uint16) != 0).ravel() for array in arrays]
    assert 0.4 < np.mean(ups) < 0.6
    assert abs(np.corrcoef(ups)[0, 1]) < 0.15


@every_rounding
@pytest.mark.parametrize("case", CASES)
def test_against_float64(case, storage, state_dtype, rounding, rng):
    """Five steps stay with those in float64, as far as halves do: no step is lost, doubled or biased."""
    start, shape = ref.random_table(rng, V, D), (V, D)
    table = Table(shape, storage)
    table.assign(start)
    oracle = Oracle(case, table.to_float32())
    optimizer = made(case, state_dtype=state_dtype, rounding=rounding)
    for gradient, _ in zip(gradients(rng, "row-sparse"), range(5), strict=False):
        optimizer.apply([gradient], [table])
        oracle.step(*ref.gather_gradient(shape, gradient.indices, gradient.values))
    error = table.to_float32() - oracle.table
    epsilon = 2.0 ** (-8 if storage == "bfloat16" else -11)
    way = np.abs(oracle.table - start).max()
    bound = 5 * 2 * epsilon * np.abs(oracle.table).max() + (0.1 * way if state_dtype == "bfloat16" else 1e-4 * way)
    assert np.abs(error).max() < bound
    assert np.abs(error).mean() < 2 * epsilon + (0.01 * way if state_dtype == "bfloat16" else 0)
    assert abs(error.mean()) < 0.25 * epsilon + (0.002 * way if state_dtype == "bfloat16" else 0)


@pytest.mark.parametrize("untouched", ["skip", "dense", "catch_up"])
@every_rounding
def test_sums_of_adafactor(storage, state_dtype, rounding, untouched, rng, monkeypatch):
    """They are kept from step to step, and rounding may not carry them away: gradients fall to a hundredth."""
    monkeypatch.setattr(optimizers.adafactor, "_ROWS_SUMMED", 64)
    table, shape = Table((30, 8), storage), (30, 8)
    table.assign(ref.random_table(rng, *shape))
    how = {"state_dtype": state_dtype, "rounding": rounding, "untouched": untouched, "weight_decay": 0.1}
    optimizer = optimizers.Adafactor(1e-3, **how)
    plain = optimizers.Adafactor(1e-3, untouched=untouched, weight_decay=0.1)
    other = table.to_float32().copy()
    for step in range(640):
        values = rng.standard_normal((30, 8)) * (1 if step < 300 else 0.01)
        for one, variable in ((optimizer, table), (plain, other)):
            one.apply([IndexedSlices(values, np.arange(30), shape)], [variable])
    own, wanted = optimizer._known(table).own, plain._known(other).own
    assert own["w_squares"] == pytest.approx(ops.sums(table.rows)[1], rel=1e-5)
    r_sum = ops.sums(ops.rows_of(optimizer._known(table).state_vs))[0]
    # The nearest bfloat16 of a mean that moves by less than half the way to the next is the one before.
    coded = state_dtype == "bfloat16"
    near = 1e-5 if not coded else 0.3 if rounding == "nearest" else 0.03
    assert r_sum == pytest.approx(wanted["r_sum"], rel=near)
    assert own["r_sum"] == pytest.approx(r_sum, rel=near if untouched == "catch_up" else 1e-5)


# ---- rows that catch up ----------------------------------------------------------------------------------------------

REPLAYS = {
    "ftrl": {"weight_decay": 0.1},
    "lars": {},
    "adam, refused": {"beta_1": 0.99, "beta_2": 0.9},
    "adam, constraint": {"weight_decay": 0.1},
    "rmsprop, constraint": {},
    "adafactor": {},
}


def trained(mode, case, storage, state_dtype, more, steps=30, look=lambda table, step: None, part=lambda step: True):
    """A table after steps in which it takes part or not, beside one that always does."""
    constraint = constraints.NonNeg() if "constraint" in case else None
    table, other = Table((V, D), storage, constraint=constraint), Table((3, 2))
    rng = np.random.default_rng(3)
    table.assign(ref.random_table(rng, V, D))
    case = case.removesuffix(", constraint").removesuffix(", refused")
    optimizer = made(case, untouched=mode, state_dtype=state_dtype, **more)
    made_of = gradients(rng, "row-sparse")
    for step in range(steps):
        pairs = [(next(made_of), table), (np.ones((3, 2)), other)]
        optimizer.apply_gradients(pairs if part(step) else pairs[1:])
        look(table, step)
    return table, optimizer


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
@every_half
@pytest.mark.parametrize("case", REPLAYS)
def test_replays(case, storage, state_dtype):
    """The bits of "dense", with look-ups on the way, and where the table is not in every step."""

    def look(table, step):
        if step % 4 == 1:
            table[[1, step]]
        if step == 17:
            table.numpy()

    for part in (lambda step: True, lambda step: step % 3 != 1):
        (dense, a), (late, b) = (
            trained(mode, case, storage, state_dtype, REPLAYS[case], look=look, part=part)
            for mode in ("dense", "catch_up")
        )
        if case == "adafactor":  # its sums are of another order
            np.testing.assert_allclose(late.to_float32(), dense.to_float32(), rtol=0.02, atol=0.02)
            continue
        assert b._known(late).history.leaped is False
        assert late.numpy().tobytes() == dense.numpy().tobytes()
        assert a.state(dense).keys() == b.state(late).keys()
        for name, array in a.state(dense).items():
            assert array.tobytes() == b.state(late)[name].tobytes()


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["momentum, constraint", "lion, constraint", "nesterov, constraint"])
def test_a_state_of_codes(case, storage):
    """Coded again, codes may be others: so rows that stay are not, and rows that catch up only after each step."""

    def look(table, step):
        if step % 4 == 1:
            table[[1, step]]
        if step == 10:
            table.freeze([0, 1])

    trainings = [trained(mode, case, storage, "int8", {}, look=look) for mode in ("dense", "catch_up")]
    (dense, a), (late, b) = trainings
    assert late.numpy().tobytes() == dense.numpy().tobytes()
    for table, optimizer in trainings:
        optimizer.catch_up()
        frozen = optimizer.variables[0][:2].tobytes()
        for _ in range(3):
            optimizer.apply([np.ones((V, D))], [table])
            table.numpy()
        assert optimizer.variables[0][:2].tobytes() == frozen
    assert a.variables[0].tobytes() == b.variables[0].tobytes()


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
@every_half
@pytest.mark.parametrize("case", [case for case in CASES if "catch_up" in CASES[case][1].modes])
def test_leaps(case, storage, state_dtype):
    """Near "dense" in float32, without a bias; and the same bits, however rows are looked at."""
    exact, _ = trained("dense", case, "float32", "float32", {})
    late, optimizer = trained("catch_up", case, storage, state_dtype, {})
    other, another = trained("catch_up", case, storage, state_dtype, {})
    table, _ = trained("dense", case, storage, state_dtype, {})
    assert late.memory.tobytes() == other.memory.tobytes()
    assert late[np.arange(V)].tobytes() == other.to_float32().tobytes()
    assert late.memory.tobytes() == other.memory.tobytes()
    for one, two in zip(optimizer.variables, another.variables, strict=True):
        assert one.tobytes() == two.tobytes()
    epsilon = 2.0 ** (-8 if storage == "bfloat16" else -11)
    way = 0.05 if state_dtype == "bfloat16" else 0
    for found in (late, table):
        error = (found.to_float32() - exact.numpy()) / np.maximum(1, np.abs(exact.numpy()))
        assert np.abs(error).max() < 20 * epsilon + 8 * way  # a momentum near 0 has either sign: Lion
        assert np.abs(error).mean() < 4 * epsilon + way
        assert abs(error.mean()) < 0.7 * epsilon + way / 4


# ---- threads, files, copies ------------------------------------------------------------------------------------------

STORAGES = (*HALVES, *INTS)
every_storage = pytest.mark.parametrize("storage", STORAGES)


def a_layer(storage, rng, v=V, d=5, **more):
    """A layer of any storage dtype."""
    layer = Embedding(v, d, weights=ref.random_table(rng, v, d), dtype=storage if storage in HALVES else None, **more)
    if storage in INTS:
        layer.quantize(storage)
    return layer


@pytest.mark.parametrize("case", ["sgd", "adam of Keras", "rowwise", "lamb of Keras", "adafactor", "ftrl"])
@every_half
def test_threads_train_alike(storage, case, threads):
    """Rounded by the number of the row, not by who writes it. Large enough for several threads."""
    found, v, d = [], 6000, 64
    for number in (1, 2, 7):
        threads(number)
        rng = np.random.default_rng(9)
        table = Table((v, d), storage)
        table.assign(ref.random_table(rng, v, d))
        optimizer = made(case, state_dtype="bfloat16", untouched="dense" if case == "adafactor" else "skip")
        for _ in range(3):
            ids = ref.random_ids(rng, 9000, v)
            gradient = rng.standard_normal((9000, d)).astype(np.float32)
            optimizer.apply([IndexedSlices(gradient, ids, (v, d))], [table])
        found.append((table.numpy().tobytes(), [state.tobytes() for state in optimizer.variables]))
    assert found[0] == found[1] == found[2]


@every_storage
def test_threads_encode_alike(storage, threads, rng):
    values, found = ref.random_table(rng, 6001, 65), []
    for number in (1, 2, 7):
        threads(number)
        table = ops.zeros(values.shape, storage)
        ops.encode(table, values, rounding=STOCHASTIC)
        rows = ops.rows_of(table, dim=65)
        found.append((table.tobytes(), ops.decode(rows).tobytes(), ops.gather(rows, np.arange(6001)).tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("mmap_mode", [None, "r", "r+", "c"])
@every_storage
def test_saved(storage, mmap_mode, tmp_path, rng):
    """And trained on in the file, or not at all."""
    for cls, d in ((Embedding, 5), (EmbeddingBag, 16)):
        layer, path = a_layer(storage, rng, d=d), tmp_path / f"{cls.__name__}"
        layer.save(path)
        for _ in range(2):
            layer.save(path)
        again = fastembed.load(path, mmap_mode=mmap_mode)
        assert type(again) is Embedding
        assert (again.dtype, again.dtype_policy) == (storage, layer.dtype_policy)
        assert again.embeddings.shape == (V, d)
        assert again.embeddings.memory.tobytes() == layer.embeddings.memory.tobytes()
        assert isinstance(again.embeddings.memory, np.memmap) == (mmap_mode is not None)
        assert np.array_equal(again([[3, 1], [V - 1, 3]]), layer([[3, 1], [V - 1, 3]]))
        # What NumPy sees in the file.
        stored = np.load(path / "embeddings.npy")
        assert stored.dtype == (np.uint16 if storage == "bfloat16" else layer.embeddings.dtype)
        trains = storage in HALVES and mmap_mode != "r"
        assert again.embeddings.trainable == (storage in HALVES)
        if not trains:
            with pytest.raises((TypeError, ValueError), match=REFUSED):
                optimizers.SGD().apply([again.gradient([1], np.ones((1, d)))], [again.embeddings])
            continue
        optimizers.SGD(1.0).apply([again.gradient([1], np.ones((1, d)))], [again.embeddings])
        assert np.array_equal(again([1]) - layer([1]) < -0.9, np.ones((1, d), bool))
        seen = fastembed.load(path)([1])
        assert np.array_equal(seen, again([1])) == (mmap_mode == "r+")
        if mmap_mode == "r+":
            with pytest.raises(ValueError, match="must not be where the table is trained"):
                again.save(path)


@every_storage
def test_copied(storage, rng):
    for d in (1, 5, 16):
        layer = a_layer(storage, rng, d=d)
        wanted = layer(np.arange(V))
        table = layer.embeddings
        for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
            assert (other.dtype, other.embeddings.shape) == (storage, (V, d))
            assert np.array_equal(other(np.arange(V)), wanted)
            assert other.embeddings.memory.tobytes() == table.memory.tobytes()
            assert not np.shares_memory(other.embeddings.memory, table.memory)
        for other in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table)):
            assert (other.storage, other.shape, len(other)) == (storage, (V, d), V)
            assert np.array_equal(other[np.arange(V)], wanted)


@every_rounding
def test_copied_in_training(storage, state_dtype, rounding, rng):
    """A pickle, and a deep copy, go on with the same bits; those of another seed do not."""
    how = {"state_dtype": state_dtype, "rounding": rounding, "untouched": "catch_up"}
    optimizer, other_seed = optimizers.Adam(0.01, **how), optimizers.Adam(0.01, rounding_seed=1, **how)
    tables = [Table((V, D), storage) for _ in range(2)]
    for table in tables:
        table.assign(ref.random_table(np.random.default_rng(1), V, D))
    made_of = gradients(rng, "row-sparse")
    for _ in range(3):
        gradient = next(made_of)
        optimizer.apply([gradient], [tables[0]])
        other_seed.apply([gradient], [tables[1]])
    assert (tables[0].numpy().tobytes() == tables[1].numpy().tobytes()) == (rounding == "nearest")
    pairs = [(optimizer, tables[0])]
    pairs += [pickle.loads(pickle.dumps(pairs[0])), copy.deepcopy(pairs[0])]
    for _ in range(3):
        gradient = next(made_of)
        for one, table in pairs:
            one.apply([gradient], [table])
    found = [(table.numpy().tobytes(), *[state.tobytes() for state in one.variables]) for one, table in pairs]
    assert found[0] == found[1] == found[2]


@every_storage
def test_a_table_in_a_file(storage, tmp_path, rng):
    path, values = tmp_path / "table.npy", ref.random_table(rng, V, 5)
    table = Table((V, 5), storage, path)
    assert (table[np.arange(V)] == 0).all()
    table.assign(values)
    wanted = table[np.arange(V)]
    del table
    again = Table((V, 5), storage, path)
    assert np.array_equal(again[np.arange(V)], wanted)
    assert np.load(path).shape == (V, 5) if storage in HALVES else (V,)
    for other in {"float32", *STORAGES} - {storage}:
        with pytest.raises(ValueError, match="`path` must hold"):
            Table((V, 5), other, path, mmap_mode="r")
    with pytest.raises(ValueError, match="`path` must hold"):
        Table((V, 9), storage, path, mmap_mode="r")
    if storage in HALVES:
        layer = Embedding(V, 5, dtype=storage, path=tmp_path / "layer.npy", weights=values)
        assert np.array_equal(layer(np.arange(V)), wanted)
        optimizers.SGD(1.0).apply([layer.gradient([3], np.ones((1, 5)))], [layer.embeddings])
        after = layer(np.arange(V))
        assert not np.array_equal(after, wanted)
        layer = again = None
        assert np.array_equal(Embedding(V, 5, dtype=storage, path=tmp_path / "layer.npy")(np.arange(V)), after)
        assert sorted(os.listdir(tmp_path)) == ["layer.npy", "table.npy"]


# ---- numbers in and out ----------------------------------------------------------------------------------------------


@every_storage
def test_weights_round_trip(storage, rng):
    """What get_weights and numpy() give is taken back as it is."""
    for d in (5, 16):
        layer, other = a_layer(storage, rng, d=d), a_layer(storage, rng, d=d)
        before = layer(np.arange(V))
        assert not np.array_equal(other(np.arange(V)), before)
        other.set_weights(layer.get_weights())
        assert np.array_equal(other(np.arange(V)), before)
        other.embeddings.assign(np.zeros((V, d)))
        other.embeddings.assign(layer.embeddings.numpy())
        assert np.array_equal(other(np.arange(V)), before)
        if storage in INTS:
            with pytest.raises(ValueError, match="must be numbers of shape"):
                Embedding(V, d).set_weights(layer.get_weights())
            with pytest.raises(ValueError, match="must be numbers of shape"):
                a_layer(storage, rng, d=d).set_weights([layer.get_weights()[0][1:]])
            continue
        assert np.array_equal(Embedding(V, d, dtype=storage, weights=layer.get_weights())(np.arange(V)), before)


def test_uint16_is_bits_of_bfloat16(rng):
    """With and without ml_dtypes; never taken for numbers."""
    values = ref.random_table(rng, V, D)
    bits = nearest(values, "bfloat16")
    table = Table((V, D), "bfloat16")
    for array in (bits, np.asfortranarray(bits), bits[::-1][::-1]):
        table.assign(np.zeros((V, D)))
        table.assign(array)
        assert np.array_equal(table.to_float32(), decoded(bits, "bfloat16"))
    layer = Embedding(V, D, dtype="bfloat16", weights=bits)
    layer.set_weights([bits])
    assert np.array_equal(layer.embeddings, decoded(bits, "bfloat16"))
    assert np.array_equal(ops.gather(bits, [3, 3]), decoded(bits, "bfloat16")[[3, 3]])
    for storage in ("float32", "float16", *INTS):
        with pytest.raises(ValueError, match="of uint16 is bits of bfloat16"):
            Table((V, D), storage).assign(bits)
    with pytest.raises(ValueError, match="`weights` of uint16 is bits"):
        Embedding(V, D, weights=bits)


@every_storage
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, np.uint32])
def test_assigned(storage, kind, rng):
    """Numbers of any kind, through float32."""
    array = np.round(10 * ref.random_table(rng, V, D)).astype(kind)
    table, wanted = Table((V, D), storage), ops.zeros((V, D), storage)
    table.assign(array)
    ops.encode(wanted, array.astype(np.float32))
    assert table.memory.tobytes() == wanted.tobytes()
    assert table.to_float32(slice(3, 7)).tobytes() == table[3:7].tobytes() == table[[3, 4, 5, 6]].tobytes()


@every_storage
def test_arrays_of_numbers(storage, rng):
    """np.asarray gives numbers, never bits or codes."""
    layer = a_layer(storage, rng)
    table, wanted = layer.embeddings, layer(np.arange(V))
    assert np.array_equal(np.asarray(table), wanted)
    for kind in (np.float32, np.float64):
        array = np.asarray(table, kind)
        assert array.dtype == kind
        assert np.array_equal(array, wanted)
    assert np.array_equal(np.array(table, copy=True), wanted)
    assert not np.shares_memory(np.array(table, copy=True), table.memory)
    assert np.allclose(table, wanted)
    if table.dtype.kind != "f" and table.dtype.name != "bfloat16":
        with pytest.raises(ValueError, match="where nothing may be copied"):
            np.array(table, copy=False)
    assert repr(table) == f"<Table 'embeddings' shape=({V}, 5) dtype={storage}>"


def test_ml_dtypes_arrays(rng):
    """Arrays of ml_dtypes go in, and come out of tables, where it is installed."""
    bfloat16 = peer("ml_dtypes").bfloat16
    values = ref.random_table(rng, V, D).astype(bfloat16)
    layer = Embedding(V, D, dtype="bfloat16", weights=values)
    assert layer.embeddings.dtype == bfloat16
    assert layer.get_weights()[0].dtype == bfloat16
    assert np.array_equal(np.asarray(layer.embeddings), values)
    layer.set_weights([values[::-1]])
    assert np.array_equal(layer.embeddings, values[::-1])
    for storage in ("float32", "float16", *INTS):
        table, wanted = Table((V, D), storage), Table((V, D), storage)
        table.assign(values)
        wanted.assign(values.astype(np.float32))
        assert table.memory.tobytes() == wanted.memory.tobytes()
    array = values.copy()
    optimizers.SGD(0.5, rounding="nearest").apply([np.ones((V, D))], [array])
    assert np.array_equal(array, (values.astype(np.float32) - 0.5).astype(bfloat16))
    mixed = Embedding(V, D, dtype="mixed_bfloat16", weights=values)
    assert mixed([1, 2]).dtype == bfloat16


# ---- what is refused, and quantize -----------------------------------------------------------------------------------


@every_int
def test_codes_do_not_train(storage, rng):
    layer = a_layer(storage, rng)
    table, before = layer.embeddings, layer.embeddings.memory.tobytes()
    gradient = IndexedSlices(np.ones((1, 5), np.float32), [3], (V, 5))
    assert (table.trainable, layer.trainable_weights, layer.non_trainable_weights) == (False, [], [table])
    layer.trainable = True
    assert not table.trainable
    for variable in (table, Table((V, 5), storage), table.memory):
        for make in (optimizers.SGD, optimizers.Adam):
            with pytest.raises((TypeError, ValueError), match=REFUSED):
                make().apply([gradient], [variable])
            with pytest.raises((TypeError, ValueError), match=REFUSED):
                make().build([variable])
    parts = ops.parts([3], np.ones((1, 5), np.float32))
    for update in (
        lambda: ops.update(table.rows, parts, "sgd", {"learning_rate": 1.0}),
        lambda: ops.update_dense(table.rows, np.ones((V, 5)), "sgd", {"learning_rate": 1.0}),
    ):
        with pytest.raises(TypeError, match=rf"`table` must have a dtype that trains.* Received: {storage}, which"):
            update()
    state = ops.zeros((V, 4), storage)
    for step in ("adagrad", "momentum") if storage != "int8" else ("adagrad",):
        with pytest.raises(ValueError, match=r"`state` must have shape|`state_dtype` must be 'float32' or 'bfloat16'"):
            ops.update(np.zeros((V, 4), np.float32), ops.parts([3], np.ones((1, 4))), step, {}, state)
    for call in (lambda: ops.fill(table.memory, "uniform"), lambda: ops.project(table.memory, (0, 0, 0, 0))):
        with pytest.raises(TypeError, match="`table` must be float32"):
            call()
    assert table.memory.tobytes() == before


BAD_TABLES = {
    "int32": np.zeros((4, 2), np.int32),
    "int8": np.zeros((4, 2), np.int8),
    "swapped": np.zeros((4, 2), ">f2"),
    "swapped bits": np.zeros((4, 2), ">u2"),
    "other fields": np.zeros(4, [("scale", "f4"), ("offset", "f4"), ("codes", "i1", (4,))]),
    "other order": np.zeros(4, [("offset", "f4"), ("scale", "f4"), ("int8", "i1", (4,))]),
    "no padding": np.zeros(4, [("scale", "f4"), ("offset", "f4"), ("int8", "i1", (5,))]),
    "unsigned": np.zeros(4, [("scale", "f4"), ("offset", "f4"), ("int8", "u1", (4,))]),
    "float64 scale": np.zeros(4, [("scale", "f8"), ("offset", "f4"), ("int8", "i1", (4,))]),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_wrong_dtypes(case):
    table = BAD_TABLES[case]
    for call in (
        lambda: ops.gather(table, [0]),
        lambda: ops.update(table, ops.parts([1], np.ones((1, 2), np.float32)), "sgd", {}),
        lambda: Table.wrap(table),
    ):
        with pytest.raises(TypeError, match=r"must have a dtype of \['float32', 'float64', 'bfloat16', 'float16'"):
            call()
    with pytest.raises((TypeError, ValueError)):
        optimizers.SGD().apply([np.ones(table.shape)], [table])


@pytest.mark.parametrize("storage", STORAGES)
def test_wrong_layouts(storage):
    table = ops.zeros((6, 8), storage)
    for bad in (table[::2], table[None], table.view(np.uint8)[:-1]):
        with pytest.raises((TypeError, ValueError), match=r"C-contiguous matrix|must have a dtype"):
            ops.gather(bad, [0])
    table.flags.writeable = False
    assert np.array_equal(ops.gather(table, [1]), np.zeros((1, 8)))
    for call in (
        lambda: ops.encode(table, np.ones((6, 8), np.float32)),
        lambda: Table.wrap(table).assign(np.ones((6, 8))),
        lambda: ops.change(table, lambda values_vd, first: None),
        lambda: ops.update(table, ops.parts([1], np.ones((1, 8), np.float32)), "sgd", {}),
    ):
        with pytest.raises((TypeError, ValueError), match=REFUSED):
            call()
    for dtype in ("float8", "bf16", "int16", "uint16", "complex64", None, 3, type(None)):
        with pytest.raises(TypeError, match="`dtype` must be one of"):
            Table((3, 2), dtype)


@every_int
def test_quantize(storage, rng):
    values = ref.random_table(rng, V, 7)
    layer = Embedding(V, 7, weights=values, padding_idx=3, trainable=True)
    optimizer = optimizers.Adam(untouched="catch_up")
    optimizer.apply([layer.gradient([1, 2], np.ones((2, 7)))], [layer.embeddings])
    optimizer.apply([layer.gradient([5, 3], np.ones((2, 7)))], [layer.embeddings])  # rows 1 and 2 are behind
    wanted = Table((V, 7), storage)
    wanted.assign(copy.deepcopy(layer).embeddings.to_float32())
    for mode in ("int16", "float16", None, 8, "INT8"):
        with pytest.raises(ValueError, match="`mode` must be one of"):
            layer.quantize(mode)
    assert layer.dtype == "float32"
    assert layer.quantize(storage) is None
    assert layer.embeddings.memory.tobytes() == wanted.memory.tobytes()
    assert (layer([3]) == 0).all()
    assert (layer.dtype, layer.compute_dtype) == (storage, "float32")
    assert layer.dtype_policy in (f"{storage}_from_float32", f"{storage}/128_from_float32")
    assert layer.embeddings.nbytes == V * (8 + {"int8": 8, "int4": 4, "int2": 4}[storage])
    for mode in INTS:
        with pytest.raises(ValueError, match="can be quantised once"):
            layer.quantize(mode)
    again = Embedding.from_config(json.loads(json.dumps(layer.get_config())))
    assert again.dtype == storage
    for half in HALVES:
        other = Embedding(V, 7, weights=values, dtype=half)
        rounded = other(np.arange(V))
        other.quantize(storage)
        wanted.assign(rounded)
        assert other.embeddings.memory.tobytes() == wanted.memory.tobytes()


@every_int
def test_quantize_merges_lora(storage, rng):
    layer = Embedding(V, 8, weights=ref.random_table(rng, V, 8), padding_idx=2)
    layer.enable_lora(3)
    a, b = layer.trainable_weights
    a.assign(np.where(np.arange(V)[:, None] == 2, 0, ref.random_table(rng, V, 3)))
    b.assign(ref.random_table(rng, 3, 8))
    merged = layer(np.arange(V))
    wanted = Table((V, 8), storage)
    wanted.assign(merged)
    other = copy.deepcopy(layer)
    layer.quantize(storage)
    np.testing.assert_allclose(layer(np.arange(V)), wanted.to_float32(), atol=np.ptp(merged, axis=1).max() * 1e-6)
    assert (layer([2]) == 0).all()
    assert (layer.lora_rank, layer.weights) == (None, [layer.embeddings])
    other.weights[2].assign(np.full((3, 8), np.inf))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="rows must be finite"):
        other.quantize(storage)
    assert (other.dtype, other.lora_rank, len(other.weights)) == ("float32", 3, 3)


@every_int
@pytest.mark.parametrize("d", [5, 8])
def test_lora_over_codes(storage, d, rng, tmp_path, monkeypatch):
    """The codes stay as they are, A and B train; merged, the rows are coded again."""
    monkeypatch.setattr(ops.tables, "_BLOCK", 80)  # several blocks
    layer = a_layer(storage, rng, d=d)
    codes, before = layer.embeddings.memory.tobytes(), layer(np.arange(V))
    layer.enable_lora(2)
    a, b = layer.trainable_weights
    ids, target = np.arange(V), ref.random_table(rng, V, 2) @ ref.random_table(rng, 2, d)
    optimizer = optimizers.Adam(0.1)
    for _ in range(50):
        pairs = layer.lora_gradients(ids, layer(ids) - before - target)
        optimizer.apply(pairs, [a, b])
    assert layer.embeddings.memory.tobytes() == codes
    merged = layer(ids)
    assert np.abs(merged - before - target).mean() < 0.5 * np.abs(target).mean()
    layer.save(tmp_path / "layer")
    assert np.array_equal(fastembed.load(tmp_path / "layer", mmap_mode="r")(ids), merged)
    other, wanted = copy.deepcopy(layer), Table((V, d), storage)
    other.weights[1].numpy()[V - 1] = np.inf
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=f"rows must be finite.* row {V - 1} "):
        other.merge_lora()
    assert other.embeddings.memory.tobytes() == codes
    assert other.lora_rank == 2
    layer.merge_lora()
    wanted.assign(merged)
    np.testing.assert_allclose(layer(ids), wanted.to_float32(), atol=np.ptp(merged, axis=1).max() * 1e-6)
    assert (layer.embeddings.trainable, layer.dtype) == (False, storage)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_quantize(run_python):
    """Of a table of 200 MB: the codes and a block beside it."""
    program = """
        import pathlib
        import sys
        from fastembed import Embedding

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

        Embedding(3, 64).quantize(sys.argv[1])
        layer = Embedding(800_000, 64, "ones")
        layer.build()
        before = peak()
        layer.quantize(sys.argv[1])
        print(peak() - before, layer.embeddings.nbytes)
    """
    for storage in ("int8", "int2"):
        more, codes = map(int, run_python(program, storage).split())
        assert codes == 800_000 * {"int8": 72, "int2": 24}[storage]
        assert codes // 2 < more < codes + (64 << 20)


@every_storage
def test_bags_and_ragged(storage, rng):
    """Whole layers: the same answers as a float32 layer with the decoded rows."""
    bag = EmbeddingBag(V, 5, "mean", weights=ref.random_table(rng, V, 5), dtype=storage if storage in HALVES else None)
    if storage in INTS:
        bag.quantize(storage)
    plain = EmbeddingBag(V, 5, "mean", weights=bag.embeddings.to_float32())
    ids = Ragged.from_lists([[3, 1], [], [5, 5, 9]])
    np.testing.assert_allclose(bag(ids), plain(ids), rtol=1e-6, atol=1e-6)
    assert np.array_equal(bag(np.arange(V)[:, None]), plain(np.arange(V)[:, None]))
    assert bag(ids).dtype == np.float32
