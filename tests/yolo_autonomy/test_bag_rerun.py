"""A recording's images, boxes, tracks and places reach Rerun at their stamps."""

from types import SimpleNamespace

import numpy as np
import pytest
from yolo_autonomy import bag_rerun
from yolo_trt_node.cdr import detection_array
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, typestore

SECOND = 1_000_000_000


@pytest.fixture
def flight(tmp_path):
    store = typestore()
    with BagWriter(tmp_path / "flight", store) as writer:
        labels = messages.label_info(store, messages.header(store, SECOND, ""), ["man", "car"], 0.3)
        writer.write("/label_info", "vision_msgs/msg/LabelInfo", labels, SECOND)
        for second in (1, 2):
            stamp = second * SECOND
            header = messages.header(store, stamp, "camera")
            pixels = np.full((48, 64, 3), 90, np.uint8)
            writer.write("/image", messages.IMAGE_TYPE, messages.image(store, header, pixels), stamp)
            boxes = detection_array(
                header, np.array([[20.0, 30.0]]), np.array([[8.0, 6.0]]), np.array([0.75]), ["1"], ["4"]
            )
            writer.write("/detections", messages.DETECTIONS_TYPE, boxes, stamp)
    return tmp_path / "flight"


class Recorder:
    """Stands in for the library, and keeps what is logged."""

    def __init__(self) -> None:
        self.now, self.logged = None, []

    def set_time(self, timeline, timestamp) -> None:
        self.now = timestamp

    def log(self, path, what) -> None:
        self.logged.append((str(self.now)[11:19], path, what))

    def __getattr__(self, name):
        return lambda *args, **fields: SimpleNamespace(kind=name, args=args, **fields)


def test_images_and_boxes_lie_over_each_other_at_the_images_stamp(flight):
    rerun = Recorder()
    assert bag_rerun.show(flight, rerun) == 4
    assert [(when, path, what.kind) for when, path, what in rerun.logged] == [
        ("00:00:01", "cameras/image", "EncodedImage"),
        ("00:00:01", "cameras/detections", "Boxes2D"),
        ("00:00:02", "cameras/image", "EncodedImage"),
        ("00:00:02", "cameras/detections", "Boxes2D"),
    ]
    boxes = rerun.logged[1][2]
    assert boxes.labels == ["car 0.75 #4"]
    assert (boxes.centers.tolist(), boxes.sizes.tolist()) == ([[20.0, 30.0]], [[8.0, 6.0]])
    assert rerun.logged[0][2].contents[:2] == b"\xff\xd8"


def test_a_track_on_the_ground_grows_into_a_line():
    rerun = Recorder()
    shower = bag_rerun.Shower(rerun, None)
    for x in (0.0, 1.0, 2.0):
        best = SimpleNamespace(
            hypothesis=SimpleNamespace(class_id="1", score=0.5),
            pose=SimpleNamespace(pose=SimpleNamespace(position=SimpleNamespace(x=x, y=5.0, z=0.0))),
        )
        size = SimpleNamespace(size=SimpleNamespace(x=2.0))
        found = [SimpleNamespace(id="4", results=[best], bbox=size), SimpleNamespace(id="", results=[])]
        stamp = SimpleNamespace(sec=int(x), nanosec=0)
        shower._places("/3d", SimpleNamespace(header=SimpleNamespace(stamp=stamp), detections=found))
    when, path, line = rerun.logged[-1]
    assert (when, path, line.kind) == ("00:00:02", "ground/tracks/3d/4", "LineStrips3D")
    assert line.args[0][0].tolist() == [[0, 5, 0], [1, 5, 0], [2, 5, 0]]


def test_the_library_itself_writes_a_recording(flight, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    assert bag_rerun.main([str(flight), "-o", str(tmp_path / "new" / "flight.rrd")]) == 0
    assert (tmp_path / "new" / "flight.rrd").stat().st_size > 1000


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    assert bag_rerun.main([str(tmp_path)]) == 1
    assert "pip install rerun-sdk" in capsys.readouterr().err
