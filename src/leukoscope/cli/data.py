"""``data inspect|audit|split|preview`` and ``phantom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from leukoscope.cli import data_files
from leukoscope.cli.console import (
    command,
    console,
    name_unreadable,
    print_json,
    progress_bars,
)
from leukoscope.cli.options import (
    ClassOption,
    DataArgument,
    FoldsOption,
    JsonOption,
    LayoutOption,
    SeedOption,
    SetOption,
    class_map,
)
from leukoscope.cli.reading import read_manifest

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Get a data set, see what it is, divide it, write it out.",
)


def register(app: typer.Typer) -> None:
    """Add the group ``data`` and the command ``phantom`` to the program."""
    data_files.register(data_app)
    app.add_typer(data_app, name="data")
    app.command("phantom", epilog="Example: leukoscope phantom --images 400 --out phantoms")(
        phantom
    )


@data_app.command("inspect", epilog="Example: leukoscope data inspect path/to/images")
@command
def inspect(
    data: DataArgument,
    layout: LayoutOption = "auto",
    classes: ClassOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which layout a folder has, and what each class would be called and why."""
    from dataclasses import asdict

    from leukoscope.datasets.layouts import inspect_dataset

    found = inspect_dataset(data, layout=layout, class_map=class_map(classes))
    if as_json:
        print_json(asdict(found))
        return
    from rich.table import Table

    out = console()
    out.print(f"[bold]{found.layout}[/]: {found.why}")
    table = Table("folder or value", "class", "images", "why", box=None, pad_edge=False)
    for row in found.folders:
        table.add_row(row.found, row.label or "excluded", str(row.images), row.why)
    out.print(table)
    for warning in found.warnings:
        out.print(f"[yellow]![/] {warning}")


@data_app.command("audit", epilog="Example: leukoscope data audit path/to/images --out audit")
@command
def audit_data(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for manifest, passport, sheets.")],
    clusters: Annotated[int, typer.Option(help="Number of acquisition clusters.")] = 24,
    layout: LayoutOption = "auto",
    classes: ClassOption = None,
    as_json: JsonOption = False,
) -> int:
    """Find duplicates, overlapping fields, scale bars, acquisition clusters, label conflicts."""
    from leukoscope.core.files import write_json
    from leukoscope.datasets.contact_sheet import contact_sheet
    from leukoscope.study.run import audited, study_config

    config = study_config(
        data,
        overrides=(f"splits.clusters={clusters}",),
        layout=layout,
        class_map=class_map(classes),
    )
    with progress_bars() as show:
        found = audited(config, show)
        found.manifest.save(out / "manifest.csv")
        write_json(out / "passport.json", found.passport)
        pages = contact_sheet(found.manifest, found, out / "overlaps")
    if as_json:
        print_json(found.passport)
    else:
        for finding in found.passport["findings"]:
            console().print(f"[bold]{finding['level']}[/]: {finding['text']}")
        typer.echo(f"\nmanifest, passport and {len(pages)} contact sheets of overlaps: {out}")
    return name_unreadable(found.manifest.unreadable)


@data_app.command(
    "split", epilog="Example: leukoscope data split path/to/images -p deduplicated --out splits.csv"
)
@command
def split(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="Where to write splits.csv.")],
    protocol: Annotated[list[str], typer.Option("--protocol", "-p", help="May be repeated.")],
    folds: FoldsOption = 5,
    seed: SeedOption = 42,
    reuse: Annotated[
        Path | None, typer.Option(help="Apply this splits.csv of others, matched by SHA-256.")
    ] = None,
    layout: LayoutOption = "auto",
    classes: ClassOption = None,
) -> int:
    """Audit, then write leak-free splits that others can rebuild by SHA-256."""
    from leukoscope.core.records import save_folds
    from leukoscope.datasets.saved_splits import load_saved_splits
    from leukoscope.study.protocols import plan_protocols
    from leukoscope.study.run import audited, study_config

    config = study_config(
        data,
        protocols=protocol,
        folds=folds,
        seed=seed,
        layout=layout,
        class_map=class_map(classes),
    )
    with progress_bars() as show:
        found = audited(config, show)
    if reuse is not None:
        applied = load_saved_splits(reuse, found.manifest)
        chosen = [fold for fold in applied.folds if fold.protocol in protocol]
        for image_id in applied.missing:
            typer.echo(f"missing here: {image_id}", err=True)
        save_folds(out, chosen, found.manifest)
        typer.echo(f"{len(chosen)} folds, {len(applied.missing)} images missing here: {out}")
        return name_unreadable(found.manifest.unreadable)
    plan = plan_protocols(found.manifest, found, config)
    save_folds(out, plan.folds, found.manifest)
    for row in plan.inapplicable:
        typer.echo(f"{row['protocol']} does not apply: {row['reason']}", err=True)
    typer.echo(f"{len(plan.folds)} folds of {', '.join(plan.names) or 'no protocol'}: {out}")
    return name_unreadable(found.manifest.unreadable) if plan.folds else 1


@data_app.command("preview", epilog="Example: leukoscope data preview path/to/images --out preview")
@command
def preview(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheets.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Whose preprocessing.")] = "quick",
    steps: Annotated[
        bool, typer.Option("--steps", help="Also draw each preprocessing step, before and after.")
    ] = False,
    per_class: Annotated[int, typer.Option(help="Images of each class.")] = 4,
    augment: Annotated[bool, typer.Option("--augment", help="Also draw augmentations.")] = False,
    override: SetOption = None,
    seed: SeedOption = 42,
    layout: LayoutOption = "auto",
    classes: ClassOption = None,
) -> int:
    """Draw originals, preprocessed images, what probes see, statistics."""
    from leukoscope.study.preview import draw_preview

    with progress_bars() as show:
        manifest = read_manifest(data, layout, classes, show)
    for path in draw_preview(
        manifest,
        out,
        recipe,
        per_class=per_class,
        augment=augment,
        seed=seed,
        overrides=override or (),
    ):
        typer.echo(str(path))
    if steps:
        from leukoscope.config.loading import load_recipe
        from leukoscope.study.preview_steps import draw_steps

        for path in draw_steps(manifest, load_recipe(recipe, override or ()), out, seed=seed):
            typer.echo(str(path))
    return name_unreadable(manifest.unreadable)


@command
def phantom(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    images: Annotated[int, typer.Option(help="Number of fields.")] = 400,
    sessions: Annotated[int, typer.Option(help="Simulated staining and imaging sessions.")] = 24,
    confound: Annotated[
        str, typer.Option(help="Tie something to the class: none, stain or scale-bar.")
    ] = "none",
    size: Annotated[int, typer.Option(help="Side of a field in px.")] = 224,
    seed: SeedOption = 0,
) -> None:
    """Draw schematic blood smears with ground truth, for demos and for testing audits."""
    from leukoscope.core.errors import UnknownNameError
    from leukoscope.phantom.spec import CONFOUNDERS, Confound, PhantomSpec
    from leukoscope.phantom.writing import write_phantoms

    if confound not in CONFOUNDERS:
        raise UnknownNameError("confounder", confound, CONFOUNDERS)
    spec = PhantomSpec(
        images=images,
        sessions=sessions,
        confound=cast("Confound", confound),
        size_px=size,
        seed=seed,
    )
    with progress_bars() as show:
        folder = write_phantoms(spec, out, progress=lambda d, t: show("drawing", d, t))
    typer.echo(f"{images} phantom fields with masks and truth.json: {folder}")
