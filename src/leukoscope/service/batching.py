"""Micro-batching: images of many requests meet in one bounded queue and share the network's runs.

Decoding and measuring run in a pool of threads, the network in a thread of its own that always
takes what waits, up to a limit. It never waits for a batch to fill: on a CPU a batch saves little,
and an idle machine should answer at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor, Prepared

Answer = Prediction | Failure


class QueueFullError(Exception):
    """No room for these images.

    Args:
        retry_after_s: About when there will be.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Job:
    """One image on its way; ``dead`` once nobody waits for it any more."""

    name: str
    data: bytes
    heat: bool
    future: asyncio.Future[Answer]
    dead: bool = False
    prepared: Prepared | Failure | None = field(default=None)


class Batcher:
    """The queue before one model. :meth:`submit` belongs to one event loop; all else is threads.

    Args:
        predictor: The model.
        pool: Where images are decoded.
        queue_images: Most images that wait or are being worked on.
        batch_images: Most images in one run.
        max_pixels: Of an image.
        on_batch: Told all answers of each batch, in the network's thread; every
            answer that leaves this process passes here.
    """

    def __init__(
        self,
        predictor: Predictor,
        pool: Executor,
        *,
        queue_images: int,
        batch_images: int,
        max_pixels: int,
        on_batch: Callable[[Sequence[Answer]], None],
    ) -> None:
        self.predictor = predictor
        self.waiting = 0
        self._pool = pool
        self._limit = queue_images
        self._most = batch_images
        self._max_pixels = max_pixels
        self._on_batch = on_batch
        self._ready: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._rate = 0.0  # images a second, smoothed
        self._thread = threading.Thread(target=self._run, name="leukoscope-network", daemon=True)
        self._thread.start()

    async def submit(
        self, images: Sequence[tuple[str, bytes]], *, heat: bool, timeout_s: float
    ) -> list[Answer]:
        """Answers to images, in their order.

        Args:
            images: Name and encoded bytes of each.
            heat: Whether :attr:`Prediction.heat` is wanted.
            timeout_s: How long to wait for all of them.

        Raises:
            QueueFullError: Nothing was accepted.
            TimeoutError: What was not done is dropped.
            BundleError: The network gives numbers that are not finite.
        """
        if self.waiting + len(images) > self._limit:
            raise QueueFullError(self.waiting / self._rate if self._rate else 1.0)
        loop = asyncio.get_running_loop()
        self.waiting += len(images)
        jobs = [_Job(name, data, heat, loop.create_future()) for name, data in images]
        for job in jobs:
            self._pool.submit(self._prepare, job)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.dead = True

    async def idle(self) -> None:
        """Wait until everything accepted is answered."""
        while self.waiting:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """End the network's thread; call it when idle."""
        self._ready.put(None)
        self._thread.join()

    def _prepare(self, job: _Job) -> None:
        try:
            if not job.dead:
                job.prepared = self.predictor.prepare(
                    job.name, job.data, max_pixels=self._max_pixels
                )
        except Exception as error:  # nothing may be lost in a thread without an answer
            self._finish([job], error)
            return
        self._ready.put(job)

    def _run(self) -> None:
        while (job := self._ready.get()) is not None:
            batch = [job]
            while len(batch) < self._most:
                try:
                    more = self._ready.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._ready.put(None)
                    break
                batch.append(more)
            self._answer(batch)

    def _answer(self, batch: list[_Job]) -> None:
        wanted = [job for job in batch if not job.dead and job.prepared is not None]
        if not wanted:
            self._finish(batch, {})
            return
        started = time.perf_counter()
        try:
            prepared = [job.prepared for job in wanted if job.prepared is not None]
            answers = self.predictor.answer(prepared, heat=any(job.heat for job in wanted))
            self._on_batch(answers)
        except Exception as error:  # the request that asked learns of it
            self._finish(batch, error)
            return
        rate = len(wanted) / max(time.perf_counter() - started, 1e-6)
        self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        self._finish(batch, dict(zip(wanted, answers, strict=True)))

    def _finish(self, jobs: Sequence[_Job], result: dict[_Job, Answer] | Exception) -> None:
        """Hand the answers to the event loop, all in one step."""

        def resolve() -> None:
            self.waiting -= len(jobs)
            for job in jobs:
                if job.future.done():
                    continue
                if isinstance(result, Exception):
                    job.future.set_exception(result)
                elif job in result:
                    job.future.set_result(result[job])

        loop = jobs[0].future.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve)
