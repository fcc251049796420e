"""How fast do the commands of every day answer, beside those of an older commit?

Each measurement is a process of its own, from its start to its end; the two source trees take
turns, so that a busy machine slows both alike. Ratios are of the medians over the turns, by the
clock and by processor time (of the process and its children), which other programs disturb less.
The older tree is a checkout of that commit (``git worktree add OLD COMMIT``); both run in this
environment, with the bundles of the older tree, for it may not read newer ones.

python benchmarks/speed.py OLD BUNDLE DATA [--turns 5] [--demo-turns 1] > docs/results/speed.md
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".jpg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Task:
    """A command that is timed.

    Attributes:
        title: As in the table.
        words: What follows ``leukoscope``; ``OUT`` stands for a new folder.
        turns: How often each tree runs it.
    """

    title: str
    words: Sequence[str]
    turns: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="checkout of the older commit")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=804)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--demo-turns", type=int, default=1, help="0 leaves the demo out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tasks = list(tasks_of(options, Path(work)))
        trees = {"older": options.old.resolve(), "this": ROOT}
        for tree in trees.values():  # as an installer leaves it: nobody pays for it at every start
            compileall.compile_dir(tree / "src", quiet=2)
        bundles = trees["older"] / "bundles" / "src"
        sources = {name: f"{tree / 'src'}{os.pathsep}{bundles}" for name, tree in trees.items()}
        measured = {task.title: measure(task, sources) for task in tasks}
    print(head(options))
    print("| command | older, s | this, s | ratio | older, processor s | this | ratio |")
    print("|---|---|---|---|---|---|---|")
    for task in tasks:
        old, new = (np.median(measured[task.title][name], axis=0) for name in trees)
        cells = [f"{a:.2f} | {b:.2f} | {b / a:.2f}" for a, b in zip(old, new, strict=True)]
        print(f"| {task.title} | {' | '.join(cells)} |")


def tasks_of(options: argparse.Namespace, work: Path) -> Iterator[Task]:
    """The commands, the quickest first."""
    bundle, turns = str(options.bundle.resolve()), options.turns
    found = [path for path in sorted(options.data.resolve().rglob("*")) if path.suffix in SUFFIXES]
    many = work / "many"
    many.mkdir()
    chosen = found[:: max(1, len(found) // options.images)][: options.images]
    for number, path in enumerate(chosen):
        (many / f"{number:05d}{path.suffix}").symlink_to(path)
    yield Task("`leukoscope --help`", ("--help",), turns)
    one = ("predict", str(found[0]), "--json", "--bundle", bundle)
    yield Task("`leukoscope predict ONE --bundle B`", one, turns)
    yield Task("`leukoscope predict ONE`, which chooses a bundle", one[:3], turns)
    bulk = ("predict", str(many), "--bundle", bundle, "--out", "OUT/answers.csv")
    yield Task(f"`leukoscope predict`, {len(chosen)} files to CSV", bulk, max(1, turns // 2))
    if options.demo_turns:
        yield Task("`leukoscope demo`", ("demo", "--out", "OUT"), options.demo_turns)


def measure(task: Task, sources: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock and of the processor of each turn, by tree; a first one warms up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
    warm = int(task.turns > 1)
    for turn in range(task.turns + warm):
        for name, path in sources.items():
            taken = timed(task.words, path)
            if turn >= warm:
                found[name].append(taken)
    return found


def timed(words: Sequence[str], path: str) -> tuple[float, float]:
    """Wall and processor seconds of one command whose modules lie in a search path."""
    environment = {**os.environ, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as out:
        own = [word.replace("OUT", out) for word in words]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "leukoscope", *own],
            capture_output=True, text=True, check=False, env=environment, cwd=out,
        )  # fmt: skip
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(own)}: {done.stderr[-2000:]}")
    spent = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return wall, spent


def head(options: argparse.Namespace) -> str:
    """Title, command and circumstances."""
    commit = subprocess.run(
        ["git", "-C", str(options.old), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return (
        "# Speed of the commands of every day\n\n```bash\n"
        f"git worktree add OLD {commit}\n"
        f"python benchmarks/speed.py OLD BUNDLE DATA --images {options.images} "
        f"--turns {options.turns} --demo-turns {options.demo_turns}\n```\n\n"
        f"Whole processes, both trees in turns; medians of {options.turns} turns "
        f"({max(1, options.turns // 2)} of many files, {options.demo_turns} of the demo). "
        f"{len(os.sched_getaffinity(0))} cores, load of the machine {os.getloadavg()[0]:.1f} at "
        f"the end: the more it exceeds the cores, the more the processor's seconds tell and the "
        f"clock's do not. Older: {commit}. A ratio below 1 is faster.\n"
    )


if __name__ == "__main__":
    main()
