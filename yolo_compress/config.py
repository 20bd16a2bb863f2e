"""The recipe: everything that a run does, typed and checked before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from yolo_compress.errors import UserError

# The augmentations of Ultralytics that make sense for images seen from above; names and units are
# Ultralytics'.
Augmentation = Literal[
    "mosaic", "mixup", "scale", "translate", "degrees", "fliplr", "flipud", "hsv_h", "hsv_s", "hsv_v"
]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scenes(Section):
    """Aerial scenes to generate."""

    train: int = Field(ge=1, description="images to train on")
    val: int = Field(ge=1, description="images to measure on; never trained on")
    seed: int = Field(0, ge=0, description="seed of the scenes; train and val differ in any case")
    width: int = Field(640, ge=32, description="of the images, in pixels")
    height: int = Field(640, ge=32, description="of the images, in pixels")
    scale: float = Field(
        1.0,
        gt=0,
        description="pixels of these images per pixel of the camera's frames that `camera` describes",
    )
    camera: dict[str, Any] = Field(
        {},
        description="view and surroundings: fields of yolo_compress.data.scenes.SceneSpec",
    )


class Data(Section):
    """Where the images come from: exactly one of the two."""

    yaml: Path | None = Field(None, description="an Ultralytics data set description")
    scenes: Scenes | None = Field(None, description="aerial scenes to generate into the run's folder")

    @model_validator(mode="after")
    def _exactly_one(self) -> Data:
        if (self.yaml is None) == (self.scenes is None):
            raise ValueError(
                "give exactly one of data.yaml (a data set you have) and data.scenes (generated)"
            )
        return self


class Training(Section):
    """One training by Ultralytics' trainer."""

    epochs: int = Field(ge=1, description="passes over the training images")
    batch: int = Field(ge=1, description="images a forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes an optimizer step")
    optimizer: Literal["AdamW", "SGD"] = Field("AdamW", description="AdamW learns from scratch in few steps")
    lr: float = Field(gt=0, description="learning rate after warm-up")
    lr_final: float = Field(0.01, gt=0, le=1, description="last learning rate, as a share of lr")
    momentum: float = Field(0.937, ge=0, lt=1, description="momentum of SGD, first beta of AdamW")
    weight_decay: float = Field(0.0005, ge=0, description="of convolution weights; never of BatchNorm scales")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs over which the learning rate rises")
    close_mosaic: int = Field(0, ge=0, description="last epochs without mosaic")
    augment: dict[Augmentation, float] = Field({}, description="augmentations where not Ultralytics' default")


class Teacher(Section):
    """The dense detector: starting point of the compression and teacher of the distillation."""

    model: str = Field(
        description="an Ultralytics checkpoint (.pt), or an architecture (yolov8n.yaml) to train from scratch"
    )
    train: Training | None = Field(
        None, description="how to train it; leave out to take a checkpoint as it is"
    )

    @model_validator(mode="after")
    def _trained_or_checkpoint(self) -> Teacher:
        if Path(self.model).suffix not in (".pt", ".yaml", ".yml"):
            raise ValueError(
                f"teacher.model {self.model!r} is neither a checkpoint (.pt) nor an architecture (.yaml)"
            )
        if self.train is None and not self.model.endswith(".pt"):
            raise ValueError(
                f"teacher.model {self.model!r} has no weights yet: say in teacher.train how to train it"
            )
        return self


class Sparsify(Section):
    """Training with a penalty on the BatchNorm scales of the channels that pruning can remove."""

    strength: float = Field(
        gt=0,
        description="weight s0 of the L1 penalty beside the gradient; in epoch e of E it is s0 (1 - 0.9 e/E)",
    )
    train: Training


class Prune(Section):
    """Removal of channels, the same share in each layer."""

    macs: float = Field(
        gt=0, lt=1, description="multiply-accumulates to keep, as a share of the dense model's"
    )
    round_to: Literal[1, 4, 8, 16] = Field(8, description="channels kept are a multiple of this")


class Distill(Section):
    """Fine-tuning of the pruned model with channel-wise distillation from the teacher."""

    temperature: float = Field(1.0, gt=0, description="softens the spatial distributions that are compared")
    weight: float = Field(
        ge=0, description="of the distillation loss beside the detection loss; 0 is plain fine-tuning"
    )
    train: Training


class Evaluate(Section):
    """How every stage's exported model is measured."""

    split: str = Field("val", description="split of the data set to measure on")
    iou_threshold: float = Field(
        0.7, gt=0, le=1, description="of the suppression, and the default in the model card"
    )
    score_threshold: float = Field(
        0.25, gt=0, le=1, description="default in the model card; measured from 0.001 on"
    )
    latency_rounds: int = Field(
        10, ge=1, description="rounds of the latency measurement, models in turn in each"
    )


class Export(Section):
    """The files that a run delivers, besides the fp32 one of each stage."""

    precision: list[Literal["fp32", "fp16", "int8"]] = Field(
        ["fp32"],
        min_length=1,
        description="one file for each; int8 is calibrated on images of the data's split train",
    )
    head: Literal["raw", "end2end"] = Field(
        "raw", description="end2end holds the suppression, as ONNX's NonMaxSuppression"
    )
    dynamic: Literal["all", "batch", "none"] = Field(
        "all", description="what stays free: batch and size, the batch alone, nothing"
    )
    batch: int = Field(1, ge=1, description="images at once where nothing stays free")
    opset: int = Field(17, ge=13, le=17, description="ONNX operator set; TensorRT 8.5 reads up to 17")
    max_det: int = Field(300, ge=1, description="boxes an image that an end2end head gives")
    calibration_images: int = Field(64, ge=1, description="images that int8 is calibrated on")
    verify: list[Literal["tensorrt_rtx"]] = Field(
        [], description="builders that must make an engine of each file; they need no GPU"
    )

    @model_validator(mode="after")
    def _possible(self) -> Export:
        if len(set(self.precision)) < len(self.precision):
            raise ValueError(f"precision names one twice: {', '.join(self.precision)}")
        if self.batch > 1 and self.dynamic != "none":
            raise ValueError("batch is for dynamic: none; elsewhere the batch is free")
        if self.head == "end2end" and "tensorrt_rtx" in self.verify:
            raise ValueError(
                "TensorRT-RTX cannot build an end2end head (it has no NonMaxSuppression): "
                "take head: raw for engines, or leave verify out"
            )
        return self


class Recipe(Section):
    """A whole compression run."""

    output: Path = Field(description="folder of the run")
    seed: int = Field(0, ge=0, description="seed of all training")
    device: str = Field("cpu", description="as Ultralytics names it: cpu, 0, mps")
    amp: bool = Field(False, description="mixed precision, on devices that have it")
    threads: int = Field(2, ge=1, description="CPU threads")
    workers: int = Field(0, ge=0, description="processes that load images")
    cache: bool = Field(True, description="keep the decoded images in memory")
    input_size: int = Field(640, description="side of the square network input in pixels, a multiple of 32")
    data: Data
    teacher: Teacher
    sparsify: Sparsify
    prune: Prune
    distill: Distill
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate.model_validate({}))
    export: Export = Field(default_factory=lambda: Export.model_validate({}))

    @field_validator("input_size")
    @classmethod
    def _multiple_of_stride(cls, value: int) -> int:
        if value < 32 or value % 32:
            raise ValueError(f"{value} is no positive multiple of 32, the network's stride")
        return value


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: YAML file.
        overrides: ``key=value`` with dots between nested keys and a YAML value, as in
            ``distill.train.epochs=5``.

    Raises:
        UserError: the file cannot be read, or a key or value is wrong; the message names each and what is
            allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"the recipe {path} must be a mapping of keys to values, as in config/compress/demo.yaml"
        )
    for override in overrides:
        _override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"the recipe {path} does not fit:\n" + "\n".join(_explain(error))) from error


def _override(content: dict[str, Any], text: str) -> None:
    """Set the nested key that ``text`` (``key.key=value``) names."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(
            f"override {text!r} is not of the form key=value, for instance distill.train.epochs=5"
        )
    *parents, last = name.split(".")
    section: Any = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UserError(f"override {text!r}: {parent} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {text!r}: the value is no valid YAML") from error


def _explain(error: ValidationError) -> list[str]:
    """Turn each of pydantic's findings into one line that names the key and what is allowed there."""
    lines = []
    for finding in error.errors():
        location = finding["loc"]
        key = ".".join(str(part) for part in location if part != "[key]")
        if finding["type"] == "extra_forbidden":
            allowed = _keys_of(location[:-1])
            near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            lines.append(f"  {key}: unknown key; {hint}allowed here: {', '.join(allowed)}")
        elif finding["type"] == "missing":
            lines.append(f"  {key}: missing ({_description_of(location)})")
        elif finding["type"] == "value_error":
            lines.append(f"  {key + ': ' if key else ''}{finding['ctx']['error']}")
        else:
            message = finding["msg"][0].lower() + finding["msg"][1:]
            lines.append(f"  {key}: {message}, not {finding['input']!r}")
    return lines


def _section_at(location: Sequence[int | str]) -> type[BaseModel]:
    """Return the section class that lies at a location of the recipe."""
    section: type[BaseModel] = Recipe
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return section


def _keys_of(location: Sequence[int | str]) -> list[str]:
    return list(_section_at(location).model_fields)


def _description_of(location: Sequence[int | str]) -> str:
    field = _section_at(location[:-1]).model_fields[str(location[-1])]
    return field.description or f"a section with {', '.join(_keys_of(location))}"
