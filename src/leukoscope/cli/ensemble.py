"""``ensemble``: several finished models as one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    print_json,
    print_table,
    progress_bars,
    with_interval,
)
from leukoscope.cli.options import JsonOption

if TYPE_CHECKING:
    from leukoscope.study.run import StudyResult


WIDTH = 140  # of the tables, wherever they are printed


class MethodName(StrEnum):
    """How members are combined."""

    MEAN = "mean"
    WEIGHTED = "weighted"
    ACCURACY_WEIGHTED = "accuracy-weighted"
    VOTE = "vote"
    FUZZY = "fuzzy"


class ShapeName(StrEnum):
    """Shape of the fuzzy words."""

    TRIANGULAR = "triangular"
    GAUSSIAN = "gaussian"


class TNormName(StrEnum):
    """What a fuzzy AND means."""

    MIN = "min"
    PRODUCT = "product"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "ensemble",
        epilog=(
            "Example: leukoscope ensemble runs/a runs/b --method weighted --method fuzzy --out "
            "runs/both. The folds of one recipe cannot be averaged here: each image that one of "
            "them is tested on, the others were trained on."
        ),
    )(ensemble)


@command
def ensemble(
    out: Annotated[Path, typer.Option("--out", help="The ensemble's folder.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs; all their recipes are members.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="RUN:RECIPE", help="One recipe of a run; repeatable."),
    ] = None,
    method: Annotated[
        list[MethodName] | None,
        typer.Option("--method", "-m", help="Repeatable; the first is judged. Default: mean."),
    ] = None,
    membership: Annotated[
        ShapeName, typer.Option(help="Shape of the words of --method fuzzy.")
    ] = ShapeName.TRIANGULAR,
    t_norm: Annotated[
        TNormName, typer.Option("--t-norm", help="What AND means for --method fuzzy.")
    ] = TNormName.MIN,
    as_json: JsonOption = False,
) -> None:
    """Combine the predictions of finished runs with the same splits, and measure the result."""
    from leukoscope.study.ensembles import run_ensemble
    from leukoscope.study.members import load_members

    with progress_bars() as show:
        show("reading the members", 0, 0)
        members = load_members(runs or (), member or ())
        show("reading the members", 1, 1)
        result = run_ensemble(
            members,
            out,
            tuple(m.value for m in method or (MethodName.MEAN,)),
            shape=membership.value,
            t_norm=t_norm.value,
            listener=show,
        )
    from leukoscope.core.files import read_json

    record = read_json(result.run.ensemble)
    if as_json:
        print_json({"metrics": result.metrics, "ensemble": record})
    else:
        _print(result, record)


def _print(result: StudyResult, record: dict[str, Any]) -> None:
    out = console()
    shown = {"accuracy": "accuracy", "macro_f1": "macro F1", "roc_auc": "AUC",
             "log_loss": "log loss"}  # fmt: skip
    rows = [
        (
            row["recipe"],
            row["protocol"],
            str(row["n"]),
            *(with_interval({**row["metrics"][name], "low": None}) for name in shown),
        )
        for row in result.metrics["results"]
    ]
    print_table(("model", "held out", "images", *shown.values()), rows, width=WIDTH)
    for name, protocols in record["weights"].items():
        out.print(f"\n[bold]weights, {name}[/] (mean of the folds)")
        for protocol, folds in protocols.items():
            means = [sum(column) / len(folds) for column in zip(*folds, strict=True)]
            pairs = zip((m["name"] for m in record["members"]), means, strict=True)
            out.print(f"{protocol}: " + ", ".join(f"{n} {w:.2f}" for n, w in pairs), markup=False)
    out.print("\n[bold]paired, on the same test images[/] (best member: by log loss on val)")
    found: dict[tuple[str, str, str], list[str]] = {}
    for test in record["tests"]:
        found.setdefault((test["protocol"], test["a"], test["b"]), []).append(_difference(test))
    titles = ("held out", "ensemble", "minus", "accuracy", "log loss")
    print_table(titles, [(*key, *cells) for key, cells in found.items()], width=WIDTH)
    typer.echo(f"\nreport  {result.run.report_html}\n{DISCLAIMER}")


def _difference(test: dict[str, Any]) -> str:
    sign = {"better": " better", "worse": " worse"}.get(test["verdict"], "")
    value = test["difference"]
    if value["low"] is None:
        return f"{value['value']:+.3f}{sign}"
    return f"{value['value']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f}){sign}"
