"""Other data whose classes are not quite the bundle's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError, DataError, UnknownNameError
from leukoscope.core.known_classes import Role
from leukoscope.core.records import ImageRecord
from leukoscope.runtime.heatmap import encode_png
from leukoscope.study.bundle_evaluation import _table, summarise_external
from leukoscope.study.options import external_values, study_config

BUNDLE = ("aml", "apl")
SIDES: dict[str, Role] = {"aml": "malignant", "hairy_cell": "malignant", "thing": "other"}


def compared(class_names: tuple[str, ...], labels: Sequence[str], roles: Any = None) -> Any:
    """What is compared of one image of each label, for which all classes are as probable."""
    records = tuple(cast(ImageRecord, SimpleNamespace(image_id=f"{i}-{label}", label=label))
                    for i, label in enumerate(labels))  # fmt: skip
    p = dict.fromkeys(class_names, 1 / len(class_names))
    answers = cast(Any, [SimpleNamespace(probabilities=p)] * len(labels))
    return _table(class_names, roles or {}, records, answers)


def test_the_classes_that_both_have_are_compared_and_the_others_named() -> None:
    table, kept, warnings = compared(BUNDLE, ["aml", "hairy_cell", "aml", "cml"])
    assert table.class_names == BUNDLE
    assert [record.label for record in kept] == ["aml", "aml"]
    cure = "--class NAME=CLASS counts those that the bundle calls otherwise"
    assert f"2 images of cml, hairy_cell left out: unknown to the bundle; {cure}" in warnings
    assert "only aml could be compared: the data has no images of apl" in warnings


def test_a_class_of_nearly_the_same_name_is_proposed() -> None:
    _, _, warnings = compared(("lymph", "monos"), ["lymph", "monocyte"])
    assert any("; --class monocyte=monos counts them, if they" in text for text in warnings)
    _, _, warnings = compared(("lymph", "monos"), ["lymph", "monos", "monocyte"])
    assert warnings == ["1 images of monocyte left out: unknown to the bundle"]


def test_all_beside_its_stages_does_not_stop_what_can_be_compared() -> None:
    """A bundle with one side only once refused any data with *all* in it."""
    table, kept, _ = compared(BUNDLE, ["aml", "all"])
    assert (table.class_names, len(kept)) == (BUNDLE, 1)


def test_other_classes_with_known_roles_are_compared_by_malignancy() -> None:
    names = ("hairy_cell", "thing")
    table, kept, warnings = compared(names, ["aml", "basophil", "mystery"], SIDES)
    assert table.class_names == ("healthy", "all")
    assert table.y_true.tolist() == [1, 0]
    assert [record.label for record in kept] == ["aml", "basophil"]
    assert any("their role is not stated (--role)" in text for text in warnings)
    metrics = summarise_external(table, ["a", "b"], "image", (), None, ["accept"] * 2, SIDES)
    assert metrics.results[0].metrics["recall_malignant"].value is not None


def test_nothing_in_common_says_why_and_what_is_near() -> None:
    with pytest.raises(DataError, match="no class can be compared") as caught:
        compared(("hairy_cell", "thing"), ["hairy_cells", "aml"])
    said = str(caught.value)
    assert "what hairy cell, thing stand for" in said
    assert "hairy_cells may be hairy_cell" in said


def test_roles_are_named_as_people_write_and_hold_for_other_data_too() -> None:
    config = study_config("d", roles={"Hairy cell": "malignant", "HEM": "other"}, external=("e",))
    assert config.data.roles == {"hairy_cell": "malignant", "healthy": "other"}
    assert config.external[0].roles == config.data.roles
    assert StudyConfig.model_validate(config.model_dump()) == config
    with pytest.raises(UnknownNameError, match="unknown role 'bad'"):
        study_config("d", roles={"aml": "bad"})
    with pytest.raises(ConfigError):
        external_values(["a", "b"], ["auto", "auto", "auto"], None)


def test_the_metrics_of_malignancy_follow_the_roles() -> None:
    from leukoscope.evaluation.statistics.hierarchy import hierarchy_metrics
    from leukoscope.evaluation.statistics.intervals import bootstrap_metrics

    rng = np.random.default_rng(0)
    names, y = ("aml", "hairy_cell", "thing"), rng.integers(0, 3, 90)
    prob = rng.dirichlet(np.ones(3), 90) + 0.6 * np.eye(3)[y]
    prob /= prob.sum(1, keepdims=True)
    groups = [f"g{i // 3}" for i in range(90)]
    plain = bootstrap_metrics(y, prob, names, groups=groups, replicates=50)
    assert not any(name.endswith("_malignant") for name in plain)
    assert hierarchy_metrics(y, prob, names, groups=groups, replicates=50) is None
    found = bootstrap_metrics(y, prob, names, groups=groups, roles=SIDES, replicates=50)
    called = prob.argmax(1) < 2
    assert found["recall_malignant"].value == pytest.approx(called[y < 2].mean())
    levels = hierarchy_metrics(y, prob, names, groups=groups, roles=SIDES, replicates=50)
    assert levels is not None
    assert levels["subtype"]["n"] == int((y < 2).sum())


def test_a_column_of_roles_holds_until_one_is_stated(tmp_path: Path) -> None:
    lines = ["path,label,role", "a.png,Hairy cell,malignant", "b.png,aml,other", "c.png,x y,other"]
    table = tmp_path / "manifest.csv"
    table.write_text("\n".join(lines))
    for name in "abc":
        pixels = np.full((32, 32, 3), ord(name), np.uint8)
        (tmp_path / f"{name}.png").write_bytes(encode_png(pixels))
    config = study_config(table, roles={"AML": "malignant"})
    assert config.data.roles == {"hairy_cell": "malignant", "aml": "malignant", "x_y": "other"}
    assert study_config("d", external=(table,)).external[0].roles["aml"] == "other"
