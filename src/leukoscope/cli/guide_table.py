"""What the guide offers, in the order of the work. A new command is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Entry:
    """One line of the menu.

    Attributes:
        title: What it does for a person who does not know the command.
        command: The command, such as ``data inspect``.
        asks: Parameters that are asked for, in this order, by their names in Python; with a
            ``!`` the guide insists on an answer. All others can be set on request.
        fixed: Arguments that this entry always gives.
        gives: What the command leaves behind for later questions: the name of a parameter and a
            path, in which ``{out}`` stands for the answer to that question.
    """

    title: str
    command: str
    asks: str = ""
    fixed: tuple[str, ...] = ()
    gives: tuple[tuple[str, str], ...] = ()


_RUN = (("run", "{out}"), ("bundle", "{out}/bundle"))
_DATA = (("data", "{out}"),)

ENTRIES: Mapping[str, tuple[Entry, ...]] = MappingProxyType(
    {
        "Start": (
            Entry("See everything once, on drawn images", "demo", "out",
                  gives=(("run", "{out}/run"), ("bundle", "{out}/run/bundle"))),
            Entry("Check the installation", "doctor"),
            Entry("Fetch a public data set", "data fetch", "name! out", gives=_DATA),
            Entry("Draw phantom smears with known truth", "phantom", "out! images confound",
                  gives=_DATA),
        ),
        "Data": (
            Entry("How would this folder be read?", "data inspect", "data"),
            Entry("Find duplicates, overlaps, sessions", "data audit", "data out"),
            Entry("Find samples of each class", "data samples", "data out per_class"),
            Entry("See what preprocessing does", "data preview", "data recipe out steps"),
            Entry("Write preprocessed images to disk", "data export", "data recipe out variant"),
            Entry("Divide the images without leaks", "data split", "data protocol! out"),
            Entry("Which public sets have frozen splits?", "data frozen"),
            Entry("Use the frozen splits of a public set", "data split", "data frozen! out"),
        ),
        "Models": (
            Entry("Which recipes are there?", "recipes list"),
            Entry("Show a recipe in full", "recipes show", "name"),
            Entry("Which backbones, and are their weights here?", "models list"),
            Entry("Show a backbone and check that it loads", "models show", "name"),
            Entry("Plan a study: work, time, disk", "study", "data! recipe protocol",
                  fixed=("--plan",)),
            Entry("Run a study: train, measure, report, pack", "study",
                  "data! recipe protocol out", gives=_RUN),
            Entry("Go on with a stopped study", "study", "out!", fixed=("--resume",), gives=_RUN),
            Entry("Train one recipe", "train", "data recipe protocol out", gives=_RUN),
            Entry("Search a recipe's values", "tune", "data! recipe trials out"),
            Entry("Does a detour over other data help?", "transfer",
                  "source target recipe protocol out"),
            Entry("What does a part of a recipe bring?", "ablate", "data recipe without out"),
            Entry("Which labels look wrong? A page to check them", "relabel", "run"),
            Entry("Write the corrected labels as a new data set", "relabel",
                  "run! apply_file! out!", gives=(("data", "{out}"),)),
            Entry("Combine finished runs", "ensemble", "runs! method out", gives=_RUN),
            Entry("Compare runs: tables, tests, figures", "compare", "runs out"),
        ),
        "Trained model": (
            Entry("Look for shortcuts in a study, or audit another model", "probe",
                  "what! data classes predictions probes out"),
            Entry("Measure a bundle on other images", "evaluate", "bundle data out"),
            Entry("Show where a model looks", "explain", "run images method count"),
            Entry("Measure whether its heat maps may be believed", "explain", "run method masks",
                  fixed=("--audit",)),
            Entry("What do blur, stain, light and noise cost it?", "robustness",
                  "run recipe protocol images"),
            Entry("Map what a model's features follow", "features", "run recipe"),
            Entry("Pack a trained model", "export", "run out", gives=(("bundle", "{out}"),)),
            Entry("Which bundles are there?", "bundle list", "folder"),
            Entry("Show what a bundle knows", "bundle show", "bundle"),
            Entry("Check that a bundle computes the same here", "bundle verify", "bundle"),
            Entry("Predict images", "predict", "images bundle out"),
            Entry("Predict a whole archive, in shards", "score", "images bundle out"),
            Entry("Is a scored archive complete?", "score", "out!", fixed=("--verify",)),
            Entry("Does the record of predictions hold?", "audit-log verify", "log head"),
            Entry("Predict again what a record says", "audit-log replay", "log bundle"),
            Entry("Answer over HTTP, with a web page", "serve", "bundle! open_page"),
        ),
        "Clean up": (
            Entry("List runs: size, recipes, verdict", "runs list", "root"),
            Entry("Remove runs", "runs clean", "names keep_report"),
        ),
    }
)  # fmt: skip
"""By group, in the order of the work."""

LEFT_OUT: Mapping[str, str] = MappingProxyType({"guide": "this is it"})
"""Public commands without an entry, and why."""


def all_entries() -> list[Entry]:
    """Every entry, in the order of the menu."""
    return [entry for group in ENTRIES.values() for entry in group]
