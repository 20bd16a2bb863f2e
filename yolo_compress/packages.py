"""Whether the packages are there that everything else imports; this module needs none of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

CheckStatus = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Check:
    """What one check came to.

    Attributes:
        status: FAIL where a run would fail, WARN where it would surprise.
        what: was found, with its figures.
        remedy: what to do about it; empty where all is well.
    """

    status: CheckStatus
    what: str
    remedy: str = ""


def python_version() -> Check:
    """Check that this Python is one that the packages are tested with."""
    found = platform.python_version()
    if sys.version_info >= (3, 13):
        return Check("WARN", f"Python {found} is newer than what this is tested with", "use 3.10 to 3.12")
    return Check("OK", f"Python {found}")


def packages() -> Iterator[Check]:
    """Check that everything that yolo-compress needs is there, in versions that work together."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check("FAIL", "packaging is not installed", "pip install packaging")
        return
    found = []
    for text in requires("yolo-compress") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            present = version(requirement.name)
        except PackageNotFoundError:
            yield Check("FAIL", f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(present, prereleases=True):
            yield Check(
                "FAIL",
                f"{requirement.name} {present} is not {requirement.specifier}",
                f"pip install '{requirement}'",
            )
        found.append(f"{requirement.name} {present}")
    shown = ("torch", "torchvision", "ultralytics", "torch-pruning", "onnx ", "onnxruntime", "numpy")
    yield Check("OK", ", ".join(text for text in found if text.startswith(shown)))
    yield from bad_pairs(_installed())


def _installed() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "ultralytics")
    found = {}
    for name in (*names, "ultralytics-opencv-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def bad_pairs(installed: dict[str, str]) -> Iterator[Check]:
    """Yield the pairs of versions that are known not to work together.

    Args:
        installed: versions by the package's name.
    """
    from packaging.version import Version

    numbers = {name: Version(text) for name, text in installed.items()}
    torch_version, vision = numbers.get("torch"), numbers.get("torchvision")
    # torchvision 0.15 came with torch 2.0, and so on since.
    if torch_version and vision and torch_version.major == 2 and vision.minor != torch_version.minor + 15:
        yield Check(
            "FAIL",
            f"torchvision {vision} was not built for torch {torch_version}",
            f"pip install 'torchvision==0.{torch_version.minor + 15}.*' from the index that torch came from",
        )
    numpy = numbers.get("numpy")
    if torch_version and numpy and torch_version < Version("2.3") and numpy >= Version("2"):
        yield Check(
            "FAIL",
            f"torch {torch_version} was built for NumPy 1 and cannot exchange arrays with NumPy {numpy}",
            "pip install 'numpy<2', or torch 2.3 or newer",
        )
    for one, other in (
        ("opencv-python", "opencv-python-headless"),
        ("ultralytics", "ultralytics-opencv-headless"),
    ):
        if one in numbers and other in numbers:
            yield Check(
                "WARN",
                f"{one} and {other} are both installed and overwrite each other's files",
                f"pip uninstall {one} {other}, then pip install {other}",
            )
