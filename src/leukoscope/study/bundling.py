"""From the final fit of a study to a bundle: graph, decisions, card, golden outputs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import (
    BundleRecord,
    Calibration,
    ConfusionsFile,
    EngineVariant,
    ModelField,
    OutOfDistribution,
    QualityLimits,
)
from leukoscope.config.guarantees import Promise, Score, Stored, StudyVerdict
from leukoscope.config.metrics.results import measured
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import UsageError
from leukoscope.core.files import read_json, sha256_file, sha256_json, write_json
from leukoscope.core.labels import roles_of
from leukoscope.core.program import __version__
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.confusions import Confusions
from leukoscope.evaluation.gate import Gate
from leukoscope.evaluation.patient_heads import HEAD, head_to_bytes
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import is_cut_out
from leukoscope.imaging.stain import blue_range
from leukoscope.pipeline.features.inputs import check_unchanged
from leukoscope.pipeline.features.store import stored_features
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.measured import stored_envelope
from leukoscope.pipeline.progress import package_versions
from leukoscope.pipeline.rejection import fit_bundle_gate
from leukoscope.pipeline.results.out_of_fold import UnseenImages
from leukoscope.pipeline.results.summary import method_for_bundle
from leukoscope.runtime.bundle import MODEL, MODEL_INT8, read_bundle, save_bundle
from leukoscope.runtime.engines import Engine, open_engine
from leukoscope.runtime.golden import golden_files
from leukoscope.study.engine_variants import Material, measure_variants, run_graph, worst
from leukoscope.study.final_model import (
    FinalModel,
    final_folders,
    load_final_model,
    patient_model,
    similar_files,
    thinned_rows,
    write_graphs,
)
from leukoscope.study.patient_gate import UnseenPatients, unseen_patients

PARITY_IMAGES = 64
PACKED_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc")
MOST_UNITS = 1000  # whose confusions are packed
CARD = "MODEL_CARD.md"
LICENCE = (
    "The weights were fitted to the images of the data set named in the model card and may be used "
    "under the terms of that data set. The authors of Leukoscope claim no rights in them.\n"
    "Research software, not a medical device.\n"
)


def export_bundle(
    run: RunFolder,
    recipe: str,
    out: Path,
    *,
    int8: bool = False,
    um_per_px: float | None = None,
    compact: bool = False,
) -> BundleRecord:
    """Pack the model that was fitted on all images.

    Calibration, prediction sets, operating point and rejection threshold are fitted on the test
    images of all folds of the strictest protocol, as the models answer that held them out
    (:mod:`leukoscope.pipeline.results.out_of_fold`): no patient or cluster behind them was trained
    on by the model that answers. The ``val`` part scales the scores of the gate; on it is measured
    in which engine and precision the graph may serve.

    Args:
        run: The study's folder.
        recipe: One of its recipes.
        out: The bundle's folder; a bundle that lies in it is replaced as a whole.
        int8: Also quantise the graph.
        um_per_px: Pixel scale of the training images in µm, where it is known.
        compact: Store the weights in half the bytes (:mod:`leukoscope.learning.graphs.variants`).

    Raises:
        DataError: The images are gone or changed, or a fold whose test images calibrate is not
            finished.
        UsageError: The study made no final fit, or int8 is asked of a study of patients.
        LeukoscopeError: An engine in fp32 and the torch model disagree.
    """
    files = RunFiles.open(run.path)
    _check_int8(files, int8)
    card = _card(run)  # it reads all predictions: before there are images in memory
    final = load_final_model(files, recipe)
    check_unchanged(final.manifest)  # trained_on.txt is to name the files that it was trained on
    unseen = UnseenImages.of_run(files, recipe)
    graph, quantised = write_graphs(final, int8=int8, compact=compact)
    phantoms, golden = _golden(final)
    engine = open_engine(graph)
    outputs = _outputs(final, run, engine)
    gate, limits, patients = _gate(final, unseen, outputs, engine)
    answered = engine.run(golden)["logits"]
    del engine  # it holds memory, and others follow
    material = _material(final, unseen, gate, limits, golden, "compact" if compact else "fp32")
    variants, answers = measure_variants(graph, quantised, material)
    known, of_cases = similar_files(final, outputs)
    record = _record(files, recipe, final, unseen, limits, variants, known, um_per_px)
    record, by_unit = _with_confusions_or_head(record, final, unseen, patients)
    packed = {
        MODEL: graph,
        **({MODEL_INT8: quantised} if quantised and _serves_int8(variants) else {}),
        "ood.safetensors": gate.to_bytes(),
        **_texts(card, final),
        **by_unit,
        **of_cases,
        **golden_files(phantoms, answered, variants=answers),
    }
    return save_bundle(out, record, packed)


def _card(run: RunFolder) -> str:
    from leukoscope.reporting.study.card import render_model_card

    return render_model_card(run)


def _texts(card: str, final: FinalModel) -> dict[str, bytes]:
    """What is to be read: the licence, the model's card, hashes of what it was trained on."""
    return {
        "LICENSE": LICENCE.encode(),
        CARD: card.encode(),
        "trained_on.txt": _hashes(final.data, final.rows),
    }


def _golden(final: FinalModel) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Drawn images that every engine must answer alike, and what the network sees of them."""
    from leukoscope.phantom.render import golden_phantoms

    phantoms = golden_phantoms()
    steps = final.meta.recipe.preprocess
    return phantoms, np.stack([apply_preprocess(phantom, steps) for phantom in phantoms])


def _check_int8(files: RunFiles, asked: bool) -> None:
    if asked and files.config.unit == "patient":
        raise UsageError(
            f"{files.run.path}: what int8 would change in the answer for a patient is not measured",
            hint="export without --int8",
        )


def _with_confusions_or_head(
    record: BundleRecord,
    final: FinalModel,
    unseen: UnseenImages,
    patients: UnseenPatients | None,
) -> tuple[BundleRecord, dict[str, bytes]]:
    """The confusions of a model of cells, or head and gate of one of patients, as files.

    Whoever counts cells asks what each cell is, not whose: a model of patients has no confusions.
    """
    if final.patient_head is not None:
        files = {HEAD: head_to_bytes(final.meta.recipe.patient.kind, final.patient_head)}
        if patients is None or record.patient is None or record.ood is None:
            return record, files
        limits, gate = patients.limits(record.ood.threshold)
        model = record.patient.model_copy(update={"limits": limits})
        return (
            record.model_copy(update={"patient": model}),
            {**files, limits.tensors: gate.to_bytes()},
        )
    confusions, stored = _confusions(unseen, record.calibration)
    return record.model_copy(update={"confusions": confusions}), {confusions.tensors: stored}


def _record(
    files: RunFiles,
    recipe: str,
    final: FinalModel,
    unseen: UnseenImages,
    limits: OutOfDistribution,
    variants: tuple[EngineVariant, ...],
    known: Mapping[str, Any],
    um_per_px: float | None,
) -> BundleRecord:
    """What ``bundle.json`` says; ``known`` holds the fields about the training cases."""
    calibration, conformal, point = unseen.decide(unseen.logits)
    return BundleRecord(
        name=f"{final.config.data.name}-{recipe}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=recipe,
        trained_on=_trained_on(final.config.data.path, final.rows),
        dataset=final.config.data.name,
        scores=_scores(files, recipe),
        class_names=final.meta.class_names,
        roles=roles_of(final.meta.class_names, final.config.data.roles),
        preprocess=final.meta.recipe.preprocess,
        calibration=calibration,
        conformal=conformal,
        operating_point=point,
        promise=bundle_promise(files, recipe, unseen),
        verdict=_verdict(files, recipe),
        ood=limits,
        quality=_limits(final.quality),
        envelope=stored_envelope(files, recipe),
        subject_method=method_for_bundle(files, recipe),
        patient=patient_model(final),
        nuclear_blue=blue_range(np.array(final.blue)),
        field=_model_field(final.manifest, final.data, final.rows["train"], um_per_px),
        **known,
        parity_max_abs=worst(variants).max_abs,
        servings=variants,
        passport_sha256=files.passport.get("sha256", ""),
        versions=package_versions(),
        licence="as the training data; see LICENSE",
    )


def _material(
    final: FinalModel,
    unseen: UnseenImages,
    gate: Gate,
    limits: OutOfDistribution,
    golden: NDArray[np.uint8],
    stored: Stored,
) -> Material:
    """What the engines and precisions are measured on."""
    from leukoscope.learning.graphs.variants import mean_logits

    val, rows = final.pixels["val"], final.rows["val"]
    return Material(
        val=val,
        val_logits=final.val_logits,
        unseen=unseen.logits,
        y=final.data.y[rows],
        groups=final.fold.units(final.data.records[i].image_id for i in rows),
        reference=mean_logits(final.networks, val[:PARITY_IMAGES], final.meta.recipe.preprocess),
        decide=unseen.decide,
        gate=gate,
        ood=limits,
        golden=golden,
        stored=stored,
        only_fp32=final.patient_head is not None,
    )


def _serves_int8(servings: tuple[EngineVariant, ...]) -> bool:
    return any(s.precision == "int8" and not s.refused for s in servings)


def keep_bundle(run: RunFolder, recipe: str) -> None:
    """Pack the study's own bundle, or leave it where nothing behind it has changed."""
    names = ("checkpoint.safetensors", HEAD)
    weights = [folder / name for folder in final_folders(run, recipe) for name in names]
    weights = [path for path in weights if path.is_file() or path.name != HEAD]
    behind = [run.config, run.manifest, run.metrics, run.robustness, *weights]
    hashes = [sha256_file(path) if path.is_file() else "" for path in behind]
    key = sha256_json([__version__, *hashes])
    record = run.cache / "packed.json"
    packed = (run.bundle / "bundle.json").is_file() and record.is_file()
    if not packed or read_json(record) != {"key": key}:
        export_bundle(run, recipe, run.bundle)
        write_json(record, {"key": key})


def renew_findings(run: RunFolder) -> bool:
    """Give the study's own bundle the verdict and the card that the study has by now.

    The model and all that was fitted stay as they are; a bundle elsewhere is not touched.

    Returns:
        Whether the bundle had another verdict or card.

    Raises:
        BundleError: The bundle is damaged, or cannot be replaced.
    """
    if not (run.bundle / "bundle.json").is_file():
        return False
    bundle, card = read_bundle(run.bundle), _card(run).encode()
    verdict = _verdict(RunFiles.open(run.path), bundle.record.recipe)
    same_card = CARD in bundle.record.files and (bundle.folder / CARD).read_bytes() == card
    if same_card and verdict == bundle.record.verdict:
        return False
    files: dict[str, bytes | Path] = {name: bundle.folder / name for name in bundle.record.files}
    save_bundle(
        run.bundle, bundle.record.model_copy(update={"verdict": verdict}), files | {CARD: card}
    )
    return True


def no_bundle_note(config: StudyConfig) -> list[str]:
    """Why a study that was asked for a bundle has none; empty where it has one."""
    first = config.recipes[0]
    if not (config.bundle and config.no_bundle_reason):
        return []
    return [
        f"No bundle and no heat maps were made: recipe {first.name} comes first, and "
        f"{config.no_bundle_reason}. Name another recipe first to get them."
    ]


def _outputs(
    final: FinalModel, run: RunFolder, engine: Engine
) -> dict[str, Mapping[str, NDArray[np.float32]]]:
    """Logits and features of the final model's images, of each part.

    Where the run still holds the features that the head was fitted on, no image passes through the
    network once more: another engine gives the same but for one part in 100,000.
    """
    network, recipe = final.networks[0], final.meta.recipe
    stored = None
    if len(final.networks) == 1 and final.patient_head is None:
        weights = network.weights_record.sha256
        stored = stored_features(run, recipe, weights, final.data.records)
    if stored is None:
        return {part: run_graph(engine, images) for part, images in final.pixels.items()}
    rows = {**final.rows, "train": thinned_rows(final.rows["train"])}
    return {
        part: {"features": stored[of], "logits": network.head_logits(stored[of])}
        for part, of in rows.items()
    }


def _gate(
    final: FinalModel,
    unseen: UnseenImages,
    outputs: Mapping[str, Mapping[str, NDArray[np.float32]]],
    engine: Engine,
) -> tuple[Gate, OutOfDistribution, UnseenPatients | None]:
    """The rejection of a bundle, on validation logits that no refit has touched.

    Where patients are the unit of the study, also what they are like to gates that had not seen
    them.
    """
    val = {**outputs["val"], "logits": final.val_logits.astype(np.float32)}
    answered = partial(run_graph, engine)
    scores = unseen.ood_scores
    known = None if scores is None else (scores, unseen.weights)
    patients = None
    if final.patient_head is not None:
        patients = unseen_patients(final, outputs, answered)
        known = None if patients is None else (patients.scores, patients.weights)
    gate, limits = fit_bundle_gate(
        final.pixels, {**outputs, "val": val}, answered, final.config.seed, known
    )
    return gate, limits, patients


def bundle_promise(files: RunFiles, recipe: str, unseen: UnseenImages) -> Promise:
    """For which new images the bundle is calibrated, and what was measured of that."""
    whole = unseen.unit != "image"
    found = files.metrics.promise if files.run.metrics.is_file() else None
    coverage = found.coverage if found and found.recipe == recipe else None
    return Promise(
        unit=unseen.unit,
        protocol=unseen.protocol,
        n_groups=len(np.unique(unseen.units)) if whole else len(unseen.units),
        n=len(unseen.units),
        coverage=unseen.config.coverage,
        measured=measured(coverage),
    )


def _confusions(unseen: UnseenImages, calibration: Calibration) -> tuple[ConfusionsFile, bytes]:
    """How the models confuse the classes of images of units that they had held out."""
    table = unseen.table
    found = Confusions.of(
        table.y_true,
        apply_calibration(unseen.logits, calibration),
        unseen.units.tolist() if unseen.unit != "image" else range(len(table)),
    ).thinned(MOST_UNITS)
    record = ConfusionsFile(
        protocol=unseen.protocol,
        unit=unseen.unit,
        n_units=len(set(found.unit.tolist())),
        n=len(found.y_true),
    )
    return record, found.to_bytes()


def _limits(quality: list[dict[str, float]]) -> QualityLimits:
    """First to 99th percentile, widened by half their distance on a log scale on each side.

    The measures are positive and skewed: on a linear scale the lower limit of sharpness would be
    negative, and no image could be too blurred.
    """
    low, high = {}, {}
    for name in quality[0]:
        values = [max(row[name], 1e-6) for row in quality]
        first, last = np.quantile(values, (0.01, 0.99))
        ratio = float(np.sqrt(last / first))
        low[name], high[name] = float(first) / ratio, float(last) * ratio
    return QualityLimits(low=low, high=high)


def _model_field(
    manifest: Manifest, data: Labelled, train: NDArray[np.int64], um_per_px: float | None
) -> ModelField:
    """Size of the training images, and whether they are cells cut out on black."""
    records = [data.records[i] for i in train]
    sizes = np.array([(record.width, record.height) for record in records])
    looked_at = records[:: max(1, len(records) // 16)][:16]
    on_black = [is_cut_out(decode_image(manifest.path_of(r)).image) for r in looked_at]
    width, height = (int(size) for size in np.median(sizes, axis=0))
    return ModelField(
        width_px=width,
        height_px=height,
        largest_px=int(sizes.max()),
        shows="cell" if np.mean(on_black) > 0.5 else "field",
        um_per_px=um_per_px,
    )


def _verdict(files: RunFiles, recipe: str) -> StudyVerdict | None:
    """That of the study, where it is about this recipe."""
    metrics = files.metrics
    verdict = metrics.verdict
    if metrics.shortcuts is None or metrics.shortcuts.recipe != recipe:
        return None
    sources: dict[str, str] = {row.source: row.status for row in verdict.sources}
    return StudyVerdict(level=verdict.level, headline=verdict.headline, sources=sources)


def _scores(files: RunFiles, recipe: str) -> tuple[Score, ...]:
    """The test scores that a reader of the bundle asks for first."""
    if not files.run.metrics.is_file():
        return ()
    return tuple(
        Score(
            metric=metric,
            protocol=row.protocol,
            n=row.n,
            n_groups=row.n_groups,
            group_unit=row.group_unit,
            confidence=files.metrics.confidence,
            **dict(found),
        )
        for row in files.metrics.results
        if row.recipe == recipe
        for metric in PACKED_SCORES
        if (found := measured(row.metrics.get(metric))) is not None
    )


def _trained_on(data_path: str, rows: dict[str, NDArray[np.int64]]) -> str:
    counts = ", ".join(f"{len(rows[part])} {part}" for part in ("train", "val"))
    return f"all usable images of {Path(data_path).name} ({counts}; no test part)"


def _hashes(data: Labelled, rows: dict[str, NDArray[np.int64]]) -> bytes:
    """SHA-256 of each image of train and val, so that `evaluate` can tell when it shall cheat.

    ``val`` selects the penalty or the epoch, and linear heads are fitted on it in the end.
    """
    used = [i for part in ("train", "val") for i in rows[part]]
    return "".join(f"{data.records[i].sha256}\n" for i in used).encode()
