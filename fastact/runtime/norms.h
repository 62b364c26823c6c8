/* Norms over rows, and their gradients: kernels over rows that add to sums over rows as well.
 *
 * Arrays are (rows, groups, n) of any strides; each group has columns (weight, bias) of its own. What a kernel cannot take
 * where it lies goes through scratch memory, a strip of rows at a time; so does what comes before and after it: the sum
 * with a residual, an activation. Between these steps a strip stays in the cache.
 *
 * Sums are those of blocks of FASTACT_BLOCK rows of a group, in the order of additions of sums.h, one row of the array a
 * row there, however narrow. The blocks' pairs are then added in their order, strips of columns by threads. */
#ifndef FASTACT_NORMS_H
#define FASTACT_NORMS_H

#include "driver.h"

#define FASTACT_NORM_ARRAYS 2 /* at most, in and out; and columns, and sums */
#define STRIP_COLUMNS 512     /* whose sums a task combines */
#define STRIP_BYTES 16384     /* of an array, that are taken through the steps together */

typedef struct {
    char *data;
    ptrdiff_t row, group, step; /* bytes */
    bool straight;              /* rows that kernels take where they are */
} fastact_array;

typedef struct {
    const fastact_slot *slot;
    const fastact_resolved *resolved; /* x, columns -> y, statistics; or dy, x, weight, statistics -> dx, sums */
    const fastact_resolved *again;    /* of a gradient with an activation: x, columns, statistics -> y */
    const fastact_job *then;          /* an activation of contiguous elements: y -> y, or dy, y -> dy; null: none */
    ptrdiff_t groups, rows, n;        /* rows of each group */
    int nin, nout, ncol, nstat, nsum; /* nsum: of a gradient */
    fastact_array in[FASTACT_NORM_ARRAYS];  /* x, residual; or dy, x */
    fastact_array out[FASTACT_NORM_ARRAYS]; /* y, x + residual; or dx */
    char *col[FASTACT_NORM_ARRAYS];         /* n elements for each group */
    char *stats;                            /* nstat times groups × rows; null: not wanted */
    char *sums[FASTACT_NORM_ARRAYS];        /* as columns */
    double eps;
    bool stream, failed;
    /* of a run */
    bool direct;
    ptrdiff_t task, strip; /* rows */
    char *partial;         /* for each block of rows, and each sum, high and low parts */
} fastact_normed;

/* which arrays kernels take where they lie; whether they take all of them, with no step before or after */
static void fastact_normed_lay(fastact_normed *f)
{
    f->direct = !f->then;
    for (int k = 0; k < f->nin + f->nout; k++) {
        fastact_array *a = k < f->nin ? &f->in[k] : &f->out[k - f->nin];
        a->straight = f->slot->size == f->slot->compute && (a->step == f->slot->size || f->n == 1);
        f->direct = f->direct && a->straight;
    }
}

static inline char *fastact_row_of(const fastact_array *a, ptrdiff_t group, ptrdiff_t row)
{
    return a->data + group * a->group + row * a->row;
}

static void fastact_normed_call(const fastact_normed *f, const fastact_resolved *resolved, int narg, char *const *data,
                              const ptrdiff_t *row_step, ptrdiff_t rows, int64_t flags)
{
    fastact_call call;
    memset(&call, 0, sizeof(call));
    for (int j = 0; j < narg; j++) {
        call.data[j] = data[j];
        call.row_step[j] = row_step[j];
        call.step[j] = f->slot->compute;
    }
    call.rows = rows;
    call.n = f->n;
    call.scalars = &f->eps;
    call.flags = flags;
    resolved->stages[0].kernel(&call);
}

/* an argument, and how many there are then */
static inline int fastact_put(char **data, ptrdiff_t *row_step, int j, char *at, ptrdiff_t step)
{
    data[j] = at;
    row_step[j] = step;
    return j + 1;
}

static int fastact_put_columns(const fastact_normed *f, char **data, ptrdiff_t *row_step, int j, int ncol, ptrdiff_t group)
{
    for (int c = 0; c < ncol; c++)
        j = fastact_put(data, row_step, j, f->col[c] + group * f->n * f->slot->compute, 0);
    return j;
}

static int fastact_put_stats(const fastact_normed *f, char **data, ptrdiff_t *row_step, int j, ptrdiff_t group, ptrdiff_t low)
{
    const ptrdiff_t compute = f->slot->compute, each = f->rows * f->groups * compute;
    for (int s = 0; s < f->nstat; s++)
        j = fastact_put(data, row_step, j, f->stats ? f->stats + s * each + (group * f->rows + low) * compute : NULL, compute);
    return j;
}

/* The activation of rows that are contiguous each: the inputs `from`, then the output. */
static void fastact_then(const fastact_normed *f, char *const *from, const ptrdiff_t *apart, char *to, ptrdiff_t to_apart,
                         ptrdiff_t rows)
{
    const fastact_job *job = f->then;
    const int nin = job->slot->nin, out = job->narg - 1;
    const ptrdiff_t row = f->n * f->slot->compute;
    char *at[FASTACT_ARGS];
    bool one = to_apart == row;
    for (int j = 0; j < job->narg; j++)
        at[j] = j < nin ? from[j] : j == out ? to : job->data[j];
    for (int j = 0; j < nin; j++)
        one = one && apart[j] == row;
    for (ptrdiff_t r = 0; r < (one ? 1 : rows); r++) {
        fastact_span(job, at, NULL, one ? rows * f->n : f->n, 0);
        for (int j = 0; j < nin; j++)
            at[j] += apart[j];
        at[out] += to_apart;
    }
}

static void fastact_normed_pack(const fastact_normed *f, char *to, const fastact_array *a, const char *from, ptrdiff_t rows)
{
    fastact_pack(f->slot->dtype, to, f->n, from, rows, f->n, a->row, a->step, NULL, 0, 0, 0.0);
}

static void fastact_normed_unpack(const fastact_normed *f, char *from, const fastact_array *a, char *to, ptrdiff_t rows)
{
    fastact_unpack(f->slot->dtype, from, f->n, to, rows, f->n, a->row, a->step, NULL, 0, 0, 0.0);
}

/* bytes of scratch: a strip of each input, and of the norm again */
static ptrdiff_t fastact_normed_strips(const fastact_normed *f)
{
    return f->direct ? 0 : 3 * f->strip * f->n * f->slot->compute;
}

static char *fastact_normed_scratch(fastact_normed *f, ptrdiff_t more)
{
    char *memory = fastact_scratch((size_t)(fastact_normed_strips(f) + more));
    if (!memory)
        f->failed = true;
    return memory;
}

/* x + residual, to where it is wanted, as it is there after rounding; *at where the norm finds it. What goes past the cache
 * is added in scratch and copied. */
static void fastact_add_residual(const fastact_normed *f, char *memory, ptrdiff_t group, ptrdiff_t low, ptrdiff_t rows,
                                 char **at, ptrdiff_t *apart)
{
    const ptrdiff_t row = f->n * f->slot->compute;
    const fastact_array *sum = &f->out[1];
    const bool there = sum->straight && !f->stream;
    char *wanted = fastact_row_of(sum, group, low), *to = there ? wanted : memory;
    const ptrdiff_t to_apart = there ? sum->row : row;
    fastact_call call;
    memset(&call, 0, sizeof(call));
    call.n = f->n;
    for (ptrdiff_t r = 0; r < rows; r++) {
        call.data[0] = at[0] + r * apart[0];
        call.data[1] = at[1] + r * apart[1];
        call.data[2] = to + r * to_apart;
        if (f->slot->compute == 4)
            fastact_add_f32(&call);
        else
            fastact_add_f64(&call);
        if (sum->straight && !there)
            fastact_stream_copy(wanted + r * sum->row, call.data[2], row);
    }
    if (!sum->straight) {
        fastact_normed_unpack(f, memory, sum, wanted, rows);
        if (f->slot->size != f->slot->compute)
            fastact_normed_pack(f, memory, sum, wanted, rows);
    }
    at[0] = to;
    apart[0] = to_apart;
}

/* all steps for a strip of rows of a group; `sums` of a gradient: pairs that the kernel adds to */
static void fastact_normed_strip(const fastact_normed *f, ptrdiff_t group, ptrdiff_t low, ptrdiff_t rows, char *memory,
                               char *sums)
{
    const ptrdiff_t row = f->n * f->slot->compute, strip = f->strip * row;
    const fastact_array *out = &f->out[0];
    char *data[FASTACT_ARGS], *at[FASTACT_NORM_ARRAYS], *result = fastact_row_of(out, group, low), *to = result;
    ptrdiff_t step[FASTACT_ARGS], apart[FASTACT_NORM_ARRAYS], to_apart = out->row;
    int j = 0;
    for (int k = 0; k < f->nin; k++) {
        at[k] = fastact_row_of(&f->in[k], group, low);
        apart[k] = f->in[k].row;
        if (!f->in[k].straight) {
            fastact_normed_pack(f, memory + k * strip, &f->in[k], at[k], rows);
            at[k] = memory + k * strip;
            apart[k] = row;
        }
    }
    /* with stores past the cache the activation makes them */
    if (!out->straight || (f->then && f->stream && !f->nsum)) {
        to = memory;
        to_apart = row;
    }
    if (!f->nsum) {
        if (f->nin == 2)
            fastact_add_residual(f, memory, group, low, rows, at, apart);
        j = fastact_put(data, step, j, at[0], apart[0]);
        j = fastact_put_columns(f, data, step, j, f->ncol, group);
        j = fastact_put(data, step, j, to, to_apart);
        j = fastact_put_stats(f, data, step, j, group, low);
        fastact_normed_call(f, f->resolved, j, data, step, rows, f->stream && to == result && !f->then ? FASTACT_STREAM : 0);
        if (f->then) {
            char *y = out->straight ? result : memory;
            const ptrdiff_t y_apart = out->straight ? out->row : row;
            fastact_then(f, &to, &to_apart, y, y_apart, rows);
        }
    } else {
        if (f->then) {
            char *y = memory + 2 * strip, *from[2] = {at[0], y};
            const ptrdiff_t steps[2] = {apart[0], row};
            j = fastact_put(data, step, 0, at[1], apart[1]);
            j = fastact_put_columns(f, data, step, j, f->ncol, group);
            j = fastact_put_stats(f, data, step, j, group, low);
            j = fastact_put(data, step, j, y, row);
            fastact_normed_call(f, f->again, j, data, step, rows, 0);
            fastact_then(f, from, steps, y, row, rows);
            at[0] = y;
            apart[0] = row;
        }
        j = fastact_put(data, step, 0, at[0], apart[0]);
        j = fastact_put(data, step, j, at[1], apart[1]);
        j = fastact_put_columns(f, data, step, j, 1, group);
        j = fastact_put_stats(f, data, step, j, group, low);
        j = fastact_put(data, step, j, to, to_apart);
        for (int s = 0; s < f->nsum; s++)
            j = fastact_put(data, step, j, sums + s * 2 * row, 0);
        fastact_normed_call(f, f->resolved, j, data, step, rows, f->stream && to == result ? FASTACT_STREAM : 0);
    }
    if (!out->straight)
        fastact_normed_unpack(f, memory, out, result, rows);
}

static void fastact_normed_task(void *context, ptrdiff_t index)
{
    fastact_normed *f = (fastact_normed *)context;
    const ptrdiff_t tasks = fastact_over(f->rows, f->task), group = index / tasks;
    const ptrdiff_t low = index % tasks * f->task, high = fastact_least(low + f->task, f->rows);
    char *memory = f->direct ? NULL : fastact_normed_scratch(f, 0);
    if (!f->direct && !memory)
        return;
    for (ptrdiff_t r = low; r < high; r += f->strip)
        fastact_normed_strip(f, group, r, fastact_least(f->strip, high - r), memory, NULL);
    if (f->stream && !f->direct)
        fastact_streamed();
}

/* Runs a norm of rows > 0 and n > 0; sets failed if there is no memory. */
static void fastact_run_normed(fastact_normed *f)
{
    const ptrdiff_t compute = f->slot->compute, all = f->rows * f->groups;
    const int threads = all > 1 ? fastact_threads_of(all * f->n, f->resolved) : 1;
    bool side = false;
    f->failed = false;
    fastact_normed_lay(f);
    f->direct = f->direct && f->nin == 1;
    for (int k = 0; k < f->nin; k++)
        side = side || f->in[k].step != f->slot->size;
    f->task = fastact_least(fastact_over(f->resolved->chunk, f->n), fastact_over(all, threads));
    f->task = threads > 1 ? fastact_least(f->task, f->rows) : f->rows;
    f->strip = f->task;
    if (!f->direct) {
        /* whole lines of rows that lie side by side, and short ones as many as kernels take together */
        const ptrdiff_t few = side ? VECTOR / compute : 1;
        f->strip = fastact_over(STRIP_BYTES, f->n * compute);
        f->strip = f->strip >= 16 ? f->strip / 16 * 16 : f->strip < few ? few : f->strip;
        f->strip = fastact_least(f->strip, f->rows);
        if (side)
            f->task = fastact_least(fastact_over(f->task, f->strip) * f->strip, f->rows);
        f->strip = fastact_least(f->strip, f->task);
    }
    fastact_parallel_for(fastact_normed_task, f, f->groups * fastact_over(f->rows, f->task), threads);
}

/* ---- gradients */

static inline ptrdiff_t fastact_normed_blocks(const fastact_normed *f) { return fastact_over(f->rows, FASTACT_BLOCK); }

/* high parts of a sum of a block, of `blocks` for each group; low parts come after them */
static char *fastact_normed_pair(const fastact_normed *f, ptrdiff_t block, int s)
{
    return f->partial + (block * f->nsum + s) * 2 * f->n * f->slot->compute;
}

static void fastact_normed_block(void *context, ptrdiff_t index)
{
    fastact_normed *f = (fastact_normed *)context;
    const ptrdiff_t blocks = fastact_normed_blocks(f), group = index / blocks, row = f->n * f->slot->compute;
    const ptrdiff_t low = index % blocks * FASTACT_BLOCK, high = fastact_least(low + FASTACT_BLOCK, f->rows);
    char *memory = NULL, *sums;
    if (!f->direct || blocks == 1) {
        memory = fastact_normed_scratch(f, blocks == 1 ? 2 * f->nsum * row : 0);
        if (!memory)
            return;
    }
    sums = blocks == 1 ? memory + fastact_normed_strips(f) : fastact_normed_pair(f, index, 0);
    memset(sums, 0, (size_t)(2 * f->nsum * row));
    for (ptrdiff_t r = low; r < high; r += f->strip)
        fastact_normed_strip(f, group, r, fastact_least(f->strip, high - r), memory, sums);
    if (blocks == 1)
        for (int s = 0; s < f->nsum; s++)
            fastact_total((int)f->slot->compute, f->sums[s] + group * row, sums + s * 2 * row, sums + (s * 2 + 1) * row, f->n);
}

static void fastact_normed_columns(void *context, ptrdiff_t index)
{
    fastact_normed *f = (fastact_normed *)context;
    const ptrdiff_t compute = f->slot->compute, strips = fastact_over(f->n, STRIP_COLUMNS), blocks = fastact_normed_blocks(f);
    const ptrdiff_t first = index % strips * STRIP_COLUMNS, n = fastact_least(STRIP_COLUMNS, f->n - first);
    const ptrdiff_t at = first * compute, apart = f->n * compute, group = index / strips / f->nsum;
    const int s = (int)(index / strips % f->nsum);
    char *high = fastact_normed_pair(f, group * blocks, s) + at;
    for (ptrdiff_t b = 1; b < blocks; b++) {
        const char *next = fastact_normed_pair(f, group * blocks + b, s) + at;
        fastact_add_pair((int)compute, high, high + apart, next, next + apart, n);
    }
    fastact_total((int)compute, f->sums[s] + group * apart + at, high, high + apart, n);
}

/* Runs the gradient of rows > 0 and n > 0; sets failed if there is no memory. */
static void fastact_run_gradients(fastact_normed *f)
{
    const ptrdiff_t compute = f->slot->compute, blocks = fastact_normed_blocks(f), tasks = f->groups * blocks;
    const ptrdiff_t strips = f->groups * f->nsum * fastact_over(f->n, STRIP_COLUMNS);
    const int threads = fastact_threads_of(f->groups * f->rows * f->n, f->resolved);
    f->failed = false;
    f->partial = NULL;
    fastact_normed_lay(f);
    f->strip = FASTACT_BLOCK;
    if (!f->direct) {
        /* quads of rows are whole */
        f->strip = fastact_least(FASTACT_BLOCK, fastact_over(STRIP_BYTES, f->n * compute));
        f->strip = f->strip >= 16 ? f->strip / 16 * 16 : fastact_over(f->strip, FASTACT_QUAD) * FASTACT_QUAD;
    }
    if (blocks > 1) {
        f->partial = (char *)malloc((size_t)(tasks * 2 * f->nsum * f->n * compute));
        if (!f->partial) {
            f->failed = true;
            return;
        }
    }
    fastact_parallel_for(fastact_normed_block, f, tasks, threads);
    if (blocks > 1 && !f->failed)
        fastact_parallel_for(fastact_normed_columns, f, strips, blocks < 16 ? 1 : threads);
    free(f->partial);
}

#endif
