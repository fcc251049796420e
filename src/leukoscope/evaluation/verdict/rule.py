"""The verdict of a study: earned by evidence, by one rule, for its own models and for others'.

For each source of shortcut (ground, grain, frame, file, stain) the share of the model's advantage
that the source gives by itself is *shown* to be above one half, *refuted*, *open*, or
*inapplicable*. ``plausible`` needs every applicable source refuted, enough real groups, a negative
control at chance and an advantage that survives mild degradation. What was not looked at has not
passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from leukoscope.config.guarantees import NOT_BETTER
from leukoscope.config.metrics.evidence import Control, SourceVerdict, Survival, Verdict
from leukoscope.config.metrics.file import Measurements
from leukoscope.config.metrics.other_data import ForeignSplit
from leukoscope.config.metrics.results import Result, VerdictLevel
from leukoscope.core.protocols import IN_VERDICT, JUDGED, PROTOCOLS
from leukoscope.evaluation.statistics.intervals import MIN_CLASS_GROUPS, MIN_GROUPS
from leukoscope.evaluation.verdict.grounds import swapped_grounds
from leukoscope.evaluation.verdict.sentences import (
    DEGRADED_WORDS,
    SOURCE_WORDS,
    Score,
    describe_control,
    describe_curve,
    describe_fixed,
    describe_inflation,
    describe_score,
    describe_source,
    describe_survival,
    join,
    leak_sentences,
    share_text,
    summary,
)
from leukoscope.evaluation.verdict.shortcuts import (
    FEWEST_TO_SHOW,
    HALF,
    SOURCES,
    groups_needed,
    judge_sources,
)

MIN_CLUSTER_IMAGES: Final = 5
"""Images of an acquisition cluster, on average, from which holding it out is more than a random
split: clusters are cut at a fixed number, however few images there are."""

RULE: Final = (
    "Judged is the first recipe, under the protocol that holds out patients where patients are "
    "known, else under those that hold out acquisition clusters; patients are never overruled by "
    "clusters. Advantage is the ROC AUC (one-vs-rest, macro; of the ground "
    "that between pairs of classes) above 0.5. A source of shortcut "
    "(ground, grain, frame, file, stain) is shown where the lower limit of its share of the "
    "model's advantage lies above one half in a judged protocol with at least "
    f"{FEWEST_TO_SHOW} groups; refuted where the upper limit lies below one half in each, of at "
    f"least {MIN_GROUPS} groups, {MIN_CLASS_GROUPS} of each class; "
    "inapplicable where its probe was measured to have nothing to see; else open. "
    "unsafe: a source is shown, the model is not shown to be better than chance, or the negative "
    "control (labels dealt at random to whole groups) is better than chance. "
    "plausible: every applicable source is refuted and at least one applies, with at least "
    f"{MIN_GROUPS} patients and {MIN_CLASS_GROUPS} of each class, the control is at chance, at "
    "least half of the advantage survives each mild degradation of the test images (lower limit), "
    "the model does not follow the ground where leukocytes were put on that of another class, "
    "and the audit found no error in labels or parts. plausible-by-clusters: the same where there "
    "are no patients, with acquisition clusters in their place that hold at least "
    f"{MIN_CLUSTER_IMAGES} images on average. inconclusive: otherwise. "
    "A model that was not trained here also needs a test part that is known and shares nothing "
    "with its training part."
)


def judge(metrics: Measurements) -> Verdict:
    """The verdict on the first recipe, or on a model that was handed in.

    Args:
        metrics: What was measured; what is missing has not passed.

    >>> judge(Measurements(schema=1, class_names=(), confidence=0.95, results=())).level
    'inconclusive'
    """
    recipe = next((r.recipe for r in metrics.results), None)
    scores = protocol_scores([r for r in metrics.results if r.recipe == recipe])
    if not scores:
        text = "No model was tested: this study says nothing about the data set."
        return _answer(text, "inconclusive", [], metrics)
    judged = [scores[name] for name in judged_protocols(scores)]
    sources = judge_sources(metrics.shortcuts, judged)
    against = _against(metrics, scores, judged, sources)
    missing = [] if against else _missing(metrics, judged, sources, recipe)
    level: VerdictLevel = "unsafe" if against else "inconclusive" if missing else "plausible"
    if level == "plausible" and judged[0].protocol != "grouped":
        level = "plausible-by-clusters"
    weak = _too_small(judged[0]) if against and judged else missing
    reasons = [*against, *(text for text, _ in weak)]
    needs = [need for _, need in missing if need]
    unproven = [score.protocol for score in judged if not score.skill]
    if against and unproven:
        results = {r.protocol: r for r in metrics.results if r.recipe == recipe}
        needs = _skill_needs(results[unproven[0]])
    said = _conclusion(level, reasons, sources)
    named = str(recipe) if metrics.foreign else None
    head = f"{summary(scores, metrics.split, named)}; {said}"
    findings = _findings(metrics, recipe, scores, sources)
    return _answer(head, level, findings, metrics, judged, sources, needs)


def protocol_scores(results: Sequence[Result]) -> dict[str, Score]:
    """The scores under each protocol that has them, in the order of a verdict."""
    found = {r.protocol: _score(r) for r in results if r.protocol in IN_VERDICT}
    return {n: score for n in IN_VERDICT if (score := found.get(n)) is not None}


def judged_protocols(scores: Mapping[str, Score]) -> list[str]:
    """Those that a verdict rests on, the strictest first; empty where no unit was held out."""
    for names in JUDGED:
        known = [name for name in names if name in scores]
        if known:
            return known
    return []


def _score(entry: Result) -> Score | None:
    accuracy = entry.metrics.get("accuracy")
    if accuracy is None or accuracy.value is None or accuracy.low is None or accuracy.high is None:
        return None
    supports = [sum(row) for row in entry.confusion]
    return Score(
        protocol=entry.protocol,
        n=entry.n,
        n_groups=entry.n_groups,
        unit=entry.group_unit,
        value=accuracy.value,
        low=accuracy.low,
        high=accuracy.high,
        chance=max(supports) / sum(supports),
        enough=accuracy.reliable and entry.n_groups >= MIN_GROUPS,
        skill=skilled(entry),
        next_unit=entry.next_unit,
        row=entry.row,
    )


def skilled(entry: Result) -> bool:
    """Whether the lower limit lies above chance: of the ROC AUC, else of balanced accuracy."""
    ranked, balanced = (entry.metrics.get(name) for name in ("roc_auc", "balanced_accuracy"))
    if ranked is not None and ranked.low is not None:
        return ranked.low > HALF
    chance = 1 / max(1, len(entry.confusion))
    return balanced is not None and balanced.low is not None and balanced.low > chance


def _against(
    metrics: Measurements,
    scores: Mapping[str, Score],
    judged: Sequence[Score],
    sources: Sequence[SourceVerdict],
) -> list[str]:
    """Why the score is unsafe; empty where nothing speaks against it."""
    control = metrics.control
    if control is not None and control.passed is False:
        return [
            "the negative control failed: with labels dealt at random the same pipeline still "
            f"reaches an ROC AUC of {control.value:.2f}, where chance is 0.50. Something leaks "
            "from training to test, and no figure of this study can be trusted"
        ]
    useless = next((score for score in judged if not score.skill), None)
    if not judged and metrics.foreign:
        useless = next((score for score in scores.values() if not score.skill), None)
    if useless is not None:
        return [
            f"{PROTOCOLS[useless.protocol].setting} the model is {NOT_BETTER}"
            if not metrics.foreign
            else f"it is {NOT_BETTER}. Check the order of classes, the size, "
            "mean and deviation of its input"
        ]
    shown = [source for source in sources if source.status == "shown"]
    if not shown:
        return []
    said = join([f"{SOURCE_WORDS[s.source]} {share_text(s.share)}" for s in shown])
    return [
        f"by itself {said} of the model's advantage over chance: its score may come from how the "
        "images were made, not from the cells"
    ]


def _skill_needs(entry: Result) -> list[str]:
    """What would tell whether a model is better than chance; nothing where only decisions exist."""
    area = entry.metrics.get("roc_auc")
    if area is None or area.value is None:
        return []
    number = groups_needed(area, entry.n_groups) if area.value > HALF else None
    if number is None:
        return [
            f"other images, features or labels: with an ROC AUC of {area.value:.2f} more of the "
            "same will hardly help"
        ]
    return [f"about {number} {entry.group_unit}s, if its ROC AUC stays at {area.value:.2f}"]


Missing = tuple[str, str]


def _missing(
    metrics: Measurements,
    judged: Sequence[Score],
    sources: Sequence[SourceVerdict],
    recipe: str | None,
) -> list[Missing]:
    """What stands between the study and ``plausible``: each as a reason and what would close it."""
    found: list[Missing] = []
    if not judged:
        found.append(_none_held_out(metrics))
    else:
        were = "tested" if metrics.foreign else "held out"
        found += _too_few(judged[0], were) or _too_small(judged[0])
    open_ = [source for source in sources if source.status == "open"]
    if judged and open_:
        said = join([SOURCE_WORDS[s.source] for s in open_])
        found.append((f"it is not ruled out that the model reads {said}", _closing(open_, judged)))
    if judged and all(source.status == "inapplicable" for source in sources):
        found.append(("no probe had anything to look at", "use the original images"))
    found += _control_missing(metrics.control)
    found += _survival_missing(metrics, judged, recipe)
    found += _ground_missing(metrics, judged, recipe)
    errors = metrics.data_errors
    if errors:
        found.append(
            (f"the audit found errors in the data ({errors[0].rstrip('.')})", "mend the data")
        )
    if metrics.foreign:
        found += _split_missing(metrics.split)
    return found


def _too_small(score: Score) -> list[Missing]:
    """Clusters of one or two images are hardly more than images."""
    if score.protocol == "grouped" or score.n >= MIN_CLUSTER_IMAGES * score.n_groups:
        return []
    return [
        (
            f"each {score.unit} holds {score.n / score.n_groups:.1f} images on average, so that "
            "holding it out is little more than a random split",
            f"name the patients, or use more images, {MIN_CLUSTER_IMAGES} for each cluster",
        )
    ]


def _none_held_out(metrics: Measurements) -> Missing:
    """Why no unit was: it was not asked for, or the data names none."""
    failed = {entry.protocol for entry in metrics.inapplicable}
    if metrics.foreign or "grouped" in failed:
        return (
            "neither patients nor acquisition clusters could be held out",
            "name the patients (folder, file name or manifest column patient_id), several of each "
            "class",
        )
    return (
        "neither patients nor acquisition clusters were held out",
        "hold out patients (`-p grouped`) or, where none are known, acquisition clusters "
        "(`-p acquisition`)",
    )


def _too_few(score: Score, were: str) -> list[Missing]:
    if score.enough:
        return []
    unit = score.unit
    return [
        (
            f"{score.n_groups} {unit}s were {were}, and the rule asks for {MIN_GROUPS} with "
            f"{MIN_CLASS_GROUPS} of each class",
            f"{unit}s: at least {MIN_GROUPS}, and {MIN_CLASS_GROUPS} of each class",
        )
    ]


def _closing(open_: Sequence[SourceVerdict], judged: Sequence[Score]) -> str:
    """What would settle the open sources: more groups, a probe, or other images."""
    unit = judged[0].unit
    needs = []
    if unknown := [s.source for s in open_ if s.needed is None and s.share is None]:
        probes = ", ".join(SOURCES[source][0] for source in unknown)
        needs.append(f"run the probe{'s' * (len(unknown) > 1)} {probes} with {unit}s held out")
    for source in open_:
        if source.needed is not None:
            needs.append(f"about {source.needed:,} {unit}s for {source.source}")
        elif source.share is not None:
            needs.append(f"for {source.source} other images: its share lies near one half")
    return "; ".join(needs)


def _control_missing(control: Control | None) -> list[Missing]:
    if control is not None and control.passed:
        return []
    if control is not None and control.draws:
        why = f"the negative control is too uncertain to pass (up to {control.high:.2f})"
        return [(why, "more groups")]
    why = (control.reason if control else "") or "no negative control was run"
    return [(why, "run the study with `--set control_draws=5`")]


def survival_rows(
    metrics: Measurements, judged: Sequence[Score], recipe: str | None
) -> list[Survival]:
    """What mild degradation leaves of the model's advantage, under the strictest protocol."""
    wanted = judged[0].protocol if judged else None
    return [row for row in metrics.survival if row.recipe == recipe and row.protocol == wanted]


def _survival_missing(
    metrics: Measurements, judged: Sequence[Score], recipe: str | None
) -> list[Missing]:
    if not judged:
        return []
    rows = survival_rows(metrics, judged, recipe)
    if not rows:
        why = "the model was not tried on mildly degraded images"
        return [(why, "run the study with its checkpoints, or hand in a model, not a table")]
    weak = [row for row in rows if row.share.low is None or row.share.low < HALF]
    if not weak:
        return []
    worst = min(weak, key=lambda row: row.share.value or 0.0)
    lost = worst.share.high is not None and worst.share.high < HALF
    kept = share_text(worst.share, verb="")
    why = (
        f"after {DEGRADED_WORDS.get(worst.input, worst.input)} the model keeps "
        f"{'only ' if lost else ''}{kept} of its advantage"
    )
    need = (
        "a model that does not rest on the finest detail" if lost else f"more test {judged[0].row}s"
    )
    return [(why, need)]


def _ground_missing(
    metrics: Measurements, judged: Sequence[Score], recipe: str | None
) -> list[Missing]:
    """Whether the model names the class of the ground that its leukocytes were put on."""
    seen = swapped_grounds(metrics, recipe).get(judged[0].protocol) if judged else None
    if seen is None or seen.follows != "ground":
        return []
    why = (
        "with leukocytes on the ground of another class it follows the ground in "
        f"{share_text(seen.bias, '')} of the answers that name either class"
    )
    return [(why, "a model that sees the leukocytes alone, such as the recipe morphology")]


def _split_missing(split: ForeignSplit | None) -> list[Missing]:
    if split is None:
        why = "on which images it was trained is not known, so its score may be memory"
        return [(why, "name its training and test images")]
    if not split.leaks:
        return []
    images = max(leak.images for leak in split.leaks)
    why = (
        f"{images} of its {split.test} test images are copies or overlaps of training images "
        "or share a patient with them"
    )
    return [(why, "test it on images that share nothing with its training")]


def _conclusion(
    level: VerdictLevel, reasons: Sequence[str], sources: Sequence[SourceVerdict]
) -> str:
    if level == "plausible":
        refuted = [source.source for source in sources if source.status == "refuted"]
        return (
            f"{join(refuted)} {'were each' if len(refuted) > 1 else 'was'} shown to give less than "
            "half of the model's advantage over chance: no shortcut was found, which does not "
            "prove that there is none."
        )
    if level == "plausible-by-clusters":
        return (
            "no shortcut was found with acquisition clusters held out, a proxy: whether it holds "
            "for new patients is not known."
        )
    return "; ".join(reasons) + "."


def _findings(
    metrics: Measurements,
    recipe: str | None,
    scores: Mapping[str, Score],
    sources: Sequence[SourceVerdict],
) -> list[str]:
    judged = [scores[name] for name in judged_protocols(scores)]
    if metrics.foreign:
        said = (describe_fixed(score, metrics.split) for score in scores.values())
        found = list(dict.fromkeys(said))
    else:
        found = [describe_score(score) for score in scores.values()]
    found += [describe_source(source) for source in sources]
    rows = survival_rows(metrics, judged, recipe)
    found += describe_survival(rows, judged[0].row if judged else "image")
    seen = swapped_grounds(metrics, recipe)
    found += [seen[score.protocol].sentence() for score in judged[:1] if score.protocol in seen]
    found += describe_control(metrics.control)
    found += describe_inflation(metrics.comparisons, recipe, metrics.confidence)
    found += describe_curve(metrics.curve, recipe)
    found += [f"Error in the data: {text}" for text in metrics.data_errors]
    if metrics.foreign:
        found += leak_sentences(metrics.split)
    return found


def _answer(
    headline: str,
    level: VerdictLevel,
    findings: list[str],
    metrics: Measurements,
    judged: Sequence[Score] = (),
    sources: Sequence[SourceVerdict] = (),
    needs: Sequence[str] = (),
) -> Verdict:
    """A verdict as ``metrics.json`` keeps it; what could not be run is added to the findings."""
    findings += [
        f"The protocol {entry.protocol} could not be run: {entry.reason.rstrip('.')}."
        for entry in metrics.inapplicable
    ]
    return Verdict(
        headline=headline[:1].upper() + headline[1:],
        level=level,
        findings=tuple(findings),
        rule=RULE,
        protocol=judged[0].protocol if judged else None,
        unit=judged[0].unit if judged else None,
        sources=tuple(sources),
        needs=tuple(needs),
    )


def level_words(level: str) -> str:
    """A level as it is printed.

    >>> level_words("plausible-by-clusters"), level_words("unsafe")
    ('plausible (by clusters)', 'unsafe')
    """
    return level.replace("-by-clusters", " (by clusters)")
