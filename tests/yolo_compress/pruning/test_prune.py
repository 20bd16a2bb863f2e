from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.squares import enliven, make_model
from torch import nn

from yolo_compress.config.techniques import Prune
from yolo_compress.errors import UserError
from yolo_compress.measure.latency import Latency
from yolo_compress.pruning import pruner
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.pruning.pruner import Bench, prune

from ultralytics.nn.modules import C2f  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip


def settings(target: dict[str, float], **more: Any) -> Prune:
    return Prune.model_validate({"target": target, **more})


def widths(model: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def prunable(model: DetectionModel) -> set[str]:
    head = model.model[-1].i
    return {
        name
        for name in widths(model)
        if not (name.startswith(f"model.{head}.cv") and name.endswith(".2")) and "dfl" not in name
    }


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("target", [{"params": 0.35}, {"macs": 0.5}])
def test_target_is_met_to_two_percent_and_not_exceeded(scope: str, target: dict[str, float]) -> None:
    dense = make_model()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    pruned = prune(dense, settings(target, scope=scope), 64)
    ((kind, share),) = target.items()
    count = count_params if kind == "params" else lambda m: count_macs(m, 64)
    assert pruned.reached == count(pruned.model) / count(dense)
    assert 0.98 * share <= pruned.reached <= share
    assert pruned.within_tolerance
    assert f"{share:.1%}" in pruned.summary()
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())


def test_a_target_between_two_steps_is_said_aloud() -> None:
    """In steps of 128 the smallest that can go are 128 of 256 channels: more than 2 % of the parameters."""
    coarse = settings({"params": 0.99}).model_copy(update={"round_to": 128})
    pruned = prune(make_model(), coarse, 64)
    assert 0.5 < pruned.reached < 0.98 * 0.99
    assert not pruned.within_tolerance
    assert "next step that the rounding, min_width and max_ratio allow" in pruned.summary()


@pytest.mark.parametrize("round_to", [8, 16])
def test_half_of_each_layer_as_published(round_to: int) -> None:
    dense = make_model()
    pruned = prune(dense, settings({"channels": 0.5}, round_to=round_to), 64)
    after = widths(pruned.model)
    for name, width in widths(dense).items():
        expected = max(round_to, width // 2 // round_to * round_to) if name in prunable(dense) else width
        if name.endswith("cv1.conv") and isinstance(dense.get_submodule(name.rpartition(".cv1")[0]), C2f):
            expected = 2 * max(round_to, width // 4 // round_to * round_to)
        assert after[name] == expected, name
    assert pruned.channels == tuple((name, width, after[name]) for name, width in widths(dense).items())


@pytest.mark.parametrize("round_to", [8, 16])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_widths_are_multiples_so_that_hardware_is_used_fully(round_to: int, scope: str) -> None:
    pruned = prune(make_model(), settings({"macs": 0.4}, round_to=round_to, scope=scope), 64).model
    after = widths(pruned)
    assert all(after[name] % round_to == 0 for name in prunable(pruned))


def test_floors_keep_every_layer_alive_in_a_global_ranking() -> None:
    dense = make_model()
    with torch.no_grad():
        dense.model[4].cv2.bn.weight.mul_(1e-6)  # the ranking would take all of it
    pruned = widths(prune(dense, settings({"params": 0.6}, scope="global"), 64).model)
    assert pruned["model.4.cv2.conv"] == 8
    pruned = widths(prune(dense, settings({"params": 0.6}, scope="global", max_ratio=0.5), 64).model)
    assert pruned["model.4.cv2.conv"] == 32
    pruned = widths(prune(dense, settings({"params": 0.6}, scope="global", min_width=24), 64).model)
    assert pruned["model.4.cv2.conv"] == 24
    assert pruned["model.0.conv"] == 16  # never more than there is


def test_channels_with_the_smallest_gammas_go() -> None:
    dense = make_model()
    with torch.no_grad():  # a layer coupled to no other, so that its own gammas decide
        dense.model[0].bn.weight.copy_(torch.arange(1.0, 17.0).flip(0))
    pruned = prune(dense, settings({"channels": 0.5}, importance="gamma"), 64).model
    assert pruned.model[0].bn.weight.tolist() == list(range(16, 8, -1))


def test_chance_prunes_to_the_same_sizes_with_the_recipes_seed() -> None:
    dense = make_model()
    by_gamma = prune(dense, settings({"macs": 0.4}, importance="gamma"), 64)
    first, same, other = (
        prune(dense, settings({"macs": 0.4}, importance="random"), 64, seed=seed).model for seed in (1, 1, 2)
    )
    assert torch.equal(first.model[0].conv.weight, same.model[0].conv.weight)
    assert not torch.equal(first.model[0].conv.weight, other.model[0].conv.weight)
    assert count_macs(first, 64) == pytest.approx(count_macs(by_gamma.model, 64), rel=0.02)


def test_unreachable_target_says_what_is_reachable() -> None:
    with pytest.raises(
        UserError, match=r"prune\.target\.macs: 0\.001 .*the least is 0\.\d+.*prune\.round_to"
    ):
        prune(make_model(), settings({"macs": 0.001}), 64)


def test_sensitivity_spares_the_layers_that_the_loss_needs(dataset: Path) -> None:
    """What the head's third level computes is not used: its last convolutions are 0. All gammas are alike."""
    dense = enliven(make_model())
    with torch.no_grad():
        for branch in (dense.model[-1].cv2, dense.model[-1].cv3):
            branch[2][2].weight.zero_()
    given = {"scope": "global", "sensitivity": True, "calibration_images": 1}
    pruned = prune(dense, settings({"params": 0.6}, **given), 64, bench=Bench(dataset))
    assert 0.98 * 0.6 <= pruned.reached <= 0.6
    after = widths(pruned.model)
    unused = [f"model.22.cv{branch}.2.{layer}.conv" for branch in (2, 3) for layer in (0, 1)]
    used = [name.replace(".2.", ".0.", 1) for name in unused]
    assert sum(after[name] for name in unused) < sum(after[name] for name in used)
    assert after["model.22.cv2.2.0.conv"] == 8


def test_measured_targets_without_something_to_measure_on_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="bench"):
        prune(make_model(), settings({"latency": 0.5}), 64)


def test_latency_is_searched_by_measuring_candidates_beside_the_dense_model(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on which the time is the file's size: the search must end within 2 % of the target."""
    asked: list[dict[str, Any]] = []

    def measure(models: list[Path], images: list[Path], **options: Any) -> list[Latency]:
        asked.append({"images": len(images), **options})
        sizes = [model.stat().st_size for model in models]
        return [Latency(ms=size / 1e6, ratio=size / sizes[0]) for size in sizes]

    monkeypatch.setattr(pruner, "measure_latency", measure)
    monkeypatch.setattr(
        pruner, "export_onnx", lambda source, target, _: target.write_bytes(source.read_bytes())
    )
    bench = Bench(dataset, threads=1, rounds=3)
    pruned = prune(make_model(), settings({"latency": 0.5}, backend="onnxruntime"), 64, bench=bench)
    assert 0.49 <= pruned.reached <= 0.5
    assert 2 <= len(asked) <= pruner.LATENCY_MEASUREMENTS
    assert all(a == {"images": 4, "rounds": 3, "threads": 1, "backend": "onnxruntime"} for a in asked)
    with pytest.raises(UserError, match=r"prune\.target\.latency.*the least is 0\."):
        prune(make_model(), settings({"latency": 0.001}), 64, bench=bench)


def test_latency_is_searched_on_the_board_without_images_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def measure(models: list[Path], board: str, *, backend: str) -> list[Latency]:
        asked.append((board, backend))
        sizes = [model.stat().st_size for model in models]
        return [Latency(ms=size / 1e6, ratio=size / sizes[0]) for size in sizes]

    monkeypatch.setattr(pruner, "measure_on_board", measure)
    monkeypatch.setattr(
        pruner, "export_onnx", lambda source, target, _: target.write_bytes(source.read_bytes())
    )
    given = settings({"latency": 0.5}, backend="tensorrt", board="http://board:8765")
    pruned = prune(make_model(), given, 64)
    assert 0.49 <= pruned.reached <= 0.5
    assert set(asked) == {("http://board:8765", "tensorrt")}


def test_a_board_decides_what_comes_out_and_none_changes_nothing() -> None:
    plain = settings({"latency": 0.5})
    assert "board" not in plain.in_force()
    assert settings({"latency": 0.5}, board="http://b:1").in_force()["board"] == "http://b:1"


def test_latency_is_measured_for_real_with_the_named_backend(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any share that a tiny model reaches here: how fast a loaded machine is, no test can say."""
    monkeypatch.setattr(pruner, "LATENCY_MEASUREMENTS", 2)
    seen: list[str] = []
    pruned = prune(
        make_model(),
        settings({"latency": 0.999}, backend="onnxruntime"),
        64,
        bench=Bench(dataset, rounds=5),
        progress=lambda what, *_: seen.append(what),
    )
    assert pruned.kind == "latency"
    assert 0 < pruned.reached <= 0.999
    assert set(seen) == {"latency"}
