"""``probe``: what a study, or a model that was not made here, may owe to shortcuts."""

from __future__ import annotations

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
    print_sources,
    print_table,
    print_verdict,
    progress_bars,
    say,
    with_interval,
)
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.core.errors import UsageError
from leukoscope.core.program import typed

if TYPE_CHECKING:
    from leukoscope.analyses.foreign_inputs import ForeignModel
    from leukoscope.config.metrics.file import StudyMetrics
    from leukoscope.config.metrics.results import PerturbedResult, ProbeResult, Result
    from leukoscope.config.preprocess import Triple

EPILOG = (
    "Example: leukoscope probe runs/study --probe all · "
    "leukoscope probe model.onnx images --classes benign,early,pre,pro --out audit · "
    "leukoscope probe --predictions theirs.csv images --out audit"
)

ProbedArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL.onnx|DATA",
        help="A study's folder, an ONNX model, or with --predictions the data.",
    ),
]
ProbedDataArgument = Annotated[Path | None, typer.Argument(help="The data for MODEL.onnx.")]
PredictionsOption = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        help="CSV of another model: file name, path or sha256; predicted class or p_<class>; "
        "optional split.",
    ),
]
AuditOutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the audit.")]
AuditProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        autocompletion=completion("probe"),
        help="Probe, or all; may be repeated. Default: those of `study`.",
    ),
]
OutputClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Order of the model's outputs: a,b,c.")
]
InputSizeOption = Annotated[
    int | None,
    typer.Option("--size", min=8, help="Side of the input in px, where the model leaves it open."),
]
PixelMeanOption = Annotated[
    str,
    typer.Option(
        "--mean", help="Mean to subtract from pixels of 0 to 1: one number, or three (RGB)."
    ),
]
PixelStdOption = Annotated[
    str,
    typer.Option("--std", help="Standard deviation to divide them by: one number, or three (RGB)."),
]
TensorLayoutOption = Annotated[
    str,
    typer.Option(
        "--tensor", help="Order of the input's axes: nchw, nhwc, or auto (as the model says)."
    ),
]
OutputNameOption = Annotated[
    str | None, typer.Option("--output", help="Name of the output to read.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("probe", epilog=EPILOG)(probe)


@command
def probe(
    what: ProbedArgument,
    data: ProbedDataArgument = None,
    predictions: PredictionsOption = None,
    out: AuditOutOption = Path("runs/probe"),
    probes: AuditProbeOption = None,
    classes: OutputClassesOption = None,
    size: InputSizeOption = None,
    mean: PixelMeanOption = "0",
    std: PixelStdOption = "1",
    tensor: TensorLayoutOption = "auto",
    output: OutputNameOption = None,
    protocol: opt.ProtocolOption = None,
    folds: opt.FoldsOption = 5,
    seed: opt.SeedOption = 42,
    layout: opt.LayoutOption = "auto",
    folder_classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    as_json: opt.JsonOption = False,
) -> int:
    """Look for shortcuts in a study, or in any other model."""
    from leukoscope.study.options import study_config

    source: ForeignModel | Path
    if predictions is not None:
        if data is not None:
            raise UsageError("with --predictions name the data alone, no model")
        source, images = predictions, what
    elif data is None:
        return _probe_study(what, probes, as_json)
    else:
        source, images = _open(what, classes, folder_classes, size, mean, std, tensor, output), data
    config = study_config(
        images,
        protocols=protocol,
        probes=probes,
        overrides=("bundle=false", "splits.cluster_curve=[]"),
        folds=folds,
        seed=seed,
        layout=layout,
        class_map=opt.class_map(folder_classes),
        roles=opt.roles(roles),
        target=target,
    )
    from leukoscope.analyses.foreign import audit_foreign

    of_model = None if classes is None else [name.strip() for name in classes.split(",")]
    tell_unused_classes(images, layout, config.data.class_map, target, elsewhere=of_model)
    with progress_bars() as show:
        result = audit_foreign(source, config, out, show)
    _show(result.metrics, result.run.report_html, as_json)
    return name_unreadable(result.unreadable)


def _open(
    model: Path,
    classes: str | None,
    folder_classes: list[str] | None,
    size: int | None,
    mean: str,
    std: str,
    tensor: str,
    output: str | None,
) -> ForeignModel:
    from leukoscope.analyses.foreign import class_order
    from leukoscope.analyses.foreign_inputs import open_foreign_model

    if classes is None:
        raise UsageError(
            f"{model}: expected --classes, the classes in the order of the model's outputs",
            hint="for example --classes benign,early,pre,pro",
        )
    return open_foreign_model(
        model,
        class_order(classes, opt.class_map(folder_classes)),
        size_px=size,
        layout=tensor,
        mean=_three("--mean", mean),
        std=_three("--std", std),
        output=output,
    )


def _three(option: str, text: str) -> Triple:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"{option}: expected one or three numbers such as 0.485,0.456,0.406, "
                         f"got {text!r}")  # fmt: skip
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def _probe_study(run: Path, probes: list[str] | None, as_json: bool) -> int:
    from leukoscope.analyses.probe_run import add_probes, missing_probes, renew_bundle
    from leukoscope.config.metrics.file import load_metrics
    from leukoscope.core.run_folder import RunFolder

    if run.suffix == ".onnx":
        again = typed("probe", run, "DATA", "--classes", "a,b,c")
        raise UsageError(f"{run}: on which data? {again}")
    folder = RunFolder(run)
    if missing_probes(run, probes):
        with progress_bars() as show:
            metrics = add_probes(run, probes, show)
        renewed = (folder.bundle / "bundle.json").is_file()
    else:
        say("every probe is there; nothing was computed", err=True)
        metrics = load_metrics(folder.metrics)
        renewed = renew_bundle(run)
    if renewed:
        again = typed("export", run, "--out", "FOLDER")
        say(
            f"{folder.bundle} has this verdict and card now; a copy elsewhere is made again by "
            f"`{again}`",
            err=True,
        )
    _show(metrics, folder.report_html, as_json)
    return 0


def _show(metrics: StudyMetrics, report: Path, as_json: bool) -> None:
    if as_json:
        print_json(metrics.to_json())
        return
    from leukoscope.evaluation.verdict.sentences import describe_share

    own, perturbed = ("elsewhere",) * 2 if metrics.foreign else ("the same", "whole images")
    rows: list[tuple[str, str, Result | ProbeResult | PerturbedResult]] = [
        *(("whole image", own, row) for row in metrics.results),
        *((row.probe, "the same", row) for row in metrics.probes),
        *((row.input, perturbed, row) for row in metrics.model_on),
    ]
    print_table(
        ("sees", "trained on", "held out", "images", "accuracy"),
        [
            (seen, where, row.protocol, str(row.n), with_interval(row.metrics["accuracy"]))
            for seen, where, row in sorted(rows, key=lambda item: item[2].protocol)
        ],
    )
    out = console()
    verdict, shortcuts = metrics.verdict, metrics.shortcuts
    for left_out in shortcuts.inapplicable if shortcuts else ():
        out.print(f"{left_out.probe} does not apply: {left_out.reason}", markup=False)
    print_sources(metrics)
    print_verdict(verdict.level, verdict.headline, verdict.needs)
    findings = [text for text in verdict.findings if text.startswith(("Leak", "On which"))]
    findings += [describe_share(entry) for entry in (shortcuts.shares if shortcuts else ())]
    for text in findings:
        out.print(f"· {text}", markup=False)
    say(f"\nreport  {report}\n{DISCLAIMER}")
