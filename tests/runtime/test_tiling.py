"""Large images: which are cut, at which scale, into what, and what is said of the whole."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.config.bundle import ModelField
from leukoscope.core.errors import ImageError
from leukoscope.imaging.decode import Decoded, decode_image, peek_size
from leukoscope.imaging.segment import is_cut_out
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.audit_replay import replay_log
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.tiling import Cutter, find_leukocytes

FIELD = ModelField(width_px=96, height_px=96, largest_px=96, shows="field", um_per_px=0.7)
CELL = FIELD.model_copy(update={"shows": "cell", "width_px": 80, "height_px": 80})


@pytest.fixture(scope="module")
def smear() -> tuple[np.ndarray, int]:
    """Four drawn fields of 224 px side by side, and how many leukocytes lie off their edges."""
    drawn = [render_phantom(PhantomSpec(images=8, sessions=1, seed=5), index) for index in range(4)]
    rows = [np.concatenate([p.image for p in drawn[k : k + 2]], axis=1) for k in (0, 2)]
    return np.concatenate(rows), sum(
        int(phantom.leukocytes.max()) if hasattr(phantom, "leukocytes") else 0 for phantom in drawn
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_the_size_is_known_from_the_beginning_of_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.new("RGB", (70, 31)).save(path, kind)
    assert peek_size(path) == (70, 31)
    if kind == "WEBP":
        Image.new("RGB", (70, 31)).save(path, kind, lossless=True)
        assert peek_size(path) == (70, 31)
    path.write_bytes(path.read_bytes()[:7])
    assert peek_size(path) is None
    assert peek_size(tmp_path / "nowhere") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    found: list[object] = []
    reads = Thread(target=lambda: found.append(peek_size(tmp_path / "x.png")), daemon=True)
    reads.start()
    reads.join(timeout=20)
    assert found == [None]
    with pytest.raises(ImageError, match="device or pipe"):
        decode_image(tmp_path / "x.png")


def test_the_scale_comes_from_the_user_the_file_or_the_bar_and_is_never_guessed(
    smear: tuple[np.ndarray, int],
) -> None:
    image = smear[0].copy()
    cutter = Cutter(FIELD)
    unknown = cutter.scale_of(Decoded(image, "PNG"))
    assert (unknown.um_per_px, unknown.factor) == (None, 1.0)
    assert "scale of the image is unknown" in unknown.doubt
    of_file = cutter.scale_of(Decoded(image, "TIFF", um_per_px=0.35))
    assert (of_file.factor, of_file.source, of_file.doubt) == (2.0, "the file", "")
    said = Cutter(FIELD, um_per_px=0.7).scale_of(Decoded(image, "TIFF", um_per_px=0.35))
    assert (said.factor, said.source) == (1.0, "--um-per-px")
    image[380:440, 340:440] = 255
    image[420:424, 350:430] = 0  # a bar of 80 px with its text
    cv2.putText(image, "28 um", (355, 410), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2)
    of_bar = Cutter(FIELD, bar_um=28.0).scale_of(Decoded(image, "PNG"))
    assert of_bar.um_per_px == pytest.approx(0.35, rel=0.05)
    assert "bar" in of_bar.source
    assert "whose length was not said" in cutter.scale_of(Decoded(image, "PNG")).doubt
    blind = Cutter(FIELD.model_copy(update={"um_per_px": None}), um_per_px=0.3)
    assert "scale of the training images is unknown" in blind.scale_of(Decoded(image, "PNG")).doubt


@pytest.mark.parametrize(("um", "side"), [(0.7, 96), (0.35, 192), (None, 96)])
def test_tiles_cover_the_image_at_the_scale_of_the_training_images(
    um: float | None, side: int, smear: tuple[np.ndarray, int]
) -> None:
    image = smear[0]
    cutter = Cutter(FIELD, um)
    places, parts = cutter.parts(image, cutter.scale_of(Decoded(image, "PNG")))
    found = list(parts)
    assert 1 < len(found) <= places
    assert all(part.pixels.shape == (96, 96, 3) for part in found)
    assert {part.box[2:] for part in found} == {(side, side)}
    corner = image[-side:, -side:]
    last = found[-1]
    if last.box[:2] == (448 - side, 448 - side) and side == 96:
        np.testing.assert_array_equal(last.pixels, corner)


def test_leukocytes_are_found_and_cut_out_on_black(smear: tuple[np.ndarray, int]) -> None:
    large = np.asarray(cv2.resize(smear[0], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
    cell, nucleus = find_leukocytes(large, 0.1)
    assert nucleus.any()
    assert (cell >= nucleus * 0).all()
    cutter = Cutter(CELL, 0.1)
    places, parts = cutter.parts(large, cutter.scale_of(Decoded(large, "PNG")))
    found = list(parts)
    assert 3 < len(found) <= places
    assert all(is_cut_out(part.pixels) for part in found)
    assert {part.box[2:] for part in found} == {(560, 560)}
    centres = [(x + w // 2, y + h // 2) for x, y, w, h in (part.box for part in found)]
    assert all(cell[y, x] for x, y in centres)
    blank = np.full((700, 900, 3), 230, np.uint8)
    assert cutter.parts(blank, cutter.scale_of(Decoded(blank, "PNG")))[0] == 0


@pytest.fixture
def field_bundle(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    record = tiny.record(field=FIELD, ood=None, quality=None)
    save_bundle(tmp_path / "with field", record, tiny.files())
    return tmp_path / "with field"


def test_predict_summarises_a_large_image(
    field_bundle: Path, smear: tuple[np.ndarray, int], tmp_path: Path
) -> None:
    Image.fromarray(smear[0]).save(tmp_path / "large.png")
    Image.fromarray(smear[0][:96, :96]).save(tmp_path / "small.png")
    (tmp_path / "cut.tif").write_bytes(b"II*\0" + bytes(30))
    out, shown = tmp_path / "answers.csv", tmp_path / "shown"
    files = [str(tmp_path / name) for name in ("large.png", "small.png", "cut.tif")]
    command = ["predict", *files, "-b", str(field_bundle), "-o", str(out)]
    done = CliRunner().invoke(app, [*command, "--explain", str(shown), "--um-per-px", "0.7"])
    assert done.exit_code == 3, done.output
    with out.open() as handle:
        large, small, broken = csv.DictReader(handle)
    tiles = json.loads(large["tiles"])
    assert (tiles["um_per_px"], tiles["scale_from"]) == (0.7, "--um-per-px")
    assert sum(tiles["share"].values()) == pytest.approx(1, abs=1e-3)
    assert tiles["n"] == tiles["accept"] + tiles["review"] + tiles["reject"] > 4
    assert tiles["worst"] == "reject" if tiles["reject"] else tiles["worst"] in ("accept", "review")
    assert sum(float(large[f"p_{name}"]) for name in ("benign", "pre_b", "pro_b")) == (
        pytest.approx(1, abs=1e-5)
    )
    assert (small["tiles"], broken["tiles"]) == ("", "")
    assert broken["error"]
    with out.with_name("answers.parts.csv").open() as handle:
        parts = list(csv.DictReader(handle))
    assert len(parts) == tiles["n"]
    picture = decode_image(Path(large["heatmap"])).image
    assert picture.shape[1] == 448
    assert picture.shape[0] > 448
    whole = CliRunner().invoke(app, [*command, "--whole"])
    assert whole.exit_code == 3
    with out.open() as handle:
        assert next(csv.DictReader(handle))["tiles"] == ""


@pytest.mark.parametrize("options", [[], ["--um-per-px", "0.5"], ["--whole"]])
def test_the_answer_to_a_large_image_is_replayed(
    options: list[str], field_bundle: Path, smear: tuple[np.ndarray, int], tmp_path: Path
) -> None:
    Image.fromarray(smear[0]).save(tmp_path / "large.png")
    Image.new("RGB", (400, 400), (236, 236, 236)).save(tmp_path / "empty.png")
    log = tmp_path / "log.jsonl"
    files = [str(tmp_path / name) for name in ("large.png", "empty.png")]
    command = ["predict", *files, "-b", str(field_bundle), "--audit-log", str(log), *options]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [(row.result, row.detail) for row in replay_log(log)] == [("same", "")] * 2


def test_an_unknown_scale_is_a_reason_for_review(
    field_bundle: Path, smear: tuple[np.ndarray, int], tmp_path: Path
) -> None:
    Image.fromarray(smear[0]).save(tmp_path / "large.png")
    command = ["predict", str(tmp_path / "large.png"), "-b", str(field_bundle), "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, command).stdout)
    assert answer["decision"] in ("review", "reject")
    assert answer["reasons"][0].startswith("The scale of the image is unknown")
