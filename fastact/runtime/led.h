/* Functions over rows of arrays that broadcast to each other: an index of other axes leads to each row.
 *
 * Rows along the last of these axes are a run, in which rows are as far apart as the job says. Only runs are computed at
 * once, so a bias or a mask that broadcasts is read where it is. A causal mask counts rows by their place in the run. */
#ifndef FASTACT_LED_H
#define FASTACT_LED_H

#include "driver.h"

#define FASTACT_LED_AXES 64
#define FASTACT_LED_ARGS 4

typedef struct {
    fastact_job job; /* of the first run */
    int axes;
    ptrdiff_t length[FASTACT_LED_AXES];
    ptrdiff_t apart[FASTACT_LED_AXES][FASTACT_LED_ARGS], mask_apart[FASTACT_LED_AXES]; /* bytes */
} fastact_led;

/* Axes whose elements lie as those of one axis become one; not the one along which a causal mask counts. */
static void fastact_led_join(fastact_led *f)
{
    const bool causal = f->job.flags & FASTACT_CAUSAL;
    int found = 0;
    for (int d = 0; d < f->axes; d++) {
        const bool kept = causal && d == f->axes - 1;
        bool joined = !kept && found > 0 && f->mask_apart[found - 1] == f->mask_apart[d] * f->length[d];
        if (!kept && f->length[d] == 1)
            continue;
        for (int j = 0; j < f->job.narg; j++)
            joined = joined && f->apart[found - 1][j] == f->apart[d][j] * f->length[d];
        if (joined)
            found--;
        f->length[found] = f->length[d] * (joined ? f->length[found] : 1);
        f->mask_apart[found] = f->mask_apart[d];
        memmove(f->apart[found], f->apart[d], sizeof(f->apart[d]));
        found++;
    }
    if (!found) {
        f->length[0] = 1;
        f->mask_apart[0] = 0;
        memset(f->apart[0], 0, sizeof(f->apart[0]));
        found = 1;
    }
    f->axes = found;
    for (int j = 0; j < f->job.narg; j++)
        f->job.row_step[j] = f->apart[found - 1][j];
    f->job.mask_row = f->mask_apart[found - 1];
}

/* Plans a job whose steps along the rows, arrays and mask are there: its kernel's form, threads. */
static void fastact_plan_led(fastact_led *f)
{
    fastact_job *job = &f->job;
    fastact_led_join(f);
    job->rows = 1;
    for (int d = 0; d < f->axes; d++)
        job->rows *= f->length[d];
    fastact_plan_rows(job);
    if (job->flags & FASTACT_CAUSAL || (job->form == FASTACT_SIDE && f->length[f->axes - 1] * job->slot->compute < VECTOR / 2)) {
        job->stream = job->stream && job->direct;
        job->form = FASTACT_WHOLE;
    }
}

static void fastact_led_rows(void *context, ptrdiff_t index)
{
    fastact_led *f = (fastact_led *)context;
    const ptrdiff_t run = f->length[f->axes - 1];
    ptrdiff_t low = index * f->job.task, high = fastact_least(low + f->job.task, f->job.rows);
    while (low < high) {
        const ptrdiff_t first = low % run, last = fastact_least(run, first + high - low);
        ptrdiff_t left = low / run;
        fastact_job part = f->job;
        for (int d = f->axes - 2; d >= 0; d--) {
            const ptrdiff_t i = left % f->length[d];
            left /= f->length[d];
            for (int j = 0; j < part.narg; j++)
                part.data[j] += i * f->apart[d][j];
            if (part.mask)
                part.mask += i * f->mask_apart[d];
        }
        low += last - first;
        if (part.form == FASTACT_PART)
            for (ptrdiff_t row = first; row < last; row++)
                fastact_long_row_of(&part, row, f->job.threads > 1 && f->job.task == f->job.rows ? f->job.threads : 1);
        else if (part.direct)
            fastact_direct_rows(&part, first, last);
        else if (part.form == FASTACT_SIDE)
            fastact_side_rows(&part, first, last);
        else
            fastact_packed_rows(&part, first, last);
        if (part.failed)
            f->job.failed = true;
    }
}

/* Sets job.failed if there is no memory. */
static void fastact_run_led(fastact_led *f)
{
    fastact_job *job = &f->job;
    const bool causal = job->flags & FASTACT_CAUSAL;
    job->failed = false;
    job->task = job->rows;
    if (job->form == FASTACT_PART) {
        /* of few rows the parts are shared out */
        if (job->threads > 1 && job->rows >= 4 * job->threads)
            job->task = 1;
    } else if (job->threads > 1) {
        /* rows under a causal mask are of unequal length */
        job->task = fastact_least(fastact_over(job->resolved->chunk, job->n), fastact_over(job->rows, (causal ? 8 : 1) * job->threads));
        if (!job->direct) {
            const ptrdiff_t lanes = VECTOR / job->slot->compute, few = job->rows < 2 * SIDE_BLOCK * job->threads;
            const ptrdiff_t block = job->form != FASTACT_SIDE ? fastact_packed_block(job) : few ? lanes : SIDE_BLOCK;
            job->task = fastact_over(job->task, block) * block;
        }
    }
    fastact_parallel_for(fastact_led_rows, f, fastact_over(job->rows, job->task), job->threads);
}

#endif
