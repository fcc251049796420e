"""``robustness``: what blur, stain, light and noise cost a model, and how much it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    print_json,
    print_table,
    progress_bars,
    say,
)
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.core.program import typed

if TYPE_CHECKING:
    from leukoscope.config.metrics.results import Estimate
    from leukoscope.config.robustness import RobustnessFile
    from leukoscope.datasets.layouts.load import HowRead
    from leukoscope.pipeline.measured import MeasuredModels

WIDTH = 120  # of the tables, wherever they are printed

RunOrBundleArgument = Annotated[
    Path, typer.Argument(help="Folder of a run, or a bundle or its name (then with DATA).")
]
BundleDataArgument = Annotated[
    Path | None, typer.Argument(help="Labelled images for a bundle: a folder or CSV manifest.")
]
ComparedRecipesOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", "-r", help="Repeat it to compare; the first is the reference."),
]
RobustnessProtocolOption = Annotated[
    str | None,
    typer.Option("--protocol", "-p", help="Default: grouped, deduplicated, or the first."),
]
CorruptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--corruption",
        "-c",
        help="Kind of damage, or s1 for the grid of study S1; may be repeated. Default: all 13.",
    ),
]
SeverityOption = Annotated[
    list[int] | None,
    typer.Option(
        "--severity", "-s", min=1, max=5, help="1 is mild; may be repeated. Default: all."
    ),
]
RobustnessImagesOption = Annotated[
    int | None, typer.Option("--images", min=20, help="Default: as many as fit in 5 minutes.")
]
BoundOption = Annotated[
    float,
    typer.Option(
        "--bound", min=0.1, max=50, help="Accepted loss of accuracy in percentage points."
    ),
]
RobustnessOutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write. Default: RUN, with its report and bundle."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "robustness",
        epilog="Example: leukoscope robustness run --recipe quick --images 300. "
        "Study S1's own grid: leukoscope robustness run -c s1",
    )(robustness)


@command
def robustness(
    run: RunOrBundleArgument,
    data: BundleDataArgument = None,
    recipe: ComparedRecipesOption = None,
    protocol: RobustnessProtocolOption = None,
    corruption: CorruptionOption = None,
    severity: SeverityOption = None,
    images: RobustnessImagesOption = None,
    bound: BoundOption = 5.0,
    seed: opt.SeedOption = 42,
    out: RobustnessOutOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> None:
    """Measure what blur, stain, light and noise cost.

    In accuracy, calibration and decisions.
    """
    from leukoscope.analyses.robustness import (
        Request,
        choose_corruptions,
        draw_sheet,
        measure,
        show_result,
    )
    from leukoscope.core.run_folder import RunFolder, refuse_study

    if out is not None and out.resolve() != run.resolve():
        refuse_study(out)
    request = Request(
        corruptions=choose_corruptions(corruption or ["haematology"]),
        severities=tuple(sorted(set(severity or range(1, 6)))),
        images=images,
        seed=seed,
        bound=bound / 100,
    )
    with progress_bars() as show:
        how: HowRead = {
            "layout": layout,
            "class_map": opt.class_map(classes),
            "target": target,
        }
        found = _open(run, data, how, recipe or [], protocol, images, seed, out)
        folder = RunFolder(out or run)
        result = measure(found, request, folder, show, lambda text: say(text, err=True))
        show("figures", 0, 0)
        draw_sheet(found, request, folder)
        notes = show_result(folder, own=out is None, listener=show)
        show("figures", 1, 1)
    if as_json:
        print_json(result.to_json())
        return
    _print(result)
    for note in (*result.warnings, *notes):
        say(f"! {note}")
    say(f"\nnumbers  {folder.robustness}\nfigures  {folder.figures}\n{DISCLAIMER}")


def _open(
    run: Path,
    data: Path | None,
    how: HowRead,
    recipes: list[str],
    protocol: str | None,
    images: int | None,
    seed: int,
    out: Path | None,
) -> MeasuredModels:
    from leukoscope.analyses.robustness import MOST_IMAGES
    from leukoscope.core.errors import UsageError
    from leukoscope.pipeline.measured import open_bundle, open_run
    from leukoscope.pipeline.trained_run import FittedRun

    bundle = _bundle(run, needed=data is not None)
    if bundle is not None and (data is None or out is None):
        raise UsageError(
            f"{run} is a bundle: expected labelled images and --out",
            hint=typed("robustness", run, "DATA", "--out", "FOLDER"),
        )
    if bundle is not None and (recipes or protocol):
        raise UsageError("a bundle has one model and no protocols; leave --recipe, --protocol out")
    if bundle is not None and data is not None:
        tell_unused_classes(data, how["layout"], how["class_map"] or {}, how["target"])
        return open_bundle(bundle, data, images or MOST_IMAGES, seed, **how)
    if how["layout"] != "auto" or how["class_map"] or how["target"]:
        raise UsageError(
            "--layout, --class and --target say how the DATA of a bundle is read; a run knows its "
            "own images",
            hint="leave them out",
        )
    return open_run(FittedRun.open(run), recipes, protocol, seed)


def _bundle(named: Path, *, needed: bool) -> Path | None:
    """The bundle that a path or the name of an installed one means; None for a run.

    Raises:
        UsageError: One is needed, and this is a run.
        BundleError: One is needed, and this is none.
    """
    from leukoscope.core.errors import BundleError, UsageError
    from leukoscope.runtime.bundle import bundle_folder

    try:
        found = bundle_folder(named)
    except BundleError:
        if needed:
            raise
        return None  # a run without a bundle, or nothing: the run's reader says which
    if found != named / "bundle":
        return found
    if needed:
        raise UsageError(
            f"{named} is a run, which is measured on its own test images, without DATA",
            hint=f"{typed('robustness', named)}, or name its bundle: {found}",
        )
    return None


def _percent(found: Estimate, digits: int = 1) -> str:
    return "—" if found.value is None else f"{100 * found.value:.{digits}f}"


def _print(result: RobustnessFile) -> None:
    from leukoscope.reporting.formats import interval

    out = console()
    severities = sorted({row.severity for row in result.recipes[0].conditions})
    for model in result.recipes:
        clean = interval(model.clean.accuracy, "accuracy")
        out.print(f"\n[bold]{model.recipe}[/]  undamaged {clean}", end="")
        if model.mean_error is not None:
            out.print(f", mean error damaged {interval(model.mean_error, 'share')}", end="")
        if model.mce is not None:
            out.print(f", mCE {interval(model.mce, 'share')}", end="")
        out.print()
        shares = {"review": "to review", "reject": "rejected"}
        if model.clean.reject is None:
            del shares["reject"]
        cells = []
        for name, kind in result.corruptions.items():
            rows = [row for row in model.conditions if row.corruption == name]
            kept = model.tolerated.get(name)
            cells.append(
                (
                    kind.title,
                    *(_percent(row.accuracy) for row in rows),
                    "" if kept is None else str(kept),
                    *(f"{_percent(getattr(rows[-1], key), 0)} %" for key in shares),
                )
            )
        heads = ("accuracy, %", *map(str, severities), "kept up to", *shares.values())
        print_table(heads, cells, width=WIDTH)
    out.print(
        f"n = {result.n} of {result.n_available} test images, {result.n_groups} "
        f"{result.group_unit}s, {result.protocol}; kept up to: largest severity within "
        f"{100 * result.bound:g} points; decisions: at the last severity"
    )
