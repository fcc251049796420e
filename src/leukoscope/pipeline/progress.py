"""How a long run tells its caller where it is, and what it depended on."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Protocol

from leukoscope.config.environment import Environment, GitState
from leukoscope.core.files import sha256_file
from leukoscope.core.program import typed
from leukoscope.core.run_folder import RunFolder
from leukoscope.runtime.engines import available_cores

Listener = Callable[[str, int, int], None]
Tell = Callable[[int, int], None]
PACKAGES = (
    "leukoscope",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
    "pillow",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "captum",
)


class TellWithin(Protocol):
    """Progress of one of several jobs, ``later`` jobs after the first."""

    def __call__(self, done: int, total: int, *, later: int = 0) -> None:
        """``done`` of ``total`` of this job."""


def _silent(step: str, done: int, total: int) -> None:
    """Nobody listens."""


@dataclass
class Progress:
    """Names the current step to a listener and keeps the seconds each step took.

    Attributes:
        listener: Called with the step's name, work done and work in all (0 where unknown).
        seconds: Wall time of each finished step.
        in_all_s: Wall time of all steps together; a step within another is not counted twice.
    """

    listener: Listener = _silent
    seconds: dict[str, float] = field(default_factory=dict)
    in_all_s: float = 0.0
    _within: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time a step; yields the function to which it reports (done, total)."""
        start = time.perf_counter()
        self.listener(name, 0, 0)

        def report(done: int, total: int) -> None:
            self.listener(name, done, total)

        self._within += 1
        try:
            yield report
        finally:
            self._within -= 1
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.in_all_s += 0.0 if self._within else took
        self.listener(name, 1, 1)


def package_versions() -> dict[str, str]:
    """Installed versions of the libraries that shape a result; absent ones are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_environment(run: RunFolder, seed: int, progress: Progress) -> Environment:
    """What ``environment.json`` says of this process and run."""
    return Environment(
        schema=1,
        command=typed(*sys.argv[1:]),
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_name(),
        cores=available_cores(),
        git=_git_state(),
        packages=package_versions(),
        seed=seed,
        sha256={
            path.name: sha256_file(path)
            for path in (run.manifest, run.splits, run.predictions)
            if path.is_file()
        },
        seconds={name: round(value, 1) for name, value in progress.seconds.items()},
        seconds_in_all=round(progress.in_all_s, 1),
    )  # fmt: skip


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_state() -> GitState | None:
    """Commit and dirty flag of the source tree; None for an installed wheel or without git."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return GitState(commit=commit, dirty=bool(_git(folder, "status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()
