"""The assignment is the best there is."""

import itertools

import numpy as np
import pytest
from yolo_trt_node.tracking.assignment import assign


def total(cost: np.ndarray, pairs, limit: float) -> float:
    return sum(cost[i, j] for i, j in pairs) + limit * (cost.shape[0] - len(pairs))


def best_total(cost: np.ndarray, limit: float) -> float:
    """Try every way of giving each row a column of its own, or none."""
    rows, columns = cost.shape
    places = [*range(columns), *[None] * rows]
    return min(
        total(cost, [(i, j) for i, j in enumerate(way) if j is not None], limit)
        for way in set(itertools.permutations(places, rows))
        if all(j is None or cost[i, j] <= limit for i, j in enumerate(way))
    )


@pytest.mark.parametrize("seed", range(60))
def test_no_other_pairs_cost_less(seed):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 10, rng.integers(1, 5, 2)).round(1)  # rounded: ties come up
    cost[rng.random(cost.shape) < 0.2] = np.inf
    limit = float(rng.uniform(2, 9))
    rows, columns = assign(cost, limit)
    assert len(set(rows.tolist())) == len(rows) == len(columns) == len(set(columns.tolist()))
    assert (np.diff(rows) > 0).all()
    assert (cost[rows, columns] <= limit).all()
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert total(cost, pairs, limit) == pytest.approx(best_total(cost, limit))


def test_negative_costs_and_a_limit_of_zero():
    rows, columns = assign(np.array([[-5.0, -4.0], [-4.0, 0.0]]), 0.0)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_pair(shape):
    rows, columns = assign(np.zeros(shape), 1.0)
    assert len(rows) == len(columns) == 0


def test_a_large_crowd_where_all_compete_is_still_best():
    rng = np.random.default_rng(7)
    places = rng.uniform(0, 1, (150, 2))
    order = rng.permutation(150)
    moved = places[order] + rng.normal(0, 1e-4, (150, 2))
    cost = ((places[:, None] - moved) ** 2).sum(axis=2)
    rows, columns = assign(cost, 10.0)
    np.testing.assert_array_equal(rows, np.arange(150))
    assert cost[rows, columns].sum() <= cost[order, np.arange(150)].sum() + 1e-12
