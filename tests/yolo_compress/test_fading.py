from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.squares import enliven, make_model

from yolo_compress.config.base import Training
from yolo_compress.config.sections import Recipe
from yolo_compress.config.techniques import Prune, Sparsify
from yolo_compress.pruning.pruner import Pruned, prune, silent_channels
from yolo_compress.pruning.surgery import Surgery
from yolo_compress.sparsity.fading import FadeTrainer, places_of, turn_down, volume
from yolo_compress.sparsity.trainer import sparsify, sufficient_strength
from yolo_compress.training import StageContext

from ultralytics.nn.tasks import DetectionModel  # isort: skip

PRUNE = {"target": {"channels": 0.5}, "importance": "lamp"}  # uniform: the quickest to choose
TRAIN = {"epochs": 3, "batch": 4, "lr": 0.001, "warmup_epochs": 0, "augment": {"mosaic": 0}}


def fading(context: StageContext, console: Console | None = None, **sparsify: Any) -> StageContext:
    recipe = context.recipe.model_dump()
    recipe["sparsify"] = {"mode": "fade", "train": TRAIN, **sparsify}
    recipe["prune"] = PRUNE
    return dataclasses.replace(
        context, recipe=Recipe.model_validate(recipe), console=console or context.console
    )


def test_volume_falls_in_a_straight_line_and_stays_at_nothing() -> None:
    assert [volume(step, 2, 4) for step in range(8)] == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


@dataclasses.dataclass(frozen=True)
class Silenced:
    """A model whose channels for half of the work are silent, and the pruning that chose them."""

    model: DetectionModel
    chosen: Pruned


@pytest.fixture(scope="module")
def silenced() -> Silenced:
    model = enliven(make_model())
    chosen = prune(model, Prune.model_validate(PRUNE), 96)
    turn_down(model, places_of(model, chosen.kept), 0.0)
    return Silenced(model, chosen)


def test_removing_what_is_silent_changes_nothing_and_is_what_pruning_takes(silenced: Silenced) -> None:
    pruned = prune(silenced.model, Prune.model_validate(PRUNE), 96)
    assert pruned.faded
    assert not silenced.chosen.faded
    assert all(torch.equal(a, b) for a, b in zip(pruned.kept, silenced.chosen.kept, strict=True))
    assert pruned.channels == silenced.chosen.channels
    assert pruned.reached == silenced.chosen.reached
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (model.eval()(image)[0] for model in (silenced.model, pruned.model))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_for_another_target_the_silent_go_first(silenced: Silenced) -> None:
    further = prune(silenced.model, Prune.model_validate({**PRUNE, "target": {"channels": 0.25}}), 96)
    assert not further.faded
    silent = silent_channels(Surgery(silenced.model))
    assert not any(quiet[kept].any() for quiet, kept in zip(silent, further.kept, strict=True))


def test_the_chosen_channels_are_at_zero_in_the_end_also_in_the_average_and_no_others(
    checkpoint: Path, context: StageContext
) -> None:
    shown = io.StringIO()
    own = fading(context, Console(file=shown, width=200), start=1, duration=1)
    trainer = FadeTrainer.prepare(checkpoint, Training.model_validate(TRAIN), own)
    trainer.train()
    assert trainer.taken == 6  # 8 images in batches of 4, three epochs
    assert "the channels that will go fade" in shown.getvalue()
    gone = {name: torch.zeros(0, dtype=torch.long) for name, _ in trainer.places}
    for name, channels in trainer.places:
        gone[name] = torch.cat([gone[name], channels])
    for network in (trainer.model, trainer.ema.ema):
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                zero = (module.weight == 0).nonzero().flatten()
                assert zero.tolist() == sorted(gone.get(name, torch.zeros(0)).tolist())
                assert torch.equal(module.bias[zero], torch.zeros(len(zero)))


def test_a_resumed_fading_ends_as_an_uninterrupted_one(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of steps and the choice are part of the checkpoint, as are distillation's connectors."""
    own = fading(context, distill=True)
    whole, facts = sparsify(checkpoint, dataclasses.replace(own, folder=context.folder / "whole"))
    assert facts["gammas"]["contrast"] == 0
    assert facts["gammas"]["warning"] is None
    original = FadeTrainer.on_train_epoch_start

    def die(trainer: FadeTrainer) -> None:
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(FadeTrainer, "on_train_epoch_start", die)
        with pytest.raises(KeyboardInterrupt):
            sparsify(checkpoint, own)
    resumed, _ = sparsify(checkpoint, own)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_sufficient_strength_takes_a_scale_of_one_to_nothing() -> None:
    training = Training.model_validate({**TRAIN, "epochs": 4, "lr": 0.01, "lr_final": 0.1})
    strength = sufficient_strength("constant", 4, 40, training)
    # 10 steps an epoch at learning rates that fall in a straight line towards a tenth
    assert sum(10 * 0.01 * (1 - 0.9 * e / 4) * strength for e in range(4)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("section", "mode"),
    [({}, "fade"), ({"strength": 0.1}, "proximal"), ({"strength": 0.1, "mode": "fade"}, "fade")],
)
def test_a_strength_means_a_penalty_where_no_mode_is_named(section: dict[str, Any], mode: str) -> None:
    assert Sparsify.model_validate({**section, "train": TRAIN}).mode == mode


def test_a_fading_that_does_not_end_in_time_is_refused() -> None:
    with pytest.raises(ValueError, match="make start or duration smaller"):
        Sparsify.model_validate({"start": 2, "duration": 2, "train": TRAIN})
