"""The sections on results: overview, protocols, probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from leukoscope.reporting import result_tables as tables
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
from leukoscope.reporting.figures.overview import (
    CurveLine,
    Mark,
    MarkGroup,
    cluster_curve,
    protocol_probe_chart,
)
from leukoscope.reporting.formats import count, finite, interval, number
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.level_tables import levels
from leukoscope.reporting.scope import can_show, cannot_show
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import PROBE_MEANING, input_title, protocol_title


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
    groups = mark_groups(study)
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


def mark_groups(study: Study) -> list[MarkGroup]:
    """Accuracy of the models and of the probes, protocol by protocol."""
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
    blocks += present(
        tables.inapplicable(study), tables.further(study), tables.malignant(study), levels(study)
    )
    chart = _curve_chart(study, gallery)
    if chart is not None:
        blocks += [Heading("Over the number of acquisition clusters"), chart]
    points = tables.curve(study)
    if points is not None:
        blocks.append(Folded("The curve as a table", (points,)))
    blocks += present(tables.comparisons(study))
    return Section("protocols", "Protocols", blocks)


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
        known = (entry or {"metrics": {}})["metrics"].get("accuracy") or {}
        value = finite(known.get("value"))
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
