"""Flights from bags and into bags, also on machines without rosbag2."""

try:
    import rosbags  # noqa: F401
except ModuleNotFoundError as error:
    # It has no rosdep key, so a ROS installation alone does not bring it.
    raise ModuleNotFoundError("bags need the Python package rosbags: pip install rosbags") from error
