"""Proof that a scoring run is complete: every image once, every file as it was committed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukoscope.core.files import sha256_file
from leukoscope.scale.journal import ShardResult
from leukoscope.scale.plan import Plan, ScoreFolder, load_plan, read_inputs
from leukoscope.scale.score import committed

_NAMED = 20  # problems that are worded; all are counted


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        images: Number of images of the plan.
        found: Of these with a row in a committed shard.
        problems: In words, at most twenty.
        count: Number of problems.
    """

    images: int
    found: int
    problems: tuple[str, ...]
    count: int

    @property
    def complete(self) -> bool:
        """Whether every image has exactly one row in files that are as they were committed."""
        return self.count == 0 and self.found == self.images


def verify_scoring(folder: ScoreFolder) -> Verification:
    """Read every file of a run again and compare it with its plan and its journal.

    Raises:
        UsageError: The folder holds no run.
        DataError: Plan or journal cannot be read.
    """
    plan, done = load_plan(folder), committed(folder)
    problems: list[str] = []
    if not folder.inputs.is_file() or sha256_file(folder.inputs) != plan.inputs_sha256:
        problems.append(f"{folder.inputs.name}: not the list of images that the run began with")
        return Verification(plan.images, 0, tuple(problems), 1)
    found = 0
    for shard in range(plan.shards):
        if shard not in done:
            problems.append(f"{folder.shard(shard).name}: not scored; run again with --resume")
            continue
        wrong = _wrong(folder, plan, done[shard])
        problems += wrong
        if not wrong:
            found += len(plan.rows(shard))
    named = {folder.path / file.name for result in done.values() for file in result.files}
    for place in (folder.predictions, folder.parts):
        extra = sorted(set(place.glob("*.parquet")) - named)
        problems += [f"{path.name}: not of this run; move it away" for path in extra]
    return Verification(plan.images, found, tuple(problems[:_NAMED]), len(problems))


def _wrong(folder: ScoreFolder, plan: Plan, result: ShardResult) -> list[str]:
    for file in result.files:
        path = folder.path / file.name
        if not path.is_file():
            return [f"{file.name}: missing; run again with --resume"]
        if sha256_file(path) != file.sha256:
            return [f"{file.name}: changed after it was committed; delete it, then --resume"]
    return _wrong_rows(folder, plan, result.shard)


def _wrong_rows(folder: ScoreFolder, plan: Plan, shard: int) -> list[str]:
    import pyarrow.parquet as pq

    path: Path = folder.shard(shard)
    columns: dict[str, list[Any]] = pq.read_table(
        path, columns=["row", "image", "model", "error", "predicted"]
    ).to_pydict()
    if columns["row"] != list(plan.rows(shard)):
        return [f"{path.name}: expected the rows {plan.rows(shard)}, each once and in order"]
    names = [n.encode("utf-8", "backslashreplace").decode() for n in read_inputs(folder, shard)]
    if columns["image"] != names:
        return [f"{path.name}: its images are not those of the plan"]
    hashes = {model.rpartition("@")[2] for model in columns["model"] if model}
    if hashes - {plan.bundle_sha256[:12]}:
        return [f"{path.name}: rows of another bundle ({', '.join(sorted(hashes))})"]
    pairs = zip(columns["predicted"], columns["error"], strict=True)
    if any(bool(predicted) == bool(error) for predicted, error in pairs):
        return [f"{path.name}: a row with neither a prediction nor an error, or with both"]
    return []
