"""Shares of an advantage: their value, their interval, and the pairs of the transplant control."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.config.metrics.evidence import AdvantageShare
from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict.shortcuts import advantage_share, transplant_hits

NAMES = ("healthy", "all")
HOW = {"replicates": 200, "seed": 3}


def table(signal: float, shown: str, patients: int = 40, seed: int = 0) -> PredictionTable:
    """Scores that are ``signal`` standard deviations apart; four images a patient."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(patients) % 2, 4)
    p = 1 / (1 + np.exp(-signal * (2 * y - 1) - 0.5 * rng.normal(size=len(y))))
    return PredictionTable.build(
        NAMES, [f"i{k}" for k in range(len(y))], np.column_stack([1 - p, p]),
        recipe="r", protocol="grouped", fold=0, part="test", input=shown, y_true=y,
    )  # fmt: skip


def groups(rows: PredictionTable) -> dict[str, str]:
    return {name: f"p{k // 4}" for k, name in enumerate(rows.image_id.tolist())}


def test_a_probe_that_knows_all_has_the_whole_share_and_a_blind_one_none() -> None:
    model = table(3.0, "image")
    for signal, low, high in ((3.0, 0.9, 1.1), (0.0, -0.4, 0.4)):
        probe = table(signal, "grain-only", seed=9)
        share = advantage_share(model, probe, groups(model), **HOW)
        assert low < share.share.low <= share.share.value <= share.share.high < high
        assert (share.n, share.share.n_groups, share.share.reliable) == (160, 40, True)


def test_images_without_one_of_the_classes_have_no_share_and_can_be_stored() -> None:
    model = table(3.0, "image")
    healthy = table(3.0, "model-on-blur-1").take(model.y_true == 0)
    found = advantage_share(model, healthy, groups(model), **HOW).to_json()
    stored = AdvantageShare.model_validate({"protocol": "random", "group_unit": "patient", **found})
    assert (stored.value, stored.model, stored.share.value) == (None, None, None)
    assert stored.n == 80


def test_a_frequent_class_lends_no_share() -> None:
    model = table(3.0, "image")
    same = np.tile([0.2, 0.8], (len(model), 1))  # always the same answer
    probe = PredictionTable.build(
        NAMES, model.image_id, same, recipe="r", protocol="grouped", fold=0, part="test",
        input="file-only", y_true=model.y_true,
    )  # fmt: skip
    assert advantage_share(model, probe, groups(model), **HOW).share.value == 0


def test_a_model_without_advantage_has_no_share() -> None:
    model, probe = table(-1.0, "image"), table(1.0, "grain-only")
    assert np.isnan(advantage_share(model, probe, groups(model), **HOW).share.value)
    slight = table(0.02, "image")  # better than chance on these images, perhaps not on others
    found = advantage_share(slight, probe, groups(slight), **HOW)
    assert found.model > 0.5
    assert np.isnan([found.share.value, found.share.low, found.share.high]).all()
    # The limits of the model's result decide, which are wider than a bootstrap's.
    good = table(3.0, "image")
    assert advantage_share(good, probe, groups(good), **HOW).share.value > 0
    unproven = advantage_share(good, probe, groups(good), skilled=False, **HOW)
    assert np.isnan(unproven.share.value)


def test_only_common_images_count() -> None:
    model, probe = table(3.0, "image"), table(3.0, "grain-only")
    assert advantage_share(model, probe.take(np.arange(80)), groups(model), **HOW).n == 80
    other = table(3.0, "grain-only")
    renamed = PredictionTable.build(
        NAMES, [f"x{k}" for k in range(160)], other.probs, recipe="r", protocol="grouped",
        fold=0, part="test", input="grain-only", y_true=other.y_true,
    )  # fmt: skip
    with pytest.raises(DataError, match="no test image in common"):
        advantage_share(model, renamed, groups(model), **HOW)


def test_holes_that_belong_to_both_classes_give_no_hits() -> None:
    rows = table(0.0, "ground-only")
    partner = {name: 1 - y for name, y in zip(rows.image_id.tolist(), rows.y_true, strict=True)}
    assert 0.4 < transplant_hits(rows, partner).mean() < 0.6
    told = table(4.0, "ground-only")
    hits = transplant_hits(told, partner)
    assert hits.mean() == 1
    share = advantage_share(table(3.0, "image"), told, groups(told), hits=hits, **HOW)
    assert (share.metric, share.value, share.chance) == ("paired_auc", 1.0, 0.5)
    with pytest.raises(DataError, match="160 images have no partner"):
        transplant_hits(told, {})
