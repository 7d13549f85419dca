/* codecs_impl.h: the storage dtypes other than float32: how rows are read as float32, and written; a part of rows_impl.h,
 * by which alone it is included. Do not break: the bits may not depend on FE_BYTES (see rows.h). */

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

#if FE_WIDTH == 16
FE_INLINE vec load_bfloat16_vec(const char *row, size_t j)
{
    const __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(row + 2 * j)));
    return (vec)_mm512_slli_epi32(halves, 16);
}
#elif FE_WIDTH == 8
FE_INLINE vec load_bfloat16_vec(const char *row, size_t j)
{
    const __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(row + 2 * j)));
    return (vec)_mm256_slli_epi32(halves, 16);
}
#else
FE_INLINE vec load_bfloat16_vec(const char *row, size_t j)
{ return (vec)(__builtin_convertvector(*(const half_vec *)(row + 2 * j), uvec) << 16); }
#endif
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
{ return __builtin_convertvector((ivec)(words << *(const uvec *)up) >> down, vec); }
FE_INLINE vec4 codes_of_4(uint32_t word, const uint32_t *up, int down)
{ return __builtin_convertvector((ivec4)(((uvec4){0} + word) << *(const uvec4 *)up) >> down, vec4); }

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

/* ---- writing: halves, 32 columns at a time ------------------------------------------------------------------------ */

enum { BLOCK_COLUMNS = 32, BLOCK_VECS = 32 / FE_WIDTH };
#define GOLDEN 0x9E3779B9u
#define GOLDEN_64 0x9E3779B97F4A7C15u
#if FE_WIDTH > 1
static const uint32_t spread[16] = {0,           GOLDEN * 1,  GOLDEN * 2,  GOLDEN * 3, GOLDEN * 4,  GOLDEN * 5,
                                    GOLDEN * 6,  GOLDEN * 7,  GOLDEN * 8,  GOLDEN * 9, GOLDEN * 10, GOLDEN * 11,
                                    GOLDEN * 12, GOLDEN * 13, GOLDEN * 14, GOLDEN * 15};
FE_INLINE uvec spread_vec(uint32_t x) { return *(const uvec *)spread + x; }
FE_INLINE vec as_real(ivec x) { return __builtin_convertvector(x, vec); }
FE_INLINE ivec whole_of(vec x) { return __builtin_convertvector(x, ivec); }
#define BITS(x) ((uvec)(x))
#define FLOATS(bits) ((vec)(bits))
FE_INLINE int any_of(ivec m)
{
#if FE_WIDTH == 16
    return _mm512_movepi32_mask((__m512i)m) != 0;
#elif FE_WIDTH == 8
    return _mm256_movemask_ps((__m256)m) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)m) != 0;
#else
    return (m[0] | m[1] | m[2] | m[3]) != 0;
#endif
}
#if FE_WIDTH == 16
FE_INLINE uvec where(ivec m, uvec a, uvec b)
{ return (uvec)_mm512_mask_blend_epi32(_mm512_movepi32_mask((__m512i)m), (__m512i)b, (__m512i)a); }
#else
FE_INLINE uvec where(ivec m, uvec a, uvec b) { return ((uvec)m & a) | (~(uvec)m & b); }
#endif
#else
typedef uint32_t uvec;
FE_INLINE uvec spread_vec(uint32_t x) { return x; }
FE_INLINE vec as_real(ivec x) { return (float)x; }
FE_INLINE ivec whole_of(vec x) { return (int32_t)x; }
#define BITS(x) bits_of_float(x)
#define FLOATS(bits) float_of_bits(bits)
FE_INLINE int any_of(ivec m) { return m; }
FE_INLINE uvec where(ivec m, uvec a, uvec b) { return m ? a : b; }
#endif

/* Random bits for a block of columns: 16 words, whose lower halves are those of its first 16 columns and whose upper halves
 * those of the others: the key of the row, mixed with the number of the word. */
FE_INLINE void noise_of_block(uvec *words, uint32_t block, const uint32_t *key)
{
    for (int k = 0; k < BLOCK_VECS / 2; k++) {
        uvec x = spread_vec(key[0] + (block * 16 + (uint32_t)k * FE_WIDTH) * GOLDEN);
        x = (x ^ x >> 15 ^ key[1]) * 0xD35A2D97u;
        words[k] = x ^ x >> 16;
    }
}

/* The 16 random bits of vector k of a block. */
FE_INLINE uvec noise_of(const uvec *words, int k)
{ return k < BLOCK_VECS / 2 ? (uvec)(words[k] & 0xffff) : (uvec)(words[k - BLOCK_VECS / 2] >> 16); }

#if FE_WIDTH == 16
static const uint16_t odd_places[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
#endif

/* The upper halves of float32, rounded by adding to the lower ones. NaN stays NaN. */
FE_INLINE void block_bfloat16(uint16_t *out, const float *x, const uvec *words, const int stochastic)
{
    uvec sums[BLOCK_VECS];
    ivec nan = {0};
    for (int k = 0; k < BLOCK_VECS; k++) {
        const vec part = *(const vec *)(x + k * FE_WIDTH);
        const uvec bits = BITS(part);
        nan |= (ivec)(part != part);
        sums[k] = bits + (stochastic ? noise_of(words, k) : (uvec)(0x7fff + (bits >> 16 & 1)));
    }
#if FE_WIDTH == 16
    const __m512i odd = _mm512_loadu_si512(odd_places);
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16((__m512i)sums[0], odd, (__m512i)sums[1]));
#elif FE_WIDTH == 8
    for (int k = 0; k < BLOCK_VECS; k += 2) {
        const __m256i low = (__m256i)(sums[k] >> 16), high = (__m256i)(sums[k + 1] >> 16);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(out + k * FE_WIDTH), packed);
    }
#elif FE_WIDTH > 1
    for (int k = 0; k < BLOCK_VECS; k++)
        *(half_vec *)(out + k * FE_WIDTH) = __builtin_convertvector(sums[k] >> 16, half_vec);
#else
    for (int k = 0; k < BLOCK_VECS; k++) out[k] = (uint16_t)(sums[k] >> 16);
#endif
    if (any_of(nan))
        for (int j = 0; j < BLOCK_COLUMNS; j++)
            if (x[j] != x[j]) out[j] = (uint16_t)(bits_of_float(x[j]) >> 16 | 0x40);
}

/* From 65520 on it is infinity; a subnormal is rounded by an addition. */
FE_INLINE uint16_t float16_of(float x)
{
    const uint32_t bits = bits_of_float(x), size = bits & 0x7fffffff;
    const uint32_t small = bits_of_float(float_of_bits(size) + 0.5f) - 0x3f000000;
    const uint32_t normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    const uint32_t large = size > 0x7f800000 ? 0x7e00 | (size >> 13 & 0x3ff) : 0x7c00;
    return (uint16_t)((bits >> 16 & 0x8000) | (size >= 0x477ff000 ? large : size < 0x38800000 ? small : normal));
}

/* A stochastic rounding comes first, to what float16 can hold, or to 2^16 or more, by adding to the bits that it has not;
 * below 2^-14 to multiples of 2^-24. */
FE_INLINE void block_float16(uint16_t *out, const float *x, const uvec *words, const int stochastic)
{
    for (int k = 0; k < BLOCK_VECS; k++) {
        vec part = *(const vec *)(x + k * FE_WIDTH);
        if (stochastic) {
            const uvec noise = noise_of(words, k), bits = BITS(part), size = bits & 0x7fffffff;
            const ivec tiny = (ivec)((ivec)size < 0x38800000);
            uvec near = where((ivec)((ivec)size > 0x7f800000), size, (size + (noise & 0x1fff)) & 0xffffe000);
            if (any_of(tiny)) {
                const vec y = FLOATS(where(tiny, size, (uvec){0})) * 0x1p24f; /* below 1024 */
                const ivec whole = whole_of(y), rest = whole_of((y - as_real(whole)) * 0x1p16f);
                const ivec up = (ivec)where((ivec)((ivec)noise < rest), (uvec){0} + 1, (uvec){0});
                near = where(tiny, BITS(as_real(whole + up) * 0x1p-24f), near);
            }
            part = FLOATS((bits & 0x80000000) | near);
        }
#if FE_WIDTH == 16
        _mm256_storeu_si256((__m256i *)(out + 16 * k), _mm512_cvtps_ph((__m512)part, _MM_FROUND_TO_NEAREST_INT));
#elif FE_WIDTH == 8
        _mm_storeu_si128((__m128i *)(out + 8 * k), _mm256_cvtps_ph((__m256)part, _MM_FROUND_TO_NEAREST_INT));
#else
        for (int l = 0; l < FE_WIDTH; l++) out[FE_WIDTH * k + l] = float16_of(((const float *)&part)[l]);
#endif
    }
}

/* One row; the last block is filled up with zeros. */
#define STORE_ROW(name)                                                                                     \
    FE_INLINE void store_row_##name(uint16_t *out, const float *x, size_t d, const uint32_t *key,           \
                                    const int stochastic)                                                   \
    {                                                                                                       \
        uvec words[BLOCK_VECS];                                                                             \
        uint32_t block = 0;                                                                                 \
        for (; d >= BLOCK_COLUMNS; d -= BLOCK_COLUMNS, x += BLOCK_COLUMNS, out += BLOCK_COLUMNS, block++) { \
            if (stochastic) noise_of_block(words, block, key);                                              \
            block_##name(out, x, words, stochastic);                                                        \
        }                                                                                                   \
        if (d) {                                                                                            \
            float rest[BLOCK_COLUMNS] = {0};                                                                \
            uint16_t halves[BLOCK_COLUMNS];                                                                 \
            memcpy(rest, x, d * sizeof *x);                                                                 \
            if (stochastic) noise_of_block(words, block, key);                                              \
            block_##name(halves, rest, words, stochastic);                                                  \
            memcpy(out, halves, d * sizeof *out);                                                           \
        }                                                                                                   \
    }
STORE_ROW(bfloat16)
STORE_ROW(float16)
#undef STORE_ROW

/* Mixes all bits: the end of SplitMix64 (Steele, Lea, Flood 2014). */
FE_INLINE uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* A row's key is a number of a SplitMix64 sequence, whose start is mixed from seed, step and part. */
FE_INLINE uint64_t start_of_keys(const fe_rounding *rounding, int part)
{ return mixed(mixed(rounding->seed + GOLDEN_64) + (2 * rounding->step + (uint64_t)part) * GOLDEN_64); }

FE_INLINE void key_of_row(uint32_t *key, uint64_t start, int64_t number)
{
    const uint64_t bits = mixed(start + (uint64_t)number * GOLDEN_64);
    key[0] = (uint32_t)bits, key[1] = (uint32_t)(bits >> 32);
}

#define ENCODE_HALF(name)                                                                                          \
    FE_STATIC void FE_NAME(encode_##name)(void *const *rows, const int64_t *numbers, size_t n, size_t d, int part, \
                                          const float *x, const fe_rounding *rounding)                             \
    {                                                                                                              \
        const uint64_t start = start_of_keys(rounding, part);                                                      \
        uint32_t key[2] = {0, 0};                                                                                  \
        for (size_t i = 0; i < n; i++)                                                                             \
            if (rounding->stochastic) {                                                                            \
                key_of_row(key, start, numbers[i]);                                                                \
                store_row_##name((uint16_t *)rows[i], x + i * d, d, key, 1);                                       \
            } else                                                                                                 \
                store_row_##name((uint16_t *)rows[i], x + i * d, d, key, 0);                                       \
    }
ENCODE_HALF(bfloat16)
ENCODE_HALF(float16)
#undef ENCODE_HALF

/* ---- writing: codes ----------------------------------------------------------------------------------------------- */

FE_INLINE int overflows(float x) { return (bits_of_float(x) & 0x7f800000) == 0x7f800000; }

/* The smallest and the largest of a row. */
FE_INLINE void range_of(const float *x, size_t d, float *low, float *high)
{
    vec least = (vec){0} + x[0], most = least;
    size_t j = 0;
    for (; j + FE_WIDTH <= d; j += FE_WIDTH) {
        const vec part = GET(vec, x);
        least = CHOOSE(vec, ivec, part < least, part, least);
        most = CHOOSE(vec, ivec, part > most, part, most);
    }
    *low = *high = x[0];
    for (int k = 0; k < FE_WIDTH; k++) {
        const float some = ((const float *)&least)[k], other = ((const float *)&most)[k];
        *low = some < *low ? some : *low;
        *high = other > *high ? other : *high;
    }
    for (; j < d; j++) {
        *low = x[j] < *low ? x[j] : *low;
        *high = x[j] > *high ? x[j] : *high;
    }
}

/* For x >= 0, the smallest float that is not below. */
FE_INLINE float float_at_least(double x)
{
    const float near = (float)x;
    return near < x ? float_of_bits(bits_of_float(near) + 1) : near;
}

/* The codes -half ... half - 1 stand for the range of a row: the least element has the first, the largest the last. Where
 * scale times a code would not be finite, the first code is left out. */
FE_INLINE void quantise(char *row, const float *x, size_t d, const int bits, const uint32_t *key)
{
    enum { PIECE = 2 * BLOCK_COLUMNS };
    const int half = 1 << (bits - 1);
    const size_t per_byte = 8 / (size_t)bits;
    uint8_t *const codes = (uint8_t *)row + sizeof(share);
    int32_t code[PIECE];
    double shift[PIECE];
    share shared;
    float low, high;
    range_of(x, d, &low, &high);
    const double range = (double)high - low;
    int first = -half;
    shared.scale = float_at_least(range / (2 * half - 1));
    double offset = low + (double)shared.scale * half;
    if ((double)shared.scale * half > 3.4e38) {
        first++;
        shared.scale = float_at_least(range / (2 * half - 2));
        offset = 0.5 * ((double)low + high);
    }
    shared.offset = (float)offset;
    while (overflows(shared.scale * first + shared.offset) || overflows(shared.scale * (half - 1) + shared.offset))
        shared.scale = float_of_bits(bits_of_float(shared.scale) - 1);
    const double per_scale = shared.scale > 0 ? 1.0 / shared.scale : 0, least = first, most = half - 1;
    offset = shared.offset;
    memcpy(row, &shared, sizeof shared);
    for (size_t j = 0; j < PIECE; j++) shift[j] = 1024.5; /* halves go up */
    for (size_t j = 0; j < d; j += PIECE) {
        const size_t count = d - j < PIECE ? d - j : PIECE, size = (count + per_byte - 1) / per_byte;
        for (size_t b = 0; b < 2 && key; b++) {
            uvec words[BLOCK_VECS];
            noise_of_block(words, (uint32_t)(j / 32 + b), key);
            for (int k = 0; k < BLOCK_VECS; k++) {
                const uvec noise = noise_of(words, k);
                for (int l = 0; l < FE_WIDTH; l++)
                    shift[b * 32 + (size_t)(k * FE_WIDTH + l)] = 1024 + ((const uint32_t *)&noise)[l] * 0x1p-16;
            }
        }
        for (size_t k = 0; k < count; k++) {
            const double y = ((double)x[j + k] - offset) * per_scale, z = y < least ? least : y;
            code[k] = (int32_t)((z > most ? most : z) + shift[k]) - 1024;
        }
        for (size_t k = count; k < PIECE; k++) code[k] = 0;
        for (size_t k = 0; k < size; k++) {
            int32_t byte = 0;
            for (size_t c = 0; c < per_byte; c++) byte |= (code[k * per_byte + c] & (2 * half - 1)) << (size_t)bits * c;
            codes[j / per_byte + k] = (uint8_t)byte;
        }
    }
    const size_t used = (d + per_byte - 1) / per_byte;
    memset(codes + used, 0, (used + 3) / 4 * 4 - used);
}

#define ENCODE_INT(name, bits)                                                                                     \
    FE_STATIC void FE_NAME(encode_##name)(void *const *rows, const int64_t *numbers, size_t n, size_t d, int part, \
                                          const float *x, const fe_rounding *rounding)                             \
    {                                                                                                              \
        const uint64_t start = start_of_keys(rounding, part);                                                      \
        uint32_t key[2];                                                                                           \
        for (size_t i = 0; i < n; i++) {                                                                           \
            key_of_row(key, start, numbers[i]);                                                                    \
            quantise((char *)rows[i], x + i * d, d, bits, rounding->stochastic ? key : NULL);                      \
        }                                                                                                          \
    }
ENCODE_INT(int8, 8)
ENCODE_INT(int4, 4)
ENCODE_INT(int2, 2)
#undef ENCODE_INT
