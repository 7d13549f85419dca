"""Embedding and EmbeddingBag as Keras layers: the table is fastembed's, the rest of the model is the framework's.

May import: keras.on_jax, .on_numpy, .on_tensorflow, .on_torch, .updates, and what stands below. Do not break: nothing
that the framework sees is as large as the table. It sees a scalar, the anchor, whose gradient is 0; that gradient is
whole when those of all look-ups are, and then the table takes its step.
"""

import importlib
import os
import warnings

import keras
import numpy as np
from keras.src.backend.common import global_state

from fastembed import layers, serialization
from fastembed.keras.updates import TableUpdates

_ON = importlib.import_module(f"fastembed.keras.on_{keras.backend.backend()}")
_EXACT = 1 << 24  # from here on float32 does not hold all integers
_THEIRS = {
    "embeddings_initializer": (keras.initializers, keras.initializers.Initializer),
    "embeddings_regularizer": (keras.regularizers, keras.regularizers.Regularizer),
    "embeddings_constraint": (keras.constraints, keras.constraints.Constraint),
}


class _Weight:
    """A table among the weights of a model, for `get_weights`, `set_weights` and counting. No optimizer of Keras sees
    it."""

    trainable = False

    def __init__(self, table, path):
        self.table, self.name, self.path = table, table.name, path
        self.shape, self.dtype = table.shape, table.storage

    def numpy(self):
        """A copy."""
        return np.array(self.table)

    def assign(self, value):
        """Copies an array into the table."""
        self.table.assign(keras.ops.convert_to_numpy(value))


class _NoCall:
    """In the place of Keras's context where `call` is called by itself."""

    def __init__(self, layer):
        self.entry_layer, self.training = layer, False

    def get_value(self, name):
        """As Keras's."""
        return getattr(self, name)


@keras.saving.register_keras_serializable("fastembed")
class Embedding(keras.layers.Layer):
    """keras.layers.Embedding, with a table in host memory or in a file that is trained row by row.

    The table is no variable of the framework: no gradient, and no state of the model's optimizer, has its size. Each
    backward pass through the layer ends with a step of the table's own optimizer. Several look-ups of one call of a
    model are one step with the sum of their gradients.

    Args:
        input_dim, output_dim: ints, rows of the table and their length.
        embeddings_initializer, activity_regularizer, embeddings_constraint, mask_zero, input_length, weights: as in
            `keras.layers.Embedding`, of Keras 2 and 3.
        embeddings_regularizer: as there. The penalty is in the gradient of the rows of a batch, and not in the loss
            that `fit` reports.
        table_optimizer: an optimizer of fastembed, its name or config, or one of Keras; it trains this table alone.
            None: the optimizer that the model is compiled with, translated, with its learning rate at each moment; with
            untouched="catch_up", so that rows become what Keras's dense gradients make of them.
        path, mmap_mode, lazy, padding_idx: as in `fastembed.Embedding`. A table with a `path` stays there when a model
            is saved, and models that are loaded open it again.
        **kwargs: name, dtype, trainable, as for any Keras layer.

    Raises:
        ValueError, TypeError: wrong arguments.

    Example:
        >>> import keras
        >>> model = keras.Sequential([fastembed.keras.Embedding(1000, 64, input_length=10)])
        >>> model.compile("rmsprop", "mse")
        >>> model.predict(np.random.randint(1000, size=(32, 10)), verbose=0).shape
        (32, 10, 64)
    """

    _kind = layers.Embedding

    def __init__(
        self,
        input_dim,
        output_dim,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        activity_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        input_length=None,
        weights=None,
        *,
        table_optimizer=None,
        path=None,
        mmap_mode="r+",
        lazy=False,
        padding_idx=None,
        combiner=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, autocast=False, **kwargs)
        parts = {
            "embeddings_initializer": embeddings_initializer,
            "embeddings_regularizer": embeddings_regularizer,
            "embeddings_constraint": embeddings_constraint,
        }
        layer = self._kind(
            input_dim,
            output_dim,
            **{argument: _as_ours(argument, part) for argument, part in parts.items()},
            mask_zero=mask_zero,
            input_length=input_length,
            weights=weights,
            dtype=self.variable_dtype,
            name=self.name,
            trainable=self.trainable,
            path=path,
            mmap_mode=mmap_mode,
            lazy=lazy,
            padding_idx=padding_idx,
            **({} if combiner is None else {"combiner": combiner}),
        )
        self._place = {"path": layer.path, "mmap_mode": mmap_mode, "lazy": lazy}
        self._around(layer, table_optimizer)

    @property
    def embeddings(self):
        """The `fastembed.Table`."""
        return self.layer.embeddings

    @property
    def table_optimizer(self):
        """The optimizer of fastembed that has trained the table last, or is to; None before a model has trained it."""
        last = self.table_updates.last
        return None if last is None else last.trained.optimizer

    @property
    def supports_jit(self):
        """Whether Keras may compile a model with this layer.

        Raises:
            ValueError: Keras asks for XLA on TensorFlow, which cannot call the library.
        """
        return "layer" not in self.__dict__ or _ON.supports_jit()

    @supports_jit.setter
    def supports_jit(self, value):
        pass  # Keras says True of every layer, when it makes one

    # ---- weights ---------------------------------------------------------------------------------------------------

    @property
    def trainable(self):
        """bool; False: look-ups alone."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        self.layer.trainable = bool(value)

    @property
    def weights(self):
        """The table, and the anchor: a scalar of 0 through which gradients come."""
        tables = [_Weight(table, f"{self.path}/{table.name}") for table in self.layer.weights]
        return [*tables, *super().weights]

    def get_weights(self):
        """Returns [a copy of the table]."""
        return self.layer.get_weights()

    def set_weights(self, weights):
        """Copies [an array] into the table."""
        self.layer.set_weights(weights)

    def count_params(self):
        """Returns the number of elements of the table."""
        return self.layer.count_params()

    # ---- look-ups --------------------------------------------------------------------------------------------------

    def build(self, input_shape=None):
        """Makes the table, or opens its file."""
        _ON.check(self.layer)
        self.layer.build()
        self.anchor = self.add_weight(shape=(), initializer="zeros", dtype="float32", autocast=False, name="anchor")

    def call(self, inputs):
        """Returns the rows of ids.

        Args:
            inputs: tensor of integers of any shape; on TensorFlow also a RaggedTensor.

        Returns:
            tensor of `compute_dtype` of shape inputs.shape + (output_dim,), ragged for ragged ids.
        """
        return self._look_up(inputs, None)

    def _look_up(self, ids, weights):
        trained, token = self._opened()
        return _ON.look_up(trained, token, ids, weights, self.compute_dtype)

    def _opened(self):
        """What the model that is called trains, and a token with which all look-ups of this call are one step; None:
        the layer is frozen."""
        if not self.trainable:
            return self.table_updates.frozen, None
        call, model, training = _ON.call_of(global_state.get_global_attribute("current_call_ctx") or _NoCall(self))
        known = call.__dict__.setdefault("fastembed", {})
        key = self, _ON.place()
        if key not in known:
            with _ON.eager():
                steps = self.table_updates.steps_for(model, training)
            known[key] = steps.trained, _ON.opened(self.anchor, steps, call)
        return known[key]

    def compute_mask(self, inputs, mask=None):
        """Returns None, or with `mask_zero` where the ids are not 0."""
        if not self.layer.supports_masking:
            return None
        return _ON.flat_map(lambda ids: keras.ops.not_equal(ids, 0), inputs)

    def compute_output_shape(self, input_shape):
        """See `fastembed.Embedding.compute_output_shape`."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs, weights=None):
        """The symbolic output of symbolic ids."""
        if "float" in inputs.dtype and self.layer.input_dim > _EXACT:
            raise ValueError(
                f"`inputs` must be integers for more than {_EXACT} rows, as in keras.Input(shape, dtype='int64'). "
                f"Received: {inputs.dtype}"
            )
        shape, pools = self.compute_output_shape(inputs.shape), isinstance(self.layer, layers.EmbeddingBag)
        return keras.KerasTensor(shape, self.compute_dtype, ragged=inputs.ragged and not pools)

    # ---- configs and files -----------------------------------------------------------------------------------------

    def get_config(self):
        """Returns what `from_config` makes the layer from."""
        ours = self.layer.get_config()
        for key in ("name", "trainable", "dtype", "activity_regularizer", "quantization_config"):
            del ours[key]
        config = {**super().get_config(), **ours}
        if self.layer.path is not None:
            config |= self._place
        given = self.table_updates.given
        given = None if given is None else serialization.serialize(given.trained.optimizer)
        return {**config, "table_optimizer": given}

    @classmethod
    def from_config(cls, config):
        """Makes a layer from `get_config()`. A table with a `path` is opened there, and must exist."""
        path = config.get("path")
        if path is None:
            return super().from_config(config)
        if not os.path.exists(path):  # a config of a stranger makes no files
            raise FileNotFoundError(f"`path` must be the file of the table. Received: path={path!r}, which is missing")
        layer = super().from_config(config)
        try:
            layer.layer.build()
        except BlockingIOError as error:
            warnings.warn(f"The table is opened to be read, not to be trained: {error}", stacklevel=2)
            layer = super().from_config({**config, "mmap_mode": "r"})
            layer.layer.build()
        return layer

    @classmethod
    def from_layer(cls, layer, table_optimizer=None, name=None):
        """A Keras layer around an existing layer of fastembed, which it shares.

        Args:
            layer: a `fastembed.Embedding`; for `EmbeddingBag` a `fastembed.EmbeddingBag`.
            table_optimizer: as for the class.
            name: str, or None for the layer's.

        Raises:
            TypeError: a layer of another class.

        Example:
            >>> words = fastembed.Embedding(1000, 8)
            >>> fastembed.keras.Embedding.from_layer(words).embeddings is words.embeddings
            True
        """
        if type(layer) is not cls._kind:
            raise TypeError(f"`layer` must be a {cls._kind.__name__} of fastembed. Received: {layer!r}")
        more = {"combiner": layer.combiner} if isinstance(layer, layers.EmbeddingBag) else {}
        new = cls(layer.input_dim, layer.output_dim, name=name or layer.name, dtype=layer.dtype, **more)
        return new._around(layer, table_optimizer)

    def _around(self, layer, table_optimizer):
        self.layer = layer
        self.table_updates = TableUpdates(layer, table_optimizer)
        self.supports_masking = layer.supports_masking
        keras.layers.Layer.trainable.fset(self, layer.trainable)
        return self

    def save_own_variables(self, store):
        """Writes the table as `keras.layers.Embedding` does; one with a `path` stays there, and is flushed."""
        if self.layer.path is None:
            store["0"] = self.layer.embeddings.numpy()
        else:
            self.layer.embeddings.flush()

    def load_own_variables(self, store):
        """Reads the table that any `keras.layers.Embedding` has written.

        Raises:
            ValueError: there is none, as it was beside the file, or it has another shape.
        """
        if "0" in store:
            self.layer.set_weights([np.asarray(store["0"])])
        elif self.layer.path is None:
            raise ValueError(f"the file must hold the table of {self.name}, as it has no `path`. Received: none")


@keras.saving.register_keras_serializable("fastembed")
class EmbeddingBag(Embedding):
    """One vector for each bag of ids: the sum, mean, root-scaled sum or maximum of their rows.

    Args:
        input_dim, output_dim: as in `Embedding`.
        combiner: "sum" | "mean" | "sqrtn" | "max".
        mask_zero: id 0 is passed over by pooling: for bags that are padded with zeros.
        **arguments: the others of `Embedding`.

    Example:
        >>> bag = fastembed.keras.EmbeddingBag(1000, 64, combiner="sum", mask_zero=True)
        >>> tuple(bag(np.array([[4, 8, 15], [16, 0, 0]])).shape)
        (2, 64)
    """

    _kind = layers.EmbeddingBag

    def __init__(self, input_dim, output_dim, combiner="mean", *args, **arguments):
        super().__init__(input_dim, output_dim, *args, combiner=combiner, **arguments)

    def call(self, inputs, weights=None):
        """Returns one vector for each bag.

        Args:
            inputs: tensor of integers (batch, k); on TensorFlow also a RaggedTensor (batch, None).
            weights: float tensor like `inputs`, or None: what rows are multiplied by. It has a gradient.

        Returns:
            tensor of `compute_dtype` (batch, output_dim).
        """
        return self._look_up(inputs, weights)


def _as_ours(argument, part):
    """An initializer, regularizer or constraint of Keras as its config; all else as it is."""
    theirs, kind = _THEIRS[argument]
    return theirs.serialize(part) if isinstance(part, kind) and type(part).__module__.startswith("keras.") else part
