"""Swap labels at random, make the queue, count how many of the swapped stand at its head.

python benchmarks/relabel.py phantoms OUT [--seeds 0 1 2 3 4] [--images 300]
python benchmarks/relabel.py run RUN [--seeds 0 1 2 3 4]   # a study with the recipe quick

The first draws phantoms, runs a study on the swapped labels and queues them; what is there already
is used again. The second takes the cached features of a study and fits heads on swapped labels.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from leukoscope.analyses.relabel import LabelEvidence, label_conflicts, make_queue, rank_images
from leukoscope.config.loading import load_study_config
from leukoscope.config.passport import load_passport
from leukoscope.config.relabel_queue import RankedImages
from leukoscope.config.study import SplitConfig
from leukoscope.core.files import read_csv, read_json, write_csv
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.splits import make_splits
from leukoscope.evaluation.calibration.scaling import apply_temperature, fit_temperature
from leukoscope.evaluation.combining import aggregate
from leukoscope.evaluation.statistics.intervals import proportion_interval
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.linear_fits import linear_logits
from leukoscope.study.run import run_study

SWAPPED, HEAD = 0.03, 0.06
HEADINGS = ("set", "seed", "protocol", "images", "agree", "swapped", "found", "suggested right",
            "likely errors", "conflicts", "of these not swapped")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("phantoms", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--protocols", nargs="+", default=["deduplicated", "random"])
    given = parser.parse_args()
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    if given.what == "phantoms":
        rows = [phantoms(given.folder, seed, given.images) for seed in given.seeds]
        totals(rows)
        return
    run = RunFolder(given.folder)
    for protocol in given.protocols:
        as_it_is(run, protocol)
        totals([planted(run, protocol, seed) for seed in given.seeds])


def swap(labels: list[str], seed: int) -> dict[int, str]:
    """Three per cent of the rows with another label, each other class as likely."""
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    rows = rng.permutation(len(labels))[: round(SWAPPED * len(labels))]
    return {int(i): str(rng.choice([n for n in names if n != labels[i]])) for i in rows}


def phantoms(folder: Path, seed: int, images: int) -> tuple[int, int]:
    data = folder / f"phantoms-{seed}"
    if not (data / "truth").is_dir():
        write_phantoms(PhantomSpec(images=images, seed=seed), data)
    labels = {row["path"]: row["label"] for row in read_json(data / "truth/truth.json")["images"]}
    rows = read_csv(data / "manifest.csv")
    swapped = swap([labels[row["path"]] for row in rows], seed)
    truth = {rows[i]["path"]: labels[rows[i]["path"]] for i in swapped}
    for i, row in enumerate(rows):
        row["label"] = swapped.get(i, labels[row["path"]])
    write_csv(data / "manifest.csv", list(rows[0]), rows)
    result = run_study(
        data, folder / f"run-{seed}", protocols=["deduplicated"], probes=["cells-only"],
        report=False, overrides=["bundle=false", "bootstrap=100"], resume=True,
    )  # fmt: skip
    queue = make_queue(result.run, count=images)
    return tell(data.name, seed, "deduplicated", queue, truth)


def planted(run: RunFolder, protocol: str, seed: int) -> tuple[int, int]:
    manifest = Manifest.load(run.manifest, load_study_config(run.config).data.root)
    labels = [record.label for record in manifest.usable]
    swapped = swap(labels, seed)
    truth = {manifest.usable[i].path: labels[i] for i in swapped}
    records = [
        replace(record, label=swapped[i]) if i in swapped else record
        for i, record in enumerate(manifest.usable)
    ]
    queue = out_of_fold(run, manifest.with_images(records), protocol, seed)
    return tell(manifest.root.name, seed, protocol, queue, truth)


def as_it_is(run: RunFolder, protocol: str) -> None:
    manifest = Manifest.load(run.manifest, load_study_config(run.config).data.root)
    queue = out_of_fold(run, manifest, protocol, 0)
    tell(manifest.root.name, "none", protocol, queue, {})


def out_of_fold(run: RunFolder, manifest: Manifest, protocol: str, seed: int) -> RankedImages:
    """The queue of the recipe quick on its cached features, with these labels."""
    config = load_study_config(run.config)
    recipe = config.recipes[0]
    views = []
    for shown in ("image", "cells-only"):
        (path,) = (run.cache / "features").glob(f"{shown}-*.npy")
        views.append(np.load(path))
    data = Labelled(manifest.usable, manifest.class_names)
    probs = np.full((len(data.records), len(data.class_names)), np.nan)
    for fold in make_splits(manifest, protocol, SplitConfig(), seed=seed):
        rows = {part: data.rows(fold, part) for part in ("train", "val", "cal", "test")}
        of_view = []
        for features in views:
            logits = linear_logits(recipe, features, data, rows)
            temperature = fit_temperature(logits["cal"], data.y[rows["cal"]])
            of_view.append(apply_temperature(logits["test"], temperature))
        probs[rows["test"]] = aggregate(np.stack(of_view, axis=1))
    pairs = label_conflicts(data.records, load_passport(run.passport))
    evidence = LabelEvidence(data.records, data.class_names, probs, pairs)
    return rank_images(evidence, count=len(data.records))


def tell(
    name: str, seed: object, protocol: str, queue: RankedImages, truth: dict[str, str]
) -> tuple[int, int]:
    head = queue.rows[: math.ceil(HEAD * queue.n)]
    found = [row for row in head if row.path in truth]
    right = sum(row.suggested == truth[row.path] for row in found)
    told = queue.label_errors
    first = [row for row in queue.rows if row.of_list == "label"]
    other = sum(row.path not in truth for row in first)
    share = f"{len(found)} ({len(found) / len(truth):.1%})" if truth else "—"
    agree = [max(p, key=p.get) == row.given for row in queue.rows if (p := row.probabilities)]
    cells = (name, seed, protocol, queue.n, f"{np.mean(agree):.3f}", len(truth), share,
             right if truth else "—", told.likely, told.conflicts, other)  # fmt: skip
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return len(found), len(truth)


def totals(rows: list[tuple[int, int]]) -> None:
    found, all_of_them = (sum(column) for column in zip(*rows, strict=True))
    low, high = proportion_interval(found, all_of_them)
    print(
        f"\nFound in the first {HEAD:.0%} of the queue: {found} of {all_of_them} swapped labels, "
        f"{found / all_of_them:.1%} (95 % interval {low:.1%}–{high:.1%}).\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
