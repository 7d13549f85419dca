/* codec_impl.h: copy and sum for one storage dtype; included by codecs_impl.h once for each, with FE_DTYPE (its name) and
 * FE_SHARED (1: the elements of a row share scale and offset). They decode in registers: a row is never written down as
 * float32. */

FE_INLINE void CODED(copy_rows)(const void *const *rows, size_t n, size_t d, float *out, const int stream,
                                const int lines, const int ahead)
{
    const size_t bytes = fe_row_bytes(FE_PASTE(FE, FE_DTYPE), d);
    for (size_t i = 0; i < n; i++, out += d) {
        const char *const row = (const char *)rows[i];
        const share shared = FE_SHARED ? share_of(row) : (share){0, 0};
        size_t j = 0;
        (void)shared;
        ask_lines(rows[i + ahead], bytes, lines, fe_near);
        for (; j + FE_WIDTH <= d; j += FE_WIDTH) {
            const vec part = LOAD(vec, row, j);
#if FE_WIDTH == 16
            if (stream)
                _mm512_stream_ps(out + j, (__m512)part);
            else
#elif FE_WIDTH == 8
            if (stream)
                _mm256_stream_ps(out + j, (__m256)part);
            else
#elif FE_WIDTH > 1 && defined(__SSE2__)
            if (stream)
                _mm_stream_ps(out + j, (__m128)part);
            else
#endif
                AT(vec, out) = part;
        }
#if FE_WIDTH > 4
        for (; j + 4 <= d; j += 4) AT(vec4, out) = LOAD(vec4, row, j);
#endif
        for (; j < d; j++) out[j] = LOAD(float, row, j);
    }
    (void)stream;
}

FE_STATIC void CODED(copy)(const void *const *rows, size_t n, size_t d, float *out, int stream)
{
    const size_t lines = n ? lines_touched(rows[0], fe_row_bytes(FE_PASTE(FE, FE_DTYPE), d)) : 0;
#if FE_WIDTH > 1 && defined(__SSE2__)
    if (stream && d % FE_WIDTH == 0 && (uintptr_t)out % (4 * FE_WIDTH) == 0) {
        if (lines <= 2)
            CODED(copy_rows)(rows, n, d, out, 1, 2, FE_AHEAD);
        else
            CODED(copy_rows)(rows, n, d, out, 1, 3, FE_AHEAD);
        _mm_sfence();
        return;
    }
#endif
    (void)stream;
    if (lines <= 2)
        CODED(copy_rows)(rows, n, d, out, 0, 2, FE_AHEAD);
    else
        CODED(copy_rows)(rows, n, d, out, 0, 3, FE_AHEAD);
}

FE_STATIC void CODED(decode)(const void *const *rows, size_t n, size_t d, float *out)
{
    if (lines_touched(rows[0], fe_row_bytes(FE_PASTE(FE, FE_DTYPE), d)) <= 2)
        CODED(copy_rows)(rows, n, d, out, 0, 2, FE_AHEAD_STEP);
    else
        CODED(copy_rows)(rows, n, d, out, 0, 3, FE_AHEAD_STEP);
}

/* Columns j .. j + FE_WIDTH * nv of a sum: the accumulators stay in registers over the whole block. Offsets, which are the
 * same in all columns, are summed apart. */
FE_INLINE void CODED(sum_columns)(const void *const *rows, const float *w, size_t n, size_t j, float *out, int add,
                                  size_t bytes, const int nv, const int weighted, const int lines, const int near)
{
    vec acc[8];
    float offsets = 0;
    for (int k = 0; k < nv; k++) acc[k] = add ? *(const vec *)(out + j + k * FE_WIDTH) : (vec){0};
    for (size_t i = 0; i < n; i++) {
        const char *const row = (const char *)rows[i];
        const share shared = FE_SHARED ? share_of(row) : (share){1, 0};
        const float factor = weighted ? w[i] * shared.scale : shared.scale;
        if (lines) ask_lines(rows[i + FE_AHEAD], bytes, lines, near);
        if (FE_SHARED) offsets += weighted ? w[i] * shared.offset : shared.offset;
        for (int k = 0; k < nv; k++) {
            const vec part = FE_LOAD(vec, row, j + (size_t)k * FE_WIDTH);
            if (weighted || FE_SHARED)
                acc[k] += factor * part;
            else
                acc[k] += part;
        }
    }
    for (int k = 0; k < nv; k++) *(vec *)(out + j + k * FE_WIDTH) = FE_SHARED ? (vec)(acc[k] + offsets) : acc[k];
}

FE_STATIC void CODED(sum)(const void *const *rows, const float *w, size_t n, size_t d, float *out, int flags)
{
    const int add = flags & FE_ADD, near = fe_near;
    const size_t bytes = fe_row_bytes(FE_PASTE(FE, FE_DTYPE), d);
    const size_t lines = n ? lines_touched(rows[0], bytes) : 0;
    int ask = !(flags & FE_IN_CACHE); /* the first columns ask for all */
    float offsets = 0;
    size_t j = 0;
#define SUM(nv, weighted, lines, near) CODED(sum_columns)(rows, w, n, j, out, add, bytes, nv, weighted, lines, near)
#define COLUMNS(nv)                                                   \
    for (; j + (nv) * FE_WIDTH <= d; j += (nv) * FE_WIDTH, ask = 0) { \
        if (w)                                                        \
            SUM(nv, 1, ask * (lines <= 2 ? 2 : 3), near);             \
        else if (!ask)                                                \
            SUM(nv, 0, 0, 0);                                         \
        else if (lines > 2)                                           \
            SUM(nv, 0, 3, near);                                      \
        else if (near)                                                \
            SUM(nv, 0, 2, 1);                                         \
        else                                                          \
            SUM(nv, 0, 2, 0);                                         \
    }
    COLUMNS(8)
    COLUMNS(4)
    COLUMNS(2)
    COLUMNS(1)
#undef COLUMNS
#undef SUM
    if (j == d) return;
    for (size_t k = j; k < d && !add; k++) out[k] = 0;
    for (size_t i = 0; i < n; i++) {
        const char *const row = (const char *)rows[i];
        const share shared = FE_SHARED ? share_of(row) : (share){1, 0};
        const float factor = w ? w[i] * shared.scale : shared.scale;
        size_t k = j;
        if (ask) fe_prefetch(rows[i + FE_AHEAD], bytes);
        if (FE_SHARED) offsets += w ? w[i] * shared.offset : shared.offset;
#if FE_WIDTH > 4
        for (; k + 4 <= d; k += 4) *(vec4 *)(out + k) += factor * FE_LOAD(vec4, row, k);
#endif
        for (; k < d; k++) out[k] += factor * FE_LOAD(float, row, k);
    }
    for (size_t k = j; k < d && FE_SHARED; k++) out[k] += offsets;
}

#undef FE_DTYPE
#undef FE_SHARED
