"""What type checkers see: the stubs are up to date, mypy accepts good code and finds each mistake in bad code."""

import doctest
import os
import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastact as fa
from fastact import backends

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fa.__file__).parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
DOCS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("activations", "embedding", "index", "norms", "optimisers", "using")),
)

HEAD = """\
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import fastact as fa

x = np.ones((4, 6), np.float32)
z = np.ones((4, 6))
b = np.ones(6, np.float32)
labels = np.zeros(4, np.int64)
Float = NDArray[np.float32]
Double = NDArray[np.float64]
"""

GOOD = """
y: Float = fa.elu(x)
y = fa.elu(x, alpha=0.5, out=y)
y = fa.elu(x, alpha=np.float32(2), where=x > 0, out=(y,))
y = fa.elu(x, alpha=1, casting="same_kind", order="C", subok=False)
y = fa.elu(x, alpha=b)
any_dtype: NDArray[Any] = fa.elu(x, dtype=np.float64)
any_dtype = fa.elu([1.0, 2.0])
any_dtype = fa.elu(labels, alpha=[1.0] * 4)
any_dtype = fa.elu(x.astype(ml_dtypes.bfloat16))
number: np.float64 = fa.elu(1.0)
number = fa.elu(3)
single: np.float32 = fa.elu(np.float32(1), alpha=2.0)
d: Double = fa.gelu(z, approximate="tanh")
y = fa.elu.backward(x, x, alpha=0.5)
y = fa.elu.backward(x, x, out=x)
y = fa.elu.backward_from_output(x, y)
y, slope = fa.gelu.value_and_grad(x)
y = slope
number, other = fa.gelu.value_and_grad(2.0)
y = fa.gelu.biased(x, b, axis=1)
y, dbias = fa.gelu.biased_backward(x, x, b, approximate="none")
y = fa.silu.gated(x, x, beta=1.5)
number = fa.silu.gated(1.0, 2.0)
y, dup = fa.silu.gated_backward(x, x, x)
y = fa.gelu.fused(x, b, residual=x, dropout=0.1, seed=0)
y = fa.elu.fused(x, alpha=2.0, seed=1, offset=np.int64(3))
y, dbias = fa.gelu.fused_backward(x, x, b, dropout=0.1, seed=0)
y, nothing = fa.gelu.fused_backward(x, x)
none: None = nothing
y = fa.prelu(x, b)
y = fa.prelu(x, weight=0.25)
y, dweight = fa.prelu.backward(x, x, b, axis=-1)
y = fa.threshold(x, threshold=0.0, value=1.0)
y = fa.clipped_linear.fused(x, dropout_offset=4, offset=0.5)
y = fa.shrink.biased(x, b, bias=0.5)
ufunc: np.ufunc = fa.elu.ufunc
ufunc = fa.elu.backward.ufunc
parameters: dict[str, float | None] = fa.elu.params
text: str = fa.elu.formula + fa.elu.name + fa.softmax.formula
address: int = fa.elu.address("forward", "float32")
activation: fa.Activation = fa.gelu
anything: NDArray[Any] = fa.get("elu").backward_from_output(x, y)
if hasattr(activation, "backward_from_output"):
    activation.backward_from_output(x, y)

y = fa.softmax(x, axis=(0, 1), where=x > 0, scale=0.125, causal=True, bias=x)
y = fa.softmax(x, out=y)
d = fa.softmax(x, out=z)
any_dtype = fa.softmax(x, dtype=np.float64)
y = fa.softmax.backward(x, y, axis=None, scale=2.0)
y = fa.log_softmax(x, 0)
ufunc = fa.softmax.ufunc
fa.logsumexp(x, axis=0, keepdims=True)

loss: np.float32 = fa.softmax_cross_entropy(x, labels)
each: Float = fa.softmax_cross_entropy(x, labels, reduction="none", weight=b)
loss, y = fa.softmax_cross_entropy.value_and_grad(x, labels, label_smoothing=0.1, ignore_index=-1, out=x)
each, y = fa.nll_loss.value_and_grad(x, [0, 1, 2, 3], reduction="none")
half: np.float64 = fa.mse_loss(z, z, reduction="sum")
loss, y = fa.huber_loss.value_and_grad(x, x, delta=2)
loss = fa.sigmoid_cross_entropy(x, x, pos_weight=b, check=False)

y = fa.layer_norm(x, b, b, eps=1e-6, activation="gelu")
y = fa.layer_norm(x, activation=(fa.elu, {"alpha": 0.5}), out=x)
y, stats = fa.layer_norm.forward(x, b)
y, stats, total = fa.layer_norm.forward(x, b, residual=x)
dx, dw, db = fa.layer_norm.backward(x, x, stats, b, b)
sums: Float = dw + db
dx, dw, none = fa.layer_norm.backward(x, x, stats, b)
dx, none, db = fa.layer_norm.backward(x, x, stats, bias=b)
dx, none, db = fa.layer_norm.backward(x, x, stats, None, b)
dx, none, none = fa.layer_norm.backward(x, x, stats)
dx, dw, none = fa.rms_norm.backward(x, x, stats, b, offset=1.0)
y = fa.group_norm(x, 3, b, b, channel_axis=1)
y, stats = fa.batch_norm.forward(x, running_mean=b, running_var=b, momentum=0.9, unbiased=True)
y = fa.batch_norm(x, b, b)

y = fa.swiglu(x, x)
y = fa.swiglu(x, axis=-1, halves="gate_last")
y, dup = fa.swiglu.backward(x, x, x)
y = fa.swiglu.backward(x, x)
y = fa.dropout(x, 0.5, seed=3, out=x)
y = fa.dropout.backward(x, 0.5, seed=np.int64(3))
y = fa.rrelu(x, 0.1, 0.3, training=True, seed=1)

optimiser = fa.optim.AdamW([x, b], lr=1e-3, betas=(0.9, 0.99), master=False)
optimiser.step([x, b])
norm: float = optimiser.step([x, b], lr=0.1, max_norm=1.0, scale=1024.0)
optimiser.lr *= 0.5
optimiser.load_state_dict(optimiser.state_dict())
some: fa.optim.Optimiser = fa.optim.SGD({"w": x}.values(), momentum=0.9, nesterov=True)
y = fa.optim.adam_(x, x, x, x, step=1, lr=1e-3)
y = fa.optim.sgd_(x, x, lr=0.1)
norm = fa.optim.clip_grad_norm_([x, b], 1.0)

with fa.use_backend("reference"):
    text = fa.explain(fa.elu, x) + fa.explain("softmax.backward")
threads: int = fa.get_num_threads()
fa.set_num_threads(2)
version: str = fa.info()["version"] + fa.__version__ + fa.get_include()
count: int = fa.warmup(["elu", "softmax"], "forward", "float32")
names: list[str] = [a.name for a in fa.activations.values()]
y = fa.swish(x)
"""

# each line is a mistake
BAD = """
y: int = fa.elu(x)
fa.elu(x, alpha="1")
fa.elu(x, alpa=1)
fa.elu(x, out=[1.0])
fa.elu("x")
fa.elu()
flag: str = fa.elu(1.0)
fa.gelu.backward_from_output(x, x)
fa.elu.backward(x)
fa.elu.backward(x, x, beta=1.0)
fa.gelu(x, approximate="tan")
fa.elu(x, approximate="tanh")
fa.prelu(x)
fa.prelu.backward(x, x)
fa.elu(x, casting="same")
one: Float = fa.gelu.value_and_grad(x)
fa.gelu.biased(x)
fa.gelu.biased(x, b, 1)
a, c, e = fa.gelu.biased_backward(x, x, b)
fa.silu.gated(x)
fa.gelu.fused(x, b, residue=x)
fa.gelu.fused(x, dropout="0.1")
fa.eluu(x)
fa.elu.kernels
fa.softmax(x, dim=1)
fa.softmax(x, axis=1.5)
fa.softmax(x, causal="yes")
fa.softmax(x, where="x")
fa.logsumexp.backward(x, x)
fa.softmax_cross_entropy(x, labels, reduction="avg")
fa.softmax_cross_entropy(x, x)
fa.mse_loss(x, x, delta=1.0)
whole: np.float32 = fa.mse_loss(x, x, reduction="none")
fa.layer_norm(x, epsilon=1e-5)
fa.layer_norm(x, activation=1)
fa.layer_norm.backward(x, x)
f, g = fa.layer_norm.forward(x, residual=x)
fa.group_norm(x)
fa.swiglu(x, halves="first")
fa.swiglu(x, x, halves="gate_first")
fa.dropout(x, 0.5)
fa.rrelu(x)
fa.optim.AdamW(x)
fa.optim.AdamW([x], learning_rate=1e-3)
fa.optim.Adam([x], betas=0.9)
fa.optim.Adm([x])
fa.optim.adam_(x, x, x, x, lr=1e-3)
fa.use_backend("gpu")
fa.set_num_threads("2")
fa.warmup(1)
"""


def mypy(folder, *arguments):
    """What mypy finds: (file name, line): message."""
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    environment = dict(os.environ)
    environment.pop("MYPYPATH", None)
    # mypy finds what is installed by itself, but for packages that are installed as links
    if PACKAGE.parent != Path(sysconfig.get_path("purelib")):
        environment["MYPYPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-executable", sys.executable),
            # only what is asked about, and what other libraries have no types for
            *("--follow-imports=silent", "--ignore-missing-imports", "--allow-subclassing-any"),
            # docs use a name for several things
            "--allow-redefinition",
            *("--config-file=", "--hide-error-context", "--no-error-summary", f"--cache-dir={folder / 'cache'}"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert not done.stderr, done.stderr
    found = re.findall(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert found or done.returncode == 0, done.stdout
    return {(Path(path).name, int(line)): message for path, line, message in found}


def documented(folder):
    """Files with the code of README and docs."""
    for name in DOCS:
        text = (ROOT / name).read_text(encoding="utf-8")
        code = "import numpy as np, fastact as fa\n"
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if ">>>" in block:
                block = "".join(e.source for e in doctest.DocTestParser().get_examples(block) if e.exc_msg is None)
            # kernels of Numba have no types
            code += "" if "njit" in block else block
        path = folder / f"{Path(name).stem}.py"
        # NumPy's own types have no np.float32 of a list
        path.write_text(code.replace("np.float32([", "np.asarray(["))
        yield path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What mypy finds in good and bad code, examples and docs: half of its time is NumPy."""
    folder = tmp_path_factory.mktemp("types")
    good, bad = folder / "good.py", folder / "bad.py"
    good.write_text(HEAD + GOOD)
    bad.write_text(HEAD + BAD)
    return mypy(folder, good, bad, *EXAMPLES, *(documented(folder) if EXAMPLES else ()))


def test_the_stubs_are_up_to_date():
    path = ROOT / "tools"
    if not (path / "stubs.py").exists():
        pytest.skip("tools/ is not in this checkout")
    sys.path.insert(0, str(path))
    try:
        import stubs
    finally:
        sys.path.pop(0)
    for file, text in stubs.STUBS.items():
        assert file.read_text(encoding="utf-8") == text(), "run python tools/stubs.py"


def test_the_stub_has_every_public_name():
    for module, names in (("__init__", fa.__all__), ("optim", fa.optim.__all__)):
        text = (PACKAGE / f"{module}.pyi").read_text(encoding="utf-8")
        missing = [
            name for name in names if not re.search(rf"^(class |def )?{name}\b|\bas {name}\b", text, re.MULTILINE)
        ]
        assert missing == []


def test_backends_of_the_stub():
    assert "(self, name: Literal['auto', " in (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    assert [name for name in backends.ORDER if f"'{name}'" not in (PACKAGE / "__init__.pyi").read_text()] == []


def test_good_code(found):
    assert {k: v for k, v in found.items() if k[0] == "good.py"} == {}


def test_bad_code(found):
    """Each line is a mistake that is found."""
    planted = {i: line for i, line in enumerate((HEAD + BAD).splitlines(), 1) if i > HEAD.count("\n") and line}
    lines = {line for file, line in found if file == "bad.py"}
    assert len(planted) >= 13
    assert [line for i, line in planted.items() if i not in lines] == []
    assert lines <= planted.keys()


def test_examples_and_docs(found):
    if not EXAMPLES:
        pytest.skip("docs/ is not in this checkout")
    assert {k: v for k, v in found.items() if k[0] not in ("good.py", "bad.py")} == {}
