"""Subgroups of test images: columns as values or bands, and whether the accuracy differs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUMBERS_FROM: Final = 10
"""Distinct values from which a column of numbers counts as a measurement, not as categories."""
BANDS: Final = 3
DRAWS: Final = 1999


def as_numbers(values: Sequence[str]) -> FloatArray | None:
    """Distinct values as measurements, or None where they are categories.

    >>> as_numbers([str(age) for age in range(40, 52)])[0], as_numbers(["1", "2"])
    (np.float64(40.0), None)
    """
    if len(values) <= NUMBERS_FROM:
        return None
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def is_constant(values: IntArray, units: IntArray) -> bool:
    """Whether no unit (n,) has two values (n,)."""
    return len(set(zip(units.tolist(), values.tolist(), strict=True))) == len(set(units.tolist()))


def dealt(values: IntArray, units: IntArray, rng: np.random.Generator) -> IntArray:
    """The values (n,) of whole units (n,) ``0 … U − 1``, dealt out among them at random."""
    return rng.permutation(of_units(values, units))[units]


def of_units(values: IntArray, units: IntArray) -> IntArray:
    """(U,) the value of each unit, of values (n,) that are constant within units (n,)."""
    found = np.zeros(int(units.max()) + 1, np.int64)
    found[units] = values
    return found


def in_bands(numbers: FloatArray, units: IntArray) -> tuple[IntArray, tuple[str, ...]]:
    """Thirds of the units by a measurement, whatever the results are.

    Each unit counts once, with the mean of its numbers. Where many are equal there are fewer bands.

    Args:
        numbers: (n,) measurement of each image.
        units: (n,) unit of each image, ``0 … U − 1``.

    Returns:
        (n,) band of each image, and the bands' names.

    >>> in_bands(np.arange(9.0), np.arange(9))
    (array([0, 0, 0, 1, 1, 1, 2, 2, 2]), ('up to 2', 'over 2 to 5', 'over 5'))
    """
    means = np.bincount(units, numbers) / np.bincount(units)
    levels = np.arange(1, BANDS) / BANDS
    cuts = np.unique(np.quantile(means, levels, method="inverted_cdf"))
    cuts = cuts[cuts < numbers.max()]  # else the last band is empty
    texts = [f"{cut:g}" for cut in cuts]
    between = [f"over {low} to {high}" for low, high in pairwise(texts)]
    names = (f"up to {texts[0]}", *between, f"over {texts[-1]}") if texts else ("all",)
    return np.searchsorted(cuts, numbers).astype(np.int64), names


def difference_p(
    right: NDArray[np.bool_],
    classes: IntArray,
    codes: IntArray,
    units: IntArray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> float | None:
    """Does the accuracy differ between subgroups beyond what classes and chance make of it?

    A permutation test. Each image counts by how far it is from the share of its class that is
    right, so that a subgroup with more images of a hard class is not blamed for them; the
    statistic is the variation of the means of subgroups, Σ n_v · m_v². Whole units are dealt
    among the subgroups where each lies in one of them (within a class, where each has one
    class); else the images of each unit and class are dealt among themselves.

    Args:
        right: (n,) whether the image was called rightly.
        classes: (n,) true class numbers.
        codes: (n,) subgroup of each image.
        units: (n,) what may be dealt: patient, cluster, component.
        draws: Number of permutations.
        seed: Of the random numbers.

    Returns:
        The p-value; None where nothing can be dealt, because the subgroups are of single classes
        (or units) alone.
    """
    _, classes = np.unique(classes, return_inverse=True)
    _, codes = np.unique(codes, return_inverse=True)
    _, units = np.unique(units, return_inverse=True)
    residual = right - (np.bincount(classes, right) / np.bincount(classes))[classes]
    sums, sizes = residual, np.ones(len(residual))
    strata = units * (int(classes.max()) + 1) + classes
    if is_constant(codes, units):
        sums = np.bincount(units, residual).astype(np.float64)
        sizes = np.bincount(units).astype(np.float64)
        one_class = is_constant(classes, units)
        strata = of_units(classes if one_class else np.zeros_like(classes), units)
        codes = of_units(codes, units)
    _, strata = np.unique(strata, return_inverse=True)
    if is_constant(codes, strata):
        return None
    # Sorted by stratum, a random order within each one is one sort for all of them.
    order = np.argsort(strata, kind="stable")
    sums, sizes, codes, strata = sums[order], sizes[order], codes[order], strata[order]

    def variation(of: IntArray) -> float:
        count = np.bincount(of, sizes)
        return float((np.bincount(of, sums) ** 2 / np.where(count > 0, count, 1.0)).sum())

    rng, observed = np.random.default_rng(seed), variation(codes)
    drawn = [variation(codes[np.lexsort((rng.random(len(codes)), strata))]) for _ in range(draws)]
    return (1 + int((np.array(drawn) >= observed - 1e-12).sum())) / (1 + draws)
