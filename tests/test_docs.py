"""The documentation does not drift away from what the node says."""

import re
from pathlib import Path

import pytest
from yolo_trt_node.health.diagnosis import CYCLONE_PROFILE, FAST_DDS_PROFILE, Cause
from yolo_trt_node.health.diagnostics import MESSAGES, MessageText
from yolo_trt_node.launch_arguments import DETECT_ARGUMENTS, REPLAY_ARGUMENTS, refuse_unknown
from yolo_trt_node.node_options import NODE_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "no_detections.md").read_text()


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_has_a_row_with_a_remedy(message):
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {message}")]
    assert rows, f"docs/no_detections.md has no row for {message!r}"
    for row in rows:
        assert len(row.strip("|").split("|")) == 3


def test_the_page_explains_nothing_that_the_node_does_not_say():
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]*\|$", PAGE, re.MULTILINE)
    unknown = [row for row in rows if row != "message" and not row.startswith(MESSAGES)]
    assert unknown == []


def test_messages_are_told_apart():
    assert (
        len(set(MESSAGES)) == len(MESSAGES) == len(Cause) + len([n for n in vars(MessageText) if n.isupper()])
    )


def test_files_and_parameters_that_the_page_names_exist():
    for profile in (FAST_DDS_PROFILE, CYCLONE_PROFILE):
        assert profile in PAGE
        assert (ROOT / profile).is_file()
    names = {option.name for option in NODE_OPTIONS}
    named = set(re.findall(r"`(diagnostics\.\w+|[a-z]+_[a-z_]+)(?=[`: ])", PAGE)) - {
        "use_sim_time", "image_proc", "jetson_clocks", "image_topic", "annotated", "diagnostic_aggregator",
    }  # fmt: skip
    assert {"diagnostics.max_frame_age_s", "image_reliability", "score_threshold"} <= named
    assert named <= names


def launch_lines() -> list[tuple[str, str, list[str]]]:
    """Every line of the documentation that launches something of the node: where, file, words after it."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text().replace("\\\n", " ")
        for file, words in re.findall(r"ros2 launch yolo_trt_node (\w+\.launch\.py)([^\n#`]*)", text):
            found.append((page.name, file, words.split()))
    return found


@pytest.mark.parametrize(("page", "file", "words"), launch_lines())
def test_launch_lines_give_arguments_that_exist(page, file, words):
    arguments = {"detect.launch.py": DETECT_ARGUMENTS, "replay.launch.py": REPLAY_ARGUMENTS}[file]
    known = ["params_file", *(argument.name for argument in arguments)]
    refuse_unknown([file, *words], file, known)
    assert all(":=" in word or word.startswith("-") for word in words), words
