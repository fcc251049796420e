import pytest

from leukoscope.core.errors import UnknownNameError
from leukoscope.core.labels import CLASSES, malignant_mask, order_classes, resolve_class


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
        ("neutrophil", None),
        ("Prolymphocyte", None),
    ],
)
def test_published_names(published: str, name: str | None) -> None:
    assert resolve_class(published) == name


def test_every_canonical_name_resolves_to_itself() -> None:
    assert [resolve_class(name) for name in CLASSES] == list(CLASSES)


def test_the_users_own_mapping_wins() -> None:
    assert resolve_class("Blast Cells", {"blast cells": "all"}) == "all"
    with pytest.raises(UnknownNameError, match="al") as caught:
        resolve_class("x", {"x": "al"})
    assert "Did you mean 'all'?" in str(caught.value)


def test_order_is_canonical_whatever_came() -> None:
    assert order_classes(["pro_b", "all", "benign"]) == ("benign", "pro_b", "all")
    assert malignant_mask(("healthy", "benign", "pro_b", "all")) == [False, False, True, True]
    with pytest.raises(UnknownNameError):
        order_classes(["benign", "cat"])
