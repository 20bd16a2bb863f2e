"""The one writer of files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from yolo_compress import files


def test_two_processes_that_write_one_file_do_not_trip_over_each_other(tmp_path: Path) -> None:
    work = (
        "import sys; from pathlib import Path; from yolo_compress.files import write_text\n"
        "for _ in range(200): write_text(Path(sys.argv[1]), 'whole')"
    )
    both = [subprocess.Popen([sys.executable, "-c", work, str(tmp_path / "base.yaml")]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.txt"
    files.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("kept.txt", "old")]


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a": ', "[" * 100_000, "\ud800"])
def test_what_is_no_mapping_reads_as_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert files.read_json(path) == {}
    assert files.read_json(tmp_path / "missing.json") == {}


def test_a_mapping_comes_back_and_its_hash_does_not_depend_on_the_order(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2.5, None]})
    assert files.read_json(tmp_path / "a.json") == {"b": 1, "a": [2.5, None]}
    assert files.digest_of({"b": 1, "a": 2}) == files.digest_of({"a": 2, "b": 1}) != files.digest_of({"a": 1})


def test_a_copy_has_the_hash_of_its_source_and_a_missing_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 9000)
    files.copy(tmp_path / "a", tmp_path / "b")
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b") is not None
    assert files.sha256(tmp_path / "c") is None


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense/model.pt.17-0.part").write_text("half")
    (tmp_path / "dense/model.pt").write_text("whole")
    (tmp_path / "other.part").symlink_to(tmp_path / "dense/model.pt")
    files.remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dense", "model.pt", "other.part"]


def test_a_folder_has_one_worker_at_a_time_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    held = (
        "import os, sys; from pathlib import Path; from yolo_compress.files import locked\n"
        "with locked(Path(sys.argv[1])) as alone: print(alone, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with files.locked(tmp_path / ".lock") as alone:
        assert not alone
    other.kill()
    other.communicate()
    with files.locked(tmp_path / ".lock") as alone:
        assert alone


def test_temporary_folders_of_killed_processes_go_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = (
        "import os; from yolo_compress.files import temporary_folder\n"
        "with temporary_folder() as folder: print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", killed],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert left.is_dir()
    with files.temporary_folder() as mine:
        files.sweep_temporary()
        assert mine.is_dir()
        assert not left.exists()
    assert not list(tmp_path.iterdir())
