"""The model that a study fitted on all images, and the training cases its bundle carries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord, PatientModel, SimilarCases
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_json, sha256_file
from leukoscope.core.records import Fold, ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.threads import ordered_map
from leukoscope.evaluation.ood import choose_cases, nearest_cases
from leukoscope.evaluation.patient_heads import HEAD, PatientHead, head_from_bytes
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.imaging.stain import nuclear_blue
from leukoscope.phantom.render import TRUTH_FILE, TRUTH_FOLDER
from leukoscope.pipeline.features.inputs import read_unchanged
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.jobs import Labelled
from leukoscope.runtime.bundle import read_bundle, save_bundle
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.similar import CAPTIONS, PICTURES, TENSORS, contact_sheet
from leukoscope.study.engine_variants import run_graph

if TYPE_CHECKING:
    from leukoscope.learning.backbones import Network
    from leukoscope.learning.checkpoint import CheckpointMeta

OOD_IMAGES = 1000  # the mean of 1280 features needs no more, and the graph takes 8 ms an image
PICTURE_PX = 64  # a multiple of 16: a JPEG's blocks of colour then never span two pictures


@dataclass(frozen=True)
class FinalImages:
    """The images that the final model was fitted on.

    Attributes:
        config: Of the study.
        manifest: Of the study.
        data: Every usable image, in the order of ``rows``.
        fold: The division of the final fit.
        rows: Row numbers of each part.
        pixels: (n, S, S, 3) uint8 RGB of each part, preprocessed; of ``train`` those of
            :func:`thinned_rows`.
        quality: Measures of each image.
        blue: Of ``imaging.channel_order``, likewise.
    """

    config: StudyConfig
    manifest: Manifest
    data: Labelled
    fold: Fold
    rows: dict[str, NDArray[np.int64]]
    pixels: dict[str, NDArray[np.uint8]]
    quality: list[dict[str, float]]
    blue: list[float]


@dataclass(frozen=True)
class FinalModel(FinalImages):
    """The model fitted on all images, and those images.

    Attributes:
        networks: Its members; one where it is a single model.
        meta: Of their checkpoints.
        val_logits: (n, K) of the images of ``val`` before any refit that trains on them.
        patient_head: What answers for a patient, where patients are the unit of the study.
    """

    networks: tuple[Network, ...]
    meta: CheckpointMeta
    val_logits: NDArray[np.float64]
    patient_head: PatientHead | None = None


def load_final_model(files: RunFiles, recipe: str) -> FinalModel:
    """The model and its images, read from the study's folder and from the data.

    Raises:
        DataError: The images are gone.
        UnknownNameError: No recipe of that name.
        UsageError: The study made no final fit, or this recipe cannot become a bundle.
    """
    from leukoscope.learning.checkpoint import load_checkpoint

    _check_recipe(files, recipe)
    if files.config.unit == "patient":
        return _load_patient_model(files, recipe)
    networks, metas = zip(*map(load_checkpoint, final_folders(files.run, recipe)), strict=True)
    meta = metas[0]
    images = read_images(files, meta.class_names, meta.recipe.preprocess)
    val = [images.data.records[i].image_id for i in images.rows["val"]]
    table = files.fit_predictions(recipe, FINAL, 0)
    row_of = {image_id: row for row, image_id in enumerate(table.image_id.tolist())}
    return FinalModel(
        **vars(images),
        networks=networks,
        meta=meta,
        val_logits=table.logits[[row_of[image_id] for image_id in val]],
    )


def _load_patient_model(files: RunFiles, recipe: str) -> FinalModel:
    """The head for patients, and a network that answers as if each image were all there is.

    The head may have been fitted once more with the patients of ``val``, so the answers for their
    images, which scale the gate, are not those of an untouched part.
    """
    from leukoscope.learning.backbones import build_network
    from leukoscope.learning.checkpoint import CheckpointMeta
    from leukoscope.learning.features import predict_logits

    config, names = files.config, files.rows.class_names
    own = next(one for one in config.recipes if one.name == recipe)
    path = files.run.model(recipe, FINAL, 0) / HEAD
    if not path.is_file():
        raise DataError(f"{path}: this file is missing", hint="run the study again")
    head = head_from_bytes(own.patient.kind, path.read_bytes(), str(path))
    spec = own.preprocess
    network = build_network(
        own.model, num_classes=len(names), size_px=spec.size_px, seed=config.seed
    )
    network.set_linear_head(*head.of_one_image())
    images = read_images(files, names, spec)
    meta = CheckpointMeta(
        recipe=own, class_names=names, seed=config.seed, frozen_backbone=True,
        weights=network.weights_record, sha256=sha256_file(path), extra={},
    )  # fmt: skip
    answers = predict_logits(network, images.pixels["val"], spec)
    return FinalModel(
        **vars(images), networks=(network,), meta=meta, val_logits=answers, patient_head=head
    )


def patient_model(final: FinalModel) -> PatientModel | None:
    """What a bundle's record says of its head for patients; None where images are the unit."""
    if final.patient_head is None:
        return None
    fold, records = final.fold, [r for r in final.data.records if r.image_id in final.fold.parts]
    sizes = sorted(Counter(fold.groups[record.image_id] for record in records).values())
    return PatientModel(
        pooling=final.meta.recipe.patient.kind,
        n_patients=len(sizes),
        images=(sizes[0], sizes[len(sizes) // 2], sizes[-1]),
    )


def read_images(files: RunFiles, class_names: tuple[str, ...], spec: PreprocessSpec) -> FinalImages:
    """The images of the final fit, as the model sees them.

    Args:
        files: The study's.
        class_names: Order of the logits.
        spec: Of the model.

    Raises:
        DataError: The images are gone, or the study made no final fit.
    """
    manifest = files.manifest
    data = Labelled(manifest.usable, class_names, files.config.data.roles)
    fold = _final_fold(files)
    if files.config.unit == "patient":
        fold = _of_images(fold, data)
    rows = {part: data.rows(fold, part) for part in ("train", "val")}
    return FinalImages(files.config, manifest, data, fold, rows, *_read(manifest, data, rows, spec))


def thinned_rows(train: NDArray[np.int64]) -> NDArray[np.int64]:
    """The training rows whose pixels are read: all of them, or evenly chosen ones."""
    return train[:: max(1, len(train) // OOD_IMAGES)]


def final_folders(run: RunFolder, recipe: str) -> list[Path]:
    """The folder of the model fitted on all images, or of each of its members."""
    folder = run.model(recipe, FINAL, 0)
    return sorted(path for path in folder.glob("inner*") if path.is_dir()) or [folder]


def write_graphs(final: FinalModel, *, int8: bool, compact: bool) -> tuple[bytes, bytes | None]:
    """The ONNX graph, and the quantised one where it is asked for."""
    from leukoscope.learning.graphs.export import onnx_bytes
    from leukoscope.learning.graphs.variants import (
        CALIBRATION_IMAGES,
        compact_weights,
        merge_members,
        quantise,
    )

    meta = final.meta
    members = [onnx_bytes(n, meta.recipe.preprocess, meta.class_names) for n in final.networks]
    graph = merge_members(members)
    graph = compact_weights(graph) if compact else graph
    if not int8:
        return graph, None
    return graph, quantise(graph, _thinned(final.pixels["val"], CALIBRATION_IMAGES))


def _check_recipe(files: RunFiles, recipe: str) -> None:
    """Refuse a recipe of which the study holds no fit on all images."""
    files.check_recipe(recipe)
    path, recipes = files.run.path, files.config.recipes
    own = next(one for one in recipes if one.name == recipe)
    reason = files.config.model_copy(update={"recipes": (own,)}).no_bundle_reason
    if reason:
        raise UsageError(f"{recipe} of {path} cannot become a bundle: {reason}")
    if not files.config.bundle or files.config.no_bundle_reason:
        raise UsageError(
            f"{path} holds no model that was fitted on all images",
            hint="run it again without --no-bundle, with this recipe first, into a new folder",
        )


def _final_fold(files: RunFiles) -> Fold:
    """The parts of the final fit."""
    for fold in files.folds_under(FINAL):
        return fold
    raise DataError(f"{files.run.splits}: no {FINAL!r} fold", hint="run the study again")


def _of_images(fold: Fold, data: Labelled) -> Fold:
    """A fold of patients as one of their images."""
    records = [record for record in data.records if record.patient_id in fold.parts]
    parts = {record.image_id: fold.parts[record.patient_id] for record in records}
    return replace(
        fold, parts=parts, groups={r.image_id: r.patient_id for r in records}, unit="patient"
    )


def _read(
    manifest: Manifest, data: Labelled, rows: dict[str, NDArray[np.int64]], spec: PreprocessSpec
) -> tuple[dict[str, NDArray[np.uint8]], list[dict[str, float]], list[float]]:
    """Model inputs of each part (training images thinned); quality and nuclear blue of them."""

    def read(record: ImageRecord) -> tuple[NDArray[np.uint8], dict[str, float], float]:
        path = manifest.path_of(record)
        image = decode_image(read_unchanged(path, record.sha256), name=str(path)).image
        return apply_preprocess(image, spec), measure_quality(image), nuclear_blue(image)

    pixels: dict[str, NDArray[np.uint8]] = {}
    quality: list[dict[str, float]] = []
    blue: list[float] = []
    for part, numbers in rows.items():
        used = thinned_rows(numbers) if part == "train" else numbers
        pixels[part] = np.empty((len(used), spec.size_px, spec.size_px, 3), np.uint8)
        found = ordered_map(read, [data.records[i] for i in used])
        for row, (image, measured, of_nuclei) in enumerate(found):
            pixels[part][row] = image
            quality.append(measured)
            blue.append(of_nuclei)
    return pixels, quality, blue


def _thinned(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Evenly chosen images, at most so many."""
    return images[:: max(1, -(-len(images) // most))]


def similar_files(
    images: FinalImages, outputs: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> tuple[dict[str, object], dict[str, bytes]]:
    """What a bundle carries of its training cases.

    A caption holds the class, the image id (first digits of the file's SHA-256, which
    ``trained_on.txt`` gives whole) and a number that stands for the acquisition: no file name, no
    patient, no name of a slide. Pictures are packed only where every image was drawn.

    Args:
        images: Of the study.
        outputs: ``features`` (n, D) of ``train`` and ``val`` by the graph that will serve.

    Returns:
        What the bundle's record says of them, and the files.
    """
    from safetensors.numpy import save

    features = {part: outputs[part]["features"] for part in ("train", "val")}
    records = [images.data.records[i] for i in thinned_rows(images.rows["train"])]
    rows, cases, basis = choose_cases(features["train"])
    chosen = [records[row] for row in rows]
    _, distances = nearest_cases(features["val"], cases, basis, 1)
    known = sorted({record.acquisition_id for record in records} - {""})
    number = {name: place for place, name in enumerate(known, start=1)}
    captions = [
        {"label": r.label, "image_id": r.image_id, "acquisition": number.get(r.acquisition_id)}
        for r in chosen
    ]
    files = {
        TENSORS: bytes(save({"cases": cases, "basis": basis})),
        CAPTIONS: json.dumps({"cases": captions}).encode(),
    }
    drawn = all_drawn(images.manifest)
    if drawn:

        def picture(record: ImageRecord) -> NDArray[np.uint8]:
            data = read_unchanged(images.manifest.path_of(record), record.sha256)
            return decode_image(data, name=record.path).image

        pictures = ordered_map(picture, chosen)
        files[PICTURES] = contact_sheet(pictures, PICTURE_PX)
    limit = max(float(np.quantile(distances, 0.95)), 1e-6)
    similar = SimilarCases(n=len(cases), limit=limit, picture_px=PICTURE_PX if drawn else None)
    return {"phantoms": drawn, "similar": similar}, files


def all_drawn(manifest: Manifest) -> bool:
    """Whether the truth file of ``leukoscope phantom`` lists every usable image."""
    path = manifest.root / TRUTH_FOLDER / TRUTH_FILE
    try:
        listed = read_json(path)["images"] if path.is_file() else []
        drawn = {row["path"] for row in listed}
    except (DataError, KeyError, TypeError):  # a file of that name that somebody else wrote
        return False
    return bool(drawn) and {record.path for record in manifest.usable} <= drawn


def add_similar(folder: Path, run: RunFolder) -> BundleRecord:
    """Give a bundle the training cases of its study, without fitting anything again.

    Args:
        folder: The bundle; replaced as a whole.
        run: The study that made it, or one whose final fit had the same training images.

    Raises:
        DataError: The training images are others.
        BundleError: The bundle is damaged.
    """
    bundle = read_bundle(folder)
    record = bundle.record
    found = read_images(RunFiles.open(run.path), record.class_names, record.preprocess)
    train, val = (
        {found.data.records[i].sha256 for i in found.rows[part]} for part in ("train", "val")
    )
    listed = bundle.load_trained_on()  # of train alone in older bundles
    if not train <= listed <= train | val:
        raise DataError(
            f"{folder}: expected the study that it was made by, but the training images of "
            f"{run.path} are others"
        )
    engine = open_engine(bundle.model)
    outputs = {part: run_graph(engine, found.pixels[part]) for part in ("train", "val")}
    update, files = similar_files(found, outputs)
    record = record.model_copy(update=update)
    kept = {name: bundle.folder / name for name in record.files if name != PICTURES}
    return save_bundle(folder, record, {**kept, **files})
