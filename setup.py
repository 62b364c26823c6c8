"""Extensions: the driver of the ufuncs, and the ahead-of-time kernels, one module per ISA level."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.sysconfig import customize_compiler, get_python_inc
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

ROOT = Path(__file__).parent
NUMPY_API = [(name, "NPY_2_0_API_VERSION") for name in ("NPY_NO_DEPRECATED_API", "NPY_TARGET_VERSION")]


def try_compiler(program: str, flags: list[str], *, link: bool) -> Exception | None:
    """None where the C compiler takes a program, else its complaint."""
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.c")
        source.write_text(program)
        try:
            objects = compiler.compile(
                [str(source)], output_dir=folder, include_dirs=[get_python_inc()], extra_postargs=flags
            )
            if link:
                compiler.link_executable(objects, str(Path(folder, "program")), extra_postargs=flags)
        except Exception as error:
            return error
    return None


def openmp_flag() -> list[str]:
    """The compiler's OpenMP flag; empty where it has none. The driver asks OpenMP for limits, it runs no region."""
    if os.environ.get("FASTACT_NO_OPENMP"):
        return []
    program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
    error = try_compiler(program, ["-fopenmp"], link=True)
    if error is not None:
        print(
            f"fastact: built without OpenMP ({error}); threadpoolctl's limits will not be seen. The compiler's OpenMP "
            "brings it (Debian, Ubuntu: libomp-dev for clang; gcc has its own)",
            file=sys.stderr,
        )
        return []
    return ["-fopenmp"]


def require_compiler() -> None:
    """The driver has no substitute: says what to install where it cannot be compiled."""
    error = try_compiler("int main(void) { return 0; }\n", [], link=False)
    if error is not None:
        raise PlatformError(
            f"fastact needs a C compiler, and there is none that works ({error}): install gcc or clang "
            "(Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install), or set CC"
        )
    error = try_compiler("#include <Python.h>\n", [], link=False)
    if error is not None:
        raise PlatformError(
            f"fastact needs the headers of Python, and there is no Python.h in {get_python_inc()} ({error}): install "
            "them (Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)"
        )


def driver() -> list[Extension]:
    posix = os.name == "posix"
    openmp = openmp_flag() if posix else []
    return cythonize(
        [
            Extension(
                "fastact.runtime._driver",
                ["fastact/runtime/_driver.pyx"],
                include_dirs=[np.get_include(), "fastact/runtime"],
                depends=[str(header.relative_to(ROOT)) for header in (ROOT / "fastact" / "runtime").glob("*.h")],
                define_macros=NUMPY_API,
                # nothing contracted: sums have the same bits on every instruction set
                extra_compile_args=(["-O3", "-g0", "-std=gnu11", "-ffp-contract=off"] if posix else []) + openmp,
                extra_link_args=openmp,
            ),
            # nothing of CUDA to build it: the driver's library is opened when first needed
            Extension(
                "fastact.backends.cuda._launch",
                ["fastact/backends/cuda/_launch.pyx"],
                include_dirs=["fastact/backends/cuda"],
                depends=["fastact/backends/cuda/_launch.h"],
                extra_compile_args=["-O3", "-g0", "-std=gnu11"] if posix else [],
            ),
        ],
        build_dir="build/cython",
    )


def ahead_of_time() -> ModuleType | None:
    """The builder of the ahead-of-time kernels; None with FASTACT_NO_AOT=1."""
    if os.environ.get("FASTACT_NO_AOT", "0") not in ("", "0"):
        print("fastact: FASTACT_NO_AOT is set, no ahead-of-time kernels", file=sys.stderr)
        return None
    spec = importlib.util.spec_from_file_location(
        "build_aot", ROOT / "fastact" / "backends" / "cython_aot" / "build.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    aot = ahead_of_time()
    base = build_ext if aot is None else aot.BuildExt

    class BuildExt(base):
        def run(self) -> None:
            require_compiler()
            super().run()

    setup(ext_modules=driver() + ([] if aot is None else aot.extensions()), cmdclass={"build_ext": BuildExt})
