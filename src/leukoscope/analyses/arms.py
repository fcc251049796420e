"""Arms: studies of one data set that differ in one thing, and their paired comparison.

Every arm is an ordinary study folder with the same data, splits and seeds, so that whatever
differs in the predictions of two arms comes from what differs in their recipes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from leukoscope.config.arms import (
    ArmDifference,
    ArmLevel,
    ArmRecord,
    ArmsVerdict,
    UnreadableImage,
)
from leukoscope.config.loading import load_study_config, save_study_config
from leukoscope.config.metrics.results import Disagreement, Result
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_json, sha256_file, write_json
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.audit.run import save_audit
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.evaluation.statistics.comparison import (
    Comparison,
    PredictorPair,
    compare,
    paired_difference,
    paired_tests,
)
from leukoscope.evaluation.statistics.intervals import Sampling
from leukoscope.pipeline.folds import groups_of, none_applies, plan_protocols, unit_of
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.pipeline.results.entries import sampling
from leukoscope.study.options import StudyOptions
from leukoscope.study.run import audited, run_study

ARM_METRICS = ("accuracy", "macro_f1", "log_loss")
"""What is compared; the verdict rests on the first alone."""

DEFAULTS: Final[StudyOptions] = {"protocols": ("deduplicated",), "folds": 1}
"""Options of the studies of a comparison where the user names none."""

AUDITED = "complete.json"
OVERLAP = "overlap.json"
ONE_TRAINING = (
    "Each arm was trained once per fold. The intervals cover the choice of the test images, not "
    "the chance of a training: use --folds 5, or repeat with another --seed, before you rely on a "
    "small difference."
)


@dataclass(frozen=True)
class Arm:
    """One study of a comparison.

    Attributes:
        name: Name of its folder.
        title: Its name for readers.
        config: Its configuration.
    """

    name: str
    title: str
    config: StudyConfig


def measure_only(config: StudyConfig, recipe: Recipe) -> StudyConfig:
    """The configuration of a study of one recipe that measures it, and no more.

    Probes, cluster curve and negative control ask about the data and the pipeline, which all arms
    share.
    """
    splits = config.splits.model_copy(update={"cluster_curve": ()})
    changes = {"probes": (), "control_draws": 0, "bundle": False, "splits": splits}
    return config.model_copy(update={"recipes": (recipe,), **changes})


def open_arms(out: Path, content: str, *, resume: bool) -> None:
    """Refuse a folder that holds something else, or a comparison that is not to be resumed.

    Raises:
        UsageError: The folder cannot be used.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    ours = any((out / name).is_file() for name in (content, OVERLAP)) or any(
        (path / "config.toml").is_file() for path in out.iterdir()
    )
    if not resume and ours:
        raise UsageError(
            f"{out} already holds a comparison",
            hint="add --resume to go on with it, or name a new folder with --out",
        )
    if not resume:
        raise UsageError(f"{out} is not empty", hint="name a new folder with --out")


def run_arm(
    arm: Arm, out: Path, listener: Listener | None, *, audit_of: RunFolder | None = None
) -> RunFolder:
    """Run or resume one arm in ``out/<name>``; a finished arm is left as it is.

    ``audit_of`` is another study of the same data whose audit is copied.

    Raises:
        ConfigError: The folder holds an arm with other settings.
    """
    run = RunFolder(out / arm.name)
    named_listener = _prefixed(arm, listener)
    # The model card is the last file of a study.
    if run.model_card.is_file() and load_study_config(run.config) == arm.config:
        return run
    if not run.config.is_file():
        save_study_config(run.config, arm.config)  # first: marks the folder as a study of ours
    if audit_of is not None:
        _share_audit(audit_of, run)
    run_study(arm.config, run.path, resume=True, listener=named_listener)
    return run


def check_arm(arm: Arm, out: Path, listener: Listener | None) -> None:
    """Audit and split the data of an arm, so that unusable data are found before any training.

    Raises:
        DataError: No image can be used, or none of the protocols applies.
    """
    run = RunFolder(out / arm.name)
    folder = run.cache / "audit"
    if (folder / AUDITED).is_file():
        return
    found = audited(arm.config, _prefixed(arm, listener) or Progress().listener)
    plan = plan_protocols(found.manifest, found, arm.config)
    if not plan.folds:
        raise none_applies(plan.inapplicable, arm.config)
    save_study_config(run.config, arm.config)
    save_audit(found, folder)
    write_json(folder / AUDITED, {"passport": found.passport["sha256"]})


def _prefixed(arm: Arm, listener: Listener | None) -> Listener | None:
    """A listener that puts the arm's name before each step."""
    if listener is None:
        return None
    outer = listener
    return lambda step, done, total: outer(f"{arm.name}: {step}", done, total)


def _share_audit(source: RunFolder, run: RunFolder) -> None:
    """Copy the audit of another arm: it depends on the data alone and takes long."""
    done = source.cache / "audit" / AUDITED
    target = run.cache / "audit"
    if done.is_file() and not (target / done.name).is_file():
        ignored = shutil.ignore_patterns(done.name)
        shutil.copytree(done.parent, target, ignore=ignored, dirs_exist_ok=True)
        shutil.copy2(done, target / done.name)


def compare_arms(
    pairs: Sequence[tuple[RunFolder, RunFolder]], config: StudyConfig
) -> list[list[ArmDifference]]:
    """Differences, first minus second, of each pair of arms under each protocol.

    The p-values of all pairs under all protocols are one family and are corrected together.

    Args:
        pairs: An arm, and the arm that it is compared with; both finished, in folders that are
            named as they are.
        config: Replicates, confidence, seed.

    Returns:
        For each pair one row per protocol, with values and differences of :data:`ARM_METRICS`.

    Raises:
        DataError: The arms of a pair have different splits.
    """
    how, loaded = sampling(config), [_PairedRows.of(first, second) for first, second in pairs]
    keys = [(two, protocol) for two in loaded for protocol in two.protocols]
    tested = compare([two.pair(protocol) for two, protocol in keys], **how)
    rows: list[list[ArmDifference]] = [[] for _ in loaded]
    for (two, protocol), found in zip(keys, tested, strict=True):
        rows[loaded.index(two)].append(_row(two, protocol, found, how))
    return rows


@dataclass(frozen=True, eq=False)
class _PairedRows:
    """The test predictions of two arms with equal splits."""

    names: tuple[str, str]
    tables: tuple[PredictionTable, PredictionTable]
    values: tuple[Mapping[str, Result], Mapping[str, Result]]
    groups: Mapping[str, Mapping[str, str]]
    units: Mapping[str, str]

    @classmethod
    def of(cls, first: RunFolder, second: RunFolder) -> _PairedRows:
        if sha256_file(first.splits) != sha256_file(second.splits):
            raise DataError(
                f"{first.splits} and {second.splits} differ: only equal splits can be compared "
                "in pairs"
            )
        files = RunFiles(first), RunFiles(second)
        a, b = (one.predictions.select(part="test", input="image") for one in files)
        values = _values(files[0]), _values(files[1])
        folds = files[0].splits
        units = {name: unit_of(name, folds) for name in values[0]}
        return cls((first.path.name, second.path.name), (a, b), values, groups_of(folds), units)

    def under(self, protocol: str) -> tuple[PredictionTable, PredictionTable]:
        """The predictions under one protocol."""
        a, b = (table.select(protocol=protocol) for table in self.tables)
        return a, b

    @property
    def protocols(self) -> list[str]:
        """The protocols under which both arms have results."""
        return [name for name in PROTOCOLS if all(len(table) for table in self.under(name))]

    def pair(self, protocol: str, metric: str = ARM_METRICS[0]) -> PredictorPair:
        """The paired samples to compare under one protocol."""
        return PredictorPair.of_tables(*self.under(protocol), self.groups[protocol], metric)


def _row(two: _PairedRows, protocol: str, accuracy: Comparison, how: Sampling) -> ArmDifference:
    others = {name: paired_difference(two.pair(protocol, name), **how) for name in ARM_METRICS[1:]}
    differences = {ARM_METRICS[0]: accuracy.difference, **others}
    first, second = (values[protocol].metrics for values in two.values)
    return ArmDifference(
        first=two.names[0],
        second=two.names[1],
        protocol=protocol,
        n=accuracy.n,
        n_groups=accuracy.difference.n_groups,
        group_unit=two.units[protocol],
        confidence=round(how["confidence"], 6),
        first_values={name: first.get(name) for name in ARM_METRICS},
        second_values={name: second.get(name) for name in ARM_METRICS},
        differences={name: one.estimate for name, one in differences.items()},
        p=round(accuracy.p, 5),
        p_holm=round(accuracy.p_holm, 5),
        verdict=accuracy.verdict,
        pairs=Disagreement.model_validate(
            paired_tests(*two.under(protocol), two.groups[protocol]).to_json()
        ),
    )


def _values(files: RunFiles) -> dict[str, Result]:
    """Protocol → result of the one recipe of an arm."""
    return {row.protocol: row for row in files.metrics.results}


def arm_record(
    arm: Arm, run: RunFolder, changes: Mapping[str, tuple[JsonValue, JsonValue]] | None = None
) -> ArmRecord:
    """The entry of an arm in a comparison's file: folder and initial weights.

    The weights are those named by the first checkpoint, which may differ from those requested.
    ``changes`` are the settings that differ from the first arm.
    """
    recipe = arm.config.recipes[0]
    checkpoints = sorted((run.path / "models" / recipe.name).rglob("checkpoint.json"))
    if not checkpoints:
        raise DataError(f"{run.path}: no trained model of {recipe.name}", hint="run it again")
    weights = read_json(checkpoints[0])["weights"]
    return ArmRecord(
        name=arm.name,
        title=arm.title,
        weights=weights["source"],
        weights_sha256=weights["sha256"],
        changes=dict(changes or {}),
    )


def unreadable(data: Manifest) -> tuple[UnreadableImage, ...]:
    """Path and reason of each image that could not be read."""
    return tuple(
        UnreadableImage(path=str(data.root / path), reason=why) for path, why in data.unreadable
    )


def judge_arms(
    rows: Sequence[ArmDifference], first: str, second: str, gain: str, loss: str
) -> ArmsVerdict:
    """The verdict over all protocols: helps, harms, no difference shown, or it depends.

    ``gain`` is the headline if the first arm is better wherever a difference was shown, ``loss`` if
    it is worse.
    """
    from leukoscope.core.protocols import protocol_title
    from leukoscope.reporting.formats import lower_first

    level: ArmLevel
    verdicts = {row.verdict for row in rows}
    if verdicts >= {"better", "worse"}:
        level = "depends on the protocol"
        headline = f"{first} is better under some protocols and worse under others."
    elif "better" in verdicts:
        level, headline = "helps", gain
    elif "worse" in verdicts:
        level, headline = "harms", loss
    else:
        level = "no difference shown"
        headline = f"No difference in accuracy was shown between {lower_first(first)} and {second}."
    if level in ("helps", "harms") and "not distinguishable" in verdicts:
        shown = [row for row in rows if row.verdict != "not distinguishable"]
        where = "; ".join(protocol_title(row.protocol) for row in shown)
        headline = f"{headline} Shown under: {where}; not under the other protocols."
    return ArmsVerdict(
        level=level,
        headline=headline,
        sentences=tuple(_sentence(row, first, second) for row in rows),
    )


def _sentence(row: ArmDifference, first: str, second: str) -> str:
    from leukoscope.core.protocols import protocol_title
    from leukoscope.reporting.formats import difference, interval, lower_first, plural

    entry = row.differences["accuracy"]
    where = f"{protocol_title(row.protocol)} (n = {plural(row.n, 'image')})"
    pair = ", ".join(
        f"{lower_first(title)} {interval(values['accuracy'], 'accuracy')}"
        for title, values in ((first, row.first_values), (second, row.second_values))
    )
    text = f"{where}: {pair}; difference {difference(entry, 'accuracy')}"
    if not entry.reliable:
        groups = plural(row.n_groups, row.group_unit)
        return f"{text}: only {groups}, too few to tell."
    return f"{text}: {row.verdict}."
