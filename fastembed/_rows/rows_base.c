/* rows_base.c: the row functions for the floor of the platform's ABI (SSE2 on x86-64, NEON on arm64). */
#define FE_ISA base
#if defined(__GNUC__)
#define FE_WIDTH 4
#else
#define FE_WIDTH 1
#endif
#include "rows_impl.h"
