"""The notebooks run from top to bottom, with a small network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import leukoscope

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """What runs cells and shows results in a notebook, in this process: it has its imports."""
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # another one may be active where make runs
    config = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.mark.slow
@pytest.mark.usefixtures("no_study_report", "few_perturbed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(
    path: Path,
    shell: InteractiveShell,
    small_quick: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, classifier = leukoscope.run_study, leukoscope.LeukoscopeClassifier

    def small_study(
        *arguments: Any, recipes: list[str], overrides: list[str], **options: Any
    ) -> Any:
        assert recipes == ["quick"]
        overrides = [*overrides, "preprocess.size_px=64"]
        return study(*arguments, recipes=[str(small_quick)], overrides=overrides, **options)

    def small_classifier(recipe: str) -> Any:
        assert recipe == "quick"
        return classifier(str(small_quick))

    monkeypatch.setattr(leukoscope, "run_study", small_study)
    monkeypatch.setattr(leukoscope, "LeukoscopeClassifier", small_classifier)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the notebooks ask for a folder
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 2
    for cell in cells:
        assert not cell["outputs"], "commit notebooks without output"
        shell.run_cell("".join(cell["source"])).raise_error()
