"""What a replay came to: how many frames were answered, and how old they were then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CameraSummary:
    """One camera's share of a replay.

    Attributes:
        images: its image topic.
        detections: where it was answered.
        frames: how many images were published.
        answered: how many of them have detections.
        age_p50_ms: from the publication of an image to the arrival of its detections, the median; None where
            nothing was answered.
        age_p95_ms: likewise, which 95 % do not exceed.
    """

    images: str
    detections: str
    frames: int
    answered: int
    age_p50_ms: float | None
    age_p95_ms: float | None

    @property
    def dropped(self) -> int:
        """Images without detections: unreadable, or newer ones took their place."""
        return self.frames - self.answered


def summarise(
    played: Mapping[str, Any], recorded: Mapping[str, Any], answers: Mapping[str, str]
) -> list[CameraSummary]:
    """Match answers with frames by their stamps.

    Args:
        played: what ``play_images --summary`` wrote.
        recorded: what ``record_bag --summary`` wrote.
        answers: of each image topic the topic that answers it.
    """
    cameras = []
    for images, detections in answers.items():
        frames = played["published"].get(images, [])
        published_ns = {stamp: sent for _, stamp, sent in frames}
        arrived_ns: dict[int, int] = {}
        for stamp, arrived in recorded["arrivals"].get(detections, []):
            if stamp in published_ns:
                arrived_ns.setdefault(stamp, arrived)
        ages_ms = [(arrived - published_ns[stamp]) / 1e6 for stamp, arrived in arrived_ns.items()]
        p50, p95 = (float(value) for value in np.quantile(ages_ms, (0.5, 0.95))) if ages_ms else (None, None)
        cameras.append(CameraSummary(images, detections, len(frames), len(arrived_ns), p50, p95))
    return cameras


def summary_lines(cameras: list[CameraSummary], bag: Path) -> str:
    """Say it in lines for the log."""
    lines = []
    for camera in cameras:
        line = (
            f"{camera.images}: {camera.frames} frames, {camera.answered} with detections, {camera.dropped} "
            "without (unreadable, or newer ones took their place)"
        )
        if camera.age_p50_ms is not None:
            line += f"; frame age p50 {camera.age_p50_ms:.0f} ms, p95 {camera.age_p95_ms:.0f} ms"
        lines.append(line)
    return "\n".join([*lines, f"recorded in {bag}"])


def write_summary(folder: Path, answers: Mapping[str, str]) -> str:
    """Read what player and recorder wrote into a folder, write ``summary.json`` there, and say it in words.

    Args:
        folder: of the replay; it holds ``player.json``, ``recorder.json`` and ``bag``.
        answers: of each image topic the topic that answers it.

    Raises:
        OSError: one of the files is not there: player or recorder failed.
    """
    played = json.loads((folder / "player.json").read_text())
    recorded = json.loads((folder / "recorder.json").read_text())
    cameras = summarise(played, recorded, answers)
    (folder / "summary.json").write_text(
        json.dumps([{**asdict(camera), "dropped": camera.dropped} for camera in cameras], indent=1) + "\n"
    )
    return summary_lines(cameras, folder / "bag")
