"""``serve`` and ``audit-log``: the HTTP service, and the record of what was predicted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli import options as opt
from leukoscope.cli.console import DISCLAIMER, command, console, print_json, progress_bars, say
from leukoscope.core.views import is_or_are, plural

audit_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Verify or replay the record of predictions.",
)
NO_BUNDLE = "no bundle was named and none is installed"
LogArgument = Annotated[Path, typer.Argument(help="The file that --audit-log wrote.")]

ServedBundlesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle",
        "-b",
        help="Bundle; may be repeated, the first is the default. Default: the installed ones.",
    ),
]
HostOption = Annotated[str, typer.Option(help="Address; 0.0.0.0 for all, needs a key.")]
PortOption = Annotated[int, typer.Option(help="Port; 0 takes a free one.")]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(help="File with the API key; else the variable LEUKOSCOPE_API_KEY."),
]
WithoutKeyOption = Annotated[
    bool,
    typer.Option("--without-key", help="Ask for no key, although other machines can reach it."),
]
RateLimitOption = Annotated[
    int | None,
    typer.Option(
        help="Requests a client may make in a minute; 0: any number. "
        "Default: 0 on this machine alone, else 600."
    ),
]
CorsOriginOption = Annotated[
    list[str] | None,
    typer.Option(help="Web origin whose scripts may call the API (CORS); may be repeated."),
]
QueueOption = Annotated[int, typer.Option(help="Images that may wait for each model.")]
BatchOption = Annotated[int, typer.Option(help="Largest batch of images.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Default: every core.")]
RequestTimeoutOption = Annotated[float, typer.Option(help="Seconds after which a request fails.")]
UploadTimeoutOption = Annotated[
    float, typer.Option(help="Seconds that the upload of a request may take.")
]
DrainOption = Annotated[
    float, typer.Option(help="Seconds between a stop signal and closing the port.")
]
OpenPageOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def register(app: typer.Typer) -> None:
    """Add the command and the group to the program."""
    app.command("serve", epilog="Example: leukoscope serve --bundle run/bundle --open")(serve)
    app.add_typer(audit_app, name="audit-log")


@command
def serve(
    bundle: ServedBundlesOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    engine: opt.EngineOption = "auto",
    precision: opt.PrecisionOption = "auto",
    audit_log: opt.AuditLogOption = None,
    api_key_file: ApiKeyFileOption = None,
    without_key: WithoutKeyOption = False,
    rate: RateLimitOption = None,
    cors_origin: CorsOriginOption = None,
    queue: QueueOption = 512,
    batch: BatchOption = 8,
    threads: ThreadsOption = None,
    um_per_px: opt.UmPerPxOption = None,
    scale_bar_um: opt.ScaleBarOption = None,
    whole: opt.WholeOption = False,
    timeout: RequestTimeoutOption = 30.0,
    upload_timeout: UploadTimeoutOption = 30.0,
    drain: DrainOption = 1.0,
    open_page: OpenPageOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Answer over HTTP and on a web page, as predict does."""
    from leukoscope.service.server import check_binding, is_loopback, read_key
    from leukoscope.service.server import serve as run
    from leukoscope.service.settings import ServiceSettings

    folders = _folders(bundle)
    local = is_loopback(host)
    settings = ServiceSettings(
        queue_images=queue,
        batch_images=batch,
        threads=threads,
        um_per_px=um_per_px,
        scale_bar_um=scale_bar_um,
        whole=whole,
        timeout_s=timeout,
        upload_s=upload_timeout,
        drain_s=drain,
        rate_per_minute=rate if rate is not None else 0 if local else 600,
        hosts=("127.0.0.1", "localhost", "::1", host) if local else (),
        cors_origins=tuple(cors_origin or ()),
        api_key=read_key(api_key_file),
    )
    check_binding(host, settings, without_key=without_key)
    run(
        folders,
        settings,
        host=host,
        port=port,
        engine=engine,
        precision=precision,
        audit_log=audit_log,
        listening=partial(_show_address, as_json=as_json, open_page=open_page),
    )


def _folders(bundles: list[Path] | None) -> list[Path]:
    """The bundles that were named, or else those that are installed."""
    from leukoscope.core.errors import UsageError
    from leukoscope.runtime.bundle import bundle_folder, installed_bundles

    folders = [bundle_folder(folder) for folder in bundles or installed_bundles()]
    if not folders:
        raise UsageError(NO_BUNDLE, hint="say --bundle RUN/bundle, or install leukoscope-bundles")
    return folders


def _show_address(address: str, *, as_json: bool, open_page: bool) -> None:
    """Say where the server answers, and open its page if wanted."""
    if as_json:
        print_json({"address": address})
    else:
        say(f"{address}  (stop: Ctrl+C)\n{DISCLAIMER}", err=True)
    if open_page:
        import webbrowser

        webbrowser.open(address)


@audit_app.command("verify", epilog="Example: leukoscope audit-log verify audit.jsonl")
@command
def verify(
    log: LogArgument,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="HASH", help="A hash kept elsewhere; must be in the chain."),
    ] = None,
    as_json: opt.JsonOption = False,
) -> int:
    """Find changed, removed or exchanged lines; exit code 1 where there are any."""
    from leukoscope.runtime.audit_log import verify_log

    found = verify_log(log, head=head)
    if as_json:
        names = ("entries", "recovered", "head", "problem")
        print_json({name: getattr(found, name) for name in names})
    else:
        colour, word = ("red", "BROKEN") if found.problem else ("green", "HOLDS")
        console().print(f"[{colour}]{word}[/] ", end="")
        text = plural(found.entries, "line") + (", then " if found.problem else "") + found.problem
        if found.recovered:
            are = is_or_are(found.recovered)
            text += f"; {plural(found.recovered, 'line')} cut off by a kill {are} recorded as such"
        console().print(text, markup=False)
        say(f"head {found.head}")
        if head is None and not found.problem:
            say("truncation is only detected with --head HASH", err=True)
    return int(bool(found.problem))


@audit_app.command("replay", epilog="Example: leukoscope audit-log replay audit.jsonl")
@command
def replay(
    log: LogArgument,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Default: the recorded folder.")
    ] = None,
    search: Annotated[
        Path | None, typer.Option("--search", help="Folder to look for a bundle of that hash.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> int:
    """Predict every entry again and compare; exit code 1 for a difference, 3 if some are gone."""
    from collections import Counter
    from dataclasses import asdict

    from leukoscope.runtime.audit_log import verify_log
    from leukoscope.runtime.audit_replay import replay_log

    total = verify_log(log).entries
    counts: Counter[str] = Counter()
    unequal = []
    with progress_bars() as show:
        listener = lambda done: show("predicting again", done, total)  # noqa: E731
        for row in replay_log(log, bundle=bundle, search=search, listener=listener):
            counts[row.result] += 1
            if row.result != "same":
                unequal.append(row)
    if as_json:
        print_json({"counts": dict(counts), "entries": [asdict(row) for row in unequal]})
    else:
        for row in unequal:
            line = f"line {row.sequence}, {row.path}: {row.result}: {row.detail}"
            console().print(line, markup=False)
        say(
            f"{counts['same']} same, {counts['differs']} differ, "
            f"{counts['not replayed']} not replayed"
        )
    return 1 if counts["differs"] else 3 if counts["not replayed"] else 0
