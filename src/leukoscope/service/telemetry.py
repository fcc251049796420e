"""What the service tells its keepers: Prometheus metrics, and one line of JSON an event."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from leukoscope.runtime.prediction import Failure, Prediction

LOG = logging.getLogger("leukoscope.service")
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one server, with a registry of its own so that tests can run several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        own = self._registry
        self.requests = Counter(
            "leukoscope_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=own,
        )
        self.latency = Histogram(
            "leukoscope_latency_seconds",
            "From request to answer.",
            ("route",),
            registry=own,
            buckets=_SECONDS,
        )
        self.batches = Histogram(
            "leukoscope_batch_images",
            "Images that the network saw at once.",
            ("model",),
            registry=own,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self.queue = Gauge("leukoscope_queue_images", "Accepted, not yet answered.", registry=own)
        self.hanging = Gauge(
            "leukoscope_hanging_workers", "At one batch for longer than --timeout.", registry=own
        )
        self.uploads = Gauge("leukoscope_upload_bytes", "Of uploads in memory.", registry=own)
        self.decisions = Counter(
            "leukoscope_decisions",
            "Answers by class and decision.",
            ("model", "predicted", "decision"),
            registry=own,
        )
        self.unreadable = Counter(
            "leukoscope_unreadable", "Images that could not be read.", ("reason",), registry=own
        )

    def count(self, model: str, answers: Sequence[Prediction | Failure]) -> None:
        """Count one batch of answers."""
        self.batches.labels(model).observe(len(answers))
        for answer in answers:
            if isinstance(answer, Failure):
                self.unreadable.labels(answer.reason).inc()
            else:
                self.decisions.labels(model, answer.predicted, answer.decision).inc()

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)


class _JsonLines(logging.Formatter):
    """Formats each record as one JSON object per line, a traceback as one field."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log(event: str, *, level: int = logging.INFO, exc_info: bool = False, **fields: object) -> None:
    """Write one line; image names, keys and addresses must not be passed."""
    LOG.log(level, event, exc_info=exc_info, extra={"fields": fields})


def start_logging() -> None:
    """Log JSON lines of this package and of uvicorn to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in (LOG.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
