"""The first screen: what the accuracy is made of, and steps that follow from the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.metrics.evidence import Shortcuts, SourceShare, SourceVerdict
from leukoscope.config.metrics.results import Estimate, NextUnit
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Ranges, Span, Steps
from leukoscope.reporting.study import report, shortcuts
from leukoscope.reporting.study_files import Study, load_study

MakeStudy = Callable[..., RunFolder]
SHARE = Estimate(value=0.7, low=0.6, high=0.8)


@pytest.fixture(scope="module")
def study(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(make_study(tmp_path_factory.mktemp("first"), with_images=False))


def lead(study: Study) -> tuple[Ranges, Ranges, dict[str, str]]:
    accuracy, sources, steps = report.lead(study)
    assert isinstance(accuracy, Ranges)
    assert isinstance(sources, Ranges)
    assert isinstance(steps, Steps)
    assert len(steps.items) <= 3
    return accuracy, sources, dict(steps.items)


def changed(study: Study, **verdict: Any) -> Study:
    made = study.metrics.verdict.model_copy(update=verdict)
    return replace(study, metrics=study.metrics.model_copy(update={"verdict": made}))


def test_the_accuracy_is_shown_from_the_mildest_protocol_to_the_next_unit(study: Study) -> None:
    after = NextUnit(
        value=0.8, low=0.4, high=1.0, unit="cluster", metric="accuracy", n_groups=24, median_n=9
    )
    results = tuple(entry.model_copy(update={"next_unit": after}) for entry in study.results)
    study = replace(study, metrics=study.metrics.model_copy(update={"results": results}))
    accuracy, _, _ = lead(study)
    labels = [span.label for span in accuracy.spans]
    assert labels == [
        "Random split", "Overlaps kept together", "Acquisition clusters held out",
        "Merged clusters held out", "Next cluster",
    ]  # fmt: skip
    assert accuracy.spans[-1].text == "80.0 % (40.0–100.0)"
    assert accuracy.spans[-1].tone == "next"


def test_a_source_that_is_shown_is_named_with_its_remedy(study: Study) -> None:
    shown = SourceVerdict(
        source="stain", status="shown", probe="stain-only", protocol="acquisition", share=SHARE
    )
    open_ = SourceVerdict(source="file", status="open", reason="not run")
    _, sources, steps = lead(changed(study, level="unsafe", sources=(shown, open_)))
    assert [(span.tone, span.text) for span in sources.spans] == [
        ("bad", "✗ 70.0 % (60.0–80.0)"), ("open", "? open"),
    ]  # fmt: skip
    assert (
        sources.title == "What each shortcut alone explains, acquisition clusters held out"
    )  # as the shares are
    assert "✓ below (from 20 groups on)" in sources.mark_text
    assert "stain every class in the same laboratory" in steps["Remove “stain colour” as a clue:"]


def test_what_is_open_is_closed_and_the_honest_figure_is_quoted(study: Study) -> None:
    steps = report._steps(changed(study, level="inconclusive", needs=("more groups",)))
    found = dict(steps)
    assert found["To settle what is open:"] == "more groups."
    assert any(key.startswith("Quote ") for key in found)
    assert "Measure it elsewhere:" not in found  # it has no bundle, as an ensemble has none
    study.run.bundle.mkdir()
    try:
        found = dict(report._steps(study))
    finally:
        study.run.bundle.rmdir()
    assert "leukoscope evaluate run/bundle" in found["Measure it elsewhere:"]


def test_a_range_stays_on_its_line() -> None:
    assert Span("a", "", 0.5, 0.25, 0.75).place == "--at:50.0%;--from:25.0%;--to:50.0%"
    assert Span("a", "", -0.5, -0.9, 1.4).place == "--at:0.0%;--from:0.0%;--to:100.0%"
    assert [Span("a", "", v).beyond for v in (-0.5, 0.5, 1.5, None)] == ["under", "", "over", ""]
    assert Span("a", "", None).place == ""


def test_a_study_without_results_has_no_picture(make_study: MakeStudy, tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path, images=20, protocols=("random",), with_images=False))
    empty = study.metrics.model_copy(update={"results": ()})
    blocks = report.lead(replace(study, metrics=empty))
    assert [block.title for block in blocks if isinstance(block, Ranges)] == [
        "What each shortcut alone explains"
    ]


def test_two_probes_of_one_source_are_told_apart(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = study.protocols[0]
    pair = [
        SourceShare(
            source="frame",
            probe=probe,
            protocol=protocol,
            group_unit="image",
            metric="roc_auc",
            value=0.7,
            model=0.9,
            chance=0.5,
            share=SHARE,
            n=100,
            n_groups=100,
        )
        for probe in ("frame-only", "scale-bar-only")
    ]
    frame = SourceVerdict(source="frame", status="open")
    verdict = study.metrics.verdict.model_copy(update={"sources": [frame]})
    told = replace(study, metrics=study.metrics.model_copy(update={"verdict": verdict}))
    audit = Shortcuts(recipe="quick", sources=tuple(pair))
    monkeypatch.setattr(shortcuts, "audit_of", lambda study: audit)
    words = str(shortcuts.sources(told))
    assert "frame-only 70.0" in words
    assert "scale-bar-only 70.0" in words
