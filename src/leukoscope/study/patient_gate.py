"""Patients of a study: the limits of new ones, and a sheet of the cells that decided of each.

A patient's images resemble each other in stain and light, so that images of patients behind a gate
say little about those of new ones. Here gates are fitted without a fifth of the patients at a time
and asked about their images, and about each patient as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import DistanceLimit, PatientLimits
from leukoscope.config.explanations import PatientSheet, WeighedCell
from leukoscope.config.recipe import Recipe
from leukoscope.config.stored import save_records
from leukoscope.core.files import write_bytes
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import promised_protocol
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import PATIENT_CELLS, RunFolder
from leukoscope.core.views import plural
from leukoscope.evaluation.calibration.scaling import evidence_weights
from leukoscope.evaluation.gate import (
    GateInputs,
    PatientGate,
    fit_gate,
    largest,
    means_of,
    unseen_distances,
)
from leukoscope.evaluation.ood import fit_threshold
from leukoscope.evaluation.patient_heads import PatientHead
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.background import describe_appearance
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.pipeline.features.patient_store import PatientStore, open_store
from leukoscope.pipeline.patient_fitting import load_head_of
from leukoscope.pipeline.progress import Progress, Tell
from leukoscope.pipeline.rejection import ACCEPT, OUTLIER_IMAGES, make_outliers
from leukoscope.runtime.by_patient import sheet_name
from leukoscope.runtime.cell_sheet import cell_sheet, deciding_cells
from leukoscope.runtime.heatmap import encode_png
from leukoscope.study.final_model import FinalModel, thinned_rows

FOLDS = 5
_FEWEST = 10  # patients; fewer cannot say what new ones look like
_DRAWS = 5  # of some of a patient's images
MOST_PATIENTS = 200
"""Sheets at most; each has eighteen pictures."""


@dataclass(frozen=True)
class UnseenPatients:
    """Images of patients, judged by gates that knew nothing of these.

    Attributes:
        patients: (n,) name of the patient of each image.
        fold: (n,) fold of that patient.
        features: (n, D) by the graph that will serve.
        scores: (n,) largest scaled OOD score.
    """

    patients: NDArray[np.str_]
    fold: NDArray[np.int64]
    features: NDArray[np.float32]
    scores: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n,) what each image counts for."""
        return evidence_weights(self.patients)

    def limits(self, threshold: float) -> tuple[PatientLimits, PatientGate]:
        """What a new patient may be like, and whom it is compared with.

        Args:
            threshold: Largest OOD score of an image that the bundle accepts; the mean of a
                patient's features is that of such images, of all where there are none.
        """
        inside = self.scores <= threshold
        bags, fold, rejected = [], [], []
        for name in np.unique(self.patients):
            own = self.patients == name
            used = own & inside if (own & inside).any() else own
            bags.append(self.features[used])
            fold.append(self.fold[own][0])
            rejected.append(float((~inside[own]).mean()))
        limits = PatientLimits(
            accept=ACCEPT,
            distances=_distance_limits(bags, np.array(fold)),
            rejected=fit_threshold(rejected, accept=ACCEPT),
            n_patients=len(bags),
        )
        return limits, PatientGate.of(means_of(bags))


def _distance_limits(
    bags: Sequence[NDArray[np.float32]], fold: NDArray[np.int64]
) -> tuple[DistanceLimit, ...]:
    """The limit by 1, 2, 4 … of a patient's images, as far as ten patients have so many."""
    rng = np.random.default_rng(0)
    sizes = np.array([len(X) for X in bags])
    found, images = [], 1
    while (sizes >= images).sum() >= _FEWEST:
        drawn = [
            (k, X[rng.choice(len(X), images, replace=False)])
            for k, X in enumerate(bags)
            if len(X) >= images
            for _ in range(_DRAWS)
        ]
        distances = unseen_distances(bags, fold, drawn)
        weights = np.full(len(drawn), 1 / _DRAWS)  # each patient counts once
        limit = fit_threshold(distances, accept=ACCEPT, weights=weights)
        found.append(DistanceLimit(images=images, distance=limit))
        images *= 2
    return tuple(found)


def unseen_patients(
    final: FinalModel,
    outputs: Mapping[str, Mapping[str, NDArray[np.float32]]],
    run_graph: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]],
) -> UnseenPatients | None:
    """OOD scores of images by gates that knew nothing of their patients.

    Each gate is scaled by the images of another fifth of the patients, and chooses its scores by
    outliers as that of the bundle does.

    Args:
        final: The final model, with pixels of ``train`` (thinned) and ``val``.
        outputs: ``features`` and ``logits`` of the same by the graph that will serve.
        run_graph: For the outliers.

    Returns:
        The images with their scores; None with fewer than ten patients.
    """
    seen = _together(final, outputs)
    rows = np.concatenate([thinned_rows(final.rows["train"]), final.rows["val"]])
    records = [final.data.records[row] for row in rows]
    patients = np.array([record.patient_id for record in records])
    fold_of = _folds({record.patient_id: record.label for record in records})
    if len(fold_of) < _FEWEST:
        return None
    fold = np.array([fold_of[name] for name in patients.tolist()])
    val = final.pixels["val"]
    step = max(1, len(val) // OUTLIER_IMAGES)
    _, kinds, made = make_outliers(val[::step][:OUTLIER_IMAGES], final.config.seed)
    outliers = _inputs(made, run_graph(made))
    scores = np.empty(len(rows))
    for k in range(FOLDS):
        out, scaling = fold == k, fold == (k + 1) % FOLDS
        train, own = seen.take(~out & ~scaling), seen.take(scaling)
        gate, _ = fit_gate(train, own, outliers, kinds.tolist(), accept=ACCEPT)
        found = gate.scores(seen.take(out))
        scores[out] = largest(found, list(found))
    return UnseenPatients(patients, fold, seen.features, scores)


def _together(
    final: FinalModel, outputs: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> GateInputs:
    """What gates need of the training images, then of the validation images."""
    parts = ("train", "val")
    images = chain.from_iterable(final.pixels[part] for part in parts)  # a copy would be large
    names = ("features", "logits")
    return _inputs(
        images, {name: np.concatenate([outputs[part][name] for part in parts]) for name in names}
    )


def _inputs(
    images: Iterable[NDArray[np.uint8]], found: Mapping[str, NDArray[np.float32]]
) -> GateInputs:
    """What a gate needs of preprocessed images and what the graph gives for them."""
    described = np.stack([describe_appearance(image) for image in images])
    return GateInputs(described, found["features"], found["logits"])


def _folds(classes: Mapping[str, str]) -> dict[str, int]:
    """Patient → fold; each class is dealt out in turn."""
    order = sorted(classes, key=lambda name: (classes[name], name))
    return {name: place % FOLDS for place, name in enumerate(order)}


def explain_patients(run: RunFolder, tell: Tell) -> None:
    """Write ``explanations/patients/*.png`` and ``explanations/patients.json``.

    The heads are those of the first recipe that held the patients out, under the strictest
    protocol. Nothing is written where a recipe leaves no head, or where the list is there.
    """
    path = run.explanations / PATIENT_CELLS
    files = RunFiles.open(run.path)
    protocol = promised_protocol(fold.protocol for fold in files.splits)
    recipe = files.config.recipes[0]
    if path.is_file() or protocol is None or recipe.inner_folds:
        return
    store = open_store(run, files.manifest, files.config, Progress())
    assert isinstance(store, PatientStore)
    entries: list[PatientSheet] = []
    folds = files.folds_under(protocol)
    for done, fold in enumerate(folds, start=1):
        head = load_head_of(recipe, run.model(recipe.name, protocol, fold.fold))
        if head is None:
            return
        entries += _of_fold(files, store, recipe, fold, head, MOST_PATIENTS - len(entries))
        tell(done, len(folds))
    save_records(path, entries)


def _of_fold(
    files: RunFiles,
    store: PatientStore,
    recipe: Recipe,
    fold: Fold,
    head: PatientHead,
    most: int,
) -> list[PatientSheet]:
    """The entries of the test patients of one fold, whose sheets are written."""
    table = files.fit_predictions(recipe.name, fold.protocol, fold.fold).select(part="test")
    row_of = {record.image_id: row for row, record in enumerate(store.data.records)}
    rows = np.array([row_of[name] for name in table.image_id.tolist()], np.int64)[: max(0, most)]
    if not len(rows):
        return []
    bags = store.bags(recipe, "image", files.config.seed, rows)
    return [
        _of_patient(files, store, recipe, table, place, int(row), head, X)
        for place, (row, X) in enumerate(zip(rows, bags, strict=True))
    ]


def _of_patient(
    files: RunFiles,
    store: PatientStore,
    recipe: Recipe,
    table: PredictionTable,
    place: int,
    row: int,
    head: PatientHead,
    X: NDArray[np.float32],
) -> PatientSheet:
    """Draw one sheet and say what stands on it."""
    names, record = table.class_names, store.data.records[row]
    images = [store.images.data.records[image] for image in store.patients.rows[row]]
    best = int(table.probs[place].argmax())
    p = float(table.probs[place, best])
    cells = deciding_cells(head, X, best)

    def picture(cell: int) -> NDArray[np.uint8]:
        image = decode_image(files.manifest.path_of(images[cell])).image
        return apply_preprocess(image, recipe.preprocess)

    title = (
        f"{record.image_id}: {class_title(names[best])}, p {p:.2f}; truth "
        f"{class_title(record.label)}; {plural(len(images), 'image')}"
    )
    path = files.run.explanations / "patients" / f"{sheet_name(record.image_id)}.png"
    write_bytes(path, encode_png(cell_sheet(title, names[best], cells, picture)))
    return PatientSheet(
        patient=record.image_id,
        recipe=recipe.name,
        protocol=str(table.protocol[place]),
        fold=int(table.fold[place]),
        y_true=record.label,
        y_pred=names[best],
        p=round(p, 6),
        sheet=path.relative_to(files.run.path).as_posix(),
        cells=tuple(
            WeighedCell(
                image_id=images[cell.row].image_id,
                path=images[cell.row].path,
                weight=round(cell.weight, 6),
                contribution=round(cell.contribution, 6),
            )
            for cell in cells
        ),
    )
