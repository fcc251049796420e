"""Compare the recipes of one or more runs from their files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from leukoscope.analyses.compare.recipes import (
    as_json,
    describe_candidate,
    measure_recipes,
    published_recipe,
)
from leukoscope.analyses.compare.results import (
    BEST,
    ComparisonSettings,
    check_settings,
    leaderboard_head,
    leaderboard_results,
    leaderboard_tests,
)
from leukoscope.analyses.compare.sources import (
    Candidate,
    ComparedRun,
    Leaderboard,
    candidates_of,
    make_leaderboards,
    read_sources,
)
from leukoscope.config.comparison import (
    ComparisonFile,
    MeasuredNetwork,
    NamedNetwork,
    NetworkCost,
    OtherEvaluation,
    RecipeResult,
    RunFacts,
    RunVerdict,
)
from leukoscope.config.stored import check_record
from leukoscope.config.study import StudyUnit
from leukoscope.core.errors import UsageError, refuse_single, refuse_single_name
from leukoscope.core.files import write_csv
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import check_roles
from leukoscope.core.program import __version__, typed
from leukoscope.core.records import PARTS
from leukoscope.core.run_folder import refuse_study
from leukoscope.core.views import data_frame, html_table
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.pipeline.results.entries import sampling

if TYPE_CHECKING:
    import pandas as pd

RESULT = "comparison.json"
NETWORKS = ("gradient", "linear-head")  # methods whose result is one network


class ComparedRuns(dict[str, JsonValue]):
    """The content of ``comparison.json``, which shows itself in a notebook."""

    @property
    def content(self) -> ComparisonFile:
        """The same by attribute."""
        return check_record(ComparisonFile, self, RESULT, ComparisonFile.hint)

    def __repr__(self) -> str:
        return f"<ComparedRuns: {', '.join(entry.label for entry in self.content.entries)}>"

    def _repr_html_(self) -> str:
        from leukoscope.reporting.formats import interval

        found, metric = self.content, self.content.metric
        rows = [
            (head.name, entry.label, head.n, interval(entry.value(head.name, metric), metric))
            for head in found.protocols
            for entry in found.entries
            if head.name in entry.results
        ]
        return html_table(("held out", "model", "n", metric), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a model and protocol: every metric with its limits, ranks and cost.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(_rows(self.content))


def compare_runs(
    runs: Sequence[Path | str],
    out: Path | str,
    *,
    protocols: Sequence[str] | None = None,
    metric: str = "accuracy",
    against: str = BEST,
    threads: int = 1,
    latency: bool = True,
    models: bool = True,
    published: bool = False,
    roles: Mapping[str, str] | None = None,
    listener: Listener | None = None,
) -> ComparedRuns:
    """Write ``comparison.json``, ``.csv``, ``.md``, ``.html``, ``tables/*.csv``, ``figures/*.svg``.

    Statistics are computed again from predictions and splits, on the test images (or patients)
    that all recipes share; parameters, operations, latency and layers from networks built anew.

    Args:
        runs: Folders of ``study`` and ``train``, finished or not, and of ``evaluate``.
        out: Folder to write to; measurements of cost in it are used again.
        protocols: Default: all that have results.
        metric: Ranks the recipes and is tested.
        against: Label of the recipe that all others are tested against, or ``best``.
        threads: Of ONNX Runtime inside one call, for the latency.
        latency: Also measure latency and file size, which takes an export of each network.
        models: Also build the networks; without, files are read only.
        published: Also count and time the published network of a recipe that ran on another
            backbone.
        roles: Class → role, over those that the first run states.
        listener: Called with (step, done, total) as the work goes on.

    Returns:
        The content of ``comparison.json``.

    Raises:
        DataError: A folder is no run, or runs cannot be compared; names them.
        UnknownNameError: No such metric, recipe, class or role.
        UsageError: ``out`` is one of the runs, or holds another study; ``runs`` is no list.
    """
    refuse_single(runs, "folders", "write compare_runs([RUN, OTHER], OUT)")
    refuse_single_name(protocols, "protocols")
    folders, out = [Path(run) for run in runs], Path(out)
    _check_beside(out, folders)
    progress = Progress(listener) if listener else Progress()
    with progress.step("reading the runs"):
        sources, external = read_sources(folders)
    candidates, copies = candidates_of(sources)
    boards, stated = _with_roles(make_leaderboards(candidates, protocols), roles or {})
    candidates = [c for c in candidates if any(c in board.candidates for board in boards)]
    settings = ComparisonSettings(metric, against, sampling(sources[0].files.config))
    check_settings(settings, boards)
    head = _head(folders, out, sources, settings, stated)
    comparison = _compared(head, copies, external, candidates, boards, progress)
    if models:
        measure = partial(measure_recipes, cache=out / "cache", threads=threads, latency=latency)
        comparison = _with_models(comparison, candidates, measure, progress, published=published)
    _write(comparison, out, progress)
    return ComparedRuns(comparison.to_json())


def _check_beside(out: Path, runs: Sequence[Path]) -> None:
    if out.resolve() in {Path(run).expanduser().resolve() for run in runs}:
        raise UsageError(f"{out} is one of the runs", hint="name another folder with --out")
    refuse_study(out)


def _with_roles(
    boards: Sequence[Leaderboard], roles: Mapping[str, str]
) -> tuple[list[Leaderboard], Roles]:
    """The leaderboards with the roles that the user states, and these roles."""
    stated = check_roles(roles, boards[0].class_names)
    return [replace(board, roles={**board.roles, **stated}) for board in boards], stated


@dataclass(frozen=True)
class _Head:
    """What is known of a comparison before its statistics."""

    command: str
    row: StudyUnit
    settings: ComparisonSettings
    runs: tuple[RunFacts, ...]
    notes: tuple[str, ...]


def _head(
    runs: Sequence[Path],
    out: Path,
    sources: Sequence[ComparedRun],
    settings: ComparisonSettings,
    roles: Roles,
) -> _Head:
    named = [_without_folders(str(run)) for run in runs]
    options = [] if settings.metric == "accuracy" else ["--metric", settings.metric]
    options += [] if settings.against == BEST else ["--against", settings.against]
    for name, role in roles.items():
        options += ["--role", f"{name}={role}"]
    return _Head(
        command=typed("compare", *named, "--out", _without_folders(str(out)), *options),
        row=sources[0].files.config.unit,
        settings=settings,
        runs=tuple(_run_facts(source) for source in sources),
        notes=tuple(note for source in sources for note in source.notes),
    )


def _run_facts(source: ComparedRun) -> RunFacts:
    files = source.files
    usable = files.manifest.usable
    environment = files.environment if files.run.environment.is_file() else None
    parts: dict[str, list[dict[str, int]]] = {}
    for fold in files.splits:
        sizes = Counter(fold.parts.values())
        row = {name: sizes[name] for name in (*PARTS, "purged")}
        parts.setdefault(fold.protocol, []).append(row)
    counts = Counter(record.label for record in usable)
    return RunFacts(
        name=source.name,
        command=_without_folders(environment.command if environment else ""),
        data=files.config.data.root.name,
        images=len(usable),
        files=len(files.manifest.images),
        classes={name: counts[name] for name in files.manifest.class_names},
        groups=len({record.group_id or record.image_id for record in usable}),
        patients=len({record.patient_id for record in usable} - {""}),
        clusters=len({record.acquisition_id for record in usable} - {""}),
        parts={name: tuple(rows) for name, rows in parts.items()},
        seed=files.config.seed,
        finished=source.finished,
        verdict=_verdict_of(source),
        cpu=environment.cpu if environment else "",
        cores=environment.cores if environment else None,
    )


def _verdict_of(source: ComparedRun) -> RunVerdict | None:
    files = source.files
    if not files.run.metrics.is_file():
        return None
    verdict = files.metrics.verdict
    return RunVerdict(level=verdict.level, headline=verdict.headline, sources=verdict.sources)


def _without_folders(command: str) -> str:
    """A command as typed, with names in place of absolute paths.

    A page that is passed on must not tell where it was made, but relative paths are needed to
    repeat a command.

    >>> _without_folders("leukoscope study data/aria --out=/home/me/runs/a")
    'leukoscope study data/aria --out=a'
    >>> _without_folders("leukoscope study 'my data/x' --out '/home/my own/a b'")
    "leukoscope study 'my data/x' --out 'a b'"
    """
    quoted = r"'([^'=]*=)?(?:~|[A-Za-z]:)?[/\\][^']*[/\\]([^/\\']+)'"
    command = re.sub(quoted, r"'\1\2'", command)
    named = re.sub(r"(?<![^\s='\"])(?:~|[A-Za-z]:)?[/\\]\S*[/\\]([^/\\\s]+)", r"\1", command)
    return re.sub(r"^__main__\.py", "leukoscope", named)


def _compared(
    head: _Head,
    copies: Sequence[str],
    external: Sequence[OtherEvaluation],
    candidates: Sequence[Candidate],
    boards: Sequence[Leaderboard],
    progress: Progress,
) -> ComparisonFile:
    """All but what the networks cost."""
    settings = head.settings
    found: dict[str, dict[str, RecipeResult]] = {c.label: {} for c in candidates}
    heads, tests = [], []
    with progress.step("statistics") as tell:
        for done, board in enumerate(boards):
            tell(done, len(boards))
            results = leaderboard_results(board, settings)
            for label, result in results.items():
                found[label][board.protocol] = result
            heads.append(leaderboard_head(board, settings))
            tests += leaderboard_tests(board, results, settings)
    return ComparisonFile(
        schema=1,
        leukoscope=__version__,
        command=head.command,
        metric=settings.metric,
        against=settings.against,
        confidence=settings.how["confidence"],
        replicates=settings.how["replicates"],
        seed=settings.how["seed"],
        runs=head.runs,
        notes=(*head.notes, *copies),
        class_names=tuple(boards[0].class_names),
        protocols=tuple(heads),
        entries=tuple(
            describe_candidate(c).model_copy(update={"results": found[c.label]}) for c in candidates
        ),
        tests=tuple(tests),
        external=tuple(external),
        row=head.row,
    )


def _with_models(
    comparison: ComparisonFile,
    candidates: Sequence[Candidate],
    measure: Callable[..., tuple[dict[str, MeasuredNetwork], list[str]]],
    progress: Progress,
    *,
    published: bool,
) -> ComparisonFile:
    """With the cost of each network, and of published ones that did not run."""
    recipes = {
        c.label: recipe
        for c in candidates
        if (recipe := c.source.recipe(c.name)) is not None and recipe.training.method in NETWORKS
    }
    left, notes = [c.label for c in candidates if c.label not in recipes], list(comparison.notes)
    if left:
        notes.append(
            "Cost not measured, since a network alone does not make the prediction: "
            f"{', '.join(left)}."
        )
    own, num_classes = {}, len(comparison.class_names)
    for recipe in recipes.values() if published else ():
        box = published_recipe(recipe)
        if box is not None and box.model.backbone != recipe.model.backbone:
            own[box.name] = box
    with progress.step("cost of the models") as tell:
        found, said = measure(recipes, num_classes=num_classes, tell=tell)
    notes += said
    with progress.step("cost of the published networks") as tell:
        others, said = measure(own, num_classes=num_classes, tell=tell) if own else ({}, [])
    networks = tuple(
        NamedNetwork(
            label=name, title=own[name].title, settings=as_json(own[name]), **dict(network)
        )
        for name, network in others.items()
    )
    whole = comparison.with_networks(found)
    return whole.model_copy(update={"notes": (*notes, *said), "published": networks})


def _write(comparison: ComparisonFile, out: Path, progress: Progress) -> None:
    """Write the result, and the pages and figures that are made from it."""
    from leukoscope.reporting.compare.page import write_comparison

    comparison.save(out / RESULT)
    rows = list(_rows(comparison))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(out / "comparison.csv", columns, rows)
    with progress.step("figures and pages") as tell:
        write_comparison(out, progress=tell)


def _rows(comparison: ComparisonFile) -> Iterator[dict[str, object]]:
    """One row per recipe, run and protocol; every metric with its limits."""
    sizes = {head.name: head for head in comparison.protocols}
    for entry in comparison.entries:
        for protocol, result in entry.results.items():
            training = entry.trained(protocol)
            row: dict[str, object] = {
                **{"label": entry.label, "recipe": entry.recipe, "run": entry.run},
                "protocol": protocol,
                "n": sizes[protocol].n,
                "n_groups": sizes[protocol].n_groups,
                "marks": "; ".join(entry.marks),
                **{f"rank_{key}": value for key, value in result.place},
                "epochs": " ".join(map(str, training.epochs)),
                "best_epoch": " ".join(map(str, training.best_epoch)),
                "published_epochs": entry.published_epochs,
                "training_s": " ".join(f"{s:.1f}" for s in training.seconds),
                **_cost(entry.complexity),
            }
            for name, value in result.metrics.items():
                row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            yield row


def _cost(found: NetworkCost | None) -> dict[str, object]:
    if found is None:
        return dict.fromkeys(("parameters", "macs", "size_mb"))
    row: dict[str, object] = found.model_dump(include={"parameters", "macs", "size_mb"})
    for timed in found.latency:
        row |= {
            f"latency_median_ms_batch{timed.batch}": timed.median_ms,
            f"latency_p95_ms_batch{timed.batch}": timed.p95_ms,
        }
    return row
