"""Write fastact/__init__.pyi and fastact/optim.pyi: types of what users hold, from the tables and signatures.

Run: python tools/stubs.py
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastact as fa
from fastact import backends, dispatch
from fastact.api.functions import FUNCTIONS
from fastact.api.fused import Fused
from fastact.api.gated_units import GatedUnit
from fastact.api.losses import Loss
from fastact.api.over_axis import RowMethod
from fastact.spec.kinds import ALL, FUSED
from fastact.spec.optimisers import ROWS
from fastact.spec.table import Op
from fastact.spec.units import HALVES

ROOT = Path(__file__).parents[1] / "fastact"

HEAD = '''\
"""Written by tools/stubs.py from the tables; not to be edited."""
# ruff: noqa
# fmt: off
# mypy: disable-error-code="override"
# pyright: reportIncompatibleMethodOverride=false

'''

IMPORTS = """\
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypedDict, TypeVar, overload

import numpy as np
from numpy._typing import _ArrayLikeBool_co, _ArrayLikeFloat_co
from numpy.typing import DTypeLike, NDArray
from typing_extensions import Unpack

from fastact import dispatch as dispatch, optim as optim
from fastact.dispatch import explain as explain, get_include as get_include, get_num_threads as get_num_threads
from fastact.dispatch import info as info, set_num_threads as set_num_threads, warmup as warmup

__version__: str

_F = TypeVar("_F", bound=np.floating[Any])
_A = TypeVar("_A", bound=NDArray[Any])
_Number = float | np.floating[Any] | np.integer[Any]
_Index = int | np.integer[Any]
_Scalar = float | np.integer[Any] | np.bool
_Bool = bool | np.bool
# checkers know nothing of bfloat16, which ml_dtypes defines
_Array = NDArray[np.generic] | list[Any] | tuple[Any, ...]
_Like = _ArrayLikeFloat_co | NDArray[np.generic]
_Outs = NDArray[Any] | tuple[NDArray[Any] | None, ...] | None

class _Loop(TypedDict, total=False):
    casting: Literal["no", "equiv", "safe", "same_kind", "unsafe"]
    order: Literal["K", "A", "C", "F"] | None
    subok: bool

class _Typed(_Loop, total=False):
    dtype: DTypeLike

class _Ufunc(_Loop, total=False):
    where: _ArrayLikeBool_co

class _Method:
    @property
    def ufunc(self) -> np.ufunc: ...
    def __call__(self, *arrays: _Like, **keywords: Any) -> Any: ...

"""

# of a parameter, by its name, where neither its function nor its default says more
TYPES = {
    "where": "_ArrayLikeBool_co",
    "reduction": 'Literal["mean", "sum", "none"]',
    "halves": f"Literal[{', '.join(map(repr, HALVES))}] | None",
    "activation": "str | Activation | tuple[str | Activation, Mapping[str, Any]] | None",
    **dict.fromkeys(("axis", "channel_axis", "groups", "seed", "offset"), "_Index"),
    **dict.fromkeys(("dropout_offset", "ignore_index"), "_Index"),
    **dict.fromkeys(("p", "lower", "upper", "dropout", "scale", "eps", "momentum", "delta"), "_Number"),
    **dict.fromkeys(("label_smoothing", "z_loss"), "_Number"),
    **dict.fromkeys(("training", "causal", "keepdims", "unbiased", "check"), "_Bool"),
    "out": "_Outs",
}
AXES = "_Index | tuple[_Index, ...] | None"
# of ufuncs, but `out` and `dtype`
LOOP = ("where", "casting", "order", "subok")


@dataclass
class Form:
    """One overload: types that differ from `TYPES`, parameters left out, those that must be given, and the result."""

    returns: str
    types: Mapping[str, str] = field(default_factory=dict)
    without: Iterable[str] = ()
    given: Iterable[str] = ()
    keywords: str = ""
    # by name alone
    named: Iterable[str] = ()


def _type(p: inspect.Parameter, form: Form) -> str:
    found = form.types.get(p.name) or TYPES.get(p.name, "_Like")
    optional = p.default is None and p.name not in form.given
    return f"{found} | None" if optional and "None" not in found else found


def _def(name: str, signature: inspect.Signature, form: Form) -> str:
    found, last = ["self"], None
    for p in signature.parameters.values():
        if p.name in form.without or p.kind is p.VAR_KEYWORD:
            continue
        kind = p.KEYWORD_ONLY if p.name in form.named else p.kind
        if last is p.POSITIONAL_ONLY and kind is not last:
            found.append("/")
        if kind is p.KEYWORD_ONLY and last is not kind:
            found.append("*")
        last = kind
        default = "" if p.default is p.empty or p.name in form.given else f" = {p.default!r}"
        found.append(f"{p.name}: {_type(p, form)}{default}")
    if last is inspect.Parameter.POSITIONAL_ONLY:
        found.append("/")
    if form.keywords:
        found.append(f"**keywords: Unpack[{form.keywords}]")
    return f"    def {name}({', '.join(found)}) -> {form.returns}: ..."


def _defs(name: str, function: Callable[..., Any], forms: Iterable[Form]) -> Iterator[str]:
    signature, forms = inspect.signature(function), list(forms)
    for form in forms:
        if len(forms) > 1:
            yield "    @overload"
        yield _def(name, signature, form)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


class Classes:
    """Private classes of the stub; those with the same body are one."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.text: list[str] = []

    def add(self, name: str, base: str, lines: Iterable[str]) -> str:
        body = "\n".join((base, *lines))
        if body not in self.names:
            others = (f"{name}{i}" for i in itertools.count(2))
            name = next(n for n in itertools.chain([name], others) if n not in self.names.values())
            self.names[body] = name
            head = f"class {name}({base}):" if base else f"class {name}:"
            self.text.append("\n".join((head, *body.split("\n")[1:], "")))
        return self.names[body]


# ---- results


def _each(names: Iterable[str], kind: str) -> dict[str, str]:
    return dict.fromkeys(names, kind)


def _tuple(kinds: Iterable[str]) -> str:
    kinds = tuple(kinds)
    return kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"


def _scalars(arrays: list[str], params: list[str], n: int, **more: Any) -> Iterator[Form]:
    for given, result in (("_Scalar", "np.float64"), ("_F", "_F")):
        types = {**_each(arrays, given), **_each(params, "_Number"), **more.pop("types", {}), "out": "None"}
        yield Form(_tuple([result] * n), types, **more)


def elementwise(op: Op, kind: str) -> Iterator[Form]:
    """Of an activation, or a method of it that is a ufunc."""
    arrays, params, n = [a.name for a in ALL[kind].inputs], [p.name for p in op.params], len(ALL[kind].outputs)
    variant = _variant(op)
    plain = {"without": ("dtype", *LOOP), "keywords": "_Ufunc"}
    none = {"out": "None" if n == 1 else _tuple(["None"] * n)}
    for given, taken, result in (
        ("_Scalar", "_Number", "np.float64"),
        ("_F", "_Number", "_F"),
        ("NDArray[_F]", "_Number | NDArray[_F]", "NDArray[_F]"),
    ):
        types = {**_each(arrays, given), **_each(params, taken), **none, **variant}
        yield Form(_tuple([result] * n), types, **plain)
    typed = {"without": LOOP, "keywords": "_Ufunc"}
    dtype = {"dtype": "DTypeLike", **_each(params, "_Like"), **variant}
    if n == 1:
        yield Form("_A", {**dtype, "out": "_A | tuple[_A]"}, given=("out",), **typed)
    outs = {"out": "None" if n == 1 else _tuple(["NDArray[Any] | None"] * n)}
    yield Form(_tuple(["NDArray[Any]"] * n), {**dtype, **outs, arrays[-1]: "_Array"}, **typed)
    yield Form(_tuple(["Any"] * n), {**dtype, **outs}, **typed)


def _variant(op: Op) -> dict[str, str]:
    if op.variants is None:
        return {}
    keyword, choices = op.variants
    return {keyword: f"Literal[{', '.join(map(repr, choices))}]"}


def fused(function: Fused) -> Iterator[Form]:
    """Of a fused kind."""
    op = function.op
    variant = {**_each((p.name for p in op.params), "_Like"), **_variant(op)}
    names = [p.name for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    arrays = [name for name in names if name not in {p.name for p in op.params}]
    params = [p.name for p in op.params]
    n = len(function.outputs)
    summed = n - len(ALL[function.kind].outputs)
    columns = function.along or bool(summed)
    if not columns:
        yield from (replaced(form, _variant(op)) for form in _scalars(arrays, params, n))
    learnt = "NDArray[_F]" if summed else "_Number | NDArray[_F]"
    same = {**_each(arrays, "NDArray[_F]"), **_each(params, learnt), **_variant(op)}
    if n == 1:
        yield Form("NDArray[_F]", {**same, "out": "None"})
        yield Form("_A", {**variant, "out": "_A | tuple[_A]"}, given=("out",))
        yield Form("NDArray[Any]" if columns else "Any", {**variant, "out": "None"})
    else:
        yield Form(_tuple(["NDArray[_F]"] * n), same)
        each = "NDArray[Any]" if columns else "Any"
        yield Form(_tuple([each] * (n - summed) + ["Any"] * summed), variant)


def replaced(form: Form, types: Mapping[str, str]) -> Form:
    """The same with more types."""
    return Form(form.returns, {**form.types, **types}, form.without, form.given, form.keywords)


def step(op: Op) -> Iterator[Form]:
    """Of ``fused``."""
    params, bias = [p.name for p in op.params], _bias(op)
    alone = {bias: "None", "residual": "None", **_variant(op)}
    yield from (replaced(form, alone) for form in _scalars(["x"], params, 1))
    each = _each(("x", bias, "residual"), "NDArray[_F]")
    same = {**_each(params, "_Number | NDArray[_F]"), **each, **_variant(op)}
    variant = {**_each(params, "_Like"), **_variant(op)}
    yield Form("NDArray[_F]", {**same, "out": "None"})
    yield Form("_A", {**variant, "out": "_A | tuple[_A]"}, given=("out",))
    yield Form("NDArray[Any]", {**variant, "x": "_Array", "out": "None"})
    yield Form("Any", {**variant, "out": "None"})


def step_backward(op: Op) -> Iterator[Form]:
    """Of ``fused_backward``."""
    variant, params, bias = _variant(op), [p.name for p in op.params], _bias(op)
    learnt = ["Any"] if op.param_grad is not None else []
    for each, number in (("NDArray[_F]", "_Number | NDArray[_F]"), ("_Like", "_Like")):
        result = each if "_F" in each else "NDArray[Any]"
        types = {"dy": each, "x": each, **_each(params, number), **variant}
        yield Form(_tuple([result, result, *learnt]), {**types, bias: each}, given=(bias,))
        yield Form(_tuple([result, "None", *learnt]), {**types, bias: "None"})


def _bias(op: Op) -> str:
    return "bias" + "_" * any(p.name == "bias" for p in op.params)


def over_axis(function: RowMethod) -> Iterator[Form]:
    """Of softmax and its relatives."""
    arrays = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_ONLY]
    axis = {"axis": AXES}
    reduces = "keepdims" in inspect.signature(function).parameters
    same = {**_each(arrays, "NDArray[_F]"), "bias": "NDArray[_F]", "out": "None", **axis}
    if not reduces:
        yield Form("NDArray[_F]", same, keywords="_Loop")
    yield Form("_A", {**axis, "out": "_A | tuple[_A]"}, given=("out",), keywords="_Typed")
    if not reduces:
        yield Form("NDArray[Any]", {**axis, "out": "None", arrays[-1]: "_Array"}, keywords="_Typed")
    yield Form("Any", {**axis, "out": "None"}, keywords="_Typed")


def loss(function: Loss, gradient: bool) -> Iterator[Form]:
    """Of a loss, or its ``value_and_grad``."""
    first, second = function.arrays
    labels = "NDArray[np.integer[Any]] | Sequence[Any] | _Index"
    of_labels = second == "labels"
    for typed, reduced in itertools.product((True, False), (True, False)):
        array = "NDArray[_F]" if typed else "NDArray[Any]"
        value = ("_F" if typed else "Any") if reduced else array
        types = {"reduction": 'Literal["mean", "sum"]' if reduced else 'Literal["none"]'}
        types |= {second: labels} if of_labels else {}
        types |= {first: array} if typed else {}
        types |= {second: array} if typed and not of_labels else {}
        types["out"] = f"{array} | None"
        returns = _tuple([value, array]) if gradient else value
        yield Form(returns, types, given=() if reduced else ("reduction",))


def norm(function: Any, method: str) -> Iterator[Form]:
    """Of a norm, its ``forward`` or its ``backward``."""
    known = inspect.signature(function).parameters
    columns = [name for name in ("weight", "bias") if name in known]
    offset = {"offset": "_Number"}
    for typed in (True, False):
        array = "NDArray[_F]" if typed else "NDArray[Any]"
        given = array if typed else "_Like"
        types = {**_each(("dy", "x", *columns, "residual"), given), **offset}
        if method == "backward":
            for present in itertools.product((True, False), repeat=len(columns)):
                by = dict(zip(columns, present))
                there = [name for name in columns if by[name]]
                kinds = {name: given if by[name] else "None" for name in columns}
                kinds |= {**types, **kinds, "out": "NDArray[Any]"}
                returns = _tuple([array, *(array if by.get(name) else "None" for name in ("weight", "bias"))])
                if present == (False, True):
                    # the second alone: after None, or by name
                    yield Form(returns, kinds, given=columns)
                    yield Form(returns, kinds, without=columns[:1], given=there, named=there)
                else:
                    yield Form(returns, kinds, given=there)
        elif method == "forward":
            running = _each(("running_mean", "running_var"), "NDArray[Any]")
            for residual in (False, True):
                kinds = {"residual": given if residual else "None"}
                yield Form(
                    _tuple([array, "NDArray[Any]", *([array] if residual else [])]),
                    {**types, **running, **kinds},
                    given=("residual",) if residual else (),
                )
        else:
            yield Form(array, {**types, "out": "None"})
            if typed:
                yield Form("_A", {**offset, "out": "_A"}, given=("out",))


def gated(method: Any) -> Iterator[Form]:
    """Of a gated unit, or its gradients."""
    arrays = [p.name for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    packed, n = arrays[:-1], 2 if "dy" in arrays else 1
    pair = {"without": ("axis", "halves"), "given": arrays[-1:]}
    yield from _scalars(arrays, [], n, **pair)
    yield Form(_tuple(["NDArray[_F]"] * n), {**_each(arrays, "NDArray[_F]"), "out": "_Outs"}, **pair)
    yield Form("NDArray[_F]", {**_each(packed, "NDArray[_F]"), "up": "None", "out": "None"})
    yield Form("_A", {"up": "None", "out": "_A | tuple[_A]"}, given=("out",))
    yield Form("NDArray[Any]", {"up": "None", "out": "None"})
    yield Form(_tuple(["Any"] * n), {"out": "_Outs"}, **pair)


def random(method: Any) -> Iterator[Form]:
    """Of dropout and rrelu."""
    names = inspect.signature(method).parameters
    arrays = [name for name in ("dy", "x") if name in names]
    yield from _scalars(arrays, [], 1)
    yield Form("NDArray[_F]", {**_each(arrays, "NDArray[_F]"), "out": "None"})
    yield Form("_A", {"out": "_A | tuple[_A]"}, given=("out",))
    yield Form("NDArray[Any]", {arrays[-1]: "_Array", "out": "None"})
    yield Form("Any", {"out": "None"})


# ---- classes


def _activation(classes: Classes, activation: Any) -> str:
    op: Op = activation.op
    suffix = "".join(_camel(p.name) for p in op.params) + "".join(_camel(name) for name in _variant(op))
    lines: list[str] = []
    for name in dir(activation):
        method = getattr(activation, name)
        if name == "fused":
            lines += _defs(name, method, step(op))
        elif name == "fused_backward":
            lines += _defs(name, method, step_backward(op))
        elif isinstance(method, Fused):
            lines += _defs(name, method, fused(method))
        elif name in ALL and name not in FUSED:
            body = _defs("__call__", method, elementwise(op, name))
            lines.append(f"    {name}: {classes.add(f'_{_camel(name)}{suffix}', '_Method', body)}")
    lines = [*_defs("__call__", activation, elementwise(op, "forward")), *lines]
    return classes.add(f"_Activation{suffix}", "Activation", lines)


def _function(classes: Classes, function: Any) -> str:
    lines = ["    name: str"]
    if "formula" in dir(function):
        lines.append("    formula: str")
    name = _camel(function.name)
    if isinstance(function, RowMethod):
        lines += ["    @property", "    def ufunc(self) -> np.ufunc: ..."]
        lines += _defs("__call__", function, over_axis(function))
        if "backward" in dir(function):
            body = _defs("__call__", function.backward, over_axis(function.backward))
            lines.append(f"    backward: {classes.add(f'_{name}Backward', '_Method', body)}")
    elif isinstance(function, Loss):
        lines += _defs("__call__", function, loss(function, False))
        lines += _defs("value_and_grad", function.value_and_grad, loss(function, True))
    elif isinstance(function, GatedUnit):
        lines += _defs("__call__", function, gated(function))
        lines += _defs("backward", function.backward, gated(function.backward))
    elif "forward" in dir(function):
        lines += _defs("__call__", function, norm(function, ""))
        for method in ("forward", "backward"):
            lines += _defs(method, getattr(function, method), norm(getattr(function, method), method))
    else:
        lines += _defs("__call__", function, random(function))
        lines += _defs("backward", function.backward, random(function.backward))
    return classes.add(f"_{name}", "", lines)


BASE = """\
class Activation:
    name: str
    params: dict[str, float | None]
    formula: str
    @property
    def ufunc(self) -> np.ufunc: ...
    backward: {methods}
    value_and_grad: {methods}
    def __call__(self, *arrays: _Like, **keywords: Any) -> Any: ...
{fused}
    def address(self, kind: str, dtype: str) -> int: ...

class _Named(Activation):
    # AttributeError where the derivative is no function of the output
    backward_from_output: _Method

class use_backend:
    def __init__(self, name: Literal[{backends}]) -> None: ...
    def __enter__(self) -> use_backend: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

activations: dict[str, _Named]
def get(name: str) -> _Named: ...

"""


def package() -> str:
    """The text of fastact/__init__.pyi."""
    classes, names = Classes(), []
    for name, found in vars(fa).items():
        if name in fa.__all__ and isinstance(found, fa.Activation):
            names.append(f"{name}: {_activation(classes, found)}")
        elif name in FUNCTIONS:
            names.append(f"{name}: {_function(classes, found)}")
    kinds = [name for name in dir(next(iter(fa.activations.values()))) if name in (*FUSED, *dispatch.FUSED_STEPS)]
    base = BASE.format(
        methods="Any",
        fused="\n".join(f"    def {kind}(self, *arrays: _Like | None, **keywords: Any) -> Any: ..." for kind in kinds),
        backends=", ".join(map(repr, ("auto", *backends.ORDER, "cuda"))),
    )
    return HEAD + IMPORTS + base + "\n".join((*classes.text, *names, ""))


# ---- optimisers

OPTIM = """\
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

_A = TypeVar("_A", bound=NDArray[Any])
_Number = float | np.floating[Any] | np.integer[Any]
_Index = int | np.integer[Any]
_Arrays = Sequence[NDArray[Any]] | ValuesView[NDArray[Any]] | Iterator[NDArray[Any]]

class Optimiser:
    params: list[NDArray[Any]]
    state: dict[str, list[NDArray[Any]]]
    lr: float
    @property
    def steps(self) -> int: ...
    @overload
    def step(
        self, grads: _Arrays, *, lr: _Number | None = None, max_norm: None = None, scale: _Number = 1.0
    ) -> None: ...
    @overload
    def step(
        self, grads: _Arrays, *, lr: _Number | None = None, max_norm: _Number, scale: _Number = 1.0
    ) -> float: ...
    def state_dict(self) -> dict[str, NDArray[Any]]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

def clip_grad_norm_(grads: _Arrays | NDArray[Any], max_norm: _Number) -> float: ...

"""


def _hyper(default: Any) -> str:
    if isinstance(default, bool):
        return "bool"
    return _tuple(["float"] * len(default)) if isinstance(default, tuple) else "_Number"


def optimisers() -> str:
    """The text of fastact/optim.pyi."""
    text = []
    for row in ROWS.values():
        made = getattr(fa.optim, row.name)
        own = {h.name: _hyper(h.default) for h in row.hypers}
        form = Form("None", {**own, "params": "_Arrays", "master": "bool"})
        lines = [_def("__init__", inspect.signature(made), form)]
        lines += [f"    {name}: {'float' if kind == '_Number' else kind}" for name, kind in own.items()]
        text.append("\n".join((f"class {row.name}(Optimiser):", *lines, "")))
        function = inspect.signature(getattr(fa.optim, row.function))
        arrays = {p.name: "NDArray[Any]" for p in function.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}
        form = Form("_A", {**arrays, "p": "_A", "step": "_Index", **own})
        text.append(_def(row.function, function, form).strip().replace("(self, ", "(") + "\n")
    return HEAD + OPTIM + "\n".join(text)


STUBS = {ROOT / "__init__.pyi": package, ROOT / "optim.pyi": optimisers}

if __name__ == "__main__":
    for path, text in STUBS.items():
        path.write_text(text(), encoding="utf-8")
