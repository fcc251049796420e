"""Facts about the results: what was measured, with intervals, and what it cannot show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leukoscope.config.metrics.results import Result
from leukoscope.config.robustness import RobustnessFile
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.reporting import result_tables
from leukoscope.reporting.formats import count, metric_title, plural
from leukoscope.reporting.result_tables import in_words, sample, subgroup_tables
from leukoscope.reporting.study import (
    decision_tables,
    examples,
    other_data,
    patient_results,
    shortcuts,
)
from leukoscope.reporting.study.facts import Answer, answer, listed, shown
from leukoscope.reporting.study.results import can_show, cannot_show
from leukoscope.reporting.study_files import Study

EXTERNAL = "external"


def summary(study: Study) -> Answer | None:
    """The verdict as the report prints it."""
    return answer([study.metrics.verdict.headline], "metrics.json")


def intended_use(study: Study) -> Answer | None:
    """What the model card says the model is for."""
    return answer(
        [
            "Research and teaching; not for diagnosis, screening, triage or treatment, nor for "
            "images of another laboratory, stain, microscope or camera.",
        ],
        "model_card.md",
    )


def questions(study: Study) -> Answer | None:
    """The questions that the protocols and probes of this run answer."""
    return answer(can_show(study), "metrics.json", "report.html")


def goal(study: Study) -> Answer | None:
    """Development with internal testing, or external testing."""
    under = ", ".join(protocol_title(name) for name in study.protocols)
    if not under:
        return None
    way = "cross-validation" if study.config.splits.folds > 1 else "one hold-out"
    return answer(
        [
            f"External testing of a model that was there: {under}."
            if EXTERNAL in study.protocols
            else f"Development of a model and internal testing by {way} under: {under}."
        ],
        "metrics.json",
        "config.toml",
    )


def metrics_used(study: Study) -> Answer | None:
    """Names of the metrics of every result."""
    named: dict[str, None] = {}
    for entry in _first(study):
        named.update(dict.fromkeys(_plain(name, study) for name in entry.metrics))
    return answer([f"{listed(named, most=40)}." if named else ""], "metrics.json")


def _plain(name: str, study: Study) -> str:
    for label in study.class_names:
        if name.endswith(f"_{label}"):
            return f"{_title(name.removesuffix(f'_{label}'))} of each class"
    return _title(name)


def _title(metric: str) -> str:
    title = metric_title(metric)
    return title[0].upper() + title[1:]


def uncertainty(study: Study) -> Answer | None:
    """How intervals and comparisons are made."""
    units = dict.fromkeys(e.group_unit for e in study.results if e.group_unit)
    compared = study.metrics.comparisons
    return answer(
        [
            f"{100 * study.confidence:g} % intervals over whole groups ({listed(units)}): of "
            f"metrics by the jackknife with Student's t, wider where folds share training "
            f"{study.row}s; of differences from {count(study.config.bootstrap)} bootstrap "
            "replicates. Intervals from too few groups are marked as unreliable.",
            f"{plural(len(compared), 'paired comparison')} on the same {study.row}s."
            if compared
            else "",
        ],
        "metrics.json",
        "config.toml",
    )


def performance(study: Study) -> Answer | None:
    """Each protocol's headline metrics with intervals."""
    return shown([result_tables.headline(study)], "metrics.json", "report.html")


def internal_testing(study: Study) -> Answer | None:
    """Results on held-out images of the same data set."""
    return None if EXTERNAL in study.protocols else performance(study)


def external_testing(study: Study) -> Answer | None:
    """Results on another data set, where this folder holds any."""
    return performance(study) if EXTERNAL in study.protocols else None


def patients(study: Study) -> Answer | None:
    """Results by patient, or why there are none."""
    text, table = patient_results.patient_results(study)
    files = ("metrics.json", "report.html")
    return Answer(text, files, (table,) if table else ()) if text else None


def rejection(study: Study) -> Answer | None:
    """Test images that the gate declines, and how well it tells synthetic outliers from them."""
    return shown([other_data.rejection_table(study)], "metrics.json", "report.html")


def class_performance(study: Study) -> Answer | None:
    """Each class against the rest, under the harshest protocol."""
    table = result_tables.per_class(study, study.recipes[0])
    if table is None:
        return None
    last = table.rows[-1][0]
    harshest = replace(table, rows=tuple(row for row in table.rows if row[0] == last))
    return shown([harshest, result_tables.malignant(study)], "metrics.json", "report.html")


def failures(study: Study) -> Answer | None:
    """Errors under each protocol, and the most frequent confusion."""
    sentences = []
    for entry in _first(study):
        matrix = np.array(entry.confusion)
        wrong = matrix - np.diag(np.diag(matrix))
        true, called = np.unravel_index(wrong.argmax(), wrong.shape)
        names = [class_title(name) for name in study.class_names]
        sentences.append(
            f"{protocol_title(entry.protocol)}: {count(wrong.sum())} of {count(matrix.sum())} "
            f"wrong, most often {names[true]} called {names[called]} "
            f"({count(wrong[true, called])})."
        )
    shown = sum(e.kind != "right" for e in study.explanations)
    if shown:
        sentences.append(f"{plural(shown, 'wrong prediction')} shown with a heat map.")
    return answer(sentences, "metrics.json", "report.html", *(["explanations/"] if shown else []))


def calibration(study: Study) -> Answer | None:
    """Calibration errors and prediction sets, both fitted on calibration images."""
    tables = (decision_tables.calibration(study), decision_tables.sets(study))
    return shown(tables, "metrics.json", "report.html")


def further(study: Study) -> Answer | None:
    """The remaining metrics of every protocol, calibration errors among them."""
    return shown([result_tables.further(study)], "metrics.json", "report.html")


def robustness(study: Study) -> Answer | None:
    """What changes when the input or the division of the data changes."""
    tables = [shortcuts.numbers(study), result_tables.curve(study)]
    files = ["metrics.json", "report.html"]
    if study.run.robustness.is_file():
        tables.append(other_data.corruption_costs(RobustnessFile.load(study.run.robustness)))
        files.append(study.run.robustness.name)
    return shown(tables, *files)


def heterogeneity(study: Study) -> Answer | None:
    """How results vary over folds, and what is held out as a whole."""
    sentences = []
    for entry in _first(study):
        scores = study.scores(entry.recipe, entry.protocol)
        if scores is None or entry.folds < 2:
            continue
        right = scores.y_pred == scores.y_true
        folds = [float(right[scores.fold == k].mean()) for k in np.unique(scores.fold)]
        sentences.append(
            f"{protocol_title(entry.protocol)} ({sample(entry)}): accuracy by fold "
            f"{100 * min(folds):.1f} to {100 * max(folds):.1f} %."
        )
    return answer(sentences, "predictions.csv", "report.html")


def subgroups(study: Study) -> Answer | None:
    """Results for the values of the manifest's further columns."""
    found = study.metrics.subgroups
    if found is None:
        return None
    files = ("metrics.json", "report.html")
    return Answer(" ".join(in_words(found)), files, tuple(subgroup_tables(found)))


def comparison(study: Study) -> Answer | None:
    """Paired differences on the same images."""
    return shown([result_tables.comparisons(study)], "metrics.json", "report.html")


def explanations(study: Study) -> Answer | None:
    """Which heat maps there are, their heat in leukocytes, and whether they may be believed."""
    shares = [
        e.share_in_leukocytes for e in study.explanations if e.share_in_leukocytes is not None
    ]
    if not study.explanations:
        return None
    inside = (
        f"the share of heat inside segmented leukocytes has the median {np.median(shares):.2f} "
        f"(n = {len(shares)})"
        if shares
        else "their agreement with leukocytes was not measured"
    )
    found = f"{plural(len(study.explanations), 'heat map')} of single test images; {inside}."
    audit = examples.finished_audit(study)
    if audit is None:
        return answer([found], "explanations/explanations.json")
    table, words = examples.audit_table(audit)
    files = ("explanations/explanations.json", "explanations/audit.json")
    return Answer(" ".join((found, *words)), files, (table,))


def limitations(study: Study) -> Answer | None:
    """What must stay open, from what the study did."""
    return answer(cannot_show(study), "model_card.md", "metrics.json")


def _first(study: Study) -> list[Result]:
    """Results of the first recipe, from the mildest protocol on."""
    return [e for e in study.results if e.recipe == study.recipes[0]]
