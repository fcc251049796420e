"""Fold by fold: values of each fold, and of all together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leukoscope.core.files import read_csv
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Folded
from leukoscope.reporting.study.results import folds
from leukoscope.reporting.study_files import load_study

MakeStudy = Callable[..., RunFolder]


def test_values_of_each_fold_and_their_mean(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(
        tmp_path, images=60, protocols=("random",), recipes=("quick", "cnn-baseline"),
        with_images=False,
    )  # fmt: skip
    study = load_study(run)
    block = folds(study).blocks[1]
    assert isinstance(block, Folded)
    linear, gradient = block.blocks
    assert [row[1] for row in gradient.rows] == ["0", "1", "2", "all"]
    scores = study.scores("cnn-baseline", "random")
    assert scores is not None
    right = (scores.y_pred == scores.y_true).astype(float)
    per_fold = [100 * right[scores.fold == k].mean() for k in range(3)]
    assert [row[3] for row in gradient.rows[:3]] == [f"{value:.1f} %" for value in per_fold]
    assert gradient.rows[3][2:4] == (
        "60", f"{np.mean(per_fold):.1f} ± {np.std(per_fold, ddof=1):.1f} %"
    )  # fmt: skip
    history = read_csv(run.model("cnn-baseline", "random", 0) / "history.csv")
    best = max(range(12), key=lambda i: float(history[i]["val_accuracy"]))  # as the recipe keeps
    assert gradient.rows[0][5] == f"epoch {best + 1} of 12"
    assert gradient.rows[0][6] == f"{float(history[best]['val_loss']):.3f}"
    assert linear.rows[0][5] == "C 0.003"
    assert linear.rows[0][8] == "—"


@pytest.mark.parametrize("absent", ["folds", "predictions"])
def test_nothing_is_said_without_several_folds(
    make_study: MakeStudy, tmp_path: Path, absent: str
) -> None:
    run = make_study(
        tmp_path, images=40, protocols=("random",), with_images=False,
        folds=1 if absent == "folds" else 3,
    )  # fmt: skip
    if absent == "predictions":
        run.predictions.unlink()
    assert not folds(load_study(run)).blocks


def test_a_fold_without_history_has_dashes(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(tmp_path, images=40, protocols=("random",), with_images=False)
    (run.model("quick", "random", 1) / "history.csv").unlink()
    block = folds(load_study(run)).blocks[1]
    assert isinstance(block, Folded)
    rows = block.blocks[0].rows
    assert rows[1][5:] == ("—", "—", "—", "—")
    assert rows[3][6] == "—"
