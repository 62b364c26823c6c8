"""Optimisers: what `fastact.optim` holds, made from the table (``fastact/spec/optimisers.py``).

Everything is checked before anything is written. A step is one call of the driver over all arrays (``_driver.Lists``).
"""

from __future__ import annotations

import inspect
import math
import numbers
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastact import dispatch
from fastact.api.arguments import FILLED, integer, refuse_masked, unexpected
from fastact.api.device import any_on_device, is_on_device
from fastact.api.shown import shown_names
from fastact.runtime import _driver
from fastact.spec.kernel import KernelSpec, compute_dtype, itemsize, rule_kernel_of
from fastact.spec.messages import shown
from fastact.spec.optimisers import ROWS, SCALED, STEP_DOMAINS, Hyper, Row, Rule
from fastact.spec.table import Domain

Array = NDArray[Any]

# what PyTorch adds to a norm before it divides by it
NORM_EPS = 1e-6


# ---- numbers


def _number(what: str, value: Any, domain: Domain) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} must be a number, not {shown(value)}")
    if not domain.holds(value):
        raise ValueError(f"{what} must be {domain.text}, not {value}")
    return float(value)


def _value(name: str, hyper: Hyper, value: Any) -> Any:
    """A value of a hyperparameter, checked."""
    what = f"{name}: {hyper.name}"
    if isinstance(hyper.default, bool):
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{what} must be True or False, not {shown(value)}")
        return bool(value)
    if isinstance(hyper.default, tuple):
        n = len(hyper.default)
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != n:
            raise TypeError(f"{what} must be {n} numbers, not {shown(value)}")
        return tuple(_number(f"{what}[{i}]", v, hyper.domain) for i, v in enumerate(value))
    return _number(what, value, hyper.domain)


def _bound(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; a `TypeError` that names the function."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        for keyword in kwargs:
            if keyword not in signature.parameters:
                raise TypeError(unexpected(name, keyword, signature.parameters)) from None
        raise TypeError(f"{name}: {error}") from None


def _checked(row: Row, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all hyperparameters: those given, else their defaults."""
    values = {h.name: _value(row.name, h, given.get(h.name, h.default)) for h in row.hypers}
    if values.get("keras") and "eps" not in given:
        values["eps"] = row.keras_eps
    _fit(row.name, values)
    # what only some have
    values.setdefault("keras", False)
    return values


def _fit(name: str, values: Mapping[str, Any]) -> None:
    if values.get("nesterov") and not values["momentum"]:
        raise ValueError(f"{name}: nesterov needs momentum")


# ---- arrays


def listed(what: str, arrays: Any) -> list[Any]:
    unfit = (np.ndarray, str, bytes, Mapping)
    if isinstance(arrays, unfit) or not isinstance(arrays, Iterable) or is_on_device(arrays):
        raise TypeError(f"{what} must be a list of arrays, not {type(arrays).__name__}")
    return list(arrays)


def _floating(name: str, what: str, array: Any) -> str:
    """The name of the dtype of an array that can be updated or read; `TypeError` for anything else."""
    if not isinstance(array, np.ndarray):
        if is_on_device(array):
            from fastact.api import device_optim

            return device_optim.floating(name, what, array)
        raise TypeError(f"{name}: {what} must be an array, not {type(array).__name__}")
    refuse_masked(f"{name}: {what}", (array,), FILLED)
    dtype = None if array.dtype.kind in "iub" else _driver.computing_dtype([array.dtype])
    if dtype is None:
        raise TypeError(f"{name}: {what} is of {array.dtype}, which is none of {', '.join(_driver.DTYPES)}")
    return dtype


def check_writeable(name: str, what: str, array: Array) -> None:
    if not array.flags.writeable:
        raise ValueError(f"{name}: {what} is read-only")
    low, high = np.lib.array_utils.byte_bounds(array)
    if array.nbytes > high - low or (array.size > 1 and 0 in (s for s, n in zip(array.strides, array.shape) if n > 1)):
        raise ValueError(f"{name}: elements of {what} share memory")


def _share(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def check_disjoint(name: str, arrays: Sequence[tuple[str, Array]]) -> None:
    """`ValueError` where two arrays that are written share memory."""
    bounds = sorted((*np.lib.array_utils.byte_bounds(a), i) for i, (_, a) in enumerate(arrays) if a.size)
    before: list[tuple[int, int]] = []  # that end beyond the beginning of the one looked at
    for low, high, i in bounds:
        before = [(end, j) for end, j in before if end > low]
        for _, j in before:
            if _share(arrays[i][1], arrays[j][1]):
                first, second = sorted((i, j))
                raise ValueError(f"{name}: {arrays[second][0]} shares memory with {arrays[first][0]}")
        before.append((high, i))


def check_apart(name: str, written: Sequence[tuple[str, Array]], read: Sequence[tuple[str, Array]]) -> None:
    """`ValueError` where an array that is read shares memory with one that is written; of those none is empty."""
    bounds = sorted((*np.lib.array_utils.byte_bounds(a), i) for i, (_, a) in enumerate(written))
    tops = list(accumulate((end for _, end, _ in bounds), max))
    for label, g in read:
        low, high = np.lib.array_utils.byte_bounds(g)
        k = bisect_left(bounds, (high,)) - 1
        while k >= 0 and tops[k] > low:
            what, array = written[bounds[k][2]]
            if _share(g, array):
                raise ValueError(f"{name}: {label} shares memory with {what}")
            k -= 1


def _is_plain(array: Array) -> bool:
    return type(array) is np.ndarray and array.flags.carray and array.dtype.isnative


class Lists:
    """Arrays that a rule updates in place: checked, and where they are not laid out for kernels, through copies.

    Parameters
    ----------
    name : str
        Of the optimiser or function, for messages.
    rule : Rule
    dtype : str
        Of the parameters.
    columns : sequence of (label, list of arrays)
        The parameters, and each state. With master copies those come first, then the states, last the parameters.
    """

    def __init__(
        self, name: str, rule: Rule, dtype: str, columns: Sequence[tuple[str, list[Array]]], *, master: bool
    ) -> None:
        self.name, self.columns = name, list(columns)
        labelled = [(label.format(i), a) for label, column in columns for i, a in enumerate(column)]
        for label, a in labelled:
            check_writeable(name, label, a)
        check_disjoint(name, labelled)
        self.copied: list[tuple[Array, Array]] = []
        laid = [tuple(self._laid(a) for a in column) for _, column in columns]
        self.label, self.params = columns[-1 if master else 0]
        copies = laid.pop() if master else None
        shapes = copies if copies is not None else laid[0]
        self.driver = _driver.Lists(dispatch.make_rule(rule), dtype, shapes, tuple(laid), copies)

    def _laid(self, array: Array) -> Array:
        if _is_plain(array):
            return array
        copy = np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)
        self.copied.append((array, copy))
        return copy

    def gradients(self, label: str, grads: Any) -> Sequence[Array]:
        """Gradients as kernels take them; an error that says what is wrong with them."""
        # copies may have been made read-only by now
        if not self.copied and self.driver.plain(grads):
            return grads  # type: ignore[no-any-return]
        name = self.name
        for column_label, column in self.columns:
            for i, a in enumerate(column):
                if not a.flags.writeable:
                    raise ValueError(f"{name}: {column_label.format(i)} is read-only")
        grads = listed(f"{name}: {label.partition('[')[0]}", grads)
        if len(grads) != len(self.params):
            raise ValueError(f"{name}: {len(grads)} gradients for {len(self.params)} parameters")
        if any_on_device(grads):
            from fastact.api import device_optim

            places = {label.format(i): g for i, g in enumerate(grads)}
            device_optim.placed(name, {**places, self.label.format(0): self.params[0]})
        names = []
        for i, (g, p) in enumerate(zip(grads, self.params)):
            what, own = label.format(i), _floating(name, label.format(i), g)
            of = p.dtype.name
            if own not in (of, compute_dtype(of)):
                raise TypeError(f"{name}: {what} is of {own}, {self.label.format(i)} of {of}")
            if g.shape != p.shape:
                raise ValueError(f"{name}: {what} has shape {g.shape}, {self.label.format(i)} {p.shape}")
            names.append(own)
        written = [(lab.format(i), a) for lab, column in self.columns for i, a in enumerate(column) if a.size]
        check_apart(name, written, [(label.format(i), g) for i, g in enumerate(grads)])
        # of one dtype: to widen is exact
        dtype = next((g.dtype for g, own in zip(grads, names) if own == compute_dtype(own)), grads[0].dtype)
        dtype = dtype.newbyteorder("=")
        return [a if _is_plain(a) and a.dtype == dtype else np.array(a, dtype, order="C", subok=False) for a in grads]

    def update(
        self, label: str, grads: Any, numbers: tuple[float, ...], scale: float = 1.0, max_norm: float | None = None
    ) -> float | None:
        """A step: un-scaling, clipping, the rule with these numbers after `factor`.

        Returns
        -------
        float or None
            With `max_norm` the norm of the un-scaled gradients.
        """
        laid = self.gradients(label, grads)
        factor, norm = 1.0 / scale, None
        if max_norm is not None:
            norm = self.driver.norm(laid) / scale
            factor = min(max_norm / (norm + NORM_EPS), 1.0) / scale
        self.run(laid, (factor, *numbers))
        return norm

    def clip(self, max_norm: float) -> float:
        """Shrink the first column, by the rule `SCALED`; gives its norm."""
        norm = _driver.norm_of(self.driver.columns[0])
        factor = max_norm / (norm + NORM_EPS)
        if not factor >= 1.0:
            self.run(None, (factor,))
        return float(norm)

    def run(self, grads: Sequence[Array] | None, numbers: tuple[float, ...]) -> None:
        """One call of the driver over all arrays."""
        for array, copy in self.copied:
            np.copyto(copy, array)
        self.driver.run(grads, numbers)
        for array, copy in self.copied:
            np.copyto(array, copy)


def lists_of(
    name: str, rule: Rule, dtype: str, columns: Sequence[tuple[str, list[Any]]], *, master: bool = False
) -> Any:
    """`Lists` where the arrays are on the host, the same of a device where they are there."""
    if any_on_device(a for _, column in columns for a in column):
        from fastact.api.device_optim import DeviceLists

        return DeviceLists(name, rule, dtype, columns, master=master)
    return Lists(name, rule, dtype, columns, master=master)


def _filled(like: Any, value: float, dtype: str) -> Any:
    """A new array of the shape of another one, where that is."""
    if is_on_device(like):
        from fastact.api import device_optim

        return device_optim.full(like, value, dtype)
    return np.full(like.shape, value, dtype)


def _widened(array: Any, dtype: str) -> Any:
    """A contiguous copy, where the array is."""
    if is_on_device(array):
        from fastact.api import device_optim

        return device_optim.copied(array, dtype)
    return np.array(array, dtype, order="C")


def _on_host(array: Any) -> Array:
    """A copy in the memory of the host."""
    if is_on_device(array):
        from fastact.api import device_optim

        return device_optim.to_host(array)  # type: ignore[no-any-return]
    return array.copy()  # type: ignore[no-any-return]


def _write(array: Any, source: Array) -> None:
    if is_on_device(array):
        from fastact.api import device_optim

        device_optim.from_host(array, source)
    else:
        np.copyto(array, source)


def size_of(array: Any) -> int:
    """How many elements an array has, on the host or on a device."""
    return math.prod(array.shape)


def _params(name: str, params: Any) -> tuple[list[Array], str]:
    """Parameters, and the name of their dtype."""
    params = listed(f"{name}: params", params)
    if not params:
        raise ValueError(f"{name}: params is empty")
    dtypes = [_floating(name, f"params[{i}]", p) for i, p in enumerate(params)]
    for i, dtype in enumerate(dtypes):
        if dtype != dtypes[0]:
            raise TypeError(f"{name}: params[{i}] is of {dtype}, params[0] of {dtypes[0]}; an optimiser has one dtype")
    return params, dtypes[0]


# ---- what users hold


class _Documented(type):
    """Classes whose docstring is made when somebody asks."""

    @property
    def __doc__(cls) -> str | None:  # type: ignore[override]
        if "_row" not in vars(cls):
            # a class that somebody wrote
            return vars(cls).get("__doc__")
        from fastact.api.docstrings_optimisers import of_class

        return of_class(cls)  # type: ignore[arg-type]


class Optimiser(metaclass=_Documented):
    """What the optimisers have in common: `step`, `state_dict`, `load_state_dict`.

    Its subclasses are made from the table of ``fastact/spec/optimisers.py``.
    """

    _row: ClassVar[Row]
    __signature__: ClassVar[inspect.Signature]

    params: list[Array]
    state: dict[str, list[Array]]

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "_row"):
            raise TypeError(f"{type(self).__name__} is what optimisers have in common; use one of {', '.join(ROWS)}")
        row = self._row
        given = _bound(row.name, self.__signature__, (params, *args), kwargs)
        values = _checked(row, given)
        master = given.get("master", False)
        if not isinstance(master, (bool, np.bool_)):
            raise TypeError(f"{row.name}: master must be True or False, not {shown(master)}")
        self.params, self._dtype = _params(row.name, given["params"])
        compute = compute_dtype(self._dtype)
        if master and compute == self._dtype:
            raise ValueError(f"{row.name}: master copies are for float16 and bfloat16, params are of {self._dtype}")
        self._values, self._rule, self._count = values, row.rule(values), 0
        fill = {state: values[of] for state, of in row.fill}
        self.state = {
            name: [_filled(p, fill.get(name, 0.0), compute) for p in self.params] for name in self._rule.state
        }
        if master:
            self.state["master"] = [_widened(p, compute) for p in self.params]
        self._build()

    def _build(self) -> None:
        columns = [("params[{}]", self.params), *((f"{name}[{{}}]", self.state[name]) for name in self._rule.state)]
        master = self.state.get("master")
        if master is not None:
            columns = [("master[{}]", master), *columns[1:], columns[0]]
        self._lists = lists_of(self._row.name, self._rule, self._dtype, columns, master=master is not None)

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return self._count

    def step(
        self, grads: Sequence[Array], *, lr: float | None = None, max_norm: float | None = None, scale: float = 1.0
    ) -> float | None:
        """Update all parameters and their state in one parallel pass.

        Parameters
        ----------
        grads : list of ndarray
            A gradient for each parameter: of its shape, of its dtype or of the one it is computed in.
        lr : float, optional
            The learning rate of this step alone.
        max_norm : float, optional
            Where the norm of all gradients together is greater, they are multiplied by max_norm/(norm + 1e-6), as
            `torch.nn.utils.clip_grad_norm_` does. The gradients themselves stay as they are.
        scale : float
            What the loss was multiplied with: gradients are divided by it first.

        Returns
        -------
        float or None
            With `max_norm` the norm of the un-scaled gradients before clipping; of arrays on a GPU an array of their
            kind without dimensions, for which nobody waits.

        Raises
        ------
        TypeError
            If gradients are not a list of arrays of such dtypes, or a number is none.
        ValueError
            If there are more or fewer gradients than parameters, a shape is another, a gradient shares memory with what
            is written, a parameter is read-only, or a number is outside its domain; nothing is written.

        Notes
        -----
        The norm is a compensated sum in float64, in an order that depends on lengths alone. Where it is infinite or
        NaN, gradients become 0 or NaN, as in PyTorch: to leave such a step out, look at `clip_grad_norm_(grads, inf)`
        before.

        On a GPU a step is one launch for all arrays, with `max_norm` two more for the norm, whose order of additions is
        that of the CPU. A CUDA graph that captures a step repeats it with the same numbers: the learning rate, and the
        number of the step where it depends on that, so that such an optimiser has to be captured for each step anew.
        The optimiser must live as long as the graph.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> w, b = np.ones((2, 2)), np.zeros(2)
        >>> optimiser = fa.optim.SGD([w, b], lr=0.1)
        >>> optimiser.step([np.full((2, 2), 3.0), np.full(2, 4.0)], max_norm=1.0, scale=2.0)
        4.123105625617661
        >>> w, b
        (array([[0.96361967, 0.96361967],
               [0.96361967, 0.96361967]]), array([-0.04850711, -0.04850711]))
        """
        values, name = self._values, self._row.name
        if lr is not None:
            values = {**values, "lr": _value(name, self._row.hypers[0], lr)}
        if scale != 1.0:
            scale = _number(f"{name}: scale", scale, STEP_DOMAINS["scale"])
        if max_norm is not None:
            max_norm = _number(f"{name}: max_norm", max_norm, STEP_DOMAINS["max_norm"])
        count = self._count + 1
        norm = self._lists.update("grads[{}]", grads, self._rule.numbers(values, count), scale, max_norm)
        self._count = count
        return norm  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Array]:
        """Everything that a step depends on beside parameters and gradients, as copies, in the host's memory.

        Returns
        -------
        dict of str to ndarray
            The hyperparameters by name, ``step``, and for the i-th parameter ``NAME.i`` of each state. `numpy.savez`
            takes it: ``np.savez(file, **optimiser.state_dict())``.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> fa.optim.SGD([np.ones(2)], 0.1, 0.9).state_dict()["b.0"]
        array([0., 0.])
        """
        found = {h.name: np.array(self._values[h.name]) for h in self._row.hypers}
        found["step"] = np.array(self._count)
        return found | {f"{name}.{i}": _on_host(a) for name, arrays in self.state.items() for i, a in enumerate(arrays)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another optimiser of this kind was; parameters stay as they are.

        Parameters
        ----------
        state : mapping of str to ndarray
            What `state_dict` gave, or what `numpy.load` gives of it.

        Raises
        ------
        TypeError, ValueError
            If something is missing, left over, of another shape or dtype, or outside its domain; nothing is written.

        Examples
        --------
        >>> import numpy as np, fastact as fa
        >>> w = np.ones(2)
        >>> optimiser, other = fa.optim.Adam([w]), fa.optim.Adam([w], lr=0.1)
        >>> other.step([np.ones(2)])
        >>> optimiser.load_state_dict(other.state_dict())
        >>> optimiser.steps, optimiser.lr
        (1, 0.1)
        """
        name = self._row.name
        state = {key: np.asarray(state[key]) for key in state}
        arrays = {f"{kept}.{i}": a for kept, column in self.state.items() for i, a in enumerate(column)}
        needed = {*(h.name for h in self._row.hypers), "step", *arrays}
        if state.keys() != needed:
            missing, more = sorted(needed - state.keys()), sorted(state.keys() - needed)
            said = [f"{what} {', '.join(keys[:5])}" for what, keys in (("lacks", missing), ("also has", more)) if keys]
            raise ValueError(f"{name}: the state {' and '.join(said)}")
        values = _checked(self._row, {h.name: state[h.name] for h in self._row.hypers})
        self._keeps_rule(values)
        count = integer(f"{name}: step", state["step"].item() if state["step"].ndim == 0 else state["step"])
        if count < 0:
            raise ValueError(f"{name}: step must not be negative, and is {count}")
        for key, a in arrays.items():
            if state[key].dtype != compute_dtype(self._dtype):
                raise TypeError(f"{name}: {key} is of {state[key].dtype}, not {compute_dtype(self._dtype)}")
            if state[key].shape != tuple(a.shape):
                raise ValueError(f"{name}: {key} has shape {state[key].shape}, not {tuple(a.shape)}")
        for key, a in arrays.items():
            _write(a, state[key])
        self._values, self._count = values, count

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lists", "_rule")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._rule = self._row.rule(self._values)
        self._build()

    def _keeps_rule(self, values: Mapping[str, Any]) -> None:
        if self._row.rule(values) is not self._rule:
            raise ValueError(f"{self._row.name}: momentum cannot become 0 or other than 0 later; make a new optimiser")

    def _set(self, hyper: Hyper, value: Any) -> None:
        values = {**self._values, hyper.name: _value(self._row.name, hyper, value)}
        _fit(self._row.name, values)
        self._keeps_rule(values)
        self._values = values

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        n = sum(map(size_of, self.params))
        several = f" in {len(self.params)} arrays" if len(self.params) > 1 else ""
        return _plan(f"{self._row.name} step", self._rule, self._dtype, n, several)

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name.startswith("_"))

    def __repr__(self) -> str:
        given = ", ".join(f"{h.name}={self._values[h.name]!r}" for h in self._row.hypers)
        return f"<fastact.optim.{self._row.name} of {len(self.params)} arrays of {self._dtype}: {given}>"


def _plan(call: str, rule: Rule, dtype: str, elements: int, several: str = "") -> dispatch.Plan:
    spec = rule_kernel_of(rule, compute_dtype(dtype))
    return dispatch.Plan(
        call=call,
        size=f"{elements} elements of {dtype}{several}",
        elements=elements,
        specs=(spec,),
        parallel_min=dispatch.limits(spec)[0],
        written=None,
    )


class Update:
    """One step of an optimiser for one array, its state in the caller's hands."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.name = row.name
        self.__name__ = self.__qualname__ = row.function
        self.__module__ = "fastact.optim"
        self._hypers = {h.name: h for h in row.hypers if h.name not in {of for _, of in row.fill}}
        self.__signature__ = self._signature()

    def _signature(self) -> inspect.Signature:
        every = inspect.Parameter
        names = ["p", "g", *max((rule.state for rule in self.row.rules), key=len)]
        always = min(len(rule.state) for rule in self.row.rules)
        found = [
            every(n, every.POSITIONAL_OR_KEYWORD, default=every.empty if i < 2 + always else None)
            for i, n in enumerate(names)
        ]
        if self.row.counts:
            found.append(every("step", every.KEYWORD_ONLY))
        for h in self._hypers.values():
            default = every.empty if h.name == "lr" else h.default
            found.append(every(h.name, every.KEYWORD_ONLY, default=default))
        return inspect.Signature(found)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        name = self.__name__
        given = _bound(name, self.__signature__, args, kwargs)
        values = _checked(self.row, {k: v for k, v in given.items() if k in self._hypers})
        count = integer(f"{name}: step", given.get("step", 1))
        if count < 1:
            raise ValueError(f"{name}: step must be at least 1, not {count}")
        rule = self.row.rule(values)
        p, g = given["p"], given["g"]
        dtype = _floating(name, "p", p)
        compute = compute_dtype(dtype)
        columns = [("p", [p])]
        for state in self.__signature__.parameters:
            a = given.get(state)
            if state not in rule.state:
                if a is not None and any(state in other.state for other in self.row.rules):
                    raise ValueError(f"{name}: {state} is for momentum, which is 0")
                continue
            if a is None:
                raise TypeError(f"{name}: {state} must be given with momentum")
            own = _floating(name, state, a)
            if own != compute:
                raise TypeError(f"{name}: {state} is of {own}, not {compute}")
            if tuple(a.shape) != tuple(p.shape):
                raise ValueError(f"{name}: {state} has shape {tuple(a.shape)}, p {tuple(p.shape)}")
            columns.append((state, [a]))
        lists_of(name, rule, dtype, columns).update("g", [g], rule.numbers(values, count))
        return p  # type: ignore[no-any-return]

    def kernels(self, kind: str, dtype: str) -> list[KernelSpec]:
        """The kernels behind a kind: all belong to 'forward'."""
        return [rule_kernel_of(r, compute_dtype(dtype)) for r in self.row.rules] if kind == "forward" else []

    def _plan(self, arrays: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dispatch.Plan:
        values = _checked(self.row, {k: v for k, v in kwargs.items() if k in self._hypers})
        dtype, n = "float32", 0
        if arrays:
            dtype, n = _floating(self.__name__, "p", arrays[0]), size_of(arrays[0])
        return _plan(f"{self.row.name} step", self.row.rule(values), dtype, n)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from fastact.api.docstrings_optimisers import of_function

        return of_function(self)

    __dir__ = shown_names

    def __repr__(self) -> str:
        return f"<fastact.optim.{self.__name__}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.row.name,)


def _unpickle(name: str) -> Update:
    return UPDATES[name]


def clip_grad_norm_(grads: Any, max_norm: float) -> float:
    """Shrink gradients in place so that their norm, of all together, is at most `max_norm`.

    Parameters
    ----------
    grads : list of ndarray, or ndarray
        All of one dtype: float16, bfloat16, float32 or float64.
    max_norm : float
        Where the norm is greater, gradients are multiplied by max_norm/(norm + 1e-6).

    Returns
    -------
    float
        The norm before; of arrays on a GPU an array of their kind without dimensions, for which nobody waits.

    Raises
    ------
    TypeError
        If an array is none, of another dtype, or masked, or `max_norm` is no number.
    ValueError
        If an array is read-only or shares memory with another, or `max_norm` is negative or NaN; nothing is written.

    Notes
    -----
    As `torch.nn.utils.clip_grad_norm_`. The norm is a compensated sum in float64: the squares of float32 do not
    overflow, and it has the same bits for any number of threads. With ``max_norm=inf`` only the norm is computed.
    `Optimiser.step` does the same within the step, with ``max_norm=``, and saves a pass.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    >>> fa.optim.clip_grad_norm_(grads, 2.5)
    5.0
    >>> [g.round(3).tolist() for g in grads]
    [[1.5, 0.0], [[2.0]]]
    """
    name = "clip_grad_norm_"
    max_norm = _number(f"{name}: max_norm", max_norm, STEP_DOMAINS["max_norm"])
    arrays = [grads] if isinstance(grads, np.ndarray) or is_on_device(grads) else listed(f"{name}: grads", grads)
    dtypes = [_floating(name, f"grads[{i}]", g) for i, g in enumerate(arrays)]
    for i, dtype in enumerate(dtypes):
        if dtype != dtypes[0]:
            raise TypeError(f"{name}: grads[{i}] is of {dtype}, grads[0] of {dtypes[0]}")
    if not arrays:
        return 0.0
    return lists_of(name, SCALED, dtypes[0], [("grads[{}]", arrays)]).clip(max_norm)  # type: ignore[no-any-return]


# ---- from the table


def _class(row: Row) -> type[Optimiser]:
    every = inspect.Parameter
    arguments = [every("params", every.POSITIONAL_OR_KEYWORD)]
    for h in sorted(row.hypers, key=lambda h: h.by_name):
        kind = every.KEYWORD_ONLY if h.by_name else every.POSITIONAL_OR_KEYWORD
        arguments.append(every(h.name, kind, default=h.default))
    arguments.append(every("master", every.KEYWORD_ONLY, default=False))
    members: dict[str, Any] = {
        "_row": row,
        "__module__": "fastact.optim",
        "__signature__": inspect.Signature(arguments),
    }
    for h in row.hypers:
        members[h.name] = _property(h)
    return _Documented(row.name, (Optimiser,), members)  # type: ignore[return-value]


def _property(hyper: Hyper) -> property:
    return property(
        lambda self: self._values[hyper.name], lambda self, value: self._set(hyper, value), doc=hyper.meaning
    )


CLASSES: dict[str, type[Optimiser]] = {name: _class(row) for name, row in ROWS.items()}
UPDATES: dict[str, Update] = {name: Update(row) for name, row in ROWS.items()}


def bytes_of_a_step(rule: Rule, dtype: str) -> int:
    """Bytes that must be read and written for each element."""
    return itemsize(compute_dtype(dtype)) * (len(rule.inputs) + len(rule.outputs))
