"""Count objects in a recorded flight: python examples/detect_in_bag.py model.onnx bag/ /camera/image_raw."""

import sys
from collections import Counter
from pathlib import Path

from yolo_trt_node.detector import Detector
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import messages as read_messages
from yolo_trt_node.replay.bags import open_bag, typestore


def main(model: str, bag: str, topic: str) -> None:
    """Print how often each class was seen; the command `bag_detect` writes the boxes themselves."""
    detector, store, reader = Detector.load(model), typestore(), ImageReader(max_pixels=2**26)
    seen: Counter[str] = Counter()
    with open_bag(Path(bag)) as opened:
        connections = [one for one in opened.connections if one.topic == topic]
        for connection, _, data in read_messages(opened, connections):
            message = messages.from_cdr(store, connection.msgtype, data)
            for _, frame in reader.read(message, None):
                seen.update(detector.card.names[i] for i in detector.detect([frame])[0].class_ids)
    for name, count in seen.most_common():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main(*sys.argv[1:])
