# Lists of arrays that are updated in place (lists.h); included by _driver.pyx.

from libc.stdlib cimport malloc

cdef extern from "lists.h" nogil:
    ctypedef struct fastact_list:
        fastact_job job
        Py_ssize_t arrays
        int apart
        char **data
        char **copies
        const Py_ssize_t *start
        const Py_ssize_t *length
    ctypedef struct fastact_norm:
        Py_ssize_t arrays
        int dtype
        Py_ssize_t size
        char **data
        const Py_ssize_t *length
        const Py_ssize_t *block
        double *pairs
    enum: NORM_BLOCK
    void fastact_run_list(fastact_list *list, char *filled)
    double fastact_run_norm(fastact_norm *norm, Py_ssize_t elements, Py_ssize_t parallel_min)

cdef extern from *:
    """
    /* the member `own` is not of the struct that _driver.pyx declares */
    static inline void fastact_list_own(fastact_list *list, int j, int own) { list->job.own[j] = own != 0; }
    """
    void fastact_list_own(fastact_list *list, int j, bint own) nogil


cdef class Lists:
    """Lists of arrays that a function of the loop "list" updates in place, all arrays in one parallel pass.

    Parameters
    ----------
    function : Function
        Its inputs are a parameter, its gradient (if it takes one), its state; its outputs the new parameter and state.
    dtype : str
        Of the parameters as users hold them.
    params : tuple of ndarray
        What users hold: gradients have their shapes and dtype, or the computing dtype.
    columns : tuple of tuples of ndarray
        What is updated: for each input but the gradient an array for each parameter, contiguous. Those that are not
        parameters themselves have the computing dtype.
    copies : tuple of ndarray or None
        Where the new parameters go also, narrowed to `dtype`.
    """

    cdef Function function
    cdef fastact_slot *slot
    cdef readonly tuple params, columns, copies
    cdef Py_ssize_t arrays, elements
    cdef int nin, apart_at  # the place of the gradient, or -1
    cdef int narrow, wide  # type numbers of gradients
    cdef char **data  # arrays × (columns and gradient)
    cdef char **copy_data
    cdef Py_ssize_t *start
    cdef Py_ssize_t *length
    cdef uintptr_t *written  # ends of what is written, in the order of their beginnings
    cdef Py_ssize_t nwritten

    def __cinit__(self, Function function, str dtype, tuple params, tuple columns, copies):
        cdef Py_ssize_t k, n = len(params), size, granule
        cdef int j, at, nin = function.slots[0].nin
        cdef cnp.ndarray a
        self.function, self.params, self.columns, self.copies = function, params, columns, copies
        self.slot = &function.slots[DTYPES.index(dtype)]
        if dtype == "bfloat16" and function.dtypes[3] is None:
            kind_of(type(params[0].dtype))
            function.add_bfloat16()
        self.arrays, self.elements, granule = n, 0, self.slot.granule
        self.nin, self.apart_at = nin, 1 if nin > len(columns) else -1
        self.narrow = cnp.PyArray_TYPE(<cnp.ndarray> params[0])
        self.wide = cnp.NPY_FLOAT64 if self.slot.compute == 8 else cnp.NPY_FLOAT32
        self.data = <char **> malloc(n * nin * sizeof(char *))
        self.copy_data = <char **> malloc(n * sizeof(char *))
        self.start = <Py_ssize_t *> malloc((n + 1) * sizeof(Py_ssize_t))
        self.length = <Py_ssize_t *> malloc(n * sizeof(Py_ssize_t))
        self.written = <uintptr_t *> malloc(2 * n * nin * sizeof(uintptr_t))
        if not (self.data and self.copy_data and self.start and self.length and self.written):
            raise MemoryError
        for k in range(n):
            a = columns[0][k]
            size = cnp.PyArray_SIZE(a)
            self.start[k], self.length[k] = self.elements, size
            self.elements += (size + granule - 1) // granule * granule
            for j in range(len(columns)):
                at = j + 1 if 0 < self.apart_at <= j else j
                self.data[k * nin + at] = cnp.PyArray_BYTES(<cnp.ndarray> columns[j][k])
            self.copy_data[k] = NULL if copies is None else cnp.PyArray_BYTES(<cnp.ndarray> copies[k])
        self.start[n] = self.elements
        all_written = [a for column in (*columns, copies or ()) for a in column if a.size]
        self.nwritten = len(all_written)
        for k, (begin, end) in enumerate(sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in all_written)):
            self.written[2 * k], self.written[2 * k + 1] = begin, end

    def __dealloc__(self):
        free(self.data)
        free(self.copy_data)
        free(self.start)
        free(self.length)
        free(self.written)

    cdef bint apart(self, cnp.ndarray g) noexcept:
        # whether an array shares no memory with what is written
        cdef uintptr_t begin = <uintptr_t> cnp.PyArray_BYTES(g), end = begin + cnp.PyArray_NBYTES(g)
        cdef Py_ssize_t low = 0, high = self.nwritten, middle
        while low < high:
            middle = (low + high) // 2
            if self.written[2 * middle + 1] <= begin:
                low = middle + 1
            else:
                high = middle
        return low == self.nwritten or self.written[2 * low] >= end or begin == end

    cpdef bint plain(self, grads):
        """Whether gradients are a list or tuple of arrays as kernels take them, all of one dtype, and may be used now: they
        share no memory with what is written, and that is writeable."""
        cdef Py_ssize_t k
        cdef cnp.ndarray p, g
        cdef int number = -1
        if type(grads) is not list and type(grads) is not tuple:
            return False
        if len(grads) != self.arrays:
            return False
        for k in range(self.arrays):
            if not cnp.PyArray_CheckExact(grads[k]):
                return False
            p, g = self.params[k], grads[k]
            if k == 0:
                number = cnp.PyArray_TYPE(g)
                if number != self.narrow and number != self.wide:
                    return False
            if (cnp.PyArray_TYPE(g) != number or not PyArray_ISCARRAY_RO(g) or not same_shape(g, p)
                    or not cnp.PyArray_ISWRITEABLE(p) or not self.apart(g)):
                return False
        return True

    def norm(self, grads):
        """The root of the sum of the squares of all elements of gradients that are plain."""
        if not self.plain(grads):
            raise ValueError("gradients do not fit")
        return norm_of(grads)

    def run(self, grads, tuple numbers):
        """Update everything from gradients that are plain (None where the function takes none), with these numbers for
        the kernel."""
        cdef fastact_list l
        cdef char blocks[BLOCKS]
        cdef double values[FASTACT_ARGS]
        cdef float narrow[FASTACT_ARGS]
        cdef char **data
        cdef int j, nin = self.nin
        cdef Py_ssize_t k
        cdef bint wide
        # held while the GIL is not: another thread may change the list
        grads = None if grads is None else tuple(grads)
        if (self.apart_at > 0 and not self.plain(grads)) or len(numbers) != self.slot.nparam:
            raise ValueError("gradients or numbers do not fit")
        memset(&l, 0, sizeof(l))
        l.job.resolved = resolved_of(self.slot)
        if l.job.resolved.nstage == 0:
            self.run_in_python(<object> <PyObject *> l.job.resolved.python, grads, numbers)
            return
        wide = self.apart_at > 0 and cnp.PyArray_TYPE(<cnp.ndarray> grads[0]) == self.wide
        l.job.slot = self.slot
        l.job.narg = nin + self.slot.nparam + self.slot.nout
        l.arrays, l.apart = self.arrays, self.apart_at
        l.start, l.length = self.start, self.length
        l.copies = NULL if self.copies is None else self.copy_data
        for j in range(nin):
            # in float32 and float64 everything has the computing dtype
            fastact_list_own(&l, j, wide if j == self.apart_at else j > 0 or self.copies is not None)
        for j in range(self.slot.nparam):
            values[j] = numbers[j]
            narrow[j] = <float> values[j]
            l.job.data[nin + j] = <char *> &narrow[j] if self.slot.compute == 4 else <char *> &values[j]
        # of this call: another thread may run with other gradients
        data = <char **> malloc(self.arrays * nin * sizeof(char *))
        if data == NULL:
            raise MemoryError
        for k in range(self.arrays):
            for j in range(nin):
                data[k * nin + j] = self.data[k * nin + j]
            if self.apart_at > 0:
                data[k * nin + self.apart_at] = cnp.PyArray_BYTES(<cnp.ndarray> grads[k])
        l.data = data
        if self.elements < HOLD_GIL:
            fastact_run_list(&l, <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1)))
        else:
            with nogil:
                fastact_run_list(&l, <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1)))
        free(data)

    cdef run_in_python(self, function, grads, tuple numbers):
        compute = np.float64 if self.slot.compute == 8 else np.float32
        values = [compute(v) for v in numbers]
        with np.errstate(all="ignore"):
            for k in range(self.arrays):
                arrays = [column[k] for column in self.columns]
                given = (grads[k],) if self.apart_at > 0 else ()
                results = function(arrays[0], *given, *arrays[1:], *values)
                for array, result in zip(arrays, results):
                    array[...] = result
                if self.copies is not None:
                    self.copies[k][...] = results[0]


def norm_of(arrays):
    """The root of the sum of the squares of all elements of contiguous arrays of one dtype."""
    cdef fastact_norm norm
    cdef Py_ssize_t k, n = len(arrays), elements = 0
    cdef cnp.ndarray a
    cdef double found
    cdef char **data
    cdef Py_ssize_t *length
    arrays = tuple(arrays)  # held while the GIL is not
    if not n:
        return 0.0
    norm.arrays, norm.dtype = n, DTYPES.index(kind_of(type(arrays[0].dtype)))
    norm.size = cnp.PyArray_ITEMSIZE(<cnp.ndarray> arrays[0])
    data = <char **> malloc(n * sizeof(char *))
    length = <Py_ssize_t *> malloc((2 * n + 1) * sizeof(Py_ssize_t))
    norm.pairs = NULL
    try:
        if data == NULL or length == NULL:
            raise MemoryError
        length[n] = 0
        for k in range(n):
            a = arrays[k]
            data[k], length[k] = cnp.PyArray_BYTES(a), cnp.PyArray_SIZE(a)
            length[n + 1 + k] = length[n + k] + (length[k] + NORM_BLOCK - 1) // NORM_BLOCK
            elements += length[k]
        norm.data, norm.length, norm.block = data, length, length + n
        norm.pairs = <double *> malloc(2 * (length[2 * n] + 1) * sizeof(double))
        if norm.pairs == NULL:
            raise MemoryError
        with nogil:
            found = fastact_run_norm(&norm, elements, NORM_PARALLEL)
    finally:
        free(data)
        free(length)
        free(norm.pairs)
    return found


cdef enum:
    NORM_PARALLEL = 2 * NORM_BLOCK  # two blocks: a thread for each
