from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.squares import make_model

from yolo_compress.pruning.budget import (
    CostModel,
    convex_minorant,
    count_macs,
    count_params,
    fill_up,
    first_within,
    floors,
    ranked_path,
    sensitivity_path,
    single_steps,
    uniform_path,
    uniform_plan,
)
from yolo_compress.pruning.surgery import Surgery

from ultralytics.nn.tasks import DetectionModel  # isort: skip

WIDTHS = (16, 24, 64, 91)


def is_path(plans: np.ndarray, least: np.ndarray, round_to: int, widths: tuple[int, ...] = WIDTHS) -> bool:
    """From the whole network downwards, never up, in multiples, no layer below its floor."""
    inside = plans[1:]
    return bool(
        (plans[0] == widths).all()
        and (np.diff(plans, axis=0) <= 0).all()
        and ((inside % round_to == 0) | (inside == least) | (inside == widths)).all()
        and (plans >= least).all()
    )


@pytest.mark.parametrize(
    ("round_to", "min_width", "max_ratio", "expected"),
    [
        (8, 8, 0.9, [8, 8, 8, 16]),  # a tenth of 91 is more than 8
        (8, 20, 0.9, [16, 24, 24, 24]),  # never more than there is
        (16, 1, 0.5, [16, 16, 32, 48]),
        (8, 8, 0.25, [16, 24, 48, 72]),
    ],
)
def test_floor_is_the_strictest_of_its_three_bounds(
    round_to: int, min_width: int, max_ratio: float, expected: list[int]
) -> None:
    assert floors(WIDTHS, round_to, min_width, max_ratio).tolist() == expected


def test_uniform_takes_the_same_share_rounded_down_and_empties_no_layer() -> None:
    least = floors(WIDTHS, 8, 8, 0.9)
    assert uniform_plan(WIDTHS, least, 0.0, 8).tolist() == list(WIDTHS)
    assert uniform_plan(WIDTHS, least, 0.5, 8).tolist() == [8, 8, 32, 40]
    assert uniform_plan(WIDTHS, least, 0.7, 8).tolist() == [8, 8, 16, 24]
    assert uniform_plan(WIDTHS, least, 1.0, 8).tolist() == least.tolist()


@pytest.mark.parametrize("round_to", [8, 16])
def test_uniform_path_holds_every_uniform_plan(round_to: int) -> None:
    least = floors(WIDTHS, round_to, 8, 0.9)
    path = uniform_path(WIDTHS, least, round_to)
    assert is_path(path, least, round_to)
    assert path[-1].tolist() == least.tolist()
    rows = set(map(tuple, path))
    for ratio in np.linspace(0, 1, 997):
        assert tuple(uniform_plan(WIDTHS, least, ratio, round_to)) in rows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranked_path_is_one_threshold_for_all_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.random(width) * rng.random())[::-1] for width in WIDTHS]
    least = floors(WIDTHS, 8, 8, 0.9)
    path = ranked_path(values, least, 8)
    assert is_path(path, least, 8)
    threshold = float(np.median(np.concatenate(values)))
    expected = [max(int((v > threshold).sum()) // 8 * 8, low) for v, low in zip(values, least, strict=True)]
    assert tuple(expected) in set(map(tuple, path))


def test_global_ranking_takes_more_from_a_layer_of_small_scales() -> None:
    values = [np.linspace(1, 0.5, 64), np.linspace(0.1, 0.05, 64)]
    path = ranked_path(values, floors((64, 64), 8, 8, 0.9), 8)
    assert path[1].tolist() == [64, 56]
    assert [64, 8] in path.tolist()


def brute_minorant(losses: np.ndarray) -> np.ndarray:
    """The largest convex curve below points: at each place the lowest chord over it."""
    result = losses.copy()
    for place in range(len(losses)):
        for start in range(place + 1):
            for end in range(place, len(losses)):
                if start < end:
                    share = (place - start) / (end - start)
                    result[place] = min(result[place], (1 - share) * losses[start] + share * losses[end])
    return result


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=6))
def test_convex_minorant(losses: list[float]) -> None:
    np.testing.assert_allclose(convex_minorant(np.array(losses)), brute_minorant(np.array(losses)), atol=1e-9)


def test_sensitivity_spends_where_it_hurts_least() -> None:
    widths = (64, 64, 64)
    losses = np.array([[0, 5, 10, 15, 20], [0, 0.1, 0.2, 0.3, 50], [0, -1, -2, 1, 2.0]])
    least = floors(widths, 8, 8, 0.9)
    path = sensitivity_path(widths, least, 8, losses, lambda plans: plans.sum(1).astype(float))
    assert is_path(path, least, 8, widths)
    assert (np.diff(path, axis=0).sum(1) == -8).all()  # one step at a time
    order = [int(np.flatnonzero(step)[0]) for step in np.diff(path, axis=0)]
    # The half of the third layer that only luck made better than nothing, then by price; the second layer's
    # last quarter, without which the network fails, at the very end.
    assert order == [2] * 4 + [1] * 6 + [2] * 3 + [0] * 7 + [1]
    assert path[-1].tolist() == least.tolist()


def test_sensitivity_counts_harm_for_each_unit_of_cost() -> None:
    """Equal harm, but a channel of the second layer costs three times as much: it goes first."""
    losses = np.array([[0, 1, 2, 3, 4.0]] * 2)
    path = sensitivity_path((32, 32), np.array([8, 8]), 8, losses, lambda plans: plans @ np.array([1.0, 3.0]))
    assert path.tolist() == [[32, 32], [32, 24], [32, 16], [32, 8], [24, 8], [16, 8], [8, 8]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_bisection_finds_the_first_that_fits_with_few_looks(costs: list[float], limit: float) -> None:
    costs = sorted(costs, reverse=True)
    looks: list[int] = []

    def cost(index: int) -> float:
        looks.append(index)
        return costs[index]

    found = first_within(cost, len(costs), limit)
    assert found == next((i for i, c in enumerate(costs) if c <= limit), len(costs))
    assert len(looks) <= np.ceil(np.log2(len(costs) + 1))


def test_what_a_step_leaves_over_is_filled_with_the_worthiest_that_fit() -> None:
    weights = np.array([1.0, 10.0, 2.0])

    def cost(plans: np.ndarray) -> np.ndarray:
        return plans @ weights

    plan, larger = np.array([8, 8, 8]), np.array([16, 24, 16])
    # 8 + 80 + 16 = 104; each step costs 8, 80 and 16
    assert fill_up(plan, larger, 103, 8, cost, lambda u, _: 1).tolist() == [8, 8, 8]
    assert fill_up(plan, larger, 125, 8, cost, lambda u, _: -u).tolist() == [16, 8, 8]
    assert fill_up(plan, larger, 128, 8, cost, lambda u, _: u).tolist() == [16, 8, 16]
    assert fill_up(plan, larger, 200, 8, cost, lambda u, _: float(u == 1)).tolist() == [16, 16, 8]
    assert fill_up(plan, larger, 999, 8, cost, lambda u, _: 1).tolist() == larger.tolist()


def test_a_path_can_be_taken_one_layer_at_a_time() -> None:
    path = np.array([[91, 64, 64], [80, 48, 64], [80, 48, 56]])
    fine = single_steps(path, 8, lambda unit, kept: kept)
    assert fine.tolist() == [
        [91, 64, 64],
        [91, 56, 64],
        [91, 48, 64],
        [88, 48, 64],
        [80, 48, 64],
        [80, 48, 56],
    ]


def test_published_sizes_are_reproduced() -> None:
    model = DetectionModel("yolov8n.yaml", nc=10, verbose=False)
    assert count_params(model) == 3_012_798
    assert count_macs(model, 640) / 1e9 == pytest.approx(4.08, abs=0.005)
    assert count_macs(model, 1024) / 1e9 == pytest.approx(10.43, abs=0.005)


def test_counting_at_a_large_size_equals_counting_there() -> None:
    import torch_pruning as tp

    model = make_model()
    assert count_macs(model, 160) == int(tp.utils.count_ops_and_params(model, torch.zeros(1, 3, 160, 160))[0])


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo11n.yaml"])
def test_costs_foretell_what_the_pruned_network_has(architecture: str) -> None:
    model = make_model(architecture=architecture)
    surgery = Surgery(model)
    costs = CostModel(surgery, 96)
    assert costs.params(np.array([surgery.widths]))[0] == count_params(model)
    assert costs.macs(np.array([surgery.widths]))[0] == pytest.approx(count_macs(model, 96))
    rng = np.random.default_rng(0)
    plan = np.array([int(rng.integers(1, width + 1)) for width in surgery.widths])
    kept = {group: n for unit, n in zip(surgery.units, plan, strict=True) for group in unit}
    surgery.remove([torch.arange(kept[index]) for index in range(len(surgery.groups))])
    pruned = surgery.folded()
    assert costs.params(plan[None])[0] == count_params(pruned)
    macs = count_macs(pruned, 96)
    assert macs <= costs.macs(plan[None])[0] <= 1.003 * macs
