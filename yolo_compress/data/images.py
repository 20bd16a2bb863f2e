"""Image files: which Ultralytics' trainer takes, and their pixels as it reads them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from yolo_compress.data.description import IMAGE_FORMATS
from yolo_compress.data.labels import LabelError
from yolo_compress.errors import UserError

# The shortest side that the trainer takes.
MIN_SIDE = 10
_TURNED = frozenset((5, 6, 7, 8))  # values of EXIF's orientation that swap width and height
_ORIENTATION = 274


def check_image(path: Path) -> tuple[int, int]:
    """Check an image file as Ultralytics' trainer does, but change nothing on the disk.

    Returns:
        Height and width in pixels, as it is decoded: turned as its EXIF data say.

    Raises:
        LabelError: the trainer would drop the image.
    """
    try:
        with Image.open(path) as image:
            image.verify()
            width, height = image.size
            kind = (image.format or "").lower()
            if _orientation(image, kind) in _TURNED:
                if kind in ("jpeg", "mpo", "png", "avif"):
                    width, height = height, width
                else:
                    height, width = read_image(path).shape[:2]
        if kind in ("jpg", "jpeg") and not _ends_as_jpeg(path):
            # The trainer writes such a file anew; what cannot be decoded to its end stays out.
            with Image.open(path) as image:
                ImageOps.exif_transpose(image).load()
    except FileNotFoundError as error:
        raise LabelError("the image is missing", str(path)) from error
    # ImportError: Ultralytics, where it is loaded, looks for a HEIC plugin whenever Pillow knows no format.
    except (UserError, Image.DecompressionBombError, SyntaxError, ValueError, OSError, ImportError) as error:
        raise LabelError(
            "the image is damaged or no image", str(path), " ".join(str(error).split())[:80]
        ) from error
    if min(height, width) < MIN_SIDE:
        raise LabelError(f"the image is smaller than {MIN_SIDE} pixels", str(path), f"{width}x{height}")
    if kind not in IMAGE_FORMATS | {"jpeg2000"}:
        raise LabelError("the image is in a format that the trainer does not take", str(path), kind)
    return height, width


def _orientation(image: Image.Image, kind: str) -> int | None:
    try:
        tags = image.tag_v2 if kind == "tiff" else image.getexif()  # type: ignore[attr-defined]
        return tags.get(_ORIENTATION)
    except Exception:  # damaged EXIF data raise anything, and mean nothing
        return None


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-2, 2)
        return file.read() == b"\xff\xd9"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as H x W x 3 BGR: 16 bits cut to their high byte, grey as colour, turned as EXIF says.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    image = None
    try:
        data = np.fromfile(path, np.uint8)
        if data.size:
            if path.suffix.lower() in (".tif", ".tiff"):
                done, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
                if done and pages[0].ndim == 3:
                    image = np.ascontiguousarray(pages[0][..., :3])  # without alpha or further bands
            if image is None:
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
            if image is None:  # HEIC and AVIF where OpenCV is built without them
                with Image.open(path) as opened:
                    turned = ImageOps.exif_transpose(opened).convert("RGB")
                image = cv2.cvtColor(np.asarray(turned), cv2.COLOR_RGB2BGR)
    except (OSError, cv2.error, ValueError, SyntaxError, ImportError, Image.DecompressionBombError):
        image = None
    if image is None:
        raise UserError(f"cannot read the image {path}: it is missing or damaged")
    if image.dtype == np.uint16:
        image = image >> 8
    return image.astype(np.uint8, copy=False)
