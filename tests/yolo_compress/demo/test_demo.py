"""The demo's parts: the flight's bag, the flight over DDS, the report."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.node.transforms import _matrix
from yolo_trt_node.projection import PinholeCamera
from yolo_trt_node.replay.bags import open_bag, typestore

from aerial_scenes.camera import Camera
from aerial_scenes.visdrone import Annotation
from yolo_compress.data.labelled import GroundTruth
from yolo_compress.demo.flight import ORIGIN, DemoFrame, RecordedFlight, truth_of, write_flight
from yolo_compress.demo.pictures import age_timeline, choose_frames, contact_sheet
from yolo_compress.demo.replay import FlownModel, fly
from yolo_compress.demo.report import Rows, flight_against_table, flight_table, write_demo_report
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Found, score
from yolo_compress.report.page import PagePart

NAMES = ("red", "green", "blue")
FRAMES = 12
FPS = 20.0


def shot(index: int) -> DemoFrame:
    """640 x 320 pixels, ten times the toy's input, with one red cell that wanders."""
    column = 2 + index % 4
    image = paint_cells(np.full((320, 640, 3), 114, np.uint8), [(1, column, "red")], network_pixel=10)
    # The toy answers 16 x 24 network pixels around the cell's centre.
    box = [(column * 8 + 4 - 8) * 10, (8 + 4 - 12) * 10, 160, 240]
    truth = GroundTruth(np.array([box], float), np.array([0]), np.array([[600.0, 300, 40, 20]]))
    return DemoFrame(image, truth, ("7",))


@pytest.fixture(scope="module")
def flight(tmp_path_factory):
    bag = tmp_path_factory.mktemp("flight") / "bag"
    assert write_flight(bag, (shot(i) for i in range(FRAMES)), FPS, lambda done: None) == FRAMES
    return RecordedFlight(bag)


def test_images_truth_and_rhythm_come_back_from_the_bag(flight):
    assert len(flight) == FRAMES
    assert flight.duration_s == pytest.approx((FRAMES - 1) / FPS)
    image = flight.images([5])[5]
    np.testing.assert_array_equal(image, shot(5).image)
    for index, truth in enumerate(flight.truths):
        np.testing.assert_allclose(truth.boxes, shot(index).truth.boxes)
        np.testing.assert_allclose(truth.ignored, shot(index).truth.ignored)
        assert truth.class_ids.tolist() == [0]


def test_boxes_of_a_flight_lie_on_the_ground_where_its_transform_and_calibration_say(tmp_path):
    camera = Camera((12.0, -7.0, 30.0), yaw=2.2, pitch=0.4, roll=0.1, focal=500.0, width=640, height=320)
    write_flight(tmp_path / "bag", [replace(shot(0), camera=camera)], FPS, lambda done: None)
    store, heard = typestore(), {}
    with open_bag(tmp_path / "bag") as reader:
        for connection, _, data in reader.messages():
            heard[connection.topic] = store.deserialize_cdr(data, connection.msgtype)
    (moved,), info, fix = heard["/tf"].transforms, heard["/camera/camera_info"], heard["/fix"]
    assert (moved.header.frame_id, moved.child_frame_id) == ("map", info.header.frame_id)
    turn, place = moved.transform.rotation, moved.transform.translation
    rotation = _matrix(np.array([turn.x, turn.y, turn.z, turn.w]))
    seen = PinholeCamera.from_calibration(
        info.width, info.height, info.distortion_model, info.d, info.k, info.r, info.p
    )
    pixel = np.array([[500.0, 40.0]])
    ray = rotation @ seen.rays(pixel)[0]
    on_ground = np.array([place.x, place.y]) - ray[:2] * place.z / ray[2]
    np.testing.assert_allclose(on_ground, camera.ground_points(pixel)[0], atol=1e-6)
    # 7 m south of the origin, at 111.2 km a degree.
    assert (ORIGIN[0] - fix.latitude) * 111_190 == pytest.approx(7.0, rel=1e-3)
    assert fix.altitude == ORIGIN[2] + 30.0


def test_annotations_become_objects_and_regions_in_which_nothing_counts():
    truth = truth_of(
        [
            Annotation(1, 2, 3, 4, 1, 4),
            Annotation(10, 10, 50, 50, 0, 0),
            Annotation(5, 5, 9, 9, 1, 11),
            Annotation(7, 7, 2, 2, 1, 1),
        ]
    )
    assert truth.class_ids.tolist() == [3, 0]
    assert truth.boxes.tolist() == [[1, 2, 3, 4], [7, 7, 2, 2]]
    assert truth.ignored.tolist() == [[10, 10, 50, 50]]


def test_a_flight_over_dds_is_answered_and_matched_frame_by_frame(flight, tmp_path):
    told: list[float] = []
    flown = fly("toy", write_toy_detector(tmp_path / "toy.onnx"), flight, tmp_path / "flown", told.append)
    assert flown.frames == FRAMES
    assert len(flown.found) >= FRAMES // 2
    assert flown.dropped == FRAMES - len(flown.found)
    for index, found in flown.found.items():
        np.testing.assert_allclose(found.boxes, shot(index).truth.boxes, atol=1e-3)
        assert 0 < flown.ages_s[index] < 5
    answered = sorted(flown.found)
    assert score(
        [flight.truths[i] for i in answered], [flown.found[i] for i in answered], NAMES
    ).ap50 == pytest.approx(1)
    assert told == sorted(told)


def test_a_model_that_cannot_fly_is_an_error_with_the_nodes_own_words(flight, tmp_path, monkeypatch):
    monkeypatch.setattr("yolo_compress.demo.replay.START_PATIENCE_S", 5.0)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot read .*broken\.onnx"):
        fly("broken", broken, flight, tmp_path / "flown", lambda seconds: None)


def test_pictures_and_report_are_made_and_need_no_other_file(flight, tmp_path):
    found = {
        i: Found(t.boxes, np.array([0.9]), t.class_ids)
        for i, t in enumerate(flight.truths)
        if i not in (0, 3)
    }
    flown = FlownModel("model <one>", found, dict.fromkeys(found, 0.02), FRAMES, 0.001)
    frames = choose_frames(flight, [flown])
    assert len(frames) == 4
    assert set(frames) <= set(found)
    contact_sheet(flight, [flown], NAMES, tmp_path / "sheet.png", frames)
    age_timeline(flight, [flown], tmp_path / "ages.png")
    accuracy = score([flight.truths[i] for i in found], list(found.values()), NAMES)
    table = flight_table([flown], [accuracy], "note")
    assert list(table.rows[0]) == ["model <one>", "12", "10", "2", "20 ms", "20 ms", "100.0"]
    write_demo_report(
        tmp_path / "report.html",
        title="t",
        summary="s",
        stages=Rows(("stage",), [("dense",)], "n"),
        flights=table,
        names=NAMES,
        sheet=tmp_path / "sheet.png",
        sheet_note="n",
        ages=tmp_path / "ages.png",
        command="make demo",
        onward=PagePart("Onward", links=[("the <model>", "run/model.onnx")]),
        seconds=90,
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "model &lt;one&gt;" in page
    assert "1.5 minutes" in page
    assert '<a href="run/model.onnx">the &lt;model&gt;</a>' in page
    assert page.count('class="scroll"') == 1  # the wide table says that it goes on, the narrow one does not
    assert 'src="http' not in page
    assert "<script" not in page


def test_the_lead_names_the_flight_where_it_points_the_other_way():
    def models(dense: float | None, compressed: float | None):
        return SimpleNamespace(ap50=dense), SimpleNamespace(ap50=compressed)

    assert flight_against_table(models(0.7, 0.6), models(0.5, 0.4)) == ""
    assert flight_against_table(models(None, None), models(0.5, 0.4)) == ""
    ahead = flight_against_table(models(0.7, 0.6), models(0.412, 0.5))
    assert "compressed model is ahead" in ahead
    assert "50.0 against 41.2" in ahead
    assert "is behind" in flight_against_table(models(0.6, 0.7), models(0.5, 0.4))
