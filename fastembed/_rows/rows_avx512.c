/* rows_avx512.c: the row functions for x86-64 processors with AVX-512 F, BW, DQ and VL. */
#include "rows.h"
#if defined(__GNUC__) && defined(__x86_64__)
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define FE_ISA avx512
#define FE_BYTES 64
#include "rows_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
