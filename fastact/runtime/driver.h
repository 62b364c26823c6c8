/* The driver of kernels: it brings arrays into the form that kernels take (call.h), shares them out to threads, and calls
 * kernels by their addresses. It knows no mathematics.
 *
 * A job is arrays and what to run on them: spans of elements, for the loop `map` (ufuncs), fastact_run_map; rows, for
 * kernels that need a row as a whole (softmax, losses), fastact_run_rows. Fused functions: fused.h. */
#ifndef FASTACT_DRIVER_H
#define FASTACT_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "pack.h"
#include "philox.h"
#include "pool.h"
#include "sums.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define VECTOR 64        /* bytes that a kernel may take at once */
#define TILE 512         /* elements of a tile that arguments are gathered into */
#define CACHED 8192      /* bytes of each argument between the stages of a fused function: they stay in the L1 cache */
#define FASTACT_STAGES 8
#define FASTACT_TEMPS 4
#define FASTACT_OUTS 3
#define SIDE_BLOCK 64    /* rows side by side, at least, of a task, where there are many: whole lines, some beside each other */
#define ROW_BLOCK 64     /* rows that are packed at once: four lines of float32 */
#define PACKED (512 << 10) /* bytes of scratch for them: they stay in the L2 cache */

enum { FASTACT_MAP, FASTACT_ROWS };
enum { FASTACT_WHOLE, FASTACT_SIDE, FASTACT_PART, FASTACT_FORMS }; /* spec/rows.py */

/* One kernel among those of a function; `place` says where its arguments are: an argument of the function, or
 * `narg + t` for the temporary t. */
typedef struct {
    fastact_kernel kernel;
    int narg;
    unsigned char place[FASTACT_ARGS];
} fastact_stage;

/* What a slot runs. Never changed nor freed once a thread may have seen it. */
typedef struct fastact_resolved {
    int nstage; /* 0: `python` serves */
    fastact_stage stages[FASTACT_STAGES];
    bool arithmetic;        /* the last stage is the driver's own, which never stores past the cache */
    void *python;           /* a callable over arrays in the place of kernels */
    ptrdiff_t parallel_min; /* elements from which on threads pay */
    ptrdiff_t chunk;        /* elements of a task */
    struct fastact_resolved *older;
} fastact_resolved;

/* One dtype of one function. */
typedef struct {
    fastact_resolved *resolved; /* null until first needed */
    fastact_resolved *newest;   /* all there have been, to be used again */
    void *owner;                /* the Function that resolves it */
    int dtype;                  /* index of DTYPES */
    int loop;
    int nin, nparam, nout;
    ptrdiff_t size;    /* bytes of an element in memory */
    ptrdiff_t compute; /* and as kernels take it */
    ptrdiff_t granule; /* elements that a kernel of a map takes at once */
    /* of a sum of the values of an output: 1 + that output, else 0; stages do not write it, a kernel of its own does */
    unsigned char like[FASTACT_ARGS];
    /* 1 + the input that the first stage makes, of random numbers; 0: there is none */
    int random;
    /* functions over rows */
    bool reduces;         /* one value a row */
    int masked;           /* the input that a mask fills; those before it count as 0 there */
    bool side;            /* kernels have a form for rows side by side */
    int phases;           /* in which their form for parts takes a long row, 0: there is none */
    int form;
    double fill_in, fill; /* what an input counts as, and the result is, where a mask does not hold */
} fastact_slot;

/* What each thread reads of a map comes first: every line of it moves from one core's cache to another's. */
typedef struct {
    const fastact_slot *slot;
    const fastact_resolved *resolved;
    int narg;
    int scratch_arg; /* the argument for which each task has a row of its own memory; -1: none */
    bool direct;     /* kernels work on the arrays themselves */
    bool stream;     /* outputs go past the cache */
    bool hold;       /* results wait in tiles until all stages are done: an output takes the place of an input */
    bool failed;     /* for want of memory */
    ptrdiff_t head;  /* elements before the outputs are aligned, where they are streamed */
    ptrdiff_t task;  /* elements or rows of a task */
    ptrdiff_t n, rows;
    bool one[FASTACT_ARGS]; /* a parameter that is one value: `data` is a block filled with it, as kernels take it */
    bool own[FASTACT_ARGS]; /* memory of the driver: contiguous, of elements as kernels take them */
    const char *mask;       /* where results are wanted, null: everywhere */
    ptrdiff_t mask_row, mask_step;
    const double *scalars;
    char *data[FASTACT_ARGS];
    ptrdiff_t step[FASTACT_ARGS], row_step[FASTACT_ARGS]; /* bytes */
    int64_t flags;
    uint64_t seed, offset; /* of random numbers */
    /* functions over rows */
    int form, threads;
} fastact_job;

static struct {
    int threads;
    ptrdiff_t asleep_factor; /* so many times as much work pays for waking a worker, */
    ptrdiff_t asleep_chunks; /* or so many tasks' */
    ptrdiff_t stream_min;    /* bytes of output from which on they go past the cache */
} fastact_settings = {1, 1, PTRDIFF_MAX, PTRDIFF_MAX};

#ifdef _OPENMP
#include <omp.h>
#define FASTACT_OPENMP 1
static int fastact_omp_at_start;
#else
#define FASTACT_OPENMP 0
#endif

/* OpenMP is asked for limits only (threadpoolctl, omp_set_num_threads, nesting in somebody's parallel region). */
static int fastact_threads_now(void)
{
#if FASTACT_OPENMP
    int limit = omp_get_max_threads();
    if (omp_in_parallel())
        return 1;
    if (limit != fastact_omp_at_start && limit < fastact_settings.threads)
        return limit > 0 ? limit : 1;
#endif
    return fastact_settings.threads;
}

static void fastact_driver_init(void)
{
#if FASTACT_OPENMP
    fastact_omp_at_start = omp_get_max_threads();
#endif
    fastact_pool_init();
    fastact_philox_init(2);
    fastact_pack_init(2);
}

/* how many threads for n elements in tasks of `chunk`, where threads pay from parallel_min on if the workers are awake */
static int fastact_threads_for(ptrdiff_t n, ptrdiff_t parallel_min, ptrdiff_t chunk)
{
    int threads;
    if (n < parallel_min)
        return 1;
    threads = fastact_threads_now();
    if (threads > 1 && n / fastact_settings.asleep_factor < parallel_min &&
        n / fastact_settings.asleep_chunks < chunk && !fastact_pool_awake())
        return 1;
    return threads;
}

/* the same for what a slot runs */
static int fastact_threads_of(ptrdiff_t n, const fastact_resolved *resolved)
{
    return fastact_threads_for(n, resolved->parallel_min, resolved->chunk);
}

static inline ptrdiff_t fastact_least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* past the cache; fastact_streamed() after the last one */
static void fastact_stream_copy(char *to, const char *from, ptrdiff_t bytes)
{
#if defined(__SSE2__)
    ptrdiff_t i = fastact_least(-(intptr_t)to & 15, bytes);
    memcpy(to, from, (size_t)i);
    for (; i + 16 <= bytes; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
    memcpy(to + i, from + i, (size_t)(bytes - i));
#else
    memcpy(to, from, (size_t)bytes);
#endif
}

static inline void fastact_streamed(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

static inline char *fastact_aligned(char *p) { return (char *)(((uintptr_t)p + VECTOR - 1) & ~(uintptr_t)(VECTOR - 1)); }
static inline ptrdiff_t fastact_over(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* a block of one value, as kernels take a parameter */
static inline void fastact_fill(char *block, const char *value, ptrdiff_t size)
{
    uint64_t bits = 0;
    for (ptrdiff_t i = 0; i < 8; i += size)
        memcpy((char *)&bits + i, value, (size_t)size);
    for (ptrdiff_t i = 0; i < VECTOR; i += 8)
        memcpy(block + i, &bits, 8);
}

/* ---- spans of elements */

/* Whether one kernel computes it all; one that makes random numbers before it does not count. */
static inline bool fastact_is_one(const fastact_job *job)
{
    return job->resolved->nstage == 1 + (job->slot->random != 0) && !job->resolved->arithmetic;
}

/* All stages over n elements that are contiguous at `at`, each argument of the function or a temporary; `index` is the
 * first one's, of all. */
static inline void fastact_run_stages(const fastact_job *job, char *const *at, ptrdiff_t n, ptrdiff_t index, int64_t flags,
                                      const char *const *ahead)
{
    const fastact_resolved *r = job->resolved;
    fastact_call call;
    call.rows = 1;
    call.n = n;
    call.row0 = 0;
    call.col0 = index;
    call.scalars = job->scalars;
    call.seed = job->seed;
    call.offset = job->offset;
    call.ahead[0] = ahead ? ahead[0] : NULL;
    call.ahead[1] = ahead ? ahead[1] : NULL;
    for (int s = 0; s < r->nstage; s++) {
        const fastact_stage *stage = &r->stages[s];
        for (int k = 0; k < stage->narg; k++) {
            int j = stage->place[k];
            call.data[k] = at[j];
            call.row_step[k] = 0; /* there is one row */
            call.step[k] = j < job->narg && job->one[j] ? 0 : job->slot->compute;
        }
        call.flags = s == r->nstage - 1 ? flags : 0;
        stage->kernel(&call);
    }
}

/* Through contiguous tiles: strided arguments, other element sizes, masks, tails. `at` are the first elements. */
static void fastact_tiles(const fastact_job *job, char *const *at, const char *mask, ptrdiff_t count, ptrdiff_t index)
{
    const fastact_slot *slot = job->slot;
    const ptrdiff_t size = slot->size, compute = slot->compute;
    const int narg = job->narg, first_out = slot->nin + slot->nparam;
    char buffer[(TILE * 8 + VECTOR) * (FASTACT_ARGS + FASTACT_TEMPS)];
    char *base = fastact_aligned(buffer);
    char *args[FASTACT_ARGS + FASTACT_TEMPS];
    ptrdiff_t width = fastact_over(fastact_least(count, TILE), slot->granule) * slot->granule * compute;
    width = fastact_over(width, VECTOR) * VECTOR;
    for (int t = 0; t < FASTACT_TEMPS; t++)
        args[narg + t] = base + (narg + t) * width;
    for (ptrdiff_t i = 0; i < count; i += TILE) {
        ptrdiff_t n = fastact_least(count - i, TILE), padded = fastact_over(n, slot->granule) * slot->granule;
        for (int j = 0; j < narg; j++) {
            char *from = at[j] + i * (job->own[j] ? compute : job->step[j]);
            if (job->one[j]) {
                args[j] = at[j];
            } else if (j == slot->random - 1) {
                args[j] = base + j * width;
            } else if (padded == n && (job->own[j] || (job->step[j] == size && size == compute && !((mask || job->hold) && j >= first_out)))) {
                args[j] = from;
            } else {
                args[j] = base + j * width;
                if (j < first_out) {
                    if (job->own[j])
                        memcpy(args[j], from, (size_t)(n * compute));
                    else
                        fastact_gather(slot->dtype, size == compute, args[j], from, n, job->step[j]);
                    memset(args[j] + n * compute, 0, (size_t)((padded - n) * compute));
                }
            }
        }
        fastact_run_stages(job, args, padded, index + i, 0, NULL);
        for (int j = first_out; j < narg; j++) {
            if (slot->like[j] && !fastact_is_one(job))
                memcpy(at[j] + i * compute, args[slot->like[j] - 1], (size_t)(n * compute));
            else if (args[j] != base + j * width)
                continue;
            else if (job->own[j])
                memcpy(at[j] + i * compute, args[j], (size_t)(n * compute));
            else if (mask)
                fastact_scatter_where(size, at[j] + i * job->step[j], args[j], n, job->step[j], mask + i * job->mask_step,
                                      job->mask_step);
            else
                fastact_scatter(slot->dtype, size == compute, at[j] + i * job->step[j], args[j], n, job->step[j]);
        }
    }
}

/* How many elements come before the outputs are aligned to vectors; -1 where they are not alike. */
static ptrdiff_t fastact_head(const fastact_job *job, char *const *at)
{
    const int first_out = job->slot->nin + job->slot->nparam;
    const ptrdiff_t size = job->slot->size;
    ptrdiff_t misaligned = -1;
    for (int j = first_out; j < job->narg; j++) {
        const ptrdiff_t by = (ptrdiff_t)((uintptr_t)at[j] & (VECTOR - 1));
        if (job->own[j])
            continue;
        if (by % size || (misaligned >= 0 && by != misaligned))
            return -1;
        misaligned = by;
    }
    return misaligned > 0 ? (VECTOR - misaligned) / size : misaligned;
}

static inline void fastact_moved(const fastact_job *job, char **args, char *const *at, ptrdiff_t by)
{
    for (int j = 0; j < job->narg; j++)
        args[j] = job->one[j] || j == job->slot->random - 1 ? at[j] : at[j] + by * job->slot->compute;
}

/* n elements of one row through all stages, piece by piece. Results wait in the cache where they go past it, or are summed
 * as well; but with FASTACT_STREAM in `flags` one kernel stores them. */
static void fastact_pieces(const fastact_job *job, char *const *at, ptrdiff_t n, ptrdiff_t index, int64_t flags)
{
    const fastact_slot *slot = job->slot;
    const int first_out = slot->nin + slot->nparam;
    const bool staged = job->resolved->nstage > 1;
    /* in stages from memory, the next pieces come into the L1 cache meanwhile */
    const ptrdiff_t piece = (staged && job->stream ? CACHED / 2 : CACHED) / slot->compute;
    const bool one = fastact_is_one(job), copied = job->stream && !(flags & FASTACT_STREAM);
    char temps[(FASTACT_TEMPS + FASTACT_OUTS + 1) * CACHED + VECTOR], *memory = fastact_aligned(temps);
    char *args[FASTACT_ARGS + FASTACT_TEMPS], *to[FASTACT_ARGS];
    const char *ahead[2] = {NULL, NULL}; /* where the next piece of inputs is */
    for (int t = 0; t < FASTACT_TEMPS; t++)
        args[job->narg + t] = memory + t * CACHED;
    for (ptrdiff_t i = 0; i < n; i += piece) {
        const ptrdiff_t count = fastact_least(n - i, piece);
        fastact_moved(job, args, at, i);
        if (slot->random)
            args[slot->random - 1] = memory + (FASTACT_TEMPS + FASTACT_OUTS) * CACHED;
        memcpy(to, args, sizeof(to));
        for (int j = first_out, out = FASTACT_TEMPS; j < job->narg; j++) {
            if (copied && !job->own[j])
                args[j] = memory + out++ * CACHED;
            if (slot->like[j] && !one)
                args[slot->like[j] - 1] = args[j];
        }
        for (int j = 0, k = 0; j < slot->nin && k < 2; j++)
            if (!job->one[j])
                ahead[k++] = args[j] + count * slot->compute;
        fastact_run_stages(job, args, count, index + i, flags, staged ? ahead : NULL);
        for (int j = first_out; j < job->narg; j++)
            if (args[j] != to[j]) {
                if (job->stream)
                    fastact_stream_copy(to[j], args[j], count * slot->compute);
                else
                    memcpy(to[j], args[j], (size_t)(count * slot->compute));
            }
    }
}

/* n elements of one row, from `at` on; `index` is the first one's, of all */
static void fastact_span(const fastact_job *job, char *const *at, const char *mask, ptrdiff_t n, ptrdiff_t index)
{
    const bool one = fastact_is_one(job);
    char *args[FASTACT_ARGS];
    ptrdiff_t head = 0, body;
    bool stream = job->stream;
    if (!job->direct || mask) {
        fastact_tiles(job, at, mask, n, index);
        return;
    }
    if (stream && one) {
        head = fastact_head(job, at);
        stream = head >= 0;
        head = fastact_least(head < 0 ? 0 : head, n);
        if (head)
            fastact_tiles(job, at, NULL, head, index);
    }
    body = (n - head) / job->slot->granule * job->slot->granule;
    if (body) {
        if (head)
            fastact_moved(job, args, at, head);
        if (job->resolved->nstage == 1 && (one || !stream))
            fastact_run_stages(job, head ? args : at, body, index + head, stream ? FASTACT_STREAM : 0, NULL);
        else
            fastact_pieces(job, head ? args : at, body, index + head, one && stream ? FASTACT_STREAM : 0);
    }
    if (head + body < n) {
        fastact_moved(job, args, at, head + body);
        fastact_tiles(job, args, NULL, n - head - body, index + head + body);
    }
}

static void fastact_map_part(const fastact_job *job, ptrdiff_t low, ptrdiff_t high)
{
    char *at[FASTACT_ARGS];
    for (int j = 0; j < job->narg; j++)
        at[j] = job->one[j] ? job->data[j] : job->data[j] + low * job->step[j];
    fastact_span(job, at, job->mask ? job->mask + low * job->mask_step : NULL, high - low, low);
}

static void fastact_map_task(void *context, ptrdiff_t index)
{
    const fastact_job *job = (const fastact_job *)context;
    ptrdiff_t low = job->head + index * job->task;
    fastact_map_part(job, low, fastact_least(low + job->task, job->n));
}

/* whether an output shares memory with an input without being the same elements */
static bool fastact_overlapping(const fastact_job *job, int first_out)
{
    for (int i = first_out; i < job->narg; i++) {
        const char *low_out = job->data[i] + fastact_least(0, (job->n - 1) * job->step[i]);
        const char *high_out = job->data[i] - fastact_least(0, -(job->n - 1) * job->step[i]) + job->slot->size;
        for (int j = 0; j < first_out; j++) {
            const char *low_in, *high_in;
            if (job->one[j] || (job->data[j] == job->data[i] && job->step[j] == job->step[i]))
                continue;
            low_in = job->data[j] + fastact_least(0, (job->n - 1) * job->step[j]);
            high_in = job->data[j] - fastact_least(0, -(job->n - 1) * job->step[j]) + job->slot->size;
            if (low_in < high_out && low_out < high_in)
                return true;
        }
    }
    return false;
}

/* Whether n elements of the outputs can go past the cache, and how many come before they are aligned (`head`): outputs
 * are alike, and no input is in their place (its lines are in the cache already). */
static bool fastact_streams(const fastact_job *job, int first_out, ptrdiff_t *head)
{
    const ptrdiff_t size = job->slot->size, bytes = job->n * size;
    const uintptr_t misaligned = (uintptr_t)job->data[first_out] & (VECTOR - 1);
    for (int i = first_out; i < job->narg; i++) {
        if (((uintptr_t)job->data[i] & (VECTOR - 1)) != misaligned)
            return false;
        for (int j = 0; j < first_out; j++)
            if (!job->one[j] && job->data[j] < job->data[i] + bytes && job->data[i] < job->data[j] + bytes)
                return false;
    }
    *head = misaligned ? (VECTOR - (ptrdiff_t)misaligned) / size : 0;
    return misaligned % (uintptr_t)size == 0;
}

/* A map over one row. Parameters of step 0 are filled into blocks here; `blocks` is memory for them. */
static void fastact_run_map(fastact_job *job, char *blocks)
{
    const fastact_slot *slot = job->slot;
    const ptrdiff_t size = slot->size, n = job->n;
    const int first_out = slot->nin + slot->nparam;
    int threads;
    job->head = 0;
    job->seed = job->offset = 0;
    job->direct = size == slot->compute;
    job->stream = job->hold = false;
    for (int j = 0; j < job->narg; j++) {
        job->own[j] = false;
        job->one[j] = slot->nin <= j && j < first_out && (job->step[j] == 0 || n == 1);
        if (job->one[j]) {
            fastact_fill(blocks, job->data[j], size);
            job->data[j] = blocks;
            blocks += VECTOR;
        } else if (n == 1) {
            job->step[j] = size;
        } else if (job->step[j] != size) {
            job->direct = false;
        }
    }
    if (job->direct && !job->mask && n * size * slot->nout >= fastact_settings.stream_min) {
        job->stream = fastact_streams(job, first_out, &job->head);
        if (!job->stream)
            job->head = 0;
        else if (job->head)
            fastact_map_part(job, 0, job->head);
    }
    if (n >= job->resolved->parallel_min) {
        /* NumPy lets an output start a little before its input: right in order only */
        threads = fastact_overlapping(job, first_out) ? 1 : fastact_threads_of(n, job->resolved);
        if (threads > 1) {
            /* a share for each thread, however short the array */
            ptrdiff_t share = fastact_least(fastact_over(n - job->head, threads), job->resolved->chunk);
            job->task = fastact_over(share, slot->granule) * slot->granule;
            fastact_parallel_for(fastact_map_task, job, fastact_over(n - job->head, job->task), threads);
            return;
        }
    }
    fastact_map_part(job, job->head, n);
}

/* ---- rows */

/* rows of n elements, up to all that there are */
static void fastact_call_prefixes(const fastact_job *job, char *const *data, const ptrdiff_t *row_step, ptrdiff_t low,
                                  ptrdiff_t rows, ptrdiff_t n, int64_t flags)
{
    fastact_call call;
    for (int j = 0; j < job->narg; j++) {
        call.data[j] = data[j];
        call.row_step[j] = row_step[j];
        call.step[j] = job->slot->compute;
    }
    call.rows = rows;
    call.n = n;
    call.row0 = low;
    call.col0 = 0;
    call.scalars = job->scalars;
    call.seed = call.offset = 0;
    call.ahead[0] = call.ahead[1] = NULL;
    call.flags = job->flags | flags;
    job->resolved->stages[0].kernel(&call);
}

static void fastact_call_rows(const fastact_job *job, char *const *data, const ptrdiff_t *row_step, ptrdiff_t low,
                              ptrdiff_t rows, int64_t flags)
{
    fastact_call_prefixes(job, data, row_step, low, rows, job->n, flags);
}

static void fastact_direct_rows(fastact_job *job, ptrdiff_t low, ptrdiff_t high)
{
    char *data[FASTACT_ARGS];
    for (int j = 0; j < job->narg; j++)
        data[j] = job->data[j] ? job->data[j] + low * job->row_step[j] : NULL;
    if (job->scratch_arg >= 0) {
        data[job->scratch_arg] = fastact_scratch((size_t)(job->n * job->slot->compute));
        if (!data[job->scratch_arg]) {
            job->failed = true;
            return;
        }
    }
    fastact_call_rows(job, data, job->row_step, low, high - low, job->stream ? FASTACT_STREAM : 0);
}

/* rows that are packed at once into scratch; elements between them there: whole lines and one more, or rows of 4096
 * bytes would fall into the same cache set */
static ptrdiff_t fastact_scratch_row(const fastact_job *job)
{
    const ptrdiff_t line = VECTOR / job->slot->compute;
    return fastact_over(job->n, line) * line + line;
}

static ptrdiff_t fastact_packed_block(const fastact_job *job)
{
    ptrdiff_t block = PACKED / (fastact_scratch_row(job) * job->slot->compute * job->slot->nin);
    return block >= ROW_BLOCK ? ROW_BLOCK : block > 16 ? block / 16 * 16 : block > 4 ? 16 : block < 1 ? 1 : 4;
}

/* rows × n elements of 0 */
static void fastact_clear(char *to, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t outer, ptrdiff_t core, ptrdiff_t size)
{
    if (n <= 0)
        return;
    if (core == size)
        for (ptrdiff_t r = 0; r < rows; r++)
            memset(to + r * outer, 0, (size_t)(n * size));
    else if (outer == size)
        for (ptrdiff_t i = 0; i < n; i++)
            memset(to + i * core, 0, (size_t)(rows * size));
    else
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t i = 0; i < n; i++)
                memset(to + r * outer + i * core, 0, (size_t)size);
}

static void fastact_packed_rows(fastact_job *job, ptrdiff_t low, ptrdiff_t high)
{
    const fastact_slot *slot = job->slot;
    const int nin = slot->nin, out = slot->nin;
    const ptrdiff_t row = fastact_scratch_row(job), block = fastact_packed_block(job), compute = slot->compute;
    const bool causal = job->flags & FASTACT_CAUSAL;
    /* results where they belong, though inputs are packed */
    const bool direct = !slot->reduces && slot->size == compute && job->step[out] == compute && job->row_step[out] % compute == 0;
    char *data[FASTACT_ARGS];
    ptrdiff_t row_step[FASTACT_ARGS];
    char *base = fastact_scratch((size_t)((row * nin + 1) * block * compute));
    if (!base) {
        job->failed = true;
        return;
    }
    for (ptrdiff_t rows; low < high; low += rows) {
        const char *mask = job->mask ? job->mask + low * job->mask_row : NULL;
        char *result = job->data[out] + low * job->row_step[out];
        ptrdiff_t n = job->n;
        rows = fastact_least(high - low, block);
        if (causal)
            n = fastact_least(n, low + rows); /* of the last one */
        for (int j = 0; j < nin; j++) {
            const char *filled = j <= slot->masked ? mask : NULL;
            /* a bias that all rows share, once; not the argument in whose place the result comes */
            const bool shared = j > 0 && job->row_step[j] == 0 && !filled;
            data[j] = base + j * block * row * compute;
            row_step[j] = shared ? 0 : row * compute;
            fastact_pack(slot->dtype, data[j], row, job->data[j] + low * job->row_step[j], shared ? 1 : rows, n,
                         job->row_step[j], job->step[j], filled, job->mask_row, job->mask_step,
                         j < slot->masked ? 0.0 : slot->fill_in);
        }
        data[out] = slot->reduces ? base + nin * block * row * compute : direct ? result : data[0];
        row_step[out] = slot->reduces ? compute : direct ? job->row_step[out] : row_step[0];
        fastact_call_prefixes(job, data, row_step, low, rows, n, 0);
        if (slot->reduces) {
            fastact_unpack(slot->dtype, data[out], 1, result, rows, 1, job->row_step[out], slot->size, NULL, 0, 0, 0.0);
            continue;
        }
        if (!direct)
            fastact_unpack(slot->dtype, data[out], row, result, rows, n, job->row_step[out], job->step[out], mask,
                           job->mask_row, job->mask_step, slot->fill);
        else if (mask)
            fastact_mask(slot->dtype, result, job->row_step[out] / compute, rows, n, mask, job->mask_row, job->mask_step,
                         slot->fill);
        fastact_clear(result + n * job->step[out], rows, job->n - n, job->row_step[out], job->step[out], slot->size);
    }
}

/* Rows whose elements lie side by side, as those of a transposed array do. What a kernel cannot take as it lies is packed:
 * element by element, for here that is contiguous. */
static void fastact_side_rows(fastact_job *job, ptrdiff_t low, ptrdiff_t high)
{
    const fastact_slot *slot = job->slot;
    const int nin = slot->nin, out = slot->nin;
    const ptrdiff_t lanes = VECTOR / slot->compute, bytes = job->n * VECTOR;
    const bool own = job->mask || slot->size != slot->compute;
    char *memory = fastact_scratch((size_t)(4 * (job->n + 1) * VECTOR * nin)); /* four groups: loops/side.py */
    fastact_call call;
    if (!memory) {
        job->failed = true;
        return;
    }
    memset(&call, 0, sizeof(call));
    call.n = job->n;
    call.flags = job->stream ? FASTACT_STREAM : 0;
    call.scalars = job->scalars;
    call.data[nin + 1] = memory;
    for (ptrdiff_t rows; low < high; low += rows) {
        const char *mask = job->mask ? job->mask + low * job->mask_row : NULL;
        rows = own ? fastact_least(high - low, lanes) : high - low;
        call.row0 = low;
        call.rows = rows;
        for (int j = 0; j <= nin; j++) {
            call.data[j] = job->data[j] + low * slot->size;
            call.step[j] = job->step[j];
            if (own && j < nin)
                fastact_pack(slot->dtype, memory + j * bytes, lanes, call.data[j], job->n, rows, job->step[j], slot->size,
                             j <= slot->masked ? mask : NULL, job->mask_step, job->mask_row,
                             j < slot->masked ? 0.0 : slot->fill_in);
            if (own) {
                call.data[j] = memory + (j < nin ? j : 0) * bytes;
                call.step[j] = VECTOR;
            }
        }
        job->resolved->stages[0].kernel(&call);
        if (own)
            fastact_unpack(slot->dtype, memory, lanes, job->data[out] + low * slot->size, job->n, rows, job->step[out],
                           slot->size, mask, job->mask_step, job->mask_row, slot->fill);
    }
}

/* ---- one row longer than a segment, in phases: each on all segments, then the next */

static inline ptrdiff_t fastact_segments(ptrdiff_t n) { return fastact_over(n, FASTACT_SEGMENT); }

/* A phase of a part of a row of n elements, from `first` on: `data` there, `rows` records. */
static void fastact_phase(fastact_kernel kernel, const fastact_call *row, int narg, char *const *data, ptrdiff_t first,
                          ptrdiff_t count, int64_t phase, char *records)
{
    fastact_call call = *row;
    for (int j = 0; j < narg; j++)
        call.data[j] = data[j];
    call.data[narg] = records;
    call.rows = fastact_segments(row->n);
    call.n = count;
    call.col0 = first;
    call.flags = row->flags | phase;
    kernel(&call);
}

typedef struct {
    fastact_job *job;
    char *records;
    ptrdiff_t row, task; /* segments of a task */
    int64_t phase;
} fastact_long_row;

/* segments from `first` on, up to `last` */
static void fastact_long_part(const fastact_long_row *part, ptrdiff_t first, ptrdiff_t last)
{
    fastact_job *job = part->job;
    const fastact_slot *slot = job->slot;
    const ptrdiff_t compute = slot->compute, stop = fastact_least(last * FASTACT_SEGMENT, job->n);
    const int nin = slot->nin;
    const fastact_kernel kernel = job->resolved->stages[0].kernel;
    fastact_call call;
    char *data[FASTACT_ARGS], *base = NULL;
    memset(&call, 0, sizeof(call));
    call.n = job->n;
    call.scalars = job->scalars;
    call.flags = job->flags | (job->stream ? FASTACT_STREAM : 0);
    first *= FASTACT_SEGMENT;
    if (job->direct) {
        for (int j = 0; j < job->narg; j++)
            data[j] = job->data[j] ? job->data[j] + part->row * job->row_step[j] + first * job->step[j] : NULL;
        fastact_phase(kernel, &call, job->narg, data, first, stop - first, part->phase, part->records);
        return;
    }
    base = fastact_scratch((size_t)(nin * FASTACT_SEGMENT * compute));
    if (!base) {
        job->failed = true;
        return;
    }
    for (; first < stop; first += FASTACT_SEGMENT) {
        const ptrdiff_t n = fastact_least(stop - first, FASTACT_SEGMENT), row = part->row;
        const char *mask = job->mask ? job->mask + row * job->mask_row + first * job->mask_step : NULL;
        char *result = job->data[nin] + row * job->row_step[nin] + first * job->step[nin];
        for (int j = 0; j < nin; j++) {
            data[j] = base + j * FASTACT_SEGMENT * compute;
            fastact_pack(slot->dtype, data[j], n, job->data[j] + row * job->row_step[j] + first * job->step[j], 1, n, 0,
                         job->step[j], j <= slot->masked ? mask : NULL, 0, job->mask_step,
                         j < slot->masked ? 0.0 : slot->fill_in);
        }
        data[nin] = data[0];
        fastact_phase(kernel, &call, job->narg, data, first, n, part->phase, part->records);
        if (part->phase != FASTACT_LAST)
            continue;
        if (!slot->reduces)
            fastact_unpack(slot->dtype, data[0], n, result, 1, n, 0, job->step[nin], mask, 0, job->mask_step, slot->fill);
        else if (first == 0)
            fastact_unpack(slot->dtype, data[0], 1, result, 1, 1, 0, slot->size, NULL, 0, 0, 0.0);
    }
}

static void fastact_long_task(void *context, ptrdiff_t index)
{
    const fastact_long_row *part = (const fastact_long_row *)context;
    const ptrdiff_t first = index * part->task;
    fastact_long_part(part, first, fastact_least(first + part->task, fastact_segments(part->job->n)));
}

/* one row, by so many threads */
static void fastact_long_row_of(fastact_job *job, ptrdiff_t row, int threads)
{
    const ptrdiff_t segments = fastact_segments(job->n);
    char *records = (char *)malloc((size_t)((segments + 1) * VECTOR));
    fastact_long_row part = {job, records ? fastact_aligned(records) : NULL, row, fastact_over(segments, 4 * threads), 0};
    if (!records) {
        job->failed = true;
        return;
    }
    for (part.phase = FASTACT_GREATEST; part.phase <= FASTACT_LAST; part.phase *= 2)
        if (job->slot->phases & part.phase)
            fastact_parallel_for(fastact_long_task, &part, fastact_over(segments, part.task), threads);
    free(records);
}

static void fastact_long_rows_task(void *context, ptrdiff_t index) { fastact_long_row_of((fastact_job *)context, index, 1); }

static void fastact_run_long(fastact_job *job)
{
    if (job->threads == 1 || job->rows < 4 * job->threads)
        for (ptrdiff_t row = 0; row < job->rows; row++)
            fastact_long_row_of(job, row, job->threads);
    else
        fastact_parallel_for(fastact_long_rows_task, job, job->rows, job->threads);
}

static void fastact_rows_task(void *context, ptrdiff_t index)
{
    fastact_job *job = (fastact_job *)context;
    ptrdiff_t low = index * job->task, high = fastact_least(low + job->task, job->rows);
    if (job->direct)
        fastact_direct_rows(job, low, high);
    else if (job->form == FASTACT_SIDE)
        fastact_side_rows(job, low, high);
    else
        fastact_packed_rows(job, low, high);
}

/* Rows, shared out to threads, or the parts of each row where there are few. Sets job->failed if there is no memory. */
static void fastact_run_rows(fastact_job *job)
{
    const ptrdiff_t n = job->n > 0 ? job->n : 1;
    job->failed = false;
    if (job->rows <= 0)
        return;
    if (job->form == FASTACT_PART) {
        fastact_run_long(job);
        return;
    }
    job->task = job->rows;
    if (job->threads > 1) {
        job->task = fastact_least(fastact_over(job->resolved->chunk, n), fastact_over(job->rows, job->threads));
        if (!job->direct) {
            const ptrdiff_t lanes = VECTOR / job->slot->compute, few = job->rows < 2 * SIDE_BLOCK * job->threads;
            const ptrdiff_t block = job->form != FASTACT_SIDE ? fastact_packed_block(job) : few ? lanes : SIDE_BLOCK;
            job->task = fastact_over(job->task, block) * block;
        }
    }
    fastact_parallel_for(fastact_rows_task, job, fastact_over(job->rows, job->task), job->threads);
}

static void fastact_plan_threads(fastact_job *job)
{
    const ptrdiff_t elements = job->rows * job->n;
    const bool divided = job->slot->phases && job->n > FASTACT_SEGMENT;
    job->threads = job->rows > 1 || divided ? fastact_threads_of(elements, job->resolved) : 1;
    if (divided)
        job->form = FASTACT_PART;
}

/* whether outputs of so many rows, `span` bytes from the first to the end of the last, lie apart from inputs */
static bool fastact_apart(const fastact_job *job, ptrdiff_t span)
{
    const char *begin = job->data[job->slot->nin];
    for (int j = 0; j < job->slot->nin; j++)
        if (job->data[j] < begin + span && begin < job->data[j] + span)
            return false;
    return (uintptr_t)begin % (uintptr_t)job->slot->size == 0;
}

/* Plans a function over rows: threads, the form of its kernel, whether that can work on the arrays themselves and store
 * past the cache. */
static void fastact_plan_rows(fastact_job *job)
{
    const fastact_slot *slot = job->slot;
    const ptrdiff_t size = slot->size, bytes = job->rows * job->n * size;
    const int nin = slot->nin, out = slot->nin;
    bool contiguous = true, side = slot->side && 1 < job->n && job->n <= FASTACT_SEGMENT;
    side = side && job->rows * slot->compute >= VECTOR / 2;
    for (int j = 0; j < nin + !slot->reduces; j++) {
        contiguous = contiguous && (job->step[j] == size || job->n == 1);
        side = side && job->row_step[j] == size;
    }
    job->direct = contiguous && size == slot->compute && !job->mask;
    job->form = side && !job->direct ? FASTACT_SIDE : FASTACT_WHOLE;
    job->stream = false;
    fastact_plan_threads(job);
    if (slot->reduces || bytes < fastact_settings.stream_min)
        return;
    if (job->form == FASTACT_SIDE)
        job->stream = size == slot->compute && !job->mask && job->step[out] == job->rows * size && fastact_apart(job, bytes);
    else if (job->direct)
        job->stream = job->row_step[out] == job->n * size && fastact_apart(job, bytes);
}

#endif
