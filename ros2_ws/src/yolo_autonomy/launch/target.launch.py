"""Choose one of the detected objects.

ros2 launch yolo_autonomy target.launch.py classes:=car camera_info_topic:=/camera/camera_info
"""

from launch import LaunchDescription
from yolo_autonomy.launching import adapter
from yolo_autonomy.target import PARAMETERS, TOPICS


def generate_launch_description() -> LaunchDescription:
    """Declare the adapter's parameters and topics as arguments."""
    return adapter("target.launch.py", "target_selection", PARAMETERS, TOPICS)
