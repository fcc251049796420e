"""Class names: what the known ones stand for, and how published folder names map to them.

Any other name is a class of its own (:func:`open_name`), whose role the user may state. In the
4-class ALL set *Benign* means hematogones (benign B-cell precursors), not healthy blood; Early,
Pre and Pro are B-cell maturation stages of the leukemia. Known classes come in the order of
:data:`CLASSES`, others after them by name; never in the order of folders.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from leukoscope.core.errors import UnknownNameError

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

CLASSES_OF_ALL_SETS = frozenset(info.name for info in _ALL_TYPES)
"""Classes of the public ALL sets, whose roles are all known."""
_BESIDE_OTHERS = {
    "blast": "blast",
    "blasts": "blast",
    "leukemia": "leukemia",
    "leukaemia": "leukemia",
    "malignant": "malignant_cell",
    "benign": "benign_cell",
    "early": "early",
    "pre": "pre",
    "pro": "pro",
}
"""What the short names of the ALL sets mean beside any other class."""
_NAMED = 5  # names in a sentence
_MISTAKABLE = 5  # letters from which a name can be taken for a misspelling of another


def _normalise(text: str) -> str:
    """Letters and digits of any script, in lower case, words separated by one space."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


_BY_ALIAS = {
    alias: info.name
    for info in reversed(tuple(CLASSES.values()))  # an alias of the ALL sets wins
    for alias in (_normalise(info.name), *info.aliases)
}


def open_name(text: str) -> str:
    """A class's own name, as files write it: lower case, words joined by ``_``.

    ``malignant`` is taken: ``recall_malignant`` and ``p_malignant`` sum over all such classes.

    >>> open_name("Hairy cell (HCL)"), open_name("--"), open_name("Malignant")
    ('hairy_cell_hcl', '', 'malignant_cell')
    """
    name = _normalise(text).replace(" ", "_")
    return "malignant_cell" if name == "malignant" else name


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

    Words such as ``blast``, ``malignant`` and ``early`` mean ALL, ``benign`` hematogones, only in a
    set that has no other classes than the public ALL sets have: beside cell types or other
    leukemias they are classes of their own.

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
    only = all(name in CLASSES_OF_ALL_SETS for name in found.values())
    if only or (len(known) > 1 and known <= CLASSES_OF_ALL_SETS):  # a stray folder renames no class
        return {text: name for text, name in found.items() if name}
    chosen = {_normalise(given) for given in overrides or {}}
    result = {}
    for text, name in found.items():
        key = _normalise(text)
        result[text] = name if key in chosen else _BESIDE_OTHERS.get(key, name)
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


def match_class(
    text: str, class_names: Iterable[str], overrides: Mapping[str, str] | None = None
) -> str | None:
    """Which of some classes a name means; None if it means none of them.

    >>> match_class("HEM", ["healthy", "all"]), match_class("Blasts", ["blast", "hairy_cell"])
    ('healthy', 'blast')
    >>> match_class("Hairy cell", ["blast", "hairy_cell"]), match_class("cat", ["blast"])
    ('hairy_cell', None)

    Args:
        text: A name as a person, a file or another program writes it.
        class_names: Of a data set or a model.
        overrides: As in :func:`resolve_class`.
    """
    names, key = set(class_names), _normalise(text)
    if any(_normalise(given) == key for given in overrides or {}):
        readings = [resolve_class(text, overrides)]
    else:
        readings = [text.strip(), _BESIDE_OTHERS.get(key), open_name(text), resolve_class(text)]
    return next((name for name in readings if name in names), None)


def named_class(text: str) -> str:
    """The class that a person names: as files write it, else by an alias, else a class of its own.

    >>> named_class("Hairy cell"), named_class("blast"), named_class("HEM")
    ('hairy_cell', 'blast', 'healthy')
    """
    name = open_name(text)
    return name if name in CLASSES else resolve_class(text) or name


def named_roles(roles: Mapping[str, str]) -> dict[str, Role]:
    """The roles that a user states before the data is read, by class name.

    >>> named_roles({"Hairy cell": "malignant"})
    {'hairy_cell': 'malignant'}

    Raises:
        UnknownNameError: There is no such role.
    """
    return {named_class(name): _role(role) for name, role in roles.items()}


def check_roles(roles: Mapping[str, str], class_names: Iterable[str]) -> dict[str, Role]:
    """The user's roles, if each names a role and a class of the data.

    Raises:
        UnknownNameError: There is no such class, or no such role; names those that there are.

    >>> check_roles({"APL": "malignant"}, ["aml", "apl"])
    {'apl': 'malignant'}
    """
    names, result = order_classes(class_names), dict[str, Role]()
    for name, role in roles.items():
        found = match_class(name, names)
        if found is None:
            raise UnknownNameError("class", open_name(name) or name, names)
        result[found] = _role(role)
    return result


def _role(text: str) -> Role:
    known = [role for role in ROLES if role == text.strip().casefold()]
    if not known:
        raise UnknownNameError("role", text, ROLES)
    return known[0]


def role_of(name: str, roles: Roles | None = None) -> Role | None:
    """What a class stands for: as the user says, else as :data:`CLASSES` says; None if unknown.

    >>> role_of("apl"), role_of("promyelocyte"), role_of("promyelocyte", {"promyelocyte": "benign"})
    ('malignant', None, 'benign')
    """
    if roles and name in roles:
        return roles[name]
    return CLASSES[name].role if name in CLASSES else None


def roles_of(class_names: Iterable[str], roles: Roles | None = None) -> dict[str, Role]:
    """The roles that are known, stated or not, to be kept with a model.

    >>> roles_of(["benign", "hairy_cell", "cat"], {"hairy_cell": "malignant"})
    {'benign': 'benign', 'hairy_cell': 'malignant'}
    """
    found = {name: role_of(name, roles) for name in class_names}
    return {name: role for name, role in found.items() if role is not None}


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


def malignant_mask(class_names: Iterable[str], roles: Roles | None = None) -> list[bool] | None:
    """For each class whether it is malignant.

    Returns:
        None where the role of a class is unknown, and where all stand on one side.

    >>> malignant_mask(["benign", "pro_b"]), malignant_mask(["aml", "apl"])
    ([False, True], None)
    """
    found = [role_of(name, roles) for name in class_names]
    mask = [role == "malignant" for role in found]
    return mask if all(found) and any(mask) and not all(mask) else None


def without_sides(class_names: Iterable[str], roles: Roles | None = None) -> str:
    """Why there is no P(malignant), where :func:`malignant_mask` gives None.

    >>> without_sides(["aml", "hairy_cell"])
    'it is not known what hairy cell stands for (--role CLASS=ROLE says it)'
    >>> without_sides(["aml", "apl"])
    'the classes do not divide into malignant and others'
    """
    unknown = [class_title(name) for name in class_names if role_of(name, roles) is None]
    if unknown:
        few = ", ".join(unknown[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        verb = "stands" if len(unknown) == 1 else "stand"
        return f"it is not known what {few}{more} {verb} for (--role CLASS=ROLE says it)"
    return "the classes do not divide into malignant and others"
