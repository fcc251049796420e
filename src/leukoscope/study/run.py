"""A study from data to bundle: each step reads the files of the step before and writes its own.

What it gives back are its folder and its metrics, which show themselves in a notebook.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from leukoscope.config.loading import (
    differs,
    load_study_config,
    save_study_config,
)
from leukoscope.config.metrics.file import StudyMetrics, study_metrics
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, MissingExtraError, UsageError
from leukoscope.core.files import write_json
from leukoscope.core.labels import check_roles
from leukoscope.core.patients import Patients
from leukoscope.core.records import Manifest, save_folds
from leukoscope.core.run_folder import LOCK, RunFolder, only_writer, resumes
from leukoscope.core.views import data_frame, html_note, html_table, with_limits
from leukoscope.datasets.audit.neighbour_search import search_note
from leukoscope.datasets.audit.run import Audit, audit, load_audit, save_audit
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.imaging.segment import remembered_masks
from leukoscope.pipeline.features.inputs import check_unchanged
from leukoscope.pipeline.folds import (
    ProtocolPlan,
    final_fold,
    none_applies,
    plan_protocols,
    study_rows,
)
from leukoscope.pipeline.jobs import Announce, Labelled
from leukoscope.pipeline.progress import Listener, Progress, describe_environment
from leukoscope.study.options import StudyOptions, study_config

if TYPE_CHECKING:
    import pandas as pd

    from leukoscope.config.metrics.results import ProbeResult, Result
    from leukoscope.pipeline.remote_fits import Executor
    from leukoscope.pipeline.results.shortcut_summary import Evidence


_SHOWN = ("accuracy", "macro_f1", "roc_auc")  # in a notebook; to_frame has all


@dataclass(frozen=True)
class StudyResult:
    """Where a study's results are.

    Attributes:
        run: The study's folder.
        metrics: The content of ``metrics.json``.
        unreadable: Path and reason of each image that was quarantined.
    """

    run: RunFolder
    metrics: StudyMetrics
    unreadable: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        verdict = self.metrics.verdict
        return f"<StudyResult {self.run.path}: {verdict.level}, {verdict.headline}>"

    def _repr_html_(self) -> str:
        from leukoscope.reporting.formats import interval

        verdict = self.metrics.verdict
        rows = [
            (row.recipe, row.protocol, row.n, *(interval(row.metrics.get(m), m) for m in _SHOWN))
            for row in self.metrics.results
        ]
        titles = ("model", "held out", "n", *_SHOWN)
        return html_note(verdict.headline, verdict.level) + html_table(titles, rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a model or probe and protocol: every metric with its limits.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        names = [("model", row.recipe) for row in self.metrics.results]
        names += [("probe", row.probe) for row in self.metrics.probes]
        rows: list[Result | ProbeResult] = [*self.metrics.results, *self.metrics.probes]
        return data_frame(
            {"kind": kind, "name": name, "protocol": row.protocol, "n": row.n,
             "n_groups": row.n_groups, **with_limits(row.metrics)}
            for (kind, name), row in zip(names, rows, strict=True)
        )  # fmt: skip


def run_study(
    data: StudyConfig | Path | str,
    out: Path | str,
    *,
    resume: bool = False,
    report: bool = True,
    listener: Listener | None = None,
    executor: Executor | None = None,
    announce: Announce | None = None,
    **options: Unpack[StudyOptions],
) -> StudyResult:
    """Audit, split, train, measure, explain, report, and pack a bundle.

    Args:
        data: A configuration from :func:`~leukoscope.study.options.study_config`, or the data's
            path with its options.
        out: The study's folder; must be new or empty unless ``resume``.
        resume: Go on where an interrupted run stopped.
        report: Also explain, report and pack the bundle; without, stop after the statistics.
        listener: Called with (step, done, total) as the work goes on.
        executor: Does the fits in other processes; by default this one does.
        announce: Tells other processes of each gradient training, in which they take part.
        **options: See :class:`~leukoscope.study.options.StudyOptions`, where ``data`` is a path.

    Raises:
        MissingExtraError: torch is not installed.
        UsageError: The folder holds another study, or another process runs one in it.
        DataError: The data cannot be used.
    """
    if find_spec("torch") is None:
        raise MissingExtraError("training", "train")  # now, not after a minute of audit
    config = data if isinstance(data, StudyConfig) else study_config(data, **options)
    if announce is not None:
        _check_shares_training(config)
    run = RunFolder(Path(out))
    progress = Progress(listener) if listener else Progress()
    with only_writer(run.path, "runs a study in"), remembered_masks():
        return _run_steps(run, config, progress, executor, announce, resume=resume, report=report)


def _run_steps(
    run: RunFolder,
    config: StudyConfig,
    progress: Progress,
    executor: Executor | None,
    announce: Announce | None,
    *,
    resume: bool,
    report: bool,
) -> StudyResult:
    """Everything from the audit to the report."""
    from leukoscope.learning.trackers import check_trackers, track_report

    _open_folder(run, config, resume)
    check_trackers(config.recipes, run.path)
    if not run.passport.is_file():
        check_recipes(config)  # now, not after an audit of thousands of files
    with progress.step("audit"):
        found = audited_in(run, config, progress)
    check_external_data(config, labelled(found, config).class_names)
    with progress.step("splits"):
        plan = _write_splits(run, found, config, shared=announce is not None)
    tables, evidence = _fit_everything(run, config, found, plan, progress, executor, announce)
    with progress.step("statistics"):
        metrics = _write_statistics(run, config, found, plan, tables, evidence)
    del tables, evidence  # packing needs the memory
    if report:
        _explain_and_pack(run, config, found, progress)
    unreadable = found.manifest.unreadable
    if report and config.external:
        from leukoscope.study.external import evaluate_external

        metrics, lost = evaluate_external(run, config, metrics, plan.folds, progress)
        unreadable += lost
    describe_environment(run, config.seed, progress).save(run.environment)
    if report:
        _report(run, progress)
        track_report(config.recipes, run, metrics)
    return StudyResult(run, metrics, unreadable)


def _check_shares_training(config: StudyConfig) -> None:
    """Refuse several processes for one training where no recipe has one to share."""
    if all(recipe.frozen_features for recipe in config.recipes):
        raise UsageError(
            "--devices: only gradient training is shared by processes, and no recipe asks for it",
            hint="use --jobs for the fits of several folds at once",
        )


def check_recipes(config: StudyConfig) -> None:
    """Refuse recipes that cannot be fitted: unknown networks, or a training that has no patients.

    Raises:
        LeukoscopeError: Says which and why.
    """
    from leukoscope.learning.backbones import check_networks
    from leukoscope.pipeline.patient_fitting import check_training

    check_networks(config.recipes)
    if config.unit == "patient":
        for recipe in config.recipes:
            check_training(recipe)


def check_external_data(config: StudyConfig, class_names: Sequence[str]) -> None:
    """Refuse other data that the bundle could not be measured on, before anything is fitted."""
    if config.external:
        from leukoscope.study.comparable import check_external

        check_external(config, class_names)


def _report(run: RunFolder, progress: Progress) -> None:
    """Write the report from the files of the run."""
    from leukoscope.reporting.study.report import write_report

    with progress.step("report"):
        write_report(run)


def read_data(config: StudyConfig, listener: Listener | None = None) -> Manifest:
    """The data set of a study, as its configuration reads it."""
    data, tell = config.data, listener or Progress().listener
    return load_dataset(
        Path(data.path),
        layout=data.layout,
        class_map=data.class_map,
        target=data.target,
        progress=lambda done, total: tell("reading the images", done, total),
    )


def audited(config: StudyConfig, listener: Listener) -> Audit:
    """Load and audit the data of a configuration, without a study's folder.

    Raises:
        DataError: No image can be used.
        UnknownNameError: A role is stated of a class that the data does not have.
    """
    manifest = read_data(config, listener)
    if not manifest.usable:
        raise manifest.none_usable(config.data.path)
    if config.unit == "patient":
        Patients.of(manifest)  # refused now, not after minutes of audit
    if not config.external:  # else see check_external
        check_roles(config.data.roles, manifest.class_names)
    slow = search_note(len(manifest.images))
    step = f"audit ({slow})" if slow else "audit"
    return audit(
        manifest,
        clusters=config.splits.clusters,
        progress=lambda done, total: listener(step, done, total),
    )


def _open_folder(run: RunFolder, config: StudyConfig, resume: bool) -> None:
    """Begin or resume a study; one that failed before its splits does not block its folder."""
    if run.config.is_file() and not resume and _has_no_result(run):
        shutil.rmtree(run.cache, ignore_errors=True)
        for path in (run.manifest, run.passport, run.config):  # the last says whose these are
            path.unlink(missing_ok=True)
    resumed = resumes(run.config, "study", resume=resume, hint="add --resume to go on with it")
    if resumed and (kept := load_study_config(run.config)) != config:
        hint = "resume with the data and --out alone, or name a new folder with --out"
        raise differs(run.config, kept, config, hint)
    run.path.mkdir(parents=True, exist_ok=True)
    save_study_config(run.config, config)


def _has_no_result(run: RunFolder) -> bool:
    """Whether a folder holds nothing but what a study writes before its splits."""
    first = {run.config, run.cache, run.manifest, run.passport, run.path / LOCK}
    return set(run.path.iterdir()) <= first


def audited_in(run: RunFolder, config: StudyConfig, progress: Progress) -> Audit:
    """The audit of a configuration's data, from the folder's cache or made; writes its files.

    Raises:
        DataError: No image can be used, or images were changed since the audit in the cache.
    """
    folder = run.cache / "audit"
    if (folder / "complete.json").is_file():
        found = load_audit(folder, config.data.root)
        check_unchanged(found.manifest)
    else:
        found = audited(config, progress.listener)
        save_audit(found, folder)
        write_json(folder / "complete.json", {"passport": found.passport["sha256"]})
    found.manifest.save(run.manifest)
    write_json(run.passport, found.passport)
    return found


def labelled(found: Audit, config: StudyConfig) -> Labelled:
    """The usable images of an audit, with the roles that the configuration states.

    Raises:
        DataError: They have fewer than two classes.
    """
    check_two_classes(found.manifest)
    return Labelled(found.manifest.usable, found.manifest.class_names, config.data.roles)


def check_two_classes(manifest: Manifest) -> None:
    """Refuse data that leave nothing to tell apart.

    Raises:
        DataError: They have fewer than two classes.
    """
    names = manifest.class_names
    if len(names) < 2:
        raise DataError(
            f"{manifest.root}: a classifier needs two classes, found {', '.join(names) or 'none'}",
            hint="map folder names with --class FOLDER=CLASS; see `leukoscope data inspect`",
        )


def _write_splits(
    run: RunFolder, found: Audit, config: StudyConfig, *, shared: bool
) -> ProtocolPlan:
    """Plan the folds, and note what they are worth where processes share each training."""
    rows = study_rows(found.manifest, config)
    plan = plan_protocols(rows, found, config)
    if not plan.folds:
        raise none_applies(plan.inapplicable, config)
    if config.bundle and not config.no_bundle_reason:
        final = final_fold(rows, config, plan.folds)
        plan = replace(plan, folds=(*plan.folds, final))
    save_folds(run.splits, plan.folds, rows)
    if config.unit == "patient":
        Patients.of(found.manifest).save(run.patients)
    if shared:
        from leukoscope.pipeline.remote_fits import worker_notes

        plan = replace(plan, notes=(*plan.notes, *worker_notes(config)))
    return plan


def _fit_everything(
    run: RunFolder,
    config: StudyConfig,
    found: Audit,
    plan: ProtocolPlan,
    progress: Progress,
    executor: Executor | None,
    announce: Announce | None,
) -> tuple[list[PredictionTable], Evidence]:
    from leukoscope.pipeline.evidence import gather_evidence
    from leukoscope.pipeline.features.patient_store import PatientStore, open_store
    from leukoscope.pipeline.fitting import fit_recipe
    from leukoscope.pipeline.probes import prepare_study, shortcut_tables
    from leukoscope.pipeline.remote_fits import fit_elsewhere

    store = open_store(run, found.manifest, config, progress)
    prepare_study(store, config)
    if executor is not None:
        fit_elsewhere(store, plan, config, found.passport, executor)
    own = store
    if announce is not None and not isinstance(store, PatientStore):
        own = replace(store, shared=True, announce=announce)
    tables = []
    for recipe in config.recipes:
        tables += fit_recipe(run, own, recipe, plan.folds, config.seed, progress)
    if announce is not None:
        shutil.rmtree(store.images.shared_folder, ignore_errors=True)
    tables += shortcut_tables(store, found.passport, plan, config, progress)
    return tables, gather_evidence(store, plan, config, found.passport, progress)


def _write_statistics(
    run: RunFolder,
    config: StudyConfig,
    found: Audit,
    plan: ProtocolPlan,
    tables: list[PredictionTable],
    evidence: Evidence,
) -> StudyMetrics:
    from leukoscope.pipeline.jobs import calibrations_of_run
    from leukoscope.pipeline.rejection import rejection_metrics
    from leukoscope.pipeline.results.summary import summarise
    from leukoscope.study.bundling import no_bundle_note

    table = concatenate(tables)
    table.save(run.predictions)
    _store_sets(run, config, plan, tables)
    measured = summarise(
        table,
        plan.folds,
        config,
        inapplicable=plan.inapplicable,
        evidence=evidence,
        warnings=[
            *plan.notes,
            *no_bundle_note(config),
            *(row["text"] for row in found.passport["findings"] if row["level"] != "info"),
        ],
        calibrations=calibrations_of_run(run, [r.name for r in config.recipes], plan.folds),
        rows=study_rows(found.manifest, config).usable,
    )
    metrics = study_metrics(measured | {"ood": rejection_metrics(run, plan.folds, config)})
    metrics.save(run.metrics)
    return metrics


def _store_sets(
    run: RunFolder, config: StudyConfig, plan: ProtocolPlan, tables: Sequence[PredictionTable]
) -> None:
    """Keep the prediction sets of every model beside it."""
    from leukoscope.pipeline.jobs import store_sets

    found = {
        (str(t.recipe[0]), str(t.protocol[0]), int(t.fold[0])): t
        for t in tables
        if len(t) and t.input[0] == "image"
    }
    for recipe in config.recipes:
        for protocol in dict.fromkeys(fold.protocol for fold in plan.folds):
            folds = [fold for fold in plan.folds if fold.protocol == protocol]
            keys = [(recipe.name, protocol, fold.fold) for fold in folds]
            if all(key in found for key in keys):  # a recipe may leave the cluster curve out
                own = [found[key] for key in keys]
                store_sets(folds, own, [run.model(*key) for key in keys], config)


def _explain_and_pack(
    run: RunFolder, config: StudyConfig, found: Audit, progress: Progress
) -> None:
    """Heat maps, feature maps and the sheets of overlaps; then the bundle."""
    from leukoscope.datasets.audit.contact_sheet import contact_sheet
    from leukoscope.study.bundling import keep_bundle
    from leukoscope.study.explanations import explain_study
    from leukoscope.study.feature_maps import map_study
    from leukoscope.study.patient_gate import explain_patients

    packable = not config.no_bundle_reason
    with progress.step("explanations") as tell:
        if config.unit == "image":
            explain_study(run, config.explanations, tell)
            map_study(run, tell)
        elif config.explanations:
            explain_patients(run, tell)
        if not list(run.figures.glob("overlaps*.png")):
            contact_sheet(found.manifest, found, run.figures / "overlaps", pages=1)
    if config.bundle and packable:
        with progress.step("bundle"):
            keep_bundle(run, config.recipes[0].name)
