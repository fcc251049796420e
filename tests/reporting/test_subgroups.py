"""Words and tables of results by subgroup."""

from __future__ import annotations

from leukoscope.config.metrics.other_data import Subgroup, SubgroupColumn, Subgroups
from leukoscope.config.metrics.results import Estimate
from leukoscope.reporting.content import Folded
from leukoscope.reporting.result_tables import in_words, subgroup_blocks, subgroup_tables


def _group(value: str, accuracy: float, area: Estimate) -> Subgroup:
    metrics = {
        "accuracy": Estimate(value=accuracy, low=0.1, high=0.95, reliable=value != "few"),
        "roc_auc": area,
    }
    return Subgroup(value=value, n=30, n_groups=25, by_class={"aml": 30, "apl": 0}, metrics=metrics)


def _found() -> Subgroups:
    known = Estimate(value=0.8, low=0.6, high=0.9)
    alone = Estimate(value=0.0, low=None, high=None, reliable=False)
    site = SubgroupColumn(
        column="site", kind="values", missing=2, p=0.001, p_holm=0.004, differs=True,
        groups=(_group("north", 0.9, known), _group("few", 0.4, alone)),
    )  # fmt: skip
    sex = SubgroupColumn(
        column="sex", kind="values", missing=0, p=0.6, p_holm=0.6, differs=False,
        groups=(_group("f", 0.7, known), _group("m", 0.72, known)),
    )  # fmt: skip
    scanner = SubgroupColumn(
        column="scanner", kind="values", missing=0, groups=(_group("a", 0.7, alone),)
    )
    name = SubgroupColumn(column="name", kind="values", missing=0, reason="90 values, more than 20")
    return Subgroups(
        recipe="quick", protocol="grouped", group_unit="patient", confidence=0.95,
        columns=(site, sex, scanner, name),
    )  # fmt: skip


def test_only_a_test_is_called_a_difference() -> None:
    assert list(in_words(_found())) == [
        "The accuracy differs by site (p 0.001, corrected 0.004): north 90.0 % (10.0–95.0), "
        "n = 30; few 40.0 % (10.0–95.0)†, n = 30.",
        "No difference of the accuracy was shown by sex (corrected p ≥ 0.05).",
        "Nothing can be tested by scanner: the values cannot be told from the classes or the "
        "groups.",
        "name makes no subgroups: 90 values, more than 20.",
    ]


def test_tables_mark_few_groups_and_show_no_value_without_limits() -> None:
    site, *_ = subgroup_tables(_found())
    north, few = site.rows
    assert north == ("north", "90.0 % (10.0–95.0)", "0.800 (0.600–0.900)", "30", "25", "AML 30")
    assert few[1].endswith("†")
    assert few[2] == "—"
    assert "2 images without a value" in site.note
    assert "p 0.001, corrected 0.004" in site.note
    titles = [block.title for block in subgroup_blocks(_found()) if isinstance(block, Folded)]
    assert titles == ["By site", "By sex", "By scanner"]
