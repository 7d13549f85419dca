"""Shared by all tests: the oracle on the path, random numbers, guarded arrays, programs in their own process.

May import: pytest, NumPy, fastembed. Do not break: tests run from the checkout and against an installed
wheel, so nothing here may put the checkout itself on the path.
"""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they share the processors, and do not spin on them
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import fastembed  # noqa: E402


def pytest_collection_finish():
    """Ten thousand tests stay until the end: no garbage collection looks at them."""
    gc.freeze()


@pytest.fixture
def rng():
    """The same random numbers for each test."""
    return np.random.default_rng(2026)


@pytest.fixture
def threads():
    """`fastembed.set_num_threads`; the number is put back afterwards. What is shared does not depend on who sleeps."""
    before = fastembed.get_num_threads()
    with mock.patch.object(fastembed.threads, "_SERIAL_BYTES", 1 << 18):
        yield fastembed.set_num_threads
    fastembed.set_num_threads(before)


_plan, _plans = fastembed.optimizers.history.plan, {}


@pytest.fixture
def quick(monkeypatch):
    """Nothing is forced to disk, and what is true of equal optimizers (`history.plan`) is found once."""

    def planned(optimizer):
        if repr(optimizer) not in _plans:
            _plans[repr(optimizer)] = _plan(optimizer)
        return _plans[repr(optimizer)]

    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(fastembed.optimizers.history, "plan", planned)


@pytest.fixture
def guarded():
    """Copies an array to where numbers on both sides of it are watched: writing past its ends fails."""
    watched = []

    def guard(array):
        edge, sentinel = 67, 123
        buffer = np.full(array.size + 2 * edge, sentinel, array.dtype)
        inside = buffer[edge:-edge].reshape(array.shape)
        inside[...] = array
        watched.append((buffer[:edge], buffer[-edge:]))
        return inside

    yield guard
    for before, after in watched:
        assert (before == 123).all()
        assert (after == 123).all()


@pytest.fixture
def run_python(tmp_path):
    """Runs a program in a new interpreter, away from the checkout, and returns what it printed."""

    def run(program, *arguments, timeout=120, **environment):
        path = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
            cwd=tmp_path,
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run
