"""Whether a bundle still computes the same: golden images with the logits that were exported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import BundleError, DataError, UnknownNameError, UsageError
from leukoscope.core.files import read_json
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.runtime.bundle import Bundle, read_bundle
from leukoscope.runtime.engine_choice import offered_variants, open_for
from leukoscope.runtime.engines import Engine
from leukoscope.runtime.heatmap import encode_png

GOLDEN: Final = "golden/expected.json"
GOLDEN_ATOL: Final = 1e-3  # float32 graphs differ by about 1e-5 between engines


@dataclass(frozen=True)
class BundleCheck:
    """One check of :func:`verify_bundle`.

    Attributes:
        name: What was checked.
        ok: Whether it passed.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class GoldenLogits:
    """Logits of the golden images from one engine in one precision.

    Attributes:
        logits: (n, K).
        atol: Largest difference that :func:`verify_bundle` accepts; for a lower precision the
            difference from fp32 on the validation images.
    """

    logits: NDArray[Any]
    atol: float = GOLDEN_ATOL

    def as_json(self, names: Sequence[str]) -> dict[str, object]:
        """The entry in ``golden/expected.json``."""
        rows = np.asarray(self.logits, np.float64).tolist()
        return {"atol": self.atol, "logits": dict(zip(names, rows, strict=True))}


def golden_files(
    images: Sequence[NDArray[np.uint8]],
    logits: NDArray[np.generic],
    *,
    variants: Mapping[str, GoldenLogits] | None = None,
) -> dict[str, bytes]:
    """The files by which a bundle shows on any machine that it still computes the same.

    Args:
        images: (H, W, 3) uint8 RGB each, before preprocessing.
        logits: (n, K) of the bundle's own graph and preprocessing in fp32.
        variants: Engine and precision (``openvino bf16``) → logits of other engine variants.

    Returns:
        PNG images and ``golden/expected.json``, for :func:`leukoscope.runtime.bundle.save_bundle`.
    """
    names = [f"{index:02d}.png" for index in range(len(images))]
    expected = GoldenLogits(logits).as_json(names)
    if variants:
        expected["servings"] = {key: found.as_json(names) for key, found in variants.items()}
    files = {f"golden/{name}": encode_png(image) for name, image in zip(names, images, strict=True)}
    return files | {GOLDEN: json.dumps(expected, indent=1).encode()}


def verify_bundle(folder: Path, engine: str = "auto", precision: str = "auto") -> list[BundleCheck]:
    """Check files, graph and golden outputs; a bad bundle is a failed check, not an error.

    Checks that an earlier failure makes impossible are left out.

    Args:
        folder: The bundle's folder.
        engine: As in :func:`leukoscope.runtime.engine_choice.open_for`; ``auto`` checks every
            installed engine.
        precision: Likewise; ``auto`` checks every precision that the engine offers here.

    Raises:
        UnknownNameError: No engine or precision of that name.
        UsageError: They are not offered.
    """
    checks: list[BundleCheck] = []
    try:
        bundle = read_bundle(folder)
        checks.append(BundleCheck("files", True, f"{len(bundle.record.files)} files, hashes fit"))
    except (BundleError, DataError) as error:
        return [BundleCheck("files", False, error.message)]
    chosen = [
        pair
        for pair in offered_variants(bundle.record)
        if engine in ("auto", pair[0]) and precision in ("auto", pair[1])
    ]
    # An unknown name, or one that is not offered, is told by opening it.
    for pair in chosen or [(engine, precision)]:
        checks += _verify_variant(bundle, *pair)
    return checks


def _verify_variant(bundle: Bundle, engine: str, precision: str) -> Iterator[BundleCheck]:
    step = f"graph ({engine} {precision})"
    try:
        opened = open_for(bundle, engine, precision)
        yield BundleCheck(step, True, "fits the record")
        step = f"golden outputs ({engine} {precision})"
        yield from _compare_golden(bundle, opened)
    except (UnknownNameError, UsageError):
        raise
    except (BundleError, DataError) as error:
        yield BundleCheck(step, False, error.message)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        detail = f"{bundle.folder / GOLDEN}: not what a bundle writes ({error!r})"
        yield BundleCheck(step, False, detail)


def _compare_golden(bundle: Bundle, engine: Engine) -> Iterator[BundleCheck]:
    of = f"({engine.name} {engine.precision})"
    expected = read_json(bundle.folder / GOLDEN) if GOLDEN in bundle.record.files else {}
    if engine.precision != "fp32":
        expected = expected.get("servings", {}).get(f"{engine.name} {engine.precision}", {})
    if not expected:
        yield BundleCheck(f"golden outputs {of}", False, "the bundle has none, nothing to compare")
        return
    for name, logits in expected["logits"].items():
        image = decode_image(bundle.folder / "golden" / name).image
        pixels = apply_preprocess(image, bundle.record.preprocess)
        found = engine.run(pixels[None])["logits"][0]
        if len(logits) != len(found):
            detail = f"expected {len(logits)} logits, found {len(found)}"
            yield BundleCheck(f"golden/{name} {of}", False, detail)
            continue
        difference = float(np.abs(found - logits).max())
        detail = f"largest difference of a logit {difference:.1e}, allowed {expected['atol']:.0e}"
        same = difference <= expected["atol"]  # written so that NaN fails
        if not same:
            detail += f": {_what_differs(bundle, engine, image, logits, expected['atol'])}"
        yield BundleCheck(f"golden/{name} {of}", same, detail)


def _what_differs(
    bundle: Bundle,
    engine: Engine,
    image: NDArray[np.uint8],
    logits: Sequence[float],
    atol: float,
) -> str:
    """Say whether exchanged colour channels, the most frequent fault, explain a difference."""
    swapped = apply_preprocess(np.ascontiguousarray(image[..., ::-1]), bundle.record.preprocess)
    found = engine.run(swapped[None])["logits"][0]
    if np.abs(found - logits).max() <= atol:
        return "red and blue are exchanged between training and prediction (BGR against RGB)"
    return "weights or preprocessing are not those that were exported"
