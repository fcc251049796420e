"""How each compared recipe was made, how far it is from its published form, what it costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from leukoscope.analyses.compare.sources import Candidate
from leukoscope.config.comparison import (
    ComparedRecipe,
    MeasuredLatency,
    MeasuredNetwork,
    NetworkCost,
    NetworkLayer,
    TrainingRecord,
)
from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.config.stored import check_record
from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.core.files import read_json, sha256_json, write_json
from leukoscope.core.run_folder import training_history
from leukoscope.core.views import plural
from leukoscope.pipeline.progress import cpu_name

CURVES = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
# What a change of backbone brings with it, and words.
_FOLLOWS = {"name", "title", "reference", "notes", "model.backbone", "model.weights",
            "preprocess.mean", "preprocess.std", "training.epochs"}  # fmt: skip
SCHEMA = 1


def describe_candidate(candidate: Candidate) -> ComparedRecipe:
    """Settings, origin, deviations and training of one recipe of one run."""
    recipe = candidate.source.recipe(candidate.name)
    if recipe is None:
        return ComparedRecipe(
            label=candidate.label,
            title=candidate.name,
            settings=None,
            recipe=candidate.name,
            run=candidate.source.name,
            study="",
            reported="",
            marks=(),
            published_epochs=None,
            training={},
        )
    published = published_recipe(recipe)
    study, _, rest = recipe.reference.partition(":")
    tested = candidate.source.table.select(recipe=recipe.name).protocol.tolist()
    return ComparedRecipe(
        label=candidate.label,
        title=recipe.title,
        settings={key: _without_folders(value) for key, value in as_json(recipe).items()},
        recipe=candidate.name,
        run=candidate.source.name,
        study=study if rest else "",
        reported=recipe.reference.partition("reported ")[2],
        marks=tuple(_marks(recipe, published)),
        published_epochs=_epochs(published),
        training={name: _training(candidate, recipe, name) for name in dict.fromkeys(tested)},
    )


def as_json(recipe: Recipe) -> dict[str, JsonValue]:
    """Every setting of a recipe, defaults included."""
    return recipe.model_dump(mode="json")


def _without_folders(value: JsonValue) -> JsonValue:
    """Names in place of paths: a page that is passed on must not tell where it was made."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def published_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe in the box that this one is a variant of; None for one of the user's own."""
    name = recipe.name.partition("-on-")[0]
    return load_recipe(name) if name in list_recipes() else None


def _epochs(recipe: Recipe | None) -> int | None:
    if recipe is None or not isinstance(recipe.training, GradientTraining):
        return None
    return recipe.training.epochs + recipe.refine.epochs


def _marks(recipe: Recipe, published: Recipe | None) -> Iterator[str]:
    """Each way in which a recipe is not its published form."""
    if published is None:
        return
    if recipe.model.backbone != published.model.backbone:
        yield f"on {recipe.model.backbone}, not {published.model.backbone}"
    if recipe.model.weights == "none" != published.model.weights:
        yield "random weights, not pretrained ones"
    elif recipe.model.weights not in ("none", published.model.weights):
        yield "weights of an earlier training"
    configured, own = _epochs(recipe), _epochs(published)
    if configured != own:
        ran = plural(configured, "epoch") if configured else "no epochs"
        yield f"{ran}, not {own or 'a linear head'}"
    one, other = _flat(recipe), _flat(published)
    differing = {key for key in {*one, *other} if one.get(key) != other.get(key)}
    changed = sorted(differing - _FOLLOWS)
    if changed:
        yield f"changed: {', '.join(changed)}"


def _flat(recipe: Recipe) -> dict[str, JsonValue]:
    """Dotted key → value."""
    flat: dict[str, JsonValue] = {}
    waiting = list(as_json(recipe).items())
    for key, value in waiting:
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            flat[key] = value
    return flat


def _training(candidate: Candidate, recipe: Recipe, protocol: str) -> TrainingRecord:
    """Epochs run and best, seconds, curves, one item a fold."""
    folder = candidate.source.files.run.path / "models" / recipe.name / protocol
    if not isinstance(recipe.training, GradientTraining):
        return TrainingRecord()
    epochs, best, seconds, curves = [], [], [], []
    for path in sorted(folder.glob("fold*")):
        rows, head = training_history(path)
        if not rows or "epoch" not in rows[-1]:
            continue
        columns = {
            name: [_number(row.get(name, "")) for row in rows]
            for name in (*CURVES, "val_f1", "seconds")
        }
        columns["epoch"] = [float(number + 1) for number in range(len(rows))]
        last = {name: values[head:] for name, values in columns.items()}
        epochs.append(len(rows))
        best.append(_best_epoch(last, recipe.training.keep_best))
        seconds.append(sum(value or 0.0 for value in columns["seconds"]))
        curves.append({name: tuple(columns[name]) for name in CURVES})
    return TrainingRecord(
        epochs=tuple(epochs),
        best_epoch=tuple(best),
        seconds=tuple(seconds),
        curves=tuple(curves),
    )


def _best_epoch(columns: Mapping[str, list[float | None]], criterion: str) -> int | None:
    sign = -1 if criterion == "val_loss" else 1
    scores = [(sign * value, -place) for place, value in enumerate(columns[criterion])
              if value is not None]  # fmt: skip
    if not scores:
        return None
    epoch = columns["epoch"][-max(scores)[1]]
    return None if epoch is None else int(epoch)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def measure_recipes(
    recipes: Mapping[str, Recipe],
    *,
    num_classes: int,
    cache: Path,
    threads: int,
    latency: bool,
    tell: Callable[[int, int], None],
) -> tuple[dict[str, MeasuredNetwork], list[str]]:
    """Complexity and layers of every recipe.

    ``cache`` keeps measurements: equal networks are measured once. Without ``latency`` nothing is
    exported and timed.

    Returns:
        Label → what was measured, and notes on what could not be measured.
    """
    if find_spec("torch") is None:
        return {}, ["torch is not installed: parameters, latency and diagrams are left out."]
    found, notes = {}, []
    for done, (label, recipe) in enumerate(recipes.items()):
        tell(done, len(recipes))
        try:
            found[label] = _cached(recipe, num_classes, cache, threads, latency)
        except LeukoscopeError as error:
            notes.append(f"{label}: cost not measured ({error.message}).")
    return found, notes


def _cached(
    recipe: Recipe, num_classes: int, cache: Path, threads: int, latency: bool
) -> MeasuredNetwork:
    model = recipe.model.model_dump(mode="json") | {"weights": ""}
    size = recipe.preprocess.size_px
    key = sha256_json([SCHEMA, model, size, num_classes, threads, latency, cpu_name()])
    path = cache / f"{recipe.model.backbone}-{key[:16]}.json"
    if path.is_file():
        try:
            return check_record(MeasuredNetwork, read_json(path), str(path), "")
        except DataError:
            path.unlink()  # damaged: measure again
    found = _measure(recipe, num_classes, threads, latency)
    write_json(path, found.model_dump(mode="json"))
    return found


def _measure(recipe: Recipe, num_classes: int, threads: int, latency: bool) -> MeasuredNetwork:
    from leukoscope.learning.complexity import (
        describe_layers,
        measure_complexity,
        untrained_network,
    )

    network = untrained_network(recipe, num_classes)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    complexity = measure_complexity(network, recipe, threads=threads, latency=latency)
    return MeasuredNetwork(
        complexity=NetworkCost(
            parameters=complexity.parameters,
            macs=complexity.macs,
            size_mb=complexity.size_mb,
            latency=tuple(MeasuredLatency(**asdict(timed)) for timed in complexity.latency),
            cpu=cpu_name(),
            load=None if busy is None else round(busy, 1),
            measured=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        ),
        layers=tuple(NetworkLayer(**asdict(block)) for block in describe_layers(network)),
    )
