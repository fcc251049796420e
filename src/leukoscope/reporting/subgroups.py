"""Results by subgroup: in words, and as tables."""

from __future__ import annotations

from collections.abc import Iterator

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.metrics.subgroups import Subgroup, SubgroupColumn, Subgroups
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.verdict.sentences import join
from leukoscope.reporting.content import (
    Block,
    Folded,
    Paragraph,
    Table,
    n_rows,
    scores,
    table_of,
    text,
    value,
)
from leukoscope.reporting.formats import interval, p_value, plural

_NOTE = (
    "Intervals resample whole groups; those of different values overlap or not for many reasons, "
    "so only the test says whether the accuracy differs. It deals whole groups among the values "
    "(within the classes, where each group has one), allows for classes that are harder, and is "
    "corrected for all columns (Holm). A ROC AUC needs images of every class, in several groups."
)


def subgroup_blocks(found: Subgroups) -> list[Block]:
    """What the tests say, a folded table a column, and how to read both."""
    divided = [column for column in found.columns if column.groups]
    folded = [Folded(f"By {column.column}", (_table(found, column),)) for column in divided]
    return [*map(Paragraph, in_words(found)), *folded, Paragraph(_NOTE, note=True)]


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
