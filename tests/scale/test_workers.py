"""Processes that die, hang and fail."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.scale.journal import Journal
from leukoscope.scale.score_plan import Plan, ScoreFolder, write_inputs
from leukoscope.scale.shard import Task, score_in_processes


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # the processes get this path
    import fakes_score

    yield fakes_score
    del sys.modules["fakes_score"]


def _plan(folder: ScoreFolder, names: list[str], shard_images: int) -> Plan:
    folder.path.mkdir(exist_ok=True)
    images, digest, _ = write_inputs(folder, names, shard_images)
    return Plan(
        bundle="none", reason="", bundle_sha256="0" * 64, engine="none", precision="fp32",
        um_per_px=None, scale_bar_um=None, whole=True, shard_images=shard_images, images=images,
        inputs_sha256=digest, sources=("test",),
    )  # fmt: skip


def _run(folder: ScoreFolder, plan: Plan, fakes: Any, **how: Any) -> Journal:
    tasks = (Task(shard) for shard in range(plan.shards))
    how = {"workers": 2, "threads": 1, "open_scorer": fakes.Fake} | how
    with closing(Journal(folder)) as journal:
        for result in score_in_processes(folder.path, plan, tasks, **how):
            journal.commit(result)
    return journal


def _lines(folder: ScoreFolder, plan: Plan) -> list[str]:
    return [
        line for shard in range(plan.shards) for line in folder.shard(shard).read_text().split("\n")
    ]


def test_deaths_hangs_and_an_image_that_ends_every_process(tmp_path: Path, fakes: Any) -> None:
    names = ["a", "once-1", "c", "dies-1", "hangs-1", "f", "g"]
    folder = ScoreFolder(tmp_path / "run")
    plan = _plan(folder, names, 2)

    journal = _run(folder, plan, fakes, stall_s=1.0)

    assert journal.done == {0, 1, 2, 3}
    assert journal.unreadable == 1
    lines = _lines(folder, plan)
    dead = "dies-1: the process that read this image ended: exit code 7"
    assert lines == ["a", "once-1", "c", dead, "hangs-1", "f", "g"]
    assert not list(folder.predictions.glob(".*.partial"))


def test_what_keeps_a_worker_from_going_on_is_said_and_what_is_done_stays(
    tmp_path: Path, fakes: Any
) -> None:
    folder = ScoreFolder(tmp_path / "run")
    plan = _plan(folder, ["a", "b", "fails-1"], 1)

    with pytest.raises(LeukoscopeError, match="the network gives NaN") as caught:
        _run(folder, plan, fakes, workers=1)

    assert caught.value.hint == "export again"
    with closing(Journal(folder)) as journal:
        assert journal.done == {0, 1}


def test_workers_that_cannot_begin(tmp_path: Path, fakes: Any) -> None:
    folder = ScoreFolder(tmp_path / "run")
    plan = _plan(folder, ["a"], 1)

    with pytest.raises(DataError, match="3 worker processes died before they began: exit code 9"):
        _run(folder, plan, fakes, workers=1, open_scorer=fakes.never_opens)
