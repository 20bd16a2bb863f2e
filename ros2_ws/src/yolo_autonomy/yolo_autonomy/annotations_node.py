"""image_annotations: detections as lines and texts that Foxglove draws over the camera's image.

In:  detections (vision_msgs/Detection2DArray), label_info, target (vision_msgs/Detection2D, drawn in white).
Out: annotations (foxglove_msgs/ImageAnnotations), while somebody listens.
"""

from __future__ import annotations

from typing import Any

from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo

from yolo_autonomy.annotations import PARAMETERS, label, outlines
from yolo_autonomy.nodes import (
    LATCHED,
    RELIABLE,
    AdapterNode,
    Values,
    candidate,
    candidates,
    run_node,
    stamp_ns,
)
from yolo_autonomy.parameters import within
from yolo_autonomy.target import Candidate


class ImageAnnotationsNode(AdapterNode):
    """Publishes what to draw."""

    def __init__(self, **arguments: Any) -> None:
        """Subscribe.

        Raises:
            ValueError: a parameter means nothing, or foxglove_msgs is missing.
        """
        try:
            from foxglove_msgs import msg
        except ImportError as error:
            raise ValueError(
                f"image_annotations needs foxglove_msgs ({error}): sudo apt install "
                "ros-$ROS_DISTRO-foxglove-msgs"
            ) from error
        self._msg = msg
        super().__init__("image_annotations", PARAMETERS, self._apply, **arguments)
        self.start()
        self._names: dict[str, str] = {}
        self._target: Candidate | None = None
        self._sent_ns = 0
        self._annotations = self.create_publisher(msg.ImageAnnotations, "annotations", RELIABLE)
        self.create_subscription(Detection2DArray, "detections", self._on_detections, RELIABLE)
        self.create_subscription(Detection2D, "target", self._on_target, RELIABLE)
        self.create_subscription(LabelInfo, "label_info", self._on_labels, LATCHED)

    def _apply(self, values: Values) -> None:
        self._min_score = within(values, "min_score", 0, 1)
        self._thickness = within(values, "thickness", 0.5, 50)
        self._font_size = within(values, "font_size", 4, 200)
        self._rate_hz = within(values, "max_rate_hz", 0, 1000)
        self._texts = bool(values["texts"])

    def _on_labels(self, message: LabelInfo) -> None:
        self._names = {str(item.class_id): item.class_name for item in message.class_map}

    def _on_target(self, message: Detection2D) -> None:
        self._target = candidate(message)

    def _marked(self, items: list[Candidate]) -> Candidate | None:
        """Return the target among an image's objects; the word of it may come later than the boxes."""
        target = self._target
        if target is None:
            return None
        if target.track_id:
            return next((item for item in items if item.track_id == target.track_id), None)
        return next((item for item in items if item == target), None)

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = stamp_ns(message.header.stamp)
        if not self._annotations.get_subscription_count():
            return
        if self._rate_hz > 0 and 0 <= stamp - self._sent_ns < 1e9 / self._rate_hz:
            return
        self._sent_ns = stamp
        kinds, when = self._msg, message.header.stamp
        items = [item for item, _ in candidates(message) if item.score >= self._min_score]
        made = kinds.ImageAnnotations()
        if hasattr(made, "timestamp"):  # newer versions have one for all
            made.timestamp = when
        for outline in outlines(items, self._marked(items)):
            made.points.append(
                kinds.PointsAnnotation(
                    timestamp=when,
                    type=kinds.PointsAnnotation.LINE_LIST,
                    points=[kinds.Point2(x=float(x), y=float(y)) for x, y in outline.corners],
                    outline_color=self._color(outline.color),
                    thickness=self._thickness,
                )
            )
        for item in items if self._texts else []:
            x, y, width, height = item.box
            made.texts.append(
                kinds.TextAnnotation(
                    timestamp=when,
                    position=kinds.Point2(x=x - width / 2, y=max(y - height / 2, self._font_size)),
                    text=label(item, self._names),
                    font_size=self._font_size,
                    text_color=self._color((1.0, 1.0, 1.0)),
                    background_color=self._color((0.0, 0.0, 0.0), 0.5),
                )
            )
        self._annotations.publish(made)

    def _color(self, color: tuple[float, float, float], opacity: float = 1.0) -> Any:
        red, green, blue = color
        return self._msg.Color(r=red, g=green, b=blue, a=opacity)


def main() -> None:
    """Run the node."""
    run_node(ImageAnnotationsNode)


if __name__ == "__main__":
    main()
