"""Embedding: ids in, rows of a table out, and the gradient on the way back.

May import: lora, vocabulary, and what stands below the layers. Do not break: a layer keeps no tape. `gradient` depends
on its arguments and the tables alone; a look-up changes nothing but the activity loss, of a layer that has one.
"""

import copy
import itertools
import os

import numpy as np

from fastembed import constraints, dtypes, initializers, ops, regularizers, saving, serialization
from fastembed.layers import vocabulary
from fastembed.layers.lora import Lora, check_alpha
from fastembed.ragged import Ragged
from fastembed.slices import IndexedSlices
from fastembed.table import Table, check_size, rearrange
from fastembed.threads import Lock

_names = {}
_names_lock = Lock()


def _automatic_name(cls):
    """embedding, embedding_1, ... as Keras counts."""
    base = serialization.snake_case(cls.__name__)
    with _names_lock:
        number = next(_names.setdefault(base, itertools.count()))
    return f"{base}_{number}" if number else base


class Embedding:
    """Turns ids into vectors: one row of a table for each id.

    Args:
        input_dim: int, rows of the table; ids lie in [0, input_dim).
        output_dim: int, the length of a row.
        embeddings_initializer: what the table holds at first: a Keras name, config, instance, callable or array; None
            for GlorotUniform, Keras's default for any weight.
        embeddings_regularizer: a penalty on the table, or None; see `losses` and `gradient`.
        activity_regularizer: a penalty on what look-ups return, or None.
        embeddings_constraint: what the table satisfies from the first value on, or None: e.g. MaxNorm(1.0, axis=1).
        mask_zero: bool; `compute_mask` then tells where the ids are not 0.
        input_length: int, a tuple of them (or None), or None: what `compute_output_shape` compares with.
        weights: an array (input_dim, output_dim) to begin with, or a list of one.
        dtype: the storage dtype of the table, "float32", "float16" or "bfloat16", and look-ups return float32; or
            "float64", with the same initial values, and look-ups return float64. Or a Keras policy: "mixed_float16" (a
            float32 table, float16 output), "mixed_bfloat16" (with ml_dtypes), "int8_from_float32" (after `quantize`).
        name: str, or None for `embedding`, `embedding_1`, ...
        trainable: bool.
        path: a .npy file for the table to live in (made if missing), or None for memory. See `Table` for `mmap_mode`.
        lazy: True makes the table in no time: a row takes its initial value (the same bits) when it is first looked up
            or updated, and rows that never are take no memory. Not with initializers of whole tables (Orthogonal,
            functions), `weights` or a constraint; in a file the initializer needs a seed.
        padding_idx: an id whose row is zero and never trains, or None.
        lora_rank, lora_alpha: as in `enable_lora`, which building then calls.
        quantization_config: None, or what a Keras config has there, for `get_config` alone.

    Raises:
        ValueError, TypeError: wrong arguments.

    Source: keras.layers.Embedding (Keras 3.15, and 2.9 where 3 dropped an argument); padding_idx as in
    torch.nn.Embedding.

    Example:
        >>> layer = fastembed.Embedding(1000, 64)
        >>> layer(np.array([[4, 8, 15], [16, 23, 42]])).shape
        (2, 3, 64)
        >>> ragged = layer(fastembed.Ragged.from_lists([[4, 8], [15]]))
        >>> ragged.values.shape, ragged.row_splits
        ((3, 64), array([0, 2, 3]))
    """

    keras_module = "keras.layers"

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
        dtype="float32",
        name=None,
        trainable=True,
        path=None,
        mmap_mode="r+",
        lazy=False,
        padding_idx=None,
        lora_rank=None,
        lora_alpha=None,
        quantization_config=None,
    ):
        self.input_dim = check_size(input_dim, "input_dim")
        self.output_dim = check_size(output_dim, "output_dim")
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        constraints.warn_of_columns(self.embeddings_constraint)
        self.mask_zero = self.supports_masking = _flag("mask_zero", mask_zero)
        self.input_length = _check_input_length(input_length)
        self._policy = dtypes.policy(dtype)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string. Received: name={name!r}")
        self.name = _automatic_name(type(self)) if name is None else name
        self._trainable = _flag("trainable", trainable)
        self.path = None if path is None else os.fspath(path)
        self._mmap_mode, self._lazy = mmap_mode, _flag("lazy", lazy)
        self.padding_idx = None if padding_idx is None else ops.check_padding(padding_idx, self.input_dim)
        self.lora_rank = None if lora_rank is None else check_size(lora_rank, "lora_rank")
        self.lora_alpha = self.lora_rank if lora_alpha is None else check_alpha(lora_alpha)
        if self.lora_rank is not None:
            self._check_lora()
        self.quantization_config = _check_quantization_config(quantization_config)
        self._batch_input_shape = None  # of a Keras 2 config
        self._table = self._lora = self._activity_loss = None
        self._build_lock = Lock()
        if self._lazy:
            self._check_lazy(weights)
        if weights is not None:
            self._assign(weights[0] if isinstance(weights, (list, tuple)) and len(weights) == 1 else weights)

    # ---- the table -------------------------------------------------------------------------------------------------

    @property
    def built(self):
        """True once the table is there."""
        return self._table is not None

    def build(self, input_shape=None):
        """Makes the table, if it is not there yet. Look-ups and `embeddings` do so by themselves."""
        self._build()

    def _build(self, weights=None):
        """Makes the table with initial values, or these. False if it is there already, in memory or in its file."""
        shape = (self.input_dim, self.output_dim)
        about = {"name": "embeddings", "trainable": self._trainable}
        about["constraint"] = constraints.for_table(self.embeddings_constraint)

        def fill(table):
            if weights is None:
                (self.embeddings_initializer or initializers.GlorotUniform()).fill(table.rows)
            else:
                table.check_numbers(weights, "weights")
                table.copy_from(weights)
            self._clear_padding(table)
            table.enforce()
            self._clear_padding(table)  # whatever a constraint of the user's own makes of zeros

        with self._build_lock:
            if self._table is not None:
                return False
            made = self.path is None or not os.path.exists(self.path)
            lora, about["mmap_mode"] = self._new_lora(), self._mmap_mode
            if self._lazy:
                table = Table(shape, self._policy.storage, self.path, lazy=self._filler(), **about)
            elif self.path is None:
                table = Table(shape, self._policy.storage, **about)
                fill(table)
            elif made and self._mmap_mode == "r+":
                del about["mmap_mode"]
                table = Table.new_file(self.path, shape, self._policy.storage, fill, **about)
            else:
                table = Table(shape, self._policy.storage, self.path, **about)
            table.trainable = self._trainable and lora is None and self._trains
            self._lora, self._table = lora, table  # in this order: a thread that sees the table sees LoRA too
        return made

    def _check_lazy(self, weights):
        """Raises where rows cannot be made one by one."""
        if self.embeddings_constraint is not None or weights is not None:
            raise ValueError(
                "`lazy` goes without `embeddings_constraint` and `weights`. Received: "
                f"embeddings_constraint={self.embeddings_constraint!r}, weights of shape {np.shape(weights)}"
            )
        copy.copy(self.embeddings_initializer or initializers.GlorotUniform()).filler((self.input_dim, self.output_dim))
        if self.path is not None and getattr(self.embeddings_initializer, "seed", 0) is None:
            raise ValueError(
                "`lazy` in a file needs an initializer with a seed, as rows are made later, in other processes too. "
                f"Received: {self.embeddings_initializer!r}"
            )

    def _filler(self):
        """What makes single rows, for `Table`."""
        initializer = self.embeddings_initializer or initializers.GlorotUniform()
        fill = initializer.filler((self.input_dim, self.output_dim))

        def without_padding(values_ud, rows_u):
            fill(values_ud, rows_u)
            values_ud[rows_u == self.padding_idx] = 0

        return fill if self.padding_idx is None else without_padding

    def adopt(self, table):
        """Uses an existing `Table` of the right shape and dtype from now on; no copy."""
        if table.shape != (self.input_dim, self.output_dim) or table.storage != self._policy.storage:
            raise ValueError(
                f"`table` must be {self._policy.storage} of shape {(self.input_dim, self.output_dim)}. Received: "
                f"{table!r}"
            )
        if self._lora is None:
            self._lora = self._new_lora()
        table.trainable = self._trainable and self._lora is None and self._trains
        table.constraint = constraints.for_table(self.embeddings_constraint)
        self._table = table

    @property
    def _trains(self):
        """Whether tables of this storage dtype can be trained."""
        return self._policy.storage not in dtypes.QUANTISED

    def _clear_padding(self, table):
        if self.padding_idx is not None:
            ops.encode(table.rows, np.zeros((1, table.shape[1]), np.float32), self.padding_idx)

    @staticmethod
    def _check_weights(array, shape):
        """An array of numbers of this shape; or of codes, which Table.check_numbers looks at."""
        array = ops.array_of(array, "weights")
        if array.shape != shape and array.dtype.names is None:
            raise ValueError(f"`weights` must have shape {shape}. Received: shape {array.shape}")
        if array.dtype.kind not in "fiu" and dtypes.name_of(array.dtype)[0] is None:
            raise ValueError(f"`weights` must be numbers. Received: dtype {array.dtype}")
        return array

    def _assign(self, array):
        array = self._check_weights(array, (self.input_dim, self.output_dim))
        if not self._build(array):
            self._table.assign(array)
            self._clear_padding(self._table)

    @property
    def embeddings(self):
        """The `Table`, made at the first call. With LoRA it is the frozen part alone; see `merge_lora`."""
        if self._table is None:
            self.build()
        return self._table

    @property
    def dtype(self):
        """The storage dtype's name, as in Keras."""
        return self._policy.storage

    variable_dtype = dtype

    @property
    def compute_dtype(self):
        """The name of the dtype of what look-ups return."""
        return self._policy.compute.name

    @property
    def dtype_policy(self):
        """The name of the dtype policy."""
        return self._policy.name

    @property
    def trainable(self):
        """bool; False makes updates of the table an error."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = _flag("trainable", value)
        for table in self.weights:
            table.trainable = self._trainable and self._trains
        if self._lora is not None:
            self._table.trainable = False

    @property
    def weights(self):
        """[the Table], with LoRA also A and B; [] before it is made."""
        if not self.built:
            return []
        return [self._table] if self._lora is None else [self._table, self._lora.a, self._lora.b]

    @property
    def trainable_weights(self):
        """Those of `weights` that train."""
        return [table for table in self.weights if table.trainable]

    @property
    def non_trainable_weights(self):
        """Those of `weights` that are frozen."""
        return [table for table in self.weights if not table.trainable]

    @property
    def losses(self):
        """The penalties, as floats in Keras's order: of the last call's output, divided by its batch size; then of the
        whole table (with LoRA: of A and of B), computed now, if it trains."""
        losses = [] if self._activity_loss is None else [self._activity_loss]
        if self.embeddings_regularizer is not None:
            regularizer, weights = self.embeddings_regularizer, self.trainable_weights
            if hasattr(regularizer, "of_elements"):
                losses += [float(regularizer(table.current(None))) for table in weights]
            else:
                losses += [float(regularizer(table.to_real())) for table in weights]
        return losses

    def get_weights(self):
        """Returns copies of `weights` as arrays."""
        return [np.array(table.numpy()) for table in self.weights]

    def set_weights(self, weights):
        """Copies arrays into `weights`; the padding row stays zero, and a constraint is enforced."""
        number = max(1, len(self.weights))
        if not isinstance(weights, (list, tuple)) or len(weights) != number:
            raise ValueError(
                f"`weights` must be a list of {number} arrays. Received: {type(weights).__name__} of "
                f"{len(weights) if hasattr(weights, '__len__') else 'no'} arrays"
            )
        pairs = list(zip(self.weights[1:], weights[1:], strict=True))
        for table, array in pairs:
            self._check_weights(array, table.shape)
        self._assign(weights[0])
        for table, array in pairs:
            table.assign(array)
        if self._lora is not None:
            self._clear_padding(self._lora.a)

    def count_params(self):
        """Returns the number of elements of all weights."""
        lora = 0 if self._lora is None else self._lora.rank * (self.input_dim + self.output_dim)
        return self.input_dim * self.output_dim + lora

    # ---- another number of rows ------------------------------------------------------------------------------------

    def resize(self, input_dim):
        """Gives the table another number of rows; `embeddings` stays the same `Table`, and optimizers go on.

        The first rows stay as they are, to the bit, with all that any optimizer keeps of them. New rows have the values
        that the initializer gives rows of these numbers, as if they had been there from the start, and satisfy the
        constraint; for optimizers they were never touched. Where values are scaled by the number of rows
        (GlorotUniform), new rows have the scale of the new number, and old ones what they had. Gradients that were
        taken before are of the old shape. See `Table.resize` for memory and files.

        Args:
            input_dim: int > 0, the new number of rows.

        Raises:
            ValueError: another `input_dim`, or one that leaves no row `padding_idx`; new rows for an initializer of
                whole tables (Orthogonal, functions, arrays), or of a lazy table for one that scales; a file that is
                open for reading alone.
            MemoryError, OSError: too little memory or disk. Layer and optimizers are then as they were.

        Example:
            >>> layer = fastembed.Embedding(1000, 64)
            >>> before = layer(999)
            >>> layer.resize(1100)
            >>> layer.input_dim, bool((layer(999) == before).all())
            (1100, True)
        """
        input_dim = check_size(input_dim, "input_dim")
        if self.padding_idx is not None and input_dim <= self.padding_idx:
            raise ValueError(
                f"`input_dim` must be above `padding_idx`, {self.padding_idx}. Received: input_dim={input_dim}"
            )
        with self._build_lock:
            self._rearrange(input_dim, None)

    def remap(self, old_vocabulary, new_vocabulary):
        """Gives the table the rows of another vocabulary: each word that was in the old one keeps its row, with all
        that any optimizer keeps of it; other words get new rows, as in `resize`.

        Words that are only appended, or taken away at the end, cost what `resize` costs. Else table and states are
        copied: for a moment memory has to hold the old and the new ones, and a disk, where a file is replaced when the
        new one is whole. A lazy table in a file is made whole first, and is no longer lazy.

        Args:
            old_vocabulary: the words by their ids: a sequence or array of `input_dim` hashable values (strings,
                integers, ...).
            new_vocabulary: the words by the ids that they are to have; `input_dim` becomes their number. Arrays of
                integers are the quickest, and need no dict.

        Raises:
            ValueError: words that come twice, which are named; another number of old words than rows; the word at
                `padding_idx` is another one; and as in `resize`. TypeError: words that are not hashable.
            MemoryError, OSError: too little memory or disk. Layer and optimizers are then as they were.

        Example:
            >>> layer = fastembed.Embedding(3, 8)
            >>> before = layer([0, 1, 2])
            >>> layer.remap(["cat", "dog", "eel"], ["ant", "eel", "cat", "fox"])
            >>> layer.input_dim, bool((layer([2, 1]) == before[[0, 2]]).all())
            (4, True)
        """
        with self._build_lock:
            length, from_v = vocabulary.places(old_vocabulary, new_vocabulary, self.input_dim, self.padding_idx)
            self._rearrange(length, from_v)

    def _rearrange(self, input_dim, from_v):
        table = self.embeddings
        new = input_dim > len(table) if from_v is None else bool((from_v < 0).any())
        pairs = [(table, self._first_values(table, self.embeddings_initializer, input_dim) if new else None)]
        if self._lora is not None:
            lora = self._lora
            pairs.append((lora.a, self._first_values(lora.a, lora.a_initializer, input_dim) if new else None))
        rearrange(pairs, input_dim, from_v, lambda: setattr(self, "input_dim", input_dim))

    @staticmethod
    def _first_values(table, initializer, input_dim):
        """What writes initial values of single rows of a table, when it has another length."""
        initializer = initializer or initializers.GlorotUniform()
        if table.lazy is not None and initializer.scales_by_length and input_dim != len(table):
            raise ValueError(
                "`embeddings_initializer` must not scale values by the number of rows where a table with `lazy` gets "
                f"another one. Received: {initializer!r}"
            )
        return initializer.filler((input_dim, table.shape[1]), again=True)

    # ---- look-ups and gradients ------------------------------------------------------------------------------------

    def __call__(self, ids, out=None):
        """Looks up ids; see `call`."""
        return self.call(ids, out)

    def call(self, ids, out=None):
        """Returns the rows of ids.

        Args:
            ids: integers of any shape (arrays, nested lists, scalars; tensors of frameworks and columns of data frames,
                not copied where their memory is the CPU's), or a `Ragged` of them (see fastembed.interop).
            out: array of `compute_dtype` and of shape ids.shape + (output_dim,) to write to (for a `Ragged`: of its
                flat values).

        Returns:
            array of shape ids.shape + (output_dim,); for a `Ragged` a `Ragged` with the same row splits.

        Raises:
            IndexError: an id outside [0, input_dim), with its position.
            TypeError, ValueError: ids that are no integers, a wrong `out`. `out` is then as it was.
        """
        flat = self._forward(ids, None, out)
        return ids.with_values(flat) if isinstance(ids, Ragged) else flat

    def _look(self, table, ids, weights, out):
        """The rows of ids in a table of this layer; of a `Ragged`, flat."""
        ids = ids.flat_values if isinstance(ids, Ragged) else ids
        return ops.gather(table.current(ops.flat_ids(ids)[0]) if table.behind else table.rows, ids, out)

    def _forward(self, ids, weights, out):
        """What `call` computes, flat: the look-up, with LoRA, its activity loss, in the compute dtype."""
        table = self.embeddings
        policy = self._policy
        if self._lora is None and self.activity_regularizer is None and policy.compute is table.rows.real:
            return self._look(table, ids, weights, out)
        result = self._output(ids, weights)
        if out is not None:
            ops.check_out(out, result.shape, [table.rows.octets_vb for table in self.weights], policy.compute)
        if self.activity_regularizer is not None:
            batch = self._batch_size(ids, result)
            self._activity_loss = float(self.activity_regularizer(result)) / batch if batch else 0.0
        if out is None:
            return result.astype(policy.compute, copy=False)
        out[...] = result
        return out

    def _output(self, ids, weights):
        """The look-up with LoRA, in the dtype in which the table is stepped."""
        result = self._look(self.embeddings, ids, weights, None)
        if self._lora is not None:
            self._lora.add_to(result, self._look(self._lora.a, ids, weights, None))
        return result

    def _batch_size(self, ids, result):
        """What Keras divides an activity loss by: the first dimension of the output (1 for a single number)."""
        return len(ids) if isinstance(ids, Ragged) else result.shape[0]

    def gradient(self, ids, upstream):
        """The gradient of the table, with the parts of the regularizers.

        Args:
            ids: what `call` was given.
            upstream: float32 or float64 (or of `compute_dtype`), the gradient of the loss with respect to what `call`
                returned, in its shape (for ragged ids a `Ragged`, or its flat values).

        Returns:
            IndexedSlices; rows of repeated ids are summed where it is used. The padding row is left out. With an
            `activity_regularizer` its gradient at the output is in it; with an `embeddings_regularizer` that penalty's
            gradient at the rows of ids, once for each row (`regularization_gradient` gives all rows).
        """
        return self._gradient(ids, upstream, None)

    def _gradient(self, ids, upstream, weights):
        upstream = self._upstream(ids, upstream, weights)
        slices = IndexedSlices.from_parts(self._parts(ids, upstream, weights), (self.input_dim, self.output_dim))
        if self.lora_rank is not None or self.embeddings_regularizer is None:
            return slices  # the table is not looked at, nor made
        return self._regularized(slices, self.embeddings)

    def _upstream_shape(self, ids):
        """The shape of what `call` returns, flat."""
        return (*(ids.flat_values if isinstance(ids, Ragged) else ops.array_of(ids, "ids")).shape, self.output_dim)

    def _upstream(self, ids, upstream, weights):
        """The upstream gradient as a matrix, with the activity regularizer's part in it."""
        upstream = ops.array_of(_flat_like(ids, upstream, "upstream"), "upstream")
        shape = self._upstream_shape(ids)
        if upstream.shape != shape:
            raise ValueError(f"`upstream` must have shape {shape}. Received: {upstream.shape}")
        real = dtypes.real(self._policy.storage)
        if upstream.dtype == self._policy.compute:
            upstream = upstream.astype(real, copy=False)
        upstream = ops.check_floats(upstream, shape, "upstream", real)
        if self.activity_regularizer is not None:
            output = self._output(ids, weights)
            batch = self._batch_size(ids, output)
            if batch:
                upstream = upstream + self._penalty_gradient(self.activity_regularizer, output) / real.type(batch)
        return upstream.reshape(-1, self.output_dim)

    def _parts(self, ids, upstream_nd, weights):
        """The gradient of a table of this layer, as `ops` describes it."""
        ids_n, _ = ops.flat_ids(ids.flat_values if isinstance(ids, Ragged) else ids)
        return ops.parts_checked(ids_n, upstream_nd, padding_idx=self.padding_idx)

    @staticmethod
    def _penalty_gradient(regularizer, array, rows=None):
        """The gradient of a penalty, or rows of it."""
        if rows is not None and hasattr(regularizer, "rows_gradient"):
            return regularizer.rows_gradient(array, rows)
        if not hasattr(regularizer, "gradient"):
            raise TypeError(
                f"a regularizer needs a method `gradient(x)` to train with. Received: {regularizer!r} without it"
            )
        gradient = np.asarray(regularizer.gradient(array), array.dtype)
        return gradient if rows is None else gradient[rows]

    def _regularized(self, slices, table):
        """A gradient of a table with the table regularizer's part for its rows; they are summed for that."""
        if self.embeddings_regularizer is None:
            return slices
        slices = slices.coalesce()
        regularizer, rows_u = self.embeddings_regularizer, slices.indices
        if not table.rows.coded or not hasattr(regularizer, "of_elements"):
            rows = table.current(rows_u if hasattr(regularizer, "rows_gradient") else None)
            penalty_ud = self._penalty_gradient(regularizer, ops.decode(rows), rows_u)
        else:
            penalty_ud = self._penalty_gradient(regularizer, table[rows_u])
        return IndexedSlices(slices.values + penalty_ud, slices.indices, slices.dense_shape)

    def regularization_gradient(self):
        """The gradient of the table regularizer's loss at every row, as Keras computes it at every step.

        Returns:
            array (input_dim, output_dim), as large as the table; None without an `embeddings_regularizer`.
        """
        if self.embeddings_regularizer is None:
            return None
        gradient_vd = self._penalty_gradient(self.embeddings_regularizer, self.embeddings.to_real())
        if self.padding_idx is not None:
            gradient_vd[self.padding_idx] = 0
        return gradient_vd

    def compute_mask(self, inputs, mask=None):
        """Returns None, or with `mask_zero` where the ids are not 0: bool of their shape, a `Ragged` for a `Ragged`.

        Raises:
            TypeError: with `mask_zero`, inputs that are no numbers.
        """
        if not self.mask_zero:
            return None
        ids = inputs.flat_values if isinstance(inputs, Ragged) else ops.array_of(inputs, "inputs")
        if ids.dtype.kind not in "biuf":
            raise TypeError(f"`inputs` must be numbers. Received: inputs of dtype {ids.dtype}")
        mask = np.not_equal(ids, 0)
        return inputs.with_values(mask) if isinstance(inputs, Ragged) else mask

    def compute_output_shape(self, input_shape):
        """Returns (*input_shape, output_dim), None for an unknown or ragged dimension.

        Raises:
            ValueError: `input_shape` contradicts `input_length`.
        """
        shape = tuple(input_shape)
        if self.input_length is None:
            return (*shape, self.output_dim)
        lengths = self.input_length if isinstance(self.input_length, tuple) else (self.input_length,)
        pairs = list(zip(lengths, shape[1:], strict=False))
        if len(lengths) != len(shape) - 1 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise ValueError(f"`input_length` must fit the input. Received: {self.input_length} for the shape {shape}")
        return (shape[0], *(seen if length is None else length for length, seen in pairs), self.output_dim)

    # ---- LoRA ------------------------------------------------------------------------------------------------------

    @property
    def lora_enabled(self):
        """True from `enable_lora` to `merge_lora`."""
        return self._lora is not None

    @property
    def lora_embeddings_a(self):
        """The `Table` A (input_dim, rank) of LoRA, or None."""
        return None if self._lora is None else self._lora.a

    @property
    def lora_embeddings_b(self):
        """The `Table` B (rank, output_dim) of LoRA, or None."""
        return None if self._lora is None else self._lora.b

    def enable_lora(self, rank, lora_alpha=None, a_initializer="he_uniform", b_initializer="zeros"):
        """Freezes the table and trains a change of low rank instead: rows are those of W + (lora_alpha / rank) A B.

        A look-up reads rows of W and of A and multiplies: its cost is that of the batch, never of the table.

        Args:
            rank: int, columns of A (input_dim, rank) and rows of B (rank, output_dim).
            lora_alpha: number, or None for `rank`.
            a_initializer, b_initializer: as `embeddings_initializer`.

        Raises:
            ValueError: the layer is not built, has a constraint, has LoRA already, or takes maxima.

        Source: keras.layers.Embedding.enable_lora; Hu et al., LoRA, 2021.

        Example:
            >>> layer = fastembed.Embedding(1000, 64)
            >>> layer.build()
            >>> layer.enable_lora(rank=4)
            >>> gradient_a, gradient_b = layer.lora_gradients([3, 5], np.ones((2, 64), "float32"))
            >>> optimizer = fastembed.optimizers.SGD(0.1)
            >>> optimizer.apply([gradient_a, gradient_b], layer.trainable_weights)
            >>> layer.merge_lora()
        """
        self._check_lora()
        if not self.built:
            raise ValueError("LoRA needs a layer that is built. Received: a layer that is not")
        if self._lora is not None:
            raise ValueError("LoRA can be enabled once. Received: a layer that has it")
        made = initializers.get(a_initializer), initializers.get(b_initializer)
        lora = Lora.new(self, rank, lora_alpha, *made)
        self._lora, self.lora_rank, self.lora_alpha = lora, lora.rank, lora.alpha
        self._table.trainable = False

    def _check_lora(self):
        """Raises for a layer that cannot have LoRA."""
        if self.embeddings_constraint is not None:
            raise ValueError("LoRA needs a layer without `embeddings_constraint`. Received: a layer with one")

    def _new_lora(self):
        """What `lora_rank` asks for, with initial values, or None."""
        if self.lora_rank is None:
            return None
        made = initializers.get("he_uniform"), initializers.get("zeros")
        return Lora.new(self, self.lora_rank, self.lora_alpha, *made)

    def merge_lora(self):
        """Adds (lora_alpha / rank) A B to the table, in blocks, and ends LoRA: the table trains again if it can. One
        of int8, int4 or int2 is rounded once more."""
        if self._lora is None:
            raise ValueError("`merge_lora` needs `enable_lora` before it. Received: a layer without LoRA")
        with self._table.lock:
            self._table.changing()
            rows = self._table.current(None)
            for block in () if self._trains else ops.blocks(rows):  # all, before the first is written
                values_vd = ops.decode(rows, block)
                self._lora.add_change(values_vd, block.start)
                ops.check_codes(rows, values_vd, block.start)
            ops.change(rows, self._lora.add_change)
        self._lora = self.lora_rank = self.lora_alpha = None
        self._table.trainable = self._trainable and self._trains

    def merged_pieces(self, storage):
        """Yields the bytes of the rows that look-ups give, in chunks, in a storage dtype: the table, with LoRA's change
        in it."""
        table = self.embeddings
        if self._lora is None and storage == table.storage:
            yield from table.pieces()
            return
        for _, values_vd in self.merged_blocks():
            array = ops.zeros(values_vd.shape, storage)
            ops.encode(array, values_vd)
            yield memoryview(array.view(np.uint8)).cast("B")

    def merged_blocks(self):
        """Yields (first row, the rows that look-ups give, as numbers) in blocks."""
        table = self.embeddings
        for block in ops.blocks(table.rows):
            values_vd = table.to_real(block)
            if self._lora is not None:
                values_vd = np.array(values_vd)
                self._lora.add_change(values_vd, block.start)
            yield block.start, values_vd

    def lora_gradients(self, ids, upstream):
        """The gradients of A and B.

        Args:
            ids, upstream: as in `gradient`.

        Returns:
            (IndexedSlices for A, array (rank, output_dim) for B), in the order of `trainable_weights`.

        Raises:
            ValueError: LoRA is not enabled.
        """
        return self._lora_gradients(ids, upstream, None)

    def _lora_gradients(self, ids, upstream, weights):
        if self.lora_rank is not None:
            self.build()
        if self._lora is None:
            raise ValueError("`lora_gradients` needs `enable_lora` before it. Received: a layer without LoRA")
        lora = self._lora
        upstream_nd = self._upstream(ids, upstream, weights)
        looked_up = self._look(lora.a, ids, weights, None).reshape(-1, lora.rank)
        upstream_nr, gradient_b = lora.gradients(upstream_nd, looked_up)
        slices = IndexedSlices.from_parts(self._parts(ids, upstream_nr, weights), lora.a.shape)
        if self.embeddings_regularizer is not None:
            gradient_b += self._penalty_gradient(self.embeddings_regularizer, lora.b.numpy())
        return self._regularized(slices, lora.a), gradient_b

    # ---- storage dtypes --------------------------------------------------------------------------------------------

    def quantize(self, mode):
        """Stores the table from now on with 8, 4 or 2 bits for each element, for look-ups alone. LoRA is merged first.

        A row has a scale and an offset: of int8, an element is wrong by 1/510 of the range of its row at most, of int4
        by 1/30, of int2 by 1/6. A row that is constant stays as it is. It is done in blocks: beside the table there is
        the quantised one and a few megabytes.

        Args:
            mode: "int8", "int4" or "int2".

        Raises:
            ValueError: another mode; the layer is quantised already; a row that is not finite, which is named. The
                layer is then as it was.

        Source: keras.layers.Embedding.quantize, whose int8 is symmetric.

        Example:
            >>> layer = fastembed.Embedding(1000, 64)
            >>> before = layer([3, 5])
            >>> layer.quantize("int8")
            >>> layer.dtype, layer.embeddings.nbytes
            ('int8', 72000)
            >>> bool(np.allclose(layer([3, 5]), before, atol=0.1 / 510))
            True
        """
        if mode not in dtypes.QUANTISED:
            raise ValueError(f"`mode` must be one of {list(dtypes.QUANTISED)}. Received: mode={mode!r}")
        old = self.embeddings
        if old.storage in dtypes.QUANTISED:
            raise ValueError(f"a layer can be quantised once. Received: mode={mode!r} for one of {old.storage}")
        table = Table(old.shape, mode, name=old.name, trainable=False)
        with old.lock:
            for first_row, values_vd in self.merged_blocks():
                ops.encode(table.rows, values_vd, first_row)
        self._table = table
        self._policy = dtypes.policy(dtypes.quantised(self._policy.name, mode, self.output_dim))
        self.quantization_config = None
        self._lora = self.lora_rank = self.lora_alpha = self.path = None

    # ---- configs and files -----------------------------------------------------------------------------------------

    def get_config(self, version=3):
        """Returns what `from_config` and real Keras make the layer from. Weights are not in it, nor is `path`.

        Args:
            version: 3 for Keras 3's form; 2 for that of Keras 2.9.

        Raises:
            TypeError: an initializer, regularizer or constraint that cannot be written, such as a lambda.
        """
        config = {"name": self.name, "trainable": self._trainable}
        parts = {
            name: serialization.serialize(getattr(self, name), version)
            for name in (
                "embeddings_initializer",
                "embeddings_regularizer",
                "activity_regularizer",
                "embeddings_constraint",
            )
        }
        policy = self._policy
        sizes = {"input_dim": self.input_dim, "output_dim": self.output_dim}
        if version == 2:
            lengths = self.input_length if isinstance(self.input_length, tuple) else (self.input_length,)
            config["batch_input_shape"] = self._batch_input_shape or (None, *(length or None for length in lengths))
            plain = not policy.name.startswith("mixed_")
            config["dtype"] = policy.name if plain else {"class_name": "Policy", "config": {"name": policy.name}}
            config |= {**sizes, **parts, "mask_zero": self.mask_zero, "input_length": self.input_length}
        else:
            config["dtype"] = dtypes.serialized(policy.name)
            if self.activity_regularizer is not None:
                config["activity_regularizer"] = parts["activity_regularizer"]
            config |= {**sizes, **parts, "mask_zero": self.mask_zero}
            config["quantization_config"] = copy.deepcopy(self.quantization_config)
            if self.lora_rank:
                config |= {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
            if self.input_length is not None:  # unknown to Keras 3's config, though not to its layer
                config["input_length"] = self.input_length
        if self.padding_idx is not None:  # unknown to Keras
            config["padding_idx"] = self.padding_idx
        return config

    def legacy_config(self):
        """Returns `get_config(version=2)`."""
        return self.get_config(version=2)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a layer from `get_config()`, ours or that of any Keras from 2.9 to 3.15.

        Args:
            config: dict.
            custom_objects: dict of the classes and functions that the config names and nobody registered, or None.

        Raises:
            TypeError, ValueError: an unknown key, which is named, or a wrong value.
        """
        config = serialization.arguments_of(config, cls)
        for name in ("path", "mmap_mode", "lazy", "weights"):  # a config of a stranger must not open files
            if name in config:
                raise TypeError(f"{cls.__name__} cannot be made from its config: `{name}` is in no config")
        shape = _check_batch_input_shape(config.pop("batch_input_shape", None))
        config.pop("dynamic", None)  # of Keras 2
        with serialization.scope(custom_objects):
            try:
                layer = cls(**config)
            except TypeError as error:
                raise TypeError(f"{cls.__name__} cannot be made from its config: {error}") from error
        layer._batch_input_shape = shape
        return layer

    def save(self, path):
        """Writes the layer as a directory, atomically; see `fastembed.saving.save`."""
        saving.save(self, path)

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r} input_dim={self.input_dim} output_dim={self.output_dim}>"


def _check_batch_input_shape(shape):
    """None, or a tuple of ints and None; flat, though Keras 2.9 writes (None, (3, 5)) for an input_length of (3, 5)."""
    if shape is None:
        return None
    sizes = []
    for item in shape if isinstance(shape, (list, tuple)) else [shape]:
        sizes += item if isinstance(item, (list, tuple)) else [item]
    if not isinstance(shape, (list, tuple)) or not all(n is None or type(n) is int for n in sizes):
        raise TypeError(f"`batch_input_shape` must be a list of integers. Received: batch_input_shape={shape!r}")
    return tuple(sizes)


def _check_quantization_config(config):
    """None, or a copy of the envelope of a Keras QuantizationConfig."""
    if config is None:
        return None
    serialization.check_config(config)
    known = ("Int8QuantizationConfig", "Int4QuantizationConfig")
    if not isinstance(config, dict) or config.get("class_name") not in known:
        raise ValueError(
            f"`quantization_config` must be None or the serialized form of one of {list(known)}. Received: "
            f"quantization_config={config!r}"
        )
    return copy.deepcopy(config)


def _flag(name, value):
    if not isinstance(value, (bool, np.bool_)) and value not in (0, 1):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def _check_input_length(value):
    """None, an int, or a tuple of ints and None."""
    lengths = value if isinstance(value, (list, tuple)) else (value,)
    for length in lengths:
        if length is not None and (isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0):
            raise TypeError(f"`input_length` must be an integer or a tuple of them. Received: input_length={value!r}")
    lengths = tuple(length if length is None else int(length) for length in lengths)
    return lengths if isinstance(value, (list, tuple)) else lengths[0]


def _flat_like(ids, values, name):
    """The flat values of a `Ragged` whose rows are those of `ids`; anything else as it is."""
    if not isinstance(values, Ragged):
        return values
    splits = values.nested_row_splits
    of_ids = ids.nested_row_splits if isinstance(ids, Ragged) else ()
    if len(splits) != len(of_ids) or not all(map(np.array_equal, splits, of_ids)):
        raise ValueError(f"`{name}` must have the row splits of `ids`. Received: {values!r} for ids {ids!r}")
    return values.flat_values
