"""Which rows go with which columns at the least total cost (the linear assignment problem)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def assign(cost: NDArray[np.float64], limit: float) -> tuple[Indices, Indices]:
    """Pair rows with columns so that the total cost is least, where a row left alone costs ``limit``.

    Shortest augmenting paths (Jonker and Volgenant 1987; Crouse 2016 for more columns than rows), after the
    pairs that nothing else competes for. Of a tracker's hundred rows few compete, so few need a path.

    Args:
        cost: N x M float64; infinite where a pair must not be. A pair that costs more than ``limit`` is none.
        limit: finite.

    Returns:
        Rows and columns of the pairs, in the order of the rows.
    """
    cost = np.asarray(cost, np.float64)
    possible = cost <= limit
    row_of, column_of = np.nonzero(possible)
    alone = (possible.sum(1)[row_of] == 1) & (possible.sum(0)[column_of] == 1)
    rows, columns = [row_of[alone]], [column_of[alone]]
    contested_rows, contested_columns = np.unique(row_of[~alone]), np.unique(column_of[~alone])
    if len(contested_rows):
        block = np.ix_(contested_rows, contested_columns)
        i, j = _shortest_paths(np.where(possible[block], cost[block], np.inf), limit)
        rows.append(contested_rows[i])
        columns.append(contested_columns[j])
    row, column = np.concatenate(rows), np.concatenate(columns)
    order = np.argsort(row)
    return row[order], column[order]


def _shortest_paths(cost: NDArray[np.float64], limit: float) -> tuple[Indices, Indices]:
    """`assign` without the short cut: a path for each row that does not get its cheapest column at once."""
    rows, real = cost.shape
    # A column of its own for each row, which stands for being left alone, makes every row find a place.
    own = np.full((rows, rows), np.inf)
    np.fill_diagonal(own, limit)
    cost = np.concatenate((cost, own), axis=1)
    row_price, column_price = cost.min(axis=1), np.zeros(cost.shape[1])
    column_of, row_of = np.full(rows, -1), np.full(cost.shape[1], -1)
    columns, first = np.unique(cost.argmin(axis=1), return_index=True)
    row_of[columns], column_of[first] = first, columns

    for start in np.flatnonzero(column_of < 0).tolist():
        distance, before = np.full(cost.shape[1], np.inf), np.full(cost.shape[1], -1)
        reached = np.zeros(cost.shape[1], np.bool_)
        row, length, visited = start, 0.0, [start]
        while True:
            through = length + cost[row] - row_price[row] - column_price
            shorter = ~reached & (through < distance)
            distance[shorter], before[shorter] = through[shorter], row
            column = int(np.where(reached, np.inf, distance).argmin())
            length = float(distance[column])
            reached[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            visited.append(row)
        others = np.array(visited[1:], np.intp)
        row_price[start] += length
        row_price[others] += length - distance[column_of[others]]
        column_price[reached] -= length - distance[reached]
        while True:
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, column_of[row]
            if row == start:
                break
    row_index = np.flatnonzero(column_of < real)
    return row_index, column_of[row_index]
