"""What the cases of ``faults.py`` need: commands that can be killed, small disks, tables."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class UnexpectedError(Exception):
    """Something else came than the documentation says."""


class NotTriedError(Exception):
    """This machine does not allow the case."""


@dataclass(frozen=True)
class Case:
    """One thing that can go wrong; ``attempt`` gives what was seen."""

    program: str
    fault: str
    expected: str
    attempt: Callable[[Path], str]


@dataclass(frozen=True)
class Done:
    """How a command ended, and all that it printed; a kill has a negative code."""

    code: int
    said: str


def expect(holds: bool, words: str) -> None:
    """Go on only where it holds."""
    if not holds:
        raise UnexpectedError(words)


class Command:
    """A command of the program in a child of this process, which has loaded the libraries.

    Args:
        arguments: As typed after ``leukoscope``.
        before: Called in the child first.
    """

    def __init__(self, *arguments: object, before: Callable[[], None] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the command
        self.pid = os.fork()
        if not self.pid:
            self._live([str(argument) for argument in arguments], before)

    def _live(self, arguments: Sequence[str], before: Callable[[], None] | None) -> None:
        code = 70
        try:
            os.dup2(self._log.fileno(), 1)
            os.dup2(self._log.fileno(), 2)
            from leukoscope.cli.main import app

            if before is not None:
                before()
            app(arguments, standalone_mode=True)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            import sys

            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, kill_after_s: float = float("inf"), most_s: float = 3600.0) -> Done:
        """Wait for the end; kill -9 after so many seconds."""
        started, killed = time.monotonic(), False
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._log.seek(0)
                return Done(os.waitstatus_to_exitcode(status), self._log.read().decode("utf-8"))
            lived = time.monotonic() - started
            if lived > kill_after_s and not killed:
                os.kill(self.pid, signal.SIGKILL)
                killed = True
            if lived > most_s:
                os.kill(self.pid, signal.SIGKILL)
                raise UnexpectedError(f"a command came to no end within {most_s:g} s")
            time.sleep(0.01)


def run(*arguments: object, before: Callable[[], None] | None = None) -> Done:
    """A command from its start to its end."""
    return Command(*arguments, before=before).ended()


def must(*arguments: object) -> None:
    """A command that has to end well."""
    done = run(*arguments)
    expect(done.code == 0, f"{arguments[0]} ended with {done.code}: {done.said[-2000:]}")


def die_at_rename(number: int) -> Callable[[], None]:
    """The process kills itself where it would give a file its name for the so-many-th time."""

    def before() -> None:
        true, left = Path.replace, [number]

        def replace(self: Path, target: Path) -> Path:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return true(self, target)

        Path.replace = replace  # type: ignore[method-assign, assignment]

    return before


def killed_chain(
    start: Callable[[int], tuple[object, ...]],
    kills: int,
    span_s: float,
    rng: random.Random,
    finished: Callable[[int], None],
) -> str:
    """Kill commands again and again, each taken up by the next; gives how often and how.

    Args:
        start: The arguments of the chain of this number, the same for its first and later runs.
        kills: How many in all.
        span_s: What one undisturbed run takes.
        rng: Chooses the moments: half of them in time, half just before a file gets its name.
        finished: Called with the number of a chain that came to its end.
    """
    timed = renamed = chain = 0
    while timed + renamed < kills:
        if rng.random() < 0.5:
            done = Command(*start(chain)).ended(kill_after_s=rng.uniform(0.05, 0.9) * span_s)
            timed += done.code == -signal.SIGKILL
        else:
            done = run(*start(chain), before=die_at_rename(rng.randrange(1, 12)))
            renamed += done.code == -signal.SIGKILL
        if done.code != -signal.SIGKILL:
            expect(done.code == 0, f"a run that was taken up ended with {done.code}: {done.said}")
            finished(chain)
            chain += 1
    done = run(*start(chain))
    expect(done.code == 0, f"the last run ended with {done.code}: {done.said}")
    finished(chain)
    words = f"{timed} kills in time, {renamed} before a file got its name"
    return f"{words}; {chain + 1} runs finished"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A disk of this size at a folder; what is given changes it (``ro``, ``size=9m``)."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise NotTriedError("mounting a small disk needs rights that this user lacks")

    def change(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)

    try:
        yield change
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def a_year_ahead(folder: Path) -> None:
    """Files as if the clock had been set back by a year since they were written."""
    ahead = time.time() + 365 * 86400
    for path in folder.rglob("*"):
        os.utime(path, (ahead, ahead))


HOSTILE_NAMES = (
    b"$x$.png", b"=1+1.png", b"-cmd.png", b"a\nb.png", b"\x1b]52;c;Y3VybA==\x07.png",
    b"';rm -rf ~;'.png", b"<script>alert(1)<script>.png", b"a,\"b\".png", b"[red]x[bold].png",
    b"n" * 240 + b".png",
)  # fmt: skip
NOT_UTF8 = b"Zelle-\xe4.png"


def rename_hostile(folder: Path) -> None:
    """Give images below a folder names that something might trip over."""
    names = (*HOSTILE_NAMES, NOT_UTF8)
    for path, name in zip(sorted(folder.glob("*/*.png")), names, strict=False):
        path.rename(path.with_name(os.fsdecode(name)))


def table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Markdown."""
    head = "| program | fault | expected | seen |\n|---|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)
