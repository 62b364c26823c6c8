/* Column sums in one order, and the arithmetic between the kernels of a fused function.
 *
 * Rows are taken in quads, (v0 + v1) + (v2 + v3), quads go to a compensated sum, blocks of 64 rows are combined in their
 * order (docs/design.md, 'Sums'). The order depends on the shape alone, never on threads. Additions and multiplications
 * only, nothing contracted: every instruction set gives the same bits. */
#ifndef FASTACT_SUMS_H
#define FASTACT_SUMS_H

#include <stddef.h>
#include <string.h>

#include "call.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(FASTACT_NO_CLONES)
#define FASTACT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FASTACT_CLONES
#endif
#if defined(__clang__)
#define FASTACT_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTACT_INDEPENDENT _Pragma("GCC ivdep")
#endif

#define FASTACT_QUAD 4
#define FASTACT_BLOCK 64 /* rows */

/* (s, c) += t: Knuth's two-sum, TAOCP 2, 4.2.2; (h, l) += (s, c): maths/rows.py, pair_add */
#define FASTACT_COMPENSATED(T, name)                                                                                          \
    FASTACT_CLONES static void fastact_add_quad_##name(void *s_, void *c_, const void *const *rows, ptrdiff_t n)       \
    {                                                                                                                  \
        T *s = (T *)s_, *c = (T *)c_;                                                                                  \
        const T *v0 = (const T *)rows[0], *v1 = (const T *)rows[1], *v2 = (const T *)rows[2], *v3 = (const T *)rows[3]; \
        FASTACT_INDEPENDENT                                                                                            \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            T t = (v0[i] + v1[i]) + (v2[i] + v3[i]);                                                                   \
            T a = s[i], sum = a + t, z = sum - a;                                                                      \
            s[i] = sum;                                                                                                \
            c[i] += (a - (sum - z)) + (t - z);                                                                         \
        }                                                                                                              \
    }                                                                                                                  \
    FASTACT_CLONES static void fastact_add_pair_##name(void *h_, void *l_, const void *s_, const void *c_, ptrdiff_t n) \
    {                                                                                                                  \
        T *h = (T *)h_, *l = (T *)l_;                                                                                  \
        const T *s = (const T *)s_, *c = (const T *)c_;                                                                \
        FASTACT_INDEPENDENT                                                                                            \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            T a = h[i], b = s[i], sum = a + b, z = sum - a;                                                            \
            h[i] = sum;                                                                                                \
            l[i] = (l[i] + c[i]) + ((a - (sum - z)) + (b - z));                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    FASTACT_CLONES static void fastact_total_##name(void *to_, const void *h_, const void *l_, ptrdiff_t n)            \
    {                                                                                                                  \
        T *to = (T *)to_;                                                                                              \
        const T *h = (const T *)h_, *l = (const T *)l_;                                                                \
        /* the low part of an infinite sum is no number */                                                             \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            to[i] = h[i] - h[i] == 0 ? h[i] + l[i] : h[i];                                                             \
    }

/* out = value, of up to six inputs a to f: between the kernels of a fused function (spec/stages.py) */
#define FASTACT_ARITHMETIC(T, name, nin, value)                                                                        \
    FASTACT_CLONES static void fastact_##name(const fastact_call *call)                                                \
    {                                                                                                                  \
        const T *a = (const T *)call->data[0], *b = (const T *)call->data[nin > 1 ? 1 : 0];                            \
        const T *c = (const T *)call->data[nin > 2 ? 2 : 0], *d = (const T *)call->data[nin > 3 ? 3 : 0];              \
        const T *e = (const T *)call->data[nin > 4 ? 4 : 0], *f = (const T *)call->data[nin > 5 ? 5 : 0];              \
        T *out = (T *)call->data[nin];                                                                                 \
        const ptrdiff_t n = call->n;                                                                                   \
        (void)b, (void)c, (void)d, (void)e, (void)f;                                                                   \
        FASTACT_INDEPENDENT                                                                                            \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            out[i] = value;                                                                                            \
    }
#define FASTACT_ARITHMETICS(T, type)                                                                                   \
    FASTACT_ARITHMETIC(T, add_##type, 2, a[i] + b[i])                                                                  \
    FASTACT_ARITHMETIC(T, sub_##type, 2, a[i] - b[i])                                                                  \
    FASTACT_ARITHMETIC(T, mul_##type, 2, a[i] * b[i])                                                                  \
    FASTACT_ARITHMETIC(T, copy_##type, 1, a[i])                                                                        \
    FASTACT_ARITHMETIC(T, normed_##type, 4, (a[i] - b[i]) * c[i] + d[i])                                               \
    FASTACT_ARITHMETIC(T, normed_grad_##type, 6, a[i] * d[i] - ((b[i] - c[i]) * e[i] + f[i]))

FASTACT_COMPENSATED(float, f32)
FASTACT_COMPENSATED(double, f64)
FASTACT_ARITHMETICS(float, f32)
FASTACT_ARITHMETICS(double, f64)

static inline void fastact_add_quad(int size, void *s, void *c, const void *const *rows, ptrdiff_t n)
{
    if (size == 4)
        fastact_add_quad_f32(s, c, rows, n);
    else
        fastact_add_quad_f64(s, c, rows, n);
}

static inline void fastact_add_pair(int size, void *h, void *l, const void *s, const void *c, ptrdiff_t n)
{
    if (size == 4)
        fastact_add_pair_f32(h, l, s, c, n);
    else
        fastact_add_pair_f64(h, l, s, c, n);
}

static inline void fastact_total(int size, void *to, const void *h, const void *l, ptrdiff_t n)
{
    if (size == 4)
        fastact_total_f32(to, h, l, n);
    else
        fastact_total_f64(to, h, l, n);
}

/* the n columns of (h, l), a power of two of them, into the first: column i with i + n/2, and so on */
static void fastact_fold(int size, void *h, void *l, ptrdiff_t n)
{
    while (n > 1) {
        n /= 2;
        fastact_add_pair(size, h, l, (char *)h + n * size, (char *)l + n * size, n);
    }
}

#endif
