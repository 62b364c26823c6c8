/* The CUDA driver, found at run time: neither a header nor a library of CUDA is needed to build or to import this.
 *
 * Signatures and numbers are those of the CUDA Driver API, https://docs.nvidia.com/cuda/cuda-driver-api/. A function
 * that has several versions is asked for by the name that cuda.h gives it in CUDA 12.0.
 */
#ifndef FASTACT_LAUNCH_H
#define FASTACT_LAUNCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define FASTACT_LOAD(p) (*(p))
#define FASTACT_STORE(p, value) (*(p) = (value))
#else
#include <dlfcn.h>
#include <pthread.h>
#define FASTACT_LOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define FASTACT_STORE(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#endif

enum { FASTACT_CUDA_NEEDED = 12000 }; /* cuLibrary* and cuKernel* came with CUDA 12.0 */
enum { FASTACT_CUDA_UNKNOWN, FASTACT_CUDA_READY, FASTACT_CUDA_UNUSABLE, FASTACT_CUDA_FORKED };

enum { CUDA_OUT_OF_MEMORY = 2, CUDA_NOT_INITIALIZED = 3, CUDA_DEINITIALIZED = 4, CUDA_NOT_READY = 600 };

enum {
    DEVICE_MULTIPROCESSORS = 16,
    DEVICE_L2_BYTES = 38,
    DEVICE_CAPABILITY_MAJOR = 75,
    DEVICE_CAPABILITY_MINOR = 76,
    DEVICE_SHARED_OPTIN = 97,
    DEVICE_MEMORY_POOLS = 115
};
enum { KERNEL_MAX_THREADS = 0, KERNEL_SHARED = 1, KERNEL_LOCAL = 3, KERNEL_REGISTERS = 4, KERNEL_MAX_DYNAMIC_SHARED = 8 };
enum { POINTER_DEVICE = 9, EVENT_WITHOUT_TIMING = 2, STREAM_NON_BLOCKING = 1, CAPTURE_RELAXED = 2 };

#define FASTACT_CUDA_CALLS(CALL)                                                                                       \
    CALL(cuDriverGetVersion, cuDriverGetVersion, (int *))                                                              \
    CALL(cuInit, cuInit, (unsigned))                                                                                   \
    CALL(cuGetErrorName, cuGetErrorName, (int, const char **))                                                         \
    CALL(cuGetErrorString, cuGetErrorString, (int, const char **))                                                     \
    CALL(cuDeviceGetCount, cuDeviceGetCount, (int *))                                                                  \
    CALL(cuDeviceGet, cuDeviceGet, (int *, int))                                                                       \
    CALL(cuDeviceGetName, cuDeviceGetName, (char *, int, int))                                                         \
    CALL(cuDeviceGetAttribute, cuDeviceGetAttribute, (int *, int, int))                                                \
    CALL(cuDeviceTotalMem, cuDeviceTotalMem_v2, (size_t *, int))                                                       \
    CALL(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (void **, int))                                           \
    CALL(cuCtxGetCurrent, cuCtxGetCurrent, (void **))                                                                  \
    CALL(cuCtxPushCurrent, cuCtxPushCurrent_v2, (void *))                                                              \
    CALL(cuCtxPopCurrent, cuCtxPopCurrent_v2, (void **))                                                               \
    CALL(cuLibraryLoadData, cuLibraryLoadData, (void **, const void *, int *, void **, unsigned, int *, void **, unsigned)) \
    CALL(cuLibraryUnload, cuLibraryUnload, (void *))                                                                   \
    CALL(cuLibraryGetKernel, cuLibraryGetKernel, (void **, void *, const char *))                                      \
    CALL(cuKernelGetFunction, cuKernelGetFunction, (void **, void *))                                                  \
    CALL(cuKernelGetAttribute, cuKernelGetAttribute, (int *, int, void *, int))                                        \
    CALL(cuKernelSetAttribute, cuKernelSetAttribute, (int, int, void *, int))                                          \
    CALL(cuLaunchKernel, cuLaunchKernel,                                                                               \
         (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **))     \
    CALL(cuMemAllocAsync, cuMemAllocAsync, (uint64_t *, size_t, void *))                                               \
    CALL(cuMemFreeAsync, cuMemFreeAsync, (uint64_t, void *))                                                           \
    CALL(cuMemAlloc, cuMemAlloc_v2, (uint64_t *, size_t))                                                              \
    CALL(cuMemFree, cuMemFree_v2, (uint64_t))                                                                          \
    CALL(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (uint64_t, const void *, size_t, void *))                            \
    CALL(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void *, uint64_t, size_t, void *))                                  \
    CALL(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (uint64_t, uint64_t, size_t, void *))                                \
    CALL(cuMemsetD8Async, cuMemsetD8Async, (uint64_t, unsigned char, size_t, void *))                                  \
    CALL(cuMemsetD16Async, cuMemsetD16Async, (uint64_t, unsigned short, size_t, void *))                               \
    CALL(cuMemsetD32Async, cuMemsetD32Async, (uint64_t, unsigned, size_t, void *))                                     \
    CALL(cuPointerGetAttribute, cuPointerGetAttribute, (void *, int, uint64_t))                                        \
    CALL(cuStreamCreate, cuStreamCreate, (void **, unsigned))                                                          \
    CALL(cuStreamSynchronize, cuStreamSynchronize, (void *))                                                           \
    CALL(cuStreamWaitEvent, cuStreamWaitEvent, (void *, void *, unsigned))                                             \
    CALL(cuStreamIsCapturing, cuStreamIsCapturing, (void *, int *))                                                    \
    CALL(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, (int *))                                \
    CALL(cuEventCreate, cuEventCreate, (void **, unsigned))                                                            \
    CALL(cuEventRecord, cuEventRecord, (void *, void *))                                                               \
    CALL(cuEventQuery, cuEventQuery, (void *))                                                                         \
    CALL(cuEventSynchronize, cuEventSynchronize, (void *))                                                             \
    CALL(cuEventElapsedTime, cuEventElapsedTime, (float *, void *, void *))                                            \
    CALL(cuEventDestroy, cuEventDestroy_v2, (void *))

#define LEGACY_STREAM ((void *)1) /* CU_STREAM_LEGACY */

typedef struct {
    int code; /* a CUresult; 0 is success */
    const char *call;
} fastact_result;

typedef struct {
    int handle; /* a CUdevice */
    int pools;  /* whether it has cuMemAllocAsync */
    void *context, *stream;
} fastact_device;

static struct {
#define FASTACT_DECLARE(name, symbol, arguments) int(*name) arguments;
    FASTACT_CUDA_CALLS(FASTACT_DECLARE)
#undef FASTACT_DECLARE
    int (*cuKernelGetParamInfo)(void *, size_t, size_t *, size_t *); /* CUDA 12.4; may be NULL */
    int state, version, count;
    fastact_device *devices;
    char reason[1024];
} cuda;

#define FASTACT_CALL(name, ...) ((fastact_result){cuda.name(__VA_ARGS__), #name})
#define FASTACT_TRY(result)                                                                                            \
    do {                                                                                                               \
        fastact_result tried_ = (result);                                                                              \
        if (tried_.code)                                                                                               \
            return tried_;                                                                                             \
    } while (0)

/* ---- start */

static const char *fastact_error_name(int code) {
    const char *name = NULL;
    return cuda.cuGetErrorName && !cuda.cuGetErrorName(code, &name) && name ? name : "unknown error";
}

static const char *fastact_error_text(int code) {
    const char *text = NULL;
    return cuda.cuGetErrorString && !cuda.cuGetErrorString(code, &text) && text ? text : "no description";
}

#ifdef _WIN32

static void fastact_at_fork(void) {}

static int fastact_cuda_start(void) {
    snprintf(cuda.reason, sizeof cuda.reason, "fastact supports CUDA on Linux, not on this platform");
    return cuda.state = FASTACT_CUDA_UNUSABLE;
}

static void fastact_lock(void) {}
static void fastact_unlock(void) {}

#else

static pthread_mutex_t fastact_mutex = PTHREAD_MUTEX_INITIALIZER;

static void fastact_lock(void) { pthread_mutex_lock(&fastact_mutex); }
static void fastact_unlock(void) { pthread_mutex_unlock(&fastact_mutex); }

static void fastact_in_child(void) {
    pthread_mutex_init(&fastact_mutex, NULL);
    if (cuda.state == FASTACT_CUDA_READY) {
        snprintf(cuda.reason, sizeof cuda.reason,
                 "this process was forked after CUDA had been used, and CUDA does not survive a fork; start processes "
                 "by \"spawn\" or \"forkserver\"");
        cuda.state = FASTACT_CUDA_FORKED;
    }
}

/* A fork waits until a start in another thread is over: the child would find half of it. */
static void fastact_at_fork(void) { pthread_atfork(fastact_lock, fastact_unlock, fastact_in_child); }

static int fastact_unusable(const char *call, int code, const char *more) {
    snprintf(cuda.reason, sizeof cuda.reason, "%s failed with %s (%s)%s", call, fastact_error_name(code),
             fastact_error_text(code), more);
    return FASTACT_CUDA_UNUSABLE;
}

static int fastact_cuda_open(void) {
    const char *path = getenv("FASTACT_LIBCUDA");
    if (!path || !*path)
        path = "libcuda.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *error = dlerror();
        snprintf(cuda.reason, sizeof cuda.reason, "no NVIDIA driver: %s cannot be loaded (%s)", path,
                 error ? error : "no reason given");
        return FASTACT_CUDA_UNUSABLE;
    }
    *(void **)&cuda.cuDriverGetVersion = dlsym(library, "cuDriverGetVersion");
    *(void **)&cuda.cuGetErrorName = dlsym(library, "cuGetErrorName");
    *(void **)&cuda.cuGetErrorString = dlsym(library, "cuGetErrorString");
    if (!cuda.cuDriverGetVersion) {
        snprintf(cuda.reason, sizeof cuda.reason, "%s is no CUDA driver: it lacks cuDriverGetVersion", path);
        return FASTACT_CUDA_UNUSABLE;
    }
    int code = cuda.cuDriverGetVersion(&cuda.version);
    if (code)
        return fastact_unusable("cuDriverGetVersion", code, "");
    if (cuda.version < FASTACT_CUDA_NEEDED) {
        snprintf(cuda.reason, sizeof cuda.reason, "the NVIDIA driver supports CUDA %d.%d, %d.%d is needed",
                 cuda.version / 1000, cuda.version % 1000 / 10, FASTACT_CUDA_NEEDED / 1000,
                 FASTACT_CUDA_NEEDED % 1000 / 10);
        return FASTACT_CUDA_UNUSABLE;
    }
#define FASTACT_FIND(name, symbol, arguments)                                                                          \
    if (!(*(void **)&cuda.name = dlsym(library, #symbol))) {                                                           \
        snprintf(cuda.reason, sizeof cuda.reason, "%s lacks %s", path, #symbol);                                       \
        return FASTACT_CUDA_UNUSABLE;                                                                                  \
    }
    FASTACT_CUDA_CALLS(FASTACT_FIND)
#undef FASTACT_FIND
    *(void **)&cuda.cuKernelGetParamInfo = dlsym(library, "cuKernelGetParamInfo");
    code = cuda.cuInit(0);
    if (code)
        return fastact_unusable("cuInit", code,
                                code == CUDA_NOT_INITIALIZED ? "; was CUDA used before this process was forked?" : "");
    int count = 0;
    code = cuda.cuDeviceGetCount(&count);
    if (code)
        return fastact_unusable("cuDeviceGetCount", code, "");
    if (count < 1) {
        snprintf(cuda.reason, sizeof cuda.reason, "the NVIDIA driver sees no device");
        return FASTACT_CUDA_UNUSABLE;
    }
    cuda.devices = calloc((size_t)count, sizeof *cuda.devices);
    if (!cuda.devices) {
        snprintf(cuda.reason, sizeof cuda.reason, "no memory for %d devices", count);
        return FASTACT_CUDA_UNUSABLE;
    }
    for (int i = 0; i < count; i++) {
        fastact_device *device = cuda.devices + i;
        if ((code = cuda.cuDeviceGet(&device->handle, i)))
            return fastact_unusable("cuDeviceGet", code, "");
        if ((code = cuda.cuDeviceGetAttribute(&device->pools, DEVICE_MEMORY_POOLS, device->handle)))
            return fastact_unusable("cuDeviceGetAttribute", code, "");
    }
    cuda.count = count;
    return FASTACT_CUDA_READY;
}

static int fastact_cuda_start(void) {
    int state = FASTACT_LOAD(&cuda.state);
    if (state != FASTACT_CUDA_UNKNOWN)
        return state;
    fastact_lock();
    state = cuda.state;
    if (state == FASTACT_CUDA_UNKNOWN) {
        state = fastact_cuda_open();
        FASTACT_STORE(&cuda.state, state);
    }
    fastact_unlock();
    return state;
}

#endif

static int fastact_cuda_state(void) { return FASTACT_LOAD(&cuda.state); }
static int fastact_cuda_version(void) { return cuda.version; }
static int fastact_cuda_count(void) { return cuda.count; }
static const char *fastact_cuda_reason(void) { return cuda.reason; }

/* ---- contexts */

static fastact_result fastact_retain(fastact_device *device, void **context) {
    fastact_result result = {0, ""};
    fastact_lock();
    *context = device->context;
    if (!*context) {
        result = FASTACT_CALL(cuDevicePrimaryCtxRetain, context, device->handle);
        if (!result.code)
            FASTACT_STORE(&device->context, *context);
    }
    fastact_unlock();
    return result;
}

/* Makes the device's primary context current, if it is not. */
static inline fastact_result fastact_enter(int index, int *pushed) {
    fastact_device *device = cuda.devices + index;
    void *context = FASTACT_LOAD(&device->context), *current = NULL;
    if (!context)
        FASTACT_TRY(fastact_retain(device, &context));
    FASTACT_TRY(FASTACT_CALL(cuCtxGetCurrent, &current));
    *pushed = current != context;
    if (*pushed)
        return FASTACT_CALL(cuCtxPushCurrent, context);
    return (fastact_result){0, ""};
}

static inline fastact_result fastact_leave(int pushed, fastact_result result) {
    if (pushed) {
        void *popped;
        fastact_result left = FASTACT_CALL(cuCtxPopCurrent, &popped);
        if (!result.code)
            return left;
    }
    return result;
}

#define FASTACT_ENTER(device)                                                                                          \
    int pushed;                                                                                                        \
    FASTACT_TRY(fastact_enter(device, &pushed))
#define FASTACT_LEAVE(result) return fastact_leave(pushed, result)

/* ---- kernels */

static fastact_result fastact_load(const void *image, const char *name, void **kernel) {
    void *library = NULL;
    FASTACT_TRY(FASTACT_CALL(cuLibraryLoadData, &library, image, NULL, NULL, 0, NULL, NULL, 0));
    fastact_result result = FASTACT_CALL(cuLibraryGetKernel, kernel, library, name);
    if (result.code)
        cuda.cuLibraryUnload(library);
    return result;
}

/* With the thread's capture mode relaxed: what is loaded is no part of a graph that this thread may be capturing. */
static fastact_result fastact_load_relaxed(const void *image, const char *name, void **kernel) {
    int mode = CAPTURE_RELAXED;
    FASTACT_TRY(FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode));
    fastact_result result = fastact_load(image, name, kernel);
    fastact_result back = FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode);
    return result.code ? result : back;
}

/* The number of the kernel's parameters; -1 where the driver cannot tell, -2 where one is not of 8 bytes. */
static int fastact_parameters(void *kernel) {
    size_t offset, size;
    int n = 0;
    if (!cuda.cuKernelGetParamInfo)
        return -1;
    for (; !cuda.cuKernelGetParamInfo(kernel, (size_t)n, &offset, &size); n++)
        if (size != 8 || offset != 8 * (size_t)n)
            return -2;
    return n;
}

static fastact_result fastact_prepare(void *kernel, int device) {
    void *function;
    FASTACT_ENTER(device);
    int mode = CAPTURE_RELAXED;
    fastact_result result = FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode);
    if (!result.code) {
        result = FASTACT_CALL(cuKernelGetFunction, &function, kernel);
        fastact_result back = FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode);
        if (!result.code)
            result = back;
    }
    FASTACT_LEAVE(result);
}

static fastact_result fastact_attribute(int *value, int attribute, void *kernel, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuKernelGetAttribute, value, attribute, kernel, cuda.devices[device].handle));
}

static fastact_result fastact_set_attribute(int value, int attribute, void *kernel, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuKernelSetAttribute, attribute, value, kernel, cuda.devices[device].handle));
}

enum { FASTACT_SLOTS = 64 };

static fastact_result fastact_launch(void *kernel, int device, void *stream, unsigned grid_x, unsigned grid_y,
                                     unsigned block, unsigned shared, int64_t *slots, int count) {
    void *parameters[FASTACT_SLOTS];
    for (int i = 0; i < count; i++)
        parameters[i] = slots + i;
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuLaunchKernel, kernel, grid_x, grid_y, 1, block, 1, 1, shared, stream, parameters, NULL));
}

/* ---- devices and memory */

static fastact_result fastact_device_attribute(int *value, int attribute, int device) {
    return FASTACT_CALL(cuDeviceGetAttribute, value, attribute, cuda.devices[device].handle);
}

static fastact_result fastact_device_name(char *name, int size, int device) {
    return FASTACT_CALL(cuDeviceGetName, name, size, cuda.devices[device].handle);
}

static fastact_result fastact_device_memory(size_t *bytes, int device) {
    return FASTACT_CALL(cuDeviceTotalMem, bytes, cuda.devices[device].handle);
}

static int fastact_device_pools(int device) { return cuda.devices[device].pools; }

static fastact_result fastact_allocate(uint64_t *address, size_t bytes, void *stream, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(cuda.devices[device].pools ? FASTACT_CALL(cuMemAllocAsync, address, bytes, stream)
                                             : FASTACT_CALL(cuMemAlloc, address, bytes));
}

static fastact_result fastact_release(uint64_t address, void *stream, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(cuda.devices[device].pools ? FASTACT_CALL(cuMemFreeAsync, address, stream)
                                             : FASTACT_CALL(cuMemFree, address));
}

/* Both return when the bytes are there: the driver may read and write pageable memory after the call. */
static fastact_result fastact_to_device(uint64_t address, const void *host, size_t bytes, void *stream, int device) {
    FASTACT_ENTER(device);
    fastact_result result = FASTACT_CALL(cuMemcpyHtoDAsync, address, host, bytes, stream);
    FASTACT_LEAVE(result.code ? result : FASTACT_CALL(cuStreamSynchronize, stream));
}

static fastact_result fastact_to_host(uint64_t address, void *host, size_t bytes, void *stream, int device) {
    FASTACT_ENTER(device);
    fastact_result result = FASTACT_CALL(cuMemcpyDtoHAsync, host, address, bytes, stream);
    FASTACT_LEAVE(result.code ? result : FASTACT_CALL(cuStreamSynchronize, stream));
}

static fastact_result fastact_copy(uint64_t to, uint64_t from, size_t bytes, void *stream, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuMemcpyDtoDAsync, to, from, bytes, stream));
}

static fastact_result fastact_fill(uint64_t address, unsigned pattern, int size, size_t count, void *stream,
                                   int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(size == 1   ? FASTACT_CALL(cuMemsetD8Async, address, (unsigned char)pattern, count, stream)
                  : size == 2 ? FASTACT_CALL(cuMemsetD16Async, address, (unsigned short)pattern, count, stream)
                              : FASTACT_CALL(cuMemsetD32Async, address, pattern, count, stream));
}

/* In the context of device 0 where the thread has none: the call needs one, any serves. */
static fastact_result fastact_pointer_device(int *device, uint64_t address) {
    void *current = NULL;
    int pushed = 0;
    FASTACT_TRY(FASTACT_CALL(cuCtxGetCurrent, &current));
    if (!current)
        FASTACT_TRY(fastact_enter(0, &pushed));
    FASTACT_LEAVE(FASTACT_CALL(cuPointerGetAttribute, device, POINTER_DEVICE, address));
}

/* ---- streams and events */

static fastact_result fastact_synchronize(void *stream, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuStreamSynchronize, stream));
}

/* The stream of our own on a device, made when first asked for. */
static fastact_result fastact_own_stream(void **stream, int index) {
    fastact_device *device = cuda.devices + index;
    *stream = FASTACT_LOAD(&device->stream);
    if (*stream)
        return (fastact_result){0, ""};
    FASTACT_ENTER(index);
    fastact_result result = {0, ""};
    fastact_lock();
    *stream = device->stream;
    if (!*stream) {
        result = FASTACT_CALL(cuStreamCreate, stream, STREAM_NON_BLOCKING);
        if (!result.code)
            FASTACT_STORE(&device->stream, *stream);
    }
    fastact_unlock();
    FASTACT_LEAVE(result);
}

/* Whether work on the stream would go into a graph; 1, too, where the driver refuses to tell: on the legacy default
 * stream while another is captured, and in a callback of CUDA's, in which nothing can be put on a stream. */
static int fastact_capturing(void *stream, int device) {
    int status = 0, pushed;
    fastact_result result = fastact_enter(device, &pushed);
    if (!result.code)
        result = fastact_leave(pushed, FASTACT_CALL(cuStreamIsCapturing, stream, &status));
    return result.code ? result.code != CUDA_DEINITIALIZED : status;
}

static fastact_result fastact_event_create(void **event, int timing, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuEventCreate, event, timing ? 0 : EVENT_WITHOUT_TIMING));
}

static fastact_result fastact_event_destroy(void *event, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuEventDestroy, event));
}

static fastact_result fastact_event_record(void *event, void *stream, int device) {
    FASTACT_ENTER(device);
    FASTACT_LEAVE(FASTACT_CALL(cuEventRecord, event, stream));
}

/* With a relaxed capture mode: it is no part of a graph that another thread may be capturing. */
static fastact_result fastact_event_query(void *event, int device) {
    FASTACT_ENTER(device);
    int mode = CAPTURE_RELAXED;
    fastact_result result = FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode);
    if (!result.code) {
        result = FASTACT_CALL(cuEventQuery, event);
        fastact_result back = FASTACT_CALL(cuThreadExchangeStreamCaptureMode, &mode);
        if (!result.code)
            result = back;
    }
    FASTACT_LEAVE(result);
}

static fastact_result fastact_event_elapsed(float *milliseconds, void *start, void *end, int device) {
    FASTACT_ENTER(device);
    fastact_result result = FASTACT_CALL(cuEventSynchronize, end);
    FASTACT_LEAVE(result.code ? result : FASTACT_CALL(cuEventElapsedTime, milliseconds, start, end));
}

/* What is put on `stream` from now on starts when all that is on `other` is done; the host waits for nothing. */
static fastact_result fastact_wait_for(void *stream, void *other, int device) {
    void *event = NULL;
    FASTACT_ENTER(device);
    fastact_result result = FASTACT_CALL(cuEventCreate, &event, EVENT_WITHOUT_TIMING);
    if (!result.code) {
        result = FASTACT_CALL(cuEventRecord, event, other);
        if (!result.code)
            result = FASTACT_CALL(cuStreamWaitEvent, stream, event, 0);
        fastact_result gone = FASTACT_CALL(cuEventDestroy, event); /* the driver keeps it until it has happened */
        if (!result.code)
            result = gone;
    }
    FASTACT_LEAVE(result);
}

/* Memory that work on the legacy default stream may use as well goes back when that is done, too. */
static fastact_result fastact_release_after_legacy(uint64_t address, void *stream, int device) {
    FASTACT_TRY(fastact_wait_for(stream, LEGACY_STREAM, device));
    return fastact_release(address, stream, device);
}

/* ---- DLPack, https://dmlc.github.io/dlpack/latest/c_api.html */

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides; /* in elements */
    uint64_t byte_offset;
} fastact_dltensor;

typedef struct fastact_dlpack {
    fastact_dltensor tensor;
    void *context;
    void (*deleter)(struct fastact_dlpack *);
} fastact_dlpack;

typedef struct fastact_dlpack_versioned {
    struct {
        uint32_t major, minor;
    } version;
    void *context;
    void (*deleter)(struct fastact_dlpack_versioned *);
    uint64_t flags;
    fastact_dltensor tensor;
} fastact_dlpack_versioned;

enum { DLPACK_READ_ONLY = 1, DLPACK_COPIED = 2, DLPACK_CUDA = 2 };
enum { DLPACK_INT = 0, DLPACK_UINT = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4, DLPACK_COMPLEX = 5, DLPACK_BOOL = 6 };

#endif
