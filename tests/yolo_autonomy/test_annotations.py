"""Boxes become lines, a class's in one color."""

import json
from pathlib import Path

from yolo_autonomy import annotations, target
from yolo_autonomy.annotations import TARGET_COLOR, annotation_color, label, outlines
from yolo_autonomy.target import Candidate

CAR, BUS = Candidate((100, 50, 40, 20), "3", 0.834, "7"), Candidate((300, 200, 80, 60), "8", 0.5)


def test_a_box_is_its_four_sides():
    (one,) = outlines([CAR])
    sides = list(zip(one.corners[::2], one.corners[1::2], strict=True))
    assert len(sides) == 4
    assert {*one.corners} == {(80, 40), (120, 40), (120, 60), (80, 60)}
    assert all((a[0] == b[0]) != (a[1] == b[1]) for a, b in sides)


def test_boxes_of_a_class_share_an_entry_and_the_target_stands_out():
    cars = [CAR, Candidate((10, 10, 4, 4), "3", 0.5)]
    assert [len(entry.corners) for entry in outlines([*cars, BUS])] == [16, 8]
    marked = outlines([*cars, BUS], CAR)
    assert [(entry.color == TARGET_COLOR, len(entry.corners)) for entry in marked] == [
        (True, 8),
        (False, 8),
        (False, 8),
    ]


def test_colors_of_classes_differ_and_stay():
    colors = [annotation_color(str(number)) for number in range(10)]
    assert len(set(colors)) == 10
    assert colors[3] == annotation_color("3")
    assert all(0 <= share <= 1 for color in [*colors, annotation_color("car")] for share in color)


def test_a_label_names_class_score_and_track():
    assert label(CAR, {"3": "car"}) == "car 0.83 #7"
    assert label(BUS, {}) == "8 0.50"


def test_the_layout_shows_topics_that_the_adapters_publish():
    package = Path(__file__).parents[2] / "ros2_ws" / "src" / "yolo_autonomy"
    layout = json.loads((package / "config" / "foxglove_layout.json").read_text())
    image, (_, state) = layout["content"]["items"][0], layout["content"]["items"][1]["content"]["items"]
    (shown,) = image["content"]["config"]["imageMode"]["annotations"]
    assert shown.removeprefix("/") in annotations.TOPICS
    assert state["content"]["config"]["topicPath"].removeprefix("/").removesuffix(".data") in target.TOPICS
