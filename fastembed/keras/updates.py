"""What updates the table of a Keras layer: an optimizer of ours, or the model's, translated; and its state in files.

May import: bridge, states, checkpoint.trained, constraints, dtypes, optimizers, serialization.
Do not break: what Keras's optimizer does and ours would not is an error, never passed over.
"""

import json
import weakref

import keras
import numpy as np
from keras.src.saving.keras_saveable import KerasSaveable

from fastembed import constraints, dtypes, optimizers, serialization, states
from fastembed.bridge import Trained
from fastembed.checkpoint.trained import kind

_ABOUT = "about"  # the key, in files, of what the others are


def translated(optimizer, layer):
    """Our optimizer for one of Keras: its arguments, its schedule, and its steps for rows without a gradient, which
    those rows take later if they can.

    Raises:
        ValueError: it has no counterpart.
    """
    name, config, reason = type(optimizer).__name__, optimizer.get_config(), None
    if name not in optimizers.__all__ or not type(optimizer).__module__.startswith("keras."):
        reason = "is none that fastembed has"
    elif _changes_scale(optimizer):
        reason = "changes the scale of the loss (mixed_bfloat16 needs none; or compile with auto_scale_loss=False)"
    elif config["global_clipnorm"] is not None:
        reason = "clips the gradients of a model together"
    elif config["use_ema"]:
        reason = "keeps averages of the weights"
    elif callable(getattr(optimizer, "_learning_rate", None)) and not isinstance(config["learning_rate"], dict):
        reason = "has a learning rate that is a function"
    if reason is not None:
        raise ValueError(f"`table_optimizer` must be given where the model's optimizer {reason}. Received: {name}")
    kind, constraint = getattr(optimizers, name), constraints.for_table(layer.embeddings_constraint)
    later = "catch_up" in kind.modes and (constraint is None or constraint.rows is not None)
    return kind.from_config({**config, "untouched": "catch_up" if later else "dense"})


def _changes_scale(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


class Steps:
    """The steps of a layer's table under one optimizer.

    Args:
        updates: the TableUpdates of the layer.
        optimizer: one of ours, or None: there is none, for the reason `error`.
        source: one of Keras whose learning rate it follows, or None.
    """

    def __init__(self, updates, optimizer, source=None, error=None):
        self._updates = weakref.ref(updates)
        self.trained, self.error = Trained(updates.layer, optimizer), error
        rate = None if source is None else source._learning_rate
        self.rate = rate if isinstance(rate, keras.Variable) else None  # of Keras: to be followed

    def begin(self, rate=None):
        """The next step has this learning rate; None: the one that is followed now, if one is."""
        if rate is None and self.rate is not None:
            rate = float(keras.ops.convert_to_numpy(self.rate.value))
        if rate is not None:
            self.trained.optimizer.learning_rate = rate
        self._updates().last = self

    def step(self, **_):
        """Takes a step with all gradients that came."""
        if self.error is not None:
            raise self.error
        self.begin()
        self.trained.step()


class TableUpdates(KerasSaveable):
    """The optimizers of a layer's table, which Keras saves with the layer.

    Args:
        layer: an `Embedding` or `EmbeddingBag` of fastembed.
        optimizer: what `optimizers.get` takes, an optimizer of Keras, or None: that of the model.

    Raises:
        ValueError: an optimizer of Keras that has no counterpart.
    """

    name = "table_updates"

    def __init__(self, layer, optimizer=None):
        self.source = optimizer if isinstance(optimizer, keras.optimizers.Optimizer) else None
        optimizer = optimizers.get(optimizer) if self.source is None else translated(self.source, layer)
        self.layer = layer
        self.given = None if optimizer is None else Steps(self, optimizer, self.source)
        self.frozen = Trained(layer)  # for look-ups alone
        self.last = self.given  # the Steps of the model that was called or trained last
        self._followed = weakref.WeakKeyDictionary()  # Steps by the optimizer of Keras that they follow
        self._errors = {}  # Steps that cannot be taken, by the reason
        self._restored = None  # an optimizer from a file, until a model is called

    def steps_for(self, model, training):
        """The Steps that a backward pass of `model`, a Keras model or layer, takes.

        Raises:
            ValueError: in training, there can be none.
        """
        source = getattr(model, "optimizer", None)
        steps = self._of_given(source) if self.given is not None else self._of_model(source)
        if training and steps.error is not None:
            raise steps.error
        if steps.error is None:
            self.last = steps
        return steps

    def _none(self, why):
        """Steps that cannot be taken."""
        return self._errors.setdefault(why, Steps(self, None, error=ValueError(why)))

    def _of_given(self, source):
        scale = getattr(source, "loss_scale_factor", None)
        same = scale == self.given.trained.optimizer.loss_scale_factor and not _changes_scale(source)
        if source is None or same:
            return self.given
        return self._none(
            "`table_optimizer` must have the `loss_scale_factor` of the model's optimizer, and that one no dynamic "
            f"scale. Received: {scale} of {type(source).__name__}"
        )

    def _of_model(self, source):
        if source is None:
            return self._none("`table_optimizer` must be given where no compiled model is trained. Received: None")
        if source not in self._followed:  # once: while JAX trains, there are no values to be read
            try:
                optimizer, error = translated(source, self.layer), None
                if self._restored is not None and self._restored.described() == optimizer.described():
                    optimizer = self._restored
                self._restored = None
            except ValueError as reason:
                optimizer, error = None, reason
            self._followed[source] = Steps(self, optimizer, source, error)
        return self._followed[source]

    # ---- what Keras asks when it saves and loads -------------------------------------------------------------------

    def _obj_type(self):
        return "Optimizer"

    def save_own_variables(self, store):
        """Writes the optimizer and its state, if it has trained."""
        optimizer = None if self.last is None else self.last.trained.optimizer
        if optimizer is None or not optimizer.calls:
            return
        about = states.state_of(optimizer, self.layer.weights)
        arrays = {}
        for place, of_table in about.pop("state").items():
            arrays |= {f"{place}.{name}": array for name, array in of_table.items()}
        about |= {"config": serialization.serialize(optimizer), "kinds": {key: kind(arrays[key]) for key in arrays}}
        store[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        for key, array in arrays.items():
            store[key] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def load_own_variables(self, store):
        """Goes on from what was written; files without it, and tables that are only read, leave everything as it is."""
        if _ABOUT not in store or not self.layer.embeddings.memory.flags.writeable:
            return
        about = json.loads(bytes(np.asarray(store[_ABOUT])))
        state = {place: {} for place in range(len(self.layer.weights))}
        for key, (dtype, *shape) in about["kinds"].items():
            place, _, name = key.partition(".")
            array = np.asarray(store[key]).view(dtypes.of_rows(dtype, shape[-1] if shape else 1))
            state[int(place)][name] = array.reshape(shape[:1] if dtype in dtypes.QUANTISED else shape)
        optimizer = optimizers.get(about["config"]) if self.last is None else self.last.trained.optimizer
        optimizer.build(self.layer.weights[int(place)] for place in about["numbers"])
        states.restore(optimizer, self.layer.weights, {**about, "state": state})
        if self.last is None:
            self._restored = optimizer
