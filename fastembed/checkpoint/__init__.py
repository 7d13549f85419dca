"""Checkpoint: a training on disk, with all that it needs to go on as if it had never stopped.

May import: checkpoint.chain, checkpoint.extra, checkpoint.series, checkpoint.snapshot, checkpoint.trained, saving,
table, optimizers.base, initializers.base. Do not break: training that goes on from a checkpoint gives the bits of
training that never stopped. So nothing is rounded, and no row catches up on the way: a table is written as it lies in
memory, beside the steps that its rows have not taken yet.

How it lies on disk: series.py says it.
"""

import contextlib
import os
from typing import NamedTuple

import numpy as np

from fastembed import saving
from fastembed.checkpoint import series, trained
from fastembed.checkpoint.chain import ROWS, compact, fill, open_chain, verify
from fastembed.checkpoint.extra import as_json, from_json, joined_extra, split_extra
from fastembed.checkpoint.series import damage
from fastembed.checkpoint.snapshot import Background, Moment, Touched
from fastembed.initializers.base import random_state, set_random_state
from fastembed.optimizers.base import Optimizer
from fastembed.table import Table, locked

__all__ = ["Checkpoint", "verify"]


class _Last(NamedTuple):
    """What was last saved to a path, or restored from it: its identity, and of each variable the kinds of the arrays
    ROWS."""

    identity: list
    kinds: dict


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
            trained.check_layer(layer)
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"`optimizer` must be an Optimizer or None. Received: optimizer={optimizer!r}")
        self.layers, self.optimizer = dict(layers), optimizer
        self._last = {}  # _Last by path
        self._touched = {}  # Touched by path and name of the variable
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
                `with table.lock: table.changing(rows)` before it. For deltas to come, each step notes its rows from the
                first save on, a twentieth of its time.
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
        about["extra"], extra_arrays = split_extra(extra)
        self._finish()
        path = os.path.abspath(os.fspath(path))
        variables = self._variables()
        saving.refuse_trained_in(path, map(trained.memory, variables.values()))
        with contextlib.ExitStack() as stack:
            new = stack.enter_context(series.NewSave(path))
            moment = stack.enter_context(Moment(live=not wait))

            def write():
                files = moment.write(progress)
                entry = new.commit({**about, "files": files}, after if is_delta else None, keep)
                self._last[path] = _Last(series.identity(entry), kinds)

            with self._held(variables):
                last = self._last.get(path)
                after = series.find(new.saves, last.identity) if delta and last is not None else None
                kinds = self._fill(moment, about, path, variables, last if after else None)
                is_delta = any(one["after"] for one in about["variables"].values())
                moment.add_alone({f"extra.{place}": array for place, array in enumerate(extra_arrays.values())})
                moment.begin(new.folder)
                if wait:
                    write()
            if wait:
                return None
            self._background = Background(write, stack.pop_all())
            return self._background

    def _fill(self, moment, about, path, variables, last):
        """Puts all variables into a moment, and into what save.json says. last: what a delta follows, or None. Returns
        the kinds of arrays, for _Last."""
        counters, known = self._known(variables)
        names = {id(variable): name for name, variable in variables.items()}
        about |= {"random": as_json(random_state()), "optimizer": self._described(), "variables": {}}
        if self.optimizer is not None:
            about["optimizer"] |= {"counters": counters, "trains": [names[key] for key in known]}
        kinds = {}
        delta = last is not None and list(last.kinds) == list(variables)
        for place, (name, variable) in enumerate(variables.items()):
            numbers, arrays = trained.snapshot(variable, known.get(id(variable)))
            of_array = {what: trained.kind(array) for what, array in arrays.items()}
            of_array["weights"] = [trained.dtype_name(arrays["weights"]), *variable.shape]  # codes of any number
            one = {"shape": list(variable.shape), "table": isinstance(variable, Table), "rows": None, "after": False}
            one["initial"] = trained.initial(variable)
            about["variables"][name] = {**one, "arrays": of_array, "numbers": numbers}
            kinds[name] = {what: of_array[what] for what in ROWS if what in of_array}
            if isinstance(variable, Table):
                rows_u, lazy = moment.take(self._touched_of(path, name, variable)), variable.lazy
                if not (delta and kinds[name] == last.kinds[name]):
                    rows_u = None
                about["variables"][name]["after"] = rows_u is not None
                if rows_u is None and lazy is not None:
                    rows_u = lazy.made_rows()
                if rows_u is not None:
                    about["variables"][name]["rows"] = len(rows_u)
                    moment.add_alone({f"{place}.rows": rows_u})
                by_rows = {f"{place}.{what}": arrays.pop(what) for what in ROWS if what in arrays}
                lazies = {f"{place}.weights": lazy, f"{place}.state": getattr(known.get(id(variable)), "lazy", None)}
                moment.add_table(variable, by_rows, rows_u, lazies)
            moment.add_alone({f"{place}.{what}": array for what, array in arrays.items()})
        return kinds

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
            the `extra` of that save, or None; generators are new ones with the state of the old.

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
        chain = open_chain(path, number)
        about = chain.about
        with self._held({}), damage(path):
            self._check_optimizer(about["optimizer"])
        variables = self._variables()
        with self._held(variables):
            counters, known = self._known(variables)
            with damage(path):
                trained.check_variables(about["variables"], variables)
                restored = self._restored(about, chain.arrays, variables, counters)
                random, extra = from_json(about["random"]), joined_extra(chain)
            into = []
            for name, variable in variables.items():
                kept = restored.get(name)
                arrays = {"weights": trained.memory(variable), **(kept.memory() if kept is not None else {})}
                scales_v = trained.prepare(variable, known.get(id(variable)), "scales" in chain.arrays[name])
                if scales_v is not None:
                    arrays["scales"] = scales_v
                into += [(chain.arrays[name][what], array) for what, array in arrays.items()]
                if about["variables"][name]["initial"] is not None:
                    trained.begin_again(variable, kept, arrays.values(), chain.arrays[name]["weights"].rows())
            fill(into, progress)
            if self.optimizer is not None:
                self.optimizer.restore(about["optimizer"]["counters"], [*restored.values()])
            if random is not None:
                set_random_state(random)
            self._continue(path, chain, variables)
        return extra

    def _continue(self, path, chain, variables):
        """Deltas go on from this save."""
        kinds = {}
        for name, one in chain.about["variables"].items():
            kinds[name] = {what: one["arrays"][what] for what in ROWS if what in one["arrays"]}
            if isinstance(variables[name], Table):
                self._touched_of(path, name, variables[name]).clear()
        self._last[path] = _Last(series.identity(chain.entry), kinds)

    def _touched_of(self, path, name, table):
        """Which rows of a table are not in the last save to a path."""
        by_name = self._touched.setdefault(path, {})
        if name not in by_name or not by_name[name].of(table):
            by_name[name] = Touched(table, self)
        return by_name[name]

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
        compact(path, _check_keep(keep), progress)

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
                    "`layers` must have all variables of the optimizer. Received: "
                    f"{trained.describe(kept.variable)} not among {list(variables)}"
                )
        return counters, {id(kept.variable): kept for kept in known}

    def _described(self):
        """The optimizer's class and arguments as JSON holds them, or None."""
        return None if self.optimizer is None else self.optimizer.described()

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
            trained.check_array(name, "weights", saved[name]["weights"], trained.memory(variable))
            if not trained.memory(variable).flags.writeable:
                raise ValueError(f"`layers` must be writeable. Received: {trained.describe(variable)}")
            if "scales" in saved[name]:
                if not isinstance(variable, Table):
                    raise ValueError(f"{name} must be a Table, as it was. Received: {trained.describe(variable)}")
                trained.check_array(name, "scales", saved[name]["scales"], np.empty(len(variable), variable.rows.real))
        if self.optimizer is None:
            return {}
        if not trained.same_form(about["optimizer"]["counters"], counters):
            raise ValueError(f"the counters must be those of {self.optimizer!r}. Received: another form")
        restored = {}
        for name in about["optimizer"]["trains"]:
            given = {what: array.load() for what, array in saved[name].items() if what not in ROWS}
            if "last" in saved[name]:
                given["last"] = saved[name]["last"].extremes()
            kept = self.optimizer.restored(variables[name], about["variables"][name]["numbers"], given)
            for what, array in kept.memory().items():
                trained.check_array(name, what, saved[name][what], array)
            restored[name] = kept
        return restored


def _check_keep(keep):
    if type(keep) is not int or keep < 1:
        raise ValueError(f"`keep` must be a positive int. Received: keep={keep!r}")
    return keep
