"""Build the ROS 2 package (``colcon build``) or install the ROS-free detector alone (``pip install``)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "yolo_trt_node"


VERSION = re.search(r'^__version__ = "(.+)"$', Path(NAME, "__init__.py").read_text(), re.MULTILINE)[1]


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """List a folder's files as data files of the package's share, one entry a sub-folder."""
    folders = [Path(folder), *(path for path in Path(folder).rglob("*") if path.is_dir())]
    # The recipes belong to yolo_compress, under its licence.
    folders = [path for path in folders if path.name != "compress"]
    return [
        (f"share/{NAME}/{path}", [str(file) for file in sorted(path.iterdir()) if file.is_file()])
        for path in folders
    ]


setup(
    name=NAME,
    version=VERSION,
    description="Object detection on camera topics",
    license="Apache-2.0",
    maintainer="yolo_trt_node maintainers",
    maintainer_email="maintainers@yolo-trt-node.example.org",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: ["py.typed"],
        f"{NAME}.detector.cuda": ["*.cu", "*.ptx"],
        f"{NAME}.replay": ["vision_msgs/*.msg"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
    ],
    # ROS resolves the other dependencies (package.xml); naming them here would break on apt's OpenCV.
    install_requires=["setuptools"],
    # By this colcon knows that there are tests.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"bag_detect = {NAME}.replay.bag_detect:main",
            f"bag_labels = {NAME}.replay.bag_labels:main",
            f"build_engine = {NAME}.build_engine:main",
            f"detector_node = {NAME}.node.start:main",
            f"play_images = {NAME}.replay.play_images:main",
            f"record_bag = {NAME}.replay.record_bag:main",
            f"sros2_policy = {NAME}.node.policy:main",
            f"time_model = {NAME}.time_model:main",
        ]
    },
)
