/* The machine's random-row read bandwidth: sums the rows of a table that ids name, with software prefetch.
 *
 * Compiled at run time by _bandwidth.py, for one row length (DIM floats) and prefetch hint (HINT, as
 * __builtin_prefetch takes it); uses nothing of the library. Do not break: it does no more with a row than read and add
 * it. It leaves out what a real kernel needs (bounds checks, bags, an output), so that it is a limit. */
#include <stdint.h>

typedef float vec __attribute__((vector_size(64), aligned(4)));

double random_rows(const float *table, const int64_t *ids, int64_t n, int64_t ahead, int threads)
{
    double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        vec even = {0}, odd = {0};
        float rest = 0;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const float *next = table + ids[i + ahead < n ? i + ahead : n - 1] * DIM;
            for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(next + j, 0, HINT);
            const float *row = table + ids[i] * DIM;
            int64_t j = 0;
            for (; j + 32 <= DIM; j += 32) {
                even += *(const vec *)(row + j);
                odd += *(const vec *)(row + j + 16);
            }
            for (; j < DIM; j++) rest += row[j];
        }
        even += odd;
        for (int j = 0; j < 16; j++) rest += even[j];
        total += rest;
    }
    return total;
}
