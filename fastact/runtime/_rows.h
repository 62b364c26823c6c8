/* Rows in and out of contiguous scratch: any strides, float16 and bfloat16 widened to float32 and rounded once, masks. */
#ifndef FASTACT_ROWS_H
#define FASTACT_ROWS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

static inline float fastact_widen_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    /* 2^112 moves the exponent, also of a subnormal */
    uint32_t finite = fastact_as_bits(fastact_as_float(magnitude) * 5.192296858534828e33f);
    uint32_t special = magnitude | 0x7f800000u;
    return fastact_as_float(((uint32_t)(h & 0x8000) << 16) | ((h & 0x7fff) >= 0x7c00 ? special : finite));
}

static inline uint16_t fastact_narrow_f16(float f)
{
    uint32_t u = fastact_as_bits(f), magnitude = u & 0x7fffffffu;
    /* adding 1/2 leaves a subnormal result, rounded, in the low bits */
    uint32_t subnormal = fastact_as_bits(fastact_as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t r = magnitude >= 0x47800000u ? special : magnitude < 0x38800000u ? subnormal : normal;
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

/* rows × n elements between memory (strides in bytes) and scratch rows (`row` elements apart). Where a row is not contiguous,
 * elements are the outer loop: rows of a transposed array lie side by side, and memory is then read by lines. */
#define FASTACT_PACKING(name, memory, compute, widen, narrow)                                                          \
    static void fastact_pack_##name(void *to_, ptrdiff_t row, const char *from, ptrdiff_t rows, ptrdiff_t n,           \
                                    ptrdiff_t outer, ptrdiff_t core)                                                   \
    {                                                                                                                  \
        compute *to = (compute *)to_;                                                                                  \
        if (core == (ptrdiff_t)sizeof(memory)) {                                                                       \
            for (ptrdiff_t r = 0; r < rows; r++)                                                                       \
                for (ptrdiff_t i = 0; i < n; i++)                                                                      \
                    to[r * row + i] = widen(((const memory *)(from + r * outer))[i]);                                  \
        } else {                                                                                                       \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                for (ptrdiff_t r = 0; r < rows; r++)                                                                   \
                    to[r * row + i] = widen(*(const memory *)(from + r * outer + i * core));                           \
        }                                                                                                              \
    }                                                                                                                  \
    static void fastact_unpack_##name(const void *from_, ptrdiff_t row, char *to, ptrdiff_t rows, ptrdiff_t n,         \
                                      ptrdiff_t outer, ptrdiff_t core)                                                 \
    {                                                                                                                  \
        const compute *from = (const compute *)from_;                                                                  \
        if (core == (ptrdiff_t)sizeof(memory)) {                                                                       \
            for (ptrdiff_t r = 0; r < rows; r++)                                                                       \
                for (ptrdiff_t i = 0; i < n; i++)                                                                      \
                    ((memory *)(to + r * outer))[i] = narrow(from[r * row + i]);                                       \
        } else {                                                                                                       \
            for (ptrdiff_t i = 0; i < n; i++)                                                                          \
                for (ptrdiff_t r = 0; r < rows; r++)                                                                   \
                    *(memory *)(to + r * outer + i * core) = narrow(from[r * row + i]);                                \
        }                                                                                                              \
    }

FASTACT_PACKING(f32, float, float, fastact_same_f32, fastact_same_f32)
FASTACT_PACKING(f64, double, double, fastact_same_f64, fastact_same_f64)
FASTACT_PACKING(f16, uint16_t, float, fastact_widen_f16, fastact_narrow_f16)
FASTACT_PACKING(bf16, uint16_t, float, fastact_widen_bf16, fastact_narrow_bf16)

/* scratch rows where the mask holds, else `fill` */
#define FASTACT_MASKING(name, compute)                                                                                 \
    static void fastact_mask_##name(void *at_, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t n, const char *mask,           \
                                    ptrdiff_t outer, ptrdiff_t core, double fill_)                                     \
    {                                                                                                                  \
        compute *at = (compute *)at_;                                                                                  \
        const compute fill = (compute)fill_;                                                                           \
        for (ptrdiff_t r = 0; r < rows; r++) {                                                                         \
            const char *m = mask + r * outer;                                                                          \
            compute *a = at + r * row;                                                                                 \
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

typedef void (*fastact_pack_fn)(void *, ptrdiff_t, const char *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);
typedef void (*fastact_unpack_fn)(const void *, ptrdiff_t, char *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);

/* in the order of DTYPES in _driver.pyx */
static const fastact_pack_fn fastact_packs[4] = {fastact_pack_f32, fastact_pack_f64, fastact_pack_f16, fastact_pack_bf16};
static const fastact_unpack_fn fastact_unpacks[4] = {fastact_unpack_f32, fastact_unpack_f64, fastact_unpack_f16, fastact_unpack_bf16};

#endif
