"""The words of the verdict: scores as sentences with their intervals and sample sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from leukoscope.config.metrics.evidence import Control, SourceVerdict, StainShare, Survival
from leukoscope.config.metrics.other_data import ForeignSplit, Leak
from leukoscope.config.metrics.results import Comparison, CurvePoint, Estimate, NextUnit, Reason
from leukoscope.core.protocols import PROTOCOLS, SEPARATING, by_column
from leukoscope.evaluation.statistics.intervals import MIN_CLASS_GROUPS, MIN_GROUPS

SOURCE_WORDS: Final[Mapping[str, str]] = {
    "ground": "the ground between the leukocytes",
    "grain": "the finest grain of the image (sharpness, noise, compression)",
    "frame": "the edge, shading or scale bar of the image",
    "file": "the format and size of the file",
    "stain": "the hue of the stain",
}
"""Each source of shortcut, as a clinician would call it."""

DEGRADED_WORDS: Final[Mapping[str, str]] = {
    "blur-0.5": "a blur of 0.5 px",
    "blur-1": "a blur of 1 px",
    "jpeg-95": "JPEG compression of quality 95",
    "jpeg-85": "JPEG compression of quality 85",
    "size-90": "scaling to 90 %",
    "size-110": "scaling to 110 %",
    "resampled": "resampling twice",
}
"""Mild degradations of a test image."""


@dataclass(frozen=True)
class Score:
    """Accuracy of a model under one protocol.

    Attributes:
        protocol: Name of the protocol.
        n: Number of test images.
        n_groups: Number of groups that the interval rests on.
        unit: What a group is.
        low: Lower limit of its interval.
        chance: Accuracy of always naming the most frequent class.
        enough: Whether there are enough groups, and groups of each class, for a plausible verdict.
        skill: Whether the model is shown to be better than chance, by the ROC AUC.
        next_unit: Prediction interval of the next group, or why there is none.
        row: What ``n`` counts.
    """

    protocol: str
    n: int
    n_groups: int
    unit: str
    value: float
    low: float
    high: float
    chance: float
    enough: bool
    skill: bool
    next_unit: NextUnit | Reason | None = None
    row: str = "image"

    @property
    def sample(self) -> str:
        """How many test images, or patients in their place."""
        return f"{_count(self.n)} {self.row}s"


def summary(
    scores: Mapping[str, Score], split: ForeignSplit | None = None, named: str | None = None
) -> str:
    """The beginning of the headline: accuracy under the protocols that matter most.

    Args:
        split: What is known of the split of a model that was not trained here.
        named: Its name; None for a model of the study.
    """
    if named is not None:
        score = next(iter(scores.values()))
        where = "on the test part of its own split" if split else "on all images"
        return f"{named}: accuracy {_range(score)} {where}, {_count(score.n)} images"
    shown = [name for name in ("random", *reversed(SEPARATING)) if name in scores]
    if not set(shown) & set(SEPARATING):
        shown = list(scores)
    if "grouped" in shown:
        shown = [
            name for name in shown if name in {"random", "grouped"} or by_column(PROTOCOLS[name])
        ]
    numbers = {scores[name].sample for name in shown}
    same = len(numbers) == 1
    items = [
        f"{percent(scores[name].value)} {PROTOCOLS[name].setting}"
        + ("" if same else f" ({scores[name].sample})")
        for name in shown
    ]
    return (f"{numbers.pop()}: " if same else "") + ", ".join(items)


def describe_score(score: Score) -> str:
    """One finding: accuracy with both intervals and sample sizes."""
    few = "" if score.enough else "; few groups"
    following, next_one = score.next_unit, ""
    if isinstance(following, NextUnit) and following.low is not None and following.high is not None:
        limits = f"{100 * following.low:.0f} to {100 * following.high:.0f} %"
        next_one = f" For the next {following.unit} expect {limits}."
    return (
        f"{_capital(PROTOCOLS[score.protocol].setting)}: accuracy {_range(score)}, "
        f"{_in_groups(score)}, "
        f"chance {percent(score.chance)}{few}.{next_one}"
    )


def describe_fixed(score: Score, split: ForeignSplit | None) -> str:
    """One finding about a model that was not trained here, whose answers no protocol changes."""
    where = (
        "On the test part of its own split"
        if split
        else "On all images, of which none is known to be new to it"
    )
    few = "" if score.enough else "; few groups"
    return (
        f"{where}, {score.unit}s resampled: accuracy {_range(score)}, {_in_groups(score)}, "
        f"chance {percent(score.chance)}{few}."
    )


def _in_groups(score: Score) -> str:
    """How many test images in how many groups; patients that are groups alone stand once."""
    if score.row == score.unit and score.n == score.n_groups:
        return score.sample
    return f"{score.sample} in {_count(score.n_groups)} {plural_unit(score)}"


def describe_source(source: SourceVerdict) -> str:
    """One finding: what a source of shortcut gives by itself."""
    words = _capital(SOURCE_WORDS[source.source])
    if source.status == "inapplicable":
        return f"{words}: does not apply ({source.reason.rstrip('.')})."
    if source.share is None:
        return f"{words}: open ({source.reason.rstrip('.')})."
    share = share_text(source.share)
    return (
        f"{words} {share} of the advantage over chance ({source.probe}, "
        f"{PROTOCOLS[source.protocol].label}): {source.status}."
    )


def share_text(share: Estimate | None, verb: str = "gives ") -> str:
    """A share with its interval, after a verb.

    >>> share_text(Estimate(value=0.7, low=0.55, high=0.85))
    'gives 70 % (55 to 85 %)'
    """
    if share is None or share.value is None:
        return f"{verb}an unknown share"
    value = f"{verb}{100 * share.value:.0f} %"
    if share.low is None or share.high is None:
        return value
    limits = f"{100 * share.low:.0f} to {100 * share.high:.0f} %".replace("-", "−")
    return f"{value} ({limits})".replace("-", "−")


def describe_survival(rows: Sequence[Survival], row: str = "image") -> list[str]:
    """At most one finding: what mild degradation of the test images leaves of the advantage.

    ``row`` is what is tested: the image, or the patient.
    """
    known = [row for row in rows if row.share.value is not None]
    if not known:
        return []
    said = "; ".join(
        f"{DEGRADED_WORDS.get(row.input, row.input)} {share_text(row.share, '')}" for row in known
    )
    return [f"What the model keeps of its advantage ({_count(known[0].n)} {row}s): {said}."]


def describe_control(control: Control | None) -> list[str]:
    """At most one finding: the negative control."""
    if control is None or not control.draws:
        return []
    verdict = {True: "not above it", False: "ABOVE IT", None: "too uncertain to tell"}
    below = (
        " Below chance is usual where groups are few: the classes that are held out are rarer in "
        "training, so that a model that learnt nothing leans to the others."
        if control.high is not None and control.high < 0.5
        else ""
    )
    return [
        f"Negative control ({len(control.draws)} times labels dealt at random to whole groups): "
        f"ROC AUC {control.value:.2f} ({control.low:.2f} to {control.high:.2f}), chance "
        f"0.50: {verdict[control.passed]}.{below}"
    ]


def describe_share(entry: StainShare) -> str:
    """How much of the advantage over colour statistics is left without stain, in a sentence."""
    where_ = _capital(PROTOCOLS[entry.protocol].setting)
    over, share = entry.advantage.value or 0.0, entry.share
    if not entry.defined or share.value is None or share.low is None or share.high is None:
        return (
            f"{where_}: the model is not shown to be better than the colour statistics (difference "
            f"{points(over)}), so no share of that advantage can be given."
        )
    weak = "" if share.reliable else "; too few groups for a reliable interval"
    return (
        f"{where_}: of the {points(over)} by which the model is better than colour "
        f"statistics, {share_text(share, '')} survive in a classifier that sees no stain{weak}."
    )


def of_random_split(comparisons: Sequence[Comparison], recipe: str | None) -> list[Comparison]:
    """Those of a recipe's accuracy on random splits with that under another protocol."""
    return [
        entry
        for entry in comparisons
        if all((side.recipe, side.input) == (recipe, "image") for side in (entry.a, entry.b))
        and (entry.metric, entry.a.protocol) == ("accuracy", "random")
    ]


def only_too_few(difference: Estimate, p_holm: float, confidence: float) -> bool:
    """Whether nothing but the number of groups keeps a difference from being called one.

    >>> only_too_few(Estimate(value=0.21, low=0.15, high=0.29, reliable=False), 0.002, 0.95)
    True
    """
    low, high = difference.low, difference.high
    clear = low is not None and high is not None and not low <= 0 <= high
    return clear and not difference.reliable and p_holm < 1 - confidence


def describe_inflation(
    comparisons: Sequence[Comparison], recipe: str | None, confidence: float = 0.95
) -> list[str]:
    """How far random splits lie above each stricter protocol, and what the paired test says."""
    found = []
    for entry in of_random_split(comparisons, recipe):
        protocol, difference = entry.b.protocol, entry.difference.value
        if protocol not in SEPARATING or difference is None:
            continue
        said = "not distinguishable" if entry.verdict == "not distinguishable" else "a difference"
        if only_too_few(entry.difference, entry.p_holm, confidence):
            said = _too_few(entry)
        direction = "above" if difference >= 0 else "below"
        found.append(
            f"The accuracy on random splits lies {points(abs(difference))} {direction} that "
            f"{PROTOCOLS[protocol].setting} ({said})."
        )
    return found


def _too_few(entry: Comparison) -> str:
    """Of what there are too few, all groups or those of a class."""
    unit = PROTOCOLS[entry.b.protocol].unit
    what = f"{entry.n_groups} {unit}s are"
    if entry.n_groups >= MIN_GROUPS:
        what = f"fewer than {MIN_CLASS_GROUPS} {unit}s of a class are"
    return f"{what} too few to rely on the difference"


def describe_curve(points: Sequence[CurvePoint], recipe: str | None) -> list[str]:
    """At most one finding: how much the number of clusters matters."""
    curve = sorted(
        (point.clusters, point.accuracy.value)
        for point in points
        if point.recipe == recipe and point.accuracy.value is not None
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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_LEAKS: Final[Mapping[str, str]] = {
    "copies": "a copy of a training image",
    "overlaps": "linked with a training image (overlapping field, near copy or twin)",
    "patients": "of a patient who is in training too",
}


def leak_sentences(split: ForeignSplit | None) -> list[str]:
    """What the audit found of the split of a model that was not trained here."""
    if split is None:
        text = "On which images the model was trained is not known: its accuracy may be memory."
        return [text]
    return [_leak(split, leak) for leak in split.leaks]


def _leak(split: ForeignSplit, leak: Leak) -> str:
    pairs = "; ".join(f"{test} and {train}" for test, train in leak.examples)
    count = f"{leak.images} of its {split.test} test images, each"
    return f"Leak: {count} {_LEAKS[leak.kind]}, e.g. {pairs}."


def join(items: Sequence[str]) -> str:
    """A list in words.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
