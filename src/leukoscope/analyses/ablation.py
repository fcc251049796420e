"""Ablation: a recipe with and without each of its parts, on the same splits and seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from pydantic import BaseModel, JsonValue

from leukoscope.analyses.arms import (
    DEFAULTS,
    ONE_TRAINING,
    Arm,
    arm_record,
    compare_arms,
    judge_arms,
    measure_only,
    open_arms,
    run_arm,
    unreadable,
)
from leukoscope.config.arms import AblationResult, ArmDifference, ArmLevel, ArmsVerdict
from leukoscope.config.base import validate
from leukoscope.config.loading import apply_overrides
from leukoscope.config.metrics.file import load_metrics
from leukoscope.config.recipe import Augmentation, ModelConfig, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.config.training import ConstantRate
from leukoscope.core.errors import ConfigError, UnknownNameError, UsageError
from leukoscope.core.run_folder import RunFolder
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.study.options import StudyOptions, study_config
from leukoscope.study.run import read_data

RESULT = "ablation.json"
WHOLE = "whole"
SAME: ArmLevel = "no difference shown"
SENTENCES: dict[ArmLevel, str] = {
    "helps": "The whole recipe is more accurate than",
    "harms": "The whole recipe is less accurate than",
    SAME: "No difference in accuracy was shown between the whole recipe and",
    "depends on the protocol": "It depends on the protocol whether the whole recipe is better than",
}
OFF: tuple[object, ...] = (False, 0, (), "none", "shuffle", ConstantRate())
"""Defaults that mean that a part is not there."""


@dataclass(frozen=True)
class AblationPlan:
    """A recipe and its variants.

    Attributes:
        whole: The study of the complete recipe.
        variants: One arm per change.
        changes: For each variant the values that differ: key → (before, after).
    """

    whole: StudyConfig
    variants: tuple[Arm, ...]
    changes: dict[str, dict[str, tuple[JsonValue, JsonValue]]]


def plan_ablation(
    data: Path | str,
    *,
    recipe: str,
    without: Sequence[str] = (),
    settings: Sequence[str] = (),
    **options: Unpack[StudyOptions],
) -> AblationPlan:
    """Resolve the options of an ablation.

    Args:
        data: Folder or CSV manifest.
        recipe: Name or TOML file.
        without: Parts to leave out, one arm each; ``a+b`` leaves out both in one arm. See
            :func:`recipe_without`.
        settings: ``key=value`` changes, one arm each.
        **options: See :class:`~leukoscope.study.options.StudyOptions`, the same for all arms.

    Raises:
        UsageError: Nothing to leave out, an arm given twice, or a change without effect.
        UnknownNameError: The recipe has no such part.
    """
    if not without and not settings:
        raise UsageError("what is to be left out?", hint="name it, e.g. --without augmentation")
    chosen: StudyOptions = {**DEFAULTS, **options, "recipes": (recipe,), "probes": ()}
    base = study_config(data, **chosen)
    whole = base.recipes[0]
    made = [(f"without-{_slug(t)}", f"Without {t.replace('+', ', ')}", _left_out(whole, t))
            for t in without]  # fmt: skip
    made += [(f"set-{_slug(t)}", f"With {t}", _with_setting(whole, t)) for t in settings]
    names = [name for name, _, _ in made]
    if len(set(names)) != len(names):
        raise UsageError(f"an arm is named twice: {', '.join(names)}")
    changes = {name: _differences(whole, changed) for name, _, changed in made}
    for name, title, _ in made:
        if not changes[name]:
            raise UsageError(
                f"{title[0].lower()}{title[1:]}: recipe {whole.name} is the same with and without",
                hint=f"`leukoscope recipes show {recipe}` prints what it has",
            )
    arms = tuple(Arm(name, title, measure_only(base, changed)) for name, title, changed in made)
    return AblationPlan(measure_only(base, whole), arms, changes)


def recipe_without(recipe: Recipe, part: str) -> Recipe:
    """A recipe without one part; it keeps its name, and so its seeds.

    ``part`` is a whole section (``augmentation``), one augmentation by name, the kind of a
    preprocessing step (``clahe``), ``pretraining`` (random initial weights), or an optional value
    of ``training`` or ``model`` (``class_weights``, ``mixup``, …).

    Raises:
        UnknownNameError: The recipe has no such part.
        ConfigError: The recipe is not valid without it.
    """
    values = recipe.model_dump()
    steps = [step for step in values["preprocess"]["steps"] if step["kind"] == part]
    if part in _whole_sections(recipe):
        values[part] = {}
    elif part == "pretraining":
        values["model"]["weights"] = "none"
    elif steps:
        values["preprocess"]["steps"] = [
            step for step in values["preprocess"]["steps"] if step["kind"] != part
        ]
    else:
        for section, model in _sections(recipe).items():
            if part in _optional(model):
                values[section][part] = type(model).model_fields[part].default
                break
        else:
            raise UnknownNameError(f"part of recipe {recipe.name}", part, parts_of(recipe))
    return validate(Recipe, values, f"recipe {recipe.name} without {part}")


def parts_of(recipe: Recipe) -> list[str]:
    """Everything that :func:`recipe_without` can leave out of a recipe, sorted."""
    parts: set[str] = {step.kind for step in recipe.preprocess.steps}
    fields_of_recipe = type(recipe).model_fields
    for name in _whole_sections(recipe):
        if getattr(recipe, name) != fields_of_recipe[name].default:
            parts.add(name)
    if recipe.model.weights != "none":
        parts.add("pretraining")
    for model in _sections(recipe).values():
        fields = type(model).model_fields
        parts |= {n for n in _optional(model) if getattr(model, n) != fields[n].default}
    return sorted(parts)


def _whole_sections(recipe: Recipe) -> list[str]:
    """Sections that can be left out as a whole."""
    return [
        name
        for name, value in recipe
        if isinstance(value, BaseModel)
        and name not in ("preprocess", "model", "training", "patient")  # arms classify images
    ]


def _sections(recipe: Recipe) -> dict[str, BaseModel]:
    return {
        "augmentation": recipe.augmentation,
        "training": recipe.training,
        "model": recipe.model,
    }


def _optional(model: BaseModel) -> list[str]:
    """The fields whose default means that they are absent."""
    everything = isinstance(model, Augmentation)
    kept = {"weights"} if isinstance(model, ModelConfig) else set()
    return [
        name
        for name, info in type(model).model_fields.items()
        if name not in kept
        and (everything or any(info.default == off for off in OFF))
        and not info.is_required()
    ]


def _left_out(recipe: Recipe, text: str) -> Recipe:
    values = recipe
    for part in text.split("+"):
        values = recipe_without(values, part.strip())
    return values


def _with_setting(recipe: Recipe, text: str) -> Recipe:
    key = text.partition("=")[0].strip()
    sections = ("preprocess", "model", "training", *_whole_sections(recipe))
    if key.split(".")[0] not in sections:
        raise ConfigError(
            f"--set-arm {text}: expected a value of {', '.join(sections)}",
            hint="e.g. --set-arm training.learning_rate=1e-4",
        )
    return validate(Recipe, apply_overrides(recipe.model_dump(), [text]), f"--set-arm {text}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-")


def _differences(before: Recipe, after: Recipe) -> dict[str, tuple[JsonValue, JsonValue]]:
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {
        f"{section}.{key}": (old[section].get(key), new[section].get(key))
        for section in ("preprocess", "model", "training", *_whole_sections(before))
        for key in sorted(old[section].keys() | new[section].keys())
        if old[section].get(key) != new[section].get(key)
    }


def run_ablation(
    plan: AblationPlan, out: Path | str, *, resume: bool = False, listener: Listener | None = None
) -> AblationResult:
    """Run every arm, compare each with the whole recipe, write ``ablation.json`` and the report.

    The studies are written to ``whole`` and ``without-…`` in ``out``.

    Returns:
        The content of ``ablation.json``.

    Raises:
        DataError: The data cannot be used.
        UsageError: The folder holds something else.
    """
    from leukoscope.reporting.pages.arms import write_arms_report

    out = Path(out).expanduser().resolve()
    open_arms(out, RESULT, resume=resume)
    progress = Progress(listener) if listener else Progress()
    out.mkdir(parents=True, exist_ok=True)
    whole = Arm(WHOLE, "The whole recipe", plan.whole)
    run = run_arm(whole, out, listener)
    records, pairs = [arm_record(whole, run)], []
    for arm in plan.variants:
        other = run_arm(arm, out, listener, audit_of=run)
        records.append(arm_record(arm, other, plan.changes[arm.name]))
        pairs.append((run, other))
    with progress.step("comparison"):
        found = list(zip(plan.variants, compare_arms(pairs, plan.whole), strict=True))
    verdicts = [(arm, _verdict(rows, arm)) for arm, rows in found]
    result = AblationResult(
        recipe=plan.whole.recipes[0].name,
        target=plan.whole.data.path,
        seed=plan.whole.seed,
        arms=tuple(records),
        unreadable=unreadable(read_data(plan.whole)),
        comparisons=tuple(row for _, rows in found for row in rows),
        inapplicable=load_metrics(run.metrics).inapplicable,
        verdict=_join_verdicts(verdicts),
        limits=(
            "All arms had the same splits, seeds and epochs; a part may need other rates or more "
            "epochs to show what it does.",
            ONE_TRAINING,
        ),
    )
    result.save(out / RESULT)
    with progress.step("report"):
        write_arms_report(RunFolder(out), result)
    return result


def _verdict(rows: Sequence[ArmDifference], arm: Arm) -> ArmsVerdict:
    what = arm.title[:1].lower() + arm.title[1:]
    return judge_arms(
        rows,
        "The whole recipe",
        f"the one {what}",
        gain=f"{SENTENCES['helps']} the one {what}.",
        loss=f"{SENTENCES['harms']} the one {what}.",
    )


def _join_verdicts(verdicts: Sequence[tuple[Arm, ArmsVerdict]]) -> ArmsVerdict:
    """Join the verdicts of all arms; arms of one level share a sentence."""
    if len(verdicts) == 1:
        return verdicts[0][1]
    by_level: dict[ArmLevel, list[str]] = {}
    for arm, verdict in verdicts:
        by_level.setdefault(verdict.level, []).append(arm.title[:1].lower() + arm.title[1:])
    return ArmsVerdict(
        level=next(iter(by_level)) if len(by_level) == 1 else "depends on the part",
        headline=" ".join(
            f"{SENTENCES[level]} {_joined(arms, 'or' if level == SAME else 'and')}."
            for level, arms in by_level.items()
        ),
        sentences=tuple(text for _, verdict in verdicts for text in verdict.sentences),
    )


def _joined(arms: Sequence[str], word: str) -> str:
    """Arms in a sentence.

    >>> _joined(["without a", "without b", "with c"], "and")
    'the one without a, the one without b and the one with c'
    """
    *first, last = (f"the one {arm}" for arm in arms)
    return f"{', '.join(first)} {word} {last}" if first else last
