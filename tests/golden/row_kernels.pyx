cdef inline quad_f32 each_minimum_of_quad_f32(quad_f32 x, quad_f32 y) noexcept nogil:
    return MAP2_quad_f32(row_minimum_of_f32, x, y)

cdef inline quad_f32 each_add_quad_f32(quad_f32 x, quad_f32 y) noexcept nogil:
    return MAP2_quad_f32(row_add_f32, x, y)

cdef inline vec_f32 each_minimum_of_vec_f32(vec_f32 x, vec_f32 y) noexcept nogil:
    return MAP2_vec_f32(row_minimum_of_f32, x, y)

cdef inline void each_pair_sum_vec_f32(vec_f32 a, vec_f32 b, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    PAIR2_vec_f32(row_pair_sum_f32, a, b, out0, out1)

cdef inline void rows_scaled_sum__minimum_of_f32(intptr_t p, int64_t n, vec_f32 a, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    cdef quad_f32 s
    cdef int64_t i
    cdef vec_f32 high
    cdef vec_f32 low
    s = splat4_f32(0.0)
    i = 0
    while ((i + 64) <= n):
        s = each_add_quad_f32(s, each_minimum_of_quad_f32(row_load4_f32((p + (i * 4))), widen_f32(a)))
        i += 64
    high = gather4_f32(s)
    low = part_f32(s, 0)
    while (i < n):
        each_pair_sum_vec_f32(high, each_minimum_of_vec_f32(load_some_f32((p + (i * 4)), (n - i), -INFINITY), a), &high, &low)
        i += 16
    out0[0] = sum_lanes_f32(high)
    out1[0] = low

cdef void rows_kernel_f32(intptr_t args, intptr_t strides, int64_t rows, int64_t n, intptr_t params, int64_t flags) noexcept nogil:
    cdef intptr_t x
    cdef intptr_t y
    cdef int64_t start
    cdef vec_f32 factor
    cdef vec_f32 high
    cdef vec_f32 low
    x = load_int(args)
    y = load_int((args + 8))
    start = (floor_mod((-y), 64) // 4)
    if not (flags & 1):
        start = 0
    else:
        if (1.0 > 0):
            start += 1
    factor = load_param_f32(params)
    while (start < rows):
        rows_scaled_sum__minimum_of_f32((x if start else y), n, factor, &high, &low)
        if less_f32(high, splat_f32((-INFINITY))):
            high = low
        store_some_f32(y, high, 1)
        y += load_int((strides + 8))
        start += 1

cdef inline void rows_scaled_sum__minimum_of_negated_f32(intptr_t p, int64_t n, vec_f32 a, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    cdef quad_f32 s
    cdef int64_t i
    cdef vec_f32 high
    cdef vec_f32 low
    s = splat4_f32(0.0)
    i = 0
    while ((i + 64) <= n):
        s = each_add_quad_f32(s, each_minimum_of_quad_f32(row_load4_negated_f32((p + (i * 4))), widen_f32(a)))
        i += 64
    high = gather4_f32(s)
    low = part_f32(s, 0)
    while (i < n):
        each_pair_sum_vec_f32(high, each_minimum_of_vec_f32(load_some_negated_f32((p + (i * 4)), (n - i), -INFINITY), a), &high, &low)
        i += 16
    out0[0] = sum_lanes_f32(high)
    out1[0] = low

cdef void rows_kernel_negated_f32(intptr_t args, intptr_t strides, int64_t rows, int64_t n, intptr_t params, int64_t flags) noexcept nogil:
    cdef intptr_t x
    cdef intptr_t y
    cdef int64_t start
    cdef vec_f32 factor
    cdef vec_f32 high
    cdef vec_f32 low
    x = load_int(args)
    y = load_int((args + 8))
    start = (floor_mod((-y), 64) // 4)
    if not (flags & 1):
        start = 0
    else:
        if (-1.0 > 0):
            start += 1
    factor = load_param_f32(params)
    while (start < rows):
        rows_scaled_sum__minimum_of_negated_f32((x if start else y), n, factor, &high, &low)
        if less_f32(high, splat_f32((-INFINITY))):
            high = low
        store_some_f32(y, high, 1)
        y += load_int((strides + 8))
        start += 1

row_minimum_of
row_add
row_pair_sum
('sums', 'float32', 'rows_kernel_f32')
('negated', 'float32', 'rows_kernel_negated_f32')
('sums', 'float64', 'rows_kernel_f64')
('negated', 'float64', 'rows_kernel_negated_f64')
