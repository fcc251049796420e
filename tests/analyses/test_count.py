"""The differential: cells by patient, corrections, intervals, agreement, and what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.config.bundle import ConfusionsFile
from leukoscope.core.files import read_csv, sha256_file
from leukoscope.evaluation.confusions import Confusions
from leukoscope.runtime.bundle import read_bundle, save_bundle

RED, GREEN, BLUE = (150, 40, 40), (40, 150, 40), (40, 40, 150)  # benign, pre_b, pro_b
COLUMNS = ("image_id", "path", "given", "decision", "label", "by", "at", "queue_sha256")


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """The helpers that make a bundle of three classes, each told by a colour."""
    path = Path(__file__).resolve().parents[1] / "runtime/conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_bundle_of_counts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tiny: ModuleType, tmp_path: Path) -> Path:
    """It takes one benign cell in ten of ten known patients for pre_b, and never errs else."""
    y = np.tile(np.repeat(np.arange(3), 20), 10)
    called = np.where(np.arange(600) % 60 < 2, 1, y)
    prob = np.where(called[:, None] == np.arange(3), 0.9, 0.05)
    confusions = Confusions.of(y, prob, np.repeat(np.arange(10), 60).tolist())
    record = tiny.build_record(
        confusions=ConfusionsFile(protocol="grouped", unit="patient", n_units=10, n=600), ood=None
    )
    files = tiny.bundle_files(record=record) | {"confusions.safetensors": confusions.to_bytes()}
    del files["ood.safetensors"]
    save_bundle(tmp_path / "bundle", record, files)
    return tmp_path / "bundle"


@pytest.fixture
def smears(tiny: ModuleType, tmp_path: Path) -> Path:
    """Patient A: 6 red, 2 green, a black one that is rejected, a broken file; <b>: 4 blue."""
    for patient, cells in {"A": [RED] * 6 + [GREEN] * 2, "<b>": [BLUE] * 4}.items():
        folder = tmp_path / "smears" / patient
        folder.mkdir(parents=True)
        for k, cell in enumerate(cells):
            shade = tuple(value + k for value in cell)  # no two files alike
            cv2.imwrite(str(folder / f"{k}.png"), tiny.colour(*shade)[..., ::-1])
    cv2.imwrite(str(tmp_path / "smears/A/black.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "smears/A/broken.png").write_bytes(b"no image")
    return tmp_path / "smears"


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["count", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in arguments else done


def of(result: dict[str, Any], patient: str) -> dict[str, Any]:
    return next(one for one in result["patients"] if one["patient"] == patient)


def test_cells_are_counted_by_patient_and_none_is_lost(
    smears: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(smears, "-b", bundle, "--out", out, "--json", code=3)
    a = of(result, "A")
    assert (a["images"], a["cells"], a["rejected"], len(a["unreadable"])) == (10, 8, 1, 1)
    benign, pre_b, pro_b = a["classes"]
    assert (benign["cells"], pre_b["cells"], pro_b["cells"]) == (6, 2, 0)
    # One benign cell in ten is called pre_b: the share of pre_b must be less than counted.
    assert pre_b["low"] == 0 <= pre_b["adjusted"] < pre_b["counted"] == 0.25
    assert sum(one["adjusted"] for one in a["classes"]) == pytest.approx(1, abs=1e-4)
    assert of(result, "<b>")["blasts"]["call"] == "above"
    assert a["blasts"]["call"] == "cannot be told"
    rows = {(row["patient"], row["class"]): row for row in read_csv(out / "counts.csv")}
    assert rows["A", "benign"]["counted_percent"] == "75.0"
    assert len(read_csv(out / "cells.csv")) == 13
    page = (out / "counts.html").read_text()
    assert "broken.png" in page
    assert "<b>" not in page.replace("&lt;b&gt;", "")
    again = run(smears, "-b", bundle, "--out", tmp_path / "again", "--json", code=3)
    assert again == result


@pytest.mark.usefixtures("bare_charts")
def test_corrections_are_certain_and_the_latest_holds(
    smears: Path, bundle: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "out", tmp_path / "corrections.csv"
    run(smears, "-b", bundle, "--out", out, code=3)
    cells = [row for row in read_csv(out / "cells.csv") if row["patient"] == "A"]
    sheet = _sheet(out / "sheets/A.html")
    green = [row["cell_id"] for row in cells if row["predicted"] == "pre_b"]
    black = next(row for row in cells if row["decision"] == "reject")
    made = [
        (green[0], "pre_b", "keep", "pre_b", "2026-01-01T10:00:00Z"),
        (green[0], "pre_b", "other", "benign", "2026-01-01T11:00:00Z"),
        (green[1], "pre_b", "exclude", "", "2026-01-01T11:00:00Z"),
        (black["cell_id"], black["predicted"], "other", "pro_b", "2026-01-01T11:00:00Z"),
    ]
    _write(path, made[:-1], sheet["sha256"])
    page = tmp_path / "page.csv"  # of the page of predictions: it names no sheet
    _write(page, made[-1:], "")
    result = run(smears, "-b", bundle, "--out", tmp_path / "o2", "--corrections", path,
                 "--corrections", page, "--json", code=3)  # fmt: skip
    a = of(result, "A")
    assert [one["cells"] for one in a["classes"]] == [7, 0, 1]
    assert (a["cells"], a["excluded"], a["corrected"], a["rejected"]) == (8, 1, 3, 0)
    assert result["corrections"]["cells"] == 3
    assert a["classes"][2]["adjusted"] > 0.1  # a cell that a person named is certain


def test_corrections_that_are_not_there_stop_before_the_count(
    smears: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leukoscope.runtime.predictor.load_bundle", None)  # is not reached
    out, gone = tmp_path / "o", tmp_path / "nope.csv"
    done = run(smears, "-b", bundle, "--out", out, "--corrections", gone, code=1)
    said = " ".join(done.output.split())
    assert "found no such file" in said
    assert "nothing was counted; name the file" in said
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    run(smears, "-b", bundle, "--out", out, "--corrections", tmp_path / "wrong.csv", code=1)
    assert not out.exists()


@pytest.mark.usefixtures("bare_charts")
def test_wrong_corrections_are_named(smears: Path, bundle: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "corrections.csv"
    run(smears, "-b", bundle, "--out", out, code=3)
    cell = next(row for row in read_csv(out / "cells.csv") if row["predicted"] == "benign")
    sha256 = _sheet(out / f"sheets/{cell['patient']}.html")["sha256"]
    values = (cell["cell_id"], "", "benign", "other", "pro_b", "me", "now", sha256)
    right = dict(zip(COLUMNS, values, strict=True))
    for change, words in (
        ({"queue_sha256": "0"}, "belongs to another sheet"),
        ({"queue_sha256": "", "image_id": "x"}, "no sheet has an image 'x'"),
        ({"label": "myeloblast"}, "expected a class of benign, pre_b, pro_b, found 'myeloblast'"),
        ({"given": "pro_b"}, "the bundle says benign, the row 'pro_b'"),
        ({"by": ""}, "expected who decided"),
        ({"image_id": "x"}, "has no cell 'x'"),
        ({"decision": "accept"}, "expected a decision of keep, other, exclude, unsure"),
    ):
        _write(path, [], sha256, extra=right | change)
        done = run(smears, "-b", bundle, "--out", out, "--corrections", path, code=1)
        assert words in " ".join(done.output.split()), change


@pytest.mark.usefixtures("bare_charts")
def test_a_bundle_without_confusions_says_that_nothing_is_adjusted(
    smears: Path, tiny: ModuleType, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "old", tiny.build_record(), tiny.bundle_files())
    result = run(smears, "-b", tmp_path / "old", "--out", tmp_path / "o", "--json", code=3)
    assert "sample alone" in result["notes"][0]
    benign = of(result, "A")["classes"][0]
    assert benign["adjusted"] is None
    assert benign["low"] < benign["counted"] < benign["high"]
    assert "sample alone" in (tmp_path / "o/counts.html").read_text()


@pytest.mark.usefixtures("bare_charts")
def test_labels_are_compared_by_patient(smears: Path, bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "smears.csv"
    rows = [("path", "label", "patient_id")]
    for path in sorted(smears.rglob("[0-9].png")):
        green = path.parent.name == "A" and path.stem in "67"
        label = "pro_b" if path.parent.name == "<b>" else "pre_b" if green else "benign"
        rows.append((path.relative_to(tmp_path).as_posix(), label, path.parent.name))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    result = run(table, "-b", bundle, "--out", tmp_path / "o", "--json")
    truth = result["truth"]
    assert (truth["patients"], truth["cells"], truth["other_labels"]) == (2, 12, {})
    assert truth["held"] == 1
    points = {point["patient"]: point["truth"] for point in truth["blasts"]["points"]}
    assert points == {"A": 0.25, "<b>": 1.0}
    assert "limits of agreement" in (tmp_path / "o/counts.html").read_text()


@pytest.mark.usefixtures("bare_charts")
def test_images_that_the_bundle_was_trained_on_are_no_test(
    smears: Path, bundle: Path, tmp_path: Path
) -> None:
    whole = read_bundle(bundle)
    files: dict[str, bytes | Path] = {name: bundle / name for name in whole.record.files}
    known = sorted((smears / "A").glob("[0-3].png"))
    listed = "".join(f"{sha256_file(path)}\n" for path in known).encode()
    save_bundle(bundle, whole.record, files | {"trained_on.txt": listed})
    done = run(smears, "-b", bundle, "--out", tmp_path / "o", code=3)
    words = "4 of these 13 images were used to train the bundle: this is no test of unseen images"
    assert f"! {words}" in " ".join(done.output.split())
    assert words in json.loads((tmp_path / "o/counts.json").read_text())["notes"][0]
    assert words in (tmp_path / "o/counts.html").read_text()


def test_what_cannot_be_counted_is_refused(smears: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study/config.toml").touch()
    for arguments, words in (
        ([smears, "--out", tmp_path / "study"], "holds a study"),
        ([tmp_path / "empty"], "there is no image to count"),
        ([smears, "--blast", "myeloblast"], "myeloblast"),
        ([smears, "--method", "em2"], "em2"),
        ([smears, smears / "A", "--truth"], "expects one data set"),
    ):
        done = CliRunner().invoke(app, ["count", "-b", str(bundle), "--out", str(tmp_path / "o"),
                                        *map(str, arguments)])  # fmt: skip
        assert done.exit_code in (1, 2)
        assert words in " ".join(done.output.split())
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("bare_charts")
@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (("aml", "apl", "cll"), True),
        (("benign", "early_pre_b", "pro_b"), False),  # fields and cells of the ALL sets
        (("aml", "blast", "lymphocyte"), False),
        (("disease_x", "disease_y", "disease_z"), False),  # not known: may be cells
    ],
)
def test_diagnoses_are_not_counted(
    tiny: ModuleType, smears: Path, tmp_path: Path, names: tuple[str, ...], refused: bool
) -> None:
    record = tiny.build_record(class_names=names)
    save_bundle(tmp_path / "named", record, tiny.bundle_files(record=record))
    done = run(smears, "-b", tmp_path / "named", "--out", tmp_path / "o", code=2 if refused else 3)
    words = "the classes of this bundle (aml, apl, cll) are diagnoses, not cell types → count with"
    assert (words in " ".join(done.output.split())) == refused
    assert (tmp_path / "o").exists() != refused


@pytest.mark.usefixtures("bare_charts")
def test_folders_and_files_can_be_smears(smears: Path, bundle: Path, tmp_path: Path) -> None:
    items = (smears / "A", smears / "<b>/0.png")
    result = run(*items, "-b", bundle, "--out", tmp_path / "o", "--json", "--no-sheets", code=3)
    assert [one["patient"] for one in result["patients"]] == ["0", "A"]
    alone = run(smears / "A", "-b", bundle, "--out", tmp_path / "o2", "--json", code=3)
    assert [one["patient"] for one in alone["patients"]] == ["A"]


@pytest.mark.usefixtures("bare_charts")
def test_a_table_beside_the_cells_is_no_cell(smears: Path, bundle: Path, tmp_path: Path) -> None:
    table = smears / "cells.csv"
    rows = [f"{path.relative_to(smears)},x" for path in sorted(smears.rglob("*.png"))]
    table.write_text("\n".join(["image,patient_id", *rows]))
    done = run(smears, "-b", bundle, "--out", tmp_path / "o", "--patients", table, code=3)
    assert f"! 1 file that is no image was left out, e.g. {table}" in done.stderr
    assert "broken.png" in done.stderr  # it is called like an image
    arguments = ["predict", str(smears), "-b", str(bundle), "--by-patient", str(table)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 3, said.output
    assert f"no image was left out, e.g. {table}" in said.stderr
    assert "patient x" in said.stdout
    named = CliRunner().invoke(app, ["predict", str(table), "-b", str(bundle)])
    assert named.exit_code == 3
    assert "cells.csv: expected an image, found text" in named.output


@pytest.mark.usefixtures("bare_charts")
def test_patients_without_a_cell_are_not_left_out_of_the_headline(
    smears: Path, bundle: Path, tmp_path: Path
) -> None:
    (smears / "C").mkdir()
    (smears / "A/black.png").rename(smears / "C/black.png")  # rejected: no cell counts
    run(smears, "-b", bundle, "--out", tmp_path / "o", "--no-sheets", code=3)
    page = " ".join((tmp_path / "o/counts.html").read_text().split())
    assert "of 3 patients. 1 patient had no cell to count. A patient is above" in page


def test_a_sheet_saves_what_count_reads(smears: Path, bundle: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((p for name in ("chromium", "google-chrome") if (p := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO CHROMIUM on this machine: the sheet was not tested in a browser")
    out, saved = tmp_path / "out", tmp_path / "corrections.csv"
    run(smears, "-b", bundle, "--out", out, code=3)
    said: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.goto((out / "sheets/A.html").as_uri())
        choices = page.locator(".cell select")
        choices.nth(0).select_option("class pro_b")
        choices.nth(1).select_option("exclude")
        page.locator("#undo").click()
        page.locator(".head button").nth(1).click()  # both of pre_b are right
        assert page.locator("#count").inner_text() == "3 of 9 decided, 8 counted"
        page.locator("#export").click()
        assert "Name the reviewer first" in page.locator("#say").inner_text()
        page.fill("#by", "=me")
        page.reload()
        with page.expect_download() as download:
            page.locator("#export").click()
        download.value.save_as(saved)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        browser.close()
    assert not said
    assert ",'=me," in saved.read_text()  # no formula to a spreadsheet
    assert {row["by"] for row in read_csv(saved)} == {"=me"}
    result = run(smears, "-b", bundle, "--out", out, "--corrections", saved, "--json", code=3)
    a = of(result, "A")
    assert [one["cells"] for one in a["classes"]] == [5, 2, 1]
    assert (a["corrected"], a["changed"]) == (3, 1)


def _sheet(path: Path) -> dict[str, Any]:
    text = path.read_text()
    start = text.index('id="sheet">') + len('id="sheet">')
    found: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return found


def _write(
    path: Path, rows: list[tuple[str, str, str, str, str]], sha256: str, extra: Any = None
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for image_id, given, decision, label, at in rows:
            writer.writerow((image_id, "", given, decision, label, "me", at, sha256))
        if extra is not None:
            writer.writerow([extra[name] for name in COLUMNS])
