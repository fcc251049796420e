"""The program: ``leukoscope``, also ``python -m leukoscope``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from leukoscope.cli import (
    arms,
    bundle,
    compare,
    count,
    data,
    explain,
    guide,
    lists,
    predict,
    probe,
    relabel,
    robustness,
    score,
    serve,
    setup,
    study,
    tune,
)
from leukoscope.cli.console import DISCLAIMER, GLOBAL_OPTIONS, say
from leukoscope.core.program import __version__

_WRITTEN_BY = {"report": "study"}  # which writes the report of a run


class Program(TyperGroup):
    """Knows where a command of a group is, for people who leave the group out."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; for one that there is not, name what was probably meant."""
        name = args[0] if args else ""
        homes = [
            f"{group} {name}"
            for group, found in self.commands.items()
            if name in getattr(found, "commands", {})
        ] or [text for word, text in _WRITTEN_BY.items() if word == name]
        if name not in self.commands and homes:
            ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(map(repr, homes))}?")
        return super().resolve_command(ctx, args)


# Plain help: Rich markup would double the time that --help takes.
app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a folder of blood-smear images to a leukemia classifier that can be trusted "
        f"exactly as far as its report says. {DISCLAIMER}"
    ),
    epilog="First steps: leukoscope demo · leukoscope study DATA · leukoscope predict IMAGE",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"leukoscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    GLOBAL_OPTIONS.debug = debug


setup.register(app)
data.register(app)
study.register(app)
arms.register(app)
bundle.register_model(app)
explain.register(app)
robustness.register(app)
compare.register(app)
compare.register_ensemble(app)
predict.register(app)
count.register(app)
score.register(app)
serve.register_audit_log(app)
probe.register(app)
relabel.register(app)
tune.register(app)
bundle.register(app)
lists.register(app)
serve.register(app)
lists.register_runs(app)
guide.register(app)


def run() -> None:
    """Entry point of the console script."""
    app()
