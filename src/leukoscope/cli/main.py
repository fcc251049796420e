"""The program: ``leukoscope``, also ``python -m leukoscope``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
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
    study_file,
    tune,
)
from leukoscope.cli.console import DISCLAIMER, GLOBAL_OPTIONS, say
from leukoscope.core.program import __version__

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Start": ("demo", "guide", "new", "study", "predict", "serve", "doctor"),
        "Train": ("train", "tune", "transfer", "ablate", "ensemble", "recipes", "models", "runs"),
        "Examine": (
            "compare", "evaluate", "probe", "explain", "features", "robustness", "relabel",
        ),
        "Use": ("export", "bundle", "score", "count", "audit-log"),
        "Data": ("data", "phantom"),
    }
)  # fmt: skip
"""How ``--help`` shows the commands: by what they are for, the main line first."""
MEANT: Mapping[str, str] = MappingProxyType(
    {
        "report": "study",
        "init": "new",
        "test": "evaluate",
        "--model": "--bundle",
        "--output": "--out",
        "--epochs": "--set training.epochs=…",
        "--batch-size": "--set training.batch_size=…",
        "--lr": "--set training.learning_rate=…",
        "--gpus": "--devices",
    }
)
"""Words of other programs → ours."""


class Program(TyperGroup):
    """Shows its commands in groups, and answers a mistyped word with the nearest one."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under the titles of :data:`GROUPS`."""
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(200)) for name in names]
                )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; for one that there is not, name what was probably meant."""
        name = args[0] if args else ""
        homes = [
            f"{group} {name}"
            for group, found in self.commands.items()
            if name in getattr(found, "commands", {})
        ] or ([MEANT[name]] if name in MEANT else [])
        if name not in self.commands and homes:
            ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(map(repr, homes))}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; for an option that there is not, name what was probably meant."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "option_name") and hasattr(error, "possibilities"):
                _name_the_nearest(error)
            raise


def _name_the_nearest(error: Any) -> None:
    """Add to "No such option" what was probably meant, if the command has anything like it."""
    known = [name for item in error.ctx.command.params for name in item.opts]
    near = get_close_matches(error.option_name, known, n=1)
    ours = MEANT.get(error.option_name, "")
    if ours.partition(" ")[0] in known:
        near = [ours]
    if near:
        error.message += f". Did you mean {near[0]}?"
    error.possibilities = None


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
    epilog="First steps: leukoscope demo · leukoscope study IMAGES --out run",
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
study_file.register(app)
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
