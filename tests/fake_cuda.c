/* A stand-in for the CUDA driver on host memory, for tests without a GPU: compiled to a shared library that
 * FASTACT_LIBCUDA names. Work is done at once, in the calling thread; every call is written down.
 *
 * Environment: FAKE_CUDA_VERSION (13000), FAKE_CUDA_DEVICES (1), FAKE_CUDA_POOLS (1), FAKE_CUDA_QUIET (nothing is
 * written down), FAKE_CUDA_FAIL, such as "cuInit=100 cuMemAllocAsync=2": calls that fail, and with which code.
 *
 * An image is text, "NAME PARAMETERS" on each line, the names those of the functions at KERNELS. Streams are any numbers.
 * The functions fake_* are for tests.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600 };
enum { CAPTURE_UNSUPPORTED = 900, DEVICES = 16, DEPTH = 32, BLOCKS = 4096 };

typedef struct {
    int device, primary;
} context;

typedef struct {
    char name[64];
    int parameters;
    void (*function)(int64_t **);
} kernel;

typedef struct {
    int64_t recorded;
    int flags;
} event;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static context primary[DEVICES], foreign[DEVICES];
static struct {
    char *address;
    size_t bytes;
    int device;
} blocks[BLOCKS];
static char *text;
static size_t used, room;
static int64_t clock_, captured = -1;
static int pid, busy, retained[DEVICES], quiet = -1;
static char fails[512];
static int go_on, in_time;
static __thread context *stack[DEPTH];
static __thread int depth, mode;

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value && *value ? atoi(value) : otherwise;
}

static void note(const char *format, ...) {
    va_list arguments;
    if (quiet < 0)
        quiet = number("FAKE_CUDA_QUIET", 0);
    if (quiet)
        return;
    pthread_mutex_lock(&mutex);
    if (room - used < 4096)
        text = realloc(text, room = 2 * room + 8192);
    va_start(arguments, format);
    used += (size_t)vsnprintf(text + used, 4096, format, arguments);
    va_end(arguments);
    text[used++] = '\n';
    text[used] = 0;
    pthread_mutex_unlock(&mutex);
}

static int failure(const char *call) {
    char wanted[80];
    const char *found;
    if (!*fails)
        return 0;
    snprintf(wanted, sizeof wanted, "%s=", call);
    found = strstr(fails, wanted);
    return found ? atoi(found + strlen(wanted)) : 0;
}

static void configure(void) {
    const char *value = getenv("FAKE_CUDA_FAIL");
    if (value)
        snprintf(fails, sizeof fails, "%s", value);
    for (int i = 0; i < DEVICES; i++) {
        primary[i] = (context){i, 1};
        foreign[i] = (context){i, 0};
    }
}

static void __attribute__((constructor)) start(void) { configure(); }

#define CALL(name)                                                                                                     \
    do {                                                                                                               \
        int code_ = quiet > 0 ? 0 : pid != getpid() ? NOT_INITIALIZED : failure(name);                                               \
        if (code_)                                                                                                     \
            return code_;                                                                                              \
    } while (0)
#define CURRENT (depth ? stack[depth - 1] : NULL)
#define IN_CONTEXT(name)                                                                                               \
    CALL(name);                                                                                                        \
    if (!CURRENT)                                                                                                      \
    return INVALID_CONTEXT

static const char *context_name(void) {
    static __thread char name[32];
    context *now = CURRENT;
    if (!now)
        return "none";
    snprintf(name, sizeof name, "%s%d", now->primary ? "primary" : "foreign", now->device);
    return name;
}

/* ---- for tests */

const char *fake_log(void) { return text ? text : ""; }

void fake_clear(void) {
    used = 0;
    if (text)
        *text = 0;
}

void fake_go_on(void) { __atomic_store_n(&go_on, 1, __ATOMIC_SEQ_CST); }
int fake_in_time(void) { return in_time; }
void fake_fail(const char *which) { snprintf(fails, sizeof fails, "%s", which); }
void fake_busy(int on) { busy = on; }
void fake_capture(int64_t stream) { captured = stream; }
int fake_depth(void) { return depth; }
int fake_mode(void) { return mode; }
int fake_retained(int device) { return retained[device]; }
void fake_push(int device) { stack[depth++] = foreign + device; }
void fake_push_primary(int device) { stack[depth++] = primary + device; }
const char *fake_context(void) { return context_name(); }

int fake_blocks(void) {
    int n = 0;
    for (int i = 0; i < BLOCKS; i++)
        n += blocks[i].address != NULL;
    return n;
}

/* Takes a capsule's struct as a consumer does, returns the sum of its float32 values and gives it back. */
double fake_consume(void *managed, int versioned) {
    struct tensor {
        float *data;
        int32_t type, id, ndim;
        uint8_t code, bits;
        uint16_t lanes;
        int64_t *shape, *strides;
        uint64_t offset;
    };
    struct plain {
        struct tensor tensor;
        void *context;
        void (*deleter)(void *);
    } *plain = managed;
    struct late {
        uint32_t major, minor;
        void *context;
        void (*deleter)(void *);
        uint64_t flags;
        struct tensor tensor;
    } *late = managed;
    struct tensor *t = versioned ? &late->tensor : &plain->tensor;
    double sum = 0;
    int64_t n = 1;
    if (t->type != 2 || t->code != 2 || t->bits != 32 || t->lanes != 1 || t->offset)
        return -1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->strides[i] != n)
            return -2;
        n *= t->shape[i];
    }
    for (int64_t i = 0; i < n; i++)
        sum += t->data[i];
    (versioned ? late->deleter : plain->deleter)(managed);
    return sum;
}

/* ---- kernels */

static void nothing(int64_t **p) { (void)p; }

static void axpy(int64_t **p) { /* n, a, x, y: y = a x + y over float64 */
    int64_t n = *p[0];
    double a;
    const double *x = (const double *)*p[2];
    double *y = (double *)*p[3];
    memcpy(&a, p[1], 8);
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void wait(int64_t **p) { /* for fake_go_on, 5 s at most */
    (void)p;
    for (int i = 0; i < 5000 && !in_time; i++) {
        usleep(1000);
        in_time = __atomic_load_n(&go_on, __ATOMIC_SEQ_CST);
    }
}

static const struct {
    const char *name;
    void (*function)(int64_t **);
} KERNELS[] = {{"nothing", nothing}, {"axpy", axpy}, {"wait", wait}};

/* ---- the driver */

int cuDriverGetVersion(int *version) {
    *version = number("FAKE_CUDA_VERSION", 13000);
    return failure("cuDriverGetVersion");
}

int cuInit(unsigned flags) {
    int code = failure("cuInit");
    if (pid && pid != getpid())
        return NOT_INITIALIZED;
    note("cuInit %u", flags);
    if (!code && number("FAKE_CUDA_DEVICES", 1) < 1)
        code = NO_DEVICE;
    if (!code)
        pid = getpid();
    return code;
}

int cuGetErrorName(int code, const char **name) {
    static const struct {
        int code;
        const char *name;
    } NAMES[] = {{1, "CUDA_ERROR_INVALID_VALUE"},   {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
                 {100, "CUDA_ERROR_NO_DEVICE"},     {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
                 {500, "CUDA_ERROR_NOT_FOUND"},     {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (NAMES[i].code == code) {
            *name = NAMES[i].name;
            return 0;
        }
    *name = NULL;
    return INVALID_VALUE;
}

int cuGetErrorString(int code, const char **string) {
    *string = code == NO_DEVICE ? "no CUDA-capable device is detected" : code == OUT_OF_MEMORY ? "out of memory" : NULL;
    return *string ? 0 : INVALID_VALUE;
}

int cuDeviceGetCount(int *count) {
    CALL("cuDeviceGetCount");
    *count = number("FAKE_CUDA_DEVICES", 1);
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    CALL("cuDeviceGet");
    *device = ordinal;
    return ordinal < 0 || ordinal >= number("FAKE_CUDA_DEVICES", 1) ? INVALID_DEVICE : 0;
}

int cuDeviceGetName(char *name, int size, int device) {
    CALL("cuDeviceGetName");
    snprintf(name, (size_t)size, "Stand-in %d", device);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALL("cuDeviceGetAttribute");
    (void)device;
    switch (attribute) {
    case 16: *value = 132; return 0;
    case 38: *value = 50 << 20; return 0;
    case 75: *value = 9; return 0;
    case 76: *value = 0; return 0;
    case 97: *value = 232448; return 0;
    case 115: *value = number("FAKE_CUDA_POOLS", 1); return 0;
    default: return INVALID_VALUE;
    }
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    CALL("cuDeviceTotalMem");
    (void)device;
    *bytes = (size_t)80 << 30;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **result, int device) {
    CALL("cuDevicePrimaryCtxRetain");
    __atomic_add_fetch(retained + device, 1, __ATOMIC_SEQ_CST);
    *result = primary + device;
    return 0;
}

int cuCtxGetCurrent(void **result) {
    CALL("cuCtxGetCurrent");
    *result = CURRENT;
    return 0;
}

int cuCtxPushCurrent_v2(void *which) {
    CALL("cuCtxPushCurrent");
    if (depth == DEPTH)
        return INVALID_CONTEXT;
    stack[depth++] = which;
    return 0;
}

int cuCtxPopCurrent_v2(void **popped) {
    CALL("cuCtxPopCurrent");
    if (!depth)
        return INVALID_CONTEXT;
    *popped = stack[--depth];
    return 0;
}

typedef struct {
    kernel kernels[16];
    int count;
} library;

int cuLibraryLoadData(void **result, const void *code, int *o, void **v, unsigned n, int *lo, void **lv, unsigned ln) {
    library *made;
    const char *line = code;
    (void)o, (void)v, (void)lo, (void)lv;
    CALL("cuLibraryLoadData");
    note("cuLibraryLoadData mode=%d", mode);
    if (n || ln)
        return INVALID_VALUE;
    made = calloc(1, sizeof *made);
    while (*line && made->count < 16) {
        kernel *k = made->kernels + made->count;
        if (sscanf(line, "%63s %d", k->name, &k->parameters) != 2) {
            free(made);
            return INVALID_IMAGE;
        }
        for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
            if (!strcmp(KERNELS[i].name, k->name))
                k->function = KERNELS[i].function;
        made->count++;
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
    *result = made;
    return 0;
}

int cuLibraryUnload(void *which) {
    CALL("cuLibraryUnload");
    note("cuLibraryUnload");
    free(which);
    return 0;
}

int cuLibraryGetKernel(void **result, void *from, const char *name) {
    library *l = from;
    CALL("cuLibraryGetKernel");
    for (int i = 0; i < l->count; i++)
        if (!strcmp(l->kernels[i].name, name)) {
            *result = l->kernels + i;
            return 0;
        }
    return NOT_FOUND;
}

int cuKernelGetParamInfo(void *which, size_t i, size_t *offset, size_t *size) {
    kernel *k = which;
    int wide = k->parameters < 0; /* one of 4 bytes */
    CALL("cuKernelGetParamInfo");
    if (i >= (size_t)abs(k->parameters))
        return INVALID_VALUE;
    *offset = (wide ? 4 : 8) * i;
    *size = wide ? 4 : 8;
    return 0;
}

int cuKernelGetFunction(void **result, void *which) {
    IN_CONTEXT("cuKernelGetFunction");
    note("cuKernelGetFunction context=%s mode=%d", context_name(), mode);
    *result = which;
    return 0;
}

int cuKernelGetAttribute(int *value, int attribute, void *which, int device) {
    CALL("cuKernelGetAttribute");
    (void)which, (void)device;
    *value = attribute == 0 ? 1024 : attribute == 1 ? 4096 : attribute == 3 ? 16 : attribute == 4 ? 32 : -1;
    return *value < 0 ? INVALID_VALUE : 0;
}

int cuKernelSetAttribute(int attribute, int value, void *which, int device) {
    CALL("cuKernelSetAttribute");
    note("cuKernelSetAttribute %s %d=%d device=%d", ((kernel *)which)->name, attribute, value, device);
    return attribute != 8 || value > 232448 ? INVALID_VALUE : 0;
}

int cuLaunchKernel(void *which, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    kernel *k = which;
    char slots[2048] = "";
    size_t n = 0;
    if (quiet > 0)
        return 0;
    IN_CONTEXT("cuLaunchKernel");
    if (extra || gz != 1 || by != 1 || bz != 1)
        return INVALID_VALUE;
    for (int i = 0; i < k->parameters; i++)
        n += (size_t)snprintf(slots + n, sizeof slots - n, " %lld", (long long)*(int64_t *)parameters[i]);
    note("cuLaunchKernel %s grid=%ux%u block=%u shared=%u stream=%lld context=%s slots=%s", k->name, gx, gy, bx, shared,
         (long long)(intptr_t)stream, context_name(), slots);
    if (k->function)
        k->function((int64_t **)parameters);
    return 0;
}

static int taken(uint64_t *address, size_t bytes) {
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].address) {
            blocks[i].address = calloc(bytes, 1);
            blocks[i].bytes = bytes;
            blocks[i].device = CURRENT->device;
            *address = (uint64_t)blocks[i].address;
            pthread_mutex_unlock(&mutex);
            return 0;
        }
    pthread_mutex_unlock(&mutex);
    return OUT_OF_MEMORY;
}

static int given_back(uint64_t address) {
    int code = INVALID_VALUE;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < BLOCKS; i++)
        if (address && (uint64_t)blocks[i].address == address) {
            free(blocks[i].address);
            blocks[i].address = NULL;
            code = 0;
        }
    pthread_mutex_unlock(&mutex);
    return code;
}

int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) {
    IN_CONTEXT("cuMemAllocAsync");
    note("cuMemAllocAsync %zu stream=%lld context=%s", bytes, (long long)(intptr_t)stream, context_name());
    return bytes ? taken(address, bytes) : INVALID_VALUE;
}

int cuMemFreeAsync(uint64_t address, void *stream) {
    IN_CONTEXT("cuMemFreeAsync");
    note("cuMemFreeAsync stream=%lld context=%s", (long long)(intptr_t)stream, context_name());
    return (int64_t)(intptr_t)stream == captured ? CAPTURE_UNSUPPORTED : given_back(address);
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    IN_CONTEXT("cuMemAlloc");
    note("cuMemAlloc %zu context=%s", bytes, context_name());
    return taken(address, bytes);
}

int cuMemFree_v2(uint64_t address) {
    IN_CONTEXT("cuMemFree");
    note("cuMemFree context=%s", context_name());
    return given_back(address);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    IN_CONTEXT("cuMemcpyHtoDAsync");
    note("cuMemcpyHtoDAsync %zu stream=%lld context=%s", bytes, (long long)(intptr_t)stream, context_name());
    memcpy((void *)to, from, bytes);
    return 0;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    IN_CONTEXT("cuMemcpyDtoHAsync");
    note("cuMemcpyDtoHAsync %zu stream=%lld context=%s", bytes, (long long)(intptr_t)stream, context_name());
    memcpy(to, (const void *)from, bytes);
    return 0;
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    IN_CONTEXT("cuMemcpyDtoDAsync");
    note("cuMemcpyDtoDAsync %zu stream=%lld context=%s", bytes, (long long)(intptr_t)stream, context_name());
    memcpy((void *)to, (const void *)from, bytes);
    return 0;
}

int cuMemsetD8Async(uint64_t address, unsigned char value, size_t n, void *stream) {
    IN_CONTEXT("cuMemsetD8Async");
    (void)stream;
    memset((void *)address, value, n);
    return 0;
}

int cuMemsetD16Async(uint64_t address, unsigned short value, size_t n, void *stream) {
    IN_CONTEXT("cuMemsetD16Async");
    (void)stream;
    for (size_t i = 0; i < n; i++)
        ((unsigned short *)address)[i] = value;
    return 0;
}

int cuMemsetD32Async(uint64_t address, unsigned value, size_t n, void *stream) {
    IN_CONTEXT("cuMemsetD32Async");
    (void)stream;
    for (size_t i = 0; i < n; i++)
        ((unsigned *)address)[i] = value;
    return 0;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    IN_CONTEXT("cuPointerGetAttribute");
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].address && address >= (uint64_t)blocks[i].address &&
            address < (uint64_t)blocks[i].address + blocks[i].bytes) {
            *(int *)value = blocks[i].device;
            return attribute == 9 ? 0 : INVALID_VALUE;
        }
    return INVALID_VALUE;
}

int cuStreamCreate(void **stream, unsigned flags) {
    IN_CONTEXT("cuStreamCreate");
    note("cuStreamCreate flags=%u context=%s", flags, context_name());
    *stream = (void *)(intptr_t)(1000 + CURRENT->device);
    return 0;
}

int cuStreamSynchronize(void *stream) {
    IN_CONTEXT("cuStreamSynchronize");
    note("cuStreamSynchronize %lld context=%s", (long long)(intptr_t)stream, context_name());
    return 0;
}

int cuStreamWaitEvent(void *stream, void *which, unsigned flags) {
    IN_CONTEXT("cuStreamWaitEvent");
    note("cuStreamWaitEvent stream=%lld for=%lld", (long long)(intptr_t)stream, (long long)((event *)which)->recorded);
    return flags ? INVALID_VALUE : 0;
}

int cuStreamIsCapturing(void *stream, int *status) {
    IN_CONTEXT("cuStreamIsCapturing");
    *status = (int64_t)(intptr_t)stream == captured;
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *which) {
    int before = mode;
    CALL("cuThreadExchangeStreamCaptureMode");
    mode = *which;
    *which = before;
    return 0;
}

int cuEventCreate(void **result, unsigned flags) {
    event *made;
    IN_CONTEXT("cuEventCreate");
    made = calloc(1, sizeof *made);
    made->flags = (int)flags;
    *result = made;
    return 0;
}

/* A recorded event holds the stream in its upper digits, so that a wait can be told, and a clock below. */
int cuEventRecord(void *which, void *stream) {
    IN_CONTEXT("cuEventRecord");
    note("cuEventRecord stream=%lld context=%s", (long long)(intptr_t)stream, context_name());
    ((event *)which)->recorded = (int64_t)(intptr_t)stream * 1000000 + ++clock_;
    return 0;
}

int cuEventQuery(void *which) {
    CALL("cuEventQuery");
    note("cuEventQuery mode=%d", mode);
    (void)which;
    return busy ? NOT_READY : 0;
}

int cuEventSynchronize(void *which) {
    CALL("cuEventSynchronize");
    (void)which;
    return 0;
}

int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    event *a = start, *b = end;
    CALL("cuEventElapsedTime");
    if (a->flags & 2 || b->flags & 2 || !a->recorded || !b->recorded)
        return INVALID_HANDLE;
    *milliseconds = (float)(b->recorded % 1000000 - a->recorded % 1000000);
    return 0;
}

int cuEventDestroy_v2(void *which) {
    CALL("cuEventDestroy");
    free(which);
    return 0;
}
