"""``count``: the differential, cell types by patient with intervals that include the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    tell_left_out,
)
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.cli.options import (
    ClassOption,
    EngineOption,
    JsonOption,
    LayoutOption,
    PrecisionOption,
    RunRecipeOption,
    ScaleBarOption,
    SeedOption,
    TargetOption,
    UmPerPxOption,
    WholeOption,
    class_map,
)
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.analyses.count.cells import Material, PatientCells
    from leukoscope.config.counts import CountsFile
    from leukoscope.evaluation.run_files import RunFiles

WIDTH = 120  # of the table
OF_BUNDLE = {
    "images": "images", "bundle": "--bundle", "patients": "--patients", "truth": "--truth",
    "layout": "--layout", "class_names": "--class", "target": "--target", "engine": "--engine",
    "precision": "--precision", "um_per_px": "--um-per-px", "scale_bar_um": "--scale-bar-um",
    "whole": "--whole",
}  # fmt: skip
"""What is said of images and bundle, and of no study: parameter and option."""

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="A folder of patients' or smears' folders, several folders or files, or a CSV "
        "manifest with labels."
    ),
]
BundleOption = Annotated[Path | None, typer.Option("--bundle", "-b", help="A model of cell types.")]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="In place of images and bundle: a study of cell types, whose own patients are "
        "counted, each by the models that had not seen it.",
    ),
]
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
    typer.Option("--blast", metavar="CLASS", help="Class that counts as a blast; may be repeated."),
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
    context: typer.Context,
    images: ImagesArgument = None,
    bundle: BundleOption = None,
    run: RunOption = None,
    recipe: RunRecipeOption = None,
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
    from leukoscope.analyses.count.result import Wanted, count_held_out, make_counts
    from leukoscope.analyses.count.shares import Question, blast_classes
    from leukoscope.runtime.engines import one_thread_each
    from leukoscope.runtime.predictor import load_bundle

    _check_asked(method, corrections or ())

    def wanted(names: tuple[str, ...], show: Callable[[str, int, int], None]) -> Wanted:
        question = Question(names, blast_classes(names, blast), blast_threshold / 100)
        return Wanted(question, out, method, corrections or (), not no_sheets, seed, show)

    if run is not None:
        files, recipe = _study(context, run, recipe)
        with progress_bars("images") as show:
            asked = wanted(files.manifest.class_names, show)
            result, cells = count_held_out(files, recipe, asked)
    else:
        named, folder = _images_and_bundle(images, bundle, recipe)
        one_thread_each()
        predictor = load_bundle(
            folder, engine=engine, precision=precision, bulk=True, whole=whole,
            um_per_px=um_per_px, scale_bar_um=scale_bar_um,
        )  # fmt: skip
        material = _material(named, patients, truth, layout, class_map(class_names), target)
        tell_left_out(material.inputs.left_out.words)
        with progress_bars("images") as show:
            asked = wanted(predictor.class_names, show)
            result, cells = make_counts(predictor, material, asked)
    print_json(result.to_json()) if as_json else _print(result, out)
    return _tell_unreadable(cells)


def _check_asked(method: str, corrections: Sequence[Path]) -> None:
    """Refuse what would end the count after the work."""
    from leukoscope.analyses.count.cells import check_corrections
    from leukoscope.evaluation.prevalence import check_method

    check_method(method)
    check_corrections(corrections)


def _study(context: typer.Context, run: Path, recipe: str | None) -> tuple[RunFiles, str]:
    """The study whose own patients are counted, and which of its recipes."""
    from leukoscope.core.errors import UsageError
    from leukoscope.evaluation.run_files import RunFiles

    given = (name for name in OF_BUNDLE if _is_given(context, name))
    if refused := [OF_BUNDLE[name] for name in given]:
        raise UsageError(
            f"--run counts the patients of a study as its folds answered them, and takes no "
            f"{', '.join(refused)}",
            hint="leave it out, or name images and --bundle in place of --run",
        )
    files = RunFiles.open(run)
    chosen = recipe or files.recipes[0]
    files.check_recipe(chosen)
    return files, chosen


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user typed an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _images_and_bundle(
    images: list[str] | None, bundle: Path | None, recipe: str | None
) -> tuple[list[str], Path]:
    """Both must be named where no study is."""
    from leukoscope.core.errors import UsageError

    if recipe is not None:
        raise UsageError("--recipe names a recipe of --run", hint="name the study with --run")
    if not images or bundle is None:
        raise UsageError(
            "expected images and --bundle, or --run",
            hint="leukoscope count SMEARS --bundle run/bundle, or leukoscope count --run run",
        )
    return images, bundle


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
    from leukoscope.core.tables import MANIFESTS
    from leukoscope.datasets.layouts.load import load_dataset
    from leukoscope.runtime.by_patient import patients_named

    if not (truth or target or (len(images) == 1 and images[0].lower().endswith(MANIFESTS))):
        return from_images(images, patients)
    if len(images) != 1:
        raise UsageError(
            f"--truth expects one data set, got {len(images)} inputs",
            hint="name a folder in a known layout, or a CSV manifest",
        )
    tell_unused_classes(Path(images[0]), layout, mapping, target)
    with progress_bars("images") as show:
        manifest = load_dataset(
            images[0],
            layout=layout,
            class_map=mapping,
            target=target,
            progress=lambda done, total: show("reading labels", done, total),
        )
    return from_labelled(manifest, patients_named(patients) if patients is not None else None)


def _print(result: CountsFile, out: Path) -> None:
    from leukoscope.reporting.pages.counts import percent, with_limits

    screen = console()
    for note in result.notes:
        screen.print(f"! {note}", markup=False)
    titles = ["patient", "cells", "rejected", "unreadable", "corrected"]
    if result.blast_classes:
        threshold = f"{100 * result.blast_threshold:g} %"
        titles += ["blasts counted", "blasts adjusted", f"against {threshold}"]
    rows = []
    for one in result.patients:
        row = [
            one.patient,
            *map(str, (one.cells, one.rejected, len(one.unreadable), one.corrected)),
        ]
        if one.blasts is not None:
            row += [percent(one.blasts.counted), with_limits(one.blasts), one.blasts.call]
        rows.append(row)
    print_table(titles, rows, width=WIDTH)
    if result.truth is not None and result.truth.blasts is not None:
        found = result.truth.blasts
        say(
            f"blast share against the labels: mean absolute error "
            f"{percent(found.mean_absolute_error.value).replace('%', 'points')}, intervals hold "
            f"{100 * found.held:.0f} % of {plural(result.truth.patients, 'patient')}"
        )
    say(f"\npage    {out / 'counts.html'}\ntables  {out / 'counts.csv'}\n{DISCLAIMER}")


def _tell_unreadable(cells: list[PatientCells]) -> int:
    return name_unreadable([(lost.path, lost.reason) for one in cells for lost in one.unreadable])
