# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The ufuncs and their one inner loop.

The loop knows no mathematics: it brings inputs into the form that kernels take (docs/design.md, 'Kernel ABI'),
splits long ones into tasks for the pool of threads, and calls a kernel by its address.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from fastact.runtime._numpy_api cimport (
    NPY_METH_NO_FLOATINGPOINT_ERRORS, NPY_METH_strided_loop, PyArray_NewFromDescr, PyArrayMethod_Context,
    PyArrayMethod_Spec, PyCapsule_New, PyType_Slot, PyUFunc_AddLoopFromSpec, PyUFunc_AddPromoter, PyUFuncObject,
)

import sys

import numpy as np

from fastact.spec.messages import no_loop, unsupported

cnp.import_array()
cnp.import_ufunc()


cdef extern from "_pool.h" nogil:
    void fastact_pool_init()
    int fastact_parallel_for(task_fn task, void *context, Py_ssize_t count, int threads)
    void fastact_pool_set_spin(long ns)
    int fastact_pool_workers()
    int fastact_pool_awake()
    int FASTACT_THREADS


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static int fastact_omp_limit(void) { return omp_get_max_threads(); }
    static int fastact_omp_nested(void) { return omp_in_parallel(); }
    #define FASTACT_OPENMP 1
    #else
    static int fastact_omp_limit(void) { return 0; }
    static int fastact_omp_nested(void) { return 0; }
    #define FASTACT_OPENMP 0
    #endif
    """
    int fastact_omp_limit() nogil
    int fastact_omp_nested() nogil
    int FASTACT_OPENMP


cdef extern from *:
    """
    /* NumPy looks at the flags after the casts of a buffered loop: what discarded lanes raise must not be seen there */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    typedef unsigned int fastact_flags;
    static inline fastact_flags fastact_save_flags(void) { return _mm_getcsr(); }
    static inline void fastact_restore_flags(fastact_flags f) { _mm_setcsr(f); }
    #else
    #include <fenv.h>
    typedef fexcept_t fastact_flags;
    static inline fastact_flags fastact_save_flags(void) { fexcept_t f; fegetexceptflag(&f, FE_ALL_EXCEPT); return f; }
    static inline void fastact_restore_flags(fastact_flags f) { fesetexceptflag(&f, FE_ALL_EXCEPT); }
    #endif
    """
    ctypedef unsigned int fastact_flags
    fastact_flags fastact_save_flags() nogil
    void fastact_restore_flags(fastact_flags flags) nogil


cdef extern from "numpy/arrayobject.h":
    object PyArray_SimpleNew(int nd, const cnp.npy_intp *dims, int type_number)
    bint PyArray_ISCARRAY(cnp.ndarray array)
    bint PyArray_ISCARRAY_RO(cnp.ndarray array)
    bint PyArray_CompareLists(const cnp.npy_intp *a, const cnp.npy_intp *b, int n)
    int PyArray_FailUnlessWriteable(cnp.ndarray array, const char *name) except -1


cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    object PyVectorcall_Call(object callable_, PyObject *args, PyObject *kwargs)
    ctypedef struct PyTypeObject:
        Py_ssize_t tp_vectorcall_offset
        unsigned long tp_flags
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    void PyType_Modified(PyTypeObject *)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)


cdef extern from *:
    """
    /* the const of the array of arguments is lost in Cython */
    static PyObject *fastact_vectorcall(PyObject *f, PyObject **args, size_t n, PyObject *kwnames)
    {
        return PyObject_Vectorcall(f, (PyObject *const *)args, n, kwnames);
    }
    """
    object fastact_vectorcall(object f, PyObject **args, size_t n, PyObject *kwnames)


cdef extern from *:
    """
    #define TILE 512      /* elements of a tile; at most 12 arguments of 8 bytes: 48 KiB of stack */
    #define MAX_ARGS 12
    #define MAX_KEYWORDS 8
    #define HOLD_GIL 512  /* elements up to which a call keeps it, as NumPy does */
    #define VECTOR 64     /* bytes that a kernel may take at once */
    #define TILE_BYTES ((TILE * 8 + VECTOR) * MAX_ARGS)
    #define BLOCK_BYTES (VECTOR * (MAX_ARGS + 1))
    """
    enum:
        TILE
        MAX_ARGS
        MAX_KEYWORDS
        HOLD_GIL
        VECTOR
        TILE_BYTES
        BLOCK_BYTES

ctypedef void (*kernel_fn)(void **args, int64_t n, int64_t *psteps, int64_t flags) noexcept nogil


cdef struct Resolved:
    # what a slot calls; never changed nor freed once a thread may have seen it
    void *address           # of the kernel; null where `python` serves
    PyObject *python        # a callable over arrays in the place of a kernel
    Py_ssize_t parallel_min # elements from which on threads pay
    Py_ssize_t chunk        # elements of a task at most
    Resolved *older         # of the same slot


cdef extern from *:
    Resolved *load_pointer(Resolved **where) nogil
    void store_pointer(Resolved **where, Resolved *what) nogil


cdef struct Slot:
    # one dtype of one ufunc
    Resolved *resolved      # null until first needed
    Resolved *newest        # all there have been, to be used again
    PyObject *ufunc_slots   # the UfuncSlots that resolves it
    int dtype
    int nin                 # arrays
    int nparam
    int nout
    Py_ssize_t size         # bytes of an element
    Py_ssize_t granule      # elements that a kernel takes at once


cdef struct Job:
    Slot *slot
    Resolved *resolved
    char *args[MAX_ARGS]
    Py_ssize_t strides[MAX_ARGS]
    int64_t psteps[MAX_ARGS]
    Py_ssize_t n
    Py_ssize_t head   # elements before the outputs are aligned, where they are streamed
    Py_ssize_t chunk  # elements of a task
    bint contiguous
    bint stream


cdef struct Settings:
    int threads
    int omp_at_start
    Py_ssize_t asleep_factor # so many times as much work pays for waking a worker
    Py_ssize_t stream_min   # bytes of output from which on they go past the cache

cdef Settings settings
settings.threads = 1
settings.asleep_factor = 1
settings.stream_min = 1 << 62
settings.omp_at_start = fastact_omp_limit()
fastact_pool_init()


cdef int threads_now() noexcept nogil:
    # OpenMP is asked for limits only (threadpoolctl, omp_set_num_threads, nesting in somebody's parallel region)
    cdef int limit = fastact_omp_limit()
    if fastact_omp_nested():
        return 1
    if limit != settings.omp_at_start and limit < settings.threads:
        return limit if limit > 0 else 1
    return settings.threads


cdef int threads_for(Py_ssize_t n, Py_ssize_t parallel_min) noexcept nogil:
    # for n elements, where threads pay from parallel_min on if the workers are awake
    cdef int threads
    if n < parallel_min:
        return 1
    threads = threads_now()
    if threads > 1 and not fastact_pool_awake() and n // settings.asleep_factor < parallel_min:
        return 1
    return threads


cdef int parallel_for(task_fn task, void *context, Py_ssize_t count, int threads) noexcept nogil:
    return fastact_parallel_for(task, context, count, threads)


# ---- the inner loop

cdef inline void gather(char *target, const char *source, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    if stride == size:
        memcpy(target, source, n * size)
    elif size == 4:
        for i in range(n):
            memcpy(target + 4 * i, source + i * stride, 4)
    elif size == 8:
        for i in range(n):
            memcpy(target + 8 * i, source + i * stride, 8)
    else:
        for i in range(n):
            memcpy(target + 2 * i, source + i * stride, 2)


cdef inline void fill(char *block, const char *value, Py_ssize_t size) noexcept nogil:
    # VECTOR bytes of one value
    cdef uint64_t bits = 0
    cdef Py_ssize_t i
    for i in range(8 // size):
        memcpy(<char *> &bits + i * size, value, size)
    for i in range(VECTOR // 8):
        (<uint64_t *> block)[i] = bits


cdef inline void scatter(char *target, const char *source, Py_ssize_t n, Py_ssize_t stride, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    if stride == size:
        memcpy(target, source, n * size)
    elif size == 4:
        for i in range(n):
            memcpy(target + i * stride, source + 4 * i, 4)
    elif size == 8:
        for i in range(n):
            memcpy(target + i * stride, source + 8 * i, 8)
    else:
        for i in range(n):
            memcpy(target + i * stride, source + 2 * i, 2)


cdef void tiles(Job *job, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    # through contiguous tiles: strided arguments and tails
    cdef Slot *slot = job.slot
    cdef int narg = slot.nin + slot.nparam + slot.nout
    cdef int first_out = slot.nin + slot.nparam
    cdef Py_ssize_t size = slot.size
    cdef char buffer[TILE_BYTES]
    cdef char *base = <char *> ((<uintptr_t> buffer + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
    cdef void *args[MAX_ARGS]
    cdef Py_ssize_t i, n, padded, width = (TILE if high - low > TILE else high - low)
    cdef int j
    width = (width + slot.granule - 1) // slot.granule * slot.granule * size
    i = low
    while i < high:
        n = high - i if high - i < TILE else TILE
        padded = (n + slot.granule - 1) // slot.granule * slot.granule
        for j in range(narg):
            if slot.nin <= j < first_out and job.strides[j] == 0:
                args[j] = job.args[j]
                continue
            if padded == n and job.strides[j] == size:
                args[j] = job.args[j] + i * size
                continue
            args[j] = base + j * width
            if j < first_out:
                gather(<char *> args[j], job.args[j] + i * job.strides[j], n, job.strides[j], size)
                memset(<char *> args[j] + n * size, 0, (padded - n) * size)
        (<kernel_fn> job.resolved.address)(args, padded, job.psteps, 0)
        for j in range(first_out, narg):
            if args[j] == base + j * width:
                scatter(job.args[j] + i * job.strides[j], <char *> args[j], n, job.strides[j], size)
        i += n


cdef void straight(Job *job, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    # contiguous arguments: the kernel works in place, but for a tail
    cdef Slot *slot = job.slot
    cdef void *args[MAX_ARGS]
    cdef Py_ssize_t body = (high - low) // slot.granule * slot.granule
    cdef int j
    if body:
        for j in range(slot.nin + slot.nparam + slot.nout):
            args[j] = job.args[j] + low * job.strides[j]
        (<kernel_fn> job.resolved.address)(args, body, job.psteps, job.stream)
    if low + body < high:
        tiles(job, low + body, high)


cdef inline void span(Job *job, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    if job.contiguous:
        straight(job, low, high)
    else:
        tiles(job, low, high)


cdef void task(void *context, Py_ssize_t index) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef Py_ssize_t low = job.head + index * job.chunk
    cdef Py_ssize_t high = low + job.chunk
    span(job, low, high if high < job.n else job.n)


cdef int call_python(Slot *slot, PyObject *function, char **data, Py_ssize_t n, const cnp.npy_intp *strides) except -1 with gil:
    # a backend without addresses: the callable gets views of the memory
    cdef int narg = slot.nin + slot.nparam + slot.nout
    cdef int first_out = slot.nin + slot.nparam
    cdef cnp.npy_intp shape = n, stride
    cdef int j
    cdef list views = []
    cdef object dtype = (<UfuncSlots> slot.ufunc_slots).dtypes[slot.dtype]
    for j in range(narg):
        stride = strides[j]
        Py_INCREF(dtype)
        views.append(PyArray_NewFromDescr(
            <void *> np.ndarray, <void *> dtype, 1, &shape, &stride, data[j],
            cnp.NPY_ARRAY_WRITEABLE if j >= first_out else 0, NULL,
        ))
    results = (<object> function)(*views[:first_out])
    for out, result in zip(views[first_out:], results):
        out[...] = result
    return 0


cdef Resolved *resolve(Slot *slot) except NULL with gil:
    return (<UfuncSlots> slot.ufunc_slots).resolve(slot.dtype)


cdef bint overlapping(Job *job, int first_out, int narg) noexcept nogil:
    # whether an output shares memory with an input without being the same elements
    cdef Py_ssize_t size = job.slot.size, low_in, high_in, low_out, high_out
    cdef int i, j
    for i in range(first_out, narg):
        low_out = min(0, (job.n - 1) * job.strides[i])
        high_out = max(0, (job.n - 1) * job.strides[i]) + size
        for j in range(first_out):
            if job.args[j] == job.args[i] and job.strides[j] == job.strides[i]:
                continue
            low_in = min(0, (job.n - 1) * job.strides[j])
            high_in = max(0, (job.n - 1) * job.strides[j]) + size
            if job.args[j] + low_in < job.args[i] + high_out and job.args[i] + low_out < job.args[j] + high_in:
                return True
    return False


cdef int inner(Slot *slot, char **data, Py_ssize_t n, const cnp.npy_intp *strides) except -1 nogil:
    cdef Job job
    cdef char blocks[BLOCK_BYTES]
    cdef char *block
    cdef Py_ssize_t size = slot.size, i, bytes_out
    cdef uintptr_t misaligned
    cdef int j, threads, narg = slot.nin + slot.nparam + slot.nout, first_out = slot.nin + slot.nparam
    cdef bint alias = False
    job.resolved = load_pointer(&slot.resolved)
    if job.resolved == NULL:
        job.resolved = resolve(slot)
    if n <= 0:
        return 0
    if job.resolved.python != NULL:
        return call_python(slot, job.resolved.python, data, n, strides)
    job.slot = slot
    job.n = n
    job.head = 0
    job.contiguous = True
    job.stream = False
    block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
    for j in range(narg):
        job.args[j] = data[j]
        job.strides[j] = strides[j]
        if slot.nin <= j < first_out:
            if strides[j] == 0 or n == 1:
                # one value: a block of it, which the kernel reads over and over
                fill(block, data[j], size)
                job.args[j] = block
                job.strides[j] = 0
                job.psteps[j - slot.nin] = 0
                block += VECTOR
                continue
            job.psteps[j - slot.nin] = 1
        if strides[j] != size:
            job.contiguous = job.contiguous and n == 1
            if n == 1:
                job.strides[j] = size
    bytes_out = n * size * slot.nout
    if job.contiguous and bytes_out >= settings.stream_min:
        # streaming needs aligned outputs, all alike, and no input in their place (its lines are in the cache already)
        misaligned = <uintptr_t> job.args[first_out] & (VECTOR - 1)
        for j in range(first_out):
            for i in range(first_out, narg):
                alias = alias or (job.args[j] < job.args[i] + n * size and job.args[i] < job.args[j] + n * size
                                  and not (slot.nin <= j and job.strides[j] == 0))
        for i in range(first_out + 1, narg):
            alias = alias or (<uintptr_t> job.args[i] & (VECTOR - 1)) != misaligned
        if not alias and misaligned % size == 0:
            job.stream = True
            if misaligned:
                job.head = (VECTOR - <Py_ssize_t> misaligned) // size
                tiles(&job, 0, job.head)
    if n >= job.resolved.parallel_min:
        # NumPy lets an output start a little before its input: right in order only
        threads = 1 if overlapping(&job, first_out, narg) else threads_for(n, job.resolved.parallel_min)
        if threads > 1:
            # a share for each thread, however short the array
            i = (n - job.head + threads - 1) // threads
            job.chunk = (min(i, job.resolved.chunk) + slot.granule - 1) // slot.granule * slot.granule
            parallel_for(task, &job, (n - job.head + job.chunk - 1) // job.chunk, threads)
            return 0
    span(&job, job.head, n)
    return 0


cdef inline int quiet(Slot *slot, char **data, Py_ssize_t n, const cnp.npy_intp *strides) except -1 nogil:
    cdef fastact_flags flags = fastact_save_flags()
    inner(slot, data, n, strides)
    fastact_restore_flags(flags)
    return 0


cdef inline Slot *slot_of(PyArrayMethod_Context *context, int dtype) noexcept nogil:
    return &(<Slot *> (<PyUFuncObject *> context.caller).data[0])[dtype]


cdef int loop_0(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return quiet(slot_of(c, 0), data, n[0], s)

cdef int loop_1(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return quiet(slot_of(c, 1), data, n[0], s)

cdef int loop_2(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return quiet(slot_of(c, 2), data, n[0], s)

cdef int loop_3(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return quiet(slot_of(c, 3), data, n[0], s)

cdef void *loops[4]
loops[0] = <void *> loop_0
loops[1] = <void *> loop_1
loops[2] = <void *> loop_2
loops[3] = <void *> loop_3


# ---- dtypes: which one computes

DTYPES = ("float32", "float64", "float16", "bfloat16")

cdef dict KIND_OF = {}  # DType class -> one of DTYPES, or "integer"
for _name in ("float32", "float64", "float16"):
    KIND_OF[type(np.dtype(_name))] = _name
for _char in np.typecodes["AllInteger"] + "?":
    KIND_OF[type(np.dtype(_char))] = "integer"
cdef dict CLASS_OF = {name: cls for cls, name in KIND_OF.items() if name != "integer"}
cdef tuple PYTHON_NUMBERS = ("_PyFloatDType", "_PyLongDType")


cdef str kind_of(cls):
    cdef str kind = KIND_OF.get(cls)
    if kind is None and getattr(cls.type, "__name__", "") == "bfloat16":
        # ml_dtypes', known once it comes along: nobody need have imported it before
        KIND_OF[cls] = kind = "bfloat16"
        CLASS_OF[kind] = cls
    return kind


cdef object class_of(str dtype):
    return CLASS_OF[dtype]


cdef str common(list given):
    # the floating dtype that inputs of these DType classes compute in, or None
    cdef set strong = set()
    for cls in given:
        if cls is None:
            continue
        kind = kind_of(cls)
        if kind is None:
            if cls.__name__ in PYTHON_NUMBERS:
                continue  # they take the dtype of the arrays (NEP 50)
            return None
        strong.add("float64" if kind == "integer" else kind)
    if not strong or "float64" in strong:
        return "float64"
    if len(strong) > 1:
        return "float32"
    return strong.pop()


cdef str loop_dtype(str ufunc, list given, list asked):
    # the dtype of the loop for inputs of these DType classes, where dtype= or signature= ask for some
    cdef str name = common(given)
    if name is None:
        arrays = [cls for cls in given if cls is not None and cls.__name__ not in PYTHON_NUMBERS]
        raise TypeError(unsupported(f"ufunc {ufunc!r}", arrays))
    if asked:
        name = kind_of(asked[0])
        if name is None or name == "integer" or any(cls is not asked[0] for cls in asked):
            raise TypeError(no_loop(f"ufunc {ufunc!r}", asked))
    return name


cdef int promote(PyObject *ufunc, PyObject **op_dtypes, PyObject **signature, PyObject **new_dtypes) except -1:
    cdef PyUFuncObject *u = <PyUFuncObject *> ufunc
    cdef int j
    cdef list given = [<object> op_dtypes[j] if op_dtypes[j] != NULL else None for j in range(u.nin)]
    cdef list asked = [<object> signature[j] for j in range(u.nargs) if signature[j] != NULL]
    cdef str name = loop_dtype(u.name.decode(), given, asked)
    if name == "bfloat16":
        (<UfuncSlots> (<Slot *> u.data[0]).ufunc_slots).add_bfloat16()
    cls = CLASS_OF[name]
    for j in range(u.nargs):
        set_class(u, j, cls, op_dtypes, new_dtypes)
    return 0


cdef void set_class(PyUFuncObject *u, int j, object cls, PyObject **op_dtypes, PyObject **new_dtypes):
    # an output left open fits any loop; NumPy gives up where a promoter changes nothing, though it added the loop
    new_dtypes[j] = NULL
    if j < u.nin or op_dtypes[j] != <PyObject *> cls:
        Py_INCREF(cls)
        new_dtypes[j] = <PyObject *> cls


# ---- building ufuncs

cdef class UfuncSlots:
    """A ufunc together with the kernels of its dtypes.

    Parameters
    ----------
    name, doc : str
    nin, nparam, nout : int
        Arrays, parameters (further inputs, usually scalars) and outputs.
    lock : context manager
        Held while a kernel is found.
    resolver : callable
        ``resolver(dtype_name) -> (address or None, callable or None, parallel_min, chunk)``; elements for the last two.
    """

    cdef readonly object ufunc
    cdef object resolver, lock
    cdef readonly str name
    cdef Slot *slots
    cdef void *data[1]
    cdef bytes c_name, c_doc
    cdef list dtypes
    cdef int nin, nparam, nout

    def __cinit__(self, str name, str doc, int nin, int nparam, int nout, resolver, lock):
        cdef int i, narg = nin + nparam + nout
        if narg > MAX_ARGS:
            raise ValueError(f"{name}: more than {MAX_ARGS} arguments")
        self.name = name
        self.c_name = name.encode()
        self.c_doc = doc.encode()
        self.resolver = resolver
        self.lock = lock
        self.nin, self.nparam, self.nout = nin, nparam, nout
        # never freed: NumPy keeps no reference that would tell when
        self.slots = <Slot *> calloc(len(DTYPES), sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.dtypes = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), None]
        for i, size in enumerate((4, 8, 2, 2)):
            self.slots[i].ufunc_slots = <PyObject *> self
            self.slots[i].dtype = i
            self.slots[i].nin, self.slots[i].nparam, self.slots[i].nout = nin, nparam, nout
            self.slots[i].size = size
            self.slots[i].granule = 8 if size == 8 else 16
        self.data[0] = self.slots
        self.ufunc = cnp.PyUFunc_FromFuncAndData(
            NULL, self.data, NULL, 0, nin + nparam, nout, cnp.PyUFunc_None, self.c_name, self.c_doc, 0
        )
        Py_INCREF(self)  # the ufunc points into this object
        for i in range(3):
            self.add_loop(i)
        everything = (np.dtype,) * narg
        capsule = <object> PyCapsule_New(<void *> promote, "numpy._ufunc_promoter", NULL)
        PyUFunc_AddPromoter(<PyObject *> self.ufunc, <PyObject *> everything, <PyObject *> capsule)

    cdef int add_loop(self, int dtype) except -1:
        cdef PyObject *classes[MAX_ARGS]
        cdef PyType_Slot slots[2]
        cdef PyArrayMethod_Spec spec
        cdef int j
        cls = type(self.dtypes[dtype])
        for j in range(self.nin + self.nparam + self.nout):
            classes[j] = <PyObject *> cls
        slots[0].slot = NPY_METH_strided_loop
        slots[0].pfunc = loops[dtype]
        slots[1].slot = 0
        slots[1].pfunc = NULL
        spec.name = self.c_name
        spec.nin = self.nin + self.nparam
        spec.nout = self.nout
        spec.casting = cnp.NPY_NO_CASTING
        # overflow in discarded lanes is no news, so NumPy need not look
        spec.flags = NPY_METH_NO_FLOATINGPOINT_ERRORS
        spec.dtypes = <void *> classes
        spec.slots = slots
        return PyUFunc_AddLoopFromSpec(<PyObject *> self.ufunc, &spec)

    cdef int add_bfloat16(self) except -1:
        with self.lock:
            if self.dtypes[3] is None:
                self.dtypes[3] = np.dtype(CLASS_OF["bfloat16"].type)
                self.add_loop(3)
        return 0

    cdef Resolved *resolve(self, int dtype) except NULL:
        # ask for the kernel of a dtype and keep it
        # locked until it is stored, or a backend chosen meanwhile would be overwritten by the one before
        with self.lock:
            return self.resolve_locked(dtype)

    cdef Resolved *resolve_locked(self, int dtype) except NULL:
        cdef Slot *slot = &self.slots[dtype]
        cdef Resolved *found
        cdef void *address
        cdef Py_ssize_t parallel_min, chunk
        number, python, parallel_min, chunk = self.resolver(DTYPES[dtype])
        found = slot.newest
        address = <void *> <uintptr_t> (number or 0)
        if (address == NULL) == (python is None):
            raise RuntimeError(f"{self.name}: the backend gave neither an address nor a callable")
        chunk = max(chunk // slot.granule, 1) * slot.granule
        while found != NULL:
            if (found.address == address and found.python == (<PyObject *> python if python is not None else NULL)
                    and found.parallel_min == parallel_min and found.chunk == chunk):
                break
            found = found.older
        if found == NULL:
            found = <Resolved *> calloc(1, sizeof(Resolved))
            if found == NULL:
                raise MemoryError
            found.address, found.parallel_min, found.chunk, found.older = address, parallel_min, chunk, slot.newest
            if python is not None:
                Py_INCREF(python)
                found.python = <PyObject *> python
            slot.newest = found
        store_pointer(&slot.resolved, found)
        return found

    def reset(self):
        """Forget the kernels: the next call asks again."""
        cdef int i
        for i in range(len(DTYPES)):
            store_pointer(&self.slots[i].resolved, NULL)

    def address(self, str dtype):
        """The address of the kernel in use, 0 where there is none."""
        cdef Resolved *found = self.slots[DTYPES.index(dtype)].resolved
        return <uintptr_t> found.address if found != NULL else 0


# ---- fma as a ufunc, for the reference backend

cdef extern from "<math.h>" nogil:
    float c_fmaf "fmaf"(float, float, float)
    double c_fma "fma"(double, double, double)


cdef void fma_float32(char **args, const cnp.npy_intp *n, const cnp.npy_intp *s, void *data) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n[0]):
        (<float *> (args[3] + i * s[3]))[0] = c_fmaf(
            (<float *> (args[0] + i * s[0]))[0], (<float *> (args[1] + i * s[1]))[0], (<float *> (args[2] + i * s[2]))[0])


cdef void fma_float64(char **args, const cnp.npy_intp *n, const cnp.npy_intp *s, void *data) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n[0]):
        (<double *> (args[3] + i * s[3]))[0] = c_fma(
            (<double *> (args[0] + i * s[0]))[0], (<double *> (args[1] + i * s[1]))[0], (<double *> (args[2] + i * s[2]))[0])


cdef cnp.PyUFuncGenericFunction fma_loops[2]
cdef char fma_types[8]
cdef void *fma_data[2]
fma_loops[0], fma_loops[1] = <cnp.PyUFuncGenericFunction> fma_float32, <cnp.PyUFuncGenericFunction> fma_float64
for _i in range(4):
    fma_types[_i], fma_types[4 + _i] = cnp.NPY_FLOAT32, cnp.NPY_FLOAT64
    if _i < 2:
        fma_data[_i] = NULL
fma = cnp.PyUFunc_FromFuncAndData(
    fma_loops, fma_data, fma_types, 2, 3, 1, cnp.PyUFunc_None, b"fma", b"a*b + c rounded once, for float32 and float64.", 0
)


# ---- settings

def configure(*, threads=None, stream_min=None, asleep_factor=None, spin_ns=None):
    """Set the number of threads, the bytes of output from which on stores go past the cache, how many times as much work
    pays for waking a worker, and the workers' patience."""
    if threads is not None:
        settings.threads = threads
    if stream_min is not None:
        settings.stream_min = stream_min
    if asleep_factor is not None:
        settings.asleep_factor = max(1, asleep_factor)
    if spin_ns is not None:
        fastact_pool_set_spin(spin_ns)


def status():
    """What the driver runs with: a dict of threads, threads_now, stream_min, workers, posix_threads, openmp."""
    return {
        "threads": settings.threads,
        "threads_now": threads_now(),
        "stream_min": settings.stream_min,
        "workers": fastact_pool_workers(),
        "threading": "pool of POSIX threads" if FASTACT_THREADS else "none (built without POSIX threads)",
        "openmp": bool(FASTACT_OPENMP),
    }


def computing_dtype(dtypes):
    """The name of the dtype in which inputs of these NumPy dtypes are computed, or None where they are not taken."""
    return common([type(d) for d in dtypes])


# ---- the object a user holds, as far as speed matters

cdef class Callable:
    """Calls a ufunc, made when first needed, with its parameters filled in from their defaults.

    Parameters
    ----------
    make : callable
        Makes the `UfuncSlots`.
    narrays : int
        Arrays, by position.
    names, defaults : tuple
        Of the parameters; a default of None means that the parameter must be given, then also by position.
    check : callable
        ``check({name: value})`` raises for parameters outside their domains.
    variants : tuple or None
        ``(keyword, {value: Callable})``: another callable for a value of a keyword, None for this one.
    at_default : Callable or None
        Takes the calls that give no parameter.
    """

    cdef void *vectorcall
    cdef object make, check, ufunc_, slots_
    cdef Py_ssize_t narrays, nrequired, nparam
    cdef readonly tuple names, defaults
    cdef tuple typed_defaults  # per dtype, as 0-d arrays: NumPy takes them faster than Python floats
    cdef readonly tuple variants
    cdef readonly Callable at_default
    cdef readonly str called

    def __cinit__(self, *args, **kwargs):
        self.vectorcall = <void *> call_vector

    def __init__(self, str called, make, Py_ssize_t narrays, tuple names, tuple defaults, check,
                 variants=None, Callable at_default=None):
        self.called = called
        self.make = make
        self.narrays = narrays
        self.names = names
        self.nparam = len(names)
        self.defaults = defaults
        self.nrequired = sum(d is None for d in defaults)
        self.typed_defaults = () if self.nrequired else tuple(
            tuple(np.array(d, dtype) for d in defaults) for dtype in (np.float32, np.float64, np.float16)
        )
        self.check = check
        self.variants = variants
        self.at_default = at_default

    def __call__(self, *arrays, **kwargs):
        return PyVectorcall_Call(self, <PyObject *> arrays, <PyObject *> kwargs)

    @property
    def slots(self):
        if self.slots_ is None:
            slots = self.make()
            self.ufunc_ = slots.ufunc
            self.slots_ = slots
        return self.slots_

    cdef str keywords(self):
        return ", ".join(self.names + (() if self.variants is None else (self.variants[0],)))

    cdef call_with(self, tuple arrays, dict kwargs):
        # parameters by name, required ones also by position; a variant by its keyword
        cdef dict given = {}
        self.slots
        if self.variants is not None and self.variants[0] in kwargs:
            keyword, choices = self.variants
            value = kwargs.pop(keyword)
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"{self.called}: {keyword} must be one of {', '.join(map(repr, choices))}, not {value!r}")
            if choices[value] is not None:
                return choices[value](*arrays, **kwargs)
        extra = arrays[self.narrays:]
        if len(arrays) < self.narrays or len(extra) > self.nrequired:
            by_name = self.keywords()
            raise TypeError(
                f"{self.called} takes {self.narrays} array{'s' if self.narrays > 1 else ''} by position"
                + (f" and {by_name} by name" if by_name else "")
                + f", not {len(arrays)} argument{'s' if len(arrays) != 1 else ''}"
            )
        params = list(self.defaults)
        required = [name for name, default in zip(self.names, self.defaults) if default is None]
        given.update(zip(required, extra))
        for name in self.names:
            if name in kwargs:
                if name in given:
                    raise TypeError(f"{self.called} got {name} twice")
                given[name] = kwargs.pop(name)
        for name in kwargs:
            if name not in UFUNC_KEYWORDS:
                by_name = self.keywords()
                raise TypeError(
                    f"{self.called}() got an unexpected keyword argument {name!r}; it takes "
                    + (f"{by_name} and " if by_name else "") + "the keywords of a ufunc"
                )
        for name in required:
            if name not in given:
                raise TypeError(f"{self.called}: {name} must be given")
        if given:
            self.check(given)
            params = [given.get(name, default) for name, default in zip(self.names, self.defaults)]
        return self.ufunc_(*arrays[:self.narrays], *params, **kwargs)


cdef int dtype_index(PyObject **arrays, Py_ssize_t n) noexcept:
    # the index of the dtype that all arrays have, or -1
    cdef Py_ssize_t j
    cdef int first = -1, number
    for j in range(n):
        if not cnp.PyArray_CheckExact(<object> arrays[j]):
            return -1
        number = cnp.PyArray_TYPE(<cnp.ndarray> <object> arrays[j])
        if j == 0:
            first = number
        elif number != first:
            return -1
    if first == cnp.NPY_FLOAT32:
        return 0
    if first == cnp.NPY_FLOAT64:
        return 1
    return 2 if first == cnp.NPY_FLOAT16 else -1


cdef str OUT = sys.intern("out")
# whether they choose the dtype
cdef dict UFUNC_KEYWORDS = {"out": False, "where": False, "casting": False, "order": False, "subok": False, "dtype": True,
                            "signature": True, "sig": True}


cdef object call_plain(UfuncSlots slots, int dtype, PyObject **args, Py_ssize_t n, tuple params, PyObject *given_out):
    # Arrays of one shape, contiguous, aligned, in native byte order, with an `out` of that kind or none: what the ufunc
    # does then is no more than this, and relu of 16 elements takes 0.06 us here, 0.34 there (Zen 4). None where it is
    # not so plain.
    cdef Slot *slot = &slots.slots[dtype]
    cdef char *data[MAX_ARGS]
    cdef cnp.npy_intp strides[MAX_ARGS]
    cdef cnp.ndarray first = <cnp.ndarray> args[0], array, out
    cdef int ndim = cnp.PyArray_NDIM(first), nparam = slot.nparam
    cdef Py_ssize_t j, size, total
    cdef size_t bytes
    if ndim == 0 or slot.nout != 1:
        return None
    for j in range(n):
        array = <cnp.ndarray> args[j]
        if not PyArray_ISCARRAY_RO(array) or not same_shape(array, first):
            return None
        data[j] = <char *> cnp.PyArray_DATA(array)
        strides[j] = slot.size
    total = cnp.PyArray_SIZE(first)
    bytes = total * slot.size
    if given_out == NULL:
        out = PyArray_SimpleNew(ndim, cnp.PyArray_DIMS(first), cnp.PyArray_TYPE(first))
    else:
        if not cnp.PyArray_CheckExact(<object> given_out):
            return None
        out = <cnp.ndarray> given_out
        if cnp.PyArray_TYPE(out) != cnp.PyArray_TYPE(first) or not PyArray_ISCARRAY(out) or not same_shape(out, first):
            return None
        PyArray_FailUnlessWriteable(out, b"output array")
        for j in range(n):
            # in place is fine; a part is not
            if data[j] != cnp.PyArray_DATA(out) and <uintptr_t> data[j] < <uintptr_t> cnp.PyArray_DATA(out) + bytes \
                    and <uintptr_t> cnp.PyArray_DATA(out) < <uintptr_t> data[j] + bytes:
                return None
    for j in range(nparam):
        data[n + j] = <char *> cnp.PyArray_DATA(<cnp.ndarray> PyTuple_GET_ITEM(<PyObject *> params, j))
        strides[n + j] = 0
    data[n + nparam] = <char *> cnp.PyArray_DATA(out)
    strides[n + nparam] = slot.size
    if total < HOLD_GIL:
        quiet(slot, data, total, strides)
    else:
        with nogil:
            quiet(slot, data, total, strides)
    return out


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int ndim = cnp.PyArray_NDIM(a)
    return ndim == cnp.PyArray_NDIM(b) and PyArray_CompareLists(cnp.PyArray_DIMS(a), cnp.PyArray_DIMS(b), ndim)


cdef object call_vector(object callable_, PyObject **args, size_t nargsf, PyObject *kwnames):
    # vectorcall (PEP 590): `out=` and the like go straight on to the ufunc
    cdef Callable self = <Callable> callable_
    cdef PyObject *full[MAX_ARGS + MAX_KEYWORDS]
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), j, nkw = 0, k
    cdef int dtype
    cdef tuple params
    cdef bint typed = True, plain = True
    if kwnames != NULL:
        nkw = PyTuple_GET_SIZE(kwnames)
        plain = nkw == 1 and PyTuple_GET_ITEM(kwnames, 0) == <PyObject *> OUT
        if not plain and (self.nparam or self.variants is not None):
            for j in range(nkw):
                key = <object> PyTuple_GET_ITEM(kwnames, j)
                if key in self.names or (self.variants is not None and key == self.variants[0]):
                    return call_unpacked(self, args, n, kwnames)
                chooses = UFUNC_KEYWORDS.get(key)
                if chooses is None:
                    return call_unpacked(self, args, n, kwnames)
                if chooses:
                    typed = False
    if self.at_default is not None:
        return call_vector(self.at_default, args, nargsf, kwnames)
    if self.ufunc_ is None:
        self.slots
    if n != self.narrays or self.nrequired or nkw > MAX_KEYWORDS:
        return call_unpacked(self, args, n, kwnames)
    dtype = dtype_index(args, n)
    if dtype < 0:
        # not all of one dtype that defaults are there for
        return call_unpacked(self, args, n, kwnames)
    if plain:
        result = call_plain(
            <UfuncSlots> self.slots_, dtype, args, n, <tuple> self.typed_defaults[dtype] if self.nparam else None,
            args[n] if nkw else NULL)
        if result is not None:
            return result
    if not self.nparam:
        return fastact_vectorcall(self.ufunc_, args, n, kwnames)
    params = <tuple> self.typed_defaults[dtype] if typed else self.defaults
    for j in range(n):
        full[j] = args[j]
    for j in range(self.nparam):
        full[n + j] = PyTuple_GET_ITEM(<PyObject *> params, j)
    for k in range(nkw):
        full[n + self.nparam + k] = args[n + k]
    return fastact_vectorcall(self.ufunc_, full, n + self.nparam, kwnames)


cdef object call_unpacked(Callable self, PyObject **args, Py_ssize_t n, PyObject *kwnames):
    cdef Py_ssize_t j
    cdef dict kwargs = {}
    if kwnames != NULL:
        for j in range(PyTuple_GET_SIZE(kwnames)):
            kwargs[<object> PyTuple_GET_ITEM(kwnames, j)] = <object> args[n + j]
    return self.call_with(tuple([<object> args[j] for j in range(n)]), kwargs)


def enable_vectorcall(cls):
    """Let calls of a subclass of `Callable` that keeps its ``__call__`` skip the tuple and the dict."""
    cdef PyTypeObject *type_ = <PyTypeObject *> cls
    if not issubclass(cls, Callable) or cls.__call__ is not Callable.__call__:
        raise TypeError(f"{cls.__name__} has a __call__ of its own")
    type_.tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
    PyType_Modified(type_)
    return cls


cdef Callable _example = Callable("", None, 1, (), (), None)
(<PyTypeObject *> Callable).tp_vectorcall_offset = (
    <char *> &_example.vectorcall - <char *> <PyObject *> _example
)
