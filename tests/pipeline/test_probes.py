"""One pass over the files, the transplant control, and probes that have nothing to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.study import PROBES, DataConfig, StudyConfig
from leukoscope.core.files import write_csv
from leukoscope.core.records import ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict.shortcuts import transplant_hits
from leukoscope.imaging import observation
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.file_facts import FILE_FACTS
from leukoscope.imaging.observation import Observation, transplanted
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import LeukocyteMasks, segment_leukocytes
from leukoscope.learning.features import extract_features
from leukoscope.pipeline.features import one_pass
from leukoscope.pipeline.features.inputs import (
    load_input,
    observe,
    pack_mask,
    partner_rows,
    reading_order,
    unpack_mask,
)
from leukoscope.pipeline.features.one_pass import NUMBER_TABLES, without_cell_sizes
from leukoscope.pipeline.features.store import InputStore, Wanted
from leukoscope.pipeline.inapplicable import bare_name, inapplicable_probes, listing_numbers
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.perturbed import perturbed_inputs, perturbed_rows
from leukoscope.pipeline.probes import (
    NUMERIC,
    forest_logits,
    normal_scores,
    prepare_study,
    probe_numbers,
    rank_logits,
)
from leukoscope.pipeline.progress import Progress

PASSPORT = {"scale_bars": {"images": 0}}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    own = load_recipe("quick", ["preprocess.size_px=32"])
    return own.model_copy(
        update={"model": ModelConfig(backbone="test_efficientnet", weights="none")}
    )


def store_of(data: Path, folder: Path) -> InputStore:
    manifest = load_dataset(data)
    images = Labelled(manifest.usable, manifest.class_names)
    return InputStore(RunFolder(folder), manifest, images, Progress())


def config_of(data: Path, recipe: Recipe, *probes: str) -> StudyConfig:
    return StudyConfig.model_validate(
        {"data": DataConfig(path=str(data)), "recipes": [recipe], "probes": probes}
    )


@pytest.fixture(scope="module")
def store(four_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> InputStore:
    return store_of(four_classes, tmp_path_factory.mktemp("run"))


def test_each_file_is_decoded_once_for_all_probes(
    four_classes: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(four_classes, tmp_path)
    config = config_of(four_classes, recipe, *PROBES)
    decoded: list[Path] = []
    segmented: list[int] = []
    look = observe

    def counted(path: Path, sha256: str) -> Observation:
        decoded.append(path)
        return look(path, sha256)

    def counted_segment(image: NDArray[np.uint8]) -> LeukocyteMasks:
        segmented.append(1)
        return segment_leukocytes(image)

    monkeypatch.setattr(one_pass, "observe", counted)
    monkeypatch.setattr(observation, "segment_leukocytes", counted_segment)
    prepare_study(store, config)
    n = len(store.data.records)
    late = len(decoded) - n  # images whose partner comes after them are read twice
    late -= 2 * n  # of each image the partners, on whose ground its leukocytes are put
    assert 0 <= late <= n // 2
    assert set(decoded) == set(store.paths())
    in_scale = 24  # the scale is told from a sample
    assert len(segmented) <= 3 * n + late + in_scale
    decoded.clear()
    prepare_study(store, config)
    for probe in NUMERIC:
        assert len(probe_numbers(store, probe, config)) == n
    for name in perturbed_inputs(config):
        store.features(recipe, name, config.seed, rows=perturbed_rows(store.data, config.seed))
    assert not decoded


def test_features_are_those_of_one_image_at_a_time(store: InputStore, recipe: Recipe) -> None:
    variants = ("image", "background-only", "cells-only", "stain-neutral", "blur-1")
    store.prepare([Wanted(recipe, name) for name in variants], [], 1)
    for name in variants:
        images = [load_input(path, name, recipe.preprocess) for path in store.paths()]
        alone = extract_features(store.network(recipe, 1), images, recipe.preprocess)
        np.testing.assert_allclose(store.features(recipe, name, 1), alone, atol=1e-4)


def test_the_ground_of_an_image_has_the_holes_of_both(store: InputStore, recipe: Recipe) -> None:
    features = store.features(recipe, "ground-only", 1)
    partners = store.partner_rows(1)
    images = []
    for row, path in enumerate(store.paths()):
        seen, other = observe(path), observe(store.paths()[partners[row]])
        holes = unpack_mask(pack_mask(other.removal))
        whole = transplanted(seen, holes)
        again = np.asarray(cv2.resize(other.removal.astype(np.uint8), whole.shape[1::-1])) > 0
        touched = (whole != seen.image).any(axis=2)
        assert touched[seen.removal].mean() > 0.8
        assert touched[again].mean() > 0.8
        images.append(whole)
    shown = [apply_preprocess(image, recipe.preprocess) for image in images]
    alone = extract_features(store.network(recipe, 1), shown, recipe.preprocess)
    np.testing.assert_allclose(features, alone, atol=1e-4)


def test_partners_are_of_another_class_whatever_names_and_folds(store: InputStore) -> None:
    data = store.data
    partners = partner_rows(data.records, data.y, len(data.class_names), 1)
    assert (data.y[partners] != data.y).all()
    assert not np.array_equal(partners, partner_rows(data.records, data.y, 4, 2))
    found = store.partner_classes(1)
    assert found == {r.image_id: data.y[p] for r, p in zip(data.records, partners, strict=True)}
    turned = tuple(replace(r, path=f"{99 - i}.png") for i, r in enumerate(data.records))[::-1]
    again = InputStore(store.run, store.manifest, Labelled(turned, data.class_names), Progress())
    assert again.partner_classes(1) == found
    place = np.argsort(reading_order(data.records))
    assert (place[partners] < place).mean() > 0.5  # most are read before their image


def test_holes_alone_give_chance_however_frequent_a_class_is() -> None:
    rng = np.random.default_rng(3)
    n = 4000
    y = (rng.random(n) < 0.2).astype(int)
    pair = rng.normal(size=n)  # what the holes show of both images, alike for both classes
    odds = 1 / (1 + np.exp(-(pair - 1.4)))
    table = PredictionTable.build(
        ("healthy", "all"), [f"i{i}" for i in range(n)], np.stack([1 - odds, odds], axis=1),
        recipe="r", protocol="random", fold=rng.integers(0, 5, n), part="test", y_true=y,
    )  # fmt: skip
    partner = {f"i{i}": 1 - int(k) for i, k in enumerate(y)}
    assert (table.probs.argmax(1) == y).mean() > 0.7
    assert abs(transplant_hits(table, partner).mean() - 0.5) < 0.02
    told = np.where(y == 1, odds + 1, odds)[:, None] * [0, 1] + np.array([1.0, 0.0])
    told /= told.sum(axis=1, keepdims=True)
    assert transplant_hits(replace(table, probs=told), partner).mean() == 1


def test_a_part_of_a_store_reads_rows_of_the_whole(
    store: InputStore, recipe: Recipe, tmp_path: Path
) -> None:
    rows = np.array([3, 1, 40, 22])
    part = store.subset(rows, RunFolder(tmp_path))
    assert [r.image_id for r in part.data.records] == [store.data.records[i].image_id for i in rows]
    for name in ("image", "ground-only"):
        whole = store.features(recipe, name, 1)
        assert np.array_equal(part.features(recipe, name, 1), whole[rows])
    few = np.array([0, 2])
    found = part.features(recipe, "blur-1", 1, rows=few)
    assert np.allclose(found, store.features(recipe, "blur-1", 1)[rows[few]], atol=1e-4)
    assert np.array_equal(part.pixels(recipe), store.pixels(recipe)[rows])
    for table in NUMBER_TABLES.values():
        expected = store.numbers(table)[rows]
        assert np.array_equal(part.numbers(table), expected, equal_nan=True)
    assert part.partner_classes(1).items() <= store.partner_classes(1).items()
    assert not any(tmp_path.iterdir())


def test_edited_images_are_spread_over_classes_and_patients() -> None:
    records = tuple(
        ImageRecord(f"i{i}", f"{i}.png", str(i), ("healthy", "all")[i % 10 == 0], f"p{i % 40}")
        for i in range(1000)
    )
    data = Labelled(records, ("healthy", "all"))
    rows = perturbed_rows(data, 7, most=120)
    assert (np.diff(rows) > 0).all()
    assert np.bincount(data.y[rows]).tolist() == [60, 60]
    per_patient = np.unique([records[i].patient_id for i in rows], return_counts=True)[1]
    assert len(per_patient) == 40
    assert np.array_equal(perturbed_rows(data, 7, most=5000), np.arange(1000))


def cells_on_black(store: InputStore, out: Path) -> Path:
    """The same pictures with all but the leukocytes black: no ground, one size, one format."""
    rows = []
    for record, path in zip(store.data.records, store.paths(), strict=True):
        seen = Observation(decode_image(path).image)
        image = np.where(seen.masks.cell[:, :, None], seen.image, 0).astype(np.uint8)
        (out / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / "images" / Path(record.path).name), image[:, :, ::-1])
        name = f"images/{Path(record.path).name}"
        rows.append({"path": name, "label": record.label, "patient_id": record.patient_id})
    write_csv(out / "manifest.csv", ("path", "label", "patient_id"), rows)
    return out / "manifest.csv"


def test_probes_without_anything_to_see_are_inapplicable_with_what_was_measured(
    store: InputStore, recipe: Recipe, tmp_path: Path
) -> None:
    data = cells_on_black(store, tmp_path / "data")
    black = store_of(data, tmp_path / "run")
    names = ("background-only", "ground-only", "scale-bar-only", "file-only", "grain-only")
    found = inapplicable_probes(config_of(data, recipe, *names), PASSPORT, black)
    reasons = {row["probe"]: row["reason"] for row in found}
    assert set(reasons) == {"background-only", "ground-only", "scale-bar-only", "file-only"}
    assert "100 % of the images less than 5 % of the pixels show ground" in reasons["ground-only"]
    assert "all 48 files have the same" in reasons["file-only"]
    assert "96 × 96 px" in reasons["file-only"]
    fields = inapplicable_probes(config_of(data, recipe, *names), PASSPORT, store)
    assert {row["probe"] for row in fields} == {"scale-bar-only", "file-only"}


def test_sizes_of_frames_that_follow_their_cells_are_left_out() -> None:
    facts = np.zeros((4, len(FILE_FACTS)))
    facts[:, FILE_FACTS.index("width")] = [40, 52, 61, 47]
    assert np.ptp(without_cell_sizes(facts), axis=0).any()
    facts[:3, FILE_FACTS.index("follows_cell")] = 1
    assert not np.ptp(without_cell_sizes(facts), axis=0).any()


def test_the_place_in_the_list_of_names_holds_no_class(store: InputStore) -> None:
    assert bare_name("Early/WBC-Malignant-Early-007.png") == bare_name("x/WBC-Benign-007.png")
    assert bare_name("cell-9.png") < bare_name("cell-10.png")
    own = ["hairy_cell", "zelle_mit_ö"]
    assert bare_name("Hairy cell_007.png", own) == bare_name("Zelle-mit-Ö 007.png", own)
    assert bare_name("a_hairy_cell.png", own) == bare_name("a.png")
    numbers = listing_numbers(store)
    assert numbers.shape == (48, 3)
    assert numbers[:, 0].max() == 1
    assert np.isnan(numbers[:, 2]).all()  # phantoms have no EXIF


def test_classifiers_of_numbers_find_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    n = 300
    y = rng.integers(0, 2, n)
    records = tuple(
        ImageRecord(f"i{i}", f"{i}.png", str(i), ("healthy", "all")[k]) for i, k in enumerate(y)
    )
    data = Labelled(records, ("healthy", "all"))
    rows = {part: np.arange(n)[i::4] for i, part in enumerate(("train", "val", "cal", "test"))}
    values = rng.normal(size=(n, 8))
    values[:, 1] += 3 * y
    values[rng.random(n) < 0.2, 1] = np.nan
    values[:, 2] = np.nan
    for logits in (rank_logits(values, data, rows), forest_logits(values, data, 1, rows)):
        assert (logits["test"].argmax(1) == y[rows["test"]]).mean() > 0.8
    # How exact a number is hangs on the size of cells; ranks and a line do not read that.
    spread = rng.normal(size=(n, 8)) * np.where(y, 3, 1)[:, None]
    line = rank_logits(spread, data, rows)["test"].argmax(1) == y[rows["test"]]
    assert line.mean() < 0.7


def test_normal_scores_hang_on_ranks_among_the_training_images() -> None:
    train = np.array([[1.0], [2.0], [3.0], [np.nan]])
    found = normal_scores(train, np.array([[2.0], [-50.0], [900.0]]))[:, 0]
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[1] < -0.9
    assert found[2] > 0.9
    assert not normal_scores(np.full((3, 1), 7.0), train).any()
