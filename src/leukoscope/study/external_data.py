"""A study's own bundle on other data: is what comes out inside the study's forecast?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_file, write_json
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import Fold, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layout_tables import MANIFEST_NAME
from leukoscope.datasets.layouts import inspect_dataset
from leukoscope.evaluation.forecast import forecasts
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.study.entries import sampling
from leukoscope.study.events import Progress
from leukoscope.study.examined import units_of_data
from leukoscope.study.external import evaluate_bundle
from leukoscope.study.protocols import groups_of, strictest, unit_of

RECORD = "evaluated.json"


def check_external(config: StudyConfig, class_names: Sequence[str]) -> None:
    """Refuse other data that the study's bundle could not be measured on, before any training.

    Raises:
        DataError: No class can be compared.
        LayoutError: A folder has no known layout.
    """
    for data in config.external:
        found = inspect_dataset(data.path, layout=data.layout, class_map=data.class_map)
        labels = {row.label for row in found.folders if row.label and row.images}
        both_kinds = len({CLASSES[name].malignant for name in class_names}) == 2
        if not labels & set(class_names) and not (labels and both_kinds):
            raise DataError(
                f"{data.path}: its classes ({', '.join(sorted(labels)) or 'none'}) cannot be "
                f"compared with those of the study ({', '.join(class_names)})",
                hint="--class FOLDER=CLASS says what a folder stands for, in both data sets",
            )


def names_of(external: Sequence[DataConfig]) -> list[str]:
    """A name for each data set, of its folder or manifest; unique.

    >>> names_of([DataConfig(path=p) for p in ("/a/cells", "/b/cells.csv", "/c/manifest.csv")])
    ['cells', 'cells-2', 'c']
    """
    names: list[str] = []
    for data in external:
        path = Path(data.path)
        stem = path.stem if path.suffix.lower() == ".csv" else path.name
        if path.name == MANIFEST_NAME:  # which says nothing
            stem = path.parent.name
        taken = sum(name == stem or name.startswith(f"{stem}-") for name in names)
        names.append(f"{stem}-{taken + 1}" if taken else stem)
    return names


def evaluate_external(
    run: RunFolder,
    config: StudyConfig,
    metrics: dict[str, Any],
    folds: Sequence[Fold],
    progress: Progress,
) -> tuple[tuple[str, str], ...]:
    """Measure the study's bundle on every other data set; adds ``external`` to ``metrics.json``.

    What an earlier run measured with the same bundle is read, not measured again. Images, names
    and results of the other data go to ``external/<name>`` and never into the bundle.

    Returns:
        Path and reason of each image of the other data that could not be read.
    """
    entries, unreadable = [], []
    for name, data in zip(names_of(config.external), config.external, strict=True):
        folder = RunFolder(run.external / name)
        with progress.step(f"external data: {name}"):
            found = _measured(run, folder, data, progress)
        entries.append(_entry(run, config, metrics, folds, name, folder, found))
        manifest = Manifest.load(folder.manifest, data.root)
        unreadable += [(f"{name}/{path}", reason) for path, reason in manifest.unreadable]
    metrics["external"] = entries
    write_json(run.metrics, metrics)
    return tuple(unreadable)


def _measured(
    run: RunFolder, folder: RunFolder, data: DataConfig, progress: Progress
) -> dict[str, Any]:
    """The content of ``external/<name>/metrics.json``."""
    record = folder.path / RECORD
    behind = {
        "bundle": sha256_file(run.bundle / "bundle.json"),
        "data": data.model_dump(mode="json"),
    }
    if record.is_file() and read_json(record) == behind:
        kept: dict[str, Any] = read_json(folder.metrics)
        return kept
    found = evaluate_bundle(
        run.bundle, Path(data.path), folder.path, layout=data.layout,
        class_map=dict(data.class_map), listener=progress.listener,
    )  # fmt: skip
    write_json(record, behind)  # last: what is there is complete
    return found.metrics


def _entry(
    run: RunFolder,
    config: StudyConfig,
    metrics: Mapping[str, Any],
    folds: Sequence[Fold],
    name: str,
    folder: RunFolder,
    found: Mapping[str, Any],
) -> dict[str, Any]:
    (result,) = found["results"]
    recipe = config.recipes[0].name
    known = [row["protocol"] for row in metrics["results"] if row["recipe"] == recipe]
    protocol = strictest(known) or known[0]
    inside = PredictionTable.load(run.predictions).select(
        recipe=recipe, protocol=protocol, input="image", part="test"
    )
    units = groups_of(folds)[protocol]
    outside = PredictionTable.load(folder.predictions)
    _, new_units = units_of_data(Manifest.load(folder.manifest, run.path).usable)
    return {
        "data": name,
        "folder": f"{run.external.name}/{name}",
        **{key: result[key] for key in ("n", "n_groups", "group_unit", "metrics", "confusion")},
        "class_names": list(found["class_names"]),
        "decisions": found["decisions"],
        "warnings": list(found["warnings"]),
        "internal": {"recipe": recipe, "protocol": protocol},
        "forecast": forecasts(
            inside,
            [units.get(i, i) for i in inside.image_id.tolist()],
            unit_of(protocol, folds),
            outside,
            [new_units[i] for i in outside.image_id.tolist()],
            result["group_unit"],
            result["metrics"],
            how=sampling(config),
        ),
    }
