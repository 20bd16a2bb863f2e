"""Tell an autopilot by MAVLink where the target is.

ros2 launch yolo_autonomy mavlink.launch.py connection:=/dev/ttyTHS1 camera_info_topic:=/camera/camera_info
"""

from launch import LaunchDescription
from yolo_autonomy.launching import adapter
from yolo_autonomy.mavlink import PARAMETERS, TOPICS


def generate_launch_description() -> LaunchDescription:
    """Declare the adapter's parameters and topics as arguments."""
    return adapter("mavlink.launch.py", "mavlink_target", PARAMETERS, TOPICS)
