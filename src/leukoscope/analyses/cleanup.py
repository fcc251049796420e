"""Find run folders by name and remove them: only what a study wrote, and never through a link."""

from __future__ import annotations

import os
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.files import read_json
from leukoscope.core.run_folder import RunFolder

REPORT = (
    "config", "environment", "metrics", "report_html", "report_md", "model_card", "checklists",
)  # fmt: skip
_OTHERS = (
    "manifest", "passport", "patients", "splits", "predictions", "figures", "explanations",
    "ensemble", "robustness", "robustness_table", "bundle", "external", "cache",
)  # fmt: skip
REPORT_NAMES = frozenset(getattr(RunFolder(Path()), name).name for name in REPORT)
OUR_NAMES = REPORT_NAMES | {getattr(RunFolder(Path()), name).name for name in _OTHERS} | {"models"}
"""What a study writes into its folder; everything else there is somebody's own."""

DEPTH = 4


@dataclass(frozen=True)
class RunInfo:
    """One run folder.

    Attributes:
        name: Path relative to the folder that was searched.
        path: The folder.
        size_mb: Size of all its files; links are not followed.
        changed: Time of the last change of a file, ISO 8601, local time.
        idle_s: Seconds since then.
        recipes: Names of the recipes.
        protocols: Names of the protocols.
        state: ``finished``, ``report only`` (the rest was removed) or ``unfinished``.
        verdict: Level of its verdict; empty if there is none.
    """

    name: str
    path: Path
    size_mb: float
    changed: str
    idle_s: float
    recipes: tuple[str, ...]
    protocols: tuple[str, ...]
    state: str
    verdict: str


@dataclass(frozen=True)
class CleanPlan:
    """What would be removed from one run folder.

    Attributes:
        run: The run.
        remove: Files and folders that a study wrote; of a link only the link.
        keep: What stays: the report on request, and everything that no study wrote.
        size_mb: Size of ``remove``.
    """

    run: RunInfo
    remove: tuple[Path, ...]
    keep: tuple[Path, ...]
    size_mb: float


def find_runs(root: Path) -> list[RunInfo]:
    """All run folders at or below ``root``, by name; hidden folders and links are skipped.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder with runs, but there is none",
            hint="name the folder: leukoscope runs list FOLDER",
        )
    return sorted((_info(path, root) for path in _walk(root, DEPTH)), key=lambda run: run.name)


def plan_cleaning(names: Sequence[str], root: Path, *, keep_report: bool) -> list[CleanPlan]:
    """Plan what would be removed; nothing is removed yet.

    Names are paths, or those of run folders below ``root``; ``keep_report`` keeps the report, the
    statistics and the configuration.

    Raises:
        UnknownNameError: No run has this name.
        DataError: The folder is a link, or holds no study.
    """
    return [_plan(_find(name, root), keep_report) for name in dict.fromkeys(names)]


def clean(plan: CleanPlan) -> None:
    """Remove what a plan names, and the run's folder if it is empty afterwards."""
    config = RunFolder(plan.run.path).config
    for path in sorted(plan.remove, key=lambda path: path == config):
        # The configuration goes last: until then a cleaning that was killed can be repeated.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # unlinks links inside and never follows them
        else:
            path.unlink(missing_ok=True)
    if not any(plan.run.path.iterdir()):
        plan.run.path.rmdir()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if _config(folder) is not None:
        yield folder
        return
    if depth == 0:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), depth - 1)


def _config(folder: Path) -> dict[str, object] | None:
    """The study's configuration, of any version; None if the folder is not a run."""
    try:
        values = tomllib.loads(RunFolder(folder).config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    data, recipes = values.get("data"), values.get("recipes")
    ours = isinstance(data, dict) and "path" in data and isinstance(recipes, list)
    return values if ours else None


def _info(path: Path, root: Path) -> RunInfo:
    config = _config(path) or {}
    folder, verdict = RunFolder(path), ""
    recipes, protocols = config.get("recipes"), config.get("protocols")
    if folder.metrics.is_file():
        try:
            metrics = read_json(folder.metrics)
            verdict = str(metrics["verdict"]["level"])
            protocols = list(dict.fromkeys(row["protocol"] for row in metrics["results"]))
        except (DataError, KeyError, TypeError):
            verdict = "metrics.json is damaged"
    full = folder.manifest.is_file()
    state = "unfinished" if not verdict else "finished" if full else "report only"
    newest = max((status.st_mtime for status in _files(path)), default=path.stat().st_mtime)
    return RunInfo(
        name=path.relative_to(root).as_posix() if path != root else path.resolve().name,
        path=path,
        size_mb=_size_mb([path]),
        changed=datetime.fromtimestamp(newest).isoformat(sep=" ", timespec="minutes"),
        idle_s=time.time() - newest,
        recipes=tuple(str(r.get("name")) for r in recipes if isinstance(r, dict))
        if isinstance(recipes, list)
        else (),
        protocols=tuple(map(str, protocols)) if isinstance(protocols, list) else (),
        state=state,
        verdict=verdict,
    )


def _files(path: Path) -> Iterator[os.stat_result]:
    """Status of every file at or below a path, without following links."""
    if path.is_symlink() or not path.is_dir():
        yield path.lstat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield (Path(folder) / name).lstat()
            except OSError:
                continue  # a run that goes on replaces its files


def _size_mb(paths: Sequence[Path]) -> float:
    return sum(status.st_size for path in paths for status in _files(path)) / 1e6


def _find(name: str, root: Path) -> Path:
    candidates = [path for path in (root / name, Path(name)) if path.is_symlink() or path.is_dir()]
    for path in candidates:
        if _config(path) is not None and not path.is_symlink():
            return path
    for path in candidates:
        if path.is_symlink():
            raise DataError(
                f"{path} is a link to {path.resolve()}: links are not followed",
                hint="name the folder that it leads to",
            )
        raise DataError(
            f"{path}: expected the folder of a study (with its config.toml), found another "
            "folder: nothing is removed from it",
            hint="see `leukoscope runs list`",
        )
    known = [run.name for run in find_runs(root)] if root.is_dir() else []
    raise UnknownNameError(f"run below {root}", name, known)


def _plan(path: Path, keep_report: bool) -> CleanPlan:
    remove: list[Path] = []
    keep: list[Path] = []
    for entry in sorted(path.iterdir()):
        wanted = keep_report and entry.name in REPORT_NAMES
        (remove if is_study_file(entry.name) and not wanted else keep).append(entry)
    return CleanPlan(_info(path, path.parent), tuple(remove), tuple(keep), _size_mb(remove))


def is_study_file(name: str) -> bool:
    """Whether a study writes this name, or a temporary file left by a kill has it.

    >>> is_study_file("metrics.json"), is_study_file(".metrics.json.k3x9.json")
    (True, True)
    >>> is_study_file("notes.txt")
    False
    """
    return name in OUR_NAMES or any(name.startswith(f".{own}.") for own in OUR_NAMES)
