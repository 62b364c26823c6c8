"""What ``_driver`` uses of NumPy's C API and Cython's ``numpy`` does not declare."""

from cpython.object cimport PyObject

cimport numpy as cnp


cdef extern from "numpy/dtype_api.h":
    ctypedef struct PyArrayMethod_Context:
        PyObject *caller
        PyObject **descriptors
    ctypedef struct PyType_Slot:
        int slot
        void *pfunc
    ctypedef struct PyArrayMethod_Spec:
        const char *name
        int nin
        int nout
        int casting
        int flags
        void *dtypes
        PyType_Slot *slots
    int NPY_METH_strided_loop
    int NPY_METH_NO_FLOATINGPOINT_ERRORS


cdef extern from "numpy/ufuncobject.h":
    int PyUFunc_AddLoopFromSpec(PyObject *ufunc, PyArrayMethod_Spec *spec) except -1
    int PyUFunc_AddPromoter(PyObject *ufunc, PyObject *DType_tuple, PyObject *promoter) except -1
    ctypedef struct PyUFuncObject:
        void **data
        int nin
        int nout
        int nargs
        const char *name


cdef extern from "numpy/arrayobject.h":
    # steals the reference to the descriptor
    object PyArray_NewFromDescr(void *subtype, void *descr, int nd, const cnp.npy_intp *dims,
                                const cnp.npy_intp *strides, void *data, int flags, void *obj)


cdef extern from "Python.h":
    PyObject *PyCapsule_New(void *pointer, const char *name, void *destructor)


# each module declares them for its own type
cdef extern from *:
    """
    #if defined(__GNUC__)
    #define load_pointer(where) __atomic_load_n(where, __ATOMIC_ACQUIRE)
    #define store_pointer(where, what) __atomic_store_n(where, what, __ATOMIC_RELEASE)
    #else
    #define load_pointer(where) (*(where))
    #define store_pointer(where, what) (*(where) = (what))
    #endif
    """
    pass
