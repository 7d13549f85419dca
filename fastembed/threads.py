"""How many threads the core uses, how they wait, and what happens after a fork and at Ctrl-C.

May import: the standard library and _core, which it loads; it starts no thread itself. Do not break: a forked child
never enters an OpenMP region with a team that its parent has left behind, since the GNU runtime hangs there, and never
waits for a lock that a thread of the parent holds.
"""

import os
import signal
import sys
import threading
import weakref

# How idle threads of an OpenMP runtime wait; it reads these when it is loaded (GNU) or first used (LLVM).
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Where a wheel has a copy of the runtime of its own, beside or in the package.
_OWN_RUNTIME = (os.path.join("..", "fastembed_cython.libs"), ".dylibs")


def _load():
    """Imports the core; returns it, and whether idle threads sleep. An OpenMP runtime of its own is told that they are
    to: spinning against those of another copy, say torch's, makes each call take milliseconds. A runtime that others
    share stays as they want it, and the environment has the last word."""
    here = os.path.dirname(__file__)
    own = any(os.path.isdir(os.path.join(here, folder)) for folder in _OWN_RUNTIME)
    told = not own or any(name in os.environ for name in _WAITS)
    if not told:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        from fastembed import _core

        _core.max_threads()
        return _core, os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    finally:
        if not told:
            del os.environ["OMP_WAIT_POLICY"]


core, _sleeps = _load()
# Below this many bytes of rows a second thread costs more than it saves: it is there in 1 to 10 us, and in 10 to 100
# where it sleeps.
_SERIAL_BYTES = 1 << 19 if _sleeps else 1 << 18


_locks = weakref.WeakSet()


class Lock:
    """A re-entrant lock for `with`. It is free in a forked child and in a copy, whoever held it at that moment."""

    def __init__(self):
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self):
        self._lock.acquire()
        return self

    def __exit__(self, *error):
        self._lock.release()

    def __reduce__(self):
        return (Lock, ())


class Whole:
    """For `with`: Ctrl-C is heard at the end, so that what is written inside belongs together. The main thread alone
    ever hears it."""

    __slots__ = ("_came", "_handler")

    def __enter__(self):
        self._came = self._handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):  # and not the system's own
                self._handler = handler
                signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, *signal_and_frame):
        self._came = signal_and_frame

    def __exit__(self, *error):
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._came is not None:
                self._handler(*self._came)


# ---- after a fork ----------------------------------------------------------------------------------------------------

_forked = False  # this process was made by a fork
_team_ended = False  # the thread that forks had no idle threads at the last fork


def _before_fork():
    global _team_ended
    _team_ended = core.end_team()


def _after_fork():
    global _chosen, _forked
    _chosen, _forked = None, True
    for lock in list(_locks):  # the thread that held it is not there any more
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


# ---- how many --------------------------------------------------------------------------------------------------------


def _quota(root="/"):
    """The processors that the control groups of this process grant, rounded up; None where there is no limit."""
    found = []
    for line in _lines(root, "proc/self/cgroup"):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if controllers == "":  # version 2: the limits of all groups above hold, too
            parts = path.strip("/").split("/")
            groups = ["/".join(parts[:n]) for n in range(len(parts) + 1)]
            found += [_lines(root, "sys/fs/cgroup", group, "cpu.max") for group in groups]
        elif "cpu" in controllers.split(","):
            for group in ("", path.strip("/")):  # in a container only its own group is there, as the root
                where = root, "sys/fs/cgroup/cpu", group
                found.append(_lines(*where, "cpu.cfs_quota_us") + _lines(*where, "cpu.cfs_period_us"))
    limits = [" ".join(lines).split() for lines in found]
    limits = [-(-int(one[0]) // int(one[1])) for one in limits if len(one) == 2 and one[0] not in ("max", "-1")]
    return max(1, min(limits)) if limits else None


def _lines(*path):
    try:
        with open(os.path.join(*path)) as file:
            return file.readlines()
    except OSError:
        return []  # another system, or no such group: no limit is known


def _available():
    """Processors that this process may use: affinity, control group, OMP_NUM_THREADS; their share for a worker of
    pytest-xdist, since it has others beside it."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits.append(_quota() or limits[0])
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        limits.append(int(asked))
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    if workers.isdigit() and int(workers) > 0:
        limits.append(max(1, min(limits[:2]) // int(workers)))
    return min(limits)


_default = _available()
_chosen = None  # what set_num_threads was told


def _is_one_of_many():
    """True in a process that others like it stand beside: made by a fork, or a worker of a torch DataLoader."""
    if _forked:
        return True
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def set_num_threads(num_threads):
    """Sets how many threads the library uses. Results never depend on it.

    Args:
        num_threads: int, at least 1; None goes back to the default: what the process might use when the library was
            imported (processor affinity, control group), at most OMP_NUM_THREADS if that is set; a share of it in a
            worker of pytest-xdist; 1 in a process that was made by a fork, and in a worker of a torch DataLoader, since
            there are others beside it.

    Raises:
        ValueError: if `num_threads` is not a positive int.

    Example:
        >>> fastembed.set_num_threads(2)
        >>> fastembed.get_num_threads()
        2
        >>> fastembed.set_num_threads(None)
    """
    global _chosen
    if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
        raise ValueError(f"`num_threads` must be a positive int or None. Received: num_threads={num_threads!r}")
    _chosen = num_threads


def get_num_threads():
    """Returns the number of threads the library uses for large work: what `set_num_threads` says, or else its default;
    but not more than `threadpoolctl`, or whoever else sets the OpenMP runtime's number, allows in this Python thread.

    Example:
        >>> fastembed.get_num_threads() >= 1
        True
    """
    if _forked and not _team_ended:
        return 1
    limit, num_threads = core.max_threads(), _chosen
    if num_threads is None:
        num_threads = 1 if _is_one_of_many() else _default
    return min(num_threads, limit) if limit < _default else num_threads


def threads_for(num_bytes):
    """The threads worth waking for work that touches so many bytes of rows."""
    if num_bytes < _SERIAL_BYTES:
        return 1
    return min(get_num_threads(), 1 + num_bytes // _SERIAL_BYTES)
