/* The machine's random-row bandwidth with software prefetch: sums the rows of a table that ids name; rewrites rows, and
 * rows with their states.
 *
 * Compiled at run time by _bandwidth.py, for one row length (DIM floats) and prefetch hint (HINT, as
 * __builtin_prefetch takes it); uses nothing of the library. Do not break: they do no more with a row than read and add
 * it, or multiply it in place. They leave out what a real kernel needs (bounds checks, bags, an output; gradients, repeated
 * ids, state), so that they are limits. */
#include <stdint.h>

typedef float vec __attribute__((vector_size(32), aligned(4))); /* gcc keeps longer ones in memory, without AVX-512 */

double random_rows(const float *table, const int64_t *ids, int64_t n, int64_t ahead, int threads)
{
    double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        vec sums[4] = {{0}};
        float rest = 0;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const float *next = table + ids[i + ahead < n ? i + ahead : n - 1] * DIM;
            for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(next + j, 0, HINT);
            const float *row = table + ids[i] * DIM;
            int64_t j = 0;
            for (; j + 32 <= DIM; j += 32)
                for (int k = 0; k < 4; k++) sums[k] += *(const vec *)(row + j + 8 * k);
            for (; j < DIM; j++) rest += row[j];
        }
        for (int j = 0; j < 32; j++) rest += sums[j / 8][j % 8];
        total += rest;
    }
    return total;
}

/* The write side of a training step: each row, given once and in rising order, is read and written. */
void rewrite_rows(float *table, const int64_t *rows, int64_t n, float factor, int64_t ahead, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const float *next = table + rows[i + ahead < n ? i + ahead : n - 1] * DIM;
        for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(next + j, 0, HINT);
        float *row = table + rows[i] * DIM;
        int64_t j = 0;
        for (; j + 8 <= DIM; j += 8) *(vec *)(row + j) *= factor;
        for (; j < DIM; j++) row[j] *= factor;
    }
}

/* The same for an optimizer's step: a row of the table and the row of its state, `width` floats. */
void rewrite_with_state(float *table, float *state, int64_t width, const int64_t *rows, int64_t n, float factor,
                        int64_t ahead, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const int64_t next = rows[i + ahead < n ? i + ahead : n - 1];
        for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(table + next * DIM + j, 0, HINT);
        for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(state + next * width + j, 0, HINT);
        float *row = table + rows[i] * DIM, *own = state + rows[i] * width;
        int64_t j = 0;
        for (; j + 8 <= DIM; j += 8) *(vec *)(row + j) *= factor;
        for (; j < DIM; j++) row[j] *= factor;
        for (j = 0; j + 8 <= width; j += 8) *(vec *)(own + j) *= factor;
        for (; j < width; j++) own[j] *= factor;
    }
}

/* The same with the sums of gradient parts that a step can not do without: row i gets the sum of the vectors
 * upstream[parts[k]], k in starts[i] .. starts[i + 1], times a factor. */
void rewrite_with_sums(float *table, float *state, int64_t width, const int64_t *rows, const int64_t *starts,
                       const int64_t *parts, const float *upstream, int64_t n, float factor, int64_t ahead, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const int64_t next = rows[i + ahead < n ? i + ahead : n - 1];
        for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(table + next * DIM + j, 0, HINT);
        for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(state + next * width + j, 0, HINT);
        float *row = table + rows[i] * DIM, *own = state + rows[i] * width, sum[DIM] = {0};
        for (int64_t k = starts[i]; k < starts[i + 1]; k++)
            for (int64_t j = 0; j < DIM; j++) sum[j] += upstream[parts[k] * DIM + j];
        for (int64_t j = 0; j < DIM; j++) row[j] += factor * sum[j];
        int64_t j = 0;
        for (; j + 8 <= width; j += 8) *(vec *)(own + j) *= 1.0f + factor;
        for (; j < width; j++) own[j] *= 1.0f + factor;
    }
}

/* random_rows for rows of DIM words of any kind: coded ones. */
int64_t random_words(const int32_t *table, const int64_t *ids, int64_t n, int64_t ahead, int threads)
{
    typedef int32_t words __attribute__((vector_size(32), aligned(4)));
    int64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        words even = {0}, odd = {0};
        uint32_t rest = 0;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const int32_t *next = table + ids[i + ahead < n ? i + ahead : n - 1] * DIM;
            for (int64_t j = 0; j < DIM; j += 16) __builtin_prefetch(next + j, 0, HINT);
            if (DIM % 16) __builtin_prefetch(next + DIM - 1, 0, HINT);
            const int32_t *row = table + ids[i] * DIM;
            int64_t j = 0;
            for (; j + 16 <= DIM; j += 16) {
                even += *(const words *)(row + j);
                odd += *(const words *)(row + j + 8);
            }
            for (; j < DIM; j++) rest += (uint32_t)row[j];
        }
        even += odd;
        for (int j = 0; j < 8; j++) rest += (uint32_t)even[j];
        total += rest;
    }
    return total & 0xffffffff;
}
