"""How long a run took."""

from __future__ import annotations

import time

import pytest

from leukoscope.pipeline.progress import Progress


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
