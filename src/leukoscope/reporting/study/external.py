"""The section on other data: what the study forecast, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.forecast import INSIDE
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Record,
    Section,
    Table,
    present,
    table_of,
    text,
    value,
)
from leukoscope.reporting.figures.other_data import ForecastRow, forecast_chart
from leukoscope.reporting.formats import (
    DASH,
    count,
    finite,
    interval,
    is_percent,
    metric_title,
    number,
    plural,
)
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study_files import Study

METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss", "ece")
FORECAST = ("accuracy", "roc_auc")
_MEANING = (
    "The forecast of a study is the range in which the result of as many new patients should lie, "
    "if they are drawn from where the study’s own came from. A result outside it means that they "
    "are not: another laboratory, stain, microscope, or other patients. The bundle was fitted on "
    "all images of the study, the internal results are those of its held-out ones."
)


def external(study: Study, gallery: Gallery) -> Section:
    """Internal and external results side by side; empty where no other data was named."""
    entries = _entries(study)
    if not entries:
        return Section("external", "On other data", [])
    blocks: list[Block] = [Paragraph(in_words(entry)) for entry in entries]
    blocks += present(_chart(study, gallery, entries))
    for entry in entries:
        blocks += [Heading(entry["data"])] if len(entries) > 1 else []
        blocks.append(_table(study, entry))
        blocks.append(Paragraph(_decisions(entry)))
        if entry["warnings"]:
            blocks.append(Bullets(tuple(entry["warnings"])))
    blocks.append(Paragraph(_MEANING, note=True))
    return Section("external", "On other data", blocks)


def in_words(entry: Record) -> str:
    """One data set in a sentence or two."""
    found = [
        f"{_lower(name)} {interval(entry['metrics'][name], name)}"
        for name in FORECAST
        if finite((entry["metrics"].get(name) or {}).get("value")) is not None
    ]
    start = f"{entry['data']} ({_sample(entry)}): {' and '.join(found)}"
    forecast = entry["forecast"]
    if "reason" in forecast:
        return f"{start}. No forecast can be compared: {forecast['reason']}."
    said = [
        f"{_lower(name)} is {forecast[name]['verdict']} of {_range(forecast[name], name)}"
        for name in FORECAST
        if name in forecast
    ]
    below = any(_side(entry, name) < 0 for name in FORECAST if name in forecast)
    end = " The study promised more than the model keeps there." if below else ""
    return f"{start}; {' and '.join(said)} for {_units(forecast)}.{end}"


def summary(study: Study) -> str:
    """How many of the data sets lie inside the forecast, without their names."""
    entries = [e for e in _entries(study) if "reason" not in e["forecast"]]
    inside = sum(_inside(entry) for entry in entries)
    return f"{inside} of {plural(len(entries), 'other data set')} inside the forecast"


def _entries(study: Study) -> Sequence[Record]:
    return study.metrics.get("external") or ()


def _inside(entry: Record) -> bool:
    return all(
        entry["forecast"][m]["verdict"] == INSIDE for m in FORECAST if m in entry["forecast"]
    )


def _side(entry: Record, name: str) -> int:
    """−1 below the forecast, 1 above it, else 0."""
    range_, found = entry["forecast"][name], entry["metrics"][name]["value"]
    return int(found > range_["high"]) - int(found < range_["low"])


def _sample(entry: Record) -> str:
    return f"{count(entry['n'])} images of {plural(entry['n_groups'], entry['group_unit'])}"


def _units(forecast: Record) -> str:
    return f"{forecast['n_units']} new {forecast['unit']}s"


def _range(entry: Mapping[str, Any], name: str) -> str:
    low, high = entry["low"], entry["high"]
    if is_percent(name):
        return f"{100 * low:.1f}–{100 * high:.1f} %"
    return f"{number(low, name)}–{number(high, name)}"


def _lower(name: str) -> str:
    title = metric_title(name)
    return title if title.isupper() or title.startswith("ROC") else title[:1].lower() + title[1:]


def _table(study: Study, entry: Record) -> Table:
    internal = study.result(entry["internal"]["recipe"], entry["internal"]["protocol"])
    own = {} if internal is None else internal["metrics"]
    forecast = entry["forecast"]
    known = "reason" not in forecast
    rows = [name for name in METRICS if name in entry["metrics"]]

    def ahead(name: str) -> str:
        return _range(forecast[name], name) if name in forecast else DASH

    def verdict(name: str) -> str:
        if name not in forecast:
            return DASH
        side = {-1: " (below)", 0: "", 1: " (above)"}[_side(entry, name)]
        return f"{forecast[name]['verdict']}{side}"

    fields = [
        text("Metric", metric_title),
        value("This study, held out", lambda name: interval(own.get(name), name)),
        *([value(f"Forecast for {_units(forecast)}", ahead)] if known else []),
        value(entry["data"], lambda name: interval(entry["metrics"][name], name)),
        *([text("It is", verdict)] if known else []),
    ]
    held_out = protocol_title(entry["internal"]["protocol"]).lower()
    return table_of(
        f"Inside and outside: {held_out}, and {entry['data']} ({_sample(entry)}), with "
        f"{study.level} intervals",
        rows,
        *fields,
        note="A forecast is made of accuracy and ROC AUC. Log loss and ECE are better where they "
        "are smaller.",
    )


def _decisions(entry: Record) -> str:
    decisions = entry["decisions"]
    share = decisions["share"]
    text_ = (
        f"Decisions of the bundle there: accept {_share(share['accept'])}, review "
        f"{_share(share['review'])}, reject {_share(share['reject'])} of the images."
    )
    if decisions.get("coverage"):
        held = interval(decisions["coverage"], "coverage")
        text_ += f" Its prediction sets hold the true class in {held}."
    return text_


def _share(part: float) -> str:
    return number(part, "share")


def _chart(study: Study, gallery: Gallery, entries: Sequence[Record]) -> Picture | None:
    rows = []
    for entry in entries:
        internal = study.result(entry["internal"]["recipe"], entry["internal"]["protocol"])
        if internal is None or "reason" in entry["forecast"]:
            continue
        rows.append(
            ForecastRow(
                entry["data"],
                {
                    name: (
                        internal["metrics"][name],
                        entry["forecast"][name],
                        entry["metrics"][name],
                    )
                    for name in FORECAST
                    if name in entry["forecast"]
                },
            )
        )
    if not rows:
        return None
    titles = {name: metric_title(name) for name in FORECAST}
    return gallery.draw(
        "external",
        lambda: forecast_chart(rows, titles),
        narrow=lambda: forecast_chart(rows, titles, narrow=True),
        caption="Grey: the range that the study forecasts for as many new patients; open: its own "
        f"held-out images; filled: the other data, with {study.level} intervals.",
        alt="; ".join(in_words(entry) for entry in entries),
    )
