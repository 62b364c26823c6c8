# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Functions over rows: the gufuncs, their inner loop, and the losses.

The loop knows no mathematics: it brings rows into the form that kernels take (docs/design.md, 'Row kernels'), shares them
out to the pool of threads, and calls a kernel by its address.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memset

cimport numpy as cnp

import numpy as np

from fastact.runtime import _driver

from fastact.runtime._driver cimport class_of, loop_dtype, parallel_for, set_class, threads_for
from fastact.runtime._numpy_api cimport (
    NPY_METH_NO_FLOATINGPOINT_ERRORS, NPY_METH_strided_loop, PyArray_NewFromDescr, PyArrayMethod_Context,
    PyArrayMethod_Spec, PyCapsule_New, PyType_Slot, PyUFunc_AddLoopFromSpec, PyUFunc_AddPromoter, PyUFuncObject,
)

cnp.import_array()
cnp.import_ufunc()


cdef extern from "_rows.h" nogil:
    char *fastact_scratch(size_t bytes)
    ctypedef void (*fastact_pack_fn)(void *, Py_ssize_t, const char *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    ctypedef void (*fastact_unpack_fn)(const void *, Py_ssize_t, char *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    fastact_pack_fn fastact_packs[4]
    fastact_unpack_fn fastact_unpacks[4]
    void fastact_mask_f32(void *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const char *, Py_ssize_t, Py_ssize_t, double)
    void fastact_mask_f64(void *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const char *, Py_ssize_t, Py_ssize_t, double)


cdef extern from "<fenv.h>" nogil:
    int feclearexcept(int)
    int FE_ALL_EXCEPT


ctypedef void (*row_kernel_fn)(void **args, int64_t *strides, int64_t rows, int64_t n, double *params, int64_t flags) noexcept nogil

cdef enum:
    MASK = 2        # index of the mask among a job's arrays
    OUT = 3
    STREAM = 1      # flags of kernels
    VALUE_ONLY = 2
    ROW_BLOCK = 16  # rows that are packed at once: a line of float32
    SCRATCH = 4 << 20


cdef struct Resolved:
    # what a slot calls; never changed nor freed once a thread may have seen it
    void *address           # of the kernel; null where `python` serves
    PyObject *python        # a callable over arrays in the place of a kernel
    Py_ssize_t parallel_min # elements from which on threads pay
    Py_ssize_t chunk        # elements of a task
    Py_ssize_t stream_min   # bytes of output from which on they go past the cache
    Resolved *older         # of the same slot


cdef extern from *:
    Resolved *load_pointer(Resolved **where) nogil
    void store_pointer(Resolved **where, Resolved *what) nogil


cdef struct Slot:
    # one dtype of one function
    Resolved *resolved      # null until first needed
    Resolved *newest        # all there have been, to be used again
    PyObject *owner         # the RowSlots that resolves it
    int dtype
    int nin
    bint reduces            # one value a row
    double fill             # result where the mask does not hold
    double fill_in          # input there
    Py_ssize_t size         # bytes of an element
    Py_ssize_t compute      # bytes of an element of the kernel


cdef struct Job:
    Slot *slot
    Resolved *resolved
    char *data[4]           # inputs, mask, out
    Py_ssize_t outer[4]     # bytes from row to row
    Py_ssize_t core[4]      # bytes from element to element
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t task_rows
    bint direct             # kernels work on the arrays themselves
    bint stream
    bint failed


cdef void direct_rows(Job *job, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    cdef Slot *slot = job.slot
    cdef void *args[3]
    cdef int64_t strides[3]
    cdef int j
    for j in range(slot.nin):
        args[j] = job.data[j] + low * job.outer[j]
        strides[j] = job.outer[j]
    args[slot.nin] = job.data[OUT] + low * job.outer[OUT]
    strides[slot.nin] = job.outer[OUT]
    (<row_kernel_fn> job.resolved.address)(args, strides, high - low, job.n, NULL, STREAM if job.stream else 0)


cdef Py_ssize_t scratch_row(Job *job) noexcept nogil:
    # elements between rows in scratch: whole lines and one more, or rows of 4096 bytes would fall into the same cache set
    return (job.n * job.slot.compute + 63) // 64 * 64 // job.slot.compute + 64 // job.slot.compute


cdef void packed_rows(Job *job, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    cdef Slot *slot = job.slot
    cdef Py_ssize_t row = scratch_row(job), block, rows, out_row
    cdef void *args[3]
    cdef int64_t strides[3]
    cdef char *base
    cdef int j
    block = SCRATCH // (row * slot.compute * slot.nin)
    block = 1 if block < 1 else (ROW_BLOCK if block > ROW_BLOCK else block)
    base = fastact_scratch((row * slot.nin + 1) * block * slot.compute)
    if base == NULL:
        job.failed = True
        return
    while low < high:
        rows = high - low if high - low < block else block
        for j in range(slot.nin):
            args[j] = base + j * block * row * slot.compute
            strides[j] = row * slot.compute
            fastact_packs[slot.dtype](args[j], row, job.data[j] + low * job.outer[j], rows, job.n, job.outer[j], job.core[j])
        if job.data[MASK] != NULL:
            mask_rows(job, args[0], row, low, rows, slot.fill_in)
        if slot.reduces:
            args[1] = base + slot.nin * block * row * slot.compute
            strides[1] = slot.compute
        else:
            args[slot.nin] = args[0]
            strides[slot.nin] = strides[0]
        (<row_kernel_fn> job.resolved.address)(args, strides, rows, job.n, NULL, 0)
        if slot.reduces:
            fastact_unpacks[slot.dtype](args[1], 1, job.data[OUT] + low * job.outer[OUT], rows, 1, job.outer[OUT], slot.size)
        else:
            if job.data[MASK] != NULL:
                mask_rows(job, args[0], row, low, rows, slot.fill)
            fastact_unpacks[slot.dtype](args[0], row, job.data[OUT] + low * job.outer[OUT], rows, job.n, job.outer[OUT], job.core[OUT])
        low += rows


cdef inline void mask_rows(Job *job, void *at, Py_ssize_t row, Py_ssize_t low, Py_ssize_t rows, double fill) noexcept nogil:
    cdef char *mask = job.data[MASK] + low * job.outer[MASK]
    if job.slot.compute == 4:
        fastact_mask_f32(at, row, rows, job.n, mask, job.outer[MASK], job.core[MASK], fill)
    else:
        fastact_mask_f64(at, row, rows, job.n, mask, job.outer[MASK], job.core[MASK], fill)


cdef void task(void *context, Py_ssize_t index) noexcept nogil:
    cdef Job *job = <Job *> context
    cdef Py_ssize_t low = index * job.task_rows, high = low + job.task_rows
    if high > job.rows:
        high = job.rows
    if job.direct:
        direct_rows(job, low, high)
    else:
        packed_rows(job, low, high)


cdef Resolved *resolve(Slot *slot) except NULL with gil:
    return (<RowSlots> slot.owner).resolve(slot.dtype)


cdef int no_memory() except -1 with gil:
    raise MemoryError("no memory for the rows of a block")


cdef object view(object dtype, int nd, cnp.npy_intp *shape, cnp.npy_intp *strides, char *data, bint writeable):
    Py_INCREF(dtype)
    return PyArray_NewFromDescr(<void *> np.ndarray, <void *> dtype, nd, shape, strides, data,
                                cnp.NPY_ARRAY_WRITEABLE if writeable else 0, NULL)


cdef int call_python(Job *job) except -1 with gil:
    # a backend without addresses: the callable gets views of the memory
    cdef Slot *slot = job.slot
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp strides[2]
    cdef int j
    cdef object dtype = (<RowSlots> slot.owner).dtypes[slot.dtype]
    cdef list arrays = []
    shape[0], shape[1] = job.rows, job.n
    for j in range(slot.nin):
        strides[0], strides[1] = job.outer[j], job.core[j]
        arrays.append(view(dtype, 2, shape, strides, job.data[j], False))
    mask = None
    if job.data[MASK] != NULL:
        strides[0], strides[1] = job.outer[MASK], job.core[MASK]
        mask = view(np.dtype(np.bool_), 2, shape, strides, job.data[MASK], False)
    strides[0], strides[1] = job.outer[OUT], job.core[OUT]
    out = view(dtype, 1 if slot.reduces else 2, shape, strides, job.data[OUT], True)
    compute = np.float64 if slot.compute == 8 else np.float32
    arrays = [a.astype(compute) for a in arrays]
    if mask is not None:
        arrays[0] = np.where(mask, arrays[0], compute(slot.fill_in))
    with np.errstate(all="ignore"):
        result = (<object> job.resolved.python)(*arrays)
        if mask is not None and not slot.reduces:
            result = np.where(mask, result, compute(slot.fill))
        out[...] = result.astype(dtype, copy=False)
    return 0


cdef int run(Job *job) except -1 nogil:
    cdef Slot *slot = job.slot
    cdef Py_ssize_t i
    cdef int j, threads
    cdef bint alias = False
    cdef char *end
    job.resolved = load_pointer(&slot.resolved)
    if job.resolved == NULL:
        job.resolved = resolve(slot)
    if job.rows <= 0 or (job.n <= 0 and not slot.reduces):
        return 0
    if job.resolved.python != NULL:
        return call_python(job)
    job.failed = False
    job.stream = False
    job.direct = slot.size == slot.compute and job.data[MASK] == NULL
    for j in range(slot.nin):
        job.direct = job.direct and (job.core[j] == slot.size or job.n == 1)
    if not slot.reduces:
        job.direct = job.direct and (job.core[OUT] == slot.size or job.n == 1)
        if job.direct and job.rows * job.n * slot.size >= job.resolved.stream_min and job.outer[OUT] == job.n * slot.size:
            end = job.data[OUT] + job.rows * job.outer[OUT]
            for j in range(slot.nin):
                alias = alias or (job.data[j] < end and job.data[OUT] < job.data[j] + job.rows * job.outer[j])
            job.stream = not alias and <uintptr_t> job.data[OUT] % slot.size == 0
    job.task_rows = job.rows
    threads = 1
    if job.rows > 1:
        threads = threads_for(job.rows * job.n, job.resolved.parallel_min)
        if threads > 1:
            job.task_rows = min((job.resolved.chunk + job.n - 1) // job.n, (job.rows + threads - 1) // threads)
            if not job.direct:
                job.task_rows = (job.task_rows + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK
    parallel_for(task, job, (job.rows + job.task_rows - 1) // job.task_rows, threads)
    if job.failed:
        no_memory()
    return 0


# ---- the gufuncs

cdef inline int inner(PyArrayMethod_Context *context, int dtype, bint masked, char **data, const cnp.npy_intp *dims,
                      const cnp.npy_intp *steps) except -1 nogil:
    cdef Job job
    cdef Slot *slot = &(<Slot *> (<PyUFuncObject *> context.caller).data[0])[dtype]
    cdef int j, k, narg = slot.nin + masked + 1
    memset(&job, 0, sizeof(Job))
    job.slot = slot
    job.rows, job.n = dims[0], dims[1]
    for j in range(narg):
        k = j if j < slot.nin else (OUT if j == narg - 1 else MASK)
        job.data[k] = data[j]
        job.outer[k] = steps[j]
        # a result without the axis has no step along it
        job.core[k] = steps[narg + j] if j < narg - 1 or not slot.reduces else 0
    run(&job)
    # NumPy looks after gufuncs, whatever their flags say; an underflow of a share is no news
    feclearexcept(FE_ALL_EXCEPT)
    return 0


cdef int loop_0(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 0, False, data, n, s)

cdef int loop_1(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 1, False, data, n, s)

cdef int loop_2(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 2, False, data, n, s)

cdef int loop_3(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 3, False, data, n, s)

cdef int masked_0(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 0, True, data, n, s)

cdef int masked_1(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 1, True, data, n, s)

cdef int masked_2(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 2, True, data, n, s)

cdef int masked_3(PyArrayMethod_Context *c, char **data, const cnp.npy_intp *n, const cnp.npy_intp *s, void *aux) except -1 nogil:
    return inner(c, 3, True, data, n, s)

cdef void *loops[2][4]
loops[0][0], loops[0][1], loops[0][2], loops[0][3] = <void *> loop_0, <void *> loop_1, <void *> loop_2, <void *> loop_3
loops[1][0], loops[1][1], loops[1][2], loops[1][3] = <void *> masked_0, <void *> masked_1, <void *> masked_2, <void *> masked_3

DTYPES = _driver.DTYPES
cdef object BOOL = type(np.dtype(np.bool_))


cdef int promote(PyObject *ufunc, PyObject **op_dtypes, PyObject **signature, PyObject **new_dtypes) except -1:
    cdef PyUFuncObject *u = <PyUFuncObject *> ufunc
    cdef Slot *slot = <Slot *> u.data[0]
    cdef int j
    cdef bint masked = u.nin > slot.nin
    cdef list given = [<object> op_dtypes[j] if op_dtypes[j] != NULL else None for j in range(slot.nin)]
    cdef list asked = [<object> signature[j] for j in range(u.nargs)
                       if signature[j] != NULL and not (masked and j == slot.nin)]
    cdef str name = loop_dtype(u.name.decode(), given, asked)
    if name == "bfloat16":
        (<RowSlots> slot.owner).add_bfloat16()
    for j in range(u.nargs):
        set_class(u, j, BOOL if masked and j == slot.nin else class_of(name), op_dtypes, new_dtypes)
    return 0


cdef class RowSlots:
    """A function over rows: its gufuncs, with and without a mask, and the kernels of its dtypes.

    Parameters
    ----------
    name, doc : str
    nin : int
        Arrays in; 0 makes no gufunc.
    reduces : bool
        Whether a row gives one value.
    fill_in, fill : float
        What the first array counts as, and the result is, where a mask does not hold.
    resolver : callable
        ``resolver(dtype_name) -> (address or None, callable or None, parallel_min, chunk, stream_min)``; the minimum
        and the chunk in elements, the last one in bytes.
    lock : context manager
        Held while a kernel is looked for.
    """

    cdef public object ufunc, masked, resolver
    cdef object lock
    cdef readonly str name
    cdef Slot *slots
    cdef void *data[1]
    cdef bytes c_name, c_doc
    cdef list signatures
    cdef list dtypes
    cdef object __weakref__

    def __cinit__(self, str name, str doc, int nin, bint reduces, double fill_in, double fill, resolver, lock):
        cdef int i
        self.lock = lock
        self.name = name
        self.c_name = name.encode()
        self.c_doc = doc.encode()
        self.resolver = resolver
        # never freed: NumPy keeps no reference that would tell when
        self.slots = <Slot *> calloc(len(DTYPES), sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.dtypes = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), None]
        for i, size in enumerate((4, 8, 2, 2)):
            self.slots[i].owner = <PyObject *> self
            self.slots[i].dtype = i
            self.slots[i].nin = nin
            self.slots[i].reduces = reduces
            self.slots[i].fill_in, self.slots[i].fill = fill_in, fill
            self.slots[i].size = size
            self.slots[i].compute = 8 if size == 8 else 4
        self.data[0] = self.slots
        self.signatures = []
        if nin:
            self.ufunc = self.make(nin, reduces, False)
            self.masked = self.make(nin, reduces, True)

    cdef object make(self, int nin, bint reduces, bint masked):
        cdef int i, narg = nin + masked + 1
        cdef bytes signature = (",".join(["(n)"] * (nin + masked)) + ("->()" if reduces else "->(n)")).encode()
        self.signatures.append(signature)
        ufunc = cnp.PyUFunc_FromFuncAndDataAndSignature(
            NULL, self.data, NULL, 0, nin + masked, 1, cnp.PyUFunc_None, self.c_name, self.c_doc, 0, signature
        )
        Py_INCREF(self)  # the ufunc points into this object
        for i in range(3):
            self.add_loop(ufunc, i, masked)
        capsule = <object> PyCapsule_New(<void *> promote, "numpy._ufunc_promoter", NULL)
        everything = (np.dtype,) * narg
        PyUFunc_AddPromoter(<PyObject *> ufunc, <PyObject *> everything, <PyObject *> capsule)
        return ufunc

    cdef int add_loop(self, object ufunc, int dtype, bint masked) except -1:
        cdef PyObject *classes[4]
        cdef PyType_Slot slots[2]
        cdef PyArrayMethod_Spec spec
        cdef int j, nin = self.slots[0].nin
        cls = type(self.dtypes[dtype])
        for j in range(nin + masked + 1):
            classes[j] = <PyObject *> (BOOL if masked and j == nin else cls)
        slots[0].slot = NPY_METH_strided_loop
        slots[0].pfunc = loops[masked][dtype]
        slots[1].slot = 0
        slots[1].pfunc = NULL
        spec.name = self.c_name
        spec.nin = nin + masked
        spec.nout = 1
        spec.casting = cnp.NPY_NO_CASTING
        spec.flags = NPY_METH_NO_FLOATINGPOINT_ERRORS
        spec.dtypes = <void *> classes
        spec.slots = slots
        return PyUFunc_AddLoopFromSpec(<PyObject *> ufunc, &spec)

    cdef int add_bfloat16(self) except -1:
        with self.lock:
            if self.dtypes[3] is None:
                self.dtypes[3] = np.dtype(class_of("bfloat16").type)
                self.add_loop(self.ufunc, 3, False)
                self.add_loop(self.masked, 3, True)
        return 0

    cdef Resolved *resolve(self, int dtype) except NULL:
        # locked until it is stored, or a backend chosen meanwhile would be overwritten by the one before
        with self.lock:
            return self.resolve_locked(dtype)

    cdef Resolved *resolve_locked(self, int dtype) except NULL:
        cdef Slot *slot = &self.slots[dtype]
        cdef Resolved *found = slot.newest
        cdef Resolved new
        number, python, new.parallel_min, new.chunk, new.stream_min = self.resolver(DTYPES[dtype])
        new.address = <void *> <uintptr_t> (number or 0)
        new.python = NULL if python is None else <PyObject *> python
        if (new.address == NULL) == (new.python == NULL):
            raise RuntimeError(f"{self.name}: the backend gave neither an address nor a callable")
        while found != NULL:
            if (found.address == new.address and found.python == new.python and found.chunk == new.chunk
                    and found.parallel_min == new.parallel_min and found.stream_min == new.stream_min):
                break
            found = found.older
        if found == NULL:
            found = <Resolved *> calloc(1, sizeof(Resolved))
            if found == NULL:
                raise MemoryError
            found[0] = new
            found.older = slot.newest
            if python is not None:
                Py_INCREF(python)
            slot.newest = found
        store_pointer(&slot.resolved, found)
        return found

    def reset(self):
        """Forget the kernels: the next call asks again."""
        cdef int i
        for i in range(len(DTYPES)):
            store_pointer(&self.slots[i].resolved, NULL)

    cpdef object direct(self, tuple arrays, object out):
        """The function along the last axis of contiguous arrays of one shape and dtype; None where they are not.

        NumPy's machinery would take longer to find that out, and would copy an input that is the output.
        """
        cdef Job job
        cdef Slot *slot
        cdef cnp.ndarray x, a, result
        cdef int j, nd, number, dtype
        cdef Py_ssize_t bytes_
        first = arrays[0]
        if not cnp.PyArray_CheckExact(first):
            return None
        x = first
        number = cnp.PyArray_TYPE(x)
        nd = cnp.PyArray_NDIM(x)
        if number == cnp.NPY_FLOAT32:
            dtype = 0
        elif number == cnp.NPY_FLOAT64:
            dtype = 1
        else:
            return None
        if nd == 0 or not cnp.PyArray_ISCARRAY_RO(x) or cnp.PyArray_SIZE(x) == 0:
            return None
        slot = &self.slots[dtype]
        for j in range(1, slot.nin):
            if not same_layout(arrays[j], x, number):
                return None
        if out is None:
            result = cnp.PyArray_EMPTY(nd - slot.reduces, cnp.PyArray_DIMS(x), number, 0)
        else:
            if slot.reduces or not same_layout(out, x, number) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
                return None
            result = out
            bytes_ = cnp.PyArray_NBYTES(x)
            for j in range(slot.nin):
                a = arrays[j]
                if (cnp.PyArray_BYTES(a) != cnp.PyArray_BYTES(result)
                        and cnp.PyArray_BYTES(a) < cnp.PyArray_BYTES(result) + bytes_
                        and cnp.PyArray_BYTES(result) < cnp.PyArray_BYTES(a) + bytes_):
                    return None
        memset(&job, 0, sizeof(Job))
        job.slot = slot
        job.n = cnp.PyArray_DIM(x, nd - 1)
        job.rows = cnp.PyArray_SIZE(x) // job.n
        for j in range(slot.nin):
            a = arrays[j]
            job.data[j] = cnp.PyArray_BYTES(a)
            job.outer[j] = job.n * slot.size
            job.core[j] = slot.size
        job.data[OUT] = cnp.PyArray_BYTES(result)
        job.outer[OUT] = slot.size if slot.reduces else job.n * slot.size
        job.core[OUT] = slot.size
        with nogil:
            run(&job)
        return result if out is not None or nd > slot.reduces else result[()]

    def call(self, tuple arrays, object axis, object where, object out, dict kwargs):
        """The function of arrays along an axis: the last one of contiguous arrays at once, else by a gufunc."""
        cdef object result
        if type(out) is tuple and len(out) == 1:
            out = out[0]
        if where is None and not kwargs and axis == -1:
            result = self.direct(arrays, out)
            if result is not None:
                return result
        if out is not None:
            kwargs["out"] = out
        if where is not None:
            return self.masked(*arrays, where, axis=axis, **kwargs)
        return self.ufunc(*arrays, axis=axis, **kwargs)


cdef inline bint same_layout(object other, cnp.ndarray x, int number):
    cdef cnp.ndarray a
    cdef int j
    if not cnp.PyArray_CheckExact(other):
        return False
    a = other
    if cnp.PyArray_TYPE(a) != number or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(x) or not cnp.PyArray_ISCARRAY_RO(a):
        return False
    for j in range(cnp.PyArray_NDIM(x)):
        if cnp.PyArray_DIM(a, j) != cnp.PyArray_DIM(x, j):
            return False
    return True


# ---- losses

cdef struct LossJob:
    Slot *slot
    Resolved *resolved
    void *args[7]
    int64_t strides[7]
    int narg
    int work            # the argument that scratch replaces, -1: none
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t task_rows
    double factor
    int64_t flags
    bint failed


cdef void loss_task(void *context, Py_ssize_t index) noexcept nogil:
    cdef LossJob *job = <LossJob *> context
    cdef Py_ssize_t low = index * job.task_rows, high = low + job.task_rows
    cdef void *args[7]
    cdef int j
    if high > job.rows:
        high = job.rows
    for j in range(job.narg):
        args[j] = NULL if job.args[j] == NULL else <char *> job.args[j] + low * job.strides[j]
    if job.work >= 0:
        args[job.work] = fastact_scratch(job.n * job.slot.compute)
        if args[job.work] == NULL:
            job.failed = True
            return
    (<row_kernel_fn> job.resolved.address)(args, job.strides, high - low, job.n, &job.factor, job.flags)


cdef int run_loss(LossJob *job) except -1:
    cdef int threads = 1
    cdef Py_ssize_t n = job.n if job.n > 0 else 1
    job.failed = False
    if job.rows == 0:
        return 0
    with nogil:
        job.task_rows = job.rows
        if job.rows > 1:
            threads = threads_for(job.rows * n, job.resolved.parallel_min)
            if threads > 1:
                job.task_rows = min((job.resolved.chunk + n - 1) // n, (job.rows + threads - 1) // threads)
        parallel_for(loss_task, job, (job.rows + job.task_rows - 1) // job.task_rows, threads)
    if job.failed:
        raise MemoryError("no memory for a row")
    return 0


cdef double pairwise_f32(const float *x, Py_ssize_t n) noexcept nogil:
    # in float64, in an order that depends on n alone
    cdef double s = 0.0
    cdef Py_ssize_t i
    if n <= 128:
        for i in range(n):
            s += x[i]
        return s
    i = n // 2
    return pairwise_f32(x, i) + pairwise_f32(x + i, n - i)


cdef double pairwise_f64(const double *x, Py_ssize_t n) noexcept nogil:
    cdef double s = 0.0
    cdef Py_ssize_t i
    if n <= 128:
        for i in range(n):
            s += x[i]
        return s
    i = n // 2
    return pairwise_f64(x, i) + pairwise_f64(x + i, n - i)


def pairwise(cnp.ndarray x):
    """The sum of a contiguous array of float32 or float64, in float64, in an order that depends on its length alone."""
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        return pairwise_f32(<float *> cnp.PyArray_DATA(x), cnp.PyArray_SIZE(x))
    return pairwise_f64(<double *> cnp.PyArray_DATA(x), cnp.PyArray_SIZE(x))


cdef Slot *prepare(LossJob *job, RowSlots slots, cnp.ndarray x) except NULL:
    cdef int dtype = 0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1
    job.slot = &slots.slots[dtype]
    job.resolved = load_pointer(&job.slot.resolved)
    if job.resolved == NULL:
        job.resolved = slots.resolve(dtype)
    return job.slot


cdef inline void *data_of(object array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


def cross_entropy(RowSlots slots, cnp.ndarray x, cnp.ndarray labels, object weights, cnp.ndarray loss, object dx, double factor):
    """Losses and gradients of rows by label; contiguous arrays of float32 or float64 and int64 labels, -1: not counted."""
    cdef LossJob job
    cdef Slot *slot = prepare(&job, slots, x)
    if job.resolved.python != NULL:
        (<object> job.resolved.python)(x, labels, weights, loss, dx, factor)
        return
    cdef Py_ssize_t n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    job.narg = 5
    job.rows, job.n, job.factor = cnp.PyArray_SIZE(labels), n, factor
    job.args[0], job.args[1], job.args[2] = cnp.PyArray_DATA(x), cnp.PyArray_DATA(labels), data_of(weights)
    job.args[3], job.args[4] = cnp.PyArray_DATA(loss), data_of(dx)
    job.strides[0], job.strides[1], job.strides[2] = n * slot.size, 8, 0
    job.strides[3], job.strides[4] = slot.size, 0 if dx is None else n * slot.size
    job.work = 4 if dx is None else -1
    job.flags = VALUE_ONLY if dx is None else 0
    run_loss(&job)


def cross_entropy_of_shares(RowSlots slots, cnp.ndarray x, cnp.ndarray targets, cnp.ndarray loss, object dx, double factor):
    """Losses and gradients of rows by targets; contiguous arrays of float32 or float64."""
    cdef LossJob job
    cdef Slot *slot = prepare(&job, slots, x)
    if job.resolved.python != NULL:
        (<object> job.resolved.python)(x, targets, loss, dx, factor)
        return
    cdef Py_ssize_t n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    job.narg = 4
    job.rows, job.n, job.factor = cnp.PyArray_SIZE(loss), n, factor
    job.args[0], job.args[1] = cnp.PyArray_DATA(x), cnp.PyArray_DATA(targets)
    job.args[2], job.args[3] = cnp.PyArray_DATA(loss), data_of(dx)
    job.strides[0], job.strides[1] = n * slot.size, n * slot.size
    job.strides[2], job.strides[3] = slot.size, 0 if dx is None else n * slot.size
    job.work = -1
    job.flags = VALUE_ONLY if dx is None else 0
    run_loss(&job)


def sigmoid_cross_entropy(RowSlots slots, cnp.ndarray x, cnp.ndarray targets, object weights, object positive,
                          cnp.ndarray sums, object dx, object losses, Py_ssize_t n, double factor):
    """Sums of losses of every `n` elements, losses and gradients; contiguous arrays of float32 or float64."""
    cdef LossJob job
    cdef Slot *slot = prepare(&job, slots, x)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(x), whole = size // n
    cdef int j
    if job.resolved.python != NULL:
        (<object> job.resolved.python)(x, targets, weights, positive, sums, dx, losses, n, factor)
        return
    job.narg = 7
    for j, array in enumerate((x, targets, weights, positive, sums, dx, losses)):
        job.args[j] = data_of(array)
        job.strides[j] = 0 if array is None else n * slot.size
    job.strides[4] = slot.size
    job.factor = factor
    job.flags = VALUE_ONLY if dx is None else 0
    job.work = -1
    job.rows, job.n = whole, n
    run_loss(&job)
    if whole * n < size:
        # the rest, as a shorter row
        for j in range(7):
            if job.args[j] != NULL:
                job.args[j] = <char *> job.args[j] + whole * job.strides[j]
        job.rows, job.n = 1, size - whole * n
        run_loss(&job)


def fast_cross_entropy(RowSlots slots, object logits, object labels, object out, bint grad):
    """(mean loss, gradient or None) for contiguous logits and int64 labels, all in range; None for anything else."""
    cdef cnp.ndarray x, y, loss, dx
    cdef Py_ssize_t n, rows, i
    cdef int number, nd, j
    cdef const int64_t *label
    cdef int64_t low = 0, high = -1
    cdef double mean
    if not cnp.PyArray_CheckExact(logits) or not cnp.PyArray_CheckExact(labels):
        return None
    x, y = logits, labels
    number, nd = cnp.PyArray_TYPE(x), cnp.PyArray_NDIM(x)
    if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64:
        return None
    if (cnp.PyArray_TYPE(y) != cnp.NPY_INT64 or nd == 0 or cnp.PyArray_NDIM(y) != nd - 1
            or not cnp.PyArray_ISCARRAY_RO(x) or not cnp.PyArray_ISCARRAY_RO(y)):
        return None
    for j in range(nd - 1):
        if cnp.PyArray_DIM(x, j) != cnp.PyArray_DIM(y, j):
            return None
    n, rows = cnp.PyArray_DIM(x, nd - 1), cnp.PyArray_SIZE(y)
    if n == 0 or rows == 0:
        return None
    if out is not None and (not grad or not same_layout(out, x, number) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
                            or overlaps(out, x) or overlaps(out, y)):
        return None
    label = <const int64_t *> cnp.PyArray_DATA(y)
    for i in range(rows):
        low = label[i] if label[i] < low else low
        high = label[i] if label[i] > high else high
    if low < 0 or high >= n:
        return None
    dx = None
    if grad:
        dx = out if out is not None else cnp.PyArray_EMPTY(nd, cnp.PyArray_DIMS(x), number, 0)
    loss = cnp.PyArray_EMPTY(nd - 1, cnp.PyArray_DIMS(x), number, 0)
    cross_entropy(slots, x, y, None, loss, dx, 1.0 / rows)
    mean = (pairwise_f32(<float *> cnp.PyArray_DATA(loss), rows) if number == cnp.NPY_FLOAT32
            else pairwise_f64(<double *> cnp.PyArray_DATA(loss), rows)) / rows
    return (np.float32(mean) if number == cnp.NPY_FLOAT32 else np.float64(mean)), dx


cdef inline bint overlaps(cnp.ndarray out, cnp.ndarray x) noexcept:
    # other than being the same memory
    cdef char *a = cnp.PyArray_BYTES(out)
    cdef char *b = cnp.PyArray_BYTES(x)
    return (a != b or cnp.PyArray_NBYTES(out) != cnp.PyArray_NBYTES(x)) and (
        a < b + cnp.PyArray_NBYTES(x) and b < a + cnp.PyArray_NBYTES(out))
