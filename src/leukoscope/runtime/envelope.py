"""The envelope of a bundle: how far an image may be damaged before its answers stop being good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.guarantees import Envelope
from leukoscope.imaging.quality import BEYOND, measure_conditions
from leukoscope.runtime.bundle import read_bundle, save_bundle


def envelope_notes(
    image: NDArray[np.uint8], quality: Mapping[str, float], envelope: Envelope | None
) -> tuple[str, ...]:
    """One sentence for each limit of the envelope that an image exceeds.

    Args:
        image: (H, W, 3) uint8 RGB, before preprocessing.
        quality: Of the same image, from :func:`leukoscope.imaging.quality.measure_quality`.
        envelope: The bundle's envelope; None checks nothing.
    """
    if envelope is None:
        return ()
    found = measure_conditions(image, quality)
    notes = []
    for (statistic, side), limit in checked_limits(envelope).items():
        value = found[statistic]
        if value < limit if side == "low" else value > limit:
            notes.append(
                f"The image is {BEYOND[statistic, side]} than the limit at which this model still "
                f"keeps within {100 * envelope.bound:g} points of its accuracy "
                f"({statistic.replace('_', ' ')} {value:.3g}, limit {limit:.3g})."
            )
    return tuple(notes)


def checked_limits(envelope: Envelope) -> dict[tuple[str, str], float]:
    """The strictest limit for each statistic and side.

    Two kinds of damage (defocus and motion) may change one measure, and the measure does not show
    which it was, so the stricter limit applies.
    """
    strictest: dict[tuple[str, str], float] = {}
    for statistic, side, limit in _sides(envelope):
        choose = max if side == "low" else min
        strictest[statistic, side] = choose(limit, strictest.get((statistic, side), limit))
    return strictest


def _sides(envelope: Envelope) -> Iterator[tuple[str, str, float]]:
    for limit in envelope.limits:
        for side, value in (("low", limit.low), ("high", limit.high)):
            if limit.statistic and value is not None:
                yield limit.statistic, side, value


def store_envelope(folder: Path, envelope: Envelope) -> None:
    """Give a bundle a new envelope in place of its own; the bundle is replaced as a whole.

    Raises:
        BundleError: The bundle is damaged, or cannot be replaced.
    """
    bundle = read_bundle(folder)
    record = bundle.record.model_copy(update={"envelope": envelope})
    save_bundle(bundle.folder, record, {name: bundle.folder / name for name in record.files})
