"""Make a data set of a flight for the next training: images worth a human's look, with the boxes found.

Examples:
    ros2 run yolo_trt_node bag_labels flight/ -o set/                          # detections in the same bag
    ros2 run yolo_trt_node bag_labels flight/ --detections found/ -o set/      # of replay or bag_detect
    ros2 run yolo_trt_node bag_labels flight/ --model large.onnx --tiling 2x2 --tracker -o set/
    ros2 run yolo_trt_node bag_labels flight/ -o set/ --most 50 --sure 0.6 --fill
    ros2 run yolo_trt_node bag_labels other_flight/ --model large.onnx --even -o held_out/  # to measure on

Chosen are images with low or contradictory scores, and with boxes that the images beside them have not, or
the other way round; chosen.csv says why. Images too similar to a chosen one are left out. The set holds
data.yaml with images and labels (YOLO), coco/ and mot/. Its boxes are a proposal: correct them before you
train. No ROS node runs, and none is needed. The set appears when it is complete; with --model, a run that was
stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector import ModelError
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.images.thermal import AUTO_RANGE
from yolo_trt_node.node_options import Settings
from yolo_trt_node.options import add_arguments
from yolo_trt_node.params_file import add_params_file, option_values
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.answers import detection_topics, read_answers, read_names, stamp_of, time_of
from yolo_trt_node.replay.bag_detect import OFFLINE_OPTIONS, detect_in_bag
from yolo_trt_node.replay.bag_images import image_connections, read_pictures
from yolo_trt_node.replay.bags import BagError, flush_to_disk, open_bag, typestore
from yolo_trt_node.replay.journal import BagImage
from yolo_trt_node.replay.label_choice import AnsweredImage, ChosenImage, choose_images, judge, validation
from yolo_trt_node.replay.label_set import entries, write_image, write_labels
from yolo_trt_node.replay.progress import ProgressLine
from yolo_trt_node.stop_signals import interrupted_once

_SMALL = (32, 24)  # width, height of the gray copies that tell similar images


@dataclass(frozen=True)
class ChoiceOptions:
    """Which images are taken, and how they are written.

    Attributes:
        most: at most this many.
        sure: boxes of this score and above are believed.
        difference: mean difference of gray copies, of 255, below which images are too similar.
        fill: fill up with ordinary images.
        held_out: share for validation.
        least_score: boxes below are looked at, but are no labels.
        ending: of the image files, ``jpg`` or ``png``.
        even: images evenly spaced in time instead, all for validation: a set to measure models on.
    """

    most: int = 200
    sure: float = 0.5
    difference: float = 4.0
    fill: bool = False
    held_out: float = 0.2
    least_score: float = 0.0
    ending: str = "jpg"
    even: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed; the message names the option.
        """
        if self.most < 2:
            raise ValueError(
                f"--most is {self.most}; training and validation need an image each, so at least 2"
            )
        for flag, value, low, high in (
            ("--sure", self.sure, 0.01, 1.0),
            ("--difference", self.difference, 0.0, 255.0),
            ("--held-out", self.held_out, 0.02, 0.5),
            ("--least-score", self.least_score, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{flag} is {value:g}; it must be from {low:g} to {high:g}")


@dataclass(frozen=True)
class LabelOutcome:
    """What became of the bag.

    Attributes:
        images: how many were chosen.
        validation: how many of them are for validation.
        boxes: in the chosen ones.
        answered: images of the bag that detections belong to.
        unanswered: images without detections.
        unreadable: how many images could not be read, by topic and reason.
        damage: why the bag could not be read to its end; empty when it could.
    """

    images: int
    validation: int
    boxes: int
    answered: int
    unanswered: int
    unreadable: Counter[tuple[str, str]]
    damage: str


def make_set(
    source: Path,
    detections: Path,
    output: Path,
    options: ChoiceOptions,
    *,
    topics: Sequence[str] = (),
    detections_topic: str = "",
    names: Sequence[str] = (),
    max_pixels: int = 64_000_000,
    thermal_range: str = AUTO_RANGE,
) -> LabelOutcome:
    """Choose images of a bag and write them with their boxes.

    Args:
        source: the bag of the images.
        detections: the bag of what was found in them; may be the same.
        output: folder of the set; it appears when it is complete.
        options: what to choose.
        topics: image topics; without any all of them.
        detections_topic: where detections are; by default as the node and `bag_detect` name them.
        names: of the classes; without any those of the ``LabelInfo`` beside the detections.
        max_pixels: compressed images with more are not read.
        thermal_range: see `ThermalRange`.

    Raises:
        BagError: a bag cannot be read, the two do not belong together, or nothing is worth a look.
        OSError: the set cannot be written.
    """
    refuse_existing(output)
    work = work_folder(output) / "set"
    shutil.rmtree(work, ignore_errors=True)
    store = typestore()
    with open_bag(source) as bag:
        connections = messages.without_depth(store, bag, image_connections(bag, topics))
        with open_bag(detections) as found_bag:
            pairs = detection_topics(found_bag, [c.topic for c in connections], detections_topic)
            names = tuple(names) or read_names(store, found_bag)
            answers = read_answers(store, found_bag, pairs, names)
        connections = [c for c in connections if c.topic in pairs]
        total = sum(c.msgcount for c in connections)
        damage: list[str] = []

        def pictures() -> Any:
            readers = {c.topic: ImageReader(max_pixels, thermal_range) for c in connections}
            return enumerate(read_pictures(store, bag, connections, 0, readers, damage))

        progress = ProgressLine(total, 0, "the CPU: looked at")
        shots: list[AnsweredImage] = []
        unreadable: Counter[tuple[str, str]] = Counter()
        unanswered = 0
        for number, picture in pictures():
            progress.show(number)
            if picture.frame is None:
                unreadable[picture.topic, picture.reason] += 1
                continue
            found = answers[picture.topic].get(time_of(stamp_of(picture.header), picture.log_ns))
            if found is None:
                unanswered += 1
            else:
                shots.append(_shot(number, picture, picture.frame, found))
        progress.end(total)
        if unreadable and not (shots or unanswered):
            reason = unreadable.most_common(1)[0][0][1]
            raise BagError(f"not one image of {source} could be read; most: {reason}")
        chosen = _chosen(shots, names, options, source, detections)
        held = [True] * len(chosen)
        if not options.even:
            held = validation([choice.shot.log_ns for choice in chosen], options.held_out)
        if not (options.even or len(set(held)) == 2):
            raise BagError(
                f"one image of {source} alone is worth a look, and validation needs another: add --fill, or "
                "lower --difference"
            )
        labeled = [_believed(choice, options.least_score) for choice in chosen]
        files = entries(labeled, held, options.ending)
        wanted = {entry.choice.shot.number: entry for entry in files}
        last = max(wanted)
        progress = ProgressLine(last + 1, 0, f"the CPU: {len(files)} of them are written")
        for number, picture in pictures():
            if picture.frame is not None and number in wanted:
                write_image(work, wanted[number], picture.frame.to_bgr())
            progress.show(number)
            if number >= last:
                break
        progress.end(last + 1)
    write_labels(work, files, names)
    flush_to_disk_all(work)
    refuse_existing(output)
    work.rename(output)
    shutil.rmtree(work.parent)
    boxes = sum(len(entry.choice.shot.found) for entry in files)
    broken = damage[0] if damage else ""
    return LabelOutcome(len(files), sum(held), boxes, len(shots), unanswered, unreadable, broken)


def work_folder(output: Path) -> Path:
    """Return the folder in which a set is made."""
    return output.with_name(f"{output.name}.unfinished")


def refuse_existing(output: Path) -> None:
    """Overwrite nothing.

    Raises:
        BagError: the folder is there already.
    """
    if output.exists():
        raise BagError(f"{output} exists already; name another with -o, or remove it")


def flush_to_disk_all(folder: Path) -> None:
    """Wait until all files below a folder are on the disk, so that a rename of it cannot come before them."""
    for path in sorted({file.parent for file in folder.rglob("*") if file.is_file()}):
        flush_to_disk(path)


def _shot(number: int, picture: BagImage, frame: Frame, found: Detections) -> AnsweredImage:
    corners = found.boxes.copy()
    corners[:, 0::2] = corners[:, 0::2].clip(0, frame.width)
    corners[:, 1::2] = corners[:, 1::2].clip(0, frame.height)
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    clipped = Detections(corners, found.scores, found.class_ids, track_ids=found.track_ids)[inside]
    small: NDArray[np.uint8] = cv2.resize(
        cv2.cvtColor(frame.to_bgr(), cv2.COLOR_BGR2GRAY), _SMALL, interpolation=cv2.INTER_AREA
    ).astype(np.uint8)
    stamp_ns = time_of(stamp_of(picture.header), picture.log_ns)
    return AnsweredImage(
        number, picture.topic, stamp_ns, picture.log_ns, frame.height, frame.width, clipped, small
    )  # fmt: skip


def _chosen(
    shots: Sequence[AnsweredImage],
    names: Sequence[str],
    options: ChoiceOptions,
    source: Path,
    detections: Path,
) -> list[ChosenImage]:
    if not shots:
        raise BagError(
            f"no image of {source} has the stamp of any detections in {detections}: are they of "
            "another flight?"
        )
    ordered = sorted(shots, key=lambda shot: (shot.topic, shot.stamp_ns))
    judged = [
        choice
        for _, mine in groupby(ordered, key=lambda shot: shot.topic)
        for choice in judge(list(mine), names, options.sure)
    ]
    if options.even:
        judged = [choice._replace(score=0.0, why=()) for choice in judged]
    chosen = choose_images(judged, options.most, options.difference, fill=options.fill or options.even)
    if not chosen:
        raise BagError(
            f"none of the {len(shots)} images of {source} is worth a look: raise --sure, or take "
            "ordinary images too by --fill"
        )
    return chosen


def _believed(choice: ChosenImage, least_score: float) -> ChosenImage:
    shot = choice.shot
    values = {name: getattr(shot, name) for name in shot.__dataclass_fields__}
    return choice._replace(
        shot=AnsweredImage(**values | {"found": shot.found[shot.found.scores >= least_score]})
    )


def detect_first(source: Path, output: Path, settings: Settings, topics: Sequence[str]) -> Path:
    """Detect in the bag, or take what a run of the same that was stopped has found.

    Args:
        source: the bag of the images.
        output: folder of the set.
        settings: model, detector and tracker.
        topics: image topics; without any all of them.

    Returns:
        The bag of detections.

    Raises:
        BagError: a bag cannot be read or written, or another run was begun for this output.
        ModelError: the model cannot be used.
    """
    refuse_existing(output)
    model, work = Path(settings.node.model).expanduser(), work_folder(output)
    found, note = work / "detections", work / "detections.json"
    with open_bag(source) as bag:
        identity = {
            "bag": [str(source.resolve()), bag.start_time, bag.message_count],
            "topics": sorted(topics),
            "model": hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else str(model),
            "options": asdict(settings.detector),
            "tracker": settings.tracker and asdict(settings.tracker),
        }
    identity = json.loads(json.dumps(identity))
    if found.exists():
        begun = json.loads(note.read_text()) if note.is_file() else {}
        other = [key for key, value in identity.items() if begun.get(key) != value]
        if not other:
            return found
        raise BagError(
            f"{work} was begun with another {', '.join(other)}: finish that run with what it was begun with, "
            "remove the folder, or name another output with -o"
        )
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(identity))
    result = detect_in_bag(
        source, model, found, settings.detector, tracking=settings.tracker, topics=topics,
        max_pixels=settings.node.max_pixels, thermal_range=settings.node.thermal_range,
    )  # fmt: skip
    print(f"{result.boxes} detections in {result.images} images", file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and make the set; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    source, output = Path(given.bag).expanduser(), Path(given.output).expanduser()

    interrupted_once()
    try:
        settings = Settings.read(option_values(given, OFFLINE_OPTIONS))
        choice = ChoiceOptions(
            given.most,
            given.sure,
            given.difference,
            given.fill,
            given.held_out,
            given.least_score,
            given.images,
            given.even,
        )
        if given.model and given.detections:
            raise ValueError("--detections and --model: name one of them, since either gives the boxes")
        found = source
        if given.detections:  # whatever model a parameter file names
            found = Path(given.detections).expanduser()
        elif settings.node.model:
            found = detect_first(source, output, settings, given.topics)
        made = make_set(
            source, found, output, choice, topics=given.topics, detections_topic=given.detections_topic,
            names=[name.strip() for name in given.names.split(",") if name.strip()],
            max_pixels=settings.node.max_pixels, thermal_range=settings.node.thermal_range,
        )  # fmt: skip
    except (BagError, ModelError, ValueError, OSError) as error:
        print(f"bag_labels: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbag_labels: stopped; the same command does it again", file=sys.stderr)
        return 130
    print(
        f"{made.images} of {made.answered} images, {made.images - made.validation} for training and "
        f"{made.validation} for validation, {made.boxes} boxes: {output}"
    )
    if made.unanswered:
        print(f"  {made.unanswered} images have no detections and were left out")
    for (topic, reason), count in made.unreadable.most_common():
        print(f"  {topic}: {count} unreadable: {reason}")
    print(f"  why each was chosen: {output / 'chosen.csv'}")
    if made.damage:
        print(f"bag_labels: {made.damage}; the set has images up to there", file=sys.stderr)
    return int(bool(made.damage))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bag_labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", metavar="BAG", help="a rosbag2 bag with images: its folder or file")
    parser.add_argument("-o", "--output", required=True, help="folder of the new data set")
    parser.add_argument(
        "--detections", metavar="BAG", help="the bag of the detections; default: the same one"
    )
    parser.add_argument(
        "--detections-topic", default="", metavar="TOPIC", help="of the detections, if it cannot be guessed"
    )
    parser.add_argument(
        "--topics", nargs="+", default=[], help="image topics; default: all that have detections"
    )
    parser.add_argument(
        "--names",
        default="",
        help="classes by number: car,truck; default: the LabelInfo beside the detections",
    )
    defaults = ChoiceOptions()
    for flag, metavar, value, text in (
        ("--most", "N", defaults.most, "choose at most N images (%(default)s)"),
        ("--sure", "SCORE", defaults.sure, "boxes below this score make an image worth a look (%(default)s)"),
        (
            "--difference",
            "GRAY",
            defaults.difference,
            "images that differ by less are twins (%(default)s of 255)",
        ),
        ("--held-out", "SHARE", defaults.held_out, "share for validation, in blocks of time (%(default)s)"),
        ("--least-score", "SCORE", defaults.least_score, "boxes below are no labels (%(default)s)"),
    ):
        parser.add_argument(flag, type=type(value), default=value, metavar=metavar, help=text)
    parser.add_argument(
        "--fill", action="store_true", help="fill up to --most with ordinary images, evenly spaced in time"
    )
    parser.add_argument(
        "--even",
        action="store_true",
        help="take images evenly spaced in time, all for validation: a set to measure models on",
    )
    parser.add_argument(
        "--images", choices=("jpg", "png"), default=defaults.ending, help="files of the images (%(default)s)"
    )
    add_params_file(parser)
    add_arguments(parser, OFFLINE_OPTIONS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
