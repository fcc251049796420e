import pytest

from leukoscope.core.errors import UnknownNameError
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import (
    check_roles,
    malignant_mask,
    match_class,
    named_class,
    named_roles,
    open_name,
    order_classes,
    resolve_class,
    resolve_classes,
    without_sides,
)


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("Benign", "benign"),
        ("Early", "early_pre_b"),
        ("Pre", "pre_b"),
        ("Pro", "pro_b"),
        ("[Malignant] early Pre-B", "early_pre_b"),
        ("[Malignant] Pre-B", "pre_b"),
        ("[Malignant] Pro-B", "pro_b"),
        ("hem", "healthy"),
        ("HEM", "healthy"),
        ("all", "all"),
        ("ALL", "all"),
        ("Normal", "healthy"),
        ("early_pre_b", "early_pre_b"),
        ("Neutrophil (segmented)", "segmented_neutrophil"),
        ("SNE", "segmented_neutrophil"),
        ("Prolymphocytes", "prolymphocyte"),
        ("hairy cell", None),
    ],
)
def test_published_names(published: str, name: str | None) -> None:
    assert resolve_class(published) == name


def test_every_canonical_name_resolves_to_itself() -> None:
    assert [named_class(name) for name in CLASSES] == list(CLASSES)
    elsewhere = {name for name in CLASSES if resolve_class(name) != name}
    assert elsewhere == {"blast", "leukemia"}  # in the public sets these are *all*
    assert list(resolve_classes([*CLASSES], {})) == list(CLASSES)


def test_the_users_own_mapping_wins() -> None:
    assert resolve_class("Blast Cells", {"blast cells": "all"}) == "all"
    assert resolve_class("x", {"X": "Hairy cell"}) == "hairy_cell"


def test_order_is_canonical_whatever_came() -> None:
    assert order_classes(["pro_b", "all", "benign"]) == ("benign", "pro_b", "all")
    assert order_classes(["zoo", "äther", "cat", "all"]) == ("all", "cat", "zoo", "äther")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Плазма клетка", "плазма_клетка"),
        ("白血病", "白血病"),
        ("e\u0301toile", "étoile"),  # as macOS writes it
        ("<b>AML</b> & 'x'", "b_aml_b_x"),
        ("../../etc", "etc"),
        ("MALIGNANT", "malignant_cell"),  # recall_malignant and p_malignant mean another thing
        (" -- ", ""),
    ],
)
def test_a_class_of_its_own_has_a_name_that_files_can_hold(text: str, name: str) -> None:
    assert open_name(text) == name
    assert name == "" or open_name(name) == name


def test_short_names_mean_all_only_in_the_public_sets() -> None:
    assert set(resolve_classes(["Benign", "Malignant"]).values()) == {"benign", "all"}
    found = resolve_classes(["Benign", "Malignant", "Early", "APL"])
    assert list(found.values()) == ["benign_cell", "malignant_cell", "early", "apl"]
    chosen = resolve_classes(["Early", "APL"], {"early": "early_pre_b"})
    assert chosen["Early"] == "early_pre_b"


def test_there_are_two_sides_only_where_each_role_is_known() -> None:
    assert malignant_mask(("healthy", "benign", "pro_b", "all")) == [False, False, True, True]
    assert malignant_mask(["aml", "hairy_cell"]) is None
    assert malignant_mask(["aml", "hairy_cell"], {"hairy_cell": "other"}) == [True, False]
    assert malignant_mask(["aml", "apl"]) is None
    assert malignant_mask(["aml", "apl"], {"aml": "other"}) == [False, True]
    assert "what hairy cell stands for" in without_sides(["aml", "hairy_cell"])
    many = without_sides([f"c{i}" for i in range(9)])
    assert "c4 and 4 more stand for" in many


def test_a_role_of_no_class_and_no_role_are_refused_with_the_nearest() -> None:
    assert named_roles({"HEM": "other", "Hairy cell": "Malignant"}) == {
        "healthy": "other",
        "hairy_cell": "malignant",
    }
    with pytest.raises(UnknownNameError, match="malignat") as caught:
        named_roles({"aml": "malignat"})
    assert "Did you mean 'malignant'?" in str(caught.value)
    with pytest.raises(UnknownNameError) as caught:
        check_roles({"hairy_cel": "other"}, ["aml", "hairy_cell"])
    assert "Did you mean 'hairy_cell'?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Hairy Cell", ("blast", "hairy_cell"), "hairy_cell"),
        ("blasts", ("healthy", "all"), "all"),
        ("blasts", ("blast", "monocyte"), "blast"),
        ("<b>", ("<b>", "aml"), "<b>"),  # as an odd bundle has it
        ("monocyte", ("healthy", "all"), None),
    ],
)
def test_a_name_means_the_class_that_is_there(
    text: str, names: tuple[str, ...], found: str | None
) -> None:
    assert match_class(text, names) == found
    assert match_class("HEM", names, {"hem": "nothing there"}) is None
