/* A map over a list of arrays, in place: the steps of optimisers; and the norm of a list of gradients.
 *
 * Arrays are seen as one behind the other, each filled up to whole vectors, and tasks are cut from that. So small arrays
 * share a task, large ones are shared out, and an element's place in its array decides which vector it is in. */
#ifndef FASTACT_LISTS_H
#define FASTACT_LISTS_H

#include <math.h>

#include "driver.h"

/* What holds for every array, and where each begins. Arguments are inputs, parameters, outputs; the outputs take the place
 * of all inputs but `apart`. */
typedef struct {
    fastact_job job;
    ptrdiff_t arrays;
    int apart;              /* the input that is only read */
    char *const *data;      /* the inputs of each array, one array after the other */
    char *const *copies;    /* where each array's first output goes also, narrowed; or null */
    const ptrdiff_t *start; /* elements before each array, whole vectors of them; one more at the end */
    const ptrdiff_t *length;
} fastact_list;

static void fastact_list_span(const fastact_list *list, ptrdiff_t k, ptrdiff_t low, ptrdiff_t high)
{
    const fastact_job *job = &list->job;
    const fastact_slot *slot = job->slot;
    const int nin = slot->nin, first_out = nin + slot->nparam;
    char *at[FASTACT_ARGS];
    for (int j = 0, out = first_out; j < nin; j++) {
        at[j] = list->data[k * nin + j] + low * job->step[j];
        if (j != list->apart)
            at[out++] = at[j];
    }
    for (int j = nin; j < first_out; j++)
        at[j] = job->data[j];
    fastact_span(job, at, NULL, high - low, 0);
    if (list->copies)
        fastact_scatter(slot->dtype, false, list->copies[k] + low * slot->size, at[first_out], high - low, slot->size);
}

static void fastact_list_task(void *context, ptrdiff_t index)
{
    const fastact_list *list = (const fastact_list *)context;
    /* narrow copies are made while the elements are in the L1 cache */
    const ptrdiff_t most = list->copies ? CACHED / 4 : PTRDIFF_MAX;
    ptrdiff_t low = index * list->job.task, k = 0;
    const ptrdiff_t high = fastact_least(low + list->job.task, list->start[list->arrays]);
    for (ptrdiff_t end = list->arrays; end - k > 1;) {
        const ptrdiff_t middle = k + (end - k) / 2;
        if (list->start[middle] <= low)
            k = middle;
        else
            end = middle;
    }
    for (; low < high; low = list->start[++k]) {
        ptrdiff_t i = low - list->start[k];
        const ptrdiff_t n = fastact_least(high - list->start[k], list->length[k]);
        while (i < n) {
            const ptrdiff_t end = n - i > most ? i + most : n;
            fastact_list_span(list, k, i, end);
            i = end;
        }
    }
}

/* `filled`: memory for the parameters, which are one value each. */
static void fastact_run_list(fastact_list *list, char *filled)
{
    fastact_job *job = &list->job;
    const fastact_slot *slot = job->slot;
    const int nin = slot->nin, first_out = nin + slot->nparam;
    const ptrdiff_t n = list->start[list->arrays];
    ptrdiff_t tasks;
    int threads;
    if (n == 0)
        return;
    job->direct = true;
    job->stream = job->hold = false;
    for (int j = 0, out = first_out; j < nin; j++) {
        job->one[j] = false;
        job->step[j] = job->own[j] ? slot->compute : slot->size;
        job->direct = job->direct && job->step[j] == slot->compute;
        if (j == list->apart)
            continue;
        job->one[out] = false;
        job->own[out] = job->own[j];
        job->step[out++] = job->step[j];
    }
    for (int j = nin; j < first_out; j++) {
        job->one[j] = true;
        job->own[j] = false;
        job->step[j] = 0;
        fastact_fill(filled, job->data[j], slot->compute);
        job->data[j] = filled;
        filled += VECTOR;
    }
    threads = fastact_threads_of(n, job->resolved);
    /* as many tasks for each thread, all alike */
    tasks = fastact_over(fastact_over(n, job->resolved->chunk), threads) * threads;
    job->task = fastact_over(fastact_over(n, tasks), slot->granule) * slot->granule;
    fastact_parallel_for(fastact_list_task, list, fastact_over(n, job->task), threads);
}

/* ---- the sum of squares, in float64
 *
 * Each array is cut into blocks of NORM_BLOCK elements. In a block, element i belongs to chain i mod NORM_CHAINS; four rows of
 * chains are added plainly, these sums with two-sum, as in sums.h, and at the end the chains are folded. The pair of block i
 * belongs to chain i mod NORM_LANES, and these are folded: a warp of a GPU does the same (backends/cuda/lists.py). Squares of
 * float32 are exact in float64, and none overflows. */
#define NORM_BLOCK 16384
#define NORM_CHAINS 16
#define NORM_LANES 32
#define NORM_QUAD (FASTACT_QUAD * NORM_CHAINS)

typedef struct {
    double sum[NORM_CHAINS], error[NORM_CHAINS];
} fastact_squares;

#define FASTACT_SQUARES(T, name)                                                                                       \
    FASTACT_CLONES static void fastact_add_squares_##name(fastact_squares *to, const void *x_, ptrdiff_t n)            \
    {                                                                                                                  \
        const ptrdiff_t whole = n / NORM_QUAD * NORM_QUAD;                                                             \
        fastact_squares s = *to;                                                                                       \
        T last[NORM_QUAD];                                                                                             \
        memset(last, 0, sizeof(last));                                                                                 \
        memcpy(last, (const T *)x_ + whole, (size_t)(n - whole) * sizeof(T));                                          \
        /* zeros change nothing: a sum is never -0 */                                                                  \
        for (ptrdiff_t k = 0; k < n; k += NORM_QUAD) {                                                                 \
            const T *x = k < whole ? (const T *)x_ + k : last;                                                         \
            FASTACT_INDEPENDENT                                                                                        \
            for (int i = 0; i < NORM_CHAINS; i++) {                                                                    \
                const double v0 = x[i], v1 = x[i + NORM_CHAINS], v2 = x[i + 2 * NORM_CHAINS], v3 = x[i + 3 * NORM_CHAINS]; \
                const double t = (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3);                                            \
                const double a = s.sum[i], sum = a + t, z = sum - a;                                                   \
                s.sum[i] = sum;                                                                                        \
                s.error[i] += (a - (sum - z)) + (t - z);                                                               \
            }                                                                                                          \
        }                                                                                                              \
        *to = s;                                                                                                       \
    }

FASTACT_SQUARES(float, f32)
FASTACT_SQUARES(double, f64)

typedef struct {
    ptrdiff_t arrays;
    int dtype;            /* of all arrays, an index of DTYPES */
    ptrdiff_t size;       /* bytes of an element */
    char *const *data;
    const ptrdiff_t *length;
    const ptrdiff_t *block; /* blocks before each array; one more at the end */
    double *pairs;          /* of each block */
} fastact_norm;

static void fastact_norm_task(void *context, ptrdiff_t index)
{
    const fastact_norm *norm = (const fastact_norm *)context;
    fastact_squares s;
    ptrdiff_t k = 0, low, n;
    const char *x;
    for (ptrdiff_t end = norm->arrays; end - k > 1;) {
        const ptrdiff_t middle = k + (end - k) / 2;
        if (norm->block[middle] <= index)
            k = middle;
        else
            end = middle;
    }
    low = (index - norm->block[k]) * NORM_BLOCK;
    n = fastact_least(norm->length[k] - low, NORM_BLOCK);
    x = norm->data[k] + low * norm->size;
    memset(&s, 0, sizeof(s));
    if (norm->size == 8)
        fastact_add_squares_f64(&s, x, n);
    else if (norm->size == 4)
        fastact_add_squares_f32(&s, x, n);
    else
        for (ptrdiff_t i = 0; i < n; i += TILE) {
            float wide[TILE];
            const ptrdiff_t count = fastact_least(n - i, TILE);
            fastact_gather(norm->dtype, false, wide, x + i * norm->size, count, norm->size);
            fastact_add_squares_f32(&s, wide, count);
        }
    fastact_fold(8, s.sum, s.error, NORM_CHAINS);
    norm->pairs[2 * index] = s.sum[0];
    norm->pairs[2 * index + 1] = s.error[0];
}

/* The root of the sum of the squares of all elements. */
static double fastact_run_norm(fastact_norm *norm, ptrdiff_t elements, ptrdiff_t parallel_min)
{
    const ptrdiff_t blocks = norm->block[norm->arrays];
    double sum[NORM_LANES] = {0}, error[NORM_LANES] = {0}, total;
    fastact_parallel_for(fastact_norm_task, norm, blocks, fastact_threads_for(elements, parallel_min, PTRDIFF_MAX));
    for (ptrdiff_t i = 0; i < blocks; i++)
        fastact_add_pair_f64(&sum[i % NORM_LANES], &error[i % NORM_LANES], &norm->pairs[2 * i], &norm->pairs[2 * i + 1], 1);
    fastact_fold(8, sum, error, NORM_LANES);
    fastact_total_f64(&total, sum, error, 1);
    return sqrt(total);
}

#endif
