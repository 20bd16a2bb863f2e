"""A Jetson's files are read as they are; elsewhere there is silence."""

from pathlib import Path

import pytest
from support.jetson import write_jetson
from yolo_trt_node.health.jetson import Jetson


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_jetson(tmp_path)


def test_a_machine_that_is_no_jetson_has_no_board(tmp_path):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B\0")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("50000\n")

    assert Jetson.find(tmp_path) is None


def test_a_jetson_is_known_by_its_release_file_where_a_container_hides_the_device_tree(tree):
    (tree / "proc/device-tree/model").unlink()
    assert Jetson.find(tree) is None
    (tree / "etc/nv_tegra_release").write_text("# R36 (release)\n")

    assert Jetson.find(tree).model == "NVIDIA Jetson"


def test_temperatures_power_mode_and_gpu_clock(tree):
    board = Jetson.find(tree)
    reading = board.read()

    assert board.model == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert reading.temperatures_c == {"cpu-thermal": 61.5, "gpu-thermal": 58.25}
    assert reading.hottest == ("cpu-thermal", 61.5)
    assert reading.power_mode == "15W (2)"
    assert (reading.gpu_mhz, reading.gpu_limit_mhz) == (306.0, 612.0)
    assert reading.throttled_by == ()


def test_a_mode_without_a_name_is_told_by_its_number(tree):
    (tree / "etc/nvpmodel.conf").unlink()
    assert Jetson.find(tree).read().power_mode == "2"
    (tree / "var/lib/nvpmodel/status").unlink()
    assert Jetson.find(tree).read().power_mode == ""


def test_cooling_devices_in_force_are_throttling_but_the_fan_is_not(tree):
    thermal = tree / "sys/class/thermal"
    (thermal / "cooling_device2/cur_state").write_text("3\n")  # the fan
    assert Jetson.find(tree).read().throttled_by == ()
    (thermal / "cooling_device1/cur_state").write_text("1\n")
    (thermal / "cooling_device0/cur_state").write_text("4\n")

    assert Jetson.find(tree).read().throttled_by == ("cpufreq-cpu0 4/9", "gpu-throttle-alert 1/1")


def test_over_current_counts_only_when_it_happens(tree):
    board = Jetson.find(tree)
    assert board.read().throttled_by == ()
    (tree / "sys/class/hwmon/hwmon3/oc1_event_cnt").write_text("8\n")

    assert board.read().throttled_by == ("over-current oc1",)
    assert board.read().throttled_by == ()


def test_missing_and_broken_files_are_left_out(tree):
    for file in ("thermal_zone0/temp", "thermal_zone1/type", "cooling_device0/cur_state"):
        (tree / "sys/class/thermal" / file).unlink()
    (tree / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("?\n")
    (tree / "sys/class/thermal/cooling_device1/cur_state").write_text("\n")

    reading = Jetson.find(tree).read()

    assert reading.temperatures_c == {}
    assert reading.hottest is None
    assert (reading.gpu_mhz, reading.gpu_limit_mhz) == (None, 612.0)
    assert reading.throttled_by == ()
