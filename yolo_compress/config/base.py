"""What every section of a recipe is, what a stage's is beside that, and how a training is described."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The augmentations of Ultralytics that make sense for images seen from above; names and units are
# Ultralytics'.
Augmentation = Literal[
    "mosaic", "mixup", "scale", "translate", "degrees", "fliplr", "flipud", "hsv_h", "hsv_s", "hsv_v"
]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Keys that earlier versions spelled otherwise: theirs, and the one of today.
    earlier_keys: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_keys(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        for earlier, key in cls.earlier_keys.items():
            if earlier in content and key not in content:
                warnings.warn(f"the key {earlier} is now called {key}", FutureWarning, stacklevel=2)
                content = {key if name == earlier else name: value for name, value in content.items()}
        return content

    def in_force(self) -> dict[str, Any]:
        """Return the settings that decide what comes out, as plain values."""
        return self.model_dump(mode="json")


SectionType = TypeVar("SectionType", bound=Section)


class StageSection(Section):
    """The section of a stage: what the arms of a comparison may differ in.

    Attributes:
        published: what ``recipe: paper`` sets in it, whatever it says.
    """

    published: ClassVar[Mapping[str, Any]] = {}

    def fit(self, recipe: Any) -> None:
        """See that the recipe's other sections suit this one.

        Args:
            recipe: the `Recipe` that it is a part of.

        Raises:
            ValueError: they do not.
        """


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


def required(section: SectionType | None) -> SectionType:
    """Return the section of a stage that is at work, which therefore is not left out.

    Raises:
        ValueError: it is.
    """
    if section is None:
        raise ValueError("the recipe leaves out the stage that is at work")
    return section
