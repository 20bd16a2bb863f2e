"""What is to be found in which images, as the one reader says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_compress.data.labelled import read_ground_truth, read_split
from yolo_compress.errors import UserError

VISDRONE = [f"class{i}" for i in range(10)]


def test_visdrone_annotations_tell_what_to_find_and_what_to_ignore(tmp_path: Path) -> None:
    for folder in ("images", "annotations", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels" / "a.txt").write_text("9 0.5 0.5 0.1 0.1\n")  # must not be read
    (tmp_path / "annotations" / "a.txt").write_text(
        "1,2,3,4,1,4,0,0\n"  # a car
        "5,6,7,8,0,4,1,2\n"  # a car that the evaluation leaves out
        "9,10,11,12,0,11,0,0\n"  # others
        "13,14,15,16,0,0,0,0\n"  # an ignored region
    )
    read = read_ground_truth(tmp_path / "images" / "a.jpg", VISDRONE, 100, 100)
    assert read.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert read.class_ids.tolist() == [3, 3]
    assert read.counted is not None
    assert read.counted.tolist() == [True, False]
    assert read.ignored.tolist() == [[13, 14, 15, 16]]


def test_visdrone_annotations_need_visdrones_classes(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations" / "a.txt").write_text("1,2,3,4,1,4,0,0\n")
    with pytest.raises(UserError, match="10 classes, but the data set names 2"):
        read_ground_truth(tmp_path / "images" / "a.jpg", ["a", "b"], 100, 100)


def test_yolo_labels_become_pixels(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.25 0.2 0.1\n\n")
    read = read_ground_truth(tmp_path / "images" / "a.jpg", ["a", "b"], 200, 100)
    np.testing.assert_allclose(read.boxes, [[80, 20, 40, 10]])
    assert read.class_ids.tolist() == [1]
    assert read_ground_truth(tmp_path / "images" / "b.jpg", ["a", "b"], 200, 100).boxes.shape == (0, 4)
    (tmp_path / "labels" / "c.txt").write_text("1 0.5 0.25 0.2\n")
    with pytest.raises(UserError, match=r"c\.txt, line 1: a line is not"):
        read_ground_truth(tmp_path / "images" / "c.jpg", ["a", "b"], 200, 100)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("names: [a]\n", "no split 'val'"),
        ("val: nowhere\nnames: [a]\n", "points at .*nowhere, which does not exist"),
        ("val: .\nnames: [a]\n", "has no images"),
        ("a: [", "no valid YAML"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_explained(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(UserError, match=says):
        read_split(tmp_path / "data.yaml", "val")


def test_splits_are_read_from_folders_lists_and_list_files(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.png", "b/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture = cv2.imencode(".png", np.full((12, 16, 3), 99, np.uint8))[1]
        (tmp_path / name).write_bytes(picture.tobytes())
    (tmp_path / "list.txt").write_text("./a/1.jpg\nb/2.png\n")
    data = tmp_path / "data.yaml"
    data.write_text("train: [a, b]\nval: list.txt\nnames: {1: y, 0: x}\n")
    for split in ("train", "val"):
        read = read_split(data, split)
        assert [p.name for p in read.images] == ["1.jpg", "2.png"]
        assert all(p.is_file() for p in read.images)
        assert read.names == ("x", "y")
