"""Calls of activations with tensors of PyTorch, down to the launch: a stand-in has the driver's place."""

from __future__ import annotations

import pytest
from cuda_stand_in import run, skip_reason

pytestmark = pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))

# kernels are not compiled here: each has the name of its form
SETUP = """
import cuda_arrays as A
import fastact as fa
from fastact.backends.cuda import cache, elementwise, maps

A.torch.empty_like = lambda x: A.Tensor(tuple(x.shape), x.dtype.name, x.get_device())
A.Tensor.is_contiguous = lambda self: True
A.Tensor.numel = lambda self: __import__("math").prod(self.shape)
asked = []


def handle(key, make, device, shared=0):
    asked.append((*key, device))
    return kernel("nothing", len(make().slots))


cache.handle = handle


def tensor(shape, dtype="float32", device=0):
    return A.Tensor(shape, dtype, device)
"""


def test_a_plain_call_is_one_launch_on_the_callers_stream():
    found = run(
        SETUP
        + """
A.CURRENT[0] = 0x77
x = tensor((3, 700))
for _ in range(2):
    log()
    y = fa.gelu(x)
    (line,) = launches()
    print(line)
    assert type(y) is A.Tensor and y.shape == x.shape and y.dtype is x.dtype
    slots = [x.data_ptr(), y.data_ptr(), 2100]
    assert all(str(v) in line or hex(v) in line for v in slots), (line, slots)
print(len(asked), "kernels")
""",
        devices=1,
    )
    first, second, kernels = found.splitlines()
    assert kernels == "2 kernels"  # the first call goes the general way, those after it look nothing up
    for line in (first, second):
        assert " stream=119 " in line, line


def test_what_is_not_plain_goes_the_general_way():
    run(
        SETUP
        + """
x = tensor((16,))
fa.gelu(x)
before = len(asked)
for arrays, keywords in [((x,), {"out": tensor((16,))}), ((tensor((0,)),), {}), ((x,), {"approximate": "tanh"})]:
    fa.gelu(*arrays, **keywords)
y = fa.relu.backward(x, tensor((1,)))
assert y.shape == (16,)
d = tensor((16,))
d.requires_grad = True
with pytest.raises(TypeError, match="pass x.detach"):
    fa.gelu(d)
with pytest.raises(ValueError, match="one device"):
    fa.relu.backward(x, tensor((16,), device=1))
with pytest.raises(TypeError, match="in the memory of the host"):
    fa.relu.backward(x, __import__("numpy").ones(16, "float32"))
value, slope = fa.mish.value_and_grad(x)
value, slope = fa.mish.value_and_grad(x)
assert value is not slope and slope.shape == (16,)
assert fa.prelu(x, tensor((16,))).shape == (16,)
fa.relu.backward(1.0, x)  # a number in the place of the first array
assert fa.relu(1.5) == 1.5 and fa.relu.backward(2.0, 1.0) == 2.0
""",
        devices=2,
    )


def test_grids():
    run(
        SETUP
        + """
for n, blocks in ((1, 1), (2048, 1), (2049, 2), (1 << 31, 1 << 20)):
    x = tensor((1,))
    x.shape = A.Size((n,))
    A.torch.empty_like = lambda t: tensor((1,))
    fa.relu(tensor((1,)))
    log()
    fa.relu(x)
    (line,) = launches()
    assert f" grid={blocks}x1 " in f" {line}", line
""",
        devices=1,
    )
