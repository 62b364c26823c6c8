"""The calling convention of every CPU kernel: ``void kernel(const fastact_call *call)``, the struct of runtime/call.h.

``data[j]`` is where argument j begins, inputs first, then parameters, then outputs; ``row_step[j]`` the bytes from row
to row; ``step[j]`` the bytes from element to element. A kernel computes `rows` rows of `n` elements.

- A kernel of the loop ``map`` takes n in multiples of 16 (float64: 8) and arguments that are contiguous along a row, at
  element alignment. A parameter whose step is 0 is one value, which fills the 64 bytes at ``data[j]``.
- A kernel over rows takes any n, and contiguous rows.
- Its form ``side`` takes rows that lie side by side, elements `step` bytes from each other, and one more argument at
  the end: memory for four groups, each as many rows as fill 64 bytes, n + 1 times 64 bytes for each array in.
- Its form ``part`` takes a part of one row, in a phase that `flags` says: `data` and `n` from the row's element `col0`
  on, a multiple of SEGMENT, `rows` the number of segments of the whole row, and one more argument at the end, its
  records: 64 bytes for each segment, which a phase leaves for the next ones.

``row0`` and ``col0`` say where this call's part begins in the whole, ``scalars`` are numbers for the whole call (a
factor of a gradient, a learning rate), ``seed`` and ``offset`` belong to random numbers. ``ahead`` are addresses of
what is needed after this call: kernels of long formulas ask for it meanwhile, and for their own inputs, AHEAD_BYTES
beforehand, where these are null. (Numba's kernels do the latter: they are never one of several stages.) Outputs may
be inputs. A kernel touches no Python object and raises nothing.

The numbers are offsets in bytes; a test compares them with the C struct.
"""

ARGS = 16
DATA = 0
ROW_STEP = 128
STEP = 256
ROWS = 384
COLS = 392
ROW0 = 400
COL0 = 408
SCALARS = 416
SEED = 424
OFFSET = 432
FLAGS = 440
AHEAD = 448
BYTES = 464

# flags; STREAM: outputs are aligned to 64 bytes and go past the cache (kernels over rows: where the output is aligned)
STREAM = 1
# of a loss the value alone, no gradient
VALUE_ONLY = 2
# row i, counted from `row0`, has i + 1 elements that count; the others of its result are 0
CAUSAL = 32
# phases of a long row, in this order; each runs on all segments before the next one
GREATEST = 4
SUMS = 8
LAST = 16
PHASES = 28

# so much is computed by long formulas that the hardware's prefetchers keep too close (docs/design.md, 'Inputs are asked
# for beforehand')
AHEAD_BYTES = 2048
# elements of a segment: longer rows are the sum of segments
SEGMENT = 65536
