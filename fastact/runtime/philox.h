/* Random numbers by their index: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3,
 * SC 2011), and the kernels of dropout that use them.
 *
 * Number i of a stream is word i % 4 of the block of counter offset + i / 4 (128 bits) under the key `seed`, its upper 24
 * bits times 2^-24. So an element's number depends on its index alone. A kernel finds the index of its first element in
 * call.col0. */
#ifndef FASTACT_PHILOX_H
#define FASTACT_PHILOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "call.h"
#include "sums.h"

#if defined(__GNUC__)
#define FASTACT_INLINE __attribute__((always_inline)) static inline
#define FASTACT_PREFETCH(p) __builtin_prefetch(p)
#else
#define FASTACT_INLINE static inline
#define FASTACT_PREFETCH(p) ((void)(p))
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(FASTACT_NO_CLONES)
#define FASTACT_X86 1
#include <immintrin.h>
#else
#define FASTACT_X86 0
#endif

#define PHILOX_ROUNDS 10
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_GROUP 8 /* blocks that vectors compute at once: 32 words */
/* bytes ahead that x is asked for: so much is computed that the hardware's prefetchers keep too close */
#define PHILOX_AHEAD 1024
#define PHILOX_CHUNK 128 /* words that are made before they are used */

/* the key of each round */
typedef struct {
    uint32_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS];
} fastact_philox_key;

static inline fastact_philox_key fastact_philox_keys(uint64_t seed)
{
    fastact_philox_key key;
    for (int r = 0; r < PHILOX_ROUNDS; r++) {
        key.k0[r] = (uint32_t)seed + (uint32_t)r * 0x9E3779B9u;
        key.k1[r] = (uint32_t)(seed >> 32) + (uint32_t)r * 0xBB67AE85u;
    }
    return key;
}

/* the four words of a counter */
static inline void fastact_philox_block(const fastact_philox_key *key, uint64_t low, uint64_t high, uint32_t *to)
{
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32), c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    for (int r = 0; r < PHILOX_ROUNDS; r++) {
        const uint64_t a = (uint64_t)PHILOX_M0 * c0, b = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ key->k0[r];
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ key->k1[r];
        c3 = (uint32_t)a;
    }
    to[0] = c0;
    to[1] = c1;
    to[2] = c2;
    to[3] = c3;
}

/* What counters that differ in their first word alone have in common, folded into the first three rounds: in the first,
 * c2 = hi(a) ^ c2_1, c3 = a; in the second, c0 = hi(b) ^ c0_2, c1 = b, c2 = c3 ^ c2_2; in the third, c2 = hi(a) ^ c2_3. */
typedef struct {
    uint32_t c2_1, c0_2, c2_2, c2_3;
} fastact_philox_common;

static inline fastact_philox_common fastact_philox_common_of(const fastact_philox_key *key, uint64_t low, uint64_t high)
{
    const uint64_t b = (uint64_t)PHILOX_M1 * (uint32_t)high;
    const uint64_t a = (uint64_t)PHILOX_M0 * ((uint32_t)(b >> 32) ^ (uint32_t)(low >> 32) ^ key->k0[0]);
    fastact_philox_common common;
    common.c2_1 = (uint32_t)(high >> 32) ^ key->k1[0];
    common.c0_2 = (uint32_t)b ^ key->k0[1];
    common.c2_2 = (uint32_t)(a >> 32) ^ key->k1[1];
    common.c2_3 = (uint32_t)a ^ key->k1[2];
    return common;
}

static void fastact_philox_group_blocks(const fastact_philox_key *key, uint64_t low, uint64_t high, uint32_t *to)
{
    for (int i = 0; i < PHILOX_GROUP; i++)
        fastact_philox_block(key, low + (uint64_t)i, high + (low + (uint64_t)i < low), to + 4 * i);
}

static inline void fastact_philox_group_plain(const fastact_philox_key *key, const fastact_philox_common *common,
                                              uint64_t low, uint64_t high, uint32_t *to)
{
    (void)common;
    fastact_philox_group_blocks(key, low, high, to);
}

#if FASTACT_X86
/* A word lies in the lower half of a 64-bit lane, where vpmuludq takes it; what is above it does not matter. So a round
 * is two products, two shifts and two exclusive ors of three. Blocks lie in an order that makes the words come out in
 * theirs. */
__attribute__((target("avx512f"), always_inline)) static inline void
fastact_philox_group_avx512(const fastact_philox_key *key, const fastact_philox_common *common, uint64_t low,
                            uint64_t high, uint32_t *to)
{
    const __m512i m0 = _mm512_set1_epi64(PHILOX_M0), m1 = _mm512_set1_epi64(PHILOX_M1);
    const __m512i counters = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    __m512i c3 = _mm512_mul_epu32(m0, _mm512_add_epi64(_mm512_set1_epi64((long long)low), counters)), c0, c2;
    __m512i c1 = _mm512_mul_epu32(m1, _mm512_xor_si512(_mm512_srli_epi64(c3, 32), _mm512_set1_epi32((int)common->c2_1)));
    (void)high;
    c0 = _mm512_xor_si512(_mm512_srli_epi64(c1, 32), _mm512_set1_epi32((int)common->c0_2));
    c2 = _mm512_xor_si512(c3, _mm512_set1_epi32((int)common->c2_2));
    c3 = _mm512_mul_epu32(m0, c0);
    c2 = _mm512_mul_epu32(m1, c2);
    c0 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(c2, 32), c1, _mm512_set1_epi32((int)key->k0[2]), 0x96);
    c1 = c2;
    c2 = _mm512_xor_si512(_mm512_srli_epi64(c3, 32), _mm512_set1_epi32((int)common->c2_3));
#pragma GCC unroll 10
    for (int r = 3; r < PHILOX_ROUNDS; r++) {
        const __m512i a = _mm512_mul_epu32(m0, c0), b = _mm512_mul_epu32(m1, c2);
        c0 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(b, 32), c1, _mm512_set1_epi32((int)key->k0[r]), 0x96);
        c2 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(a, 32), c3, _mm512_set1_epi32((int)key->k1[r]), 0x96);
        c1 = b;
        c3 = a;
    }
    c0 = _mm512_mask_shuffle_epi32(c0, 0xAAAA, c1, (_MM_PERM_ENUM)0xA0);
    c2 = _mm512_mask_shuffle_epi32(c2, 0xAAAA, c3, (_MM_PERM_ENUM)0xA0);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(c0, c2));
    _mm512_storeu_si512(to + 16, _mm512_unpackhi_epi64(c0, c2));
}

__attribute__((target("avx2"), always_inline)) static inline void
fastact_philox_half_avx2(const fastact_philox_key *key, const fastact_philox_common *common, uint64_t low, uint32_t *to)
{
    const __m256i m0 = _mm256_set1_epi64x(PHILOX_M0), m1 = _mm256_set1_epi64x(PHILOX_M1);
    const __m256i counters = _mm256_setr_epi64x(0, 2, 1, 3);
    __m256i c3 = _mm256_mul_epu32(m0, _mm256_add_epi64(_mm256_set1_epi64x((long long)low), counters)), c0, c2;
    __m256i c1 = _mm256_mul_epu32(m1, _mm256_xor_si256(_mm256_srli_epi64(c3, 32), _mm256_set1_epi32((int)common->c2_1)));
    c0 = _mm256_xor_si256(_mm256_srli_epi64(c1, 32), _mm256_set1_epi32((int)common->c0_2));
    c2 = _mm256_xor_si256(c3, _mm256_set1_epi32((int)common->c2_2));
    c3 = _mm256_mul_epu32(m0, c0);
    c2 = _mm256_mul_epu32(m1, c2);
    c1 = _mm256_xor_si256(c1, _mm256_set1_epi32((int)key->k0[2]));
    c0 = _mm256_xor_si256(_mm256_srli_epi64(c2, 32), c1);
    c1 = c2;
    c2 = _mm256_xor_si256(_mm256_srli_epi64(c3, 32), _mm256_set1_epi32((int)common->c2_3));
#pragma GCC unroll 10
    for (int r = 3; r < PHILOX_ROUNDS; r++) {
        const __m256i a = _mm256_mul_epu32(m0, c0), b = _mm256_mul_epu32(m1, c2);
        c1 = _mm256_xor_si256(c1, _mm256_set1_epi32((int)key->k0[r]));
        c3 = _mm256_xor_si256(c3, _mm256_set1_epi32((int)key->k1[r]));
        c0 = _mm256_xor_si256(_mm256_srli_epi64(b, 32), c1);
        c2 = _mm256_xor_si256(_mm256_srli_epi64(a, 32), c3);
        c1 = b;
        c3 = a;
    }
    c0 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
    c2 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    _mm256_storeu_si256((__m256i *)to, _mm256_unpacklo_epi64(c0, c2));
    _mm256_storeu_si256((__m256i *)(to + 8), _mm256_unpackhi_epi64(c0, c2));
}

__attribute__((target("avx2"), always_inline)) static inline void
fastact_philox_group_avx2(const fastact_philox_key *key, const fastact_philox_common *common, uint64_t low, uint64_t high,
                          uint32_t *to)
{
    (void)high;
    fastact_philox_half_avx2(key, common, low, to);
    fastact_philox_half_avx2(key, common, low + PHILOX_GROUP / 2, to + 2 * PHILOX_GROUP);
}
#endif

/* What is made of the words of n elements. Numbers below p give 0, the others `scale`: t is p·2^24 rounded up, times 2^8. */
typedef struct {
    uint32_t t;
    double scale, low, range;
} fastact_random;

static inline fastact_random fastact_random_of(const fastact_call *call)
{
    const double a = call->scalars[0], b = call->scalars[1];
    fastact_random r = {0, 0, a, b};
    if (a >= 0 && a < 16777216) {
        r.t = (uint32_t)a << 8;
        r.scale = b;
    }
    return r;
}

#define FASTACT_USES(T, name)                                                                                          \
    FASTACT_INLINE void fastact_factors_##name(fastact_random r, const uint32_t *w, const T *x, T *y, ptrdiff_t n)     \
    {                                                                                                                  \
        const T scale = (T)r.scale;                                                                                    \
        (void)x;                                                                                                       \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            y[i] = w[i] >= r.t ? scale : 0;                                                                            \
    }                                                                                                                  \
    FASTACT_INLINE void fastact_dropped_##name(fastact_random r, const uint32_t *w, const T *x, T *y, ptrdiff_t n)     \
    {                                                                                                                  \
        const T scale = (T)r.scale;                                                                                    \
        FASTACT_INDEPENDENT                                                                                            \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            y[i] = x[i] * (w[i] >= r.t ? scale : 0);                                                                   \
    }                                                                                                                  \
    FASTACT_INLINE void fastact_uniform_##name(fastact_random r, const uint32_t *w, const T *x, T *y, ptrdiff_t n)     \
    {                                                                                                                  \
        const T low = (T)r.low, range = (T)r.range;                                                                    \
        (void)x;                                                                                                       \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            y[i] = low + range * ((T)(int32_t)(w[i] >> 8) * (T)0x1p-24);                                               \
    }
FASTACT_USES(float, f32)
FASTACT_USES(double, f64)

#if FASTACT_X86
/* dropped, past the cache: y is aligned to vectors */
#define FASTACT_PAST(ISA, name, T, LANES, V, SET1, LOAD, MUL, STREAM, FACTOR)                                          \
    __attribute__((target(ISA), always_inline)) static inline void fastact_past_##name(                               \
        fastact_random r, const uint32_t *w, const T *x, T *y, ptrdiff_t n)                                            \
    {                                                                                                                  \
        const V scale = SET1((T)r.scale);                                                                              \
        for (ptrdiff_t i = 0; i < n; i += LANES)                                                                       \
            STREAM(y + i, MUL(LOAD(x + i), FACTOR(w + i)));                                                            \
    }
#define WORDS_256(w) _mm256_loadu_si256((const __m256i *)(w))
#define WORDS_128(w) _mm_loadu_si128((const __m128i *)(w))
/* AVX2 compares signed numbers only: w >= t where the greater of both is w */
#define KEPT_256(w) _mm256_cmpeq_epi32(_mm256_max_epu32(WORDS_256(w), _mm256_set1_epi32((int)r.t)), WORDS_256(w))
#define KEPT_128(w) _mm_cmpeq_epi32(_mm_max_epu32(WORDS_128(w), _mm_set1_epi32((int)r.t)), WORDS_128(w))
#define FACTOR_avx512_f32(w)                                                                                           \
    _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(_mm512_loadu_si512(w), _mm512_set1_epi32((int)r.t)), scale)
#define FACTOR_avx512_f64(w)                                                                                           \
    _mm512_maskz_mov_pd(_mm512_cmpge_epu64_mask(_mm512_cvtepu32_epi64(WORDS_256(w)), _mm512_set1_epi64(r.t)), scale)
#define FACTOR_avx2_f32(w) _mm256_and_ps(_mm256_castsi256_ps(KEPT_256(w)), scale)
#define FACTOR_avx2_f64(w) _mm256_and_pd(_mm256_castsi256_pd(_mm256_cvtepi32_epi64(KEPT_128(w))), scale)
FASTACT_PAST("avx512f", avx512_f32, float, 16, __m512, _mm512_set1_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_stream_ps,
             FACTOR_avx512_f32)
FASTACT_PAST("avx512f", avx512_f64, double, 8, __m512d, _mm512_set1_pd, _mm512_loadu_pd, _mm512_mul_pd, _mm512_stream_pd,
             FACTOR_avx512_f64)
FASTACT_PAST("avx2", avx2_f32, float, 8, __m256, _mm256_set1_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_stream_ps,
             FACTOR_avx2_f32)
FASTACT_PAST("avx2", avx2_f64, double, 4, __m256d, _mm256_set1_pd, _mm256_loadu_pd, _mm256_mul_pd, _mm256_stream_pd,
             FACTOR_avx2_f64)
#endif
#define fastact_past_plain_f32 fastact_dropped_f32
#define fastact_past_plain_f64 fastact_dropped_f64

/* Chunk by chunk: words are made, then used. The last block of a chunk stays, where the first element is not the first of
 * its block. */
#define FASTACT_CHUNKS(TARGET, isa, USE, name, T, kernel)                                                              \
    TARGET static void kernel##_##isa(const fastact_call *call, const T *x, T *y)                                      \
    {                                                                                                                  \
        const fastact_philox_key key = fastact_philox_keys(call->seed);                                                \
        const fastact_random r = fastact_random_of(call);                                                              \
        const ptrdiff_t skip = call->col0 % 4;                                                                         \
        uint64_t low = call->offset + (uint64_t)call->col0 / 4, high = low < call->offset;                             \
        uint32_t memory[32 + PHILOX_CHUNK + 4 * PHILOX_GROUP];                                                         \
        uint32_t *words = (uint32_t *)(((uintptr_t)memory + 63) & ~(uintptr_t)63) + 16;                                \
        if (skip) {                                                                                                    \
            fastact_philox_block(&key, low, high, words - 4);                                                          \
            high += ++low == 0;                                                                                        \
        }                                                                                                              \
        fastact_philox_common common = fastact_philox_common_of(&key, low, high);                                      \
        for (ptrdiff_t i = 0; i < call->n; i += PHILOX_CHUNK) {                                                        \
            const ptrdiff_t n = call->n - i < PHILOX_CHUNK ? call->n - i : PHILOX_CHUNK;                               \
            for (ptrdiff_t k = 0; k < n; k += 4 * PHILOX_GROUP) {                                                      \
                const bool overflows = (uint32_t)low > UINT32_MAX - PHILOX_GROUP;                                      \
                if (x) {                                                                                               \
                    FASTACT_PREFETCH((const char *)(x + i + k) + PHILOX_AHEAD);                                        \
                    FASTACT_PREFETCH((const char *)(x + i + k) + PHILOX_AHEAD + 64);                                   \
                }                                                                                                      \
                if (overflows)                                                                                         \
                    fastact_philox_group_blocks(&key, low, high, words + k);                                           \
                else                                                                                                   \
                    fastact_philox_group_##isa(&key, &common, low, high, words + k);                                   \
                low += PHILOX_GROUP;                                                                                   \
                high += low < PHILOX_GROUP;                                                                            \
                if (overflows)                                                                                         \
                    common = fastact_philox_common_of(&key, low, high);                                                \
            }                                                                                                          \
            USE(r, words - (skip ? 4 - skip : 0), x ? x + i : NULL, y + i, n);                                         \
            memcpy(words - 4, words + PHILOX_CHUNK - 4, 16);                                                           \
        }                                                                                                              \
    }

/* what the processor has: 2 for AVX-512, 1 for AVX2, 0 */
static int fastact_philox_level;

static void fastact_philox_init(int most)
{
    fastact_philox_level = 0;
#if FASTACT_X86
    __builtin_cpu_init();
    fastact_philox_level = __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0;
#endif
    if (fastact_philox_level > most)
        fastact_philox_level = most;
}

#if FASTACT_X86
#define FASTACT_EACH_ISA(USE_512, USE_2, USE, name, T, kernel)                                                         \
    FASTACT_CHUNKS(__attribute__((target("avx512f"))), avx512, USE_512, name, T, kernel)                               \
    FASTACT_CHUNKS(__attribute__((target("avx2"))), avx2, USE_2, name, T, kernel)                                      \
    FASTACT_CHUNKS(, plain, USE, name, T, kernel)                                                                      \
    static inline void kernel(const fastact_call *call, const void *x, void *y)                                        \
    {                                                                                                                  \
        if (fastact_philox_level == 2)                                                                                 \
            kernel##_avx512(call, (const T *)x, (T *)y);                                                               \
        else if (fastact_philox_level == 1)                                                                            \
            kernel##_avx2(call, (const T *)x, (T *)y);                                                                 \
        else                                                                                                           \
            kernel##_plain(call, (const T *)x, (T *)y);                                                                \
    }
#else
#define FASTACT_EACH_ISA(USE_512, USE_2, USE, name, T, kernel)                                                         \
    FASTACT_CHUNKS(, plain, USE, name, T, kernel)                                                                      \
    static inline void kernel(const fastact_call *call, const void *x, void *y)                                        \
    {                                                                                                                  \
        kernel##_plain(call, (const T *)x, (T *)y);                                                                    \
    }
#endif

/* The kernels. Factors and numbers in [low, low + range) are an input of other kernels; dropout is one by itself. Scalars:
 * t / 2^8 and scale, or low and range. */
#define FASTACT_RANDOM_KERNELS(name, T)                                                                                \
    FASTACT_EACH_ISA(fastact_factors_##name, fastact_factors_##name, fastact_factors_##name, name, T,                  \
                     fastact_make_factors_##name)                                                                      \
    FASTACT_EACH_ISA(fastact_uniform_##name, fastact_uniform_##name, fastact_uniform_##name, name, T,                  \
                     fastact_make_uniform_##name)                                                                      \
    FASTACT_EACH_ISA(fastact_dropped_##name, fastact_dropped_##name, fastact_dropped_##name, name, T,                  \
                     fastact_drop_##name)                                                                              \
    FASTACT_EACH_ISA(fastact_past_avx512_##name, fastact_past_avx2_##name, fastact_past_plain_##name, name, T,         \
                     fastact_drop_past_##name)                                                                         \
    static void fastact_keep_##name(const fastact_call *call) { fastact_make_factors_##name(call, NULL, call->data[0]); } \
    static void fastact_numbers_##name(const fastact_call *call) { fastact_make_uniform_##name(call, NULL, call->data[0]); } \
    static void fastact_dropout_##name(const fastact_call *call)                                                       \
    {                                                                                                                  \
        if (call->flags & FASTACT_STREAM)                                                                              \
            fastact_drop_past_##name(call, call->data[0], call->data[1]);                                              \
        else                                                                                                           \
            fastact_drop_##name(call, call->data[0], call->data[1]);                                                   \
    }
FASTACT_RANDOM_KERNELS(f32, float)
FASTACT_RANDOM_KERNELS(f64, double)

#endif
