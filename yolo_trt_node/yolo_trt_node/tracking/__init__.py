"""Identities for detections, from frame to frame; no ROS, no torch.

Built on OpenCV's blocks (corners, Lucas-Kanade flow, RANSAC) and NumPy. The ByteTrack libraries looked at
cannot fly along: ``trackers`` and ``supervision`` bring OpenCV's GUI build, NumPy 2, Matplotlib and FFmpeg
bindings, ``norfair`` refuses NumPy 2, ``boxmot`` needs torch, and those compiled from Rust
(``edgefirst-tracker``, ``ioutrack``) match by overlap alone and know nothing of the camera's motion.
"""

from yolo_trt_node.boxes import NO_ID
from yolo_trt_node.tracking.tracker import Tracker, TrackerOptions

__all__ = ["NO_ID", "Tracker", "TrackerOptions"]
