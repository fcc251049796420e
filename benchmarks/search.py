"""Try recipes on a development set: the training images of one fold, split again by its groups.

The test images of that fold are in no development set, so that nothing tried here has seen them.

python benchmarks/search.py prepare RUN PROTOCOL DEVELOPMENT
python benchmarks/search.py try DEVELOPMENT NAME -r RECIPE -p PROTOCOL [--set KEY=VALUE ...]
python benchmarks/search.py table DEVELOPMENT [DEVELOPMENT ...] > docs/results/search_log.md
python benchmarks/search.py outside RUN PROTOCOL DEVELOPMENT
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from leukoscope.analyses.arms import Arm, check_arm
from leukoscope.core.files import read_csv, read_json, write_csv, write_json
from leukoscope.core.protocols import strictest
from leukoscope.core.run_folder import RunFolder
from leukoscope.study.run import run_study, study_config

MANIFEST, AUDITED = "development.csv", "audited"
COLUMNS = ("path", "label", "patient_id")
METRICS = ("accuracy", "weighted_f1", "roc_auc", "ece")
SEEN = ("train", "val")
DAMAGE = ("blur-1", "jpeg-85")
"""What an attempt must survive, see docs/decisions/0025-what-a-choice-must-survive.md."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("prepare")
    add.add_argument("run", type=Path)
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
    run = RunFolder(options.run)
    parts = {
        row["image_id"]: row["part"]
        for row in read_csv(run.splits)
        if row["protocol"] == options.protocol and row["fold"] == "0"
    }
    data = Path(_data_root(run))
    rows = [
        {"path": str(data / row["path"]), "label": row["label"], "patient_id": row["patient_id"]}
        for row in read_csv(run.manifest)
        if parts.get(row["patient_id" if options.unit == "patient" else "image_id"]) in SEEN
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / MANIFEST, COLUMNS, rows)
    command = f"prepare RUN {options.protocol} DEVELOPMENT --unit {options.unit}"
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
    overrides = [*options.overrides, "bootstrap=200", "bundle=false", "splits.cluster_curve=[]"]
    config = study_config(
        out / MANIFEST,
        recipes=[options.recipe],
        protocols=options.protocol,
        probes=options.probe,
        overrides=overrides,
        unit=read_json(out / "about.json").get("unit", "image"),
        folds=options.folds,
        seed=options.seed,
    )
    run = RunFolder(out / options.name)
    for name in ("audit", "features"):
        run.cache.mkdir(parents=True, exist_ok=True)
        shared = out / AUDITED / run.cache.relative_to(run.path) / name
        shared.mkdir(exist_ok=True)
        if not (run.cache / name).exists():
            (run.cache / name).symlink_to(shared)
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


def criterion(metrics: dict[str, Any], protocols: list[str]) -> dict[str, Any]:
    """ROC AUC under the strictest protocol of whole images, of each damage, and the least."""
    protocol = strictest(protocols)
    whole = next(
        row["metrics"]["roc_auc"]["value"]
        for row in metrics["results"]
        if row["protocol"] == protocol
    )
    found = {"image": whole}
    for row in metrics["survival"]:
        if row["protocol"] == protocol and row["input"] in DAMAGE:
            found[row["input"]] = 0.5 + row["share"]["value"] * (whole - 0.5)
    return {"protocol": protocol, **found, "least": min(found.values())}


def table(options: argparse.Namespace) -> None:
    """Print every attempt as a row of a table."""
    print("# Search log\n")
    print("The attempts of `python benchmarks/search.py try`. They are not all that was tried:")
    print("about 250 combinations were compared before by a script that was not kept (decision")
    print("18), and a few runs were lost (decision 12). A development set")
    print("is the training and validation images of fold 0; the test images of that fold are in")
    print("none. It is split again by its groups, three folds pooled; in brackets 95 % intervals")
    print("that resample whole groups, from 200 replicates. One seed. Test images of the other")
    print("folds are among these images, so scores over all folds are not free of this choice.")
    for out in options.out:
        about = read_json(out / "about.json")
        print(f"\n## {out.name}: {about['images']} images, `{about['protocol']}` fold 0\n")
        print(
            "| attempt | held out | images | groups | accuracy | weighted F1 | ROC AUC | ECE ",
            end="",
        )
        print("| blur 1 px | JPEG 85 | least |\n|---|---|---|---|---|---|---|---|---|---|---|")
        notes = sorted(out.glob("*/attempt.json"), key=lambda path: path.stat().st_mtime)
        for path in notes:
            for row in read_json(path)["results"]:
                what = path.parent.name + ("" if row["what"] == "model" else f": {row['what']}")
                cells = " | ".join(_cell(row[name]) for name in METRICS)
                survived = " | ".join(_survived(read_json(path), row))
                print(f"| {what} | {row['protocol']} | {row['n']} | {row['n_groups']} ", end="")
                print(f"| {cells} | {survived} |")
        print("\nCommands; RUN is the folder of a study of all images:\n\n```")
        print(about["command"])
        for path in notes:
            print(read_json(path)["command"])
        print("```")


def outside(options: argparse.Namespace) -> None:
    """Scores of a study on the test images that lie outside the development set."""
    from leukoscope.evaluation.intervals import bootstrap_metrics
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
    print("| ROC AUC | ECE |\n|---|---|---|---|---|---|---|")
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
