"""Detected objects on the ground as point clouds for Nav2's obstacle layer.

ros2 launch yolo_autonomy obstacles.launch.py classes:=car,person resolution:=0.1
"""

from launch import LaunchDescription
from yolo_autonomy.launching import adapter
from yolo_autonomy.obstacles import PARAMETERS, TOPICS


def generate_launch_description() -> LaunchDescription:
    """Declare the adapter's parameters and topics as arguments."""
    return adapter("obstacles.launch.py", "obstacle_cloud", PARAMETERS, TOPICS)
