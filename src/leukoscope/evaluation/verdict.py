"""What the figures of a study allow one to say, in plain words and by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from leukoscope.evaluation.verdict_text import (
    MIN_GROUPS,
    PROBES,
    SEPARATING,
    SETTINGS,
    Score,
    describe_curve,
    describe_edited,
    describe_inflation,
    describe_probe,
    describe_score,
    percent,
    plural_unit,
    points,
    summary,
    verb,
    where,
)

Level = Literal["unsafe", "caution", "plausible", "inconclusive"]

MIN_INFLATION: Final = 0.02
_UNSHOWN: Final[Mapping[str, str]] = {
    "background-only": "this data set cannot show that the model reads morphology",
    "colour-only": "the score does not show that the model reads more than colour and stained area",
    "scale-bar-only": "the score does not show that the model reads anything but the scale bar; "
    "mask it",
}
RULE: Final = (
    "Judged is the accuracy of the first recipe on test images. Chance is the share of the most "
    "frequent class, advantage is accuracy minus chance. Where whole patients could be held out "
    "(grouped, at least 10 groups) that protocol alone is judged; else every protocol with at "
    "least 10 groups is. unsafe: in a judged protocol the lower limit of the advantage of the "
    "background-only, colour-only or scale-bar-only probe exceeds half of the model's own "
    "advantage, and on random splits, where they were run, so does the probe's advantage itself "
    "(what slides and sessions tell helps most where they are shared); or in one that holds out "
    "patients or acquisition clusters the model is not shown to be better than chance. caution: "
    "in a judged protocol the background-only or scale-bar-only probe is better than chance "
    "(lower limit; colour statistics of the whole image may be, since they hold the leukocytes), "
    "or the trained model itself is, shown test images without their leukocytes, or the random "
    "split gives significantly more than a judged protocol that holds out patients or acquisition "
    "clusters, by more than 2 points. "
    "inconclusive: neither of these, but no such protocol has at least 10 groups, or none of these "
    "probes was run in one. plausible: otherwise."
)


def judge(metrics: Mapping[str, Any], *, recipe: str | None = None) -> dict[str, Any]:
    """The verdict on one recipe.

    Args:
        metrics: The contents of ``metrics.json`` (``results``, ``probes``, ``comparisons``,
            ``inapplicable``, ``curve``, ``model_on``; all but ``results`` may be missing).
        recipe: Name of the recipe; None means that of the first result.

    Returns:
        ``headline`` (one sentence), ``level`` (``unsafe``, ``caution``, ``plausible`` or
        ``inconclusive``), ``findings`` (sentences with sample sizes), ``rule``.

    >>> judge({"results": []})["level"]
    'inconclusive'
    """
    results = [r for r in metrics.get("results", ()) if "clusters" not in r]
    recipe = recipe if recipe is not None else next((r["recipe"] for r in results), None)
    scores = protocol_scores([r for r in results if r["recipe"] == recipe])
    probes = probe_scores(metrics, scores)
    if not scores:
        return answer(
            "No model was tested: this study says nothing about the data set.",
            "inconclusive", [], metrics,
        )  # fmt: skip
    judged = judged_scores(scores)
    inflation = _inflation(metrics, recipe, scores, judged)
    edited = edited_scores(metrics, recipe, scores)
    level, reason = _decide(scores, judged, probes, edited, inflation)
    findings = [describe_score(score) for score in scores.values()]
    findings += [describe_probe(name, probe, scores) for name, probe in probes]
    findings += [describe_edited(score, scores) for score in edited]
    findings += [describe_inflation(*inflation)] if inflation else []
    findings += describe_curve(metrics, recipe)
    return answer(f"{summary(scores)}{reason}", level, findings, metrics)


def protocol_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Accuracy under each protocol that has one, in the order of ``SETTINGS``."""
    found: dict[str, Score] = {}
    for result in results:
        supports = [sum(row) for row in result["confusion"]]
        score = _score(result, max(supports) / sum(supports), len(supports))
        if score is not None and result["protocol"] in SETTINGS:
            found[result["protocol"]] = score
    return {name: found[name] for name in SETTINGS if name in found}


def _score(entry: Mapping[str, Any], chance: float, num_classes: int) -> Score | None:
    accuracy = entry["metrics"].get("accuracy", {})
    if any(accuracy.get(name) is None for name in ("value", "low", "high")):
        return None
    return Score(
        protocol=entry["protocol"],
        n=entry["n"],
        n_groups=entry["n_groups"],
        unit=entry.get("group_unit", "group"),
        value=accuracy["value"],
        low=accuracy["low"],
        high=accuracy["high"],
        chance=chance,
        balanced_low=entry["metrics"].get("balanced_accuracy", {}).get("low"),
        num_classes=num_classes,
    )


def probe_scores(
    metrics: Mapping[str, Any], scores: Mapping[str, Score]
) -> list[tuple[str, Score]]:
    """The strongest run of each shortcut probe under each protocol that the model has too.

    The image that a probe sees has the same classes, so its chance is that of the model.
    """
    best: dict[tuple[str, str], Score] = {}
    for entry in metrics.get("probes", ()):
        model = scores.get(entry["protocol"])
        if model is None or entry["probe"] not in PROBES:
            continue
        probe = _score(entry, model.chance, model.num_classes)
        key = (entry["protocol"], entry["probe"])
        if probe is not None and (key not in best or probe.low > best[key].low):
            best[key] = probe
    return [
        (name, best[protocol, name])
        for protocol in scores
        for name in PROBES
        if (protocol, name) in best
    ]


def edited_scores(
    metrics: Mapping[str, Any], recipe: str | None, scores: Mapping[str, Score]
) -> list[Score]:
    """What the model itself reaches on its test images without leukocytes."""
    found = []
    for entry in metrics.get("model_on", ()):
        model = scores.get(entry["protocol"])
        if model and (entry["recipe"], entry["input"]) == (recipe, "background-only"):
            found.append(_score(entry, model.chance, model.num_classes))
    return [score for score in found if score is not None]


def judged_scores(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Patients where there are enough of them, else every protocol with enough groups."""
    enough = {name: score for name, score in scores.items() if score.enough}
    return {"grouped": enough["grouped"]} if "grouped" in enough else enough


def _inflation(
    metrics: Mapping[str, Any],
    recipe: str | None,
    scores: Mapping[str, Score],
    judged: Mapping[str, Score],
) -> tuple[Score, Score, float, float | None] | None:
    """Random against the separating protocol that falls deepest below it.

    Returns:
        Both scores, the difference and its lower limit (None without a usable comparison and
        where the two intervals overlap); None where there is nothing to compare.
    """
    strict = [judged[name] for name in SEPARATING if name in judged]
    if "random" not in scores or not strict:
        return None
    other = min(strict, key=lambda score: score.value)
    random = scores["random"]
    for entry in metrics.get("comparisons", ()):
        sides = [(entry[s]["recipe"], entry[s]["protocol"], entry[s]["input"]) for s in "ab"]
        wanted = [(recipe, "random", "image"), (recipe, other.protocol, "image")]
        difference = entry["difference"]
        if entry["metric"] != "accuracy" or None in (difference["low"], difference["high"]):
            continue
        if sides == wanted:
            return random, other, difference["value"], difference["low"]
        if sides == wanted[::-1]:
            return random, other, -difference["value"], -difference["high"]
    apart = random.low - other.high
    return random, other, random.value - other.value, apart if apart > 0 else None


def _decide(
    scores: Mapping[str, Score],
    judged: Mapping[str, Score],
    probes: Sequence[tuple[str, Score]],
    edited: Sequence[Score],
    inflation: tuple[Score, Score, float, float | None] | None,
) -> tuple[Level, str]:
    """The level, and the end of the headline that says why."""
    everywhere = probes
    probes = [(name, probe) for name, probe in probes if probe.protocol in judged]
    strict = [judged[name] for name in SEPARATING if name in judged]
    if unsafe := _unsafe(scores, judged, everywhere, strict):
        return "unsafe", f"; {unsafe}"
    if shortcut := shortcut_is_there(scores, probes):
        return "caution", f"; {shortcut}"
    if reads := background_is_read(scores, judged, edited):
        return "caution", f"; {reads}"
    if inflation and (inflation[3] or 0) > 0 and inflation[2] > MIN_INFLATION:
        return "caution", f"; the random split overstates the accuracy by {points(inflation[2])}."
    if not strict:
        return "inconclusive", f"; {_why_inconclusive(scores)}"
    tested = [(name, probe) for name, probe in probes if probe.protocol in SEPARATING]
    if not tested:
        return "inconclusive", (
            "; no probe was run on held-out groups: whether the background or the colour alone "
            "would suffice is not known."
        )
    name, probe = _most_telling(tested)
    compared = (
        "less than half of the model's advantage"
        if probe.low > probe.chance
        else f"not above the {percent(probe.chance)} of always naming the most frequent class"
    )
    return "plausible", (
        f"; {PROBES[name]} {verb(name, 'reaches', 'reach')} only {percent(probe.value)}"
        f"{where(probe, scores)}, {compared}: no shortcut was found, which does not prove that "
        f"there is none."
    )


def _unsafe(
    scores: Mapping[str, Score],
    judged: Mapping[str, Score],
    probes: Sequence[tuple[str, Score]],
    strict: Sequence[Score],
) -> str | None:
    """Why the accuracy proves nothing: a probe suffices, or there is none on held-out groups."""
    if text := shortcut_suffices(scores, judged, probes):
        return text
    useless = [score for score in strict if not score.beats_chance]
    if useless:
        return (
            f"{SETTINGS[useless[0].protocol]} the model is not shown to be better than always "
            f"naming the most frequent class ({percent(useless[0].chance)})."
        )
    return None


def shortcut_suffices(
    scores: Mapping[str, Score],
    judged: Mapping[str, Score],
    probes: Sequence[tuple[str, Score]],
) -> str | None:
    """Whether a probe holds more than half of the model's advantage over chance, in words.

    Args:
        scores: The model's, under every protocol.
        judged: Those that count.
        probes: Under every protocol.
    """
    # What slides and sessions tell helps most where test and training share them. Colour
    # statistics that come near the model on held-out clusters only have told cells, or luck.
    weak = {
        name
        for name, probe in probes
        if probe.protocol == "random" and probe.advantage <= scores["random"].advantage / 2
    }
    suffice = [
        (name, probe)
        for name, probe in probes
        if name not in weak
        and probe.protocol in judged
        and probe.low - probe.chance > max(0.0, judged[probe.protocol].advantage / 2)
    ]
    if not suffice:
        return None
    name, probe = _most_telling(suffice)
    return (
        f"{PROBES[name]} {verb(name, 'suffices', 'suffice')} for {percent(probe.value)}"
        f"{where(probe, scores)}: {_UNSHOWN[name]}."
    )


def shortcut_is_there(
    scores: Mapping[str, Score], probes: Sequence[tuple[str, Score]]
) -> str | None:
    """Whether the background or the scale bar is better than chance."""
    # Colour statistics of the whole image hold the size and stain of the leukocytes too: that
    # they beat chance is no sign of a shortcut, only that they come near the model would be.
    above = [
        (name, probe)
        for name, probe in probes
        if name != "colour-only" and probe.low > probe.chance
    ]
    if not above:
        return None
    name, probe = _most_telling(above)
    return (
        f"{PROBES[name]} {verb(name, 'reaches', 'reach')} {percent(probe.value)}"
        f"{where(probe, scores)}, more than the {percent(probe.chance)} of always naming the most "
        f"frequent class: part of the accuracy may not be morphology."
    )


def background_is_read(
    scores: Mapping[str, Score], judged: Mapping[str, Score], edited: Sequence[Score]
) -> str | None:
    """Whether the trained model is better than chance on images without leukocytes, in words."""
    above = [
        ("background-only", score)
        for score in edited
        if score.protocol in judged and score.low > score.chance
    ]
    if not above:
        return None
    _, score = _most_telling(above)
    return (
        f"the trained model itself, shown its test images without leukocytes, is right in "
        f"{percent(score.value)}{where(score, scores)}, more than the {percent(score.chance)} of "
        f"always naming the most frequent class: it makes use of the background."
    )


def _most_telling(probes: Sequence[tuple[str, Score]]) -> tuple[str, Score]:
    """A probe of the background before the others, a strict protocol before a lenient one."""
    order = (*SEPARATING[:1], "acquisition", "acquisition-merged", "given", "deduplicated")
    ranks = {name: rank for rank, name in enumerate((*order, "random"))}
    first = list(PROBES)
    return min(probes, key=lambda item: (first.index(item[0]), ranks[item[1].protocol]))


def _why_inconclusive(scores: Mapping[str, Score]) -> str:
    few = [scores[name] for name in SEPARATING if name in scores]
    if few:
        numbers = " and ".join(f"{score.n_groups} {plural_unit(score)}" for score in few)
        return (
            f"only {numbers} could be held out, fewer than {MIN_GROUPS}: too few to say how the "
            f"model does on others."
        )
    return (
        "neither patients nor acquisition clusters could be held out: how the model does on "
        "unseen ones is not known."
    )


def answer(
    headline: str,
    level: Level,
    findings: list[str],
    metrics: Mapping[str, Any],
    rule: str = RULE,
) -> dict[str, Any]:
    """A verdict as ``metrics.json`` keeps it; what could not be run is added to the findings."""
    findings += [
        f"The protocol {entry['protocol']} could not be run: {entry['reason'].rstrip('.')}."
        for entry in metrics.get("inapplicable", ())
    ]
    return {"headline": headline, "level": level, "findings": findings, "rule": rule}
