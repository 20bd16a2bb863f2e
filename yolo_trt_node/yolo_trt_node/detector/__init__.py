"""Image in, boxes out; no ROS, no torch.

``Detector.load(path, options).detect(images)`` is all that a caller needs. An image goes through
``letterbox`` (camera pixels to network tensor), a ``backend`` (tensor to raw prediction) and ``decode``
(raw prediction to boxes in camera pixels); ``card`` is what the model says of itself.

Example:
    >>> import cv2
    >>> from yolo_trt_node.detector import Detector
    >>> found = Detector.load("model.onnx").detect([cv2.imread("photo.jpg")])[0]  # doctest: +SKIP
"""

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector.card import ModelCard, ModelError
from yolo_trt_node.detector.detector import Detector
from yolo_trt_node.detector.options import DetectOptions, DetectorOptions, LoadOptions
from yolo_trt_node.images.frames import Frame

__all__ = [
    "DetectOptions",
    "Detections",
    "Detector",
    "DetectorOptions",
    "Frame",
    "LoadOptions",
    "ModelCard",
    "ModelError",
]
