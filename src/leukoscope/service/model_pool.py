"""The models that a server answers with: opened, warmed, exchanged without dropping a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.runtime.engine_choice import open_for
from leukoscope.runtime.engines import available_cores
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.predictor import Predictor, load_bundle
from leukoscope.service.batching import Batcher, ServedAnswer
from leukoscope.service.decoding import Decoders
from leukoscope.service.schemas import ProblemError
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.telemetry import Metrics, log

_MOST_STREAMS = 4  # each copy of the network has its own weights and buffers in memory
_GRACE_S = 5.0
OnAnswers = Callable[[Predictor, Sequence[ServedAnswer]], None]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One opened bundle.

    Attributes:
        predictor: The model.
        batcher: The queue in front of it.
        card: Its model card, in Markdown.
        examples: Name → PNG bytes of the phantom images in the bundle.
    """

    predictor: Predictor
    batcher: Batcher
    card: str
    examples: dict[str, bytes]

    @property
    def name(self) -> str:
        """The name by which a request chooses the model."""
        return self.predictor.record.name

    @property
    def similar_cases(self) -> int:
        """Number of training cases that can be shown beside an answer."""
        known = self.predictor.record.similar
        return 0 if known is None else known.n


class ModelPool:
    """All models of a server, by name; the first is the default.

    Args:
        folders: The bundles.
        engine: As in :func:`leukoscope.runtime.predictor.load_bundle`.
        precision: Likewise.
        settings: Limits.
        metrics: Counts every batch.
        on_answers: Called in the network's thread with all answers of every batch; the only hook
            for what records answers.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        engine: str,
        precision: str,
        settings: ServiceSettings,
        metrics: Metrics,
        on_answers: OnAnswers = lambda predictor, answers: None,
    ) -> None:
        self._folders = tuple(folders)
        self._engine, self._precision = engine, precision
        self._settings = settings
        self._metrics = metrics
        self._on_answers = on_answers
        self._threads = settings.threads or available_cores()
        self.pool = ThreadPoolExecutor(self._threads, "leukoscope-pictures")
        self.decoders = Decoders(
            min(self._threads, _MOST_STREAMS), settings.decode_s, settings.max_pixels
        )
        self._served: dict[str, ServedModel] = {}
        self._reloading = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether every model has answered a first image."""
        return bool(self._served)

    @property
    def waiting(self) -> int:
        """Images that are accepted and not yet answered."""
        return sum(model.batcher.waiting for model in self._served.values())

    @property
    def hanging(self) -> int:
        """Threads that have been at one batch for longer than anybody waits for an answer."""
        limit_s = self._settings.timeout_s
        return sum(model.batcher.hanging(limit_s) for model in self._served.values())

    @property
    def stuck(self) -> bool:
        """Whether a model has no thread left that answers."""
        limit_s = self._settings.timeout_s
        batchers = [model.batcher for model in self._served.values()]
        return any(batcher.hanging(limit_s) == batcher.workers for batcher in batchers)

    def all(self) -> tuple[ServedModel, ...]:
        """Every model, the default first.

        Raises:
            ProblemError: They are still being opened.
        """
        if not self._served:
            raise ProblemError(503, "The models are still being opened.", retry_after_s=2)
        return tuple(self._served.values())

    def get(self, name: str | None) -> ServedModel:
        """The model of that name, or the default; to be looked up anew for each request.

        Raises:
            ProblemError: There is none of this name.
        """
        models = self.all()
        if name is None:
            return models[0]
        if name not in self._served:
            choices = ", ".join(self._served)
            raise ProblemError(404, f"model: expected one of {choices}; got another name")
        return self._served[name]

    async def load(self) -> None:
        """Open and warm all bundles, then exchange them for the present ones in one step.

        Requests that were accepted before are answered by the former models.

        Raises:
            LeukoscopeError: A bundle cannot be used; the present models stay.
        """
        async with self._reloading:
            loop = asyncio.get_running_loop()
            self.decoders.warm()
            opened = await loop.run_in_executor(None, self._open_all)
            old, self._served = self._served, opened
        log("models loaded", models=[model.predictor.model for model in opened.values()])
        await _retire(old.values(), self._settings.timeout_s + _GRACE_S)

    async def reload(self) -> None:
        """Run :meth:`load` again; if it fails, the present models stay and the log says why."""
        try:
            await self.load()
        except LeukoscopeError as error:
            log("reload failed, the old models stay", level=logging.ERROR, error=str(error))

    async def close(self) -> None:
        """End all threads, after what is on its way.

        The requests were waited for before, for :attr:`ServiceSettings.stop_s` at most: what is
        still being worked on has nobody who waits for it, and must not keep the process alive.
        """
        self.decoders.close()
        await _retire(self._served.values(), _GRACE_S)
        self.pool.shutdown(wait=not self.hanging, cancel_futures=True)

    def _open_all(self) -> dict[str, ServedModel]:
        opened: dict[str, ServedModel] = {}
        try:
            for folder in self._folders:
                model = self._open(folder)
                if model.name in opened:
                    model.batcher.close()
                    raise UsageError(
                        f"two bundles are called {model.name!r}: {folder} and "
                        f"{opened[model.name].predictor.bundle.folder}",
                        hint="a request chooses by name: give bundles of different names",
                    )
                opened[model.name] = model
        except LeukoscopeError:
            for model in opened.values():
                model.batcher.close()
            raise
        return opened

    def _open(self, folder: Path) -> ServedModel:
        predictor = load_bundle(
            folder,
            engine=self._engine,
            precision=self._precision,
            threads=self._threads,
            whole=self._settings.whole,
            um_per_px=self._settings.um_per_px,
            scale_bar_um=self._settings.scale_bar_um,
        )
        bundle, chosen = predictor.bundle, predictor.engine
        golden = [name for name in predictor.record.files if name.startswith("golden/")]
        examples = {
            Path(name).name: (folder / name).read_bytes() for name in golden if ".png" in name
        }
        count = min(self._threads, _MOST_STREAMS)
        share = self._threads // count
        streams = [
            Predictor(
                bundle,
                open_for(bundle, chosen.name, chosen.precision, threads=share),
                cutter=predictor.cutter,
            )
            for _ in range(count)
        ]
        for each in (predictor, *streams):
            # What does not fit is refused now, not at a request.
            _ = each.cases, each.trained_on_sha256
            _warm(each, next(iter(examples.values()), None), self._settings.batch_images)
        card = folder / "MODEL_CARD.md"

        def on_batch(answers: Sequence[ServedAnswer]) -> None:
            self._metrics.count(predictor.model, answers)
            self._on_answers(predictor, answers)

        batcher = Batcher(
            predictor,
            streams,
            queue_images=self._settings.queue_images,
            batch_images=self._settings.batch_images,
            max_pixels=self._settings.max_pixels,
            decoders=self.decoders,
            on_batch=on_batch,
        )
        text = (
            card.read_text(encoding="utf-8", errors="replace")
            if card.name in predictor.record.files
            else ""
        )
        return ServedModel(predictor, batcher, text, examples)


def _warm(predictor: Predictor, example: bytes | None, batch_images: int) -> None:
    """Answer one image and one full batch, so that no user waits for the set-up on first use."""
    if example is None:
        example = encode_png(np.full((64, 64, 3), 200, np.uint8))
    prepared = predictor.prepare("warm-up", example)
    for size in (1, batch_images):
        predictor.answer([prepared] * size, heat=predictor.has_maps)


async def _retire(models: Iterable[ServedModel], most_s: float) -> None:
    """End each model's threads once they are idle, or after so many seconds."""
    for model in models:
        idle = await model.batcher.idle(most_s)
        ended = await asyncio.to_thread(model.batcher.close, _GRACE_S if idle else 0.0)
        if not ended:
            log("a worker hangs and is left behind", level=logging.ERROR, model=model.name)
