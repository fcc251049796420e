"""``map`` in threads: results in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    threads: int = 2,
    ahead: int = 64,
    name: str = "leukoscope-map",
) -> Generator[_Result]:
    """Results of a function that is called in threads, in the order of the items.

    Calls begin in the order of the items. An error of a call is raised in the place of its
    result, one of ``items`` at once. After an error, or when the caller closes the generator,
    no further call begins, and the generator ends once those under way are done.

    Args:
        function: Called with each item; must be safe in several threads.
        items: Read in the caller's thread, as results are taken; may be endless.
        threads: Calls at once.
        ahead: Most items that are read while the result of an earlier one is in use.
        name: Begins the names of the threads.

    >>> list(ordered_map(len, ["smear", "cell"]))
    [5, 4]
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads, name)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
