"""The shipped DDS profiles for large images: which one a process needs, and by which variables it gets it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

AUTO_PROFILE = "auto"
NONE = "none"


@dataclass(frozen=True)
class Middleware:
    """How a DDS implementation takes a profile.

    Attributes:
        name: as people call it.
        rmw: how the names of its RMW implementations begin.
        profile: the shipped profile, in the package's share.
        variables: what names the profile to it.
        others: further variables by which users choose the transports.
        prefix: what stands before the path.
    """

    name: str
    rmw: str
    profile: str
    variables: tuple[str, ...]
    others: tuple[str, ...] = ()
    prefix: str = ""


MIDDLEWARE = (
    Middleware(
        "Fast DDS",
        "rmw_fastrtps",
        "config/dds/fastdds_large_frames.xml",
        # Fast DDS 2 (Humble, Jazzy) reads the first name, Fast DDS 3 the second.
        ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("FASTDDS_BUILTIN_TRANSPORTS",),
    ),
    Middleware(
        "Cyclone DDS",
        "rmw_cyclonedds",
        "config/dds/cyclonedds_large_frames.xml",
        ("CYCLONEDDS_URI",),
        prefix="file://",
    ),
)


def middleware(environment: Mapping[str, str]) -> Middleware | None:
    """Return what a process with these variables talks through; None for one that has no profile here."""
    # Fast DDS is what Humble and Jazzy take where nothing is said.
    rmw = environment.get("RMW_IMPLEMENTATION") or MIDDLEWARE[0].rmw
    return next((known for known in MIDDLEWARE if rmw.startswith(known.rmw)), None)


def profile_environment(choice: str, environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Decide on the DDS profile of a process.

    Args:
        choice: ``auto``: the shipped profile, unless the user has set one; ``none``: leave all as it is; or
            the path of a profile.
        environment: what the process would have.

    Returns:
        The variables to add, and a line for the log; both empty where nothing is to be done.

    Raises:
        ValueError: there is no such file, or the middleware takes none.
    """
    if choice == NONE:
        return {}, ""
    found = middleware(environment)
    if choice != AUTO_PROFILE:
        if found is None:
            raise ValueError(
                f"dds_profile:={choice} cannot be given to {environment['RMW_IMPLEMENTATION']}, which is "
                f"neither {' nor '.join(known.name for known in MIDDLEWARE)}: pass dds_profile:=none"
            )
        path = Path(os.path.abspath(os.path.expanduser(choice)))
        if not path.is_file():
            raise ValueError(f"dds_profile:={choice}: there is no file {path}")
        return dict.fromkeys(found.variables, f"{found.prefix}{path}"), f"{found.name} profile: {path}"
    if found is None or any(environment.get(name) for name in (*found.variables, *found.others)):
        return {}, ""
    path = Path(get_package_share_directory("yolo_trt_node")) / found.profile
    value = f"{found.prefix}{path}"
    return dict.fromkeys(found.variables, value), (
        f"{found.name} profile for large images (the camera needs it too; dds_profile:=none leaves it out): "
        f"{found.variables[0]}={value}"
    )
