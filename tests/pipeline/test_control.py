"""The negative control: labels dealt to whole groups, chance without a leak, alarm with one."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.records import Fold, ImageRecord
from leukoscope.pipeline.evidence import control_summary, dealt_labels
from leukoscope.pipeline.jobs import Labelled

NAMES = ("healthy", "all")


def images(patients: int, each: int = 3) -> tuple[Labelled, list[Fold]]:
    records = tuple(
        ImageRecord(f"i{p}-{k}", f"{p}-{k}.png", label=NAMES[p % 2], patient_id=f"p{p}")
        for p in range(patients)
        for k in range(each)
    )
    folds = [
        Fold(
            "grouped",
            number,
            {r.image_id: "test" if int(r.patient_id[1:]) % 4 == number else "train"
             for r in records},
            {r.image_id: r.patient_id for r in records},
        )
        for number in range(4)
    ]  # fmt: skip
    return Labelled(records, NAMES), folds


def test_a_patient_keeps_one_label_and_classes_keep_their_number() -> None:
    data, folds = images(12)
    y = dealt_labels(data, folds, seed=0)
    assert y is not None
    patients = np.array([record.patient_id for record in data.records])
    assert all(len(set(y[patients == p].tolist())) == 1 for p in np.unique(patients))
    assert np.bincount(y).tolist() == np.bincount(data.y).tolist()
    drawn = [dealt_labels(data, folds, seed=s) for s in range(5)]
    assert len({tuple(labels.tolist()) for labels in drawn if labels is not None}) > 1


def test_clusters_of_mixed_classes_count_as_their_most_frequent_one() -> None:
    records = tuple(
        ImageRecord(f"i{k}", f"{k}.png", label=NAMES[k % 5 == 0 or k >= 20]) for k in range(40)
    )
    groups = {r.image_id: f"c{k // 5}" for k, r in enumerate(records)}
    folds = [
        Fold("acquisition", f, {r.image_id: "test" if k // 5 % 2 == f else "train"
                                for k, r in enumerate(records)}, groups)
        for f in range(2)
    ]  # fmt: skip
    y = dealt_labels(Labelled(records, NAMES), folds, seed=1)
    assert y is not None
    assert all(len(set(y[k : k + 5].tolist())) == 1 for k in range(0, 40, 5))


def test_too_few_groups_give_no_deal() -> None:
    data, folds = images(2)
    assert dealt_labels(data, folds, seed=0) is None


@pytest.mark.parametrize(
    ("draws", "passed"),
    [
        ([0.52, 0.47, 0.5, 0.55, 0.44], True),
        ([0.71, 0.66, 0.69, 0.74, 0.68], False),
        ([0.2, 0.9, 0.5, 0.8, 0.4], None),  # could be anything
        ([0.5], None),
    ],
)
def test_the_control_passes_only_where_it_has_looked(
    draws: list[float], passed: bool | None
) -> None:
    assert control_summary(draws)["passed"] is passed
