"""The example under each verb's help runs as it is in a fresh clone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from yolo_compress.cli import app
from yolo_compress.config.loading import load_recipe

ROOT = Path(__file__).parents[2]
GROUP = typer.main.get_command(app)
# Fewer and smaller images: what is asked is whether the line runs.
SMALL = {
    "data": ["--train", "1", "--val", "1"],
    "compress": ["--input-size", "64", "amp=false"],
    **{verb: ["--input-size", "64"] for verb in ("prune", "export", "evaluate")},
}


def examples() -> dict[str, str]:
    """Give the command line under each verb's help."""
    verbs = {name: command for name, command in GROUP.commands.items() if not hasattr(command, "commands")}
    verbs |= {f"data {name}": command for name, command in GROUP.commands["data"].commands.items()}
    return {name: re.search(r": (yolo-compress .*)", c.epilog or "")[1] for name, c in verbs.items()}


class Trains(Exception):  # noqa: N818  (no error: where the test stops)
    """All was found and understood, and a training of minutes would begin."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a fresh clone has; it keeps what each line leaves there, and the lines."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("models", "config"):
        (folder / name).symlink_to(ROOT / name)
    return folder, set()


@pytest.fixture
def clone(folder, monkeypatch):
    """The clone as the current folder, where no training begins; gives the lines typed there before."""
    place, typed = folder
    monkeypatch.chdir(place)

    def stop(*given, **_):
        for checkpoint in given[2] if len(given) > 2 and isinstance(given[2], list) else ():
            assert Path(checkpoint).is_file()
        raise Trains

    # It measures this machine.
    monkeypatch.setattr("yolo_compress.doctor.examine", lambda path, *_: [load_recipe(path)][1:])
    for name in ("run.recipe.run_recipe", "run.recipe.run_stage", "compare.run_comparison"):
        monkeypatch.setattr(f"yolo_compress.{name}", stop)
    return typed


@pytest.mark.parametrize("verb", [verb for verb in examples() if verb != "data visdrone"])
def test_the_example_runs_in_a_fresh_clone(verb, clone):
    for line in examples()[verb].split(" && "):
        program, *words = shlex.split(line)
        assert program == "yolo-compress"
        if line in clone:
            continue
        clone.add(line)
        done = CliRunner().invoke(app, [*words, *SMALL.get(words[0], [])])
        if isinstance(done.exception, Trains):
            return
        assert done.exit_code == 0, f"{line}: {done.exception or done.output}"
    assert verb in line


def test_every_verb_shows_itself():
    for verb, line in examples().items():
        assert f"yolo-compress {verb} " in line
