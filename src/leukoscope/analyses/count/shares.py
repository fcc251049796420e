"""From the cells of patients to counts, shares and intervals, as files hold them.

Where experts counted too, their shares stand beside the adjusted ones: agreement by patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukoscope.analyses.count.cells import PatientCells
from leukoscope.config.bundle import BundleRecord
from leukoscope.config.counts import (
    Agreement,
    BlastAgreement,
    BlastShare,
    Call,
    ClassAgreement,
    ClassShare,
    ComparedPatient,
    CountsFile,
    PatientCount,
    Share,
    TruthComparison,
    UnreadImage,
)
from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.files import write_csv
from leukoscope.evaluation.prevalence import PrevalenceModel, Shares
from leukoscope.evaluation.statistics.agreement import bland_altman
from leukoscope.evaluation.statistics.intervals import bootstrap_mean, proportion_interval

BLASTS = (
    "blast", "myeloblast", "lymphoblast", "monoblast", "promonocyte",
    "all", "early_pre_b", "pre_b", "pro_b",
)  # fmt: skip
"""Known classes of cells that count as blasts; those of the public ALL sets are lymphoblasts."""
CONFIDENCE = 0.95
COUNT_COLUMNS = (
    "patient", "class", "cells", "counted_percent", "adjusted_percent", "low_percent",
    "high_percent",
)  # fmt: skip
PATIENT_COLUMNS = (
    "patient", "images", "cells", "rejected", "excluded", "unreadable", "without_cells",
    "corrected", "blasts", "blasts_counted_percent", "blasts_adjusted_percent",
    "blasts_low_percent", "blasts_high_percent", "blasts_against_threshold",
)  # fmt: skip
CELL_COLUMNS = (
    "patient", "cell_id", "path", "box", "predicted", "p", "decision", "corrected", "counted_as",
    "truth",
)  # fmt: skip
SAMPLE_ONLY = (
    "This bundle does not know how its model errs on new patients: shares are as counted, and the "
    "intervals hold the error of the sample alone. Export it again to have them adjusted."
)
NO_PATIENTS = (
    "The confusions were measured on images of patients that the models had seen: how much they "
    "differ between patients is not known, and was taken to be anything from none to strong."
)
HELD_OUT = (
    "Each patient was counted by the models of the fold that held it out, and adjusted by the "
    "confusions of the patients of the other folds. No cell was rejected: the gate is the bundle's."
)
FIELDS = (
    "This bundle names fields of view or tiles of them, not single cells: shares are shares of "
    "images, not a differential of cells."
)
_OF_FIELDS = frozenset(("healthy", "benign", "early_pre_b", "pre_b", "pro_b", "all"))


@dataclass(frozen=True)
class Question:
    """What is asked of the counts.

    Attributes:
        class_names: Of the bundle.
        blasts: Classes that count as blasts; empty asks nothing of them.
        threshold: Share of blasts, 0 to 1, that matters.
    """

    class_names: tuple[str, ...]
    blasts: tuple[str, ...]
    threshold: float

    @property
    def blast_places(self) -> list[int]:
        """Their numbers in the order of the classes."""
        return [self.class_names.index(name) for name in self.blasts]


def blast_classes(class_names: Sequence[str], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Classes that count as blasts: those chosen, else the known ones.

    Raises:
        UnknownNameError: A chosen class is none of the bundle's.

    >>> blast_classes(["blast", "monocyte"], None), blast_classes(["aml", "apl"], None)
    (('blast',), ())
    """
    for name in chosen or ():
        if name not in class_names:
            raise UnknownNameError("class of the bundle", name, class_names)
    wanted = BLASTS if chosen is None else chosen
    return tuple(name for name in class_names if name in wanted)


def patient_shares(one: PatientCells, model: PrevalenceModel, question: Question) -> Shares | None:
    """Adjusted shares of one patient; None without a cell that counts."""
    names = question.class_names
    open_cells = [c.probabilities for c in one.cells if c.counts and not c.corrected]
    known = Counter(cell.corrected for cell in one.cells if cell.corrected)
    if not open_cells and not known:
        return None
    return model.shares(
        np.array(open_cells).reshape(-1, len(names)), [known[name] for name in names]
    )


def patient_entry(one: PatientCells, shares: Shares | None, question: Question) -> PatientCount:
    """What ``counts.json`` holds of one patient.

    Args:
        one: Their cells.
        shares: Adjusted; None where they cannot be.
        question: What is asked.
    """
    counted = [cell for cell in one.cells if cell.counts]
    number = Counter(cell.named for cell in counted)
    n, names = len(counted), question.class_names

    def entry(classes: Sequence[str]) -> Share:
        cells = sum(number[name] for name in classes)
        return _share(cells, n, [names.index(name) for name in classes], shares)

    return PatientCount(
        patient=one.patient,
        images=len({cell.path for cell in one.cells}) + len(one.unreadable) + len(one.empty),
        cells=n,
        rejected=sum(
            c.decision == "reject" and not c.corrected and not c.excluded for c in one.cells
        ),
        excluded=sum(cell.excluded for cell in one.cells),
        unreadable=tuple(
            UnreadImage(path=lost.path, reason=lost.reason) for lost in one.unreadable
        ),
        without_cells=tuple(one.empty),
        corrected=sum(bool(cell.corrected) or cell.excluded for cell in one.cells),
        changed=sum(
            cell.excluded or (bool(cell.corrected) and cell.corrected != cell.predicted)
            for cell in one.cells
        ),
        classes=tuple(ClassShare(class_name=name, **dict(entry([name]))) for name in names),
        blasts=_blasts(entry(question.blasts), shares, question) if question.blasts else None,
    )


def _blasts(share: Share, shares: Shares | None, question: Question) -> BlastShare:
    """The share of blasts, and its side of the threshold."""
    above = None
    if shares is not None:
        above = round(shares.probability_above(question.blast_places, question.threshold), 4)
    return BlastShare(**dict(share), call=_call(share, question.threshold), p_above=above)


def _share(cells: int, n: int, places: Sequence[int], shares: Shares | None) -> Share:
    """Shares from 0 to 1; without adjusted ones the interval is that of the sample."""
    if n == 0:
        return Share(cells=cells, counted=None, adjusted=None, low=None, high=None)
    if shares is None:
        adjusted, (low, high) = None, proportion_interval(cells, n)
    else:
        adjusted = round(float(shares.value[places].sum()), 5)
        low, high = shares.interval(places, CONFIDENCE)
    return Share(
        cells=cells,
        counted=round(cells / n, 5),
        adjusted=adjusted,
        low=round(low, 5),
        high=round(high, 5),
    )


def _call(blasts: Share, threshold: float) -> Call:
    """On which side of the threshold the whole interval lies."""
    if blasts.low is None or blasts.high is None:
        return "no cells"
    if blasts.low >= threshold:
        return "above"
    return "below" if blasts.high < threshold else "cannot be told"


def counts_fields(record: BundleRecord, patients: Sequence[PatientCells]) -> bool:
    """Whether what is counted are fields of view or tiles, not cells.

    A single cell that is not cut out on black looks like a field: the classes tell, and whether
    large images were cut into tiles.
    """
    if record.field is None or record.field.shows == "cell":
        return False
    tiles = any(cell.box is not None for one in patients for cell in one.cells)
    return tiles or seen_as_fields(record.class_names)


def seen_as_fields(class_names: Sequence[str]) -> bool:
    """Whether all classes are such as a whole field of view is given.

    >>> seen_as_fields(["benign", "pre_b"]), seen_as_fields(["blast", "monocyte"])
    (True, False)
    """
    return _OF_FIELDS.issuperset(class_names)


def notes_of(record: BundleRecord | None, *, adjusted: bool, fields: bool) -> list[str]:
    """What limits these counts, in sentences; ``record`` is None where no bundle counted."""
    notes = []
    if fields:
        notes.append(FIELDS)
    if not adjusted:
        notes.append(SAMPLE_ONLY)
    elif record and record.confusions is not None and record.confusions.unit == "image":
        notes.append(NO_PATIENTS)
    return notes


def save_counts(out: Path, result: CountsFile, patients: Sequence[PatientCells]) -> None:
    """Write ``counts.json``, ``counts.csv``, ``patients.csv`` and ``cells.csv``."""
    result.save(out / "counts.json")
    write_csv(out / "counts.csv", COUNT_COLUMNS, _count_rows(result))
    write_csv(out / "patients.csv", PATIENT_COLUMNS, map(_patient_row, result.patients))
    write_csv(out / "cells.csv", CELL_COLUMNS, _cell_rows(patients))


def _percent(share: Share, prefix: str = "") -> dict[str, object]:
    found = share.model_dump(include={"counted", "adjusted", "low", "high"})
    return {
        f"{prefix}{name}_percent": "" if value is None else round(100 * value, 2)
        for name, value in found.items()
    }


def _count_rows(result: CountsFile) -> list[dict[str, object]]:
    return [
        {"patient": one.patient, "class": e.class_name, "cells": e.cells, **_percent(e)}
        for one in result.patients
        for e in one.classes
    ]


def _patient_row(one: PatientCount) -> dict[str, object]:
    shown = {*PATIENT_COLUMNS[:3], "rejected", "excluded", "corrected"}
    row: dict[str, object] = one.model_dump(include=shown)
    row |= {"unreadable": len(one.unreadable), "without_cells": len(one.without_cells)}
    if one.blasts is not None:
        row |= {"blasts": one.blasts.cells, **_percent(one.blasts, "blasts_")}
        row["blasts_against_threshold"] = one.blasts.call
    return row


def _cell_rows(patients: Sequence[PatientCells]) -> list[dict[str, object]]:
    return [
        {
            "patient": one.patient,
            "cell_id": cell.cell_id,
            "path": cell.path,
            "box": "" if cell.box is None else " ".join(map(str, cell.box)),
            "predicted": cell.predicted,
            "p": round(max(cell.probabilities), 6),
            "decision": cell.decision,
            "corrected": cell.corrected or ("(excluded)" if cell.excluded else ""),
            "counted_as": cell.named if cell.counts else "",
            "truth": cell.truth,
        }
        for one in patients
        for cell in one.cells
    ]


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
