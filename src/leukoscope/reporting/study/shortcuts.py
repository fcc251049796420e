"""Shortcuts: what the verdict rests on, inflation, probes, perturbed images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from leukoscope.config.metrics.evidence import Shortcuts, SourceShare, SourceVerdict
from leukoscope.config.metrics.results import Estimate, PerturbedResult, ProbeResult, Result
from leukoscope.core.protocols import WORDS, protocol_title
from leukoscope.evaluation.shortcuts import status_of
from leukoscope.evaluation.verdict_text import DEGRADED_WORDS, SOURCE_WORDS, share_text
from leukoscope.reporting.content import (
    PROTOCOL,
    Block,
    Bullets,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    code,
    each,
    n_rows,
    present,
    scores,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.figures.shortcuts import (
    ChartRow,
    Mark,
    MarkGroup,
    ProtocolPanel,
    shortcut_chart,
)
from leukoscope.reporting.formats import DASH, count, difference, interval, p_value
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.result_tables import sample
from leukoscope.reporting.study_files import Study
from leukoscope.reporting.wording import PROBE_MEANING, input_title

SIGNS: Final[Mapping[str, str]] = {
    "shown": "✗ shown",
    "refuted": "✓ refuted",
    "open": "? open",
    "inapplicable": "– does not apply",
}
"""How a status is printed."""
SHOWN_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
_TEXT = (
    "A probe is a classifier that is deprived of the cells, trained and tested on the very "
    "folds of the model. If it does well all the same, the class can be told from something other "
    "than the cells: so much the data holds. Whether the model makes use of it is another "
    "question, so the trained model, too, is shown perturbed versions of its test images (hollow "
    "marks). It never saw such images: a low score there proves nothing, one above chance on "
    "images without leukocytes does. Leukemia itself changes the background."
)


def why(study: Study) -> list[Block]:
    """What the verdict rests on, the table first."""
    verdict = study.metrics.verdict
    blocks: list[Block] = [*present(sources(study), survival(study))]
    for title, items in (
        ("What would close what is open", verdict.needs),
        ("Findings", verdict.findings),
        ("Warnings", study.metrics.warnings),
    ):
        if items:
            blocks += [Heading(title), Bullets(items)]
    if verdict.rule:
        blocks.append(Folded("The rule behind the verdict", text=verdict.rule))
    return blocks


def sources(study: Study) -> Table | None:
    """Sources of shortcut × protocols: each the share of the model's advantage over chance."""
    verdict, rows = study.metrics.verdict, _audit(study).sources
    shown = [p for p in study.protocols if any(row.protocol == p for row in rows)]

    def cell(source: SourceVerdict, protocol: str) -> str:
        own = [r for r in rows if (r.source, r.protocol) == (source.source, protocol)]
        said = [f"{_sign(row)} {share_text(row.share, '')}" for row in own]
        return " / ".join(said) if said else DASH

    return table_if_any(
        "What each source of shortcut gives by itself, as a share of the model’s advantage over "
        "chance (ROC AUC above 0.5)",
        verdict.sources,
        text("Source", lambda s: SOURCE_WORDS[s.source]),
        text("Verdict", lambda s: SIGNS[s.status], narrow=True),
        *each(shown, protocol_title, cell, lines=True),
        code("Probe", lambda s: s.probe or DASH),
        text("Why", lambda s: s.reason or _judged_by(s)),
        note="✗ shown: more than one half (lower limit); ✓ refuted: less than one half (upper "
        f"limit); ? open. {_rests_on(verdict.protocol)}",
    )  # fmt: skip


def _rests_on(protocol: str | None) -> str:
    if protocol is None:
        return "No protocol held out patients or acquisition clusters, so nothing is refuted."
    return f"The verdict rests on: {protocol_title(protocol)}."


def _judged_by(source: SourceVerdict) -> str:
    return f"would need about {count(source.needed)} groups" if source.needed else DASH


def _sign(row: SourceShare) -> str:
    return SIGNS[status_of(row)][0]


def survival(study: Study) -> Table | None:
    """What mild degradation of the test images leaves of the model's advantage."""
    rows = study.metrics.survival
    protocols = [p for p in study.protocols if any(row.protocol == p for row in rows)]
    inputs = list(dict.fromkeys(row.input for row in rows))
    found = {(row.input, row.protocol): row for row in rows}
    n = max((row.n for row in rows), default=0)
    return table_if_any(
        f"What the trained model keeps of its advantage on mildly degraded test images "
        f"(up to {count(n)} {study.row}s a protocol)",
        inputs,
        text("Test images after", lambda name: DEGRADED_WORDS.get(name, name)),
        *each(
            protocols,
            protocol_title,
            lambda name, p: share_text(found[name, p].share, "") if (name, p) in found else DASH,
        ),
        note="A model that reads cells keeps nearly all of it: such steps change nothing that a "
        "haematologist would see.",
    )


def shortcuts(study: Study, gallery: Gallery) -> Section:
    """One figure and one table, with the numbers behind the figure on request."""
    if not study.metrics.probes:
        none = Paragraph("No probe was run, so no shortcut was looked for.")
        return Section("shortcuts", "Shortcuts", [none])
    used = list(dict.fromkeys(entry.probe for entry in study.metrics.probes))
    blocks: list[Block] = [Paragraph(_TEXT)]
    figures = Folded("The numbers of the figure", (numbers(study),))
    blocks += present(_chart(study, gallery), figures, _inflation_and_share(study))
    meanings = [f"`{name}`: {PROBE_MEANING.get(name, input_title(name))}" for name in used]
    meanings += [
        f"`{row.probe}` does not apply: {row.reason}." for row in _audit(study).inapplicable
    ]
    return Section("shortcuts", "Shortcuts", [*blocks, Bullets(tuple(meanings))])


def _audit(study: Study) -> Shortcuts:
    return study.metrics.shortcuts or Shortcuts(recipe="")


def mark_groups(study: Study) -> list[MarkGroup]:
    """Accuracy of the models and of the probes, protocol by protocol."""
    groups = []
    for protocol in study.protocols:
        entries = [entry for entry in study.results if entry.protocol == protocol]
        marks = [_mark(study, entry, "image") for entry in entries]
        marks += [
            _mark(study, entry, entry.probe)
            for entry in study.metrics.probes
            if entry.protocol == protocol
        ]
        known = tuple(mark for mark in marks if mark is not None)
        if known:
            groups.append(MarkGroup(protocol_title(protocol), sample(entries[0]), known))
    return groups


def _mark(study: Study, entry: Result | ProbeResult | PerturbedResult, seen: str) -> Mark | None:
    record = entry.metrics.get("accuracy")
    if record is None or record.value is None:
        return None
    label, short = input_title(seen), "image" if seen == "image" else seen
    if seen == "image" and len(study.recipes) > 1:
        label, short = f"{entry.recipe}: {label}", entry.recipe
    return Mark(
        label=label,
        short=short,
        input=seen,
        value=record.value,
        low=record.low,
        high=record.high,
        text=interval(record, "accuracy"),
    )


def chance_level(study: Study) -> float | None:
    """Accuracy of always naming the largest class, over the first result's test images."""
    for entry in study.results:
        totals = np.asarray(entry.confusion, dtype=np.float64).sum(axis=1)
        if totals.sum() > 0:
            return float(totals.max() / totals.sum())
    return None


def _perturbed(study: Study, protocol: str, recipe: str) -> list[PerturbedResult]:
    return [
        entry
        for entry in study.metrics.model_on
        if entry.protocol == protocol and entry.recipe == recipe
    ]


def _chart(study: Study, gallery: Gallery) -> Picture | None:
    groups, chance = mark_groups(study), chance_level(study)
    if not groups or chance is None:
        return None
    inflation = {row.protocol: row.difference for row in _audit(study).inflation}
    panels, shown = [], {}
    perturbed: dict[str, dict[str, str]] = {}
    for group, protocol in zip(groups, study.protocols, strict=False):
        marks = {mark.label: mark for mark in group.marks}
        shown.update({mark.label: mark.input for mark in group.marks})
        for recipe in study.recipes:
            for entry in _perturbed(study, protocol, recipe):
                mark = _mark(study, entry, entry.input)
                if mark is not None:
                    key = f"{recipe} on {entry.input}"
                    marks[key] = mark
                    perturbed.setdefault(recipe, {})[key] = entry.input
        over = inflation[protocol].value if protocol in inflation else None
        note = "" if over is None else f"random {100 * over:+.1f} points"
        panels.append(
            ProtocolPanel(WORDS[protocol].label if protocol in WORDS else protocol, note, marks)
        )
    rows = [ChartRow("", "trained and tested on")]
    rows += [ChartRow(label, label, seen) for label, seen in shown.items()]
    for recipe, keys in perturbed.items():
        rows.append(ChartRow("", f"{recipe}, as trained, shown"))
        rows += [ChartRow(key, input_title(seen), seen, hollow=True) for key, seen in keys.items()]
    n = max(entry.n for entry in study.results)
    return gallery.draw(
        "shortcuts",
        lambda: shortcut_chart(rows, panels, chance),
        narrow=lambda: shortcut_chart(rows, panels, chance, narrow=True),
        caption=(
            f"The model against its probes, protocol by protocol (n = {count(n)} {study.row}s; "
            f"{study.level} intervals), and below, hollow, each model on perturbed "
            "versions of its test images. Under a protocol’s name: how far the accuracy of random "
            "splits lies above it. Where a probe comes close to the whole image, the accuracy does "
            "not prove that the model reads the cells."
        ),
        alt="; ".join(
            f"{panel.title}: " + ", ".join(f"{key} {m.text}" for key, m in panel.marks.items())
            for panel in panels
        ),
    )


class _Seeing(NamedTuple):
    """A classifier that was shown something other than whole images."""

    protocol: str
    sees: str
    recipe: str
    metrics: Mapping[str, Estimate]
    n: int


def numbers(study: Study) -> Table:
    """Probes, and the models on perturbed images."""
    rows: list[_Seeing] = []
    for protocol in study.protocols:
        rows += [
            _Seeing(protocol, input_title(e.probe), e.recipe, e.metrics, e.n)
            for e in study.metrics.probes
            if e.protocol == protocol
        ]
        rows += [
            _Seeing(
                protocol, f"{input_title(e.input)}; trained on whole images", recipe, e.metrics, e.n
            )
            for recipe in study.recipes
            for e in _perturbed(study, protocol, recipe)
        ]
    return table_of(
        "What perturbed inputs reach: probes, and models that were trained on whole images "
        f"({study.level} intervals)",
        rows,
        PROTOCOL, text("The classifier sees", "sees"), code("Classifier", "recipe"),
        *scores(SHOWN_METRICS), n_rows(study.row),
        grouped=True,
    )  # fmt: skip


def _inflation_and_share(study: Study) -> Table | None:
    audit = _audit(study)
    inflation = {row.protocol: row for row in audit.inflation}
    shares = {row.protocol: row for row in audit.shares}

    def of_share(protocol: str) -> tuple[str, str]:
        """The advantage over colour statistics, and the share of it that is left."""
        found = shares.get(protocol)
        if found is None:
            return DASH, DASH
        left = interval(found.share, "accuracy") if found.defined else "not defined"
        return difference(found.advantage, "accuracy"), left

    return table_if_any(
        "Inflation, and what stain contributes, recipe "
        f"{audit.recipe or study.recipes[0]}",
        [name for name in study.protocols if name in inflation or name in shares],
        text("Protocol", protocol_title),
        value("Inflation: random minus this",
              lambda p: difference(found.difference if (found := inflation.get(p)) else None,
                                   "accuracy")),
        value("p, Holm", lambda p: p_value(inflation[p].p_holm if p in inflation else None)),
        value("Model minus colour-only", lambda p: of_share(p)[0]),
        value("Share of that without stain", lambda p: of_share(p)[1]),
        value("n images", lambda p: count((shares.get(p) or inflation[p]).n)),
        note="Share without stain: what the classifier on stain-neutral images keeps of the "
        "model’s advantage over colour statistics; not defined where that advantage may be 0. It "
        "is a plain classifier: beside a stronger model it keeps less for that reason alone.",
    )  # fmt: skip
