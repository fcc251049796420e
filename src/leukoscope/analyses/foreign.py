"""The shortcut audit of a model that was not made here, and its statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.foreign_inputs import ForeignModel, ForeignTable, read_foreign_csv
from leukoscope.config.metrics.file import study_metrics
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import write_json
from leukoscope.core.labels import check_roles, resolve_classes
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.audit.run import audit
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.pipeline.evidence import gather_evidence
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.folds import ProtocolPlan, plan_protocols
from leukoscope.pipeline.inapplicable import inapplicable_probes
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.perturbed import perturbed_inputs, perturbed_rows
from leukoscope.pipeline.probes import prepare_study, run_probe
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.pipeline.results.entries import Statistics, probe_entry, result_entry
from leukoscope.pipeline.results.shortcut_summary import (
    MODEL_ON,
    Evidence,
    add_verdict,
    model_on_entries,
)
from leukoscope.pipeline.results.subgroups import SUBGROUP_METRICS, subgroups_entry
from leukoscope.study.run import StudyResult, read_data

EXAMPLES = 3  # pairs of images that a leak is shown by
CHUNK = 64
_UNKNOWN = "on which images the model was trained is not known"


def summarise_foreign(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    name: str,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    evidence: Evidence,
    split: Mapping[str, object] | None,
    probabilities: bool,
    warnings: Sequence[str],
    rows: Sequence[ImageRecord] = (),
) -> dict[str, object]:
    """Statistics of a model that was not made here, beside the probes.

    Arguments are those of :func:`~leukoscope.pipeline.results.summary.summarise`; ``name`` is the
    model's and stands for a recipe, ``split`` holds sizes and leaks of its own split (None where
    unknown), ``probabilities`` says whether there are any, beside the predicted classes.
    """
    statistics = Statistics.of(folds, config)
    test = table.select(part="test")
    protocols = [p for p in PROTOCOLS if p in set(test.protocol.tolist())]
    results, probes, model_on = [], [], []
    for protocol in protocols:
        under = test.select(protocol=protocol)
        own = under.select(recipe=name, input="image")
        names = None if probabilities else _decided(table.class_names)
        entry = result_entry(statistics, own, name, protocol, names)
        results.append(entry if split else {**entry, "next_unit": {"reason": _UNKNOWN}})
        tested = [under.select(input=probe) for probe in config.probes]
        probes += [probe_entry(statistics, t, str(t.input[0]), protocol) for t in tested if len(t)]
        model_on += model_on_entries(statistics, under, [name], protocol, evidence)
    metrics: dict[str, object] = {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": config.confidence,
        "results": results,
        "probes": probes,
        "model_on": model_on,
        "comparisons": [],
        "inapplicable": [dict(row) for row in inapplicable],
        "curve": [],
        "split": split,
        "warnings": list(warnings),
    }
    shown = SUBGROUP_METRICS if probabilities else ("accuracy",)
    subgroups = subgroups_entry(statistics, test, name, rows, shown)
    metrics |= {"subgroups": subgroups} if subgroups else {}
    metric = "roc_auc" if probabilities else "balanced_accuracy"
    add_verdict(metrics, statistics, test, name, evidence, metric)
    return metrics


def _decided(class_names: Sequence[str]) -> list[str]:
    """Metrics that need a decision only, no probability."""
    by_class = ("precision", "recall", "specificity", "f1")
    each = [f"{metric}_{c}" for metric in by_class for c in class_names]
    return ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", *each]


def class_order(text: str, class_map: Mapping[str, str]) -> tuple[str, ...]:
    """The classes of ``--classes a,b,c``, by the names that files have.

    >>> class_order("Benign, [Malignant] Pro-B", {}), class_order("AML,Hairy cell", {})
    (('benign', 'pro_b'), ('aml', 'hairy_cell'))

    Raises:
        UsageError: An empty name, or two that mean one class.
    """
    parts = [part.strip() for part in text.split(",")]
    found = resolve_classes(parts, class_map)
    names = [found.get(part, "") for part in parts]
    if "" in names or len(set(names)) != len(names) or len(names) < 2:
        raise UsageError(
            f"--classes: expected two or more different class names in the order of the outputs, "
            f"got {text!r}",
            hint="names of your own are mapped with --class NAME=CLASS",
        )
    return tuple(names)


def audit_foreign(
    source: ForeignModel | Path,
    config: StudyConfig,
    out: Path,
    listener: Listener,
) -> StudyResult:
    """Audit the data, measure the model, fit the probes on the same images, judge, report.

    The first recipe of ``config`` is the probes' classifier.

    Raises:
        UsageError: The folder holds something else.
        DataError: The data, the file or the model do not fit.
    """
    run, progress = RunFolder(out), Progress(listener)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty", hint="name a new folder with --out")
    manifest, table = _read(source, config, listener)
    with progress.step("audit") as tell:
        found = audit(manifest, clusters=config.splits.clusters, progress=tell)
    found.manifest.save(run.manifest)
    write_json(run.passport, found.passport)
    plan = plan_protocols(found.manifest, found, config)
    save_folds(run.splits, plan.folds, found.manifest)
    data = Labelled(found.manifest.usable, found.manifest.class_names, config.data.roles)
    store = InputStore(run, found.manifest, data, progress)
    # The data's own parts say nothing of what this model was trained on; only its makers can.
    split = _split(data.records) if table is not None and table.parts else None
    prepare_study(store, config, models=False)
    left_out = inapplicable_probes(config, found.passport, store)
    rows = _rows_of(source, table, store, split, config, progress)
    probes = _probes(store, rows, plan, config, left_out, progress)
    evidence = gather_evidence(store, plan, config, found.passport, progress)
    with progress.step("statistics"):
        whole = concatenate([*_under_each(rows, plan), *probes])
        whole.save(run.predictions)
        measured = summarise_foreign(
            whole,
            plan.folds,
            config,
            _name(source),
            inapplicable=plan.inapplicable,
            evidence=evidence,
            split=split,
            probabilities=table is None or table.has_probabilities,
            warnings=[
                *(table.notes if table else _notes(source)),
                *(note for note in plan.notes if split and note.startswith("given")),
            ],
            rows=data.records,
        )
        metrics = study_metrics(measured)
        metrics.save(run.metrics)
    with progress.step("report"):
        from leukoscope.reporting.pages.foreign import write_foreign_report

        write_foreign_report(run, config, _name(source))
    return StudyResult(run, metrics, found.manifest.unreadable)


def _read(
    source: ForeignModel | Path, config: StudyConfig, listener: Listener
) -> tuple[Manifest, ForeignTable | None]:
    """The data and, from a file, the predictions; refused before anything is written."""
    manifest = read_data(config, listener)
    names = manifest.class_names
    if len(names) < 2:
        raise DataError(
            f"{manifest.root}: a score needs two classes, found {', '.join(names) or 'none'}",
            hint="see `leukoscope data inspect`",
        )
    check_roles(config.data.roles, names)
    if isinstance(source, Path):
        table = read_foreign_csv(source, manifest, config.data.class_map)
        return _with_parts(manifest, table), table
    if set(names) != set(source.class_names):
        raise DataError(
            f"{source.path}: expected the classes of the data ({', '.join(names)}) as --classes, "
            f"got {', '.join(source.class_names)}",
            hint="a class that only one of them knows cannot be scored; map folders with "
            "--class FOLDER=CLASS",
        )
    source.probabilities(np.full((1, source.size_px, source.size_px, 3), 200, np.uint8))
    return manifest, None


def _probes(
    store: InputStore,
    rows: Sequence[PredictionTable],
    plan: ProtocolPlan,
    config: StudyConfig,
    left_out: Sequence[Mapping[str, str]],
    progress: Progress,
) -> list[PredictionTable]:
    """The probes' predictions of the images that the model is judged on."""
    kept = sorted({name for one in rows for name in one.image_id.tolist()})
    names = [name for name in config.probes if name not in {row["probe"] for row in left_out}]
    return [
        one.take(np.isin(one.image_id, kept))
        for name in names
        for one in run_probe(store, name, plan, config, progress)
    ]


def _name(source: ForeignModel | Path) -> str:
    """The file's name as recipes are written."""
    stem = (source if isinstance(source, Path) else source.path).stem.lower()
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_") or "model"


def _notes(source: ForeignModel | Path) -> list[str]:
    assert isinstance(source, ForeignModel)
    if source.dtype is np.uint8:
        scale = "pixels of 0 to 255"
    else:
        scale = f"pixels of 0 to 1 minus {source.mean}, divided by {source.std}"
    return [
        f"The model was fed RGB images stretched to {source.size_px} × {source.size_px}, {scale}; "
        f"its output {source.output} was read as {', '.join(source.class_names)}. If its makers "
        "prepare images otherwise, its accuracy here is too low."
    ]


def _with_parts(manifest: Manifest, table: ForeignTable) -> Manifest:
    """Their split in place of the data's own, so that the audit looks for leaks in it."""
    if not table.parts:
        return manifest
    return manifest.with_images(
        replace(record, given_part=table.parts.get(record.image_id, ""))
        for record in manifest.images
    )


def _split(records: Sequence[ImageRecord]) -> dict[str, object] | None:
    """Sizes of the model's own parts and what stands on both sides; None where it is unknown."""
    parts = {
        part: [r for r in records if r.given_part == part] for part in ("train", "val", "test")
    }
    if not parts["train"] or not parts["test"]:
        return None
    leaks, copied = [], set[str]()
    fields = {"copies": "sha256", "overlaps": "group_id", "patients": "patient_id"}
    for kind, field in fields.items():
        seen: dict[str, ImageRecord] = {}
        for record in (*parts["train"], *parts["val"]):
            if getattr(record, field):
                seen.setdefault(getattr(record, field), record)
        pairs = [
            (record.path, seen[getattr(record, field)].path)
            for record in parts["test"]
            if getattr(record, field) in seen and not (kind == "overlaps" and record.path in copied)
        ]
        if kind == "copies":  # which would be named as overlaps once more
            copied = {path for path, _ in pairs}
        if pairs:
            examples = [list(pair) for pair in pairs[:EXAMPLES]]
            leaks.append({"kind": kind, "images": len(pairs), "examples": examples})
    return {**{part: len(members) for part, members in parts.items()}, "leaks": leaks}


def _rows_of(
    source: ForeignModel | Path,
    table: ForeignTable | None,
    store: InputStore,
    split: Mapping[str, object] | None,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """The model's predictions of its test images: whole, and perturbed where it can be asked."""
    if table is not None:
        of_image = dict(zip(table.image_id, table.probs, strict=True))
        records = [
            r
            for r in store.data.records
            if r.image_id in of_image and (split is None or r.given_part == "test")
        ]
        if not records:
            raise DataError(f"{source}: none of its test images has a prediction")
        probs = np.stack([of_image[r.image_id] for r in records])
        return [_table(store.data, records, probs, _name(source), "image")]
    assert isinstance(source, ForeignModel)
    found, perturbed = [], perturbed_rows(store.data, config.seed)
    for name in ("image", *perturbed_inputs(config)):
        rows = np.arange(len(store.data.records)) if name == "image" else perturbed
        probs = _predict(source, store, name, rows, config.seed, progress)
        shown = name if name == "image" else MODEL_ON + name
        records = [store.data.records[row] for row in rows]
        found.append(_table(store.data, records, probs, _name(source), shown))
    return found


def _predict(
    model: ForeignModel,
    store: InputStore,
    name: str,
    rows: NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """(m, K) probabilities of some images in the order of the data's classes."""
    parts = []
    with progress.step(f"{model.path.name} on {name}") as tell:
        images = store.stream(PreprocessSpec(size_px=model.size_px), name, rows, seed)
        while chunk := list(islice(images, CHUNK)):
            parts.append(model.probabilities(np.stack(chunk)))
            tell(sum(map(len, parts)), len(rows))
    order = [model.class_names.index(name) for name in store.data.class_names]
    return np.concatenate(parts)[:, order]


def _table(
    data: Labelled,
    records: Sequence[ImageRecord],
    probs: NDArray[np.float64],
    recipe: str,
    shown: str,
) -> PredictionTable:
    return PredictionTable.build(
        data.class_names,
        [record.image_id for record in records],
        probs,
        recipe=recipe,
        protocol="external",
        fold=0,
        part="test",
        input=shown,
        y_true=[data.class_names.index(record.label) for record in records],
    )


def _under_each(rows: Sequence[PredictionTable], plan: ProtocolPlan) -> Iterator[PredictionTable]:
    """The fixed predictions beside the probes of each protocol: the groups differ, they do not."""
    for protocol in plan.names:
        for one in rows:
            yield replace(one, protocol=np.full(len(one), protocol))
