from __future__ import annotations

from typing import Any

import pytest

from leukoscope.evaluation.verdict import RULE, judge

UNITS = {
    "random": "component",
    "deduplicated": "component",
    "given": "component",
    "grouped": "patient",
    "acquisition": "acquisition cluster",
    "acquisition-merged": "acquisition cluster",
}
FOUR = [[504, 0, 0, 0], [0, 985, 0, 0], [0, 0, 963, 0], [0, 0, 0, 804]]
TWO = [[100, 0], [50, 50]]  # 200 images, chance 50 %


def interval(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "reliable": True}


def result(
    protocol: str,
    value: float,
    *,
    half: float = 0.01,
    groups: int = 24,
    n: int = 200,
    confusion: list[list[int]] = TWO,
    recipe: str = "quick",
    **metrics: Any,
) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "protocol": protocol,
        "n": n,
        "n_groups": groups,
        "group_unit": UNITS.get(protocol, "acquisition cluster"),
        "folds": 5,
        "metrics": {"accuracy": interval(value, half), **metrics},
        "confusion": confusion,
        "calibrated": True,
    }


def probe(name: str, protocol: str, value: float, half: float = 0.01) -> dict[str, Any]:
    return {
        "probe": name,
        "recipe": "quick",
        "protocol": protocol,
        "n": 200,
        "n_groups": 24,
        "metrics": {"accuracy": interval(value, half)},
    }


def comparison(a: str, b: str, value: float, half: float) -> dict[str, Any]:
    return {
        "a": {"recipe": "quick", "protocol": a, "input": "image"},
        "b": {"recipe": "quick", "protocol": b, "input": "image"},
        "metric": "accuracy",
        "difference": interval(value, half),
        "verdict": "better",
    }


def verdict(*results: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return judge({"results": list(results), **rest})


def test_the_four_class_set_with_its_background() -> None:
    options: dict[str, Any] = {"n": 3256, "confusion": FOUR}
    found = verdict(
        result("random", 0.983, half=0.005, groups=3046, **options),
        result("acquisition", 0.96, **options),
        result("acquisition-merged", 0.501, half=0.15, groups=23, **options),
        result("acquisition-k96", 0.971, groups=96, **options) | {"clusters": 96},
        probes=[
            probe("background-only", "random", 0.97),
            probe("background-only", "acquisition", 0.95),
            probe("colour-only", "acquisition", 0.891),
            probe("cells-only", "acquisition", 0.9),
        ],
        comparisons=[comparison("acquisition-merged", "random", -0.482, 0.15)],
        inapplicable=[{"protocol": "grouped", "reason": "the images have no patient ids"}],
        curve=[
            {"recipe": "quick", "clusters": k, "n_groups": k, "accuracy": interval(v, 0.01)}
            for k, v in ((96, 0.971), (6, 0.918), (24, 0.954))
        ],
    )
    assert found["level"] == "unsafe"
    assert found["headline"] == (
        "3,256 images: 98.3 % on random splits, 96.0 % when whole acquisition clusters are held "
        "out, 50.1 % when acquisition clusters that share overlapping fields are held out "
        "together; with all leukocytes removed the background alone suffices for 95.0 % "
        "(clusters held out): this data set cannot show that the model reads morphology."
    )
    assert found["findings"] == [
        "On random splits: accuracy 98.3 % (interval 97.8–98.8 %), 3,256 images in 3,046 "
        "components, chance 30.3 %.",
        "When whole acquisition clusters are held out: accuracy 96.0 % (interval 95.0–97.0 %), "
        "3,256 images in 24 acquisition clusters, chance 30.3 %.",
        "When acquisition clusters that share overlapping fields are held out together: accuracy "
        "50.1 % (interval 35.1–65.1 %), 3,256 images in 23 acquisition clusters, chance 30.3 %.",
        "Probe background-only, on random splits: accuracy 97.0 % (interval 96.0–98.0 %), "
        "200 images, 98 % of the model's advantage over chance.",
        "Probe background-only, when whole acquisition clusters are held out: accuracy 95.0 % "
        "(interval 94.0–96.0 %), 200 images, 98 % of the model's advantage over chance.",
        "Probe colour-only, when whole acquisition clusters are held out: accuracy 89.1 % "
        "(interval 88.1–90.1 %), 200 images, 90 % of the model's advantage over chance.",
        "The accuracy on random splits lies 48.2 points above that when acquisition clusters "
        "that share overlapping fields are held out together (significantly).",
        "With 6 to 96 acquisition clusters, the accuracy on held-out clusters lies between "
        "91.8 % and 97.1 %.",
        "The protocol grouped could not be run: the images have no patient ids.",
    ]
    assert found["rule"] == RULE


def test_patients_held_out_and_probes_at_chance_are_plausible() -> None:
    found = verdict(
        result("random", 0.91),
        result("grouped", 0.90, half=0.04),
        result("acquisition", 0.88),
        probes=[
            probe("background-only", "grouped", 0.505),
            probe("colour-only", "grouped", 0.49),
            probe("background-only", "random", 0.95),  # finds the patient: grouped takes it away
        ],
    )
    assert found["level"] == "plausible"
    assert found["headline"] == (
        "200 images: 91.0 % on random splits, 90.0 % when whole patients are held out; with all "
        "leukocytes removed the background alone reaches only 50.5 % (patients held out), not "
        "above the 50.0 % of always naming the most frequent class: no shortcut was found, which "
        "does not prove that there is none."
    )


def test_a_background_above_chance_but_below_half_is_caution() -> None:
    found = verdict(
        result("grouped", 0.90), probes=[probe("background-only", "grouped", 0.65, half=0.05)]
    )
    assert found["level"] == "caution"
    assert found["headline"] == (
        "200 images: 90.0 % when whole patients are held out; with all leukocytes removed the "
        "background alone reaches 65.0 %, more than the 50.0 % of always naming the most frequent "
        "class: part of the accuracy may not be morphology."
    )


def test_colours_above_chance_are_no_alarm_since_they_hold_the_leukocytes() -> None:
    found = verdict(
        result("grouped", 0.90), probes=[probe("colour-only", "grouped", 0.65, half=0.05)]
    )
    assert found["level"] == "plausible"
    assert "reach only 65.0 %, less than half of the model's advantage" in found["headline"]


def test_colours_that_come_near_the_model_are_one() -> None:
    found = verdict(
        result("grouped", 0.90), probes=[probe("colour-only", "grouped", 0.85, half=0.03)]
    )
    assert found["level"] == "unsafe"
    assert "does not show that the model reads more than colour" in found["headline"]


@pytest.mark.parametrize(("value", "level"), [(0.702, "caution"), (0.722, "unsafe")])
def test_the_border_is_half_of_the_advantage_at_the_lower_limit(value: float, level: str) -> None:
    found = verdict(
        result("grouped", 0.90), probes=[probe("background-only", "grouped", value, half=0.02)]
    )
    assert found["level"] == level


@pytest.mark.parametrize(
    ("difference", "half", "level"),
    [(0.08, 0.03, "caution"), (0.08, 0.09, "plausible"), (0.015, 0.003, "plausible")],
)
def test_inflation_counts_if_significant_and_above_two_points(
    difference: float, half: float, level: str
) -> None:
    for a, b, sign in (("random", "grouped", 1), ("grouped", "random", -1)):
        found = verdict(
            result("random", 0.90 + difference),
            result("grouped", 0.90),
            probes=[probe("background-only", "grouped", 0.5)],
            comparisons=[comparison(a, b, sign * difference, half)],
        )
        assert found["level"] == level
    if level == "caution":
        assert found["headline"] == (
            "200 images: 98.0 % on random splits, 90.0 % when whole patients are held out; the "
            "random split overstates the accuracy by 8.0 points."
        )
    word = "significantly" if half < difference else "not significantly"
    assert any(f"({word})" in finding for finding in found["findings"])


def test_without_a_comparison_only_intervals_that_are_apart_count() -> None:
    probes = [probe("background-only", "grouped", 0.5)]
    apart = verdict(result("random", 0.98), result("grouped", 0.90), probes=probes)
    near = verdict(result("random", 0.98), result("grouped", 0.90, half=0.09), probes=probes)
    assert (apart["level"], near["level"]) == ("caution", "plausible")


def test_patients_on_whom_the_model_fails() -> None:
    found = verdict(
        result("random", 0.97),
        result("grouped", 0.48, half=0.08),
        probes=[probe("background-only", "grouped", 0.45, half=0.08)],
    )
    assert found["level"] == "unsafe"
    assert found["headline"] == (
        "200 images: 97.0 % on random splits, 48.0 % when whole patients are held out; when whole "
        "patients are held out the model is not shown to be better than always naming the most "
        "frequent class (50.0 %)."
    )


def test_a_rare_class_may_be_found_without_accuracy_above_chance() -> None:
    rare = [[185, 5], [2, 8]]
    metrics = {"confusion": rare, "balanced_accuracy": interval(0.88, 0.1)}
    found = verdict(
        result("grouped", 0.965, half=0.03, **metrics),
        probes=[probe("background-only", "grouped", 0.94)],
    )
    assert found["level"] == "plausible"


def test_only_random_is_inconclusive_even_with_probes_at_chance() -> None:
    found = verdict(
        result("random", 0.97, groups=180),
        probes=[probe("background-only", "random", 0.5)],
        inapplicable=[{"protocol": "grouped", "reason": "no patient ids."}],
    )
    assert found["level"] == "inconclusive"
    assert found["headline"] == (
        "200 images: 97.0 % on random splits; neither patients nor acquisition clusters could be "
        "held out: how the model does on unseen ones is not known."
    )
    assert found["findings"][-1] == "The protocol grouped could not be run: no patient ids."


def test_only_random_is_unsafe_if_the_background_suffices_there() -> None:
    found = verdict(
        result("random", 0.97, groups=180), probes=[probe("background-only", "random", 0.95)]
    )
    assert found["level"] == "unsafe"
    assert "the background alone suffices for 95.0 %: this data set" in found["headline"]


def test_nearly_random_protocols_are_inconclusive_and_all_shown() -> None:
    found = verdict(
        result("deduplicated", 0.95, groups=190),
        result("given", 0.94, groups=40, n=40),
        result("random", 0.97, groups=190),
    )
    assert found["level"] == "inconclusive"
    assert found["headline"].startswith(
        "97.0 % on random splits (200 images), 95.0 % when overlapping images are kept together "
        "(200 images), 94.0 % on the data set's own split (40 images); neither patients"
    )


def test_too_few_patients_are_inconclusive() -> None:
    found = verdict(
        result("random", 0.97, groups=150),
        result("grouped", 0.90, groups=9, half=0.2),
        probes=[probe("background-only", "grouped", 0.9)],
    )
    assert found["level"] == "inconclusive"
    assert found["headline"] == (
        "200 images: 97.0 % on random splits, 90.0 % when whole patients are held out; only 9 "
        "patients could be held out, fewer than 10: too few to say how the model does on others."
    )
    assert found["findings"][1].endswith("chance 50.0 %; too few groups for a reliable interval.")


def test_too_few_patients_but_enough_clusters_are_judged_by_clusters() -> None:
    found = verdict(
        result("grouped", 0.90, groups=6, half=0.2),
        result("acquisition", 0.95),
        probes=[probe("background-only", "acquisition", 0.93)],
    )
    assert found["level"] == "unsafe"


def test_no_probe_is_inconclusive() -> None:
    found = verdict(result("grouped", 0.9), probes=[probe("cells-only", "grouped", 0.9)])
    assert found["level"] == "inconclusive"
    assert found["headline"] == (
        "200 images: 90.0 % when whole patients are held out; no probe was run on held-out "
        "groups: whether the background or the colour alone would suffice is not known."
    )


def test_a_probe_without_its_model_is_no_evidence() -> None:
    found = verdict(result("grouped", 0.9), probes=[probe("background-only", "acquisition", 0.9)])
    assert found["level"] == "inconclusive"


def test_the_first_recipe_is_judged_unless_another_is_named() -> None:
    metrics = {
        "results": [result("grouped", 0.9), result("grouped", 0.8, recipe="cnn-baseline")],
        "probes": [probe("background-only", "grouped", 0.5)],
    }
    assert "90.0 %" in judge(metrics)["headline"]
    assert "80.0 %" in judge(metrics, recipe="cnn-baseline")["headline"]


def test_an_undefined_accuracy_is_left_out() -> None:
    broken = result("grouped", 0.9)
    broken["metrics"]["accuracy"] = {"value": 0.9, "low": None, "high": None}
    assert verdict(broken)["headline"] == (
        "No model was tested: this study says nothing about the data set."
    )


def test_a_model_below_chance_does_not_make_every_probe_suffice() -> None:
    found = verdict(
        result("acquisition", 0.40, half=0.05),
        probes=[probe("background-only", "acquisition", 0.45)],
    )
    assert "not shown to be better" in found["headline"]
    assert "advantage" not in found["findings"][1]


def test_random_below_the_strict_protocol_is_no_inflation() -> None:
    found = verdict(
        result("random", 0.88),
        result("grouped", 0.90),
        probes=[probe("background-only", "grouped", 0.5)],
    )
    assert found["level"] == "plausible"
    assert found["findings"][-1] == (
        "The accuracy on random splits lies 2.0 points below that when whole patients are held out."
    )
