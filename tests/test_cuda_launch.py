"""Calls of the CUDA driver, against the stand-in of fake_cuda.c: no GPU is needed, and none is used."""

from __future__ import annotations

import cuda_stand_in
import pytest
from cuda_stand_in import run
from subprocesses import python

from fastact.backends.cuda import _launch

pytestmark = pytest.mark.skipif(cuda_stand_in.skip_reason() is not None, reason=str(cuda_stand_in.skip_reason()))


# ---- whether CUDA can be used


def unusable(**environment):
    """Why not, of a process that tries twice, and in whose other calls it says the same."""
    library = environment.pop("library", None) or cuda_stand_in.compiled()
    return python(
        """
from fastact.backends.cuda import _launch as L

reason = L.why_not()
assert reason == L.why_not() and L.device_count() == 0
for call in (L.driver_version, lambda: L.device(0), lambda: L.load(b"nothing 0", "nothing"),
             lambda: L.launch(1, 0, 0, 1, 1, 1, 0, ()), lambda: L.allocate(0, 0, 8), lambda: L.pointer_device(8),
             lambda: L.DeviceMemory((1,), "float32", 0, 0), lambda: L.Event(0)):
    try:
        call()
    except L.CudaError as error:
        assert str(error) == f"CUDA cannot be used: {reason}" and (error.call, error.code) == ("", 0)
    else:
        raise AssertionError("no error")
print(reason, end="")
""",
        FASTACT_LIBCUDA=str(library),
        **{f"FAKE_CUDA_{name.upper()}": str(value) for name, value in environment.items()},
    )


def test_importing_opens_nothing():
    assert "cuInit" not in run("print(fake.fake_log().decode())")


def test_no_driver():
    reason = unusable(library="/nowhere/libcuda.so.1")
    assert reason.startswith("no NVIDIA driver: /nowhere/libcuda.so.1 cannot be loaded (")


def test_not_a_driver():
    reason = unusable(library=_launch.__file__)
    assert reason == f"{_launch.__file__} is no CUDA driver: it lacks cuDriverGetVersion"


@pytest.mark.parametrize("version, said", [(11040, "11.4"), (11080, "11.8"), (9020, "9.2")])
def test_old_driver(version, said):
    assert unusable(version=version) == f"the NVIDIA driver supports CUDA {said}, 12.0 is needed"


def test_no_device():
    reason = "cuInit failed with CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"
    assert unusable(devices=0) == reason


@pytest.mark.parametrize("call", ["cuDriverGetVersion", "cuInit", "cuDeviceGetCount", "cuDeviceGet"])
def test_start_fails(call):
    assert unusable(fail=f"{call}=999") == f"{call} failed with unknown error (no description)"


def test_versions_that_serve():
    for version, found in ((12000, (12, 0)), (12040, (12, 4)), (13000, (13, 0))):
        assert run("assert L.why_not() is None; print(L.driver_version())", version=version) == f"{found}\n"


def test_many_threads_start_once():
    run("""
    import threading
    barrier, found = threading.Barrier(16), []
    def start():
        barrier.wait()
        found.append(L.why_not())
    threads = [threading.Thread(target=start) for _ in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert found == [None] * 16 and log("cuInit") == ["cuInit 0"]
    """)


def test_forked_after_use():
    run("""
    from fastact.backends.cuda.families import family_of
    k = kernel()
    L.launch(k, 0, 0, 1, 1, 1, 0, ())
    memory, event, capsule = L.DeviceMemory((4,), "float32", 0, 0), L.Event(0), L.DeviceMemory((4,), "int8", 0, 0)
    capsule = capsule.__dlpack__()
    fake.fake_busy(1)
    L.hold(0, 5, L.DeviceMemory((4,), "float32", 0, 0))
    log()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert "forked after CUDA had been used" in L.why_not()
            for call in (lambda: L.launch(k, 0, 0, 1, 1, 1, 0, ()), lambda: event.record(0), memory.__dlpack__):
                with pytest.raises(L.CudaError, match="forked"):
                    call()
            assert L.device_count() == 0 and L.drop() == 0
            del memory, event, capsule
            gc.collect()
            assert not log(), "the child calls the parent's driver"
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert L.why_not() is None
    L.launch(k, 0, 0, 1, 1, 1, 0, ())
    """)


def test_forked_before_use():
    run("""
    child = os.fork()
    if child == 0:
        os._exit(L.why_not() is not None)
    assert os.waitpid(child, 0)[1] == 0 and L.why_not() is None
    """)


def test_forked_after_use_by_another_library():
    """The driver itself says so: cuInit of the child fails."""
    run("""
    assert fake.cuInit(0) == 0
    child = os.fork()
    if child == 0:
        os._exit("CUDA_ERROR_NOT_INITIALIZED" not in L.why_not() or "forked?" not in L.why_not())
    assert os.waitpid(child, 0)[1] == 0
    """)


# ---- devices


def test_devices():
    run(
        """
    assert L.device_count() == 3
    found = L.device(2)
    assert found == ("Stand-in 2", (9, 0), 132, 232448, 50 << 20, 80 << 30, True)
    assert found.capability == (9, 0) and found.memory_pools is True
    for i in (-1, 3):
        with pytest.raises(ValueError, match=f"there is no CUDA device {i}; there are 3"):
            L.device(i)
    """,
        devices=3,
    )


# ---- kernels


def test_load():
    run("""
    k = L.load(b"axpy 4\\nnothing 0\\n", "axpy", 4)
    assert k and L.load(b"nothing 64", "nothing", 64)
    assert L.attributes(k, 0) == (32, 16, 4096, 1024) and L.attributes(k, 0).registers == 32
    log()
    L.allow_shared(k, 0, 131072)
    assert log() == ["cuKernelSetAttribute axpy 8=131072 device=0"]
    with pytest.raises(L.CudaError, match="cuKernelSetAttribute failed with CUDA_ERROR_INVALID_VALUE"):
        L.allow_shared(k, 0, 1 << 20)
    with pytest.raises(ValueError, match="negative"):
        L.allow_shared(k, 0, -1)
    log()
    L.prepare(k, 0)
    assert log() == ["cuKernelGetFunction context=primary0 mode=2"] and fake.fake_depth() == 0
    """)


def test_load_of_bad_images():
    run("""
    with pytest.raises(ValueError, match="empty"):
        L.load(b"", "nothing")
    with pytest.raises(L.CudaError, match="cuLibraryLoadData failed with CUDA_ERROR_INVALID_IMAGE"):
        L.load(b"\\x7fELF", "nothing")
    log()
    with pytest.raises(L.CudaError, match="cuLibraryGetKernel failed with CUDA_ERROR_NOT_FOUND"):
        L.load(b"nothing 0", "axpy")
    assert log("cuLibraryUnload"), "the library of no kernel stays"
    with pytest.raises(ValueError, match="kernel axpy has 4 parameters, not 3"):
        L.load(b"axpy 4", "axpy", 3)
    with pytest.raises(ValueError, match="not of 8 bytes each, or more than 64"):
        L.load(b"axpy -2", "axpy")
    with pytest.raises(ValueError, match="more than 64"):
        L.load(b"axpy 65", "axpy")
    with pytest.raises(TypeError):
        L.load("nothing 0", "nothing")
    """)


def test_load_is_no_part_of_a_capture():
    run("""
    kernel()
    assert log("cuLibraryLoadData") == ["cuLibraryLoadData mode=2"] and fake.fake_mode() == 0
    with pytest.raises(L.CudaError):
        L.load(b"?", "nothing")
    assert fake.fake_mode() == 0
    """)


# ---- launches


def test_slots():
    """Every number arrives with its bits."""
    run("""
    import struct
    import numpy as np
    k = kernel("nothing", 14)
    class Index:
        def __index__(self):
            return -7
    class Real(float):
        pass
    values = (0, -1, 2**31, -2**63, 2**63 - 1, 2**63, 2**64 - 1, True, np.int32(-5), Index(), 0.0, -1.5, Real(1e300),
              np.float64(np.nan))
    L.launch(k, 0, 0, 1, 1, 1, 0, values)
    bits = [struct.unpack("<q", struct.pack("<d", v))[0] for v in values[10:]]
    wanted = [0, -1, 2**31, -2**63, 2**63 - 1, -2**63, -1, 1, -5, -7, *bits]
    (line,) = launches()
    assert [int(v) for v in line.partition("slots=")[2].split()] == wanted
    """)


def test_launch_does_something():
    run("""
    import numpy as np
    x, y = np.arange(5.0), np.full(5, 0.5)
    L.launch(kernel("axpy", 4), 0, 7, 3, 2, 128, 4096, (5, 2.0, x.ctypes.data, y.ctypes.data))
    assert y.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert launches()[0].startswith("cuLaunchKernel axpy grid=3x2 block=128 shared=4096 stream=7 context=primary0 ")
    L.launch(kernel(), 0, 2**63 + 8, 2**31 - 1, 65535, 1024, 0, ())
    assert f"grid={2**31 - 1}x65535 block=1024 shared=0 stream={8 - 2**63} " in launches()[0]
    """)


BAD_LAUNCHES = [
    ("0, 0, 0, 1, 1, 1, 0, ()", "ValueError", "0 is no kernel"),
    ("k, 1, 0, 1, 1, 1, 0, ()", "ValueError", "there is no CUDA device 1; there is 1"),
    ("k, -1, 0, 1, 1, 1, 0, ()", "ValueError", "no CUDA device -1"),
    ("k, 0, 0, 0, 1, 1, 0, ()", "ValueError", "blocks, not 0 by 1"),
    ("k, 0, 0, 2**31, 1, 1, 0, ()", "ValueError", "blocks, not 2147483648 by 1"),
    ("k, 0, 0, 1, 65536, 1, 0, ()", "ValueError", "blocks, not 1 by 65536"),
    ("k, 0, 0, 1, -1, 1, 0, ()", "ValueError", "blocks, not 1 by -1"),
    ("k, 0, 0, 1, 1, 1025, 0, ()", "ValueError", "1024 threads, not 1025"),
    ("k, 0, 0, 1, 1, 0, 0, ()", "ValueError", "1024 threads, not 0"),
    ("k, 0, 0, 1, 1, 1, -1, ()", "ValueError", "shared memory"),
    ("k, 0, 0, 1, 1, 1, 0, (0,) * 65", "ValueError", "at most 64 slots, not 65"),
    ("k, 0, -1, 1, 1, 1, 0, ()", "OverflowError", "negative"),
    ("k, 0, 0, 1, 1, 1, 0, (1, 2**64)", "OverflowError", "slot 1 of a launch is 18446744073709551616"),
    ("k, 0, 0, 1, 1, 1, 0, (-2**63 - 1,)", "OverflowError", "slot 0 of a launch"),
    ("k, 0, 0, 1, 1, 1, 0, (1, 2, '3')", "TypeError", "slot 2 of a launch must be an int or a float, not str"),
    ("k, 0, 0, 1, 1, 1, 0, (None,)", "TypeError", "not NoneType"),
    ("k, 0, 0, 1, 1, 1, 0, (np.float32(1),)", "TypeError", "not float32"),
    ("k, 0, 0, 1, 1, 1, 0, [1]", "TypeError", "tuple"),
    ("k, 0, 0, 1, 1, 1, 0, None", "TypeError", "slots"),
]


def test_bad_launches():
    """Nothing has happened when they are refused."""
    run(f"""
    import numpy as np
    k = kernel("nothing", 1)
    for arguments, error, words in {BAD_LAUNCHES!r}:
        with pytest.raises(getattr(__import__("builtins"), error), match=re.escape(words)):
            eval(f"L.launch({{arguments}})")
        assert not launches() and fake.fake_depth() == 0, arguments
    """)


def test_errors_of_launches():
    run("""
    import pickle
    k = kernel()
    fake.fake_fail(b"cuLaunchKernel=701")
    with pytest.raises(L.CudaError) as caught:
        L.launch(k, 0, 0, 1, 1, 1, 0, ())
    error = caught.value
    assert str(error) == "cuLaunchKernel failed with CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (no description)"
    assert (error.call, error.code) == ("cuLaunchKernel", 701) and isinstance(error, RuntimeError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.call, again.code) == (str(error), "cuLaunchKernel", 701)
    assert fake.fake_depth() == 0, "the context stays after an error"
    fake.fake_fail(b"cuMemAllocAsync=2")
    with pytest.raises(MemoryError, match="cuMemAllocAsync failed with CUDA_ERROR_OUT_OF_MEMORY .out of memory.") as c:
        L.allocate(0, 0, 8)
    assert isinstance(c.value, L.CudaError)
    """)


def test_current_context_stays():
    """Of another library's making, of another device, and none; in the other order as well."""
    run(
        """
    k = kernel()
    def launch(device):
        before = fake.fake_context(), fake.fake_depth()
        L.launch(k, device, 0, 1, 1, 1, 0, ())
        address = L.allocate(device, 0, 8)
        assert L.pointer_device(address) == device
        L.release(device, 0, address)
        L.synchronize(device, 3)
        assert (fake.fake_context(), fake.fake_depth()) == before
        contexts = {line.partition("context=")[2].split()[0] for line in log() if "context=" in line}
        assert contexts == {f"primary{device}"}, contexts
    for device in (0, 1, 0):
        launch(device)
    for push in (fake.fake_push, fake.fake_push_primary):
        for which in (0, 1):
            push(which)
            for device in (0, 1):
                launch(device)
            fake.fake_fail(b"cuLaunchKernel=1")
            with pytest.raises(L.CudaError):
                launch(1)
            fake.fake_fail(b"")
    assert fake.fake_context() == b"primary1" and fake.fake_depth() == 4
    assert [fake.fake_retained(device) for device in (0, 1)] == [1, 1]
    """,
        devices=2,
    )


def test_launches_ask_for_nothing_else():
    """What a capture could not take: no call but the launch is made, besides those for the context."""
    run("""
    k = kernel()
    L.launch(k, 0, 9, 1, 1, 1, 0, ())
    log()
    L.launch(k, 0, 9, 1, 1, 1, 0, ())
    assert [line.split()[0] for line in log()] == ["cuLaunchKernel"]
    """)


def test_threads():
    run(
        """
    import threading
    import numpy as np
    x, sums, errors = np.ones(1000), np.zeros((8, 1000)), []
    barrier = threading.Barrier(8)
    def work(i):
        try:
            barrier.wait()
            if i % 2:
                fake.fake_push(i % 3)
            k = kernel("axpy", 4)
            for n in range(200):
                L.launch(k, n % 3, i, 1, 1, 1, 0, (1000, float(i), x.ctypes.data, sums[i].ctypes.data))
                L.DeviceMemory((n + 1,), "float32", n % 3, i)
            assert fake.fake_depth() == i % 2
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors, errors
    assert (sums == 200.0 * np.arange(8)[:, None]).all()
    assert len(launches()) == 1600 and fake.fake_blocks() == 0
    assert [fake.fake_retained(device) for device in range(3)] == [1, 1, 1]
    """,
        devices=3,
    )


def test_other_threads_run_during_a_launch():
    """A launch that waits holds no GIL: what it waits for may need it."""
    run("""
    import threading
    thread = threading.Thread(target=L.launch, args=(kernel("wait", 0), 0, 0, 1, 1, 1, 0, ()))
    thread.start()
    fake.fake_go_on()
    thread.join()
    assert fake.fake_in_time()
    """)


# ---- memory


@pytest.mark.parametrize("pools", [1, 0])
def test_memory(pools):
    run(
        """
    import numpy as np
    pools = os.environ["FAKE_CUDA_POOLS"] == "1"
    assert L.device(0).memory_pools is pools
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    log()
    address = L.allocate(0, 11, x.nbytes)
    assert log() == ["cuMemAllocAsync 24 stream=11 context=primary0" if pools else "cuMemAlloc 24 context=primary0"]
    L.to_device(address, x, 11, 0)
    assert [line.split()[0] for line in log()] == ["cuMemcpyHtoDAsync", "cuStreamSynchronize"]
    y = np.zeros_like(x)
    L.to_host(address, y, 11, 0)
    assert (x == y).all() and [line.split()[0] for line in log()] == ["cuMemcpyDtoHAsync", "cuStreamSynchronize"]
    for pattern in (b"\\x01", b"\\x02\\x03", b"\\x04\\x05\\x06\\xf7"):
        L.fill(address, pattern, 24 // len(pattern), 11, 0)
        L.to_host(address, y, 11, 0)
        assert y.tobytes() == pattern * (24 // len(pattern))
    for pattern in (b"", b"123", b"12345678"):
        with pytest.raises(ValueError, match="1, 2 or 4 bytes"):
            L.fill(address, pattern, 1, 11, 0)
    assert L.pointer_device(address + 23) == 0
    with pytest.raises(L.CudaError, match="cuPointerGetAttribute failed with CUDA_ERROR_INVALID_VALUE"):
        L.pointer_device(address + 24)
    L.release(0, 12, address)
    assert fake.fake_blocks() == 0
    log()
    assert L.allocate(0, 0, 0) == 0
    L.release(0, 0, 0)
    L.to_device(0, b"", 0, 0)
    L.to_host(0, bytearray(), 0, 0)
    L.fill(0, b"1", 0, 0, 0)
    assert not log()
    with pytest.raises((BufferError, ValueError)):
        L.to_host(address, bytes(4), 0, 0)
    with pytest.raises((BufferError, ValueError)):
        L.to_device(address, x[:, ::2], 0, 0)
    with pytest.raises(TypeError):
        L.to_device(address, 1.0, 0, 0)
    assert not log()
    """,
        pools=pools,
    )


# ---- streams and events


def test_own_streams():
    run(
        """
    assert [L.own_stream(device) for device in (0, 1, 0, 1)] == [1000, 1001, 1000, 1001]
    made = ["cuStreamCreate flags=1 context=primary0", "cuStreamCreate flags=1 context=primary1"]
    assert log("cuStreamCreate") == made
    L.wait_for(1, 5, 6)
    assert log("cuEventRecord") == ["cuEventRecord stream=6 context=primary1"]
    fake.fake_capture(5)
    assert L.capturing(0, 5) is True and L.capturing(0, 6) is False
    fake.fake_fail(b"cuStreamIsCapturing=906")
    assert L.capturing(0, 6) is True
    """,
        devices=2,
    )


def test_events():
    run(
        """
    a, b, elsewhere = L.Event(0), L.Event(0), L.Event(1)
    a.record(4)
    b.record(4)
    assert a.elapsed(b) == 1.0 and a.done() is True and a.device == 0
    fake.fake_busy(1)
    assert a.done() is False
    with pytest.raises(ValueError, match="devices 0 and 1"):
        a.elapsed(elsewhere)
    without = L.Event(0, timing=False)
    without.record(4)
    with pytest.raises(L.CudaError, match="cuEventElapsedTime"):
        a.elapsed(without)
    with pytest.raises(TypeError):
        a.elapsed(None)
    with pytest.raises(RuntimeError, match="once"):
        a.__init__(0)
    with pytest.raises(RuntimeError, match="was not made"):
        L.Event.__new__(L.Event).record(0)
    """,
        devices=2,
    )


def test_what_is_held_lives_until_the_stream_is_done():
    run("""
    import weakref
    class Thing:
        pass
    fake.fake_busy(1)
    things = [Thing(), Thing()]
    left = [weakref.ref(thing) for thing in things]
    for thing in things:
        L.hold(0, 5, thing)
    del things, thing
    assert L.drop() == 2 and all(ref() is not None for ref in left)
    assert "cuEventQuery mode=2" in log("cuEventQuery") and fake.fake_mode() == 0
    fake.fake_busy(0)
    L.hold(0, 5, Thing())
    assert all(ref() is None for ref in left)
    assert L.drop() == 0
    """)


# ---- memory that other libraries take


CONSUME = """
api = ctypes.pythonapi
api.PyCapsule_GetPointer.restype = ctypes.c_void_p
api.PyCapsule_GetPointer.argtypes = ctypes.py_object, ctypes.c_char_p
api.PyCapsule_GetName.restype = ctypes.c_char_p
api.PyCapsule_GetName.argtypes = (ctypes.py_object,)
api.PyCapsule_SetName.argtypes = ctypes.py_object, ctypes.c_char_p


def taken(capsule):
    "The struct of a capsule, which is consumed, and whether it is a versioned one."
    name = api.PyCapsule_GetName(capsule)
    pointer = api.PyCapsule_GetPointer(capsule, name)
    used = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}[name]
    kept.append(used)
    api.PyCapsule_SetName(capsule, used)
    return pointer, name == b"dltensor_versioned"


kept = []
"""


def test_device_memory():
    run(
        """
    m = L.DeviceMemory((2, 0, 3), "float32", 1, 5)
    assert (m.address, m.nbytes, m.shape, m.strides) == (0, 0, (2, 0, 3), (12, 12, 4)) and fake.fake_blocks() == 0
    assert m.__cuda_array_interface__["data"] == (0, False)
    log()
    m = L.DeviceMemory([3, 2], "float64", 1, 5)
    assert (m.nbytes, m.shape, m.strides, m.dtype, m.device, m.stream) == (48, (3, 2), (16, 8), "float64", 1, 5)
    assert log() == ["cuMemAllocAsync 48 stream=5 context=primary1"]
    interface = {"shape": (3, 2), "typestr": "<f8", "data": (m.address, False), "strides": None, "stream": 5}
    assert m.__cuda_array_interface__ == interface | {"version": 3}
    assert L.DeviceMemory((), "bool", 0, 0).__cuda_array_interface__["stream"] == 1
    assert "cuda:1: shape (3, 2), float64" in repr(m) and m.__dlpack_device__() == (2, 1)
    log()
    fake.fake_push(0)
    del m
    assert log("cuMemFreeAsync") == ["cuMemFreeAsync stream=5 context=primary1"]
    assert fake.fake_context() == b"foreign0" and fake.fake_depth() == 1
    for shape, dtype, error in (((-1,), "float32", ValueError), ((1,), "complex64", TypeError),
                                ((2**40, 2**40), "float32", ValueError), ((1.5,), "float32", (TypeError,
                                AttributeError)), ((1,), None, TypeError)):
        with pytest.raises(error):
            L.DeviceMemory(shape, dtype, 0, 0)
    with pytest.raises(ValueError, match="no CUDA device 2"):
        L.DeviceMemory((1,), "int8", 2, 0)
    fake.fake_fail(b"cuMemAllocAsync=2")
    with pytest.raises(MemoryError):
        L.DeviceMemory((1,), "int8", 0, 0)
    """,
        devices=2,
    )


@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 0), (1, 3)])
def test_dlpack_capsules(max_version):
    """They keep the memory alive: until consumed and given back, or collected."""
    run(
        CONSUME
        + f"""
max_version = {max_version}
import numpy as np
x = np.arange(6, dtype=np.float32).reshape(2, 3)
def made():
    m = L.DeviceMemory((2, 3), "float32", 0, 0)
    L.to_device(m.address, x, 0, 0)
    return m.__dlpack__(max_version=max_version)
capsule = made()
gc.collect()
assert fake.fake_blocks() == 1
address, shape, strides, name, kind, device, writeable = L.read_dlpack(capsule)
assert (shape, strides, name, kind, device, writeable) == ((2, 3), (12, 4), "float32", 2, 0, True)
pointer, versioned = taken(capsule)
assert versioned == (max_version in ((1, 0), (1, 3)))
with pytest.raises(BufferError, match="consumed already"):
    L.read_dlpack(capsule)
del capsule
gc.collect()
assert fake.fake_blocks() == 1
assert fake.fake_consume(pointer, versioned) == 15.0
assert fake.fake_blocks() == 0
capsule = made()
assert fake.fake_blocks() == 1
del capsule
assert fake.fake_blocks() == 0
# given back in another thread, by a library that holds no GIL
import threading
pointer, versioned = taken(made())
thread = threading.Thread(target=fake.fake_consume, args=(pointer, versioned))
thread.start()
thread.join()
assert fake.fake_blocks() == 0
"""
    )


def test_dlpack_streams():
    run(
        CONSUME
        + """
m = L.DeviceMemory((4,), "float32", 0, 77)
log()
def waits(**kwargs):
    m.__dlpack__(**kwargs)
    return [line.rpartition(" for=")[0] + " for " + line.rpartition("=")[2][:-6] for line in log("cuStreamWaitEvent")]
for stream, consumer in ((None, 1), (1, 1), (2, 2), (4096, 4096)):
    assert waits(stream=stream) == [f"cuStreamWaitEvent stream={consumer} for 77"], stream
assert waits(stream=-1) == waits(stream=77) == []
for stream, error in ((0, ValueError), (-2, ValueError), (1.0, TypeError), ("1", TypeError)):
    with pytest.raises(error):
        m.__dlpack__(stream=stream)
assert not log()
m = L.DeviceMemory((4,), "float32", 0, 0)
log()
assert waits() == waits(stream=1) == [] and waits(stream=2) == ["cuStreamWaitEvent stream=2 for "]
assert not log("cuStreamSynchronize")
"""
    )


def test_dlpack_device_and_copy():
    run("""
    import numpy as np
    m = L.DeviceMemory((4,), "uint8", 0, 9)
    L.to_device(m.address, b"abcd", 9, 0)
    m.__dlpack__(dl_device=(2, 0))
    for device in ((1, 0), (2, 1)):
        with pytest.raises(BufferError, match=re.escape(str(device))):
            m.__dlpack__(dl_device=device)
    assert L.read_dlpack(m.__dlpack__(copy=False))[0] == m.address
    log()
    capsule = m.__dlpack__(copy=True, stream=3)
    calls = [line.split()[0] for line in log()]
    assert calls == ["cuMemAllocAsync", "cuMemcpyDtoDAsync", "cuEventRecord", "cuStreamWaitEvent"], calls
    address = L.read_dlpack(capsule)[0]
    copy = bytearray(4)
    L.to_host(address, copy, 9, 0)
    assert address != m.address and copy == b"abcd"
    del m, capsule
    assert fake.fake_blocks() == 0
    for name, itemsize in (("float16", 2), ("bfloat16", 2), ("float64", 8), ("bool", 1), ("int8", 1), ("int64", 8),
                           ("uint16", 2), ("uint64", 8)):
        capsule = L.DeviceMemory((2, 5), name, 0, 0).__dlpack__(max_version=(1, 0))
        assert L.read_dlpack(capsule)[1:4] == ((2, 5), (5 * itemsize, itemsize), name)
    with pytest.raises(TypeError, match="not int"):
        L.read_dlpack(3)
    capsule = np.zeros((3, 4), np.complex64)[:, ::2].__dlpack__()
    assert L.read_dlpack(capsule)[1:] == ((3, 2), (32, 16), "complex64", 1, 0, True)
    """)


def test_memory_and_graphs():
    """None is made while its stream is captured, and none goes back: the graph would hold both."""
    run("""
    m = L.DeviceMemory((4,), "float32", 0, 5)
    fake.fake_capture(5)
    with pytest.raises(RuntimeError, match="pass out="):
        L.DeviceMemory((4,), "float32", 0, 5)
    log()
    del m
    assert not log("cuMemFreeAsync") and fake.fake_blocks() == 1
    L.DeviceMemory((4,), "float32", 0, 6)
    assert fake.fake_blocks() == 1
    fake.fake_capture(-1)
    L.DeviceMemory((4,), "float32", 0, 6)
    assert fake.fake_blocks() == 0
    # in a callback of CUDA's, where the driver permits nothing
    m = L.DeviceMemory((4,), "float32", 0, 5)
    for call in (b"cuStreamIsCapturing=800", b"cuCtxGetCurrent=800"):
        fake.fake_fail(call)
        del m
        assert fake.fake_blocks() == 1
        fake.fake_fail(b"")
        m = L.DeviceMemory((4,), "float32", 0, 5)
        assert fake.fake_blocks() == 1
    """)


def test_memory_goes_back_after_the_legacy_default_stream():
    """If it was handed to that: its consumer lets it go when work is on the stream, and not done."""
    run("""
    def calls(give, stream=5):
        m = L.DeviceMemory((4,), "float32", 0, stream)
        give(m)
        log()
        del m
        return [line.split("=")[0:2] for line in log("cuEventRecord", "cuStreamWaitEvent", "cuMemFreeAsync")]
    free = ["cuMemFreeAsync stream", "5 context"]
    waits = [["cuEventRecord stream", "1 context"], ["cuStreamWaitEvent stream", "5 for"], free]
    assert calls(lambda m: None) == calls(lambda m: m.__dlpack__(stream=44)) == [free]
    assert calls(lambda m: m.__dlpack__(stream=-1)) == [free]
    assert calls(lambda m: m.__dlpack__()) == calls(lambda m: m.__dlpack__(stream=1)) == waits
    assert calls(lambda m: m.__cuda_array_interface__) == waits
    for stream in (0, 1):
        assert calls(lambda m: m.__cuda_array_interface__, stream) == [["cuMemFreeAsync stream", f"{stream} context"]]
    # not while the legacy default stream would be drawn into a capture
    m = L.DeviceMemory((4,), "float32", 0, 5)
    m.__dlpack__()
    fake.fake_capture(1)
    del m
    assert fake.fake_blocks() == 1
    fake.fake_capture(-1)
    L.DeviceMemory((4,), "float32", 0, 5)
    assert fake.fake_blocks() == 0
    """)


def test_memory_outlives_the_driver():
    """The last objects of a process are collected after the driver is gone."""
    run("""
    import sys
    m = L.DeviceMemory((4,), "float32", 0, 0)
    fake.fake_fail(b"cuMemFreeAsync=4")
    said = []
    sys.unraisablehook = said.append
    del m
    assert not said
    m = L.DeviceMemory((4,), "float32", 0, 0)
    fake.fake_fail(b"cuMemFreeAsync=201")
    del m
    assert "cuMemFreeAsync failed with CUDA_ERROR_INVALID_CONTEXT" in str(said[0].exc_value)
    """)
