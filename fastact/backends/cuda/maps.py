"""Runs kernels of a ``map`` over arrays on a device, in the form that they allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastact.backends.cuda import elementwise, launch, tables
from fastact.backends.cuda.array import DeviceArray, collapsed
from fastact.backends.cuda.dtypes import SIZES, common
from fastact.backends.cuda.launch import Launch
from fastact.spec.kernel import KernelSpec, kernel_of
from fastact.spec.table import OPS

# elements from which on results are looked up: 2^20 on an H100 0.010 ms, computed 0.012
TABLE_MIN = 1 << 20
# operations of a formula up to which it is computed all the same: relu of 2^28 bfloat16 0.379 ms by the table, of which
# each multiprocessor reads 128 KiB first; PyTorch computes it in 0.357
SHORT = 16

# two numbers that say what random numbers make (`elementwise.RANDOM`), seed, offset
Random = tuple[float, float, int, int]


def has_table(spec: KernelSpec) -> bool:
    """Whether results of a kernel are looked up, from TABLE_MIN elements on."""
    one = len(spec.inputs) == len(spec.outputs) == 1
    return one and SIZES[spec.dtype] == 2 and elementwise.operations(spec) > SHORT


def is_plain(arrays: Sequence[Any], dtype: str) -> bool:
    """Whether the form ``vector`` takes them."""
    return all(
        isinstance(a, DeviceArray) and a.dtype == dtype and a.address % 16 == 0 and a.is_contiguous for a in arrays
    )


def form(spec: KernelSpec, arrays: Sequence[Any], params: Sequence[Any], mask: DeviceArray | None) -> str:
    """The form that serves arrays of one shape."""
    numbers = not any(isinstance(p, DeviceArray) for p in params)
    if not (numbers and mask is None and is_plain(arrays, spec.dtype)):
        return "strided"
    return "table" if arrays[0].size >= TABLE_MIN and has_table(spec) else "vector"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def random_slots(spec: KernelSpec, random: Random | None) -> tuple[float, ...]:
    """What random numbers need, as arguments of a kernel."""
    role = next((a.role for a in spec.inputs if a.role in elementwise.RANDOM), "")
    if not role or random is None:
        return ()
    slots = elementwise.RANDOM[role][1]
    first, second, seed, offset = random
    one, other = (int(v) if slot == "q" else float(v) for v, slot in zip((first, second), slots))
    return one, other, _signed(seed), _signed(offset)


def run(
    spec: KernelSpec,
    inputs: Sequence[float | DeviceArray],
    params: Sequence[float | DeviceArray],
    outputs: Sequence[DeviceArray],
    stream: int,
    mask: DeviceArray | None = None,
    random: Random | None = None,
) -> None:
    """Run a kernel on arrays of one shape.

    Parameters
    ----------
    spec : KernelSpec
    inputs, params : sequence of float or DeviceArray
        Numbers, and arrays of one shape: views of those that are broadcast.
    outputs : sequence of DeviceArray
        Of that shape.
    stream : int
    mask : DeviceArray, optional
        Booleans: where it is False nothing is written.
    random : tuple, optional
        What random numbers need.
    """
    first = outputs[0]
    n = first.size
    if not n:
        return
    arrays: list[Any] = [*inputs, *outputs]
    device = first.device
    chosen = form(spec, arrays, params, mask)
    if chosen == "table" and not tables.can_make(device, stream):
        chosen = "vector"
    if chosen == "table":
        tables.run(spec, tuple(map(float, params)), arrays[0], first, stream)  # type: ignore[arg-type]
        return
    if chosen == "vector":
        per = elementwise.BLOCK * elementwise.per_thread(spec.dtype)
        where = Launch(device, stream, (-(-n // per), 1), elementwise.BLOCK)
        numbers = map(float, params)  # type: ignore[arg-type]
        slots = (*(a.address for a in arrays), n, *numbers, *random_slots(spec, random))
        launch.run((spec, "vector"), lambda: elementwise.vector(spec), where, slots)
        return
    given = [*inputs, *params, *outputs]
    every = [a for a in (*given, mask) if isinstance(a, DeviceArray)]
    shape, strides = first.shape, [a.strides for a in every]
    if random is None:
        # in the order in which elements of the output lie; random numbers go by the index
        lie = outputs[0].strides
        order = sorted(range(len(shape)), key=lambda d: -abs(lie[d]))
        shape, strides = tuple(shape[d] for d in order), [tuple(s[d] for d in order) for s in strides]
    lengths, steps = collapsed(shape, strides)
    dtypes = tuple(a.dtype if isinstance(a, DeviceArray) else "" for a in given)
    where = Launch(device, stream, (-(-n // elementwise.BLOCK), 1), elementwise.BLOCK)
    plain = [float(a) for a in given if not isinstance(a, DeviceArray)]
    every_slot: tuple[float, ...] = (
        *(a.address for a in every),
        n,
        *lengths[1:],
        *(s for own in steps for s in own),
        *plain,
    )
    traits = len(lengths), dtypes, mask is not None
    every_slot += random_slots(spec, random)
    launch.run((spec, "strided", *traits), lambda: elementwise.strided(spec, *traits), where, every_slot)


def fill(target: DeviceArray, value: float, stream: int) -> None:
    """Write a number to all elements."""
    run(kernel_of(OPS["identity"], "forward", target.dtype), [value], [], [target], stream)


def copy(source: DeviceArray, target: DeviceArray, stream: int, mask: DeviceArray | None = None) -> None:
    """Copy elements, of a mask those where it holds, rounded to the dtype of the target; nothing to the same memory."""
    if target.same_elements(source) and target.dtype == source.dtype:
        return
    dtype = common([source.dtype, target.dtype])
    run(kernel_of(OPS["identity"], "forward", dtype), [source.broadcast_to(target.shape)], [], [target], stream, mask)
