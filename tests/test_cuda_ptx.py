"""What NVVM and ptxas make of kernels, without a GPU: wide accesses, no local memory, no other arithmetic."""

import json
import re
from pathlib import Path

import cuda_memory
import cuda_ptx
import pytest
from cases import FROM_OUTPUT, NAMES
from subprocesses import python

from fastact.backends.cuda import compile as cuda_compile
from fastact.backends.cuda import elementwise, row_runs
from fastact.spec.kernel import compute_dtype
from fastact.spec.table import OPS

pytestmark = [
    cuda_memory.needs_cuda,
    pytest.mark.skipif(cuda_compile.ptxas() is None, reason="there is no ptxas (nvidia-cuda-nvcc)"),
]

DTYPES = ("float32", "float64", "float16", "bfloat16")
CAPABILITIES = ((8, 0), (9, 0), (10, 0))
# bytes that lie in local memory on 8.0 and 9.0: still the fastest form (row_runs.MOST_COLUMNS)
SPILLED = {("layer_norm_backward", "float32", 8): 24}
# elements of a word
COUNT = {"float32": 4, "float64": 2, "float16": 8, "bfloat16": 8}


def reports(tasks):
    """Of each kernel what was made of it."""
    program = Path(cuda_ptx.__file__)
    code = f"import sys; sys.path.insert(0, {str(program.parent)!r}); import cuda_ptx; cuda_ptx.main()"
    return json.loads(python(code, stdin=json.dumps(tasks), timeout=3000, NUMBA_ENABLE_CUDASIM="0"))


def written(text):
    """How often a kernel's text asks for a fused multiply-add."""
    return len(re.findall(r"\bld\.(?:fmaf_rn|fma)\(", text))


def check(report):
    name = f"{report['name']} for {report['capability']}"
    assert "error" not in report, f"{name}: {report['error']}"
    what, *rest = report["job"]
    # of rows with sums over them, by the words of a thread
    most = SPILLED.get((*rest[:2], rest[2][2]), 0) if what == "row" and len(rest[2]) > 5 else 0
    assert max(report["stack"], report["spills"]) <= most and not report["local"], f"{name}: local memory, {report}"
    assert report["registers"] * report["block"] <= 65_536, f"{name}: {report['registers']} registers"
    assert report["bounds"] == report["block"], name
    assert report["loose"] == 0, f"{name}: arithmetic that ptxas may contract"
    asked = written(report["text"])
    if what == "map" and rest[3] == "vector":
        dtype = rest[2]
        count = elementwise.per_thread(dtype)
        wide = count // COUNT[dtype]
        spec = cuda_ptx.kernel_of(OPS[rest[0]], rest[1], dtype)
        assert report["wide loads"] == wide * len(spec.inputs), name
        assert report["wide stores"] == wide * len(spec.outputs), name
        # the elements after the last word are a loop, of which there are up to nine copies, some of them simpler
        each = asked // (count + 1)
        assert asked == each * (count + 1), name
        assert count * each <= report["fma"] <= (count + 9) * each, f"{name}: {report['fma']} of {each}"
    elif what == "row":
        form = cuda_ptx.Form(*rest[2])
        # of what is unrolled there are copies
        assert report["fma"] <= asked * (1 if form.memory == "registers" else 8), (
            f"{name}: {report['fma']}, not {asked}"
        )
        if form.lanes > 1:
            known = form.memory != "parts" or form.phase
            assert not known or report["wide loads"] or rest[0] in ("nll_loss", "label_counts"), name
    elif what == "map" and rest[3] == "table":
        assert report["wide loads"] and report["wide stores"], name
    elif what == "map":
        assert report["fma"] <= asked, f"{name}: {report['fma']}, not {asked}"
    else:
        _, (loads, stores) = cuda_ptx.catalogued(what)[rest[0]]
        assert report["wide loads"] >= loads and report["wide stores"] >= stores, name
        assert report["fma"] == 0 or asked, name


def verify(jobs, capabilities=((9, 0),)):
    tasks = [(job, capability) for capability in capabilities for job in jobs]
    found = reports(tasks)
    wrong = []
    for report in found:
        try:
            check(report)
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
    most = max(found, key=lambda r: r["registers"] if "registers" in r else 0)
    seconds = sum(r.get("seconds", 0) for r in found)
    print(
        f"{len(found)} kernels in {seconds:.0f} s of one core, most registers {most.get('registers')}: {most['name']}"
    )
    assert not wrong, "\n".join(wrong)


def kinds(name):
    return ["forward", "backward", "value_and_grad", *(["backward_from_output"] if name in FROM_OUTPUT else [])]


def maps(names, dtypes, which, forms=("vector",)):
    return [["map", n, k, d, f] for n in names for k in kinds(n) if k in which for d in dtypes for f in forms]


OTHERS = [["map", "", "", "float32", "table"], ["map", "", "", "float32", "patterns"]]
LABELS = ["labels_int64"]
# row functions, with what is given besides and the dtypes that are compiled
ROWS = {
    "softmax": (),
    "scaled_softmax": ("causal",),
    "biased_softmax": ("mask", "bias"),
    "softmax_backward": (),
    "scaled_softmax_backward": ("causal",),
    "log_softmax": (),
    "log_softmax_backward": (),
    "logsumexp": (),
    "sparsemax": (),
    "sparsemax_backward": ("mask",),
    "cross_entropy": LABELS,
    "cross_entropy_of_shares": ("weights",),
    "nll_loss": LABELS,
    "mse_loss": (),
    "kl_div": ("weights",),
    "sigmoid_cross_entropy": ("pos_weights",),
    "layer_norm": ("weight", "bias"),
    "rms_norm": ("weight",),
    "layer_norm_backward": ("weight", "bias"),
    "rms_norm_backward": ("weight",),
    "total": (),
}
HAS_SUMS = ("layer_norm_backward", "rms_norm_backward")


def row_forms(function, dtype):
    """A small kernel of each form."""
    count = COUNT[dtype]
    spec = cuda_ptx.row_spec(function, dtype)[0]
    held = sum(a.role == "map" and a.name not in ("weights", "residual") for a in spec.inputs)
    forms = [("registers", 32, 1, count, True), ("registers", 128, 2, count, False), ("registers", 32, 1, 1, False),
             ("shared", 512, 0, count, True), ("again", 1024 if held == 1 else 512, 0, count, False)]  # fmt: skip
    if function != "sparsemax":
        forms.append(("parts", 256, 0, count, True))
    if function in HAS_SUMS:
        columns = row_runs.MOST_COLUMNS[compute_dtype(dtype)]
        forms += [("registers", 128, columns // count, count, False, 0, 16, 1),
                  ("registers", 128, 1, count, False, 0, 16, 3)]  # fmt: skip
    return forms


def rows(pick):
    """Jobs over the row functions; `pick` says of a place which dtypes and forms."""
    jobs = []
    for i, (function, traits) in enumerate(ROWS.items()):
        dtypes = ("float32", "float64") if function == "total" else DTYPES
        for j, dtype in enumerate(dtypes):
            for k, form in enumerate(row_forms(function, dtype)):
                if pick(i, j, k):
                    jobs.append(["row", function, dtype, form, list(traits)])
    return jobs


def test_activations():
    """All of them, forward in float32: words of four, and single elements, whose arithmetic has no copies."""
    verify(maps(NAMES, ["float32"], ["forward"], ["vector", "strided"]))


def test_gradients():
    verify(maps(["gelu", "mish", "tanh", "silu", "softplus", "elu"], ["float32"], ["backward"]))


def test_other_dtypes_forms_and_devices():
    jobs = maps(["sigmoid"], DTYPES, ["value_and_grad"]) + maps(
        ["hard_silu"], ["bfloat16"], ["backward"], ["strided", "masked"]
    )
    verify(jobs + OTHERS, CAPABILITIES)


def test_rows():
    """Every function, and every form of one."""
    verify(rows(lambda i, j, k: j == i % 4 and (k == i % 5 or i == 18)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_every_map(capability):
    kinds = ["forward", "backward", "value_and_grad", "backward_from_output"]
    verify(maps(NAMES, DTYPES, kinds, ["vector", "strided"]) + OTHERS, [capability])


def test_columns_and_optimisers():
    verify(
        [
            [what, name]
            for what, step in (("columns", 120), ("lists", 18))
            for name in [*cuda_ptx.catalogued(what)][::step]
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_all_columns_and_optimisers(capability):
    verify([[what, name] for what in ("columns", "lists") for name in cuda_ptx.catalogued(what)], [capability])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_every_row_function(capability):
    verify(rows(lambda i, j, k: True), [capability])


# the longest rows in registers, with all that a loss heeds, and rows of 50,257
LARGE = [
    ["row", "softmax", "bfloat16", ("registers", 512, 8, 8, True), []],
    ["row", "softmax", "float32", ("registers", 512, 8, 4, False), []],
    ["row", "cross_entropy", "bfloat16", ("registers", 512, 8, 8, True), [*LABELS, "general", "weights"]],
    ["row", "cross_entropy", "float32", ("registers", 512, 8, 4, False), [*LABELS, "general", "weights"]],
    ["row", "cross_entropy", "bfloat16", ("shared", 512, 0, 8, True), LABELS],
    ["row", "cross_entropy", "float32", ("again", 1024, 0, 4, True), LABELS],
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rows_that_fill_the_registers():
    verify(LARGE, CAPABILITIES)
