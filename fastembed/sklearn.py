"""A scikit-learn transformer: columns of ids or of lists of ids in, features of their embeddings out.

May import: interop, initializers, layers, ops, optimizers, ragged; scikit-learn. Do not break: `__init__` only stores
its arguments, `fit` changes none of them, and what `fit` learns has names that end with an underscore.
"""

import collections
import itertools
import numbers

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from fastembed import initializers, ops, optimizers
from fastembed.interop import as_ragged
from fastembed.layers import Embedding, EmbeddingBag
from fastembed.ragged import Ragged

TARGETS = ("auto", "classification", "regression")
_LIST_TYPES = ("list", "large_list", "fixed_size_list", "array")  # of Arrow, pandas and Polars, as their names begin


class EmbeddingTransformer(TransformerMixin, BaseEstimator):
    """Turns columns of categories into float32 features: the rows of an embedding table for each column, side by side.

    A column holds one category a row (integers, strings, any sortable values) or a list of them, whose vectors are
    pooled.
    `fit` learns the categories of each column. Row 0 of its table stands for all others: what is missing, was seen
    less than `min_frequency` times, or not at all; it is zero unless rows of `fit` were such. Given `y`, `fit` then
    trains the tables with a small network on top (one hidden layer; softmax or squares), which is forgotten afterwards;
    without `y`, tables keep their initial values: random projections of the categories.

    What follows in a pipeline is fitted on rows whose `y` the features have seen, as with any target encoder: with few
    rows a category they look better there than they are. `min_frequency`, fewer `epochs` and a small `output_dim` help.

    Args:
        output_dim: int, features for each column; or a list of one for each column.
        input_dim: None; or an int, or a list of one for each column: ids are integers in [0, input_dim) as they are.
        combiner: "sum" | "mean" | "sqrtn" | "max", how rows of a list are pooled; an empty list gives zeros.
        min_frequency: int, so many times a category must be seen to have a row of its own.
        embeddings_initializer: a Keras name, config or instance.
        weights: None; or a matrix of vectors to begin with, or a list of one for each column: ids are row numbers, and
            `output_dim` and `input_dim` come from it. `clone` copies it.
        hidden_dim: int, units of the hidden layer in training; 0: none, features are then linear in the target.
        optimizer: the name, config or instance of an optimizer.
        learning_rate: float, that of the optimizer; None: its own.
        epochs: int, passes over the rows; 0 trains nothing.
        batch_size: int.
        target: "classification" | "regression"; "auto" takes floats with fractions for the latter.
        dtype: the storage dtype of the tables; "float64" gives float64 features.
        random_state: int, RandomState or None. The same int gives the same bits, for any number of threads of
            fastembed; the network on top uses NumPy's linear algebra.

    Attributes:
        layers_: an `Embedding` for each column, an `EmbeddingBag` for one of lists.
        categories_: an array for each column: category i has row i + 1; None where ids are as they are.
        loss_curve_: the mean loss of each epoch.
        n_features_in_: as everywhere in scikit-learn, and so is feature_names_in_.

    Raises:
        ValueError, TypeError: in `fit`, wrong arguments; a `y` that is neither classes nor numbers.

    Source: Guo and Berkhahn, Entity embeddings of categorical variables, 2016.

    Example:
        >>> from fastembed.sklearn import EmbeddingTransformer
        >>> colours = np.array([["red"], ["blue"], ["red"], ["green"]], object)
        >>> transformer = EmbeddingTransformer(output_dim=2, random_state=0).fit(colours, [1, 0, 1, 0])
        >>> transformer.transform(colours).shape
        (4, 2)
        >>> transformer.transform([["never seen"]])
        array([[0., 0.]], dtype=float32)
        >>> transformer.get_feature_names_out().tolist()
        ['x0_0', 'x0_1']
    """

    def __init__(
        self,
        output_dim=16,
        *,
        input_dim=None,
        combiner="mean",
        min_frequency=1,
        embeddings_initializer="uniform",
        weights=None,
        hidden_dim=32,
        optimizer="adam",
        learning_rate=0.01,
        epochs=10,
        batch_size=256,
        target="auto",
        dtype="float32",
        random_state=None,
    ):
        self.output_dim = output_dim
        self.input_dim = input_dim
        self.combiner = combiner
        self.min_frequency = min_frequency
        self.embeddings_initializer = embeddings_initializer
        self.weights = weights
        self.hidden_dim = hidden_dim
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.target = target
        self.dtype = dtype
        self.random_state = random_state

    # ---- scikit-learn's surface ------------------------------------------------------------------------------------

    def fit(self, X, y=None):
        """Learns the categories of each column and, given `y`, trains their vectors.

        Args:
            X: (samples, columns): an array or lists of integers, strings, floats or objects; a pandas or Polars frame
                or an Arrow table, whose columns may hold lists; or a `Ragged`, one column of lists.
            y: None; classes (samples,), or numbers (samples,) or (samples, outputs).

        Returns:
            self.
        """
        self._check_arguments()
        rng = check_random_state(self.random_state)
        columns = self._columns(X, reset=True)
        weights = [None if each is None else ops.array_of(each, "weights") for each in self._each("weights", columns)]
        input_dims, output_dims = self._each("input_dim", columns), self._each("output_dim", columns)
        for column, given in enumerate(weights):
            if given is not None:
                input_dims[column], output_dims[column] = given.shape
        self._vocabularies = [
            _Vocabulary(_flat(column), self.min_frequency) if dim is None else None
            for column, dim in zip(columns, input_dims, strict=True)
        ]
        self.categories_ = [None if known is None else known.categories for known in self._vocabularies]
        self.layers_ = []
        for column, known, rows, dim, given in zip(
            columns, self._vocabularies, input_dims, output_dims, weights, strict=True
        ):
            kind, more = (EmbeddingBag, {"combiner": self.combiner}) if isinstance(column, Ragged) else (Embedding, {})
            initializer = _seeded(self.embeddings_initializer, rng.randint(2**31))
            rows = rows if known is None else len(known.categories) + 1
            layer = kind(rows, dim, embeddings_initializer=initializer, weights=given, dtype=self.dtype, **more)
            if known is not None:
                layer.embeddings.numpy()[0] = 0
            self.layers_.append(layer)
        ids = self._ids(columns)
        for layer, each in zip(self.layers_, ids, strict=True):
            ops.check_ids(ops.flat_ids(_flat(each))[0], layer.input_dim, "X")
        self.loss_curve_ = []
        if y is not None and self.epochs:
            check_consistent_length(ids[0], y)
            self._train(ids, *_target(y, self.target), rng)
        return self

    def transform(self, X):
        """Looks up the vectors of all columns.

        Args:
            X: what `fit` takes, with the same columns.

        Returns:
            float32 array (samples, features), features of the first column first (`set_output` gives frames).

        Raises:
            IndexError: with `input_dim` or `weights`, an id outside.
        """
        check_is_fitted(self)
        return self._features(self._ids(self._columns(X, reset=False)))

    def get_feature_names_out(self, input_features=None):
        """Returns the names of the features, "column_0", "column_1", ..., as an object array.

        Args:
            input_features: the names of the columns, or None for those of `fit` (x0, x1, ... if it saw none).
        """
        check_is_fitted(self)
        seen = getattr(self, "feature_names_in_", None)
        if input_features is None:
            names = [f"x{column}" for column in range(self.n_features_in_)] if seen is None else seen
        else:
            names = np.asarray(input_features, object)
            if seen is not None and not np.array_equal(seen, names):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(names) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features ({self.n_features_in_}), got "
                    f"{len(names)}"
                )
        dims = [layer.output_dim for layer in self.layers_]
        return np.array([f"{name}_{k}" for name, dim in zip(names, dims, strict=True) for k in range(dim)], object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    # ---- columns ---------------------------------------------------------------------------------------------------

    def _check_arguments(self):
        for name, least in (("min_frequency", 1), ("hidden_dim", 0), ("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")
        if self.target not in TARGETS:
            raise ValueError(f"`target` must be one of {list(TARGETS)}. Received: target={self.target!r}")

    def _each(self, name, columns):
        """An argument, one for each column."""
        value = getattr(self, name)
        values = list(value) if isinstance(value, (list, tuple)) else [value] * len(columns)
        if len(values) != len(columns):
            raise ValueError(
                f"`{name}` must have one entry for each of {len(columns)} columns. Received: {len(values)}"
            )
        return values

    def _columns(self, X, reset):
        """A list of arrays (samples,) and `Ragged`; what scikit-learn keeps of X is checked, or set."""
        if isinstance(X, Ragged):
            columns = [validate_data(self, _OneColumn(X), reset=reset, skip_check_array=True).column]
            if not reset and not isinstance(self.layers_[0], EmbeddingBag):
                raise TypeError(f"`X` must have no lists, as it had none in `fit`. Received: {X!r}")
            return columns
        names = getattr(X, "column_names", getattr(X, "columns", None))
        if names is None:
            X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False)
            columns = list(X.T)
        else:
            validate_data(self, X, reset=reset, skip_check_array=True)
            columns = [X[name] for name in names]
            if not columns or not len(columns[0]):
                raise ValueError(f"Found array with 0 sample(s) or 0 feature(s) (shape={X.shape})")
        if reset:
            return [_lists(column) if _is_lists(column) else _array(column) for column in columns]
        bags = [isinstance(layer, EmbeddingBag) for layer in self.layers_]
        return [_lists(column) if bag else _array(column) for bag, column in zip(bags, columns, strict=True)]

    def _ids(self, columns):
        """Row numbers for each column."""
        found = []
        for column, known in zip(columns, self._vocabularies, strict=True):
            ids_n = _flat(column) if known is None else known.rows(_flat(column))
            found.append(column.with_values(ids_n) if isinstance(column, Ragged) else ids_n)
        return found

    def _features(self, ids):
        return np.concatenate([layer(each) for layer, each in zip(self.layers_, ids, strict=True)], axis=1)

    # ---- training --------------------------------------------------------------------------------------------------

    def _train(self, ids, wanted, classes, rng):
        """Trains all tables and a network on top with wanted outputs (n, k): one-hot classes, or numbers."""
        pattern = optimizers.get(self.optimizer)
        optimizer = type(pattern).from_config(pattern.get_config())
        if self.learning_rate is not None:
            optimizer.learning_rate = self.learning_rate
        *bounds, width = itertools.accumulate(layer.output_dim for layer in self.layers_)
        sizes = [width, *([self.hidden_dim] if self.hidden_dim else []), wanted.shape[1]]
        dense = []
        for rows, columns in itertools.pairwise(sizes):
            limit = np.sqrt(6 / (rows + columns))  # GlorotUniform
            dense += [rng.uniform(-limit, limit, (rows, columns)).astype(np.float32), np.zeros(columns, np.float32)]
        for _ in range(self.epochs):
            order, losses = rng.permutation(len(wanted)), []
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                ids_b, wanted_b = [each[batch] for each in ids], wanted[batch]
                features = self._features(ids_b).astype(np.float32, copy=False)
                hidden = np.maximum(features @ dense[0] + dense[1], 0) if self.hidden_dim else features
                loss, upstream = _loss(hidden @ dense[-2] + dense[-1], wanted_b, classes)
                gradients = [hidden.T @ upstream, upstream.sum(0)]
                upstream = upstream @ dense[-2].T
                if self.hidden_dim:
                    upstream *= hidden > 0
                    gradients = [features.T @ upstream, upstream.sum(0), *gradients]
                    upstream = upstream @ dense[0].T
                for layer, each, upstream_d in zip(self.layers_, ids_b, np.split(upstream, bounds, 1), strict=True):
                    gradients.append(layer.gradient(each, upstream_d))
                optimizer.apply(gradients, dense + [layer.embeddings for layer in self.layers_])
                losses.append(loss * len(batch))
            self.loss_curve_.append(sum(losses) / len(wanted))


def _loss(outputs, wanted, classes):
    """The mean loss of a batch and its gradient at the outputs: softmax cross-entropy, or half of squares."""
    if not classes:
        error = outputs - wanted
        return float((error**2).sum()) / (2 * len(error)), error / np.float32(len(error))
    outputs = outputs - outputs.max(1, keepdims=True)
    logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    return -float((wanted * logs).sum()) / len(logs), (np.exp(logs) - wanted) / np.float32(len(logs))


def _target(y, target):
    """What the network is to put out, float32 (n, k), and whether it is classes."""
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if target == "regression" or (target == "auto" and kind.startswith("continuous")):
        numbers_nk = y.reshape(len(y), -1).astype(np.float64)
        spread = numbers_nk.std(0)
        return ((numbers_nk - numbers_nk.mean(0)) / np.where(spread > 0, spread, 1)).astype(np.float32), False
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"`y` must be one class or numbers for each sample. Received: y of type {kind}")
    classes, numbers_n = np.unique(y, return_inverse=True)
    return np.eye(len(classes), dtype=np.float32)[numbers_n], True


def _seeded(initializer, seed):
    """The initializer, with this seed if it takes one and has none."""
    initializer = initializers.get(initializer)
    config = getattr(initializer, "get_config", dict)()
    return type(initializer).from_config({**config, "seed": seed}) if config.get("seed", seed) is None else initializer


# ---- columns and their categories ------------------------------------------------------------------------------------


class _OneColumn:
    """A `Ragged` as X of one column."""

    def __init__(self, column):
        self.column, self.shape = column, (len(column), 1)


def _flat(column):
    return column.flat_values if isinstance(column, Ragged) else column


def _is_lists(column):
    kind = getattr(column, "dtype", getattr(column, "type", None))
    if isinstance(kind, np.dtype) and kind.kind == "O":
        return any(map(_is_list, column))
    return str(kind).lower().startswith(_LIST_TYPES)


def _is_list(row):
    return isinstance(row, (list, tuple)) or (hasattr(row, "__array__") and not isinstance(row, np.generic))


def _lists(column):
    """A column of lists as a `Ragged`; of objects, where they are no numbers. Nulls are empty."""
    try:
        return as_ragged(column, null_rows="empty")
    except TypeError:
        rows = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    rows = [row if _is_known(row) else () for row in rows]
    other = next((row for row in rows if not _is_list(row)), None)
    if other is not None:
        raise TypeError(f"`X` must have lists in a column that had lists in `fit`. Received: {other!r}")
    values = np.empty(sum(map(len, rows)), object)
    values[:] = [value for row in rows for value in row]
    return Ragged.from_row_lengths(values, [len(row) for row in rows])


def _array(column):
    """A column as an array of numbers, times or objects."""
    array = ops.array_of(column, "X")
    return array.astype(object) if array.dtype.kind not in "biufmMO" else array


class _Vocabulary:
    """The categories of a column, sorted, and their rows: 1, 2, ...; 0: another value."""

    def __init__(self, values, min_frequency):
        if values.dtype == object:
            counts = collections.Counter(value for value in values.tolist() if _is_known(value))
            known = [value for value, count in counts.items() if count >= min_frequency]
            known.sort(key=lambda value: (type(value).__name__, value))
            self.categories = np.empty(len(known), object)
            self.categories[:] = known
        else:
            found, counts = np.unique(values, return_counts=True)
            self.categories = found[(counts >= min_frequency) & (found == found)]
        self._rows = None

    def rows(self, values):
        """The rows of values, int64."""
        if values.dtype.kind != self.categories.dtype.kind or values.dtype == object:  # NumPy compares these as floats
            if self._rows is None:
                self._rows = {value: row for row, value in enumerate(self.categories.tolist(), 1)}
            return np.fromiter((self._rows.get(value, 0) for value in values.tolist()), np.int64, len(values))
        if not len(self.categories):
            return np.zeros(len(values), np.int64)
        at = np.minimum(np.searchsorted(self.categories, values), len(self.categories) - 1)
        return np.where(self.categories[at] == values, at + 1, 0)

    def __getstate__(self):
        return {**self.__dict__, "_rows": None}


def _is_known(value):
    """Whether a value is no null."""
    return _is_list(value) or not (value is None or type(value).__name__ == "NAType" or value != value)
