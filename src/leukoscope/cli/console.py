"""What every command shares: the console, progress, errors to exit codes."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import typer

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.core.program import DISCLAIMER as DISCLAIMER

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from leukoscope.config.guarantees import Measured
    from leukoscope.config.metrics.file import MetricsFile, StudyMetrics
    from leukoscope.config.metrics.results import Estimate

EXIT_SOME_UNREADABLE = 3
LEVEL_COLOURS = {
    "unsafe": "bold red",
    "plausible": "bold green",
    "plausible-by-clusters": "bold green",
}

P = ParamSpec("P")


@dataclass
class GlobalOptions:
    """Global options: ``debug`` shows tracebacks."""

    debug: bool = False


GLOBAL_OPTIONS = GlobalOptions()
# An escape sequence in a name could move the cursor, rewrite lines or the clipboard. Bytes of a
# name that is no UTF-8, which Python holds as lone surrogates, could not be written at all.
_HIGH, _NO_UTF8 = range(0x7F, 0xA0), range(0xDC80, 0xDD00)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *_HIGH) if code not in (9, 10)}
_CONTROLS |= {code: f"\\x{code - 0xDC00:02x}" for code in _NO_UTF8}
_IN_JSON = {code: f"\\u{code:04x}" for code in (*_HIGH, *_NO_UTF8)}  # json escapes the others
_UNRELIABLE = " †"  # behind an interval from few groups
_RESUME = "what was finished is kept: run it again with --resume"
_AGAIN = "run it again"
_ANOTHER = "name another place with --out"
_ALLOW = "change its permissions (`ls -l` shows them), or name another file or folder"
_FILE_FAULTS = {
    errno.ENOSPC: ("the disk is full", "make room; {again}"),
    errno.EDQUOT: ("your quota is used up", "make room; {again}"),
    errno.EROFS: ("the disk is read-only", "name a folder that can be written to; {again}"),
    errno.EACCES: ("you have no permission", _ANOTHER),
    errno.EPERM: ("you have no permission", _ANOTHER),
    errno.EEXIST: ("a file of this name is in the way of a folder", _ANOTHER),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", _ANOTHER),
    errno.EISDIR: ("this is a folder, not a file", _ANOTHER),
    errno.ENOENT: ("there is no such place", _ANOTHER),
    errno.ENAMETOOLONG: ("the name is too long", _ANOTHER),
}
"""What a failure of the file system means, and what to do about it (``again``: how to go on)."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def console(stderr: bool = False) -> Console:
    """A Rich console; imported late, since ``--help`` needs none."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        """Shows control characters in names of files, classes and patients instead of obeying."""

        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            shown = (
                part if part.control else Segment(part.text.translate(_CONTROLS), part.style)
                for part in buffer
            )
            return super()._render_buffer(shown)

    return Plain(stderr=stderr, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Styled:
    """A part of a line that stands out on a terminal that shows colours."""

    text: str
    colour: str | None = None
    bold: bool = False

    def __str__(self) -> str:
        shown = self.text.translate(_CONTROLS)
        if os.environ.get("NO_COLOR"):
            return shown
        return typer.style(shown, fg=self.colour, bold=self.bold or None)


def say(*parts: str | Styled, err: bool = False) -> None:
    """Print a line; control characters in names are shown, not obeyed.

    Rich, whose import costs as much as answering an image, is for tables and progress.
    """
    shown = (part.translate(_CONTROLS) if isinstance(part, str) else str(part) for part in parts)
    typer.echo("".join(shown), err=err)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn errors into one clear message and an exit code; a returned number is the exit code."""
    resumes = "resume" in inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except LeukoscopeError as error:
            if GLOBAL_OPTIONS.debug:
                raise
            _print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say(f"stopped; {_RESUME}" if resumes else "stopped", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except Exception as error:
            if GLOBAL_OPTIONS.debug:
                raise
            if isinstance(error, OSError) and (number := _number_of(error)) in _FILE_FAULTS:
                what, hint = _FILE_FAULTS[number]
                place = str(error.filename or "a file").removesuffix(".partial")
                hint = hint.format(again=_RESUME if resumes else _AGAIN)
                if number in (errno.EACCES, errno.EPERM) and not _is_output(place, kwargs):
                    hint = _ALLOW
                _print_error(LeukoscopeError(f"{place}: cannot be used, {what}", hint=hint))
                raise typer.Exit(1) from None
            say(
                f"error: {type(error).__name__}: {error}\n"
                "  → this looks like a bug in Leukoscope; run again as "
                "`leukoscope --debug …` and report the traceback",
                err=True,
            )
            raise typer.Exit(1) from None
        if code:
            raise typer.Exit(code)

    return wrapped


def _is_output(place: str, given: Mapping[str, object]) -> bool:
    """Whether a place is what the command writes to, in it or above it, as far as it says that."""
    out = given.get("out")
    if not isinstance(out, str | Path):
        return "out" in given
    written, used = Path(out).absolute(), Path(place).absolute()
    return used.is_relative_to(written) or written.is_relative_to(used)


def _number_of(error: OSError) -> int | None:
    """The system's number of a fault; NumPy only says how much of an array found room."""
    short = error.errno is None and _SHORT_WRITE.search(str(error))
    return errno.ENOSPC if short else error.errno


def _print_error(error: LeukoscopeError) -> None:
    out = console(stderr=True)
    out.print("[bold red]error:[/] ", end="")
    out.print(error.message, markup=False)
    if error.hint:
        out.print(f"  → {error.hint}", markup=False)


def print_json(value: object) -> None:
    """Write ``value`` to standard output as JSON, for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False).translate(_IN_JSON))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, width: int = 0) -> None:
    """Print rows in columns without lines, at least ``width`` characters wide if given.

    With a width only the first column, a name, is wrapped where there is too little room.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, no_wrap=width > 0 and place > 0, overflow="fold")
    unreliable = False
    for row in rows:
        table.add_row(*row)
        unreliable = unreliable or any(cell.endswith(_UNRELIABLE) for cell in row)
    out = console()
    out.width = max(out.width, width)
    out.print(table)
    if unreliable:
        from leukoscope.reporting.formats import UNRELIABLE_NOTE

        out.print(UNRELIABLE_NOTE, markup=False)


def print_verdict(level: str, headline: str, needs: Iterable[str] = ()) -> None:
    """Print the level and sentence of a verdict, and what would settle open points."""
    from leukoscope.evaluation.verdict.rule import level_words

    out = console()
    colour = LEVEL_COLOURS.get(level, "bold")
    out.print(f"\n[bold]verdict[/] ([{colour}]{level_words(level)}[/]): ", end="")
    out.print(headline, markup=False)
    for text in needs:
        out.print(f"· to settle it: {text}", markup=False)


def print_sources(metrics: StudyMetrics) -> None:
    """Print the sources of shortcuts, and what the model follows on swapped grounds."""
    from leukoscope.evaluation.verdict.grounds import swapped_grounds
    from leukoscope.evaluation.verdict.sentences import share_text

    verdict, rows = metrics.verdict, []
    for row in verdict.sources:
        known = row.share is not None and row.share.value is not None
        share = share_text(row.share, "") if known else "–"
        rows.append((row.source, row.status, share, row.reason or row.probe))
    if rows:
        print_table(("shortcut", "status", "share of the advantage", "by"), rows)
    recipe = next((row.recipe for row in metrics.results), None)
    seen = swapped_grounds(metrics, recipe).get(verdict.protocol or "")
    if seen is not None:
        console().print(seen.sentence(), markup=False)


def print_subgroups(metrics: MetricsFile) -> None:
    """Print by which columns the accuracy differs, where the manifest has any."""
    from leukoscope.reporting.result_tables import in_words

    if metrics.subgroups is not None:
        for sentence in in_words(metrics.subgroups):
            console().print(sentence, markup=False)


def print_notes(notes: Iterable[str]) -> None:
    """Print warnings."""
    for note in notes:
        console().print(f"[yellow]![/] {note}")


def with_interval(found: Estimate | Measured) -> str:
    """A number between 0 and 1 with its interval; a dagger marks an unreliable one."""
    if found.low is None or found.high is None:
        return without_interval(found)
    mark = "" if found.reliable else _UNRELIABLE
    return f"{without_interval(found)} ({found.low:.3f}–{found.high:.3f}){mark}"


def without_interval(found: Estimate | Measured) -> str:
    """The number alone; a dash where it is undefined."""
    return "—" if found.value is None else f"{found.value:.3f}"


def agreed(question: str) -> bool:
    """Ask for confirmation.

    Raises:
        UsageError: There is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise UsageError("expected an answer, but there is no terminal to ask on", hint="say --yes")
    return typer.confirm(question.translate(_CONTROLS), err=True)


def tell_left_out(words: str) -> None:
    """Say which files of a folder are no images, if there are any."""
    if words:
        say(f"! {words}", err=True)


def name_unreadable(files: Collection[tuple[str, str]]) -> int:
    """Print each unreadable file with its reason; returns the exit code."""
    for path, reason in files:
        say(f"could not be read: {path} ({reason})", err=True)
    return EXIT_SOME_UNREADABLE if files else 0


def required_data(data: Path | None, example: str) -> Path:
    """The data argument of a command that needs one.

    Raises:
        UsageError: It is missing; shows the example.
    """
    if data is None:
        raise UsageError("which data? name a folder of images or a CSV manifest", hint=example)
    return data


def given_options(context: typer.Context) -> set[str]:
    """The names of the parameters that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


_LINE_EVERY_S = 30.0


@dataclass
class _Bars:
    """Draws one progress bar per step, in the order in which the steps start."""

    bars: RichProgress
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self.tasks:
            self.tasks[step] = self.bars.add_task(step, total=None)
        task = self.tasks[step]
        self.bars.update(task, completed=done, total=total or None)


@dataclass
class _Lines:
    """Prints a line when a step starts and one every half minute, for logs and pipes."""

    started: dict[str, tuple[float, int]] = field(default_factory=dict)
    printed_at: dict[str, float] = field(default_factory=dict)

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if step not in self.started:
            self.started[step] = (now, done)
            self.printed_at[step] = now
            say(f"· {step}", err=True)
        elif now - self.printed_at[step] >= _LINE_EVERY_S and done < total:
            self.printed_at[step] = now
            start, before = self.started[step]
            speed = (done - before) / (now - start)
            left = f", {duration((total - done) / speed)} left" if speed > 0 else ""
            say(f"· {step}: {100 * done // total} %{left}", err=True)


def duration(seconds: float) -> str:
    """A duration in words, roughly.

    >>> duration(42), duration(600), duration(90_000)
    ('42 s', '10 min', '25.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bars(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """A progress listener: bars on a terminal, lines elsewhere (standard error).

    ``unit`` is the name of what is counted, to show a speed; empty shows none.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.progress import (
        BarColumn,
        Progress,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g} {unit}/s" if unit and task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        Speed(""),
    )
    with Progress(*columns, console=console(stderr=True)) as bars:
        yield _Bars(bars)
