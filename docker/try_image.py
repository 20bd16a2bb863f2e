#!/usr/bin/env python3
"""Build the CPU image and run the compose file's commands on a recorded flight, without Docker.

Docker's daemon is not needed: the base is a plain Debian from mmdebstrap, and buildah builds by chroot.
So the image takes ROS 2 from wheels, as docker/Dockerfile does on any base that has none.

Examples:
    python docker/try_image.py --bag demo/flight --model demo/run/distilled/model.onnx
    make image
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BASE = "localhost/debian-12"
IMAGE = "localhost/yolo_trt_node"
TOOLS = ("buildah", "mmdebstrap")
# Where this machine's pip is told to find its certificates, the image's pip is told too.
CERTIFICATES = os.environ.get("PIP_CERT", "")
# As `ipc: host` of the compose file: images go through Fast DDS's shared memory.
_IPC = "--volume=/dev/shm:/dev/shm"
_READY_S = 90.0
_END_S = 20.0


class ImageError(Exception):
    """The image cannot be built, or does not do its work; the message says what to do."""


def main() -> int:
    """Build, run, compare; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bag", type=Path, required=True, help="the flight to replay: a rosbag2 folder")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX model to fly")
    parser.add_argument("--topic", default="/camera/image_raw", help="of the images (%(default)s)")
    arguments = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed (sudo apt-get install {' '.join(missing)})")
        return 0
    for path in (arguments.bag, arguments.model):
        if not path.exists():
            print(f"image: {path} does not exist; `make demo` makes a flight and a model", file=sys.stderr)
            return 1
    try:
        build()
        images, answers = replay(arguments.bag, arguments.model, arguments.topic)
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    print(f"image: {answers} of {images} images of {arguments.bag} were answered")
    return 0 if answers else 1


def build() -> None:
    """Build the image; the Debian base is made once."""
    if not quiet(["buildah", "inspect", "--type", "image", BASE]):
        print("image: a plain Debian 12 as base ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "base.tar"
            loud(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", tar])
            container = output(["buildah", "from", "scratch"])
            loud(["buildah", "add", "--quiet", container, tar, "/"])
            loud(["buildah", "commit", "--quiet", "--rm", container, BASE])
    started = time.monotonic()
    print("image: building docker/Dockerfile ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        volumes: list[str] = []
        if CERTIFICATES:
            configuration = Path(folder) / "pip.conf"
            configuration.write_text("[global]\ncert = /etc/ssl/certs/of-the-builder.crt\n")
            volumes = [
                f"--volume={CERTIFICATES}:/etc/ssl/certs/of-the-builder.crt:ro",
                f"--volume={configuration}:/etc/pip.conf:ro",
            ]
        loud(
            [
                "buildah",
                "bud",
                "--format=docker",
                "--isolation=chroot",
                "--layers",
                f"--build-arg=BASE={BASE}",
                *volumes,
                "--file",
                ROOT / "docker" / "Dockerfile",
                "--tag",
                IMAGE,
                ROOT,
            ]
        )
    print(f"image: built in {time.monotonic() - started:.0f} s", flush=True)


def replay(bag: Path, model: Path, topic: str) -> tuple[int, int]:
    """Run compose.yaml's services by their own command lines; return images played and answers recorded."""
    from rosbags.highlevel import AnyReader

    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded"
        recorded.mkdir()
        recorded.chmod(0o777)
        values = {"BAG": bag.resolve(), "MODEL": model.resolve(), "TOPIC": topic, "RECORDED": recorded}
        container = output(["buildah", "from", IMAGE])
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in ("detector", "recorder"):
                running[name] = start(container, services[name], values)
            wait_until_healthy(container, running["detector"])
            running["player"] = start(container, services["player"], values)
            status = running.pop("player").wait()
            if status:
                raise ImageError(f"the player ended with status {status}")
            time.sleep(2.0)  # what is in flight arrives
        finally:
            for process in running.values():
                stop(process)
            # buildah may end before what it ran: the recorder still writes the index of its bag.
            deadline = time.monotonic() + _END_S
            while not (recorded / "bag" / "metadata.yaml").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            quiet(["buildah", "rm", container])
        counts = {}
        for name, path in (("played", bag), ("recorded", recorded / "bag")):
            with AnyReader([path]) as reader:
                counts[name] = {c.topic: c.msgcount for c in reader.connections}
        return counts["played"].get(topic, 0), counts["recorded"].get("/detections", 0)


def start(container: str, service: dict, values: dict[str, object]) -> subprocess.Popen[bytes]:
    """Start one service in the container, with its volumes."""
    volumes = []
    for volume in service.get("volumes", ()):
        source, target, *mode = expand(volume, values).rsplit(":", 2 if volume.endswith(":ro") else 1)
        if source.startswith("/"):
            volumes.append(f"--volume={source}:{target}" + (":ro" if mode else ""))
    command = ["/opt/yolo/docker/entrypoint.sh", *expand(service["command"], values).split()]
    return subprocess.Popen(
        ["buildah", "run", "--isolation=chroot", _IPC, *volumes, container, "--", *command],
        start_new_session=True,
    )


def expand(text: str, values: dict[str, object]) -> str:
    """Fill in ``${NAME:-default}`` and ``${NAME:?message}`` as compose does."""
    while "${" in text:
        before, _, rest = text.partition("${")
        inside, _, after = rest.partition("}")
        text = f"{before}{values[inside.partition(':')[0]]}{after}"
    return text


def wait_until_healthy(container: str, detector: subprocess.Popen[bytes]) -> None:
    """Run the image's health check until it is content."""
    check = ["/opt/yolo/docker/entrypoint.sh", "python", "/opt/yolo/docker/healthy.py"]
    deadline = time.monotonic() + _READY_S
    while not quiet(["buildah", "run", "--isolation=chroot", _IPC, container, "--", *check]):
        if detector.poll() is not None:
            raise ImageError(f"the detector ended with status {detector.returncode}")
        if time.monotonic() > deadline:
            raise ImageError(f"the detector was not healthy within {_READY_S:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a service as compose does: with SIGINT, and in the end with SIGKILL."""
    for number, seconds in ((signal.SIGINT, _END_S), (signal.SIGKILL, _END_S)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def quiet(command: list[object]) -> bool:
    """Tell whether a command succeeds."""
    return subprocess.run([str(part) for part in command], capture_output=True, check=False).returncode == 0


def output(command: list[object]) -> str:
    """Return what a command prints."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ImageError(f"{' '.join(map(str, command))} failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def loud(command: list[object]) -> None:
    """Run a command in the user's sight; on failure name it."""
    if subprocess.run([str(part) for part in command], check=False).returncode:
        raise ImageError(f"{' '.join(map(str, command))} failed; its output is above")


if __name__ == "__main__":
    sys.exit(main())
