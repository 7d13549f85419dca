"""Updates: all that is asked of a call becomes jobs of the core, which does them together.

May import: dtypes, ops.checks, .cores, .gradients, .rows, .steps, threads. Do not break: all is checked, and has its
memory, before the first write.
"""

import math

import numpy as np

from fastembed.ops.checks import check_floats
from fastembed.ops.cores import by_core
from fastembed.ops.gradients import Parts, group, parts_as
from fastembed.ops.rows import check_trains, rows_of
from fastembed.ops.steps import HYPERPARAMETERS, Update, check_state_dtype, state_width
from fastembed.threads import core as _core
from fastembed.threads import threads_for

_CODES = {name: code for code, name in enumerate(_core.STEPS)}


def _check_update(table, dim, step, hyper, state):
    table = rows_of(table)
    check_trains(table)
    width = state_width(step, table.dim)
    if table.dim != dim:
        raise ValueError(f"`table` must have {dim} columns, as the gradient has. Received: shape {table.shape}")
    if width and state is None:
        wanted = f"a {table.real} array {(len(table), width)}"
        raise ValueError(f"`state` must be {wanted} for step {step!r}. Received: None")
    if state is not None:
        state = rows_of(state, "state", writeable=True)
        check_state_dtype(step, state.storage)
        if state.real != table.real:
            raise TypeError(f"`state` must be float64 where the table is, and only there. Received: {state.storage}")
        if state.shape != (len(table), width) or state.storage in ("int4", "int2"):
            raise ValueError(f"`state` must have shape {(len(table), width)}. Received: shape {state.shape}")
    if step in ("adafactor", "adafactor_norm") and "columns" not in hyper:
        raise ValueError(f"`hyper` must have 'columns' for step {step!r}. Received: {sorted(hyper)}")
    unknown = set(hyper) - set(HYPERPARAMETERS) - {"columns"}
    if unknown:
        raise ValueError(f"`hyper` must have keys of {list(HYPERPARAMETERS)}. Received: {sorted(unknown)}")


def numbers(hyper):
    """A dict of hyperparameters as the core takes them."""
    return tuple([float(hyper.get(name, 0.0)) for name in HYPERPARAMETERS])


_no_gradient = np.zeros(1 << 12, np.float32)


def _zero_row(dim, real):
    zeros = _no_gradient.view(real)
    return zeros if dim <= len(zeros) else np.zeros(dim, real)


def _job(update, known):
    """An Update, checked before, for the core; and how many bytes it will touch, about. known: numbers() by id."""
    _, gradient, step, hyper, state, groups, constraint = update[:7]
    table = rows_of(update.table)
    if id(hyper) not in known:
        known[id(hyper)] = numbers(hyper)
    about = -1 if step is None else _CODES[step], known[id(hyper)], None if constraint is None else tuple(constraint)
    job_of = table.octets_vb, table.code, table.dim
    row_bytes = table.octets_vb.shape[1]
    make = table.core.module.Job
    if state is None:
        job = make(*job_of, None, 0, 0, *about)
    else:
        state = rows_of(state, "state")
        job = make(*job_of, state.octets_vb, state.code, state.dim, *about)
        row_bytes += state.octets_vb.shape[1]
    touched = len(table)
    if isinstance(gradient, Parts):
        upstream_bd = gradient.upstream_bd
        if np.may_share_memory(upstream_bd, table.octets_vb):
            upstream_bd = upstream_bd.copy()  # the step reads what it was before
        job.parts(groups, upstream_bd, gradient.weights_n, gradient.argmax_bd)
        touched = groups.num_parts
    elif gradient is not None:
        job.dense(gradient)
    elif groups is not None:
        job.look(groups)
        touched = groups.num_parts
    if update.everywhere:
        job.everywhere(_zero_row(table.dim, table.real))
        touched = len(table)
    if step == "squares":
        job.without_table()
    if "columns" in hyper:
        job.columns(hyper["columns"])
    if update.factor != 1 or update.limit != math.inf:
        job.shape(update.factor, update.limit)
    if update.fade:
        job.fade(update.fade)
    if update.scales is not None:
        job.scale(update.scales)
    if update.missed is not None:
        _set_missed(job, update.missed, _zero_row(table.dim, table.real))
    if update.average is not None:
        job.average(*update.average)
    if update.rounding is not None:
        job.round(True, update.rounding.seed % 2**64, update.rounding.step, update.rounding.pass_)
    return job, touched * row_bytes


def _set_missed(job, missed, zeros_d):
    job.catch_up(missed.last_v, missed.now, missed.idle, zeros_d)
    if missed.moments is None:
        job.replays(missed.replays, missed.first, _CODES[missed.step], missed.most)
    else:
        how = missed.reach, missed.endless, missed.weight_decay, missed.decays, missed.powers
        job.leaps(missed.moments, missed.first, _CODES[missed.step], *how)


def run(updates):
    """Does a list of `Update`s, checked before, together. Returns for each what its step has summed up, a list.

    Raises:
        MemoryError: nothing was written then.
    """
    known = {}
    jobs = [_job(update, known) for update in updates]
    threads, sums = threads_for(sum(work for _, work in jobs)), [None] * len(jobs)
    cores = [rows_of(update.table).core for update in updates]
    passes = [(these, module.Pass([jobs[i][0] for i in these], threads)) for module, these in by_core(cores)]
    for these, one in passes:  # all have their memory
        for i, found in zip(these, one.run(), strict=True):
            sums[i] = found
    return sums


def update(table, parts, step, hyper, state=None, groups=None, constraint=None, rounding=None):
    """One optimizer step on the rows that a gradient touches, in place.

        table[r], state[r] = step(table[r], state[r], sum of the parts of row r)

    The sum of a row runs over its parts in the order of the ids, in chunks of 512, then over the chunks; so the bits
    never depend on the number of threads.

    Args:
        table: array (v, d) of float32, float64, bfloat16 or float16, C-contiguous, writeable; a memory map too.
        parts: Parts; of another dtype than that in which the table is stepped, they are converted.
        step: a key of `ops.STATES`: "sgd", "adagrad", "adam", ...
        hyper: dict of floats, those of `ops.HYPERPARAMETERS` that the step reads. Adam's learning_rate is the one with
            both bias corrections in it.
        state: array (v, state_width(step, d)) of float32 or bfloat16 (int8, where the state is a momentum alone), of a
            float64 table float64; or None where that is 0.
        groups: what group(parts, v) gave, or None to group here.
        constraint: a `RowConstraint` that the rows satisfy afterwards, or None.
        rounding: a `Rounding`, by which rows and states that are not float32 are rounded; None: to the nearest.

    Raises:
        IndexError: an id outside [0, v). TypeError, ValueError: wrong dtype, shape or name. Nothing was written then.

    Source: Keras 3's formulas; the row-wise ones are FBGEMM's.

    Example:
        >>> table = np.zeros((5, 2), "float32")
        >>> p = fastembed.ops.parts([4, 1, 4], np.ones((3, 2), "float32"))
        >>> fastembed.ops.update(table, p, "sgd", {"learning_rate": 0.5})
        >>> table[[1, 4]]
        array([[-0.5, -0.5],
               [-1. , -1. ]], dtype=float32)
    """
    _check_update(table, parts.upstream_bd.shape[1], step, hyper, state)
    real = rows_of(table).real
    if groups is None or parts.upstream_bd.dtype != real:
        parts = parts_as(parts, real)
        groups = group(parts, len(table))
    run([Update(table, parts, step, hyper, state, groups, constraint, rounding=rounding)])


def update_dense(table, gradient, step, hyper, state=None, constraint=None, rounding=None):
    """update() for a gradient that has every row: float32 or float64, the table's shape."""
    grads_vd = check_floats(gradient, table.shape, "gradient", rows_of(table).real)
    _check_update(table, table.shape[1], step, hyper, state)
    run([Update(table, grads_vd, step, hyper, state, None, constraint, rounding=rounding)])
