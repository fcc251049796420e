"""What the README tells people to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leukoscope.phantom.spec import PhantomSpec
from leukoscope.phantom.writing import write_phantoms

README = Path(__file__).resolve().parents[1] / "README.md"


def block(language: str, word: str) -> str:
    """The first code block of a language that holds a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return next(text for text in blocks if word in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("readme")
    for name, seed in (("IMAGES", 2), ("OTHER_IMAGES", 3)):
        write_phantoms(PhantomSpec(images=48, sessions=6, size_px=128, seed=seed), base / name)
    (base / "smear.jpg").write_bytes(next((base / "IMAGES/Pro").iterdir()).read_bytes())
    return base


@pytest.mark.slow
def test_the_commands_of_the_main_job(folder: Path) -> None:
    script = block("bash", "leukoscope study").replace("FILES", "IMAGES/Pro")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "predictions.csv").is_file()
    assert (folder / "external" / "metrics.json").is_file()


@pytest.mark.slow
def test_the_python_example(folder: Path) -> None:
    code = block("python", "import leukoscope").replace('"run"', '"again"')
    code = code.replace('"run/bundle"', '"again/bundle"') + "\nassert answers[0].predicted\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr


def test_the_map_names_every_package() -> None:
    text = README.read_text(encoding="utf-8")
    for package in (README.parent / "src" / "leukoscope").iterdir():
        if package.is_dir() and not package.name.startswith("_"):
            assert f"  {package.name}/ " in text, package.name


def test_links_into_the_repository_lead_somewhere() -> None:
    for page in (README, *README.parent.glob("docs/**/*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
