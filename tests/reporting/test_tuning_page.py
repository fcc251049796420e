"""The page of a tuning from made-up summaries, of one key and of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.tuning_results import TuningFile
from leukoscope.reporting.pages.tuning import optimism, write_tuning_page

SPACE = {
    "training.learning_rate": {"kind": "log", "low": 1e-5, "high": 1e-2, "steps": 3},
    "training.optimizer": {"kind": "choice", "values": ["adam", "sgd"]},
    "training.schedule": {"kind": "choice", "values": [{"kind": "none"}, {"kind": "cosine"}]},
    "training.freeze": {"kind": "int", "low": 0, "high": 4, "steps": 3},
}


def row(number: int, state: str = "complete", **more: Any) -> dict[str, Any]:
    labels = {
        "training.learning_rate": 1e-5 * 2**number,
        "training.optimizer": ("adam", "sgd")[number % 2],
        "training.schedule": ('{"kind":"none"}', '{"kind":"cosine"}')[number % 2],
        "training.freeze": number % 5,
    }
    value = None if state == "failed" else 0.8 + number / 100
    reported = [] if state == "failed" else [[1, 0.7], [2, value]]
    return {"trial": number, "state": state, "value": value, "seconds": 1.0, "own": False,
            "reason": "out of <memory>" if state == "failed" else "", "labels": labels,
            "reported": reported} | more  # fmt: skip


def summary(**more: Any) -> TuningFile:
    rows = [*(row(i) for i in range(9)), row(9, "pruned"), row(10, "failed")]
    content = {
        "schema": 1, "tuned": "cnn-baseline-tuned", "seed": 42, "storage": "", "packages": {},
        "recipe": "cnn-baseline", "recipe_method": "gradient", "data": "cells", "folds": 1,
        "protocol": "grouped", "n_images": 300, "n_val": 40, "criterion": "accuracy",
        "direction": "maximise", "sampler": "tpe", "pruner": "median",
        "trials": {"complete": 9, "pruned": 1, "failed": 1}, "own": 0.8, "rows": rows,
        "best": {"trial": 8, "value": 0.88,
                 "values": {"training.learning_rate": 1e-3, "training.optimizer": "adam",
                            "training.schedule": {"kind": "none"}, "training.freeze": 3}},
        "corrected": {"value": 0.83, "low": 0.8, "high": 0.86, "n_groups": 12},
        "importances": {"training.learning_rate": 0.9, "training.optimizer": 0.1},
        "space": SPACE, "next": "leukoscope study cells -r best.toml",
    } | more  # fmt: skip
    return TuningFile.model_validate_json(json.dumps(content))


def test_the_page_holds_the_result_the_figures_and_the_next_command(tmp_path: Path) -> None:
    write_tuning_page(tmp_path, summary())
    page = (tmp_path / "tune.html").read_text()
    for text in ("corrected for the choice it is 0.8300", "The recipe as it is has 0.8000",
                 "out of &lt;memory&gt;", "leukoscope study cells -r best.toml",
                 "only 40 validation images"):  # fmt: skip
        assert text in page
    assert page.count("<figure>") == page.count("<svg") == 5
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"history", "intermediate", "importances", "parallel", "slices"}


def test_one_key_one_trial_and_no_reports_are_enough(tmp_path: Path) -> None:
    key = "training.learning_rate"
    few = summary(
        rows=[row(0, reported=[], labels={key: 1e-3})],
        space={key: SPACE[key]},
        importances={},
        corrected=None,
        own=None,
        trials={"complete": 1},
        best={"trial": 0, "value": 0.8, "values": {key: 1e-3}},
        direction="minimise",
        criterion="log_loss",
    )
    write_tuning_page(tmp_path, few)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        "history", "parallel", "slices",
    }  # fmt: skip
    assert optimism(few).startswith("The best of 1 complete trial has a validation log loss of")
    assert "optimistic" not in optimism(few)


@pytest.mark.parametrize(("direction", "better"), [("minimise", -0.01), ("maximise", 0.01)])
def test_a_corrected_value_that_is_better_is_not_called_a_loss(
    direction: str, better: float
) -> None:
    plain = summary(direction=direction)
    assert plain.corrected is not None
    for sign in (1, -1):
        value = plain.best.value + sign * better
        corrected = plain.corrected.model_copy(update={"value": value})
        said = optimism(plain.model_copy(update={"corrected": corrected}))
        assert ("This is optimistic" in said) == (sign < 0)
        assert ("here chance weighs more, and corrected for the choice it is" in said) == (sign > 0)


@pytest.mark.parametrize(
    ("penalties", "words"),
    [
        ((1, 4), "Of the recipe's 4 penalties 1 was tried, so its own value is not known."),
        ((0, 4), "Of the recipe's 4 penalties none was tried"),
        ((3, 4), "Of the recipe's 4 penalties 3 were tried"),
    ],
)
def test_a_recipe_of_which_not_all_was_tried_has_no_value(
    penalties: tuple[int, int], words: str
) -> None:
    said = optimism(summary(own=None, penalties=penalties))
    assert words in said
    assert "as it is" not in said


@pytest.mark.parametrize("n_val", [40, 400])
def test_few_validation_images_are_said(n_val: int) -> None:
    assert ("--folds 5" in optimism(summary(n_val=n_val))) == (n_val == 40)
