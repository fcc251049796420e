"""``study`` and ``train``: from a folder of images to a report and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.choices import completion
from leukoscope.cli.commands.study_file import FREE_OPTIONS, use_study_file, whole_configuration
from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    duration,
    given_options,
    name_unreadable,
    print_json,
    print_sources,
    print_subgroups,
    print_table,
    print_verdict,
    progress_bars,
    required_data,
    say,
    with_interval,
    without_interval,
)
from leukoscope.cli.data_notes import tell_of_study
from leukoscope.config import DEFAULT_RECIPE, PATIENT_RECIPES
from leukoscope.core.errors import UsageError
from leukoscope.core.program import typed
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.config.study import StudyConfig
    from leukoscope.pipeline.remote_fits import Executor
    from leukoscope.scale.fit_pool import WorkerGroup
    from leukoscope.study.run import StudyResult

EXPLANATION = """\
leukoscope study DATA --out run

audits the images, divides them without leaks, trains, measures under several protocols, looks for
shortcuts, and writes a report (run/report.html) and a model (run/bundle).

  leukoscope data inspect DATA         which layout, which classes, and why
  leukoscope study DATA --plan         what would run, how long, what the data cannot show
  leukoscope study DATA --out run      run it; after an interruption: --out run --resume
  leukoscope new DATA                  write the options as a file to edit and commit
  leukoscope study --help              every option
"""

NoBundleOption = Annotated[
    bool,
    typer.Option("--no-bundle", help="Measure only: skip the final model, fitted on all images."),
]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=1, help="Fits that run in parallel, each in its own process.")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="local|ray", help="Where the processes of --jobs run.")
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="Processes (GPUs) that share each training.")
]
NodesOption = Annotated[
    int, typer.Option("--nodes", min=1, help="Machines of --devices each; torchrun or SLURM.")
]
UsualFoldsOption = Annotated[
    int | None,
    typer.Option(
        "--folds",
        help="Number of folds; 1 is a hold-out. Default: 10, or 5 where networks are trained.",
    ),
]
StudyOutOption = Annotated[Path, typer.Option("--out", "-o", help="The study's folder.")]
ProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        autocompletion=completion("probe"),
        help="Probe, or all; may be repeated. Default: all that a verdict needs.",
    ),
]
NoProbesOption = Annotated[bool, typer.Option("--no-probes", help="Leave the probes out.")]
ExternalOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--external",
        metavar="DATA",
        help="Other labelled data to measure the bundle on, beside the study's forecast; may "
        "be repeated.",
    ),
]
ExternalLayoutOption = Annotated[
    list[str] | None,
    typer.Option("--external-layout", help="Its layout: one for all, or one each in order."),
]
ResumeStudyOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped study.")]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Say what would run, how long, how much disk; run nothing."),
]
OpenReportOption = Annotated[
    bool, typer.Option("--open", help="Open the report in a browser at the end.")
]
TrainRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help=f"Recipe name or file. Default: {DEFAULT_RECIPE}; with --unit patient "
        f"{PATIENT_RECIPES[0]}.",
    ),
]
TrainProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        "-p",
        autocompletion=completion("protocol"),
        help="How to hold images out. Default: deduplicated; with --unit patient grouped.",
    ),
]
TrainOutOption = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
ResumeTrainOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")]


def register(app: typer.Typer) -> None:
    """Add both commands to the program."""
    app.command(
        "study",
        epilog="Example: leukoscope study path/to/images --out run",
    )(study)
    app.command(
        "train",
        epilog="Example: leukoscope train path/to/images -r cnn-baseline -p grouped --out run",
    )(train)


NO_TRUST = (
    "error: the negative control failed: with labels dealt at random the same pipeline is better "
    "than chance → look for images of one patient under several ids, and for labels in file names "
    "that a manifest repeats; no figure of this study can be trusted"
)


StudyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=use_study_file,
        help="Take the options from a file of `new`, or repeat the study of a run's config.toml.",
    ),
]


@command
def study(
    context: typer.Context,
    data: opt.OptionalData = None,
    study_file: StudyFileOption = None,
    out: StudyOutOption = Path("runs/study"),
    recipe: opt.RecipeOption = None,
    unit: opt.UnitOption = "image",
    protocol: opt.ProtocolOption = None,
    probe: ProbeOption = None,
    no_probes: NoProbesOption = False,
    folds: UsualFoldsOption = None,
    seed: opt.SeedOption = 42,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    overrides: opt.SetOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    no_bundle: NoBundleOption = False,
    external: ExternalOption = None,
    external_layout: ExternalLayoutOption = None,
    resume: ResumeStudyOption = False,
    jobs: JobsOption = 1,
    executor: ExecutorOption = "local",
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    plan: PlanOption = False,
    open_report: OpenReportOption = False,
    as_json: opt.JsonOption = False,
) -> int:
    """Audit, split, train, measure, explain, report, pack.

    Measures under every protocol that the data supports, looks for shortcuts, and gives a verdict.
    """
    from leukoscope.scale.fit_pool import executor_of, join_workers
    from leukoscope.study.options import study_config

    given = given_options(context)
    if not given:
        say(EXPLANATION)
        return UsageError.exit_code
    fit_executor = executor_of(executor, jobs)
    workers = join_workers(1 if plan else devices, 1 if plan else nodes, jobs)
    if workers.ended is not None:
        return workers.ended
    if resume and study_file is None and not given - FREE_OPTIONS - {"data"}:
        config = _saved(out, data)
    else:
        options = opt.study_options(context, probes=() if no_probes else probe)
        config = whole_configuration(context, study_file) or study_config(
            required_data(data, "leukoscope study DATA --out run"), **options
        )
    if not resume:
        tell_of_study(config)
    if plan:
        return _show_plan(config, as_json, jobs)
    result = _run(config, out, workers, fit_executor, resume=resume)
    print_json(result.metrics.to_json()) if as_json else _print_result(result)
    return _exit_code(result, open_report=open_report)


@command
def train(
    context: typer.Context,
    data: opt.DataArgument,
    out: TrainOutOption,
    recipe: TrainRecipeOption = None,
    unit: opt.UnitOption = "image",
    protocol: TrainProtocolOption = None,
    folds: opt.FoldsOption = 1,
    seed: opt.SeedOption = 42,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    overrides: opt.SetOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    no_bundle: NoBundleOption = False,
    resume: ResumeTrainOption = False,
    jobs: JobsOption = 1,
    executor: ExecutorOption = "local",
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    as_json: opt.JsonOption = False,
) -> int:
    """Train one recipe under one protocol.

    Writes checkpoints, history, predictions and statistics; no report.
    """
    from leukoscope.scale.fit_pool import executor_of, join_workers
    from leukoscope.study.options import study_config

    fit_executor = executor_of(executor, jobs)
    workers = join_workers(devices, nodes, jobs)
    if workers.ended is not None:
        return workers.ended
    options = opt.study_options(context, probes=())
    by_patient = unit == "patient"
    options["recipes"] = (recipe or (PATIENT_RECIPES[0] if by_patient else DEFAULT_RECIPE),)
    options["protocols"] = (protocol or ("grouped" if by_patient else "deduplicated"),)
    options["overrides"] = ("splits.cluster_curve=[]", *options["overrides"])
    config = study_config(data, **options)
    if not resume:
        tell_of_study(config)
    result = _run(config, out, workers, fit_executor, resume=resume, report=False)
    if as_json:
        print_json(result.metrics.to_json())
    else:
        _print_scores(result)
        say(f"\ncheckpoints  {out / 'models'}")
        if config.bundle:
            say(f"next         {typed('export', out, '--out', 'bundle')}")
    return name_unreadable(result.unreadable)


def _run(
    config: StudyConfig,
    out: Path,
    workers: WorkerGroup,
    fit_executor: Executor | None,
    *,
    resume: bool,
    report: bool = True,
) -> StudyResult:
    """Run a study with a progress bar, its fits where ``--jobs`` and ``--devices`` put them."""
    from leukoscope.study.run import run_study

    with workers, progress_bars() as show:
        return run_study(
            config,
            out,
            resume=resume,
            report=report,
            listener=show,
            executor=fit_executor,
            announce=workers.announce,
        )


def _saved(out: Path, data: Path | None) -> StudyConfig:
    from leukoscope.core.run_folder import LOCK
    from leukoscope.evaluation.run_files import RunFiles

    if out.is_dir() and [path.name for path in out.iterdir()] in ([], [LOCK]):
        raise UsageError(
            f"{out}: the study was stopped before anything of it was kept",
            hint="start it again with the command that named the data, without --resume",
        )
    config = RunFiles.open(out).config
    if data is not None and str(data.expanduser().resolve()) != config.data.path:
        raise UsageError(f"{out} holds a study of {config.data.path}, not of {data}")
    return config


def _show_plan(config: StudyConfig, as_json: bool, jobs: int) -> int:
    from dataclasses import asdict

    from leukoscope.study.plan import plan_study

    with progress_bars() as show:
        plan = plan_study(config, show)
    if as_json:
        print_json(asdict(plan))
        return 0
    out = console()
    out.print(
        f"{plural(plan.n_images, 'usable image')} of "
        f"{plural(plan.n_files, 'file')}; nothing was started"
    )
    rows = [(step.name, step.work, duration(step.seconds)) for step in plan.steps]
    total = ("in all", "", duration(sum(step.seconds for step in plan.steps)))
    print_table(("step", "work", "about"), [*rows, total])
    if jobs > 1:
        out.print(f"The times are those of one process; with --jobs {jobs} fits overlap.")
    out.print(f"disk: about {plan.disk_mb:.0f} MB in the study's folder")
    for row in plan.inapplicable:
        out.print(f"{row['protocol']} does not apply: {row['reason']}", markup=False)
    for row in plan.undecided:
        said = f"{row['protocol']} is counted here, and applies only {row['reason']}"
        out.print(said, markup=False)
    out.print("\n[bold]What this data cannot show[/]")
    for text in plan.limits or ("nothing was found that would limit the report",):
        out.print(f"· {text}", markup=False)
    return 0


def _exit_code(result: StudyResult, *, open_report: bool) -> int:
    """1 where the negative control failed, 3 where images could not be read, else 0."""
    if open_report:
        import webbrowser

        webbrowser.open(result.run.report_html.resolve().as_uri())
    control = result.metrics.control
    if control is not None and control.passed is False:
        say(NO_TRUST, err=True)
        return 1
    return name_unreadable(result.unreadable)


def _print_scores(result: StudyResult) -> None:
    """The scores of the models; those of the probes are in the report."""
    rows = [
        (
            row.recipe,
            row.protocol,
            str(row.n),
            with_interval(row.metrics["accuracy"]),
            *(without_interval(row.metrics[name]) for name in ("macro_f1", "roc_auc")),
        )
        for row in result.metrics.results
        if row.metrics
    ]
    print_table(("model", "held out", "n", "accuracy", "macro F1", "ROC AUC"), rows, width=80)


def _next_step(row: str, bundle: Path) -> str:
    """The command that uses the bundle; one of patients accepts no single image."""
    whole = ("NEW", "--by-patient", "NEW", "--out", "answers.csv")
    return typed("predict", *(whole if row == "patient" else ("IMAGES",)), "--bundle", bundle)


def _print_result(result: StudyResult) -> None:
    verdict = result.metrics.verdict
    print_verdict(verdict.level, verdict.headline, verdict.needs)
    say()
    print_sources(result.metrics)
    say()
    _print_scores(result)
    if result.metrics.external:
        from leukoscope.reporting.study.other_data import in_words

        for entry in result.metrics.external:
            console().print(in_words(entry, result.metrics.results[0].row), markup=False)
    print_subgroups(result.metrics)
    for row in result.metrics.inapplicable:
        console().print(f"{row.protocol} does not apply: {row.reason}", markup=False)
    say(f"\nreport  {result.run.report_html}")
    if result.run.bundle.is_dir():
        say(f"bundle  {result.run.bundle}")
        say(f"next    {_next_step(result.metrics.results[0].row, result.run.bundle)}")
    say(DISCLAIMER)
