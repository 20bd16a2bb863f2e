"""Which of the detected objects is the target, from image to image; no ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from yolo_autonomy.parameters import Table

PREFERENCES = ("center", "point", "score", "largest")
TOPICS = (
    "detections", "detections_3d", "label_info", "camera_info", "range", "select_point",
    "target", "target_point", "target_pose", "target_state",
)  # fmt: skip
PARAMETERS: Table = {
    "classes": ([""], "Class names or ids that may become the target; empty admits all."),
    "track_id": ("", "Only this track (the id that the detector's tracker gave); empty: any."),
    "min_score": (0.3, "Score from which on an object is chosen, 0 to 1."),
    "prefer": ("center", f"Of several objects the one that is best by: {', '.join(PREFERENCES)}."),
    "point": ([0.5, 0.5], "For prefer: point, x and y as shares of the image's width and height."),
    "keep_s": (1.0, "A target not seen for this many seconds is lost; until then it alone is looked for."),
    "reacquire": (True, "After a loss choose again; else stay lost until a target is named."),
    "gate": (1.5, "Without track ids: how far it may move between images, in sides of its box."),
}

SEARCHING, TRACKING, COASTING, LOST = "searching", "tracking", "coasting", "lost"


@dataclass(frozen=True)
class Candidate:
    """One detected object.

    Attributes:
        box: center x, center y, width, height in pixels.
        class_id: as the detector published it.
        score: 0 to 1.
        track_id: of the tracker; empty where there is none.
    """

    box: tuple[float, float, float, float]
    class_id: str
    score: float
    track_id: str = ""


@dataclass(frozen=True)
class TargetChoice:
    """What may become the target.

    Attributes:
        classes: ids or names; empty admits all.
        track_id: only this track; empty: any.
        min_score: to be chosen; a target that is tracked may fall below it.
        prefer: of several: nearest to the image's ``center``, nearest to a ``point``, of the highest
            ``score``, or the ``largest``.
        point: x and y as shares of the image's width and height, for ``prefer: point``.
        keep_s: a target that is not seen for this many seconds is lost; until then it alone is looked for.
        reacquire: whether another one is chosen after a loss; else it stays lost until it is named anew.
        gate: without track ids a detection continues the target if the centers lie within this many times
            the larger of the box's sides.
    """

    classes: tuple[str, ...] = ()
    track_id: str = ""
    min_score: float = 0.3
    prefer: str = "center"
    point: tuple[float, float] = (0.5, 0.5)
    keep_s: float = 1.0
    reacquire: bool = True
    gate: float = 1.5

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            ValueError: which, and what is accepted.
        """
        if self.prefer not in PREFERENCES:
            raise ValueError(f"prefer is {self.prefer!r}; it must be one of {', '.join(PREFERENCES)}")
        for name, low, high in (("min_score", 0.0, 1.0), ("keep_s", 0.0, 60.0), ("gate", 0.1, 100.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value:g}; it must lie in {low:g} to {high:g}")
        if len(self.point) != 2 or not all(0 <= share <= 1 for share in self.point):
            raise ValueError(f"point is {list(self.point)}; it must be two shares of the image, 0 to 1 each")


@dataclass
class Selector:
    """Keeps one object in view through short losses; a track's id is what names it.

    Attributes:
        choice: what may become the target; setting another one starts anew.
        names: of the classes by id, so that they can be chosen by name.
        state: ``searching``, ``tracking``, ``coasting`` (not seen just now) or ``lost``.
        target: as last seen, while tracking or coasting.
    """

    choice: TargetChoice = field(default_factory=TargetChoice)
    names: dict[str, str] = field(default_factory=dict)
    state: str = SEARCHING
    target: Candidate | None = None
    _seen_ns: int = 0

    def choose(self, choice: TargetChoice) -> None:
        """Take another choice; a target that it still admits stays the target."""
        kept = self.target is not None and self._admits(self.target, choice, 0.0)
        self.choice = choice
        if not kept:
            self.target, self.state = None, SEARCHING

    def point_at(
        self, x: float, y: float, stamp_ns: int, candidates: Sequence[Candidate]
    ) -> Candidate | None:
        """Make the object at a pixel the target: the smallest box that holds it; None where none does."""
        held = [
            item
            for item in candidates
            if abs(item.box[0] - x) <= item.box[2] / 2 and abs(item.box[1] - y) <= item.box[3] / 2
        ]
        if not held:
            return None
        self.target = min(held, key=lambda item: item.box[2] * item.box[3])
        self.state, self._seen_ns = TRACKING, stamp_ns
        return self.target

    def update(
        self, stamp_ns: int, candidates: Sequence[Candidate], size: tuple[int, int] | None
    ) -> Candidate | None:
        """Look at one image's objects.

        Args:
            stamp_ns: of the image.
            candidates: what was found in it.
            size: the image's width and height in pixels; None where unknown: then the center is that of
                all boxes.

        Returns:
            The target where this image shows it.
        """
        if stamp_ns < self._seen_ns:
            # The clock was set back or a bag starts again: what was is not true any more.
            self._seen_ns, self.target, self.state = stamp_ns, None, SEARCHING
        found = None
        if self.target is not None:
            found = self._continued(self.target, candidates)
            if found is None:
                self.expire(stamp_ns)
        if self.target is None and (self.state != LOST or self.choice.reacquire):
            found = self._best(candidates, size)
        if found is not None:
            self.target, self.state, self._seen_ns = found, TRACKING, stamp_ns
        return found

    def expire(self, now_ns: int) -> bool:
        """Give up a target that has not been seen for too long; tell whether it is lost just now."""
        if self.target is None:
            return False
        if now_ns - self._seen_ns <= self.choice.keep_s * 1e9:
            self.state = COASTING
            return False
        self.target, self.state = None, LOST
        return True

    def _continued(self, target: Candidate, candidates: Sequence[Candidate]) -> Candidate | None:
        if target.track_id:
            return next((item for item in candidates if item.track_id == target.track_id), None)
        same = [item for item in candidates if item.class_id == target.class_id]
        nearest = min(same, key=lambda item: math.dist(item.box[:2], target.box[:2]), default=None)
        if nearest is None:
            return None
        reach = self.choice.gate * max(target.box[2:])
        return nearest if math.dist(nearest.box[:2], target.box[:2]) <= reach else None

    def _admits(self, item: Candidate, choice: TargetChoice, min_score: float) -> bool:
        if choice.classes and not {item.class_id, self.names.get(item.class_id)} & set(choice.classes):
            return False
        return item.score >= min_score and choice.track_id in ("", item.track_id)

    def _best(self, candidates: Sequence[Candidate], size: tuple[int, int] | None) -> Candidate | None:
        choice = self.choice
        admitted = [item for item in candidates if self._admits(item, choice, choice.min_score)]
        if not admitted:
            return None
        if choice.prefer == "score":
            return max(admitted, key=lambda item: item.score)
        if choice.prefer == "largest":
            return max(admitted, key=lambda item: item.box[2] * item.box[3])
        share = choice.point if choice.prefer == "point" else (0.5, 0.5)
        if size is None:
            right = max(item.box[0] + item.box[2] / 2 for item in candidates)
            bottom = max(item.box[1] + item.box[3] / 2 for item in candidates)
            size = round(right), round(bottom)
        goal = (share[0] * size[0], share[1] * size[1])
        return min(admitted, key=lambda item: math.dist(item.box[:2], goal))
