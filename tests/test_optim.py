"""Optimisers: against textbook steps in float64 that import nothing from fastact, PyTorch, and one another's bits."""

from __future__ import annotations

import inspect
import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from cases import BACKENDS, agreed, difference, same, unavailable
from ulp import BFLOAT16, ulp_of

import fastact as fa
from fastact.maths import optimisers as formulas
from fastact.runtime import _driver
from fastact.spec.optimisers import ROWS, SCALED, rules

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
DTYPES = (F32, F64, F16, BFLOAT16)
COMPUTE = {F16: F32, BFLOAT16: F32, F32: F32, F64: F64}
# of one step in float32 against one in float64: of the state, and of a parameter that is at least twice its change; of
# any parameter, 1 ULP of it and so many of its change
STEP_ULP, CHANGE_ULP = 2.0, 2.5
ROOT = Path(__file__).parent.parent

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


# ---- textbook steps: (p, g, state, number of the step, hyperparameters) -> p, new state; PyTorch's conventions


def average(old, new, beta):
    return beta * old + (1 - beta) * new


def adam_direction(g, s, t, betas, eps, keras):
    m, v = average(s["m"], g, betas[0]), average(s["v"], g * g, betas[1])
    if keras:
        root = np.sqrt(1 - betas[1] ** t)
        return root / (1 - betas[0] ** t) * m / (np.sqrt(v) + eps), {"m": m, "v": v}
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return m_hat / (np.sqrt(v_hat) + eps), {"m": m, "v": v}


def sgd(p, g, s, t, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    if not momentum:
        return p - lr * g, {}
    b = momentum * s["b"] + g
    return p - lr * (g + momentum * b if nesterov else b), {"b": b}


def adam(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=None, weight_decay=0.0, keras=False):
    eps = (1e-7 if keras else 1e-8) if eps is None else eps
    step, s = adam_direction(g + weight_decay * p, s, t, betas, eps, keras)
    return p - lr * step, s


def adamw(p, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=None, weight_decay=0.01, keras=False):
    eps = (1e-7 if keras else 1e-8) if eps is None else eps
    step, s = adam_direction(g, s, t, betas, eps, keras)
    return p - lr * weight_decay * p - lr * step, s


def rmsprop(p, g, s, t, lr=1e-2, alpha=0.99, eps=None, weight_decay=0.0, momentum=0.0, keras=False):
    eps = (1e-7 if keras else 1e-8) if eps is None else eps
    g = g + weight_decay * p
    v = average(s["v"], g * g, alpha)
    step = g / (np.sqrt(v + eps) if keras else np.sqrt(v) + eps)
    if not momentum:
        return p - lr * step, {"v": v}
    b = momentum * s["b"] + step
    return p - lr * b, {"v": v, "b": b}


def adagrad(p, g, s, t, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=None, keras=False):
    eps = (1e-7 if keras else 1e-10) if eps is None else eps
    g = g + weight_decay * p
    total = s["s"] + g * g
    step = g / (np.sqrt(total + eps) if keras else np.sqrt(total) + eps)
    return p - lr / (1 + (t - 1) * lr_decay) * step, {"s": total}


def lion(p, g, s, t, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    step = np.sign(average(s["m"], g, betas[0])) + weight_decay * p
    return p - lr * step, {"m": average(s["m"], g, betas[1])}


def adamax(p, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=None, weight_decay=0.0, keras=False):
    eps = (1e-7 if keras else 1e-8) if eps is None else eps
    g = g + weight_decay * p
    m = average(s["m"], g, betas[0])
    u = np.maximum(betas[1] * s["u"], np.abs(g) + (0 if keras else eps))
    return p - lr / (1 - betas[0] ** t) * m / (u + (eps if keras else 0)), {"m": m, "u": u}


def nadam(p, g, s, t, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3):
    g = g + weight_decay * p
    m, v = average(s["m"], g, betas[0]), average(s["v"], g * g, betas[1])
    mu = [betas[0] * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in range(t + 2)]
    now, after = math.prod(mu[1 : t + 1]), math.prod(mu[1 : t + 2])
    root = np.sqrt(v / (1 - betas[1] ** t)) + eps
    return p - lr * ((1 - mu[t]) / (1 - now) * g + mu[t + 1] / (1 - after) * m) / root, {"m": m, "v": v}


# the textbook step, and hyperparameters to try; the first are the defaults
ORACLE = {
    "SGD": (sgd, {}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.125, "lr": 0.5}),
    "Adam": (adam, {}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.125}, {"keras": True},
             {"betas": (0.0, 0.0)}),
    "AdamW": (adamw, {}, {"lr": 0.1, "weight_decay": 0.5}, {"keras": True, "weight_decay": 0.0}),
    "RMSprop": (rmsprop, {}, {"momentum": 0.9, "alpha": 0.9, "weight_decay": 0.125}, {"keras": True}),
    "Adagrad": (adagrad, {}, {"lr_decay": 0.1, "weight_decay": 0.125, "initial_accumulator_value": 0.1},
                {"keras": True}),
    "Lion": (lion, {}, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.3}),
    "Adamax": (adamax, {}, {"weight_decay": 0.125, "betas": (0.8, 0.9)}, {"keras": True, "eps": 0.01}),
    "NAdam": (nadam, {}, {"weight_decay": 0.125, "momentum_decay": 1.0, "eps": 1e-7}),
}  # fmt: skip
NAMES = [name for name in ROWS if name in ORACLE]
each_name = pytest.mark.parametrize("name", NAMES)
CASES = [(name, case) for name in NAMES for case in ORACLE[name][1:]]
each_case = pytest.mark.parametrize(
    ("name", "case"),
    CASES,
    ids=[n + ("" if not c else f"({','.join(f'{k}={v}' for k, v in c.items())})") for n, c in CASES],
)


def of(name):
    return getattr(fa.optim, name)


def function(name):
    return getattr(fa.optim, f"{name.lower()}_")


def arrays(shapes, dtype, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.asarray(scale * rng.standard_normal(s), dtype) for s in shapes]


def copies(found):
    return [np.array(a) for a in found]


def everything(optimiser):
    """All that it writes."""
    return copies([*optimiser.params, *(a for kept in optimiser.state.values() for a in kept)])


def identical(got, want):
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        assert same(a, b), f"array {i}{difference(a, b)}"


# ---- the table


def test_every_row_has_an_oracle_and_is_in_the_docs():
    assert sorted(ROWS) == sorted(ORACLE)
    text = (ROOT / "docs" / "optimisers.md").read_text(encoding="utf-8")
    for name, row in ROWS.items():
        assert f"| `{name}` |" in text, name
        assert f"`{row.function}`" in text, row.function


@each_name
def test_defaults_are_the_oracles(name):
    textbook = inspect.signature(ORACLE[name][0]).parameters
    found = {h.name: h.default for h in ROWS[name].hypers}
    assert {*textbook} == {"p", "g", "s", "t", *found}
    for key, default in found.items():
        assert textbook[key].default in (default, None)
    signature = inspect.signature(of(name))
    assert list(signature.parameters) == ["params", *sorted(found, key=lambda k: k == "keras"), "master"]


def test_public_names():
    assert sorted(fa.optim.__all__) == sorted(
        ["Optimiser", "clip_grad_norm_", *ROWS, *(row.function for row in ROWS.values())]
    )
    assert all(hasattr(fa.optim, name) for name in fa.optim.__all__)


def test_every_formula_serves_a_rule():
    used, waiting = set(), [rule.formula for rule in rules()]
    defined = {n: f for n, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__}
    while waiting:
        name = waiting.pop().__name__
        used.add(name)
        waiting += [defined[n] for n in defined[name].__code__.co_names if n in defined and n not in used]
    assert used == set(defined)


@each_case
def test_numbers_are_those_that_the_formula_takes(name, case):
    optimiser = of(name)([np.ones(1)], **case)
    rule = optimiser._rule
    assert len(rule.numbers(optimiser._values, 3)) == len(rule.params) - 1
    assert len(rule.inputs) + len(rule.params) + len(rule.outputs) <= 16


@pytest.mark.parametrize("step", [1, 10, 500, 100_000])
def test_nadam_without_the_whole_product(step):
    """The product of the momenta is left where it no longer counts."""
    values = {h.name: h.default for h in ROWS["NAdam"].hypers}
    _, *_, rate_g, rate_m, _ = ROWS["NAdam"].rules[0].numbers(values, step)
    mu = 0.9 * (1 - 0.5 * 0.96 ** (np.arange(1, step + 2) * 4e-3))
    product, root = np.cumprod(mu), math.sqrt(1 - 0.999**step)
    assert rate_g == pytest.approx(2e-3 * root * (1 - mu[-2]) / (1 - product[-2]), rel=1e-14)
    assert rate_m == pytest.approx(2e-3 * root * mu[-1] / (1 - product[-1]), rel=1e-14)


# ---- values


@each_case
def test_a_hundred_steps(name, case, record_property):
    """Each step in float32 against the textbook's in float64 from the same numbers.

    ULP are those of the sum of the sizes of the terms, which may cancel. Half of the parameters begin with 0, so that
    they are no larger than their change; the gradient counts as rounded after weight decay.
    """
    rng = np.random.default_rng(1)
    p = rng.standard_normal(2003).astype(F32)
    p[::2] = 0
    scale = 10.0 ** rng.integers(-3, 3, p.size)
    optimiser, step = of(name)([p], **case), ORACLE[name][0]
    decoupled = name in ("AdamW", "Lion") or "weight_decay" not in inspect.signature(step).parameters
    decay = 0.0 if decoupled else case.get("weight_decay", 0.0)
    undecayed = {**case, **({} if decoupled else {"weight_decay": 0.0})}
    errors, of_change = {}, 0.0
    for t in range(1, 101):
        g = (rng.standard_normal(p.size) * scale).astype(F32)
        state = {k: a[0].astype(np.float64) for k, a in optimiser.state.items()}
        before = p.astype(np.float64)
        given = (g + decay * before).astype(F32).astype(np.float64)
        want, kept = step(before, given, state, t, **undecayed)
        magnitudes = {k: np.abs(a) for k, a in state.items()}
        change, sizes = step(np.zeros(p.size), np.abs(given), magnitudes, t, **undecayed)
        optimiser.step([g])
        for key, exact in kept.items():
            error = np.abs(optimiser.state[key][0] - exact) / ulp_of(sizes[key], F32)
            errors[key] = max(errors.get(key, 0.0), float(error.max()))
        size = np.maximum(np.abs(before), np.abs(want))
        certain = np.full(p.size, True)
        if name == "Lion":
            # elsewhere the sign hangs on the last bits
            beta = optimiser.betas[0]
            terms = beta * state["m"], (1 - beta) * g
            certain = np.abs(sum(terms)) > 4 * 2.0**-24 * np.maximum(*map(np.abs, terms))
        error, change = np.abs(p - want), np.abs(change)
        small = certain & (change <= size / 2)
        errors["p"] = max(errors.get("p", 0.0), float((error / ulp_of(size, F32))[small].max(initial=0.0)))
        of_change = max(of_change, float(((error - ulp_of(size, F32)) / ulp_of(change, F32))[certain].max()))
    record_property("ulp", {**errors, "change": of_change})
    print(name, case, {k: round(v, 2) for k, v in errors.items()}, round(of_change, 2))
    # the momentum of RMSprop is a sum of quotients, as changes are
    quotients = errors.pop("b", 0.0) if name == "RMSprop" else 0.0
    assert max(errors.values()) <= STEP_ULP
    assert quotients <= STEP_ULP + 1
    assert of_change <= CHANGE_ULP


@each_case
def test_a_run_in_float64(name, case):
    """A hundred steps in float64 without looking back: the textbook's run, to rounding."""
    rng = np.random.default_rng(2)
    p = rng.standard_normal(50)
    optimiser = of(name)([p], **case)
    want, state = p.copy(), {k: a[0].copy() for k, a in optimiser.state.items()}
    for t in range(1, 101):
        g = rng.standard_normal(50)
        want, state = ORACLE[name][0](want, g, state, t, **case)
        optimiser.step([g])
    np.testing.assert_allclose(p, want, rtol=1e-11, atol=1e-13)
    for key, a in state.items():
        np.testing.assert_allclose(optimiser.state[key][0], a, rtol=1e-11, atol=1e-13)


@pytest.mark.torch
@each_case
def test_pytorch(name, case):
    """A hundred steps, every other one with clipped gradients."""
    torch = pytest.importorskip("torch")
    if case.get("keras") or not hasattr(torch.optim, name):
        pytest.skip("PyTorch has none")
    rng = np.random.default_rng(3)
    p, q = rng.standard_normal((7, 5)), rng.standard_normal(3)
    others = [torch.nn.Parameter(torch.tensor(a)) for a in (p, q)]
    theirs = getattr(torch.optim, name)(others, **case)
    ours = of(name)([p, q], **case)
    worst = 0.0
    for t in range(100):
        grads = [rng.standard_normal(a.shape) for a in (p, q)]
        for other, g in zip(others, grads):
            other.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(others, 4.0) if t % 2 else None
        theirs.step()
        found = ours.step(grads, max_norm=4.0 if t % 2 else None)
        assert norm is None or found == pytest.approx(float(norm), rel=1e-14)
        for a, other in zip((p, q), others):
            # the product of NAdam's momenta is float32 in PyTorch
            close = {"rtol": 1e-6, "atol": 1e-7} if name == "NAdam" else {"rtol": 1e-10, "atol": 1e-12}
            want = other.detach().numpy()
            np.testing.assert_allclose(a, want, **close)
            worst = max(worst, float(np.abs(a - want).max() / np.abs(want).max()))
    print(f"\n{name} {case}: relative error {worst:.1e} at most, bound of an element {close['rtol']:.0e}")


KERAS = [
    ("SGD", "SGD", {"lr": 0.01, "momentum": 0.9}, {"momentum": 0.9}),
    ("Adam", "Adam", {"keras": True}, {}),
    ("AdamW", "AdamW", {"keras": True, "weight_decay": 0.004}, {}),
    ("RMSprop", "RMSprop", {"keras": True, "lr": 1e-3, "alpha": 0.9}, {}),
    ("Adagrad", "Adagrad", {"keras": True, "lr": 1e-3, "initial_accumulator_value": 0.1}, {}),
    ("Adamax", "Adamax", {"keras": True, "lr": 1e-3}, {}),
    ("NAdam", "Nadam", {"lr": 1e-3, "momentum_decay": 1.0, "eps": 1e-7}, {}),
    ("Lion", "Lion", {"lr": 1e-3}, {}),
]


@pytest.mark.parametrize(("name", "theirs", "case", "options"), KERAS, ids=[k[1] for k in KERAS])
def test_keras(name, theirs, case, options):
    """Keras' defaults, and where it adds epsilon: gradients so small that this decides."""
    keras = pytest.importorskip("keras")
    p = np.random.default_rng(4).standard_normal(20).astype(F32)
    small = 10.0 ** np.random.default_rng(5).integers(-8, 1, 20)
    variable, mine = keras.Variable(p), p.copy()
    optimiser, ours = getattr(keras.optimizers, theirs)(**options), of(name)([mine], **case)
    for t in range(20):
        g = (small * np.random.default_rng(t).standard_normal(20)).astype(F32)
        optimiser.apply_gradients([(keras.ops.convert_to_tensor(g), variable)])
        ours.step([g])
    np.testing.assert_allclose(mine - p, keras.ops.convert_to_numpy(variable) - p, rtol=2e-4, atol=5e-7)


# ---- the same bits

SHAPES = [(n,) for n in range(1, 68)] + [(), (0,), (3, 5, 7), (40, 50)]


def run(name, dtype, case, shapes=SHAPES, steps=3, master=False, poison=False):
    """All that is written in some steps, with clipping and un-scaling in one of them."""
    params = arrays(shapes, dtype)
    optimiser = of(name)(params, **case, **({"master": True} if master else {}))
    for t in range(steps):
        grads = arrays(shapes, dtype, seed=10 + t)
        if poison:
            for i, g in enumerate(grads):
                g.reshape(-1)[: len(SPECIAL)] = np.roll(SPECIAL, i)[: g.size].astype(dtype)
        optimiser.step(grads, **({"max_norm": 1.0, "scale": 4.0} if t == 1 and not poison else {}))
    return everything(optimiser)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-45, 3e38, -3e38, 1e-20, 1e20])


@each_dtype
@each_case
def test_backends_have_the_same_bits(name, case, dtype):
    with np.errstate(all="ignore"):
        agreed(lambda: run(name, dtype, case))
        agreed(lambda: run(name, dtype, case, shapes=[(23,), (100,)], poison=True))


@pytest.mark.parametrize("dtype", [F16, BFLOAT16], ids=lambda d: d.name)
@each_name
def test_master_copies_have_the_same_bits(name, dtype):
    found = agreed(lambda: run(name, dtype, {}, master=True))
    params, masters = found[: len(SHAPES)], found[-len(SHAPES) :]
    assert all(m.dtype == F32 for m in masters)
    identical(params, [m.astype(dtype) for m in masters])


@pytest.mark.parametrize("dtype", [F32, BFLOAT16], ids=lambda d: d.name)
@pytest.mark.parametrize("backend_name", [b for b in BACKENDS if b != "reference"])
@each_name
def test_threads_and_lists_have_the_same_bits(name, backend_name, dtype, threads):
    """However arrays are grouped into tasks, whatever is beside them in the list."""
    if unavailable(backend_name):
        pytest.skip(unavailable(backend_name))
    rule = ROWS[name].rules[0]
    chunk = fa.dispatch.limits(fa.dispatch.rule_kernel_of(rule, "float32"))[1]
    shapes = [(5,), (chunk - 1,), (chunk,), (chunk + 17,), (1,), (3 * chunk + 5,), (16,)]
    with fa.use_backend(backend_name):
        found = {}
        for n in (1, 2, 3, 7):
            threads(n)
            found[n] = run(name, dtype, {}, shapes, steps=2)
        for n in (2, 3, 7):
            identical(found[n], found[1])
        threads(2)
        alone = arrays(shapes, dtype)[3]
        optimiser = of(name)([alone])
        optimiser.step([arrays(shapes, dtype, seed=10)[3]])
        together = of(name)(arrays(shapes, dtype))
        together.step(arrays(shapes, dtype, seed=10))
        assert same(alone, together.params[3])


@each_name
def test_function_is_the_class(name):
    p, q = arrays([(100,)] * 2, F32)[0], arrays([(100,)] * 2, F32)[0]
    optimiser = of(name)([p])
    states = [np.zeros(100, F32) for _ in optimiser.state]
    for t in (1, 2, 3):
        g = arrays([(100,)], F32, seed=t)[0]
        optimiser.step([g])
        count = {"step": t} if ROWS[name].counts else {}
        assert function(name)(q, g, *states, **count, lr=optimiser.lr) is q
    identical([p, *(a[0] for a in optimiser.state.values())], [q, *states])


@each_name
def test_layouts_are_all_the_same(name):
    """Any strides, order of axes and bytes, alignment, subclasses; gradients in the computing dtype."""
    base, g = arrays([(6, 10), (6, 10)], F32)
    want = base.copy()
    plain = of(name)([want])
    plain.step([g])
    spaced = np.zeros((6, 20), F32)[:, ::2]
    shifted = np.zeros(6 * 10 * 4 + 1, np.uint8)[1:].view(F32).reshape(6, 10)
    for p in (
        spaced,
        np.asfortranarray(base),
        shifted,
        base[::-1].copy()[::-1],
        base.astype(">f4"),
        np.copy(base).view(Sub),
    ):
        p[...] = base
        for given in (g, np.asfortranarray(g), g.astype(">f4"), g.view(Sub)):
            other = p.copy(order="K") if p.flags.c_contiguous else p
            other[...] = base
            optimiser = of(name)([other])
            optimiser.step([given])
            assert same(np.asarray(other, F32), want)
            identical([a[0] for a in optimiser.state.values()], [a[0] for a in plain.state.values()])
    half = [base.astype(F16), base.astype(F16)]
    of(name)([half[0]]).step([g.astype(F16)])
    of(name)([half[1]]).step([g.astype(F16).astype(F32)])
    assert same(*half)


class Sub(np.ndarray):
    pass


@pytest.mark.parametrize("dtype", [F16, BFLOAT16], ids=lambda d: d.name)
def test_small_steps_are_lost_without_master_copies(dtype):
    p, q = np.ones(3, dtype), np.ones(3, dtype)
    plain, kept = fa.optim.SGD([p], lr=1e-5), fa.optim.SGD([q], lr=1e-5, master=True)
    for _ in range(1000):
        plain.step([np.ones(3, dtype)])
        kept.step([np.ones(3, dtype)])
    assert np.all(p == 1)
    np.testing.assert_allclose(q.astype(F64), 0.99, rtol=1e-2 if dtype == BFLOAT16 else 1e-3)
    np.testing.assert_allclose(kept.state["master"][0], 0.99, rtol=1e-4)


def test_special_values():
    """Where PyTorch gives infinities and NaN, so does this; an infinite square stays infinite."""
    p, g = np.float32([1, 1, 1, np.inf, 1]), np.float32([np.nan, np.inf, 1e30, 1, 0])
    optimiser = fa.optim.Adam([p], weight_decay=0.0)
    with np.errstate(all="raise"):
        optimiser.step([g])
        optimiser.step([np.ones(5, F32)])
    assert np.isnan(p[:2]).all()
    assert optimiser.state["v"][0][2] == np.inf
    np.testing.assert_allclose(p[2:], [0.999 - 0, np.inf, p[4]], rtol=2e-3)
    assert p[4] < 1


# ---- the norm


@each_dtype
def test_norm(dtype, threads):
    for shapes in ([(1,)], [(67,), (3, 4)], [(16384,), (16385,), (5,), (40000,), (0,)]):
        grads = arrays(shapes, dtype, scale=100.0)
        exact = math.sqrt(math.fsum((np.concatenate([g.reshape(-1) for g in grads]).astype(np.float64) ** 2).tolist()))
        found = set()
        for n in (1, 2, 3, 7):
            threads(n)
            found.add(fa.optim.clip_grad_norm_(grads, math.inf))
        (norm,) = found
        assert abs(norm - exact) <= np.spacing(exact)
    big = np.full(10, 3e38, F32)
    assert fa.optim.clip_grad_norm_(big, math.inf) == pytest.approx(3e38 * math.sqrt(10), rel=1e-6)


@each_dtype
def test_clipping(dtype, backend):
    grads = arrays([(3, 4), (100,), ()], dtype)
    before = copies(grads)
    norm = fa.optim.clip_grad_norm_(grads, 2.0)
    factor = np.asarray(2.0 / (norm + 1e-6), COMPUTE[dtype])
    for g, b in zip(grads, before):
        assert same(g, (b.astype(COMPUTE[dtype]) * factor).astype(dtype))
    again = copies(grads)
    fa.optim.clip_grad_norm_(grads, 1e4)
    identical(grads, again)
    # within a step: as before it
    p, q = arrays([(3, 4), (100,), ()], dtype), arrays([(3, 4), (100,), ()], dtype)
    optimiser = fa.optim.SGD(p, lr=0.5)
    grads = arrays([(3, 4), (100,), ()], dtype, seed=5)
    kept = copies(grads)
    assert optimiser.step(grads, max_norm=2.0) == fa.optim.clip_grad_norm_(copies(grads), math.inf)
    identical(grads, kept)
    if dtype in (F32, F64):
        clipped = copies(grads)
        fa.optim.clip_grad_norm_(clipped, 2.0)
        fa.optim.SGD(q, lr=0.5).step(clipped)
        for a, b in zip(p, q):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_scale_and_clipping_together():
    p, q = np.ones(50), np.ones(50)
    g = arrays([(50,)], F64)[0]
    one = fa.optim.Adam([p]).step([1024 * g], scale=1024.0, max_norm=0.5)
    assert one == fa.optim.Adam([q]).step([g], max_norm=0.5)
    assert same(p, q)


def test_a_norm_that_is_none():
    for value in (np.inf, np.nan):
        p, g = np.ones(2, F32), np.float32([value, 1])
        norm = fa.optim.SGD([p], lr=1.0).step([g], max_norm=1.0)
        assert not math.isfinite(norm)
        assert np.isnan(p[0])
        assert np.isnan(p[1]) if math.isnan(norm) else p[1] == 1


# ---- what is wrong is said before anything is written

READ_ONLY = np.ones(3)
READ_ONLY.setflags(write=False)


def params():
    return [np.ones((2, 3)), np.ones(4)]


BAD_GRADIENTS = {
    "shorter": (lambda p: [np.ones((2, 3))], ValueError, "1 gradients for 2 parameters"),
    "an array": (lambda p: np.ones((2, 4)), TypeError, "grads must be a list"),
    "nothing": (lambda p: None, TypeError, "grads must be a list"),
    "one is None": (lambda p: [np.ones((2, 3)), None], TypeError, r"grads\[1\] must be an array, not NoneType"),
    "a list": (lambda p: [np.ones((2, 3)), [1.0] * 4], TypeError, r"grads\[1\] must be an array, not list"),
    "integers": (lambda p: [np.ones((2, 3)), np.ones(4, int)], TypeError, r"grads\[1\] is of int64"),
    "complex": (lambda p: [np.ones((2, 3)), np.ones(4, complex)], TypeError, r"grads\[1\] is of complex128"),
    "float32": (
        lambda p: [np.ones((2, 3)), np.ones(4, F32)],
        TypeError,
        r"grads\[1\] is of float32, params\[1\] of float64",
    ),
    "shape": (lambda p: [np.ones((2, 3)), np.ones(5)], ValueError, r"grads\[1\] has shape \(5,\), params\[1\] \(4,\)"),
    "turned": (lambda p: [np.ones((3, 2)), np.ones(4)], ValueError, r"grads\[0\] has shape"),
    "masked": (lambda p: [np.ones((2, 3)), np.ma.masked_array(np.ones(4))], TypeError, r"grads\[1\]: masked"),
    "a parameter": (lambda p: [p[0], np.ones(4)], ValueError, r"grads\[0\] shares memory with params\[0\]"),
    "a part": (
        lambda p: [np.ones((2, 3)), p[0].reshape(-1)[1:5]],
        ValueError,
        r"grads\[1\] shares memory with params\[0\]",
    ),
}


@pytest.mark.parametrize("what", BAD_GRADIENTS)
def test_bad_gradients(what, backend):
    make, error, message = BAD_GRADIENTS[what]
    p = params()
    optimiser = fa.optim.Adam(p)
    optimiser.step([np.ones((2, 3)), np.ones(4)])
    before = everything(optimiser)
    with pytest.raises(error, match=message):
        optimiser.step(make(p))
    identical(everything(optimiser), before)
    assert optimiser.steps == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "Adam: lr must be nonnegative and finite, not -1.0"),
        ({"lr": math.nan}, ValueError, "lr must be"),
        ({"lr": math.inf}, ValueError, "lr must be"),
        ({"lr": "0.1"}, TypeError, "lr must be a number, not '0.1'"),
        ({"lr": True}, TypeError, "lr must be a number"),
        ({"max_norm": -1}, ValueError, "max_norm must be nonnegative"),
        ({"max_norm": math.nan}, ValueError, "max_norm must be nonnegative"),
        ({"max_norm": [1.0]}, TypeError, "max_norm must be a number"),
        ({"scale": 0.0}, ValueError, "scale must be positive and finite"),
        ({"scale": None}, TypeError, "scale must be a number"),
    ],
)
def test_bad_numbers_of_a_step(given, error, message):
    optimiser = fa.optim.Adam(params())
    before = everything(optimiser)
    with pytest.raises(error, match=message):
        optimiser.step([np.ones((2, 3)), np.ones(4)], **given)
    identical(everything(optimiser), before)
    assert optimiser.steps == 0


def test_a_parameter_made_read_only_later():
    p = params()
    optimiser = fa.optim.Adam(p)
    before = everything(optimiser)
    p[1].setflags(write=False)
    with pytest.raises(ValueError, match=r"params\[1\] is read-only"):
        optimiser.step([np.ones((2, 3)), np.ones(4)])
    identical(everything(optimiser), before)


SHARED = np.ones(10)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "params is empty"),
        (np.ones(3), TypeError, "params must be a list of arrays, not ndarray"),
        ([[1.0]], TypeError, r"params\[0\] must be an array, not list"),
        ([np.ones(3), np.ones(3, F32)], TypeError, r"params\[1\] is of float32, params\[0\] of float64"),
        ([np.ones(3, int)], TypeError, r"params\[0\] is of int64"),
        ([np.ones(3), np.ma.masked_array(np.ones(3))], TypeError, r"params\[1\]: masked"),
        ([READ_ONLY], ValueError, r"params\[0\] is read-only"),
        ([SHARED[:5], SHARED[4:]], ValueError, r"params\[1\] shares memory with params\[0\]"),
        (
            [np.lib.stride_tricks.as_strided(SHARED, (3, 3), (8, 8))],
            ValueError,
            r"elements of params\[0\] share memory",
        ),
    ],
)
def test_bad_parameters(given, error, message):
    with pytest.raises(error, match=message):
        fa.optim.Adam(given)


def test_arrays_between_one_another_are_fine():
    memory = np.ones(10)
    fa.optim.SGD([memory[::2], memory[1::2]], lr=1.0).step([np.ones(5), np.full(5, 2.0)])
    assert memory.tolist() == [0.0, -1.0] * 5


@each_name
def test_every_hyperparameter_has_its_domain(name):
    row = ROWS[name]
    for h in row.hypers:
        bad = {bool: [1, None], tuple: [0.9, (0.9,), (0.9, 1.0), (-0.1, 0.9)]}.get(
            type(h.default), [-1.0, math.nan, "x"]
        )
        optimiser = of(name)(params())
        for value in bad:
            with pytest.raises((TypeError, ValueError), match=h.name):
                of(name)(params(), **{h.name: value})
            with pytest.raises((TypeError, ValueError), match=h.name):
                setattr(optimiser, h.name, value)
            if h.name in inspect.signature(function(name)).parameters:
                states = [np.ones(3) for _ in row.rules[0].state]
                p = np.ones(3)
                with pytest.raises((TypeError, ValueError), match=h.name):
                    function(name)(
                        p, np.ones(3), *states, **{**({"step": 1} if row.counts else {}), "lr": 0.1, h.name: value}
                    )
                assert np.all(p == 1)


def test_other_errors():
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'beta1'; did you mean 'betas'"):
        fa.optim.Adam(params(), beta1=0.9)
    with pytest.raises(TypeError, match="use one of SGD, Adam"):
        fa.optim.Optimiser(params())
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        fa.optim.SGD(params(), 0.1, nesterov=True)
    with pytest.raises(ValueError, match="master copies are for float16 and bfloat16"):
        fa.optim.Adam(params(), master=True)
    optimiser = fa.optim.SGD(params(), 0.1)
    with pytest.raises(ValueError, match="make a new optimiser"):
        optimiser.momentum = 0.9
    p, g, m, v = np.ones((4, 3))
    with pytest.raises(TypeError, match="adam_: missing a required"):
        fa.optim.adam_(p, g, m, v, lr=0.1)
    with pytest.raises(ValueError, match="step must be at least 1"):
        fa.optim.adam_(p, g, m, v, step=0, lr=0.1)
    with pytest.raises(ValueError, match="v has shape"):
        fa.optim.adam_(p, g, m, v[:2], step=1, lr=0.1)
    with pytest.raises(ValueError, match="m shares memory with p"):
        fa.optim.adam_(p, g, p, v, step=1, lr=0.1)
    with pytest.raises(ValueError, match="g shares memory with v"):
        fa.optim.adam_(p, v, m, v, step=1, lr=0.1)
    with pytest.raises(TypeError, match="v is of float32"):
        fa.optim.adam_(p, g, m, v.astype(F32), step=1, lr=0.1)
    with pytest.raises(TypeError, match="b must be given"):
        fa.optim.sgd_(p, g, lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="b is for momentum"):
        fa.optim.sgd_(p, g, m, lr=0.1)
    assert np.all(p == 1)
    with pytest.raises(TypeError, match=r"grads\[0\] is of int64"):
        fa.optim.clip_grad_norm_([np.ones(3, int)], 1.0)
    with pytest.raises(ValueError, match=r"grads\[1\] shares memory with grads\[0\]"):
        fa.optim.clip_grad_norm_([p, p], 1.0)


# ---- state


@each_case
def test_state_round_trip(name, case):
    shapes = [(3, 4), (5,), ()]
    p = arrays(shapes, F32)
    optimiser = of(name)(p, **case)
    grads = [arrays(shapes, F32, seed=t) for t in range(6)]
    for g in grads[:3]:
        optimiser.step(g)
    file = io.BytesIO()
    np.savez(file, **optimiser.state_dict())
    file.seek(0)
    q = copies(p)
    other = of(name)(q, **{k: v for k, v in case.items() if k == "momentum"})
    other.load_state_dict(np.load(file))
    assert other.steps == 3
    assert repr(other) == repr(optimiser)
    for g in grads[3:]:
        optimiser.step(g)
        other.step(g)
    identical(everything(other), everything(optimiser))


def test_state_is_copied_and_has_the_master_copies():
    optimiser = fa.optim.Adam([np.ones(3, F16)], master=True)
    state = optimiser.state_dict()
    assert state["master.0"].dtype == F32
    optimiser.step([np.ones(3, F16)])
    assert np.all(state["m.0"] == 0)
    assert all(type(a) is np.ndarray for a in state.values())


def test_bad_state():
    optimiser = fa.optim.Adam(params())
    optimiser.step([np.ones((2, 3)), np.ones(4)])
    good, before = optimiser.state_dict(), everything(optimiser)
    for change, error, message in [
        ({"m.1": np.ones(5)}, ValueError, r"m.1 has shape \(5,\), not \(4,\)"),
        ({"m.1": np.ones(4, F32)}, TypeError, "m.1 is of float32, not float64"),
        ({"m.2": np.ones(4)}, ValueError, "also has m.2"),
        ({"lr": np.array(-1.0)}, ValueError, "lr must be"),
        ({"step": np.array(-1)}, ValueError, "step must not be negative"),
        ({"step": np.array(1.5)}, TypeError, "step must be an integer"),
    ]:
        with pytest.raises(error, match=message):
            optimiser.load_state_dict({**good, **change})
    with pytest.raises(ValueError, match=r"lacks v\.0"):
        optimiser.load_state_dict({k: a for k, a in good.items() if k != "v.0"})
    identical(everything(optimiser), before)
    assert optimiser.steps == 1


def test_learning_rate_of_one_step():
    p, q = np.ones(3), np.ones(3)
    a, b = fa.optim.Adam([p]), fa.optim.Adam([q])
    a.step([np.ones(3)], lr=0.5)
    b.lr = 0.5
    b.step([np.ones(3)])
    assert same(p, q)
    assert (a.lr, b.lr) == (1e-3, 0.5)


# ---- explain, warm-up, pickles, docs


def test_explain_and_warmup():
    optimiser = fa.optim.RMSprop([np.ones(3, F32), np.ones(4, F32)], momentum=0.9)
    with fa.use_backend("reference"):
        text = fa.explain(optimiser)
        assert text.startswith("RMSprop step, 7 elements of float32 in 2 arrays\nbackend: reference")
        assert fa.explain("rmsprop").startswith("RMSprop step, 0 elements of float32\n")
        assert fa.warmup("Adam") == 1
        assert fa.warmup(["SGD", "lion"], dtypes=["float32", "float64"]) == 6
    assert fa.explain(fa.optim.adam_, np.ones(5)).startswith("Adam step, 5 elements of float64")


@each_name
def test_pickle(name):
    assert pickle.loads(pickle.dumps(function(name))) is function(name)
    optimiser = of(name)(arrays([(5,), (2, 2)], F32))
    optimiser.step(arrays([(5,), (2, 2)], F32, seed=1))
    other = pickle.loads(pickle.dumps(optimiser))
    for each in (optimiser, other):
        each.step(arrays([(5,), (2, 2)], F32, seed=2))
    identical(everything(other), everything(optimiser))
    assert (type(other), repr(other), other.steps) == (type(optimiser), repr(optimiser), 2)


def test_kernel_has_no_gradient():
    assert SCALED.state == ()
    with pytest.raises(ValueError, match="do not fit"):
        _driver.Lists(fa.dispatch.make_rule(SCALED), "float64", (np.ones(2),), ((np.ones(2),),), None).run(None, ())


def test_thousands_of_arrays():
    p = [np.full((1 + i % 3, 2), 2.0) for i in range(5000)]
    optimiser = fa.optim.SGD(p, lr=1.0)
    optimiser.step([np.ones(a.shape) for a in p], max_norm=math.inf)
    optimiser.step([np.ones(a.shape, order="F") for a in p])
    assert all(np.all(a == 0) for a in p)
    with pytest.raises(ValueError, match=r"grads\[4999\] shares memory with params\[7\]"):
        optimiser.step([*(np.ones(a.shape, order="F") for a in p[:-1]), p[7]])


def test_a_class_of_ones_own():
    class Mine(fa.optim.SGD):
        """Twice as fast."""

        def step(self, grads, **keywords):
            return super().step(grads, lr=2 * self.lr, **keywords)

    p = np.ones(3)
    Mine([p], lr=0.25).step([np.ones(3)])
    assert p.tolist() == [0.5] * 3
    assert Mine.__doc__ == "Twice as fast."
    assert fa.optim.Optimiser.__doc__.startswith("What the optimisers have in common")
