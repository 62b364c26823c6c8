"""Gradients against PyTorch's autograd in float64; `.ci/run` has PyTorch for these tests, `pytest -m torch`.

Errors are relative: the largest difference over the largest magnitude of what PyTorch finds.
"""

from pathlib import Path

import numpy as np
import pytest

import fastact as fa

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = pytest.mark.torch

# ours alone: functions and sums of a few hundred terms
BOUND = {np.float32: 4e-7, np.float64: 2e-15}
# with products of matrices, each from the results of the one before
NETWORK = {np.float32: 5e-6, np.float64: 1e-14}
each_float = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def leaf(array):
    """A float64 tensor of the same values that collects a gradient."""
    return torch.tensor(np.asarray(array, np.float64), requires_grad=True)


def compare(what, pairs, bound):
    """Pairs of a name, our array and PyTorch's tensor: the largest relative error is printed, and at most `bound`."""
    errors = {}
    for name, got, want in pairs:
        want = want.detach().numpy()
        assert got.shape == want.shape, name
        errors[name] = float(np.nan_to_num(np.abs(got - want).max() / np.abs(want).max(), nan=np.inf))
    worst = max(errors, key=errors.__getitem__)
    print(f"\n{what}: relative error {errors[worst]:.1e} ({worst}), at most {bound:.0e}")
    assert errors[worst] <= bound, worst


@each_float
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms(name, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 300, 70)).astype(dtype)
    x += 3
    columns = (1 + rng.standard_normal((2, 70))).astype(dtype)[: 2 if name == "layer_norm" else 1]
    f = getattr(fa, name)
    y, stats = f.forward(x, *columns, eps=1e-5)
    leaves = [leaf(a) for a in (x, *columns)]
    want = getattr(functional, name)(leaves[0], (70,), *leaves[1:], eps=1e-5)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    gradients = f.backward(dy, x, stats, *columns)
    named = zip(("dx", "dweight", "dbias"), gradients, leaves)
    pairs = [("y", y, want), *((which, got, other.grad) for which, got, other in named)]
    compare(f"{name} {dtype.__name__}", pairs, BOUND[dtype])


UNITS = {
    "glu": torch.sigmoid,
    "swiglu": functional.silu,
    "geglu": functional.gelu,
    "geglu_tanh": lambda gate: functional.gelu(gate, approximate="tanh"),
    "reglu": torch.relu,
}


@each_float
@pytest.mark.parametrize("name", UNITS)
def test_gated_units(name, dtype):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((40, 200)).astype(dtype), rng.standard_normal((40, 100)).astype(dtype)
    f, z = getattr(fa, name), leaf(x)
    gate, up = z.split(100, 1)
    want = UNITS[name](gate) * up
    want.backward(torch.tensor(dy, dtype=torch.float64))
    y, dx = f(x, halves="gate_first"), f.backward(dy, x, halves="gate_first")
    compare(f"{name} {dtype.__name__}", [("y", y, want), ("dx", dx, z.grad)], BOUND[dtype])


# ---- the examples


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs" / "examples"))


def block_of(x, parameters, heads, eps):
    """The block of docs/examples/transformer_block.py with PyTorch's own functions."""
    norm1, qkv, proj, norm2, up, down = parameters
    batch, tokens, width = x.shape

    def rms_norm(x, weight):
        return functional.rms_norm(x, (width,), weight, eps)

    q, k, v = (a.reshape(batch, tokens, heads, -1).transpose(1, 2) for a in (rms_norm(x, norm1) @ qkv).chunk(3, -1))
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.transpose(1, 2).reshape(batch, tokens, width) @ proj
    gate, opened = (rms_norm(x, norm2) @ up).chunk(2, -1)
    return x + (functional.silu(gate) * opened) @ down


@each_float
def test_a_transformer_block(examples, dtype):
    from transformer_block import Block

    rng = np.random.default_rng(2)
    block = Block(64, 4, 170, dtype)
    for norm in (block.norm1, block.norm2):
        norm += rng.standard_normal(64) / 4
    x, dy = rng.standard_normal((2, 3, 50, 64)).astype(dtype)
    y = block.forward(x)
    dx = block.backward(dy)
    z, parameters = leaf(x), [leaf(p) for p in block.parameters]
    want = block_of(z, parameters, block.heads, float(np.finfo(dtype).eps))
    want.backward(torch.tensor(dy, dtype=torch.float64))
    names = ("norm1", "qkv", "proj", "norm2", "up", "down")
    pairs = [(f"d{n}", got, p.grad) for n, got, p in zip(names, block.gradients, parameters, strict=True)]
    compare(f"transformer block {dtype.__name__}", [("y", y, want), ("dx", dx, z.grad), *pairs], NETWORK[dtype])


@each_float
def test_a_character_model(examples, dtype):
    from character_model import Model

    rng = np.random.default_rng(3)
    model = Model(50, dtype=dtype)
    tokens, labels = rng.integers(0, 50, (2, 4, 33))
    logits = model.forward(tokens)
    loss, dlogits = fa.softmax_cross_entropy.value_and_grad(logits, labels)
    model.backward(dlogits)

    parameters = [leaf(p) for p in model.parameters]
    embedding, position, norm, head, *rest = parameters
    eps = float(np.finfo(dtype).eps)
    h = functional.embedding(torch.tensor(tokens), embedding) + position[:33]
    for i, block in enumerate(model.blocks):
        h = block_of(h, rest[6 * i : 6 * i + 6], block.heads, eps)
    want = functional.rms_norm(h, norm.shape, norm, eps) @ head
    want_loss = functional.cross_entropy(want.reshape(-1, 50), torch.tensor(labels.reshape(-1)))
    want_loss.backward()
    pairs = [(f"gradient {i}", g, p.grad) for i, (g, p) in enumerate(zip(model.gradients, parameters, strict=True))]
    pairs += [("logits", logits, want), ("loss", np.asarray(loss), want_loss)]
    compare(f"character model {dtype.__name__}", pairs, NETWORK[dtype])
