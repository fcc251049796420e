"""Evidence: what the verdict rests on, inflation, probes, perturbed images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from leukoscope.config.metrics.evidence import Shortcuts, SourceShare, SourceVerdict, Survival
from leukoscope.config.metrics.results import Estimate, PerturbedResult, ProbeResult, Result
from leukoscope.core.protocols import PROTOCOLS, protocol_title
from leukoscope.evaluation.verdict.grounds import swapped_grounds
from leukoscope.evaluation.verdict.sentences import (
    DEGRADED_WORDS,
    SOURCE_WORDS,
    describe_control,
    join,
)
from leukoscope.evaluation.verdict.shortcuts import (
    ENOUGH_TO_REFUTE,
    FEWEST_TO_SHOW,
    HALF,
    status_of,
)
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Folded,
    Paragraph,
    Section,
    Table,
    Terms,
    present,
)
from leukoscope.reporting.formats import DASH, count, difference, interval, number, p_value
from leukoscope.reporting.record_tables import (
    PROTOCOL,
    code,
    each,
    n_rows,
    scores,
    status,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.study_files import Study
from leukoscope.reporting.wording import PROBE_MEANING, input_title

SIGNS: Final[Mapping[str, str]] = {
    "shown": "✗ shown",
    "refuted": "✓ refuted",
    "open": "? open",
    "inapplicable": "– does not apply",
}
"""How a status is printed."""
FOLLOWS: Final[Mapping[str, str]] = {
    "leukocytes": "✓ leukocytes",
    "ground": "✗ the ground",
    "unclear": "? not clear",
}
"""What a model follows, as it is printed."""
SHOWN_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
_TEXT = (
    "A probe is a classifier that sees only part of the image, most of them none of the cells, "
    "trained and tested on the very folds of the model. If one that sees no cells does well all "
    "the same, the class can be told from something else: so much the data holds. Whether the "
    "model makes use of it is another question, so the trained model, too, is shown perturbed "
    "versions of its test images. It never saw such images: a low score there proves nothing, "
    "one above chance on images without leukocytes does. Leukemia itself changes the background."
)


def why(study: Study) -> Section:
    """What the verdict rests on, as matrices; the same in sentences on request."""
    verdict = study.metrics.verdict
    blocks: list[Block] = [
        *present(sources(study), grounds(study), survival(study)),
        Paragraph(_control(study)),
    ]
    if study.metrics.warnings:
        blocks.append(Bullets(study.metrics.warnings))
    sentences = [
        *verdict.findings,
        *(f"Would close what is open: {text}." for text in verdict.needs),
    ]
    blocks.append(Folded("The findings in sentences", [Bullets(tuple(sentences))]))
    if verdict.rule:
        blocks.append(Folded("The rule behind the verdict", [Paragraph(verdict.rule)]))
    return Section("why", "Why this verdict", blocks)


def _control(study: Study) -> str:
    """The negative control in a sentence."""
    found = describe_control(study.metrics.control)
    return found[0] if found else "Negative control: none was run."


def sources(study: Study) -> Table | None:
    """Sources of shortcut × protocols: each the share of the model's advantage over chance."""
    verdict, rows = study.metrics.verdict, audit_of(study).sources
    shown = [p for p in study.protocols if any(row.protocol == p for row in rows)]

    def cell(source: SourceVerdict, protocol: str) -> str:
        own = [r for r in rows if (r.source, r.protocol) == (source.source, protocol)]
        named = [f" {row.probe}" if len(own) > 1 else "" for row in own]
        said = [
            f"{SIGNS[status_of(row)]}{name} {interval(row.share, 'share')}"
            for row, name in zip(own, named, strict=True)
        ]
        return " / ".join(said) if said else DASH

    return table_if_any(
        "How much of the model’s advantage over chance (ROC AUC above 0.5) each source of "
        "shortcut gives by itself",
        verdict.sources,
        text("Source", lambda s: SOURCE_WORDS[s.source]),
        status("Verdict", lambda s: SIGNS[s.status]),
        *[status(protocol_title(p), partial(cell, protocol=p)) for p in shown],
        code("Probe", lambda s: s.probe or DASH),
        text("What is missing", lambda s: s.reason or _judged_by(s)),
        note=f"✗ shown: lower limit above one half, of at least {FEWEST_TO_SHOW} groups; "
        f"✓ refuted: upper limit below one half, {ENOUGH_TO_REFUTE}; ? open. "
        f"{_paired(rows)}{_rests_on(verdict.protocol)}",
    )  # fmt: skip


def _paired(rows: Sequence[SourceShare]) -> str:
    """How the ground is judged, whose figure is not that of the table of probes."""
    found = next((row for row in rows if row.metric == "paired_auc"), None)
    if found is None:
        return ""
    return (
        "That of the ground is an area between pairs of classes whose leukocytes are painted over "
        f"alike ({number(found.value, 'roc_auc')}, {PROTOCOLS[found.protocol].label}), "
        "not the area of the probe in the table of probes. "
    )


def _rests_on(protocol: str | None) -> str:
    if protocol is None:
        return "No protocol held out patients or acquisition clusters, so nothing is refuted."
    return f"The verdict rests on: {protocol_title(protocol)}."


def _judged_by(source: SourceVerdict) -> str:
    return f"about {count(source.needed)} groups" if source.needed else DASH


def grounds(study: Study) -> Table | None:
    """What the model names when its leukocytes lie on the ground of another image."""
    found = swapped_grounds(study.metrics, study.recipes[0])
    return table_if_any(
        "What the trained model follows: the leukocytes of test images, put on the ground of "
        "another image",
        [found[name] for name in study.protocols if name in found],
        PROTOCOL,
        status("It follows", lambda s: FOLLOWS[s.follows]),
        value("Other class: names the leukocytes’", lambda s: interval(s.cells, "share")),
        value("Other class: names the ground’s", lambda s: interval(s.ground, "share")),
        value("Ground’s, of these two", lambda s: interval(s.bias, "share")),
        value("Same class: named rightly", lambda s: interval(s.own, "share")),
        n_rows(study.row),
        note="On the ground of another class, cells and ground speak for two classes, and the "
        "answer tells which the model reads: the one that makes more than half of the answers "
        "naming either (limits of the interval). On another ground of the same class, only what "
        "pasting does is left. Leukocytes bring their stain with them: following them is not yet "
        "reading their shape.",
    )  # fmt: skip


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
        *[status(protocol_title(p), partial(_kept, found, p)) for p in protocols],
        note="A model that reads cells keeps nearly all of it: such steps change nothing that a "
        "haematologist would see. ✓ at least half is kept (lower limit); ✗ less (upper limit).",
    )


def _kept(found: Mapping[tuple[str, str], Survival], protocol: str, name: str) -> str:
    """What is kept after one degradation, with its sign."""
    if (name, protocol) not in found:
        return DASH
    share = found[name, protocol].share
    sign = "?"
    if share.low is not None and share.high is not None:
        sign = "✓" if share.low >= HALF else "✗" if share.high < HALF else "?"
    return f"{sign} {interval(share, 'share')}"


def shortcuts(study: Study) -> Section:
    """What classifiers reach that are deprived of the cells, beside the model."""
    left_out = [
        (row.probe, f"does not apply: {row.reason}.") for row in audit_of(study).inapplicable
    ]
    if not study.metrics.probes:
        words = "No probe was run, so no shortcut was looked for."
        if left_out:
            words = "No probe that was asked for applies, so no shortcut was looked for."
        return Section("shortcuts", "Probes", [Paragraph(words), *_terms(left_out)])
    used = list(dict.fromkeys(entry.probe for entry in study.metrics.probes))
    terms = [(f"{name}", PROBE_MEANING.get(name, input_title(name))) for name in used]
    blocks: list[Block] = [Paragraph(_TEXT), accuracies(study)]
    blocks += present(_inflation_and_share(study))
    blocks.append(Folded("What each probe sees", _terms([*terms, *left_out])))
    return Section("shortcuts", "Probes", blocks)


def _terms(rows: Sequence[tuple[str, str]]) -> list[Block]:
    return [Terms(tuple(rows))] if rows else []


def probe_metrics(study: Study) -> Section:
    """Every metric of the probes, for those who look one up."""
    if not study.metrics.probes:
        return Section("probe-metrics", "Probes in numbers")
    table = numbers(study)
    return Section("probe-metrics", "Probes in numbers", [Folded(table.caption, [table])])


def audit_of(study: Study) -> Shortcuts:
    """What the probes say of the study's first recipe; empty where none was run."""
    return study.metrics.shortcuts or Shortcuts(recipe="")


class _Seen(NamedTuple):
    """What a classifier sees, and its entry under each protocol."""

    title: str
    found: Mapping[str, Result | ProbeResult | PerturbedResult]


def accuracies(study: Study) -> Table:
    """Accuracy of the models, of the probes, and of the models on perturbed images."""
    rows: dict[str, dict[str, Result | ProbeResult | PerturbedResult]] = {}
    several = len(study.recipes) > 1
    for entry in study.results:
        name = f"{entry.recipe}: {input_title('image')}" if several else input_title("image")
        rows.setdefault(name, {})[entry.protocol] = entry
    for probe in study.metrics.probes:
        rows.setdefault(input_title(probe.probe), {})[probe.protocol] = probe
    for seen in study.metrics.model_on:
        who = f"{seen.recipe}, " if several else ""
        name = f"{who}trained on whole images, shown {input_title(seen.input)}"
        rows.setdefault(name, {})[seen.protocol] = seen
    chance = chance_level(study)

    def cell(row: _Seen, protocol: str) -> str:
        found = row.found.get(protocol)
        return interval(None if found is None else found.metrics.get("accuracy"), "accuracy")

    return table_of(
        f"Accuracy of a classifier by what it sees (n = {count(max(e.n for e in study.results))} "
        f"{study.row}s, {study.level} intervals)",
        [_Seen(title, found) for title, found in rows.items()],
        text("The classifier sees", "title"),
        *each(study.protocols, protocol_title, cell),
        note=f"Always naming the largest class gives {number(chance, 'accuracy')}. Where a probe "
        "comes close to the whole image, the accuracy does not prove that the model reads cells."
        f"{_below(study, chance)}",
    )  # fmt: skip


def _below(study: Study, chance: float | None) -> str:
    """Which probes are wrong more often than a guess, and what that means."""
    if chance is None:
        return ""
    found = [
        input_title(probe.probe)
        for probe in study.metrics.probes
        if (high := probe.metrics["accuracy"].high) is not None and high < chance
    ]
    if not found:
        return ""
    return (
        f" Below that: {join(list(dict.fromkeys(found)))}. What it sees does follow the class, but "
        "in another way in training than in test images, as where neighbours in a list are always "
        "of different classes; a model gains nothing by it."
    )


def chance_level(study: Study) -> float | None:
    """Accuracy of always naming the largest class, over the first result's test images."""
    for entry in study.results:
        totals = np.asarray(entry.confusion, dtype=np.float64).sum(axis=1)
        if totals.sum() > 0:
            return float(totals.max() / totals.sum())
    return None


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
                protocol,
                f"{input_title(e.input)}; trained on whole images",
                e.recipe,
                e.metrics,
                e.n,
            )
            for e in study.metrics.model_on
            if e.protocol == protocol
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
    audit = audit_of(study)
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
        value("Share without stain", lambda p: of_share(p)[1]),
        value(f"n {study.row}s", lambda p: count((shares.get(p) or inflation[p]).n)),
        note="Share without stain: what the classifier on stain-neutral images keeps of the "
        "model’s advantage over colour statistics; not defined where that advantage may be 0. It "
        "is a plain classifier: beside a stronger model it keeps less for that reason alone.",
    )  # fmt: skip
