# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Calls of the CUDA driver: devices, kernels, launches, memory, streams and events.

Nothing of CUDA is imported or linked: the driver's library is opened when first needed (_launch.h). It is
``libcuda.so.1``, or the file that the environment variable ``FASTACT_LIBCUDA`` names, which is for tests and for
installations that keep it elsewhere.

A device is a number from 0, as in CUDA_VISIBLE_DEVICES' order; a stream is a CUstream as an integer, 0 the legacy
default stream; an address is an integer. Work is done in the device's primary context, which PyTorch, CuPy, JAX and
Numba use as well; the context that is current in the calling thread is the same afterwards.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsUnsignedLongLong, PyLong_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pycapsule cimport (
    PyCapsule_CheckExact, PyCapsule_Destructor, PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import os
import threading
from collections import deque, namedtuple


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    int PyIndex_Check(object)
    bint Py_IsInitialized() nogil


cdef extern from "_launch.h" nogil:
    enum: FASTACT_CUDA_READY, FASTACT_SLOTS, CUDA_OUT_OF_MEMORY, CUDA_DEINITIALIZED, CUDA_NOT_READY
    enum: DEVICE_MULTIPROCESSORS, DEVICE_L2_BYTES, DEVICE_CAPABILITY_MAJOR, DEVICE_CAPABILITY_MINOR
    enum: DEVICE_SHARED_OPTIN
    enum: KERNEL_MAX_THREADS, KERNEL_SHARED, KERNEL_LOCAL, KERNEL_REGISTERS, KERNEL_MAX_DYNAMIC_SHARED
    enum: DLPACK_READ_ONLY, DLPACK_COPIED, DLPACK_CUDA
    enum: DLPACK_INT, DLPACK_UINT, DLPACK_FLOAT, DLPACK_BFLOAT, DLPACK_COMPLEX, DLPACK_BOOL
    ctypedef struct fastact_result:
        int code
        const char *call
    ctypedef struct _device:
        int32_t type
        int32_t id
    ctypedef struct _dtype:
        uint8_t code
        uint8_t bits
        uint16_t lanes
    ctypedef struct fastact_dltensor:
        void *data
        _device device
        int32_t ndim
        _dtype dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct fastact_dlpack:
        fastact_dltensor tensor
        void *context
        void (*deleter)(fastact_dlpack *) noexcept nogil
    ctypedef struct _version:
        uint32_t major
        uint32_t minor
    ctypedef struct fastact_dlpack_versioned:
        _version version
        void *context
        void (*deleter)(fastact_dlpack_versioned *) noexcept nogil
        uint64_t flags
        fastact_dltensor tensor
    void fastact_at_fork()
    int fastact_cuda_start()
    int fastact_cuda_state()
    int fastact_cuda_version()
    int fastact_cuda_count()
    const char *fastact_cuda_reason()
    const char *fastact_error_name(int)
    const char *fastact_error_text(int)
    fastact_result fastact_load_relaxed(const void *, const char *, void **)
    int fastact_parameters(void *)
    fastact_result fastact_prepare(void *, int)
    fastact_result fastact_attribute(int *, int, void *, int)
    fastact_result fastact_set_attribute(int, int, void *, int)
    fastact_result fastact_launch(void *, int, void *, unsigned, unsigned, unsigned, unsigned, int64_t *, int)
    fastact_result fastact_device_attribute(int *, int, int)
    fastact_result fastact_device_name(char *, int, int)
    fastact_result fastact_device_memory(size_t *, int)
    int fastact_device_pools(int)
    fastact_result fastact_allocate(uint64_t *, size_t, void *, int)
    fastact_result fastact_release(uint64_t, void *, int)
    fastact_result fastact_to_device(uint64_t, const void *, size_t, void *, int)
    fastact_result fastact_to_host(uint64_t, void *, size_t, void *, int)
    fastact_result fastact_release_after_legacy(uint64_t, void *, int)
    fastact_result fastact_copy(uint64_t, uint64_t, size_t, void *, int)
    fastact_result fastact_fill(uint64_t, unsigned, int, size_t, void *, int)
    fastact_result fastact_pointer_device(int *, uint64_t)
    fastact_result fastact_synchronize(void *, int)
    fastact_result fastact_own_stream(void **, int)
    int fastact_capturing(void *, int)
    fastact_result fastact_event_create(void **, int, int)
    fastact_result fastact_event_destroy(void *, int)
    fastact_result fastact_event_record(void *, void *, int)
    fastact_result fastact_event_query(void *, int)
    fastact_result fastact_event_elapsed(float *, void *, void *, int)
    fastact_result fastact_wait_for(void *, void *, int)


fastact_at_fork()

MAX_SLOTS = FASTACT_SLOTS


class CudaError(RuntimeError):
    """A call of the CUDA driver failed, or CUDA cannot be used.

    Attributes
    ----------
    call : str
        The driver's function, such as ``"cuLaunchKernel"``; empty where CUDA cannot be used.
    code : int
        Its CUresult; 0 where CUDA cannot be used.
    """

    def __init__(self, message, call="", code=0):
        super().__init__(message, call, code)
        self.call = call
        self.code = code

    def __str__(self):
        return self.args[0]


class CudaMemoryError(CudaError, MemoryError):
    """The device has no memory left for what was asked for."""


Device = namedtuple("Device", "name capability multiprocessors shared_bytes l2_bytes total_memory memory_pools")
Device.__doc__ = """A device, as the driver describes it.

Attributes
----------
name : str
capability : tuple of int
    Compute capability, major and minor.
multiprocessors : int
shared_bytes : int
    Shared memory that a block can have at most, by `allow_shared`.
l2_bytes, total_memory : int
memory_pools : bool
    Whether memory is allocated in the order of a stream; `allocate` and `release` may wait for the device if not.
"""

KernelAttributes = namedtuple("KernelAttributes", "registers local_bytes shared_bytes max_threads")
KernelAttributes.__doc__ = """What a thread of a kernel takes, its static shared memory, and threads of a block at most."""


# ---- errors


cdef int failed(fastact_result result) except -1 with gil:
    name = fastact_error_name(result.code).decode()
    text = fastact_error_text(result.code).decode()
    call = result.call.decode()
    kind = CudaMemoryError if result.code == CUDA_OUT_OF_MEMORY else CudaError
    raise kind(f"{call} failed with {name} ({text})", call, result.code)


cdef inline int check(fastact_result result) except -1 nogil:
    if result.code:
        return failed(result)
    return 0


cdef int unusable() except -1:
    raise CudaError(f"CUDA cannot be used: {why_not()}")


cdef inline int need() except -1:
    """CUDA is in use, or the reason why not is raised."""
    if fastact_cuda_state() == FASTACT_CUDA_READY:
        return 0
    if why_not() is not None:
        return unusable()
    return 0


cdef int no_device(int device) except -1:
    n = fastact_cuda_count()
    raise ValueError(f"there is no CUDA device {device}; there {'is 1' if n == 1 else f'are {n}'}")


cdef inline int need_device(int device) except -1:
    need()
    if device < 0 or device >= fastact_cuda_count():
        return no_device(device)
    return 0


cdef inline int need_kernel(uintptr_t kernel) except -1:
    if kernel == 0:
        raise ValueError("0 is no kernel")
    return 0


# ---- devices


def why_not():
    """None if CUDA can be used in this process, else the reason, for people. Never raises; opens the driver once.

    Returns
    -------
    str or None
    """
    cdef int state = fastact_cuda_state()
    if state == FASTACT_CUDA_READY:
        return None
    with nogil:
        state = fastact_cuda_start()
    return None if state == FASTACT_CUDA_READY else fastact_cuda_reason().decode(errors="replace")


def driver_version():
    """The version of CUDA that the driver supports, such as ``(13, 0)``.

    Raises
    ------
    CudaError
        If CUDA cannot be used.
    """
    need()
    cdef int version = fastact_cuda_version()
    return version // 1000, version % 1000 // 10


def device_count():
    """How many devices there are; 0 where CUDA cannot be used."""
    return 0 if why_not() is not None else fastact_cuda_count()


def device(int index):
    """The `Device` of a number.

    Raises
    ------
    CudaError
        If CUDA cannot be used.
    ValueError
        If there is no such device.
    """
    need_device(index)
    cdef char name[256]
    cdef size_t memory = 0
    cdef int values[5]
    cdef int *attributes = [
        DEVICE_CAPABILITY_MAJOR, DEVICE_CAPABILITY_MINOR, DEVICE_MULTIPROCESSORS, DEVICE_SHARED_OPTIN, DEVICE_L2_BYTES
    ]
    memset(name, 0, sizeof(name))
    check(fastact_device_name(name, sizeof(name) - 1, index))
    check(fastact_device_memory(&memory, index))
    for i in range(5):
        check(fastact_device_attribute(&values[i], attributes[i], index))
    capability = values[0], values[1]
    pools = fastact_device_pools(index) != 0
    return Device(name.decode(errors="replace"), capability, values[2], values[3], values[4], memory, pools)


# ---- kernels


def load(bytes image not None, str name not None, parameters=None):
    """A kernel of a cubin, a fat binary or PTX. It is valid in every context and stays for the life of the process.

    Parameters
    ----------
    image : bytes
    name : str
        Of the function in it, as the linker sees it.
    parameters : int, optional
        How many parameters it must have, all of 8 bytes. Checked where the driver can tell (from CUDA 12.4 on).

    Returns
    -------
    int
        A CUkernel.

    Raises
    ------
    CudaError
        If CUDA cannot be used, the image is for other devices, or it has no such function.
    ValueError
        If the image is empty, or its parameters are others.
    """
    if not image:
        raise ValueError("the image of a kernel is empty")
    need()
    encoded = name.encode()
    cdef const char *text = image
    cdef const char *symbol = encoded
    cdef void *kernel = NULL
    cdef fastact_result result
    cdef int found
    with nogil:
        result = fastact_load_relaxed(text, symbol, &kernel)
    check(result)
    found = fastact_parameters(kernel)
    if found == -2 or found > FASTACT_SLOTS:
        raise ValueError(f"kernel {name} has parameters that are not of 8 bytes each, or more than {FASTACT_SLOTS}")
    if parameters is not None and found >= 0 and found != parameters:
        raise ValueError(f"kernel {name} has {found} parameters, not {parameters}")
    return <uintptr_t>kernel


def prepare(uintptr_t kernel, int device):
    """Bring a kernel onto a device now; its first launch would, and could then not be captured or timed well."""
    need_kernel(kernel)
    need_device(device)
    cdef fastact_result result
    with nogil:
        result = fastact_prepare(<void *>kernel, device)
    check(result)


def allow_shared(uintptr_t kernel, int device, int bytes):
    """Let launches of a kernel on a device have so many bytes of dynamic shared memory, which can be above 48 KiB."""
    need_kernel(kernel)
    need_device(device)
    if bytes < 0:
        raise ValueError(f"bytes of shared memory must not be negative, got {bytes}")
    cdef fastact_result result
    with nogil:
        result = fastact_set_attribute(bytes, KERNEL_MAX_DYNAMIC_SHARED, <void *>kernel, device)
    check(result)


def attributes(uintptr_t kernel, int device):
    """The `KernelAttributes` of a kernel on a device."""
    need_kernel(kernel)
    need_device(device)
    cdef int values[4]
    cdef int *wanted = [KERNEL_REGISTERS, KERNEL_LOCAL, KERNEL_SHARED, KERNEL_MAX_THREADS]
    cdef fastact_result result
    for i in range(4):
        with nogil:
            result = fastact_attribute(&values[i], wanted[i], <void *>kernel, device)
        check(result)
    return KernelAttributes(values[0], values[1], values[2], values[3])


cdef int launch_words(
    uintptr_t kernel, int device, uintptr_t stream, unsigned grid_x, unsigned grid_y, unsigned block, unsigned shared,
    int64_t *slots, int count
) except -1 nogil:
    return check(
        fastact_launch(<void *>kernel, device, <void *>stream, grid_x, grid_y, block, shared, slots, count)
    )


cdef int other_slot(object value, int64_t *word, Py_ssize_t i) except -1:
    """A slot that is not an int of 64 bits with sign or a float."""
    cdef unsigned long long unsigned_word
    if not PyLong_Check(value):
        if not PyIndex_Check(value):
            raise TypeError(f"slot {i} of a launch must be an int or a float, not {type(value).__name__}")
        value = value.__index__()
    try:
        if value < 0:
            raise OverflowError
        unsigned_word = PyLong_AsUnsignedLongLong(value)
    except OverflowError:
        raise OverflowError(f"slot {i} of a launch is {value}, which has more than 64 bits") from None
    memcpy(word, &unsigned_word, 8)
    return 0


cdef inline int slot(object value, int64_t *word, Py_ssize_t i) except -1:
    cdef int overflow = 0
    cdef double real
    if PyLong_Check(value):
        word[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0:
            return 0
        return other_slot(value, word, i)
    if PyFloat_Check(value):
        real = PyFloat_AS_DOUBLE(value)
        memcpy(word, &real, 8)
        return 0
    if PyIndex_Check(value):
        return slot(value.__index__(), word, i)
    return other_slot(value, word, i)


cdef int bad_launch(long long grid_x, long long grid_y, long long block, long long shared, Py_ssize_t n) except -1:
    if not 1 <= grid_x < 1 << 31 or not 1 <= grid_y <= 65535:
        raise ValueError(f"a grid has from 1 to 2**31 - 1 by 65535 blocks, not {grid_x} by {grid_y}")
    if not 1 <= block <= 1024:
        raise ValueError(f"a block has from 1 to 1024 threads, not {block}")
    if not 0 <= shared < 1 << 31:
        raise ValueError(f"bytes of shared memory must be from 0 to 2**31 - 1, got {shared}")
    raise ValueError(f"a launch has at most {FASTACT_SLOTS} slots, not {n}")


def launch(
    uintptr_t kernel, int device, uintptr_t stream, long long grid_x, long long grid_y, long long block,
    long long shared, tuple slots not None
):
    """Launch a kernel; the host does not wait for it.

    Parameters
    ----------
    kernel : int
        From `load`.
    device : int
    stream : int
        A stream of the device.
    grid_x, grid_y : int
        Blocks.
    block : int
        Threads of a block.
    shared : int
        Bytes of dynamic shared memory of a block; above 48 KiB after `allow_shared`.
    slots : tuple of int and float
        The kernel's parameters: an int as 64 bits, from -2**63 to 2**64 - 1, a float as a double.

    Raises
    ------
    CudaError
        If CUDA cannot be used, or the driver refuses the launch.
    TypeError, ValueError, OverflowError
        If a number is none that a launch can have; before anything happens.
    """
    cdef int64_t words[FASTACT_SLOTS]
    cdef Py_ssize_t n = PyTuple_GET_SIZE(slots), i
    cdef fastact_result result
    need_kernel(kernel)
    need_device(device)
    if (
        grid_x < 1 or grid_x > 2147483647 or grid_y < 1 or grid_y > 65535 or block < 1 or block > 1024 or shared < 0
        or shared > 2147483647 or n > FASTACT_SLOTS
    ):
        bad_launch(grid_x, grid_y, block, shared, n)
    for i in range(n):
        slot(<object>PyTuple_GET_ITEM(slots, i), &words[i], i)
    # without the GIL, which costs 0.03 us of 0.1 (AMD EPYC, stand-in): a launch waits where the queue of the stream is full,
    # and what it waits for may be a callback that needs the GIL
    with nogil:
        result = fastact_launch(
            <void *>kernel, device, <void *>stream, <unsigned>grid_x, <unsigned>grid_y, <unsigned>block,
            <unsigned>shared, words, <int>n
        )
    if result.code:
        failed(result)


# ---- memory


def allocate(int device, uintptr_t stream, size_t bytes):
    """The address of new memory, usable by work that is put on the stream from now on; 0 for no bytes."""
    need_device(device)
    cdef uint64_t address = 0
    cdef fastact_result result
    if bytes == 0:
        return 0
    with nogil:
        result = fastact_allocate(&address, bytes, <void *>stream, device)
    check(result)
    return address


def release(int device, uintptr_t stream, uint64_t address):
    """Give memory of `allocate` back when the work that is on the stream is done; nothing for address 0."""
    need_device(device)
    cdef fastact_result result
    if address == 0:
        return
    with nogil:
        result = fastact_release(address, <void *>stream, device)
    check(result)


def to_device(uint64_t address, host, uintptr_t stream, int device):
    """Copy a contiguous host buffer to a device; the stream has done it on return."""
    cdef Py_buffer view
    cdef fastact_result result
    need_device(device)
    PyObject_GetBuffer(host, &view, PyBUF_SIMPLE)
    try:
        if view.len:
            with nogil:
                result = fastact_to_device(address, view.buf, view.len, <void *>stream, device)
            check(result)
    finally:
        PyBuffer_Release(&view)


def to_host(uint64_t address, host, uintptr_t stream, int device):
    """Fill a contiguous, writeable host buffer from a device; the stream has done it on return."""
    cdef Py_buffer view
    cdef fastact_result result
    need_device(device)
    PyObject_GetBuffer(host, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        if view.len:
            with nogil:
                result = fastact_to_host(address, view.buf, view.len, <void *>stream, device)
            check(result)
    finally:
        PyBuffer_Release(&view)


def fill(uint64_t address, bytes pattern not None, size_t count, uintptr_t stream, int device):
    """Write `count` times a pattern of 1, 2 or 4 bytes, in the order of the stream."""
    cdef const unsigned char *bytes = pattern
    cdef int size = <int>len(pattern)
    cdef unsigned word = 0
    cdef fastact_result result
    need_device(device)
    if size not in (1, 2, 4):
        raise ValueError(f"a pattern has 1, 2 or 4 bytes, not {size}")
    for i in range(size):
        word |= <unsigned>bytes[i] << (8 * i)
    if count == 0:
        return
    with nogil:
        result = fastact_fill(address, word, size, count, <void *>stream, device)
    check(result)


def pointer_device(uint64_t address):
    """The device of memory that CUDA knows.

    Raises
    ------
    CudaError
        If the driver does not know the address.
    """
    need()
    cdef int found = -1
    cdef fastact_result result
    with nogil:
        result = fastact_pointer_device(&found, address)
    check(result)
    return found


# ---- streams and events


def synchronize(int device, uintptr_t stream):
    """Wait until all work on a stream is done."""
    need_device(device)
    cdef fastact_result result
    with nogil:
        result = fastact_synchronize(<void *>stream, device)
    check(result)


def own_stream(int device):
    """A stream of fastact's own on a device, which waits for no other; made when first asked for, then kept."""
    need_device(device)
    cdef void *stream = NULL
    cdef fastact_result result
    with nogil:
        result = fastact_own_stream(&stream, device)
    check(result)
    return <uintptr_t>stream


def wait_for(int device, uintptr_t stream, uintptr_t other):
    """Let what is put on a stream from now on wait for all that is on another; the host waits for nothing."""
    need_device(device)
    cdef fastact_result result
    with nogil:
        result = fastact_wait_for(<void *>stream, <void *>other, device)
    check(result)


def capturing(int device, uintptr_t stream):
    """Whether work that is put on a stream goes into a CUDA graph."""
    need_device(device)
    return fastact_capturing(<void *>stream, device) != 0


cdef class Event:
    """A point in the work of a stream.

    Parameters
    ----------
    device : int
    timing : bool
        Whether `elapsed` may be asked for.
    """

    cdef void *event
    cdef readonly int device

    def __init__(self, int device, bint timing=True):
        need_device(device)
        if self.event != NULL:
            raise RuntimeError("an event is made once")
        self.device = device
        check(fastact_event_create(&self.event, timing, device))

    def __dealloc__(self):
        if self.event != NULL and fastact_cuda_state() == FASTACT_CUDA_READY:
            fastact_event_destroy(self.event, self.device)

    cdef int made(self) except -1:
        if self.event == NULL:
            raise RuntimeError("the event was not made")
        return need()

    def record(self, uintptr_t stream):
        """Put the event on a stream of its device."""
        cdef fastact_result result
        self.made()
        with nogil:
            result = fastact_event_record(self.event, <void *>stream, self.device)
        check(result)

    def done(self):
        """Whether the work before it is done; True where it is on no stream."""
        self.made()
        cdef fastact_result result = fastact_event_query(self.event, self.device)
        if result.code == CUDA_NOT_READY:
            return False
        check(result)
        return True

    def elapsed(self, Event later not None):
        """Milliseconds from this event to a later one of the same device, which is waited for."""
        self.made()
        later.made()
        cdef float milliseconds = 0
        cdef fastact_result result
        if later.device != self.device:
            raise ValueError(f"events of devices {self.device} and {later.device} have no time between them")
        with nogil:
            result = fastact_event_elapsed(&milliseconds, self.event, later.event, self.device)
        check(result)
        return milliseconds


# what must live until a device is done with it: (event, objects)
_held = deque()
_held_lock = threading.RLock()


def hold(int device, uintptr_t stream, objects):
    """Keep objects alive until the work that is on a stream is done; looked at in later calls of `hold` and `drop`.

    For memory that its owner may use again as soon as it is let go, without knowing of the stream.
    """
    event = Event(device, False)
    event.record(stream)
    drop()
    with _held_lock:
        _held.append((event, objects))


def drop():
    """Let go what `hold` has kept and whose work is done. Returns how many are still kept."""
    gone = []  # let go outside of the lock
    with _held_lock:
        for _ in range(len(_held)):
            entry = _held.popleft()
            try:
                (gone if entry[0].done() else _held).append(entry)
            except BaseException:
                _held.append(entry)
                raise
        return len(_held)


def _after_fork():
    global _held, _held_lock, _late
    # the parent's work is not done here, and its objects are not this process's to give back
    _held_lock = threading.RLock()
    _forgotten.extend((_held, _late))
    _held, _late = deque(), deque()


_forgotten = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---- memory of one's own


# bits, code of DLPack and type string, by name
_DTYPES = {
    "float16": (16, DLPACK_FLOAT, "<f2"),
    "float32": (32, DLPACK_FLOAT, "<f4"),
    "float64": (64, DLPACK_FLOAT, "<f8"),
    # the type string of ml_dtypes' and of PyTorch's
    "bfloat16": (16, DLPACK_BFLOAT, "<V2"),
    "bool": (8, DLPACK_BOOL, "|b1"),
    **{f"int{8 * n}": (8 * n, DLPACK_INT, f"{'<' if n > 1 else '|'}i{n}") for n in (1, 2, 4, 8)},
    **{f"uint{8 * n}": (8 * n, DLPACK_UINT, f"{'<' if n > 1 else '|'}u{n}") for n in (1, 2, 4, 8)},
}
_DLPACK_DTYPES = {(code, bits): name for name, (bits, code, _) in _DTYPES.items()}

# (device, stream, whether after the legacy default stream, address) of memory that could not go back when it was let
# go: its stream was captured, and the graph must not take that in, or it was let go in a callback of CUDA's
_late = deque()


cdef bint give_back(int device, uintptr_t stream, bint legacy, uint64_t address) except -1:
    """Whether it could go back now."""
    cdef fastact_result result
    cdef bint late
    with nogil:
        late = fastact_capturing(<void *>stream, device)
        if legacy and not late:
            late = fastact_capturing(<void *>1, device)
        if not late:
            if legacy:
                result = fastact_release_after_legacy(address, <void *>stream, device)
            else:
                result = fastact_release(address, <void *>stream, device)
    if late:
        return False
    # the driver is gone before the last objects of a process
    if result.code != CUDA_DEINITIALIZED:
        check(result)
    return True


def _release_late():
    for _ in range(len(_late)):
        try:
            entry = _late.popleft()
        except IndexError:  # another thread was faster
            return
        device, stream, legacy, address = entry
        if not give_back(device, stream, legacy, address):
            _late.append(entry)


cdef class DeviceMemory:
    """A C-contiguous array on a device, whose memory goes back in the order of its stream when it is collected.

    Other libraries take it by ``__cuda_array_interface__`` or ``__dlpack__``. What they do with it on the legacy default
    stream may still be under way when they let it go; on other streams it must be done, as it is with JAX, which keeps
    memory of others until the events of its uses.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
        NumPy's name of a float, of an integer or of bool, or ``"bfloat16"``.
    device : int
    stream : int
        A stream of the device that lives as long as the memory: work on it may use the memory at once.

    Raises
    ------
    CudaMemoryError
        If the device has not so much.
    RuntimeError
        If the stream is being captured: memory of a graph is the graph's.
    """

    cdef readonly tuple shape
    cdef readonly str dtype
    cdef readonly int device
    cdef readonly uintptr_t stream
    cdef readonly uint64_t address
    cdef readonly Py_ssize_t nbytes
    cdef bint legacy  # whether work on the legacy default stream may use it
    cdef object __weakref__

    def __init__(self, shape, str dtype not None, int device, uintptr_t stream):
        cdef fastact_result result
        cdef uint64_t address = 0
        if self.shape is not None:
            raise RuntimeError("memory is made once")
        shape = tuple(n.__index__() for n in shape)
        if any(n < 0 for n in shape):
            raise ValueError(f"negative dimensions are not allowed: {shape}")
        if dtype not in _DTYPES:
            raise TypeError(f"there is no dtype {dtype!r} on a device; there are {', '.join(_DTYPES)}")
        size = _DTYPES[dtype][0] // 8
        for n in shape:
            size *= n
        if size >= 1 << 63:
            raise ValueError(f"an array of shape {shape} is too large")
        need_device(device)
        if fastact_capturing(<void *>stream, device):
            raise RuntimeError("a CUDA graph is being captured, and memory made in it would be the graph's; pass out=")
        if _late:
            _release_late()
        self.nbytes = size
        if size:
            with nogil:
                result = fastact_allocate(&address, self.nbytes, <void *>stream, device)
            check(result)
        self.shape, self.dtype, self.device, self.stream, self.address = shape, dtype, device, stream, address

    def __dealloc__(self):
        if self.address == 0 or fastact_cuda_state() != FASTACT_CUDA_READY:
            return
        if not give_back(self.device, self.stream, self.legacy, self.address):
            _late.append((self.device, self.stream, self.legacy, self.address))

    def __repr__(self):
        return f"<fastact memory on cuda:{self.device}: shape {self.shape}, {self.dtype}>"

    @property
    def strides(self):
        """Bytes from one element to the next along each axis."""
        return contiguous_strides(self.shape, _DTYPES[self.dtype][0] // 8)

    @property
    def __cuda_array_interface__(self):
        """Version 3: whoever takes it works on `stream`, or lets his own wait for it."""
        self.legacy = self.stream > 1
        return {
            "shape": self.shape,
            "typestr": _DTYPES[self.dtype][2],
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream or 1,  # 0 would be ambiguous and is forbidden; 1 is the same stream
            "version": 3,
        }

    def __dlpack_device__(self):
        """Device type and number, as DLPack has them."""
        return DLPACK_CUDA, self.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A DLPack capsule that keeps the memory alive.

        Parameters
        ----------
        stream : int, optional
            The consumer's stream, which is let wait for what is on ours: 1 or None is the legacy default stream, 2 the
            thread's, -1 says that nothing need wait.
        max_version : tuple of int, optional
            From ``(1, 0)`` on the capsule is a versioned one.
        dl_device : tuple of int, optional
            Only the memory's own.
        copy : bool, optional
            Whether the capsule must hold a copy.

        Raises
        ------
        BufferError
            For another device.
        ValueError
            For a stream that DLPack has not.
        """
        cdef uintptr_t consumer
        cdef fastact_result result
        if dl_device is not None and tuple(dl_device) != (DLPACK_CUDA, self.device):
            raise BufferError(f"the memory is on DLPack's device {(DLPACK_CUDA, self.device)}, not {tuple(dl_device)}")
        if stream is None:
            stream = 1
        elif not isinstance(stream, int):
            raise TypeError(f"a stream is an int in DLPack, not {type(stream).__name__}")
        elif stream == 0 or stream < -1:
            raise ValueError(f"{stream} is no stream in DLPack; the legacy default stream is 1")
        need()
        owner = self
        if copy:
            owner = DeviceMemory(self.shape, self.dtype, self.device, self.stream)
            self.copy_into(owner)
        if stream == 1:
            self.legacy = self.stream > 1
        if stream != -1 and stream != (self.stream or 1):
            consumer = stream
            with nogil:
                result = fastact_wait_for(<void *>consumer, <void *>self.stream, self.device)
            check(result)
        versioned = max_version is not None and tuple(max_version) >= (1, 0)
        return capsule_of(owner, versioned, DLPACK_COPIED if copy else 0)

    cdef int copy_into(self, DeviceMemory other) except -1:
        cdef fastact_result result
        if self.nbytes:
            with nogil:
                result = fastact_copy(other.address, self.address, self.nbytes, <void *>self.stream, self.device)
            check(result)
        return 0


# ---- DLPack


cdef void delete_plain(fastact_dlpack *managed) noexcept nogil:
    # the interpreter may be gone before the consumer
    if Py_IsInitialized():
        with gil:
            Py_DECREF(<object>managed.context)
        free(managed)


cdef void delete_versioned(fastact_dlpack_versioned *managed) noexcept nogil:
    if Py_IsInitialized():
        with gil:
            Py_DECREF(<object>managed.context)
        free(managed)


cdef void delete_capsule(object capsule) noexcept:
    """Of a capsule that nobody has consumed: a consumer gives it another name."""
    cdef fastact_dlpack *plain
    cdef fastact_dlpack_versioned *versioned
    if PyCapsule_IsValid(capsule, "dltensor"):
        plain = <fastact_dlpack *>PyCapsule_GetPointer(capsule, "dltensor")
        plain.deleter(plain)
    elif PyCapsule_IsValid(capsule, "dltensor_versioned"):
        versioned = <fastact_dlpack_versioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
        versioned.deleter(versioned)


cdef object capsule_of(DeviceMemory memory, bint versioned, uint64_t flags):
    cdef int ndim = <int>len(memory.shape), i
    cdef size_t head = sizeof(fastact_dlpack_versioned) if versioned else sizeof(fastact_dlpack)
    cdef char *block = <char *>malloc(head + 2 * sizeof(int64_t) * ndim)
    cdef int64_t *shape
    cdef int64_t stride = 1
    cdef fastact_dltensor *tensor
    cdef fastact_dlpack *plain = <fastact_dlpack *>block
    cdef fastact_dlpack_versioned *late = <fastact_dlpack_versioned *>block
    if block == NULL:
        raise MemoryError
    memset(block, 0, head)
    shape = <int64_t *>(block + head)
    if versioned:
        late.version.major, late.version.minor = 1, 0
        late.context, late.deleter, late.flags = <void *>memory, delete_versioned, flags
        tensor = &late.tensor
    else:
        plain.context, plain.deleter = <void *>memory, delete_plain
        tensor = &plain.tensor
    bits, code, _ = _DTYPES[memory.dtype]
    tensor.data = <void *>memory.address
    tensor.device.type, tensor.device.id = DLPACK_CUDA, memory.device
    tensor.ndim = ndim
    tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = code, bits, 1
    tensor.shape, tensor.strides = shape, shape + ndim
    for i in range(ndim - 1, -1, -1):
        shape[i] = memory.shape[i]
        shape[ndim + i] = stride
        stride *= max(shape[i], 1)
    try:
        capsule = PyCapsule_New(
            block, "dltensor_versioned" if versioned else "dltensor", <PyCapsule_Destructor>delete_capsule
        )
    except BaseException:
        free(block)
        raise
    Py_INCREF(memory)
    return capsule


def read_dlpack(capsule):
    """What a DLPack capsule describes; it is not consumed, and its memory lives as long as it does.

    Returns
    -------
    tuple
        Address, shape, strides in bytes, NumPy's name of the dtype (``dlpack(CODE, BITS, LANES)`` where there is none),
        DLPack's device type, number of the device, whether it may be written (as far as the capsule tells).

    Raises
    ------
    BufferError
        If it is consumed already, or of a version that is not known.
    """
    cdef fastact_dltensor *tensor
    cdef fastact_dlpack_versioned *versioned
    cdef bint writeable = True
    cdef int i
    if not PyCapsule_CheckExact(capsule):
        raise TypeError(f"a DLPack capsule is wanted, not {type(capsule).__name__}")
    if PyCapsule_IsValid(capsule, "dltensor_versioned"):
        versioned = <fastact_dlpack_versioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
        if versioned.version.major > 1:
            raise BufferError(f"a DLPack capsule of version {versioned.version.major}; 1 is known")
        tensor = &versioned.tensor
        writeable = not versioned.flags & DLPACK_READ_ONLY
    elif PyCapsule_IsValid(capsule, "dltensor"):
        tensor = &(<fastact_dlpack *>PyCapsule_GetPointer(capsule, "dltensor")).tensor
    else:
        raise BufferError("no DLPack capsule, or one that is consumed already")
    code, bits, lanes = tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes
    name = _DLPACK_DTYPES.get((code, bits)) if lanes == 1 else None
    if name is None:
        name = f"complex{bits}" if code == DLPACK_COMPLEX and lanes == 1 else f"dlpack({code}, {bits}, {lanes})"
    shape = tuple([tensor.shape[i] for i in range(tensor.ndim)])
    itemsize = (bits * lanes + 7) // 8
    if tensor.strides != NULL:
        strides = tuple([tensor.strides[i] * itemsize for i in range(tensor.ndim)])
    else:
        strides = contiguous_strides(shape, itemsize)
    address = <uint64_t>tensor.data + tensor.byte_offset
    return address, shape, strides, name, tensor.device.type, tensor.device.id, writeable


cpdef tuple contiguous_strides(tuple shape, Py_ssize_t itemsize):
    """The strides in bytes of a C-contiguous array."""
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(n, 1)
    return tuple(reversed(strides))


cpdef tuple scaled(tuple strides, Py_ssize_t itemsize):
    """Strides in bytes of strides in elements."""
    cdef Py_ssize_t i, stride
    cdef list found = []
    for i in range(PyTuple_GET_SIZE(strides)):
        stride = <object>PyTuple_GET_ITEM(strides, i)
        found.append(stride * itemsize)
    return tuple(found)
