"""Data sets on disk in the layout that Ultralytics trains on: generated scenes, and VisDrone's own files.

Layout under a root::

    images/{train,val}/*.jpg   annotations/{train,val}/*.txt (VisDrone)   labels/{train,val}/*.txt (YOLO)
    data.yaml
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import cv2
import numpy as np
import yaml

from aerial_scenes.scenes import SceneSpec, render_scene
from aerial_scenes.visdrone import (
    VISDRONE_CLASSES,
    Annotation,
    format_annotations,
    format_yolo_labels,
    read_annotations,
    to_yolo_labels,
)

Progress = Callable[[int, int], None]
"""Called with the number of images that exist and the number wanted."""

_Job = tuple[Path, str, str, int, SceneSpec]
"""Root, split, file stem, seed and spec of one image."""

MANIFEST = "manifest.json"
_SPLITS = ("train", "val")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def scene_seeds(seed: int, split: str, count: int) -> list[int]:
    """Return the seeds of a split's scenes.

    Those of "train" are even and those of "val" odd, so that the splits never share a scene. A longer list
    begins with the shorter one.

    Raises:
        ValueError: The split is unknown or the seed negative.
    """
    if split not in _SPLITS:
        raise ValueError(f"unknown split '{split}'; known: {', '.join(_SPLITS)}")
    if seed < 0:
        raise ValueError(f"the data set's seed must not be negative, got {seed}")
    base = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 2 << 1
    return [base + 2 * index + _SPLITS.index(split) for index in range(count)]


def _renderer_digest() -> str:
    """Hash of the modules that decide the pixels, so that changed code makes a new data set."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for name in ("camera", "dataset", "render", "scenes", "shapes", "textures", "visdrone", "world"):
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _paths(root: Path, split: str, stem: str) -> tuple[Path, Path, Path]:
    return (
        root / "images" / split / f"{stem}.jpg",
        root / "annotations" / split / f"{stem}.txt",
        root / "labels" / split / f"{stem}.txt",
    )


def _make_scene(root: Path, split: str, stem: str, seed: int, spec: SceneSpec) -> None:
    image_path, annotation_path, label_path = _paths(root, split, stem)
    scene = render_scene(seed, spec)
    # The picture has gone through the spec's JPEG quality already: this file should not add to it.
    done, data = cv2.imencode(".jpg", scene.image, (cv2.IMWRITE_JPEG_QUALITY, 96))
    if not done:
        raise RuntimeError(f"{image_path}: OpenCV could not compress the image as JPEG")
    labels = to_yolo_labels(scene.annotations, spec.width, spec.height)
    _write_atomically(annotation_path, format_annotations(scene.annotations).encode("ascii"))
    _write_atomically(label_path, format_yolo_labels(labels).encode("ascii"))
    # The image comes last: where it exists, its texts do.
    _write_atomically(image_path, data.tobytes())


def _work(jobs: Sequence[_Job], results: Connection) -> None:
    """Make scenes in a worker process; sends None for each image made, or the error that ended the work."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    try:
        for job in jobs:
            try:
                _make_scene(*job)
            except Exception as error:
                results.send(error)
                return
            results.send(None)
    except BrokenPipeError:
        return  # the parent is gone: nobody waits for more images


def _write_data_yaml(root: Path, splits: Sequence[str]) -> Path:
    """Write Ultralytics' description of a set with the folders `splits` in images/."""
    # Ultralytics looks for relative paths in a folder of its own settings, hence the absolute one.
    content: dict[str, object] = {"path": root.resolve().as_posix()}
    # It requires both "train" and "val", even of a set that is only evaluated on.
    content.update({key: f"images/{key if key in splits else splits[0]}" for key in _SPLITS})
    if "test-dev" in splits:
        content["test"] = "images/test-dev"
    content["names"] = dict(enumerate(VISDRONE_CLASSES))
    path = root / "data.yaml"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode("utf-8")
    if not path.is_file() or path.read_bytes() != text:
        _write_atomically(path, text)
    return path


def _read_manifest(root: Path) -> dict[str, object] | None:
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def generate_dataset(
    root: str | Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    spec: SceneSpec | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Generate a data set, or complete it, or find that it is complete.

    A manifest holds a hash of the spec, the seed, the counts and the renderer's source. Where it fits, only
    missing images are made; where it does not, the generated folders are made anew. ``data.yaml`` exists
    only beside a complete set.

    Args:
        root: Folder of the set; created where it does not exist.
        train: Number of training images.
        val: Number of validation images; their scenes are disjoint from the training scenes.
        seed: Decides all scenes.
        spec: What they have in common.
        workers: Processes to use, 1 (this one) or 2.
        progress: Told after each image.

    Returns:
        Path of ``data.yaml``. Where a split has no images, its key names the other one.

    Raises:
        ValueError: A count is negative or both are 0, or `workers` is not 1 or 2.
        FileExistsError: `root` holds files that this function did not make.
        OSError: A file can't be written.
    """
    spec = SceneSpec() if spec is None else spec
    if train < 0 or val < 0 or train + val == 0:
        raise ValueError(f"a data set needs images, got train={train} and val={val}")
    if workers not in (1, 2):
        raise ValueError(f"workers must be 1 or 2, got {workers}")
    root = Path(root)
    counts = {"train": train, "val": val}
    recipe = {"spec": asdict(spec), "seed": seed, "counts": counts, "renderer": _renderer_digest()}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    manifest = _read_manifest(root)
    if manifest is None and root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} holds files but no {MANIFEST}: it is no generated data set; choose another folder"
        )
    if manifest is not None and manifest.get("hash") != digest:
        (root / "data.yaml").unlink(missing_ok=True)
        for folder in ("images", "annotations", "labels"):
            shutil.rmtree(root / folder, ignore_errors=True)
        manifest = None
    if manifest is None:
        root.mkdir(parents=True, exist_ok=True)
        _write_atomically(root / MANIFEST, json.dumps({"hash": digest, **recipe}, indent=1).encode())

    jobs = []
    for split, count in counts.items():
        for path in _paths(root, split, "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        for index, scene_seed in enumerate(scene_seeds(seed, split, count)):
            stem = f"{split}_{index:05d}"
            if not all(path.is_file() for path in _paths(root, split, stem)):
                jobs.append((root, split, stem, scene_seed, spec))
    total = train + val
    if jobs:
        (root / "data.yaml").unlink(missing_ok=True)
        for part in root.rglob(".*.part"):  # left by a process that was killed
            part.unlink(missing_ok=True)
        _run_jobs(jobs, min(workers, len(jobs)), total, progress)
    elif progress is not None:
        progress(total, total)
    return _write_data_yaml(root, [split for split, count in counts.items() if count])


def _run_jobs(jobs: list[_Job], workers: int, total: int, progress: Progress | None) -> None:
    done = total - len(jobs)

    def report() -> None:
        if progress is not None:
            progress(done, total)

    report()
    if workers == 1:
        for job in jobs:
            _make_scene(*job)
            done += 1
            report()
        return
    # Plain processes and pipes: a Ctrl-C inside an executor's or queue's lock would leave it locked for ever.
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for k in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(jobs[k::workers], sender), daemon=True)
            # The worker inherits the mask: no Ctrl-C can hit it before it has chosen to ignore it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
                processes.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            sender.close()
            pipes.append(receiver)
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                try:
                    error = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if error is not None:
                    raise error
                done += 1
                report()
    finally:
        for process in processes:
            # Still at work only after Ctrl-C or an error; what they write appears whole or not at all.
            if done < total:
                process.terminate()
            process.join()
    if done < total:
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise RuntimeError(
            f"a worker process ended (exit codes {codes}) with {total - done} of {total} images not made; "
            "run again to make the rest, with workers=1 if memory is short"
        )


def _split_folders(source: Path) -> dict[str, Path]:
    """Find VisDrone splits: `source` itself, or subfolders like ``train`` or ``VisDrone2019-DET-train``."""
    if (source / "images").is_dir() and (source / "annotations").is_dir():
        return {"val": source}
    splits = {}
    for split in ("train", "val", "test-dev"):
        for folder in sorted(source.glob(f"*{split}")):
            if (folder / "images").is_dir() and (folder / "annotations").is_dir():
                splits[split] = folder
    return splits


def convert_visdrone(
    source: str | Path, destination: str | Path, *, progress: Progress | None = None
) -> Path:
    """Lay out VisDrone-DET files for training and evaluation with Ultralytics; the source is only read.

    Args:
        source: A folder with ``images`` and ``annotations`` (it becomes the split "val"), or one with such
            folders named ``train``, ``val``, ``test-dev`` or as VisDrone names them
            (``VisDrone2019-DET-train``).
        destination: Gets ``images`` (links where the file system has them, else copies), ``annotations``,
            ``labels`` and ``data.yaml``.
        progress: Told after each image.

    Returns:
        Path of ``data.yaml``. It names "train" and "val", which Ultralytics requires, by the split that
        exists where the other is missing, and "test" where there is test-dev.

    Raises:
        FileNotFoundError: There is no split in `source`, or an image has no annotation file.
        ValueError: An annotation is malformed or an image can't be read; the message names the file.
    """
    source, destination = Path(source), Path(destination)
    splits = _split_folders(source)
    if not splits:
        raise FileNotFoundError(
            f"{source}: no VisDrone split there; expected images/ and annotations/, "
            "or folders like train/ that hold them"
        )
    if destination.resolve() == source.resolve() or destination.resolve() in {
        f.resolve() for f in splits.values()
    }:
        raise ValueError(
            f"{destination}: the converted set must not be written into its source; choose another folder"
        )
    work: list[tuple[str, Path, Path]] = []
    for split, folder in splits.items():
        images = sorted(p for p in (folder / "images").iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not images:
            raise FileNotFoundError(f"{folder / 'images'}: no images there")
        for image in images:
            annotation = folder / "annotations" / f"{image.stem}.txt"
            if not annotation.is_file():
                raise FileNotFoundError(f"{annotation}: missing; image {image} has no annotations")
            work.append((split, image, annotation))
    for done, (split, image_path, annotation_path) in enumerate(work, start=1):
        annotations: list[Annotation] = read_annotations(annotation_path)
        pixels = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{image_path}: OpenCV can't read this image")
        height, width = pixels.shape[:2]
        folders = [destination / kind / split for kind in ("images", "annotations", "labels")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        link = folders[0] / image_path.name
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(image_path.resolve())
        except OSError:
            shutil.copyfile(image_path, link)
        name = f"{image_path.stem}.txt"
        _write_atomically(folders[1] / name, format_annotations(annotations).encode("ascii"))
        labels = format_yolo_labels(to_yolo_labels(annotations, width, height))
        _write_atomically(folders[2] / name, labels.encode("ascii"))
        if progress is not None:
            progress(done, len(work))
    return _write_data_yaml(destination, list(splits))
