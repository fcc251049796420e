"""``explain`` and ``features``: where a trained model looks, and what its features follow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import (
    DISCLAIMER,
    EXIT_SOME_UNREADABLE,
    command,
    console,
    given_options,
    print_json,
    print_table,
    progress_bars,
    say,
    tell_left_out,
)
from leukoscope.core.errors import UsageError
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.analyses.explanation_audit import AuditPlan
    from leukoscope.config.explanations import Explanation, FeatureMap
    from leukoscope.study.explanations import Look, ModelSource

AUDIT_PARTS = {"settings", "stages", "summary", "verdicts"}  # printed with --json

RunArgument = Annotated[Path, typer.Argument(help="Folder of a study or training run.")]
RunProtocolOption = Annotated[
    str | None, typer.Option("--protocol", "-p", help="Default: the run's first.")
]
ExplainedImages = Annotated[
    list[str] | None,
    typer.Argument(help="Image files, folders or globs. Default: test images, chosen by rule."),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="grad-cam, grad-cam++, occlusion or integrated-gradients; may be repeated. "
        "Default: grad-cam; for --audit all.",
    ),
]
PanelCountOption = Annotated[
    int, typer.Option(min=1, help="Panels of right and of wrong test predictions.")
]
ExplainedRecipesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Recipe; repeat it to see several side by side. Default: the run's first.",
    ),
]
BesideOption = Annotated[
    Path | None, typer.Option("--beside", help="Another run to show beside it.")
]
TargetClassOption = Annotated[
    str, typer.Option("--target", metavar="predicted|true|CLASS", help="The class explained.")
]
LayerOption = Annotated[
    str | None,
    typer.Option("--layer", help="Look at this layer. Default: the last map before pooling."),
]
AuditOption = Annotated[
    bool, typer.Option("--audit", help="Measure whether heat maps are reliable.")
]
AuditImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, help="Test images of the audit. Default: 20.")
]
UnjudgedOption = Annotated[
    bool,
    typer.Option("--unjudged", help="Measure fewer than 20 independent images, without a verdict."),
]
MasksOption = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="Leukocyte masks for the audit, PNG named like the images. Default: "
        "a phantom's truth, else the built-in segmentation.",
    ),
]
ExplanationsOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Default: a folder in RUN/explanations.")
]
FoldOption = Annotated[
    int, typer.Option("--fold", help="Fold whose model and test images are used.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(
        "explain",
        epilog="Example: leukoscope explain run --count 8 --method grad-cam --method occlusion · "
        "leukoscope explain run --audit",
    )(explain)
    app.command("features", epilog="Example: leukoscope features run -p acquisition")(features)


@command
def explain(
    context: typer.Context,
    run: RunArgument,
    images: ExplainedImages = None,
    method: MethodOption = None,
    count: PanelCountOption = 6,
    recipe: ExplainedRecipesOption = None,
    beside: BesideOption = None,
    protocol: RunProtocolOption = None,
    target: TargetClassOption = "predicted",
    layer: LayerOption = None,
    audit: AuditOption = False,
    audited: AuditImagesOption = None,
    unjudged: UnjudgedOption = False,
    masks: MasksOption = None,
    out: ExplanationsOutOption = None,
    as_json: opt.JsonOption = False,
) -> int:
    """Draw heat maps; measure whether they are reliable.

    Of test images, or of images that you name.
    """
    if audit:
        given = given_options(context) & {"images", "count", "beside", "target", "layer"}
        if given or len(recipe or ()) > 1:
            raise UsageError(
                "an audit takes one recipe and chooses its test images; it has no "
                f"{', '.join(sorted(given)) or 'second recipe'}",
                hint="example: leukoscope explain RUN --audit -m grad-cam --images 24",
            )
        from leukoscope.analyses.explanation_audit import IMAGES, AuditPlan

        plan = AuditPlan(tuple(method or ()), audited or IMAGES, masks, judged=not unjudged)
        return _audit(run, recipe, protocol, plan, out, as_json)
    if audited is not None or masks is not None or unjudged:
        raise UsageError(
            "--images, --masks and --unjudged belong to --audit", hint="say --audit too"
        )
    from leukoscope.core.run_folder import refuse_study
    from leukoscope.study.explanations import Look, open_sources

    if out is not None:
        refuse_study(out)
    look = Look(tuple(dict.fromkeys(method or ("grad-cam",))), layer, target)
    sources = open_sources(run, beside, recipe or (), protocol)
    return _explain_images(sources, look, images or [], count, out, as_json)


def _explain_images(
    sources: list[ModelSource], look: Look, images: list[str], count: int, out: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Draw heat maps of the named images, or of test images chosen by rule."""
    from leukoscope.runtime.input_files import Inputs
    from leukoscope.runtime.prediction import Failure
    from leukoscope.study.explanations import (
        choose_subjects,
        default_folder,
        draw_grids,
        name_subjects,
    )
    from leukoscope.study.explanations import explain as explain_images

    named = Inputs(images)
    expanded = list(named)
    tell_left_out(named.left_out.words)
    failures = [item for item in expanded if isinstance(item, Failure)]
    files = [item for item in expanded if isinstance(item, Path)]
    subjects = name_subjects(sources[0], files) if images else choose_subjects(sources[0], count)
    folder = out or default_folder(sources, look, named=bool(images))
    with progress_bars() as show:
        found, unreadable = explain_images(
            sources, subjects, look, folder, partial(show, "explaining")
        )
        if not images:
            show("grids of examples", 0, 0)
            draw_grids(sources[0], folder)
            show("grids of examples", 1, 1)
    failures += unreadable
    if as_json:
        print_json([vars(entry) for entry in found])
    else:
        _print_explanations(found, sources, folder)
    for failure in failures:
        say(f"could not be read: {failure}", err=True)
    return EXIT_SOME_UNREADABLE if failures else 0


def _print_explanations(found: list[Explanation], sources: list[ModelSource], folder: Path) -> None:
    rows = []
    keys = dict.fromkeys((entry.recipe, entry.method, entry.kind) for entry in found)
    for key in keys:
        entries = [e for e in found if (e.recipe, e.method, e.kind) == key]
        known = [e for e in entries if e.share_in_leukocytes is not None]
        shares = [e.share_in_leukocytes or 0.0 for e in known]
        heat = f"{sum(shares) / len(known):.0%}" if known else "—"
        even = f"{sum(e.area_of_leukocytes for e in known) / len(known):.0%}" if known else "—"
        rows.append((*key, str(len(entries)), heat, even))
    if not found:
        return
    titles = ("recipe", "method", "kind", "images", "heat in leukocytes", "if spread evenly")
    print_table(titles, rows)
    if any(entry.part in ("train", "val") for entry in found):
        say("! some of these images were used to fit or select the model that is explained")
    panels = len({entry.panel for entry in found})
    say(f"\n{plural(panels, 'panel')}  {folder}\n{DISCLAIMER}")


def _audit(
    run: Path,
    recipe: list[str] | None,
    protocol: str | None,
    plan: AuditPlan,
    out: Path | None,
    as_json: bool,
) -> int:
    from leukoscope.analyses.explanation_audit import audit_explanations, put_into_report
    from leukoscope.core.run_folder import RunFolder, refuse_study
    from leukoscope.reporting.study.examples import audit_table
    from leukoscope.study.explanations import open_sources

    if out is not None and out.resolve() != RunFolder(run).explanations.resolve():
        refuse_study(out)
    (source,) = open_sources(run, None, recipe or (), protocol)
    folder = out or source.fitted.run.explanations
    with progress_bars() as show:
        found = audit_explanations(
            source,
            plan,
            folder,
            partial(show, "scoring heat maps"),
            warn=lambda text: say(f"! {text}", err=True),
        )
        if out is None:
            put_into_report(source.fitted.run, partial(show, "report"))
    if as_json:
        print_json({key: part for key, part in found.to_json().items() if key in AUDIT_PARTS})
        return 0
    from rich.table import Column, Table

    content, words = audit_table(found)
    maps = (Column(row[0], justify="right") for row in content.rows)
    table = Table("", *maps, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(content.columns[1:], start=1):
        table.add_row(column.title, *(row[number].partition(" (")[0] for row in content.rows))
    console().print(f"\n{content.caption}", markup=False)
    console().print(table)
    for line in (content.note, *words):
        console().print(f"\n{line}", markup=False)
    say(f"\naudit  {folder / 'audit.json'}\n{DISCLAIMER}")
    return 0


@command
def features(
    run: RunArgument,
    recipe: opt.RunRecipeOption = None,
    protocol: RunProtocolOption = None,
    fold: FoldOption = 0,
    seed: opt.SeedOption = 42,
    out: ExplanationsOutOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Map what a model's features encode.

    Always the features of one fold's model on its own test images.
    """
    from leukoscope.core.run_folder import refuse_study
    from leukoscope.study.explanations import open_sources
    from leukoscope.study.feature_maps import draw_maps, read_features, write_map

    if out is not None:
        refuse_study(out)
    (source,) = open_sources(run, None, (recipe,) if recipe else (), protocol)
    name = f"features-{source.recipe}-{source.protocol}-fold{fold}"
    folder = out or source.fitted.run.explanations / name
    with progress_bars() as show:
        found = read_features(source, fold, partial(show, "features"), seed=seed)
        show("maps", 0, 0)
        result = write_map(found, folder, seed=seed)
        draw_maps(folder)
        show("maps", 1, 1)
    if as_json:
        print_json(result.to_json())
        return
    _print_map(result)
    say(f"\nmaps  {folder}")


def _print_map(result: FeatureMap) -> None:
    """What the features encode; no table where nothing could be compared."""
    out = console()
    out.print(
        f"{result.n} test images, {result.dimensions} features: {result.recipe}, "
        f"{result.protocol}, fold {result.fold}",
        markup=False,
    )
    if not result.structures:
        out.print(
            f"No neighbours are compared: it takes images with more than {result.neighbours} "
            "others that are of another group of overlapping images; take a study of more images, "
            "or of fewer folds."
        )
        return
    heads = ("what", "neighbours", "groups", "images", "silhouette", "purity", "chance", "best",
             "score")  # fmt: skip
    rows = [
        (
            row.labelling,
            row.crossed or "any",
            str(row.groups),
            str(row.purity.n),
            _number(row.silhouette),
            *map(_number, (row.purity.value, row.purity.chance, row.purity.best)),
            _number(row.above_chance),
        )
        for row in result.structures
    ]
    print_table(heads, rows)
    out.print(
        f"purity: share of the {result.neighbours} nearest that agree; score: 0 as by chance, "
        "1 as pure as it can be\n"
    )
    out.print(result.verdict, markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
