"""target_selection: one object of all detected ones, kept through short losses.

In:  detections (vision_msgs/Detection2DArray), label_info, camera_info; where they are there also
     detections_3d (the detector's ground projection), range (sensor_msgs/Range along the line of sight) and
     select_point (geometry_msgs/PointStamped, a pixel: the object there becomes the target).
Out: target (vision_msgs/Detection2D, one for each image that shows it, with the image's stamp),
     target_point and target_pose (geometry_msgs/PointStamped and PoseStamped, its place),
     target_state (std_msgs/String, latched: searching, tracking, coasting, lost).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped, PoseStamped
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import Range
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray, LabelInfo

from yolo_autonomy.nodes import (
    LATCHED,
    NEWEST,
    RELIABLE,
    CameraNode,
    Values,
    candidates,
    run_node,
    stamp_ns,
)
from yolo_autonomy.parameters import texts
from yolo_autonomy.target import LOST, PARAMETERS, Candidate, Selector, TargetChoice

# A range older than this is another place's.
_RANGE_S = 0.5


class TargetSelection(CameraNode):
    """Publishes the chosen object, and says when it is lost."""

    def __init__(self, **arguments: Any) -> None:
        """Subscribe.

        Raises:
            ValueError: a parameter means nothing.
        """
        self._selector = Selector()
        super().__init__("target_selection", PARAMETERS, self._choose, **arguments)
        self.start()
        self._said = ""
        self._newest: tuple[int, list[Candidate]] = (0, [])
        self._target: tuple[int, Candidate] | None = None
        self._range: tuple[int, float] | None = None
        self._heard_s = 0.0
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._targets = self.create_publisher(Detection2D, "target", RELIABLE)
        self._points = self.create_publisher(PointStamped, "target_point", RELIABLE)
        self._poses = self.create_publisher(PoseStamped, "target_pose", RELIABLE)
        self._states = self.create_publisher(String, "target_state", LATCHED)
        self.create_subscription(Detection2DArray, "detections", self._on_detections, RELIABLE)
        self.create_subscription(Detection3DArray, "detections_3d", self._on_places, RELIABLE)
        self.create_subscription(LabelInfo, "label_info", self._on_labels, LATCHED)
        self.create_subscription(Range, "range", self._on_range, NEWEST)
        self.create_subscription(PointStamped, "select_point", self._on_point, RELIABLE)
        self.create_timer(0.1, self._on_silence, clock=self._steady)
        self._say()

    def _choose(self, values: Values) -> None:
        self._selector.choose(
            TargetChoice(
                classes=texts(values["classes"]),
                track_id=values["track_id"],
                min_score=values["min_score"],
                prefer=values["prefer"],
                point=tuple(values["point"]),
                keep_s=values["keep_s"],
                reacquire=values["reacquire"],
                gate=values["gate"],
            )
        )

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = stamp_ns(message.header.stamp)
        self._heard_s = self._steady.now().nanoseconds / 1e9
        pairs = candidates(message)
        self._newest = stamp, [item for item, _ in pairs]
        size = None if self._info is None else (self._info.width, self._info.height)
        found = self._selector.update(stamp, self._newest[1], size)
        if found is not None:
            self._target = stamp, found
            self._targets.publish(next(detection for item, detection in pairs if item is found))
            self._publish_by_range(message, stamp, found)
        self._say()

    def _publish_by_range(self, message: Detection2DArray, stamp: int, found: Candidate) -> None:
        """Publish the place in the camera's frame, where a range along the line of sight is there."""
        if self._range is None or abs(stamp - self._range[0]) > _RANGE_S * 1e9 or self._camera is None:
            return
        ray = self._camera.rays(np.array([found.box[:2]]))[0] * self._range[1]
        if np.isfinite(ray).all():
            self._publish_place(message.header, Point(**dict(zip("xyz", ray.tolist(), strict=True))))

    def _on_places(self, message: Detection3DArray) -> None:
        """Publish the place on the ground of the target: the same track's, or the same class and score's."""
        if self._target is None or self._target[0] != stamp_ns(message.header.stamp):
            return
        target = self._target[1]
        for detection in message.detections:
            if not detection.results:
                continue
            best = detection.results[0]
            same = (best.hypothesis.class_id, best.hypothesis.score) == (target.class_id, target.score)
            if detection.id == target.track_id if target.track_id else same:
                self._publish_place(message.header, best.pose.pose.position)
                return

    def _publish_place(self, header: Header, place: Point) -> None:
        """Publish a place as a point, and as a pose without a turn for those who read poses only."""
        self._points.publish(PointStamped(header=header, point=place))
        pose = PoseStamped(header=header)
        pose.pose.position = place
        self._poses.publish(pose)

    def _on_labels(self, message: LabelInfo) -> None:
        self._selector.names = {str(item.class_id): item.class_name for item in message.class_map}
        known = {*self._selector.names, *self._selector.names.values()}
        strange = [name for name in self._selector.choice.classes if name not in known]
        if strange:
            self.get_logger().warning(
                f"classes: the model has no {', '.join(strange)}; it has {', '.join(sorted(known))}"
            )

    def _on_range(self, message: Range) -> None:
        if message.min_range <= message.range <= message.max_range:
            self._range = stamp_ns(message.header.stamp), message.range

    def _on_point(self, message: PointStamped) -> None:
        found = self._selector.point_at(message.point.x, message.point.y, *self._newest)
        if found is None:
            self.get_logger().warning(
                f"select_point: nothing was detected at pixel {message.point.x:.0f}, {message.point.y:.0f}"
            )
        self._say()

    def _on_silence(self) -> None:
        """Give the target up where the detector itself falls silent."""
        silent_s = self._steady.now().nanoseconds / 1e9 - self._heard_s
        if self._selector.target is not None and silent_s > self._selector.choice.keep_s + 0.5:
            self._selector.target, self._selector.state = None, LOST
            self.get_logger().warning(f"no detections for {silent_s:.1f} s")
            self._say()

    def _say(self) -> None:
        state = self._selector.state
        if state != self._said:
            if state == LOST:
                self.get_logger().warning("the target is lost")
            elif self._selector.target is not None and not self._said.startswith(("track", "coast")):
                item = self._selector.target
                name = self._selector.names.get(item.class_id, item.class_id)
                track = f", track {item.track_id}" if item.track_id else ""
                self.get_logger().info(f"target: {name}, score {item.score:.2f}{track}")
            self._said = state
            self._states.publish(String(data=state))


def main() -> None:
    """Run the node."""
    run_node(TargetSelection)


if __name__ == "__main__":
    main()
