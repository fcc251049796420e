"""The sets of benchmarks/adversaries.py: what is planted where, and what no label depends on."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from leukoscope.core.files import read_csv, sha256_file
from leukoscope.datasets.audit import links, measurements
from leukoscope.pipeline.features import one_pass
from leukoscope.pipeline.features.one_pass import NumberTable, OnePass


@pytest.fixture(scope="module")
def sets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        return importlib.import_module("adversary_sets")


@pytest.fixture(scope="module")
def pool(sets, tmp_path_factory):
    """Both pools with ten patients of each class instead of two hundred."""
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "POOL_PATIENTS", 10)
        for kind in sets.KINDS:
            sets.draw_pool(folder, kind)
        yield folder


def _written(sets, pool, out, kind, artefact, strength=3):
    case = sets.Case(kind, artefact, strength, 10)
    manifest = sets.write_set(case, 1, pool, out)
    rows = read_csv(manifest)
    return rows, [cv2.imread(str(manifest.parent / row["path"])) for row in rows]


def test_the_catalogue_has_every_artefact_strength_and_size_where_it_makes_sense(sets):
    cases = sets.catalogue(honest=100, repeat=1)
    assert len({case.name for case in cases}) == len(cases)
    planted = [case for case in cases if case.artefact != sets.HONEST]
    assert len({case.artefact for case in planted}) >= 15
    assert {case.patients for case in planted} == {10, 20, 40, 80}
    assert not sets.makes_sense("rim", "fields")
    assert not sets.makes_sense("scale-bar", "cells")
    full = [case for case in cases if case.artefact == sets.HONEST and case.patients == 80]
    assert Counter(case.kind for case in full) == {"fields": 50, "cells": 50}


@pytest.mark.parametrize("kind", ["fields", "cells"])
def test_labels_are_half_and_half_and_a_patient_has_one(sets, pool, tmp_path, kind):
    rows, images = _written(sets, pool, tmp_path, kind, "blur")
    labels = {row["patient_id"]: row["label"] for row in rows}
    assert len(rows) == 30
    assert len(images) == 30
    assert sorted(Counter(labels.values()).values()) == [5, 5]
    assert all(labels[row["patient_id"]] == row["label"] for row in rows)
    assert max(Counter(row["patient_id"] for row in rows).values()) == 3


@pytest.mark.parametrize(("kind", "artefact"), [("fields", "vignette"), ("cells", "rim")])
def test_the_artefact_is_in_the_images_of_the_second_label_alone(
    sets, pool, tmp_path, kind, artefact
):
    found = sets.load_pool(pool, kind)
    clean = set()
    for image, cells in zip(found.images[0], found.cells[0], strict=True):
        if kind == "cells":
            inner = np.s_[sets.MARGIN_PX : -sets.MARGIN_PX, sets.MARGIN_PX : -sets.MARGIN_PX]
            image = np.where(cells[inner][..., None], image[inner], 0).astype(np.uint8)
        clean.add(image[..., ::-1].tobytes())
    rows, images = _written(sets, pool, tmp_path, kind, artefact)
    untouched = [image.tobytes() in clean for image in images]
    assert untouched == [row["label"] == sets.CLASSES[0] for row in rows]


def test_cells_lie_on_black_also_after_noise_and_hot_pixels(sets, pool, tmp_path):
    for artefact in ("noise-inside", "hot-pixels"):
        _, images = _written(sets, pool, tmp_path / artefact, "cells", artefact)
        corners = [image[[0, 0, -1, -1], [0, -1, 0, -1]] for image in images]
        assert not np.any(corners)


def test_honest_sets_have_two_morphologies_and_planted_ones_one(sets, pool, tmp_path):
    area = {}
    for artefact in (sets.HONEST, "order"):
        rows, images = _written(sets, pool, tmp_path / artefact, "cells", artefact)
        lit = np.array([(image.max(axis=2) > 0).mean() for image in images])
        first = np.array([row["label"] == sets.CLASSES[0] for row in rows])
        area[artefact] = lit[first].mean() / lit[~first].mean()
    assert area[sets.HONEST] > 1.4
    assert area["order"] == pytest.approx(1, abs=0.25)


def test_names_follow_the_label_where_their_order_is_planted(sets, pool, tmp_path):
    first = {}
    for artefact in ("order", "blur"):
        rows, _ = _written(sets, pool, tmp_path / artefact, "fields", artefact)
        ordered = sorted(rows, key=lambda row: row["path"])
        first[artefact] = sum(row["label"] == sets.CLASSES[0] for row in ordered[:15])
    assert first["order"] == 15
    assert 0 < first["blur"] < 15


def test_the_grain_of_a_patient_is_the_same_in_all_images_of_it(sets):
    plain = np.full((64, 64, 3), 128, np.uint8)
    noise = [
        [
            float(np.std(sets._patient_grain(plain, 3, own, np.random.default_rng(seed))))
            for seed in (0, 1)
        ]
        for own in (np.random.default_rng(5), np.random.default_rng(6))
    ]
    assert noise[0][0] == pytest.approx(noise[0][1], rel=0.05)
    assert abs(noise[0][0] - noise[1][0]) > 0.3


def test_files_of_both_labels_are_jpeg_where_the_format_is_planted(sets, pool, tmp_path):
    rows, _ = _written(sets, pool, tmp_path, "fields", "jpeg-file")
    assert {Path(row["path"]).suffix for row in rows} == {".jpg"}
    size = {
        label: np.mean(
            [(tmp_path / row["path"]).stat().st_size for row in rows if row["label"] == label]
        )
        for label in sets.CLASSES
    }
    assert size[sets.CLASSES[0]] > 2 * size[sets.CLASSES[1]]


def test_numbers_of_a_picture_are_computed_once_for_all_sets(monkeypatch, tmp_path):
    """What a process remembers is put in by name, so that it fits the code of a study."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    adversaries = importlib.import_module("adversaries")
    for holder, name in (
        (OnePass, "__init__"), (one_pass, "observe"), (measurements, "audit_image"),
        (links, "find_overlaps"),
    ):  # fmt: skip
        monkeypatch.setattr(holder, name, getattr(holder, name))  # given back after the test
    adversaries._remember_files()
    adversaries._remember_numbers()
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), np.full((64, 64, 3), 200, np.uint8))
    hashes, rows, calls = [sha256_file(path)], np.array([0]), []

    def brightness(seen):
        calls.append(seen)
        return np.array([seen.image.mean()])

    for _ in range(2):
        made = OnePass([path], hashes, rows, [NumberTable("light", brightness)], [], np.array([0]))
        _, (found,) = made.run(lambda done, total: None)
        assert found.tolist() == [[200.0]]
    assert len(calls) == 1
    assert measurements.audit_image(path) is measurements.audit_image(path)
