"""What is trained, as a checkpoint sees it: its arrays, their kinds, and whether those that were saved fit.

May import: checkpoint.files, dtypes, table. Do not break: nothing is changed here, but by `prepare` and `begin_again`.
"""

import math
import zlib

import numpy as np

from fastembed import dtypes
from fastembed.checkpoint.files import octets_of
from fastembed.table import Table


def check_layer(layer):
    """Raises unless it is a layer, a table, or an array that can be trained."""
    if isinstance(layer, np.ndarray):
        if dtypes.name_of(layer.dtype)[0] not in dtypes.PLAIN or not layer.flags.c_contiguous:
            raise ValueError(
                f"`layers` must have arrays that are {' or '.join(dtypes.PLAIN)}, and C-contiguous. Received: "
                f"{describe(layer)}, strides {layer.strides}"
            )
    elif not isinstance(layer, Table) and not (hasattr(layer, "weights") and hasattr(layer, "build")):
        raise TypeError(f"`layers` must be layers, tables or NumPy arrays. Received: {layer!r}")


def memory(variable):
    """The array itself."""
    return variable.memory if isinstance(variable, Table) else variable


def dtype_name(array):
    """A storage dtype's name, or NumPy's."""
    return dtypes.name_of(array.dtype)[0] or array.dtype.name


def kind(array):
    """The name of an array's dtype, and its shape, that of codes with the number of them."""
    elements = () if array.dtype.names is None else (dtypes.name_of(array.dtype)[1],)
    return [dtype_name(array), *array.shape, *elements]


def describe(variable):
    """For messages."""
    return repr(variable) if isinstance(variable, Table) else f"an array {variable.dtype} of shape {variable.shape}"


def snapshot(variable, kept):
    """(numbers, arrays) of a variable and of what the optimizer keeps of it, which may be None."""
    debt = getattr(variable, "debt", None)
    if debt is not None and debt is not kept:
        raise ValueError(
            f"`optimizer` must be the one that lets rows of {variable!r} catch up. Received: another one, or None"
        )
    arrays, numbers = {"weights": memory(variable)}, None
    if getattr(variable, "row_scales", None) is not None:
        arrays["scales"] = variable.row_scales
    if kept is not None:
        numbers, more = kept.snapshot()
        arrays.update({**kept.memory(), **more})
    return numbers, arrays


def check_variables(saved, variables):
    """Raises unless the saved variables are these, by name and shape."""
    if saved.keys() != variables.keys():
        raise ValueError(f"`layers` must have the weights that were saved, {list(saved)}. Received: {list(variables)}")
    for name, variable in variables.items():
        if tuple(saved[name]["shape"]) != tuple(variable.shape):
            raise ValueError(
                f"`layers` must have the shapes that were saved, {name}: {tuple(saved[name]['shape'])}. Received: "
                f"{describe(variable)}"
            )
        was, now = saved[name]["initial"], initial(variable)
        if was != now:
            rule = "have the initializer, and its seed, that it had"
            if None in (was, now):
                rule = "be lazy, as it was" if now is None else "not be lazy, as it was not"
            raise ValueError(f"{name} must {rule}. Received: {describe(variable)}")


def initial(variable):
    """A checksum of what rows of a lazy table begin with, those of its ends; None: it is not lazy."""
    lazy = getattr(variable, "lazy", None)
    return None if lazy is None else zlib.crc32(lazy.initial(np.unique([0, len(variable) - 1])))


def begin_again(table, kept, arrays, rows_u):
    """Makes a lazy table, and the arrays with what is kept of it, what they were before the first row was made; but
    these rows, which are about to be read, count as made."""
    made_u = table.lazy.made_rows()
    for array in arrays:
        if array.shape[:1] == table.shape[:1]:
            octets_of(array, len(table))[made_u] = 0
    for lazy in (table.lazy, getattr(kept, "lazy", None)):
        if lazy is not None:
            lazy.forget()
            lazy.mark(rows_u)


def check_array(name, what, saved, array):
    """Raises unless a saved array can be copied into this one."""
    same = dtype_name(saved) == dtype_name(array) and (array.dtype.names is None or saved.dtype == array.dtype)
    if saved.shape != array.shape or not same:
        raise ValueError(
            f"{what!r} of {name} must be {dtype_name(array)} of shape {array.shape}. Received: {dtype_name(saved)} "
            f"of shape {saved.shape}"
        )


def same_form(saved, ours):
    """Whether counters have the names of ours, and are such numbers."""
    if saved.keys() != ours.keys():
        return False
    for name, value in saved.items():
        if isinstance(ours[name], dict):
            good = same_form(value, ours[name])
        elif name == "learning_rate":  # None: it was a schedule
            good = value is None or (type(value) is float and value >= 0)
        elif name == "scale":
            good = type(value) in (int, float) and 0 < value < math.inf
        else:
            good = type(value) is int and 0 <= value < 2**63
        if not good:
            return False
    return True


def prepare(variable, kept, scaled):
    """A variable is about to be overwritten. Returns where the learning rates of its rows go, or None."""
    if not isinstance(variable, Table):
        return None
    variable.changing(but_unmade=True)
    if variable.debt is not None and variable.debt is not kept:  # of another optimizer: its steps were for other rows
        variable.debt.pay(None)
        variable.debt.forget(None)
        variable.debt = None
    if not scaled:
        variable.row_scales = None
    elif variable.row_scales is None:
        variable.row_scales = np.ones(len(variable), variable.rows.real)
    return variable.row_scales
