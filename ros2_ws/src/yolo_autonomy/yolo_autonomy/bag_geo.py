"""Write a flight's detections on the ground as GeoJSON and KML.

ros2 run yolo_autonomy bag_geo flight/ -o flight.geojson

The bag holds detections_3d (vision_msgs/Detection3DArray), as the detector publishes with ground_frame set;
or detections, camera_info and TF, from which they are made here. Where the frame lies on the earth say
sensor_msgs/NavSatFix and TF in the bag, or --datum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from yolo_trt_node.node.transforms import NotYetError, TransformBuffer, TransformError
from yolo_trt_node.projection import Ground, PinholeCamera, ProjectionError, ground_points
from yolo_trt_node.replay.bags import BagError, messages, open_bag, typestore

from yolo_autonomy.frames import Floats
from yolo_autonomy.geo import Datum, GroundTrack, features, geojson, kml

_PLACES, _BOXES = "vision_msgs/msg/Detection3DArray", "vision_msgs/msg/Detection2DArray"
_LABELS, _INFO = "vision_msgs/msg/LabelInfo", "sensor_msgs/msg/CameraInfo"
_FIX, _TF = "sensor_msgs/msg/NavSatFix", "tf2_msgs/msg/TFMessage"
# What waits for its transform is given up after so much of the bag's time.
_PATIENCE_NS = 3_000_000_000
_MOST_WAITING = 2000


class GeoError(ValueError):
    """A bag from which no places can be made; the message says what it lacks."""


class Reader:
    """Takes a bag's messages in their order, and collects tracks and the datum.

    Args:
        frame: the fixed frame, x east, y north, z up.
        ground: height of the ground in it, and uncertainties.
        gps_frame: of the antenna; empty: as the fixes say.
        project: whether places are made here, of boxes, calibration and TF.
    """

    def __init__(self, frame: str, ground: Ground, gps_frame: str, *, project: bool) -> None:
        """Start empty."""
        self.tracks: dict[object, GroundTrack] = {}
        self.datums: list[tuple[float, float, float]] = []
        self.complaints: dict[str, int] = {}
        self._frame, self._ground, self._gps_frame, self._project = frame, ground, gps_frame, project
        self._names: dict[str, str] = {}
        self._cameras: dict[str, PinholeCamera] = {}
        self._transforms = TransformBuffer()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque(maxlen=_MOST_WAITING)

    def take(self, kind: str, message: Any, log_ns: int, *, static: bool) -> None:
        """Take one message."""
        if kind == _TF:
            for item in message.transforms:
                place, turn = item.transform.translation, item.transform.rotation
                self._transforms.add(
                    item.header.frame_id, item.child_frame_id, _stamp(item.header),
                    (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w), static=static,
                )  # fmt: skip
        elif kind == _LABELS:
            self._names = {str(entry.class_id): str(entry.class_name) for entry in message.class_map}
        elif kind == _INFO:
            self._calibrate(message)
        elif kind == _FIX:
            if message.status.status >= 0 and abs(message.latitude) <= 90 and abs(message.longitude) <= 180:
                self._waiting.append((log_ns, lambda: self._fix(message)))
        elif kind == _PLACES:
            self._take_places(message)
        elif kind == _BOXES and self._project:
            self._waiting.append((log_ns, lambda: self._take_boxes(message)))
        self.settle(log_ns)

    def settle(self, now_ns: int | None = None) -> None:
        """Work on what waited for its transform; what has waited too long, or to the end, is given up."""
        for _ in range(len(self._waiting)):
            since, work = self._waiting.popleft()
            try:
                work()
            except NotYetError as error:
                if now_ns is not None and now_ns - since < _PATIENCE_NS:
                    self._waiting.append((since, work))
                else:
                    self._complain(str(error))
            except (TransformError, ProjectionError) as error:
                self._complain(str(error))

    def _complain(self, text: str) -> None:
        # Numbers differ from image to image.
        kind = "".join("#" if letter.isdigit() else letter for letter in text)
        if kind not in self.complaints and len(self.complaints) < 20:
            print(f"bag_geo: {text}", file=sys.stderr)
        self.complaints[kind] = self.complaints.get(kind, 0) + 1

    def _calibrate(self, info: Any) -> None:
        if info.header.frame_id in self._cameras:
            return
        try:
            self._cameras[info.header.frame_id] = PinholeCamera.from_info(info)
        except (ProjectionError, ValueError) as error:
            self._complain(f"camera_info of {info.header.frame_id!r}: {error}")

    def _fix(self, fix: Any) -> None:
        frame = self._gps_frame or fix.header.frame_id
        pose = self._transforms.lookup(self._frame, frame, _stamp(fix.header))
        height = fix.altitude if np.isfinite(fix.altitude) else 0.0
        datum = Datum.from_fix(np.array([fix.latitude, fix.longitude, height]), pose.position)
        self.datums.append((datum.latitude, datum.longitude, datum.height))

    def _add(self, header: Any, key: str, best: Any, place: Floats, covariance: Floats) -> None:
        stamp = _stamp(header)
        if not (np.isfinite(place).all() and np.isfinite(covariance).all()):
            return
        name = self._names.get(best.class_id, best.class_id)
        # Without an id each sighting is an object of its own.
        track = self.tracks.setdefault((key, name) if key else len(self.tracks), GroundTrack(name, key))
        track.add(stamp, place, covariance, float(best.score))

    def _take_places(self, message: Any) -> None:
        if message.header.frame_id.lstrip("/") != self._frame.lstrip("/"):
            raise GeoError(
                f"detections_3d are in the frame {message.header.frame_id!r}, not {self._frame!r}: pass "
                f"--frame {message.header.frame_id}"
            )
        for detection in message.detections:
            if len(detection.results):
                best, at = detection.results[0], detection.results[0].pose.pose.position
                covariance = np.array(best.pose.covariance).reshape(6, 6)[:3, :3]
                self._add(
                    message.header, detection.id, best.hypothesis, np.array([at.x, at.y, at.z]), covariance
                )

    def _take_boxes(self, message: Any) -> None:
        frame = message.header.frame_id
        if frame not in self._cameras:
            raise NotYetError(f"no camera_info for images of the frame {frame!r}")
        pose = self._transforms.lookup(self._frame, frame, _stamp(message.header))
        found = [item for item in message.detections if len(item.results)]
        centers = np.array([(item.bbox.center.position.x, item.bbox.center.position.y) for item in found])
        halves = np.array([(item.bbox.size_x, item.bbox.size_y) for item in found]) / 2
        boxes = np.concatenate((centers - halves, centers + halves), axis=1) if found else np.zeros((0, 4))
        points = ground_points(boxes, self._cameras[frame], pose.rotation, pose.position, self._ground)
        for row, index in enumerate(points.index.tolist()):
            self._add(
                message.header, found[index].id, found[index].results[0].hypothesis,
                points.positions[row], points.covariances[row],
            )  # fmt: skip

    def datum(self) -> Datum:
        """Return where the frame lies: the median of what the fixes say.

        Raises:
            GeoError: there was no usable fix.
        """
        if not self.datums:
            raise GeoError(
                "the bag does not say where the frame lies on the earth: it needs NavSatFix with a fix and "
                f"the transform from {self._frame!r} to its frame (--gps-frame names another), or pass "
                "--datum LATITUDE,LONGITUDE,HEIGHT of the frame's origin"
            )
        return Datum(*map(float, np.median(np.array(self.datums), axis=0)))


def read_tracks(
    bag: Path, frame: str, ground: Ground, *, gps_frame: str = "", datum: Datum | None = None
) -> tuple[list[GroundTrack], Datum]:
    """Read a bag's tracks on the ground, and where their frame lies.

    Raises:
        BagError: the bag cannot be read.
        GeoError: it lacks something; the message says what.
    """
    store = typestore()
    wanted = {_PLACES, _BOXES, _LABELS, _INFO, _FIX, _TF}
    with open_bag(bag) as reader:
        connections = [item for item in reader.connections if item.msgtype in wanted]
        kinds = {item.msgtype for item in connections if item.msgcount}
        if not kinds & {_PLACES, _BOXES}:
            raise GeoError(
                f"{bag} holds neither detections_3d nor detections; run the detector on it first (ros2 run "
                "yolo_trt_node bag_detect, or replay.launch.py)"
            )
        collected = Reader(frame, ground, gps_frame, project=_PLACES not in kinds)
        for connection, log_ns, data in messages(reader, connections):
            try:
                message = store.deserialize_cdr(data, connection.msgtype)
            except Exception as error:
                raise BagError(f"{connection.topic}: a message that cannot be read: {error}") from error
            collected.take(connection.msgtype, message, log_ns, static=connection.topic.endswith("tf_static"))
    collected.settle()
    return list(collected.tracks.values()), datum or collected.datum()


def _stamp(header: Any) -> int:
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _datum(text: str) -> Datum:
    parts = [float(part) for part in text.split(",")]
    if len(parts) != 3 or not (abs(parts[0]) <= 90 and abs(parts[1]) <= 180 and abs(parts[2]) < 1e5):
        raise ValueError(text)
    return Datum(*parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="bag_geo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="rosbag2 bag: its folder or file")
    parser.add_argument("-o", "--output", type=Path, help="FILE.geojson; FILE.kml is written beside it")
    parser.add_argument("--frame", default="map", help="fixed frame, x east, y north, z up (default: map)")
    parser.add_argument("--ground-height", type=float, default=0.0, help="of the ground in it, metres")
    parser.add_argument("--gps-frame", default="", help="of the antenna, where the fixes' own is not in TF")
    parser.add_argument("--datum", type=_datum, help="LATITUDE,LONGITUDE,HEIGHT of the frame's origin")
    parser.add_argument("--min-sightings", type=int, default=1, help="leave out what fewer images show")
    given = parser.parse_args(arguments)
    output = given.output or Path(given.bag.name).with_suffix(".geojson")
    try:
        tracks, datum = read_tracks(
            given.bag, given.frame, Ground(height=given.ground_height), gps_frame=given.gps_frame,
            datum=given.datum,
        )  # fmt: skip
        items = features([item for item in tracks if len(item.places) >= given.min_sightings], datum)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(geojson(items), indent=1))
        output.with_suffix(".kml").write_text(kml(items, given.bag.name))
    except (BagError, GeoError, OSError) as error:
        print(f"bag_geo: {error}", file=sys.stderr)
        return 1
    moving = sum(item["geometry"]["type"] == "LineString" for item in items)
    print(f"{len(items)} objects, {moving} of them moving: {output}, {output.with_suffix('.kml').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
