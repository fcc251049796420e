"""Names of images, the plan, and the journal after every kind of death."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.errors import DataError, UsageError
from leukoscope.runtime.bundle import installed_bundles
from leukoscope.runtime.prediction import Failure
from leukoscope.scale.fetching import UrlRule, image_names, local_files
from leukoscope.scale.journal import Journal, ShardResult, file_of
from leukoscope.scale.score import resume_plan
from leukoscope.scale.score_plan import (
    Plan,
    Request,
    ScoreFolder,
    load_plan,
    read_inputs,
    write_inputs,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("b/2.png", "a/1.png", "c.png", "b/.hidden.png"):
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "archive"


def test_a_folder_and_the_same_folder_as_a_url(archive: Path) -> None:
    names = list(image_names([str(archive)]))
    assert [Path(name).relative_to(archive).as_posix() for name in names] == [
        "c.png", "a/1.png", "b/2.png",
    ]  # fmt: skip

    far = list(image_names([f"file://{archive}"]))
    assert sorted(far) == sorted(f"file://{name}" for name in names)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".txt"])
def test_manifests(archive: Path, tmp_path: Path, suffix: str) -> None:
    rows = ["a/1.png", str(archive / "c.png"), "file:///elsewhere/x.png", "gone.png"]
    manifest = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"label": ["x"] * 4, "image": rows}), manifest)
    elif suffix == ".txt":
        manifest.write_text("\n".join(rows) + "\n")
    else:
        separator = {".csv": ",", ".tsv": "\t"}[suffix]
        manifest.write_text(
            f"label{separator}path\n" + "".join(f"x{separator}{row}\n" for row in rows)
        )

    outside: list[str] = []
    listed = image_names([str(manifest)], root=str(archive), urls="any", outside=outside.append)
    names = list(listed)
    assert outside == [rows[1]]

    expected = [
        str(archive / "a/1.png"),
        str(archive / "c.png"),
        rows[2],
        str(archive / "gone.png"),
    ]
    assert names == expected
    assert next(iter(image_names([str(manifest)], root="s3://b/x/"))) == "s3://b/x/a/1.png"
    with pytest.raises(UsageError, match=r"list.* found the URL file:///elsewhere/x.png"):
        list(image_names([str(manifest)]))


def test_what_cannot_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        list(image_names([str(tmp_path / "gone")]))
    table = tmp_path / "t.csv"
    table.write_text("name,label\na,b\n")
    with pytest.raises(DataError, match=r"expected a column path or image .* found name, label"):
        list(image_names([str(table)]))
    with pytest.raises(UsageError, match="cannot be opened"):
        list(image_names(["nosuchprotocol://x"]))
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(DataError, match="expected a Parquet file"):
        list(image_names([str(tmp_path / "t.parquet")]))


def test_files_behind_urls_are_fetched_in_order(archive: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    names: list[str | Failure] = [
        f"file://{archive}/a/1.png", str(archive / "c.png"), Failure("p", "poison", "no"),
        f"file://{archive}/gone.png", f"file://{archive}/b/2.png",
    ]  # fmt: skip

    found = list(local_files(names, copies, urls="any"))

    texts = [f.read_text() if isinstance(f, Path) else f.reason for f, _ in found]
    assert texts == ["a/1.png", "c.png", "poison", "missing", "b/2.png"]
    assert [copy is not None for _, copy in found] == [True, False, False, False, True]


def test_a_list_of_files_that_names_a_url_has_nothing_fetched(tmp_path: Path) -> None:
    ((found, copy),) = local_files(["http://127.0.0.1:9/secret.png"], tmp_path, urls="none")
    assert isinstance(found, Failure)
    assert (found.reason, copy) == ("unreadable", None)
    assert "which this run does not read" in found.message


def planned(folder: Path, **changes: Any) -> ScoreFolder:
    """A run as somebody else may have sent it."""
    plan = Plan(
        "b", "named", "0" * 64, "onnxruntime", "fp32", None, None, False, 10, 1, "0", ("a",)
    )
    folder.mkdir()
    values = {"schema": 1, **asdict(plan), **changes}
    (folder / "plan.json").write_text(json.dumps(values))
    return ScoreFolder(folder)


@pytest.mark.parametrize("rule", ["public", "any"])
def test_a_received_run_fetches_only_what_its_reader_allows(tmp_path: Path, rule: UrlRule) -> None:
    folder = planned(tmp_path / "run", urls=rule, sources=["s3://archive/smears"])
    with pytest.raises(UsageError, match="reads images from URLs") as refused:
        resume_plan(folder, Request())
    assert f"--resume --urls {rule}" in str(refused.value.hint)
    assert resume_plan(folder, Request(urls=rule)).urls == rule
    assert resume_plan(folder, Request(("s3://archive/smears",))).urls == rule
    assert resume_plan(planned(tmp_path / "files", urls="none"), Request()).urls == "none"


@pytest.mark.parametrize(
    ("field", "value"),
    [("images", "many"), ("images", -1), ("shard_images", 0), ("sources", 1), ("urls", "all")],
)
def test_a_plan_of_other_kinds_is_named(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"plan\.json: expected a plan, but {field}"):
        load_plan(planned(tmp_path / "run", **{field: value}))


def test_inputs_come_back_by_shard_whatever_they_are_called(tmp_path: Path) -> None:
    folder = ScoreFolder(tmp_path)
    names = ["a", "line\nbreak", os.fsdecode(b"not-\xff-utf8"), "ä", "e"]
    images, _, step = write_inputs(folder, names, 2)
    assert (images, step) == (5, 2)
    assert [list(read_inputs(folder, shard)) for shard in range(3)] == [
        names[:2], names[2:4], names[4:],
    ]  # fmt: skip
    with pytest.raises(DataError, match="the list of images is damaged"):
        list(read_inputs(folder, 3))


@pytest.mark.parametrize(
    ("images", "workers", "step", "shards"),
    [(3, 2, 50, 1), (2002, 2, 150, 14), (31_999, 2, 2000, 16), (40_000, 2, 2000, 20)],
)
def test_every_worker_gets_shards(
    tmp_path: Path, images: int, workers: int, step: int, shards: int
) -> None:
    folder = ScoreFolder(tmp_path)
    names = [str(number) for number in range(images)]
    assert write_inputs(folder, names, None, workers)[::2] == (images, step)
    read = [list(read_inputs(folder, shard)) for shard in range(shards)]
    assert [name for shard in read for name in shard] == names
    assert {len(shard) for shard in read[:-1]} <= {step}


PEAK = """
import sys, tracemalloc
from pathlib import Path
from leukoscope.scale.score_plan import ScoreFolder, write_inputs
from leukoscope.scale.fetching import image_names
def peak(images):
    manifest = Path(sys.argv[1], "many.csv")
    manifest.write_text("path\\n" + "".join(f"slide-{i:09d}.png\\n" for i in range(images)))
    tracemalloc.start()
    write_inputs(ScoreFolder(Path(sys.argv[1])), image_names([str(manifest)]), 500)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found
peak(10)  # what is imported on first use
print(peak(2000), peak(20_000))
"""


def test_a_plan_of_many_images_takes_no_more_memory_than_one_of_few(tmp_path: Path) -> None:
    """In a process of its own: threads of others would be measured too."""
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    few, many = map(int, found)
    assert many < few + 100_000


def _result(folder: ScoreFolder, shard: int, text: str = "rows") -> ShardResult:
    folder.predictions.mkdir(parents=True, exist_ok=True)
    target = folder.shard(shard)
    partial = target.with_name(f".{target.name}.0f.partial")
    partial.write_text(text)
    return ShardResult(shard, (file_of(folder, partial, target, 3),), 0, {"accept": 3}, {}, 0.1)


def _reopened(folder: ScoreFolder) -> Journal:
    journal = Journal(folder)
    journal.close()
    return journal


def test_a_kill_between_journal_and_name_loses_nothing(tmp_path: Path) -> None:
    folder = ScoreFolder(tmp_path)
    journal = Journal(folder)
    assert journal.commit(_result(folder, 0))
    assert not journal.commit(_result(folder, 0, "again")), "the second of two workers comes late"
    assert folder.shard(0).read_text() == "rows"
    second = _result(folder, 1)
    journal.commit(second)
    journal.close()
    folder.shard(1).rename(folder.path / second.files[0].partial)  # as before the last step

    assert _reopened(folder).done == {0, 1}
    assert folder.shard(1).is_file()


def test_a_torn_line_a_lost_file_and_leftovers(tmp_path: Path) -> None:
    folder = ScoreFolder(tmp_path)
    journal = Journal(folder)
    for shard in range(3):
        journal.commit(_result(folder, shard))
    journal.close()
    data = folder.journal.read_bytes()
    folder.journal.write_bytes(data[:-20])  # the line of shard 2 was being written
    folder.shard(0).unlink()
    left = folder.predictions / ".part-000002.parquet.y.partial"
    left.touch()

    journal = _reopened(folder)

    assert journal.done == {1}
    assert journal.images == 3
    assert not left.exists()
    assert folder.journal.read_bytes().endswith(b"\n")


def test_a_line_that_says_nothing_is_named(tmp_path: Path) -> None:
    folder = ScoreFolder(tmp_path)
    folder.journal.write_text('{"shard": 1}\n')
    with pytest.raises(DataError, match="line 1: expected a committed shard"):
        Journal(folder)


def test_a_run_goes_on_with_the_bundle_that_was_named(tmp_path: Path) -> None:
    phantom = next(folder for folder in installed_bundles() if folder.name == "phantom")
    folder = planned(tmp_path / "run", urls="none", bundle=str(phantom.resolve()))
    for named in (Path("phantom"), phantom):
        assert resume_plan(folder, Request(bundle=named)).bundle == str(phantom.resolve())
    with pytest.raises(UsageError, match=r"asked for .*nowhere"):
        resume_plan(folder, Request(bundle=tmp_path / "nowhere"))
