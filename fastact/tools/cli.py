"""The command ``fastact``: info, demo, bench, verify, plot, warmup.

What a user can get wrong ends in a message on stderr, without a traceback, and exit code 2. Libraries for screens and
plots are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import fastact as fa
from fastact import dispatch
from fastact.api.functions import FUNCTIONS
from fastact.api.optimisers import UPDATES
from fastact.runtime._driver import DTYPES
from fastact.spec.kernel import kernel_of
from fastact.spec.kinds import KINDS
from fastact.spec.table import OPS, Op, resolve
from fastact.tools import bench, curves, demo, verify
from fastact.tools.arguments import natural, parameter, picture, positive, without_required


class Parser(argparse.ArgumentParser):
    """Errors as wide as the terminal, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, wrapped(f"{self.prog}: error: {message}") + "\n")


def wrapped(text: str) -> str:
    """Lines as wide as the terminal; what can be copied, such as a path, stays whole."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def activation(text: str) -> Op:
    """The activation of a name or alias."""
    try:
        return OPS[fa.get(text).name]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def function(text: str) -> str:
    """The name of an activation, a function over an axis, a loss or an optimiser."""
    try:
        return resolve(text, (*FUNCTIONS, *UPDATES))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def demo_activation(text: str) -> Op:
    """An activation that needs no parameter from the user."""
    return without_required(activation(text))


def sizes(text: str) -> tuple[int, ...]:
    """Positive integers separated by commas."""
    return tuple(positive(part.strip()) for part in text.split(","))


def some_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A type of arguments: words from `known`, separated by commas."""
    known = tuple(known)

    def words(text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(","))
        for word in found:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(known)}")
        return found

    return words


def served() -> dict[str, str]:
    """Which backend would serve the activations of float32 now, and why: backends with a count and a reason."""
    answers = Counter(dispatch.serving(kernel_of(op, "forward", "float32")) for op in OPS.values())
    found: dict[str, list[str]] = {}
    for (name, why), count in answers.most_common():
        found.setdefault(name, []).append(f"{count} of {len(OPS)} activations ({why})")
    return {name: "; ".join(reasons) for name, reasons in found.items()}


def run_info(args: argparse.Namespace) -> int:
    found = dispatch.info()
    # beside the backend that is chosen
    items = list(found.items())
    at = [key for key, _ in items].index("asked for") + 1
    try:
        found = dict([*items[:at], ("serves by default", served()), *items[at:]])
    except (ValueError, RuntimeError):
        pass  # the backend that is asked for is not available, which `backend` says
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"fastact {found['version']}", title_justify="left", show_header=False)
    for key, value in found.items():
        if key == "backends":
            value = {name: reason or "available" for name, reason in value.items()}
        if isinstance(value, dict):
            value = "\n".join(f"{name}: {text}" for name, text in value.items()) or "none"
        if key != "version":
            table.add_row(key, str(value))
    Console().print(table)
    return 0


def run_demo(args: argparse.Namespace) -> int:
    settings = demo.Settings(
        activation=args.activation.name,
        hidden=args.hidden,
        batch_norm=args.batch_norm,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    return demo.run(settings, plot_path=args.plot, as_json=args.json)


def run_plot(args: argparse.Namespace) -> int:
    ops, given = args.activations, dict(args.param)
    known = dict.fromkeys(p.name for op in ops for p in op.params)
    for name in given:
        if name not in known:
            args.error(
                f"no parameter {name!r} in {', '.join(op.name for op in ops)}; there is {', '.join(known) or 'none'}"
            )
    for op in ops:
        missing = [p.name for p in op.params if p.default is None and p.name not in given]
        if missing:
            args.error(f"{op.name} needs {', '.join(f'--param {name}=NUMBER' for name in missing)}")
    low, high = args.range
    if not low < high:
        args.error(f"the range must go from a smaller to a larger number, not from {low:g} to {high:g}")
    choices = [(op, {p.name: given[p.name] for p in op.params if p.name in given}) for op in ops]
    try:
        path = args.out or picture(f"{'-'.join(op.name for op in ops)}.png")
        curves.figure_of(choices, low, high).savefig(path, dpi=150)
    except (argparse.ArgumentTypeError, ValueError) as error:  # no place for the file; a parameter outside its domain
        args.error(str(error))
    print(path)
    return 0


def run_warmup(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    try:
        ready = dispatch.warmup(args.names or None, args.kinds, args.dtypes)
    except (ValueError, RuntimeError) as error:  # of the backend that is asked for
        args.error(str(error))
    seconds = time.perf_counter() - start
    found = dispatch.info()
    if args.json:
        print(json.dumps({"kernels": ready, "seconds": seconds, "backend": found["backend"]}))
    else:
        print(f"{ready} kernels ready after {seconds:.1f} s (backend {found['backend']})")
    if found["backend"] != "numba" or found["cache folder"] not in found["cache problems"]:
        return 0
    folder = found["cache folder"]
    print(
        f"fastact warmup: nothing is kept for the next process: {folder}: {found['cache problems'][folder]}",
        file=sys.stderr,
    )
    return 1


def build_parser() -> Parser:
    """All commands and their arguments."""
    parser = Parser(prog="fastact", description="Activation functions for NumPy.")
    parser.add_argument("--version", action="version", version=f"fastact {fa.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> Parser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run, error=added.error)
        return added

    p = command("info", run_info, "backends and why not, instruction set, threads, cache folder")
    p.add_argument("--json", action="store_true", help="print JSON")

    default = demo.Settings()
    p = command("demo", run_demo, "train a network on handwritten digits, with plain NumPy and with fastact")
    p.add_argument(
        "--activation", type=demo_activation, default=default.activation, metavar="NAME", help="default: %(default)s"
    )
    hidden = ",".join(map(str, default.hidden))
    p.add_argument(
        "--hidden", type=sizes, default=hidden, metavar="N,N", help="units per hidden layer, default: %(default)s"
    )
    p.add_argument("--batch-norm", action="store_true", help="batch normalisation before each activation")
    p.add_argument("--epochs", type=positive, default=default.epochs, metavar="N", help="default: %(default)s")
    p.add_argument("--batch-size", type=positive, default=default.batch_size, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=natural, default=default.seed, metavar="N", help="default: %(default)s")
    p.add_argument("--plot", type=picture, metavar="FILE", help="draw losses, dead and saturated units, gradient norms")
    p.add_argument("--json", action="store_true", help="print the result as JSON, everything else on stderr")

    p = command("bench", bench.run, "measure against NumPy, PyTorch, ONNX Runtime, JAX, TensorFlow, SciPy")
    bench.add_arguments(p)
    p = command(
        "verify",
        verify.run,
        "measure the error of an activation over every float32, of softmax and losses over random rows",
    )
    verify.add_arguments(p)

    p = command("plot", run_plot, "draw activations and their derivatives")
    p.add_argument("activations", type=activation, nargs="+", metavar="NAME", help="several are drawn side by side")
    p.add_argument("--out", type=picture, metavar="FILE", help="default: NAME.png, of several NAME-NAME.png")
    p.add_argument(
        "--param",
        type=parameter,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a parameter of every named activation that has it",
    )
    p.add_argument("--range", type=float, nargs=2, default=(-6.0, 6.0), metavar=("LOW", "HIGH"), help="default: -6 6")

    p = command("warmup", run_warmup, "compile kernels ahead, so that no later call waits for one")
    p.add_argument("names", type=function, nargs="*", metavar="NAME", help="activations, softmax, losses; default: all")
    p.add_argument("--kinds", type=some_of(KINDS), metavar="KIND,KIND", help=f"of {', '.join(KINDS)}; default: all")
    p.add_argument(
        "--dtypes",
        type=some_of(DTYPES),
        default="float32",
        metavar="DTYPE,DTYPE",
        help=f"of {', '.join(DTYPES)}; default: %(default)s",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a wrong command line, or what the command says.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; by default those of the process.

    Examples
    --------
    >>> main(["--version"])
    Traceback (most recent call last):
    SystemExit: 0
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except MemoryError as error:
        args.error(f"not enough memory: {error}")
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
