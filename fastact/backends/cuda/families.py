"""Whose array it is: where its data lies, the stream its work belongs on, and how to make another like it.

No library is imported here: the type of an array tells its library, which is loaded then.

A family whose arrays belong to a current stream (PyTorch, CuPy, Numba) is *plain*: work goes on that stream, results
come from the library itself, nothing else is to be done. For the others work goes on a stream of fastact's own
(`_launch.own_stream`) and events put it in order with theirs; `begin` and `end` do that. Why so:

- JAX has no current stream, and does not tell the one its programs run on. Its ``__dlpack__(stream=s)`` lets `s` wait
  until an array is computed; its ``from_dlpack`` passes a stream of its own to ``__dlpack__`` of the result, which lets
  it wait for ours.
- ``__cuda_array_interface__`` names at most the stream that an array was last written on, which may be gone before our
  result is; the interface has no way to make an array, so the result is a `DeviceMemory`.
- DLPack has an array's library let our stream wait, but nothing that lets its streams wait for ours. So such arrays are
  read and never written, and live until that is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

from fastact.backends.cuda import _launch
from fastact.backends.cuda._launch import DeviceMemory, contiguous_strides, scaled
from fastact.backends.cuda.dtypes import SIZES, numpy_dtype

LEGACY_STREAM = 1  # the handle of the legacy default stream, in CUDA, DLPack and the array interface
DLPACK_CUDA = 2

DTYPES = tuple(SIZES)

View = tuple[int, tuple[int, ...], tuple[int, ...], str, int, bool]


def _let_wait(device: int, stream: int, other: int) -> None:
    if (stream or LEGACY_STREAM) != (other or LEGACY_STREAM):
        _launch.wait_for(device, stream, other)


class Family:
    """Arrays of one library, or of one protocol.

    Attributes
    ----------
    name : str
        Of the library, for people.
    plain : bool
        Whether work goes on `stream` with nothing to do before and after it.
    replays : bool
        Whether calls are repeated with other arrays (fastact.api.replay), for which there are `describe`, `maker` and
        `address`.
    """

    name = ""
    plain = True
    replays = False

    def on_device(self, array: Any) -> bool:
        """Whether the data is in the memory of a CUDA device."""
        raise NotImplementedError

    def view(self, array: Any) -> View:
        """Address, shape, strides in bytes, NumPy's name of the dtype, device, and whether it may be written.

        The address is valid as long as the array, for work on the family's `stream`. Of a dtype that is none of
        `DTYPES` only the name counts: the address may be 0, the strides may be missing.

        Raises
        ------
        TypeError
            If the array is one that must not be looked into.
        """
        raise NotImplementedError

    def stream(self, device: int, array: Any = None) -> int:
        """The caller's current stream on a device: a CUstream, 0 or 1 the legacy default one."""
        return _launch.own_stream(device)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, like: Any = None) -> Any:
        """A new array, C-contiguous; `finish` makes it the caller's when the work that fills it is on the stream."""
        return DeviceMemory(shape, dtype, device, self.stream(device))

    def finish(self, array: Any) -> Any:
        """What the caller gets for an array of `empty`."""
        return array

    def before(self, array: Any, device: int, stream: int) -> None:
        """Let a stream wait for what makes an array."""
        _let_wait(device, stream, self.stream(device, array))

    def after(self, array: Any, device: int, stream: int) -> None:
        """Let the array's library wait for a stream, whose work reads or writes the array."""
        _let_wait(device, self.stream(device, array), stream)

    def written(self, array: Any) -> None:
        """Tell the library that the array's values have changed."""

    def describe(self, array: Any, key: list[Any], values: list[int]) -> int:
        """Add to a key what of an array decides how calls with it are computed, its address to values.

        Returns
        -------
        int
            The device; negative for an array that is not taken as it is, or is not there: the call goes its usual way.
        """
        raise NotImplementedError

    def maker(
        self, shape: tuple[int, ...], dtype: str, device: int, arrays: Sequence[Any]
    ) -> tuple[Callable[..., Any], int]:
        """A function that does what `empty` does, and which of `arrays` it is called with; -1: with none."""
        return partial(self.empty, shape, dtype, device), -1

    def address(self, array: Any) -> int:
        """The address of an array of `maker`."""
        raise NotImplementedError

    def device_of(self, array: Any) -> str:
        """Where an array is, such as ``"cuda:0"``."""
        return f"cuda:{self.view(array)[4]}"

    def name_of(self, array: Any) -> str:
        """An array, for messages."""
        return f"a {self.name} array on {self.device_of(array)}"


class _PyTorch(Family):
    name = "PyTorch"

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        # uint16 and wider came with PyTorch 2.3
        self._dtypes = {n: getattr(torch, n) for n in DTYPES if hasattr(torch, n)}
        self._known = {dtype: (n, dtype.itemsize) for n, dtype in self._dtypes.items()}
        self._grad, self._strided = torch.is_grad_enabled, torch.strided
        # a build for AMD calls its devices cuda, too
        self._cuda = getattr(torch.version, "hip", None) is None
        # 0.08 us; torch.cuda.current_stream makes an object. A build without CUDA lacks it, and has no tensors on a GPU
        self._stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        self.replays = self._cuda and self._stream is not None
        self.address = methodcaller("data_ptr")  # type: ignore[assignment]

    def on_device(self, array: Any) -> bool:
        return array.is_cuda and self._cuda

    def view(self, array: Any) -> View:
        if array.requires_grad and self._grad():
            raise TypeError("a tensor that requires grad is not taken, its gradient would be lost: pass x.detach()")
        known = self._known.get(array.dtype)
        if known is None:
            name = str(array.dtype).removeprefix("torch.")
            return 0, tuple(array.shape), (), name, array.get_device(), False
        if array.layout is not self._strided:
            raise TypeError(f"a tensor of layout {array.layout} is not taken: pass x.to_dense()")
        if array.is_neg():
            raise TypeError("a tensor with the negative bit set is not taken: pass x.resolve_neg()")
        name, size = known
        return array.data_ptr(), tuple(array.shape), scaled(array.stride(), size), name, array.get_device(), True

    def stream(self, device: int, array: Any = None) -> int:
        return self._stream(device)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, like: Any = None) -> Any:
        return self._torch.empty(shape, dtype=self._dtypes[dtype], device=f"cuda:{device}")

    def describe(self, array: Any, key: list[Any], values: list[int]) -> int:
        if (
            not array.is_cuda
            or array.layout is not self._strided
            or array.is_neg()
            or (array.requires_grad and self._grad())
        ):
            return -1
        address, device = array.data_ptr(), array.get_device()
        values.append(address)
        key += type(array), array.dtype, array.shape, array.stride(), device << 4 | address & 15
        return int(device)

    def maker(
        self, shape: tuple[int, ...], dtype: str, device: int, arrays: Sequence[Any]
    ) -> tuple[Callable[..., Any], int]:
        for i, a in enumerate(arrays):
            own = type(a) is self._torch.Tensor and a.dtype is self._dtypes[dtype]
            if own and tuple(a.shape) == shape and a.is_contiguous():
                return self._torch.empty_like, i  # 1.7 us, empty 2.2
        where = self._torch.device("cuda", device)
        return partial(self._torch.empty, shape, dtype=self._dtypes[dtype], device=where), -1

    def written(self, array: Any) -> None:
        # so that autograd sees that a tensor which it has saved is not the same any more
        if not array.is_inference():
            self._torch.autograd.graph.increment_version(array)

    def device_of(self, array: Any) -> str:
        return str(array.device)

    def name_of(self, array: Any) -> str:
        return f"a PyTorch tensor on {self.device_of(array)}"


class _CuPy(Family):
    name = "CuPy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._cuda = not cupy.cuda.runtime.is_hip
        self._current = cupy.cuda.get_current_stream

    def on_device(self, array: Any) -> bool:
        return self._cuda

    def view(self, array: Any) -> View:
        data = array.data
        return data.ptr, array.shape, array.strides, array.dtype.name, data.device_id, True

    def stream(self, device: int, array: Any = None) -> int:
        return self._current(device).ptr

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, like: Any = None) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.empty(shape, numpy_dtype(dtype))

    def device_of(self, array: Any) -> str:
        return f"cuda:{array.data.device_id}"


class _Numba(Family):
    name = "Numba"

    def on_device(self, array: Any) -> bool:
        return True

    def view(self, array: Any) -> View:
        address = array.device_ctypes_pointer.value or 0
        return address, array.shape, array.strides, array.dtype.name, self._device(array, address), True

    def _device(self, array: Any, address: int) -> int:
        # an array without elements has no address
        return _launch.pointer_device(address) if address else array.gpu_data.context.device.id

    def stream(self, device: int, array: Any = None) -> int:
        # Numba's stream is an argument of each call, 0 by default, and an array may be bound to one
        stream = getattr(array, "stream", 0)
        return int(stream) if stream else LEGACY_STREAM

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, like: Any = None) -> Any:
        cuda = sys.modules["numba.cuda"]
        with cuda.gpus[device]:
            return cuda.device_array(shape, numpy_dtype(dtype), stream=getattr(like, "stream", 0))

    # two arrays may be bound to two streams
    plain = False


class _Simulated(Family):
    """Arrays of numba-cuda's simulator, on which kernels run in the memory of the host."""

    name = "Numba"

    def __init__(self) -> None:
        from fastact.backends.cuda.simulator import FAMILY

        self._arrays = FAMILY

    def on_device(self, array: Any) -> bool:
        return True

    def view(self, array: Any) -> View:
        return self._arrays.view(array)

    def stream(self, device: int, array: Any = None) -> int:
        return self._arrays.stream(device)

    replays = True

    def describe(self, array: Any, key: list[Any], values: list[int]) -> int:
        address, shape, strides, dtype, device, writeable = self._arrays.view(array)
        values.append(address)
        key += type(array), shape, strides, dtype, writeable, address % 16
        return device

    def address(self, array: Any) -> int:
        return self._arrays.view(array)[0]

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, like: Any = None) -> Any:
        return self._arrays.empty(shape, dtype, device)

    def name_of(self, array: Any) -> str:
        return self._arrays.name_of(array)


class _Own(Family):
    """`DeviceMemory`, which is what a family gets that cannot make arrays."""

    name = "fastact"
    plain = False

    def on_device(self, array: Any) -> bool:
        return True

    def view(self, array: Any) -> View:
        return array.address, array.shape, array.strides, array.dtype, array.device, True

    def before(self, array: Any, device: int, stream: int) -> None:
        _let_wait(device, stream, array.stream)

    def after(self, array: Any, device: int, stream: int) -> None:
        _let_wait(device, array.stream, stream)

    def device_of(self, array: Any) -> str:
        return f"cuda:{array.device}"


_TYPESTRS = {
    **{f"<f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    **{f"{order}i{n}": f"int{8 * n}" for order in "<|" for n in (1, 2, 4, 8)},
    **{f"{order}u{n}": f"uint{8 * n}" for order in "<|" for n in (1, 2, 4, 8)},
    "|b1": "bool",
}


class _Interface(Family):
    plain = False

    def __init__(self, name: str) -> None:
        self.name = name

    def on_device(self, array: Any) -> bool:
        # a library that has arrays on hosts as well raises an AttributeError for those
        return getattr(array, "__cuda_array_interface__", None) is not None

    def view(self, array: Any) -> View:
        interface = array.__cuda_array_interface__
        shape, text = tuple(interface["shape"]), interface["typestr"]
        address, read_only = interface["data"]
        if interface.get("mask") is not None:
            raise TypeError(f"an array of {self.name} with a mask is not taken")
        name = _TYPESTRS.get(text)
        if name is None:
            # ml_dtypes' and PyTorch's string for it, which is also that of any two bytes
            same = text == "<V2" and str(getattr(array, "dtype", "")).endswith("bfloat16")
            name = "bfloat16" if same else text
        strides = interface.get("strides")
        strides = tuple(strides) if strides is not None else contiguous_strides(shape, int(text[2:]))
        if not address or 0 in shape:
            return address or 0, shape, strides, name, 0, not read_only
        return address, shape, strides, name, _launch.pointer_device(address), not read_only

    def _their_stream(self, array: Any) -> int:
        """The stream that the interface names. Where it names none nothing is to be waited for; what the caller does
        next is taken to be on the legacy default stream."""
        stream = array.__cuda_array_interface__.get("stream")
        if stream == 0:
            raise ValueError(f"the array interface of {self.name} says stream 0, which it forbids as ambiguous")
        return LEGACY_STREAM if stream is None else int(stream)

    def before(self, array: Any, device: int, stream: int) -> None:
        _let_wait(device, stream, self._their_stream(array))

    def after(self, array: Any, device: int, stream: int) -> None:
        _let_wait(device, self._their_stream(array), stream)


class _DLPack(Family):
    plain = False

    def __init__(self, name: str) -> None:
        self.name = name

    def on_device(self, array: Any) -> bool:
        return array.__dlpack_device__()[0] == DLPACK_CUDA

    def view(self, array: Any) -> View:
        device = array.__dlpack_device__()[1]
        capsule = array.__dlpack__(stream=self.stream(device))
        address, shape, strides, name, kind, device, _ = _launch.read_dlpack(capsule)
        if kind != DLPACK_CUDA:
            raise TypeError(f"an array of {self.name} on DLPack's device type {kind} is not taken")
        return address, shape, strides, name, device, False

    # `before`: ours waits for the array since `view`, and another family's stream for ours

    def after(self, array: Any, device: int, stream: int) -> None:
        # a capsule, not the array: with it outside, the library neither frees the memory nor gives it away
        _launch.hold(device, stream, array.__dlpack__(stream=stream or LEGACY_STREAM))

    def device_of(self, array: Any) -> str:
        return f"cuda:{array.__dlpack_device__()[1]}"


class _JAX(_DLPack):
    def __init__(self) -> None:
        super().__init__("JAX")

    def on_device(self, array: Any) -> bool:
        return any(device.platform in ("gpu", "cuda") for device in array.devices())

    def view(self, array: Any) -> View:
        if len(array.devices()) != 1:
            raise TypeError(f"a JAX array that is spread over {len(array.devices())} devices is not taken")
        if array.__dlpack_device__()[0] != DLPACK_CUDA:
            raise TypeError(f"a JAX array that is not in the memory of a CUDA device is not taken: {array.sharding}")
        if array.dtype.name not in DTYPES:  # which DLPack may not have
            return 0, array.shape, (), array.dtype.name, array.__dlpack_device__()[1], False
        return super().view(array)

    def finish(self, array: Any) -> Any:
        from jax.dlpack import from_dlpack  # the caller's array exists, so it is loaded

        return from_dlpack(array)

    def device_of(self, array: Any) -> str:
        return ", ".join(f"cuda:{device.local_hardware_id}" for device in array.devices())


def _find(type_: type) -> Family | None:
    bases = [(base.__module__.partition(".")[0], base.__name__) for base in type_.__mro__]
    if ("numpy", "ndarray") in bases:
        return None  # Numba's managed and mapped arrays, too: the host reads them as well
    if ("torch", "Tensor") in bases:
        return _PyTorch(sys.modules["torch"])
    if ("cupy", "ndarray") in bases:
        return _CuPy(sys.modules["cupy"])
    if ("jaxlib", "ArrayImpl") in bases:
        return _JAX()
    if issubclass(type_, DeviceMemory):
        return _Own()
    if getattr(type_, "__cuda_ndarray__", False) and "numba" in dict(bases):
        return _Simulated() if type_.__module__.startswith("numba.cuda.simulator.") else _Numba()
    library = type_.__module__.partition(".")[0]
    if hasattr(type_, "__cuda_array_interface__"):
        return _Interface(library)
    if hasattr(type_, "__dlpack__") and hasattr(type_, "__dlpack_device__"):
        return _DLPack(library)
    return None


_families: dict[type, Family | None] = {}


def family_of(type_: type) -> Family | None:
    """The family of a type of arrays; None where it can have nothing on a GPU. Looked up once for each type.

    Whether an array is on a GPU, the family's `on_device` tells.
    """
    try:
        return _families[type_]
    except KeyError:
        return _families.setdefault(type_, _find(type_))


def begin(device: int, operands: Sequence[tuple[Family, Any]]) -> int:
    """The stream for work on the arrays of a call, which then waits for all that makes them; before the launch.

    It is that of the first one's family.

    Parameters
    ----------
    device : int
    operands : sequence of (Family, array)
        All arrays of the caller, read and written, on that device; none of `Family.empty`. Their views have been taken,
        in this call: by that arrays of JAX and of DLPack are waited for.
    """
    first, array = operands[0]
    stream = first.stream(device, array)
    for family, array in operands:
        if family is not first or not family.plain:
            family.before(array, device, stream)
    return stream


def end(
    device: int, stream: int, operands: Sequence[tuple[Family, Any]], written: Iterable[tuple[Family, Any]] = ()
) -> None:
    """Let the arrays' libraries wait for the work, where they have to be told; after the launch.

    Parameters
    ----------
    device, operands
        As for `begin`.
    stream : int
        From `begin`.
    written : iterable of (Family, array)
        Those that are written.
    """
    first = operands[0][0]
    for family, array in operands:
        if family is not first or not family.plain:
            family.after(array, device, stream)
    for family, array in written:
        family.written(array)
