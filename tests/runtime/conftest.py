"""A tiny bundle: an ONNX graph made by hand, so that no test needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from leukoscope.config.bundle import (
    BundleRecord,
    Calibration,
    Conformal,
    OutOfDistribution,
    QualityLimits,
    SimilarCases,
)
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.evaluation.ood import OodModel
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.golden import golden_files
from leukoscope.runtime.similar import CAPTIONS, PICTURES, TENSORS, contact_sheet

SIZE = 32
CLASSES = ("benign", "pre_b", "pro_b")
# Logit k is large where channel k (red, green, blue) is bright: a colour says the class.
WEIGHTS = np.eye(3, dtype=np.float32) * 20


def build_graph(
    *,
    size: int = SIZE,
    classes: int = 3,
    maps: bool = True,
    features: bool = True,
    dynamic: bool = False,
) -> bytes:
    """image → 0–1 → mean over 8×8 tiles → maps = tiles · W; logits = mean over tiles · W."""
    weights = WEIGHTS[:, :classes] if classes <= 3 else np.ones((3, classes), np.float32)
    kernel = np.ascontiguousarray(weights.T)[:, :, None, None]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["tiles"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["tiles", "kernel"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["tiles"], ["features"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
    ]
    k = "K" if dynamic else classes

    def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    outputs = [tensor("logits", ["N", k])]
    outputs += [tensor("features", ["N", "D" if dynamic else 3])] if features else []
    outputs += [tensor("maps", ["N", k, size // 8, size // 8])] if maps else []
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
        outputs,
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def build_record(**changes: Any) -> BundleRecord:
    """A record that fits :func:`build_graph`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "created": "2026-01-01T00:00:00+00:00",
        "recipe": "quick",
        "trained_on": "nothing",
        "class_names": CLASSES,
        "preprocess": PreprocessSpec(size_px=SIZE),
        "calibration": Calibration(temperature=2.0, n_cal=50),
        "conformal": Conformal(coverage=0.9, threshold=0.8, n_cal=50),
        "ood": OutOfDistribution(accept=0.95, threshold=4.0, n_fit=100, n_val=50),
        "quality": QualityLimits(low={"brightness": 20.0}, high={"brightness": 160.0}),
        "parity_max_abs": 1e-6,
        "passport_sha256": "0" * 64,
        "versions": {"leukoscope": "0.1.0"},
        "licence": "none",
    }
    return BundleRecord(**(values | changes))


def ood_bytes(dims: int = 3) -> bytes:
    """Distance 1 per 0.3 of mean colour from (0.4, 0.2, 0.2)."""
    mean = np.array([0.4, 0.2, 0.2, *[0.0] * 8], np.float32)[:dims]
    components = np.eye(dims, dtype=np.float32)[:, : dims - 1] / np.float32(0.3)
    return save(OodModel(mean, np.ascontiguousarray(components), 0.09).tensors())


def colour(red: int, green: int, blue: int, size: int = 40, noise: int = 6) -> NDArray[np.uint8]:
    """A noisy picture of one colour."""
    rng = np.random.default_rng(red + 256 * green + 65536 * blue)
    base = np.array([red, green, blue], np.int64) + rng.integers(-noise, noise + 1, (size, size, 3))
    return np.clip(base, 0, 255).astype(np.uint8)


def bundle_files(
    graph: bytes | None = None, record: BundleRecord | None = None
) -> dict[str, bytes]:
    """All files of a tiny bundle."""
    graph, record = graph or build_graph(), record or build_record()
    images = [colour(150, 40, 40), colour(40, 150, 40, size=64)]
    engine = open_engine(graph, engine="onnxruntime", threads=1)
    batch = np.stack([apply_preprocess(image, record.preprocess) for image in images])
    return {
        "model.onnx": graph,
        "ood.safetensors": ood_bytes(),
        "MODEL_CARD.md": b"# tiny\n",
        "LICENSE": b"none\n",
        "trained_on.txt": b"aa\nbb\n",
        **golden_files(images, engine.run(batch)["logits"]),
    }


CASES = ((102, 51, 51), (51, 102, 51), (30, 51, 102))


def with_cases(**changes: Any) -> tuple[BundleRecord, dict[str, bytes]]:
    """Record and files of a tiny bundle with three drawn training cases: red, green, blue."""
    similar = SimilarCases(n=3, limit=0.5, picture_px=16)
    record = build_record(phantoms=True, similar=similar, **changes)
    basis = np.eye(3, dtype=np.float32)
    values = np.array(CASES, np.float32) / np.linalg.norm(CASES, axis=1, keepdims=True)
    captions = [
        {"label": label, "image_id": f"{k}" * 12, "acquisition": None if k == 2 else k + 1}
        for k, label in enumerate(CLASSES)
    ]
    return record, {
        **bundle_files(record=record),
        TENSORS: save({"cases": values.astype(np.float32), "basis": basis}),
        CAPTIONS: json.dumps({"cases": captions}).encode(),
        PICTURES: contact_sheet([colour(*case, size=40, noise=0) for case in CASES], 16),
    }


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The helpers of this file, which test modules cannot import."""
    return SimpleNamespace(
        size=SIZE,
        classes=CLASSES,
        weights=WEIGHTS,
        graph=build_graph,
        record=build_record,
        ood=ood_bytes,
        colour=colour,
        files=bundle_files,
        with_cases=with_cases,
    )


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A bundle in a folder of its own."""
    folder = tmp_path / "bundle"
    save_bundle(folder, build_record(), bundle_files())
    return folder
