"""From the scores of single maps to intervals, and to words: may the heat map be believed?

The burden of proof lies with the map, and passing proves nothing: the rule can say that a map may
not be believed, and otherwise that nothing was found against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.explanation_scores import area_under
from leukoscope.evaluation.intervals import MIN_GROUPS, bootstrap_mean, with_exact_limits

SAME = 0.5**0.5
"""Rank correlation above which two maps share more than half of the variance of their ranks."""

RANDOM, CENTRE, EDGES = "random blobs", "Gaussian in the centre", "edge detector"
BASELINES = (RANDOM, CENTRE, EDGES)
"""Maps that do not know the model, scored like the others."""

LEVELS = ("not to be believed", "not decided", "nothing against it")

Scored = Mapping[str, Any]
"""Of one map of one image: ``hit``, ``share``, ``insertion``, ``deletion``, ``morf``, ``lerf``
and, of a method, ``randomised`` (by stage), ``noise``, ``sensitivity``; None where undefined."""


@dataclass(frozen=True)
class Belief:
    """What may be said of a method's maps.

    Attributes:
        level: One of :data:`LEVELS`.
        text: The level with its reasons.
        place: Where the heat lies; of the model, if the map may be believed.
    """

    level: str
    text: str
    place: str


def summarise(
    images: Sequence[Mapping[str, Any]], *, confidence: float = 0.95, replicates: int = 1000
) -> dict[str, dict[str, Any]]:
    """Means over images of every score, and of what each map has more than the baselines.

    Args:
        images: One mapping an image, with ``group``, ``area`` (share of the image that leukocytes
            cover) and ``maps``, by name the scores of each map.
        confidence: Of the intervals, which resample whole groups.
        replicates: Of the bootstrap.

    Returns:
        By map and score ``{"value", "low", "high", "reliable", "n"}``; ``gain`` is insertion minus
        deletion, ``road`` half of what remains more if the coldest go first, ``…_over_<baseline>``
        the difference in the same images; ``randomised`` is the size of the rank correlation,
        so that an inverted map counts as kept; None where no image has the score.
    """
    groups = np.array([image["group"] for image in images])

    def mean(values: NDArray[np.float64]) -> dict[str, Any] | None:
        known = np.isfinite(values)
        if not known.any():
            return None
        interval = bootstrap_mean(
            values[known], groups=groups[known], confidence=confidence, replicates=replicates
        )
        exact = with_exact_limits(interval, interval.n_groups, confidence)
        return {**exact.to_json(), "n": int(known.sum())}

    names = list(images[0]["maps"])
    columns = {name: _columns(images, name) for name in names}
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        own = dict(columns[name])
        for score in ("gain", "road"):
            for other in BASELINES:
                if other != name:
                    own[f"{score}_over_{other}"] = own[score] - columns[other][score]
        randomised = own.pop("randomised")
        result[name] = {score: mean(values) for score, values in own.items()}
        result[name]["randomised"] = [mean(stage) for stage in randomised.T]
    return result


def _columns(images: Sequence[Mapping[str, Any]], name: str) -> dict[str, NDArray[np.float64]]:
    """One number an image of each score; NaN where undefined."""
    maps: list[Scored] = [image["maps"][name] for image in images]

    def of(key: str) -> NDArray[np.float64]:
        return np.array([entry[key] for entry in maps], np.float64)

    area = np.array([image["area"] for image in images])
    insertion, deletion = (
        np.array([area_under(entry[key]) for entry in maps]) for key in ("insertion", "deletion")
    )
    return {
        "hit": of("hit"),
        "hit_over_area": of("hit") - area,
        "share": of("share"),
        "share_over_area": of("share") - area,
        "area": np.where(area > 0, area, np.nan),
        "insertion": insertion,
        "deletion": deletion,
        "gain": insertion - deletion,
        "road": (of("lerf").mean(axis=1) - of("morf").mean(axis=1)) / 2,
        "noise": of("noise"),
        "sensitivity": of("sensitivity"),
        # An inverted map has forgotten nothing: it orders the same places.
        "randomised": np.abs(of("randomised")).reshape(len(maps), -1),
    }


def judge(scores: Mapping[str, Any], stages: Sequence[str]) -> Belief:
    """May the maps of a method be believed, by the rule of ``docs/explanations.md``.

    Each test needs a whole interval on the right side: a map must tell more than random blobs of
    what raises the score, twice (insertion minus deletion, and ROAD); it must be another one where
    the head, and where all layers, were randomised; it must be the same one under small noise.

    Args:
        scores: Of one method, from :func:`summarise`.
        stages: Names of the stages of randomisation.
    """
    tests = [
        _beats_chance(scores[f"gain_over_{RANDOM}"], scores[f"road_over_{RANDOM}"]),
        *(_forgets(scores["randomised"][at], stages[at]) for at in sorted({0, len(stages) - 1})),
        _stable(scores["noise"]),
    ]
    against = [text for passed, text in tests if passed is False]
    open_ones = [text for passed, text in tests if passed is None]
    if against:
        level, lead, reasons = LEVELS[0], "may not be believed", against
    elif open_ones:
        level, lead, reasons = LEVELS[1], "cannot be judged", open_ones
    else:
        level, lead = LEVELS[2], "nothing was found against it"
        reasons = [text for _, text in tests] + _caveats(scores)
    return Belief(level, f"{lead}: {'; '.join(dict.fromkeys(reasons))}", _place(scores))


_Test = tuple[bool | None, str]
_TOO_FEW = f"fewer than {MIN_GROUPS} independent images have a map to test"


def _beats_chance(gain: Mapping[str, Any] | None, road: Mapping[str, Any] | None) -> _Test:
    if gain is None or road is None or not (gain["reliable"] and road["reliable"]):
        return None, _TOO_FEW
    shown = f"(insertion minus deletion by {_signed(gain)}; ROAD by {_signed(road)})"
    if min(gain["low"], road["low"]) > 0:
        return True, f"it marks what the score rests on better than random blobs do {shown}"
    if max(gain["high"], road["high"]) < 0:
        return False, f"it marks what the score rests on worse than random blobs do {shown}"
    return False, f"it is not shown to mark what the score rests on better than blobs {shown}"


def _forgets(entry: Mapping[str, Any] | None, stage: str) -> _Test:
    if entry is None or not entry["reliable"]:
        return None, _TOO_FEW
    what = "randomising the head" if stage == "head" else "randomising all layers"
    shown = f"(similarity {_similarity(entry)})"
    if entry["high"] < SAME:
        return True, f"{what} changes the map {shown}"
    kept = "leaves the map nearly the same" if entry["low"] >= SAME else "is not shown to change it"
    return False, f"{what} {kept} {shown}"


def _stable(entry: Mapping[str, Any] | None) -> _Test:
    if entry is None or not entry["reliable"]:
        return None, _TOO_FEW
    shown = f"(similarity {_similarity(entry)})"
    if entry["low"] >= SAME:
        return True, f"it stays the same under noise that no eye sees {shown}"
    return False, f"noise that no eye sees makes another map {shown}"


def _caveats(scores: Mapping[str, Any]) -> list[str]:
    """Maps that know no model, and do as well."""
    equal = [name for name in (CENTRE, EDGES) if not scores[f"gain_over_{name}"]["low"] > 0]
    articles = {CENTRE: "a", EDGES: "an"}
    return [f"but {articles[n]} {n}, which knows no model, marks it as well" for n in equal]


def _place(scores: Mapping[str, Any]) -> str:
    share, area, more = scores["share"], scores["area"], scores["share_over_area"]
    if share is None:
        return "no leukocyte, or no heat, to compare"
    heat, cover = (f"{100 * entry['value']:.0f} %" for entry in (share, area))
    shown = f"{heat} of the heat in leukocytes, which cover {cover}"
    if not more["reliable"]:
        return f"{shown} (too few independent images to say more)"
    if more["low"] > 0:
        return f"the heat favours leukocytes: {shown}"
    if more["high"] < 0:
        return f"the heat lies outside the leukocytes: {shown}"
    return f"the heat lies as if spread evenly: {shown}"


def _similarity(entry: Mapping[str, Any]) -> str:
    value, low, high = (f"{entry[key]:.2f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value}, {low} to {high}"


def _signed(entry: Mapping[str, Any]) -> str:
    value, low, high = (f"{entry[key]:+.3f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value}, {low} to {high}"
