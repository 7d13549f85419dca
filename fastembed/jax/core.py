"""Look-ups of a `bridge.Trained` in JAX programs, and steps of its optimizer in their backward passes.

May import: bridge, layers, threads, jax.ffi, jax.ids. Do not break: what must come first is an operand of what comes
later. A gradient is taken over after its look-up, a step after the gradients of all look-ups, the next look-up after
the step.

    anchor -> open -> token -> look_up -> rows           forward: the token is the number of this run
    anchor <- step <- token <- collect <- upstream       backward: zeros, each a result of what had to be done before

The anchor is a float32 0 among the parameters of a model. Its gradient is 0 too, and stands at the end of the backward
pass: the cotangent of a token is a sum over all its look-ups, so that the step has the sum of all gradients.
"""

import functools
import itertools
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np

from fastembed.bridge import Trained
from fastembed.jax import ffi
from fastembed.jax.ids import Ids, traced, wide
from fastembed.layers import EmbeddingBag
from fastembed.threads import Lock

_ZERO = jax.ShapeDtypeStruct((), np.float32)
_RUNS = 1 << 24  # numbers of runs, which a float32 holds exactly
_MOST_WAITING = 64  # runs that wait for their step; more can only be left over from programs that failed
_runs, _places = itertools.count(), itertools.count()
_waiting = {}  # the gradients of a run, by its number: (place in the program, what `Trained.collect` takes)
_lock = Lock()


# ---- on the host -----------------------------------------------------------------------------------------------------


@ffi.function
def _begin(results, trained, anchor, place):
    results[0][...] = next(_runs) % _RUNS


@ffi.function
def _look_up(results, trained, token, ids, pairs, row_splits, weights):
    trained.look_up(ids if pairs is None else wide(pairs), row_splits, weights, results[0])
    results[1][...] = 0


@ffi.function
def _read(results, layer, after, ids, pairs, row_splits, weights):
    Trained(layer).look_up(ids if pairs is None else wide(pairs), row_splits, weights, results[0])


@ffi.function
def _update(results, layer, optimizer, after, upstream, ids, pairs, row_splits, weights):
    trained = Trained(layer, optimizer)
    layer.build()
    trained.collect(ids if pairs is None else wide(pairs), upstream, row_splits, weights)
    trained.step()
    results[0][...] = 0


@ffi.function
def _collect(results, trained, token, place, after, upstream, ids, pairs, row_splits, weights):
    if trained.trains and trained.optimizer is not None:
        given = (ids if pairs is None else wide(pairs), upstream, row_splits, weights)
        copies = [None if array is None else array.copy() for array in given]  # the memory is XLA's
        with _lock:
            _waiting.setdefault(int(token), []).append((int(place), copies))
            if len(_waiting) > _MOST_WAITING:
                del _waiting[next(iter(_waiting))]
    results[0][...] = 0


@ffi.function
def _step(results, trained, token, after):
    with _lock:
        gradients = _waiting.pop(int(token), [])
    own = Trained(trained.layer, trained.optimizer)
    for _, gradient in sorted(gradients, key=itemgetter(0)):  # they may come in any order; sums depend on it
        own.collect(*gradient)
    own.step()
    results[0][...] = 0


@ffi.function
def _weights_gradient(results, trained, after, upstream, ids, pairs, row_splits, weights):
    ids = ids if pairs is None else wide(pairs)
    results[0][...] = trained.weights_gradient(ids, upstream, row_splits, weights)


# ---- in the program --------------------------------------------------------------------------------------------------


def _split(ids):
    """(ids, None), or (None, pairs) of `Ids`."""
    return (None, ids.pairs) if isinstance(ids, Ids) else (ids, None)


def open(trained, anchor):
    """Begins a run: all look-ups with the token that it returns take one step, together.

    Args:
        trained: a `bridge.Trained`, which the caller keeps alive.
        anchor: float scalar 0, a parameter of the model.

    Returns:
        a float32 scalar, for `look_up`. Differentiable: the backward pass takes the step of the optimizer, if there is
        one and the layer is trainable, and the gradient of the anchor is 0.
    """
    anchor = jnp.asarray(anchor, jnp.float32)
    if anchor.shape != ():
        raise ValueError(f"`anchor` must be a scalar. Received: shape {anchor.shape}")
    return _open(trained, anchor)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _open(trained, anchor):
    return ffi.call(_begin, _ZERO, [trained], [anchor, _place()])


def _place():
    """A number for a place in a program: calls there stay two, whatever their operands."""
    return np.int32(next(_places) % (1 << 31))


def _open_forward(trained, anchor):
    token = _open(trained, anchor)
    return token, token


def _open_backward(trained, token, after):
    return (ffi.call(_step, _ZERO, [trained], [token, after], has_side_effect=True),)


_open.defvjp(_open_forward, _open_backward)


def look_up(trained, token, ids, row_splits=None, weights=None):
    """What the layer returns for ids of any shape, or for flat ids and row splits (flat then, for an `Embedding`).

    Args:
        trained: a `bridge.Trained`, which the caller keeps alive.
        token: what `open` returned.
        ids: integers: a JAX or NumPy array, or `Ids`.
        row_splits: int32 or int64, or None.
        weights: for bags, floats in the shape of ids, or None.

    Returns:
        array of the layer's `compute_dtype`, differentiable in the token and in the weights.
    """
    operands = _operands(trained.layer, ids, row_splits, weights)
    return _rows(trained, token, *operands)


def _operands(layer, ids, row_splits, weights):
    """ids, row splits and weights as they go into a program, checked as far as shapes and dtypes go."""
    ids = traced(ids)
    bag = isinstance(layer, EmbeddingBag)
    bits = 64 if isinstance(ids, Ids) else 8 * ids.dtype.itemsize
    if not isinstance(ids, Ids) and not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`ids` must be integers. Received: dtype {ids.dtype}")
    if layer.input_dim > 1 << 31 and bits < 64 and not jax.config.jax_enable_x64:
        raise TypeError(
            f"`ids` of a layer with {layer.input_dim:,} rows must have 64 bits: `fastembed.jax.Ids`, or JAX with "
            f"`jax_enable_x64`. Received: dtype {ids.dtype}"
        )
    if layer.compute_dtype == "float64" and not jax.config.jax_enable_x64:
        raise TypeError("a layer of float64 needs JAX with `jax_enable_x64`. Received: JAX without it")
    if row_splits is not None:
        row_splits = jnp.asarray(row_splits)
        if ids.ndim != 1 or row_splits.ndim != 1 or not len(row_splits):
            raise ValueError(
                "`ids` and `row_splits` must be flat, with a split for each bag and one more. Received: shapes "
                f"{ids.shape} and {row_splits.shape}"
            )
    elif bag and ids.ndim != 2:
        raise ValueError(f"`ids` must have shape (batch, k), or come with `row_splits`. Received: shape {ids.shape}")
    if weights is not None:
        if not bag:
            raise ValueError("`weights` must be None for a layer that is no bag. Received: weights")
        weights = jnp.asarray(weights, jnp.float64 if layer.dtype == "float64" else jnp.float32)
        if weights.shape != ids.shape:
            raise ValueError(f"`weights` must have the shape of ids, {ids.shape}. Received: shape {weights.shape}")
    return ids, row_splits, weights


def _rows_of(layer, ids, row_splits):
    """The shape and dtype of what a look-up returns."""
    if isinstance(layer, EmbeddingBag):
        shape = ids.shape[:1] if row_splits is None else (len(row_splits) - 1,)
    else:
        shape = ids.shape
    return jax.ShapeDtypeStruct((*shape, layer.output_dim), jnp.dtype(layer.compute_dtype))


def read(layer, after, ids, row_splits=None, weights=None):
    """`look_up` without a gradient, of a layer that the caller keeps alive. after: an array, or None."""
    ids, row_splits, weights = _operands(layer, ids, row_splits, weights)
    rows = _rows_of(layer, ids, row_splits)
    return ffi.call(_read, rows, [layer], [_before(after), *_split(ids), row_splits, weights])


def update(layer, optimizer, after, upstream, ids, row_splits=None, weights=None):
    """A step with this gradient, of a layer and an optimizer that the caller keeps alive; returns a float32 0."""
    ids, row_splits, weights = _operands(layer, ids, row_splits, weights)
    rows = _rows_of(layer, ids, row_splits)
    upstream = jnp.asarray(upstream, rows.dtype)
    if upstream.shape != rows.shape:
        raise ValueError(f"`upstream` must have shape {rows.shape}. Received: {upstream.shape}")
    operands = [_before(after), upstream, *_split(ids), row_splits, weights]
    return ffi.call(_update, _ZERO, [layer, optimizer], operands, has_side_effect=True)


def _before(after):
    return None if after is None else jax.lax.stop_gradient(after)


def _call_look_up(trained, token, ids, row_splits, weights):
    rows = _rows_of(trained.layer, ids, row_splits)
    return ffi.call(_look_up, [rows, _ZERO], [trained], [token, *_split(ids), row_splits, weights])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(trained, token, ids, row_splits, weights):
    return _call_look_up(trained, token, ids, row_splits, weights)[0]


def _rows_forward(trained, token, ids, row_splits, weights):
    wanted = [token.perturbed, weights is not None and weights.perturbed]
    token, ids, row_splits, weights = jax.tree.map(lambda primal: primal.value, (token, ids, row_splits, weights))
    rows, after = _call_look_up(trained, token, ids, row_splits, weights)
    token, weights_wanted = token if wanted[0] else None, () if wanted[1] else None
    return rows, (token, weights_wanted, after, ids, row_splits, weights)


def _rows_backward(trained, kept, upstream):
    token, weights_wanted, after, ids, row_splits, weights = kept
    operands = [upstream, *_split(ids), row_splits, weights]
    gradient = None
    if weights_wanted is not None:
        result = jax.ShapeDtypeStruct(weights.shape, weights.dtype)
        after = gradient = ffi.call(_weights_gradient, result, [trained], [after, *operands])
    zero = None
    if token is not None:
        zero = ffi.call(_collect, _ZERO, [trained], [token, _place(), after, *operands], has_side_effect=True)
    return zero, None, None, gradient


_rows.defvjp(_rows_forward, _rows_backward, symbolic_zeros=True)
