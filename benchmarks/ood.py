"""Print how a study's bundle takes pictures of other sources, as Markdown.

python benchmarks/ood.py RUN [DATA …] >> docs/results/ood.md

RUN is a study's folder with its bundle, DATA are folders or patterns of images of other sources.
Pictures that are made (phantoms, noise, inverted images …) are added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from leukoscope.core.run_folder import RunFolder
from leukoscope.runtime.bundle import read_bundle
from leukoscope.study.strangers import meet_strangers, source_name


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    run, items = RunFolder(Path(sys.argv[1])), sys.argv[2:]

    def tell(step: str, done: int, total: int) -> None:
        print(f"{done}/{total} {step}", file=sys.stderr)

    strangers = meet_strangers(run, items, tell)
    record = read_bundle(run.bundle).record
    assert record.ood is not None
    shown = " ".join([run.path.name, *(quote(short(item)) for item in items)])
    print(f"\n## {record.name}\n\n```bash\npython benchmarks/ood.py {shown}\n```\n")
    scores = ", ".join(f"`{scale.name}`" for scale in record.ood.scores)
    print(f"Scores that decide: {scores}; threshold {record.ood.threshold:.3f} from")
    print(f"{record.ood.n_val} validation images. Each score alone against the synthetic outliers")
    alone = ", ".join(f"`{name}` {area:.3f}" for name, area in record.ood.alone.items())
    print(f"(area under the ROC curve, mean over the kinds): {alone}.\n")
    print("| source | n | AUROC | accepted by the gate | decision `reject` |")
    print("|---|---|---|---|---|")
    for row in strangers:
        print(
            f"| {row.name} | {row.n} | {area(row.roc_auc)} | {percent(*row.accepted)} "
            f"| {100 * row.rejected:.1f} % |"
        )
    print_study(json.loads(run.metrics.read_text())["ood"])


def print_study(rows: list[dict[str, Any]]) -> None:
    print("\nHeld-out images of the same study, a gate fitted in each fold:\n")
    print("| held out | n | groups | rejected | synthetic outliers | AUROC | scores (folds) |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        rejected = percent(*(row["rejected"][key] for key in ("value", "low", "high")))
        used = ", ".join(f"{name} {n}" for name, n in row["folds_using"].items() if n)
        print(
            f"| {row['protocol']} | {row['n']} | {row['n_groups']} {row['unit']}s | {rejected} "
            f"| {row['n_outliers']} | {area(row['roc_auc'])} | {used} |"
        )


def short(item: str) -> str:
    name = source_name(item)
    return name if Path(item).name == name else f"{name}/{Path(item).name}"


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def area(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    return f"{entry['value']:.4f} ({entry['low']:.4f}–{entry['high']:.4f})"


if __name__ == "__main__":
    main()
