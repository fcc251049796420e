"""The registry of protocols: what each holds out, its words, and the orders they are taken in.

A new protocol is one entry here, with its name in :data:`ProtocolName` and its place in the orders
below. One that holds out the values of a column of the manifest needs no more; another needs its
split in :mod:`leukoscope.datasets.splits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

ProtocolName = Literal[
    "random", "grouped", "deduplicated", "acquisition", "acquisition-merged", "session", "given",
    "site", "cohort",
]  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """One way to divide a data set, and how it is spoken of.

    Attributes:
        name: As configured and as in every file.
        unit: What its intervals resample unless a fold says otherwise.
        held_out: What stands on one side of a split as a whole.
        column: Of the manifest, that names what is held out; empty where none does.
        title: Name over tables, figures and columns.
        question: What a result under it answers.
        setting: Where a score was measured, as the end of a sentence of the verdict.
        shows: What a result says of the model; ``{}`` is the sample.
        basis: What out-of-fold probabilities under it rest on.
        whole_units: Whether it holds out whole patients or slides, seen in no other part.
        own_parts: Whether the data itself says what is tested, so that folds cannot be chosen;
            with a ``column`` each of its values is a fold.
        purges: Whether training images that overlap a test image are set aside.
    """

    name: str
    unit: str
    title: str
    question: str
    shows: str
    held_out: str = ""
    column: str = ""
    setting: str = ""
    basis: str = ""
    whole_units: bool = False
    own_parts: bool = False
    purges: bool = False

    @property
    def label(self) -> str:
        """The title within a sentence."""
        return self.title[:1].lower() + self.title[1:]


PROTOCOLS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="random",
                unit="component",
                held_out="image",
                title="Random split",
                question="Can it sort images whose neighbours it has seen? Only for comparison "
                "with the literature.",
                setting="on random splits",
                shows="How well images are sorted when their neighbours may be in the training "
                "data ({}): comparable with published figures, no forecast for new slides.",
                basis="the model may have seen a copy of the image, and a copy with the same wrong "
                "label vouches for it",
            ),
            Protocol(
                name="grouped",
                unit="patient",
                held_out="patient",
                column="patient_id",
                title="Patients held out",
                question="Does it work on patients it has never seen, from the same laboratory?",
                setting="when whole patients are held out",
                shows="How the model does on patients it has never seen ({}), from the same "
                "source.",
                basis="each image is judged by a model that saw nothing of its patient",
                whole_units=True,
            ),
            Protocol(
                name="deduplicated",
                unit="component",
                held_out="component of overlapping images",
                column="group_id",
                title="Overlaps kept together",
                question="Does it survive without copies of test images? Without patient ids "
                "still nearly random.",
                setting="when overlapping images are kept together",
                shows="How much of that remains without duplicates and overlapping fields of "
                "test images in training ({}).",
                basis="each image is judged by a model that saw neither it nor a copy or an "
                "overlapping field of it",
            ),
            Protocol(
                name="acquisition",
                unit="acquisition cluster",
                held_out="acquisition cluster",
                column="acquisition_id",
                title="Acquisition clusters held out",
                question="Does it work on images whose background looks unlike the training "
                "images’?",
                setting="when whole acquisition clusters are held out",
                shows="How the model does when images with alike background are held out "
                "together ({}).",
                basis="each image is judged by a model that saw nothing of its acquisition cluster",
                whole_units=True,
                purges=True,
            ),
            Protocol(
                name="acquisition-merged",
                unit="merged acquisition cluster",
                held_out="merged acquisition cluster",
                column="acquisition_id",
                title="Merged clusters held out",
                question="The harshest proxy of an unseen slide that the data allows.",
                setting="when acquisition clusters that share overlapping fields are held out "
                "together",
                shows="How far it falls when, besides, no slide may be cut in two ({}): "
                "the harshest stand-in for an unseen slide that this data allows.",
                basis="each image is judged by a model that saw nothing of its merged "
                "acquisition cluster",
                whole_units=True,
            ),
            Protocol(
                name="session",
                unit="session",
                held_out="session",
                column="session",
                title="Sessions held out",
                question="Does it work on a smear, or a day of staining and imaging, that it has "
                "never seen?",
                setting="when whole sessions are held out",
                shows="How the model does on sessions (smears, days of imaging) that it has never "
                "seen ({}), of patients that it may know.",
                basis="each image is judged by a model that saw nothing of its session",
                whole_units=True,
                purges=True,
            ),
            Protocol(
                name="given",
                unit="component",
                title="The data’s own split",
                question="What the publishers of the data intended, audited for leaks.",
                setting="on the data set's own split",
                shows="What the data’s own split gives ({}).",
                basis="the data's own parts may share copies of an image, and a copy with the "
                "same wrong label vouches for it",
                own_parts=True,
            ),
            Protocol(
                name="site",
                unit="component",
                column="site",
                title="Sites held out",
                question="Does it work on images of a laboratory that it has never seen?",
                setting="when a whole site is held out",
                shows="How the model does on sites (a hospital, a laboratory) that it has never "
                "seen ({}).",
                basis="each image is judged by a model that saw nothing of its site",
                own_parts=True,
                purges=True,
            ),
            Protocol(
                name="cohort",
                unit="component",
                column="cohort",
                title="Cohorts held out",
                question="Does it work on patients of a hospital, or of years, that it has never "
                "seen?",
                setting="when a whole cohort is held out",
                shows="How the model does on cohorts (a hospital, years) that it has never seen "
                "({}).",
                basis="each image is judged by a model that saw nothing of its cohort",
                own_parts=True,
                purges=True,
            ),
        )
    }
)
"""Every protocol that a study can run, in the order of its files."""

EXTERNAL: Final = Protocol(
    name="external",
    unit="image",
    title="Another data set",
    question="Does it work on data from elsewhere?",
    shows="How the model does on another data set ({}).",
)
"""Results on data that the study did not divide."""

WORDS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        **{
            name: PROTOCOLS[name]
            for name in (
                "random", "deduplicated", "given", "session", "grouped", "site", "cohort",
                "acquisition", "acquisition-merged",
            )
        },
        EXTERNAL.name: EXTERNAL,
    }
)  # fmt: skip
"""What a report speaks of, from the mildest to the harshest, another data set last."""

IN_VERDICT: Final = (
    "random", "deduplicated", "given", "acquisition", "acquisition-merged", "session", "grouped",
    "site", "cohort",
)  # fmt: skip
"""The order in which a verdict goes through the scores."""

BY_STRICTNESS: Final = (
    "grouped", "acquisition-merged", "acquisition", "session", "deduplicated", "random",
)  # fmt: skip
"""By how much they keep from training, the strictest first."""

SEPARATING: Final = (
    "cohort", "site", "grouped", "session", "acquisition-merged", "acquisition",
)  # fmt: skip
"""Those that keep cohorts, patients or slides apart, the strictest first."""

JUDGED: Final = (("grouped",), ("acquisition-merged", "acquisition"))
"""Protocols that a verdict rests on: patients where they were held out, else clusters."""

VOUCHING: Final = (
    "deduplicated", "grouped", "site", "cohort", "session", "acquisition", "acquisition-merged",
    "random", "given",
)  # fmt: skip
"""By how well their out-of-fold probabilities speak for or against a label, the best first."""


def base_name(protocol: str) -> str:
    """The protocol that a point of the curve over the number of clusters belongs to.

    >>> base_name("acquisition-k48"), base_name("grouped")
    ('acquisition', 'grouped')
    """
    return protocol.partition("-k")[0]


def strictest(protocols: Iterable[str]) -> str | None:
    """Which of the protocols holds out the largest real unit; None where there is none.

    Patients come before acquisition clusters, which are a proxy, these before sessions, on which no
    verdict rests, and these before images.

    >>> strictest(["random", "acquisition", "grouped"]), strictest([])
    ('grouped', None)
    """
    known = set(protocols)
    return next((name for name in BY_STRICTNESS if name in known), None)


def promised_protocol(protocols: Iterable[str]) -> str | None:
    """Whose test images calibrate a bundle: those of the strictest protocol that was run.

    >>> promised_protocol(["random", "given"]), promised_protocol(["given"])
    ('random', 'given')
    """
    known = set(protocols)
    own = (name for name in ("cohort", "site", "given") if name in known)
    return strictest(known) or next(own, None)


def promised_unit(protocol: str) -> str:
    """For what kind of new image such a bundle is calibrated, by what it is an image of.

    The other protocols hold single images out, of patients and slides that are trained on.

    >>> promised_unit("grouped"), promised_unit("deduplicated")
    ('patient', 'image')
    """
    found = PROTOCOLS[protocol]
    return found.unit if found.whole_units else "image"


def holds_out_units(protocol: str, unit: str) -> bool:
    """Whether a test part consists of whole units (patients, clusters) of this kind.

    >>> holds_out_units("acquisition-k48", "acquisition cluster"), holds_out_units("given", "x")
    (True, False)
    """
    found = PROTOCOLS.get(base_name(protocol))
    if found is None:
        return False
    if found.whole_units:
        return unit == found.unit
    return by_column(found) and unit == "patient"


def by_column(protocol: Protocol) -> bool:
    """Whether each value of a column of the manifest is tested once, as a fold of its own.

    >>> by_column(PROTOCOLS["cohort"]), by_column(PROTOCOLS["session"])
    (True, False)
    """
    return protocol.own_parts and bool(protocol.column)


def protocol_title(name: str) -> str:
    """A protocol's name for readers; variants such as ``acquisition-k48`` name their number.

    >>> protocol_title("random"), protocol_title("acquisition-k48"), protocol_title("mine")
    ('Random split', 'Acquisition clusters held out (48)', 'mine')
    """
    if name in WORDS:
        return WORDS[name].title
    stem, _, clusters = name.rpartition("-k")
    if stem in WORDS and clusters.isdigit():
        return f"{WORDS[stem].title} ({clusters})"
    return name


def protocol_rank(name: str) -> int:
    """Place of a protocol from the mildest (0) to the harshest; unknown ones come last.

    >>> protocol_rank("random") < protocol_rank("acquisition-merged") < protocol_rank("mine")
    True
    """
    return list(WORDS).index(name) if name in WORDS else len(WORDS)
