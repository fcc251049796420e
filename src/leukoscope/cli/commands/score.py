"""``score``: predictions of any number of images, in shards that survive whatever dies."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.choices import completion
from leukoscope.cli.console import (
    DISCLAIMER,
    EXIT_SOME_UNREADABLE,
    command,
    print_json,
    progress_bars,
    say,
)
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.scale.fetching import UrlRule
    from leukoscope.scale.score import ScoreResult, Workers
    from leukoscope.scale.score_plan import Plan, ScoreFolder

ArchiveArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Folders, manifests (CSV, TSV, Parquet, TXT), URLs such as s3://…, or -."),
]
ScoreOutOption = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
ManifestRootOption = Annotated[
    str | None,
    typer.Option(help="Folder or URL that the names in a manifest are relative to."),
]
UrlsOption = Annotated[
    str | None,
    typer.Option(
        help="URLs in a table or list: none (the default), public (http, https and object stores; "
        "no address of your own network), or any. Given again to resume a run that reads URLs."
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor", metavar="local|ray", help="Processes of this machine, or a Ray cluster."
    ),
]
WorkersOption = Annotated[
    int, typer.Option(min=0, help="Processes or actors. Default: one for each core here.")
]
WorkerThreadsOption = Annotated[
    int, typer.Option(min=0, help="Cores of each worker. Default: its share of this machine.")
]
ShardSizeOption = Annotated[
    int | None,
    typer.Option("--shard-size", min=1, help="Images in a shard. Default: at most 2000."),
]
ScoreEngineOption = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion("engine"),
        help="auto, openvino or onnxruntime; the same for all workers.",
    ),
]
ScorePrecisionOption = Annotated[
    str | None, typer.Option(help="auto, fp32, bf16 or int8; the same for all workers.")
]
StallOption = Annotated[
    float,
    typer.Option(min=1, help="Replace a worker after so many seconds without sign of life."),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else a new one here."),
]
ResumeScoreOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Prove that a finished run is complete; score nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "score",
        epilog="Example: leukoscope score archive/ --out scores · "
        "leukoscope score --out scores --resume · leukoscope score --out scores --verify",
    )(score)


@command
def score(
    images: ArchiveArgument = None,
    out: ScoreOutOption = Path("scores"),
    bundle: opt.FittingBundleOption = None,
    root: ManifestRootOption = None,
    urls: UrlsOption = None,
    executor: ExecutorOption = "local",
    workers: WorkersOption = 0,
    threads: WorkerThreadsOption = 0,
    shard_images: ShardSizeOption = None,
    engine: ScoreEngineOption = None,
    precision: ScorePrecisionOption = None,
    um_per_px: opt.UmPerPxOption = None,
    scale_bar_um: opt.ScaleBarOption = None,
    whole: opt.WholeOption = False,
    stall: StallOption = 600.0,
    ray_address: RayAddressOption = None,
    resume: ResumeScoreOption = False,
    verify: VerifyOption = False,
    as_json: opt.JsonOption = False,
) -> int:
    """Score a large archive, each image exactly once.

    Writes sharded Parquet, and goes on after crashes.
    """
    from leukoscope.scale.score import Workers, plan_scoring, resume_plan
    from leukoscope.scale.score_plan import Request, ScoreFolder

    folder = ScoreFolder(out)
    if verify:
        return _verify(folder, as_json)
    pool = Workers(executor, workers, threads, ray_address, stall)
    request = Request(
        sources=tuple(images) if images else None,
        bundle=bundle,
        root=root,
        urls=cast("UrlRule | None", urls),
        engine=None if engine == "auto" else engine,
        precision=None if precision == "auto" else precision,
        um_per_px=um_per_px,
        scale_bar_um=scale_bar_um,
        whole=whole or None,
        shard_images=shard_images,
    )
    goes_on = resume and folder.plan.is_file()
    if goes_on:
        plan = resume_plan(folder, request)
    else:
        count, _ = pool.resolved()
        plan = plan_scoring(
            folder, request, workers=count, note=lambda text: say(f"! {text}", err=True)
        )
    return _run(folder, plan, pool, as_json, goes_on=goes_on)


def _run(folder: ScoreFolder, plan: Plan, pool: Workers, as_json: bool, *, goes_on: bool) -> int:
    """Say what the plan is, score its images, print the result; returns the exit code."""
    from leukoscope.scale.score import run_scoring

    shards = plural(plan.shards, "shard")
    say(f"{plural(plan.images, 'image')} in {shards}", err=True)
    say(f"bundle {plan.reason}", err=True)
    started = time.perf_counter()
    with progress_bars("images") as show:
        result = run_scoring(folder, plan, pool, partial(show, "scoring"))
    _print_result(result, time.perf_counter() - started, as_json, goes_on)
    return EXIT_SOME_UNREADABLE if result.unreadable else 0


def _print_result(result: ScoreResult, seconds: float, as_json: bool, goes_on: bool) -> None:
    folder = result.folder
    if as_json:
        print_json(
            {
                "images": result.images,
                "scored_now": result.scored_now,
                "unreadable": result.unreadable,
                "decisions": result.decisions,
                "predicted": result.predicted,
                "seconds": round(seconds, 2),
                "predictions": str(folder.predictions),
            }
        )
        return
    before = result.images - result.scored_now
    had = f" ({before:,} had been done before)" if before else ""
    speed = f", {result.scored_now / seconds:.3g} images/s" if result.scored_now else ""
    say(f"{plural(result.images, 'image')} scored{had}{speed}: {folder.predictions}")
    for what, counts in (("decisions", result.decisions), ("predicted", result.predicted)):
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        say(f"  {what:<12}{listed or 'none'}")
    if result.unreadable:
        say(f"  {'unreadable':<12}{result.unreadable:,}, see {folder.quarantine}")
    if goes_on:
        say("  the images are those that the first run listed; score later ones into a new --out")
    say(DISCLAIMER, err=True)


def _verify(folder: ScoreFolder, as_json: bool) -> int:
    from leukoscope.scale.score import verify_scoring

    found = verify_scoring(folder)
    if as_json:
        print_json(
            {
                "complete": found.complete,
                "images": found.images,
                "found": found.found,
                "problems": list(found.problems),
                "problem_count": found.count,
            }
        )
        return 0 if found.complete else 1
    for problem in found.problems:
        say(problem)
    if found.count > len(found.problems):
        say(f"… and {found.count - len(found.problems)} more")
    if found.complete:
        say(f"complete: each of {plural(found.images, 'image')} is in exactly one row")
    else:
        say(f"not complete: {found.found:,} of {plural(found.images, 'image')} proven")
    return 0 if found.complete else 1
