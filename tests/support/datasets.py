"""Data sets in the layouts that people have: tiny images of two objects, and each set with a peculiarity."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

BOXES = ((0, 0.25, 0.5, 0.2, 0.3), (1, 0.7, 0.375, 0.25, 0.25))
ROWS = "".join(" ".join(map(str, box)) + "\n" for box in BOXES)
YAML = "train: images/train\nval: images/val\nnames: [person, car]\n"
COUNT = 3

# Writes a set into a folder and returns what is given to a reader: the description, or a folder.
Make = Callable[[Path], Path]
LAYOUTS: dict[str, Make] = {}


def layout(make: Make) -> Make:
    """Register a layout under its function's name."""
    LAYOUTS[make.__name__] = make
    return make


def picture(path: Path, size: tuple[int, int] = (40, 32), kind: type = np.uint8, channels: int = 3) -> None:
    """Write an image on which the objects are brighter; the ending decides the format."""
    width, height = size
    image = np.full((height, width, channels), 60, np.uint8)
    for _, x, y, w, h in BOXES:
        rows = slice(round((y - h / 2) * height), round((y + h / 2) * height))
        image[rows, round((x - w / 2) * width) : round((x + w / 2) * width)] = 200
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(path.suffix.lower(), image.astype(kind) * (257 if kind is np.uint16 else 1))[1]
    path.write_bytes(encoded.tobytes())


def fill(
    root: Path,
    rows: str | bytes = ROWS,
    *,
    images: str = "images/{}",
    labels: str = "labels/{}",
    splits: tuple[str, ...] = ("train", "val"),
    suffix: str = ".png",
    **options: object,
) -> None:
    """Write a plain set."""
    for split in splits:
        for index in range(COUNT):
            picture(root / images.format(split) / f"{split}{index}{suffix}", **options)  # type: ignore[arg-type]
            path = root / labels.format(split) / f"{split}{index}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rows.encode() if isinstance(rows, str) else rows)


def described(root: Path, text: str = YAML, name: str = "data.yaml") -> Path:
    """Write the description."""
    (root / name).write_bytes(text.encode())
    return root / name


def _of(rows: str | bytes) -> Make:
    """Return a layout whose label files all hold these rows."""

    def make(root: Path) -> Path:
        fill(root, rows)
        return described(root)

    return make


def _one(rows: str | bytes) -> Make:
    """Return a layout in which one label file of each split holds these rows."""

    def make(root: Path) -> Path:
        fill(root)
        for split in ("train", "val"):
            data = rows.encode() if isinstance(rows, str) else rows
            (root / "labels" / split / f"{split}1.txt").write_bytes(data)
        return described(root)

    return make


def _named(text: str) -> Make:
    """Return a layout with this description of a plain set."""

    def make(root: Path) -> Path:
        fill(root)
        return described(root, text)

    return make


def outline(points: int, box: tuple[float, ...]) -> str:
    """Return a polygon row around a box."""
    c, x, y, w, h = box
    corners = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
    corners = (corners + [corners[0]] * points)[:points]
    return f"{int(c)} " + " ".join(f"{a:.6f} {b:.6f}" for a, b in corners) + "\n"


FOLDERS = "train: images/train\nval: images/val\n"
LAYOUTS.update(
    {
        # label files
        "plain": _of(ROWS),
        "byte_order_mark": _of(ROWS.encode("utf-8-sig")),
        "carriage_returns": _of(ROWS.replace("\n", "\r\n")),
        "old_mac_lines": _of(ROWS.replace("\n", "\r")),
        "tabs_and_spaces": _of(ROWS.replace(" ", " \t ") + "\n  \n"),
        "no_last_newline": _of(ROWS.rstrip()),
        "class_as_float": _of(ROWS.replace("0 0.25", "0.0 0.25").replace("1 0.7", "1.0 0.7")),
        "exponents": _of("0 2.5e-1 .5 2e-1 3E-1\n"),
        "twice_the_same_row": _of(ROWS + ROWS),
        "nearly_the_same_row": _of(ROWS + "0 0.25 0.5 0.2 0.300001\n"),
        "polygons": _of(outline(6, BOXES[0]) + outline(9, BOXES[1])),
        "polygons_of_seven_values": _of(outline(3, BOXES[0]) + outline(3, BOXES[1])),
        "polygon_twice": _of(outline(5, BOXES[0]) * 2 + outline(7, BOXES[1])),
        "polygons_of_one_box": _of(outline(4, BOXES[0]) + outline(5, BOXES[0])),
        "polygon_and_short_row": _one(outline(6, BOXES[0]) + "1 0.5 0.5\n"),
        "polygon_and_even_row": _one(outline(6, BOXES[0]) + "1 0.5 0.5 0.1 0.1 0.9\n"),
        "polygons_and_boxes": _one(outline(6, BOXES[0]) + "1 0.7 0.375 0.25 0.25\n"),
        "with_confidence": _one(ROWS.replace("\n", " 0.9\n")),
        "four_values": _one("0 0.5 0.5 0.1\n"),
        "rows_of_many_lengths": _one("0 0.5 0.5 0.1\n1 0.5 0.5 0.1 0.2\n"),
        "class_beyond_the_names": _one(ROWS + "5 .5 .5 .1 .1\n"),
        "class_below_zero": _one(ROWS + "-1 .5 .5 .1 .1\n"),
        "class_between": _one(ROWS + "0.5 .5 .5 .1 .1\n"),
        "class_a_little_below_zero": _one("-0.005 .5 .5 .1 .1\n"),
        "a_name_in_place_of_the_class": _one("person .5 .5 .1 .1\n"),
        "commas": _one(ROWS.replace(" ", ",")),
        "pixels": _one("0 10 10 20 20\n"),
        "center_outside": _one(ROWS + "0 1.3 .5 .1 .1\n"),
        "a_little_outside": _of(ROWS + "0 1.005 .5 .1 .1\n"),
        "negative_center": _one(ROWS + "0 -0.2 .5 .1 .1\n"),
        "a_little_negative": _of(ROWS + "0 -0.005 .5 .1 .1\n"),
        "negative_width": _one(ROWS + "0 .5 .5 -0.005 .1\n"),
        "not_a_number": _one(ROWS + "0 nan .5 .1 .1\n"),
        "nan_width": _one(ROWS + "0 .5 .5 .1 nan\n"),
        "infinite": _one(ROWS + "0 .5 .5 inf .1\n"),
        "nan_class": _one("nan .5 .5 .1 .1\n"),
        "without_extent": _of(ROWS + "0 .5 .5 0 0\n"),
        "latin_1": _one(ROWS.encode() + b"# stra\xdfe\n"),
        "utf_16": _one(ROWS.encode("utf-16")),
        "empty_label_file": _one(""),
        "blank_label_file": _one(" \n\n"),
        # descriptions
        "names_by_number": _named(FOLDERS + "names: {0: person, 1: car}\n"),
        "names_out_of_order": _named(FOLDERS + "names: {1: car, 0: person}\n"),
        "quoted_numbers": _named(
            FOLDERS + "names: {" + ", ".join(f"'{i}': n{i}" for i in range(11, -1, -1)) + "}\n"
        ),
        "names_from_one": _named(FOLDERS + "names: {1: person, 2: car}\n"),
        "names_with_a_gap": _named(FOLDERS + "names: {0: person, 2: car}\n"),
        "names_by_name": _named(FOLDERS + "names: {person: 0, car: 1}\n"),
        "names_as_text": _named(FOLDERS + "names: person\n"),
        "names_yes_and_no": _named(FOLDERS + "names: [yes, no]\n"),
        "names_are_numbers": _named(FOLDERS + "names: [7, 8]\n"),
        "no_names": _named(FOLDERS + "names: []\n"),
        "neither_names_nor_nc": _named(FOLDERS),
        "nc_alone": _named(FOLDERS + "nc: 2\n"),
        "nc_as_text": _named(FOLDERS + "nc: '2'\n"),
        "nc_of_words": _named(FOLDERS + "nc: two\n"),
        "nc_and_other_names": _named(FOLDERS + "nc: 3\nnames: [person, car]\n"),
        "validation": _named(YAML.replace("val:", "validation:")),
        "empty_val": _named(YAML.replace("val: images/val", "val:")),
        "no_val": _named("train: images/train\nnames: [person, car]\n"),
        "path_of_nothing": _named("path: nowhere\n" + YAML),
        "path_of_home": _named("path: ~/nowhere\n" + YAML),
        "path_is_a_list": _named("path: [a]\n" + YAML),
        "a_wildcard": _named(YAML.replace("images/val", "images/va*")),
        "marked_yaml": _named("\ufeff" + YAML),
        "tabs_in_yaml": _named(FOLDERS + "names:\n\t0: person\n"),
        "a_control_character": _named(YAML + "comment: a\x07b\n"),
        "only_text": _named("just text\n"),
        "one_missing_of_two": _named(YAML.replace("val: images/val", "val: [images/val, images/other]")),
        "twice_the_same_folder": _named(YAML.replace("val: images/val", "val: [images/val, images/val]")),
        "a_channel": _named(YAML + "channels: 1\n"),
    }
)


@layout
def roboflow(root: Path) -> Path:
    fill(root, images="{}/images", labels="{}/labels", splits=("train", "valid"))
    return described(root, "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['person', 'car']\n")


@layout
def several_folders(root: Path) -> Path:
    fill(root, splits=("a", "b"))
    return described(root, "train: [images/a]\nval: [images/b, images/a]\nnames: [person, car]\n")


def _listed(text: str, encoding: str = "utf-8") -> Make:
    def make(root: Path) -> Path:
        fill(root)
        for split in ("train", "val"):
            lines = "".join(text.format(f"images/{split}/{split}{i}.png", root=root) for i in range(COUNT))
            (root / f"{split}.txt").write_bytes(lines.encode(encoding))
        return described(root, YAML.replace("images/train", "train.txt").replace("images/val", "val.txt"))

    return make


LAYOUTS.update(
    {
        "list_file": _listed("./{}\n"),
        "list_file_absolute": _listed("{root}/{}\n"),
        "list_file_marked": _listed("./{}\r\n\r\n", "utf-8-sig"),
        "list_file_with_spaces_behind": _listed("./{} \n"),
        "list_file_of_nothing": _listed("./{}x\n"),
        "list_file_of_missing_images": _listed("./no/{}\n"),
    }
)


@layout
def list_of_lists(root: Path) -> Path:
    make = LAYOUTS["list_file"](root)
    make.write_text(YAML.replace("val: images/val", "val: [val.txt, images/train]"))
    return make


@layout
def linked_images(root: Path) -> Path:
    fill(root, images="store/{}")
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        for path in (root / "store" / split).iterdir():
            (root / "images" / split / path.name).symlink_to(path)
    return described(root)


@layout
def linked_split_folder(root: Path) -> Path:
    fill(root, images="store/{}")
    (root / "images").mkdir()
    for split in ("train", "val"):
        (root / "images" / split).symlink_to(root / "store" / split)
    return described(root)


@layout
def linked_folder_inside(root: Path) -> Path:
    fill(root, images="store/images/{}", labels="store/labels/{}")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
            (root / kind / split / "deep").symlink_to(root / "store" / kind / split)
    return described(root)


@layout
def dangling_links(root: Path) -> Path:
    fill(root)
    (root / "images" / "val" / "gone.png").symlink_to(root / "nowhere.png")
    return described(root)


@layout
def hidden_files(root: Path) -> Path:
    fill(root)
    for name in ("._val0.png", ".hidden/val9.png"):
        picture(root / "images" / "val" / name)
    return described(root)


@layout
def deeper_folders(root: Path) -> Path:
    fill(root, images="images/{}/a/b", labels="labels/{}/a/b")
    return described(root)


@layout
def labels_beside_the_images(root: Path) -> Path:
    fill(root, images="{}", labels="{}")
    return described(root, "train: train\nval: val\nnames: [person, car]\n")


@layout
def ten_classes_beside_the_images(root: Path) -> Path:
    fill(root, images="{}", labels="{}")
    return described(root, f"train: train\nval: val\nnames: {[f'c{i}' for i in range(10)]}\n")


@layout
def images_in_images(root: Path) -> Path:
    fill(root, images="images/{}/images", labels="images/{}/labels")
    return described(root, YAML.replace("/train", "/train/images").replace("/val", "/val/images"))


@layout
def a_folder(root: Path) -> Path:
    fill(root)
    described(root)
    return root


@layout
def a_folder_with_two_descriptions(root: Path) -> Path:
    fill(root)
    described(root)
    described(root, name="other.yaml")
    return root


@layout
def special_letters(root: Path) -> Path:
    root = root / "Flug über [München] (1) 空撮"
    fill(root, images="images/{} ü", labels="labels/{} ü")
    return described(root, YAML.replace("/train", "/train ü").replace("/val", "/val ü"))


@layout
def no_labels(root: Path) -> Path:
    fill(root)
    shutil.rmtree(root / "labels")
    return described(root)


@layout
def half_labelled(root: Path) -> Path:
    fill(root)
    for split in ("train", "val"):
        (root / "labels" / split / f"{split}0.txt").unlink()
    return described(root)


@layout
def one_stem_twice(root: Path) -> Path:
    fill(root)
    picture(root / "images" / "val" / "val0.bmp")
    return described(root)


@layout
def dots_in_names(root: Path) -> Path:
    fill(root)
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        (root / kind / "val" / f"val0{suffix}").rename(root / kind / "val" / f"DJI.2024.01{suffix}")
    return described(root)


@layout
def annotations_of_another_kind(root: Path) -> Path:
    fill(root)
    (root / "annotations" / "val").mkdir(parents=True)
    for index in range(COUNT):
        (root / "annotations" / "val" / f"val{index}.txt").write_text("person 10 20 30 40\n")
    return described(root)


@layout
def pose(root: Path) -> Path:
    fill(root, ROWS.replace("\n", " .5 .5 2 .6 .6 2\n"))
    return described(root, YAML + "kpt_shape: [2, 3]\n")


def _with(suffix: str, **options: object) -> Make:
    def make(root: Path) -> Path:
        fill(root, suffix=suffix, **options)  # type: ignore[arg-type]
        return described(root)

    return make


LAYOUTS.update(
    {
        "jpeg": _with(".jpg"),
        "capitals": _with(".JPG"),
        "tiff": _with(".tif"),
        "bmp": _with(".bmp"),
        "webp": _with(".webp"),
        "jpeg_2000": _with(".jp2"),
        "sixteen_bits": _with(".png", kind=np.uint16, channels=1),
        "sixteen_bits_tiff": _with(".tiff", kind=np.uint16, channels=1),
        "gray": _with(".png", channels=1),
        "with_alpha": _with(".png", channels=4),
        "too_small": _with(".png", size=(40, 9)),
    }
)


def _damaged(damage: Callable[[Path], None], suffix: str = ".jpg") -> Make:
    def make(root: Path) -> Path:
        fill(root, suffix=suffix)
        for split in ("train", "val"):
            damage(root / "images" / split / f"{split}1{suffix}")
        return described(root)

    return make


def _turn(path: Path) -> None:
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x112] = 6
        image.rotate(90, expand=True).save(path, exif=exif)


LAYOUTS.update(
    {
        "no_image": _damaged(lambda path: path.write_bytes(b"not an image")),
        "empty_image": _damaged(lambda path: path.write_bytes(b"")),
        "half_an_image": _damaged(
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        ),
        "image_without_its_end": _damaged(lambda path: path.write_bytes(path.read_bytes()[:-2])),
        "bytes_behind_the_end": _damaged(lambda path: path.write_bytes(path.read_bytes() + bytes(9))),
        "half_a_png": _damaged(lambda path: path.write_bytes(path.read_bytes()[:60]), ".png"),
        "another_format_inside": _damaged(lambda path: picture(path) or path.write_bytes(_gif())),
        "a_folder_named_as_image": _damaged(lambda path: (path.unlink(), path.mkdir())[1]),
        "turned_by_exif": _damaged(_turn),
        "mpo": _damaged(lambda path: path.rename(path.with_suffix(".mpo"))),
        "unknown_ending": _damaged(lambda path: path.rename(path.with_suffix(".jfif"))),
    }
)


def _gif() -> bytes:
    return cv2.imencode(".gif", np.full((12, 12, 3), 9, np.uint8))[1].tobytes()
