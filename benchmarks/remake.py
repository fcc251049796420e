"""Make the tables of docs/results and of the README again, each by the command above it.

python benchmarks/remake.py SETS --out results      # or: make results SETS=path/to/sets
python benchmarks/remake.py SETS --out results --list
python benchmarks/remake.py SETS --out results --only forecast adversaries

The steps are listed in ``benchmarks/remake.toml``: a name, a command, the data sets it reads
(folders of SETS), the steps whose runs it reads, and the page whose table it prints. The commands
run in ``--out``, one after the other. A finished step is not repeated, and a stopped study is
resumed; to make everything anew, name another folder. A step that fails or lacks its data is
named, and the others go on; the exit status is then 1.

A table replaces what is between ``<!-- made by: NAME -->`` and ``<!-- end -->`` in its page. The
first of these comments then says when it was made, by which commit, and at what cost; where it
does not, the table is older.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from leukoscope.core.files import read_json, write_json, write_text

ROOT: Final = Path(__file__).resolve().parents[1]
PLAN: Final = ROOT / "benchmarks" / "remake.toml"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Of the step, and of the table's marks in the page.
        command: Of the shell, run in the folder of results.
        data: Names of the data sets it reads.
        after: Steps whose runs it reads.
        page: Whose table it prints, a path in the repository; empty where it only makes a run.
        bare: The page shows the command itself, or none.
        printed: What it prints is no Markdown: the page shows its first paragraph as it is.
    """

    name: str
    command: str
    data: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    page: str = ""
    bare: bool = False
    printed: bool = False


def read_plan(path: Path) -> list[Step]:
    """The steps, in the order of the file.

    Raises:
        ValueError: A step comes after one that is not above it, or two have one name.
    """
    steps: list[Step] = []
    for found in tomllib.loads(path.read_text(encoding="utf-8"))["step"]:
        step = Step(**{key: tuple(v) if isinstance(v, list) else v for key, v in found.items()})
        step = replace(step, command=step.command.strip())
        known = {one.name for one in steps}
        if step.name in known:
            raise ValueError(f"{path}: two steps are called {step.name}")
        if missing := sorted(set(step.after) - known):
            raise ValueError(f"{path}: step {step.name} is after {missing}, not above it")
        steps.append(step)
    return steps


def put_table(page: Path, name: str, source: str, table: str) -> None:
    """Replace what stands between the marks of a step.

    Args:
        page: Markdown.
        name: Of the step.
        source: When, by which commit and at what cost the table was made.
        table: Markdown.

    Raises:
        ValueError: The page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    marks = re.compile(rf"<!-- made by: {re.escape(name)}(;[^>]*)? -->\n.*?<!-- end -->", re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise ValueError(f"{page}: expected one '<!-- made by: {name} -->' … '<!-- end -->'")
    block = f"<!-- made by: {name}; {source} -->\n{table}\n<!-- end -->"
    write_text(page, marks.sub(lambda _: block, text))


class Remake:
    """The folder of results: what is done there, and how the rest is done."""

    def __init__(self, plan: Sequence[Step], sets: Path, out: Path) -> None:
        self.plan = plan
        self.sets, self.out = sets.resolve(), out.resolve()
        self.commit = _git("rev-parse", "--short", "HEAD")
        if _git("status", "--porcelain", "--", "src", "benchmarks"):
            self.commit += " with changes"

    def stamp(self, step: Step) -> Path:
        """Where it is kept that a step is done, and when, by which commit, at what cost."""
        return self.out / "steps" / f"{step.name}.json"

    def state(self, step: Step) -> str:
        """``done …`` and how, ``waiting``, or what is missing."""
        path = self.stamp(step)
        if path.is_file():
            made = read_json(path)
            how = "" if made["command"] == step.command else ", by another command"
            return f"done {made['date']} by commit {made['commit']}{how}"
        missing = [name for name in step.data if not (self.sets / name).exists()]
        return f"needs {', '.join(missing)} (docs/data.md)" if missing else "waiting"

    def do(self, step: Step) -> bool:
        """Run one step and put its table into its page; False where the command failed."""
        self._prepare()
        before, printed = _processor_seconds(), self.out / "steps" / f"{step.name}.md"
        with printed.open("w") as out, printed.with_suffix(".log").open("w") as log:
            status = subprocess.run(
                ["bash", "-euc", self._resumed(step.command)],
                cwd=self.out,
                env=self._environment(),
                stdout=out,
                stderr=log,
                check=False,
            ).returncode
        if status:
            print(f"  failed with exit status {status}: see {printed.with_suffix('.log')}")
            return False
        seconds = round(_processor_seconds() - before)
        made = {"commit": self.commit, "date": time.strftime("%Y-%m-%d"), "command": step.command}
        if step.page:
            source = f"{made['date']}, commit {self.commit}, {seconds} s of processor"
            table = re.sub(r"\A# .*\n", "", printed.read_text(encoding="utf-8")).strip()
            if step.printed:
                lines = re.split(r"\n\s*\n", table)[0].splitlines()
                table = "\n".join(["```", *map(str.rstrip, lines), "```"])
            if not step.bare:
                table = f"\n```bash\n{self._shown(step)}\n```\n\n{table}\n"
            put_table(ROOT / step.page, step.name, source, table)
        write_json(self.stamp(step), made | {"processor_s": seconds})
        return True

    def _shown(self, step: Step) -> str:
        """The commands that a reader would type, those that make the runs first."""
        made_before = [one.command for one in wanted(self.plan, [step.name])]
        return re.sub(
            r" >&2(?: \|\| .*)?$|^rm -rf \S+; ", "", "\n".join(made_before), flags=re.MULTILINE
        )

    def _prepare(self) -> None:
        """Links to the data and the scripts, so that a command reads here as in its page."""
        (self.out / "steps").mkdir(parents=True, exist_ok=True)
        for path in (*self.sets.iterdir(), ROOT / "benchmarks", ROOT / "docs"):
            link = self.out / path.name
            if not link.exists():
                link.symlink_to(path, target_is_directory=path.is_dir())

    def _resumed(self, command: str) -> str:
        """The command, with ``--resume`` for each run that began already."""
        began = re.compile(
            r"leukoscope (?:study|transfer|ablate)(?:\\\n|[^\n])*?--out (?P<run>\S+)"
        )

        def resumed(found: re.Match[str]) -> str:
            return found[0] + (" --resume" if (self.out / found["run"]).exists() else "")

        return began.sub(resumed, command)

    def _environment(self) -> dict[str, str]:
        """With this interpreter's commands first."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wanted(steps: Sequence[Step], only: Sequence[str]) -> list[Step]:
    """The steps that are named, and those they come after.

    Raises:
        SystemExit: There is no such step.
    """
    if not only:
        return list(steps)
    by_name = {step.name: step for step in steps}
    if unknown := sorted(set(only) - set(by_name)):
        raise SystemExit(f"no step {', '.join(unknown)}; there are {', '.join(by_name)}")
    names: set[str] = set()
    waiting = list(only)
    while waiting:
        name = waiting.pop()
        names.add(name)
        waiting += by_name[name].after
    return [step for step in steps if step.name in names]


def main() -> int:
    """Read the command line, list or do the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP")
    parser.add_argument("--list", action="store_true", help="say what is done, do nothing")
    options = parser.parse_args()
    if not options.sets.is_dir():
        parser.error(f"{options.sets}: expected the folder that holds the data sets")
    plan = read_plan(PLAN)
    remake = Remake(plan, options.sets, options.out)
    failed: set[str] = set()
    for step in wanted(plan, options.only):
        state = remake.state(step)
        print(f"{step.name}: {state}", flush=True)
        if options.list or state.startswith("done"):
            continue
        if state.startswith("needs") or failed & set(step.after):
            failed.add(step.name)
            continue
        print(f"  {step.command}", flush=True)
        if not remake.do(step):
            failed.add(step.name)
    if failed and not options.list:
        print(f"not made: {', '.join(sorted(failed))}")
    return 1 if failed and not options.list else 0


if __name__ == "__main__":
    raise SystemExit(main())
