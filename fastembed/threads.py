"""How many threads the core uses, and what happens after a fork.

May import: the standard library and _core's build facts through nothing; it starts no thread itself. Do not break: a
forked child never enters an OpenMP region, since the GNU runtime hangs there if the parent had used its threads, and
never waits for a lock that a thread of the parent holds.
"""

import os
import threading
import weakref

_chosen = None  # what set_num_threads was told
_forked = False

# Below this many bytes of rows a second thread costs more than it saves (a fork and join is 1 to 100 us).
_SERIAL_BYTES = 1 << 18


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


def _after_fork():
    global _forked
    _forked = True
    for lock in list(_locks):  # the thread that held it is not there any more
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _cgroup_quota():
    """The processors that the control group grants, rounded up; None where there is no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return None  # another system, or another version of control groups: no limit known
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def _available():
    """Processors that this process may use: affinity, control group, OMP_NUM_THREADS."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits.append(_cgroup_quota() or limits[0])
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        limits.append(int(asked))
    return min(limits)


def set_num_threads(num_threads):
    """Sets how many threads the library uses. Results never depend on it.

    Args:
        num_threads: int, at least 1; None goes back to the default: what the process may use (processor affinity,
            control group), at most OMP_NUM_THREADS if that is set.

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
    """Returns the number of threads the library uses for large work: 1 in a forked child (see the README's limits).

    Example:
        >>> fastembed.get_num_threads() >= 1
        True
    """
    global _chosen
    if _forked:
        return 1
    if _chosen is None:
        _chosen = _available()
    return _chosen


def threads_for(num_bytes):
    """The threads worth waking for work that touches so many bytes of rows."""
    if num_bytes < _SERIAL_BYTES:
        return 1
    return min(get_num_threads(), 1 + num_bytes // _SERIAL_BYTES)
