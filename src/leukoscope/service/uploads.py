"""From an upload, bounded and in memory only, to answers; the API and the page share it."""

from __future__ import annotations

import asyncio
import base64
import unicodedata
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from leukoscope.core.views import plural
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.runtime.by_patient import PatientCollector
from leukoscope.runtime.heatmap import encode_png, overlay
from leukoscope.runtime.prediction import Failure
from leukoscope.service.batching import QueueFullError, ServedAnswer
from leukoscope.service.decoding import Decode
from leukoscope.service.model_pool import ServedModel
from leukoscope.service.schemas import ProblemError
from leukoscope.service.settings import MIB, ServiceSettings

_MAX_NAME = 200
_MAX_FIELD = 1000
_MAX_FIELDS = 200
_MAX_PART_HEAD = 8 * 1024  # bytes of the headers of one part
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # control, direction marks, surrogates
ByPatient = Literal["one", "folder", "field"]


@dataclass
class Upload:
    """A parsed form.

    Attributes:
        files: Name and bytes of each file of the field ``files``, in order.
        patients: Values of the field ``patient``, in order.
        model: Value of the field ``model``, which the page sends.
        one_patient: Whether the field ``one_patient`` was sent.
    """

    files: list[tuple[str, bytes]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    model: str | None = None
    one_patient: bool = False


class UploadMemory:
    """Counts and bounds the bytes of all uploads in the process."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.used = 0
        self._settings = settings

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Upload]:
        """Read and parse a request's form; its bytes count until the block is left.

        Raises:
            ProblemError: The upload is too large (413) or too slow (408), is not a multipart form
                (415), malformed (400) or without a file (422), or there is no room for it (429).
        """
        taken = 0
        most = self._settings.max_body_mb

        def take(more: int) -> None:
            nonlocal taken
            if taken + more > most * MIB:
                raise ProblemError(413, f"expected at most {most} MiB in one request, got more")
            if self.used + more > self._settings.memory_mb * MIB:
                raise ProblemError(429, "too many uploads at once; come again", retry_after_s=2)
            taken += more
            self.used += more

        try:
            yield await self._receive(request, take)
        finally:
            self.used -= taken

    async def _receive(self, request: Request, take: Callable[[int], None]) -> Upload:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_body_mb * MIB:
            most = self._settings.max_body_mb
            raise ProblemError(
                413, f"expected at most {most} MiB in one request, got {length} bytes"
            )
        form = _Form(self._settings, request.headers.get("content-type", ""))
        try:
            async with asyncio.timeout(self._settings.upload_s):
                async for chunk in request.stream():
                    take(len(chunk))
                    form.feed(chunk)
        except TimeoutError:
            seconds = self._settings.upload_s
            raise ProblemError(408, f"expected the whole upload within {seconds:g} s") from None
        except ClientDisconnect:
            raise ProblemError(
                400, "the connection was closed before the upload was complete"
            ) from None
        return form.finish()


class _Form:
    """Collects the parts of a multipart form as they come in."""

    def __init__(self, settings: ServiceSettings, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ProblemError(415, "expected a multipart form: curl -F files=@image.jpg …")
        self._settings = settings
        self._upload = Upload()
        self._parts = 0
        self._names: dict[bytes, bytes] = {}
        self._header = [b"", b""]
        self._head_bytes = 0
        self._data = bytearray()
        self._complete = False
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._add(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except FormParserError:
            raise _malformed() from None

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _malformed() from None

    def finish(self) -> Upload:
        """The parsed form, once it is complete."""
        if not self._complete:
            raise _malformed()
        if not self._upload.files:
            raise ProblemError(422, "expected at least one image in the field 'files', got none")
        return self._upload

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._settings.max_files + _MAX_FIELDS:
            raise ProblemError(413, f"expected at most {self._settings.max_files} images, got more")
        self._names, self._data = {}, bytearray()
        self._head_bytes = 0

    def _grow(self, which: int, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_PART_HEAD:  # older parsers set no limit of their own
            raise _malformed()
        self._header[which] += data

    def _end_header(self) -> None:
        name, value = self._header
        self._header = [b"", b""]
        self._head_bytes += len(b": \r\n")
        if name.lower() == b"content-disposition":
            self._names = parse_options_header(value)[1]

    def _add(self, data: bytes) -> None:
        most = self._settings.max_file_mb * MIB if b"filename" in self._names else _MAX_FIELD
        if len(self._data) + len(data) > most:
            limit = f"{self._settings.max_file_mb} MiB for an image, {_MAX_FIELD} bytes for a text"
            raise ProblemError(413, f"expected at most {limit}; got more")
        self._data += data

    def _end_part(self) -> None:
        field_name = self._names.get(b"name", b"")
        if b"filename" in self._names:
            if field_name == b"files" and (self._data or self._names[b"filename"]):
                self._add_file()
        elif field_name == b"patient":
            self._upload.patients.append(clean_name(bytes(self._data)))
        elif field_name == b"model":
            self._upload.model = clean_name(bytes(self._data))
        elif field_name == b"one_patient":
            self._upload.one_patient = True

    def _add_file(self) -> None:
        files = self._upload.files
        if len(files) >= self._settings.max_files:
            raise ProblemError(413, f"expected at most {self._settings.max_files} images, got more")
        name = clean_name(self._names[b"filename"]) or f"image-{len(files) + 1}"
        files.append((name, bytes(self._data)))

    def _end(self) -> None:
        self._complete = True


def clean_name(raw: bytes) -> str:
    r"""A client's text made safe to show: one line of bounded length; never used as a path.

    >>> clean_name(b"../a\x00b\n.png")
    '../ab.png'
    """
    text = raw.decode("utf-8", "replace")[:_MAX_NAME]
    return "".join(c for c in text if unicodedata.category(c) not in _UNSEEN).strip()


def _malformed() -> ProblemError:
    return ProblemError(400, "the multipart form is malformed or incomplete")


async def predict_upload(
    request: Request,
    model: ServedModel,
    upload: Upload,
    settings: ServiceSettings,
    *,
    heat: bool,
    similar: int,
) -> list[ServedAnswer]:
    """Put the images into the model's queue and wait for the answers.

    Raises:
        ProblemError: The model has no heat maps, the queue is full, or the answers take too long.
    """
    if heat and not model.predictor.has_maps:
        raise ProblemError(422, f"explain: the model {model.name} gives no heat maps; ask without")
    try:
        answers = await model.batcher.submit(
            upload.files, heat=heat, similar=similar, timeout_s=settings.timeout_s
        )
    except QueueFullError as full:
        detail = (
            f"{plural(model.batcher.waiting, 'image')} waiting already; none of yours was taken"
        )
        raise ProblemError(429, detail, retry_after_s=full.retry_after_s) from None
    except TimeoutError:
        seconds = settings.timeout_s
        raise ProblemError(
            503, f"no answer within {seconds:g} s; dropped", retry_after_s=5
        ) from None
    unreadable = sum(isinstance(answer, Failure) for answer in answers)
    request.state.noted = {"images": len(answers), "unreadable": unreadable, "model": model.name}
    return answers


def response_rows(
    model: ServedModel, answers: Sequence[ServedAnswer]
) -> tuple[list[Any], list[Any]]:
    """Predictions and errors as rows of the API's answer."""
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        row = {"index": index, **answer.as_dict()}
        if isinstance(answer, Failure):
            bad.append(row)
        else:
            known = answer.sha256 in model.predictor.trained_on_sha256
            good.append(row | {"seen_in_training": known})
    return good, bad


def by_patient(
    model: ServedModel, upload: Upload, answers: Sequence[ServedAnswer], how: ByPatient
) -> list[dict[str, Any]]:
    """One row per patient.

    Raises:
        ProblemError: The patient of an image is unknown.
    """
    names = [name for name, _ in upload.files]
    if how == "one":
        patients = ["1"] * len(names)
    elif how == "folder":
        patients = [name.split("/")[0] if "/" in name else "" for name in names]
        if not all(patients):
            raise ProblemError(
                422, "by_patient=folder: expected file names such as patient/image.png"
            )
    else:
        patients = upload.patients
        if len(patients) != len(names) or not all(patients):
            raise ProblemError(
                422, f"by_patient=field: expected {len(names)} fields 'patient', one for each file "
                f"in order and none empty; got {len(patients)}"
            )  # fmt: skip
    turn = iter(patients)  # names may repeat, places do not
    predictor = model.predictor
    collector = PatientCollector.of(predictor, lambda _: next(turn))
    for answer in answers:
        collector.add(answer)
    return collector.rows()


def heat_uri(
    model: ServedModel, decode: Decode, upload: tuple[str, bytes], answer: ServedAnswer
) -> str | None:
    """The heat map over what the model saw, or the parts of an image that was cut.

    Args:
        model: That answered.
        decode: Decodes the upload again.
        upload: Its name and bytes.
        answer: With its heat, where there is one.

    Returns:
        A PNG data URI; None where there is neither.
    """
    if isinstance(answer, Failure):
        return None
    picture = answer.framed
    if picture is None:
        if answer.heat is None:
            return None
        seen = apply_preprocess(decode(*upload).image, model.predictor.record.preprocess)
        picture = overlay(seen, answer.heat)
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"
