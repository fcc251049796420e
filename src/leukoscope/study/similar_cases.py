"""The training cases that a bundle carries: features, captions, and pictures of drawn ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord, SimilarCases
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.neighbours import choose_cases, nearest_cases
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.writing import TRUTH_FILE, TRUTH_FOLDER
from leukoscope.runtime.bundle import read_bundle, save_bundle
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.similar import CAPTIONS, PICTURES, TENSORS, contact_sheet
from leukoscope.study.final_model import FinalImages, read_images, thinned_rows
from leukoscope.study.inputs import stream
from leukoscope.study.servings import run_graph

PICTURE_PX = 64  # a multiple of 16: a JPEG's blocks of colour then never span two pictures


def similar_files(
    images: FinalImages, outputs: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> tuple[dict[str, Any], dict[str, bytes]]:
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
        paths = [images.manifest.path_of(record) for record in chosen]
        pictures = stream(lambda path: decode_image(path).image, paths)
        files[PICTURES] = contact_sheet(pictures, PICTURE_PX)
    limit = max(float(np.quantile(distances, 0.95)), 1e-6)
    similar = SimilarCases(n=len(cases), limit=limit, picture_px=PICTURE_PX if drawn else None)
    return {"phantoms": drawn, "similar": similar}, files


def all_drawn(manifest: Manifest) -> bool:
    """Whether the truth file of ``leukoscope phantom`` lists every usable image."""
    path = manifest.root / TRUTH_FOLDER / TRUTH_FILE
    try:
        listed: Any = read_json(path)["images"] if path.is_file() else []
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
    found = read_images(run, record.class_names, record.preprocess)
    hashes = {found.data.records[i].sha256 for i in found.rows["train"]}
    if hashes != bundle.load_trained_on():
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
