"""The one place that prepares Ultralytics; every module here that needs it imports this one first.

Ultralytics reads its environment variables while it is imported, so they must be set before: without them it
writes settings into the user's home, asks the network for newer versions and installs packages by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os

import torch

# Closed when the interpreter ends.
_AT_EXIT = contextlib.ExitStack()


def _set_environment() -> None:
    """Keep Ultralytics off the network, out of the user's home and silent, unless the user says otherwise.

    Checkpoints are read without running what is in them: only the layers that Ultralytics and torch know are
    built, and the activation that an architecture names is looked up, not evaluated.
    """
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    if "YOLO_CONFIG_DIR" not in os.environ:
        # Here and not above: this file is also run alone, where the package cannot be imported.
        from yolo_compress.files import temporary_folder

        os.environ["YOLO_CONFIG_DIR"] = str(_AT_EXIT.enter_context(temporary_folder()))


def _mend_torchvision() -> torch.library.Library | None:
    """Give a CPU-only torch the operators that a torchvision built for CUDA fails to register.

    Ultralytics imports torchvision, and a torchvision whose compiled part does not fit torch fails on import
    because its fake ``nms`` kernel is attached to an operator nobody defined. Detection needs nothing else of
    that part, so the operator is defined here and computed by Ultralytics' own NMS in plain torch.

    Returns:
        The library that holds the operators (they vanish with it), or None where torchvision imports by
        itself.

    Raises:
        RuntimeError: torchvision does not import, and torch is a CUDA build (two builds that do not belong
            together).
    """
    try:
        import torchvision
    except RuntimeError as error:
        if torch.version.cuda is not None:
            raise RuntimeError(
                f"torchvision does not fit torch {torch.__version__} ({error}); "
                "install the two versions that belong together"
            ) from error
    else:
        return None

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
        from ultralytics.utils.nms import TorchNMS

        return TorchNMS.nms(dets, scores, iou_threshold)

    library.impl("nms", nms, "CPU")
    import torchvision.extension

    torchvision.extension._has_ops = lambda: True
    return library


atexit.register(_AT_EXIT.close)
_set_environment()
_TORCHVISION_OPERATORS = _mend_torchvision()

import ultralytics  # noqa: E402  (only after the environment is set and torchvision imports)

ULTRALYTICS_VERSION: str = ultralytics.__version__
