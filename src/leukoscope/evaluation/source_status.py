"""The status of each source of shortcut: shown, refuted, open or inapplicable, by one number.

The number is the share of the model's advantage that the source gives by itself
(:mod:`leukoscope.evaluation.source_shares`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from leukoscope.evaluation.intervals import MIN_GROUPS
from leukoscope.evaluation.source_shares import SOURCES, source_of
from leukoscope.evaluation.verdict_text import Score

Status = Literal["shown", "refuted", "open", "inapplicable"]

HALF: Final = 0.5
FEWEST_TO_SHOW: Final = 10
"""Groups below which no source is called shown, whatever its interval says."""


@dataclass(frozen=True)
class Source:
    """What is known of one source of shortcut.

    Attributes:
        source: ``ground``, ``grain``, ``frame``, ``file`` or ``stain``.
        status: ``shown``, ``refuted``, ``open`` or ``inapplicable``.
        reason: Why, in words, where no share decides.
        probe: The probe that decided, empty where none did.
        protocol: The protocol that decided, likewise.
        share: Its interval, None where there is none.
        needed: How many groups would probably close it, None where it is closed or nobody knows.
        rows: Every share of its probes under every protocol, for the table.
    """

    source: str
    status: Status
    reason: str = ""
    probe: str = ""
    protocol: str = ""
    share: Mapping[str, Any] | None = None
    needed: int | None = None
    rows: tuple[Mapping[str, Any], ...] = ()


def judge_sources(metrics: Mapping[str, Any], judged: Sequence[Score]) -> list[Source]:
    """The status of each source under the judged protocols.

    Args:
        metrics: With ``shortcuts``: ``sources`` and ``inapplicable``.
        judged: Scores of the judged protocols, the strictest first.
    """
    shortcuts = metrics.get("shortcuts", {})
    rows = list(shortcuts.get("sources", ()))
    reasons = {row["probe"]: row["reason"] for row in shortcuts.get("inapplicable", ())}
    return [_source(name, rows, reasons, [s.protocol for s in judged]) for name in SOURCES]


def _source(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    reasons: Mapping[str, str],
    protocols: Sequence[str],
) -> Source:
    """One source: shown by any of its probes, refuted only by all that apply."""
    own = tuple(row for row in rows if source_of(row["probe"]) == name)
    wanted = [probe for probe in SOURCES[name] if probe not in reasons]
    if not wanted:
        why = "; ".join(dict.fromkeys(reasons[probe] for probe in SOURCES[name]))
        return Source(name, "inapplicable", why, rows=own)
    found = [row for p in protocols for row in own if row["protocol"] == p]
    main = SOURCES[name][0]
    lacking = [probe for probe in wanted if probe not in {row["probe"] for row in found}]
    # A scale bar is looked for only where it was asked for; the main probe must have been run.
    if not found or (main in lacking and main in wanted):
        return Source(name, "open", f"the probe {main} was not run on held-out groups", rows=own)
    shown = [row for row in found if status_of(row) == "shown"]
    unclear = [row for row in found if status_of(row) == "open"]
    decisive = max(shown or unclear or found, key=_upper)
    status: Status = "shown" if shown else "open" if unclear else "refuted"
    return Source(
        name,
        status,
        probe=decisive["probe"],
        protocol=decisive["protocol"],
        share=decisive["share"],
        needed=groups_needed(decisive) if status == "open" else None,
        rows=own,
    )


def status_of(row: Mapping[str, Any]) -> Status:
    """What one share says: ``shown``, ``refuted`` or ``open``.

    >>> share = {"value": 0.8, "low": 0.6, "high": 1.0, "reliable": True}
    >>> status_of({"share": share, "n_groups": 30}), status_of({"share": share, "n_groups": 9})
    ('shown', 'open')
    """
    low, high = row["share"]["low"], row["share"]["high"]
    if low is None or high is None:
        return "open"
    if low > HALF:
        return "shown" if row["n_groups"] >= FEWEST_TO_SHOW else "open"
    return "refuted" if high < HALF and row["share"]["reliable"] else "open"


def _upper(row: Mapping[str, Any]) -> float:
    high = row["share"]["high"]
    return float("inf") if high is None else float(high)


def groups_needed(row: Mapping[str, Any]) -> int | None:
    """How many groups would close an open share, if its value stays what it is.

    The distance of the value from its limits shrinks with the square root of the number of
    groups. None where the value lies within 0.02 of one half, or is not known.

    >>> groups_needed({"share": {"value": 0.3, "low": 0.0, "high": 0.7}, "n_groups": 25})
    100
    """
    value, low, high = (row["share"][key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None or abs(value - HALF) < 0.02:
        return None
    reach = high - value if value < HALF else value - low
    needed = float(row["n_groups"] * (reach / abs(value - HALF)) ** 2)
    return max(MIN_GROUPS, math.ceil(round(needed, 6)))
