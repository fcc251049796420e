"""``compare``: the recipes of one or more runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leukoscope.cli.console import command, console, print_json, progress_bars
from leukoscope.cli.options import JsonOption, ProtocolOption


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("compare", epilog="Example: leukoscope compare runs/a runs/b --out comparison")(
        compare
    )


@command
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of study, train (finished or not) or evaluate."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for tables, figures and pages.")],
    protocol: ProtocolOption = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Ranks the recipes and is tested.")
    ] = "accuracy",
    against: Annotated[
        str, typer.Option("--against", help="Recipe that all others are tested against.")
    ] = "best",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of one prediction, for the latency.")
    ] = 1,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Count parameters and operations only.")
    ] = False,
    no_models: Annotated[
        bool, typer.Option("--no-models", help="Read files only: no cost, no diagrams.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also cost and diagram of the published network where another backbone ran.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare recipes on the same test images: tables, tests, figures, one page."""
    from leukoscope.study.compare import compare_runs

    with progress_bars() as show:
        result = compare_runs(
            runs,
            out,
            protocols=protocol,
            metric=metric,
            against=against,
            threads=threads,
            latency=not no_latency,
            models=not no_models,
            published=published,
            listener=show,
        )
    if as_json:
        print_json(result)
        return
    _print_result(result)
    typer.echo(f"\npage   {out / 'comparison.html'}\ntables {out / 'comparison.md'}")


def _print_result(result: dict[str, Any]) -> None:
    from rich.table import Table

    metric = result["metric"]
    out = console()
    verdicts = {(row["protocol"], row["a"]): row for row in result["tests"]}
    for head in result["protocols"]:
        table = Table("place", box=None, pad_edge=False)
        table.add_column("recipe", overflow="fold")
        table.add_column(metric, no_wrap=True)
        table.add_column("p (Holm)", no_wrap=True)
        entries = [e for e in result["entries"] if head["name"] in e["results"]]
        for entry in sorted(entries, key=lambda e: e["results"][head["name"]]["place"]["rank"]):
            found = entry["results"][head["name"]]
            place, value = found["place"], found["metrics"][metric]
            test = verdicts.get((head["name"], entry["label"]))
            table.add_row(
                f"{place['rank']:g} ({place['low']:g}–{place['high']:g})",
                entry["label"],
                _with_interval(value),
                "reference" if test is None else _p(test),
            )
        groups = f"{head['n_groups']} {head['group_unit']}s"
        out.print(f"\n[bold]{head['name']}[/]: {head['n']} test images in {groups}")
        out.print(table)
        for note in head["notes"]:
            out.print(f"[yellow]![/] {note}")
    out.print("\np: of the difference to the reference, corrected for the number of recipes")
    for note in result["notes"]:
        out.print(f"[yellow]![/] {note}")


def _p(test: dict[str, Any]) -> str:
    text = "<0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"
    return text if test["verdict"] == "not distinguishable" else f"{text} {test['verdict']}"


def _with_interval(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "—"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    mark = "" if value["reliable"] else " †"
    return f"{value['value']:.3f} ({value['low']:.3f}–{value['high']:.3f}){mark}"
