"""Adjusted shares beside the shares that experts counted: agreement by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from leukoscope.analyses.count.cells import PatientCells
from leukoscope.analyses.count.shares import CONFIDENCE, Question
from leukoscope.config.counts import (
    Agreement,
    BlastAgreement,
    ClassAgreement,
    ComparedPatient,
    TruthComparison,
)
from leukoscope.core.errors import DataError
from leukoscope.evaluation.prevalence import Shares
from leukoscope.evaluation.statistics.agreement import bland_altman
from leukoscope.evaluation.statistics.intervals import bootstrap_mean


def agreement_with_truth(
    patients: Sequence[PatientCells], found: Mapping[str, Shares | None], question: Question
) -> TruthComparison:
    """Predicted against counted shares, for ``counts.json``.

    The counted share of a class is that among all labelled cells of the patient, rejected,
    unreadable and unknown ones included: leaving cells out may not flatter the model.

    Args:
        patients: Their cells, with the classes that the data set gives them.
        found: Adjusted shares by patient.
        question: Classes and blasts.

    Raises:
        DataError: No patient has both labelled cells and shares.
    """
    names = question.class_names
    compared = [one for one in patients if one.truth and found.get(one.patient) is not None]
    if not compared:
        raise DataError("no patient has labelled cells that could be counted")
    labels: Counter[str] = Counter()
    for one in compared:
        labels.update(one.truth)
    if not set(labels) & set(names):
        raise DataError(
            f"the data set's labels are {', '.join(sorted(labels))}; the bundle names "
            f"{', '.join(names)}",
            hint="name the labels that mean the same with --class LABEL=CLASS",
        )
    entries = tuple(
        ClassAgreement(class_name=name, **dict(_compared(compared, found, question, [name])[0]))
        for name in names
    )
    blasts = None
    if question.blasts:
        measures, points = _compared(compared, found, question, question.blasts)
        blasts = BlastAgreement(**dict(measures), points=points)
    return TruthComparison(
        patients=len(compared),
        cells=sum(labels.values()),
        other_labels={name: n for name, n in sorted(labels.items()) if name not in names},
        held=round(float(np.mean([entry.held for entry in entries])), 4),
        held_cells=round(float(np.mean([entry.held_cells for entry in entries])), 4),
        classes=entries,
        blasts=blasts,
    )


def _compared(
    patients: Sequence[PatientCells],
    found: Mapping[str, Shares | None],
    question: Question,
    classes: Sequence[str],
) -> tuple[Agreement, tuple[ComparedPatient, ...]]:
    """Agreement on the share of some classes together, and both shares of each patient."""
    places = [question.class_names.index(name) for name in classes]
    rows = []
    for one in patients:
        shares = found[one.patient]
        assert shares is not None
        truth = sum(one.truth.get(name, 0) for name in classes) / sum(one.truth.values())
        low, high = shares.interval(places, CONFIDENCE)
        inner = shares.interval(places, CONFIDENCE, of_cells=True)
        value = float(shares.value[places].sum())
        rows.append((truth, value, low, high, *inner))
    truth, value, low, high, inner_low, inner_high = np.array(rows).T
    limits = {
        name: round(x, 5) if np.isfinite(x) else None
        for name, x in bland_altman(value, truth).items()
    }
    agreement = Agreement(
        mean_absolute_error=bootstrap_mean(np.abs(value - truth)).estimate,
        **limits,
        held=round(float(((low <= truth) & (truth <= high)).mean()), 4),
        held_cells=round(float(((inner_low <= truth) & (truth <= inner_high)).mean()), 4),
    )
    points = tuple(
        ComparedPatient(
            patient=one.patient,
            truth=round(row[0], 5),
            value=round(row[1], 5),
            low=round(row[2], 5),
            high=round(row[3], 5),
        )
        for one, row in zip(patients, rows, strict=True)
    )
    return agreement, points
