"""The files of a Jetson Orin NX, as far as the node reads them."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "etc/nvpmodel.conf": (
        "# a comment < POWER_MODEL ID=2 NAME=NOT_THIS >\n"
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=2 NAME=15W >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=2 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "58250\n",
    # A unit that is switched off.
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/thermal/cooling_device0/max_state": "9\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/thermal/cooling_device1/max_state": "1\n",
    "sys/class/thermal/cooling_device2/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device2/cur_state": "0\n",
    "sys/class/thermal/cooling_device2/max_state": "3\n",
    "sys/class/devfreq/15480000.nvdec/cur_freq": "1\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "7\n",
}


def write_jetson(root: Path) -> Path:
    """Write the files under a folder; return it."""
    for name, content in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root
