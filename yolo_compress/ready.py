"""Models of a comparison made ready to fly: small files with complete cards, and the list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_compress import files
from yolo_compress.config.sections import Export
from yolo_compress.errors import UserError
from yolo_compress.export.card import CardFacts, read_card, update_card
from yolo_compress.export.deliver import MeasuredOn, deliver
from yolo_compress.run.record import CHECKPOINT, percent, read_record

SECTION = "ready"  # of the README
README = "README.md"


def make_ready(
    way: list[Path], measured_on: MeasuredOn, iou_threshold: float, name: str, folder: Path
) -> Path:
    """Export the last stage on the way to a model as fp16, and list it in the folder's README.

    Args:
        way: the folders of the stages on the way, the first the dense model's.
        measured_on: the images that it is measured on.
        iou_threshold: of the suppression.
        name: of the file, without suffix.
        folder: to write into.

    Raises:
        UserError: the model is not there.
    """
    record = read_record(way[-1])
    checkpoint = way[-1] / CHECKPOINT
    if not record or not checkpoint.is_file():
        raise UserError(f"{name}: there is no finished model in {way[-1]}")
    folder.mkdir(parents=True, exist_ok=True)
    first = read_record(way[0])
    compression: dict[str, Any] | None = None
    if len(way) > 1 and first:
        size = record["input_size"]
        compression = {
            "from": first["stage"],
            "stage": record["stage"],
            "params": [first["params"], record["params"]],
            "gmacs": {"at": [size, size], "before": first["gmacs"], "after": record["gmacs"]},
        }
    facts = CardFacts(iou_threshold=iou_threshold, compression=compression)
    settings = Export.model_validate({"precision": ["fp16"]})
    made = deliver(
        checkpoint,
        folder / f"{name}.onnx",
        settings,
        input_size=record["input_size"],
        measured_on=measured_on,
        facts=facts,
    )[0].path
    told = {
        "command": record["command"],
        "finished": record["finished"],
        "params": record["params"],
        "gmacs": record["gmacs"],
    }
    update_card(made, {"training": told})
    path = made.replace(folder / f"{name}.onnx")  # all are fp16: the card says it
    _list(folder)
    return path


def _list(folder: Path) -> None:
    """Write the table of the models with a training in their cards anew, between its marks in the README."""
    path = folder / README
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    header = "| file | input | params | GMACs | MB | AP50 | AP | on | trained by |"
    rows = [header, "|---|" + "---:|" * 6 + "---|---|"]
    for model in sorted(folder.glob("*.onnx")):
        card = read_card(model)
        if "training" not in card:
            continue
        training, accuracy = card["training"], card["accuracy"]
        rows.append(
            f"| `{model.name}` | {card['input']['width']} | {training['params'] / 1e6:.3f} M | "
            f"{training['gmacs']:.3f} | {model.stat().st_size / 1e6:.1f} | {percent(accuracy['ap50'])} | "
            f"{percent(accuracy['ap'])} | {accuracy['images']} images of {accuracy['dataset']}, "
            f"{accuracy['split']} | `{training['command']}`, {training['finished'][:10]} |"
        )
    content = "\n".join(rows) + "\n"
    written = files.with_section(text, SECTION, content)
    if written is None:
        marks = f"<!-- {SECTION} -->\n<!-- /{SECTION} -->\n"
        written = files.with_section(f"{text}\n{marks}" if text else marks, SECTION, content)
    assert written is not None
    files.write_text(path, written)
