from cpython.object cimport PyObject

from fastact.runtime._numpy_api cimport PyUFuncObject

ctypedef void (*task_fn)(void *context, Py_ssize_t index) noexcept nogil

cdef int threads_now() noexcept nogil
cdef int threads_for(Py_ssize_t n, Py_ssize_t parallel_min) noexcept nogil
cdef int parallel_for(task_fn task, void *context, Py_ssize_t count, int threads) noexcept nogil
cdef str loop_dtype(str ufunc, list given, list asked)
cdef object class_of(str dtype)
cdef void set_class(PyUFuncObject *u, int j, object cls, PyObject **op_dtypes, PyObject **new_dtypes)
