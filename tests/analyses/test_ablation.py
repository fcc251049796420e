"""With and without: what is left out, what is refused, and the paired comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.analyses.ablation import parts_of, plan_ablation, recipe_without, run_ablation
from leukoscope.analyses.arms import judge_arms
from leukoscope.config.arms import ArmDifference, ArmsVerdict
from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.metrics.results import Difference, Disagreement, Estimate
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import ConfigError, UnknownNameError, UsageError
from leukoscope.core.files import read_json
from leukoscope.evaluation.statistics.leaderboard import holm_adjusted

SMALL = ("training.epochs=1", "preprocess.size_px=32", "bootstrap=100", "explanations=0",
         "control_draws=0", 'training.precision="fp32"')  # fmt: skip


@pytest.mark.usefixtures("no_study_report")
def test_an_ablation_measures_each_part_against_the_whole(
    four_classes: Path, tmp_path: Path
) -> None:
    plan = plan_ablation(
        four_classes, recipe="cnn-baseline", without=("augmentation", "rotation_deg+shift"),
        settings=("training.learning_rate=1e-4",), protocols=("random",), overrides=SMALL,
    )  # fmt: skip
    result = run_ablation(plan, tmp_path / "out").to_json()
    names = [
        "without-augmentation",
        "without-rotation_deg-shift",
        "set-training.learning_rate-1e-4",
    ]
    assert [arm["name"] for arm in result["arms"]] == ["whole", *names]
    assert [row["second"] for row in result["comparisons"]] == names
    rows = result["comparisons"]
    assert {row["confidence"] for row in rows} == {0.95}
    corrected = holm_adjusted([row["p"] for row in rows])  # all arms and protocols are one family
    assert [row["p_holm"] for row in rows] == pytest.approx(corrected, abs=1e-4)
    assert all(row["p_holm"] < 0.05 for row in rows if row["verdict"] != "not distinguishable")
    assert result["arms"][3]["changes"] == {"training.learning_rate": [1e-3, 1e-4]}
    assert len({arm["weights"] for arm in result["arms"]}) == 1  # the same seeds
    assert read_json(tmp_path / "out" / "ablation.json")["verdict"] == result["verdict"]
    assert "Without augmentation" in (tmp_path / "out" / "ablation.md").read_text()
    assert (tmp_path / "out" / "report.html").is_file()


def left_out(recipe: Recipe, part: str) -> Recipe | str:
    try:
        return recipe_without(recipe, part)
    except ConfigError as error:
        return error.message


@pytest.mark.parametrize("name", list_recipes())
def test_every_part_of_every_recipe_can_be_left_out_or_says_why_not(name: str) -> None:
    recipe = load_recipe(name)
    for part in parts_of(recipe):
        found = left_out(recipe, part)
        assert found != recipe
        assert isinstance(found, Recipe) or f"without {part}: " in found


def test_a_preprocessing_step_is_a_part() -> None:
    recipe = load_recipe("densenet121-clahe")
    assert "clahe" in parts_of(recipe)
    assert not [s for s in recipe_without(recipe, "clahe").preprocess.steps if s.kind == "clahe"]


def test_what_is_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown part of recipe cnn-baseline 'mixups'"):
        plan_ablation(tmp_path, recipe="cnn-baseline", without=("mixups",))
    with pytest.raises(UsageError, match="the same with and without"):
        plan_ablation(tmp_path, recipe="cnn-baseline", without=("mixup",))
    with pytest.raises(UsageError, match="what is to be left out"):
        plan_ablation(tmp_path, recipe="cnn-baseline")
    with pytest.raises(UsageError, match="named twice"):
        plan_ablation(tmp_path, recipe="cnn-baseline", without=("zoom", "zoom"))
    with pytest.raises(ConfigError, match="--set-arm seed=3"):
        plan_ablation(tmp_path, recipe="cnn-baseline", settings=("seed=3",))


def row(protocol: str, verdict: Difference, reliable: bool = True) -> ArmDifference:
    value = Estimate(value=0.1, low=0.0, high=0.2, reliable=reliable)
    alone = Disagreement(
        only_first_right=0, only_second_right=0, effect=None, independent=False, mcnemar_p=None,
        delong=None,
    )  # fmt: skip
    return ArmDifference(
        first="this", second="that", protocol=protocol, n=100, n_groups=4,
        group_unit="acquisition cluster", confidence=0.95, verdict=verdict, p=0.1, p_holm=0.1,
        differences={"accuracy": value}, first_values={"accuracy": value},
        second_values={"accuracy": value}, pairs=alone,
    )  # fmt: skip


def test_the_verdict_says_no_more_than_was_shown() -> None:
    def judge(*rows: ArmDifference) -> ArmsVerdict:
        return judge_arms(rows, "This", "that", "This is better.", "This is worse.")

    unclear: Difference = "not distinguishable"
    assert judge(row("random", "better")).level == "helps"
    assert judge(row("random", "worse")).headline == "This is worse."
    assert judge(row("random", unclear)).level == "no difference shown"
    both = judge(row("random", "better"), row("acquisition", unclear, reliable=False))
    assert "Shown under: Random split; not under the other" in both.headline
    assert "only 4 acquisition clusters, too few to tell" in str(both.sentences)
    mixed = judge(row("random", "better"), row("acquisition", "worse"))
    assert mixed.level == "depends on the protocol"
