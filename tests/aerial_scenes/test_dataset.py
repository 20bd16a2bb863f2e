import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from aerial_scenes import dataset
from aerial_scenes.dataset import convert_visdrone, generate_dataset, scene_seeds
from aerial_scenes.scenes import SceneSpec
from aerial_scenes.visdrone import VISDRONE_CLASSES, read_annotations, to_yolo_labels

SPEC = SceneSpec(
    width=160,
    height=96,
    metres_per_pixel=(0.15, 0.2),
    focal_px=(140.0, 160.0),
    max_ground_pixels=400_000,
    dusk=0.0,
)


def state(root):
    return {
        p.relative_to(root): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "scenes"
    seen = []
    path = generate_dataset(
        root, train=4, val=2, seed=3, spec=SPEC, workers=2, progress=lambda d, t: seen.append((d, t))
    )
    return root, path, seen


def test_layout_and_yaml_are_what_ultralytics_reads(complete):
    root, path, _ = complete
    content = yaml.safe_load(path.read_text())
    assert Path(content["path"]).is_absolute()
    assert content["names"] == dict(enumerate(VISDRONE_CLASSES))
    for split, count in (("train", 4), ("val", 2)):
        folder = Path(content["path"]) / content[split]
        images = sorted(folder.glob("*.jpg"))
        assert len(images) == count
        for image in images:
            height, width = cv2.imread(str(image)).shape[:2]
            assert (width, height) == (160, 96)
            labels = np.loadtxt(root / "labels" / split / f"{image.stem}.txt", ndmin=2)
            wanted = to_yolo_labels(
                read_annotations(root / "annotations" / split / f"{image.stem}.txt"), 160, 96
            )
            assert len(wanted) > 0
            np.testing.assert_allclose(labels, wanted, atol=1e-7)


def test_progress_counts_to_the_total(complete):
    _, _, seen = complete
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_second_call_changes_nothing_and_is_quick(complete):
    root, path, _ = complete
    before = state(root)
    start = time.perf_counter()
    assert generate_dataset(root, train=4, val=2, seed=3, spec=SPEC) == path
    assert time.perf_counter() - start < 0.5
    assert state(root) == before


def test_one_and_two_workers_make_the_same_files(complete, tmp_path):
    root, _, _ = complete
    generate_dataset(tmp_path / "again", train=4, val=2, seed=3, spec=SPEC, workers=1)
    for path in root.rglob("*"):
        if path.suffix in (".jpg", ".txt"):
            assert (tmp_path / "again" / path.relative_to(root)).read_bytes() == path.read_bytes()


def test_interrupted_generation_is_completed_without_redoing(complete, tmp_path, monkeypatch):
    whole, _, _ = complete
    root = tmp_path / "set"
    made = []
    real = dataset._make_scene

    def stop_after_three(root_, split, stem, seed, spec):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(stem)
        real(root_, split, stem, seed, spec)

    monkeypatch.setattr(dataset, "_make_scene", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(root, train=4, val=2, seed=3, spec=SPEC, workers=1)
    assert not (root / "data.yaml").exists()
    kept = {p: v for p, v in state(root).items() if p.parts[0] != "manifest.json"}
    monkeypatch.setattr(dataset, "_make_scene", real)
    generate_dataset(root, train=4, val=2, seed=3, spec=SPEC, workers=1)
    now = state(root)
    assert all(now[p] == v for p, v in kept.items())
    ours = {p: v[1] for p, v in now.items() if p.suffix in (".jpg", ".txt")}
    theirs = {p: v[1] for p, v in state(whole).items() if p.suffix in (".jpg", ".txt")}
    assert ours == theirs


def test_image_without_its_texts_is_made_again(complete, tmp_path):
    root = tmp_path / "set"
    generate_dataset(root, train=1, val=1, seed=3, spec=SPEC, workers=1)
    label = root / "labels" / "val" / "val_00000.txt"
    wanted = label.read_bytes()
    label.unlink()
    generate_dataset(root, train=1, val=1, seed=3, spec=SPEC, workers=1)
    assert label.read_bytes() == wanted


@pytest.mark.parametrize("change", [{"seed": 4}, {"spec": replace(SPEC, density=(2.0, 2.0))}, {"train": 1}])
def test_another_recipe_replaces_the_set(tmp_path, change):
    root = tmp_path / "set"
    recipe = {"train": 2, "val": 1, "seed": 3, "spec": SPEC, "workers": 1}
    generate_dataset(root, **recipe)
    before = (root / "manifest.json").read_bytes()
    generate_dataset(root, **{**recipe, **change})
    assert (root / "manifest.json").read_bytes() != before
    assert len(list((root / "images" / "train").iterdir())) == {**recipe, **change}["train"]


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no generated data set"):
        generate_dataset(tmp_path, train=1, val=1, spec=SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_moved_set_gets_its_new_path(tmp_path):
    generate_dataset(tmp_path / "a", train=1, val=1, seed=3, spec=SPEC, workers=1)
    (tmp_path / "a").rename(tmp_path / "b")
    path = generate_dataset(tmp_path / "b", train=1, val=1, seed=3, spec=SPEC, workers=1)
    assert yaml.safe_load(path.read_text())["path"] == (tmp_path / "b").resolve().as_posix()


def test_set_without_training_images_still_names_both_keys(tmp_path):
    path = generate_dataset(tmp_path / "set", train=0, val=1, seed=3, spec=SPEC, workers=1)
    content = yaml.safe_load(path.read_text())
    assert content["train"] == content["val"] == "images/val"


def test_splits_share_no_seed():
    train, val = scene_seeds(0, "train", 5000), scene_seeds(0, "val", 5000)
    assert len(set(train) | set(val)) == 10000
    assert scene_seeds(0, "train", 10) == train[:10]
    assert scene_seeds(1, "train", 10) != train[:10]


SCRIPT = """
import sys
from aerial_scenes.dataset import generate_dataset
from aerial_scenes.scenes import SceneSpec

if __name__ == "__main__":
    spec = SceneSpec(width=320, height=192)
    say = lambda done, total: print(done, flush=True)
    generate_dataset(sys.argv[1], train=400, val=1, spec=spec, progress=say)
"""


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_interrupted_run_leaves_no_worker_behind(tmp_path, how, after):
    (tmp_path / "make.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "make.py"), str(tmp_path / "set")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= after:
            break
    if how == "ctrl-c":  # a terminal sends it to the whole group
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode != 0
        assert errors.strip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1
    else:
        process.kill()
        process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a process of the group is still alive")
    assert not (tmp_path / "set" / "data.yaml").exists()


@pytest.mark.parametrize("change", [{"train": -1}, {"train": 0, "val": 0}, {"workers": 3}, {"seed": -1}])
def test_impossible_requests_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match=r"needs images|workers|seed"):
        generate_dataset(tmp_path / "set", **{"train": 1, "val": 1, "spec": SPEC, **change})


def make_visdrone(folder, names):
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in names:
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), np.full((50, 100, 3), 90, np.uint8))
        (folder / "annotations" / f"{name}.txt").write_text(
            "10,10,20,20,1,4,0,0\n0,0,9,9,0,0,0,0\n90,40,20,20,1,10,1,0,\n"
        )


def test_visdrone_folders_are_converted_by_split(tmp_path):
    make_visdrone(tmp_path / "VisDrone2019-DET-train", ["a", "b"])
    make_visdrone(tmp_path / "VisDrone2019-DET-val", ["c"])
    path = convert_visdrone(tmp_path, tmp_path / "out")
    content = yaml.safe_load(path.read_text())
    assert (content["train"], content["val"]) == ("images/train", "images/val")
    assert sorted(p.name for p in (tmp_path / "out/images/train").iterdir()) == ["a.jpg", "b.jpg"]
    assert cv2.imread(str(tmp_path / "out/images/val/c.jpg")) is not None
    labels = np.loadtxt(tmp_path / "out/labels/val/c.txt", ndmin=2)
    np.testing.assert_allclose(labels, [[3, 0.2, 0.4, 0.2, 0.4], [9, 0.95, 0.9, 0.1, 0.2]])


def test_single_visdrone_folder_serves_as_val_and_train(tmp_path):
    make_visdrone(tmp_path / "frames", ["a"])
    content = yaml.safe_load(convert_visdrone(tmp_path / "frames", tmp_path / "out").read_text())
    assert content["train"] == content["val"] == "images/val"


def test_conversion_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no VisDrone split"):
        convert_visdrone(tmp_path, tmp_path / "out")
    make_visdrone(tmp_path / "val", ["a", "b"])
    (tmp_path / "val/annotations/b.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        convert_visdrone(tmp_path, tmp_path / "out")
    (tmp_path / "val/annotations/b.txt").write_text("")
    (tmp_path / "val/images/b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.jpg"):
        convert_visdrone(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="into its source"):
        convert_visdrone(tmp_path, tmp_path / "val")
