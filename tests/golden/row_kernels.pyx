cdef inline quad_f32 each_minimum_of_quad_f32(quad_f32 x, quad_f32 y) noexcept nogil:
    return MAP2_quad_f32(row_minimum_of_f32, x, y)

cdef inline quad_f32 each_add_quad_f32(quad_f32 x, quad_f32 y) noexcept nogil:
    return MAP2_quad_f32(row_add_f32, x, y)

cdef inline vec_f32 each_minimum_of_vec_f32(vec_f32 x, vec_f32 y) noexcept nogil:
    return MAP2_vec_f32(row_minimum_of_f32, x, y)

cdef inline void each_pair_sum_vec_f32(vec_f32 a, vec_f32 b, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    PAIR2_vec_f32(row_pair_sum_f32, a, b, out0, out1)

cdef inline intptr_t rows_data_f32(intptr_t call, int64_t j) noexcept nogil:
    return load_int(((call + 0) + (8 * j)))

cdef inline void rows_scaled_sum__minimum_of_f32(intptr_t p, int64_t n, vec_f32 a, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    cdef quad_f32 s
    cdef int64_t i
    cdef vec_f32 high
    cdef vec_f32 low
    s = splat4_f32(0.0)
    i = 0
    while ((i + 64) <= n):
        s = each_add_quad_f32(s, each_minimum_of_quad_f32(row_load4_f32((p + (i * 4)), 64), widen_f32(a)))
        i += 64
    high = gather4_f32(s)
    low = part_f32(s, 0)
    while (i < n):
        each_pair_sum_vec_f32(high, each_minimum_of_vec_f32(load_some_f32((p + (i * 4)), (n - i), -INFINITY), a), &high, &low)
        i += 16
    out0[0] = sum_lanes_f32(high)
    out1[0] = low

cdef void rows_kernel_f32(const fastact_call *argument) noexcept nogil:
    cdef intptr_t call = <intptr_t>argument
    cdef int64_t n
    cdef intptr_t x
    cdef intptr_t y
    cdef int64_t start
    cdef vec_f32 factor
    cdef vec_f32 high
    cdef vec_f32 low
    n = load_int((call + 392))
    x = rows_data_f32(call, 0)
    y = rows_data_f32(call, 1)
    start = (floor_mod((-y), 64) // 4)
    if not (load_int((call + 440)) & 1):
        start = 0
    else:
        if (1.0 > 0):
            start += 1
    factor = load_param_f32(load_int((call + 416)))
    while (start < load_int((call + 384))):
        rows_scaled_sum__minimum_of_f32((x if start else y), n, factor, &high, &low)
        if less_f32(high, splat_f32((-INFINITY))):
            high = low
        store_some_f32(y, high, 1)
        y += load_int(((call + 128) + 8))
        start += 1

cdef inline intptr_t rows_data_negated_f32(intptr_t call, int64_t j) noexcept nogil:
    return load_int(((call + 0) + (8 * j)))

cdef inline void rows_scaled_sum__minimum_of_negated_f32(intptr_t p, int64_t n, vec_f32 a, vec_f32 *out0, vec_f32 *out1) noexcept nogil:
    cdef quad_f32 s
    cdef int64_t i
    cdef vec_f32 high
    cdef vec_f32 low
    s = splat4_f32(0.0)
    i = 0
    while ((i + 64) <= n):
        s = each_add_quad_f32(s, each_minimum_of_quad_f32(row_load4_negated_f32((p + (i * 4)), 64), widen_f32(a)))
        i += 64
    high = gather4_f32(s)
    low = part_f32(s, 0)
    while (i < n):
        each_pair_sum_vec_f32(high, each_minimum_of_vec_f32(load_some_negated_f32((p + (i * 4)), (n - i), -INFINITY), a), &high, &low)
        i += 16
    out0[0] = sum_lanes_f32(high)
    out1[0] = low

cdef void rows_kernel_negated_f32(const fastact_call *argument) noexcept nogil:
    cdef intptr_t call = <intptr_t>argument
    cdef int64_t n
    cdef intptr_t x
    cdef intptr_t y
    cdef int64_t start
    cdef vec_f32 factor
    cdef vec_f32 high
    cdef vec_f32 low
    n = load_int((call + 392))
    x = rows_data_negated_f32(call, 0)
    y = rows_data_negated_f32(call, 1)
    start = (floor_mod((-y), 64) // 4)
    if not (load_int((call + 440)) & 1):
        start = 0
    else:
        if (-1.0 > 0):
            start += 1
    factor = load_param_f32(load_int((call + 416)))
    while (start < load_int((call + 384))):
        rows_scaled_sum__minimum_of_negated_f32((x if start else y), n, factor, &high, &low)
        if less_f32(high, splat_f32((-INFINITY))):
            high = low
        store_some_f32(y, high, 1)
        y += load_int(((call + 128) + 8))
        start += 1

row_minimum_of
row_add
row_minimum_of
row_minimum_of
row_pair_sum
row_minimum_of
row_minimum_of
row_add
row_minimum_of
row_minimum_of
row_pair_sum
row_minimum_of
(('sums', 'float32'), 'rows_kernel_f32')
(('negated', 'float32'), 'rows_kernel_negated_f32')
