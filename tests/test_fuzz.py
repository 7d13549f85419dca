"""A little of each target of fuzz.py, and of the operations of leaks.py and allocations.py.

Do not break: the cases are the same at every run; a long run is one of these files by itself. What a long run finds
gets a test of its own, below or beside the tests of what it was found in.
"""

import ctypes
import os
import sys

import allocations
import fuzz
import leaks
import pytest

from fastembed import Ragged

EXAMPLES = {"ids": 60, "bags": 60, "ragged": 80, "configs": 80, "files": 80, "folders": 30, "programs": 12}


@pytest.mark.parametrize("target", EXAMPLES)
def test_target(target):
    fuzz.run(target, seed=1, examples=EXAMPLES[target])


def test_hdf5_in_a_process_of_its_own():
    """HDF5 may crash or hang over a damaged file."""
    pytest.importorskip("h5py")
    assert fuzz.run_apart("keras_files", seed=1, examples=20, seconds=300) is None


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_nothing_leaks(tmp_path):
    assert not leaks.main(10_000, quiet=True)


def test_a_leak_of_16_bytes_would_be_seen():
    malloc = ctypes.CDLL(None).malloc
    assert leaks.leaks(leaks.growth(lambda: malloc(16), 10_000), 10_000)
    kept = []
    assert leaks.leaks(leaks.growth(lambda: kept.append(object()), 10_000), 10_000)


@pytest.mark.skipif(sys.platform != "linux" or "LD_PRELOAD" in os.environ, reason="malloc of glibc or musl by itself")
def test_allocations_that_fail(tmp_path, run_python):
    """Nothing but a MemoryError comes of it, whichever it is."""
    library = allocations.compiled(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    printed = run_python("import sys, allocations; sys.exit(allocations.main())", timeout=600, LD_PRELOAD=str(library))
    failed, faults = (int(word) for word in printed.split() if word.isdigit())
    assert failed > 500
    assert faults == 0


# ---- what was found --------------------------------------------------------------------------------------------------


def test_ragged_of_what_is_no_list():
    with pytest.raises(TypeError, match="`rows` must be a list of lists"):
        Ragged.from_lists(0)
    for make in (lambda x: Ragged.from_padded(x, padding=0), lambda x: Ragged.from_row_lengths([1], x)):
        with pytest.raises(ValueError, match="must be a rectangular array"):
            make([[], 0])
