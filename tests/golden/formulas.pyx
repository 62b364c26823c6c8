# cython: language_level=3, cdivision=True, freethreading_compatible=True, emit_code_comments=False
# rendered by fastact/backends/cython_aot/render.py; not to be edited
from libc.stdint cimport int64_t, intptr_t, uint16_t, uint64_t

cdef extern from 'call.h' nogil:
    enum: FASTACT_ARGS, FASTACT_STREAM, FASTACT_VALUE_ONLY
    ctypedef struct fastact_call:
        char *data[16]
        int64_t row_step[16]
        int64_t step[16]
        int64_t rows, n, row0, col0, flags
        uint64_t seed, offset
        const double *scalars
        const char *ahead[2]
    ctypedef void (*fastact_kernel)(const fastact_call *call) noexcept nogil

cdef extern from 'simd.h' nogil:
    const char *FASTACT_ISA
    const double INFINITY
    enum: SIDE_BY_SIDE
    ctypedef float vf32
    ctypedef int mask32
    enum: LANES_f32, PARTS_f32, STEP_f32
    vf32 lit_f32(double c)
    mask32 lt_f32(vf32 a, vf32 b)
    mask32 le_f32(vf32 a, vf32 b)
    mask32 gt_f32(vf32 a, vf32 b)
    mask32 ge_f32(vf32 a, vf32 b)
    mask32 eq_f32(vf32 a, vf32 b)
    mask32 ne_f32(vf32 a, vf32 b)
    vf32 copysign_f32(vf32 a0, vf32 a1)
    vf32 fabs_f32(vf32 a0)
    vf32 fma_f32(vf32 a0, vf32 a1, vf32 a2)
    vf32 logb_f32(vf32 a0)
    vf32 maximum_f32(vf32 a0, vf32 a1)
    vf32 minimum_f32(vf32 a0, vf32 a1)
    vf32 rint_f32(vf32 a0)
    vf32 scalb_f32(vf32 a0, vf32 a1)
    vf32 sqrt_f32(vf32 a0)
    vf32 where_f32(mask32 a0, vf32 a1, vf32 a2)
    vf32 lookup8_f32(vf32 m, const float *entries)
    vf32 lookup16_f32(vf32 m, const float *entries)
    bint any_f32(mask32 c)
    ctypedef double vf64
    ctypedef int mask64
    enum: LANES_f64, PARTS_f64, STEP_f64
    vf64 lit_f64(double c)
    mask64 lt_f64(vf64 a, vf64 b)
    mask64 le_f64(vf64 a, vf64 b)
    mask64 gt_f64(vf64 a, vf64 b)
    mask64 ge_f64(vf64 a, vf64 b)
    mask64 eq_f64(vf64 a, vf64 b)
    mask64 ne_f64(vf64 a, vf64 b)
    vf64 copysign_f64(vf64 a0, vf64 a1)
    vf64 fabs_f64(vf64 a0)
    vf64 fma_f64(vf64 a0, vf64 a1, vf64 a2)
    vf64 logb_f64(vf64 a0)
    vf64 maximum_f64(vf64 a0, vf64 a1)
    vf64 minimum_f64(vf64 a0, vf64 a1)
    vf64 rint_f64(vf64 a0)
    vf64 scalb_f64(vf64 a0, vf64 a1)
    vf64 sqrt_f64(vf64 a0)
    vf64 where_f64(mask64 a0, vf64 a1, vf64 a2)
    vf64 lookup8_f64(vf64 m, const double *entries)
    vf64 lookup16_f64(vf64 m, const double *entries)
    bint any_f64(mask64 c)
    ctypedef float tile_f32[1]
    vf32 load_f32(const float *p)
    void store_f32(float *p, vf32 v, int stream)
    float *SLOT_f32 "SLOT" (tile_f32 tile, float *p)
    ctypedef double tile_f64[1]
    vf64 load_f64(const double *p)
    void store_f64(double *p, vf64 v, int stream)
    double *SLOT_f64 "SLOT" (tile_f64 tile, double *p)
    ctypedef uint16_t tile_f16[1]
    vf32 load_f16(const uint16_t *p)
    void store_f16(uint16_t *p, vf32 v, int stream)
    uint16_t *SLOT_f16 "SLOT" (tile_f16 tile, uint16_t *p)
    ctypedef uint16_t tile_bf16[1]
    vf32 load_bf16(const uint16_t *p)
    void store_bf16(uint16_t *p, vf32 v, int stream)
    uint16_t *SLOT_bf16 "SLOT" (tile_bf16 tile, uint16_t *p)
    void PREFETCH(const void *p)
    void FLUSH(void *p, void *tile)
    void streamed(int stream)

cdef extern from *:
    """
FASTACT_TABLE8(float, fastact_table_f32_0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -7.0);
FASTACT_TABLE16(float, fastact_table_f32_1, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    """
    const float *fastact_table_f32_0
    const float *fastact_table_f32_1

cdef inline vf32 soft_step_f32(vf32 x, vf32 width) noexcept nogil:
    cdef mask32 above, below
    cdef vf32 z
    above = gt_f32(x, width)
    below = le_f32(x, (-width))
    z = where_f32(above, lit_f32(1.0), where_f32(below, lit_f32(-1.0), (x / width)))
    return where_f32(eq_f32(x, lit_f32(INFINITY)), lit_f32(1.0), where_f32(ne_f32(x, x), lit_f32(-INFINITY), z))

cdef inline vf32 soft_step_grad_f32(vf32 x, vf32 width) noexcept nogil:
    return where_f32(ge_f32(fabs_f32(x), width), lit_f32(0.0), (lit_f32(1.0) / width))

cdef inline vf32 add_f32(vf32 x, vf32 y) noexcept nogil:
    return (x + y)

cdef inline void two_sum_f32(vf32 a, vf32 b, vf32 *out0, vf32 *out1) noexcept nogil:
    cdef vf32 s, t
    s = (a + b)
    t = (s - a)
    out0[0] = s
    out1[0] = ((a - (s - t)) + (b - t))

cdef inline vf32 two_sum_error_f32(vf32 a, vf32 b) noexcept nogil:
    cdef vf32 e, s
    e = b
    two_sum_f32(a, e, &s, &e)
    return ((s - s) - e)

cdef inline vf32 tabled_f32(vf32 x) noexcept nogil:
    cdef mask32 rarely_c
    cdef vf32 m, y, z, rarely_b
    m = (fabs_f32(x) + lit_f32(12582912.0))
    y = lookup8_f32(m, fastact_table_f32_0)
    rarely_c = gt_f32(x, lit_f32(1000000000.0))
    rarely_b = y
    if any_f32(rarely_c):
        rarely_b = where_f32(rarely_c, add_f32(x, y), rarely_b)
    y = rarely_b
    z = lookup16_f32(m, fastact_table_f32_1)
    rarely_c = ge_f32(fabs_f32(x), lit_f32(100.0))
    rarely_b = (z - y)
    if any_f32(rarely_c):
        rarely_b = where_f32(rarely_c, add_f32(x, m), rarely_b)
    return rarely_b

cdef void soft_step_forward_float32(const fastact_call *call) noexcept nogil:
    cdef const float *p_x = <const float *>call.data[0]
    cdef const float *p_width = <const float *>call.data[1]
    cdef float *p_y = <float *>call.data[2]
    cdef int64_t e_width = call.step[1] != 0
    cdef tile_f32 t_y
    cdef vf32 v0_x, v0_y, v1_x, v1_y, v2_x, v2_y, v3_x, v3_y
    cdef vf32 v_width
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const float *ahead0 = <const float *>(<const char *>p_x + 2048)
    cdef const float *ahead1 = <const float *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const float *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const float *>call.ahead[1]
    if e_width == 0:
        v_width = load_f32(p_width)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                PREFETCH(ahead0 + i + 0 * LANES_f32)
                PREFETCH(ahead1 + i + 0 * LANES_f32)
                PREFETCH(ahead0 + i + 1 * LANES_f32)
                PREFETCH(ahead1 + i + 1 * LANES_f32)
                PREFETCH(ahead0 + i + 2 * LANES_f32)
                PREFETCH(ahead1 + i + 2 * LANES_f32)
                PREFETCH(ahead0 + i + 3 * LANES_f32)
                PREFETCH(ahead1 + i + 3 * LANES_f32)
                v0_x = load_f32(p_x + i + 0 * LANES_f32)
                v1_x = load_f32(p_x + i + 1 * LANES_f32)
                v2_x = load_f32(p_x + i + 2 * LANES_f32)
                v3_x = load_f32(p_x + i + 3 * LANES_f32)
                v0_y = soft_step_f32(v0_x, v_width)
                v1_y = soft_step_f32(v1_x, v_width)
                v2_y = soft_step_f32(v2_x, v_width)
                v3_y = soft_step_f32(v3_x, v_width)
                store_f32(p_y + i + 0 * LANES_f32, v0_y, stream)
                store_f32(p_y + i + 1 * LANES_f32, v1_y, stream)
                store_f32(p_y + i + 2 * LANES_f32, v2_y, stream)
                store_f32(p_y + i + 3 * LANES_f32, v3_y, stream)
                i += 4 * LANES_f32
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_f32(p_x + j)
                    v0_y = soft_step_f32(v0_x, v_width)
                    store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                FLUSH(p_y + i, t_y)
                i += STEP_f32
            p_x = <const float *>(<const char *>p_x + call.row_step[0])
            p_y = <float *>(<const char *>p_y + call.row_step[2])
            ahead0 = <const float *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const float *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_f32(p_x + j)
                    v_width = load_f32(p_width + j * e_width)
                    v0_y = soft_step_f32(v0_x, v_width)
                    store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                FLUSH(p_y + i, t_y)
                i += STEP_f32
            p_x = <const float *>(<const char *>p_x + call.row_step[0])
            p_width = <const float *>(<const char *>p_width + call.row_step[1])
            p_y = <float *>(<const char *>p_y + call.row_step[2])
            ahead0 = <const float *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const float *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    streamed(stream)

cdef void soft_step_forward_bfloat16(const fastact_call *call) noexcept nogil:
    cdef const uint16_t *p_x = <const uint16_t *>call.data[0]
    cdef const uint16_t *p_width = <const uint16_t *>call.data[1]
    cdef uint16_t *p_y = <uint16_t *>call.data[2]
    cdef int64_t e_width = call.step[1] != 0
    cdef tile_bf16 t_y
    cdef vf32 v0_x, v0_y, v1_x, v1_y, v2_x, v2_y, v3_x, v3_y
    cdef vf32 v_width
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const uint16_t *ahead0 = <const uint16_t *>(<const char *>p_x + 2048)
    cdef const uint16_t *ahead1 = <const uint16_t *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const uint16_t *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const uint16_t *>call.ahead[1]
    if e_width == 0:
        v_width = load_bf16(p_width)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                PREFETCH(ahead0 + i + 0 * LANES_f32)
                PREFETCH(ahead1 + i + 0 * LANES_f32)
                PREFETCH(ahead0 + i + 1 * LANES_f32)
                PREFETCH(ahead1 + i + 1 * LANES_f32)
                PREFETCH(ahead0 + i + 2 * LANES_f32)
                PREFETCH(ahead1 + i + 2 * LANES_f32)
                PREFETCH(ahead0 + i + 3 * LANES_f32)
                PREFETCH(ahead1 + i + 3 * LANES_f32)
                v0_x = load_bf16(p_x + i + 0 * LANES_f32)
                v1_x = load_bf16(p_x + i + 1 * LANES_f32)
                v2_x = load_bf16(p_x + i + 2 * LANES_f32)
                v3_x = load_bf16(p_x + i + 3 * LANES_f32)
                v0_y = soft_step_f32(v0_x, v_width)
                v1_y = soft_step_f32(v1_x, v_width)
                v2_y = soft_step_f32(v2_x, v_width)
                v3_y = soft_step_f32(v3_x, v_width)
                store_bf16(p_y + i + 0 * LANES_f32, v0_y, stream)
                store_bf16(p_y + i + 1 * LANES_f32, v1_y, stream)
                store_bf16(p_y + i + 2 * LANES_f32, v2_y, stream)
                store_bf16(p_y + i + 3 * LANES_f32, v3_y, stream)
                i += 4 * LANES_f32
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_bf16(p_x + j)
                    v0_y = soft_step_f32(v0_x, v_width)
                    store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                FLUSH(p_y + i, t_y)
                i += STEP_f32
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[0])
            p_y = <uint16_t *>(<const char *>p_y + call.row_step[2])
            ahead0 = <const uint16_t *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const uint16_t *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_bf16(p_x + j)
                    v_width = load_bf16(p_width + j * e_width)
                    v0_y = soft_step_f32(v0_x, v_width)
                    store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                FLUSH(p_y + i, t_y)
                i += STEP_f32
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[0])
            p_width = <const uint16_t *>(<const char *>p_width + call.row_step[1])
            p_y = <uint16_t *>(<const char *>p_y + call.row_step[2])
            ahead0 = <const uint16_t *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const uint16_t *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    streamed(stream)

cdef void soft_step_backward_float32(const fastact_call *call) noexcept nogil:
    cdef const float *p_dy = <const float *>call.data[0]
    cdef const float *p_x = <const float *>call.data[1]
    cdef const float *p_width = <const float *>call.data[2]
    cdef float *p_dx = <float *>call.data[3]
    cdef int64_t e_width = call.step[2] != 0
    cdef tile_f32 t_dx
    cdef vf32 v0_dy, v0_x, v0_dx, v1_dy, v1_x, v1_dx, v2_dy, v2_x, v2_dx, v3_dy, v3_x, v3_dx
    cdef vf32 v_width
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    if e_width == 0:
        v_width = load_f32(p_width)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                v0_dy = load_f32(p_dy + i + 0 * LANES_f32)
                v0_x = load_f32(p_x + i + 0 * LANES_f32)
                v1_dy = load_f32(p_dy + i + 1 * LANES_f32)
                v1_x = load_f32(p_x + i + 1 * LANES_f32)
                v2_dy = load_f32(p_dy + i + 2 * LANES_f32)
                v2_x = load_f32(p_x + i + 2 * LANES_f32)
                v3_dy = load_f32(p_dy + i + 3 * LANES_f32)
                v3_x = load_f32(p_x + i + 3 * LANES_f32)
                v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                v1_dx = (v1_dy * soft_step_grad_f32(v1_x, v_width))
                v2_dx = (v2_dy * soft_step_grad_f32(v2_x, v_width))
                v3_dx = (v3_dy * soft_step_grad_f32(v3_x, v_width))
                store_f32(p_dx + i + 0 * LANES_f32, v0_dx, stream)
                store_f32(p_dx + i + 1 * LANES_f32, v1_dx, stream)
                store_f32(p_dx + i + 2 * LANES_f32, v2_dx, stream)
                store_f32(p_dx + i + 3 * LANES_f32, v3_dx, stream)
                i += 4 * LANES_f32
            while i < n:
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_dy = load_f32(p_dy + j)
                    v0_x = load_f32(p_x + j)
                    v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                    store_f32(SLOT_f32(t_dx, p_dx + i) + k * LANES_f32, v0_dx, stream)
                FLUSH(p_dx + i, t_dx)
                i += STEP_f32
            p_dy = <const float *>(<const char *>p_dy + call.row_step[0])
            p_x = <const float *>(<const char *>p_x + call.row_step[1])
            p_dx = <float *>(<const char *>p_dx + call.row_step[3])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_dy = load_f32(p_dy + j)
                    v0_x = load_f32(p_x + j)
                    v_width = load_f32(p_width + j * e_width)
                    v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                    store_f32(SLOT_f32(t_dx, p_dx + i) + k * LANES_f32, v0_dx, stream)
                FLUSH(p_dx + i, t_dx)
                i += STEP_f32
            p_dy = <const float *>(<const char *>p_dy + call.row_step[0])
            p_x = <const float *>(<const char *>p_x + call.row_step[1])
            p_width = <const float *>(<const char *>p_width + call.row_step[2])
            p_dx = <float *>(<const char *>p_dx + call.row_step[3])
            row += 1
    streamed(stream)

cdef void soft_step_backward_bfloat16(const fastact_call *call) noexcept nogil:
    cdef const uint16_t *p_dy = <const uint16_t *>call.data[0]
    cdef const uint16_t *p_x = <const uint16_t *>call.data[1]
    cdef const uint16_t *p_width = <const uint16_t *>call.data[2]
    cdef uint16_t *p_dx = <uint16_t *>call.data[3]
    cdef int64_t e_width = call.step[2] != 0
    cdef tile_bf16 t_dx
    cdef vf32 v0_dy, v0_x, v0_dx, v1_dy, v1_x, v1_dx, v2_dy, v2_x, v2_dx, v3_dy, v3_x, v3_dx
    cdef vf32 v_width
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    if e_width == 0:
        v_width = load_bf16(p_width)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                v0_dy = load_bf16(p_dy + i + 0 * LANES_f32)
                v0_x = load_bf16(p_x + i + 0 * LANES_f32)
                v1_dy = load_bf16(p_dy + i + 1 * LANES_f32)
                v1_x = load_bf16(p_x + i + 1 * LANES_f32)
                v2_dy = load_bf16(p_dy + i + 2 * LANES_f32)
                v2_x = load_bf16(p_x + i + 2 * LANES_f32)
                v3_dy = load_bf16(p_dy + i + 3 * LANES_f32)
                v3_x = load_bf16(p_x + i + 3 * LANES_f32)
                v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                v1_dx = (v1_dy * soft_step_grad_f32(v1_x, v_width))
                v2_dx = (v2_dy * soft_step_grad_f32(v2_x, v_width))
                v3_dx = (v3_dy * soft_step_grad_f32(v3_x, v_width))
                store_bf16(p_dx + i + 0 * LANES_f32, v0_dx, stream)
                store_bf16(p_dx + i + 1 * LANES_f32, v1_dx, stream)
                store_bf16(p_dx + i + 2 * LANES_f32, v2_dx, stream)
                store_bf16(p_dx + i + 3 * LANES_f32, v3_dx, stream)
                i += 4 * LANES_f32
            while i < n:
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_dy = load_bf16(p_dy + j)
                    v0_x = load_bf16(p_x + j)
                    v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                    store_bf16(SLOT_bf16(t_dx, p_dx + i) + k * LANES_f32, v0_dx, stream)
                FLUSH(p_dx + i, t_dx)
                i += STEP_f32
            p_dy = <const uint16_t *>(<const char *>p_dy + call.row_step[0])
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[1])
            p_dx = <uint16_t *>(<const char *>p_dx + call.row_step[3])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_dy = load_bf16(p_dy + j)
                    v0_x = load_bf16(p_x + j)
                    v_width = load_bf16(p_width + j * e_width)
                    v0_dx = (v0_dy * soft_step_grad_f32(v0_x, v_width))
                    store_bf16(SLOT_bf16(t_dx, p_dx + i) + k * LANES_f32, v0_dx, stream)
                FLUSH(p_dx + i, t_dx)
                i += STEP_f32
            p_dy = <const uint16_t *>(<const char *>p_dy + call.row_step[0])
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[1])
            p_width = <const uint16_t *>(<const char *>p_width + call.row_step[2])
            p_dx = <uint16_t *>(<const char *>p_dx + call.row_step[3])
            row += 1
    streamed(stream)

cdef void sum_value_and_grad_float32(const fastact_call *call) noexcept nogil:
    cdef const float *p_x = <const float *>call.data[0]
    cdef const float *p_b = <const float *>call.data[1]
    cdef float *p_y = <float *>call.data[2]
    cdef float *p_d = <float *>call.data[3]
    cdef int64_t e_b = call.step[1] != 0
    cdef tile_f32 t_y, t_d
    cdef vf32 v0_x, v0_y, v0_d, v1_x, v1_y, v1_d, v2_x, v2_y, v2_d, v3_x, v3_y, v3_d
    cdef vf32 v_b
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const float *ahead0 = <const float *>(<const char *>p_x + 2048)
    cdef const float *ahead1 = <const float *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const float *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const float *>call.ahead[1]
    if e_b == 0:
        v_b = load_f32(p_b)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                PREFETCH(ahead0 + i + 0 * LANES_f32)
                PREFETCH(ahead1 + i + 0 * LANES_f32)
                PREFETCH(ahead0 + i + 1 * LANES_f32)
                PREFETCH(ahead1 + i + 1 * LANES_f32)
                PREFETCH(ahead0 + i + 2 * LANES_f32)
                PREFETCH(ahead1 + i + 2 * LANES_f32)
                PREFETCH(ahead0 + i + 3 * LANES_f32)
                PREFETCH(ahead1 + i + 3 * LANES_f32)
                v0_x = load_f32(p_x + i + 0 * LANES_f32)
                v1_x = load_f32(p_x + i + 1 * LANES_f32)
                v2_x = load_f32(p_x + i + 2 * LANES_f32)
                v3_x = load_f32(p_x + i + 3 * LANES_f32)
                v0_y = add_f32(v0_x, v_b)
                v0_d = two_sum_error_f32(v0_x, v_b)
                v1_y = add_f32(v1_x, v_b)
                v1_d = two_sum_error_f32(v1_x, v_b)
                v2_y = add_f32(v2_x, v_b)
                v2_d = two_sum_error_f32(v2_x, v_b)
                v3_y = add_f32(v3_x, v_b)
                v3_d = two_sum_error_f32(v3_x, v_b)
                store_f32(p_y + i + 0 * LANES_f32, v0_y, stream)
                store_f32(p_d + i + 0 * LANES_f32, v0_d, stream)
                store_f32(p_y + i + 1 * LANES_f32, v1_y, stream)
                store_f32(p_d + i + 1 * LANES_f32, v1_d, stream)
                store_f32(p_y + i + 2 * LANES_f32, v2_y, stream)
                store_f32(p_d + i + 2 * LANES_f32, v2_d, stream)
                store_f32(p_y + i + 3 * LANES_f32, v3_y, stream)
                store_f32(p_d + i + 3 * LANES_f32, v3_d, stream)
                i += 4 * LANES_f32
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_f32(p_x + j)
                    v0_y = add_f32(v0_x, v_b)
                    v0_d = two_sum_error_f32(v0_x, v_b)
                    store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                    store_f32(SLOT_f32(t_d, p_d + i) + k * LANES_f32, v0_d, stream)
                FLUSH(p_y + i, t_y)
                FLUSH(p_d + i, t_d)
                i += STEP_f32
            p_x = <const float *>(<const char *>p_x + call.row_step[0])
            p_y = <float *>(<const char *>p_y + call.row_step[2])
            p_d = <float *>(<const char *>p_d + call.row_step[3])
            ahead0 = <const float *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const float *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_f32(p_x + j)
                    v_b = load_f32(p_b + j * e_b)
                    v0_y = add_f32(v0_x, v_b)
                    v0_d = two_sum_error_f32(v0_x, v_b)
                    store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                    store_f32(SLOT_f32(t_d, p_d + i) + k * LANES_f32, v0_d, stream)
                FLUSH(p_y + i, t_y)
                FLUSH(p_d + i, t_d)
                i += STEP_f32
            p_x = <const float *>(<const char *>p_x + call.row_step[0])
            p_b = <const float *>(<const char *>p_b + call.row_step[1])
            p_y = <float *>(<const char *>p_y + call.row_step[2])
            p_d = <float *>(<const char *>p_d + call.row_step[3])
            ahead0 = <const float *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const float *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    streamed(stream)

cdef void sum_value_and_grad_bfloat16(const fastact_call *call) noexcept nogil:
    cdef const uint16_t *p_x = <const uint16_t *>call.data[0]
    cdef const uint16_t *p_b = <const uint16_t *>call.data[1]
    cdef uint16_t *p_y = <uint16_t *>call.data[2]
    cdef uint16_t *p_d = <uint16_t *>call.data[3]
    cdef int64_t e_b = call.step[1] != 0
    cdef tile_bf16 t_y, t_d
    cdef vf32 v0_x, v0_y, v0_d, v1_x, v1_y, v1_d, v2_x, v2_y, v2_d, v3_x, v3_y, v3_d
    cdef vf32 v_b
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const uint16_t *ahead0 = <const uint16_t *>(<const char *>p_x + 2048)
    cdef const uint16_t *ahead1 = <const uint16_t *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const uint16_t *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const uint16_t *>call.ahead[1]
    if e_b == 0:
        v_b = load_bf16(p_b)
        while row < call.rows:
            i = 0
            while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
                PREFETCH(ahead0 + i + 0 * LANES_f32)
                PREFETCH(ahead1 + i + 0 * LANES_f32)
                PREFETCH(ahead0 + i + 1 * LANES_f32)
                PREFETCH(ahead1 + i + 1 * LANES_f32)
                PREFETCH(ahead0 + i + 2 * LANES_f32)
                PREFETCH(ahead1 + i + 2 * LANES_f32)
                PREFETCH(ahead0 + i + 3 * LANES_f32)
                PREFETCH(ahead1 + i + 3 * LANES_f32)
                v0_x = load_bf16(p_x + i + 0 * LANES_f32)
                v1_x = load_bf16(p_x + i + 1 * LANES_f32)
                v2_x = load_bf16(p_x + i + 2 * LANES_f32)
                v3_x = load_bf16(p_x + i + 3 * LANES_f32)
                v0_y = add_f32(v0_x, v_b)
                v0_d = two_sum_error_f32(v0_x, v_b)
                v1_y = add_f32(v1_x, v_b)
                v1_d = two_sum_error_f32(v1_x, v_b)
                v2_y = add_f32(v2_x, v_b)
                v2_d = two_sum_error_f32(v2_x, v_b)
                v3_y = add_f32(v3_x, v_b)
                v3_d = two_sum_error_f32(v3_x, v_b)
                store_bf16(p_y + i + 0 * LANES_f32, v0_y, stream)
                store_bf16(p_d + i + 0 * LANES_f32, v0_d, stream)
                store_bf16(p_y + i + 1 * LANES_f32, v1_y, stream)
                store_bf16(p_d + i + 1 * LANES_f32, v1_d, stream)
                store_bf16(p_y + i + 2 * LANES_f32, v2_y, stream)
                store_bf16(p_d + i + 2 * LANES_f32, v2_d, stream)
                store_bf16(p_y + i + 3 * LANES_f32, v3_y, stream)
                store_bf16(p_d + i + 3 * LANES_f32, v3_d, stream)
                i += 4 * LANES_f32
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_bf16(p_x + j)
                    v0_y = add_f32(v0_x, v_b)
                    v0_d = two_sum_error_f32(v0_x, v_b)
                    store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                    store_bf16(SLOT_bf16(t_d, p_d + i) + k * LANES_f32, v0_d, stream)
                FLUSH(p_y + i, t_y)
                FLUSH(p_d + i, t_d)
                i += STEP_f32
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[0])
            p_y = <uint16_t *>(<const char *>p_y + call.row_step[2])
            p_d = <uint16_t *>(<const char *>p_d + call.row_step[3])
            ahead0 = <const uint16_t *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const uint16_t *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    else:
        while row < call.rows:
            i = 0
            while i < n:
                PREFETCH(ahead0 + i)
                PREFETCH(ahead1 + i)
                for k in range(PARTS_f32):
                    j = i + k * LANES_f32
                    v0_x = load_bf16(p_x + j)
                    v_b = load_bf16(p_b + j * e_b)
                    v0_y = add_f32(v0_x, v_b)
                    v0_d = two_sum_error_f32(v0_x, v_b)
                    store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
                    store_bf16(SLOT_bf16(t_d, p_d + i) + k * LANES_f32, v0_d, stream)
                FLUSH(p_y + i, t_y)
                FLUSH(p_d + i, t_d)
                i += STEP_f32
            p_x = <const uint16_t *>(<const char *>p_x + call.row_step[0])
            p_b = <const uint16_t *>(<const char *>p_b + call.row_step[1])
            p_y = <uint16_t *>(<const char *>p_y + call.row_step[2])
            p_d = <uint16_t *>(<const char *>p_d + call.row_step[3])
            ahead0 = <const uint16_t *>(<const char *>ahead0 + call.row_step[0])
            ahead1 = <const uint16_t *>(<const char *>ahead1 + call.row_step[0])
            row += 1
    streamed(stream)

cdef void tabled_forward_float32(const fastact_call *call) noexcept nogil:
    cdef const float *p_x = <const float *>call.data[0]
    cdef float *p_y = <float *>call.data[1]
    cdef tile_f32 t_y
    cdef vf32 v0_x, v0_y, v1_x, v1_y, v2_x, v2_y, v3_x, v3_y
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const float *ahead0 = <const float *>(<const char *>p_x + 2048)
    cdef const float *ahead1 = <const float *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const float *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const float *>call.ahead[1]
    while row < call.rows:
        i = 0
        while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
            PREFETCH(ahead0 + i + 0 * LANES_f32)
            PREFETCH(ahead1 + i + 0 * LANES_f32)
            PREFETCH(ahead0 + i + 1 * LANES_f32)
            PREFETCH(ahead1 + i + 1 * LANES_f32)
            PREFETCH(ahead0 + i + 2 * LANES_f32)
            PREFETCH(ahead1 + i + 2 * LANES_f32)
            PREFETCH(ahead0 + i + 3 * LANES_f32)
            PREFETCH(ahead1 + i + 3 * LANES_f32)
            v0_x = load_f32(p_x + i + 0 * LANES_f32)
            v1_x = load_f32(p_x + i + 1 * LANES_f32)
            v2_x = load_f32(p_x + i + 2 * LANES_f32)
            v3_x = load_f32(p_x + i + 3 * LANES_f32)
            v0_y = tabled_f32(v0_x)
            v1_y = tabled_f32(v1_x)
            v2_y = tabled_f32(v2_x)
            v3_y = tabled_f32(v3_x)
            store_f32(p_y + i + 0 * LANES_f32, v0_y, stream)
            store_f32(p_y + i + 1 * LANES_f32, v1_y, stream)
            store_f32(p_y + i + 2 * LANES_f32, v2_y, stream)
            store_f32(p_y + i + 3 * LANES_f32, v3_y, stream)
            i += 4 * LANES_f32
        while i < n:
            PREFETCH(ahead0 + i)
            PREFETCH(ahead1 + i)
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v0_x = load_f32(p_x + j)
                v0_y = tabled_f32(v0_x)
                store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
        p_x = <const float *>(<const char *>p_x + call.row_step[0])
        p_y = <float *>(<const char *>p_y + call.row_step[1])
        ahead0 = <const float *>(<const char *>ahead0 + call.row_step[0])
        ahead1 = <const float *>(<const char *>ahead1 + call.row_step[0])
        row += 1
    streamed(stream)

cdef void tabled_forward_bfloat16(const fastact_call *call) noexcept nogil:
    cdef const uint16_t *p_x = <const uint16_t *>call.data[0]
    cdef uint16_t *p_y = <uint16_t *>call.data[1]
    cdef tile_bf16 t_y
    cdef vf32 v0_x, v0_y, v1_x, v1_y, v2_x, v2_y, v3_x, v3_y
    cdef int64_t i, j, row = 0, n = call.n
    cdef int k, stream = <int>(call.flags & FASTACT_STREAM)
    cdef const uint16_t *ahead0 = <const uint16_t *>(<const char *>p_x + 2048)
    cdef const uint16_t *ahead1 = <const uint16_t *>(<const char *>p_x + 2048)
    if call.ahead[0] != NULL: ahead0 = <const uint16_t *>call.ahead[0]
    if call.ahead[1] != NULL: ahead1 = <const uint16_t *>call.ahead[1]
    while row < call.rows:
        i = 0
        while SIDE_BY_SIDE and i + 4 * LANES_f32 <= n:
            PREFETCH(ahead0 + i + 0 * LANES_f32)
            PREFETCH(ahead1 + i + 0 * LANES_f32)
            PREFETCH(ahead0 + i + 1 * LANES_f32)
            PREFETCH(ahead1 + i + 1 * LANES_f32)
            PREFETCH(ahead0 + i + 2 * LANES_f32)
            PREFETCH(ahead1 + i + 2 * LANES_f32)
            PREFETCH(ahead0 + i + 3 * LANES_f32)
            PREFETCH(ahead1 + i + 3 * LANES_f32)
            v0_x = load_bf16(p_x + i + 0 * LANES_f32)
            v1_x = load_bf16(p_x + i + 1 * LANES_f32)
            v2_x = load_bf16(p_x + i + 2 * LANES_f32)
            v3_x = load_bf16(p_x + i + 3 * LANES_f32)
            v0_y = tabled_f32(v0_x)
            v1_y = tabled_f32(v1_x)
            v2_y = tabled_f32(v2_x)
            v3_y = tabled_f32(v3_x)
            store_bf16(p_y + i + 0 * LANES_f32, v0_y, stream)
            store_bf16(p_y + i + 1 * LANES_f32, v1_y, stream)
            store_bf16(p_y + i + 2 * LANES_f32, v2_y, stream)
            store_bf16(p_y + i + 3 * LANES_f32, v3_y, stream)
            i += 4 * LANES_f32
        while i < n:
            PREFETCH(ahead0 + i)
            PREFETCH(ahead1 + i)
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v0_x = load_bf16(p_x + j)
                v0_y = tabled_f32(v0_x)
                store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v0_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
        p_x = <const uint16_t *>(<const char *>p_x + call.row_step[0])
        p_y = <uint16_t *>(<const char *>p_y + call.row_step[1])
        ahead0 = <const uint16_t *>(<const char *>ahead0 + call.row_step[0])
        ahead1 = <const uint16_t *>(<const char *>ahead1 + call.row_step[0])
        row += 1
    streamed(stream)

cdef dict _ADDRESSES = {
    ('soft_step_forward', 'float32'): <size_t>&soft_step_forward_float32,
    ('soft_step_forward', 'bfloat16'): <size_t>&soft_step_forward_bfloat16,
    ('soft_step_backward', 'float32'): <size_t>&soft_step_backward_float32,
    ('soft_step_backward', 'bfloat16'): <size_t>&soft_step_backward_bfloat16,
    ('sum_value_and_grad', 'float32'): <size_t>&sum_value_and_grad_float32,
    ('sum_value_and_grad', 'bfloat16'): <size_t>&sum_value_and_grad_bfloat16,
    ('tabled_forward', 'float32'): <size_t>&tabled_forward_float32,
    ('tabled_forward', 'bfloat16'): <size_t>&tabled_forward_bfloat16,
}


def isa():
    """The instruction set this module was compiled for."""
    return FASTACT_ISA.decode()


def address(name, dtype):
    """The address of a kernel, or None where there is none."""
    return _ADDRESSES.get((name, dtype))
