"""``evaluate`` and ``export``: what can be done with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import command, console, name_unreadable, print_json, progress_bars


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("evaluate", epilog="Example: leukoscope evaluate run/bundle other/data --out eval")(
        evaluate
    )
    app.command("export", epilog="Example: leukoscope export run --out bundle")(export)


@command
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The model's folder.")],
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for predictions and metrics.")],
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    as_json: opt.JsonOption = False,
) -> int:
    """Measure a bundle on labelled images that it has not seen; says so if it has."""
    from leukoscope.study.external import evaluate_bundle

    with progress_bars() as show:
        result = evaluate_bundle(
            bundle, data, out, layout=layout, class_map=opt.class_map(classes), listener=show
        )
    if as_json:
        print_json(result.metrics)
    else:
        row = result.metrics["results"][0]
        console().print(f"{row['n']} images, {row['n_groups']} groups", markup=False)
        for name, value in row["metrics"].items():
            if value["value"] is None:
                continue
            low, high = value["low"], value["high"]
            span = "" if low is None else f"  ({low:.3f}–{high:.3f})"
            console().print(f"{name:24s} {value['value']:.3f}{span}", markup=False)
        share = result.metrics["decisions"]["share"]
        decisions = ", ".join(f"{name} {value:.1%}" for name, value in share.items())
        console().print(f"decisions: {decisions}", markup=False)
        for warning in result.metrics["warnings"]:
            console().print(f"[yellow]![/] {warning}")
        typer.echo(f"\nmetrics {out / 'metrics.json'}")
    return name_unreadable(result.unreadable)


@command
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a study or training run.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the bundle.")],
    recipe: opt.RunRecipeOption = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also quantise to int8; offered if it is as accurate.")
    ] = False,
    um_per_px: Annotated[
        float | None,
        typer.Option("--um-per-px", help="Pixel scale of the training images in µm."),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Store the weights in half the bytes.")
    ] = False,
) -> None:
    """Pack the model fitted on all images as a bundle that predicts without torch."""
    from leukoscope.config.loading import load_study_config
    from leukoscope.core.run_folder import RunFolder
    from leukoscope.study.bundling import export_bundle

    folder = RunFolder(run)
    name = recipe or load_study_config(folder.config).recipes[0].name
    record = export_bundle(folder, name, out, int8=int8, um_per_px=um_per_px, compact=compact)
    typer.echo(f"bundle {out}: {', '.join(record.class_names)}")
    for serving in record.servings:
        typer.echo(f"  {serving.engine} {serving.precision}: {serving.words}")
