"""The drivers of the compiled core, by the dtype in which rows are pooled and stepped, and by instruction set.

May import: dtypes, threads (which has loaded _core) and _core64. Do not break: who has no float64 table does not load
_core64; one instruction set holds for both.
"""

import functools
import os

from fastembed.dtypes import FLOAT32, FLOAT64, INT32, INT64
from fastembed.threads import core as _core

INSTRUCTION_SETS = ("avx512", "avx2", "base")


def usable_isas():
    """The instruction sets that this build and processor have, best first."""
    return [isa for isa in INSTRUCTION_SETS if _core.has_isa(isa)]


def _choose_isa():
    """The best instruction set, or the one that FASTEMBED_ISA names."""
    pinned = os.environ.get("FASTEMBED_ISA")
    if pinned and (pinned not in INSTRUCTION_SETS or not _core.select_isa(pinned)):
        raise ImportError(f"FASTEMBED_ISA must be one of {usable_isas()} here. Received: FASTEMBED_ISA={pinned!r}")
    return pinned or next(isa for isa in INSTRUCTION_SETS if _core.select_isa(isa))


isa = _choose_isa()
openmp = _core.OPENMP  # the date of the OpenMP standard that the compiler followed; 0: built without


class Core:
    """The drivers for numbers of one dtype: a module, and those of its functions that take ids by the dtype of these.

    A fused function looks at its arguments' types at every call (2 us); here the choice is made once.
    """

    def __init__(self, module, real):
        self.module, self.real = module, real
        self.codes = {name: code for code, name in enumerate(module.DTYPES)}
        for name in ("check_ids", "find_unmade", "gather", "pool", "weights_gradient", "group"):
            fused = getattr(module, name)
            setattr(self, name, {INT32: fused["int32_t"], INT64: fused["int64_t"]})


SINGLE = Core(_core, FLOAT32)


@functools.cache
def _double():
    from fastembed import _core64  # who has no float64 table does not pay for it

    _core64.select_isa(isa)
    return Core(_core64, FLOAT64)


def core_of(dtype):
    """The drivers for arrays of float64, or of anything else that is stepped in float32."""
    return _double() if dtype == FLOAT64 else SINGLE


def by_core(cores):
    """(module, the indices of its cores) for each module that occurs."""
    indices = {}
    for i, core in enumerate(cores):
        indices.setdefault(core.module, []).append(i)
    return indices.items()
