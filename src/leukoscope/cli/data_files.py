"""``data fetch|export|samples``: image files that come in, go out, or are picked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import command, console, print_json, progress_bars
from leukoscope.cli.options import JsonOption
from leukoscope.core.errors import UsageError

if TYPE_CHECKING:
    from leukoscope.datasets.fetch_registry import PublicSet


def register(data_app: typer.Typer) -> None:
    """Add the commands to the group ``data``."""
    data_app.command(
        "fetch", epilog="Example: leukoscope data fetch bloodmnist --out data/bloodmnist"
    )(fetch_set)


@command
def fetch_set(
    name: Annotated[
        str | None, typer.Argument(help="Which data set; without a name they are listed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Its folder. Default: data/NAME.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Fetch a public data set, or check the one that is there; without a name list them."""
    from dataclasses import asdict

    from leukoscope.datasets.fetch import fetch, is_there
    from leukoscope.datasets.fetch_registry import PUBLIC_SETS, public_set

    if name is None:
        if as_json:
            print_json([{**asdict(item), "source": item.source} for item in PUBLIC_SETS.values()])
        else:
            _list_sets(list(PUBLIC_SETS.values()))
        return 0
    item = public_set(name)
    folder = out or Path("data") / name
    if not is_there(folder):
        _describe(item, folder)
        if not yes and not _agreed():
            typer.echo("nothing was fetched", err=True)
            return 1
    with progress_bars() as show:
        done = fetch(item, folder, show)
    if as_json:
        print_json({**asdict(done), "folder": str(done.folder)})
    else:
        typer.echo(f"{done.state}: {done.images:,} images in {done.folder}; {done.checked}")
        typer.echo(f"next     leukoscope data audit {done.folder} --out audit")
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("expected an answer, but there is no terminal to ask on", hint="say --yes")
    return typer.confirm("Fetch it on these terms?", err=True)


def _describe(item: PublicSet, folder: Path) -> None:
    """Size, terms and what to cite, before anything is fetched (standard error)."""
    out = console(stderr=True)
    out.print(item.title, style="bold", markup=False)
    for key, value in (*_facts(item), ("to", str(folder))):
        out.print(f"{key:8s} {value}", markup=False)


def _facts(item: PublicSet) -> list[tuple[str, str]]:
    place = f"{item.source}, {item.page}" if item.kaggle else item.source
    return [
        ("holds", item.holds),
        ("size", item.size),
        ("licence", item.licence),
        *(("cite", text) for text in item.citation),
        ("from", place),
        *([("or", item.elsewhere)] if item.elsewhere else []),
    ]


def _list_sets(items: list[PublicSet]) -> None:
    out = console()
    for item in items:
        out.print(f"[bold]{item.name}[/]  {item.title}")
        for key, value in _facts(item):
            out.print(f"  {key:8s} {value}", markup=False)
    typer.echo("\nfetch one  leukoscope data fetch NAME")
