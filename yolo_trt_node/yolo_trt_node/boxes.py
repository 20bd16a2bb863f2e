"""Boxes in an image: what detector, tracker, messages and measurements speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

NO_ID = -1
"""The track id of a box that no track goes through."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image.

    Attributes:
        boxes: N x 4 float32, x1 y1 x2 y2 in pixels; as the detector returns them in those of the original
            image, clipped to it.
        scores: N float32; as the detector returns them descending.
        class_ids: N int32, positions in the card's names.
        timing: seconds that each stage (``preprocess``, ``inference``, ``postprocess``) took for the batches
            that the image, or tiles of it, were in.
        track_ids: N int64, the track of each box or `NO_ID`; None where nothing tracks.
        labels: names of all classes, where messages are to carry them in place of the numbers.

    Example:
        >>> sure = found[found.scores > 0.5]
        >>> left, top, width, height = sure.xywh()[0]
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    timing: Mapping[str, float] = field(default_factory=dict)
    track_ids: NDArray[np.int64] | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def empty(cls) -> Detections:
        """Return those of an image in which nothing was found."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    @classmethod
    def from_xywh(
        cls, boxes: NDArray[np.floating], scores: NDArray[np.floating], class_ids: NDArray[np.integer]
    ) -> Detections:
        """Build detections of N x 4 boxes given as left, top, width, height in pixels."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
        return cls(corners.astype(np.float32), scores.astype(np.float32), class_ids.astype(np.int32))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, wanted: NDArray[np.bool_] | NDArray[np.integer] | slice) -> Detections:
        """Return some of the boxes: by a mask of N booleans, by positions or by a slice."""
        return replace(
            self,
            boxes=self.boxes[wanted],
            scores=self.scores[wanted],
            class_ids=self.class_ids[wanted],
            track_ids=None if self.track_ids is None else self.track_ids[wanted],
        )

    def centers(self) -> NDArray[np.float64]:
        """Return the boxes' centers, N x 2 (x, y) in pixels."""
        boxes = self.boxes.astype(np.float64)
        return (boxes[:, :2] + boxes[:, 2:]) / 2

    def sizes(self) -> NDArray[np.float64]:
        """Return the boxes' widths and heights, N x 2 in pixels."""
        boxes = self.boxes.astype(np.float64)
        return boxes[:, 2:] - boxes[:, :2]

    def xywh(self) -> NDArray[np.float64]:
        """Return the boxes as N x 4 left, top, width, height in pixels."""
        return np.concatenate((self.boxes[:, :2].astype(np.float64), self.sizes()), axis=1)

    def class_texts(self) -> list[str]:
        """Return the classes as messages carry them: their names where there are `labels`, else numbers."""
        return [
            self.labels[number] if number < len(self.labels) else str(number)
            for number in self.class_ids.tolist()
        ]

    def track_texts(self) -> list[str]:
        """Return the track ids as messages carry them: decimal, empty where there is none."""
        if self.track_ids is None:
            return [""] * len(self)
        return ["" if number == NO_ID else str(number) for number in self.track_ids.tolist()]
