from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leukoscope.config.guarantees import parse_operating_point
from leukoscope.core.errors import ConfigError
from leukoscope.evaluation.statistics.thresholds import choose_threshold, images_needed, miss_bound

ONE = parse_operating_point("miss at most 1 % of malignant fields, with 95 % confidence")


@pytest.mark.parametrize("words", [
    "miss at most 1 % of malignant fields", "Miss no malignant field", "sensitivity 99 %",
    "miss at most 0 % of malignant fields, with 95 % confidence",
    "miss at most 60 % of malignant fields, with 95 % confidence",
    "miss at most 1 % of malignant fields, with 100 % confidence",
    "miss at most 1 % of malignant slides, with 95 % confidence",
])  # fmt: skip
def test_other_words_are_refused_with_the_pattern(words: str) -> None:
    with pytest.raises(ValueError, match=r"miss at most|between 0 and 50"):
        parse_operating_point(words)


def test_a_study_refuses_other_words(tmp_path) -> None:
    from leukoscope.study.options import study_config

    with pytest.raises(ConfigError, match="expected the words “miss at most X %"):
        study_config(tmp_path, overrides=["operating_point=never miss"])
    words = "miss at most 2% of malignant patients with 90% confidence"
    config = study_config(tmp_path, overrides=[f"operating_point={words}", "set_score=aps"])
    target = parse_operating_point(config.operating_point)
    assert (target.miss, target.confidence, target.unit) == (0.02, 0.9, "patient")


@pytest.mark.parametrize(("misses", "n"), [(0, 299), (3, 50), (10, 400), (49, 50)])
def test_the_bound_is_scipys(misses: int, n: int) -> None:
    exact = stats.binomtest(misses, n, alternative="less").proportion_ci(0.95, "exact")
    assert miss_bound(misses, n, 0.95) == pytest.approx(exact.high)
    assert miss_bound(5, 5, 0.95) == 1


@pytest.mark.parametrize(("miss", "n"), [(0.01, 299), (0.05, 59), (0.1, 29)])
def test_fewest_images(miss: float, n: int) -> None:
    assert images_needed(miss, 0.95) == n
    assert miss_bound(0, n, 0.95) <= miss < miss_bound(0, n - 1, 0.95)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    point = choose_threshold(np.linspace(0.1, 1, 298), ONE)
    assert (point.threshold, point.n, point.needed) == (None, 298, 299)
    assert point.bound == pytest.approx(1 - 0.05 ** (1 / 298))
    enough = choose_threshold(np.linspace(0.1, 1, 299), ONE)
    assert enough.threshold == pytest.approx(0.1)
    assert choose_threshold([], ONE).threshold is None


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    target = parse_operating_point("miss at most 5 % of malignant fields, with 90 % confidence")
    missed = [choose_threshold(rng.random(150), target).threshold for _ in range(4000)]
    broken = np.mean(np.array(missed, float) > 0.05)  # P(p < t) = t for uniform p
    exact = 1 - stats.beta(choose_threshold(rng.random(150), target).misses + 1, 147).cdf(0.05)
    assert exact < 0.1
    assert broken == pytest.approx(exact, abs=0.015)


def test_a_patient_is_missed_where_no_image_is_flagged() -> None:
    words = "miss at most 10 % of malignant patients, with 95 % confidence"
    p = np.concatenate([np.linspace(0.5, 0.9, 30), np.zeros(60)])
    ids = [f"p{i % 30}" for i in range(90)]
    point = choose_threshold(p, parse_operating_point(words), ids)
    assert (point.n, point.needed, point.threshold) == (30, 29, 0.5)


def test_images_of_one_patient_count_for_less() -> None:
    target = parse_operating_point("miss at most 5 % of malignant fields, with 95 % confidence")
    p = np.linspace(0.2, 1, 93)
    assert choose_threshold(p, target, weights=np.ones(93)) == choose_threshold(p, target)
    copies = choose_threshold(np.repeat(p, 4), target, weights=np.full(372, 0.25))
    assert copies.threshold == choose_threshold(p, target).threshold
    assert (copies.n, copies.bound) == (93, pytest.approx(choose_threshold(p, target).bound))
    few = choose_threshold(np.repeat(p, 4), target, weights=np.full(372, 0.1))
    assert (few.threshold, few.n) == (None, 37)
