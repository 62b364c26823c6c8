/* Gradients of norms: kernels over rows that add to sums over rows as well.
 *
 * A task is a block of FASTACT_BLOCK rows, whose sums start afresh: the order of additions is that of sums.h, one row of
 * the array a row there, however narrow. The blocks' pairs are then added in their order, strips of columns by threads. */
#ifndef FASTACT_NORMS_H
#define FASTACT_NORMS_H

#include "driver.h"

#define FASTACT_GRADIENT_SUMS 2
#define STRIP 512 /* columns whose sums a task combines */

typedef struct {
    fastact_job job;
    int nsum;       /* the last arguments */
    char *partial;  /* for each block of rows, and each sum, high and low parts */
    char *sums[FASTACT_GRADIENT_SUMS]; /* n elements each, as kernels compute */
} fastact_gradients;

static char *fastact_gradients_pair(const fastact_gradients *f, ptrdiff_t block, int s)
{
    return f->partial + (block * f->nsum + s) * 2 * f->job.n * f->job.slot->compute;
}

static void fastact_gradients_block(void *context, ptrdiff_t block)
{
    fastact_gradients *f = (fastact_gradients *)context;
    fastact_job *job = &f->job;
    const ptrdiff_t low = block * FASTACT_BLOCK;
    const int first = job->narg - f->nsum;
    char *data[FASTACT_ARGS];
    for (int j = 0; j < first; j++)
        data[j] = job->data[j] + low * job->row_step[j];
    for (int s = 0; s < f->nsum; s++)
        data[first + s] = fastact_gradients_pair(f, block, s);
    memset(data[first], 0, (size_t)(2 * f->nsum * job->n * job->slot->compute));
    fastact_call_rows(job, data, job->row_step, low, fastact_least(FASTACT_BLOCK, job->rows - low),
                      job->stream ? FASTACT_STREAM : 0);
}

static void fastact_gradients_strip(void *context, ptrdiff_t index)
{
    fastact_gradients *f = (fastact_gradients *)context;
    const fastact_job *job = &f->job;
    const ptrdiff_t compute = job->slot->compute, strips = fastact_over(job->n, STRIP);
    const ptrdiff_t first = index % strips * STRIP, n = fastact_least(STRIP, job->n - first);
    const ptrdiff_t at = first * compute, apart = job->n * compute, blocks = fastact_over(job->rows, FASTACT_BLOCK);
    const int s = (int)(index / strips);
    char *high = fastact_gradients_pair(f, 0, s) + at;
    for (ptrdiff_t b = 1; b < blocks; b++) {
        const char *next = fastact_gradients_pair(f, b, s) + at;
        fastact_add_pair((int)compute, high, high + apart, next, next + apart, n);
    }
    fastact_total((int)compute, f->sums[s] + at, high, high + apart, n);
}

/* Runs the gradient of rows > 0 and n > 0; sets job.failed if there is no memory. */
static void fastact_run_gradients(fastact_gradients *f)
{
    fastact_job *job = &f->job;
    const ptrdiff_t blocks = fastact_over(job->rows, FASTACT_BLOCK), strips = f->nsum * fastact_over(job->n, STRIP);
    const int threads = fastact_threads_for(job->rows * job->n, job->resolved->parallel_min);
    job->failed = false;
    f->partial = (char *)malloc((size_t)(blocks * 2 * f->nsum * job->n * job->slot->compute));
    if (!f->partial) {
        job->failed = true;
        return;
    }
    fastact_parallel_for(fastact_gradients_block, f, blocks, threads);
    fastact_parallel_for(fastact_gradients_strip, f, strips, blocks < 16 ? 1 : threads);
    free(f->partial);
}

#endif
