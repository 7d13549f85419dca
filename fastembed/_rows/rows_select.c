/* rows_select.c: which sets of row functions this build has and this processor runs. */
#include "rows.h"

#include <string.h>

extern const fe_rows fe_rows_base;
int fe_near = 0;

#define ABOUT(name, numbers, columns) {#name, numbers, columns},
const fe_step_about fe_steps[FE_STEPS] = {FE_EACH_STEP(ABOUT)};
#undef ABOUT

#define ABOUT(name, bits, head) {#name, bits, head},
const fe_dtype_about fe_dtypes[FE_DTYPES] = {FE_EACH_DTYPE(ABOUT)};
#undef ABOUT

#if defined(__GNUC__) && defined(__x86_64__)
#include <cpuid.h>

extern const fe_rows fe_rows_avx2, fe_rows_avx512;

/* Not all compilers know the name "f16c" in __builtin_cpu_supports. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* The builtin asks the operating system, too: whether it saves the wide registers. */
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const fe_rows *fe_rows_select(const char *isa)
{
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    fe_near = __builtin_cpu_is("amd") != 0;
    if (strcmp(isa, "avx512") == 0) return has_avx512() ? &fe_rows_avx512 : NULL;
    if (strcmp(isa, "avx2") == 0) return has_avx2() ? &fe_rows_avx2 : NULL;
#endif
    return strcmp(isa, "base") == 0 ? &fe_rows_base : NULL;
}
