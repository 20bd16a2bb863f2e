"""Identities for detections, from frame to frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.options import check_fields, option
from yolo_trt_node.tracking.assignment import assign
from yolo_trt_node.tracking.camera_motion import CameraMotion

# Standard deviation of a detected box's centre and size: so many pixels, and such a share of its size (here
# and below the root of its area).
_NOISE_PX = 0.7
_NOISE_SHARE = 0.06
# What is known of a new object's velocity over the ground (sizes a second, standard deviation), and how much
# it changes (sizes a second, per root of a second). A car of root area 2.8 m at 8 m/s does 3 a second, and so
# does a pedestrian.
_SPEED = 2.0
_ACCELERATION = 0.5
# How much a box's size changes, as a share of it, per root of a second.
_GROWTH = 0.15
# What the camera's motion leaves unexplained, pixels a frame.
_RESIDUAL_PX = 0.5
# A pair is possible up to this squared Mahalanobis distance: 99 % of a chi-square of four degrees of freedom.
_GATE = 13.3
# An object that comes and a track that ends together cost this: twice a negative log likelihood, as a pair's.
_APART = 22.0
# The step between frames whose stamps do not tell (a driver that stamps nothing).
_UNSTAMPED_STEP_S = 1 / 30

_TRACK = np.dtype(
    [
        ("id", np.int64),
        ("class_id", np.int32),
        ("hits", np.int64),
        ("unseen_s", np.float64),
        ("center", np.float64, 2),
        ("velocity", np.float64, 2),
        ("size", np.float64, 2),
        # Covariance of position and velocity along either axis, and variance of width and height.
        ("position_var", np.float64),
        ("cross_var", np.float64),
        ("velocity_var", np.float64),
        ("size_var", np.float64),
    ]
)


@dataclass(frozen=True)
class TrackerOptions:
    """How to track."""

    high_score: float = option(
        0.3,
        "Only detections that score this begin tracks; weaker ones (down to score_threshold) continue them.",
        low=0.0,
        high=1.0,
    )
    memory_s: float = option(
        2.0,
        "Seconds that a track outlives its last detection; a longer pause of the stamps ends all tracks.",
        low=0.05,
        high=60.0,
    )
    min_hits: int = option(
        2,
        "A track gets its id with its Nth detection in consecutive frames.",
        low=1,
        high=100,
    )
    camera_motion: bool = option(
        True, "Follow the camera's own motion in the images; false where the camera stands still."
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one makes no sense.
        """
        check_fields(self)


class Tracker:
    """Follows the objects of one camera.

    As in ByteTrack (Zhang et al. 2022) strong detections are associated with the tracks first, then weak ones
    with the tracks left over, and what is strong and left over begins a track; all within a class. A track is
    a Kalman filter of the box's centre (constant velocity over the ground, carried along by the camera's
    motion) and of its size; the association's cost is the likelihood of the detection under it, so that it
    holds for boxes of five pixels and of five hundred, at two frames a second and at sixty. All tracks are
    rows of one array.
    """

    def __init__(self, options: TrackerOptions | None = None, ids: Iterator[int] | None = None) -> None:
        """Start without tracks.

        Args:
            options: how to track.
            ids: where new tracks take their ids from; trackers that share it never share an id. By default
                1, 2, 3 ...
        """
        self.options = options or TrackerOptions()
        self._ids = itertools.count(1) if ids is None else ids
        self._camera = CameraMotion()
        self._stamp_s: float | None = None
        self._size: tuple[int, int] | None = None
        self._tracks = np.zeros(0, _TRACK)

    def reset(self) -> None:
        """End all tracks; their ids do not come back."""
        self._tracks = np.zeros(0, _TRACK)
        self._camera.reset()
        self._stamp_s = None

    def update(
        self, detections: Detections, image: Frame | NDArray[np.uint8], stamp_s: float
    ) -> NDArray[np.int64]:
        """Take the next frame's detections.

        Tracks end where time goes back or pauses for more than ``memory_s`` (a bag that starts again, a clock
        that was set), and where the image's size changes.

        Args:
            detections: in pixels of the image.
            image: the frame, or its H x W x 3 uint8 BGR pixels.
            stamp_s: the image's stamp in seconds.

        Returns:
            N int64, a positive id for each detection that a confirmed track goes through, else `NO_ID`.
        """
        frame = image if isinstance(image, Frame) else Frame.from_bgr(image)
        size = (frame.height, frame.width)
        elapsed = 0.0 if self._stamp_s is None else stamp_s - self._stamp_s
        if elapsed < 0 or elapsed > self.options.memory_s or size != self._size:
            self.reset()
        self._stamp_s, self._size = stamp_s, size
        if self.options.camera_motion:
            _carry(self._tracks, self._camera.update(frame))
        step_s = elapsed if elapsed > 0 else _UNSTAMPED_STEP_S
        _predict(self._tracks, step_s)
        self._tracks["unseen_s"] += step_s
        return self._associate(detections)

    def _associate(self, detections: Detections) -> NDArray[np.int64]:
        tracks = self._tracks
        found = np.zeros(len(detections), _TRACK)
        found["id"] = NO_ID
        found["class_id"] = detections.class_ids
        found["center"] = detections.centers()
        found["size"] = detections.sizes()
        noise = (_NOISE_PX + _NOISE_SHARE * _extent(found)) ** 2
        high = np.asarray(detections.scores) >= self.options.high_score
        confirmed = tracks["id"] != NO_ID

        track_of = np.full(len(found), -1)
        for wanted_tracks, wanted_boxes in (
            (confirmed, high),
            (confirmed, ~high),
            (~confirmed, high),
        ):
            free = np.ones(len(tracks), np.bool_)
            free[track_of[track_of >= 0]] = False
            i = np.flatnonzero(wanted_tracks & free)
            j = np.flatnonzero(wanted_boxes & (track_of < 0))
            if len(i) and len(j):
                row, column = assign(_cost(tracks[i], found[j], noise[j]), _APART)
                track_of[j[column]] = i[row]

        j = np.flatnonzero(track_of >= 0)
        i = track_of[j]
        _correct(tracks, i, found[j], noise[j])
        tracks["hits"][i] += 1
        tracks["unseen_s"][i] = 0
        newly = i[(tracks["id"][i] == NO_ID) & (tracks["hits"][i] >= self.options.min_hits)]
        tracks["id"][newly] = [next(self._ids) for _ in newly]
        ids = np.full(len(found), NO_ID, np.int64)
        ids[j] = tracks["id"][i]

        new = np.flatnonzero(high & (track_of < 0))
        born = found[new]
        born["hits"] = 1
        born["position_var"] = born["size_var"] = noise[new]
        born["velocity_var"] = (_SPEED * _extent(born)) ** 2
        if self.options.min_hits == 1:
            born["id"] = ids[new] = [next(self._ids) for _ in new]
        # A track without an id must be seen in every frame; one with an id is waited for.
        kept = (tracks["unseen_s"] == 0) | (
            (tracks["id"] != NO_ID) & (tracks["unseen_s"] <= self.options.memory_s)
        )
        self._tracks = np.concatenate((tracks[kept], born))
        return ids


def _extent(tracks: NDArray[np.void]) -> NDArray[np.float64]:
    """Root of the area, pixels."""
    return np.sqrt(np.maximum(tracks["size"].prod(axis=1), 1.0))


def _carry(tracks: NDArray[np.void], motion: NDArray[np.float64]) -> None:
    """Move tracks with the image, by a 3 x 3 homography; in place."""
    if not len(tracks):
        return
    x, y, w = motion @ np.column_stack((tracks["center"], np.ones(len(tracks)))).T
    # The homography's derivative at each centre turns and stretches velocities and sizes.
    linear = (motion[:2, :2] - np.stack((x / w, y / w), 1)[:, :, None] * motion[2, :2]) / w[:, None, None]
    stretch = np.abs(np.linalg.det(linear))
    tracks["center"] = np.stack((x / w, y / w), axis=1)
    tracks["velocity"] = np.einsum("nij,nj->ni", linear, tracks["velocity"])
    tracks["size"] *= np.sqrt(stretch)[:, None]
    for name in ("position_var", "cross_var", "velocity_var", "size_var"):
        tracks[name] *= stretch


def _predict(tracks: NDArray[np.void], step_s: float) -> None:
    """Kalman prediction: constant velocity, white acceleration, and a size that wanders; in place."""
    extent = _extent(tracks)
    drive = (_ACCELERATION * extent) ** 2
    tracks["center"] += step_s * tracks["velocity"]
    tracks["position_var"] += (
        2 * step_s * tracks["cross_var"]
        + step_s**2 * tracks["velocity_var"]
        + drive * step_s**3 / 3
        + _RESIDUAL_PX**2
    )
    tracks["cross_var"] += step_s * tracks["velocity_var"] + drive * step_s**2 / 2
    tracks["velocity_var"] += drive * step_s
    tracks["size_var"] += (_GROWTH * extent) ** 2 * step_s


def _cost(
    tracks: NDArray[np.void], found: NDArray[np.void], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Twice the negative log likelihood of each detection under each track, T x N.

    Against that of a track whose prediction is exact, so that zero is the best there is: a track that has
    not been seen for long is likely everywhere, and must not win against one that is sure.
    """
    center_var = tracks["position_var"][:, None] + noise
    size_var = tracks["size_var"][:, None] + noise
    away = np.zeros(center_var.shape)
    for name, variance in (("center", center_var), ("size", size_var)):
        for axis in (0, 1):
            away += np.subtract.outer(tracks[name][:, axis], found[name][:, axis]) ** 2 / variance
    possible = np.nonzero((away <= _GATE) & (tracks["class_id"][:, None] == found["class_id"]))
    cost = np.full(away.shape, np.inf)
    # Few pairs are possible, and logarithms are dear.
    spread = center_var[possible] * size_var[possible] / noise[possible[1]] ** 2
    cost[possible] = away[possible] + 2 * np.log(spread)
    return cost


def _correct(
    tracks: NDArray[np.void], index: NDArray[np.intp], found: NDArray[np.void], noise: NDArray[np.float64]
) -> None:
    """Kalman correction of the tracks ``index`` by a detection each; in place."""
    seen = tracks[index]
    total = seen["position_var"] + noise
    gain, velocity_gain = seen["position_var"] / total, seen["cross_var"] / total
    surprise = found["center"] - seen["center"]
    seen["center"] += gain[:, None] * surprise
    seen["velocity"] += velocity_gain[:, None] * surprise
    seen["velocity_var"] -= velocity_gain * seen["cross_var"]
    seen["cross_var"] *= 1 - gain
    seen["position_var"] *= 1 - gain
    size_gain = seen["size_var"] / (seen["size_var"] + noise)
    seen["size"] += size_gain[:, None] * (found["size"] - seen["size"])
    seen["size_var"] *= 1 - size_gain
    tracks[index] = seen
