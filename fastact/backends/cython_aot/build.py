"""Building the ahead-of-time kernels: for ``setup.py``, before fastact can be imported.

Renders the kernels once (``render.py``), lets Cython translate them once, and compiles the C once per ISA level: only
the flags and the name of the module differ. Every level is optional: a compiler that does not know it leaves it out.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from setuptools import Extension
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]
ROOT = PACKAGE.parent
# relative to the root, where setup.py runs: setuptools takes no absolute sources
BUILD = Path("build", "aot")

# -ffp-contract=off and no -ffast-math: the same bits on every level
FLAGS = [
    "-O3",
    "-g0",
    "-std=gnu11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-unused-function",
]
# the vector part of x86-64-v2, -v3, -v4, spelt out: gcc 10, which makes manylinux2014 wheels, does not know these names
X86_LEVELS = {
    "_aot_v2": ["-msse4.2", "-mpopcnt"],
    "_aot_v3": ["-mavx2", "-mfma", "-mf16c"],
    # -fschedule-insns mixes the instructions of vectors that a loop takes side by side: without it they gain nothing
    "_aot_v4": [
        *("-mavx2", "-mfma", "-mf16c", *(f"-mavx512{f}" for f in ("f", "cd", "bw", "dq", "vl"))),
        "-fschedule-insns",
    ],
}


@contextmanager
def _source_package() -> Iterator[None]:
    """Makes modules of the package importable from source without running ``fastact/__init__.py``."""
    if "fastact" in sys.modules:
        yield
        return
    package = ModuleType("fastact")
    package.__path__ = [str(PACKAGE)]
    sys.modules["fastact"] = package
    try:
        yield
    finally:
        for name in [m for m in sys.modules if m == "fastact" or m.startswith("fastact.")]:
            del sys.modules[name]


def _write(path: Path, text: str) -> None:
    """Leaves an unchanged file alone, so that nothing is translated or compiled again for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def render_all(folder: Path) -> None:
    """Writes what is generated: Cython and C sources into `folder`, declarations for users into the package."""
    with _source_package():
        # first: what is edited while this runs then counts as changed
        built_from = importlib.import_module("fastact.backends.cython_aot.render").source_hash(PACKAGE)
        render, render_rows, grammar, kernel, kinds, optimisers, rows, table = (
            importlib.import_module(f"fastact.{name}")
            for name in (
                "backends.cython_aot.render",
                "backends.cython_aot.render_rows",
                "maths.grammar",
                "spec.kernel",
                "spec.kinds",
                "spec.optimisers",
                "spec.rows",
                "spec.table",
            )
        )
        ops = [(op, kind) for op in table.kernel_rows() for kind in kinds.kernels_of(op)]
        maps = [kernel.kernel_of(op, kind, dtype) for op, kind in ops for dtype in kernel.DTYPES]
        over_rows = [spec for n in rows.ROWS for d in ("float32", "float64") for spec in kernel.row_kernels_of(n, d)]
        steps = [kernel.rule_kernel_of(rule, d) for rule in optimisers.rules() for d in ("float32", "float64")]
        loops = importlib.import_module("fastact.loops")
        sources = [PACKAGE / "loops" / f"{name}.py" for name in loops.MODULES]
        parsed = render_rows.parse(sources, {"VECTOR": loops.VECTOR})
        formulas, row_formulas = (
            {compute: read(dtype) for compute, dtype in (("f32", "float32"), ("f64", "float64"))}
            for read in (grammar.read, grammar.read_rows)
        )
        functions = [render.Embedded(spec) for spec in maps if spec.op.name in table.OPS and spec.kind in kinds.KINDS]
        functions = [f for f in functions if f.spec.dtype == f.spec.compute]
        functions += [render.Embedded(spec) for spec in (*over_rows, *steps) if not spec.form]
        fused, random = render.fused(table.OPS.values()), render.random()
        kernels = render_rows.render_rows(over_rows, parsed, row_formulas)
        module = render.render_module([*maps, *steps], formulas, kernels)
        _write(
            folder / "_aot.pyx", f'{module}\n\ndef sources() -> str:\n    """A hash."""\n    return "{built_from}"\n'
        )
        frame = (HERE / "embed.pyx.in").read_text(encoding="utf-8")
        _write(folder / "_embed.pyx", render.render_embed(functions, fused, random, frame))
        functions += [*fused, *random]
        _write(HERE / "_embed.pxd", render.render_embed_pxd(functions))
        _write(PACKAGE / "__init__.pxd", render.render_package_pxd(functions))
        header = (HERE / "fastact.h.in").read_text(encoding="utf-8")
        _write(PACKAGE / "include" / "fastact.h", render.render_c_header(functions, header))


def _level_source(level: str) -> str:
    # one C file for all levels, each under its own module name. Formulas must be inlined into the loops to be vectors
    return f"""\
#define PyInit__aot PyInit_{level}
#if defined(__GNUC__)
#define CYTHON_INLINE inline __attribute__((always_inline))
#endif
#include "_aot.c"
"""


def levels() -> dict[str, list[str]]:
    """Names of the modules of kernels to build here, and their compiler flags."""
    if os.name != "posix":
        return {"_aot_generic": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {name: FLAGS + flags for name, flags in X86_LEVELS.items()}
    return {"_aot_generic": FLAGS}


def level_extensions(folder: Path, package: str) -> list[Extension]:
    """A module of `package` per ISA level, of the kernels in ``folder/_aot.pyx``."""
    from Cython.Build import cythonize

    cythonize([Extension(package + "_aot", [str(folder / "_aot.pyx")])], quiet=True)
    for level in levels():
        _write(folder / f"{level}.c", _level_source(level))
    package_folder = os.path.relpath(HERE)
    runtime = os.path.relpath(PACKAGE / "runtime")
    headers = [os.path.join(package_folder, name) for name in ("simd.h", "rows.h")]
    headers.append(os.path.join(runtime, "call.h"))
    return [
        Extension(
            package + level,
            [str(folder / f"{level}.c")],
            include_dirs=[package_folder, runtime, str(folder)],
            depends=[str(folder / "_aot.c"), *headers],
            extra_compile_args=flags,
            optional=True,
        )
        for level, flags in levels().items()
    ]


def extensions() -> list[Extension]:
    """The extension modules of the ahead-of-time backend, rendered and translated to C."""
    from Cython.Build import cythonize

    render_all(ROOT / BUILD)
    # vectors of the loops in philox.h and sums.h: with -O2 alone dropout takes three times as long, with -O3 the module
    # is nearly twice as large
    flags = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-g0", "-std=gnu11", "-ffp-contract=off"]
    flags = [*flags, "-Wno-unused-function"] if os.name == "posix" else []
    runtime = os.path.relpath(PACKAGE / "runtime")
    embed = Extension(
        "fastact.backends.cython_aot._embed",
        [str(BUILD / "_embed.pyx")],
        include_dirs=[runtime],
        depends=[os.path.join(runtime, path.name) for path in (PACKAGE / "runtime").glob("*.h")],
        extra_compile_args=flags,
        optional=True,
    )
    return level_extensions(BUILD, "fastact.backends.cython_aot.") + cythonize([embed], quiet=True)


def write_stamp(folder: Path, *, in_place: bool) -> None:
    """Leaves in `folder` what tells the backend, without hashing the sources, that they are those that were built.

    That is their sizes and, where they stay where they are, their times; an installer of wheels sets times of its own.
    """
    with _source_package():
        render = importlib.import_module("fastact.backends.cython_aot.render")
        stats = {path: path.stat() for path in render.source_files(PACKAGE)}
        files = {
            path.relative_to(PACKAGE).as_posix(): [s.st_size, s.st_mtime_ns if in_place else None]
            for path, s in stats.items()
        }
        stamp = {"sources": render.source_hash(PACKAGE), "files": files}
    _write(folder / "_aot_stamp.json", json.dumps(stamp))


class BuildExt(build_ext):
    """Builds two extensions at a time, and says which were built."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = min(2, os.cpu_count() or 1)

        self.built: set[str] = set()

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        self.built.add(ext.name)

    def run(self) -> None:
        super().run()
        in_place = bool(self.inplace or self.editable_mode)
        write_stamp(HERE if in_place else Path(self.build_lib, HERE.relative_to(ROOT)), in_place=in_place)
        for extension in self.extensions:
            state = "built" if extension.name in self.built else "NOT BUILT: see the messages above"
            print(f"fastact: {extension.name} {state}", file=sys.stderr)
