"""The public data sets of ``data fetch``: where they are, how large, on which terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from leukoscope.core.errors import UnknownNameError


@dataclass(frozen=True)
class PublicSet:
    """One public data set.

    Attributes:
        title: What it is called where it is published.
        citation: What to cite, one work a line.
        size: How much comes and how much disk it takes, in words.
        page: Where a person finds it.
        needed_mb: Free disk space that the work needs.
        images: Least number of image files of a complete copy.
        kaggle: Handle with version on Kaggle; empty where it is fetched from ``url``.
        url: Address of its one file; empty where it comes from Kaggle.
        checksum: Published checksum of that file, ``algorithm:digits``; empty where none is
            published.
        elsewhere: The other place that offers it, and how; may be empty.
    """

    name: str
    title: str
    holds: str
    licence: str
    citation: tuple[str, ...]
    size: str
    page: str
    needed_mb: int
    images: int
    kaggle: str = ""
    url: str = ""
    checksum: str = ""
    elsewhere: str = ""

    @property
    def source(self) -> str:
        """Where it is fetched from, for records and messages."""
        return f"Kaggle {self.kaggle}" if self.kaggle else self.url


_SETS = (
    PublicSet(
        name="all-4class",
        title="Acute Lymphoblastic Leukemia (ALL) image dataset",
        holds="3,256 fields of 89 patients, 224 × 224 px: Benign (hematogones), Early, Pre, Pro; "
        "each once as taken and once segmented. No patient ids",
        licence="research use; the terms on its Kaggle page hold",
        citation=(
            "Aria et al. 2021, doi 10.34740/KAGGLE/DSV/2175623",
            "Ghaderzadeh et al. 2022, doi 10.1002/int.22753",
        ),
        size="the 3,256 originals are 72 MB; their segmented twins come on top",
        page="https://www.kaggle.com/datasets/mehradaria/leukemia",
        needed_mb=500,
        images=3256,
        kaggle="mehradaria/leukemia/versions/1",
    ),
    PublicSet(
        name="cnmc-2019",
        title="C-NMC 2019, ALL Challenge dataset of ISBI 2019",
        holds="single cells, 450 × 450 px: 10,661 for training in three folds by subject (all and "
        "hem, subject in the file name), and two test phases",
        licence="CC BY 3.0",
        citation=("Gupta & Gupta 2019, doi 10.7937/tcia.2019.dc64i46r",),
        size="about 9 GB on disk (15,000 bitmaps of 0.6 MB); it travels compressed",
        page="https://www.kaggle.com/datasets/andrewmvd/leukemia-classification",
        needed_mb=12_000,
        images=10_661,
        kaggle="andrewmvd/leukemia-classification/versions/2",
        elsewhere="The Cancer Imaging Archive offers the same set without an account, through "
        "its own transfer program: https://doi.org/10.7937/tcia.2019.dc64i46r",
    ),
    PublicSet(
        name="bloodmnist",
        title="BloodMNIST (MedMNIST v2)",
        holds="17,092 single cells of 8 normal kinds, 28 × 28 px, in train, val and test; "
        "material from another laboratory, without leukemia",
        licence="CC BY 4.0",
        citation=(
            "Yang et al. 2023, doi 10.1038/s41597-022-01721-8",
            "Acevedo et al. 2020, doi 10.1016/j.dib.2020.105474",
        ),
        size="35.5 MB, and about 70 MB as image files",
        page="https://zenodo.org/records/10519652",
        needed_mb=200,
        images=17_092,
        url="https://zenodo.org/records/10519652/files/bloodmnist.npz?download=1",
        checksum="md5:7053d0359d879ad8a5505303e11de1dc",
    ),
)

PUBLIC_SETS: Mapping[str, PublicSet] = MappingProxyType({item.name: item for item in _SETS})
"""By name, in the order of their use here."""


def public_set(name: str) -> PublicSet:
    """A public data set by name."""
    if name not in PUBLIC_SETS:
        raise UnknownNameError("public data set", name, PUBLIC_SETS)
    return PUBLIC_SETS[name]
