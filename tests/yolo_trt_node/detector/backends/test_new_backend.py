"""A backend is its own module and one line of the table, and touches nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import yolo_trt_node

PROGRAM = """
import sys, numpy as np
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.options import LoadOptions
model, image = sys.argv[1], np.zeros((96, 128, 3), np.uint8)
image[:, :] = (0, 0, 255)
for name in ("onnxruntime", "idle"):
    detector = Detector.load(model, DetectorOptions(backend=name, threads=1))
    found = len(detector.detect([image])[0])
    print(found > 0, detector.backend, detector.precision, detector.backend_reason)
try:
    LoadOptions(backend="lazy")
except ValueError as error:
    print(error)
"""
MODULE = '''
import numpy as np
from yolo_trt_node.detector.backends.onnx_runtime import OnnxModel


class IdleSession:
    """Finds nothing anywhere."""

    precision = "fp32"

    def __init__(self, session):
        self._session = session

    def infer(self, batch):
        return np.zeros_like(self._session.infer(batch))

    def close(self):
        self._session.close()


class IdleModel(OnnxModel):
    backend = "idle"

    def session(self, height, width):
        return IdleSession(super().session(height, width))
'''


def test_a_new_backend_is_a_module_and_a_line(toy, tmp_path):
    package = tmp_path / "yolo_trt_node"
    here = Path(yolo_trt_node.__file__).parent
    shutil.copytree(here, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "detector/backends/idle.py").write_text(MODULE)
    options = package / "detector/options.py"
    line = '    "openvino": "openvino.OpenVinoModel",\n'
    assert line in options.read_text()
    options.write_text(options.read_text().replace(line, line + '    "idle": "idle.IdleModel",\n'))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}", toy],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    usual, idle, refused = done.stdout.splitlines()
    assert usual == "True onnxruntime fp32 onnxruntime, as asked"
    assert idle == "False idle fp32 idle, as asked"
    assert "openvino, idle" in refused
