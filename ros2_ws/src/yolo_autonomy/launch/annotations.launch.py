"""Detections as lines and texts over the camera's image, for Foxglove.

ros2 launch yolo_autonomy annotations.launch.py max_rate_hz:=5
"""

from launch import LaunchDescription
from yolo_autonomy.annotations import PARAMETERS, TOPICS
from yolo_autonomy.launching import adapter


def generate_launch_description() -> LaunchDescription:
    """Declare the adapter's parameters and topics as arguments."""
    return adapter("annotations.launch.py", "image_annotations", PARAMETERS, TOPICS)
