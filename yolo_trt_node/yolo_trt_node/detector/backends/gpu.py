"""The GPU through pycuda: context, stream, pinned or mapped memory, CUDA graphs and the letterbox kernel.

Nothing here touches CUDA while it is imported, and nothing but `Gpu.open` initialises it: a process may fork
(as launch systems do) until it loads a model.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from yolo_trt_node.detector import cuda
from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.frames import Frame

_LOG = logging.getLogger(__name__)

_CAPTURE_MODE_THREAD_LOCAL = 1  # what other threads do meanwhile does not spoil the capture
# Layouts (a few kilobytes each) of cameras and tiles that keep their tables.
_TABLES_KEPT = 32
_CUDA_HOMES = ("/usr/local/cuda", "/opt/cuda")

_PYCUDA_ADVICE = (
    "install it with `pip install pycuda`, which needs the CUDA toolkit (nvcc on the PATH: on a Jetson "
    "`sudo apt install nvidia-jetpack` and `export PATH=/usr/local/cuda/bin:$PATH`)"
)
_DRIVER_ADVICE = (
    "on a workstation install NVIDIA's driver and check `nvidia-smi`; on a Jetson flash JetPack; in a "
    "container "
    "start it with `--runtime nvidia` or `--gpus all`"
)


class Gpu:
    """The first GPU that this process sees (``CUDA_VISIBLE_DEVICES`` chooses), through its primary context.

    The primary context is the one that TensorRT, ONNX Runtime and every other CUDA library in the process
    share. No thread has it current between calls: `current` pushes and pops it, so that any thread may call.

    Attributes:
        name: the product name.
        compute_capability: as in ``8.7``.
        multiprocessors: how many it has.
        integrated: the GPU shares the CPU's memory (Jetson), so that frames need not be copied.
        map_input: keep the network's input in mapped memory on an integrated GPU, to compare.
        letterbox: letterbox on the GPU where the kernel can be had; off, to compare.
    """

    _opened: Gpu | None = None
    _opening = threading.Lock()

    def __init__(self, driver: Any, device: Any) -> None:
        """Use `Gpu.open`."""
        self.driver = driver
        self.name: str = device.name()
        major, minor = device.compute_capability()
        self.compute_capability = f"{major}.{minor}"
        self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self.map_input = False
        self.letterbox = True
        self.multiprocessors = int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT))
        self._device = device
        self._context: Any = None
        self._process = os.getpid()
        self._kernel: Any = None
        self._no_kernel = ""

    @classmethod
    def open(cls) -> Gpu:
        """Return the process's GPU; the first call initialises CUDA.

        Raises:
            BackendUnavailable: pycuda, the driver or the GPU is missing.
        """
        with cls._opening:
            if cls._opened is None:
                cls._opened = cls._find()
            return cls._opened

    @classmethod
    def _find(cls) -> Gpu:
        try:
            import pycuda.driver as driver
        except ModuleNotFoundError as error:
            raise BackendUnavailable("no Python package pycuda", _PYCUDA_ADVICE) from error
        except ImportError as error:
            # pycuda links against the driver's library, so that it is the import that fails without a driver.
            missing = "no NVIDIA driver" if "libcuda" in str(error) else "pycuda does not load"
            advice = _DRIVER_ADVICE if "libcuda" in str(error) else f"build pycuda again: {_PYCUDA_ADVICE}"
            raise BackendUnavailable(f"{missing} ({error})", advice) from error
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise BackendUnavailable(f"no NVIDIA GPU ({error})", _DRIVER_ADVICE) from error
        if not count:
            raise BackendUnavailable("no NVIDIA GPU", _DRIVER_ADVICE)
        return cls(driver, driver.Device(0))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the CUDA context current in this thread for the block.

        Raises:
            RuntimeError: the process is a fork of the one that initialised CUDA, which CUDA does not survive.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                f"CUDA was initialised in process {self._process}, and this is a fork of it: load the model "
                "after the fork, or start the process with spawn"
            )
        # Looked at first without the lock: a finaliser that comes here belongs to a session, which has seen
        # the context, and so never waits for a lock that its own thread may hold.
        if self._context is None:
            with self._opening:
                if self._context is None:
                    self._context = self._device.retain_primary_context()
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Allocate memory that both sides reach; call it inside `current`."""
        return Buffer(self.driver, shape, dtype, mapped=self.integrated)

    def kernel(self) -> Any | None:
        """Return the letterbox kernel, loaded at the first call, or ``None`` where that is not possible.

        Call it inside `current`. The reason is logged once.
        """
        if not self.letterbox:
            return None
        if self._kernel is None and not self._no_kernel:
            try:
                self._kernel = _load_kernel(self.driver)
            # The driver's translation, the import of pycuda's compiler and nvcc fail in ways of their own.
            except Exception as error:
                self._no_kernel = str(error).strip() or type(error).__name__
                _LOG.warning(
                    "the letterbox runs on the CPU: its CUDA kernel cannot be loaded here (%s)",
                    self._no_kernel,
                )
        return self._kernel


def _load_kernel(driver: Any) -> Any:
    """Load the kernel as it is shipped; where the driver refuses that, compile the source with nvcc."""
    try:
        return driver.module_from_buffer(cuda.PTX.read_bytes()).get_function(cuda.KERNEL)
    except (OSError, driver.Error) as error:
        homes = (os.environ.get("CUDA_HOME", ""), *_CUDA_HOMES)
        nvcc = shutil.which("nvcc") or next(
            (str(path) for path in (Path(home) / "bin/nvcc" for home in homes if home) if path.is_file()),
            None,
        )
        if nvcc is None:
            raise RuntimeError(
                f"the driver does not take the PTX: {error}; and there is no nvcc on the PATH nor in "
                "/usr/local/cuda/bin"
            ) from error
    from pycuda.compiler import SourceModule

    return SourceModule(cuda.SOURCE.read_text(), nvcc=nvcc, no_extern_c=True).get_function(cuda.KERNEL)


class Buffer:
    """An array in device memory with a pinned twin in host memory; mapped, both are the same memory.

    Attributes:
        shape: of the array.
        dtype: of the array.
        pointer: device address.
        stride: bytes of one element of the first axis.
    """

    def __init__(self, driver: Any, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool) -> None:
        """Allocate; call it inside `Gpu.current`.

        Args:
            driver: ``pycuda.driver``.
            shape: of the array.
            dtype: of the array.
            mapped: the GPU works in host memory itself. On a Jetson that saves the copy, and the GPU does not
                cache it.
        """
        self._driver = driver
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.stride = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self._pinned: Any = None
        self._host: NDArray[Any] | None = None
        self._device: Any = None
        if mapped:
            self.pointer = int(self._pin(driver.host_alloc_flags.DEVICEMAP).base.get_device_pointer())
        else:
            self._device = driver.mem_alloc(max(1, self.shape[0] * self.stride))
            self.pointer = int(self._device)

    @property
    def host(self) -> NDArray[Any]:
        """The array in host memory. What only the GPU writes and reads never gets one."""
        if self._host is None:
            self._pin(0)
            assert self._host is not None
        return self._host

    def _pin(self, flags: int) -> Any:
        size = int(np.prod(self.shape))
        self._pinned = self._driver.pagelocked_empty(max(1, size), self.dtype, mem_flags=flags)
        self._host = self._pinned[:size].reshape(self.shape)
        return self._pinned

    def upload(self, count: int, stream: Any) -> None:
        """Send the first ``count`` elements of the first axis to the device."""
        if self._device is not None:
            self._driver.memcpy_htod_async(self._device, self.host[:count], stream)

    def download(self, count: int, stream: Any) -> None:
        """Fetch the first ``count`` elements of the first axis from the device."""
        if self._device is not None:
            self._driver.memcpy_dtoh_async(self.host[:count], self._device, stream)

    def free(self) -> None:
        """Give the memory back; call it inside `Gpu.current`.

        Host memory of which somebody still has a view goes with that view: reading it stays safe.
        """
        if self._device is not None:
            self._device.free()
            self._device = None
        self._host = np.empty(0, self.dtype)
        pinned, self._pinned = self._pinned, None
        # One reference is ours and one the call's: nobody else has one.
        if pinned is not None and sys.getrefcount(pinned) == 2:
            pinned.base.free()


class FrameLoader:
    """Letterboxes camera frames into an input tensor on the GPU."""

    def __init__(self, gpu: Gpu, kernel: Any) -> None:
        """Take the loaded kernel; buffers come with the first frames."""
        self._gpu = gpu
        self._kernel = kernel
        self._frames: list[Buffer] = []
        self._tables: dict[Letterbox, Buffer] = {}

    def load(
        self,
        frames: Sequence[Frame],
        layouts: Sequence[Letterbox],
        tensor: Buffer,
        stream: Any,
        *,
        color: tuple[int, int, int],
        channels: str,
        scale: float,
    ) -> None:
        """Queue upload and letterbox of frames into the first places of a batch; inside `Gpu.current`.

        The host copies stay in use until the stream has passed: synchronise before the next call.
        """
        if len(self._tables) > _TABLES_KEPT:
            # Nothing is queued that uses them; cameras that are still there get theirs again.
            self._drop_tables()
        for index, (frame, layout) in enumerate(zip(frames, layouts, strict=True)):
            rows, row = frame.data.shape
            needed = rows * row + cuda.FRAME_PADDING
            if index == len(self._frames):
                self._frames.append(self._gpu.buffer((needed,), np.uint8))
            elif self._frames[index].shape[0] < needed:
                self._frames[index].free()
                self._frames[index] = self._gpu.buffer((needed,), np.uint8)
            staged = self._frames[index]
            # A camera's padded rows are packed on the way into pinned memory, which the copy touches anyhow.
            packed = staged.host[: rows * row].reshape(rows, row)
            np.copyto(packed, frame.data)
            staged.upload(rows * row, stream)
            self._kernel(
                *cuda.arguments(
                    replace(frame, data=packed, step=row),
                    layout,
                    frame_pointer=staged.pointer,
                    table_pointer=self._table(layout, stream).pointer,
                    tensor_pointer=tensor.pointer + index * tensor.stride,
                    color=color,
                    channels=channels,
                    scale=scale,
                    half=tensor.dtype == np.float16,
                ),
                block=cuda.BLOCK,
                grid=cuda.grid(layout),
                stream=stream,
            )

    def free(self) -> None:
        """Give the buffers back; call it inside `Gpu.current`."""
        for buffer in self._frames:
            buffer.free()
        self._frames = []
        self._drop_tables()

    def _table(self, layout: Letterbox, stream: Any) -> Buffer:
        """Return the taps of a layout on the device; the first call queues their upload."""
        table = self._tables.get(layout)
        if table is None:
            taps = cuda.taps(layout).view(np.int32).reshape(-1, 4)
            # Read by every thread: in device memory, where it is cached, on a Jetson too.
            table = self._tables[layout] = Buffer(self._gpu.driver, taps.shape, taps.dtype, mapped=False)
            table.host[:] = taps
            table.upload(len(taps), stream)
        return table

    def _drop_tables(self) -> None:
        for table in self._tables.values():
            table.free()
        self._tables.clear()


class Graph:
    """Work recorded from a stream, started again with one call.

    pycuda has no CUDA graphs, so that these five calls go to the driver's library itself.
    """

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        """Record (not run) what ``work`` queues on ``stream``; call it inside `Gpu.current`.

        Raises:
            RuntimeError: the work cannot be captured, or the driver is too old.
        """
        self._library = driver_library()
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream.handle)
        with _no_collection():
            self._call("cuStreamBeginCapture_v2", handle, ctypes.c_int(_CAPTURE_MODE_THREAD_LOCAL))
            try:
                work()
            finally:
                # Also after a failure: a stream left in capture mode is of no use any more.
                self._call("cuStreamEndCapture", handle, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        self._executable = executable

    def launch(self, stream: Any) -> None:
        """Queue the recorded work on a stream."""
        self._call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        """Forget the recording; call it inside `Gpu.current`."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise RuntimeError(f"the driver has no {name}")
        code = function(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the garbage collector off: what it frees on the GPU in the middle of a capture spoils it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def driver_library() -> Any:
    """Open the CUDA driver's library."""
    return ctypes.CDLL("libcuda.so.1")
