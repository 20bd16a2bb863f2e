"""From detections to messages."""

import numpy as np
from std_msgs.msg import Header
from yolo_trt_node.detector import Detections
from yolo_trt_node.node.messages import detection_array, image_message


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
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
    message = detection_array(header(), none)
    assert message.header == header()
    assert list(message.detections) == []


def test_an_image_message_holds_the_pixels_of_a_view():
    pixels = np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3)[:, 1:7]
    message = image_message(header(), pixels)
    assert (message.height, message.width, message.step) == (5, 6, 18)
    np.testing.assert_array_equal(np.asarray(message.data).reshape(5, 6, 3), pixels)
