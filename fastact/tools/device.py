"""``fastact verify --device cuda`` and ``fastact bench --device cuda``: activations on a GPU, against the CPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

import fastact as fa
from fastact import dispatch
from fastact.spec.kernel import itemsize
from fastact.spec.kinds import ALL
from fastact.spec.table import OPS

# inputs that go to the device at once
CHUNK = 1 << 26


def missing() -> str | None:
    """None, or why there is no GPU to compute on."""
    return dispatch.reason("cuda")


def differing(
    compute: Callable[[np.ndarray], np.ndarray], patterns: Iterator[np.ndarray], progress: Callable[[int], object]
) -> tuple[int, int, tuple[np.ndarray, ...] | None]:
    """How many inputs there are, of how many the results differ in a bit, and the first of these with both results.

    NaN beside NaN is no difference.
    """
    count = bad = 0
    first = None
    for x in patterns:
        with fa.use_backend("auto"):
            want = compute(x)
        with fa.use_backend("cuda"):
            got = compute(x)
        unsigned = f"u{want.itemsize}"
        unlike = (got.view(unsigned) != want.view(unsigned)) & ~(np.isnan(got) & np.isnan(want))
        if first is None and unlike.any():
            i = int(unlike.argmax())
            first = x[i], got[i], want[i]
        count, bad = count + x.size, bad + int(unlike.sum())
        progress(x.size)
    return count, bad, first


def patterns_of(dtype: np.dtype[Any], total: int, stride: int) -> Iterator[np.ndarray]:
    """Every `stride`-th bit pattern of a dtype."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    for first in range(0, total, CHUNK * stride):
        yield np.arange(first, min(total, first + CHUNK * stride), stride, dtype=np.uint64).astype(unsigned).view(dtype)


def bench(
    ops: list[str], kinds: tuple[str, ...], sizes: tuple[int, ...], dtype: str, rounds: int
) -> list[dict[str, Any]]:
    """Medians of device events in microseconds, in turns with copies of as much memory.

    Parameters
    ----------
    ops : list of str
        Activations whose parameters have defaults.
    kinds : tuple of str
    sizes : tuple of int
    dtype : str
    rounds : int
    """
    from fastact.backends.cuda._launch import DeviceMemory, Event, fill, own_stream, synchronize

    device = 0
    stream = own_stream(device)
    found = []
    for n in sizes:
        arrays = [DeviceMemory((n,), dtype, device, stream) for _ in range(4)]
        for array in arrays:
            # elements of about 1
            fill(array.address, _ONE[dtype], array.nbytes // len(_ONE[dtype]), stream, device)
        for name in ops:
            for kind in kinds:
                inputs, outputs = len(ALL[kind].inputs), len(ALL[kind].outputs)
                method: Any = fa.activations[name] if kind == "forward" else getattr(fa.activations[name], kind)
                outs = arrays[2 : 2 + outputs]
                out = outs[0] if outputs == 1 else tuple(outs)
                copied: Any = fa.identity
                calls: dict[str, Callable[[], Any]] = {
                    "fastact": partial(method, *arrays[:inputs], out=out),
                    "copy": partial(copied, arrays[0], out=arrays[2]),
                }
                times: dict[str, list[float]] = {call: [] for call in calls}
                for call in calls.values():
                    call()
                for _ in range(rounds):
                    for label, call in calls.items():
                        before, after = Event(device), Event(device)
                        before.record(stream)
                        call()
                        after.record(stream)
                        synchronize(device, stream)
                        times[label].append(1000 * before.elapsed(after))
                us = {label: statistics.median(spans) for label, spans in times.items()}
                moved = (inputs + outputs) * n * itemsize(dtype)
                found.append(
                    {
                        "op": name, "kind": kind, "size": n, "us": us["fastact"],
                        "GB/s": moved / us["fastact"] / 1e3 if us["fastact"] else 0.0,
                        "of a copy": (moved / us["fastact"]) / (2 * n * itemsize(dtype) / us["copy"])
                        if us["fastact"] and us["copy"] else 0.0,
                    }
                )  # fmt: skip
    return found


_ONE: Mapping[str, bytes] = {
    "float32": np.float32(1).tobytes(),
    "float64": np.float32(1).tobytes(),  # twice: 0.0078 to 15 digits, no special number
    "float16": np.float16(1).tobytes(),
    "bfloat16": b"\x80\x3f",
}


def benchable(names: tuple[str, ...]) -> list[str]:
    """Those of some functions that can be measured on a GPU: activations whose parameters have defaults."""
    return [name for name in names if name in OPS and all(p.default is not None for p in OPS[name].params)]
