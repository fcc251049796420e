"""Two processes on loopback train what one does; who is who; what a killed one leaves behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import MissingExtraError, UsageError
from leukoscope.core.files import read_csv
from leukoscope.learning import trainer
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.scale import fit_pool
from leukoscope.scale.fit_pool import join_workers

RANK = Path(__file__).with_name("rank.py")
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_JOB_ID": "417",
    "SLURM_JOB_NAME": "leukoscope",
    "SLURM_NODELIST": "host[1-2]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def python(*words: object) -> list[str]:
    return [sys.executable, *map(str, words)]


def run(command: list[str], **options: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr


def numbers(path: Path) -> np.ndarray:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_csv(path)]
    return np.array([[float(value) for value in row.values()] for row in rows])


def test_two_processes_train_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    of_torchrun = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            python(RANK, two),
            env={**os.environ, **of_torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    monkeypatch.setattr(trainer, "build_loss", trainer.build_loss)  # the script replaces it
    spec = importlib.util.spec_from_file_location("rank", RANK)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.train(one)
    for process in both:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    expected = np.load(one / "rank0.npz")
    for rank in range(2):
        found = np.load(two / f"rank{rank}.npz")
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        numbers(two / "history.csv"), numbers(one / "history.csv"), rtol=1e-4
    )
    assert read_csv(two / "not_finite.csv") == read_csv(one / "not_finite.csv")
    assert [row["what"] for row in read_csv(two / "not_finite.csv")] == ["loss", "gradient"]


def second_of(launcher: int) -> int:
    """The process with rank 1 that a launcher started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("there is none")


@pytest.mark.slow
@pytest.mark.usefixtures("no_study_report")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found through /proc")
def test_after_a_kill_the_rest_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    data = write_phantoms(PhantomSpec(images=32, sessions=4, size_px=96, seed=3), tmp_path / "data")
    more = ("preprocess.size_px=32", "training.precision=fp32", "model.dropout=0")
    slow = ("training.optimizer=sgd", "training.learning_rate=1e-4")  # rounding stays small
    long = ("training.patience=12", "training.epochs=12", *slow, *more)
    short = ("bootstrap=100", "explanations=0", "control_draws=0")  # what comes after the training

    def words(out: Path, *more: object) -> list[str]:
        sets = [word for value in (*long, *short) for word in ("--set", value)]
        start = ("train", data, "-r", "cnn-baseline", "-p", "random")
        return [str(word) for word in (*start, "--no-bundle", *sets, "--out", out, *more)]

    def command(out: Path, *more: object) -> list[str]:
        return python("-m", "leukoscope", *words(out, "--devices", 2, *more))

    out, alone = tmp_path / "out", tmp_path / "alone"
    models = Path("models") / "cnn-baseline" / "random" / "fold0"
    last = out / models / "resume" / "last.ckpt"
    with subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not last.is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(second_of(process.pid), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 2 of 2 was killed (SIGKILL, often for want of memory)" in said
    assert "--resume" in said
    run(command(out, "--resume"))
    done = CliRunner().invoke(app, words(alone))
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(
        numbers(out / models / "history.csv"), numbers(alone / models / "history.csv"), atol=1e-4
    )
    assert not (out / "cache" / "pixels").exists()


def test_a_process_under_slurm_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    monkeypatch.setattr(fit_pool, "_connect", seen.append)
    join_workers(2, 2)
    (place,) = seen
    assert (place.global_rank(), place.world_size(), place.node_rank()) == (3, 4, 1)
    assert place.main_address == "host1"
    with pytest.raises(UsageError, match="started 4 processes, but --devices × --nodes is 1"):
        join_workers(1, 1)  # one of four copies of the same command
    with pytest.raises(UsageError, match="exclude each other"):
        join_workers(2, 2, jobs=2)
    monkeypatch.setenv("SLURM_PROCID", "0")  # a batch script that starts nothing by srun
    assert join_workers(1, 1).ended is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setattr(fit_pool, "_start", lambda devices: devices)
    assert join_workers(2, 1).ended == 2


def test_a_process_of_torchrun_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fit_pool, "_connect", lambda environment: environment.global_rank())
    assert join_workers(1, 1) == 1  # type: ignore[comparison-overlap]
    with pytest.raises(UsageError, match="started 2 processes, but --devices × --nodes is 4"):
        join_workers(2, 2)


def test_what_cannot_be_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_workers(1, 1).announce is None
    with pytest.raises(UsageError, match="--nodes 2 needs a launcher") as caught:
        join_workers(2, 2)
    assert "torchrun --nnodes 2 --nproc-per-node 2" in caught.value.hint
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="--devices 2: this machine has 1"):
        join_workers(2, 1)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_pool, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[train\]"):
        join_workers(2, 1)
