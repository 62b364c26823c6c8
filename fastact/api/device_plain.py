"""Plain calls with tensors of PyTorch: contiguous, of one dtype and shape, nothing but arrays.

A call of 16 elements is all host time: on an H100's host PyTorch's own relu takes 8 us, of which a launch is 3.5 and a
new tensor 2. So what such a call needs is looked up once for each function and dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastact.backends.cuda import cache as kernels
from fastact.backends.cuda import elementwise, maps
from fastact.backends.cuda._launch import launch
from fastact.backends.cuda.dtypes import FLOATS, rounded
from fastact.runtime import _driver
from fastact.spec.kernel import kernel_of

if TYPE_CHECKING:
    from fastact.api.activation import Method

Call = Callable[..., Any]


_registered: set[type] = set()


def register(type_: type) -> None:
    """From now on plain calls with PyTorch's tensors of this type come here first."""
    if type_ not in _registered:
        _registered.add(type_)
        _driver.register_device_type(type_, caller(sys.modules["torch"]))


def caller(torch: Any) -> Callable[[Any, tuple[Any, ...]], Any]:
    """What computes a plain call, or gives None."""
    known: dict[tuple[Method, Any], Call] = {}
    names = {getattr(torch, name): name for name in FLOATS}
    strided, grad = torch.strided, torch.is_grad_enabled

    def call(method: Method, tensors: tuple[Any, ...]) -> Any:
        x = tensors[0]
        if (
            not x.is_cuda
            or x.layout is not strided
            or not x.is_contiguous()
            or x.is_neg()
            or (x.requires_grad and grad())
        ):
            return None
        dtype = x.dtype
        if len(tensors) > 1:
            kind, shape = type(x), x.shape
            for t in tensors[1:]:
                if (
                    type(t) is not kind
                    or t.dtype is not dtype
                    or t.shape != shape
                    or t.layout is not strided
                    or not t.is_contiguous()
                    or t.is_neg()
                    or (t.requires_grad and grad())
                ):
                    return None
        run = known.get((method, dtype))
        if run is None:
            name = names.get(dtype)
            if name is None:
                return None
            run = known[method, dtype] = _run(torch, method, name)
        return run(*tensors)

    return call


def _run(torch: Any, method: Method, dtype: str) -> Call:
    spec = kernel_of(method.op, method.kind, dtype)
    params = tuple(rounded(p.default, dtype) for p in method.op.params if p.default is not None)
    per = elementwise.BLOCK * elementwise.per_thread(dtype)
    block, two = elementwise.BLOCK, len(spec.outputs) == 2
    # longer arrays of 16 bits go another way
    most = maps.TABLE_MIN if maps.has_table(spec) else 1 << 62
    if len(params) != len(method.op.params):
        most = 0
    stream, empty_like = torch._C._cuda_getCurrentRawStream, torch.empty_like
    handles: dict[int, int] = {}

    def handle(device: int) -> int:
        found = handles[device] = kernels.handle((spec, "vector"), lambda: elementwise.vector(spec), device)
        return found

    def one(x: Any) -> Any:
        n, device, address = x.numel(), x.get_device(), x.data_ptr()
        if not 0 < n < most or address & 15:
            return None
        y = empty_like(x)
        slots = address, y.data_ptr(), n, *params
        launch(handles.get(device) or handle(device), device, stream(device), -(-n // per), 1, block, 0, slots)
        return y

    def several(x: Any, *others: Any) -> Any:
        n, device, bits = x.numel(), x.get_device(), x.data_ptr()
        if not 0 < n < most:
            return None
        slots: tuple[float, ...] = (bits,)
        for t in others:
            if t.get_device() != device:
                return None
            address = t.data_ptr()
            bits |= address
            slots += (address,)
        if bits & 15:
            return None
        y = empty_like(x)
        if two:
            d = empty_like(x)
            slots += y.data_ptr(), d.data_ptr(), n
        else:
            d = None
            slots += y.data_ptr(), n
        launch(handles.get(device) or handle(device), device, stream(device), -(-n // per), 1, block, 0, slots + params)
        return y if d is None else (y, d)

    return one if len(spec.inputs) == 1 and not two else several
