"""What the bridges to frameworks share: a layer, its optimizer, and the gradients that a backward pass hands over.

May import: layers, optimizers, ragged, threads. Do not break: `step` takes one step with the sum of all that came since
the last one. So a layer that a model uses twice takes the step of its summed gradient, as in the framework.
"""

import weakref

from fastembed import optimizers
from fastembed.layers import EmbeddingBag
from fastembed.ragged import Ragged
from fastembed.threads import Lock

_owners = weakref.WeakKeyDictionary()  # optimizers to the layers that they train


class Trained:
    """A layer and the optimizer of its table, for a framework that computes the rest of a model.

    Args:
        layer: an `Embedding` or `EmbeddingBag`.
        optimizer: what `optimizers.get` takes, or None: to be set, to one or to a function that gives one, before the
            first step. An optimizer belongs to one layer, as it counts steps.

    Raises:
        ValueError: an optimizer that trains another layer.

    Example:
        >>> from fastembed.bridge import Trained
        >>> words = Trained(fastembed.Embedding(1000, 8), "sgd")
        >>> words.look_up(np.array([3, 5])).shape
        (2, 8)
        >>> words.collect(np.array([3, 5]), np.ones((2, 8), "float32"))
        >>> words.step()
        >>> words.optimizer.iterations
        1
    """

    def __init__(self, layer, optimizer=None):
        self.layer = layer
        self._optimizer = None
        self.optimizer = optimizer
        self._pending = []  # a list of gradients, one for each trainable weight, of each look-up
        self._lock = Lock()

    @property
    def optimizer(self):
        """What takes the steps, or None."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer):
        optimizer = None if optimizer is None else optimizers.get(optimizer)
        owner = None if optimizer is None else _owners.setdefault(optimizer, weakref.ref(self.layer))()
        if owner not in (None, self.layer):
            raise ValueError(
                f"an optimizer must train one layer, as it counts steps. Received: {optimizer!r}, that of {owner!r}"
            )
        self._optimizer = optimizer

    @property
    def trains(self):
        """Whether a backward pass has anything to do."""
        return bool(self.layer.trainable_weights) if self.layer.built else self.layer.trainable

    def look_up(self, ids, row_splits=None, weights=None, out=None):
        """What the layer returns for ids of any shape, or for flat ids and row splits: an array, flat for the latter.

        Args:
            ids: integer array.
            row_splits: int32 or int64 array, or None.
            weights: for bags, float32 in the shape of ids, or None.
            out: where to write it, or None.
        """
        ids = ids if row_splits is None else Ragged(ids, row_splits)
        if self.pools:
            return self.layer(ids, weights, out)
        result = self.layer(ids, out)
        return result if row_splits is None else result.values

    def collect(self, ids, upstream, row_splits=None, weights=None):
        """Takes the gradient at the output of a look-up, for `step`. The arrays are kept until then.

        Args:
            ids, row_splits, weights: what `look_up` was given.
            upstream: float array in the shape of what it returned.
        """
        layer, ids = self.layer, ids if row_splits is None else Ragged(ids, row_splits)
        more = () if weights is None else (weights,)
        if layer.lora_enabled:
            gradients = list(layer.lora_gradients(ids, upstream, *more))
        else:
            gradients = [layer.gradient(ids, upstream, *more)]
        with self._lock:
            self._pending.append(gradients)

    @property
    def pools(self):
        """Whether the layer makes one vector of each bag."""
        return isinstance(self.layer, EmbeddingBag)

    def weights_gradient(self, ids, upstream, row_splits=None, weights=None):
        """The gradient of the per-sample weights of bags, in their shape; arguments as in `collect`."""
        ids = ids if row_splits is None else Ragged(ids, row_splits)
        return self.layer.weights_gradient(ids, upstream, weights).reshape(weights.shape)

    def take(self):
        """Returns and forgets the gradients that came since the last time, summed: one for each of the layer's
        `trainable_weights`; or None, if none came."""
        with self._lock:
            pending, self._pending = self._pending, []
        if not pending:
            return None
        return [sum(gradients[1:], gradients[0]) for gradients in zip(*pending, strict=True)]

    def step(self):
        """Takes a step of the optimizer with `take()`. Nothing to do if no gradients came.

        Raises:
            ValueError: there is no optimizer.
        """
        gradients = self.take()
        if gradients is None:
            return
        if self.optimizer is None:
            raise ValueError("a layer needs an optimizer to be trained. Received: None")
        self.optimizer.apply(gradients, self.layer.trainable_weights)
