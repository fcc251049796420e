"""How the process begins and ends."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from leukoscope.cli import lean

# What the program does in each case; ``leukoscope.cli.lean`` says nothing of its own.
ENDINGS = {
    "pass": 0,
    "sys.exit()": 0,
    "sys.exit(3)": 3,
    "sys.exit('a reason')": 1,
    "1 / 0": 1,
}


def _run(body: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import atexit, sys\n"
        "from leukoscope.cli.lean import lean_process\n"
        "class Last:\n"
        "    def __del__(self): print('taken apart')\n"
        "last = Last()\n"
        "with lean_process():\n"
        "    atexit.register(print, 'closed')\n"
        "    print('answer')\n"
        f"    {body}\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("body", "code"), ENDINGS.items())
def test_the_process_ends_at_once_with_its_code_and_all_it_wrote(body: str, code: int) -> None:
    done = _run(body)
    assert done.returncode == code
    assert done.stdout.splitlines() == ["answer", "closed"]
    assert done.stderr.splitlines()[-1:] == {
        "sys.exit('a reason')": ["a reason"],
        "1 / 0": ["ZeroDivisionError: division by zero"],
    }.get(body, [])


@pytest.mark.parametrize("loaded", [("torch",), ("torch", "triton")])
def test_a_program_that_trains_ends_in_order(
    monkeypatch: pytest.MonkeyPatch, loaded: tuple[str, ...]
) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    for name in loaded:
        monkeypatch.setitem(sys.modules, name, None)
    frozen: list[bool] = []
    monkeypatch.setattr(lean.gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(lean.os, "_exit", lambda code: pytest.fail("ended at once"))
    lean._end_at_once(3)
    assert bool(frozen) == ("triton" not in loaded)  # it complains of what is not collected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_finds_no_room_is_no_success() -> None:
    code = "from leukoscope.cli.lean import lean_process\nwith lean_process(): print('answer')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_schemas_are_built_without_the_metadata_of_every_distribution() -> None:
    code = (
        "import sys\n"
        "from leukoscope.cli.lean import lean_process\n"
        "with lean_process():\n"
        "    from pydantic import TypeAdapter\n"
        "    assert TypeAdapter(int).validate_python('3') == 3\n"
        "    print('importlib.metadata' in sys.modules)\n"
        "    import pydantic.plugin._loader as loader\n"
        "    print(loader.PYDANTIC_ENTRY_POINT_GROUP)  # asked for more: the real one answers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "pydantic"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
def test_freed_memory_is_kept_for_the_next_image() -> None:
    """Two arrays that grow and go, as an image's do: by default each round fills new pages."""
    code = (
        "import numpy, resource\n"
        "from leukoscope.cli import lean\n"
        "assert lean.keep_freed_memory() is {kept}\n"
        "def rounds():\n"
        "    for mb in (1, 3, 9) * 40:\n"
        "        parts = [numpy.ones(mb << 20, numpy.uint8) for _ in range(3)]\n"
        "rounds()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "rounds()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    default = code.replace("assert lean.keep_freed_memory() is {kept}\n", "")
    faults = [
        int(subprocess.check_output([sys.executable, "-c", text], text=True))
        for text in (code.format(kept=True), default)
    ]
    assert faults[0] < 100 < faults[1]


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert lean.keep_freed_memory() is False
