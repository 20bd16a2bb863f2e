"""Many bags: each is answered or its failure is told, and nothing is done twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.replay import many, messages
from yolo_trt_node.replay.bag_detect import main
from yolo_trt_node.replay.bags import BagWriter, open_bag, typestore

STORE = typestore()
TOPIC = "/nose/image_raw"


def write_flight(bag: Path, frames: int) -> Path:
    """A bag whose every image has one object."""
    bag.parent.mkdir(parents=True, exist_ok=True)
    image = paint_cells(np.zeros((64, 64, 3), np.uint8), [(2, 2, "red")])
    with BagWriter(bag, STORE, "mcap") as writer:
        for index in range(frames):
            stamp = (100 + index) * 10**9
            data = messages.image(STORE, messages.header(STORE, stamp, "nose"), image)
            writer.write(TOPIC, messages.IMAGE_TYPE, data, stamp)
    return bag


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Two flights of one name, and one file that is no bag, looked at two at once."""
    folder = tmp_path_factory.mktemp("many")
    model = write_toy_detector(folder / "toy.onnx")
    bags = [write_flight(folder / day / "flight", frames) for day, frames in (("monday", 3), ("tuesday", 2))]
    broken = folder / "broken.mcap"
    broken.write_bytes(b"no bag at all")
    command = [*map(str, [*bags, broken]), "--out", str(folder / "out"), "--jobs", "2", "--model", str(model)]
    return folder / "out", command, main(command)


def test_each_bag_is_answered_whatever_the_others_do(ended):
    out, _, status = ended
    assert status == 1, "one bag failed"
    for name, frames in (("monday_flight", 3), ("tuesday_flight", 2)):
        with open_bag(out / name) as bag:
            assert {c.topic: c.msgcount for c in bag.connections}[f"{TOPIC}/detections"] == frames
    assert not (out / "broken").exists()


def test_the_summary_names_what_failed_and_why(ended):
    out, _, _ = ended
    with (out / "summary.csv").open() as file:
        rows = {Path(row["output"]).name: row for row in csv.DictReader(file)}
    assert [rows[name]["status"] for name in ("monday_flight", "tuesday_flight", "broken")] == [
        "done", "done", "failed",
    ]  # fmt: skip
    assert (rows["monday_flight"]["images"], rows["monday_flight"]["boxes"]) == ("3", "3")
    assert "broken.mcap" in rows["broken"]["reason"]
    page = (out / "summary.html").read_text()
    assert "2 of 3 bags" in page
    assert page.index("broken.mcap") < page.index("monday_flight"), "failed ones come first"


def test_what_is_finished_is_not_done_again(ended, monkeypatch, capsys):
    _, command, _ = ended
    begun: list[str] = []

    def work(job, running=None):
        begun.append(job.output.name)
        return many.Outcome(str(job.bag), str(job.output), "failed", reason="not now", key=job.key)

    monkeypatch.setattr(many, "_work", work)
    assert main(command) == 1
    assert begun == ["broken"]
    assert "2 of 3 bags are finished already" in capsys.readouterr().out
    begun.clear()
    main([*command, "--score-threshold", "0.9"])
    assert sorted(begun) == ["broken", "monday_flight", "tuesday_flight"], "other options, other answers"


def test_a_bag_named_twice_is_refused_before_anything_begins(tmp_path, capsys):
    bag = write_flight(tmp_path / "flight", 1)
    model = write_toy_detector(tmp_path / "toy.onnx")
    assert main([str(bag), str(bag), "--out", str(tmp_path / "out"), "--model", str(model)]) == 1
    assert "name each bag once" in capsys.readouterr().err


def test_several_bags_need_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["a", "b", "--model", "m.onnx"])
    assert "need --out" in capsys.readouterr().err


def test_texts_of_bags_are_no_markup(tmp_path):
    outcome = many.Outcome("<b>flight</b>", "out", "failed", reason="<script>")
    many.write_bags_summary(tmp_path, [outcome])
    page = (tmp_path / "summary.html").read_text()
    assert "&lt;b&gt;flight" in page
    assert "<script>" not in page


def test_a_record_that_is_damaged_is_not_believed(tmp_path):
    job = many.BagJob(tmp_path / "bag", tmp_path / "out", ("true",), "key")
    job.output.mkdir()
    for text in ("[]", "{", json.dumps({"status": "done"})):
        job.beside(".json").write_text(text)
        assert many._kept(job) is None


def test_a_bag_that_was_read_up_to_its_damage_is_tried_again(tmp_path):
    """Its first answers are replaced, not taken for somebody else's."""
    bag = write_flight(tmp_path / "flight", 4)
    model = write_toy_detector(tmp_path / "toy.onnx")
    command = [str(bag), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert main(command) == 0
    record = tmp_path / "out" / "flight.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "failed", "reason": "cut"}))
    assert main(command) == 0
    assert json.loads(record.read_text())["images"] == 4
