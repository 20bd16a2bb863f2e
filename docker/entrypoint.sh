#!/bin/bash
# Every command of the image runs with ROS 2, the node's tools and the DDS profile for large images at hand.
set -e
for setup in "/opt/ros/${ROS_DISTRO:-none}/setup.bash"; do
  [ -e "$setup" ] && source "$setup"
done
source /opt/yolo/.venv/env.sh
export PATH="/opt/yolo/ros2_ws/install/lib/yolo_trt_node:$PATH"
export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-/opt/yolo/config/dds/fastdds_large_frames.xml}"
exec "$@"
