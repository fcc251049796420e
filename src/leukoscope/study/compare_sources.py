"""What ``compare`` reads: test predictions of runs, finished or not, and how they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukoscope.config.loading import load_study_config
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.core.records import Fold, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.study.protocols import UNITS, groups_of


@dataclass(frozen=True)
class Source:
    """One run's files.

    Attributes:
        name: Of the run, unique among those that are compared.
        run: Its folder.
        config: How it was made.
        manifest: Its images.
        folds: Its splits.
        table: Labelled test predictions from whole images, complete protocols only.
        finished: Whether ``predictions.csv`` was there.
        notes: What a reader must know of it.
    """

    name: str
    run: RunFolder
    config: StudyConfig
    manifest: Manifest
    folds: Sequence[Fold]
    table: PredictionTable
    finished: bool
    notes: tuple[str, ...]

    @property
    def recipes(self) -> list[str]:
        """Names of the recipes with results, in the order of the run."""
        order = [recipe.name for recipe in self.config.recipes]
        found = list(dict.fromkeys(self.table.recipe.tolist()))
        return sorted(found, key=lambda r: order.index(r) if r in order else len(order))

    def recipe(self, name: str) -> Recipe | None:
        """A recipe in full; None for what a later step (an ensemble) added."""
        return next((recipe for recipe in self.config.recipes if recipe.name == name), None)

    def groups(self, protocol: str) -> dict[str, str]:
        """Image id → unit that intervals resample."""
        return groups_of(self.folds).get(protocol, {})


def read_sources(paths: Sequence[Path]) -> tuple[list[Source], list[dict[str, Any]]]:
    """Read runs of ``study`` and ``train``, and outputs of ``evaluate``.

    Returns:
        The runs, and what the outputs of ``evaluate`` say.

    Raises:
        DataError: A folder is neither, or a file is missing or damaged; names it.
    """
    names = _unique_names(paths)
    sources, external = [], []
    for path, name in zip(paths, names, strict=True):
        run = RunFolder(Path(path))
        if run.config.is_file():
            sources.append(_read_run(run, name))
        elif run.metrics.is_file() and run.predictions.is_file():
            external.append(_read_evaluation(run, name))
        else:
            raise DataError(
                f"{path}: expected the folder of a study or training run (config.toml, splits.csv) "
                "or the output of evaluate (metrics.json, predictions.csv), found "
                f"{'neither' if run.path.is_dir() else 'no such folder'}",
                hint="name the folder that was given to --out",
            )
    if not sources:
        raise DataError(
            "only outputs of evaluate were given; there is no study to compare",
            hint="name at least one folder of `leukoscope study` or `leukoscope train`",
        )
    return sources, external


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many parents as it takes to tell them apart."""
    resolved = [Path(path).expanduser().resolve() for path in paths]
    twice = [str(path) for path, n in Counter(resolved).items() if n > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice", hint="name each run once")
    for depth in range(1, max(len(path.parts) for path in resolved)):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(run: RunFolder, name: str) -> Source:
    config = load_study_config(run.config)
    for path in (run.manifest, run.splits):
        if not path.is_file():
            raise DataError(
                f"{path}: this file is missing: the run has not come as far as its splits",
                hint="wait for it, or go on with it: leukoscope study --out … --resume",
            )
    folds = load_folds(run.splits)
    finished = run.predictions.is_file()
    table, notes = _test_rows(_predictions(run, finished), folds)
    if not finished:
        notes.insert(0, f"{name} is not finished: only fits that had ended are compared.")
    said = tuple(f"{name}: {note}" if not note.startswith(name) else note for note in notes)
    manifest = Manifest.load(run.manifest, config.data.root)
    return Source(name, run, config, manifest, folds, table, finished, said)


def _predictions(run: RunFolder, finished: bool) -> PredictionTable:
    if finished:
        return PredictionTable.load(run.predictions)
    files = sorted((run.path / "models").glob("*/*/fold*/predictions.csv"))
    if not files:
        raise DataError(
            f"{run.path}: no predictions.csv, and no fit below models has ended",
            hint="wait for the first fit, or go on with it: leukoscope study --out … --resume",
        )
    return concatenate([PredictionTable.load(path) for path in files])


def _test_rows(table: PredictionTable, folds: Sequence[Fold]) -> tuple[PredictionTable, list[str]]:
    """Labelled test rows from whole images under protocols whose folds have all ended."""
    table = table.select(part="test", input="image", protocol=list(UNITS))
    expected: dict[str, set[int]] = {}
    for fold in folds:
        expected.setdefault(fold.protocol, set()).add(fold.fold)
    keep = table.y_true >= 0
    notes = []
    for recipe, protocol in sorted(
        {*zip(table.recipe.tolist(), table.protocol.tolist(), strict=True)}
    ):
        rows = (table.recipe == recipe) & (table.protocol == protocol)
        missing = expected.get(protocol, set()) - set(table.fold[rows].tolist())
        if missing:
            keep &= ~rows
            notes.append(
                f"{recipe} under {protocol} is left out: "
                f"{len(missing)} of {len(expected[protocol])} folds have not ended."
            )
    return table.take(keep), notes


def _read_evaluation(run: RunFolder, name: str) -> dict[str, Any]:
    metrics = read_json(run.metrics)
    results = metrics.get("results") if isinstance(metrics, dict) else None
    if not results or results[0].get("protocol") != "external":
        raise DataError(
            f"{run.metrics}: expected one result under the protocol external",
            hint="name the folder that `leukoscope evaluate … --out` wrote",
        )
    entry = results[0]
    return {
        "name": name,
        "class_names": metrics["class_names"],
        **{key: entry[key] for key in ("n", "n_groups", "group_unit", "metrics", "confusion")},
        "decisions": (metrics.get("decisions") or {}).get("share", {}),
        "warnings": list(metrics.get("warnings", ())),
    }
