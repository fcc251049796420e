from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leukoscope.datasets.groups import allocate, allocate_at_random, count_classes, join_groups


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_components_equal_those_of_scipys_graph(pairs: list[tuple[int, int]]) -> None:
    first, second = ([f"{x}" if x else "" for x in column] for column in zip(*pairs, strict=True))
    n = len(pairs)
    edges = [
        (i, j)
        for i in range(n)
        for j in range(n)
        if (first[i] == first[j] != "") or (second[i] == second[j] != "")
    ]
    rows, columns = np.array([*edges, (0, 0)]).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    _, expected = connected_components(graph, directed=False)
    found = join_groups(first, second)
    assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(expected))
    assert len(set(found.tolist())) == len(set(expected))
    starts = [found.tolist().index(k) for k in range(found.max() + 1)]
    assert starts == sorted(starts)


def test_equal_units_are_divided_exactly() -> None:
    counts = np.eye(2)[np.arange(100) % 2]
    part = allocate(counts, [0.5, 0.3, 0.2], np.random.default_rng(0))
    assert count_classes(part, np.arange(100) % 2, 2).tolist() == [[25, 25], [15, 15], [10, 10]]


def test_large_units_go_where_they_fit() -> None:
    counts = np.array([[60.0], [20.0], [10.0], [10.0]])
    part = allocate(counts, [0.6, 0.2, 0.2], np.random.default_rng(0))
    assert part[0] == 0
    assert sorted(counts[part == k].sum() for k in range(3)) == [20, 20, 60]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), folds=st.integers(2, 6))
def test_no_part_is_empty_if_there_are_enough_units(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (folds + 2, 3)).astype(float) ** 2
    counts[:, 0] += 1
    part = allocate(counts, [1.0] * folds, rng, jitter=seed % 2)
    assert len(set(part.tolist())) == folds


@pytest.mark.parametrize("wanted", [(), (1,)])
def test_a_part_gets_a_rare_class_only_on_demand(wanted: tuple[int, ...]) -> None:
    counts = np.array([[50.0, 0.0]] * 10 + [[0.0, 5.0]] * 2)
    part = allocate(counts, [0.8, 0.2], np.random.default_rng(0), present_in=wanted)
    assert (1 in part[10:]) is bool(wanted)
    assert 0 in part[10:]


def test_drawn_at_random_small_units_are_not_always_held_out() -> None:
    """Eight large and four small units of two classes, a fifth held out."""
    sizes = np.array([90] * 8 + [15] * 4)
    counts = np.zeros((12, 2))
    counts[np.arange(12), np.arange(12) % 2] = sizes
    shares = [0.8, 0.2]
    held = [allocate_at_random(counts, shares, np.random.default_rng(s)) == 1 for s in range(30)]
    share = np.array([sizes[part].sum() / sizes.sum() for part in held])
    assert np.all(np.abs(share - 0.2) < 0.1)
    assert all((counts[part].sum(axis=0) > 0).all() for part in held)
    of_small, of_large = (
        np.mean([part[some] for part in held]) for some in (slice(8, 12), slice(8))
    )
    assert of_small == pytest.approx(of_large, abs=0.15)
    assert np.stack(held).any(axis=0).all()  # each is held out by some draw
