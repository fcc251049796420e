"""``data fetch|export|samples``: image files that come in, go out, or are picked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import (
    agreed,
    command,
    console,
    name_unreadable,
    print_json,
    progress_bars,
    say,
)
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.cli.options import class_map
from leukoscope.config import DEFAULT_RECIPE
from leukoscope.core.program import typed
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.core.records import Manifest
    from leukoscope.datasets.fetch_registry import PublicSet


def read_manifest(
    data: Path,
    layout: str,
    classes: list[str] | None,
    target: str,
    show: Callable[[str, int, int], None],
) -> Manifest:
    """Read the images of a folder or table with the options of a command."""
    from leukoscope.datasets.layouts.load import load_dataset

    mapping = class_map(classes)
    tell_unused_classes(data, layout, mapping, target)
    return load_dataset(
        data,
        layout=layout,
        class_map=mapping,
        target=target,
        progress=partial(show, "reading the images"),
    )


def register(data_app: typer.Typer) -> None:
    """Add the commands to the group ``data``."""
    data_app.command(
        "fetch", epilog="Example: leukoscope data fetch bloodmnist --out data/bloodmnist"
    )(fetch_set)
    data_app.command(
        "export", epilog="Example: leukoscope data export path/to/images -r bn-cnn --out pixels"
    )(export_data)
    data_app.command(
        "samples", epilog="Example: leukoscope data samples path/to/images --out samples.png"
    )(find_samples)


@command
def fetch_set(
    name: Annotated[
        str | None, typer.Argument(help="Which data set; without a name they are listed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Its folder. Default: data/NAME.")
    ] = None,
    yes: opt.YesOption = False,
    as_json: opt.JsonOption = False,
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
        if not yes and not agreed("Fetch it on these terms?"):
            say("nothing was fetched", err=True)
            return 1
    with progress_bars() as show:
        done = fetch(item, folder, show)
    if as_json:
        print_json({**asdict(done), "folder": str(done.folder)})
    else:
        say(f"{done.state}: {plural(done.images, 'image')} in {done.folder}; {done.checked}")
        say(f"next     {typed('data', 'audit', done.folder, '--out', 'audit')}")
    return 0


@command
def export_data(
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, outside the data.")],
    recipe: opt.PreprocessingOption = DEFAULT_RECIPE,
    overrides: opt.SetOption = None,
    variant: Annotated[
        str, typer.Option(help="image, background-only, cells-only, stain-neutral …")
    ] = "image",
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> int:
    """Write preprocessed images as PNG files in class folders, with hashes; can be resumed."""
    from dataclasses import asdict

    from leukoscope.analyses.export_images import export_images
    from leukoscope.config.loading import load_recipe

    chosen = load_recipe(recipe, overrides or ())
    with progress_bars() as show:
        manifest = read_manifest(data, layout, classes, target, show)
        done = export_images(
            manifest,
            chosen,
            out,
            variant=variant,
            progress=partial(show, "writing images"),
        )
    if as_json:
        print_json({**asdict(done), "folder": str(done.folder)})
    else:
        kept = f", {done.kept} were there" if done.kept else ""
        say(f"{plural(done.written, 'image')} written{kept}: {out}")
    return name_unreadable([*manifest.unreadable, *done.unreadable])


@command
def find_samples(
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file for the sheet.")],
    per_class: Annotated[
        int, typer.Option("--per-class", min=1, max=20, help="Images of each class.")
    ] = 5,
    copy: Annotated[
        Path | None, typer.Option("--copy", help="Also copy the files, into class folders here.")
    ] = None,
    seed: opt.SeedOption = 42,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> int:
    """Find samples of each class and lay them out on a labelled sheet; a seed repeats them."""
    from dataclasses import asdict

    from leukoscope.analyses.export_images import copy_samples, draw_samples, pick_samples

    with progress_bars() as show:
        manifest = read_manifest(data, layout, classes, target, show)
    samples = pick_samples(manifest, per_class, seed)
    draw_samples(manifest, samples, out, seed=seed)
    if copy is not None:
        copy_samples(manifest, samples, copy)
    if as_json:
        print_json([asdict(sample) for sample in samples])
    else:
        for sample in samples:
            say(f"{sample.label:12s} {sample.path}")
        say(f"\nsheet   {out}")
        if copy is not None:
            say(f"copies  {copy}")
    return name_unreadable(manifest.unreadable)


def _describe(item: PublicSet, folder: Path) -> None:
    """Print size, terms and citation of a data set before it is fetched (standard error)."""
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
    say("\nfetch one  leukoscope data fetch NAME")
