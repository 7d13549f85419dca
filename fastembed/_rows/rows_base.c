/* rows_base.c: the row functions for the floor of the platform's ABI (SSE2 on x86-64, NEON on arm64). */
#define FE_ISA base
#if defined(__GNUC__)
#define FE_BYTES 16
#else
#define FE_BYTES 0
#endif
#include "rows_impl.h"
