"""Whose array an argument is, with arrays that look like the libraries', in the memory of the stand-in."""

from __future__ import annotations

import cuda_stand_in
import numpy as np
import pytest
from cuda_stand_in import run
from subprocesses import python

from fastact.backends.cuda import families

skip = pytest.mark.skipif(cuda_stand_in.skip_reason() is not None, reason=str(cuda_stand_in.skip_reason()))

SETUP = """
import numpy as np
import cuda_arrays as A
from fastact.backends.cuda import families as F
cuda = A.numba_cuda()
LIBRARIES = {"PyTorch": A.Tensor, "CuPy": A.CuPyArray, "JAX": A.ArrayImpl, "Numba": A.DeviceNDArray,
             "warpy": A.Interface, "exportpy": A.Exporter, "fastact": L.DeviceMemory}
OWN = 1000


def make(name, shape=(2, 3), dtype="float32", device=0):
    if name == "fastact":
        return L.DeviceMemory(shape, dtype, device, OWN + device)
    return LIBRARIES[name](shape, dtype, device)


def family(array):
    return F.family_of(type(array))


def waits():
    "Pairs of streams of which the first waits for the second."
    found = []
    for line in log("cuStreamWaitEvent"):
        stream, other = re.fullmatch(r"cuStreamWaitEvent stream=(\\d+) for=(\\d+)", line).groups()
        found.append((int(stream), int(other) // 1000000))
    return found
"""


def families_run(code, **environment):
    import textwrap

    return run(SETUP + textwrap.dedent(code), devices=2, **environment)


def test_types_without_a_family():
    class Plain:
        pass

    class Array(np.ndarray):
        __cuda_array_interface__ = None

    for type_ in (
        int,
        float,
        list,
        str,
        type(None),
        np.ndarray,
        np.float32,
        np.ma.MaskedArray,
        Plain,
        Array,
    ):
        assert families.family_of(type_) is None, type_


def test_arrays_of_the_simulator():
    pytest.importorskip("numba_cuda")
    python(
        """
import numpy as np
from numba import cuda
from fastact.backends.cuda.families import family_of, begin, end
x = cuda.to_device(np.ones((2, 3), np.float32))
found = family_of(type(x))
assert found.on_device(x) and found.plain and found.view(x)[1:] == ((2, 3), (12, 4), "float32", 0, True)
out = found.finish(found.empty((3,), "float64", 0))
assert type(out) is type(x) and begin(0, [(found, x)]) == 0
end(0, 0, [(found, x)], [(found, x)])
""",
        NUMBA_ENABLE_CUDASIM="1",
    )


@skip
def test_families():
    families_run("""
    for name in LIBRARIES:
        array = make(name)
        found = family(array)
        assert found.name == name and found is family(make(name)), name
        assert found.on_device(array) is True
        assert found.name_of(array) == f"a {name} {'tensor' if name == 'PyTorch' else 'array'} on cuda:0"
        assert found.name_of(make(name, device=1)).endswith("on cuda:1")
    assert family(A.Parameter((2,), "float32")).name == "PyTorch"
    class Mine(A.CuPyArray):
        pass
    assert F.family_of(Mine).name == "CuPy"
    """)


def test_nothing_is_imported():
    """Neither by the module nor by asking for the families of types of NumPy and Python."""
    code = """
import sys
from fastact.backends.cuda import families
import numpy as np
[families.family_of(t) for t in (np.ndarray, float)]
print(*sorted({"torch", "cupy", "jax", "jaxlib", "numba.cuda", "ml_dtypes"} & set(sys.modules)))
"""
    assert python(code) == "\n"


@skip
def test_views():
    families_run("""
    for name in LIBRARIES:
        for dtype in F.DTYPES:
            for device in (0, 1):
                array = make(name, dtype=dtype, device=device)
                address = getattr(array, "memory", array).address
                itemsize = A.dtype_of(dtype).itemsize
                writeable = name not in ("JAX", "exportpy")
                wanted = address, (2, 3), (3 * itemsize, itemsize), dtype, device, writeable
                found = family(array).view(array)
                assert found == wanted and type(found[1]) is tuple, (name, found, wanted)
        for shape in ((), (0,), (3, 0, 2)):
            array = make(name, shape)
            view = family(array).view(array)
            assert view[1] == shape and view[4] == 0 and view[0] == getattr(array, "memory", array).address, name
    for name in ("PyTorch", "CuPy", "Numba", "warpy"):
        memory = L.DeviceMemory((4, 6), "float64", 1, 0)
        array = LIBRARIES[name]((2, 3), "float64", 1, strides=(96, -16), offset=40, memory=memory)
        if name == "PyTorch":
            array._strides = 96, 16  # it has no negative ones
        view = family(array).view(array)
        assert view == (memory.address + 40, (2, 3), (96, 16 if name == "PyTorch" else -16), "float64", 1, True), name
    """)


@skip
def test_current_streams():
    families_run("""
    A.CURRENT.update({0: 11, 1: 12})
    for name in LIBRARIES:
        found = [family(make(name)).stream(device) for device in (0, 1)]
        current = {"PyTorch": [11, 12], "CuPy": [11, 12], "Numba": [1, 1]}.get(name, [OWN, OWN + 1])
        assert found == current, name
        assert family(make(name)).plain is (name in ("PyTorch", "CuPy")), name
    assert F.family_of(A.DeviceNDArray).stream(0, A.DeviceNDArray((2,), "float32", bound=5)) == 5
    """)


@skip
def test_new_arrays():
    """Of the caller's own type, on the device that is asked for, whatever is current."""
    families_run("""
    for name in LIBRARIES:
        for dtype in F.DTYPES:
            for device in (1, 0):
                like = make(name, device=device)
                found = family(like)
                new = found.empty((3, 2), dtype, device, like)
                out = found.finish(new)
                own = name in ("warpy", "exportpy")
                assert type(out) is (L.DeviceMemory if own else type(like)), name
                address, shape, strides, got, where, _ = family(out).view(out)
                assert (shape, got, where) == ((3, 2), dtype, device), name
                assert address == family(new).view(new)[0] != 0
    assert A.CuPyDevice.now == cuda.device == 0
    like = A.DeviceNDArray((2,), "float32", bound=5)
    assert family(like).empty((2,), "float32", 0, like).stream == 5
    """)


@skip
def test_order_with_the_library():
    families_run("""
    def begin(*arrays):
        log()
        return F.begin(0, [(family(a), a) for a in arrays]), waits()

    def end(stream, *arrays):
        log()
        F.end(0, stream, [(family(a), a) for a in arrays])
        return waits()

    A.CURRENT[0] = 11
    for name in ("PyTorch", "CuPy"):
        array = make(name)
        assert begin(array, array) == (11, []) and end(11, array, array) == []

    # JAX and DLPack: exported for our stream; a capsule stays outside until the work is done
    fake.fake_busy(1)
    for name in ("JAX", "exportpy"):
        array = make(name)
        log()
        family(array).view(array)
        assert waits() == [(OWN, 0)], name
        assert begin(array) == (OWN, []) and end(OWN, array) == [(OWN, 0)], name
        del array
        assert L.drop() == 1 and fake.fake_blocks() >= 1
        fake.fake_busy(0)
        assert L.drop() == 0
        fake.fake_busy(1)
    fake.fake_busy(0)
    assert fake.fake_blocks() == 0
    out = F.family_of(A.ArrayImpl).empty((2,), "float32", 0)
    log()
    result = F.family_of(A.ArrayImpl).finish(out)
    assert waits() == [(A.JAX_STREAM, OWN)]

    # the interface: our stream waits for theirs, then theirs for ours
    array = make("warpy")
    for extra, theirs in (({}, 1), ({"stream": None}, 1), ({"stream": 1}, 1), ({"stream": 2}, 2), ({"stream": 77}, 77)):
        array.extra = extra
        assert begin(array) == (OWN, [(OWN, theirs)]) and end(OWN, array) == [(theirs, OWN)]
    array.extra = {"stream": 0}
    with pytest.raises(ValueError, match="stream 0"):
        begin(array)

    # Numba: on the stream of the first array
    a, b, c = (A.DeviceNDArray((2,), "float32", bound=n) for n in (5, 6, 0))
    assert begin(a, b, c, a) == (5, [(5, 6), (5, 1)]) and end(5, a, b, c, a) == [(6, 5), (1, 5)]
    assert begin(c) == (1, []) == (1, end(1, c))
    array = L.DeviceMemory((2,), "float32", 0, 33)
    assert begin(array) == (OWN, [(OWN, 33)]) and end(OWN, array) == [(33, OWN)]

    # arrays of several libraries: on the stream of the first one's
    x, j = make("PyTorch"), make("JAX")
    family(j).view(j)
    assert begin(x, x, a, j) == (11, [(11, 5), (11, OWN)])
    assert end(11, x, x, a, j)[0] == (5, 11) and j.exported[-1] == 11
    assert begin(a, x) == (5, [(5, 11)]) and end(5, a, x) == [(11, 5)]
    # 0 and 1 are one stream
    A.CURRENT[0] = 0
    assert begin(x, c) == (0, []) and begin(c, x) == (1, [])
    assert not log("cuStreamSynchronize")
    """)


@skip
def test_pytorch():
    families_run("""
    found = F.family_of(A.Tensor)
    x = make("PyTorch")
    x.requires_grad = True
    with pytest.raises(TypeError, match="x.detach"):
        found.view(x)
    A.torch.grad = False
    assert found.view(x)[0] == x.data_ptr()
    A.torch.grad = True
    x = make("PyTorch")
    x.layout = "torch.sparse_csr"
    with pytest.raises(TypeError, match="torch.sparse_csr is not taken: pass x.to_dense"):
        found.view(x)
    x = make("PyTorch")
    x.negative = True
    with pytest.raises(TypeError, match="resolve_neg"):
        found.view(x)
    x = make("PyTorch")
    x.dtype = A.torch.complex64
    assert found.view(x)[3] == "complex64"
    x.is_cuda = False
    assert not found.on_device(x)
    x, y = make("PyTorch"), make("PyTorch")
    y.inference = True
    F.end(0, 0, [(found, x), (found, y)], [(found, x), (found, y)])
    assert (x.version, y.version) == (1, 0)
    A.torch.version.hip = "6.0"
    assert not F._PyTorch(A.torch).on_device(make("PyTorch"))
    """)


@skip
def test_jax():
    families_run("""
    found = F.family_of(A.ArrayImpl)
    x = make("JAX")
    x.others = (1,)
    assert found.on_device(x) and found.name_of(x) in ("a JAX array on cuda:0, cuda:1", "a JAX array on cuda:1, cuda:0")
    with pytest.raises(TypeError, match="spread over 2 devices"):
        found.view(x)
    x = make("JAX")
    x.platform = "cpu"
    assert not found.on_device(x)
    x.devices = lambda: {A.JaxDevice("gpu", 0)}  # pinned memory of the host
    with pytest.raises(TypeError, match="not in the memory of a CUDA device"):
        found.view(x)
    x = make("JAX")
    x.dtype = np.dtype("complex64")
    assert found.view(x)[3] == "complex64" and not x.exported
    """)


@skip
def test_a_call_gives_what_the_caller_has():
    """A launch alone is not made: the stand-in has no kernels of ours."""
    families_run("""
    import fastact as fa
    from fastact.backends.cuda.launch import planned

    A.torch.empty_like = lambda t: A.Tensor(t.shape, t.dtype.name, t.get_device())
    for name, type_ in LIBRARIES.items():
        if name in ("warpy", "exportpy"):
            type_ = L.DeviceMemory  # what has no way to make an array of theirs
        x = make(name, (4, 8))
        A.Tensor.is_contiguous = lambda t: False  # not the short way
        with planned() as log_:
            results = fa.gelu(x), fa.softmax(x), *fa.gelu.value_and_grad(x), fa.gelu.gated(x, x), fa.rms_norm(x)
        assert [type(r) for r in results] == [type_] * 6, (name, results)
        assert len(log_) == 5
    """)


@skip
def test_interface():
    families_run("""
    x = make("warpy")
    found = family(x)
    x.extra = {"mask": 1}
    with pytest.raises(TypeError, match="mask"):
        found.view(x)
    x.extra = {"strides": None, "data": (x.memory.address, True)}
    assert found.view(x) == (x.memory.address, (2, 3), (12, 4), "float32", 0, False)
    x.extra = {"typestr": "<V2"}
    assert found.view(x)[3] == "<V2"
    x.dtype = "torch.bfloat16"
    assert found.view(x)[3] == "bfloat16"
    x.extra = {"typestr": ">f4"}
    assert found.view(x)[3] == ">f4"
    x.extra = {"data": (4096, False)}
    with pytest.raises(L.CudaError, match="cuPointerGetAttribute"):
        found.view(x)
    class OnHost:
        @property
        def __cuda_array_interface__(self):
            raise AttributeError("on the host")
    assert not F.family_of(OnHost).on_device(OnHost())
    x = make("exportpy")
    x.kind = 1
    assert not family(x).on_device(x)
    """)


@pytest.mark.torch
def test_pytorch_itself():
    """Tensors of a build without CUDA have no family on a device, and what is asked of a tensor is there."""
    torch = pytest.importorskip("torch")
    for x in (torch.zeros(2, 3), torch.nn.Parameter(torch.zeros(2, 3))):
        found = families.family_of(type(x))
        assert found.name == "PyTorch" and not found.on_device(x)
        assert found.name_of(x) == "a PyTorch tensor on cpu"
    for name in families.DTYPES:
        x = torch.zeros(4, 6, dtype=getattr(torch, name))[1:, ::2]
        size = x.element_size()
        assert found.view(x) == (x.data_ptr(), (3, 3), (6 * size, 2 * size), name, -1, True)
    assert found.view(torch.zeros(2, dtype=torch.complex64))[3] == "complex64"
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(TypeError, match=r"x\.detach"):
        found.view(x)
    found.view(x.detach())
    with torch.no_grad():
        found.view(x)
    with pytest.raises(TypeError, match="to_dense"):
        found.view(torch.eye(3).to_sparse())
    with pytest.raises(TypeError, match="resolve_neg"):
        found.view(torch.zeros(3, dtype=torch.complex64).conj().imag)
    x = torch.ones(3, requires_grad=True)
    y = x.detach()
    loss = (x * y).sum()
    found.written(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        found.written(torch.ones(3))


def test_jax_itself():
    """Arrays of JAX on a CPU, where it is installed."""
    jax = pytest.importorskip("jax")
    x = jax.numpy.zeros((2, 3), "bfloat16")
    found = families.family_of(type(x))
    assert found.name == "JAX" and not found.on_device(x)
    assert [device.platform for device in x.devices()] == ["cpu"]
    assert families._launch.read_dlpack(x.__dlpack__())[1:] == ((2, 3), (6, 2), "bfloat16", 1, 0, True)
