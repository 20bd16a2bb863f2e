"""The detector that flies, as it is measured.

Nothing here imports torch: the latency workers start in a fraction of a second and hold one engine each.
"""

from __future__ import annotations

from pathlib import Path

from yolo_trt_node.detector import Detector, DetectorOptions, ModelError

from yolo_compress.errors import UserError

# The official VisDrone toolkit's: a frame of a crowd has hundreds of objects.
MAX_DETECTIONS = 500
# Low enough that the precision-recall curve ends by itself and not at the cut.
SCORE_FLOOR = 0.001


def load_detector(model: Path, iou_threshold: float | None, threads: int, backend: str = "auto") -> Detector:
    """Load a model with the settings of a measurement.

    Raises:
        UserError: it cannot be loaded, or the backend is not there.
    """
    options = DetectorOptions(
        # Always the same backend, so that figures of two runs can be compared.
        backend_trial_s=0.0,
        score_threshold=SCORE_FLOOR,
        iou_threshold=iou_threshold,
        max_det=MAX_DETECTIONS,
        threads=threads,
        backend=backend,
    )
    try:
        return Detector.load(model, options)
    except ModelError as error:
        raise UserError(str(error)) from error
