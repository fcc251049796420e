"""The tables of a comparison: results, tests, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from leukoscope.config.comparison import (
    ComparedRecipe,
    MeasuredLatency,
    NamedNetwork,
    NetworkCost,
    Place,
    ProtocolHead,
    RecipeResult,
    RunFacts,
)
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.recipe import Recipe
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.verdict.rule import level_words
from leukoscope.evaluation.verdict.shortcuts import SOURCES
from leukoscope.reporting.compare.result import (
    ComparisonResult,
    big,
    joined,
    mean,
)
from leukoscope.reporting.content import Table
from leukoscope.reporting.formats import (
    DASH,
    UNRELIABLE,
    count,
    difference,
    interval,
    metric_title,
    number,
    p_value,
    plural,
    seconds,
)
from leukoscope.reporting.record_tables import (
    PROTOCOL,
    Field,
    code,
    each,
    scores,
    status,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.result_tables import FEW_GROUPS_NOTE, class_table, who_is_better
from leukoscope.reporting.study.shortcuts import SIGNS

ALL_METRICS = (
    "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc", "pr_auc", "log_loss", "brier", "ece",
)  # fmt: skip


def overview(comparison: ComparisonResult) -> Table:
    """One row a recipe, the protocols side by side, with cost and the study's own figure."""
    names = [head.name for head in comparison.protocols]
    sizes = "; ".join(
        f"{protocol_title(head.name)}: {sample(comparison, head)}" for head in comparison.protocols
    )
    return table_of(
        f"All recipes on the same test {comparison.row}s ({comparison.level} intervals; {sizes})",
        comparison.entries,
        recipe_field(comparison),
        *each(names, lambda name: f"Accuracy, {protocol_title(name).lower()}",
              lambda e, name: interval(e.value(name, "accuracy"), "accuracy")),
        value("Epochs, run / published", lambda e: epochs(e, names), lines=True),
        value("Parameters", lambda e: big(e.complexity and e.complexity.parameters)),
        value("MACs", lambda e: big(e.complexity and e.complexity.macs)),
        value("Latency, 1 image", lambda e: _median(e.latency(1))),
        value("Training, one fit", lambda e: _fit_times(e, names), lines=True),
        text("Reported by the study", lambda e: e.reported or DASH),
        note=f"{comparison.signs} The last column is as published, not measured here, and on other "
        "splits.".strip(),
    )  # fmt: skip


def recipe_field(comparison: ComparisonResult) -> Field:
    """The column of short names of entries."""
    return text("Recipe", comparison.name, narrow=True)


def _fit_times(entry: ComparedRecipe, names: Sequence[str]) -> str:
    return joined([seconds(mean(entry.trained(name).seconds)) for name in names])


def sample(comparison: ComparisonResult, head: ProtocolHead) -> str:
    """How many images, or patients, in how many groups."""
    counted = plural(head.n, comparison.row)
    if head.group_unit == comparison.row and head.n_groups == head.n:
        return counted
    return f"{counted} in {plural(head.n_groups, head.group_unit)}"


def epochs(entry: ComparedRecipe, protocols: Sequence[str]) -> str:
    """``2 of 20, best 2``; the epochs of several folds as a range, protocols side by side."""
    trained = [record for name in protocols if (record := entry.trained(name)).epochs]
    if not trained:
        return DASH
    run = joined([_range(record.epochs) for record in trained])
    best = joined([_range(record.best_epoch) for record in trained])
    published = entry.published_epochs
    return f"{run}{f' of {published}' if published else ''}, best {best}"


def _range(values: Sequence[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return DASH
    return str(known[0]) if known[0] == known[-1] else f"{known[0]}–{known[-1]}"


def milliseconds(known: float) -> str:
    """A latency with two or three digits.

    >>> milliseconds(7.123), milliseconds(1234.5)
    ('7.1 ms', '1,234 ms')
    """
    return f"{known:.1f} ms" if known < 100 else f"{known:,.0f} ms"


def _median(timed: MeasuredLatency | None) -> str:
    return DASH if timed is None else milliseconds(timed.median_ms)


@dataclass(frozen=True)
class PlacedRecipe:
    """A recipe under one protocol, with its result there."""

    entry: ComparedRecipe
    protocol: str
    result: RecipeResult

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Of the result."""
        return self.result.metrics


def under_protocols(comparison: ComparisonResult) -> list[PlacedRecipe]:
    """A record for each protocol and recipe, the best first."""
    return [
        PlacedRecipe(entry, head.name, entry.results[head.name])
        for head in comparison.protocols
        for entry in comparison.under(head.name)
    ]


def metrics(comparison: ComparisonResult) -> Table:
    """Every overall metric with its interval."""
    return table_of(
        f"Further metrics ({comparison.level} intervals)", under_protocols(comparison),
        PROTOCOL, _name(comparison), *scores(ALL_METRICS),
        grouped=True,
    )  # fmt: skip


def _name(comparison: ComparisonResult) -> Field:
    return text("Recipe", lambda e: comparison.name(e.entry), narrow=True)


def places(comparison: ComparisonResult) -> Table:
    """Rank of each recipe with its interval."""

    def span(place: Place) -> str:
        sign = "" if place.reliable else UNRELIABLE
        return f"{place.low:g}–{place.high:g}{sign}"

    return table_of(
        f"Places by {metric_title(comparison.metric)}", under_protocols(comparison),
        PROTOCOL, _name(comparison), *scores((comparison.metric,)),
        value("Place", lambda e: f"{e.result.place.rank:g}"),
        value(f"{comparison.level} interval", lambda e: span(e.result.place)),
        value("First in", lambda e: number(e.result.place.first, "share")),
        note=f"The recipes were ranked again in each of {count(comparison.file.replicates)} "
        "bootstrap replicates, on the same resampled groups for all; equals share the mean of "
        "their places. “First in”: share of the replicates; where several are equally good, "
        "each is first, so that the shares may add up to more than 100 %.",
        grouped=True,
    )  # fmt: skip


def paired_tests(comparison: ComparisonResult) -> Table | None:
    """Each recipe against the reference on the same images."""
    metric = comparison.metric
    of_recipe = {(test.protocol, test.a): test for test in comparison.file.tests}
    rows = [
        (e.entry, test)
        for e in under_protocols(comparison)
        if (test := of_recipe.get((e.protocol, e.entry.label)))
    ]
    chosen = (
        "The reference is the best of the same figures, which flatters it a little."
        if comparison.file.against == "best"
        else "The reference was chosen beforehand."
    )
    return table_if_any(
        f"Paired tests of {metric_title(metric)} on the same {comparison.row}s "
        f"({comparison.level} intervals of the difference)",
        rows,
        text("Protocol and reference",
             lambda row: f"{protocol_title(row[1].protocol)}, against "
             f"{comparison.short[row[1].b]}"),
        text("Recipe", lambda row: comparison.name(row[0]), narrow=True),
        value("Difference", lambda row: difference(row[1].difference, metric)),
        value("p", lambda row: p_value(row[1].p)),
        value("p, Holm", lambda row: p_value(row[1].p_holm)),
        text("It is", lambda row: who_is_better(row[1], comparison.file.confidence)),
        note="Two-sided exchange test: whole groups swap the predictions of the two recipes "
        "(Noreen 1989). With few groups no p-value can be small: of G groups the smallest "
        "possible is 2/2^G. Holm’s correction for all comparisons of one protocol. "
        + FEW_GROUPS_NOTE
        + chosen,
        grouped=True,
    )  # fmt: skip


def per_class(comparison: ComparisonResult, entry: ComparedRecipe) -> Table:
    """Each class against the rest, under each protocol."""
    return class_table(
        f"Each class against the rest, {comparison.name(entry)} ({comparison.level} intervals)",
        [
            (head.name, name, head.per_class[name], entry.results[head.name].metrics)
            for head in comparison.protocols
            if head.name in entry.results
            for name in comparison.class_names
        ],
        comparison.row,
    )


@dataclass(frozen=True)
class CostedNetwork:
    """A network that was counted: what to call it, its recipe, its cost."""

    name: str
    recipe: Recipe
    cost: NetworkCost

    def latency(self, batch: int) -> MeasuredLatency | None:
        """Of one call with so many images, where it was measured."""
        return next((one for one in self.cost.latency if one.batch == batch), None)


def _costed(named: Iterable[tuple[str, NamedNetwork]]) -> list[CostedNetwork]:
    return [
        CostedNetwork(name, network.made, network.complexity)
        for name, network in named
        if network.complexity is not None and network.made is not None
    ]


def cost(comparison: ComparisonResult) -> Table | None:
    """Parameters, operations, file size and measured latency."""
    found = _costed((comparison.name(e), e) for e in comparison.entries)
    found += _costed((f"{e.label} as published", e) for e in comparison.published)
    if not found:
        return None
    note = _cost_note([one.cost for one in found])
    if comparison.published:
        note += " “As published”: on its own backbone with random weights; it was not trained here."

    def size(one: CostedNetwork) -> str:
        return DASH if one.cost.size_mb is None else f"{one.cost.size_mb:.1f} MB"

    def speed(one: CostedNetwork) -> str:
        many = one.latency(32)
        return DASH if many is None else f"{32000 / many.median_ms:,.0f}"

    def p95(timed: MeasuredLatency | None) -> str:
        return DASH if timed is None else milliseconds(timed.p95_ms)

    return table_of(
        "Cost of each network, counted and measured", found,
        text("Recipe", "name", narrow=True),
        value("Input", lambda e: f"{e.recipe.preprocess.size_px} px"),
        value("Parameters", lambda e: big(e.cost.parameters)),
        value("MACs", lambda e: big(e.cost.macs)),
        value("File", size),
        value("Median, batch 1", lambda e: _median(e.latency(1))),
        value("p95, batch 1", lambda e: p95(e.latency(1))),
        value("Median, batch 32", lambda e: _median(e.latency(32))),
        value("p95, batch 32", lambda e: p95(e.latency(32))),
        value("Images a second, batch 32", speed),
        note=note,
    )  # fmt: skip


def _cost_note(found: Sequence[NetworkCost]) -> str:
    cpus = sorted({one.cpu for one in found})
    loads = [one.load for one in found if one.load is not None]
    threads = sorted({timed.threads for one in found for timed in one.latency})
    note = "MACs: multiply-accumulate operations of one image. File: ONNX with float32 weights."
    if not threads:
        return note
    runs = sorted({timed.runs for one in found for timed in one.latency})
    busy = (
        f" Other work ran on the machine meanwhile (load {min(loads):g}–{max(loads):g}), which "
        "lengthens the times."
        if loads and max(loads) > 1
        else ""
    )
    return (
        f"{note} Latency: wall time of ONNX Runtime on {', '.join(cpus)}, "
        f"{joined([plural(n, 'thread') for n in threads])}, the network alone without decoding and "
        f"preprocessing, {runs[0]}–{runs[-1]} runs after a warm-up.{busy}"
    )


def external(comparison: ComparisonResult) -> Table | None:
    """Models on other data, from outputs of ``evaluate``."""
    return table_if_any(
        f"On other data ({comparison.level} intervals)", comparison.file.external,
        text("Evaluation", "name"),
        text("Classes", lambda e: ", ".join(map(class_title, e.class_names))),
        text("n", lambda e: plural(e.n, e.row)),
        text("n groups", lambda e: plural(e.n_groups, e.group_unit)),
        *scores(("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "ece")),
        text("What to know", lambda e: "; ".join(e.warnings) or DASH),
    )  # fmt: skip


def verdicts(comparison: ComparisonResult) -> Table | None:
    """What each run's own evidence allows one to say, by source of shortcut."""
    runs = [run for run in comparison.file.runs if run.verdict is not None]
    return table_if_any(
        "The verdict of each run, on its first recipe: what each source of shortcut gives of its "
        "advantage over chance",
        runs,
        code("Run", "name"),
        text("Verdict", lambda run: level_words(run.verdict.level)),
        *(status(name, partial(_of_source, name=name)) for name in SOURCES),
        note="A higher score does not make an unsafe run the better model.",
    )


def _of_source(run: RunFacts, name: str) -> str:
    """What one run's verdict says of one source."""
    sources = () if run.verdict is None else run.verdict.sources
    row = next((row for row in sources if row.source == name), None)
    if row is None:
        return DASH
    share = f" {interval(row.share, 'share')}" if row.share else ""
    return f"{SIGNS[row.status]}{share}"
