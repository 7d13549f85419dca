"""The random-row limits: how fast this machine reads the rows that a batch names, and rewrites them, as contestants.

May import: NumPy, _harness, and a C compiler at run time; nothing of fastembed. Do not break: the limit is measured on
the same table, the same kind of batches and the same number of threads as everybody else, in the same turns.
"""

import ctypes
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from _harness import LIMIT, Contestant, check

_SOURCE = pathlib.Path(__file__).with_name("_random_rows.c")
_HINTS = {"T0": 3, "T1": 2, "NTA": 0}
_AHEAD = (16, 32, 64)
REWRITE = "read and rewrite rows"


def _compile(dim, hint):
    """The library of _random_rows.c for one row length and prefetch hint."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(pathlib.Path(folder) / "random_rows.so")
        command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        command += [f"-DDIM={dim}", f"-DHINT={_HINTS[hint]}", str(_SOURCE), "-o", library]
        subprocess.run(command, check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(library)
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    loaded.random_rows.restype = ctypes.c_double
    loaded.rewrite_rows.restype = loaded.rewrite_with_state.restype = None
    loaded.random_rows.argtypes = [pointer, pointer, size, size, number]
    loaded.rewrite_rows.argtypes = [pointer, pointer, size, ctypes.c_float, size, number]
    loaded.random_words.restype = size
    loaded.random_words.argtypes = [pointer, pointer, size, size, number]
    loaded.rewrite_with_sums.restype = None
    loaded.rewrite_with_sums.argtypes = [pointer, pointer, size, *[pointer] * 4, size, ctypes.c_float, size, number]
    loaded.rewrite_with_state.argtypes = [pointer, pointer, size, pointer, size, ctypes.c_float, size, number]
    return loaded


def rewriters(dim, threads, upstream_bd=None):
    """Functions of (table, state, rows) that read and rewrite rows and their states, by prefetch hint and distance.

    With `upstream_bd`: of (table, state, (rows, starts, parts)), which sum the parts of each row besides."""

    def rewriter(library, ahead):
        def rewrite(table_vd, state_vs, rows_u):
            state, width = (None, 0) if state_vs is None else (state_vs.ctypes.data, state_vs.shape[1])
            if upstream_bd is None:
                about = rows_u.ctypes.data, rows_u.size, 1.0, ahead, threads
                library.rewrite_with_state(table_vd.ctypes.data, state, width, *about)
            else:
                rows_u, starts, parts = rows_u
                about = rows_u.size, 0.0, ahead, threads
                arrays = [array.ctypes.data for array in (rows_u, starts, parts, upstream_bd)]
                library.rewrite_with_sums(table_vd.ctypes.data, state, width, *arrays, *about)

        return rewrite

    libraries = {hint: _compile(dim, hint) for hint in _HINTS}
    return {(hint, ahead): rewriter(libraries[hint], ahead) for hint in _HINTS for ahead in _AHEAD}


def random_rows(table_vd, batches, threads, rewrite=False):
    """[the contestant], with the prefetch hint and distance that are best here; [], and a line, without a compiler.

    rewrite: one more, which reads all rows and then rewrites each distinct one: what no training step can avoid.
    """
    try:
        functions = {hint: _compile(table_vd.shape[1], hint) for hint in _HINTS}
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{LIMIT}: left out, `cc -fopenmp` does not work ({getattr(error, 'stderr', '') or error})")
        return []

    def reader(hint, ahead):
        table = table_vd.ctypes.data
        return lambda ids: functions[hint].random_rows(table, ids.ctypes.data, ids.size, ahead, threads)

    readers = {(hint, ahead): reader(hint, ahead) for hint in _HINTS for ahead in _AHEAD}
    seconds = {key: [] for key in readers}
    for _ in range(9):
        for key, read in readers.items():
            ids = batches.next()
            start = time.perf_counter()
            total = read(ids)
            seconds[key].append(time.perf_counter() - start)
            if len(seconds[key]) == 1:
                rows = table_vd[ids.reshape(-1)]
                near = abs(total - rows.sum(dtype=np.float64)) <= 1e-4 * np.abs(rows).sum(dtype=np.float64)
                check(LIMIT, near, f"{key}: sum {total}")
    best = min(seconds, key=lambda key: np.median(seconds[key]))
    print(f"{LIMIT} ({batches.kind} ids): best with prefetch {best[0]}, {best[1]} rows ahead")
    contestants = [Contestant(LIMIT, readers[best], answer=None)]
    if rewrite:
        hint, ahead = best

        def read_and_rewrite(prepared):
            ids, rows_u = prepared
            readers[best](ids)
            functions[hint].rewrite_rows(table_vd.ctypes.data, rows_u.ctypes.data, rows_u.size, 1.0, ahead, threads)

        contestants.append(Contestant(REWRITE, read_and_rewrite, lambda ids: (ids, np.unique(ids)), answer=None))
    return contestants


def random_words(name, octets_vb, batches, threads):
    """[the contestant] that reads the rows of a table of any storage dtype, given as bytes; see random_rows."""
    try:
        functions = {hint: _compile(octets_vb.shape[1] // 4, hint) for hint in _HINTS}
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name}: left out, `cc -fopenmp` does not work ({getattr(error, 'stderr', '') or error})")
        return []

    def reader(hint, ahead):
        table = octets_vb.ctypes.data
        return lambda ids: functions[hint].random_words(table, ids.ctypes.data, ids.size, ahead, threads)

    seconds = {(hint, ahead): [] for hint in _HINTS for ahead in _AHEAD}
    for _ in range(9):
        for key in seconds:
            ids = batches.next()
            start = time.perf_counter()
            total = reader(*key)(ids)
            seconds[key].append(time.perf_counter() - start)
            if len(seconds[key]) == 1:
                words = octets_vb[ids.reshape(-1)].view(np.uint32)
                check(name, total == int(words.sum(dtype=np.uint64)) % 2**32, f"{key}: sum {total}")
    best = min(seconds, key=lambda key: np.median(seconds[key]))
    return [Contestant(name, reader(*best), answer=None, versus=name)]
