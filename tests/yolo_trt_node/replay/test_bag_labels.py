"""Of a flight, the images that are worth a human's look become a data set that the trainer takes."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.toy_detector import NAMES, expected_box, paint_cells, write_toy_detector
from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.replay import bag_detect, bag_labels, messages
from yolo_trt_node.replay.bag_labels import ChoiceOptions
from yolo_trt_node.replay.bags import BagError, BagWriter, typestore
from yolo_trt_node.replay.label_choice import (
    AnsweredImage,
    ChosenImage,
    alone,
    choose_images,
    contradictory,
    found_again,
    judge,
    missing,
    renamed,
    unsure,
    validation,
)
from yolo_trt_node.replay.label_set import coco_content, entries, mot_rows, yolo_rows

from yolo_compress.data.labelled import read_split

STORE = typestore()
SECOND = 1_000_000_000


def boxes(*rows: tuple, ids: tuple[int, ...] | None = None) -> Detections:
    """Detections of center x, center y, score, class; 20 x 20 pixels each."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    corner = table[:, :2] - 10
    found = Detections.from_xywh(
        np.hstack((corner, np.full_like(corner, 20))), table[:, 2], table[:, 3].astype(int)
    )
    tracks = None if ids is None else np.array(ids, np.int64)
    return Detections(found.boxes, found.scores, found.class_ids, track_ids=tracks)


def shot(
    number: int, found: Detections, gray: float = 0.0, topic: str = "/nose", stamp_ns: int = -1
) -> AnsweredImage:
    at = number * SECOND // 2 if stamp_ns < 0 else stamp_ns
    return AnsweredImage(number, topic, at, at, 100, 200, found, np.full((24, 32), gray, np.uint8))


def test_low_scores_are_worth_a_look_and_lower_ones_more():
    assert unsure(boxes((50, 50, 0.5, 0)), NAMES, 0.5) is None
    low, lower = (unsure(boxes((50, 50, s, 1), (80, 50, 0.9, 0)), NAMES, 0.5) for s in (0.4, 0.2))
    assert 0 < low.strength < lower.strength < 1
    assert lower.text == "1 box below 0.5, the lowest green at 0.20"


def test_two_classes_at_one_place_contradict_each_other():
    told = contradictory(boxes((50, 50, 0.8, 0), (51, 50, 0.7, 2)), NAMES)
    assert told.text == "red (0.80) and blue (0.70) at one place"
    assert told.strength > contradictory(boxes((50, 50, 0.8, 0), (51, 50, 0.2, 2)), NAMES).strength
    assert contradictory(boxes((50, 50, 0.8, 0), (51, 50, 0.7, 0)), NAMES) is None
    assert contradictory(boxes((50, 50, 0.8, 0), (90, 50, 0.7, 2)), NAMES) is None


@pytest.mark.parametrize(
    ("these", "others", "expected"),
    [
        (boxes((50, 50, 1, 0), (90, 50, 1, 0)), boxes((55, 50, 1, 0)), [True, False]),
        # A track has its id wherever it went, and another's place does not matter.
        (boxes((50, 50, 1, 0), ids=(7,)), boxes((150, 50, 1, 0), ids=(7,)), [True]),
        (boxes((50, 50, 1, 0), ids=(7,)), boxes((50, 50, 1, 0), ids=(8,)), [False]),
        (boxes((50, 50, 1, 0), ids=(NO_ID,)), boxes((50, 50, 1, 0), ids=(8,)), [True]),
        (boxes((50, 50, 1, 0)), boxes(), [False]),
        (boxes(), boxes((50, 50, 1, 0)), []),
    ],
)
def test_a_box_is_found_again_by_its_track_or_else_by_its_place(these, others, expected):
    for unknown in (False, True):
        assert found_again(these, others, unknown=unknown).tolist() == expected


def test_where_the_camera_moved_on_places_say_nothing():
    here, far = boxes((50, 50, 1, 0), (20, 20, 1, 0)), boxes((150, 90, 1, 0))
    assert found_again(here, far, unknown=True).tolist() == [True, True]
    assert found_again(here, far, unknown=False).tolist() == [False, False]
    assert alone(far, here, far, NAMES) is None
    assert missing(here, far, here, NAMES) is None


def test_boxes_that_the_images_beside_have_not_and_the_other_way_round():
    steady, more = boxes((50, 50, 1, 0)), boxes((50, 50, 1, 0), (120, 50, 1, 1))
    assert alone(steady, more, steady, NAMES).text == "green at 120,50 is in no image beside this one"
    assert alone(steady, more, more, NAMES) is None  # it came, and stays
    assert missing(more, steady, more, NAMES).text.startswith("green at 120,50 is missing")
    assert missing(more, steady, steady, NAMES) is None  # it went
    assert alone(None, more, steady, NAMES) is None
    assert missing(more, steady, None, NAMES) is None


def test_a_track_that_changes_its_class_is_named():
    before, this = boxes((50, 50, 1, 0), ids=(7,)), boxes((90, 50, 1, 1), ids=(7,))
    assert renamed(before, this, NAMES).text == "track 7 was red and is green"
    assert renamed(before, before, NAMES) is None
    assert renamed(None, this, NAMES) is None


def test_images_far_apart_in_time_say_nothing_of_each_other():
    empty, one = boxes(), boxes((50, 50, 1, 0))
    near = judge([shot(0, empty), shot(1, one), shot(2, empty)], NAMES, 0.5)
    assert [bool(choice.why) for choice in near] == [False, True, False]
    far = [shot(n, found, stamp_ns=n * 9 * SECOND) for n, found in enumerate((empty, one, empty))]
    assert not any(choice.why for choice in judge(far, NAMES, 0.5))


def test_the_best_are_chosen_and_of_twins_one():
    def judged(number: int, score: float, gray: float, topic: str = "/nose") -> ChosenImage:
        return ChosenImage(shot(number, boxes(), gray, topic), score, ("why",))

    flight = [
        judged(0, 0.2, 100),
        judged(1, 0.9, 50),
        judged(2, 0.8, 51),  # a twin of 1
        judged(3, 0.5, 150),
        judged(4, 0.0, 200),
        judged(5, 0.7, 50, "/tail"),  # of another camera, so no twin
    ]
    assert [c.shot.number for c in choose_images(flight, 9, 4)] == [0, 1, 3, 5]
    assert [c.shot.number for c in choose_images(flight, 2, 4)] == [1, 5]
    filled = choose_images(flight, 9, 4, fill=True)
    assert [c.shot.number for c in filled] == [0, 1, 3, 4, 5]
    assert filled[3].why == ("ordinary, to fill up",)


def test_ordinary_images_are_spread_over_the_flight():
    flight = [ChosenImage(shot(n, boxes(), n), 0.0, ()) for n in range(100)]
    numbers = [c.shot.number for c in choose_images(flight, 8, 1, fill=True)]
    assert len(numbers) == 8
    assert np.diff([0, *numbers, 99]).max() <= 25


@pytest.mark.parametrize("count", [2, 3, 5, 11, 49, 50, 200])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_validation_is_whole_blocks_of_time(count, share):
    times = [n * SECOND for n in range(count)]
    held = validation(times, share)
    assert 0 < sum(held) < count
    if count >= 50:
        assert sum(held) / count == pytest.approx(share, abs=0.03)
    assert np.count_nonzero(np.diff(held)) <= 4  # at most two blocks
    order = np.random.default_rng(0).permutation(count)
    assert validation([times[i] for i in order], share) == [held[i] for i in order]


def test_images_of_one_moment_stay_together():
    times = [n // 2 * SECOND for n in range(30)]
    held = validation(times, 0.2)
    assert held[::2] == held[1::2]


def test_the_three_forms_say_the_same():
    found = boxes((50, 40, 0.5, 2), (190, 90, 0.25, 0), ids=(7, NO_ID))
    assert yolo_rows(found, 100, 200).splitlines() == [
        "2 0.250000 0.400000 0.100000 0.200000",
        "0 0.950000 0.900000 0.100000 0.200000",
    ]
    assert mot_rows(3, found).splitlines() == [
        "3,7,40.00,30.00,20.00,20.00,1,3,1",
        "3,-1,180.00,80.00,20.00,20.00,1,1,1",
    ]
    (entry,) = entries([ChosenImage(shot(4, found), 1.0, ())], [True], "png")
    assert (entry.name, entry.split) == (f"nose_{2 * SECOND:019d}.png", "val")
    content = coco_content([entry], NAMES)
    assert content["categories"][2] == {"id": 3, "name": "blue"}
    assert content["images"] == [{"id": 1, "file_name": entry.name, "width": 200, "height": 100}]
    first, second = content["annotations"]
    assert (first["bbox"], first["category_id"], first["score"]) == ([40.0, 30.0, 20.0, 20.0], 3, 0.5)
    assert first["attributes"] == {"track_id": 7}
    assert "attributes" not in second


def test_images_of_one_stamp_have_names_of_their_own():
    twice = [ChosenImage(shot(n, boxes(), stamp_ns=5), 1.0, ()) for n in range(2)]
    assert len({entry.name for entry in entries(twice, [True, False], "jpg")}) == 2


# The flight: on a ground that grows brighter, one sure red cell in each image; in some a weak green one.
WEAK = (3, 6, 10)


def picture(index: int) -> np.ndarray:
    image = np.full((64, 64, 3), 10 * index, np.uint8)
    image = paint_cells(image, [(2, 2, "red")])
    if index in WEAK:
        image[40:48, 40:48] = (0, 160, 0)
    return image


def header(index: int):
    return messages.header(STORE, (100 + index) * SECOND // 2, "nose")


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """A bag of images, the toy detector, and the bag of its detections."""
    folder = tmp_path_factory.mktemp("flown")
    with BagWriter(folder / "flight", STORE) as writer:
        for index in range(12):
            data = messages.image(STORE, header(index), picture(index))
            writer.write("/nose/image", messages.IMAGE_TYPE, data, (100 + index) * SECOND // 2)
    write_toy_detector(folder / "toy.onnx")
    words = [str(folder / "flight"), "--model", str(folder / "toy.onnx"), "-o", str(folder / "found")]
    assert bag_detect.main(words) == 0
    return folder


def assert_right(folder: Path) -> None:
    """The set is the one of the weak images, in all its forms."""
    train, val = (read_split(folder, split) for split in ("train", "val"))
    assert train.names == NAMES
    assert not train.dropped
    assert not val.dropped
    samples = sorted([*train.samples, *val.samples], key=lambda sample: sample.image.name)
    stamps = [f"{(100 + index) * SECOND // 2:019d}" for index in WEAK]
    assert [sample.image.stem for sample in samples] == [f"nose_image_{stamp}" for stamp in stamps]
    for index, sample in zip(WEAK, samples, strict=True):
        pixels = cv2.imread(str(sample.image))
        assert np.abs(pixels.astype(int) - picture(index)).mean() < 3
        by_class = {int(row[0]): row[1:] * 64 for row in sample.labels.rows}
        assert sorted(by_class) == [0, 1]
        x1, y1, x2, y2 = expected_box(2, 2)
        red = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        np.testing.assert_allclose(by_class[0], red, atol=0.01)
    for split, read in (("train", train), ("val", val)):
        coco = json.loads((folder / "coco" / f"{split}.json").read_text())
        assert len(coco["images"]) == len(read.samples)
        assert len(coco["annotations"]) == 2 * len(read.samples)
        lines = (folder / "mot" / split / "gt" / "gt.txt").read_text().splitlines()
        assert len(lines) == 2 * len(read.samples)
    with (folder / "chosen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {sample.image.name for sample in samples}
    assert all("1 box below 0.8, the lowest green" in row["why"] for row in rows)


def test_recorded_detections_become_a_set_that_the_trainer_reads(flown, tmp_path, capsys):
    words = [str(flown / "flight"), "--detections", str(flown / "found"), "-o", str(tmp_path / "set")]
    assert bag_labels.main([*words, "--sure", "0.8"]) == 0
    assert_right(tmp_path / "set")
    assert not (tmp_path / "set.unfinished").exists()
    assert "3 of 12 images, 2 for training and 1 for validation, 6 boxes" in capsys.readouterr().out
    before = (tmp_path / "set" / "data.yaml").read_bytes()
    assert bag_labels.main([*words, "--sure", "0.8"]) == 1  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "set" / "data.yaml").read_bytes() == before


def test_a_model_run_over_the_bag_gives_the_same_and_goes_on_where_it_stopped(flown, tmp_path, monkeypatch):
    words = [str(flown / "flight"), "--model", str(flown / "toy.onnx"), "-o", str(tmp_path / "set")]
    words += ["--sure", "0.8"]

    def stop(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bag_labels, "write_labels", stop)
        assert bag_labels.main(words) == 130
    assert not (tmp_path / "set").exists()
    with monkeypatch.context() as patch:
        patch.setattr(bag_labels, "detect_in_bag", stop)  # what was found is not looked for again
        assert bag_labels.main(words) == 0
    assert_right(tmp_path / "set")


def test_another_model_is_not_mixed_in(flown, tmp_path, monkeypatch, capsys):
    words = [str(flown / "flight"), "--model", str(flown / "toy.onnx"), "-o", str(tmp_path / "set")]
    work = tmp_path / "set.unfinished"
    (work / "detections").mkdir(parents=True)
    (work / "detections.json").write_text(json.dumps({"model": "another"}))
    assert bag_labels.main(words) == 1
    assert "was begun with another" in capsys.readouterr().err


def test_one_bag_may_hold_both_and_classes_may_be_names(tmp_path):
    with BagWriter(tmp_path / "both", STORE) as writer:
        for index in range(4):
            at = (100 + index) * SECOND // 2
            data = messages.image(STORE, header(index), picture(index * 3))
            writer.write("/nose/image", messages.IMAGE_TYPE, data, at)
            found = boxes((30, 30, 0.3, 2))
            named = Detections(found.boxes, found.scores, found.class_ids, labels=NAMES)
            data = serialized_detections(header(index), named)
            writer.write("/nose/detections", messages.DETECTIONS_TYPE, data, at + 5)
    words = [str(tmp_path / "both"), "-o", str(tmp_path / "set"), "--names", "red, green,blue"]
    assert bag_labels.main([*words, "--images", "png", "--most", "3"]) == 0
    samples = [s for split in ("train", "val") for s in read_split(tmp_path / "set", split).samples]
    assert len(samples) == 3
    assert {int(row[0]) for sample in samples for row in sample.labels.rows} == {2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FLIGHT"], "holds no detections"),
        (["FLIGHT", "--detections", "FOUND", "--names", "red"], "none of the 1 classes"),
        (["FLIGHT", "--detections", "FOUND", "--sure", "0.8", "--most", "1"], "--most is 1"),
        (["FLIGHT", "--detections", "FOUND", "--sure", "0.8", "--difference", "255"], "add --fill"),
        (["FLIGHT", "--detections", "FOUND", "--detections-topic", "/x"], "/nose/image/detections"),
        (["FLIGHT", "--detections", "FOUND", "--model", "m.onnx"], "name one of them"),
        (["FLIGHT", "--model", "m.onnx"], "m.onnx"),
        (["FOUND"], "has no images"),
        (["NOWHERE"], "no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(flown, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    places = {"FLIGHT": flown / "flight", "FOUND": flown / "found", "NOWHERE": tmp_path / "nowhere"}
    assert bag_labels.main([*(str(places.get(word, word)) for word in words), "-o", "set"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("bag_labels: ")
    assert said in error
    assert not Path("set").exists()


def recorded(bag: Path, data: bytes, found: Detections) -> Path:
    """Write a bag of three messages of images, each answered with the same boxes."""
    with BagWriter(bag, STORE) as writer:
        for index in range(3):
            at = (100 + index) * SECOND // 2
            writer.write(
                "/nose/image",
                messages.IMAGE_TYPE,
                data or messages.image(STORE, header(index), picture(index)),
                at,
            )
            answer = serialized_detections(header(index), found)
            writer.write("/nose/detections", messages.DETECTIONS_TYPE, answer, at)
    return bag


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "none of the 3 images of BAG is worth a look"), (b"\x00\x01\x00\x00torn", "not one image of BAG")],
)
def test_a_flight_without_anything_to_look_at_is_refused(tmp_path, data, said):
    bag = recorded(tmp_path / "flight", data, boxes((30, 30, 0.9, 2)))
    with pytest.raises(BagError, match=said.replace("BAG", str(bag))):
        bag_labels.make_set(bag, bag, tmp_path / "set", ChoiceOptions(), names=NAMES)


def test_ordinary_images_fill_the_set_up_on_request(tmp_path):
    bag = recorded(tmp_path / "flight", b"", boxes((30, 30, 0.9, 2)))
    made = bag_labels.make_set(bag, bag, tmp_path / "set", ChoiceOptions(fill=True), names=NAMES)
    assert made.images == 3


def test_a_set_to_measure_on_is_even_and_all_of_it_is_validation(flown, tmp_path):
    words = [str(flown / "flight"), "--detections", str(flown / "found"), "-o", str(tmp_path / "set")]
    assert bag_labels.main([*words, "--sure", "0.8", "--even", "--most", "4"]) == 0
    read = read_split(tmp_path / "set", "val")
    assert len(read.samples) == 4
    assert "train" not in read.description.splits
    numbers = [int(sample.image.stem.rpartition("_")[2]) * 2 // SECOND - 100 for sample in read.samples]
    assert numbers != [*WEAK, 0]
    assert np.diff([0, *numbers, 11]).max() <= 4  # no part of the flight is without one


def test_boxes_below_the_least_score_are_looked_at_but_no_labels(flown, tmp_path):
    words = [str(flown / "flight"), "--detections", str(flown / "found"), "-o", str(tmp_path / "set")]
    assert bag_labels.main([*words, "--sure", "0.8", "--least-score", "0.8"]) == 0
    samples = [s for split in ("train", "val") for s in read_split(tmp_path / "set", split).samples]
    assert [sample.labels.rows[:, 0].tolist() for sample in samples] == [[0.0]] * len(WEAK)


def test_boxes_that_are_no_numbers_or_lie_outside_are_left_out(tmp_path):
    found = boxes(
        (30, 30, 0.3, 2), (60, 30, 0.3, 1), (200, 30, 0.3, 0), (np.nan, 30, 0.3, 0), (30, 30, np.nan, 0)
    )
    bag = recorded(tmp_path / "flight", b"", found)
    made = bag_labels.make_set(bag, bag, tmp_path / "set", ChoiceOptions(), names=NAMES)
    assert made.boxes == 2 * made.images == 6
    samples = [s for split in ("train", "val") for s in read_split(tmp_path / "set", split).samples]
    for sample in samples:
        assert sorted(sample.labels.rows[:, 0].tolist()) == [1.0, 2.0]
        right = sample.labels.rows[sample.labels.rows[:, 0] == 1][0]
        assert right[1] + right[3] / 2 == pytest.approx(1.0)  # clipped to the image


def test_a_class_list_that_is_not_there_is_asked_for(flown, tmp_path):
    shutil.copytree(flown / "flight", tmp_path / "flight")
    with BagWriter(tmp_path / "bare", STORE) as writer:
        data = serialized_detections(header(0), boxes((30, 30, 0.3, 2)))
        writer.write("/nose/image/detections", messages.DETECTIONS_TYPE, data, SECOND)
    with pytest.raises(BagError, match="--names car,truck"):
        bag_labels.make_set(tmp_path / "flight", tmp_path / "bare", tmp_path / "set", ChoiceOptions())


def test_a_parameter_file_gives_the_model_unless_there_are_detections(flown, tmp_path, capsys):
    params = tmp_path / "detect.yaml"
    params.write_text("/**:\n  ros__parameters:\n    model: nowhere.onnx\n")
    words = [
        str(flown / "flight"),
        "-o",
        str(tmp_path / "set"),
        "--sure",
        "0.8",
        "--params-file",
        str(params),
    ]
    assert bag_labels.main(words) == 1
    assert "nowhere.onnx" in capsys.readouterr().err
    assert bag_labels.main([*words, "--detections", str(flown / "found")]) == 0
    assert_right(tmp_path / "set")


def test_description_needs_no_place_of_its_own(flown, tmp_path):
    words = [str(flown / "flight"), "--detections", str(flown / "found"), "-o", str(tmp_path / "set")]
    assert bag_labels.main([*words, "--sure", "0.8"]) == 0
    content = yaml.safe_load((tmp_path / "set" / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    (tmp_path / "set").rename(tmp_path / "moved")
    assert_right(tmp_path / "moved")
