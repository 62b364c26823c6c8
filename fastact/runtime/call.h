/* The calling convention of every CPU kernel; fastact/spec/call.py says what it means. */
#ifndef FASTACT_CALL_H
#define FASTACT_CALL_H

#include <stdint.h>

#define FASTACT_ARGS 16
#define FASTACT_STREAM 1
#define FASTACT_VALUE_ONLY 2
#define FASTACT_GREATEST 4
#define FASTACT_SUMS 8
#define FASTACT_LAST 16
#define FASTACT_CAUSAL 32
#define FASTACT_SEGMENT 65536

typedef struct {
    char *data[FASTACT_ARGS];
    int64_t row_step[FASTACT_ARGS];
    int64_t step[FASTACT_ARGS];
    int64_t rows, n;
    int64_t row0, col0;
    const double *scalars;
    uint64_t seed, offset;
    int64_t flags;
    const char *ahead[2];
} fastact_call;

typedef void (*fastact_kernel)(const fastact_call *call);

#endif
