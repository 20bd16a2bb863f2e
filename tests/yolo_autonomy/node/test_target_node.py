"""The chosen object over DDS: with the image's stamp, its place, and the word that it is lost."""

import pytest
from geometry_msgs.msg import PointStamped, PoseStamped
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Range
from std_msgs.msg import String
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    ObjectHypothesisWithPose,
)
from yolo_autonomy.target_node import TargetSelection


def result(class_id, score):
    made = ObjectHypothesisWithPose()
    made.hypothesis.class_id, made.hypothesis.score = class_id, score
    return made


def image(second, *objects) -> Detection2DArray:
    """Detections of (x, y, class id, score, track id) with sides of 40 pixels."""
    message = Detection2DArray()
    message.header.stamp.sec, message.header.frame_id = second, "camera"
    for x, y, class_id, score, track in objects:
        detection = Detection2D(header=message.header, id=track, results=[result(class_id, score)])
        center = detection.bbox.center.position
        center.x, center.y = float(x), float(y)
        detection.bbox.size_x = detection.bbox.size_y = 40.0
        message.detections.append(detection)
    return message


def test_a_target_is_published_kept_placed_and_lost(bench):
    node = bench.adapter(TargetSelection, prefer="score", keep_s=1.5, reacquire=False)
    make = bench.peer.create_publisher
    detections = make(Detection2DArray, "detections", 10)
    places, infos = make(Detection3DArray, "detections_3d", 10), make(CameraInfo, "camera_info", 10)
    ranges, clicks = make(Range, "range", 10), make(PointStamped, "select_point", 10)
    targets, points = bench.listen(Detection2D, "target"), bench.listen(PointStamped, "target_point")
    poses = bench.listen(PoseStamped, "target_pose")
    states = bench.listen(String, "target_state")
    assert bench.connected(
        detections, places, infos, ranges, clicks, node._targets, node._points, node._poses
    )

    # No detection without a class, and none with a number that is none, becomes a target.
    broken = image(9, (float("nan"), 1, "0", 1.0, "9"))
    broken.detections.append(Detection2D(id="8"))
    detections.publish(broken)
    detections.publish(image(10, (100, 100, "0", 0.6, "1"), (500, 100, "1", 0.9, "2")))
    assert bench.spin_until(lambda: targets)
    assert [(t.header.stamp.sec, t.id) for t in targets] == [(10, "2")]

    place = Detection3D(id="2", results=[result("1", 0.9)])
    place.results[0].pose.pose.position.x = 30.0
    message = Detection3DArray(detections=[Detection3D(id="1", results=[result("0", 0.6)]), place])
    message.header.stamp.sec, message.header.frame_id = 10, "map"
    places.publish(message)
    assert bench.spin_until(lambda: points)
    assert (points[0].header.frame_id, points[0].point.x) == ("map", 30.0)

    calibration = [400.0, 0, 320, 0, 400, 240, 0, 0, 1]
    infos.publish(CameraInfo(width=64, height=48, k=calibration))
    infos.publish(CameraInfo(width=64, height=48, k=calibration))
    infos.publish(CameraInfo(width=640, height=480, k=calibration))
    assert bench.spin_until(lambda: node._camera is not None and node._camera.width == 640)
    measured = Range(min_range=0.1, max_range=50.0, range=20.0)
    measured.header.stamp.sec = 11
    ranges.publish(measured)
    assert bench.spin_until(lambda: node._range is not None)
    detections.publish(image(11, (100, 100, "0", 0.99, "1"), (420, 240, "1", 0.5, "2")))
    assert bench.spin_until(lambda: len(points) == 2)
    assert targets[-1].id == "2"
    at = points[-1]
    assert (at.header.frame_id, at.header.stamp.sec) == ("camera", 11)
    assert (at.point.x, at.point.y, at.point.z) == pytest.approx((5.0, 0.0, 20.0))
    assert bench.spin_until(lambda: len(poses) == 2)
    assert [(pose.header, pose.pose.position) for pose in poses] == [(p.header, p.point) for p in points]
    assert poses[0].pose.orientation.w == 1.0

    for second in (12, 13):
        detections.publish(image(second, (100, 100, "0", 0.99, "1")))
    assert bench.spin_until(lambda: states and states[-1].data == "lost")
    assert [state.data for state in states[-3:]] == ["tracking", "coasting", "lost"]
    assert len(targets) == 2

    click = PointStamped()
    click.point.x = click.point.y = 95.0
    clicks.publish(click)
    assert bench.spin_until(lambda: states[-1].data == "tracking")
    detections.publish(image(14, (110, 100, "0", 0.4, "1")))
    assert bench.spin_until(lambda: len(targets) == 3)
    assert targets[-1].id == "1"


def test_parameters_are_checked_at_start_and_while_it_runs(bench):
    with pytest.raises(ValueError, match=r"target_selection: prefer is 'best'; it must be one of center"):
        bench.adapter(TargetSelection, prefer="best")
    node = bench.adapter(TargetSelection)
    (refused,) = node.set_parameters([Parameter("keep_s", value=-1.0)])
    assert not refused.successful
    assert "keep_s is -1; it must lie in 0 to 60" in refused.reason
    (accepted,) = node.set_parameters([Parameter("classes", value=["car"])])
    assert accepted.successful
    assert node._selector.choice.classes == ("car",)
