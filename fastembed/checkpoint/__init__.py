"""Checkpoint: a training on disk, with all that it needs to go on as if it had never stopped.

May import: checkpoint.files, checkpoint.series, checkpoint.snapshot, saving, table, optimizers.base, initializers.base,
dtypes. Do not break: training that goes on from a checkpoint gives the bits of training that never stopped. So nothing
is rounded, and no row catches up on the way: a table is written as it lies in memory, beside the steps that its rows
have not taken yet.

How it lies on disk: series.py.
"""

import contextlib
import json
import os
import zlib
from typing import NamedTuple

import numpy as np

from fastembed import dtypes, saving
from fastembed.checkpoint import series
from fastembed.checkpoint.files import octets_of
from fastembed.checkpoint.series import ROWS, damage, verify
from fastembed.checkpoint.snapshot import Background, Moment, Touched
from fastembed.initializers.base import random_state, set_random_state
from fastembed.optimizers.base import Optimizer
from fastembed.table import Table, locked

__all__ = ["Checkpoint", "verify"]


class _Last(NamedTuple):
    """What was last saved to a path, or restored from it: its identity; of each variable the kinds of the arrays ROWS,
    and the Touched of its table."""

    identity: list
    kinds: dict
    touched: dict


class Checkpoint:
    """Saves a training to disk, and restores it: training goes on with the same bits as if it had never stopped.

    Args:
        layers: what is trained: a layer, a `Table` or a NumPy array; a list of them; or a dict of them by
            names, which `restore` then goes by. All weights of a layer belong to it, those of LoRA too.
        optimizer: the Optimizer that trains them, or None.

    Saved are the weights, the learning rates of single rows (`Table.freeze`), the state of `set_random_seed`, and of
    the optimizer the state, the averages, the counters, gradients that wait for the next step, and the learning rate if
    it is a number. Whatever else the training follows from is yours to make again, the objects with the arguments that
    they had, or to save in `extra`.

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
        self._last = {}  # _Last by path
        self._background = None

    def save(self, path, delta=False, *, keep=1, extra=None, wait=True, progress=None):
        """Writes all of it to a directory, or what has changed since the last time; nothing of the training changes.

        The files are written beside, each chunk with a checksum, and are forced to disk before they count: whatever
        happens, `path` has the earlier saves or the new one. It takes the memory of a chunk (16 MB) for each thread.

        Args:
            path: the directory to make; to a checkpoint that is there a save is added, anything else is refused.
            delta: True writes of tables, their state, ... only the rows that were trained, assigned or caught up since
                this object's last `save` to `path`, or `restore` from it; small arrays, and variables that are NumPy
                arrays, are written whole. So is a table of which more than half has changed or which has other arrays
                than before; without such a save in `path`, all is. Who writes into `table.numpy()` says so by
                `with table.lock: table.changing(rows)` before it.
            keep: how many saves remain in `path`, with the saves that they follow.
            extra: dict of what else you need: JSON values, NumPy arrays, `np.random.Generator`s.
            wait: True: training in other threads waits until all is on disk. False: only until the moment is held (a
                copy of what is small); a thread writes it, and what changes before it is written takes memory.
            progress: True draws a bar with tqdm; None does so where there is a terminal and it takes over two seconds.

        Returns:
            None; with wait=False an object whose `wait()` returns when the save is on disk, or raises what went wrong;
            so does the next `save`, which waits for it.

        Raises:
            FileExistsError: `path` is there and is no checkpoint.
            ValueError: the optimizer trains a variable that is not in `layers`; or a table is trained in this very
                directory, or by another optimizer with untouched="catch_up".
            TypeError: `extra` has something else.
            BlockingIOError: another process is saving there. OSError: the disk is full, ...; `path` is then as it was.

        Example:
            >>> table, sgd = fastembed.Table((1000, 4)), fastembed.optimizers.SGD()
            >>> checkpoint = fastembed.Checkpoint(table, sgd)
            >>> for step in range(3):
            ...     gradient = fastembed.IndexedSlices(np.ones((1, 4)), [step], (1000, 4))
            ...     sgd.apply([gradient], [table])
            ...     checkpoint.save(directory + "/training", delta=step > 0, extra={"step": step})
            >>> np.load(directory + "/training/00000003/0.rows.npy")
            array([2])
            >>> checkpoint.restore(directory + "/training")
            {'step': 2}
        """
        keep, about = _check_keep(keep), {}
        about["extra"], extra_arrays = _split_extra(extra)
        self._finish()
        path = os.path.abspath(os.fspath(path))
        variables = self._variables()
        saving.refuse_trained_in(path, map(_memory, variables.values()))
        with contextlib.ExitStack() as stack:
            new = stack.enter_context(series.NewSave(path))
            moment = stack.enter_context(Moment(live=not wait))

            def write():
                files = moment.write(progress)
                entry = new.commit({**about, "files": files}, after if is_delta else None, keep)
                self._last[path] = _Last(series.identity(entry), kinds, touched)

            with self._held(variables):
                last = self._last.get(path)
                after = series.find(new.saves, last.identity) if delta and last is not None else None
                kinds, touched = self._fill(moment, about, variables, last, after is not None)
                is_delta = any(one["after"] for one in about["variables"].values())
                moment.add_alone({f"extra.{place}": array for place, array in enumerate(extra_arrays.values())})
                moment.begin(new.folder)
                if wait:
                    write()
            if wait:
                return None
            self._background = Background(write, stack.pop_all())
            return self._background

    def _fill(self, moment, about, variables, last, delta):
        """Puts all variables into a moment, and into what save.json says. Returns the kinds of arrays, and the Touched,
        for _Last."""
        counters, known = self._known(variables)
        names = {id(variable): name for name, variable in variables.items()}
        about |= {"random": _as_json(random_state()), "optimizer": self._described(), "variables": {}}
        if self.optimizer is not None:
            about["optimizer"] |= {"counters": counters, "trains": [names[key] for key in known]}
        kinds, touched = {}, {}
        delta = delta and list(last.kinds) == list(variables)
        for place, (name, variable) in enumerate(variables.items()):
            numbers, arrays = _snapshot(variable, known.get(id(variable)))
            of_array = {what: _kind(array) for what, array in arrays.items()}
            of_array["weights"] = [_dtype_name(arrays["weights"]), *variable.shape]  # codes of any number
            one = {"shape": list(variable.shape), "table": isinstance(variable, Table), "rows": None, "after": False}
            one["initial"] = _initial(variable)
            about["variables"][name] = {**one, "arrays": of_array, "numbers": numbers}
            kinds[name] = {what: of_array[what] for what in ROWS if what in of_array}
            if isinstance(variable, Table):
                touched[name] = last and last.touched.get(name)
                watched = touched[name] is not None and touched[name].of(variable)
                if not watched:
                    touched[name] = Touched(variable, self)
                rows_u = moment.take(touched[name])
                lazy, follows = variable.lazy, delta and watched and kinds[name] == last.kinds[name]
                if follows and 2 * len(rows_u) <= len(variable):
                    about["variables"][name]["after"] = True
                else:
                    rows_u = None if lazy is None else lazy.made_rows()
                if rows_u is not None:
                    about["variables"][name]["rows"] = len(rows_u)
                    moment.add_alone({f"{place}.rows": rows_u})
                by_rows = {f"{place}.{what}": arrays.pop(what) for what in ROWS if what in arrays}
                lazies = {f"{place}.weights": lazy, f"{place}.state": getattr(known.get(id(variable)), "lazy", None)}
                moment.add_table(variable, by_rows, rows_u, lazies)
            moment.add_alone({f"{place}.{what}": array for what, array in arrays.items()})
        return kinds, touched

    def _finish(self):
        """Waits for the save in background; raises what nobody was told of."""
        background, self._background = self._background, None
        if background is not None and not background.told:
            background.wait()

    def restore(self, path, number=None, *, progress=None):
        """Brings the layers and the optimizer to where they were; a layer that is not built is built.

        Tables, arrays and the optimizer's state keep their memory, and it takes that of a chunk (16 MB) beside. A
        learning rate that is a number becomes the saved one; a schedule stays the optimizer's own. Deltas of this
        object then go on from here.

        Args:
            path: what `save` was given.
            number: one of `Checkpoint.saves(path)`; None: the last.
            progress: True draws a bar with tqdm; None does so where there is a terminal and it takes over two seconds.

        Returns:
            dict, the `extra` of that save; generators are new ones with the state of the old.

        Raises:
            FileNotFoundError: there is no checkpoint, or a file of it is missing.
            ValueError: it is damaged, or of other layers, shapes, or an optimizer of another class or with other
                arguments (but for `learning_rate` and `name`). Nothing has changed then; unless bytes of large arrays
                are not those that were written: the error says so, and all is to be restored from another save.
        """
        self._finish()
        path = os.path.abspath(os.fspath(path))
        return series.of_one_list(path, lambda: self._restore(path, number, progress))

    def _restore(self, path, number, progress):
        chain = series.open_chain(path, number)
        about = chain.about
        with self._held({}), damage(path):
            self._check_optimizer(about["optimizer"])
        variables = self._variables()
        with self._held(variables):
            counters, known = self._known(variables)
            with damage(path):
                _check_variables(about["variables"], variables)
                restored = self._restored(about, chain.arrays, variables, counters)
                random, extra = _from_json(about["random"]), _joined_extra(chain)
            into = []
            for name, variable in variables.items():
                kept = restored.get(name)
                arrays = {"weights": _memory(variable), **(kept.memory() if kept is not None else {})}
                scales_v = _prepare(variable, known.get(id(variable)), "scales" in chain.arrays[name])
                if scales_v is not None:
                    arrays["scales"] = scales_v
                into += [(chain.arrays[name][what], array) for what, array in arrays.items()]
                if about["variables"][name]["initial"] is not None:
                    _begin_again(variable, kept, arrays.values(), chain.arrays[name]["weights"])
            series.fill(into, progress)
            if self.optimizer is not None:
                self.optimizer.restore(about["optimizer"]["counters"], [*restored.values()])
            if random is not None:
                set_random_state(random)
            self._continue(path, chain, variables)
        return extra

    def _continue(self, path, chain, variables):
        """Deltas go on from this save."""
        kinds, touched, last = {}, {}, self._last.get(path)
        for name, one in chain.about["variables"].items():
            kinds[name] = {what: one["arrays"][what] for what in ROWS if what in one["arrays"]}
            if isinstance(variables[name], Table):
                old = last and last.touched.get(name)
                touched[name] = old if old is not None and old.of(variables[name]) else Touched(variables[name], self)
                touched[name].take()
        self._last[path] = _Last(series.identity(chain.entry), kinds, touched)

    @staticmethod
    def saves(path):
        """Returns the numbers of the saves that `restore` can be given, from the first to the last.

        Args:
            path: what `save` was given.

        Raises:
            FileNotFoundError: there is no checkpoint. ValueError: its list is damaged.

        Example:
            >>> checkpoint = fastembed.Checkpoint(fastembed.Table((10, 4)))
            >>> for _ in range(4):
            ...     checkpoint.save(directory + "/training", keep=2)
            >>> checkpoint.saves(directory + "/training")
            [3, 4]
        """
        return series.numbers(path)

    @staticmethod
    def compact(path, *, keep=1, progress=None):
        """Folds the last save and those that it follows into one, chunk by chunk; no layers are needed, and deltas go
        on from it. After an error `path` is as it was.

        Args:
            path: what `save` was given.
            keep: how many saves remain, with those that they follow.
            progress: True draws a bar with tqdm; None does so where there is a terminal and it takes over two seconds.

        Raises:
            FileNotFoundError, ValueError: there is no checkpoint, or it is damaged. OSError: the disk is full, ...

        Example:
            >>> table = fastembed.Table((1000, 4))
            >>> checkpoint = fastembed.Checkpoint(table)
            >>> checkpoint.save(directory + "/training")
            >>> checkpoint.save(directory + "/training", delta=True)
            >>> checkpoint.compact(directory + "/training")
            >>> checkpoint.saves(directory + "/training")
            [3]
        """
        series.compact(path, _check_keep(keep), progress)

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
            given = {what: array.load() for what, array in saved[name].items() if what not in ROWS}
            if "last" in saved[name]:
                given["last"] = saved[name]["last"].extremes()
            kept = self.optimizer.restored(variables[name], about["variables"][name]["numbers"], given)
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
        initial = saved[name]["initial"], _initial(variable)
        if initial[0] != initial[1]:
            rule = "have the initializer, and its seed, that it had"
            if None in initial:
                rule = "be lazy, as it was" if initial[1] is None else "not be lazy, as it was not"
            raise ValueError(f"{name} must {rule}. Received: {_describe(variable)}")


def _initial(variable):
    """A checksum of what rows of a lazy table begin with, those of its ends; None: it is not lazy."""
    lazy = getattr(variable, "lazy", None)
    return None if lazy is None else zlib.crc32(lazy.initial(np.unique([0, len(variable) - 1])))


def _begin_again(table, kept, arrays, saved):
    """Makes a lazy table, and what is kept of it, what it was before the first row was made, but for the rows in the
    Array `saved`, which are about to be read."""
    made_u = table.lazy.made_rows()
    for array in arrays:
        octets_of(array, len(table))[made_u] = 0
    for lazy in (table.lazy, getattr(kept, "lazy", None)):
        if lazy is not None:
            lazy.forget()
            lazy.mark(saved.rows())


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


def _prepare(variable, kept, scaled):
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


def _check_keep(keep):
    if type(keep) is not int or keep < 1:
        raise ValueError(f"`keep` must be a positive int. Received: keep={keep!r}")
    return keep


# ---- what else a training follows from: generators, small things of the user's ---------------------------------------

_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def _as_json(generator):
    """The state of a Generator, or None, as JSON."""

    def plain(thing):
        if isinstance(thing, dict):
            return {key: plain(value) for key, value in thing.items()}
        return thing.tolist() if isinstance(thing, (np.ndarray, np.generic)) else thing

    return None if generator is None else plain(generator.bit_generator.state)


def _from_json(state):
    """A new Generator of a state, or None."""
    if state is None:
        return None
    if state["bit_generator"] not in _GENERATORS:
        raise ValueError(f"a generator must be one of {_GENERATORS}. Received: {state['bit_generator']!r}")
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator


def _split_extra(extra):
    """(what save.json says of `extra`, its arrays by name)."""
    if extra is None:
        return None, {}
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise TypeError(f"`extra` must be a dict with strings as names. Received: extra={extra!r:.100}")
    said, arrays = {"json": {}, "generators": {}, "arrays": {}}, {}
    for name, value in extra.items():
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biufcmMSU":
                raise TypeError(f"`extra` must have arrays of numbers or strings. Received: {name!r} of {value.dtype}")
            arrays[name] = np.array(value, order="C")
            said["arrays"][name] = [arrays[name].dtype.str, *value.shape]
        elif isinstance(value, np.random.Generator):
            if type(value.bit_generator).__name__ not in _GENERATORS:
                raise TypeError(f"`extra` must have generators of {_GENERATORS}. Received: {name!r}: {value!r}")
            said["generators"][name] = _as_json(value)
        else:
            said["json"][name] = json.loads(json.dumps(value))
    return said, arrays


def _joined_extra(chain):
    """The `extra` of a save, as it was given."""
    said = chain.about["extra"]
    if said is None:
        return None
    generators = {name: _from_json(state) for name, state in said["generators"].items()}
    arrays = {name: stored.load() for name, stored in chain.extra.items()}
    return {**said["json"], **generators, **arrays}
