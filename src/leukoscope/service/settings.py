"""What the service allows: limits, queue, time-outs, who may ask."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from leukoscope.config.base import Strict

Positive = Annotated[int, Field(ge=1)]
MIB = 2**20


class ServiceSettings(Strict):
    """Limits and times of a server; the defaults suit one laboratory's machine.

    Attributes:
        max_files: Images in one request.
        max_file_mb: Largest file, in MiB.
        max_body_mb: Largest request, in MiB.
        max_pixels: Largest width × height; checked before any pixel is decoded.
        memory_mb: Bytes of all uploads that are in the process at once, in MiB; more are asked to
            come again (429).
        queue_images: Images that are accepted and not yet answered, for each model; more are
            asked to come again (429).
        batch_images: Most images that the network sees at once.
        threads: Of decoding and of the network; None takes every core of this process.
        whole: Images that are larger than a model's training images are predicted uncut.
        um_per_px: Pixel scale of all images in µm, for cutting large ones at the right size.
        scale_bar_um: Length of their scale bar in µm, likewise.
        decode_s: Longest time for the pixels of a file that is decoded in a process of its own.
        timeout_s: Longest time from a complete upload to its answer.
        upload_s: Longest time that an upload may take, and before it the head of the request.
        drain_s: After SIGTERM: how long new requests are still taken, so that a balancer that
            watches ``/readyz`` can turn away.
        stop_s: Longest time after that for what was accepted to be answered.
        rate_per_minute: Requests that one client may make in a minute; 0 sets no limit.
        hosts: Values of the ``Host`` header that are answered; empty answers to any.
        cors_origins: Web origins whose scripts may ask; none by default.
        api_key: Must come with every request but those for the page and for health.
    """

    max_files: Positive = 64
    max_file_mb: Positive = 32
    max_body_mb: Positive = 128
    max_pixels: Positive = 25_000_000
    memory_mb: Positive = 512
    queue_images: Positive = 512
    batch_images: Positive = 8
    threads: Positive | None = None
    whole: bool = False
    um_per_px: Annotated[float, Field(gt=0)] | None = None
    scale_bar_um: Annotated[float, Field(gt=0)] | None = None
    decode_s: Annotated[float, Field(gt=0)] = 10.0
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    upload_s: Annotated[float, Field(gt=0)] = 30.0
    drain_s: Annotated[float, Field(ge=0)] = 1.0
    stop_s: Annotated[float, Field(gt=0)] = 60.0
    rate_per_minute: Annotated[int, Field(ge=0)] = 0
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    api_key: SecretStr | None = None
