/* rows.h: the contract between the drivers (_core.pyx and _drivers/) and the row functions (rows_impl.h).
 *
 * May include: nothing but the C library. Do not break: every function gives the same bits on every
 * instruction set. So arithmetic goes element by element, sums across a row use 16 fixed lanes and a fixed
 * tree, and nothing is contracted to a fused multiply-add.
 *
 * Words: a block is an array of pointers to rows of d elements. A row may start at any multiple of 4 bytes (of 2, if its
 * elements are halves). Functions marked "ahead" prefetch rows[i + FE_AHEAD] while they work on rows[i]: the caller fills
 * FE_AHEAD more pointers behind the block (any readable address).
 *
 * A set of row functions belongs to one instruction set. It works on fe_real; each storage dtype has a codec, which
 * reads rows as fe_real and writes them again.
 */
#ifndef FE_ROWS_H
#define FE_ROWS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* What a number of a row is while it is worked on. The sources are compiled twice: with FE_DOUBLE for tables of float64. */
#ifdef FE_DOUBLE
#define FE_SIZE 8
typedef double fe_real;
#else
#define FE_SIZE 4
typedef float fe_real;
#endif

enum { FE_AHEAD = 64, FE_AHEAD_STEP = 16 };

/* What a step may read; what it does not read is 0. The products and bias corrections of a step number are made in
 * Python. */
typedef struct fe_hyper {
    fe_real learning_rate; /* Adam: with both bias corrections in it; Adamax: with one */
    fe_real momentum;
    fe_real beta_1;
    fe_real beta_2; /* RMSprop and Adadelta: rho */
    fe_real epsilon;
    fe_real weight_decay; /* only where it is a part of the gradient: LARS, row-wise LAMB */
    fe_real scale_m;      /* what the first moment is multiplied by: Nadam, LAMB, partial row-wise Adam */
    fe_real scale_g;      /* the gradient: Nadam */
    fe_real scale_v;      /* the second moment */
    fe_real l1;
    fe_real l2;
    fe_real l2_shrinkage;
    fe_real power;          /* Ftrl: of the learning rate */
    const fe_real *columns; /* one number for each column: Adafactor */
} fe_hyper;

/* One optimizer step on a block of n rows; each row occurs once. Rows and states FE_AHEAD_STEP further on are asked for:
 * the caller fills so many more pointers behind both. A step that is followed by another pass adds to `sums` what that
 * pass needs of all rows (FE_EACH_STEP says how many numbers; others get NULL).
 *     rows[i][0:d], states[i][...] <- step(rows[i], states[i], grads[i][0:d]) */
typedef void fe_step(fe_real *const *rows, fe_real *const *states, const fe_real *const *grads, size_t n, size_t d,
                     const fe_hyper *hyper, double *sums);

/* What steps without a gradient do to a row and its state, all at once:
 *     w -= fade w + (move[0] + move[1] r + ... ) x;   part p of the state *= decay[p]
 * where x and r come from the state, by the step: Adam: x = m / (sqrt(v) + epsilon), r = sqrt(v) / (sqrt(v) + epsilon).
 * rows[1] and states[1], a later row, are asked for. */
enum { FE_TERMS = 6, FE_PARTS = 3 };
typedef struct fe_lapse {
    fe_real fade;
    fe_real decay[FE_PARTS];
    fe_real move[FE_TERMS];
} fe_lapse;
typedef void fe_lapse_row(fe_real *const *rows, fe_real *const *states, size_t d, const fe_hyper *hyper,
                          const fe_lapse *lapse);

/* What rows have to satisfy; FE_FREE: nothing.
 *     FE_NON_NEG: x >= 0, else it becomes 0
 *     FE_NORM: low <= norm <= high; x *= wanted / (1e-7 + norm), wanted = rate * clip(norm, low, high) + (1 - rate) * norm */
enum { FE_FREE, FE_NON_NEG, FE_NORM };
typedef struct fe_constraint {
    int kind;
    fe_real low, high, rate;
} fe_constraint;

/* All steps: X(name, numbers in `sums`, and how many more for each column). */
#define FE_EACH_STEP(X)                \
    X(store, 0, 0)                     \
    X(squares, 1, 0)                   \
    X(sgd, 0, 0)                       \
    X(momentum, 0, 0)                  \
    X(nesterov, 0, 0)                  \
    X(adagrad, 0, 0)                   \
    X(rowwise_adagrad, 0, 0)           \
    X(adam, 0, 0)                      \
    X(amsgrad, 0, 0)                   \
    X(rmsprop, 0, 0)                   \
    X(rmsprop_momentum, 0, 0)          \
    X(rmsprop_centered, 0, 0)          \
    X(rmsprop_centered_momentum, 0, 0) \
    X(adadelta, 0, 0)                  \
    X(adamax, 0, 0)                    \
    X(nadam, 0, 0)                     \
    X(ftrl, 0, 0)                      \
    X(lion, 0, 0)                      \
    X(lamb_moments, 2, 0)              \
    X(lamb, 0, 0)                      \
    X(adafactor_squares, 2, 1)         \
    X(adafactor_norm, 1, 0)            \
    X(adafactor, 2, 0)                 \
    X(adafactor_vector_squares, 1, 0)  \
    X(adafactor_vector, 2, 0)          \
    X(partial_rowwise_adam, 0, 0)      \
    X(rowwise_lamb, 0, 0)              \
    X(rowwise_lars, 0, 0)              \
    X(rowwise_rmsprop, 0, 0)
#define FE_STEP_NUMBER(name, numbers, columns) FE_STEP_##name,
enum { FE_EACH_STEP(FE_STEP_NUMBER) FE_STEPS };
typedef struct fe_step_about {
    const char *name;
    int numbers, columns;
} fe_step_about;
extern const fe_step_about fe_steps[FE_STEPS];

enum { FE_ADD = 1, FE_IN_CACHE = 2 };

/* How elements are rounded to their storage dtype: to the nearest value, to even on ties; or, if `stochastic`, up or down
 * with a probability that makes the mean exact. The choice depends on (seed, step, row number, column), and what is rounded, alone. */
typedef struct fe_rounding {
    int stochastic;
    uint64_t seed, step;
} fe_rounding;

/* All storage dtypes: X(name, bits of an element, bytes before the elements of a row).
 *     float16, bfloat16: elements one after the other, in the processor's byte order
 *     int8, int4, int2: two floats, scale and offset; then codes c, two's complement, in bytes of one, two or four codes,
 *         the first in the lowest bits; zeros up to a multiple of 4 bytes. An element is scale * c + offset. */
#ifdef FE_DOUBLE
#define FE_EACH_DTYPE(X) X(float64, 64, 0)
#else
#define FE_EACH_DTYPE(X) \
    X(float32, 32, 0)    \
    X(bfloat16, 16, 0)   \
    X(float16, 16, 0)    \
    X(int8, 8, 8)        \
    X(int4, 4, 8)        \
    X(int2, 2, 8)
#endif
#define FE_DTYPE_NUMBER(name, bits, head) FE_##name,
enum { FE_EACH_DTYPE(FE_DTYPE_NUMBER) FE_DTYPES };
enum { FE_REAL }; /* the first is fe_real itself */
typedef struct fe_dtype_about {
    const char *name;
    size_t bits, head;
} fe_dtype_about;
extern const fe_dtype_about fe_dtypes[FE_DTYPES];

/* The bytes of a row of d elements. */
static inline size_t fe_row_bytes(int dtype, size_t d)
{
    const size_t bytes = fe_dtypes[dtype].head + (d * fe_dtypes[dtype].bits + 7) / 8;
    return fe_dtypes[dtype].head ? (bytes + 3) / 4 * 4 : bytes;
}

/* What a storage dtype has of its own. */
typedef struct fe_codec {
    /* out[i * d + j] = rows[i][j]; ahead. `stream`: store past the caches (out is larger than they are). */
    void (*copy)(const void *const *rows, size_t n, size_t d, fe_real *out, int stream);

    /* out[j] = (flags & FE_ADD ? out[j] : 0) + sum over i, in order, of w[i] * rows[i][j]; w NULL means ones; ahead,
     * unless flags & FE_IN_CACHE. */
    void (*sum)(const void *const *rows, const fe_real *w, size_t n, size_t d, fe_real *out, int flags);

    /* out[i * d + j] = rows[i][j]. Rows FE_AHEAD_STEP further on are asked for. */
    void (*decode)(const void *const *rows, size_t n, size_t d, fe_real *out);

    /* rows[i][j] = x[i * d + j], rounded. numbers: of the rows; part 0 and 1 are rounded in different ways. int8, int4, int2:
     * the x must be finite. */
    void (*encode)(void *const *rows, const int64_t *numbers, size_t n, size_t d, int part, const fe_real *x,
                   const fe_rounding *rounding);
} fe_codec;

/* decode, step and encode in one; w -= fade w comes first. d is a multiple of 32. */
typedef void fe_fused(void *const *rows, void *const *states, const int64_t *numbers, const fe_real *const *grads,
                      size_t n, size_t d, const fe_hyper *hyper, fe_real fade, const fe_rounding *rounding);

typedef struct fe_rows {
    const char *isa;
    fe_codec codec[FE_DTYPES];

    /* For a step on rows and states of these dtypes; NULL: there is none. */
    fe_fused *(*fused)(int dtype, int state_dtype, int step);

    /* rows[i] = the row ids[i] of a table of v rows. Returns 0 if an id lies outside 0..v; its row is then the first. */
    int (*point32)(const int32_t *ids, size_t n, const char *table, uint64_t v, size_t row_bytes, const void **rows);
    int (*point64)(const int64_t *ids, size_t n, const char *table, uint64_t v, size_t row_bytes, const void **rows);

    /* n sums of neighbouring parts, all in the caches: grads[i] points to the sum, at sums + i * d, of w[k] * parts[k] for
     * k in begins[i] - first .. begins[i + 1] - first; or, where that is one part and w is NULL, to the part itself. */
    void (*runs)(const fe_real *const *parts, const fe_real *w, const int64_t *begins, int64_t first, size_t n,
                 size_t d, fe_real *sums, const fe_real **grads);

    /* As sum, but row i counts only where args[i][j] == index[i] (the gradient of a maximum). */
    void (*sum_where)(const fe_real *const *rows, const int32_t *const *args, const int32_t *index, const fe_real *w,
                      size_t n, size_t d, fe_real *out, int add);

    /* out[j] = the largest w[i] * rows[i][j], the earlier one on ties, NaN if there is one; arg[j] (if not NULL) =
     * first + its i. add: go on from the values already in out and arg. ahead. */
    void (*max)(const fe_real *const *rows, const fe_real *w, size_t n, size_t d, fe_real *out, int32_t *arg,
                int32_t first, int add);

    /* x[j] *= factor */
    void (*scale)(fe_real *x, fe_real factor, size_t d);

    /* sum over j of x[j] * y[j] */
    fe_real (*dot)(const fe_real *x, const fe_real *y, size_t d);

    /* sums[0] = sum of |x[i]|, sums[1] = sum of x[i]^2, over i < n */
    void (*sums)(const fe_real *x, size_t n, double *sums);

    /* 0 if one of x[0:n] is infinite or NaN */
    int (*finite)(const fe_real *x, size_t n);

    /* rows[i][j] -= fade * rows[i][j] */
    void (*fade)(fe_real *const *rows, size_t n, size_t d, fe_real fade);

    /* x[j] += (y[j] - x[j]) * share; x = y where share is 1 */
    void (*blend)(fe_real *x, const fe_real *y, fe_real share, size_t d);

    /* out[j] = factor * x[j], but at least -limit and at most limit */
    void (*shape)(const fe_real *x, fe_real factor, fe_real limit, size_t d, fe_real *out);

    /* Returns how many rows break the constraint by more than rounding (a zero row, which nothing can lengthen, breaks
     * none); project: all rows are projected. */
    size_t (*constrain)(fe_real *const *rows, size_t n, size_t d, const fe_constraint *constraint, int project);

    /* Rows row .. row + n of a matrix with d columns, whose values are floats, from Philox4x32-10 keyed by seed: values depend on
     * (seed, row, column, d) alone. Uniform in [low, high). Normal: mean + stddev * z, where z is the normal quantile of
     * p_low + p_span * u and u is uniform in (0, 1); 0 and 1 give the whole normal distribution, a narrower range of
     * probabilities one that is cut off at the quantiles of its ends. 2^-34 <= p_low, p_low + p_span <= 1 - 2^-34, or 0
     * and 1. */
    void (*uniform)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float low, float high);
    void (*normal)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float mean, float stddev,
                   double p_low, double p_span);

    fe_step *step[FE_STEPS];
    fe_lapse_row *lapse[FE_STEPS]; /* NULL: there is no closed form */
} fe_rows;

/* The set named "base", "avx2" or "avx512"; NULL when this build or this processor has no such set. */
const fe_rows *fe_rows_select(const char *isa);

/* An invariant of the drivers; FASTEMBED_DEBUG=1 builds end the process where it is broken. */
static inline void fe_check(int holds)
{
    assert(holds);
    (void)holds;
}

/* Which cache a prefetch fills, set by fe_rows_select: 1 the first level, 0 the second. Intel's second level waits for
 * three times as many lines at once as its first, which is worth 1.3 x in random-row bandwidth; on AMD's Zen the first
 * level gives 1.1 x (benchmarks/README.md). */
extern int fe_near;

#if defined(__GNUC__)
#define FE_PREFETCH(p, near) ((near) ? __builtin_prefetch(p, 0, 3) : __builtin_prefetch(p, 0, 2))
#else
#define FE_PREFETCH(p, near) (void)(p)
#endif

/* Asks for all cache lines of bytes [p, p + bytes), at most the first 1024 bytes: the processor's own prefetcher
 * follows a longer row. */
static inline void fe_prefetch(const void *p, size_t bytes)
{
    uintptr_t line = (uintptr_t)p & ~(uintptr_t)63, end = (uintptr_t)p + (bytes < 1024 ? bytes : 1024);
    for (; line < end; line += 64) FE_PREFETCH((const void *)line, fe_near);
}

#endif
