"""Every command shows names as they are, and says in a sentence what a disk does."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rich.console import Console
from support.squares import make_model, make_recipe, write_dataset

from yolo_compress.checkpoints import save_model
from yolo_compress.cli import app, main
from yolo_compress.cli.data import data_app
from yolo_compress.config.loading import load_recipe
from yolo_compress.measure.latency import Latency
from yolo_compress.run import worker
from yolo_compress.run.recipe import run_recipe

# As a folder, a class and a file may be called: rich would take this for the end of red, and for a car.
STRANGE = "x[/red]y:car:"
NAMES = (STRANGE, "[bold]blue")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; return status, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["yolo-compress", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of that name with a data set, a model of such classes, a recipe and a comparison."""
    folder = tmp_path_factory.mktemp("names") / STRANGE
    data = write_dataset(folder / "data", train=2, val=1)
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**content, "names": list(NAMES)}))
    model = make_model()
    model.names = dict(enumerate(NAMES))
    save_model(model, folder / "best.pt")
    recipe = make_recipe(folder / "run", data, teacher={"model": str(folder / "best.pt")})
    recipe = recipe.model_copy(update={"sparsify": None, "prune": None, "distill": None})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    arms = {STRANGE: {}, "other": {"prune.target.macs": 0.5}}
    comparison = {
        "base": "recipe.yaml",
        "output": "compared",
        "seeds": [0],
        "ratio_to": STRANGE,
        "arms": arms,
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(comparison))
    return folder


@pytest.fixture(scope="module")
def ran(strange: Path) -> str:
    """Do the run of that recipe, without its timing in processes; return what it shows."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "measure_latency", lambda models, *_, **__: [Latency(1.0, 1.0) for _ in models])
        run_recipe(load_recipe(strange / "recipe.yaml"), Console(file=shown, width=1000, emoji=False))
    return shown.getvalue()


def test_every_command_shows_brackets_and_colons_in_what_it_did(
    strange: Path, ran: str, command: Command
) -> None:
    model, data, recipe = strange / "best.pt", strange / "data" / "squares.yaml", strange / "recipe.yaml"
    written = {
        "doctor": (recipe,),
        "evaluate": (strange / "run" / "model.onnx", "--data", data),
        "prune": (model, "--macs", "0.5", "--input-size", 64, "-o", strange / "pruned.pt"),
        "run": (recipe,),  # again: its table and its files
        "report": (strange / "run",),
    }
    for verb, words in written.items():
        code, out, err = command(verb, *words)
        assert (verb, code, err) == (verb, 0, "")
        assert STRANGE in out, (verb, out)
        if verb in ("doctor", "evaluate"):
            assert all(name in out for name in NAMES), (verb, out)
    assert "[bold]blue" in (strange / "run" / "report.html").read_text()
    # Trains for minutes: only its arms are shown.
    assert (
        f"the arms are other, {STRANGE}" in command("compare", strange / "compare.yaml", "--arm", "none")[2]
    )


VERBS: dict[str, tuple[str, ...]] = {
    "run": ("{}.yaml",),
    "train": ("{}.yaml",),
    "sparsify": ("{}.pt", "{}.yaml"),
    "prune": ("{}.pt", "--macs", "0.5"),
    "distill": ("{}.pt", "{}.yaml", "--teacher", "{}.pt"),
    "compress": ("{}.pt", "--data", "{}.yaml", "--macs", "0.5"),
    "compare": ("{}.yaml",),
    "report": ("{}",),
    "export": ("{}.pt",),
    "evaluate": ("{}.pt", "--data", "{}.yaml"),
    "data visdrone": ("{}", "{}-out"),
    "data scenes": ("out", "--recipe", "{}.yaml"),
}


def test_no_command_is_left_out() -> None:
    verbs = {str(one.name) for one in app.registered_commands}
    verbs |= {f"data {one.name}" for one in data_app.registered_commands}
    assert verbs == {*VERBS, "doctor"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_shows_brackets_and_colons_in_its_errors(
    verb: str, command: Command, tmp_path: Path
) -> None:
    code, out, err = command(*verb.split(), *(word.format(tmp_path / STRANGE) for word in VERBS[verb]))
    assert code == 1
    assert err.startswith("error: ")
    assert STRANGE in err
    assert "Traceback" not in out + err


def outputs(strange: Path, output: Path) -> dict[str, tuple[object, ...]]:
    """Return what each verb that writes is asked, to write there."""
    model, recipe = strange / "best.pt", strange / "recipe.yaml"
    data = strange / "data" / "squares.yaml"
    trained = make_recipe(output, data, teacher={"model": str(model)})
    (strange / "trained.yaml").write_text(yaml.safe_dump(trained.model_dump(mode="json")))
    wish = (model, "--data", data, "--macs", "0.5", "--input-size", 64, "--device", "cpu")
    return {
        "run": (recipe, "-o", output),
        "train": (recipe, "-o", output),
        "sparsify": (model, strange / "trained.yaml", "-o", output),
        "prune": (model, "--macs", "0.5", "--input-size", 64, "-o", output / "pruned.pt"),
        "distill": (model, strange / "trained.yaml", "--teacher", model, "-o", output),
        "compress": (*wish, "--save-recipe", output / "recipe.yaml"),
        "compare": (strange / "compare.yaml", "-o", output),
        "export": (model, "--input-size", 64, "-o", output / "x.onnx"),
        "data visdrone": (strange / "visdrone", output),
        "data scenes": (output, "--train", 1, "--val", 1),
    }


@pytest.fixture(scope="module")
def visdrone(strange: Path) -> None:
    for kind in ("images", "annotations"):
        (strange / "visdrone" / kind).mkdir(parents=True)
    cv2.imwrite(str(strange / "visdrone/images/a.jpg"), np.zeros((32, 32, 3), np.uint8))
    (strange / "visdrone/annotations/a.txt").write_text("1,1,9,9,1,4,0,0\n")


WRITERS = (
    "run",
    "train",
    "sparsify",
    "prune",
    "distill",
    "compress",
    "compare",
    "export",
    "data visdrone",
    "data scenes",
)


@pytest.mark.usefixtures("visdrone")
@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_that_cannot_be_made_is_a_sentence(verb: str, strange: Path, command: Command) -> None:
    place = Path("/dev/null/found")
    code, _, err = command(*verb.split(), *outputs(strange, place)[verb])
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: cannot ")
    assert str(place) in err
    assert "Not a directory" in err


@pytest.mark.usefixtures("visdrone")
@pytest.mark.parametrize("verb", [*WRITERS, "report"])
def test_a_full_disk_is_a_sentence(
    verb: str, strange: Path, ran: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran
    words = {**outputs(strange, tmp_path), "report": (strange / "run",)}[verb]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # what every file is written by
    monkeypatch.setattr("aerial_scenes.dataset.format_yolo_labels", full)
    monkeypatch.setattr("yolo_compress.data.source.generate_dataset", full)
    code, _, err = command(*verb.split(), *words)
    assert (code, err.count("\n")) == (1, 1)
    assert "is full" in err or "No space left on device" in err
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".onnx", ".html")]
