"""Probes for a study that is finished: what is missing is added, nothing is trained again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leukoscope.config.base import validate
from leukoscope.config.loading import save_study_config
from leukoscope.config.metrics.file import StudyMetrics, study_metrics
from leukoscope.config.study import StudyConfig, chosen_probes
from leukoscope.core.errors import DataError
from leukoscope.core.program import typed
from leukoscope.core.run_folder import RunFolder, only_writer
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.pipeline.evidence import gather_evidence
from leukoscope.pipeline.features.patient_store import open_store
from leukoscope.pipeline.folds import ProtocolPlan
from leukoscope.pipeline.jobs import calibrations_of_run
from leukoscope.pipeline.probes import shortcut_tables
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.pipeline.results.summary import summarise
from leukoscope.pipeline.trained_run import FittedRun
from leukoscope.study.bundling import renew_findings

WRITES = "runs a study in"


def missing_probes(run: Path, names: Sequence[str] | None) -> list[str]:
    """Which of the probes that were asked for a study's folder does not hold.

    None as ``names`` means the default ones.

    Raises:
        DataError: No finished study.
        UsageError: A bundle.
    """
    fitted = FittedRun.open(run)
    if not fitted.run.metrics.is_file():
        raise DataError(
            f"{run}: the study is not finished (metrics.json is missing)",
            hint=typed("study", "--out", run, "--resume"),
        )
    wanted = _config(fitted, names)
    metrics = fitted.metrics
    there = {row.probe for row in metrics.probes}
    there |= {row.probe for row in metrics.shortcuts.inapplicable} if metrics.shortcuts else set()
    return [name for name in wanted.probes if name not in there]


def add_probes(run: Path, names: Sequence[str] | None, listener: Listener) -> StudyMetrics:
    """Fit the missing probes on the study's own folds, and write statistics and report again.

    Predictions that are there stay as they are; the models are applied to perturbed test images.
    The study's bundle, where it has one, gets the new verdict and the new card.

    The images must be where they were; None as ``names`` means the default probes.

    Returns:
        The new content of ``metrics.json``.

    Raises:
        UsageError: Another process writes to the run.
        BundleError: Its bundle is damaged; all else is written then.
    """
    fitted = FittedRun.open(run)
    with only_writer(run, WRITES):
        metrics = _add_probes(fitted, names, listener)
        with Progress(listener).step("bundle"):
            renew_findings(fitted.run)
    return metrics


def renew_bundle(run: Path) -> bool:
    """Give a study's bundle its verdict and card where the bundle has others; see `add_probes`.

    Returns:
        Whether the bundle had others.

    Raises:
        UsageError: Another process writes to the run.
        BundleError: The bundle is damaged.
    """
    with only_writer(run, WRITES):
        return renew_findings(RunFolder(run))


def _add_probes(fitted: FittedRun, names: Sequence[str] | None, listener: Listener) -> StudyMetrics:
    """Fit, write the statistics, report."""
    folder, config, progress = fitted.run, _config(fitted, names), Progress(listener)
    old, folds, passport = fitted.metrics, fitted.splits, fitted.passport
    plan = ProtocolPlan(folds, tuple(row.model_dump() for row in old.inapplicable), ())
    store = open_store(folder, fitted.manifest, config, progress)
    new = shortcut_tables(store, passport, plan, config, progress)
    evidence = gather_evidence(store, plan, config, passport, progress)
    table = fitted.predictions
    kept = set(table.input.tolist()) - {name for one in new for name in one.input.tolist()}
    with progress.step("statistics"):
        table = concatenate([table.select(input=kept), *new])
        table.save(folder.predictions)
        measured = summarise(
            PredictionTable.load(folder.predictions),
            folds,
            config,
            inapplicable=plan.inapplicable,
            evidence=evidence,
            warnings=old.warnings,
            calibrations=calibrations_of_run(folder, fitted.recipes, folds),
            rows=fitted.rows.usable,
        )
        # What other steps added stays.
        metrics = study_metrics({**old.to_json(), **measured})
        save_study_config(folder.config, config)
        metrics.save(folder.metrics)
    with progress.step("report"):
        from leukoscope.reporting.study.report import write_report

        write_report(folder)
    return metrics


def _config(fitted: FittedRun, names: Sequence[str] | None) -> StudyConfig:
    """The study's configuration with the probes it has and those asked for."""
    values = fitted.config.model_dump()
    values["probes"] = list(
        dict.fromkeys([*fitted.config.probes, *chosen_probes(names, fitted.config.unit)])
    )
    return validate(StudyConfig, values, "study")
