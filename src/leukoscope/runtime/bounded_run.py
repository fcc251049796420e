"""Runs of ONNX Runtime that come to an end, whatever the graph says."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

RUN_S = 300.0
"""Longest time for one batch; a loop of a foreign graph may have no end."""
_LOOK_S = 1.0


class Endable(Protocol):
    """What a run of ONNX Runtime is told; ``terminate`` ends it."""

    terminate: bool


class _Watchdog:
    """Ends runs that have passed their time; one thread for all of them, from the first on."""

    def __init__(self) -> None:
        self._runs: dict[object, tuple[float, Endable]] = {}
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, options: Endable, seconds: float) -> object:
        """Watch a run; returns what :meth:`remove` takes."""
        key = object()
        with self._turn:
            self._runs[key] = (time.monotonic() + seconds, options)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        return key

    def remove(self, key: object) -> None:
        """A run has ended."""
        with self._turn:
            del self._runs[key]

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            with self._turn:
                for end, options in self._runs.values():
                    if now > end:
                        options.terminate = True


_WATCHDOG = _Watchdog()


def run_bounded(
    session: Any, outputs: Sequence[str], inputs: Mapping[str, Any], seconds: float | None = None
) -> list[Any]:
    """The outputs of a session.

    Args:
        session: An ``onnxruntime.InferenceSession``.
        outputs: Their names.
        inputs: Arrays by name.
        seconds: Longest time; None stands for :data:`RUN_S`.

    Raises:
        TimeoutError: The graph came to no end.
    """
    from onnxruntime import RunOptions

    options = RunOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    limit = RUN_S if seconds is None else seconds
    key = _WATCHDOG.add(options, limit)
    try:
        found: list[Any] = session.run(list(outputs), dict(inputs), options)
    except Exception:  # the library raises kinds of its own
        if options.terminate:
            raise TimeoutError(f"it came to no end within {limit:g} s") from None
        raise
    finally:
        _WATCHDOG.remove(key)
    return found
