/* The element of each row at its label: reading it, and writing it with zeros beside it. Nothing is computed.
 *
 * Arrays are contiguous, (outer, classes, inner), their rows along the middle; labels and values are (outer, inner). What is
 * zeroed is still in the cache when values are put in, so that memory is written once. */
#ifndef FASTACT_LABELS_H
#define FASTACT_LABELS_H

#include "driver.h"

#define LABELS_PIECE 32768 /* bytes that are zeroed at a time, where rows allow it */
#define LABELS_LINES 8     /* of a class that are zeroed at a time, at least: with so many classes few are written twice */
#define LABELS_TASK 4096   /* labels of a task that reads */

typedef struct {
    char *x;
    char *values;
    const int64_t *labels; /* negative: the row has no value */
    ptrdiff_t outer, classes, inner, size;
    ptrdiff_t planes, width; /* of a piece: outer indices, inner indices; all inner ones where planes > 1 */
    ptrdiff_t pieces, task;
} fastact_labelled;

/* Makes labels to be ignored -1; how many there are of the others, or -1 if one is none of the classes. */
FASTACT_CLONES static ptrdiff_t fastact_check_labels(int64_t *labels, ptrdiff_t n, int64_t classes, bool ignores,
                                                     int64_t ignored)
{
    ptrdiff_t skipped = 0;
    int64_t bad = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const int64_t label = labels[i], skip = ignores & (label == ignored);
        bad |= ((label < 0) | (label >= classes)) & !skip;
        skipped += skip;
        labels[i] = skip ? -1 : label;
    }
    return bad ? -1 : n - skipped;
}

/* n rows, `row` elements from one to the next, classes `apart` */
#define FASTACT_MOVE_LABELS(T)                                                                                         \
    static void fastact_move_##T(void *x_, void *values_, const int64_t *labels, ptrdiff_t n, ptrdiff_t row,           \
                                 ptrdiff_t apart, bool put)                                                            \
    {                                                                                                                  \
        T *x = (T *)x_, *values = (T *)values_;                                                                        \
        for (ptrdiff_t i = 0; i < n; i++, x += row) {                                                                  \
            if (labels[i] < 0)                                                                                         \
                continue;                                                                                              \
            if (put)                                                                                                   \
                x[labels[i] * apart] = values[i];                                                                      \
            else                                                                                                       \
                values[i] = x[labels[i] * apart];                                                                      \
        }                                                                                                              \
    }
FASTACT_MOVE_LABELS(uint8_t)
FASTACT_MOVE_LABELS(uint16_t)
FASTACT_MOVE_LABELS(uint32_t)
FASTACT_MOVE_LABELS(uint64_t)

/* rows `low` to `high`, of all outer and inner indices, that have one outer index or inner = 1 */
static void fastact_move_labels(const fastact_labelled *f, ptrdiff_t low, ptrdiff_t high, bool put)
{
    const ptrdiff_t o = low / f->inner, row = f->inner == 1 ? f->classes : 1;
    char *x = f->x + (o * f->classes * f->inner + low % f->inner) * f->size, *values = f->values + low * f->size;
    (f->size == 8   ? fastact_move_uint64_t
     : f->size == 4 ? fastact_move_uint32_t
     : f->size == 2 ? fastact_move_uint16_t
                    : fastact_move_uint8_t)(x, values, f->labels + low, high - low, row, f->inner, put);
}

/* values of rows without a label stay as they are */
static void fastact_at_labels_task(void *context, ptrdiff_t index)
{
    const fastact_labelled *f = (const fastact_labelled *)context;
    const ptrdiff_t high = fastact_least((index + 1) * LABELS_TASK, f->outer * f->inner);
    for (ptrdiff_t low = index * LABELS_TASK; low < high;) {
        const ptrdiff_t stop = f->inner == 1 ? high : fastact_least((low / f->inner + 1) * f->inner, high);
        fastact_move_labels(f, low, stop, false);
        low = stop;
    }
}

static void fastact_piece_of_labels(const fastact_labelled *f, ptrdiff_t index)
{
    const ptrdiff_t strips = fastact_over(f->inner, f->width), first = index % strips * f->width;
    const ptrdiff_t width = fastact_least(f->width, f->inner - first), low = index / strips * f->planes;
    const ptrdiff_t high = fastact_least(low + f->planes, f->outer), plane = f->classes * f->inner * f->size;
    if (width == f->inner)
        memset(f->x + low * plane, 0, (size_t)((high - low) * plane));
    else
        for (ptrdiff_t c = 0; c < f->classes; c++)
            memset(f->x + low * plane + (c * f->inner + first) * f->size, 0, (size_t)(width * f->size));
    if (f->inner == 1)
        fastact_move_labels(f, low, high, true);
    else
        for (ptrdiff_t o = low; o < high; o++)
            fastact_move_labels(f, o * f->inner + first, o * f->inner + first + width, true);
}

static void fastact_put_labels_task(void *context, ptrdiff_t index)
{
    const fastact_labelled *f = (const fastact_labelled *)context;
    const ptrdiff_t stop = fastact_least((index + 1) * f->task, f->pieces);
    for (ptrdiff_t piece = index * f->task; piece < stop; piece++)
        fastact_piece_of_labels(f, piece);
}

/* outer, classes, inner > 0; threads pay from parallel_min bytes on, and take `chunk` of them at a time */
static void fastact_run_labels(fastact_labelled *f, bool put, ptrdiff_t parallel_min, ptrdiff_t chunk)
{
    const ptrdiff_t plane = f->classes * f->inner * f->size, column = f->classes * f->size;
    int threads;
    if (!put) {
        /* a line of memory for each label */
        threads = fastact_threads_for(f->outer * f->inner * VECTOR, parallel_min, chunk);
        fastact_parallel_for(fastact_at_labels_task, f, fastact_over(f->outer * f->inner, LABELS_TASK), threads);
        return;
    }
    threads = fastact_threads_for(f->outer * plane, parallel_min, chunk);
    f->planes = plane < LABELS_PIECE ? LABELS_PIECE / plane : 1;
    f->width = f->inner;
    if (plane > 2 * LABELS_PIECE) {
        const ptrdiff_t line = VECTOR / f->size, lines = LABELS_PIECE / (column * line);
        f->width = fastact_least((lines > LABELS_LINES ? lines : LABELS_LINES) * line, f->inner);
    }
    f->pieces = fastact_over(f->outer, f->planes) * fastact_over(f->inner, f->width);
    f->task = fastact_over(chunk, f->planes * column * f->width);
    f->task = threads > 1 ? fastact_least(f->task, fastact_over(f->pieces, threads)) : f->pieces;
    fastact_parallel_for(fastact_put_labels_task, f, fastact_over(f->pieces, f->task), threads);
}

#endif
