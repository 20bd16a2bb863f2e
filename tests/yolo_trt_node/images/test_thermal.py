"""16-bit counts of thermal cameras become 8-bit grays that keep the picture."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.frames import picture
from yolo_trt_node.images.messages import frame_from_message
from yolo_trt_node.images.thermal import ThermalRange

SIZE = (96, 128)


def scene(seed=0):
    """An 8-bit thermal picture that uses its range."""
    return cv2.GaussianBlur(picture(*SIZE, seed)[..., 0], (5, 5), 0)


def centikelvin(gray):
    """The same picture as counts of 0.01 K, from 20 to 45 degrees Celsius."""
    return np.rint(29315 + gray.astype(float) * 2500 / 255).astype(np.uint16)


def test_a_scene_of_few_counts_keeps_its_grays():
    gray = scene()
    stretched = ThermalRange("auto").to_8_bits(centikelvin(gray))
    assert len(np.unique(stretched)) > 200
    assert len(np.unique(ThermalRange("full").to_8_bits(centikelvin(gray)))) <= 12
    # Up to brightness and contrast it is the same picture.
    assert np.corrcoef(gray.reshape(-1), stretched.reshape(-1))[0, 1] > 0.995


def test_limits_given_in_counts_are_kept():
    fixed = ThermalRange("[29315, 31815]")
    np.testing.assert_allclose(fixed.to_8_bits(centikelvin(scene())), scene(), atol=1)
    assert fixed.to_8_bits(np.array([[0, 29315, 31815, 65535]], np.uint16)).tolist() == [[0, 0, 255, 255]]
    assert (fixed.low, fixed.high) == (29315, 31815)


def test_a_hot_spot_takes_no_contrast_and_does_not_flicker():
    auto = ThermalRange("auto")
    counts = centikelvin(scene())
    calm = auto.to_8_bits(counts, 0.0)
    hot = counts.copy()
    hot[40:60, 40:60] = 60_000  # large enough to move the range
    first = auto.to_8_bits(hot, 1 / 30)
    elsewhere = np.ones(SIZE, np.bool_)
    elsewhere[40:60, 40:60] = False
    assert abs(first.astype(int) - calm)[elsewhere].max() <= 255 * 0.3
    assert (first[~elsewhere] == 255).all()
    after = auto.to_8_bits(counts, 2 / 30).astype(int)
    assert abs(after - first)[elsewhere].max() <= 3, "one frame with a hot spot changes the next by nothing"


def test_the_range_follows_the_scene_and_jumps_to_another_one():
    auto = ThermalRange("auto")
    auto.to_8_bits(centikelvin(scene()), 0.0)
    low = auto.low
    warmer = centikelvin(scene()) + 500
    for step in range(1, 301):
        auto.to_8_bits(warmer, step / 30)
    assert auto.low == pytest.approx(low + 500, abs=5)
    # The camera recalibrated itself: nothing of the old range is left in one frame.
    auto.to_8_bits(centikelvin(scene()) - 15_000, 10.1)
    assert auto.low == pytest.approx(low - 15_000, abs=5)
    # Time that goes back (a bag begins again) starts anew as well.
    auto.to_8_bits(centikelvin(scene()), 0.0)
    assert auto.low == pytest.approx(low, abs=5)


def test_a_scene_of_one_temperature_is_not_all_noise():
    noise = np.random.default_rng(0).integers(30_000, 30_003, SIZE).astype(np.uint16)
    assert np.ptp(ThermalRange("auto").to_8_bits(noise).astype(int)) < 40
    for value in (0, 65535):
        assert ThermalRange("auto").to_8_bits(np.full(SIZE, value, np.uint16)).shape == SIZE


@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_pngs_of_16_bits_are_stretched_alike(compressed):
    counts = centikelvin(scene())
    header = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0))
    if compressed:
        message = SimpleNamespace(
            format="16UC1; png", data=cv2.imencode(".png", counts)[1].tobytes(), header=header
        )
    else:
        message = SimpleNamespace(
            height=SIZE[0],
            width=SIZE[1],
            encoding="mono16",
            is_bigendian=0,
            step=2 * SIZE[1],
            data=counts.tobytes(),
            header=header,
        )
    frame = frame_from_message(message, 10**6, ThermalRange("auto"))
    assert frame.encoding == "mono8"
    np.testing.assert_array_equal(frame.pixels, ThermalRange("auto").to_8_bits(counts))


@pytest.mark.parametrize("wrong", ["", "none", "1", "[2, 1]", "1,2,3", "[-1, 5]", "[0, 70000]", "[nan, 1]"])
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match="thermal_range is"):
        ThermalRange(wrong)
