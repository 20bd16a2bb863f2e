"""obstacle_cloud: detected objects on the ground as point clouds for a costmap's obstacle layer.

In:  detections_3d (vision_msgs/Detection3DArray, the detector's ground projection), label_info.
Out: obstacles (sensor_msgs/PointCloud2: mark these), obstacles_cleared (clear up to these).
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray, LabelInfo

from yolo_autonomy.frames import Floats
from yolo_autonomy.nodes import LATCHED, RELIABLE, AdapterNode, Values, run_node, stamp_ns
from yolo_autonomy.obstacles import PARAMETERS, Extent, Obstacle, ObstacleMap
from yolo_autonomy.parameters import texts, within

_RANGES = {
    "resolution": (0.02, 5), "margin": (0, 50), "min_width": (0.02, 100), "max_width": (0.02, 100),
    "height": (0, 100), "keep_s": (0, 3600), "clear_s": (0, 3600),
}  # fmt: skip


class ObstacleCloud(AdapterNode):
    """Publishes where the ground is occupied."""

    def __init__(self, **arguments: Any) -> None:
        """Subscribe.

        Raises:
            ValueError: a parameter means nothing.
        """
        self._map = ObstacleMap()
        self._names: dict[str, str] = {}
        super().__init__("obstacle_cloud", PARAMETERS, self._apply, **arguments)
        self.start()
        self._marks = self.create_publisher(PointCloud2, "obstacles", RELIABLE)
        self._clears = self.create_publisher(PointCloud2, "obstacles_cleared", RELIABLE)
        self.create_subscription(Detection3DArray, "detections_3d", self._on_places, RELIABLE)
        self.create_subscription(LabelInfo, "label_info", self._on_labels, LATCHED)

    def _apply(self, values: Values) -> None:
        extent = Extent(**{name: within(values, name, low, high) for name, (low, high) in _RANGES.items()})
        self._min_score = within(values, "min_score", 0, 1)
        self._classes = set(texts(values["classes"]))
        if extent != self._map.extent:
            self._map = ObstacleMap(extent)

    def _on_labels(self, message: LabelInfo) -> None:
        self._names = {str(item.class_id): item.class_name for item in message.class_map}

    def _on_places(self, message: Detection3DArray) -> None:
        seen = []
        for detection in message.detections:
            if not detection.results:
                continue
            best = detection.results[0]
            place, width = best.pose.pose.position, detection.bbox.size.x
            if self._classes and not self._classes & {
                best.hypothesis.class_id,
                self._names.get(best.hypothesis.class_id, ""),
            }:
                continue
            numbers = (place.x, place.y, place.z, width)
            # NaN compares false.
            if best.hypothesis.score >= self._min_score and all(abs(number) < 1e6 for number in numbers):
                seen.append(Obstacle(*numbers, detection.id))
        occupied, cleared = self._map.update(stamp_ns(message.header.stamp), seen)
        self._marks.publish(cloud(message.header, occupied))
        self._clears.publish(cloud(message.header, cleared))


def cloud(header: Header, points: Floats) -> PointCloud2:
    """Return points, N x 3 in metres in the header's frame, as a cloud of x, y, z."""
    data = array.array("B")
    data.frombytes(points.astype("<f4").tobytes())
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate("xyz")
        ],
        is_bigendian=False,
        point_step=12,
        row_step=12 * len(points),
        data=data,
        is_dense=bool(np.isfinite(points).all()),
    )


def main() -> None:
    """Run the node."""
    run_node(ObstacleCloud)


if __name__ == "__main__":
    main()
