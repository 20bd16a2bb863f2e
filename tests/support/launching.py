"""A launch file under the real launch system, with an installed package whose executables are the test's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Run with (launch file, NAME:=VALUE ...) as arguments.
RUNNER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(text.split(":=", 1)) for text in sys.argv[2:]]
service = LaunchService(noninteractive=True)
service.include_launch_description(LaunchDescription([
    IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)
]))
sys.exit(service.run())
"""


def install_package(prefix: Path, executables: Mapping[str, str]) -> Path:
    """Lay out yolo_trt_node as colcon installs it, with these scripts by name; return its share folder."""
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "yolo_trt_node").touch()
    share = prefix / "share" / "yolo_trt_node"
    share.mkdir()
    (share / "config").symlink_to(ROOT / "config")
    folder = prefix / "lib" / "yolo_trt_node"
    folder.mkdir(parents=True)
    for name, script in executables.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return share
