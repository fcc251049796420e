"""The sections on results: overview and protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from leukoscope.reporting.figures.overview import CurveLine, cluster_curve
from leukoscope.reporting.formats import count, finite
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.scope import can_show, cannot_show
from leukoscope.reporting.source import Study
from leukoscope.reporting.verdict_sections import why
from leukoscope.reporting.wording import PROTOCOL_SHORT


def overview(study: Study) -> list[Section]:
    """What comes right after the verdict."""
    scope = (
        Heading("It can show"),
        Bullets(can_show(study)),
        Heading("It cannot show"),
        Bullets(cannot_show(study)),
    )
    return [
        Section("scope", "What this can and cannot show", scope),
        Section("results", "Results at a glance", [tables.headline(study)]),
        Section("why", "Why this verdict", why(study)),
    ]


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
        tables.inapplicable(study),
        tables.further(study),
        tables.malignant(study),
        tables.levels(study),
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
            references.append((PROTOCOL_SHORT[protocol], value))
    title = f"Whole clusters held out, n = {count(n)} images"
    return gallery.draw(
        "cluster-curve",
        lambda: cluster_curve(lines, references, title=title),
        caption=(
            f"Accuracy with whole acquisition clusters held out, over their number "
            f"(n = {count(n)} images; band: {study.level} interval). The number of "
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
