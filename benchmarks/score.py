"""`leukoscope score`: speed by workers, cost of Ray, memory of the driver, and a test by killing.

    python benchmarks/score.py speed  --images 20000 --rounds 2
    python benchmarks/score.py memory --images 1000000
    python benchmarks/score.py kill   --images 20000 --kills 50

All three work on phantom thumbnails, which they draw on first use below --folder, and with the
installed bundle `phantom` unless --bundle names another. Each prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.bundle import installed_bundles
from leukoscope.scale.journal import ShardResult, file_of
from leukoscope.scale.pool import TellPlace
from leukoscope.scale.score import Workers, plan_scoring, run_scoring
from leukoscope.scale.score_plan import Plan, Request, ScoreFolder, read_inputs
from leukoscope.scale.shard import Task

PROGRAM = [sys.executable, "-m", "leukoscope", "score"]
FIELDS = 200  # phantom fields that thumbnails are cut from
SIDE = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "memory", "kill"))
    parser.add_argument("--folder", type=Path, default=Path("runs/score-benchmark"))
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.bundle is None:
        options.bundle = next(b for b in installed_bundles() if b.name == "phantom")
    {"speed": speed, "memory": memory, "kill": kill}[options.what](options)


def thumbnails(options: argparse.Namespace) -> Path:
    """A folder of different small images; drawn once."""
    count = min(options.images, 20_000)
    folder: Path = options.folder / f"thumbnails-{count}"
    if not (folder / ".complete").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        per_field = -(-count // FIELDS)
        with ProcessPoolExecutor() as pool:
            list(
                pool.map(
                    _cut, range(FIELDS), [folder] * FIELDS, [per_field] * FIELDS, [count] * FIELDS
                )
            )
        (folder / ".complete").touch()
    return folder


def _cut(field: int, folder: Path, per_field: int, count: int) -> None:
    cv2.setNumThreads(1)
    spec = PhantomSpec(images=FIELDS, size_px=320, seed=7)
    image = render_phantom(spec, field).image
    rng = np.random.default_rng(field)
    inner = folder / f"{field:03d}"
    inner.mkdir(exist_ok=True)
    for number in range(field * per_field, min(count, (field + 1) * per_field)):
        y, x = rng.integers(0, image.shape[0] - SIDE, 2)
        crop = image[y : y + SIDE, x : x + SIDE, ::-1].astype(np.int16) + rng.integers(-4, 5)
        cv2.imwrite(str(inner / f"{number:06d}.png"), np.clip(crop, 0, 255).astype(np.uint8))


def _command(options: argparse.Namespace, source: Path, out: Path, *more: str) -> list[str]:
    named = ["--bundle", str(options.bundle), "--shard-size", str(options.shard_size), "--whole"]
    return [*PROGRAM, str(source), "--out", str(out), *named, *more]


def _timed(command: list[str], cores: set[int] | None = None) -> float:
    started = time.perf_counter()
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    subprocess.run(command, check=True, capture_output=True, preexec_fn=pin)
    return time.perf_counter() - started


def speed(options: argparse.Namespace) -> None:
    source = thumbnails(options)
    cores = sorted(os.sched_getaffinity(0))
    kinds: dict[str, tuple[tuple[str, ...], set[int] | None]] = {
        "one worker, pinned to one core": (("--workers", "1", "--threads", "1"), {cores[0]}),
        f"{len(cores)} workers": (("--workers", str(len(cores)), "--threads", "1"), None),
        f"{len(cores)} actors of Ray": (
            ("--workers", str(len(cores)), "--threads", "1", "--executor", "ray"),
            None,
        ),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    inside: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, (more, pinned) in kinds.items():
            out = options.folder / "speed"
            shutil.rmtree(out, ignore_errors=True)
            seconds[kind].append(_timed(_command(options, source, out, *more), pinned))
            inside[kind].append(_shard_span(out))
    print(f"{options.images} thumbnails of {SIDE} px, shards of {options.shard_size}, best of "
          f"{options.rounds} rounds; bundle {options.bundle.name}\n")  # fmt: skip
    print("| who | s, whole command | images/s | s, first to last commit | against one worker |")
    print("|---|---:|---:|---:|---:|")
    one = min(seconds[next(iter(kinds))])
    for kind in kinds:
        best = min(seconds[kind])
        print(f"| {kind} | {best:.1f} | {options.images / best:.0f} | {min(inside[kind]):.1f} | "
              f"{one / best:.2f}× |")  # fmt: skip
    local, ray = list(kinds)[1:]
    for what, times in (("whole command", seconds), ("first to last commit", inside)):
        ratio = min(times[ray]) / min(times[local]) - 1
        print(f"\nRay against local, {what}: {ratio:+.1%}")


def _shard_span(out: Path) -> float:
    """Seconds between the first and the last committed file, without start and end."""
    times = sorted(path.stat().st_mtime for path in (out / "predictions").glob("*.parquet"))
    return times[-1] - times[0]


class Nothing:
    """A worker that writes rows without looking at images, to see what the driver needs."""

    def __init__(self, folder: Path, plan: Plan, threads: int) -> None:
        self.folder, self.plan = ScoreFolder(folder), plan

    def score(self, task: Task, tell: TellPlace) -> ShardResult:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, names = self.plan.rows(task.shard), list(read_inputs(self.folder, task.shard))
        target = self.folder.shard(task.shard)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        n = len(rows)
        columns: dict[str, Any] = {
            "image": names, "model": [f"none@{self.plan.bundle_sha256[:12]}"] * n,
            "predicted": ["none"] * n, "error": [None] * n, "row": list(rows),
        }  # fmt: skip
        pq.write_table(pa.table(columns), partial)
        return ShardResult(
            task.shard, (file_of(self.folder, partial, target, n),), 0, {"accept": n}, {}, 0.0
        )


def memory(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    manifest = options.folder / f"manifest-{options.images}.csv"
    with manifest.open("w") as file:
        file.write("image,label\n")
        for row in range(options.images):
            file.write(f"archive/slide-{row // 400:06d}/field-{row:09d}.png,pre_b\n")
    folder = ScoreFolder(options.folder / "memory")
    shutil.rmtree(folder.path, ignore_errors=True)
    print(f"{options.images} rows of a manifest, shards of 2000; peak memory of the driver\n")
    print("| after | s | MB |")
    print("|---|---:|---:|")

    def tell(step: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {step} | {time.perf_counter() - started:.1f} | {peak:.0f} |", flush=True)

    started = time.perf_counter()
    tell("start")
    plan = plan_scoring(folder, Request((str(manifest),), options.bundle))
    tell("plan")
    run_scoring(folder, plan, Workers(count=2, threads=1, open_scorer=Nothing))
    tell("all shards (empty workers), manifest")
    found = subprocess.run([*PROGRAM, "--out", str(folder.path), "--verify", "--json"],
                           capture_output=True, check=False)  # fmt: skip
    print(f"\nverify: {json.loads(found.stdout)}")


def kill(options: argparse.Namespace) -> None:
    source = thumbnails(options)
    rng = random.Random(options.seed)
    calm, rough = options.folder / "calm", options.folder / "rough"
    for out in (calm, rough):
        shutil.rmtree(out, ignore_errors=True)
    undisturbed = _timed(_command(options, source, calm))
    command = _command(options, source, rough, "--resume")
    whom: list[str] = []
    starts, lived, started = 0, [], time.perf_counter()
    while True:
        starts += 1
        with (options.folder / "kill.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        born = time.perf_counter()
        while process.poll() is None and len(whom) < options.kills:
            time.sleep(rng.uniform(0.3, 4.0))
            if process.poll() is not None:
                break
            children = _children(process.pid)
            victim = rng.choice([process.pid, *children]) if children else process.pid
            whom.append("driver" if victim == process.pid else "worker")
            os.kill(victim, signal.SIGKILL)
        code = process.wait()
        lived.append(time.perf_counter() - born)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            sys.exit(f"the command ended with {code}, expected 0 or a kill: see kill.log")
    seconds = time.perf_counter() - started
    found = subprocess.run([*PROGRAM, "--out", str(rough), "--verify", "--json"],
                           capture_output=True, check=False)  # fmt: skip
    report = json.loads(found.stdout)
    same, lost, twice, quarantined = _compare(calm, rough)
    print("| | |\n|---|---:|")
    for name, value in {
        "images": options.images,
        "kill -9 of the driver": whom.count("driver"),
        "kill -9 of a worker": whom.count("worker"),
        "starts of the command": starts,
        "s, undisturbed": f"{undisturbed:.1f}",
        "s, with the kills": f"{seconds:.1f}",
        "median life of a command, s": f"{statistics.median(lived):.1f}",
        "images lost": lost,
        "images twice": twice,
        "images wrongly quarantined": quarantined,
        "rows equal to those of the undisturbed run": same,
        "score --verify": "complete" if report["complete"] else report["problems"],
    }.items():
        print(f"| {name} | {value} |")
    if lost or twice or quarantined or same != options.images or not report["complete"]:
        sys.exit("FAILED")


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        pids = [int(text) for text in path.read_text().split()]
    except OSError:
        return []
    return [child for child in pids if b"spawn_main" in _cmdline(child)]


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _compare(calm: Path, rough: Path) -> tuple[int, int, int, int]:
    """Equal rows, images lost, images twice, images without a prediction in the second run."""
    import pyarrow.parquet as pq

    first, second = (
        pq.read_table(out / "predictions").sort_by("row").to_pylist() for out in (calm, rough)
    )
    names = [row["image"] for row in second]
    lost = len({row["image"] for row in first} - set(names))
    twice = len(names) - len(set(names))
    quarantined = sum(row["error"] is not None for row in second)
    same = sum(a == b for a, b in zip(first, second, strict=False))
    return same, lost, twice, quarantined


if __name__ == "__main__":
    main()
