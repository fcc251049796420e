"""The public surface is small and changes on purpose only."""

import subprocess
import sys

import pytest

import leukoscope

PUBLIC = {
    "LeukoscopeClassifier",
    "audit",
    "compare_runs",
    "cv_splits",
    "grad_cam",
    "list_models",
    "list_recipes",
    "load_bundle",
    "load_dataset",
    "make_splits",
    "run_study",
}


def test_the_public_names_are_these_and_all_are_there() -> None:
    assert set(leukoscope.__all__) == PUBLIC
    for name in PUBLIC:
        function = getattr(leukoscope, name)
        assert callable(function)
        assert function.__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'audti'"):
        leukoscope.audti  # noqa: B018


def test_import_is_light() -> None:
    code = "import leukoscope, sys; print(sorted({'torch', 'cv2', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
