"""What a model follows on swapped grounds, and what the verdict makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.evaluation.verdict.test_verdict import interval, judge, result, study

from leukoscope.config.metrics.file import measurements
from leukoscope.evaluation.verdict.grounds import swapped_grounds


def row(shown: str, protocol: str = "grouped", **metrics: tuple[float, float]) -> dict[str, Any]:
    return {
        "recipe": "quick", "input": shown, "protocol": protocol, "n": 300, "n_groups": 40,
        "group_unit": "patient", "folds": 5,
        "metrics": {name: interval(*given) for name, given in metrics.items()},
    }  # fmt: skip


def swapped(bias: tuple[float, float]) -> dict[str, Any]:
    shares = {"accuracy": (0.3, 0.1), "ground_class": (0.4, 0.1), "ground_bias": bias}
    rows = [
        row("ground-of-another-class", **shares),
        row("ground-of-own-class", accuracy=(0.85, 0.05)),
        row("background-only", accuracy=(0.5, 0.05)),
    ]
    return study(model_on=rows)


@pytest.mark.parametrize(
    ("bias", "follows", "level"),
    [
        ((0.2, 0.1), "leukocytes", "plausible"),
        ((0.8, 0.1), "ground", "inconclusive"),
        ((0.6, 0.2), "unclear", "plausible"),
    ],
)
def test_a_model_that_follows_the_ground_is_not_plausible(
    bias: tuple[float, float], follows: str, level: str
) -> None:
    values = swapped(bias)
    seen = swapped_grounds(measurements(values), "quick")["grouped"]
    assert seen.follows == follows
    found = judge(values)
    assert found["level"] == level
    assert ("it follows the ground in 80 %" in found["headline"]) == (follows == "ground")
    assert seen.sentence() in found["findings"]
    assert "leukocytes in 30 % (20 to 40 %), after the ground in 40 %" in seen.sentence()
    assert "; on another ground of their own class 85 % (80 to 90 %) rightly." in seen.sentence()


def test_only_the_protocol_of_the_verdict_and_its_recipe_count() -> None:
    other = row("ground-of-another-class", "random", accuracy=(0.1, 0.05), ground_class=(0.9, 0.05))
    values = study(result("random", 0.92), result("grouped"), model_on=[other])
    other["metrics"]["ground_bias"] = interval(0.9, 0.05)
    assert judge(values)["level"] == "plausible"
    assert set(swapped_grounds(measurements(values), "quick")) == {"random"}
    assert swapped_grounds(measurements(values), "morphology") == {}
    assert swapped_grounds(measurements(study()), "quick") == {}
