"""The start of the node's process: what must work before the node can be imported.

The imports take a second on a small board. A signal that comes meanwhile ends the process at once and without
a traceback, as later; and ``--help`` needs none of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

HELP = """\
usage: detector_node [--help] [--ros-args [-p NAME:=VALUE] [--params-file FILE] [-r FROM:=TO] ...]

Detects objects in the images of one camera or several, and publishes vision_msgs/Detection2DArray.

    ros2 run yolo_trt_node detector_node --ros-args -p model:=drone.onnx -r image:=/camera/image_raw
    ros2 launch yolo_trt_node detect.launch.py model:=drone.onnx image_topic:=/camera/image_raw

config/detect.yaml in the package's share explains every parameter, and so does
`ros2 launch yolo_trt_node detect.launch.py --show-args`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the node; see `detector_node.main`."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        # Nothing has been created yet that would have to be given back.
        os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    own = own_arguments(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(own):
        print(HELP)
        return
    if own:
        print(
            f"detector_node: there is no argument {own[0]}; parameters go like --ros-args -p NAME:=VALUE",
            file=sys.stderr,
        )
        sys.exit(2)

    from yolo_trt_node.node.detector_node import main as run

    run()


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are not for ROS: those outside of ``--ros-args ... --``."""
    own, for_ros = [], False
    for argument in arguments:
        if argument == "--ros-args":
            for_ros = True
        elif for_ros and argument == "--":
            for_ros = False
        elif not for_ros:
            own.append(argument)
    return own


if __name__ == "__main__":
    main()
