"""The sections of a comparison on cost, training, architectures, data and context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leukoscope.reporting import comparison_recipe_tables as recipe_tables
from leukoscope.reporting import comparison_tables as tables
from leukoscope.reporting.comparison_sections import estimates, file_name, sizes
from leukoscope.reporting.comparison_source import Comparison, Entry, big, latency_of, mean
from leukoscope.reporting.content import Block, Code, Heading, Picture, Section, present
from leukoscope.reporting.figures import comparison_curves as charts
from leukoscope.reporting.figures.comparison_cost import architecture, cost_scatter
from leukoscope.reporting.formats import is_percent, metric_title
from leukoscope.reporting.gallery import Gallery


def cost(comparison: Comparison, gallery: Gallery) -> Section:
    """Parameters, latency and training time."""
    blocks: list[Block] = list(present(tables.cost(comparison)))
    known = [entry for entry in comparison.entries if entry.get("complexity")]
    for name, title, values in (
        (
            "parameters",
            "parameters, millions",
            {comparison.name(e): e["complexity"]["parameters"] / 1e6 for e in known},
        ),
        (
            "latency",
            "median latency of one image, ms",
            {comparison.name(e): t["median_ms"] for e in known if (t := latency_of(e, 1))},
        ),
    ):
        if values:
            blocks.append(_scatter(comparison, gallery, name, title, values))
    blocks += present(_times(comparison, gallery))
    return Section("cost", "Cost", blocks)


def _scatter(
    comparison: Comparison, gallery: Gallery, name: str, title: str, cost_of: Mapping[str, float]
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


def _times(comparison: Comparison, gallery: Gallery) -> Picture | None:
    series = []
    for head in comparison.protocols:
        minutes = {
            comparison.name(entry): value / 60
            for entry in comparison.entries
            if (value := mean((entry["training"].get(head["name"]) or {}).get("seconds", ())))
        }
        if minutes:
            series.append((head["name"], minutes))
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


def training(comparison: Comparison, gallery: Gallery) -> Section:
    """Learning curves, and how recipes were made."""
    panels = []
    for entry in comparison.entries:
        lines = [
            (head["name"], found)
            for head in comparison.protocols
            if (found := (entry["training"].get(head["name"]) or {}).get("curves"))
        ]
        if lines:
            panels.append((comparison.name(entry), lines))
    blocks: list[Block] = []
    if panels:
        blocks += [_curves(gallery, panels, what) for what in ("loss", "accuracy")]
    made: list[Block | None] = [
        recipe_tables.deviations(comparison),
        recipe_tables.preprocessing(comparison),
        recipe_tables.hyper_parameters(comparison),
    ]
    return Section("training", "How the models were made", [*blocks, *present(*made)])


def _curves(
    gallery: Gallery,
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[charts.Curve]]]]],
    what: str,
) -> Picture:
    return gallery.draw(
        f"curves-{what}",
        lambda: charts.training_curves(panels, what),
        caption=f"Training and validation {what} by epoch, one line a fold "
        f"(n = {len(panels)} recipes).",
        alt=f"{what.capitalize()} curves of all recipes.",
    )


def diagrams(comparison: Comparison, gallery: Gallery) -> Section:
    """The layers of each network."""
    blocks: list[Block] = [recipe_tables.architectures(comparison)]
    named = [(comparison.name(entry), entry) for entry in comparison.entries]
    named += [(f"{entry['label']} as published", entry) for entry in comparison.published]
    blocks += [_diagram(gallery, name, entry) for name, entry in named if entry.get("layers")]
    return Section("architectures", "Architectures", blocks)


def _diagram(gallery: Gallery, name: str, entry: Entry) -> Picture:
    side = entry["settings"]["preprocess"]["size_px"]
    backbone = entry["settings"]["model"]["backbone"]
    title = f"{name} ({backbone})" if backbone not in name else name
    return gallery.draw(
        f"architecture-{file_name(entry)}",
        lambda: architecture(title, (3, side, side), entry["layers"]),
        caption=f"{title}: the blocks that one image passes through, with output shape (height × "
        f"width × channels) and parameters, {big(entry['complexity']['parameters'])} in all; "
        "read from the network itself.",
        alt=f"Architecture of {entry['label']} from top to bottom.",
    )


def data(comparison: Comparison, gallery: Gallery) -> Section:
    """The data, the parts, and other data."""
    blocks: list[Block | None] = [
        recipe_tables.data_sets(comparison),
        recipe_tables.splits(comparison),
        tables.external(comparison),
    ]
    return Section("data", "Data", present(*blocks))


def context(comparison: Comparison, gallery: Gallery) -> Section:
    """What others published, how metrics are computed, how to make this again."""
    return Section(
        "context",
        "Published figures, formulas, how to make this again",
        [
            recipe_tables.prior_work(comparison),
            recipe_tables.formulas(comparison),
            Heading("Made by"),
            Code(
                "\n".join(
                    [
                        *(r["command"] for r in comparison.values["runs"] if r["command"]),
                        comparison.values["command"],
                    ]
                )
            ),
        ],
    )
