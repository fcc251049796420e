"""Does a report foretell what its model does on patients nobody had?

Whole patients are taken away, the study runs on the rest, and its report is held against what the
final model then does on those taken away.

    python benchmarks/forecast.py run cnmc cnmc_2019 -r quick --out forecast
    python benchmarks/forecast.py run phantoms -r quick --out forecast
    python benchmarks/forecast.py run aria aria_all -r shallow --out forecast
    python benchmarks/forecast.py table --out forecast

``--statistics`` leaves the probes out, and with them the verdict, and takes a tenth of the time;
``--set splits.folds=10`` changes the study.

Audit, negative control, features and numbers of every image are computed once for the whole set; a
repetition takes the rows of the images that are left. Splits, fits, probes, statistics, verdict,
final model and its calibration are made anew by the code that every study runs. What is finished is
kept in ``--out``, so a stopped run goes on.

``cnmc``: 8 of 25 patients are taken away. ``phantoms``: 48 of 240 patients are kept, each of whom
has a stain, camera noise, cell size and chromatin grain of his own; the 192 others, and 400 who
are in no study, are new, so that the truth is known well. ``aria``: 4 of the 17 or so merged
acquisition clusters are taken away. Classes are taken in proportion, and every patient in turn.

What counts as what:

- *confidence interval*: does it hold the accuracy of the final model on all images of those taken
  away? With phantoms that is the mean over new patients; with real data it is itself the mean of
  a small sample, and a perfect interval for the mean would hold it less often than it says. *For
  the models of its folds*: the same for the mean over those models, whose answers the report is of.
- *cohort interval*: that of the report for the accuracy of so many new patients together (of the
  phantoms 12 of those taken away); it allows for their being few.
- *prediction interval*: the share of those taken away whose own accuracy lies inside.
- *bias*: estimate minus outcome; *of it training*: the mean outcome of the fold models minus that
  of the final model, on the same images, which is what training on fewer patients costs.
- *wrong verdicts*: ``plausible`` (also by clusters), where the model has an ROC AUC of at most .5
  on those taken away, or its accuracy there lies outside the cohort interval; ``unsafe`` for want
  of skill, where on those taken away the lower limit of the ROC AUC lies above .5; ``unsafe`` for
  a shortcut or a failed control with phantoms, where none was planted. On real data nobody knows
  whether there is a shortcut, and patients of the same laboratory cannot tell: such verdicts are
  counted apart. ``inconclusive`` promises nothing and is never wrong.
- *refused*: draws after which a class stands in fewer than two of the groups left, so that the
  study says that it cannot be run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forecast_sets import DESIGNS, POOL, SEED, PartAudit, PartStore, Whole, write_patients
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.study import StudyConfig
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.audit.run import Audit
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.forecast import forecasts
from leukoscope.evaluation.statistics.intervals import bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import weighted_metrics
from leukoscope.learning.checkpoint import load_head
from leukoscope.pipeline import perturbed
from leukoscope.pipeline.evidence import gather_evidence
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.fitting import HeadTrainer, job_seed, selects_settings, settled_recipe
from leukoscope.pipeline.folds import FINAL, ProtocolPlan, final_fold, plan_protocols
from leukoscope.pipeline.jobs import Labelled, calibrate_fits, part_rows, write_fit
from leukoscope.pipeline.probes import shortcut_tables
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.out_of_fold import UnseenImages
from leukoscope.pipeline.results.summary import summarise

METRICS: Final = ("accuracy", "roc_auc", "log_loss", "brier", "ece")


def repeat(whole: Whole, number: int, folder: Path, judged: bool = True) -> dict[str, Any]:
    """One repetition: the study on what is left, and its model on what was taken away."""
    start, taken = time.perf_counter(), whole.taken(number)
    away = np.array([whole.units[r.image_id] in set(taken) for r in whole.store.data.records])
    row = {
        "set": whole.name,
        "recipe": whole.config.recipes[0].name,
        "number": number,
        "taken": len(taken),
        "images": int((~away).sum()),
    }
    config = whole.config.model_copy(update={"seed": SEED + 1 + number})
    records = [r for r, gone in zip(whole.store.data.records, away, strict=True) if not gone]
    if {r.label for r in records} != set(whole.store.data.class_names):
        return row | {"refused": "a class is gone"}
    manifest = whole.audit.manifest.with_images(records)
    audit = PartAudit(**{**vars(whole.audit), "manifest": manifest})
    plan = plan_protocols(manifest, audit, config)
    if not plan.folds:
        return row | {"refused": plan.inapplicable[0]["reason"]}
    plan = replace(plan, folds=(*plan.folds, final_fold(manifest, config, plan.folds)))
    data = Labelled(tuple(records), whole.store.data.class_names)
    store = PartStore(
        RunFolder(folder),
        manifest,
        data,
        Progress(),
        parent=whole.store,
        parent_rows=np.flatnonzero(~away),
        degraded=whole.degraded,
    )
    # Those degraded images that are left, instead of others in each repetition.
    kept = np.flatnonzero(np.isin(store.mine, whole.degraded))
    setattr(perturbed, "perturbed_rows", lambda data, seed: kept)  # noqa: B010
    tables = fit_all(store, plan.folds, config)
    metrics = study(store, plan, tables, config, audit, whole.control if judged else None)
    tested = concatenate([t.select(part="test") for t in tables if t.protocol[0] != FINAL])
    groups = plan.folds[0].groups
    held = np.array([groups[image_id] for image_id in tested.image_id.tolist()])
    return (
        row
        | report_of(metrics, judged)
        | {"outcome": outcome(whole, store, plan, tested, held, taken, away)}
        | {"seconds": round(time.perf_counter() - start, 1)}
    )


def fit_all(
    store: InputStore, folds: Sequence[Fold], config: StudyConfig
) -> list[PredictionTable]:  # fmt: skip
    """As ``fit_recipe``, without the gate for foreign images, which takes no part in this."""
    recipe = config.recipes[0]
    features = store.features(recipe, "image", config.seed)
    trainer = HeadTrainer.of(store, recipe, features, store.data, config.seed)

    def folder_of(fold: Fold) -> Path:
        return store.run.model(recipe.name, fold.protocol, fold.fold)

    tables = []
    for fold in folds:
        own, folder = trainer, folder_of(fold)
        if fold.protocol == FINAL and selects_settings(recipe):
            known = [folder_of(other) for other in folds if other.protocol != FINAL]
            own = replace(trainer, recipe=settled_recipe(recipe, known))
        seed = job_seed(config.seed, recipe.name, fold.protocol, fold.fold)
        logits = own.fit(part_rows(store.data, fold), folder, seed, lambda done, total: None)
        tables.append(write_fit(store.data, fold, recipe.name, "image", folder, logits))
    return calibrate_fits(folds, tables, folder_of, PROTOCOLS)


def study(
    store: InputStore,
    plan: ProtocolPlan,
    tables: list[PredictionTable],
    config: StudyConfig,
    audit: Audit,
    control: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Probes, statistics and verdict, as ``run_study`` makes them; without a control no probes."""
    if control is None:
        return summarise(
            concatenate(tables), plan.folds, config, inapplicable=plan.inapplicable, evidence=None
        )
    progress = Progress()
    probes = shortcut_tables(store, audit.passport, plan, config, progress)
    undrawn = config.model_copy(update={"control_draws": 0})  # that of the whole set stands for it
    evidence = gather_evidence(store, plan, undrawn, audit.passport, progress)
    return summarise(
        concatenate([*tables, *probes]),
        plan.folds,
        config,
        inapplicable=plan.inapplicable,
        evidence=replace(evidence, control=control),
    )


def report_of(metrics: Mapping[str, Any], judged: bool) -> dict[str, Any]:
    """What a reader of the report is told."""
    entry, verdict = metrics["results"][0], metrics["verdict"]
    found = {
        "groups": entry["n_groups"],
        "estimate": {name: entry["metrics"][name] for name in METRICS},
        "next_unit": entry["next_unit"],
    }
    if not judged:
        return found
    return found | {
        "level": verdict["level"],
        "control": (metrics["control"] or {}).get("passed"),
        "sources": {row["source"]: row["status"] for row in verdict["sources"]},
        "headline": verdict["headline"],
    }


def outcome(
    whole: Whole,
    store: InputStore,
    plan: ProtocolPlan,
    tested: PredictionTable,
    held: NDArray[np.str_],
    taken: Sequence[str],
    away: NDArray[np.bool_],
) -> dict[str, Any]:
    """What the final model does on those taken away, calibrated as a bundle is."""
    recipe, class_names = whole.config.recipes[0], whole.store.data.class_names
    features, y, ids, units_of = whole.shown(away)
    calibration, _, _ = UnseenImages(
        whole.design.protocol, tested, held, None, whole.config
    ).decide(tested.logits)
    folders = [store.run.model(recipe.name, f.protocol, f.fold) for f in plan.folds]
    logits = {folder: load_head(folder)(features) for folder in folders}
    probs = apply_calibration(logits.pop(store.run.model(recipe.name, FINAL, 0)), calibration)
    units = np.array(units_of)
    of_folds = [float((one.argmax(axis=1) == y).mean()) for one in logits.values()]
    low = bootstrap_metrics(y, probs, class_names, groups=units, names=["roc_auc"], replicates=500)[
        "roc_auc"
    ].low
    hit = probs.argmax(axis=1) == y
    chosen = np.isin(units, taken[: whole.design.cohort or len(taken)])
    return {
        **values(y, probs, class_names),
        "roc_auc_low": None if np.isnan(low) else low,
        "of_folds": float(np.mean(of_folds)),
        "forecast": forecast_of(
            tested, held, np.array(ids)[chosen], y[chosen], probs[chosen], units[chosen].tolist()
        ),
        "units": {
            str(unit): [round(float(hit[units == unit].mean()), 4), int((units == unit).sum())]
            for unit in np.unique(units)
        },
    }


def forecast_of(
    tested: PredictionTable,
    held: NDArray[np.str_],
    ids: NDArray[np.str_],
    y: NDArray[np.int64],
    probs: NDArray[np.float64],
    units: list[str],
) -> dict[str, Any]:
    """Internal beside external, as ``study --external`` puts it."""
    new = PredictionTable.build(
        tested.class_names,
        ids,
        probs,
        recipe="",
        protocol="external",
        fold=0,
        part="test",
        y_true=y,
    )
    found = {
        name: Estimate(value=value, low=None, high=None)
        for name, value in values(y, probs, new.class_names).items()
    }
    how = {"replicates": 500, "confidence": 0.95, "seed": SEED}
    return forecasts(tested, held.tolist(), "unit", new, units, "unit", found, how=how)


def values(
    y: NDArray[np.int64], probs: NDArray[np.float64], class_names: Sequence[str]
) -> dict[str, float | None]:
    """Metrics of some images; None where a class that is needed is absent."""
    found = weighted_metrics(y, probs, class_names, np.ones((1, len(y))), METRICS)
    return {name: None if np.isnan(v[0]) else float(v[0]) for name, v in found.items()}


def run(options: argparse.Namespace) -> None:
    """All repetitions of one set and recipe; finished ones are skipped."""
    warnings.simplefilter("ignore")
    out: Path = options.out.resolve()
    data = options.data
    if options.set == "phantoms":
        data = write_patients(out / "phantoms" / "pool", POOL)
    judged, changed = not options.statistics, options.changed
    whole = Whole.of(options.set, data, options.recipe, out, changed, judged)
    kind = [] if judged else ["statistics"]
    target = out / f"{'-'.join([options.set, options.recipe, *changed, *kind])}.jsonl"
    done = {row["number"] for row in read_rows(target)}
    for number in range(options.repetitions):
        if number in done:
            continue
        folder = Path(tempfile.mkdtemp(dir=out))
        try:
            row = repeat(whole, number, folder, judged) | {"changed": changed}
        finally:
            shutil.rmtree(folder)
        with target.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(number, row.get("refused", row.get("level", "")), row.get("seconds"), flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The finished repetitions of one set and recipe."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("run")
    one.add_argument("set", choices=sorted(DESIGNS))
    one.add_argument("data", type=Path, nargs="?", help="not for phantoms, which are drawn")
    one.add_argument("-r", "--recipe", default="quick")
    one.add_argument(
        "-s", "--set", action="append", default=[], dest="changed", metavar="KEY=VALUE"
    )
    one.add_argument("--statistics", action="store_true", help="no probes, and so no verdict")
    one.add_argument("--repetitions", type=int, default=40)
    one.add_argument("--out", type=Path, required=True, help="folder for what is finished")
    parts.add_parser("table").add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.part == "run":
        run(options)
    else:
        from forecast_table import tables

        names = sorted(options.out.glob("*-*.jsonl"))
        print("\n".join(tables([read_rows(path) for path in names])))


if __name__ == "__main__":
    main()
