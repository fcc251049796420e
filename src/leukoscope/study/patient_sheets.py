"""For each test patient of a study a sheet of the cells that decided, and their list."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import PatientSheet, WeighedCell
from leukoscope.config.recipe import Recipe
from leukoscope.config.stored import save_records
from leukoscope.core.files import write_bytes
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import promised_protocol
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import PATIENT_CELLS, RunFolder
from leukoscope.evaluation.patient_heads import PatientHead
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.pipeline.features.patient_store import PatientStore, open_store
from leukoscope.pipeline.patient_fitting import load_head_of
from leukoscope.pipeline.progress import Progress, Tell
from leukoscope.runtime.by_patient import sheet_name
from leukoscope.runtime.cell_sheet import cell_sheet, deciding_cells
from leukoscope.runtime.heatmap import encode_png

MOST_PATIENTS = 200
"""Sheets at most; each has eighteen pictures."""


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
        f"{class_title(record.label)}; {len(images)} images"
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
