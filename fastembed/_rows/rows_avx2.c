/* rows_avx2.c: the row functions for x86-64 processors with AVX2, FMA and F16C. */
#include "rows.h"
#if defined(__GNUC__) && defined(__x86_64__)
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define FE_ISA avx2
#define FE_BYTES 32
#include "rows_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
