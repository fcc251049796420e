"""The sections on results: overview, protocols, probes, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leukoscope.evaluation.curves import reliability
from leukoscope.evaluation.softmax import softmax
from leukoscope.reporting import result_tables as tables
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
)
from leukoscope.reporting.figures.calibration import ReliabilityPanel, reliability_diagrams
from leukoscope.reporting.figures.classification import confusion_matrices, roc_curves
from leukoscope.reporting.figures.overview import (
    CurveLine,
    Mark,
    MarkGroup,
    cluster_curve,
    protocol_probe_chart,
)
from leukoscope.reporting.formats import count, finite, interval, number, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.scope import can_show, cannot_show
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import PROBE_MEANING, input_title, protocol_title

MOST_RECIPES = 3  # with figures of their own; tables name all


def overview(study: Study, gallery: Gallery) -> list[Section]:
    """What comes right after the verdict."""
    verdict = study.metrics["verdict"]
    results: list[Block] = [tables.headline(study)]
    chart = _protocol_chart(study, gallery)
    if chart is not None:
        results.append(chart)
    why: list[Block] = []
    if verdict.get("findings"):
        why.append(Bullets(tuple(str(text) for text in verdict["findings"])))
    if study.metrics.get("warnings"):
        why += [Heading("Warnings"), Bullets(tuple(map(str, study.metrics["warnings"])))]
    if verdict.get("rule"):
        why.append(Paragraph(f"The rule behind the verdict: {verdict['rule']}", note=True))
    return [
        Section(
            "scope",
            "What this can and cannot show",
            (
                Heading("It can show"),
                Bullets(can_show(study)),
                Heading("It cannot show"),
                Bullets(cannot_show(study)),
            ),
        ),
        Section("results", "Results at a glance", results),
        Section("why", "Why this verdict", why),
    ]


def chance_level(study: Study) -> float | None:
    """Accuracy of always naming the largest class, over the first result's test images."""
    for entry in study.results:
        totals = np.asarray(entry["confusion"], dtype=np.float64).sum(axis=1)
        if totals.sum() > 0:
            return float(totals.max() / totals.sum())
    return None


def _protocol_chart(study: Study, gallery: Gallery) -> Picture | None:
    groups = _mark_groups(study)
    chance = chance_level(study)
    if not groups or chance is None:
        return None
    n = max(int(entry["n"]) for entry in study.results)
    label = f"accuracy on test images, % ({100 * study.confidence:g} % intervals)"
    return gallery.draw(
        "protocols-and-probes",
        lambda: protocol_probe_chart(groups, chance, xlabel=label),
        narrow=lambda: protocol_probe_chart(groups, chance, xlabel="accuracy, %", narrow=True),
        caption=(
            f"The model against its probes, protocol by protocol (n = {count(n)} images). "
            "Where a probe comes close to the whole image, the accuracy does not prove that the "
            "model reads the cells. The dashed line is the accuracy of always naming the largest "
            f"class ({number(chance, 'accuracy')})."
        ),
        alt="; ".join(
            f"{group.title}: " + ", ".join(f"{mark.label} {mark.text}" for mark in group.marks)
            for group in groups
        ),
    )


def _mark_groups(study: Study) -> list[MarkGroup]:
    groups = []
    for protocol in study.protocols:
        entries = [entry for entry in study.results if entry["protocol"] == protocol]
        marks = [_mark(study, entry, "image") for entry in entries]
        marks += [
            _mark(study, entry, entry["probe"])
            for entry in study.metrics.get("probes", ())
            if entry["protocol"] == protocol
        ]
        known = tuple(mark for mark in marks if mark is not None)
        if known:
            groups.append(MarkGroup(protocol_title(protocol), tables.sample(entries[0]), known))
    return groups


def _mark(study: Study, entry: Mapping[str, Any], seen: str) -> Mark | None:
    record = entry["metrics"].get("accuracy")
    record = record if isinstance(record, Mapping) else {"value": record}
    value = finite(record.get("value"))
    if value is None:
        return None
    label, short = input_title(seen), "image" if seen == "image" else seen
    if seen == "image" and len(study.recipes) > 1:
        label, short = f"{entry['recipe']}: {label}", str(entry["recipe"])
    return Mark(
        label=label,
        short=short,
        input=seen,
        value=value,
        low=finite(record.get("low")),
        high=finite(record.get("high")),
        text=interval(record, "accuracy"),
    )


def protocols(study: Study, gallery: Gallery) -> Section:
    """Results side by side, inapplicable protocols, the cluster curve, comparisons."""
    blocks: list[Block] = [
        Paragraph(
            "A protocol decides which images may not stand on both sides of the split. The "
            "accuracy of one protocol alone says little; the fall from the mildest to the "
            "harshest says how much rests on having seen the slide before."
        ),
        tables.protocols(study),
    ]
    blocks += _present(tables.inapplicable(study), tables.further(study), tables.malignant(study))
    chart = _curve_chart(study, gallery)
    if chart is not None:
        blocks += [Heading("Over the number of acquisition clusters"), chart]
    points = tables.curve(study)
    if points is not None:
        blocks.append(Folded("The curve as a table", (points,)))
    blocks += _present(tables.comparisons(study))
    return Section("protocols", "Protocols", blocks)


def _present(*found: Table | None) -> list[Block]:
    return [table for table in found if table is not None]


def _curve_chart(study: Study, gallery: Gallery) -> Picture | None:
    points: dict[str, list[Mapping[str, Any]]] = {}
    for entry in study.metrics.get("curve", ()):
        if finite((entry.get("accuracy") or {}).get("value")) is not None:
            points.setdefault(entry["recipe"], []).append(entry)
    lines = []
    for recipe, found in points.items():
        found = sorted(found, key=lambda e: e["clusters"])
        if len(found) > 1:
            lines.append(
                CurveLine(
                    label=recipe,
                    clusters=tuple(e["clusters"] for e in found),
                    value=tuple(float(e["accuracy"]["value"]) for e in found),
                    low=tuple(finite(e["accuracy"].get("low")) for e in found),
                    high=tuple(finite(e["accuracy"].get("high")) for e in found),
                )
            )
    if not lines:
        return None
    n = max((int(e.get("n") or 0) for found in points.values() for e in found), default=0)
    n = n or max(int(entry["n"]) for entry in study.results)
    references = []
    for protocol in ("random", "acquisition-merged"):
        entry = study.result(lines[0].label, protocol)
        value = finite((entry or {"metrics": {}})["metrics"].get("accuracy", {}).get("value"))
        if value is not None:
            references.append((protocol_short(protocol), value))
    title = f"Whole clusters held out, n = {count(n)} images"
    return gallery.draw(
        "cluster-curve",
        lambda: cluster_curve(lines, references, title=title),
        caption=(
            f"Accuracy with whole acquisition clusters held out, over their number "
            f"(n = {count(n)} images; band: {100 * study.confidence:g} % interval). The number of "
            "clusters is a choice, so the curve is shown rather than one point of it."
        ),
        alt="; ".join(
            f"{line.label}: "
            + ", ".join(
                f"{k} clusters {100 * v:.1f} %"
                for k, v in zip(line.clusters, line.value, strict=True)
            )
            for line in lines
        ),
    )


def protocol_short(name: str) -> str:
    """A protocol's name where space is scarce."""
    return {
        "random": "random split",
        "acquisition-merged": "clusters joined\nwith overlaps",
    }.get(name, name)


def probes(study: Study) -> Section:
    """What crippled inputs reach."""
    table = tables.probes(study)
    if table is None:
        return Section(
            "probes", "Probes", [Paragraph("No probe was run, so no shortcut was looked for.")]
        )
    used = list(dict.fromkeys(entry["probe"] for entry in study.metrics["probes"]))
    return Section(
        "probes",
        "Probes",
        [
            Paragraph(
                "A probe is a classifier that is denied what it should need. If it does well all "
                "the same, the class can be guessed from something other than the cells. It does "
                "not prove that the model makes use of it; leukemia itself changes the "
                "background, too."
            ),
            Bullets(
                tuple(f"`{name}`: {PROBE_MEANING.get(name, input_title(name))}" for name in used)
            ),
            table,
        ],
    )


def class_results(study: Study, gallery: Gallery) -> Section:
    """Confusion matrices, per-class figures and ROC curves."""
    blocks: list[Block] = []
    for recipe in study.recipes[:MOST_RECIPES]:
        entries = [entry for entry in study.results if entry["recipe"] == recipe]
        if not entries:
            continue
        if len(study.recipes) > 1:
            blocks.append(Heading(f"Recipe {recipe}"))
        blocks.append(_confusion_chart(study, gallery, recipe, entries))
        numbers = tuple(tables.confusion(study, entry) for entry in entries)
        blocks.append(Folded("The confusion matrices as tables", numbers))
        blocks += _present(tables.per_class(study, recipe))
        blocks += _roc_chart(study, gallery, recipe, entries)
    if len(study.recipes) > MOST_RECIPES:
        blocks += _present(*(tables.per_class(study, r) for r in study.recipes[MOST_RECIPES:]))
        blocks.append(
            Paragraph(f"Figures are drawn for the first {MOST_RECIPES} recipes.", note=True)
        )
    return Section("classes", "Class by class", blocks)


def _panel_title(entry: Mapping[str, Any]) -> str:
    short = {
        "deduplicated": "Duplicates, overlaps together",
        "acquisition": "Acquisition clusters held out",
        "acquisition-merged": "Clusters joined with overlaps",
    }
    title = short.get(entry["protocol"]) or protocol_title(entry["protocol"])
    return f"{title}\nn = {count(entry['n'])}"


def _confusion_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Mapping[str, Any]]
) -> Picture:
    panels = [(_panel_title(e), np.asarray(e["confusion"], dtype=np.float64)) for e in entries]
    ns = sizes(e["n"] for e in entries)
    return gallery.draw(
        f"confusion-{recipe}",
        lambda: confusion_matrices(panels, study.class_names),
        caption=(
            f"Confusion matrices, recipe {recipe}: number of images and share of the true class "
            f"(n = {ns} test images; all folds pooled)."
        ),
        alt=f"Confusion matrices of {recipe}; the same numbers stand in the tables below.",
    )


def _roc_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Mapping[str, Any]]
) -> list[Block]:
    panels = []
    for entry in entries:
        scores = study.scores(recipe, entry["protocol"])
        if scores is not None:
            panels.append((_panel_title(entry), scores.y_true, scores.probs))
    if not panels:
        return [Paragraph(f"No test predictions of {recipe}, so no ROC curves.", note=True)]
    ns = sizes(len(y) for _, y, _ in panels)
    return [
        gallery.draw(
            f"roc-{recipe}",
            lambda: roc_curves(panels, study.class_names),
            caption=(
                f"ROC curves, each class against the rest, recipe {recipe} (n = {ns} test images; "
                "all folds pooled)."
            ),
            alt=f"ROC curves of {recipe}; the areas stand in the table of classes.",
        )
    ]


def calibration(study: Study, gallery: Gallery) -> Section:
    """Reliability diagrams, coverage and prediction sets."""
    blocks: list[Block] = [
        Paragraph(
            "A probability is worth something only if it keeps its promise: of the images that "
            "get 80 %, eight in ten should be right. Temperatures and thresholds were fitted on "
            "images used for nothing else (part `cal`). A promise kept under the random protocol "
            "may be broken under a harsher one, because the images are then no longer alike."
        )
    ]
    for recipe in study.recipes[:MOST_RECIPES]:
        blocks += _reliability_chart(study, gallery, recipe)
    blocks += _present(tables.decisions(study))
    return Section("calibration", "Calibration and decisions", blocks)


def _reliability_chart(study: Study, gallery: Gallery, recipe: str) -> list[Block]:
    panels = []
    for protocol in study.protocols:
        entry, scores = study.result(recipe, protocol), study.scores(recipe, protocol)
        if entry is None or scores is None:
            continue
        known = bool(np.isfinite(scores.logits).all())
        raw = softmax(scores.logits) if known else None
        changed = raw is not None and not np.allclose(raw, scores.probs, atol=1e-6)
        panels.append(
            ReliabilityPanel(
                title=_panel_title(entry),
                after=reliability(scores.y_true, scores.probs),
                before=reliability(scores.y_true, raw) if raw is not None and changed else None,
            )
        )
    if not panels:
        return []
    ns = sizes(int(panel.after.n.sum()) for panel in panels)
    return [
        gallery.draw(
            f"reliability-{recipe}",
            lambda: reliability_diagrams(panels),
            caption=(
                f"Reliability of the highest probability, recipe {recipe} (n = {ns} test images; "
                "bars: images per bin, logarithmic). Points below the diagonal are overconfident."
            ),
            alt=f"Reliability diagrams of {recipe} before and after temperature scaling.",
        )
    ]
