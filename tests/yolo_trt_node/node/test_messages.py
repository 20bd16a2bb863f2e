"""From detections to messages."""

import time
from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray
from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.node.messages import (
    detection_3d_array,
    detection_array,
    image_message,
    serialization_fits,
)
from yolo_trt_node.projection import GroundPoints


def header() -> Header:
    made = Header(frame_id="front")
    made.stamp.sec, made.stamp.nanosec = 5, 6
    return made


def test_boxes_are_centre_and_size_in_float_pixels_and_ids_are_text():
    found = Detections(
        np.array([[10.25, 20.5, 30.75, 60.0]], np.float32),
        np.array([0.5], np.float32),
        np.array([9], np.int32),
    )
    (detection,) = detection_array(header(), found).detections
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (20.5, 40.25)
    assert (detection.bbox.size_x, detection.bbox.size_y, detection.bbox.center.theta) == (20.5, 39.5, 0.0)
    assert detection.results[0].hypothesis.class_id == "9"
    assert detection.results[0].hypothesis.score == 0.5
    assert detection.header == header()


def test_no_boxes_make_an_empty_array_with_the_header():
    message = detection_array(header(), Detections.empty())
    assert message.header == header()
    assert list(message.detections) == []


def test_an_image_message_holds_the_pixels_of_a_view():
    pixels = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)[:, 1:7]
    message = image_message(header(), pixels)
    assert (message.height, message.width, message.step) == (5, 6, 18)
    np.testing.assert_array_equal(np.asarray(message.data).reshape(5, 6, 3), pixels)


def found(count: int, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)) * 4000, axis=1).reshape(count, 4)
    return Detections(
        corners.astype(np.float32),
        rng.random(count).astype(np.float32),
        rng.integers(0, 1200, count).astype(np.int32),
    )


def test_the_serializer_fits_the_installed_messages():
    assert serialization_fits()


@pytest.mark.parametrize("frame_id", ["", "f", "fr", "camera_front", "ünïcode/\N{SNOWMAN}"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
@pytest.mark.parametrize("tracked", [False, True])
def test_serialized_at_once_it_is_the_very_message(frame_id, count, tracked):
    head = Header(frame_id=frame_id)
    head.stamp.sec, head.stamp.nanosec = -7, 999_999_999
    ids = np.array([7**index % 100_003 for index in range(count)], np.int64) if tracked else None
    detections = replace(found(count), track_ids=ids)
    message = detection_array(head, detections)

    written = serialized_detections(head, detections)

    assert len(written) == len(serialize_message(message))
    assert deserialize_message(written, Detection2DArray) == message


def test_300_boxes_cost_under_5_ms_more_than_none():
    many, none = found(300), found(0)

    def fastest_s(detections):
        times = []
        for _ in range(20):
            started = time.perf_counter()
            serialized_detections(header(), detections)
            times.append(time.perf_counter() - started)
        return min(times)

    assert fastest_s(many) - fastest_s(none) < 0.005


def test_places_on_the_ground_name_their_own_detections():
    found = Detections(
        np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32),
        np.array([0.9, 0.75, 0.5], np.float32),
        np.array([4, 7, 1], np.int32),
        track_ids=np.array([5, NO_ID, 9]),
    )
    covariance = np.array([[4.0, 0.5, 0.0], [0.5, 3.0, 0.0], [0.0, 0.0, 0.25]])
    points = GroundPoints(
        index=np.array([0, 2]),
        positions=np.array([[1.0, 2.0, 0.0], [-3.0, 4.0, 0.0]]),
        covariances=np.stack((covariance, 2 * covariance)),
        widths=np.array([1.5, 2.5]),
    )
    message = detection_3d_array(header(), found, points)
    assert message.header == header()
    assert [d.id for d in message.detections] == ["5", "9"]
    assert [d.results[0].hypothesis.class_id for d in message.detections] == ["4", "1"]
    assert [d.results[0].hypothesis.score for d in message.detections] == pytest.approx([0.9, 0.5])
    last = message.detections[1]
    place = last.results[0].pose.pose.position
    assert (place.x, place.y, place.z) == (-3.0, 4.0, 0.0)
    assert (last.bbox.center.position.x, last.bbox.size.x, last.bbox.size.z) == (-3.0, 2.5, 0.0)
    whole = np.array(last.results[0].pose.covariance).reshape(6, 6)
    np.testing.assert_array_equal(whole[:3, :3], 2 * covariance)
    # Nothing is known of the orientation: as uncertain as an angle can be.
    np.testing.assert_allclose(whole[3:, 3:], np.eye(3) * np.pi**2 / 3)
