"""Micro-batching: images of many requests meet in one bounded queue and share the network's runs.

Several copies of the network, each on a share of the cores and in a thread of its own, take what
waits, decode it and answer it. They never wait for a batch to fill: on a CPU a batch saves little,
and an idle machine should answer at once. A network on one core needs about two thirds of the
processor time of one that spreads every layer over two; an image that comes alone goes to a copy
that has all cores. Decoding stays in the thread that goes on with the image: handing it over costs
more than it gains once other programs want the cores too. Files whose decoder may take long are
decoded before they are queued, in processes that can be ended (:mod:`leukoscope.service.decoding`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from leukoscope.core.errors import ImageError
from leukoscope.imaging.containers import is_quick
from leukoscope.imaging.decode import DecodedFile
from leukoscope.runtime.large_images import LargeAnswer
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor
from leukoscope.service.decoding import Decoders

ServedAnswer = Prediction | Failure


class QueueFullError(Exception):
    """There is no room for these images for about ``retry_after_s`` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Job:
    """One image in the queue; ``dead`` once no request waits for it."""

    name: str
    source: bytes | DecodedFile | Failure
    heat: bool
    similar: int
    future: asyncio.Future[ServedAnswer]
    dead: bool = False


class Batcher:
    """The queue in front of one model. :meth:`submit` runs in one event loop, the rest in threads.

    Args:
        solo: The model with all cores, for an image that comes alone.
        streams: The same model several times, each with a share of the cores.
        queue_images: Most images that wait or are being worked on.
        batch_images: Most images in one run.
        max_pixels: Largest width × height of an image.
        decoders: For files that are not decoded in a network's thread.
        on_batch: Called in a network's thread with all answers of each batch; every answer that
            leaves this process passes through it.
    """

    def __init__(
        self,
        solo: Predictor,
        streams: Sequence[Predictor],
        *,
        queue_images: int,
        batch_images: int,
        max_pixels: int,
        decoders: Decoders,
        on_batch: Callable[[Sequence[ServedAnswer]], None],
    ) -> None:
        self._solo = solo
        self._decoders = decoders
        self.waiting = 0
        self._limit = queue_images
        self._most = batch_images
        self._max_pixels = max_pixels
        self._on_batch = on_batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._rate = 0.0  # images a second, smoothed
        self._since: list[float | None] = [None] * len(streams)  # each thread's batch began
        self._threads = [
            threading.Thread(target=self._run, args=(number, stream), name="network", daemon=True)
            for number, stream in enumerate(streams)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self,
        images: Sequence[tuple[str, bytes]],
        *,
        heat: bool,
        timeout_s: float,
        similar: int = 0,
    ) -> list[ServedAnswer]:
        """The answers to images, in their order.

        Args:
            images: Name and encoded bytes of each.
            heat: Whether to fill :attr:`Prediction.heat`.
            timeout_s: Longest time to wait for all of them.
            similar: Number of similar training cases in :attr:`Prediction.similar`.

        Raises:
            QueueFullError: Nothing was accepted.
            TimeoutError: Unfinished images are dropped.
            BundleError: The network gives numbers that are not finite.
        """
        if self.waiting + len(images) > self._limit:
            raise QueueFullError(self.waiting / self._rate if self._rate else 1.0)
        loop = asyncio.get_running_loop()
        self.waiting += len(images)
        jobs = [_Job(name, data, heat, similar, loop.create_future()) for name, data in images]
        answers: list[Awaitable[ServedAnswer]] = []
        for job, (name, data) in zip(jobs, images, strict=True):
            if is_quick(data):
                self._jobs.put(job)
                answers.append(job.future)
            else:
                answers.append(self._decoded_before(job, name, data))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.gather(*answers)
        finally:
            for job in jobs:
                job.dead = True

    async def _decoded_before(self, job: _Job, name: str, data: bytes) -> ServedAnswer:
        """Queue a job with its pixels; few of them wait for a network at once."""
        try:
            async with self._decoders.slots:
                try:
                    job.source = await self._decoders.decode_aside(name, data)
                except ImageError as error:
                    job.source = Failure.from_error(name, error)
                self._jobs.put(job)
                return await job.future
        finally:
            if job.source is data:  # given up before it was queued
                self.waiting -= 1

    @property
    def workers(self) -> int:
        """Number of threads that answer."""
        return len(self._threads)

    def hanging(self, seconds: float) -> int:
        """How many threads have been at one batch for longer than so many seconds."""
        now = time.monotonic()
        return sum(since is not None and now - since > seconds for since in tuple(self._since))

    async def idle(self, most_s: float) -> bool:
        """Wait until everything accepted is answered; False where that took too long."""
        deadline = time.monotonic() + most_s
        while self.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.waiting

    def close(self, most_s: float = 5.0) -> bool:
        """End the networks' threads, best when idle.

        A thread inside a decoder cannot be ended: after the given time it is left behind, and ends
        with the process. False where one was.
        """
        self._jobs.put(None)
        deadline = time.monotonic() + most_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int, stream: Predictor) -> None:
        while (job := self._jobs.get()) is not None:
            alone = self.waiting == 1
            most = min(self._most, -(-self.waiting // len(self._threads)))
            self._since[number] = time.monotonic()
            self._answer([job, *self._take(most - 1)], self._solo if alone else stream)
            self._since[number] = None
        self._jobs.put(None)  # for the other threads

    def _take(self, most: int) -> Iterator[_Job]:
        """Yield waiting jobs, at most a given number."""
        for _ in range(most):
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._jobs.put(None)
                return
            yield job

    def _answer(self, batch: list[_Job], predictor: Predictor) -> None:
        started = time.perf_counter()
        answered: dict[_Job, ServedAnswer] = {}
        try:
            small: list[_Job] = []
            prepared = []
            for job in batch:
                if job.dead:  # it may die while those before it are decoded
                    continue
                if isinstance(job.source, Failure):
                    answered[job] = job.source
                    continue
                large = self._answer_large(job, job.source, predictor)
                if large is not None:
                    answered[job] = large
                elif not job.dead:
                    small.append(job)
                    prepared.append(
                        predictor.prepare(job.name, job.source, max_pixels=self._max_pixels)
                    )
            if small:
                answers = predictor.answer(
                    prepared,
                    heat=any(job.heat for job in small),
                    similar=max(job.similar for job in small),
                )
                for job, answer in zip(small, answers, strict=True):
                    answered[job] = _keep_requested_cases(job, answer)
            if answered:
                self._on_batch([answered[job] for job in batch if job in answered])
        except Exception as error:  # the requests that asked learn of it
            self._finish(batch, error)
            return
        rate = len(self._threads) * len(batch) / max(time.perf_counter() - started, 1e-6)
        self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        self._finish(batch, answered)

    def _answer_large(
        self, job: _Job, source: bytes | DecodedFile, predictor: Predictor
    ) -> ServedAnswer | None:
        """The answer to an image that is cut; None for any other, and where nobody waits any more.

        Its parts keep this thread from other images; a request that is given up ends them.
        """
        found = predictor.predict_large(
            job.name, source, max_pixels=self._max_pixels, wanted=lambda: not job.dead
        )
        if job.dead:
            return None
        if not isinstance(found, LargeAnswer):
            return found
        framed = found.drawn() if job.heat and found.parts else None
        return replace(found.prediction, framed=framed)

    def _finish(self, jobs: Sequence[_Job], result: dict[_Job, ServedAnswer] | Exception) -> None:
        """Pass the answers to the event loop, all in one step."""

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


def _keep_requested_cases(job: _Job, answer: ServedAnswer) -> ServedAnswer:
    """Remove similar cases that another job of the batch requested."""
    if isinstance(answer, Failure) or answer.similar is None:
        return answer
    return replace(answer, similar=answer.similar[: job.similar] if job.similar else None)
