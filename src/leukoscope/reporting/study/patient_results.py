"""By patient: what the images of each one say together, and how often that is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from leukoscope.config.metrics.results import Estimate, PatientAnswer, PatientResult
from leukoscope.core.labels import class_title
from leukoscope.reporting.content import (
    RECIPE,
    Block,
    Folded,
    Paragraph,
    Picture,
    Section,
    Table,
    code,
    plain,
    scores,
    table_of,
    text,
    value,
)
from leukoscope.reporting.figures.data import PatientLine, patient_chart
from leukoscope.reporting.formats import interval, plural, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study_files import Study

METHOD_TITLES: Mapping[str, str] = {
    "mean-logit": "mean logit",
    "median-probability": "median probability",
    "vote": "vote of the images",
}
PATIENT_METRICS = ("accuracy", "recall_malignant", "specificity_malignant", "roc_auc", "log_loss")


def subjects(study: Study, gallery: Gallery) -> Section:
    """Results by patient; empty for a study from before these were computed."""
    text, table = patient_results(study)
    blocks: list[Block] = [Paragraph(text)] if text else []
    if table is not None:
        first = _entries(study)[0]
        blocks += [table, _chart(study, gallery, first), _listed(first)]
    return Section("patients", "By patient", blocks)


def patient_results(study: Study) -> tuple[str, Table | None]:
    """How patients were judged, or why they were not, and their results; empty if unknown."""
    entries = _entries(study)
    if entries:
        return _meaning(entries[0]), _results(study, entries)
    found = study.metrics.subjects
    reason = found.inapplicable.rstrip(".") if found else ""
    return f"Results by patient do not apply: {reason}." if reason else "", None


def _entries(study: Study) -> list[PatientResult]:
    found = study.metrics.subjects
    return [entry for entry in found.results if entry.n] if found else []


def _meaning(entry: PatientResult) -> str:
    by_class = ", ".join(f"{class_title(name)} {n}" for name, n in entry.by_class.items())
    text = (
        f"The images of each patient were aggregated to one answer: {plural(entry.n, 'patient')}"
        f" ({by_class}) with {plural(entry.n_images, 'image')}, each tested once by a model "
        "that saw none of that patient. How to aggregate was chosen in each fold by log loss on "
        f"its validation patients, never on the tested ones: {_choice(entry)}."
    )
    if entry.mixed:
        text += f" Left out: {plural(len(entry.mixed), 'patient')} with images of two classes."
    joined = sum("+" in row.patient for row in entry.patients)
    if joined:
        ids = sum(row.patient.count("+") + 1 for row in entry.patients)
        text += (
            f" The data names {ids} ids; {plural(joined, 'patient')} here "
            f"{'stands' if joined == 1 else 'stand'} for ids that share the same cells."
        )
    return text


def _choice(entry: PatientResult) -> str:
    """The chosen methods, and how many patients each choice rests on."""
    chosen = Counter(METHOD_TITLES[fold.method] for fold in entry.folds)
    n = [fold.n_val for fold in entry.folds]
    folds = ", ".join(f"{name} in {plural(k, 'fold')}" for name, k in chosen.items())
    return f"{folds} ({sizes(sorted(n))} validation patients)"


def _results(study: Study, entries: Sequence[PatientResult]) -> Table:
    names = [name for name in PATIENT_METRICS if name in entries[0].metrics]
    return table_of(
        f"Results by patient ({study.level} intervals)", entries,
        RECIPE, *scores(names), value("n patients", "n"),
        note="Intervals count patients: exact (Clopper–Pearson) for proportions, the jackknife "
        "over patients with Student’s t for the others.",
    )  # fmt: skip


def _chart(study: Study, gallery: Gallery, entry: PatientResult) -> Picture:
    names = study.class_names
    two = len(names) == 2
    of = class_title(names[-1]) if two else "the predicted class"
    return draw_patients(
        gallery,
        [_line(row, names) for row in entry.patients],
        names,
        xlabel=f"aggregated probability of {of}",
        caption=f"Each patient’s aggregated probability of {of}, recipe {entry.recipe} "
        f"(n = {len(entry.patients)} patients; in brackets their images). Lines: "
        f"{study.level} bootstrap over the patient’s own images.",
    )


def draw_patients(
    gallery: Gallery,
    lines: Sequence[PatientLine],
    names: Sequence[str],
    *,
    xlabel: str,
    caption: str,
) -> Picture:
    """One line a patient, by true class and probability."""
    lines = sorted(lines, key=lambda line: (names.index(line.true), line.value))
    wrong = sum(not line.right for line in lines)
    return gallery.draw(
        "patients",
        lambda: patient_chart(
            lines, class_names=names, xlabel=xlabel, threshold=0.5 if len(names) == 2 else None
        ),
        caption=caption,
        alt=f"{wrong} of {len(lines)} patients are predicted wrongly; the table lists all.",
    )


def _line(row: PatientAnswer, names: Sequence[str]) -> PatientLine:
    value, low, high = row.probability(row.predicted), row.low, row.high
    if len(names) == 2 and row.predicted != names[-1]:
        value = 1 - value
        low, high = (None, None) if low is None or high is None else (1 - high, 1 - low)
    right = row.predicted == row.true
    return PatientLine(row.patient, row.true, value, low, high, right, row.n_images)


def _listed(entry: PatientResult) -> Table | Folded:
    def probability(row: PatientAnswer) -> str:
        value = row.probability(row.predicted)
        return interval(Estimate(value=value, low=row.low, high=row.high), "share")

    def predicted(row: PatientAnswer) -> str:
        return class_title(row.predicted) + (" ✖" if row.predicted != row.true else "")

    table = table_of(
        f"The patients, recipe {entry.recipe}", entry.patients,
        text("Truth", lambda row: class_title(row.true)),
        code("Patient", "patient"),
        text("Predicted", predicted),
        value("Probability", probability),
        plain("Stable", "stability", "share"),
        plain("Images that agree", "agreement", "share"),
        value("n images", "n_images"),
        note="Probability: of the predicted class, with a bootstrap over the patient’s own images; "
        "it knows nothing of other patients, slides or models. Stable: share of the replicates "
        "with the same answer. ✖ wrong.",
        grouped=True,
    )  # fmt: skip
    n = len(table.rows)
    return table if n <= 40 else Folded(f"All {n} patients", (table,))
