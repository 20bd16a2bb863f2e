"""Camera images as frames: messages read, pixels in the encoding of their camera; no ROS."""
