"""Which protocols apply to a data set, and why others do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, SplitConfig, StudyConfig
from leukoscope.core.protocols import ProtocolName
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.audit.run import Audit
from leukoscope.pipeline.folds import NOTHING_MERGED, none_applies, plan_protocols

CLUSTERS, IMAGES = 8, 4


def cut(tmp_path_factory: pytest.TempPathFactory, *, overlap: bool) -> tuple[Manifest, Audit]:
    """Eight clusters of four images; perhaps overlapping fields lie in two of them."""
    records, own, merged = [], {}, {}
    for number in range(CLUSTERS * IMAGES):
        name, cluster = f"{number:02d}", number // IMAGES
        tied = overlap and number in (3, 4)
        records.append(
            ImageRecord(
                name, f"{name}.png", sha256=f"{number:064x}", label=("aml", "apl")[number % 2],
                group_id="tie" if tied else name,
            )
        )  # fmt: skip
        own[name] = f"k8-{cluster:02d}"
        joined = 0 if overlap and cluster == 1 else cluster
        merged[name] = f"m8-{CLUSTERS - joined:02d}"  # other names in another order
    audit = SimpleNamespace(
        acquisition_labels=lambda clusters: own, merged_labels=lambda clusters: merged
    )
    root = tmp_path_factory.getbasetemp()
    return Manifest(root, tuple(records)), cast(Audit, audit)


def config(*protocols: ProtocolName) -> StudyConfig:
    return StudyConfig(
        data=DataConfig(path="data"), recipes=(load_recipe("quick"),), protocols=protocols,
        splits=SplitConfig(folds=4, clusters=CLUSTERS, cluster_curve=()),
    )  # fmt: skip


def test_merged_clusters_that_are_the_clusters_are_not_held_out_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    both = config("acquisition", "acquisition-merged")
    plan = plan_protocols(*cut(tmp_path_factory, overlap=False), both)
    assert plan.names == ("acquisition",)
    row = {"protocol": "acquisition-merged", "reason": NOTHING_MERGED}
    assert plan.inapplicable == (row,)
    assert none_applies([row], config("acquisition-merged")).hint == "take -p acquisition"


def test_merged_clusters_apply_where_an_overlap_spans_two(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    both = config("acquisition", "acquisition-merged")
    plan = plan_protocols(*cut(tmp_path_factory, overlap=True), both)
    assert plan.names == ("acquisition", "acquisition-merged")
    assert not plan.inapplicable
