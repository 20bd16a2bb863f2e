"""The loop is closed: a vehicle lands on a pad that only its camera sees, told by LANDING_TARGET alone."""

import numpy as np
import pytest

pytest.importorskip("pymavlink")

from yolo_trt_node.detector import Detector

from landing_demo.flight import land
from landing_demo.pad import ROOF_M, Site, write_pad_detector
from landing_demo.picture import draw_track

SIZE, FOCAL = (240, 176), 160.0


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector.load(write_pad_detector(tmp_path_factory.mktemp("pad") / "pad.onnx", SIZE))


@pytest.mark.parametrize(("kind", "height", "seed"), [("px4", 0.0, 1), ("ardupilot", ROOF_M, 2)])
def test_it_lands_within_half_a_metre_though_its_own_place_is_wrong(detector, tmp_path, kind, height, seed):
    site = Site(seed, height, SIZE, FOCAL)
    track = land(detector, site, SIZE, kind=kind, start=(2.0, -2.0, -9.0 - height), keep_every=15)
    assert track.landed
    assert track.miss_m < 0.5
    # It was not there by itself, and was told all the way until the pad left the picture.
    assert np.hypot(*(track.places[0] - track.pad)[:2]) > 2.5
    assert sum(track.seen) > 30
    if kind == "px4":
        draw_track(track, "a landing", tmp_path / "new" / "landing.png")
        assert (tmp_path / "new" / "landing.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_target_in_view_it_stays_where_it_is(detector):
    site = Site(1, 0.0, SIZE, FOCAL)
    track = land(detector, site, SIZE, start=(20.0, 0.0, -9.0), wind=(0.0, 0.0, 0.0), most_s=1.5)
    assert not track.landed
    assert sum(track.seen) == 0
    np.testing.assert_allclose(track.places[-1], track.places[0], atol=0.05)


def test_the_detector_finds_the_pad_where_the_camera_has_it(detector):
    site = Site(1, 0.0, SIZE, FOCAL)
    looks_down = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # the top is north
    picture = site.picture(site.pad + np.array([1.0, -0.5, -8.0]), looks_down, 0.0)
    (found,) = detector.detect([picture])
    assert len(found) == 1
    # A metre to the south is below, half a metre to the east is to the right.
    middle = (np.array(SIZE) - 1) / 2
    np.testing.assert_allclose(found.centers()[0] - middle, (0.5 * FOCAL / 8, 1.0 * FOCAL / 8), atol=1.0)
