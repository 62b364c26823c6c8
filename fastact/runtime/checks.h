/* Whether targets are probabilities. They are only read, in one pass. */
#ifndef FASTACT_CHECKS_H
#define FASTACT_CHECKS_H

#include <math.h>

#include "driver.h"

#define CHECKS_TASK 65536 /* elements */
#define CHECKS_BLOCK 512  /* elements that are added up in their own dtype */
#define CHECKS_SHORT 32   /* elements of a row that are too few for vectors */

/* of a sum that is compared with a tolerance; where OpenMP is missing, in its own order */
#define FASTACT_ANY_ORDER _Pragma("omp simd reduction(+ : sum) reduction(| : bad)")

#define FASTACT_CHECKS(T, I, name)                                                                                     \
    /* whether one of n elements is not in [0, 1] */                                                                   \
    FASTACT_CLONES static bool fastact_outside_##name(const void *x_, ptrdiff_t n)                                     \
    {                                                                                                                  \
        const T *x = (const T *)x_;                                                                                    \
        I bad = 0;                                                                                                     \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            bad |= (I) !(x[i] >= 0) | (I) !(x[i] <= 1);                                                                \
        return bad != 0;                                                                                               \
    }                                                                                                                  \
    /* whether one of some rows has a negative element, or a sum that is not 1; NaN makes the sum NaN */               \
    FASTACT_CLONES static bool fastact_no_shares_##name(const void *x_, ptrdiff_t rows, ptrdiff_t n, double tolerance) \
    {                                                                                                                  \
        const T *x = (const T *)x_;                                                                                    \
        for (ptrdiff_t r = 0; r < rows; r++, x += n) {                                                                 \
            double total = 0;                                                                                          \
            I bad = 0;                                                                                                 \
            if (n < CHECKS_SHORT)                                                                                      \
                for (ptrdiff_t i = 0; i < n; i++) {                                                                    \
                    total += x[i];                                                                                     \
                    bad |= x[i] < 0;                                                                                   \
                }                                                                                                      \
            for (ptrdiff_t low = n < CHECKS_SHORT ? n : 0; low < n; low += CHECKS_BLOCK) {                             \
                const ptrdiff_t stop = fastact_least(low + CHECKS_BLOCK, n);                                           \
                T sum = 0;                                                                                             \
                FASTACT_ANY_ORDER                                                                                      \
                for (ptrdiff_t i = low; i < stop; i++) {                                                               \
                    sum += x[i];                                                                                       \
                    bad |= x[i] < 0;                                                                                   \
                }                                                                                                      \
                total += sum;                                                                                          \
            }                                                                                                          \
            if (bad || !(fabs(total - 1) <= tolerance))                                                                \
                return true;                                                                                           \
        }                                                                                                              \
        return false;                                                                                                  \
    }

FASTACT_CHECKS(float, int32_t, f32)
FASTACT_CHECKS(double, int64_t, f64)

typedef struct {
    const char *x;
    ptrdiff_t size, rows, n, task;
    double tolerance; /* of the sum of a row; negative: of elements alone, which are one row each */
    bool bad;
} fastact_checked;

static void fastact_check_task(void *context, ptrdiff_t index)
{
    fastact_checked *f = (fastact_checked *)context;
    const ptrdiff_t low = index * f->task, rows = fastact_least(f->task, f->rows - low);
    const char *x = f->x + low * f->n * f->size;
    bool bad;
    if (f->tolerance < 0)
        bad = f->size == 4 ? fastact_outside_f32(x, rows) : fastact_outside_f64(x, rows);
    else
        bad = f->size == 4 ? fastact_no_shares_f32(x, rows, f->n, f->tolerance)
                           : fastact_no_shares_f64(x, rows, f->n, f->tolerance);
    if (bad)
#if defined(__GNUC__)
        __atomic_store_n(&f->bad, true, __ATOMIC_RELAXED);
#else
        f->bad = true;
#endif
}

/* n > 0; threads pay from parallel_min bytes on */
static bool fastact_run_check(fastact_checked *f, ptrdiff_t parallel_min)
{
    const int threads = fastact_threads_for(f->rows * f->n * f->size, parallel_min, PTRDIFF_MAX);
    f->bad = false;
    f->task = CHECKS_TASK / f->n ? CHECKS_TASK / f->n : 1;
    if (threads == 1)
        f->task = f->rows;
    if (f->rows)
        fastact_parallel_for(fastact_check_task, f, fastact_over(f->rows, f->task), threads);
    return f->bad;
}

#endif
