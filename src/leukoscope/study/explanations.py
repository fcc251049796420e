"""Grad-CAM panels of right and wrong test predictions, beside the original."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.files import write_bytes, write_json
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess, normalise
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.runtime.heatmap import encode_png, triptych
from leukoscope.study.protocols import UNITS


@dataclass(frozen=True)
class Panel:
    """One explained test prediction.

    Attributes:
        image_id: Which image.
        path: Its file below the data's root.
        protocol: Under which protocol it was held out.
        fold: In which fold.
        y_true: True class.
        y_pred: Predicted class.
        p: Its calibrated probability.
        kind: ``right`` or ``wrong``.
        panel: The figure's file below the study's folder.
        share_in_leukocytes: Share of the heat inside segmented leukocytes; None where none was
            found, or where the heat map is empty.
        area_of_leukocytes: Share of the field that they cover: what heat spread evenly would give.
    """

    image_id: str
    path: str
    protocol: str
    fold: int
    y_true: str
    y_pred: str
    p: float
    kind: str
    panel: str
    share_in_leukocytes: float | None
    area_of_leukocytes: float


def explain_study(
    run: RunFolder,
    manifest: Manifest,
    config: StudyConfig,
    progress: Callable[[int, int], None],
    *,
    protocol: str | None = None,
    recipe: str | None = None,
) -> list[Panel]:
    """Draw panels for ``config.explanations`` right and as many wrong test predictions.

    The right ones are the median in confidence of each class in turn, not the prettiest; the wrong
    ones are those that were held with the greatest confidence.

    Args:
        run: The study's folder, with predictions and checkpoints.
        manifest: Where the images lie.
        config: How many panels.
        progress: Told as panels are drawn.
        protocol: Default: the first that applies.
        recipe: Default: the study's first.

    Raises:
        UnknownNameError: The study has no such recipe or protocol.
    """
    table = PredictionTable.load(run.predictions)
    recipe = recipe or config.recipes[0].name
    protocol = protocol or next((n for n in config.protocols if n in set(table.protocol)), "")
    for kind, name, choices in (
        ("recipe", recipe, {r.name for r in config.recipes}),
        ("protocol", protocol, set(table.protocol) & set(UNITS)),
    ):
        if name not in choices:
            raise UnknownNameError(f"{kind} of {run.path}", name, choices)
    chosen = table.select(recipe=recipe, protocol=protocol, part="test", input="image")
    rows = _choose(chosen, config.explanations)
    folder = run.explanations
    if folder.is_dir():
        shutil.rmtree(folder)
    panels = []
    for done, row in enumerate(rows, start=1):
        panels.append(_draw(run, manifest, recipe, chosen, row))
        progress(done, len(rows))
    write_json(folder / "explanations.json", [asdict(panel) for panel in panels])
    return panels


def _choose(table: PredictionTable, count: int) -> list[int]:
    predicted = table.probs.argmax(axis=1)
    confidence = table.probs.max(axis=1)
    right: list[int] = []
    per_class = []
    for label in range(len(table.class_names)):
        rows = np.flatnonzero((predicted == label) & (table.y_true == label))
        if len(rows) == 0:
            continue
        middle = np.argsort(np.abs(confidence[rows] - np.median(confidence[rows])), kind="stable")
        per_class.append(list(rows[middle]))
    while len(right) < count and any(per_class):
        for rows_of_class in per_class:
            if rows_of_class and len(right) < count:
                right.append(int(rows_of_class.pop(0)))
    wrong = np.flatnonzero(predicted != table.y_true)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [*right, *(int(row) for row in worst)]


def _draw(
    run: RunFolder, manifest: Manifest, recipe: str, table: PredictionTable, row: int
) -> Panel:
    import torch

    from leukoscope.learning.checkpoint import load_checkpoint
    from leukoscope.learning.gradcam import grad_cam

    image_id, fold = str(table.image_id[row]), int(table.fold[row])
    record = next((r for r in manifest.images if r.image_id == image_id), None)
    if record is None:
        raise DataError(f"{run.predictions}: image {image_id} is not in the manifest")
    network, meta = load_checkpoint(run.model(recipe, str(table.protocol[row]), fold))
    image = decode_image(manifest.path_of(record)).image
    shown = apply_preprocess(image, meta.recipe.preprocess)
    target = int(table.probs[row].argmax())
    batch = torch.from_numpy(normalise(shown[None], meta.recipe.preprocess))
    heat = grad_cam(network, batch, [target])[0]
    cells = segment_leukocytes(shown).cell
    wide = _upsample(heat, shown.shape[0])
    total = float(wide.sum())
    y_true, y_pred = table.class_names[table.y_true[row]], table.class_names[target]
    kind = "right" if y_true == y_pred else "wrong"
    p = float(table.probs[row, target])
    name = f"{kind}-{y_true}-{image_id}.png"
    title = f"{CLASSES[y_true].title}; predicted {CLASSES[y_pred].title}, p {p:.2f}"
    write_bytes(run.explanations / name, encode_png(triptych(shown, heat, title)))
    return Panel(
        image_id=image_id,
        path=record.path,
        protocol=str(table.protocol[row]),
        fold=fold,
        y_true=y_true,
        y_pred=y_pred,
        p=round(p, 4),
        kind=kind,
        panel=f"explanations/{name}",
        share_in_leukocytes=round(float(wide[cells].sum()) / total, 4)
        if total > 0 and cells.any()
        else None,
        area_of_leukocytes=round(float(cells.mean()), 4),
    )


def _upsample(heat: np.ndarray, size: int) -> np.ndarray:
    import cv2

    return cv2.resize(heat.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
