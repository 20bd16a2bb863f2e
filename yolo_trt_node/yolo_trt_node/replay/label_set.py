"""Writes chosen images and their boxes as people and trainers read them: YOLO, COCO and MOT."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.replay.label_choice import ChosenImage

SPLITS = ("train", "val")
_JPEG_QUALITY = 95


class Entry(NamedTuple):
    """An image of the set.

    Attributes:
        name: of its file.
        split: one of `SPLITS`.
        choice: the image, and why it was chosen.
    """

    name: str
    split: str
    choice: ChosenImage


def entries(chosen: Sequence[ChosenImage], held_out: Sequence[bool], ending: str) -> list[Entry]:
    """Name the images: camera, then stamp, so that sorted names are in the order of time.

    Args:
        chosen: in the order of the bag.
        held_out: for each whether it is for validation.
        ending: ``jpg`` or ``png``.
    """
    made, taken = [], set()
    for choice, held in zip(chosen, held_out, strict=True):
        camera = re.sub(r"[^A-Za-z0-9]+", "_", choice.shot.topic).strip("_") or "camera"
        stem = f"{camera[:80]}_{max(0, choice.shot.stamp_ns):019d}"
        if stem in taken:
            stem += f"_{choice.shot.number}"
        taken.add(stem)
        made.append(Entry(f"{stem}.{ending}", SPLITS[held], choice))
    return made


def write_image(folder: Path, entry: Entry, pixels: NDArray[np.uint8]) -> None:
    """Write an image's file.

    Args:
        folder: of the set.
        entry: the image.
        pixels: height x width x 3 uint8 BGR.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / "images" / entry.split / entry.name
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    _, data = cv2.imencode(path.suffix, pixels, parameters)
    path.write_bytes(data.tobytes())


def write_labels(folder: Path, written: Sequence[Entry], names: Sequence[str]) -> None:
    """Write everything but the images: ``data.yaml``, labels/, coco/, mot/ and ``chosen.csv``.

    Args:
        folder: of the set.
        written: its images.
        names: of the classes.

    Raises:
        OSError: a file cannot be written.
    """
    written = sorted(written, key=lambda entry: (entry.split, entry.name))
    frames: dict[str, int] = {}
    splits = [split for split in SPLITS if any(entry.split == split for entry in written)]
    for split in splits:
        mine = [entry for entry in written if entry.split == split]
        frames |= {entry.name: number for number, entry in enumerate(mine, 1)}
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for entry in mine:
            shot = entry.choice.shot
            (labels / entry.name).with_suffix(".txt").write_text(
                yolo_rows(shot.found, shot.height, shot.width)
            )
        coco = folder / "coco" / f"{split}.json"
        coco.parent.mkdir(exist_ok=True)
        coco.write_text(json.dumps(coco_content(mine, names)), encoding="utf-8")
        mot = folder / "mot" / split / "gt"
        mot.mkdir(parents=True)
        (mot / "gt.txt").write_text("".join(mot_rows(n, e.choice.shot.found) for n, e in enumerate(mine, 1)))
        (mot / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    content: dict[str, object] = {split: f"images/{split}" for split in splits}
    content["names"] = dict(enumerate(names))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    with (folder / "chosen.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "split", "topic", "stamp_ns", "mot_frame", "boxes", "worth", "why"))
        for entry in written:
            shot, why = entry.choice.shot, "; ".join(entry.choice.why)
            rows.writerow(
                (
                    entry.name, entry.split, shot.topic, shot.stamp_ns, frames[entry.name], len(shot.found),
                    f"{entry.choice.score:.3f}", why,
                )
            )  # fmt: skip


def yolo_rows(found: Detections, height: int, width: int) -> str:
    """Return boxes as lines of class, center x and y, width, height; relative to the image's size."""
    whole = np.array((width, height, width, height), np.float64)
    places = np.concatenate((found.centers(), found.sizes()), axis=1) / whole
    return "".join(
        f"{number} {' '.join(f'{value:.6f}' for value in row)}\n"
        for number, row in zip(found.class_ids.tolist(), places.tolist(), strict=True)
    )


def coco_content(images: Sequence[Entry], names: Sequence[str]) -> dict[str, list[dict[str, object]]]:
    """Return images as COCO's JSON has them; categories count from 1, and each box keeps its score."""
    annotations: list[dict[str, object]] = []
    for number, entry in enumerate(images, 1):
        found = entry.choice.shot.found
        ids = [NO_ID] * len(found) if found.track_ids is None else found.track_ids.tolist()
        for box, score, class_id, track in zip(
            found.xywh().tolist(), found.scores.tolist(), found.class_ids.tolist(), ids, strict=True
        ):
            one = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": class_id + 1,
                "bbox": [round(value, 3) for value in box],
                "area": round(box[2] * box[3], 3),
                "segmentation": [],
                "iscrowd": 0,
                "score": round(score, 4),
            }
            annotations.append(one | ({} if track == NO_ID else {"attributes": {"track_id": track}}))
    pictures: list[dict[str, object]] = [
        {
            "id": number,
            "file_name": entry.name,
            "width": entry.choice.shot.width,
            "height": entry.choice.shot.height,
        }
        for number, entry in enumerate(images, 1)
    ]
    categories: list[dict[str, object]] = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    return {"images": pictures, "annotations": annotations, "categories": categories}


def mot_rows(frame: int, found: Detections) -> str:
    """Return boxes as lines of MOT's ground truth: frame, track, left, top, width, height, 1, class, 1.

    Args:
        frame: the image's position in its folder, from 1.
        found: classes count from 1 in the lines; the track is -1 where there is none.
    """
    ids = [NO_ID] * len(found) if found.track_ids is None else found.track_ids.tolist()
    return "".join(
        f"{frame},{track},{','.join(f'{value:.2f}' for value in box)},1,{class_id + 1},1\n"
        for track, box, class_id in zip(ids, found.xywh().tolist(), found.class_ids.tolist(), strict=True)
    )
