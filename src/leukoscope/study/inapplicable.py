"""Probes that have nothing to see in a data set, with what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.study import StudyConfig
from leukoscope.imaging.file_facts import FILE_FACTS
from leukoscope.study.listing import listing_numbers
from leukoscope.study.picture_scale import picture_scale
from leukoscope.study.probe_numbers import (
    NUMBERS,
    SEEN,
    TIME,
    NumberTable,
    finished,
    grain_table,
)
from leukoscope.study.store import InputStore

GROUND_SHARE = 0.05  # of an image; where less plain ground shows, there is none to read
MOST = 0.95  # of the images in which there is nothing to see
OF_GROUND = ("background-only", "background-grey", "ground-only")


def measured_tables(config: StudyConfig) -> Iterator[NumberTable]:
    """Tables by which :func:`inapplicable_probes` decides, beside those of the probes."""
    yield SEEN
    if "order-only" in config.probes:
        yield TIME


def inapplicable_probes(
    config: StudyConfig, passport: Mapping[str, Any], store: InputStore
) -> list[dict[str, str]]:
    """Probes that were asked for but have nothing to see in this data, with the reasons.

    Args:
        config: The study's.
        passport: Of the audit.
        store: Tables of the images, from its cache or computed.

    Returns:
        ``{"probe", "reason"}`` of each.
    """
    found = []
    for probe in config.probes:
        reason = _reason(probe, config, passport, store)
        if reason:
            found.append({"probe": probe, "reason": reason})
    return found


def _reason(
    probe: str, config: StudyConfig, passport: Mapping[str, Any], store: InputStore
) -> str | None:
    if probe == "scale-bar-only" and not passport["scale_bars"]["images"]:
        n = len(store.data.records)
        return f"the audit found a burned-in scale bar in none of {n} images"
    if probe in OF_GROUND:
        return _without_ground(store.numbers(SEEN)[:, 0])
    if probe == "order-only":
        return _without_differences(listing_numbers(store), "names and times")
    if probe == "grain-only":
        table = grain_table(picture_scale(store, config).um_per_px)
        return _without_differences(store.numbers(table), "statistics of the finest detail")
    if probe == "file-only":
        return _same_files(finished(probe, store.numbers(NUMBERS[probe])))
    if probe in ("frame-only", "stain-only", "shape-only", "count-only"):
        what = probe.removesuffix("-only")
        return _without_differences(
            finished(probe, store.numbers(NUMBERS[probe])), f"statistics of {what}"
        )
    return None


def _without_ground(shares: NDArray[np.float64]) -> str | None:
    bare = float((shares < GROUND_SHARE).mean())
    if bare < MOST:
        return None
    return (
        f"in {100 * bare:.0f} % of the images less than {100 * GROUND_SHARE:.0f} % of the pixels "
        f"show ground (median {100 * float(np.median(shares)):.1f} %)"
    )


def _same_files(facts: NDArray[np.float64]) -> str | None:
    if _varies(facts).any():
        return None
    width, height = (int(facts[0, FILE_FACTS.index(name)]) for name in ("width", "height"))
    size = f"{width} × {height} px, " if width else ""
    return f"all {len(facts)} files have the same {facts.shape[1]} facts ({size}one format)"


def _without_differences(values: NDArray[np.float64], what: str) -> str | None:
    if _varies(values).any():
        return None
    return f"the {values.shape[1]} {what} are the same in all {len(values)} images, or unreadable"


def _varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(d,) whether a column has two different known values."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return np.asarray(high > low + 1e-9)
