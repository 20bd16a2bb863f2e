"""Find objects in a picture: python examples/detect_in_picture.py model.onnx picture.jpg."""

import sys

import cv2
from yolo_trt_node.detector import Detector


def main(model: str, picture: str) -> None:
    """Print a line for each object: its class, score, and corners in pixels."""
    image = cv2.imread(picture)
    if image is None:
        raise SystemExit(f"{picture} is no picture that OpenCV reads")
    detector = Detector.load(model)
    found = detector.detect([image])[0]
    for box, score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
        corners = " ".join(f"{value:.0f}" for value in box)
        print(f"{detector.card.names[class_id]} {score:.2f} at {corners}")


if __name__ == "__main__":
    main(*sys.argv[1:])
