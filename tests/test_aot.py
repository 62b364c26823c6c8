"""The ahead-of-time kernels of each ISA level this CPU runs, bit for bit against NumPy; the functions for embedding."""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType

import ml_dtypes
import numpy as np
import pytest
from cases import parameters
from oracle import TRUTH
from subprocesses import copied, python

import fastact as fa
from fastact.backends import cython_aot, reference
from fastact.backends.cython_aot import render
from fastact.spec import kinds
from fastact.spec.table import OPS

GOLDEN = Path(__file__).parent / "golden"
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in render.DTYPES}
KERNEL = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64
)


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


def aligned(n, dtype):
    """An empty array on a 64-byte boundary, as streamed outputs are."""
    raw = np.full(n * dtype.itemsize + 64, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * dtype.itemsize].view(dtype)


def same(a, b):
    """The same bits, or NaN on both sides."""
    bits = f"u{a.itemsize}"
    with np.errstate(invalid="ignore"):
        return ((a.view(bits) == b.view(bits)) | ((a != a) & (b != b))).all()


def launch(address, inputs, params, nout, flags=0, outputs=None):
    """Run a kernel; parameters that are scalars go in as blocks of 64 bytes."""
    dtype, n = inputs[0].dtype, inputs[0].size
    outputs = [aligned(n, dtype) for _ in range(nout)] if outputs is None else outputs
    blocks = [np.full(64 // dtype.itemsize, p, dtype) if np.ndim(p) == 0 else p for p in params]
    arrays = [*inputs, *blocks, *outputs]
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    psteps = (ctypes.c_int64 * 8)(*(int(np.ndim(p) > 0) for p in params))
    KERNEL(address)(pointers, n, psteps, flags)
    return outputs


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


def test_every_kernel_is_there():
    for level in cython_aot.LEVELS:
        if runs_here(level):
            found = module(level)
            break
    for op in OPS.values():
        for kind in kinds.KINDS:
            for dtype in DTYPES:
                assert (found.address(op.name, kind, dtype) is not None) == (kind in kinds.kinds_of(op))
    assert found.address("relu", "sideways", "float32") is None


@each_level
@each_dtype
@pytest.mark.parametrize("name", [name for name in OPS if name in TRUTH])
def test_bits(name, dtype, level):
    """All kinds, in every mode of the kernel ABI, against the formulas over NumPy arrays."""
    kernels, op = module(level), OPS[name]
    for case in TRUTH[name].cases:
        values = {p.name: p.default for p in op.params} | parameters(name, case)
        params = [DTYPES[dtype].type(v) for v in values.values()]
        for kind in kinds.kinds_of(op):
            nin, nout = kinds.KINDS[kind]
            inputs = [points(DTYPES[dtype], seed=i) for i in range(nin)]
            expected = reference.kernel(op, kind, dtype)(*inputs, *(np.full(inputs[0].shape, p) for p in params))
            address = kernels.address(name, kind, dtype)
            got = launch(address, inputs, params, nout)
            streamed = launch(address, inputs, params, nout, flags=1)
            elementwise = launch(address, inputs, [np.full(inputs[0].shape, p) for p in params], nout)
            for i in range(nin):
                copies = [a.copy() for a in inputs]
                launch(address, copies, params, nout, outputs=[copies[i], got[-1].copy()][:nout])
                assert same(copies[i], got[0]), (kind, "in place")
            for e, g, s, w in zip(expected, got, streamed, elementwise, strict=True):
                assert same(g, np.asarray(e)), (kind, values, mismatch(inputs, g, np.asarray(e)))
                assert same(s, g), (kind, "streamed")
                assert same(w, g), (kind, "elementwise parameters")


def mismatch(inputs, got, expected):
    bits = f"u{got.itemsize}"
    i = np.flatnonzero((got.view(bits) != expected.view(bits)) & ~((got != got) & (expected != expected)))[0]
    return [float(a[i]) for a in inputs], float(got[i]), float(expected[i])


# ---- row kernels

ROW_KERNEL = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
)
LENGTHS = [*range(1, 70), 127, 513, 2049, 66000]


def launch_rows(address, arrays, rows, n, factor=0.25, flags=0):
    """Arrays of rows × n or of rows, contiguous; None is a null pointer."""
    pointers = (ctypes.c_void_p * len(arrays))(*(None if a is None else a.ctypes.data for a in arrays))
    strides = (ctypes.c_int64 * len(arrays))(*(0 if a is None or a.shape[0] != rows else a.strides[0] for a in arrays))
    params = (ctypes.c_double * 1)(factor)
    ROW_KERNEL(address)(pointers, strides, rows, n, params, flags)


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
    address = module(level).row_address(name, dtype)
    for n in LENGTHS:
        if name == "sparsemax" and n > 5000:
            continue
        x = rows_of(n, dtype, n)
        with np.errstate(all="ignore"):
            expected = np.asarray(reference.row_kernel(name, dtype)(x), dtype)
        for flags in (0, 1):
            y = aligned(expected.size, np.dtype(dtype)).reshape(expected.shape)
            launch_rows(address, [x, y, np.empty(n, dtype)], len(x), n, flags=flags)
            assert same(y, expected), (n, flags)


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax", "sparsemax"])
def test_rows_backward(name, dtype, level):
    address = module(level).row_address(f"{name}_backward", dtype)
    for n in LENGTHS:
        if name == "sparsemax" and n > 5000:
            continue
        dy = rows_of(n, dtype, n + 1)
        with np.errstate(all="ignore"):
            y = np.ascontiguousarray(reference.row_kernel(name, dtype)(rows_of(n, dtype, n)), dtype)
            expected = np.asarray(reference.row_kernel(f"{name}_backward", dtype)(dy, y), dtype)
        dx = np.full_like(dy, np.nan)
        launch_rows(address, [dy, y, dx], len(dy), n)
        assert same(dx, expected), n


@each_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses(dtype, level):
    def buffers():
        return np.full(4, np.nan, dtype), np.full((4, n), np.nan, dtype), np.full((4, n), np.nan, dtype)

    address = module(level).row_address
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x, targets, weights = rows_of(n, dtype, n), rng.random((4, n)).astype(dtype), rng.random(n).astype(dtype)
        labels = rng.integers(-1, n, 4)
        for given in (None, weights):
            (loss, dx, _), (want_loss, want_dx, _) = buffers(), buffers()
            reference.row_kernel("cross_entropy", dtype)(x, labels, given, want_loss, want_dx, 0.25)
            launch_rows(address("cross_entropy", dtype), [x, labels, given, loss, dx], 4, n)
            assert same(loss, want_loss) and same(dx, want_dx), n
        (loss, dx, _), (want_loss, want_dx, _) = buffers(), buffers()
        reference.row_kernel("cross_entropy_of_shares", dtype)(x, targets, want_loss, want_dx, 0.25)
        launch_rows(address("cross_entropy_of_shares", dtype), [x, targets, loss, dx], 4, n)
        assert same(loss, want_loss) and same(dx, want_dx), n
        (loss, dx, each), (want_loss, want_dx, want_each) = buffers(), buffers()
        kernel = reference.row_kernel("sigmoid_cross_entropy", dtype)
        kernel(x, targets, None, None, want_loss, want_dx, want_each, n, 0.25)
        launch_rows(address("sigmoid_cross_entropy", dtype), [x, targets, None, None, loss, dx, each], 4, n)
        assert same(loss, want_loss) and same(dx, want_dx) and same(each, want_each), n


# ---- the primitives, by formulas of the golden file, compiled here


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles the text of a module of kernels for every level; gives the modules by level."""
    pytest.importorskip("Cython")
    setuptools = pytest.importorskip("setuptools")
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
        pytest.skip("no C compiler")
    spec = spec_from_file_location("build_aot", Path(render.__file__).with_name("build.py"))
    build_aot = module_from_spec(spec)
    spec.loader.exec_module(build_aot)
    folder = tmp_path_factory.mktemp("aot")

    formulas = render.parse(GOLDEN / "formulas.py")
    primitives = render.arities(Path(fa.__file__).parent / "maths" / "primitives.py")

    def body(name):
        return lambda env: lambda *args: (env[name](*args),)

    kernels = [
        render.Kernel(name, "forward", tuple(f.parameters), (), ("out",), body(name))
        for name, f in formulas.items()
        if f.results == 1
    ]
    text = render.render_module(kernels, {"f32": formulas, "f64": formulas}, primitives)
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
    name = cython_aot.LEVELS[level][0].removeprefix("fastact.")
    files = list(build.glob(f"{name}.*.so"))
    if not files:
        pytest.skip(f"the compiler built no {level}")
    spec = spec_from_file_location(name, files[0])
    kernels = module_from_spec(spec)
    spec.loader.exec_module(kernels)
    compute = "float64" if dtype == "float64" else "float32"
    env = {"__builtins__": {}} | reference.primitives(compute)
    golden = spec_from_file_location("golden_formulas", GOLDEN / "formulas.py")
    formulas = module_from_spec(golden)
    golden.loader.exec_module(formulas)
    own = {n: f for n, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == "golden_formulas"}
    env |= {n: FunctionType(f.__code__, env, n) for n, f in own.items()}
    for op, function in own.items():
        address = kernels.address(op, "forward", dtype)
        if address is None:
            assert op in ("two_sum", "pair_sum")
            continue
        arguments = hard_points(op, DTYPES[dtype], len(inspect.signature(function).parameters))
        with np.errstate(all="ignore"):
            expected = env[op](*(a.astype(compute) for a in arguments))
            expected = np.asarray(expected, compute).astype(DTYPES[dtype])
        (got,) = launch(address, arguments, [], 1)
        assert same(got, expected), (op, mismatch(arguments, got, expected))


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
    (got,) = launch(module(level).address("identity", "forward", dtype), [patterns], [], 1)
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


def test_unknown_kernel():
    if cython_aot.available() is not None:
        pytest.skip(cython_aot.available())
    with pytest.raises(KeyError, match="relu has no ahead-of-time kernel for sideways"):
        cython_aot.address("relu", "sideways", "float32")


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
    ["maths/activations.py", "maths/elementary/float64.py", "spec/kinds.py", "loops/rows.py", "spec/table.py"]
    + ["backends/cython_aot/simd.h"],
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


def embedded(embed, name, kind, dtype):
    """An embedded function as a Python function of arrays and parameters."""
    scalar = {"float32": ctypes.c_float, "float64": ctypes.c_double}[dtype]
    narray = sum(kinds.KINDS[kind])
    types = [ctypes.c_void_p] * narray + [ctypes.c_ssize_t] + [scalar] * len(OPS[name].params)
    function = ctypes.CFUNCTYPE(None, *types)(embed.address(name, kind, dtype))
    return lambda arrays, params: function(*(a.ctypes.data for a in arrays), arrays[0].size, *params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in OPS if name in TRUTH])
def test_embedded_functions(embed, name, dtype):
    op, case = OPS[name], TRUTH[name].cases[-1]
    params = [float(v) for v in ({p.name: p.default for p in op.params} | parameters(name, case)).values()]
    for kind in kinds.kinds_of(op):
        nin, nout = kinds.KINDS[kind]
        function = embedded(embed, name, kind, dtype)
        for n in (0, 1, 15, 16, 17, 67):
            inputs = [points(DTYPES[dtype], 68, seed=i)[1 : n + 1] for i in range(nin)]
            outputs = [np.full(n + 2, 7.0, dtype) for _ in range(nout)]
            function([*inputs, *(o[1 : n + 1] for o in outputs)], params)
            exact = [np.full(n, p, dtype) for p in params]
            for got, expected in zip(outputs, reference.kernel(op, kind, dtype)(*inputs, *exact), strict=True):
                assert same(got[1 : n + 1], np.asarray(expected))
                assert got[0] == got[-1] == 7.0


def test_embedded_signature(embed):
    assert embed.address("elu", "sideways", "float32") is None
    assert embed.signature("elu", "backward", "float64") == (
        "const double *dy, const double *x, double *dx, ptrdiff_t n, double alpha"
    )


def test_cimport(embed, tmp_path):
    pytest.importorskip("Cython")
    (tmp_path / "user.pyx").write_text(
        "# cython: language_level=3, boundscheck=False\n"
        "cimport fastact\n"
        "def both(float[::1] x, float[::1] y, float[::1] d, float alpha):\n"
        "    with nogil:\n"
        "        fastact.elu_f32(&x[0], &y[0], x.shape[0], alpha)\n"
        "        fastact.elu_backward_f32(&y[0], &x[0], &d[0], x.shape[0], alpha)\n",
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
        "print('same')"
    )
    assert python(code).strip() == "same"


def test_c_program(embed, tmp_path):
    (tmp_path / "main.c").write_text(
        "#include <Python.h>\n#include <fastact.h>\n"
        "int main(void) {\n"
        "    Py_Initialize();\n"
        "    if (fastact_import() < 0) { PyErr_Print(); return 1; }\n"
        "    double x[5] = {-2, -1, 0, 1, 2}, y[5], d[5];\n"
        "    Py_BEGIN_ALLOW_THREADS\n"
        "    fastact_elu_value_and_grad_f64(x, y, d, 5, 0.5);\n"
        "    Py_END_ALLOW_THREADS\n"
        '    for (int i = 0; i < 5; i++) printf("%.17g %.17g\\n", y[i], d[i]);\n'
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
    got = np.array([line.split() for line in run.stdout.splitlines()], np.float64).T
    y, d = fa.elu.value_and_grad(np.float64([-2, -1, 0, 1, 2]), alpha=0.5)
    assert same(got[0], y) and same(got[1], d)
