"""The command, from a folder to verified Parquet, undisturbed and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.bundle import installed_bundles
from leukoscope.runtime.bundle_matching import BundleChoice, choose_bundle
from leukoscope.scale import score
from leukoscope.scale.score import plan_scoring
from leukoscope.scale.score_plan import Request, ScoreFolder

PROGRAM = [sys.executable, "-m", "leukoscope", "score"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=40, sessions=4, size_px=96)
    return write_phantoms(spec, tmp_path_factory.mktemp("score") / "phantoms")


@pytest.fixture(scope="module")
def bundle() -> str:
    return str(next(folder for folder in installed_bundles() if folder.name == "phantom"))


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def _rows(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "predictions").sort_by("row").to_pylist())


def test_from_a_folder_to_a_proof(
    phantoms: Path, bundle: str, tmp_path: Path, broken_images: ModuleType
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(phantoms.rglob("*.png"))[:9]:
        (images / path.name).symlink_to(path)
    (images / "truncated.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "scores"

    code, _, _ = _run(images, "--out", out, "--bundle", bundle, "--shard-size", "4")

    assert code == 3, "done, but for one image"
    assert sorted(path.name for path in (out / "predictions").iterdir()) == [
        f"part-00000{shard}.parquet" for shard in range(3)
    ]
    rows = _rows(out)
    assert [row["row"] for row in rows] == list(range(10))
    quarantine = (out / "quarantine.csv").read_text()
    assert quarantine.count("truncated.jpg") == 1
    assert quarantine.count("\n") == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["images"], manifest["unreadable"]) == (10, 1)
    assert sum(file["rows"] for file in manifest["files"]) == 10

    # The same columns and values as `predict`, and the number of the row.
    alone = tmp_path / "alone.parquet"
    named = ["predict", str(images), "--bundle", bundle, "--out", str(alone)]
    assert CliRunner().invoke(app, named).exit_code == 3
    expected = [
        row | {"row": number} for number, row in enumerate(pq.read_table(alone).to_pylist())
    ]
    assert rows == expected

    assert _run("--out", out, "--verify")[:2] == (
        0, "complete: each of 10 images is in exactly one row\n",
    )  # fmt: skip
    code, said, _ = _run("--out", out, "--resume", "--json")
    assert (code, json.loads(said)["scored_now"]) == (3, 0)
    code, said, _ = _run("--out", out, "--resume")
    assert "the images are those that the first run listed" in said
    assert _run(images, "--out", out)[0] == 2, "the folder holds a run"
    code, _, error = _run("--out", out, "--resume", "--shard-size", "5")
    assert code == 2
    assert "shard images is 4, asked for 5" in error


def test_what_was_changed_is_found_and_done_again(
    phantoms: Path, bundle: str, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    manifest = tmp_path / "list.csv"
    names = [p.relative_to(phantoms).as_posix() for p in sorted(phantoms.rglob("*.png"))[:6]]
    manifest.write_text("path\n" + "\n".join(names) + "\n")
    assert _run(manifest, "--root", f"file://{phantoms}", "--out", out, "--bundle", bundle,
                "--shard-size", "2", "--workers", "1")[0] == 0  # fmt: skip
    code, _, error = _run("--out", out, "--resume", "--root", "elsewhere")
    assert code == 2, "the list of images is frozen"
    assert "asked for elsewhere" in error
    assert _rows(out)[0]["image"] == f"file://{phantoms}/{names[0]}"
    part = out / "predictions" / "part-000001.parquet"
    data = bytearray(part.read_bytes())
    data[20] ^= 1
    part.write_bytes(data)
    (out / "predictions" / "part-000002.parquet").unlink()
    (out / "predictions" / "part-000009.parquet").write_bytes(b"PAR1")

    code, said, _ = _run("--out", out, "--verify", "--json")

    found = json.loads(said)
    assert (code, found["complete"], found["found"], found["problem_count"]) == (1, False, 2, 3)
    assert "part-000001.parquet: changed after it was committed" in found["problems"][0]
    assert "part-000002.parquet: missing" in found["problems"][1]
    assert "part-000009.parquet: not of this run" in found["problems"][2]

    part.unlink()
    (out / "predictions" / "part-000009.parquet").unlink()
    code, _, error = _run("--out", out, "--resume", "--workers", "1")
    assert (code, "reads images from URLs" in error) == (2, True)
    assert _run("--out", out, "--resume", "--workers", "1", "--root", f"file://{phantoms}")[0] == 0
    assert _run("--out", out, "--verify")[0] == 0


def test_images_of_a_typed_url_choose_the_bundle(
    phantoms: Path, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def choose(_: Any, samples: Any, **options: Any) -> BundleChoice:
        looked.extend(samples)
        return choose_bundle([Path(bundle)], samples, **options)

    monkeypatch.setattr(score, "choose_bundle", choose)
    plan = plan_scoring(ScoreFolder(tmp_path / "run"), Request((f"file://{phantoms}",)))
    assert looked
    assert plan.urls == "any"


def test_killed_again_and_again(phantoms: Path, bundle: str, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    command = [*PROGRAM, str(phantoms), "--out", str(out), "--bundle", bundle, "--resume",
               "--shard-size", "2", "--workers", "2"]  # fmt: skip
    rng = random.Random(1)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kills < 3:
            done = len(list(out.glob("predictions/*.parquet")))
            while len(list(out.glob("predictions/*.parquet"))) <= done and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait(timeout=60) == 0:
            break

    assert kills == 3
    assert _run("--out", out, "--verify")[0] == 0
    names = [row["image"] for row in _rows(out)]
    assert len(names) == len(set(names)) == 40


def test_on_ray(phantoms: Path, bundle: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "scores"
    command = [*PROGRAM, str(phantoms), "--out", str(out), "--bundle", bundle, "--executor", "ray",
               "--shard-size", "10", "--workers", "1", "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert _run("--out", out, "--verify")[0] == 0
    assert "ray" not in done.stderr.lower(), "Ray's own messages are for its log"
