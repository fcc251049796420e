"""``audit-log verify|replay``: whether the record of what was predicted holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.console import command, console, print_json, progress_bars
from leukoscope.cli.options import JsonOption

audit_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The chained record that `predict --audit-log` writes.",
)

LogArgument = Annotated[Path, typer.Argument(help="The file that --audit-log wrote.")]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(audit_app, name="audit-log")


@audit_app.command("verify", epilog="Example: leukoscope audit-log verify audit.jsonl")
@command
def verify(
    log: LogArgument,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="HASH", help="A hash kept elsewhere; must be in the chain."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Find changed, removed or exchanged lines; exit code 1 where there are any."""
    from leukoscope.runtime.audit_log import verify_log

    found = verify_log(log, head=head)
    if as_json:
        names = ("entries", "recovered", "head", "problem")
        print_json({name: getattr(found, name) for name in names})
    else:
        colour, word = ("red", "BROKEN") if found.problem else ("green", "HOLDS")
        console().print(f"[{colour}]{word}[/] ", end="")
        text = f"{found.entries} lines" + (", then " if found.problem else "") + found.problem
        if found.recovered:
            text += f"; {found.recovered} lines cut off by a kill are recorded as such"
        console().print(text, markup=False)
        typer.echo(f"head {found.head}")
        if head is None and not found.problem:
            typer.echo("lines taken off the end cannot be seen without --head HASH", err=True)
    return int(bool(found.problem))


@audit_app.command("replay", epilog="Example: leukoscope audit-log replay audit.jsonl")
@command
def replay(
    log: LogArgument,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Default: the recorded folder.")
    ] = None,
    search: Annotated[
        Path | None, typer.Option("--search", help="Folder to look for a bundle of that hash.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Predict every entry again and compare; exit code 1 for a difference, 3 if some are gone."""
    from collections import Counter
    from dataclasses import asdict

    from leukoscope.runtime.audit_log import verify_log
    from leukoscope.runtime.audit_replay import replay_log

    total = verify_log(log).entries
    counts: Counter[str] = Counter()
    told = []
    with progress_bars() as show:
        listener = lambda done: show("predicting again", done, total)  # noqa: E731
        for row in replay_log(log, bundle=bundle, search=search, listener=listener):
            counts[row.result] += 1
            if row.result != "same":
                told.append(row)
    if as_json:
        print_json({"counts": dict(counts), "entries": [asdict(row) for row in told]})
    else:
        for row in told:
            line = f"line {row.sequence}, {row.path}: {row.result}: {row.detail}"
            console().print(line, markup=False)
        typer.echo(
            f"{counts['same']} same, {counts['differs']} differ, "
            f"{counts['not replayed']} not replayed"
        )
    return 1 if counts["differs"] else 3 if counts["not replayed"] else 0
