# cython: language_level=3, cdivision=True, freethreading_compatible=True, emit_code_comments=False
# rendered by fastact/backends/cython_aot/render.py; not to be edited
from libc.stdint cimport int64_t, intptr_t, uint16_t

cdef extern from 'simd.h' nogil:
    const char *FASTACT_ISA
    const double INFINITY
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
    vf32 where_f32(mask32 a0, vf32 a1, vf32 a2)
    vf32 minimum_f32(vf32 a0, vf32 a1)
    vf32 maximum_f32(vf32 a0, vf32 a1)
    vf32 sqrt_f32(vf32 a0)
    vf32 fma_f32(vf32 a0, vf32 a1, vf32 a2)
    vf32 rint_f32(vf32 a0)
    vf32 scalb_f32(vf32 a0, vf32 a1)
    vf32 logb_f32(vf32 a0)
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
    vf64 where_f64(mask64 a0, vf64 a1, vf64 a2)
    vf64 minimum_f64(vf64 a0, vf64 a1)
    vf64 maximum_f64(vf64 a0, vf64 a1)
    vf64 sqrt_f64(vf64 a0)
    vf64 fma_f64(vf64 a0, vf64 a1, vf64 a2)
    vf64 rint_f64(vf64 a0)
    vf64 scalb_f64(vf64 a0, vf64 a1)
    vf64 logb_f64(vf64 a0)
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
    void FLUSH(void *p, void *tile)
    void streamed(int stream)

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

cdef void soft_step_forward_f32(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const float *p_x = <const float *>args[0]
    cdef const float *p_w = <const float *>args[1]
    cdef float *p_y = <float *>args[2]
    cdef tile_f32 t_y
    cdef vf32 v_x, v_w, v_y
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    if psteps[0] == 0:
        v_w = load_f32(p_w)
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_x = load_f32(p_x + j)
                v_y = soft_step_f32(v_x, v_w)
                store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
    else:
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_x = load_f32(p_x + j)
                v_w = load_f32(p_w + j * psteps[0])
                v_y = soft_step_f32(v_x, v_w)
                store_f32(SLOT_f32(t_y, p_y + i) + k * LANES_f32, v_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
    streamed(stream)

cdef void soft_step_forward_bf16(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const uint16_t *p_x = <const uint16_t *>args[0]
    cdef const uint16_t *p_w = <const uint16_t *>args[1]
    cdef uint16_t *p_y = <uint16_t *>args[2]
    cdef tile_bf16 t_y
    cdef vf32 v_x, v_w, v_y
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    if psteps[0] == 0:
        v_w = load_bf16(p_w)
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_x = load_bf16(p_x + j)
                v_y = soft_step_f32(v_x, v_w)
                store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
    else:
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_x = load_bf16(p_x + j)
                v_w = load_bf16(p_w + j * psteps[0])
                v_y = soft_step_f32(v_x, v_w)
                store_bf16(SLOT_bf16(t_y, p_y + i) + k * LANES_f32, v_y, stream)
            FLUSH(p_y + i, t_y)
            i += STEP_f32
    streamed(stream)

cdef void soft_step_backward_f32(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const float *p_dy = <const float *>args[0]
    cdef const float *p_x = <const float *>args[1]
    cdef const float *p_w = <const float *>args[2]
    cdef float *p_dx = <float *>args[3]
    cdef tile_f32 t_dx
    cdef vf32 v_dy, v_x, v_w, v_dx
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    if psteps[0] == 0:
        v_w = load_f32(p_w)
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_dy = load_f32(p_dy + j)
                v_x = load_f32(p_x + j)
                v_dx = (v_dy * soft_step_grad_f32(v_x, v_w))
                store_f32(SLOT_f32(t_dx, p_dx + i) + k * LANES_f32, v_dx, stream)
            FLUSH(p_dx + i, t_dx)
            i += STEP_f32
    else:
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_dy = load_f32(p_dy + j)
                v_x = load_f32(p_x + j)
                v_w = load_f32(p_w + j * psteps[0])
                v_dx = (v_dy * soft_step_grad_f32(v_x, v_w))
                store_f32(SLOT_f32(t_dx, p_dx + i) + k * LANES_f32, v_dx, stream)
            FLUSH(p_dx + i, t_dx)
            i += STEP_f32
    streamed(stream)

cdef void soft_step_backward_bf16(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const uint16_t *p_dy = <const uint16_t *>args[0]
    cdef const uint16_t *p_x = <const uint16_t *>args[1]
    cdef const uint16_t *p_w = <const uint16_t *>args[2]
    cdef uint16_t *p_dx = <uint16_t *>args[3]
    cdef tile_bf16 t_dx
    cdef vf32 v_dy, v_x, v_w, v_dx
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    if psteps[0] == 0:
        v_w = load_bf16(p_w)
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_dy = load_bf16(p_dy + j)
                v_x = load_bf16(p_x + j)
                v_dx = (v_dy * soft_step_grad_f32(v_x, v_w))
                store_bf16(SLOT_bf16(t_dx, p_dx + i) + k * LANES_f32, v_dx, stream)
            FLUSH(p_dx + i, t_dx)
            i += STEP_f32
    else:
        i = 0
        while i < n:
            for k in range(PARTS_f32):
                j = i + k * LANES_f32
                v_dy = load_bf16(p_dy + j)
                v_x = load_bf16(p_x + j)
                v_w = load_bf16(p_w + j * psteps[0])
                v_dx = (v_dy * soft_step_grad_f32(v_x, v_w))
                store_bf16(SLOT_bf16(t_dx, p_dx + i) + k * LANES_f32, v_dx, stream)
            FLUSH(p_dx + i, t_dx)
            i += STEP_f32
    streamed(stream)

cdef void sum_value_and_grad_f32(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const float *p_a = <const float *>args[0]
    cdef const float *p_b = <const float *>args[1]
    cdef float *p_s = <float *>args[2]
    cdef float *p_e = <float *>args[3]
    cdef tile_f32 t_s, t_e
    cdef vf32 v_a, v_b, v_s, v_e
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    i = 0
    while i < n:
        for k in range(PARTS_f32):
            j = i + k * LANES_f32
            v_a = load_f32(p_a + j)
            v_b = load_f32(p_b + j)
            v_s = add_f32(v_a, v_b)
            v_e = two_sum_error_f32(v_a, v_b)
            store_f32(SLOT_f32(t_s, p_s + i) + k * LANES_f32, v_s, stream)
            store_f32(SLOT_f32(t_e, p_e + i) + k * LANES_f32, v_e, stream)
        FLUSH(p_s + i, t_s)
        FLUSH(p_e + i, t_e)
        i += STEP_f32
    streamed(stream)

cdef void sum_value_and_grad_bf16(void *const *args, int64_t n, const int64_t *psteps, int64_t flags) noexcept nogil:
    cdef const uint16_t *p_a = <const uint16_t *>args[0]
    cdef const uint16_t *p_b = <const uint16_t *>args[1]
    cdef uint16_t *p_s = <uint16_t *>args[2]
    cdef uint16_t *p_e = <uint16_t *>args[3]
    cdef tile_bf16 t_s, t_e
    cdef vf32 v_a, v_b, v_s, v_e
    cdef int64_t i, j
    cdef int k, stream = <int>(flags & 1)
    i = 0
    while i < n:
        for k in range(PARTS_f32):
            j = i + k * LANES_f32
            v_a = load_bf16(p_a + j)
            v_b = load_bf16(p_b + j)
            v_s = add_f32(v_a, v_b)
            v_e = two_sum_error_f32(v_a, v_b)
            store_bf16(SLOT_bf16(t_s, p_s + i) + k * LANES_f32, v_s, stream)
            store_bf16(SLOT_bf16(t_e, p_e + i) + k * LANES_f32, v_e, stream)
        FLUSH(p_s + i, t_s)
        FLUSH(p_e + i, t_e)
        i += STEP_f32
    streamed(stream)

cdef dict _ADDRESSES = {
    ("soft_step", "forward", "float32"): <size_t>&soft_step_forward_f32,
    ("soft_step", "forward", "bfloat16"): <size_t>&soft_step_forward_bf16,
    ("soft_step", "backward", "float32"): <size_t>&soft_step_backward_f32,
    ("soft_step", "backward", "bfloat16"): <size_t>&soft_step_backward_bf16,
    ("sum", "value_and_grad", "float32"): <size_t>&sum_value_and_grad_f32,
    ("sum", "value_and_grad", "bfloat16"): <size_t>&sum_value_and_grad_bf16,
}
cdef dict _ROW_ADDRESSES = {
}


def isa():
    """The instruction set this module was compiled for."""
    return FASTACT_ISA.decode()


def address(op, kind, dtype):
    """The address of a kernel, or None where there is none."""
    return _ADDRESSES.get((op, kind, dtype))


def row_address(name, dtype):
    """The address of a row kernel, or None where there is none."""
    return _ROW_ADDRESSES.get((name, dtype))
