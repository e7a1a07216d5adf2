"""``lab:`` in the short form: a result as an Observation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Final

from cds.errors import UnitError
from cds.forms.statement import (
    TERMINOLOGY,
    Form,
    Json,
    coding,
    named,
    no_more,
    one_of,
    words_after,
)
from cds.forms.when import NOW, When, split_time
from cds.terminology import SYSTEMS, Analyte, LabCode, Terminology
from cds.units import UNITS, ucum_of, unit_of
from cds.yamlmodel import nearest

__all__ = ["Lab"]

_UCUM: Final = "http://unitsofmeasure.org"
_NUMBER: Final = r"-?\d{1,20}(?:\.\d{1,20})?"
_LAB: Final = re.compile(
    rf"(?P<what>\S+)(?: (?P<words>.*?))? (?P<comparator><=|>=|<|>)? ?(?P<value>{_NUMBER})"
    rf"(?: (?P<unit>\"[^\"]+\"|(?!{_NUMBER}$)\S+))?",
    re.ASCII,
)
_RANGE: Final = re.compile(
    rf"(?P<low>{_NUMBER}) to (?P<high>{_NUMBER})|from (?P<only_low>{_NUMBER})"
    rf"|up to (?P<only_high>{_NUMBER})",
    re.ASCII,
)
_FURTHER: Final = ("range", "flag", "status", "specimen", "note")
# Those of HL7 v3 ObservationInterpretation that say on which side of its range a result lies.
_FLAGS: Final = ("N", "L", "LU", "LL", "H", "HU", "HH")
# FHIR R4, Observation.status (required binding).
_STATUSES: Final = (
    "registered",
    "preliminary",
    "final",
    "amended",
    "corrected",
    "cancelled",
    "entered-in-error",
    "unknown",
)
# HL7 v2 table 0493, Specimen.condition.
_SPECIMENS: Final = ("AUT", "CFU", "CLOT", "CON", "COOL", "FROZ", "HEM", "LIVE", "ROOM", "SNR")


@dataclass(frozen=True, slots=True)
class Lab(Form):
    """``lab: potassium <2.9 mmol/L 2 days ago``, with further keys.

    Args:
        what: an analyte or ``LOINC#code``.
        value: the number as sent.
        unit: "" is the analyte's own; in double quotes it is sent as text, without a UCUM code.
        comparator: "", "<", "<=", ">=" or ">".
        range: the laboratory's own ("3.5 to 5.1", "from 3.5", "up to 5.1").
        flag: its interpretation (N, L, LU, LL, H, HU, HH).
        status: of the Observation, by default final.
        specimen: a condition of HL7 v2 table 0493 (HEM), or a name in small letters that makes
            two results one draw.
        note: what the laboratory remarks.
        words: what stands after a code, for readers.
    """

    what: str
    value: Decimal
    unit: str = ""
    when: When = NOW
    comparator: str = ""
    range: str = ""
    flag: str = ""
    status: str = ""
    specimen: str = ""
    note: str = ""
    words: str = ""

    key: ClassVar[str] = "lab"

    def __post_init__(self) -> None:
        if not self.value.is_finite():
            raise ValueError(f"'{self.value}' is not a number")
        one_of("comparator", self.comparator, ("<", "<=", ">=", ">"))
        one_of("flag", self.flag, _FLAGS)
        one_of("status", self.status, _STATUSES)
        if self.specimen.isupper():
            one_of("specimen", self.specimen, _SPECIMENS)
        elif self.specimen and not re.fullmatch(r"[a-z0-9.-]{1,40}", self.specimen):
            raise ValueError(
                f"specimen '{self.specimen}': name it with small letters, digits and hyphens, or "
                f"give one of {', '.join(_SPECIMENS)}"
            )
        if self.when.lasting:
            raise ValueError("a result has one time: write '2 days ago' or 'on 2026-10-30'")
        words_after(self.what, self.words, self.words)
        if self.range:
            limits = self._limits()
            if len(limits) == 2 and limits["low"] >= limits["high"]:
                raise ValueError(f"range '{self.range}': the first number must be the smaller one")

    @classmethod
    def parse(cls, text: str, more: Mapping[str, str]) -> Lab:
        """Read the text after ``lab:``. Raises: ValueError."""
        no_more(more, cls.key, _FURTHER)
        rest, when = split_time(text)
        match = _LAB.fullmatch(rest)
        if match is None:
            raise ValueError(
                f"'{text}' is not understood; write for example 'potassium 2.4 mmol/L 2 days ago'"
            )
        return cls(
            match["what"],
            Decimal(match["value"]),
            match["unit"] or "",
            NOW if when is None else when,
            match["comparator"] or "",
            range=more.get("range", ""),
            flag=more.get("flag", ""),
            status=more.get("status", ""),
            specimen=more.get("specimen", ""),
            note=more.get("note", ""),
            words=match["words"] or "",
        )

    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case."""
        number = f"{self.comparator}{self.value:f}"
        parts = (self.what, self.words, number, self.unit, str(self.when))
        more = {name: getattr(self, name) for name in _FURTHER if getattr(self, name)}
        return {self.key: " ".join(p for p in parts if p), **more}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the Observation, and the Specimen where one is named."""
        code, unit, value, limits = self._sent(terminology)
        effective = self.when.fhir(as_of)
        quantity: Json = {"value": _number(value)}
        if self.comparator:
            quantity["comparator"] = self.comparator
        resource: Json = {
            "resourceType": "Observation",
            "id": id_,
            "status": self.status or "final",
            "category": [coding(f"{TERMINOLOGY}/observation-category", "laboratory")],
            "code": code,
            "subject": {"reference": subject},
        }
        if effective:
            resource["effectiveDateTime"] = effective
        resource["valueQuantity"] = {**quantity, **_unit(unit)}
        if self.flag:
            system = f"{TERMINOLOGY}/v3-ObservationInterpretation"
            resource["interpretation"] = [coding(system, self.flag)]
        if self.note:
            resource["note"] = [{"text": self.note}]
        if limits:
            sent = {side: {"value": _number(v), **_unit(unit)} for side, v in limits.items()}
            resource["referenceRange"] = [sent]
        if not self.specimen:
            return [resource]
        is_condition = self.specimen in _SPECIMENS
        name = f"{id_}-specimen" if is_condition else f"specimen-{self.specimen}"
        resource["specimen"] = {"reference": f"Specimen/{name}"}
        specimen: Json = {"resourceType": "Specimen", "id": name, "subject": {"reference": subject}}
        if is_condition:
            specimen["condition"] = [coding(f"{TERMINOLOGY}/v2-0493", self.specimen)]
        return [resource, specimen]

    def _sent(self, terminology: Terminology) -> tuple[Json, str, Decimal, dict[str, Decimal]]:
        """Return code, unit, value and limits to send.

        A computed analyte is sent as what it is computed from: adjusted calcium as the
        laboratory's own, a multiple of the upper limit as that multiple with the limit.
        """
        code = named(self.what)
        if code is not None:
            if not self.unit:
                raise ValueError(f"give a unit to {self.what}")
            _check_unit(self.unit)
            return coding(*code, self.words), self.unit, self.value, self._limits()
        analyte = terminology.analytes.get(self.what)
        if analyte is None:
            hint = nearest(self.what, terminology.analytes)
            raise ValueError(f"there is no analyte '{self.what}'{hint}")
        derived = terminology.derived.get(self.what)
        if derived is not None:
            if self.range or self.unit not in ("", analyte.unit):
                raise ValueError(
                    f"'{self.what}' is sent as {derived.of} with an upper limit of "
                    f"{derived.default:f}: give it neither unit nor range, or give {derived.of}"
                )
            source = terminology.analytes[derived.of]
            entry, limit = source.codes[0], derived.default
            return _coded(entry), source.unit, self.value * limit, {"high": limit}
        if self.what == terminology.adjusted_calcium.id:
            analyte = terminology.analytes[terminology.adjusted_calcium.result]
        if not analyte.codes:
            raise ValueError(f"'{self.what}' is computed; give the results it is computed from")
        if self.unit:
            _check_unit(self.unit)
        unit = self.unit or analyte.unit
        return _coded(_code_for(analyte, unit)), unit, self.value, self._limits()

    def _limits(self) -> dict[str, Decimal]:
        if not self.range:
            return {}
        match = _RANGE.fullmatch(self.range)
        if match is None:
            raise ValueError(f"range '{self.range}': write '3.5 to 5.1', 'from 3.5' or 'up to 5.1'")
        low, high = match["low"] or match["only_low"], match["high"] or match["only_high"]
        return {side: Decimal(n) for side, n in (("low", low), ("high", high)) if n}


def _coded(entry: LabCode) -> Json:
    return coding(SYSTEMS[entry.system], entry.code, entry.display)


def _code_for(analyte: Analyte, unit: str) -> LabCode:
    """Return the first code whose kind of quantity is that of the unit, else the first."""
    known = ucum_of(None, unit.strip('"'))
    kind = unit_of(known).kind if known else ""
    return next((c for c in analyte.codes if c.property == kind), analyte.codes[0])


def _check_unit(unit: str) -> None:
    """Refuse a unit that is not known. One in quotes is sent as it is, known or not."""
    if unit.startswith('"'):
        return
    try:
        unit_of(unit)
    except UnitError as error:
        hint = "" if "did you mean" in str(error) else nearest(unit, UNITS)
        raise ValueError(
            f"{error}{hint}; in double quotes it is sent as text, without a code"
        ) from None


def _number(value: Decimal) -> int | float:
    """Return the JSON number of exactly this value. Raises: ValueError where there is none."""
    number = int(value) if value == value.to_integral_value() else float(value)
    if abs(value) >= 10**15 or Decimal(repr(number)) != value:
        raise ValueError(f"{value} has more digits than are sent exactly; at most 15")
    return number


def _unit(unit: str) -> Json:
    if unit.startswith('"'):
        return {"unit": unit.strip('"')}
    return {"unit": unit, "system": _UCUM, "code": unit}
