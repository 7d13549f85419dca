"""Look-ups of a `bridge.Trained` in JAX programs, and steps of its optimizer in their backward passes.

May import: bridge, layers, ragged, threads, jax.ffi, jax.ids. Do not break: what must come first is an operand of what
comes later. A gradient is taken over after its look-up, a step after the gradients of all look-ups, the next look-up
after the step.

    anchor -> open -> token -> look_up -> rows           forward: the token is the number of this run
    anchor <- step <- token <- collect <- upstream       backward: zeros, each a result of what had to be done before

The anchor is a float32 0 among the parameters of a model. Its gradient is 0 too, and stands at the end of the backward
pass: the cotangent of a token is a sum over all its look-ups, so that the step has the sum of all gradients.
"""

import functools
import itertools
import math
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np

from fastembed.bridge import Trained
from fastembed.jax import ffi
from fastembed.jax.ids import Ids, traced, wide
from fastembed.layers import EmbeddingBag
from fastembed.ragged import Ragged
from fastembed.threads import Lock

_ZERO = jax.ShapeDtypeStruct((), np.float32)
_RUNS = 1 << 24  # numbers of runs, which a float32 holds exactly
_MOST_WAITING = 64  # runs that wait for their step; more can only be left over from programs that failed
_runs, _places = itertools.count(), itertools.count()
_waiting = {}  # the gradients of a run, by its number: (place in the program, what `Trained.collect` takes)
_lock = Lock()


# ---- on the host -----------------------------------------------------------------------------------------------------
# `vmap` puts an axis in front of all operands and results. `place` has no other axes.


def _flat(layer, place, ids, pairs, row_splits, weights, vectors):
    """ids, row splits, weights and vectors (upstream, or rows to write to) as the layer takes them; no copies."""
    ids = ids if pairs is None else wide(pairs)
    bag = isinstance(layer, EmbeddingBag)
    if not place.ndim or not (bag or row_splits is not None):
        return ids, row_splits, weights, vectors
    vectors = vectors.reshape(math.prod(vectors.shape[:-1]), vectors.shape[-1])
    if row_splits is None:
        ids = ids.reshape(math.prod(ids.shape[:-1]), ids.shape[-1])
        return ids, None, None if weights is None else weights.reshape(ids.shape), vectors
    length, splits = ids.shape[-1], [np.zeros(1, np.int64)]
    for number, own in enumerate(row_splits.reshape(place.size, -1)):
        splits.append(Ragged(ids.reshape(place.size, length)[number], own).row_splits[1:] + np.int64(number * length))
    ids = ids.reshape(-1)
    return ids, np.concatenate(splits), None if weights is None else weights.reshape(-1), vectors


def _train(layer, optimizer, gradients):
    """One step with what `Trained.collect` takes."""
    own = Trained(layer, optimizer)
    for ids, row_splits, weights, upstream in gradients:
        own.collect(ids, upstream, row_splits, weights)
    own.step()


@ffi.function
def _begin(results, trained, place, anchor):
    results[0][...] = next(_runs) % _RUNS


@ffi.function
def _look_up(results, trained, place, after, *given):
    trained.look_up(*_flat(trained.layer, place, *given, results[0]))
    results[1][...] = 0


@ffi.function
def _read(results, layer, place, after, *given):
    Trained(layer).look_up(*_flat(layer, place, *given, results[0]))


@ffi.function
def _update(results, layer, optimizer, place, after, *given):
    layer.build()
    _train(layer, optimizer, [_flat(layer, place, *given)])
    results[0][...] = 0


@ffi.function
def _step_alone(results, trained, place, after, *given):
    if trained.trains and trained.optimizer is not None:
        _train(trained.layer, trained.optimizer, [_flat(trained.layer, place, *given)])
    results[0][...] = 0


@ffi.function
def _collect(results, trained, place, after, token, *given):
    if trained.trains and trained.optimizer is not None:
        arrays = _flat(trained.layer, place, *given)
        copies = [None if array is None else array.copy() for array in arrays]  # the memory is XLA's
        with _lock:
            _waiting.setdefault(int(token.flat[0]), []).append((int(place.flat[0]), copies))
            if len(_waiting) > _MOST_WAITING:
                del _waiting[next(iter(_waiting))]
    results[0][...] = 0


@ffi.function
def _step(results, trained, place, after, token):
    with _lock:
        gradients = _waiting.pop(int(token.flat[0]), [])
    gradients.sort(key=itemgetter(0))  # they may come in any order, and the bits of a sum depend on it
    _train(trained.layer, trained.optimizer, [gradient for _, gradient in gradients])
    results[0][...] = 0


@ffi.function
def _weights_gradient(results, trained, place, after, *given):
    ids, row_splits, weights, upstream = _flat(trained.layer, place, *given)
    gradient = trained.weights_gradient(ids, upstream, row_splits, weights)
    results[0][...] = gradient.reshape(results[0].shape)


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
    return _open(trained, _checked(anchor))


def _checked(anchor):
    anchor = jnp.asarray(anchor, jnp.float32)
    if anchor.shape != ():
        raise ValueError(f"`anchor` must be a scalar. Received: shape {anchor.shape}")
    return anchor


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _open(trained, anchor):
    return ffi.call(_begin, _ZERO, [trained], [_place(), anchor])


def _place():
    """A number for a place in a program: calls there stay two, whatever their operands."""
    return np.int32(next(_places) % (1 << 31))


_NOWHERE = np.int32(0)  # calls that may become one


def _open_forward(trained, anchor):
    token = _open(trained, anchor)
    return token, token


def _open_backward(trained, token, after):
    return (ffi.call(_step, _ZERO, [trained], [_NOWHERE, after, token], has_side_effect=True),)


_open.defvjp(_open_forward, _open_backward)


def look_up(trained, token, ids, row_splits=None, weights=None, alone=False):
    """What the layer returns for ids of any shape, or for flat ids and row splits (flat then, for an `Embedding`).

    Args:
        trained: a `bridge.Trained`, which the caller keeps alive.
        token: what `open` returned.
        ids: integers: a JAX or NumPy array, or `Ids`.
        row_splits: int32 or int64, or None.
        weights: for bags, floats in the shape of ids, or None.
        alone: something hashable that is true, when the backward pass is traced, if no other look-up has this token:
            then the gradient and the step are one call, without a copy.

    Returns:
        array of the layer's `compute_dtype`, differentiable in the token and in the weights.
    """
    return _rows(trained, alone, token, *_operands(trained.layer, ids, row_splits, weights))


def look_up_once(trained, anchor, ids, row_splits=None, weights=None):
    """`look_up` with a token of its own: its gradient and the step are one call, without a copy."""
    return _rows(trained, True, _checked(anchor), *_operands(trained.layer, ids, row_splits, weights))


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
    return ffi.call(_read, rows, [layer], [_NOWHERE, _before(after), *_split(ids), row_splits, weights])


def update(layer, optimizer, after, upstream, ids, row_splits=None, weights=None):
    """A step with this gradient, of a layer and an optimizer that the caller keeps alive; returns a float32 0."""
    ids, row_splits, weights = _operands(layer, ids, row_splits, weights)
    rows = _rows_of(layer, ids, row_splits)
    upstream = jnp.asarray(upstream, rows.dtype)
    if upstream.shape != rows.shape:
        raise ValueError(f"`upstream` must have shape {rows.shape}. Received: {upstream.shape}")
    operands = [_place(), _before(after), *_split(ids), row_splits, weights, upstream]
    return ffi.call(_update, _ZERO, [layer, optimizer], operands, has_side_effect=True)


def _before(after):
    return None if after is None else jax.lax.stop_gradient(after)


def _call_look_up(trained, token, ids, row_splits, weights):
    rows = _rows_of(trained.layer, ids, row_splits)
    return ffi.call(_look_up, [rows, _ZERO], [trained], [_NOWHERE, token, *_split(ids), row_splits, weights])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rows(trained, alone, token, ids, row_splits, weights):
    """The look-up. alone: the backward pass takes the step itself, and `token` may be an anchor."""
    return _call_look_up(trained, token, ids, row_splits, weights)[0]


def _rows_forward(trained, alone, token, ids, row_splits, weights):
    of_token, of_weights = token.perturbed, weights is not None and weights.perturbed
    token, *given = jax.tree.map(lambda primal: primal.value, (token, ids, row_splits, weights))
    rows, after = _call_look_up(trained, token, *given)
    return rows, (token if of_token else None, () if of_weights else None, after, *given)


def _rows_backward(trained, alone, kept, upstream):
    token, of_weights, after, ids, row_splits, weights = kept
    given = [*_split(ids), row_splits, weights, upstream]
    gradient = zero = None
    if of_weights is not None:
        result = jax.ShapeDtypeStruct(weights.shape, weights.dtype)
        after = gradient = ffi.call(_weights_gradient, result, [trained], [_NOWHERE, after, *given])
    if token is not None and alone:
        zero = ffi.call(_step_alone, _ZERO, [trained], [_place(), after, *given], has_side_effect=True)
    elif token is not None:
        zero = ffi.call(_collect, _ZERO, [trained], [_place(), after, token, *given], has_side_effect=True)
    return zero, None, None, gradient


_rows.defvjp(_rows_forward, _rows_backward, symbolic_zeros=True)
