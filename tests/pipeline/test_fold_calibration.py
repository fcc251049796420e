"""A fold's model is calibrated on images that others held out, never on its own test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leukoscope.config.bundle import Calibration
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.core.run_folder import PREDICTIONS
from leukoscope.evaluation.calibration.scaling import fit_temperature, softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.pipeline import jobs
from leukoscope.pipeline.jobs import (
    Labelled,
    calibrate_fits,
    calibration_tables,
    fit_fold_calibration,
    fit_fold_sets,
    load_calibration,
    load_sets,
    read_fit,
    store_sets,
    with_calibration,
)
from leukoscope.study.options import study_config

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


def fitted(folds: Sequence[Fold], tables: Sequence[PredictionTable]) -> list[Calibration | None]:
    """The calibration of each fold."""
    return [
        fit_fold_calibration(one, rows)
        for one, rows in zip(folds, calibration_tables(tables), strict=True)
    ]


def test_the_test_images_of_the_others_calibrate_a_fold() -> None:
    folds, tables = zip(*(fold(k) for k in range(3)), strict=True)
    rows = calibration_tables(tables)
    assert set(rows[0].fold.tolist()) == {1, 2}
    assert set(rows[0].part.tolist()) == {"test"}
    records = fitted(folds, tables)
    assert records[0] is not None
    known = np.concatenate([t.logits[t.part == "test"] for t in tables[1:]])
    truth = np.concatenate([t.y_true[t.part == "test"] for t in tables[1:]])
    assert records[0].temperature == pytest.approx(fit_temperature(known, truth))
    assert records[0].temperature > 1.5


def test_no_label_of_its_own_test_part_moves_it() -> None:
    folds, tables = map(list, zip(*(fold(k) for k in range(3)), strict=True))
    before = fitted(folds, tables)
    wrong = tables[1].y_true.copy()
    wrong[tables[1].part == "test"] = 0
    changed = PredictionTable(**{**vars(tables[1]), "y_true": wrong})
    after = fitted(folds, [tables[0], changed, tables[2]])
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_a_hold_out_has_its_own_part_and_the_fit_on_all_has_nothing() -> None:
    one, table = fold(2, ("val", "cal", "test"))
    assert set(calibration_tables([table])[0].part.tolist()) == {"cal"}
    assert with_calibration(table, *fitted([one], [table])).probs.max() < table.probs.max()
    last, alone = fold(2, ("val",))
    assert fitted([last], [alone]) == [None]
    assert with_calibration(alone, None) is alone


@pytest.fixture
def three(tmp_path: Path) -> tuple[list[Fold], list[PredictionTable], Callable[[Fold], Path]]:
    """Three finished fits, not calibrated yet."""
    folds, tables = map(list, zip(*(fold(k) for k in range(3)), strict=True))
    for one, table in zip(folds, tables, strict=True):
        table.save(tmp_path / str(one.fold) / PREDICTIONS)
    return folds, tables, lambda one: tmp_path / str(one.fold)


Three = tuple[list[Fold], list[PredictionTable], Callable[[Fold], Path]]


def test_files_hold_what_is_returned_and_what_calibrates_it(three: Three) -> None:
    folds, tables, folder_of = three
    done = calibrate_fits(folds, tables, folder_of, ["random"])
    for one, table, record in zip(folds, done, fitted(folds, tables), strict=True):
        stored = PredictionTable.load(folder_of(one) / PREDICTIONS)
        np.testing.assert_array_equal(stored.probs, table.probs)
        assert load_calibration(folder_of(one)) == record
        np.testing.assert_array_equal(with_calibration(tables[one.fold], record).probs, table.probs)
        assert not np.allclose(table.probs, tables[one.fold].probs)


def test_nothing_is_fitted_twice(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    folds, tables, folder_of = three
    done = calibrate_fits(folds, tables, folder_of)
    monkeypatch.delattr(jobs, "fit_fold_calibration")
    again = calibrate_fits(folds, done, folder_of)
    assert all(a is b for a, b in zip(done, again, strict=True))


def test_sets_are_stored_until_the_fit_is_calibrated_anew(three: Three) -> None:
    folds, tables, folder_of = three
    config = study_config("unused", protocols=["random"], overrides=["set_guarantee=group"])
    done = calibrate_fits(folds, tables, folder_of)
    assert load_sets(folder_of(folds[0]), config) is None
    store_sets(folds, done, [folder_of(one) for one in folds], config)
    for one, rows in zip(folds, calibration_tables(done), strict=True):
        calibration = load_calibration(folder_of(one))
        assert calibration is not None
        stored = load_sets(folder_of(one), config)
        assert stored == fit_fold_sets(one, rows, calibration, config)
    assert load_sets(folder_of(folds[0]), config.model_copy(update={"coverage": 0.8})) is None
    calibrate_fits(folds, [replace(done[0], logits=3 * done[0].logits), *done[1:]], folder_of)
    assert load_sets(folder_of(folds[0]), config) is not None
    assert load_sets(folder_of(folds[1]), config) is None


def test_other_predictions_of_one_fold_calibrate_the_others_anew(three: Three) -> None:
    folds, tables, folder_of = three
    done = calibrate_fits(folds, tables, folder_of)
    before = [load_calibration(folder_of(one)) for one in folds]
    sharper = replace(done[0], logits=3 * done[0].logits)
    calibrate_fits(folds, [sharper, *done[1:]], folder_of)
    after = [load_calibration(folder_of(one)) for one in folds]
    assert after[0] == before[0]  # its own test images do not calibrate it
    assert before[1] != after[1]
    assert before[2] != after[2]


def test_a_fit_that_is_done_again_loses_its_calibration(three: Three) -> None:
    folds, tables, folder_of = three
    calibrate_fits(folds, tables, folder_of)
    records = tuple(ImageRecord(i, f"{i}.png", label="benign") for i in folds[0].parts)
    data = Labelled(records, ("benign", "pro_b"))
    other = Fold("random", 0, dict.fromkeys(folds[0].parts, "test"))
    assert read_fit(data, folds[0], folder_of(folds[0])) is not None
    assert read_fit(data, other, folder_of(folds[0])) is None
    assert load_calibration(folder_of(folds[0])) is None
    assert not (folder_of(folds[0]) / PREDICTIONS).exists()
