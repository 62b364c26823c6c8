/* The primitives of formulas on the widest vectors of the instruction set this file is compiled for.
 *
 * vf32, vf64: a vector of floats, one register. mask32, mask64: what a comparison gives. Outside x86-64 a vector has one
 * lane and the compiler vectorises the loops over tiles (rendered, see render.py). What each primitive means is in
 * docs/design.md; every branch below gives the same bits.
 * float16 and bfloat16 are loaded as vf32 and rounded once when stored. */
#ifndef FASTACT_AOT_SIMD_H
#define FASTACT_AOT_SIMD_H

#include <stdint.h>
#include <string.h>
#include <math.h>
#include <float.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "float expressions are evaluated in a wider format here: results would differ between machines"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define FASTACT_INLINE static __forceinline
#else
#define FASTACT_INLINE static inline __attribute__((always_inline))
#endif

/* the entries of a lookup; 8 of them twice, to fill the widest vector */
#if defined(_MSC_VER) && !defined(__clang__)
#define FASTACT_TABLE16(element, name, ...) static const __declspec(align(64)) element name[16] = {__VA_ARGS__}
#else
#define FASTACT_TABLE16(element, name, ...) static const element name[16] __attribute__((aligned(64), unused)) = {__VA_ARGS__}
#endif
#define FASTACT_TABLE8(element, name, ...) FASTACT_TABLE16(element, name, __VA_ARGS__, __VA_ARGS__)

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define FASTACT_ISA "x86-64-v4"

typedef __m512 vf32;
typedef __m512d vf64;
typedef __mmask16 mask32;
typedef __mmask8 mask64;
#define LANES_f32 16
#define LANES_f64 8

#define FASTACT_COMPARE(name, predicate)                                                                             \
    FASTACT_INLINE mask32 name##_f32(vf32 a, vf32 b) { return _mm512_cmp_ps_mask(a, b, predicate); }                  \
    FASTACT_INLINE mask64 name##_f64(vf64 a, vf64 b) { return _mm512_cmp_pd_mask(a, b, predicate); }

FASTACT_INLINE vf32 lit_f32(double c) { return _mm512_set1_ps((float)c); }
FASTACT_INLINE vf64 lit_f64(double c) { return _mm512_set1_pd(c); }
FASTACT_INLINE vf32 where_f32(mask32 c, vf32 a, vf32 b) { return _mm512_mask_blend_ps(c, b, a); }
FASTACT_INLINE vf64 where_f64(mask64 c, vf64 a, vf64 b) { return _mm512_mask_blend_pd(c, b, a); }
/* vminps, vmaxps are exactly a < b ? a : b and a > b ? a : b */
FASTACT_INLINE vf32 minimum_f32(vf32 a, vf32 b) { return _mm512_min_ps(a, b); }
FASTACT_INLINE vf64 minimum_f64(vf64 a, vf64 b) { return _mm512_min_pd(a, b); }
FASTACT_INLINE vf32 maximum_f32(vf32 a, vf32 b) { return _mm512_max_ps(a, b); }
FASTACT_INLINE vf64 maximum_f64(vf64 a, vf64 b) { return _mm512_max_pd(a, b); }
FASTACT_INLINE vf32 fabs_f32(vf32 x) { return _mm512_abs_ps(x); }
FASTACT_INLINE vf64 fabs_f64(vf64 x) { return _mm512_abs_pd(x); }
/* 0xd8: the bits of the second operand where the third is set, else those of the first, which is overwritten */
FASTACT_INLINE vf32 copysign_f32(vf32 x, vf32 s) {
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(x), _mm512_castps_si512(s),
                                                         _mm512_set1_epi32(INT32_MIN), 0xd8));
}
FASTACT_INLINE vf64 copysign_f64(vf64 x, vf64 s) {
    return _mm512_castsi512_pd(_mm512_ternarylogic_epi64(_mm512_castpd_si512(x), _mm512_castpd_si512(s),
                                                         _mm512_set1_epi64(INT64_MIN), 0xd8));
}
FASTACT_INLINE vf32 sqrt_f32(vf32 x) { return _mm512_sqrt_ps(x); }
FASTACT_INLINE vf64 sqrt_f64(vf64 x) { return _mm512_sqrt_pd(x); }
FASTACT_INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) { return _mm512_fmadd_ps(a, b, c); }
FASTACT_INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) { return _mm512_fmadd_pd(a, b, c); }
FASTACT_INLINE vf32 rint_f32(vf32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTACT_INLINE vf64 rint_f64(vf64 x) { return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTACT_INLINE vf32 scalb_f32(vf32 x, vf32 n) { return _mm512_scalef_ps(x, n); }
FASTACT_INLINE vf64 scalb_f64(vf64 x, vf64 n) { return _mm512_scalef_pd(x, n); }
FASTACT_INLINE vf32 logb_f32(vf32 x) { return _mm512_getexp_ps(x); }
FASTACT_INLINE vf64 logb_f64(vf64 x) { return _mm512_getexp_pd(x); }

FASTACT_INLINE int any_f32(mask32 c) { return c != 0; }
FASTACT_INLINE int any_f64(mask64 c) { return c != 0; }
FASTACT_INLINE vf32 lookup16_f32(vf32 m, const float *entries) {
    return _mm512_permutexvar_ps(_mm512_castps_si512(m), _mm512_load_ps(entries));
}
FASTACT_INLINE vf32 lookup8_f32(vf32 m, const float *entries) { return lookup16_f32(m, entries); }
FASTACT_INLINE vf64 lookup8_f64(vf64 m, const double *entries) {
    return _mm512_permutexvar_pd(_mm512_castpd_si512(m), _mm512_load_pd(entries));
}
FASTACT_INLINE vf64 lookup16_f64(vf64 m, const double *entries) {
    return _mm512_permutex2var_pd(_mm512_load_pd(entries), _mm512_castpd_si512(m), _mm512_load_pd(entries + 8));
}

FASTACT_INLINE vf32 load_f32(const float *p) { return _mm512_loadu_ps(p); }
FASTACT_INLINE vf64 load_f64(const double *p) { return _mm512_loadu_pd(p); }
FASTACT_INLINE vf32 load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
FASTACT_INLINE vf32 load_bf16(const uint16_t *p) {
    const __m512i word = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0, 3, 0,
                                          2, 0, 1, 0, 0, 0);
    __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, word, words));
}
FASTACT_INLINE void store_f32(float *p, vf32 v, int stream) {
    if (stream) _mm512_stream_ps(p, v);
    else _mm512_storeu_ps(p, v);
}
FASTACT_INLINE void store_f64(double *p, vf64 v, int stream) {
    if (stream) _mm512_stream_pd(p, v);
    else _mm512_storeu_pd(p, v);
}
FASTACT_INLINE void fastact_store_256(uint16_t *p, __m256i v, int stream) {
    if (stream) _mm256_stream_si256((__m256i *)p, v);
    else _mm256_storeu_si256((__m256i *)p, v);
}
FASTACT_INLINE void store_f16(uint16_t *p, vf32 v, int stream) {
    fastact_store_256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), stream);
}
FASTACT_INLINE void store_bf16(uint16_t *p, vf32 v, int stream) {
    /* the upper words of all lanes, below: one instruction, where a shift and a conversion are three */
    const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19, 17, 15,
                                           13, 11, 9, 7, 5, 3, 1);
    __m512i u = _mm512_castps_si512(v), rounded = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
    fastact_store_256(p, _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, rounded)), stream);
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define FASTACT_ISA "x86-64-v3"

typedef __m256 vf32;
typedef __m256d vf64;
typedef __m256 mask32;
typedef __m256d mask64;
#define LANES_f32 8
#define LANES_f64 4

#define FASTACT_COMPARE(name, predicate)                                                                             \
    FASTACT_INLINE mask32 name##_f32(vf32 a, vf32 b) { return _mm256_cmp_ps(a, b, predicate); }                       \
    FASTACT_INLINE mask64 name##_f64(vf64 a, vf64 b) { return _mm256_cmp_pd(a, b, predicate); }

FASTACT_INLINE vf32 lit_f32(double c) { return _mm256_set1_ps((float)c); }
FASTACT_INLINE vf64 lit_f64(double c) { return _mm256_set1_pd(c); }
FASTACT_INLINE vf32 where_f32(mask32 c, vf32 a, vf32 b) { return _mm256_blendv_ps(b, a, c); }
FASTACT_INLINE vf64 where_f64(mask64 c, vf64 a, vf64 b) { return _mm256_blendv_pd(b, a, c); }
FASTACT_INLINE vf32 minimum_f32(vf32 a, vf32 b) { return _mm256_min_ps(a, b); }
FASTACT_INLINE vf64 minimum_f64(vf64 a, vf64 b) { return _mm256_min_pd(a, b); }
FASTACT_INLINE vf32 maximum_f32(vf32 a, vf32 b) { return _mm256_max_ps(a, b); }
FASTACT_INLINE vf64 maximum_f64(vf64 a, vf64 b) { return _mm256_max_pd(a, b); }
FASTACT_INLINE vf32 fabs_f32(vf32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
FASTACT_INLINE vf64 fabs_f64(vf64 x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }
FASTACT_INLINE vf32 copysign_f32(vf32 x, vf32 s) {
    return _mm256_or_ps(fabs_f32(x), _mm256_and_ps(_mm256_set1_ps(-0.0f), s));
}
FASTACT_INLINE vf64 copysign_f64(vf64 x, vf64 s) {
    return _mm256_or_pd(fabs_f64(x), _mm256_and_pd(_mm256_set1_pd(-0.0), s));
}
FASTACT_INLINE vf32 sqrt_f32(vf32 x) { return _mm256_sqrt_ps(x); }
FASTACT_INLINE vf64 sqrt_f64(vf64 x) { return _mm256_sqrt_pd(x); }
FASTACT_INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) { return _mm256_fmadd_ps(a, b, c); }
FASTACT_INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) { return _mm256_fmadd_pd(a, b, c); }
FASTACT_INLINE vf32 rint_f32(vf32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTACT_INLINE vf64 rint_f64(vf64 x) { return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

FASTACT_INLINE vf32 fastact_exp2i_f32(vf32 k) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(_mm256_add_ps(k, lit_f32(0x1.8p23 + 127))), 23));
}
FASTACT_INLINE vf64 fastact_exp2i_f64(vf64 k) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(_mm256_add_pd(k, lit_f64(0x1.8p52 + 1023))), 52));
}
#define FASTACT_ALL_WITHIN_f32(n, k) \
    (_mm256_movemask_ps(_mm256_cmp_ps(fabs_f32(n), lit_f32(k), _CMP_NLE_UQ)) == 0)
#define FASTACT_ALL_WITHIN_f64(n, k) \
    (_mm256_movemask_pd(_mm256_cmp_pd(fabs_f64(n), lit_f64(k), _CMP_NLE_UQ)) == 0)

FASTACT_INLINE vf32 logb_f32(vf32 x) {
    mask32 subnormal = _mm256_cmp_ps(x, lit_f32(FLT_MIN), _CMP_LT_OQ);
    vf32 y = where_f32(subnormal, _mm256_mul_ps(x, lit_f32(0x1p24)), x);
    vf32 e = _mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(y), 23));
    return _mm256_sub_ps(e, where_f32(subnormal, lit_f32(127 + 24), lit_f32(127)));
}
FASTACT_INLINE vf64 logb_f64(vf64 x) {
    mask64 subnormal = _mm256_cmp_pd(x, lit_f64(DBL_MIN), _CMP_LT_OQ);
    vf64 y = where_f64(subnormal, _mm256_mul_pd(x, lit_f64(0x1p53)), x);
    /* 2^52 + e, by its bits */
    __m256i e = _mm256_or_si256(_mm256_srli_epi64(_mm256_castpd_si256(y), 52), _mm256_castpd_si256(lit_f64(0x1p52)));
    return _mm256_sub_pd(_mm256_castsi256_pd(e),
                         where_f64(subnormal, lit_f64(0x1p52 + 1023 + 53), lit_f64(0x1p52 + 1023)));
}

FASTACT_INLINE int any_f32(mask32 c) { return _mm256_movemask_ps(c) != 0; }
FASTACT_INLINE int any_f64(mask64 c) { return _mm256_movemask_pd(c) != 0; }
FASTACT_INLINE vf32 lookup8_f32(vf32 m, const float *entries) {
    return _mm256_permutevar8x32_ps(_mm256_load_ps(entries), _mm256_castps_si256(m));
}
FASTACT_INLINE vf32 lookup16_f32(vf32 m, const float *entries) {
    /* not a blend, which is three operations on Intel's CPUs; the difference of the halves is a constant to GCC */
    vf32 apart = _mm256_xor_ps(_mm256_load_ps(entries), _mm256_load_ps(entries + 8));
    __m256i number = _mm256_castps_si256(m), upper = _mm256_srai_epi32(_mm256_slli_epi32(number, 28), 31);
    vf32 changes = _mm256_and_ps(_mm256_permutevar8x32_ps(apart, number), _mm256_castsi256_ps(upper));
    return _mm256_xor_ps(lookup8_f32(m, entries), changes);
}
#define FASTACT_LOOKUP_f64(n)                                                                                        \
    FASTACT_INLINE vf64 lookup##n##_f64(vf64 m, const double *entries) {                                              \
        return _mm256_i64gather_pd(entries, _mm256_and_si256(_mm256_castpd_si256(m), _mm256_set1_epi64x(n - 1)), 8);  \
    }
FASTACT_LOOKUP_f64(8)
FASTACT_LOOKUP_f64(16)

FASTACT_INLINE vf32 load_f32(const float *p) { return _mm256_loadu_ps(p); }
FASTACT_INLINE vf64 load_f64(const double *p) { return _mm256_loadu_pd(p); }
FASTACT_INLINE vf32 load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
FASTACT_INLINE vf32 load_bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
FASTACT_INLINE void store_f32(float *p, vf32 v, int stream) {
    if (stream) _mm256_stream_ps(p, v);
    else _mm256_storeu_ps(p, v);
}
FASTACT_INLINE void store_f64(double *p, vf64 v, int stream) {
    if (stream) _mm256_stream_pd(p, v);
    else _mm256_storeu_pd(p, v);
}
FASTACT_INLINE void fastact_store_128(uint16_t *p, __m128i v, int stream) {
    if (stream) _mm_stream_si128((__m128i *)p, v);
    else _mm_storeu_si128((__m128i *)p, v);
}
FASTACT_INLINE void store_f16(uint16_t *p, vf32 v, int stream) {
    fastact_store_128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), stream);
}
FASTACT_INLINE void store_bf16(uint16_t *p, vf32 v, int stream) {
    __m256i u = _mm256_castps_si256(v), upper = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    vf32 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    fastact_store_128(p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)), stream);
}

#elif defined(__SSE4_2__)
#include <immintrin.h>
#define FASTACT_ISA "x86-64-v2"

typedef __m128 vf32;
typedef __m128d vf64;
typedef __m128 mask32;
typedef __m128d mask64;
#define LANES_f32 4
#define LANES_f64 2

#define FASTACT_COMPARE(name, predicate)                                                                             \
    FASTACT_INLINE mask32 name##_f32(vf32 a, vf32 b) { return _mm_cmp##predicate##_ps(a, b); }                        \
    FASTACT_INLINE mask64 name##_f64(vf64 a, vf64 b) { return _mm_cmp##predicate##_pd(a, b); }

FASTACT_INLINE vf32 lit_f32(double c) { return _mm_set1_ps((float)c); }
FASTACT_INLINE vf64 lit_f64(double c) { return _mm_set1_pd(c); }
FASTACT_INLINE vf32 where_f32(mask32 c, vf32 a, vf32 b) { return _mm_blendv_ps(b, a, c); }
FASTACT_INLINE vf64 where_f64(mask64 c, vf64 a, vf64 b) { return _mm_blendv_pd(b, a, c); }
FASTACT_INLINE vf32 minimum_f32(vf32 a, vf32 b) { return _mm_min_ps(a, b); }
FASTACT_INLINE vf64 minimum_f64(vf64 a, vf64 b) { return _mm_min_pd(a, b); }
FASTACT_INLINE vf32 maximum_f32(vf32 a, vf32 b) { return _mm_max_ps(a, b); }
FASTACT_INLINE vf64 maximum_f64(vf64 a, vf64 b) { return _mm_max_pd(a, b); }
FASTACT_INLINE vf32 fabs_f32(vf32 x) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), x); }
FASTACT_INLINE vf64 fabs_f64(vf64 x) { return _mm_andnot_pd(_mm_set1_pd(-0.0), x); }
FASTACT_INLINE vf32 copysign_f32(vf32 x, vf32 s) { return _mm_or_ps(fabs_f32(x), _mm_and_ps(_mm_set1_ps(-0.0f), s)); }
FASTACT_INLINE vf64 copysign_f64(vf64 x, vf64 s) { return _mm_or_pd(fabs_f64(x), _mm_and_pd(_mm_set1_pd(-0.0), s)); }
FASTACT_INLINE vf32 sqrt_f32(vf32 x) { return _mm_sqrt_ps(x); }
FASTACT_INLINE vf64 sqrt_f64(vf64 x) { return _mm_sqrt_pd(x); }
FASTACT_INLINE vf32 rint_f32(vf32 x) { return _mm_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTACT_INLINE vf64 rint_f64(vf64 x) { return _mm_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* fma of two floats: their product is exact in double; the sum is rounded to odd, after which rounding to float is the
 * only rounding that shows (Boldo, Melquiond: Emulation of a FMA and correctly rounded sums, 2008) */
FASTACT_INLINE __m128 fastact_fma_half(__m128 a, __m128 b, __m128 c) {
    __m128d p = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), d = _mm_cvtps_pd(c), s = _mm_add_pd(p, d);
    __m128d t = _mm_sub_pd(s, p), error = _mm_add_pd(_mm_sub_pd(p, _mm_sub_pd(s, t)), _mm_sub_pd(d, t));
    __m128i u = _mm_castpd_si128(s), one = _mm_set1_epi64x(1);
    /* where s is even, one unit towards the error: away from zero if the signs agree; a NaN error changes nothing */
    __m128d inexact = _mm_and_pd(_mm_cmpneq_pd(error, _mm_setzero_pd()), _mm_cmpord_pd(error, error));
    __m128i even = _mm_cmpeq_epi64(_mm_and_si128(u, one), _mm_setzero_si128());
    __m128i differ = _mm_castpd_si128(_mm_blendv_pd(_mm_setzero_pd(), _mm_castsi128_pd(_mm_set1_epi64x(-2)),
                                                    _mm_xor_pd(error, s)));
    __m128i unit = _mm_add_epi64(one, differ);
    unit = _mm_and_si128(unit, _mm_and_si128(even, _mm_castpd_si128(inexact)));
    return _mm_cvtpd_ps(_mm_castsi128_pd(_mm_add_epi64(u, unit)));
}
/* not inlined: 12 fmas of a polynomial in each of 400 loops would take minutes to compile */
static __attribute__((noinline)) __m128 fma_f32(__m128 a, __m128 b, __m128 c) {
    __m128 low = fastact_fma_half(a, b, c);
    __m128 high = fastact_fma_half(_mm_movehl_ps(a, a), _mm_movehl_ps(b, b), _mm_movehl_ps(c, c));
    return _mm_movelh_ps(low, high);
}
/* the C library's: right, and slow without the instruction */
static __attribute__((noinline)) __m128d fma_f64(__m128d a, __m128d b, __m128d c) {
    double low = fma(_mm_cvtsd_f64(a), _mm_cvtsd_f64(b), _mm_cvtsd_f64(c));
    a = _mm_unpackhi_pd(a, a), b = _mm_unpackhi_pd(b, b), c = _mm_unpackhi_pd(c, c);
    return _mm_set_pd(fma(_mm_cvtsd_f64(a), _mm_cvtsd_f64(b), _mm_cvtsd_f64(c)), low);
}

FASTACT_INLINE vf32 fastact_exp2i_f32(vf32 k) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(_mm_add_ps(k, lit_f32(0x1.8p23 + 127))), 23));
}
FASTACT_INLINE vf64 fastact_exp2i_f64(vf64 k) {
    return _mm_castsi128_pd(_mm_slli_epi64(_mm_castpd_si128(_mm_add_pd(k, lit_f64(0x1.8p52 + 1023))), 52));
}
#define FASTACT_ALL_WITHIN_f32(n, k) (_mm_movemask_ps(_mm_cmpnle_ps(fabs_f32(n), lit_f32(k))) == 0)
#define FASTACT_ALL_WITHIN_f64(n, k) (_mm_movemask_pd(_mm_cmpnle_pd(fabs_f64(n), lit_f64(k))) == 0)

FASTACT_INLINE vf32 logb_f32(vf32 x) {
    mask32 subnormal = _mm_cmplt_ps(x, lit_f32(FLT_MIN));
    vf32 y = where_f32(subnormal, _mm_mul_ps(x, lit_f32(0x1p24)), x);
    vf32 e = _mm_cvtepi32_ps(_mm_srli_epi32(_mm_castps_si128(y), 23));
    return _mm_sub_ps(e, where_f32(subnormal, lit_f32(127 + 24), lit_f32(127)));
}
FASTACT_INLINE vf64 logb_f64(vf64 x) {
    mask64 subnormal = _mm_cmplt_pd(x, lit_f64(DBL_MIN));
    vf64 y = where_f64(subnormal, _mm_mul_pd(x, lit_f64(0x1p53)), x);
    /* 2^52 + e, by its bits */
    __m128i e = _mm_or_si128(_mm_srli_epi64(_mm_castpd_si128(y), 52), _mm_castpd_si128(lit_f64(0x1p52)));
    return _mm_sub_pd(_mm_castsi128_pd(e), where_f64(subnormal, lit_f64(0x1p52 + 1023 + 53), lit_f64(0x1p52 + 1023)));
}

FASTACT_INLINE int any_f32(mask32 c) { return _mm_movemask_ps(c) != 0; }
FASTACT_INLINE int any_f64(mask64 c) { return _mm_movemask_pd(c) != 0; }
#define FASTACT_LOOKUP(n)                                                                                            \
    FASTACT_INLINE vf32 lookup##n##_f32(vf32 m, const float *entries) {                                               \
        __m128i k = _mm_and_si128(_mm_castps_si128(m), _mm_set1_epi32(n - 1));                                        \
        return _mm_setr_ps(entries[_mm_extract_epi32(k, 0)], entries[_mm_extract_epi32(k, 1)],                        \
                           entries[_mm_extract_epi32(k, 2)], entries[_mm_extract_epi32(k, 3)]);                       \
    }                                                                                                                 \
    FASTACT_INLINE vf64 lookup##n##_f64(vf64 m, const double *entries) {                                              \
        __m128i k = _mm_and_si128(_mm_castpd_si128(m), _mm_set1_epi64x(n - 1));                                       \
        return _mm_setr_pd(entries[_mm_extract_epi64(k, 0)], entries[_mm_extract_epi64(k, 1)]);                       \
    }
FASTACT_LOOKUP(8)
FASTACT_LOOKUP(16)

FASTACT_INLINE vf32 load_f32(const float *p) { return _mm_loadu_ps(p); }
FASTACT_INLINE vf64 load_f64(const double *p) { return _mm_loadu_pd(p); }
FASTACT_INLINE vf32 load_bf16(const uint16_t *p) {
    __m128i u = _mm_loadl_epi64((const __m128i *)p);
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), u));
}
FASTACT_INLINE vf32 load_f16(const uint16_t *p) {
    __m128i h = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
    __m128i u = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x7fff)), 13);
    __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
    __m128 finite = _mm_mul_ps(_mm_castsi128_ps(u), _mm_set1_ps(0x1p112f));
    __m128i nan = _mm_cmpgt_epi32(u, _mm_set1_epi32(0x0f800000));
    __m128i special = _mm_or_si128(_mm_or_si128(u, _mm_set1_epi32(0x7f800000)),
                                   _mm_and_si128(nan, _mm_set1_epi32(0x00400000)));
    __m128i is_special = _mm_cmpgt_epi32(u, _mm_set1_epi32(0x0f7fffff));
    __m128i r = _mm_blendv_epi8(_mm_castps_si128(finite), special, is_special);
    return _mm_castsi128_ps(_mm_or_si128(sign, r));
}
FASTACT_INLINE void store_f32(float *p, vf32 v, int stream) {
    if (stream) _mm_stream_ps(p, v);
    else _mm_storeu_ps(p, v);
}
FASTACT_INLINE void store_f64(double *p, vf64 v, int stream) {
    if (stream) _mm_stream_pd(p, v);
    else _mm_storeu_pd(p, v);
}
/* no 8-byte non-temporal store of a vector register */
FASTACT_INLINE void fastact_store_64(uint16_t *p, __m128i v, int stream) {
    (void)stream;
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi32(v, v));
}
FASTACT_INLINE void store_bf16(uint16_t *p, vf32 v, int stream) {
    __m128i u = _mm_castps_si128(v), upper = _mm_srli_epi32(u, 16);
    __m128i odd = _mm_and_si128(upper, _mm_set1_epi32(1));
    __m128i rounded = _mm_srli_epi32(_mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff))), 16);
    __m128i quiet = _mm_or_si128(upper, _mm_set1_epi32(0x40));
    fastact_store_64(p, _mm_blendv_epi8(rounded, quiet, _mm_castps_si128(_mm_cmpunord_ps(v, v))), stream);
}
FASTACT_INLINE void store_f16(uint16_t *p, vf32 v, int stream) {
    __m128i u = _mm_castps_si128(v), a = _mm_and_si128(u, _mm_set1_epi32(0x7fffffff)), upper = _mm_srli_epi32(a, 13);
    __m128i nan = _mm_and_si128(_mm_or_si128(upper, _mm_set1_epi32(0x7e00)), _mm_set1_epi32(0x7fff));
    __m128i odd = _mm_and_si128(upper, _mm_set1_epi32(1));
    __m128i normal = _mm_add_epi32(a, _mm_add_epi32(odd, _mm_set1_epi32(0xfff - 0x38000000)));
    normal = _mm_min_epi32(_mm_srli_epi32(normal, 13), _mm_set1_epi32(0x7c00));
    /* adding 0.5 leaves a multiple of 2^-24, the spacing of float16's subnormals, in the low bits */
    __m128 half = _mm_set1_ps(0.5f);
    __m128i subnormal = _mm_sub_epi32(_mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(a), half)), _mm_castps_si128(half));
    __m128i r = _mm_blendv_epi8(normal, subnormal, _mm_cmplt_epi32(a, _mm_set1_epi32(0x38800000)));
    r = _mm_blendv_epi8(r, nan, _mm_castps_si128(_mm_cmpunord_ps(v, v)));
    fastact_store_64(p, _mm_or_si128(r, _mm_srli_epi32(_mm_andnot_si128(_mm_set1_epi32(0x7fffffff), u), 16)), stream);
}

#else
#define FASTACT_ISA "generic"
#define FASTACT_ONE_LANE

typedef float vf32;
typedef double vf64;
typedef int mask32;
typedef int mask64;
#define LANES_f32 1
#define LANES_f64 1

FASTACT_INLINE uint32_t fastact_bits_f32(float x) { uint32_t u; memcpy(&u, &x, sizeof u); return u; }
FASTACT_INLINE float fastact_from_bits_f32(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }
FASTACT_INLINE uint64_t fastact_bits_f64(double x) { uint64_t u; memcpy(&u, &x, sizeof u); return u; }
FASTACT_INLINE double fastact_from_bits_f64(uint64_t u) { double x; memcpy(&x, &u, sizeof x); return x; }

#define FASTACT_COMPARE(name, operator)                                                                              \
    FASTACT_INLINE mask32 name##_f32(vf32 a, vf32 b) { return a operator b; }                                         \
    FASTACT_INLINE mask64 name##_f64(vf64 a, vf64 b) { return a operator b; }

FASTACT_INLINE vf32 lit_f32(double c) { return (float)c; }
FASTACT_INLINE vf64 lit_f64(double c) { return c; }
FASTACT_INLINE vf32 where_f32(mask32 c, vf32 a, vf32 b) { return c ? a : b; }
FASTACT_INLINE vf64 where_f64(mask64 c, vf64 a, vf64 b) { return c ? a : b; }
FASTACT_INLINE vf32 minimum_f32(vf32 a, vf32 b) { return a < b ? a : b; }
FASTACT_INLINE vf64 minimum_f64(vf64 a, vf64 b) { return a < b ? a : b; }
FASTACT_INLINE vf32 maximum_f32(vf32 a, vf32 b) { return a > b ? a : b; }
FASTACT_INLINE vf64 maximum_f64(vf64 a, vf64 b) { return a > b ? a : b; }
FASTACT_INLINE vf32 fabs_f32(vf32 x) { return fabsf(x); }
FASTACT_INLINE vf64 fabs_f64(vf64 x) { return fabs(x); }
FASTACT_INLINE vf32 copysign_f32(vf32 x, vf32 s) { return copysignf(x, s); }
FASTACT_INLINE vf64 copysign_f64(vf64 x, vf64 s) { return copysign(x, s); }
FASTACT_INLINE vf32 sqrt_f32(vf32 x) { return sqrtf(x); }
FASTACT_INLINE vf64 sqrt_f64(vf64 x) { return sqrt(x); }
FASTACT_INLINE vf32 rint_f32(vf32 x) { return rintf(x); }
FASTACT_INLINE vf64 rint_f64(vf64 x) { return rint(x); }

FASTACT_INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) { return fmaf(a, b, c); }
FASTACT_INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) { return fma(a, b, c); }

FASTACT_INLINE vf32 fastact_exp2i_f32(vf32 k) {
    return fastact_from_bits_f32(fastact_bits_f32(k + (0x1.8p23f + 127.0f)) << 23);
}
FASTACT_INLINE vf64 fastact_exp2i_f64(vf64 k) {
    return fastact_from_bits_f64(fastact_bits_f64(k + (0x1.8p52 + 1023.0)) << 52);
}
/* a branch would keep the compiler from vectorising */
#define FASTACT_ALL_WITHIN_f32(n, k) 0
#define FASTACT_ALL_WITHIN_f64(n, k) 0

FASTACT_INLINE vf32 logb_f32(vf32 x) {
    mask32 subnormal = x < FLT_MIN;
    float y = subnormal ? x * 0x1p24f : x;
    return (float)(int32_t)(fastact_bits_f32(y) >> 23) - (subnormal ? 151.0f : 127.0f);
}
FASTACT_INLINE vf64 logb_f64(vf64 x) {
    mask64 subnormal = x < DBL_MIN;
    double y = subnormal ? x * 0x1p53 : x;
    double e = fastact_from_bits_f64((fastact_bits_f64(y) >> 52) | 0x4330000000000000u);
    return e - (subnormal ? 0x1p52 + 1076.0 : 0x1p52 + 1023.0);
}

FASTACT_INLINE vf32 load_f32(const float *p) { return *p; }
FASTACT_INLINE vf64 load_f64(const double *p) { return *p; }
FASTACT_INLINE vf32 load_bf16(const uint16_t *p) { return fastact_from_bits_f32((uint32_t)*p << 16); }
FASTACT_INLINE int any_f32(mask32 c) { return c != 0; }
FASTACT_INLINE int any_f64(mask64 c) { return c != 0; }
FASTACT_INLINE vf32 lookup8_f32(vf32 m, const float *entries) { return entries[fastact_bits_f32(m) & 7]; }
FASTACT_INLINE vf64 lookup8_f64(vf64 m, const double *entries) { return entries[fastact_bits_f64(m) & 7]; }
FASTACT_INLINE vf32 lookup16_f32(vf32 m, const float *entries) { return entries[fastact_bits_f32(m) & 15]; }
FASTACT_INLINE vf64 lookup16_f64(vf64 m, const double *entries) { return entries[fastact_bits_f64(m) & 15]; }

FASTACT_INLINE vf32 load_f16(const uint16_t *p) {
    uint32_t h = *p, sign = (h & 0x8000u) << 16, u = (h & 0x7fffu) << 13;
    uint32_t finite = fastact_bits_f32(fastact_from_bits_f32(u) * 0x1p112f);
    uint32_t special = u | 0x7f800000u | (u > 0x0f800000u ? 0x00400000u : 0u);
    return fastact_from_bits_f32(sign | (u >= 0x0f800000u ? special : finite));
}
FASTACT_INLINE void store_f32(float *p, vf32 v, int stream) { (void)stream; *p = v; }
FASTACT_INLINE void store_f64(double *p, vf64 v, int stream) { (void)stream; *p = v; }
FASTACT_INLINE void store_bf16(uint16_t *p, vf32 v, int stream) {
    uint32_t u = fastact_bits_f32(v), upper = u >> 16;
    (void)stream;
    *p = (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? upper | 0x40u : (u + 0x7fffu + (upper & 1u)) >> 16);
}
FASTACT_INLINE void store_f16(uint16_t *p, vf32 v, int stream) {
    uint32_t u = fastact_bits_f32(v), a = u & 0x7fffffffu;
    uint32_t nan = 0x7e00u | (a >> 13);
    uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
    /* adding 0.5 leaves a multiple of 2^-24, the spacing of float16's subnormals, in the low bits */
    uint32_t subnormal = fastact_bits_f32(fastact_from_bits_f32(a) + 0.5f) - 0x3f000000u;
    uint32_t r = a < 0x38800000u ? subnormal : normal < 0x7c00u ? normal : 0x7c00u;
    (void)stream;
    *p = (uint16_t)((u >> 16 & 0x8000u) | ((a > 0x7f800000u ? nan : r) & 0x7fffu));
}
#endif

#if defined(FASTACT_ONE_LANE)
FASTACT_COMPARE(lt, <)
FASTACT_COMPARE(le, <=)
FASTACT_COMPARE(gt, >)
FASTACT_COMPARE(ge, >=)
FASTACT_COMPARE(eq, ==)
FASTACT_COMPARE(ne, !=)
#elif LANES_f32 == 4
FASTACT_COMPARE(lt, lt)
FASTACT_COMPARE(le, le)
FASTACT_COMPARE(gt, gt)
FASTACT_COMPARE(ge, ge)
FASTACT_COMPARE(eq, eq)
FASTACT_COMPARE(ne, neq)
#else
FASTACT_COMPARE(lt, _CMP_LT_OQ)
FASTACT_COMPARE(le, _CMP_LE_OQ)
FASTACT_COMPARE(gt, _CMP_GT_OQ)
FASTACT_COMPARE(ge, _CMP_GE_OQ)
FASTACT_COMPARE(eq, _CMP_EQ_OQ)
FASTACT_COMPARE(ne, _CMP_NEQ_UQ)
#endif

#if defined(FASTACT_ALL_WITHIN_f32)
/* fastact_exp2i(k) is 2^k for integral k in the range of normal numbers: its sum has k + bias in the lowest bits.
 * scalb, x·2^n rounded once: all but the last multiplication are exact unless the result is 0 or infinite in any case.
 * n = last + middle + first; where the result is not 0, x·2^first·2^middle >= 2^-150·2^102 is normal. */
FASTACT_INLINE vf32 scalb_f32(vf32 x, vf32 n) {
    if (FASTACT_ALL_WITHIN_f32(n, 126.0)) return x * fastact_exp2i_f32(n);
    n = minimum_f32(maximum_f32(n, lit_f32(-280.0)), lit_f32(280.0));
    vf32 last = minimum_f32(maximum_f32(n, lit_f32(-102.0)), lit_f32(102.0));
    vf32 rest = n - last;
    vf32 middle = minimum_f32(maximum_f32(rest, lit_f32(-102.0)), lit_f32(102.0));
    return x * fastact_exp2i_f32(rest - middle) * fastact_exp2i_f32(middle) * fastact_exp2i_f32(last);
}
/* as above, with 2^-1075·2^969 */
FASTACT_INLINE vf64 scalb_f64(vf64 x, vf64 n) {
    if (FASTACT_ALL_WITHIN_f64(n, 1022.0)) return x * fastact_exp2i_f64(n);
    n = minimum_f64(maximum_f64(n, lit_f64(-2200.0)), lit_f64(2200.0));
    vf64 last = minimum_f64(maximum_f64(n, lit_f64(-969.0)), lit_f64(969.0));
    vf64 rest = n - last;
    vf64 middle = minimum_f64(maximum_f64(rest, lit_f64(-969.0)), lit_f64(969.0));
    return x * fastact_exp2i_f64(rest - middle) * fastact_exp2i_f64(middle) * fastact_exp2i_f64(last);
}
#endif

/* A loop takes STEP elements at a time, as PARTS vectors. With one lane, results wait in a tile, so that the compiler
 * knows that they overlap no input; else the tile is nothing and a store goes to the output itself. */
#if defined(FASTACT_ONE_LANE)
#define STEP_f32 16
#define STEP_f64 8
#else
#define STEP_f32 LANES_f32
#define STEP_f64 LANES_f64
#endif
#define PARTS_f32 (STEP_f32 / LANES_f32)
#define PARTS_f64 (STEP_f64 / LANES_f64)
/* Whether a loop takes several vectors at a time, so that the processor has independent work. With 16 registers they do not
 * fit: two at a time gained 2 % with AVX2, and where the compiler mixes their instructions sigmoid lost 50 % (Zen 5). */
#if defined(__AVX512F__)
#define SIDE_BY_SIDE 1
#else
#define SIDE_BY_SIDE 0
#endif
#if defined(FASTACT_ONE_LANE)
typedef float tile_f32[STEP_f32];
typedef double tile_f64[STEP_f64];
typedef uint16_t tile_f16[STEP_f32];
typedef uint16_t tile_bf16[STEP_f32];
#define SLOT(tile, p) (tile)
#define FLUSH(p, tile) memcpy((p), (tile), sizeof(tile))
#else
typedef float tile_f32[1];
typedef double tile_f64[1];
typedef uint16_t tile_f16[1];
typedef uint16_t tile_bf16[1];
#define SLOT(tile, p) (p)
#define FLUSH(p, tile) ((void)(tile))
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)(p))
#endif

FASTACT_INLINE void streamed(int stream) {
#if !defined(FASTACT_ONE_LANE)
    if (stream) _mm_sfence();
#else
    (void)stream;
#endif
}

#endif
