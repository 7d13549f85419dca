/* codecs_impl.h: the storage dtypes other than float32: how rows are read as float32, and written; a part of rows_impl.h,
 * by which alone it is included. Do not break: the bits may not depend on FE_WIDTH (see rows.h). */

/* The bits of a float, and the float of bits. */
FE_INLINE uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

FE_INLINE float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- reading: the elements from column j on, as a vector or one number ------------------------------------------- */

/* What the elements of a row share: nothing, or scale and offset. */
typedef struct share {
    float scale, offset;
} share;

FE_INLINE share share_of(const char *row)
{
    share shared;
    memcpy(&shared, row, sizeof shared);
    return shared;
}

FE_INLINE float load_bfloat16_float(const char *row, size_t j)
{
    uint16_t half;
    memcpy(&half, row + 2 * j, 2);
    return float_of_bits((uint32_t)half << 16);
}

/* The exponent moves by 112; infinity and NaN keep theirs at the top; a subnormal is normalised by a subtraction. */
FE_INLINE float load_float16_float(const char *row, size_t j)
{
    uint16_t half;
    memcpy(&half, row + 2 * j, 2);
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t high = size >= 0x0f800000 ? 224u << 23 : 112u << 23;
    const float normal = float_of_bits(size + high);
    const float subnormal = float_of_bits(size + (113u << 23)) - 0x1p-14f;
    return float_of_bits(sign | bits_of_float(size < 0x00800000 ? subnormal : normal));
}

FE_INLINE float load_int8_float(const char *row, size_t j) { return (float)((const int8_t *)row)[8 + j]; }
FE_INLINE float load_int4_float(const char *row, size_t j)
{
    const int code = ((const uint8_t *)row)[8 + j / 2] >> 4 * (j % 2) & 15;
    return (float)((code ^ 8) - 8);
}
FE_INLINE float load_int2_float(const char *row, size_t j)
{
    const int code = ((const uint8_t *)row)[8 + j / 4] >> 2 * (j % 4) & 3;
    return (float)((code ^ 2) - 2);
}

#if FE_WIDTH > 1
typedef uint16_t half_vec __attribute__((vector_size(2 * FE_WIDTH), aligned(2), may_alias));
typedef uint16_t half_vec4 __attribute__((vector_size(8), aligned(2), may_alias));
typedef int8_t byte_vec __attribute__((vector_size(FE_WIDTH), aligned(1), may_alias));
typedef int8_t byte_vec4 __attribute__((vector_size(4), aligned(1), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * FE_WIDTH), aligned(4), may_alias));
typedef uint32_t uvec4 __attribute__((vector_size(16), aligned(4), may_alias));

FE_INLINE vec load_bfloat16_vec(const char *row, size_t j)
{ return (vec)(__builtin_convertvector(*(const half_vec *)(row + 2 * j), uvec) << 16); }
FE_INLINE vec4 load_bfloat16_vec4(const char *row, size_t j)
{ return (vec4)(__builtin_convertvector(*(const half_vec4 *)(row + 2 * j), uvec4) << 16); }

#if FE_WIDTH == 16
FE_INLINE vec load_float16_vec(const char *row, size_t j)
{ return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(row + 2 * j))); }
#elif FE_WIDTH == 8
FE_INLINE vec load_float16_vec(const char *row, size_t j)
{ return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(row + 2 * j))); }
#endif
#if FE_WIDTH > 4
FE_INLINE vec4 load_float16_vec4(const char *row, size_t j)
{ return (vec4)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(row + 2 * j))); }
#else
FE_INLINE vec4 load_float16_vec4(const char *row, size_t j)
{
    const uvec4 half = __builtin_convertvector(*(const half_vec4 *)(row + 2 * j), uvec4);
    const uvec4 sign = (half & 0x8000) << 16, size = (half & 0x7fff) << 13;
    const uvec4 high = (uvec4)((ivec4)size >= 0x0f800000) & (112u << 23);
    const vec4 normal = (vec4)(size + (112u << 23) + high), subnormal = (vec4)(size + (113u << 23)) - 0x1p-14f;
    return (vec4)(sign | (uvec4)PICK(vec4, ivec4, (ivec4)size < 0x00800000, subnormal, normal));
}
FE_INLINE vec load_float16_vec(const char *row, size_t j) { return (vec)load_float16_vec4(row, j); }
#endif

#if FE_WIDTH == 16
FE_INLINE vec load_int8_vec(const char *row, size_t j)
{ return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(row + 8 + j)))); }
#elif FE_WIDTH == 8
FE_INLINE vec load_int8_vec(const char *row, size_t j)
{ return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(row + 8 + j)))); }
#else
FE_INLINE vec load_int8_vec(const char *row, size_t j)
{
    const byte_vec codes = *(const byte_vec *)(row + 8 + j);
    return __builtin_convertvector(__builtin_convertvector(codes, ivec), vec);
}
#endif
FE_INLINE vec4 load_int8_vec4(const char *row, size_t j)
{
    const byte_vec4 codes = *(const byte_vec4 *)(row + 8 + j);
    return __builtin_convertvector(__builtin_convertvector(codes, ivec4), vec4);
}

/* Codes of 4 or 2 bits: each lane has a copy of the word that its code is in, moves it to the top, and down again. */
static const uint32_t up_4[16] = {28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0};
static const uint32_t up_2[16] = {30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0};

FE_INLINE vec codes_of(uvec words, const uint32_t *up, int down)
{
    return __builtin_convertvector((ivec)(words << *(const uvec *)up) >> down, vec);
}
FE_INLINE vec4 codes_of_4(uint32_t word, const uint32_t *up, int down)
{
    return __builtin_convertvector((ivec4)(((uvec4){0} + word) << *(const uvec4 *)up) >> down, vec4);
}

FE_INLINE vec load_int4_vec(const char *row, size_t j)
{
    uint32_t words[2] = {0, 0};
    memcpy(words, row + 8 + j / 2, FE_WIDTH / 2);
#if FE_WIDTH == 16
    const __m512i first = _mm512_set1_epi32((int)words[0]);
    return codes_of((uvec)_mm512_mask_set1_epi32(first, 0xff00, (int)words[1]), up_4, 28);
#else
    return codes_of((uvec){0} + words[0], up_4, 28);
#endif
}
FE_INLINE vec4 load_int4_vec4(const char *row, size_t j)
{
    uint16_t word;
    memcpy(&word, row + 8 + j / 2, 2);
    return codes_of_4(word, up_4, 28);
}
FE_INLINE vec load_int2_vec(const char *row, size_t j)
{
    uint32_t word = 0;
    memcpy(&word, row + 8 + j / 4, FE_WIDTH / 4);
    return codes_of((uvec){0} + word, up_2, 30);
}
FE_INLINE vec4 load_int2_vec4(const char *row, size_t j) { return codes_of_4((uint8_t)row[8 + j / 4], up_2, 30); }
#else
FE_INLINE vec load_bfloat16_vec(const char *row, size_t j) { return load_bfloat16_float(row, j); }
FE_INLINE vec load_float16_vec(const char *row, size_t j) { return load_float16_float(row, j); }
FE_INLINE vec load_int8_vec(const char *row, size_t j) { return load_int8_float(row, j); }
FE_INLINE vec load_int4_vec(const char *row, size_t j) { return load_int4_float(row, j); }
FE_INLINE vec load_int2_vec(const char *row, size_t j) { return load_int2_float(row, j); }
#endif

/* How many cache lines rows of so many bytes can touch, if all begin at multiples of the bytes from an address. */
FE_INLINE size_t lines_touched(const void *row, size_t bytes)
{
    size_t step = (uintptr_t)row | bytes;
    step = (step & (0 - step)) < 64 ? (step & (0 - step)) : 64;
    return (64 - step + bytes + 63) / 64;
}

/* Asks for the lines of a row; `lines`: 0 for none, 1, 2, or 3 for any number. */
FE_INLINE void ask_lines(const void *next, size_t bytes, const int lines, const int near)
{
    if (lines == 1 || lines == 2) FE_PREFETCH((const char *)next, near);
    if (lines == 2) FE_PREFETCH((const char *)next + bytes - 1, near);
    if (lines == 3) fe_prefetch(next, bytes);
}

#define CODED(name) FE_PASTE(FE_PASTE(name, FE_DTYPE), FE_ISA)
#define LOAD(V, row, j) (FE_SHARED ? (V)(shared.scale * FE_LOAD(V, row, j) + shared.offset) : (V)FE_LOAD(V, row, j))
#define FE_LOAD(V, row, j) FE_PASTE(FE_PASTE(load, FE_DTYPE), V)(row, j)

#define FE_DTYPE bfloat16
#define FE_SHARED 0
#include "codec_impl.h"
#define FE_DTYPE float16
#define FE_SHARED 0
#include "codec_impl.h"
#define FE_DTYPE int8
#define FE_SHARED 1
#include "codec_impl.h"
#define FE_DTYPE int4
#define FE_SHARED 1
#include "codec_impl.h"
#define FE_DTYPE int2
#define FE_SHARED 1
#include "codec_impl.h"

/* ---- writing ------------------------------------------------------------------------------------------------------ */

/* Random bits for each column of a row: 64 bits of Philox, keyed by the seed and counted by (row number, step), are mixed
 * with the number of the column by two rounds of multiplication and shift (an integer hash). */
FE_INLINE void noise_row(uint32_t *noise, size_t d, uint32_t first, uint32_t key, uint32_t more)
{
    for (size_t j = 0; j < d; j++) {
        uint32_t x = key + (first + (uint32_t)j) * 0x9E3779B9u;
        x ^= x >> 16;
        x *= 0x21F0AAADu;
        x ^= x >> 15;
        x += more;
        x *= 0xD35A2D97u;
        noise[j] = x ^ x >> 15;
    }
}

static void FE_NAME(to_bfloat16)(uint16_t *out, const float *x, size_t d, const uint32_t *noise)
{
    for (size_t j = 0; j < d; j++) {
        const uint32_t bits = bits_of_float(x[j]);
        const uint32_t up = noise ? noise[j] & 0xffff : 0x7fff + (bits >> 16 & 1);
        out[j] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : (bits + up) >> 16);
    }
}

/* To the multiples of 2^-24 at least, and to 11 significant bits at most, so that float16 holds it exactly, or it is at
 * least 2^16. */
FE_INLINE float round_to_half(float x, uint32_t noise)
{
    const uint32_t bits = bits_of_float(x), size = bits & 0x7fffffff, sign = bits & 0x80000000;
    const int large = size >= 0x47800000;
    const uint32_t exponent = size < 0x38800000 ? 0x38800000 : large ? 0x47000000 : size & 0x7f800000;
    const float y = large ? 0 : float_of_bits(size) * float_of_bits((264u << 23) - exponent); /* below 2^11 */
    const int32_t whole = (int32_t)y, part = (int32_t)((y - (float)whole) * 0x1p31f);
    const float rounded = (float)(whole + ((int32_t)(noise >> 1) < part)) * float_of_bits(exponent - (10u << 23));
    return large ? x : float_of_bits(sign | bits_of_float(rounded));
}

static void FE_NAME(to_float16)(uint16_t *out, float *x, size_t d, const uint32_t *noise)
{
    size_t j = 0;
    for (size_t k = 0; k < d && noise; k++) x[k] = round_to_half(x[k], noise[k]);
#if FE_WIDTH == 16
    for (; j + 16 <= d; j += 16)
        _mm256_storeu_si256((__m256i *)(out + j), _mm512_cvtps_ph(_mm512_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT));
#elif FE_WIDTH == 8
    for (; j + 8 <= d; j += 8)
        _mm_storeu_si128((__m128i *)(out + j), _mm256_cvtps_ph(_mm256_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; j < d; j++) { /* from 65520 on it is infinity; a subnormal is rounded by an addition */
        const uint32_t bits = bits_of_float(x[j]), size = bits & 0x7fffffff;
        const uint32_t small = bits_of_float(float_of_bits(size) + 0.5f) - 0x3f000000;
        const uint32_t normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
        const uint32_t large = size > 0x7f800000 ? 0x7e00 | (size >> 13 & 0x3ff) : 0x7c00;
        const uint32_t half = size >= 0x477ff000 ? large : size < 0x38800000 ? small : normal;
        out[j] = (uint16_t)((bits >> 16 & 0x8000) | half);
    }
}

/* Rows of halves, in blocks for Philox. */
#define ENCODE_HALF(name)                                                                                               \
    static void FE_NAME(encode_##name)(void *const *rows, const int64_t *numbers, size_t n, size_t d,                   \
                                       size_t first_column, float *x, size_t stride, const fe_rounding *rounding)      \
    {                                                                                                                  \
        enum { PIECE = 512 };                                                                                          \
        uint64_t row[16], step[16];                                                                                    \
        uint32_t words[64], noise[PIECE];                                                                              \
        for (size_t i = 0; i < n; i++) {                                                                               \
            if (rounding->stochastic && i % 16 == 0) {                                                                 \
                for (size_t l = 0; l < 16; l++)                                                                        \
                    row[l] = (uint64_t)numbers[i + l < n ? i + l : i], step[l] = rounding->step;                       \
                FE_NAME(philox)(row, step, rounding->seed, words);                                                     \
            }                                                                                                          \
            for (size_t j = 0; j < d; j += PIECE) {                                                                    \
                const size_t count = d - j < PIECE ? d - j : PIECE;                                                    \
                uint16_t *const out = (uint16_t *)rows[i] + j;                                                         \
                if (rounding->stochastic)                                                                              \
                    noise_row(noise, count, (uint32_t)(first_column + j), words[i % 16], words[16 + i % 16]);          \
                FE_NAME(to_##name)(out, x + i * stride + j, count, rounding->stochastic ? noise : NULL);               \
            }                                                                                                          \
        }                                                                                                              \
    }
ENCODE_HALF(bfloat16)
ENCODE_HALF(float16)
#undef ENCODE_HALF

FE_INLINE int overflows(float x) { return (bits_of_float(x) & 0x7f800000) == 0x7f800000; }

/* The codes -levels / 2 ... levels / 2 - 1 stand for the range of a row: the least element has the first, the largest the
 * last. Where scale times a code would not be finite, the first code is left out. */
FE_INLINE void quantise(char *row, const float *x, size_t d, const int bits)
{
    const int half = 1 << (bits - 1);
    float low = x[0], high = x[0];
    share shared;
    for (size_t j = 1; j < d; j++) {
        low = x[j] < low ? x[j] : low;
        high = x[j] > high ? x[j] : high;
    }
    const double range = (double)high - low;
    const int first = range / (2 * half - 1) * half > 3.4e38 ? 1 - half : -half;
    const double scale = range / (half - 1 - first);
    shared.scale = (float)scale;
    if (shared.scale < scale) shared.scale = float_of_bits(bits_of_float(shared.scale) + 1); /* reaches from end to end */
    shared.offset = (float)(first == -half ? low + (double)shared.scale * half : 0.5 * ((double)low + high));
    while (overflows(shared.scale * first + shared.offset) || overflows(shared.scale * (half - 1) + shared.offset))
        shared.scale = float_of_bits(bits_of_float(shared.scale) - 1);
    memcpy(row, &shared, sizeof shared);
    uint8_t *const codes = (uint8_t *)row + sizeof shared;
    memset(codes, 0, ((d * (size_t)bits + 7) / 8 + 3) / 4 * 4);
    const double per_scale = shared.scale > 0 ? 1.0 / shared.scale : 0;
    for (size_t j = 0; j < d; j++) {
        const double y = ((double)x[j] - shared.offset) * per_scale;
        const double z = y < first ? first : y > half - 1 ? half - 1 : y;
        const int32_t code = (int32_t)(z + 1024.5) - 1024; /* halves go up */
        const size_t per_byte = 8 / (size_t)bits;
        codes[j / per_byte] |= (uint8_t)((code & (2 * half - 1)) << (size_t)bits * (j % per_byte));
    }
}

#define ENCODE_INT(name, bits)                                                                                        \
    static void FE_NAME(encode_##name)(void *const *rows, const int64_t *numbers, size_t n, size_t d,                 \
                                       size_t first_column, float *x, size_t stride, const fe_rounding *rounding)     \
    {                                                                                                                 \
        (void)numbers, (void)first_column, (void)rounding;                                                            \
        for (size_t i = 0; i < n; i++) quantise((char *)rows[i], x + i * stride, d, bits);                            \
    }
ENCODE_INT(int8, 8)
ENCODE_INT(int4, 4)
ENCODE_INT(int2, 2)
#undef ENCODE_INT
