"""docs/inputs.md says what the code takes, and nothing else."""

from pathlib import Path

import pytest
from yolo_trt_node.images.compressed import FORMATS
from yolo_trt_node.images.encodings import ENCODINGS
from yolo_trt_node.images.messages import IMAGE_TYPES
from yolo_trt_node.images.video import CODECS

pytest.importorskip("rosbags", reason="no rosbags on this machine")

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"
HOLDS = {
    "sensor_msgs/msg/Image": "a raw image, or a packet of video (encoding h264 or h265, no size)",
    "sensor_msgs/msg/CompressedImage": "a still image, or a packet of video (format h264 or h265)",
    "foxglove_msgs/msg/CompressedImage": "a still image",
    "foxglove_msgs/msg/CompressedVideo": "a packet of video",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "a packet of video, numbered: a lost one is noticed",
}
RECORDINGS = {
    ".mcap": "rosbag2 in MCAP, also cut short or packed inside",
    ".db3": "rosbag2 in SQLite",
    ".bag": "ROS 1",
}


def table(*rows: tuple[str, ...]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def tables() -> dict[str, str]:
    from yolo_trt_node.replay.bag_files import FILES

    assert set(HOLDS) == set(IMAGE_TYPES)
    assert set(RECORDINGS) == set(FILES)
    encodings = (
        (f"`{name}`", row.what, "as it is" if row.native else "gray" if row.counts else "converted")
        for name, row in ENCODINGS.items()
    )
    return {
        "encodings": table(("encoding", "what it is", "read"), *encodings),
        "messages": table(("message", "holds"), *((f"`{kind}`", HOLDS[kind]) for kind in IMAGE_TYPES)),
        "recordings": table(
            ("file", "what it is"), *((f"`{suffix}`", RECORDINGS[suffix]) for suffix in FILES)
        ),
    }


@pytest.mark.parametrize("name", ["encodings", "messages", "recordings"])
def test_each_table_is_that_of_the_code(name):
    page = PAGE.read_text()
    held = page.split(f"<!-- {name} -->\n")[1].split("\n<!-- end -->")[0]
    assert held == tables()[name], f"put this into {PAGE}:\n{tables()[name]}"


def test_formats_and_codecs_are_those_of_the_code():
    page = PAGE.read_text()
    assert f"by their content: {', '.join(FORMATS)}." in " ".join(page.split())
    assert set(CODECS) == {"h264", "hevc"}
    assert "H.264 and H.265" in page
