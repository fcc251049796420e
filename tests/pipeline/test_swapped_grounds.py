"""The leukocytes of an image on the ground of another: the pictures, and what a model is said to
follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.metrics.results import GROUND_BIAS, GROUND_CLASS
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.study import OTHER_GROUND, OWN_GROUND, DataConfig, StudyConfig
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.imaging.observation import on_ground
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning.features import extract_features
from leukoscope.pipeline.features.inputs import observe, partner_rows
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.perturbed import perturbed_inputs
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.entries import Statistics
from leukoscope.pipeline.results.shortcut_summary import MODEL_ON, Evidence, model_on_entries


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    own = load_recipe("quick", ["preprocess.size_px=32"])
    model = ModelConfig(backbone="test_efficientnet", weights="none")
    return own.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def store(four_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> InputStore:
    manifest = load_dataset(four_classes)
    images = Labelled(manifest.usable, manifest.class_names)
    return InputStore(RunFolder(tmp_path_factory.mktemp("run")), manifest, images, Progress())


def test_leukocytes_stay_and_the_ground_goes(store: InputStore) -> None:
    partners, paths = store.partner_rows(1), store.paths()
    for row in (0, 15, 40):
        seen, other = observe(paths[row]), observe(paths[partners[row]])
        found = on_ground(seen, other)
        cell = seen.masks.cell if seen.bar is None else seen.masks.cell & ~seen.bar.mask
        assert (found[cell] == seen.image[cell]).all(axis=1).mean() > 0.8
        far = ~seen.removal
        assert (found[far] == other.background[far]).all(axis=1).mean() > 0.9


def test_partners_of_the_own_class_are_other_images_of_it(store: InputStore) -> None:
    y, n = store.data.y, len(store.data.records)
    own = store.partner_rows(1, own_class=True)
    assert (y[own] == y).all()
    assert not (own == np.arange(n)).any()
    few = store.data.records[:1]  # an image that is alone in its class is its own partner
    assert partner_rows(few, y[:1], 4, 1, own_class=True).tolist() == [0]


def test_features_and_pixels_are_of_the_same_pictures(store: InputStore, recipe: Recipe) -> None:
    rows = np.array([1, 7, 30])
    for name, own in ((OTHER_GROUND, False), (OWN_GROUND, True)):
        partners = store.partner_rows(3, own_class=own)
        paths = store.paths()
        expected = [
            apply_preprocess(
                on_ground(observe(paths[row]), observe(paths[partners[row]])), recipe.preprocess
            )
            for row in rows
        ]
        assert np.array_equal(store.pixels(recipe, name, rows, seed=3), expected)
        alone = extract_features(store.network(recipe, 3), expected, recipe.preprocess)
        found = store.features(recipe, name, 3, rows=rows)
        np.testing.assert_allclose(found, alone, atol=1e-4)
    part = store.subset(np.array([30, 1, 7]), store.run)
    assert np.array_equal(
        part.pixels(recipe, OTHER_GROUND, np.array([1, 2]), seed=3),
        store.pixels(recipe, OTHER_GROUND, np.array([1, 7]), seed=3),
    )


def test_grounds_are_swapped_where_the_ground_is_probed(recipe: Recipe) -> None:
    def inputs(*probes: str) -> tuple[str, ...]:
        config = StudyConfig.model_validate(
            {"data": DataConfig(path="x"), "recipes": [recipe], "probes": probes}
        )
        return perturbed_inputs(config)

    assert {OTHER_GROUND, OWN_GROUND} <= set(inputs("ground-only"))
    assert OTHER_GROUND not in inputs("grain-only")


def test_the_share_named_after_the_ground_is_counted(recipe: Recipe) -> None:
    """Of 40 images the model names the ground's class in 30, the leukocytes' in 6; one is bare."""
    ids = [f"i{i:02d}" for i in range(41)]
    y = np.arange(41) % 3
    ground = (y + 1) % 3
    said = np.where(np.arange(41) < 30, ground, np.where(np.arange(41) < 36, y, (y + 2) % 3))
    tables = [
        PredictionTable.build(
            ("benign", "pre_b", "pro_b"), ids, 0.7 * np.eye(3)[answer] + 0.1, recipe="quick",
            protocol="random", fold=0, part="test", y_true=y, input=MODEL_ON + name,
        )
        for name, answer in ((OTHER_GROUND, said), (OWN_GROUND, y))
    ]  # fmt: skip
    config = StudyConfig.model_validate(
        {"data": DataConfig(path="x"), "recipes": [recipe], "bootstrap": 100}
    )
    fold = Fold("random", 0, dict.fromkeys(ids, "test"), {i: i for i in ids})
    statistics = Statistics.of([fold], config)
    partners = dict(zip(ids, ground.tolist(), strict=True))
    evidence = Evidence(partners=partners, without_leukocyte=frozenset(ids[40:]))

    def entries(seen: Evidence) -> dict[str, dict[str, object]]:
        rows = model_on_entries(statistics, concatenate(tables), ["quick"], "random", seen)
        return {str(row["input"]): row for row in rows}

    found = entries(evidence)
    assert found[OTHER_GROUND]["n"] == found[OWN_GROUND]["n"] == 40
    metrics = found[OTHER_GROUND]["metrics"]
    assert isinstance(metrics, dict)
    assert metrics[GROUND_CLASS]["value"] == pytest.approx(30 / 40)
    assert metrics["accuracy"]["value"] == pytest.approx(6 / 40)
    assert metrics[GROUND_BIAS]["value"] == pytest.approx(30 / 36)
    assert metrics[GROUND_BIAS]["low"] > 0.5
    own = found[OWN_GROUND]["metrics"]
    assert isinstance(own, dict)
    assert own["accuracy"]["value"] == 1
    assert GROUND_CLASS not in own
    nothing = [{"probe": "ground-only", "reason": "no ground"}]
    assert not entries(Evidence(partners=partners, inapplicable=nothing))
