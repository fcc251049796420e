"""``doctor`` and ``demo``: is everything there, and what does it do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    print_json,
    print_verdict,
    progress_bars,
    say,
)
from leukoscope.cli.options import JsonOption
from leukoscope.core.program import typed


def register(app: typer.Typer) -> None:
    """Add both commands to the program."""
    app.command("doctor", epilog="Example: leukoscope doctor")(doctor)
    app.command("demo", epilog="Example: leukoscope demo --out demo")(demo)


@command
def doctor(as_json: JsonOption = False) -> int:
    """Check the installation: PASS or FAIL, and the fix."""
    from dataclasses import asdict

    from leukoscope.analyses.doctor import run_checks

    checks = run_checks()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        out = console()
        colours = {"PASS": "green", "FAIL": "red", "NOTE": "yellow"}
        for check in checks:
            out.print(f"[{colours[check.status]}]{check.status}[/] {check.name}: ", end="")
            out.print(check.detail, markup=False)
            if check.fix:
                out.print(f"     → {check.fix}", markup=False)
    return int(any(check.status == "FAIL" for check in checks))


@command
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for phantoms and run.")] = Path(
        "demo"
    ),
    images: Annotated[int, typer.Option(help="Number of phantom fields.")] = 96,
) -> None:
    """Do everything once on drawn smears, in minutes.

    Draws them, audits, trains, writes a report, packs a bundle and predicts with it.
    """
    say("drawing smears, running a study on them, predicting new ones", err=True)
    from leukoscope.analyses.demo import run_demo

    with progress_bars() as show:
        result = run_demo(out, images=images, listener=show, say=partial(say, err=True))
    print_verdict(result.verdict.level, result.verdict.headline, result.verdict.needs)
    say(f"\nreport       {result.report}")
    say(f"bundle       {result.bundle}")
    say(f"predictions  {result.predictions}")
    say(f"\ntry          {typed('predict', result.example, '--bundle', result.bundle)}")
    say(DISCLAIMER)
