"""By patient: what the images of each one say together, and how often that is right.

In a study whose unit is the patient: who they are, and the cells that decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from leukoscope.config.explanations import PatientSheet
from leukoscope.config.metrics.results import Estimate, PatientAnswer, PatientResult
from leukoscope.config.stored import load_records
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import PROTOCOLS, by_column, protocol_title
from leukoscope.core.run_folder import PATIENT_CELLS
from leukoscope.reporting.content import (
    Block,
    Column,
    Folded,
    Panels,
    Paragraph,
    Picture,
    Section,
    Table,
)
from leukoscope.reporting.figures.data import PatientLine, patient_chart
from leukoscope.reporting.formats import count, interval, number, plural, sizes, upper_first
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.record_tables import RECIPE, code, plain, scores, table_of, text, value
from leukoscope.reporting.study_files import PooledScores, Study, inside

METHOD_TITLES: Mapping[str, str] = {
    "mean-logit": "mean logit",
    "median-probability": "median probability",
    "vote": "vote of the images",
}
_OWN_IMAGES = (
    "bootstrap over the patient’s own images or, where all of them vote for one class, the limit "
    "of Clopper and Pearson for so many votes"
)
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
            f"{'stands' if joined == 1 else 'stand'} for ids that share the same cells or "
            "are spelled alike."
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
        note="Intervals count patients: those of Clopper and Pearson for proportions, the "
        "jackknife over patients with Student’s t for the others. Where several folds are pooled, "
        "both allow for the training images that they share, as if there were fewer patients.",
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
        f"{study.level} {_OWN_IMAGES}.",
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
        note=f"Probability: of the predicted class; in brackets, {_OWN_IMAGES}; "
        "it knows nothing of other patients, slides or models. Stable: share of the replicates "
        "with the same answer. ✖ wrong.",
        grouped=True,
    )  # fmt: skip
    n = len(table.rows)
    return table if n <= 40 else Folded(f"All {n} patients", (table,))


BASELINE = "cell-share"
_FOLDED = 40  # patients; longer tables are folded


def tested_patients(study: Study, gallery: Gallery) -> Section:
    """Every test patient, what was answered, and what can be known from so many."""
    recipe = study.recipes[0]
    protocol, scores = study.harshest(recipe)
    if scores is None:
        text = "There are no stored test predictions to look at."
        return Section("patients", "The patients", [Paragraph(text, note=True)])
    blocks: list[Block] = [
        Paragraph(_tested_meaning(study, scores)),
        Paragraph(_known(study, recipe, protocol)),
        Paragraph(_baseline(study, recipe, protocol)),
        _tested_chart(study, gallery, scores, recipe, protocol),
        _tested_listed(study, scores, recipe),
    ]
    shown = [block for block in blocks if not (isinstance(block, Paragraph) and not block.text)]
    return Section("patients", "The patients", shown)


def _images(study: Study) -> Counter[str]:
    """Patient → number of usable images."""
    return Counter(record.patient_id for record in study.manifest.usable)


def _tested_meaning(study: Study, scores: PooledScores) -> str:
    """How a patient was answered, and how many there are."""
    n = Counter(scores.y_true.tolist())
    by_class = ", ".join(f"{class_title(c)} {n[k]}" for k, c in enumerate(study.class_names))
    sizes = sorted(_images(study)[name] for name in scores.image_id)
    each = (
        plural(sizes[0], "image") + " each"
        if sizes[0] == sizes[-1]
        else f"{sizes[0]} to {sizes[-1]} images each (median {sizes[len(sizes) // 2]})"
    )
    return (
        f"{plural(len(scores.image_id), 'patient')} ({by_class}) with {each} were answered "
        "one by one, each by a model that had seen no image of this patient. All images of a "
        "patient carry the patient’s label; which cells are diseased is not known and not used."
    )


def _known(study: Study, recipe: str, protocol: str) -> str:
    """What a result over so many patients allows to expect elsewhere."""
    entry = study.result(recipe, protocol)
    area = None if entry is None else entry.metrics.get("roc_auc")
    if entry is None or area is None:
        return ""
    fewest = min(sum(row) for row in entry.confusion)
    return (
        f"What can be known from {plural(entry.n, 'patient')}, {fewest} of the rarest class: among "
        f"patients of this same source the ROC AUC is {interval(area, 'roc_auc')}. Nothing here "
        "was measured on patients of another hospital, of other years, with another stain or "
        "microscope, where it may lie well below this interval; only their images can tell "
        "(a column `cohort` or `site` in the manifest holds them out as a whole)."
        if not by_column(PROTOCOLS[protocol])
        else f"{upper_first(PROTOCOLS[protocol].setting)} the ROC AUC is "
        f"{interval(area, 'roc_auc')}."
    )


def _baseline(study: Study, recipe: str, protocol: str) -> str:
    """The share of each cell type, as a clinician would count it, beside the model."""
    known = [e for e in study.metrics.probes if (e.probe, e.protocol) == (BASELINE, protocol)]
    entry = study.result(recipe, protocol)
    if not known or entry is None:
        reasons = study.metrics.shortcuts.inapplicable if study.metrics.shortcuts else ()
        reason = next((row.reason for row in reasons if row.probe == BASELINE), "")
        return f"No counts of cell types to compare with: {reason}." if reason else ""
    return (
        "What counting gives: a logistic regression on the share of each cell type, as experts "
        f"named the cells, has a ROC AUC of {interval(known[0].metrics.get('roc_auc'), 'roc_auc')} "
        f"on the same patients, the model {interval(entry.metrics.get('roc_auc'), 'roc_auc')}. It "
        "needs a person who names every cell; the paired test stands with the probes."
    )


def _tested_chart(
    study: Study, gallery: Gallery, scores: PooledScores, recipe: str, protocol: str
) -> Picture:
    """Each patient's probability, by true class."""
    names, images = study.class_names, _images(study)
    two = len(names) == 2
    lines = []
    for name, y, y_pred, p in zip(
        scores.image_id, scores.y_true, scores.y_pred, scores.probs, strict=True
    ):
        value = float(p[-1]) if two else float(p[y_pred])
        right = bool(y == y_pred)
        lines.append(PatientLine(name, names[y], value, None, None, right, images[name]))
    of = class_title(names[-1]) if two else "the predicted class"
    return draw_patients(
        gallery,
        lines,
        names,
        xlabel=f"probability of {of}",
        caption=f"Each patient’s probability of {of}, recipe {recipe}, "
        f"{protocol_title(protocol).lower()} (n = {len(lines)} patients; in brackets their "
        "images).",
    )


def _tested_listed(study: Study, scores: PooledScores, recipe: str) -> Table | Folded:
    """All patients, those of a class by their probability of it."""
    names, images = study.class_names, _images(study)
    order = sorted(
        range(len(scores.image_id)), key=lambda i: (scores.y_true[i], scores.probs[i, -1])
    )
    rows = []
    for i in order:
        y, y_pred = int(scores.y_true[i]), int(scores.y_pred[i])
        rows.append(
            (
                class_title(names[y]),
                scores.image_id[i],
                class_title(names[y_pred]) + ("" if y == y_pred else " ✖"),
                number(float(scores.probs[i, y_pred]), "share"),
                count(images[scores.image_id[i]]),
            )
        )
    columns = (
        Column("Truth"), Column("Patient"), Column("Predicted"),
        Column("Probability", numeric=True), Column("n images", numeric=True),
    )  # fmt: skip
    table = Table(
        f"The patients, recipe {recipe}", columns, tuple(rows),
        note="Probability: of the predicted class, calibrated. ✖ wrong.",
    )  # fmt: skip
    return table if len(rows) <= _FOLDED else Folded(f"All {len(rows)} patients", (table,))


def deciding_cells(study: Study, gallery: Gallery) -> Section:
    """Sheets of the cells that decided about some patients; the folder has those of all."""
    title = "Cells that decided"
    path = study.run.explanations / PATIENT_CELLS
    entries = load_records(PatientSheet, path, "delete it and go on with the study")
    if not entries:
        text = "No sheets of cells were made in this study."
        return Section("cells", title, [Paragraph(text, note=True)])
    blocks: list[Block] = [
        Paragraph(
            "For each test patient the images that moved the answer most, by the model that had "
            "not seen this patient. A cell’s number is the log odds of the answer with all images "
            "minus those without this one: above 0 it made the answer surer than the other cells "
            "alone, below 0 less sure. The numbers do not add up to the answer, and about half are "
            "below 0 even where all cells agree. The weight is its part in the mean. "
            "It tells what the model went by, not which cell is diseased. "
            f"Sheets of {plural(len(entries), 'patient')} are in `explanations/patients/`, all "
            f"numbers in `explanations/{PATIENT_CELLS}`."
        )
    ]
    for words, right in (("Right answers", True), ("Wrong answers", False)):
        own = [e for e in entries if (e.y_true == e.y_pred) == right]
        chosen = sorted(own, key=lambda e: -e.p)[: study.config.explanations]
        found = tuple(p for e in chosen if (p := _sheet(study, gallery, e)) is not None)
        if found:
            blocks.append(Panels(f"{words} (n = {len(found)} of {len(own)} shown)", found))
    return Section("cells", title, blocks)


def _sheet(study: Study, gallery: Gallery, entry: PatientSheet) -> Picture | None:
    path = inside(study.run.path, entry.sheet)
    if path is None:
        return None
    what = (
        f"Patient `{entry.patient}`: true {class_title(entry.y_true)}, predicted "
        f"{class_title(entry.y_pred)} ({number(entry.p, 'share')}), "
        f"{plural(len(entry.cells), 'image')}."
    )
    return gallery.stored(path, caption=what, alt=f"Sheet of cells. {what}")
