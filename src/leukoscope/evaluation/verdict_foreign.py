"""The verdict on a model that was not made here, by a rule of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from leukoscope.evaluation.verdict import (
    Level,
    answer,
    background_is_read,
    edited_scores,
    judged_scores,
    probe_scores,
    protocol_scores,
    shortcut_is_there,
    shortcut_suffices,
)
from leukoscope.evaluation.verdict_text import (
    MIN_GROUPS,
    Score,
    describe_edited,
    describe_probe,
    percent,
)

FOREIGN_RULE: Final = (
    "Judged is the accuracy of the model that was handed in: on the test part of its own split "
    "where that is known, else on all images. It was not trained here, so no protocol holds "
    "anything out from it; the protocols say on which folds the probes were fitted. Chance is the "
    "share of the most frequent class, advantage is accuracy minus chance. Where the probes could "
    "hold out whole patients (grouped, at least 10 groups) that protocol alone is judged; else "
    "every protocol with at least 10 groups is. unsafe: in a judged protocol the lower limit of "
    "the advantage of the background-only, colour-only or scale-bar-only probe exceeds half of the "
    "model's own advantage, and so does, where it was fitted on random splits, its advantage "
    "there; or the model is not shown to be better than chance. caution: the test "
    "part shares copies, overlapping fields or patients with the training part, or the "
    "background-only or scale-bar-only probe, or the model itself on images without leukocytes, is "
    "better than chance (lower limit). inconclusive: none of these, but the images that the model "
    "was trained on are not known, or no probe was tested in a judged protocol. plausible: "
    "otherwise."
)

_LEAKS: Final[Mapping[str, str]] = {
    "copies": "a copy of a training image",
    "overlaps": "linked with a training image (overlapping field, near copy or twin)",
    "patients": "of a patient who stands in training too",
}


def judge_foreign(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on a foreign model.

    Args:
        metrics: ``results`` (its fixed predictions, with the groups of each protocol),
            ``probes``, ``model_on``, ``split`` (None, or ``leaks``), ``inapplicable``.

    Returns:
        As :func:`leukoscope.evaluation.verdict.judge`, with :data:`FOREIGN_RULE`.

    >>> judge_foreign({"results": [], "split": None})["level"]
    'inconclusive'
    """
    results = list(metrics["results"])
    scores = protocol_scores(results)
    if not scores:
        text = "No image of the data was predicted: nothing can be said."
        return answer(text, "inconclusive", [], metrics, FOREIGN_RULE)
    recipe = results[0]["recipe"]
    probes = probe_scores(metrics, scores)
    edited = edited_scores(metrics, recipe, scores)
    judged = judged_scores(scores)
    level, reason = _decide(metrics, scores, judged or scores, probes, edited)
    model = next(iter((judged or scores).values()))
    split = metrics.get("split")
    where = "on the test part of its own split" if split else "on all images"
    interval = f"{100 * model.low:.1f}–{percent(model.high)}"
    head = f"{recipe}: accuracy {percent(model.value)} (interval {interval}) {where}, {model.n:,}"
    findings = [describe_probe(name, probe, scores) for name, probe in probes]
    findings += [describe_edited(score, scores) for score in edited]
    findings += leak_sentences(split)
    return answer(f"{head} images; {reason}", level, findings, metrics, FOREIGN_RULE)


def leak_sentences(split: Mapping[str, Any] | None) -> list[str]:
    """What the audit found of the model's own split."""
    if split is None:
        text = "On which images the model was trained is not known: its accuracy may be memory."
        return [text]
    return [_leak(split, leak) for leak in split["leaks"]]


def _leak(split: Mapping[str, Any], leak: Mapping[str, Any]) -> str:
    pairs = "; ".join(f"{test} and {train}" for test, train in leak["examples"])
    count = f"{leak['images']} of its {split['test']} test images, each"
    return f"Leak: {count} {_LEAKS[leak['kind']]}, e.g. {pairs}."


def _decide(
    metrics: Mapping[str, Any],
    scores: Mapping[str, Score],
    judged: Mapping[str, Score],
    probes: Sequence[tuple[str, Score]],
    edited: Sequence[Score],
) -> tuple[Level, str]:
    if text := shortcut_suffices(scores, judged, probes):
        return "unsafe", text
    probes = [(name, probe) for name, probe in probes if probe.protocol in judged]
    model = next(iter(judged.values()))
    if not any(score.beats_chance for score in judged.values()):
        return "unsafe", (
            f"it is not shown to be better than always naming the most frequent class "
            f"({percent(model.chance)}). Check the order of classes, size, mean and deviation."
        )
    split = metrics.get("split")
    if split and split["leaks"]:
        images = max(leak["images"] for leak in split["leaks"])
        return "caution", (
            f"{images} of its {split['test']} test images are copies or overlaps of training "
            f"images or share a patient with them: the accuracy is partly memory."
        )
    if text := shortcut_is_there(judged, probes):
        return "caution", text
    if text := background_is_read(judged, judged, edited):
        return "caution", text
    if split is None:
        return "inconclusive", (
            "no shortcut was found, but on which images it was trained is not known: the accuracy "
            "may be memory."
        )
    if not probes or not any(score.enough for score in judged.values()):
        return "inconclusive", f"no probe was tested on at least {MIN_GROUPS} groups."
    return "plausible", "no shortcut was found, which does not prove that there is none."
