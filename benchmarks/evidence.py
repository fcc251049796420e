"""Does the verdict cry out where a shortcut was planted, and keep silent where none was?

Draws random sets of phantoms, half of them with the stain of each session tied to the class, runs
a small study on each with the code that every study runs, and counts the verdicts. Sets that are
done are kept in ``--out``, so a stopped run goes on.

    python benchmarks/evidence.py verdict --sets 100 --seed 30000 --out evidence

The second command compares ways to take the stain away: how well a forest on colour statistics
still names the session, and how well a linear head on features still tells the class.

    python benchmarks/evidence.py stain --seed 12
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import Macenko, Reinhard
from leukoscope.core.files import write_json
from leukoscope.evaluation.intervals import proportion_interval
from leukoscope.imaging.background import colour_statistics
from leukoscope.imaging.stain import grey_density, macenko, reinhard
from leukoscope.learning.features import extract_features
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.phantom.writing import write_phantoms
from leukoscope.study import store
from leukoscope.study.run import run_study, study_config

CONFOUNDERS = ("stain", "none")
SIZE_PX = 96
PROBES = ("colour-only", "background-only")  # those that a stain can move
LEVELS = ("unsafe", "caution", "inconclusive", "plausible")
_build = store.build_network


_networks: dict[str, Any] = {}


def _shared_network(config: Any, **options: Any) -> Any:
    """One network for all sets of a process: its export takes longer than a whole set."""
    key = f"{config.model_dump_json()} {options}"
    if key not in _networks:
        _networks[key] = _build(config, **options)
    return _networks[key]


def draw_spec(seed: int, confound: str) -> tuple[PhantomSpec, bool]:
    """A random set, and whether it names its patients."""
    rng = np.random.default_rng(seed)
    images, sessions = int(rng.integers(64, 113)), int(rng.integers(12, 25))
    spec = PhantomSpec(
        images=images,
        sessions=sessions,
        confound=confound,  # type: ignore[arg-type]
        size_px=SIZE_PX,
        seed=int(rng.integers(2**31)),
    )
    return spec, bool(rng.integers(2))


def run_set(seed: int, confound: str) -> dict[str, Any]:
    """Draw one set, run a study on it, and keep what the verdict says."""
    warnings.simplefilter("ignore")
    store.build_network = _shared_network
    spec, patients = draw_spec(seed, confound)
    with tempfile.TemporaryDirectory() as name:
        data = write_phantoms(spec, Path(name) / "data", threads=1)
        if not patients:
            (data / "manifest.csv").unlink()
            shutil.rmtree(data / "truth")
        config = study_config(
            data,
            protocols=("random", "grouped" if patients else "acquisition"),
            probes=PROBES,
            folds=3,
            overrides=(
                f"preprocess.size_px={SIZE_PX * 3 // 2}",  # enlarged, as the default recipe does
                "splits.clusters=12",
                "splits.cluster_curve=[]",
                "bootstrap=400",
                "bundle=false",
            ),
        )
        metrics = run_study(config, Path(name) / "run", report=False).metrics
    return {
        "seed": seed,
        "confound": confound,
        "images": spec.images,
        "sessions": spec.sessions,
        "patients": patients,
        "level": metrics["verdict"]["level"],
        "headline": metrics["verdict"]["headline"],
        "accuracy": [
            (key, row.get("probe", row.get("input", "model")), row["protocol"], _accuracy(row))
            for key in ("results", "probes", "model_on")
            for row in metrics[key]
        ],
    }


def _accuracy(row: dict[str, Any]) -> list[float]:
    return [row["metrics"]["accuracy"][name] for name in ("value", "low", "high")]


def run_all(sets: int, seed: int, out: Path, workers: int) -> list[dict[str, Any]]:
    """Every set once; finished ones are read."""
    jobs = [(seed + i, confound) for i in range(sets) for confound in CONFOUNDERS]
    done, waiting = [], []
    for number, confound in jobs:
        path = out / f"{confound}-{number}.json"
        if path.is_file():
            done.append(json.loads(path.read_text()))
        else:
            waiting.append((number, confound))
    with ProcessPoolExecutor(workers) as pool:
        running = {pool.submit(run_set, *job): job for job in waiting}
        for future in as_completed(running):
            number, confound = running[future]
            found = future.result()
            write_json(out / f"{confound}-{number}.json", found)
            done.append(found)
            print(f"{len(done)}/{len(jobs)} {confound} {number}: {found['level']}", flush=True)
    return done


def table(done: list[dict[str, Any]]) -> Iterator[str]:
    """Counts of levels with the exact interval of `unsafe`, as Markdown."""
    yield "| planted | patients named | sets | " + " | ".join(LEVELS) + " | unsafe, 95 % interval |"
    yield "|---|---|" + "---:|" * 5 + "---|"
    for confound in CONFOUNDERS:
        for patients in (True, False, None):
            rows = [r for r in done if r["confound"] == confound]
            rows = [r for r in rows if patients is None or r["patients"] == patients]
            if not rows:
                continue
            counts = Counter(row["level"] for row in rows)
            low, high = proportion_interval(counts["unsafe"], len(rows))
            who = {True: "yes", False: "no", None: "all"}[patients]
            yield (
                f"| {confound} | {who} | {len(rows)} | "
                + " | ".join(str(counts[level]) for level in LEVELS)
                + f" | {100 * counts['unsafe'] / len(rows):.1f} % "
                f"({100 * low:.1f}–{100 * high:.1f}) |"
            )


def stain_table(seed: int) -> Iterator[str]:
    """Session from colours, class from features, after each way to take the stain away."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    spec = PhantomSpec(images=240, sessions=12, size_px=112, seed=seed)
    fields = [render_phantom(spec, index) for index in range(spec.images)]
    label, patient, session = (
        np.array([getattr(field.case, name) for field in fields])
        for name in ("label", "patient", "session")
    )
    recipe = load_recipe("quick", ["preprocess.size_px=112"])
    network = _build(recipe.model, num_classes=4, size_px=112, seed=0)
    forest = ExtraTreesClassifier(200, min_samples_leaf=2, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500))
    yield "| images | session from colour statistics | class from features, patients held out |"
    yield "|---|---:|---:|"
    for name, change in WAYS.items():
        images = [change(field.image) for field in fields]
        colours = np.stack([colour_statistics(image) for image in images])
        features = extract_features(network, images, recipe.preprocess)
        found = cross_val_score(forest, colours, session, cv=4).mean()
        told = cross_val_score(
            linear, features, label, cv=StratifiedGroupKFold(4), groups=patient
        ).mean()
        yield f"| {name} | {found:.2f} | {told:.2f} |"


WAYS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "as they are": lambda image: image,
    "Macenko": lambda image: macenko(image, Macenko()),
    "Reinhard": lambda image: reinhard(image, Reinhard().mean, Reinhard().std),
    "Macenko, then Reinhard": lambda image: reinhard(
        macenko(image, Macenko()), Reinhard().mean, Reinhard().std
    ),
    "grey density (`stain-neutral`)": grey_density,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    verdict = parts.add_parser("verdict")
    verdict.add_argument("--sets", type=int, default=100, help="of each kind")
    verdict.add_argument("--seed", type=int, default=30000, help="of the first set")
    verdict.add_argument("--out", type=Path, required=True, help="folder for what is finished")
    verdict.add_argument("--workers", type=int, default=2, help="processes")
    parts.add_parser("stain").add_argument("--seed", type=int, default=12)
    options = parser.parse_args()
    if options.part == "stain":
        print("\n".join(stain_table(options.seed)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    done = run_all(options.sets, options.seed, options.out, options.workers)
    print("\n".join(table(done)))
    odd = [r for r in done if (r["level"] == "unsafe") != (r["confound"] != "none")]
    for row in sorted(odd, key=lambda r: (r["confound"], r["seed"])):
        print(f"\n{row['confound']}, seed {row['seed']} ({row['level']}): {row['headline']}")


if __name__ == "__main__":
    main()
