"""How a long run tells its caller where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

Listener = Callable[[str, int, int], None]
Tell = Callable[[int, int], None]


class TellWithin(Protocol):
    """Progress of one of several jobs, ``later`` jobs after the first."""

    def __call__(self, done: int, total: int, *, later: int = 0) -> None:
        """``done`` of ``total`` of this job."""


def _silent(step: str, done: int, total: int) -> None:
    """Nobody listens."""


@dataclass
class Progress:
    """Names the current step to a listener and keeps the seconds each step took.

    Attributes:
        listener: Called with the step's name, work done and work in all (0 where unknown).
        seconds: Wall time of each finished step.
    """

    listener: Listener = _silent
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time a step; yields the function to which it reports (done, total)."""
        start = time.perf_counter()
        self.listener(name, 0, 0)

        def report(done: int, total: int) -> None:
            self.listener(name, done, total)

        yield report
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.listener(name, 1, 1)
