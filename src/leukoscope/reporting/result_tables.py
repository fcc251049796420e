"""Tables of what was measured; every number is written by :mod:`leukoscope.reporting.formats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import (
    DASH,
    UNRELIABLE,
    UNRELIABLE_NOTE,
    count,
    difference,
    interval,
    metric_title,
    number,
    p_value,
    plural,
)
from leukoscope.reporting.source import Study, class_title
from leukoscope.reporting.wording import (
    PROTOCOL_INFO,
    protocol_title,
)

HEADLINE_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc")
FURTHER_METRICS = ("weighted_f1", "weighted_precision", "pr_auc", "log_loss", "brier", "ece")
MALIGNANT_METRICS = ("recall_malignant", "specificity_malignant", "roc_auc_malignant")
CLASS_METRICS = ("precision", "recall", "specificity", "f1", "roc_auc")


def sample(entry: Mapping[str, Any]) -> str:
    """How many images in how many groups, e.g. ``3,256 images in 24 acquisition clusters``."""
    n, groups = entry.get("n"), entry.get("n_groups")
    if groups is None or groups == n:
        return f"{count(n)} images"
    return f"{count(n)} images in {_groups(entry)}"


def protocol_cell(study: Study, entry: Mapping[str, Any]) -> str:
    """Protocol, and the recipe where the study has several."""
    title = protocol_title(entry["protocol"])
    return f"{title} · {entry['recipe']}" if len(study.recipes) > 1 else title


def headline(study: Study) -> Table:
    """Protocol by metric, the table that a reader sees first."""
    return _by_metric(
        study, HEADLINE_METRICS, f"Results on test images ({_level(study)} intervals)"
    )


def further(study: Study) -> Table:
    """The remaining overall metrics."""
    return _by_metric(study, FURTHER_METRICS, f"Further metrics ({_level(study)} intervals)")


def malignant(study: Study) -> Table | None:
    """The two branches of the hierarchy, where the classes stand on both."""
    if not any(MALIGNANT_METRICS[0] in entry["metrics"] for entry in study.results):
        return None
    return _by_metric(study, MALIGNANT_METRICS, f"Malignant or not ({_level(study)} intervals)")


def _level(study: Study) -> str:
    return f"{100 * study.confidence:g} %"


def _by_metric(study: Study, metrics: Sequence[str], caption: str) -> Table:
    columns = (
        Column("Protocol"),
        *(Column(metric_title(name), numeric=True) for name in metrics),
        Column("n images", numeric=True),
        Column("n groups"),
    )
    rows = tuple(
        (
            protocol_cell(study, entry),
            *(interval(entry["metrics"].get(name), name) for name in metrics),
            count(entry.get("n")),
            _groups(entry),
        )
        for entry in study.results
    )
    return marked(Table(caption, columns, rows))


def marked(table: Table) -> Table:
    """The table, with the dagger explained where one occurs."""
    if not any(UNRELIABLE in cell for row in table.rows for cell in row):
        return table
    note = f"{table.note} {UNRELIABLE_NOTE}".strip()
    return replace(table, note=note)


def _groups(entry: Mapping[str, Any]) -> str:
    number_of = entry.get("n_groups")
    return DASH if number_of is None else plural(number_of, entry.get("group_unit") or "group")


def protocols(study: Study) -> Table:
    """What each protocol holds out, and those that do not apply."""
    columns = (
        Column("Protocol"),
        Column("Name in files", code=True, narrow=True),
        Column("The question"),
    )
    rows = tuple(
        (
            protocol_title(name),
            name,
            PROTOCOL_INFO[name].question if name in PROTOCOL_INFO else DASH,
        )
        for name in study.protocols
    )
    return Table("Protocols that apply, from the mildest to the harshest", columns, rows)


def inapplicable(study: Study) -> Table | None:
    """Protocols that the data cannot support, with the reasons."""
    entries = study.metrics.get("inapplicable", ())
    if not entries:
        return None
    rows = tuple((protocol_title(e["protocol"]), e["protocol"], e["reason"]) for e in entries)
    columns = (
        Column("Protocol"),
        Column("Name in files", code=True, narrow=True),
        Column("Why not"),
    )
    return Table("Protocols that do not apply to this data", columns, rows)


def comparisons(study: Study) -> Table | None:
    """Paired differences on the same images."""
    entries = study.metrics.get("comparisons", ())
    if not entries:
        return None
    rows = tuple(
        (
            _side(study, e["a"]),
            _side(study, e["b"]),
            metric_title(e["metric"]),
            difference(e["difference"], e["metric"]),
            p_value(e.get("p")),
            p_value(e.get("p_holm")),
            str(e.get("verdict", DASH)),
            *_pairs(e.get("pairs")),
            count(e.get("n")),
        )
        for e in entries
    )
    columns = (
        Column("A"),
        Column("B"),
        Column("Metric"),
        Column("A − B", numeric=True),
        Column("p", numeric=True),
        Column("p, Holm", numeric=True),
        Column("A is"),
        Column("Right alone, A : B", numeric=True),
        Column("Effect g", numeric=True),
        Column("p, McNemar / DeLong", numeric=True),
        Column("n images", numeric=True),
    )
    caption = f"Paired comparisons on the same images ({_level(study)} intervals)"
    note = (
        "The interval resamples whole groups; p is that of a two-sided exchange test: whole groups "
        "swap the predictions of A and B (Noreen 1989). Holm’s correction for all comparisons that "
        "this study makes under one protocol. A is better or worse where the interval leaves 0 out "
        f"and the corrected p is below {1 - study.confidence:.2g}. Right alone: images that only "
        "A, only B has right; g is A’s share of them minus ½ (from .05 small, .15 medium, .25 "
        "large; Cohen 1988). The exact tests take images for independent and are made only where "
        "no two images share a group; DeLong’s only for two classes."
    )
    return marked(Table(caption, columns, rows, note=note))


def _pairs(found: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Disagreements, their effect, and the exact tests where they were made."""
    if not found:
        return DASH, DASH, DASH
    values = (found["mcnemar_p"], (found["delong"] or {}).get("p"))
    tests = [p_value(p) for p in values]
    effect = DASH if found["effect"] is None else f"{found['effect']:+.2f}".replace("-", "−")
    alone = f"{found['only_first_right']} : {found['only_second_right']}"
    return alone, effect, DASH if values == (None, None) else " / ".join(tests)


def _side(study: Study, side: Mapping[str, Any]) -> str:
    seen = side.get("input", "image")
    if seen != "image":
        who = f"probe {seen}"
    else:
        who = f"{side['recipe']}" if len(study.recipes) > 1 else "the model"
    return f"{who}; {protocol_title(side['protocol']).lower()}"


def curve(study: Study) -> Table | None:
    """Accuracy over the number of acquisition clusters."""
    entries = study.metrics.get("curve", ())
    if not entries:
        return None
    names = ("accuracy", "balanced_accuracy")
    rows = tuple(
        (
            str(e["recipe"]),
            count(e["clusters"]),
            *(interval(e.get(name), name) for name in names),
            count(e.get("n")),
        )
        for e in entries
    )
    columns = (
        Column("Recipe", code=True, narrow=True),
        Column("Clusters", numeric=True),
        *(Column(metric_title(name), numeric=True) for name in names),
        Column("n images", numeric=True),
    )
    return marked(Table("Accuracy over the number of acquisition clusters", columns, rows))


def per_class(study: Study, recipe: str) -> Table | None:
    """Precision, recall, specificity, F1 and AUC of each class under each protocol."""
    rows = []
    for entry in study.results:
        if entry["recipe"] != recipe:
            continue
        for k, name in enumerate(study.class_names):
            rows.append(
                (
                    protocol_title(entry["protocol"]),
                    class_title(name),
                    count(sum(entry["confusion"][k])),
                    *(interval(entry["metrics"].get(f"{m}_{name}"), m) for m in CLASS_METRICS),
                )
            )
    if not rows:
        return None
    columns = (
        Column("Protocol"),
        Column("Class"),
        Column("n images", numeric=True),
        *(Column({"f1": "F1"}.get(m) or metric_title(m).capitalize() if m != "roc_auc"
                 else "ROC AUC", numeric=True) for m in CLASS_METRICS),
    )  # fmt: skip
    caption = f"Each class against the rest, recipe {recipe} ({_level(study)} intervals)"
    note = (
        "— : undefined, because no image has the class or none was called it."
        if any(DASH in row for row in rows)
        else ""
    )
    return marked(Table(caption, columns, tuple(rows), note, grouped=True))


def confusion(study: Study, entry: Mapping[str, Any]) -> Table:
    """One confusion matrix as counts with the share of each row."""
    columns = (
        Column("True"),
        *(Column(f"→ {class_title(name)}", numeric=True) for name in study.class_names),
        Column("n images", numeric=True),
    )
    rows = []
    for name, line in zip(study.class_names, entry["confusion"], strict=True):
        total = sum(line)
        shares = (f"{c:,} ({number(c / total, 'share')})" if total else DASH for c in line)
        rows.append((class_title(name), *shares, count(total)))
    caption = (
        f"Confusion matrix, {protocol_title(entry['protocol']).lower()}, recipe "
        f"{entry['recipe']} ({sample(entry)}); rows true, columns predicted"
    )
    return Table(caption, columns, tuple(rows))
