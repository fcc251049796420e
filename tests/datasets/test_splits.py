from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.config.study import SplitConfig
from leukoscope.core.errors import SplitError, UnknownNameError, UsageError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.patients import Patients
from leukoscope.core.records import Fold, ImageRecord, Manifest, load_folds, save_folds
from leukoscope.datasets.split_checks import check_folds, split_notes
from leukoscope.datasets.splits import make_splits, split_train_val

CLASSES = ("benign", "early_pre_b", "pre_b", "pro_b")
FIVE = SplitConfig()


def manifest(n: int = 400, *, seed: int = 0, patients: int = 10, clusters: int = 24) -> Manifest:
    """Images of four classes, in patients of one class, pairs that overlap, mixed clusters."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        label = int(rng.integers(4)) if i >= 4 else i
        digest = sha256_bytes(f"{seed} {i}".encode())
        records.append(
            ImageRecord(
                image_id=digest[:12],
                path=f"{CLASSES[label]}/{i:04d}.png",
                sha256=digest,
                label=CLASSES[label],
                patient_id=f"{label}-{rng.integers(patients)}",
                group_id=f"g{i // 2}" if i < n // 4 else f"g{i}",
                acquisition_id=f"c{rng.integers(clusters)}",
            )
        )
    return Manifest(Path("data"), tuple(records))


def column(data: Manifest, name: str) -> dict[str, str]:
    return {record.image_id: getattr(record, name) for record in data.usable}


def changed(data: Manifest, **columns: Any) -> Manifest:
    """Every record with other values; a value may be a function of index and record."""
    return data.with_images(
        replace(
            record,
            **{name: v(i, record) if callable(v) else v for name, v in columns.items()},
        )
        for i, record in enumerate(data.images)
    )


def shares(folds: list[Fold], part: str) -> list[float]:
    return [len(fold.ids(part)) / len(fold.parts) for fold in folds]


@pytest.mark.parametrize("protocol", ["random", "deduplicated", "acquisition"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), folds=st.integers(1, 6))
def test_parts_partition_the_images_and_every_image_is_tested_once(
    protocol: str, seed: int, folds: int
) -> None:
    data = manifest(200, seed=seed % 5)
    made = make_splits(data, protocol, SplitConfig(folds=folds, val=0.05, cal=0.05), seed=seed)
    assert [fold.fold for fold in made] == list(range(folds))
    labels = column(data, "label")
    for fold in made:
        assert fold.parts.keys() == labels.keys()
        assert set(fold.parts.values()) <= {"train", "val", "cal", "test", "purged"}
        assert {labels[i] for i in fold.ids("train")} == set(CLASSES)
        assert all(fold.ids(part) for part in ("val", "test"))
        assert bool(fold.ids("cal")) == (folds == 1)  # else the other folds calibrate it
    if folds > 1:
        tested = Counter(i for fold in made for i in fold.ids("test"))
        assert tested == Counter(labels.keys())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), folds=st.integers(1, 5), patients=st.integers(5, 12))
def test_no_patient_and_no_overlap_crosses_a_grouped_split(
    seed: int, folds: int, patients: int
) -> None:
    data = manifest(240, seed=seed % 7, patients=patients)
    data = changed(  # overlapping pairs belong to one patient, as after the audit
        data, group_id=lambda i, r: f"{r.patient_id} {i // 6}" if i < 60 else r.group_id
    )
    made = make_splits(data, "grouped", SplitConfig(folds=folds), seed=seed)
    check_folds(made, column(data, "patient_id"))
    check_folds(made, column(data, "group_id"))
    for fold in made:
        own = {"cal"} if folds == 1 else set()
        assert set(fold.parts.values()) == {"train", "val", "test"} | own


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), clusters=st.integers(6, 40))
def test_held_out_clusters_share_nothing_with_the_other_parts(seed: int, clusters: int) -> None:
    data = manifest(240, seed=seed % 7, clusters=clusters)
    made = make_splits(data, "acquisition", FIVE, seed=seed)
    check_folds(made, column(data, "acquisition_id"))
    check_folds(made, column(data, "group_id"))
    groups = column(data, "group_id")
    for fold in made:  # exactly what touches a test image is purged, no more
        tested = {groups[i] for i in fold.ids("test")}
        for image_id, part in fold.parts.items():
            assert (part == "purged") == (part != "test" and groups[image_id] in tested)
        for part in ("val", "cal"):  # no component is cut between train, val and cal
            own = {groups[i] for i in fold.ids(part)}
            assert not own & {groups[i] for i in fold.ids("train")}


@pytest.mark.parametrize(
    "protocol", ["random", "grouped", "deduplicated", "acquisition", "acquisition-merged"]
)
def test_order_and_names_of_files_do_not_matter(protocol: str) -> None:
    data = changed(manifest(), group_id=lambda i, r: "" if i % 9 else r.patient_id)
    groups = None
    if protocol == "acquisition-merged":
        groups = {r.image_id: f"m{int(r.image_id, 16) % 12}" for r in data.images}
        data = changed(data, group_id="")
    first = make_splits(data, protocol, FIVE, seed=7, groups=groups)
    order = np.random.default_rng(1).permutation(len(data.images))
    moved = data.with_images(replace(data.images[i], path=f"x/{i}.png") for i in order)
    again = make_splits(moved, protocol, FIVE, seed=7, groups=groups)
    assert [fold.parts for fold in first] == [fold.parts for fold in again]
    assert [fold.parts for fold in first] != [
        fold.parts for fold in make_splits(data, protocol, FIVE, seed=8, groups=groups)
    ]


def test_group_labels_do_not_matter_only_who_shares_them() -> None:
    data = manifest()
    renamed = {
        image_id: f"zz{hash(c) % 999}{c}" for image_id, c in column(data, "acquisition_id").items()
    }
    plain = make_splits(data, "acquisition", FIVE, seed=3)
    other = make_splits(data, "acquisition", FIVE, seed=3, groups=renamed)
    assert [fold.parts for fold in plain] == [fold.parts for fold in other]


@pytest.mark.parametrize("folds", [1, 3, 5])
def test_shares_and_strata_of_a_random_split_are_exact_to_an_image_or_two(folds: int) -> None:
    data = manifest(1000)
    made = make_splits(data, "random", SplitConfig(folds=folds, test=0.25), seed=0)
    test = 0.25 if folds == 1 else 1 / folds
    parts = (("test", test), ("val", 0.1), ("cal", 0.1 if folds == 1 else 0))
    for part, wanted in parts:
        assert shares(made, part) == pytest.approx([wanted] * folds, abs=0.004)
    labels = column(data, "label")
    total = Counter(labels.values())
    for fold in made:
        for part, wanted in parts:
            found = Counter(labels[i] for i in fold.ids(part))
            for name in CLASSES:
                assert found[name] == pytest.approx(wanted * total[name], abs=2)


def test_shares_of_grouped_splits_are_near_what_was_asked() -> None:
    data = manifest(2000, patients=15)
    alone = changed(data, group_id="")
    for used, protocol, tolerance in ((data, "deduplicated", 0.005), (alone, "grouped", 0.035)):
        made = make_splits(used, protocol, FIVE, seed=0)
        assert shares(made, "test") == pytest.approx([0.2] * 5, abs=tolerance)
        assert shares(made, "val") == pytest.approx([0.1] * 5, abs=tolerance)
        assert shares(made, "cal") == [0] * 5


def test_val_and_cal_have_their_own_patients_where_there_are_enough() -> None:
    data = changed(manifest(400, patients=8), group_id="")
    patients = column(data, "patient_id")
    made = make_splits(data, "grouped", FIVE, seed=0)
    for fold in made:
        sets = [{patients[i] for i in fold.ids(p)} for p in ("train", "val", "cal", "test")]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert split_notes(made, data, FIVE) == []


def test_with_few_patients_val_and_cal_are_cut_by_component_and_it_is_said() -> None:
    data = changed(manifest(400), patient_id=lambda i, r: f"{r.label}{i % 3}", group_id="")
    one = SplitConfig(folds=1)
    made = make_splits(data, "grouped", one, seed=0)
    check_folds(made, column(data, "patient_id"))
    assert all(fold.ids("val") and fold.ids("cal") for fold in made)
    assert split_notes(made, data, one) == [
        "grouped: in 1 of 1 fold val or cal shares patients with train, because a class has "
        "fewer than three patients left; test is disjoint.",
    ]


def test_two_patients_that_share_an_overlapping_field_stay_together() -> None:
    data = changed(manifest(400, patients=8), group_id="")
    first = next(r for r in data.images if r.patient_id == "0-0")
    second = next(r for r in data.images if r.patient_id == "0-1")
    linked = changed(
        data,
        group_id=lambda i, r: "same" if r in (first, second) else "",
    )
    for fold in make_splits(linked, "grouped", FIVE, seed=0):
        sides = {
            fold.parts[r.image_id] == "test"
            for r in linked.images
            if r.patient_id in ("0-0", "0-1")
        }
        assert len(sides) == 1


def test_random_ignores_overlaps_on_purpose_and_says_how_many_leak() -> None:
    data = changed(manifest(200), patient_id="")
    made = make_splits(data, "random", FIVE, seed=0)
    with pytest.raises(SplitError, match="are in two parts"):
        check_folds(made, column(data, "group_id"))
    (note,) = split_notes(made, data, FIVE)
    assert note.endswith("of 200 test images overlap images that the model was made with.")


def test_merged_clusters_come_from_the_components_that_span_them() -> None:
    data = changed(
        manifest(300),
        acquisition_id=lambda i, r: f"c{i % 30}",
        group_id=lambda i, r: f"g{i % 30 // 2}" if i < 30 else f"x{i}",
    )
    made = make_splits(data, "acquisition-merged", FIVE, seed=0, name="acquisition-merged-k30")
    assert {fold.protocol for fold in made} == {"acquisition-merged-k30"}
    check_folds(made, {r.image_id: f"m{i % 30 // 2}" for i, r in enumerate(data.images)})
    assert not any(fold.ids("purged") for fold in made)


def test_purge_groups_replace_the_components() -> None:
    data = manifest(300)
    lanes = {record.image_id: f"lane{i % 100}" for i, record in enumerate(data.images)}
    made = make_splits(data, "acquisition", FIVE, seed=0, purge_groups=lanes)
    check_folds(made, lanes)
    notes = split_notes(made, data, FIVE)
    assert any("are kept out of training because they overlap a test image" in n for n in notes)


def test_given_parts_are_kept_and_what_is_missing_is_cut_from_train() -> None:
    data = changed(
        manifest(300), given_part=lambda i, r: ("train", "train", "train", "val", "test")[i % 5]
    )
    (fold,) = make_splits(data, "given", FIVE, seed=0)
    for i, record in enumerate(data.images):
        part = fold.parts[record.image_id]
        assert part in {0: ("train", "cal"), 3: ("val",), 4: ("test",)}.get(
            i % 5 // 3 * (i % 5), ()
        )
    groups = column(data, "group_id")
    own = {groups[i] for i in fold.ids("cal")}
    assert own
    assert not own & {groups[i] for i in fold.ids("train")}
    assert any("overlap" in note for note in split_notes([fold], data, FIVE))


def test_given_folds_are_tested_in_turn() -> None:
    data = changed(manifest(300), given_part=lambda i, r: f"fold_{i % 3}")
    made = make_splits(data, "given", FIVE, seed=0)
    assert len(made) == 3
    for k, fold in enumerate(made):
        assert set(fold.ids("test")) == {
            r.image_id for i, r in enumerate(data.images) if i % 3 == k
        }
        assert all(fold.ids(part) for part in ("train", "val"))
        assert not fold.ids("cal")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([""], "no parts or folds of its own"),
        (["train", ""], "of 300 images are in none of the data's own parts train"),
        (["fold_0"], r"only one fold of its own \(fold_0\)"),
        (["train", "val"], "expected the data's own parts train and test"),
        (["train", "test", "fold_1"], "expected the data's own parts"),
    ],
)
def test_given_parts_that_cannot_be_used(parts: list[str], message: str) -> None:
    data = changed(manifest(300), given_part=lambda i, r: parts[i % len(parts)])
    with pytest.raises(SplitError, match=message):
        make_splits(data, "given", FIVE, seed=0)


def test_given_train_without_a_class_is_refused() -> None:
    data = changed(
        manifest(300),
        given_part=lambda i, r: "test" if r.label == "pro_b" or i % 4 == 0 else "train",
    )
    with pytest.raises(SplitError, match="given, fold 0: no image of pro_b is left to train on"):
        make_splits(data, "given", FIVE, seed=0)


def test_a_class_of_few_patients_is_missing_from_tests_but_never_from_training() -> None:
    data = changed(
        manifest(300, patients=9),
        patient_id=lambda i, r: f"b{i % 2}" if r.label == "benign" else r.patient_id,
        group_id="",
    )
    made = make_splits(data, "grouped", FIVE, seed=0)
    assert len(made) == 5
    labels = column(data, "label")
    tested = [{labels[i] for i in fold.ids("test")} for fold in made]
    assert sum("benign" in found for found in tested) == 2
    assert all({labels[i] for i in fold.ids("train")} == set(CLASSES) for fold in made)


def test_with_fewer_groups_than_folds_each_group_is_a_fold() -> None:
    data = changed(manifest(300), patient_id=lambda i, r: f"{r.label[0]}{i % 2}", group_id="")
    people = set(column(data, "patient_id").values())
    ten = SplitConfig(folds=10)
    made = make_splits(data, "grouped", ten, seed=0)
    assert len(made) == len(people) < 10
    assert f"grouped: {len(people)} folds instead of 10" in split_notes(made, data, ten)[0]


@pytest.mark.parametrize("folds", [1, 5])
def test_a_class_of_one_patient_cannot_be_grouped(folds: int) -> None:
    data = changed(
        manifest(300),
        patient_id=lambda i, r: "b" if r.label == "benign" else r.patient_id,
        group_id="",
    )
    with pytest.raises(SplitError, match="benign has images of only one patient: it would be"):
        make_splits(data, "grouped", SplitConfig(folds=folds), seed=0)


def test_a_hold_out_tests_every_class_even_with_two_groups_of_it() -> None:
    data = changed(
        manifest(300),
        patient_id=lambda i, r: f"b{i % 2}" if r.label == "benign" else r.patient_id,
        group_id="",
    )
    (fold,) = make_splits(data, "grouped", SplitConfig(folds=1), seed=0)
    labels = column(data, "label")
    assert {labels[i] for i in fold.ids("test")} == set(CLASSES)
    assert {labels[i] for i in fold.ids("train")} == set(CLASSES)


@pytest.mark.parametrize(
    ("protocol", "columns", "message"),
    [
        ("grouped", {"patient_id": ""}, "the images have no patient ids"),
        ("deduplicated", {"group_id": ""}, "the images have no components"),
        ("acquisition", {"acquisition_id": ""}, "the images have no acquisition clusters"),
        (
            "grouped",
            {"patient_id": lambda i, r: "" if i == 5 else r.patient_id},
            r"1 of 300 images have no patient id, e\.g\. .*/0005\.png; because of them all of it",
        ),
        (
            "grouped",
            {"patient_id": lambda i, r: "" if i < 5 else r.patient_id},
            r"5 of 300 images have no patient id, e\.g\. .*/0000\.png, .*, .*; because",
        ),
        ("random", {"label": "benign"}, "two or more classes, found benign"),
        ("random", {"status": "quarantined"}, "found no usable image"),
    ],
)
def test_a_protocol_that_does_not_apply_says_why(
    protocol: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        make_splits(changed(manifest(300), **columns), protocol, FIVE, seed=0)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'grouped'"):
        make_splits(manifest(50), "groupd", FIVE, seed=0)
    with pytest.raises(UsageError, match=r"the protocol random uses none\n.*leave groups out"):
        make_splits(manifest(50), "random", FIVE, seed=0, groups={})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"manifest": "smears"},
            r"expected a manifest, got 'smears'\n.*load_dataset\('smears'\), …",
        ),
        ({"manifest": SimpleNamespace(manifest=manifest(4))}, r"make_splits\(FOUND.manifest, …\)"),
        ({"protocol": ["random"]}, r"protocol: expected one name, got \['random'\]\n.*for each"),
        (
            {"config": {"folds": 3}},
            r"config: expected a SplitConfig, got \{'folds': 3\}\n.*folds=5",
        ),
        ({"seed": None}, "seed: expected a whole number of 0 or more, got None\n.*seed=42"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"groups": ["a"] * 50}, "groups: expected a mapping .* of type list\n.*image_id: NAME"),
        ({"purge_groups": ["a"] * 50}, "purge_groups: expected a mapping"),
    ],
)
def test_arguments_of_another_kind_are_named(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"manifest": manifest(50), "protocol": "grouped", "config": FIVE}
    with pytest.raises(UsageError, match=message):
        make_splits(**{**right, "seed": 0, **wrong})


def test_too_few_images_for_val_and_cal() -> None:
    data = changed(manifest(8), label=lambda i, r: CLASSES[i % 2], group_id="", patient_id="")
    few = data.with_images(data.images[:4])
    with pytest.raises(SplitError, match=r"2 images in 2 groups .* too few for train, val"):
        make_splits(few, "random", SplitConfig(folds=1), seed=0)


def test_quarantined_images_stand_in_no_fold() -> None:
    data = changed(manifest(200), status=lambda i, r: "quarantined" if i % 10 == 0 else "ok")
    for fold in make_splits(data, "random", FIVE, seed=0):
        assert len(fold.parts) == 180


def test_check_folds_names_the_leak_and_lets_purged_images_pass() -> None:
    groups = {"a": "g1", "b": "g1", "c": ""}
    with pytest.raises(
        SplitError, match=r"random, fold 2: 1 group is .* g1 has a in test and b in val"
    ):
        check_folds([Fold("random", 2, {"a": "test", "b": "val", "c": "train"})], groups)
    check_folds([Fold("random", 2, {"a": "test", "b": "purged", "c": "train"})], groups)
    check_folds([Fold("random", 2, {"a": "val", "b": "train", "c": "test"})], groups)


@pytest.mark.parametrize(
    ("protocol", "named", "column_name", "unit"),
    [
        ("random", True, "patient_id", "patient"),
        ("given", True, "patient_id", "patient"),
        ("deduplicated", True, "patient_id", "patient"),
        ("cohort", True, "patient_id", "patient"),
        ("random", False, "group_id", ""),
        ("given", False, "group_id", ""),
        ("deduplicated", False, "group_id", ""),
        ("cohort", False, "group_id", ""),
        ("grouped", True, "patient_id", ""),
        ("acquisition", True, "acquisition_id", ""),
    ],
)
def test_each_fold_says_what_its_intervals_resample(
    protocol: str, named: bool, column_name: str, unit: str
) -> None:
    data = changed(
        manifest(300),
        given_part=lambda i, r: ("train", "train", "test")[i % 3],
        group_id=lambda i, r: f"{r.patient_id} {i // 4}" if i < 99 else "",
        cohort=lambda i, r: "early" if int(r.patient_id[-1]) < 6 else "late",
    )
    if not named:  # one image without a patient is enough
        data = changed(data, patient_id=lambda i, r: "" if i == 0 else r.patient_id)
    for fold in make_splits(data, protocol, FIVE, seed=0):
        assert fold.unit == unit
        assert fold.groups == {
            r.image_id: getattr(r, column_name) or r.image_id for r in data.images
        }


@pytest.mark.parametrize("named", [0, 100])
def test_given_cuts_val_and_cal_by_patient_and_counts_patients_on_both_sides(named: int) -> None:
    data = changed(
        manifest(400, patients=12),
        group_id="",
        given_part=lambda i, r: "test" if r.patient_id.endswith(("-1", "-2")) else "train",
        patient_id=lambda i, r: r.patient_id if i >= named else "",  # some may have none
    )
    torn = next(r for r in data.images if r.patient_id.endswith("-1"))
    data = changed(data, given_part=lambda i, r: "train" if r is torn else r.given_part)
    (fold,) = make_splits(data, "given", FIVE, seed=0)
    patients = {r.image_id: r.patient_id for r in data.images if r.patient_id}
    own = {part: {patients.get(i) for i in fold.ids(part)} - {None}
           for part in ("train", "val", "cal", "test")}  # fmt: skip
    assert own["val"]
    assert own["cal"]
    assert not own["val"] & own["train"]
    assert not own["cal"] & own["train"]
    assert not own["val"] & own["cal"]
    (note,) = [note for note in split_notes([fold], data, FIVE) if "share a patient" in note]
    assert f"(of 1 of {len(own['test'])} patients) share a patient" in note


def test_the_datas_own_val_that_shares_patients_with_train_is_told() -> None:
    data = changed(manifest(400), given_part=lambda i, r: ("train", "train", "val", "test")[i % 4])
    folds = make_splits(data, "given", FIVE, seed=0)
    assert any("val or cal share patients with train" in n for n in split_notes(folds, data, FIVE))


def cohorts(n: int = 400) -> Manifest:
    """Ten patients a class, six of them of an earlier cohort; overlaps stay within a cohort."""
    return changed(
        manifest(n),
        group_id=lambda i, r: f"g{r.patient_id}{i // 20}",
        cohort=lambda i, r: "early" if int(r.patient_id[-1]) < 6 else "late",
    )


@pytest.mark.parametrize("name", ["cohort", "site"])
def test_each_cohort_or_site_is_tested_once_by_models_of_the_others(name: str) -> None:
    data = changed(cohorts(), site=lambda i, r: r.cohort)
    folds = make_splits(data, name, FIVE, seed=0)
    cohort, patient = column(data, name), column(data, "patient_id")
    assert [{cohort[i] for i in fold.ids("test")} for fold in folds] == [{"early"}, {"late"}]
    for fold in folds:
        assert len(fold.ids("test")) == sum(
            name == cohort[fold.ids("test")[0]] for name in cohort.values()
        )
        own = {part: {patient[i] for i in fold.ids(part)} for part in ("train", "val")}
        assert all(own.values())
        assert not own["train"] & own["val"]
    note = split_notes(folds, data, FIVE)[-1]
    assert "fold 0 tests early" in note
    assert "24 patients" in note
    assert f"not of another {name}" in note


def test_cohorts_do_not_depend_on_the_order_or_names_of_files() -> None:
    data = cohorts()
    other = changed(data.with_images(reversed(data.images)), path=lambda i, r: f"{i}.png")
    assert make_splits(other, "cohort", FIVE, seed=3) == make_splits(data, "cohort", FIVE, seed=3)


def test_an_overlap_of_two_cohorts_is_kept_out_of_training() -> None:
    data = cohorts()
    late = next(r for r in data.images if r.cohort == "late")
    early = next(r for r in data.images if r.cohort == "early")
    data = changed(data, group_id=lambda i, r: "both" if r in (late, early) else r.group_id)
    first, second = make_splits(data, "cohort", FIVE, seed=0)
    assert first.parts[late.image_id] == "purged"
    assert second.parts[early.image_id] == "purged"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cohort": ""}, "the images have no cohorts"),
        ({"cohort": "all"}, r"expected 2 to 20 cohorts, found 1 \(all\)"),
        ({"cohort": lambda i, r: f"c{i % 30}"}, "expected 2 to 20 cohorts, found 30"),
        (
            {"cohort": lambda i, r: "" if i == 7 else r.cohort},
            r"1 of 400 images have no cohort, e\.g\. .*/0007\.png",
        ),
        (
            {"cohort": lambda i, r: "late" if i == 0 else "early" if r.label else ""},
            r"1 patient is in two cohorts \(0-\d: early, late\)",
        ),
        (
            {"cohort": lambda i, r: "late" if r.label == "pro_b" else r.cohort},
            "cohort, fold 1: no image of pro_b is left to train on",
        ),
    ],
)
def test_cohorts_that_cannot_be_held_out_say_why(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        make_splits(changed(cohorts(), **columns), "cohort", FIVE, seed=0)


def sessions(*, nested: bool) -> Manifest:
    """Twelve sessions; nested: each of one patient. An overlap joins images of two sessions."""
    data = changed(
        manifest(400, patients=12 if nested else 20),
        session=lambda i, r: f"{r.patient_id} {i % 2}" if nested else f"day {i % 12}",
        group_id="",
    )
    pair = data.images[0], next(r for r in data.images if r.session != data.images[0].session)
    return changed(data, group_id=lambda i, r: "both" if r in pair else "")


@pytest.mark.parametrize("nested", [False, True])
def test_no_session_is_on_two_sides_and_overlaps_are_purged(nested: bool) -> None:
    data = sessions(nested=nested)
    folds = make_splits(data, "session", FIVE, seed=0)
    session, group = column(data, "session"), column(data, "group_id")
    tested: list[str] = []
    for fold in folds:
        own = {part: {session[i] for i in fold.ids(part)} for part in ("train", "val", "test")}
        assert all(own.values())
        assert not own["test"] & (own["train"] | own["val"])
        assert not own["val"] & own["train"]
        tested += fold.ids("test")
        purged = fold.ids("purged")
        assert {group[i] for i in purged} <= {"both"}
        assert not purged or any(group[i] == "both" for i in fold.ids("test"))
    assert sorted(tested) == sorted(session)
    assert any(fold.ids("purged") for fold in folds)


def test_intervals_over_smears_resample_patients_and_over_days_resample_days() -> None:
    smears, days = sessions(nested=True), sessions(nested=False)
    fold = make_splits(smears, "session", FIVE, seed=0)[0]
    patients = column(smears, "patient_id")
    assert fold.unit == "patient"
    assert len(set(fold.groups.values())) < len(set(patients.values()))  # two overlap
    assert len({(patients[i], unit) for i, unit in fold.groups.items()}) == len(
        set(patients.values())
    )
    fold = make_splits(days, "session", FIVE, seed=0)[0]
    assert fold.unit == ""
    assert fold.groups == column(days, "session")


def test_patients_on_both_sides_of_a_session_are_told() -> None:
    data = sessions(nested=False)
    notes = split_notes(make_splits(data, "session", FIVE, seed=0), data, FIVE)
    assert any("share a patient" in note for note in notes)


def test_the_final_model_selects_on_whole_sessions() -> None:
    data = sessions(nested=False)
    like = make_splits(data, "session", FIVE, seed=0)[0]
    fold = split_train_val(data, like, FIVE, seed=0, name="final")
    session = column(data, "session")
    own = {part: {session[i] for i in fold.ids(part)} for part in ("train", "val")}
    assert all(own.values())
    assert not own["train"] & own["val"]


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "the images have no sessions"), ("one", "has images of only one session")],
)
def test_sessions_that_cannot_be_held_out_say_why(value: str, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        make_splits(changed(manifest(100), session=value), "session", FIVE, seed=0)


def test_patients_without_one_session_are_named_as_patients() -> None:
    data = changed(manifest(100, patients=12), session=lambda i, r: f"s{i}", group_id="")
    rows = Patients.of(data).manifest(data.root)
    with pytest.raises(SplitError, match=r"27 of 44 patients have no session, or several"):
        make_splits(rows, "session", FIVE, seed=0)


def test_splits_survive_their_file(tmp_path: Path) -> None:
    data = manifest(100)
    made = make_splits(data, "random", FIVE, seed=0)
    save_folds(tmp_path / "splits.csv", made, data)
    assert load_folds(tmp_path / "splits.csv") == [
        replace(fold, parts=dict(sorted(fold.parts.items()))) for fold in made
    ]
