"""Both phases on small phantoms: what was taken over, what was left out, resumed to the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from leukoscope.analyses.transfer import TransferPlan, plan_transfer, run_transfer
from leukoscope.core.errors import ConfigError, DataError, UsageError
from leukoscope.core.files import read_json, sha256_file
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.study import report

RECIPE = "double-transfer-resnet50"
NAME = f"{RECIPE}-on-test_resnet"
SMALL = (
    "training.epochs=1", "preprocess.size_px=32", "bootstrap=100", "explanations=0",
    "control_draws=0", 'training.precision="fp32"',
)  # fmt: skip


def plan(source: Path, target: Path, **options: object) -> TransferPlan:
    settings: dict[str, object] = {
        "recipe": RECIPE, "backbone": "test_resnet", "weights": "none",
        "protocols": ("random", "given"), "overrides": SMALL,
        "source_overrides": ("explanations=0", "bootstrap=100", "control_draws=0"),
    } | options  # fmt: skip
    return plan_transfer(source, target, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def empty_reports() -> Iterator[None]:
    """The studies' own reports are empty files: their figures take longer than the trainings."""

    def write(run: RunFolder) -> None:
        run.report_html.touch()
        run.model_card.touch()  # by which a finished arm is known

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", write)
        yield


@pytest.fixture(scope="module")
def out(
    two_classes: Path,
    four_classes: Path,
    empty_reports: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("transfer") / "out"
    run_transfer(plan(two_classes, four_classes), folder)
    return folder


def test_the_phases_have_their_own_values(two_classes: Path, four_classes: Path) -> None:
    made = plan(
        two_classes, four_classes, freeze=True, conv=(16,), source_overrides=["training.epochs=3"]
    )
    first, second = made.source.recipes[0].training, made.target.recipes[0].training
    assert (first.learning_rate, first.batch_size, first.epochs) == (5e-4, 32, 3)  # type: ignore[union-attr]
    assert (second.learning_rate, second.batch_size, second.epochs) == (2e-4, 24, 1)  # type: ignore[union-attr]
    assert second.freeze == "all"  # type: ignore[union-attr]
    assert made.target.recipes[0].model.conv == (16,)
    assert made.source.recipes[0].model.conv == ()
    assert made.source.protocols == ("grouped",)  # every image has a patient id


def test_the_arms_differ_in_their_start_alone(out: Path) -> None:
    result = read_json(out / "transfer.json")
    double, direct = RunFolder(out / "double"), RunFolder(out / "direct")
    assert sha256_file(double.splits) == sha256_file(direct.splits)
    texts = [run.config.read_text().splitlines() for run in (double, direct)]
    changed = {a.split(" = ")[0] for a, b in zip(*texts, strict=True) if a != b}
    assert changed == {"title", "weights"}
    assert "trained on healthy, all" in result["arms"][0]["weights"]
    assert result["arms"][1]["weights"].startswith("none (random")
    seeds = [
        read_json(run.model(NAME, "random", 0) / "checkpoint.json")["seed"]
        for run in (double, direct)
    ]
    assert seeds[0] == seeds[1]


def test_the_backbone_is_taken_over_and_the_head_is_new(out: Path) -> None:
    result = read_json(out / "transfer.json")
    taken = result["taken_over"]
    tensors = load_file(Path(taken["checkpoint"]) / "checkpoint.safetensors")
    backbone = [name for name in tensors if name.startswith("backbone.")]
    assert taken["taken_over"] == len(backbone) > 0
    shapes = {row["name"]: row["shape"] for row in taken["new"]}
    assert shapes["head.weight"] == [4, 96]
    left = {row["name"]: row["shape"] for row in taken["left_behind"]}
    assert left["head.weight"] == [2, 96]
    assert not [name for name in (*shapes, *left) if name in backbone]


def test_shared_images_are_left_out_of_phase_1_and_named(out: Path, four_classes: Path) -> None:
    overlap = read_json(out / "transfer.json")["overlap"]
    assert overlap["purged"] == 2
    assert overlap["by_kind"] == {"equal file": 2}
    trained = {row.sha256 for row in _manifest(out / "phase1")}
    assert len(trained) == 48
    assert not trained & {row.sha256 for row in _manifest(out / "direct")}


def _manifest(folder: Path) -> tuple:  # type: ignore[type-arg]
    from leukoscope.core.records import Manifest

    return Manifest.load(folder / "manifest.csv", folder).usable


def test_the_answer_is_written_for_programs_and_readers(out: Path) -> None:
    result = read_json(out / "transfer.json")
    (row,) = result["comparisons"]
    assert (row["protocol"], row["n"]) == ("random", 8)
    entry = row["differences"]["accuracy"]
    both = [row[side]["accuracy"]["value"] for side in ("first_values", "second_values")]
    assert entry["value"] == pytest.approx(both[0] - both[1])
    assert [r["protocol"] for r in result["inapplicable"]] == ["given"]
    assert result["verdict"]["headline"] in (out / "transfer.md").read_text().replace("\\", "")
    page = (out / "report.html").read_text()
    assert "What phase 2 took over" in page
    assert "<svg" in page
    for name in ("phase1", "direct", "double"):
        assert RunFolder(out / name).report_html.is_file()


def test_a_killed_transfer_ends_as_an_undisturbed_one(
    out: Path, two_classes: Path, four_classes: Path, tmp_path: Path
) -> None:
    def kill(step: str, done: int, total: int) -> None:
        if step == "double: splits" and done:
            raise KeyboardInterrupt

    again = tmp_path / "again"
    later = shutil.ignore_patterns("double", "transfer.*", "report.html", "figures")
    shutil.copytree(out, again, ignore=later)  # before its last arm
    config = RunFolder(again / "phase1").config  # the only one that names the folder
    config.write_text(config.read_text().replace(str(out), str(again)))
    with pytest.raises(KeyboardInterrupt):
        run_transfer(plan(two_classes, four_classes), again, resume=True, listener=kill)
    with pytest.raises(UsageError, match="already holds a comparison"):
        run_transfer(plan(two_classes, four_classes), again)
    steps = []
    run_transfer(
        plan(two_classes, four_classes), again, resume=True, listener=lambda *a: steps.append(a[0])
    )
    assert not [step for step in steps if step.startswith(("phase1", "direct", "overlap"))]
    assert "double: reading the images" not in steps  # the audit of the other arm serves
    texts = [(folder / "transfer.json").read_text() for folder in (out, again)]
    assert texts[0].replace(str(out), "") == texts[1].replace(str(again), "")


def test_another_plan_is_not_mixed_in(out: Path, two_classes: Path, four_classes: Path) -> None:
    with pytest.raises(ConfigError, match="differs from the options given"):
        run_transfer(plan(two_classes, four_classes, seed=7), out, resume=True)


def test_a_source_that_is_the_target_is_refused(four_classes: Path, tmp_path: Path) -> None:
    made = plan(four_classes, four_classes)
    said = "same patients or fields.*fewer than two classes are left for phase 1"
    with pytest.raises(DataError, match=said):
        run_transfer(made, tmp_path / "same")


def test_data_without_a_protocol_is_refused_before_anything_is_trained(
    two_classes: Path, four_classes: Path, tmp_path: Path
) -> None:
    made = plan(two_classes, four_classes, protocols=("given",))
    with pytest.raises(DataError, match=r"four: no protocol applies to this data \(given"):
        run_transfer(made, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "overlap.json",
        "source.csv",
    ]


def test_a_class_of_one_patient_gets_the_hint_of_a_study(
    two_classes: Path, four_classes: Path, tmp_path: Path
) -> None:
    rows = ["path,label,patient_id"]
    for number, image in enumerate(sorted(four_classes.glob("*/*.png"))):
        label = "apl" if image.parent.name == "Pro" else "aml"
        rows.append(f"{image},{label},{label}{number if label == 'aml' else ''}")
    target = tmp_path / "target.csv"
    target.write_text("\n".join(rows))
    made = plan(two_classes, target, protocols=("grouped",))
    with pytest.raises(DataError, match="no protocol applies") as caught:
        run_transfer(made, tmp_path / "out")
    assert "merge that class into another: --class FOLDER=CLASS" in caught.value.hint


def test_a_frozen_first_phase_is_refused(two_classes: Path, four_classes: Path) -> None:
    with pytest.raises(ConfigError, match="linear, so phase 1 would leave nothing"):
        plan(two_classes, four_classes, recipe="quick", overrides=())
    with pytest.raises(ConfigError, match="phase 1 with a frozen backbone"):
        plan(two_classes, four_classes, source_overrides=['training.freeze="all"'])


def test_json_holds_no_infinite_numbers(out: Path) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    json.loads((out / "transfer.json").read_text(), parse_constant=refuse)
