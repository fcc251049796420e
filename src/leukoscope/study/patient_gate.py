"""How unlike the training images those of a new patient look: what sets the gate of a bundle.

A patient's images resemble each other in stain and light, so that images of patients behind a gate
say little about those of new ones. Here gates are fitted without a fifth of the patients at a time
and asked about their images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.calibration.scaling import evidence_weights
from leukoscope.evaluation.gate import GateInputs, fit_gate, largest
from leukoscope.imaging.background import describe_appearance
from leukoscope.pipeline.rejection import ACCEPT, OUTLIER_IMAGES, make_outliers
from leukoscope.study.final_model import FinalModel, thinned_rows

FOLDS = 5
_FEWEST = 10  # patients; fewer cannot say what new ones look like


def unseen_scores(
    final: FinalModel,
    outputs: Mapping[str, Mapping[str, NDArray[np.float32]]],
    run_graph: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """OOD scores of images by gates that knew nothing of their patients.

    Each gate is scaled by the images of another fifth of the patients, and chooses its scores by
    outliers as that of the bundle does.

    Args:
        final: The final model, with pixels of ``train`` (thinned) and ``val``.
        outputs: ``features`` and ``logits`` of the same by the graph that will serve.
        run_graph: For the outliers.

    Returns:
        (n,) largest scaled score of each image and (n,) what it counts for; None with fewer than
        ten patients.
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
    return scores, evidence_weights(patients)


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
