"""``python -m yolo_compress.demo``: compress a detector, fly it over DDS, and show what came out.

Run through ``make demo`` (a detector of generated scenes, compressed in minutes; ``make demo TRAIN=1`` trains
that detector first) or ``make demo-real`` (real aerial images and a VisDrone detector from the folder that
UAV_DATA names).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress.checkpoints import load_model
from yolo_compress.config.loading import load_recipe
from yolo_compress.data.source import camera_spec
from yolo_compress.demo import real
from yolo_compress.demo.flight import DemoFrame, RecordedFlight, generated_shots, write_flight
from yolo_compress.demo.pictures import age_timeline, choose_frames, contact_sheet
from yolo_compress.demo.replay import FlownModel, fly
from yolo_compress.demo.report import flight_against_table, flight_table, write_demo_report
from yolo_compress.errors import UserError
from yolo_compress.export.export import export_onnx
from yolo_compress.measure.accuracy import Accuracy, Found, score
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.report.page import PagePart, Rows
from yolo_compress.run.recipe import RunResult, run_recipe
from yolo_compress.run.record import percent

DEMO_RECIPE = Path("config", "compress", "demo.yaml")
DOCS = Path("docs")
PARENT_RECIPE = Path("config", "compress", "demo_parent.yaml")
FLIGHT_SIZE = (1280, 720)
FLIGHT_FPS = 20.0
FLIGHT_FRAMES = 160
# None of the seeds of the scenes trained and measured on; by its ground truth, a flight over streets.
FLIGHT_SEED = 1_000_010
# As fast as one VisDrone detector at 640 answers on two cores, with room to spare.
REAL_FPS = 4.0
REAL_INPUT_SIZE = 640


def main() -> int:
    """Parse the command line, run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m yolo_compress.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", action="store_true", help="fly real images from the folder UAV_DATA")
    parser.add_argument(
        "--train", action="store_true", help="train the detector first, about an hour, instead of models/"
    )
    parser.add_argument("--output", type=Path, help="folder for everything (default: demo, or demo-real)")
    arguments = parser.parse_args()
    output = arguments.output or Path("demo-real" if arguments.real else "demo")
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    # A stop by SIGTERM is to end the children like Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if arguments.real:
            _real_demo(output, console)
        else:
            _demo(output, console, arguments.train)
    except KeyboardInterrupt:
        console.print("\ninterrupted: nothing runs any more; `make demo` goes on after the finished stages")
        return 130
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"demo: {error}", markup=False)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _demo(output: Path, console: Console, train: bool) -> None:
    began = time.monotonic()
    console.print(
        "on two cores this takes about six minutes"
        + (", and an hour for the training before" if train else "")
    )
    changes = [f"output={output / 'run'}"]
    if train:
        _headline(console, "0/3  train the detector from random weights")
        parent = run_recipe(load_recipe(PARENT_RECIPE, [f"output={output / 'parent'}"]), console)
        changes.append(f"teacher.model={parent.stages[-1].checkpoint}")
    _headline(console, "1/3  compress a detector (scenes, dense, sparse, pruned, distilled)")
    recipe = load_recipe(DEMO_RECIPE, changes)
    run = run_recipe(recipe, console)
    console.print(run.table(), soft_wrap=False)
    scenes = recipe.data.scenes
    if scenes is None:
        raise UserError(f"{DEMO_RECIPE} describes no scenes to generate; the demo flies over such")

    _headline(console, "2/3  record a flight, then fly it with each model over DDS")
    width, height = FLIGHT_SIZE
    spec = replace(camera_spec(scenes), width=width, height=height)
    shots = generated_shots(FLIGHT_SEED, spec, FLIGHT_FRAMES, FLIGHT_FPS)
    flight = _record(output / "flight", shots, FLIGHT_FRAMES, FLIGHT_FPS, console)
    dense, compressed = run.stages[0], run.stages[-1]
    flown = [
        _fly(name, stage.onnx, flight, output / "flown" / name, console)
        for name, stage in (("dense", dense), ("compressed", compressed))
    ]
    accuracy = [_score(flight, model, VISDRONE_CLASSES) for model in flown]

    _headline(console, "3/3  report")
    reduction = compressed.gmacs / dense.gmacs
    summary = (
        f"The compressed model does {100 * reduction:.0f} % of the dense model's multiply-accumulates with "
        f"{100 * compressed.params / dense.params:.0f} % of its parameters and answers in "
        f"{compressed.latency.ratio:.2f} of its time. AP50 on {compressed.accuracy.images} scenes that "
        f"neither was trained on: {percent(compressed.accuracy.ap50)} against {percent(dense.accuracy.ap50)}."
        + flight_against_table((dense.accuracy, compressed.accuracy), (accuracy[0], accuracy[1]))
    )
    _report(
        output,
        began,
        console,
        title="From weights to detections on a ROS 2 topic",
        summary=summary,
        stages=_stage_rows(run),
        flight=flight,
        flown=flown,
        accuracy=accuracy,
        names=VISDRONE_CLASSES,
        flights_note=f"A generated flight of {len(flight)} frames, {width} x {height} bgr8 at {FLIGHT_FPS:g} "
        "Hz, played from a bag over DDS; player, node and recorder are processes of their own. Age: from the "
        "frame's stamp to the arrival of its detections at the recorder. AP50 as published: at the node's "
        "score threshold, frames without an answer counting as empty.",
        command="make demo",
        onward=_onward(output, run),
    )


def _real_demo(output: Path, console: Console) -> None:
    began = time.monotonic()
    if "UAV_DATA" not in os.environ:
        raise UserError(
            "name the folder of the real images and weights: UAV_DATA=/path/to/data make demo-real. It needs "
            f"{real.VISDRONE_CHECKPOINT}, visdrone/ and aerial_cars/"
        )
    root = Path(os.environ["UAV_DATA"]).expanduser()
    _headline(console, "1/3  export a VisDrone detector")
    checkpoint = real.checkpoint(root)
    count = len(real.image_paths(root))
    model = output / f"{checkpoint.stem}.onnx"
    output.mkdir(parents=True, exist_ok=True)
    export_onnx(checkpoint, model, REAL_INPUT_SIZE)
    network = load_model(checkpoint)
    console.print(f"written: {model}")

    _headline(console, "2/3  write the images as a flight, then fly it over DDS")
    flight = _record(output / "flight", real.shots(root), count, REAL_FPS, console)
    flown = [_fly(checkpoint.stem, model, flight, output / "flown" / checkpoint.stem, console)]
    accuracy = [_score(flight, flown[0], VISDRONE_CLASSES)]

    _headline(console, "3/3  report")
    params, gmacs = count_params(network) / 1e6, count_macs(network, REAL_INPUT_SIZE) / 1e9
    _report(
        output,
        began,
        console,
        title="A VisDrone detector on real aerial images",
        summary=f"{checkpoint.name} through the same export, node and report: {len(flown[0].found)} of "
        f"{flown[0].frames} images answered, median age {flown[0].age_ms(0.5):.0f} ms.",
        stages=Rows(
            ("model", "params", f"GMACs@{REAL_INPUT_SIZE}"),
            [(checkpoint.stem, f"{params:.2f} M", f"{gmacs:.2f}")],
            "The checkpoint is used as it is; nothing was trained.",
        ),
        flight=flight,
        flown=flown,
        accuracy=accuracy,
        names=VISDRONE_CLASSES,
        flights_note=f"{count} images of visdrone/ and aerial_cars/, at {REAL_FPS:g} Hz. A few VisDrone "
        "images here were trained on, and the aerial_cars labels (car, truck, bus, minibus as van, "
        "cyclist as bicycle) follow other rules than VisDrone's: the AP50 is a smoke test, no benchmark.",
        command="make demo-real",
    )


def _record(
    bag: Path, shots: Iterable[DemoFrame], count: int, fps: float, console: Console
) -> RecordedFlight:
    """Write a flight's bag anew, with progress."""
    shutil.rmtree(bag, ignore_errors=True)
    with _progress(console) as progress:
        task = progress.add_task("recording the flight", total=count)
        write_flight(bag, shots, fps, lambda done: progress.update(task, completed=done))
    flight = RecordedFlight(bag)
    console.print(f"flight: {len(flight)} frames, {flight.duration_s:.1f} s, in {bag}")
    return flight


def _fly(name: str, model: Path, flight: RecordedFlight, folder: Path, console: Console) -> FlownModel:
    shutil.rmtree(folder, ignore_errors=True)
    with _progress(console) as progress:
        task = progress.add_task(f"flying {name}", total=flight.duration_s)
        flown = fly(name, model, flight, folder, lambda seconds: progress.update(task, completed=seconds))
    console.print(
        f"{name}: {len(flown.found)} of {flown.frames} frames answered, {flown.dropped} dropped, "
        f"age median {flown.age_ms(0.5):.0f} ms, p95 {flown.age_ms(0.95):.0f} ms"
    )
    return flown


def _score(flight: RecordedFlight, flown: FlownModel, names: Sequence[str]) -> Accuracy:
    nothing = Found(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    return score(flight.truths, [flown.found.get(i, nothing) for i in range(len(flight))], names)


def _stage_rows(run: RunResult) -> Rows:
    size = run.recipe.input_size
    return Rows(
        ("stage", "params", f"GMACs@{size}", "AP50", "AP", "latency", "to dense"),
        [
            (
                stage.name,
                f"{stage.params / 1e6:.3f} M",
                f"{stage.gmacs:.3f}",
                percent(stage.accuracy.ap50),
                percent(stage.accuracy.ap),
                f"{stage.latency.ms:.1f} ms",
                f"{stage.latency.ratio:.2f}",
            )
            for stage in run.stages
        ],
        "Each stage's exported ONNX file, measured through the detector that flies on "
        f"{run.stages[0].accuracy.images} scenes never trained on; latency from image to boxes on this "
        "machine, models in turn in one run.",
    )


def _onward(output: Path, run: RunResult) -> PagePart:
    """Say what can be opened and typed next: the model, the pages that explain, the user's own detector."""
    wanted = [
        ("the compressed model, an ONNX file that describes itself", run.onnx),
        ("the dense model, of the same kind", run.stages[0].onnx),
        ("from your data to your drone, step by step", DOCS / "tutorial.md"),
        ("what the figures mean, every recipe", DOCS / "compression.md"),
        ("no detections?", DOCS / "no_detections.md"),
    ]
    return PagePart(
        "Onward",
        links=[(text, os.path.relpath(path, output)) for text, path in wanted if path.is_file()],
        code=f"ros2 launch yolo_trt_node detect.launch.py model:={run.onnx.resolve()}\n"
        "yolo-compress compress best.pt --data my.yaml --macs 0.33      # your own",
    )


def _report(
    output: Path,
    began: float,
    console: Console,
    *,
    title: str,
    summary: str,
    stages: Rows,
    flight: RecordedFlight,
    flown: Sequence[FlownModel],
    accuracy: Sequence[Accuracy],
    names: Sequence[str],
    flights_note: str,
    command: str,
    onward: PagePart | None = None,
) -> None:
    """Draw the pictures, write the page, and say where they are."""
    sheet, ages, page = output / "contact_sheet.png", output / "frame_ages.png", output / "report.html"
    frames = choose_frames(flight, flown)
    contact_sheet(flight, flown, names, sheet, frames)
    age_timeline(flight, flown, ages)
    seconds = time.monotonic() - began
    write_demo_report(
        page,
        title=title,
        summary=summary,
        stages=stages,
        flights=flight_table(flown, accuracy, flights_note),
        names=names,
        sheet=sheet,
        sheet_note=f"Frames {', '.join(map(str, frames))} of the flight, chosen evenly among those that "
        "every model answered. Boxes as published by the node.",
        ages=ages,
        command=command,
        onward=onward,
        seconds=seconds,
    )
    console.print(summary)
    for model, scored in zip(flown, accuracy, strict=True):
        console.print(
            f"{model.name}: {model.dropped} of {model.frames} frames dropped, age median "
            f"{model.age_ms(0.5):.0f} ms, AP50 of what was published {percent(scored.ap50)}"
        )
    console.print(f"report: {page}   pictures: {sheet}, {ages}   ({seconds / 60:.1f} minutes)")


def _headline(console: Console, text: str) -> None:
    console.print()
    console.rule(text, align="left")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


if __name__ == "__main__":
    sys.exit(main())
