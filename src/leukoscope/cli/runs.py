"""``runs list|clean``: run folders by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.console import agreed, command, console, print_json
from leukoscope.cli.options import JsonOption, YesOption

if TYPE_CHECKING:
    from leukoscope.study.cleanup import CleanPlan, RunInfo

RUNS = Path("runs")
BUSY_S = 120  # a run that was written to so lately may still be going on
runs_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Run folders: what is there, and clean up."
)


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(runs_app, name="runs")


@runs_app.command("list", epilog="Example: leukoscope runs list runs")
@command
def list_runs(
    root: Annotated[Path, typer.Argument(help="Folder to search, with those below it.")] = RUNS,
    as_json: JsonOption = False,
) -> None:
    """List run folders: size, last change, recipes, verdict."""
    from leukoscope.study.cleanup import find_runs

    found = find_runs(root)
    if as_json:
        print_json([_as_dict(run) for run in found])
        return
    out = console()
    for run in found:
        out.print(run.name, style="bold", markup=False)
        out.print(f"  {_state(run)}, {run.size_mb:.1f} MB, last written {run.changed}")
        out.print(f"  {', '.join(run.recipes)} under {', '.join(run.protocols)}", markup=False)
    total = sum(run.size_mb for run in found)
    typer.echo(f"{len(found)} runs in {root}, {total:.1f} MB")


@runs_app.command("clean", epilog="Example: leukoscope runs clean study-3 --keep-report --dry-run")
@command
def clean_runs(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Run folders, or their names in --root.")
    ],
    root: Annotated[Path, typer.Option("--root", help="Where names are looked for.")] = RUNS,
    keep_report: Annotated[
        bool, typer.Option("--keep-report", help="Keep report, statistics, configuration.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> int:
    """Remove run folders: only what a study wrote; other files there stay and are named."""
    from leukoscope.study.cleanup import clean, plan_cleaning

    plans = plan_cleaning(names, root, keep_report=keep_report)
    if as_json:
        print_json([_plan_dict(plan) for plan in plans])
    else:
        for plan in plans:
            _print_plan(plan)
    total = sum(plan.size_mb for plan in plans)
    if dry_run:
        typer.echo(f"nothing was removed (--dry-run); it would free {total:.1f} MB", err=True)
        return 0
    if not yes and not agreed(f"Remove this ({total:.1f} MB)?"):
        typer.echo("nothing was removed", err=True)
        return 1
    for plan in plans:
        clean(plan)
    typer.echo(f"{total:.1f} MB freed", err=True)
    return 0


def _state(run: RunInfo) -> str:
    return f"{run.state}, verdict {run.verdict}" if run.verdict else run.state


def _print_plan(plan: CleanPlan) -> None:
    out = console()
    out.print(str(plan.run.path), style="bold", markup=False)
    out.print(f"  {_state(plan.run)}, last written {plan.run.changed}")
    out.print(
        f"  removed  {', '.join(path.name for path in plan.remove) or 'nothing'}", markup=False
    )
    if plan.run.idle_s < BUSY_S:
        seconds = f"{max(0, plan.run.idle_s):.0f} s"
        out.print(f"  [yellow]![/] written {seconds} ago: a command may still be at work on it")
    if plan.keep:
        out.print(f"  stays    {', '.join(path.name for path in plan.keep)}", markup=False)


def _as_dict(run: RunInfo) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(run), "path": str(run.path)}


def _plan_dict(plan: CleanPlan) -> dict[str, Any]:
    return {
        "run": _as_dict(plan.run),
        "remove": [str(path) for path in plan.remove],
        "keep": [str(path) for path in plan.keep],
        "size_mb": plan.size_mb,
    }
