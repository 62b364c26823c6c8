"""The table of kernels over rows: which loop each runs, and its arguments."""

from __future__ import annotations

from dataclasses import dataclass

from fastact.spec.kinds import Argument


@dataclass(frozen=True)
class RowKernel:
    """A kernel over rows.

    Parameters
    ----------
    loop : str
        The function of ``fastact.loops.rows``.
    signature : str
        Inputs ``->`` outputs, each ``name`` or ``name:role``. Beside the roles of kinds there is ``row``, m[i], one
        value for each row. Names in brackets may be absent (a null pointer).
    sign : int
        ``SIGN`` in the loop: -1 for softmin.
    scalars : tuple of str
        Numbers for the whole call.
    """

    loop: str
    signature: str
    sign: int = 1
    scalars: tuple[str, ...] = ()

    def _side(self, index: int) -> tuple[Argument, ...]:
        names = self.signature.split("->")[index].replace("[", "").replace("]", "").split()
        return tuple(Argument(*name.split(":")) for name in names)

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
    "softmax": RowKernel("softmax", "x -> y"),
    "softmin": RowKernel("softmax", "x -> y", sign=-1),
    "log_softmax": RowKernel("log_softmax", "x -> y"),
    "sparsemax": RowKernel("sparsemax", "x -> y"),
    "logsumexp": RowKernel("logsumexp", "x -> y:row"),
    "softmax_backward": RowKernel("softmax_backward", "dy y -> dx"),
    "softmin_backward": RowKernel("softmax_backward", "dy y -> dx", sign=-1),
    "log_softmax_backward": RowKernel("log_softmax_backward", "dy y -> dx"),
    "sparsemax_backward": RowKernel("sparsemax_backward", "dy y -> dx"),
    "cross_entropy": RowKernel("cross_entropy", "x labels:row [weights:col] -> loss:row [dx]", scalars=("factor",)),
    "cross_entropy_of_shares": RowKernel("cross_entropy_of_shares", "x targets -> loss:row [dx]", scalars=("factor",)),
    "sigmoid_cross_entropy": RowKernel(
        "sigmoid_cross_entropy", "x targets [weights] [pos_weights] -> sums:row [dx] [losses]", scalars=("factor",)
    ),
}
