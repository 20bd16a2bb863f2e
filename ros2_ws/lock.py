"""Write hashes.txt anew: the SHA-256 of every file of each version in constraints.txt.

Run ``python ros2_ws/lock.py`` after a change of pins, with ``uv`` installed (``pip install uv``). It resolves
what set-up installs for Python 3.10 to 3.12 on x86-64 and aarch64, within the pins, and stops where one is
missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bootstrap

WHERE = "sys_platform == 'linux' and python_full_version < '3.13' and platform_machine == "
PROJECT = f"""\
[project]
name = "set-up"
version = "0"
requires-python = ">=3.10"
[tool.uv]
environments = ["{WHERE}'x86_64'", "{WHERE}'aarch64'"]
python-downloads = "never"
"""
HEADER = """\
# The SHA-256 of every file of each version in constraints.txt, and of those that set-up takes beside a
# sourced ROS 2 and for tests to look into. Set-up installs nothing else. Made by ros2_ws/lock.py; builds with
# a local version (torch's +cpu) come from indexes that it does not ask: those entries are kept as they are,
# and a build that has none here is installed unchecked, and said so.
"""


def requirements() -> list[str]:
    """Return what set-up asks pip for, as far as it has to be resolved."""
    text = (bootstrap.ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text, re.M | re.S)
    wanted = [entry for block in lists for entry in re.findall(r'^\s+"([^"]+)"', block, re.M)]
    wanted = [entry for entry in wanted if not entry.startswith("yolo-")]
    wheels = bootstrap.ROS_WHEELS + bootstrap.ROS_BUILD_WHEELS
    wanted += [f"ros-jazzy-{name} ; platform_machine == 'x86_64'" for name in wheels]
    return [*wanted, *bootstrap.BUILD_TOOLS, *bootstrap.NODE_PACKAGES, *bootstrap.FIRST]


def compiled(folder: Path, wanted: list[str], *words: str) -> dict[str, str]:
    """Let uv resolve; return the lines with hashes of each ``name==version``."""
    (folder / "in.txt").write_text("\n".join(wanted) + "\n")
    command = ["uv", "pip", "compile", "in.txt", *words]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return bootstrap.entries(done.stdout)


def main() -> None:
    """Resolve, compare with the pins, write."""
    pins = (bootstrap.ROOT / "constraints.txt").read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "pins.txt").write_text(pins)
        found = compiled(
            folder, requirements(), "--constraint", "pins.txt", "--universal", "--python-version", "3.10"
        )
        if missing := sorted(found.keys() - bootstrap.versions(pins)):
            sys.exit(f"constraints.txt lacks {', '.join(missing)}")
        wheels = bootstrap.versions((bootstrap.ROOT / "tests" / "wheels.txt").read_text())
        for one in sorted({*bootstrap.BESIDE_ROS, *wheels}):
            found.update(compiled(folder, [one], "--no-deps"))
    known = bootstrap.entries(bootstrap.HASHES.read_text()) if bootstrap.HASHES.is_file() else {}
    found.update({key: lines for key, lines in known.items() if "+" in key})
    body = "".join(f"{key} \\\n{lines}" for key, lines in sorted(found.items()))
    bootstrap.HASHES.write_text(HEADER + body)


if __name__ == "__main__":
    main()
