"""``compare`` and ``ensemble``: several finished models side by side, or as one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    print_json,
    print_notes,
    print_table,
    progress_bars,
    say,
    with_interval,
    without_interval,
)
from leukoscope.cli.options import JsonOption, ProtocolOption, RoleOption
from leukoscope.cli.options import roles as stated_roles
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.config.comparison import ComparisonFile, PairedTest
    from leukoscope.config.ensemble import EnsembleFile, EnsembleTest
    from leukoscope.study.run import StudyResult

WIDTH = 140  # of the tables, wherever they are printed


def register(app: typer.Typer) -> None:
    """Add both commands to the program."""
    app.command("compare", epilog="Example: leukoscope compare runs/a runs/b --out comparison")(
        compare
    )
    app.command(
        "ensemble",
        epilog=(
            "Example: leukoscope ensemble runs/a runs/b --method weighted --method fuzzy --out "
            "runs/both. The folds of one recipe cannot be averaged here: each image that one of "
            "them is tested on, the others were trained on."
        ),
    )(ensemble)


@command
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of study, train (finished or not) or evaluate."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables, figures and pages.")],
    protocol: ProtocolOption = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Metric that ranks the recipes and is tested.")
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
    roles: RoleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare recipes and runs on the same test images.

    Tables, paired tests and figures on one page.
    """
    from leukoscope.analyses.compare.runs import compare_runs

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
            roles=stated_roles(roles),
            listener=show,
        )
    if as_json:
        print_json(result)
        return
    _print_result(result.content)
    say(f"\npage   {out / 'comparison.html'}\ntables {out / 'comparison.md'}")


def _print_result(result: ComparisonFile) -> None:
    from leukoscope.evaluation.verdict.rule import level_words

    metric = result.metric
    out = console()
    tests = {(test.protocol, test.a): test for test in result.tests}
    for head in result.protocols:
        counted = plural(head.n, f"test {result.row}")
        if (head.n_groups, head.group_unit) != (head.n, result.row):
            counted += f" in {plural(head.n_groups, head.group_unit)}"
        out.print(f"\n[bold]{head.name}[/]: {counted}")
        found = [(e.label, e.results[head.name]) for e in result.entries if head.name in e.results]
        rows = [
            (
                f"{one.place.rank:g} ({one.place.low:g}–{one.place.high:g})",
                label,
                with_interval(one.metrics[metric]),
                _p(tests.get((head.name, label))),
            )
            for label, one in sorted(found, key=lambda item: item[1].place.rank)
        ]
        print_table(("place", "recipe", metric, "p (Holm)"), rows)
        print_notes(head.notes)
    out.print("\np: of the difference to the reference, corrected for the number of recipes")
    for run in result.runs:
        if run.verdict is not None:
            out.print(f"verdict of {run.name}: {level_words(run.verdict.level)}", markup=False)
    print_notes(result.notes)


def _p(test: PairedTest | None) -> str:
    if test is None:
        return "reference"
    text = "<0.001" if test.p_holm < 0.001 else f"{test.p_holm:.3f}"
    return text if test.verdict == "not distinguishable" else f"{text} {test.verdict}"


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


@command
def ensemble(
    out: Annotated[Path, typer.Option("--out", "-o", help="The ensemble's folder.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs; all their recipes are members.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="RUN:RECIPE", help="One recipe of a run; repeatable."),
    ] = None,
    method: Annotated[
        list[MethodName] | None,
        typer.Option(
            "--method",
            "-m",
            help="How to combine; may be repeated, the first gets the verdict. Default: mean.",
        ),
    ] = None,
    membership: Annotated[
        ShapeName, typer.Option(help="Membership functions of --method fuzzy.")
    ] = ShapeName.TRIANGULAR,
    t_norm: Annotated[
        TNormName, typer.Option("--t-norm", help="What AND means for --method fuzzy.")
    ] = TNormName.MIN,
    as_json: JsonOption = False,
) -> None:
    """Combine the predictions of finished runs.

    They must have the same splits; the result is measured like a model.
    """
    from leukoscope.analyses.ensemble_members import load_members
    from leukoscope.analyses.ensembles import run_ensemble

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
    from leukoscope.config.ensemble import EnsembleFile

    record = EnsembleFile.load(result.run.ensemble)
    if as_json:
        print_json({"metrics": result.metrics.to_json(), "ensemble": record.to_json()})
    else:
        _print(result, record)


def _print(result: StudyResult, record: EnsembleFile) -> None:
    out = console()
    shown = {"accuracy": "accuracy", "macro_f1": "macro F1", "roc_auc": "ROC AUC",
             "log_loss": "log loss"}  # fmt: skip
    rows = [
        (
            row.recipe,
            row.protocol,
            str(row.n),
            *(without_interval(row.metrics[name]) for name in shown),
        )
        for row in result.metrics.results
    ]
    counted = f"{result.metrics.results[0].row}s"
    print_table(("model", "held out", counted, *shown.values()), rows, width=WIDTH)
    for name, protocols in record.weights.items():
        out.print(f"\n[bold]weights, {name}[/] (mean of the folds)")
        for protocol, folds in protocols.items():
            means = [sum(column) / len(folds) for column in zip(*folds, strict=True)]
            pairs = zip((m.name for m in record.members), means, strict=True)
            out.print(f"{protocol}: " + ", ".join(f"{n} {w:.2f}" for n, w in pairs), markup=False)
    out.print(f"\n[bold]paired, on the same test {counted}[/] (best member: by log loss on val)")
    found: dict[tuple[str, str, str], list[str]] = {}
    for test in record.tests:
        found.setdefault((test.protocol, test.a, test.b), []).append(_difference(test))
    titles = ("held out", "ensemble", "minus", "accuracy", "log loss")
    print_table(titles, [(*key, *cells) for key, cells in found.items()], width=WIDTH)
    say(f"\nreport  {result.run.report_html}\n{DISCLAIMER}")


def _difference(test: EnsembleTest) -> str:
    sign = {"better": " better", "worse": " worse"}.get(test.verdict, "")
    found = test.difference
    if found.low is None:
        return f"{found.value:+.3f}{sign}"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}){sign}"
