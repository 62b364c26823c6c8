# Batch norm of plain arrays: what api/batch_norm.py does in general, without Python between the kernels. The arithmetic on
# channels is the same, one rounding after the other.

ctypedef fused real:
    float
    double


cdef bint far_from_mean(real *d, real *squares, Py_ssize_t n, real count) noexcept nogil:
    # sums become means; whether a difference is more than a standard deviation
    cdef Py_ssize_t i
    cdef bint far = False
    for i in range(n):
        d[i] /= count
        squares[i] /= count
        if d[i] * d[i] > squares[i] - d[i] * d[i]:
            far = True
    return far


cdef void add_to(real *a, const real *b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] += b[i]


cdef void channel_statistics(real *stats, real *var, const real *guess, const real *d, const real *squares, Py_ssize_t n,
                             real eps) noexcept nogil:
    # mean, what it lost by rounding (Knuth's two-sum: TAOCP 2, 4.2.2), 1/std
    cdef Py_ssize_t i
    cdef real mean, z, v, one = 1
    for i in range(n):
        mean = guess[i] + d[i]
        z = mean - guess[i]
        stats[i] = mean
        stats[n + i] = (guess[i] - (mean - z)) + (d[i] - z)
        v = squares[i] - d[i] * d[i]
        if v < 0:
            v = 0
        var[i] = v
        stats[2 * n + i] = one / root(v + eps) + (v - v)


cdef void channel_values(const real *stats, const real *weight, const real *bias, real *scale, real *offset,
                         Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef real w = 1, b = 0
    for i in range(n):
        if weight != NULL:
            w = weight[i]
        if bias != NULL:
            b = bias[i]
        scale[i] = stats[2 * n + i] * w
        offset[i] = b - stats[n + i] * scale[i]


cdef void channel_slopes(const real *stats, const real *scale, real *products, const real *sums, real *slope, real *shift,
                         Py_ssize_t n, real count) noexcept nogil:
    # products become the gradient of weight
    cdef Py_ssize_t i
    cdef real low, rstd
    for i in range(n):
        low, rstd = stats[n + i], stats[2 * n + i]
        products[i] = rstd * (products[i] - low * sums[i])
        slope[i] = rstd * scale[i] * (products[i] / count)
        shift[i] = scale[i] * (sums[i] / count) - low * slope[i]


cdef inline real root(real v) noexcept nogil:
    if real is float:
        return c_sqrtf(v)
    else:
        return c_sqrt(v)


cdef struct Channels:
    int dtype
    Py_ssize_t outer, channel, size


cdef bint channels_of(Channels *c, cnp.ndarray x, list columns) except -1:
    # contiguous, the last axis that of channels; `columns` of that length, or None
    c.dtype = 0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1
    c.channel = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    c.outer = cnp.PyArray_SIZE(x) // c.channel
    c.size = cnp.PyArray_ITEMSIZE(x)
    for column in columns:
        if column is not None and column_of(column, x, 0.0) is None:
            return False
    return True


cdef inline char *bytes_of(object array) noexcept:
    return NULL if array is None else cnp.PyArray_BYTES(<cnp.ndarray> array)


cdef int run_channels(const Channels *c, Function function, Py_ssize_t outer, list arrays, list columns, tuple params,
                      object out, list sums) except -1:
    # a kind of arrays and columns, with a result or sums
    cdef fastact_fused f
    cdef char blocks[BLOCKS]
    cdef char *block = <char *> ((<uintptr_t> blocks + VECTOR - 1) & ~(<uintptr_t> VECTOR - 1))
    cdef char *to[2]
    cdef int j
    memset(&f, 0, sizeof(f))
    f.job.slot = &function.slots[c.dtype]
    f.job.resolved = resolved_of(<fastact_slot *> f.job.slot)
    f.outer, f.channel, f.inner = outer, c.channel, 1
    for array in arrays:
        add_argument(&f, FASTACT_ARRAY, bytes_of(array))
    for column in columns:
        add_argument(&f, FASTACT_CHANNEL, bytes_of(column))
    for value in params:
        fill_number(block, value, c.size)
        add_argument(&f, FASTACT_VALUE, block)
        block += VECTOR
    if out is not None:
        add_argument(&f, FASTACT_ARRAY, bytes_of(out))
    for j in range(len(sums)):
        add_argument(&f, FASTACT_SUM, NULL)
        to[j] = bytes_of(sums[j])
    run_fused(&f, to)
    return 0


cdef inline void add_argument(fastact_fused *f, int role, char *data) noexcept:
    f.role[f.job.narg] = role
    f.job.data[f.job.narg] = data
    f.job.narg += 1


cdef cnp.ndarray row_like(const Channels *c, cnp.ndarray x, Py_ssize_t rows):
    # memory for so many values of each channel
    cdef cnp.npy_intp dims[2]
    dims[0], dims[1] = rows, c.channel
    return PyArray_SimpleNew(2, dims, cnp.PyArray_TYPE(x)) if rows > 1 else PyArray_SimpleNew(
        1, dims + 1, cnp.PyArray_TYPE(x))


cdef void move_running(real *mean, real *var, const real *stats, const real *batch, Py_ssize_t n, real momentum, real rest,
                       real unbiased) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        mean[i] = momentum * mean[i] + rest * stats[i]
        var[i] = momentum * var[i] + rest * (batch[i] * unbiased)


cdef bint can_move(object a, list others) except -1:
    # running statistics: of memory of their own
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> a):
        return False
    for other in others:
        if other is not None and shares(<cnp.ndarray> a, <cnp.ndarray> other):
            return False
    return True


def plain_batch_norm(Function moments, Function values, tuple params, object x, object weight, object bias, double eps,
                     Py_ssize_t sample, object out, tuple running, double momentum, bint unbiased):
    """Batch norm along the last axis of contiguous arrays of one dtype, by statistics of the batch: y and statistics.
    `values` is the kind that computes y, with an activation's `params`; `sample` rows give the first guess of the mean;
    `running` statistics, if there are, are moved. None where arrays are not so plain."""
    cdef Channels c
    cdef cnp.ndarray first, stats, var, guess, work
    cdef list results = [], sums
    cdef bint far, moved
    cdef int turn
    cdef double more
    cdef char *d
    cdef char *squares
    if not is_plain(x):
        return None
    first = x
    if not channels_of(&c, first, [weight, bias, *running]):
        return None
    moved = running[0] is not None
    if moved != (running[1] is not None) or (moved and unbiased and c.outer == 1):
        return None
    if resolved_of(&moments.slots[c.dtype]).nstage == 0 or resolved_of(&values.slots[c.dtype]).nstage == 0:
        return None
    if not plain_result(out, first, results, [first], [a for a in (weight, bias) if a is not None]):
        return None
    if moved and not (can_move(running[0], [first, weight, bias, results[0], running[1]])
                      and can_move(running[1], [first, weight, bias, results[0]])):
        return None
    stats, var, guess, work = row_like(&c, first, 3), row_like(&c, first, 1), row_like(&c, first, 1), row_like(&c, first, 2)
    sums = [row_like(&c, first, 1), row_like(&c, first, 1)]
    d, squares = bytes_of(sums[0]), bytes_of(sums[1])
    memcpy(cnp.PyArray_BYTES(guess), cnp.PyArray_BYTES(first), c.channel * c.size)
    if sample > c.outer:
        sample = c.outer
    run_channels(&c, moments, sample, [first], [guess], (), None, sums)
    if c.dtype == 0:
        far_from_mean[float](<float *> d, <float *> squares, c.channel, sample)
        add_to[float](<float *> cnp.PyArray_DATA(guess), <float *> d, c.channel)
    else:
        far_from_mean[double](<double *> d, <double *> squares, c.channel, sample)
        add_to[double](<double *> cnp.PyArray_DATA(guess), <double *> d, c.channel)
    for turn in range(2):
        run_channels(&c, moments, c.outer, [first], [guess], (), None, sums)
        if c.dtype == 0:
            far = far_from_mean[float](<float *> d, <float *> squares, c.channel, c.outer)
        else:
            far = far_from_mean[double](<double *> d, <double *> squares, c.channel, c.outer)
        if not far or turn == 1:
            break
        if c.dtype == 0:
            add_to[float](<float *> cnp.PyArray_DATA(guess), <float *> d, c.channel)
        else:
            add_to[double](<double *> cnp.PyArray_DATA(guess), <double *> d, c.channel)
    if c.dtype == 0:
        channel_statistics[float](<float *> cnp.PyArray_DATA(stats), <float *> cnp.PyArray_DATA(var),
                                  <float *> cnp.PyArray_DATA(guess), <float *> d, <float *> squares, c.channel, <float> eps)
        channel_values[float](<float *> cnp.PyArray_DATA(stats), <float *> bytes_of(weight), <float *> bytes_of(bias),
                              <float *> cnp.PyArray_DATA(work), <float *> cnp.PyArray_DATA(work) + c.channel, c.channel)
    else:
        channel_statistics[double](<double *> cnp.PyArray_DATA(stats), <double *> cnp.PyArray_DATA(var),
                                   <double *> cnp.PyArray_DATA(guess), <double *> d, <double *> squares, c.channel, eps)
        channel_values[double](<double *> cnp.PyArray_DATA(stats), <double *> bytes_of(weight), <double *> bytes_of(bias),
                               <double *> cnp.PyArray_DATA(work), <double *> cnp.PyArray_DATA(work) + c.channel, c.channel)
    run_channels(&c, values, c.outer, [first], [stats[0], work[0], work[1]], params, results[0], [])
    if moved:
        more = c.outer / (c.outer - 1.0) if unbiased else 1.0
        if c.dtype == 0:
            move_running[float](<float *> bytes_of(running[0]), <float *> bytes_of(running[1]), <float *> cnp.PyArray_DATA(stats),
                                <float *> cnp.PyArray_DATA(var), c.channel, <float> momentum, <float> (1 - momentum),
                                <float> more)
        else:
            move_running[double](<double *> bytes_of(running[0]), <double *> bytes_of(running[1]),
                                 <double *> cnp.PyArray_DATA(stats), <double *> cnp.PyArray_DATA(var), c.channel, momentum,
                                 1 - momentum, more)
    return results[0], stats


def plain_batch_norm_backward(Function sums_of, Function gradient, tuple params, bint activated, object dy, object x,
                              object stats, object weight, object bias, object out):
    """Its gradients: (dx, dweight, dbias), None for those that are not wanted; None where arrays are not so plain."""
    cdef Channels c
    cdef cnp.ndarray first, work, s
    cdef list results = [], sums, columns
    cdef char *w
    if not is_plain(x):
        return None
    first = x
    if not same_layout(dy, first, cnp.PyArray_TYPE(first)) or not channels_of(&c, first, [weight, bias]):
        return None
    if not cnp.PyArray_CheckExact(stats):
        return None
    s = stats
    if (cnp.PyArray_TYPE(s) != cnp.PyArray_TYPE(first) or not PyArray_ISCARRAY_RO(s) or cnp.PyArray_NDIM(s) != 2
            or cnp.PyArray_DIM(s, 0) != 3 or cnp.PyArray_DIM(s, 1) != c.channel):
        return None
    if resolved_of(&sums_of.slots[c.dtype]).nstage == 0 or resolved_of(&gradient.slots[c.dtype]).nstage == 0:
        return None
    if not plain_result(out, first, results, [first, dy], [a for a in (weight, bias, stats) if a is not None]):
        return None
    work = row_like(&c, first, 4)  # scale, offset, slope, shift
    w = cnp.PyArray_BYTES(work)
    sums = [row_like(&c, first, 1), row_like(&c, first, 1)]
    if c.dtype == 0:
        channel_values[float](<float *> cnp.PyArray_DATA(s), <float *> bytes_of(weight), <float *> bytes_of(bias), <float *> w,
                              <float *> w + c.channel, c.channel)
    else:
        channel_values[double](<double *> cnp.PyArray_DATA(s), <double *> bytes_of(weight), <double *> bytes_of(bias),
                               <double *> w, <double *> w + c.channel, c.channel)
    columns = [s[0], work[0], work[1]] if activated else [s[0]]
    run_channels(&c, sums_of, c.outer, [dy, first], columns, params, None, sums)
    if c.dtype == 0:
        channel_slopes[float](<float *> cnp.PyArray_DATA(s), <float *> w, <float *> bytes_of(sums[0]),
                              <float *> bytes_of(sums[1]), <float *> w + 2 * c.channel, <float *> w + 3 * c.channel,
                              c.channel, c.outer)
    else:
        channel_slopes[double](<double *> cnp.PyArray_DATA(s), <double *> w, <double *> bytes_of(sums[0]),
                               <double *> bytes_of(sums[1]), <double *> w + 2 * c.channel, <double *> w + 3 * c.channel,
                               c.channel, c.outer)
    columns = [s[0], work[0], work[1], work[2], work[3]] if activated else [s[0], work[0], work[2], work[3]]
    run_channels(&c, gradient, c.outer, [dy, first], columns, params, results[0], [])
    return results[0], sums[0] if weight is not None else None, sums[1] if bias is not None else None
