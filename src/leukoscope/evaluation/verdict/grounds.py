"""Which a trained model follows: the leukocytes, or the ground that they lie on.

Shown are its own test images with the leukocytes put on the ground of another image. Where that
one is of another class, cells and ground speak for two classes, and the answer tells which of them
the model reads: a conflict of cues as in Geirhos et al. 2019 (ImageNet-trained CNNs are biased
towards texture, ICLR), made as in Xiao et al. 2021 (Noise or signal: the role of image backgrounds
in object recognition, ICLR). Where it is of the same class, only what pasting does is left.
Leukocytes bring their stain with them: a model that follows them need not read their shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leukoscope.config.metrics.file import Measurements
from leukoscope.config.metrics.results import GROUND_BIAS, GROUND_CLASS, Estimate, PerturbedResult
from leukoscope.config.study import OTHER_GROUND, OWN_GROUND
from leukoscope.evaluation.verdict.sentences import share_text
from leukoscope.evaluation.verdict.shortcuts import HALF


@dataclass(frozen=True)
class SwappedGround:
    """The answers of one model to swapped grounds, under one protocol.

    Attributes:
        protocol: Name of the protocol.
        n: Test images, or patients, on the ground of another class.
        row: What ``n`` counts.
        cells: Share of them named after their leukocytes.
        ground: Share named after the ground.
        bias: The same among those named after either; None where none was.
        own: Share named rightly on another ground of their own class; None where none was shown.
    """

    protocol: str
    n: int
    row: str
    cells: Estimate
    ground: Estimate
    bias: Estimate | None
    own: Estimate | None

    @property
    def follows(self) -> Literal["leukocytes", "ground", "unclear"]:
        """What the model is shown to follow: more than one half of the answers that name either."""
        if self.bias is None or self.bias.low is None or self.bias.high is None:
            return "unclear"
        if self.bias.low > HALF:
            return "ground"
        return "leukocytes" if self.bias.high < HALF else "unclear"

    def sentence(self) -> str:
        """What was seen, for a finding or a terminal."""
        own = f"; on another ground of their own class {_of(self.own)} rightly" if self.own else ""
        return (
            f"Leukocytes put on the ground of another class: named after the leukocytes in "
            f"{_of(self.cells)}, after the ground in {_of(self.ground)} of {self.n:,} {self.row}s"
            f"{own}."
        )


def swapped_grounds(metrics: Measurements, recipe: str | None) -> dict[str, SwappedGround]:
    """Protocol → the answers of one recipe's models; empty where no ground was swapped."""
    own = {(row.input, row.protocol): row for row in metrics.model_on if row.recipe == recipe}
    found = {}
    for (shown, protocol), row in own.items():
        cells, ground = row.metrics.get("accuracy"), row.metrics.get(GROUND_CLASS)
        if shown != OTHER_GROUND or cells is None or ground is None:
            continue
        control = own.get((OWN_GROUND, protocol))
        found[protocol] = SwappedGround(
            protocol,
            row.n,
            row.row,
            cells,
            ground,
            row.metrics.get(GROUND_BIAS),
            _accuracy_of(control),
        )
    return found


def _accuracy_of(row: PerturbedResult | None) -> Estimate | None:
    return None if row is None else row.metrics.get("accuracy")


def _of(share: Estimate | None) -> str:
    return share_text(share, "")
