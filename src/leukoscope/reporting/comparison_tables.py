"""The tables of a comparison: results, tests, cost; one registry at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leukoscope.reporting.comparison_source import (
    Comparison,
    Entry,
    big,
    joined,
    latency_of,
    mean,
    value_of,
)
from leukoscope.reporting.content import Column, Table
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
from leukoscope.reporting.result_tables import CLASS_METRICS, marked
from leukoscope.reporting.source import class_title
from leukoscope.reporting.wording import protocol_title

MAIN_PLAIN = ("macro_f1", "roc_auc", "ece")
ALL_METRICS = (
    "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc", "pr_auc", "log_loss", "brier", "ece",
)  # fmt: skip


def overview(comparison: Comparison) -> Table:
    """One row a recipe, the protocols side by side, with cost and the study's own figure."""
    names = [head["name"] for head in comparison.protocols]
    sides = " / ".join(names)
    columns = (
        Column("Recipe", narrow=True),
        *(Column(f"Accuracy, {name}", numeric=True) for name in names),
        *(Column(f"{metric_title(m)}, {sides}", numeric=True, lines=True) for m in MAIN_PLAIN),
        Column("Epochs run of published", numeric=True, lines=True),
        Column("Parameters", numeric=True),
        Column("MACs", numeric=True),
        Column("Latency, 1 image", numeric=True),
        Column("Training, one fit", numeric=True, lines=True),
        Column("Reported by the study"),
    )
    rows = tuple(
        (
            comparison.name(entry),
            *(interval(value_of(entry, name, "accuracy"), "accuracy") for name in names),
            *(_sides(entry, names, metric) for metric in MAIN_PLAIN),
            epochs(entry, names),
            big((entry.get("complexity") or {}).get("parameters")),
            big((entry.get("complexity") or {}).get("macs")),
            milliseconds(latency_of(entry, 1), "median_ms"),
            joined([seconds(mean(_training(entry, name).get("seconds", ()))) for name in names]),
            entry["reported"] or DASH,
        )
        for entry in comparison.entries
    )
    note = (
        f"{comparison.signs} The last column is as published, not measured here, and on other "
        "splits."
    ).strip()
    sizes = "; ".join(f"{head['name']}: {sample(head)}" for head in comparison.protocols)
    caption = f"All recipes on the same test images ({comparison.level} intervals; {sizes})"
    return marked(Table(caption, columns, rows, note))


def sample(head: Entry) -> str:
    """How many images in how many groups."""
    groups = plural(head["n_groups"], head["group_unit"])
    return f"{count(head['n'])} images in {groups}"


def _sides(entry: Entry, protocols: Sequence[str], metric: str) -> str:
    found = [value_of(entry, name, metric) or {} for name in protocols]
    return " / ".join(number(record.get("value"), metric) for record in found)


def _training(entry: Entry, protocol: str) -> Mapping[str, Sequence[object]]:
    return entry["training"].get(protocol) or {}


def epochs(entry: Entry, protocols: Sequence[str]) -> str:
    """``2 of 20, best 2``; the epochs of several folds as a range, protocols side by side."""
    trained = [record for name in protocols if (record := _training(entry, name)).get("epochs")]
    if not trained:
        return DASH
    run, best = (joined([_range(record[key]) for record in trained])
                 for key in ("epochs", "best_epoch"))  # fmt: skip
    published = entry.get("published_epochs")
    return f"{run}{f' of {published}' if published else ''}, best {best}"


def _range(values: Sequence[object]) -> str:
    known = sorted(int(v) for value in values if (v := finite(value)) is not None)
    if not known:
        return DASH
    return str(known[0]) if known[0] == known[-1] else f"{known[0]}–{known[-1]}"


def milliseconds(timed: Mapping[str, object] | None, key: str) -> str:
    """A latency with two or three digits.

    >>> milliseconds({"median_ms": 7.123}, "median_ms"), milliseconds(None, "p95_ms")
    ('7.1 ms', '—')
    """
    value = None if timed is None else finite(timed[key])
    if value is None:
        return DASH
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def metrics(comparison: Comparison) -> Table:
    """Every overall metric with its interval."""
    columns = (
        Column("Protocol"),
        Column("Recipe", narrow=True),
        *(Column(metric_title(name), numeric=True) for name in ALL_METRICS),
    )
    rows = tuple(
        (
            protocol_title(head["name"]),
            comparison.name(entry),
            *(interval(value_of(entry, head["name"], name), name) for name in ALL_METRICS),
        )
        for head in comparison.protocols
        for entry in comparison.under(head["name"])
    )
    return marked(Table(f"Further metrics ({comparison.level} intervals)", columns, rows,
                        grouped=True))  # fmt: skip


def places(comparison: Comparison) -> Table:
    """Rank of each recipe with its interval."""
    columns = (
        Column("Protocol"),
        Column("Recipe", narrow=True),
        Column(metric_title(comparison.metric), numeric=True),
        Column("Place", numeric=True),
        Column(f"{comparison.level} interval", numeric=True),
        Column("First in", numeric=True),
    )
    rows = []
    for head in comparison.protocols:
        for entry in comparison.under(head["name"]):
            place = entry["results"][head["name"]]["place"]
            rows.append(
                (
                    protocol_title(head["name"]),
                    comparison.name(entry),
                    interval(value_of(entry, head["name"], comparison.metric), comparison.metric),
                    f"{place['rank']:g}",
                    f"{place['low']:g}–{place['high']:g}{'' if place['reliable'] else UNRELIABLE}",
                    number(place["first"], "share"),
                )
            )
    note = (
        f"The recipes were ranked again in each of {count(comparison.values['replicates'])} "
        "bootstrap replicates, on the same resampled groups for all; equals share the mean of "
        "their places. “First in”: share of the replicates."
    )
    caption = f"Places by {metric_title(comparison.metric)}"
    return marked(Table(caption, columns, tuple(rows), note, grouped=True))


def paired_tests(comparison: Comparison) -> Table | None:
    """Each recipe against the reference on the same images."""
    found = comparison.values["tests"]
    if not found:
        return None
    metric = comparison.metric
    columns = (
        Column("Protocol and reference"),
        Column("Recipe", narrow=True),
        Column("Difference", numeric=True),
        Column("p", numeric=True),
        Column("p, Holm", numeric=True),
        Column("It is"),
    )
    of_recipe = {(row["protocol"], row["a"]): row for row in found}
    rows = tuple(
        (
            f"{protocol_title(head['name'])}, against {comparison.short[row['b']]}",
            comparison.name(entry),
            difference(row["difference"], metric),
            p_value(row["p"]),
            p_value(row["p_holm"]),
            row["verdict"],
        )
        for head in comparison.protocols
        for entry in comparison.under(head["name"])
        if (row := of_recipe.get((head["name"], entry["label"])))
    )
    chosen = (
        "The reference is the best of the same figures, which flatters it a little."
        if comparison.values["against"] == "best"
        else "The reference was chosen beforehand."
    )
    note = (
        "Two-sided exchange test: whole groups swap the predictions of the two recipes (Noreen "
        "1989). With few groups no p-value can be small: of G groups the smallest possible is "
        f"2/2^G. Holm’s correction for all comparisons of one protocol. {chosen}"
    )
    caption = (
        f"Paired tests of {metric_title(metric)} on the same images "
        f"({comparison.level} intervals of the difference)"
    )
    return marked(Table(caption, columns, rows, note, grouped=True))


def per_class(comparison: Comparison, entry: Entry) -> Table:
    """Each class against the rest, under each protocol."""
    columns = (
        Column("Protocol"),
        Column("Class"),
        Column("n images", numeric=True),
        *(Column({"f1": "F1"}.get(m) or metric_title(m).capitalize() if m != "roc_auc"
                 else "ROC AUC", numeric=True) for m in CLASS_METRICS),
    )  # fmt: skip
    rows = tuple(
        (
            protocol_title(head["name"]),
            class_title(name),
            count(head["per_class"][name]),
            *(interval(value_of(entry, head["name"], f"{m}_{name}"), m) for m in CLASS_METRICS),
        )
        for head in comparison.protocols
        if head["name"] in entry["results"]
        for name in comparison.class_names
    )
    caption = (
        f"Each class against the rest, {comparison.name(entry)} ({comparison.level} intervals)"
    )
    return marked(Table(caption, columns, rows, grouped=True))


def cost(comparison: Comparison) -> Table | None:
    """Parameters, operations, file size and measured latency."""
    found = [(comparison.name(e), e) for e in comparison.entries if e.get("complexity")]
    found += [(f"{entry['label']} as published", entry) for entry in comparison.published]
    if not found:
        return None
    columns = (
        Column("Recipe", narrow=True),
        Column("Input", numeric=True),
        Column("Parameters", numeric=True),
        Column("MACs", numeric=True),
        Column("File", numeric=True),
        *(
            Column(title, numeric=True)
            for batch in (1, 32)
            for title in (f"Median, batch {batch}", f"p95, batch {batch}")
        ),
        Column("Images a second, batch 32", numeric=True),
    )
    rows = tuple(_cost_row(name, entry) for name, entry in found)
    note = _cost_note([entry for _, entry in found])
    if comparison.published:
        note += " “As published”: on its own backbone with random weights; it was not trained here."
    return Table("Cost of each network, counted and measured", columns, rows, note)


def _cost_row(name: str, entry: Entry) -> tuple[str, ...]:
    known = entry["complexity"]
    size = known.get("size_mb")
    one, many = latency_of(entry, 1), latency_of(entry, 32)
    speed = DASH if many is None else f"{32000 / many['median_ms']:,.0f}"
    return (
        name,
        f"{entry['settings']['preprocess']['size_px']} px",
        big(known["parameters"]),
        big(known["macs"]),
        DASH if size is None else f"{size:.1f} MB",
        milliseconds(one, "median_ms"),
        milliseconds(one, "p95_ms"),
        milliseconds(many, "median_ms"),
        milliseconds(many, "p95_ms"),
        speed,
    )


def _cost_note(found: Sequence[Entry]) -> str:
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


def external(comparison: Comparison) -> Table | None:
    """Models on other data, from outputs of ``evaluate``."""
    found = comparison.values.get("external") or ()
    if not found:
        return None
    shown = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "ece")
    columns = (
        Column("Evaluation"),
        Column("Classes"),
        Column("n images", numeric=True),
        Column("n groups"),
        *(Column(metric_title(name), numeric=True) for name in shown),
        Column("What to know"),
    )
    rows = tuple(
        (
            e["name"],
            ", ".join(class_title(name) for name in e["class_names"]),
            count(e["n"]),
            plural(e["n_groups"], e["group_unit"]),
            *(interval(e["metrics"].get(name), name) for name in shown),
            "; ".join(e["warnings"]) or DASH,
        )
        for e in found
    )
    return marked(Table(f"On other data ({comparison.level} intervals)", columns, rows))
