"""What all parts of the detector speak of: a model's tensors, its bounds, and why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIDE = 16_384
"""Greatest height or width of a network's input, pixels."""
MAX_PIXELS = 1 << 26
"""Greatest number of pixels (64 Mpx) that a model's fixed batch may hold."""
MAX_BATCH = 256
"""Greatest batch that a model may fix."""


class ModelError(ValueError):
    """The model file cannot be used; the message says why, and what would help."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output; a dimension that is free is ``None``."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Render as ``images float32[1, 3, ?, ?]``."""
        shape = ", ".join("?" if d is None else str(d) for d in self.shape[:8])
        return f"{self.name[:80]} {self.dtype}[{shape}]"
