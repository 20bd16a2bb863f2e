"""A place to run an engine: execution contexts, stream, buffers and CUDA graphs of one input shape."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector.backends.gpu import Buffer, FrameLoader, Graph
from yolo_trt_node.detector.backends.tensorrt_engine import SharedEngine
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.frames import Frame

_LOG = logging.getLogger(__name__)

# Batch sizes that keep a context and a graph of their own; with more, the one unused longest is made again.
_LANES = 8


@dataclass
class _Lane:
    """A batch size with its execution context and, from the second run on, its CUDA graph.

    A graph belongs to the state of the context that it was captured from: a context for each batch size lets
    sizes alternate without capturing again.
    """

    context: Any
    graph: Graph | None = None
    warm: bool = False


class _Held:
    """What a session holds on the GPU; it is given back in one place, with the CUDA context current."""

    def __init__(self, engine: SharedEngine) -> None:
        """Create the stream and the contexts' memory; call it inside `Gpu.current`."""
        self.gpu = engine.gpu
        self.engine: SharedEngine | None = engine
        self.stream: Any = self.gpu.driver.Stream()
        self.lanes: OrderedDict[int, _Lane] = OrderedDict()
        # One for all contexts: they take turns.
        self.scratch: Any = self.gpu.driver.mem_alloc(engine.scratch_bytes) if engine.scratch_bytes else None
        self.parts: list[FrameLoader | Buffer] = []

    def drop(self, lane: _Lane) -> None:
        """Give a lane back."""
        if lane.graph is not None:
            lane.graph.free()
        lane.graph = lane.context = None

    def release(self) -> None:
        """Give all back; in any thread, also at the end of the process.

        It takes no lock, since the garbage collector may have called it. Each step is tried although an
        earlier one failed: after an error that CUDA does not recover from, every call fails.
        """
        # In a fork nothing of it is ours, and CUDA would only answer with an error.
        with contextlib.suppress(RuntimeError), self.gpu.current():
            _try(self.stream.synchronize)
            # Only the references end TensorRT's and pycuda's objects, and they need the context as well.
            while self.lanes:
                _try(self.drop, self.lanes.popitem()[1])
            while self.parts:
                _try(self.parts.pop().free)
            if self.scratch is not None:
                _try(self.scratch.free)
            self.scratch = self.stream = self.engine = None


def _try(step: Callable[..., Any], *arguments: Any) -> None:
    # pycuda's errors are of its own types, and differ from step to step.
    with contextlib.suppress(Exception):
        step(*arguments)


class TensorRtSession:
    """Runs an engine at one input height and width.

    Attributes:
        precision: the precision that the engine really has.
        identity: which engine it runs, in words.
    """

    def __init__(self, engine: SharedEngine, height: int, width: int, *, cuda_graph: bool) -> None:
        """Allocate for the largest batch."""
        self.precision = engine.precision
        self.identity = engine.identity
        self._gpu = gpu = engine.gpu
        self._graphs_wanted = cuda_graph and not engine.captures_itself
        self._smallest, self._largest = engine.batches
        self._turn = threading.Lock()
        image, prediction = engine.inputs[0], engine.outputs[0]
        self._names = (image.name, prediction.name)
        self._size = (height, width)
        for side, have, want in zip(("height", "width"), image.shape[2:], self._size, strict=True):
            if have not in (None, want):
                raise ModelError(f"the engine's input {side} is fixed at {have}, not {want}")
        with gpu.current():
            self._held = held = _Held(engine)
            # At the end of the process too, before pycuda and TensorRT go.
            self._close = weakref.finalize(self, held.release)
            kernel = gpu.kernel()
            # A Jetson's mapped memory is not cached by the GPU, and the network reads its input many times:
            # only where the CPU writes the input is it better off there.
            mapped = gpu.integrated and (kernel is None or gpu.map_input)
            self._input = Buffer(
                gpu.driver, (self._largest, 3, height, width), np.dtype(image.dtype), mapped=mapped
            )
            held.parts.append(self._input)
            lane, shape = self._make_lane(self._largest)
            self._output = gpu.buffer(shape, np.dtype(prediction.dtype))
            held.parts.append(self._output)
            lane.context.set_tensor_address(prediction.name, self._output.pointer)
            self._loader = FrameLoader(gpu, kernel) if kernel is not None else None
            if self._loader is not None:
                held.parts.append(self._loader)

    @property
    def infer_frames(self) -> Callable[..., NDArray[np.float32]] | None:
        """Take frames straight from the camera (`infer_camera_frames`); ``None`` without the kernel."""
        # Made at each call: a method kept in the session would be a cycle, and the session garbage that holds
        # GPU memory until the collector comes by.
        return self.infer_camera_frames if self._loader is not None else None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32.

        More images than the engine takes at once run in parts. The prediction is a view of a buffer that the
        next call overwrites.

        Raises:
            RuntimeError: another thread is using the session, it is closed, or TensorRT or CUDA fail.
        """

        def fill(start: int, count: int) -> None:
            np.copyto(self._input.host[:count], batch[start : start + count], casting="same_kind")
            self._input.upload(count, self._held.stream)

        return self._run(len(batch), fill)

    def infer_camera_frames(
        self,
        frames: Sequence[Frame],
        layouts: Sequence[Letterbox],
        color: tuple[int, int, int],
        channels: str,
        scale: float,
    ) -> NDArray[np.float32]:
        """Letterbox frames on the GPU and run them; return the prediction, N first, float32.

        Args:
            frames: N frames.
            layouts: where each lies in the network's input.
            color: padding, three 8-bit values in the order blue, green, red.
            channels: the tensor's channel order, ``RGB`` or ``BGR``.
            scale: factor from 8-bit values to the tensor's values.

        Raises:
            RuntimeError: as `infer`, or there is no kernel.
        """
        loader = self._loader
        if loader is None:
            raise RuntimeError("the letterbox kernel is not loaded; use infer")

        def fill(start: int, count: int) -> None:
            loader.load(
                frames[start : start + count],
                layouts[start : start + count],
                self._input,
                self._held.stream,
                color=color,
                channels=channels,
                scale=scale,
            )

        return self._run(len(frames), fill)

    def close(self) -> None:
        """Give contexts, buffers and stream back, at once; the engine goes with its last session.

        A call in another thread is waited for. Closing twice is allowed.
        """
        with self._turn:
            self._close()

    def _run(self, number: int, fill: Callable[[int, int], None]) -> NDArray[np.float32]:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                "a session serves one thread at a time; load a Detector for each thread, they share the "
                "engine"
            )
        try:
            if not self._close.alive:
                raise RuntimeError("the session is closed")
            parts = []
            for start in range(0, number, self._largest):
                count = min(self._largest, number - start)
                with self._gpu.current():
                    fill(start, count)
                    # A static engine runs its full batch; what lies in the other places is not looked at.
                    self._execute(max(count, self._smallest))
                prediction = np.asarray(self._output.host[:count], np.float32)
                parts.append(prediction if number <= self._largest else prediction.copy())
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        finally:
            self._turn.release()

    def _execute(self, count: int) -> None:
        """Run the network and fetch its prediction."""
        held = self._held
        lane = held.lanes.get(count)
        if lane is None:
            lane, _ = self._make_lane(count)
        held.lanes.move_to_end(count)
        if lane.warm and lane.graph is None and self._graphs_wanted:
            self._capture(lane, count)
        if lane.graph is not None:
            lane.graph.launch(held.stream)
        else:
            self._queue(lane, count)
        held.stream.synchronize()
        if not lane.warm:
            # TensorRT must have run once at a shape before it can be captured.
            lane.warm = True
            if held.engine is not None:
                held.engine.save_runtime_cache()

    def _queue(self, lane: _Lane, count: int) -> None:
        if not lane.context.execute_async_v3(self._held.stream.handle):
            raise RuntimeError("TensorRT could not queue the network; its reason stands in the log above")
        self._output.download(count, self._held.stream)

    def _capture(self, lane: _Lane, count: int) -> None:
        held = self._held
        asked = getattr(lane.context, "is_stream_capturable", None)
        try:
            if asked is not None and not asked(held.stream.handle):
                raise RuntimeError("TensorRT-RTX says that it cannot be")
            lane.graph = Graph(held.stream, lambda: self._queue(lane, count))
        except (RuntimeError, OSError, self._gpu.driver.Error) as error:
            self._graphs_wanted = False
            _LOG.warning("running without a CUDA graph: the network could not be captured (%s)", error)
            # What was queued before goes on; a stream that failed to capture may take nothing more.
            held.stream.synchronize()
            held.stream = self._gpu.driver.Stream()

    def _make_lane(self, count: int) -> tuple[_Lane, tuple[int, ...]]:
        """Make the context for a batch size, and return it with the prediction's shape."""
        held = self._held
        if held.engine is None:
            raise RuntimeError("the session is closed")
        while len(held.lanes) >= _LANES:
            held.drop(held.lanes.popitem(last=False)[1])
        lane = _Lane(held.engine.context())
        context = lane.context
        if held.scratch is not None:
            context.set_device_memory(int(held.scratch), held.engine.scratch_bytes)
        shape = (count, 3, *self._size)
        if not context.set_input_shape(self._names[0], shape):
            raise ModelError(f"the engine does not take an input of shape {list(shape)}")
        found = tuple(context.get_tensor_shape(self._names[1]))
        if any(size < 1 for size in found):
            raise ModelError(
                f"the engine's output {list(found)} has a size that depends on the image; export the model "
                "with nms=False"
            )
        context.set_tensor_address(self._names[0], self._input.pointer)
        if held.lanes:
            context.set_tensor_address(self._names[1], self._output.pointer)
        held.lanes[count] = lane
        return lane, found
