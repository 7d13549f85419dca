/* rows_impl.h: the bodies of the row functions, included once by each rows_<isa>.c.
 *
 * The including file defines FE_ISA (the set's name) and FE_BYTES (of a vector: 16, 32 or 64; 0: there are none), and sets
 * the compiler's target. Do not break: the bits may not depend on FE_BYTES (see rows.h).
 *
 * Bodies are written once on a type V and expanded for a vector of FE_WIDTH numbers, for one of 4 if that is less, and for
 * a single number, so that a row of any length is served. gcc -O3 handles plain loops here badly (unroll-and-jam stops its
 * vectoriser), hence the explicit vector types.
 */
#include "rows.h"

#include <string.h>

#if FE_BYTES
#define FE_WIDTH (FE_BYTES / FE_SIZE)
#else
#define FE_WIDTH 1
#endif
#define FE_LINE (64 / FE_SIZE) /* numbers in a cache line */

#if FE_WIDTH > 1 && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#endif

#define FE_PASTE2(a, b) a##_##b
#define FE_PASTE(a, b) FE_PASTE2(a, b)
#define FE_NAME(name) FE_PASTE(name, FE_ISA)
#define FE_TEXT2(a) #a
#define FE_TEXT(a) FE_TEXT2(a)

/* A function of this set. Past the platform's floor its code has a section of its own, such as fe_avx2: so that
 * tests/test_floor.py can see, in a stripped file too, that the rest runs on every processor. */
#if defined(__ELF__) && FE_BYTES > 16
#define FE_STATIC static __attribute__((section("fe_" FE_TEXT(FE_ISA))))
#else
#define FE_STATIC static
#endif

/* Integers as large as fe_real; the bits of a number without its sign, and those of its exponent. */
#ifdef FE_DOUBLE
typedef int64_t fe_int;
#define FE_MAGNITUDE 0x7fffffffffffffff
#define FE_EXPONENT 0x7ff0000000000000
#else
typedef int32_t fe_int;
#define FE_MAGNITUDE 0x7fffffff
#define FE_EXPONENT 0x7f800000
#endif

#if FE_WIDTH > 1
#define FE_INLINE static inline __attribute__((always_inline))
typedef fe_real vec __attribute__((vector_size(FE_BYTES), aligned(FE_SIZE), may_alias));
typedef fe_int ivec __attribute__((vector_size(FE_BYTES), aligned(FE_SIZE), may_alias));
typedef int32_t places __attribute__((vector_size(4 * FE_WIDTH), aligned(4), may_alias));
typedef fe_real vec4 __attribute__((vector_size(4 * FE_SIZE), aligned(FE_SIZE), may_alias));
typedef fe_int ivec4 __attribute__((vector_size(4 * FE_SIZE), aligned(FE_SIZE), may_alias));
#define CONVERT(x, type) __builtin_convertvector(x, type)
#if FE_WIDTH > 4
#define FE_FOURS(body) \
    for (; j + 4 <= d; j += 4) { body(vec4, ivec4) }
#else
#define FE_FOURS(body)
#endif
/* The statements `body(V, I)` for every column j of 0..d: V a type of numbers, I an integer type of the same lanes. */
#define FE_COLUMNS(body)                                             \
    {                                                                \
        size_t j = 0;                                                \
        for (; j + FE_WIDTH <= d; j += FE_WIDTH) { body(vec, ivec) } \
        FE_FOURS(body)                                               \
        for (; j < d; j++) { body(fe_real, fe_int) }                 \
    }
#else
#define FE_INLINE static inline
typedef fe_real vec;
typedef fe_int ivec;
#define CONVERT(x, type) ((type)(x))
#define FE_COLUMNS(body) \
    for (size_t j = 0; j < d; j++) { body(fe_real, fe_int) }
#endif

#define AT(V, p) (*(V *)((p) + j))
#define GET(V, p) (*(const V *)((p) + j))

/* Square roots: IEEE, so the same bits everywhere. */
FE_INLINE fe_real sqrt_fe_real(fe_real x)
{
#if defined(__GNUC__)
    return FE_SIZE == 4 ? __builtin_sqrtf((float)x) : (fe_real)__builtin_sqrt(x);
#else
    extern float sqrtf(float);
    extern double sqrt(double);
    return FE_SIZE == 4 ? sqrtf((float)x) : (fe_real)sqrt(x);
#endif
}
#if FE_WIDTH > 1
FE_INLINE vec4 sqrt_vec4(vec4 x)
{
#if defined(__SSE2__) && !defined(FE_DOUBLE)
    return (vec4)_mm_sqrt_ps((__m128)x);
#elif FE_BYTES >= 32 && defined(FE_DOUBLE)
    return (vec4)_mm256_sqrt_pd((__m256d)x);
#else
    vec4 r;
    for (int k = 0; k < 4; k++) r[k] = sqrt_fe_real(x[k]);
    return r;
#endif
}
FE_INLINE vec sqrt_vec(vec x)
{
#if FE_BYTES == 64 && defined(FE_DOUBLE)
    return (vec)_mm512_sqrt_pd((__m512d)x);
#elif FE_BYTES == 64
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif FE_BYTES == 32 && !defined(FE_DOUBLE)
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif FE_WIDTH == 4
    return (vec)sqrt_vec4((vec4)x);
#elif defined(__SSE2__)
    return (vec)_mm_sqrt_pd((__m128d)x);
#else
    vec r;
    for (int k = 0; k < FE_WIDTH; k++) r[k] = sqrt_fe_real(x[k]);
    return r;
#endif
}
#else
#define sqrt_vec sqrt_fe_real
#define choose_vec choose_fe_real
#endif
#define SQRT(V, x) FE_PASTE(sqrt, V)(x)

/* m ? a : b by bits, where m is all ones or all zeros in each lane. */
#if FE_WIDTH > 1
#define PICK(V, I, m, a, b) ((V)(((I)(m) & (I)(a)) | (~(I)(m) & (I)(b))))
FE_INLINE vec choose_vec(ivec m, vec a, vec b) { return PICK(vec, ivec, m, a, b); }
FE_INLINE vec4 choose_vec4(ivec4 m, vec4 a, vec4 b) { return PICK(vec4, ivec4, m, a, b); }
#endif
FE_INLINE fe_real choose_fe_real(fe_int m, fe_real a, fe_real b) { return m ? a : b; }
/* condition ? a : b in the body of FE_COLUMNS, where V may be a single number; a and b are of type V. */
#define CHOOSE(V, I, condition, a, b) FE_PASTE(choose, V)((I)(condition), a, b)
#define ALL(V, x) ((V){0} + (fe_real)(x)) /* x in all lanes */

/* ---- ids ------------------------------------------------------------------------------------------------------ */

#define POINT(bits)                                                                                       \
    FE_STATIC int FE_NAME(point##bits)(const int##bits##_t *ids, size_t n, const char *table, uint64_t v, \
                                       size_t row_bytes, const void **rows)                               \
    {                                                                                                     \
        uint64_t bad = 0;                                                                                 \
        for (size_t i = 0; i < n; i++) {                                                                  \
            const uint64_t row = (uint64_t)(int64_t)ids[i], outside = row >= v;                           \
            bad |= outside;                                                                               \
            rows[i] = table + (outside ? 0 : row) * row_bytes;                                            \
        }                                                                                                 \
        return !bad;                                                                                      \
    }
POINT(32)
POINT(64)
#undef POINT

/* ---- blocks of rows ------------------------------------------------------------------------------------------- */

/* How copy stores: through the caches, or past them to an `out` that is aligned to 16 bytes, or to a whole vector. */
enum { CACHED, STREAM_16, STREAM_VEC };

/* A cache line. */
FE_INLINE void copy_line(fe_real *out, const fe_real *row, const int how)
{
#if FE_WIDTH > 1 && defined(__SSE2__)
    float *const to = (float *)out;
    const float *const from = (const float *)row;
    if (how == STREAM_16)
        for (int j = 0; j < 16; j += 4) _mm_stream_ps(to + j, _mm_loadu_ps(from + j));
    else if (how == STREAM_VEC)
        for (int j = 0; j < 16; j += FE_BYTES / 4)
#if FE_BYTES == 64
            _mm512_stream_ps(to + j, _mm512_loadu_ps(from + j));
#elif FE_BYTES == 32
            _mm256_stream_ps(to + j, _mm256_loadu_ps(from + j));
#else
            _mm_stream_ps(to + j, _mm_loadu_ps(from + j));
#endif
    else
#endif
        for (int j = 0; j < FE_LINE; j += FE_WIDTH) AT(vec, out) = GET(vec, row);
    (void)how;
}

FE_INLINE void copy_rows(const void *const *rows, size_t n, size_t d, fe_real *out, const int how, const int near)
{
    for (size_t i = 0; i < n; i++, out += d) {
        const fe_real *row = rows[i], *next = rows[i + FE_AHEAD];
        size_t j = 0;
        for (; j + FE_LINE <= d; j += FE_LINE) {
            FE_PREFETCH(next + j, near);
            copy_line(out + j, row + j, how);
        }
        FE_PREFETCH(next + d - 1, near); /* a row that does not start at a cache line ends in one more */
#if FE_WIDTH > 1
        for (; j + 4 <= d; j += 4) AT(vec4, out) = GET(vec4, row);
#endif
        for (; j < d; j++) out[j] = row[j];
    }
}

FE_STATIC void FE_NAME(copy_real)(const void *const *rows, size_t n, size_t d, fe_real *out, int stream)
{
#if FE_WIDTH > 1 && defined(__SSE2__)
    if (stream && d % FE_LINE == 0 && (uintptr_t)out % 16 == 0) {
        if ((uintptr_t)out % 64 != 0)
            copy_rows(rows, n, d, out, STREAM_16, fe_near);
        else if (fe_near)
            copy_rows(rows, n, d, out, STREAM_VEC, 1);
        else
            copy_rows(rows, n, d, out, STREAM_VEC, 0);
        _mm_sfence();
        return;
    }
#endif
    (void)stream;
    copy_rows(rows, n, d, out, CACHED, fe_near);
}

/* What a sum asks for ahead of its use: nothing, the lines of the columns that it sums (they are the whole row), or all
 * lines of a row. */
enum { ASK_NOTHING, ASK_COLUMNS, ASK_ROW };

/* Columns j .. j + FE_WIDTH * nv of a sum: the accumulators stay in registers over the whole block. `bytes` of a row, and
 * `last`: where its last cache line is, if a row has one more than it is long. Whatever can be is a constant: without the
 * two or three tests for a row that ASK_COLUMNS spares, a sum takes 0.85 of the time. */
FE_INLINE void sum_columns(const void *const *rows, const fe_real *w, size_t n, size_t j, fe_real *out, int add,
                           size_t bytes, size_t last, const int nv, const int weighted, const int ask, const int near)
{
    const size_t done = FE_SIZE * FE_WIDTH * (size_t)nv;
    vec acc[8];
    for (int k = 0; k < nv; k++) acc[k] = add ? *(const vec *)(out + j + k * FE_WIDTH) : (vec){0};
    for (size_t i = 0; i < n; i++) {
        const fe_real *row = (const fe_real *)rows[i] + j;
        if (ask != ASK_NOTHING) {
            const char *next = (const char *)rows[i + FE_AHEAD];
            for (int line = 0; line < nv * FE_WIDTH / FE_LINE; line++) FE_PREFETCH(next + 64 * line, near);
            if (ask == ASK_ROW && bytes > done) fe_prefetch(next + done, bytes - done);
            if (ask == ASK_ROW && last) FE_PREFETCH(next + last, near);
        }
        for (int k = 0; k < nv; k++) {
            const vec part = *(const vec *)(row + k * FE_WIDTH);
            if (weighted)
                acc[k] += w[i] * part;
            else
                acc[k] += part;
        }
    }
    for (int k = 0; k < nv; k++) *(vec *)(out + j + k * FE_WIDTH) = acc[k];
}

FE_STATIC void FE_NAME(sum_real)(const void *const *rows, const fe_real *w, size_t n, size_t d, fe_real *out, int flags)
{
    const int add = flags & FE_ADD, near = fe_near;
    const size_t bytes = d * sizeof(fe_real);
    const size_t last = n && ((uintptr_t)rows[0] | bytes) % 64 != 0 ? bytes - 1 : 0;
    int ask = flags & FE_IN_CACHE ? ASK_NOTHING : ASK_ROW; /* the first columns ask for all */
    size_t j = 0;
#define SUM(j, nv, weighted, ask, near) sum_columns(rows, w, n, j, out, add, bytes, last, nv, weighted, ask, near)
#define COLUMNS(nv)                                                                        \
    for (; j + (nv) * FE_WIDTH <= d; j += (nv) * FE_WIDTH, ask = ASK_NOTHING) {            \
        const int whole = d == (nv) * FE_WIDTH && !last && (nv) * FE_WIDTH % FE_LINE == 0; \
        if (w)                                                                             \
            SUM(j, nv, 1, ask, near);                                                      \
        else if (ask == ASK_NOTHING)                                                       \
            SUM(j, nv, 0, ASK_NOTHING, 0);                                                 \
        else if (!whole)                                                                   \
            SUM(j, nv, 0, ASK_ROW, near);                                                  \
        else if (near)                                                                     \
            SUM(0, nv, 0, ASK_COLUMNS, 1);                                                 \
        else                                                                               \
            SUM(0, nv, 0, ASK_COLUMNS, 0);                                                 \
    }
    COLUMNS(8)
    COLUMNS(4)
    COLUMNS(2)
    COLUMNS(1)
#undef COLUMNS
#undef SUM
#if FE_WIDTH > 4
    for (; j + 4 <= d; j += 4, ask = ASK_NOTHING) {
        vec4 acc = add ? AT(vec4, out) : (vec4){0};
        for (size_t i = 0; i < n; i++) {
            if (ask) fe_prefetch(rows[i + FE_AHEAD], bytes);
            if (w)
                acc += w[i] * GET(vec4, (const fe_real *)rows[i]);
            else
                acc += GET(vec4, (const fe_real *)rows[i]);
        }
        AT(vec4, out) = acc;
    }
#endif
    if (j == d) return;
    for (size_t k = j; k < d && !add; k++) out[k] = 0;
    for (size_t i = 0; i < n; i++) {
        const fe_real *row = rows[i], factor = w ? w[i] : 1.0f;
        if (ask) fe_prefetch(rows[i + FE_AHEAD], bytes);
        for (size_t k = j; k < d; k++) out[k] += factor * row[k];
    }
}

/* Runs of parts of FE_WIDTH * nv columns: a call of `sum` for each would take as long as the sum of two parts. */
FE_INLINE void runs_of(const fe_real *const *parts, const fe_real *w, const int64_t *begins, int64_t first, size_t n,
                       fe_real *sums, const fe_real **grads, const int nv)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = (size_t)(begins[i] - first);
        const size_t end = (size_t)(begins[i + 1] - first);
        fe_real *const out = sums + i * FE_WIDTH * (size_t)nv;
        vec acc[8];
        if (!w && end - k == 1) {
            grads[i] = parts[k];
            continue;
        }
        for (int v = 0; v < nv; v++) acc[v] = (vec){0};
        for (; k < end; k++)
            for (int v = 0; v < nv; v++) {
                const vec part = *(const vec *)(parts[k] + v * FE_WIDTH);
                if (w)
                    acc[v] += w[k] * part;
                else
                    acc[v] += part;
            }
        for (int v = 0; v < nv; v++) *(vec *)(out + v * FE_WIDTH) = acc[v];
        grads[i] = out;
    }
}

FE_STATIC void FE_NAME(runs)(const fe_real *const *parts, const fe_real *w, const int64_t *begins, int64_t first,
                             size_t n, size_t d, fe_real *sums, const fe_real **grads)
{
    switch (d % FE_WIDTH ? 0 : d / FE_WIDTH) {
    case 1:
        runs_of(parts, w, begins, first, n, sums, grads, 1);
        return;
    case 2:
        runs_of(parts, w, begins, first, n, sums, grads, 2);
        return;
    case 4:
        runs_of(parts, w, begins, first, n, sums, grads, 4);
        return;
    case 8:
        runs_of(parts, w, begins, first, n, sums, grads, 8);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const size_t k = (size_t)(begins[i] - first), count = (size_t)(begins[i + 1] - begins[i]);
        grads[i] = !w && count == 1 ? parts[k] : sums + i * d;
        if (w || count != 1)
            FE_NAME(sum_real)((const void *const *)parts + k, w ? w + k : NULL, count, d, sums + i * d, FE_IN_CACHE);
    }
}

FE_STATIC void FE_NAME(sum_where)(const fe_real *const *rows, const int32_t *const *args, const int32_t *index,
                                  const fe_real *w, size_t n, size_t d, fe_real *out, int add)
{
    if (!add) memset(out, 0, d * sizeof(fe_real));
    for (size_t i = 0; i < n; i++) {
        const fe_real factor = w ? w[i] : 1.0f;
        for (size_t j = 0; j < d; j++)
            if (args[i][j] == index[i]) out[j] += factor * rows[i][j];
    }
}

FE_STATIC void FE_NAME(max)(const fe_real *const *rows, const fe_real *w, size_t n, size_t d, fe_real *out,
                            int32_t *arg, int32_t first, int add)
{
    for (size_t i = 0; i < n; i++) {
        const fe_real factor = w ? w[i] : 1.0f;
        const int32_t here = first + (int32_t)i;
        fe_prefetch(rows[i + FE_AHEAD], d * sizeof(fe_real));
        if (i == 0 && !add) {
            for (size_t j = 0; j < d; j++) out[j] = factor * rows[0][j];
            for (size_t j = 0; j < d && arg; j++) arg[j] = here;
            continue;
        }
#if FE_WIDTH > 1
        size_t j = 0;
        for (; j + FE_WIDTH <= d; j += FE_WIDTH) {
            vec best = AT(vec, out), v = factor * GET(vec, rows[i]);
            ivec better = (ivec)(v > best) | (ivec)(v != v);
            AT(vec, out) = PICK(vec, ivec, better, v, best);
            if (arg)
                AT(places, arg) =
                    CONVERT(PICK(ivec, ivec, better, (ivec){0} + here, CONVERT(AT(places, arg), ivec)), places);
        }
#else
        size_t j = 0;
#endif
        for (; j < d; j++) {
            fe_real v = factor * rows[i][j];
            if (v > out[j] || v != v) {
                out[j] = v;
                if (arg) arg[j] = here;
            }
        }
    }
}

FE_STATIC void FE_NAME(scale)(fe_real *x, fe_real factor, size_t d)
{
#define BODY(V, I) AT(V, x) = factor * AT(V, x);
    FE_COLUMNS(BODY)
#undef BODY
}

FE_STATIC int FE_NAME(finite)(const fe_real *x, size_t n)
{
    fe_int bits, bad = 0;
    size_t i = 0;
#if FE_WIDTH > 1
    ivec worst = {0};
    for (; i + FE_WIDTH <= n; i += FE_WIDTH) worst |= (*(const ivec *)(x + i) & FE_EXPONENT) == FE_EXPONENT;
    for (int k = 0; k < FE_WIDTH; k++) bad |= worst[k];
#endif
    for (; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & FE_EXPONENT) == FE_EXPONENT;
    }
    return !bad;
}

FE_STATIC void FE_NAME(fade)(fe_real *const *rows, size_t n, size_t d, fe_real fade)
{
    for (size_t i = 0; i < n; i++) {
        fe_real *const w = rows[i];
#define BODY(V, I) AT(V, w) -= fade * AT(V, w);
        FE_COLUMNS(BODY)
#undef BODY
    }
}

FE_STATIC void FE_NAME(blend)(fe_real *x, const fe_real *y, fe_real share, size_t d)
{
    if (share == 1) {
        memcpy(x, y, d * sizeof(fe_real));
        return;
    }
#define BODY(V, I) AT(V, x) += (GET(V, y) - AT(V, x)) * share;
    FE_COLUMNS(BODY)
#undef BODY
}

FE_STATIC void FE_NAME(shape)(const fe_real *x, fe_real factor, fe_real limit, size_t d, fe_real *out)
{
    for (size_t j = 0; j < d; j++) {
        const fe_real product = factor * x[j], least = product < -limit ? -limit : product;
        out[j] = least > limit ? limit : least;
    }
}

#if FE_WIDTH > 1
/* p[0 .. count], zeros behind it. */
FE_INLINE vec4 some_of_4(const fe_real *p, size_t count)
{
    if (count >= 4) return *(const vec4 *)p;
    return (vec4){count > 0 ? p[0] : 0, count > 1 ? p[1] : 0, count > 2 ? p[2] : 0, 0};
}

/* The sum over j of x[j] * y[j], or of |x[j]|: 16 lanes, then a tree. A lane is never -0, so adding zeros to it changes
 * nothing. */
FE_INLINE vec lane_term(vec x, vec y, const int magnitudes)
{ return magnitudes ? (vec)((ivec)x & FE_MAGNITUDE) : (vec)(x * y); }
FE_INLINE vec4 lane_term_4(vec4 x, vec4 y, const int magnitudes)
{ return magnitudes ? (vec4)((ivec4)x & FE_MAGNITUDE) : (vec4)(x * y); }
FE_INLINE fe_real sum_lanes(const fe_real *x, const fe_real *y, size_t d, const int magnitudes)
{
    vec acc[16 / FE_WIDTH];
    vec4 lane[4];
    size_t j = 0;
    for (int k = 0; k < 16 / FE_WIDTH; k++) acc[k] = (vec){0};
    for (; j + 16 <= d; j += 16)
        for (int k = 0; k < 16 / FE_WIDTH; k++)
            acc[k] += lane_term(*(const vec *)(x + j + k * FE_WIDTH), *(const vec *)(y + j + k * FE_WIDTH), magnitudes);
    memcpy(lane, acc, sizeof lane);
    for (size_t k = 0; k < 4 && j < d; k++, j += 4)
        lane[k] += lane_term_4(some_of_4(x + j, d - j), some_of_4(y + j, d - j), magnitudes);
    lane[0] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    return (lane[0][0] + lane[0][2]) + (lane[0][1] + lane[0][3]);
}
#else
FE_INLINE fe_real sum_lanes(const fe_real *x, const fe_real *y, size_t d, const int magnitudes)
{
    fe_real lane[16] = {0};
    for (size_t j = 0; j < d; j++) lane[j % 16] += !magnitudes ? x[j] * y[j] : x[j] < 0 ? -x[j] : x[j];
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}
#endif
FE_INLINE fe_real dot_rows(const fe_real *x, const fe_real *y, size_t d) { return sum_lanes(x, y, d, 0); }

FE_STATIC fe_real FE_NAME(dot)(const fe_real *x, const fe_real *y, size_t d) { return dot_rows(x, y, d); }

FE_STATIC void FE_NAME(sums)(const fe_real *x, size_t n, double *sums)
{
    enum { PIECE = 1024 }; /* summed as fe_real */
    sums[0] = sums[1] = 0;
    for (size_t i = 0; i < n; i += PIECE) {
        const size_t count = n - i < PIECE ? n - i : PIECE;
        sums[0] += sum_lanes(x + i, x + i, count, 1);
        sums[1] += dot_rows(x + i, x + i, count);
    }
}

FE_STATIC size_t FE_NAME(constrain)(fe_real *const *rows, size_t n, size_t d, const fe_constraint *constraint,
                                    int project)
{
    const fe_real low = constraint->low, high = constraint->high, rate = constraint->rate;
    size_t broken = 0;
    for (size_t i = 0; i < n; i++) {
        fe_real *const w = rows[i];
        if (constraint->kind == FE_NON_NEG) {
            int negative = 0;
            for (size_t j = 0; j < d; j++) {
                negative |= w[j] < 0;
                if (project) w[j] = w[j] < 0 ? 0 : w[j];
            }
            broken += negative;
        } else if (constraint->kind == FE_NORM) {
            const fe_real norm = sqrt_fe_real(dot_rows(w, w, d));
            const fe_real least = norm < low ? low : norm, clipped = least > high ? high : least;
            const fe_real wanted =
                rate == 1 ? clipped : rate * clipped + (1.0f - rate) * norm; /* norm may be infinite */
            const fe_real factor = wanted / ((fe_real)1e-7 + norm);
            broken += (norm > 0 && norm < low * (1.0f - 1e-5f)) || norm > high * (1.0f + 1e-5f);
            if (!project) continue;
#define BODY(V, I) AT(V, w) *= factor;
            FE_COLUMNS(BODY)
#undef BODY
        }
    }
    return broken;
}

/* ---- double precision --------------------------------------------------------------------------------------------- */

#if FE_WIDTH > 1
enum { LANES = FE_BYTES / 8 };
typedef uint64_t wide __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef double real __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef uint32_t narrow __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float narrow_float __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef fe_real lanes __attribute__((vector_size(FE_SIZE * LANES), aligned(FE_SIZE), may_alias));
#define MASK(condition) ((wide)(condition))
#else
enum { LANES = 1 };
typedef uint64_t wide;
typedef double real;
typedef uint32_t narrow;
typedef float narrow_float;
typedef fe_real lanes;
#define MASK(condition) (-(uint64_t)(condition))
#endif

FE_INLINE wide bits_of(real x)
{
    wide bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

FE_INLINE real real_of(wide bits)
{
    real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* mask ? a : b, by bits. */
FE_INLINE real pick(wide mask, real a, real b) { return real_of((mask & bits_of(a)) | (~mask & bits_of(b))); }

/* By hand, as the logarithm of the C library differs between processors. x is normal and positive. */
FE_INLINE real natural_log(real x)
{
    const wide bits = bits_of(x);
    real s, z, sum = (real){0} + 1.0 / 19;
    real exponent = real_of((bits >> 52) | 0x4330000000000000u) - (0x1p52 + 1023);
    x = real_of((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    const wide high = MASK(x > 1.4142135623730951);
    x = pick(high, x * 0.5, x);
    exponent = pick(high, exponent + 1.0, exponent);
    s = (x - 1.0) / (x + 1.0); /* |s| < 0.172; log x = 2 atanh s */
    z = s * s;
    for (int k = 17; k > 0; k -= 2) sum = sum * z + 1.0 / k;
    return 2.0 * s * sum + exponent * 0.693147180559945309417;
}

/* e^x, to about 1e-13 (FE_DOUBLE: 1e-15); beyond e^700 and e^-700 it stays there. */
FE_INLINE real exponential(real x)
{
    const real shift = (real){0} + 0x1.8p52, zero = {0};
    x = pick(MASK(x > 700.0), zero + 700.0, pick(MASK(x < -700.0), zero - 700.0, x));
    const real k = x * 1.44269504088896340736 + shift; /* its last bits are the integer next to x / log 2 */
    const real r = x - (k - shift) * 0.693147180559945309417;
    real sum = zero + 1.0;
    for (int n = FE_SIZE == 4 ? 10 : 13; n > 0; n--) sum = sum * r * (1.0 / n) + 1.0;
    return real_of(bits_of(sum) + (bits_of(k) << 52));
}

/* x[i] = x[i]^p, for n numbers x >= 0. 0, infinity and NaN stay as they are, of doubles also those at the ends of their range. */
FE_STATIC void powers(fe_real *x, size_t n, double p)
{
    const double least = FE_SIZE == 4 ? 0.0 : 0x1p-1022, most = FE_SIZE == 4 ? 1e39 : 0x1p1023;
    for (size_t i = 0; i < n; i += LANES) {
        double lane[LANES];
        for (size_t l = 0; l < LANES; l++) lane[l] = i + l < n ? x[i + l] : 1;
        const real y = *(const real *)lane;
        const wide inside = MASK(y > least) & MASK(y < most);
        *(real *)lane = pick(inside, exponential(p * natural_log(y)), y);
        for (size_t l = 0; l < LANES && i + l < n; l++) x[i + l] = (fe_real)lane[l];
    }
}

#include "steps_impl.h"

/* ---- random rows --------------------------------------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) on 16 counters at once: counter (row, block) of a matrix row, word k of
 * the result at words[16 k + lane]. Lanes are 64 bits wide; only their low halves mean anything until the end. */
FE_INLINE wide multiply(wide a, uint32_t b)
{
#if FE_BYTES == 64
    return (wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif FE_BYTES == 32
    return (wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif FE_BYTES == 16 && defined(__SSE2__)
    return (wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & 0xffffffffu) * (uint64_t)b;
#endif
}

FE_INLINE void philox_lanes(wide row, wide block, uint64_t seed, wide *words_4)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    wide x0 = row, x1 = x0 >> 32, x2 = block, x3 = x2 >> 32;
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const wide p0 = multiply(x0, 0xD2511F53u), p1 = multiply(x2, 0xCD9E8D57u);
        x0 = (p1 >> 32) ^ x1 ^ (uint64_t)k0;
        x1 = p1;
        x2 = (p0 >> 32) ^ x3 ^ (uint64_t)k1;
        x3 = p0;
    }
    words_4[0] = x0, words_4[1] = x1, words_4[2] = x2, words_4[3] = x3;
}

FE_STATIC void FE_NAME(philox)(const uint64_t *row, const uint64_t *block, uint64_t seed, uint32_t *words)
{
    for (int lane = 0; lane < 16; lane += LANES) {
        wide x[4];
        uint64_t out[4][LANES];
        philox_lanes(*(const wide *)(row + lane), *(const wide *)(block + lane), seed, x);
        memcpy(out, x, sizeof x);
        for (int k = 0; k < 4; k++)
            for (int l = 0; l < LANES; l++) words[16 * k + lane + l] = (uint32_t)out[k][l];
    }
}

/* 24 random bits to [0, 1), stretched; rounding may not reach `high`. */
FE_INLINE float uniform_value(uint32_t word, float low, float span, float last)
{
    float x = low + (float)(int32_t)(word >> 8) * 0x1p-24f * span;
    return x < last ? x : last;
}

FE_INLINE real sqrt_real(real x)
{
#if FE_BYTES == 64
    return (real)_mm512_sqrt_pd((__m512d)x);
#elif FE_BYTES == 32
    return (real)_mm256_sqrt_pd((__m256d)x);
#elif FE_BYTES == 16 && defined(__SSE2__)
    return (real)_mm_sqrt_pd((__m128d)x);
#elif FE_WIDTH > 1
    real r;
    for (int l = 0; l < LANES; l++) r[l] = __builtin_sqrt(x[l]);
    return r;
#else
    extern double sqrt(double);
    return sqrt(x);
#endif
}

/* The normal quantile: Wichura's algorithm AS 241 (PPND16), 1988; relative error about 1e-16 in double. Numerator and
 * denominator of two of its three rational functions, highest power first: 32 random bits never reach the third. */
FE_INLINE real horner(const double *c, real x)
{
    real sum = (real){0} + c[0];
    for (int k = 1; k < 8; k++) sum = sum * x + c[k];
    return sum;
}

static const double centre_top[8] = {2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
                                     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
                                     1.3314166789178437745e2, 3.3871328727963666080e0};
static const double centre_bottom[8] = {
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0};
static const double tail_top[8] = {7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                                   1.27045825245236838258e0,  3.64784832476320460504e0,  5.76949722146069140550e0,
                                   4.63033784615654529590e0,  1.42343711074968357734e0};
static const double tail_bottom[8] = {
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0,  2.05319162663775882187e0,  1.0};

/* z[i] = the quantile of p[i], for 64 of them: first as if all were near the centre, then those again that are not. */
FE_STATIC void FE_NAME(quantiles)(const double *p, double *z)
{
    int far[64 + LANES], count = 0;
    double tails[LANES];
    for (int i = 0; i < 64; i += LANES) {
        const real q = *(const real *)(p + i) - 0.5, r = 0.180625 - q * q;
        *(real *)(z + i) = q * horner(centre_top, r) / horner(centre_bottom, r);
    }
    for (int i = 0; i < 64; i++) {
        const double q = p[i] - 0.5;
        far[count] = i;
        count += (q < -0.425) | (q > 0.425);
    }
    for (int l = 0; l < LANES; l++) far[count + l] = far[0]; /* the last group is a whole one */
    for (int i = 0; i < count; i += LANES) {
        for (int l = 0; l < LANES; l++) tails[l] = p[far[i + l]];
        const real x = *(const real *)tails;
        const wide below = MASK(x < 0.5);
        const real t = sqrt_real(-natural_log(pick(below, x, 1.0 - x))) - 1.6;
        const real tail = horner(tail_top, t) / horner(tail_bottom, t);
        *(real *)tails = real_of(bits_of(tail) ^ (below & 0x8000000000000000u));
        for (int l = 0; l < LANES; l++) z[far[i + l]] = tails[l];
    }
}

FE_INLINE void put_16(fe_real *out, const float *values)
{
#ifdef FE_DOUBLE
    for (int k = 0; k < 16; k++) out[k] = values[k];
#else
    memcpy(out, values, 64);
#endif
}

/* Fills a matrix; make() turns words[0:64] into values[0:64]. With c = ceil(d / 4) counters a row, word k of counter b is
 * column k c + b. */
#define FILL(make)                                                                              \
    const size_t c = (d + 3) / 4, total = n * c;                                                \
    uint64_t rows[16], blocks[16];                                                              \
    uint32_t words[64];                                                                         \
    float values[64];                                                                           \
    size_t i = 0, b = 0; /* the next counter: row i, block b */                                 \
    for (size_t at = 0; at < total; at += 16) {                                                 \
        const int lanes = total - at < 16 ? (int)(total - at) : 16;                             \
        for (int l = 0; l < 16; l++) { /* lanes past the end repeat a row; nobody reads them */ \
            rows[l] = row + i, blocks[l] = b;                                                   \
            if (++b == c) b = 0, i++;                                                           \
        }                                                                                       \
        FE_NAME(philox)(rows, blocks, seed, words);                                             \
        make();                                                                                 \
        if (c % 16 == 0 && d % 4 == 0) { /* 16 counters are 4 runs of 16 columns of one row */  \
            fe_real *to = out + (rows[0] - row) * d + blocks[0];                                \
            for (int k = 0; k < 4; k++) put_16(to + k * c, values + 16 * k);                    \
        } else                                                                                  \
            for (int l = 0; l < lanes; l++)                                                     \
                for (size_t k = 0; k < 4 && k * c + blocks[l] < d; k++)                         \
                    out[(rows[l] - row) * d + k * c + blocks[l]] = values[16 * k + l];          \
    }

#if FE_WIDTH > 1
/* The same for lanes of words. */
FE_INLINE narrow_float uniform_lanes(wide words, float low, float span, float last)
{
    typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    const narrow_float zero = {0};
    const narrow_float x = low + CONVERT((whole)(CONVERT(words, narrow) >> 8), narrow_float) * 0x1p-24f * span;
    const whole below = x < last;
    return (narrow_float)((below & (whole)x) | (~below & (whole)(zero + last)));
}

/* Rows whose counters fill vectors: nothing passes through memory on the way. */
FE_STATIC void FE_NAME(uniform_rows)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float low,
                                     float span, float last)
{
    const size_t c = d / 4;
    const wide zero = {0};
    wide counters, x[4];
    for (int l = 0; l < LANES; l++) counters[l] = (uint64_t)l;
    for (size_t i = 0; i < n; i++, out += d)
        for (size_t b = 0; b < c; b += LANES) {
            philox_lanes(zero + (row + i), counters + (uint64_t)b, seed, x);
            for (int k = 0; k < 4; k++)
                *(lanes *)(out + k * c + b) = CONVERT(uniform_lanes(x[k], low, span, last), lanes);
        }
}
#endif

FE_STATIC void FE_NAME(uniform)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float low, float high)
{
    const float span = high - low;
    float last = high; /* the largest float below high */
    if (low < high) {
        int32_t bits;
        memcpy(&bits, &high, 4);
        bits = high == 0 ? INT32_MIN + 1 : high > 0 ? bits - 1 : bits + 1;
        memcpy(&last, &bits, 4);
    }
#if FE_WIDTH > 1
    if (d % (4 * LANES) == 0) {
        FE_NAME(uniform_rows)(out, row, n, d, seed, low, span, last);
        return;
    }
#endif
#define MAKE() \
    for (int w = 0; w < 64; w++) values[w] = uniform_value(words[w], low, span, last)
    FILL(MAKE)
#undef MAKE
}

FE_STATIC void FE_NAME(normal)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float mean, float stddev,
                               double p_low, double p_span)
{
    double p[64], z[64];
#define MAKE()                                                                                               \
    for (int w = 0; w < 64; w += LANES)                                                                      \
        *(real *)(p + w) = p_low + p_span * ((CONVERT(*(const narrow *)(words + w), real) + 0.5) * 0x1p-32); \
    FE_NAME(quantiles)(p, z);                                                                                \
    for (int w = 0; w < 64; w += LANES)                                                                      \
    *(narrow_float *)(values + w) = CONVERT((double)mean + (double)stddev * *(const real *)(z + w), narrow_float)
    FILL(MAKE)
#undef MAKE
}

/* ---- storage dtypes ------------------------------------------------------------------------------------------------ */

#ifndef FE_DOUBLE
#include "codecs_impl.h"
#include "fused_impl.h"
#else
FE_STATIC fe_fused *FE_NAME(fused)(int dtype, int state_dtype, int step)
{
    (void)dtype, (void)state_dtype, (void)step;
    return NULL;
}
#endif

const fe_rows FE_NAME(fe_rows) = {
    FE_TEXT(FE_ISA),
    {{FE_NAME(copy_real), FE_NAME(sum_real), NULL, NULL},
#ifndef FE_DOUBLE
#define CODEC_ENTRY(name) {FE_NAME(copy_##name), FE_NAME(sum_##name), FE_NAME(decode_##name), FE_NAME(encode_##name)},
     CODEC_ENTRY(bfloat16) CODEC_ENTRY(float16) CODEC_ENTRY(int8) CODEC_ENTRY(int4) CODEC_ENTRY(int2)
#undef CODEC_ENTRY
#endif
    },
    FE_NAME(fused),
    FE_NAME(point32),
    FE_NAME(point64),
    FE_NAME(runs),
    FE_NAME(sum_where),
    FE_NAME(max),
    FE_NAME(scale),
    FE_NAME(dot),
    FE_NAME(sums),
    FE_NAME(finite),
    FE_NAME(fade),
    FE_NAME(blend),
    FE_NAME(shape),
    FE_NAME(constrain),
    FE_NAME(uniform),
    FE_NAME(normal),
#define STEP_ENTRY(name, numbers, columns) FE_NAME(name),
    {FE_EACH_STEP(STEP_ENTRY)},
#undef STEP_ENTRY
    {FE_LAPSES},
};
