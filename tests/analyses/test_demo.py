"""The demo can be repeated, whatever an earlier try left behind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from leukoscope.analyses import demo
from leukoscope.analyses.demo import PICTURE_PX, SHEET, WHOLE, demo_config, run_demo
from leukoscope.config.loading import load_study_config
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import DEFAULT_PROBES, StudyConfig
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.spec import PhantomSpec


def small_config(data: Path) -> StudyConfig:
    """The demo's study with a small network on small images, in two folds."""
    whole = demo_config(data)
    preprocess = whole.recipes[0].preprocess.model_copy(update={"size_px": 64})
    model = whole.recipes[0].model.model_copy(update={"backbone": "test_resnet", "weights": "none"})
    recipe = whole.recipes[0].model_copy(update={"preprocess": preprocess, "model": model})
    splits = whole.splits.model_copy(update={"folds": 2})
    return whole.model_copy(
        update={"recipes": (recipe,), "splits": splits, "bootstrap": 100, "explanations": 1}
    )


@pytest.mark.slow
@pytest.mark.usefixtures("bare_charts", "few_perturbed")
def test_a_demo_after_a_broken_and_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "demo_config", small_config)
    monkeypatch.setattr(demo, "PhantomSpec", partial(PhantomSpec, size_px=96))
    traced: list[str] = []  # tests/learning/graphs/test_ahead.py has the other process

    def meanwhile(recipe: Recipe, num_classes: int) -> AbstractContextManager[None]:
        traced.append(f"{recipe.name} of {num_classes}")
        return nullcontext()

    monkeypatch.setattr(demo, "traced_meanwhile", meanwhile)
    unfinished = tmp_path / ".phantoms-24.partial"
    unfinished.mkdir()
    (unfinished / "half.png").write_bytes(b"")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("of = 'an older version'")
    told: list[tuple[str, int, int]] = []
    said: list[str] = []
    result = run_demo(
        tmp_path, images=24, listener=lambda *news: told.append(news), say=said.append
    )
    assert result.report.is_file()
    assert result.predictions.is_file()
    assert traced == ["shallow of 4"]
    assert not unfinished.exists()
    whole = [(done, total) for step, done, total in told if step == WHOLE]
    assert whole == sorted(whole)
    assert whole[-1][0] == whole[-1][1]
    drawn = [step for step, done, _ in told if step == "drawing phantoms-24" and done < 24]
    assert len(drawn) == 23
    assert said == [f"the first of the drawn smears: {tmp_path / SHEET}"]
    assert decode_image(tmp_path / SHEET).image.shape == (PICTURE_PX, 20 * PICTURE_PX, 3)
    # What a second demo goes on with instead of beginning anew.
    config = load_study_config(result.report.parent / "config.toml")
    assert config == small_config(tmp_path / "phantoms-24")
    assert set(DEFAULT_PROBES) == set(config.probes)  # all that a verdict needs
