"""What is known of the labels of a study's images: probabilities, conflicts, distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.records import Fold, ImageRecord, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.aggregation import aggregate
from leukoscope.evaluation.ood import fit_ood, fit_threshold
from leukoscope.evaluation.predictions import PredictionTable

OOD_FIT_IMAGES = 1000
CELLS = "cells-only"
PROTOCOLS: Mapping[str, str] = {
    "deduplicated": "each image is judged by a model that saw neither it nor a copy or an "
    "overlapping field of it",
    "grouped": "each image is judged by a model that saw nothing of its patient",
    "cohort": "each image is judged by a model that saw nothing of its cohort",
    "acquisition": "each image is judged by a model that saw nothing of its acquisition cluster",
    "acquisition-merged": "each image is judged by a model that saw nothing of its merged "
    "acquisition cluster",
    "random": "the model may have seen a copy of the image, and a copy with the same wrong label "
    "vouches for it",
    "given": "the data's own parts may share copies of an image, and a copy with the same wrong "
    "label vouches for it",
}
"""Protocols in the order of preference, and what their probabilities rest on."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the labels of n images.

    Attributes:
        records: n images.
        class_names: K names.
        probs: (n, K) out-of-fold probabilities; a row of NaN where no model was tested on it.
        pairs: ``(i, j, what)``: images that show the same and carry different labels.
        ood: (n,) distance from the training images, NaN where unknown; None where the run has none.
        ood_absent: Why there is none.
    """

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    probs: NDArray[np.float64]
    pairs: tuple[tuple[int, int, str], ...]
    ood: NDArray[np.float64] | None = None
    ood_absent: str = ""


def choose_predictions(
    run: RunFolder, table: PredictionTable, recipe: str | None, protocol: str | None
) -> tuple[str, str]:
    """Recipe and protocol, by default those of which copies of an image vouch least for it.

    Raises:
        DataError: There is no test prediction.
        UnknownNameError: No such recipe or protocol.
    """
    rows = table.select(input="image")
    recipes = list(dict.fromkeys(rows.recipe.tolist()))
    if not recipes:
        raise DataError(f"{run.predictions}: no test predictions from whole images")
    name = recipe or recipes[0]
    if name not in recipes:
        raise UnknownNameError(f"recipe of {run.path}", name, recipes)
    there = set(rows.select(recipe=name).protocol.tolist())
    usable = [p for p in PROTOCOLS if p in there]
    chosen = protocol or next(iter(usable), "")
    if chosen not in usable:
        raise UnknownNameError(f"protocol of {run.path}", chosen, usable)
    return name, chosen


def out_of_fold(
    table: PredictionTable, recipe: str, protocol: str, records: Sequence[ImageRecord]
) -> tuple[NDArray[np.float64], list[str]]:
    """Probabilities of each image by models that were tested on it.

    A label is about cells: where the run has the probe that sees nothing but leukocytes, the
    probabilities are those of the mean logit of both. On 400 phantoms that are sorted with 91 %
    by the whole image and with 97 % by the cells, both together reach 97.8 %.

    Returns:
        (n, K), NaN where no model was tested; and what the classifiers saw.
    """
    under = table.select(protocol=protocol)
    found = in_order(under.select(recipe=recipe, input="image"), records)
    cells = under.select(input=CELLS)
    if not len(cells):
        return found, ["image"]
    views = np.stack([found, in_order(cells, records)], axis=1)
    both = ~np.isnan(views).any(axis=(1, 2))
    found[both] = aggregate(views[both], "mean-logit")
    return found, ["image", CELLS]


def in_order(test: PredictionTable, records: Sequence[ImageRecord]) -> NDArray[np.float64]:
    """(n, K) probabilities in the order of the records, NaN where there are none."""
    row_of = {image_id: row for row, image_id in enumerate(test.image_id.tolist())}
    found = np.full((len(records), len(test.class_names)), np.nan)
    for i, record in enumerate(records):
        if record.image_id in row_of:
            found[i] = test.probs[row_of[record.image_id]]
    return found


def label_conflicts(
    records: Sequence[ImageRecord], passport: Mapping[str, Any]
) -> tuple[tuple[int, int, str], ...]:
    """Pairs of images that the audit found to show the same, and that carry different labels.

    Returns:
        ``(i, j, what)``, sorted; ``what`` is the closest kind of likeness.
    """
    row_of = {record.image_id: i for i, record in enumerate(records)}
    kinds: list[tuple[str, list[Sequence[str]]]] = [
        ("overlapping field", [pair[:2] for pair in passport["overlaps"].get("pairs", ())]),
        ("nearly equal picture", passport["near_duplicates"].get("groups", [])),
        ("equal pixels", passport.get("pixel_duplicates", {}).get("groups", [])),
        ("equal file", passport["exact_duplicates"].get("groups", [])),
    ]
    found: dict[tuple[int, int], str] = {}
    for what, groups in kinds:
        for group in groups:
            rows = sorted(row_of[image_id] for image_id in group if image_id in row_of)
            for i, j in combinations(rows, 2):
                if records[i].label != records[j].label:
                    found[i, j] = what
    return tuple((i, j, what) for (i, j), what in sorted(found.items()))


def training_distances(
    run: RunFolder, records: Sequence[ImageRecord], protocol: str
) -> tuple[NDArray[np.float64] | None, str]:
    """How far each test image lies from its fold's training images, relative to the limit.

    The features of a frozen backbone must stand in the run's cache, in the order of ``records``.

    Returns:
        (n,) distances, 1 at the limit that accepts 95 % of the validation images, NaN where the
        image was not tested; or None, and why.
    """
    files = sorted((run.cache / "features").glob("image-*.npy"))
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
    arrays = [array for array in arrays if array.ndim == 2 and len(array) == len(records)]
    if len(arrays) != 1:
        many = "several sets of features" if arrays else "no features of a frozen backbone"
        return None, f"the run keeps {many} in its cache; only such features compare between folds"
    row_of = {record.image_id: i for i, record in enumerate(records)}
    found = np.full(len(records), np.nan)

    def rows_of(fold: Fold, part: str) -> NDArray[np.int64]:
        return np.array([row_of[i] for i in fold.ids(part) if i in row_of], dtype=np.int64)

    for fold in load_folds(run.splits):
        parts = {part: rows_of(fold, part) for part in ("train", "val", "test")}
        if fold.protocol != protocol or len(parts["train"]) < 4 or not len(parts["val"]):
            continue
        thinned = parts["train"][:: max(1, len(parts["train"]) // OOD_FIT_IMAGES)]
        model = fit_ood(arrays[0][thinned])
        limit = fit_threshold(model.score(arrays[0][parts["val"]]))
        found[parts["test"]] = model.score(arrays[0][parts["test"]]) / limit
    return found, ""
