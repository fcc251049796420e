"""What a tuning leaves behind: ``trials.csv``, ``best.toml``, ``tune.json`` and a page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukoscope.analyses.tuning.data import TuningData, criterion_of
from leukoscope.analyses.tuning.trials import decode
from leukoscope.config.recipe import Recipe
from leukoscope.config.training import LinearHeadTraining
from leukoscope.config.tuning_results import (
    BestTrial,
    CorrectedValue,
    TrialRecord,
    TuningFile,
)
from leukoscope.config.tuning_space import WRAPPED, Space, TuneConfig, compact, resolve
from leukoscope.core.files import write_csv, write_text
from leukoscope.evaluation.statistics.leaderboard import CorrectedBest, corrected_best
from leukoscope.evaluation.statistics.metrics import METRICS
from leukoscope.pipeline.progress import package_versions
from leukoscope.reporting.formats import plural
from leukoscope.reporting.pages.tuning import write_tuning_page

OWN_COLUMNS = ("trial", "state", "value", "seconds", "own", "reason")


@dataclass(frozen=True)
class Outcome:
    """The state of a tuning.

    Attributes:
        config: The tuning's configuration.
        out: Its folder.
        data: The images that the trials use.
        rows: All trials so far.
        importances: Recipe key → share of the variance, 0–1.
    """

    config: TuneConfig
    out: Path
    data: TuningData
    rows: list[TrialRecord]
    importances: Mapping[str, float]

    @property
    def complete(self) -> list[TrialRecord]:
        """Trials with a final value."""
        return [row for row in self.rows if row.state == "complete" and row.value is not None]

    @property
    def minimise(self) -> bool:
        """Whether small values are good."""
        return not METRICS[criterion_of(self.config.recipe)].higher_is_better

    @property
    def best(self) -> TrialRecord:
        """The best complete trial; the first of equal ones."""
        sign = 1 if self.minimise else -1
        return min(self.complete, key=lambda row: (sign * (row.value or 0.0), row.trial))


def tuned_name(config: TuneConfig) -> str:
    """Name of the recipe in ``best.toml``."""
    return f"{config.recipe.name.removesuffix('-tuned')}-tuned"


def probs_file(out: Path, number: int) -> Path:
    """Where a trial's validation probabilities are, (n_val, K) float32."""
    return out / "trials" / f"{number:04d}" / "probs.npy"


def write_trials(outcome: Outcome) -> None:
    """Write ``trials.csv`` and, where a trial is complete, ``best.toml``."""
    keys = list(outcome.config.space)
    write_csv(
        outcome.out / "trials.csv",
        (*OWN_COLUMNS, *keys),
        (
            {
                **row.model_dump(include=set(OWN_COLUMNS)),
                "own": "yes" if row.own else "",
                **row.labels,
            }
            for row in outcome.rows
        ),
    )
    if outcome.complete:
        _write_best(outcome, None)


def write_results(outcome: Outcome) -> TuningFile:
    """Write everything; returns the content of ``tune.json``."""
    write_trials(outcome)
    corrected = _corrected(outcome)
    _write_best(outcome, corrected)
    summary = summarise(outcome, corrected)
    summary.save(outcome.out / "tune.json")
    write_tuning_page(outcome.out, summary)
    return summary


def summarise(outcome: Outcome, corrected: CorrectedBest | None) -> TuningFile:
    """The content of ``tune.json``."""
    config, best = outcome.config, outcome.best
    states = [row.state for row in outcome.rows]
    assert best.value is not None  # it is complete
    values = {"trial": best.trial, "value": best.value, "values": decode(config.space, best.labels)}
    return TuningFile(
        recipe=config.recipe.name,
        recipe_method=config.recipe.training.method,
        tuned=tuned_name(config),
        data=Path(config.study.data.path).name,
        protocol=outcome.data.protocol,
        folds=len(outcome.data.folds),
        n_images=len(outcome.data.data.records),
        n_val=len(outcome.data.val_rows),
        criterion=criterion_of(config.recipe),
        direction="minimise" if outcome.minimise else "maximise",
        sampler=config.sampler,
        pruner=config.pruner,
        seed=config.study.seed,
        storage=config.storage,
        trials={state: states.count(state) for state in dict.fromkeys(states)},
        best=BestTrial.model_validate(values),
        own=_unchanged_value(outcome),
        penalties=own_penalties(config.recipe, config.space, outcome.rows),
        corrected=None
        if corrected is None
        else CorrectedValue(
            value=corrected.corrected,
            low=corrected.low,
            high=corrected.high,
            n_groups=corrected.n_groups,
        ),
        importances=dict(outcome.importances),
        space=dict(config.space),
        rows=tuple(outcome.rows),
        next=next_command(outcome),
        packages=package_versions(),
    )


def next_command(outcome: Outcome) -> str:
    """The command that measures the best recipe on the test part of the same hold-out."""
    study = outcome.config.study
    words = ["leukoscope", "study", study.data.path, "-r", str(outcome.out / "best.toml")]
    words += ["-p", outcome.data.protocol, "--folds", "1", "--seed", str(study.seed)]
    if study.data.layout != "auto":
        words += ["--layout", study.data.layout]
    for folder, name in study.data.class_map.items():
        words += ["--class", f"{folder}={name}"]
    usual = type(study.splits)()
    for key in ("val", "cal", "test", "clusters"):
        value = getattr(study.splits, key)
        if value != getattr(usual, key):
            words += ["--set", f"splits.{key}={value}"]
    words += ["--out", str(outcome.out / "study")]
    return shlex.join(words)


def _unchanged_value(outcome: Outcome) -> float | None:
    """The value of the unchanged recipe; each penalty of a linear head has a trial of its own.

    None while one of the penalties has none: it may be the best of them.
    """
    penalties = own_penalties(outcome.config.recipe, outcome.config.space, outcome.rows)
    if penalties is not None and penalties[0] < penalties[1]:
        return None
    values = [row.value for row in outcome.complete if row.own and row.value is not None]
    if not values:
        return None
    return min(values) if outcome.minimise else max(values)


def own_penalties(
    recipe: Recipe, space: Space, rows: Sequence[TrialRecord]
) -> tuple[int, int] | None:
    """How many of the recipe's own penalties were tried, and how many there are.

    A pruned trial counts: it had lost. None where no penalty is searched.
    """
    searched = [key for key in WRAPPED if key in space]
    if not searched or not isinstance(recipe.training, LinearHeadTraining):
        return None
    tried = {
        tuple(row.labels[key] for key in searched)
        for row in rows
        if row.own and row.state in ("complete", "pruned")
    }
    return len(tried), len(set(recipe.training.c_grid))


def _corrected(outcome: Outcome) -> CorrectedBest | None:
    """The best value, corrected for the choice of the best; None with fewer than two trials.

    Trials whose probabilities are stored on another machine are left out.
    """
    tables = []
    rows = outcome.data.val_rows
    shape = (len(rows), len(outcome.data.data.class_names))
    for row in outcome.complete:
        path = probs_file(outcome.out, row.trial)
        if path.is_file():
            table = np.load(path, allow_pickle=False).astype(np.float64)
            if table.shape == shape:
                tables.append(table)
    if len(tables) < 2:
        return None
    found = corrected_best(
        outcome.data.data.y[rows],
        tables,
        outcome.data.data.class_names,
        criterion_of(outcome.config.recipe),
        groups=[outcome.data.groups[row] for row in rows],
        seed=outcome.config.study.seed,
    )
    return found if math.isfinite(found.corrected) else None


def _best_recipe(outcome: Outcome, corrected: CorrectedBest | None) -> Recipe:
    config, best = outcome.config, outcome.best
    recipe = config.recipe
    changed = decode(config.space, best.labels)
    counts = ", ".join(
        f"{number} {state}"
        for state in ("complete", "pruned", "failed")
        if (number := sum(row.state == state for row in outcome.rows))
    )
    name = criterion_of(recipe).replace("_", " ")
    text = (
        f"Tuned: trial {best.trial} of {counts} ({config.sampler}, seed {config.study.seed}), "
        f"protocol {outcome.data.protocol}, {plural(len(outcome.data.folds), 'fold')}, "
        f"{len(outcome.data.val_rows)} validation images. Validation {name} {best.value:.4f}, "
        "which is optimistic: it chose the configuration"
    )
    if corrected is not None:
        text += f"; corrected for that {corrected.corrected:.4f}"
    values = "; ".join(f"{key} = {_plain(value)}" for key, value in changed.items())
    return resolve(
        recipe,
        changed,
        name=tuned_name(config),
        title=f"{recipe.title}; tuned on validation images",
        notes=f"{recipe.notes}\n{text}. Values: {values}.".strip(),
    )


def _write_best(outcome: Outcome, corrected: CorrectedBest | None) -> None:
    import tomli_w

    values = _best_recipe(outcome, corrected).model_dump(mode="json")
    write_text(outcome.out / "best.toml", tomli_w.dumps(values, multiline_strings=True))


def _plain(value: object) -> str:
    return compact(value) if isinstance(value, (dict, list)) else str(value)
