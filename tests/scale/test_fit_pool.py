"""Fits in other processes: the same bytes, clear errors, nobody left behind."""

from __future__ import annotations

import multiprocessing
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.errors import TrainingError, UnknownNameError, UsageError
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.scale import fit_pool, pool
from leukoscope.scale.fit_pool import executor_of, run_here
from leukoscope.study.options import study_config
from leukoscope.study.run import StudyResult, run_study


def quiet(done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=40, sessions=5, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


def study(phantoms: Path, out: Path, **options: Any) -> StudyResult:
    config = study_config(
        phantoms,
        protocols=["random"],
        probes=["colour-only"],
        folds=2,
        overrides=[
            "model.backbone=test_resnet",
            "model.weights=none",
            "preprocess.size_px=64",
            "bootstrap=100",
        ],
    )
    return run_study(config, out, report=False, **options)


def files_of(result: StudyResult) -> dict[str, bytes]:
    names = ["metrics.json", "predictions.csv"]
    paths = sorted(result.run.path.glob("models/**/*.safetensors"))
    paths += [result.run.path / name for name in names]
    return {str(path.relative_to(result.run.path)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def alone(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(phantoms, tmp_path_factory.mktemp("alone") / "run")


def test_two_processes_write_the_bytes_of_one(
    phantoms: Path, alone: StudyResult, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    result = study(
        phantoms,
        tmp_path / "run",
        executor=executor_of("local", 2),
        listener=lambda *row: told.append(row),
    )
    assert files_of(result) == files_of(alone)
    assert len(files_of(result)) == 5
    (step,) = {name for name, _, _ in told if name.startswith("fits in other")}
    counts = [row[1:] for row in told if row[0] == step]
    # The final fit waits for the folds, and is done here.
    assert counts == [(0, 0), *((n, 4) for n in range(1, 5)), (1, 1)]
    assert not (tmp_path / "run" / "cache" / "pixels").exists()
    # Nothing is left to do, so no process is started.
    study(phantoms, tmp_path / "run", resume=True, executor=lambda *_: pytest.fail("started"))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # the processes get this path
    import fakes_fit

    yield fakes_fit
    del sys.modules["fakes_fit"]


def attempts(run: Path) -> list[str]:
    return sorted((run / "attempts").read_text().splitlines())


def test_a_fit_whose_process_is_killed_is_done_once_more(tmp_path: Path, fakes: Any) -> None:
    told: list[tuple[int, int]] = []
    keys = fakes.keys_of("quick", "once", "quick")
    run_here(tmp_path, keys, lambda *counts: told.append(counts), 2, fakes.fits_of)
    assert attempts(tmp_path) == ["once 1", "once 1", "quick 0", "quick 2"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not multiprocessing.active_children()


def test_a_fit_that_kills_every_process_is_named(tmp_path: Path, fakes: Any) -> None:
    with pytest.raises(TrainingError, match=r"dies, random, fold 0 .*\(SIGKILL, often") as caught:
        run_here(tmp_path, fakes.keys_of("dies", "quick"), quiet, 1, fakes.fits_of)
    assert "--resume" in caught.value.hint
    assert attempts(tmp_path).count("dies 0") == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("fails", r"fails, random, fold 0: splits.csv is missing", "use the same paths"),
        ("breaks", r"breaks, random, fold 0: .*fakes_fit.py, line \d+: ValueError", "--resume"),
    ],
)
def test_the_error_of_a_fit_comes_back_with_its_name(
    tmp_path: Path, fakes: Any, name: str, message: str, hint: str
) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        run_here(tmp_path, fakes.keys_of(name), quiet, 1, fakes.fits_of)
    assert hint in caught.value.hint
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_the_processes(
    tmp_path: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, fakes.keys_of(*["quick"] * 3), quiet, 2, fakes.fits_of)
    assert not multiprocessing.active_children()


def test_processes_share_cores_and_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_pool, "available_cores", lambda: 8)
    assert [row["OMP_NUM_THREADS"] for row in fit_pool.shares(3)] == ["2", "2", "2"]
    assert all("CUDA_VISIBLE_DEVICES" not in row for row in fit_pool.shares(3))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [row["CUDA_VISIBLE_DEVICES"] for row in fit_pool.shares(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [row["CUDA_VISIBLE_DEVICES"] for row in fit_pool.shares(3)] == ["5", "7", "5"]


def test_executors_by_name() -> None:
    assert executor_of("local", 1) is None
    with pytest.raises(UnknownNameError, match="unknown executor 'rya'"):
        executor_of("rya", 2)
    with pytest.raises(UsageError, match="--jobs expects"):
        executor_of("local", 0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ray_writes_the_same_bytes(phantoms: Path, alone: StudyResult, tmp_path: Path) -> None:
    result = study(phantoms, tmp_path / "run", executor=executor_of("ray", 1))
    assert files_of(result) == files_of(alone)
