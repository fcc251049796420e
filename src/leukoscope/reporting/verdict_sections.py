"""What a verdict rests on: sources of shortcut by protocols, degraded images, the control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from leukoscope.evaluation.source_status import status_of
from leukoscope.evaluation.verdict_text import DEGRADED_WORDS, SOURCE_WORDS, share_text
from leukoscope.reporting.content import Block, Bullets, Folded, Heading, Table, present
from leukoscope.reporting.formats import DASH, count
from leukoscope.reporting.source import Study
from leukoscope.reporting.tables import code, each, table_if_any, text
from leukoscope.reporting.wording import protocol_title

SIGNS: Final[Mapping[str, str]] = {
    "shown": "✗ shown",
    "refuted": "✓ refuted",
    "open": "? open",
    "inapplicable": "– does not apply",
}
"""How a status is printed."""


def why(study: Study) -> list[Block]:
    """What the verdict rests on, the table first."""
    verdict = study.metrics["verdict"]
    blocks: list[Block] = [*present(sources(study), survival(study))]
    if verdict.get("needs"):
        needs = Bullets(tuple(map(str, verdict["needs"])))
        blocks += [Heading("What would close what is open"), needs]
    if verdict.get("findings"):
        blocks += [Heading("Findings"), Bullets(tuple(map(str, verdict["findings"])))]
    if study.metrics.get("warnings"):
        blocks += [Heading("Warnings"), Bullets(tuple(map(str, study.metrics["warnings"])))]
    if verdict.get("rule"):
        blocks.append(Folded("The rule behind the verdict", text=str(verdict["rule"])))
    return blocks


def sources(study: Study) -> Table | None:
    """Sources of shortcut × protocols: each the share of the model's advantage over chance."""
    verdict = study.metrics["verdict"]
    rows = study.metrics.get("shortcuts", {}).get("sources", ())
    shown = [p for p in study.protocols if any(row["protocol"] == p for row in rows)]
    judged = verdict.get("protocol")

    def cell(source: Mapping[str, Any], protocol: str) -> str:
        own = [r for r in rows if (r["source"], r["protocol"]) == (source["source"], protocol)]
        said = [f"{_mark(row)} {share_text(row['share'], '')}" for row in own]
        return " / ".join(said) if said else DASH

    return table_if_any(
        "What each source of shortcut gives by itself, as a share of the model’s advantage over "
        "chance (ROC AUC above 0.5)",
        verdict.get("sources") or (),
        text("Source", lambda s: SOURCE_WORDS[s["source"]]),
        text("Verdict", lambda s: SIGNS[s["status"]], narrow=True),
        *each(shown, protocol_title, cell, lines=True),
        code("Probe", lambda s: s["probe"] or DASH),
        text("Why", lambda s: s["reason"] or _judged_by(s)),
        note="✗ shown: more than one half (lower limit); ✓ refuted: less than one half (upper "
        f"limit); ? open. {_rests_on(judged)}",
    )  # fmt: skip


def _rests_on(protocol: str | None) -> str:
    if protocol is None:
        return "No protocol held out patients or acquisition clusters, so nothing is refuted."
    return f"The verdict rests on: {protocol_title(protocol)}."


def _judged_by(source: Mapping[str, Any]) -> str:
    needed = source.get("needed")
    return f"would need about {count(needed)} groups" if needed else DASH


def _mark(row: Mapping[str, Any]) -> str:
    return SIGNS[status_of(row)][0]


def survival(study: Study) -> Table | None:
    """What mild degradation of the test images leaves of the model's advantage."""
    rows = study.metrics.get("survival") or ()
    protocols = [p for p in study.protocols if any(row["protocol"] == p for row in rows)]
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    found = {(row["input"], row["protocol"]): row for row in rows}
    n = max((row["n"] for row in rows), default=0)
    return table_if_any(
        f"What the trained model keeps of its advantage on mildly degraded test images "
        f"(up to {count(n)} images a protocol)",
        inputs,
        text("Test images after", lambda name: DEGRADED_WORDS.get(name, name)),
        *each(
            protocols,
            protocol_title,
            lambda name, p: share_text(found[name, p]["share"], "") if (name, p) in found else DASH,
        ),
        note="A model that reads cells keeps nearly all of it: such steps change nothing that a "
        "haematologist would see.",
    )
