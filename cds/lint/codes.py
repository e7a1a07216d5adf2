"""Validators CDS201 to CDS209: codes, their check digits and names, and units.

What a code of each system looks like, and how its check digit is computed, is handling of code
systems and stands here; which codes count stands in `valuesets/` and `analytes.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cds.lint.loading import faults
from cds.lint.registry import Spot, validator
from cds.lint.subject import SourceFile, Subject
from cds.terminology import SYSTEMS, canonical_system

__all__ = ["loinc_digit", "snomed_digit_holds"]

_SHAPES: Final = {
    "loinc": (re.compile(r"(LP|LA)?\d{1,7}-\d"), "2823-3, LA33-6"),
    # SNOMED CT identifiers have 6 to 18 digits, none of them a leading zero.
    "snomed": (re.compile(r"[1-9]\d{5,17}"), "82470000"),
    "rxnorm": (re.compile(r"[1-9]\d{0,7}"), "4603"),
    # A letter, a digit, a letter or digit; after the dot up to four letters or digits.
    "icd10cm": (re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?"), "G12.21"),
    "hpo": (re.compile(r"HP:\d{7}"), "HP:0002380"),
    "mondo": (re.compile(r"MONDO:\d{7}"), "MONDO:0004976"),
}
_SHORT: Final = {uri: name for name, uri in SYSTEMS.items()}
# What LOINC calls the property in a display, and the `property` that belongs to it.
_PROPERTIES: Final = {
    "[Mass/volume]": "mass",
    "[Moles/volume]": "substance",
    "[Enzymatic activity/volume]": "catalytic",
}


@dataclass(frozen=True)
class _Code:
    """One coding in a file; `system` is its short name where it is known, `owner` whose it is."""

    file: SourceFile
    line: int
    owner: str
    system: str
    code: str
    display: str
    entry: dict[str, Any]


def _codes(subject: Subject) -> Iterator[_Code]:
    """Yield every coding of value sets, answers, analytes and card texts."""
    for file in subject.of_kind("valuesets", "analytes", "cards"):
        default = "loinc" if file.kind == "analytes" else ""
        for place, owner, entry in _codings(file.data, (), ""):
            system = entry.get("system", default)
            if isinstance(system, str) and isinstance(entry["code"], str):
                short = _SHORT.get(canonical_system(system), system)
                display = entry.get("display")
                shown = display if isinstance(display, str) else ""
                yield _Code(file, file.line(*place), owner, short, entry["code"], shown, entry)


def _codings(
    data: Any, place: tuple[str | int, ...], owner: str
) -> Iterator[tuple[tuple[str | int, ...], str, dict[str, Any]]]:
    if isinstance(data, list):
        for number, item in enumerate(data):
            yield from _codings(item, (*place, number), owner)
    elif isinstance(data, dict):
        owner = str(data.get("id", owner))
        if "code" in data and not isinstance(data["code"], dict):
            yield place, owner, data
        for key, item in data.items():
            named = str(key) if place == ("suggestions",) else owner
            yield from _codings(item, (*place, key), named)


def loinc_digit(body: str) -> int:
    """The check digit of a LOINC number, part or answer, by Luhn's algorithm (mod 10).

    The letters of parts (LP) and answers (LA) count as what their ASCII code is above that of 0.

    Source: LOINC Users' Guide, appendix "Calculating Mod 10 check digits"; for letters, Luhn's
    algorithm as OpenMRS has it, found to hold for published LP and LA codes.

    >>> loinc_digit("2823"), loinc_digit("LA33")
    (3, 6)
    """
    total = 0
    for place, char in enumerate(reversed(body)):
        number = ord(char) - ord("0")
        total += 2 * number - 9 * (number // 5) if place % 2 == 0 else number
    return -total % 10


# Verhoeff's dihedral group D5: its multiplication, and the permutation of each place.
_TIMES: Final = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_PERMUTED: Final = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def snomed_digit_holds(code: str) -> bool:
    """Whether the last digit of a SNOMED CT identifier is its check digit.

    Source: SNOMED CT Release File Specification, "Check-digit" (Verhoeff's dihedral check).

    >>> snomed_digit_holds("82470000"), snomed_digit_holds("82470001")
    (True, False)
    """
    check = 0
    for place, char in enumerate(reversed(code)):
        check = int(_TIMES[check][int(_PERMUTED[place % 8][int(char)])])
    return check == 0


@validator(
    "CDS201",
    "error",
    "a code whose check digit is wrong",
    fix="look the code up again at its source; most likely a digit was mistyped",
)
def check_digit(subject: Subject) -> Iterator[Spot]:
    """A LOINC number or SNOMED CT identifier whose last digit does not fit the others.

    There is no such code, so no record will ever match it.
    """
    for c in _codes(subject):
        if not _shaped(c):
            continue
        body, _, digit = c.code.partition("-")
        wrong = (
            loinc_digit(body) != int(digit)
            if c.system == "loinc"
            else c.system == "snomed" and not snomed_digit_holds(c.code)
        )
        if wrong:
            message = f"{c.system} code {c.code} ({c.display}) has a wrong check digit"
            yield Spot(c.file.path, c.line, message, c.owner)


def _shaped(c: _Code) -> bool:
    shape = _SHAPES.get(c.system)
    return shape is None or shape[0].fullmatch(c.code) is not None


@validator(
    "CDS202",
    "error",
    "a code that does not look like one of its system",
    fix="look the code up at its source, and see that `system` is the right one",
)
def malformed_code(subject: Subject) -> Iterator[Spot]:
    """A code that its code system cannot have: letters in RxNorm, an ICD-10-CM code without dot.

    No record will ever match it.
    """
    for c in _codes(subject):
        if not _shaped(c):
            message = f"'{c.code}' is no {c.system} code, which looks like {_SHAPES[c.system][1]}"
            yield Spot(c.file.path, c.line, message, c.owner)


@validator(
    "CDS203",
    "error",
    "a code that stands twice",
    fix="leave it in the one place where it belongs",
)
def code_twice(subject: Subject) -> Iterator[Spot]:
    """A code that stands for two analytes, or for an analyte and a value set, or twice in a set.

    Nobody would know how a result under it is to be read. The loader refuses it.
    """
    for fault in faults(subject, "CDS203"):
        yield Spot(fault.path, fault.line or 0, fault.message)


@validator(
    "CDS204",
    "warning",
    "one code with two names",
    fix="look the code up; write the same display everywhere, or correct the code",
)
def two_displays(subject: Subject) -> Iterator[Spot]:
    """One code that different places call by different names.

    One of them may be another code, mistyped.
    """
    first: dict[tuple[str, str], _Code] = {}
    for c in _codes(subject):
        known = first.setdefault((c.system, c.code), c)
        if known.display.casefold() != c.display.casefold() and known.display and c.display:
            where = f"line {known.line}"
            if known.file is not c.file:
                where += f" of {Path(known.file.path).name}"
            message = f"{c.code} is '{c.display}' here and '{known.display}' in {where}"
            yield Spot(c.file.path, c.line, message, c.owner)


@validator(
    "CDS205",
    "error",
    "a unit that is not UCUM",
    fix="write the unit in UCUM, case and all (mmol/L, m[IU]/L, mL/min/{1.73_m2})",
)
def not_ucum(subject: Subject) -> Iterator[Spot]:
    """A unit that cds.units does not know. No value could be converted into it."""
    for fault in faults(subject, "CDS205"):
        yield Spot(fault.path, fault.line or 0, fault.message, fault.rule or "")


@validator(
    "CDS206",
    "error",
    "a unit that is wrong for the analyte",
    fix="write the limit in the unit of analytes.yaml, and the property that fits that unit",
)
def wrong_unit(subject: Subject) -> Iterator[Spot]:
    """A limit in another unit than the analyte's, or a property that does not convert into it.

    Limits in two units side by side are how a mmol/L is taken for a mg/dL.
    """
    for fault in faults(subject, "CDS206"):
        yield Spot(fault.path, fault.line or 0, fault.message, fault.rule or "")


@validator(
    "CDS207",
    "warning",
    "a property that contradicts the name of the code",
    fix="compare code, display and property with LOINC; one of the three is wrong",
)
def property_against_display(subject: Subject) -> Iterator[Spot]:
    """A code whose display says mass and whose `property` says substance, or the like.

    A value sent without a unit, or with the unit of the other property, would be misread.
    """
    for c in _codes(subject):
        said = c.entry.get("property")
        for words, meant in _PROPERTIES.items():
            if words in c.display and said is not None and said != meant:
                message = f"{c.code} has property '{said}', but its name says {words}"
                yield Spot(c.file.path, c.line, message, c.owner)


@validator(
    "CDS208",
    "error",
    "an unknown code system",
    fix="write the system as FHIR does; in value sets its short name (snomed, loinc, rxnorm)",
)
def unknown_system(subject: Subject) -> Iterator[Spot]:
    """A code system that is not known, or whose URI is not written as FHIR writes it.

    Codes are compared with their system: a slip in it makes every code of it useless.
    """
    for fault in faults(subject, "CDS208"):
        yield Spot(fault.path, fault.line or 0, fault.message)
    for file in subject.of_kind("cards"):
        for place, owner, entry in _codings(file.data, (), ""):
            uri = entry.get("system")
            if not isinstance(uri, str):
                continue
            if canonical_system(uri) != uri:
                message = f"system '{uri}' is written '{canonical_system(uri)}' in FHIR"
                yield Spot(file.path, file.line(*place), message, owner)
            elif not re.match(r"(https?://|urn:)\S+$", uri):
                message = f"system '{uri}' is no URI"
                yield Spot(file.path, file.line(*place), message, owner)


@validator(
    "CDS209",
    "error",
    "a value set without codes",
    fix="give it codes or sets to include, or leave it out",
)
def empty_set(subject: Subject) -> Iterator[Spot]:
    """A value set that no record can match. A rule that names it would never hold."""
    for fault in faults(subject, "CDS209"):
        yield Spot(fault.path, fault.line or 0, fault.message)
