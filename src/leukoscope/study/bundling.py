"""From the final fit of a study to a bundle: graph, decisions, card, golden outputs."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import leukoscope
from leukoscope.config.bundle import (
    BundleRecord,
    Calibration,
    Conformal,
    ModelField,
    OperatingPoint,
    QualityLimits,
    Serving,
)
from leukoscope.config.loading import load_study_config
from leukoscope.config.operating import parse_operating_point
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UnknownNameError, UsageError
from leukoscope.core.files import read_json, sha256_file, sha256_json, write_json
from leukoscope.core.records import Fold, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration import apply_calibration, fit_calibration
from leukoscope.evaluation.conformal import fit_sets
from leukoscope.evaluation.metrics import malignant_classes
from leukoscope.imaging.channel_order import blue_range, nuclear_blue
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.imaging.segment import is_cut_out
from leukoscope.runtime.bundle import MODEL, MODEL_INT8, save_bundle
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.golden import golden_files
from leukoscope.study.environment import package_versions
from leukoscope.study.inputs import stream
from leukoscope.study.jobs import Labelled
from leukoscope.study.operating import fit_point
from leukoscope.study.patient_level import method_for_bundle
from leukoscope.study.protocols import FINAL
from leukoscope.study.rejection import fit_bundle_gate
from leukoscope.study.robustness_files import stored_envelope
from leukoscope.study.servings import Material, measure_servings, run_graph, worst

PARITY_IMAGES = 64
OOD_IMAGES = 1000  # the mean of 1280 features needs no more, and the graph takes 8 ms an image
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

    Calibration, prediction sets and operating point are fitted on the ``cal`` part, the rejection
    threshold on the ``val`` part, with the outputs of the very graph, engine and precision that
    will serve; what each may serve in is measured on the ``val`` part.

    A bundle that lies in ``out`` is replaced as a whole.

    Args:
        run: The study's folder.
        recipe: One of its recipes.
        out: The bundle's folder.
        int8: Also quantise the graph.
        um_per_px: Pixel scale of the training images in µm, where it is known.
        compact: Store the weights in half the bytes (:mod:`leukoscope.learning.compact`).

    Raises:
        DataError: The images are gone.
        UsageError: The study made no final fit.
        LeukoscopeError: An engine in fp32 and the torch model disagree.
    """
    from leukoscope.learning.checkpoint import load_checkpoint
    from leukoscope.learning.compact import compact_weights
    from leukoscope.learning.export import onnx_bytes
    from leukoscope.learning.merging import mean_logits, merge_members
    from leukoscope.learning.quantise import CALIBRATION_IMAGES, quantise
    from leukoscope.phantom.render import golden_phantoms
    from leukoscope.reporting.card import render_model_card

    config = _checked_config(run, recipe)
    networks, metas = zip(*map(load_checkpoint, _final_models(run, recipe)), strict=True)
    meta = metas[0]
    spec = meta.recipe.preprocess
    manifest = Manifest.load(run.manifest, config.data.root)
    data = Labelled(manifest.usable, meta.class_names)
    fold = _final_fold(run)
    rows = {part: data.rows(fold, part) for part in ("train", "val", "cal")}
    pixels, quality, blue = _read(manifest, data, rows, spec)
    graph = merge_members([onnx_bytes(network, spec, meta.class_names) for network in networks])
    graph = compact_weights(graph) if compact else graph
    engine = open_engine(graph)
    outputs = {part: run_graph(engine, images) for part, images in pixels.items()}
    decide = partial(_decisions, data=data, rows=rows["cal"], fold=fold, config=config)
    calibration, conformal, point = decide(outputs["cal"]["logits"])
    gate, limits = fit_bundle_gate(
        pixels, outputs, lambda images: run_graph(engine, images), config.seed
    )
    phantoms = golden_phantoms()
    golden = np.stack([apply_preprocess(image, spec) for image in phantoms])
    quantised = quantise(graph, _thinned(pixels["val"], CALIBRATION_IMAGES)) if int8 else None
    servings, answers = measure_servings(
        graph,
        quantised,
        Material(
            val=pixels["val"],
            cal=pixels["cal"],
            y=data.y[rows["val"]],
            groups=fold.units(data.records[i].image_id for i in rows["val"]),
            reference=mean_logits(networks, pixels["val"][:PARITY_IMAGES], spec),
            decide=decide,
            gate=gate,
            ood=limits,
            golden=golden,
            stored="compact" if compact else "fp32",
        ),
    )
    record = BundleRecord(
        name=f"{Path(config.data.path).stem}-{recipe}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=recipe,
        trained_on=_trained_on(config.data.path, rows),
        class_names=meta.class_names,
        preprocess=spec,
        calibration=calibration,
        conformal=conformal,
        operating_point=point,
        ood=limits,
        quality=_limits(quality),
        envelope=stored_envelope(run, recipe),
        subject_method=method_for_bundle(run, recipe),
        nuclear_blue=blue_range(np.array(blue)),
        field=_model_field(manifest, data, rows["train"], um_per_px),
        parity_max_abs=worst(servings).max_abs,
        servings=servings,
        passport_sha256=read_json(run.passport)["sha256"],
        versions=package_versions(),
        licence="as the training data; see LICENSE",
    )
    files = {
        MODEL: graph,
        **({MODEL_INT8: quantised} if quantised and _serves_int8(servings) else {}),
        "ood.safetensors": gate.to_bytes(),
        "LICENSE": LICENCE.encode(),
        "MODEL_CARD.md": render_model_card(run).encode(),
        "trained_on.txt": _hashes(data, rows["train"]),
        **golden_files(phantoms, engine.run(golden)["logits"], servings=answers),
    }
    return save_bundle(out, record, files)


def _checked_config(run: RunFolder, recipe: str) -> StudyConfig:
    config = load_study_config(run.config)
    if recipe not in {r.name for r in config.recipes}:
        raise UnknownNameError(f"recipe of {run.path}", recipe, {r.name for r in config.recipes})
    reason = next(r.no_bundle_reason for r in config.recipes if r.name == recipe)
    if reason:
        raise UsageError(f"{recipe} of {run.path} cannot become a bundle: {reason}")
    if not config.bundle or config.recipes[0].no_bundle_reason:
        raise UsageError(
            f"{run.path} holds no model that was fitted on all images",
            hint="run it again without --no-bundle, with this recipe first, into a new folder",
        )
    return config


def _final_models(run: RunFolder, recipe: str) -> list[Path]:
    """The folder of the model fitted on all images, or of each of its members."""
    folder = run.model(recipe, FINAL, 0)
    return sorted(path for path in folder.glob("inner*") if path.is_dir()) or [folder]


def _serves_int8(servings: tuple[Serving, ...]) -> bool:
    return any(s.precision == "int8" and not s.refused for s in servings)


def _thinned(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Evenly chosen images, at most so many."""
    return images[:: max(1, -(-len(images) // most))]


def keep_bundle(run: RunFolder, recipe: str) -> None:
    """Pack the study's own bundle, or leave it where nothing behind it has changed."""
    weights = [folder / "checkpoint.safetensors" for folder in _final_models(run, recipe)]
    behind = [run.config, run.manifest, run.metrics, run.robustness, *weights]
    hashes = [sha256_file(path) if path.is_file() else "" for path in behind]
    key = sha256_json([leukoscope.__version__, *hashes])
    record = run.cache / "bundle.json"
    packed = (run.bundle / "bundle.json").is_file() and record.is_file()
    if not packed or read_json(record) != {"key": key}:
        export_bundle(run, recipe, run.bundle)
        write_json(record, {"key": key})


def no_bundle_note(config: StudyConfig) -> list[str]:
    """Why a study that was asked for a bundle has none; empty where it has one."""
    first = config.recipes[0]
    if not (config.bundle and first.no_bundle_reason):
        return []
    return [
        f"No bundle and no heat maps were made: recipe {first.name} comes first, and "
        f"{first.no_bundle_reason}. Name another recipe first to get them."
    ]


def _final_fold(run: RunFolder) -> Fold:
    """The parts of the final fit."""
    fold = next((f for f in load_folds(run.splits) if f.protocol == FINAL), None)
    if fold is None:
        raise DataError(f"{run.splits}: no {FINAL!r} fold", hint="run the study again")
    return fold


def _decisions(
    logits: NDArray[np.float32],
    data: Labelled,
    rows: NDArray[np.int64],
    fold: Fold,
    config: StudyConfig,
) -> tuple[Calibration, Conformal, OperatingPoint | None]:
    """Calibration, prediction sets and operating point from the ``cal`` part.

    Groups are patients where every image has one, else components of overlapping images.
    """
    records, y = [data.records[i] for i in rows], data.y[rows]
    components = fold.units(r.image_id for r in records)
    patients = [r.patient_id for r in records]
    groups = patients if all(patients) else components
    calibration = fit_calibration(logits, y, components)
    probs = apply_calibration(logits, calibration)
    conformal = fit_sets(
        probs, y, config.coverage, score=config.set_score, guarantee=config.set_guarantee,
        groups=groups if config.set_guarantee == "group" else None,
    )  # fmt: skip
    mask, point = malignant_classes(data.class_names), None
    if config.operating_point and mask is not None:
        target = parse_operating_point(config.operating_point)
        if target.unit == "image" or all(patients):
            chosen = fit_point(probs, y, mask, target, patients)
            point = OperatingPoint(
                words=target.words, threshold=chosen.threshold, n_cal=chosen.n, needed=chosen.needed
            )
    return calibration, conformal, point


def _read(
    manifest: Manifest, data: Labelled, rows: dict[str, NDArray[np.int64]], spec: PreprocessSpec
) -> tuple[dict[str, NDArray[np.uint8]], list[dict[str, float]], list[float]]:
    """Model inputs of each part (training images thinned); quality and nuclear blue of them."""

    def read(path: Path) -> tuple[NDArray[np.uint8], dict[str, float], float]:
        image = decode_image(path).image
        return apply_preprocess(image, spec), measure_quality(image), nuclear_blue(image)

    pixels: dict[str, NDArray[np.uint8]] = {}
    quality: list[dict[str, float]] = []
    blue: list[float] = []
    for part, numbers in rows.items():
        step = max(1, len(numbers) // OOD_IMAGES) if part == "train" else 1
        paths = [manifest.path_of(data.records[i]) for i in numbers[::step]]
        found = list(stream(read, paths))
        pixels[part] = np.stack([image for image, _, _ in found])
        quality += [values for _, values, _ in found]
        blue += [value for _, _, value in found]
    return pixels, quality, blue


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


def _trained_on(data_path: str, rows: dict[str, NDArray[np.int64]]) -> str:
    counts = ", ".join(f"{len(rows[part])} {part}" for part in ("train", "val", "cal"))
    return f"all usable images of {Path(data_path).name} ({counts}; no test part)"


def _hashes(data: Labelled, train: NDArray[np.int64]) -> bytes:
    """SHA-256 of each training image, so that `evaluate` can tell when it is asked to cheat."""
    return "".join(f"{data.records[i].sha256}\n" for i in train).encode()
