"""Which engines and precisions a bundle offers: measured on validation images, then fitted.

What calibrates a bundle are answers of other models, which exist in fp32 alone. What a lower
precision would have answered in their place is taken from the validation images: the difference
that it makes there is added to the answer that lies nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import (
    Calibration,
    Conformal,
    EngineVariant,
    OperatingPoint,
    OutOfDistribution,
)
from leukoscope.config.guarantees import Parity, Precision, Stored
from leukoscope.core.errors import BundleError
from leukoscope.evaluation.gate import Gate, GateInputs, rescale
from leukoscope.evaluation.statistics.comparison import measure_parity
from leukoscope.imaging.background import describe_appearance
from leukoscope.runtime.engines import ENGINES, Engine, open_engine, unsupported_reason
from leukoscope.runtime.golden import GOLDEN_ATOL, GoldenLogits

_BATCH = 4  # an engine keeps the memory of its largest batch
Outputs = dict[str, NDArray[np.float32]]
Decide = Callable[[NDArray[np.floating]], tuple[Calibration, Conformal, OperatingPoint | None]]


@dataclass(frozen=True)
class Material:
    """What precisions are measured and fitted on.

    Attributes:
        val: (n, S, S, 3) uint8 RGB, preprocessed validation images.
        val_logits: (n, K) of the validation images by the model before any refit on them.
        unseen: (m, K) logits that calibrate the bundle, of models that held the images out.
        y: (n,) classes of the validation images.
        groups: (n,) by which intervals resample.
        reference: (r, K) logits of the torch network for the first r validation images.
        decide: Calibration, prediction sets and operating point from ``unseen``, or from what
            another precision would have made of them.
        gate: Fitted in fp32.
        ood: Its record.
        golden: (g, S, S, 3) preprocessed golden images.
        stored: How the graph holds its weights.
        only_fp32: Offer no lower precision: what it would change in the answer for a patient is
            not measured.
    """

    val: NDArray[np.uint8]
    val_logits: NDArray[np.floating]
    unseen: NDArray[np.floating]
    y: NDArray[np.int64]
    groups: list[str]
    reference: NDArray[np.float32]
    decide: Decide
    gate: Gate
    ood: OutOfDistribution
    golden: NDArray[np.uint8]
    stored: Stored = "fp32"
    only_fp32: bool = False


def measure_variants(
    graph: bytes, int8: bytes | None, material: Material
) -> tuple[tuple[EngineVariant, ...], dict[str, GoldenLogits]]:
    """Measure every installed engine in every precision that it can compute in here.

    Args:
        graph: The ONNX graph.
        int8: The quantised one, where it was asked for.
        material: Images and what is fitted on them.

    Returns:
        The records, refused ones among them, and the golden answers of those that are offered in
        a lower precision than fp32.

    Raises:
        BundleError: An engine's fp32 is not within its bounds; names engine, figure and bound.
    """
    servings: list[EngineVariant] = []
    golden: dict[str, GoldenLogits] = {}
    for name in ENGINES:
        if find_spec(name) is None:
            continue
        lower = [] if material.only_fp32 else list(_lower(name, int8))
        compared = len(material.reference)
        images = material.val if lower else material.val[:compared]
        before = run_graph(open_engine(graph, engine=name), images)["logits"]
        parity = measure_parity(material.reference, before[:compared])
        if refused := parity.refusal(material.stored):
            raise BundleError(
                f"{name} fp32 does not compute what the trained network does: {refused}",
                hint="report this with the recipe; the bundle was not written",
            )
        servings.append(EngineVariant(engine=name, precision="fp32", parity=parity))
        for precision in lower:
            engine = open_engine(int8 if precision == "int8" and int8 else graph,
                                 engine=name, precision=precision)  # fmt: skip
            found = _measured(engine, precision, before, material)
            servings.append(found)
            if not found.refused:
                logits = engine.run(material.golden)["logits"]
                # Two machines may round as differently as this one's two precisions do.
                atol = max(GOLDEN_ATOL, found.parity.max_abs)
                golden[f"{name} {precision}"] = GoldenLogits(logits, atol)
    return tuple(servings), golden


def carried_over(
    before: NDArray[np.floating],
    change: NDArray[np.floating],
    logits: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Logits as a lower precision would give them, from what it changes on other images.

    Args:
        before: (n, K) of the other images in fp32.
        change: (n, K) what the lower precision adds to them.
        logits: (m, K) in fp32.

    Returns:
        (m, K): each row with the change of the nearest row of ``before``.

    >>> carried_over(np.array([[0.0, 0], [9, 0]]), np.array([[0.0, 0], [1, 0]]), np.array([[8, 0]]))
    array([[9., 0.]])
    """
    from scipy.spatial import KDTree

    nearest = KDTree(before).query(logits)[1]
    return np.asarray(logits + change[nearest], dtype=np.float64)


def run_graph(engine: Engine, images: NDArray[np.uint8]) -> Outputs:
    """Logits (n, K) and features (n, D) of preprocessed images (n, S, S, 3)."""
    batches = [engine.run(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    return {
        name: np.concatenate([batch[name] for batch in batches]) for name in ("logits", "features")
    }


def worst(servings: tuple[EngineVariant, ...]) -> Parity:
    """The fp32 parity with the largest difference of a logit."""
    found = [s.parity for s in servings if s.precision == "fp32"]
    return max(found, key=lambda parity: parity.max_abs)


def _lower(engine: str, int8: bytes | None) -> Iterator[Precision]:
    if not unsupported_reason(engine, "bf16"):
        yield "bf16"
    if int8 is not None:
        yield "int8"


def _measured(
    engine: Engine, precision: Precision, before: NDArray[np.float32], material: Material
) -> EngineVariant:
    val = run_graph(engine, material.val)
    parity = measure_parity(before, val["logits"], material.y, material.groups)
    variant = EngineVariant(
        engine=engine.name,
        precision=precision,
        parity=parity,
        refused=parity.refusal(precision),
    )
    if variant.refused:
        return variant
    change = val["logits"] - before
    calibration, conformal, point = material.decide(carried_over(before, change, material.unseen))
    described = np.stack([describe_appearance(image) for image in material.val])
    seen = GateInputs(described, val["features"], material.val_logits + change)
    return variant.model_copy(
        update={
            "calibration": calibration,
            "conformal": conformal,
            "operating_point": point,
            "ood": rescale(material.gate, material.ood, seen),
        }
    )
