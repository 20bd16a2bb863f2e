"""The stages of a comparison go to Ray as tasks that wait for what they need."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from support.squares import make_recipe, write_dataset

from yolo_compress import cluster
from yolo_compress.compare import steps
from yolo_compress.config.loading import load_comparison
from yolo_compress.errors import UserError

NO_STAGES = {"sparsify": None, "prune": None, "distill": None}


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    recipe = make_recipe(folder / "unused", write_dataset(folder / "squares", train=2, val=2))
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    document = {
        "base": "base.yaml",
        "output": str(folder / "out"),
        "seeds": [0, 1],
        "ratio_to": "dense",
        "arms": {
            "dense": {"teacher.train.epochs": 3, **NO_STAGES},
            "none": {"distill.method": "none"},
            "cwd": {},
        },
    }
    (folder / "comparison.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load_comparison(folder / "comparison.yaml", [])


class Future(SimpleNamespace):
    """One that stands for itself alone."""

    __hash__ = object.__hash__


class Ray(ModuleType):
    """What is used of Ray: a task runs when it is waited for, unless what it needs has failed."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.options: list[dict[str, Any]] = []
        self.ran: list[Path] = []

    def init(self, **given: Any) -> None:
        self.address = given["address"]

    def remote(self, **options: Any) -> Any:
        def wrap(function: Any) -> Any:
            def submit(arms: Any, folder: Path, *needed: Any) -> Any:
                self.options.append(options)
                return Future(call=lambda: function(arms, folder), folder=folder, needed=needed)

            return type("Task", (), {"remote": staticmethod(submit)})

        return wrap

    def wait(self, futures: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return futures[:1], futures[1:]

    def get(self, future: Any) -> str:
        for other in future.needed:
            assert other.folder in self.ran, "a stage was begun before one that it needs"
        self.ran.append(future.folder)
        return future.call()


@pytest.fixture
def ray(monkeypatch):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_stages_that_arms_share_are_one_step_and_stand_before_those_that_need_them(arms):
    todo = steps(arms)
    assert len({step.folder for step in todo}) == len(todo)
    names = [(step.stage.recipe.seed, step.stage.name) for step in todo]
    for seed in (0, 1):
        # The arm that trains longer, and the parent of the others; sparse and pruned are shared by two arms.
        assert [name for number, name in names if number == seed].count("dense") == 2
        assert [name for number, name in names if number == seed].count("pruned") == 1
        assert [name for number, name in names if number == seed].count("distilled") == 2
    for index, step in enumerate(todo):
        assert set(step.needs) <= {other.folder for other in todo[:index]}
    assert all(step.shown for step in todo if step.stage.name in ("dense", "distilled"))
    assert not any(step.shown for step in todo if step.stage.name in ("sparse", "pruned"))


def test_every_stage_is_a_task_with_its_processors_and_is_given_to_another_worker(arms, ray, monkeypatch):
    monkeypatch.setattr(cluster, "_do", lambda arms, folder, *needed: "there")
    cluster.train_on_ray(arms, Console(quiet=True), "auto", gpus=0.5)
    assert ray.ran == [step.folder for step in steps(arms)]
    assert ray.address == "auto"
    threads = arms.base.threads
    assert ray.options[0] == {"num_cpus": threads, "num_gpus": 0.5, "max_retries": cluster.RETRIES}
    cluster.train_on_ray(arms, Console(quiet=True), "auto")
    assert ray.options[-1]["num_gpus"] == 0  # this recipe's device is the CPU


def test_a_stage_that_fails_is_named_and_the_others_are_done(arms, ray, monkeypatch):
    def fail_once(arms: Any, folder: Path, *needed: Any) -> str:
        if folder.name.startswith("pruned") and "seed0" in str(folder):
            raise RuntimeError("a long story\nUserError: no channel is left")
        return "there"

    monkeypatch.setattr(cluster, "_do", fail_once)
    with pytest.raises(
        UserError, match=r"seed 0, pruned-\w+ failed: UserError: no channel is left"
    ) as failed:
        cluster.train_on_ray(arms, Console(quiet=True), "auto")
    assert "seed 1" not in str(failed.value)
    assert len(ray.ran) == len(steps(arms))


def test_without_ray_it_is_said_what_to_install(arms, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'yolo-compress\[ray\]'"):
        cluster.train_on_ray(arms, Console(quiet=True), "auto")
