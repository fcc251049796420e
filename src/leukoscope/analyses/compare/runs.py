"""Compare the recipes of one or more runs from their files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.analyses.compare.recipes import (
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
    leaderboard_spread,
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
from leukoscope.core.errors import UsageError
from leukoscope.core.files import write_csv, write_json
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import check_roles
from leukoscope.core.program import __version__
from leukoscope.core.records import PARTS
from leukoscope.core.views import data_frame, html_table
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.pipeline.results.entries import sampling

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
RESULT = "comparison.json"
NETWORKS = ("gradient", "linear-head")  # methods whose result is one network


class ComparedRuns(dict[str, Any]):
    """The content of ``comparison.json``, which shows itself in a notebook."""

    def __repr__(self) -> str:
        return f"<ComparedRuns: {', '.join(entry['label'] for entry in self['entries'])}>"

    def _repr_html_(self) -> str:
        from leukoscope.reporting.formats import interval

        metric = self["metric"]
        rows = [
            (head["name"], entry["label"], head["n"], interval(found["metrics"][metric], metric))
            for head in self["protocols"]
            for entry in self["entries"]
            if (found := entry["results"].get(head["name"]))
        ]
        return html_table(("held out", "model", "n", metric), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a model and protocol: every metric with its limits, ranks and cost.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(_rows(self))


def compare_runs(
    runs: Sequence[Path],
    out: Path,
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

    Statistics are computed again from predictions and splits, on the test images that all
    recipes share; parameters, operations, latency and layers from networks built anew.

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
        UsageError: ``out`` is one of the runs.
    """
    _check_beside(out, runs)
    progress = Progress(listener) if listener else Progress()
    with progress.step("reading the runs"):
        sources, external = read_sources(runs)
    candidates, copies = candidates_of(sources)
    boards, stated = _with_roles(make_leaderboards(candidates, protocols), roles or {})
    candidates = [c for c in candidates if any(c in board.candidates for board in boards)]
    settings = ComparisonSettings(metric, against, sampling(sources[0].files.config))
    check_settings(settings, boards)
    comparison = _head(runs, out, sources, settings, stated)
    comparison["notes"] += copies
    comparison |= _statistics(candidates, boards, settings, progress)
    comparison["external"] = external
    if models:
        measure = partial(measure_recipes, cache=out / "cache", threads=threads, latency=latency)
        _add_models(comparison, candidates, measure, progress, published=published)
    _write(comparison, out, progress)
    return ComparedRuns(comparison)


def _check_beside(out: Path, runs: Sequence[Path]) -> None:
    if out.resolve() in {Path(run).expanduser().resolve() for run in runs}:
        raise UsageError(f"{out} is one of the runs", hint="name another folder with --out")


def _with_roles(
    boards: Sequence[Leaderboard], roles: Mapping[str, str]
) -> tuple[list[Leaderboard], Roles]:
    """The leaderboards with the roles that the user states, and these roles."""
    stated = check_roles(roles, boards[0].class_names)
    return [replace(board, roles={**board.roles, **stated}) for board in boards], stated


def _head(
    runs: Sequence[Path],
    out: Path,
    sources: Sequence[ComparedRun],
    settings: ComparisonSettings,
    roles: Roles,
) -> dict[str, Any]:
    named = " ".join(_without_folders(str(run)) for run in runs)
    options = "" if settings.metric == "accuracy" else f" --metric {settings.metric}"
    options += "" if settings.against == BEST else f" --against '{settings.against}'"
    options += "".join(f" --role {name}={role}" for name, role in roles.items())
    return {
        "schema": SCHEMA,
        "leukoscope": __version__,
        "command": f"leukoscope compare {named} --out {_without_folders(str(out))}{options}",
        "metric": settings.metric,
        "against": settings.against,
        **{key: settings.how[key] for key in ("confidence", "replicates", "seed")},
        "runs": [_run_facts(source) for source in sources],
        "notes": [note for source in sources for note in source.notes],
    }


def _run_facts(source: ComparedRun) -> dict[str, Any]:
    files = source.files
    usable = files.manifest.usable
    environment = files.environment if files.run.environment.is_file() else None
    parts: dict[str, Any] = {}
    for fold in files.splits:
        sizes = Counter(fold.parts.values())
        row = {name: sizes[name] for name in (*PARTS, "purged")}
        parts.setdefault(fold.protocol, []).append(row)
    counts = Counter(record.label for record in usable)
    return {
        "name": source.name,
        "command": _without_folders(environment.command if environment else ""),
        "data": files.config.data.root.name,
        "images": len(usable),
        "files": len(files.manifest.images),
        "classes": {name: counts[name] for name in files.manifest.class_names},
        "groups": len({record.group_id or record.image_id for record in usable}),
        "patients": len({record.patient_id for record in usable} - {""}),
        "clusters": len({record.acquisition_id for record in usable} - {""}),
        "parts": parts,
        "seed": files.config.seed,
        "finished": source.finished,
        "verdict": _verdict_of(source),
        "cpu": environment.cpu if environment else "",
        "cores": environment.cores if environment else None,
    }


def _verdict_of(source: ComparedRun) -> dict[str, Any] | None:
    """The verdict of a run's first recipe, as far as a comparison shows it."""
    files = source.files
    if not files.run.metrics.is_file():
        return None
    verdict = files.metrics.verdict
    return verdict.model_dump(mode="json", include={"level", "headline", "sources"})


def _without_folders(command: str) -> str:
    """A command as typed, with names in place of absolute paths.

    A page that is passed on must not tell where it was made, but relative paths are needed to
    repeat a command.

    >>> _without_folders("leukoscope study data/aria --out=/home/me/runs/a")
    'leukoscope study data/aria --out=a'
    """
    named = re.sub(r"(?<![^\s='\"])(?:~|[A-Za-z]:)?[/\\]\S*[/\\]([^/\\\s]+)", r"\1", command)
    return re.sub(r"^__main__\.py", "leukoscope", named)


def _statistics(
    candidates: Sequence[Candidate],
    boards: Sequence[Leaderboard],
    settings: ComparisonSettings,
    progress: Progress,
) -> dict[str, Any]:
    entries = {c.label: {**describe_candidate(c), "results": {}} for c in candidates}
    heads, tests = [], []
    with progress.step("statistics") as tell:
        for done, board in enumerate(boards):
            tell(done, len(boards))
            results = leaderboard_results(board, settings)
            for label, result in results.items():
                entries[label]["results"][board.protocol] = result
            heads.append(leaderboard_head(board) | {"spread": leaderboard_spread(board, settings)})
            tests += leaderboard_tests(board, results, settings)
    return {
        "class_names": list(boards[0].class_names),
        "protocols": heads,
        "entries": list(entries.values()),
        "tests": tests,
    }


def _add_models(
    comparison: dict[str, Any],
    candidates: Sequence[Candidate],
    measure: Callable[..., tuple[dict[str, Any], list[str]]],
    progress: Progress,
    *,
    published: bool,
) -> None:
    """Add ``complexity`` and ``layers`` to entries, and ``published`` networks that did not run."""
    recipes = {
        c.label: recipe
        for c in candidates
        if (recipe := c.source.recipe(c.name)) is not None and recipe.training.method in NETWORKS
    }
    left = [c.label for c in candidates if c.label not in recipes]
    if left:
        comparison["notes"].append(
            "Cost not measured, since a network alone does not make the prediction: "
            f"{', '.join(left)}."
        )
    own, num_classes = {}, len(comparison["class_names"])
    for recipe in recipes.values() if published else ():
        box = published_recipe(recipe)
        if box is not None and box.model.backbone != recipe.model.backbone:
            own[box.name] = box
    with progress.step("cost of the models") as tell:
        found, notes = measure(recipes, num_classes=num_classes, tell=tell)
    for entry in comparison["entries"]:
        entry |= found.get(entry["label"], {})
    comparison["notes"] += notes
    with progress.step("cost of the published networks") as tell:
        found, notes = measure(own, num_classes=num_classes, tell=tell) if own else ({}, [])
    comparison["notes"] += notes
    comparison["published"] = [
        {"label": name, "title": own[name].title, "settings": own[name].model_dump(mode="json")}
        | values
        for name, values in found.items()
    ]


def _write(comparison: Mapping[str, Any], out: Path, progress: Progress) -> None:
    """Write the result, and the pages and figures that are made from it."""
    from leukoscope.reporting.compare.page import write_comparison

    write_json(out / RESULT, comparison)
    _write_csv(out / "comparison.csv", comparison)
    with progress.step("figures and pages") as tell:
        write_comparison(out, progress=tell)


def _write_csv(path: Path, comparison: Mapping[str, Any]) -> None:
    rows = list(_rows(comparison))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, rows)


def _rows(comparison: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per recipe, run and protocol; every metric with its limits."""
    sizes = {head["name"]: head for head in comparison["protocols"]}
    for entry in comparison["entries"]:
        for protocol, result in entry["results"].items():
            training = entry["training"].get(protocol, {})
            row = {
                **{name: entry[name] for name in ("label", "recipe", "run")},
                "protocol": protocol,
                "n": sizes[protocol]["n"],
                "n_groups": sizes[protocol]["n_groups"],
                "marks": "; ".join(entry["marks"]),
                **{f"rank_{key}": value for key, value in result["place"].items()},
                "epochs": " ".join(map(str, training.get("epochs", ()))),
                "best_epoch": " ".join(map(str, training.get("best_epoch", ()))),
                "published_epochs": entry["published_epochs"],
                "training_s": " ".join(f"{s:.1f}" for s in training.get("seconds", ())),
                **_cost(entry.get("complexity") or {}),
            }
            for name, value in result["metrics"].items():
                row |= {
                    name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]
                }  # fmt: skip
            yield row


def _cost(complexity: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: complexity.get(name) for name in ("parameters", "macs", "size_mb")}
    for timed in complexity.get("latency", ()):
        for name in ("median_ms", "p95_ms"):
            row[f"latency_{name}_batch{timed['batch']}"] = timed[name]
    return row
