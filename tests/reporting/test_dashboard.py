"""The study on one page, and its settings by their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Picture
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study import data
from leukoscope.reporting.study.dashboard import dashboard
from leukoscope.reporting.study_files import load_study

MakeStudy = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def run(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_study(tmp_path_factory.mktemp("four"), with_images=False)


def test_it_has_nine_panels(run: RunFolder) -> None:
    study = load_study(run)
    picture = dashboard(study, Gallery(run)).blocks[0]
    assert isinstance(picture, Picture)
    for title in ("Classes of", "Model and probes", "Confusion", "ROC", "F1", "Recall", "Training",
                  "Reliability", "Confidence"):  # fmt: skip
        assert title in picture.alt
    assert protocol_title(study.protocols[-1]).lower() in picture.caption
    assert picture.narrow_uri
    assert (run.figures / "dashboard.png").is_file()


def test_it_has_fewer_panels_where_files_are_absent(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(
        tmp_path, inputs=("image",), protocols=("random",), images=40, with_images=False
    )
    run.predictions.unlink()
    for path in (run.path / "models").rglob("history.csv"):
        path.unlink()
    picture = dashboard(load_study(run), Gallery(run)).blocks[0]
    assert isinstance(picture, Picture)
    assert "Confusion" in picture.alt
    for title in ("ROC", "Training", "Reliability", "Confidence"):
        assert title not in picture.alt


def test_every_setting_of_every_recipe_stands_under_its_key(run: RunFolder) -> None:
    study = load_study(run)
    recipes = (load_recipe("quick"), load_recipe("densenet121-clahe"))
    study = replace(study, config=study.config.model_copy(update={"recipes": recipes}))
    rows = {key: values for key, *values in data.settings(study).rows}
    assert rows["preprocess.steps"] == ["none", "clahe (clip_limit 2, tiles 8)"]
    assert rows["training.c_grid"] == ["0.0003, 0.003, 0.03, 0.3", "—"]
    assert rows["training.schedule.factor"] == ["—", "0.1"]
    assert rows["augmentation.horizontal_flip"] == ["no", "yes"]
