"""How far an engine's answers may lie from those of the trained network, by precision."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field

from leukoscope.config.base import Strict

Precision = Literal["fp32", "bf16", "int8"]
Stored = Literal["fp32", "compact"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")


class Bound(Strict):
    """What one precision may change.

    Attributes:
        logits: Largest difference of a logit, in units of the largest logit (at least of 1).
        changed: Largest share of images whose class changes.
    """

    logits: float
    changed: float


BOUNDS: Final[Mapping[Precision | Stored, Bound]] = MappingProxyType(
    {
        "fp32": Bound(logits=1e-3, changed=0.0),
        "compact": Bound(logits=1e-2, changed=0.0),
        "bf16": Bound(logits=0.1, changed=0.01),
        "int8": Bound(logits=0.3, changed=0.02),
    }
)
"""bfloat16 keeps 8 bits of a number and int8 as many of a layer's range: over some fifty layers
that is some percent of a logit, and only images between two classes may change. ``compact`` is fp32
from weights that are stored in 16 bits."""

ACCURACY_LOSS: Final = 0.003
"""Largest loss of accuracy on validation images at which a lower precision is offered."""


class Parity(Strict):
    """What was measured on real validation images.

    Attributes:
        n: Number of images.
        max_abs: Largest difference of any logit.
        scale: Largest absolute logit of the reference, at least 1.
        changed: Share of images whose class changed; two classes whose reference logits differ by
            less than the bound of fp32 count as one.
        accuracy_change: Accuracy minus that of the reference (fp32); None for fp32.
        low: Lower 95 % limit of it, whole groups resampled; None where not measured.
        high: Upper limit.
    """

    n: Annotated[int, Field(ge=1)]
    max_abs: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(ge=1)]
    changed: Annotated[float, Field(ge=0, le=1)]
    accuracy_change: float | None = None
    low: float | None = None
    high: float | None = None

    def refusal(self, precision: Precision | Stored) -> str:
        """Which bound is not kept, with the measured figure; empty where all are.

        >>> Parity(n=10, max_abs=0.5, scale=10, changed=0).refusal("fp32")
        'logits differ by up to 0.5, allowed 0.01 (10 validation images)'
        """
        bound, where = BOUNDS[precision], f"({self.n} validation images)"
        if not self.max_abs <= bound.logits * self.scale:
            allowed = bound.logits * self.scale
            return f"logits differ by up to {self.max_abs:.2g}, allowed {allowed:.2g} {where}"
        if not self.changed <= bound.changed:
            return (
                f"the class changes on {self.changed:.2%} of the images, "
                f"allowed {bound.changed:.2%} {where}"
            )
        if self.accuracy_change is not None and self.accuracy_change < -ACCURACY_LOSS:
            return (
                f"accuracy falls by {-100 * self.accuracy_change:.2f} points, "
                f"allowed {100 * ACCURACY_LOSS:g} {where}"
            )
        return ""
