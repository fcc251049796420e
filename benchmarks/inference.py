"""How fast is `predict`, beside the script that a user would write with torch, timm and PIL?

Each measurement is a process of its own, taken in turns, so that a busy machine slows all alike;
ratios are of the medians over the turns. Processor time tells the same where other programs take
the cores meanwhile. Throughput is counted from files on disk to the closed
CSV, models loaded; the plain script reads with a DataLoader of two workers and runs the same
architecture in eager float32, without calibration, quality, rejection or checks of the files. The
bare engine is fed from memory. Cold is a new process for one image, wall clock, with sources
compiled as an installer leaves them.

python benchmarks/inference.py BUNDLE DATA [--images 600] [--turns 3] > docs/results/inference.md
"""

from __future__ import annotations

import argparse
import compileall
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURE = "efficientnet_lite0"
SINGLE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--long", type=int, default=0, help="also peak memory of so many images")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = [str(path) for path in sorted(options.data.rglob("*")) if path.suffix in _SUFFIXES]
    paths = paths[:: max(1, len(paths) // options.images)][: options.images]
    if options.worker:
        kind, _, serving = options.worker.partition(" ")
        found = WORKERS[kind](options.bundle, paths, serving, options)
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        print(json.dumps(found | {"peak_mb": max(u.ru_maxrss for u in usage) / 1024}))
        return
    compileall.compile_dir(Path(__file__).resolve().parents[1] / "src", quiet=2)
    report(options, paths)


class Watch:
    """Wall clock and processor time of this process and its workers."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def stop(self, count: int) -> dict[str, float]:
        """Images a second, and milliseconds of processor time an image."""
        cpu = sum(os.times()[:4]) - self.cpu
        return {
            "per_s": count / (time.perf_counter() - self.wall),
            "cpu_ms": 1000 * cpu / count,
        }


_SUFFIXES = {".jpg", ".png", ".bmp", ".webp"}


def ours(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """Files to CSV with a bundle."""
    from leukoscope.runtime.engines import one_thread_each
    from leukoscope.runtime.outputs import PredictionWriter
    from leukoscope.runtime.predictor import load_bundle

    engine, precision = serving.split()
    one_thread_each()  # as `leukoscope predict` does
    predictor = load_bundle(bundle, engine=engine, precision=precision, bulk=True)
    predictor.predict(paths[:16])
    count = options.long or len(paths)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        with PredictionWriter(Path(folder) / "p.csv", predictor.class_names) as writer:
            for answer in predictor.predict_stream(islice(cycle(paths), count)):
                writer.write(answer)
        return watch.stop(count)


def bare(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """The engine alone, as many batches at once as `predict` has."""
    from leukoscope.imaging.decode import decode_image
    from leukoscope.imaging.preprocess import apply_preprocess
    from leukoscope.runtime.bundle import read_bundle
    from leukoscope.runtime.engine_choice import open_for
    from leukoscope.runtime.predictor import BATCH

    engine, precision = serving.split()
    found = read_bundle(bundle)
    opened = open_for(found, engine, precision, bulk=True)
    spec = found.record.preprocess
    batch = np.stack([apply_preprocess(decode_image(Path(p)).image, spec) for p in paths[:BATCH]])
    opened.run(batch)
    rounds = max(1, len(paths) // BATCH)
    with ThreadPoolExecutor(opened.threads) as pool:
        watch = Watch()
        list(pool.map(lambda _: opened.run(batch), range(rounds)))
        return watch.stop(rounds * BATCH)


def plain(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """The script that a user would write."""
    import timm
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    model, transform = _plain_model(bundle)

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(paths[index]).convert("RGB")), paths[index]

    assert timm is not None
    loader = DataLoader(Images(), batch_size=32, num_workers=2)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        watch = Watch()
        with (Path(folder) / "p.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            for batch, names in loader:
                probs = model(batch).softmax(1).tolist()
                writer.writerows([name, *row] for name, row in zip(names, probs, strict=True))
        del loader  # its workers count once they have ended
        return watch.stop(len(paths))


def latency(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """One image after the other, from file to answer."""
    from leukoscope.runtime.predictor import load_bundle

    engine, precision = serving.split()
    predictor = load_bundle(bundle, engine=engine, precision=precision)
    return _percentiles(lambda path: predictor.predict([path]), paths)


def plain_latency(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """The same with the plain script."""
    import torch
    from PIL import Image

    model, transform = _plain_model(bundle)
    with torch.inference_mode():
        return _percentiles(
            lambda path: model(transform(Image.open(path).convert("RGB"))[None]).softmax(1), paths
        )


def _plain_model(bundle: Path) -> tuple[Any, Any]:
    import timm
    import torch
    from torchvision import transforms

    record = json.loads((bundle / "bundle.json").read_text())
    spec = record["preprocess"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = timm.create_model(ARCHITECTURE, num_classes=len(record["class_names"])).eval()
    steps = [
        transforms.Resize((spec["size_px"], spec["size_px"])),
        transforms.ToTensor(),
        transforms.Normalize(spec["mean"], spec["std"]),
    ]
    return model, transforms.Compose(steps)


def _percentiles(predict: Callable[[str], Any], paths: list[str]) -> dict[str, float]:
    for path in paths[:5]:
        predict(path)
    times = []
    for path in islice(cycle(paths), SINGLE):
        start = time.perf_counter()
        predict(path)
        times.append(1000 * (time.perf_counter() - start))
    return {f"p{q}": float(np.percentile(times, q)) for q in (50, 95, 99)}


def plain_one(bundle: Path, paths: list[str], serving: str, options: Any) -> dict[str, float]:
    """One image in a new process, as `cold` times it."""
    import torch
    from PIL import Image

    model, transform = _plain_model(bundle)
    with torch.inference_mode():
        model(transform(Image.open(paths[0]).convert("RGB"))[None]).softmax(1)
    return {}


WORKERS = {
    "ours": ours,
    "bare": bare,
    "plain": plain,
    "latency": latency,
    "plain-latency": plain_latency,
    "plain-one": plain_one,
}


def _worker(options: Any, kind: str, *more: str) -> dict[str, float]:
    command = [sys.executable, __file__, str(options.bundle), str(options.data)]
    command += ["--images", str(options.images), "--worker", kind, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _cold(options: Any, path: str) -> tuple[float, float]:
    program = [sys.executable, "-m", "leukoscope", "predict", path, "--json", "--bundle"]
    start = time.perf_counter()
    subprocess.run([*program, str(options.bundle)], capture_output=True, check=True)
    middle = time.perf_counter()
    _worker(options, "plain-one")
    return middle - start, time.perf_counter() - middle


def report(options: Any, paths: list[str]) -> None:
    from leukoscope.runtime.bundle import read_bundle
    from leukoscope.runtime.engine_choice import offered_variants, open_for

    bundle = read_bundle(options.bundle)
    chosen = open_for(bundle)
    servings = [" ".join(pair) for pair in offered_variants(bundle.record)]
    measured: dict[str, list[dict[str, float]]] = {}
    cold = []
    for _ in range(options.turns):
        kinds = [f"{kind} {serving}" for serving in servings for kind in ("ours", "bare")]
        auto = f"{chosen.name} {chosen.precision}"
        for kind in ("plain", *kinds, f"latency {auto}", "plain-latency"):
            measured.setdefault(kind, []).append(_worker(options, kind))
        cold.append(_cold(options, paths[0]))

    def median(kind: str, name: str) -> float:
        return float(np.median([row[name] for row in measured[kind]]))

    load = os.getloadavg()[0]
    print("# Speed of prediction\n\n```bash\npython benchmarks/inference.py BUNDLE DATA", end="")
    more = f" --long {options.long}" if options.long else ""
    print(f" --images {options.images} --turns {options.turns}{more}\n```\n")
    print(
        f"{len(paths)} image files, {len(os.sched_getaffinity(0))} cores, medians of "
        f"{options.turns} turns, load of the machine {load:.1f} at the end. `--engine auto` took "
        f"{chosen}. fastai and AutoGluon were not installed.\n"
    )
    base, base_cpu = median("plain", "per_s"), median("plain", "cpu_ms")
    head = ("files to CSV, images/s", "× plain script", "bare engine, images/s", "of it")
    head += ("processor ms an image", "plain script / it", "bare engine / it")
    print(f"| | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    print(f"| torch + timm + PIL, eager | {base:.0f} | 1 | | | {base_cpu:.1f} | 1 | |")
    for serving in servings:
        kinds = [f"{kind} {serving}" for kind in ("ours", "bare")]
        (ours_s, bare_s), (ours_cpu, bare_cpu) = (
            [median(kind, name) for kind in kinds] for name in ("per_s", "cpu_ms")
        )
        print(
            f"| `predict`, {serving} | {ours_s:.0f} | {ours_s / base:.1f} | {bare_s:.0f} | "
            f"{ours_s / bare_s:.0%} | {ours_cpu:.1f} | {base_cpu / ours_cpu:.1f} | "
            f"{bare_cpu / ours_cpu:.0%} |"
        )
    print("\n| one image at a time, ms | p50 | p95 | p99 | cold start, s | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    starts = np.median(cold, axis=0)
    for name, kind, bulk, start in (
        ("torch + timm + PIL, eager", "plain-latency", "plain", starts[1]),
        (f"`predict`, {auto}", f"latency {auto}", f"ours {auto}", starts[0]),
    ):
        cells = " | ".join(f"{median(kind, f'p{q}'):.1f}" for q in (50, 95, 99))
        print(f"| {name} | {cells} | {start:.2f} | {median(bulk, 'peak_mb'):.0f} |")
    print(f"\nCold: {starts[0] / starts[1]:.2f} of the plain script.")
    if options.long:
        count = str(options.long)
        peak = _worker(options, f"ours {auto}", "--long", count)["peak_mb"]
        print(f"\nPeak memory for {options.long} images (the same files again): {peak:.0f} MB.")


if __name__ == "__main__":
    main()
