"""The section on damaged images; there only where ``robustness`` was run."""

from __future__ import annotations

from collections.abc import Mapping

from leukoscope.config.guarantees import Envelope, EnvelopeLimit
from leukoscope.config.robustness import ConditionMetric, DamagedModel, RobustnessFile
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Field,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    code,
    present,
    table_of,
    text,
    value,
)
from leukoscope.reporting.figures.other_data import damage_curves
from leukoscope.reporting.formats import difference, interval, number, plural
from leukoscope.reporting.gallery import Gallery

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
    blocks.append(summary(result))
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


def summary(result: RobustnessFile) -> Table:
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
