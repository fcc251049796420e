"""``make results``: the plan fits the pages; steps run once, resume, and fail alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = "# Page\n\n<!-- made by: count -->\n\nold\n\n<!-- end -->\n\nProse.\n"


@pytest.fixture(name="remake")
def _remake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import remake

    return remake


Run = Callable[..., int]


@pytest.fixture(name="run")
def _run(remake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Do the steps of a plan in a repository that holds one page."""
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "sets" / "cells").mkdir(parents=True)
    monkeypatch.setattr(remake, "ROOT", tmp_path)
    monkeypatch.setattr(remake, "PLAN", tmp_path / "plan.toml")
    monkeypatch.setattr(remake, "_git", lambda *arguments: "abc" * (arguments[0] == "rev-parse"))

    def run(plan: str, *options: str) -> int:
        (tmp_path / "plan.toml").write_text(plan)
        command = ["remake.py", str(tmp_path / "sets"), "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr("sys.argv", command)
        return int(remake.main())

    return run


COUNT = """
[[step]]
name = "count"
page = "page.md"
command = 'echo once >> times; echo "# Title"; echo "| $(wc -l < times) |"'
data = ["cells"]
"""


def test_every_step_has_its_marks_and_every_mark_its_step(remake: ModuleType) -> None:
    steps = remake.read_plan(remake.PLAN)
    marked = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        for name in re.findall(r"<!-- made by: ([\w-]+)[; ]", path.read_text(encoding="utf-8"))
    ]
    assert sorted(marked) == sorted((step.page, step.name) for step in steps if step.page)


def test_scripts_of_the_plan_exist(remake: ModuleType) -> None:
    commands = "\n".join(step.command for step in remake.read_plan(remake.PLAN))
    scripts = set(re.findall(r"python (benchmarks/\w+\.py)", commands))
    assert scripts
    assert [name for name in scripts if not (ROOT / name).is_file()] == []


def test_table_replaces_what_stood_there_and_is_made_once(run: Run, tmp_path: Path) -> None:
    assert run(COUNT) == 0
    text = (tmp_path / "page.md").read_text()
    assert "old" not in text
    assert "\n# Title" not in text
    assert "| 1 |\n\n<!-- end -->\n\nProse.\n" in text
    source = r"<!-- made by: count; \d{4}-\d\d-\d\d, commit abc, \d+ s of processor -->\n"
    assert re.search(source, text)
    assert "```bash\necho once >> times" in text
    assert run(COUNT) == 0
    assert (tmp_path / "out" / "times").read_text() == "once\n"


def test_what_is_no_markdown_is_shown_as_printed_up_to_its_end(run: Run, tmp_path: Path) -> None:
    plan = """
[[step]]
name = "count"
page = "page.md"
printed = true
command = "printf 'jpeg  1   \\n      2\\n\\nfiles  here\\n'"
"""
    assert run(plan) == 0
    text = (tmp_path / "page.md").read_text()
    assert "\n```\njpeg  1\n      2\n```\n" in text
    assert "files  here\n" not in text.partition("\n```\njpeg")[2]


def test_the_list_says_which_commit_and_command_made_a_step(
    run: Run, remake: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    run(COUNT)
    remake._git = lambda *arguments: "def" * (arguments[0] == "rev-parse")
    run(COUNT, "--list")
    run(COUNT.replace("once", "twice"), "--list")
    same, other = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(r"count: done \d{4}-\d\d-\d\d by commit abc", same)
    assert other.endswith("by commit abc, by another command")


def test_failure_and_missing_data_leave_the_others_alone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = """
[[step]]
name = "broken"
command = "echo no >&2; false"
[[step]]
name = "reader"
command = "echo never > read"
after = ["broken"]
[[step]]
name = "absent"
command = "true"
data = ["smears"]
"""
    assert run(plan + COUNT) == 1
    said = capsys.readouterr().out
    assert "broken.log" in said
    assert "absent: needs smears" in said
    assert "not made: absent, broken, reader" in said
    assert not (tmp_path / "out" / "read").exists()
    assert "| 1 |" in (tmp_path / "page.md").read_text()
    assert json.loads((tmp_path / "out" / "steps" / "count.json").read_text())["commit"] == "abc"


def test_a_study_that_began_is_resumed(remake: ModuleType, tmp_path: Path) -> None:
    made = remake.Remake([], tmp_path, tmp_path)
    command = (
        "leukoscope study cells \\\n    -r quick --out one >&2\nleukoscope study cells --out two"
    )
    (tmp_path / "one").mkdir()
    assert made._resumed(command) == command.replace("--out one", "--out one --resume")


def test_unknown_step_a_step_after_a_later_one_and_two_of_one_name(run: Run) -> None:
    with pytest.raises(SystemExit, match="no step tables; there are count"):
        run(COUNT, "--only", "tables")
    with pytest.raises(ValueError, match=r"count is after \['later'\], not above it"):
        run(COUNT + 'after = ["later"]\n')
    with pytest.raises(ValueError, match="two steps are called count"):
        run(COUNT + COUNT)
