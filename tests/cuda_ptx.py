"""Kernels for CUDA through NVVM and ptxas, and what both say of them; run as a program, with jobs on stdin.

numba.cuda is the simulator's in processes of tests, so compiling takes one of its own, of two workers.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import time
from functools import cache

import fastact  # noqa: F401
from fastact.backends.cuda import elementwise
from fastact.backends.cuda.row_functions import FUNCTIONS
from fastact.backends.cuda.rows import Form, Rows
from fastact.spec.kernel import kernel_of, row_kernel_of
from fastact.spec.rows import ROWS
from fastact.spec.table import OPS


def map_kernel(name, kind, dtype, form):
    """A kernel of an activation: `vector`, `table`, `patterns`, `strided` or `masked`."""
    if form in ("table", "patterns"):
        return getattr(elementwise, form)()
    spec = kernel_of(OPS[name], kind, dtype)
    if form == "vector":
        return elementwise.vector(spec)
    count = len(spec.inputs) + len(spec.params) + len(spec.outputs)
    return elementwise.strided(spec, 3, (dtype,) * count, form == "masked")


def row_spec(function, dtype):
    """The spec of a row function, its scalars and the columns that it may have."""
    from fastact.api import device_losses, device_norms, device_rows

    if function in ROWS and function not in device_losses.OWN and (function, dtype) not in device_norms.SPECS:
        return row_kernel_of(function, dtype), ROWS[function].scalars
    if function == "total":
        return device_rows.TOTAL[dtype], ("factor",)
    if (function, dtype) in device_norms.SPECS:
        return device_norms.SPECS[function, dtype], () if function.endswith("backward") else ("eps",)
    specs = {"label_counts": device_losses.COUNT, **device_losses.OWN}[function]
    scalars = {"label_counts": ("classes",), "nll_loss": ("factor",)}.get(
        function, ("factor", "label_smoothing", "z_loss")
    )
    return specs[dtype], scalars


def row_kernels(function, dtype, form, traits):
    """The kernels of a row function with all its arrays, one for each phase of a form."""
    spec, scalars = row_spec(function, dtype)
    form = Form(*form)
    if "ignores" in traits:
        scalars = (*scalars, "ignored")
    optional = {"pos_weights", "weights", "weight", "bias", "residual", "total"} - set(traits)
    given = frozenset(a.name for a in (*spec.inputs, *spec.outputs) if a.name not in optional) | frozenset(traits)
    if not form.down:
        given -= {a.name for a in spec.outputs if a.role == "pair"}
    phases = Rows(spec, form, given, scalars).count_sums(FUNCTIONS[spec.loop]) if form.memory == "parts" else 0
    for phase in range(phases + 1):
        yield Rows(spec, form._replace(phase=phase), given, scalars).kernel(FUNCTIONS[spec.loop])


def kernels(job):
    """The kernels of a job."""
    what, *rest = job
    if what == "map":
        return [map_kernel(*rest)]
    if what == "row":
        return list(row_kernels(*rest))
    return [catalogued(what)[rest[0]][0]]


@cache
def catalogued(what):
    """Kernels over columns or of optimisers, and how many wide loads and stores they have at least."""
    from fastact.backends.cuda import catalogue, lists

    if what == "lists":
        return {name: (kernel, (0, 0)) for name, kernel in lists.catalogue()}
    return {name: (kernel, expected) for name, kernel, expected in catalogue.kernels()}


def compiled(task):
    """What NVVM and ptxas made of the kernels of a job."""
    from fastact.backends.cuda import compile

    job, capability = task
    found = []
    for kernel in kernels(job):
        start = time.perf_counter()
        row = {"job": job, "capability": capability, "name": kernel.name, "block": kernel.block, "text": kernel.text}
        try:
            ptx = compile.ptx(kernel, tuple(capability))
            _, log = compile.assemble(ptx, tuple(capability))
        except Exception as error:
            found.append({**row, "error": f"{type(error).__name__}: {error}"})
            continue
        number = {
            what: int(re.search(rf"(\d+) {text}", log)[1])
            for what, text in (("registers", "registers"), ("stack", "bytes stack"), ("spills", "bytes spill stores"))
        }
        found.append({
            **row, **number, "local": ".local" in ptx, "bounds": int(re.search(r"\.maxntid (\d+)", ptx)[1]),
            "fma": len(re.findall(r"\bfma\.", ptx)),
            "wide loads": len(re.findall(r"ld\.global\.(v4\.\w32|v2\.\w64)", ptx)),
            "wide stores": len(re.findall(r"st\.global\.(v4\.\w32|v2\.\w64)", ptx)),
            # what has no rounding of its own ptxas may contract
            "loose": len(re.findall(r"\b(?:add|sub|mul|mad)\.(?:ftz\.)?f(?:32|64)", ptx)),
            "seconds": time.perf_counter() - start,
        })  # fmt: skip
    return found


def main():
    """Compiles the jobs on stdin and writes reports to stdout."""
    with multiprocessing.Pool(2) as pool:
        results = pool.map(compiled, json.load(sys.stdin), chunksize=1)
    json.dump([row for rows in results for row in rows], sys.stdout)
