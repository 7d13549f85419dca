"""The bits of a random table: Philox4x32-10 in NumPy, and what the initializers make of its words.

May import: NumPy and the standard library, nothing of the package. Do not break: it is written from the published
algorithm (Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3; 2011), not from the C code.

A matrix row of d columns uses c = ceil(d / 4) counters (row, block); word k of block b is column k c + b.
"""

import statistics

import numpy as np

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter, key):
    """Four uint64 arrays of 32-bit words, for four arrays of 32-bit counter words and two key words."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ np.uint64(k0), p1 & LOW, (p0 >> HALF) ^ c3 ^ np.uint64(k1), p0 & LOW
        k0, k1 = (k0 + WEYL[0]) % 2**32, (k1 + WEYL[1]) % 2**32
    return c0, c1, c2, c3


def words(shape, seed, first_row=0):
    """uint64 (v, d): the 32-bit word behind each element."""
    v, d = shape
    blocks = -(-d // 4)
    row, block = (x.ravel().astype(np.uint64) for x in np.mgrid[first_row : first_row + v, 0:blocks])
    made = philox((row & LOW, row >> HALF, block & LOW, block >> HALF), (seed % 2**32, seed % 2**64 >> 32))
    return np.concatenate([word.reshape(v, blocks) for word in made], axis=1)[:, :d]


def uniform(shape, seed, low, high, first_row=0):
    """float32 (v, d) in [low, high): the upper 24 bits of a word, in float32 arithmetic."""
    low, high = np.float32(low), np.float32(high)
    steps = (words(shape, seed, first_row) >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
    values = low + steps * (high - low)
    return np.minimum(values, np.nextafter(high, low)) if low < high else values


def normal(shape, seed, mean, stddev, first_row=0, cut=None):
    """float64 (v, d): the quantile of (word + 1/2) / 2^32; `cut`: of so far from Phi(-cut) to Phi(cut)."""
    p = (words(shape, seed, first_row).astype(np.float64) + 0.5) / 2**32
    if cut is not None:
        tail = statistics.NormalDist().cdf(-cut)
        p = tail + (1 - 2 * tail) * p
    quantile = statistics.NormalDist().inv_cdf
    return float(np.float32(mean)) + float(np.float32(stddev)) * np.vectorize(quantile, otypes=[float])(p)
