"""Table: the matrix of embeddings, and where it lives.

May import: capsules, carry, files, lazy, memory, ops, dtypes, threads. Do not break: `numpy()` is the memory itself,
never a copy, and it keeps its address until `resize`; whatever reads rows goes through `numpy`, `current` or `read`,
since rows may not be made yet and an optimizer may owe them steps; whatever changes them calls `changing` first.
"""

import contextlib
import functools
import os
import weakref

import numpy as np

from fastembed import capsules, dtypes, files, memory, ops
from fastembed.carry import Carry, run
from fastembed.lazy import Lazy, bits_of
from fastembed.threads import Lock, Whole


class Table:
    """A matrix of embeddings: one row for each id.

    Args:
        shape: (rows, dim), both positive ints.
        dtype: the storage dtype: "float32"; "float64"; "bfloat16" or "float16", of half the size; or "int8", "int4",
            "int2", which are for look-ups alone (`Embedding.quantize` makes them).
        path: None for memory; or a .npy file that is made if it is missing, and opened if it is there. Changes are in
            the file as soon as the system writes them, at the latest after `flush`.
        mmap_mode: how a file is opened: "r+" for training, by one writer at a time; "r" for look-ups, by any number of
            processes, which share its memory; "c" as "r", and changes stay in memory.
        lazy: False; or True for rows that take memory when they are first read or changed (in pages of 4 KB); or a
            function (values_ud, rows_u) that writes the initial values of rows of these numbers, instead of zeros.
            In a file, a second one beside it (PATH.made.npy) says which rows are made.
        name: str.
        trainable: False makes every update of the table a ValueError.
        constraint: what `assign` and updates enforce (see constraints.py), or None.

    Raises:
        ValueError, TypeError: wrong sizes or dtype; a file of another shape.
        MemoryError: the table does not fit. BlockingIOError: another writer has the file.

    A new table is zero. Updates of one table from several Python threads wait for each other (`lock`).

    Example:
        >>> table = fastembed.Table((1000, 16))
        >>> table.assign(np.ones((1000, 16), "float32"))
        >>> table[[3, 4]].shape, table.nbytes
        ((2, 16), 64000)
    """

    def __init__(
        self,
        shape,
        dtype="float32",
        path=None,
        *,
        mmap_mode="r+",
        lazy=False,
        name="embeddings",
        trainable=True,
        constraint=None,
    ):
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise ValueError(f"`shape` must be (rows, dim). Received: shape={shape!r}")
        shape = tuple(check_size(n, f"shape[{axis}]") for axis, n in enumerate(shape))
        storage = dtypes.storage(dtype)
        if mmap_mode not in files.MODES:
            raise ValueError(f"`mmap_mode` must be one of {list(files.MODES)}. Received: mmap_mode={mmap_mode!r}")
        about = {"name": name, "trainable": trainable, "constraint": constraint}
        if path is None:
            if not lazy:
                what = f"a table of {shape[0]:,} x {shape[1]:,} {storage}"
                memory.check_fits(shape[0] * ops.row_bytes(storage, shape[1]), what)
            array = ops.zeros(shape, storage, sparse=bool(lazy))
            made = ops.sparse_zeros((shape[0] + 7) // 8, np.uint8) if lazy else None
            self._set(array, shape[1], path, **about)
        else:
            with _locked_file(path, mmap_mode) as lock:
                made = _made_file(path, shape[0], mmap_mode, lazy)
                if lock is not None and not os.path.exists(path):
                    array = files.new_rows(path, shape, storage, sparse=True)
                else:  # who only reads a lazy table makes rows in memory of its own
                    array = files.open_rows(path, mmap_mode if made is None or lock else "c", shape, storage)
                self._set(array, shape[1], path, lock=lock, **about)
        if made is not None:
            self.lazy = Lazy(self._rows, lazy if callable(lazy) else _zeros, made)
            if path is not None and mmap_mode == "r":
                self._array = array.view()
                self._array.flags.writeable = False
                self._rows = ops.rows_of(self._array, dim=shape[1])

    @classmethod
    def new_file(cls, path, shape, dtype, fill, **about):
        """A table in a new file that `fill(table)` has filled before the file gets its name. The space is taken first.
        Raises OSError where there is too little, or another writer."""
        table = cls.__new__(cls)
        with _locked_file(path, "r+") as lock, files.new_file(path, forced=False) as beside:
            table._set(files.new_rows(beside, shape, dtype), shape[1], path, lock=lock, **about)
            fill(table)
        table._array.filename = os.path.abspath(path)
        return table

    @classmethod
    def wrap(cls, array, *, dim=None, path=None, **about):
        """A table on the memory of a C-contiguous array of a storage dtype; no copy. A read-only array gives look-ups
        only. dim: elements of a row, where the array does not say it (an odd number of int4 codes)."""
        table = cls.__new__(cls)
        table._set(array, dim, path, **about)
        return table

    def _set(self, array, dim, path, *, name="embeddings", trainable=True, constraint=None, lock=None):
        self._rows = ops.rows_of(array, "array", dim=dim)
        self._array = array
        self.path = None if path is None else os.fspath(path)
        self.name = name
        self.trainable = trainable
        if constraint is not None and not hasattr(constraint, "enforce"):
            raise TypeError(f"`constraint` must be one of fastembed.constraints or None. Received: {constraint!r}")
        self.constraint = constraint
        self.lock = Lock()
        self.row_scales = None  # (rows,): what the learning rate of each row is multiplied by; None: ones
        self.debt = None  # of an optimizer with untouched="catch_up": steps that rows have not taken yet
        self.watchers = []  # those who hear of changes; see changing()
        self.optimizers = weakref.WeakSet()  # those that have trained it: they keep something of each row
        self.lazy = None  # the rows that are not made yet
        self._file_lock = lock

    def __getattr__(self, name):
        if name not in ("_rows", "_array"):
            raise AttributeError(f"a Table has no attribute {name!r}", name=name, obj=self)
        with self.lock:  # resize() has them
            return self.__dict__[name]

    @property
    def shape(self):
        """(rows, dim)"""
        return self._rows.shape

    @property
    def storage(self):
        """The storage dtype's name."""
        return self._rows.storage

    @property
    def dtype(self):
        """The NumPy dtype of `numpy()`; fastembed.dtypes says how each storage dtype appears."""
        return self._array.dtype

    @property
    def nbytes(self):
        """The bytes of the rows."""
        return self._array.nbytes

    @property
    def memory(self):
        """The array as it is: rows may not be made yet, or have steps to take that an optimizer owes them."""
        return self._array

    @property
    def rows(self):
        """The same as `ops.Rows`."""
        return self._rows

    def numpy(self):
        """Returns the table's own memory: an array (rows, dim), or (rows,) of int8, int4, int2; writing to it writes to
        the table. All rows are up to date at this moment."""
        self.current(None)
        return self._array

    def to_float32(self, rows=slice(None)):
        """Returns rows (a slice; None: all) as float32 (rows, dim): a new array, or of a float32 table a view."""
        return self.to_real(rows).astype(np.float32, copy=False)

    def to_real(self, rows=slice(None)):
        """The same as the numbers that look-ups give: those of a float64 table as float64, a view."""
        return self._decoded(rows)

    def _decoded(self, rows):
        if self.lazy is None:
            return ops.decode(self.current(None), rows)
        self._pay(None)
        return ops.decode(ops.Rows(self.read(rows), self.storage, self.shape[1]))

    def read(self, rows):
        """The bytes of a slice of rows, uint8 (n, bytes), as they lie in memory; of a lazy table those that are not
        made as if they were. Rows that have steps to take have not taken them."""
        if self.lazy is not None:
            with self.lock:
                if self.lazy is not None:  # another thread may have ended it
                    return self.lazy.read(rows)
        return self._rows.octets_vb[rows]

    def pieces(self):
        """Yields the bytes of all rows as look-ups see them, in chunks of some megabytes; a lazy table stays lazy."""
        self._pay(None)
        for block in ops.blocks(self._rows):
            yield memoryview(self.read(block).reshape(-1))

    def flush(self):
        """Forces a table that is trained in a file to disk. Nothing to do for one in memory.

        Raises:
            OSError: the disk fails.

        Example:
            >>> table = fastembed.Table((1000, 16), path=directory + "/items.npy")
            >>> table.assign(np.ones((1000, 16), "float32"))
            >>> table.flush()
        """
        with self.lock:
            self._pay(None)
            self._to_disk()

    def _to_disk(self):
        for array in (self._array, None if self.lazy is None else self.lazy.made):
            if files.is_written(array):
                array.flush()

    def current(self, ids_n, *bags):
        """Returns the table as `ops.Rows`; rows of flat int32 or int64 ids (None: all) are up to date at this moment.

        bags: row splits, combiner and padding id, as the gradient will have them: then it is not grouped again.
        """
        self._make(ids_n)
        self._pay(ids_n, *bags)
        return self._rows

    @property
    def behind(self):
        """Whether rows may not be what look-ups give, and `current` is to be asked."""
        return self.debt is not None or self.lazy is not None

    def _make(self, ids_n):
        lazy = self.lazy  # another thread may end it, as may `debt`
        if lazy is not None and not lazy.has_made(ids_n):
            with self.lock:
                if self.lazy is not None:
                    self.lazy.make(ids_n)

    def _pay(self, ids_n, *bags):
        debt = self.debt
        if debt is not None and debt.moves:
            with self.lock:
                if self.debt is not None:
                    self.debt.pay(None if ids_n is None else ops.look_parts(ids_n, *bags))

    @property
    def is_told(self):
        """Whether changing() does anything."""
        return bool(self.watchers) or self.lazy is not None

    def changing(self, rows_u=None, but_unmade=False):
        """Tells those who watch the table that rows (int64, rising; None: all) are about to change, or what is kept of
        them; but_unmade: those that are not made yet do not. `lock` is held then, and until they have changed. Whoever
        writes to `numpy()` calls this first."""
        if self.lazy is not None and not but_unmade:
            self.lazy.make(rows_u)
        for watcher in list(self.watchers):  # which may leave
            watcher.before(rows_u)

    def freeze(self, rows):
        """Rows that no optimizer changes from now on: not by gradients, decay, momentum or constraints.

        Args:
            rows: integers in [0, v).

        Raises:
            IndexError: a row outside the table.

        Example:
            >>> table = fastembed.Table((3, 2))
            >>> table.freeze([0, 2])
            >>> gradient = fastembed.IndexedSlices(np.ones((3, 2), "float32"), [0, 1, 2], (3, 2))
            >>> fastembed.optimizers.SGD(1.0).apply_gradients([(gradient, table)])
            >>> table.numpy()
            array([[ 0.,  0.],
                   [-1., -1.],
                   [ 0.,  0.]], dtype=float32)
        """
        self.scale_learning_rate(rows, 0.0)

    def unfreeze(self, rows):
        """Ends `freeze` for these rows."""
        self.scale_learning_rate(rows, 1.0)

    def scale_learning_rate(self, rows, scale):
        """The learning rate of these rows is multiplied by `scale` from now on (weight decay too, as it goes with it).

        Args:
            rows: integers in [0, v).
            scale: float >= 0, or an array of one for each row; 0 freezes a row.

        Raises:
            IndexError: a row outside the table. ValueError: a negative scale; or, with untouched="catch_up", another
                scale than 0 and 1 after the first step.
        """
        rows_n, _ = ops.flat_ids(rows, "rows")
        ops.check_ids(rows_n, len(self), "rows")
        scales_n = np.broadcast_to(np.asarray(scale, self._rows.real), rows_n.shape)
        if not (np.isfinite(scales_n) & (scales_n >= 0)).all():
            raise ValueError(f"`scale` must be finite numbers >= 0. Received: scale={scale!r}")
        with self.lock:
            self.changing(np.unique(rows_n.astype(np.int64, copy=False)))
            if self.debt is not None:
                self.debt.pay(ops.look_parts(rows_n))
                self.debt.check_scales(scales_n)
                self.debt.forget(rows_n)
            if self.row_scales is None:
                self.row_scales = np.ones(len(self), self._rows.real)
            self.row_scales[rows_n] = scales_n

    def assign(self, array):
        """Copies an array of the same shape into the table; a constraint is then enforced. uint16 is bits of bfloat16;
        what `numpy()` of a table of the same codes gives is copied as it is."""
        array = ops.array_of(array, "array")
        self.check_numbers(array, "array")
        rows = ops.rows_of(self._rows, writeable=True)
        coded = rows.storage in dtypes.QUANTISED and array.dtype.names is None
        for these in ops.blocks(rows) if coded else ():  # all, before the first is written
            with np.errstate(over="ignore"):
                ops.check_codes(rows, np.ascontiguousarray(array[these], np.float32), these.start)
        with self.lock, Whole():
            self.changing()
            if self.debt is not None:
                self.debt.pay(None)  # for the state: what waits for the old rows has decayed
            self.copy_from(array)
            self.enforce()

    def check_numbers(self, array, name):
        """Raises unless an array is what `assign` takes."""
        if array.dtype.names is not None and array.dtype == self.dtype and array.shape == self._array.shape:
            return
        storage = dtypes.name_of(array.dtype)[0]
        if array.shape != self.shape or (array.dtype.kind not in "fiu" and storage != "bfloat16"):
            raise ValueError(
                f"`{name}` must be numbers of shape {self.shape}. Received: {array.dtype} of shape {array.shape}"
            )
        if array.dtype == np.uint16 and self.storage != "bfloat16":
            raise ValueError(
                f"`{name}` of uint16 is bits of bfloat16, and must be for a table of bfloat16; `Table.to_float32` "
                f"gives numbers. Received: {name} for a table of {self.storage}"
            )

    def resize(self, num_rows, fill=None):
        """Gives the table another number of rows. The first ones stay as they are, to the bit, with all that optimizers
        keep of them (state, averages, steps that they have to catch up with, gradients that wait), learning rates of
        their own, and whether they are made; for optimizers, new rows are rows that were never touched.

        In memory, a table of 32 MB or more grows in place, as long as nobody holds an array that `numpy()` gave or a
        slice of the table; else it is copied, and such arrays keep the old memory. A file grows and shrinks in place; a
        process that dies meanwhile leaves it whole, with the old or the new number of rows. Who reads the file in
        another process opens it again when it has shrunk.

        Args:
            num_rows: int > 0.
            fill: a function (values_ud, rows_u) that writes the initial values of rows of these numbers, or None for
                zeros. None for a lazy table, which has one.

        Raises:
            ValueError: another `num_rows`; a file that is open for reading alone; what `fill` raises.
            MemoryError, OSError: too little memory or disk. All is then as it was.

        Example:
            >>> table = fastembed.Table((1000, 16))
            >>> table.resize(1100)
            >>> table.shape
            (1100, 16)
        """
        num_rows = check_size(num_rows, "num_rows")
        if fill is not None and self.lazy is not None:
            raise ValueError(f"`fill` must be None for a lazy table, which has one. Received: fill={fill!r}")
        rearrange([(self, fill)], num_rows)

    def carry(self, carry, fill):
        """Its part in rearrange()."""
        if isinstance(self._array, np.memmap) and not files.is_written(self._array):
            raise ValueError(f"`mmap_mode` must be 'r+' for a table to be resized. Received: {self!r} in {self.path}")
        self.changing(but_unmade=True)
        carry.last(self.watchers.clear)  # rows have other numbers: they know nothing of the table any more
        lazy, touched, dim = self.lazy, None, self.shape[1]
        if lazy is not None:
            fill, touched = lazy.fill, lazy.bits
            if carry.from_v is not None:  # a row that is made later has its initial value by its number
                lazy.make(carry.from_v[(carry.from_v >= 0) & (carry.from_v != np.arange(carry.new))])
                touched = functools.partial(bits_of, np.array(lazy.made))
                if self.path is not None:
                    self._make_whole()
        carry.after(functools.partial(self._bind, dim))
        known = self.kept()
        for _, kept in known:
            carry.after(functools.partial(kept.bind, self))
            kept.rows = kept.state_rows = None
        del self._rows
        if self.lazy is None:
            carry.array(self, "_array")
        else:
            self.lazy.rows = None
            parts = [(carry.bits, self.lazy, "made"), (carry.array, self, "_array", True, touched)]
            for part, *about in parts if carry.new > carry.old else parts[::-1]:  # a file has a bit for each row
                part(*about)
        if self.lazy is None and fill is not None:
            for rows_u in carry.fresh(dim):
                self._fill(fill, rows_u, dim)
        if self.row_scales is not None:
            carry.array(self, "row_scales")
            carry.set_fresh(self.row_scales, 1)
        for optimizer, kept in known:
            kept.carry(carry, optimizer, touched)

    def kept(self):
        """(optimizer, what it keeps of the table) of all that have trained it."""
        found = [(optimizer, optimizer.kept_of(self)) for optimizer in self.optimizers]
        return [(optimizer, kept) for optimizer, kept in found if kept is not None]

    def _bind(self, dim):
        """The memory has changed."""
        self._rows = ops.rows_of(self._array, dim=dim)
        if self.lazy is not None:
            self.lazy.rows = self._rows

    def _make_whole(self):
        """A lazy table in a file ends being lazy: it and its bits cannot be replaced at one stroke."""
        files.take_space(self.path)
        self.lazy.make(None)
        self._to_disk()
        os.remove(_made_path(self.path))
        self.lazy = None

    def _fill(self, fill, rows_u, dim):
        """Writes the initial values of rows as they would be in a new table."""
        part = ops.rows_of(ops.zeros_like(self._array, len(rows_u)), dim=dim)
        values_ud = ops.zeros(part.shape, part.real.name)
        fill(values_ud, rows_u)
        ops.encode(part, values_ud)
        if self.constraint is not None and self.constraint.rows is not None:
            ops.change(part, lambda values_vd, _: self.constraint.enforce(values_vd))
        ops.rows_of(self._array, dim=dim).octets_vb[run(rows_u)] = part.octets_vb

    def copy_from(self, array):
        """Copies an array that check_numbers() has passed into the table, and nothing else."""
        if self.storage == "bfloat16" and dtypes.name_of(array.dtype)[0] == "bfloat16":
            np.copyto(self._array.view(np.uint16), array.view(np.uint16))
            return
        if array.dtype == self.dtype:
            np.copyto(self._array, array)
            return

        def fill(values_vd, first_row):
            np.copyto(values_vd, array[first_row : first_row + len(values_vd)], casting="unsafe")

        ops.change(self._rows, fill)

    def enforce(self):
        """Projects the table, whole, if it breaks its constraint; the rows of a lazy one that are not made do not."""
        if self.constraint is None:
            return
        if not self._rows.coded:
            self.constraint.enforce(self._array)
        elif self.constraint.rows is not None:
            ops.change(self._rows, lambda values_vd, _: self.constraint.enforce(values_vd))
        else:
            values_vd = ops.decode(self._rows)
            self.constraint.enforce(values_vd)
            ops.encode(self._rows, values_vd)

    def __array__(self, dtype=None, copy=None):
        # As numbers: codes, and the bits of bfloat16 without ml_dtypes, are none.
        coded = self.dtype.kind not in "f" and self.dtype.name != "bfloat16"
        wanted = np.dtype(np.float32 if coded else self.dtype) if dtype is None else np.dtype(dtype)
        if not coded and wanted == self.dtype:
            array = self.numpy()
            return array.copy() if copy else array
        if copy is False:
            raise ValueError(f"`dtype` must be {self.dtype} where nothing may be copied. Received: dtype={dtype}")
        return np.asarray(self.to_float32(), wanted)

    @property
    def __array_interface__(self):
        # For NumPy and others, to the memory itself. Its "data" is an array, not an address, so that who reads it holds
        # the memory: `resize` then copies. Where only asking would change rows, or there are no numbers: __array__.
        if self.behind or self.dtype.kind != "f":
            raise AttributeError(f"no __array_interface__ of {self!r}: use np.asarray(table)")
        array = self._array
        return {"version": 3, "shape": array.shape, "typestr": array.dtype.str, "data": array}

    def __dlpack_device__(self):
        return 1, 0  # the CPU

    def __dlpack__(self, **arguments):
        """The table's own memory for other libraries, as `numpy()` gives it: np.from_dlpack, torch.from_dlpack, ...

        Args:
            **arguments: DLPack's `stream`, `max_version`, `dl_device` and `copy`, as NumPy's arrays take them.

        Raises:
            BufferError: int8, int4 and int2, which are no numbers to DLPack; a table that is open for reading alone,
                for a library that cannot be told so (DLPack before 1.0).
        """
        if self.storage in dtypes.QUANTISED:
            raise BufferError(f"DLPack has no dtype of {self.storage} with scales: export `to_float32()`")
        array = self.numpy()
        if self.storage != "bfloat16":
            return array.__dlpack__(**arguments)
        return capsules.bfloat16(array.view(np.uint16).__dlpack__(**arguments))

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, key):
        """Rows as float32 (float64 of a float64 table) in a new array, for integer ids of any shape; a slice of such a
        table gives a view."""
        if isinstance(key, slice):
            if not self._rows.coded:
                if self.behind:
                    self.current(np.arange(*key.indices(len(self))))
                return self._array[key]
            key = np.arange(len(self))[key]
        ids_n, shape = ops.flat_ids(key)
        return ops.gather(self.current(ids_n), ids_n.reshape(shape))

    def __repr__(self):
        return f"<Table {self.name!r} shape={self.shape} dtype={self.storage}>"

    def __getstate__(self):
        # Rows as bytes: a structured array is copied without what pads its rows, and bfloat16 has two dtypes. An
        # optimizer that is copied too becomes the creditor again.
        self.current(None)
        octets_vb, in_file = self._rows.octets_vb, isinstance(self._array, np.memmap)
        state = {**self.__dict__, "debt": None, "lazy": None, "_file_lock": None, "watchers": [], "_array": octets_vb}
        state |= {"_rows": (self.storage, self.shape[1]), "optimizers": None}
        if in_file:  # a copy lives in memory: two writers of one file lose data
            state.update(_array=np.array(octets_vb), path=None)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state, optimizers=weakref.WeakSet())
        (storage, dim), octets_vb = self._rows, self._array
        array = octets_vb.view(dtypes.of_rows(storage, dim))
        self._array = array if storage in dtypes.PLAIN else array.reshape(-1)
        self._rows = ops.rows_of(self._array, dim=dim)


def rearrange(pairs, num_rows, from_v=None, then=lambda: None):
    """Gives tables of one length `num_rows` rows, all or none of them. pairs: the tables, with functions that write the
    initial values of new rows, as Table.resize takes them. from_v: the old number of each row, int64, -1: it is new;
    None: the first rows stay. then: called when they have them, and before Ctrl-C is heard."""
    tables = [table for table, _ in pairs]
    if from_v is None and num_rows == len(tables[0]):
        then()
        return
    with locked(tables):
        optimizers = {optimizer for table in tables for optimizer in table.optimizers}
    with contextlib.ExitStack() as taken:
        for optimizer in sorted(optimizers, key=id):
            taken.enter_context(optimizer.held(()))
        taken.enter_context(locked(tables))
        known = [both for table in tables for both in table.kept()]
        for optimizer, kept in known:
            if optimizer.reads_all_rows:
                kept.pay(None)
        with Carry(len(tables[0]), num_rows, from_v) as carry:
            for _, kept in known:  # before any file: from then on they do not belong together
                carry.step(kept.home.changing)
            for table, fill in pairs:
                table.carry(carry, fill)
            taken.enter_context(Whole())  # from here on it is done
        for table in tables:
            if table.constraint is not None and table.constraint.rows is None:
                table.enforce()
        for optimizer, kept in known:
            optimizer.recount(kept)
        then()


def locked(variables, *locks):
    """Takes locks, then those of the tables among the variables, which every thread takes in one order: for `with`."""
    with contextlib.ExitStack() as taken:
        for lock in locks:
            taken.enter_context(lock)
        for variable in sorted(variables, key=id):
            if isinstance(variable, Table):
                taken.enter_context(variable.lock)
        return taken.pop_all()


def check_size(value, name):
    """A positive int, from an int or a NumPy integer."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 < value < 2**63:
        raise ValueError(f"`{name}` must be a positive integer below 2**63. Received: {name}={value!r}")
    return int(value)


@contextlib.contextmanager
def _locked_file(path, mode):
    """The lock of a file that is opened for training, else None; free again after an error inside."""
    if mode != "r+":
        yield None
        return
    lock = files.FileLock(path)
    with lock.free_after_an_error():
        yield lock


def _zeros(values_ud, rows_u):
    """The initial values of a table that was given none; new arrays are zero."""


def _made_path(path):
    return f"{os.fspath(path)}.made.npy"


def _made_file(path, num_rows, mode, lazy):
    """Which rows of a table in a file are made, in a file of its own; made, if there is none. None: all are."""
    made, shape = _made_path(path), ((num_rows + 7) // 8,)
    if os.path.exists(made):
        if not lazy:
            raise ValueError(f"`lazy` must be True for a table whose rows are not all made. Received: path={path!r}")
        bits = files.open_npy(made, mode, shape, np.dtype(np.uint8), or_more=True)[: shape[0]]
        return bits if mode == "r+" else np.array(bits)  # the writer's go on changing
    if not lazy or os.path.exists(path) or mode != "r+":
        return None
    return np.lib.format.open_memmap(made, "w+", np.dtype(np.uint8), shape)
