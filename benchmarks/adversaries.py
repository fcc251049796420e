"""Does the verdict notice what was planted, and does it say yes where nothing was?

Planted sets: patients of one phantom class, labels dealt to them at random, and an artefact in
all images of the second label. Nothing in the cells tells the labels apart, so a model that does
has learnt the artefact, and its study must not be called plausible. Honest sets: patients of two
phantom classes, no artefact. Every set is judged by the code that every study runs.

    python benchmarks/adversaries.py --out adversaries --seed 70000
    python benchmarks/adversaries.py --out adversaries --seed 70000 --table --figure power.png

Images are drawn once, into a pool below ``--out``; every set draws its patients from there. What
is finished is kept in ``--out/sets-SEED.jsonl``, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from threading import Lock
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from adversary_sets import (
    FIELD_PX,
    GRAIN,
    HONEST,
    KINDS,
    PATIENTS,
    Case,
    catalogue,
    draw_pool,
    makes_sense,
    write_set,
)
from leukoscope.config.metrics.file import measurements
from leukoscope.evaluation.statistics.intervals import proportion_interval
from leukoscope.evaluation.verdict.rule import judge
from leukoscope.phantom.artefacts import ARTEFACTS, STRENGTHS

SCORES: Final = ("accuracy", "balanced_accuracy", "roc_auc")
MOST_REMEMBERED: Final = 1200
"""Files whose masks and numbers a process keeps."""
PROBES: Final = (
    "ground-only", "grain-only", "frame-only", "file-only", "stain-only", "scale-bar-only",
)  # fmt: skip
"""Those that a verdict rests on; the others inform and never move a level."""


@cache
def _remember() -> None:
    """Let all sets of a process share what depends on nothing but the pixels of one image.

    They are drawn from one pool, so most of their images were seen before: networks, features of
    a picture, masks and numbers of a file are computed once. The study's code is not changed.
    """
    _remember_features()
    _remember_files()
    _remember_numbers()


def _remember_features() -> None:
    from leukoscope.learning.features import FeatureEngine
    from leukoscope.pipeline.features.store import InputStore

    networks: dict[str, Any] = {}
    features: dict[bytes, NDArray[np.float32]] = {}
    network_of, compute = InputStore.network, FeatureEngine.__call__

    def network(self: InputStore, recipe: Any, seed: int) -> Any:
        key = f"{recipe.model} {recipe.preprocess.size_px} {seed}"
        if key not in networks:
            networks[key] = network_of(self, recipe, seed)
        return networks[key]

    def call(self: FeatureEngine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        keys = [blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        new = [at for at, key in enumerate(keys) if key not in features]
        if new:
            found = compute(self, images[new])
            features.update((keys[at], row) for at, row in zip(new, found, strict=True))
        return np.stack([features[key] for key in keys])

    setattr(InputStore, "network", network)  # noqa: B010
    setattr(FeatureEngine, "__call__", call)  # noqa: B010


def _remember_files() -> None:
    from leukoscope.datasets.audit import links, measurements
    from leukoscope.pipeline.features import one_pass

    look, measure_of = vars(one_pass)["observe"], measurements.audit_image
    files: dict[bytes, Any] = {}
    measures: dict[bytes, Any] = {}
    lock = Lock()

    def observe(path: Path, *given: Any) -> Any:
        key = blake2b(path.read_bytes(), digest_size=16).digest()
        with lock:
            found = files.pop(key, None)
        found = found or look(path, *given)
        with lock:  # several threads read
            if len(files) >= MOST_REMEMBERED:
                files.pop(next(iter(files)))  # the one that was used longest ago
            files[key] = found
        return found

    def measure(path: Path, *given: Any) -> Any:
        key = blake2b(path.read_bytes(), digest_size=16).digest()
        if key not in measures:
            measures[key] = measure_of(path, *given)
        return measures[key]

    vars(one_pass)["observe"] = observe
    vars(measurements)["audit_image"] = measure
    # No two drawn fields show the same cells, and this search takes most of an audit's time.
    vars(links)["find_overlaps"] = lambda *_, **__: []


def _remember_numbers() -> None:
    from leukoscope.pipeline.features.one_pass import NumberTable, OnePass

    plan = OnePass.__init__

    def numbers(table: NumberTable, seen: Any) -> NDArray[np.float64]:
        found: NDArray[np.float64] = seen._once(
            f"numbers {table.name}", lambda: table.numbers(seen)
        )
        return found

    def planned(self: OnePass, *given: Any, **named: Any) -> None:
        call = signature(plan).bind(self, *given, **named)
        call.arguments["tables"] = [
            NumberTable(table.name, partial(numbers, table)) for table in call.arguments["tables"]
        ]
        plan(*call.args, **call.kwargs)

    setattr(OnePass, "__init__", planned)  # noqa: B010


def run_case(case: Case, seed: int, pool: Path, complete: bool = False) -> dict[str, Any]:
    """Write one set, run a study on it, and keep what the verdict rests on.

    ``complete`` adds random splits and the probes that inform; they never move a level.
    """
    from leukoscope.study.options import study_config
    from leukoscope.study.run import run_study

    warnings.simplefilter("ignore")
    _remember()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        manifest = write_set(case, seed, pool, Path(name) / "data")
        config = study_config(
            manifest,
            recipes=("quick",),
            protocols=("random", "grouped") if complete else ("grouped",),
            probes=None if complete else PROBES,
            folds=3,
            seed=case.number,
            overrides=(
                f"preprocess.size_px={FIELD_PX}",
                "model.stages=4",
                "splits.clusters=6",
                "splits.cluster_curve=[]",
                "bootstrap=400",
                "bundle=false",
            ),
        )
        metrics = run_study(config, Path(name) / "run", report=False).metrics.to_json()
    return {
        "name": case.name,
        **asdict(case),
        "seconds": round(time.perf_counter() - started, 2),
        "metrics": _kept(metrics),
    }


def _kept(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the verdict rests on, so that a set can be judged again."""
    keys = ("recipe", "protocol", "n", "n_groups", "group_unit", "confusion", "next_unit")
    results = [
        {key: row[key] for key in keys if key in row}
        | {"metrics": {name: row["metrics"][name] for name in SCORES}}
        for row in metrics["results"]
    ]
    whole = ("shortcuts", "survival", "control", "data_errors", "inapplicable")
    return {"results": results, **{key: metrics[key] for key in whole}}


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """A finished set with its verdict by today's rule."""
    metrics = row["metrics"]
    results = [{"folds": 3} | entry for entry in metrics["results"]]  # not kept, and not judged
    values = {"schema": 1, "class_names": [], "confidence": 0.95, **metrics, "results": results}
    verdict = judge(measurements(values)).model_dump(mode="json")
    model = next(r for r in metrics["results"] if r["protocol"] == "grouped")
    return row | {
        "level": verdict["level"],
        "headline": verdict["headline"],
        "sources": verdict["sources"],
        "survival": metrics["survival"],
        "auc": model["metrics"]["roc_auc"],
    }


def sets_path(out: Path, seed: int, complete: bool) -> Path:
    """Where finished sets are kept."""
    return out / f"sets-{seed}{'-complete' if complete else ''}.jsonl"


def run_all(
    cases: list[Case], seed: int, out: Path, workers: int, complete: bool
) -> list[dict[str, Any]]:
    """Every set once, in an order drawn by the seed; finished ones are read.

    Fields and cells go to processes of their own, which remember the images of their pool.
    """
    path = sets_path(out, seed, complete)
    lines = path.read_text().splitlines() if path.is_file() else []
    done = {row["name"]: row for row in map(json.loads, lines)}
    waiting = [case for case in cases if case.name not in done]
    np.random.default_rng(seed).shuffle(waiting)  # a part of the catalogue stands for the whole
    with ExitStack() as stack:
        pools = {
            kind: stack.enter_context(ProcessPoolExecutor(max(1, workers // len(KINDS))))
            for kind in KINDS
        }
        running = [pools[case.kind].submit(run_case, case, seed, out, complete) for case in waiting]
        for future in as_completed(running):
            if (error := future.exception()) is not None:
                print(f"failed: {error!r}", flush=True)  # run again, it goes on with the others
                continue
            line = json.dumps(future.result(), default=_plain)
            with path.open("a") as file:
                file.write(line + "\n")
            row = judged(json.loads(line))
            done[row["name"]] = row
            at = f"{len(done)}/{len(cases)}"
            print(f"{at} {row['name']}: {row['level']}, {row['seconds']} s", flush=True)
    return [judged(done[case.name]) for case in cases if case.name in done]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else vars(value)


def beats_chance(row: dict[str, Any]) -> bool:
    """Whether the model of a set has skill, by the rule of the verdict."""
    low = row["auc"]["low"]
    return low is not None and low > 0.5


def is_plausible(row: dict[str, Any]) -> bool:
    """Whether a reader would be told to believe the score."""
    return str(row["level"]).startswith("plausible")


def table(done: list[dict[str, Any]]) -> Iterator[str]:
    """The two claims with exact intervals, then honest and planted sets, as Markdown."""
    planted = [row for row in done if row["artefact"] != HONEST]
    skilled = [row for row in planted if beats_chance(row)]
    honest = [row for row in done if row["artefact"] == HONEST]
    yield "| sets | patients | sets in all | plausible | 95 % interval | unsafe | inconclusive |"
    yield "|---|---:|---:|---:|---|---:|---:|"
    yield _claim("planted, the model beats chance", "10–80", skilled)
    yield _claim("planted, it does not", "10–80", [r for r in planted if not beats_chance(r)])
    for patients in PATIENTS:
        yield _claim("honest", str(patients), [r for r in honest if r["patients"] == patients])
    for kind in KINDS:
        rows = [r for r in honest if r["patients"] == max(PATIENTS) and r["kind"] == kind]
        yield _claim(f"honest, {kind}", str(max(PATIENTS)), rows)
    yield ""
    head = ("artefact", "images", "level 1, 2, 3", *map(str, PATIENTS), "sets", "noticed by")
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for name in (*ARTEFACTS, GRAIN):
        for kind in KINDS:
            if makes_sense(name, kind):
                yield _power(name, kind, planted)


def _claim(what: str, patients: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return f"| {what} | {patients} | 0 | | | | |"
    levels = Counter(row["level"] for row in rows)
    good = sum(is_plausible(row) for row in rows)
    low, high = proportion_interval(good, len(rows))
    return (
        f"| {what} | {patients} | {len(rows)} | {good} | "
        f"{100 * low:.1f}–{100 * high:.1f} % | {levels['unsafe']} | {levels['inconclusive']} |"
    )


SIGNS: Final = {"chance": "·", "unsafe": "U", "inconclusive": "?", "plausible": "P"}
"""One sign a set; ``chance``: the model does not beat chance, so there is nothing to notice."""


def outcome(row: dict[str, Any]) -> str:
    """What came of a planted set."""
    if not beats_chance(row):
        return "chance"
    return "plausible" if is_plausible(row) else str(row["level"])


def _power(name: str, kind: str, planted: list[dict[str, Any]]) -> str:
    rows = [row for row in planted if row["artefact"] == name and row["kind"] == kind]
    if name == GRAIN:
        title, levels = "grain of its own for each patient", "1, 2, 3"
    else:
        artefact = ARTEFACTS[name]
        title = f"{artefact.title} ({artefact.unit})"
        levels = ", ".join(f"{level:g}" for level in artefact.levels)
    cells = []
    for patients in PATIENTS:
        found = [
            "".join(
                SIGNS[outcome(row)]
                for row in rows
                if row["patients"] == patients and row["strength"] == strength
            )
            for strength in STRENGTHS
        ]
        cells.append(" ".join(one or "–" for one in found))
    skilled = [row for row in rows if beats_chance(row)]
    cells += [str(len(skilled)), noticed_by(skilled)]
    return f"| {title} | {kind} | {levels} | " + " | ".join(cells) + " |"


def noticed_by(rows: list[dict[str, Any]]) -> str:
    """In how many sets each source was shown, and in how many the advantage did not survive."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(one["source"] for one in row["sources"] if one["status"] == "shown")
        lows = [one["share"]["low"] for one in row["survival"]]
        counts["no survival"] += any(low is None or low < 0.5 for low in lows)
    return ", ".join(f"{name} {count}" for name, count in counts.most_common() if count)


def draw_figure(done: list[dict[str, Any]], path: Path) -> None:
    """Share of planted sets by outcome, over patients, a panel for each strength."""
    from matplotlib.figure import Figure

    colours = {
        "unsafe": "#b2182b", "inconclusive": "#f4a582", "plausible": "#2166ac", "chance": "#dddddd",
    }  # fmt: skip
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(STRENGTHS), sharey=True)
    panels = [
        (f"planted, strength {s}", [r for r in done if r["strength"] == s]) for s in STRENGTHS
    ]
    panels.append(("honest", [r for r in done if r["artefact"] == HONEST]))
    for axis, (title, rows) in zip(axes, panels, strict=True):
        bottom = np.zeros(len(PATIENTS))
        for name, colour in colours.items():
            share = np.array([_share_of(rows, patients, name) for patients in PATIENTS])
            axis.bar(range(len(PATIENTS)), share, bottom=bottom, color=colour, label=name)
            bottom += share
        axis.set(title=title, xlabel="patients", ylim=(0, 100))
        axis.set_xticks(range(len(PATIENTS)), [str(p) for p in PATIENTS])
    axes[0].set_ylabel("% of sets")
    names = [*list(colours)[:3], "the model does not beat chance"]
    figure.legend(
        axes[0].get_legend_handles_labels()[0],
        names,
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=110)


def _share_of(rows: list[dict[str, Any]], patients: int, name: str) -> float:
    own = [outcome(row) for row in rows if row["patients"] == patients]
    return 100 * own.count(name) / len(own) if own else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is finished")
    parser.add_argument("--seed", type=int, default=70000, help="of every draw but the pool's")
    parser.add_argument("--honest", type=int, default=100, help="honest sets with 80 patients")
    parser.add_argument("--repeat", type=int, default=1, help="of each planted set")
    parser.add_argument("--only", default="", help="sets whose name begins so, such as cells-rim")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes, shared by fields and cells"
    )
    parser.add_argument("--complete", action="store_true", help="random splits, all probes too")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--figure", type=Path, help="draw the shares of outcomes into this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table or options.figure:
        path = sets_path(options.out, options.seed, options.complete)
        done = [judged(json.loads(line)) for line in path.read_text().splitlines()]
    else:
        for kind in KINDS:
            draw_pool(options.out, kind)
        cases = catalogue(options.honest, options.repeat)
        cases = [case for case in cases if case.name.startswith(options.only)]
        done = run_all(cases, options.seed, options.out, options.workers, options.complete)
    print("\n".join(table(done)))
    for row in done:
        if row["artefact"] != HONEST and beats_chance(row) and is_plausible(row):
            print(f"\nmissed: {row['name']}: {row['headline']}")
    if options.figure:
        draw_figure(done, options.figure)


if __name__ == "__main__":
    main()
