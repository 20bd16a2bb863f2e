"""Many pictures at once, where nobody waits for a single one: detectors side by side, answers in order.

Two threads that share one image wait for each other at every layer: on two cores they took 1.8 times the CPU
time an image of two detectors with a thread each. For a camera the single image counts, for a recording all.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector import Detector
from yolo_trt_node.detector.cpu import threads_for
from yolo_trt_node.replay.journal import BagImage

_CPU_BACKENDS = ("onnxruntime", "openvino")
# Each holds a compiled network; beyond so many they get more threads instead.
MOST = 8


def lanes_for(detector: Detector) -> list[Detector]:
    """Return the detectors to work side by side: on CPUs one for each thread, else the one given.

    Args:
        detector: loaded, and not run yet; its options say how many threads there may be in all.

    Raises:
        ModelError: the model cannot be loaded again.
    """
    options = detector.options
    threads = threads_for(options.threads)
    on_cpu = detector.backend in _CPU_BACKENDS and options.onnxruntime_provider == "cpu"
    count = min(threads, MOST) if on_cpu else 1
    if count == 1:
        return [detector]
    # What the first one has been through need not be tried again.
    options = replace(
        options,
        backend=detector.backend,
        threads=threads // count,
        backend_trial_s=0.0,
        load_timeout_s=0.0,
    )
    return [Detector.load(detector.path, options) for _ in range(count)]


def read_ahead(pictures: Iterator[BagImage], depth: int) -> Generator[BagImage, None, None]:
    """Read a few pictures ahead, in a thread, so that decoding and inference go on side by side."""
    waiting: queue.Queue[BagImage | BaseException | None] = queue.Queue(depth)
    stopping = threading.Event()

    def put(item: BagImage | BaseException | None) -> None:
        while not stopping.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for picture in pictures:
                put(picture)
                if stopping.is_set():
                    return
            put(None)
        except BaseException as error:  # it is raised where the pictures are wanted
            put(error)

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopping.set()
        reader.join()


def detect_in_order(
    detectors: Sequence[Detector], batches: Iterable[Sequence[BagImage]]
) -> Generator[tuple[Sequence[BagImage], list[Detections]], None, None]:
    """Detect in batches of pictures, several at a time.

    Args:
        detectors: each is used by one thread at a time.
        batches: pictures; those that could not be read are left out.

    Yields:
        Each batch, in the order given, and what was found in its readable pictures.

    Raises:
        ModelError: as `Detector.detect`, when it is the batch's turn.
    """
    free: SimpleQueue[Detector] = SimpleQueue()
    for detector in detectors:
        free.put(detector)

    def detect(batch: Sequence[BagImage]) -> list[Detections]:
        mine = free.get()
        try:
            return mine.detect([picture.frame for picture in batch if picture.frame is not None])
        finally:
            free.put(mine)

    waiting: deque[tuple[Sequence[BagImage], Future[list[Detections]]]] = deque()
    with ThreadPoolExecutor(len(detectors), thread_name_prefix="lane") as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(detect, batch)))
                # One more than there are detectors, so that none waits for the journal.
                if len(waiting) > len(detectors):
                    done, found = waiting.popleft()
                    yield done, found.result()
            while waiting:
                done, found = waiting.popleft()
                yield done, found.result()
        finally:
            for _, found in waiting:
                found.cancel()
