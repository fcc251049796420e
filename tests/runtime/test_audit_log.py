"""The chain finds every change; a kill in the middle of a line loses nothing silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leukoscope.core.errors import BundleError, DataError
from leukoscope.runtime.audit_log import START, AuditLog, entry_of, read_log, verify_log
from leukoscope.runtime.audit_replay import replay_log
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.predictor import load_bundle


def written(path: Path, count: int) -> list[bytes]:
    with closing(AuditLog(path)) as log:
        for number in range(count):
            log.append({"kind": "note", "text": f"Zelle {number} – ä \udcff"})
    return path.read_bytes().splitlines(keepends=True)


def test_a_chain_that_nobody_touched_holds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    lines = written(path, 3)
    lines = written(path, 2)  # opened again, it goes on
    found = verify_log(path)
    assert (found.entries, found.recovered, found.problem) == (5, 0, "")
    assert found.head == json.loads(lines[-1])["hash"]
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert json.loads(lines[0])["previous"] == START
    assert [entry["kind"] for entry in read_log(path)] == ["note"] * 5


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_removal_or_exchange_is_found(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    lines = written(path, 4)
    kind = data.draw(st.sampled_from(["change", "remove", "exchange", "repeat"]))
    at = data.draw(st.integers(0, 2 if kind in ("remove", "exchange") else 3))
    if kind == "change":
        place = data.draw(st.integers(0, len(lines[at]) - 2))
        byte = data.draw(st.integers(32, 126).filter(lambda b: b != lines[at][place]))
        lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    elif kind == "remove":
        del lines[at]
    elif kind == "exchange":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    else:
        lines.insert(at, lines[at])
    path.write_bytes(b"".join(lines))
    assert verify_log(path).problem
    with pytest.raises(DataError, match=r"log\.jsonl: line"):
        list(read_log(path))


def test_lines_taken_off_the_end_need_a_kept_hash(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = written(path, 4)
    head = verify_log(path).head
    written(path, 1)
    assert not verify_log(path, head=head).problem  # it has grown since
    path.write_bytes(b"".join(lines[:3]))
    assert not verify_log(path).problem
    assert "removed from its end" in verify_log(path, head=head).problem


@pytest.mark.parametrize("left", [1, 40, -2, -1])
def test_a_torn_last_line_is_recorded(left: int, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = written(path, 3)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
    whole = left == -1  # only the line feed is missing
    assert ("cut off" in verify_log(path).problem) is not whole
    with closing(AuditLog(path)) as log:
        log.append({"kind": "note"})
    found = verify_log(path)
    assert (found.problem, found.recovered, found.entries) == ("", int(not whole), 4)
    kept = [entry for entry in read_log(path) if entry["kind"] == "recovered"]
    assert [entry["torn_text"] for entry in kept] == ([] if whole else [lines[2][:left].decode()])
    # The torn bytes themselves may not be changed either.
    if left == 40:
        path.write_bytes(path.read_bytes().replace(lines[2][:left], lines[2][:left].upper()))
        assert "does not record it" in verify_log(path).problem


def test_a_file_that_is_no_log_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a shopping list\n")
    with pytest.raises(DataError, match="none of an audit log"):
        AuditLog(path)
    assert path.read_text() == "a shopping list\n"
    with pytest.raises(DataError, match="cannot be written"):
        AuditLog(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove a file that is open")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_was_moved_away_is_told(replaced: bool, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with closing(AuditLog(path)) as log:
        log.append({"kind": "note"})
        path.rename(tmp_path / "log.jsonl.1")
        if replaced:
            path.touch()
        assert not log.in_place
        with pytest.raises(DataError, match="it was moved or removed"):
            log.append({"kind": "note"})
        (tmp_path / "log.jsonl.1").replace(path)
        assert log.in_place
        log.append({"kind": "note"})
    assert verify_log(path).entries == 2


def test_threads_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with closing(AuditLog(path)) as log:
        threads = [
            threading.Thread(target=lambda: [log.append({"kind": "note"}) for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (verify_log(path).entries, verify_log(path).problem) == (200, "")


@pytest.mark.skipif(os.name == "nt", reason="needs fcntl")
def test_processes_share_a_log_and_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = (
        "import sys; from leukoscope.runtime.audit_log import AuditLog\n"
        "log = AuditLog(sys.argv[1])\n"
        "for n in range(int(sys.argv[2])): log.append({'kind': 'note', 'text': 'x' * 500})\n"
    )

    def start(count: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(path), str(count)])

    endless, first, second = start(10**9), start(100), start(100)
    assert first.wait(60) == second.wait(60) == 0
    endless.kill()
    endless.wait()
    with closing(AuditLog(path)) as log:
        log.append({"kind": "note"})
    found = verify_log(path)
    assert found.problem == ""
    assert found.entries > 200


def test_a_log_is_replayed(
    tiny: SimpleNamespace, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number, rgb in enumerate([(120, 60, 60), (60, 120, 60), (60, 60, 120)]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode_png(tiny.colour(*rgb)))
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:60])
    predictor = load_bundle(tiny_bundle, engine="onnxruntime", threads=1)
    path = tmp_path / "log.jsonl"
    with closing(AuditLog(path)) as log:
        for answer in predictor.predict_stream([*paths, broken]):
            log.append(entry_of(answer, predictor))
    entries = list(read_log(path))
    assert [entry["kind"] for entry in entries] == ["prediction"] * 3 + ["failure"]
    assert {(e["engine"], e["precision"], e["bundle"]) for e in entries} == {
        ("onnxruntime", "fp32", predictor.bundle.sha256)
    }
    assert entries[3]["sha256"]
    assert [row.result for row in replay_log(path)] == ["same"] * 4
    monkeypatch.setattr("leukoscope.runtime.bundle.installed_bundles", lambda: [tiny_bundle])
    by_name = replay_log(path, bundle=Path(tiny_bundle.name))
    assert [row.result for row in by_name] == ["same"] * 4
    with pytest.raises(BundleError, match="expected a bundle"):
        next(replay_log(path, bundle=tmp_path / "nowhere"))

    paths[1].write_bytes(paths[2].read_bytes())
    paths[2].unlink()
    moved = tmp_path / "elsewhere" / "b"
    moved.parent.mkdir()
    tiny_bundle.rename(moved)
    assert {row.result for row in replay_log(path)} == {"not replayed"}
    rows = list(replay_log(path, search=tmp_path / "elsewhere"))
    assert [row.result for row in rows] == ["same", "not replayed", "not replayed", "same"]
    assert "another one now" in rows[1].detail
    assert "not there" in rows[2].detail


def test_a_replay_tells_another_answer(
    tiny: SimpleNamespace, tiny_bundle: Path, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encode_png(tiny.colour(120, 60, 60)))
    predictor = load_bundle(tiny_bundle, engine="onnxruntime", threads=1)
    (answer,) = predictor.predict([image])
    entry = entry_of(answer, predictor)
    changed = [
        {"predicted": "pro_b"},
        {"logits": [entry["output"]["logits"][0] + 0.1, *entry["output"]["logits"][1:]]},
    ]
    with closing(AuditLog(tmp_path / "log.jsonl")) as log:  # a forged log, whose chain holds
        for update in changed:
            log.append(entry | {"output": entry["output"] | update})
    rows = list(replay_log(tmp_path / "log.jsonl", bundle=tiny_bundle))
    assert [row.result for row in rows] == ["differs", "differs"]
    assert "predicted was pro_b, now benign" in rows[0].detail
    assert "a logit moved by 0.1" in rows[1].detail
