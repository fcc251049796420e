"""Models on perturbed images, and bundles on images that they were trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from leukoscope.config.loading import load_recipe
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import apply_calibration, fit_calibration
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.pipeline.jobs import Labelled, calibrate_fits, calibrations_of_run
from leukoscope.pipeline.measured import seen_in_training
from leukoscope.pipeline.perturbed import _one_fold

NAMES = ("benign", "pre_b")


def record(number: int, label: str, sha256: str = "") -> ImageRecord:
    return ImageRecord(f"i{number:03d}", f"{number}.png", sha256, label)


def test_edited_images_get_the_calibration_that_whole_images_get(tmp_path: Path) -> None:
    y = np.array([0] * 59 + [1] + [0] * 40 + [1] * 20)
    logits = np.array([[2.0, 0.0]] * 60 + [[0.0, 2.0]] * 60)
    served = fit_calibration(logits, y)
    assert served.method == "vector"
    data = Labelled(tuple(record(i, NAMES[k]) for i, k in enumerate([*y, 0, 1])), NAMES)
    ids = [r.image_id for r in data.records]
    fold = Fold("random", 0, dict.fromkeys(ids[:120], "cal") | dict.fromkeys(ids[120:], "test"))
    run, recipe = RunFolder(tmp_path), load_recipe("quick")
    PredictionTable.build(
        NAMES, ids[:120], apply_calibration(logits, served), recipe=recipe.name,
        protocol="random", fold=0, part="cal", y_true=y, logits=logits,
    ).save(run.fit_predictions(recipe.name, "random", 0))  # fmt: skip
    answers = np.array([[0.3, 0.0], [0.0, 0.3]])
    models: Any = SimpleNamespace(
        store=SimpleNamespace(run=run, data=data), recipe=recipe,
        rows=lambda fold, name: data.rows(fold, "test"), logits=lambda fold, name: answers,
    )  # fmt: skip
    fitted = PredictionTable.load(run.fit_predictions(recipe.name, "random", 0))
    calibrate_fits([fold], [fitted], lambda _: run.model(recipe.name, "random", 0), ["random"])
    record_of = calibrations_of_run(run, [recipe.name], [fold])[recipe.name, "random", 0]
    assert record_of == served
    table = _one_fold(models, fold, "background-only", record_of)
    np.testing.assert_allclose(table.probs, apply_calibration(answers, served))
    assert set(table.input.tolist()) == {"model-on-background-only"}


def test_every_copy_of_a_training_image_is_counted() -> None:
    predictor: Any = SimpleNamespace(trained_on_sha256=frozenset({"a"}))
    assert seen_in_training(predictor, ["a", "a", "b"])[0].startswith(
        "2 of these 3 images were used to train"
    )
    assert seen_in_training(predictor, ["b"]) == []
