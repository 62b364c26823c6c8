"""The ahead-of-time kernels of each ISA level this CPU runs, bit for bit against NumPy; the functions for embedding."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType

import calls
import ml_dtypes
import numpy as np
import pytest
import random_oracle
from calls import aligned, launch, launch_rows
from cases import parameters
from modules import load
from oracle import TRUTH
from subprocesses import copied, python

import fastact as fa
from fastact.backends import READY, cython_aot, reference
from fastact.backends.cython_aot import render
from fastact.maths import grammar
from fastact.spec import call as convention
from fastact.spec import kinds, optimisers
from fastact.spec.kernel import KernelSpec, kernel_of, row_kernel_of, row_kernels_of
from fastact.spec.rows import ROWS
from fastact.spec.table import OPS, Op, Param, kernel_rows

GOLDEN = Path(__file__).parent / "golden"
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in render.DTYPES}


def runs_here(level):
    return not cython_aot._missing(level)


@cache
def module(level):
    """The kernels of a level; skips where there are none."""
    if not runs_here(level):
        pytest.skip(f"this CPU has no {', '.join(cython_aot._missing(level))}")
    try:
        return import_module(cython_aot.LEVELS[level][0])
    except ImportError as error:
        pytest.skip(f"not built: {error}")


# 'generic' is what other machines have
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = [level for level in cython_aot.LEVELS if (level != "generic") == X86]
each_level = pytest.mark.parametrize("level", LEVELS)
each_dtype = pytest.mark.parametrize("dtype", list(DTYPES))


def same(a, b):
    """The same bits, or NaN on both sides."""
    bits = f"u{a.itemsize}"
    with np.errstate(invalid="ignore"):
        return ((a.view(bits) == b.view(bits)) | ((a != a) & (b != b))).all()


def points(dtype, n=4096, seed=0):
    """Any bit patterns, numbers around 1, and the special ones."""
    rng = np.random.default_rng(seed)
    info = ml_dtypes.finfo(dtype)
    magnitudes = [0.0, float(info.smallest_subnormal), float(info.tiny), 1.0, float(info.max), np.inf]
    special = [np.nan, *magnitudes, *(-m for m in magnitudes)]
    x = np.empty(n, dtype)
    x.view(np.uint8)[:] = rng.integers(0, 256, x.nbytes, np.uint8)
    x[::2] = rng.normal(0, 4, n // 2).astype(dtype)
    x[rng.permutation(n)[: len(special)]] = special
    return x


def test_the_struct(compiler, tmp_path):
    """fastact/spec/call.py and the tests' own struct are that of call.h."""
    names = {"data": "DATA", "row_step": "ROW_STEP", "step": "STEP", "n": "COLS"}
    fields = {name: names.get(name, name.upper()) for name, _ in calls.Call._fields_}
    checks = [f"offsetof(fastact_call, {name}) == {getattr(convention, c)}" for name, c in fields.items()]
    checks += [f"FASTACT_{c} == {getattr(convention, c)}" for c in ("ARGS", "STREAM", "VALUE_ONLY", "CAUSAL")]
    checks.append(f"sizeof(fastact_call) == {convention.BYTES}")
    source = '#include <stddef.h>\n#include "call.h"\n' + "".join(f'_Static_assert({c}, "{c}");\n' for c in checks)
    (tmp_path / "call.c").write_text(source)
    folder = Path(fa.__file__).parent / "runtime"
    subprocess.run([*compiler, "-std=c11", "-c", "call.c", f"-I{folder}"], cwd=tmp_path, check=True, timeout=60)
    assert ctypes.sizeof(calls.Call) == convention.BYTES
    for name, c in fields.items():
        assert getattr(calls.Call, name).offset == getattr(convention, c)


@pytest.fixture(scope="module")
def compiler():
    command = sysconfig.get_config_var("CC").split()
    if shutil.which(command[0]) is None:
        pytest.skip("no C compiler")
    return command


def test_every_kernel_is_there():
    for level in cython_aot.LEVELS:
        if runs_here(level):
            found = module(level)
            break
    for op in kernel_rows():
        for kind in kinds.ALL:
            for dtype in DTYPES:
                there = found.address(f"{op.name}_{kind}", dtype) is not None
                assert there == (kind in kinds.kernels_of(op))
    for name in [spec.name for row in ROWS for spec in row_kernels_of(row, "float32")]:
        for dtype in DTYPES:
            assert (found.address(name, dtype) is not None) == (dtype in ("float32", "float64"))
    assert found.address("relu_sideways", "float32") is None


@each_level
@each_dtype
@pytest.mark.parametrize("name", [name for name in OPS if name in TRUTH])
def test_bits(name, dtype, level):
    """All kinds, in every mode of the calling convention, against the formulas over NumPy arrays."""
    kernels, op = module(level), OPS[name]
    for case in TRUTH[name].cases:
        values = {p.name: p.default for p in op.params} | parameters(name, case)
        params = [DTYPES[dtype].type(v) for v in values.values()]
        for kind in kinds.kernels_of(op):
            spec = kernel_of(op, kind, dtype)
            nin, nout = len(spec.inputs), len(spec.outputs)
            inputs = [points(DTYPES[dtype], seed=i) for i in range(nin)]
            full = [np.full(inputs[0].shape, p) for p in params]
            expected = reference.kernel(spec)(*inputs, *full)
            address = kernels.address(spec.name, dtype)
            got = launch(address, inputs, params, nout)
            others = {
                "streamed": launch(address, inputs, params, nout, flags=convention.STREAM),
                "elementwise parameters": launch(address, inputs, full, nout),
                "one of the parameters elementwise": launch(address, inputs, [*full[:1], *params[1:]], nout),
                "rows": launch(address, *([*map(rows_apart, a)] for a in (inputs, params)), nout),
                "rows of parameters": launch(address, *([*map(rows_apart, a)] for a in (inputs, full)), nout),
            }
            for i in range(nin):
                copies = [a.copy() for a in inputs]
                launch(address, copies, params, nout, outputs=[copies[i], got[-1].copy()][:nout])
                assert same(copies[i], got[0]), (kind, "in place")
            for i, (e, g) in enumerate(zip(expected, got, strict=True)):
                assert same(g, np.asarray(e)), (kind, values, mismatch(inputs, g, np.asarray(e)))
                for mode, outputs in others.items():
                    assert same(outputs[i].ravel(), g), (kind, mode)


def rows_apart(a):
    """The elements of an array as 8 rows, with as much room between them that is not to be read; a number as it is."""
    if np.ndim(a) == 0:
        return a
    room = np.full((8, 2, a.size // 8), np.nan, a.dtype)
    room[:, 0] = a.reshape(8, -1)
    return room[:, 0]


def mismatch(inputs, got, expected):
    bits = f"u{got.itemsize}"
    i = np.flatnonzero((got.view(bits) != expected.view(bits)) & ~((got != got) & (expected != expected)))[0]
    return [float(a[i]) for a in inputs], float(got[i]), float(expected[i])


# ---- row kernels

LENGTHS = [*range(1, 70), 127, 513, 2049, 66000]


def rows_of(n, dtype, seed):
    """Three rows: plain ones, one with a NaN, one with infinities and a tie for the greatest."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(4, n)) * rng.choice([1, 30, 3000])).astype(dtype)
    x[1, rng.integers(n)] = np.nan
    x[2, rng.integers(n)] = -np.inf
    x[3, rng.integers(n)] = x[3].max()
    return x


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax", "sparsemax", "logsumexp"])
def test_rows(name, dtype, level):
    address = module(level).address(name, dtype)
    for n in LENGTHS:
        if name == "sparsemax" and n > 5000:
            continue
        x = rows_of(n, dtype, n)
        with np.errstate(all="ignore"):
            expected = np.asarray(reference.kernel(row_kernel_of(name, dtype))(x), dtype)
        for flags in (0, 1):
            y = aligned(expected.size, np.dtype(dtype)).reshape(expected.shape)
            launch_rows(address, [x, y], len(x), n, flags=flags)
            assert same(y, expected), (n, flags)


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax", "sparsemax"])
def test_rows_backward(name, dtype, level):
    address = module(level).address(f"{name}_backward", dtype)
    for n in LENGTHS:
        if name == "sparsemax" and n > 5000:
            continue
        dy = rows_of(n, dtype, n + 1)
        with np.errstate(all="ignore"):
            y = np.ascontiguousarray(reference.kernel(row_kernel_of(name, dtype))(rows_of(n, dtype, n)), dtype)
            expected = np.asarray(reference.kernel(row_kernel_of(f"{name}_backward", dtype))(dy, y), dtype)
        dx = np.full_like(dy, np.nan)
        launch_rows(address, [dy, y, dx], len(dy), n)
        assert same(dx, expected), n


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms(name, dtype, level):
    """Values, statistics and gradients, one block of rows: its sums are pairs."""
    address, rows = module(level).address, 13
    spec, back = row_kernel_of(name, dtype), row_kernel_of(f"{name}_backward", dtype)
    for n in (1, 2, 7, 16, 17, 63, 100, 512, 513, 1000, 70_000):
        rng = np.random.default_rng(n)
        x, dy = (rng.normal(3, 2, (rows, n)).astype(dtype) for _ in range(2))
        x[1, n // 2], x[2], dy[3, 0] = np.nan, 0.1, np.inf
        columns = [rng.random(n).astype(dtype) for _ in spec.inputs[1:]]
        want, got = (
            [np.full((rows, n), np.nan, dtype), *np.full((len(spec.outputs) - 1, rows), np.nan, dtype)]
            for _ in range(2)
        )
        reference.kernel(spec)(x, *columns, *want, 1e-5)
        given = [dy, x, columns[0], *want[1:]]
        want_dx, sums = np.full((rows, n), np.nan, dtype), [np.full(n, np.nan, dtype) for _ in back.outputs[1:]]
        reference.kernel(back)(*given, want_dx, *sums)
        for flags in (0, 1):
            launch_rows(address(name, dtype), [x, *columns, *got], rows, n, (1e-5,), flags)
            assert all(same(a, b) for a, b in zip(got, want)), (n, flags)
            dx, pairs = aligned(rows * n, np.dtype(dtype)).reshape(rows, n), [np.zeros((2, n), dtype) for _ in sums]
            launch_rows(address(back.name, dtype), [*given, dx, *pairs], rows, n, flags=flags)
            assert same(dx, want_dx), (n, flags)
            with np.errstate(all="ignore"):
                for (high, low), total in zip(pairs, sums):
                    assert same(np.where(np.isfinite(high), high + low, high), total), (n, flags)


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses(dtype, level):
    def buffers():
        return np.full(4, np.nan, dtype), np.full((4, n), np.nan, dtype), np.full((4, n), np.nan, dtype)

    address = module(level).address
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x, targets, weights = rows_of(n, dtype, n), rng.random((4, n)).astype(dtype), rng.random(n).astype(dtype)
        labels = rng.integers(-1, n, 4)
        for given in (None, weights):
            for scalars in ((0.25, 0.0, 0.0), (0.25, 0.1, 0.0), (0.25, 0.0, 1e-3), (0.25, 1.0, 0.5)):
                (loss, dx, _), (want_loss, want_dx, _) = buffers(), buffers()
                reference.kernel(row_kernel_of("cross_entropy", dtype))(x, labels, given, want_loss, want_dx, *scalars)
                launch_rows(address("cross_entropy", dtype), [x, labels, given, loss, dx], 4, n, scalars)
                assert same(loss, want_loss) and same(dx, want_dx), (n, scalars)
        for scalars in ((0.25, 0.0), (0.25, 1e-3)):
            (loss, dx, _), (want_loss, want_dx, _) = buffers(), buffers()
            reference.kernel(row_kernel_of("cross_entropy_of_shares", dtype))(x, targets, want_loss, want_dx, *scalars)
            launch_rows(address("cross_entropy_of_shares", dtype), [x, targets, loss, dx], 4, n, scalars)
            assert same(loss, want_loss) and same(dx, want_dx), n
        (loss, dx, each), (want_loss, want_dx, want_each) = buffers(), buffers()
        kernel = reference.kernel(row_kernel_of("sigmoid_cross_entropy", dtype))
        kernel(x, targets, None, None, want_loss, want_dx, want_each, 0.25)
        launch_rows(address("sigmoid_cross_entropy", dtype), [x, targets, None, None, loss, dx, each], 4, n)
        assert same(loss, want_loss) and same(dx, want_dx) and same(each, want_each), n


# ---- the primitives, by formulas of the golden file, compiled here


@cache
def golden_ops():
    """The formulas of one value as activations of x and parameters."""
    module = load(GOLDEN / "formulas.py")
    return [
        Op(name, *[getattr(module, name)] * 2, params=tuple(Param(f"p{i}", None) for i in range(1, len(f.parameters))))
        for name, f in grammar.parse(GOLDEN / "formulas.py").items()
        if f.results == 1
    ]


@pytest.fixture(scope="module")
def build(tmp_path_factory, compiler):
    """Compiles the text of a module of kernels for every level; gives the modules by level."""
    pytest.importorskip("Cython")
    setuptools = pytest.importorskip("setuptools")
    build_aot = load(Path(render.__file__).with_name("build.py"))
    folder = tmp_path_factory.mktemp("aot")

    formulas = grammar.parse(GOLDEN / "formulas.py")
    specs = [spec for op in golden_ops() for spec in [kernel_of(op, "forward", dtype) for dtype in DTYPES]]
    text = render.render_module(specs, {"f32": formulas, "f64": formulas})
    (folder / "_aot.pyx").write_text(text, encoding="utf-8")
    # everywhere, and so on x86-64 too: the one-lane vectors, which the other levels do not use
    levels = build_aot.levels() | {"_aot_generic": build_aot.FLAGS}
    build_aot.levels = lambda: levels
    extensions = build_aot.level_extensions(folder, "")
    distribution = setuptools.Distribution({"ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    return folder


@pytest.mark.parametrize("level", list(cython_aot.LEVELS))
@each_dtype
def test_primitives(build, level, dtype):
    if not runs_here(level):
        pytest.skip(f"this CPU has no {', '.join(cython_aot._missing(level))}")
    name = cython_aot.LEVELS[level][0].rpartition(".")[2]
    files = list(build.glob(f"{name}.*.so"))
    if not files:
        pytest.skip(f"the compiler built no {level}")
    spec = spec_from_file_location(name, files[0])
    kernels = module_from_spec(spec)
    spec.loader.exec_module(kernels)
    compute = "float64" if dtype == "float64" else "float32"
    own = golden_ops()[0].forward.__globals__
    env = {"__builtins__": {}} | reference.primitives(compute)
    env |= {n: FunctionType(own[n].__code__, env, n) for n in grammar.parse(GOLDEN / "formulas.py")}
    for op in golden_ops():
        address = kernels.address(f"{op.name}_forward", dtype)
        x, *params = hard_points(op.name, DTYPES[dtype], 1 + len(op.params))
        with np.errstate(all="ignore"):
            expected = env[op.name](*(a.astype(compute) for a in (x, *params)))
            expected = np.asarray(expected, compute).astype(DTYPES[dtype])
        (got,) = launch(address, [x], params, 1)
        assert same(got, expected), (op.name, mismatch([x, *params], got, expected))


def hard_points(op, dtype, count):
    """Arguments for a primitive: any bits, and where its rounding is hard."""
    rng = np.random.default_rng(1)
    n = 1 << 16
    x, *rest = (points(dtype, n, seed=i) for i in range(count))
    info = ml_dtypes.finfo(dtype)
    if op == "scalb_of":
        # results around the smallest normal number and the largest, from every magnitude
        reach = 2 * info.maxexp - 2 * info.minexp
        with np.errstate(invalid="ignore"):
            wider = x.astype(np.float64)
        exponent = np.frexp(np.where(np.isfinite(wider), wider, 1.0))[1]
        edge = np.where(rng.random(n) < 0.5, info.minexp - rng.integers(-3, info.nmant + 3, n), info.maxexp)
        near = edge - exponent + rng.integers(-2, 3, n)
        wide = rng.integers(-reach, reach + 1, n)
        return [x, np.where(rng.random(n) < 0.5, near, wide).astype(dtype)]
    if op == "fma_of":
        y, z = rest
        bits = info.nmant + 1
        with np.errstate(all="ignore"):
            # a·b + c where c cancels most of it
            a, b = (rng.integers(1, 1 << bits, n).astype(dtype) for _ in range(2))
            product = (a * b).astype(dtype)
            c = (product.astype(np.float64) * (rng.integers(-3, 4, n) * float(info.eps) - 1)).astype(dtype)
            # a·b half way between two numbers, c too small for anything but the tie
            half = bits // 2 + 1
            odd_a, odd_b = (rng.integers(3 << (k - 2), 1 << k, n) | 1 for k in (half, bits + 1 - half))
            tie = rng.random(n) < 0.5
            a, b = np.where(tie, odd_a.astype(dtype), a), np.where(tie, odd_b.astype(dtype), b)
            sign = rng.choice([-1.0, 1.0], n)
            c = np.where(tie, np.ldexp(sign, bits - rng.integers(2, 80, n)).astype(dtype), c)
            scale = np.ldexp(1.0, rng.integers(-20, 20, n)).astype(dtype)
            a, c = a * scale, c * scale
        any_bits = rng.random(n) < 0.3
        return [np.where(any_bits, u, v).astype(dtype) for u, v in ((x, a), (y, b), (z, c))]
    return [x, *rest]


@each_level
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_to_float32_and_back(level, dtype):
    patterns = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    (got,) = launch(module(level).address("identity_forward", dtype), [patterns], [], 1)
    assert same(got, patterns)


# ---- the choice of a level


@each_level
def test_level_can_be_forced(level):
    module(level)
    code = (
        "import numpy as np, fastact as fa\n"
        "fa.use_backend('cython')\n"
        "from fastact.backends import cython_aot\n"
        "print(cython_aot.isa(), fa.elu(np.float32([-1, 2])))"
    )
    assert python(code, FASTACT_AOT_LEVEL=level).strip() == f"{level} [-0.63212055  2.        ]"


def test_unknown_level_is_a_reason():
    code = "from fastact.backends import cython_aot; print(cython_aot.available())"
    assert "'x86-64-v9' is none of" in python(code, FASTACT_AOT_LEVEL="x86-64-v9")


def test_missing_feature_is_a_reason(monkeypatch):
    monkeypatch.setitem(cython_aot.LEVELS, "x86-64-v4", ("fastact.backends.cython_aot._aot_v4", ("NO_SUCH_FEATURE",)))
    monkeypatch.setenv("FASTACT_AOT_LEVEL", "x86-64-v4")
    cython_aot._choose.cache_clear()
    try:
        assert cython_aot.available() == "x86-64-v4: this CPU has no NO_SUCH_FEATURE"
        with pytest.raises(RuntimeError, match="NO_SUCH_FEATURE"):
            cython_aot.isa()
    finally:
        cython_aot._choose.cache_clear()


def test_module_that_was_not_built_is_a_reason(monkeypatch):
    monkeypatch.setattr(cython_aot, "LEVELS", {"generic": ("fastact._aot_absent", ())})
    cython_aot._choose.cache_clear()
    try:
        assert "not built" in cython_aot.available()
    finally:
        cython_aot._choose.cache_clear()


def test_state():
    spec = row_kernel_of("softmax", "float32")
    unknown = KernelSpec("relu_sideways", "float32", "map", (), (), ())
    if cython_aot.available() is not None:
        assert cython_aot.state(spec).why_not == cython_aot.available()
        return
    assert cython_aot.state(spec) == READY
    assert cython_aot.state(unknown).why_not == "not built ahead of time"
    with pytest.raises(KeyError, match="relu_sideways_float32 was not built ahead of time"):
        cython_aot.kernel(unknown)


# ---- what the modules were built from


@pytest.fixture(params=["in place", "wheel"])
def built(request, tmp_path):
    """A copy of the package with the stamp of a build of that sort."""
    if cython_aot.available() is not None:
        pytest.skip(cython_aot.available())
    package = copied(tmp_path)
    files = {path: path.stat() for path in render.source_files(package)}
    stamp = {
        "sources": render.source_hash(package),
        "files": {
            path.relative_to(package).as_posix(): [s.st_size, s.st_mtime_ns if request.param == "in place" else None]
            for path, s in files.items()
        },
    }
    (package / "backends/cython_aot/_aot_stamp.json").write_text(json.dumps(stamp))
    if request.param == "wheel":
        for path in package.rglob("*"):
            os.utime(path)
    return package


def report(package):
    """Why the kernels of a package are not available, or 'None'; and whether that took the hash of its sources."""
    code = """
import sys
from fastact.backends import cython_aot
print(cython_aot.available())
print("fastact.backends.cython_aot.render" in sys.modules)
"""
    reason, hashed = python(code, path=package.parent).splitlines()
    return reason, hashed == "True"


def edit(path, *, same_size=False, later=0.0):
    """Another constant in a formula."""
    old = path.read_text(encoding="utf-8")
    new = old.replace("0.5", "0.7", 1) if same_size else old + "\n# edited\n"
    assert new != old
    path.write_text(new, encoding="utf-8")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + later))


def test_sources_as_built_are_not_read(built):
    assert report(built) == ("None", False)


def test_touched_sources_are_read_and_found_unchanged(built):
    os.utime(built / "maths/activations.py", (2e9, 2e9))
    assert report(built) == ("None", True)


@pytest.mark.parametrize(
    "file",
    ["maths/activations.py", "maths/elementary/float64.py", "maths/grammar.py", "spec/kinds.py", "spec/table.py"]
    + ["spec/call.py", "loops/sums.py", "loops/parts.py", "runtime/call.h"]
    + [f"backends/cython_aot/{name}" for name in ("simd.h", "rows.h", "render.py", "render_rows.py", "build.py")],
)
def test_edited_sources_make_the_kernels_stale(built, file):
    edit(built / file)
    reason, _ = report(built)
    assert "built from other formulas" in reason
    done = python("import fastact as fa; fa.relu(1.0)", path=built.parent, FASTACT_BACKEND="cython", check=False)
    assert done.returncode != 0
    assert "RuntimeError: backend 'cython' is not available" in done.stderr and "build again" in done.stderr


def test_an_edit_that_keeps_the_size(built):
    # a wheel's files were written moments ago; an edit comes after the installation
    edit(built / "maths/activations.py", same_size=True, later=10.0)
    assert "built from other formulas" in report(built)[0]


@pytest.mark.parametrize("stamp", [None, "", "{}", '{"sources": 1', '{"sources": "0", "files": {}}', "[]"])
def test_without_a_good_stamp_the_sources_are_read(built, stamp):
    if stamp is None:
        (built / "backends/cython_aot/_aot_stamp.json").unlink()
    else:
        (built / "backends/cython_aot/_aot_stamp.json").write_text(stamp)
    assert report(built) == ("None", True)
    edit(built / "maths/activations.py")
    assert "built from other formulas" in report(built)[0]


def test_this_build_left_a_stamp():
    """Without one every first call would read and hash the sources."""
    if cython_aot.available() is not None:
        pytest.skip(cython_aot.available())
    stamp = json.loads((Path(render.__file__).with_name("_aot_stamp.json")).read_text())
    assert list(stamp["files"]) == [
        path.relative_to(Path(fa.__file__).parent).as_posix() for path in render.source_files(Path(fa.__file__).parent)
    ]


def test_the_first_call_imports_the_kernels_alone():
    if cython_aot.available() is not None:
        pytest.skip(cython_aot.available())
    code = """
import sys
import numpy as np, fastact as fa
x = np.ones(16, np.float32)
before = set(sys.modules)
fa.gelu(x)
print(*(set(sys.modules) - before))
"""
    # Cython enters a module under the name it was translated with, too
    name = cython_aot._choose()[0].__name__
    assert set(python(code, FASTACT_BACKEND="cython").split()) <= {name, name.rpartition(".")[0] + "._aot"}


# ---- embedding


@pytest.fixture(scope="module")
def embed():
    if cython_aot.available() is not None:
        pytest.skip(cython_aot.available())
    return import_module("fastact.backends.cython_aot._embed")


def call(embed, name, dtype):
    """An embedded function as a Python function of arrays (None: NULL) and numbers."""
    types = {"float": ctypes.c_float, "double": ctypes.c_double, "ptrdiff_t": ctypes.c_ssize_t}
    types |= {"uint64_t": ctypes.c_uint64, "int64_t": ctypes.c_int64}
    arguments = embed.signature(name, dtype).split(", ")
    arguments = [ctypes.c_void_p if "*" in a else types[a.split()[0]] for a in arguments]
    function = ctypes.CFUNCTYPE(None, *arguments)(embed.address(name, dtype))
    return lambda arrays, *numbers: function(*(a if a is None else a.ctypes.data for a in arrays), *numbers)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in OPS if name in TRUTH])
def test_embedded_functions(embed, name, dtype):
    op, case = OPS[name], TRUTH[name].cases[-1]
    params = [float(v) for v in ({p.name: p.default for p in op.params} | parameters(name, case)).values()]
    for kind in kinds.kinds_of(op):
        spec = kernel_of(op, kind, dtype)
        function = call(embed, spec.name, dtype)
        for n in (0, 1, 15, 16, 17, 67):
            inputs = [points(DTYPES[dtype], 68, seed=i)[1 : n + 1] for i in range(len(spec.inputs))]
            outputs = [np.full(n + 2, 7.0, dtype) for _ in spec.outputs]
            function([*inputs, *(o[1 : n + 1] for o in outputs)], n, *params)
            exact = [np.full(n, p, dtype) for p in params]
            for got, expected in zip(outputs, reference.kernel(spec)(*inputs, *exact), strict=True):
                assert same(got[1 : n + 1], np.asarray(expected))
                assert got[0] == got[-1] == 7.0


def poisoned(*shape, dtype):
    """Memory with a margin, which nothing may be written to."""
    whole = np.full(int(np.prod(shape)) + 2, 7.0, dtype)
    return whole, whole[1:-1].reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if not row.scalars and all(a.role == "map" for a in row.inputs)]
)
def test_embedded_rows(embed, name, dtype):
    spec = row_kernel_of(name, dtype)
    function, expected = call(embed, spec.name, dtype), reference.kernel(spec)
    for n in (1, 5, 16, 67, 700):
        inputs = [rows_of(n, dtype, n + i) for i in range(len(spec.inputs))]
        with np.errstate(all="ignore"):
            want = np.asarray(expected(*inputs), dtype)
        whole, out = poisoned(*want.shape, dtype=dtype)
        function([*inputs, out], 4, n)
        assert same(out, want) and whole[0] == whole[-1] == 7.0
    function([*inputs, out], 0, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value_only", [False, True])
# shares in the kernel's memory, rows side by side, rows alone, a row of more than the function's own memory
@pytest.mark.parametrize("n", [3, 100, 256, 600, 10_000])
def test_embedded_losses(embed, n, value_only, dtype):
    rng, rows = np.random.default_rng(n), 37
    x = np.concatenate([rows_of(n, dtype, seed) for seed in range(10)])[:rows]
    targets, weights = rng.random((rows, n)).astype(dtype), rng.random((rows, n)).astype(dtype)
    labels = rng.integers(-1, n, rows)

    def check(name, inputs, outputs):
        """`outputs`: shapes, None where there is none."""
        spec = row_kernel_of(name, dtype)
        want = [None if shape is None else np.full(shape, np.nan, dtype) for shape in outputs]
        scalars = (0.25, 0.1, 1e-3)[: len(ROWS[name].scalars)]
        reference.kernel(spec)(*inputs, *want, *scalars)
        made = [(None, None) if shape is None else poisoned(*shape, dtype=dtype) for shape in outputs]
        call(embed, spec.name, dtype)([*inputs, *(out for _, out in made)], rows, n, *scalars)
        for expected, (whole, out) in zip(want, made):
            assert expected is None or (same(out, expected) and whole[0] == whole[-1] == 7.0)

    dx = None if value_only else (rows, n)
    for given in (None, weights[0]):
        check("cross_entropy", [x, labels, given], [(rows,), dx])
    check("cross_entropy_of_shares", [x, targets], [(rows,), dx])
    for given in ([None, None], [weights, None], [None, targets], [weights, targets]):
        check("sigmoid_cross_entropy", [x, targets, *given], [(rows,), dx, None])
    check("sigmoid_cross_entropy", [x, targets, None, None], [(rows,), dx, (rows, n)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 67, 1100])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_embedded_norms(embed, name, n, dtype):
    spec, rng = row_kernel_of(name, dtype), np.random.default_rng(n)
    columns = [rng.random(n).astype(dtype) for _ in spec.inputs[1:]]
    x = np.concatenate([rows_of(n, dtype, seed) for seed in range(5)])[:19]
    for keep in (True, False):
        shapes = [x.shape, *((19,) if keep else None for _ in spec.outputs[1:])]
        want = [None if shape is None else np.full(shape, np.nan, dtype) for shape in shapes]
        reference.kernel(spec)(x, *columns, *want, 1e-5)
        made = [(None, None) if shape is None else poisoned(*shape, dtype=dtype) for shape in shapes]
        call(embed, spec.name, dtype)([x, *columns, *(out for _, out in made)], 19, n, 1e-5)
        for expected, (whole, out) in zip(want, made):
            assert expected is None or (same(out, expected) and whole[0] == whole[-1] == 7.0)
        if keep:
            # once more, from statistics
            whole, out = poisoned(*x.shape, dtype=dtype)
            call(embed, f"{name}_apply", dtype)([x, *columns, *want[1:], out], 19, n)
            assert same(out, want[0]) and whole[0] == whole[-1] == 7.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_embedded_norm_gradients(embed, name, dtype):
    """The same bits as from Python, sums over blocks of rows included."""
    norm, function = getattr(fa, name), call(embed, f"{name}_backward", dtype)
    for rows, n in ((1, 1), (3, 5), (63, 17), (64, 100), (65, 1100), (300, 33), (1000, 7), (0, 4), (4, 0)):
        rng = np.random.default_rng((rows, n))
        dy, x = (rng.normal(1, 3, (rows, n)).astype(dtype) for _ in range(2))
        if rows > 100:
            x[7, 3] = np.inf
        columns = [rng.random(n).astype(dtype) for _ in norm.columns]
        stats = norm.forward(x, *columns)[1]
        dx, *sums = (a for a in norm.backward(dy, x, stats, *columns) if a is not None)
        given = [dy, x, columns[0], *np.atleast_2d(stats)]
        made = [poisoned(*a.shape, dtype=dtype) for a in (dx, *sums)]
        work, memory = poisoned(4 * len(sums) * n, dtype=dtype)
        function([*given, *(out for _, out in made), memory], rows, n)
        assert work[0] == work[-1] == 7.0
        for (whole, out), want in zip(made, (dx, *sums)):
            assert same(out, want) and whole[0] == whole[-1] == 7.0, (rows, n)
        # in place, and without sums
        copy = dy.copy()
        function([copy, *given[1:], copy, *(None for _ in sums), memory], rows, n)
        assert same(copy, dx)


def hypers_of(row):
    """Values of hyperparameters that lead to each rule of an optimiser, and others than the defaults."""
    own = {h.name for h in row.hypers}
    more = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "eps": 1e-6, "keras": True, "lr_decay": 0.1}
    tried = [{}, {"momentum": 0.5}, more, more | {"keras": False, "nesterov": False}]
    return [{name: value for name, value in case.items() if name in own} for case in tried]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", optimisers.ROWS)
def test_embedded_steps(embed, name, dtype):
    """Three steps of each rule, with the numbers of its table: the same bits as from Python."""
    row, met = optimisers.ROWS[name], set()
    for hypers in hypers_of(row):
        values = {h.name: h.default for h in row.hypers} | {"keras": False} | hypers
        rule = row.rule(values)
        met.add(rule)
        function = call(embed, rule.name, dtype)
        for n in (1, 15, 16, 67, 1000):
            rng = np.random.default_rng(n)
            p = rng.normal(size=n).astype(dtype)
            optimiser = getattr(fa.optim, name)([p.copy()], **hypers)
            own = [poisoned(n, dtype=dtype) for _ in range(1 + len(rule.state))]
            own[0][1][:] = p
            for (_, a), kept in zip(own[1:], rule.state):
                a[:] = optimiser.state[kept][0]
            for step in (1, 2, 3):
                g = rng.normal(size=n).astype(dtype)
                before = g.copy()
                optimiser.step([g], scale=4.0)
                function([own[0][1], g, *(a for _, a in own[1:])], n, 0.25, *rule.numbers(values, step))
                assert same(g, before) and all(whole[0] == whole[-1] == 7.0 for whole, _ in own)
                for (_, a), want in zip(own, [optimiser.params, *(optimiser.state[kept] for kept in rule.state)]):
                    assert same(a, want[0]), (rule.name, n, step)
    assert met == set(row.rules)
    whole, g = poisoned(67, dtype=dtype)
    g[:] = points(DTYPES[dtype], 68)[:67]
    want = (np.dtype(dtype).type(0.1) * g).astype(dtype)
    call(embed, optimisers.SCALED.name, dtype)([g], 67, 0.1)
    assert same(g, want) and whole[0] == whole[-1] == 7.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embedded_random_numbers(embed, dtype):
    """Any part of a stream by itself: numbers as in the paper, dropout with the bits of Python's."""
    x = np.random.default_rng(0).normal(size=1500).astype(dtype)
    x[40:43] = np.nan, np.inf, -0.0
    dropout, backward, random = (call(embed, f, dtype) for f in ("dropout", "dropout_backward", "random"))
    for seed, offset in ((3, 0), (2**64 - 1, 5), (7 << 40, 2**64 - 100), (0, 2**32 - 50)):
        numbers = random_oracle.numbers(seed, offset, x.size).astype(dtype)
        for first, n in ((0, 1500), (0, 1), (1, 2), (2, 130), (3, 1), (5, 0), (127, 129), (130, 1000), (1001, 499)):
            whole, out = poisoned(n, dtype=dtype)
            random([out], n, seed, offset, first)
            assert same(out, numbers[first : first + n]) and whole[0] == whole[-1] == 7.0
            for p in (0.0, 0.1, 0.5, 1 - 2**-30):
                want = fa.dropout(x, p, seed=seed, offset=offset)[first : first + n]
                dropout([x[first : first + n], out], n, p, seed, offset, first)
                assert same(out, want) and whole[0] == whole[-1] == 7.0
                out[:] = x[first : first + n]
                backward([out, out], n, p, seed, offset, first)
                assert same(out, want)


def test_every_kernel_is_embedded(embed):
    """In float32 and float64, but forms of kernels over rows; what is in fastact.h is what has an address."""
    names = [*ROWS, *(rule.name for rule in optimisers.rules()), *render.RANDOM]
    names += [f"{op}_{kind}" for op in OPS for kind in kinds.kinds_of(OPS[op])]
    assert all(embed.address(name, dtype) for name in names for dtype in ("float32", "float64"))
    header = (Path(fa.get_include()) / "fastact.h").read_text(encoding="utf-8")
    assert set(embed.capsules()) == set(re.findall(r"^FASTACT_POINTER void \(\*fastact_(\w+)\)", header, re.MULTILINE))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["relu", "gelu", "elu", "clipped_linear", "prelu"])
def test_embedded_fused(embed, name, dtype):
    """With a bias and as a gate: the same bits as from Python, sums included."""
    activation, op = fa.activations[name], OPS[name]
    params = {p.name: np.dtype(dtype).type(v) for p, v in zip(op.params, (0.75, 0.125, -0.5, 2.0))}

    def check(kind, shape, *inputs):
        want = getattr(activation, kind)(*inputs, **params)
        want = want if isinstance(want, tuple) else (want,)
        made = [poisoned(*w.shape, dtype=dtype) for w in want]
        arrays = [*inputs, *(out for _, out in made)]
        numbers = shape if len(embed.signature(f"{name}_{kind}", dtype).split("ptrdiff_t")) == 3 else [inputs[0].size]
        call(embed, f"{name}_{kind}", dtype)(arrays, *numbers, *map(float, params.values()))
        for expected, (whole, out) in zip(want, made):
            assert same(out, expected) and whole[0] == whole[-1] == 7.0, (kind, shape)

    for shape in ((1, 1), (3, 5), (70, 33), (130, 512), (3, 5000), (4, 0), (0, 4)):
        rng = np.random.default_rng(shape)
        dy, x, up = (rng.normal(0, 3, shape).astype(dtype) for _ in range(3))
        bias = rng.normal(size=shape[1]).astype(dtype)
        check("biased", shape, x, bias)
        check("gated", shape, x, up)
        if op.param_grad is None:
            check("biased_backward", shape, dy, x, bias)
            check("gated_backward", shape, dy, x, up)
        else:
            assert embed.address(f"{name}_biased_backward", dtype) is None


def test_embedded_signature(embed):
    assert embed.address("elu_sideways", "float32") is None
    assert embed.signature("elu_backward", "float64") == (
        "const double *dy, const double *x, double *dx, ptrdiff_t n, double alpha"
    )
    assert embed.signature("cross_entropy", "float32") == (
        "const float *x, const int64_t *labels, const float *weights, float *loss, float *dx, "
        "ptrdiff_t rows, ptrdiff_t n, double factor, double label_smoothing, double z_loss"
    )
    spec = kernel_of(OPS["elu"], "forward", "float32")
    assert cython_aot.embedded(spec) == embed.address("elu_forward", "float32")
    with pytest.raises(KeyError, match="elu_forward_float16"):
        cython_aot.embedded(kernel_of(OPS["elu"], "forward", "float16"))


def test_cimport(embed, tmp_path):
    pytest.importorskip("Cython")
    (tmp_path / "user.pyx").write_text(
        "# cython: language_level=3, boundscheck=False\n"
        "cimport fastact\nfrom libc.stdint cimport int64_t\n"
        "def both(float[::1] x, float[::1] y, float[::1] d, float alpha):\n"
        "    with nogil:\n"
        "        fastact.elu_f32(&x[0], &y[0], x.shape[0], alpha)\n"
        "        fastact.elu_backward_f32(&y[0], &x[0], &d[0], x.shape[0], alpha)\n"
        "def loss(double[:, ::1] x, int64_t[::1] labels, double[:, ::1] y, double[::1] each, double[:, ::1] dx):\n"
        "    with nogil:\n"
        "        fastact.softmax_f64(&x[0, 0], &y[0, 0], x.shape[0], x.shape[1])\n"
        "        fastact.cross_entropy_f64(\n"
        "            &x[0, 0], &labels[0], NULL, &each[0], &dx[0, 0], x.shape[0], x.shape[1], 0.5, 0.0, 0.0)\n"
        "def layer(double[:, ::1] x, double[::1] w, double[::1] b, double[:, ::1] y, double[:, ::1] stats,\n"
        "          double[:, ::1] dx, double[:, ::1] sums, double[::1] work):\n"
        "    cdef Py_ssize_t rows = x.shape[0], n = x.shape[1]\n"
        "    with nogil:\n"
        "        fastact.layer_norm_f64(&x[0, 0], &w[0], &b[0], &y[0, 0],\n"
        "            &stats[0, 0], &stats[1, 0], &stats[2, 0], rows, n, 1e-5)\n"
        "        fastact.layer_norm_backward_f64(&y[0, 0], &x[0, 0], &w[0], &stats[0, 0], &stats[1, 0],\n"
        "            &stats[2, 0], &dx[0, 0], &sums[0, 0], &sums[1, 0], &work[0], rows, n)\n"
        "        fastact.dropout_f64(&y[0, 0], &y[0, 0], rows * n, 0.25, 7, 3, 0)\n"
        "        fastact.random_f64(&work[0], n, 7, 3, 2)\n"
        "def step(float[::1] p, float[::1] g, float[::1] b):\n"
        "    fastact.sgd_momentum_f32(&p[0], &g[0], &b[0], p.shape[0], 0.5, 0.01, 0.1, 0.9, 1.0)\n",
        encoding="utf-8",
    )
    (tmp_path / "setup.py").write_text(
        "from Cython.Build import cythonize\n"
        "from setuptools import Extension, setup\n"
        f"path = [{str(Path(fa.__file__).parent.parent)!r}]\n"
        "setup(name='user', ext_modules=cythonize([Extension('user', ['user.pyx'])], include_path=path))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import user, numpy as np, fastact as fa\n"
        "x = np.linspace(-3, 3, 1001, dtype=np.float32); y = np.empty_like(x); d = np.empty_like(x)\n"
        "user.both(x, y, d, 0.5)\n"
        "assert (y == fa.elu(x, alpha=0.5)).all() and (d == fa.elu.backward(y, x, alpha=0.5)).all()\n"
        "x = np.random.default_rng(0).standard_normal((5, 33)); y, dx = np.empty_like(x), np.empty_like(x)\n"
        "labels, each = np.array([3, -1, 0, 32, 7]), np.empty(5)\n"
        "user.loss(x, labels, y, each, dx)\n"
        "assert (y == fa.softmax(x)).all()\n"
        "assert (each == fa.softmax_cross_entropy(x, labels, reduction='none', ignore_index=-1)).all()\n"
        "share = y.copy(); share[np.arange(5), labels] -= 1; share[1] = 0\n"
        "assert np.abs(dx - 0.5 * share).max() < 1e-15\n"
        "x, w, b = np.random.default_rng(1).standard_normal((150, 9)), np.arange(9.0), np.arange(9.0)\n"
        "y, dx, stats = np.empty_like(x), np.empty_like(x), np.empty((3, 150))\n"
        "sums, work = np.empty((2, 9)), np.empty(72)\n"
        "user.layer(x, w, b, y, stats, dx, sums, work)\n"
        "want, of = fa.layer_norm.forward(x, w, b)\n"
        "assert (y == fa.dropout(want, 0.25, seed=7, offset=3)).all() and (stats == of).all()\n"
        "for got, right in zip((dx, *sums), fa.layer_norm.backward(want, x, of, w, b)): assert (got == right).all()\n"
        "assert (work[:9] == -fa.rrelu(np.full(11, -1.0), 0.0, 1.0, training=True, seed=7, offset=3)[2:]).all()\n"
        "p = np.linspace(-1, 1, 35, dtype=np.float32); g = p[::-1].copy(); m = np.zeros_like(p)\n"
        "optimiser = fa.optim.SGD([p.copy()], 0.1, 0.9, True, 0.01)\n"
        "for _ in range(3): optimiser.step([g], scale=2.0); user.step(p, g, m)\n"
        "assert (p == optimiser.params[0]).all() and (m == optimiser.state['b'][0]).all()\n"
        "print('same')"
    )
    assert python(code).strip() == "same"


def test_c_program(embed, tmp_path):
    (tmp_path / "main.c").write_text(
        "#include <Python.h>\n#include <fastact.h>\n#include <math.h>\n"
        "static void shown(const double *x, int n) {\n"
        "    for (int i = 0; i < n; i++) printf(\"%.17g%c\", x[i], i < n - 1 ? ' ' : '\\n');\n"
        "}\n"
        "/* Adam as docs/embedding.md has it */\n"
        "static void adam(double *p, const double *g, double *m, double *v, ptrdiff_t n, int t) {\n"
        "    const double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;\n"
        "    const double c1 = 1 - pow(beta1, t), root = sqrt(1 - pow(beta2, t));\n"
        "    const double rest1 = 1 - beta1, rest2 = 1 - beta2;\n"
        "    fastact_adam_f64(p, g, m, v, n, 1, 0.01, beta1, rest1, beta2, rest2, lr * root / c1, eps * root);\n"
        "}\n"
        "int main(void) {\n"
        "    Py_Initialize();\n"
        "    if (fastact_import() < 0) { PyErr_Print(); return 1; }\n"
        "    double x[5] = {-2, -1, 0, 1, 2}, y[5], d[5], share[5], loss;\n"
        "    const int64_t label = 3;\n"
        "    Py_BEGIN_ALLOW_THREADS\n"
        "    fastact_elu_value_and_grad_f64(x, y, d, 5, 0.5);\n"
        "    fastact_softmax_f64(x, share, 1, 5);\n"
        "    fastact_cross_entropy_f64(x, &label, NULL, &loss, NULL, 1, 5, 1.0, 0.0, 0.0);\n"
        "    Py_END_ALLOW_THREADS\n"
        "    double rows[200 * 5], weight[5] = {1, 2, 3, 4, 5}, rstd[200], dx[200 * 5], dweight[5], work[4 * 5];\n"
        "    double m[5] = {0}, v[5] = {0}, u[5];\n"
        "    for (int i = 0; i < 1000; i++) rows[i] = i % 7 - 0.1 * (i % 31);\n"
        "    fastact_rms_norm_f64(rows, weight, dx, rstd, 200, 5, 1e-6);\n"
        "    fastact_rms_norm_backward_f64(dx, rows, weight, rstd, dx, dweight, work, 200, 5);\n"
        "    shown(dx, 1000);\n"
        "    shown(dweight, 5);\n"
        "    fastact_random_f64(u, 5, 11, 2, 4);\n"
        "    shown(u, 5);\n"
        "    fastact_dropout_backward_f64(rows, dx, 1000, 0.3, 11, 2, 0);\n"
        "    shown(dx, 1000);\n"
        "    for (int t = 1; t < 4; t++) adam(weight, x, m, v, 5, t);\n"
        "    shown(weight, 5);\n"
        '    for (int i = 0; i < 5; i++) printf("%.17g %.17g %.17g %.17g\\n", y[i], d[i], share[i], loss);\n'
        "    return Py_FinalizeEx() < 0;\n"
        "}\n",
        encoding="utf-8",
    )
    config = sysconfig.get_config_vars()
    library = Path(config["LIBDIR"])
    name = f"python{config['LDVERSION']}"
    if not any(library.glob(f"lib{name}.*")):
        pytest.skip(f"no lib{name} to link a program with")
    command = [
        *config["CC"].split(), "-Wall", "-Wextra", "-Werror", "main.c", f"-I{config['INCLUDEPY']}",
        f"-I{fa.get_include()}", f"-L{library}", f"-Wl,-rpath,{library}", f"-l{name}",
        *config["LIBS"].split(), "-lm", "-o", "main",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([tmp_path / "main"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    lines = [np.array(line.split(), np.float64) for line in run.stdout.splitlines()]
    dx, dweight, numbers, dropped, weight = lines[:5]
    got = np.array(lines[5:]).T
    i = np.arange(1000)
    rows, w = (i % 7 - 0.1 * (i % 31)).reshape(200, 5), np.arange(1.0, 6)
    y, rstd = fa.rms_norm.forward(rows, w, eps=1e-6)
    want, want_weight, _ = fa.rms_norm.backward(y, rows, rstd, w)
    assert same(dx, want.ravel()) and same(dweight, want_weight)
    assert same(numbers, random_oracle.numbers(11, 2, 9)[4:])
    assert same(dropped, fa.dropout.backward(rows, 0.3, seed=11, offset=2).ravel())
    optimiser = fa.optim.Adam([w], weight_decay=0.01)
    for _ in range(3):
        optimiser.step([np.float64([-2, -1, 0, 1, 2])])
    assert same(weight, w)
    x = np.float64([-2, -1, 0, 1, 2])
    y, d = fa.elu.value_and_grad(x, alpha=0.5)
    assert same(got[0], y) and same(got[1], d) and same(got[2], fa.softmax(x))
    assert (got[3] == fa.softmax_cross_entropy(x, 3)).all()
