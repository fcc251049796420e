"""How fast ``leukoscope serve`` answers, beside LitServe with the same graph.

python benchmarks/service.py BUNDLE --litserve LITSERVE_PYTHON
python benchmarks/service.py BUNDLE --against OTHER/src
python benchmarks/service.py BUNDLE --soak 600

The first measures requests a second and latency with 1, 8, 32 and 128 clients on loopback, and
the bare network in between; everything shares the machine's cores, the clients included. The
servers take turns within each round, so that a busy machine harms all alike; the best round of
each counts. The second does so with the server of another source tree, and tells the ratio of the
processor time of an answer round by round, which a busy machine changes little. The third lets 32
clients ask for that many seconds and prints the memory.

The images are phantoms (224 px, JPEG unless --suffix says otherwise). LITSERVE_PYTHON is the
interpreter of an environment with ``litserve``, the engine, and OpenCV.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

LEVELS = (1, 8, 32, 128)


def phantom_images(suffix: str, count: int = 16) -> list[bytes]:
    """Encoded fields of different sessions."""
    from leukoscope.phantom.render import render_phantom
    from leukoscope.phantom.spec import PhantomSpec

    spec = PhantomSpec(images=count, sessions=4, seed=11)
    pictures = [render_phantom(spec, index).image for index in range(count)]
    return [bytes(cv2.imencode(suffix, p[..., ::-1])[1]) for p in pictures]


def request_bytes(path: str, image: bytes) -> bytes:
    """A whole HTTP request with one image."""
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--edge--\r\n"
    )
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    return head.encode() + body


async def client(port: int, requests: Sequence[bytes], until: float, took: list[float]) -> int:
    """Ask one after the other on one connection; returns the number of failures."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    failed, turn = 0, 0
    while (started := time.perf_counter()) < until:
        writer.write(requests[turn % len(requests)])
        turn += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        failed += not head.startswith(b"http/1.1 200")
        took.append(time.perf_counter() - started)
    writer.close()
    return failed


def load(port: int, path: str, clients: int, seconds: float, images: Sequence[bytes]) -> dict:
    """Requests a second, latency in ms, failures."""

    async def run() -> tuple[list[float], int, float]:
        took: list[float] = []
        started = time.perf_counter()
        requests = [request_bytes(path, image) for image in images]
        asking = (client(port, requests, started + seconds, took) for _ in range(clients))
        failed = sum(await asyncio.gather(*asking))
        return took, failed, time.perf_counter() - started

    took, failed, elapsed = asyncio.run(run())
    p50, p95, p99 = (1000 * np.percentile(took, q) for q in (50, 95, 99))
    return {"rate": len(took) / elapsed, "p50": p50, "p95": p95, "p99": p99, "n": len(took),
            "failed": failed}  # fmt: skip


def bare_rate(engine, seconds: float) -> tuple[float, float]:
    """Images a second of the network alone and processor ms of one, by one or eight at a time."""
    best, least = 0.0, np.inf
    for size in (1, 8):
        batch = np.full((size, engine.size_px, engine.size_px, 3), 200, np.uint8)
        engine.run(batch)
        started, before, done = time.perf_counter(), time.process_time(), 0
        while (elapsed := time.perf_counter() - started) < seconds / 2:
            engine.run(batch)
            done += size
        best = max(best, done / elapsed)
        least = min(least, 1000 * (time.process_time() - before) / done)
    return best, least


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(command: list[str], port: int, health: str, source: str = "") -> subprocess.Popen:
    """Start a server and wait until it is ready."""
    env = {**os.environ, "PYTHONPATH": source} if source else None
    # A session of its own: Linux shares a busy machine out by sessions.
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )
    for _ in range(600):
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=5).status == 200:
                return process
        except OSError:
            time.sleep(0.2)
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended with {process.returncode}")
    sys.exit(f"{command} was not ready within two minutes")


def stop(process: subprocess.Popen) -> None:
    """End a server and its workers."""
    import psutil

    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(30)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()


def cpu_s(process: subprocess.Popen) -> float:
    """Seconds of processor time that a server and its workers have used."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def memory_mb(process: subprocess.Popen) -> float:
    import psutil

    return psutil.Process(process.pid).memory_info().rss / 2**20


def compare(options: argparse.Namespace, images: list[bytes]) -> None:
    """The table of the levels."""
    from leukoscope.runtime.predictor import load_bundle

    engine = load_bundle(options.bundle, engine=options.engine).engine
    ours, theirs = free_port(), free_port()
    command = [sys.executable, "-m", "leukoscope", "serve", "--bundle", options.bundle,
               "--engine", engine.name]  # fmt: skip
    servers = {"leukoscope": (start(command, ours, "/readyz"), ours, "/v1/predict")}
    if options.against:
        other = free_port()
        process = start(command, other, "/readyz", options.against)
        servers["before"] = (process, other, "/v1/predict")
    if options.litserve:
        script = str(Path(__file__).with_name("litserve_server.py"))
        lit = [options.litserve, script, options.bundle, "--engine", engine.name]
        servers["LitServe"] = (start(lit, theirs, "/health"), theirs, "/predict")
    try:
        measure(options, images, servers, engine)
    finally:
        for process, _, _ in servers.values():
            stop(process)


def measure(options: argparse.Namespace, images: list[bytes], servers: dict, engine) -> None:
    """All levels, servers in turn; prints the best round of each."""
    best: dict[tuple[str, int], dict] = {}
    bare: dict[int, tuple[float, float]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    for _, port, path in servers.values():
        load(port, path, 8, 2, images)
    for _ in range(options.rounds):
        for level in options.clients:
            rate, ms = bare_rate(engine, options.seconds / 2)
            most, least = bare.get(level, (0.0, np.inf))
            bare[level] = max(rate, most), min(ms, least)
            for name, (process, port, path) in servers.items():
                before = cpu_s(process)
                found = load(port, path, level, options.seconds, images)
                found["cpu"] = 1000 * (cpu_s(process) - before) / found["n"]
                cpu.setdefault((name, level), []).append(found["cpu"])
                if found["rate"] > best.get((name, level), {"rate": 0})["rate"]:
                    best[name, level] = found
                print(name, level, {k: round(v, 1) for k, v in found.items()}, file=sys.stderr)
    print(f"engine {engine.name}, {options.rounds} rounds of {options.seconds:g} s\n")
    print(
        "| clients | server | requests/s | p50 ms | p95 ms | p99 ms | errors | of bare network "
        "| processor ms |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    alone = max(rate for rate, _ in bare.values())
    for level in options.clients:
        for name in servers:
            r = best[name, level]
            print(f"| {level} | {name} | {r['rate']:.1f} | {r['p50']:.0f} | {r['p95']:.0f} "
                  f"| {r['p99']:.0f} | {r['failed']} | {r['rate'] / alone:.0%} "
                  f"| {r['cpu']:.1f} |")  # fmt: skip
    least = min(ms for _, ms in bare.values())
    print(f"\nbare network: {alone:.1f} images/s, {least:.2f} processor ms an image")
    for level in options.clients if "before" in servers else ():
        pairs = zip(cpu["leukoscope", level], cpu["before", level], strict=True)
        ratios = [ours / old for ours, old in pairs]
        print(f"{level} clients: processor ms {np.median(cpu['leukoscope', level]):.2f}, before "
              f"{np.median(cpu['before', level]):.2f}, ratio {np.median(ratios):.3f} "
              f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds)")  # fmt: skip


def soak(options: argparse.Namespace, images: list[bytes]) -> None:
    """Memory and errors over a long time."""
    port = free_port()
    command = [sys.executable, "-m", "leukoscope", "serve", "--bundle", options.bundle]
    process = start([*command, "--engine", options.engine], port, "/readyz")
    load(port, "/v1/predict", 32, 10, images)
    print("| minute | MiB | requests/s | p99 ms | errors |\n|---:|---:|---:|---:|---:|")
    for minute in range(max(1, round(options.soak / 60))):
        r = load(port, "/v1/predict", 32, min(60, options.soak), images)
        print(f"| {minute + 1} | {memory_mb(process):.0f} | {r['rate']:.1f} | {r['p99']:.0f} "
              f"| {r['failed']} |", flush=True)  # fmt: skip
    process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--litserve", default="")
    parser.add_argument("--against", default="", help="PYTHONPATH of another server of ours")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--suffix", default=".jpg", help="format of the images: .jpg, .png, .tif")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--soak", type=float, default=0)
    chosen = parser.parse_args()
    (soak if chosen.soak else compare)(chosen, phantom_images(chosen.suffix))
