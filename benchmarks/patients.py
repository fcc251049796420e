"""Recipes for patients beside the share of each cell type: ``python benchmarks/patients.py CSV``.

Fits and tests with whole patients held out, without audit, probes and perturbed images, which on
some thousand cells cost hours on a small machine; features are kept in ``--cache``. Prints a table.

With ``--cells N --out FEW.csv`` it draws at most N cells of each patient instead, for a whole study
of them: ``leukoscope study FEW.csv --unit patient``.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukoscope.core.files import read_csv, write_csv
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.splits import make_splits
from leukoscope.evaluation.predictions import concatenate
from leukoscope.pipeline.features.patient_store import PatientStore, cell_shares
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.fitting import fit_recipe
from leukoscope.pipeline.folds import study_rows
from leukoscope.pipeline.jobs import (
    Labelled,
    calibrate_fits,
    calibrations_of_run,
    part_rows,
    write_fit,
)
from leukoscope.pipeline.probes import plain_logits
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.summary import summarise
from leukoscope.reporting.formats import metric_title
from leukoscope.study.options import study_config

RECIPES = ("patient-spread", "patient-mean", "patient-attention")
SHARES = "cell-share"
METRICS = ("roc_auc", "accuracy", "balanced_accuracy", "log_loss", "ece")


@dataclass(frozen=True)
class _Typed:
    """An image of which only the cell type matters."""

    cell_type: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="manifest with path,label,patient_id,cell_type")
    parser.add_argument("--cache", type=Path, default=Path("runs/patients"))
    parser.add_argument("--cells", type=int, help="draw so many cells of each patient, and stop")
    parser.add_argument("--out", type=Path, default=Path("few.csv"), help="manifest of these")
    arguments = parser.parse_args()
    if arguments.cells:
        draw_cells(arguments.data, arguments.cells, arguments.out)
        return
    for line in table(measure(arguments.data, arguments.cache)):
        print(line)


def draw_cells(data: Path, most: int, out: Path) -> None:
    """Write a manifest with at most ``most`` cells of each patient, drawn with seed 0."""
    own: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(data):
        own.setdefault(row["patient_id"], []).append(row)
    rng = random.Random(0)
    drawn = [row for rows in own.values() for row in rng.sample(rows, min(most, len(rows)))]
    place = data.parent.resolve()
    columns = ("path", "label", "patient_id", "cell_type")
    write_csv(out, columns, ({**row, "path": str(place / row["path"])} for row in drawn))


def measure(data: Path, cache: Path) -> dict[str, Any]:
    """What a study says of the recipes and of the shares, as in ``metrics.json``."""
    manifest = load_dataset(data)
    config = study_config(
        data, unit="patient", recipes=RECIPES, protocols=["grouped"], overrides=["bootstrap=500"]
    )
    run = RunFolder(cache)
    images = Labelled(manifest.usable, manifest.class_names)
    store = PatientStore.of(InputStore(run, manifest, images, Progress()))
    rows = study_rows(manifest, config)
    folds = make_splits(rows, "grouped", config.splits, seed=config.seed)
    tables = []
    for recipe in config.recipes:
        tables += fit_recipe(run, store, recipe, folds, config.seed, Progress())
    types = {row["path"]: row["cell_type"] for row in read_csv(data)}
    typed: Any = tuple(_Typed(types[record.path]) for record in manifest.usable)
    values = cell_shares(typed, store.patients)

    def folder(fold: Any) -> Path:
        return run.cache / SHARES / f"fold{fold.fold}"

    counted = []
    for fold in folds:
        logits = plain_logits(values, store.data, part_rows(store.data, fold))
        counted.append(write_fit(store.data, fold, SHARES, SHARES, folder(fold), logits))
    tables += calibrate_fits(folds, counted, folder)
    known = calibrations_of_run(run, RECIPES, folds)
    return summarise(concatenate(tables), folds, config, inapplicable=[], calibrations=known)


def table(measured: Mapping[str, Any]) -> list[str]:
    """Markdown: one line a recipe, and one for the shares."""
    lines = [
        f"| what | {' | '.join(map(metric_title, METRICS))} | right by class | next 20 patients |"
    ]
    lines.append("|---" * (len(METRICS) + 3) + "|")
    for entry in (*measured["results"], *measured["probes"]):
        cells = [interval(entry["metrics"][name]) for name in METRICS]
        confusion = entry.get("confusion", [])
        right = ", ".join(f"{row[k]} of {sum(row)}" for k, row in enumerate(confusion))
        following = entry.get("next_unit", {})
        expected = interval(following) if "low" in following else "—"
        what = entry.get("probe", entry["recipe"])
        lines.append(f"| `{what}` | {' | '.join(cells)} | {right or '—'} | {expected} |")
    return lines


def interval(found: Mapping[str, float]) -> str:
    """A value with its limits."""
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


if __name__ == "__main__":
    main()
