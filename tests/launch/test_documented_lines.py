"""Every ``ros2 launch`` line of the pages, typed as it stands there under the real ``ros2 launch``."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros2launch", reason="ros2 launch is not installed: it comes with ROS 2, not from PyPI")
pytest.importorskip("rosbags", reason="rosbags is not installed beside ros2 launch")

from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, typestore

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")])
PACKAGES = {
    "yolo_trt_node": (ROOT, ("detector_node", "play_images", "record_bag")),
    "yolo_autonomy": (
        ROOT / "ros2_ws" / "src" / "yolo_autonomy",
        ("target_selection", "mavlink_target", "px4_target", "obstacle_cloud", "image_annotations"),
    ),
}
# Each prints what it was started with.
STAND_IN = '#!/bin/sh\necho "started $0 $*"\n'


def typed() -> list[tuple[str, str]]:
    """Give (page, line) for each line of a page's blocks and each piece of code in its text."""
    found = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        pieces = [*text.splitlines(), *re.findall(r"`([^`\n]+)`", text)]
        for piece in pieces:
            match = re.match(r"(?:\w+=\S+ )?(ros2 launch \S+ \S+\.launch\.py[^#&|`]*)", piece.strip())
            if match:
                found.setdefault(match[1].strip(), str(page.relative_to(ROOT)))
    return [(page, line) for line, page in found.items()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Both packages as installed, with executables that do nothing."""
    prefix = tmp_path_factory.mktemp("install")
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, (source, executables) in PACKAGES.items():
        (index / package).touch()
        share = prefix / "share" / package
        share.mkdir()
        for folder in ("launch", "config"):
            shutil.copytree(source / folder, share / folder)
        programs = prefix / "lib" / package
        programs.mkdir(parents=True)
        for name in executables:
            (programs / name).write_text(STAND_IN)
            (programs / name).chmod(0o755)
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
        "ROS_LOG_DIR": str(prefix / "log"),
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with the flight that lines name; a detector's file is looked for by the node alone."""
    store = typestore()
    with BagWriter(tmp_path / "flight", store) as writer:
        image = messages.image(store, messages.header(store, 10**18, "camera"), np.zeros((8, 8, 3), np.uint8))
        writer.write("/camera/image_raw", messages.IMAGE_TYPE, image, 10**18)
    return tmp_path


def run(environment, line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(re.sub(r"\$\{?\w+\}?", "flight", line))[1:]
    command = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("page", "line"), typed(), ids=lambda text: text.replace("ros2 launch ", ""))
def test_it_is_accepted_and_starts_what_it_names(environment, folder, page, line):
    ended = run(environment, line, folder)
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, f"{page}: {line}\n{said}"
    if "--show-args" in line:
        assert "Arguments (pass arguments as" in said
    else:
        # Whatever launch refuses, it refuses before it starts anything.
        assert "started " in said, f"{page}: {line}\n{said}"


def test_a_line_with_an_argument_that_does_not_exist_is_refused(environment, tmp_path):
    ended = run(environment, "ros2 launch yolo_autonomy target.launch.py clases:=car", tmp_path)
    assert ended.returncode == 1
    assert "no argument clases" in ended.stdout + ended.stderr
    assert "started " not in ended.stdout


def test_every_launch_file_stands_in_a_page():
    files = {path.name for source, _ in PACKAGES.values() for path in (source / "launch").glob("*.py")}
    assert files == {shlex.split(line)[3] for _, line in typed()}
