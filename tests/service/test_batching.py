"""A worker that hangs: it keeps neither the others, nor the stop, and readiness tells."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from leukoscope.runtime.prediction import Failure
from leukoscope.service.batching import Batcher
from leukoscope.service.decoding import Decoders


class SlowPredictor:
    """Decodes ``slow`` until it is let go; notes what it was given."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[str] = []

    def predict_large(self, *_: Any, **__: Any) -> None:
        """No image is cut."""

    def prepare(self, name: str, data: bytes, *, max_pixels: int) -> str:
        self.seen.append(name)
        if name == "slow":
            self.go.wait(30)
        return name

    def answer(self, prepared: list[str], **_: Any) -> list[Failure]:
        return [Failure(name, "", "corrupt", "") for name in prepared]


@pytest.fixture
def slow() -> Iterator[SlowPredictor]:
    predictor = SlowPredictor()
    yield predictor
    predictor.go.set()


def batcher_of(predictor: Any, streams: int) -> Batcher:
    return Batcher(
        predictor,
        [predictor] * streams,
        queue_images=64,
        batch_images=8,
        max_pixels=10,
        decoders=Decoders(1, 10.0, 10),
        on_batch=lambda answers: None,
    )


def test_a_hanging_worker_is_told_and_does_not_hold_up_the_stop(slow: SlowPredictor) -> None:
    batcher = batcher_of(slow, 1)

    async def ask() -> bool:
        with pytest.raises(TimeoutError):
            await batcher.submit([("slow", b"")], heat=False, timeout_s=0.1)
        assert batcher.hanging(0.05) == 1 == batcher.workers
        assert batcher.hanging(60) == 0
        return await batcher.idle(0.2)

    started = time.monotonic()
    assert asyncio.run(ask()) is False
    assert batcher.close(0.2) is False
    assert time.monotonic() - started < 10
    slow.go.set()
    assert batcher.close(10) is True
    assert batcher.hanging(0.0) == 0


def test_the_other_worker_goes_on(slow: SlowPredictor) -> None:
    batcher = batcher_of(slow, 2)

    async def ask() -> list[Any]:
        hanging = asyncio.ensure_future(batcher.submit([("slow", b"")], heat=False, timeout_s=20))
        await asyncio.sleep(0.05)
        found = await batcher.submit([("fine", b"")], heat=False, timeout_s=10)
        assert batcher.hanging(0.01) == 1
        slow.go.set()
        await hanging
        assert await batcher.idle(10)
        return found

    assert [answer.path for answer in asyncio.run(ask())] == ["fine"]
    assert batcher.close()


def test_what_died_behind_a_slow_image_is_not_decoded(slow: SlowPredictor) -> None:
    batcher = batcher_of(slow, 1)

    async def ask() -> None:
        images = [("slow", b""), ("behind", b"")]
        with pytest.raises(TimeoutError):
            await batcher.submit(images, heat=False, timeout_s=0.2)
        slow.go.set()
        assert await batcher.idle(10)

    asyncio.run(ask())
    assert slow.seen == ["slow"]
    assert batcher.close()


def test_readiness_fails_while_no_worker_answers(
    app_with: Callable[..., AbstractContextManager[TestClient]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with app_with(timeout_s=5.0) as client:
        assert client.get("/readyz").status_code == 200
        models: Any = client.app.state.models  # type: ignore[attr-defined]
        (served,) = models.all()
        held = SimpleNamespace(value=served.batcher.workers)
        monkeypatch.setattr(served.batcher, "hanging", lambda seconds: held.value)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")
        assert "No worker has answered" in answer.text
        workers = float(served.batcher.workers)
        assert f"leukoscope_hanging_workers {workers}" in client.get("/metrics").text
        assert client.get("/healthz").status_code == 200
        held.value = 0
        assert client.get("/readyz").status_code == 200
