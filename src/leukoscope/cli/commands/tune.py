"""``tune``: search for better values of a recipe, on validation images only."""

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
    print_table,
    progress_bars,
    required_data,
    say,
)
from leukoscope.cli.data_notes import tell_of_study
from leukoscope.config import DEFAULT_RECIPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leukoscope.analyses.tuning.search import TuneResult
    from leukoscope.config.metrics.results import Estimate
    from leukoscope.config.tuning_space import Choice, Range, TuneConfig

# With --resume these may be given alone: everything else is read from the tuning's folder.
RESUME_NEEDS = {"out", "resume", "trials", "timeout", "storage", "final", "as_json"}
EXIT_INTERRUPTED = 130

TuneOutOption = Annotated[Path, typer.Option("--out", "-o", help="The tuning's folder.")]
TrialsOption = Annotated[
    int, typer.Option("--trials", min=1, help="Trials in all, earlier sessions included.")
]
TuneMinutesOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="MINUTES", help="Start no trial later than this."),
]
InnerFoldsOption = Annotated[
    int, typer.Option("--folds", help="Folds within train and val; 1 takes val as it is.")
]
SearchSpaceFileOption = Annotated[
    Path | None, typer.Option("--space", metavar="FILE.toml", help="Search space as a file.")
]
SearchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=KIND:…",
        help="log:1e-5..1e-2, uniform:0..0.5, int:1..4 or choice:16,32; may be repeated.",
    ),
]
StorageOption = Annotated[
    str,
    typer.Option("--storage", metavar="journal:FILE|URL", help="Default: a journal in --out."),
]
SamplerOption = Annotated[
    str, typer.Option("--sampler", metavar="tpe|random|grid", help="How trials are drawn.")
]
PrunerOption = Annotated[
    str,
    typer.Option(
        "--pruner", metavar="median|hyperband|none", help="How poor trials are stopped early."
    ),
]
ResumeTuneOption = Annotated[
    bool, typer.Option("--resume", help="Resume a stopped tuning, or join a running one.")
]
FinalOption = Annotated[
    bool, typer.Option("--final", help="Then measure the best once on the test part.")
]

_EXAMPLE = "leukoscope tune path/to/images -r cnn-baseline --trials 30 --out tuned"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "tune",
        epilog=f"Example: {_EXAMPLE}",
    )(tune)


@command
def tune(
    context: typer.Context,
    data: opt.OptionalData = None,
    out: TuneOutOption = Path("runs/tune"),
    recipe: opt.OneRecipeOption = DEFAULT_RECIPE,
    trials: TrialsOption = 20,
    timeout: TuneMinutesOption = None,
    protocol: opt.HoldOutOption = "deduplicated",
    folds: InnerFoldsOption = 1,
    space: SearchSpaceFileOption = None,
    search: SearchOption = None,
    storage: StorageOption = "",
    sampler: SamplerOption = "tpe",
    pruner: PrunerOption = "median",
    seed: opt.SeedOption = 42,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    overrides: opt.SetOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
    resume: ResumeTuneOption = False,
    final: FinalOption = False,
    as_json: opt.JsonOption = False,
) -> int:
    """Search a recipe's values on validation images only.

    Writes the best as a recipe.

    Trials see the train and val parts of one hold-out; cal and test are not read by any.
    """
    from leukoscope.analyses.tuning.search import CONFIG, tune_config
    from leukoscope.config.tuning_space import load_tune_config
    from leukoscope.study.options import study_config

    if resume and not given_options(context) - RESUME_NEEDS:
        config = load_tune_config(out / CONFIG)
    else:
        options = opt.study_options(context, probes=(), folds=1)
        study = study_config(required_data(data, _EXAMPLE), **options)
        tell_of_study(study)
        parameters = _space(space, search or [])
        config = tune_config(
            study, parameters, folds=folds, sampler=sampler, pruner=pruner, storage=storage
        )
    result, measured = _search(
        config, out, trials=trials, minutes=timeout, storage=storage, resume=resume, final=final
    )
    if as_json:
        final_values = {name: value.model_dump() for name, value in measured.items()}
        print_json(result.summary.to_json() | ({"final": final_values} if measured else {}))
    else:
        _print_result(config, result, measured)
    return _exit_code(result)


def _search(
    config: TuneConfig,
    out: Path,
    *,
    trials: int,
    minutes: float | None,
    storage: str,
    resume: bool,
    final: bool,
) -> tuple[TuneResult, Mapping[str, Estimate]]:
    """Run the trials and, with ``final``, measure the best recipe on the test part.

    Gives the result, and metric → value on the test part.
    """
    from leukoscope.analyses.tuning.search import measure_best, run_tune

    with progress_bars() as show:
        result = run_tune(
            config,
            out,
            trials=trials,
            minutes=minutes,
            storage=storage,
            resume=resume,
            listener=show,
            say=lambda text: say(f"  {text}", err=True),
        )
        if not final or result.interrupted:
            return result, {}
        return result, measure_best(config, out, show).metrics.results[0].metrics


def _space(path: Path | None, search: list[str]) -> dict[str, Range | Choice]:
    from leukoscope.config.tuning_space import load_space, parse_search

    return (load_space(path) if path else {}) | parse_search(search)


def _print_result(config: TuneConfig, result: TuneResult, measured: Mapping[str, Estimate]) -> None:
    from leukoscope.config.tuning_space import own_label
    from leukoscope.reporting.figures.training import short
    from leukoscope.reporting.pages.tuning import optimism

    summary, out = result.summary, console()
    best = summary.best
    labels = next(row.labels for row in summary.rows if row.trial == best.trial)
    owns = {key: own_label(config.recipe, key) for key in config.space}
    print_table(
        ("key", "recipe", f"trial {best.trial}"),
        [
            (key, "several" if own is None else short(own), short(labels[key]))
            for key, own in owns.items()
        ],
    )
    counts = ", ".join(f"{number} {state}" for state, number in summary.trials.items())
    out.print(f"\ntrials: {counts}")
    out.print(optimism(summary), markup=False)
    found = measured.get(summary.criterion)
    if found is not None:
        limits = "" if found.low is None else f" ({found.low:.4f}–{found.high:.4f})"
        out.print(f"On the test part: {summary.criterion} {found.value:.4f}{limits}")
    say(f"\nrecipe  {result.out / 'best.toml'}\npage    {result.out / 'tune.html'}")
    say(f"next    {summary.next}")
    say(DISCLAIMER)


def _exit_code(result: TuneResult) -> int:
    code = name_unreadable(result.unreadable)
    if result.interrupted:
        say("stopped; go on with --resume", err=True)
        return EXIT_INTERRUPTED
    return code
