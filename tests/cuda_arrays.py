"""Arrays that look like those of PyTorch, CuPy, JAX, Numba and others, in the memory of the stand-in (fake_cuda.c).

To be imported in a process of its own: the modules take the libraries' names. They do what families.py asks of the
libraries and no more.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np

from fastact.backends.cuda import _launch
from fastact.backends.cuda.families import DTYPES

CURRENT = {0: 0, 1: 0}  # PyTorch's and CuPy's current stream of each device
JAX_STREAM = 9000


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


class Base:
    """Some of the elements of a DeviceMemory, by shape and strides."""

    def __init__(self, shape, dtype, device=0, stream=0, strides=None, offset=0, memory=None):
        self.memory = memory or _launch.DeviceMemory(shape, dtype, device, stream)
        self._shape, self._name, self._device, self._stream = tuple(shape), dtype, device, stream
        size = dtype_of(dtype).itemsize
        self._strides = _launch.contiguous_strides(self._shape, size) if strides is None else tuple(strides)
        self._address = self.memory.address + offset if self.memory.address else 0


def public(cls, module, name=None):
    """The class as one of a library."""
    cls.__module__ = module
    cls.__name__ = cls.__qualname__ = name or cls.__name__
    return cls


def module(name, **attributes):
    found = sys.modules[name] = ModuleType(name)
    vars(found).update(attributes)
    return found


# ---- PyTorch


class TorchDtype:
    def __init__(self, name):
        self.name = name
        self.itemsize = dtype_of(name).itemsize

    def __repr__(self):
        return f"torch.{self.name}"


class Size(tuple):
    pass


class Tensor(Base):
    requires_grad = False
    is_cuda = True
    negative = inference = False
    version = 0

    def __init__(self, shape, dtype, device=0, **kwargs):
        super().__init__(shape, dtype, device, **kwargs)
        self.dtype = getattr(torch, dtype)
        self.shape = Size(self._shape)
        self.layout = torch.strided
        self.device = f"cuda:{device}"

    def stride(self):
        return tuple(s // self.dtype.itemsize for s in self._strides)

    def data_ptr(self):
        return self._address

    def numel(self):
        return math.prod(self.shape)

    def is_contiguous(self):
        return self._strides == _launch.contiguous_strides(self._shape, self.dtype.itemsize)

    def get_device(self):
        return self._device

    def is_neg(self):
        return self.negative

    def is_inference(self):
        return self.inference

    @property
    def __cuda_array_interface__(self):
        raise AssertionError("it takes 3.6 us")

    def __dlpack__(self, **kwargs):
        raise AssertionError("it is slow")


class Parameter(Tensor):
    pass


def _increment_version(tensor):
    assert not tensor.inference
    tensor.version += 1


public(Tensor, "torch")
public(Parameter, "torch.nn.parameter")
torch = module(
    "torch",
    Tensor=Tensor,
    strided="torch.strided",
    version=SimpleNamespace(hip=None),
    _C=SimpleNamespace(_cuda_getCurrentRawStream=lambda device: CURRENT[device]),
    grad=True,
    is_grad_enabled=lambda: torch.grad,
    empty=lambda shape, dtype, device: Tensor(shape, dtype.name, int(device.removeprefix("cuda:"))),
    empty_like=lambda x: Tensor(tuple(x.shape), x.dtype.name, x.get_device()),
    device=lambda kind, index: f"{kind}:{index}",
    autograd=SimpleNamespace(graph=SimpleNamespace(increment_version=_increment_version)),
    **{name: TorchDtype(name) for name in (*DTYPES, "complex64")},
)

# ---- CuPy


class CuPyArray(Base):
    def __init__(self, shape, dtype, device=0, **kwargs):
        super().__init__(shape, dtype, device, **kwargs)
        self.shape, self.strides, self.dtype = self._shape, self._strides, dtype_of(dtype)
        self.data = SimpleNamespace(ptr=self._address, device_id=device)

    @property
    def __cuda_array_interface__(self):
        raise AssertionError("it is slow")


class CuPyDevice:
    now = 0

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        self.before, CuPyDevice.now = CuPyDevice.now, self.device

    def __exit__(self, *_):
        CuPyDevice.now = self.before


cupy = module(
    "cupy",
    ndarray=public(CuPyArray, "cupy", "ndarray"),
    empty=lambda shape, dtype: CuPyArray(shape, dtype.name, CuPyDevice.now),
    cuda=SimpleNamespace(
        Device=CuPyDevice,
        get_current_stream=lambda device=-1: SimpleNamespace(ptr=CURRENT[device]),
        runtime=SimpleNamespace(is_hip=False),
    ),
)

# ---- JAX


class ArrayImpl(Base):
    platform = "gpu"
    others = ()

    def __init__(self, shape, dtype, device=0, **kwargs):
        super().__init__(shape, dtype, device, **kwargs)
        self.shape, self.dtype = self._shape, dtype_of(dtype)
        self.sharding = "a sharding"
        self.exported = []

    def devices(self):
        return {(self.platform, device) and JaxDevice(self.platform, device) for device in (self._device, *self.others)}

    def __dlpack_device__(self):
        return (2 if self.platform == "gpu" else 1), self._device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        self.exported.append(stream)
        return self.memory.__dlpack__(stream=stream)


class JaxDevice:
    def __init__(self, platform, device):
        self.platform, self.local_hardware_id = platform, device


def _from_dlpack(memory):
    kind, device = memory.__dlpack_device__()
    assert kind == 2
    capsule = memory.__dlpack__(stream=JAX_STREAM)
    array = ArrayImpl(memory.shape, memory.dtype, device, memory=memory)
    array.capsule = capsule
    return array


public(ArrayImpl, "jaxlib._jax")
jax = module("jax", dlpack=module("jax.dlpack", from_dlpack=_from_dlpack))

# ---- Numba


class DeviceNDArray(Base):
    __cuda_ndarray__ = True

    def __init__(self, shape, dtype, device=0, bound=0, **kwargs):
        super().__init__(shape, dtype, device, **kwargs)
        self.shape, self.strides, self.dtype, self.stream = self._shape, self._strides, dtype_of(dtype), bound
        self.device_ctypes_pointer = SimpleNamespace(value=self._address or None)
        self.gpu_data = SimpleNamespace(context=SimpleNamespace(device=SimpleNamespace(id=device)))

    @property
    def __cuda_array_interface__(self):
        raise AssertionError("it is slow")


public(DeviceNDArray, "numba.cuda.cudadrv.devicearray")


def numba_cuda():
    """`numba.cuda`, for the families."""
    cuda = module("numba.cuda", device=0)

    class Manager:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            self.before, cuda.device = cuda.device, self.device

        def __exit__(self, *_):
            cuda.device = self.before

    cuda.gpus = [Manager(0), Manager(1)]
    cuda.device_array = lambda shape, dtype, stream=0: DeviceNDArray(shape, dtype.name, cuda.device, stream)
    return cuda


# ---- others


class Interface(Base):
    """Of a library that has the array interface alone."""

    extra: dict = {}  # noqa: RUF012

    def __init__(self, shape, dtype, device=0, **kwargs):
        super().__init__(shape, dtype, device, **kwargs)
        self.dtype = dtype

    @property
    def __cuda_array_interface__(self):
        found = {
            "shape": self._shape,
            "typestr": dtype_of(self._name).str,
            "data": (self._address, False),
            "strides": self._strides,
            "version": 3,
        }
        return found | self.extra


class Exporter(Base):
    """Of a library that has DLPack alone."""

    kind = 2

    def __dlpack_device__(self):
        return self.kind, self._device

    def __dlpack__(self, *, stream=None, **_):
        return self.memory.__dlpack__(stream=stream)


public(Interface, "warpy.types")
public(Exporter, "exportpy")
