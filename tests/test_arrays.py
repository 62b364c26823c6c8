"""What a NumPy user expects of a ufunc: shapes, dtypes, `out`, `where`, memory layouts, overlap, other array types."""

import numpy as np
import pytest
from cases import batch, call, each_dtype, each_name, kinds, outputs, parameters, same
from hypothesis import given, settings, strategies
from oracle import TRUTH
from ulp import BFLOAT16, misaligned, poisoned

import fastact as fa
from fastact.spec.table import OPS

F32 = np.dtype(np.float32)


@each_name
@each_dtype
def test_dtype_is_kept(name, dtype, backend):
    case = TRUTH[name].cases[0]
    for kind in kinds(name, case):
        for result in call(name, kind, np.ones((3, 5), dtype), case):
            assert result.dtype == dtype
            assert result.shape == (3, 5)


@each_name
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, bool])
def test_integers_and_booleans_become_float64(name, dtype):
    case = TRUTH[name].cases[0]
    values = [-7, -1, 0, 1, 5, 100] if np.dtype(dtype).kind == "i" else [0, 1, 1, 0]
    x = np.array(values, dtype)
    (y,) = call(name, "forward", x, case)
    assert y.dtype == np.float64
    assert same(y, call(name, "forward", x.astype(np.float64), case)[0])


def test_mixed_dtypes_compute_in_the_wider():
    x = np.linspace(-3, 3, 7)
    assert fa.tanh.backward(np.ones(7, np.float32), x).dtype == np.float64
    assert fa.tanh.backward(np.ones(7, np.float32), x.astype(np.float16)).dtype == np.float32
    assert fa.tanh.backward(np.ones(7, np.float16), x.astype(BFLOAT16)).dtype == np.float32
    # a Python number does not widen
    assert fa.elu(x.astype(np.float32), alpha=0.5).dtype == np.float32
    assert fa.elu(x.astype(np.float16), alpha=2).dtype == np.float16


@each_name
def test_python_and_numpy_scalars(name, backend):
    case = TRUTH[name].cases[0]
    given = parameters(name, case)
    activation = fa.activations[name]
    want = activation(np.array([0.75], np.float32), **given)[0]
    scalar = activation(np.float32(0.75), **given)
    assert isinstance(scalar, np.float32)
    assert scalar == want
    assert activation(np.array(0.75, np.float32), **given) == want
    assert isinstance(activation(0.75, **given), np.float64)
    assert isinstance(activation([0.75, 1.0], **given), np.ndarray)
    out = poisoned((), F32)
    assert activation(np.float32(0.75), **given, out=out) is out
    assert out == want


@each_name
@each_dtype
def test_out_is_returned_and_filled(name, dtype, backend):
    case = TRUTH[name].cases[0]
    x = batch(dtype, 1003).reshape(17, 59)
    for kind in kinds(name, case):
        want = call(name, kind, x, case)
        out = outputs(kind, x.shape, dtype)
        got = call(name, kind, x, case, out=out)
        assert all(a is b for a, b in zip(got, out if isinstance(out, tuple) else (out,), strict=True))
        for a, b in zip(got, want, strict=True):
            assert same(a, b)


@each_name
def test_out_as_tuple_and_of_another_dtype(name):
    case = TRUTH[name].cases[0]
    given = parameters(name, case)
    x = batch(F32, 100)
    want = fa.activations[name](x, **given)
    out = poisoned(100, np.float64)
    assert fa.activations[name](x, **given, out=(out,)) is out
    assert same(out, want.astype(np.float64))
    with pytest.raises(TypeError):
        fa.activations[name](x, **given, out=np.zeros(100, np.int32))
    # casting on request
    small = poisoned(100, np.float16)
    with np.errstate(over="ignore", under="ignore"):
        fa.activations[name](x, **given, out=small, casting="same_kind")
        assert same(small, want.astype(np.float16))


@each_name
def test_where(name, backend):
    case = TRUTH[name].cases[0]
    x = batch(F32, 4001)
    mask = np.random.default_rng(2).random(4001) < 0.4
    for kind in kinds(name, case):
        if name == "prelu" and kind == "backward":
            continue  # returns a sum as well, of which there is no part
        want = call(name, kind, x, case)
        out = outputs(kind, x.shape, F32)
        for a, b in zip(call(name, kind, x, case, out=out, where=mask), want, strict=True):
            assert same(a[mask], b[mask])
            assert np.isnan(a[~mask]).all(), "written where the mask is false"


@each_name
def test_dtype_and_order_keywords(name):
    case = TRUTH[name].cases[0]
    given = parameters(name, case)
    activation = fa.activations[name]
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    assert same(activation(x, **given, dtype=np.float64), activation(x.astype(np.float64), **given))
    assert same(
        activation(np.arange(5), **given, dtype=np.float32), activation(np.arange(5, dtype=np.float32), **given)
    )
    assert activation(x, **given, order="F").flags.f_contiguous
    assert activation(np.asfortranarray(x), **given).flags.f_contiguous
    assert activation(np.asfortranarray(x), **given, order="C").flags.c_contiguous


@each_name
def test_read_only_input(name, backend):
    case = TRUTH[name].cases[0]
    x = batch(F32, 501)
    want = [call(name, kind, x, case) for kind in kinds(name, case)]
    x.setflags(write=False)
    before = x.copy()
    for kind, results in zip(kinds(name, case), want, strict=True):
        for a, b in zip(call(name, kind, x, case), results, strict=True):
            assert same(a, b)
    assert same(x, before)


@pytest.mark.parametrize("name", ["relu", "elu", "silu", "leaky_relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (17,), (3, 1, 4), (2, 0), (600,), ()])
def test_plain_arrays_take_a_short_cut_to_the_same_result(name, dtype, shape, backend):
    f = fa.activations[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    defaults = [np.asarray(p.default, dtype) for p in OPS[name].params]
    expected = f.ufunc(x, *defaults)
    got = f(x)
    assert type(got) is type(expected)
    assert same(np.asarray(got), np.asarray(expected))
    if shape:
        assert got.flags.c_contiguous and got.flags.owndata and got.flags.writeable
    out = np.full(shape, np.nan, dtype)
    assert f(x, out=out) is out
    assert same(out, np.asarray(expected))
    in_place = x.copy()
    assert f(in_place, out=in_place) is in_place
    assert same(in_place, np.asarray(expected))
    if not shape:
        return  # np.asfortranarray would make it 1-d
    fortran = np.asfortranarray(x)
    assert same(np.asarray(f(fortran)), np.asarray(expected))
    assert f(fortran, out=np.empty_like(x)).shape == shape


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros(7, np.float32), ValueError, r"relu: out has shape \(7,\), the result \(8,\)"),
        (np.zeros((2, 8), np.float32)[:, :4], ValueError, r"relu: out has shape \(2, 4\), the result \(8,\)"),
        (np.zeros(8, np.int32), TypeError, "Cannot cast ufunc 'relu' output"),
        ([0.0] * 8, TypeError, "relu: out must be an array, not list"),
        (np.zeros((), np.float32), ValueError, r"relu: out has shape \(\), the result \(8,\)"),
    ],
    ids=["shorter", "another shape", "integers", "a list", "0-d"],
)
def test_a_wrong_out_is_refused_as_numpy_does(out, error, message, backend):
    x = np.ones(8, np.float32)
    with pytest.raises(error, match=message):
        fa.relu(x, out=out)
    with pytest.raises(error):
        fa.relu.ufunc(x, out=out)
    assert not np.any(out)


@each_name
def test_read_only_out_is_refused(name):
    out = np.zeros(5, np.float32)
    out.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        fa.activations[name](np.ones(5, np.float32), **parameters(name, TRUTH[name].cases[0]), out=out)


@each_name
@pytest.mark.parametrize("shift", [1, 7, 16, -1, -5, -33])
def test_overlap_of_input_and_out(name, shift, backend):
    """As if there were none: NumPy's promise."""
    case = TRUTH[name].cases[0]
    given = parameters(name, case)
    size = 40_000
    fresh = batch(F32, size + 64)
    low, high = max(shift, 0), max(-shift, 0)
    want = fa.activations[name](fresh[low : low + size], **given)
    buffer = fresh.copy()
    fa.activations[name](buffer[low : low + size], **given, out=buffer[high : high + size])
    assert same(buffer[high : high + size], want)
    if name != "prelu":
        dy = np.ones(size, np.float32)
        want = fa.activations[name].backward(dy, fresh[low : low + size], **given)
        buffer = fresh.copy()
        fa.activations[name].backward(dy, buffer[low : low + size], **given, out=buffer[high : high + size])
        assert same(buffer[high : high + size], want)


def test_reversed_overlap(backend):
    x = batch(F32, 10_001)
    want = fa.gelu(x[::-1])
    fa.gelu(x[::-1], out=x)
    assert same(x, want)


def test_outputs_of_value_and_grad_may_lie_on_the_input(backend):
    x = batch(F32, 5000)
    y, d = fa.silu.value_and_grad(x)
    for place in (0, 1):
        buffer, other = x.copy(), poisoned(5000, F32)
        out = (buffer, other) if place == 0 else (other, buffer)
        got = fa.silu.value_and_grad(buffer, out=out)
        assert same(got[0], y)
        assert same(got[1], d)


@each_name
def test_non_native_byte_order(name):
    case = TRUTH[name].cases[0]
    x = batch(F32, 77)
    swapped = x.astype(x.dtype.newbyteorder())
    assert same(np.asarray(call(name, "forward", swapped, case)[0], np.float32), call(name, "forward", x, case)[0])


@pytest.mark.parametrize(
    "name", ["leaky_relu", "elu", "softplus", "silu", "hard_tanh", "soft_shrink", "celu", "squareplus"]
)
def test_array_parameters_broadcast(name, backend):
    """One parameter per row, per column, per element: each as the scalar."""
    truth = TRUTH[name]
    x = batch(F32, 600).reshape(20, 30)
    rows = [truth.cases[i % 2] for i in range(20)]
    for shape in ((20, 1), (20, 30)):
        arrays = {k: np.broadcast_to(np.array([r[k] for r in rows], np.float32)[:, None], shape) for k in rows[0]}
        for kind in ("forward", "backward", "value_and_grad"):
            results = call(name, kind, x, arrays)
            for i in range(20):
                scalars = {k: np.float32(v) for k, v in rows[i].items()}
                for got, want in zip(results, call(name, kind, x[i], scalars), strict=True):
                    assert same(got[i], want)
    columns = {k: np.array([truth.cases[j % 2][k] for j in range(30)], np.float32) for k in truth.cases[0]}
    got = fa.activations[name](x, **columns)
    for j in range(30):
        assert same(got[:, j], fa.activations[name](x[:, j], **{k: v[j] for k, v in columns.items()}))


def test_inputs_broadcast_against_each_other(backend):
    dy = batch(F32, 12, 1).reshape(3, 1, 4)
    x = batch(F32, 20, 2).reshape(5, 4)
    got = fa.mish.backward(dy, x)
    assert got.shape == (3, 5, 4)
    full = np.broadcast_arrays(dy, x)
    assert same(got, fa.mish.backward(np.ascontiguousarray(full[0]), np.ascontiguousarray(full[1])))


def test_subclasses_pass_through():
    class Tagged(np.ndarray):
        pass

    x = np.linspace(-1, 1, 5, dtype=np.float32).view(Tagged)
    assert isinstance(fa.elu(x), Tagged)
    assert type(fa.elu(x, subok=False)) is np.ndarray
    masked = np.ma.array(np.float32([-1, 0, 1]), mask=[False, True, False])
    result = fa.relu(masked)
    assert isinstance(result, np.ma.MaskedArray)
    assert result.mask.tolist() == [False, True, False]
    assert isinstance(fa.relu(np.matrix([[1.0, -1.0]])), np.matrix)


def test_masked_arrays_keep_their_masks(backend):
    """Elementwise, NumPy's own rules hold: what either input masks is masked, of both outputs, in `out`, too."""
    data = np.float32([[-1, 0.5, 9], [3, -4, 2]])
    x = np.ma.array(data, mask=[[0, 0, 1], [1, 0, 0]])
    dy = np.ma.array(data + 1, mask=[[1, 0, 0], [0, 0, 0]])
    both = x.mask | dy.mask
    out = np.ma.zeros(x.shape, np.float32)
    assert fa.elu(x, alpha=0.5, out=out) is out
    for got, want, mask in (
        (fa.elu(x, alpha=0.5), fa.elu(data, alpha=0.5), x.mask),
        (out, fa.elu(data, alpha=0.5), x.mask),
        (fa.gelu.backward(dy, x), fa.gelu.backward(data + 1, data), both),
        (fa.gelu.backward(dy, data), fa.gelu.backward(data + 1, data), dy.mask),
        (fa.relu.backward_from_output(data, x), fa.relu.backward_from_output(data, data), x.mask),
        *((g, w, x.mask) for g, w in zip(fa.silu.value_and_grad(x), fa.silu.value_and_grad(data))),
    ):
        assert isinstance(got, np.ma.MaskedArray)
        assert got.dtype == np.float32
        assert (np.ma.getmaskarray(got) == mask).all()
        assert same(got.compressed(), want[~mask])


NUMBERS = {
    "float64": np.float64(0.5),
    "float32": np.float32(0.5),
    "float16": np.float16(0.5),
    "int64": np.int64(1),
    "bool": np.bool_(True),
    "longdouble": np.longdouble(0.5),
    "0-d float64": np.array(0.5),
    "0-d int": np.array(1),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_number_as_a_parameter_does_not_choose_the_dtype(dtype, number, backend):
    """Whatever its own dtype; an array of one element does."""
    alpha = NUMBERS[number]
    if number == "longdouble" and np.finfo(np.longdouble).nmant > 52:
        alpha = np.float64(alpha)
    dtype = np.dtype(dtype) if dtype != "bfloat16" else BFLOAT16
    whole = np.linspace(-2, 2, 48).astype(dtype).reshape(6, 8)
    for x in (whole, whole[::2], whole[:, ::3], whole.T, whole[:, :1], whole[0, 0], whole[:0]):
        results = [
            fa.elu(x, alpha=alpha),
            fa.elu.backward(x, x, alpha=alpha),
            fa.elu.backward_from_output(x, x, alpha=alpha),
            *fa.elu.value_and_grad(x, alpha=alpha),
            fa.prelu(x, alpha),
            fa.threshold(x, alpha, value=alpha),
            fa.elu(x, alpha=alpha, out=np.zeros_like(x), where=np.ones(x.shape, bool)) if np.ndim(x) else x,
            fa.elu.gated(x, x, alpha=alpha),
            *fa.elu.gated_backward(x, x, x, alpha=alpha),
            fa.prelu.backward(x, x, alpha)[0],
        ]
        if np.ndim(x):
            results += [fa.elu.biased(x, x[0] if x.ndim > 1 and x.size else np.zeros(x.shape[-1], dtype), alpha=alpha)]
        assert {np.asarray(r).dtype for r in results} == {dtype}
        assert same(results[0], fa.elu(x, alpha=float(alpha)))
    assert f"elements of {dtype.name}" in fa.explain(fa.elu, whole, alpha=alpha)
    assert f"elements of {dtype.name}" in fa.explain(fa.elu.gated, whole, whole, alpha=alpha)
    if dtype == np.float32:
        assert fa.elu(whole, alpha=np.array([0.5])).dtype == np.float64


def test_array_ufunc_protocol_is_asked_first():
    class Recorder:
        def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
            return ufunc, method, len(inputs), kwargs

    ufunc, method, count, _ = fa.elu(Recorder(), alpha=0.5)
    assert ufunc is fa.elu.ufunc
    assert method == "__call__"
    assert count == ufunc.nin


def test_the_ufunc_is_a_ufunc():
    assert isinstance(fa.elu.ufunc, np.ufunc)
    assert (fa.elu.ufunc.nin, fa.elu.ufunc.nout) == (2, 1)
    assert (fa.relu.ufunc.nin, fa.relu.ufunc.nout) == (1, 1)
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    assert same(fa.elu.ufunc(x, np.float32(0.5)), fa.elu(x, alpha=0.5))
    buffer = x.copy()
    fa.relu.ufunc.at(buffer, [0, 1])
    assert same(buffer, np.array([0, 0, *x[2:]], np.float32))


def test_pandas():
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(np.float32([-1, 0, 2]), index=list("abc"), name="x")
    result = fa.elu(series)
    assert isinstance(result, pandas.Series)
    assert list(result.index) == list("abc")
    assert result.dtype == np.float32
    assert same(result.to_numpy(), fa.elu(series.to_numpy()))
    frame = pandas.DataFrame({"a": np.float32([1, -1]), "b": np.float32([0, -3])})
    result = fa.gelu(frame)
    assert isinstance(result, pandas.DataFrame)
    assert list(result.columns) == ["a", "b"]
    assert same(result.to_numpy(), fa.gelu(frame.to_numpy()))


def test_xarray():
    xarray = pytest.importorskip("xarray")
    data = xarray.DataArray(np.float32([[1, -1, 2], [0, 3, -4]]), dims=("row", "column"), coords={"row": [10, 20]})
    result = fa.silu(data)
    assert isinstance(result, xarray.DataArray)
    assert result.dims == ("row", "column")
    assert result.coords["row"].values.tolist() == [10, 20]
    assert same(result.values, fa.silu(data.values))


def test_dask():
    dask_array = pytest.importorskip("dask.array")
    x = batch(F32, 60_000).reshape(300, 200)
    lazy = dask_array.from_array(x, chunks=(70, 90))
    result = fa.mish(lazy)
    assert isinstance(result, dask_array.Array)
    assert result.dtype == np.float32
    assert same(result.compute(scheduler="threads"), fa.mish(x))
    assert same(fa.elu(lazy, alpha=0.5).compute(), fa.elu(x, alpha=0.5))
    dy = dask_array.ones_like(lazy)
    assert same(fa.mish.backward(dy, lazy).compute(), fa.mish.backward(np.ones_like(x), x))
    assert same(fa.elu.backward_from_output(dy, lazy).compute(), fa.elu.backward_from_output(np.ones_like(x), x))
    with pytest.raises(TypeError, match="map_blocks"):
        fa.mish.value_and_grad(lazy)  # Dask's limit: docs/integrations.md


def test_memory_map(tmp_path, backend):
    x = batch(F32, 3000)
    x.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", np.float32, "r")
    assert same(np.asarray(fa.gelu(mapped)), fa.gelu(x))


def test_zero_strides_and_field_of_a_record_array(backend):
    record = np.zeros(333, [("a", np.int8), ("x", np.float32), ("b", np.int16)])
    record["x"] = batch(F32, 333)
    want = fa.softplus(record["x"].copy())
    assert same(fa.softplus(record["x"]), want)
    fa.softplus(record["x"], out=record["x"])
    assert same(record["x"].copy(), want)
    target = misaligned(333, F32, 3)
    assert same(
        fa.softplus(np.broadcast_to(np.float32(1.5), 333), out=target), np.full(333, fa.softplus(np.float32(1.5)))
    )


layouts = strategies.lists(
    strategies.tuples(strategies.integers(1, 23), strategies.sampled_from([1, 2, 3, -1, -2])), min_size=1, max_size=3
)


@settings(max_examples=150, deadline=None)
@given(
    x_axes=layouts, seed=strategies.integers(0, 2**16), transpose=strategies.booleans(), gap=strategies.integers(0, 5)
)
def test_any_layout(x_axes, seed, transpose, gap):
    """Random shapes, strides and orders of input and output, against the same elements one after the other."""

    def view(base_shape, steps):
        space = np.full([n * abs(s) + gap for n, s in zip(base_shape, steps)], np.nan, F32)
        index = tuple(slice(None, n * s, s) if s > 0 else slice(n * -s - 1, None, s) for n, s in zip(base_shape, steps))
        return space, space[index]

    shape = [n for n, _ in x_axes]
    _, x = view(shape, [s for _, s in x_axes])
    values = batch(F32, int(np.prod(shape)) + 1, seed)[1:].reshape(shape)
    x[...] = values
    space, out = view(shape, [s for _, s in reversed(x_axes)])
    if transpose:
        x, out = x.T, out.T
        values = values.T
    fa.gelu(x, out=out)
    want = fa.gelu(np.ascontiguousarray(values).ravel()).reshape(values.shape)
    assert same(out, want)
    # and nothing outside of the view was written
    kept = np.isnan(out).sum() + space.size - out.size
    assert np.isnan(space).sum() == kept
