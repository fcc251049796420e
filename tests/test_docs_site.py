"""The documentation builds without a broken link, and holds what the program knows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from leukoscope.cli.main import app
from leukoscope.cli.parameters import commands_of
from leukoscope.config.loading import list_recipes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_command_and_recipe_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for name in commands_of(typer.main.get_command(app)):
        assert f'id="{name.replace(" ", "-")}' in page, name
    assert "training.epochs=3" in page
    recipes = (site / "recipes.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in recipes for name in list_recipes())


def test_the_python_interface_is_described_with_types(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("load_dataset", "audit", "make_splits", "run_study", "load_bundle", "grad_cam"):
        assert f"{name}</code>" in page or f".{name}" in page, name


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in page
    assert 'src="http' not in page
