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

from leukoscope.core.errors import UnknownNameError
from leukoscope.core.known_classes import CLASSES, CLASSES_OF_ALL_SETS, ROLES, Role, Roles

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
