"""Scoring of any number of images: planned, divided into shards, committed once, verified."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leukoscope.core.errors import MissingExtraError, UnknownNameError, UsageError
from leukoscope.core.files import LeftOut, atomic_path, csv_writer, sha256_file, write_json
from leukoscope.core.program import __version__
from leukoscope.core.run_folder import only_writer
from leukoscope.runtime.bundle import Bundle, installed_bundles, read_bundle
from leukoscope.runtime.bundle_matching import choose_bundle
from leukoscope.runtime.engine_choice import open_for
from leukoscope.runtime.engines import available_cores
from leukoscope.runtime.outputs import csv_cells
from leukoscope.scale.fetching import URL_RULES, UrlRule, image_names, is_url, local_files
from leukoscope.scale.journal import Journal, ShardResult, read_journal
from leukoscope.scale.score_plan import (
    Plan,
    Request,
    ScoreFolder,
    load_plan,
    read_inputs,
    sample_inputs,
    write_inputs,
)
from leukoscope.scale.shard import STALL_S, Open, Scorer, Task, score_in_processes, score_on_ray

ENGINES = ("local", "ray")
Show = Callable[[int, int], None]
_NAMED = 20  # problems that are worded; all are counted


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Attributes:
        engine: ``local`` (processes of this machine) or ``ray``.
        count: Number of processes or actors; 0 takes one for each core of this machine.
        threads: Cores of each; 0 divides those of this machine.
        ray_address: Of a running cluster.
        stall_s: Seconds without a sign of life after which a process is replaced.
        open_scorer: What each local process opens; another only in tests and benchmarks.
    """

    engine: str = "local"
    count: int = 0
    threads: int = 0
    ray_address: str | None = None
    stall_s: float = STALL_S
    open_scorer: Open = Scorer

    def resolved(self) -> tuple[int, int]:
        """Number of workers, and threads of each."""
        cores = available_cores()
        count = self.count or cores
        return count, self.threads or max(1, cores // count)


@dataclass(frozen=True)
class ScoreResult:
    """What a finished run holds.

    Attributes:
        folder: The run's.
        images: Number of images.
        unreadable: Of these without a prediction.
        decisions: Number of images by decision.
        predicted: Number of images by class.
        scored_now: Images of this call; the others had been done before.
    """

    folder: ScoreFolder
    images: int
    unreadable: int
    decisions: dict[str, int]
    predicted: dict[str, int]
    scored_now: int


def plan_scoring(
    folder: ScoreFolder,
    request: Request,
    *,
    workers: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Write down what is to be done: every image's name, the bundle, how it is opened.

    Engine and precision are chosen here, once, so that all workers compute alike.

    Args:
        folder: Of the run; must hold none.
        request: What the user asks for.
        workers: How many there will be; the number may change later.
        note: Told in words of names that lead out of the folder of their table or list, and of
            tables and texts among the images.

    Raises:
        UsageError: The folder holds a run, no source is named, nothing lies behind one, or a
            table names a URL against the rule.
        DataError: A manifest cannot be read, or a URL cannot be listed.
        BundleError: The bundle is damaged.
        MissingExtraError: pyarrow or fsspec is needed and not installed.
    """
    _check_can_begin(folder, request)
    sources = request.sources or ()
    urls: UrlRule = request.urls or "none"
    with only_writer(folder.path, "scores into"):
        outside, left_out = _Outside(), LeftOut()
        names = image_names(
            sources, request.root, urls=urls, outside=outside.add, left_out=left_out
        )
        if urls == "none" and any(is_url(typed) for typed in (*sources, request.root or "")):
            urls = "any"  # tables were held to their rule; what was typed may be read
        images, inputs_sha256, in_shard = write_inputs(folder, names, request.shard_images, workers)
        if not images:
            raise UsageError(f"no image in {', '.join(sources)}", hint="check the spelling")
        for words in filter(None, (outside.words, left_out.words)):
            note(words)
        bundle, reason = _bundle(request, sample_inputs(folder, images, in_shard), urls)
        opened = open_for(bundle, request.engine or "auto", request.precision or "auto", threads=1)
        plan = Plan(
            bundle=str(bundle.folder.resolve()),
            reason=reason,
            bundle_sha256=bundle.sha256,
            engine=opened.name,
            precision=opened.precision,
            um_per_px=request.um_per_px,
            scale_bar_um=request.scale_bar_um,
            whole=bool(request.whole),
            shard_images=in_shard,
            images=images,
            inputs_sha256=inputs_sha256,
            sources=sources,
            root=request.root,
            urls=urls,
        )
        plan.save(folder)
    return plan


def _check_can_begin(folder: ScoreFolder, request: Request) -> None:
    """Refuse what cannot become a run before any name is listed."""
    if not request.sources:
        raise UsageError(
            "which images? name a folder, a manifest or a URL",
            hint="leukoscope score IMAGES --out scores",
        )
    if request.urls is not None and request.urls not in URL_RULES:
        raise UnknownNameError("rule for URLs", request.urls, URL_RULES)
    if find_spec("pyarrow") is None:
        raise MissingExtraError("scoring", "score")
    if request.shard_images is not None and request.shard_images < 1:
        raise UsageError(f"expected at least one image in a shard, got {request.shard_images}")
    if folder.plan.is_file():
        raise UsageError(
            f"{folder.path} already holds a scoring run",
            hint="add --resume to go on with it, or name a new folder with --out",
        )
    if request.bundle is not None:
        read_bundle(request.bundle)


class _Outside(LeftOut):
    """Counts names that lead out of their folder, and keeps the first."""

    @property
    def words(self) -> str:
        """In one line; empty where there is none."""
        what = f"names that lead out of the folder of their list: {self.count:,}"
        return f"{what}, such as {self.first}" if self.count else ""


def _bundle(request: Request, samples: Sequence[str], urls: UrlRule) -> tuple[Bundle, str]:
    """The bundle that was named, or the installed one that some images resemble, and why."""
    if request.bundle is not None:
        return read_bundle(request.bundle), f"{request.bundle}, named by the user"
    with tempfile.TemporaryDirectory(prefix="leukoscope-") as copies:
        fetched = local_files(samples, Path(copies), urls=urls)
        files = [found for found, _ in fetched if isinstance(found, Path)]
        chosen = choose_bundle(
            installed_bundles(), files, um_per_px=request.um_per_px, bar_um=request.scale_bar_um
        )
    return chosen.predictor.bundle, chosen.why


def resume_plan(folder: ScoreFolder, request: Request) -> Plan:
    """The plan of a run that goes on.

    The folder may come from somebody else: what it says to fetch is fetched only where the user
    says so as well, by the rule or by the URLs themselves.

    Args:
        folder: Of the run.
        request: Options given again.

    Raises:
        UsageError: There is no such run, an option differs from its plan, or the plan reads URLs
            and neither ``urls`` nor a URL among ``sources`` was given again.
        DataError: The plan is damaged.
    """
    plan = load_plan(folder)
    if changed := request.differences(plan):
        raise UsageError(
            f"{folder.plan}: the run was begun otherwise: {'; '.join(changed)}",
            hint="resume with --out and --resume alone, or name a new folder",
        )
    places = (*(request.sources or ()), request.root or "")
    typed = request.urls or any(is_url(place) for place in places)
    if plan.urls != "none" and not typed:
        raise UsageError(
            f"{folder.plan}: this run reads images from URLs",
            hint=f"if you trust this folder: --resume --urls {plan.urls}",
        )
    return plan


def run_scoring(
    folder: ScoreFolder, plan: Plan, workers: Workers, show: Show = lambda done, total: None
) -> ScoreResult:
    """Score every shard that is not committed yet, and write ``manifest.json``.

    Args:
        folder: Of the run.
        plan: Of :func:`plan_scoring` or :func:`resume_plan`.
        workers: Who does the work.
        show: Called with the number of images done, and of all.

    Raises:
        UnknownNameError: No engine of that name.
        UsageError: Another process scores into this folder, or no cluster answers.
        LeukoscopeError: A worker cannot go on; what is committed stays.
    """
    if workers.engine not in ENGINES:
        raise UnknownNameError("engine", workers.engine, ENGINES)
    with only_writer(folder.path, "scores into"):
        with closing(Journal(folder)) as journal:
            before = journal.images
            show(before, plan.images)
            for result in _results(folder, plan, workers, journal, show):
                journal.commit(result)
                show(journal.images, plan.images)
        write_quarantine(folder)
        scored = ScoreResult(
            folder=folder,
            images=journal.images,
            unreadable=journal.unreadable,
            decisions=dict(sorted(journal.decisions.items())),
            predicted=dict(sorted(journal.predicted.items())),
            scored_now=journal.images - before,
        )
        write_manifest(folder, plan, scored)
    return scored


def _results(
    folder: ScoreFolder, plan: Plan, workers: Workers, journal: Journal, show: Show
) -> Iterator[ShardResult]:
    count, threads = workers.resolved()
    if workers.engine == "ray":
        yield from score_on_ray(
            folder.path,
            plan,
            _open_shards(plan, journal),
            workers=count,
            threads=threads,
            address=workers.ray_address,
        )
    # With Ray only what its actors could not do: here the image that ends a process is found.
    left = (Task(shard) for shard in _open_shards(plan, journal))
    yield from score_in_processes(
        folder.path,
        plan,
        left,
        workers=count,
        threads=threads,
        stall_s=workers.stall_s,
        tell=lambda under_way: show(journal.images + under_way, plan.images),
        open_scorer=workers.open_scorer,
    )


def _open_shards(plan: Plan, journal: Journal) -> Iterator[int]:
    return (shard for shard in range(plan.shards) if shard not in journal.done)


def committed(folder: ScoreFolder) -> dict[int, ShardResult]:
    """The last line of the journal about each shard."""
    return {result.shard: result for result in read_journal(folder)}


def write_quarantine(folder: ScoreFolder) -> None:
    """List the images without a prediction, from the shards that have any."""
    import pyarrow.parquet as pq

    columns = ["row", "image", "error"]
    with (
        atomic_path(folder.quarantine) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        write = csv_writer(file, columns)
        for result in sorted(committed(folder).values(), key=lambda r: r.shard):
            if result.unreadable:
                table = pq.read_table(folder.path / result.files[0].name, columns=columns)
                for row in table.to_pylist():
                    if row["error"]:
                        write(csv_cells(row))


def write_manifest(folder: ScoreFolder, plan: Plan, result: ScoreResult) -> None:
    """Write the list of every file with rows and checksum, and what was found in all."""
    done = committed(folder)
    files = [
        {"file": file.name, "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}
        for shard in sorted(done)
        for file in done[shard].files
    ]
    write_json(
        folder.manifest,
        {
            "schema": 1,
            "leukoscope": __version__,
            "bundle_sha256": plan.bundle_sha256,
            "engine": f"{plan.engine} {plan.precision}",
            "inputs_sha256": plan.inputs_sha256,
            "images": result.images,
            "unreadable": result.unreadable,
            "decisions": result.decisions,
            "predicted": result.predicted,
            "files": files,
        },
    )


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        images: Number of images of the plan.
        found: Of these with a row in a committed shard.
        problems: In words, at most twenty.
        count: Number of problems.
    """

    images: int
    found: int
    problems: tuple[str, ...]
    count: int

    @property
    def complete(self) -> bool:
        """Whether every image has exactly one row in files that are as they were committed."""
        return self.count == 0 and self.found == self.images


def verify_scoring(folder: ScoreFolder) -> Verification:
    """Read every file of a run again and compare it with its plan and its journal.

    Raises:
        UsageError: The folder holds no run.
        DataError: Plan or journal cannot be read.
    """
    plan, done = load_plan(folder), committed(folder)
    problems: list[str] = []
    if not folder.inputs.is_file() or sha256_file(folder.inputs) != plan.inputs_sha256:
        problems.append(f"{folder.inputs.name}: not the list of images that the run began with")
        return Verification(plan.images, 0, tuple(problems), 1)
    found = 0
    for shard in range(plan.shards):
        if shard not in done:
            problems.append(f"{folder.shard(shard).name}: not scored; run again with --resume")
            continue
        wrong = _wrong(folder, plan, done[shard])
        problems += wrong
        if not wrong:
            found += len(plan.rows(shard))
    named = {folder.path / file.name for result in done.values() for file in result.files}
    for place in (folder.predictions, folder.parts):
        extra = sorted(set(place.glob("*.parquet")) - named)
        problems += [f"{path.name}: not of this run; move it away" for path in extra]
    return Verification(plan.images, found, tuple(problems[:_NAMED]), len(problems))


def _wrong(folder: ScoreFolder, plan: Plan, result: ShardResult) -> list[str]:
    for file in result.files:
        path = folder.path / file.name
        if not path.is_file():
            return [f"{file.name}: missing; run again with --resume"]
        if sha256_file(path) != file.sha256:
            return [f"{file.name}: changed after it was committed; delete it, then --resume"]
    return _wrong_rows(folder, plan, result.shard)


def _wrong_rows(folder: ScoreFolder, plan: Plan, shard: int) -> list[str]:
    import pyarrow.parquet as pq

    path: Path = folder.shard(shard)
    columns: dict[str, list[Any]] = pq.read_table(
        path, columns=["row", "image", "model", "error", "predicted"]
    ).to_pydict()
    if columns["row"] != list(plan.rows(shard)):
        return [f"{path.name}: expected the rows {plan.rows(shard)}, each once and in order"]
    names = [n.encode("utf-8", "backslashreplace").decode() for n in read_inputs(folder, shard)]
    if columns["image"] != names:
        return [f"{path.name}: its images are not those of the plan"]
    hashes = {model.rpartition("@")[2] for model in columns["model"] if model}
    if hashes - {plan.bundle_sha256[:12]}:
        return [f"{path.name}: rows of another bundle ({', '.join(sorted(hashes))})"]
    pairs = zip(columns["predicted"], columns["error"], strict=True)
    if any(bool(predicted) == bool(error) for predicted, error in pairs):
        return [f"{path.name}: a row with neither a prediction nor an error, or with both"]
    return []
