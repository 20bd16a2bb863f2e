"""``ros2 run yolo_trt_node build_engine model.onnx``: build a TensorRT engine before the first flight.

It builds into the cache what the node would build at its first start, by the same code; the node then starts
at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yolo_trt_node.detector import Detector, DetectorOptions, LoadOptions, ModelError
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, TargetDevice, import_tensorrt
from yolo_trt_node.detector.card import read_card
from yolo_trt_node.node_options import NODE_OPTIONS
from yolo_trt_node.options import add_arguments, from_values
from yolo_trt_node.params_file import add_params_file, option_values

_BUILDERS = ("tensorrt", "tensorrt_rtx")
ENGINE_OPTIONS = tuple(
    replace(option, choices=("auto", *_BUILDERS)) if option.name == "backend" else option
    for option in NODE_OPTIONS
    if option.field in LoadOptions.__dataclass_fields__ and not option.name.startswith("onnxruntime")
)
"""The node's options that an engine depends on, and where it lies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and say where the engine is; return the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        width, height = _size(given.camera)
        values = option_values(given, ENGINE_OPTIONS)
        model_path = given.model_file or str(values.get("model", ""))
        if not model_path:
            raise ValueError("no model: name one, or as model in --params-file")
        options = from_values(DetectorOptions, values)
        backend = options.backend if options.backend in _BUILDERS else _BUILDERS[0]
        path = Path(model_path).expanduser()
        if not path.is_file():
            raise ModelError(f"no model file at {path}; check the path")
        trt = import_tensorrt(backend)
        if given.compute_capability and not hasattr(trt, "ComputeCapability"):
            raise ModelError(
                f"{backend} {trt.__version__} builds for the GPU of this machine only; leave "
                "--compute-capability out"
            )
        gpu = (
            TargetDevice(f"GPU of compute capability {given.compute_capability}", given.compute_capability)
            if given.compute_capability
            else Gpu.open()
        )
        model = OnnxOnTensorRt(path, backend, trt, gpu, options)
        card = read_card(model.metadata, model.inputs, model.outputs)
        shape = Detector(path, model, card, options, backend).input_shape(height, width)
        engine = model.engine(*shape)
    except (ModelError, ValueError) as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 1
    print(engine.path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build_engine", description=__doc__)
    parser.add_argument(
        "model_file", nargs="?", metavar="model", help="the ONNX file; default: model of --params-file"
    )
    parser.add_argument(
        "--camera",
        default="1280x720",
        metavar="WIDTHxHEIGHT",
        help="size of the camera's images, whose aspect the network's input matches; default: %(default)s",
    )
    parser.add_argument(
        "--compute-capability",
        default="",
        metavar="MAJOR.MINOR",
        help="build for a GPU that is not here (tensorrt_rtx only), as in 8.6",
    )
    add_params_file(parser)
    add_arguments(parser, ENGINE_OPTIONS)
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--camera is {text!r}; use WIDTHxHEIGHT such as 1920x1080")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
