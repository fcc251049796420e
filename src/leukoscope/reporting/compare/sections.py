"""The sections of a comparison: results, cost, training, architectures, context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from leukoscope.config.comparison import ComparedRecipe, NamedNetwork, ProtocolHead
from leukoscope.config.recipe import Recipe
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS
from leukoscope.reporting.compare import recipes, tables
from leukoscope.reporting.compare.result import (
    ComparisonResult,
    big,
    mean,
)
from leukoscope.reporting.content import (
    Block,
    Code,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    present,
)
from leukoscope.reporting.figures import comparison as charts
from leukoscope.reporting.figures.classification import confusion_matrices
from leukoscope.reporting.figures.comparison import MOST_LINES, roc_overlay
from leukoscope.reporting.figures.comparison_cost import architecture, cost_scatter
from leukoscope.reporting.formats import is_percent, metric_title, plural
from leukoscope.reporting.gallery import Gallery

BAR_METRICS = ("accuracy", "macro_f1", "roc_auc")
RADAR_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "pr_auc", "ece")
MOST_RADAR = 6


def glance(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """The main table and its bars."""
    blocks: list[Block] = [tables.overview(comparison), *present(tables.verdicts(comparison))]
    few = [head for head in comparison.protocols if head.n_groups < MIN_GROUPS]
    if few:
        text = ", ".join(f"{protocol_title(h.name)} ({tables.sample(comparison, h)})" for h in few)
        blocks.append(
            Paragraph(
                f"Few groups were held out: {text}. Intervals and places rest on them alone; with "
                "more folds every group is tested once.",
                note=True,
            )
        )
    panels = [(metric_title(name), estimates(comparison, name)) for name in BAR_METRICS]
    blocks.append(
        gallery.draw(
            "metrics",
            lambda: charts.metric_bars(comparison.names, panels),
            caption=f"Accuracy and macro F1 in %, and ROC AUC, with {comparison.level} intervals "
            f"({sizes(comparison)}).",
            alt="Bars of accuracy, macro F1 and ROC AUC of every recipe under every protocol.",
        )
    )
    return Section("glance", "All recipes at a glance", blocks)


def sizes(comparison: ComparisonResult) -> str:
    """The sample size under each protocol, for captions."""
    return "; ".join(
        f"{protocol_title(head.name)}: n = {tables.sample(comparison, head)}"
        for head in comparison.protocols
    )


def estimates(comparison: ComparisonResult, metric: str) -> list[tuple[str, charts.Estimates]]:
    """Recipe → estimate under each protocol; per cent where the metric is written so."""
    return [
        (
            protocol_title(head.name),
            {
                comparison.name(entry): estimate
                for entry in comparison.under(head.name)
                if (estimate := _estimate(entry, head.name, metric)) is not None
            },
        )
        for head in comparison.protocols
    ]


def _estimate(entry: ComparedRecipe, protocol: str, metric: str) -> charts.PlottedEstimate | None:
    found = entry.value(protocol, metric)
    if found is None or found.value is None:
        return None
    scale = 100.0 if is_percent(metric) else 1.0
    if found.low is None or found.high is None:
        return charts.PlottedEstimate(scale * found.value)
    return charts.PlottedEstimate(scale * found.value, scale * found.low, scale * found.high)


def _value(entry: ComparedRecipe, protocol: str, metric: str) -> float | None:
    found = entry.value(protocol, metric)
    return None if found is None else found.value


def ranking(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """Places with intervals, and paired tests."""
    blocks: list[Block] = []
    if len(comparison.entries) > 1:
        panels = [
            (
                protocol_title(head.name),
                [(comparison.name(e), _place(e, head.name)) for e in
                 comparison.under(head.name)],
            )
            for head in comparison.protocols
        ]  # fmt: skip
        blocks.append(
            gallery.draw(
                "places",
                lambda: charts.rank_chart(panels),
                caption=f"Places by {metric_title(comparison.metric)} with {comparison.level} "
                f"intervals from the same resampled groups for all ({sizes(comparison)}).",
                alt="Place of each recipe with its interval.",
            )
        )
        blocks += [Folded("The places as a table", (tables.places(comparison),))]
    return Section("ranking", "Ranking and paired tests",
                   [*blocks, *present(tables.paired_tests(comparison))])  # fmt: skip


def _place(entry: ComparedRecipe, protocol: str) -> charts.PlottedEstimate:
    place = entry.results[protocol].place
    return charts.PlottedEstimate(place.rank, place.low, place.high)


def further(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """Radar, boxes, the remaining metrics."""
    panels = [(protocol_title(h.name), _radar(comparison, h.name)) for h in comparison.protocols]
    titles = [metric_title(m) if m != "ece" else "1 − ECE" for m in RADAR_METRICS]
    titles[1] = "Balanced\naccuracy"
    blocks: list[Block] = []
    if all(lines for _, lines in panels):
        blocks.append(
            gallery.draw(
                "radar",
                lambda: charts.radar(titles, panels),
                caption="Six metrics of the "
                f"{plural(min(MOST_RADAR, len(comparison.entries)), 'recipe')} with the best "
                f"places; outside is better ({sizes(comparison)}).",
                alt="Radar chart of six metrics.",
            )
        )
    blocks += present(_boxes(comparison, gallery))
    return Section("metrics", "Further metrics and their spread",
                   [*blocks, tables.metrics(comparison)])  # fmt: skip


def _radar(comparison: ComparisonResult, protocol: str) -> Mapping[str, list[float]]:
    lines = {}
    best = {e.label for e in comparison.entries[:MOST_RADAR]}
    for entry in comparison.under(protocol):
        values = [_value(entry, protocol, metric) for metric in RADAR_METRICS]
        known = [v for v in values if v is not None]
        if entry.label in best and len(known) == len(RADAR_METRICS):
            lines[comparison.name(entry)] = [*known[:-1], 1 - known[-1]]
    return lines


def _boxes(comparison: ComparisonResult, gallery: Gallery) -> Picture | None:
    found = [
        (protocol_title(head.name), spread)
        for head in comparison.protocols
        if (spread := head.spread)
    ]
    if not found:
        return None
    scale = 100.0 if is_percent(comparison.metric) else 1.0
    panels = [
        (
            name,
            {
                comparison.short[label]: [scale * value for value in values]
                for label, values in spread.values.items()
            },
        )
        for name, spread in found
    ]
    over = ", ".join(
        f"{name}: over {len(next(iter(spread.values.values())))} {spread.over}s"
        for name, spread in found
    )
    unit = ", %" if scale > 1 else ""
    return gallery.draw(
        "spread",
        lambda: charts.boxes(
            comparison.names, panels, xlabel=f"{metric_title(comparison.metric)}{unit}"
        ),
        caption=f"Spread of {metric_title(comparison.metric)} ({over}); box: quartiles and "
        "median, whiskers: smallest and largest; a point a fold or group of 5 "
        f"{comparison.row}s or more.",
        alt="Box plots of every recipe.",
    )


def classes(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """F1 heat map, ROC curves, and for each recipe its table and confusion matrices."""
    names = comparison.class_names
    panels = [
        (
            protocol_title(head.name),
            np.array([[_f1(entry, head.name, name) for name in names]
                      for entry in comparison.entries]),
        )
        for head in comparison.protocols
    ]  # fmt: skip
    blocks: list[Block] = [
        gallery.draw(
            "f1-by-class",
            lambda: charts.class_heat_map(comparison.names, names, panels),
            caption=f"F1 of each class in % ({sizes(comparison)}).",
            alt="Heat map of F1 by recipe and class.",
        )
    ]
    blocks += [_roc(comparison, gallery, head) for head in comparison.protocols]
    for entry in comparison.entries:
        blocks += [
            Heading(comparison.name(entry)),
            _confusion(comparison, gallery, entry),
            tables.per_class(comparison, entry),
        ]
    return Section("classes", "Class by class", blocks)


def _f1(entry: ComparedRecipe, protocol: str, name: str) -> float:
    value = _value(entry, protocol, f"f1_{name}")
    return float("nan") if value is None else value


def _roc(comparison: ComparisonResult, gallery: Gallery, head: ProtocolHead) -> Picture:
    protocol = head.name
    panels = []
    for name in comparison.class_names:
        lines = {}
        for entry in comparison.under(protocol):
            points = entry.results[protocol].roc.get(name)
            if points:
                area = _value(entry, protocol, f"roc_auc_{name}")
                lines[comparison.name(entry)] = (points.x, points.y, area)
        if lines:
            panels.append((class_title(name), lines))
    more = len(comparison.under(protocol)) - MOST_LINES
    grey = f", the other {more} in grey" if more > 0 else ""
    return gallery.draw(
        f"roc-{protocol}",
        lambda: roc_overlay(panels),
        caption=f"One-vs-rest ROC curves, {protocol_title(protocol).lower()} "
        f"(n = {tables.sample(comparison, head)}); the best recipes in colour{grey}.",
        alt="ROC curves of all recipes, one panel a class.",
    )


def _confusion(comparison: ComparisonResult, gallery: Gallery, entry: ComparedRecipe) -> Picture:
    panels = [
        (
            protocol_title(head.name),
            np.array(entry.results[head.name].confusion, dtype=np.float64),
        )
        for head in comparison.protocols
        if head.name in entry.results
    ]
    return gallery.draw(
        f"confusion-{file_name(entry)}",
        lambda: confusion_matrices(panels, comparison.class_names),
        caption=f"Confusion matrices of {comparison.name(entry)}: counts and shares of the true "
        f"class ({sizes(comparison)}).",
        alt=f"Confusion matrices of {entry.label}.",
    )


def file_name(entry: NamedNetwork) -> str:
    """An entry's label as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", entry.label).strip("-")


def cost(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """Parameters, latency and training time."""
    blocks: list[Block] = list(present(tables.cost(comparison)))
    known = {comparison.name(e): e.complexity for e in comparison.entries if e.complexity}
    timed = {comparison.name(e): e.latency(1) for e in comparison.entries}
    for name, title, values in (
        (
            "parameters",
            "parameters, millions",
            {name: cost.parameters / 1e6 for name, cost in known.items()},
        ),
        (
            "latency",
            "median latency of one image, ms",
            {name: one.median_ms for name, one in timed.items() if one is not None},
        ),
    ):
        if values:
            blocks.append(_scatter(comparison, gallery, name, title, values))
    blocks += present(_times(comparison, gallery))
    return Section("cost", "Cost", blocks)


def _scatter(
    comparison: ComparisonResult,
    gallery: Gallery,
    name: str,
    title: str,
    cost_of: Mapping[str, float],
) -> Picture:
    metric = comparison.metric
    unit = ", %" if is_percent(metric) else ""
    panels = estimates(comparison, metric)
    return gallery.draw(
        f"{name}-{metric}",
        lambda: cost_scatter(
            comparison.names, cost_of, panels, xlabel=title,
            ylabel=f"{metric_title(metric)}{unit}",
        ),
        caption=f"{metric_title(metric)} over {title} (logarithmic), with {comparison.level} "
        f"intervals ({sizes(comparison)}).",
        alt=f"{metric_title(metric)} of each recipe over {title}.",
    )  # fmt: skip


def _times(comparison: ComparisonResult, gallery: Gallery) -> Picture | None:
    series = []
    for head in comparison.protocols:
        minutes = {
            comparison.name(entry): value / 60
            for entry in comparison.entries
            if (value := mean(entry.trained(head.name).seconds))
        }
        if minutes:
            series.append((protocol_title(head.name), minutes))
    if not series:
        return None
    trained = [n for n in comparison.names if any(n in values for _, values in series)]
    return gallery.draw(
        "training-time",
        lambda: charts.time_bars(trained, series, xlabel="training, minutes for one fit"),
        caption="Training time: the epochs’ wall time of one fit, mean of the folds, on the "
        f"machine of each run ({sizes(comparison)} held out).",
        alt="Bars of the training time.",
    )


def training(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """Learning curves, and how recipes were made."""
    panels = []
    for entry in comparison.entries:
        lines = [
            (protocol_title(head.name), found)
            for head in comparison.protocols
            if (found := entry.trained(head.name).curves)
        ]
        if lines:
            panels.append((comparison.name(entry), lines))
    blocks: list[Block] = []
    if panels:
        blocks += [_curves(gallery, panels, what) for what in ("loss", "accuracy")]
    made: list[Block | None] = [
        recipes.deviations(comparison),
        recipes.preprocessing(comparison),
        recipes.hyper_parameters(comparison),
    ]
    return Section("training", "How the models were made", [*blocks, *present(*made)])


def _curves(
    gallery: Gallery,
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[charts.TrainingCurve]]]]],
    what: str,
) -> Picture:
    return gallery.draw(
        f"curves-{what}",
        lambda: charts.training_curves(panels, what),
        caption=f"Training and validation {what} by epoch, one line a fold "
        f"(n = {plural(len(panels), 'recipe')}).",
        alt=f"{what.capitalize()} curves of all recipes.",
    )


def diagrams(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """The layers of each network."""
    blocks: list[Block] = [recipes.architectures(comparison)]
    named: list[tuple[str, NamedNetwork]] = [(comparison.name(e), e) for e in comparison.entries]
    named += [(f"{entry.label} as published", entry) for entry in comparison.published]
    blocks += [
        _diagram(gallery, name, entry, entry.made)
        for name, entry in named
        if entry.layers and entry.made is not None
    ]
    return Section("architectures", "Architectures", blocks)


def _diagram(gallery: Gallery, name: str, entry: NamedNetwork, recipe: Recipe) -> Picture:
    side, backbone = recipe.preprocess.size_px, recipe.model.backbone
    parameters = entry.complexity and entry.complexity.parameters
    title = f"{name} ({backbone})" if backbone not in name else name
    return gallery.draw(
        f"architecture-{file_name(entry)}",
        lambda: architecture(title, (3, side, side), entry.layers),
        caption=f"{title}: the blocks that one image passes through, with output shape (height × "
        f"width × channels) and parameters, {big(parameters)} in all; "
        "read from the network itself.",
        alt=f"Architecture of {entry.label} from top to bottom.",
    )


def data(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """The data, the parts, and other data."""
    blocks: list[Block | None] = [
        recipes.data_sets(comparison),
        recipes.splits(comparison),
        tables.external(comparison),
    ]
    return Section("data", "Data", present(*blocks))


def context(comparison: ComparisonResult, gallery: Gallery) -> Section:
    """What others published, how metrics are computed, how to make this again."""
    return Section(
        "context",
        "Published figures, formulas, how to make this again",
        [
            recipes.prior_work(comparison),
            recipes.formulas(comparison),
            Heading("Made by"),
            Code(
                "\n".join(
                    [
                        *(run.command for run in comparison.file.runs if run.command),
                        comparison.file.command,
                    ]
                )
            ),
        ],
    )
