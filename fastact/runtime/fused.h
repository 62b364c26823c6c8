/* Fused functions: maps over rows and columns, with arguments along an axis, and sums over the other ones.
 *
 * Arrays are contiguous, (outer, channel, inner). With inner = 1 the axis is the last one: its arguments lie along a row.
 * Else a row is `inner` elements of one channel, and an argument of the axis is one value for it. */
#ifndef FASTACT_FUSED_H
#define FASTACT_FUSED_H

#include "driver.h"


enum { FASTACT_ARRAY, FASTACT_CHANNEL, FASTACT_VALUE, FASTACT_SUM, FASTACT_RANDOM };

typedef struct {
    fastact_job job;
    int role[FASTACT_ARGS];
    ptrdiff_t outer, channel, inner;
    ptrdiff_t width;   /* columns of the arrays as they are taken; narrow rows several at a time */
    ptrdiff_t copies;  /* rows in one of them */
    ptrdiff_t columns; /* of a task */
    ptrdiff_t block;   /* rows of a task, as they are taken */
    ptrdiff_t together; /* that a kernel takes at a time, where a task has all columns */
    int nsum;
    char *partial; /* of sums: for each block of rows, or each segment of a row, high and low parts */
} fastact_fused;

#define CHAINS 64     /* columns of such a sum */
#define TOGETHER 8192 /* elements that a kernel takes at a time, at least, where rows are short */

/* memory of a task for each sum: values of a quad of rows, the sums and their low parts */
static ptrdiff_t fastact_sum_bytes(const fastact_fused *f, ptrdiff_t columns)
{
    return fastact_over((FASTACT_QUAD + 2) * columns * f->job.slot->compute, VECTOR) * VECTOR;
}

/* one block of rows, and the columns from `first` on; where they are all columns, several rows at a time */
static void fastact_columns_task(void *context, ptrdiff_t index)
{
    fastact_fused *f = (fastact_fused *)context;
    fastact_job *job = &f->job;
    const ptrdiff_t size = job->slot->size, compute = job->slot->compute, total = job->rows * f->channel;
    const ptrdiff_t strips = fastact_over(f->width, f->columns), rows = fastact_over(total, f->width);
    const ptrdiff_t block = index / strips, first = index % strips * f->columns;
    const ptrdiff_t columns = fastact_least(f->columns, f->width - first), row = columns * compute;
    const ptrdiff_t stop = fastact_least((block + 1) * f->block, rows), many = strips == 1 ? f->together : 1;
    char *at[FASTACT_ARGS], *memory = NULL, *sums[FASTACT_ARGS];
    if (f->nsum) {
        memory = fastact_scratch((size_t)(f->nsum * fastact_sum_bytes(f, f->columns)));
        if (!memory) {
            job->failed = true;
            return;
        }
    }
    for (int j = 0, s = 0; j < job->narg; j++)
        if (f->role[j] == FASTACT_SUM) {
            sums[j] = memory + s++ * fastact_sum_bytes(f, f->columns);
            memset(sums[j] + FASTACT_QUAD * row, 0, (size_t)(2 * row));
        }
    for (ptrdiff_t r = block * f->block; r < stop; r += many) {
        const ptrdiff_t q = f->nsum ? r % FASTACT_QUAD : 0, start = r * f->width + first;
        const ptrdiff_t all = fastact_least(many, stop - r) * columns, n = fastact_least(all, total - start);
        for (int j = 0; j < job->narg; j++)
            at[j] = f->role[j] == FASTACT_ARRAY     ? job->data[j] + start * size
                    : f->role[j] == FASTACT_CHANNEL ? job->data[j] + first * compute
                    : f->role[j] == FASTACT_SUM     ? sums[j] + q * row
                                                    : job->data[j];
        if (n > 0)
            fastact_span(job, at, NULL, n, start);
        if (!f->nsum || (r + many < stop && (r + many) % FASTACT_QUAD))
            continue;
        for (int j = 0; j < job->narg; j++)
            if (f->role[j] == FASTACT_SUM) {
                /* what is missing in a quad counts as 0 */
                const ptrdiff_t had = q * row + (n > 0 ? n : 0) * compute;
                const char *v = sums[j];
                memset(sums[j] + had, 0, (size_t)(FASTACT_QUAD * row - had));
                const void *values[FASTACT_QUAD] = {v, v + row, v + 2 * row, v + 3 * row};
                fastact_add_quad((int)compute, sums[j] + 4 * row, sums[j] + 5 * row, values, columns);
            }
    }
    for (int j = 0, s = 0; j < job->narg; j++)
        if (f->role[j] == FASTACT_SUM) {
            char *to = f->partial + (block * f->nsum + s++) * 2 * f->width * compute + first * compute;
            memcpy(to, sums[j] + FASTACT_QUAD * row, (size_t)row);
            memcpy(to + f->width * compute, sums[j] + (FASTACT_QUAD + 1) * row, (size_t)row);
        }
    if (job->stream)
        fastact_streamed();
}

/* one segment of a row of `inner` elements; job->task segments at a time */
static void fastact_segment(fastact_fused *f, ptrdiff_t index, char *memory)
{
    fastact_job *job = &f->job;
    const ptrdiff_t size = job->slot->size, compute = job->slot->compute, piece = f->columns;
    const ptrdiff_t segments = fastact_over(f->inner, FASTACT_SEGMENT), row = index / segments;
    const ptrdiff_t first = index % segments * FASTACT_SEGMENT, stop = fastact_least(first + FASTACT_SEGMENT, f->inner);
    const ptrdiff_t strip = piece * compute + VECTOR, width = CHAINS * compute;
    char *at[FASTACT_ARGS], blocks[FASTACT_ARGS * VECTOR + VECTOR], *block = fastact_aligned(blocks), *sums[FASTACT_ARGS];
    char *channels = memory + f->nsum * (strip + 4 * width);
    for (int j = 0, s = 0; j < job->narg; j++) {
        at[j] = job->data[j];
        if (f->role[j] == FASTACT_CHANNEL) {
            fastact_fill(block, job->data[j] + row % f->channel * compute, compute);
            at[j] = block;
            if (j < job->slot->nin) {
                /* an input lies along the row: as many copies as a piece has elements */
                at[j] = channels;
                for (ptrdiff_t i = 0; i < fastact_over(fastact_least(piece, stop - first) * compute, VECTOR); i++)
                    memcpy(channels + i * VECTOR, block, VECTOR);
                channels += piece * compute + VECTOR;
            }
            block += VECTOR;
        } else if (f->role[j] == FASTACT_SUM) {
            /* values of a piece; high and low parts of a block and of the segment */
            sums[j] = memory + s++ * (strip + 4 * width);
            memset(sums[j] + strip, 0, (size_t)(4 * width));
            at[j] = sums[j];
        }
    }
    for (ptrdiff_t i = first; i < stop; i += piece) {
        const ptrdiff_t n = fastact_least(piece, stop - i), start = row * f->inner + i;
        for (int j = 0; j < job->narg; j++)
            if (f->role[j] == FASTACT_ARRAY)
                at[j] = job->data[j] + start * size;
        fastact_span(job, at, NULL, n, start);
        for (int j = 0; j < job->narg; j++)
            if (f->role[j] == FASTACT_SUM) {
                char *v = sums[j], *s = v + strip, *high = s + 2 * width;
                const ptrdiff_t padded = fastact_over(n, FASTACT_QUAD * CHAINS) * FASTACT_QUAD * CHAINS;
                if (padded > n)
                    memset(v + n * compute, 0, (size_t)((padded - n) * compute));
                for (ptrdiff_t k = 0; k < padded; k += FASTACT_QUAD * CHAINS) {
                    const void *values[FASTACT_QUAD];
                    for (ptrdiff_t q = 0; q < FASTACT_QUAD; q++)
                        values[q] = v + (k + q * CHAINS) * compute;
                    fastact_add_quad((int)compute, s, s + width, values, CHAINS);
                }
                /* a block of CHAINS rows is a whole number of pieces */
                if ((i + n - first) % (FASTACT_BLOCK * CHAINS) == 0 || i + n == stop) {
                    if (i + n - first <= FASTACT_BLOCK * CHAINS)
                        memcpy(high, s, (size_t)(2 * width));
                    else
                        fastact_add_pair((int)compute, high, high + width, s, s + width, CHAINS);
                    memset(s, 0, (size_t)(2 * width));
                }
            }
    }
    for (int j = 0, s = 0; j < job->narg; j++)
        if (f->role[j] == FASTACT_SUM) {
            char *high = sums[j] + strip + 2 * width, *to = f->partial + (index * f->nsum + s++) * 2 * compute;
            fastact_fold((int)compute, high, high + width, CHAINS);
            memcpy(to, high, (size_t)compute);
            memcpy(to + compute, high + width, (size_t)compute);
        }
}

static void fastact_segments_task(void *context, ptrdiff_t index)
{
    fastact_fused *f = (fastact_fused *)context;
    const ptrdiff_t all = f->outer * f->channel * fastact_over(f->inner, FASTACT_SEGMENT);
    const ptrdiff_t stop = fastact_least((index + 1) * f->job.task, all);
    const ptrdiff_t compute = f->job.slot->compute, piece = f->columns * compute + VECTOR;
    char *memory = fastact_scratch((size_t)(f->nsum * (piece + 4 * CHAINS * compute) + f->job.slot->nin * piece));
    if (!memory) {
        f->job.failed = true;
        return;
    }
    for (ptrdiff_t i = index * f->job.task; i < stop; i++)
        fastact_segment(f, i, memory);
    if (f->job.stream)
        fastact_streamed();
}

/* The partial sums of sum number s to one value for each channel. -1 if there is no memory. */
static int fastact_combine(const fastact_fused *f, int s, char *to)
{
    const ptrdiff_t compute = f->job.slot->compute, channel = f->channel * compute;
    const int size = (int)compute;
    char *high = f->partial + s * 2 * f->width * compute, *low = high + f->width * compute, *own = NULL;
    if (f->inner == 1) {
        const ptrdiff_t blocks = fastact_over(fastact_over(f->job.rows * f->channel, f->width), f->block);
        const ptrdiff_t bytes = f->width * compute;
        for (ptrdiff_t b = 1; b < blocks; b++) {
            char *next = f->partial + (b * f->nsum + s) * 2 * bytes;
            fastact_add_pair(size, high, low, next, next + bytes, f->width);
        }
        for (ptrdiff_t k = 1; k < f->copies; k++)
            fastact_add_pair(size, high, low, high + k * channel, low + k * channel, f->channel);
    } else {
        const ptrdiff_t segments = fastact_over(f->inner, FASTACT_SEGMENT);
        own = high = (char *)calloc(2, (size_t)channel);
        if (!own)
            return -1;
        low = high + channel;
        for (ptrdiff_t c = 0; c < f->channel; c++)
            for (ptrdiff_t i = 0; i < f->outer * segments; i++) {
                const ptrdiff_t unit = (i / segments * f->channel + c) * segments + i % segments;
                const char *next = f->partial + (unit * f->nsum + s) * 2 * compute;
                if (i == 0) {
                    memcpy(high + c * compute, next, (size_t)compute);
                    memcpy(low + c * compute, next + compute, (size_t)compute);
                } else {
                    fastact_add_pair(size, high + c * compute, low + c * compute, next, next + compute, 1);
                }
            }
    }
    fastact_total(size, to, high, low, f->channel);
    free(own);
    return 0;
}

/* How many rows of so many columns are taken as one: few columns, or not a whole number of vectors, cost more. */
static ptrdiff_t fastact_side_by_side(ptrdiff_t columns)
{
    const ptrdiff_t even = columns & -columns, whole = even >= 16 ? 1 : 16 / even;
    return columns < 512 || (whole > 1 && columns <= 4096) ? whole * fastact_over(512, columns * whole) : 1;
}

/* whether a stage reads an input in whose place an earlier one has written an output */
static bool fastact_reads_late(const fastact_job *job)
{
    const fastact_resolved *r = job->resolved;
    const int nin = job->slot->nin, first_out = nin + job->slot->nparam;
    for (int s = 0; s < r->nstage; s++)
        for (int k = 0; k < r->stages[s].narg; k++) {
            const int out = r->stages[s].place[k];
            if (out < first_out || out >= job->narg)
                continue;
            for (int t = s + 1; t < r->nstage; t++)
                for (int i = 0; i < r->stages[t].narg; i++)
                    if (r->stages[t].place[i] < first_out && job->data[r->stages[t].place[i]] == job->data[out])
                        return true;
        }
    return false;
}

/* whether outputs of so many elements are worth going past the cache; not in the place of an input */
static bool fastact_fused_streams(const fastact_fused *f, ptrdiff_t elements)
{
    const fastact_job *job = &f->job;
    const int first_out = job->slot->nin + job->slot->nparam;
    ptrdiff_t bytes = 0;
    for (int j = first_out; j < job->narg; j++) {
        if (f->role[j] != FASTACT_ARRAY)
            continue;
        bytes += elements * job->slot->size;
        for (int i = 0; i < first_out; i++)
            if (f->role[i] == FASTACT_ARRAY && job->data[i] == job->data[j])
                return false;
    }
    return bytes >= fastact_settings.stream_min;
}

/* Runs f: job.data, roles, outer, channel, inner are given; every argument of the axis is `channel` elements as kernels
 * take them, every parameter of one value a filled block. Sets job.failed if there is no memory; else the caller takes
 * its sums by fastact_combine. In any case it frees `partial` and `repeated`. */
static void fastact_run_fused(fastact_fused *f, char **repeated)
{
    fastact_job *job = &f->job;
    const ptrdiff_t compute = job->slot->compute, elements = f->outer * f->channel * f->inner;
    int threads = fastact_threads_of(elements, job->resolved);
    bool along = false;
    size_t bytes;
    job->failed = false;
    job->mask = NULL;
    job->hold = fastact_reads_late(job);
    job->direct = job->slot->size == compute && !job->hold;
    job->stream = job->direct && fastact_fused_streams(f, elements);
    f->nsum = 0;
    f->partial = NULL;
    *repeated = NULL;
    for (int j = 0; j < job->narg; j++) {
        along = along || f->role[j] == FASTACT_CHANNEL || f->role[j] == FASTACT_SUM;
        f->nsum += f->role[j] == FASTACT_SUM;
    }
    if (!along) {
        /* one row, cut anywhere */
        f->outer = f->inner = 1;
        f->channel = elements;
    }
    for (int j = 0; j < job->narg; j++) {
        job->one[j] = f->role[j] == FASTACT_VALUE || (f->role[j] == FASTACT_CHANNEL && f->inner > 1 && j >= job->slot->nin);
        job->own[j] = f->role[j] == FASTACT_SUM || f->role[j] == FASTACT_RANDOM || (f->role[j] == FASTACT_CHANNEL && !job->one[j]);
        job->step[j] = f->role[j] == FASTACT_ARRAY ? job->slot->size : compute;
    }
    if (f->inner > 1) {
        const ptrdiff_t units = f->outer * f->channel * fastact_over(f->inner, FASTACT_SEGMENT);
        const ptrdiff_t each = fastact_least(f->inner, FASTACT_SEGMENT);
        f->columns = CACHED / compute / CHAINS * CHAINS / FASTACT_QUAD * FASTACT_QUAD;
        f->columns = f->columns > 1024 ? 1024 : f->columns;
        job->task = fastact_least(fastact_over(job->resolved->chunk, each), fastact_over(units, threads));
        bytes = (size_t)(units * f->nsum * 2 * compute);
        if (bytes && !(f->partial = (char *)malloc(bytes))) {
            job->failed = true;
            return;
        }
        fastact_parallel_for(fastact_segments_task, f, fastact_over(units, job->task), threads);
        return;
    }
    job->rows = f->outer;
    f->copies = along ? fastact_side_by_side(f->channel) : 1;
    f->width = f->channel * f->copies;
    const ptrdiff_t rows = fastact_over(job->rows * f->channel, f->width);
    f->block = FASTACT_BLOCK;
    f->columns = !along ? job->resolved->chunk : f->nsum ? 1024 : TOGETHER;
    if (threads > 1 && !f->nsum && along) {
        f->block = fastact_over(rows, 4 * threads);
        f->block = f->block > FASTACT_BLOCK ? FASTACT_BLOCK : f->block;
    }
    /* with sums blocks are as they are; short strips cost more calls */
    while (threads > 1 && f->columns > 128 && fastact_over(rows, f->block) * fastact_over(f->width, f->columns) < threads)
        f->columns /= 2;
    /* the more at a time, the fewer calls, and ends that are not aligned */
    f->together = 1;
    if (f->width <= f->columns) {
        const ptrdiff_t most = fastact_over(job->stream ? TOGETHER : CACHED / compute, f->width);
        f->together = f->nsum ? FASTACT_QUAD : fastact_least(fastact_least(f->block, rows), most);
    }
    if (f->copies * f->together > 1) {
        int many = 0;
        for (int j = 0; j < job->narg; j++)
            many += f->role[j] == FASTACT_CHANNEL;
        if (many) {
            /* no more than there are rows */
            const ptrdiff_t channel = f->channel * compute;
            const ptrdiff_t all = fastact_least(f->copies * f->together, job->rows) * channel;
            char *to = *repeated = (char *)malloc((size_t)(many * all));
            if (!to) {
                job->failed = true;
                return;
            }
            for (int j = 0; j < job->narg; j++)
                if (f->role[j] == FASTACT_CHANNEL) {
                    memcpy(to, job->data[j], (size_t)channel);
                    for (ptrdiff_t done = channel; done < all; done *= 2)
                        memcpy(to + done, to, (size_t)fastact_least(done, all - done));
                    job->data[j] = to;
                    to += all;
                }
        }
    }
    bytes = (size_t)(fastact_over(rows, f->block) * f->nsum * 2 * f->width * compute);
    if (bytes && !(f->partial = (char *)malloc(bytes))) {
        job->failed = true;
        return;
    }
    fastact_parallel_for(fastact_columns_task, f, fastact_over(rows, f->block) * fastact_over(f->width, f->columns), threads);
}

/* ---- rows that lie apart: halves of an array, say. Nothing lies along an axis, and there are no sums. */

#define FORESEEN 64 /* lines of a row that are asked for beforehand, and how far, in lines */
#define NARROW 1024 /* bytes of a row, below which too many stores past the cache are parts of lines */
#define ENDS 64 /* pieces of rows that are taken together */

/* What of rows is less than a vector: too short for a kernel, or before the outputs are aligned. Together in one tile. */
typedef struct {
    const fastact_job *job;
    int pieces;
    ptrdiff_t n;
    ptrdiff_t count[ENDS];
    char *to[ENDS][FASTACT_OUTS];
    char *tile; /* TILE elements of each argument */
} fastact_ends;

/* less than two vectors of elements of 4 or 8 bytes: a call of memcpy takes longer */
static inline void fastact_copy_end(char *to, const char *from, ptrdiff_t bytes, bool stream)
{
    ptrdiff_t i = 0;
#if defined(__SSE2__)
    if (stream && !((uintptr_t)to & 15))
        for (; i + 16 <= bytes; i += 16)
            _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
#else
    (void)stream;
#endif
    for (; i + 16 <= bytes; i += 16)
        memcpy(to + i, from + i, 16);
    for (; i < bytes; i += 4)
        memcpy(to + i, from + i, 4);
}

static void fastact_finish_ends(fastact_ends *e)
{
    const fastact_job *job = e->job;
    const fastact_slot *slot = job->slot;
    const int first_out = slot->nin + slot->nparam;
    const ptrdiff_t width = TILE * slot->compute, padded = fastact_over(e->n, slot->granule) * slot->granule;
    char *args[FASTACT_ARGS + FASTACT_TEMPS];
    if (!e->n)
        return;
    for (int j = 0; j < job->narg + FASTACT_TEMPS; j++) {
        args[j] = j < job->narg && job->one[j] ? job->data[j] : e->tile + j * width;
        if (j < slot->nin)
            memset(args[j] + e->n * slot->compute, 0, (size_t)((padded - e->n) * slot->compute));
    }
    fastact_run_stages(job, args, padded, 0, 0, NULL);
    for (ptrdiff_t i = 0, at = 0; i < e->pieces; i++) {
        const ptrdiff_t bytes = e->count[i] * slot->compute;
        for (int j = first_out; j < job->narg; j++) {
            /* the end of a row and the beginning of the next are one line, if they leave together */
            fastact_copy_end(e->to[i][j - first_out], args[j] + at, bytes, job->stream);
        }
        at += bytes;
    }
    e->pieces = 0;
    e->n = 0;
}

static void fastact_add_end(fastact_ends *e, char *const *at, ptrdiff_t n)
{
    const fastact_job *job = e->job;
    const ptrdiff_t compute = job->slot->compute;
    const int first_out = job->slot->nin + job->slot->nparam;
    if (!n)
        return;
    if (e->pieces == ENDS || e->n + n > TILE)
        fastact_finish_ends(e);
    for (int j = 0; j < job->narg; j++) {
        if (j >= first_out)
            e->to[e->pieces][j - first_out] = at[j];
        else if (!job->one[j])
            fastact_copy_end(e->tile + (j * TILE + e->n) * compute, at[j], n * compute, false);
    }
    e->count[e->pieces++] = n;
    e->n += n;
}

/* The hardware's prefetchers start anew in every row: the lines of a later one, of `bytes`, are asked for beforehand. */
static inline void fastact_foresee(const fastact_job *job, char *const *at, ptrdiff_t ahead, ptrdiff_t bytes)
{
    const ptrdiff_t lines = fastact_least(FORESEEN, fastact_over(bytes, VECTOR));
    for (int j = 0; j < job->narg; j++)
        if (!job->one[j] && (j < job->slot->nin || !job->stream))
            for (ptrdiff_t line = 0; line < lines; line++)
                FASTACT_PREFETCH(at[j] + ahead * job->row_step[j] + line * VECTOR);
}

/* f->block rows and f->columns of their columns */
static void fastact_apart_task(void *context, ptrdiff_t index)
{
    fastact_fused *f = (fastact_fused *)context;
    const fastact_job *job = &f->job;
    const ptrdiff_t size = job->slot->size, granule = job->slot->granule, strips = fastact_over(f->channel, f->columns);
    const ptrdiff_t first = index % strips * f->columns, n = fastact_least(f->columns, f->channel - first);
    const ptrdiff_t low = index / strips * f->block, high = fastact_least(low + f->block, f->outer);
    const ptrdiff_t ahead = fastact_over(FORESEEN * VECTOR, n * size);
    const bool one = job->resolved->nstage == 1;
    char tile[(FASTACT_ARGS + FASTACT_TEMPS) * TILE * 8 + VECTOR], *at[FASTACT_ARGS], *args[FASTACT_ARGS];
    fastact_ends ends;
    ends.job = job;
    ends.pieces = 0;
    ends.n = 0;
    ends.tile = fastact_aligned(tile);
    for (ptrdiff_t r = low; r < high; r++) {
        ptrdiff_t head = 0, body;
        int64_t flags = 0;
        for (int j = 0; j < job->narg; j++)
            at[j] = job->one[j] ? job->data[j] : job->data[j] + r * job->row_step[j] + first * size;
        if (!job->direct) {
            fastact_span(job, at, NULL, n, 0);
            continue;
        }
        if (r + ahead < high)
            fastact_foresee(job, at, ahead, n * size);
        if (job->stream && one) {
            head = fastact_head(job, at);
            flags = head >= 0 ? FASTACT_STREAM : 0;
            head = fastact_least(head < 0 ? 0 : head, n);
        }
        body = (n - head) / granule * granule;
        fastact_add_end(&ends, at, head);
        fastact_moved(job, args, at, head);
        if (body && one && (flags || !job->stream))
            fastact_run_stages(job, args, body, 0, flags, NULL);
        else if (body)
            fastact_pieces(job, args, body, 0, 0);
        fastact_moved(job, args, at, head + body);
        fastact_add_end(&ends, args, n - head - body);
    }
    fastact_finish_ends(&ends);
    if (job->stream)
        fastact_streamed();
}

/* Runs f over f->outer rows of f->channel elements: job.data, row_step (bytes) and roles, arrays or values, are given. */
static void fastact_run_apart(fastact_fused *f)
{
    fastact_job *job = &f->job;
    const ptrdiff_t elements = f->outer * f->channel, chunk = job->resolved->chunk;
    const int threads = fastact_threads_of(elements, job->resolved);
    job->mask = NULL;
    job->failed = false;
    for (int j = 0; j < job->narg; j++) {
        job->one[j] = f->role[j] == FASTACT_VALUE;
        job->own[j] = false;
        job->step[j] = job->slot->size;
    }
    job->hold = fastact_reads_late(job);
    job->direct = job->slot->size == job->slot->compute && !job->hold;
    job->stream = job->direct && f->channel * job->slot->size >= NARROW && fastact_fused_streams(f, elements);
    f->columns = fastact_least(chunk, f->channel);
    f->block = fastact_least(f->outer, chunk / f->columns);
    if (threads > 1)
        f->block = fastact_least(f->block, fastact_over(f->outer, threads));
    while (threads > 1 && f->columns > 1024 && fastact_over(f->outer, f->block) * fastact_over(f->channel, f->columns) < threads)
        f->columns = fastact_over(f->columns / 2, job->slot->granule) * job->slot->granule;
    fastact_parallel_for(fastact_apart_task, f, fastact_over(f->outer, f->block) * fastact_over(f->channel, f->columns), threads);
}

#endif
