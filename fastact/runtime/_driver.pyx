# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Ufuncs, gufuncs and fused functions over the driver of kernels (driver.h): NumPy arrays in, jobs out.

It knows no mathematics: what a function runs, its resolver says.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.math cimport INFINITY, sqrt as c_sqrt, sqrtf as c_sqrtf
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

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


cdef extern from "fused.h" nogil:
    enum: FASTACT_ARGS, FASTACT_STAGES, FASTACT_TEMPS, FASTACT_MAP, FASTACT_ROWS, FASTACT_STREAM, FASTACT_VALUE_ONLY, FASTACT_CAUSAL
    enum: FASTACT_WHOLE, FASTACT_FORMS
    enum: FASTACT_ARRAY, FASTACT_CHANNEL, FASTACT_VALUE, FASTACT_SUM, FASTACT_RANDOM
    enum: FASTACT_THREADS, FASTACT_OPENMP, VECTOR, NARROW
    ctypedef void (*fastact_kernel)(const fastact_call *) noexcept
    ctypedef struct fastact_call:
        char *data[1]
        int64_t row_step[1]
        int64_t step[1]
        int64_t rows, n, row0, col0
        const double *scalars
        uint64_t seed, offset
        int64_t flags
    ctypedef struct fastact_stage:
        fastact_kernel kernel
        int narg
        unsigned char place[1]
    ctypedef struct fastact_resolved:
        int nstage
        fastact_stage stages[1]
        bint arithmetic
        void *python
        Py_ssize_t parallel_min, chunk
        fastact_resolved *older
    ctypedef struct fastact_slot:
        fastact_resolved *resolved
        fastact_resolved *newest
        void *owner
        int dtype, loop, nin, nparam, nout
        Py_ssize_t size, compute, granule
        unsigned char like[1]
        int random
        bint reduces, side
        int masked, phases, form
        double fill_in, fill
    ctypedef struct fastact_job:
        const fastact_slot *slot
        const fastact_resolved *resolved
        int narg
        char *data[1]
        Py_ssize_t row_step[1]
        Py_ssize_t step[1]
        Py_ssize_t rows, n
        const char *mask
        Py_ssize_t mask_row, mask_step
        const double *scalars
        int64_t flags
        int scratch_arg
        bint direct, stream, failed
        bint one[1]
        uint64_t seed, offset
        int form, threads
    ctypedef struct fastact_fused:
        fastact_job job
        int role[1]
        Py_ssize_t outer, channel, inner
        int nsum
        char *partial
    void fastact_driver_init()
    int fastact_threads_now()
    void fastact_run_map(fastact_job *job, char *blocks)
    void fastact_plan_rows(fastact_job *job)
    void fastact_plan_threads(fastact_job *job)
    void fastact_run_rows(fastact_job *job)
    void fastact_run_fused(fastact_fused *f, char **repeated)
    void fastact_run_apart(fastact_fused *f)
    Py_ssize_t fastact_side_by_side(Py_ssize_t columns)
    int fastact_combine(const fastact_fused *f, int s, char *to)
    void fastact_add_f32(const fastact_call *)
    void fastact_add_f64(const fastact_call *)
    void fastact_sub_f32(const fastact_call *)
    void fastact_sub_f64(const fastact_call *)
    void fastact_mul_f32(const fastact_call *)
    void fastact_mul_f64(const fastact_call *)
    void fastact_copy_f32(const fastact_call *)
    void fastact_copy_f64(const fastact_call *)
    void fastact_normed_f32(const fastact_call *)
    void fastact_normed_f64(const fastact_call *)
    void fastact_normed_grad_f32(const fastact_call *)
    void fastact_normed_grad_f64(const fastact_call *)
    void fastact_keep_f32(const fastact_call *)
    void fastact_keep_f64(const fastact_call *)
    void fastact_numbers_f32(const fastact_call *)
    void fastact_numbers_f64(const fastact_call *)
    void fastact_dropout_f32(const fastact_call *)
    void fastact_dropout_f64(const fastact_call *)
    int fastact_philox_level
    void fastact_philox_init(int most)
    void fastact_pack_init(int most)
    void fastact_fill(char *block, const char *value, Py_ssize_t size)
    void fastact_pool_set_spin(long ns)
    int fastact_pool_workers()


cdef extern from "norms.h" nogil:
    ctypedef struct fastact_array:
        char *data
        Py_ssize_t row, group, step
    ctypedef struct fastact_normed:
        const fastact_slot *slot
        const fastact_resolved *resolved
        const fastact_resolved *again
        const fastact_job *then
        Py_ssize_t groups, rows, n
        int nin, nout, ncol, nstat, nsum
        fastact_array in_ "in"[1]
        fastact_array out[1]
        char *col[1]
        char *stats
        char *sums[1]
        double eps
        bint stream, failed
    void fastact_run_normed(fastact_normed *f)
    void fastact_run_gradients(fastact_normed *f)


cdef extern from "labels.h" nogil:
    ctypedef struct fastact_labelled:
        char *x
        char *values
        const int64_t *labels
        Py_ssize_t outer, classes, inner, size
    Py_ssize_t fastact_check_labels(int64_t *labels, Py_ssize_t n, int64_t classes, bint ignores, int64_t ignored)
    void fastact_run_labels(fastact_labelled *f, bint put, Py_ssize_t parallel_min, Py_ssize_t chunk)


cdef extern from "checks.h" nogil:
    ctypedef struct fastact_checked:
        const char *x
        Py_ssize_t size, rows, n
        double tolerance
    bint fastact_run_check(fastact_checked *f, Py_ssize_t parallel_min)


cdef extern from "led.h" nogil:
    enum: FASTACT_LED_AXES, FASTACT_LED_ARGS
    ctypedef struct fastact_led:
        fastact_job job
        int axes
        Py_ssize_t length[1]
        Py_ssize_t apart[1][4]
        Py_ssize_t mask_apart[1]
    void fastact_plan_led(fastact_led *f)
    void fastact_run_led(fastact_led *f)


cdef extern from *:
    """
    /* NumPy looks at the flags after the casts of a buffered loop: what discarded lanes raise must not be seen there */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    typedef unsigned int fastact_fp_flags;
    static inline fastact_fp_flags fastact_save_flags(void) { return _mm_getcsr(); }
    static inline void fastact_restore_flags(fastact_fp_flags f) { _mm_setcsr(f); }
    #else
    #include <fenv.h>
    typedef fexcept_t fastact_fp_flags;
    static inline fastact_fp_flags fastact_save_flags(void) { fexcept_t f; fegetexceptflag(&f, FE_ALL_EXCEPT); return f; }
    static inline void fastact_restore_flags(fastact_fp_flags f) { fesetexceptflag(&f, FE_ALL_EXCEPT); }
    #endif
    #include <fenv.h>
    static inline void fastact_clear_flags(void) { feclearexcept(FE_ALL_EXCEPT); }
    #define BLOCKS (VECTOR * (FASTACT_ARGS + 1))
    static inline int *fastact_threads_setting(void) { return &fastact_settings.threads; }
    static inline ptrdiff_t *fastact_asleep_setting(void) { return &fastact_settings.asleep_factor; }
    static inline ptrdiff_t *fastact_asleep_chunks(void) { return &fastact_settings.asleep_chunks; }
    static inline ptrdiff_t *fastact_stream_setting(void) { return &fastact_settings.stream_min; }
    #if defined(__GNUC__)
    #define load_pointer(where) __atomic_load_n(where, __ATOMIC_ACQUIRE)
    #define store_pointer(where, what) __atomic_store_n(where, what, __ATOMIC_RELEASE)
    #else
    #define load_pointer(where) (*(where))
    #define store_pointer(where, what) (*(where) = (what))
    #endif
    """
    ctypedef unsigned int fastact_fp_flags
    fastact_fp_flags fastact_save_flags() nogil
    void fastact_restore_flags(fastact_fp_flags flags) nogil
    void fastact_clear_flags() nogil
    enum: BLOCKS
    int *fastact_threads_setting() nogil
    Py_ssize_t *fastact_asleep_setting() nogil
    Py_ssize_t *fastact_asleep_chunks() nogil
    Py_ssize_t *fastact_stream_setting() nogil
    fastact_resolved *load_pointer(fastact_resolved **where) nogil
    void store_pointer(fastact_resolved **where, fastact_resolved *what) nogil


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
    bint PyFloat_Check(PyObject *)
    double PyFloat_AS_DOUBLE(PyObject *)
    bint PyBool_Check(PyObject *)


cdef extern from *:
    """
    /* the const of the array of arguments is lost in Cython */
    static PyObject *fastact_vectorcall(PyObject *f, PyObject **args, size_t n, PyObject *kwnames)
    {
        return PyObject_Vectorcall(f, (PyObject *const *)args, n, kwnames);
    }
    """
    object fastact_vectorcall(object f, PyObject **args, size_t n, PyObject *kwnames)


cdef enum:
    NDTYPES = 4
    MAX_SCALARS = 8
    MAX_KEYWORDS = 8
    HOLD_GIL = 512  # elements up to which a call keeps it, as NumPy does

fastact_driver_init()

# of rows that lie apart: below so many they are not stored past the cache
NARROW_BYTES = NARROW
# the arithmetic between stages, and what makes random numbers: address by (operation, dtype)
ARITHMETIC = {
    ("add", "float32"): <uintptr_t> &fastact_add_f32, ("add", "float64"): <uintptr_t> &fastact_add_f64,
    ("sub", "float32"): <uintptr_t> &fastact_sub_f32, ("sub", "float64"): <uintptr_t> &fastact_sub_f64,
    ("mul", "float32"): <uintptr_t> &fastact_mul_f32, ("mul", "float64"): <uintptr_t> &fastact_mul_f64,
    ("copy", "float32"): <uintptr_t> &fastact_copy_f32, ("copy", "float64"): <uintptr_t> &fastact_copy_f64,
    ("normed", "float32"): <uintptr_t> &fastact_normed_f32, ("normed", "float64"): <uintptr_t> &fastact_normed_f64,
    ("normed_grad", "float32"): <uintptr_t> &fastact_normed_grad_f32,
    ("normed_grad", "float64"): <uintptr_t> &fastact_normed_grad_f64,
    ("keep", "float32"): <uintptr_t> &fastact_keep_f32, ("keep", "float64"): <uintptr_t> &fastact_keep_f64,
    ("numbers", "float32"): <uintptr_t> &fastact_numbers_f32, ("numbers", "float64"): <uintptr_t> &fastact_numbers_f64,
    ("dropout", "float32"): <uintptr_t> &fastact_dropout_f32, ("dropout", "float64"): <uintptr_t> &fastact_dropout_f64,
}
OWN = frozenset(ARITHMETIC.values())


# ---- calls

cdef fastact_resolved *resolve(fastact_slot *slot) except NULL with gil:
    return (<Function> slot.owner).resolve(slot)


cdef inline fastact_resolved *resolved_of(fastact_slot *slot) except NULL nogil:
    cdef fastact_resolved *found = load_pointer(&slot.resolved)
    return found if found != NULL else resolve(slot)


cdef int no_memory() except -1 with gil:
    raise MemoryError("no memory for the rows of a task")


cdef object view(object dtype, int nd, cnp.npy_intp *shape, cnp.npy_intp *strides, char *data, bint writeable):
    Py_INCREF(dtype)
    return PyArray_NewFromDescr(<void *> np.ndarray, <void *> dtype, nd, shape, strides, data,
                                cnp.NPY_ARRAY_WRITEABLE if writeable else 0, NULL)


cdef int map_in_python(fastact_slot *slot, PyObject *function, char **data, Py_ssize_t n,
                       const cnp.npy_intp *strides, const char *mask) except -1 with gil:
    # a backend without addresses: the callable gets views of the memory
    cdef int narg = slot.nin + slot.nparam + slot.nout, first_out = slot.nin + slot.nparam, j
    cdef cnp.npy_intp shape = n, stride
    cdef object dtype = (<Function> slot.owner).dtypes[slot.dtype]
    cdef list views = []
    for j in range(narg):
        stride = strides[j]
        views.append(view(dtype, 1, &shape, &stride, data[j], j >= first_out))
    stride = 1
    where = True if mask == NULL else view(np.dtype(np.bool_), 1, &shape, &stride, <char *> mask, False)
    for out, result in zip(views[first_out:], (<object> function)(*views[:first_out])):
        np.copyto(out, result, where=where)
    return 0


cdef int call_map(fastact_slot *slot, char **data, Py_ssize_t n, const cnp.npy_intp *strides,
                  const char *mask) except -1 nogil:
    # a map over one row
    cdef fastact_job job
    cdef char blocks[BLOCKS]
    cdef int j
    cdef fastact_fp_flags flags
    job.resolved = resolved_of(slot)
    if n <= 0:
        return 0
    flags = fastact_save_flags()
    if job.resolved.nstage == 0:
        map_in_python(slot, <PyObject *> job.resolved.python, data, n, strides, mask)
        fastact_restore_flags(flags)
        return 0
    job.slot = slot
    job.narg = slot.nin + slot.nparam + slot.nout
    job.n = n
    job.mask = mask
    job.mask_step = 1
    job.scalars = NULL
    for j in range(job.narg):
        job.data[j] = data[j]
        job.step[j] = strides[j]
    fastact_run_map(&job, <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1)))
    fastact_restore_flags(flags)
    return 0


cdef int rows_in_python(fastact_job *job) except -1 with gil:
    cdef const fastact_slot *slot = job.slot
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp strides[2]
    cdef int j, out = slot.nin
    cdef object dtype = (<Function> slot.owner).dtypes[slot.dtype]
    cdef list arrays = []
    shape[0], shape[1] = job.rows, job.n
    for j in range(slot.nin):
        strides[0], strides[1] = job.row_step[j], job.step[j]
        arrays.append(view(dtype, 2, shape, strides, job.data[j], False))
    mask = None
    if job.mask != NULL:
        strides[0], strides[1] = job.mask_row, job.mask_step
        mask = view(np.dtype(np.bool_), 2, shape, strides, <char *> job.mask, False)
    strides[0], strides[1] = job.row_step[out], job.step[out]
    result_view = view(dtype, 1 if slot.reduces else 2, shape, strides, job.data[out], True)
    compute = np.float64 if slot.compute == 8 else np.float32
    arrays = [a.astype(compute) for a in arrays]
    if mask is not None:
        arrays[0] = np.where(mask, arrays[0], compute(slot.fill_in))
    with np.errstate(all="ignore"):
        result = (<object> <PyObject *> job.resolved.python)(*arrays)
        if mask is not None and not slot.reduces:
            result = np.where(mask, result, compute(slot.fill))
        result_view[...] = result.astype(dtype, copy=False)
    return 0


cdef inline void fill_number(char *block, double value, Py_ssize_t size) noexcept nogil:
    # a parameter of one value, as kernels take it
    cdef float narrow = <float> value
    fastact_fill(block, <char *> &narrow if size == 4 else <char *> &value, size)


cdef int run_led(fastact_led *f) except -1 nogil:
    f.job.scratch_arg = -1
    fastact_plan_led(f)
    if f.job.form != FASTACT_WHOLE:
        f.job.resolved = resolved_of(<fastact_slot *> f.job.slot + f.job.form * NDTYPES)
    fastact_run_led(f)
    if f.job.failed:
        no_memory()
    return 0


cdef bint broadcasts(object given, cnp.ndarray x, int number):
    # to x: an array of that type, contiguous
    cdef cnp.ndarray a
    cdef int d, more
    if not cnp.PyArray_CheckExact(given):
        return False
    a = given
    more = cnp.PyArray_NDIM(x) - cnp.PyArray_NDIM(a)
    if cnp.PyArray_TYPE(a) != number or not PyArray_ISCARRAY_RO(a) or more < 0:
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != 1 and cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(x, d + more):
            return False
    return True


cdef inline Py_ssize_t step_of(cnp.ndarray a, int nd, int d) noexcept:
    # bytes along an axis of an array of nd axes that it broadcasts to
    d -= nd - cnp.PyArray_NDIM(a)
    return 0 if d < 0 or cnp.PyArray_DIM(a, d) == 1 else cnp.PyArray_STRIDE(a, d)


cdef int led_in_python(Function self, fastact_slot *slot, object function, tuple arrays, object mask, tuple scalars,
                       bint causal) except -1:
    cdef int j
    cdef object compute = np.float64 if slot.compute == 8 else np.float32
    cdef list inputs = [a.astype(compute) for a in arrays[:slot.nin]]
    if mask is not None:
        for j in range(slot.masked + 1):
            inputs[j] = np.where(mask, inputs[j], compute(0.0 if j < slot.masked else slot.fill_in))
    with np.errstate(all="ignore"):
        result = function(*inputs, *scalars, causal)
        if mask is not None:
            result = np.where(mask, result, compute(slot.fill))
        arrays[slot.nin][...] = result.astype(arrays[slot.nin].dtype, copy=False)
    return 0


cdef int call_rows(fastact_job *job) except -1 nogil:
    # a function over rows: arrays, steps and the mask are in the job
    job.resolved = resolved_of(<fastact_slot *> job.slot)
    job.narg = job.slot.nin + 1
    job.scalars = NULL
    job.flags = 0
    job.scratch_arg = -1
    if job.rows <= 0 or (job.n <= 0 and not job.slot.reduces):
        return 0
    if job.resolved.nstage == 0:
        return rows_in_python(job)
    fastact_plan_rows(job)
    return run_rows(job)


cdef int run_rows(fastact_job *job) except -1 nogil:
    if job.form != FASTACT_WHOLE:
        job.resolved = resolved_of(<fastact_slot *> job.slot + job.form * NDTYPES)
    fastact_run_rows(job)
    if job.failed:
        no_memory()
    return 0


# ---- what NumPy calls

cdef inline int dtype_of(PyArrayMethod_Context *context) noexcept nogil:
    cdef int number = (<cnp.dtype> context.descriptors[0]).type_num
    if number == cnp.NPY_FLOAT32:
        return 0
    if number == cnp.NPY_FLOAT64:
        return 1
    return 2 if number == cnp.NPY_FLOAT16 else 3


cdef int map_loop(PyArrayMethod_Context *context, char **data, const cnp.npy_intp *dims, const cnp.npy_intp *steps,
                  void *aux) except -1 nogil:
    cdef fastact_slot *slots = <fastact_slot *> (<PyUFuncObject *> context.caller).data[0]
    return call_map(&slots[dtype_of(context)], data, dims[0], steps, NULL)


cdef int rows_loop(PyArrayMethod_Context *context, char **data, const cnp.npy_intp *dims, const cnp.npy_intp *steps,
                   void *aux) except -1 nogil:
    cdef fastact_job job
    cdef PyUFuncObject *u = <PyUFuncObject *> context.caller
    cdef fastact_slot *slot = &(<fastact_slot *> u.data[0])[dtype_of(context)]
    cdef int j, narg = u.nargs
    cdef bint masked = u.nin > slot.nin
    job.slot = slot
    job.rows, job.n = dims[0], dims[1]
    for j in range(slot.nin):
        job.data[j], job.row_step[j], job.step[j] = data[j], steps[j], steps[narg + j]
    job.mask = NULL
    if masked:
        job.mask, job.mask_row, job.mask_step = data[slot.nin], steps[slot.nin], steps[narg + slot.nin]
    j = narg - 1
    # a result without the axis has no step along it
    job.data[slot.nin], job.row_step[slot.nin] = data[j], steps[j]
    job.step[slot.nin] = 0 if slot.reduces else steps[narg + j]
    call_rows(&job)
    # NumPy looks after gufuncs, whatever their flags say; an underflow of a share is no news
    fastact_clear_flags()
    return 0


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


cdef object BOOL = type(np.dtype(np.bool_))


cdef int promote(PyObject *ufunc, PyObject **op_dtypes, PyObject **signature, PyObject **new_dtypes) except -1:
    cdef PyUFuncObject *u = <PyUFuncObject *> ufunc
    cdef fastact_slot *slot = <fastact_slot *> u.data[0]
    cdef int j, mask = slot.nin if u.nin > slot.nin + slot.nparam else -1
    cdef list given = [<object> op_dtypes[j] if op_dtypes[j] != NULL else None for j in range(u.nin) if j != mask]
    cdef list asked = [<object> signature[j] for j in range(u.nargs) if signature[j] != NULL and j != mask]
    cdef str name = loop_dtype(u.name.decode(), given, asked)
    if name == "bfloat16":
        (<Function> slot.owner).add_bfloat16()
    for j in range(u.nargs):
        set_class(u, j, BOOL if j == mask else CLASS_OF[name], op_dtypes, new_dtypes)
    return 0


cdef void set_class(PyUFuncObject *u, int j, object cls, PyObject **op_dtypes, PyObject **new_dtypes):
    # an output left open fits any loop; NumPy gives up where a promoter changes nothing, though it added the loop
    new_dtypes[j] = NULL
    if j < u.nin or op_dtypes[j] != <PyObject *> cls:
        Py_INCREF(cls)
        new_dtypes[j] = <PyObject *> cls


# ---- functions

cdef class Function:
    """A function, the kernels of its dtypes, and its ufuncs.

    Parameters
    ----------
    name, doc : str
    nin, nparam, nout : int
        Arrays in, parameters (further inputs, usually scalars), arrays out.
    resolver : callable
        ``resolver(dtype_name, form) -> (stages or None, callable or None, parallel_min, chunk)``: stages are pairs of an
        address and the places of its arguments (driver.h), the callable serves where there are none; the last two in
        elements. The form is that of a kernel over rows, a number of driver.h.
    lock : context manager
        Held while a kernel is looked for.
    loop : {"map", "rows", "led", "fused", "list"}
        Each element by itself: a ufunc. Whole rows along an axis: gufuncs, `masked` with a mask after the inputs; none for
        ``nin=0``. The others: none, see `run_led`, `run_fused` and `Lists`.
    reduces : bool
        Whether a row gives one value.
    fill_in, fill : float
        What the array `filled` counts as, and the result is, where a mask does not hold.
    filled : int
        The input that a mask fills; those before it count as 0 there.
    roles : str
        Of a loss (`run_rows`): for each argument ``m`` for an array of the logits' shape, ``r`` for one value a row, ``c``
        for one a column, ``i`` for an integer a row.
    like : tuple of int
        For each argument of a fused function: 1 + the output whose values it sums, else 0.
    random : int
        Of a fused function: 1 + the argument that its first stage makes, of random numbers, else 0.
    phases : int
        In which kernels take rows longer than a segment, 0 where they take them as a whole.
    side : bool
        Whether kernels take rows side by side.
    """

    cdef readonly object ufunc, masked
    cdef object resolver, lock
    cdef readonly str name
    cdef fastact_slot *slots  # of the dtypes; those of other forms after them
    cdef void *data[1]
    cdef bytes c_name, c_doc, roles
    cdef list dtypes, signatures
    cdef object __weakref__

    def __cinit__(self, str name, str doc, int nin, int nparam, int nout, resolver, lock, str loop="map", *,
                  bint reduces=False, double fill_in=0.0, double fill=0.0, int filled=0, str roles="", tuple like=(), int random=0,
                  int phases=0, bint side=False):
        cdef int i, j, narg = nin + nparam + nout
        if narg > FASTACT_ARGS:
            raise ValueError(f"{name}: {narg} arguments, and {FASTACT_ARGS} are the most")
        self.name = name
        self.c_name, self.c_doc, self.roles = name.encode(), doc.encode(), roles.encode()
        self.resolver, self.lock = resolver, lock
        self.signatures = []
        self.dtypes = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), None]
        # never freed: NumPy keeps no reference that would tell when
        self.slots = <fastact_slot *> calloc(NDTYPES * FASTACT_FORMS, sizeof(fastact_slot))
        if self.slots == NULL:
            raise MemoryError
        for i in range(NDTYPES * FASTACT_FORMS):
            size = (4, 8, 2, 2)[i % NDTYPES]
            self.slots[i].owner = <void *> self
            self.slots[i].dtype, self.slots[i].form = i % NDTYPES, i // NDTYPES
            self.slots[i].loop = FASTACT_MAP if loop == "map" else FASTACT_ROWS
            self.slots[i].nin, self.slots[i].nparam, self.slots[i].nout = nin, nparam, nout
            self.slots[i].size = size
            self.slots[i].compute = size if loop == "map" or size == 8 else 4
            self.slots[i].granule = 8 if size == 8 else 16
            self.slots[i].random = random
            self.slots[i].reduces = reduces
            self.slots[i].phases, self.slots[i].side = phases, side
            self.slots[i].fill_in, self.slots[i].fill, self.slots[i].masked = fill_in, fill, filled
            for j in range(len(like)):
                self.slots[i].like[j] = like[j]
        self.data[0] = self.slots
        if loop == "map":
            self.ufunc = self.make(nin + nparam, nout, None, False)
        elif loop == "rows" and nin:
            result = "->()" if reduces else "->(n)"
            self.ufunc = self.make(nin, 1, ",".join(["(n)"] * nin) + result, False)
            self.masked = self.make(nin + 1, 1, ",".join(["(n)"] * (nin + 1)) + result, True)

    cdef object make(self, int nin, int nout, signature, bint masked):
        cdef int i
        if signature is None:
            ufunc = cnp.PyUFunc_FromFuncAndData(
                NULL, self.data, NULL, 0, nin, nout, cnp.PyUFunc_None, self.c_name, self.c_doc, 0)
        else:
            text = signature.encode()
            self.signatures.append(text)  # NumPy keeps a pointer
            ufunc = cnp.PyUFunc_FromFuncAndDataAndSignature(
                NULL, self.data, NULL, 0, nin, nout, cnp.PyUFunc_None, self.c_name, self.c_doc, 0, <bytes> text)
        Py_INCREF(self)  # the ufunc points into this object
        for i in range(3):
            self.add_loop(ufunc, i, masked)
        everything = (np.dtype,) * (nin + nout)
        capsule = <object> PyCapsule_New(<void *> promote, "numpy._ufunc_promoter", NULL)
        PyUFunc_AddPromoter(<PyObject *> ufunc, <PyObject *> everything, <PyObject *> capsule)
        return ufunc

    cdef int add_loop(self, object ufunc, int dtype, bint masked) except -1:
        cdef PyObject *classes[FASTACT_ARGS + 1]
        cdef PyType_Slot slots[2]
        cdef PyArrayMethod_Spec spec
        cdef int j, nin = ufunc.nin
        cls = type(self.dtypes[dtype])
        for j in range(ufunc.nargs):
            classes[j] = <PyObject *> (BOOL if masked and j == nin - 1 else cls)
        slots[0].slot = NPY_METH_strided_loop
        slots[0].pfunc = <void *> map_loop if self.slots[0].loop == FASTACT_MAP else <void *> rows_loop
        slots[1].slot = 0
        slots[1].pfunc = NULL
        spec.name = self.c_name
        spec.nin = nin
        spec.nout = ufunc.nout
        spec.casting = cnp.NPY_NO_CASTING
        # overflow in discarded lanes is no news, so NumPy need not look
        spec.flags = NPY_METH_NO_FLOATINGPOINT_ERRORS
        spec.dtypes = <void *> classes
        spec.slots = slots
        return PyUFunc_AddLoopFromSpec(<PyObject *> ufunc, &spec)

    cdef int add_bfloat16(self) except -1:
        with self.lock:
            if self.dtypes[3] is None:
                self.dtypes[3] = np.dtype(CLASS_OF["bfloat16"].type)
                if self.ufunc is not None:
                    self.add_loop(self.ufunc, 3, False)
                if self.masked is not None:
                    self.add_loop(self.masked, 3, True)
        return 0

    cdef fastact_resolved *resolve(self, fastact_slot *slot) except NULL:
        # ask for the kernels of a dtype and keep them
        # locked until they are stored, or a backend chosen meanwhile would be overwritten by the one before
        with self.lock:
            return self.resolve_locked(slot)

    cdef fastact_resolved *resolve_locked(self, fastact_slot *slot) except NULL:
        cdef fastact_resolved *found = slot.newest
        cdef fastact_resolved *new
        cdef int s, k
        stages, python, parallel_min, chunk = self.resolver(DTYPES[slot.dtype], slot.form)
        if (stages is None) == (python is None) or len(stages or ()) > FASTACT_STAGES:
            raise RuntimeError(f"{self.name}: the backend gave neither kernels nor a callable")
        new = <fastact_resolved *> calloc(1, sizeof(fastact_resolved))
        if new == NULL:
            raise MemoryError
        new.nstage = len(stages or ())
        for s, (address, places) in enumerate(stages or ()):
            new.stages[s].kernel = <fastact_kernel> <uintptr_t> address
            new.stages[s].narg = len(places)
            for k, place in enumerate(places):
                new.stages[s].place[k] = place
            new.arithmetic = address in OWN
        new.python = NULL if python is None else <void *> python
        new.parallel_min = parallel_min
        new.chunk = max(chunk // slot.granule, 1) * slot.granule
        while found != NULL:
            new.older = found.older
            if memcmp(found, new, sizeof(fastact_resolved)) == 0:
                free(new)
                break
            found = found.older
        if found == NULL:
            found = new
            found.older = slot.newest
            slot.newest = found
            if python is not None:
                Py_INCREF(python)
        store_pointer(&slot.resolved, found)
        return found

    def reset(self):
        """Forget the kernels: the next call asks again."""
        cdef int i
        for i in range(NDTYPES * FASTACT_FORMS):
            store_pointer(&self.slots[i].resolved, NULL)

    def address(self, str dtype):
        """The address of the first kernel in use, 0 where there is none."""
        cdef fastact_resolved *found = self.slots[DTYPES.index(dtype)].resolved
        return <uintptr_t> found.stages[0].kernel if found != NULL and found.nstage else 0

    def python(self, str dtype):
        """The callable that serves in the place of kernels, or None."""
        cdef fastact_resolved *found = resolved_of(&self.slots[DTYPES.index(dtype)])
        return None if found.nstage else <object> <PyObject *> found.python

    # ---- rows

    cpdef object direct(self, tuple arrays, object out, object where=None):
        """The function along the last axis of contiguous arrays of one shape and dtype; None where they are not.

        NumPy's machinery would take longer to find that out, and would copy an input that is the output.
        """
        cdef fastact_job job
        cdef fastact_slot *slot
        cdef cnp.ndarray x, result
        cdef int j, nd, number, dtype
        first = arrays[0]
        if not cnp.PyArray_CheckExact(first):
            return None
        x = first
        number = cnp.PyArray_TYPE(x)
        nd = cnp.PyArray_NDIM(x)
        if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64:
            return None
        if nd == 0 or not PyArray_ISCARRAY_RO(x) or cnp.PyArray_SIZE(x) == 0:
            return None
        slot = &self.slots[0 if number == cnp.NPY_FLOAT32 else 1]
        for j in range(1, slot.nin):
            if not same_layout(arrays[j], x, number):
                return None
        job.mask = NULL
        if where is not None:
            if not same_layout(where, x, cnp.NPY_BOOL):
                return None
            job.mask = <const char *> cnp.PyArray_DATA(<cnp.ndarray> where)
        if out is None:
            result = cnp.PyArray_EMPTY(nd - slot.reduces, cnp.PyArray_DIMS(x), number, 0)
        else:
            if slot.reduces or not same_layout(out, x, number) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
                return None
            result = out
            for j in range(slot.nin):
                if overlaps(result, arrays[j]):
                    return None
            if where is not None and overlaps(result, where):
                return None
        job.slot = slot
        job.n = cnp.PyArray_DIM(x, nd - 1)
        job.rows = cnp.PyArray_SIZE(x) // job.n
        job.mask_row, job.mask_step = job.n, 1
        for j in range(slot.nin + 1):
            job.data[j] = cnp.PyArray_BYTES(<cnp.ndarray> arrays[j] if j < slot.nin else result)
            job.row_step[j] = slot.size if j == slot.nin and slot.reduces else job.n * slot.size
            job.step[j] = slot.size
        with nogil:
            call_rows(&job)
        return result if out is not None or nd > slot.reduces else result[()]

    def call(self, tuple arrays, object axis, object where, object out, dict kwargs):
        """The function of arrays along an axis: the last one of contiguous arrays at once, else by a gufunc."""
        if type(out) is tuple and len(out) == 1:
            out = out[0]
        if not kwargs and axis == -1:
            result = self.direct(arrays, out, where)
            if result is not None:
                return result
        if out is not None:
            kwargs["out"] = out
        if where is not None:
            return self.masked(*arrays, where, axis=axis, **kwargs)
        return self.ufunc(*arrays, axis=axis, **kwargs)

    cpdef int run_rows(self, tuple arrays, Py_ssize_t rows, Py_ssize_t n, tuple scalars, int64_t flags,
                       int scratch=-1) except -1:
        """Rows of contiguous arrays of one of the computing dtypes, laid out as `roles` says; None for what is absent.

        ``scratch`` is the argument for which each task has a row of memory of its own.
        """
        cdef fastact_job job
        cdef double numbers[MAX_SCALARS]
        cdef cnp.ndarray x = arrays[0]
        cdef fastact_slot *slot = &self.slots[0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1]
        cdef int j
        cdef char role
        cdef const char *roles = self.roles
        job.resolved = resolved_of(slot)
        if job.resolved.nstage == 0:
            (<object> <PyObject *> job.resolved.python)(*arrays, *scalars)
            return 0
        job.slot = slot
        job.narg = len(arrays)
        job.rows, job.n = rows, n
        job.mask = NULL
        for j in range(len(scalars)):
            numbers[j] = scalars[j]
        job.scalars = numbers
        job.flags = flags
        job.scratch_arg = scratch
        job.direct, job.stream, job.form = True, False, FASTACT_WHOLE
        for j in range(job.narg):
            role = roles[j]
            job.data[j] = NULL if arrays[j] is None else cnp.PyArray_BYTES(<cnp.ndarray> arrays[j])
            job.row_step[j] = (
                0 if role == c"c" or (arrays[j] is None and j != scratch) else 8 if role == c"i" else slot.size if role == c"r"
                else 0 if j == scratch else n * slot.size)
            job.step[j] = 0 if role != c"m" or arrays[j] is None else slot.size
        with nogil:
            fastact_plan_threads(&job)
            run_rows(&job)
        return 0

    def run_led(self, tuple arrays, object mask, tuple scalars, bint causal):
        """Rows along the last axis of arrays of one shape and one of `DTYPES`, inputs and then the output, in any layout.

        `mask` is of booleans and of that shape, or None. With `causal` the i-th of the rows that lie along the second last
        axis has i + 1 elements that count.
        """
        cdef fastact_led f
        cdef fastact_job *job = &f.job
        cdef double numbers[MAX_SCALARS]
        cdef cnp.ndarray a = arrays[0]
        cdef int j, d, nd = cnp.PyArray_NDIM(a), dtype = DTYPES.index(a.dtype.name)
        cdef fastact_slot *slot = &self.slots[dtype]
        if cnp.PyArray_SIZE(a) == 0:
            return
        job.resolved = resolved_of(slot)
        if job.resolved.nstage == 0:
            led_in_python(self, slot, <object> <PyObject *> job.resolved.python, arrays, mask, scalars, causal)
            return
        job.slot, job.narg = slot, len(arrays)
        job.n = cnp.PyArray_DIM(a, nd - 1)
        f.axes = nd - 1
        for j in range(job.narg):
            a = arrays[j]
            job.data[j], job.step[j] = cnp.PyArray_BYTES(a), cnp.PyArray_STRIDE(a, nd - 1)
            for d in range(nd - 1):
                f.length[d], f.apart[d][j] = cnp.PyArray_DIM(a, d), cnp.PyArray_STRIDE(a, d)
        job.mask = NULL
        for d in range(nd - 1):
            f.mask_apart[d] = 0
        if mask is not None:
            a = mask
            job.mask, job.mask_step = <const char *> cnp.PyArray_DATA(a), cnp.PyArray_STRIDE(a, nd - 1)
            for d in range(nd - 1):
                f.mask_apart[d] = cnp.PyArray_STRIDE(a, d)
        for j in range(len(scalars)):
            numbers[j] = scalars[j]
        job.scalars = numbers
        job.flags = FASTACT_CAUSAL if causal else 0
        with nogil:
            run_led(&f)

    def plain_led(self, tuple arrays, object axis, object bias, object where, object out, object scale, object causal):
        """The same along any axis of contiguous arrays of one shape and dtype, with a bias and a mask that broadcast to that;
        None for anything less plain, or wrong."""
        cdef fastact_led f
        cdef fastact_job *job = &f.job
        cdef double factor
        cdef cnp.ndarray x, a, result
        cdef fastact_slot *slot
        cdef int j, d, k, nd, at, number, count = len(arrays)
        if type(scale) is not float or type(causal) is not bool or type(axis) is not int or not is_plain(arrays[0]):
            return None
        x = arrays[0]
        number, nd = cnp.PyArray_TYPE(x), cnp.PyArray_NDIM(x)
        if nd > FASTACT_LED_AXES or not -nd <= axis < nd:
            return None
        at = axis if axis >= 0 else axis + nd
        slot = &self.slots[0 if number == cnp.NPY_FLOAT32 else 1]
        factor = scale if number == cnp.NPY_FLOAT64 else <float> scale
        if not factor - factor == 0.0 or (causal and (nd < 2 or at < nd - 2)):
            return None
        # a mask without a bias fills x, and only a positive scale leaves -inf as it is
        if where is not None and slot.nin == 1 and not factor > 0.0:
            return None
        for j in range(1, count):
            if not same_layout(arrays[j], x, number):
                return None
        if out is None:
            result = PyArray_SimpleNew(nd, cnp.PyArray_DIMS(x), number)
        else:
            if not same_layout(out, x, number) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
                return None
            result = out
            for j in range(count):
                if overlaps(result, <cnp.ndarray> arrays[j]):
                    return None
        if bias is not None and (not broadcasts(bias, x, number) or (out is not None and shares(result, <cnp.ndarray> bias))):
            return None
        if where is not None and (
                not broadcasts(where, x, cnp.NPY_BOOL) or (out is not None and shares(result, <cnp.ndarray> where))):
            return None
        job.resolved = resolved_of(slot)
        if job.resolved.nstage == 0:
            return None
        job.slot, job.narg, job.n = slot, slot.nin + 1, cnp.PyArray_DIM(x, at)
        f.axes = nd - 1
        for j in range(job.narg):
            a = <cnp.ndarray> (arrays[j] if j < count else bias if j < slot.nin else result)
            job.data[j], job.step[j] = cnp.PyArray_BYTES(a), step_of(a, nd, at)
            for k in range(nd - 1):
                f.apart[k][j] = step_of(a, nd, k + (k >= at))
        job.mask = NULL
        if where is not None:
            job.mask = <const char *> cnp.PyArray_DATA(<cnp.ndarray> where)
            job.mask_step = step_of(<cnp.ndarray> where, nd, at)
        for k in range(nd - 1):
            d = k + (k >= at)
            f.length[k] = cnp.PyArray_DIM(x, d)
            f.mask_apart[k] = 0 if where is None else step_of(<cnp.ndarray> where, nd, d)
        job.scalars = &factor
        job.flags = FASTACT_CAUSAL if causal else 0
        with nogil:
            run_led(&f)
        return result

    # ---- fused

    def plain_fused(self, tuple arrays, tuple params, str roles, object axis, object out, tuple random=None):
        """A fused function of contiguous arrays of one shape and dtype, with parameters that are numbers.

        `roles` and `random` are those of inputs and outputs (see `run_fused`); an input ``c`` lies along the axis. None where
        arrays are not so plain, or anything is wrong.
        """
        cdef PyObject *given[FASTACT_ARGS]
        cdef double numbers[FASTACT_ARGS]
        cdef bytes letters = roles.encode()
        cdef int j, nin = len(arrays), nparam = len(params)
        if nin + nparam > FASTACT_ARGS:
            return None
        for j in range(nin):
            given[j] = PyTuple_GET_ITEM(<PyObject *> arrays, j)
        for j in range(nparam):
            numbers[j] = params[j]
        return call_fused(self, given, nin, numbers, nparam, letters, len(letters) - nin,
                          NULL if axis is None else <PyObject *> axis, NULL if out is None else <PyObject *> out, random)

    def run_fused(self, str dtype, tuple arrays, str roles, Py_ssize_t outer, Py_ssize_t channel, Py_ssize_t inner,
                  tuple random=None):
        """Run the stages over arrays of shape (outer, channel, inner).

        Parameters
        ----------
        dtype : str
            Of the arrays in memory.
        arrays : tuple
            Inputs, parameters, outputs, contiguous. None for a sum.
        roles : str
            For each: ``a`` an array of that shape and dtype, ``c`` `channel` values and ``v`` one value of the computing
            dtype, ``s`` a sum over outer and inner, ``r`` random numbers.
        random : tuple, optional
            Of random numbers: two scalars of their kernel, seed, offset.

        Returns
        -------
        list of ndarray
            The sums: `channel` values of the computing dtype each.
        """
        cdef fastact_fused f
        cdef double scalars[2]
        cdef char blocks[BLOCKS]
        cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
        cdef fastact_slot *slot = &self.slots[DTYPES.index(dtype)]
        cdef int j
        cdef list sums = []
        cdef char *to[FASTACT_ARGS]
        memset(&f, 0, sizeof(f))
        f.job.slot = slot
        f.job.resolved = resolved_of(slot)
        f.job.narg = len(arrays)
        f.outer, f.channel, f.inner = outer, channel, inner
        if random is not None:
            scalars[0], scalars[1], f.job.seed, f.job.offset = random
            f.job.scalars = scalars
        for j in range(f.job.narg):
            role = roles[j]
            f.role[j] = FASTACT_ARRAY if role == "a" else FASTACT_CHANNEL if role == "c" else (
                FASTACT_VALUE if role == "v" else FASTACT_SUM if role == "s" else FASTACT_RANDOM)
            if role == "r":
                # tiles hold them; this is nobody's array
                f.job.data[j] = blocks
                continue
            if role == "s":
                found = np.empty(channel, np.float64 if slot.compute == 8 else np.float32)
                to[len(sums)] = cnp.PyArray_BYTES(<cnp.ndarray> found)
                sums.append(found)
                continue
            f.job.data[j] = cnp.PyArray_BYTES(<cnp.ndarray> arrays[j])
            if role == "v":
                fastact_fill(block, f.job.data[j], slot.compute)
                f.job.data[j] = block
                block += VECTOR
        run_fused(&f, to)
        return sums

    def plain_packed(self, object dy, object packed, bint gate_first, object axis, tuple params, object out):
        """A gated function of one contiguous array that holds gate and up, with parameters that are numbers; its gradients
        where `dy` is given. None where arrays are not so plain, or anything is wrong."""
        cdef fastact_fused f
        cdef fastact_slot *slot
        cdef cnp.ndarray x, y, other
        cdef cnp.npy_intp dims[64]
        cdef int number, nd, i, j, at, nin = 2 if dy is None else 3
        cdef char blocks[BLOCKS]
        cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
        if not cnp.PyArray_CheckExact(packed) or type(axis) is not int:
            return None
        x = packed
        number, nd = cnp.PyArray_TYPE(x), cnp.PyArray_NDIM(x)
        if (number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64) or not PyArray_ISCARRAY_RO(x) or not -nd <= axis < nd:
            return None
        at = axis if axis >= 0 else axis + nd
        if cnp.PyArray_DIM(x, at) % 2 or cnp.PyArray_SIZE(x) == 0 or nd > 64:
            return None
        slot = &self.slots[0 if number == cnp.NPY_FLOAT32 else 1]
        memset(&f, 0, sizeof(f))
        f.job.slot = slot
        f.job.resolved = resolved_of(slot)
        if f.job.resolved.nstage == 0:
            return None
        f.outer = f.inner = 1
        for i in range(nd):
            dims[i] = cnp.PyArray_DIM(x, i)
            if i < at:
                f.outer *= dims[i]
        dims[at] //= 2
        f.channel = cnp.PyArray_SIZE(x) // f.outer // 2
        if dy is not None:
            if not cnp.PyArray_CheckExact(dy):
                return None
            other = dy
            if (cnp.PyArray_TYPE(other) != number or cnp.PyArray_NDIM(other) != nd or not PyArray_ISCARRAY_RO(other)
                    or not PyArray_CompareLists(cnp.PyArray_DIMS(other), dims, nd)):
                return None
            f.job.data[0] = cnp.PyArray_BYTES(other)
            f.job.row_step[0] = f.channel * slot.size
            dims[at] *= 2
        if out is None:
            y = PyArray_SimpleNew(nd, dims, number)
        else:
            if not cnp.PyArray_CheckExact(out):
                return None
            y = out
            if (cnp.PyArray_TYPE(y) != number or cnp.PyArray_NDIM(y) != nd or not PyArray_ISCARRAY(y)
                    or not PyArray_CompareLists(cnp.PyArray_DIMS(y), dims, nd)):
                return None
            if shares(y, x if dy is None else <cnp.ndarray> dy) or overlaps(y, x):
                return None
        for j in range(2):
            i = nin - 2 + (j if gate_first else 1 - j)
            f.job.data[i] = cnp.PyArray_BYTES(x) + j * f.channel * slot.size
            f.job.row_step[i] = 2 * f.channel * slot.size
        for j in range(len(params)):
            fill_number(block, params[j], slot.size)
            f.role[nin + j] = FASTACT_VALUE
            f.job.data[nin + j] = block
            block += VECTOR
        nin += len(params)
        f.job.narg = nin + (1 if dy is None else 2)
        f.job.data[nin], f.job.row_step[nin] = cnp.PyArray_BYTES(y), f.channel * slot.size
        if dy is not None:
            for j in range(2):
                i = nin + (j if gate_first else 1 - j)
                f.job.data[i] = cnp.PyArray_BYTES(y) + j * f.channel * slot.size
                f.job.row_step[i] = 2 * f.channel * slot.size
        with nogil:
            fastact_run_apart(&f)
        if f.job.failed:
            no_memory()
        return y

    def run_apart(self, str dtype, tuple arrays, str roles, Py_ssize_t rows, Py_ssize_t n):
        """Run the stages over `rows` rows of `n` elements, contiguous each.

        `arrays` are views of that shape (role ``a``), or hold one value of the computing dtype (``v``).
        """
        cdef fastact_fused f
        cdef char blocks[BLOCKS]
        cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
        cdef fastact_slot *slot = &self.slots[DTYPES.index(dtype)]
        cdef int j
        memset(&f, 0, sizeof(f))
        f.job.slot = slot
        f.job.resolved = resolved_of(slot)
        f.job.narg = len(arrays)
        f.outer, f.channel, f.inner = rows, n, 1
        for j in range(f.job.narg):
            f.job.data[j] = cnp.PyArray_BYTES(<cnp.ndarray> arrays[j])
            if roles[j] == "v":
                f.role[j] = FASTACT_VALUE
                fastact_fill(block, f.job.data[j], slot.compute)
                f.job.data[j] = block
                block += VECTOR
            else:
                f.role[j] = FASTACT_ARRAY
                f.job.row_step[j] = cnp.PyArray_STRIDE(<cnp.ndarray> arrays[j], 0)
        with nogil:
            fastact_run_apart(&f)
        if f.job.failed:
            no_memory()


cdef object call_fused(Function function, PyObject **arrays, int nin, const double *params, int nparam, const char *roles,
                       int nout, PyObject *axis, PyObject *out, tuple random):
    # Function.plain_fused; `roles` of inputs and outputs, null pointers for what is None
    cdef fastact_fused f
    cdef double scalars[2]
    cdef fastact_slot *slot
    cdef cnp.ndarray first, a
    cdef int number, nd, i, j, at = -1, nsum = 0
    cdef size_t bytes
    cdef cnp.npy_intp length
    cdef PyObject *given
    cdef PyObject *results[FASTACT_ARGS]
    cdef char *sums[FASTACT_ARGS]
    cdef char blocks[BLOCKS]
    cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
    cdef tuple found = None
    if not cnp.PyArray_CheckExact(<object> arrays[0]):
        return None
    first = <cnp.ndarray> arrays[0]
    number, nd = cnp.PyArray_TYPE(first), cnp.PyArray_NDIM(first)
    if (number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64) or nd == 0 or cnp.PyArray_SIZE(first) == 0:
        return None
    slot = &function.slots[0 if number == cnp.NPY_FLOAT32 else 1]
    if axis != NULL:
        if type(<object> axis) is not int or not -nd <= <object> axis < nd:
            return None
        at = <object> axis
        at = at if at >= 0 else at + nd
    if out != NULL and isinstance(<object> out, tuple):
        if PyTuple_GET_SIZE(out) != nout:
            return None
    elif out != NULL and nout != 1:
        return None
    memset(&f, 0, sizeof(f))
    f.job.slot = slot
    f.job.resolved = resolved_of(slot)
    if f.job.resolved.nstage == 0:
        return None
    f.job.narg = nin + nparam + nout
    if random is not None:
        scalars[0], scalars[1], f.job.seed, f.job.offset = random
        f.job.scalars = scalars
    f.outer = f.channel = 1
    f.inner = cnp.PyArray_SIZE(first)
    if at >= 0:
        f.channel, f.inner = cnp.PyArray_DIM(first, at), 1
        for i in range(at):
            f.outer *= cnp.PyArray_DIM(first, i)
        for i in range(at + 1, nd):
            f.inner *= cnp.PyArray_DIM(first, i)
    bytes = cnp.PyArray_SIZE(first) * slot.size
    for j in range(nin):
        if roles[j] == c"r":
            f.role[j], f.job.data[j] = FASTACT_RANDOM, blocks
            continue
        if roles[j] == c"a":
            if not same_layout(<object> arrays[j], first, number):
                return None
            f.role[j] = FASTACT_ARRAY
        else:
            if at < 0 or not is_column(<object> arrays[j], number, f.channel):
                return None
            f.role[j] = FASTACT_CHANNEL
        f.job.data[j] = cnp.PyArray_BYTES(<cnp.ndarray> arrays[j])
    for j in range(nparam):
        fill_number(block, params[j], slot.size)
        f.role[nin + j] = FASTACT_VALUE
        f.job.data[nin + j] = block
        block += VECTOR
    if nout > 1:
        found = PyTuple_New(nout)
    for j in range(nout):
        given = out
        if out != NULL and isinstance(<object> out, tuple):
            given = PyTuple_GET_ITEM(out, j)
            if <object> given is None:
                given = NULL
        if roles[nin + j] == c"s":
            # into a new array, and out last of all
            f.role[nin + nparam + j] = FASTACT_SUM
            if given == NULL:
                length = f.channel
                a = PyArray_SimpleNew(1, &length, number)
            elif not is_column(<object> given, number, f.channel) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> given):
                return None
            else:
                a = <cnp.ndarray> given
            sums[nsum] = cnp.PyArray_BYTES(a)
            nsum += 1
        else:
            f.role[nin + nparam + j] = FASTACT_ARRAY
            if given == NULL:
                a = PyArray_SimpleNew(nd, cnp.PyArray_DIMS(first), number)
            else:
                if not same_layout(<object> given, first, number) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> given):
                    return None
                a = <cnp.ndarray> given
                for i in range(nin):
                    if roles[i] == c"a" and partly(f.job.data[i], cnp.PyArray_BYTES(a), bytes):
                        return None
                    if roles[i] == c"c" and overlaps(a, <cnp.ndarray> arrays[i]):
                        return None
            f.job.data[nin + nparam + j] = cnp.PyArray_BYTES(a)
        if given != NULL:
            for i in range(j):
                if shares(a, <cnp.ndarray> results[i]):
                    return None
        results[j] = <PyObject *> a
        if nout > 1:
            Py_INCREF(a)
            PyTuple_SET_ITEM(found, j, a)
    run_fused(&f, sums)
    return a if nout == 1 else found


cdef inline bint is_column(object given, int number, Py_ssize_t n):
    # one value for each of n columns, as kernels take them
    cdef cnp.ndarray a
    if not cnp.PyArray_CheckExact(given):
        return False
    a = given
    return (cnp.PyArray_TYPE(a) == number and cnp.PyArray_NDIM(a) == 1 and PyArray_ISCARRAY_RO(a)
            and cnp.PyArray_DIM(a, 0) == n)


cdef int run_fused(fastact_fused *f, char **sums) except -1:
    # and its sums into memory of the computing dtype
    cdef int s
    cdef char *repeated = NULL
    if f.outer * f.channel * f.inner < HOLD_GIL:
        fastact_run_fused(f, &repeated)
    else:
        with nogil:
            fastact_run_fused(f, &repeated)
    free(repeated)
    try:
        if f.job.failed:
            no_memory()
        for s in range(f.nsum):
            if fastact_combine(f, s, sums[s]) < 0:
                no_memory()
    finally:
        free(f.partial)
    return 0


def side_by_side(Py_ssize_t columns):
    """How many rows of so many columns a sum over rows takes as one."""
    return fastact_side_by_side(columns)


cdef inline bint same_layout(object other, cnp.ndarray x, int number):
    cdef cnp.ndarray a
    if not cnp.PyArray_CheckExact(other):
        return False
    a = other
    return cnp.PyArray_TYPE(a) == number and PyArray_ISCARRAY_RO(a) and same_shape(a, x)


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int ndim = cnp.PyArray_NDIM(a)
    return ndim == cnp.PyArray_NDIM(b) and PyArray_CompareLists(cnp.PyArray_DIMS(a), cnp.PyArray_DIMS(b), ndim)


cdef inline bint shares(cnp.ndarray a, cnp.ndarray b) noexcept:
    # memory
    return (cnp.PyArray_BYTES(a) < cnp.PyArray_BYTES(b) + cnp.PyArray_NBYTES(b)
            and cnp.PyArray_BYTES(b) < cnp.PyArray_BYTES(a) + cnp.PyArray_NBYTES(a))


cdef inline bint overlaps(cnp.ndarray out, cnp.ndarray x) noexcept:
    # other than being the same memory
    cdef char *a = cnp.PyArray_BYTES(out)
    cdef char *b = cnp.PyArray_BYTES(x)
    return (a != b or cnp.PyArray_NBYTES(out) != cnp.PyArray_NBYTES(x)) and (
        a < b + cnp.PyArray_NBYTES(x) and b < a + cnp.PyArray_NBYTES(out))


cdef double pairwise_sum(const char *x, Py_ssize_t size, Py_ssize_t n) noexcept nogil:
    # in float64, in an order that depends on n alone
    cdef double s = 0.0
    cdef Py_ssize_t i
    if n <= 128:
        for i in range(n):
            s += (<const float *> x)[i] if size == 4 else (<const double *> x)[i]
        return s
    i = n // 2
    return pairwise_sum(x, size, i) + pairwise_sum(x + i * size, size, n - i)


def pairwise(cnp.ndarray x):
    """The sum of a contiguous array of float32 or float64, in float64, in an order that depends on its length alone."""
    return pairwise_sum(cnp.PyArray_BYTES(x), cnp.PyArray_ITEMSIZE(x), cnp.PyArray_SIZE(x))


def mean_by_label(Function function, object logits, object labels, object out, bint grad, double smoothing, double z):
    """(mean loss, gradient or None) of rows with a label each, for contiguous logits and int64 labels, all in range; None
    for anything else. The arguments of `function` are logits, labels, weights of classes, losses and the gradient, its
    numbers the factor of the gradient and those given here."""
    cdef cnp.ndarray x, y, loss
    cdef Py_ssize_t n, rows, i
    cdef int number, nd, j
    cdef const int64_t *label
    cdef int64_t low = 0, high = -1
    if not cnp.PyArray_CheckExact(logits) or not cnp.PyArray_CheckExact(labels):
        return None
    x, y = logits, labels
    number, nd = cnp.PyArray_TYPE(x), cnp.PyArray_NDIM(x)
    if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT64:
        return None
    if (cnp.PyArray_TYPE(y) != cnp.NPY_INT64 or nd == 0 or cnp.PyArray_NDIM(y) != nd - 1
            or not PyArray_ISCARRAY_RO(x) or not PyArray_ISCARRAY_RO(y)):
        return None
    if not PyArray_CompareLists(cnp.PyArray_DIMS(x), cnp.PyArray_DIMS(y), nd - 1):
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
    function.run_rows((x, y, None, loss, dx), rows, n, (1.0 / rows, smoothing, z), 0 if grad else FASTACT_VALUE_ONLY, -1 if grad else 4)
    mean = pairwise(loss) / rows
    return (np.float32(mean) if number == cnp.NPY_FLOAT32 else np.float64(mean)), dx


def are_probabilities(cnp.ndarray x, double tolerance, Py_ssize_t parallel_min):
    """Whether all elements of a contiguous array of float32 or float64 are in [0, 1]; with a tolerance >= 0 whether its rows
    along the last axis have no negative element, and sums so near to 1. From `parallel_min` bytes on threads pay."""
    cdef fastact_checked f
    cdef int nd = cnp.PyArray_NDIM(x)
    if (not PyArray_ISCARRAY_RO(x) or (cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT64)
            or (tolerance >= 0 and nd == 0)):
        raise ValueError("arrays do not fit")
    f.x, f.size, f.tolerance = cnp.PyArray_BYTES(x), cnp.PyArray_ITEMSIZE(x), tolerance
    f.n = cnp.PyArray_DIM(x, nd - 1) if tolerance >= 0 else 1
    if f.n == 0:
        return True
    f.rows = cnp.PyArray_SIZE(x) // f.n
    if cnp.PyArray_NBYTES(x) < parallel_min:
        return not fastact_run_check(&f, parallel_min)
    cdef bint bad
    with nogil:
        bad = fastact_run_check(&f, parallel_min)
    return not bad


def check_labels(cnp.ndarray labels, Py_ssize_t classes, bint ignores, int64_t ignored):
    """Make labels (int64, contiguous) that are to be ignored -1, in place; the number of the others, or -1 where one is none
    of the classes."""
    if not PyArray_ISCARRAY(labels) or cnp.PyArray_TYPE(labels) != cnp.NPY_INT64:
        raise ValueError("labels do not fit")
    return fastact_check_labels(<int64_t *> cnp.PyArray_DATA(labels), cnp.PyArray_SIZE(labels), classes, ignores, ignored)


def at_labels(cnp.ndarray x, int axis, cnp.ndarray labels, cnp.ndarray values, bint put, Py_ssize_t parallel_min,
              Py_ssize_t chunk):
    """Copy the element of each row at its label to `values`; with `put` the other way, and zeros beside it.

    x is contiguous, its rows lie along an axis; labels (int64, a negative one of a row without an element) and values (of
    x's dtype) are contiguous, of x's shape without the axis. `parallel_min` and `chunk` are bytes.
    """
    cdef fastact_labelled f
    cdef int j, nd = cnp.PyArray_NDIM(x)
    if (not PyArray_ISCARRAY_RO(x) or not PyArray_ISCARRAY_RO(labels) or not PyArray_ISCARRAY(values)
            or cnp.PyArray_TYPE(labels) != cnp.NPY_INT64 or cnp.PyArray_TYPE(values) != cnp.PyArray_TYPE(x)
            or not 0 <= axis < nd or cnp.PyArray_ITEMSIZE(x) not in (1, 2, 4, 8) or (put and not cnp.PyArray_ISWRITEABLE(x))):
        raise ValueError("arrays do not fit")
    f.outer = f.inner = 1
    for j in range(nd):
        if j < axis:
            f.outer *= cnp.PyArray_DIM(x, j)
        elif j > axis:
            f.inner *= cnp.PyArray_DIM(x, j)
    f.classes, f.size = cnp.PyArray_DIM(x, axis), cnp.PyArray_ITEMSIZE(x)
    if f.outer * f.inner != cnp.PyArray_SIZE(labels) or f.outer * f.inner != cnp.PyArray_SIZE(values):
        raise ValueError("arrays do not fit")
    if f.outer * f.inner * f.classes == 0:
        return
    f.x, f.values = cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(values)
    f.labels = <const int64_t *> cnp.PyArray_DATA(labels)
    with nogil:
        fastact_run_labels(&f, put, parallel_min, chunk)


include "lists.pxi"


# ---- norms

cdef cnp.ndarray column_of(object given, cnp.ndarray x, double neutral):
    # one value for each column as kernels take them, `neutral` where there are none; None where it is not so plain
    cdef cnp.ndarray a
    cdef cnp.npy_intp n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1), i
    cdef int number = cnp.PyArray_TYPE(x)
    if given is None:
        a = PyArray_SimpleNew(1, &n, number)
        for i in range(n):
            if number == cnp.NPY_FLOAT32:
                (<float *> cnp.PyArray_DATA(a))[i] = <float> neutral
            else:
                (<double *> cnp.PyArray_DATA(a))[i] = neutral
        return a
    if not cnp.PyArray_CheckExact(given):
        return None
    a = given
    if (cnp.PyArray_TYPE(a) != number or cnp.PyArray_NDIM(a) != 1 or not PyArray_ISCARRAY_RO(a)
            or cnp.PyArray_DIM(a, 0) != n):
        return None
    return a


cdef bint is_plain(object given):
    # an array whose rows along the last axis kernels take as they are, and not empty
    cdef int number
    if not cnp.PyArray_CheckExact(given):
        return False
    number = cnp.PyArray_TYPE(<cnp.ndarray> given)
    return ((number == cnp.NPY_FLOAT32 or number == cnp.NPY_FLOAT64) and cnp.PyArray_NDIM(<cnp.ndarray> given) > 0
            and PyArray_ISCARRAY_RO(<cnp.ndarray> given) and cnp.PyArray_SIZE(<cnp.ndarray> given) > 0)


cdef cnp.ndarray stats_like(cnp.ndarray x, int nstat):
    # memory for so many values of each row
    cdef int nd = cnp.PyArray_NDIM(x), lead = nstat > 1, i
    cdef cnp.npy_intp dims[cnp.NPY_MAXDIMS + 1]
    dims[0] = nstat
    for i in range(nd - 1):
        dims[lead + i] = cnp.PyArray_DIM(x, i)
    return PyArray_SimpleNew(nd - 1 + lead, dims, cnp.PyArray_TYPE(x))


cdef bint are_stats(object given, cnp.ndarray x, int nstat):
    cdef cnp.ndarray a
    cdef int nd = cnp.PyArray_NDIM(x), lead = nstat > 1
    if not cnp.PyArray_CheckExact(given):
        return False
    a = given
    return (cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(x) and PyArray_ISCARRAY_RO(a) and cnp.PyArray_NDIM(a) == nd - 1 + lead
            and (not lead or cnp.PyArray_DIM(a, 0) == nstat)
            and PyArray_CompareLists(cnp.PyArray_DIMS(a) + lead, cnp.PyArray_DIMS(x), nd - 1))


cdef bint plain_columns(tuple columns, cnp.ndarray x, list given) except -1:
    # weight, bias: what changes nothing in the place of None
    cdef Py_ssize_t j
    cdef object column
    for j in range(PyTuple_GET_SIZE(<PyObject *> columns)):
        column = column_of(columns[j], x, -0.0 if j else 1.0)
        if column is None:
            return False
        given.append(column)
    return True


cdef bint plain_result(object out, cnp.ndarray x, list results, list same, list apart) except -1:
    # memory like x's is added to `results`: `out`, if there is one; False where it is not so plain. Of `same` an element
    # is read before the one in its place is written
    if out is None:
        results.append(PyArray_SimpleNew(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x)))
        return True
    if not same_layout(out, x, cnp.PyArray_TYPE(x)) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
        return False
    for a in same:
        if overlaps(<cnp.ndarray> out, <cnp.ndarray> a):
            return False
    for a in apart:
        if shares(<cnp.ndarray> out, <cnp.ndarray> a):
            return False
    for a in results:
        if shares(<cnp.ndarray> out, <cnp.ndarray> a):
            return False
    results.append(out)
    return True


def plain_norm(Function function, object x, tuple columns, object out, int nstat, bint keep, double eps,
               tuple then=None, object residual=None):
    """A norm over the last axis of contiguous arrays of one dtype: y, or with `keep` (y, statistics of its rows), and the
    sum with a residual.

    `columns` are weight and, if the norm has one, bias, or None; `then` an activation as in `run_norm`. The result is None
    where arrays are not so plain.
    """
    cdef cnp.ndarray first
    cdef fastact_normed f
    cdef fastact_job job
    cdef char blocks[BLOCKS]
    cdef fastact_resolved *resolved
    cdef int j
    cdef list given = [], results = [], inputs
    if not is_plain(x):
        return None
    first = x
    resolved = resolved_of(&function.slots[0 if cnp.PyArray_TYPE(first) == cnp.NPY_FLOAT32 else 1])
    if resolved.nstage == 0:
        return None
    if not plain_columns(columns, first, given):
        return None
    inputs = [first]
    if residual is None:
        if not plain_result(out, first, results, inputs, given):
            return None
    else:
        if not same_layout(residual, first, cnp.PyArray_TYPE(first)):
            return None
        inputs.append(residual)
        if out is None:
            out = (None, None)
        if not isinstance(out, tuple) or PyTuple_GET_SIZE(<PyObject *> out) != 2:
            return None
        for a in <tuple> out:
            if not plain_result(a, first, results, inputs, given):
                return None
    stats = stats_like(first, nstat) if keep else None
    plain_job(&f, function, resolved, first, given, stats, nstat)
    f.nin = f.nout = len(inputs)
    f.eps = eps
    f.stream = cnp.PyArray_NBYTES(first) >= fastact_stream_setting()[0]
    for j in range(f.nin):
        plain_array(&f.in_[j], <cnp.ndarray> inputs[j])
        plain_array(&f.out[j], <cnp.ndarray> results[j])
        f.stream = f.stream and not shares(<cnp.ndarray> results[0], <cnp.ndarray> inputs[j])
    if then is not None:
        activation(&job, <Function> then[0], then[1:], f.slot.dtype, blocks)
        job.stream = f.stream
        f.then = &job
    with nogil:
        fastact_run_normed(&f)
    if f.failed:
        no_memory()
    if not keep:
        return results[0]
    return (results[0], stats) if residual is None else (results[0], stats, results[1])


def plain_norm_backward(Function function, object dy, object x, object stats, tuple columns, object out, int nstat,
                        Function again=None, tuple then=None):
    """The gradients of a norm over the last axis of contiguous arrays of one dtype: (dx, dweight, dbias), None for those
    that are not wanted; None where arrays are not so plain. `again` and `then` are those of `run_norm`."""
    cdef cnp.ndarray first, dx
    cdef cnp.npy_intp n
    cdef fastact_normed f
    cdef fastact_job job
    cdef char blocks[BLOCKS]
    cdef fastact_resolved *resolved
    cdef list given = [], results = []
    if not is_plain(x):
        return None
    first = x
    resolved = resolved_of(&function.slots[0 if cnp.PyArray_TYPE(first) == cnp.NPY_FLOAT32 else 1])
    if resolved.nstage == 0 or not same_layout(dy, first, cnp.PyArray_TYPE(first)) or not are_stats(stats, first, nstat):
        return None
    if not plain_columns(columns, first, given):
        return None
    if not plain_result(out, first, results, [first, dy], [*given, stats]):
        return None
    dx = results[0]
    n = cnp.PyArray_DIM(<cnp.ndarray> given[0], 0)
    sums = [PyArray_SimpleNew(1, &n, cnp.PyArray_TYPE(first)) for _ in columns]
    plain_job(&f, function, resolved, first, given, stats, nstat)
    plain_array(&f.in_[0], <cnp.ndarray> dy)
    plain_array(&f.in_[1], first)
    plain_array(&f.out[0], dx)
    if then is not None:
        f.again = resolved_of(&again.slots[f.slot.dtype])
        activation(&job, <Function> then[0], then[1:], f.slot.dtype, blocks)
        f.then = &job
    run_gradients(&f, sums, cnp.PyArray_NBYTES(dx) >= fastact_stream_setting()[0] and not shares(dx, first)
                  and not shares(dx, <cnp.ndarray> dy))
    return dx, None if columns[0] is None else sums[0], sums[1] if len(columns) > 1 and columns[1] is not None else None


cdef void plain_array(fastact_array *to, cnp.ndarray a):
    # contiguous: rows along the last axis, in one group
    to.data = cnp.PyArray_BYTES(a)
    to.step = cnp.PyArray_ITEMSIZE(a)
    to.row, to.group = cnp.PyArray_DIM(a, cnp.PyArray_NDIM(a) - 1) * to.step, 0


cdef void plain_job(fastact_normed *f, Function function, fastact_resolved *resolved, cnp.ndarray x, list columns,
                    object stats, int nstat):
    cdef int j
    memset(f, 0, sizeof(f[0]))
    f.slot = &function.slots[0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1]
    f.resolved = resolved
    f.n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    f.groups, f.rows = 1, cnp.PyArray_SIZE(x) // f.n
    f.ncol, f.nstat = len(columns), nstat
    for j in range(f.ncol):
        f.col[j] = cnp.PyArray_BYTES(<cnp.ndarray> columns[j])
    if stats is not None:
        f.stats = cnp.PyArray_BYTES(<cnp.ndarray> stats)


cdef int run_gradients(fastact_normed *f, list sums, bint stream) except -1:
    cdef int s
    f.nin, f.nout = 2, 1
    f.nsum = len(sums)
    f.stream = stream
    for s in range(f.nsum):
        f.sums[s] = cnp.PyArray_BYTES(<cnp.ndarray> sums[s])
    with nogil:
        fastact_run_gradients(f)
    if f.failed:
        no_memory()
    return 0


def run_norm(Function function, Function again, tuple then, str dtype, tuple inputs, tuple columns, object stats,
             int nstat, tuple outputs, double eps, list sums=None):
    """A norm or, with `sums`, its gradient, over arrays of shape (rows, groups, n), not empty, of any strides.

    Parameters
    ----------
    again : Function or None
        Of a gradient with an activation: the norm from statistics.
    then : tuple or None
        An activation: the `Function` of its values or, of a gradient, of its gradient, and parameters.
    dtype : str
        Of `inputs` and `outputs`: x, perhaps a residual; y, perhaps the sum of both. Or dy, x; dx.
    columns : tuple of ndarray
        (groups, n) each; these and `stats` contiguous, of the computing dtype.
    stats : ndarray or None
        Of shape (values of a row, groups, rows), or (groups, rows) if there is one.
    sums : list of ndarray
        For the gradients of the columns; like them.
    """
    cdef fastact_normed f
    cdef fastact_job job
    cdef char blocks[BLOCKS]
    cdef cnp.ndarray x = inputs[0], y = outputs[0]
    cdef int j, compute = 1 if dtype == "float64" else 0
    cdef bint stream = cnp.PyArray_NBYTES(y) >= fastact_stream_setting()[0]
    memset(&f, 0, sizeof(f))
    f.slot = &function.slots[DTYPES.index(dtype)]
    f.resolved = resolved_of(&function.slots[compute])
    f.rows, f.groups, f.n = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), cnp.PyArray_DIM(x, 2)
    f.nin, f.nout, f.ncol = len(inputs), len(outputs), len(columns)
    f.eps = eps
    for j in range(f.nin):
        strided_array(&f.in_[j], <cnp.ndarray> inputs[j])
        stream = stream and not shares(y, <cnp.ndarray> inputs[j])
    for j in range(f.nout):
        strided_array(&f.out[j], <cnp.ndarray> outputs[j])
    for j in range(f.ncol):
        f.col[j] = cnp.PyArray_BYTES(<cnp.ndarray> columns[j])
    # what is scattered or narrowed goes through the cache
    stream = stream and f.slot.size == f.slot.compute and f.out[0].step == f.slot.size
    f.nstat = nstat
    if stats is not None:
        f.stats = cnp.PyArray_BYTES(<cnp.ndarray> stats)
    if again is not None:
        f.again = resolved_of(&again.slots[compute])
    if then is not None:
        activation(&job, <Function> then[0], then[1:], compute, blocks)
        job.stream = stream and sums is None
        f.then = &job
    if sums is not None:
        run_gradients(&f, sums, stream)
        return
    f.stream = stream
    with nogil:
        fastact_run_normed(&f)
    if f.failed:
        no_memory()


cdef int activation(fastact_job *job, Function function, tuple params, int dtype, char *blocks) except -1:
    # contiguous elements, with parameters of one value each
    cdef fastact_slot *slot = &function.slots[dtype]
    cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
    cdef int j
    memset(job, 0, sizeof(job[0]))
    job.slot, job.resolved = slot, resolved_of(slot)
    job.narg = slot.nin + slot.nparam + slot.nout
    job.direct = True
    for j in range(job.narg):
        job.step[j] = slot.size
    for j in range(slot.nparam):
        fill_number(block, params[j], slot.size)
        job.data[slot.nin + j] = block
        job.one[slot.nin + j] = True
        block += VECTOR
    return 0


cdef void strided_array(fastact_array *to, cnp.ndarray a):
    to.data = cnp.PyArray_BYTES(a)
    to.row, to.group, to.step = cnp.PyArray_STRIDE(a, 0), cnp.PyArray_STRIDE(a, 1), cnp.PyArray_STRIDE(a, 2)


include "channels.pxi"


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

DRIVER_ISA = ("generic", "avx2", "avx512")


def configure(
    *, threads=None, stream_min=None, asleep_factor=None, asleep_chunks=None, spin_ns=None, driver_isa=None
):
    """Set the number of threads, the bytes of output from which on stores go past the cache, how many times as much work
    pays for waking a worker and how many tasks do in any case, the workers' patience, and the instruction set of random
    numbers and of conversions of 16-bit elements, at most "avx512"."""
    if threads is not None:
        fastact_threads_setting()[0] = threads
    if stream_min is not None:
        fastact_stream_setting()[0] = stream_min
    if asleep_factor is not None:
        fastact_asleep_setting()[0] = max(1, asleep_factor)
    if asleep_chunks is not None:
        fastact_asleep_chunks()[0] = max(1, asleep_chunks)
    if spin_ns is not None:
        fastact_pool_set_spin(spin_ns)
    if driver_isa is not None:
        fastact_philox_init(DRIVER_ISA.index(driver_isa))
        fastact_pack_init(DRIVER_ISA.index(driver_isa))


def status():
    """What the driver runs with: a dict of threads, threads_now, stream_min, workers, threading, openmp, driver_isa."""
    return {
        "threads": fastact_threads_setting()[0],
        "threads_now": fastact_threads_now(),
        "stream_min": fastact_stream_setting()[0],
        "workers": fastact_pool_workers(),
        "threading": "pool of POSIX threads" if FASTACT_THREADS else "none (built without POSIX threads)",
        "openmp": bool(FASTACT_OPENMP),
        "driver_isa": DRIVER_ISA[fastact_philox_level],
    }


cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    #include <cpuid.h>
    static int fastact_cpu(char *vendor, unsigned *family, unsigned *model)
    {
        unsigned a, b, c, d;
        if (!__get_cpuid(0, &a, &b, &c, &d))
            return 0;
        memcpy(vendor, &b, 4);
        memcpy(vendor + 4, &d, 4);
        memcpy(vendor + 8, &c, 4);
        vendor[12] = 0;
        if (!__get_cpuid(1, &a, &b, &c, &d))
            return 0;
        *family = (a >> 8) & 0xF;
        *model = (a >> 4) & 0xF;
        if (*family == 6 || *family == 15)
            *model |= (a >> 12) & 0xF0;
        if (*family == 15)
            *family += (a >> 20) & 0xFF;
        return 1;
    }
    #else
    static int fastact_cpu(char *vendor, unsigned *family, unsigned *model)
    {
        (void)vendor, (void)family, (void)model;
        return 0;
    }
    #endif
    """
    int fastact_cpu(char *vendor, unsigned *family, unsigned *model)


def cpu_kind():
    """Vendor, family and model of the CPU as CPUID gives them, such as ``("AuthenticAMD", 25, 17)``; None elsewhere."""
    cdef char vendor[13]
    cdef unsigned family = 0, model = 0
    if not fastact_cpu(vendor, &family, &model):
        return None
    return vendor.decode("ascii", "replace"), family, model


def computing_dtype(dtypes):
    """The name of the dtype in which inputs of these NumPy dtypes are computed, or None where they are not taken."""
    return common([type(d) for d in dtypes])


# ---- the object a user holds, as far as speed matters

cdef struct Domain:
    double low, high
    bint low_in, high_in, nonzero


cdef inline bint inside(const Domain *d, double v) noexcept nogil:
    # false for NaN
    return (v > d.low or (d.low_in and v == d.low)) and (v < d.high or (d.high_in and v == d.high)) and (
        not d.nonzero or v != 0.0)


cdef enum:
    MAX_PARAMS = 8


cdef class Callable:
    """Calls a ufunc, made when first needed, with its parameters filled in from their defaults.

    Parameters
    ----------
    make : callable
        Makes the `Function`.
    narrays : int
        Arrays, by position.
    names, defaults : tuple
        Of the parameters; a default of None means that the parameter must be given, then also by position.
    domains : tuple
        For each parameter ``(low, high, low included, high included, 0 excluded)``, all that is known to be valid.
    ordered : tuple of int or None
        Two parameters of which the first must be less than the second.
    check : callable
        ``check({name: value})`` raises for parameters outside their domains, and returns those that are numbers as floats.
    variants : tuple or None
        ``(keyword, {value: Callable})``: another callable for a value of a keyword, None for this one.
    at_default : Callable or None
        Takes the calls that give no parameter.
    """

    cdef void *vectorcall
    cdef object make, check, ufunc_
    cdef Function function_
    cdef Py_ssize_t narrays, nrequired, nparam
    cdef readonly tuple names, defaults
    cdef tuple typed_defaults  # per dtype, as 0-d arrays: NumPy takes them faster than Python floats
    cdef double default_values[MAX_PARAMS]
    cdef Domain domains[MAX_PARAMS]
    cdef int low_index, high_index
    cdef readonly tuple variants
    cdef readonly Callable at_default
    cdef readonly str called

    def __cinit__(self, *args, **kwargs):
        self.vectorcall = <void *> call_vector

    def __init__(self, str called, make, Py_ssize_t narrays, tuple names, tuple defaults, tuple domains, check,
                 variants=None, Callable at_default=None, tuple ordered=None):
        cdef int j
        if len(names) > MAX_PARAMS:
            raise ValueError(f"{called}: more than {MAX_PARAMS} parameters")
        self.called = called
        self.make = make
        self.narrays = narrays
        self.names = tuple(sys.intern(name) for name in names)
        self.nparam = len(names)
        self.defaults = defaults
        self.nrequired = sum(d is None for d in defaults)
        self.typed_defaults = () if self.nrequired else tuple(
            tuple(np.array(d, dtype) for d in defaults) for dtype in (np.float32, np.float64, np.float16)
        )
        for j in range(self.nparam):
            self.default_values[j] = 0.0 if defaults[j] is None else defaults[j]
            d = &self.domains[j]
            d.low, d.high, d.low_in, d.high_in, d.nonzero = domains[j]
        self.low_index, self.high_index = (-1, -1) if ordered is None else ordered
        self.check = check
        self.variants = variants
        self.at_default = at_default

    def __call__(self, *arrays, **kwargs):
        return PyVectorcall_Call(self, <PyObject *> arrays, <PyObject *> kwargs)

    @property
    def function(self):
        """The ufunc with its kernels."""
        if self.function_ is None:
            function = self.make()
            self.ufunc_ = function.ufunc
            self.function_ = function
        return self.function_

    cdef str keywords(self):
        return ", ".join(self.names + (() if self.variants is None else (self.variants[0],)))

    cdef call_with(self, tuple arrays, dict kwargs):
        # parameters by name, required ones also by position; a variant by its keyword
        cdef dict given = {}
        self.function
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
            given = self.check(given)
            params = [given.get(name, default) for name, default in zip(self.names, self.defaults)]
        if elsewhere((*arrays, *params, kwargs.get("out"))):
            return self.on_device(arrays[:self.narrays], given, kwargs)
        try:
            return self.ufunc_(*arrays[:self.narrays], *params, **kwargs)
        except (TypeError, ValueError) as error:
            self.blame(error, arrays[:self.narrays], given, kwargs)
            raise


# types of arrays in the memory of the host, and of numbers
cdef set HOST_TYPES = {np.ndarray, type(None), float, int, bool, list, np.float64, np.float32}
cdef object any_on_device = None


# types of arrays on a GPU to what calls a function with nothing but such arrays, or gives None
cdef dict DEVICE_TYPES = {}


def register_device_type(type_, call):
    """From now on ``call(callable, arrays)`` gets calls whose first array is of this type, if there are arrays alone."""
    DEVICE_TYPES[type_] = call


cpdef bint elsewhere(tuple given) except -1:
    """Whether one of these is an array on a GPU; tuples are looked into."""
    global any_on_device
    for a in given:
        if type(a) not in HOST_TYPES:
            if any_on_device is None:
                from fastact.api.device import any_on_device
            return any_on_device(given)
    return False


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
cdef str WHERE = sys.intern("where")
# whether they choose the dtype
cdef dict UFUNC_KEYWORDS = {"out": False, "where": False, "casting": False, "order": False, "subok": False, "dtype": True,
                            "signature": True, "sig": True}
cdef double FLOAT_MAX = np.finfo(np.float32).max


cdef bint plain_params(Callable self, int dtype, PyObject **given, tuple typed, char **data, double *values) except -1:
    # the parameters where the kernel can read them; False where they are not Python floats within their domains
    cdef Py_ssize_t j
    cdef double v
    cdef double all_values[MAX_PARAMS]
    cdef bint any_given = False
    for j in range(self.nparam):
        if given[j] == NULL:
            if self.nrequired:
                return False
            all_values[j] = self.default_values[j]
            data[j] = cnp.PyArray_BYTES(<cnp.ndarray> PyTuple_GET_ITEM(<PyObject *> typed, j))
            continue
        if not PyFloat_Check(given[j]) or dtype == 2:
            return False
        any_given = True
        v = all_values[j] = PyFloat_AS_DOUBLE(given[j])
        if not inside(&self.domains[j], v) or (dtype == 0 and (v > FLOAT_MAX or v < -FLOAT_MAX) and v - v == 0.0):
            return False
        if dtype == 0:
            (<float *> &values[j])[0] = <float> v
        else:
            values[j] = v
        data[j] = <char *> &values[j]
    if any_given and self.low_index >= 0 and not all_values[self.low_index] < all_values[self.high_index]:
        return False
    return True


cdef inline bint partly(const char *a, const char *b, size_t bytes) noexcept nogil:
    # whether so many bytes overlap, other than being the same
    return a != b and <uintptr_t> a < <uintptr_t> b + bytes and <uintptr_t> b < <uintptr_t> a + bytes


cdef bint plain_out(object out, cnp.ndarray first, char **data, Py_ssize_t n, size_t bytes) except -1:
    # an array that results can go to: in place is fine, a part is not
    cdef Py_ssize_t j
    if not same_layout(out, first, cnp.PyArray_TYPE(first)):
        return False
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
        PyArray_FailUnlessWriteable(<cnp.ndarray> out, b"output array")
    for j in range(n):
        if partly(data[j], cnp.PyArray_BYTES(<cnp.ndarray> out), bytes):
            return False
    return True


cdef object call_plain(Callable self, int dtype, PyObject **args, PyObject **given, PyObject *given_out, PyObject *where):
    # Arrays of one shape, contiguous, aligned, in native byte order, with an `out` of that kind or none, parameters that
    # are Python floats or left out, a mask of that shape or none: what the ufunc does then is no more than this, and relu
    # of 16 elements takes 0.06 us here, 0.34 there (Zen 4). None where it is not so plain.
    cdef Function function = self.function_
    cdef fastact_slot *slot = &function.slots[dtype]
    cdef char *data[FASTACT_ARGS]
    cdef double values[MAX_PARAMS]
    cdef cnp.npy_intp strides[FASTACT_ARGS]
    cdef cnp.ndarray first = <cnp.ndarray> args[0], out
    cdef int ndim = cnp.PyArray_NDIM(first), nparam = slot.nparam, nout = slot.nout, k
    cdef Py_ssize_t j, total, n = self.narrays
    cdef size_t bytes
    cdef const char *mask = NULL
    cdef PyObject *outs[2]
    cdef object value = None
    if ndim == 0:
        return None
    for j in range(n):
        if not PyArray_ISCARRAY_RO(<cnp.ndarray> args[j]) or not same_shape(<cnp.ndarray> args[j], first):
            return None
        data[j] = cnp.PyArray_BYTES(<cnp.ndarray> args[j])
        strides[j] = slot.size
    total = cnp.PyArray_SIZE(first)
    bytes = total * slot.size
    if where != NULL:
        if not same_layout(<object> where, first, cnp.NPY_BOOL):
            return None
        mask = cnp.PyArray_BYTES(<cnp.ndarray> where)
    if not plain_params(self, dtype, given, <tuple> self.typed_defaults[dtype] if not self.nrequired else (), data + n, values):
        return None
    for k in range(nparam):
        strides[n + k] = 0
    outs[0] = outs[1] = NULL
    if given_out != NULL:
        if nout == 1 and cnp.PyArray_CheckExact(<object> given_out):
            outs[0] = given_out
        elif isinstance(<object> given_out, tuple) and PyTuple_GET_SIZE(given_out) == nout:
            for k in range(nout):
                outs[k] = PyTuple_GET_ITEM(given_out, k)
                if <object> outs[k] is None:
                    outs[k] = NULL
        else:
            return None
    for k in range(nout):
        if outs[k] == NULL:
            out = PyArray_SimpleNew(ndim, cnp.PyArray_DIMS(first), cnp.PyArray_TYPE(first))
        else:
            if not plain_out(<object> outs[k], first, data, n, bytes):
                return None
            out = <cnp.ndarray> outs[k]
            if where != NULL and overlaps(out, <cnp.ndarray> where):
                return None
            if k and outs[0] != NULL and cnp.PyArray_BYTES(out) < cnp.PyArray_BYTES(<cnp.ndarray> outs[0]) + bytes \
                    and cnp.PyArray_BYTES(<cnp.ndarray> outs[0]) < cnp.PyArray_BYTES(out) + bytes:
                return None
        if k < nout - 1:
            value = out
        data[n + nparam + k] = cnp.PyArray_BYTES(out)
        strides[n + nparam + k] = slot.size
    if total < HOLD_GIL:
        call_map(slot, data, total, strides, mask)
    else:
        with nogil:
            call_map(slot, data, total, strides, mask)
    return out if nout == 1 else (value, out)


cdef object call_vector(object callable_, PyObject **args, size_t nargsf, PyObject *kwnames):
    # vectorcall (PEP 590): what is plain goes straight to the kernel, `out=` and the like to the ufunc
    cdef Callable self = <Callable> callable_
    cdef PyObject *full[FASTACT_ARGS + MAX_KEYWORDS]
    cdef PyObject *given[MAX_PARAMS]
    cdef PyObject *out = NULL
    cdef PyObject *where = NULL
    cdef PyObject *name
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), j, nkw = 0, k
    cdef int dtype
    cdef tuple params
    cdef bint typed = True, plain = True, named = False
    for j in range(self.nparam):
        given[j] = NULL
    if kwnames != NULL:
        nkw = PyTuple_GET_SIZE(kwnames)
        for j in range(nkw):
            name = PyTuple_GET_ITEM(kwnames, j)
            if name == <PyObject *> OUT:
                out = args[n + j] if args[n + j] != <PyObject *> None else NULL
                continue
            if name == <PyObject *> WHERE:
                where = args[n + j] if args[n + j] != <PyObject *> True else NULL
                continue
            for k in range(self.nparam):
                if name == PyTuple_GET_ITEM(<PyObject *> self.names, k):
                    given[k] = args[n + j]
                    named = True
                    break
            else:
                plain = False
                key = <object> name
                if key in self.names or (self.variants is not None and key == self.variants[0]):
                    return call_unpacked(self, args, n, kwnames)
                chooses = UFUNC_KEYWORDS.get(key)
                if chooses is None:
                    return call_unpacked(self, args, n, kwnames)
                if chooses:
                    typed = False
    if self.at_default is not None and not named:
        return call_vector(self.at_default, args, nargsf, kwnames)
    if self.function_ is None:
        self.function
    if n != self.narrays or nkw > MAX_KEYWORDS:
        return call_unpacked(self, args, n, kwnames)
    dtype = dtype_index(args, n)
    if dtype < 0:
        # not all of one dtype that defaults are there for
        if kwnames == NULL and DEVICE_TYPES:
            on_device = DEVICE_TYPES.get(type(<object> args[0]))
            if on_device is not None:
                result = on_device(self, tuple([<object> args[j] for j in range(n)]))
                if result is not None:
                    return result
        return call_unpacked(self, args, n, kwnames)
    if plain:
        if where != NULL and cnp.PyArray_CheckExact(<object> where) \
                and not same_shape(<cnp.ndarray> where, <cnp.ndarray> args[0]):
            try:
                # a mask for each element: NumPy would call the loop for each run of it
                mask = np.array(np.broadcast_to(<object> where, (<object> args[0]).shape))
            except ValueError:
                return call_unpacked(self, args, n, kwnames)
            result = call_plain(self, dtype, args, given, out, <PyObject *> mask)
        else:
            result = call_plain(self, dtype, args, given, out, where)
        if result is not None:
            return result
    # an out that is no array of NumPy may be on a GPU
    if named or self.nrequired or (out != NULL and not cnp.PyArray_Check(<object> out)):
        return call_unpacked(self, args, n, kwnames)
    if not self.nparam:
        try:
            return fastact_vectorcall(self.ufunc_, args, n, kwnames)
        except (TypeError, ValueError) as error:
            blame(self, error, args, n, kwnames)
            raise
    params = <tuple> self.typed_defaults[dtype] if typed else self.defaults
    for j in range(n):
        full[j] = args[j]
    for j in range(self.nparam):
        full[n + j] = PyTuple_GET_ITEM(<PyObject *> params, j)
    for k in range(nkw):
        full[n + self.nparam + k] = args[n + k]
    try:
        return fastact_vectorcall(self.ufunc_, full, n + self.nparam, kwnames)
    except (TypeError, ValueError) as error:
        blame(self, error, args, n, kwnames)
        raise


cdef object blame(Callable self, object error, PyObject **args, Py_ssize_t n, PyObject *kwnames):
    # an error in words of this function, where the ufunc's are of its own
    self.blame(error, tuple([<object> args[j] for j in range(n)]), {}, keywords_of(args, n, kwnames))


cdef dict keywords_of(PyObject **args, Py_ssize_t n, PyObject *kwnames):
    cdef Py_ssize_t j
    cdef dict kwargs = {}
    if kwnames != NULL:
        for j in range(PyTuple_GET_SIZE(kwnames)):
            kwargs[<object> PyTuple_GET_ITEM(kwnames, j)] = <object> args[n + j]
    return kwargs


cdef object call_unpacked(Callable self, PyObject **args, Py_ssize_t n, PyObject *kwnames):
    cdef Py_ssize_t j
    return self.call_with(tuple([<object> args[j] for j in range(n)]), keywords_of(args, n, kwnames))


cdef class FusedCallable:
    """Calls of a fused function with plain arrays and nothing but ``out=`` go to its kernels at once, see `plain`; all others
    to the method ``_call`` of a subclass."""

    cdef void *vectorcall
    cdef Function function
    cdef bytes roles_
    cdef int narrays, nparam
    cdef object along  # the axis, or None
    cdef double numbers[MAX_PARAMS]

    def __cinit__(self, *args, **kwargs):
        self.vectorcall = <void *> call_fused_vector

    def __call__(self, *arrays, **kwargs):
        return PyVectorcall_Call(self, <PyObject *> arrays, <PyObject *> kwargs)

    def plain(self, Function function, tuple numbers, str roles, int narrays, along):
        """From now on: so many arrays, `function` with these parameters, `roles` of inputs and outputs, the axis."""
        cdef int j
        if len(numbers) > MAX_PARAMS:
            raise ValueError(f"more than {MAX_PARAMS} parameters")
        for j in range(len(numbers)):
            self.numbers[j] = numbers[j]
        self.nparam, self.narrays = len(numbers), narrays
        self.roles_, self.along, self.function = roles.encode(), along, function


cdef object call_fused_vector(object callable_, PyObject **args, size_t nargsf, PyObject *kwnames):
    # vectorcall (PEP 590)
    cdef FusedCallable self = <FusedCallable> callable_
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), j
    cdef PyObject *out = NULL
    cdef dict kwargs = {}
    cdef bint plain = self.function is not None and n == self.narrays
    if plain and kwnames != NULL:
        plain = PyTuple_GET_SIZE(kwnames) == 1 and PyTuple_GET_ITEM(kwnames, 0) == <PyObject *> OUT
        if plain and args[n] != <PyObject *> None:
            out = args[n]
    if plain:
        found = call_fused(self.function, args, n, self.numbers, self.nparam, self.roles_, len(self.roles_) - n,
                           NULL if self.along is None else <PyObject *> self.along, out, None)
        if found is not None:
            return found
    if kwnames != NULL:
        for j in range(PyTuple_GET_SIZE(kwnames)):
            kwargs[<object> PyTuple_GET_ITEM(kwnames, j)] = <object> args[n + j]
    return self._call(*[<object> args[j] for j in range(n)], **kwargs)


def enable_vectorcall(cls):
    """Let calls of a subclass of `Callable` or `FusedCallable` that keeps its ``__call__`` skip the tuple and the dict."""
    cdef PyTypeObject *type_ = <PyTypeObject *> cls
    if not issubclass(cls, (Callable, FusedCallable)) or cls.__call__ not in (Callable.__call__, FusedCallable.__call__):
        raise TypeError(f"{cls.__name__} has a __call__ of its own")
    type_.tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL
    PyType_Modified(type_)
    return cls


cdef Callable _example = Callable("", None, 1, (), (), (), None)
(<PyTypeObject *> Callable).tp_vectorcall_offset = (
    <char *> &_example.vectorcall - <char *> <PyObject *> _example
)
cdef FusedCallable _fused_example = FusedCallable()
(<PyTypeObject *> FusedCallable).tp_vectorcall_offset = (
    <char *> &_fused_example.vectorcall - <char *> <PyObject *> _fused_example
)
