"""What all forms share: the class, how a line is written in YAML, codes, further keys."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from cds.terminology import SYSTEMS, CodeEntry, Terminology
from cds.yamlmodel import nearest

__all__ = [
    "TERMINOLOGY",
    "Form",
    "Json",
    "coding",
    "concept",
    "entries_of",
    "first_code",
    "named",
    "no_more",
    "one_of",
    "resource_id",
    "scalar",
    "words_after",
]

Json = dict[str, Any]

TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_CODE: Final = re.compile(r"(?P<system>[A-Za-z][\w-]*)#(?P<code>\S+)", re.ASCII)
# Plain YAML scalars that mean what they look like; all others are put in quotes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9(][\w .,;:/#()\[\]{}<>=+*%'^-]*", re.ASCII)
_NOT_PLAIN: Final = re.compile(r": |:$| #| $|^(?:-?[0-9]+(?:\.[0-9]+)?|true|false|null)$")


@dataclass(frozen=True, slots=True)
class Form(ABC):
    """One statement about the patient of a case; see the subclasses."""

    key: ClassVar[str] = ""

    @abstractmethod
    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case: its key and text, and further keys."""

    @abstractmethod
    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the FHIR R4B resources that say this.

        Args:
            terminology: what the named analytes and value sets are.
            as_of: the instant of judgment, seconds since the epoch.
            id_: id of the first resource; further ones add a letter.
            subject: the patient's reference.

        Raises: ValueError where the terminology has no such name, code or unit.
        """

    def line(self) -> str:
        """Return the statement as it stands in a case file, in YAML."""
        entries = self.entry()
        if len(entries) == 1:
            return "".join(f"- {key}: {scalar(text)}" for key, text in entries.items())
        inner = ", ".join(f"{key}: {scalar(text, flow=True)}" for key, text in entries.items())
        return "- {" + inner + "}"


def scalar(text: str, *, flow: bool = False) -> str:
    """Write text as a YAML scalar of one line, in quotes where it must be.

    `flow`: it is to stand inside ``{}`` or ``[]``.

    >>> scalar("potassium 2.4 mmol/L"), scalar("no: twitch"), scalar("3.5")
    ('potassium 2.4 mmol/L', '"no: twitch"', '"3.5"')
    """
    special = flow and not set(",[]{}").isdisjoint(text)
    if _PLAIN.fullmatch(text) and not special and not _NOT_PLAIN.search(text):
        return text
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


# ---------------------------------------------------------------- codes


def coding(system: str, code: str, display: str = "") -> Json:
    """Return a CodeableConcept of one code."""
    one = {"system": system, "code": code}
    return {"coding": [{**one, "display": display} if display else one]}


def named(what: str) -> tuple[str, str] | None:
    """Return system (a URI) and code of ``SYSTEM#code``, or None for an id.

    Raises: ValueError for a code system that is not known.
    """
    match = _CODE.fullmatch(what)
    if match is None:
        if "#" in what:
            raise ValueError(f"'{what}' is not a code; write SYSTEM#code, as in SNOMED#82470000")
        return None
    name = match["system"].lower()
    if name not in SYSTEMS:
        known = ", ".join(each.upper() for each in SYSTEMS)
        hint = nearest(name, SYSTEMS) or f"; use one of {known}"
        raise ValueError(f"there is no code system '{match['system']}'{hint}")
    return SYSTEMS[name], match["code"]


def concept(what: str, words: str, kinds: tuple[str, ...], terminology: Terminology) -> Json:
    """Return the CodeableConcept of a code, or of the first code of a value set.

    Raises: ValueError where there is no such value set, or it is of another kind.
    """
    code = named(what)
    if code is not None:
        return coding(*code, words)
    entry = first_code(what, kinds, terminology)
    if entry is None:
        raise ValueError(
            f"value set '{what}' has no code, only answers to questions; say it as seen ('now', "
            "'2 days ago'), or give a FHIR file"
        )
    return coding(SYSTEMS[entry.system], entry.code, entry.display)


def first_code(name: str, kinds: tuple[str, ...], terminology: Terminology) -> CodeEntry | None:
    """Return the first code of a value set, or of the nearest one that it includes."""
    return next((entries[0] for _, entries in entries_of(name, kinds, terminology)), None)


def entries_of(
    name: str, kinds: tuple[str, ...], terminology: Terminology
) -> Iterator[tuple[str, tuple[CodeEntry, ...]]]:
    """Yield a value set with its codes, or, where it has none of its own, those that it includes.

    Raises: ValueError where there is no such value set, or it is of another kind.
    """
    value_set = terminology.value_sets.get(name)
    if value_set is None:
        of_kind = [n for n, v in terminology.value_sets.items() if v.kind in kinds]
        raise ValueError(f"there is no value set '{name}'{nearest(name, of_kind)}")
    if value_set.kind not in kinds:
        wanted = " or ".join(kinds)
        raise ValueError(f"value set '{name}' is of kind {value_set.kind}, not {wanted}")
    waiting, seen = [name], {name}
    while waiting:
        each = terminology.value_sets[waiting.pop(0)]
        if each.codes:
            yield each.id, each.codes
        elif each.uncoded:
            yield each.id, (CodeEntry(system="concept", code=each.id, display=each.name),)
        else:
            new = [inner for inner in each.includes if inner not in seen]
            waiting += new
            seen.update(new)


def resource_id(id_: str, number: int) -> str:
    """Return the id of the first (0) resource of a line, or of a further one: a letter is added.

    >>> resource_id("r1", 0), resource_id("r1", 1)
    ('r1', 'r1b')
    """
    letters = ""
    while number:
        number, place = divmod(number, 26)
        letters = "abcdefghijklmnopqrstuvwxyz"[place] + letters
    return id_ + letters


# ---------------------------------------------------------------- checks


def no_more(more: Mapping[str, str], key: str, allowed: tuple[str, ...] = ()) -> None:
    """Refuse further keys that a line has not. Raises: ValueError with the nearest known."""
    for name in more:
        if name not in allowed:
            known = f"; use {', '.join(allowed)}" if allowed else "; it has no further keys"
            hint = nearest(name, allowed) or known
            raise ValueError(f"unknown key '{name}' beside '{key}'{hint}")


def one_of(name: str, word: str, words: Iterable[str]) -> None:
    """Refuse a word that FHIR's list has not. Raises: ValueError with the nearest known."""
    known = tuple(words)
    if word and word not in known:
        hint = nearest(word, known)
        raise ValueError(f"{name} '{word}' is none of {', '.join(known)}{hint}")


def words_after(what: str, words: str, said: str) -> None:
    """Refuse words where an id is named. Raises: ValueError with the line `said`."""
    if words and "#" not in what:
        raise ValueError(
            f"'{said}' is not understood after '{what}': words may stand only after a code such "
            "as SNOMED#82470000, and a time only at the end ('2 days ago', 'for 20 days', "
            "'since 2026-10')"
        )
