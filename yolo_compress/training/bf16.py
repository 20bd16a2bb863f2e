"""Mixed precision on a CPU: which instructions there are, and a loss that stays in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class FullPrecisionLoss:
    """Ultralytics' detection loss in fp32, whatever type a model under autocast answers in."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    def __call__(
        self, predictions: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the wrapped loss does."""
        with torch.autocast("cpu", enabled=False):
            loss, items = self._loss(_in_fp32(predictions), batch)
        return loss, items


def _in_fp32(value: Any) -> Any:
    """Return Detect's answer with every tensor in it as fp32."""
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _in_fp32(item) for key, item in value.items()}
    return type(value)(_in_fp32(item) for item in value) if isinstance(value, (list, tuple)) else value


def bf16_instructions() -> list[str]:
    """Return which instructions for bf16 this machine's processor has, by Linux's names; most have none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
