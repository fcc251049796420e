"""Robustness: test images, damaged in known ways, answered by the models that held them out.

The damage is done to the original image, before preprocessing. Answers are kept for each
condition, so that a killed command goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.guarantees import Envelope, EnvelopeLimit
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.robustness import (
    CLEAN,
    Condition,
    ConditionMetric,
    DamagedModel,
    DamageFacts,
    RobustnessFile,
)
from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.files import read_json, sha256_json, write_bytes, write_csv, write_json
from leukoscope.core.records import ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.robustness import (
    ConditionOutputs,
    ConditionSample,
    fit_limit,
    is_beyond,
    tolerated,
)
from leukoscope.imaging.corruption import CORRUPTIONS, HAEMATOLOGY, STUDY_S1, corrupt
from leukoscope.imaging.decode import decode_image
from leukoscope.pipeline.measured import (
    Image,
    Kept,
    MeasuredModels,
    Model,
)
from leukoscope.pipeline.progress import Listener
from leukoscope.reporting.figures.other_data import damage_sheet
from leukoscope.reporting.figures.style import figure_png, house_style
from leukoscope.reporting.formats import seconds as duration
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.other_data import SHEET, draw
from leukoscope.reporting.study.report import write_report
from leukoscope.runtime.bundle import read_bundle
from leukoscope.runtime.envelope import store_envelope

SETS = {"haematology": HAEMATOLOGY, "s1": STUDY_S1}
MOST_IMAGES, FEWEST_IMAGES = 300, 100
BUDGET_S = 300.0  # the default number of images is chosen so that measuring takes about as long
_TRIAL = 16
COLUMNS = ("recipe", "corruption", "severity", "level", "metric", "value", "low", "high")
_LIMITS = ("low", "high", "caught", "caught_worst")  # of what is checked, as far as it is
_VERSION = 1  # of the corruptions and of what is kept


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        corruptions: Names.
        severities: 1 to 5.
        images: How many test images; None chooses by the time that they take.
        seed: Of the damage, of the choice of images and of the intervals.
        bound: Loss of accuracy that is still accepted, as a share.
    """

    corruptions: tuple[str, ...] = HAEMATOLOGY
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    images: int | None = None
    seed: int = 42
    bound: float = 0.05

    @property
    def conditions(self) -> list[tuple[str, int, float]]:
        """Corruption, severity, level; first the undamaged images."""
        found = [
            (name, severity, float(CORRUPTIONS[name].levels[severity - 1]))
            for name in self.corruptions
            for severity in self.severities
        ]
        return [(CLEAN, 0, 0.0), *found]

    @property
    def complete(self) -> bool:
        """Whether an envelope of everything follows from it."""
        every = set(HAEMATOLOGY) <= set(self.corruptions)
        return every and set(self.severities) == {1, 2, 3, 4, 5}


def choose_corruptions(names: Sequence[str]) -> tuple[str, ...]:
    """Names, and the sets ``haematology`` and ``s1``, as names of corruptions.

    Raises:
        UnknownNameError: There is no such corruption or set.

    >>> choose_corruptions(["s1", "jpeg"])
    ('s1-noise', 's1-brightness', 'jpeg')
    """
    for name in names:
        if name not in SETS and name not in CORRUPTIONS:
            raise UnknownNameError("corruption", name, [*SETS, *CORRUPTIONS])
    return tuple(dict.fromkeys(n for name in names for n in SETS.get(name, (name,))))


def measure(
    found: MeasuredModels,
    request: Request,
    out: RunFolder,
    listener: Listener,
    tell: Callable[[str], None],
) -> RobustnessFile:
    """Measure, and write ``robustness.json`` and ``robustness.csv``.

    ``listener`` hears of conditions done, ``tell`` in words what will be done and how long it
    takes.
    """
    available = len(found.records)
    found = found.first(_number_of_images(found, request, out, tell))
    sample = found.sample(request.seed)
    models: list[DamagedModel] = []
    first = None  # the errors of the model that the others are compared with
    for number, model in enumerate(found.models):
        kept = dict(_answers(found, model, request, out, listener, tell))
        errors = _errors(kept, sample, request)
        first = errors if number == 0 else first
        own = replace(sample, fits=model.fits(found.records))
        described = _describe(model, kept, own, request, found.protocol)
        models.append(described.model_copy(update=_corruption_errors(errors, first, sample)))
    kinds = {name: CORRUPTIONS[name] for name in request.corruptions}
    result = RobustnessFile(
        schema=1,
        protocol=found.protocol,
        group_unit=found.group_unit,
        n=len(found.records),
        n_available=available,
        n_groups=len(set(sample.groups)),
        seed=request.seed,
        confidence=found.confidence,
        bound=request.bound,
        corruptions={
            name: DamageFacts(title=kind.title, unit=kind.unit, statistic=kind.statistic)
            for name, kind in kinds.items()
        },
        warnings=tuple(found.warnings),
        recipes=tuple(models),
    )
    result.save(out.robustness)
    write_csv(out.robustness_table, COLUMNS, _table_rows(result))
    return result


def draw_sheet(found: MeasuredModels, request: Request, out: RunFolder) -> None:
    """Draw every condition on one of the images."""
    record = found.records[0]
    image = decode_image(found.manifest.path_of(record)).image
    names, severities = request.corruptions, request.severities
    with house_style():
        figure = damage_sheet(image, names, severities, key=record.image_id, seed=request.seed)
        write_bytes(out.figures / SHEET, figure_png(figure, photo=True))


def show_result(out: RunFolder, *, own: bool, listener: Listener) -> list[str]:
    """Draw the curves; where the folder is the run's own, write its report and its bundle again.

    ``own`` says whether ``out`` is the folder of the run that was measured.

    Returns:
        What was done, and what was not and why, in sentences.
    """
    result = RobustnessFile.load(out.robustness)
    if own and out.metrics.is_file():
        write_report(out, progress=partial(listener, "report"))
        return _update_bundle(out, result)
    draw(result, Gallery(out))
    return ["the run is not finished: its report will show this when it is"] if own else []


def _update_bundle(run: RunFolder, result: RobustnessFile) -> list[str]:
    if not (run.bundle / "bundle.json").is_file():
        return []
    recipe = read_bundle(run.bundle).record.recipe
    row = next((row for row in result.recipes if row.recipe == recipe), None)
    if row is None:
        return [f"the bundle stays as it was: it holds {recipe}, which was not measured"]
    if row.envelope is None:
        return [f"the bundle stays as it was: {row.envelope_note}"]
    store_envelope(run.bundle, row.envelope)
    return [f"{run.bundle} now checks each image against the envelope"]


def _number_of_images(
    found: MeasuredModels, request: Request, out: RunFolder, tell: Callable[[str], None]
) -> int:
    """As asked for, or as many as take a few minutes; a repeated command takes the same."""
    available, work = len(found.records), len(request.conditions) * len(found.models)
    plan = out.cache / "robustness" / "plan.json"
    key = sha256_json([found.protocol, [m.fingerprint for m in found.models], request.conditions])
    stored = read_json(plan) if plan.is_file() else {}
    images = request.images or stored.get(key)
    if images is None:
        seconds = max(_seconds_per_image(found, model, request.seed) for model in found.models)
        fits = int(BUDGET_S / (seconds * work))
        images = min(available, max(FEWEST_IMAGES, min(MOST_IMAGES, fits)))
        write_json(plan, {**stored, key: images})
        tell(f"about {duration(images * work * seconds)} at {1000 * seconds:.0f} ms an image")
    images = min(images, available)
    tell(f"{images} of {available} test images, {work} conditions in all")
    return int(images)


def _seconds_per_image(found: MeasuredModels, model: Model, seed: int) -> float:
    """Measured on blurred images, after the models are loaded."""
    picture = partial(_picture, found, "defocus", 2.0, seed)
    records = found.records[:_TRIAL]
    model.answer(records, picture)
    start = time.perf_counter()
    model.answer(records, picture)
    return (time.perf_counter() - start) / len(records)


def _picture(
    found: MeasuredModels, name: str, level: float, seed: int, record: ImageRecord
) -> Image:
    image = decode_image(found.manifest.path_of(record)).image
    return image if name == CLEAN else corrupt(image, name, level, key=record.image_id, seed=seed)


def _answers(
    found: MeasuredModels,
    model: Model,
    request: Request,
    out: RunFolder,
    listener: Listener,
    tell: Callable[[str], None],
) -> Iterator[tuple[tuple[str, int], Kept]]:
    """Answers under each condition, kept ones or new ones."""
    step = f"robustness of {model.name}"
    folder = out.cache / "robustness" / f"{model.name}-{found.protocol}"
    images = [record.sha256 for record in found.records]
    for done, (name, severity, level) in enumerate(request.conditions):
        listener(step, done, len(request.conditions))
        key = sha256_json([_VERSION, images, model.fingerprint, name, level, request.seed])
        path = folder / f"{name}-{severity}.json"
        kept = _load_answers(path, key)
        if kept is None:
            start = time.perf_counter()
            kept = model.answer(found.records, partial(_picture, found, name, level, request.seed))
            _save_answers(path, key, kept)
            if name != CLEAN and severity == request.severities[0]:
                left = (time.perf_counter() - start) * (len(request.conditions) - done - 1)
                tell(f"{model.name}: {CORRUPTIONS[name].title}, about {duration(left)} to go")
        yield (name, severity), kept
    listener(step, len(request.conditions), len(request.conditions))


def _describe(
    model: Model,
    kept: dict[tuple[str, int], Kept],
    sample: ConditionSample,
    request: Request,
    protocol: str,
) -> DamagedModel:
    """Every condition of one model, and its envelope."""
    clean = kept[CLEAN, 0][0]
    rows = [
        sample.describe(condition, kept[condition[:2]][0], clean)
        for condition in request.conditions
    ]
    kept_up_to = {
        name: tolerated(_lower_limits(rows, name), request.bound)
        for name in request.corruptions
        if name in HAEMATOLOGY
    }
    envelope, note = _envelope(kept, rows, kept_up_to, sample, request, protocol)
    return DamagedModel(
        recipe=model.name,
        clean=rows[0],
        conditions=tuple(rows[1:]),
        tolerated=kept_up_to,
        envelope=envelope,
        envelope_note=note,
    )


def _lower_limits(rows: Sequence[Condition], name: str) -> list[float | None]:
    """Of the paired differences at severity 1, 2 … without a gap."""
    found = {row.severity: row.difference.low for row in rows if row.corruption == name}
    return [found[s] for s in range(1, len(found) + 1) if set(range(1, s + 1)) <= set(found)]


def _envelope(
    kept: dict[tuple[str, int], Kept],
    rows: Sequence[Condition],
    kept_up_to: Mapping[str, int],
    sample: ConditionSample,
    request: Request,
    protocol: str,
) -> tuple[Envelope | None, str]:
    if not request.complete:
        return None, "only a measurement of all corruptions and severities gives an envelope"
    if not rows[-1].difference.reliable:
        return None, f"too few groups ({len(set(sample.groups))}) for intervals to be relied on"
    limits = []
    alarms = np.zeros(len(sample.y_true), np.bool_)
    for name in HAEMATOLOGY:
        severity = kept_up_to[name]
        kind = CORRUPTIONS[name]
        values = [kept[CLEAN, 0][1], *(kept[name, s][1] for s in request.severities)]
        found: dict[str, float] = {}
        if kind.side:
            numbers = [np.array(looks[kind.statistic]) for looks in values]
            found = fit_limit(numbers, severity, kind.side)
            alarms |= is_beyond(numbers[0], found.get("low"), found.get("high"))
        limits.append(
            EnvelopeLimit(
                corruption=name,
                severity=severity,
                severities=len(request.severities),
                statistic=kind.statistic if {"low", "high"} & set(found) else "",
                **{name: found.get(name) for name in _LIMITS},
            )
        )
    return Envelope(
        bound=request.bound, confidence=sample.how["confidence"], protocol=protocol,
        n=len(sample.y_true), n_groups=len(set(sample.groups)),
        false_alarms=float(alarms.mean()), limits=tuple(limits),
    ), ""  # fmt: skip


def _errors(
    kept: dict[tuple[str, int], Kept], sample: ConditionSample, request: Request
) -> NDArray[np.float64] | None:
    """(C, S, n) errors under the haematology corruptions; None where none was measured."""
    names = [name for name in request.corruptions if name in HAEMATOLOGY]
    if not names:
        return None
    return np.array(
        [[sample.wrong(kept[name, s][0]) for s in request.severities] for name in names]
    )


def _corruption_errors(
    own: NDArray[np.float64] | None, first: NDArray[np.float64] | None, sample: ConditionSample
) -> dict[str, Estimate]:
    """Mean error, and that against the first model: fields of :class:`DamagedModel`."""
    if own is None:
        return {}
    found = {"mean_error": sample.corruption_error(own).estimate}
    if own is not first:
        found["mce"] = sample.corruption_error(own, first).estimate
    return found


def _load_answers(path: Path, key: str) -> Kept | None:
    """Answers that were kept, or None where there are none, of other images or models."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        if value["key"] != key:
            return None
        answers = ConditionOutputs(
            np.array(value["probs"], np.float64),
            np.array(value["review"], np.bool_),
            None if value["reject"] is None else np.array(value["reject"], np.bool_),
        )
        return answers, value["looks"]
    except (DataError, KeyError, TypeError, ValueError):
        return None  # damaged: measure it again


def _save_answers(path: Path, key: str, kept: Kept) -> None:
    """Keep answers; a kill leaves the file whole or absent."""
    answers, looks = kept
    write_json(
        path,
        {
            "key": key,
            "probs": answers.probs.tolist(),
            "review": answers.review.tolist(),
            "reject": None if answers.reject is None else answers.reject.tolist(),
            "looks": looks,
        },
    )


def _table_rows(result: RobustnessFile) -> Iterator[dict[str, object]]:
    """The same as a table of one row a number."""
    for model in result.recipes:
        for condition in (model.clean, *model.conditions):
            head = condition.model_dump(include={"corruption", "severity", "level"})
            for metric in get_args(ConditionMetric):
                found = condition.metric(metric)
                if found is not None:
                    number = found.model_dump(exclude={"reliable"})
                    yield {"recipe": model.recipe, **head, "metric": metric, **number}
