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
    """The functions of _random_rows.c for one row length and prefetch hint."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(pathlib.Path(folder) / "random_rows.so")
        command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        command += [f"-DDIM={dim}", f"-DHINT={_HINTS[hint]}", str(_SOURCE), "-o", library]
        subprocess.run(command, check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(library)
    read, rewrite = loaded.random_rows, loaded.rewrite_rows
    read.restype, rewrite.restype = ctypes.c_double, None
    read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    rewrite.argtypes = [*read.argtypes[:3], ctypes.c_float, *read.argtypes[3:]]
    return read, rewrite


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
        return lambda ids: functions[hint][0](table, ids.ctypes.data, ids.size, ahead, threads)

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
            functions[hint][1](table_vd.ctypes.data, rows_u.ctypes.data, rows_u.size, 1.0, ahead, threads)

        contestants.append(Contestant(REWRITE, read_and_rewrite, lambda ids: (ids, np.unique(ids)), answer=None))
    return contestants
