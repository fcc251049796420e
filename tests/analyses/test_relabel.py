"""The relabel queue, its page and the corrected manifest, on a study made of known numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from leukoscope.analyses.corrections import REQUIRED, apply_corrections
from leukoscope.analyses.relabel import LabelEvidence, make_queue, rank_images, write_queue
from leukoscope.cli.main import app
from leukoscope.config.loading import save_study_config
from leukoscope.config.passport import Passport
from leukoscope.core.errors import DataError, UnknownNameError, UsageError
from leukoscope.core.files import read_csv, read_json, sha256_file, write_csv, write_json
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.phantom.morphology import draw_attributes
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec, design_cases, stream
from leukoscope.study.options import study_config

NAMES = ("benign", "early_pre_b", "pre_b", "pro_b")
SWAPPED, DOUBTFUL, ODD, COPIES, PAIR = (3, 7), 12, 20, (24, 25), (30, 31)


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(
        PhantomSpec(images=40, sessions=4, size_px=96), tmp_path_factory.mktemp("relabel") / "data"
    )


@pytest.fixture(scope="module")
def finished(data: Path, bare_passport: Passport) -> RunFolder:
    """Swapped labels, one doubtful and one odd image, equal files, an overlapping pair."""
    run = RunFolder(data.parent / "run")
    save_study_config(run.config, study_config(data, protocols=["random", "deduplicated"]))
    manifest = load_dataset(data)
    images = list(manifest.images)
    truth = np.array([NAMES.index(record.label) for record in images])
    for i in (*SWAPPED, PAIR[1]):
        images[i] = replace(images[i], label=NAMES[(truth[i] + 1) % 4])
    images[COPIES[1]] = replace(images[COPIES[1]], label=images[COPIES[0]].label)
    truth[COPIES[1]] = truth[COPIES[0]]
    images[PAIR[0]] = replace(images[PAIR[0]], label=NAMES[truth[PAIR[1]]])
    truth[PAIR[0]] = truth[PAIR[1]]
    images[39] = replace(images[39], status="excluded", reason="segmented twin of another")
    manifest = manifest.with_images(images)
    manifest.save(run.manifest)
    ids = [record.image_id for record in images]
    copies, pair = [ids[i] for i in COPIES], [ids[PAIR[0]], ids[PAIR[1]], 5, 0, 0.9]
    write_json(run.passport, bare_passport | {
        "exact_duplicates": {"pairs": 1, "images": 2, "groups": [copies]},
        "overlaps": bare_passport["overlaps"] | {"pairs": [pair]},
    })  # fmt: skip
    _predictions(run, manifest, truth)
    return run


def _predictions(run: RunFolder, manifest: Manifest, truth: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    usable = manifest.usable
    logits = 4 * np.eye(4)[truth[: len(usable)]] + rng.normal(0, 0.4, (len(usable), 4))
    logits[DOUBTFUL] = [2, 2.02, 0, 0]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [record.image_id for record in usable]
    y = [NAMES.index(record.label) for record in usable]
    fold = np.arange(len(ids)) % 2
    tables = [
        PredictionTable.build(NAMES, ids, p, recipe="quick", protocol=protocol, fold=fold,
                              part="test", y_true=y)
        for protocol, p in (("random", np.full_like(probs, 0.25)), ("deduplicated", probs))
    ]  # fmt: skip
    concatenate(tables).save(run.predictions)
    folds = []
    for k in (0, 1):
        rest = iter(np.flatnonzero(fold != k))
        parts = {ids[i]: "test" for i in np.flatnonzero(fold == k)}
        parts |= {ids[i]: "val" if n < 6 else "train" for n, i in enumerate(rest)}
        folds.append(Fold("deduplicated", k, parts))
    save_folds(run.splits, folds, manifest)
    features = rng.normal(size=(len(ids), 6)).astype(np.float32)
    features[ODD] += 40
    (run.cache / "features").mkdir(parents=True)
    np.save(run.cache / "features/image-0123.npy", features)


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))


def images(run: RunFolder, *numbers: int) -> list[str]:
    records = Manifest.load(run.manifest, run.path).images
    return [records[i].image_id for i in numbers]


def test_the_queue_begins_with_swapped_labels_and_names_every_reason(run: RunFolder) -> None:
    queue = make_queue(run).to_json()
    rows = queue["rows"]
    assert queue["protocol"] == "deduplicated"
    assert {row["image_id"] for row in rows[:3]} == set(images(run, *SWAPPED, PAIR[1]))
    assert rows[3]["image_id"] == images(run, PAIR[0])[0], "the innocent side comes last"
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["image_id"] for row in rows}) == len(rows)
    by_id = {row["image_id"]: row for row in rows}
    swapped = by_id[images(run, SWAPPED[0])[0]]
    assert (swapped["list"], swapped["given"]) == ("label", "early_pre_b")
    assert swapped["suggested"] == "benign"
    assert swapped["score"] > 0.8
    assert "the given label 0.0" in swapped["reasons"][0]
    conflict = by_id[images(run, PAIR[1])[0]]
    assert conflict["same"][0]["what"] == "overlapping field"
    assert queue["label_errors"]["conflicts"] == 1
    uncertain = [row for row in rows if row["list"] == "uncertain"]
    assert uncertain[0]["image_id"] == images(run, DOUBTFUL)[0]
    assert "undecided" in uncertain[0]["reasons"][0]
    odd = by_id[images(run, ODD)[0]]
    assert "unlike the training images" in " ".join(odd["reasons"])
    assert images(run, 39)[0] not in by_id, "excluded images have no label to check"
    assert make_queue(run).to_json() == queue


def test_lists_are_cut_and_what_is_absent_says_why(run: RunFolder) -> None:
    shutil.rmtree(run.cache)
    queue = make_queue(run, count=2).to_json()
    assert [row["list"] for row in queue["rows"]] == ["label"] * 2 + ["uncertain"] * 2
    assert "no features of a frozen backbone" in queue["lists"]["ood"]["absent"]
    assert queue["lists"]["label"]["found"] == 4
    with pytest.raises(UnknownNameError, match="deduplicated, random"):
        make_queue(run, protocol="grouped")
    with pytest.raises(UnknownNameError, match="quick"):
        make_queue(run, recipe="other")
    run.predictions.unlink()
    with pytest.raises(DataError, match="the run is not finished"):
        make_queue(run)


def test_an_untested_image_is_queued_only_for_its_conflict(run: RunFolder) -> None:
    table = PredictionTable.load(run.predictions)
    left_out = images(run, PAIR[1])
    table.take(~np.isin(table.image_id, left_out)).save(run.predictions)
    queue = make_queue(run).to_json()
    assert queue["n_untested"] == 1
    (row,) = [row for row in queue["rows"] if row["image_id"] == left_out[0]]
    assert (row["score"], row["probabilities"]) == (None, None)
    assert row["suggested"] == row["same"][0]["label"]


def test_the_page_holds_everything_and_fetches_nothing(run: RunFolder, data: Path) -> None:
    made = make_queue(run)
    queue = made.to_json()
    broken = images(run, SWAPPED[0])[0]
    records = Manifest.load(run.manifest, data).images
    manifest = [replace(r, path="gone.png") if r.image_id == broken else r for r in records]
    Manifest(data, tuple(manifest)).save(run.manifest)
    path, missing = write_queue(run, made, silent)
    page = path.read_text()
    assert missing == [record.path for record in records if record.image_id == broken]
    text = re.search(r'id="queue">(.*?)</script>', page, re.DOTALL)[1]
    rows = json.loads(text)["rows"]
    assert sum(row["picture"].startswith("data:image/jpeg") for row in rows) == len(rows) - 1
    assert 'src="http' not in page
    assert "default-src 'none'" in page
    listed = read_csv(run.path / "relabel/queue.csv")
    assert [row["image_id"] for row in listed] == [row["image_id"] for row in queue["rows"]]
    assert read_json(run.path / "relabel/queue.json") == queue
    write_queue(run, made, silent)
    with pytest.raises(UsageError, match="another queue"):
        write_queue(run, make_queue(run, count=1), silent)


def corrections(run: RunFolder, rows: list[dict[str, Any]], **changes: str) -> Path:
    queue = read_json(run.path / "relabel/queue.json")
    given = {row["image_id"]: row["given"] for row in queue["rows"]}
    fixed = {"by": "A. Reviewer", "at": "2026-01-02T03:04:05Z", "queue_sha256": queue["sha256"]}
    path = run.path.parent / "corrections.csv"
    complete = [
        {"given": given.get(row["image_id"], "benign"), **fixed, **row, **changes} for row in rows
    ]
    write_csv(path, REQUIRED, complete)
    return path


@pytest.fixture
def queued(run: RunFolder) -> RunFolder:
    write_queue(run, make_queue(run), silent)
    return run


def decide(run: RunFolder, number: int, decision: str, label: str = "") -> dict[str, Any]:
    (image_id,) = images(run, number)
    queue = read_json(run.path / "relabel/queue.json")
    row = next(row for row in queue["rows"] if row["image_id"] == image_id)
    label = label or (row["suggested"] if decision == "accept" else row["given"])
    return {"image_id": image_id, "decision": decision, "label": label}


def test_the_corrected_manifest_is_data_and_says_where_it_came_from(
    queued: RunFolder, data: Path, tmp_path: Path
) -> None:
    rows = [
        decide(queued, SWAPPED[0], "accept"),
        decide(queued, PAIR[0], "keep"),
        decide(queued, SWAPPED[1], "unsure"),
        decide(queued, COPIES[0], "other", "healthy"),
    ]
    out = tmp_path / "v2/manifest.v2.csv"
    decisions = corrections(queued, rows)
    decisions.write_text(decisions.read_text().replace(",", ";"))  # as a spreadsheet may save it
    command = ["relabel", str(queued.path), "--apply", str(decisions)]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 labels changed" in done.output
    new = load_dataset(out)
    before = Manifest.load(queued.manifest, data)
    changed = {r.image_id: r.label for r in new.images}
    expected = {r.image_id: r.label for r in before.usable}
    expected[images(queued, SWAPPED[0])[0]] = rows[0]["label"]
    for copy in images(queued, *COPIES):
        expected[copy] = "healthy"
    assert changed == expected
    assert any("labels were corrected" in note for note in new.notes)
    provenance = read_json(tmp_path / "v2/manifest.v2.provenance.json")
    assert provenance["previous"]["manifest_sha256"] == sha256_file(queued.manifest)
    assert provenance["decisions"] == {"accept": 1, "keep": 1, "other": 1, "unsure": 1}
    copies = [row for row in provenance["changes"] if row["decision"].startswith("copy of")]
    assert [row["image_id"] for row in copies] == images(queued, COPIES[1])
    assert {row["by"] for row in provenance["changes"]} == {"A. Reviewer"}
    assert provenance["excluded_left_out"] == 1
    again = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert again.exit_code == 2
    assert "is there already" in again.output
    out.write_text(out.read_text().replace("healthy", "benign"))
    assert any("have no source" in note for note in load_dataset(out).notes)


def test_corrections_of_predictions_are_corrections_of_labels(
    queued: RunFolder, data: Path, tmp_path: Path
) -> None:
    record, other = Manifest.load(queued.manifest, data).usable[:2]
    label = next(name for name in ("benign", "healthy", "pro_b") if name != record.label)
    rows = [
        {"image_id": record.sha256[:12], "given": label, "decision": "keep", "label": label},
        {"image_id": other.sha256[:12], "given": "pro_b", "decision": "exclude", "label": ""},
    ]
    out = tmp_path / "new.csv"
    made = apply_corrections(queued, corrections(queued, rows, queue_sha256=""), out)
    assert made["decisions"] == {"accept": 0, "keep": 0, "other": 1, "unsure": 1}
    first = next(row for row in made["changes"] if row["image_id"] == record.image_id)
    assert (first["old"], first["new"]) == (record.label, label)


def test_every_wrong_row_is_named_and_nothing_is_written(queued: RunFolder, tmp_path: Path) -> None:
    good = decide(queued, SWAPPED[0], "accept")
    rows = [
        good,
        good | {"decision": "other", "label": "benign"},
        decide(queued, SWAPPED[1], "accept", "healthy"),
        decide(queued, DOUBTFUL, "keep") | {"given": "pro_b"},
        {"image_id": "nobody", "decision": "keep", "label": "benign"},
        decide(queued, PAIR[0], "perhaps"),
        decide(queued, PAIR[1], "other", "helthy"),
    ]
    out = tmp_path / "new.csv"
    with pytest.raises(DataError) as caught:
        apply_corrections(queued, corrections(queued, rows), out)
    for line, text in ((3, "in line 2"), (4, "accept means"), (5, "the row says 'pro_b'"),
                       (6, "'nobody' is not in the queue"), (7, "found 'perhaps'"),
                       (8, "found 'helthy' (did you mean 'healthy'?)")):  # fmt: skip
        assert re.search(rf"line {line}: [^;]*{re.escape(text)}", str(caught.value)), caught.value
    for changes, message in (
        ({"by": " "}, "who decided"),
        ({"queue_sha256": "ff"}, "another queue"),
    ):
        with pytest.raises(DataError, match=message):
            apply_corrections(queued, corrections(queued, [good], **changes), out)
    with pytest.raises(DataError, match="no decision"):
        apply_corrections(queued, corrections(queued, []), out)
    assert list(tmp_path.glob("*.csv")) == [tmp_path / "corrections.csv"]


def test_copies_of_one_picture_cannot_have_two_labels(queued: RunFolder, tmp_path: Path) -> None:
    rows = [decide(queued, COPIES[0], "keep"), decide(queued, COPIES[1], "other", "healthy")]
    with pytest.raises(DataError, match="copies of one picture have two labels"):
        apply_corrections(queued, corrections(queued, rows), tmp_path / "new.csv")


def test_a_queue_of_another_manifest_is_refused(queued: RunFolder, tmp_path: Path) -> None:
    path = corrections(queued, [decide(queued, SWAPPED[0], "accept")])
    with queued.manifest.open("a", newline="") as file:
        csv.writer(file).writerow(["x"] * 12)
    with pytest.raises(DataError, match="not the manifest"):
        apply_corrections(queued, path, tmp_path / "new.csv")


def test_the_command_says_what_it_found(run: RunFolder) -> None:
    done = CliRunner().invoke(app, ["relabel", str(run.path)])
    assert done.exit_code == 0, done.output
    assert "conflicting pairs    1" in done.stdout
    shown = re.findall(r"(\d+)(?: more)? in queue$", done.stdout, re.MULTILINE)
    total = re.search(r"^queue (\d+) images", done.stdout, re.MULTILINE)
    assert total is not None
    assert sum(map(int, shown)) == int(total[1]) > 0  # the lists add up
    half = CliRunner().invoke(app, ["relabel", str(run.path), "--apply", "c.csv"])
    assert half.exit_code == 2


def test_the_probe_that_sees_only_cells_has_a_say(run: RunFolder) -> None:
    table = PredictionTable.load(run.predictions)
    cells = table.select(protocol="deduplicated")
    cells = replace(cells, input=np.full(len(cells), "cells-only"), probs=cells.probs[:, ::-1])
    concatenate([table, cells]).save(run.predictions)
    queue = make_queue(run).to_json()
    assert queue["inputs"] == ["image", "cells-only"]
    # The two views contradict each other everywhere, so each class is as probable as its mirror.
    for row in queue["rows"]:
        p = list(row["probabilities"].values())
        np.testing.assert_allclose(p, p[::-1], atol=1e-5)


def field_traits(spec: PhantomSpec) -> tuple[np.ndarray, list[str], list[str]]:
    """Mean traits of six leukocytes of each field, as drawn, with noise; labels; patients."""
    rows, cases = [], design_cases(spec)
    for case in cases:
        rng = stream(spec, "leukocytes", case.index)
        cells = [
            asdict(draw_attributes(case.label, stream(spec, "patient", case.patient), rng))
            for _ in range(6)
        ]
        rows.append(np.mean([list(cell.values()) for cell in cells], axis=0))
    traits = np.array(rows)
    noise = np.random.default_rng(spec.seed).normal(0, 0.3, traits.shape) * traits.std(axis=0)
    return traits + noise, [case.label for case in cases], [case.patient_id for case in cases]


def test_swapped_labels_of_phantoms_stand_at_the_head_of_the_queue() -> None:
    found = planted = 0
    for seed in range(5):
        spec = PhantomSpec(images=300, sessions=12, seed=seed)
        traits, truth, patients = field_traits(spec)
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(len(truth))[: round(0.03 * len(truth))]
        labels = list(truth)
        for i in wrong:
            labels[i] = str(rng.choice([name for name in NAMES if name != truth[i]]))
        y = np.array([NAMES.index(label) for label in labels])
        model = make_pipeline(StandardScaler(), LogisticRegression())
        probs = cross_val_predict(
            model, traits, y, groups=patients, cv=GroupKFold(5), method="predict_proba"
        )
        records = tuple(
            ImageRecord(f"{i:03d}", f"{i}.png", label=label) for i, label in enumerate(labels)
        )
        rows = rank_images(LabelEvidence(records, NAMES, probs, ())).rows
        head = {row.image_id for row in rows[: round(0.06 * len(truth))]}
        found += sum(f"{i:03d}" in head for i in wrong)
        planted += len(wrong)
    assert planted == 45
    assert found >= 0.9 * planted, f"{found} of {planted}"
