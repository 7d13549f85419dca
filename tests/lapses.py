"""A lapse of the core (fe_lapse in _rows/rows.h), applied by itself: for tests.

May import: fastembed, NumPy. Do not break: nothing but the lapse happens to the arrays.
"""

import math

import numpy as np

from fastembed import ops


def lapse(step, table, state, hyper, fade, decay, move):
    """All rows: w -= fade w + (move[0] + move[1] r + ...) x, and the parts of the state are multiplied by `decay`.

    Raises ValueError where the step has no closed form."""
    lines = np.zeros((2, 8))  # row 0: the drift of rows whose last step was 0; row 1: the log of what is left of w
    lines[0, : len(move)] = move
    lines[1, 6] = math.log1p(-fade)
    last_v = np.zeros(len(table), np.int32)
    how = {"reach": 1, "weight_decay": 1.0, "decays": decay, "powers": ops.powers(decay, table.dtype)}
    missed = ops.Missed(last_v, 1, False, step, 0, moments=lines, **how)
    ops.run([ops.Update(table, None, None, hyper, state, missed=missed, everywhere=True)])
    assert (last_v == 1).all()
