"""What uniform pruning leaves of a detector, how long it takes, and whether it is a stock model still.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --model yolov8s.pt --ratio 0.3 --round-to 16

Prunes the model, writes the checkpoint, and opens it in a process where yolo_compress cannot be imported and
``ULTRALYTICS_SAFE_LOAD=1`` is set. There it must compute what the split network computed. An architecture
(.yaml) gets random weights that answer to what they see. Ends with exit code 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.pruning.pruner import prune_uniformly
from yolo_compress.pruning.surgery import split_c2f

from ultralytics.nn.tasks import DetectionModel  # isort: skip

BARE = """
import sys
sys.modules["yolo_compress"] = None  # any import of it, also from the pickle, fails
import numpy as np, torch
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import SAFE_LOAD
assert SAFE_LOAD
model, _ = load_checkpoint(sys.argv[1])
with torch.no_grad():
    np.save(sys.argv[3], model(torch.from_numpy(np.load(sys.argv[2])))[0].numpy())
"""
PIXELS, SCORE = 1e-3, 1e-5


def build(model: str, classes: int) -> DetectionModel:
    if model.endswith(".pt"):
        return load_model(model)
    torch.manual_seed(0)
    result = DetectionModel(model, nc=classes, verbose=False)
    norms = [module for module in result.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None  # the plain average, so that every layer's output has unit variance
    with torch.no_grad():
        result.train()(torch.rand(2, 3, 128, 128))
        # Sides of boxes are means over distributions; noise in wide ones counts more than in a trained head.
        for branches, spread in ((result.model[-1].cv2, 0.25), (result.model[-1].cv3, 1.0)):
            for branch in branches:
                branch[-1].weight.normal_(0, spread * branch[-1].in_channels ** -0.5)
                branch[-1].bias.zero_()
    return result.eval()


@torch.no_grad()
def stock_differences(pruned: DetectionModel) -> tuple[float, float]:
    """Return by how much a bare Ultralytics differs from the split network at most: pixels, score."""
    image = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, given, answer = folder / "pruned.pt", folder / "image.npy", folder / "answer.npy"
        save_model(pruned, checkpoint)
        np.save(given, image.numpy())
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [sys.executable, "-c", BARE, str(checkpoint), str(given), str(answer)],
            check=True,
            cwd=folder,
            env={**environment, "ULTRALYTICS_SAFE_LOAD": "1", "YOLO_CONFIG_DIR": name, "YOLO_OFFLINE": "1"},
        )
        stock = np.load(answer)
    split_c2f(pruned)
    difference = np.abs(stock - pruned(image)[0].numpy())
    return float(difference[:, :4].max()), float(difference[:, 4:].max())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="yolov8m.yaml", help="architecture or checkpoint")
    parser.add_argument("--classes", type=int, default=10, help="of an architecture")
    parser.add_argument(
        "--ratio", type=float, default=0.5, help="share of channels to remove from each layer"
    )
    parser.add_argument("--round-to", type=int, choices=(8, 16), default=8)
    parser.add_argument("--input-size", type=int, default=1024, help="at which GMACs are counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-params", type=float, default=6.5, help="limit, in millions")
    parser.add_argument("--max-gmacs", type=float, default=25.5, help="limit")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="limit")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    dense = build(options.model, options.classes)
    started = time.perf_counter()
    pruned = prune_uniformly(dense, options.ratio, options.round_to)
    seconds = time.perf_counter() - started
    size = options.input_size
    params = [count_params(model) / 1e6 for model in (dense, pruned)]
    gmacs = [count_macs(model, size) / 1e9 for model in (dense, pruned)]
    pixels, score = stock_differences(pruned)
    met = (
        params[1] <= options.max_params
        and gmacs[1] <= options.max_gmacs
        and seconds <= options.max_seconds
        and pixels <= PIXELS
        and score <= SCORE
    )
    print(f"{options.model}, {options.ratio:.0%} of each layer's channels, rounded to {options.round_to}")
    print(f"  parameters   {params[0]:.3f} M -> {params[1]:.3f} M (at most {options.max_params:g} M)")
    print(f"  at {size}      {gmacs[0]:.2f} GMACs -> {gmacs[1]:.2f} GMACs (at most {options.max_gmacs:g})")
    print(f"  pruned in    {seconds:.1f} s on {options.threads} threads (at most {options.max_seconds:g} s)")
    print("  opened by a bare Ultralytics with ULTRALYTICS_SAFE_LOAD=1, against the split network:")
    print(f"               {pixels:.1e} px (at most {PIXELS:g}), {score:.1e} in score (at most {SCORE:g})")
    print("all limits met" if met else "a limit was MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
