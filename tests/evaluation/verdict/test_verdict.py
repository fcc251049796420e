"""The rule of the verdict: what is shown, refuted, open, inapplicable, and what each does."""

from __future__ import annotations

from typing import Any

import pytest

from leukoscope.config.metrics.file import measurements
from leukoscope.config.metrics.results import Estimate
from leukoscope.evaluation.verdict import rule as verdict
from leukoscope.evaluation.verdict.rule import RULE, level_words
from leukoscope.evaluation.verdict.shortcuts import SOURCES, groups_needed, status_of

UNITS = {
    "random": "component",
    "grouped": "patient",
    "acquisition": "acquisition cluster",
    "acquisition-merged": "merged acquisition cluster",
}
TWO = [[100, 0], [50, 50]]  # 200 images, chance 50 %


def judge(values: dict[str, Any]) -> dict[str, Any]:
    """The verdict as ``metrics.json`` keeps it."""
    return verdict.judge(measurements(values)).model_dump(mode="json")


def interval(value: float, half: float, *, reliable: bool = True) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "reliable": reliable}


def result(
    protocol: str,
    accuracy: float = 0.9,
    auc: float = 0.95,
    *,
    half: float = 0.02,
    groups: int = 40,
    reliable: bool = True,
    recipe: str = "quick",
) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "protocol": protocol,
        "n": 200,
        "n_groups": groups,
        "group_unit": UNITS[protocol],
        "folds": 5,
        "metrics": {
            "accuracy": interval(accuracy, half, reliable=reliable),
            "roc_auc": interval(auc, half, reliable=reliable),
        },
        "confusion": TWO,
        "calibrated": True,
    }


def share(
    source: str,
    value: float,
    half: float = 0.1,
    *,
    protocol: str = "grouped",
    groups: int = 40,
    reliable: bool = True,
    probe: str = "",
) -> dict[str, Any]:
    return {
        "source": source,
        "probe": probe or SOURCES[source][0],
        "protocol": protocol,
        "metric": "roc_auc",
        "value": 0.5 + 0.45 * value,
        "model": 0.95,
        "chance": 0.5,
        "share": interval(value, half, reliable=reliable),
        "n": 200,
        "n_groups": groups,
        "group_unit": UNITS[protocol],
    }


def survival(name: str = "blur-1", value: float = 0.95, half: float = 0.05) -> dict[str, Any]:
    return {
        "recipe": "quick",
        "protocol": "grouped",
        "input": name,
        "share": interval(value, half),
        "metric": "roc_auc",
        "value": 0.5 + 0.45 * value,
        "model": 0.95,
        "chance": 0.5,
        "n": 200,
        "n_groups": 40,
        "group_unit": "patient",
    }


NO_BAR = {"probe": "scale-bar-only", "reason": "the audit found no scale bar"}
AT_CHANCE = {
    "draws": [0.5, 0.48, 0.51], "value": 0.5, "low": 0.45, "high": 0.55, "passed": True,
    "protocol": "grouped", "recipe": "quick",
}  # fmt: skip


def study(
    *results: dict[str, Any],
    sources: list[dict[str, Any]] | None = None,
    inapplicable: list[dict[str, str]] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """An honest study of 40 patients; arguments replace what they name."""
    values = {
        "schema": 1,
        "class_names": ["healthy", "all"],
        "confidence": 0.95,
        "results": list(results) or [result("random", 0.92), result("grouped")],
        "shortcuts": {
            "recipe": "quick",
            "sources": [share(name, 0.05) for name in SOURCES] if sources is None else sources,
            "inapplicable": [NO_BAR] if inapplicable is None else inapplicable,
        },
        "survival": [survival()],
        "control": AT_CHANCE,
        "data_errors": [],
    }
    return values | rest


def with_share(changed: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [share(name, 0.05) for name in SOURCES if name != changed["source"]]
    return [*rows, changed]


def test_a_study_that_earned_it_is_plausible() -> None:
    found = judge(study())
    assert found["level"] == "plausible"
    assert found["headline"] == (
        "200 images: 92.0 % on random splits, 90.0 % when whole patients are held out; ground, "
        "grain, frame, file and stain were each shown to give less than half of the model's "
        "advantage over chance: no shortcut was found, which does not prove that there is none."
    )
    assert [row["status"] for row in found["sources"]] == ["refuted"] * 5
    assert (found["protocol"], found["unit"], found["needs"]) == ("grouped", "patient", [])
    assert found["rule"] == RULE


@pytest.mark.parametrize("source", list(SOURCES))
def test_a_source_that_gives_more_than_half_is_unsafe(source: str) -> None:
    found = judge(study(sources=with_share(share(source, 0.7))))
    assert found["level"] == "unsafe"
    assert "gives 70 % (60 to 80 %) of the model's advantage over chance" in found["headline"]
    assert {row["source"]: row["status"] for row in found["sources"]}[source] == "shown"


@pytest.mark.parametrize("source", list(SOURCES))
def test_a_source_that_is_not_refuted_is_open_and_says_what_would_close_it(source: str) -> None:
    # A background worth 70 % of the advantage was plausible in half of the runs with few patients.
    found = judge(study(sources=with_share(share(source, 0.3, half=0.4))))
    assert found["level"] == "inconclusive"
    assert "it is not ruled out that the model reads" in found["headline"]
    assert found["needs"] == [f"about 160 patients for {source}"]


@pytest.mark.parametrize("source", list(SOURCES))
def test_a_probe_that_was_not_run_has_not_passed(source: str) -> None:
    rows = [share(name, 0.05) for name in SOURCES if name != source]
    found = judge(study(sources=rows))
    assert found["level"] == "inconclusive"
    state = {row["source"]: row for row in found["sources"]}[source]
    assert (state["status"], state["reason"]) == (
        "open", f"the probe {SOURCES[source][0]} was not run on held-out groups",
    )  # fmt: skip


def test_a_probe_with_nothing_to_see_is_inapplicable_with_its_reason() -> None:
    black = {"probe": "ground-only", "reason": "in 98 % of the images less than 5 % is ground"}
    rows = [share(name, 0.05) for name in SOURCES if name != "ground"]
    found = judge(study(sources=rows, inapplicable=[NO_BAR, black]))
    assert found["level"] == "plausible"
    ground = found["sources"][0]
    assert (ground["status"], ground["reason"]) == ("inapplicable", black["reason"])
    assert "; grain, frame, file and stain were each shown" in found["headline"]
    assert any("does not apply (in 98 %" in text for text in found["findings"])


def test_colour_statistics_alone_are_no_evidence() -> None:
    colour = {
        key: value
        for key, value in result("grouped").items()
        if key not in ("confusion", "calibrated")
    }
    found = judge(study(sources=[], probes=[colour | {"probe": "colour-only"}]))
    assert found["level"] == "inconclusive"


def test_nothing_at_all_to_look_at_is_not_plausible() -> None:
    probes = [probe for names in SOURCES.values() for probe in names]
    every = [{"probe": name, "reason": "one size"} for name in probes]
    found = judge(study(sources=[], inapplicable=every))
    assert found["level"] == "inconclusive"
    assert "no probe had anything to look at" in found["headline"]


def test_few_patients_are_never_plausible_and_never_overruled_by_clusters() -> None:
    # Nine patients at 50 % beside 24 clusters at 96 % were plausible.
    rows = [
        share(name, 0.05, protocol=p, groups=n, reliable=n >= 20)
        for name in SOURCES
        for p, n in (("grouped", 9), ("acquisition", 24))
    ]
    found = judge(
        study(
            result("grouped", 0.9, groups=9, reliable=False),
            result("acquisition", 0.96, groups=24),
            sources=rows,
        )
    )
    assert found["level"] == "inconclusive"
    assert found["protocol"] == "grouped"
    assert (
        "9 patients were held out, and the rule asks for 20 with 5 of each class"
        in (found["headline"])
    )
    chance = result("grouped", 0.5, 0.5, half=0.2, groups=9, reliable=False)
    found = judge(study(chance, result("acquisition", 0.96, groups=24), sources=rows))
    assert found["level"] == "unsafe"
    assert "the model is not shown to be better than chance" in found["headline"]
    undefined = [row | {"share": {"value": None, "low": None, "high": None}} for row in rows]
    found = judge(study(chance, sources=undefined))
    assert {row["status"] for row in found["sources"]} == {"open"}
    assert {row["reason"] for row in found["sources"]} == {
        "the model has no advantage that is shown, so none to explain"
    }


def test_a_frequent_class_does_not_make_skill() -> None:
    # 90 % accuracy where one class has 90 % of the images: the ROC AUC tells.
    found = judge(study(result("grouped", 0.9, 0.51, half=0.05)))
    assert found["level"] == "unsafe"
    (need,) = found["needs"]
    assert need.endswith("with an ROC AUC of 0.51 more of the same will hardly help")


def test_a_model_that_may_be_better_than_chance_is_told_how_many_groups_would_show_it() -> None:
    found = judge(study(result("grouped", 0.8, 0.7, half=0.3, groups=20)))
    assert found["level"] == "unsafe"
    assert found["needs"] == ["about 45 patients, if its ROC AUC stays at 0.70"]
    merged, clusters = (
        result(name, 0.8, area, half=half, groups=20)
        for name, area, half in (("acquisition-merged", 0.95, 0.02), ("acquisition", 0.7, 0.3))
    )
    found = judge(study(merged, clusters))  # the milder of both judged protocols is the one
    assert "whole acquisition clusters are held out the model is not shown" in found["headline"]
    assert found["needs"] == ["about 45 acquisition clusters, if its ROC AUC stays at 0.70"]


def test_clusters_stand_in_where_there_are_no_patients_and_the_level_says_so() -> None:
    rows = [share(name, 0.05, protocol="acquisition", groups=24) for name in SOURCES]
    kept = survival() | {"protocol": "acquisition"}
    found = judge(study(result("acquisition", groups=24), sources=rows, survival=[kept]))
    assert found["level"] == "plausible-by-clusters"
    assert level_words(found["level"]) == "plausible (by clusters)"
    assert "whether it holds for new patients is not known" in found["headline"]


def test_clusters_of_two_images_vouch_for_nothing() -> None:
    rows = [share(name, 0.05, protocol="acquisition", groups=24) for name in SOURCES]
    kept = survival() | {"protocol": "acquisition"}
    small = result("acquisition", groups=24) | {"n": 48}
    found = judge(study(small, sources=rows, survival=[kept]))
    assert found["level"] == "inconclusive"
    assert "each acquisition cluster holds 2.0 images on average" in found["headline"]
    assert "name the patients" in found["needs"][0]
    rows[0] = share("ground", 0.9, protocol="acquisition", groups=24)
    found = judge(study(small, sources=rows, survival=[kept]))
    assert found["level"] == "unsafe"  # the shortcut is shown all the same
    assert "each acquisition cluster holds 2.0 images on average" in found["headline"]


def test_what_any_cluster_protocol_shows_counts() -> None:
    rows = [share(n, 0.05, protocol="acquisition-merged", groups=24) for n in SOURCES]
    rows.append(share("ground", 0.9, protocol="acquisition", groups=24))
    found = judge(study(result("acquisition-merged"), result("acquisition"), sources=rows))
    assert found["level"] == "unsafe"


def test_what_random_splits_give_away_is_not_held_against_patients() -> None:
    rows = [*(share(name, 0.05) for name in SOURCES), share("ground", 0.95, protocol="random")]
    assert judge(study(sources=rows))["level"] == "plausible"


def test_without_any_unit_nothing_is_plausible() -> None:
    unknown = [{"protocol": "grouped", "reason": "no patients are named"}]
    found = judge(study(result("random"), sources=[]) | {"inapplicable": unknown})
    assert found["level"] == "inconclusive"
    assert "neither patients nor acquisition clusters could be held out" in found["headline"]
    assert "name the patients" in found["needs"][0]


def test_units_that_nobody_asked_to_hold_out_are_not_said_to_be_unknown() -> None:
    found = judge(study(result("random"), sources=[]))
    assert found["level"] == "inconclusive"
    assert "neither patients nor acquisition clusters were held out" in found["headline"]
    assert "-p grouped" in found["needs"][0]


def test_a_control_above_chance_is_unsafe_before_all_else() -> None:
    failed = AT_CHANCE | {"value": 0.8, "low": 0.7, "high": 0.9, "passed": False}
    found = judge(study(control=failed))
    assert found["level"] == "unsafe"
    assert "the negative control failed" in found["headline"]


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (None, "no negative control was run"),
        ({"reason": "too few groups to deal labels"}, "too few groups to deal labels"),
        (AT_CHANCE | {"high": 0.9, "passed": None}, "too uncertain to pass (up to 0.90)"),
    ],
)
def test_a_control_that_was_not_passed_bars_plausible(control: Any, words: str) -> None:
    found = judge(study(control=control))
    assert found["level"] == "inconclusive"
    assert words in found["headline"]


def test_an_advantage_that_a_mild_blur_takes_away_bars_plausible() -> None:
    rows = [survival("jpeg-95", 0.9), survival("blur-0.5", 0.1)]
    found = judge(study(survival=rows))
    assert found["level"] == "inconclusive"
    assert "after a blur of 0.5 px the model keeps only 10 % (5 to 15 %)" in found["headline"]
    assert judge(study(survival=[]))["level"] == "inconclusive"


def test_what_is_kept_is_said_of_what_was_tested() -> None:
    def kept(*results: dict[str, Any]) -> str:
        return next(t for t in judge(study(*results))["findings"] if "keeps of its" in t)

    assert "(200 images)" in kept()
    assert "(200 patients)" in kept(result("grouped") | {"row": "patient"})


def test_label_conflicts_bar_plausible() -> None:
    found = judge(study(data_errors=["The same picture carries two classes (ALL and healthy)."]))
    assert found["level"] == "inconclusive"
    assert "The same picture carries two classes" in found["headline"]


def test_a_scale_bar_that_suffices_is_shown_by_the_frame() -> None:
    bar = share("frame", 0.9, probe="scale-bar-only")
    rows = [*(share(name, 0.05) for name in SOURCES), bar]
    found = judge(study(sources=rows, inapplicable=[]))
    assert found["level"] == "unsafe"
    assert found["sources"][2]["probe"] == "scale-bar-only"


def test_ten_groups_are_needed_to_call_a_source_shown() -> None:
    rows = with_share(share("ground", 0.9, groups=9, reliable=False))
    found = judge(study(sources=rows))
    assert found["sources"][0]["status"] == "open"


def test_groups_needed_grows_with_the_square_of_the_distance() -> None:
    assert groups_needed(Estimate(**interval(0.4, 0.2)), 25) == 100
    assert groups_needed(Estimate(**interval(0.5, 0.2)), 40) is None


def test_ten_groups_make_a_high_share_shown_and_nine_leave_it_open() -> None:
    for groups, status in ((10, "shown"), (9, "open")):
        rows = [share("ground", 0.8, groups=groups)]
        (row,) = measurements(study(sources=rows)).shortcuts.sources
        assert status_of(row) == status


def test_nineteen_groups_leave_a_low_share_open_as_the_rule_says() -> None:
    for groups, status in ((20, "refuted"), (19, "open")):
        rows = [share("ground", 0.1, groups=groups, reliable=groups > 19)]
        (row,) = measurements(study(sources=rows)).shortcuts.sources
        assert status_of(row) == status
    assert "below one half in each, of at least 20 groups, 5 of each class" in RULE


def test_the_next_patient_and_the_random_split_are_among_the_findings() -> None:
    grouped = result("grouped") | {
        "next_unit": {
            "unit": "patient",
            "metric": "accuracy",
            "value": 0.9,
            "low": 0.4,
            "high": 1.0,
            "n_groups": 40,
            "median_n": 5.0,
        }
    }
    inflated = {
        "a": {"recipe": "quick", "protocol": "random", "input": "image"},
        "b": {"recipe": "quick", "protocol": "grouped", "input": "image"},
        "metric": "accuracy",
        "difference": interval(0.05, 0.02),
        "verdict": "better",
        "n": 200,
        "n_groups": 40,
        "p": 0.001,
        "p_holm": 0.001,
    }
    found = judge(study(result("random"), grouped, comparisons=[inflated]))["findings"]
    assert any("For the next patient expect 40 to 100 %." in text for text in found)
    assert any("when whole patients are held out (a difference)" in text for text in found)
    for groups, said in ((16, "16 patients"), (24, "fewer than 5 patients of a class")):
        few = inflated | {
            "difference": interval(0.2, 0.07, reliable=False),
            "verdict": "not distinguishable", "n_groups": groups,
        }  # fmt: skip
        found = judge(study(result("random"), grouped, comparisons=[few]))["findings"]
        assert any(f"({said} are too few to rely on the difference)" in text for text in found)


def test_a_model_from_elsewhere_needs_a_clean_split_of_its_own() -> None:
    clean: dict[str, Any] = {"train": 100, "val": 0, "test": 50, "leaks": []}
    leak = {"kind": "copies", "images": 7, "examples": [["a.png", "b.png"]]}
    assert judge(study(split=clean))["level"] == "plausible"
    unknown = judge(study(split=None))
    assert unknown["level"] == "inconclusive"
    assert "its score may be memory" in unknown["headline"]
    leaking = judge(study(split=clean | {"leaks": [leak]}))
    assert leaking["level"] == "inconclusive"
    assert "7 of its 50 test images are copies" in leaking["headline"]
    assert any(text.startswith("Leak: 7 of its 50") for text in leaking["findings"])
