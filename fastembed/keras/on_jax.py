"""Look-ups and their gradients on JAX.

May import: jax.core, jax.ffi, keras.on_any. Do not break: while Keras trains on JAX, its variables have no values; what
a step needs of them is an operand of the program.
"""

import contextlib
import functools
import threading

import jax
import jax.numpy as jnp
import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.jax.trainer import JAXTrainer

from fastembed.jax import core, ffi
from fastembed.keras.on_any import flat_map as flat_map
from fastembed.keras.on_any import place as place

_INT32_IDS = 1 << 31


def check(layer):
    """Raises where ids of the layer need 64 bits, which JAX would cut."""
    if layer.input_dim > _INT32_IDS and not jax.config.jax_enable_x64:
        raise ValueError(
            f"`input_dim` must be at most 2^31 on JAX without `jax_enable_x64`. Received: input_dim={layer.input_dim}"
        )


def supports_jit():
    """XLA calls the library."""
    return True


class _Training:
    """What Keras trains a model with, in the call of a model that is being traced."""

    def __init__(self, model, optimizer_variables):
        self.model, self._values = model, optimizer_variables

    def value_of(self, variable):
        """The value of a variable in this step; None: it is not one of the model's optimizer."""
        pairs = zip(self.model.optimizer.variables, self._values, strict=True)
        return next((value for known, value in pairs if known is variable), None)


_training = threading.local()
_compute_loss_and_updates = JAXTrainer.compute_loss_and_updates


@functools.wraps(_compute_loss_and_updates)
def _noted(self, *args, **kwargs):
    """Where Keras trains on JAX, it calls the layers of a model one by one, and its optimizer has no values but those
    of the step: layers learn here which model and which values."""
    before = getattr(_training, "now", None)
    variables = kwargs.get("optimizer_variables")
    _training.now = before if variables is None else _Training(self, variables)
    try:
        return _compute_loss_and_updates(self, *args, **kwargs)
    finally:
        _training.now = before


JAXTrainer.compute_loss_and_updates = _noted


def call_of(context):
    """The call that look-ups belong to, an object with a __dict__; the model that is called; whether it is trained."""
    training = getattr(_training, "now", None)
    if training is not None:
        return training, training.model, True
    # In a `stateless_call` of somebody's own the scope is the call, and layers are called one by one, too.
    return get_stateless_scope() or context, context.entry_layer, context.get_value("training")


def eager():
    """For `with`: values of variables can be read."""
    training = getattr(_training, "now", None)
    if training is None:
        return contextlib.nullcontext()
    # The learning rate comes with each step; until then it is 0.
    variables = training.model.optimizer.variables
    return keras.StatelessScope([(variable, jnp.zeros(variable.shape, variable.dtype)) for variable in variables])


class _Token:
    """A token, and how many look-ups there are with it; true if it is one, which is known when the backward pass is
    traced."""

    def __init__(self, value):
        self.value, self.uses = value, 0

    def __bool__(self):
        return self.uses == 1


def opened(anchor, steps, call):
    """The token of an anchor; when all gradients have come back to it, the table takes its step."""
    if steps.error is not None:
        return _Token(_fails(steps.error, anchor.value))
    rate = call.value_of(steps.rate) if isinstance(call, _Training) else None
    return _Token(core.open(steps.trained, _begun(steps, anchor.value, rate)))


@ffi.function
def _begin(results, steps, anchor, rate):
    steps.begin(None if rate is None else float(rate))
    results[0][...] = anchor


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _begun(steps, anchor, rate):
    """The anchor; the optimizer knows the learning rate of the next step then."""
    return ffi.call(_begin, jax.ShapeDtypeStruct((), jnp.float32), [steps], [anchor, rate], has_side_effect=True)


_begun.defvjp(lambda steps, anchor, rate: (_begun(steps, anchor, rate), None), lambda *arguments: (arguments[-1], None))


def look_up(trained, token, ids, weights, dtype):
    """The rows of ids, or pooled bags, as `dtype`. token: what opened() gave, or None: the table is frozen."""
    token = _Token(jnp.zeros(())) if token is None else token
    token.uses += 1
    ids = ids.astype(jnp.int32) if jnp.issubdtype(ids.dtype, jnp.floating) else ids
    return core.look_up(trained, token.value, ids, None, weights, token).astype(dtype)


def _fails(error, anchor):
    """The value of the anchor; a backward pass raises the error."""

    @jax.custom_vjp
    def value_of(anchor):
        return anchor

    def backward(_, upstream):
        raise error

    value_of.defvjp(lambda anchor: (anchor, None), backward)
    return value_of(anchor)
