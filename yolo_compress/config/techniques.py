"""The sections of a recipe's stages, one a technique."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from yolo_compress.config.base import Section, StageSection, Training


class Dense(StageSection):
    """A dense detector: a checkpoint, or an architecture, and how it is trained."""

    model: str = Field(
        description="an Ultralytics checkpoint (.pt), or an architecture (yolov8n.yaml) to train from scratch"
    )
    width: float | None = Field(
        None,
        gt=0,
        description="width multiple of the architecture instead of its letter's (n has 0.25): a narrower "
        "sibling where Ultralytics has no smaller letter",
    )
    train: Training | None = Field(
        None, description="how to train it; leave out to take a checkpoint as it is"
    )

    def fit(self, recipe: Any) -> None:
        """See that a student stands alone and is distilled into."""
        if self is not recipe.student:
            return
        if recipe.sparsify or recipe.prune:
            raise ValueError(
                "`student` takes the place of the pruned model: set sparsify and prune to null, or drop it"
            )
        if recipe.distill is None:
            raise ValueError("`student` is there to be distilled into: say in `distill` how")

    @model_validator(mode="after")
    def _trained_or_checkpoint(self) -> Dense:
        if Path(self.model).suffix not in (".pt", ".yaml", ".yml"):
            raise ValueError(
                f"the model {self.model!r} is neither a checkpoint (.pt) nor an architecture (.yaml)"
            )
        if self.train is None and not self.model.endswith(".pt"):
            raise ValueError(
                f"the model {self.model!r} has no weights yet: say in `train` how to train it, or name a .pt"
            )
        if self.width is not None and self.model.endswith(".pt"):
            raise ValueError(
                f"`width` builds a new architecture, but {self.model!r} is a checkpoint of settled width"
            )
        return self


class Sparsify(StageSection):
    """Training on the way to the pruning: what will be removed fades, or a penalty shows what could be."""

    published: ClassVar[Mapping[str, Any]] = {"mode": "proximal", "schedule": "decay"}
    mode: Literal["fade", "proximal", "subgradient"] = Field(
        "fade",
        description="fade: `prune` says what will go, and the BatchNorm scales and shifts of exactly these "
        "channels fall to 0 step by step, so that removing them changes nothing. proximal: an L1 penalty on "
        "all scales, a soft threshold after each step; subgradient: the same as a gradient, as published, "
        "for SGD. Left out: fade, or proximal where a strength is given",
    )
    start: int = Field(
        0, ge=0, description="fade: whole epochs before it; the channels are chosen when it starts"
    )
    duration: float | None = Field(
        None, gt=0, description="fade: epochs until they are at 0; left out: three quarters of what there is"
    )
    distill: bool = Field(
        False,
        description="fade: under the model that it starts from, in the way that `distill` says",
    )
    strength: float | None = Field(
        None,
        gt=0,
        description="weight s0 of the penalty beside the gradient; left out: such that a scale of 1 that "
        "nothing needs is at 0 in the end (steps x mean learning rate x s0 = 1)",
    )
    schedule: Literal["decay", "constant", "ramp"] = Field(
        "decay",
        description="weight in epoch e (from 0) of E: s0 (1 - 0.9 e/E) as published, s0, or s0 (e + 1)/E",
    )
    train: Training

    def in_force(self) -> dict[str, Any]:
        """Return the settings that the mode looks at."""
        used = {"start", "duration", "distill"} if self.mode == "fade" else {"strength", "schedule"}
        return self.model_dump(mode="json", include={"mode", "train", *used})

    @model_validator(mode="before")
    @classmethod
    def _a_strength_means_a_penalty(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content.get("strength") is not None:
            return {"mode": "proximal", **content}
        return content

    def fit(self, recipe: Any) -> None:
        """See that something is pruned afterwards."""
        if not recipe.prune:
            raise ValueError("`sparsify` prepares a model for pruning: give `prune`, or leave it out")

    @property
    def fade_epochs(self) -> float:
        """How many epochs the fading takes."""
        return 0.75 * (self.train.epochs - self.start) if self.duration is None else self.duration

    @model_validator(mode="after")
    def _fits_the_training(self) -> Sparsify:
        if self.mode == "subgradient" and self.train.optimizer != "SGD":
            raise ValueError(
                f"sparsify.mode subgradient does nothing with {self.train.optimizer}, which divides every "
                "gradient by its own size; set sparsify.train.optimizer: SGD, or sparsify.mode: proximal"
            )
        if self.mode == "fade" and not 0 < self.start + self.fade_epochs <= self.train.epochs:
            raise ValueError(
                f"sparsify: a fading of {self.fade_epochs:g} epochs from epoch {self.start} on does not end "
                f"within the {self.train.epochs} epochs of sparsify.train; make start or duration smaller"
            )
        return self


class PruneTarget(Section):
    """What pruning leaves, as a share of the dense model's: exactly one of these."""

    params: float | None = Field(None, gt=0, lt=1, description="parameters")
    macs: float | None = Field(None, gt=0, lt=1, description="multiply-accumulates")
    latency: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="time from image to boxes, measured on this machine (prune.backend) or on prune.board",
    )
    channels: float | None = Field(
        None, gt=0, lt=1, description="channels of each layer (0.5 is the paper's); with scope uniform only"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> PruneTarget:
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


class Prune(StageSection):
    """Removal of channels until a target is met."""

    published: ClassVar[Mapping[str, Any]] = {"importance": "gamma", "scope": "uniform", "sensitivity": False}

    target: PruneTarget
    importance: Literal["lamp", "lamp_gamma", "taylor", "gamma", "gamma_group", "l1", "l2", "random"] = Field(
        "gamma_group",
        description="which channels go first: lamp (weights as a share of those that outlive them in the "
        "layer; what wins with scope global), the same with BatchNorm scales, first-order change of the loss "
        "on calibration_images, smallest mean BatchNorm scale over coupled layers (network slimming), its "
        "group norm (what the penalty shrinks), weights, or chance as a control",
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
    calibration_images: int = Field(16, ge=1, description="training images for sensitivity and taylor")
    round_to: Literal[8, 16, 32] = Field(
        8, description="channels kept are a multiple of this; 32 for int8, whose tensor cores take so many"
    )
    min_width: int = Field(8, ge=1, description="channels that every layer keeps")
    max_ratio: float = Field(
        0.9, gt=0, lt=1, description="no layer loses more than this share of its channels"
    )
    backend: str = Field(
        "auto", description="of yolo_trt_node.detector, that a latency target is measured with"
    )
    board: str = Field(
        "",
        description="where a latency target is measured: empty for this machine, or a board on which "
        "time_model runs, http://HOST:8765 (with ?precision=fp16&input_shape=384x640 after it, if wanted)",
    )

    def in_force(self) -> dict[str, Any]:
        """Leave the board out where none is asked: what was done before there were any stays done."""
        return {key: value for key, value in super().in_force().items() if key != "board" or value}

    @field_validator("board")
    @classmethod
    def _board_is_an_address(cls, value: str) -> str:
        if value and not value.startswith("http://"):
            raise ValueError(f"prune.board is {value!r}; use http://HOST:8765")
        return value

    @field_validator("backend")
    @classmethod
    def _backend_exists(cls, value: str) -> str:
        # When it is asked for: a recipe is read on machines where the detector's packages are missing.
        from yolo_trt_node.detector.options import BACKENDS

        if value not in ("auto", *BACKENDS):
            raise ValueError(f"there is no backend {value!r}; use auto, {', '.join(BACKENDS)}")
        return value

    @model_validator(mode="after")
    def _scope_fits(self) -> Prune:
        if self.importance == "taylor" and self.scope == "uniform":
            raise ValueError("prune.importance taylor compares layers: set prune.scope: global")
        if self.sensitivity and self.scope != "global":
            raise ValueError("prune.sensitivity chooses each layer's share: set prune.scope: global")
        if self.target.channels is not None and self.scope != "uniform":
            raise ValueError(
                "prune.target.channels is a share of each layer: set prune.scope: uniform, or give "
                "prune.target.params or prune.target.macs"
            )
        return self


NotNegative = Annotated[float, Field(ge=0)]


class Distill(StageSection):
    """Fine-tuning of the pruned model under the teacher."""

    earlier_keys: ClassVar[Mapping[str, str]] = {"normalise": "normalize"}
    published: ClassVar[Mapping[str, Any]] = {"method": "cwd"}
    method: (
        Literal["cwd", "logits", "ultralytics", "none"]
        | Annotated[list[Literal["cwd", "logits"]], Field(min_length=1, max_length=2)]
    ) = Field(
        "cwd",
        description="channel-wise distillation of the maps that feed Detect, Detect's own outputs, or "
        "[cwd, logits] for both; as controls: Ultralytics' distillation, plain fine-tuning",
    )
    weight: NotNegative | list[NotNegative] | None = Field(
        None,
        description="of the distillation loss beside the detection loss, one for each method; left out: 1, "
        "and with method ultralytics what Ultralytics has chosen",
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="softens the distributions that cwd and logits compare; left out: 4 in cwd, 1 in logits",
    )
    levels: list[Annotated[float, Field(ge=0)]] = Field(
        [1.0, 1.0, 1.0], min_length=3, max_length=3, description="weights of the maps P3, P4, P5 in cwd"
    )
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
    normalize: Literal["none", "batch", "instance"] = Field(
        "batch",
        description="what brings the maps that cwd compares to unit variance: nothing, the statistics of "
        "each channel over the batch, or those over each image",
    )
    warmup_epochs: int = Field(0, ge=0, description="first epochs over which the weight rises")
    off_last_epochs: int = Field(0, ge=0, description="last epochs without distillation")
    train: Training

    @field_validator("method", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("cwd", "logits", "ultralytics", "none"):
            raise ValueError(
                f"input should be 'cwd', 'logits', 'ultralytics' or 'none', not {value!r}; or [cwd, logits]"
            )
        return value

    def in_force(self) -> dict[str, Any]:
        """Return the settings that the method looks at."""
        used: dict[str, set[str]] = {
            "none": set(),
            "ultralytics": {"weight"},
            "logits": {"weight", "temperature", "warmup_epochs", "off_last_epochs"},
            "cwd": set(Distill.model_fields),
        }
        looked_at = set().union(*(used[method] for method in self.methods))
        dump = self.model_dump(mode="json", include={"method", "train", *looked_at})
        if "normalize" in dump:
            # Stages are known by a hash of this: those made under the earlier spelling stay done.
            dump["normalise"] = dump.pop("normalize")
        if "temperature" not in looked_at:
            return dump
        softening = [self.softening(method) for method in self.methods]
        return {**dump, "temperature": softening if len(softening) > 1 else softening[0]}

    def fit(self, recipe: Any) -> None:
        """See that there is a smaller model."""
        if not (recipe.prune or recipe.student):
            raise ValueError("`distill` needs a smaller model to train: give `prune` (or `student`)")

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, or each of several."""
        return tuple(self.method) if isinstance(self.method, list) else (self.method,)

    @property
    def weights(self) -> tuple[float, ...]:
        """A weight for each of `methods`."""
        if isinstance(self.weight, list):
            return tuple(self.weight)
        return (1.0 if self.weight is None else self.weight,) * len(self.methods)

    def softening(self, method: str) -> float:
        """Return the temperature in force; cwd's own is what the ablation on generated scenes favours."""
        if self.temperature is not None:
            return self.temperature
        return 4.0 if method == "cwd" else 1.0

    @model_validator(mode="after")
    def _some_distillation(self) -> Distill:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"distill.method names one twice: {', '.join(self.methods)}")
        if isinstance(self.weight, list) and len(self.weight) != len(self.methods):
            raise ValueError(
                f"distill.weight has {len(self.weight)} values for the methods {', '.join(self.methods)}"
            )
        if not any(self.levels):
            raise ValueError("distill.levels are all 0; for no distillation say method: none")
        if self.warmup_epochs + self.off_last_epochs >= self.train.epochs:
            raise ValueError(
                f"distill.warmup_epochs {self.warmup_epochs} and distill.off_last_epochs "
                f"{self.off_last_epochs} leave nothing of the {self.train.epochs} epochs"
            )
        return self
