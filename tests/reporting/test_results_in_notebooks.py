"""Results show themselves in a notebook, in pandas, and as one short line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leukoscope.config.metrics.file import load_metrics
from leukoscope.core.errors import MissingExtraError
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.views import data_frame, html_table
from leukoscope.datasets.audit.run import audit
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.prediction import Answers, Failure, Prediction
from leukoscope.study.run import StudyResult

ANSWER = Prediction(
    "Pro/1.png", "0" * 64, "pro_b", {"benign": 0.02, "pro_b": 0.98}, 0.98, ("pro_b",), "review",
    ("The image is <blurred>.",), 0.4, {}, "model",
)  # fmt: skip


def test_a_study(make_study: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = make_study(tmp_path)
    result = StudyResult(run, load_metrics(run.metrics), ())
    assert len(repr(result)) < 600
    assert result.metrics.verdict.level in repr(result)
    shown = result._repr_html_()
    assert result.metrics.verdict.level in shown
    assert shown.count("<tr>") == 1 + len(result.metrics.results)
    frame = result.to_frame()
    assert len(frame) == len(result.metrics.results) + len(result.metrics.probes)
    first = result.metrics.results[0].metrics["accuracy"]
    assert (frame.accuracy[0], frame.accuracy_low[0]) == (first.value, first.low)


def test_an_audit(tmp_path: Path) -> None:
    spec = PhantomSpec(images=6, sessions=2, size_px=96)
    found = audit(load_dataset(write_phantoms(spec, tmp_path / "p")), clusters=2)
    assert "6 images" in repr(found)
    assert all(
        f"<td>{row['level']}</td>" in found._repr_html_() for row in found.passport["findings"]
    )
    assert list(found.to_frame().label) == [record.label for record in found.manifest.images]


def test_answers() -> None:
    assert repr(ANSWER) == "<Prediction Pro/1.png: review, pro_b 98.0 %>"
    assert "&lt;blurred&gt;" in ANSWER._repr_html_()
    answers: Answers[Prediction | Failure] = Answers([ANSWER, Failure("x", "empty", "no bytes")])
    assert "no bytes" in answers._repr_html_()
    frame = Answers([ANSWER]).to_frame()
    assert (frame.predicted[0], frame.p_pro_b[0]) == ("pro_b", 0.98)


def test_a_long_table_is_cut_and_says_so() -> None:
    assert "and 10 more" in html_table(["n"], [(i,) for i in range(60)])


def test_without_pandas_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"leukoscope\[pandas\]"):
        data_frame([{}])
