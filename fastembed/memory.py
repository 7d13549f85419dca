"""How much memory there is, and a word in time where something does not fit.

May import: the standard library. Do not break: what cannot fit raises MemoryError before a page is taken; else the
system would end the process later, without a word.
"""

import os

_SMALL = 64 << 20  # bytes that need no look at the system


def available():
    """Bytes that this process can take: what the system has free or can free, at most what its control group allows."""
    limits = [_of_system()]
    try:
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as now:
            allowed = most.read().strip()
            if allowed != "max":
                limits.append(int(allowed) - int(now.read()) + _reclaimable())
    except (OSError, ValueError):
        limits = limits[:1]  # no control groups, or of another version
    return max(0, min(limits))


def _of_system():
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass  # not Linux
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**63  # unknown: nothing is refused


def _reclaimable():
    """Bytes of files in the control group's memory, which it gives up when it must."""
    with open("/sys/fs/cgroup/memory.stat") as file:
        numbers = dict(line.split() for line in file)
    return int(numbers.get("inactive_file", 0)) + int(numbers.get("active_file", 0))


def check_fits(num_bytes, what):
    """Raises a MemoryError that says what to do, unless so many bytes can be taken."""
    if num_bytes < _SMALL:
        return
    there = available()
    if num_bytes > there:
        raise MemoryError(
            f"{what} takes {readable(num_bytes)}, and {readable(there)} of memory are free. It can live in a file "
            "(`path=`), be made row by row as it is used (`lazy=True`), or have a smaller dtype; see fastembed.estimate"
        )


def readable(num_bytes):
    """A number of bytes as text.

    Example:
        >>> fastembed.memory.readable(2_560_000_000), fastembed.memory.readable(512)
        ('2.56 GB', '512 bytes')
    """
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if num_bytes >= 1000**power:
            return f"{num_bytes / 1000**power:.3g} {unit}"
    return f"{num_bytes} bytes"
