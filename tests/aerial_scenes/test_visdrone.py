import os
from pathlib import Path

import numpy as np
import pytest

from aerial_scenes.dataset import convert_visdrone
from aerial_scenes.visdrone import (
    Annotation,
    format_annotations,
    format_yolo_labels,
    read_annotations,
    to_yolo_labels,
)

SOME = [
    Annotation(10, 20, 30, 40, 1, 4, 0, 0),
    Annotation(0, 0, 5, 6, 1, 1, 1, 2),
    Annotation(100, 50, 80, 60, 0, 0),
    Annotation(7, 8, 9, 10, 0, 11, 0, 1),
]


def test_det_file_round_trips(tmp_path):
    (tmp_path / "a.txt").write_text(format_annotations(SOME))
    assert read_annotations(tmp_path / "a.txt") == SOME
    assert (tmp_path / "a.txt").read_text().splitlines()[0] == "10,20,30,40,1,4,0,0"


def test_trailing_comma_blank_lines_and_empty_files_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("1,2,3,4,1,4,0,1,\n\n5,6,7,8,0,0,0,0\n")
    assert read_annotations(tmp_path / "a.txt") == [
        Annotation(1, 2, 3, 4, 1, 4, 0, 1),
        Annotation(5, 6, 7, 8, 0, 0),
    ]
    (tmp_path / "b.txt").write_text("")
    assert read_annotations(tmp_path / "b.txt") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,2,3,4,1,4,0", "expected 8"),
        ("1,2,3,4,1,4,0,0,0", "expected 8"),
        ("1,2,3,4,1,car,0,0", "'category' must be an integer, got 'car'"),
        ("1,2,3,4,1,12,0,0", "'category' must be 0 to 11, got 12"),
        ("1,2,-3,4,1,4,0,0", "'width' must not be negative"),
        ("1,2,3,4,1,4,0,3", "'occlusion' must be 0 to 2"),
        ("1,2,3,4,1,4,2,0", "'truncation' must be 0 to 1"),
        ("1,2,3,4,2,4,0,0", "'score' must be 0 to 1"),
        ("1.5,2,3,4,1,4,0,0", "'left' must be an integer"),
    ],
)
def test_malformed_lines_name_file_line_and_field(tmp_path, line, words):
    path = tmp_path / "bad.txt"
    path.write_text("1,2,3,4,1,4,0,0\n" + line + "\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 2") as error:
        read_annotations(path)
    assert words in str(error.value)


def test_binary_file_is_refused_by_name(tmp_path):
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"image\.txt: not a VisDrone annotation file"):
        read_annotations(tmp_path / "image.txt")


def test_yolo_labels_are_relative_centers():
    labels = to_yolo_labels([Annotation(10, 20, 30, 40, 1, 4)], 100, 200)
    assert labels == [(3, 0.25, 0.2, 0.3, 0.2)]
    assert format_yolo_labels(labels) == "3 0.25000000 0.20000000 0.30000000 0.20000000\n"


def test_yolo_boxes_are_clipped_to_the_image():
    labels = to_yolo_labels([Annotation(-10, 190, 30, 40, 1, 1), Annotation(90, 0, 50, 10, 1, 10)], 100, 200)
    assert labels == [(0, 0.1, 0.975, 0.2, 0.05), (9, 0.95, 0.025, 0.1, 0.05)]


@pytest.mark.parametrize(
    "dropped",
    [
        Annotation(1, 2, 30, 40, 0, 0),
        Annotation(1, 2, 30, 40, 1, 0),
        Annotation(1, 2, 30, 40, 0, 11),
        Annotation(1, 2, 30, 40, 1, 11),
        Annotation(1, 2, 30, 40, 0, 4),
        Annotation(1, 2, 0, 40, 1, 4),
        Annotation(100, 2, 30, 40, 1, 4),
        Annotation(1, -50, 30, 40, 1, 4),
    ],
)
def test_what_is_not_evaluated_or_not_inside_gives_no_label(dropped):
    assert to_yolo_labels([dropped], 100, 100) == []


@pytest.mark.real_data
def test_converted_labels_equal_those_given_with_real_images(tmp_path):
    if "UAV_DATA" not in os.environ:
        pytest.skip("UAV_DATA does not name a folder with real aerial images")
    source = Path(os.environ["UAV_DATA"]) / "visdrone"
    convert_visdrone(source, tmp_path / "out")
    given = sorted(source.glob("*/labels/*.txt"))
    assert given
    for path in given:
        own = tmp_path / "out" / "labels" / path.parent.parent.name / path.name
        np.testing.assert_allclose(np.loadtxt(own, ndmin=2), np.loadtxt(path, ndmin=2), atol=1e-6)
