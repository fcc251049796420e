"""The sections on probabilities, prediction sets and operating points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from leukoscope.config.metrics.decisions import CoveredPart, Guarantee, Sets
from leukoscope.core.protocols import protocol_title
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.statistics.thresholds import reliability, risk_coverage
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    present,
)
from leukoscope.reporting.figures.classification import (
    BenefitPanel,
    CoverageMark,
    CoveragePanel,
    ReliabilityPanel,
    RiskLine,
    coverage_chart,
    net_benefit_chart,
    reliability_diagrams,
    risk_coverage_chart,
)
from leukoscope.reporting.formats import difference, number, plural, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.result_tables import protocol_cell
from leukoscope.reporting.study import decision_tables as tables
from leukoscope.reporting.study.decision_tables import promise_words
from leukoscope.reporting.study.results import MOST_RECIPES, panel_title
from leukoscope.reporting.study_files import Study


def calibration(study: Study, gallery: Gallery) -> Section:
    """Are the probabilities honest?"""
    rows = f"{study.row}s"
    blocks: list[Block] = [
        Paragraph(
            f"A probability is worth something only if it keeps its promise: of the {rows} that "
            "get 80 %, eight in ten should be right. The scaling of each fold was fitted on what "
            f"the models of the other folds answered to the {rows} that they tested and had not "
            "seen, none of which tests this fold; of a single hold-out on its part `cal`. It is "
            "one temperature, or one weight and bias a class where a cross-validation among those "
            f"{rows} shows that to be better."
        )
    ]
    blocks += present(tables.calibration(study))
    worse = tuple(_worse(study))
    if worse:
        blocks.append(Bullets(worse))
    for recipe in study.recipes[:MOST_RECIPES]:
        blocks += _reliability_chart(study, gallery, recipe)
    further = tables.further_calibration(study)
    if further is not None:
        blocks.append(Folded("Further measures", (further,)))
    return Section("calibration", "Are the probabilities honest?", blocks)


def decisions(study: Study, gallery: Gallery) -> Section:
    """What may be promised, and whether it is kept."""
    blocks: list[Block] = present(tables.sets(study))
    if not blocks:
        return Section("decisions", "Prediction-set coverage")
    blocks += _bundle_promise(study)
    alike = tuple(_exchangeability(study))
    if alike:
        blocks += [Heading("Does the promise apply?"), Bullets(alike)]
    blocks += _coverage_chart(study, gallery)
    for table in (tables.promises(study), tables.parts(study), tables.candidates(study)):
        if table is not None:
            blocks.append(Folded(table.caption, (table,)))
    blocks += _selective(study, gallery)
    blocks += _net_benefit(study, gallery)
    blocks += _operating_point(study)
    return Section("decisions", "Prediction-set coverage", blocks)


def reliability_panel(study: Study, recipe: str, protocol: str) -> ReliabilityPanel | None:
    """Before and after calibration, or None where no test predictions are stored."""
    entry, scores = study.result(recipe, protocol), study.scores(recipe, protocol)
    if entry is None or scores is None:
        return None
    known = bool(np.isfinite(scores.logits).all())
    raw = softmax(scores.logits) if known else None
    changed = raw is not None and not np.allclose(raw, scores.probs, atol=1e-6)
    return ReliabilityPanel(
        title=panel_title(entry),
        after=reliability(scores.y_true, scores.probs),
        before=reliability(scores.y_true, raw) if raw is not None and changed else None,
    )


def _worse(study: Study) -> Iterator[str]:
    """Where calibration did harm, with the likely reason."""
    for entry in study.metrics.calibration:
        change = entry.change.get("log_loss")
        if change is not None and change.low is not None and change.low > 0:
            yield (
                f"{protocol_cell(study, entry)}: calibration made the log loss worse, by "
                f"{difference(change, 'log_loss')}. What holds for the calibration {study.row}s "
                f"does not hold for the test {study.row}s, or they are too few to tell."
            )


def _reliability_chart(study: Study, gallery: Gallery, recipe: str) -> list[Block]:
    found = [reliability_panel(study, recipe, protocol) for protocol in study.protocols]
    panels = [panel for panel in found if panel is not None]
    if not panels:
        return []
    ns = sizes(int(panel.after.n.sum()) for panel in panels)
    return [
        gallery.draw(
            f"reliability-{recipe}",
            lambda: reliability_diagrams(panels, counted=f"{study.row}s"),
            caption=(
                f"Reliability of the highest probability, recipe {recipe} (n = {ns} test "
                f"{study.row}s; bars: {study.row}s per bin, logarithmic). Points below the "
                "diagonal are overconfident."
            ),
            alt=f"Reliability diagrams of {recipe} before and after calibration.",
        )
    ]


def _exchangeability(study: Study) -> Iterator[str]:
    """For each protocol whether what is tested is drawn like what calibrates, by count."""
    record = tables.decision_record(study)
    for row in tables.by_protocol(study, record.sets):
        gap = difference(row.found.gap, "coverage")
        text = _alike(row.found, record.promises[row.protocol], study.row)
        if text:
            yield f"{protocol_title(row.protocol)}: {text} Coverage minus nominal: {gap}."


def _alike(entry: Sets, promises: Sequence[Guarantee], row: str) -> str:
    """What the shares that were trained on say of a unit; empty where they say nothing."""
    for unit, seen in entry.seen.items():
        if unit == "component":
            continue
        cal, test = seen.cal, seen.test
        if cal - test > 0.1:
            return (
                f"not exchangeable, since {_share(cal)} of the calibration {row}s, but "
                f"{_share(test)} of the test {row}s, are of {unit}s that the model was trained on: "
                f"the thresholds come from {row}s that it knows better."
            )
        if cal < 0.1 and test < 0.1:
            groups = next(e for e in promises if e.guarantee == "group")
            rest = (
                f"rest on as few as {plural(groups.n, unit)} (a promise for a new {unit} needs "
                f"{groups.needed})"
            )
            if unit == row:
                return (
                    f"calibration and test {row}s are different ones, none of them "
                    f"trained on; the thresholds of a fold {rest}."
                )
            return (
                f"calibration and test {row}s are of different {unit}s, none of them trained on. "
                f"Whole {unit}s are drawn alike, single {row}s are not; the thresholds of a fold "
                f"{rest}, so the coverage may vary from {unit} to {unit} by more "
                f"than is expected of single {row}s."
            )
        if cal > 0.9 and test > 0.9:
            return (
                f"drawn alike, but from {unit}s that the model was trained on. It says nothing of "
                f"a new {unit}."
            )
    return ""


def _bundle_promise(study: Study) -> list[Block]:
    """For which new images a bundle of this study is calibrated, and whether that is kept."""
    table, words = tables.promise(study), promise_words(study)
    if not words:
        return []
    return [Heading("What does the bundle promise?"), Paragraph(words), *present(table)]


def _share(value: float) -> str:
    return {0.0: "none", 1.0: "all"}.get(value) or number(value, "share")


def _coverage_chart(study: Study, gallery: Gallery) -> list[Block]:
    record, panels = tables.decision_record(study), []
    for row in tables.by_protocol(study, record.sets):
        entry, units = row.found, row.found.by_unit
        unit = entry.group_unit if entry.group_unit in units else next(iter(units), "")
        result = study.result(study.recipes[0], row.protocol)
        if result is not None and record.coverage is not None:
            panels.append(
                CoveragePanel(
                    title=panel_title(result),
                    nominal=record.coverage.nominal,
                    classes=[_mark(e, e.name) for e in entry.by_class],
                    groups=[_mark(e) for e in units.get(unit, ())],
                    unit=f"{unit}s" if unit else "",
                )
            )
    if not panels:
        return []
    caption = (
        f"Coverage of the prediction sets by class, and by {' or '.join(_units(panels))} "
        "sorted by coverage. Dashed: what is aimed at; bars: where the coverage would lie if the "
        f"{study.row}s were like the calibration {study.row}s."
    )
    return [
        gallery.draw(
            "coverage", lambda: coverage_chart(panels), caption=caption,
            alt="Coverage by class and group; the numbers stand in the tables.",
        )
    ]  # fmt: skip


def _units(panels: list[CoveragePanel]) -> list[str]:
    return list(dict.fromkeys(panel.unit for panel in panels if panel.unit)) or ["group"]


def _mark(entry: CoveredPart, class_name: str = "") -> CoverageMark:
    low, high = entry.expected or (None, None)
    return CoverageMark(entry.coverage, low, high, class_name)


def _selective(study: Study, gallery: Gallery) -> list[Block]:
    table = tables.selective(study)
    if table is None:
        return []
    picture = _risk_chart(study, gallery)
    return [
        Heading(f"Accuracy when uncertain {study.row}s are deferred"),
        Paragraph(
            f"The {study.row}s are answered in the order of their highest probability; AURC is the "
            "mean error rate along the way. A model that knows when it is wrong has little more "
            "than a perfect order would leave."
        ),
        *([picture] if picture else []),
        table,
    ]


def _risk_chart(study: Study, gallery: Gallery) -> Picture | None:
    lines, recipe = [], study.recipes[0]
    for row in tables.by_protocol(study, tables.decision_record(study).selective):
        scores = study.scores(recipe, row.protocol)
        if scores is not None:
            wrong = scores.y_pred != scores.y_true
            lines.append(
                RiskLine(
                    protocol_title(row.protocol), *risk_coverage(scores.probs.max(axis=1), wrong)
                )
            )
    if not lines:
        return None
    return gallery.draw(
        "risk-coverage",
        lambda: risk_coverage_chart(lines, counted=f"{study.row}s"),
        caption=(
            f"Error rate among the {study.row}s answered, recipe {recipe}, all folds pooled: at "
            f"100 % every {study.row} is answered."
        ),
        alt="Risk–coverage curves; the numbers stand in the table.",
    )


def _net_benefit(study: Study, gallery: Gallery) -> list[Block]:
    """What acting on the probability is worth, beside acting on all and on none."""
    table = tables.net_benefit(study)
    if table is None:
        return []
    panels = [
        BenefitPanel(
            title=protocol_title(row.protocol),
            thresholds=row.found.thresholds,
            model=row.found.model,
            treat_all=row.found.treat_all,
        )
        for row in tables.benefits(study)
    ]
    picture = gallery.draw(
        "net-benefit",
        lambda: net_benefit_chart(panels),
        caption=(
            f"Net benefit over the probability from which one acts, recipe {study.recipes[0]}; "
            "the band holds the model’s with the intervals’ confidence. A model is of use where "
            "its line lies above both others."
        ),
        alt="Decision curves of the model, of acting on all and on none; see the table.",
    )
    return [
        Heading("What is it worth to act on P(malignant)?"),
        Paragraph(
            "Whoever acts from 10 % on takes nine false alarms for one missed case. At each such "
            "threshold the curve counts what is found, less the false alarms at that rate."
        ),
        picture,
        Folded(table.caption, (table,)),
    ]


def _operating_point(study: Study) -> list[Block]:
    """The operating point asked for, or what could be asked for."""
    record = tables.decision_record(study).operating_point
    if record is None:
        return []
    heading = Heading("Operating point")
    if record.inapplicable:
        return [heading, Paragraph(f"Not applicable: {record.inapplicable}.")]
    table = tables.operating_point(study)
    if table is not None:
        independent = "images (or patients)" if study.row == "image" else f"{study.row}s"
        text = (
            "The threshold of each fold is the largest P(malignant) whose one-sided "
            f"Clopper–Pearson bound on the calibration {study.row}s keeps the promise. It takes "
            f"{independent} as independent, so it holds for {study.row}s drawn like those; the "
            "table says what became of it."
        )
        return [heading, Paragraph(text), table]
    least = {name: 1 - 0.05 ** (1 / n) for name, n in record.n.items() if n}
    could = "; ".join(
        f"{protocol_title(name).lower()} {100 * share:.1f} % ({record.n[name]} malignant "
        f"calibration {study.row}s)"
        for name, share in least.items()
    )
    return [
        heading,
        Paragraph(
            'Not set. `--set operating_point="miss at most 5 % of malignant fields, '
            'with 95 % confidence"` makes a threshold. The smallest share that could be promised '
            f"with 95 % confidence: {could}."
        ),
    ]
