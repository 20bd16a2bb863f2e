"""Whether this machine and a recipe are fit for a run, where all packages are there (`packages`)."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import torch

from yolo_compress.checkpoints import load_model
from yolo_compress.config.loading import load_recipe
from yolo_compress.config.sections import Export, Recipe
from yolo_compress.config.techniques import Dense, Prune
from yolo_compress.data.description import Description
from yolo_compress.data.labelled import Split, beside, read_split
from yolo_compress.dense import architecture
from yolo_compress.errors import UserError
from yolo_compress.measure.classes import match_classes
from yolo_compress.packages import Check
from yolo_compress.pruning.budget import count_params
from yolo_compress.pruning.pruner import prune
from yolo_compress.run.plan import plan, space_needed

# What one training image costs beside one forward pass: backward, loss, augmentation. A rule of thumb, for an
# estimate that is good to a factor of two.
TRAINING_PER_FORWARD = 4.0
# An object of fewer pixels than this at the network's input has about one cell of the finest stride.
SMALLEST_USEFUL_PX = 8.0


def check_machine(recipe: Path | None, overrides: tuple[str, ...], classes: str | None) -> Iterator[Check]:
    """Check this machine, and a recipe where one is given, with packages that are all there.

    Args:
        recipe: the recipe's file.
        overrides: changes to it.
        classes: which classes of a model and the data belong together, as `yolo-compress evaluate` takes it.
    """
    yield _onnx_chain()
    if recipe is None:
        yield _device("cuda" if torch.cuda.is_available() else "cpu")
        yield from _room(Path.cwd(), 0)
        return
    try:
        loaded = load_recipe(recipe, overrides)
    except UserError as error:
        yield Check("FAIL", str(error), "correct the recipe; config/compress/*.yaml are examples")
        return
    yield Check("OK", f"the recipe {recipe} is valid: {', '.join(s.name for s in plan(loaded))}")
    yield from _recipe(loaded, classes)


def _recipe(recipe: Recipe, classes: str | None) -> Iterator[Check]:
    device = _device(recipe.device)
    yield device
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if recipe.threads > cores:
        yield Check("WARN", f"threads: {recipe.threads} on {cores} cores", f"set threads: {cores}")
    try:
        needed = space_needed(plan(recipe))
    except UserError as error:
        yield Check("FAIL", str(error), "correct teacher.model or student.model")
        return
    yield from _room(recipe.output, needed)
    images = 0
    data: Description | None = None
    if recipe.data.scenes:
        images = recipe.data.scenes.train
        yield Check("OK", f"data: {images} scenes to train on will be generated")
    else:
        assert recipe.data.yaml is not None
        for split in dict.fromkeys(("train", "val", recipe.evaluate.split)):
            try:
                chosen = read_split(recipe.data.yaml, split, limit=recipe.data.limit)
            except UserError as error:
                yield Check("FAIL", f"data: {error}", "correct data.yaml in the recipe, or the description")
                return
            data = chosen.description
            images = len(chosen.images) if split == "train" else images
            yield from _split(chosen, split, recipe)
    yield from _models(recipe, data, classes)
    if recipe.prune:
        yield _prune(recipe, recipe.prune)
    if device.status != "FAIL":
        yield _duration(recipe, images)


def _onnx_chain() -> Check:
    """Write a file with this onnx and run it in this ONNX Runtime: their formats must overlap."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sigmoid", ["x"], ["y"])],
        "check",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", Export.model_fields["opset"].default)]
    )
    # Ultralytics' exporter writes an older format than this onnx would by itself.
    model.ir_version = min(model.ir_version, 9)
    text = f"ONNX Runtime {onnxruntime.__version__} runs what onnx {onnx.__version__} writes"
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # whatever the runtime raises is the finding
        return Check("FAIL", f"not so: {text}: {error}", "pip install --upgrade onnxruntime")
    if abs(float(answer[0]) - 0.5) > 1e-6:
        return Check("FAIL", f"not so: {text}: sigmoid(0) = {answer[0]}", "reinstall onnxruntime")
    return Check("OK", text)


def _device(device: str) -> Check:
    if device == "cpu":
        return Check("OK", f"device cpu: {platform.machine()}, {os.cpu_count()} cores")
    if device == "mps":
        if torch.backends.mps.is_available():
            return Check("OK", "device mps")
        return Check("FAIL", "device mps, but this machine has no Metal GPU", "set device: cpu")
    if not torch.cuda.is_available():
        build = "a CPU build" if torch.version.cuda is None else "a CUDA build that finds no driver or GPU"
        return Check(
            "FAIL",
            f"device {device}, but torch {torch.__version__} is {build}",
            "set device: cpu, or install a CUDA build of torch and an NVIDIA driver",
        )
    wanted = [int(part) for part in device.replace("cuda:", "").split(",") if part.strip().isdigit()] or [0]
    present = torch.cuda.device_count()
    if max(wanted) >= present:
        return Check("FAIL", f"device {device}, but there are {present} GPUs", f"use numbers below {present}")
    free, total = torch.cuda.mem_get_info(wanted[0])
    return Check(
        "OK",
        f"device {device}: {torch.cuda.get_device_name(wanted[0])}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
    )


def _room(output: Path, needed: int) -> Iterator[Check]:
    memory = psutil.virtual_memory().available
    text = f"{memory / 2**30:.1f} GiB of memory available"
    if memory < 2 * 2**30:
        yield Check("WARN", text, "close other programs; set cache: false and a smaller batch")
    else:
        yield Check("OK", text)
    place = output.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Check(
            "FAIL",
            f"cannot write into {place}: {error.strerror}",
            "choose another output folder (output=...)",
        )
        return
    free = shutil.disk_usage(place).free
    text = f"{place} can be written and has {free / 2**30:.1f} GiB free"
    if needed and free < needed:
        yield Check(
            "FAIL", f"{text}; the run needs about {needed / 2**30:.1f} GiB", "free some, or change output"
        )
    else:
        yield Check("OK", text)


def _split(split: Split, name: str, recipe: Recipe) -> Iterator[Check]:
    """Check a split's images and labels: what training drops, what is labelled, large enough to be seen."""
    total = len(split.samples) + len(split.dropped)
    what = f"data: {name}, {len(split.samples)} images, {len(split.names)} classes"
    for reason, count, examples in split.reasons():
        yield Check(
            "WARN",
            f"data: {name}: training drops {count} of {total} images: {reason}; such as "
            + "; ".join(examples),
            "correct or remove these files",
        )
    if split.skipped:
        yield Check(
            "WARN",
            f"data: {name}: {len(split.skipped)} lines of the list name no image, such as "
            f"{split.skipped[0]!r}",
            "a line ends with the image's ending, without spaces behind it",
        )
    try:
        split.require_labels(name)
    except UserError as error:
        yield Check("FAIL", f"{what}: {error}", "put the labels there, or correct the description")
        return
    boxes = [
        (int(row[0]), float(np.sqrt(row[3] * sample.width * row[4] * sample.height)), sample)
        for sample in split.samples
        for row in sample.labels.rows
    ]
    if not boxes:
        yield Check("FAIL", f"{what}: no objects in any label", "check that these are the labels")
        return
    unlabelled = [sample for sample in split.samples if not sample.labelled]
    if unlabelled:
        yield Check(
            "WARN",
            f"data: {name}: {len(unlabelled)} of {len(split.samples)} images have no label file and are "
            f"trained on as images without objects, such as {unlabelled[0].image}",
            f"label them ({beside(unlabelled[0].image, 'labels')}), or take them out",
        )
    at_input = [size * recipe.input_size / max(sample.width, sample.height) for _, size, sample in boxes]
    median = statistics.median(at_input)
    what += f", {len(boxes)} objects, half of them below {median:.0f} px at input {recipe.input_size}"
    empty = sum(not len(sample.labels.rows) for sample in split.samples)
    if empty > len(split.samples) / 2:
        yield Check("WARN", f"{what}; {empty} images have no objects", "check that the labels are all there")
    elif median < SMALLEST_USEFUL_PX:
        yield Check("WARN", what, "raise input_size: objects this small cover one cell of the finest stride")
    else:
        yield Check("OK", what)
    counts = np.bincount([class_id for class_id, _, _ in boxes], minlength=len(split.names))
    listed = ", ".join(f"{label} {count}" for label, count in zip(split.names, counts, strict=True))
    small, medium = (sum(size < side for _, size, _ in boxes) for side in (32, 96))
    text = (
        f"data: {name}: {listed}; {small} below 32 px, {medium - small} to 96 px, {len(boxes) - medium} "
        "larger in the images"
    )
    absent = [label for label, count in zip(split.names, counts, strict=True) if not count]
    if absent:
        yield Check("WARN", text, f"no object of {', '.join(absent)}: its accuracy cannot be known")
    else:
        yield Check("OK", text)


def _models(recipe: Recipe, data: Description | None, classes: str | None) -> Iterator[Check]:
    """Check that each checkpoint loads and knows the data's classes, where it is not trained on them."""
    for key, dense in (("teacher", recipe.teacher), ("student", recipe.student)):
        if dense is not None:
            yield _model(key, dense, data, classes)


def _model(key: str, dense: Dense, data: Description | None, classes: str | None) -> Check:
    try:
        model = architecture(dense)
    except UserError as error:
        return Check("FAIL", f"{key}: {error}", f"correct {key}.model")
    what = f"{key}: {dense.model}, {count_params(model) / 1e6:.2f} M parameters"
    if not dense.model.endswith(".pt"):
        return Check("OK", f"{what}, to be trained from scratch")
    known = list(load_model(dense.model).names.values())
    if data is not None and dense.train is None:
        try:
            match_classes(dense.model, known, data.path, data.names, named=data.named, mapping=classes)
        except UserError as error:
            remedy = f"say in {key}.train how to train it on this data, or match the classes"
            return Check("FAIL", f"{what}: {error}", remedy)
    return Check("OK", f"{what}, {len(known)} classes")


def _prune(recipe: Recipe, section: Prune) -> Check:
    """Prune the model as it is before training: what can be reached depends on the widths alone."""
    target = section.target
    if target.latency is not None:
        return Check("OK", f"prune: {target.latency:.0%} of the latency, found by measuring during the run")
    # Sensitivity and taylor share out the same steps, but take a trained model and its data.
    measured = {"taylor": "l2"}.get(section.importance, section.importance)
    plain = section.model_copy(update={"sensitivity": False, "importance": measured})
    try:
        pruned = prune(architecture(recipe.teacher), plain, recipe.input_size)
    except UserError as error:
        return Check("FAIL", str(error), "change prune, or choose another teacher")
    return Check("OK", f"prune: {pruned.summary()}")


def _duration(recipe: Recipe, images: int) -> Check:
    """Estimate the run's time from that of one forward pass."""
    device = "cpu" if recipe.device in ("cpu", "mps") else f"cuda:{recipe.device.split(',')[0]}"
    torch.set_num_threads(recipe.threads)
    model = architecture(recipe.teacher).to(device).eval()
    example = torch.zeros(4, 3, recipe.input_size, recipe.input_size, device=device)
    with torch.no_grad():
        model(example)
        started = time.perf_counter()
        model(example)
        if device != "cpu":
            torch.cuda.synchronize()
    epoch = TRAINING_PER_FORWARD * (time.perf_counter() - started) / len(example) * images
    total = epoch * recipe.epochs
    what = f"time: about {_clock(epoch)} an epoch, {_clock(total)} in all, to a factor of two"
    if total > 24 * 3600:
        return Check("WARN", what, "fewer epochs, data.limit, a smaller input_size, or a GPU (device: 0)")
    return Check("OK", what)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
