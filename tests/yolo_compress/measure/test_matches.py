"""Per-image results: AP50 of any choice of images equals what measuring these images gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolo_compress.data.labelled import GroundTruth
from yolo_compress.measure.accuracy import Found, score_images
from yolo_compress.measure.matches import Matches, resamples

IMAGES = 12


@pytest.fixture(scope="module")
def measured() -> tuple[list[GroundTruth], list[Found], Matches]:
    """Boxes found about where they are, some missed, some wrong, some that do not count, some ignored."""
    random = np.random.default_rng(4)
    truths, found = [], []
    for _ in range(IMAGES):
        count = int(random.integers(0, 7))
        boxes = np.hstack([random.uniform(0, 200, (count, 2)), random.uniform(10, 60, (count, 2))])
        ids = random.integers(0, 3, count)
        regions = np.array([[0, 0, 40, 40]], float) if random.random() < 0.4 else np.zeros((0, 4))
        truths.append(GroundTruth(boxes, ids, regions, random.random(count) < 0.8))
        wrong = np.hstack([random.uniform(0, 200, (5, 2)), random.uniform(10, 60, (5, 2))])
        keep = random.random(count) < 0.8
        moved = (boxes + random.normal(0, 4, boxes.shape))[keep]
        moved[:, 2:] = np.maximum(moved[:, 2:], 2)
        all_ids = np.concatenate([ids[keep], random.integers(0, 3, 5)])
        found.append(Found(np.concatenate([moved, wrong]), random.random(len(all_ids)), all_ids))
    return truths, found, score_images(truths, found, "abc").matches


def test_ap50_is_what_was_measured(measured: tuple[list[GroundTruth], list[Found], Matches]) -> None:
    truths, found, matches = measured
    accuracy = score_images(truths, found, "abc").accuracy
    assert matches.images == IMAGES
    assert matches.ap50()[0] == pytest.approx(accuracy.ap50, abs=1e-9)
    for index, entry in enumerate(accuracy.per_class):
        assert matches.ap50(classes=[index])[0] == pytest.approx(entry.ap50, abs=1e-9)


def test_ap50_of_resampled_images_is_that_of_measuring_them(
    measured: tuple[list[GroundTruth], list[Found], Matches],
) -> None:
    truths, found, matches = measured
    counts = resamples(IMAGES, 5)
    assert counts.sum(axis=1).tolist() == [IMAGES] * 5
    values = matches.ap50(counts)
    assert len(set(values)) > 1
    for row, value in zip(counts, values, strict=True):
        chosen = [image for image, count in enumerate(row) for _ in range(int(count))]
        again = score_images([truths[i] for i in chosen], [found[i] for i in chosen], "abc").accuracy
        assert value == pytest.approx(again.ap50, abs=1e-9)


@pytest.mark.parametrize("chosen", [[7, 2, 9, 4], [1, 0], list(range(6, 12)), list(range(6))])
def test_some_of_the_images_alone(
    chosen: list[int], measured: tuple[list[GroundTruth], list[Found], Matches]
) -> None:
    truths, found, matches = measured
    alone = score_images([truths[i] for i in chosen], [found[i] for i in chosen], "abc").accuracy
    assert matches.only(chosen).ap50()[0] == pytest.approx(alone.ap50, abs=1e-9)


def test_what_is_saved_is_loaded(
    measured: tuple[list[GroundTruth], list[Found], Matches], tmp_path: Path
) -> None:
    path = tmp_path / "matches.npz"
    measured[2].save(path)
    again = Matches.load(path)
    assert again is not None
    counts = resamples(IMAGES, 3)
    assert again.ap50(counts).tolist() == measured[2].ap50(counts).tolist()
    path.write_bytes(path.read_bytes()[:-40])
    assert Matches.load(path) is None
    assert Matches.load(tmp_path / "none.npz") is None


def test_a_class_without_an_object_counts_for_nothing() -> None:
    box = np.array([[0.0, 0, 20, 20]])
    truth = GroundTruth(box, np.zeros(1, int), np.zeros((0, 4)))
    matches = score_images([truth], [Found(box, np.ones(1), np.zeros(1, int))], "ab").matches
    assert matches.ap50()[0] == pytest.approx(1)
    assert np.isnan(matches.ap50(classes=[1])[0])
