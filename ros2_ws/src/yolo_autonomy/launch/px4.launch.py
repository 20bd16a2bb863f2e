"""Tell PX4 by uXRCE-DDS where the target is, or follow it in Offboard mode.

ros2 launch yolo_autonomy px4.launch.py camera_info_topic:=/camera/camera_info
ros2 launch yolo_autonomy px4.launch.py follow:=true height:=20.0 camera_info_topic:=/camera/camera_info
"""

from launch import LaunchDescription
from yolo_autonomy.follow import PARAMETERS, TOPICS
from yolo_autonomy.launching import adapter


def generate_launch_description() -> LaunchDescription:
    """Declare the adapter's parameters and topics as arguments."""
    return adapter("px4.launch.py", "px4_target", PARAMETERS, TOPICS)
