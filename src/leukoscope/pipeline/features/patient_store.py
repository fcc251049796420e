"""What classifiers of patients are fitted on: features and numbers of the images of each one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.patients import Patients
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.patient_heads import Bags
from leukoscope.learning.backbones import Network
from leukoscope.pipeline.features.inputs import Rows
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.progress import Progress


@dataclass
class PatientStore:
    """The patients of a data set, and the store of their images.

    It answers like an :class:`~leukoscope.pipeline.features.store.InputStore`, with one row a
    patient.

    Attributes:
        images: Features, tables and pixels of every image.
        patients: Which images belong to whom.
        data: One record a patient, in the order of every array.
    """

    images: InputStore
    patients: Patients
    data: Labelled

    @classmethod
    def of(cls, images: InputStore) -> PatientStore:
        """The patients of a store's images.

        Raises:
            DataError: An image names no patient, or a patient has images of two classes.
        """
        patients = Patients.of(images.manifest)
        data = replace(images.data, records=patients.records)
        return cls(replace(images, pairs_of_patients=True), patients, data)

    @property
    def run(self) -> RunFolder:
        """The study's folder."""
        return self.images.run

    @property
    def progress(self) -> Progress:
        """Told as images pass."""
        return self.images.progress

    def network(self, recipe: Recipe, seed: int) -> Network:
        """See :meth:`InputStore.network`."""
        return self.images.network(recipe, seed)

    def bags(self, recipe: Recipe, variant: str, seed: int, rows: Rows | None = None) -> Bags:
        """Features of the images of each patient, or of those in ``rows`` only, in their order."""
        members = self.patients.rows
        if rows is None:
            return Bags.of(self.images.features(recipe, variant, seed), members)
        wanted = self.image_rows(rows)
        found = self.images.features(recipe, variant, seed, rows=wanted)
        return Bags.of(found, [np.searchsorted(wanted, members[row]) for row in rows])

    def image_rows(self, rows: Rows) -> Rows:
        """Rows of the images of some patients, in ascending order."""
        return np.sort(np.concatenate([self.patients.rows[row] for row in rows]))

    def features(self, recipe: Recipe, variant: str, seed: int) -> NDArray[np.float32]:
        """(P, 2 D) mean and standard deviation of the features over each patient's images."""
        return self.bags(recipe, variant, seed).pooled()

    def pooled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(P, 2 d) mean and standard deviation of numbers (n, d) of the images; NaN is left out.

        NaN where no image of the patient has a number.
        """
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a patient with NaN alone
            for rows in self.patients.rows:
                own = values[rows]
                found.append(np.concatenate([np.nanmean(own, axis=0), np.nanstd(own, axis=0)]))
        return np.stack(found)

    def partner_classes(self, seed: int) -> dict[str, int]:
        """Patient → class of the partners of its images; patients without partners have none."""
        of_images = self.images.partner_classes(seed)
        found = {}
        for record, rows in zip(self.data.records, self.patients.rows, strict=True):
            names = (self.images.data.records[row].image_id for row in rows)
            classes = {of_images[name] for name in names if name in of_images}
            if classes:
                found[record.image_id] = classes.pop()
        return found


Store = InputStore | PatientStore
"""What a study is fitted on: rows are images, or patients."""


def open_store(
    run: RunFolder,
    manifest: Manifest,
    config: StudyConfig,
    progress: Progress,
    *,
    shared: bool = False,
) -> Store:
    """The store of a study: of images or of patients, as its configuration says.

    Args:
        run: The study's folder.
        manifest: Its images.
        config: Of the study.
        progress: Told as images pass.
        shared: See :class:`~leukoscope.pipeline.features.store.InputStore`.
    """
    data = Labelled(manifest.usable, manifest.class_names, config.data.roles)
    store = InputStore(run, manifest, data, progress, shared=shared)
    return PatientStore.of(store) if config.unit == "patient" else store


def cell_shares(records: tuple[ImageRecord, ...], patients: Patients) -> NDArray[np.float64]:
    """(P, T) share of each cell type among a patient's images that have one; NaN without any.

    Types are in the order of their names; of ``records``, the images.
    """
    types = sorted({cell_type(record) for record in records} - {""})
    found = np.full((len(patients.rows), len(types)), np.nan)
    for row, images in enumerate(patients.rows):
        own = [cell_type(records[image]) for image in images]
        known = [name for name in own if name]
        if known:
            found[row] = [known.count(name) / len(known) for name in types]
    return found


def cell_type(record: ImageRecord) -> str:
    """The type of the cell that an image shows, where the data says so."""
    return record.cell_type
