"""What ``compare`` reads, and which recipes are ranked on the test images that all share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.comparison import OtherEvaluation
from leukoscope.config.metrics.file import load_evaluation
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import PREDICTIONS, RunFolder
from leukoscope.core.views import plural
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.pipeline.folds import groups_of


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name: Unique among the runs that are compared.
        files: Its files.
        table: Labelled test predictions from whole images, complete protocols only.
        finished: Whether ``predictions.csv`` was there.
        notes: What a reader must know of it.
    """

    name: str
    files: RunFiles
    table: PredictionTable
    finished: bool
    notes: tuple[str, ...]

    @property
    def recipes(self) -> list[str]:
        """Names of the recipes with results, in the order of the run."""
        order = self.files.recipes
        found = list(dict.fromkeys(self.table.recipe.tolist()))
        return sorted(found, key=lambda r: order.index(r) if r in order else len(order))

    def recipe(self, name: str) -> Recipe | None:
        """A recipe in full; None for what a later step (an ensemble) added."""
        recipes = self.files.config.recipes
        return next((recipe for recipe in recipes if recipe.name == name), None)

    def groups(self, protocol: str) -> dict[str, str]:
        """Image id → unit that intervals resample."""
        return groups_of(self.files.splits).get(protocol, {})


def read_sources(paths: Sequence[Path]) -> tuple[list[ComparedRun], list[OtherEvaluation]]:
    """Read runs of ``study`` and ``train``, and outputs of ``evaluate``.

    Returns:
        The runs, and what the outputs of ``evaluate`` say.

    Raises:
        DataError: A folder is neither, or a file is missing or damaged; names it. Some of the
            runs classify patients, others images.
    """
    names = _unique_names(paths)
    sources, external = [], []
    for path, name in zip(paths, names, strict=True):
        run = RunFolder(Path(path))
        if run.config.is_file():
            sources.append(_read_run(RunFiles.open(run.path), name))
        elif run.metrics.is_file() and run.predictions.is_file():
            external.append(_read_evaluation(RunFiles(run), name))
        else:
            raise DataError(
                f"{path}: expected the folder of a study or training run (config.toml, splits.csv) "
                "or the output of evaluate (metrics.json, predictions.csv), found "
                f"{'neither' if run.path.is_dir() else 'no such folder'}",
                hint="name the folder that was given to --out",
            )
    if not sources:
        raise DataError(
            "only outputs of evaluate were given; there is no study to compare",
            hint="name at least one folder of `leukoscope study` or `leukoscope train`",
        )
    _check_units(sources)
    return sources, external


def _check_units(sources: Sequence[ComparedRun]) -> None:
    """An answer for an image and one for a patient cannot be right or wrong on the same row."""
    first = sources[0]
    for source in sources[1:]:
        if source.files.config.unit != first.files.config.unit:
            raise DataError(
                f"{first.name} classifies {first.files.config.unit}s, "
                f"{source.name} {source.files.config.unit}s",
                hint="compare runs that were made with the same --unit",
            )


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many parents as it takes to tell them apart."""
    resolved = [Path(path).expanduser().resolve() for path in paths]
    twice = [str(path) for path, n in Counter(resolved).items() if n > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice", hint="name each run once")
    for depth in range(1, max(len(path.parts) for path in resolved)):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(files: RunFiles, name: str) -> ComparedRun:
    """A run of ``study`` or ``train``; of an unfinished one the fits that have ended."""
    finished = files.run.predictions.is_file()
    table, notes = _test_rows(
        files.predictions if finished else _ended_fits(files.run), files.splits
    )
    if not finished:
        notes.insert(0, f"{name} is not finished: only fits that had ended are compared.")
    said = tuple(f"{name}: {note}" if not note.startswith(name) else note for note in notes)
    return ComparedRun(name, files, table, finished, said)


def _ended_fits(run: RunFolder) -> PredictionTable:
    """What the fits that have ended predict, each read from its own folder."""
    files = sorted((run.path / "models").glob(f"*/*/fold*/{PREDICTIONS}"))
    if not files:
        raise DataError(
            f"{run.path}: no {PREDICTIONS}, and no fit below models has ended",
            hint="wait for the first fit, or go on with it: leukoscope study --out … --resume",
        )
    return concatenate([PredictionTable.load(path) for path in files])


def _test_rows(table: PredictionTable, folds: Sequence[Fold]) -> tuple[PredictionTable, list[str]]:
    """Labelled test rows from whole images under protocols whose folds have all ended."""
    table = table.select(part="test", input="image", protocol=list(PROTOCOLS))
    expected: dict[str, set[int]] = {}
    for fold in folds:
        expected.setdefault(fold.protocol, set()).add(fold.fold)
    keep = table.y_true >= 0
    notes = []
    for recipe, protocol in sorted(
        {*zip(table.recipe.tolist(), table.protocol.tolist(), strict=True)}
    ):
        rows = (table.recipe == recipe) & (table.protocol == protocol)
        missing = expected.get(protocol, set()) - set(table.fold[rows].tolist())
        if missing:
            keep &= ~rows
            notes.append(
                f"{recipe} under {protocol} is left out: "
                f"{len(missing)} of {plural(len(expected[protocol]), 'fold')} "
                f"{'has' if len(missing) == 1 else 'have'} not ended."
            )
    return table.take(keep), notes


def _read_evaluation(files: RunFiles, name: str) -> OtherEvaluation:
    """The one result of a folder that ``evaluate`` wrote."""
    metrics = load_evaluation(files.run.metrics)
    if not metrics.results or metrics.results[0].protocol != "external":
        raise DataError(
            f"{files.run.metrics}: expected one result under the protocol external",
            hint="name the folder that `leukoscope evaluate … --out` wrote",
        )
    result = metrics.results[0]
    return OtherEvaluation(
        name=name,
        class_names=metrics.class_names,
        n=result.n,
        n_groups=result.n_groups,
        group_unit=result.group_unit,
        metrics=result.metrics,
        confusion=result.confusion,
        decisions=metrics.decisions.share.model_dump(),
        warnings=metrics.warnings,
        row=result.row,
    )


@dataclass(frozen=True)
class Candidate:
    """One recipe of one run.

    Attributes:
        label: Unique name in every table and figure.
        source: Its run.
        name: Of the recipe.
    """

    label: str
    source: ComparedRun
    name: str


@dataclass(frozen=True)
class Leaderboard:
    """What is compared under one protocol: the same test images for all.

    Attributes:
        protocol: Name.
        candidates: Those with results under it.
        class_names: K names, the order of the columns.
        image_id: (n,) ids, in the order of the first run.
        y_true: (n,) class indices.
        groups: (n,) unit of each image.
        probs: Label → (n, K) probabilities.
        fold: Label → (n,) fold in which the image was tested.
        notes: What was left out.
        roles: What the first run says that classes stand for.
    """

    protocol: str
    candidates: tuple[Candidate, ...]
    class_names: tuple[str, ...]
    image_id: NDArray[np.str_]
    y_true: NDArray[np.int64]
    groups: NDArray[np.str_]
    probs: Mapping[str, NDArray[np.float64]] = field(repr=False)
    fold: Mapping[str, NDArray[np.int64]] = field(repr=False)
    notes: tuple[str, ...]
    roles: Roles = field(default_factory=dict)


def candidates_of(sources: Sequence[ComparedRun]) -> tuple[list[Candidate], list[str]]:
    """Every (run, recipe) that has results, in the order given, each model once.

    A run that combines others holds copies of their predictions; the run that trained the model
    is the one that stays.

    Returns:
        The candidates, and notes on copies that were left out.
    """
    found = [(source, name) for source in sources for name in source.recipes]
    kept: list[tuple[ComparedRun, str]] = []
    copies: dict[tuple[str, str], list[str]] = {}
    for source, name in found:
        twins = [other for other, same in found if same == name and _same(other, source, name)]
        first = next((s for s in twins if (s.files.run.path / "models" / name).is_dir()), twins[0])
        if first is source:
            kept.append((source, name))
        else:
            copies.setdefault((source.name, first.name), []).append(name)
    counts = Counter(name for _, name in kept)
    labelled = [
        Candidate(name if counts[name] == 1 else f"{name} ({source.name})", source, name)
        for source, name in kept
    ]
    notes = [
        f"{copy} holds copies of models of {first}, shown once: {', '.join(names)}."
        for (copy, first), names in copies.items()
    ]
    return labelled, notes


def _same(a: ComparedRun, b: ComparedRun, recipe: str) -> bool:
    """Whether two runs hold equal predictions of a recipe; a run is its own equal."""
    if a is b:
        return True
    one, two = (source.table.select(recipe=recipe) for source in (a, b))
    if len(one) != len(two) or one.class_names != two.class_names:
        return False
    keys = [np.lexsort((t.protocol, t.image_id)) for t in (one, two)]
    one, two = one.take(keys[0]), two.take(keys[1])
    same_rows = (one.image_id == two.image_id).all() and (one.protocol == two.protocol).all()
    return bool(same_rows and np.array_equal(one.probs, two.probs))


def make_leaderboards(
    candidates: Sequence[Candidate], protocols: Sequence[str] | None = None
) -> list[Leaderboard]:
    """The protocols under which something can be compared, from the mildest to the harshest.

    None as ``protocols`` means all that have results.

    Raises:
        DataError: No results under a wanted protocol, other classes, or no common test image.
    """
    found = {p for c in candidates for p in c.source.table.select(recipe=c.name).protocol.tolist()}
    wanted = list(dict.fromkeys(protocols)) if protocols else [p for p in PROTOCOLS if p in found]
    for name in wanted:
        if name not in found:
            raise DataError(
                f"no run has complete results under the protocol {name!r}",
                hint=f"there are results under: {', '.join(p for p in PROTOCOLS if p in found)}",
            )
    boards = [_leaderboard(name, candidates) for name in wanted]
    _check_shared(boards, candidates)
    return boards


def _check_shared(boards: Sequence[Leaderboard], candidates: Sequence[Candidate]) -> None:
    """Each run must meet another one under some protocol."""
    runs = list(dict.fromkeys(c.source.name for c in candidates))
    for name in runs if len(runs) > 1 else ():
        met = [
            other.source.name
            for board in boards
            if any(c.source.name == name for c in board.candidates)
            for other in board.candidates
        ]
        if not set(met) - {name}:
            has = ", ".join(c.protocol for c in boards
                            if any(x.source.name == name for x in c.candidates))  # fmt: skip
            raise DataError(
                f"{name} shares no protocol with {', '.join(r for r in runs if r != name)}: it has "
                f"{has or 'no complete results'}",
                hint="compare runs that were made with the same --protocol",
            )


def _leaderboard(protocol: str, candidates: Sequence[Candidate]) -> Leaderboard:
    tables = {}
    for candidate in candidates:
        rows = candidate.source.table.select(recipe=candidate.name, protocol=protocol)
        if len(rows):
            _check_single(rows, candidate)
            tables[candidate.label] = rows
    ranked = tuple(c for c in candidates if c.label in tables)
    first = tables[ranked[0].label]
    _check_classes(ranked, tables)
    ids = first.image_id
    for candidate in ranked[1:]:
        ids = np.intersect1d(ids, tables[candidate.label].image_id)
    if len(ids) == 0:
        raise DataError(_disjoint(protocol, ranked, tables), hint=(
            "compare runs of the same data with the same --protocol, --folds and --seed"
        ))  # fmt: skip
    # In the order of the first run, so that its own metrics come out to the last digit.
    ids = first.image_id[np.isin(first.image_id, ids)]
    places = {label: _places(table.image_id, ids) for label, table in tables.items()}
    y_true = first.y_true[places[ranked[0].label]]
    probs, fold = {}, {}
    for candidate in ranked:
        table, place = tables[candidate.label], places[candidate.label]
        order = [table.class_names.index(name) for name in first.class_names]
        truth = np.argsort(order)[table.y_true[place]]
        if (truth != y_true).any():
            raise DataError(
                f"{candidate.source.name} and {ranked[0].source.name} give different classes "
                f"for the same image, e.g. {ids[int(np.argmax(truth != y_true))]}",
                hint="they read the labels differently (--class, --layout); run one of them again",
            )
        probs[candidate.label] = table.probs[place][:, order]
        fold[candidate.label] = table.fold[place]
    groups, notes = _units(protocol, ranked, ids)
    roles, differ = _roles(ranked)
    return Leaderboard(
        protocol, ranked, first.class_names, ids, y_true, groups, probs, fold,
        notes=(*_left_out(ranked, tables, ids), *notes, *differ), roles=roles,
    )  # fmt: skip


def _roles(ranked: Sequence[Candidate]) -> tuple[Roles, list[str]]:
    """The roles that the first run states, and whether others say otherwise."""
    first = ranked[0].source
    roles = first.files.config.data.roles
    notes = [
        f"{name} states other roles of the classes (--role); those of {first.name} are used."
        for name, stated in {
            c.source.name: c.source.files.config.data.roles for c in ranked[1:]
        }.items()
        if stated != roles
    ]
    return roles, notes


def _places(image_id: NDArray[np.str_], wanted: NDArray[np.str_]) -> NDArray[np.int64]:
    order = np.argsort(image_id)
    return np.asarray(order[np.searchsorted(image_id, wanted, sorter=order)], dtype=np.int64)


def _check_single(rows: PredictionTable, candidate: Candidate) -> None:
    ids, counts = np.unique(rows.image_id, return_counts=True)
    if counts.max() > 1:
        raise DataError(
            f"{candidate.source.files.run.path}: {candidate.name} has {counts.max()} test "
            f"predictions for image {ids[int(counts.argmax())]}; expected one"
        )


def _check_classes(ranked: Sequence[Candidate], tables: Mapping[str, PredictionTable]) -> None:
    first = ranked[0]
    expected = tables[first.label].class_names
    for candidate in ranked:
        came = tables[candidate.label].class_names
        if set(came) != set(expected):
            raise DataError(
                f"the classes differ: {first.source.name} has {', '.join(expected)}, "
                f"{candidate.source.name} has {', '.join(came)}",
                hint="compare runs of the same data; `evaluate` measures a model on other data",
            )


def _disjoint(
    protocol: str, ranked: Sequence[Candidate], tables: Mapping[str, PredictionTable]
) -> str:
    """Which runs have no test image in common."""
    for i, a in enumerate(ranked):
        for b in ranked[i + 1 :]:
            if not np.isin(tables[a.label].image_id, tables[b.label].image_id).any():
                return (
                    f"{a.source.name} and {b.source.name} have no test image in common under the "
                    f"protocol {protocol}"
                )
    names = dict.fromkeys(c.source.name for c in ranked)
    return f"{', '.join(names)} have no test image that all share under the protocol {protocol}"


def _left_out(
    ranked: Sequence[Candidate],
    tables: Mapping[str, PredictionTable],
    ids: NDArray[np.str_],
) -> list[str]:
    """What a reader must know where the runs were tested on different images."""
    sizes = {c.source.name: len(tables[c.label]) for c in ranked}
    if max(sizes.values()) == len(ids):
        return []
    tested = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    return [
        f"the runs were tested on different images (number of them: {tested}), so they were also "
        f"trained on different ones; compared on the {len(ids):,} test images that all share."
    ]


def _units(
    protocol: str, ranked: Sequence[Candidate], ids: NDArray[np.str_]
) -> tuple[NDArray[np.str_], list[str]]:
    """(n,) unit of each image as the first run has it, and whether others see it differently."""
    labels = {}
    for candidate in ranked:
        units = candidate.source.groups(protocol)
        labels[candidate.source.name] = np.array([units.get(i, i) for i in ids.tolist()])
    first_name, first = next(iter(labels.items()))
    partition = np.unique(first, return_inverse=True)[1]
    notes = []
    for name, other in labels.items():
        pairs = {*zip(partition.tolist(), other.tolist(), strict=True)}
        if not len(pairs) == len(set(partition.tolist())) == len(set(other.tolist())):
            notes.append(
                f"{name} groups the images differently; intervals resample the groups of "
                f"{first_name}."
            )
    return first, notes
