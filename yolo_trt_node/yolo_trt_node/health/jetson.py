"""What a Jetson's sysfs says: temperatures, power mode, throttling.

Everything is read from files that the kernel and ``nvpmodel`` keep; nothing is started, no privilege needed.
A file that is missing or cannot be read (a sensor whose unit is switched off answers EAGAIN) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Cooling devices that are no throttling.
_FANS = ("fan", "pwm")


@dataclass(frozen=True)
class BoardReading:
    """What the board says of itself now.

    Attributes:
        temperatures_c: degrees Celsius by thermal zone.
        power_mode: the mode that ``nvpmodel`` has set, as ``MODE_30W (2)``; empty where it is not known.
        throttled_by: what slows the board down now: cooling devices in force, over-current events.
        gpu_mhz: the GPU's clock now; ``None`` where it is not known.
        gpu_limit_mhz: the highest clock that the GPU may take now; likewise.
    """

    temperatures_c: Mapping[str, float]
    power_mode: str
    throttled_by: tuple[str, ...]
    gpu_mhz: float | None
    gpu_limit_mhz: float | None

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Name and temperature of the hottest zone."""
        return max(self.temperatures_c.items(), key=lambda item: item[1], default=None)


class Jetson:
    """A Jetson, read through its files.

    Attributes:
        model: the board's name.
    """

    def __init__(self, root: Path, model: str) -> None:
        """Use `Jetson.find`."""
        self.model = model
        self._root = root
        self._over_current = self._over_current_counts()

    @classmethod
    def find(cls, root: Path = Path("/")) -> Jetson | None:
        """Return this machine's board, or ``None`` where it is no Jetson.

        Args:
            root: folder in which ``sys``, ``proc``, ``etc`` and ``var`` lie.
        """
        model = _text(root / "proc/device-tree/model").rstrip("\0")
        if "jetson" not in model.lower() and not (root / "etc/nv_tegra_release").is_file():
            return None
        return cls(root, model or "NVIDIA Jetson")

    def read(self) -> BoardReading:
        """Read all sensors; over-current events count where they have come since the last reading."""
        gpu_mhz, gpu_limit_mhz = self._gpu()
        return BoardReading(
            temperatures_c=dict(self._temperatures()),
            power_mode=self._power_mode(),
            throttled_by=(*self._cooling(), *self._new_over_current()),
            gpu_mhz=gpu_mhz,
            gpu_limit_mhz=gpu_limit_mhz,
        )

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        for zone in _sorted(self._root / "sys/class/thermal", "thermal_zone*"):
            name, value = _text(zone / "type"), _number(zone / "temp")
            # Millidegrees; zones of units that are off say -256 degrees.
            if name and value is not None and value > -100_000:
                yield name, value / 1000

    def _cooling(self) -> Iterator[str]:
        for device in _sorted(self._root / "sys/class/thermal", "cooling_device*"):
            name = _text(device / "type")
            state, most = _number(device / "cur_state"), _number(device / "max_state")
            if state and not any(fan in name for fan in _FANS):
                yield f"{name} {state:.0f}/{most:.0f}" if most else name

    def _over_current_counts(self) -> dict[str, float]:
        """Over-current events since the boot, by input."""
        return {
            file.name.removesuffix("_event_cnt"): count
            for file in _sorted(self._root / "sys/class/hwmon", "hwmon*/oc*_event_cnt")
            if (count := _number(file)) is not None
        }

    def _new_over_current(self) -> Iterator[str]:
        before, self._over_current = self._over_current, self._over_current_counts()
        for name, count in self._over_current.items():
            if count > before.get(name, 0):
                yield f"over-current {name}"

    def _gpu(self) -> tuple[float | None, float | None]:
        for device in _sorted(self._root / "sys/class/devfreq", "*"):
            # 17000000.gpu, 17000000.ga10b, 17000000.gv11b, gpu-gpc-0: each generation has its own.
            if re.search(r"(^|\.)(gpu|g[abpv]\d+b)", device.name):
                return _megahertz(device / "cur_freq"), _megahertz(device / "max_freq")
        return None, None

    def _power_mode(self) -> str:
        found = re.search(r"pmode:0*(\d+)", _text(self._root / "var/lib/nvpmodel/status"))
        if found is None:
            return ""
        number = found[1]
        line = re.search(
            rf"^\s*<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)\s*>",
            _text(self._root / "etc/nvpmodel.conf"),
            re.MULTILINE,
        )
        return f"{line[1]} ({number})" if line else number


def _sorted(folder: Path, pattern: str) -> list[Path]:
    """List entries by the numbers in their names."""
    return sorted(
        folder.glob(pattern), key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))]
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    try:
        return float(_text(file))
    except ValueError:
        return None


def _megahertz(file: Path) -> float | None:
    value = _number(file)
    return None if value is None else value / 1e6
