"""Image messages as a broken, or a hostile, camera sends them; and a process that takes very many of them.

Run as a module with (model, count, seed), it lets a node of its own process that many and prints what became
of them as JSON. A crash of a decoder then ends this process, and no other.
"""

from __future__ import annotations

import array
import json
import struct
import sys
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

EXTREMES = (0, 1, 2, 3, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
TEXTS = (
    "",
    " ",
    "BGR8",
    "bgr8 ",
    "bgr8\n",
    "rgb16",
    "32FC1",
    "64FC4",
    "bayer_rggb",
    "jpeg",
    "nv12;",
    "äöü",
    "x" * 5000,
    "../../etc/passwd",
    "%s%n{0}",
)
PNG = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(height: int, width: int, depth: int = 8, color: int = 2) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold (or hold only unpacked)."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(bytes(100_000), 9)
    return PNG + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def jpeg_of_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The same JPEG with other sides in its frame header."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = jpeg.find(marker)
        if at >= 0:
            return jpeg[: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + jpeg[at + 9 :]
    return jpeg


class Malformed:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        from yolo_trt_node.images.encodings import ENCODINGS

        self._random = np.random.default_rng(seed)
        self._encodings = tuple(ENCODINGS)
        self._coded = self._valid_files()

    def __iter__(self) -> Iterator[Image | CompressedImage]:
        while True:
            yield self.compressed() if self._random.random() < 0.4 else self.raw()

    def _valid_files(self) -> list[bytes]:
        random = np.random.default_rng(1)
        color = random.integers(0, 256, (37, 53, 3), np.uint8)
        deep = random.integers(0, 2**16, (20, 31), np.uint16)
        pictures = [
            (".jpg", color, [cv2.IMWRITE_JPEG_QUALITY, 80]),
            (".jpg", color, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
            (".jpg", color, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
            (".jpg", color[..., 0], []),
            (".png", color, []),
            (".png", color[..., 0], []),
            (".png", deep, []),
            (".png", np.dstack((color, color[..., 0])), []),
            (".bmp", color, []),
            (".webp", color, []),
            (".tiff", color, []),
        ]
        return [cv2.imencode(kind, pixels, options)[1].tobytes() for kind, pixels, options in pictures]

    def _pick(self, values):
        return values[int(self._random.integers(len(values)))]

    def _number(self) -> int:
        if self._random.random() < 0.5:
            return self._pick(EXTREMES)
        return int(self._random.integers(0, 200))

    def _stamp(self, message: Image | CompressedImage) -> None:
        message.header.stamp.sec = int(self._random.integers(-(2**31), 2**31))
        message.header.stamp.nanosec = int(self._random.integers(0, 2**32))
        message.header.frame_id = self._pick(("camera", *TEXTS))

    def raw(self) -> Image:
        random = self._random
        height, width = (int(side) for side in random.integers(1, 33, 2))
        step = width * int(random.integers(1, 9))
        message = Image(
            height=height, width=width, step=step, encoding=self._pick(self._encodings), is_bigendian=0
        )
        size = step * height * 3 // 2
        for _ in range(int(random.integers(0, 4))):
            match int(random.integers(0, 6)):
                case 0:
                    message.height = self._number()
                case 1:
                    message.width = self._number()
                case 2:
                    message.step = self._number()
                case 3:
                    size = int(random.integers(0, 5000))
                case 4:
                    message.encoding = self._pick(TEXTS)
                case 5:
                    message.is_bigendian = int(random.integers(0, 256))
        if random.random() < 0.3 and message.step * message.height < 20_000:
            size = message.step * message.height
        message.data = array.array("B", random.integers(0, 256, size, np.uint8).tobytes())
        self._stamp(message)
        return message

    def compressed(self) -> CompressedImage:
        random = self._random
        content = self._pick(self._coded)
        match int(random.integers(0, 8)):
            case 0:
                content = content[: int(random.integers(0, len(content)))]
            case 1 | 2:
                changed = bytearray(content)
                for _ in range(int(random.integers(1, 20))):
                    changed[int(random.integers(len(changed)))] = int(random.integers(256))
                content = bytes(changed)
            case 3:
                content = jpeg_of_size(
                    self._coded[int(random.integers(0, 4))], self._number(), self._number()
                )
            case 4:
                content = png_bomb(
                    self._number(), self._number(), self._pick((1, 2, 8, 16)), self._pick((0, 2, 3, 4, 6))
                )
            case 5:
                content = content[: int(random.integers(2, 30))] + random.bytes(int(random.integers(0, 500)))
            case 6:
                content = content + self._pick(self._coded)
            case 7:
                at = int(random.integers(0, len(content)))
                content = content[:at] + content[at + int(random.integers(1, 50)) :]
        message = CompressedImage(format=self._pick(("jpeg", "png", "rgb8; jpeg compressed bgr8", *TEXTS)))
        message.data = array.array("B", content)
        self._stamp(message)
        return message


def main(model: str, count: int, seed: int) -> None:
    """Let a node process them; every thousandth image is a good one, which must be answered."""
    import psutil
    import rclpy
    from rclpy.parameter import Parameter
    from yolo_trt_node.node.detector_node import DetectorNode
    from yolo_trt_node.node.messages import image_message

    from support.toy_detector import paint_cells

    good = image_message(
        Image().header, paint_cells(np.full((64, 64, 3), 114, np.uint8), [(1, 3, "green")], network_pixel=1)
    )
    rclpy.init()
    node = DetectorNode(parameter_overrides=[Parameter("model", value=model)])
    node.trigger_configure()
    node.trigger_activate()
    # What the worker's thread is given; called here, so that none is displaced by the next.
    process = node._worker._handle
    statistics = node._cameras[0].statistics
    supply, memory = iter(Malformed(seed)), psutil.Process().memory_info
    rss, answered, goods = [], 0, 0
    for number in range(count):
        process([(0, next(supply))])
        if number % 1000 == 999:
            statistics.window()
            process([(0, good)])
            goods += 1
            answered += statistics.window().published
            rss.append(memory().rss / 1e6)
    print(json.dumps({"processed": count, "good": goods, "answered": answered, "rss_mb": rss}))
    node.stop()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
