"""A journal in a folder from somebody else: no line of it may lead to a file outside of the run."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_file
from leukoscope.scale.journal import Journal, read_journal
from leukoscope.scale.score_plan import ScoreFolder

PARTIAL = "predictions/.part-000000.parquet.0123456789ab.partial"


def received(folder: Path, **changes: Any) -> ScoreFolder:
    """A run whose only shard was flushed and entered, and has yet to get its name."""
    (folder / "predictions").mkdir(parents=True)
    partial = folder / PARTIAL
    partial.write_bytes(b"of the sender")
    file = {
        "name": "predictions/part-000000.parquet",
        "partial": PARTIAL,
        "rows": 1,
        "bytes": 13,
        "sha256": sha256_file(partial),
        **changes,
    }
    line = {"shard": 0, "files": [file], "unreadable": 0, "decisions": {}, "predicted": {},
            "seconds": 0.1}  # fmt: skip
    (folder / "journal.jsonl").write_text(json.dumps(line) + "\n")
    return ScoreFolder(folder)


def test_an_honest_line_is_finished(tmp_path: Path) -> None:
    folder = received(tmp_path / "run")
    with closing(Journal(folder)) as journal:
        assert journal.done == {0}
    assert folder.shard(0).read_bytes() == b"of the sender"


@pytest.mark.parametrize(
    "name",
    [
        "../victim/.bashrc",
        "{victim}",
        "predictions/../../victim/.bashrc",
        "predictions/part-000001.parquet",
        "plan.json",
        "predictions/part-000000.parquet/../../../victim/.bashrc",
        "predictions\\..\\..\\victim\\.bashrc",
    ],
)
@pytest.mark.parametrize("field", ["name", "partial"])
def test_a_line_overwrites_and_moves_no_other_file(tmp_path: Path, name: str, field: str) -> None:
    victim = tmp_path / "victim" / ".bashrc"
    victim.parent.mkdir()
    victim.write_text("of the victim")
    folder = received(tmp_path / "run", **{field: name.format(victim=victim)})
    with pytest.raises(DataError, match=r"journal\.jsonl, line 1: .* is no file of shard 0"):
        Journal(folder)
    assert victim.read_text() == "of the victim"
    with pytest.raises(DataError, match="is no file of shard 0"):
        list(read_journal(folder))


@pytest.mark.parametrize(("field", "value"), [("rows", "many"), ("bytes", None), ("name", 1)])
def test_a_line_of_other_kinds_is_named(tmp_path: Path, field: str, value: Any) -> None:
    folder = received(tmp_path / "run", **{field: value})
    with pytest.raises(DataError, match=rf"journal\.jsonl, line 1: .*files\.0\.{field}: "):
        Journal(folder)


@pytest.mark.parametrize("name", ["journal.jsonl", "predictions", "parts"])
def test_links_out_of_the_run_are_refused(tmp_path: Path, name: str) -> None:
    folder = received(tmp_path / "run")
    outside = tmp_path / "outside"
    if (folder.path / name).exists():
        (folder.path / name).rename(outside)
    else:
        outside.mkdir()
    (folder.path / name).symlink_to(outside)
    before = sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes()
    with pytest.raises(DataError, match="found a link"):
        Journal(folder)
    assert before == (sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes())


def test_a_link_to_the_whole_run_is_fine(tmp_path: Path) -> None:
    received(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with closing(Journal(ScoreFolder(tmp_path / "link"))) as journal:
        assert journal.done == {0}
