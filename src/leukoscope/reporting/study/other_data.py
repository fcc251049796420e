"""Other data: what the study forecast for it, and what the model declines; damaged images.

The section on damaged images is there only where ``robustness`` was run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from leukoscope.config.guarantees import Envelope, EnvelopeLimit
from leukoscope.config.metrics.evidence import OutlierKind, Rejection
from leukoscope.config.metrics.other_data import BundleDecisions, Forecast, ForecastRange, OtherData
from leukoscope.config.metrics.results import Reason
from leukoscope.config.robustness import ConditionMetric, DamagedModel, RobustnessFile
from leukoscope.core.files import read_csv, read_json
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, OOD_JSON
from leukoscope.evaluation.statistics.forecast import INSIDE
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    present,
)
from leukoscope.reporting.figures.other_data import (
    ForecastRow,
    OodPanel,
    damage_curves,
    forecast_chart,
    ood_histograms,
)
from leukoscope.reporting.formats import (
    DASH,
    count,
    difference,
    interval,
    is_percent,
    metric_title,
    metric_words,
    number,
    plural,
)
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.record_tables import RECIPE, Field, code, table_of, text, value
from leukoscope.reporting.result_tables import subgroup_blocks
from leukoscope.reporting.study.results import panel_title
from leukoscope.reporting.study_files import Study

EXTERNAL_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss", "ece")
FORECAST = ("accuracy", "roc_auc")
_MEANING = (
    "The forecast of a study is the range in which the result of as many new patients should lie, "
    "if they are drawn from where the study’s own came from. A result outside it means that they "
    "are not: another laboratory, stain, microscope, or other patients. The bundle was fitted on "
    "all {row}s of the study, the internal results are those of its held-out ones."
)
_HELD_OUT = text("Held out", lambda e: protocol_title(e.protocol))


def external(study: Study, gallery: Gallery) -> Section:
    """Internal and external results side by side; empty where no other data was named."""
    entries = study.metrics.external
    if not entries:
        return Section("external", "On other data", [])
    blocks: list[Block] = [Paragraph(in_words(entry, study.row)) for entry in entries]
    blocks += present(_chart(study, gallery, entries))
    for entry in entries:
        blocks += [Heading(entry.data)] if len(entries) > 1 else []
        blocks.append(_table(study, entry))
        blocks.append(Paragraph(_decisions(entry.decisions, study.row)))
        blocks += subgroup_blocks(entry.subgroups) if entry.subgroups else []
        if entry.warnings:
            blocks.append(Bullets(entry.warnings))
    blocks.append(Paragraph(_MEANING.format(row=study.row), note=True))
    return Section("external", "On other data", blocks)


def in_words(entry: OtherData, row: str = "image") -> str:
    """One data set in a sentence or two; ``row`` is what is counted: image or patient."""
    found = [
        f"{metric_words(name)} {interval(known, name)}"
        for name in FORECAST
        if (known := entry.metrics.get(name)) and known.value is not None
    ]
    start = f"{entry.data} ({_sample(entry, row)}): {' and '.join(found)}"
    forecast = entry.forecast
    if isinstance(forecast, Reason):
        return f"{start}. No forecast can be compared: {forecast.reason}."
    ranges = _ranges(forecast)
    said = [
        f"{metric_words(name)} is {range_.verdict} of {_range(range_, name)}"
        for name, range_ in ranges.items()
    ]
    below = any(_side(entry, name, range_) < 0 for name, range_ in ranges.items())
    end = " The study promised more than the model keeps there." if below else ""
    return f"{start}; {' and '.join(said)} for {_units(forecast)}.{end}"


def summary(study: Study) -> str:
    """How many of the data sets lie inside the forecast, without their names."""
    found = [entry.forecast for entry in study.metrics.external]
    forecasts = [_ranges(forecast) for forecast in found if isinstance(forecast, Forecast)]
    inside = sum(all(one.verdict == INSIDE for one in ranges.values()) for ranges in forecasts)
    return f"{inside} of {plural(len(forecasts), 'other data set')} inside the forecast"


def _ranges(forecast: Forecast | Reason) -> dict[str, ForecastRange]:
    """Metric → what was forecast of it; empty where nothing was."""
    if isinstance(forecast, Reason):
        return {}
    return {name: found for name in FORECAST if (found := forecast.of(name)) is not None}


def _side(entry: OtherData, name: str, forecast: ForecastRange) -> int:
    """−1 below the forecast, 1 above it, else 0."""
    value, low, high = entry.metrics[name].value, forecast.low, forecast.high
    if value is None or low is None or high is None:
        return 0
    return int(value > high) - int(value < low)


def _sample(entry: OtherData, row: str) -> str:
    if row == entry.group_unit and entry.n == entry.n_groups:
        return plural(entry.n, row)
    return f"{plural(entry.n, row)} of {plural(entry.n_groups, entry.group_unit)}"


def _units(forecast: Forecast) -> str:
    return f"{forecast.n_units} new {forecast.unit}s"


def _range(entry: ForecastRange, name: str) -> str:
    low, high = entry.low, entry.high
    if is_percent(name) and low is not None and high is not None:
        return f"{100 * low:.1f}–{100 * high:.1f} %"
    return f"{number(low, name)}–{number(high, name)}"


def _table(study: Study, entry: OtherData) -> Table:
    internal = study.result(entry.internal.recipe, entry.internal.protocol)
    own = {} if internal is None else internal.metrics
    ranges = _ranges(entry.forecast)
    rows = [name for name in EXTERNAL_METRICS if name in entry.metrics]

    def ahead(name: str) -> str:
        return _range(ranges[name], name) if name in ranges else DASH

    def verdict(name: str) -> str:
        if name not in ranges:
            return DASH
        side = {-1: " (below)", 0: "", 1: " (above)"}[_side(entry, name, ranges[name])]
        return f"{ranges[name].verdict}{side}"

    fields = [
        text("Metric", metric_title),
        value("This study, held out", lambda name: interval(own.get(name), name)),
        value(entry.data, lambda name: interval(entry.metrics[name], name)),
    ]
    if isinstance(entry.forecast, Forecast):
        fields.insert(2, value(f"Forecast for {_units(entry.forecast)}", ahead))
        fields.append(text("It is", verdict))
    held_out = protocol_title(entry.internal.protocol).lower()
    return table_of(
        f"Inside and outside: {held_out}, and {entry.data} ({_sample(entry, study.row)}), with "
        f"{study.level} intervals",
        rows,
        *fields,
        note="A forecast is made of accuracy and ROC AUC. Log loss and ECE are better where they "
        "are smaller.",
    )


def _decisions(decisions: BundleDecisions, row: str) -> str:
    share = decisions.share
    text_ = (
        f"Decisions of the bundle there: accept {_share(share.accept)}, review "
        f"{_share(share.review)}, reject {_share(share.reject)} of the {row}s."
    )
    if decisions.coverage:
        held = interval(decisions.coverage, "coverage")
        text_ += f" Its prediction sets hold the true class in {held}."
    return text_


def _share(part: float) -> str:
    return number(part, "share")


def _chart(study: Study, gallery: Gallery, entries: Sequence[OtherData]) -> Picture | None:
    rows = []
    for entry in entries:
        internal = study.result(entry.internal.recipe, entry.internal.protocol)
        ranges = _ranges(entry.forecast)
        if internal is None or not ranges:
            continue
        values = {
            name: (internal.metrics[name], range_, entry.metrics[name])
            for name, range_ in ranges.items()
        }
        rows.append(ForecastRow(entry.data, values))
    if not rows:
        return None
    titles = {name: metric_title(name) for name in FORECAST}
    return gallery.draw(
        "external",
        lambda: forecast_chart(rows, titles),
        caption="Grey: the range that the study forecasts for as many new patients; open: its own "
        f"held-out {study.row}s; filled: the other data, with {study.level} intervals.",
        alt="; ".join(in_words(entry, study.row) for entry in entries),
    )


def rejection(study: Study, gallery: Gallery) -> Section:
    """Table, figure and kinds of outliers; nothing for a study that measured no gate."""
    entries, table = _ood_entries(study), rejection_table(study)
    blocks: list[Block] = []
    if table is not None:
        share = f"{100 * entries[0].accept:g} %"
        blocks = [
            Paragraph(
                "A model answers whatever it is shown. The gate asks first whether an image is "
                "like those it was trained on: several scores are scaled so that 0 is the median "
                "of the validation images and 1 what "
                f"{share} of them do not exceed, and the largest one decides. Its threshold "
                f"accepts {share} of the validation images; under a harsher protocol more test "
                "images are strange, and are declined. Which scores take part was chosen with "
                "synthetic outliers (shuffled, recoloured, doubled, pasted … images), none of "
                "them made of a test image."
            ),
            table,
        ]
        first = entries[0].recipe
        blocks.append(_figure(study, gallery, [e for e in entries if e.recipe == first]))
        blocks.append(Folded("By kind of outlier", (_kinds(entries),)))
    return Section("rejection", "What the model declines", blocks)


def _ood_entries(study: Study) -> list[Rejection]:
    return [entry for entry in study.metrics.ood if entry.roc_auc is not None]


def rejection_table(study: Study) -> Table | None:
    """Test images declined, and outliers told from them; None where no gate was measured."""
    entries = _ood_entries(study)
    if not entries:
        return None
    accept = entries[0].accept
    fewest = min(entry.least_n_val for entry in entries)
    note = "The synthetic outliers are of the same kinds as those that chose the scores."
    if (fewest + 1) * (1 - accept) < 1 - 1e-9:
        note += (
            f" A fold has only {plural(fewest, 'validation image')}: its threshold is their "
            f"largest score, which cannot promise {100 * accept:g} %."
        )
    return table_of(
        "Test images that the gate declines, and how well it tells synthetic outliers from test "
        f"images ({study.level} intervals over groups; all folds pooled)",
        entries,
        _HELD_OUT, RECIPE,
        value("n images", lambda e: f"{count(e.n)} ({plural(e.n_groups, e.unit)})"),
        value("Declined", lambda e: interval(e.rejected, "accuracy")),
        value("Accuracy, accepted", lambda e: interval(e.accuracy.get("accepted"), "accuracy")),
        value("Accuracy, declined", lambda e: interval(e.accuracy.get("rejected"), "accuracy")),
        value("ROC AUC, outliers", lambda e: interval(e.roc_auc, "roc_auc")),
        code("Scores", lambda e: ", ".join(k for k, folds in e.folds_using.items() if folds)),
        note=note, grouped=True,
    )  # fmt: skip


class _KindRow(NamedTuple):
    """Synthetic outliers of one kind, told from the test images of one recipe and protocol."""

    protocol: str
    recipe: str
    kind: str
    found: OutlierKind


def _kinds(entries: list[Rejection]) -> Table:
    return table_of(
        "Synthetic outliers made of test images, by kind",
        [
            _KindRow(e.protocol, e.recipe, kind, found)
            for e in entries
            for kind, found in e.kinds.items()
        ],
        _HELD_OUT, RECIPE, text("Outliers", "kind"), value("n", lambda e: count(e.found.n)),
        value("ROC AUC", lambda e: number(e.found.roc_auc, "roc_auc")),
        value("Accepted", lambda e: number(e.found.false_accept, "share")),
        grouped=True,
    )  # fmt: skip


def _figure(study: Study, gallery: Gallery, entries: list[Rejection]) -> Block:
    panels = [_panel(study, entry) for entry in entries]
    return gallery.draw(
        "ood-scores",
        lambda: ood_histograms(panels),
        caption=(
            f"OOD scores of validation images, test images and synthetic outliers, recipe "
            f"{entries[0].recipe} (all folds; what lies beyond an end is counted at it; "
            "threshold: mean of the folds)."
        ),
        alt="Histograms; how far outliers are from test images stands in the table above.",
    )


def _panel(study: Study, entry: Rejection) -> OodPanel:
    parent = study.run.model(entry.recipe, entry.protocol, 0).parent
    folders = sorted(path.parent for path in parent.glob(f"fold*/{OOD_CSV}"))
    rows = [row for folder in folders for row in read_csv(folder / OOD_CSV, OOD_COLUMNS)]
    scores = np.array([float(row["score"]) for row in rows])
    outlier = np.array([row["outlier"] != "" for row in rows])
    test = np.array([row["part"] == "test" for row in rows])
    return OodPanel(
        panel_title(entry),
        (scores[~test & ~outlier], scores[test & ~outlier], scores[test & outlier]),
        float(np.mean([read_json(folder / OOD_JSON)["threshold"] for folder in folders])),
    )


SHEET = "robustness-sheet.png"
_CURVES: Mapping[ConditionMetric, str] = {
    "accuracy": "accuracy, %",
    "ece": "ECE, %",
    "review": "sent to review, %",
    "reject": "rejected, %",
}


def robustness(gallery: Gallery) -> list[Section]:
    """What damage to the test images costs the models of this run."""
    run = gallery.run
    if not run.robustness.is_file():
        return []
    result = RobustnessFile.load(run.robustness)
    sheet = gallery.stored(
        run.figures / SHEET,
        caption="One test image under each corruption. Below each picture the level.",
        alt="One field, undamaged and at five severities of each corruption.",
    )
    return [Section("robustness", "Damaged images", [*draw(result, gallery), *present(sheet)])]


def draw(result: RobustnessFile, gallery: Gallery) -> list[Block]:
    """Text, curves and tables; the curves are also written as files.

    ``gallery`` is that of the folder for the figures.
    """
    sample = (
        f"{plural(result.n, 'test image')} of {result.n_available:,}, "
        f"{plural(result.n_groups, result.group_unit)}, {result.protocol}"
    )
    words = (
        "The test images were damaged in known ways before preprocessing, in five severities, and "
        f"answered by the models that had not seen them ({sample}; bands are "
        f"{100 * result.confidence:g} % intervals that resample {result.group_unit}s)."
    )
    blocks: list[Block] = [Paragraph(words)]
    if result.warnings:
        blocks.append(Bullets(result.warnings))
    metrics = [name for name in _CURVES if result.recipes[0].clean.metric(name)]
    blocks += [_curves(metric, result, gallery, sample) for metric in metrics]
    blocks.append(corruption_costs(result))
    for model in result.recipes:
        blocks += [Folded(f"All accuracies of {model.recipe}", (_accuracies(model, result),))]
        if model.envelope:
            blocks += [Heading(f"Envelope of {model.recipe}"), *_envelope(model.envelope, result)]
    return blocks


def _curves(
    metric: ConditionMetric, result: RobustnessFile, gallery: Gallery, sample: str
) -> Picture:
    label = _CURVES[metric]
    caption = f"{label.removesuffix(', %')} over severity; {sample}."
    if metric == "accuracy":
        caption += f" Dashed: {100 * result.bound:g} points below that on undamaged images."
    return gallery.draw(
        f"robustness-{metric}",
        lambda: damage_curves(result, metric, label),
        caption=caption[0].upper() + caption[1:],
        alt=f"{label} over the severities of {plural(len(result.corruptions), 'corruption')}; "
        "the numbers are in robustness.csv.",
    )


def corruption_costs(result: RobustnessFile) -> Table:
    """What each corruption costs, one row each."""
    first = result.recipes[0].recipe

    def relative(model: DamagedModel) -> str:
        return "the reference" if model.recipe == first else interval(model.mce, "share")

    return table_of(
        "Mean error over all corruptions and severities", result.recipes,
        code("recipe", "recipe", narrow=False),
        value("accuracy, undamaged", lambda m: interval(m.clean.accuracy, "accuracy")),
        value("mean error, damaged", lambda m: interval(m.mean_error, "share")),
        value(f"mCE against {first}", relative),
        note="mCE: for each corruption the errors summed over severities, divided by those of the "
        "reference, then averaged (Hendrycks & Dietterich 2019); below 100 % is better than it.",
    )  # fmt: skip


def _accuracies(model: DamagedModel, result: RobustnessFile) -> Table:
    return table_of(
        f"{model.recipe}, each condition", model.conditions,
        _corruption(result),
        value("severity", "severity"),
        value("level", lambda row: f"{row.level:g}"),
        value("accuracy", lambda row: interval(row.accuracy, "accuracy")),
        value("difference to undamaged", lambda row: difference(row.difference, "accuracy")),
        value("ECE", lambda row: number(row.ece.value, "ece")),
        grouped=True,
    )  # fmt: skip


def _corruption(result: RobustnessFile) -> Field:
    return text("corruption", lambda row: result.corruptions[row.corruption].title)


def _envelope(envelope: Envelope, result: RobustnessFile) -> list[Block]:
    def check(limit: EnvelopeLimit) -> str:
        ends = (("≥", limit.low), ("≤", limit.high))
        known = [f"{word} {end:.3g}" for word, end in ends if end is not None]
        statistic = limit.statistic.replace("_", " ")
        return f"{statistic} {', '.join(known)}" if known else "not checked"

    words = (
        f"The largest severity at which the accuracy stays within {100 * envelope.bound:g} "
        "points of that on undamaged images (lower limit of the paired difference, severities "
        "tested in order up to the first that fails). Where a measure of the single image tells, "
        "a bundle with this envelope sends images beyond the limit to review. "
        f"{100 * envelope.false_alarms:.1f} % of the undamaged test images lie beyond some "
        "limit. The fold models were measured, each on images that it had not seen; a bundle's "
        "own model, fitted on all images, has no test part."
    )
    table = table_of(
        "What the model stands", envelope.limits,
        _corruption(result),
        text("kept up to severity", lambda e: f"{e.severity} of {e.severities}"),
        text("checked at prediction", check),
        text("caught at the next severity", lambda e: number(e.caught, "share")),
        text("caught at the worst", lambda e: number(e.caught_worst, "share")),
        note="Not checked: no measure of a single image tells this damage from a usual image "
        "(it would catch less than half of the images at the worst severity).",
    )  # fmt: skip
    return [Paragraph(words), table]
