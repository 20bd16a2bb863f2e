"""What the page of a run or of a comparison shows, gathered from its folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yolo_trt_node.detector import Detector

from yolo_compress import compare, files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.loading import Arms, load_comparison, load_recipe
from yolo_compress.config.sections import Recipe
from yolo_compress.data.labelled import GroundTruth, read_ground_truth, read_image, read_split, spread
from yolo_compress.errors import UserError
from yolo_compress.export.card import read_card
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.report import charts
from yolo_compress.report.page import PagePart, PagePicture, Rows, chart, class_legend, photo, write_page
from yolo_compress.report.pictures import draw_boxes, sheet
from yolo_compress.report.widths import off_multiples
from yolo_compress.run.plan import plan
from yolo_compress.run.record import (
    CHECKPOINT,
    COMMANDS,
    EXPORTS,
    ONNX,
    RECIPE,
    accuracy_of,
    percent,
    read_record,
)
from yolo_compress.stages import Stage
from yolo_compress.training.job import HISTORY

from ultralytics.nn.modules import Conv  # isort: skip

PAGE = "report.html"
# Images shown side by side.
PICTURES_SHOWN = 3


def write_report(folder: Path) -> Path:
    """Write the page of a run or of a comparison into its folder, and return it.

    Raises:
        UserError: the folder is none of a run or a comparison, or nothing in it is finished.
    """
    if (folder / compare.DOCUMENT).is_file():
        return _comparison_page(folder, load_comparison(folder / compare.DOCUMENT))
    if (folder / RECIPE).is_file():
        return _run_page(folder, load_recipe(folder / RECIPE))
    raise UserError(
        f"{folder} is no folder of a run or a comparison: it has neither {RECIPE} nor {compare.DOCUMENT}"
    )


def _run_page(folder: Path, recipe: Recipe) -> Path:
    stages = {stage: folder / stage.name for stage in plan(recipe)}
    records = {stage: read_record(place) for stage, place in stages.items()}
    done = {stage: record for stage, record in records.items() if "accuracy" in record}
    if not done:
        raise UserError(f"no stage of the run in {folder} is finished; a report needs at least one")
    first, last = next(iter(done)), list(done)[-1]
    accuracy = {stage: accuracy_of(record) for stage, record in done.items()}
    ends = {stage.name: stages[stage] for stage in ([first, last] if first is not last else [last])}
    compared = {name: accuracy_of(read_record(place)) for name, place in ends.items()}
    names = [entry.name for entry in accuracy[last].per_class]
    parts = [
        PagePart(
            "Stages",
            table=_stage_rows(recipe, done, accuracy),
            points=[] if len(done) == len(stages) else [_unfinished(stages, done)],
        ),
        *([PagePart("Files", table=_file_rows(folder))] if (folder / EXPORTS).is_file() else []),
        _pictures(folder, recipe, ends, names),
        PagePart(
            "Classes",
            table=_class_rows(compared),
            legend=class_legend(names),
            pictures=[chart(charts.precision_recall(compared), "Precision over recall of each class")],
        ),
    ]
    if len(ends) > 1:
        layers = _channels(*(place / CHECKPOINT for place in ends.values()))
        kept = sum(after for _, after in layers.values()) / sum(before for before, _ in layers.values())
        parts.append(
            PagePart(
                "Channels",
                pictures=[
                    chart(charts.channels(layers), "Channels of each layer before and after"),
                    chart(charts.kept_channels({last.name: layers}), "The share that each layer keeps"),
                ],
                note=f"Output channels of each convolution with a BatchNorm, {first.name} and {last.name}; "
                f"{kept:.0%} of all channels are kept.",
            )
        )
        if (off := off_multiples(layers, recipe.export.precision)) is not None:
            parts.append(PagePart("Widths off the hardware's multiples", table=off))
    parts += [
        PagePart(
            "Gammas", pictures=[_embedded(stages[stage] / record["gammas"]["picture"])], note=_gammas(record)
        )
        for stage, record in done.items()
        if "gammas" in record
    ]
    histories = {
        stage.name: json.loads((place / HISTORY).read_text(encoding="utf-8"))
        for stage, place in stages.items()
        if (place / HISTORY).is_file()
    }
    if histories:
        parts.append(PagePart("Losses", pictures=[chart(charts.losses(histories), "Losses over the epochs")]))
    parts.append(_made(folder, [(RECIPE, folder / RECIPE)]))
    page = folder / PAGE
    write_page(
        page,
        title=f"{Path(recipe.teacher.model).stem}, {' → '.join(stage.name for stage in done)}",
        lead=_lead(records[first], records[last], compared),
        parts=parts,
    )
    return page


def _comparison_page(folder: Path, arms: Arms) -> Path:
    # The folder may have been moved since.
    arms = Arms(arms.comparison, arms.base.model_copy(update={"output": folder}), arms.recipes)
    result = compare.collect(arms)
    changes = Rows(
        ("arm", "differs from the base recipe in"),
        [
            (
                name,
                yaml.safe_dump(change, default_flow_style=True, width=1000).strip() if change else "nothing",
            )
            for name, change in arms.comparison.arms.items()
        ],
        text_column=1,
    )
    page = folder / PAGE
    write_page(
        page,
        title=f"{len(result.rows)} ways to a detector",
        lead=" ".join(result.sentences()[:1]) or result.protocol(),
        parts=[
            PagePart("Figures", table=Rows(result.header, result.cells(), result.protocol())),
            PagePart("What they say", points=result.sentences()),
            PagePart(
                "Classes and parts of the images",
                table=Rows(
                    result.detail_header, result.details(), "AP50; in brackets: outside of the verdicts."
                ),
            ),
            PagePart(
                "Accuracy against cost, and what is kept",
                pictures=[chart(figure, what) for what, figure in compare.figures(result).values()],
            ),
            PagePart("Arms", table=changes),
            _made(folder, [(name, folder / name) for name in (compare.DOCUMENT, compare.BASE)]),
        ],
    )
    return page


def _lead(before: Mapping[str, Any], after: Mapping[str, Any], accuracy: Mapping[str, Accuracy]) -> str:
    last = list(accuracy.values())[-1]
    if len(accuracy) == 1:
        return (
            f"{after['params'] / 1e6:.2f} M parameters, {after['gmacs']:.2f} GMACs at {after['input_size']}: "
            f"AP50 {percent(last.ap50)} on {last.images} images."
        )
    first = next(iter(accuracy.values()))
    time = f" in {after['latency']['ratio']:.2f} of its time" if "latency" in after else ""
    return (
        f"{after['gmacs'] / before['gmacs']:.0%} of the dense model's multiply-accumulates with "
        f"{after['params'] / before['params']:.0%} of its parameters{time}. AP50 {percent(last.ap50)} "
        f"against {percent(first.ap50)} on {last.images} images that neither was trained on."
    )


def _stage_rows(
    recipe: Recipe, done: Mapping[Stage, Mapping[str, Any]], accuracy: Mapping[Stage, Accuracy]
) -> Rows:
    rows = []
    for stage, record in done.items():
        a, latency = accuracy[stage], record.get("latency")
        rows.append(
            (
                stage.name,
                stage.describe(),
                f"{record['params'] / 1e6:.3f} M",
                f"{record['gmacs']:.3f}",
                *(percent(v) for v in (a.ap50, a.ap, a.ap75, a.ap_small, a.ap_medium, a.ap_large)),
                "-" if latency is None else f"{latency['ms']:.1f} ms",
                "-" if latency is None else f"{latency['ratio']:.2f}",
                f"{seconds / 60:.1f} min" if (seconds := record["seconds"]) >= 60 else f"{seconds:.0f} s",
            )
        )
    header = ("stage", "what", "params", f"GMACs@{recipe.input_size}", "AP50", "AP", "AP75", "APs", "APm")
    images = next(iter(accuracy.values())).images
    return Rows(
        (*header, "APl", "latency", "ratio", "took"),
        rows,
        f"Each stage's exported ONNX file, measured through the detector that flies on {images} images of "
        f"the split {recipe.evaluate.split!r}; latency from image to boxes on this machine, models in turn "
        "in one run.",
        text_column=1,
    )


def _gammas(record: Mapping[str, Any]) -> str:
    entry = record["gammas"]
    if entry["warning"]:
        return f"BatchNorm scales, which pruning ranks. Here {entry['warning']}."
    return (
        "BatchNorm scales, which pruning ranks. Those of the channels to remove are "
        f"{entry['contrast']:.0%} as large as the others'."
    )


def _unfinished(stages: Mapping[Stage, Path], done: Mapping[Stage, Any]) -> str:
    names = [stage.name for stage in stages if stage not in done]
    return f"Not finished: {', '.join(names)}. `yolo-compress run` with this recipe goes on from here."


def _class_rows(models: Mapping[str, Accuracy]) -> Rows:
    first = next(iter(models.values()))
    header = ["class", "objects"]
    for name in models:
        header += [f"AP50 {name}", f"AP {name}"]
    rows = []
    for index, entry in enumerate(first.per_class):
        cells = [entry.name, str(entry.objects)]
        for accuracy in models.values():
            cells += [percent(accuracy.per_class[index].ap50), percent(accuracy.per_class[index].ap)]
        rows.append(cells)
    return Rows(header, rows)


def _file_rows(folder: Path) -> Rows:
    """Show what each delivered file is, and what its precision costs, as its card says."""
    rows = []
    for name in files.read_json(folder / EXPORTS).get("delivered", {}).get("files", {}):
        card = read_card(folder / name)
        deviation, engines = card["deviation_from_torch"], card["engines"]
        rows.append(
            [
                name,
                card["precision"],
                card["head"],
                f"{(folder / name).stat().st_size / 1e6:.1f}",
                f"{deviation['box_px']:.2g}",
                f"{deviation['score']:.2g}",
                percent(card["accuracy"]["ap50"]),
                percent(card["accuracy"]["ap"]),
                ", ".join(f"{engine['backend']} {engine['version']}" for engine in engines) or "-",
            ]
        )
    return Rows(
        ("file", "precision", "head", "MB", "off torch, px", "in score", "AP50", "AP", "built by"),
        rows,
        "Off torch: the largest difference over the 100 best anchors of real images (int8: the mean of the "
        "worst image).",
    )


def _pictures(folder: Path, recipe: Recipe, models: Mapping[str, Path], names: Sequence[str]) -> PagePart:
    """Show the same images with the ground truth and with what the first and the last model see."""
    images = spread(read_split(folder / "data.yaml", recipe.evaluate.split).images, PICTURES_SHOWN)
    frames = [read_image(image) for image in images]
    truths: list[GroundTruth] = [
        read_ground_truth(path, names, frame.shape[1], frame.shape[0])
        for path, frame in zip(images, frames, strict=True)
    ]
    rows = [
        [draw_boxes(frame, truth.boxes, truth.class_ids, None, names)]
        for frame, truth in zip(frames, truths, strict=True)
    ]
    for place in models.values():
        detector = Detector.load(place / ONNX)
        for frame, row in zip(frames, rows, strict=True):
            found = detector.detect([frame])[0]
            boxes = found.boxes.astype(float)
            boxes[:, 2:] -= boxes[:, :2]
            row.append(draw_boxes(frame, boxes, found.class_ids, found.scores, names))
    titles = [[f"{title}, {image.name}" for title in ("ground truth", *models)] for image in images]
    return PagePart(
        "What is seen",
        legend=class_legend(names),
        pictures=[photo(sheet(rows, titles), "The same images with the ground truth and each model's boxes")],
        note=f"Images spread evenly over the split {recipe.evaluate.split!r}; boxes from the model card's "
        "score threshold on.",
    )


def _channels(before: Path, after: Path) -> dict[str, tuple[int, int]]:
    """Return each convolution's channels in two checkpoints of one architecture."""
    small = {
        name: m.conv.out_channels for name, m in load_model(after).named_modules() if isinstance(m, Conv)
    }
    return {
        name.removeprefix("model."): (module.conv.out_channels, small[name])
        for name, module in load_model(before).named_modules()
        if isinstance(module, Conv) and name in small
    }


def _embedded(path: Path) -> PagePicture:
    return PagePicture(
        "BatchNorm scales", "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    )


def _made(folder: Path, documents: Sequence[tuple[str, Path]]) -> PagePart:
    commands = folder / COMMANDS
    return PagePart(
        "How it was made",
        code=commands.read_text(encoding="utf-8").strip() if commands.is_file() else "",
        details=[(name, path.read_text(encoding="utf-8")) for name, path in documents],
    )
