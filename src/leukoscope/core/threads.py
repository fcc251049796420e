"""Work at the same time: ``map`` in threads, in order and in bounded memory, and processes.

Worker processes end with their parent, and how each ended is said in words. Small fits keep their
linear algebra in one thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

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


def one_blas_thread() -> AbstractContextManager[object]:
    """While it is open, products of matrices use one thread.

    Those of small fits are too thin to share: threads that wait for each other make a fit several
    times slower, most of all on busy cores.
    """
    limited: AbstractContextManager[object] = _linear_algebra().limit(limits=1, user_api="blas")
    return limited


@cache
def _linear_algebra() -> ThreadpoolController:
    """The loaded BLAS libraries; to look for them takes as long as a fit."""
    import scipy.optimize  # noqa: F401  (brings a library of its own, which must be found too)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def follow_parent() -> None:
    """End this process with its parent, and leave Ctrl-C to it; call it first in a worker.

    A parent that was killed closes no pipe that a worker in the middle of its work would read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

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
