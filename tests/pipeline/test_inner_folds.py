"""Ensembles over inner folds: who trains on what, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leukoscope.config.base import validate
from leukoscope.config.loading import load_recipe, load_study_config
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import ConfigError, SplitError
from leukoscope.core.records import Fold, ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning.checkpoint import load_checkpoint
from leukoscope.learning.features import predict_logits
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.inner_folds import fit_inner_folds, inner_parts, member_recipe
from leukoscope.pipeline.jobs import Labelled
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.bundling import export_bundle
from leukoscope.study.run import run_study


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(8, 30))
def test_groups_stay_whole_and_every_row_selects_once(seed: int, folds: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.integers(0, groups, 120).astype(str)
    y = rng.choice(4, 120, p=[0.6, 0.3, 0.09, 0.01])
    train = rng.permutation(500)[:120]
    parts = inner_parts(train, y, member, folds, seed)
    assert sorted(np.concatenate([val for _, val in parts]).tolist()) == sorted(train.tolist())
    of_row = dict(zip(train.tolist(), member.tolist(), strict=True))
    for fitted, selecting in parts:
        assert not {of_row[i] for i in fitted} & {of_row[i] for i in selecting}
        assert len(fitted) + len(selecting) == 120


def test_too_few_groups_are_said() -> None:
    with pytest.raises(SplitError, match="inner_folds = 3, but there are 2 groups to train on"):
        inner_parts(np.arange(10), np.arange(10) % 2, np.array(["a", "b"] * 5), 3, 0)


def test_members_never_see_outer_images_and_are_averaged(tmp_path: Path) -> None:
    records = tuple(ImageRecord(f"i{i}", f"{i}.png", label=("benign", "pro_b")[i % 2])
                    for i in range(40))  # fmt: skip
    data = Labelled(records, ("benign", "pro_b"))
    rows = {"train": np.arange(24), "val": np.arange(24, 28), "cal": np.arange(28, 32),
            "test": np.arange(32, 40)}  # fmt: skip
    seen: list[dict[str, NDArray[np.int64]]] = []

    class Numbered:
        """A trainer whose logits tell row and member."""

        def fit(
            self, rows: Mapping[str, NDArray[np.int64]], folder: Path, seed: int, tell: Any,
            gate: object = None,
        ) -> dict[str, NDArray[np.float64]]:  # fmt: skip
            seen.append(dict(rows))
            number = int(folder.name.removeprefix("inner"))
            return {p: np.stack([rows[p] + number, -rows[p]], axis=1) / 10 for p in
                    ("val", "cal", "test")}  # fmt: skip

    fold = Fold("random", 0, {}, {f"i{i}": f"g{i // 2}" for i in range(40)})
    found = fit_inner_folds(Numbered(), data, fold, 3, tmp_path, 1, lambda *a, **k: None, rows)
    assert len(seen) == 3
    for own in seen:
        assert set(own["train"]) | set(own["val"]) == set(range(28))
        assert not set(own["train"]) & set(own["val"])
    of_row = {row: n for n, own in enumerate(seen) for row in own["val"].tolist()}
    alone = [[row + of_row[row], -row] for row in rows["val"].tolist()]
    np.testing.assert_allclose(np.exp(found["val"]), softmax(np.array(alone) / 10))
    for part in ("cal", "test"):
        each = [softmax(np.stack([rows[part] + n, -rows[part]], axis=1) / 10) for n in range(3)]
        np.testing.assert_allclose(np.exp(found[part]), np.mean(each, axis=0))
    assert len((tmp_path / "inner.csv").read_text().splitlines()) == 4


def test_the_recipe_says_so_and_members_do_not_refit() -> None:
    three = load_recipe("quick", ["inner_folds=3"])
    assert three.no_bundle_reason == ""
    own = member_recipe(three)
    assert (own.inner_folds, own.training.refit_with_val) == (0, False)
    with pytest.raises(ConfigError, match="inner_folds must be 0"):
        validate(Recipe, {"name": "a", "title": "", "inner_folds": 1}, "test")


def test_a_study_with_inner_folds(tmp_path: Path) -> None:
    """A linear head and a gradient training, two members each."""
    phantoms = write_phantoms(PhantomSpec(images=48, sessions=6, size_px=96, seed=5),
                              tmp_path / "phantoms")  # fmt: skip
    small = ["preprocess.size_px=32", "model.weights=none", "bootstrap=100", "inner_folds=2",
             "control_draws=0"]  # fmt: skip
    for recipe, more in (
        ("quick", ["model.backbone=test_resnet"]),
        ("leaky-cnn", ["training.epochs=1", "training.precision=fp32"]),
    ):
        result = run_study(
            phantoms, tmp_path / recipe, recipes=[recipe], protocols=["random"], probes=(),
            folds=1, overrides=[*small, *more], report=False,
        )  # fmt: skip
        folder = result.run.model(recipe, "random", 0)
        first, second = (load_checkpoint(folder / f"inner{i}")[0] for i in range(2))
        assert not np.allclose(
            first.head.weight.detach().numpy(), second.head.weight.detach().numpy()
        )
        table = PredictionTable.load(folder / "predictions.csv")
        assert set(table.part.tolist()) == {"val", "cal", "test"}
        assert result.metrics.to_json()["results"][0]["recipe"] == recipe
        export_bundle(result.run, recipe, result.run.bundle)
        _the_bundle_holds_both(result.run)


def _the_bundle_holds_both(run: RunFolder) -> None:
    predictor = load_bundle(run.bundle)
    recipe = predictor.record.recipe
    final = run.model(recipe, "final", 0)
    table = PredictionTable.load(final / "predictions.csv")
    assert set(table.part.tolist()) == {"val"}
    manifest = Manifest.load(run.manifest, load_study_config(run.config).data.root)
    path_of = {record.image_id: manifest.path_of(record) for record in manifest.usable}
    paths = [path_of[i] for i in table.image_id.tolist()]
    spec = predictor.record.preprocess
    images = np.stack([apply_preprocess(decode_image(path).image, spec) for path in paths])
    members = [load_checkpoint(final / f"inner{i}")[0] for i in range(2)]
    mean = np.mean([softmax(predict_logits(m, images, spec)) for m in members], axis=0)
    answers = predictor.predict(paths)
    np.testing.assert_allclose([a.logits for a in answers], np.log(mean), atol=0.02)
