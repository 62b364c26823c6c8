"""Arrays on a device, as kernels see them: an address and strides, and whose array it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastact.backends.cuda.dtypes import SIZES


def contiguous_strides(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """The strides in bytes of an array in C order."""
    strides = []
    for n in reversed(shape):
        strides.append(size)
        size *= max(n, 1)
    return tuple(reversed(strides))


class DeviceArray:
    """A view of memory on a device.

    Attributes
    ----------
    address : int
    shape, strides : tuple of int
        Strides in bytes.
    dtype : str
    device : int
    writeable : bool
    owner : object
        What it is a view of, which keeps the memory alive.
    """

    __slots__ = ("address", "device", "dtype", "owner", "shape", "strides", "writeable")

    def __init__(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: str, device: int,
        owner: Any = None, writeable: bool = True,
    ) -> None:  # fmt: skip
        self.address, self.shape, self.dtype, self.device = address, shape, dtype, device
        self.strides = contiguous_strides(shape, SIZES[dtype]) if strides is None else strides
        self.owner, self.writeable = owner, writeable

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return SIZES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        """Whether it lies in C order; a dimension of one element can have any stride."""
        step = self.itemsize
        for n, s in zip(reversed(self.shape), reversed(self.strides)):
            if n != 1 and s != step:
                return self.size == 0
            step *= n
        return True

    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...], address: int | None = None) -> DeviceArray:
        address = self.address if address is None else address
        return DeviceArray(address, shape, strides, self.dtype, self.device, self.owner, self.writeable)

    def broadcast_to(self, shape: tuple[int, ...]) -> DeviceArray:
        """A view of this shape; `ValueError` where there is none."""
        if shape == self.shape:
            return self
        lead = len(shape) - self.ndim
        if lead < 0 or any(m not in (1, n) for m, n in zip(self.shape, shape[lead:])):
            raise ValueError(f"shape {self.shape} does not broadcast to {shape}")
        strides = (s if m == n else 0 for m, n, s in zip(self.shape, shape[lead:], self.strides))
        return self._view(shape, (*[0] * lead, *strides))

    def transpose(self, axes: Sequence[int]) -> DeviceArray:
        return self._view(tuple(self.shape[i] for i in axes), tuple(self.strides[i] for i in axes))

    def moveaxis(self, axis: int, to: int) -> DeviceArray:
        """A view with an axis in another place."""
        order = [i for i in range(self.ndim) if i != axis % self.ndim]
        order.insert(to % self.ndim, axis % self.ndim)
        return self.transpose(order)

    def part(self, axis: int, start: int, length: int) -> DeviceArray:
        """A view of a part along an axis."""
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        return self._view(shape, self.strides, self.address + start * self.strides[axis])

    def reshape(self, shape: tuple[int, ...]) -> DeviceArray | None:
        """A view of another shape, None where there is none."""
        if self.is_contiguous:
            return self._view(shape, contiguous_strides(shape, self.itemsize))
        if self.size != math.prod(shape):
            return None
        # dimensions that lie in each other are one; each of them is cut anew
        old = [(n, s) for n, s in zip(self.shape, self.strides) if n != 1]
        strides: list[int] = []
        wanted = list(shape)
        while old:
            n, s = old.pop(0)
            while old and s == old[0][0] * old[0][1]:
                m, s = old.pop(0)
                n *= m
            step, cut = n * s, []
            while n > 1:
                if not wanted or n % wanted[0]:
                    return None
                m = wanted.pop(0)
                n //= m
                step //= m
                cut.append(step)
            strides += cut
        return self._view(shape, (*strides, *[self.itemsize] * len(wanted)))

    def span(self) -> tuple[int, int]:
        """The first byte and the one after the last."""
        if not self.size:
            return self.address, self.address
        steps = [(n - 1) * s for n, s in zip(self.shape, self.strides)]
        low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps)
        return self.address + low, self.address + high + self.itemsize

    def may_share_memory(self, other: DeviceArray) -> bool:
        """Whether the spans of both have bytes in common."""
        (a, b), (c, d) = self.span(), other.span()
        return self.device == other.device and a < d and c < b

    def same_elements(self, other: DeviceArray) -> bool:
        """Whether element i of both is at one place, for each i."""
        return (self.address, self.shape, self.itemsize) == (other.address, other.shape, other.itemsize) and all(
            n == 1 or s == t for n, s, t in zip(self.shape, self.strides, other.strides)
        )


def collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Dimensions of several arrays, in C order, with as few as there can be; none of length 1.

    Examples
    --------
    >>> collapsed((2, 3, 4), [(48, 16, 4), (0, 0, 4)])
    ([6, 4], [[16, 4], [0, 4]])
    """
    lengths: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d, n in enumerate(shape):
        if n == 1:
            continue
        if lengths and all(own[-1] == n * s[d] for own, s in zip(steps, strides)):
            lengths[-1] *= n
            for own, s in zip(steps, strides):
                own[-1] = s[d]
        else:
            lengths.append(n)
            for own, s in zip(steps, strides):
                own.append(s[d])
    return (lengths, steps) if lengths else ([1], [[0] for _ in strides])
