"""What forecast.py takes away from which data set, and what is computed of each set once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.config.study import DEGRADED, PERTURBED, SWAPPED, StudyConfig
from leukoscope.core.files import write_bytes, write_csv
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.audit.run import Audit
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.verdict.shortcuts import SOURCES
from leukoscope.learning.backbones import Network
from leukoscope.phantom import PhantomSpec, morphology, render_phantom
from leukoscope.pipeline.evidence import negative_control
from leukoscope.pipeline.features.inputs import GROUND, Rows
from leukoscope.pipeline.features.store import InputStore, Wanted
from leukoscope.pipeline.folds import plan_protocols
from leukoscope.pipeline.inapplicable import measured_tables, picture_scale
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.perturbed import perturbed_inputs, perturbed_rows
from leukoscope.pipeline.probes import number_table
from leukoscope.pipeline.progress import Progress
from leukoscope.study.options import study_config
from leukoscope.study.run import audited_in, labelled

SEED: Final = 42
POOL, NEW, IN_STUDY, PER_PATIENT, COHORT = 240, 400, 48, 8, 12
PHANTOM_CLASSES: Final = ("benign", "early_pre_b")
PATIENT_SHARE: Final = 0.4  # of the variance of a trait; the package's own phantoms have .15
SIZE_PX: Final = 96
PROBES: Final = tuple(probe for probes in SOURCES.values() for probe in probes)


@dataclass(frozen=True)
class Design:
    """What is held out in a data set, and how much of it.

    Attributes:
        protocol: Whose units are taken away.
        away: How many units are taken away, or, where ``keep``, kept.
        keep: Whether ``away`` is the number of those that stay.
        cohort: How many of those taken away are one cohort; 0 means all.
        by_class: Whether a unit has one class, so that classes are taken in proportion.
        degraded: How many images of the whole set are mildly degraded; 0 means all.
        overrides: Of the study.
    """

    protocol: str
    away: int
    keep: bool = False
    cohort: int = 0
    by_class: bool = True
    degraded: int = 0
    overrides: tuple[str, ...] = ()


DESIGNS: Final = {
    "cnmc": Design("grouped", 8, degraded=440),
    "phantoms": Design(
        "grouped",
        IN_STUDY,
        keep=True,
        cohort=COHORT,
        overrides=(f"preprocess.size_px={SIZE_PX * 3 // 2}",),
    ),
    "aria": Design("acquisition-merged", 4, by_class=False, degraded=400),
}


@dataclass(frozen=True)
class Whole:
    """A data set with everything that is computed once.

    Attributes:
        name: Its name here.
        design: What is held out.
        config: Of every study on part of it.
        audit: Of all images.
        store: Features and numbers of all images.
        new: Further patients, whose images alone are computed and who are in no study.
    """

    name: str
    design: Design
    config: StudyConfig
    audit: Audit
    store: InputStore
    new: InputStore | None = None

    @classmethod
    def of(
        cls, name: str, data: Path, recipe: str, out: Path, changed: Sequence[str], probes: bool
    ) -> Whole:
        """Audit the set, or read what an earlier run found."""
        design, progress = DESIGNS[name], Progress(_tell)
        config = study_config(
            data,
            recipes=[recipe],
            protocols=[design.protocol],
            probes=PROBES,
            overrides=[
                "bootstrap=500",
                "control_draws=5",
                "splits.cluster_curve=[]",
                *design.overrides,
                *changed,
            ],
            seed=SEED,
        )
        run = RunFolder(out / name / "whole")
        audit = audited_in(run, config, progress)
        store = InputStore(run, audit.manifest, labelled(audit, config), progress)
        whole = cls(name, design, config, audit, store)
        if probes:
            whole.prepare()
        if name != "phantoms":
            return whole
        pool = load_dataset(write_patients(out / name / "new", NEW, POOL))
        images = Labelled(pool.usable, pool.class_names)
        return replace(whole, new=InputStore(run, pool, images, progress))

    def prepare(self) -> None:
        """Compute in one pass what the repetitions will ask for."""
        own, scale = self.config.recipes[0], picture_scale(self.store, self.config)
        tables = [table for probe in PROBES if (table := number_table(probe, scale)) is not None]
        few = [Wanted(own, name, self.degraded) for name in perturbed_inputs(self.config)]
        every = [Wanted(own, name) for name in ("image", GROUND)]
        self.store.prepare([*every, *few], [*measured_tables(self.config), *tables], SEED)

    @cached_property
    def degraded(self) -> Rows:
        """Rows of the images that are mildly degraded, chosen once for all repetitions."""
        data = self.store.data
        return perturbed_rows(data, SEED, self.design.degraded or len(data.records))

    @cached_property
    def control(self) -> dict[str, Any]:
        """The negative control of the whole set: it speaks of the code, not of a part."""
        plan = plan_protocols(self.audit.manifest, self.audit, self.config)
        return negative_control(self.store, plan, self.config, self.store.progress)

    @cached_property
    def units(self) -> dict[str, str]:
        """Image id → what is held out as a whole; patients who share images are one."""
        return plan_protocols(self.audit.manifest, self.audit, self.config).folds[0].groups

    def shown(self, away: NDArray[np.bool_]) -> tuple[Any, NDArray[np.int64], list[str], list[str]]:
        """Features, labels, ids and units of the images taken away, and of all new patients."""
        rows, recipe = np.flatnonzero(away), self.config.recipes[0]
        features, y = self.store.features(recipe, "image", SEED)[rows], self.store.data.y[rows]
        ids = [self.store.data.records[row].image_id for row in rows]
        units = [self.units[image_id] for image_id in ids]
        if self.new is None:
            return features, y, ids, units
        found = self.new.features(recipe, "image", SEED)
        records = self.new.data.records
        return (
            np.concatenate([features, found]),
            np.concatenate([y, self.new.data.y]),
            ids + [record.image_id for record in records],
            units + [record.patient_id for record in records],
        )

    def taken(self, number: int) -> list[str]:
        """Units that repetition ``number`` takes away; every unit has its turn."""
        label = {r.image_id: r.label for r in self.store.data.records}
        of_class: dict[str, set[str]] = {}
        for image_id, unit in self.units.items():
            of_class.setdefault(label[image_id] if self.design.by_class else "", set()).add(unit)
        total = len(set(self.units.values()))
        dealt: list[str] = []
        for name, found in sorted(of_class.items()):
            share = round(self.design.away * len(found) / total)
            dealt += deal(sorted(found), share, number, name)
        if not self.design.keep:
            return dealt
        rest = sorted(set(self.units.values()) - set(dealt))
        return [str(u) for u in np.random.default_rng([SEED, number]).permutation(rest)]


def deal(units: Sequence[str], share: int, number: int, name: str) -> list[str]:
    """The ``number``-th hand of ``share`` cards; a deck is shuffled when it is dealt out."""
    hands = len(units) // share
    deck = np.random.default_rng([SEED, number // hands, *name.encode()]).permutation(units)
    place = share * (number % hands)
    return [str(unit) for unit in deck[place : place + share]]


@dataclass(frozen=True)
class PartAudit(Audit):
    """The audit of the whole set, as far as it speaks of some of its images."""

    def merged_labels(self, clusters: int) -> dict[str, str]:
        """The whole set's clusters, of the images that are left."""
        left = {record.image_id for record in self.manifest.usable}
        labels = super().merged_labels(clusters)
        return {key: label for key, label in labels.items() if key in left}


@dataclass
class PartStore(InputStore):
    """Rows of the whole set's store, so that nothing is computed twice.

    What hangs on a seed (degraded images, partners of the transplant control) is the whole set's.

    Attributes:
        degraded: Rows of the whole set that were degraded.
    """

    degraded: Any = None

    @property
    def whole(self) -> InputStore:
        """The store of which this is a part."""
        assert self.parent is not None
        return self.parent

    @property
    def mine(self) -> Rows:
        """(m,) its rows there."""
        assert self.parent_rows is not None
        return self.parent_rows

    def prepare(self, wanted: Any, tables: Any, seed: int) -> None:
        """All is there already."""

    def network(self, recipe: Recipe, seed: int) -> Network:
        """The whole set's."""
        return self.whole.network(recipe, SEED)

    def features(
        self, recipe: Recipe, variant: str, seed: int, made: Any = None, rows: Rows | None = None
    ) -> NDArray[np.float32]:
        """(m, D) of the images that are left, or of some of them."""
        mine = self.mine if rows is None else self.mine[rows]
        if variant not in (*PERTURBED, *SWAPPED, *DEGRADED):
            return self.whole.features(recipe, variant, SEED)[mine]
        found = self.whole.features(recipe, variant, SEED, rows=self.degraded)
        return found[np.searchsorted(self.degraded, mine)]

    def partner_classes(self, seed: int) -> dict[str, int]:
        """Image id → class of its partner, who may have been taken away."""
        return super().partner_classes(SEED)


def write_patients(out: Path, number: int, first: int = 0) -> Path:
    """Patients with a slide, a camera and cells of their own, as a folder with a manifest."""
    if (out / "manifest.csv").is_file():
        return out / "manifest.csv"
    morphology.PATIENT_SHARE = PATIENT_SHARE
    rows = []
    for patient in range(first, first + number):
        label = PHANTOM_CLASSES[patient % len(PHANTOM_CLASSES)]
        spec = PhantomSpec(
            images=PER_PATIENT,
            sessions=1,  # of its own: stain, light, defocus and noise
            size_px=SIZE_PX,
            seed=70_000 + patient,
            class_names=(label,),
        )
        for index in range(PER_PATIENT):
            name = f"{label}/p{patient:03d}-{index}.png"
            image = cv2.cvtColor(render_phantom(spec, index).image, cv2.COLOR_RGB2BGR)
            write_bytes(out / name, cv2.imencode(".png", image)[1].tobytes())
            rows.append({"path": name, "label": label, "patient_id": f"p{patient:03d}"})
    write_csv(out / "manifest.csv", ("path", "label", "patient_id"), rows)
    return out / "manifest.csv"


def _tell(step: str, done: int, total: int) -> None:
    if (done, total) == (0, 0):
        print(time.strftime("%H:%M:%S"), step, flush=True)
