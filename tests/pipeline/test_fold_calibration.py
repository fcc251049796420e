"""A fold's model is calibrated on images that others held out, never on its own test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration import fit_temperature, softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.pipeline.jobs import (
    calibrate_jobs,
    calibrated,
    calibration_tables,
    fold_calibrations,
)

N = 90


def fold(number: int, parts: tuple[str, ...] = ("val", "test")) -> tuple[Fold, PredictionTable]:
    """A fold whose logits are ``number + 1`` times too sharp."""
    rng = np.random.default_rng(number)
    ids = [f"{number}-{k}" for k in range(N)]
    y = rng.integers(0, 2, N)
    logits = (number + 1) * (rng.normal(0, 1.5, (N, 2)) + np.eye(2)[y])
    part = np.array(parts)[np.arange(N) % len(parts)]
    table = PredictionTable.build(
        ("benign", "pro_b"), ids, softmax(logits), recipe="quick", protocol="random", fold=number,
        part=part, y_true=y, logits=logits,
    )  # fmt: skip
    return Fold("random", number, dict(zip(ids, part.tolist(), strict=True))), table


def test_the_test_images_of_the_others_calibrate_a_fold() -> None:
    folds, tables = zip(*(fold(k) for k in range(3)), strict=True)
    rows = calibration_tables(tables)
    assert set(rows[0].fold.tolist()) == {1, 2}
    assert set(rows[0].part.tolist()) == {"test"}
    records = fold_calibrations(folds, tables)
    assert records[0] is not None
    known = np.concatenate([t.logits[t.part == "test"] for t in tables[1:]])
    truth = np.concatenate([t.y_true[t.part == "test"] for t in tables[1:]])
    assert records[0].temperature == pytest.approx(fit_temperature(known, truth))
    assert records[0].temperature > 1.5


def test_no_label_of_its_own_test_part_moves_it() -> None:
    folds, tables = map(list, zip(*(fold(k) for k in range(3)), strict=True))
    before = fold_calibrations(folds, tables)
    wrong = tables[1].y_true.copy()
    wrong[tables[1].part == "test"] = 0
    changed = PredictionTable(**{**vars(tables[1]), "y_true": wrong})
    after = fold_calibrations(folds, [tables[0], changed, tables[2]])
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_a_hold_out_has_its_own_part_and_the_fit_on_all_has_nothing() -> None:
    one, table = fold(2, ("val", "cal", "test"))
    assert set(calibration_tables([table])[0].part.tolist()) == {"cal"}
    assert calibrated([one], [table])[0].probs.max() < table.probs.max()
    last, alone = fold(2, ("val",))
    assert fold_calibrations([last], [alone]) == [None]
    np.testing.assert_array_equal(calibrated([last], [alone])[0].probs, alone.probs)


def test_files_hold_what_is_returned_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    folds, tables = zip(*(fold(k) for k in range(3)), strict=True)
    for one, table in zip(folds, tables, strict=True):
        table.save(tmp_path / str(one.fold) / "predictions.csv")
    done = calibrate_jobs(folds, tables, lambda one: tmp_path / str(one.fold))
    for one, table in zip(folds, done, strict=True):
        path = tmp_path / str(one.fold) / "predictions.csv"
        np.testing.assert_array_equal(PredictionTable.load(path).probs, table.probs)
        assert not np.allclose(table.probs, tables[one.fold].probs)
    again = calibrate_jobs(folds, done, lambda one: tmp_path / "nothing is written")
    assert all(a is b for a, b in zip(done, again, strict=True))
