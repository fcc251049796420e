"""Trials in storage: exact numbers, killed and interrupted ones, several processes, bad files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leukoscope.analyses.tuning.trials import (
    JOURNAL,
    TrialPool,
    grid,
    open_storage,
    shown_storage,
)
from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, SplitConfig, StudyConfig
from leukoscope.config.tuning_results import TrialRecord
from leukoscope.config.tuning_space import TuneConfig, parse_search
from leukoscope.core.errors import DataError, UsageError

SEARCH = ["training.learning_rate=log:1e-5..1e-2", "training.batch_size=choice:8,16,32"]


def config(**options: str) -> TuneConfig:
    study = StudyConfig(
        data=DataConfig(path="data"),
        recipes=(load_recipe("cnn-baseline"),),
        protocols=("random",),
        splits=SplitConfig(folds=1),
    )
    return TuneConfig(study=study, space=parse_search(SEARCH), **options)


def trials(out: Path, storage: str = "", steps: int = 5, **options: str) -> TrialPool:
    return TrialPool(config(**options), "0" * 64, storage, out, minimise=True, steps=steps)


def run(pool: TrialPool, limit: int, sessions_end: int | None = None) -> None:
    """Fit a made-up criterion; stop the trial with this number as Ctrl-C would."""
    while drawn := pool.ask(limit):
        trial, labels = drawn
        if trial.number == sessions_end:
            pool.stop(trial, "stopped by the user")
            return
        pool.complete(trial, labels["training.learning_rate"])


def labels(rows: list[TrialRecord]) -> list[dict[str, object]]:
    return [dict(row.labels) for row in rows if row.state == "complete"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_tuning_in_two_sessions_is_the_same_as_in_one(tmp_path: Path, sampler: str) -> None:
    with trials(tmp_path / "a", sampler=sampler) as pool:
        run(pool, 9)
        straight = pool.rows()
        assert pool.importances()
    with trials(tmp_path / "b", sampler=sampler) as pool:
        run(pool, 9, sessions_end=4)
    with trials(tmp_path / "b", sampler=sampler) as pool:
        run(pool, 9)
        rows = pool.rows()
        assert pool.ask(9) is None
    assert len(straight) == 9
    assert [row.state for row in rows].count("stopped") == 1
    assert sorted(map(str, labels(rows))) == sorted(map(str, labels(straight)))
    if sampler != "grid":  # whose queue was full already: there the stopped one comes last
        assert labels(rows) == labels(straight)
        assert labels(rows)[0] == {"training.learning_rate": 1e-3, "training.batch_size": 32}


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_tuning_trials import trials
with trials(Path({out!r}), {storage!r}) as pool:
    if {die!r}:
        trial, labels = pool.ask(4)
        print(labels, flush=True)
        time.sleep(60)
    print("ready", flush=True)
    sys.stdin.readline()
    while drawn := pool.ask(12):
        time.sleep(0.03)
        pool.complete(drawn[0], 1.0)
"""


@contextmanager
def worker(out: Path, die: bool, storage: str = "") -> Iterator[subprocess.Popen[str]]:
    folder = str(Path(__file__).parent)
    code = WORKER.format(folder=folder, out=str(out), die=die, storage=storage)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_trial_of_a_killed_process_is_taken_up_again(tmp_path: Path) -> None:
    with worker(tmp_path, die=True) as process, trials(tmp_path) as pool:
        assert process.stdout is not None
        drawn = process.stdout.readline().strip()
        trial, _ = pool.ask(4) or pytest.fail("nothing was drawn")
        assert [row.state for row in pool.rows()] == ["running", "running"]  # it is alive
        pool.complete(trial, 1.0)
        process.kill()
        process.wait()
        again, values = pool.ask(4) or pytest.fail("nothing was drawn")
        assert str(values) == drawn
        first = pool.rows()[0]
        assert (first.state, first.reason) == ("stopped", "its process was killed")
        pool.complete(again, 1.0)
        run(pool, 4)
        assert [row.state for row in pool.rows()].count("complete") == 4
    assert not list((tmp_path / "cache" / "workers").glob("?" * 12 + ".lock"))


def test_a_received_storage_names_no_file_elsewhere(tmp_path: Path) -> None:
    """The name of a trial's worker is that of its lock file, which is deleted after its death."""
    other = tmp_path / "home" / "backup.lock"
    other.parent.mkdir()
    other.touch()
    with trials(tmp_path / "out") as pool:
        trial, _ = pool.ask(4) or pytest.fail("nothing was drawn")
        outside = os.path.relpath(other.with_suffix(""), tmp_path / "out" / "cache" / "workers")
        trial.set_user_attr("worker", outside)
    with trials(tmp_path / "out") as pool:
        assert pool.ask(4) is not None
    assert other.is_file()


@pytest.mark.parametrize("storage", ["", "journal:{}/all.journal", "sqlite:///{}/all.db"])
def test_two_processes_share_the_trials_and_keep_to_the_number(
    tmp_path: Path, storage: str
) -> None:
    """In one folder, or each in its own, as on two machines."""
    storage = storage.format(tmp_path)
    outs = [tmp_path / (name if storage else "a") for name in "ab"]
    if storage:
        with trials(outs[0], storage):  # two processes that create a database at once may clash
            pass
    with worker(outs[0], False, storage) as one, worker(outs[1], False, storage) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in (one, two)] == [0, 0]
    with trials(outs[1], storage) as pool:
        rows = [row for row in pool.rows() if row.state != "stopped"]
        workers = {t.user_attrs["worker"] for t in pool.study.get_trials()}
    assert [row.state for row in rows] == ["complete"] * 12
    assert len({str(row.labels) for row in rows}) == 12  # none twice
    assert sum(row.own for row in rows) == 1
    assert len(workers) == 2


def test_a_process_that_comes_too_late_gives_its_trial_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    with trials(tmp_path / "a", storage) as one, trials(tmp_path / "b", storage) as two:
        run(one, 3)
        late = two._counted
        values = iter([3])  # as if asked before the other drew its last one
        monkeypatch.setattr(two, "_counted", lambda **k: next(values, None) or late(**k))
        assert one.ask(4) is not None
        assert two.ask(4) is None
        states = [row.state for row in one.rows()]
    assert states == ["complete"] * 3 + ["running", "stopped"]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_hopeless_trial_is_pruned(tmp_path: Path, pruner: str) -> None:
    with trials(tmp_path, steps=9, pruner=pruner) as pool:
        for number in range(12):
            trial, _ = pool.ask(12) or pytest.fail("nothing was drawn")
            for step in range(1, 10):
                trial.report(float(number), step)
                if trial.should_prune():
                    pool.prune(trial)
                    break
            else:
                pool.complete(trial, float(number))
        rows = pool.rows()
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    assert rows[0].state == "complete"
    assert all(row.value == row.trial and len(row.reported) < 9 for row in pruned)


def test_other_keys_stay_apart_in_one_storage(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'tune.db'}"
    with trials(tmp_path / "a", storage) as pool:
        run(pool, 2)
    with TrialPool(config(), "1" * 64, storage, tmp_path / "b", minimise=True, steps=5) as pool:
        assert pool.rows() == []
    with trials(tmp_path / "a", storage) as pool:
        assert len(pool.rows()) == 2


def test_a_journal_whose_last_line_was_cut_off_goes_on(tmp_path: Path) -> None:
    with trials(tmp_path) as pool:
        run(pool, 3)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    with trials(tmp_path) as pool:
        run(pool, 5)
    with trials(tmp_path) as pool:
        assert [row.state for row in pool.rows()] == ["complete"] * 5


def test_a_storage_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("not a journal\nat all\n")
    with (
        pytest.raises(DataError, match=r"thesis.txt: expected a journal"),
        trials(tmp_path, f"journal:{file}"),
    ):
        pass
    with pytest.raises(UsageError, match="expects journal:FILE"):
        shown_storage("tune.journal")
    with pytest.raises(UsageError, match=r"nowhere://host/db: cannot be opened") as caught:
        open_storage("nowhere://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert shown_storage("journal:a") == f"journal:{Path.cwd() / 'a'}"
    with pytest.raises(UsageError, match="no database URL"):
        shown_storage("://")


def test_a_grid_holds_every_combination_and_not_too_many() -> None:
    space = config().space
    rows = grid(space, seed=1)
    assert len({str(row) for row in rows}) == 9
    assert grid(space, seed=1) == rows != grid(space, seed=2)
    large = parse_search(
        ["training.learning_rate=log:1e-5..1e-2/100", "training.freeze=int:0..50/51"]
    )
    with pytest.raises(UsageError, match="100 × 51 = 5100 points"):
        grid(large, seed=1)
