"""For which new images a bundle's answers are calibrated."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from leukoscope.config.base import Strict

NO_PROMISE: Final = (
    "calibrated on images of the training patients; promises nothing for new patients"
)
"""Of bundles that were packed before calibration held units out."""


class Measured(Strict):
    """A value with its interval.

    Attributes:
        value: What was measured.
        low: Lower limit; None where there is none.
        high: Upper limit, likewise.
        reliable: False where the interval rests on few groups.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reliable: bool = True


class Promise(Strict):
    """For which new images the probabilities, sets and thresholds of a bundle are meant.

    They are fitted on answers to images of units that the answering model was not trained on.

    Attributes:
        unit: What was held out as a whole: ``patient``, ``merged acquisition cluster``,
            ``acquisition cluster`` or, where nothing larger was, ``image``.
        protocol: Under which the folds held it out.
        n_groups: Number of such units.
        n: Number of their images.
        coverage: Nominal coverage of the prediction sets.
        measured: Coverage on units left out of the fit of the sets, too; None where not measured.
        method: How the answers were come by.
    """

    unit: str
    protocol: str
    n_groups: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    measured: Measured | None = None
    method: str = "cross-validation+"

    @property
    def covers(self) -> str:
        """What kind of new image the promise covers, to follow "for"."""
        if self.unit == "patient":
            return "new patients"
        if self.unit.endswith("cluster"):
            return f"new {self.unit}s, a stand-in for slides"
        return "new images from the patients and slides of the training images"

    @property
    def words(self) -> str:
        """One sentence for readers, without its full stop."""
        text = (
            f"{100 * self.coverage:g} % sets: calibrated for {self.covers} "
            f"({self.n_groups} {self.unit}s held out)"
        )
        return text if self.unit == "patient" else f"{text}; promises nothing for new patients"

    @property
    def measured_words(self) -> str:
        """What the sets held on units that had no part in them; empty where not measured."""
        found = self.measured
        if found is None:
            return ""
        span = ""
        if found.low is not None and found.high is not None:
            span = f" ({100 * found.low:.1f}–{100 * found.high:.1f} %)"
        few = "" if found.reliable else ", few groups"
        return f"measured coverage {100 * found.value:.1f} %{span}{few}"
