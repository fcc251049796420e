"""``data inspect|audit|split|frozen|preview`` and ``phantom``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.commands import data_files
from leukoscope.cli.commands.data_files import read_manifest
from leukoscope.cli.console import (
    command,
    console,
    name_unreadable,
    print_json,
    print_notes,
    print_table,
    progress_bars,
    say,
)
from leukoscope.cli.data_notes import tell_of_study, tell_unused_classes
from leukoscope.config import DEFAULT_RECIPE
from leukoscope.core.known_classes import CLASSES_OF_ALL_SETS
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.config.study import SplitConfig
    from leukoscope.core.records import Manifest
    from leukoscope.datasets.frozen_passports import SavedSplits
    from leukoscope.datasets.layouts.inspection import Inspection
    from leukoscope.pipeline.folds import ProtocolPlan

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Fetch, inspect, audit, split, preview, export images.",
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
    data: opt.DataArgument,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
    roles: opt.RoleOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Say which layout a folder has, and what each class would be called and why."""
    from dataclasses import asdict

    from rich.markup import escape

    from leukoscope.datasets.layouts.inspection import inspect_dataset

    found = inspect_dataset(
        data,
        layout=layout,
        class_map=opt.class_map(classes),
        target=target,
        roles=opt.roles(roles),
    )
    if as_json:
        print_json(asdict(found))
        return
    console().print(f"[bold]{escape(found.layout)}[/]: {escape(found.why)}")
    print_table(
        ("folder or value", "class", "images", "why"),
        [(row.found, row.label or "excluded", str(row.images), row.why) for row in found.folders],
    )
    if roles or not {row.name for row in found.classes} <= CLASSES_OF_ALL_SETS:
        _print_classes(found)
    print_notes(found.warnings)


def _print_classes(found: Inspection) -> None:
    """What each class is, where it is not one of the four-class and C-NMC sets."""
    say()
    print_table(
        ("class", "title", "role", "images", "patients"),
        [
            (row.name, row.title, row.role or "not known", str(row.images), str(row.patients))
            for row in found.classes
        ],
    )
    unknown = [row.name for row in found.classes if row.role is None]
    if unknown:
        say(f"where the role is not known, state it: --role {unknown[0]}=malignant")
    if found.columns:
        say(f"further columns: {', '.join(found.columns)}")


@data_app.command("audit", epilog="Example: leukoscope data audit path/to/images --out audit")
@command
def audit_data(
    data: opt.DataArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for manifest, passport, sheets.")
    ],
    clusters: Annotated[int, typer.Option(help="Number of acquisition clusters.")] = 24,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> int:
    """Find duplicates, overlapping fields, scale bars, acquisition clusters, label conflicts."""
    from leukoscope.core.files import write_json
    from leukoscope.core.run_folder import refuse_study
    from leukoscope.datasets.audit.contact_sheet import contact_sheet
    from leukoscope.study.options import study_config
    from leukoscope.study.run import audited

    refuse_study(out)
    config = study_config(
        data,
        overrides=(f"splits.clusters={clusters}",),
        layout=layout,
        class_map=opt.class_map(classes),
        target=target,
    )
    tell_unused_classes(data, layout, config.data.class_map, target)
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
        say(f"\nmanifest, passport and {len(pages)} contact sheets of overlaps: {out}")
    return name_unreadable(found.manifest.unreadable)


@data_app.command(
    "split", epilog="Example: leukoscope data split path/to/images -p deduplicated --out splits.csv"
)
@command
def split(
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write splits.csv.")],
    protocol: Annotated[
        list[str] | None,
        typer.Option("--protocol", "-p", help="May be repeated. With --frozen: all by default."),
    ] = None,
    folds: opt.FoldsOption = 5,
    seed: opt.SeedOption = 42,
    reuse: Annotated[
        Path | None, typer.Option(help="Apply this splits.csv of others, matched by SHA-256.")
    ] = None,
    frozen: Annotated[
        str | None,
        typer.Option(help="Apply the splits of a frozen passport, see `data frozen`; no audit."),
    ] = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
) -> int:
    """Audit, then write leak-free splits that others can rebuild by SHA-256."""
    from leukoscope.core.errors import UsageError
    from leukoscope.core.run_folder import refuse_study
    from leukoscope.pipeline.folds import plan_protocols
    from leukoscope.study.options import study_config
    from leukoscope.study.run import audited

    refuse_study(out)
    if frozen is not None:
        if reuse is not None:
            raise UsageError("--frozen and --reuse name two sets of splits", hint="give one")
        if target:
            raise UsageError(
                "--frozen has splits of the published labels, and --target names others",
                hint="leave --target out",
            )
        return _split_frozen(data, out, frozen, protocol or [], layout, classes)
    if not protocol:
        raise UsageError("no protocol was named", hint="add e.g. --protocol deduplicated")
    config = study_config(
        data,
        protocols=protocol,
        folds=folds,
        seed=seed,
        layout=layout,
        class_map=opt.class_map(classes),
        target=target,
    )
    tell_of_study(config)
    with progress_bars() as show:
        found = audited(config, show)
    if reuse is not None:
        return _reuse_splits(reuse, out, found.manifest, protocol, config.splits)
    plan = plan_protocols(found.manifest, found, config)
    return _save_plan(out, plan, found.manifest)


def _save_plan(out: Path, plan: ProtocolPlan, manifest: Manifest) -> int:
    """Write the folds that could be made, and say which could not; gives the exit code.

    Raises:
        DataError: None could.
    """
    from leukoscope.core.errors import DataError
    from leukoscope.core.records import save_folds

    if not plan.folds:
        why = "; ".join(f"{r['protocol']} does not apply, {r['reason']}" for r in plan.inapplicable)
        raise DataError(f"no folds were made: {why}", hint="name another protocol with -p")
    save_folds(out, plan.folds, manifest)
    for row in plan.inapplicable:
        say(f"{row['protocol']} does not apply: {row['reason']}", err=True)
    say(f"{plural(len(plan.folds), 'fold')} of {', '.join(plan.names)}: {out}")
    return name_unreadable(manifest.unreadable)


def _reuse_splits(
    reuse: Path, out: Path, manifest: Manifest, protocols: list[str], splits: SplitConfig
) -> int:
    from leukoscope.datasets.frozen_passports import load_saved_splits
    from leukoscope.datasets.split_checks import split_notes

    applied = load_saved_splits(reuse, manifest)
    chosen = [fold for fold in applied.folds if fold.protocol in protocols]
    for name in dict.fromkeys(fold.protocol for fold in chosen):
        own = [fold for fold in chosen if fold.protocol == name]
        plain = splits.model_copy(update={"folds": len(own)})
        for note in split_notes(own, manifest, plain):
            say(note, err=True)
    _save_applied(out, replace(applied, folds=tuple(chosen)), manifest)
    return name_unreadable(manifest.unreadable)


def _split_frozen(
    data: Path,
    out: Path,
    name: str,
    protocols: list[str],
    layout: str,
    classes: list[str] | None,
) -> int:
    from leukoscope.datasets.frozen_passports import apply_frozen, load_frozen

    passport = load_frozen(name)
    with progress_bars() as show:
        manifest = read_manifest(data, layout, classes, "", show)
        found = apply_frozen(
            passport, manifest, protocols, progress=partial(show, "comparing pixels")
        )
    if found.by_pixels:
        say(f"{plural(found.by_pixels, 'image')} found by their pixels, not their bytes", err=True)
    label = {record.image_id: record.label for record in manifest.images}
    for image_id in found.relabelled:
        say(f"class differs from the passport: {image_id} ({label[image_id]})", err=True)
    _save_applied(out, found.splits, manifest)
    say(f"to cite: frozen passport {passport.name}, SHA-256 {passport.sha256}")
    return name_unreadable(manifest.unreadable)


def _save_applied(out: Path, applied: SavedSplits, manifest: Manifest) -> None:
    """Write splits that were made elsewhere; name the images that either side lacks."""
    from leukoscope.core.records import save_folds

    path = {record.image_id: record.path for record in manifest.images}
    for image_id in applied.missing:
        say(f"missing here: {image_id}", err=True)
    for image_id in applied.unassigned:
        say(f"not in those splits: {path[image_id]}", err=True)
    save_folds(out, applied.folds, manifest)
    say(
        f"{plural(len(applied.folds), 'fold')}, {plural(len(applied.missing), 'image')} missing "
        "here, "
        f"{len(applied.unassigned)} of this copy not in those splits: {out}"
    )


@data_app.command("frozen", epilog="Example: leukoscope data frozen aria-all")
@command
def show_frozen(
    name: Annotated[
        str | None, typer.Argument(help="Which passport; without a name they are listed.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """List the frozen passports of public data sets, or show one with the hash to cite."""
    from leukoscope.datasets.frozen_passports import list_frozen, load_frozen

    chosen = [load_frozen(item) for item in ([name] if name else list_frozen())]
    if as_json:
        headers = [dict(passport.header) for passport in chosen]
        print_json(headers[0] if name else headers)
        return
    out = console()
    for passport in chosen:
        head = passport.header
        out.print(f"[bold]{passport.name}[/]: {passport.title}, doi {passport.doi}", soft_wrap=True)
        shown = ", ".join(f"{p} (recommended)" if p == head["recommended"] else p
                          for p in passport.protocols)  # fmt: skip
        out.print(
            f"  {head['images']:,} images; {plural(head['folds'], 'fold')}, seed "
            f"{head['seed']}: {shown}"
        )
        out.print(f"  SHA-256 to cite: {passport.sha256}", soft_wrap=True)
        if name:
            audit = head["audit"]
            found = [row["text"] for row in audit.get("findings", ())]
            for text in [*found, *head["notes"], *head["remarks"]]:
                out.print(f"  - {text}", soft_wrap=True, highlight=False)
    if not name:
        out.print("use: leukoscope data split DATA --frozen NAME --out splits.csv")


@data_app.command("preview", epilog="Example: leukoscope data preview path/to/images --out preview")
@command
def preview(
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sheets.")],
    recipe: opt.PreprocessingOption = DEFAULT_RECIPE,
    steps: Annotated[
        bool, typer.Option("--steps", help="Also draw each preprocessing step, before and after.")
    ] = False,
    per_class: Annotated[int, typer.Option(help="Images of each class.")] = 4,
    augment: Annotated[bool, typer.Option("--augment", help="Also draw augmentations.")] = False,
    override: opt.SetOption = None,
    seed: opt.SeedOption = 42,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
) -> int:
    """Draw originals, preprocessed images, what probes see, statistics."""
    from leukoscope.analyses.preview import draw_preview
    from leukoscope.core.run_folder import refuse_study

    refuse_study(out)
    with progress_bars() as show:
        manifest = read_manifest(data, layout, classes, target, show)
    for path in draw_preview(
        manifest,
        out,
        recipe,
        per_class=per_class,
        augment=augment,
        seed=seed,
        overrides=override or (),
    ):
        say(str(path))
    if steps:
        from leukoscope.analyses.preview import draw_steps
        from leukoscope.config.loading import load_recipe

        for path in draw_steps(manifest, load_recipe(recipe, override or ()), out, seed=seed):
            say(str(path))
    return name_unreadable(manifest.unreadable)


@command
def phantom(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    images: Annotated[int, typer.Option(help="Number of fields.")] = 400,
    sessions: Annotated[int, typer.Option(help="Simulated staining and imaging sessions.")] = 24,
    patients: Annotated[
        int, typer.Option(help="Number of patients; 0: one of each class in each session.")
    ] = 0,
    smears: Annotated[
        int,
        typer.Option(
            help="Smears of each patient: folders patient/smear/class, and a diagnosis, age and "
            "sex for each patient."
        ),
    ] = 0,
    confound: Annotated[
        str, typer.Option(help="Tie something to the class: none, stain or scale-bar.")
    ] = "none",
    artefact: Annotated[
        str,
        typer.Option(help="Plant into the images of the first class: jpeg, blur, hot-pixels …"),
    ] = "none",
    strength: Annotated[int, typer.Option(help="Strength of the artefact: 1, 2 or 3.")] = 2,
    size: Annotated[int, typer.Option(help="Side of a field in px.")] = 224,
    seed: opt.SeedOption = 0,
) -> None:
    """Draw schematic blood smears with known truth.

    For demos, and to test audits with planted artefacts.
    """
    from leukoscope.core.errors import UnknownNameError
    from leukoscope.phantom.artefacts import PIXEL_ARTEFACTS
    from leukoscope.phantom.render import write_phantoms
    from leukoscope.phantom.spec import CONFOUNDERS, NO_ARTEFACT, Confound, PhantomSpec

    if confound not in CONFOUNDERS:
        raise UnknownNameError("confounder", confound, CONFOUNDERS)
    if artefact not in (NO_ARTEFACT, *PIXEL_ARTEFACTS):
        raise UnknownNameError("artefact", artefact, (NO_ARTEFACT, *PIXEL_ARTEFACTS))
    spec = PhantomSpec(
        images=images,
        sessions=sessions,
        patients=patients,
        smears=smears,
        confound=cast("Confound", confound),
        artefact=artefact,
        strength=strength,
        size_px=size,
        seed=seed,
    )
    with progress_bars() as show:
        folder = write_phantoms(spec, out, progress=partial(show, "drawing"))
    say(f"{images} phantom fields with masks and truth.json: {folder}")
