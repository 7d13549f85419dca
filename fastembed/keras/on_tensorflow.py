"""Look-ups and their gradients on TensorFlow.

May import: keras.on_any; tensorflow. Do not break: no IndexError leaves a function that TensorFlow calls, as it would
be taken for the end of the data; and functions hold layers weakly, as TensorFlow keeps them for ever.
"""

import weakref

import numpy as np
import tensorflow as tf

from fastembed.keras.on_any import call_of as call_of
from fastembed.keras.on_any import check as check


def supports_jit():
    """Raises where Keras was told to use XLA, which cannot call Python. Without a GPU it asks for no other reason."""
    if tf.config.list_physical_devices("GPU"):
        return False
    raise ValueError("`jit_compile` must be False or 'auto' on TensorFlow: XLA cannot call fastembed. Received: True")


def eager():
    """For `with`: values of variables can be read."""
    return tf.init_scope()


def place():
    """What a look-up's token belongs to: the graph that is being made."""
    return id(tf.compat.v1.get_default_graph())


def flat_map(function, ids):
    """function(ids), of ragged ids of their flat values."""
    return ids.with_flat_values(function(ids.flat_values)) if isinstance(ids, tf.RaggedTensor) else function(ids)


class _Token:
    """The value of an anchor, and how many look-ups there are with it: known when the backward pass is made."""

    def __init__(self, value, step):
        self.value, self.step, self.uses = value, step, 0


def opened(anchor, steps, call):
    """The token of an anchor; when all gradients have come back to it, the table takes its step."""
    step = weakref.WeakMethod(steps.step)

    @tf.custom_gradient
    def value_of(anchor):
        def backward(upstream):
            return upstream if token.uses == 1 else _call([step], {"after": upstream})

        return tf.identity(anchor), backward

    token = _Token(None, step)
    token.value = value_of(anchor.value)
    return token


def look_up(trained, token, ids, weights, dtype):
    """The rows of ids (ragged for ragged ids), or pooled bags, as `dtype`. token: what opened() gave, or None: the
    table is frozen."""
    ragged = ids if isinstance(ids, tf.RaggedTensor) else None
    splits = None
    if ragged is not None and trained.pools:
        if ragged.ragged_rank != 1:
            raise ValueError(f"`inputs` must be bags, of ragged rank 1. Received: ragged rank {ragged.ragged_rank}")
        ids, splits = ragged.values, ragged.row_splits
    elif ragged is not None:
        ids = ragged.flat_values
    weights = weights.flat_values if isinstance(weights, tf.RaggedTensor) else weights
    rows = tf.cast(_rows(trained, token, ids=ids, row_splits=splits, weights=weights), dtype)
    return rows if ragged is None or trained.pools else ragged.with_flat_values(rows)


def _rows(trained, token, **operands):
    operands = {name: tensor for name, tensor in operands.items() if tensor is not None}
    bags = operands["row_splits"][1:] if "row_splits" in operands else operands["ids"]
    shape = [*bags.shape[: 1 if trained.pools else None], trained.layer.output_dim]
    weights = operands.get("weights")
    dtype = trained.layer.compute_dtype
    look_up, collect, gradient = map(weakref.WeakMethod, (trained.look_up, trained.collect, trained.weights_gradient))

    @tf.custom_gradient
    def rows_of(anchor, *_):
        rows = _call([look_up], operands, dtype, shape)

        def backward(upstream):
            back = {**operands, "upstream": tf.convert_to_tensor(upstream)}  # it may be IndexedSlices
            gradients = []
            if weights is not None:
                gradients.append(_call([gradient], back, weights.dtype, weights.shape))
            if token is None:
                return [None, *gradients]
            alone = token.uses == 1  # then its step can be taken at once
            return [_call([collect, token.step] if alone else [collect], back), *gradients]

        return rows, backward

    if token is not None:
        token.uses += 1
    return rows_of(tf.constant(0.0) if token is None else token.value, *([] if weights is None else [weights]))


def _call(methods, operands, dtype="float32", shape=()):
    """What the first of methods, of which there are weak references, returns for arrays: a tensor; 0 for None. The
    calls of a graph are in order."""
    dtype = tf.as_dtype(dtype)

    def called(*arrays):
        try:
            result = methods[0]()(**dict(zip(operands, arrays, strict=True)))
            for method in methods[1:]:
                method()()
        except IndexError as error:
            raise ValueError(str(error)) from error
        return np.asarray(0 if result is None else result, dtype.as_numpy_dtype)

    result = tf.numpy_function(called, list(operands.values()), dtype)
    result.set_shape(shape)
    return result
