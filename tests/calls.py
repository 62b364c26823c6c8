"""Kernels called by their address, as ``fastact/spec/call.py`` says."""

from __future__ import annotations

import ctypes

import numpy as np

from fastact.spec.call import ARGS


class Call(ctypes.Structure):
    """The struct of ``fastact/runtime/call.h``."""

    _fields_ = (
        ("data", ctypes.c_void_p * ARGS),
        ("row_step", ctypes.c_int64 * ARGS),
        ("step", ctypes.c_int64 * ARGS),
        *((name, ctypes.c_int64) for name in ("rows", "n", "row0", "col0")),
        ("scalars", ctypes.POINTER(ctypes.c_double)),
        *((name, ctypes.c_uint64) for name in ("seed", "offset")),
        ("flags", ctypes.c_int64),
        ("ahead", ctypes.c_void_p * 2),
    )


KERNEL = ctypes.CFUNCTYPE(None, ctypes.POINTER(Call))


def aligned(n, dtype):
    """An empty array on a 64-byte boundary, as streamed outputs are."""
    raw = np.full(n * dtype.itemsize + 64, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * dtype.itemsize].view(dtype)


def launch(address, inputs, params, nout, flags=0, outputs=None):
    """A kernel of the loop ``map`` over arrays of one or two dimensions; parameters that are scalars fill 64 bytes."""
    dtype, shape = inputs[0].dtype, inputs[0].shape
    if outputs is None:
        outputs = [aligned(inputs[0].size, dtype).reshape(shape) for _ in range(nout)]
    arrays = [*inputs, *(np.full(64 // dtype.itemsize, p) if np.ndim(p) == 0 else p for p in params), *outputs]
    call = Call(rows=shape[0] if len(shape) == 2 else 1, n=shape[-1], flags=flags)
    for j, array in enumerate(arrays):
        assert array.dtype == dtype
        call.data[j] = array.ctypes.data
        if j in range(len(inputs), len(inputs) + len(params)) and np.ndim(params[j - len(inputs)]) == 0:
            continue
        call.step[j] = array.strides[-1]
        call.row_step[j] = array.strides[0] if array.ndim == 2 else 0
    KERNEL(address)(call)
    return outputs


def launch_rows(address, arrays, rows, n, scalars=(0.25,), flags=0):
    """A kernel over rows: arrays of rows × n or of rows, contiguous; None is a null pointer."""
    call = Call(rows=rows, n=n, flags=flags, scalars=(ctypes.c_double * len(scalars))(*scalars))
    for j, array in enumerate(arrays):
        if array is not None:
            call.data[j] = array.ctypes.data
            call.row_step[j] = array.strides[0] if array.shape[0] == rows else 0
    KERNEL(address)(call)
