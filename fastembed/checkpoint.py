"""Checkpoint: a training on disk, with all that it needs to go on as if it had never stopped.

May import: files, saving, table, optimizers.base, dtypes, _version. Do not break: training that goes on from a
checkpoint gives the bits of training that never stopped. So nothing is rounded, and no row catches up on the way: a
table is written as it lies in memory, beside the steps that its rows have not taken yet.

The directory has checkpoint.json, and an array for each file NUMBER.WHAT.npy (bfloat16 as uint16, of int8, int4 and
int2 the structured array): NUMBER is the variable's place in
checkpoint.json, WHAT is "weights", "scales" (Table.row_scales), or a name of what the optimizer keeps (`Kept`).
"""

import contextlib
import json
import os

import numpy as np

from fastembed import dtypes, saving
from fastembed._version import __version__
from fastembed.files import open_npy, open_rows
from fastembed.optimizers.base import Optimizer
from fastembed.table import Table, locked

_FORMAT = 1
_FILE = "checkpoint.json"
_DTYPES = (*dtypes.STORAGE, "float64", "int32", "int64")


class Checkpoint:
    """Saves a training to disk, and restores it: training goes on with the same bits as if it had never stopped.

    Args:
        layers: what is trained: a layer, a `Table` or a NumPy array; a list of them; or a dict of them by
            names, which `restore` then goes by. All weights of a layer belong to it, those of LoRA too.
        optimizer: the Optimizer that trains them, or None.

    Saved are the weights, the learning rates of single rows (`Table.freeze`), and of the optimizer the state, the
    averages, the counters, gradients that wait for the next step, and the learning rate if it is a number. Whatever
    else the training follows from is yours to make again: the objects, with the arguments that they had, and the order
    of the examples.

    A directory with a checkpoint is not for `fastembed.load`: with untouched="catch_up", its rows may have steps to
    take. For serving there is `layer.save`.

    Raises:
        TypeError, ValueError: something else in `layers`, a weight that comes twice under one name.

    Example:
        >>> def start():
        ...     layer = fastembed.Embedding(10, 4, "ones")
        ...     return layer, fastembed.optimizers.Adam(0.1, untouched="catch_up")
        >>> def train(layer, optimizer, ids):
        ...     for i in ids:
        ...         gradient = layer.gradient([i], np.full((1, 4), 0.3))
        ...         optimizer.apply([gradient], [layer.embeddings])
        >>> layer, optimizer = start()
        >>> train(layer, optimizer, [3, 5, 3])
        >>> fastembed.Checkpoint(layer, optimizer).save(directory + "/training")
        >>> train(layer, optimizer, [5, 8])
        >>> again, other = start()
        >>> fastembed.Checkpoint(again, other).restore(directory + "/training")
        >>> train(again, other, [5, 8])
        >>> np.array_equal(again.embeddings, layer.embeddings)
        True
    """

    def __init__(self, layers, optimizer=None):
        if not isinstance(layers, dict):
            listed = layers if isinstance(layers, (list, tuple)) else [layers]
            layers = {str(number): layer for number, layer in enumerate(listed)}
        for name, layer in layers.items():
            if not isinstance(name, str):
                raise TypeError(f"`layers` must have strings as names. Received: {name!r}")
            _check_layer(layer)
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"`optimizer` must be an Optimizer or None. Received: optimizer={optimizer!r}")
        self.layers, self.optimizer = dict(layers), optimizer

    def save(self, path):
        """Writes all of it to a directory; training in other threads waits meanwhile, and none of its bits change.

        Args:
            path: the directory to make; a checkpoint that is there is replaced at one stroke, anything else is refused.

        Raises:
            FileExistsError: `path` is there and is no checkpoint.
            ValueError: the optimizer trains a variable that is not in `layers`; or a table is trained in this very
                directory, or by another optimizer with untouched="catch_up".
            OSError: the disk is full, ...; `path` is then as it was.
        """
        with saving.new_directory(path, _FILE) as beside:
            variables = self._variables()
            saving.refuse_trained_in(path, map(_memory, variables.values()))
            with self._held(variables):
                counters, known = self._known(variables)
                names = {id(variable): name for name, variable in variables.items()}
                about = {"format": _FORMAT, "fastembed": __version__, "optimizer": self._described(), "variables": {}}
                if self.optimizer is not None:
                    about["optimizer"] |= {"counters": counters, "trains": [names[key] for key in known]}
                for number, (name, variable) in enumerate(variables.items()):
                    numbers, arrays = _snapshot(variable, known.get(id(variable)))
                    kinds = {what: _kind(array) for what, array in arrays.items()}
                    kinds["weights"] = [_dtype_name(arrays["weights"]), *variable.shape]  # codes of any number
                    one = {"shape": list(variable.shape), "arrays": kinds, "numbers": numbers}
                    about["variables"][name] = one
                    for what, array in arrays.items():
                        saving.write_array(os.path.join(beside, f"{number}.{what}.npy"), array)
            saving.write_json(os.path.join(beside, _FILE), about)

    def restore(self, path):
        """Brings the layers and the optimizer to where they were; a layer that is not built is built.

        Tables, arrays and the optimizer's state keep their memory. A learning rate that is a number becomes the saved
        one; a schedule stays the optimizer's own.

        Args:
            path: what `save` was given.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, or of other layers, shapes, or an optimizer of another class or with other
                arguments (but for `learning_rate` and `name`). Nothing has changed then.
        """
        path = os.path.abspath(os.fspath(path))
        about, saved = saving.of_one_save(path, lambda: _open(path))
        with self._held({}), _damage(path):
            self._check_optimizer(about["optimizer"])
        variables = self._variables()
        with self._held(variables):
            counters, known = self._known(variables)
            with _damage(path):
                _check_variables(about["variables"], variables)
                restored = self._restored(about, saved, variables, counters)
            for name, variable in variables.items():
                _fill_variable(variable, saved[name], known.get(id(variable)))
            for name, kept in restored.items():
                for what, array in kept.memory().items():
                    _copy(array, saved[name].pop(what))
            if self.optimizer is not None:
                self.optimizer.restore(about["optimizer"]["counters"], [*restored.values()])

    def _variables(self):
        """Every weight once, by name. Layers are built, if they are not yet."""
        variables, seen = {}, set()
        for name, layer in self.layers.items():
            weights = [(name, layer)]
            if not isinstance(layer, (Table, np.ndarray)):
                layer.build()
                weights = [(f"{name}/{weight.name}", weight) for weight in layer.weights]
            for full_name, weight in weights:
                if full_name in variables:
                    raise ValueError(f"`layers` must have one weight of each name. Received: two of {full_name!r}")
                if id(weight) not in seen:
                    variables[full_name] = weight
                    seen.add(id(weight))
        return variables

    def _held(self, variables):
        """Inside, no other thread changes the variables."""
        return (locked if self.optimizer is None else self.optimizer.held)(variables.values())

    def _known(self, variables):
        """The optimizer's counters, and what it keeps of variables, by their ids."""
        if self.optimizer is None:
            return None, {}
        counters, known = self.optimizer.snapshot()
        ids = {id(variable) for variable in variables.values()}
        for kept in known:
            if id(kept.variable) not in ids:
                raise ValueError(
                    f"`layers` must have all variables of the optimizer. Received: {_describe(kept.variable)} not "
                    f"among {list(variables)}"
                )
        return counters, {id(kept.variable): kept for kept in known}

    def _described(self):
        """The optimizer's class and arguments as JSON holds them, or None."""
        if self.optimizer is None:
            return None
        settings = json.loads(json.dumps(self.optimizer.settings()))
        return {"class_name": type(self.optimizer).__name__, "settings": settings}

    def _check_optimizer(self, saved):
        """Raises where the saved optimizer is another one."""
        ours = self._described()
        names = [described and described["class_name"] for described in (saved, ours)]
        if names[0] != names[1]:
            raise ValueError(f"`optimizer` must be of the class that was saved, {names[0]}. Received: {names[1]}")
        if saved is None:
            return
        saved, ours = saved["settings"], ours["settings"]
        pairs = {name: (ours.get(name, "nothing"), saved.get(name, "nothing")) for name in {**ours, **saved}}
        other = [f"{name}={now!r} (saved: {then!r})" for name, (now, then) in pairs.items() if now != then]
        if other:
            raise ValueError(f"`optimizer` must have the arguments that it had. Received: {', '.join(other)}")

    def _restored(self, about, saved, variables, counters):
        """What the optimizer is to keep of each variable, by name; everything is checked here."""
        for name, variable in variables.items():
            _check_array(name, "weights", saved[name]["weights"], _memory(variable))
            if not _memory(variable).flags.writeable:
                raise ValueError(f"`layers` must be writeable. Received: {_describe(variable)}")
            if "scales" in saved[name]:
                if not isinstance(variable, Table):
                    raise ValueError(f"{name} must be a Table, as it was. Received: {_describe(variable)}")
                _check_array(name, "scales", saved[name]["scales"], np.empty(len(variable), variable.rows.real))
        if self.optimizer is None:
            return {}
        if not _same_form(about["optimizer"]["counters"], counters):
            raise ValueError(f"the counters must be those of {self.optimizer!r}. Received: another form")
        restored = {}
        for name in about["optimizer"]["trains"]:
            kept = self.optimizer.restored(variables[name], about["variables"][name]["numbers"], saved[name])
            for what, array in kept.memory().items():
                _check_array(name, what, saved[name][what], array)
            restored[name] = kept
        return restored


def _check_layer(layer):
    """A layer, a table, or an array that can be trained."""
    if isinstance(layer, np.ndarray):
        if dtypes.name_of(layer.dtype)[0] not in dtypes.PLAIN or not layer.flags.c_contiguous:
            raise ValueError(
                f"`layers` must have arrays that are {' or '.join(dtypes.PLAIN)}, and C-contiguous. Received: "
                f"{_describe(layer)}, strides {layer.strides}"
            )
    elif not isinstance(layer, Table) and not (hasattr(layer, "weights") and hasattr(layer, "build")):
        raise TypeError(f"`layers` must be layers, tables or NumPy arrays. Received: {layer!r}")


def _memory(variable):
    return variable.memory if isinstance(variable, Table) else variable


def _dtype_name(array):
    """A storage dtype's name, or NumPy's."""
    return dtypes.name_of(array.dtype)[0] or array.dtype.name


def _kind(array):
    """The name of an array's dtype, and its shape, that of codes with the number of them."""
    elements = () if array.dtype.names is None else (dtypes.name_of(array.dtype)[1],)
    return [_dtype_name(array), *array.shape, *elements]


def _copy(array, saved):
    """Copies a saved array; bfloat16, which may appear in two ways, as bits."""
    if _dtype_name(array) == "bfloat16":
        array, saved = array.view(np.uint16), saved.view(np.uint16)
    np.copyto(array, saved)


def _describe(variable):
    return repr(variable) if isinstance(variable, Table) else f"an array {variable.dtype} of shape {variable.shape}"


def _snapshot(variable, kept):
    """(numbers, arrays) of a variable and of what the optimizer keeps of it, which may be None."""
    debt = getattr(variable, "debt", None)
    if debt is not None and debt is not kept:
        raise ValueError(
            f"`optimizer` must be the one that lets rows of {variable!r} catch up. Received: another one, or None"
        )
    arrays, numbers = {"weights": _memory(variable)}, None
    if getattr(variable, "row_scales", None) is not None:
        arrays["scales"] = variable.row_scales
    if kept is not None:
        numbers, more = kept.snapshot()
        arrays.update({**kept.memory(), **more})
    return numbers, arrays


@contextlib.contextmanager
def _damage(path):
    """Whatever goes wrong inside is a ValueError that says the path."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError, UnicodeError) as error:
        raise ValueError(f"`path` must hold a whole checkpoint. Received: path={path!r}: {error!r}") from error


def _open(path):
    """What checkpoint.json says, and the arrays by the names of variables, as memory maps."""
    with open(os.path.join(path, _FILE), encoding="utf-8") as file, _damage(path):
        try:
            about, saved = json.loads(file.read()), {}
        except json.JSONDecodeError as error:
            raise TypeError(f"{_FILE}: {error}") from error
        if about["format"] != _FORMAT:
            raise ValueError(f"`path` must hold a checkpoint of format {_FORMAT}. Received: {about['format']!r}")
        for number, (name, one) in enumerate(about["variables"].items()):
            saved[name] = {}
            for what, (dtype, *shape) in one["arrays"].items():
                if dtype not in _DTYPES:
                    raise ValueError(f"an array of a checkpoint must be one of {_DTYPES}. Received: {dtype!r}")
                file_name, shape = os.path.join(path, f"{number}.{what}.npy"), tuple(shape)
                if dtype in dtypes.STORAGE:
                    saved[name][what] = open_rows(file_name, "r", shape, dtype)
                else:
                    saved[name][what] = open_npy(file_name, "r", shape, np.dtype(dtype))
    return about, saved


def _check_variables(saved, variables):
    """Raises unless the saved variables are these, by name and shape."""
    if saved.keys() != variables.keys():
        raise ValueError(f"`layers` must have the weights that were saved, {list(saved)}. Received: {list(variables)}")
    for name, variable in variables.items():
        if tuple(saved[name]["shape"]) != tuple(variable.shape):
            raise ValueError(
                f"`layers` must have the shapes that were saved, {name}: {tuple(saved[name]['shape'])}. Received: "
                f"{_describe(variable)}"
            )


def _check_array(name, what, saved, array):
    """Raises unless a saved array can be copied into this one."""
    same = _dtype_name(saved) == _dtype_name(array) and (array.dtype.names is None or saved.dtype == array.dtype)
    if saved.shape != array.shape or not same:
        raise ValueError(
            f"{what!r} of {name} must be {_dtype_name(array)} of shape {array.shape}. Received: {_dtype_name(saved)} "
            f"of shape {saved.shape}"
        )


def _same_form(saved, ours):
    """Whether counters have the names of ours, and are such numbers."""
    if saved.keys() != ours.keys():
        return False
    for name, value in saved.items():
        if isinstance(ours[name], dict):
            good = _same_form(value, ours[name])
        elif name == "learning_rate":  # None: it was a schedule
            good = value is None or (type(value) is float and value >= 0)
        else:
            kinds = (int, float) if name == "scale" else (int,)
            good = type(value) in kinds and 0 <= value < 2**63
        if not good:
            return False
    return True


def _fill_variable(variable, saved, kept):
    """Copies the saved weights into a variable, and the learning rates of its rows."""
    debt = getattr(variable, "debt", None)
    if debt is not None and debt is not kept:  # of another optimizer: its steps were for other rows
        debt.pay(None)
        debt.forget(None)
        variable.debt = None
    _copy(_memory(variable), saved.pop("weights"))  # a file is mapped no longer than it is needed
    if not isinstance(variable, Table):
        return
    if "scales" not in saved:
        variable.row_scales = None
    elif variable.row_scales is None:
        variable.row_scales = np.array(saved["scales"])
    else:
        np.copyto(variable.row_scales, saved["scales"])
