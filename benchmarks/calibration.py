"""How far images of one group should count together when a temperature is fitted.

For every finished attempt of development sets (`benchmarks/search.py`): the temperature is fitted
on the cal part of each fold with another intraclass correlation ρ, and judged on the test part.

python benchmarks/calibration.py DEVELOPMENT [DEVELOPMENT ...] > docs/results/calibration.md
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.files import read_csv
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import (
    apply_temperature,
    evidence_weights,
    fit_temperature,
)
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.metrics import compute_metrics

CANDIDATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
Scores = dict[float | None, tuple[float, float]]


def main() -> None:
    places = [Path(name) for name in sys.argv[1:]]
    if not places:
        raise SystemExit(__doc__)
    found: dict[tuple[str, str], list[Scores]] = defaultdict(list)
    for place in places:
        for note in sorted(place.glob("*/attempt.json")):
            run = RunFolder(note.parent)
            protocols = {row["protocol"] for row in read_csv(run.splits)}
            for protocol in sorted(protocols):
                scores = judge(run, protocol)
                if scores:
                    found[place.name, protocol].append(scores)
    print("# Calibration: what images of one group count for\n")
    print("Made by `python benchmarks/calibration.py DEVELOPMENT …` from every attempt of the")
    print("[search log](search_log.md). The temperature is fitted on the `cal` part of each fold,")
    print("n images of one group counting as n / (1 + (n − 1) ρ); ECE and log loss of the test")
    print("parts of all folds together, then the mean over attempts. ρ = 0 counts every image")
    print("fully. No test image of the reported studies' fold 0 is in here.\n")
    names = ["none", *(f"ρ = {icc:g}" for icc in CANDIDATES)]
    for title, at in (("ECE", 0), ("log loss", 1)):
        print(f"| {title}: set, held out | attempts | {' | '.join(names)} |")
        print("|---|---|" + "---|" * len(names))
        for (name, protocol), rows in sorted(found.items()):
            means = [np.mean([row[key][at] for row in rows]) for key in (None, *CANDIDATES)]
            cells = " | ".join(f"{value:.4f}" for value in means)
            print(f"| {name}, {protocol} | {len(rows)} | {cells} |")
        print()


def judge(run: RunFolder, protocol: str) -> Scores:
    """ρ → (ECE, log loss) of an attempt's test images; None stands for no temperature."""
    table = PredictionTable.load(run.predictions).select(protocol=protocol, input="image")
    group = {
        (row["fold"], row["image_id"]): row["group"]
        for row in read_csv(run.splits)
        if row["protocol"] == protocol
    }
    probs: dict[float | None, list[NDArray[np.float64]]] = defaultdict(list)
    truth: list[NDArray[np.int64]] = []
    for fold in np.unique(table.fold).tolist():
        cal, test = (table.select(part=part, fold=fold) for part in ("cal", "test"))
        if not len(cal.y_true):
            continue
        groups = [group[str(fold), image] for image in cal.image_id.tolist()]
        truth.append(test.y_true)
        probs[None].append(apply_temperature(test.logits, 1.0))
        for icc in CANDIDATES:
            temperature = fit_temperature(cal.logits, cal.y_true, evidence_weights(groups, icc))
            probs[icc].append(apply_temperature(test.logits, temperature))
    if not truth:
        return {}
    y = np.concatenate(truth)
    scores: Scores = {}
    for key, parts in probs.items():
        p = np.concatenate(parts)
        ece = compute_metrics(y, p, table.class_names)["ece"]
        assert ece is not None
        loss = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()
        scores[key] = (float(ece), float(loss))
    return scores


if __name__ == "__main__":
    main()
