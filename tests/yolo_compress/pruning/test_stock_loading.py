"""A pruned checkpoint in a process where yolo_compress cannot be imported and loading is restricted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.squares import enliven, make_model

from yolo_compress import ultralytics_env
from yolo_compress.checkpoints import save_model
from yolo_compress.pruning.importance import importances, keep_largest
from yolo_compress.pruning.surgery import Surgery

BARE = """
import runpy, sys
sys.modules["yolo_compress"] = None  # any import of it, also from the pickle, fails
checkpoint, image, data, out, environment = sys.argv[1:]
import numpy as np, torch
try:
    import torchvision
except RuntimeError:  # built for another torch: Ultralytics itself cannot detect without a mend
    mended = runpy.run_path(environment)
from ultralytics import YOLO
from ultralytics.utils import SAFE_LOAD
assert SAFE_LOAD
try:
    import yolo_compress
except ImportError:
    pass
else:
    raise AssertionError("yolo_compress can be imported")

model = YOLO(checkpoint)
with torch.no_grad():
    raw = model.model.eval()(torch.from_numpy(np.load(image)))[0].numpy()
predicted = model.predict(torch.from_numpy(np.load(image)), imgsz=64, conf=0.01, verbose=False)
validated = model.val(data=data, imgsz=64, workers=0, plots=False, verbose=False, project=out, name="val")
exported = model.export(format="onnx", imgsz=64, simplify=False)
np.savez(out + "/answers.npz", raw=raw, boxes=[len(r.boxes) for r in predicted], map=validated.box.map,
         exported=exported, modules=sorted({type(m).__module__ for m in model.model.modules()}))
"""


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolov8s.yaml", "yolov8m.yaml"])
def test_pruned_checkpoint_is_a_stock_model(architecture: str, dataset: Path, tmp_path: Path) -> None:
    """It loads, computes what the surgically split network computes, predicts, validates and exports."""
    model = enliven(make_model(architecture=architecture))
    surgery = Surgery(model)
    surgery.remove([keep_largest(values, len(values) // 2) for values in importances(surgery, "gamma")])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        split = surgery.model.eval()(images)[0].numpy()
    save_model(surgery.folded(), tmp_path / "pruned.pt")
    np.save(tmp_path / "images.npy", images.numpy())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            BARE,
            *map(
                str,
                (
                    tmp_path / "pruned.pt",
                    tmp_path / "images.npy",
                    dataset,
                    tmp_path,
                    ultralytics_env.__file__,
                ),
            ),
        ],
        cwd=tmp_path,
        env={
            **environment,
            "ULTRALYTICS_SAFE_LOAD": "1",
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_CONFIG_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "answers.npz")
    np.testing.assert_allclose(answers["raw"][:, :4], split[:, :4], rtol=0, atol=1e-3)  # pixels
    np.testing.assert_allclose(answers["raw"][:, 4:], split[:, 4:], rtol=0, atol=1e-5)  # scores
    assert split[:, 4:].std() > 0.05
    assert (answers["boxes"] > 0).all()
    assert np.isfinite(answers["map"])
    assert Path(str(answers["exported"])).is_file()
    assert {str(module).split(".")[0] for module in answers["modules"]} == {"torch", "ultralytics"}
