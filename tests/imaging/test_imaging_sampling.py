"""Quantiles are NumPy's, and pixels are thinned evenly."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.imaging.stain_colours import quantile, thinned_places


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("n", [1, 2, 3, 100, 6001])
def test_quantiles_are_those_of_numpy(n: int, dtype: type) -> None:
    values = np.asarray(np.random.default_rng(n).normal(80, 20, n), dtype)
    for share in (0.0, 0.02, 0.3, 0.5, 0.95, 1.0):
        expected = np.quantile(values.astype(np.float64), share)
        assert quantile(values, share) == pytest.approx(expected, rel=1e-12)


def test_many_pixels_are_thinned_evenly() -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[10:30] = True  # 1,000 pixels
    places = thinned_places(mask, 300)
    assert np.array_equal(places, np.flatnonzero(mask)[::3])
    assert len(thinned_places(mask, 1000)) == 1000
