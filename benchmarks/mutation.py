"""How many small faults planted in the statistics their tests notice (mutation testing).

mutmut changes one operator, number, comparison or argument at a time; a change that no test notices
survives. Each module is tried with its own tests and doctests alone, in a folder of its own, so a
run that was stopped goes on where it was. Install mutmut first; it is no part of the environment.

python benchmarks/mutation.py run WORK [MODULE …]       # hours for all; low priority
python benchmarks/mutation.py table WORK                # writes docs/results/mutation.md
python benchmarks/mutation.py survivors WORK MODULE     # what each survivor changed
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/leukoscope/evaluation")
PAGE = ROOT / "docs/results/mutation.md"
MODULES = {
    "statistics/metrics": ("statistics/test_metrics", "test_aggregation"),
    "statistics/limits": ("statistics/test_limits",),
    "calibration/conformal": ("calibration/test_conformal",),
    "calibration/scaling": ("calibration/test_calibration",),
    "calibration/errors": ("calibration/test_calibration_error", "calibration/test_recalibration"),
    "statistics/comparison": ("statistics/test_comparison", "statistics/test_paired_tests"),
    "statistics/intervals": ("statistics/test_intervals",),
    "statistics/thresholds": (
        "statistics/test_curves",
        "statistics/test_decision_curve",
        "statistics/test_operating_point",
        "statistics/test_selective",
    ),
    "combining": ("test_combining", "test_aggregation"),
    "verdict/shortcuts": ("verdict/test_shortcuts", "verdict/test_shortcut_sources"),
    "examples": ("test_examples", "test_label_errors"),
    "feature_space": ("test_feature_space",),
    "fuzzy_inference": ("test_fuzzy_inference",),
    "ood": ("test_ood",),
    "robustness": ("test_robustness",),
    "statistics/hierarchy": ("statistics/test_hierarchy",),
    "statistics/leaderboard": ("statistics/test_leaderboard", "statistics/test_selection"),
    "gate": ("test_gate", "test_patient_gate"),
}
"""Module of ``evaluation`` → its tests."""

DOCTESTS = "tests/evaluation/test_examples_in_docstrings.py"
_TYPE = "the values have that type already, or are turned into it later"
_TIES = "the order of equal values does not matter, and short arrays are sorted stably anyway"
_AXIS = "the last axis is the default"
_ROUNDING = "differs only where two numbers agree to the last bits"
_FIRST_LETTER = "NumPy reads the first letter of the name"
_SAME_ROWS = "the directions that are read are the same"
_MORE = "more is computed than is read"
_EQUAL_LENGTHS = "the columns are made with equal lengths"
_CANCELS = "a constant factor: the distribution is divided by its sum"
LOOKED_AT = (
    ("calibration/conformal", "unseen_quantile", _TYPE, (3, 5, 14, 16)),
    ("calibration/conformal", "unseen_quantile", _TIES, (19, 21, 23)),
    ("calibration/conformal", "unseen_quantile", _ROUNDING, (27,)),
    ("calibration/conformal", "set_scores", _TIES, (16, 19, 23, 27, 30, 33)),
    ("calibration/conformal", "set_scores", _AXIS, (18, 29, 40, 50)),
    ("calibration/conformal", "_image_counts", _TYPE, (25, 27)),
    ("calibration/conformal", "_checked", _TYPE, (3, 5)),
    ("calibration/conformal", "prediction_sets", _ROUNDING, (16,)),
    ("calibration/conformal", "coverage_distribution", _TYPE, (15,)),
    ("calibration/conformal", "coverage_distribution", _CANCELS, (22, 32, 48, 49, 50, 57)),
    ("calibration/conformal", "expected_coverage", _ROUNDING, (22, 36)),
    ("examples", "confident_learning", _TYPE, (3, 5, 7, 9)),
    ("examples", "confident_learning", _ROUNDING, (63,)),
    ("examples", "confident_learning", "marks what is not counted; never read", (67, 82, 83)),
    ("examples", "joint_distribution", _TYPE, (3, 5, 7, 9)),
    ("examples", "margin_uncertainty", _AXIS, (5,)),
    ("examples", "margin_uncertainty", _TYPE, (7, 9)),
    ("examples", "review_order", _TYPE, (8, 10, 12, 14)),
    ("examples", "review_order", _TIES, (16, 18, 20)),
    ("feature_space", "neighbour_purity", _AXIS, (42, 78)),
    ("feature_space", "neighbour_purity", _FIRST_LETTER, (52,)),
    ("feature_space", "pairwise", _TYPE, (2, 4, 8, 10)),
    ("feature_space", "pca_map", _ROUNDING, (6,)),
    ("feature_space", "tsne_map", "nothing is drawn at random; the default start", (5, 7, 8)),
    ("gate", "energy", _TYPE, (3, 5)),
    ("gate", "separation", _TYPE, (4, 6, 9, 11)),
    ("gate", "fit_gate", "replaced before it is read", (10, 11, 22)),
    ("ood", "fit_ood", _SAME_ROWS, (22, 24, 26)),
    ("ood", "neighbour_distance", _AXIS, (42,)),
    ("ood", "nearest_cases", _AXIS, (31, 42)),
    ("ood", "nearest_cases", _FIRST_LETTER, (35,)),
    ("ood", "choose_cases", _SAME_ROWS, (11, 13, 14)),
    ("ood", "_product", "both ways to multiply agree", (7, 8, 9, 10)),
    ("ood", "_product", "an empty matrix that is not read", (22, 27, 28, 36, 37)),
    ("robustness", "mean_corruption_error", _TYPE, (4, 6, 13, 15, 23, 25, 38, 44, 46)),
    ("robustness", "is_beyond", "the first of the two conditions meets nothing but False", (7,)),
    ("statistics/hierarchy", "split_levels", _TYPE, (3, 5)),
    ("statistics/hierarchy", "hierarchy_metrics", _TYPE, (69,)),
    ("statistics/leaderboard", "bootstrap_ranks", _TYPE, (5, 7)),
    ("statistics/leaderboard", "bootstrap_ranks", _MORE, (27, 49)),
    ("statistics/leaderboard", "bootstrap_ranks", _EQUAL_LENGTHS, (100, 105, 106)),
    ("statistics/leaderboard", "_ranks", _TYPE, (25, 27)),
    ("statistics/leaderboard", "exchange_test", _TYPE, (38, 55, 57, 119)),
    ("statistics/leaderboard", "exchange_test", "the size of a difference alone counts", (41,)),
    ("statistics/leaderboard", "exchange_test", "the long way gives the same", (52, 53)),
    ("statistics/leaderboard", "exchange_test", _MORE, (93,)),
    ("statistics/leaderboard", "exchange_test", _ROUNDING, (133,)),
    ("statistics/leaderboard", "holm_adjusted", _TYPE, (3, 5)),
    ("statistics/leaderboard", "holm_adjusted", _TIES, (8, 10, 12)),
    ("statistics/leaderboard", "corrected_best", _MORE, (27, 32, 37)),
    ("statistics/leaderboard", "corrected_best", _TYPE, (43,)),
    ("statistics/leaderboard", "corrected_best", "the sign alone counts", (19, 21)),
)
"""Survivors that no test could notice: module, function, why, numbers of the mutants."""
EQUIVALENT = {
    f"leukoscope.evaluation.{module.replace('/', '.')}.x_{function}__mutmut_{number}"
    for module, function, _, numbers in LOOKED_AT
    for number in numbers
}

# Exit codes that mutmut keeps: of pytest, of a process that was ended, of its own.
_SURVIVED = (0, 5, 33)  # every test passed, or none reaches the change
_KILLED = (1, 3, 24, 36, 152, 255, -24, -11, -9)  # a test failed, crashed or no longer ended
_DOCTESTS = '''"""The examples in the docstrings of the module, as they stand in its source."""

import ast
import doctest
from pathlib import Path

import pytest

import {module} as module

SOURCE = Path({source!r}).read_text(encoding="utf-8")
EXAMPLES = {{
    f"{{node.name}}, line {{node.lineno}}": text
    for node in ast.walk(ast.parse(SOURCE))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    and ">>>" in (text := ast.get_docstring(node) or "")
}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], vars(module), name, None, 0)
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
'''
_SETTINGS = """[tool.pytest.ini_options]
addopts = "--strict-markers -q -x --import-mode=importlib -p no:cacheprovider"
markers = ["real_data", "slow"]
filterwarnings = ["error"]

[tool.mutmut]
source_paths = ["src"]
only_mutate = ["{source}"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["tests"]
track_dependencies = false
use_git_change_detection = false
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "table", "survivors"))
    parser.add_argument("work", type=Path)
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []])
    given = parser.parse_args()
    chosen = given.modules or list(MODULES)
    if given.what == "run":
        for module in chosen:
            mutate(module, given.work / module)
    elif given.what == "table":
        write_page(given.work)
    else:
        for module in chosen:
            show_survivors(module, given.work / module)


def mutate(module: str, folder: Path) -> None:
    """Try every mutant of one module that was not tried, and with present tests those that live."""
    source = PACKAGE / f"{module}.py"
    if folder.is_dir() and (folder / source).read_bytes() != (ROOT / source).read_bytes():
        shutil.rmtree(folder)  # mutants of another text
    copy_package(module, folder)
    write_tests(module, folder)
    alive = [key for key, code in outcomes(module, folder).items() if kind_of(code) == "survived"]
    for names in ([], alive) if alive else ([],):
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        subprocess.run(command, cwd=folder, env=environment, check=True)


def copy_package(module: str, folder: Path) -> None:
    """Copy the package as it is; beside mutants that were made, everything but their module."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignore, dirs_exist_ok=True)
    mutants = folder / "mutants/src"
    if not mutants.is_dir():
        return
    made = mutants.parent / PACKAGE / f"{module}.py"
    text = made.read_bytes()
    shutil.copytree(ROOT / "src", mutants, ignore=ignore, dirs_exist_ok=True)
    made.write_bytes(text)


def tests_of(module: str) -> list[str]:
    """The test files of a module."""
    paths = [f"tests/evaluation/{name}.py" for name in MODULES[module]]
    return [path for path in paths if (ROOT / path).is_file()]


def write_tests(module: str, folder: Path) -> None:
    """Write the settings, copy a module's tests, make one of the examples in its docstrings."""
    settings = _SETTINGS.format(
        source=PACKAGE / f"{module}.py",
        tests=json.dumps([DOCTESTS, *tests_of(module)]),  # the fastest first
    )
    for place in (folder, folder / "mutants"):
        if place.is_dir():
            (place / "pyproject.toml").write_text(settings, encoding="utf-8")
    for path in ("tests/conftest.py", *tests_of(module)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    text = _DOCTESTS.format(
        module=f"leukoscope.evaluation.{module.replace('/', '.')}",
        source=str(ROOT / PACKAGE / f"{module}.py"),
    )
    (folder / DOCTESTS).write_text(text, encoding="utf-8")


def outcomes(module: str, folder: Path) -> dict[str, int | None]:
    """Mutant → exit code of its tests; None where it was not tried."""
    path = folder / "mutants" / PACKAGE / f"{module}.py.meta"
    if not path.is_file():
        return {}
    found: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def write_page(work: Path) -> None:
    """Write the page; the row of a module that was tried in another folder stays."""
    earlier = PAGE.read_text(encoding="utf-8").splitlines()
    kept = {line.split("`")[1]: line for line in earlier if line.startswith("| `")}
    lines = [
        "# What the tests of the statistics notice\n\n```bash",
        "python benchmarks/mutation.py run WORK && python benchmarks/mutation.py table WORK\n```\n",
        "mutmut plants one small fault at a time (a comparison, an operator, a number, an "
        "argument, a text) in a module of `evaluation`; the module's own tests and doctests run "
        "until one fails. Killed: a test failed, or the tests no longer ended. Equivalent: looked "
        "at by a person, no test could notice it.\n\n"
        "| module | mutants | killed | survived | of these equivalent | not tried | killed of "
        "those that were tried and are not equivalent |\n|---|---|---|---|---|---|---|",
    ]
    for module in MODULES:
        if found := outcomes(module, work / module):
            lines.append(row_of(module, found))
        elif module in kept:
            lines.append(kept[module])
    lines.append("\nEquivalent, by function and mutmut's number:\n")
    for module, function, why, numbers in LOOKED_AT:
        lines.append(f"- `{module}.{function}` {', '.join(map(str, numbers))}: {why}")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row_of(module: str, found: dict[str, int | None]) -> str:
    """The row of a module whose mutants were tried."""
    counts = Counter(kind_of(code) for code in found.values())
    equivalent = sum(
        key in EQUIVALENT for key, code in found.items() if kind_of(code) == "survived"
    )
    tried = len(found) - counts["not tried"] - equivalent
    share = f"{counts['killed'] / tried:.1%}" if tried else "–"
    return (
        f"| `{module}` | {len(found)} | {counts['killed']} | {counts['survived']} "
        f"| {equivalent} | {counts['not tried']} | {share} |"
    )


def kind_of(code: int | None) -> str:
    """What an exit code says of a mutant."""
    if code in _SURVIVED:
        return "survived"
    return "killed" if code in _KILLED else "not tried"


def show_survivors(module: str, folder: Path) -> None:
    """Print the change of each mutant that no test noticed."""
    text = (folder / "mutants" / PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    functions = {
        node.name: ast.unparse(node)
        .replace(node.name, node.name.partition("__mutmut")[0], 1)
        .splitlines()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }
    for key, code in outcomes(module, folder).items():
        if kind_of(code) == "survived" and key not in EQUIVALENT:
            name = key.rpartition(".")[2]
            first = f"{name.rpartition('_')[0]}_orig"
            changed = difflib.unified_diff(functions[first], functions[name], n=0, lineterm="")
            print(key, *(line for line in changed if line[:2] not in ("--", "++", "@@")), sep="\n")


if __name__ == "__main__":
    main()
