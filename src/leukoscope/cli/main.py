"""The program: ``leukoscope``, also ``python -m leukoscope``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

from leukoscope.cli.console import DISCLAIMER, GLOBAL_OPTIONS, say
from leukoscope.cli.lean import lean_process
from leukoscope.core.program import __version__

GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "Start": {
            "demo": ("setup", "Do everything once on drawn smears, in minutes."),
            "guide": ("guide", "Choose from a menu; see each command and run it."),
            "new": ("study_file", "Write a commented study file to edit, commit and run."),
            "study": ("study", "Audit, split, train, measure, explain, report, pack."),
            "predict": ("predict", "Classify images: probabilities, set, decision, reasons."),
            "serve": ("serve", "Answer over HTTP and on a web page, as predict does."),
            "doctor": ("setup", "Check the installation: PASS or FAIL, and the fix."),
        },
        "Train": {
            "train": ("study", "Train one recipe under one protocol."),
            "tune": ("tune", "Search a recipe's values on validation images only."),
            "transfer": ("arms", "Does pretraining on other data help? Train both ways."),
            "ablate": ("arms", "Train with and without each part of a recipe."),
            "ensemble": ("compare", "Combine the predictions of finished runs."),
            "recipes": ("lists", "Recipes (ways to make a model): list, show."),
            "models": ("lists", "Backbones, and whether their weights are on this machine."),
            "runs": ("lists", "Run folders: list, clean up."),
        },
        "Examine": {
            "compare": ("compare", "Compare recipes and runs on the same test images."),
            "evaluate": ("bundle", "Measure a bundle on other labelled images."),
            "probe": ("probe", "Look for shortcuts in a study, or in any other model."),
            "explain": ("explain", "Draw heat maps; measure whether they are reliable."),
            "features": ("explain", "Map what a model's features encode."),
            "robustness": ("robustness", "Measure what blur, stain, light and noise cost."),
            "relabel": ("relabel", "Queue labels that look wrong; apply corrections."),
        },
        "Use": {
            "export": ("bundle", "Pack a trained model as a bundle."),
            "bundle": ("bundle", "Bundles (packed models): list, show, verify, share."),
            "score": ("score", "Score a large archive, each image exactly once."),
            "count": ("count", "Count cell types by patient, with intervals."),
            "audit-log": ("serve", "Verify or replay the record of predictions."),
        },
        "Data": {
            "data": ("data", "Fetch, inspect, audit, split, preview, export images."),
            "phantom": ("data", "Draw schematic blood smears with known truth."),
        },
    }
)
"""How ``--help`` shows the commands: by what they are for, the main line first; each with the
module that holds it and the first line of its own help, so that no module is imported for that."""
HOMES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}
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


class Commands(Mapping[str, object]):
    """The commands by name. The module of one is imported when it is asked for."""

    def __init__(self) -> None:
        self._found: dict[str, object] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._found:
            part = typer.Typer(rich_markup_mode=None)
            import_module(f"leukoscope.cli.commands.{HOMES[name]}").register(part)
            self._found |= get_group(part).commands
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


class Program(TyperGroup):
    """Shows its commands in groups, and answers a mistyped word with the nearest one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = cast(Any, Commands())

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under the titles of :data:`GROUPS`."""
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in group.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; for one that there is not, name what was probably meant."""
        name = args[0] if args else ""
        if name not in HOMES:
            homes = [
                f"{group} {name}"
                for group, found in self.commands.items()
                if name in getattr(found, "commands", {})
            ] or ([MEANT[name]] if name in MEANT else [])
            if homes:
                ctx.fail(f"No such command {name!r}. Did you mean {' or '.join(map(repr, homes))}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; for a word that it does not take, name what was probably meant."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "option_name") and hasattr(error, "possibilities"):
                _name_the_nearest(error)
            elif "extra argument" in str(getattr(error, "message", "")):
                _name_the_bundle(error)
            raise


def _name_the_bundle(error: Any) -> None:
    """Add to "unexpected extra argument" how a command is given its bundle, if it takes one."""
    if any("--bundle" in item.opts for item in error.ctx.command.params):
        error.message += ". A bundle is named with --bundle."


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


def run() -> None:
    """Entry point of the console script."""
    with lean_process():
        app()
