"""bag_detect says what the disk does in a sentence, keeps what it has, and goes on when there is room."""

import errno
import os
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_detect import main
from yolo_trt_node.replay.bags import BagWriter, typestore

FRAMES = 12


@pytest.fixture(scope="module")
def flight(tmp_path_factory) -> list[str]:
    """A bag of a few images and a model, as arguments."""
    folder, store = tmp_path_factory.mktemp("flight"), typestore()
    with BagWriter(folder / "bag", store) as writer:
        for index in range(FRAMES):
            image = paint_cells(np.zeros((64, 64, 3), np.uint8), [(1 + index % 6, 1, "red")])
            data = cv2.imencode(".png", image)[1].tobytes()
            head = messages.header(store, index * 10**9, "nose")
            message = messages.compressed_image(store, head, "png", data)
            writer.write("/nose", messages.COMPRESSED_TYPE, message, index * 10**9)
    return [str(folder / "bag"), "--model", str(write_toy_detector(folder / "toy.onnx"))]


def content(bag: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bag.iterdir()}


def sentence(capsys) -> str:
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bag_detect: "))
    return line


@pytest.mark.parametrize("output", ["/dev/null/found", "/proc/found", "{}/" + "x" * 300])
def test_an_output_that_cannot_be_made_is_a_sentence(flight, output, tmp_path, capsys):
    assert main([*flight, "-o", output.format(tmp_path)]) == 1
    assert "name another output" in sentence(capsys)


def test_a_report_that_cannot_be_written_is_a_sentence(flight, tmp_path, capsys):
    assert main([*flight, "-o", str(tmp_path / "out"), "--report", "/dev/null/report"]) == 1
    assert "Not a directory: '/dev/null/report'" in sentence(capsys)


def test_a_folder_of_many_that_cannot_be_made_is_a_sentence(flight, capsys):
    assert main([*flight, "--out", "/dev/null/found"]) == 1
    assert "Not a directory: '/dev/null/found'" in sentence(capsys)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_disk_that_fills_up_loses_nothing_and_the_rest_follows(
    flight, batch, tmp_path, capsys, monkeypatch
):
    words = ["--max-batch", str(batch)]
    assert main([*flight, *words, "-o", str(tmp_path / "whole" / "found")]) == 0
    connect = sqlite3.connect

    class Small(sqlite3.Connection):
        """A database on a disk that has room for a few answers."""

        def execute(self, statement, *given):
            found = super().execute(statement, *given)
            if statement.startswith("CREATE TABLE IF NOT EXISTS answers"):
                super().execute(f"PRAGMA max_page_count = {int(Path(tmp_path, 'pages').read_text())}")
            return found

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **o, factory=Small))
    ended = []
    for pages in range(3, 12):
        (tmp_path / "pages").write_text(str(pages))
        ended.append(main([*flight, *words, "-o", str(tmp_path / "found")]))
        if not ended[-1]:
            break
        assert "the disk is full; what was answered is kept" in sentence(capsys)
        assert not (tmp_path / "found").exists()
    assert len(ended) > 2
    assert ended[-1] == 0
    assert content(tmp_path / "found") == content(tmp_path / "whole" / "found")


def test_a_disk_that_is_full_when_the_bag_is_written_is_told(flight, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(BagWriter, "write", full)
        assert main([*flight, "-o", str(tmp_path / "found")]) == 1
    assert "the disk is full" in sentence(capsys)
    assert main([*flight, "-o", str(tmp_path / "found")]) == 0
    assert f"{FRAMES} detections in {FRAMES} images" in capsys.readouterr().out
