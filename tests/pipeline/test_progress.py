"""How long a run took."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from leukoscope.core.run_folder import RunFolder
from leukoscope.pipeline.progress import Progress, describe_environment


def test_a_step_within_another_is_not_counted_twice() -> None:
    progress = Progress()
    with progress.step("training"):
        with progress.step("features"):
            time.sleep(0.02)
        time.sleep(0.01)
    with progress.step("report"):
        time.sleep(0.01)
    assert set(progress.seconds) == {"training", "features", "report"}
    assert progress.in_all_s == pytest.approx(
        progress.seconds["training"] + progress.seconds["report"]
    )


def test_the_command_of_a_run_can_be_typed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["study", "my images (1)", "--layout", "{class}/*", "--out", "it's"]
    monkeypatch.setattr("sys.argv", ["leukoscope", *words])
    command = describe_environment(RunFolder(tmp_path), 0, Progress()).command
    assert shlex.split(command) == ["leukoscope", *words]
