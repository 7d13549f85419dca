# cython: language_level=3, embedsignature=False
# cython: wraparound=False, cdivision=True, freethreading_compatible=True
"""The drivers for tables of float64: those of _core.pyx, compiled with FE_DOUBLE.

May import: nothing of the package; only ops calls this module, and imports it where a float64 array comes.

Do not break: there is no code here; what differs in double precision is in _rows/.
"""
include "_core.pyx"
