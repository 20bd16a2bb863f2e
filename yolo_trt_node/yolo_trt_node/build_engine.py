"""``ros2 run yolo_trt_node build_engine model.onnx``: build a TensorRT engine before the first flight.

It builds into the cache what the node would build at its first start, by the same code; the node then starts
at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, Target, import_tensorrt
from yolo_trt_node.detector.card import read_card
from yolo_trt_node.detector.options import PRECISIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and say where the engine is; return the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        width, height = _size(given.camera)
        options = DetectorOptions(
            backend=given.backend,
            input_shape=given.input_shape,
            precision=given.precision,
            max_batch=given.max_batch,
            engine_cache=given.engine_cache,
            engine_workspace_mb=given.engine_workspace_mb,
            trust_engines=given.trust_engines,
        )
        path = Path(given.model).expanduser()
        if not path.is_file():
            raise ModelError(f"no model file at {path}; check the path")
        trt = import_tensorrt(given.backend)
        if given.compute_capability and not hasattr(trt, "ComputeCapability"):
            raise ModelError(
                f"{given.backend} {trt.__version__} builds for the GPU of this machine only; leave "
                "--compute-capability out"
            )
        gpu = (
            Target(f"GPU of compute capability {given.compute_capability}", given.compute_capability)
            if given.compute_capability
            else Gpu.open()
        )
        model = OnnxOnTensorRt(path, given.backend, trt, gpu, options)
        card = read_card(model.metadata, model.inputs, model.outputs)
        shape = Detector(path, model, card, options, given.backend).input_shape(height, width)
        engine = model.engine(*shape)
    except (ModelError, ValueError) as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 1
    print(engine.path)
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = DetectorOptions()
    parser = argparse.ArgumentParser(prog="build_engine", description=__doc__)
    parser.add_argument("model", help="the ONNX file")
    parser.add_argument("--backend", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    parser.add_argument(
        "--precision", default=defaults.precision, choices=PRECISIONS, help="default: %(default)s"
    )
    parser.add_argument(
        "--camera",
        default="1280x720",
        metavar="WIDTHxHEIGHT",
        help="size of the camera's images, whose aspect the network's input matches; default: %(default)s",
    )
    parser.add_argument(
        "--input-shape",
        default=defaults.input_shape,
        help="as the node's parameter: auto, square or HEIGHTxWIDTH; default: %(default)s",
    )
    parser.add_argument(
        "--max-batch",
        type=int,
        default=defaults.max_batch,
        help="the most images at once (cameras, tiles); default: %(default)s",
    )
    parser.add_argument(
        "--engine-cache", default=defaults.engine_cache, help="folder of the engines; default: ~/.cache/..."
    )
    parser.add_argument(
        "--engine-workspace-mb",
        type=int,
        default=defaults.engine_workspace_mb,
        help="limit of the kernels' scratch memory in MiB; default: %(default)s",
    )
    parser.add_argument(
        "--compute-capability",
        default="",
        metavar="MAJOR.MINOR",
        help="build for a GPU that is not here (tensorrt_rtx only), as in 8.6",
    )
    parser.add_argument(
        "--trust-engines",
        action="store_true",
        help="use a cache folder and engines that others could have written",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--camera is {text!r}; use WIDTHxHEIGHT such as 1920x1080")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
