"""Whether an engine in a lower precision, or another engine, still gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.parity import BOUNDS, Parity
from leukoscope.evaluation.intervals import Sampling, bootstrap_mean, proportion_interval


def measure_parity(
    reference: ArrayLike,
    found: ArrayLike,
    y: ArrayLike | None = None,
    groups: Sequence[str] | NDArray[Any] | None = None,
    **how: Unpack[Sampling],
) -> Parity:
    """Compare logits of the same images.

    Args:
        reference: (n, K) of the trained network, or of an engine in fp32.
        found: (n, K) of the engine in question.
        y: (n,) class indices, to compare accuracies; None leaves that out.
        groups: (n,) by which the interval of the accuracies' difference resamples; where no
            image changes sides, it is that of no change among so many groups, either way
            (Clopper & Pearson 1934).
        **how: See :class:`leukoscope.evaluation.intervals.Sampling`.

    >>> measure_parity([[2.0, 0.0], [0.0, 4.0]], [[2.0, 0.1], [0.0, 4.0]]).max_abs
    0.1
    >>> measure_parity([[2.0, 0.0], [0.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]], [0, 1]).accuracy_change
    -0.5
    """
    old, new = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    scale = max(1.0, float(np.abs(old).max()))
    # A NaN must fail every bound, and a record holds finite numbers only.
    difference = np.nan_to_num(np.abs(new - old), nan=1e30, posinf=1e30).max()
    was, now = old.argmax(axis=1), new.argmax(axis=1)
    rows = np.arange(len(old))
    changed = old[rows, was] - old[rows, now] > BOUNDS["fp32"].logits * scale
    parity = Parity(
        n=len(old), max_abs=float(difference), scale=scale, changed=float(changed.mean())
    )
    if y is None:
        return parity
    truth = np.asarray(y)
    gain = (now == truth).astype(float) - (was == truth)
    interval = bootstrap_mean(gain, groups=groups, **how)
    low, high = interval.low, interval.high
    if not gain.any():  # no spread to resample: as many groups could still have missed a change
        high = proportion_interval(0, interval.n_groups)[1]
        low = -high
    limits = {"accuracy_change": interval.value, "low": low, "high": high}
    return parity.model_copy(update=limits)
