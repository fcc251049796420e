"""Print the results of study folders as Markdown.

python benchmarks/results.py RUN [RUN ...]
python benchmarks/results.py --repeats RUN [RUN ...]     # the same study with several seeds
python benchmarks/results.py --short NAME=RUN [...]      # the table of the README
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from leukoscope.config.loading import load_study_config
from leukoscope.core.files import read_csv
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.evaluation.predictions import PredictionTable

INPUTS = ("image", "model-on-background-only")

METRICS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("weighted_f1", "weighted F1"),
    ("roc_auc", "ROC AUC"),
    ("ece", "ECE"),
)


def main() -> None:
    kind, names = "", sys.argv[1:]
    if names and names[0] in ("--repeats", "--short"):
        kind, *names = names
    if not names:
        raise SystemExit(__doc__)
    if kind == "--short":
        print_short({name: Path(folder) for name, folder in (one.split("=") for one in names)})
    elif kind == "--repeats":
        print_repeats([Path(name) for name in names])
    else:
        for name in names:
            print_study(Path(name))


def print_short(folders: dict[str, Path]) -> None:
    """The first recipe of each study, under the protocols that a reader should know of."""
    print("| data, held out | accuracy | ROC AUC | ground alone | verdict |\n|---|---|---|---|---|")
    for name, folder in folders.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        sources = metrics["shortcuts"].get("sources", [])
        ground = {row["protocol"]: row["share"] for row in sources if row["probe"] == "ground-only"}
        first = metrics["results"][0]["recipe"]
        for row in metrics["results"]:
            protocol = row["protocol"]
            if (
                row["recipe"] != first
                or protocol not in PROTOCOLS
                or (not ground and protocol == "random")
            ):
                continue
            found = row["metrics"]
            held_out = PROTOCOLS[protocol].label.removesuffix(" held out")
            cells = (
                f"{name}, {held_out}{' (few)' if not found['accuracy']['reliable'] else ''}",
                interval(found["accuracy"], percent=True),
                interval(found["roc_auc"]),
                interval(ground[protocol], percent=True) if ground else "no ground in the images",
                "" if protocol == "random" else metrics["verdict"]["level"],
            )
            print(f"| {' | '.join(cells)} |")


def interval(found: dict[str, Any], percent: bool = False) -> str:
    """A value with limits: ``98.1 % (93.8–99.4)`` or ``.896 (.784–.953)``; or why there is none."""
    if found["value"] is None:  # a share of an advantage that the limits of the area do not show
        return "no advantage shown"
    if percent:
        value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
        return f"{value} % ({low}–{high})"
    value, low, high = (f"{found[key]:.3f}".lstrip("0") for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def print_study(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    seconds = sum(environment["seconds"].values())
    data = Path(load_study_config(folder / "config.toml").data.path).name
    recipes = dict.fromkeys(f"`{row['recipe']}`" for row in metrics["results"])
    print(f"\n## {data}: {', '.join(recipes)}\n")
    print(f"{metrics['verdict']['headline']} (verdict: {metrics['verdict']['level']})\n")
    print("| what | held out | images | groups | " + " | ".join(t for _, t in METRICS) + " |")
    print("|---|---|---|---|" + "---|" * len(METRICS))
    for row in (*metrics["results"], *metrics["probes"], *metrics.get("model_on", ())):
        cells = [cell(row["metrics"].get(name)) for name, _ in METRICS]
        what = row.get("probe") or row["recipe"]
        if "input" in row:
            what = f"{what} shown {row['input']}"
        groups = f"{row['n_groups']} {row['group_unit']}s"
        print(f"| {what} | {row['protocol']} | {row['n']} | {groups} | {' | '.join(cells)} |")
    print_sources(metrics)
    print_curve(metrics)
    print_comparisons(metrics["comparisons"])
    coverage = metrics["decisions"]["coverage"]
    print(
        f"\nPrediction sets that aim at {coverage['nominal']:.0%} hold the true class for ", end=""
    )
    print(
        "; ".join(f"{name} {cell(value)}" for name, value in coverage["protocol"].items()), end=""
    )
    sets = metrics["decisions"]["sets"]
    unsure = ", ".join(f"{entry['empty']:.1%} ({name})" for name, entry in sets.items())
    print(f"; no class is probable enough for {unsure}.")
    print_groups(folder)
    for row in metrics["inapplicable"]:
        print(f"\n`{row['protocol']}` does not apply: {row['reason']}.")
    print(f"\n{seconds:.0f} s on {environment['cores']} cores ({environment['cpu']}), ", end="")
    git = environment["git"]
    commit = git["commit"][:7] + (" with changes" if git["dirty"] else "")
    print(f"seed {environment['seed']}, commit {commit}.")


def print_sources(metrics: dict[str, Any]) -> None:
    """What each source of shortcut gives, what mild degradation leaves, and the control."""
    rows = metrics["shortcuts"].get("sources", [])
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    status = {row["source"]: row for row in metrics["verdict"].get("sources", ())}
    if rows:
        print("\n| share of the advantage (ROC AUC above 0.5) | verdict | ", end="")
        print(" | ".join(protocols) + " |\n|---|---|" + "---|" * len(protocols))
        for probe in dict.fromkeys(row["probe"] for row in rows):
            found = {row["protocol"]: row for row in rows if row["probe"] == probe}
            source = next(iter(found.values()))["source"]
            cells = " | ".join(cell(found[p]["share"]) if p in found else "" for p in protocols)
            print(f"| {probe} ({source}) | {status[source]['status']} | {cells} |")
        for row in metrics["shortcuts"]["inapplicable"]:
            print(f"\n`{row['probe']}` does not apply: {row['reason']}.")
    kept = metrics.get("survival", [])
    if kept:
        print("\n| kept on degraded test images | " + " | ".join(protocols), end=" |\n|---|")
        print("---|" * len(protocols))
        for name in dict.fromkeys(row["input"] for row in kept):
            found = {row["protocol"]: row for row in kept if row["input"] == name}
            cells = " | ".join(cell(found[p]["share"]) if p in found else "" for p in protocols)
            print(f"| {name} | {cells} |")
    control = metrics.get("control") or {}
    if "draws" in control:
        print(
            f"\nNegative control ({len(control['draws'])} draws, {control['protocol']}): ", end=""
        )
        print(f"ROC AUC {control['value']:.3f} ({control['low']:.3f}–{control['high']:.3f}).")
    for row in metrics["results"]:
        following = row.get("next_unit") or {}
        if following.get("low") is not None:
            limits = f"{following['low']:.2f} to {following['high']:.2f}"
            print(f"\nNext {following['unit']} ({row['recipe']}, {row['protocol']}): {limits}.")


def print_curve(metrics: dict[str, Any]) -> None:
    """Accuracy over the number of acquisition clusters, one column a recipe."""
    if not metrics["curve"]:
        return
    first = metrics["results"][0]["recipe"]
    found = {(p.get("recipe", first), p["clusters"], p["folds"]): p for p in metrics["curve"]}
    recipes = list(dict.fromkeys(row["recipe"] for row in metrics["results"]))
    recipes = [recipe for recipe in recipes if any(key[0] == recipe for key in found)]
    print("\n| acquisition clusters, whole ones held out | " + " | ".join(recipes) + " |")
    print("|---|" + "---|" * len(recipes))
    for clusters, folds in sorted({key[1:] for key in found}):
        points = [found.get((recipe, clusters, folds)) for recipe in recipes]
        values = " | ".join(cell(point and point["accuracy"]) for point in points)
        print(f"| {clusters} ({folds} folds) | {values} |")


def print_repeats(folders: list[Path]) -> None:
    """The scores of each seed, and their mean with the least and the greatest."""
    found: dict[tuple[str, str], list[list[float | None]]] = {}
    print("| recipe | held out | seed | " + " | ".join(title for _, title in METRICS) + " |")
    print("|---|---|---|" + "---|" * len(METRICS))
    for folder in folders:
        seed = json.loads((folder / "environment.json").read_text())["seed"]
        for row in json.loads((folder / "metrics.json").read_text())["results"]:
            values = [row["metrics"].get(name) for name, _ in METRICS]
            key = row["recipe"], row["protocol"]
            found.setdefault(key, []).append([value and value["value"] for value in values])
            print(f"| {' | '.join((*key, str(seed), *map(cell, values)))} |")
    for key, rows in found.items():
        columns = [[v for v in column if v is not None] for column in zip(*rows, strict=True)]
        means = [
            f"{sum(column) / len(column):.3f} ({min(column):.3f} to {max(column):.3f})"
            for column in columns
        ]
        print(f"| {' | '.join((*key, f'mean of {len(rows)}, least to greatest', *means))} |")


def print_comparisons(rows: list[dict[str, Any]]) -> None:
    """Paired differences that have been tested."""
    rows = [row for row in rows if row.get("p_holm") is not None]
    if rows:
        print("\n| A − B, accuracy on the same images | held out | difference | p, Holm | A is |")
        print("|---|---|---|---|---|")
    for row in rows:
        pair = " − ".join(side(row[key]) for key in "ab")
        held_out = " − ".join(dict.fromkeys(row[key]["protocol"] for key in "ab"))
        found = f"{cell(row['difference'])} | {row['p_holm']:.4f} | {row['verdict']}"
        print(f"| {pair} | {held_out} | {found} |")


def print_groups(folder: Path, protocol: str = "acquisition-merged", most: int = 5) -> None:
    """What each recipe names right in the largest held-out groups, whole and without leukocytes."""
    splits = [row for row in read_csv(folder / "splits.csv") if row["protocol"] == protocol]
    if not splits:
        return
    label = {row["image_id"]: row["label"] for row in read_csv(folder / "manifest.csv")}
    tested = {row["image_id"]: row for row in splits if row["part"] == "test"}
    trained = Counter(
        (row["fold"], label[row["image_id"]]) for row in splits if row["part"] == "train"
    )
    table = PredictionTable.load(folder / "predictions.csv").select(part="test", protocol=protocol)
    hits = table.probs.argmax(axis=1) == table.y_true
    pairs = zip(table.recipe.tolist(), table.input.tolist(), strict=True)
    columns = list(dict.fromkeys(pair for pair in pairs if pair[1] in INPUTS))
    counts = Counter((row["group"], row["fold"], label[i]) for i, row in tested.items())
    print(f"\n| largest groups of `{protocol}` | images | trained on, of this class | ", end="")
    print(" | ".join(f"{recipe}: {name}" for recipe, name in columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    for (group, fold, name), n in counts.most_common(most):
        inside = [tested[i]["group"] == group and label[i] == name for i in table.image_id.tolist()]
        right = [
            int(hits[(table.recipe == recipe) & (table.input == what) & inside].sum())
            for recipe, what in columns
        ]
        cells = " | ".join(map(str, right))
        print(f"| {group}, {name} | {n} | {trained[fold, name]} | {cells} |")


def side(found: dict[str, str]) -> str:
    return found["recipe"] if found["input"] == "image" else found["input"]


def cell(value: dict[str, Any] | None) -> str:
    if value is None or value["value"] is None:
        return "—"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    mark = "" if value.get("reliable", True) else " †"
    between = " to " if value["low"] < 0 else "–"  # which would read as a sign
    limits = f"{value['low']:.3f}{between}{value['high']:.3f}"
    return f"{value['value']:.3f} ({limits}){mark}".replace("-", "−")


if __name__ == "__main__":
    main()
