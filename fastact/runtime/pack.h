/* Elements in and out of contiguous memory of the driver: any strides, float16 and bfloat16 widened to float32 and rounded
 * once, masks. */
#ifndef FASTACT_PACK_H
#define FASTACT_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sums.h" /* FASTACT_CLONES */

#if defined(__GNUC__) || defined(__clang__)
#define FASTACT_LOCAL __thread
#else
#define FASTACT_LOCAL __declspec(thread)
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
static pthread_key_t fastact_scratch_key;
static pthread_once_t fastact_scratch_once = PTHREAD_ONCE_INIT;
static void fastact_scratch_init(void) { pthread_key_create(&fastact_scratch_key, free); }
#define FASTACT_SCRATCH_KEEP(p) (pthread_once(&fastact_scratch_once, fastact_scratch_init), pthread_setspecific(fastact_scratch_key, p))
#else
#define FASTACT_SCRATCH_KEEP(p) ((void)(p)) /* freed with the process */
#endif

/* `bytes` of memory of this thread, 64-byte aligned, until its next call here; NULL if there is none. Kept between calls:
 * pages of fresh memory cost more than the rows in them. */
static char *fastact_scratch(size_t bytes)
{
    static FASTACT_LOCAL char *memory = NULL;
    static FASTACT_LOCAL size_t size = 0;
    if (bytes > size) {
        free(memory);
        memory = (char *)malloc(bytes + 64);
        size = memory ? bytes : 0;
        FASTACT_SCRATCH_KEEP(memory);
        if (!memory)
            return NULL;
    }
    return (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
}

static inline float fastact_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t fastact_as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* a where the condition holds, else b. With ?: the compiler computes only one of them, in a branch, where floats might trap;
 * then loops over float16 are no vectors */
static inline uint32_t fastact_select(int condition, uint32_t a, uint32_t b)
{
    const uint32_t mask = -(uint32_t)(condition != 0);
    return (a & mask) | (b & ~mask);
}

static inline float fastact_widen_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    /* 2^112 moves the exponent, also of a subnormal */
    uint32_t finite = fastact_as_bits(fastact_as_float(magnitude) * 5.192296858534828e33f);
    uint32_t special = magnitude | 0x7f800000u;
    return fastact_as_float(((uint32_t)(h & 0x8000) << 16) | fastact_select((h & 0x7fff) >= 0x7c00, special, finite));
}

static inline uint16_t fastact_narrow_f16(float f)
{
    uint32_t u = fastact_as_bits(f), magnitude = u & 0x7fffffffu;
    /* adding 1/2 leaves a subnormal result, rounded, in the low bits */
    uint32_t subnormal = fastact_as_bits(fastact_as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t r = fastact_select(magnitude >= 0x47800000u, special,
                                fastact_select(magnitude < 0x38800000u, subnormal, normal));
    return (uint16_t)(r | ((u >> 16) & 0x8000u));
}

static inline float fastact_widen_bf16(uint16_t h) { return fastact_as_float((uint32_t)h << 16); }

static inline uint16_t fastact_narrow_bf16(float f)
{
    uint32_t u = fastact_as_bits(f), rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}

static inline float fastact_same_f32(float x) { return x; }
static inline double fastact_same_f64(double x) { return x; }

#define FASTACT_ACCESS(type)                                                                                           \
    static inline type fastact_get_##type(const char *p)                                                               \
    {                                                                                                                  \
        type v;                                                                                                        \
        memcpy(&v, p, sizeof v);                                                                                       \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void fastact_put_##type(char *p, type v) { memcpy(p, &v, sizeof v); }

FASTACT_ACCESS(float)
FASTACT_ACCESS(double)
FASTACT_ACCESS(uint16_t)

#define FASTACT_MOVING(name, memory, compute, widen, narrow)                                                           \
    FASTACT_CLONES static void fastact_gather_##name(void *to_, const char *from, ptrdiff_t n, ptrdiff_t step)         \
    {                                                                                                                  \
        compute *to = (compute *)to_;                                                                                  \
        if (step == (ptrdiff_t)sizeof(memory))                                                                         \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                to[i] = widen(fastact_get_##memory(from + i * (ptrdiff_t)sizeof(memory)));                             \
        else                                                                                                           \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                to[i] = widen(fastact_get_##memory(from + i * step));                                                  \
    }                                                                                                                  \
    FASTACT_CLONES static void fastact_scatter_##name(char *to, const void *from_, ptrdiff_t n, ptrdiff_t step)        \
    {                                                                                                                  \
        const compute *from = (const compute *)from_;                                                                  \
        if (step == (ptrdiff_t)sizeof(memory))                                                                         \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                fastact_put_##memory(to + i * (ptrdiff_t)sizeof(memory), narrow(from[i]));                             \
        else                                                                                                           \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                fastact_put_##memory(to + i * step, narrow(from[i]));                                                  \
    }

FASTACT_MOVING(f32, float, float, fastact_same_f32, fastact_same_f32)
FASTACT_MOVING(f64, double, double, fastact_same_f64, fastact_same_f64)
FASTACT_MOVING(f16, uint16_t, float, fastact_widen_f16, fastact_narrow_f16)
FASTACT_MOVING(bf16, uint16_t, float, fastact_widen_bf16, fastact_narrow_bf16)
FASTACT_MOVING(u16, uint16_t, uint16_t, (uint16_t), (uint16_t))

typedef void (*fastact_gather_fn)(void *, const char *, ptrdiff_t, ptrdiff_t);
typedef void (*fastact_scatter_fn)(char *, const void *, ptrdiff_t, ptrdiff_t);
/* in the order of DTYPES; by whether elements stay as they are */
static const fastact_gather_fn fastact_gathers[2][4] = {
    {fastact_gather_f32, fastact_gather_f64, fastact_gather_f16, fastact_gather_bf16},
    {fastact_gather_f32, fastact_gather_f64, fastact_gather_u16, fastact_gather_u16}};
static const fastact_scatter_fn fastact_scatters[2][4] = {
    {fastact_scatter_f32, fastact_scatter_f64, fastact_scatter_f16, fastact_scatter_bf16},
    {fastact_scatter_f32, fastact_scatter_f64, fastact_scatter_u16, fastact_scatter_u16}};

/* 16-bit elements that are contiguous, by the instructions for it: GCC's loops over the functions above take three (bfloat16)
 * to ten times as long (Emerald Rapids, 1024 elements: float16 0.26 and 0.62 ns an element). What rounds is the same: NaN as
 * above, and subnormals are kept, which AVX512-BF16 does not do. */
typedef void (*fastact_widen_fn)(float *, const uint16_t *, ptrdiff_t);
typedef void (*fastact_narrow_fn)(uint16_t *, const float *, ptrdiff_t);

/* elements that are fetched ahead, so that memory is not idle while those at hand are computed with (2^24 bfloat16, two
 * threads: relu.biased 4.8 ms, with it 2.3; layer norm 6.3 and 3.6) */
#define AHEAD 2048
#define FASTACT_CONVERTING(isa, features, name, width, widen, narrow)                                                  \
    __attribute__((target(features))) static void fastact_widen_##isa##_##name(float *to, const uint16_t *from,        \
                                                                               ptrdiff_t n)                            \
    {                                                                                                                  \
        uint16_t in[width] = {0};                                                                                      \
        float out[width];                                                                                              \
        for (; n >= width; n -= width, to += width, from += width) {                                                   \
            __builtin_prefetch(from + AHEAD);                                                                          \
            widen(to, from);                                                                                           \
        }                                                                                                              \
        if (!n)                                                                                                        \
            return;                                                                                                    \
        memcpy(in, from, (size_t)n * 2);                                                                               \
        widen(out, in);                                                                                                \
        memcpy(to, out, (size_t)n * 4);                                                                                \
    }                                                                                                                  \
    __attribute__((target(features))) static void fastact_narrow_##isa##_##name(uint16_t *to, const float *from,       \
                                                                                ptrdiff_t n)                           \
    {                                                                                                                  \
        float in[width] = {0};                                                                                         \
        uint16_t out[width];                                                                                           \
        for (; n >= width; n -= width, to += width, from += width) {                                                   \
            __builtin_prefetch(to + AHEAD, 1);                                                                         \
            narrow(to, from);                                                                                          \
        }                                                                                                              \
        if (!n)                                                                                                        \
            return;                                                                                                    \
        memcpy(in, from, (size_t)n * 4);                                                                               \
        narrow(out, in);                                                                                               \
        memcpy(to, out, (size_t)n * 2);                                                                                \
    }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX2 "avx2,f16c"
#define AVX512 "avx512f,avx512vl,avx512bw"
#define FASTACT_CONVERT(features) __attribute__((target(features), always_inline)) static inline void

FASTACT_CONVERT(AVX512) fastact_widen16_f16(float *to, const uint16_t *from)
{
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
}
FASTACT_CONVERT(AVX512) fastact_widen16_bf16(float *to, const uint16_t *from)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    _mm512_storeu_si512((void *)to, _mm512_slli_epi32(wide, 16));
}
FASTACT_CONVERT(AVX512) fastact_narrow16_f16(uint16_t *to, const float *from)
{
    __m512 v = _mm512_loadu_ps(from);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (__builtin_expect(nan != 0, 0))
        h = _mm256_mask_blend_epi16(nan, h, _mm256_or_si256(_mm256_and_si256(h, _mm256_set1_epi16((short)0x8000)),
                                                            _mm256_set1_epi16(0x7e00)));
    _mm256_storeu_si256((__m256i *)to, h);
}
FASTACT_CONVERT(AVX512) fastact_narrow16_bf16(uint16_t *to, const float *from)
{
    __m512 v = _mm512_loadu_ps(from);
    __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i half = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, half), 16);
    if (__builtin_expect(nan != 0, 0))
        r = _mm512_mask_or_epi32(r, nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(r));
}
FASTACT_CONVERT(AVX2) fastact_widen8_f16(float *to, const uint16_t *from)
{
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
}
FASTACT_CONVERT(AVX2) fastact_widen8_bf16(float *to, const uint16_t *from)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    _mm256_storeu_si256((__m256i *)to, _mm256_slli_epi32(wide, 16));
}
FASTACT_CONVERT(AVX2) fastact_narrow8_f16(uint16_t *to, const float *from)
{
    __m256 v = _mm256_loadu_ps(from);
    int nan = _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (int i = 0; __builtin_expect(nan != 0, 0) && i < 8; i++)
        to[i] = fastact_narrow_f16(from[i]);
}
FASTACT_CONVERT(AVX2) fastact_narrow8_bf16(uint16_t *to, const float *from)
{
    __m256 v = _mm256_loadu_ps(from);
    __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i half = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, half), 16);
    r = _mm256_blendv_epi8(r, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(r));
}
FASTACT_CONVERTING(avx512, AVX512, f16, 16, fastact_widen16_f16, fastact_narrow16_f16)
FASTACT_CONVERTING(avx512, AVX512, bf16, 16, fastact_widen16_bf16, fastact_narrow16_bf16)
FASTACT_CONVERTING(avx2, AVX2, f16, 8, fastact_widen8_f16, fastact_narrow8_f16)
FASTACT_CONVERTING(avx2, AVX2, bf16, 8, fastact_widen8_bf16, fastact_narrow8_bf16)
#undef AVX2
#undef AVX512
#endif

/* of float16, bfloat16; null: by the loops */
static fastact_widen_fn fastact_widens[2];
static fastact_narrow_fn fastact_narrows[2];

/* `most`: 2 AVX-512, 1 AVX2, 0 neither; for tests of what this CPU would not choose */
static void fastact_pack_init(int most)
{
    fastact_widens[0] = fastact_widens[1] = NULL;
    fastact_narrows[0] = fastact_narrows[1] = NULL;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (most >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
        fastact_widens[0] = fastact_widen_avx512_f16, fastact_widens[1] = fastact_widen_avx512_bf16;
        fastact_narrows[0] = fastact_narrow_avx512_f16, fastact_narrows[1] = fastact_narrow_avx512_bf16;
    } else if (most >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
        fastact_widens[0] = fastact_widen_avx2_f16, fastact_widens[1] = fastact_widen_avx2_bf16;
        fastact_narrows[0] = fastact_narrow_avx2_f16, fastact_narrows[1] = fastact_narrow_avx2_bf16;
    }
#else
    (void)most;
#endif
}

/* n elements into contiguous memory and out of it; `same`: as they are, else widened to and narrowed from float32 */
static inline void fastact_gather(int dtype, bool same, void *to, const char *from, ptrdiff_t n, ptrdiff_t step)
{
    if (dtype >= 2 && !same && step == 2 && fastact_widens[dtype - 2])
        fastact_widens[dtype - 2]((float *)to, (const uint16_t *)from, n);
    else
        fastact_gathers[same][dtype](to, from, n, step);
}

static inline void fastact_scatter(int dtype, bool same, char *to, const void *from, ptrdiff_t n, ptrdiff_t step)
{
    if (dtype >= 2 && !same && step == 2 && fastact_narrows[dtype - 2])
        fastact_narrows[dtype - 2]((uint16_t *)to, (const float *)from, n);
    else
        fastact_scatters[same][dtype](to, from, n, step);
}

/* out where the mask holds */
#define FASTACT_WHERE(size, type)                                                                                      \
    FASTACT_CLONES static void fastact_where_##size(char *to, const void *from_, ptrdiff_t n, ptrdiff_t step,          \
                                                    const char *mask, ptrdiff_t mask_step)                             \
    {                                                                                                                  \
        const type *from = (const type *)from_;                                                                        \
        if (step == (ptrdiff_t)sizeof(type) && mask_step == 1) {                                                       \
            type *out = (type *)to;                                                                                    \
            FASTACT_INDEPENDENT                                                                                        \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                out[i] = mask[i] ? from[i] : out[i];                                                                   \
        } else {                                                                                                       \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                if (mask[i * mask_step])                                                                               \
                    memcpy(to + i * step, from + i, sizeof(type));                                                     \
        }                                                                                                              \
    }
FASTACT_WHERE(2, uint16_t)
FASTACT_WHERE(4, uint32_t)
FASTACT_WHERE(8, uint64_t)

static inline void fastact_scatter_where(ptrdiff_t size, char *to, const void *from, ptrdiff_t n, ptrdiff_t step,
                                         const char *mask, ptrdiff_t mask_step)
{
    (size == 2 ? fastact_where_2 : size == 4 ? fastact_where_4 : fastact_where_8)(to, from, n, step, mask, mask_step);
}

/* scratch rows where the mask holds, else `fill` */
#define FASTACT_MASKING(name, compute)                                                                                 \
    FASTACT_CLONES static void fastact_mask_##name(void *at_, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t n,              \
                                                   const char *mask, ptrdiff_t outer, ptrdiff_t core, double fill_)    \
    {                                                                                                                  \
        const compute fill = (compute)fill_;                                                                           \
        for (ptrdiff_t r = 0; r < rows; r++) {                                                                         \
            const char *m = mask + r * outer;                                                                          \
            compute *a = (compute *)at_ + r * row;                                                                     \
            if (core == 1)                                                                                             \
                for (ptrdiff_t i = 0; i < n; i++)                                                                      \
                    a[i] = m[i] ? a[i] : fill;                                                                         \
            else                                                                                                       \
                for (ptrdiff_t i = 0; i < n; i++)                                                                      \
                    a[i] = m[i * core] ? a[i] : fill;                                                                  \
        }                                                                                                              \
    }
FASTACT_MASKING(f32, float)
FASTACT_MASKING(f64, double)

static inline void fastact_mask(int dtype, void *at, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t n, const char *mask,
                                ptrdiff_t outer, ptrdiff_t core, double fill)
{
    (dtype == 1 ? fastact_mask_f64 : fastact_mask_f32)(at, row, rows, n, mask, outer, core, fill);
}

/* n contiguous elements where the mask holds, else `fill` */
#define FASTACT_CHOOSING(name, compute)                                                                                \
    FASTACT_CLONES static void fastact_choose_##name(void *to_, const char *from_, ptrdiff_t n, const char *mask,      \
                                                     double fill_)                                                     \
    {                                                                                                                  \
        const compute fill = (compute)fill_;                                                                           \
        const compute *from = (const compute *)from_;                                                                  \
        compute *to = (compute *)to_;                                                                                  \
        FASTACT_INDEPENDENT                                                                                            \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            to[i] = mask[i] ? from[i] : fill;                                                                          \
    }
FASTACT_CHOOSING(f32, float)
FASTACT_CHOOSING(f64, double)

/* Where rows lie side by side in memory, as those of a transposed array do, memory is read and written by lines: blocks of
 * 8 rows and 8 elements are transposed. `step`: bytes between what are elements there and rows here. */
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void fastact_transpose_avx2(char *to, ptrdiff_t to_step, const char *from,
                                                                   ptrdiff_t from_step)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps((const float *)(from + i * from_step));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps((float *)(to + i * to_step), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps((float *)(to + (i + 4) * to_step), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
static int fastact_has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
#define fastact_transpose_avx2 fastact_transpose
#define fastact_has_avx2() 0
#endif

static void fastact_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step)
{
    for (int i = 0; i < 8; i++)
        for (int r = 0; r < 8; r++)
            memcpy(to + r * to_step + 4 * i, from + i * from_step + 4 * r, 4);
}

static void fastact_transposed(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t rows,
                               ptrdiff_t n)
{
    void (*block)(char *, ptrdiff_t, const char *, ptrdiff_t) =
        fastact_has_avx2() ? fastact_transpose_avx2 : fastact_transpose;
    for (ptrdiff_t i = 0; i < n; i += 8)
        for (ptrdiff_t r = 0; r < rows; r += 8)
            block(to + r * to_step + 4 * i, to_step, from + i * from_step + 4 * r, from_step);
}

/* rows × n elements between memory (strides in bytes) and scratch rows (`row` elements apart), with or without a mask */
static void fastact_pack(int dtype, void *to_, ptrdiff_t row, const char *from, ptrdiff_t rows, ptrdiff_t n,
                         ptrdiff_t outer, ptrdiff_t core, const char *mask, ptrdiff_t mask_outer, ptrdiff_t mask_core,
                         double fill)
{
    char *to = (char *)to_;
    const ptrdiff_t compute = dtype == 1 ? 8 : 4;
    ptrdiff_t whole = 0, body = n / 8 * 8;
    if (mask && dtype < 2 && core == compute && mask_core == 1) {
        for (ptrdiff_t r = 0; r < rows; r++)
            (dtype == 1 ? fastact_choose_f64 : fastact_choose_f32)(to + r * row * compute, from + r * outer, n,
                                                                   mask + r * mask_outer, fill);
        return;
    }
    if (dtype == 0 && outer == 4 && core != 4) {
        whole = rows / 8 * 8;
        fastact_transposed(to, row * 4, from, core, whole, body);
        for (ptrdiff_t r = 0; r < whole; r++)
            fastact_gather_f32(to + (r * row + body) * 4, from + 4 * r + body * core, n - body, core);
    }
    for (ptrdiff_t r = whole; r < rows; r++)
        fastact_gather(dtype, false, to + r * row * compute, from + r * outer, n, core);
    if (mask)
        fastact_mask(dtype, to, row, rows, n, mask, mask_outer, mask_core, fill);
}

static void fastact_unpack(int dtype, void *from_, ptrdiff_t row, char *to, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t outer,
                           ptrdiff_t core, const char *mask, ptrdiff_t mask_outer, ptrdiff_t mask_core, double fill)
{
    char *from = (char *)from_;
    const ptrdiff_t compute = dtype == 1 ? 8 : 4;
    ptrdiff_t whole = 0, body = n / 8 * 8;
    if (mask)
        fastact_mask(dtype, from, row, rows, n, mask, mask_outer, mask_core, fill);
    if (dtype == 0 && outer == 4 && core != 4) {
        whole = rows / 8 * 8;
        for (ptrdiff_t i = 0; i < body; i += 8)
            fastact_transposed(to + i * core, core, from + 4 * i, row * 4, 8, whole);
        for (ptrdiff_t r = 0; r < whole; r++)
            fastact_scatter_f32(to + 4 * r + body * core, from + (r * row + body) * 4, n - body, core);
    }
    for (ptrdiff_t r = whole; r < rows; r++)
        fastact_scatter(dtype, false, to + r * outer, from + r * row * compute, n, core);
}

#endif
