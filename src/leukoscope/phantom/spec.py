"""What to render, and which image belongs to which class, patient and session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from leukoscope.core.errors import ConfigError
from leukoscope.phantom.artefacts import PIXEL_ARTEFACTS, STRENGTHS
from leukoscope.phantom.morphology import MORPHOLOGY, rule_of

Confound = Literal["none", "stain", "scale-bar"]
CONFOUNDERS: tuple[str, ...] = get_args(Confound)
NO_ARTEFACT = "none"

CLASS_FOLDERS: Mapping[str, str] = {
    "benign": "Benign",
    "early_pre_b": "Early",
    "pre_b": "Pre",
    "pro_b": "Pro",
}
"""Folder of each class, named as in the published four-class set."""


@dataclass(frozen=True)
class PhantomSpec:
    """A set of phantoms; equal specifications give equal bytes.

    Attributes:
        sessions: Number of slides or staining sessions, at most.
        confound: ``none``: class and background are independent. ``stain``: every session holds
            one class only. ``scale-bar``: the style of the scale bar follows the class.
        size_px: Width and height of a field.
        seed: Seed of every random stream.
        class_names: Classes to draw, in the order in which they take turns.
        patients: Number of patients; 0 stands for one of each class in each session.
        smears: Of each patient; 0 for images that belong to patients of one class alone. With
            smears there are three levels: a patient is healthy, with cells of the first class
            only, or has leukemia, with cells of the first class and of one other.
        artefact: Planted into every image of the first class: ``none``, or one of
            :data:`~leukoscope.phantom.artefacts.PIXEL_ARTEFACTS`.
        strength: Of the artefact, 1 to 3.
        noise: Factor on the camera noise of each session; 0 for the optical image alone.
    """

    images: int = 400
    sessions: int = 24
    confound: Confound = "none"
    size_px: int = 224
    seed: int = 0
    class_names: tuple[str, ...] = tuple(MORPHOLOGY)
    patients: int = 0
    smears: int = 0
    artefact: str = NO_ARTEFACT
    strength: int = 2
    noise: float = 1.0

    def __post_init__(self) -> None:
        for label in self.class_names:
            rule_of(label)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ConfigError(f"class_names: expected distinct classes, got {self.class_names}")
        if self.confound not in CONFOUNDERS:
            raise ConfigError(
                f"confound: expected one of {', '.join(CONFOUNDERS)}, got {self.confound!r}"
            )
        least = len(self.class_names)
        floors = {"images": least, "sessions": 1, "size_px": 96, "seed": 0}
        if self.confound == "stain":
            floors["sessions"] = least
        if self.patients:
            floors["patients"] = least
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise ConfigError(
                    f"{name}: expected at least {floor}, got {getattr(self, name)}",
                    hint="smaller fields would show no chromatin"
                    if name == "size_px"
                    else "every class needs an image, a patient and, with the stain confounder, "
                    "a session of its own",
                )
        if self.smears:
            self._check_levels()
        if self.artefact not in (NO_ARTEFACT, *PIXEL_ARTEFACTS):
            raise ConfigError(
                f"artefact: expected one of {NO_ARTEFACT}, {', '.join(PIXEL_ARTEFACTS)}, "
                f"got {self.artefact!r}"
            )
        if self.strength not in STRENGTHS:
            raise ConfigError(f"strength: expected 1, 2 or 3, got {self.strength}")
        if self.noise < 0:
            raise ConfigError(f"noise: expected at least 0, got {self.noise}")
        if self.size_px > 2048:
            raise ConfigError(f"size_px: expected at most 2048, got {self.size_px}")

    def _check_levels(self) -> None:
        """Whether patients, smears and cells fit together."""
        if self.confound != "none":
            raise ConfigError(
                f"smears: expected the confounder none beside them, got {self.confound}",
                hint="a confounder ties something to the class of an image, and with smears a "
                "patient has images of several",
            )
        if len(self.class_names) < 2:
            raise ConfigError("smears: expected two classes of cells or more")
        least = self.patients * self.smears
        if self.patients < 2 or self.smears < 0 or self.images < least:
            raise ConfigError(
                f"smears: expected at least 2 patients and an image for each of "
                f"{self.patients} × {self.smears} smears, got {self.images} images",
                hint="give --patients, --smears and enough --images",
            )


@dataclass(frozen=True)
class PhantomCase:
    """One image of the design, before it is drawn."""

    index: int  # number of the image from 0
    name: str  # file name without suffix
    label: str
    patient: int  # number of the patient from 0; without smears a patient has one class
    session: int  # number of the session from 0
    smear: int = -1  # number of the smear among those of all patients, or −1 without smears
    diagnosis: str = ""  # of the patient, with smears

    @property
    def smear_id(self) -> str:
        """The smear as files name it; empty without smears."""
        return f"smear-{self.smear + 1:03d}" if self.smear >= 0 else ""

    @property
    def patient_id(self) -> str:
        """The patient as files name it."""
        return f"patient-{self.patient + 1:03d}"

    @property
    def session_id(self) -> str:
        """The session as files name it."""
        return f"session-{self.session + 1:02d}"


def design_cases(spec: PhantomSpec) -> tuple[PhantomCase, ...]:
    """Class, patient and session of every image.

    Images take turns over the classes, and patients of a class over its images. Without the stain
    confounder each session takes one image of each class before the next begins, so that class and
    session are independent up to rounding; with it, session ``s`` holds images of class
    ``s mod K`` only. A patient's images come from several sessions: were they all of one, holding
    the patient out would leave the other classes of that session in training, and its background
    would tell which class it is not.

    With smears see :func:`_levels`.

    Returns:
        The cases in the order of their index.
    """
    if spec.smears:
        return _levels(spec)
    k = len(spec.class_names)
    patients = min(spec.patients or k * spec.sessions, spec.images)
    cases = []
    for index in range(spec.images):
        label = index % k
        own = len(range(label, patients, k))
        number = index // k
        turn = number % own
        first, step = (label, k) if spec.confound == "stain" else (0, 1)
        choices = range(first, spec.sessions, step)
        # Each round over the sessions begins elsewhere, so that a patient meets several of them.
        rounds = number // len(choices)
        session = choices[(number + rounds * (1 + len(choices) // 3)) % len(choices)]
        cases.append(
            PhantomCase(
                index,
                f"phantom-{index + 1:04d}",
                spec.class_names[label],
                label + k * turn,
                session,
            )
        )
    return tuple(cases)


def _levels(spec: PhantomSpec) -> tuple[PhantomCase, ...]:
    """Patients, their smears, and the cells of each smear.

    Every other patient has leukemia: three to nine cells in ten are of one class of blasts, the
    rest of the first class. Each smear was stained in one session, and a session has smears of
    both kinds of patients, so that it tells nothing of the diagnosis.
    """
    first, *blasts = spec.class_names
    labels: list[list[str]] = []
    for patient in range(spec.patients):
        own = len(range(patient, spec.images, spec.patients))
        ill = bool(patient % 2)
        rng = stream(spec, "design", patient)
        kind = blasts[patient // 2 % len(blasts)]
        n = max(1, round(own * rng.uniform(0.3, 0.9))) if ill else 0
        labels.append(rng.permutation([kind] * n + [first] * (own - n)).tolist())
    cases = []
    for index in range(spec.images):
        patient, turn = index % spec.patients, index // spec.patients
        smear = turn % spec.smears
        cases.append(
            PhantomCase(
                index,
                f"phantom-{index + 1:04d}",
                labels[patient][turn],
                patient,
                (patient // 2 * spec.smears + smear) % spec.sessions,
                patient * spec.smears + smear,
                "all" if patient % 2 else "healthy",
            )
        )
    return tuple(cases)


_Stream = Literal["session", "background", "leukocytes", "patient", "artefact", "design"]
_STREAMS: tuple[str, ...] = get_args(_Stream)


def stream(spec: PhantomSpec, kind: _Stream, number: int) -> np.random.Generator:
    """The random stream of the sessions, of one patient, or of one layer of one image.

    Streams are children of one seed sequence, so that no image depends on the order in which
    images are drawn, and the background never sees a number that the class has touched.
    """
    key = (_STREAMS.index(kind), number)
    return np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key))
