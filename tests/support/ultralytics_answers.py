"""What Ultralytics' `predict` finds with an ONNX file: run as a program, since it imports torch.

``python -m support.ultralytics_answers FOLDER MODEL OPTIONS``: exports MODEL (weights, or the yaml of an
architecture, which then gets random weights that see something) to FOLDER/model.onnx and writes the boxes
that `predict` finds with OPTIONS (JSON) in each of FOLDER/*.png to FOLDER/answers.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)

from ultralytics import YOLO  # isort: skip


def with_random_weights(architecture: str, images: list[np.ndarray], wanted: int = 150) -> YOLO:
    """An untrained model whose scores spread; about ``wanted`` anchors an image and stride pass 0.25."""
    torch.manual_seed(0)
    model = YOLO(architecture, task="detect")
    network = model.model
    batches = [
        torch.from_numpy(cv2.resize(image, (384, 384))[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        for image in images
    ]
    head = network.model[-1]
    branches = [branch for name in ("cv3", "one2one_cv3") for branch in getattr(head, name, None) or ()]
    logits: dict[torch.nn.Module, list[torch.Tensor]] = {branch: [] for branch in branches}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics are the average over what is seen now
    with torch.no_grad():
        network.train()
        for batch in batches:
            network(batch)
        network.eval()
        hooks = [
            branch.register_forward_hook(lambda of, _, output: logits[of].append(output[0].amax(0).flatten()))
            for branch in branches
        ]
        for batch in batches:
            network(batch)
        for hook in hooks:
            hook.remove()
        for branch in branches:
            # Scaled to a deviation of 1 among the anchors' best classes, shifted so that the wanted pass.
            best, last = torch.cat(logits[branch]), branch[-1]
            passing = torch.quantile(best, max(0.0, 1 - wanted * len(images) / len(best)))
            last.weight.div_(best.std())
            last.bias.sub_(passing).div_(best.std()).add_(np.log(0.25 / 0.75))
    return model


def main(folder: Path, source: str, options: dict) -> None:
    """Export, predict and write down."""
    paths = sorted(folder.glob("*.png"))
    images = [cv2.imread(str(path)) for path in paths]
    if source.endswith(".yaml"):
        checkpoint = folder / "model.pt"
        with_random_weights(source, images).save(checkpoint)
    else:
        checkpoint = folder / Path(source).name
        checkpoint.write_bytes(Path(source).read_bytes())
    exported = YOLO(checkpoint, task="detect").export(
        format="onnx", imgsz=options["imgsz"], dynamic=True, opset=17, device="cpu"
    )
    model = YOLO(Path(exported).rename(folder / "model.onnx"), task="detect")
    answers = {}
    for path, image in zip(paths, images, strict=True):
        (result,) = model.predict(image, device="cpu", verbose=False, **options)
        answers[path.name] = {
            "boxes": result.boxes.xyxy.tolist(),
            "scores": result.boxes.conf.tolist(),
            "class_ids": result.boxes.cls.int().tolist(),
        }
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
