"""Shares and inflation against worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leukoscope.config.metrics.evidence import StainShare
from leukoscope.config.metrics.results import Comparison
from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict.sentences import describe_share
from leukoscope.evaluation.verdict.shortcuts import inflations, share_of_tables, surviving_share

RIGHT = {  # of 20 images: model 16, colour 8, stain-neutral 12
    "model": [1] * 16 + [0] * 4,
    "colour": [1] * 8 + [0] * 12,
    "neutral": [1] * 12 + [0] * 8,
}


def test_a_share_by_hand_and_its_bootstrap() -> None:
    """(12 − 8) / (16 − 8) = 1/2; limits as a loop over the same resamples gives them."""
    hits = {name: np.array(values * 10) for name, values in RIGHT.items()}
    groups = np.repeat(np.arange(40), 5).astype(str)
    found = surviving_share(*hits.values(), groups=groups, replicates=300, seed=4)
    assert (found.share.value, found.advantage.value) == pytest.approx((0.5, 0.4))
    assert found.defined
    assert (found.n, found.share.n_groups) == (200, 40)
    rng, ratios = np.random.default_rng(4), []
    for draw in rng.integers(0, 40, (300, 40)):
        rows = np.concatenate([np.flatnonzero(groups == str(g)) for g in draw])
        model, colour, neutral = (hits[name][rows].mean() for name in RIGHT)
        ratios.append((neutral - colour) / (model - colour))
    expected = np.quantile(ratios, [0.025, 0.975])
    # Group labels are sorted as text, so that the same numbers draw other groups.
    assert (found.share.low, found.share.high) == pytest.approx(expected, abs=0.12)


def test_no_share_of_an_advantage_that_may_be_none() -> None:
    rng = np.random.default_rng(0)
    model, colour, neutral = rng.random((3, 100)) < 0.7
    found = surviving_share(model, colour, neutral)
    assert not found.defined
    assert math.isnan(found.share.value)
    assert found.to_json()["share"]["value"] is None


def test_a_share_may_leave_zero_to_one() -> None:
    model, colour = [1] * 90 + [0] * 10, [1] * 50 + [0] * 50
    assert surviving_share(model, colour, [1] * 98 + [0] * 2).share.value == pytest.approx(1.2)
    assert surviving_share(model, colour, [1] * 42 + [0] * 58).share.value == pytest.approx(-0.2)


def table(ids: list[str], right: list[int], name: str) -> PredictionTable:
    probs = np.eye(2)[[1 - r for r in right]]
    return PredictionTable.build(
        ("benign", "all"), ids, probs, recipe="quick", protocol="random", fold=0, part="test",
        input=name, y_true=[0] * len(ids),
    )  # fmt: skip


def test_tables_are_matched_by_image() -> None:
    ids = [f"i{n}" for n in range(20)]
    tables = [
        table(ids[::-1], RIGHT["model"][::-1], "image"),
        table([*ids, "other"], [*RIGHT["colour"], 1], "colour-only"),
        table(ids, RIGHT["neutral"], "stain-neutral"),
    ]
    found = share_of_tables(*tables, {}, replicates=200, confidence=0.95, seed=0)
    assert (found.share.value, found.n) == (pytest.approx(0.5), 20)
    with pytest.raises(DataError, match="no test image in common"):
        share_of_tables(
            tables[0], tables[1], table(["x"], [1], "stain-neutral"), {},
            replicates=10, confidence=0.95, seed=0,
        )  # fmt: skip


def comparison(a: str, b: str, value: float, shown: str = "image") -> Comparison:
    return Comparison.model_validate({
        "a": {"recipe": "quick", "protocol": a, "input": "image"},
        "b": {"recipe": "quick", "protocol": b, "input": shown},
        "metric": "accuracy",
        "difference": {"value": value, "low": value - 0.02, "high": value + 0.02, "reliable": True},
        "p": 0.01,
        "p_holm": 0.01,
        "verdict": "better",
        "n": 20,
        "n_groups": 12,
    })  # fmt: skip


def test_inflation_is_random_minus_each_protocol_that_separates() -> None:
    rows = [
        comparison("random", "random", 0.3, "colour-only"),
        comparison("random", "deduplicated", 0.01),
        comparison("random", "acquisition", 0.04),
        comparison("random", "grouped", 0.1),
    ]
    found = inflations(rows, "quick")
    assert [(e.protocol, e.difference.value) for e in found] == [
        ("grouped", 0.1),
        ("acquisition", 0.04),
    ]
    assert [(e.p_holm, e.verdict) for e in found] == [(0.01, "better")] * 2
    assert inflations(rows, "another") == []


def test_shares_are_put_into_words() -> None:
    share = surviving_share(*(values * 10 for values in RIGHT.values())).to_json()
    text = describe_share(StainShare.model_validate({"protocol": "grouped", **share}))
    assert text.startswith(
        "When whole patients are held out: of the 40.0 points by which the model is better than "
        "colour statistics, 50 % ("
    )
    assert "survive in a classifier that sees no stain" in text
    entry = {"protocol": "grouped", **share, "share": {"value": -0.19, "low": -2.29, "high": 0.4}}
    text = describe_share(StainShare.model_validate(entry))
    assert "statistics, −19 % (−229 to 40 %) survive" in text
