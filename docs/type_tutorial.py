#!/usr/bin/env python3
"""Type what docs/tutorial.md says, as a stranger would: in a fresh clone, on data and a recording of her own.

Her files are made first: aerial scenes of another camera and other streets than the demo's, described as
Roboflow does it, a recording over more of them, and a trained detector. Then the page's shell blocks are run
in their order, as they stand but for --epochs, which makes the training short. What needs a board, and what
needs `ros2 launch` where there is none, is left out, and said so.

Examples:
    make tutorial
    python docs/type_tutorial.py --here --epochs 1        # in this clone as it is set up
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rosbags.highlevel import AnyReader

from aerial_scenes.dataset import generate_dataset
from aerial_scenes.scenes import SceneSpec
from yolo_compress.demo.flight import IMAGE_TOPIC, generated_shots, write_flight

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
SEED = 4711
FPS = 5.0
# Steeper, farther away and larger than the demo's camera sees.
CAMERA = {"pitch_deg": (40.0, 60.0), "metres_per_pixel": (0.02, 0.03), "density": (1.5, 2.5), "dusk": 0.0}


def main() -> int:
    """Make her files, type the page, look at what came out; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--here", action="store_true", help="in this clone, which is set up, not in a new one"
    )
    parser.add_argument("--epochs", type=int, default=12, help="of the recovery (%(default)s)")
    parser.add_argument("--images", type=int, default=96, help="to train on (%(default)s)")
    parser.add_argument("--frames", type=int, default=20, help="of the recording (%(default)s)")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutorial_") as name:
        folder = Path(name)
        hers = folder / "hers"
        make_files(hers, arguments.images, arguments.frames)
        script = "\n".join(
            ["set -eo pipefail", *typed(PAGE.read_text(), hers, arguments.here, arguments.epochs)]
        )
        status = subprocess.run(["bash", "-c", script], cwd=folder, env=outside(), check=False).returncode
        if status:
            print(f"tutorial: the commands ended with status {status}", file=sys.stderr)
            return 1
        answers = look(folder if arguments.here else folder / "yolo", arguments.frames)
    minutes = (time.monotonic() - started) / 60
    print(f"tutorial: done in {minutes:.1f} minutes; {answers}")
    return 0


def make_files(folder: Path, images: int, frames: int) -> None:
    """Make what the stranger has: ``best.pt``, ``my_data/data.yaml``, ``flight``."""
    spec = SceneSpec(width=640, height=480, **CAMERA)
    generate_dataset(folder / "my_data", train=images, val=max(4, images // 4), seed=SEED, spec=spec)
    description = folder / "my_data" / "data.yaml"
    content = yaml.safe_load(description.read_text())
    # As Roboflow writes it: no root, a list of names, a count.
    names = list(content["names"].values())
    left = {"train": "images/train", "val": "images/val", "nc": len(names), "names": names}
    description.write_text(yaml.safe_dump(left, sort_keys=False))
    write_flight(folder / "flight", generated_shots(SEED + 1, spec, frames, FPS), FPS, lambda done: None)
    shutil.copy(ROOT / "models" / "demo_parent.pt", folder / "best.pt")


def typed(page: str, hers: Path, here: bool, epochs: int) -> list[str]:
    """Return the page's shell blocks as lines of a script, with the stranger's own names and places."""
    lines = []
    for block in re.findall(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        reason = ""
        if "install_board.sh" in block:
            reason = "needs a board"
        elif "ros2 launch" in block and shutil.which("ros2") is None:
            reason = "needs ros2 launch"
        elif here and "git clone" in block:
            block = f"source {ROOT}/.venv/env.sh\n"
        for old, new in (
            ("<this repository>", str(ROOT)),
            ("DETECTOR=best.pt", f"DETECTOR={hers}/best.pt"),
            ("DATA=my.yaml", f"DATA={hers}/my_data/data.yaml"),
            ("BAG=flight", f"BAG={hers}/flight"),
            (" -o runs/mine", f" --epochs {epochs} -o runs/mine"),
        ):
            block = block.replace(old, new)
        for line in block.strip().splitlines():
            shown = line.replace("'", "'\\''")
            lines.append(f"echo '{'tutorial: left out, ' + reason + ': ' if reason else '$ '}{shown}'")
            if not reason:
                lines.append(line)
    return lines


def outside() -> dict[str, str]:
    """Return the environment without what leads into this clone."""
    left = {
        name: ":".join(part for part in value.split(":") if str(ROOT) not in part)
        for name, value in os.environ.items()
    }
    return {name: value for name, value in left.items() if value}


def look(folder: Path, frames: int) -> str:
    """Say what came out; end where something that the page promises is not there."""
    for name in ("runs/mine/model.onnx", "runs/mine/report.html"):
        if not (folder / name).is_file():
            raise SystemExit(f"tutorial: {name} is not there")
    with AnyReader([folder / "found"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    topic = f"{IMAGE_TOPIC}/detections"
    if counts.get(topic) != frames:
        raise SystemExit(
            f"tutorial: {frames} images, but {counts.get(topic, 0)} answers on {topic} of {counts}"
        )
    return f"{frames} of {frames} images of the recording were answered"


if __name__ == "__main__":
    sys.exit(main())
