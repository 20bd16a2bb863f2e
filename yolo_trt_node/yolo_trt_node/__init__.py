"""Object detection on ROS 2 camera topics: a ROS-free detector and the node that flies it."""

__version__ = "0.1.0"
