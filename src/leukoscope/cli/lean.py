"""Begin and end of the process, without what costs a short command a tenth of its time."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

OBJECTS = 100_000  # made between two collections of garbage; an answer for one image makes 55,000
KEPT_BYTES = 1 << 27  # of freed memory, that the process does not give back to the system
_MMAP_BYTES = 1 << 25  # the most that glibc takes: larger arrays get pages of their own
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_LOADER = "pydantic.plugin._loader"
_NEED_AN_ORDERLY_END = {"torch", "ray"}  # they may have workers, files and devices to close


@contextmanager
def lean_process() -> Iterator[None]:
    """While it is open, the program runs; afterwards the process ends at once.

    Imports make many objects and no garbage, so that collecting finds nothing worth the search.
    """
    gc.set_threshold(OBJECTS, 10, 10)
    keep_freed_memory()
    _look_for_no_plugins()
    code = 1  # of an exception that nobody catches

    def leave() -> None:
        _end_at_once(code)

    atexit.register(leave)  # the first to be registered is called last
    try:
        yield
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def keep_freed_memory() -> bool:
    """Keep freed memory for the next array, where the C library is one that can.

    Every image makes and frees dozens of arrays of its size. By default glibc returns most of them
    to the system, which must then fill new pages with zeros.

    Returns:
        Whether it is done; other libraries than glibc are left as they are.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = ((_MMAP_THRESHOLD, _MMAP_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(option, number) == 1 for option, number in kept)


def _look_for_no_plugins() -> None:
    """Spare pydantic the search for plugins in the metadata of every installed distribution.

    To be told that it may not search, its loader would still import all that reads metadata.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if os.environ["PYDANTIC_DISABLE_PLUGINS"] in ("__all__", "1", "true"):
        loader = ModuleType(_LOADER)
        vars(loader).update(get_plugins=tuple, __getattr__=_of_the_real_loader)
        sys.modules.setdefault(_LOADER, loader)


def _of_the_real_loader(name: str) -> object:
    """What another version of pydantic may ask of its loader."""
    if name.startswith("__"):
        raise AttributeError(name)
    del sys.modules[_LOADER]
    return getattr(import_module(_LOADER), name)


def _end_at_once(code: int) -> None:
    """End the process as it stands: to take libraries apart takes as long as to load some."""
    if not _NEED_AN_ORDERLY_END.isdisjoint(sys.modules):
        if "triton" not in sys.modules:  # it complains of all that is not collected
            gc.freeze()  # what is given back anyway need not be searched
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # Python itself says so, and has an exit code for it
        return
    os._exit(code)
