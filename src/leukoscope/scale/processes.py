"""Worker processes of this machine and of a Ray cluster: how they start and end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

from leukoscope.core.errors import MissingExtraError, UsageError


def follow_parent() -> None:
    """End this process with its parent, and leave Ctrl-C to it; call it first in a worker.

    A parent that was killed closes no pipe that a worker in the middle of its work would read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def how_it_ended(code: int | None) -> str:
    """An exit code in words.

    >>> how_it_ended(3), how_it_ended(-9)
    ('exit code 3', 'SIGKILL, often for want of memory')
    """
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name}, often for want of memory" if name == "SIGKILL" else name


@contextmanager
def connected(feature: str, address: str | None = None, cores: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected inside.

    Args:
        feature: What needs it, for the message where it is missing.
        address: Of a running cluster, or ``auto``; None takes ``RAY_ADDRESS``, and without it
            starts Ray on this machine.
        cores: Of this machine, where Ray is started; None takes all.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise MissingExtraError(feature, "scale")
    ray: Any = import_module("ray")
    if ray.is_initialized():  # by a program that calls this one
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    _start(ray, address or os.environ.get("RAY_ADDRESS"), cores)
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, address: str | None, cores: int | None) -> None:
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    with _silent():
        if address is None:
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            return
        try:
            _knock(address)
            ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]})",
                hint="start one with `ray start --head`, or leave the address out",
            ) from None


def _knock(address: str) -> None:
    """Whether anything listens there; Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ part writes to the terminal: told not to, it says there that it was told."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
