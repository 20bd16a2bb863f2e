"""What a detector got right in each image, kept so small that AP50 of any choice of images follows from it.

The figures of an `Accuracy` are of all images together and do not say how much they owe to which images
happen to be there. From `Matches` AP50 can be had of resampled images, thousands of times, without running a
model again.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from yolo_compress import files

RECALLS: tuple[float, ...] = tuple(float(value) for value in np.linspace(0, 1, 101))
"""The recalls of a precision-recall curve: COCO's 101 points."""

# Resamples at once: bounds the memory where there are many objects.
_CHUNK = 100


@dataclass(frozen=True)
class Matches:
    """The detections that count, each with its image and whether it is right at IoU 0.50.

    Attributes:
        objects: images x classes int, how many objects count.
        image: for each class, the image of each detection, the best scored first; those after the last right
            one are left out, since AP50 does not depend on them.
        hit: for each class, whether the detection found an object.
    """

    objects: NDArray[np.int64]
    image: tuple[NDArray[np.int64], ...]
    hit: tuple[NDArray[np.bool_], ...]

    @property
    def images(self) -> int:
        """Number of images measured on."""
        return len(self.objects)

    @classmethod
    def of(cls, evaluation: COCOeval, classes: int) -> Matches:
        """Gather what an evaluation (`evaluate` done) found at its first IoU, which is 0.50, at all sizes."""
        areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
        objects = np.zeros((images, classes), np.int64)
        kept: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []
        for index in range(classes):
            where, scores, hits = [], [], []
            first = index * areas * images  # of class x size x image; the first size is "all"
            for image, entry in enumerate(evaluation.evalImgs[first : first + images]):
                if entry is None:
                    continue
                objects[image, index] = int(np.sum(np.asarray(entry["gtIgnore"]) == 0))
                counts = ~np.asarray(entry["dtIgnore"][0], bool)
                scores.append(np.asarray(entry["dtScores"], np.float64)[counts])
                hits.append(np.asarray(entry["dtMatches"][0])[counts] > 0)
                where.append(np.full(int(counts.sum()), image, np.int64))
            order = np.argsort(-np.concatenate(scores), kind="mergesort") if scores else np.zeros(0, int)
            hit = (np.concatenate(hits) if hits else np.zeros(0, bool))[order]
            image_of = (np.concatenate(where) if where else np.zeros(0, np.int64))[order]
            end = int(hit.nonzero()[0][-1]) + 1 if hit.any() else 0
            kept.append((image_of[:end], hit[:end]))
        return cls(objects, tuple(image for image, _ in kept), tuple(hit for _, hit in kept))

    def only(self, images: Sequence[int]) -> Matches:
        """Return what was found in some of the images, numbered anew in their order."""
        number = np.full(self.images, -1, np.int64)
        number[list(images)] = np.arange(len(images))
        chosen = [number[image] >= 0 for image in self.image]
        return Matches(
            self.objects[list(images)],
            tuple(number[image[keep]] for image, keep in zip(self.image, chosen, strict=True)),
            tuple(hit[keep] for hit, keep in zip(self.hit, chosen, strict=True)),
        )

    def ap50(
        self, counts: NDArray[np.float32] | None = None, classes: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return AP50, the mean over classes, 0 to 1.

        Args:
            counts: draws x images, how often each image is there; each once if not given.
            classes: to average over; all if not given.

        Returns:
            One value a draw; NaN where none of the classes has an object.
        """
        if counts is None:
            counts = np.ones((1, self.images), np.float32)
        chosen = range(self.objects.shape[1]) if classes is None else classes
        parts = [counts[start : start + _CHUNK] for start in range(0, len(counts), _CHUNK)]
        values = np.stack([np.concatenate([self._of_class(part, c) for part in parts]) for c in chosen])
        known = ~np.isnan(values)
        number = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def _of_class(self, counts: NDArray[np.float32], index: int) -> NDArray[np.float64]:
        positives = counts.astype(np.float64) @ self.objects[:, index]
        image, hit = self.image[index], self.hit[index]
        at = np.flatnonzero(hit)
        if not len(at):
            return np.where(positives > 0, 0.0, np.nan)
        # How many wrong ones of each image lie between a right one and the one before it: precision matters
        # at the right ones only, and a product of matrices counts for all draws at once.
        wrong = np.flatnonzero(~hit[: at[-1]])
        cells = image[wrong] * len(at) + np.searchsorted(at, wrong)
        between = np.bincount(cells, minlength=self.images * len(at)).reshape(self.images, len(at))
        false = np.cumsum(counts @ between.astype(np.float32), axis=1, dtype=np.float64)
        true = np.cumsum(counts[:, image[at]], axis=1, dtype=np.float64)
        precision = true / np.maximum(true + false, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        result = np.full(len(counts), np.nan)
        for draw in np.flatnonzero(positives > 0):
            place = np.searchsorted(true[draw] / positives[draw], RECALLS)
            reached = place[place < len(at)]
            result[draw] = envelope[draw, reached].sum() / len(RECALLS)
        return result

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz`` of plain numbers, some ten kilobytes for hundreds of images."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            objects=self.objects.astype(np.uint16),
            image=np.concatenate([*self.image, np.zeros(0, np.int64)]).astype(np.uint32),
            hit=np.packbits(np.concatenate([*self.hit, np.zeros(0, bool)])),
            lengths=np.array([len(hit) for hit in self.hit], np.uint32),
        )
        files.write(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Matches | None:
        """Return what `save` wrote; None where there is no such file, or it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                objects = arrays["objects"].astype(np.int64)
                image = arrays["image"].astype(np.int64)
                hit = np.unpackbits(arrays["hit"], count=len(image)).astype(bool)
                ends = np.cumsum(arrays["lengths"])[:-1].astype(int)
                whole = objects.ndim == 2 and len(ends) + 1 == objects.shape[1]
                if not whole or image.max(initial=-1) >= len(objects) or len(hit) != len(image):
                    return None
                return cls(objects, tuple(np.split(image, ends)), tuple(np.split(hit, ends)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def resamples(images: int, draws: int = 1000) -> NDArray[np.float32]:
    """Draw as many images as there are, with repetition, the same ones at each call.

    Returns:
        draws x images, how often each image is in a draw; the same rows for two models make a bootstrap
        paired.
    """
    generator = np.random.default_rng(0)
    return generator.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float32)
