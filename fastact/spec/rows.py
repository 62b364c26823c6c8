"""The table of kernels over rows: which loop each runs, and its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from fastact.spec.call import GREATEST, LAST, SUMS
from fastact.spec.kinds import Argument

# how rows lie: whole, side by side, in parts; as the driver counts them
FORMS = ("", "side", "part")
_POINTWISE = "x targets [weights] -> sums:row [dx] [losses]"
_ALL = GREATEST | SUMS | LAST


@dataclass(frozen=True)
class RowKernel:
    """A kernel over rows.

    Parameters
    ----------
    loop : str
        The function of ``fastact.loops``.
    signature : str
        Inputs ``->`` outputs, each ``name`` or ``name:role``. Beside the roles of kinds there are ``row``, m[i], one
        value for each row, and ``pair``, sums over the rows of a block for each column, which the kernel adds to: n
        sums, then n errors of them (docs/design.md, 'Sums'). Names in brackets may be absent (a null pointer).
    sign : int
        ``SIGN`` in the loop: -1 for softmin.
    scalars : tuple of str
        Numbers for the whole call.
    phases : int
        In which its form ``part`` computes long rows (spec/call.py); 0: there is none, it takes rows of any length.
    side : bool
        Whether there is a form ``side``, for rows side by side.
    """

    loop: str
    signature: str
    sign: int = 1
    scalars: tuple[str, ...] = ()
    phases: int = 0
    side: bool = False

    def _side(self, index: int) -> tuple[Argument, ...]:
        names = self.signature.split("->")[index].replace("[", "").replace("]", "").split()
        return tuple(Argument(*name.split(":")) for name in names)

    @property
    def forms(self) -> tuple[str, ...]:
        """Of `FORMS`, those it has."""
        has = {"": True, "side": self.side, "part": bool(self.phases)}
        return tuple(form for form in FORMS if has[form])

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """The arrays in."""
        return self._side(0)

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """The arrays out."""
        return self._side(1)


# labels are int64, -1: does not count
ROWS: dict[str, RowKernel] = {
    "softmax": RowKernel("softmax", "x -> y", phases=_ALL, side=True),
    "scaled_softmax": RowKernel("scaled_softmax", "x -> y", scalars=("scale",), phases=_ALL, side=True),
    "biased_softmax": RowKernel("biased_softmax", "x bias -> y", scalars=("scale",), phases=_ALL, side=True),
    "softmin": RowKernel("softmax", "x -> y", sign=-1, phases=_ALL, side=True),
    "log_softmax": RowKernel("log_softmax", "x -> y", phases=_ALL, side=True),
    "sparsemax": RowKernel("sparsemax", "x -> y"),
    "logsumexp": RowKernel("logsumexp", "x -> y:row", phases=_ALL),
    "softmax_backward": RowKernel("softmax_backward", "dy y -> dx", phases=SUMS | LAST, side=True),
    "scaled_softmax_backward": RowKernel(
        "scaled_softmax_backward", "dy y -> dx", scalars=("scale",), phases=SUMS | LAST, side=True
    ),
    "softmin_backward": RowKernel("softmax_backward", "dy y -> dx", sign=-1, phases=SUMS | LAST, side=True),
    "log_softmax_backward": RowKernel("log_softmax_backward", "dy y -> dx", phases=SUMS | LAST, side=True),
    "sparsemax_backward": RowKernel("sparsemax_backward", "dy y -> dx"),
    "cross_entropy": RowKernel(
        "cross_entropy",
        "x labels:row [weights:col] -> loss:row [dx]",
        scalars=("factor", "label_smoothing", "z_loss"),
        phases=_ALL,
    ),
    "cross_entropy_of_shares": RowKernel(
        "cross_entropy_of_shares", "x targets -> loss:row [dx]", scalars=("factor", "z_loss"), phases=_ALL
    ),
    "sigmoid_cross_entropy": RowKernel(
        "sigmoid_cross_entropy", "x targets [weights] [pos_weights] -> sums:row [dx] [losses]", scalars=("factor",)
    ),
    "mse_loss": RowKernel("mse_loss", _POINTWISE, scalars=("factor",)),
    "l1_loss": RowKernel("l1_loss", _POINTWISE, scalars=("factor",)),
    "huber_loss": RowKernel("huber_loss", _POINTWISE, scalars=("factor", "delta")),
    "kl_div": RowKernel("kl_div", _POINTWISE, scalars=("factor",)),
    "layer_norm": RowKernel(
        "layer_norm", "x weight:col bias:col -> y [mean:row] [low:row] [rstd:row]", scalars=("eps",)
    ),
    # the norm again, from the statistics that it left
    "layer_norm_apply": RowKernel("layer_norm_apply", "x weight:col bias:col mean:row low:row rstd:row -> y"),
    "layer_norm_backward": RowKernel(
        "layer_norm_backward", "dy x weight:col mean:row low:row rstd:row -> dx dweight:pair dbias:pair"
    ),
    "rms_norm": RowKernel("rms_norm", "x weight:col -> y [rstd:row]", scalars=("eps",)),
    "rms_norm_apply": RowKernel("rms_norm_apply", "x weight:col rstd:row -> y"),
    "rms_norm_backward": RowKernel("rms_norm_backward", "dy x weight:col rstd:row -> dx dweight:pair"),
}
