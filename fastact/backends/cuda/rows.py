"""How kernels go over rows: a team of threads for each row, which is read once where it fits.

A row function (fastact/backends/cuda/row_functions.py) is written once, over `Rows`: it asks for greatest elements and
sums of a row and says what is written. What that is in a kernel depends on the form:

==============  ====================================================================================================
``registers``   a row is read once and stays in the registers of its team
``shared``      likewise in the shared memory of its block
``again``       longer rows are read anew for each sum, but for the greatest element and the sum of shares: `shares`
``parts``       few long rows: parts of a row by blocks of their own, a kernel for each sum, which leaves the sum of a
                part in a workspace
==============  ====================================================================================================

Sums have one order that depends on the form, the dtype and the length of a row alone; the form on these, on alignment
and on whether there are few rows. So the same call has the same bits in every run. They are not those of the CPU: its
64 chains would have to be kept apart over all threads. Elements of a thread are added in trees of a word, the words
compensated (two-sum), and so are the threads of a team.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from fastact.backends.cuda.compile import Kernel
from fastact.backends.cuda.dtypes import SIZES
from fastact.backends.cuda.trace import Trace, Value
from fastact.maths.grammar import bind_rows
from fastact.spec.kernel import KernelSpec
from fastact.spec.kinds import Formulas
from fastact.spec.table import Op

# of an access
BYTES = 16
WARP = 32


class Form(NamedTuple):
    """How rows of a kernel are computed.

    Attributes
    ----------
    memory : str
        ``registers``, ``shared``, ``again`` or ``parts``.
    team : int
        Threads of a row, a power of two and at least a warp.
    words : int
        Of a thread, in registers.
    lanes : int
        Elements of a word: those of 16 bytes, or 1 where arrays do not allow that.
    edges : bool
        Whether rows begin or end within a word.
    phase : int
        Of ``parts``: how many sums are known.
    down : int
        Rows that a team goes down, one after the other, when there are sums over rows; 0: one row.
    tiles : int
        Teams that share the columns of a row; sums over columns need one.
    """

    memory: str
    team: int
    words: int = 0
    lanes: int = 1
    edges: bool = False
    phase: int = 0
    down: int = 0
    tiles: int = 1


class _Known(Exception):
    """The sum of this phase is written: there is no more to do."""


class Element:
    """An element of a row: its column and values, by the names of arrays."""

    def __init__(self, column: str, values: dict[str, Any], lane: int) -> None:
        self.column, self._values, self.lane = column, values, lane

    def __getattr__(self, name: str) -> Value:
        return self._values[name]  # type: ignore[no-any-return]


class Rows:
    """Writes a kernel over rows.

    Parameters
    ----------
    spec : KernelSpec
        Of a name in `fastact.spec.rows.ROWS`, of the dtype in memory.
    form : Form
    given : frozenset of str
        Which of the arrays that may be absent there are, and what else the kernel heeds: ``mask``, ``causal``.
    scalars : sequence of str
        The names of numbers for the whole call.
    then : Op, optional
        An activation of the result. Its parameters are numbers ``then_0``, ``then_1``, …
    """

    def __init__(
        self, spec: KernelSpec, form: Form, given: frozenset[str], scalars: Sequence[str], then: Op | None = None
    ) -> None:
        self.spec, self.form, self.given, self.after = spec, form, given, then
        self.dtype, self.size = spec.dtype, SIZES[spec.dtype]
        # of what has a value for each column
        self.column_dtype = spec.compute if "wide_columns" in given else spec.dtype
        self.trace = Trace(spec.compute)
        self.f: dict[str, Callable[..., Any]] = bind_rows(self.trace.primitives(), spec.compute)
        self.then = None if then is None else Formulas(self.f, then)
        self.maps = [a.name for a in spec.inputs if a.role == "map" and a.name in given]
        self.columns = [a.name for a in spec.inputs if a.role == "col" and a.name in given]
        self.row_inputs = [a.name for a in spec.inputs if a.role == "row" and a.name in given]
        self.outputs = [a.name for a in spec.outputs if a.role == "map" and a.name in given]
        self.pairs = [a.name for a in spec.outputs if a.role == "pair" and a.name in given]
        self.row_outputs = [a.name for a in spec.outputs if a.role == "row" and a.name in given]
        self.masked, self.causal = "mask" in given, "causal" in given
        self.scalars = list(scalars)
        self._sums = 0
        self.numbers = 0  # that a team puts together from all its threads
        self._shared = 0
        self._taken: tuple[str, Value] | None = None
        self._kept: dict[str, tuple[Callable[..., Any], list[list[Value]]]] = {}

    def has(self, name: str) -> bool:
        """Whether an array or a trait is given."""
        return name in self.given

    def scalar(self, name: str) -> Value:
        """A number for the whole call."""
        return self.trace.emit(f"{self.spec.compute}({name})")  # type: ignore[no-any-return]

    @property
    def then_params(self) -> list[Value]:
        """The parameters of the activation of the result."""
        return [self.scalar(f"then_{j}") for j in range(0 if self.after is None else len(self.after.params))]

    def rounded(self, value: Value) -> Value:
        """A value as it is in memory."""
        if self.dtype == self.spec.compute:
            return value
        return self.trace.emit(f"round_{self.dtype}({value.name})")  # type: ignore[no-any-return]

    def number(self, value: Any) -> Value:
        return self.trace.value(value)

    @property
    def length(self) -> Value:
        """The number of elements of a row."""
        return self.trace.emit(f"{self.spec.compute}(n)")  # type: ignore[no-any-return]

    # ---- the kernel

    def by_row(self) -> list[str]:
        """The arrays that begin somewhere else for each row."""
        mask = ["mask"] if self.masked else []
        return [*self.maps, *self.row_inputs, *self.outputs, *self.row_outputs, *mask]

    def count_sums(self, function: Callable[[Rows], None]) -> int:
        """How many times a row function goes over a row before it writes."""
        # all sums known
        counted = Rows(self.spec, self.form._replace(phase=MOST_SUMS), self.given, self.scalars, self.after)
        counted.kernel(function)
        return counted._sums

    def arguments(self) -> tuple[list[str], str]:
        """The names of its arguments, and their slots."""
        names = ["rows", "inner", "n"]
        for name in self.by_row():
            names += [f"base_{name}", f"{name}_outer", f"{name}_inner"]
        names += self.columns
        names += ["pairs"] if self.pairs else []
        names += ["queries"] if self.causal else []
        names += ["divisor"] if self.has("divisor") else []
        names += ["parts", "workspace"] if self.form.memory == "parts" else []
        return [*names, *self.scalars], "q" * len(names) + "d" * len(self.scalars)

    def kernel(self, function: Callable[[Rows], None]) -> Kernel:
        """The kernel of a row function."""
        trace, form = self.trace, self.form
        per_block = self.rows_of_block
        trace.line("t = int64(cuda.threadIdx.x)")
        trace.line("block = int64(cuda.blockIdx.x)")
        if form.memory == "parts":
            trace.line("row = block // parts")
            trace.line("part = block % parts")
        elif form.down:
            trace.line(f"tile = block % {form.tiles}" if form.tiles > 1 else "tile = int64(0)")
            trace.line(f"block = block // {form.tiles}")
            trace.line(f"row = block * {form.down}")
            trace.line(f"stop = min(rows, row + {form.down})")
        elif per_block > 1:
            trace.line(f"row = block * {per_block} + t // {form.team}")
            trace.line(f"t = t % {form.team}")
        else:
            trace.line("row = block")
        if form.down:
            self._begin_columns()
            with trace.block("while row < stop:"):
                self._begin()
                function(self)
                trace.line("row += 1")
                if self._sums:
                    self.barrier()
            self._store_pairs()
        else:
            self._place_words()
            with trace.block("if row < rows:"):
                self._begin()
                try:
                    function(self)
                except _Known:
                    pass
        body, trace.lines = trace.lines, []
        if self._shared:
            trace.line(f"exchange = cuda.shared.array({self._shared}, types.{self.spec.compute})")
        if form.memory == "shared":
            trace.line("kept = cuda.shared.array(0, types.uint32)")
        names, slots = self.arguments()
        trace.lines += body
        after = [] if self.after is None else [self.after.name]
        traits = "_".join([form.memory, *map(str, form[1:]), *sorted(self.given), *after])
        return trace.kernel(f"{self.spec.symbol}_{traits}", names, slots, self.block)

    @property
    def rows_of_block(self) -> int:
        """Rows that a block computes: four where a warp is enough for each."""
        return 4 if self.form.team == WARP and self.form.memory == "registers" and not self.form.down else 1

    @property
    def block(self) -> int:
        return self.form.team * self.rows_of_block

    def _place_words(self) -> None:
        """Which words of a row a thread has, of the form ``registers``."""
        if self.form.memory == "registers":
            tile = f"tile * {self.form.team * self.form.words} + " if self.form.tiles > 1 else ""
            for k in range(self.form.words):
                self.trace.line(f"q{k} = {tile}t + {k * self.form.team}")

    def _begin_columns(self) -> None:
        """What a thread has of its columns for all rows: sums, and what has a value for each column."""
        trace, count = self.trace, self.form.lanes
        self._place_words()
        trace.line(f"full = n // {count}")
        self._kept_columns: dict[str, list[list[Value]]] = {}
        for name in self.columns:
            self._kept_columns[name] = []
            for k in range(self.form.words):
                values = [trace.fresh(self.number(0.0).name) for _ in range(count)]
                with trace.block(f"if q{k} < full:"):
                    many = f"_{count}" if count > 1 else ""
                    address = f"{name} + q{k} * {count * SIZES[self.column_dtype]}"
                    trace.line(f"{', '.join(v.name for v in values)} = load_{self.column_dtype}{many}({address})")
                self._kept_columns[name].append(values)
        zero = self.number(0.0)
        self._down = {
            name: [
                [(trace.fresh(zero.name), trace.fresh(zero.name)) for _ in range(count)] for _ in range(self.form.words)
            ]
            for name in self.pairs
        }

    def sums_of_columns(self, values: dict[str, Callable[[Element], Value]]) -> None:
        """Adds values to the sums over rows, one for each column."""
        wanted = {name: value for name, value in values.items() if name in self.pairs}
        if not wanted:
            return

        def add(elements: list[Element], store: Any) -> None:
            for name, value in wanted.items():
                for e in elements:
                    high, low = self._down[name][e._values["_word"]][e.lane]
                    s, error = self.f["two_sum"](high, value(e))
                    rest = low + error
                    self.trace.assign(high, s)
                    self.trace.assign(low, rest)

        self.visit(add)

    def _store_pairs(self) -> None:
        """Leaves the sums of a block in the workspace: of each of them a row of sums and a row of what they lack."""
        trace, count, size = self.trace, self.form.lanes, SIZES[self.spec.compute]
        for j, name in enumerate(self.pairs):
            for k in range(self.form.words):
                with trace.block(f"if q{k} < full:"):
                    for part in range(2):
                        row = f"((block * {len(self.pairs)} + {j}) * 2 + {part}) * n"
                        for lane in range(count):
                            value = self._down[name][k][lane][part].name
                            address = f"pairs + ({row} + q{k} * {count} + {lane}) * {size}"
                            trace.line(f"store_{self.spec.compute}({address}, {value})")

    def _begin(self) -> None:
        trace, form, count = self.trace, self.form, self.form.lanes
        trace.line("outer = row // inner")
        trace.line("at = row % inner")
        for name in self.by_row():
            trace.line(f"{name} = base_{name} + outer * {name}_outer + at * {name}_inner")
        trace.line("own = n")
        if self.causal:
            trace.line("own = min(n, row % queries + 1)")
        # the first column of the words, and how many of them there are
        first = (self.maps + self.outputs + [""])[0]
        if form.edges:
            trace.line(f"head = min(n, ((-{first}) % {BYTES}) // {self.size})")
            trace.line(f"full = (n - head) // {count}")
            trace.line(f"tail = head + full * {count}")
            # the element that a thread has at the edges, if it has one
            trace.line("edge = int64(-1)")
            with trace.block("if t < head:"):
                trace.line("edge = t")
            with trace.block("if t >= 16 and t - 16 < n - tail:"):
                trace.line("edge = tail + t - 16")
        else:
            trace.line("head = int64(0)")
            trace.line(f"full = n // {count}")
        trace.line("first = t")
        trace.line("last = full")
        if form.memory == "parts":
            # whole rounds of the team's words
            trace.line(f"rounds = (full + parts * {form.team} - 1) // (parts * {form.team})")
            trace.line(f"first = part * rounds * {form.team} + t")
            trace.line(f"last = min(full, (part + 1) * rounds * {form.team})")
            if form.edges:
                with trace.block("if part > 0:"):
                    trace.line("edge = int64(-1)")
        self._raw: dict[str, list[list[str]]] = {}
        self._edge: dict[str, Value] = {}
        if form.memory in ("registers", "shared"):
            self._read()

    def _read(self) -> None:
        """Reads a row, all of it before anything is computed, so that many accesses are under way."""
        trace, form, count = self.trace, self.form, self.form.lanes
        for name in self.maps:
            if form.edges:
                self._edge[name] = trace.fresh(self.number(0.0).name)
            self._raw[name] = []
        if form.memory == "registers":
            for k in range(form.words):
                for name in self.maps:
                    words = [trace.name() for _ in range(self._registers)]
                    self._raw[name].append(words)
                    for word in words:
                        trace.line(f"{word} = {self._nothing}")
                with trace.block(f"if q{k} < full:") if self.maps else nullcontext():
                    for name in self.maps:
                        address = f"{name} + (head + q{k} * {count}) * {self.size}"
                        trace.line(f"{', '.join(self._raw[name][k])} = {self._load_words(address)}")
        else:
            trace.line("q = t")
            with trace.block("while q < full:"):
                for j, name in enumerate(self.maps):
                    words = [trace.name() for _ in range(self._registers)]
                    address = f"{name} + (head + q * {count}) * {self.size}"
                    trace.line(f"{', '.join(words)} = {self._load_words(address)}")
                    for i, word in enumerate(words):
                        trace.line(f"kept[{self._place(j, i)}] = {word}")
                trace.line(f"q += {form.team}")
        if form.edges and self.maps:
            with trace.block("if edge >= 0:"):
                for name in self.maps:
                    trace.line(f"{self._edge[name].name} = load_{self.dtype}({name} + edge * {self.size})")

    # raw words: as they lie in memory, so that 16-bit elements take half a register

    @property
    def _registers(self) -> int:
        return 1 if self.form.lanes == 1 else BYTES // 4

    @property
    def _nothing(self) -> str:
        return "uint32(0)" if self.form.lanes > 1 else self.number(0.0).name

    def _load_words(self, address: str) -> str:
        return f"load_words({address})" if self.form.lanes > 1 else f"load_{self.dtype}({address})"

    def _place(self, array: int, register: int) -> str:
        per = self._registers * len(self.maps)
        return f"((q // {self.form.team}) * {per} + {array * self._registers + register}) * {self.form.team} + t"

    def _unpacked(self, words: Sequence[str]) -> list[Value]:
        trace, count = self.trace, self.form.lanes
        if count == 1:
            return [Value(trace, words[0])]
        names = [trace.name() for _ in range(count)]
        trace.line(f"{', '.join(names)} = unpack_{self.dtype}({', '.join(words)})")
        return [Value(trace, name) for name in names]

    def _words_at(self, q: str) -> dict[str, list[str]]:
        """Words of a row that is in shared memory, or read anew."""
        found = {}
        for j, name in enumerate(self.maps):
            found[name] = words = [self.trace.name() for _ in range(self._registers)]
            if self.form.memory == "shared":
                for i, word in enumerate(words):
                    self.trace.line(f"{word} = kept[{self._place(j, i)}]")
            else:
                address = f"{name} + (head + {q} * {self.form.lanes}) * {self.size}"
                self.trace.line(f"{', '.join(words)} = {self._load_words(address)}")
        return found

    # ---- elements

    def _elements(self, columns: list[str], values: dict[str, list[Value]]) -> list[Element]:
        found = []
        for lane, column in enumerate(columns):
            own: dict[str, Any] = {name: v[lane] for name, v in values.items()}
            found.append(Element(column, own, lane))
        return found

    def _with_columns(self, columns: list[str], values: dict[str, list[Value]]) -> dict[str, list[Value]]:
        # what has a value for each column is read where it is needed: it stays in the cache
        count = len(columns)
        for name in self.columns:
            if count > 1 and not self.form.edges:
                names = [self.trace.name() for _ in columns]
                address = f"{name} + ({columns[0]}) * {SIZES[self.column_dtype]}"
                self.trace.line(f"{', '.join(names)} = load_{self.column_dtype}_{count}({address})")
                values[name] = [Value(self.trace, v) for v in names]
            else:
                values[name] = [
                    self.trace.fresh(f"load_{self.column_dtype}({name} + ({c}) * {SIZES[self.column_dtype]})")
                    for c in columns
                ]
        if self.masked:
            values["mask"] = [self.trace.emit(f"load_bool(mask + ({c}))") for c in columns]
        return values

    def visit(self, function: Callable[[list[Element], Callable[..., None]], None], ahead: bool = False) -> None:
        """Calls a function for words of elements, in code that goes over the row.

        Parameters
        ----------
        function : callable
            Of elements, and of a function that stores a value of each in an output.
        ahead : bool
            Whether a word is read before the one before it is computed, where they are not in the multiprocessor yet.
        """
        trace, form = self.trace, self.form
        if form.memory == "registers":
            for k in range(form.words):
                with trace.block(f"if q{k} < full:"):
                    values = {name: self._unpacked(words[k]) for name, words in self._raw.items()}
                    self._visit_word(f"q{k}", k, values, function)
        else:
            trace.line("q = first")
            if ahead and form.memory != "shared":
                with trace.block(f"while q + {form.team} < last:"):
                    trace.line(f"p = q + {form.team}")
                    both = [(q, self._words_at(q)) for q in ("q", "p")]
                    for q, words in both:
                        self._visit_word(q, 0, {name: self._unpacked(w) for name, w in words.items()}, function)
                    trace.line(f"q += {2 * form.team}")
            with trace.block("while q < last:"):
                words = self._words_at("q")
                self._visit_word("q", 0, {name: self._unpacked(w) for name, w in words.items()}, function)
                trace.line(f"q += {form.team}")
        if form.edges:
            with trace.block("if edge >= 0:"):
                if form.memory in ("registers", "shared"):
                    single = {name: [v] for name, v in self._edge.items()}
                else:
                    single = {
                        name: [trace.fresh(f"load_{self.dtype}({name} + edge * {self.size})")] for name in self.maps
                    }
                elements = self._elements(["edge"], self._with_columns(["edge"], single))
                self._without_taken(elements[0])
                function(elements, lambda name, values: self._store(name, "edge", values))

    def _without_taken(self, element: Element) -> None:
        # where a row is not kept, an element that was taken out comes back with each reading
        if self._taken is not None and self.form.memory in ("again", "parts"):
            name, label = self._taken
            element._values[name] = self.at_label(element, label, self.number(float("-inf")), element._values[name])

    def _visit_word(self, q: str, k: int, values: dict[str, list[Value]], function: Callable[..., None]) -> None:
        trace, count = self.trace, self.form.lanes
        column = trace.name()
        trace.line(f"{column} = head + {q} * {count}")
        columns = [f"{column} + {lane}" if lane else column for lane in range(count)]
        if self.form.down:
            values |= {name: kept[k] for name, kept in self._kept_columns.items()}
        else:
            values = self._with_columns(columns, values)
        elements = self._elements(columns, values)
        for element in elements:
            element._values["_word"], element._values["_column"] = k, column
            self._without_taken(element)
        function(elements, lambda name, v: self._store(name, column, v))

    def _store(self, name: str, column: str, values: list[Value]) -> None:
        address = f"{name} + ({column}) * {self.size}"
        many = f"_{len(values)}" if len(values) > 1 else ""
        self.trace.line(f"store_{self.dtype}{many}({address}, {', '.join(v.name for v in values)})")

    def counts(self, element: Element) -> str | None:
        """The condition under which an element counts; None: always."""
        conditions = []
        if self.causal:
            conditions.append(f"({element.column} < own)")
        if self.masked:
            conditions.append(f"({element._values['mask'].name} != 0.0)")
        return " and ".join(conditions) or None

    def counted(self, element: Element, value: Value, otherwise: float) -> Value:
        """The value of an element that counts, else a number."""
        condition = self.counts(element)
        if condition is None:
            return value
        return self.chosen(condition, value, self.number(otherwise))

    def chosen(self, condition: str, a: Value, b: Value) -> Value:
        """a where a condition of integers holds, else b."""
        return self.trace.emit(f"cuda.selp({condition}, {a.name}, {b.name})")  # type: ignore[no-any-return]

    def at_label(self, element: Element, label: Value, a: Value, b: Value) -> Value:
        """a where the column of an element is the label, else b."""
        word = element._values.get("_column")
        if word is None:
            return self.chosen(f"{element.column} == {label.name}", a, b)
        # one difference for all elements of a word
        apart = self.trace.emit(f"{label.name} - {word}")
        return self.chosen(f"{apart.name} == {element.lane}", a, b)

    # ---- labels: integers, of which one may be ignored and others may be no class

    def label(self) -> Value:
        """The label of a row, IGNORED for one that does not count."""
        (dtype,) = (t.removeprefix("labels_") for t in self.given if t.startswith("labels_"))
        load = "load_word(labels)" if dtype == "int64" else f"int64(load_{dtype}(labels))"
        found: Value = self.trace.emit(load)
        if self.has("ignores"):
            found = self.trace.emit(f"int64({IGNORED}) if {found.name} == int64(ignored) else {found.name}")
        return found

    def is_class(self, label: Value) -> str:
        """The condition under which a label is one of the classes."""
        found: Value = self.trace.emit(f"({label.name} >= 0) and ({label.name} < {self._classes})")
        return found.name

    @property
    def _classes(self) -> str:
        return "int64(classes)" if "classes" in self.scalars else "n"

    def without_class(self, label: Value, uncounted: Value, bad: Value) -> Value:
        """What a row has that does not count, and one whose label is no class."""
        condition = f"{label.name} == {IGNORED}" if self.has("ignores") else "False"
        return self.chosen(condition, uncounted, bad)

    def at_class(self, name: str, label: Value) -> Value:
        """The element of an array at a label; 1 where there is no such array, 0 where the label is no class."""
        if not self.has(name):
            return self.number(1.0)
        found = self.trace.fresh(self.number(0.0).name)
        with self.trace.block(f"if {self.is_class(label)}:"):
            dtype = self.column_dtype if name in self.columns else self.dtype
            self.trace.line(f"{found.name} = load_{dtype}({name} + {label.name} * {SIZES[dtype]})")
        return found

    def take_out(self, name: str, label: Value) -> None:
        """From now on an array has -inf where the column is the label."""
        trace, form = self.trace, self.form
        self._taken = name, label
        if form.edges and name in self._edge:
            edge = self._edge[name]
            taken = self.chosen(f"edge >= 0 and edge == {label.name}", self.number(float("-inf")), edge)
            trace.line(f"{edge.name} = {taken.name}")
        if form.memory not in ("registers", "shared"):
            return
        self._owner(label)
        many = {"float64": 1, "float32": 1}.get(self.dtype, 2)  # elements of a register
        per = self._registers // (form.lanes // many) if form.lanes > 1 else 1  # registers of an element
        high = NEGATIVE_INFINITY[self.dtype]
        if form.lanes > 1:
            lane = f"(label_at % {form.lanes})"
            trace.line(f"taken = label_word * {self._registers} + {lane} // {many} * {per} + {per - 1}")
            if many == 2:
                trace.line(f"keep = uint32(0xFFFF0000) if {lane} % 2 == 0 else uint32(0xFFFF)")
                trace.line(f"put = uint32({high}) if {lane} % 2 == 0 else uint32({high << 16})")
            else:
                trace.line("keep = uint32(0)")
                trace.line(f"put = uint32({high})")
        if form.memory == "registers":
            trace.line(f"taken = {'taken' if form.lanes > 1 else 'label_word'} if mine else int64(-2)")
            for k, words in enumerate(self._raw[name]):
                for i, word in enumerate(words):
                    number = k * self._registers + i
                    if form.lanes == 1:
                        trace.line(f"{word} = cuda.selp(taken == {number}, {self.number(float('-inf')).name}, {word})")
                    elif per == 2 and i % 2 == 0:
                        trace.line(f"{word} = cuda.selp(taken == {number + 1}, uint32(0), {word})")
                    else:
                        trace.line(f"{word} = cuda.selp(taken == {number}, uint32(({word} & keep) | put), {word})")
            return
        array = self.maps.index(name)
        step = self._registers * len(self.maps)
        first = f"label_word * {step} + {array * self._registers}"
        trace.line(f"place = ({first} + taken % {self._registers}) * {form.team} + t")
        with trace.block("if mine:"):
            trace.line("kept[place] = uint32((kept[place] & keep) | put)")
            if per == 2:
                trace.line(f"kept[place - {form.team}] = uint32(0)")

    def _owner(self, label: Value) -> None:
        """Whether a thread has the word of a label, which of its words that is, and where the label is in all words."""
        trace, form = self.trace, self.form
        trace.line(f"label_at = {label.name} - head")
        trace.line(f"word_at = label_at // {form.lanes}")
        trace.line(f"label_word = word_at // {form.team}")
        inside = "label_at >= 0 and word_at >= first - t and word_at < last"
        trace.line(f"mine = {inside} and word_at % {form.team} == t")

    def put(self, name: str, label: Value, value: Value) -> None:
        """Writes one element of an output after the others, by the thread that wrote what is there."""
        self._owner(label)
        edge = f" or (edge >= 0 and edge == {label.name})" if self.form.edges else ""
        with self.trace.block(f"if mine{edge}:"):
            self.trace.line(f"store_{self.dtype}({name} + {label.name} * {self.size}, {value.name})")

    # ---- what a row has one of

    def row_value(self, name: str, dtype: str) -> Value:
        """An element of an input that has one for each row."""
        return self.trace.emit(f"load_{dtype}({name})")  # type: ignore[no-any-return]

    def first_element(self) -> Element:
        """The first element of a row."""
        values = {name: self.trace.fresh(f"load_{self.dtype}({name})") for name in self.maps}
        return Element("0", values, 0)

    def store_row(self, name: str, value: Value) -> None:
        """Writes what a row has one of; nothing where it is not wanted."""
        if not self.has(name):
            return
        with self.trace.block("if t == 0 and part == 0:" if self.form.memory == "parts" else "if t == 0:"):
            self.trace.line(f"store_{self.spec.compute}({name}, {value.name})")

    def greatest(self, value: Callable[[Element], Value]) -> Value:
        """The greatest value of the elements that count, -inf where there is none; NaN is passed over."""
        lowest = self.number(float("-inf"))
        best = self.trace.fresh(lowest.name)

        def add(elements: list[Element], store: Any) -> None:
            word = self._over([self.counted(e, value(e), float("-inf")) for e in elements])
            self.trace.assign(best, self.trace.call("fmax", best, word))

        return self._reduced([best], lambda: self.visit(add), lambda a, b: [self.trace.call("fmax", a[0], b[0])])[0]

    def totals(self, *values: Callable[[Element], Value], keep: str = "") -> list[tuple[Value, Value]]:
        """The sums of values over the elements that count, in two parts, in one pass over the row.

        With `keep`, what the first one gives is found again by `again`.
        """
        trace, zero = self.trace, self.number(0.0)
        sums = [trace.fresh(zero.name) for _ in range(2 * len(values))]
        kept: list[list[Value]] = []
        held = keep and self.form.memory == "registers" and self.spec.dtype == self.spec.compute
        if held:
            kept = [[trace.fresh(zero.name) for _ in range(self.form.lanes)] for _ in range(self.form.words)]
            self._kept[keep] = (values[0], kept)
        elif keep:
            self._kept[keep] = (values[0], [])

        def add(elements: list[Element], store: Any) -> None:
            for j, value in enumerate(values):
                terms = []
                for e in elements:
                    v = value(e)
                    if held and j == 0 and "_word" in e._values:
                        trace.assign(kept[e._values["_word"]][e.lane], v)
                    terms.append(self.counted(e, v, 0.0))
                high, low = sums[2 * j : 2 * j + 2]
                s, error = self.f["two_sum"](high, self._added(terms))
                rest = low + error
                trace.assign(high, s)
                trace.assign(low, rest)

        def together(a: list[Value], b: list[Value]) -> list[Value]:
            found: list[Value] = []
            for j in range(0, len(a), 2):
                found += self.f["pair_add"](a[j], a[j + 1], b[j], b[j + 1])
            return found

        found = self._reduced(sums, lambda: self.visit(add), together)
        return [(found[2 * j], found[2 * j + 1]) for j in range(len(values))]

    def shares(
        self, logit: Callable[[Element], Value], over: Callable[[Value], Any], least: Value | None = None
    ) -> tuple[Value, Any, Value, Value]:
        """The greatest logit; shares over it; their sum over the elements that count, in two parts.

        Parameters
        ----------
        logit : callable
        over : callable
            The shares over a greatest logit: `fastact.backends.cuda.row_functions.Shares`.
        least : Value, optional
            What the greatest one is at least.
        """
        if self.form.memory == "again":
            return self._shares_in_one_pass(logit, over, least)
        m = self.greatest(logit)
        if least is not None:
            m = self.trace.call("fmax", m, least)
        share = over(m)
        ((high, low),) = self.totals(lambda e: share(logit(e)), keep="share")
        return m, share, high, low

    def _shares_in_one_pass(
        self, logit: Callable[[Element], Value], over: Callable[[Value], Any], least: Value | None
    ) -> tuple[Value, Any, Value, Value]:
        # each thread's sum is over its greatest logit so far (Milakov and Gimelshein, Online normalizer calculation for
        # softmax, 2018). Cross-entropy of 8192 rows of 32,000 float32, H100: 1.02 ms with a pass for each
        trace, zero, lowest = self.trace, self.number(0.0), self.number(float("-inf"))
        best = over(lowest if least is None else least).kept()
        high, low = trace.fresh(zero.name), trace.fresh(zero.name)

        def scaled(new: Any) -> Value:
            # what is summed has all its elements at -inf, or NaN among them
            return trace.where(best.m == lowest, zero, new.times(best))

        def add(elements: list[Element], store: Any) -> None:
            values = [self.counted(e, logit(e), float("-inf")) for e in elements]
            word = self._over(values)
            with trace.block(f"if {word.name} > {best.m.name}:"):
                new = over(word)
                factor = scaled(new)
                trace.assign(high, high * factor)
                trace.assign(low, low * factor)
                best.move(new)
            with trace.block(f"if {best.m.name} == {lowest.name}:"):
                # -inf and NaN alone: NaN counts
                for v in values:
                    trace.assign(high, high + trace.where(v == lowest, zero, v))
            with trace.block("else:"):
                s, error = self.f["two_sum"](high, self._added([best(v) for v in values]))
                rest = low + error
                trace.assign(high, s)
                trace.assign(low, rest)

        self.visit(add, ahead=True)
        m = self._over_team([trace.fresh(best.m.name)], lambda a, b: [trace.call("fmax", a[0], b[0])])[0]
        share = over(m)
        factor, nothing = scaled(share), share.top * 0.0  # NaN for an infinite m
        parts = [trace.fresh((high * factor + nothing).name), trace.fresh((low * factor).name)]
        found = self._over_team(parts, lambda a, b: list(self.f["pair_add"](*a, *b)))
        self._kept["share"] = (lambda e: share(logit(e)), [])
        return m, share, found[0], found[1]

    def _over(self, values: Sequence[Value]) -> Value:
        """The greatest of some values; NaN is passed over."""
        values = list(values)
        while len(values) > 1:
            values = [self.trace.call("fmax", *values[i : i + 2]) if i + 1 < len(values) else values[i]
                      for i in range(0, len(values), 2)]  # fmt: skip
        return values[0]

    @staticmethod
    def _added(terms: list[Value]) -> Value:
        """Their sum, as a tree."""
        while len(terms) > 1:
            terms = [a + b for a, b in zip(terms[::2], terms[1::2])] + terms[len(terms) & ~1 :]
        return terms[0]

    def total(self, value: Callable[[Element], Value]) -> Value:
        """The sum of values over the elements that count."""
        ((high, low),) = self.totals(value)
        return self.whole(high, low)

    def whole(self, high: Value, low: Value) -> Value:
        """high + low; `high` where an infinite part made the other one NaN."""
        return self.trace.where(low == low, high + low, high)

    def again(self, name: str, element: Element) -> Value:
        """What the sum of a name was taken of."""
        value, kept = self._kept[name]
        if kept and "_word" in element._values:
            return kept[element._values["_word"]][element.lane]
        return value(element)

    def write(self, name: str, value: Callable[[Element], Value], otherwise: float = 0.0) -> None:
        """Writes an output of a row; elements that do not count are a number."""
        self.write_all({name: value}, otherwise)

    def write_all(self, values: dict[str, Callable[[Element], Value]], otherwise: float = 0.0) -> None:
        """Writes several outputs in one pass."""

        def put(elements: list[Element], store: Callable[..., None]) -> None:
            found = {
                name: [self.counted(e, self.trace.value(value(e)), otherwise) for e in elements]
                for name, value in values.items()
                if self.has(name)
            }
            for name, results in found.items():
                store(name, results)

        if any(self.has(name) for name in values):
            self.visit(put)

    def barrier(self) -> None:
        """Where a team goes on to what it has done before: all have read what will be written anew."""
        if self.form.team > WARP:
            self.trace.line("cuda.syncthreads()")

    # ---- over a team

    def _reduced(
        self,
        parts: list[Value],
        compute: Callable[[], None],
        together: Callable[[list[Value], list[Value]], list[Value]],
    ) -> list[Value]:
        """What threads have found, together; of ``parts`` the workspace has it from the next phase on."""
        number, self._sums = self._sums, self._sums + 1
        if self.form.memory != "parts":
            compute()
            return self._over_team(parts, together)
        width = len(parts)
        address = f"workspace + ((row * parts + {{part}}) * {MOST_SUMS * MOST_WIDTH} + {number * MOST_WIDTH}) * {WIDE}"
        if number < self.form.phase:
            # every thread takes some parts, in the order of parts
            trace = self.trace
            trace.line("other = t")
            with trace.block("while other < parts:"):
                at = trace.name()
                trace.line(f"{at} = {address.format(part='other')}")
                theirs = [trace.fresh(f"load_{self.spec.compute}({at} + {j * WIDE})") for j in range(width)]
                for mine, both in zip(parts, together(parts, theirs)):
                    trace.assign(mine, both)
                trace.line(f"other += {self.form.team}")
            return self._over_team(parts, together)
        compute()
        found = self._over_team(parts, together)
        with self.trace.block("if t == 0:"):
            at = self.trace.name()
            self.trace.line(f"{at} = {address.format(part='part')}")
            for j, value in enumerate(found):
                self.trace.line(f"store_{self.spec.compute}({at} + {j * WIDE}, {value.name})")
        raise _Known

    def _over_team(
        self, parts: list[Value], together: Callable[[list[Value], list[Value]], list[Value]]
    ) -> list[Value]:
        self.numbers += len(parts)
        found = self._over_lanes(parts, together, WARP)
        warps = self.form.team // WARP
        if warps == 1:
            return found
        trace, width = self.trace, len(parts)
        start, self._shared = self._shared, self._shared + width * warps
        with trace.block(f"if t % {WARP} == 0:"):
            for j, value in enumerate(found):
                trace.line(f"exchange[{start + j * warps} + t // {WARP}] = {value.name}")
        trace.line("cuda.syncthreads()")
        theirs = [trace.fresh(f"exchange[{start + j * warps} + t % {warps}]") for j in range(width)]
        return self._over_lanes(theirs, together, warps)

    def _over_lanes(
        self, parts: list[Value], together: Callable[[list[Value], list[Value]], list[Value]], lanes: int
    ) -> list[Value]:
        found = parts
        while lanes > 1:
            lanes //= 2
            others = [self.trace.fresh(f"cuda.shfl_xor_sync({EVERY}, {v.name}, {lanes})") for v in found]
            found = [self.trace.fresh(v.name) for v in together(found, others)]
        return found


# a label that does not count
IGNORED = -(1 << 62)
# lanes of a warp that shuffle
EVERY = "0xFFFFFFFF"
# the bits of -inf that are not 0
NEGATIVE_INFINITY = {"float32": 0xFF800000, "float64": 0xFFF00000, "float16": 0xFC00, "bfloat16": 0xFF80}
# of a workspace: how many sums a row function has at most, of how many numbers each, bytes of a number
MOST_SUMS = 6
MOST_WIDTH = 10
WIDE = 8
