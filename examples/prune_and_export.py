"""Halve a checkpoint's work and export it: python examples/prune_and_export.py best.pt small.onnx [640]."""

import sys
from pathlib import Path

from yolo_compress import UserError, export_onnx, prune
from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.config.techniques import Prune


def main(checkpoint: str, onnx: str, input_size: str = "640") -> None:
    """Prune, save beside the ONNX file, export; `yolo-compress distill` makes the .pt good again."""
    settings = Prune.model_validate({"target": {"macs": 0.5}, "scope": "global"})
    destination = Path(onnx)
    try:
        pruned = prune(load_model(checkpoint), settings, int(input_size))
        save_model(pruned.model, destination.with_suffix(".pt"))
        off = export_onnx(destination.with_suffix(".pt"), destination, int(input_size))
    except UserError as error:
        raise SystemExit(str(error)) from error
    print(f"{pruned.summary()}; written: {destination}, off torch by {off.box_px:.2g} px")


if __name__ == "__main__":
    main(*sys.argv[1:])
