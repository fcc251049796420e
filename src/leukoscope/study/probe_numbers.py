"""Tables of numbers that probes without a network are fitted on, one row an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import bar_statistics, colour_statistics
from leukoscope.imaging.file_facts import FILE_FACTS, SIZE_FACTS, file_facts, taken_at
from leukoscope.imaging.frame import frame_statistics
from leukoscope.imaging.grain import grain_statistics
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.silhouette import count_statistics, shape_statistics
from leukoscope.imaging.stain_colours import finished_stains, stain_statistics

Numbers = Callable[[Observation], NDArray[np.float64]]


@dataclass(frozen=True)
class NumberTable:
    """Numbers of every image.

    Attributes:
        name: Of its file in the cache.
        numbers: Computes one row; pure, and called in several threads.
    """

    name: str
    numbers: Numbers


def _colours(seen: Observation) -> NDArray[np.float64]:
    return colour_statistics(seen.image)


def _bar(seen: Observation) -> NDArray[np.float64]:
    return bar_statistics(seen.image, seen.bar)


VIEW = ("ground_share", "cut_out", "outside_share")
"""What :data:`SEEN` holds: shares of the pixels that show plain ground, and anything lit outside
leukocytes; and whether the picture shows a cell that was cut out on black."""


def _view(seen: Observation) -> NDArray[np.float64]:
    ground = 0.0
    if not seen.cut_out:
        ground = float(seen.ground_colours[1].mean())
    outside = float((seen.lit & ~seen.masks.cell).mean())
    return np.array([ground, float(seen.cut_out), outside])


def _time(seen: Observation) -> NDArray[np.float64]:
    taken = taken_at(seen.data)
    return np.array([np.nan if taken is None else taken])


SEEN = NumberTable("seen", _view)
TIME = NumberTable("time", _time)
NUMBERS: Mapping[str, NumberTable] = MappingProxyType(
    {
        "colour-only": NumberTable("colour", _colours),
        "scale-bar-only": NumberTable("scale-bar", _bar),
        "frame-only": NumberTable("frame", frame_statistics),
        "file-only": NumberTable("file", file_facts),
        "stain-only": NumberTable("stain", stain_statistics),
        "shape-only": NumberTable("shape", shape_statistics),
        "count-only": NumberTable("count", count_statistics),
    }
)
"""Probe → its table; that of ``grain-only`` hangs on the scale, that of ``order-only`` on names."""


def grain_table(um_per_px: float | None) -> NumberTable:
    """The table of ``grain-only`` at a scale; None where it is unknown."""
    name = "grain" if um_per_px is None else f"grain-{um_per_px:.4g}"
    return NumberTable(name, partial(grain_statistics, um_per_px=um_per_px))


def finished(probe: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers (n, d) of a probe, of those of a table that only all images together explain."""
    if probe == "file-only":
        return without_cell_sizes(values)
    return finished_stains(values) if probe == "stain-only" else values


def without_cell_sizes(facts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Facts of files (n, d) without the sizes of frames that were drawn around cells.

    Where half of the frames or more follow the cell that was cut out, their sizes are the cells'
    own, and that is morphology.
    """
    found = facts.copy()
    follows = FILE_FACTS.index("follows_cell")
    if (facts[:, follows] > 0).mean() >= 0.5:
        found[:, [FILE_FACTS.index(name) for name in SIZE_FACTS]] = 0
    found[:, follows] = 0
    return found
