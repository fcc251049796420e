"""Ensembles of finished runs: their stored probabilities combined, measured as one more model.

Only runs whose images stand in the same parts of the same folds can be combined; then no member
has trained on an image that the ensemble is tested on. Weights are fitted on validation images,
the calibration on calibration images, fold by fold.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from leukoscope.analyses.cleanup import is_study_file
from leukoscope.analyses.ensemble_members import Member, Stacked, common_folds, stack
from leukoscope.config.bundle import Calibration
from leukoscope.config.ensemble import EnsembleFile, EnsembleMember, EnsembleTest
from leukoscope.config.loading import save_study_config
from leukoscope.config.metrics.file import study_metrics
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.config.training import EnsembleTraining
from leukoscope.core.errors import UsageError
from leukoscope.core.files import sha256_file, write_json, write_text
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import evidence_weights, fit_temperature, softmax
from leukoscope.evaluation.combining import (
    accuracy_weights,
    fit_weights,
    log_probs,
    vote,
    weighted_mean,
)
from leukoscope.evaluation.fuzzy_inference import (
    FuzzySystem,
    MembershipShape,
    TNorm,
    combine_members,
    member_system,
    rules_text,
)
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.comparison import PredictorPair, compare
from leukoscope.evaluation.statistics.metrics import compute_metrics
from leukoscope.pipeline.features.patient_store import open_store
from leukoscope.pipeline.folds import groups_of
from leukoscope.pipeline.jobs import (
    Logits,
    calibration_tables,
    calibrations_of_run,
    fit_fold_calibration,
    with_calibration,
)
from leukoscope.pipeline.progress import Listener, Progress, Tell, describe_environment
from leukoscope.pipeline.results.entries import sampling
from leukoscope.pipeline.results.shortcut_summary import Evidence
from leukoscope.pipeline.results.summary import summarise
from leukoscope.study.run import StudyResult

EnsembleMethod = Literal["mean", "weighted", "accuracy-weighted", "vote", "fuzzy"]
COMPARED = ("accuracy", "log_loss")
_Place = tuple[str, int, str, str]
SCORED = ("vote", "fuzzy")
"""Methods whose result is a score, and becomes a probability by being calibrated."""
ENSEMBLE_TITLES: Mapping[str, str] = {
    "mean": "Soft voting: plain average of {n} models",
    "weighted": "Weighted average of {n} models, weights by log loss on val",
    "accuracy-weighted": "Weighted average of {n} models, weights by accuracy on val (study S1)",
    "vote": "Majority vote of {n} models",
    "fuzzy": "Mamdani fuzzy inference over {n} models (extension of study S2)",
}


def combine(
    method: EnsembleMethod, stacked: Stacked, names: Sequence[str], system: FuzzySystem
) -> tuple[PredictionTable, list[float] | None]:
    """One ensemble on one fold, not yet calibrated.

    Returns:
        Its predictions, and the weight of each member where it has weights.
    """
    val = stacked.part == "val"
    weights = None
    if method in ("weighted", "accuracy-weighted"):
        fit = fit_weights if method == "weighted" else accuracy_weights
        weights = fit(stacked.probs[:, val], stacked.y[val])
    if method == "vote":
        combined = vote(stacked.probs)
    elif method == "fuzzy":
        combined = combine_members(system, stacked.probs)
    else:
        combined = weighted_mean(stacked.probs, weights)
    logits = log_probs(combined)
    table = PredictionTable.build(
        names,
        stacked.ids,
        softmax(logits),
        recipe=f"ensemble-{method}",
        protocol=stacked.fold.protocol,
        fold=stacked.fold.fold,
        part=stacked.part,
        y_true=stacked.y,
        logits=logits,
    )
    return table, None if weights is None else [round(float(w), 4) for w in weights]


def run_ensemble(
    members: Sequence[Member],
    out: Path,
    methods: Sequence[EnsembleMethod] = ("mean",),
    *,
    shape: MembershipShape = "triangular",
    t_norm: TNorm = "min",
    listener: Listener | None = None,
) -> StudyResult:
    """Combine members and write an ordinary run folder: the ensembles beside every member.

    The first method's ensemble is the model that the report judges; plain averaging always stands
    beside it.

    An ensemble that lies in ``out`` is replaced. ``shape`` (of the words of a probability) and
    ``t_norm`` (what AND means) are those of ``fuzzy``.

    Raises:
        DataError: The members do not fit together.
        UsageError: ``out`` holds something else.
    """
    from leukoscope.reporting.study.report import write_report

    chosen: tuple[EnsembleMethod, ...] = tuple(dict.fromkeys((*methods, "mean")))
    progress = Progress(listener) if listener else Progress()
    folds = common_folds(members)
    run = _open_folder(out, members)
    names = [member.name for member in members]
    system = member_system(names, shape=shape, t_norm=t_norm)
    with progress.step("combining") as tell:
        tables, weights, calibrations = _combined(members, folds, chosen, system, tell)
    probes = _probes(members[0], folds)
    config = _config(members, chosen, folds, len(probes) > 0)
    tables = [*(_renamed(member, folds) for member in members), *tables, probes]
    _write_inputs(run, config, members, folds, concatenate(tables))
    if "fuzzy" in chosen:
        rules = run.model("ensemble-fuzzy", folds[0].protocol, 0) / "rules.txt"
        write_text(rules, rules_text(system))
    with progress.step("statistics"):
        table = PredictionTable.load(run.predictions)
        inapplicable, warnings = _known(members[0])
        metrics = study_metrics(
            summarise(
                table, folds, config, inapplicable=inapplicable, warnings=warnings,
                calibrations=calibrations | _calibrations_of(members, folds),
                rows=members[0].files.rows.usable,
                evidence=_evidence(members[0]),
            )
        )  # fmt: skip
        metrics.save(run.metrics)
    with progress.step("comparing"):
        best, tests = _tests(table, names, chosen, folds, config)
        stored = EnsembleFile(
            members=_described(members), weights=weights, best_member=best, tests=tests
        )
        stored.save(run.ensemble)
    describe_environment(run, config.seed, progress).save(run.environment)
    with progress.step("report"):
        write_report(run)
    return StudyResult(run, metrics, ())


def _combined(
    members: Sequence[Member],
    folds: Sequence[Fold],
    methods: Sequence[EnsembleMethod],
    system: FuzzySystem,
    tell: Tell,
) -> tuple[
    list[PredictionTable],
    dict[str, dict[str, list[list[float]]]],
    dict[tuple[str, str, int], Calibration],
]:
    """Every ensemble on every fold.

    Returns:
        The tables; weights by method and protocol, one list a fold; calibration of each fold.
    """
    names = members[0].table.class_names
    made: dict[tuple[str, str], list[tuple[Fold, PredictionTable]]] = {}
    weights: dict[str, dict[str, list[list[float]]]] = {}
    answers: dict[_Place, Logits] = {}
    for done, fold in enumerate(folds, start=1):
        stacked = stack(members, fold)
        places = zip(stacked.part.tolist(), stacked.ids.tolist(), strict=True)
        answers |= {
            (fold.protocol, fold.fold, part, name): stacked.probs[:, row]
            for row, (part, name) in enumerate(places)
        }
        for method in methods:
            table, found = combine(method, stacked, names, system)
            made.setdefault((method, fold.protocol), []).append((fold, table))
            if found is not None:
                weights.setdefault(method, {}).setdefault(fold.protocol, []).append(found)
        tell(done, len(folds))
    tables: list[PredictionTable] = []
    calibrations: dict[tuple[str, str, int], Calibration] = {}
    for (rule, protocol), pairs in made.items():
        rows = calibration_tables([table for _, table in pairs])
        for (fold, table), cal in zip(pairs, rows, strict=True):
            record = _calibration(rule, fold, cal, answers)
            tables.append(with_calibration(table, record))
            if record is not None:
                calibrations[str(table.recipe[0]), protocol, fold.fold] = record
    return tables, weights, calibrations


def _calibration(
    method: str, fold: Fold, rows: PredictionTable, answers: Mapping[_Place, Logits]
) -> Calibration | None:
    """Of an ensemble on one fold: one temperature.

    A fold's members were scaled on the other folds; scaled there once more they go further the same
    way, and a fold that is harder than the others ends too sure. So the temperature of a mean is
    divided by the members' own on the same rows: what is left is what averaging did, and a model
    and its copy stay as they are.

    Args:
        answers: Protocol, fold, part and image → (M, K) probabilities of the members.
    """
    found = fit_fold_calibration(fold, rows, vector=False)
    if found is None or method in SCORED:
        return found
    keys = zip(rows.fold.tolist(), rows.part.tolist(), rows.image_id.tolist(), strict=True)
    members = np.stack([answers[fold.protocol, *key] for key in keys], axis=1)
    weights = evidence_weights(np.array(fold.units(rows.image_id.tolist())))
    own = [fit_temperature(log_probs(probs), rows.y_true, weights) for probs in members]
    again = float(np.exp(np.mean(np.log(own))))
    return found.model_copy(update={"temperature": found.temperature / again})


def _calibrations_of(
    members: Sequence[Member], folds: Sequence[Fold]
) -> dict[tuple[str, str, int], Calibration]:
    """The calibrations of the members' own fits, under their names in the ensemble."""
    return {
        (member.name, protocol, number): record
        for member in members
        for (_, protocol, number), record in calibrations_of_run(
            member.run, [member.recipe.name], folds
        ).items()
    }


def _open_folder(out: Path, members: Sequence[Member]) -> RunFolder:
    if any(out.resolve() == member.run.path.resolve() for member in members):
        raise UsageError(f"{out} is one of the members; name another folder with --out")
    if out.is_dir() and any(out.iterdir()):
        if not RunFolder(out).ensemble.is_file():
            raise UsageError(
                f"{out} is not empty and holds no ensemble", hint="name a new folder with --out"
            )
        foreign = sorted(path.name for path in out.iterdir() if not is_study_file(path.name))
        if foreign:
            raise UsageError(
                f"{out} holds {foreign[0]}, which no ensemble wrote: it is not replaced",
                hint="name a new folder with --out",
            )
        shutil.rmtree(out)
    run = RunFolder(out)
    made = EnsembleFile(members=_described(members))
    made.save(run.ensemble)  # replaced at the end
    return run


def _described(members: Sequence[Member]) -> list[EnsembleMember]:
    return [
        EnsembleMember(
            name=m.name,
            run=str(m.run.path),
            recipe=m.recipe.name,
            predictions_sha256=sha256_file(m.run.predictions),
        )
        for m in members
    ]


def _renamed(member: Member, folds: Sequence[Fold]) -> PredictionTable:
    """A member's predictions under its name in the ensemble."""
    table = member.table.select(protocol={fold.protocol for fold in folds})
    return replace(table, recipe=np.full(len(table), member.name))


def _probes(first: Member, folds: Sequence[Fold]) -> PredictionTable:
    """The probes of the first run: they were fitted on the same folds, whatever the model."""
    protocols = {fold.protocol for fold in folds if fold.protocol in PROTOCOLS}
    return first.files.predictions.select(input=first.files.config.probes, protocol=protocols)


def _config(
    members: Sequence[Member],
    methods: Sequence[EnsembleMethod],
    folds: Sequence[Fold],
    probes: bool,
) -> StudyConfig:
    config = members[0].files.config
    described = tuple(f"{m.run.path}:{m.recipe.name}" for m in members)
    ensembles = [
        Recipe(
            name=f"ensemble-{method}",
            title=ENSEMBLE_TITLES[method].format(n=len(members)),
            reference="Leukoscope",
            training=EnsembleTraining(rule=method, members=described),
        )
        for method in methods
    ]
    own = [m.recipe.model_copy(update={"name": m.name}) for m in members]
    return config.model_copy(
        update={
            "recipes": (*ensembles, *own),
            "protocols": tuple(
                p for p in config.protocols if any(fold.protocol == p for fold in folds)
            ),
            "probes": config.probes if probes else (),
            "explanations": 0,
            "bundle": False,
        }
    )


def _write_inputs(
    run: RunFolder,
    config: StudyConfig,
    members: Sequence[Member],
    folds: Sequence[Fold],
    table: PredictionTable,
) -> None:
    """What the statistics and the report read, copied from the first member's run."""
    files = members[0].files
    save_study_config(run.config, config)
    files.manifest.save(run.manifest)
    save_folds(run.splits, folds, files.manifest)
    if files.run.passport.is_file():
        write_json(run.passport, files.passport)
    table.save(run.predictions)


def _known(first: Member) -> tuple[list[dict[str, str]], list[str]]:
    """What the first run could not do and its warnings, with what holds for every ensemble."""
    old = first.files.metrics if first.run.metrics.is_file() else None
    return [row.model_dump() for row in old.inapplicable] if old else [], [
        *(old.warnings if old else ()),
        "Weights of an ensemble are fitted on the validation images that also selected each "
        "member’s settings or epoch, so they favour members that were selected harder.",
    ]


def _evidence(first: Member) -> Evidence:
    """What the first run measured of the data and of the folds, on which the verdict rests too."""
    old = first.files.metrics if first.run.metrics.is_file() else None
    shortcuts = old.shortcuts if old else None
    config = first.files.config
    store = open_store(first.run, first.files.manifest, config, Progress())
    return Evidence(
        inapplicable=[row.model_dump() for row in shortcuts.inapplicable] if shortcuts else (),
        partners=store.partner_classes(config.seed),
        control=old.control.model_dump(exclude_unset=True) if old and old.control else None,
        data_errors=old.data_errors if old else (),
        scale=shortcuts.grain.model_dump() if shortcuts and shortcuts.grain else None,
    )


def _tests(
    table: PredictionTable,
    names: Sequence[str],
    methods: Sequence[EnsembleMethod],
    folds: Sequence[Fold],
    config: StudyConfig,
) -> tuple[dict[str, str], list[EnsembleTest]]:
    """Each ensemble against the best member (by log loss on val) and against plain averaging.

    The tests under one protocol are a family.
    """
    groups = groups_of(folds)
    best: dict[str, str] = {}
    tests = []
    for protocol in config.protocols:
        under = table.select(protocol=protocol, input="image")
        losses = {name: _val_loss(under.select(recipe=name, part="val")) for name in names}
        best[protocol] = min(losses, key=lambda name: losses[name])
        test = under.select(part="test")
        sides = [
            (f"ensemble-{method}", rival, metric)
            for method in methods
            for rival in [best[protocol], *(["ensemble-mean"] if method != "mean" else [])]
            for metric in COMPARED
        ]
        family = [
            PredictorPair.of_tables(
                test.select(recipe=own), test.select(recipe=rival), groups[protocol], metric
            )
            for own, rival, metric in sides
        ]
        found = compare(family, **sampling(config))
        tests += [
            EnsembleTest.model_validate(
                {"protocol": protocol, "a": own, "b": rival, **one.to_json()}
            )
            for (own, rival, _), one in zip(sides, found, strict=True)
        ]
    return best, tests


def _val_loss(rows: PredictionTable) -> float:
    return compute_metrics(rows.y_true, rows.probs, rows.class_names)["log_loss"]
