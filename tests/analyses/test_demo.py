"""The demo can be repeated, whatever an earlier try left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.analyses.demo import run_demo
from leukoscope.config.loading import load_study_config
from leukoscope.study.run import study_config


@pytest.mark.slow
def test_a_demo_after_a_broken_and_an_older_one(tmp_path: Path) -> None:
    partial = tmp_path / ".phantoms-24.partial"
    partial.mkdir()
    (partial / "half.png").write_bytes(b"")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("of = 'an older version'")
    steps: list[str] = []
    result = run_demo(tmp_path, images=24, listener=lambda step, done, total: steps.append(step))
    assert result.report.is_file()
    assert result.predictions.is_file()
    assert not partial.exists()
    assert "features and probes" in steps
    # What a second demo goes on with instead of beginning anew.
    assert load_study_config(result.report.parent / "config.toml") == study_config(
        tmp_path / "phantoms-24"
    )
