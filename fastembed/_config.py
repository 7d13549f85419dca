"""The version, and what a bug report needs to know.

May import: ops, threads. Do not break: it only reads.
"""

import os
import platform

import numpy as np

from fastembed import ops
from fastembed._version import __version__
from fastembed.threads import get_num_threads

_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def _huge_pages():
    if not os.path.exists(_HUGE_PAGES):
        return "unknown"
    with open(_HUGE_PAGES) as file:
        return file.read().strip()


def show_config():
    """Prints version, instruction sets, OpenMP, threads and page settings: what a bug report needs.

    Example:
        >>> fastembed.show_config()  # doctest: +ELLIPSIS
        fastembed ...
    """
    openmp = f"OpenMP {ops.openmp}" if ops.openmp else "none (built without OpenMP: one thread)"
    print(f"fastembed {__version__}, NumPy {np.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"instruction sets usable here: {', '.join(ops.usable_isas())}; chosen: {ops.isa}")
    print(f"parallel runtime: {openmp}; threads: {get_num_threads()} of {os.cpu_count()} processors")
    print(f"transparent huge pages: {_huge_pages()}")
