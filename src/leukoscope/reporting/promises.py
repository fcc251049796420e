"""For which new images a bundle of a study is calibrated, in words."""

from __future__ import annotations

from leukoscope.config.promise import Measured, Promise
from leukoscope.reporting.source import Study


def promise_words(study: Study) -> str:
    """One or two sentences; empty for studies that were run before bundles made promises."""
    entry = study.metrics.get("promise") or {}
    if "unit" not in entry:
        return ""
    coverage = entry.get("coverage") or {}
    measured = Measured(**coverage) if coverage.get("value") is not None else None
    made = Promise(
        unit=entry["unit"],
        protocol=entry["protocol"],
        n_groups=entry["n_groups"],
        n=entry["n"],
        coverage=entry["nominal"],
        measured=measured,
    )
    found = made.measured_words or f"coverage not measured: {entry.get('reason', 'unknown')}"
    return f"{made.words}. {found[0].upper()}{found[1:]}."
