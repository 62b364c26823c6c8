/* Vectors of 64 bytes, and quads of four of them, out of the vectors of simd.h: what row kernels compute with.
 *
 * The names and what they mean are those of fastact/loops. A sum has the same order of additions on every instruction
 * set; a row value has the same number in all lanes. */
#ifndef FASTACT_AOT_ROWS_H
#define FASTACT_AOT_ROWS_H

#include "simd.h"

#define WIDTH_f32 16
#define WIDTH_f64 8
#define VPARTS_f32 (WIDTH_f32 / LANES_f32)
#define VPARTS_f64 (WIDTH_f64 / LANES_f64)

typedef struct { vf32 v[VPARTS_f32]; } vec_f32;
typedef struct { vf64 v[VPARTS_f64]; } vec_f64;
typedef struct { vf32 v[4 * VPARTS_f32]; } quad_f32;
typedef struct { vf64 v[4 * VPARTS_f64]; } quad_f64;

/* m(j, …) for every part j; written out, so that parts are registers and not an array in memory */
#define FASTACT_4(m, j, ...) m(j, __VA_ARGS__) m(j + 1, __VA_ARGS__) m(j + 2, __VA_ARGS__) m(j + 3, __VA_ARGS__)
#define FASTACT_8(m, j, ...) FASTACT_4(m, j, __VA_ARGS__) FASTACT_4(m, j + 4, __VA_ARGS__)
#if defined(FASTACT_ONE_LANE)
#define EACH_vec_f32(m, ...) for (int j_ = 0; j_ < 16; j_++) { m(j_, __VA_ARGS__) }
#define EACH_vec_f64(m, ...) for (int j_ = 0; j_ < 8; j_++) { m(j_, __VA_ARGS__) }
#define EACH_quad_f32(m, ...) for (int j_ = 0; j_ < 64; j_++) { m(j_, __VA_ARGS__) }
#define EACH_quad_f64(m, ...) for (int j_ = 0; j_ < 32; j_++) { m(j_, __VA_ARGS__) }
#elif LANES_f32 == 16
#define EACH_vec_f32(m, ...) m(0, __VA_ARGS__)
#define EACH_quad_f32(m, ...) FASTACT_4(m, 0, __VA_ARGS__)
#elif LANES_f32 == 8
#define EACH_vec_f32(m, ...) m(0, __VA_ARGS__) m(1, __VA_ARGS__)
#define EACH_quad_f32(m, ...) FASTACT_8(m, 0, __VA_ARGS__)
#else
#define EACH_vec_f32(m, ...) FASTACT_4(m, 0, __VA_ARGS__)
#define EACH_quad_f32(m, ...) FASTACT_8(m, 0, __VA_ARGS__) FASTACT_8(m, 8, __VA_ARGS__)
#endif
#if !defined(FASTACT_ONE_LANE)
#define EACH_vec_f64 EACH_vec_f32
#define EACH_quad_f64 EACH_quad_f32
#endif

/* r = f(a, …), part by part; f is a formula over vf32 or vf64 */
#define SET1(j, r, f, a) (r).v[j] = f((a).v[j]);
#define SET2(j, r, f, a, b) (r).v[j] = f((a).v[j], (b).v[j]);
#define SET3(j, r, f, a, b, c) (r).v[j] = f((a).v[j], (b).v[j], (c).v[j]);
#define SET4(j, r, f, a, b, c, d) (r).v[j] = f((a).v[j], (b).v[j], (c).v[j], (d).v[j]);
#define SET5(j, r, f, a, b, c, d, e) (r).v[j] = f((a).v[j], (b).v[j], (c).v[j], (d).v[j], (e).v[j]);
#define SET6(j, r, f, a, b, c, d, e, g) (r).v[j] = f((a).v[j], (b).v[j], (c).v[j], (d).v[j], (e).v[j], (g).v[j]);
#define PAIR1(j, f, a, r, s) f((a).v[j], &(r)->v[j], &(s)->v[j]);
#define PAIR2(j, f, a, b, r, s) f((a).v[j], (b).v[j], &(r)->v[j], &(s)->v[j]);
#define PAIR3(j, f, a, b, c, r, s) f((a).v[j], (b).v[j], (c).v[j], &(r)->v[j], &(s)->v[j]);
#define PAIR4(j, f, a, b, c, d, r, s) f((a).v[j], (b).v[j], (c).v[j], (d).v[j], &(r)->v[j], &(s)->v[j]);

#define MAP_vec_f32(set, ...) ({ vec_f32 r_; EACH_vec_f32(set, r_, __VA_ARGS__) r_; })
#define MAP_vec_f64(set, ...) ({ vec_f64 r_; EACH_vec_f64(set, r_, __VA_ARGS__) r_; })
#define MAP_quad_f32(set, ...) ({ quad_f32 r_; EACH_quad_f32(set, r_, __VA_ARGS__) r_; })
#define MAP_quad_f64(set, ...) ({ quad_f64 r_; EACH_quad_f64(set, r_, __VA_ARGS__) r_; })
/* what Cython calls: a macro each, by the type and the number of arguments */
#define MAP1_vec_f32(...) MAP_vec_f32(SET1, __VA_ARGS__)
#define MAP2_vec_f32(...) MAP_vec_f32(SET2, __VA_ARGS__)
#define MAP3_vec_f32(...) MAP_vec_f32(SET3, __VA_ARGS__)
#define MAP4_vec_f32(...) MAP_vec_f32(SET4, __VA_ARGS__)
#define MAP5_vec_f32(...) MAP_vec_f32(SET5, __VA_ARGS__)
#define MAP6_vec_f32(...) MAP_vec_f32(SET6, __VA_ARGS__)
#define MAP1_vec_f64(...) MAP_vec_f64(SET1, __VA_ARGS__)
#define MAP2_vec_f64(...) MAP_vec_f64(SET2, __VA_ARGS__)
#define MAP3_vec_f64(...) MAP_vec_f64(SET3, __VA_ARGS__)
#define MAP4_vec_f64(...) MAP_vec_f64(SET4, __VA_ARGS__)
#define MAP5_vec_f64(...) MAP_vec_f64(SET5, __VA_ARGS__)
#define MAP6_vec_f64(...) MAP_vec_f64(SET6, __VA_ARGS__)
#define MAP1_quad_f32(...) MAP_quad_f32(SET1, __VA_ARGS__)
#define MAP2_quad_f32(...) MAP_quad_f32(SET2, __VA_ARGS__)
#define MAP3_quad_f32(...) MAP_quad_f32(SET3, __VA_ARGS__)
#define MAP4_quad_f32(...) MAP_quad_f32(SET4, __VA_ARGS__)
#define MAP5_quad_f32(...) MAP_quad_f32(SET5, __VA_ARGS__)
#define MAP6_quad_f32(...) MAP_quad_f32(SET6, __VA_ARGS__)
#define MAP1_quad_f64(...) MAP_quad_f64(SET1, __VA_ARGS__)
#define MAP2_quad_f64(...) MAP_quad_f64(SET2, __VA_ARGS__)
#define MAP3_quad_f64(...) MAP_quad_f64(SET3, __VA_ARGS__)
#define MAP4_quad_f64(...) MAP_quad_f64(SET4, __VA_ARGS__)
#define MAP5_quad_f64(...) MAP_quad_f64(SET5, __VA_ARGS__)
#define MAP6_quad_f64(...) MAP_quad_f64(SET6, __VA_ARGS__)
#define PAIR1_vec_f32(...) EACH_vec_f32(PAIR1, __VA_ARGS__)
#define PAIR2_vec_f32(...) EACH_vec_f32(PAIR2, __VA_ARGS__)
#define PAIR3_vec_f32(...) EACH_vec_f32(PAIR3, __VA_ARGS__)
#define PAIR4_vec_f32(...) EACH_vec_f32(PAIR4, __VA_ARGS__)
#define PAIR1_vec_f64(...) EACH_vec_f64(PAIR1, __VA_ARGS__)
#define PAIR2_vec_f64(...) EACH_vec_f64(PAIR2, __VA_ARGS__)
#define PAIR3_vec_f64(...) EACH_vec_f64(PAIR3, __VA_ARGS__)
#define PAIR4_vec_f64(...) EACH_vec_f64(PAIR4, __VA_ARGS__)
#define PAIR1_quad_f32(...) EACH_quad_f32(PAIR1, __VA_ARGS__)
#define PAIR2_quad_f32(...) EACH_quad_f32(PAIR2, __VA_ARGS__)
#define PAIR3_quad_f32(...) EACH_quad_f32(PAIR3, __VA_ARGS__)
#define PAIR4_quad_f32(...) EACH_quad_f32(PAIR4, __VA_ARGS__)
#define PAIR1_quad_f64(...) EACH_quad_f64(PAIR1, __VA_ARGS__)
#define PAIR2_quad_f64(...) EACH_quad_f64(PAIR2, __VA_ARGS__)
#define PAIR3_quad_f64(...) EACH_quad_f64(PAIR3, __VA_ARGS__)
#define PAIR4_quad_f64(...) EACH_quad_f64(PAIR4, __VA_ARGS__)

static const float fastact_iota_f32[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const double fastact_iota_f64[8] = {0, 1, 2, 3, 4, 5, 6, 7};

FASTACT_INLINE int64_t floor_mod(int64_t a, int64_t b) { return (a % b + b) % b; }
FASTACT_INLINE int64_t load_int(intptr_t p) { return *(const int64_t *)p; }
FASTACT_INLINE void fence(void) { streamed(1); }
FASTACT_INLINE void prefetch(intptr_t p) { __builtin_prefetch((const void *)p, 0, 2); }
/* in the caller's frame; alignment in bits */
#define stack(bytes) ((intptr_t)__builtin_alloca_with_align(bytes, 512))

/* within a register: lane i and lane i ^ step; b where i has the bit `step`, else a; the first lane; the first `count`
 * lanes in memory */
#if LANES_f32 == 16
#define SWAP8_f32(v) _mm512_shuffle_f32x4(v, v, 0x4e)
#define SWAP4_f32(v) _mm512_shuffle_f32x4(v, v, 0xb1)
#define SWAP2_f32(v) _mm512_permute_ps(v, 0x4e)
#define SWAP1_f32(v) _mm512_permute_ps(v, 0xb1)
#define SWAP4_f64(v) _mm512_shuffle_f64x2(v, v, 0x4e)
#define SWAP2_f64(v) _mm512_shuffle_f64x2(v, v, 0xb1)
#define SWAP1_f64(v) _mm512_permute_pd(v, 0x55)
#define ODD8_f32(a, b) _mm512_mask_blend_ps(0xff00, a, b)
#define ODD4_f32(a, b) _mm512_mask_blend_ps(0xf0f0, a, b)
#define ODD2_f32(a, b) _mm512_mask_blend_ps(0xcccc, a, b)
#define ODD1_f32(a, b) _mm512_mask_blend_ps(0xaaaa, a, b)
#define ODD4_f64(a, b) _mm512_mask_blend_pd(0xf0, a, b)
#define ODD2_f64(a, b) _mm512_mask_blend_pd(0xcc, a, b)
#define ODD1_f64(a, b) _mm512_mask_blend_pd(0xaa, a, b)
#define FIRST_f32(v) _mm512_cvtss_f32(v)
#define FIRST_f64(v) _mm512_cvtsd_f64(v)
#define ANY_f32(mask) ((mask) != 0)
#define ANY_f64(mask) ((mask) != 0)
FASTACT_INLINE unsigned fastact_first(int64_t count, int lanes) {
    return count >= lanes ? (1u << lanes) - 1 : count <= 0 ? 0 : (1u << count) - 1;
}
FASTACT_INLINE vf32 fastact_load_first_f32(const float *p, int64_t count, vf32 fill) {
    return _mm512_mask_loadu_ps(fill, (__mmask16)fastact_first(count, 16), p);
}
FASTACT_INLINE vf64 fastact_load_first_f64(const double *p, int64_t count, vf64 fill) {
    return _mm512_mask_loadu_pd(fill, (__mmask8)fastact_first(count, 8), p);
}
FASTACT_INLINE void fastact_store_first_f32(float *p, vf32 v, int64_t count) {
    _mm512_mask_storeu_ps(p, (__mmask16)fastact_first(count, 16), v);
}
FASTACT_INLINE void fastact_store_first_f64(double *p, vf64 v, int64_t count) {
    _mm512_mask_storeu_pd(p, (__mmask8)fastact_first(count, 8), v);
}
#elif LANES_f32 == 8
#define SWAP4_f32(v) _mm256_permute2f128_ps(v, v, 1)
#define SWAP2_f32(v) _mm256_permute_ps(v, 0x4e)
#define SWAP1_f32(v) _mm256_permute_ps(v, 0xb1)
#define SWAP2_f64(v) _mm256_permute2f128_pd(v, v, 1)
#define SWAP1_f64(v) _mm256_permute_pd(v, 0x5)
#define ODD4_f32(a, b) _mm256_blend_ps(a, b, 0xf0)
#define ODD2_f32(a, b) _mm256_blend_ps(a, b, 0xcc)
#define ODD1_f32(a, b) _mm256_blend_ps(a, b, 0xaa)
#define ODD2_f64(a, b) _mm256_blend_pd(a, b, 0xc)
#define ODD1_f64(a, b) _mm256_blend_pd(a, b, 0xa)
#define FIRST_f32(v) _mm256_cvtss_f32(v)
#define FIRST_f64(v) _mm256_cvtsd_f64(v)
#define ANY_f32(mask) (_mm256_movemask_ps(mask) != 0)
#define ANY_f64(mask) (_mm256_movemask_pd(mask) != 0)
FASTACT_INLINE __m256 fastact_first_f32(int64_t count) {
    return _mm256_cmp_ps(_mm256_loadu_ps(fastact_iota_f32), lit_f32((double)count), _CMP_LT_OQ);
}
FASTACT_INLINE __m256d fastact_first_f64(int64_t count) {
    return _mm256_cmp_pd(_mm256_loadu_pd(fastact_iota_f64), lit_f64((double)count), _CMP_LT_OQ);
}
FASTACT_INLINE vf32 fastact_load_first_f32(const float *p, int64_t count, vf32 fill) {
    __m256 mask = fastact_first_f32(count);
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, _mm256_castps_si256(mask)), mask);
}
FASTACT_INLINE vf64 fastact_load_first_f64(const double *p, int64_t count, vf64 fill) {
    __m256d mask = fastact_first_f64(count);
    return _mm256_blendv_pd(fill, _mm256_maskload_pd(p, _mm256_castpd_si256(mask)), mask);
}
FASTACT_INLINE void fastact_store_first_f32(float *p, vf32 v, int64_t count) {
    _mm256_maskstore_ps(p, _mm256_castps_si256(fastact_first_f32(count)), v);
}
FASTACT_INLINE void fastact_store_first_f64(double *p, vf64 v, int64_t count) {
    _mm256_maskstore_pd(p, _mm256_castpd_si256(fastact_first_f64(count)), v);
}
#else
#if LANES_f32 == 4
#define SWAP2_f32(v) _mm_shuffle_ps(v, v, 0x4e)
#define SWAP1_f32(v) _mm_shuffle_ps(v, v, 0xb1)
#define SWAP1_f64(v) _mm_shuffle_pd(v, v, 1)
#define ODD2_f32(a, b) _mm_blend_ps(a, b, 0xc)
#define ODD1_f32(a, b) _mm_blend_ps(a, b, 0xa)
#define ODD1_f64(a, b) _mm_blend_pd(a, b, 2)
#define FIRST_f32(v) _mm_cvtss_f32(v)
#define FIRST_f64(v) _mm_cvtsd_f64(v)
#define ANY_f32(mask) (_mm_movemask_ps(mask) != 0)
#define ANY_f64(mask) (_mm_movemask_pd(mask) != 0)
#else
#define FIRST_f32(v) (v)
#define FIRST_f64(v) (v)
#define ANY_f32(mask) (mask)
#define ANY_f64(mask) (mask)
#endif
FASTACT_INLINE vf32 fastact_load_first_f32(const float *p, int64_t count, vf32 fill) {
    float t[LANES_f32];
    store_f32(t, fill, 0);
    for (int i = 0; i < LANES_f32 && i < count; i++) t[i] = p[i];
    return load_f32(t);
}
FASTACT_INLINE vf64 fastact_load_first_f64(const double *p, int64_t count, vf64 fill) {
    double t[LANES_f64];
    store_f64(t, fill, 0);
    for (int i = 0; i < LANES_f64 && i < count; i++) t[i] = p[i];
    return load_f64(t);
}
FASTACT_INLINE void fastact_store_first_f32(float *p, vf32 v, int64_t count) {
    float t[LANES_f32];
    store_f32(t, v, 0);
    for (int i = 0; i < LANES_f32 && i < count; i++) p[i] = t[i];
}
FASTACT_INLINE void fastact_store_first_f64(double *p, vf64 v, int64_t count) {
    double t[LANES_f64];
    store_f64(t, v, 0);
    for (int i = 0; i < LANES_f64 && i < count; i++) p[i] = t[i];
}
#endif

#if !defined(SWAP8_f32)
#define SWAP8_f32(v) (v)
#define ODD8_f32(a, b) (a)
#endif
#if !defined(SWAP4_f32)
#define SWAP4_f32(v) (v)
#define ODD4_f32(a, b) (a)
#endif
#if !defined(SWAP2_f32)
#define SWAP2_f32(v) (v)
#define SWAP1_f32(v) (v)
#define ODD2_f32(a, b) (a)
#define ODD1_f32(a, b) (a)
#endif
#if !defined(SWAP4_f64)
#define SWAP4_f64(v) (v)
#define ODD4_f64(a, b) (a)
#endif
#if !defined(SWAP2_f64)
#define SWAP2_f64(v) (v)
#define ODD2_f64(a, b) (a)
#endif
#if !defined(SWAP1_f64)
#define SWAP1_f64(v) (v)
#define ODD1_f64(a, b) (a)
#endif

/* lane i from lane i ^ step: from another register, or within one */
#define FASTACT_SWAP(j, r, w, step, lanes, within) (r).v[j] = step >= lanes ? (w).v[(j) ^ (step / lanes)] : within((w).v[j]);
FASTACT_INLINE vec_f32 swap_f32(vec_f32 w, int step) {
    if (step == 8) return MAP_vec_f32(FASTACT_SWAP, w, 8, LANES_f32, SWAP8_f32);
    if (step == 4) return MAP_vec_f32(FASTACT_SWAP, w, 4, LANES_f32, SWAP4_f32);
    if (step == 2) return MAP_vec_f32(FASTACT_SWAP, w, 2, LANES_f32, SWAP2_f32);
    return MAP_vec_f32(FASTACT_SWAP, w, 1, LANES_f32, SWAP1_f32);
}
FASTACT_INLINE vec_f64 swap_f64(vec_f64 w, int step) {
    if (step == 4) return MAP_vec_f64(FASTACT_SWAP, w, 4, LANES_f64, SWAP4_f64);
    if (step == 2) return MAP_vec_f64(FASTACT_SWAP, w, 2, LANES_f64, SWAP2_f64);
    return MAP_vec_f64(FASTACT_SWAP, w, 1, LANES_f64, SWAP1_f64);
}

/* rows u and w, so that lanes i and i + step of both are combined at once: in lanes without the bit `step` u's, in the
 * others w's; `lower` has lane i of each, `upper` lane i + step */
#define FASTACT_LOWER(j, r, u, w, step, lanes, within, odd)                                                           \
    if (step >= lanes) (r).v[j] = (j) * lanes & step ? (w).v[(j) ^ (step / lanes)] : (u).v[j];                        \
    else (r).v[j] = odd((u).v[j], within((w).v[j]));
#define FASTACT_UPPER(j, r, u, w, step, lanes, within, odd)                                                           \
    if (step >= lanes) (r).v[j] = (j) * lanes & step ? (w).v[j] : (u).v[(j) ^ (step / lanes)];                        \
    else (r).v[j] = odd(within((u).v[j]), (w).v[j]);
#define FASTACT_HALF(name, MAP)                                                                                       \
    FASTACT_INLINE vec_f32 name##_f32(vec_f32 u, vec_f32 w, int step) {                                               \
        if (step == 8) return MAP_vec_f32(MAP, u, w, 8, LANES_f32, SWAP8_f32, ODD8_f32);                              \
        if (step == 4) return MAP_vec_f32(MAP, u, w, 4, LANES_f32, SWAP4_f32, ODD4_f32);                              \
        if (step == 2) return MAP_vec_f32(MAP, u, w, 2, LANES_f32, SWAP2_f32, ODD2_f32);                              \
        return MAP_vec_f32(MAP, u, w, 1, LANES_f32, SWAP1_f32, ODD1_f32);                                             \
    }                                                                                                                \
    FASTACT_INLINE vec_f64 name##_f64(vec_f64 u, vec_f64 w, int step) {                                               \
        if (step == 4) return MAP_vec_f64(MAP, u, w, 4, LANES_f64, SWAP4_f64, ODD4_f64);                              \
        if (step == 2) return MAP_vec_f64(MAP, u, w, 2, LANES_f64, SWAP2_f64, ODD2_f64);                              \
        return MAP_vec_f64(MAP, u, w, 1, LANES_f64, SWAP1_f64, ODD1_f64);                                             \
    }
FASTACT_HALF(lower, FASTACT_LOWER)
FASTACT_HALF(upper, FASTACT_UPPER)
#define SPLAT(j, r, x) (r).v[j] = x;
#define LOAD(j, r, load, p, lanes) (r).v[j] = load((p) + (j) * (lanes));
#define LOAD_NEGATED(j, r, load, p, lanes) (r).v[j] = -load((p) + (j) * (lanes));
/* of a quad: vectors `apart` bytes from each other */
#define APART(j, p, element, lanes, parts, apart) ((element *)((p) + (j) / (parts) * (apart)) + (j) % (parts) * (lanes))
#define LOAD4(j, r, load, p, element, lanes, parts, apart)                                                           \
    (r).v[j] = load(APART(j, p, const element, lanes, parts, apart));
#define LOAD4_NEGATED(j, r, load, p, element, lanes, parts, apart)                                                   \
    (r).v[j] = -load(APART(j, p, const element, lanes, parts, apart));
#define STORE4(j, store, p, value, element, lanes, parts, apart)                                                     \
    store(APART(j, p, element, lanes, parts, apart), (value).v[j], 0);
#define STORE(j, store, p, value, lanes, stream) store((p) + (j) * (lanes), (value).v[j], stream);
#define LOAD_SOME(j, r, load, p, lanes, count, fill) (r).v[j] = load((p) + (j) * (lanes), (count) - (j) * (lanes), fill);
#define STORE_SOME(j, store, p, value, lanes, count) store((p) + (j) * (lanes), (value).v[j], (count) - (j) * (lanes));
#define WITHOUT(j, T, r, w, lanes, lane)                                                                             \
    (r).v[j] = where_##T(eq_##T(load_##T(fastact_iota_##T + (j) * (lanes) % WIDTH_##T),                               \
                                lit_##T((double)((lane) - (j) * (lanes) / WIDTH_##T * WIDTH_##T))),                  \
                         lit_##T(0.0), (w).v[j]);
#define FIRST_LANES(j, T, r, w, lanes, count)                                                                        \
    (r).v[j] = where_##T(lt_##T(load_##T(fastact_iota_##T + (j) * (lanes)), lit_##T((double)(count))), (w).v[j],     \
                         lit_##T(0.0));
#define WIDEN(j, r, w, parts) (r).v[j] = (w).v[(j) % (parts)];
#define PART(j, r, w, from) (r).v[j] = (w).v[(from) + (j)];
#define ADD(j, r, a, b) (r).v[j] = (a).v[j] + (b).v[j];
#define EQUAL(j, T, r, a, b) r |= ANY_##T(eq_##T((a).v[j], (b).v[j]));

/* in lane i row i, combined over its lanes */
#define FOLD_4(f, T, p, row, j) fold_##f##_##T(row(f, p, j), row(f, p, (j) + 4), 4)
#define FOLD_2(f, T, p, row, j) fold_##f##_##T(FOLD_4(f, T, p, row, j), FOLD_4(f, T, p, row, (j) + 2), 2)
#define FOLD_ROWS(f, T, p, row) fold_##f##_##T(FOLD_2(f, T, p, row, 0), FOLD_2(f, T, p, row, 1), 1)
#define FOLD_ROW_f64(f, p, j) row_load_f64((p) + 64 * (j))
#define FOLD_ROW_f32(f, p, j) fold_##f##_f32(row_load_f32((p) + 64 * (j)), row_load_f32((p) + 64 * ((j) + 8)), 8)

#define FASTACT_ROWS(T, element)                                                                                     \
    FASTACT_INLINE vec_##T splat_##T(double s) { return MAP_vec_##T(SPLAT, lit_##T(s)); }                             \
    FASTACT_INLINE quad_##T splat4_##T(double s) { return MAP_quad_##T(SPLAT, lit_##T(s)); }                          \
    FASTACT_INLINE quad_##T widen_##T(vec_##T w) { return MAP_quad_##T(WIDEN, w, VPARTS_##T); }                       \
    FASTACT_INLINE vec_##T row_load_##T(intptr_t p) {                                                                 \
        return MAP_vec_##T(LOAD, load_##T, (const element *)p, LANES_##T);                                           \
    }                                                                                                                \
    FASTACT_INLINE quad_##T row_load4_##T(intptr_t p, int64_t apart) {                                                \
        return MAP_quad_##T(LOAD4, load_##T, p, element, LANES_##T, VPARTS_##T, apart);                              \
    }                                                                                                                \
    FASTACT_INLINE vec_##T row_load_negated_##T(intptr_t p) {                                                         \
        return MAP_vec_##T(LOAD_NEGATED, load_##T, (const element *)p, LANES_##T);                                   \
    }                                                                                                                \
    FASTACT_INLINE quad_##T row_load4_negated_##T(intptr_t p, int64_t apart) {                                        \
        return MAP_quad_##T(LOAD4_NEGATED, load_##T, p, element, LANES_##T, VPARTS_##T, apart);                      \
    }                                                                                                                \
    FASTACT_INLINE vec_##T load_some_##T(intptr_t p, int64_t count, double fill) {                                    \
        return MAP_vec_##T(LOAD_SOME, fastact_load_first_##T, (const element *)p, LANES_##T, count, lit_##T(fill));  \
    }                                                                                                                \
    FASTACT_INLINE vec_##T load_some_negated_##T(intptr_t p, int64_t count, double fill) {                            \
        vec_##T w = load_some_##T(p, count, -fill);                                                                  \
        return MAP_vec_##T(SET1, -, w);                                                                              \
    }                                                                                                                \
    FASTACT_INLINE void row_store_##T(intptr_t p, vec_##T w) {                                                        \
        EACH_vec_##T(STORE, store_##T, (element *)p, w, LANES_##T, 0)                                                \
    }                                                                                                                \
    FASTACT_INLINE void row_store4_##T(intptr_t p, quad_##T w, int64_t apart) {                                       \
        EACH_quad_##T(STORE4, store_##T, p, w, element, LANES_##T, VPARTS_##T, apart)                                \
    }                                                                                                                \
    FASTACT_INLINE void row_stream_##T(intptr_t p, vec_##T w) {                                                       \
        EACH_vec_##T(STORE, store_##T, (element *)p, w, LANES_##T, 1)                                                \
    }                                                                                                                \
    FASTACT_INLINE void store_some_##T(intptr_t p, vec_##T w, int64_t count) {                                        \
        EACH_vec_##T(STORE_SOME, fastact_store_first_##T, (element *)p, w, LANES_##T, count)                         \
    }                                                                                                                \
    FASTACT_INLINE void store_value_##T(intptr_t p, vec_##T w) { *(element *)p = FIRST_##T(w.v[0]); }                 \
    FASTACT_INLINE vec_##T load_value_##T(intptr_t p) { return splat_##T((double)*(const element *)p); }              \
    FASTACT_INLINE vec_##T number_##T(int64_t i) { return splat_##T((double)i); }                                     \
    FASTACT_INLINE vec_##T load_param_##T(intptr_t p) { return splat_##T(*(const double *)p); }                       \
    FASTACT_INLINE vec_##T part_##T(quad_##T w, int64_t i) { return MAP_vec_##T(PART, w, i *VPARTS_##T); }           \
    FASTACT_INLINE vec_##T fastact_add_##T(vec_##T a, vec_##T b) { return MAP_vec_##T(ADD, a, b); }                  \
    FASTACT_INLINE vec_##T fastact_greater_##T(vec_##T a, vec_##T b) { return MAP_vec_##T(SET2, maximum_##T, a, b); }\
    FASTACT_INLINE vec_##T gather4_##T(quad_##T w) {                                                                 \
        return fastact_add_##T(fastact_add_##T(part_##T(w, 0), part_##T(w, 1)),                                      \
                               fastact_add_##T(part_##T(w, 2), part_##T(w, 3)));                                     \
    }                                                                                                                \
    FASTACT_INLINE vec_##T greatest4_##T(quad_##T w) {                                                               \
        return fastact_greater_##T(fastact_greater_##T(part_##T(w, 0), part_##T(w, 1)),                              \
                                   fastact_greater_##T(part_##T(w, 2), part_##T(w, 3)));                             \
    }                                                                                                                \
    FASTACT_INLINE vec_##T sum_lanes_##T(vec_##T w) {                                                                \
        for (int step = WIDTH_##T / 2; step; step /= 2) w = fastact_add_##T(w, swap_##T(w, step));                   \
        return w;                                                                                                    \
    }                                                                                                                \
    FASTACT_INLINE vec_##T max_lanes_##T(vec_##T w) {                                                                \
        for (int step = WIDTH_##T / 2; step; step /= 2) w = fastact_greater_##T(w, swap_##T(w, step));               \
        return w;                                                                                                    \
    }                                                                                                                \
    FASTACT_INLINE vec_##T fold_add_##T(vec_##T u, vec_##T w, int step) {                                             \
        return fastact_add_##T(lower_##T(u, w, step), upper_##T(u, w, step));                                        \
    }                                                                                                                \
    FASTACT_INLINE vec_##T fold_greater_##T(vec_##T u, vec_##T w, int step) {                                         \
        return fastact_greater_##T(lower_##T(u, w, step), upper_##T(u, w, step));                                    \
    }                                                                                                                \
    FASTACT_INLINE vec_##T across_sum_##T(intptr_t p) { return FOLD_ROWS(add, T, p, FOLD_ROW_##T); }                  \
    FASTACT_INLINE vec_##T across_max_##T(intptr_t p) { return FOLD_ROWS(greater, T, p, FOLD_ROW_##T); }              \
    FASTACT_INLINE vec_##T down_sum_##T(intptr_t p) {                                                                 \
        vec_##T rows[WIDTH_##T];                                                                                     \
        for (int i = 0; i < WIDTH_##T; i++) rows[i] = row_load_##T(p + 64 * i);                                      \
        for (int step = WIDTH_##T / 2; step; step /= 2)                                                              \
            for (int i = 0; i < step; i++) rows[i] = fastact_add_##T(rows[i], rows[i + step]);                       \
        return rows[0];                                                                                              \
    }                                                                                                                \
    FASTACT_INLINE vec_##T without_##T(vec_##T w, int64_t lane) {                                                     \
        vec_##T r;                                                                                                   \
        EACH_vec_##T(WITHOUT, T, r, w, LANES_##T, lane)                                                              \
        return r;                                                                                                    \
    }                                                                                                                \
    FASTACT_INLINE quad_##T without4_##T(quad_##T w, int64_t lane) {                                                  \
        quad_##T r;                                                                                                  \
        EACH_quad_##T(WITHOUT, T, r, w, LANES_##T, lane)                                                             \
        return r;                                                                                                    \
    }                                                                                                                \
    FASTACT_INLINE vec_##T first_lanes_##T(vec_##T w, int64_t count) {                                                \
        vec_##T r;                                                                                                   \
        EACH_vec_##T(FIRST_LANES, T, r, w, LANES_##T, count)                                                         \
        return r;                                                                                                    \
    }                                                                                                                \
    FASTACT_INLINE int64_t less_##T(vec_##T a, vec_##T b) { return FIRST_##T(a.v[0]) < FIRST_##T(b.v[0]); }          \
    FASTACT_INLINE int64_t meets_##T(vec_##T a, vec_##T b) {                                                         \
        int r = 0;                                                                                                   \
        EACH_vec_##T(EQUAL, T, r, a, b)                                                                              \
        return r;                                                                                                    \
    }

FASTACT_ROWS(f32, float)
FASTACT_ROWS(f64, double)

/* part j of lanes 0 to 7 (half = 0) or 8 to 15 (half = 1) in float64 */
#if LANES_f32 == 16
#define WIDE(w, j, half)                                                                                             \
    _mm512_cvtps_pd(half ? _mm512_extractf32x8_ps((w).v[0], 1) : _mm512_castps512_ps256((w).v[0]))
#elif LANES_f32 == 8
#define WIDE(w, j, half) _mm256_cvtps_pd(_mm256_extractf128_ps((w).v[half], j))
#elif LANES_f32 == 4
#define WIDE(w, j, half)                                                                                             \
    _mm_cvtps_pd((j) % 2 ? _mm_movehl_ps((w).v[2 * half + (j) / 2], (w).v[2 * half + (j) / 2])                       \
                         : (w).v[2 * half + (j) / 2])
#else
#define WIDE(w, j, half) (double)(w).v[8 * half + (j)]
#endif
#define ADD_WIDE(j, r, a, b) (r).v[j] = (WIDE(a, j, 0) + WIDE(b, j, 0)) + (WIDE(a, j, 1) + WIDE(b, j, 1));
FASTACT_INLINE void sum_lanes_pair_f32(vec_f32 high, vec_f32 low, vec_f32 *upper, vec_f32 *lower) {
    vec_f64 wide = MAP_vec_f64(ADD_WIDE, high, low);
    double sum = FIRST_f64(sum_lanes_f64(wide).v[0]);
    *upper = splat_f32(sum);
    *lower = splat_f32(sum - (double)(float)sum);
}
FASTACT_INLINE vec_f64 fastact_wide_row(intptr_t p, intptr_t q) {
    vec_f32 high = row_load_f32(p), low = row_load_f32(q);
    return MAP_vec_f64(ADD_WIDE, high, low);
}
#define FOLD_WIDE_ROW(f, p, j) fastact_wide_row((p) + 64 * (j), q + 64 * (j))
FASTACT_INLINE void across_sum_pair_f32(intptr_t p, intptr_t q, vec_f32 *upper, vec_f32 *lower) {
    double sums[16] __attribute__((aligned(64)));
    float high[16], low[16];
    row_store_f64((intptr_t)sums, FOLD_ROWS(add, f64, p, FOLD_WIDE_ROW));
    p += 8 * 64, q += 8 * 64;
    row_store_f64((intptr_t)(sums + 8), FOLD_ROWS(add, f64, p, FOLD_WIDE_ROW));
    for (int i = 0; i < 16; i++) {
        high[i] = (float)sums[i];
        low[i] = (float)(sums[i] - (double)high[i]);
    }
    *upper = row_load_f32((intptr_t)high);
    *lower = row_load_f32((intptr_t)low);
}

FASTACT_INLINE void down_sum_pair_f32(intptr_t p, intptr_t q, vec_f32 *upper, vec_f32 *lower) {
    const float *high = (const float *)p, *low = (const float *)q;
    float up[16], rest[16];
    for (int i = 0; i < 16; i++) {
        double sums[16];
        for (int j = 0; j < 16; j++) sums[j] = (double)high[16 * j + i] + (double)low[16 * j + i];
        for (int step = 8; step; step /= 2)
            for (int j = 0; j < step; j++) sums[j] += sums[j + step];
        up[i] = (float)sums[0];
        rest[i] = (float)(sums[0] - (double)up[i]);
    }
    *upper = row_load_f32((intptr_t)up);
    *lower = row_load_f32((intptr_t)rest);
}

#endif
