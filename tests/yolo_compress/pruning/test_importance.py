from __future__ import annotations

import pytest
import torch
from support.squares import make_model

from yolo_compress.pruning.importance import (
    Importance,
    group_norm,
    importances,
    keep_largest,
    mean_scale,
    outliving_share,
)
from yolo_compress.pruning.surgery import Surgery, coupled_gammas


def test_mean_and_norm_over_coupled_layers() -> None:
    gammas = torch.tensor([[3.0, -1.0, 0.0], [-4.0, 1.0, 0.0]])
    torch.testing.assert_close(mean_scale(gammas), torch.tensor([3.5, 1.0, 0.0]))
    torch.testing.assert_close(group_norm(gammas), torch.tensor([12.5**0.5, 1.0, 0.0]))


def test_a_channel_coupled_to_no_other_layer_counts_by_its_plain_gamma() -> None:
    model = make_model()
    with torch.no_grad():
        model.model[0].bn.weight.copy_(torch.linspace(-0.3, 0.5, 16))
    surgery = Surgery(model)
    assert surgery.groups[0].root == "model.0.conv"
    for kind in ("gamma", "gamma_group"):
        torch.testing.assert_close(
            importances(surgery, kind)[0], torch.linspace(-0.3, 0.5, 16).abs(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["gamma", "gamma_group"])
def test_scales_are_not_normalized_by_their_layer(kind: str) -> None:
    """A layer whose scales are a tenth counts a tenth: network slimming, unlike torch-pruning's default."""
    model = make_model()
    before = importances(Surgery(model), kind)
    with torch.no_grad():
        model.model[0].bn.weight.mul_(0.1)
    after = importances(Surgery(model), kind)
    torch.testing.assert_close(after[0], 0.1 * before[0])
    assert all(torch.equal(a, b) for a, b in zip(after[1:], before[1:], strict=True))


def test_rows_of_coupled_layers_belong_to_the_same_channel() -> None:
    model = make_model()
    surgery = Surgery(model)
    for group, places, values in zip(
        surgery.groups, coupled_gammas(model), importances(surgery, "gamma"), strict=True
    ):
        assert len(places) == len(group.of("norm"))
        expected = torch.stack([model.get_submodule(name).weight[index].abs() for name, index in places])
        torch.testing.assert_close(values, expected.mean(0))


@pytest.mark.parametrize(("kind", "factor"), [("l1", 3.0), ("l2", 3.0)])
def test_weights_count_by_the_filters_that_compute_a_channel(kind: str, factor: float) -> None:
    model = make_model()
    before = importances(Surgery(model), kind)[0]
    weight = model.model[0].conv.weight
    expected = weight.abs().mean((1, 2, 3)) if kind == "l1" else weight.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(before, expected.detach())
    with torch.no_grad():
        weight[5].mul_(factor)
        model.model[1].conv.weight.mul_(100)  # who reads the channels does not matter
        model.model[0].bn.weight.mul_(100)
    after = importances(Surgery(model), kind)[0]
    expected = before.clone()
    expected[5] *= factor
    torch.testing.assert_close(after, expected)


def test_lamp_is_the_share_of_the_squares_that_outlive_a_channel() -> None:
    scores = outliving_share(torch.tensor([2.0, 1.0, 3.0, 1.0]))
    torch.testing.assert_close(scores, torch.tensor([4 / 13, 1 / 15, 1.0, 1 / 15]))
    assert outliving_share(torch.zeros(3)).tolist() == [0, 0, 0]


def test_lamp_does_not_care_how_large_a_layer_is_and_spares_the_last_of_each() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(outliving_share(values), outliving_share(1e-4 * values))
    assert outliving_share(values).max() == 1
    assert torch.equal(outliving_share(values).argsort(), values.argsort())


@pytest.mark.parametrize(("kind", "plain"), [("lamp", "l2"), ("lamp_gamma", "gamma_group")])
def test_lamp_is_over_weights_or_over_scales(kind: Importance, plain: Importance) -> None:
    surgery = Surgery(make_model())
    for scores, values in zip(importances(surgery, kind), importances(surgery, plain), strict=True):
        torch.testing.assert_close(scores, outliving_share(values))


def test_chance_is_seeded_and_looks_at_nothing() -> None:
    first, same, other = (
        importances(Surgery(make_model(model)), "random", seed) for model, seed in ((0, 1), (3, 1), (0, 2))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_largest_are_kept_in_order_and_of_equals_the_first() -> None:
    assert keep_largest(torch.tensor([5.0, 1.0, 7.0, 6.0]), 2).tolist() == [2, 3]
    assert keep_largest(torch.ones(5), 3).tolist() == [0, 1, 2]
    assert keep_largest(torch.ones(2), 0).tolist() == []
