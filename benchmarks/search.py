"""Try recipes on a development set: the training images of one fold, split again by its groups.

The test images of that fold are in no development set, so that nothing tried here has seen them.

python benchmarks/search.py prepare DATA PROTOCOL DEVELOPMENT [--unit patient]
python benchmarks/search.py try DEVELOPMENT NAME -r RECIPE -p PROTOCOL [--set KEY=VALUE ...]
python benchmarks/search.py heads DEVELOPMENT NAME -r RECIPE -p PROTOCOL [--set KEY=VALUE ...] \
    --head 'SUFFIX KEY=VALUE ...' [--head ...]
python benchmarks/search.py table DEVELOPMENT [DEVELOPMENT ...] > docs/results/search_log.md
python benchmarks/search.py outside RUN PROTOCOL DEVELOPMENT
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.arms import Arm, check_arm
from leukoscope.config.study import StudyConfig
from leukoscope.core.files import read_csv, read_json, write_csv, write_json
from leukoscope.core.protocols import strictest
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.patient_heads import bag_logits
from leukoscope.evaluation.statistics.intervals import bootstrap_metrics
from leukoscope.pipeline.features.patient_store import PatientStore, open_store
from leukoscope.pipeline.features.store import InputStore, Wanted
from leukoscope.pipeline.fitting import job_seed
from leukoscope.pipeline.folds import plan_protocols, study_rows
from leukoscope.pipeline.jobs import Labelled, part_rows
from leukoscope.pipeline.linear_fits import linear_logits, read_beside
from leukoscope.pipeline.patient_fitting import PatientTrainer, load_head_of
from leukoscope.pipeline.progress import Progress
from leukoscope.study.options import study_config
from leukoscope.study.run import audited, audited_in, run_study

MANIFEST, AUDITED = "development.csv", "audited"
COLUMNS = ("path", "label", "patient_id")
METRICS = ("accuracy", "weighted_f1", "macro_f1", "roc_auc", "ece")
SEEN = ("train", "val")
INTRODUCTION = """# Search log

The attempts of `python benchmarks/search.py try` and `heads`. They are not all that was tried:
about 250 combinations were compared before by a script that was not kept (decision 18), and a few
runs were lost (decision 12). A development set is the training and validation images of fold 0; the
test images of that fold are in none. It is split again by its groups, three folds pooled; in
brackets 95 % intervals that resample whole groups, from 200 replicates. One seed unless the name
says another. Test images of the other folds are among these images, so scores over all folds are
not free of this choice.

Blur, JPEG and the least of the three areas are the criterion of decision 25. Attempts of `heads`
are not calibrated, so that they have no ECE, and their areas, of logits pooled over folds, are not
to be compared with those of `try`. `single-cell` in a command is the recipe as it was then: the
third level alone at 336 px.
"""
DAMAGE = ("blur-1", "jpeg-85")
"""What an attempt must survive, see docs/decisions/0025-what-a-choice-must-survive.md."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("prepare")
    add.add_argument("data", type=Path)
    add.add_argument("protocol")
    add.add_argument("out", type=Path)
    add.add_argument("--unit", choices=["image", "patient"], default="image")
    add.set_defaults(work=prepare)
    add = commands.add_parser("try")
    add.add_argument("out", type=Path)
    add.add_argument("name")
    add.add_argument("-r", "--recipe", required=True)
    add.add_argument("-p", "--protocol", action="append", required=True)
    add.add_argument("-s", "--set", action="append", default=[], dest="overrides")
    add.add_argument("--probe", action="append", default=[])
    add.add_argument("--folds", type=int, default=3)
    add.add_argument("--seed", type=int, default=42)
    add.set_defaults(work=attempt)
    add = commands.add_parser("heads")
    add.add_argument("out", type=Path)
    add.add_argument("name")
    add.add_argument("-r", "--recipe", required=True)
    add.add_argument("-p", "--protocol", required=True)
    add.add_argument("-s", "--set", action="append", default=[], dest="overrides")
    add.add_argument("--head", action="append", required=True, help="suffix and settings")
    add.add_argument("--folds", type=int, default=3)
    add.add_argument("--seed", type=int, default=42)
    add.set_defaults(work=heads)
    add = commands.add_parser("table")
    add.add_argument("out", type=Path, nargs="+")
    add.set_defaults(work=table)
    add = commands.add_parser("outside")
    add.add_argument("run", type=Path)
    add.add_argument("protocol")
    add.add_argument("development", type=Path)
    add.set_defaults(work=outside)
    options = parser.parse_args()
    options.work(options)


def prepare(options: argparse.Namespace) -> None:
    """Write the development set's manifest, and audit it once for all attempts."""
    patients = options.unit == "patient"
    config = study_config(
        options.data, recipes=["quick"], protocols=[options.protocol], probes=[],
        unit=options.unit, folds=5,
    )  # fmt: skip
    found = audited(config, _tell)
    parts = plan_protocols(study_rows(found.manifest, config), found, config).folds[0].parts
    rows = [
        {
            "path": str(found.manifest.path_of(record).resolve()),
            "label": record.label,
            "patient_id": record.patient_id,
        }
        for record in found.manifest.usable
        if parts.get(record.patient_id if patients else record.image_id) in SEEN
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / MANIFEST, COLUMNS, rows)
    command = f"prepare DATA {options.protocol} DEVELOPMENT --unit {options.unit}"
    about = {
        "protocol": options.protocol,
        "images": len(rows),
        "unit": options.unit,
        "command": command,
    }
    write_json(options.out / "about.json", about)
    config = study_config(options.out.resolve() / MANIFEST, probes=[])
    check_arm(Arm(AUDITED, AUDITED, config), options.out, _tell)
    print(f"{len(rows)} images of the training part of fold 0 of {options.protocol}")


def _data_root(run: RunFolder) -> str:
    from leukoscope.config.loading import load_study_config

    return str(load_study_config(run.config).data.root)


def attempt(options: argparse.Namespace) -> None:
    """Run one attempt, or go on with it, and note its figures."""
    out = options.out.resolve()
    config = _config(options, out, options.overrides)
    run = RunFolder(out / options.name)
    _share_cache(run, out)
    if not run.config.is_file():
        from leukoscope.config.loading import save_study_config

        save_study_config(run.config, config)
    start = time.perf_counter()
    metrics = run_study(
        config, run.path, resume=True, report=False, listener=_tell
    ).metrics.to_json()
    note = {
        "command": shlex.join(["try", "DEVELOPMENT", *sys.argv[3:]]),
        "seconds": round(time.perf_counter() - start),
        "criterion": criterion(metrics, options.protocol),
        "results": [
            {
                "recipe": row.get("recipe"),
                "what": row.get("probe", "model"),
                "protocol": row["protocol"],
                "n": row["n"],
                "n_groups": row["n_groups"],
                **{name: row["metrics"].get(name) for name in METRICS},
            }
            for row in (*metrics["results"], *metrics["probes"])
        ],
    }
    write_json(run.path / "attempt.json", note)
    print(options.name, note["criterion"])
    for row in note["results"]:
        shown = {name: _cell(row[name]) for name in METRICS}
        print(options.name, row["what"], row["protocol"], shown, f"{note['seconds']} s")


def _config(options: argparse.Namespace, out: Path, overrides: Sequence[str]) -> StudyConfig:
    """The study of one attempt."""
    protocols = options.protocol
    return study_config(
        out / MANIFEST,
        recipes=[options.recipe],
        protocols=[protocols] if isinstance(protocols, str) else protocols,
        probes=getattr(options, "probe", []),
        overrides=[*overrides, "bootstrap=200", "bundle=false", "splits.cluster_curve=[]"],
        unit=read_json(out / "about.json").get("unit", "image"),
        folds=options.folds,
        seed=options.seed,
    )


def _share_cache(run: RunFolder, out: Path) -> None:
    """Let a run use audit and features of the development set's other runs."""
    run.cache.mkdir(parents=True, exist_ok=True)
    for name in ("audit", "features"):
        shared = out / AUDITED / run.cache.relative_to(run.path) / name
        shared.mkdir(exist_ok=True)
        if not (run.cache / name).exists():
            (run.cache / name).symlink_to(shared)


def heads(options: argparse.Namespace) -> None:
    """Fit several linear heads on the features of one network; each is an attempt of its own.

    All test images are damaged, and nothing is calibrated, so that an attempt has no ECE.
    """
    out, fits = options.out.resolve(), []
    for spec in options.head:
        suffix, *settings = spec.split()
        config = _config(options, out, [*options.overrides, *settings])
        fits.append((f"{options.name}-{suffix}", spec, config))
    run = RunFolder(out / "heads" / options.name)
    _share_cache(run, out)
    found = audited_in(run, fits[0][2], Progress(_tell))
    plan = plan_protocols(study_rows(found.manifest, fits[0][2]), found, fits[0][2])
    store = open_store(run, found.manifest, fits[0][2], Progress(_tell))
    kinds = dict.fromkeys(kind for _, _, c in fits for kind in c.recipes[0].degraded)
    names = list(dict.fromkeys(["image", *DAMAGE, *kinds]))
    recipe, seed = fits[0][2].recipes[0], fits[0][2].seed
    store.images.prepare([Wanted(recipe, name) for name in names], [], seed)
    for name, spec, config in fits:
        start = time.perf_counter()
        score = _score_patients if isinstance(store, PatientStore) else _score_images
        scored = score(store, config, plan.folds)
        folder = out / name
        folder.mkdir(exist_ok=True)
        note = _note_of_heads(options, spec, config, store.data, plan.folds, scored)
        write_json(folder / "attempt.json", note | {"seconds": round(time.perf_counter() - start)})
        print(name, note["criterion"], flush=True)


Scored = dict[str, NDArray[np.float64]]
"""Input → (n, K) logits of every row by the model that held it out; NaN without one."""


def _score_images(store: InputStore, config: StudyConfig, folds: Sequence[Fold]) -> Scored:
    recipe, data, n = config.recipes[0], store.data, len(store.data.records)
    shown = ["image", *DAMAGE]
    stacked = np.concatenate([store.features(recipe, name, config.seed) for name in shown])
    beside = read_beside(store, recipe, config.seed)
    more = Labelled(data.records * len(shown), data.class_names, data.roles)
    found = {name: np.full((n, len(data.class_names)), np.nan) for name in shown}
    for fold in folds:
        rows = dict(part_rows(data, fold))
        test = rows.pop("test")
        parts = {name: at * n + test for at, name in enumerate(shown)}
        logits = linear_logits(recipe, stacked, more, rows | parts, beside)
        for name in shown:
            found[name][test] = logits[name]
    return found


def _score_patients(store: PatientStore, config: StudyConfig, folds: Sequence[Fold]) -> Scored:
    recipe, data, n = config.recipes[0], store.data, len(store.data.records)
    trainer = PatientTrainer.of(store, recipe, config.seed)
    found = {name: np.full((n, len(data.class_names)), np.nan) for name in ("image", *DAMAGE)}
    with tempfile.TemporaryDirectory() as scratch:
        for fold in folds:
            rows = part_rows(data, fold)
            seed = job_seed(config.seed, recipe.name, fold.protocol, fold.fold)
            trainer.fit(rows, Path(scratch), seed, lambda *_: None)
            head = load_head_of(recipe, Path(scratch))
            assert head is not None
            for name in found:
                bags = store.bags(recipe, name, config.seed)
                found[name][rows["test"]] = bag_logits(head, bags.take(rows["test"]))
    return found


def _note_of_heads(
    options: argparse.Namespace,
    spec: str,
    config: StudyConfig,
    data: Labelled,
    folds: Sequence[Fold],
    scored: Scored,
) -> dict[str, Any]:
    """The entry of one attempt in the log."""
    tested = np.isfinite(scored["image"]).all(axis=1)
    groups = [folds[0].groups[data.records[row].image_id] for row in np.flatnonzero(tested)]
    metrics = {
        name: bootstrap_metrics(
            data.y[tested], softmax(logits[tested]), data.class_names, groups=groups,
            names=[m for m in METRICS if m != "ece"], replicates=200, seed=config.seed,
        )
        for name, logits in scored.items()
    }  # fmt: skip
    areas = {name: one["roc_auc"].value for name, one in metrics.items()}
    shared = [w for s in options.overrides for w in ("-s", s)]
    return {
        "command": shlex.join([
            "heads", "DEVELOPMENT", options.name, "-r", options.recipe, "-p", options.protocol,
            *shared, "--head", spec, "--seed", str(options.seed),
        ]),
        "criterion": {"protocol": options.protocol, **areas, "least": min(areas.values())},
        "results": [{
            "recipe": options.recipe, "what": "model", "protocol": options.protocol,
            "n": int(tested.sum()), "n_groups": len(set(groups)),
            **{name: one.to_json() for name, one in metrics["image"].items()},
        }],
    }  # fmt: skip


def criterion(metrics: dict[str, Any], protocols: list[str]) -> dict[str, Any]:
    """ROC AUC under the strictest protocol of whole images, of each damage, and the least.

    A model that is not shown to be better than chance has no areas of damaged images, and none
    that is the least: it is out.
    """
    protocol = strictest(protocols)
    whole = next(
        row["metrics"]["roc_auc"]["value"]
        for row in metrics["results"]
        if row["protocol"] == protocol
    )
    found = {"image": whole}
    for row in metrics["survival"]:
        if row["protocol"] == protocol and row["input"] in DAMAGE:
            if (share := row["share"]["value"]) is None:
                return {"protocol": protocol, **found}
            found[row["input"]] = 0.5 + share * (whole - 0.5)
    return {"protocol": protocol, **found, "least": min(found.values())}


def table(options: argparse.Namespace) -> None:
    """Print every attempt as a row of a table."""
    print(INTRODUCTION)
    for out in options.out:
        about = read_json(out / "about.json")
        print(f"\n## {out.name}: {about['images']} images, `{about['protocol']}` fold 0\n")
        print(
            "| attempt | held out | images | groups "
            "| accuracy | weighted F1 | macro-F1 | ROC AUC | ECE ",
            end="",
        )
        print("| blur 1 px | JPEG 85 | least |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
        notes = sorted(out.glob("*/attempt.json"), key=lambda path: path.stat().st_mtime)
        for path in notes:
            for row in read_json(path)["results"]:
                what = path.parent.name + ("" if row["what"] == "model" else f": {row['what']}")
                cells = " | ".join(_cell(row.get(name)) for name in METRICS)
                survived = " | ".join(_survived(read_json(path), row))
                print(f"| {what} | {row['protocol']} | {row['n']} | {row['n_groups']} ", end="")
                print(f"| {cells} | {survived} |")
        print("\nCommands; DATA are all images, RUN is the folder of a study of them:\n\n```")
        print(about["command"])
        for path in notes:
            print(_without_folders(read_json(path)["command"]))
        print("```")


def outside(options: argparse.Namespace) -> None:
    """Scores of a study on the test images that lie outside the development set."""
    from leukoscope.evaluation.predictions import PredictionTable

    run = RunFolder(options.run)
    data = Path(_data_root(run))
    seen = {row["path"] for row in read_csv(options.development / MANIFEST)}
    path = {row["image_id"]: str(data / row["path"]) for row in read_csv(run.manifest)}
    group = {
        row["image_id"]: row["group"]
        for row in read_csv(run.splits)
        if row["protocol"] == options.protocol and row["part"] == "test"
    }
    table = PredictionTable.load(run.predictions)
    table = table.select(part="test", protocol=options.protocol, input="image")
    print(
        "| recipe, images of no development set | images | groups | accuracy | weighted F1 ", end=""
    )
    print("| macro-F1 | ROC AUC | ECE |\n|---|---|---|---|---|---|---|---|")
    for recipe in dict.fromkeys(table.recipe.tolist()):
        own = table.select(recipe=recipe)
        fresh = [place for place, name in enumerate(own.image_id) if path[str(name)] not in seen]
        units = [group[name] for name in own.image_id[fresh].tolist()]
        found = bootstrap_metrics(
            own.y_true[fresh], own.probs[fresh], own.class_names, groups=units, names=METRICS
        )
        cells = " | ".join(
            f"{found[name].value:.3f} ({found[name].low:.3f}–{found[name].high:.3f})"
            for name in METRICS
        )
        print(f"| {recipe} | {len(fresh)} | {len(set(units))} | {cells} |")


def _without_folders(command: str) -> str:
    """A command with the names of weights files in place of where they lie here."""
    return re.sub(r"(model\.weights=)\S*/", r"\1", command)


def _survived(note: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """ROC AUC on damaged images and the least of all, in the row of the strictest protocol."""
    found = note.get("criterion", {})
    shown = row["what"] == "model" and row["protocol"] == found.get("protocol")
    return [f"{found[name]:.3f}" if shown and name in found else "" for name in (*DAMAGE, "least")]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value['value']:.3f} ({value['low']:.3f}–{value['high']:.3f})"


def _tell(step: str, done: int, total: int) -> None:
    if (done, total) == (0, 0):
        print(time.strftime("%H:%M:%S"), step, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
