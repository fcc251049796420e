"""``compare``: the recipes of one or more runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leukoscope.cli.console import (
    command,
    console,
    print_json,
    print_notes,
    print_table,
    progress_bars,
    with_interval,
)
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
    from leukoscope.evaluation.verdict import level_words

    metric = result["metric"]
    out = console()
    verdicts = {(row["protocol"], row["a"]): row for row in result["tests"]}
    for head in result["protocols"]:
        groups = f"{head['n_groups']} {head['group_unit']}s"
        out.print(f"\n[bold]{head['name']}[/]: {head['n']} test images in {groups}")
        found = [
            (entry["label"], entry["results"][head["name"]])
            for entry in result["entries"]
            if head["name"] in entry["results"]
        ]
        rows = [
            (
                f"{place['rank']:g} ({place['low']:g}–{place['high']:g})",
                label,
                with_interval(of_recipe["metrics"][metric]),
                _p(verdicts.get((head["name"], label))),
            )
            for label, of_recipe in sorted(found, key=lambda item: item[1]["place"]["rank"])
            if (place := of_recipe["place"])
        ]
        print_table(("place", "recipe", metric, "p (Holm)"), rows)
        print_notes(head["notes"])
    out.print("\np: of the difference to the reference, corrected for the number of recipes")
    for run in result["runs"]:
        if run.get("verdict"):
            level = level_words(run["verdict"]["level"])
            out.print(f"verdict of {run['name']}: {level}", markup=False)
    print_notes(result["notes"])


def _p(test: dict[str, Any] | None) -> str:
    if test is None:
        return "reference"
    text = "<0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"
    return text if test["verdict"] == "not distinguishable" else f"{text} {test['verdict']}"
