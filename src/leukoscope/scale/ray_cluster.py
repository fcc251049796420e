"""Connecting to a Ray cluster, or starting Ray on this machine, without its noise."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from leukoscope.core.errors import MissingExtraError, UsageError


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
