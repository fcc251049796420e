"""The agreement of two ways to measure one quantity on the same patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leukoscope.core.errors import DataError


def bland_altman(value: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Bias and 95 % limits of agreement (Bland & Altman 1986).

    Half of the width of an interval of the bias is t · SD / √n, of one of a limit t · SD · √(3 / n)
    with n - 1 degrees of freedom.

    Args:
        value: (n,) of one measurement.
        reference: (n,) of the other.

    Returns:
        ``bias`` (mean difference), ``loa_low`` and ``loa_high`` (bias ± 1.96 SD), ``bias_half``
        and ``loa_half`` (halves of the widths of their 95 % intervals); the last four are NaN for
        a single patient.

    Raises:
        DataError: The shapes differ, or nothing was measured.

    >>> found = bland_altman([0.2, 0.5, 0.4], [0.1, 0.5, 0.5])
    >>> {name: round(x, 3) for name, x in found.items()}
    {'bias': 0.0, 'loa_low': -0.196, 'loa_high': 0.196, 'bias_half': 0.248, 'loa_half': 0.43}
    """
    one, other = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if one.shape != other.shape or one.ndim != 1 or not one.size:
        raise DataError(f"agreement: expected two lists alike, got {one.shape} and {other.shape}")
    difference, n = one - other, len(one)
    bias = float(difference.mean())
    if n == 1:
        nothing = dict.fromkeys(("loa_low", "loa_high", "bias_half", "loa_half"), float("nan"))
        return {"bias": bias, **nothing}
    from scipy.special import stdtrit

    deviation = float(difference.std(ddof=1))
    t = float(stdtrit(n - 1, 0.975))
    return {
        "bias": bias,
        "loa_low": bias - 1.96 * deviation,
        "loa_high": bias + 1.96 * deviation,
        "bias_half": t * deviation / n**0.5,
        "loa_half": t * deviation * (3 / n) ** 0.5,
    }
