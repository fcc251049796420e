"""A queue of images whose labels a person should check, and what is known of each label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import Passport
from leukoscope.config.relabel_queue import (
    LabelErrorCounts,
    ListName,
    Queue,
    QueueList,
    QueueRow,
    RankedImages,
    SamePicture,
)
from leukoscope.core.errors import DataError, UnknownNameError, UsageError
from leukoscope.core.files import sha256_file, sha256_json, write_csv
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import PROTOCOLS, VOUCHING
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.combining import aggregate
from leukoscope.evaluation.examples import (
    confident_learning,
    joint_distribution,
    margin_uncertainty,
    review_order,
)
from leukoscope.evaluation.ood import fit_ood, fit_threshold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles

OOD_FIT_IMAGES = 1000
CELLS = "cells-only"
FOLDER, QUEUE_JSON, QUEUE_CSV, PAGE = "relabel", "queue.json", "queue.csv", "relabel.html"
COLUMNS = ("rank", "list", "image_id", "path", "given", "suggested", "score", "p_given",
           "p_suggested", "reasons")  # fmt: skip
COUNT = 200
LEAST = "among the least certain images"
QUEUE_SCORES: Mapping[ListName, str] = {
    "label": "p(suggested) − p(given), −1 to 1: confident learning (Northcutt et al. 2021)",
    "uncertain": "1 − (largest − second largest probability)",
    "ood": "distance from the training images over the distance that accepts 95 % of the "
    "validation images",
}
Tell = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class LabelEvidence:
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
    files: RunFiles, recipe: str | None, protocol: str | None
) -> tuple[str, str]:
    """Recipe and protocol, by default those of which copies of an image vouch least for it.

    Raises:
        DataError: There is no test prediction.
        UnknownNameError: No such recipe or protocol.
    """
    run, rows = files.run, files.predictions.select(part="test", input="image")
    recipes = list(dict.fromkeys(rows.recipe.tolist()))
    if not recipes:
        raise DataError(f"{run.predictions}: no test predictions from whole images")
    name = recipe or recipes[0]
    if name not in recipes:
        raise UnknownNameError(f"recipe of {run.path}", name, recipes)
    there = set(rows.select(recipe=name).protocol.tolist())
    usable = [p for p in VOUCHING if p in there]
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
    records: Sequence[ImageRecord], passport: Passport
) -> tuple[tuple[int, int, str], ...]:
    """Pairs of images that the audit found to show the same, and that carry different labels.

    Returns:
        ``(i, j, what)``, sorted; ``what`` is the closest kind of likeness.
    """
    row_of = {record.image_id: i for i, record in enumerate(records)}
    kinds: list[tuple[str, list[list[str]]]] = [
        (
            "overlapping field",
            [[str(name) for name in pair[:2]] for pair in passport["overlaps"]["pairs"]],
        ),
        ("near-duplicate", passport["near_duplicates"]["groups"]),
        ("equal pixels", passport["pixel_duplicates"]["groups"]),
        ("equal file", passport["exact_duplicates"]["groups"]),
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
    files: RunFiles, records: Sequence[ImageRecord], protocol: str
) -> tuple[NDArray[np.float64] | None, str]:
    """How far each test image lies from its fold's training images, relative to the limit.

    The features of a frozen backbone must stand in the run's cache, in the order of ``records``.

    Returns:
        (n,) distances, 1 at the limit that accepts 95 % of the validation images, NaN where the
        image was not tested; or None, and why.
    """
    paths = sorted((files.run.cache / "features").glob("image-*.npy"))
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    arrays = [array for array in arrays if array.ndim == 2 and len(array) == len(records)]
    if len(arrays) != 1:
        many = "several sets of features" if arrays else "no features of a frozen backbone"
        return None, f"the run keeps {many} in its cache; only such features compare between folds"
    row_of = {record.image_id: i for i, record in enumerate(records)}
    found = np.full(len(records), np.nan)

    def rows_of(fold: Fold, part: str) -> NDArray[np.int64]:
        return np.array([row_of[i] for i in fold.ids(part) if i in row_of], dtype=np.int64)

    for fold in files.folds_under(protocol):
        parts = {part: rows_of(fold, part) for part in ("train", "val", "test")}
        if len(parts["train"]) < 4 or not len(parts["val"]):
            continue
        thinned = parts["train"][:: max(1, len(parts["train"]) // OOD_FIT_IMAGES)]
        model = fit_ood(arrays[0][thinned])
        limit = fit_threshold(model.score(arrays[0][parts["val"]]))
        found[parts["test"]] = model.score(arrays[0][parts["test"]]) / limit
    return found, ""


def make_queue(
    run: RunFolder, *, recipe: str | None = None, protocol: str | None = None, count: int = COUNT
) -> Queue:
    """The queue of a run, from its ``predictions.csv``, ``manifest.csv`` and ``passport.json``.

    By default the run's first recipe, and the first of
    :data:`~leukoscope.core.protocols.VOUCHING` that it has; ``count`` limits each of the three
    lists.

    Returns:
        The same for the same files.

    Raises:
        DataError: A file is missing, or no image was tested.
        UnknownNameError: The run has no such recipe or protocol.
    """
    files = RunFiles.open(run.path)
    files.need_images("relabel")
    name, under = choose_predictions(files, recipe, protocol)
    table, records = files.predictions.select(part="test"), files.manifest.usable
    probs, inputs = out_of_fold(table, name, under, records)
    ood, absent = training_distances(files, records, under)
    evidence = LabelEvidence(
        records,
        table.class_names,
        probs,
        label_conflicts(records, files.passport),
        ood,
        absent,
    )
    queue = Queue(
        **dict(rank_images(evidence, count)),
        schema=1,
        sha256="",
        run=run.path.resolve().name,
        recipe=name,
        protocol=under,
        protocol_means=PROTOCOLS[under].basis,
        inputs=tuple(inputs),
        manifest_sha256=sha256_file(run.manifest),
        predictions_sha256=sha256_file(run.predictions),
    )
    content = {key: value for key, value in queue.to_json().items() if key != "sha256"}
    return queue.model_copy(update={"sha256": sha256_json(content)})


def rank_images(evidence: LabelEvidence, count: int = COUNT) -> RankedImages:
    """Three lists in one queue: likely label errors and conflicts, least certain, least alike.

    ``count`` limits each list.

    Raises:
        DataError: No image was tested.
    """
    names = evidence.class_names
    y = np.array([names.index(record.label) for record in evidence.records], dtype=np.int64)
    known = np.flatnonzero(~np.isnan(evidence.probs).any(axis=1))
    errors = confident_learning(y[known], evidence.probs[known])
    partners: dict[int, list[tuple[int, str]]] = {}
    for i, j, what in evidence.pairs:
        partners.setdefault(i, []).append((j, what))
        partners.setdefault(j, []).append((i, what))
    suggested = dict(zip(known.tolist(), errors.suggested.tolist(), strict=True))
    suspicious = known[review_order(errors, np.isin(known, list(partners)))].tolist()
    closest = known[np.argsort(-margin_uncertainty(evidence.probs[known]), kind="stable")].tolist()
    lists: dict[ListName, list[int]] = {
        "label": [*suspicious, *(row for row in partners if row not in suggested)],
        "uncertain": closest,
        "ood": _far_first(evidence.ood),
    }
    writer = _RowWriter(evidence, partners, suggested, set(known[errors.likely].tolist()))
    rows: dict[int, QueueRow] = {}
    for name, ordered in lists.items():
        for row in ordered[:count]:
            if row not in rows:
                rows[row] = writer.row(len(rows) + 1, name, row)
    joint = joint_distribution(errors.counts, np.bincount(y[known], minlength=len(names)))
    return RankedImages(
        class_names=tuple(names),
        n=len(evidence.records),
        n_untested=len(evidence.records) - len(known),
        label_errors=LabelErrorCounts(
            thresholds=tuple(
                round(float(t), 6) if np.isfinite(t) else None for t in errors.thresholds
            ),
            counts=tuple(tuple(row) for row in errors.counts.tolist()),
            likely=int(errors.likely.sum()),
            estimated_share=round(float(1 - np.trace(joint)), 6),
            conflicts=len(evidence.pairs),
        ),
        lists={
            name: QueueList(absent=evidence.ood_absent)
            if name == "ood" and evidence.ood is None
            else QueueList(
                found=len(found),
                shown=sum(row.of_list == name for row in rows.values()),
                score=QUEUE_SCORES[name],
            )
            for name, found in lists.items()
        },
        rows=tuple(rows.values()),
    )


def _far_first(ood: NDArray[np.float64] | None) -> list[int]:
    """Images beyond the limit, the farthest first."""
    if ood is None:
        return []
    far = np.flatnonzero(np.nan_to_num(ood) > 1)
    return [int(row) for row in far[np.argsort(-ood[far], kind="stable")]]


@dataclass(frozen=True, eq=False)
class _RowWriter:
    """Writes an image's row; ``suggested`` holds the tested images only."""

    evidence: LabelEvidence
    partners: Mapping[int, Sequence[tuple[int, str]]]
    suggested: Mapping[int, int]
    likely: set[int]

    def row(self, rank: int, name: ListName, row: int) -> QueueRow:
        """All that the queue says of one image."""
        record, names, p = self.evidence.records[row], self.evidence.class_names, self._p(row)
        partners = [(self.evidence.records[j], what) for j, what in self.partners.get(row, ())]
        best = names[self.suggested[row]] if p else partners[0][0].label
        score = None
        if name == "ood" and self.evidence.ood is not None:
            score = float(self.evidence.ood[row])
        elif p:
            doubt = float(margin_uncertainty(self.evidence.probs[[row]])[0])
            score = doubt if name == "uncertain" else p[best] - p[record.label]
        return QueueRow(
            rank=rank,
            of_list=name,
            image_id=record.image_id,
            path=record.path,
            sha256=record.sha256,
            given=record.label,
            suggested=best,
            score=None if score is None else round(score, 6),
            probabilities={n: round(x, 6) for n, x in p.items()} or None,
            reasons=tuple(self._reasons(row, record.label, best, p)) or (LEAST,),
            same=tuple(SamePicture(path=o.path, label=o.label, what=what) for o, what in partners),
        )

    def _p(self, row: int) -> dict[str, float]:
        """The probabilities by class; empty where no model was tested on the image."""
        p = self.evidence.probs[row].tolist() if row in self.suggested else []
        return dict(zip(self.evidence.class_names, p, strict=bool(p)))

    def _reasons(self, row: int, given: str, best: str, p: Mapping[str, float]) -> Iterator[str]:
        if p and best != given:
            tail = "" if row in self.likely else "; less than usual for that class"
            yield (
                f"probability of {class_title(best)} {p[best]:.2f}, of the given label "
                f"{p[given]:.2f}{tail}"
            )
        for j, what in self.partners.get(row, ()):
            other = self.evidence.records[j]
            yield f"{what} labelled {class_title(other.label)}: {other.path}"
        first, second = sorted(p, key=lambda name: -p[name])[:2] or ("", "")
        if p and p[first] - p[second] < 0.5:
            both = ", ".join(f"{class_title(name)} {p[name]:.2f}" for name in (first, second))
            yield f"undecided: {both}"
        ood = self.evidence.ood
        if ood is not None and np.nan_to_num(ood[row]) > 1:
            yield f"unlike the training images: {ood[row]:.2f} times the accepted distance"


def write_queue(run: RunFolder, queue: Queue, tell: Tell) -> tuple[Path, list[str]]:
    """Write ``queue.json``, ``queue.csv`` and the page.

    Returns:
        The page, and the images that could not be read, which it names without a picture.

    Raises:
        UsageError: The run already has another queue, to which corrections may belong.
    """
    from leukoscope.reporting.pages.relabel import write_relabel_page

    folder = run.path / FOLDER
    there = folder / QUEUE_JSON
    if there.is_file() and Queue.load(there).sha256 != queue.sha256:
        raise UsageError(
            f"{folder} holds another queue, to which corrections may belong",
            hint="move or delete that folder first",
        )
    manifest = RunFiles.open(run.path).manifest
    write_csv(folder / QUEUE_CSV, COLUMNS, (_csv_row(row) for row in queue.rows))
    missing = write_relabel_page(folder / PAGE, queue, manifest, tell)
    queue.save(there)  # last: its presence says "complete"
    return folder / PAGE, missing


def _csv_row(row: QueueRow) -> dict[str, object]:
    p = row.probabilities or {}
    values = row.model_dump(by_alias=True)
    return {
        **{name: values[name] for name in COLUMNS if name in values},
        "score": "" if row.score is None else row.score,
        "p_given": p.get(row.given, ""),
        "p_suggested": p.get(row.suggested, ""),
        "reasons": "|".join(row.reasons),
    }
