"""The recipe: everything that a run does, typed and checked before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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

    strength: float = Field(gt=0, description="weight s0 of the penalty beside the gradient")
    schedule: Literal["decay", "constant", "ramp"] = Field(
        "decay",
        description="weight in epoch e (from 0) of E: s0 (1 - 0.9 e/E) as published, s0, or s0 (e + 1)/E",
    )
    mode: Literal["proximal", "subgradient"] = Field(
        "proximal",
        description="soft threshold after each step, which reaches 0, or a gradient, as published (SGD only)",
    )
    train: Training

    @model_validator(mode="after")
    def _subgradient_needs_sgd(self) -> Sparsify:
        if self.mode == "subgradient" and self.train.optimizer != "SGD":
            raise ValueError(
                f"sparsify.mode subgradient does nothing with {self.train.optimizer}, which divides every "
                "gradient by its own size; set sparsify.train.optimizer: SGD, or sparsify.mode: proximal"
            )
        return self


class Target(Section):
    """What pruning leaves, as a share of the dense model's: exactly one of these."""

    params: float | None = Field(None, gt=0, lt=1, description="parameters")
    macs: float | None = Field(None, gt=0, lt=1, description="multiply-accumulates")
    latency: float | None = Field(
        None, gt=0, lt=1, description="time from image to boxes, measured on this machine (prune.backend)"
    )
    channels: float | None = Field(
        None, gt=0, lt=1, description="channels of each layer (0.5 is the paper's); with scope uniform only"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Target:
        if len({key for key, value in self if value is not None}) != 1:
            raise ValueError(
                "prune.target: give exactly one of params, macs, latency and channels, "
                "for instance prune.target.macs=0.33"
            )
        return self

    @property
    def kind(self) -> str:
        """Which of the four is given."""
        return next(key for key, value in self if value is not None)

    @property
    def share(self) -> float:
        """Its value."""
        return next(value for _, value in self if value is not None)


class Prune(Section):
    """Removal of channels until a target is met."""

    target: Target
    importance: Literal["gamma", "gamma_group", "l1", "l2", "random"] = Field(
        "gamma_group",
        description="which channels go first: smallest mean BatchNorm scale over coupled layers (network "
        "slimming), its group norm (what sparsity training shrinks), weights, or chance as a control",
    )
    scope: Literal["uniform", "global"] = Field(
        "uniform",
        description="the same share of each layer (the paper), or one ranking over all layers",
    )
    sensitivity: bool = Field(
        False,
        description="share the budget out by what the loss says about each layer, measured on training "
        "images; with scope global only",
    )
    calibration_images: int = Field(16, ge=1, description="training images that sensitivity is measured on")
    round_to: Literal[8, 16] = Field(8, description="channels kept are a multiple of this; 16 for int8")
    min_width: int = Field(8, ge=1, description="channels that every layer keeps")
    max_ratio: float = Field(
        0.9, gt=0, lt=1, description="no layer loses more than this share of its channels"
    )
    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime", "openvino"] = Field(
        "auto", description="of yolo_trt_node.detector, that a latency target is measured with"
    )

    @model_validator(mode="after")
    def _scope_fits(self) -> Prune:
        if self.sensitivity and self.scope != "global":
            raise ValueError("prune.sensitivity chooses each layer's share: set prune.scope: global")
        if self.target.channels is not None and self.scope != "uniform":
            raise ValueError(
                "prune.target.channels is a share of each layer: set prune.scope: uniform, or give "
                "prune.target.params or prune.target.macs"
            )
        return self


class Distill(Section):
    """Fine-tuning of the pruned model under the teacher."""

    method: Literal["cwd", "logits", "ultralytics", "none"] = Field(
        "cwd",
        description="channel-wise distillation of the maps that feed Detect; or as controls: Detect's own "
        "outputs, Ultralytics' distillation, plain fine-tuning",
    )
    weight: float | None = Field(
        None,
        ge=0,
        description="of the distillation loss beside the detection loss; left out: 1, and with method "
        "ultralytics what Ultralytics has chosen",
    )
    temperature: float = Field(1.0, gt=0, description="softens the distributions that cwd and logits compare")
    levels: tuple[
        Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = Field((1.0, 1.0, 1.0), description="weights of the maps P3, P4, P5 in cwd")
    adaptive: bool = Field(
        False,
        description="re-balance the levels after each epoch of cwd: more weight where the student is "
        "farther from the teacher; their sum stays",
    )
    small_objects: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share that the cells covered by small and medium objects have at least in the spatial "
        "distributions that cwd compares; 0 is plain cwd",
    )
    normalise: Literal["none", "batch", "instance"] = Field(
        "batch",
        description="what brings the maps that cwd compares to unit variance: nothing, the statistics of "
        "each channel over the batch, or those over each image",
    )
    warmup_epochs: int = Field(0, ge=0, description="first epochs over which the weight rises")
    off_last_epochs: int = Field(0, ge=0, description="last epochs without distillation")
    train: Training

    @model_validator(mode="after")
    def _some_distillation(self) -> Distill:
        if not any(self.levels):
            raise ValueError("distill.levels are all 0; for no distillation say method: none")
        if self.warmup_epochs + self.off_last_epochs >= self.train.epochs:
            raise ValueError(
                f"distill.warmup_epochs {self.warmup_epochs} and distill.off_last_epochs "
                f"{self.off_last_epochs} leave nothing of the {self.train.epochs} epochs"
            )
        return self


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


class Recipe(Section):
    """A whole compression run."""

    output: Path = Field(description="folder of the run")
    seed: int = Field(0, ge=0, description="seed of all training")
    device: str = Field("cpu", description="as Ultralytics names it: cpu, mps, 0, or 0,1 for two")
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
