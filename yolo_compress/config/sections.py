"""A recipe as a whole: everything that a run does, typed and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from yolo_compress.config.base import Section, StageSection
from yolo_compress.config.techniques import Dense, Distill, Prune, Sparsify


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
        description="view and surroundings: fields of aerial_scenes.scenes.SceneSpec",
    )


class Data(Section):
    """Where the images come from: exactly one of the two."""

    yaml: Path | None = Field(None, description="an Ultralytics data set description")
    scenes: Scenes | None = Field(None, description="aerial scenes to generate into the run's folder")
    limit: int | None = Field(
        None, ge=1, description="images of each split to use, spread evenly over it; for short trials"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Data:
        if (self.yaml is None) == (self.scenes is None):
            raise ValueError(
                "give exactly one of data.yaml (a data set you have) and data.scenes (generated)"
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
        return self


class Recipe(Section):
    """A whole compression run: the dense detector, then each stage that is not left out."""

    output: Path = Field(description="folder of the run; {model} and {input_size} stand for the recipe's own")
    seed: int = Field(0, ge=0, description="seed of all training")
    device: str = Field("cpu", description="as Ultralytics names it: cpu, 0, mps; 0,1 for two GPUs")
    amp: bool = Field(False, description="mixed precision: fp16 on a GPU, bf16 on a CPU that computes in it")
    threads: int = Field(2, ge=1, description="CPU threads")
    workers: int = Field(0, ge=0, description="processes that load images")
    cache: bool = Field(True, description="keep the decoded images in memory")
    input_size: int = Field(640, description="side of the square network input in pixels, a multiple of 32")
    data: Data
    teacher: Dense = Field(
        description="the dense detector: what is compressed, and the distillation's teacher"
    )
    sparsify: Sparsify | None = Field(None, description="leave out to prune the dense model as it is")
    prune: Prune | None = Field(None, description="leave out to prune nothing")
    student: Dense | None = Field(
        None, description="a smaller dense detector to distill into, in place of a pruned one"
    )
    distill: Distill | None = Field(None, description="training after the pruning, or of the student")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate.model_validate({}))
    export: Export = Field(default_factory=lambda: Export.model_validate({}))
    recipe: Literal["best", "paper"] = Field(
        "best",
        description="paper: whatever the sections say, sparsify, prune and distill do as arXiv 2509.12918 "
        "(decaying L1 penalty, the smallest gammas of each layer alike, cwd)",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("recipe") != "paper":
            return content
        changed = {
            key: {**content[key], **section.published}
            for key, section in cls.stage_sections().items()
            if isinstance(content.get(key), Mapping)
        }
        return {**content, **changed}

    @field_validator("device", mode="before")
    @classmethod
    def _number_is_a_device(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("input_size")
    @classmethod
    def _multiple_of_stride(cls, value: int) -> int:
        if value < 32 or value % 32:
            raise ValueError(f"{value} is no positive multiple of 32, the network's stride")
        return value

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        for key in self.stage_sections():
            if section := getattr(self, key):
                section.fit(self)
        return self

    @classmethod
    def stage_sections(cls) -> dict[str, type[StageSection]]:
        """Return the keys of the stages' sections, and their classes."""
        found = {}
        for key, field in cls.model_fields.items():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, StageSection):
                    found[key] = kind
        return found

    @property
    def epochs(self) -> int:
        """Epochs on the way to the resulting weights; those of a teacher that is no ancestor do not count."""
        keys = [key for key in self.stage_sections() if key != "teacher" or not self.student]
        trainings = [getattr(getattr(self, key), "train", None) for key in keys]
        return sum(training.epochs for training in trainings if training is not None)


class Comparison(Section):
    """Several ways to a detector, at one protocol and one budget of epochs."""

    base: Path = Field(description="the recipe that all arms share; relative to this file")
    output: Path = Field(description="folder of the comparison")
    seeds: tuple[int, ...] = Field(
        min_length=1, description="every arm is trained once with each; the spread is over these"
    )
    set: dict[str, Any] = Field({}, description="changes to the base for all arms")
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="name and changes to the base: keys of teacher, student, sparsify, prune and distill, or "
        "input_size, at which an arm is trained and measured",
    )
    ratio_to: str = Field(description="the arm whose latency and cost the others' are compared with")
    verdicts: tuple[tuple[str, str], ...] = Field(
        (), description="pairs of arms; for each a sentence says which is better, if seeds and images tell"
    )
    left_out: tuple[str, ...] = Field(
        (), description="classes too rare to judge by: shown, but outside of AP50 in table and verdicts"
    )
    records: Path | None = Field(
        None,
        description="folder in which the records are kept without the models (`--keep`), and from which they "
        "are shown where the output folder is not there; relative to this file",
    )
    parts: tuple[str, ...] = Field(
        (),
        description="splits of the data that are parts of the one measured on, as flights are: the arms are "
        "compared on each too",
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Comparison:
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice, which would feign less spread")
        for name in (self.ratio_to, *(arm for pair in self.verdicts for arm in pair)):
            if name not in self.arms:
                raise ValueError(f"there is no arm {name!r}; the arms are {', '.join(self.arms)}")
        return self
