"""The detector: camera images in, boxes in camera pixels out."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector.backends import ModelFile, Session, open_model
from yolo_trt_node.detector.card import ModelCard, ModelError, read_card
from yolo_trt_node.detector.decode import decode_end2end, decode_raw
from yolo_trt_node.detector.heads import EXPORT_AGAIN
from yolo_trt_node.detector.letterbox import Letterbox, Preprocessor
from yolo_trt_node.detector.options import DetectOptions, DetectorOptions, parse_shape
from yolo_trt_node.detector.sanity import FRAMES, absurdity, check_scores
from yolo_trt_node.detector.speed import WORTH_S, fastest
from yolo_trt_node.detector.tiling import ViewPlan, Window, merge_views, plan_views
from yolo_trt_node.detector.trial import first_load
from yolo_trt_node.images.frames import Frame

# Cameras of more shapes than this on one detector share; the one unused longest is compiled again.
_SHAPES_KEPT = 4


class _Answer:
    """What the views of one image have found so far."""

    def __init__(self) -> None:
        self._found: list[Detections] = []
        self._windows: list[Window] = []
        self._scales: list[float] = []
        self._timing: dict[str, float] = defaultdict(float)

    def add(self, found: Detections, window: Window, layout: Letterbox) -> None:
        """Take what one view found, in pixels of the image."""
        self._found.append(found)
        self._windows.append(window)
        self._scales.append(layout.scale)

    def spend(self, timing: Mapping[str, float]) -> None:
        """Add the seconds that a batch with views of the image took."""
        for stage, seconds in timing.items():
            self._timing[stage] += seconds

    def merge(self, max_det: int, labels: tuple[str, ...]) -> Detections:
        """Make one answer of all views."""
        started = time.perf_counter()
        found = self._found[0]
        if len(self._found) > 1:
            found = merge_views(self._found, self._windows, self._scales, max_det)
        self.spend({"postprocess": time.perf_counter() - started})
        return replace(found, timing=dict(self._timing), labels=labels)


class Detector:
    """A loaded model. Not thread-safe: one thread calls `detect` at a time.

    Attributes:
        path: the model file.
        card: what the model says of itself.
        options: the options in force.
        backend: name of the backend that runs it.
        backend_reason: in one line why that backend, and not another.
    """

    def __init__(
        self, path: Path, model: ModelFile, card: ModelCard, options: DetectorOptions, backend_reason: str
    ) -> None:
        """Use `Detector.load`."""
        self.path = path
        self.card = card
        self.backend = model.backend
        self.backend_reason = backend_reason
        self._model = model
        self._prepared: OrderedDict[tuple[int, int], tuple[Preprocessor, Session]] = OrderedDict()
        self._closed = False
        self.options = options
        self._wanted = _class_mask(card, options.classes)
        self._thresholds = _class_thresholds(card, options)
        self._fixed_shape = _fixed_shape(card, options.input_shape)
        self._unproven = FRAMES

    @classmethod
    def load(cls, path: str | Path, options: DetectorOptions | None = None) -> Detector:
        """Load a model.

        Args:
            path: an ONNX file, ours or a stock Ultralytics export, or a TensorRT engine; ``~`` is expanded.
            options: how to run it.

        Raises:
            ModelError: the file is missing, damaged or no detector, or does not allow the options.
            ValueError: an option is out of range.
        """
        options = options or DetectorOptions()
        file = Path(path).expanduser()
        try:
            model, reason = open_model(file, backend=options.backend, options=options)
            card = read_card(model.metadata, model.inputs, model.outputs)
            detector = cls(file, model, card, options, reason)
            run_s = first_load(file, model.backend, card, options)
            if options.backend == "auto" and options.backend_trial_s > 0 and (run_s or 0.0) >= WORTH_S:
                name, why = fastest(file, card, options)
                if name and name != model.backend:
                    model, _ = open_model(file, backend=name, options=options)
                    first_load(file, name, card, options)
                    detector = cls(file, model, card, options, why)
                detector.backend_reason = why or reason
        except ModelError as error:
            if str(file) in str(error):
                raise
            raise ModelError(f"{file}: {error}") from error
        # A file of a stranger raises what its reader meets; whoever loads it gets one error that names it.
        except (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError) as error:
            raise ModelError(f"{file} cannot be used: {type(error).__name__}: {error}") from error
        return detector

    @property
    def score_threshold(self) -> float:
        """The score cut in force."""
        given = self.options.score_threshold
        return self.card.score_threshold if given is None else given

    @property
    def iou_threshold(self) -> float:
        """The IoU threshold in force."""
        given = self.options.iou_threshold
        return self.card.iou_threshold if given is None else given

    @property
    def precision(self) -> str:
        """The precision really in force, of each session compiled so far. Any thread may ask."""
        found = dict.fromkeys(session.precision for _, session in tuple(self._prepared.values()))
        return ", ".join(found) or "not compiled yet"

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines in use: file, checksum, TensorRT, GPU; none with other backends. Any thread may ask."""
        found = (getattr(session, "identity", "") for _, session in tuple(self._prepared.values()))
        return tuple(dict.fromkeys(identity for identity in found if identity))

    def set_options(self, options: DetectOptions) -> None:
        """Take up what may change between two images: the fields of `DetectOptions`, no others.

        Raises:
            ValueError: a class is named that the model does not have; nothing changes.
        """
        changed = replace(
            self.options, **{entry.name: getattr(options, entry.name) for entry in fields(DetectOptions)}
        )
        wanted, thresholds = _class_mask(self.card, changed.classes), _class_thresholds(self.card, changed)
        self._wanted, self._thresholds = wanted, thresholds
        self.options = changed

    def views(self, image_height: int, image_width: int) -> ViewPlan:
        """Return how images of a size (pixels) are looked at: the network's input shape, and the windows."""
        return plan_views(
            image_height,
            image_width,
            tiling=self.options.tiling,
            overlap=self.options.tile_overlap,
            nominal=(self.card.height, self.card.width),
            stride=self.card.stride,
            fixed=self._fixed_shape,
        )

    def input_shape(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Return the network's input (height, width) for an image of the given size, all in pixels."""
        return self.views(image_height, image_width).shape

    def prepare(self, image_height: int, image_width: int) -> tuple[int, int]:
        """Compile for images of a size and run once, so that the first real frame does not wait.

        Returns:
            The network's input (height, width) for them.

        Raises:
            ModelError: the model does not run, or answers what no detector answers.
        """
        try:
            self.detect([np.zeros((image_height, image_width, 3), np.uint8)])
        except ModelError:
            raise
        # Runtimes raise classes of their own, with no common base but Exception.
        except Exception as error:
            raise ModelError(
                f"{self.path}: the model loads but does not run: {type(error).__name__}: {str(error)[:1000]}"
            ) from error
        return self.input_shape(image_height, image_width)

    def close(self) -> None:
        """Give back what the model holds, GPU memory first of all, at once; `detect` then refuses to run.

        Call it where `detect` is called, or when that thread is done. Closing twice is allowed.
        """
        self._closed = True
        while self._prepared:
            self._prepared.popitem()[1][1].close()
        self._model.close()

    def detect(self, images: Sequence[NDArray[np.uint8] | Frame]) -> list[Detections]:
        """Find objects in images.

        Args:
            images: H x W x 3 uint8 BGR arrays, or frames in the camera's own encoding; sizes may differ.

        Returns:
            One `Detections` an image, in the order given.

        Raises:
            ValueError: an image has another type or shape, or is empty.
            ModelError: the model answers what no detector answers (see `sanity`); nothing of it is returned.
            RuntimeError: the detector is closed.
        """
        waiting: dict[tuple[int, int], list[tuple[int, Window]]] = defaultdict(list)
        frames = [_frame(index, image) for index, image in enumerate(images)]
        for index, frame in enumerate(frames):
            plan = self.views(frame.height, frame.width)
            waiting[plan.shape] += [(index, window) for window in plan.windows]
        answers = [_Answer() for _ in images]
        labels = self.card.names if self.options.class_id == "name" else ()
        for shape, views in waiting.items():
            for batch in self._batches(views):
                self._run(shape, frames, batch, answers)
        return [answer.merge(self.options.max_det, labels) for answer in answers]

    def _batches(self, views: list[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
        """Split views into as few batches as the model and the memory allow, of about equal size."""
        limit = self.card.fixed_batch or self.options.max_batch
        count = -(-len(views) // limit)
        # A fixed batch costs the same full or not, so only the last one stays short.
        size = limit if self.card.fixed_batch else -(-len(views) // count)
        for start in range(0, len(views), size):
            yield views[start : start + size]

    def _run(
        self,
        shape: tuple[int, int],
        frames: Sequence[Frame],
        views: list[tuple[int, Window]],
        answers: list[_Answer],
    ) -> None:
        """Look at a batch of views, each a window of one of the images; note what each answer gets of it."""
        preprocess, session = self._session(shape)
        started = time.perf_counter()
        crops = [frames[index].crop(*window) for index, window in views]
        # A model with a fixed batch gets it full: the last view is repeated and its doubles ignored.
        missing = (self.card.fixed_batch or len(crops)) - len(crops)
        crops += crops[-1:] * missing
        infer_frames = getattr(session, "infer_frames", None)
        if infer_frames is not None:
            # The session letterboxes on the GPU; its time counts as inference.
            layouts = [Letterbox.fit(crop.height, crop.width, *shape) for crop in crops]
            prepared = time.perf_counter()
            card = self.card
            predictions = infer_frames(crops, layouts, card.letterbox_color, card.channels, card.scale)
        else:
            batch, layouts = preprocess(crops)
            prepared = time.perf_counter()
            predictions = session.infer(batch)
        inferred = time.perf_counter()
        for (index, window), prediction, layout in zip(views, predictions, layouts, strict=False):
            if self._unproven:
                self._refuse(absurdity(prediction, self.card, shape))
                self._unproven -= 1
            found = self._decode(prediction)
            self._refuse(check_scores(found.scores))
            boxes = layout.to_image(found.boxes)
            if window.left or window.top:
                boxes += np.array((window.left, window.top) * 2, np.float32)
            answers[index].add(replace(found, boxes=boxes), window, layout)
        timing = {
            "preprocess": prepared - started,
            "inference": inferred - prepared,
            "postprocess": time.perf_counter() - inferred,
        }
        for index in {index for index, _ in views}:
            answers[index].spend(timing)

    def _refuse(self, complaint: str) -> None:
        """Raise where something is wrong with what the model answers."""
        if complaint:
            raise ModelError(
                f"{self.path} ({self.backend}, {self.card.head} head) answers what no detector of its card "
                f"answers: {complaint}. Nothing of it is used; {EXPORT_AGAIN}"
            )

    def _decode(self, prediction: NDArray[np.float32]) -> Detections:
        if self.card.head == "raw":
            return decode_raw(
                prediction,
                classes=self._wanted,
                score_threshold=self._thresholds,
                iou_threshold=self.iou_threshold,
                max_det=self.options.max_det,
                multi_label=self.options.multi_label,
            )
        return decode_end2end(
            prediction,
            classes=self._wanted,
            score_threshold=self._thresholds,
            max_det=self.options.max_det,
        )

    def _session(self, shape: tuple[int, int]) -> tuple[Preprocessor, Session]:
        if self._closed:
            raise RuntimeError("the detector is closed; load the model again")
        if shape not in self._prepared:
            if len(self._prepared) >= _SHAPES_KEPT:
                # Its memory is needed for the one that comes.
                self._prepared.popitem(last=False)[1][1].close()
            preprocess = Preprocessor(
                *shape,
                channels=self.card.channels,
                scale=self.card.scale,
                color=self.card.letterbox_color,
            )
            self._prepared[shape] = (preprocess, self._model.session(*shape))
        self._prepared.move_to_end(shape)
        return self._prepared[shape]


def _frame(index: int, image: NDArray[np.uint8] | Frame) -> Frame:
    """Wrap an image given to `Detector.detect`, which names it by its index where it is none."""
    if isinstance(image, Frame):
        return image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"image {index} is {image.dtype}{list(image.shape)}; expected a non-empty uint8 array of "
            "shape [height, width, 3] in BGR order, or a Frame"
        )
    return Frame.from_bgr(image)


def _fixed_shape(card: ModelCard, wanted: str) -> tuple[int, int] | None:
    """Return the one input shape to use, or ``None`` where it follows each image's aspect."""
    free = card.fixed_height is None and card.fixed_width is None
    if wanted == "auto":
        # A model that fixes one side only (rare) gets its nominal size for both.
        return None if free else (card.height, card.width)
    if wanted == "square":
        return card.height, card.width
    height, width = parse_shape(wanted)
    if height % card.stride or width % card.stride:
        raise ModelError(f"input_shape {wanted}: both sides must be multiples of the stride {card.stride}")
    for side, asked, fixed in (("height", height, card.fixed_height), ("width", width, card.fixed_width)):
        if fixed is not None and asked != fixed:
            raise ModelError(
                f"input_shape {wanted}: the model's input {side} is fixed at {fixed}; use input_shape auto, "
                "or export the model with free height and width (`yolo-compress export`)"
            )
    return height, width


def _class_thresholds(card: ModelCard, options: DetectOptions) -> NDArray[np.float32]:
    """Return the score cut of each class: its own, or the one for all."""
    common = card.score_threshold if options.score_threshold is None else options.score_threshold
    thresholds = np.full(len(card.names), common, np.float32)
    for entry, value in options.class_thresholds:
        thresholds[_class_id(card, entry, "class_thresholds")] = value
    return thresholds


def _class_mask(card: ModelCard, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Turn class names or ids into nc booleans; no names at all means every class."""
    mask = np.zeros(len(card.names), np.bool_)
    for entry in wanted:
        mask[_class_id(card, entry, "classes")] = True
    return mask if wanted else ~mask


def _class_id(card: ModelCard, entry: str, option: str) -> int:
    """Return the id of a class that an option names, or gives the id of."""
    if entry in card.names:
        return card.names.index(entry)
    if entry.isdecimal() and int(entry) < len(card.names):
        return int(entry)
    raise ValueError(f"{option}: the model has no class {entry!r}; it has " + ", ".join(card.names))
