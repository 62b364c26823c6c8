cimport numpy as cnp

ctypedef void (*task_fn)(void *context, Py_ssize_t index) noexcept nogil

cdef int threads_now() noexcept nogil
cdef int threads_for(Py_ssize_t n, Py_ssize_t parallel_min) noexcept nogil
cdef int parallel_for(task_fn task, void *context, Py_ssize_t count, int threads) noexcept nogil
cdef int refuse(str ufunc, list given, list asked) except -1
