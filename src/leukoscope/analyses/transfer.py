"""Double transfer: ImageNet → source data → target data, against ImageNet → target data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.analyses.arms import (
    DEFAULTS,
    ONE_TRAINING,
    OVERLAP,
    Arm,
    arm_record,
    check_arm,
    compare_arms,
    judge_arms,
    measure_only,
    open_arms,
    run_arm,
    unreadable,
)
from leukoscope.config.arms import (
    ArmDifference,
    ArmsVerdict,
    FirstPhase,
    NamedShape,
    Overlap,
    SharedPair,
    TakenOver,
    TransferResult,
    UnreadableImage,
)
from leukoscope.config.base import validate
from leukoscope.config.loading import apply_overrides
from leukoscope.config.metrics.file import load_metrics
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError, DataError, WeightsError
from leukoscope.core.files import read_json, sha256_json, write_csv, write_json
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import check_roles, named_roles
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.audit.links import SharedImage, shared_images, without_shared
from leukoscope.datasets.layouts.load import HowRead, load_dataset
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.study.options import study_config
from leukoscope.study.run import read_data

if TYPE_CHECKING:
    import torch


_BACKBONE = "backbone."
RESULT = "transfer.json"
PHASE1, DIRECT, DOUBLE = "phase1", "direct", "double"
MANIFEST_COLUMNS = ("path", "label", "patient_id", "group_id", "split")
MOST_LISTED = 200


def compare_tensors(recipe: Recipe, num_classes: int, checkpoint: Path) -> TakenOver:
    """Initialise a network from a checkpoint as training would, and compare the two.

    The backbone is taken over; head, hidden layers and additional convolutions are new, because
    the classes differ.

    Args:
        recipe: Its ``model.weights`` is the checkpoint's folder.
        num_classes: K of the new network.
        checkpoint: A model's folder.

    Raises:
        WeightsError: The checkpoint is missing, or a tensor of the backbone differs from it.
    """
    import torch

    from leukoscope.learning.backbones import build_network
    from leukoscope.learning.weights import find_weights_file, read_tensors

    network = build_network(
        recipe.model, num_classes=num_classes, size_px=recipe.preprocess.size_px
    )
    own, given = network.state_dict(), read_tensors(find_weights_file(checkpoint))
    backbone = [name for name in own if name.startswith(_BACKBONE)]
    other = [k for k in backbone if k not in given or not torch.equal(own[k], given[k])]
    if other:
        raise WeightsError(
            f"{checkpoint}: {len(other)} of {len(backbone)} tensors of the backbone were not taken "
            f"over, e.g. {other[0]}",
            hint="train the first phase again, with a backbone that is not frozen",
        )
    return TakenOver(
        checkpoint=str(checkpoint),
        taken_over=len(backbone),
        values=sum(own[name].numel() for name in backbone),
        new=_shapes(own),
        left_behind=_shapes(given),
    )


def _shapes(tensors: dict[str, torch.Tensor]) -> tuple[NamedShape, ...]:
    """Of the tensors that are not of the backbone."""
    return tuple(
        NamedShape(name=name, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
        if not name.startswith(_BACKBONE)
    )


@dataclass(frozen=True)
class TransferPlan:
    """Both phases, resolved.

    Attributes:
        source: The study of phase 1; the training part of its one fold gives the weights.
        target: The study of phase 2 that starts directly from the recipe's weights.
    """

    source: StudyConfig
    target: StudyConfig


def plan_transfer(
    source: Path | str,
    target: Path | str,
    *,
    recipe: str,
    source_protocol: str | None = None,
    source_overrides: Sequence[str] = (),
    source_layout: str = "auto",
    label_column: str = "",
    source_label_column: str = "",
    freeze: bool = False,
    conv: Sequence[int] = (),
    **options: Any,
) -> TransferPlan:
    """Resolve the options of a double transfer.

    Args:
        source: Data of phase 1.
        target: Data of phase 2.
        recipe: Name or TOML file; its ``phase1`` table holds what differs in phase 1.
        source_protocol: How the source is held out. Default: ``grouped`` if every image has a
            patient id, else ``deduplicated``.
        source_overrides: ``key=value`` for phase 1 alone, applied last.
        source_layout: Layout of the source; ``layout`` among the options is that of the target.
        label_column: Column that is the label in the target, see ``target`` of
            :class:`~leukoscope.study.options.StudyOptions`.
        source_label_column: Likewise in the source.
        freeze: Whether phase 2 trains the head alone.
        conv: Widths of additional convolutions before the head of phase 2.
        **options: See :class:`~leukoscope.study.options.StudyOptions`. Protocols, folds and
            overrides of the study apply to the target alone; overrides of the recipe to both
            phases.

    Raises:
        ConfigError: An option does not fit.
        UnknownNameError: No such recipe, backbone or role, or a role of a class in neither data
            set.
    """
    common = {**DEFAULTS, **options, "recipes": (recipe,), "probes": ()}
    class_map = options.get("class_map")
    of_source: HowRead = {
        "layout": source_layout, "class_map": class_map, "target": source_label_column
    }  # fmt: skip
    of_target: HowRead = {
        "layout": options.get("layout", "auto"), "class_map": class_map, "target": label_column
    }  # fmt: skip
    read_source = cache(partial(load_dataset, source, **of_source))
    read_target = partial(load_dataset, target, **of_target)
    source_roles, target_roles = _roles(options.get("roles"), read_source, read_target)
    base = study_config(target, **{**common, **of_target, "roles": target_roles})
    both = base.recipes[0]
    own = [text for text in source_overrides if _of_study(text)]
    phase1 = _first_phase(both, [text for text in source_overrides if text not in own])
    protocols = (source_protocol or _source_protocol(read_source()),)
    of_first = {"protocols": protocols, "folds": 1, "overrides": own, "roles": source_roles}
    first = study_config(source, **{**common, **of_source, **of_first})
    return TransferPlan(
        measure_only(first, phase1), measure_only(base, _second_phase(both, freeze, conv))
    )


def _of_study(override: str) -> bool:
    """Whether ``key=value`` changes the study, not the recipe."""
    return override.partition("=")[0].split(".")[0] in StudyConfig.model_fields


def _second_phase(recipe: Recipe, freeze: bool, conv: Sequence[int]) -> Recipe:
    """What trains in phase 2: the recipe without its table ``phase1``, and what the user added."""
    values = recipe.model_dump() | {"phase1": {}}
    if freeze:
        values["training"]["freeze"] = "all"
    if conv:
        values["model"]["conv"] = tuple(conv)
    return validate(Recipe, values, f"phase 2 of {recipe.name}")


def _first_phase(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """What trains in phase 1: the recipe with its table ``phase1`` and what the user changed."""
    if not isinstance(recipe.training, GradientTraining):
        raise ConfigError(
            f"recipe {recipe.name}: its backbone is frozen and its head linear, so phase 1 would "
            "leave nothing to take over",
            hint="choose a recipe with training.method = 'gradient', e.g. double-transfer-resnet50",
        )
    changed = apply_overrides(recipe.first_phase().model_dump(), overrides)
    first = validate(Recipe, changed, f"phase 1 of {recipe.name}")
    if first.training.method != "gradient" or first.training.freeze == "all":
        raise ConfigError(
            "phase 1 with a frozen backbone would leave nothing to take over",
            hint="--freeze freezes the backbone in phase 2 alone",
        )
    return first


def _roles(
    given: Mapping[str, str] | None, source: Callable[[], Manifest], target: Callable[[], Manifest]
) -> tuple[Roles, Roles]:
    """The stated roles of the classes that each data set has; without any nothing is read."""
    stated = named_roles(given or {})
    if not stated:
        return {}, {}
    first, second = source().class_names, target().class_names
    check_roles(stated, {*first, *second})
    of_source = {name: role for name, role in stated.items() if name in first}
    return of_source, {name: role for name, role in stated.items() if name in second}


def _source_protocol(source: Manifest) -> str:
    """Patients are held out where every image names one."""
    named = bool(source.usable) and all(record.patient_id for record in source.usable)
    return "grouped" if named else "deduplicated"


def run_transfer(
    plan: TransferPlan, out: Path | str, *, resume: bool = False, listener: Listener | None = None
) -> TransferResult:
    """Run both phases and both arms, compare them, and write ``transfer.json`` and the report.

    The studies are written to ``phase1``, ``direct`` and ``double`` in ``out``.

    Returns:
        The content of ``transfer.json``.

    Raises:
        DataError: The data cannot be used, or no source image is left.
        UsageError: The folder holds something else.
    """
    from leukoscope.reporting.pages.arms import write_arms_report

    out = Path(out).expanduser().resolve()
    open_arms(out, RESULT, resume=resume)
    progress = Progress(listener) if listener else Progress()
    out.mkdir(parents=True, exist_ok=True)
    source, overlap, lost = _source_without_target(plan, out, progress)
    first = Arm(PHASE1, "Phase 1", source)
    direct = Arm(DIRECT, "Direct transfer", plan.target)
    for arm in (direct, first):
        check_arm(arm, out, listener)
    phase1 = run_arm(first, out, listener)
    checkpoint = phase1.model(source.recipes[0].name, source.protocols[0], 0)
    double = Arm(DOUBLE, "Double transfer", _from_checkpoint(plan, checkpoint))
    taken = _taken_over(double.config, checkpoint, progress)
    run_direct = run_arm(direct, out, listener)
    run_double = run_arm(double, out, listener, audit_of=run_direct)
    with progress.step("comparison"):
        rows = compare_arms([(run_double, run_direct)], plan.target)[0]
    result = TransferResult(
        recipe=plan.target.recipes[0].name,
        source=plan.source.data.path,
        target=plan.target.data.path,
        seed=plan.target.seed,
        arms=(arm_record(double, run_double), arm_record(direct, run_direct)),
        comparisons=tuple(rows),
        inapplicable=load_metrics(run_direct.metrics).inapplicable,
        verdict=_verdict(rows, plan),
        limits=_limits(plan, overlap),
        overlap=overlap,
        phase1=_phase1_record(phase1, source),
        taken_over=taken,
        unreadable=lost + unreadable(read_data(plan.target)),
    )
    result.save(out / RESULT)
    with progress.step("report"):
        write_arms_report(RunFolder(out), result)
    return result


def _source_without_target(
    plan: TransferPlan, out: Path, progress: Progress
) -> tuple[StudyConfig, Overlap, tuple[UnreadableImage, ...]]:
    """The study of phase 1 without images that the target has too, the overlap, what was lost."""
    source, target = read_data(plan.source), read_data(plan.target)
    key = sha256_json([[r.sha256 for r in data.usable] for data in (source, target)])
    lost, file = unreadable(source), out / OVERLAP
    stored = read_json(file) if file.is_file() else {}
    if stored.get("key") == key and "overlap" in stored:
        found = Overlap.model_validate_json(json.dumps(stored["overlap"]))
    else:
        with progress.step("overlap of the two data sets") as tell:
            shared = shared_images(source, target, progress=tell)
        found = _purge(source, target, shared, out)
        write_json(file, {"key": key, "overlap": found.model_dump(mode="json")})
    if not found.purged:
        return plan.source, found, lost
    data = plan.source.data.model_copy(update={"path": str(out / "source.csv"), "layout": "auto"})
    return plan.source.model_copy(update={"data": data}), found, lost


def _purge(source: Manifest, target: Manifest, shared: list[SharedImage], out: Path) -> Overlap:
    """Write the source's manifest without the shared images, and say what they are."""
    kept = without_shared(source, shared)
    purged = len(source.usable) - len(kept.usable)
    if purged and len(kept.class_names) < 2:
        raise DataError(
            f"the target's images, or further ones of the same patients or fields, are {purged} of "
            f"the {len(source.usable)} images of the source; fewer than two classes are left for "
            "phase 1",
            hint="choose a source of other patients",
        )
    if purged:
        rows = (
            {
                **r.description,
                "path": source.path_of(r).resolve(),
                "label": r.label,
                "patient_id": r.patient_id,
                "group_id": r.group_id,
                "split": r.given_part,
            }
            for r in kept.usable
        )
        columns = dict.fromkeys((*MANIFEST_COLUMNS, *source.describing_columns))
        write_csv(out / "source.csv", list(columns), rows)
    return Overlap(
        source_images=len(source.usable),
        target_images=len(target.usable),
        purged=purged,
        by_kind=dict(Counter(pair.kind for pair in shared)),
        pairs=tuple(
            SharedPair(source=pair.first.path, target=pair.second.path, kind=pair.kind)
            for pair in shared[:MOST_LISTED]
        ),
        pairs_in_all=len(shared),
    )


def _from_checkpoint(plan: TransferPlan, checkpoint: Path) -> StudyConfig:
    """Phase 2 from the weights of phase 1: same recipe name, and so same seeds."""
    recipe = plan.target.recipes[0]
    model = recipe.model.model_copy(update={"weights": str(checkpoint)})
    name = Path(plan.source.data.path).name
    title = f"{recipe.title}; from phase 1 on {name}"
    changed = recipe.model_copy(update={"model": model, "title": title})
    return plan.target.model_copy(update={"recipes": (changed,)})


def _taken_over(config: StudyConfig, checkpoint: Path, progress: Progress) -> TakenOver:
    """Check tensor by tensor what the network of phase 2 has taken over from phase 1."""
    recipe = config.recipes[0]
    with progress.step("taking over the backbone"):
        classes = len(read_data(config).class_names)
        return compare_tensors(recipe, classes, checkpoint)


def _phase1_record(run: RunFolder, config: StudyConfig) -> FirstPhase:
    metrics = load_metrics(run.metrics)
    result = next(row for row in metrics.results if row.protocol == config.protocols[0])
    return FirstPhase(
        folder=PHASE1,
        class_names=metrics.class_names,
        protocol=config.protocols[0],
        n=result.n,
        n_groups=result.n_groups,
        group_unit=result.group_unit,
        metrics={k: result.metrics.get(k) for k in ("accuracy", "macro_f1", "roc_auc")},
    )


def _verdict(rows: Sequence[ArmDifference], plan: TransferPlan) -> ArmsVerdict:
    name = Path(plan.source.data.path).name
    return judge_arms(
        rows,
        "Double transfer",
        "direct transfer",
        gain=f"Training on {name} first helps: the classifier is more accurate than without.",
        loss=f"Training on {name} first harms: the classifier is less accurate than without.",
    )


def _limits(plan: TransferPlan, overlap: Overlap) -> tuple[str, ...]:
    from leukoscope.reporting.formats import plural

    training = plan.target.recipes[0].training
    assert isinstance(training, GradientTraining)
    texts = [
        f"Both arms had at most {plural(training.epochs, 'epoch')} on the target, the same splits, "
        "order of images and random head; phase 1 cost its own epochs in addition.",
        "Phase 1 was fitted on the training part of its hold-out, not on the whole source: so "
        "its own score above is that of the very weights that were taken over.",
        ONE_TRAINING,
    ]
    if overlap.purged:
        texts.append(
            f"Left out of phase 1, because the target shows them too or they are of the same "
            f"patients: {plural(overlap.purged, 'source image')}."
        )
    return tuple(texts)
