"""Class names: what the known ones stand for, and how published folder names map to them.

Any other name is a class of its own (:func:`open_name`), whose role the user may state. In the
4-class ALL set *Benign* means hematogones (benign B-cell precursors), not healthy blood; Early,
Pre and Pro are B-cell maturation stages of the leukemia. Known classes come in the order of
:data:`CLASSES`, others after them by name; never in the order of folders.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from leukoscope.core.errors import UnknownNameError

Role = Literal["malignant", "benign", "healthy", "other"]
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
    {info.name: info for info in (*_ALL_TYPES, *_DIAGNOSES, *_BLASTS, *_CELLS)}
)
"""Every known class, in the order of tables and figures."""

_OF_ALL_SETS = frozenset(info.name for info in _ALL_TYPES)
CLASSES_OF_ALL_SETS = _OF_ALL_SETS
"""Classes of the public ALL sets, whose roles are all known."""
_MISTAKABLE = 5  # letters from which a name can be taken for a misspelling of another


def _normalise(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


_BY_ALIAS = {
    alias: info.name
    for info in reversed(CLASSES.values())  # an alias of the ALL sets wins
    for alias in (_normalise(info.name), *info.aliases)
}


def open_name(text: str) -> str:
    """A class's own name, as files write it: lower case, words joined by ``_``.

    >>> open_name("Hairy cell (HCL)"), open_name("--")
    ('hairy_cell_hcl', '')
    """
    return _normalise(text).replace(" ", "_")


def resolve_class(text: str, overrides: Mapping[str, str] | None = None) -> str | None:
    """The known class of a folder or column value, or the user's; None for any other name.

    Args:
        text: A published name such as ``[Malignant] early Pre-B`` or ``HEM``.
        overrides: The user's own mapping from such names to class names, known or new.

    >>> resolve_class("[Malignant] early Pre-B"), resolve_class("HEM"), resolve_class("cat")
    ('early_pre_b', 'healthy', None)
    """
    key = _normalise(text)
    for given, name in (overrides or {}).items():
        if _normalise(given) == key:
            return open_name(name)
    return _BY_ALIAS.get(key)


def resolve_classes(
    texts: Iterable[str], overrides: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The class of each class name of one data set; a name that is not known is its own class.

    ``blast``, ``leukemia`` and ``malignant`` mean ALL only beside classes of the public ALL sets:
    beside cell types or other leukemias they are classes of their own.

    >>> resolve_classes(["blast", "HEM"]), resolve_classes(["blast", "monocyte", "Hairy cell"])
    ({'blast': 'all', 'HEM': 'healthy'}, {'blast': 'blast', 'monocyte': 'monocyte', 'Hairy cell': \
'hairy_cell'})

    Args:
        texts: Names that are already known to name classes; one without a letter or a digit is
            left out.
        overrides: As in :func:`resolve_class`.
    """
    found = {text: resolve_class(text, overrides) or open_name(text) for text in texts}
    known = {name for name in found.values() if name in CLASSES}
    only = all(name in _OF_ALL_SETS for name in found.values())
    if only or (len(known) > 1 and known <= _OF_ALL_SETS):  # a stray folder renames no class
        return {text: name for text, name in found.items() if name}
    chosen = {_normalise(given) for given in overrides or {}}
    own = {"blast": "blast", "blasts": "blast", "leukaemia": "leukemia"}
    result = {}
    for text, name in found.items():
        key = _normalise(text)
        loose = name == "all" and key != "all" and key not in chosen
        result[text] = own.get(key, open_name(text)) if loose else name
    return {text: name for text, name in result.items() if name}


def near_miss(text: str) -> str | None:
    """The known class that a name looks like a misspelling of, or None.

    >>> near_miss("eosinofil"), near_miss("eosinophil"), near_miss("cat")
    ('eosinophil', None, None)
    """
    key = _normalise(text)
    if key in _BY_ALIAS or len(key) < _MISTAKABLE:
        return None
    known = [alias for alias in _BY_ALIAS if len(alias) >= _MISTAKABLE]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    return _BY_ALIAS[close[0]] if close else None


def check_roles(roles: Mapping[str, str], class_names: Iterable[str]) -> dict[str, Role]:
    """The user's roles, if each names a role and a class of the data.

    Raises:
        UnknownNameError: There is no such class, or no such role.

    >>> check_roles({"apl": "malignant"}, ["aml", "apl"])
    {'apl': 'malignant'}
    """
    names = tuple(class_names)
    result: dict[str, Role] = {}
    for name, role in roles.items():
        found = resolve_class(name) or open_name(name)
        found = found if found in names else open_name(name)
        if found not in names:
            raise UnknownNameError("class", name, names)
        known = [one for one in ROLES if one == role]
        if not known:
            raise UnknownNameError("role", role, ROLES)
        result[found] = known[0]
    return result


def role_of(name: str, roles: Mapping[str, Role] | None = None) -> Role | None:
    """What a class stands for: as the user says, else as :data:`CLASSES` says; None if unknown.

    >>> role_of("apl"), role_of("promyelocyte"), role_of("promyelocyte", {"promyelocyte": "benign"})
    ('malignant', None, 'benign')
    """
    if roles and name in roles:
        return roles[name]
    return CLASSES[name].role if name in CLASSES else None


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names: the known ones in the canonical order, then the others by name.

    >>> order_classes(["zebra", "pro_b", "benign", "pro_b", "aml"])
    ('benign', 'pro_b', 'aml', 'zebra')
    """
    wanted = set(names)
    known = tuple(name for name in CLASSES if name in wanted)
    return (*known, *sorted(wanted.difference(known)))


def class_title(name: str) -> str:
    """A class's name for readers.

    >>> class_title("pro_b"), class_title("hairy_cell")
    ('Pro-B ALL', 'hairy cell')
    """
    return CLASSES[name].title if name in CLASSES else name.replace("_", " ")


def class_description(name: str) -> str:
    """One sentence on a known class; empty for any other.

    >>> class_description("apl"), class_description("hairy_cell")
    ('Acute promyelocytic leukemia.', '')
    """
    return CLASSES[name].description if name in CLASSES else ""


def malignant_mask(
    class_names: Iterable[str], roles: Mapping[str, Role] | None = None
) -> list[bool] | None:
    """For each class whether it is malignant.

    Returns:
        None where the role of a class is unknown, and where all stand on one side.

    >>> malignant_mask(["benign", "pro_b"]), malignant_mask(["aml", "apl"])
    ([False, True], None)
    """
    found = [role_of(name, roles) for name in class_names]
    mask = [role == "malignant" for role in found]
    return mask if all(found) and any(mask) and not all(mask) else None
