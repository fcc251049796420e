"""Scores of heat maps against oracles and planted truths; the rule that judges them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy.stats import spearmanr
from sklearn.metrics import auc

from leukoscope.config.explanations import BASELINES, AuditedImage, MapScores, TrustLevel
from leukoscope.evaluation import explanation_scores as scores
from leukoscope.evaluation.explanation_scores import judge_maps, summarise

RNG = np.random.default_rng(0)


def test_pointing_at_random_hits_as_often_as_the_mask_is_large() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[3:11, 5:15] = True
    hits = [scores.pointing_hit(RNG.random((20, 20)), mask) for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(mask.mean(), abs=0.03)
    assert scores.heat_share(np.ones((20, 20)), mask) == pytest.approx(mask.mean())
    for heat, where in ((np.zeros((20, 20)), mask), (np.ones((20, 20)), ~np.ones_like(mask))):
        assert np.isnan(scores.pointing_hit(heat, where))
        assert np.isnan(scores.heat_share(heat, where))


def test_hottest_cells_are_nested_and_ties_have_no_favourite_corner() -> None:
    flat = np.zeros((7, 7))
    chosen = scores.hottest_cells(flat, scores.STEPS, cells=20, seed=1)
    assert [int(mask.sum()) for mask in chosen] == [40 * step for step in range(11)]
    assert all((a <= b).all() for a, b in pairwise(chosen))
    assert 0.35 < chosen[5][:, :10].mean() < 0.65
    again = scores.hottest_cells(flat, scores.STEPS, cells=20, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(chosen, again, strict=True))
    heat = RNG.random((20, 20))
    (hot,) = scores.hottest_cells(heat, [0.3], cells=20, seed=0)
    (cold,) = scores.hottest_cells(heat, [0.3], cells=20, seed=0, coldest=True)
    assert heat[hot].min() >= np.sort(heat.ravel())[-120] - 1e-6
    assert not (hot & cold).any()
    assert scores.cells_to_pixels(hot, 47).shape == (47, 47)


def test_imputation_solves_the_system_of_rong_et_al() -> None:
    image = RNG.integers(60, 200, (32, 32, 3), dtype=np.uint8)
    hidden = RNG.random((16, 16)) < 0.6
    cells = image.reshape(16, 2, 16, 2, 3).mean((1, 3))
    matrix, right = np.zeros((256, 256)), np.zeros((256, 3))
    for y in range(16):
        for x in range(16):
            row = 16 * y + x
            if not hidden[y, x]:
                matrix[row, row], right[row] = 1, cells[y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    b, a = y + dy, x + dx
                    if (dy or dx) and 0 <= b < 16 and 0 <= a < 16:
                        weight = 1 / 6 if dy * dx == 0 else 1 / 12
                        matrix[row, row] += weight
                        matrix[row, 16 * b + a] -= weight
    solved = np.linalg.solve(matrix, right).reshape(16, 16, 3)
    filled = scores.impute(image, hidden, seed=1)
    pixels = scores.cells_to_pixels(hidden, 32)
    np.testing.assert_array_equal(filled[~pixels], image[~pixels])
    # Enlarged linearly, the mean of the four pixels of a cell inside a plane is the cell's value.
    found = filled.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(found - solved)[hidden].mean() < 6
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 5 + 40, 32, 0).repeat(3, 2)
    hole = np.zeros((16, 16), np.bool_)
    hole[5:9, 5:9] = True
    difference = scores.impute(ramp, hole, seed=1).astype(float) - ramp
    assert np.abs(difference).max() < 15
    assert 1 < difference[10:18, 10:18].std() < 5  # the noise, sd 2.55


def test_against_oracles() -> None:
    curve = RNG.random(11)
    assert scores.area_under(curve.tolist()) == pytest.approx(auc(scores.STEPS, curve))
    first, second = RNG.integers(0, 5, (9, 9)), RNG.integers(0, 5, (9, 9))
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert scores.rank_similarity(first, second) == pytest.approx(expected)
    assert np.isnan(scores.rank_similarity(first, np.ones((9, 9))))
    weight = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))

    def explain(images: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (weight * images[0].square(),)

    image = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    theirs = sensitivity_max(
        explain, image, perturb_func=lambda x: (x + noise,), n_perturb_samples=3,
        max_examples_per_batch=3,
    )  # fmt: skip
    noisy = [explain((image + one,))[0][0, 0].numpy() for one in noise]
    ours = scores.max_sensitivity(explain((image,))[0][0, 0].numpy(), noisy)
    assert ours == pytest.approx(float(theirs), rel=1e-5)


def test_baselines_know_what_they_say() -> None:
    image = np.full((56, 56, 3), 200, np.uint8)
    image[20:30, 30:40] = 90
    edges = scores.edge_map(image)
    assert edges[10:15, 15:20].mean() > 10 * edges.mean() / 4
    assert edges[:8].max() == 0
    centre = scores.centre_map(57)
    assert np.unravel_index(centre.argmax(), centre.shape) == (28, 28)
    assert (scores.mean_colour(image) == np.round(image.mean((0, 1)))).all()
    assert scores.blurred(image).std() < image.std()


def _entry(name: str, rng: np.random.Generator, **planted: float) -> MapScores:
    """Scores of one map; a good one is inserted early, deleted early, forgets, and is stable."""
    good = planted.get("good", 0.0)
    ramp = np.linspace(0, 1, 11)
    noise = rng.normal(0, 0.02)
    return MapScores(
        hit=float(rng.random() < 0.5),
        share=planted.get("share", 0.2) + rng.normal(0, 0.01),
        insertion=tuple(np.clip(ramp ** (1 / (1 + good)) + noise, 0, 1).tolist()),
        deletion=tuple(np.clip(1 - ramp ** (1 / (1 + good)) + noise, 0, 1).tolist()),
        morf=(0.5 - good / 4 + noise,) * 5,
        lerf=(0.5 + good / 4 + noise,) * 5,
        randomised=None if name in BASELINES else (planted["head"], planted["all"]),
        noise=None if name in BASELINES else planted["noise"] + rng.normal(0, 0.01),
        sensitivity=None if name in BASELINES else 0.2,
    )


def _image(group: str, area: float, maps: dict[str, MapScores]) -> AuditedImage:
    return AuditedImage(
        image_id=group, path=group, y_true="all", group=group, fold=0, explained="all", p=0.9,
        area=area, stages=("head", "all layers"), maps=maps,
    )  # fmt: skip


GOOD = {"good": 1.0, "head": 0.3, "all": 0.0, "noise": 0.98, "share": 0.5}


@pytest.mark.parametrize(
    ("change", "n", "level", "said"),
    [
        ({}, 24, "nothing against it", "the heat favours leukocytes"),
        (
            {"good": 0.0},
            24,
            "unreliable",
            "not shown to mark what the score rests on better",
        ),
        ({"good": -0.5}, 24, "unreliable", "worse than random blobs do"),
        (
            {"head": 0.93},
            24,
            "unreliable",
            "randomising the head leaves the map nearly the same",
        ),
        ({"all": 0.8}, 24, "unreliable", "randomising all layers leaves the map nearly the same"),
        ({"all": -0.95}, 24, "unreliable", "randomising all layers leaves the map nearly the same"),
        ({"head": -0.95}, 24, "unreliable", "randomising the head leaves the map nearly the same"),
        ({"noise": -0.98}, 24, "unreliable", "noise that no eye sees makes another map"),
        ({"noise": 0.5}, 24, "unreliable", "noise that no eye sees makes another map"),
        ({"share": 0.05}, 24, "nothing against it", "the heat lies outside the leukocytes"),
        ({"share": 0.196}, 24, "nothing against it", "as if spread evenly"),
        ({}, 8, "not decided", "fewer than 20 independent images"),
    ],
)
def test_the_rule(change: dict[str, float], n: int, level: TrustLevel, said: str) -> None:
    rng = np.random.default_rng(3)
    planted = GOOD | change
    images = [
        _image(
            f"g{number}",
            0.2 + (0.001 if number % 2 else -0.001),
            {"grad-cam": _entry("grad-cam", rng, **planted)}
            | {name: _entry(name, rng) for name in BASELINES},
        )
        for number in range(n)
    ]
    summary = summarise(images, replicates=200)
    belief = judge_maps(summary["grad-cam"], ["head", "all layers"])
    assert belief.level == level
    assert said in f"{belief.text}. {belief.place}"
    assert summary["random blobs"].randomised == (None,)


def test_maps_that_are_empty_everywhere_cannot_be_judged() -> None:
    rng = np.random.default_rng(3)
    empty = dict.fromkeys(("hit", "share", "noise", "sensitivity")) | {"randomised": (None, None)}
    images = []
    for number in range(12):
        entry = _entry("grad-cam", rng, **GOOD).model_copy(update=empty)
        maps = {"grad-cam": entry} | {name: _entry(name, rng) for name in BASELINES}
        images.append(_image(str(number), 0.2, maps))
    belief = judge_maps(summarise(images, replicates=100)["grad-cam"], ["head", "all layers"])
    assert belief.level == "not decided"
    assert belief.place == "no leukocyte, or no heat, to compare"
