"""A model of the cell types that have enough cells: ``python benchmarks/cell_types.py CSV RUN``.

Writes RUN.csv, a manifest whose label is the cell type, of the types with ``--least`` cells or
more; the label it had (a patient's diagnosis) becomes the column ``diagnosis``. Fits and tests with
whole patients held out, without audit, probes and perturbed images, which cost hours on a small
machine, and prints a table. What it leaves in RUN is enough for ``leukoscope count --run RUN``;
``python benchmarks/cell_types.py --counts FOLDER`` prints how well those counts agree with the
labels. The whole study is ``leukoscope study RUN.csv -r single-cell``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukoscope.config.counts import Agreement, CountsFile
from leukoscope.config.loading import save_study_config
from leukoscope.core.files import read_csv, write_csv
from leukoscope.core.labels import class_title
from leukoscope.core.records import save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.splits import make_splits
from leukoscope.evaluation.predictions import concatenate
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.fitting import fit_recipe
from leukoscope.pipeline.jobs import Labelled, calibrations_of_run
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.summary import summarise
from leukoscope.study.options import study_config
from patients import interval

COLUMNS = ("path", "label", "patient_id", "diagnosis")
METRICS = ("macro_f1", "accuracy", "balanced_accuracy", "roc_auc", "log_loss", "ece")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="path,label,patient_id,cell_type")
    parser.add_argument("run", nargs="?", type=Path, help="folder of the fits, beside RUN.csv")
    parser.add_argument("--counts", type=Path, help="print the agreement of these counts, no more")
    parser.add_argument("--least", type=int, default=100, help="fewest cells of a type")
    parser.add_argument("-r", "--recipe", default="single-cell")
    parser.add_argument("-s", "--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    if options.counts:
        print("\n".join(agreement(CountsFile.load(options.counts / "counts.json"))))
        return
    if options.data is None or options.run is None:
        parser.error("name the manifest and the folder of the fits, or --counts FOLDER")
    table = options.run.with_suffix(".csv")
    cells = write_types(options.data, table, options.least)
    print(f"{sum(cells.values()):,} cells of {len(cells)} types: {table}", file=sys.stderr)
    for line in lines(measure(table, options.run, options.recipe, options.overrides)):
        print(line)
    print(f"leukoscope count --run {options.run} --out counts", file=sys.stderr)


def write_types(data: Path, out: Path, least: int) -> dict[str, int]:
    """Write the manifest; cells of each type that is in it, the most frequent first."""
    rows = read_csv(data, required=("path", "label", "patient_id", "cell_type"))
    cells = Counter(row["cell_type"] for row in rows)
    kept = {name: n for name, n in cells.most_common() if name and n >= least}
    place = data.parent.resolve()
    own = (
        (str(place / row["path"]), row["cell_type"], row["patient_id"], row["label"])
        for row in rows
        if row["cell_type"] in kept
    )
    write_csv(out, COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in own))
    return kept


def measure(table: Path, out: Path, recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What a study says of the recipe, as in ``metrics.json``; its fits stay in ``out``."""
    manifest = load_dataset(table)
    config = study_config(
        table, recipes=[recipe], protocols=["grouped"], probes=[], overrides=overrides
    )
    run = RunFolder(out)
    images = Labelled(manifest.usable, manifest.class_names)
    folds = make_splits(manifest, "grouped", config.splits, seed=config.seed)
    save_study_config(run.config, config)
    manifest.save(run.manifest)
    save_folds(run.splits, folds, manifest)
    store = InputStore(run, manifest, images, Progress())
    tables = fit_recipe(run, store, config.recipes[0], folds, config.seed, Progress())
    known = calibrations_of_run(run, [recipe], folds)
    return summarise(concatenate(tables), folds, config, inapplicable=[], calibrations=known)


def lines(measured: Mapping[str, Any]) -> list[str]:
    """Markdown: the metrics, then a line a class."""
    entry = measured["results"][0]
    found = [
        f"| metric | value, {entry['n']:,} cells of {entry['n_groups']} patients |",
        "|---|---|",
    ]
    found += [f"| {name} | {interval(entry['metrics'][name])} |" for name in METRICS]
    found += ["", "| type | cells | found | of those named so, right |", "|---|---|---|---|"]
    confusion = entry["confusion"]
    for k, name in enumerate(measured["class_names"]):
        n, named, right = sum(confusion[k]), sum(row[k] for row in confusion), confusion[k][k]
        precision = f"{100 * right / named:.0f} %" if named else "—"
        found.append(f"| {class_title(name)} | {n} | {100 * right / n:.0f} % | {precision} |")
    return found


def agreement(counts: CountsFile) -> list[str]:
    """Markdown: blast shares against the labels, then a line a class; shares in points."""
    truth = counts.truth
    if truth is None or truth.blasts is None:
        raise SystemExit("these counts were not compared with labels")
    blasts = truth.blasts
    found = [
        "| | value |",
        "|---|---|",
        f"| mean absolute error of the blast share, points | {_error(blasts)} |",
        f"| blast shares that the 95 % interval holds, of {truth.patients} patients "
        f"| {100 * blasts.held:.1f} % |",
        f"| shares of all classes that it holds | {100 * truth.held:.1f} % |",
        f"| … that the interval of the classifier alone holds | {100 * truth.held_cells:.1f} % |",
        f"| bias of the blast share; limits of agreement | {_limits(blasts)} |",
        "",
        "| type | mean absolute error, points | bias; limits of agreement | interval holds |",
        "|---|---|---|---|",
    ]
    for one in truth.classes:
        cells = [class_title(one.class_name), _error(one), _limits(one), f"{100 * one.held:.0f} %"]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _error(agreed: Agreement) -> str:
    """Mean absolute error with its interval, in points."""
    error = agreed.mean_absolute_error
    return f"{_points(error.value)} ({_points(error.low)}–{_points(error.high)})"


def _limits(agreed: Agreement) -> str:
    """Bias and limits of agreement, in points."""
    low, high = _points(agreed.loa_low, "+"), _points(agreed.loa_high, "+")
    return f"{_points(agreed.bias, '+')}; {low} to {high}"


def _points(share: float | None, sign: str = "") -> str:
    return "—" if share is None else f"{100 * share:{sign}.1f}".replace("-", "−")


if __name__ == "__main__":
    main()
