"""The cost model of docs/scaling.md, and a simulation of many workers that it is checked against.

    python benchmarks/fleet.py --speed 100 --image-kb 20

Workers take shards one after the other, are not equally fast, die at random and begin the shard
again; one driver commits. The model says the same with a formula. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Images, cores, images in a shard: a laptop, a server, a cluster.
SIZES = (
    (10**6, 2, 2000),
    (10**6, 16, 2000),
    (10**8, 64, 5000),
    (10**8, 512, 5000),
    (10**9, 512, 20_000),
    (10**9, 2048, 20_000),
)
ROUNDS = 5


@dataclass(frozen=True)
class Fleet:
    """What is known of the machines.

    Attributes:
        speed: Images a second of one core.
        spread: Standard deviation of the logarithm of a worker's speed.
        deaths: Deaths of a worker in an hour.
        start_s: Seconds until a new worker takes its first image.
        commit_s: Seconds of the driver for one shard.
    """

    speed: float
    spread: float
    deaths: float
    start_s: float
    commit_s: float


def model(fleet: Fleet, images: int, cores: int, shard: int) -> tuple[float, float]:
    """Hours, and the share of the work that is done twice, by the formula.

    A death costs the start of a worker and, on average, half of a shard. At the end workers wait
    for the last shards, half of one on average; the driver may be the bottleneck.
    """
    shard_s = shard / fleet.speed
    rate = fleet.deaths / 3600
    # Mean time until one shard is done, where each death begins it anew after a start.
    once = (math.exp(rate * shard_s) - 1) * (1 / rate + fleet.start_s) if rate else shard_s
    mean_speed = math.exp(fleet.spread**2 / 2)  # of the workers, in units of the median
    workers_s = images / shard * once / cores / mean_speed + fleet.start_s + once / 2
    driver_s = images / shard * fleet.commit_s
    redone = math.exp(rate * shard_s) - 1
    # Of each death half of the shard was done, to first order.
    return max(workers_s, driver_s) / 3600, redone / 2


def simulate(fleet: Fleet, images: int, cores: int, shard: int, seed: int) -> tuple[float, float]:
    """Hours and share of the work done twice, by events one after the other."""
    rng = np.random.default_rng(seed)
    speeds = fleet.speed * np.exp(rng.normal(0, fleet.spread, cores))
    left = math.ceil(images / shard)
    again = 0.0
    driver_free = 0.0
    # (time at which the worker asks, which one)
    asking = [(fleet.start_s, worker) for worker in range(cores)]
    heapq.heapify(asking)
    deaths = _exponentials(rng, 3600 / fleet.deaths) if fleet.deaths else None
    next_death = [next(deaths) if deaths else math.inf for _ in range(cores)]
    end = 0.0
    while left:
        now, worker = heapq.heappop(asking)
        needs = shard / speeds[worker]
        if now + needs > next_death[worker]:
            died = max(now, next_death[worker])
            again += (died - now) * speeds[worker]
            assert deaths is not None
            born = died + fleet.start_s
            next_death[worker] = born + next(deaths)
            heapq.heappush(asking, (born, worker))
            continue
        left -= 1
        done = now + needs
        driver_free = max(driver_free, done) + fleet.commit_s
        end = max(end, driver_free)
        heapq.heappush(asking, (done, worker))
    return end / 3600, again / images


def _exponentials(rng: np.random.Generator, mean: float) -> Iterator[float]:
    while True:
        yield from rng.exponential(mean, 10_000).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", type=float, default=100, help="images/s of one core")
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument("--deaths", type=float, default=0.01, help="of a worker in an hour")
    parser.add_argument("--start-s", type=float, default=3)
    parser.add_argument("--commit-s", type=float, default=0.02)
    parser.add_argument("--image-kb", type=float, default=20, help="size of one image file")
    options = parser.parse_args()
    fleet = Fleet(options.speed, options.spread, options.deaths, options.start_s, options.commit_s)
    print(
        f"{fleet.speed:g} images/s a core (± {fleet.spread:.0%}), {fleet.deaths:g} deaths of a "
        f"worker an hour, {fleet.start_s:g} s to start one, {1000 * fleet.commit_s:g} ms to "
        f"commit a shard, {options.image_kb:g} KB an image; {ROUNDS} simulations, median.\n"
    )
    print("| images | cores | images a shard | hours, model | hours, simulated | done twice, model "
          "| done twice, simulated | driver busy | reading, MB/s |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for images, cores, shard in SIZES:
        hours, twice = model(fleet, images, cores, shard)
        rounds = [simulate(fleet, images, cores, shard, seed) for seed in range(ROUNDS)]
        simulated, again = (statistics.median(values) for values in zip(*rounds, strict=True))
        busy = images / shard * fleet.commit_s / 3600 / simulated
        read = images * options.image_kb / 1000 / (3600 * simulated)
        print(f"| {images:,} | {cores:,} | {shard:,} | {hours:.2f} | {simulated:.2f} | "
              f"{twice:.3%} | {again:.3%} | {busy:.0%} | {read:,.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
