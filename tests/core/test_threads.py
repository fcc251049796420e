"""A map in threads keeps order and bounds, and stops when it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest

from leukoscope.core.threads import ordered_map


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ordered")]


def test_results_come_in_the_order_of_the_items() -> None:
    def later_is_faster(item: int) -> int:
        time.sleep(0.002 * (9 - item % 10))
        return item

    assert list(ordered_map(later_is_faster, range(30), threads=4, ahead=8)) == list(range(30))


def test_calls_run_in_several_threads_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    list(ordered_map(lambda _: together.wait(), range(6), threads=3))


def test_nothing_in_nothing_out() -> None:
    assert list(ordered_map(str, [])) == []


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_no_more_than_ahead_items_are_read_early(ahead: int) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for number in count(1):
            read = number
            yield number

    results = ordered_map(str, endless(), ahead=ahead)
    early = [read - used for used, _ in enumerate(islice(results, 20), start=1)]
    assert set(early) == {ahead}
    results.close()


def test_an_error_stands_in_the_place_of_its_result_and_ends_the_calls() -> None:
    called: list[int] = []

    def third_fails(item: int) -> int:
        called.append(item)
        if item == 2:
            raise ValueError("third")
        if item > 2:
            time.sleep(0.05)
        return item

    results = ordered_map(third_fails, range(100), threads=2, ahead=50, name="ordered")
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(results)
    assert called == sorted(called)
    assert len(called) < 50
    assert not _names()


def test_an_error_of_the_items_is_raised_at_once() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("source")

    with pytest.raises(ValueError, match="source"):
        next(ordered_map(str, broken(), name="ordered"))
    assert not _names()


def test_a_caller_who_stops_early_leaves_no_thread_and_no_call() -> None:
    called: list[int] = []

    def slow(item: int) -> int:
        called.append(item)
        time.sleep(0.02)
        return item

    results = ordered_map(slow, count(), threads=2, ahead=40, name="ordered")
    assert next(results) == 0
    results.close()
    assert not _names()
    begun = len(called)
    assert begun < 41
    time.sleep(0.05)
    assert len(called) == begun
