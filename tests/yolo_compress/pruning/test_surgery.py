from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch_pruning as tp
from support.squares import enliven, make_model
from torch import nn

from yolo_compress.errors import UserError
from yolo_compress.pruning.surgery import (
    SplitC2f,
    Surgery,
    coupled_gammas,
    merge_c2f,
    split_c2f,
)

from ultralytics.nn.modules import C2f, C3k2  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip


def output(model: nn.Module, size: int = 64) -> torch.Tensor:
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(image)[0]


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    """To 1e-3 pixels and 1e-5 in score."""
    torch.testing.assert_close(first[:, :4], second[:, :4], rtol=0, atol=1e-3)
    torch.testing.assert_close(first[:, 4:], second[:, 4:], rtol=0, atol=1e-5)


def some_of(surgery: Surgery, seed: int = 0) -> list[torch.Tensor]:
    """Choose channels at random: between a third and all, as many in tied groups, at places of their own."""
    generator = torch.Generator().manual_seed(seed)
    kept: dict[int, torch.Tensor] = {}
    for unit, width in zip(surgery.units, surgery.widths, strict=True):
        count = int(torch.randint(width // 3, width + 1, (1,), generator=generator))
        for group in unit:
            kept[group] = torch.randperm(width, generator=generator)[:count].sort().values
    return [kept[index] for index in range(len(surgery.groups))]


def silence(model: DetectionModel, surgery: Surgery, kept: list[torch.Tensor]) -> None:
    """Let a whole model compute what it computes without the other channels."""
    with torch.no_grad():
        for places, group, stays in zip(coupled_gammas(model), surgery.groups, kept, strict=True):
            gone = torch.ones(group.width, dtype=torch.bool)
            gone[stays] = False
            for name, index in places:
                norm = model.get_submodule(name)
                norm.weight[index[gone]] = 0
                norm.bias[index[gone]] = 0


def test_the_dependency_tracker_does_not_follow_a_stock_c2f() -> None:
    """Why C2f is split at all: should this ever pass, splitting and merging can go."""
    model = make_model().requires_grad_(True).train()

    def prune_it() -> None:
        pruner = tp.pruner.BasePruner(
            model,
            torch.zeros(1, 3, 64, 64),
            importance=tp.importance.BNScaleImportance(normalizer=None),
            pruning_ratio=0.5,
            ignored_layers=[branch[-1] for branch in (*model.model[-1].cv2, *model.model[-1].cv3)],
        )
        pruner.step()
        output(model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((IndexError, RuntimeError)):
            prune_it()


@pytest.mark.parametrize(("architecture", "block"), [("yolov8n.yaml", C2f), ("yolo11n.yaml", C3k2)])
def test_splitting_and_merging_changes_no_output_and_no_weight(architecture: str, block: type) -> None:
    model = enliven(make_model(architecture=architecture))
    before, weights = output(model), {k: v.clone() for k, v in model.state_dict().items()}
    kinds = {name: type(m) for name, m in model.named_modules(remove_duplicate=False)}
    assert block in kinds.values()
    split_c2f(model)
    assert not any(type(m) is block for m in model.modules())
    assert_same(output(model), before)
    merge_c2f(model)
    assert {name: type(m) for name, m in model.named_modules(remove_duplicate=False)} == kinds
    merged = model.state_dict()
    assert list(merged) == list(weights)
    assert all(torch.equal(merged[k], weights[k]) for k in weights)


def test_merging_halves_of_different_width_is_refused() -> None:
    split = SplitC2f(C2f(8, 16))
    split.cv1_pass = SplitC2f(C2f(8, 32)).cv1_pass
    with pytest.raises(ValueError, match="16 and 8"):
        split.merged()


@pytest.mark.parametrize(
    ("architecture", "classes"),
    [
        ("yolov8n.yaml", 1),
        ("yolov8n.yaml", 91),
        ("yolov8s.yaml", 10),
        ("yolov8m.yaml", 10),
        ("yolo11n.yaml", 2),  # with C3k inside two of its C3k2
        ("yolov5nu.yaml", 2),
    ],
)
def test_pruned_network_computes_what_the_whole_one_does_with_those_channels_silenced(
    architecture: str, classes: int
) -> None:
    """Any choice of channels; and folding the split network back changes nothing."""
    model = enliven(make_model(architecture=architecture, classes=classes))
    whole = output(model)
    assert float(whole[:, 4:].std()) > 0.05
    surgery = Surgery(model)
    kept = some_of(surgery)
    surgery.remove(kept)
    split = output(surgery.model)
    folded = surgery.folded()
    assert not any(isinstance(m, SplitC2f) for m in folded.modules())
    assert_same(output(folded), split)
    for group, stays in zip(surgery.groups, kept, strict=True):
        name = group.root.replace(".cv1_pass.", ".cv1.").replace(".cv1_chain.", ".cv1.")
        halves = 2 if name != group.root else 1
        assert folded.get_submodule(name).out_channels == halves * len(stays)
    silence(model, surgery, kept)
    assert_same(split, output(model))
    assert float((whole - split)[:, 4:].abs().max()) > 0.1  # the channels did matter


def test_the_largest_model_can_be_operated_on_too() -> None:
    model = DetectionModel("yolov8x.yaml", nc=3, verbose=False)
    surgery = Surgery(model)
    kept = [torch.arange(max(8, group.width // 16 * 8)) for group in surgery.groups]
    surgery.remove(kept)
    assert_same(output(surgery.model), output(surgery.folded()))


def test_every_layer_can_be_pruned_but_the_ones_whose_width_has_a_meaning() -> None:
    model = make_model()
    detect = model.model[-1]
    fixed = {f"model.{detect.i}.cv{branch}.{level}.2" for branch in (2, 3) for level in range(3)}
    fixed.add(f"model.{detect.i}.dfl.conv")
    surgery = Surgery(model)
    owned = [part.layer for group in surgery.groups for part in group.of("out")]
    assert len(owned) == len(set(owned))
    every = {name for name, m in surgery.model.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(owned) == every - fixed


def test_penalized_scales_are_each_prunable_channel_once() -> None:
    """Exactly the BatchNorms: a YOLOv8 has no other channels; in YOLO11 those around attention stay out."""
    seen: dict[str, list[int]] = {}
    model = make_model()
    for places in coupled_gammas(model):
        assert len({len(index) for _, index in places}) == 1
        for name, index in places:
            seen.setdefault(name, []).extend(index.tolist())
    norms = {n: m.num_features for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name: sorted(channels) for name, channels in seen.items()} == {
        name: list(range(width)) for name, width in norms.items()
    }
    attention = make_model(architecture="yolo11n.yaml")
    prunable = {name for places in coupled_gammas(attention) for name, _ in places}
    fixed = {n for n, m in attention.named_modules() if isinstance(m, nn.BatchNorm2d)} - prunable
    assert {name.split(".", 2)[1] for name in fixed} == {"10"}  # C2PSA
    assert "model.10.m.0.attn.qkv.bn" in fixed
    assert "model.10.m.0.ffn.0.bn" in prunable


def test_channels_that_a_sum_couples_are_one_group() -> None:
    """Of a C2f with shortcuts: the second half of cv1 and every bottleneck's cv2, channel by channel."""
    groups = [dict(places) for places in coupled_gammas(make_model(architecture="yolov8s.yaml"))]
    (group,) = [g for g in groups if "model.4.m.1.cv2.bn" in g]
    assert set(group) == {"model.4.cv1.bn", "model.4.m.0.cv2.bn", "model.4.m.1.cv2.bn"}
    assert group["model.4.cv1.bn"].tolist() == list(range(64, 128))
    assert group["model.4.m.0.cv2.bn"].tolist() == list(range(64))


def test_checkpoints_that_load_frozen_or_in_half_precision_can_be_pruned() -> None:
    model = make_model()
    expected = len(Surgery(model).groups)
    model.half().requires_grad_(False)
    surgery = Surgery(model)
    assert len(surgery.groups) == expected
    assert {p.dtype for p in surgery.model.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def attention_in_c3k2() -> DetectionModel:
    model = make_model(architecture="yolo11n.yaml")
    model.model[2].m[0] = nn.Sequential(model.model[10].m[0])
    return model


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: DetectionModel("yolov10n.yaml", verbose=False), r"SCDown.*supported are YOLOv8"),
        (lambda: DetectionModel("yolov9t.yaml", verbose=False), r"ELAN1.*supported are YOLOv8"),
        (lambda: DetectionModel("yolo26n.yaml", verbose=False), r"end-to-end Detect.*supported are YOLOv8"),
        (attention_in_c3k2, r"C3k2 with attention"),
        (lambda: make_model().fuse(verbose=False), r"no BatchNorm.*fused from"),
    ],
)
def test_another_architecture_is_refused_by_name(build: Callable[[], DetectionModel], names: str) -> None:
    with pytest.raises(UserError, match=names):
        Surgery(build())
