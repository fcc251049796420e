"""A study's external data: its bundle measured on them, beside what the study foretold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leukoscope.config.metrics.file import (
    EvaluationMetrics,
    StudyMetrics,
    load_evaluation,
    study_metrics,
)
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.files import read_json, sha256_file, write_json
from leukoscope.core.protocols import strictest
from leukoscope.core.records import Fold, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.forecast import forecasts
from leukoscope.pipeline.folds import groups_of, unit_of
from leukoscope.pipeline.measured import units_of_data
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.entries import sampling
from leukoscope.study.bundle_evaluation import evaluate_bundle
from leukoscope.study.comparable import names_of

RECORD = "evaluated.json"


def evaluate_external(
    run: RunFolder,
    config: StudyConfig,
    metrics: StudyMetrics,
    folds: Sequence[Fold],
    progress: Progress,
) -> tuple[StudyMetrics, tuple[tuple[str, str], ...]]:
    """Measure the study's bundle on every other data set; adds ``external`` to ``metrics.json``.

    What an earlier run measured with the same bundle is read, not measured again. Images, names
    and results of the other data go to ``external/<name>`` and never into the bundle.

    Returns:
        The new content of ``metrics.json``; path and reason of each image of the other data that
        could not be read.
    """
    entries, unreadable = [], []
    for name, data in zip(names_of(config.external), config.external, strict=True):
        folder = RunFolder(run.external / name)
        with progress.step(f"external data: {name}"):
            found = _measured(run, folder, data, progress)
        entries.append(_entry(run, config, metrics, folds, name, folder, found))
        manifest = Manifest.load(folder.manifest, data.root)
        unreadable += [(f"{name}/{path}", reason) for path, reason in manifest.unreadable]
    metrics = study_metrics({**metrics.to_json(), "external": entries})
    metrics.save(run.metrics)
    return metrics, tuple(unreadable)


def _measured(
    run: RunFolder, folder: RunFolder, data: DataConfig, progress: Progress
) -> EvaluationMetrics:
    """The content of ``external/<name>/metrics.json``."""
    record = folder.path / RECORD
    behind = {
        "bundle": sha256_file(run.bundle / "bundle.json"),
        "data": data.model_dump(mode="json"),
    }
    if record.is_file() and read_json(record) == behind:
        return load_evaluation(folder.metrics)
    found = evaluate_bundle(
        run.bundle, Path(data.path), folder.path, layout=data.layout,
        class_map=dict(data.class_map), roles=data.roles, listener=progress.listener,
        target=data.target,
    )  # fmt: skip
    write_json(record, behind)  # last: what is there is complete
    return found.metrics


def _entry(
    run: RunFolder,
    config: StudyConfig,
    metrics: StudyMetrics,
    folds: Sequence[Fold],
    name: str,
    folder: RunFolder,
    found: EvaluationMetrics,
) -> dict[str, object]:
    (result,) = found.results
    recipe = config.recipes[0].name
    known = [row.protocol for row in metrics.results if row.recipe == recipe]
    protocol = strictest(known) or known[0]
    inside = PredictionTable.load(run.predictions).select(
        recipe=recipe, protocol=protocol, input="image", part="test"
    )
    units = groups_of(folds)[protocol]
    outside = PredictionTable.load(folder.predictions)
    if config.unit == "patient":
        new_units = {name: name for name in outside.image_id.tolist()}
    else:
        _, new_units = units_of_data(Manifest.load(folder.manifest, run.path).usable)
    return {
        "data": name,
        "folder": f"{run.external.name}/{name}",
        **result.model_dump(
            mode="json", include={"n", "n_groups", "group_unit", "metrics", "confusion"}
        ),
        "class_names": list(found.class_names),
        "decisions": found.decisions.model_dump(mode="json"),
        **found.model_dump(mode="json", include={"subgroups"}, exclude_none=True),
        "warnings": list(found.warnings),
        "internal": {"recipe": recipe, "protocol": protocol},
        "forecast": forecasts(
            inside,
            [units.get(i, i) for i in inside.image_id.tolist()],
            unit_of(protocol, folds),
            outside,
            [new_units[i] for i in outside.image_id.tolist()],
            result.group_unit,
            result.metrics,
            how=sampling(config),
        ),
    }
