"""The tables of a comparison: results, tests, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.verdict.rule import level_words
from leukoscope.evaluation.verdict.shortcuts import SOURCES
from leukoscope.reporting.compare.result import (
    ComparisonResult,
    RecipeEntry,
    big,
    joined,
    latency_of,
    mean,
    value_of,
)
from leukoscope.reporting.content import (
    N_IMAGES,
    PROTOCOL,
    Cell,
    Field,
    Table,
    code,
    each,
    scores,
    status,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.formats import (
    DASH,
    UNRELIABLE,
    count,
    difference,
    finite,
    interval,
    metric_title,
    number,
    p_value,
    plural,
    seconds,
)
from leukoscope.reporting.result_tables import class_table
from leukoscope.reporting.study.shortcuts import SIGNS

ALL_METRICS = (
    "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc", "pr_auc", "log_loss", "brier", "ece",
)  # fmt: skip


def overview(comparison: ComparisonResult) -> Table:
    """One row a recipe, the protocols side by side, with cost and the study's own figure."""
    names = [head["name"] for head in comparison.protocols]
    sizes = "; ".join(f"{head['name']}: {sample(head)}" for head in comparison.protocols)
    return table_of(
        f"All recipes on the same test images ({comparison.level} intervals; {sizes})",
        comparison.entries,
        recipe_field(comparison),
        *each(names, lambda name: f"Accuracy, {name}",
              lambda e, name: interval(value_of(e, name, "accuracy"), "accuracy")),
        value("Epochs, run / published", lambda e: epochs(e, names), lines=True),
        value("Parameters", lambda e: big(_complexity(e, "parameters"))),
        value("MACs", lambda e: big(_complexity(e, "macs"))),
        value("Latency, 1 image", lambda e: milliseconds(latency_of(e, 1), "median_ms")),
        value("Training, one fit", lambda e: _fit_times(e, names), lines=True),
        text("Reported by the study", lambda e: e["reported"] or DASH),
        note=f"{comparison.signs} The last column is as published, not measured here, and on other "
        "splits.".strip(),
    )  # fmt: skip


def recipe_field(comparison: ComparisonResult) -> Field:
    """The column of short names of entries."""
    return text("Recipe", comparison.name, narrow=True)


def _complexity(entry: RecipeEntry, key: str) -> object:
    return (entry.get("complexity") or {}).get(key)


def _fit_times(entry: RecipeEntry, names: Sequence[str]) -> str:
    return joined([seconds(mean(_training(entry, name).get("seconds", ()))) for name in names])


def sample(head: RecipeEntry) -> str:
    """How many images in how many groups."""
    groups = plural(head["n_groups"], head["group_unit"])
    return f"{count(head['n'])} images in {groups}"


def _training(entry: RecipeEntry, protocol: str) -> Mapping[str, Sequence[object]]:
    return entry["training"].get(protocol) or {}


def epochs(entry: RecipeEntry, protocols: Sequence[str]) -> str:
    """``2 of 20, best 2``; the epochs of several folds as a range, protocols side by side."""
    trained = [record for name in protocols if (record := _training(entry, name)).get("epochs")]
    if not trained:
        return DASH
    run, best = (joined([_range(record[key]) for record in trained])
                 for key in ("epochs", "best_epoch"))  # fmt: skip
    published = entry.get("published_epochs")
    return f"{run}{f' of {published}' if published else ''}, best {best}"


def _range(values: Sequence[object]) -> str:
    known = sorted(int(v) for item in values if (v := finite(item)) is not None)
    if not known:
        return DASH
    return str(known[0]) if known[0] == known[-1] else f"{known[0]}–{known[-1]}"


def milliseconds(timed: Mapping[str, object] | None, key: str) -> str:
    """A latency with two or three digits.

    >>> milliseconds({"median_ms": 7.123}, "median_ms"), milliseconds(None, "p95_ms")
    ('7.1 ms', '—')
    """
    known = None if timed is None else finite(timed[key])
    if known is None:
        return DASH
    return f"{known:.1f} ms" if known < 100 else f"{known:,.0f} ms"


def under_protocols(comparison: ComparisonResult) -> list[RecipeEntry]:
    """A record for each protocol and recipe, the best first: its metrics and its place."""
    return [
        {**entry["results"][head["name"]], "entry": entry, "protocol": head["name"]}
        for head in comparison.protocols
        for entry in comparison.under(head["name"])
    ]


def metrics(comparison: ComparisonResult) -> Table:
    """Every overall metric with its interval."""
    return table_of(
        f"Further metrics ({comparison.level} intervals)", under_protocols(comparison),
        PROTOCOL, _name(comparison), *scores(ALL_METRICS),
        grouped=True,
    )  # fmt: skip


def _name(comparison: ComparisonResult) -> Field:
    return text("Recipe", lambda e: comparison.name(e["entry"]), narrow=True)


def places(comparison: ComparisonResult) -> Table:
    """Rank of each recipe with its interval."""

    def span(place: RecipeEntry) -> str:
        sign = "" if place["reliable"] else UNRELIABLE
        return f"{place['low']:g}–{place['high']:g}{sign}"

    return table_of(
        f"Places by {metric_title(comparison.metric)}", under_protocols(comparison),
        PROTOCOL, _name(comparison), *scores((comparison.metric,)),
        value("Place", lambda e: f"{e['place']['rank']:g}"),
        value(f"{comparison.level} interval", lambda e: span(e["place"])),
        value("First in", lambda e: number(e["place"]["first"], "share")),
        note=f"The recipes were ranked again in each of {count(comparison.values['replicates'])} "
        "bootstrap replicates, on the same resampled groups for all; equals share the mean of "
        "their places. “First in”: share of the replicates.",
        grouped=True,
    )  # fmt: skip


def paired_tests(comparison: ComparisonResult) -> Table | None:
    """Each recipe against the reference on the same images."""
    metric = comparison.metric
    of_recipe = {(row["protocol"], row["a"]): row for row in comparison.values["tests"]}
    rows = [
        {**row, "entry": e["entry"]}
        for e in under_protocols(comparison)
        if (row := of_recipe.get((e["protocol"], e["entry"]["label"])))
    ]
    chosen = (
        "The reference is the best of the same figures, which flatters it a little."
        if comparison.values["against"] == "best"
        else "The reference was chosen beforehand."
    )
    return table_if_any(
        f"Paired tests of {metric_title(metric)} on the same images "
        f"({comparison.level} intervals of the difference)",
        rows,
        text("Protocol and reference",
             lambda e: f"{protocol_title(e['protocol'])}, against {comparison.short[e['b']]}"),
        _name(comparison),
        value("Difference", lambda e: difference(e["difference"], metric)),
        value("p", lambda e: p_value(e["p"])),
        value("p, Holm", lambda e: p_value(e["p_holm"])),
        text("It is", "verdict"),
        note="Two-sided exchange test: whole groups swap the predictions of the two recipes "
        "(Noreen 1989). With few groups no p-value can be small: of G groups the smallest "
        "possible is 2/2^G. Holm’s correction for all comparisons of one protocol. " + chosen,
        grouped=True,
    )  # fmt: skip


def per_class(comparison: ComparisonResult, entry: RecipeEntry) -> Table:
    """Each class against the rest, under each protocol."""
    return class_table(
        f"Each class against the rest, {comparison.name(entry)} ({comparison.level} intervals)",
        [
            (head["name"], name, head["per_class"][name], entry["results"][head["name"]]["metrics"])
            for head in comparison.protocols
            if head["name"] in entry["results"]
            for name in comparison.class_names
        ],
    )


def cost(comparison: ComparisonResult) -> Table | None:
    """Parameters, operations, file size and measured latency."""
    found = [{**e, "name": comparison.name(e)} for e in comparison.entries if e.get("complexity")]
    found += [{**e, "name": f"{e['label']} as published"} for e in comparison.published]
    if not found:
        return None
    note = _cost_note(found)
    if comparison.published:
        note += " “As published”: on its own backbone with random weights; it was not trained here."

    def latency(batch: int, key: str) -> Cell:
        return lambda e: milliseconds(latency_of(e, batch), key)

    def size(entry: RecipeEntry) -> str:
        megabytes = _complexity(entry, "size_mb")
        return DASH if megabytes is None else f"{megabytes:.1f} MB"

    def speed(entry: RecipeEntry) -> str:
        many = latency_of(entry, 32)
        return DASH if many is None else f"{32000 / many['median_ms']:,.0f}"

    return table_of(
        "Cost of each network, counted and measured", found,
        text("Recipe", "name", narrow=True),
        value("Input", lambda e: f"{e['settings']['preprocess']['size_px']} px"),
        value("Parameters", lambda e: big(_complexity(e, "parameters"))),
        value("MACs", lambda e: big(_complexity(e, "macs"))),
        value("File", size),
        *(
            value(f"{word}, batch {batch}", latency(batch, key))
            for batch in (1, 32)
            for word, key in (("Median", "median_ms"), ("p95", "p95_ms"))
        ),
        value("Images a second, batch 32", speed),
        note=note,
    )  # fmt: skip


def _cost_note(found: Sequence[RecipeEntry]) -> str:
    cpus = sorted({str(entry["complexity"]["cpu"]) for entry in found})
    loads = [v for e in found if (v := finite(e["complexity"].get("load"))) is not None]
    threads = sorted({t["threads"] for e in found for t in e["complexity"]["latency"]})
    note = "MACs: multiply-accumulate operations of one image. File: ONNX with float32 weights."
    if not threads:
        return note
    runs = sorted({t["runs"] for e in found for t in e["complexity"]["latency"]})
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
        f"On other data ({comparison.level} intervals)", comparison.values.get("external") or (),
        text("Evaluation", "name"),
        text("Classes", lambda e: ", ".join(map(class_title, e["class_names"]))),
        N_IMAGES,
        text("n groups", lambda e: plural(e["n_groups"], e["group_unit"])),
        *scores(("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "ece")),
        text("What to know", lambda e: "; ".join(e["warnings"]) or DASH),
    )  # fmt: skip


def verdicts(comparison: ComparisonResult) -> Table | None:
    """What each run's own evidence allows one to say, by source of shortcut."""
    runs = [run for run in comparison.values["runs"] if run.get("verdict")]
    return table_if_any(
        "The verdict of each run, on its first recipe: what each source of shortcut gives of its "
        "advantage over chance",
        runs,
        code("Run", "name"),
        text("Verdict", lambda run: level_words(str(run["verdict"]["level"]))),
        *(status(name, partial(_of_source, name=name)) for name in SOURCES),
        note="A higher score does not make an unsafe run the better model.",
    )


def _of_source(run: Mapping[str, Any], name: str) -> str:
    """What one run's verdict says of one source."""
    found = {row["source"]: row for row in run["verdict"].get("sources") or ()}
    if name not in found:
        return DASH
    row = found[name]
    share = f" {interval(row['share'], 'share')}" if row["share"] else ""
    return f"{SIGNS[row['status']]}{share}"
