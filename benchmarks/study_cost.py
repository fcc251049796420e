"""Processor time and memory of `study`, step by step, of this and of another checkout.

    git worktree add ../before c7615c6
    python benchmarks/study_cost.py DATA --before ../before > docs/results/study_speed.md

Both studies run at once, so that whatever else the machine does slows both of them. Steps are told
apart by the lines that `study` prints; Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_BEFORE_FITS = "audit and features"  # one says that it computes features before it has its network
STEPS = {
    "reading the images": _BEFORE_FITS,
    "audit": _BEFORE_FITS,
    "splits": _BEFORE_FITS,
    "features": _BEFORE_FITS,
    "training": "models and their gates",
    "probe": "probes",
    "perturbed": "models on changed images",
    "edited": "models on changed images",
    "negative control": "negative control",
    "statistics": "statistics",
    "explanations": "heat maps",
    "bundle": "bundle",
    "report": "report",
}
"""What a line of progress holds → row of the table; the first that fits, else the row goes on."""


@dataclass(frozen=True)
class Cost:
    """What one study took."""

    seconds: dict[str, float]  # row of the table → processor seconds
    total: float  # processor seconds of the whole process, its start included
    peak_mb: float


def measure(
    checkout: Path, data: Path, out: Path, options: list[str], *, one_thread: bool = True
) -> Cost:
    """Run a study of a checkout and watch its processor time, in one thread or as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    environment.pop("OMP_NUM_THREADS", None)
    if one_thread:
        environment["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "leukoscope", "study", str(data), "--out", str(out), *options],
        env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    row, last, lines = "start", 0.0, []
    seconds: dict[str, float] = {}
    for line in process.stdout:
        lines.append(line)
        now = _cpu_s(process.pid)
        seconds[row] = seconds.get(row, 0.0) + now - last
        last = now
        if line.startswith("·"):
            row = next((name for words, name in STEPS.items() if words in line), row)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout}: the study failed\n{''.join(lines[-20:])}")
    total = usage.ru_utime + usage.ru_stime
    seconds[row] = seconds.get(row, 0.0) + total - last
    return Cost(seconds, total, usage.ru_maxrss / 1024)


def _cpu_s(pid: int) -> float:
    """User and system time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(before: Cost, now: Cost) -> list[str]:
    """Markdown: a row for each step, then sums and peak memory."""
    known = {**before.seconds, **now.seconds}
    names = [name for name in dict.fromkeys(STEPS.values()) if name in known]
    rows = [("start", before.seconds["start"], now.seconds["start"])]
    rows += [(name, before.seconds.get(name, 0.0), now.seconds.get(name, 0.0)) for name in names]
    rows.append(("**in all**", before.total, now.total))
    lines = ["| step | before, CPU s | now, CPU s | now / before |", "| --- | --: | --: | --: |"]
    for name, old, new in rows:
        ratio = f"{new / old:.2f}" if old > 0.05 else "–"
        lines.append(f"| {name} | {old:.1f} | {new:.1f} | {ratio} |")
    peaks = f"{before.peak_mb:,.0f} | {now.peak_mb:,.0f} | {now.peak_mb / before.peak_mb:.2f}"
    return [*lines, f"| peak memory, MB | {peaks} |"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("options", nargs="*", help="of `study`, after --")
    asked = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        before, now = pool.map(
            lambda side: measure(side[1], asked.data, Path(folder) / side[0], asked.options),
            (("before", asked.before), ("now", here)),
        )
    commit = subprocess.run(
        ["git", "-C", str(asked.before), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    images = sum(path.is_file() for path in asked.data.rglob("*"))
    print("# Processor time and memory of a study\n")
    print("```bash\npython benchmarks/study_cost.py DATA --before CHECKOUT\n```\n")
    print(
        f"{' '.join(('`study`', *asked.options))} of {images:,} images, one "
        f"thread for matrix products, commit {commit} before. Both ran at once on one machine, so "
        "that the ratios hold whatever else it did; the seconds are those of a busy machine.\n"
    )
    print("\n".join(table(before, now)))


if __name__ == "__main__":
    main()
