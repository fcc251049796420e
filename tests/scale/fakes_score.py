"""Workers that die, hang or fail where a test says so; a process of its own imports this."""

from __future__ import annotations

import os
import time
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.scale.journal import ShardResult, file_of
from leukoscope.scale.pool import TellPlace
from leukoscope.scale.score_plan import Plan, ScoreFolder, read_inputs
from leukoscope.scale.shard import Task


class Fake:
    """Writes the names of a shard; what happens to an image stands in its name."""

    def __init__(self, folder: Path, plan: Plan, threads: int) -> None:
        self.folder, self.plan = ScoreFolder(folder), plan

    def score(self, task: Task, tell: TellPlace) -> ShardResult:
        rows = []
        poison = dict(task.poison)
        for place, name in enumerate(read_inputs(self.folder, task.shard)):
            tell(place)
            if place in poison:
                rows.append(f"{name}: {poison[place]}")
                continue
            marker = self.folder.path / f"{name}.seen"
            first = not marker.exists()
            marker.touch()
            if name.startswith("dies") or (name.startswith("once") and first):
                os._exit(7)
            if name.startswith("hangs") and first:
                time.sleep(60)
            if name.startswith("fails"):
                raise BundleError("the network gives NaN", hint="export again")
            rows.append(name)
        target = self.folder.shard(task.shard)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        partial.write_text("\n".join(rows))
        file = file_of(self.folder, partial, target, len(rows))
        return ShardResult(task.shard, (file,), len(poison), {}, {}, 0.0)


def never_opens(folder: Path, plan: Plan, threads: int) -> Fake:
    os._exit(9)
