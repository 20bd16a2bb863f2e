"""The part of ``pycuda.driver`` that the backend uses.

Nothing queued on a stream happens before the stream is synchronised, and nothing at all happens in a thread
that has no context pushed: what a GPU would forgive by luck of timing fails here. Freed memory is gone for
the device, and full of ones for the host. What invalidates a capture on a GPU does so here.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import types

import numpy as np

calls: list[str] = []  # what happened, in order
streams: dict[int, Stream] = {}
frees_outside_context: list[str] = []
host_memory_is_shared = False  # a Jetson
multiprocessors = 8
sticky_error = ""  # once it is set, every call fails, as after a kernel's illegal memory access

_memory: list[tuple[int, np.ndarray]] = []  # start address and bytes, by address
_addresses = itertools.count(0x10000, 0x1000_0000)
_local = threading.local()
_lock = threading.RLock()


class Error(Exception):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class device_attribute:  # noqa: N801
    INTEGRATED = "integrated"
    MULTIPROCESSOR_COUNT = "multiprocessor count"


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


def init() -> None:
    calls.append("init")


def require_context(what: str) -> None:
    if not has_context():
        raise LogicError(f"{what} failed: invalid device context")
    if sticky_error:
        raise LaunchError(f"{what} failed: {sticky_error}")


def has_context() -> bool:
    return bool(getattr(_local, "stack", None))


def _spoil_captures() -> None:
    """What a thread may not do while it captures in thread-local mode: allocate, free, wait for a stream."""
    for stream in list(streams.values()):
        if stream.captured is not None and stream.capturing_thread == threading.get_ident():
            stream.spoilt = True


def memory_at(pointer: int, size: int) -> np.ndarray:
    """Return ``size`` bytes of device memory at an address inside some allocation."""
    with _lock:
        index = bisect.bisect_right(_memory, pointer, key=lambda entry: entry[0]) - 1
        start, content = _memory[index] if index >= 0 else (0, np.empty(0, np.uint8))
    if index < 0 or pointer + size > start + content.size:
        raise LogicError(f"illegal memory access of {size} bytes at {pointer:#x}")
    return content[pointer - start : pointer - start + size]


def _register(content: np.ndarray) -> int:
    pointer = next(_addresses)
    with _lock:
        bisect.insort(_memory, (pointer, content), key=lambda entry: entry[0])
    return pointer


def _unregister(pointer: int) -> None:
    with _lock:
        for start, content in _memory:
            if start == pointer:
                content[:] = 0xFF
        _memory[:] = [entry for entry in _memory if entry[0] != pointer]


def allocations() -> int:
    return len(_memory)


class Device:
    def __init__(self, number: int) -> None:
        self.number = number

    @staticmethod
    def count() -> int:
        return 1

    def name(self) -> str:
        return "Fake GPU"

    def compute_capability(self) -> tuple[int, int]:
        return 8, 6

    def get_attribute(self, attribute: str) -> int:
        if attribute == device_attribute.MULTIPROCESSOR_COUNT:
            return multiprocessors
        return int(attribute == device_attribute.INTEGRATED and host_memory_is_shared)

    def retain_primary_context(self) -> Context:
        calls.append("retain_primary_context")
        return Context()


class Context:
    def push(self) -> None:
        _local.__dict__.setdefault("stack", []).append(self)

    @staticmethod
    def pop() -> None:
        if not has_context():
            raise LogicError("cuCtxPopCurrent failed: invalid device context")
        _local.stack.pop()


class Stream:
    def __init__(self) -> None:
        require_context("cuStreamCreate")
        self.handle = next(_addresses)
        self.queue: list = []
        self.captured: list | None = None
        self.capturing_thread = 0
        self.spoilt = False
        streams[self.handle] = self

    def add(self, name: str, work) -> None:
        require_context(name)
        if self.captured is not None:
            self.captured.append((name, work))
        else:
            self.queue.append((name, work))

    def synchronize(self) -> None:
        require_context("cuStreamSynchronize")
        _spoil_captures()
        if self.captured is not None:
            raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
        queue, self.queue = self.queue, []
        for name, work in queue:
            calls.append(name)
            work()
        calls.append("synchronize")


class PagelockedHostAllocation:
    def __init__(self, size: int, dtype: np.dtype, flags: int) -> None:
        self._content = np.zeros(size * dtype.itemsize, np.uint8)
        self._flags = flags
        self.pointer = _register(self._content)
        self.__array_interface__ = {
            **self._content.__array_interface__,
            "shape": (size,),
            "typestr": dtype.str,
            "strides": None,
        }

    def get_device_pointer(self) -> int:
        if not self._flags & host_alloc_flags.DEVICEMAP:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return self.pointer

    def free(self) -> None:
        require_context("cuMemFreeHost")
        _spoil_captures()
        _unregister(self.pointer)

    def __del__(self) -> None:
        # pycuda activates the context that it was allocated in.
        _unregister(self.pointer)


def pagelocked_empty(shape: int, dtype, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    require_context("cuMemHostAlloc")
    _spoil_captures()
    return np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype), mem_flags))


class DeviceAllocation:
    def __init__(self, size: int) -> None:
        self.pointer = _register(np.zeros(size, np.uint8))

    def __int__(self) -> int:
        return self.pointer

    def free(self) -> None:
        require_context("cuMemFree")
        _spoil_captures()
        _unregister(self.pointer)


def mem_alloc(size: int) -> DeviceAllocation:
    require_context("cuMemAlloc")
    _spoil_captures()
    return DeviceAllocation(size)


def memcpy_htod_async(target: DeviceAllocation, source: np.ndarray, stream: Stream) -> None:
    assert source.flags.c_contiguous

    def copy() -> None:
        memory_at(int(target), source.nbytes)[:] = source.reshape(-1).view(np.uint8)

    stream.add("memcpy_htod", copy)


def memcpy_dtoh_async(target: np.ndarray, source: DeviceAllocation, stream: Stream) -> None:
    assert target.flags.c_contiguous

    def copy() -> None:
        target.reshape(-1).view(np.uint8)[:] = memory_at(int(source), target.nbytes)

    stream.add("memcpy_dtoh", copy)


# --- The kernel: its source, compiled for the host ---------------------------------------------------------

takes_ptx = True


class _Module:
    def get_function(self, name: str):
        return kernel(name)


def module_from_buffer(content: bytes) -> _Module:
    require_context("cuModuleLoadDataEx")
    if not takes_ptx:
        raise LogicError("cuModuleLoadDataEx failed: the PTX was compiled with an unsupported toolchain")
    assert b".visible .entry letterbox(" in content
    calls.append("ptx")
    return _Module()


def kernel(name: str):
    from support.host_kernel import shared

    host = shared()
    assert name == "letterbox"

    def launch(*arguments, block, grid, stream) -> None:
        kinds = [np.uint64] * 3 + [np.int32] * 14 + [np.float32, np.int32]
        assert [type(argument) for argument in arguments] == kinds
        pointers, rest = arguments[:3], arguments[3:]

        def work() -> None:
            # The frame, as far as the kernel may read, and nothing outside of what is allocated.
            addresses = [memory_at(int(pointer), 1).ctypes.data for pointer in pointers]
            height, width, half = int(rest[4]), int(rest[5]), int(rest[-1])
            memory_at(int(pointers[2]), 3 * height * width * (2 if half else 4))
            scaled_height, scaled_width = int(rest[6]), int(rest[7])
            memory_at(int(pointers[1]), 16 * (scaled_height + scaled_width))
            rows = int(rest[1]) * 3 // 2 if int(rest[0]) == 5 else int(rest[1])
            memory_at(int(pointers[0]), rows * int(rest[3]) + 12)
            host.launch([*map(np.uint64, addresses), *rest], grid, block)

        stream.add("letterbox", work)

    return launch


# --- CUDA graphs: the driver's own library ------------------------------------------------------------------

graphs: dict[int, tuple[Stream, list]] = {}


def library(*, refuse: str = "", missing: str = "") -> types.SimpleNamespace:
    """Return what ``ctypes`` would find in libcuda; one of its functions may fail, or be missing."""

    def begin(handle, mode) -> int:
        stream = streams[handle.value]
        stream.captured, stream.spoilt = [], False
        stream.capturing_thread = threading.get_ident()
        return 0

    def end(handle, graph) -> int:
        stream = streams[handle.value]
        if stream.spoilt:
            stream.captured, graph._obj.value = None, None
            return 901
        graph._obj.value = next(_addresses)
        graphs[graph._obj.value], stream.captured = (stream, stream.captured), None
        return 0

    def instantiate(executable, graph, flags) -> int:
        executable._obj.value = next(_addresses)
        graphs[executable._obj.value] = graphs[graph.value]
        return 0

    def launch(executable, handle) -> int:
        stream, work = graphs[executable.value]
        calls.append("graph_launch")
        stream.queue.extend(work)
        return 0

    def destroy(graph) -> int:
        del graphs[graph.value]
        return 0

    functions = {
        "cuStreamBeginCapture_v2": begin,
        "cuStreamEndCapture": end,
        "cuGraphInstantiateWithFlags": instantiate,
        "cuGraphLaunch": launch,
        "cuGraphDestroy": destroy,
        "cuGraphExecDestroy": destroy,
    }
    if refuse:
        inner = functions[refuse]
        functions[refuse] = lambda *arguments: inner(*arguments) or 900
    functions.pop(missing, None)
    return types.SimpleNamespace(**functions)
