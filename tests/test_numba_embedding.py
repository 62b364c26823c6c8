"""fastact inside the user's own `@njit`: the same bits as outside, inlined and vectorised."""

from __future__ import annotations

import operator
import os
import pickle
import platform
import re
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
from cases import NAMES, same
from subprocesses import PACKAGE, python

import fastact as fa
from fastact.spec.kinds import kinds_of
from fastact.spec.table import OPS

numba = pytest.importorskip("numba")
if fa.dispatch.reasons()["numba"] is not None:
    pytest.skip(fa.dispatch.reasons()["numba"], allow_module_level=True)

from fastact.integrations import numba_extension  # noqa: E402

numba_extension.init()
njit = numba.njit

DTYPES = (np.float32, np.float64)
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 88.8, -104.0, 3e38, -3e38]


def points(dtype, n=997):
    rng = np.random.default_rng(7)
    x = np.concatenate([SPECIAL, np.linspace(-25, 25, n), rng.standard_normal(n) * 10.0 ** rng.integers(-30, 30, n)])
    return x.astype(dtype)


def method(name, kind):
    return fa.activations[name] if kind == "forward" else getattr(fa.activations[name], kind)


def values(name):
    """A value for each parameter."""
    return {p.name: oracle.TRUTH[name].cases[0][p.name] for p in OPS[name].params}


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_as_outside(name):
    """Every kind, float32 and float64, in a loop over scalars, against the ufunc."""
    f, given = fa.activations[name], tuple(values(name).values())
    # prelu's sums over the weight's gradient
    backward = fa.leaky_relu.backward if name == "prelu" else f.backward
    # where there is none, another function takes its place
    from_output = f.backward_from_output if "backward_from_output" in kinds_of(OPS[name]) else backward
    value_and_grad = f.value_and_grad

    @njit
    def loop(x, dy, y, dx, dx_from_output, value, grad):
        for i in range(x.size):
            y[i] = f(x[i], *given)
            dx[i] = backward(dy[i], x[i], *given)
            dx_from_output[i] = from_output(dy[i], x[i], *given)
            value[i], grad[i] = value_and_grad(x[i], *given)

    for dtype in DTYPES:
        x = points(dtype)
        dy = x[::-1].copy()
        found = [np.empty_like(x) for _ in range(5)]
        loop(x, dy, *found)
        keywords = values(name)
        with np.errstate(all="ignore"):
            if name == "prelu":
                dx = fa.leaky_relu.backward(dy, x, negative_slope=keywords["weight"])
            else:
                dx = f.backward(dy, x, **keywords)
            dx_from_output = dx if from_output is backward else from_output(dy, x, **keywords)
            want = (f(x, **keywords), dx, dx_from_output, *f.value_and_grad(x, **keywords))
        for kind, a, b in zip(("y", "dx", "from output", "value", "grad"), found, want):
            assert same(a, b), (kind, dtype)


@pytest.mark.parametrize("name", [op.name for op in OPS.values() if op.at_default is not None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_defaults_have_the_formulas_that_they_have_outside(name, dtype):
    f = fa.activations[name]
    backward, value_and_grad = f.backward, f.value_and_grad

    @njit
    def run(x):
        y, d = np.empty_like(x), np.empty_like(x)
        for i in range(x.size):
            y[i] = f(x[i])
            d[i] = value_and_grad(x[i])[1]
        return y, d, f(x), backward(x, x), value_and_grad(x)[1]

    x = np.concatenate([points(dtype), dtype([-3, 3])])
    want = (f(x), value_and_grad(x)[1], f(x), backward(x, x), value_and_grad(x)[1])
    for i, (a, b) in enumerate(zip(run(x), want)):
        assert same(a, b), i


@njit
def over_arrays(z, strided, line, cube):
    return (
        fa.gelu(z),
        fa.relu(strided),
        fa.relu(cube),
        fa.elu.backward(z, z, alpha=0.5),
        fa.relu.backward(line, z),
        fa.relu.backward(1.0, strided),
        fa.relu.backward(strided, 2),
        fa.elu(z, 0.5),
        fa.gelu(z, approximate="tanh"),
        fa.relu.value_and_grad(z)[1],
        fa.relu.value_and_grad(strided)[0],
    )


@pytest.mark.parametrize(("dtype", "order"), [(np.float32, "C"), pytest.param(np.float64, "F", marks=pytest.mark.slow)])
def test_arrays(dtype, order):
    """Layouts, broadcasting and keywords."""
    x = points(dtype)[:2000]
    z = np.array(x.reshape(20, 100), order=order)
    strided, line, cube = x[::3], z[3, :].copy(), x.reshape(10, 20, 10).transpose(1, 0, 2)
    want = (
        fa.gelu(z),
        fa.relu(strided),
        fa.relu(cube),
        fa.elu.backward(z, z, alpha=0.5),
        fa.relu.backward(line, z),
        fa.relu.backward(1.0, strided),
        fa.relu.backward(strided, 2),
        fa.elu(z, alpha=0.5),
        fa.gelu(z, approximate="tanh"),
        fa.relu.value_and_grad(z)[1],
        fa.relu.value_and_grad(strided)[0],
    )
    found = over_arrays(z, strided, line, cube)
    for i, (a, b) in enumerate(zip(found, want)):
        assert same(a, b), i
    # the layout of a whole Fortran array is kept, as by a ufunc
    assert found[0].flags.f_contiguous == want[0].flags.f_contiguous


def rows_of(dtype):
    rng = np.random.default_rng(3)
    return (rng.standard_normal((23, 301)) * 5).astype(dtype)


def test_softmax():
    x = rows_of(np.float32)
    run = njit(lambda x, dy: (fa.softmax(x), fa.softmax.backward(dy, fa.softmax(x, axis=-1)), fa.softmax(x[3])))
    y, dx, row = run(x, x[::-1].copy())
    assert same(y, fa.softmax(x))
    assert same(dx, fa.softmax.backward(x[::-1], fa.softmax(x)))
    assert same(row, fa.softmax(x[3]))


LAYOUTS = {
    "transposed": lambda x: x.T,
    "empty": lambda x: x[:, :0],
    "float64": lambda x: x.astype(np.float64),
    "integers": lambda x: x.astype(np.int32),
    "cube": lambda x: x.reshape(23, 7, 43),
    "Fortran": np.asfortranarray,
}


@pytest.mark.parametrize(
    "layout", ["transposed", "empty", *(pytest.param(n, marks=pytest.mark.slow) for n in list(LAYOUTS)[2:])]
)
def test_softmax_of_any_layout_and_type(layout):
    z = LAYOUTS[layout](rows_of(np.float32))
    assert same(njit(lambda x: fa.softmax(x))(z), fa.softmax(z))


# kernels that share a function with softmax, and one that reduces
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["softmin", "logsumexp", *(pytest.param(n, marks=pytest.mark.slow) for n in
                                                            ("softmax", "log_softmax", "sparsemax"))])  # fmt: skip
def test_rows(name, dtype):
    x = rows_of(dtype)
    f = getattr(fa, name)
    found = njit(lambda x: (f(x), f(x[5])))(x)
    assert same(found[0], f(x))
    assert same(dtype(found[1]) if name == "logsumexp" else found[1], f(x[5]))
    if hasattr(f, "backward"):
        y, dy = f(x), x[::-1].copy()
        assert same(njit(lambda dy, y: f.backward(dy, y))(dy, y), f.backward(dy, y))


def test_scalars_and_their_types():
    f = njit(lambda x: (fa.elu(x), fa.elu(x, 0.5), fa.relu(x), fa.gelu.value_and_grad(x)))
    assert f(-1.5) == (fa.elu(-1.5), fa.elu(-1.5, alpha=0.5), 0.0, fa.gelu.value_and_grad(-1.5))
    for given in (np.float32, np.float64, np.int64, np.bool_):
        f(given(1))
        signature = next(s for s in f.nopython_signatures if s.args[0] == numba.typeof(given(1)))
        assert str(signature.return_type[0]) == ("float32" if given is np.float32 else "float64"), given


def test_a_function_as_an_argument():
    apply = njit(lambda f, x: f(x))
    assert apply(fa.relu, -1.0) == 0.0
    assert apply(fa.softsign, 1.0) == 0.5
    assert pickle.loads(pickle.dumps(numba.typeof(fa.elu.backward))) is numba.typeof(fa.elu.backward)


@pytest.mark.parametrize("name", ["elu", "gelu", "mish", "softplus", "tanh"])
def test_fastmath_of_the_caller_changes_no_bit(name):
    f = fa.activations[name]

    @njit(fastmath=True)
    def loop(x, y):
        for i in range(x.size):
            y[i] = f(x[i])
        return f(x), fa.softmax(x)

    x = np.linspace(-25, 25, 20_011, dtype=np.float32)
    y = np.empty_like(x)
    z, softmax = loop(x, y)
    assert same(y, f(x))
    assert same(z, f(x))
    assert same(softmax, fa.softmax(x))


def instructions(function):
    """The assembly of a compiled function's one specialisation, its C wrappers left out."""
    (assembly,) = function.inspect_asm().values()
    body = assembly.split("cpython")[0]
    return body


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks for x86-64 instructions")
@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("name", ["sigmoid", "elu", "gelu", "tanh", "softplus"])
def test_a_users_loop_is_vectorised(name, kind):
    """The arithmetic is done on vectors, and nothing is called for an element."""
    f = method(name, kind)
    if kind == "forward":

        @njit
        def loop(x, y):
            for i in range(x.size):
                y[i] = f(x[i]) * x[i]

    else:

        @njit
        def loop(x, y):
            for i in range(x.size):
                y[i] = f(y[i], x[i])

    x = np.linspace(-5, 5, 1000, dtype=np.float32)
    loop(x, x.copy())
    text = instructions(loop)
    features = numba_extension.host_target().features
    packed = re.findall(r"\bv?(?:add|sub|mul|fn?m(?:add|sub)\d*)ps\b", text)
    assert len(packed) >= 5, "no vector arithmetic"
    if "fma" in features:
        assert re.findall(r"\bvfn?m(?:add|sub)\d+ps\b.*%[yz]mm", text), "no fma of 256 bits or more"
        called = re.findall(r"\b(?:roundevenf?|rintf?|fmaf?|ldexpf?|logbf?|scalbn?f?|copysignf?|expf?|erff?)\b", text)
        assert not called, f"calls {set(called)}"


WIDTH = """
from numba import njit
{init}
import fastact as fa

@njit("(float32[::1], float32[::1])")
def loop(x, y):
    for i in range(x.size):
        y[i] = fa.gelu(x[i])

(assembly,) = loop.inspect_asm().values()
print(assembly.count("%zmm"), assembly.count("%ymm"))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiles for x86-64")
def test_loops_are_as_wide_as_the_cpu_for_intel_too():
    """LLVM's own choice for Intel's CPUs with AVX-512 is 256 bits."""
    features = ",".join(f"+{f}" for f in "sse4.2 avx avx2 fma bmi2 avx512f avx512vl avx512dq avx512bw".split())
    program = WIDTH.format(init=initialise())
    found = python(program, NUMBA_CPU_NAME="skylake-avx512", NUMBA_CPU_FEATURES=features).split()
    wide, narrow = map(int, found)
    assert wide > 10 * narrow


@njit
def several_in_one_loop(x, a, b, c, y):
    for i in range(x.size):
        y[i] = fa.elu(x[i], 0.5) * a[i] + fa.exponential(b[i]) - fa.gelu(c[i]) * x[i] + fa.tanh(x[i] * a[i])


@pytest.mark.parametrize("n", [*range(0, 68), 1000, 4096 + 5])
def test_what_a_loop_holds_in_registers_survives_the_calls(n):
    rng = np.random.default_rng(n)
    x, a, b, c = (3 * rng.standard_normal(n, dtype=np.float32) for _ in range(4))
    y = np.full_like(x, np.nan)
    several_in_one_loop(x, a, b, c, y)
    expected = fa.elu(x, alpha=0.5) * a + fa.exponential(b) - fa.gelu(c) * x + fa.tanh(x * a)
    np.testing.assert_array_equal(y, expected)


@njit
def of_whole_arrays(dy, x):
    value, grad = fa.gelu.value_and_grad(x)
    return fa.gelu(x), fa.elu(x, alpha=0.5), fa.gelu.backward(dy, x), value, grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_length(dtype):
    """Around the kernel's blocks: nothing is left out, and nothing beyond is read into a result."""
    for n in [*range(68), 127, 128, 129, 1000]:
        x = np.linspace(-6, 6, n, dtype=dtype)
        dy = x[::-1].copy()
        want = fa.gelu(x), fa.elu(x, alpha=0.5), fa.gelu.backward(dy, x), *fa.gelu.value_and_grad(x)
        for a, b in zip(of_whole_arrays(dy, x), want, strict=True):
            assert same(a, b), n


@njit
def forward(x):
    return fa.tanh(x)


def test_arrays_of_any_kind():
    record = np.dtype([("byte", "i1"), ("x", "f4")])
    unaligned = np.zeros(37, record)["x"]
    unaligned[:] = points(np.float32)[:37]
    readonly = points(np.float32)[:37].copy()
    readonly.flags.writeable = False
    for x in [np.array(0.5, np.float32), np.arange(-3, 40), np.ones((3, 5), bool), unaligned, readonly,
              np.empty((0, 3), np.float32), points(np.float64)[:60].reshape(3, 4, 5)[:, ::2, ::-1]]:  # fmt: skip
        assert same(np.asarray(forward(x)), np.asarray(fa.tanh(x))), x


def test_prange():
    @njit(parallel=True)
    def run(x):
        y = np.empty_like(x)
        for i in numba.prange(x.size):
            y[i] = fa.silu.backward(x[i], x[i])
        return y, fa.gelu(x)

    x = points(np.float32)
    y, z = run(x)
    assert same(y, fa.silu.backward(x, x))
    assert same(z, fa.gelu(x))


def refused(function, *args):
    """The message without the lines of this file that it quotes, which have the words looked for in them."""
    with pytest.raises(numba.TypingError) as error:
        njit(function)(*args)
    here = {line.strip() for line in Path(__file__).read_text(encoding="utf-8").splitlines()}
    return "\n".join(line for line in str(error.value).splitlines() if line.strip() not in here)


def test_what_is_refused_says_why():
    x = np.ones(3)
    assert "unexpected keyword argument 'beta'" in refused(lambda x: fa.elu(x, beta=2), 1.0)
    assert "alpha must be a number" in refused(lambda x: fa.elu(x, x), x)
    assert "missing a required argument: 'weight'" in refused(lambda x: fa.prelu(x), x)
    assert "leaky_relu.backward" in refused(lambda x: fa.prelu.backward(x, x, 0.5), x)
    # held outside, or given as an argument
    held, biased = fa.prelu.backward, fa.gelu.biased
    assert "prelu.backward takes whole arrays and is not available" in refused(lambda x: held(x, x, 0.5), x)
    assert "gelu.biased takes whole arrays and is not available" in refused(lambda x: biased(x, x), x)
    assert "gelu.biased takes whole arrays and is not available" in refused(lambda f, x: f(x, x), biased, x)
    for name in ("gelu.fused", "gelu.fused_backward", "swiglu", "glu.backward", "dropout", "rrelu.backward"):
        whole = operator.attrgetter(name)(fa)
        assert f"{name} takes whole arrays and is not available" in refused(lambda f, x: f(x, x), whole, x)
    assert "gelu.fused takes whole arrays and is not available" in refused(lambda x: fa.gelu.fused(x), x)
    assert "not a function of its output" in refused(lambda x: fa.gelu.backward_from_output(x, x), x)
    assert "approximate must be" in refused(lambda x: fa.gelu(x, approximate="x"), x)
    assert "complex128" in refused(lambda x: fa.elu(x), 1j)
    assert "the axis is the last one" in refused(lambda x: fa.softmax(x, axis=0), np.ones((2, 2)))
    assert "of one or more dimensions" in refused(lambda x: fa.softmax(x), 1.0)
    with pytest.raises(ValueError, match="shape mismatch"):
        njit(lambda dy, x: fa.elu.backward(dy, x))(x, np.ones(4))


CACHED = """
import numpy as np
import numba
import fastact as fa
{init}

@numba.njit(cache=True)
def f(x):
    total = 0.0
    for v in x:
        total += fa.gelu(v)
    return total, fa.elu.backward(x, x)

x = np.linspace(-3, 3, 101, dtype=np.float32)
total, dx = f(x)
assert dx.tobytes() == fa.elu.backward(x, x).tobytes()
print(sum(f.stats.cache_hits.values()), total)
"""


def test_cache_of_the_callers_function(tmp_path):
    """`cache=True` in the user's function: the second process compiles nothing and computes the same."""
    program = tmp_path / "program.py"
    program.write_text(CACHED.format(init=initialise()))
    code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    first, second = (python(code, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split() for _ in range(2))
    assert first[0] == "0"
    assert second[0] == "1"
    assert first[1] == second[1]


def entry_point_installed():
    from importlib.metadata import distributions

    return any(
        e.group == "numba_extensions" and e.value == "fastact.integrations.numba_extension:init"
        for d in distributions(path=[str(PACKAGE.parent), *sys.path])
        for e in d.entry_points
    )


def initialise():
    """What a program adds where the package is imported from its source tree, which has no entry point."""
    return "" if entry_point_installed() else "from fastact.integrations import numba_extension; numba_extension.init()"


def test_importing_fastact_is_enough():
    """Numba finds the extension by its entry point."""
    if not entry_point_installed():
        project = PACKAGE.parent / "pyproject.toml"
        assert not project.exists() or "fastact.integrations.numba_extension:init" in project.read_text()
        pytest.skip("the entry point is there once fastact is installed")
    code = """
import fastact as fa, numba
print(numba.njit(lambda x: fa.relu(x))(3.0))
"""
    assert python(code).strip() == "3.0"


def test_importing_fastact_imports_no_numba():
    assert python("import sys, fastact; print('numba' in sys.modules)").strip() == "False"
