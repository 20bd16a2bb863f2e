"""Obstacles and annotations over DDS."""

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)
from yolo_autonomy.nodes import LATCHED
from yolo_autonomy.obstacles_node import ObstacleCloud

LABELS = LabelInfo(
    class_map=[VisionClass(class_id=3, class_name="car"), VisionClass(class_id=0, class_name="man")]
)


def result(class_id, score=0.9):
    made = ObjectHypothesisWithPose()
    made.hypothesis.class_id, made.hypothesis.score = class_id, score
    return made


def place(x, y, class_id, score=0.9, width=2.0) -> Detection3D:
    made = Detection3D(results=[result(class_id, score)], id="5")
    made.results[0].pose.pose.position.x, made.results[0].pose.pose.position.y = x, y
    made.bbox.size.x = made.bbox.size.y = width
    return made


def points(cloud: PointCloud2) -> np.ndarray:
    assert [(field.name, field.offset) for field in cloud.fields] == [("x", 0), ("y", 4), ("z", 8)]
    assert (cloud.point_step, cloud.row_step, cloud.height) == (12, 12 * cloud.width, 1)
    return np.frombuffer(bytes(cloud.data), "<f4").reshape(-1, 3)


def test_obstacles_are_marked_then_cleared_in_the_fixed_frame(bench):
    node = bench.adapter(ObstacleCloud, classes=["car"], margin=0.0, keep_s=0.5, resolution=0.5)
    places = bench.peer.create_publisher(Detection3DArray, "detections_3d", 10)
    labels = bench.peer.create_publisher(LabelInfo, "label_info", LATCHED)
    marks, clears = bench.listen(PointCloud2, "obstacles"), bench.listen(PointCloud2, "obstacles_cleared")
    assert bench.connected(places, labels, node._marks, node._clears)
    labels.publish(LABELS)
    assert bench.spin_until(lambda: node._names)

    def publish(second, *detections):
        message = Detection3DArray(detections=list(detections))
        message.header.frame_id, message.header.stamp.sec = "map", second
        before = len(clears)
        places.publish(message)
        assert bench.spin_until(lambda: len(clears) > before and len(marks) > before)

    broken = place(float("nan"), 0.0, "3")
    publish(10, place(4.0, -3.0, "3"), place(9.0, 9.0, "0"), place(7.0, 7.0, "3", 0.1), broken, Detection3D())
    assert (marks[-1].header.frame_id, marks[-1].header.stamp.sec) == ("map", 10)
    there = points(marks[-1])
    assert np.hypot(there[:, 0] - 4, there[:, 1] + 3).max() <= 1.0
    assert len(points(clears[-1])) == 0
    publish(11)
    assert len(points(marks[-1])) == 0
    np.testing.assert_array_equal(np.sort(points(clears[-1]), axis=0), np.sort(there, axis=0))
    with pytest.raises(ValueError, match=r"obstacle_cloud: resolution is 0; it must lie in 0.02 to 5"):
        bench.adapter(ObstacleCloud, resolution=0.0)


def test_annotations_are_small_and_have_the_images_stamp(bench):
    pytest.importorskip("foxglove_msgs", reason="foxglove_msgs is not installed")
    from foxglove_msgs.msg import ImageAnnotations, PointsAnnotation
    from yolo_autonomy.annotations_node import ImageAnnotationsNode

    node = bench.adapter(ImageAnnotationsNode, min_score=0.2)
    detections = bench.peer.create_publisher(Detection2DArray, "detections", 10)
    targets = bench.peer.create_publisher(Detection2D, "target", 10)
    labels = bench.peer.create_publisher(LabelInfo, "label_info", LATCHED)
    heard = bench.listen(ImageAnnotations, "annotations")
    assert bench.connected(detections, targets, labels, node._annotations)
    message = Detection2DArray()
    message.header.stamp.sec = 12
    for index, (class_id, score) in enumerate((("3", 0.9), ("3", 0.8), ("0", 0.7), ("0", 0.1))):
        made = Detection2D(results=[result(class_id, score)], id=str(index))
        made.bbox.center.position.x, made.bbox.center.position.y = 100.0 * index + 50, 80.0
        made.bbox.size_x = made.bbox.size_y = 20.0
        message.detections.append(made)
    labels.publish(LABELS)
    targets.publish(message.detections[1])
    assert bench.spin_until(lambda: node._names and node._target is not None)
    detections.publish(message)
    assert bench.spin_until(lambda: heard)
    (found,) = heard
    assert [len(entry.points) for entry in found.points] == [8, 8, 8]
    assert [text.text for text in found.texts] == ["car 0.90 #0", "car 0.80 #1", "man 0.70 #2"]
    assert found.points[0].timestamp.sec == found.texts[0].timestamp.sec == 12
    assert found.points[0].type == PointsAnnotation.LINE_LIST
    target = found.points[1]
    assert (target.outline_color.r, target.outline_color.g, target.outline_color.b) == (1.0, 1.0, 1.0)
    assert (target.points[0].x, target.points[0].y) == (140.0, 70.0)
    assert (found.texts[1].position.x, found.texts[1].position.y) == (140.0, 70.0)
    assert len(serialize_message(found)) < 400 * len(found.texts)
