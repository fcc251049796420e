"""``relabel``: a queue of labels to check, a page to check them in, and the corrected manifest."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    command,
    console,
    name_unreadable,
    print_json,
    progress_bars,
    say,
)
from leukoscope.cli.options import JsonOption, RunRecipeOption
from leukoscope.core.program import typed
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.analyses.corrections import Provenance
    from leukoscope.config.relabel_queue import ListName, Queue


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "relabel",
        epilog="Example: leukoscope relabel run, then "
        "leukoscope relabel run --apply corrections.csv --out manifest.v2.csv",
    )(relabel)


@command
def relabel(
    run: Annotated[Path, typer.Argument(help="Folder of a finished study or training run.")],
    recipe: RunRecipeOption = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", "-p", help="Default: deduplicated, grouped, … or random."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Maximum rows per list.")] = 200,
    apply_file: Annotated[
        Path | None, typer.Option("--apply", help="The corrections.csv that the page saved.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --apply: the new manifest.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Queue labels that look wrong; apply corrections.

    Writes a page to check them on.
    """
    from leukoscope.core.errors import UsageError
    from leukoscope.core.run_folder import RunFolder

    if (apply_file is None) != (out is None):
        raise UsageError(
            "--apply and --out belong together: corrections, and the manifest to write them to",
            hint=f"to make the queue, leave both out: it goes to {run / 'relabel'}",
        )
    if apply_file is not None and out is not None:
        from leukoscope.analyses.corrections import apply_corrections

        provenance = apply_corrections(RunFolder(run), apply_file, out)
        print_json(provenance) if as_json else _print_changes(provenance, out)
        return 0
    from leukoscope.analyses.relabel import make_queue, write_queue

    queue = make_queue(RunFolder(run), recipe=recipe, protocol=protocol, count=count)
    with progress_bars() as show:
        page, missing = write_queue(RunFolder(run), queue, partial(show, "images of the page"))
    print_json(queue.to_json()) if as_json else _print_queue(queue, page)
    return name_unreadable([(path, "no picture in the page") for path in missing])


def _print_queue(queue: Queue, page: Path) -> None:
    out = console()
    found = queue.label_errors
    out.print(
        f"{plural(queue.n, 'image')}; {queue.recipe} on {' and '.join(queue.inputs)}, "
        f"{queue.protocol}: {queue.protocol_means}",
        markup=False,
    )
    if queue.n_untested:
        out.print(f"[yellow]![/] not tested and not judged: {plural(queue.n_untested, 'image')}")
    out.print(
        f"likely label errors  {found.likely} (estimated share of wrong labels "
        f"{found.estimated_share:.1%}, the model's own errors among them)\n"
        f"conflicting pairs    {found.conflicts}",
        markup=False,
    )
    titles: dict[ListName, str] = {
        "label": "doubtful labels", "uncertain": "least certain", "ood": "unlike the others",
    }  # fmt: skip
    for name, title in titles.items():  # what is shown adds up to the queue
        entry = queue.lists[name]
        more = "" if name == "label" else " more"
        text = f"none: {entry.absent}" if entry.absent else f"{entry.shown}{more} in queue"
        out.print(f"{title:20s} {text}", markup=False)
    say(f"\nqueue {plural(len(queue.rows), 'image')}\npage  {page}\n{DISCLAIMER}")


def _print_changes(provenance: Provenance, out: Path) -> None:
    made = provenance["decisions"]
    decided = ", ".join(f"{n} {name}" for name, n in made.items() if n)
    changes = provenance["changes"]
    pairs = Counter(f"{row['old']} → {row['new']}" for row in changes)
    say(f"{decided}; {provenance['not_decided']} of the queue not decided")
    say(f"{plural(len(changes), 'label')} changed")
    for pair, n in sorted(pairs.items()):
        say(f"  {n:4d}  {pair}")
    if provenance["excluded_left_out"]:
        say(f"left out as excluded: {plural(provenance['excluded_left_out'], 'image')}")
    say(f"! {provenance['caution']}")
    say(f"\nmanifest    {out}\nprovenance  {out.with_name(f'{out.stem}.provenance.json')}")
    say(f"next        {typed('study', out)}")
