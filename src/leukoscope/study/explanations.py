"""Which images are explained, and their heat maps, of one model or several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import ExplainedKind, Explanation
from leukoscope.config.stored import save_records
from leukoscope.core.errors import ImageError, UnknownNameError, UsageError
from leukoscope.core.files import sha256_file, write_bytes
from leukoscope.core.labels import class_title, match_class
from leukoscope.core.run_folder import EXPLANATIONS, RunFolder
from leukoscope.evaluation.examples import EXAMPLE_KINDS, choose_examples, interleave
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess, normalise
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.pipeline.progress import Tell
from leukoscope.pipeline.trained_run import FittedModel, FittedRun
from leukoscope.reporting.figures.example_grids import class_grid, example_grids
from leukoscope.reporting.figures.heatmaps import METHOD_TITLES, HeatColumn, heat_panel
from leukoscope.reporting.figures.style import figure_png, house_style, short_title
from leukoscope.runtime.prediction import Failure

PART_TITLES: Mapping[str, str] = {
    "test": "held-out image",
    "val": "image of the validation part",
    "cal": "image of the calibration part",
    "train": "IMAGE IT WAS TRAINED ON",
    "purged": "image kept out of training",
    "": "image from elsewhere",
}


@dataclass(frozen=True)
class ModelSource:
    """Whose models are asked.

    Attributes:
        fitted: The run.
        recipe: The recipe.
        protocol: Under which protocol its models were fitted.
    """

    fitted: FittedRun
    recipe: str
    protocol: str


@dataclass(frozen=True)
class Subject:
    """An image to be explained.

    Attributes:
        file: Where it lies.
        name: How to call it.
        kind: ``right``, ``wrong``, or ``image`` for one that the user named.
        sha256: Of its bytes.
        image_id: Its id in the data set of the first source; empty for an image from elsewhere.
        y_true: Its class; empty where unknown.
    """

    file: Path
    name: str
    kind: ExplainedKind
    sha256: str
    image_id: str = ""
    y_true: str = ""


def open_sources(
    run: Path, beside: Path | None, recipes: Sequence[str], protocol: str | None
) -> list[ModelSource]:
    """The models that a user named: recipes of one run, and those of another beside them.

    Each run shows the recipes of these names that it has, or its first where none is named; by
    default under its first protocol.

    Raises:
        UnknownNameError: A name that no run has.
        DataError: Nothing that was named is finished.
    """
    runs = [FittedRun.open(path) for path in (run, beside) if path is not None]
    known = [name for fitted in runs for name in fitted.recipes]
    for name in recipes:
        if name not in known:
            raise UnknownNameError(f"recipe of {run}", name, known)
    sources = []
    for fitted in runs:
        chosen = [name for name in dict.fromkeys(recipes) if name in fitted.recipes]
        names: list[str | None] = [*chosen] if chosen else [None]
        sources += [ModelSource(fitted, *fitted.choose(name, protocol)) for name in names]
    return sources


def choose_subjects(source: ModelSource, count: int) -> list[Subject]:
    """``count`` right and as many wrong test predictions.

    The right ones are the median in confidence of each class in turn, not the prettiest; the wrong
    ones are those that were held with the greatest confidence.
    """
    table = source.fitted.test_table(source.recipe, source.protocol)
    right = interleave(choose_examples("right", table.y_true, table.probs), count)
    mistakes = chain(*choose_examples("confident-wrong", table.y_true, table.probs))
    wrong = sorted(mistakes, key=lambda row: -table.probs[row].max())
    subjects = []
    chosen: dict[ExplainedKind, list[int]] = {"right": right, "wrong": wrong[:count]}
    for kind, rows in chosen.items():
        for row in rows:
            record = source.fitted.record(str(table.image_id[row]))
            file = source.fitted.manifest.path_of(record)
            subjects.append(
                Subject(file, record.path, kind, record.sha256, record.image_id, record.label)
            )
    return subjects


def name_subjects(source: ModelSource, files: Iterable[Path]) -> list[Subject]:
    """Images that the user named; those of the data set are known by their bytes."""
    subjects = []
    for file in files:
        try:
            sha256 = sha256_file(file)
        except OSError:
            sha256 = ""  # decoding it will say what is wrong
        record = source.fitted.find(sha256) if sha256 else None
        known = (record.image_id, record.label) if record else ()
        subjects.append(Subject(file, str(file), "image", sha256, *known))
    return subjects


@dataclass(frozen=True)
class Look:
    """How to explain.

    Attributes:
        methods: Names of :data:`leukoscope.learning.attribution.METHODS`.
        layer: Another layer for Grad-CAM and Grad-CAM++.
        explained: ``predicted``, ``true``, or the name of a class.
        input_shown: Also show what the model sees, which without preprocessing steps is the
            original once more.
    """

    methods: tuple[str, ...] = ("grad-cam",)
    layer: str | None = None
    explained: str = "predicted"
    input_shown: bool = True


def explain_study(run: RunFolder, count: int, progress: Tell) -> list[Explanation]:
    """Draw the panels of a study's report: Grad-CAM of the first recipe and protocol."""
    for old in (*run.explanations.glob("*.png"), *run.explanations.glob(EXPLANATIONS)):
        old.unlink()
    fitted = FittedRun.open(run.path)
    if not fitted.has_models:
        return []
    source = ModelSource(fitted, *fitted.choose(None, None))
    subjects = choose_subjects(source, count)
    recipe = next(r for r in fitted.config.recipes if r.name == source.recipe)
    look = Look(input_shown=bool(recipe.preprocess.steps))
    folder = run.explanations
    found, _ = explain([source], subjects, look, folder, progress, prefix=f"{folder.name}/")
    return found


def default_folder(sources: Sequence[ModelSource], look: Look, *, named: bool) -> Path:
    """Below the first run's ``explanations``: its own for each choice of what is shown."""
    first = sources[0]
    recipes = "-and-".join(dict.fromkeys(source.recipe for source in sources))
    parts = [recipes, first.protocol, *look.methods]
    parts += [] if look.explained == "predicted" else [look.explained]
    parts += [look.layer] if look.layer else []
    parts += ["images"] if named else []
    return first.fitted.run.explanations / "-".join(parts)


def explain(
    sources: Sequence[ModelSource],
    subjects: Sequence[Subject],
    look: Look,
    out: Path,
    progress: Tell,
    *,
    prefix: str = "",
) -> tuple[list[Explanation], list[Failure]]:
    """Draw one panel an image into a folder, and the list ``explanations.json``.

    Files of the same names are replaced, others stay; ``prefix`` stands before a panel's name in
    the list.

    Returns:
        One entry for each image, source and method, and the named images that cannot be read.

    Raises:
        UsageError: The true class is asked for, but unknown.
        UnknownNameError: No such method, layer or class.
        ImageError: An image of the data set is gone or damaged.
    """
    found: list[Explanation] = []
    failures: list[Failure] = []
    for done, subject in enumerate(subjects, start=1):
        try:
            image = decode_image(subject.file).image
        except ImageError as error:
            if subject.kind != "image":
                raise
            failures.append(Failure.from_error(subject.name, error))
            continue
        name = f"{subject.kind}-{subject.y_true or subject.file.stem}-{subject.sha256[:12]}.png"
        columns, entries, notes = [HeatColumn(image, "original")], [], []
        for source in sources:
            more, new, note = _ask(source, subject, image, look, f"{prefix}{name}")
            columns += more
            entries += new
            notes.append(note)
        with house_style():
            title = _title(subject, len(columns))
            note = "; ".join(dict.fromkeys(notes)) + ". Each map is scaled to its own maximum."
            figure = heat_panel(columns, title=title, note=note)
            write_bytes(out / name, figure_png(figure, photo=True))
        found += entries
        progress(done, len(subjects))
    if found or not failures:
        save_records(out / EXPLANATIONS, found)
    return found, failures


def _ask(
    source: ModelSource, subject: Subject, image: NDArray[np.uint8], look: Look, panel: str
) -> tuple[list[HeatColumn], list[Explanation], str]:
    """What one model saw and where it looked."""
    record = source.fitted.find(subject.sha256, subject.image_id)
    model, part = source.fitted.model_for(
        source.recipe, source.protocol, record.image_id if record else ""
    )
    shown = apply_preprocess(image, model.spec)
    probs = model.probabilities(shown[None])[0]
    best = int(probs.argmax())
    target = _target(look.explained, subject, model, best)
    named, predicted = model.class_names[target], model.class_names[best]
    verdict = f"{short_title(predicted)} {probs[best]:.2f}"
    columns = []
    if look.input_shown:
        columns.append(HeatColumn(shown, f"as {source.recipe} sees it:\n{verdict}"))
    cells = segment_leukocytes(shown).cell
    entries = []
    for method in look.methods:
        heat = _heat(model, shown, target, method, look.layer)
        score = "" if target == best and look.input_shown else f" {probs[target]:.2f}"
        label = f"{METHOD_TITLES[method]} for\n{short_title(named)}{score}"
        columns.append(HeatColumn(shown, label, heat))
        entries.append(
            Explanation(
                image_id=record.image_id if record else "",
                path=subject.name,
                recipe=source.recipe,
                protocol=model.protocol,
                fold=model.fold,
                part=part,
                y_true=subject.y_true,
                y_pred=predicted,
                p=round(float(probs[best]), 4),
                method=method,
                explained=named,
                kind=subject.kind,
                panel=panel,
                share_in_leukocytes=_share(heat, cells),
                area_of_leukocytes=round(float(cells.mean()), 4),
            )
        )
    note = f"{source.recipe}, {model.protocol}, fold {model.fold}: {PART_TITLES[part]}"
    return columns, entries, note


def _heat(
    model: FittedModel, shown: NDArray[np.uint8], target: int, method: str, layer: str | None
) -> NDArray[np.float32]:
    import torch

    from leukoscope.learning.attribution import find_method

    batch = torch.from_numpy(normalise(shown[None], model.spec))
    heat = find_method(method)(model.network, batch, [target], layer=layer)
    return np.asarray(heat[0], np.float32)


def _target(explained: str, subject: Subject, model: FittedModel, best: int) -> int:
    if explained == "predicted":
        return best
    if explained == "true" and not subject.y_true:
        raise UsageError(
            f"{subject.name}: its true class is not known, it is no image of the data set",
            hint="explain the predicted class, or name one",
        )
    text = subject.y_true if explained == "true" else explained
    name = match_class(text, model.class_names)
    if name is None:
        raise UnknownNameError(
            f"class of {model.recipe}", text, (*model.class_names, "predicted", "true")
        )
    return model.class_names.index(name)


def _title(subject: Subject, columns: int) -> str:
    """The true class and the file's name, whose beginning gives way where there is no room."""
    truth = f"True: {class_title(subject.y_true)}" if subject.y_true else "True class unknown"
    name, room = Path(subject.name).name, 26 * columns + 4 - len(truth)
    return f"{truth} · {name if len(name) <= room else f'…{name[1 - room :]}'}"


def _share(heat: NDArray[np.float32], cells: NDArray[np.bool_]) -> float | None:
    import cv2

    size = (cells.shape[1], cells.shape[0])
    wide = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    total = float(wide.sum())
    if total <= 0 or not cells.any():
        return None
    return round(float(wide[cells].sum()) / total, 4)


def draw_grids(source: ModelSource, out: Path) -> list[Path]:
    """Write ``grid-right.png`` and the grids of wrong, least certain, confidently wrong images."""
    table = source.fitted.test_table(source.recipe, source.protocol)
    manifest = source.fitted.manifest
    paths = {record.image_id: manifest.path_of(record) for record in manifest.usable}
    grids = example_grids(
        EXAMPLE_KINDS, table.y_true, table.probs, table.class_names,
        lambda row: paths.get(str(table.image_id[row])),
    )  # fmt: skip
    written = []
    for grid in grids:
        if not grid.shown:
            continue
        path = out / f"grid-{grid.kind}.png"
        with house_style():
            write_bytes(path, figure_png(class_grid(grid.rows), photo=True))
        written.append(path)
    return written
