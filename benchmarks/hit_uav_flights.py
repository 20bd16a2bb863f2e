"""HIT-UAV split by flights: five to train on, three that no training sees to measure on.

    python benchmarks/hit_uav_flights.py $UAV_DATA/hit_uav runs/hit_uav_flights

Images of one flight resemble each other, and for one flight two models' difference may have either sign: one
flight proves nothing. Reads ``flights.csv`` (image, flight) and writes ``flights.yaml``, a description whose
``train`` and ``val`` are lists of the images where they lie, and one list for each flight measured on, as
``val_20210116``, for `yolo-compress evaluate --split`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import yaml

MEASURED = ("20210116", "20210118", "20210121")


def split(root: Path, output: Path, measured: tuple[str, ...] = MEASURED) -> Path:
    """Write the lists and the description; return the latter.

    Args:
        root: folder of the set, with ``flights.csv`` and ``hit_uav.yaml``.
        output: folder to write into.
        measured: flights that are not trained on.
    """
    with (root / "flights.csv").open(encoding="utf-8", newline="") as table:
        rows = [(root.resolve() / row["image"], row["flight"]) for row in csv.DictReader(table)]
    known = {flight for _, flight in rows}
    if missing := set(measured) - known:
        raise SystemExit(f"{root / 'flights.csv'} has no flight {', '.join(sorted(missing))}")
    lists = {"train": [image for image, flight in rows if flight not in measured]}
    lists["val"] = [image for image, flight in rows if flight in measured]
    lists |= {f"val_{one}": [image for image, flight in rows if flight == one] for one in measured}
    output.mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (output / f"{name}.txt").write_text("".join(f"{image}\n" for image in images), encoding="utf-8")
    names = yaml.safe_load((root / "hit_uav.yaml").read_text(encoding="utf-8"))["names"]
    description = {"path": str(output.resolve()), **{name: f"{name}.txt" for name in lists}, "names": names}
    path = output / "flights.yaml"
    path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    for name, images in lists.items():
        print(f"{name}: {len(images)} images")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of HIT-UAV")
    parser.add_argument("output", type=Path, help="folder to write into")
    given = parser.parse_args()
    print(f"written: {split(given.root, given.output)}")
