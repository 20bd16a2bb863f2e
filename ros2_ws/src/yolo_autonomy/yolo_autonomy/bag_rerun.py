"""Show a recording in Rerun: images, boxes, tracks, and places on the ground.

ros2 run yolo_autonomy bag_rerun flight/                  # opens the viewer
ros2 run yolo_autonomy bag_rerun flight/ -o flight.rrd    # to open later, or elsewhere

It needs the viewer's library: pip install rerun-sdk. The timeline is the images' stamps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.replay.bags import BagError, messages, open_bag, typestore
from yolo_trt_node.replay.coders import to_jpeg
from yolo_trt_node.replay.messages import COMPRESSED_TYPE, IMAGE_TYPE, frame_from_cdr

from yolo_autonomy.annotations import annotation_color, label
from yolo_autonomy.target import Candidate

_BOXES, _PLACES = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
_LABELS = "vision_msgs/msg/LabelInfo"
_TIMELINE = "stamp"
_MOST_PIXELS = 100_000_000
# Of a track's line on the ground; a longer one begins anew.
_MOST_POINTS = 2000


class Shower:
    """Logs a bag's messages to a Rerun recording.

    Args:
        rerun: the library.
        store: the message types.
    """

    def __init__(self, rerun: Any, store: Any) -> None:
        """Start empty."""
        self._rerun = rerun
        self._store = store
        self._names: dict[str, str] = {}
        self._lines: dict[str, list[tuple[float, float, float]]] = {}
        self.count = 0

    def take(self, topic: str, kind: str, data: bytes) -> None:
        """Log one message; images that cannot be read are left out."""
        rerun = self._rerun
        if kind in (IMAGE_TYPE, COMPRESSED_TYPE):
            try:
                header, frame = frame_from_cdr(self._store, kind, data, _MOST_PIXELS)
                jpeg = to_jpeg(frame.to_bgr())
            except ImageError:
                return
            self._at(header)
            rerun.log(f"cameras{topic}", rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        elif kind == _LABELS:
            entries = self._store.deserialize_cdr(data, kind).class_map
            self._names = {str(entry.class_id): str(entry.class_name) for entry in entries}
            return
        elif kind == _BOXES:
            self._boxes(topic, self._store.deserialize_cdr(data, kind))
        elif kind == _PLACES:
            self._places(topic, self._store.deserialize_cdr(data, kind))
        self.count += 1

    def _at(self, header: Any) -> None:
        nanoseconds = int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
        self._rerun.set_time(_TIMELINE, timestamp=np.datetime64(nanoseconds, "ns"))

    def _found(self, detections: Sequence[Any]) -> list[Candidate]:
        return [
            Candidate(
                (0, 0, 0, 0), item.results[0].hypothesis.class_id, item.results[0].hypothesis.score, item.id
            )
            for item in detections
        ]

    def _boxes(self, topic: str, message: Any) -> None:
        self._at(message.header)
        shown = [item for item in message.detections if len(item.results)]
        found = self._found(shown)
        centers = [(item.bbox.center.position.x, item.bbox.center.position.y) for item in shown]
        self._rerun.log(
            f"cameras{topic}",
            self._rerun.Boxes2D(
                centers=np.array(centers).reshape(-1, 2),
                sizes=np.array([(item.bbox.size_x, item.bbox.size_y) for item in shown]).reshape(-1, 2),
                labels=[label(item, self._names) for item in found],
                colors=_colors(found),
            ),
        )

    def _places(self, topic: str, message: Any) -> None:
        self._at(message.header)
        shown = [item for item in message.detections if len(item.results)]
        found = self._found(shown)
        at = [item.results[0].pose.pose.position for item in shown]
        places = [(place.x, place.y, place.z) for place in at]
        self._rerun.log(
            f"ground{topic}",
            self._rerun.Points3D(
                np.array(places).reshape(-1, 3),
                labels=[label(item, self._names) for item in found],
                colors=_colors(found),
                radii=[max(0.1, item.bbox.size.x / 2) for item in shown],
            ),
        )
        for item, place in zip(found, places, strict=True):
            if not item.track_id:
                continue
            line = self._lines.setdefault(f"{topic}/{item.track_id}", [])
            line.append(place)
            del line[:-_MOST_POINTS]
            self._rerun.log(
                f"ground/tracks{topic}/{item.track_id}",
                self._rerun.LineStrips3D([np.array(line)], colors=_colors([item])),
            )


def _colors(found: Sequence[Candidate]) -> Any:
    shares = np.array([annotation_color(item.class_id) for item in found]).reshape(-1, 3)
    return (shares * 255).astype(np.uint8)


def show(bag: Path, rerun: Any) -> int:
    """Log a bag to the current Rerun recording; return how many messages were.

    Raises:
        BagError: the bag cannot be read, or holds nothing to show.
    """
    store = typestore()
    shower = Shower(rerun, store)
    with open_bag(bag) as reader:
        wanted = {IMAGE_TYPE, COMPRESSED_TYPE, _BOXES, _PLACES, _LABELS}
        connections = [item for item in reader.connections if item.msgtype in wanted]
        if not connections:
            raise BagError(f"{bag} holds neither images nor detections")
        for connection, _, data in messages(reader, connections):
            shower.take(connection.topic, connection.msgtype, data)
    return shower.count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="bag_rerun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="rosbag2 bag: its folder or file")
    parser.add_argument("-o", "--output", type=Path, help="write FILE.rrd instead of opening the viewer")
    given = parser.parse_args(arguments)
    try:
        import rerun
    except ImportError as error:
        print(f"bag_rerun: the viewer's library is missing ({error}): pip install rerun-sdk", file=sys.stderr)
        return 1
    try:
        rerun.init(f"flight {given.bag.name}", spawn=given.output is None)
        if given.output is not None:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            rerun.save(str(given.output))
        count = show(given.bag, rerun)
    except (BagError, OSError) as error:
        print(f"bag_rerun: {error}", file=sys.stderr)
        return 1
    print(f"{count} messages of {given.bag}" + (f": {given.output}" if given.output else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
