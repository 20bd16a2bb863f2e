"""A data set and a model so small that training on them takes seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.config.sections import Recipe

from ultralytics.nn.tasks import DetectionModel  # isort: skip

NAMES = ("red", "blue")
COLORS = ((30, 30, 220), (220, 30, 30))


def write_dataset(root: Path, train: int = 8, val: int = 4, size: int = 96) -> Path:
    """Write images of red and blue squares on grey, with YOLO labels; return the description."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(90, 150, (size, size, 3)).astype(np.uint8)
            lines = []
            for class_id, color in enumerate(COLORS):
                side = int(rng.integers(16, 28))
                left, top = rng.integers(0, size - side, 2).tolist()
                cv2.rectangle(image, (left, top), (left + side - 1, top + side - 1), color, -1)
                center = ((left + side / 2) / size, (top + side / 2) / size)
                lines.append(f"{class_id} {center[0]} {center[1]} {side / size} {side / size}")
            cv2.imwrite(str(root / split / "images" / f"{index}.png"), image)
            (root / split / "labels" / f"{index}.txt").write_text("\n".join(lines))
    description = root / "squares.yaml"
    description.write_text(f"train: train/images\nval: val/images\nnames: {list(NAMES)}\n")
    return description


def make_model(
    seed: int = 0, architecture: str = "yolov8n.yaml", classes: int = len(NAMES)
) -> DetectionModel:
    """Return a YOLOv8n of two classes whose BatchNorm layers are as uneven as after training."""
    torch.manual_seed(seed)
    model = DetectionModel(architecture, nc=classes, verbose=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    if classes == len(NAMES):
        model.names = dict(enumerate(NAMES))
    return model


@torch.no_grad()
def enliven(model: DetectionModel) -> DetectionModel:
    """Let an untrained model answer to what it sees: unit variance in every layer, scores all over 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    model.train()(torch.rand(4, 3, 96, 96, generator=generator))
    for norm in norms:
        norm.momentum = 0.03
    head = model.eval().model[-1]
    # Sides of boxes are means over distributions; noise in wide ones counts more than in a trained head.
    for branches, spread in ((head.cv2, 0.25), (head.cv3, 1.0)):
        for branch in branches:
            branch[-1].weight.normal_(0, spread * branch[-1].in_channels ** -0.5, generator=generator)
            branch[-1].bias.zero_()
    return model


def make_recipe(output: Path, dataset: Path, **changes: object) -> Recipe:
    train = {"epochs": 1, "batch": 4, "lr": 0.001, "warmup_epochs": 0, "augment": {"mosaic": 0}}
    return Recipe.model_validate(
        {
            "output": output,
            "input_size": 64,
            "threads": 1,  # threads that wait for each other cost more than they save on so little
            "data": {"yaml": dataset},
            "teacher": {"model": "yolov8n.yaml", "train": train},
            "sparsify": {"strength": 0.5, "train": train},
            "prune": {"target": {"macs": 0.4}},
            "distill": {"weight": 1.0, "train": train},
            "evaluate": {"latency_rounds": 2},
            **changes,
        }
    )
