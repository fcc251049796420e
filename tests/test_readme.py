"""What README tells people to type works, and prints what README shows."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import leukoscope
from leukoscope.cli.main import app
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PYTHON = ROOT / "docs" / "reference" / "python.md"
SMALLER = [
    "preprocess.size_px=64", "model.backbone=test_resnet", "model.weights=none", "bootstrap=200",
    "explanations=1",
]  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language; the empty language is what a command prints."""
    fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    found = fences.findall(page.read_text(encoding="utf-8"))
    return [code for of, code in found if of == language]


def shape(line: str) -> str:
    """A line without its numbers and with single blanks: those differ from machine to machine."""
    return re.sub(r"[\d.,–]+", "#", " ".join(line.split()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small phantoms under the name that README uses."""
    base = tmp_path_factory.mktemp("readme")
    write_phantoms(
        PhantomSpec(images=48, sessions=6, size_px=96, confound="stain"), base / "stained"
    )
    return base


@pytest.fixture
def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, which relative paths start from."""
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("few_perturbed")
def test_the_commands_print_what_readme_shows(at_home: Path) -> None:
    commands = [
        line
        for block in blocks(README, "bash")
        for line in block.splitlines()
        if line.startswith("leukoscope ") and not line.startswith("leukoscope phantom")
    ]
    assert [line.split()[1] for line in commands] == ["study", "predict"]
    printed = ""
    for line in commands:
        _, *words = shlex.split(line)
        if "study" in words:
            words += ["--folds", "2", *(word for text in SMALLER for word in ("--set", text))]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        printed += done.output
    assert (at_home / "run-stained" / "report.html").is_file()
    labels = {shape(line).split(" ")[0] for line in printed.splitlines()}
    shown = [line for block in blocks(README, "") for line in block.splitlines()]
    shown = [line for line in shown if line.strip("… ") and not line.startswith(" ")]
    assert len(shown) > 10
    assert [line for line in shown if shape(line).split(" ")[0] not in labels] == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_study_report", "few_perturbed")
def test_the_python_example(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smear = next((at_home / "stained" / "Pro").iterdir())
    (at_home / "smear.jpg").write_bytes(smear.read_bytes())
    study = leukoscope.run_study
    monkeypatch.setattr(
        leukoscope, "run_study", partial(study, folds=2, probes=[], overrides=SMALLER)
    )
    code = blocks(PYTHON, "python")[0]
    found: dict[str, Any] = {}
    exec(code.replace('"IMAGES"', '"stained"').replace('"run', '"again'), found)
    assert found["answers"][0].predicted
    assert found["result"].run.bundle.is_dir()


def test_readme_fits_two_screens_and_is_easy_to_read() -> None:
    text = README.read_text(encoding="utf-8")
    seen = [line for line in text.splitlines() if not line.startswith("<!--")]
    assert len(seen) <= 100
    prose = re.sub(r"^(```.*?^```|\|.*|#.*|- .*)$", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in prose.split("\n\n"):
        assert len(paragraph.strip().splitlines()) <= 4, paragraph


def test_the_page_on_architecture_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = page[page.index("## Packages") : page.index("## The way")]
    for package in (ROOT / "src" / "leukoscope").iterdir():
        if package.is_dir() and not package.name.startswith("_"):
            assert f"`{package.name}`" in packages, package.name


def test_links_into_the_repository_lead_somewhere() -> None:
    for page in (README, *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
