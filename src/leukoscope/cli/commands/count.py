"""``count``: the differential, cell types by patient with intervals that include the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    name_unreadable,
    print_json,
    print_table,
    progress_bars,
    say,
)
from leukoscope.cli.options import (
    ClassOption,
    EngineOption,
    JsonOption,
    LayoutOption,
    PrecisionOption,
    ScaleBarOption,
    SeedOption,
    TargetOption,
    UmPerPxOption,
    WholeOption,
    class_map,
)

if TYPE_CHECKING:
    from leukoscope.analyses.count.cells import Material, PatientCells

WIDTH = 120  # of the table

ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        help="A folder of patients' or smears' folders, several folders or files, or a CSV "
        "manifest with labels."
    ),
]
BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="A model of cell types.")]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for tables, page and sheets of cells.")
]
PatientsOption = Annotated[
    Path | None,
    typer.Option(
        "--patients",
        help="CSV with image and patient_id, or a folder that holds one folder for each.",
    ),
]
TruthOption = Annotated[
    bool, typer.Option("--truth", help="The data set's labels are cell types: compare with them.")
]
BlastOption = Annotated[
    list[str] | None,
    typer.Option("--blast", metavar="CLASS", help="Counts as a blast; may be repeated."),
]
ThresholdOption = Annotated[
    float, typer.Option(min=0, max=100, help="Share of blasts that matters, in per cent.")
]
CorrectionsOption = Annotated[
    list[Path] | None,
    typer.Option("--corrections", help="CSV that a sheet of cells saved; may be repeated."),
]
MethodOption = Annotated[
    str, typer.Option(help="How shares are adjusted: em, inversion or posterior.")
]
NoSheetsOption = Annotated[bool, typer.Option("--no-sheets", help="No sheets of cells.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "count",
        epilog="Example: leukoscope count smears/ --bundle run/bundle --out counts, then "
        "leukoscope count smears/ --bundle run/bundle --out counts2 --corrections corrections.csv",
    )(count)


@command
def count(
    images: ImagesArgument,
    bundle: BundleOption,
    out: OutOption = Path("counts"),
    patients: PatientsOption = None,
    truth: TruthOption = False,
    blast: BlastOption = None,
    blast_threshold: ThresholdOption = 20.0,
    corrections: CorrectionsOption = None,
    method: MethodOption = "em",
    no_sheets: NoSheetsOption = False,
    layout: LayoutOption = "auto",
    class_names: ClassOption = None,
    target: TargetOption = "",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    um_per_px: UmPerPxOption = None,
    scale_bar_um: ScaleBarOption = None,
    whole: WholeOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Count cell types by patient, with intervals.

    Shares of each type, blasts, and sheets to correct.
    """
    from leukoscope.analyses.count.result import make_counts
    from leukoscope.analyses.count.shares import Question, blast_classes
    from leukoscope.evaluation.prevalence import check_method
    from leukoscope.runtime.engines import one_thread_each
    from leukoscope.runtime.predictor import load_bundle

    check_method(method)
    one_thread_each()
    predictor = load_bundle(
        bundle,
        engine=engine,
        precision=precision,
        bulk=True,
        whole=whole,
        um_per_px=um_per_px,
        scale_bar_um=scale_bar_um,
    )
    names = predictor.class_names
    question = Question(names, blast_classes(names, blast), blast_threshold / 100)
    material = _material(images, patients, truth, layout, class_map(class_names), target)
    with progress_bars("images") as show:
        result, cells = make_counts(
            predictor,
            material,
            question,
            out,
            method=method,
            corrections=corrections or (),
            sheets=not no_sheets,
            seed=seed,
            show=show,
        )
    print_json(result) if as_json else _print(result, out)
    return _tell_unreadable(cells)


def _material(
    images: list[str],
    patients: Path | None,
    truth: bool,
    layout: str,
    mapping: dict[str, str],
    target: str,
) -> Material:
    """Images and their patients; with ``truth``, a target or a manifest, their cell types."""
    from leukoscope.analyses.count.cells import from_images, from_labelled
    from leukoscope.core.errors import UsageError
    from leukoscope.datasets.layouts.load import load_dataset
    from leukoscope.runtime.by_patient import patients_named

    if not (truth or target or (len(images) == 1 and images[0].lower().endswith(".csv"))):
        return from_images(images, patients)
    if len(images) != 1:
        raise UsageError(
            f"--truth expects one data set, got {len(images)} inputs",
            hint="name a folder in a known layout, or a CSV manifest",
        )
    with progress_bars("images") as show:
        manifest = load_dataset(
            images[0],
            layout=layout,
            class_map=mapping,
            target=target,
            progress=lambda done, total: show("reading labels", done, total),
        )
    return from_labelled(manifest, patients_named(patients) if patients is not None else None)


def _print(result: dict[str, Any], out: Path) -> None:
    from leukoscope.reporting.pages.counts import percent, with_limits

    screen = console()
    for note in result["notes"]:
        screen.print(f"! {note}", markup=False)
    titles = ["patient", "cells", "rejected", "unreadable", "corrected"]
    if result["blast_classes"]:
        threshold = f"{100 * result['blast_threshold']:g} %"
        titles += ["blasts counted", "blasts adjusted", f"against {threshold}"]
    rows = []
    for one in result["patients"]:
        row = [one["patient"], one["cells"], one["rejected"], len(one["unreadable"])]
        row.append(one["corrected"])
        if one["blasts"]:
            blasts = one["blasts"]
            row += [percent(blasts["counted"]), with_limits(blasts), blasts["call"]]
        rows.append([str(cell) for cell in row])
    print_table(titles, rows, width=WIDTH)
    if result["truth"] and result["truth"]["blasts"]:
        found = result["truth"]["blasts"]
        error = found["mean_absolute_error"]["value"]
        say(
            f"blast share against the labels: mean absolute error {100 * error:.1f} points, "
            f"intervals hold {100 * found['held']:.0f} % of {result['truth']['patients']} patients"
        )
    say(f"\npage    {out / 'counts.html'}\ntables  {out / 'counts.csv'}\n{DISCLAIMER}")


def _tell_unreadable(cells: list[PatientCells]) -> int:
    return name_unreadable([(lost.path, lost.reason) for one in cells for lost in one.unreadable])
