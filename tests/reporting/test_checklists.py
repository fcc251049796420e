"""Checklists say what the files say, name the files, and leave the rest open."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.metrics.file import StudyMetrics, study_metrics
from leukoscope.config.recipe import EnsembleTraining
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.study.card import by_patient
from leukoscope.reporting.study.checklists import (
    CHECKLISTS,
    FACTS,
    Filled,
    fill,
    load_checklist,
    write_checklists,
)
from leukoscope.reporting.study.model_facts import imbalance
from leukoscope.reporting.study.shortcuts import shortcuts
from leukoscope.reporting.study_files import Study, load_study

LATER = {"report.html", "model_card.md"}  # written by the report, which these tests do not draw


@pytest.fixture(scope="module")
def study(make_study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("checklists")
    return load_study(make_study(folder, images=48, with_images=False))


def filled(study: Study, name: str) -> dict[str, Filled]:
    return {entry.item.number: entry for entry in fill(load_checklist(name), study)}


def test_the_lists_have_the_published_items() -> None:
    claim, tripod, mi_claim = (load_checklist(name) for name in CHECKLISTS)
    assert [item.number for item in claim.items] == [str(n) for n in range(1, 45)]
    assert {item.number.rstrip("abcdefg") for item in tripod.items} == {
        str(n) for n in range(1, 28)
    }
    assert len(tripod.items) == len({item.number for item in tripod.items}) == 52
    assert len(mi_claim.items) == 19
    parts = {number for item in mi_claim.items for number in "123456" if number in item.section}
    assert parts == set("123456")


def test_balanced_classes_of_a_linear_head_are_a_method_against_imbalance(study: Study) -> None:
    assert "no method against class imbalance" in imbalance(study).text
    balanced = load_recipe("quick", ["training.balance=classes"])
    config = study.config.model_copy(update={"recipes": (balanced,)})
    assert "class weights in the loss" in imbalance(replace(study, config=config)).text


@pytest.mark.parametrize("name", CHECKLISTS)
def test_every_item_can_be_answered_or_says_what_to_add(name: str) -> None:
    checklist = load_checklist(name)
    assert checklist.doi.startswith("10.")
    for item in checklist.items:
        assert item.asks
        assert item.section
        assert set(item.facts) <= set(FACTS)
        assert item.facts or item.add


def test_every_fact_answers_some_item() -> None:
    used = {f for name in CHECKLISTS for item in load_checklist(name).items for f in item.facts}
    assert used == set(FACTS)


@pytest.mark.parametrize("name", CHECKLISTS)
def test_every_answer_names_files_that_are_there(study: Study, name: str) -> None:
    for entry in filled(study, name).values():
        for answer in entry.answers:
            assert answer.text
            assert answer.files
            for file in set(answer.files) - LATER:
                assert (study.run.path / file).exists(), file


def with_keys(study: Study, **changed: Any) -> StudyMetrics:
    """The study's metrics with some keys of the file replaced."""
    return study_metrics(study.metrics.to_json() | changed)


def test_what_no_file_knows_stays_open(study: Study) -> None:
    claim, tripod = filled(study, "claim-2024"), filled(study, "tripod-ai")
    for number in ("11", "16", "18", "34", "44"):  # people, ethics, registration, funding
        assert claim[number].state == "open"
    for number in ("3c", "8c", "14", "17", "18a", "18b", "18c", "18d", "19"):
        assert tripod[number].state == "open"
    assert "leukoscope evaluate" in claim["33"].to_add
    assert claim["14"].state == "in part"
    assert "how it was made is not in the files" in claim["14"].answers[0].text


def test_absent_files_leave_their_items_open(study: Study) -> None:
    bare = replace(study, environment=None, folds=(), explanations=(), predictions=None)
    bare = replace(bare, metrics=with_keys(study, probes=[], curve=[], results=[]))
    known, unknown = filled(study, "claim-2024"), filled(bare, "claim-2024")
    for number in ("10", "19", "20", "23", "30", "31", "32", "37"):
        assert known[number].state == "answered"
    for number in ("10", "19", "23", "30", "31", "32", "37"):
        assert unknown[number].state == "open"
        assert unknown[number].to_add
    assert not any("splits.csv" in a.files for a in unknown["20"].answers)


def test_an_answer_without_its_first_fact_is_in_part(study: Study) -> None:
    combined = study.config.recipes[0].model_copy(
        update={"training": EnsembleTraining(members=("a", "b"))}
    )
    config = study.config.model_copy(update={"recipes": (combined,)})
    claim = filled(replace(study, config=config), "claim-2024")
    assert claim["22"].state == "in part"  # what comes out is known, the network is not
    assert claim["22"].to_add
    assert claim["24"].state == "open"
    assert "mean of a, b" in claim["27"].answers[0].text


def test_disjointness_is_counted_from_the_splits(study: Study) -> None:
    group = {record.image_id: record.group_id for record in study.manifest.usable}
    tied = tested = 0
    for fold in (fold for fold in study.folds if fold.protocol == "random"):
        made = {group[i] for part in ("train", "val", "cal") for i in fold.ids(part)}
        tied += sum(group[i] in made for i in fold.ids("test"))
        tested += len(fold.ids("test"))
    assert tied > 0
    text = filled(study, "claim-2024")["20"].answers[0].text
    assert f"Random split: of {tested} test images {tied} overlap or repeat an image" in text
    assert "that no patient stands on two sides cannot be shown" in text


def test_the_written_list_counts_its_items(study: Study, tmp_path: Path) -> None:
    section = write_checklists(RunFolder(tmp_path), study)
    table = section.blocks[1]
    for name, row in zip(CHECKLISTS, table.rows, strict=True):
        states = Counter(entry.state for entry in filled(study, name).values())
        assert row[1:4] == tuple(str(states[s]) for s in ("answered", "in part", "open"))
        text = (tmp_path / row[5]).read_text(encoding="utf-8")
        items = load_checklist(name).items_are
        assert f"**{row[1]} of {row[4]} {items} answered from this run’s files**" in text
        assert text.count("**To add:**") == states["in part"] + states["open"]
        assert load_checklist(name).doi in text


def test_results_by_patient_say_how_far_they_spread(make_study, tmp_path: Path) -> None:
    run = make_study(
        tmp_path, images=60, protocols=("grouped",), inapplicable={}, with_images=False
    )
    study = load_study(run)
    table = by_patient(study)
    assert table is not None
    scores = study.scores("quick", "grouped")
    assert scores is not None
    assert sum(int(row[2]) for row in table.rows) == len(scores.y_true)
    right = (scores.y_pred == scores.y_true).mean()
    low, high = (min(float(r[i].split()[0]) for r in table.rows) for i in (3, 5))
    assert low <= 100 * right <= 100
    assert high <= 100


def test_results_by_patient_and_rejection_answer_their_items(study: Study) -> None:
    share = {"value": 0.9, "low": 0.6, "high": 1.0, "reliable": True}
    gate = {
        "recipe": "quick", "protocol": "random", "unit": "component", "n": 48, "n_groups": 40,
        "n_outliers": 8, "accept": 0.95, "least_n_val": 30, "rejected": share, "roc_auc": share,
        "accuracy": {"accepted": share}, "folds_using": {"knn": 1}, "kinds": {}, "folds": 1,
    }  # fmt: skip
    people = {
        "recipe": "quick", "n": 12, "n_images": 48, "by_class": {"benign": 12}, "mixed": [],
        "folds": [{"fold": 0, "method": "vote", "n_val": 3, "val_log_loss": {}}], "patients": [],
        "metrics": {"accuracy": share}, "bundle_method": "vote",
    }  # fmt: skip
    told = replace(study, metrics=with_keys(study, ood=[gate], subjects={"results": [people]}))
    for name, number, words in (
        ("claim-2024", "37", "12 patients"), ("tripod-ai", "12d", "12 patients"),
        ("tripod-ai", "23a", "12 patients"), ("mi-claim", "12", "12 patients"),
    ):  # fmt: skip
        found = filled(told, name)[number].answers
        (answer,) = (a for a in found if words in a.text)
        assert answer.tables[0].rows[0][-1] == "12"
    for name, number in (("claim-2024", "30"), ("tripod-ai", "27a"), ("mi-claim", "18")):
        tables = [t for a in filled(told, name)[number].answers for t in a.tables]
        assert sum("gate declines" in table.caption for table in tables) == 1
    why = {"subjects": {"inapplicable": "no patient is named."}}
    untold = filled(replace(study, metrics=with_keys(study, **why)), "claim-2024")["37"].answers
    assert untold[-1].text == "Results by patient do not apply: no patient is named."
    assert filled(told, "claim-2024")["37"].state == "answered"


def test_a_probe_that_does_not_apply_is_named_where_no_other_was_asked_for(study: Study) -> None:
    reason = {"probe": "scale-bar-only", "reason": "no image has a scale bar"}
    silent = with_keys(study, probes=[], shortcuts={"recipe": "quick", "inapplicable": [reason]})
    words = str(shortcuts(replace(study, metrics=silent)).blocks)
    assert "No probe that was asked for applies" in words
    assert "does not apply: no image has a scale bar." in words
    assert "Below that" not in words
    probes = [row.model_dump() for row in study.metrics.probes]
    metrics = {"accuracy": {"value": 0.0, "low": 0.0, "high": 0.1}}
    wrong = [{**probes[0], "probe": "order-only", "metrics": metrics}, *probes[1:]]
    told = with_keys(study, probes=wrong)
    words = str(shortcuts(replace(study, metrics=told)).blocks)
    assert "Below that: order only. What it sees does follow the class" in words
    unasked = with_keys(study, probes=[], shortcuts={"recipe": "quick"})
    assert "No probe was run" in str(shortcuts(replace(study, metrics=unasked)).blocks)
