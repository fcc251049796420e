"""The known classes: diagnoses, blasts, and cells of blood and marrow, with titles and roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Role = Literal["malignant", "benign", "healthy", "other"]
Roles = Mapping[str, Role]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class ClassInfo:
    """What a class name stands for.

    Attributes:
        name: As in every file.
        title: Name for figures and pages.
        role: ``malignant``, ``benign`` (reactive or precursor cells), ``healthy`` or ``other``
            (no leukocyte, or not to be judged); None where the name alone does not say.
        description: One sentence for readers who are not haematologists.
        aliases: Other published names, in lower case, words separated by one space.
    """

    name: str
    title: str
    role: Role | None = None
    description: str = ""
    aliases: tuple[str, ...] = ()


_ALL_TYPES = (
    ClassInfo(
        "healthy",
        "Healthy",
        "healthy",
        "Leukocytes of subjects without leukemia.",
        ("normal", "hem", "control"),
    ),
    ClassInfo(
        "benign",
        "Benign (hematogones)",
        "benign",
        "Hematogones: benign B-cell precursors that can be mistaken for lymphoblasts.",
        ("hematogone", "hematogones", "haematogones"),
    ),
    ClassInfo(
        "early_pre_b",
        "Early pre-B ALL",
        "malignant",
        "Acute lymphoblastic leukemia whose blasts are arrested at the early pre-B stage.",
        ("early", "early pre b all", "malignant early", "malignant early pre b"),
    ),
    ClassInfo(
        "pre_b",
        "Pre-B ALL",
        "malignant",
        "Acute lymphoblastic leukemia whose blasts are arrested at the pre-B stage.",
        ("pre", "pre b all", "malignant pre", "malignant pre b"),
    ),
    ClassInfo(
        "pro_b",
        "Pro-B ALL",
        "malignant",
        "Acute lymphoblastic leukemia whose blasts are arrested at the pro-B stage.",
        ("pro", "pro b all", "malignant pro", "malignant pro b"),
    ),
    ClassInfo(
        "all",
        "ALL",
        "malignant",
        "Acute lymphoblastic leukemia, maturation stage not given.",
        ("leukemia", "leukaemia", "blast", "blasts", "malignant"),
    ),
)
"""The classes of the public ALL sets, where *blast* can only be a lymphoblast of ALL."""

_DIAGNOSES = (
    ClassInfo(
        "b_all",
        "B-ALL",
        "malignant",
        "Acute lymphoblastic leukemia of B-cell lineage.",
        ("ball", "b cell all"),
    ),
    ClassInfo(
        "t_all",
        "T-ALL",
        "malignant",
        "Acute lymphoblastic leukemia of T-cell lineage.",
        ("tall", "t cell all"),
    ),
    ClassInfo(
        "aml",
        "AML",
        "malignant",
        "Acute myeloid leukemia (where APL is a class of its own: other than APL).",
        ("acute myeloid leukemia", "acute myeloid leukaemia", "acute myelogenous leukemia"),
    ),
    ClassInfo(
        "apl",
        "APL",
        "malignant",
        "Acute promyelocytic leukemia.",
        ("acute promyelocytic leukemia", "acute promyelocytic leukaemia", "aml m3", "apml"),
    ),
    ClassInfo(
        "cll",
        "CLL",
        "malignant",
        "Chronic lymphocytic leukemia.",
        ("chronic lymphocytic leukemia", "chronic lymphocytic leukaemia"),
    ),
    ClassInfo(
        "cml",
        "CML",
        "malignant",
        "Chronic myeloid leukemia.",
        ("chronic myeloid leukemia", "chronic myeloid leukaemia", "chronic myelogenous leukemia"),
    ),
    ClassInfo(
        "mds",
        "MDS",
        "malignant",
        "Myelodysplastic neoplasm.",
        ("myelodysplastic syndrome", "myelodysplastic neoplasm"),
    ),
    ClassInfo(
        "myeloma",
        "Myeloma",
        "malignant",
        "Plasma cell myeloma.",
        ("multiple myeloma", "plasma cell myeloma", "mm"),
    ),
)

_BLASTS = (
    ClassInfo(
        "blast",
        "Blast",
        "malignant",
        "Blast whose lineage is not given.",
        (
            "bl",
            "blast cell",
            "blast cells",
            "blast no lineage spec",
            "blast no lineage specified",
        ),
    ),
    ClassInfo(
        "myeloblast",
        "Myeloblast",
        "malignant",
        "Blast of myeloid lineage.",
        ("myo", "myeloblasts"),
    ),
    ClassInfo(
        "lymphoblast",
        "Lymphoblast",
        "malignant",
        "Blast of lymphoid lineage.",
        ("lymphoblasts",),
    ),
    ClassInfo(
        "monoblast",
        "Monoblast",
        "malignant",
        "Blast of monocytic lineage.",
        ("mob", "monoblasts"),
    ),
    ClassInfo(
        "promonocyte",
        "Promonocyte",
        "malignant",
        "Precursor of monocytes, counted with the blasts.",
        ("promonocytes",),
    ),
)

_UNSPECIFIED = (
    ClassInfo(
        "leukemia",
        "Leukemia",
        "malignant",
        "Leukemia, type not given.",
        ("leukaemia",),
    ),
    ClassInfo(
        "malignant_cell",
        "Malignant",
        "malignant",
        "Malignant cells, kind not given.",
        ("malignant cells",),
    ),
    ClassInfo(
        "benign_cell",
        "Benign",
        "benign",
        "Benign cells, kind not given.",
        ("benign cells",),
    ),
)
"""What ``leukemia``, ``malignant`` and ``benign`` mean beside classes of other sets."""

_CELLS = (
    ClassInfo(
        "promyelocyte",
        "Promyelocyte",
        None,
        "Precursor of granulocytes: reactive in many smears, the leukemic cell of APL.",
        ("promyelocytes", "pmo", "pmy"),
    ),
    ClassInfo(
        "bilobed_promyelocyte",
        "Bilobed promyelocyte",
        "malignant",
        "Promyelocyte with a bilobed nucleus, the microgranular form of APL.",
        ("promyelocyte bilobed", "promyelocyte bilobled", "pmb"),
    ),
    ClassInfo(
        "myelocyte",
        "Myelocyte",
        "benign",
        "Precursor of granulocytes.",
        ("myelocytes", "myb", "my"),
    ),
    ClassInfo(
        "metamyelocyte",
        "Metamyelocyte",
        "benign",
        "Precursor of granulocytes, after the myelocyte.",
        ("metamyelocytes", "mmz", "mmy"),
    ),
    ClassInfo(
        "immature_granulocyte",
        "Immature granulocyte",
        "benign",
        "Promyelocyte, myelocyte or metamyelocyte.",
        ("immature granulocytes", "ig"),
    ),
    ClassInfo(
        "band_neutrophil",
        "Band neutrophil",
        "healthy",
        "Neutrophil whose nucleus is not yet segmented.",
        ("band neutrophils", "neutrophil band", "ngb", "bne"),
    ),
    ClassInfo(
        "segmented_neutrophil",
        "Segmented neutrophil",
        "healthy",
        "Mature neutrophil.",
        ("segmented neutrophils", "neutrophil segmented", "seg neutrophil", "ngs", "sne"),
    ),
    ClassInfo(
        "neutrophil",
        "Neutrophil",
        "healthy",
        "Neutrophil, band or segmented.",
        ("neutrophils",),
    ),
    ClassInfo(
        "eosinophil",
        "Eosinophil",
        "healthy",
        "Eosinophil granulocyte.",
        ("eosinophils", "eos", "eo"),
    ),
    ClassInfo(
        "basophil",
        "Basophil",
        "healthy",
        "Basophil granulocyte.",
        ("basophils", "bas", "ba"),
    ),
    ClassInfo(
        "monocyte",
        "Monocyte",
        "healthy",
        "Mature monocyte.",
        ("monocytes", "mon", "mo"),
    ),
    ClassInfo(
        "lymphocyte",
        "Lymphocyte",
        "healthy",
        "Mature lymphocyte.",
        ("lymphocytes", "lymphocyte typical", "lyt", "ly"),
    ),
    ClassInfo(
        "variant_lymphocyte",
        "Variant lymphocyte",
        "benign",
        "Reactive (atypical) lymphocyte.",
        (
            "lymphocyte variant",
            "variant lymphocytes",
            "lymphocyte atypical",
            "atypical lymphocyte",
            "reactive lymphocyte",
            "lya",
            "vly",
        ),
    ),
    ClassInfo(
        "prolymphocyte",
        "Prolymphocyte",
        "malignant",
        "Immature lymphocyte of a lymphoid leukemia.",
        ("prolymphocytes", "ply"),
    ),
    ClassInfo(
        "plasma_cell",
        "Plasma cell",
        "benign",
        "Antibody-producing B cell.",
        ("plasma cells", "plasmocyte", "pc"),
    ),
    ClassInfo(
        "erythroblast",
        "Erythroblast",
        "benign",
        "Nucleated red cell (normoblast).",
        ("erythroblasts", "normoblast", "nrbc", "ebo"),
    ),
    ClassInfo(
        "thrombocyte",
        "Thrombocyte",
        "healthy",
        "Platelet.",
        ("thrombocytes", "platelet", "platelets"),
    ),
    ClassInfo(
        "giant_thrombocyte",
        "Giant thrombocyte",
        "other",
        "Platelet as large as a red cell or larger.",
        ("giant thrombocytes", "giant platelet", "giant platelets"),
    ),
    ClassInfo(
        "thrombocyte_aggregate",
        "Thrombocyte aggregate",
        "other",
        "Clump of platelets.",
        ("thrombocyte aggregation", "platelet clump", "platelet aggregation"),
    ),
    ClassInfo(
        "smudge_cell",
        "Smudge cell",
        "other",
        "Cell crushed when the smear was made.",
        ("smudge cells", "smudge", "ksc", "gumprecht"),
    ),
    ClassInfo(
        "artefact",
        "Artefact",
        "other",
        "No cell: stain precipitate, dirt, a fold of the smear.",
        ("artefacts", "artifact", "artifacts", "art"),
    ),
)

CLASSES: Mapping[str, ClassInfo] = MappingProxyType(
    {info.name: info for info in (*_ALL_TYPES, *_DIAGNOSES, *_UNSPECIFIED, *_BLASTS, *_CELLS)}
)
"""Every known class, in the order of tables and figures."""

DIAGNOSES = frozenset(info.name for info in _DIAGNOSES)
"""Classes that are diagnoses and nothing else: no single cell is called so."""

CLASSES_OF_ALL_SETS = frozenset(info.name for info in _ALL_TYPES)
"""Classes of the public ALL sets, whose roles are all known."""
