/* scalars.h: powers and exponentials of single numbers, by hand, as those of the C library differ between processors.
 * May include: nothing of the package. Do not break: the same bits everywhere. */
#ifndef FE_SCALARS_H
#define FE_SCALARS_H

#include <stdint.h>
#include <string.h>

/* base^n by squaring; 0^0 is 1. */
static inline double fe_power(double base, int64_t n)
{
    double product = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) product *= base;
    return product;
}

/* exp(x) - 1 for x <= 0: exp(x) = 2^k exp(r) with |r| <= log(2) / 2, and a Taylor series for exp(r) - 1. */
static inline double fe_expm1(double x)
{
    double r, sum = 1, scale;
    int64_t k;
    if (x == 0) return 0;
    if (!(x > -700)) return -1;
    k = (int64_t)(x * 1.4426950408889634 - 0.5);
    r = (x - (double)k * 6.93147180369123816490e-01) - (double)k * 1.90821492927058770002e-10;
    for (int i = 14; i > 1; i--) sum = sum * r / i + 1;
    sum *= r;
    if (k == 0) return sum;
    k = (k + 1023) << 52;
    memcpy(&scale, &k, 8);
    return scale * sum + (scale - 1);
}

#endif
