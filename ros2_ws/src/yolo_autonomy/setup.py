"""Build the ROS 2 package of adapters (``colcon build``)."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "yolo_autonomy"

setup(
    name=NAME,
    version="0.1.0",
    description="From detections to autopilots, planners and ground stations",
    license="Apache-2.0",
    maintainer="yolo_trt_node maintainers",
    maintainer_email="maintainers@yolo-trt-node.example.org",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *(
            (
                f"share/{NAME}/{folder}",
                [str(file) for file in sorted(Path(folder).iterdir()) if file.is_file()],
            )
            for folder in ("launch", "config")
            if Path(folder).is_dir()
        ),
    ],
    # ROS resolves the other dependencies (package.xml).
    install_requires=["setuptools"],
    # By this colcon knows that there are tests.
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"bag_geo = {NAME}.bag_geo:main",
            f"bag_rerun = {NAME}.bag_rerun:main",
            f"image_annotations = {NAME}.annotations_node:main",
            f"mavlink_target = {NAME}.mavlink_node:main",
            f"obstacle_cloud = {NAME}.obstacles_node:main",
            f"px4_target = {NAME}.px4_node:main",
            f"target_selection = {NAME}.target_node:main",
        ]
    },
)
