"""The group ``bundle``, ``evaluate`` and ``export``: what is done with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    given_options,
    name_unreadable,
    print_json,
    print_subgroups,
    print_table,
    progress_bars,
    say,
    with_interval,
)
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.cli.options import EngineOption, JsonOption, PrecisionOption
from leukoscope.core.errors import UsageError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import class_description, malignant_mask, role_of, without_sides
from leukoscope.core.protocols import protocol_title
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.config.bundle import BundleRecord, OutOfDistribution
    from leukoscope.study.bundle_evaluation import ExternalResult

bundle_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Bundles (packed models): list, show, verify, share.",
)
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace a bundle that is there already.")
]
BundleArgument = Annotated[Path, typer.Argument(help="The bundle's folder, e.g. run/bundle.")]


def register(app: typer.Typer) -> None:
    """Add the group and both commands to the program."""
    app.add_typer(bundle_app, name="bundle")
    app.command("evaluate", epilog="Example: leukoscope evaluate run/bundle other/data")(evaluate)
    app.command("export", epilog="Example: leukoscope export run --out bundle")(export)


@bundle_app.command("show", epilog="Example: leukoscope bundle show run/bundle")
@command
def show(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Say what a bundle knows: classes, input, preprocessing, thresholds, licence, versions."""
    from leukoscope.runtime.bundle import read_bundle

    found = read_bundle(bundle)
    if as_json:
        print_json(found.record.model_dump(mode="json") | {"sha256": found.sha256})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(found.record, found.sha256):
        table.add_row(name, value)
    console().print(table)
    say(DISCLAIMER)


@bundle_app.command("verify", epilog="Example: leukoscope bundle verify run/bundle")
@command
def verify(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Load a bundle and predict its golden images: PASS or FAIL; exit code 1 where one fails."""
    from dataclasses import asdict

    from leukoscope.runtime.golden import verify_bundle

    checks = verify_bundle(bundle, engine, precision)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            colour, word = ("green", "PASS") if check.ok else ("red", "FAIL")
            console().print(f"[{colour}]{word}[/] {check.name}: ", end="")
            console().print(check.detail, markup=False)
    return int(not all(check.ok for check in checks))


@bundle_app.command("list", epilog="Example: leukoscope bundle list runs")
@command
def list_bundles(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where to look, subfolders included. Default: what is installed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the installed bundles, or those below a folder; a damaged one with what is wrong."""
    from dataclasses import asdict

    from leukoscope.runtime.bundle import installed_bundles
    from leukoscope.runtime.found_bundles import describe_bundles, find_bundles

    found = find_bundles(folder) if folder else describe_bundles(installed_bundles())
    if as_json:
        print_json([asdict(row) | {"folder": str(row.folder)} for row in found])
        return
    if not found:
        none = f"no bundle below {folder}" if folder else "no bundle is installed"
        say(f"{none}; a study writes one: RUN/bundle", err=True)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "recipe", "classes", "created", "state", "folder"):
        table.add_column(name, overflow="fold")
    for row in found:
        classes, state = ", ".join(row.class_names), row.problem or "readable"
        name = row.name.partition("@")[0]
        table.add_row(name, row.recipe, classes, row.created[:10], state, str(row.folder))
    console().print(table)


@bundle_app.command(
    "push", epilog="Example: leukoscope bundle push run/bundle hf://my-lab/cnmc-cell"
)
@command
def push(
    bundle: BundleArgument,
    target: Annotated[
        str, typer.Argument(help="A folder, a URL such as s3://store/model, or hf://owner/name.")
    ],
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Share a bundle: put it, and a card beside it, into a folder, store or repository.

    A repository that does not exist on Hugging Face is made, private.
    """
    from leukoscope.scale.sharing import push_bundle

    with progress_bars() as show:
        sent = push_bundle(bundle, target, replace=replace, progress=show)
    if as_json:
        print_json({"place": sent.place, "name": sent.record.name, "sha256": sent.sha256})
        return
    say(f"{sent.record.name} is at {sent.place}, with README.md as its card")
    say(f"To fetch exactly this one: leukoscope bundle pull {sent.place} --sha256 {sent.sha256}")


@bundle_app.command(
    "pull", epilog="Example: leukoscope bundle pull hf://my-lab/cnmc-cell --out model"
)
@command
def pull(
    source: Annotated[
        str, typer.Argument(help="What push wrote: a folder, a URL (also https), hf://owner/name.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The new folder. Default: the bundle's name."),
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", help="Expected hash of the bundle, or its first digits.")
    ] = "",
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a shared bundle; every hash is checked before it stands in its folder."""
    from leukoscope.scale.sharing import pull_bundle

    with progress_bars() as show:
        got = pull_bundle(source, out, sha256=sha256, replace=replace, progress=show)
    if as_json:
        print_json({"place": got.place, "name": got.record.name, "sha256": got.sha256})
        return
    say(f"bundle {got.place}: {', '.join(got.record.class_names)}; every hash fits")
    if not sha256:
        say(f"Is it the one you mean? Compare with whoever gave it to you: {got.sha256}")
    say(f"Next: leukoscope bundle verify {got.place}")


def _facts(record: BundleRecord, sha256: str) -> list[tuple[str, str]]:
    from leukoscope.reporting.bundle_card import patient_facts

    pre = record.preprocess
    steps = ", ".join(step.kind for step in pre.steps) or "no steps"
    ood = record.ood
    return [
        ("name", f"{record.name}@{sha256[:12]}"),
        ("recipe", record.recipe),
        ("trained on", record.trained_on),
        ("created", record.created),
        *(
            (f"class {index}", _class(name, record.roles))
            for index, name in enumerate(record.class_names)
        ),
        ("input", f"{pre.size_px} px, {pre.resize}; {steps}"),
        ("training image", _field(record)),
        ("similar cases", _cases(record)),
        ("normalisation", f"mean {_triple(pre.mean)}, std {_triple(pre.std)}"),
        *_verdict(record),
        *_scores(record),
        ("promise", record.measured_promise),
        ("calibration", _calibration(record)),
        ("prediction sets", _sets(record)),
        ("operating point", _point(record)),
        (
            "unlike training",
            "not measured"
            if ood is None
            else f"rejected above {ood.threshold:.2f}, the largest of "
            f"{', '.join(scale.name for scale in ood.scores)} "
            f"(accepts {ood.accept:.0%} of {_behind_threshold(ood)})",
        ),
        *patient_facts(record),
        *_envelope(record),
        *((f"{s.engine} {s.precision}", s.words) for s in record.servings),
        ("graph against torch", f"largest difference of a logit {record.parity_max_abs:.1e}"),
        ("licence of the weights", record.licence),
        ("passport", record.passport_sha256),
        ("files", f"{len(record.files)}, hashes fit"),
        ("versions", ", ".join(f"{name} {v}" for name, v in record.versions.items())),
    ]


def _field(record: BundleRecord) -> str:
    field = record.field
    if field is None:
        return "not recorded: larger images are not cut"
    scale = "unknown" if field.um_per_px is None else f"{field.um_per_px:g} µm/px"
    what = "a cell on black" if field.shows == "cell" else "a field"
    return f"{field.width_px} × {field.height_px} px, {what}, scale {scale}"


def _cases(record: BundleRecord) -> str:
    similar = record.similar
    if similar is None:
        return "none"
    return f"{similar.n} training images, {'drawn, with' if similar.picture_px else 'no'} pictures"


def _verdict(record: BundleRecord) -> list[tuple[str, str]]:
    """The verdict of the study behind the bundle."""
    if record.verdict is None:
        return []
    from leukoscope.evaluation.verdict.rule import level_words

    return [("verdict", f"{level_words(record.verdict.level)}: {record.verdict.headline}")]


def _scores(record: BundleRecord) -> list[tuple[str, str]]:
    """The accuracy in the study, a line for each way of holding images out."""
    from leukoscope.reporting.formats import interval, plural

    return [
        (
            f"accuracy, {score.protocol}",
            f"{interval(dict(score), score.metric)}, {score.n:,} tested, "
            f"{plural(score.n_groups, score.group_unit)}",
        )
        for score in record.scores
        if score.metric == "accuracy"
    ]


def _behind_threshold(ood: OutOfDistribution) -> str:
    if ood.n_unseen:
        return f"{ood.n_unseen} images that the scoring models had not seen"
    return f"{ood.n_val} validation images"


def _calibration(record: BundleRecord) -> str:
    from leukoscope.reporting.bundle_card import row_word

    fitted, n = record.calibration, f"from {record.calibration.n_cal} {row_word(record)}"
    if fitted.weights is None or fitted.bias is None:
        return f"temperature {fitted.temperature:.3f}, {n}"
    pairs = zip(record.class_names, fitted.weights, fitted.bias, strict=True)
    return "; ".join(f"{name} {w:.3f} · logit {b:+.3f}" for name, w, b in pairs) + f", {n}"


def _class(name: str, roles: Roles) -> str:
    """A class, what it stands for, and its role."""
    description = class_description(name)
    role = role_of(name, roles) or "role not stated"
    return f"{name}: {description} ({role})" if description else f"{name} ({role})"


def _sets(record: BundleRecord) -> str:
    from leukoscope.reporting.bundle_card import row_word

    sets, rows = record.conformal, row_word(record)
    limits = f"threshold {sets.threshold:.3f}"
    if sets.thresholds is not None:
        pairs = zip(record.class_names, sets.thresholds, strict=True)
        limits = "thresholds " + ", ".join(f"{name} {limit:.3f}" for name, limit in pairs)
    groups = f" in {plural(sets.n_groups, 'group')}" if sets.n_groups else ""
    if max(sets.thresholds or (sets.threshold,)) >= 1:
        limits += f", so some class is in every set (too few calibration {rows} or groups?)"
    return (
        f"aim at {sets.coverage:.0%} ({sets.guarantee}, {sets.score.upper()}), {limits}, "
        f"from {sets.n_cal} {rows}{groups}"
    )


def _point(record: BundleRecord) -> str:
    point = record.operating_point
    if point is None and malignant_mask(record.class_names, record.roles) is None:
        return f"none: {without_sides(record.class_names, record.roles)}"
    if point is None:
        return "none"
    if point.threshold is None:
        return (
            f"none: “{point.words}” is not attainable with {point.n_cal} malignant calibration "
            f"images or patients, needs {point.needed}"
        )
    return f"flagged from P(malignant) {point.threshold:.4g} on: “{point.words}”"


def _envelope(record: BundleRecord) -> list[tuple[str, str]]:
    """The severities that the model tolerates, one line per corruption."""
    found = record.envelope
    if found is None and record.patient is not None:
        return [("envelope", "does not apply to a model of patients")]
    if found is None:
        return [("envelope", "not measured; `leukoscope robustness RUN` does")]
    lines = [
        ("envelope", f"accuracy within {100 * found.bound:g} points, measured on {found.n} test "
         f"images ({found.protocol}); {found.false_alarms:.1%} of undamaged ones lie outside")
    ]  # fmt: skip
    for limit in found.limits:
        sides = [f"{word} {value:.3g}" for word, value in (("≥", limit.low), ("≤", limit.high))
                 if value is not None]  # fmt: skip
        check = f"{limit.statistic.replace('_', ' ')} {', '.join(sides)}" if sides else "unchecked"
        lines.append(
            (f"  {limit.corruption}", f"severity {limit.severity} of {limit.severities}; {check}")
        )
    return lines


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in values)


@command
def evaluate(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="The model's folder.")],
    data: opt.DataArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for predictions and metrics.")
    ] = Path("external"),
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> int:
    """Measure a bundle on other labelled images.

    Says so where the bundle was trained on some of them.
    """
    from leukoscope.runtime.engines import one_thread_each
    from leukoscope.study.bundle_evaluation import evaluate_bundle

    if "out" not in given_options(context) and out.exists():
        raise UsageError(
            f"{out} is there already, from data that were evaluated before",
            hint="name another folder with --out, or this one to write into it",
        )
    one_thread_each()
    mapping = opt.class_map(classes)
    tell_unused_classes(data, layout, mapping, target)
    with progress_bars() as show:
        result = evaluate_bundle(
            bundle,
            data,
            out,
            layout=layout,
            class_map=mapping,
            roles=opt.roles(roles),
            target=target,
            listener=show,
        )
    if as_json:
        print_json(result.metrics.to_json())
    else:
        _print_evaluation(result)
        print_subgroups(result.metrics)
        for warning in result.metrics.warnings:
            console().print(f"[yellow]![/] {warning}")
        say(f"\nmetrics {out / 'metrics.json'}")
    return name_unreadable(result.unreadable)


def _print_evaluation(result: ExternalResult) -> None:
    """The metrics beside those of the study, the decisions, and whether it does as well here."""
    row = result.metrics.results[0]
    console().print(f"{plural(row.n, row.row)}, {plural(row.n_groups, 'group')}", markup=False)
    known = {name: found for name, found in row.metrics.items() if found.value is not None}
    there = {score.metric: score for score in result.promised}
    head, cells = ["metric", "value"], [[name, with_interval(v)] for name, v in known.items()]
    if there:
        head.append(f"in its study, {protocol_title(result.promised[0].protocol).lower()}")
        for line in cells:
            line.append(with_interval(there[line[0]]) if line[0] in there else "")
    print_table(head, cells)
    if lower := [score.metric for score in result.broken]:
        console().print(
            f"[yellow]![/] lower here than in its study, by intervals that do not meet: "
            f"{', '.join(lower)}"
        )
    decisions = result.metrics.decisions
    share = ", ".join(f"{name} {value:.1%}" for name, value in decisions.share.model_dump().items())
    console().print(f"decisions: {share}", markup=False)
    if decisions.coverage is not None:
        held = f"{with_interval(decisions.coverage)} hold the class, {result.coverage:g} aimed at"
        console().print(f"prediction sets: {held}", markup=False)


@command
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a study or training run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the bundle.")],
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
    """Pack a trained model as a bundle.

    It is the model fitted on all images, and predicts without torch.
    """
    from leukoscope.evaluation.run_files import RunFiles
    from leukoscope.study.bundling import export_bundle

    files = RunFiles.open(run)
    name = recipe or files.recipes[0]
    record = export_bundle(files.run, name, out, int8=int8, um_per_px=um_per_px, compact=compact)
    say(f"bundle {out}: {', '.join(record.class_names)}")
    for variant in record.servings:
        say(f"  {variant.engine} {variant.precision}: {variant.words}")
