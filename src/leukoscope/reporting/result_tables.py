"""Tables of what was measured; every number is written by :mod:`leukoscope.reporting.formats`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from leukoscope.config.comparison import PairedTest
from leukoscope.config.ensemble import EnsembleTest
from leukoscope.config.metrics.decisions import CalibrationResult
from leukoscope.config.metrics.other_data import Subgroup, SubgroupColumn, Subgroups
from leukoscope.config.metrics.results import (
    Comparison,
    Disagreement,
    Estimate,
    Hierarchy,
    NextUnit,
    ProbeResult,
    Result,
    Side,
)
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import WORDS, protocol_title
from leukoscope.evaluation.verdict.sentences import join, only_too_few
from leukoscope.reporting.content import Block, Folded, Paragraph, Table
from leukoscope.reporting.formats import (
    DASH,
    ValueOrEstimate,
    count,
    difference,
    interval,
    metric_title,
    number,
    p_value,
    plural,
)
from leukoscope.reporting.record_tables import (
    N_IMAGES,
    PROTOCOL,
    RECIPE,
    Field,
    code,
    each,
    member,
    n_rows,
    scores,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.study_files import Study

HEADLINE_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc")
FURTHER_METRICS = ("weighted_f1", "weighted_precision", "pr_auc", "log_loss", "brier", "ece")
MALIGNANT_METRICS = ("recall_malignant", "specificity_malignant", "roc_auc_malignant")
CLASS_METRICS = ("precision", "recall", "specificity", "f1", "roc_auc")
UNDEFINED = "— : undefined, because none has the class or none was called it."
NO_PROBABILITIES = "ROC AUC needs probabilities; here only the predicted classes are known."
_NOTE = (
    "Intervals resample whole groups; those of different values overlap or not for many reasons, "
    "so only the test says whether the accuracy differs. It deals whole groups among the values "
    "(within the classes, where each group has one), allows for classes that are harder, and is "
    "corrected for all columns (Holm). A ROC AUC needs {row}s of every class, in several groups."
)


def sample(entry: Result | ProbeResult) -> str:
    """How many images in how many groups, e.g. ``3,256 images in 24 acquisition clusters``."""
    if entry.n_groups == entry.n:
        return f"{count(entry.n)} {entry.row}s"
    return f"{count(entry.n)} {entry.row}s in {_groups(entry)}"


def protocol_cell(study: Study, entry: Result | CalibrationResult) -> str:
    """Protocol, and the recipe where the study has several."""
    title = protocol_title(entry.protocol)
    return f"{title} · {entry.recipe}" if len(study.recipes) > 1 else title


def protocol_field(study: Study) -> Field:
    """The column of :func:`protocol_cell`."""
    return text("Protocol", lambda e: protocol_cell(study, e))


def headline(study: Study) -> Table:
    """Protocol by metric, the table that a reader sees first, with what the next unit may get."""
    if not any(isinstance(entry.next_unit, NextUnit) for entry in study.results):
        return _by_metric(study, HEADLINE_METRICS, f"Results on test {study.row}s")
    if study.row == "patient":
        return _by_metric(
            study, HEADLINE_METRICS, "Results on test patients",
            value(f"Next {_next_units(study)}", next_unit),
            note=f"In brackets: where the mean lies, with {study.level} confidence. Expected on "
            "the next patients: which share of so many new ones is called rightly, with that "
            "probability, as far as they are like those tested (beta-binomial). Patients of "
            "another hospital, years, stain or microscope are not like them.",
        )  # fmt: skip
    return _by_metric(
        study, HEADLINE_METRICS, f"Results on test {study.row}s",
        value("Next patient or cluster", next_unit),
        note=f"In brackets: where the mean lies, with {study.level} confidence. Expected on the "
        "next patient or cluster: where the accuracy on one new one lies with that probability, as "
        "far as new ones are like those tested (beta-binomial). It is wider, and does not shrink "
        "with more of them.",
    )  # fmt: skip


def _next_units(study: Study) -> str:
    """Of how many new patients the forecast is."""
    found = (entry.next_unit for entry in study.results)
    return next((one.unit for one in found if isinstance(one, NextUnit)), "patients")


def next_unit(entry: Result) -> str:
    """The accuracy to expect on the next patient or cluster, e.g. ``91.0 % (40.0–100.0)``."""
    found = entry.next_unit
    return interval(found, "accuracy") if isinstance(found, NextUnit) else DASH


def further(study: Study) -> Table:
    """The remaining overall metrics."""
    return _by_metric(study, FURTHER_METRICS, "Further metrics")


def malignant(study: Study) -> Table | None:
    """The two branches of the hierarchy, where the classes stand on both."""
    if not any(MALIGNANT_METRICS[0] in entry.metrics for entry in study.results):
        return None
    return _by_metric(study, MALIGNANT_METRICS, "Malignant or not")


def _by_metric(
    study: Study, metrics: Sequence[str], what: str, *further: Field, note: str = ""
) -> Table:
    return table_of(
        f"{what} ({study.level} intervals)", study.results,
        protocol_field(study), *scores(metrics), *further, n_rows(study.row),
        text("n groups", _groups),
        note=note,
    )  # fmt: skip


def _groups(entry: Result | ProbeResult) -> str:
    return plural(entry.n_groups, entry.group_unit or "group")


def levels(study: Study) -> Table | None:
    """Malignant or not, and which subtype if malignant; None where there is one level only."""
    known = {(e.recipe, e.protocol): e for e in study.metrics.hierarchy}
    found = [
        known[key] for entry in study.results if (key := (entry.recipe, entry.protocol)) in known
    ]
    if not any(entry.subtype for entry in found):
        return None

    def binary(metric: str) -> Callable[[Hierarchy], str]:
        return lambda e: interval(e.binary.metrics.get(metric), metric)

    def subtype(metric: str) -> Callable[[Hierarchy], str]:
        return lambda e: interval(e.subtype.metrics.get(metric) if e.subtype else None, metric)

    return table_of(
        f"The two levels of the hierarchy ({study.level} intervals)", found,
        protocol_field(study),
        value("Malignant or not: accuracy", binary("accuracy")),
        value("Its log loss", binary("log_loss")),
        value("Subtype if malignant: accuracy", subtype("accuracy")),
        value("Its macro F1", subtype("macro_f1")),
        value("Both steps right", lambda e: interval(e.two_step_accuracy, "accuracy")),
        value(f"n {study.row}s", lambda e: count(e.binary.n)),
        value("n malignant", lambda e: count(e.subtype.n if e.subtype else None)),
        note="P(malignant) is the sum over the malignant classes; P(subtype | malignant) is "
        f"measured on the truly malignant {study.row}s. Both steps right: first malignant or not "
        "at 0.5, then the most probable subtype.",
    )  # fmt: skip


def protocols(study: Study) -> Table:
    """What each protocol holds out."""
    return table_of(
        "Protocols that apply, from the mildest to the harshest", study.protocols,
        text("Protocol", protocol_title),
        code("Name in files", str),
        text("The question", lambda p: WORDS[p].question if p in WORDS else DASH),
    )  # fmt: skip


def inapplicable(study: Study) -> Table | None:
    """Protocols that the data cannot support, with the reasons."""
    return table_if_any(
        "Protocols that do not apply to this data", study.metrics.inapplicable,
        PROTOCOL, code("Name in files", "protocol"), text("Why not", "reason"),
    )  # fmt: skip


FEW_GROUPS_NOTE = "“Too few groups”: else it would be called better or worse. "


def who_is_better(entry: Comparison | PairedTest | EnsembleTest, confidence: float) -> str:
    """What a paired test says of the first, and whether only the number of groups is against it."""
    few = only_too_few(entry.difference, entry.p_holm, confidence)
    return "too few groups" if few else entry.verdict


def comparisons(study: Study) -> Table | None:
    """Paired differences on the same images."""
    return table_if_any(
        f"Paired comparisons on the same {study.row}s ({study.level} intervals)",
        study.metrics.comparisons,
        text("A", lambda e: _side(study, e.a)),
        text("B", lambda e: _side(study, e.b)),
        text("Metric", lambda e: metric_title(e.metric)),
        value("A − B", lambda e: difference(e.difference, e.metric)),
        value("p", lambda e: p_value(e.p)),
        value("p, Holm", lambda e: p_value(e.p_holm)),
        text("A is", lambda e: who_is_better(e, study.confidence)),
        value("Right alone, A : B", lambda e: _pairs(e.pairs)[0]),
        value("Effect g", lambda e: _pairs(e.pairs)[1]),
        value("p, McNemar / DeLong", lambda e: _pairs(e.pairs)[2]),
        n_rows(study.row),
        note="The interval resamples whole groups; p is that of a two-sided exchange test: whole "
        "groups swap the predictions of A and B (Noreen 1989). Holm’s correction for all "
        "comparisons of one question: recipes under one protocol, probes under one protocol, the "
        "random split against every other. A is better or worse where the interval is reliable and "
        f"leaves 0 out and the corrected p is below {1 - study.confidence:.2g}. "
        f"{FEW_GROUPS_NOTE}Right "
        f"alone: {study.row}s that only A, only B has right; g is A’s share of them minus ½ (from "
        ".05 small, .15 medium, .25 large; Cohen 1988). The exact tests take "
        f"{study.row}s for independent and are made only where no two {study.row}s share a group; "
        "DeLong’s only for two classes.",
    )


def _pairs(found: Disagreement | None) -> tuple[str, str, str]:
    """Disagreements, their effect, and the exact tests where they were made."""
    if found is None:
        return DASH, DASH, DASH
    values = (found.mcnemar_p, None if found.delong is None else found.delong.p)
    effect = DASH if found.effect is None else f"{found.effect:+.2f}".replace("-", "−")
    alone = f"{found.only_first_right} : {found.only_second_right}"
    tests = DASH if values == (None, None) else " / ".join(map(p_value, values))
    return alone, effect, tests


def _side(study: Study, side: Side) -> str:
    who = side.recipe if len(study.recipes) > 1 else "the model"
    if side.input != "image":
        who = f"probe {side.input}"
    return f"{who}; {protocol_title(side.protocol).lower()}"


def curve(study: Study) -> Table | None:
    """Accuracy over the number of acquisition clusters."""
    return table_if_any(
        "Accuracy over the number of acquisition clusters", study.metrics.curve,
        RECIPE, value("Clusters", "clusters"),
        *scores(("accuracy", "balanced_accuracy"), member), N_IMAGES,
    )  # fmt: skip


def per_class(study: Study, recipe: str) -> Table | None:
    """Precision, recall, specificity, F1 and AUC of each class under each protocol."""
    found = [
        (entry, k, name)
        for entry in study.results
        if entry.recipe == recipe
        for k, name in enumerate(study.class_names)
    ]
    made = class_table(
        f"Each class against the rest, recipe {recipe} ({study.level} intervals)",
        [(e.protocol, name, sum(e.confusion[k]), e.metrics) for e, k, name in found],
        study.row,
    )
    return made if found else None


def class_table(
    caption: str,
    rows: Sequence[tuple[str, str, int, Mapping[str, ValueOrEstimate]]],
    counted: str = "image",
) -> Table:
    """Each class against the rest.

    Args:
        caption: Of the table.
        rows: ``(protocol, class, how many are of it, metrics)``.
        counted: What these are: ``image`` or ``patient``.
    """
    # Where only classes were predicted, what needs probabilities is in no row.
    measured = [m for m in CLASS_METRICS if any(f"{m}_{row[1]}" in row[3] for row in rows)]
    measured = measured or list(CLASS_METRICS)
    made = table_of(
        caption, rows,
        text("Protocol", lambda row: protocol_title(row[0])),
        text("Class", lambda row: class_title(row[1])),
        value(f"n {counted}s", lambda row: count(row[2])),
        *each(
            measured, metric_title,
            lambda row, m: interval(row[3].get(f"{m}_{row[1]}"), m),
        ),
        grouped=True,
    )  # fmt: skip
    notes = [
        UNDEFINED if any(DASH in row for row in made.rows) else "",
        "" if "roc_auc" in measured else NO_PROBABILITIES,
        made.note,
    ]
    return replace(made, note=" ".join(note for note in notes if note))


def confusion(study: Study, entry: Result) -> Table:
    """One confusion matrix as counts with the share of each row."""

    def share(n: int, line: Sequence[int]) -> str:
        return f"{n:,} ({number(n / sum(line), 'share')})" if sum(line) else DASH

    return table_of(
        f"Confusion matrix, {protocol_title(entry.protocol).lower()}, recipe "
        f"{entry.recipe} ({sample(entry)}); rows true, columns predicted",
        list(zip(study.class_names, entry.confusion, strict=True)),
        text("True", lambda row: class_title(row[0])),
        *each(
            range(len(study.class_names)),
            lambda k: f"→ {class_title(study.class_names[k])}",
            lambda row, k: share(row[1][k], row[1]),
        ),
        value(f"n {study.row}s", lambda row: count(sum(row[1]))),
    )


def subgroup_blocks(found: Subgroups) -> list[Block]:
    """What the tests say, a folded table a column, and how to read both."""
    divided = [column for column in found.columns if column.groups]
    folded = [Folded(f"By {column.column}", (_table(found, column),)) for column in divided]
    return [
        *map(Paragraph, in_words(found)),
        *folded,
        Paragraph(_NOTE.format(row=found.row), note=True),
    ]


def in_words(found: Subgroups) -> Iterator[str]:
    """What the tests say: a sentence for each column that differs, one for all others."""
    divided = [column for column in found.columns if column.groups]
    for column in divided:
        if column.differs:
            listed = "; ".join(
                f"{group.value} {interval(group.metrics.get('accuracy'), 'accuracy')}, "
                f"n = {group.n}"
                for group in column.groups
            )
            yield (
                f"The accuracy differs by {column.column} (p {p_value(column.p)}, corrected "
                f"{p_value(column.p_holm)}): {listed}."
            )
    alike = [column.column for column in divided if column.differs is False]
    if alike:
        level = f"{1 - found.confidence:.2g}"
        yield f"No difference of the accuracy was shown by {join(alike)} (corrected p ≥ {level})."
    untested = [column.column for column in divided if column.differs is None]
    if untested:
        yield (
            f"Nothing can be tested by {join(untested)}: the values cannot be told from the "
            "classes or the groups."
        )
    for column in found.columns:
        if column.reason:
            yield f"{column.column} makes no subgroups: {column.reason}."


def subgroup_tables(found: Subgroups) -> list[Table]:
    """A table a column that was divided."""
    return [_table(found, column) for column in found.columns if column.groups]


def _with_limits(group: Subgroup, metric: str) -> Estimate | None:
    """A metric that has an interval: of one or two groups a value alone would say too much."""
    found = group.metrics.get(metric)
    return found if found is not None and found.low is not None else None


def _table(found: Subgroups, column: SubgroupColumn) -> Table:
    def classes(group: Subgroup) -> str:
        return ", ".join(f"{class_title(name)} {n}" for name, n in group.by_class.items() if n)

    alone = found.group_unit == found.row  # each row is a group
    groups = [] if alone else [value(f"n {found.group_unit}s", "n_groups")]
    without = f" {plural(column.missing, found.row)} without a value." if column.missing else ""
    bands = " Bands hold about a third of the groups each." if column.kind == "bands" else ""
    test = (
        f" Test of the accuracy: p {p_value(column.p)}, corrected {p_value(column.p_holm)}."
        if column.p is not None
        else ""
    )
    return table_of(
        f"By {column.column}, recipe {found.recipe}, {protocol_title(found.protocol).lower()} "
        f"({100 * found.confidence:g} % intervals)",
        column.groups,
        text(column.column, "value"),
        *scores(column.groups[0].metrics, _with_limits),
        n_rows(found.row),
        *groups,
        text("Classes", classes),
        note=f"{bands}{without}{test}".strip(),
    )  # fmt: skip
