"""fastembed in JAX: look-ups and row-sparse updates inside `jit` and `grad`.

May import: bridge, layers, optimizers, ragged, jax.core, jax.ids. Do not break: importing this module changes no
setting of JAX.

A layer's table is no JAX array. It stays where it is, is read in place, and is trained in place by an optimizer of this
library. What stands for it among the parameters of a model is its anchor, a float32 scalar 0 whose gradient is 0.
"""

import functools
import threading
import weakref

import jax
import jax.extend
import jax.numpy as jnp

from fastembed import layers, optimizers
from fastembed.bridge import Trained
from fastembed.jax import core
from fastembed.jax.ids import Ids
from fastembed.ragged import Ragged

__all__ = ["Embedding", "EmbeddingBag", "Ids", "Layer", "Token", "look_up", "update", "wrap"]

# What is being traced at this moment; to be compared alone. It has moved.
_trace_state = getattr(jax.extend.core, "get_opaque_trace_state", None) or jax.core.get_opaque_trace_state


@jax.tree_util.register_pytree_node_class
class Token:
    """What `Layer.open` returns: look-ups with the same token take one step together."""

    def __init__(self, value):
        self.value = value

    def tree_flatten(self):
        """For JAX."""
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """For JAX."""
        return cls(*children)


class Layer:
    """A layer and its optimizer, to be called in JAX programs; what `Embedding`, `EmbeddingBag` and `wrap` return.

    Call it with the anchor, which `init` makes and which stands among the parameters of the model. Where the gradient
    with respect to the anchor is taken, the backward pass takes one step of the optimizer, in place; the gradient
    itself is 0. The anchor also orders the steps: give each step what the last one made of it, as for any parameter.

    Each call with the anchor takes a step of its own, so a function may use it once. For several look-ups in one step,
    with the summed gradient, `open` the anchor and call with the token.

    Without an optimizer (None) and for a layer that is not trainable nothing is trained, and the gradient is 0 too.

    Args:
        layer: a `fastembed.Embedding` or `EmbeddingBag`.
        optimizer: what `fastembed.optimizers.get` takes, or None. Its learning rate, or schedule, is read at each step.

    Raises:
        ValueError: an optimizer that trains another layer.

    Example:
        >>> words = fastembed.jax.EmbeddingBag(1000, 8, combiner="sum", optimizer=fastembed.optimizers.Adam(0.01))
        >>> params = {"words": words.init(), "dense": jnp.ones((8,)) / 8}
        >>> def loss(params, ids, labels):
        ...     logits = words(params["words"], ids) @ params["dense"]
        ...     return jnp.mean((logits - labels) ** 2)
        >>> @jax.jit
        ... def step(params, ids, labels):
        ...     value, grads = jax.value_and_grad(loss)(params, ids, labels)
        ...     return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        >>> ids, labels = np.array([[1, 2], [2, 3]]), np.array([1.0, -1.0])
        >>> for _ in range(20):
        ...     value, params = step(params, ids, labels)
        >>> bool(value < 0.9), words.optimizer.iterations
        (True, 20)
        >>> words.layer.save(directory + "/words")
    """

    def __init__(self, layer, optimizer=None):
        self.trained = Trained(layer, optimizer)
        self._local = threading.local()  # `used`: the last anchor that was traced (weakly), and what was then

    @property
    def layer(self):
        """The layer, for `save`, a `Checkpoint`, look-ups outside of JAX. Waits for steps that JAX has yet to take."""
        jax.effects_barrier()
        return self.trained.layer

    @property
    def optimizer(self):
        """The optimizer, or None; may be set."""
        return self.trained.optimizer

    @optimizer.setter
    def optimizer(self, optimizer):
        self.trained.optimizer = optimizer

    def init(self):
        """Returns an anchor for the parameters of a model, and makes the table."""
        self.trained.layer.build()
        return jnp.zeros((), jnp.float32)

    def open(self, anchor):
        """Returns a `Token` of an anchor: all calls with it take one step together.

        Args:
            anchor: what `init` made, or a step made of it.

        Example:
            >>> words = fastembed.jax.Embedding(1000, 8, optimizer="sgd")
            >>> def loss(anchor, queries, items):
            ...     token = words.open(anchor)
            ...     embed = jax.checkpoint(lambda token, ids: jnp.tanh(words(token, ids)))
            ...     return jnp.vdot(embed(token, queries), embed(token, items))
            >>> jax.grad(loss)(words.init(), np.array([1, 2]), np.array([2, 3]))
            Array(0., dtype=float32)
            >>> words.optimizer.iterations
            1
        """
        self._check_first_use(anchor)
        return Token(core.open(self.trained, anchor))

    def _check_first_use(self, anchor):
        """Raises where a function that is being traced uses an anchor again."""
        if not isinstance(anchor, jax.core.Tracer):
            return
        last, traced = getattr(self._local, "used", (lambda: None, None))
        state = _trace_state(convention="fastembed")
        if last() is anchor and traced == state:
            raise ValueError(
                "`anchor` must be used once in a function, as each use takes a step of its own; for several look-ups "
                "in one step: `token = words.open(anchor)`, then `words(token, ids)`. Received: an anchor of "
                f"{self.trained.layer!r} that this function has used"
            )
        self._local.used = (weakref.ref(anchor), state)

    def __call__(self, anchor, ids, weights=None):
        """Looks up ids.

        Args:
            anchor: the anchor, or a `Token` of it.
            ids: integers of any shape (for bags (batch, k)): JAX or NumPy arrays, `Ids`; or a `fastembed.Ragged` of
                ragged rank 1, inside `jit` too.
            weights: for bags, floats in the shape of ids (of a `Ragged`: flat), or None.

        Returns:
            array of the layer's `compute_dtype` of shape ids.shape + (output_dim,), for bags (batch, output_dim); of an
            `Embedding` with `Ragged` ids a `Ragged`. Differentiable in anchor and weights.

        Raises:
            TypeError, ValueError: wrong shapes or dtypes; ids of 32 bits where the layer has more than 2^31 rows.
            jax.errors.JaxRuntimeError (outside of `jit` a ValueError): when the program runs: an id outside of the
                table, with its position. The table is as it was.
        """
        if isinstance(anchor, Token):
            look_up = functools.partial(core.look_up, self.trained, anchor.value)
        else:
            self._check_first_use(anchor)
            look_up = functools.partial(core.look_up_once, self.trained, anchor)
        return _ragged(self.trained.layer, ids, weights, look_up)


class Embedding(Layer):
    """A `fastembed.Embedding` to be called in JAX programs; see `Layer`.

    Args:
        *arguments, **named: those of `fastembed.Embedding`.
        optimizer: as in `Layer`.

    Example:
        >>> words = fastembed.jax.Embedding(1000, 8, optimizer="adam")
        >>> words(words.init(), np.array([[1, 2, 3]])).shape
        (1, 3, 8)
    """

    def __init__(self, *arguments, optimizer=None, **named):
        super().__init__(layers.Embedding(*arguments, **named), optimizer)


class EmbeddingBag(Layer):
    """A `fastembed.EmbeddingBag` to be called in JAX programs; see `Layer`.

    Args:
        *arguments, **named: those of `fastembed.EmbeddingBag`.
        optimizer: as in `Layer`.

    Example:
        >>> words = fastembed.jax.EmbeddingBag(1000, 8, combiner="mean", optimizer="adam")
        >>> words(words.init(), fastembed.Ragged.from_lists([[1, 2], [], [3]])).shape
        (3, 8)
    """

    def __init__(self, *arguments, optimizer=None, **named):
        super().__init__(layers.EmbeddingBag(*arguments, **named), optimizer)


def wrap(layer, optimizer=None):
    """Makes a layer that is there, such as a loaded one, one to be called in JAX programs.

    Args:
        layer: a `fastembed.Embedding` or `EmbeddingBag`.
        optimizer: as in `Layer`.

    Returns:
        `Layer`.

    Example:
        >>> words = fastembed.jax.wrap(fastembed.Embedding(1000, 8), fastembed.optimizers.SGD(0.1))
        >>> jax.grad(lambda anchor: words(anchor, np.array([3])).sum())(words.init())
        Array(0., dtype=float32)
    """
    return Layer(layer, optimizer)


def look_up(layer, ids, weights=None, after=None):
    """Looks up ids, without a gradient.

    Args:
        layer: a `fastembed.Embedding` or `EmbeddingBag`, which the caller keeps alive.
        ids, weights: as in `Layer`.
        after: an array that must have been computed before, such as what `update` returned; or None.

    Returns: as `Layer`.

    Raises: as `Layer`.

    Example:
        >>> layer = fastembed.Embedding(1000, 8)
        >>> rows = jax.jit(lambda ids: fastembed.jax.look_up(layer, ids))(np.array([1, 2]))
        >>> bool((rows == layer([1, 2])).all())
        True
    """
    return _ragged(layer, ids, weights, functools.partial(core.read, layer, after))


def update(layer, optimizer, ids, upstream, weights=None, after=None):
    """Takes a step of the optimizer, in place, for those who have the gradient at the output of a look-up themselves.

    Args:
        layer: a `fastembed.Embedding` or `EmbeddingBag`, which the caller keeps alive.
        optimizer: a `fastembed.optimizers.Optimizer` that trains this layer alone, kept alive too.
        ids, weights: what the look-up was given.
        upstream: the gradient of the loss with respect to what it returned, in its shape (of a `Ragged`: flat).
        after: an array that must have been computed before; or None. Where upstream depends on the look-up, as almost
            always, the look-up comes before the step without it.

    Returns:
        a float32 scalar 0: give it to the next `look_up` as `after`, so that it comes after the step.

    Raises: as `Layer`; also for a layer that is not trainable.

    Example:
        >>> layer, optimizer = fastembed.Embedding(1000, 8, "zeros"), fastembed.optimizers.SGD(0.5)
        >>> @jax.jit
        ... def steps(ids, upstream):
        ...     first = fastembed.jax.update(layer, optimizer, ids, upstream)
        ...     return fastembed.jax.look_up(layer, ids, after=first)
        >>> steps(np.array([3, 3]), np.ones((2, 8), "float32"))[0, :3]
        Array([-1., -1., -1.], dtype=float32)
    """
    if not isinstance(optimizer, optimizers.Optimizer):
        raise TypeError(f"`optimizer` must be a fastembed.optimizers.Optimizer. Received: {optimizer!r}")
    Trained(layer, optimizer)  # raises where the optimizer trains another layer
    upstream = upstream.values if isinstance(upstream, Ragged) else upstream
    ids, splits = _flat(ids)
    weights = weights.values if isinstance(weights, Ragged) else weights
    return core.update(layer, optimizer, after, upstream, ids, splits, weights)


def _flat(ids):
    """The ids and row splits of a `Ragged`; anything else and None."""
    if not isinstance(ids, Ragged):
        return ids, None
    if ids.ragged_rank != 1:
        raise ValueError(f"`ids` must be an array or a Ragged of ragged rank 1. Received: {ids.ragged_rank}")
    return ids.values, ids.row_splits


def _ragged(layer, ids, weights, look_up):
    """A look-up of ids that may be a `Ragged`."""
    flat, splits = _flat(ids)
    rows = look_up(flat, splits, weights.values if isinstance(weights, Ragged) else weights)
    return rows if splits is None or isinstance(layer, layers.EmbeddingBag) else Ragged._trusted(rows, splits)
