"""``transfer`` and ``ablate``: studies that differ in one thing, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.choices import completion
from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    name_unreadable,
    print_json,
    print_verdict,
    progress_bars,
    say,
)
from leukoscope.cli.data_notes import tell_of_studies, tell_of_study
from leukoscope.config import DEFAULT_RECIPE

if TYPE_CHECKING:
    from leukoscope.config.arms import ArmsFile, NamedShape, TransferResult

DEFAULT_PROTOCOLS = ("deduplicated",)

ArmsOutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder of all arms.")]
ArmsProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        "-p",
        autocompletion=completion("protocol"),
        help="Protocol; may be repeated. Default: deduplicated.",
    ),
]
ResumeArmsOption = Annotated[
    bool, typer.Option("--resume", help="Resume a stopped run: the same options again.")
]
SourceArgument = Annotated[Path, typer.Argument(help="Data of phase 1: folder or CSV manifest.")]
TargetArgument = Annotated[Path, typer.Argument(help="Data of phase 2: folder or CSV manifest.")]
TransferRecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help="Recipe name or file; its table [phase1] says what differs in phase 1.",
    ),
]
SourceProtocolOption = Annotated[
    str | None,
    typer.Option(help="How the source is held out. Default: by patient where ids are known."),
]
SourceLayoutOption = Annotated[
    str,
    typer.Option(
        "--source-layout",
        autocompletion=completion("layout"),
        help="Layout of SOURCE; --layout is that of TARGET.",
    ),
]
SourceTargetOption = Annotated[
    str,
    typer.Option(
        "--source-target", metavar="COLUMN", help="Label of SOURCE; --target is that of TARGET."
    ),
]
FreezeOption = Annotated[
    bool, typer.Option("--freeze", help="Phase 2 trains the head alone, in both arms.")
]
ConvOption = Annotated[
    list[int] | None,
    typer.Option(help="Channels of an added convolution in phase 2; may be repeated."),
]
TransferSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the recipe in both phases, or of the study of TARGET.",
    ),
]
SourceSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-set", metavar="KEY=VALUE", help="Override a value in phase 1 and its study only."
    ),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Part to leave out, one arm each: augmentation, one augmentation, a preprocessing "
        "step, class_weights, …; a+b leaves out both. May be repeated."
    ),
]
SetArmOption = Annotated[
    list[str] | None,
    typer.Option("--set-arm", metavar="KEY=VALUE", help="One more arm with another value."),
]


def register(app: typer.Typer) -> None:
    """Add both commands to the program."""
    app.command(
        "transfer",
        epilog="Example: leukoscope transfer cnmc all_images --recipe double-transfer-resnet50 "
        "--backbone tf_efficientnet_lite0 -p random -p acquisition --out transfer",
    )(transfer)
    app.command(
        "ablate",
        epilog="Example: leukoscope ablate images --recipe cnn-baseline --without augmentation "
        "--without dropout --out ablation",
    )(ablate)


@command
def transfer(
    context: typer.Context,
    source: SourceArgument,
    target: TargetArgument,
    out: ArmsOutOption,
    recipe: TransferRecipeOption = "double-transfer-resnet50",
    protocol: ArmsProtocolOption = None,
    source_protocol: SourceProtocolOption = None,
    folds: opt.FoldsOption = 1,
    seed: opt.SeedOption = 42,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    freeze: FreezeOption = False,
    conv: ConvOption = None,
    overrides: TransferSetOption = None,
    source_set: SourceSetOption = None,
    layout: opt.LayoutOption = "auto",
    source_layout: SourceLayoutOption = "auto",
    label_column: opt.TargetOption = "",
    source_label_column: SourceTargetOption = "",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    resume: ResumeArmsOption = False,
    as_json: opt.JsonOption = False,
) -> int:
    """Does pretraining on other data help? Train both ways.

    Trains on SOURCE, then on TARGET from there and directly.

    Images that both data sets show are left out of phase 1. The arms in OUT/direct and OUT/double
    have the same splits, seeds and epochs and are ordinary study folders.
    """
    from leukoscope.analyses.transfer import plan_transfer, run_transfer

    shared = opt.study_options(context, protocols=protocol or DEFAULT_PROTOCOLS)
    plan = plan_transfer(
        source,
        target,
        recipe=recipe,
        source_protocol=source_protocol,
        source_overrides=source_set or (),
        source_layout=source_layout,
        label_column=label_column,
        source_label_column=source_label_column,
        freeze=freeze,
        conv=conv or (),
        **{name: value for name, value in shared.items() if name != "target"},
    )
    tell_of_studies((plan.source, plan.target))
    with progress_bars() as show:
        result = run_transfer(plan, out, resume=resume, listener=show)
    if as_json:
        print_json(result.to_json())
    else:
        _print_phase1(result)
        _print_result(result, out)
    return _exit_code(result)


@command
def ablate(
    context: typer.Context,
    data: opt.DataArgument,
    out: ArmsOutOption,
    recipe: opt.OneRecipeOption = DEFAULT_RECIPE,
    without: WithoutOption = None,
    set_arm: SetArmOption = None,
    protocol: ArmsProtocolOption = None,
    folds: opt.FoldsOption = 1,
    seed: opt.SeedOption = 42,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    overrides: opt.SetOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    resume: ResumeArmsOption = False,
    as_json: opt.JsonOption = False,
) -> int:
    """Train with and without each part of a recipe.

    All on the same splits, with paired tests.
    """
    from leukoscope.analyses.ablation import plan_ablation, run_ablation

    plan = plan_ablation(
        data,
        recipe=recipe,
        without=without or (),
        settings=set_arm or (),
        **opt.study_options(context, protocols=protocol or DEFAULT_PROTOCOLS),
    )
    tell_of_study(plan.whole)
    with progress_bars() as show:
        result = run_ablation(plan, out, resume=resume, listener=show)
    if as_json:
        print_json(result.to_json())
    else:
        _print_result(result, out)
    return _exit_code(result)


def _print_phase1(result: TransferResult) -> None:
    from leukoscope.reporting.formats import interval

    phase1, taken, overlap = result.phase1, result.taken_over, result.overlap
    lines = [
        f"overlap     {overlap.source_images} source images against "
        f"{overlap.target_images} target images: {overlap.pairs_in_all} shared pairs; "
        f"{overlap.purged} left out of phase 1",
        f"phase 1     {', '.join(phase1.class_names)}: accuracy "
        f"{interval(phase1.metrics['accuracy'], 'accuracy')} ({phase1.protocol}, "
        f"n = {phase1.n})",
        f"taken over  {taken.taken_over} tensors of the backbone ({taken.values:,} numbers)",
        f"new head    {_tensors(taken.new)}",
        f"left behind {_tensors(taken.left_behind)}\n",
    ]
    for line in lines:
        console().print(line, markup=False)


def _tensors(rows: Sequence[NamedShape]) -> str:
    head = [row for row in rows if row.name.startswith("head.")]
    text = ", ".join(f"{row.name} {row.shape}" for row in head)
    others = len(rows) - len(head)
    return f"{text} and {others} tensors before it" if others else text


def _print_result(result: ArmsFile, out: Path) -> None:
    screen = console()
    for text, row in zip(result.verdict.sentences, result.comparisons, strict=True):
        p = row.pairs.mcnemar_p
        screen.print(text if p is None else f"{text} McNemar p = {p:.3f}.", markup=False)
    for left_out in result.inapplicable:
        screen.print(f"{left_out.protocol} does not apply: {left_out.reason}", markup=False)
    print_verdict(result.verdict.level, result.verdict.headline)
    for text in result.limits:
        screen.print(f"· {text}", markup=False)
    say(f"\nreport  {out / 'report.html'}")
    say(DISCLAIMER)


def _exit_code(result: ArmsFile) -> int:
    return name_unreadable([(row.path, row.reason) for row in result.unreadable])
