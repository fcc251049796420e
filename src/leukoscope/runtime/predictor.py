"""Prediction with a bundle: images in, answers out, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import BundleError, UsageError, refuse_single
from leukoscope.core.files import write_bytes
from leukoscope.core.threads import ordered_map
from leukoscope.evaluation.calibration.conformal import prediction_sets
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.gate import GateInputs
from leukoscope.imaging.background import describe_appearance
from leukoscope.imaging.decode import MAX_PIXELS, DecodedFile
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.imaging.stain import looks_exchanged, nuclear_blue
from leukoscope.runtime.bundle import Bundle, read_bundle
from leukoscope.runtime.engine_choice import open_for
from leukoscope.runtime.engines import Engine
from leukoscope.runtime.envelope import envelope_notes
from leukoscope.runtime.heatmap import class_activation, encode_png, triptych
from leukoscope.runtime.image_sources import (
    CANNOT_BE_READ,
    ImageSource,
    Readable,
    load_source,
    named_source,
)
from leukoscope.runtime.large_images import Answered, LargeAnswer, predict_parts
from leukoscope.runtime.prediction import (
    EXCHANGED,
    ONE_IMAGE,
    Answers,
    Failure,
    Prediction,
    decide,
    malignant_probability,
)
from leukoscope.runtime.similar import CaseLibrary
from leukoscope.runtime.tiling import Cutter

if TYPE_CHECKING:
    from leukoscope.evaluation.gate import PatientGate
    from leukoscope.evaluation.patient_heads import PatientHead

BATCH = 4  # larger ones are no faster, and take more memory


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the network; its full-size pixels are already released.

    Attributes:
        name: Name of the image in the answer.
        sha256: Of the file's bytes, or of the pixels of an array.
        pixels: (size_px, size_px, 3) uint8 RGB, the network's input.
        quality: Measures of :mod:`leukoscope.imaging.quality` of the whole image.
        beyond: Sentences of :func:`~leukoscope.runtime.envelope.envelope_notes`.
        nuclear_blue: See :func:`leukoscope.imaging.stain.nuclear_blue`.
        appearance: (A,) of :func:`leukoscope.imaging.background.describe_appearance`; empty if the
            gate does not use it.
    """

    name: str
    sha256: str
    pixels: NDArray[np.uint8]
    quality: dict[str, float]
    beyond: tuple[str, ...]
    nuclear_blue: float
    appearance: NDArray[np.float64]


def load_bundle(
    path: Path | str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    bulk: bool = False,
    similar: int = 0,
    whole: bool = False,
    um_per_px: float | None = None,
    scale_bar_um: float | None = None,
) -> Predictor:
    """Open a bundle for prediction; its hashes and the fit of its parts are checked.

    Args:
        path: The bundle's folder, its run's, or the name of an installed one.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``int8``; see
            :func:`leukoscope.runtime.engine_choice.open_for`.
        threads: For network and decoding. Default: every core available to this process.
        bulk: For many images: each thread takes whole batches, from file to answer.
        similar: Number of similar training cases that each answer names.
        whole: Predict images that are larger than the training images as they are, uncut; so
            does a bundle that answers for patients, whose images are the parts.
        um_per_px: Pixel scale of the images in µm, for cutting large ones at the right size.
        scale_bar_um: Length of their scale bar in µm, likewise.

    Raises:
        BundleError: The bundle is damaged, does not fit together, or has another version.
        UnknownNameError: No engine or precision of that name.
        UsageError: That precision is not offered, or the bundle carries no training cases.
        MissingExtraError: The engine is not installed.
    """
    bundle = read_bundle(Path(path))
    if similar and bundle.record.similar is None:
        raise UsageError(
            f"{path}: this bundle carries no training cases to compare with",
            hint="ask without, or export the bundle again with this version",
        )
    opened = open_for(bundle, engine, precision, threads=threads, bulk=bulk)
    field = bundle.record.field
    cutter = None
    if field is not None and bundle.record.patient is None and not whole:
        cutter = Cutter(field, um_per_px, scale_bar_um)
    return Predictor(bundle, opened, similar=similar, cutter=cutter)


class Predictor:
    """An opened bundle that predicts; safe to use from several threads.

    ``similar`` is the default number of similar training cases that an answer names; ``cutter``
    cuts images that are larger than the training images, None leaves them whole.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, *, similar: int = 0, cutter: Cutter | None = None
    ) -> None:
        self.bundle = bundle
        self.record = bundle.record.served_by(engine.name, engine.precision)
        self.engine = engine
        self.class_names = bundle.record.class_names
        self.model = f"{bundle.record.name}@{bundle.sha256[:12]}"
        self._gate = bundle.load_gate(self.record.ood)
        self._similar = similar
        self.cutter = cutter

    @cached_property
    def cases(self) -> CaseLibrary | None:
        """The training cases that the bundle carries, or None."""
        return self.bundle.load_similar()

    @cached_property
    def trained_on_sha256(self) -> frozenset[str]:
        """SHA-256 of each training image; empty if the bundle does not list them."""
        return self.bundle.load_trained_on()

    @cached_property
    def patient_head(self) -> PatientHead | None:
        """What answers for a patient by all of its images; None where images are the unit."""
        return self.bundle.load_patient_head()

    @cached_property
    def patient_gate(self) -> PatientGate | None:
        """Whom a patient as a whole is compared with; None where the bundle has no such limits."""
        return self.bundle.load_patient_gate()

    @property
    def has_maps(self) -> bool:
        """Whether the model gives class activation maps, which heat maps need."""
        return "maps" in self.engine.outputs

    @overload
    def predict(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = ...,
        explain: Path | None = ...,
        on_error: Literal["raise"] = ...,
    ) -> Answers[Prediction]: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = ...,
        explain: Path | None = ...,
        on_error: Literal["keep"],
    ) -> Answers[Prediction | Failure]: ...

    def predict(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = BATCH,
        explain: Path | None = None,
        on_error: Literal["raise", "keep"] = "raise",
    ) -> Answers[Prediction] | Answers[Prediction | Failure]:
        """Predict all images.

        Args:
            images: Paths, encoded bytes, or (H, W, 3) uint8 RGB arrays.
            batch_size: Number of images per run of the network.
            explain: Folder for heat maps.
            on_error: ``raise`` stops at an unreadable image; ``keep`` puts a :class:`Failure`
                in its place.

        Raises:
            ImageError: An image cannot be read.
            UsageError: Heat maps are requested from a bundle that has none.
        """
        if isinstance(images, (str, bytes, Path, np.ndarray)):
            raise UsageError("expected a list of images, got one", hint="write predict([image])")
        refuse_single(images, "images", "write predict([image])")
        answers: Answers[Prediction | Failure] = Answers()
        for answer in self.predict_stream(images, batch_size=batch_size, explain=explain):
            if isinstance(answer, Failure) and on_error == "raise":
                raise answer.as_error()
            answers.append(answer)
        return answers

    def predict_stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = BATCH,
        explain: Path | None = None,
        on_parts: Callable[[Answered], None] | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Yield one prediction or failure per image, in order and in constant memory.

        Each thread takes a batch from file to answer, so that some decode as the network runs; at
        most two batches per thread are in flight. An image that is larger than the training images
        is cut, and answered from its parts. The arguments are those of :meth:`predict`.

        Args:
            on_parts: Called with the parts of each image that was cut, before its answer comes.

        Raises:
            UsageError: Heat maps are requested from a bundle that has none, or the batch size is 0.
        """
        if batch_size < 1:
            raise UsageError(f"expected a batch of at least one image, got {batch_size}")
        if explain is not None and not self.has_maps:
            raise UsageError(
                f"{self.bundle.folder}: this model's head gives no class activation maps",
                hint="predict without heat maps; `leukoscope explain` draws them from a study",
            )
        return self._stream_any(enumerate(images, start=1), batch_size, explain, on_parts)

    def predict_whole(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[Prediction | Failure]:
        """Yield one prediction per image, in order; none is cut, however large.

        Args:
            images: Each (H, W, 3) uint8 RGB.
        """
        return self._stream(enumerate(images, start=1), BATCH, None)

    def predict_large(
        self,
        name: str,
        source: Readable,
        *,
        max_pixels: int = MAX_PIXELS,
        wanted: Callable[[], bool] = lambda: True,
    ) -> LargeAnswer | Failure | None:
        """Predict an image that is larger than a training image from its parts.

        Args:
            name: Name of the image in the answer.
            source: A file, its bytes, what was decoded of it, or (H, W, 3) uint8 RGB.
            max_pixels: Largest width × height of an encoded image.
            wanted: Asked before each part; where it says no, the rest is left out.

        Returns:
            None where the image is not to be cut, so that :meth:`prepare` and :meth:`answer` serve.
        """
        sized = source.decoded.image if isinstance(source, DecodedFile) else source
        if self.cutter is None or not self.cutter.may_cut(sized):
            return None
        try:
            decoded, sha256 = load_source(source, name, max_pixels)
            return predict_parts(self, name, decoded, sha256, self.cutter, wanted)
        except CANNOT_BE_READ as error:
            return Failure.from_error(name, error)

    def _stream_any(
        self,
        source: Iterator[tuple[int, ImageSource]],
        batch_size: int,
        explain: Path | None,
        on_parts: Callable[[Answered], None] | None,
    ) -> Iterator[Prediction | Failure]:
        """Small images in batches, large ones each by its parts, in their order."""
        for large, group in groupby(source, lambda item: self._may_cut(item[1])):
            if not large:
                yield from self._stream(group, batch_size, explain)
                continue
            for number, item in group:
                assert not isinstance(item, Failure)  # which is not cut
                name, image = named_source(number, item)
                found = self.predict_large(name, image)
                if found is None:
                    yield from self._stream(iter([(number, item)]), batch_size, explain)
                elif isinstance(found, Failure):
                    yield found
                else:
                    if on_parts is not None and found.parts:
                        on_parts(found.parts)
                    yield _with_overlay(explain, found)

    def _may_cut(self, item: ImageSource) -> bool:
        if self.cutter is None or not isinstance(item, (str, Path, bytes, np.ndarray)):
            return False
        return self.cutter.may_cut(Path(item) if isinstance(item, str) else item)

    def _stream(
        self, source: Iterator[tuple[int, ImageSource]], batch_size: int, explain: Path | None
    ) -> Iterator[Prediction | Failure]:
        workers = max(2, self.engine.threads)
        batches = iter(lambda: list(islice(source, batch_size)), [])
        answered = ordered_map(
            partial(self._answer_files, explain=explain),
            batches,
            threads=workers,
            ahead=2 * workers - 1,
            name="leukoscope-predict",
        )
        with closing(answered):
            for answers in answered:
                yield from answers

    def _answer_files(
        self, batch: Sequence[tuple[int, ImageSource]], explain: Path | None
    ) -> list[Prediction | Failure]:
        """Take one batch from files to answers, within one thread."""
        items = [self._read(*item) for item in batch]
        answers = self.answer(items, heat=explain is not None)
        if explain is None:
            return answers
        return [_with_heatmap(explain, *pair) for pair in zip(items, answers, strict=True)]

    def _read(self, number: int, item: ImageSource) -> Prepared | Failure:
        return item if isinstance(item, Failure) else self.prepare(*named_source(number, item))

    def prepare(
        self,
        name: str,
        source: Readable,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> Prepared | Failure:
        """Decode, measure and preprocess one image; meant to be called from several threads.

        Args:
            name: Name of the image in the answer.
            source: A file, its bytes, what was decoded of it, or (H, W, 3) uint8 RGB.
            max_pixels: Largest width × height of an encoded image.
        """
        try:
            decoded, sha256 = load_source(source, name, max_pixels)
            image = decoded.image
            pixels = apply_preprocess(image, self.record.preprocess)
            quality = measure_quality(image)
            beyond = (*decoded.doubts, *envelope_notes(image, quality, self.record.envelope))
            needs_appearance = self._gate is not None and self._gate.appearance is not None
            look = describe_appearance(pixels) if needs_appearance else np.empty(0)
            return Prepared(name, sha256, pixels, quality, beyond, nuclear_blue(image), look)
        except CANNOT_BE_READ as error:
            return Failure.from_error(name, error)

    def answer(
        self,
        items: Sequence[Prepared | Failure],
        *,
        heat: bool = False,
        similar: int | None = None,
    ) -> list[Prediction | Failure]:
        """Run the network once on prepared images and decide; failures are passed on.

        Args:
            items: From :meth:`prepare`.
            heat: Also fill :attr:`Prediction.heat`; needs :attr:`has_maps`.
            similar: Number of cases in :attr:`Prediction.similar`. Default: that of this predictor.

        Raises:
            BundleError: The network gives numbers that are not finite.
        """
        ready = [item for item in items if isinstance(item, Prepared)]
        similar = self._similar if similar is None else similar
        answers = iter(self._predict_batch(ready, heat, similar) if ready else ())
        return [item if isinstance(item, Failure) else next(answers) for item in items]

    def _predict_batch(
        self, batch: Sequence[Prepared], heat: bool, similar: int
    ) -> list[Prediction]:
        outputs = self.engine.run(np.stack([item.pixels for item in batch]))
        logits = outputs["logits"]
        if not np.isfinite(logits).all():
            raise BundleError(f"{self.bundle.model}: the network gives logits that are not finite")
        probs = apply_calibration(logits, self.record.calibration)
        sets = prediction_sets(probs, self.record.conformal)
        ood_scores = self._ood_scores(batch, outputs)
        library = self.cases if similar else None
        cases = library.nearest(outputs["features"], similar) if library else None
        answers = []
        for row, item in enumerate(batch):
            p = dict(zip(self.class_names, probs[row].tolist(), strict=True))
            chosen = tuple(
                name for name, inside in zip(self.class_names, sets[row], strict=True) if inside
            )
            strange = {name: float(values[row]) for name, values in ood_scores.items()}
            score = max(strange.values(), default=None)
            # Probabilities can be equal to 1 for two classes; temperature keeps the logits' order.
            ranked = logits if self.record.calibration.weights is None else probs
            best = int(ranked[row].argmax())
            unsure = not chosen
            decision, reasons = decide(
                self.record,
                chosen,
                score,
                item.quality,
                probabilities=p,
                ood_scores=strange,
                beyond=item.beyond if self.record.patient is None else (*item.beyond, ONE_IMAGE),
                unsure=unsure,
            )
            if looks_exchanged(item.nuclear_blue, self.record.nuclear_blue):
                decision, reasons = "reject", (EXCHANGED, *reasons)
            answers.append(
                Prediction(
                    image=item.name,
                    sha256=item.sha256,
                    predicted=self.class_names[best],
                    probabilities=p,
                    p_malignant=malignant_probability(p, self.record.roles),
                    prediction_set=chosen or (self.class_names[best],),
                    decision=decision,
                    reasons=reasons,
                    ood_score=score,
                    quality=item.quality,
                    model=self.model,
                    logits=tuple(logits[row].tolist()),
                    similar=cases[row] if cases else () if similar else None,
                    features=outputs["features"][row].copy() if self.record.patient else None,
                    heat=class_activation(outputs["maps"][row], best) if heat else None,
                )
            )
        return answers

    def _ood_scores(
        self, batch: Sequence[Prepared], outputs: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float64]]:
        """(n,) values of each OOD score; empty if the bundle has no gate."""
        if self._gate is None:
            return {}
        appearance = np.stack([item.appearance for item in batch])
        seen = GateInputs(appearance, outputs.get("features", appearance), outputs["logits"])
        return self._gate.scores(seen)


def _with_heatmap(
    folder: Path, item: Prepared | Failure, answer: Prediction | Failure
) -> Prediction | Failure:
    """Write the heat map into the folder and name its file in the answer."""
    if isinstance(item, Failure) or isinstance(answer, Failure) or answer.heat is None:
        return answer
    title = f"{answer.predicted}, p {answer.probabilities[answer.predicted]:.2f}, {answer.decision}"
    path = _picture_path(folder, answer)
    write_bytes(path, encode_png(triptych(item.pixels, answer.heat, title)))
    return replace(answer, heatmap=str(path))


def _with_overlay(folder: Path | None, found: LargeAnswer) -> Prediction:
    """Write the image with its parts framed into the folder and name its file in the answer."""
    answer = found.prediction
    if folder is None or not found.parts:
        return answer
    path = _picture_path(folder, answer)
    write_bytes(path, encode_png(found.drawn()))
    return replace(answer, heatmap=str(path))


def _picture_path(folder: Path, answer: Prediction) -> Path:
    """A file name whose hash keeps images of one name from different folders apart."""
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(answer.image).stem)[:60]
    return folder / f"{stem}-{answer.sha256[:12]}.png"
