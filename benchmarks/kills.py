"""Do a run, a comparison and a bag end as if nothing had been, after SIGKILL at random moments?

Run ``python benchmarks/kills.py`` (``make kills``): each is done once undisturbed, and once more with a
process that is killed 20 times at random moments of its computing time, and started again each time with the
same command. What comes out is compared: every stage's checkpoint, accuracy and history, the comparison's
figures, the bag's bytes. Where one ends before it was killed often enough, it begins anew in another folder.
The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FRAMES = 300


@dataclass(frozen=True)
class Work:
    """Something that goes on where it was killed.

    Attributes:
        do: does it in a folder.
        outcome: what must be the same, from that folder.
    """

    do: Callable[[Path], object]
    outcome: Callable[[Path], dict[str, Any]]


def process(work: Callable[[], object], log: Path, dies_after_s: float | None) -> tuple[bool, float]:
    """Do something in a process that may be killed; return whether it ended by itself, and core seconds."""
    child = os.fork()
    if not child:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if dies_after_s is not None:
            threading.Thread(target=_die, args=(time.process_time() + dies_after_s,), daemon=True).start()
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(status)
    _, status, usage = os.wait4(child, 0)
    if status not in (0, signal.SIGKILL):
        sys.exit(f"it failed: {log.read_text()[-2000:]}")
    return status == 0, usage.ru_utime + usage.ru_stime


def _die(at_s: float) -> None:
    while time.process_time() < at_s:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)


def disturbed(work: Work, folder: Path, kills: int, rng: random.Random) -> tuple[list[dict[str, Any]], float]:
    """Do something with so many kills; return each outcome, and the core seconds of the undisturbed one."""
    log = folder / "log"
    whole = folder / "whole"
    whole.mkdir()
    _, takes_s = process(lambda: work.do(whole), log, None)
    outcomes, begun, left = [work.outcome(whole)], 0, kills
    while left or begun == len(outcomes):
        place = folder / f"disturbed{begun}"
        if begun < len(outcomes):
            begun += 1
            place = folder / f"disturbed{begun}"
            place.mkdir()
        dies = rng.uniform(0.02, 0.4) * takes_s if left else None
        ended, _ = process(lambda place=place: work.do(place), log, dies)  # type: ignore[misc]
        if ended:
            outcomes.append(work.outcome(place))
        else:
            left -= 1
    return outcomes, takes_s


# --- What is done -------------------------------------------------------------------------------------------


def works(folder: Path) -> dict[str, Work]:
    """Prepare a tiny data set, a recipe, a comparison and a bag."""
    import cv2
    import numpy as np
    import yaml
    from rich.console import Console
    from support.squares import make_recipe, write_dataset
    from support.toy_detector import paint_cells, write_toy_detector
    from yolo_trt_node.replay import messages
    from yolo_trt_node.replay.bag_detect import main as bag_detect
    from yolo_trt_node.replay.bags import BagWriter, typestore

    from yolo_compress import compare
    from yolo_compress.config.loading import load_comparison, load_recipe
    from yolo_compress.run.recipe import run_recipe

    data = write_dataset(folder / "data")
    train = {"epochs": 2, "batch": 4, "lr": 0.001, "warmup_epochs": 0, "augment": {"mosaic": 0}}
    sections = {name: {"train": train} for name in ("sparsify", "distill")}
    recipe = make_recipe(
        Path("out"),
        data,
        teacher={"model": "yolov8n.yaml", "train": train},
        sparsify={"strength": 0.5, **sections["sparsify"]},
        distill={"weight": 1.0, **sections["distill"]},
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    dense = {"teacher.train.epochs": 6, "sparsify": None, "prune": None, "distill": None}
    comparison = {"base": "recipe.yaml", "output": "out", "seeds": [0], "ratio_to": "dense"}
    comparison["arms"] = {"dense": dense, "ours": {}}
    (folder / "compare.yaml").write_text(yaml.safe_dump(comparison))

    store = typestore()
    with BagWriter(folder / "bag", store) as writer:
        for index in range(FRAMES):
            image = paint_cells(np.zeros((64, 64, 3), np.uint8), [(1 + index % 6, 1, "red")])
            head = messages.header(store, index * 10**8, "nose")
            png = cv2.imencode(".png", image)[1].tobytes()
            message = messages.compressed_image(store, head, "png", png)
            writer.write("/nose", messages.COMPRESSED_TYPE, message, index * 10**8)
    model = write_toy_detector(folder / "toy.onnx", work=2)

    def run(place: Path) -> None:
        run_recipe(load_recipe(folder / "recipe.yaml", [f"output={place / 'out'}"]), Console())

    def stages(place: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in sorted((place / "out").rglob("stage.json")):
            name, content = str(record.parent.relative_to(place)), json.loads(record.read_text())
            accuracy = {key: value for key, value in content["accuracy"].items() if key != "of"}
            history = record.with_name("history.json")
            epochs = json.loads(history.read_text()) if history.is_file() else []
            losses = [{key: value for key, value in row.items() if key != "seconds"} for row in epochs]
            found[name] = [content["checkpoint_sha256"], accuracy, losses]
        return found

    def compared(place: Path) -> None:
        arms = load_comparison(folder / "compare.yaml", [f"output={place / 'out'}"])
        compare.run_comparison(arms, Console())

    def detected(place: Path) -> None:
        words = [str(folder / "bag"), "--model", str(model), "-o", str(place / "found"), "--threads", "1"]
        if not (place / "found").exists() and bag_detect([*words, "--max-batch", "3", "--tracker"]):
            raise RuntimeError("bag_detect failed")

    return {
        "a run": Work(run, stages),
        "a comparison": Work(
            compared,
            lambda place: {
                **stages(place),
                "arms": json.loads((place / "out" / "comparison.json").read_text())["arms"],
            },
        ),
        "a bag": Work(
            detected,
            lambda place: {file.name: file.read_bytes() for file in (place / "found").iterdir()},
        ),
    }


def main() -> int:
    """Disturb each; print the counts; return 1 where an outcome differs."""
    # In this order: tests/ holds folders of the packages' names.
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="a run, a comparison, a bag")
    arguments = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, work in works(folder).items():
            if arguments.only and what not in arguments.only:
                continue
            place = folder / what.replace(" ", "_")
            place.mkdir()
            (whole, *others), takes_s = disturbed(work, place, arguments.kills, random.Random(arguments.seed))
            equal = sum(other == whole for other in others)
            differing += len(others) - equal
            print(
                f"{what}: {takes_s:.1f} s of a core undisturbed; killed {arguments.kills} times; "
                f"{equal} of {len(others)} outcomes equal the undisturbed one",
                flush=True,
            )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
