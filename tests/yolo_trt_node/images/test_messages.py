"""From image messages to frames."""

import struct
import sys
import zlib
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from support.frames import encode, picture
from yolo_trt_node.images.encodings import ENCODINGS, Encoding
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.messages import frame_from_message, is_depth, raw_frame

ODD = (23, 37)
EVEN = (24, 38)
MAX_PIXELS = 1_000_000


def message(encoding, rows, height, width, /, *, padding=0, big=False, **changes):
    """A ``sensor_msgs/Image`` of rows of bytes, each followed by padding."""
    padded = np.pad(rows.reshape(len(rows), -1), ((0, 0), (0, padding)), constant_values=77)
    fields = {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": int(big),
        "step": padded.shape[1],
        "data": padded.tobytes(),
    }
    return SimpleNamespace(**{**fields, **changes})


def bytes_of(values, big):
    """Rows of 16-bit values as rows of bytes."""
    return values.astype(">u2" if big else "<u2").view(np.uint8)


def planar(image):
    """The luma plane and the two chroma planes of an image of even sides."""
    height, width = image.shape[:2]
    i420 = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    return i420[:height], i420[height:].reshape(2, height // 2, width // 2)


def mosaic(image, pattern):
    """What a sensor behind a Bayer filter sees; the pattern is row by row, as in bayer_PATTERN8."""
    seen = np.empty(image.shape[:2], np.uint8)
    for index, color in enumerate(pattern):
        part = (slice(index // 2, None, 2), slice(index % 2, None, 2))
        seen[part] = image[..., "bgr".index(color)][part]
    return seen


# The positions of blue, green and red in a pixel of 16-bit values.
WIDE = {"rgb16": (2, 1, 0), "bgr16": (0, 1, 2), "16UC3": (0, 1, 2), "rgba16": (2, 1, 0), "bgra16": (0, 1, 2)}
PACKED = {
    "bgr8": "bgr8",
    "8UC3": "bgr8",
    "rgb8": "rgb8",
    "bgra8": "bgra8",
    "rgba8": "rgba8",
    "mono8": "mono8",
    "8UC1": "mono8",
    "8UC2": "yuyv",
    "8UC4": "bgra8",
    "yuv422_yuy2": "yuyv",
    "yuyv": "yuyv",
    "nv12": "nv12",
}
PIXEL_BYTES = {
    **dict.fromkeys(("bgr8", "rgb8", "8UC3"), 3),
    **dict.fromkeys(("bgra8", "rgba8", "8UC4"), 4),
    **dict.fromkeys(("rgb16", "bgr16", "16UC3"), 6),
    **dict.fromkeys(("rgba16", "bgra16"), 8),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "8UC2", "mono16", "16UC1"), 2),
    **{f"bayer_{pattern}16": 2 for pattern in ("rggb", "bggr", "gbrg", "grbg")},
}
BAYER = ("rggb", "bggr", "gbrg", "grbg")
CONVERTED = {
    "mono16",
    "16UC1",
    "nv24",
    *WIDE,
    "yuv422",
    "uyvy",
    "nv21",
    "i420",
    *(f"bayer_{pattern}{bits}" for pattern in BAYER for bits in (8, 16)),
}


def test_every_supported_encoding_is_tested():
    assert set(PACKED) | CONVERTED == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("name", PACKED)
def test_what_the_detector_reads_itself_is_a_view_of_the_message(name, padding):
    encoding = PACKED[name]
    given = encode(picture(*ODD), encoding)
    made = message(name, given.data, given.height, given.width, padding=padding)

    frame = raw_frame(made)

    assert frame.encoding == encoding
    assert np.shares_memory(frame.data, np.frombuffer(made.data, np.uint8))
    np.testing.assert_array_equal(frame.to_bgr(), given.to_bgr())


@pytest.mark.parametrize("padding", [0, 6])
class TestConverted:
    @pytest.mark.parametrize("name", ["yuv422", "uyvy"])
    def test_uyvy(self, name, padding):
        yuyv = encode(picture(*EVEN), "yuyv")
        swapped = yuyv.pixels[..., ::-1].copy()
        frame = raw_frame(message(name, swapped, *EVEN, padding=padding))
        np.testing.assert_array_equal(frame.to_bgr(), yuyv.to_bgr())

    def test_nv21(self, padding):
        luma, (u, v) = planar(picture(*EVEN))
        rows = np.vstack([luma, np.stack([v, u], axis=-1).reshape(EVEN[0] // 2, EVEN[1])])
        frame = raw_frame(message("nv21", rows, *EVEN, padding=padding))
        np.testing.assert_array_equal(frame.to_bgr(), encode(picture(*EVEN), "nv12").to_bgr())

    def test_i420(self, padding):
        luma, chroma = planar(picture(*EVEN))
        step = EVEN[1] + padding
        data = b"".join(
            np.pad(plane, ((0, 0), (0, stride - plane.shape[1])), constant_values=77).tobytes()
            for plane, stride in ((luma, step), (chroma[0], step // 2), (chroma[1], step // 2))
        )
        made = SimpleNamespace(
            height=EVEN[0], width=EVEN[1], encoding="i420", is_bigendian=0, step=step, data=data
        )
        np.testing.assert_array_equal(raw_frame(made).to_bgr(), encode(picture(*EVEN), "nv12").to_bgr())

    def test_nv24_is_as_nv12_where_neighbors_have_one_color(self, padding):
        luma, (u, v) = planar(picture(*EVEN))
        step = EVEN[1] + padding
        chroma = np.stack([u, v], axis=-1).repeat(2, axis=0).repeat(2, axis=1).reshape(EVEN[0], -1)
        data = b"".join(
            np.pad(plane, ((0, 0), (0, stride - plane.shape[1])), constant_values=77).tobytes()
            for plane, stride in ((luma, step), (chroma, 2 * step))
        )
        made = SimpleNamespace(
            height=EVEN[0], width=EVEN[1], encoding="nv24", is_bigendian=0, step=step, data=data
        )
        wanted = encode(picture(*EVEN), "nv12").to_bgr().astype(int)
        assert abs(raw_frame(made).to_bgr() - wanted).max() <= 1

    @pytest.mark.parametrize("big", [False, True])
    @pytest.mark.parametrize("name", WIDE)
    def test_colors_of_16_bits(self, padding, big, name):
        channels = 4 if "a" in name else 3
        values = np.full((*ODD, channels), 65535, np.uint16)
        for index, place in enumerate(WIDE[name]):
            values[..., place] = picture(*ODD)[..., index].astype(np.uint16) * 257
        rows = bytes_of(np.ascontiguousarray(values.reshape(ODD[0], -1)), big)
        frame = raw_frame(message(name, rows, *ODD, padding=padding, big=big))
        np.testing.assert_array_equal(frame.to_bgr(), picture(*ODD))

    @pytest.mark.parametrize("big", [False, True])
    @pytest.mark.parametrize("name", ["mono16", "16UC1"])
    def test_mono16(self, padding, big, name):
        values = np.random.default_rng(0).integers(0, 65536, ODD, np.uint16)
        made = message(name, bytes_of(values, big), *ODD, padding=padding, big=big)
        gray = raw_frame(made).to_bgr()
        assert (gray == gray[..., :1]).all()
        np.testing.assert_allclose(gray[..., 0], values * (255 / 65535), atol=0.51)

    @pytest.mark.parametrize("size", [ODD, EVEN])
    @pytest.mark.parametrize("pattern", BAYER)
    def test_bayer(self, padding, pattern, size):
        # One colour for each quarter: away from the seams, demosaicing gives it back exactly.
        image = np.zeros((*size, 3), np.uint8)
        for index, color in enumerate([(250, 20, 30), (10, 240, 60), (40, 5, 230), (90, 90, 90)]):
            rows, columns = size[0] // 2, size[1] // 2
            top, left = (index // 2) * rows, (index % 2) * columns
            image[top : top + rows + 1, left : left + columns + 1] = color
        seen = mosaic(image, pattern)
        inner = [slice(4, 9), slice(-9, -4)]

        frame = raw_frame(message(f"bayer_{pattern}8", seen, *size, padding=padding)).to_bgr()
        wide = bytes_of(seen.astype(np.uint16) * 257, big=True)
        frame16 = raw_frame(message(f"bayer_{pattern}16", wide, *size, padding=padding, big=True)).to_bgr()

        for rows in inner:
            for columns in inner:
                np.testing.assert_array_equal(frame[rows, columns], image[rows, columns])
        np.testing.assert_array_equal(frame16, frame)


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)])
def test_the_smallest_images_are_read_or_refused(name, size):
    height, width = size
    pixel = PIXEL_BYTES.get(name, 1)
    rows = height * 3 // 2 if name in ("nv12", "nv21", "i420") else height
    rows = 3 * height if name == "nv24" else rows
    made = message(name, np.full((rows, width * pixel), 128, np.uint8), height, width)
    shares = name in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "8UC2", "nv12", "nv21", "i420") and width % 2
    shares |= name in ("nv12", "nv21", "i420") and height % 2
    if shares or (name.startswith("bayer") and min(size) < 3):
        with pytest.raises(ImageError, match=f"{width} x {height} pixels in {name}"):
            raw_frame(made)
    else:
        assert (abs(raw_frame(made).to_bgr() - np.full((height, width, 3), 128.0)) < 5).all()


@pytest.mark.parametrize("name", ["yuv422", "yuyv", "nv12", "nv21", "i420"])
def test_odd_sizes_are_refused_where_neighbours_share_their_colour(name):
    per_pixel = 2 if name in ("yuv422", "yuyv") else 1
    rows = np.zeros((36, 37 * per_pixel), np.uint8)
    with pytest.raises(ImageError, match=f"37 x 24 pixels in {name}, whose width is even"):
        raw_frame(message(name, rows, 24, 37))
    if per_pixel == 1:
        with pytest.raises(ImageError, match=f"38 x 23 pixels in {name}, whose height is even"):
            raw_frame(message(name, np.zeros((34, 38), np.uint8), 23, 38))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": ""}, "unsupported encoding: ''; supported are bgr8, rgb8"),
        ({"encoding": "BGR8"}, "unsupported encoding"),
        ({"height": 0}, "empty image: 37 x 0"),
        ({"width": 0}, "empty image: 0 x 23"),
        ({"step": 110}, "step 110 is less than the 111 bytes"),
        ({"step": 112}, "23 rows of step 112 make 2576"),
        ({"data": b""}, "0 bytes of data"),
        ({"data": b"\x00" * 106}, "106 bytes of data, but 23 rows of step 111 make 2553"),
        ({"height": 4_294_967_295}, "corrupt image"),
        ({"width": 4_294_967_295, "step": 4_294_967_295}, "corrupt image"),
        ({"encoding": "i420", "width": 110, "height": 22}, "step 111 in i420 is even"),
    ],
)
def test_messages_whose_fields_do_not_fit_are_refused_with_the_reason(changes, text):
    with pytest.raises(ImageError, match=text):
        raw_frame(message("bgr8", picture(*ODD), *ODD, **changes))


class TestOtherEncodings:
    """What is not ours goes through cv_bridge, where there is one."""

    @pytest.fixture
    def bridge(self, monkeypatch):
        class CvBridge:
            def imgmsg_to_cv2(self, given, wanted):
                assert wanted == "bgr8"
                if given.encoding != "own16":
                    raise RuntimeError("no conversion")
                values = np.frombuffer(given.data, "<u2").reshape(given.height, given.width, 3)
                return (values >> 8).astype(np.uint8)[..., ::-1]

        module = ModuleType("cv_bridge")
        module.CvBridge = CvBridge
        monkeypatch.setitem(sys.modules, "cv_bridge", module)

    @pytest.fixture
    def made(self):
        values = picture(*ODD)[..., ::-1].astype(np.uint16) << 8
        return message("own16", bytes_of(np.ascontiguousarray(values), big=False), *ODD)

    @pytest.mark.usefixtures("bridge")
    def test_with_cv_bridge_they_are_read(self, made):
        np.testing.assert_array_equal(raw_frame(made).to_bgr(), picture(*ODD))

    @pytest.mark.usefixtures("bridge")
    def test_what_cv_bridge_refuses_is_refused_with_its_reason(self, made):
        made.encoding = "own32"
        with pytest.raises(
            ImageError, match=r"'own32': cv_bridge cannot convert it to bgr8 \(no conversion\)"
        ):
            raw_frame(made)

    @pytest.mark.usefixtures("bridge")
    def test_cv_bridge_gets_no_message_whose_data_are_too_short(self, made):
        made.data = made.data[:-1]
        with pytest.raises(ImageError, match="corrupt image"):
            raw_frame(made)

    def test_without_it_the_error_lists_what_is_supported(self, made, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv_bridge", None)
        with pytest.raises(ImageError) as caught:
            raw_frame(made)
        assert all(name in str(caught.value) for name in ("'own16'", "cv_bridge", *ENCODINGS))


def compressed(image, suffix, format_="", **changes):
    done, data = cv2.imencode(suffix, image)
    assert done
    return SimpleNamespace(**{"format": format_ or suffix[1:], "data": data.tobytes(), **changes})


def png_header(width, height):
    """A PNG that says a size and holds next to nothing."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


STILLS = (".jpg", ".png", ".webp", ".tiff", ".bmp")


class TestCompressed:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_png_pixels_come_out_as_they_went_in(self, channels):
        image = picture(*ODD)
        given = {1: image[..., 0], 3: image, 4: np.dstack([image, image[..., :1]])}[channels]
        frame = frame_from_message(compressed(given, ".png"), MAX_PIXELS)
        wanted = given[..., :3] if channels > 1 else np.dstack([given] * 3)
        np.testing.assert_array_equal(frame.to_bgr(), wanted)

    def test_png_of_16_bits_is_scaled(self):
        frame = frame_from_message(compressed(picture(*ODD).astype(np.uint16) * 257, ".png"), MAX_PIXELS)
        np.testing.assert_array_equal(frame.to_bgr(), picture(*ODD))

    @pytest.mark.parametrize("suffix", STILLS)
    @pytest.mark.parametrize("gray", [False, True])
    def test_as_opencv_decodes_it(self, suffix, gray):
        image = picture(*ODD)[..., 0] if gray else picture(*ODD)
        made = compressed(image, suffix)
        wanted = cv2.imdecode(np.frombuffer(made.data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(frame_from_message(made, MAX_PIXELS).to_bgr(), wanted)

    def test_the_content_says_what_it_is_not_the_format(self):
        frame = frame_from_message(
            compressed(picture(*ODD), ".png", "bgr8; jpeg compressed bgr8"), MAX_PIXELS
        )
        np.testing.assert_array_equal(frame.to_bgr(), picture(*ODD))

    def test_rgb_that_an_old_publisher_took_for_bgr_is_set_right(self):
        swapped = np.ascontiguousarray(picture(*ODD)[..., ::-1])
        frame = frame_from_message(compressed(swapped, ".png", "rgb8; png compressed "), MAX_PIXELS)
        np.testing.assert_array_equal(frame.to_bgr(), picture(*ODD))

    def test_a_bayer_mosaic_is_demosaiced(self):
        seen = mosaic(np.full((*EVEN, 3), (10, 120, 250), np.uint8), "rggb")
        frame = frame_from_message(compressed(seen, ".png", "bayer_rggb8; png compressed "), MAX_PIXELS)
        np.testing.assert_array_equal(frame.to_bgr()[2:-2, 2:-2], np.full((20, 34, 3), (10, 120, 250)))

    def test_orientation_tags_are_not_followed(self):
        made = compressed(picture(*ODD), ".jpg")
        tag = (
            b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
        )
        exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tag)) + b"Exif\x00\x00" + tag
        made.data = made.data[:2] + exif + made.data[2:]
        turned = cv2.imdecode(np.frombuffer(made.data, np.uint8), cv2.IMREAD_COLOR)
        assert turned.shape[:2] == ODD[::-1], "OpenCV does not know the tag: the test shows nothing"
        assert frame_from_message(made, MAX_PIXELS).to_bgr().shape[:2] == ODD

    @pytest.mark.parametrize("size", [(65_535, 65_535), (1_000_000, 1_000_000), (1001, 1000)])
    def test_a_bomb_is_refused_by_its_header(self, size, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", None)
        bombs = [png_header(*size)]
        if max(size) < 65_536:
            made = bytearray(compressed(picture(*ODD), ".jpg").data)
            at = made.index(b"\xff\xc0")
            made[at + 5 : at + 9] = struct.pack(">HH", *size[::-1])
            bombs.append(bytes(made))
        for data in bombs:
            with pytest.raises(ImageError, match=f"too large: its header says {size[0]} x {size[1]} pixels"):
                frame_from_message(SimpleNamespace(format="", data=data), MAX_PIXELS)

    def test_the_largest_allowed_is_read(self):
        assert frame_from_message(compressed(picture(20, 30), ".jpg"), 600).width == 30
        with pytest.raises(ImageError, match="too large"):
            frame_from_message(compressed(picture(20, 30), ".jpg"), 599)

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_cut_anywhere_it_is_refused_not_filled_with_grey(self, suffix):
        whole = compressed(picture(*ODD), suffix).data
        for length in range(0, len(whole) - 2, max(1, len(whole) // 150)):
            with pytest.raises(ImageError):
                frame_from_message(SimpleNamespace(format="", data=whole[:length]), MAX_PIXELS)

    @pytest.mark.parametrize("suffix", STILLS)
    def test_the_header_tells_the_size_of_every_format(self, suffix):
        made = compressed(picture(*ODD), suffix)
        with pytest.raises(ImageError, match="too large: its header says 37 x 23 pixels"):
            frame_from_message(made, ODD[0] * ODD[1] - 1)

    def test_jpeg_2000_is_read_or_refused(self):
        image = picture(100, 140)
        made = compressed(image, ".jp2")
        wanted = cv2.imdecode(np.frombuffer(made.data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(frame_from_message(made, MAX_PIXELS).to_bgr(), wanted)
        with pytest.raises(ImageError, match="its header says 140 x 100 pixels"):
            frame_from_message(made, 100 * 140 - 1)
        for length in range(0, len(made.data) - 200, 1500):
            with pytest.raises(ImageError):
                frame_from_message(SimpleNamespace(format="", data=made.data[:length]), MAX_PIXELS)

    @pytest.mark.parametrize("suffix", [s for s in STILLS if s not in (".jpg", ".png")])
    def test_other_formats_cut_anywhere_are_refused_or_read(self, suffix):
        whole = compressed(picture(*ODD), suffix).data
        refused = 0
        for length in range(0, len(whole), max(1, len(whole) // 60)):
            try:
                frame_from_message(SimpleNamespace(format="", data=whole[:length]), MAX_PIXELS)
            except ImageError:
                refused += 1
        assert refused > 20

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_bytes_after_the_end_do_no_harm(self, suffix):
        made = compressed(picture(*ODD), suffix)
        wanted = frame_from_message(made, MAX_PIXELS).to_bgr()
        made.data += bytes(5000)
        np.testing.assert_array_equal(frame_from_message(made, MAX_PIXELS).to_bgr(), wanted)

    @pytest.mark.parametrize("suffix", STILLS)
    def test_damaged_bytes_give_an_image_or_a_refusal(self, suffix):
        rng = np.random.default_rng(1)
        whole = np.frombuffer(compressed(picture(*ODD), suffix).data, np.uint8)
        refused = 0
        for _ in range(200):
            data = whole.copy()
            data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            try:
                frame = frame_from_message(SimpleNamespace(format="", data=data.tobytes()), MAX_PIXELS)
                assert frame.to_bgr().size <= 3 * MAX_PIXELS
            except ImageError:
                refused += 1
        assert refused or suffix in (".bmp", ".tiff")  # they have no check sums

    @pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
    def test_what_is_no_picture_is_refused_with_its_first_bytes(self, data):
        with pytest.raises(ImageError, match=r"neither JPEG nor PNG|damaged image|unknown"):
            frame_from_message(SimpleNamespace(format="jpeg", data=data), MAX_PIXELS)


def test_an_encoding_is_one_row_of_the_table(monkeypatch):
    code = cv2.COLOR_HSV2BGR
    monkeypatch.setitem(ENCODINGS, "hsv8", Encoding(3, code, what="a dummy"))
    pixels = cv2.cvtColor(picture(*ODD), cv2.COLOR_BGR2HSV)
    frame = raw_frame(message("hsv8", pixels, *ODD, padding=4))
    np.testing.assert_array_equal(frame.to_bgr(), cv2.cvtColor(pixels, code))


@pytest.mark.parametrize(
    ("topic", "encoding", "depth"),
    [
        ("/camera/depth/image_rect_raw", "16UC1", True),
        ("/camera/aligned_depth_to_color/image_raw", "16UC1", True),
        ("/thermal/image_raw", "16UC1", False),
        ("/thermal/image_raw", "mono16", False),
        ("/anything", "32FC1", True),
        ("/camera/depth/image_raw/compressedDepth", "16UC1; compressedDepth png", True),
        ("/in_depth_view/image", "bgr8", False),
        ("/indepth/image", "16UC1", False),
    ],
)
def test_depth_is_told_from_pictures(topic, encoding, depth):
    assert is_depth(topic, encoding) is depth


def test_distances_are_refused_as_such():
    with pytest.raises(ImageError, match="depth image: 32FC1"):
        raw_frame(message("32FC1", np.zeros((23, 148), np.uint8), *ODD))
    made = compressed(np.zeros(ODD, np.uint16), ".png", "16UC1; compressedDepth png")
    with pytest.raises(ImageError, match="depth image"):
        frame_from_message(made, MAX_PIXELS)
    with pytest.raises(ImageError, match="depth image: a TIFF of float32"):
        frame_from_message(compressed(np.zeros(ODD, np.float32), ".tiff"), MAX_PIXELS)
