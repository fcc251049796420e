"""The words of the verdict: scores as sentences with their intervals and sample sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MIN_GROUPS: Final = 10
SETTINGS: Final[Mapping[str, str]] = {
    "random": "on random splits",
    "deduplicated": "when overlapping images are kept together",
    "given": "on the data set's own split",
    "acquisition": "when whole acquisition clusters are held out",
    "acquisition-merged": "when acquisition clusters that share overlapping fields are held out "
    "together",
    "grouped": "when whole patients are held out",
}
_SHORT: Final[Mapping[str, str]] = {
    "random": "random splits",
    "deduplicated": "overlaps kept together",
    "given": "own split",
    "acquisition": "clusters held out",
    "acquisition-merged": "merged clusters held out",
    "grouped": "patients held out",
}
SEPARATING: Final = ("grouped", "acquisition-merged", "acquisition")
PROBES: Final[Mapping[str, str]] = {
    "background-only": "with all leukocytes removed the background alone",
    "colour-only": "a few colour statistics of the whole image alone",
    "scale-bar-only": "the burned-in scale bar alone",
}
"""The probes that a verdict rests on; the first is the most telling."""


@dataclass(frozen=True)
class Score:
    """Accuracy of a model or probe under one protocol.

    Attributes:
        protocol: Name of the protocol.
        n: Number of test images.
        n_groups: Number of groups that the interval rests on.
        unit: What a group is.
        value: Accuracy.
        low: Lower limit of its interval.
        high: Upper limit.
        chance: Accuracy of always naming the most frequent class.
        balanced_low: Lower limit of the balanced accuracy, None where unknown.
        num_classes: Number of classes.
    """

    protocol: str
    n: int
    n_groups: int
    unit: str
    value: float
    low: float
    high: float
    chance: float
    balanced_low: float | None
    num_classes: int

    @property
    def enough(self) -> bool:
        """Whether there are enough groups for an interval that can be relied on."""
        return self.n_groups >= MIN_GROUPS

    @property
    def advantage(self) -> float:
        """Accuracy above chance."""
        return self.value - self.chance

    @property
    def beats_chance(self) -> bool:
        """By accuracy, or by balanced accuracy where a frequent class leaves accuracy no room."""
        balanced = self.balanced_low is not None and self.balanced_low > 1 / self.num_classes
        return self.low > self.chance or balanced


def summary(scores: Mapping[str, Score]) -> str:
    """The beginning of the headline: accuracy under the protocols that matter most."""
    shown = [name for name in ("random", *reversed(SEPARATING)) if name in scores]
    if not set(shown) & set(SEPARATING):
        shown = list(scores)
    if "grouped" in shown and scores["grouped"].enough:
        shown = [name for name in shown if name in {"random", "grouped"}]
    numbers = {scores[name].n for name in shown}
    same = len(numbers) == 1
    items = [
        f"{percent(scores[name].value)} {SETTINGS[name]}"
        + ("" if same else f" ({_count(scores[name].n)} images)")
        for name in shown
    ]
    return (f"{_count(numbers.pop())} images: " if same else "") + ", ".join(items)


def where(probe: Score, scores: Mapping[str, Score]) -> str:
    """In brackets the protocol of a probe, where there is more than one."""
    return "" if len(scores) == 1 else f" ({_SHORT[probe.protocol]})"


def describe_score(score: Score) -> str:
    """One finding: accuracy with interval and sample sizes."""
    few = "" if score.enough else "; too few groups for a reliable interval"
    return (
        f"{_capital(SETTINGS[score.protocol])}: accuracy {_range(score)}, "
        f"{_count(score.n)} images in {_count(score.n_groups)} {plural_unit(score)}, "
        f"chance {percent(score.chance)}{few}."
    )


def describe_probe(name: str, probe: Score, scores: Mapping[str, Score]) -> str:
    """One finding: a probe's accuracy beside the model's."""
    model = scores[probe.protocol]
    share = ""
    if model.advantage > 0:
        part = max(0.0, probe.advantage) / model.advantage
        share = f", {part:.0%} of the model's advantage over chance".replace("%", " %")
    return (
        f"Probe {name}, {SETTINGS[probe.protocol]}: accuracy {_range(probe)}, "
        f"{_count(probe.n)} images{share}."
    )


def describe_edited(edited: Score, scores: Mapping[str, Score]) -> str:
    """One finding: what the trained model reaches on its test images without leukocytes."""
    return (
        f"The trained model, shown its test images without leukocytes, "
        f"{SETTINGS[edited.protocol]}: accuracy {_range(edited)}, {_count(edited.n)} images; on "
        f"whole images {percent(scores[edited.protocol].value)}."
    )


def describe_share(entry: Mapping[str, Any]) -> str:
    """How much of the advantage over colour statistics is left without stain, in a sentence."""
    where_ = _capital(SETTINGS[entry["protocol"]])
    over, share = entry["advantage"], entry["share"]
    if not entry["defined"]:
        return (
            f"{where_}: the model is not shown to be better than the colour statistics (difference "
            f"{points(over['value'])}), so no share of that advantage can be given."
        )
    weak = "" if share["reliable"] else "; too few groups for a reliable interval"
    return (
        f"{where_}: of the {points(over['value'])} by which the model is better than colour "
        f"statistics, {share['value']:.0%} (interval {100 * share['low']:.0f}–{share['high']:.0%}) "
        f"survive in a classifier that sees no stain{weak}."
    ).replace("%", " %")


def describe_inflation(random: Score, other: Score, difference: float, low: float | None) -> str:
    """One finding: how far the random split lies above a stricter protocol."""
    certain = "significantly" if low is not None and low > 0 else "not significantly"
    direction = "above" if difference >= 0 else "below"
    return (
        f"The accuracy on random splits lies {points(abs(difference))} {direction} that "
        f"{SETTINGS[other.protocol]}" + (f" ({certain})." if difference >= 0 else ".")
    )


def describe_curve(metrics: Mapping[str, Any], recipe: str | None) -> list[str]:
    """At most one finding: how much the number of clusters matters."""
    curve = sorted(
        (point["clusters"], point["accuracy"]["value"])
        for point in metrics.get("curve", ())
        if point["recipe"] == recipe and point["accuracy"]["value"] is not None
    )
    if len(curve) < 2:
        return []
    values = [value for _, value in curve]
    return [
        f"With {curve[0][0]} to {curve[-1][0]} acquisition clusters, the accuracy on held-out "
        f"clusters lies between {percent(min(values))} and {percent(max(values))}."
    ]


def percent(value: float) -> str:
    """A share in per cent, e.g. ``98.3 %``."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:.1f} points".replace("-", "−")


def _count(number: int) -> str:
    return f"{number:,}"


def _range(score: Score) -> str:
    return f"{percent(score.value)} (interval {100 * score.low:.1f}–{percent(score.high)})"


def plural_unit(score: Score) -> str:
    """What the groups are called, in the right number."""
    return score.unit if score.n_groups == 1 else f"{score.unit}s"


def verb(name: str, singular: str, plural: str) -> str:
    """The form of a verb that goes with a probe's words."""
    return plural if name == "colour-only" else singular


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
