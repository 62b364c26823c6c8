"""What other extensions of fastact may call without a Python object."""

from libc.stdint cimport int64_t, uintptr_t

# A launch whose parameters are the `count` words at `slots`, at most 64, a double by its bits. The caller has checked
# the device, and numbers as `launch` does; CudaError where the driver refuses. The driver reads `slots` in the call.
cdef int launch_words(
    uintptr_t kernel, int device, uintptr_t stream, unsigned grid_x, unsigned grid_y, unsigned block, unsigned shared,
    int64_t *slots, int count
) except -1 nogil
