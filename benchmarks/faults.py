"""Machines that fail under studies, scoring runs and the service: what is expected, what is seen.

python benchmarks/faults.py                          # the table of docs/results/faults.md
python benchmarks/faults.py --only score --kills 5

Commands run in children of this process, which are killed for real; disks that are full or
read-only are mounted in memory, which needs root. Ends with 1 where something else is seen than
was expected.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of a library would not survive a fork

from fault_serve import serve_cases
from fault_tools import (
    NOT_UTF8,
    Case,
    Command,
    NotTriedError,
    UnexpectedError,
    a_year_ahead,
    die_at_rename,
    expect,
    killed_chain,
    must,
    rename_hostile,
    run,
    small_disk,
    table,
)

SIZE = "preprocess.size_px=64"
QUICK = ("-r", "quick", "-p", "random", "--folds", "2", "--set", SIZE, "--set", "bootstrap=100",
         "--set", "control_draws=0")  # fmt: skip
LOADED = ("torch", "timm", "onnx", "cv2", "sklearn.linear_model", "leukoscope.cli.main",
          "leukoscope.study.run", "leukoscope.study.final_model", "leukoscope.pipeline.evidence",
          "leukoscope.pipeline.fitting", "leukoscope.scale.score")  # fmt: skip
"""What the children need, loaded once."""
SAME = "`--resume` gives the same `metrics.json`"
ONCE = "`--resume`, then `--verify`: each image in one row, equal to an undisturbed run"


def trace_network(classes: int) -> None:
    """Trace the network of ``QUICK`` once: each child would spend nine tenths of its time on it."""
    from leukoscope.config.loading import load_recipe
    from leukoscope.learning.backbones import build_network
    from leukoscope.learning.graphs.export import onnx_bytes

    recipe = load_recipe("quick", [SIZE])
    size_px = recipe.preprocess.size_px
    network = build_network(recipe.model, num_classes=classes, size_px=size_px)
    onnx_bytes(network, recipe.preprocess)


class Study:
    """``train`` on phantoms; ``study`` where the report counts too."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        self.options, self.kills = options, options.kills_each["study"]
        self.data = home / "phantoms"
        must("phantom", "--images", 36, "--size", 96, "--sessions", 4, "--out", self.data)
        trace_network(classes=4)
        started = time.monotonic()
        self.calm = self.train(home / "calm")
        self.span_s = time.monotonic() - started

    def train(self, out: Path, *more: object, data: Path | None = None) -> bytes:
        """A run that ends well; gives its statistics."""
        must("train", data or self.data, *QUICK, "--out", out, *more)
        return (out / "metrics.json").read_bytes()

    def resumes(self, out: Path) -> str:
        """Go on, compare."""
        expect(self.train(out, "--resume") == self.calm, "other statistics after --resume")
        return "the same `metrics.json`"

    def killed(self, out: Path) -> str:
        """The chain of kills."""

        def finished(number: int) -> None:
            expect((out / str(number) / "metrics.json").read_bytes() == self.calm, "statistics")

        def start(number: int) -> tuple[object, ...]:
            return ("train", self.data, *QUICK, "--out", out / str(number), "--resume")

        rng = random.Random(self.options.seed)
        words = killed_chain(start, self.kills, self.span_s, rng, finished)
        return f"{words}, all with the same `metrics.json`"

    def full(self, out: Path) -> str:
        """No room for the features."""
        with small_disk(out, 200) as change:
            done = run("train", self.data, *QUICK, "--out", out / "run")
            expect((done.code, "disk is full" in done.said) == (1, True), done.said)
            change("size=1g")
            return f"exit 1, the disk is full; {self.resumes(out / 'run')}"

    def read_only(self, out: Path) -> str:
        """A disk that takes nothing."""
        with small_disk(out, 1000) as change:
            change("ro")
            done = run("train", self.data, *QUICK, "--out", out / "run")
            expect((done.code, "disk is read-only" in done.said) == (1, True), done.said)
        return "exit 1, the disk is read-only"

    def stopped(self, out: Path) -> tuple[Path, Path]:
        """A copy of the data, and a run on it that was killed behind its splits."""
        data = shutil.copytree(self.data, out / "data")
        run("train", data, *QUICK, "--out", out / "run", before=die_at_rename(20))
        expect((out / "run/splits.csv").is_file(), "the run was killed too early")
        return data, out / "run"

    def removed(self, out: Path) -> str:
        """An image is gone when the run goes on."""
        data, folder = self.stopped(out)
        victim = sorted(data.glob("*/*.png"))[5]
        victim.unlink()
        done = run("train", data, *QUICK, "--out", folder, "--resume")
        expect((done.code, victim.name in done.said) == (1, True), done.said)
        return "exit 1, the file is named"

    def changed(self, out: Path) -> str:
        """Two images have changed places."""
        data, folder = self.stopped(out)
        first, *_, last = sorted(data.glob("*/*.png"))
        shutil.copy(last, first)
        done = run("train", data, *QUICK, "--out", folder, "--resume")
        expect((done.code, first.name in done.said) == (1, True), done.said)
        return "exit 1, the file is named"

    def clock(self, out: Path) -> str:
        """Everything was written in the future."""
        run("train", self.data, *QUICK, "--out", out, before=die_at_rename(20))
        a_year_ahead(out)
        return self.resumes(out)

    def two(self, out: Path) -> str:
        """A second run comes while the first one works."""
        first = Command("train", self.data, *QUICK, "--out", out)
        while not (out / "config.toml").is_file():
            time.sleep(0.01)
        second = run("train", self.data, *QUICK, "--out", out, "--resume")
        expect((second.code, f"process {first.pid}" in second.said) == (2, True), second.said)
        done = first.ended()
        expect(done.code == 0, f"the first one ended with {done.code}: {done.said}")
        expect((out / "metrics.json").read_bytes() == self.calm, "other statistics")
        return "exit 2, the first one is named and ends undisturbed"

    def slow(self, out: Path) -> str:
        """Each read of an image takes a fifth of a second."""

        def before() -> None:
            from leukoscope.imaging import decode

            true = decode._read

            def read(path: Path, most: int) -> bytes:
                time.sleep(0.2)
                return true(path, most)

            decode._read = read

        done = run("train", self.data, *QUICK, "--out", out, before=before)
        expect((out / "metrics.json").read_bytes() == self.calm, done.said)
        return "the same `metrics.json`"

    def names(self, out: Path) -> str:
        """Names that might break the audit, tables, figures, pages and the terminal."""
        data = shutil.copytree(self.data, out / "data")
        (data / "manifest.csv").unlink()  # the folders are the layout: it names the old names
        rename_hostile(data)
        more = ("--probe", "colour-only", "--set", "explanations=4")
        done = run("study", data, *QUICK, *more, "--out", out / "run")
        expect(done.code == 3, f"exit {done.code}: {done.said[-2000:]}")
        expect("\x1b" not in done.said, "an escape sequence reached the terminal")
        page = (out / "run/report.html").read_text(encoding="utf-8")
        expect("<script>alert(1)<script>.png" not in page, "a name is markup in the report")
        manifest = (out / "run/manifest.csv").read_text(encoding="utf-8")
        expect("Zelle-\\udce4.png" in manifest, "the name that is no UTF-8 is not listed")
        expect("'=1+1.png" not in manifest and "/=1+1.png" in manifest, "formula")
        return "exit 3, one quarantined, report and bundle written, no escape sequence printed"

    def cases(self) -> list[Case]:
        """All of them."""
        kills = f"kill -9 at {self.kills} moments"
        return [
            Case("study", kills, SAME, self.killed),
            Case("study", "full disk", f"says so; {SAME}", self.full),
            Case("study", "read-only disk", "says so", self.read_only),
            Case("study", "image removed, then `--resume`", "names it", self.removed),
            Case("study", "image changed, then `--resume`", "names it", self.changed),
            Case("study", "clock set back a year", SAME, self.clock),
            Case("study", "two writers", "the second is refused", self.two),
            Case("study", "slow reads", "the same `metrics.json`", self.slow),
            Case("study", "hostile and non-UTF-8 names", "quarantine of the latter", self.names),
        ]


class Score:
    """``score`` of phantom fields with the installed bundle of phantoms."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        from leukoscope.runtime.bundle import installed_bundles

        self.options, self.kills = options, options.kills_each["score"]
        self.data = home / "archive"
        self.bundle = next(b for b in installed_bundles() if b.name == "phantom")
        must("phantom", "--images", 120, "--size", 96, "--sessions", 4, "--out", self.data)
        started = time.monotonic()
        must(*self.command(home / "calm"))
        self.span_s = time.monotonic() - started
        self.calm = self.rows(home / "calm")

    def command(self, out: Path, *more: object, data: object = None) -> tuple[object, ...]:
        """As typed."""
        source = self.data if data is None else data
        return ("score", source, "--bundle", self.bundle, "--out", out, "--workers", 1,
                "--shard-size", 10, "--engine", "onnxruntime", *more)  # fmt: skip

    def rows(self, out: Path) -> list[dict[str, object]]:
        """Every row in the order of the list."""
        import pyarrow.parquet as pq

        return list(pq.read_table(out / "predictions").sort_by("row").to_pylist())

    def verified(self, out: Path) -> str:
        """The proof, and the comparison."""
        must("score", "--out", out, "--verify")
        expect(self.rows(out) == self.calm, "other rows than those of the undisturbed run")
        return "complete, equal rows"

    def resumes(self, out: Path) -> str:
        """Go on to the end."""
        must("score", "--out", out, "--resume", "--workers", 1)
        return self.verified(out)

    def killed(self, out: Path) -> str:
        """The chain of kills."""

        def start(number: int) -> tuple[object, ...]:
            return self.command(out / str(number), "--resume")

        def finished(number: int) -> None:
            self.verified(out / str(number))

        rng = random.Random(self.options.seed)
        words = killed_chain(start, self.kills, self.span_s, rng, finished)
        return f"{words}, all complete with equal rows"

    def full(self, out: Path) -> str:
        """Room for a few shards."""
        with small_disk(out, 160) as change:
            done = run(*self.command(out / "run"))
            expect((done.code, "space left" in done.said or "full" in done.said) == (1, True),
                   done.said)  # fmt: skip
            change("size=1g")
            words = self.resumes(out / "run")
        return f"exit 1, says so; {words}"

    def read_only(self, out: Path) -> str:
        """A disk that takes nothing."""
        with small_disk(out, 1000) as change:
            change("ro")
            done = run(*self.command(out / "run"))
            expect((done.code, "read-only" in done.said) == (1, True), done.said)
        return "exit 1, the disk is read-only"

    def stopped(self, out: Path) -> tuple[Path, Path]:
        """A copy of the archive and a run on it that has a plan and no shard."""
        data = shutil.copytree(self.data, out / "data")
        run(*self.command(out / "run", data=data), before=die_at_rename(4))
        expect((out / "run/plan.json").is_file(), "the run was killed too early")
        return data, out / "run"

    def removed(self, out: Path) -> str:
        """An image is gone when the run goes on."""
        data, folder = self.stopped(out)
        victim = sorted(data.glob("*/*.png"))[60]
        victim.unlink()
        done = run("score", "--out", folder, "--resume", "--workers", 1)
        listed = (folder / "quarantine.csv").read_text(encoding="utf-8")
        expect((done.code, victim.name in listed) == (3, True), done.said)
        return "exit 3, quarantined as missing, all others scored"

    def changed(self, out: Path) -> str:
        """An image of a later shard has become another one."""
        from leukoscope.core.files import sha256_file

        data, folder = self.stopped(out)
        every = sorted(data.glob("*/*.png"))
        shutil.copy(every[0], every[60])
        done = run("score", "--out", folder, "--resume", "--workers", 1)
        row = next(row for row in self.rows(folder) if str(row["image"]) == str(every[60]))
        expect((done.code, row["sha256"]) == (0, sha256_file(every[0])), done.said)
        return "scored as it is now; its row has the SHA-256 of these bytes"

    def clock(self, out: Path) -> str:
        """Everything was written in the future."""
        Command(*self.command(out)).ended(kill_after_s=self.span_s / 2)
        a_year_ahead(out)
        return self.resumes(out)

    def two(self, out: Path) -> str:
        """A second run comes while the first one works."""
        first = Command(*self.command(out))
        while not (out / "journal.jsonl").is_file():
            time.sleep(0.01)
        second = run("score", "--out", out, "--resume", "--workers", 1)
        expect((second.code, f"process {first.pid}" in second.said) == (2, True), second.said)
        done = first.ended()
        expect(done.code == 0, done.said)
        return f"exit 2, the first one is named and ends undisturbed: {self.verified(out)}"

    def slow(self, out: Path) -> str:
        """A server that gives a few bytes at a time."""
        files = sorted(self.data.glob("*/*.png"))[:10]
        with dripping(self.data) as address:
            names = [f"{address}/{path.relative_to(self.data)}" for path in files]
            (out / "list.csv").parent.mkdir(parents=True)
            (out / "list.csv").write_text("\n".join(["url", *names]) + "\n")
            refused = run(*self.command(out / "none", data=out / "list.csv"))
            done = run(*self.command(out / "run", "--urls", "any", data=out / "list.csv"))
        expect((refused.code, done.code) == (2, 0), refused.said + done.said)
        sums = {row["sha256"]: row["predicted"] for row in self.calm}
        expect(all(sums[r["sha256"]] == r["predicted"] for r in self.rows(out / "run")), "answers")
        return "refused without `--urls`; with it all scored, equal answers"

    def names(self, out: Path) -> str:
        """Names that might break tables and the terminal."""
        data = shutil.copytree(self.data, out / "data")
        rename_hostile(data)
        done = run(*self.command(out / "run", data=data))
        expect((done.code, "\x1b" in done.said) == (0, False), done.said)
        must("score", "--out", out / "run", "--verify")
        names = [str(row["image"]) for row in self.rows(out / "run")]
        spelt = os.fsdecode(NOT_UTF8).encode("utf-8", "backslashreplace").decode()
        expect(any(name.endswith(spelt) for name in names), "the name that is no UTF-8 is lost")
        return "exit 0, all scored; a byte that is no UTF-8 is spelled out in its row"

    def cases(self) -> list[Case]:
        """All of them."""
        kills = f"kill -9 at {self.kills} moments"
        return [
            Case("score", kills, ONCE, self.killed),
            Case("score", "full disk", f"says so; {ONCE}", self.full),
            Case("score", "read-only disk", "says so", self.read_only),
            Case("score", "image removed, then `--resume`", "it is quarantined", self.removed),
            Case("score", "image changed, then `--resume`", "its row tells so", self.changed),
            Case("score", "clock set back a year", ONCE, self.clock),
            Case("score", "two writers", "the second is refused", self.two),
            Case("score", "slow reads from a URL", "waits", self.slow),
            Case("score", "hostile and non-UTF-8 names", "a row for each", self.names),
        ]


class dripping:  # noqa: N801 - a context, used like a function
    """A web server on this machine that sends files slowly."""

    def __init__(self, folder: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = (folder / self.path.lstrip("/")).read_bytes()
                self.send_response(200)
                self.end_headers()
                for start in range(0, len(data), 1000):
                    self.wfile.write(data[start : start + 1000])
                    self.wfile.flush()
                    time.sleep(0.05)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


def cases_of(home: Path, options: argparse.Namespace) -> Iterator[Case]:
    """The cases that were asked for."""
    for name, make in (("study", Study), ("score", Score), ("serve", serve_cases)):
        if options.only in ("", name):
            made = make(home / name, options)
            yield from made if isinstance(made, list) else made.cases()


def main() -> int:
    """Try each case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", choices=("", "study", "score", "serve"))
    parser.add_argument("--fault", nargs="+", default=[""], help="only those that hold a text")
    parser.add_argument("--kills", type=int, default=50, help="of all three together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fifth = options.kills // 5
    options.kills_each = {"study": 2 * fifth, "score": 2 * fifth, "serve": fifth}
    for name in () if options.only == "serve" else LOADED:
        import_module(name)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="leukoscope-faults-") as folder:
        for number, case in enumerate(cases_of(Path(folder), options)):
            if not any(text in case.fault for text in options.fault):
                continue
            started = time.monotonic()
            try:
                seen = case.attempt(Path(folder) / f"case{number}")
            except NotTriedError as why:
                seen = f"not tried: {why}"
            except UnexpectedError as why:
                seen, failed = f"**FAILED** {why}", failed + 1
            rows.append((case.program, case.fault, case.expected, seen))
            took = time.monotonic() - started
            print(f"{took:.0f} s", *rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
