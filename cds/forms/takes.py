"""``takes:`` and ``requested:`` in the short form: medicines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from cds.forms.statement import (
    Form,
    Json,
    coding,
    concept,
    entries_of,
    named,
    no_more,
    one_of,
    words_after,
)
from cds.forms.when import When, split_time
from cds.formulary import SYSTEMIC
from cds.terminology import Terminology
from cds.units import ucum_of

__all__ = ["Takes"]

# FHIR R4, MedicationStatement.status and MedicationRequest.status (required bindings).
_TAKEN: Final = (
    "active",
    "completed",
    "entered-in-error",
    "intended",
    "stopped",
    "on-hold",
    "unknown",
    "not-taken",
)
_REQUESTED: Final = (
    "active",
    "on-hold",
    "cancelled",
    "completed",
    "entered-in-error",
    "stopped",
    "draft",
    "unknown",
)
_KINDS: Final = ("medication",)
_FURTHER: Final = ("status", "route", "dose")
_TEXT: Final = "text:"
_DOSE: Final = re.compile(
    r"(?P<value>\d+(?:\.\d+)?) (?P<unit>\S+) "
    r"(?:(?:(?P<times>[1-9]\d*) times )?(?P<unit_of_time>daily|weekly)"
    r"|every (?P<hours>[1-9]\d*) hours?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Takes(Form):
    """``takes: RXNORM#4603 furosemide since 3 months``; ``takes: loop-diuretic``.

    Args:
        what: a value set, ``RXNORM#code``, or ``text:`` where only `words` are sent.
        when: since when it is taken, or when it was requested.
        status: of the resource, by default active.
        until: when it ended ("2 days ago"); not of a request.
        words: what stands after a code, sent as its name; after ``text:``, all that is sent.
        request: it is a MedicationRequest (``requested: loop-diuretic 2 days ago``), else a
            MedicationStatement.
        route: a route of medicines.yaml ("inhaled"), or other words for it.
        dose: "40 mg daily", "20 mg 2 times daily", "5 mg every 8 hours", "70 mg weekly".
    """

    what: str
    when: When | None = None
    status: str = ""
    until: str = ""
    words: str = ""
    request: bool = False
    route: str = ""
    dose: str = ""

    key: ClassVar[str] = "takes"

    def __post_init__(self) -> None:
        one_of("status", self.status, _REQUESTED if self.request else _TAKEN)
        if self.what == _TEXT:
            if not self.words:
                raise ValueError("'text:' says nothing; write for example 'text: water tablet'")
        else:
            words_after(self.what, self.words, self.words)
        if self.dose and not _DOSE.fullmatch(self.dose):
            raise ValueError(
                f"dose '{self.dose}' is not understood; write '40 mg daily', "
                "'20 mg 2 times daily', '5 mg every 8 hours' or '70 mg weekly'"
            )
        if self.request and self.until:
            raise ValueError("a request has no 'until'; give it a status")
        when = self.when
        if when is not None and (when.date or when.seconds is not None):
            # What is taken goes on, a request is of one moment, however the caller puts it.
            lasting = not self.request and (when.seconds is None or when.seconds >= 0)
            if when.lasting != lasting:
                object.__setattr__(self, "when", replace(when, lasting=lasting, text=""))
        if self.until:
            self._end(0)

    @classmethod
    def parse_as(cls, kind: str, text: str, more: Mapping[str, str]) -> Takes:
        """Read the text after ``takes:`` or ``requested:``. Raises: ValueError."""
        request = kind == "requested"
        no_more(more, kind, _FURTHER if request else (*_FURTHER, "until"))
        rest, when = split_time(text)
        what, _, words = rest.partition(" ")
        if not what:
            raise ValueError(
                f"'{text}' names nothing; write for example "
                "'RXNORM#4603 furosemide since 3 months' or 'loop-diuretic'"
            )
        if what != _TEXT:
            words_after(what, words, words)
        if when is not None and when.lasting and request:
            raise ValueError(f"'{when}': a request has one time; write '2 days ago'")
        began = when is not None and (when.date or (when.seconds or 0) > 0 or when.months)
        if when is not None and began and not (when.lasting or request):
            raise ValueError(f"'{when}': say since when it is taken: 'since 3 months'")
        return cls(what, when, words=words, request=request, **more)

    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case."""
        parts = (self.what, self.words, "" if self.when is None else str(self.when))
        names = (*_FURTHER, "until")
        more = {name: value for name in names if (value := getattr(self, name))}
        return {"requested" if self.request else "takes": " ".join(p for p in parts if p), **more}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the MedicationStatement or MedicationRequest."""
        start = self.when.fhir(as_of) if self.when is not None else None
        resource: Json = {
            "resourceType": "MedicationRequest" if self.request else "MedicationStatement",
            "id": id_,
            "status": self.status or "active",
            "medicationCodeableConcept": self._medicine(terminology),
            "subject": {"reference": subject},
        }
        if dosage := self._dosage(terminology):
            resource["dosageInstruction" if self.request else "dosage"] = [dosage]
        if self.request:
            resource["intent"] = "order"
            if start:
                resource["authoredOn"] = start
            return [resource]
        end = self._end(as_of) if self.until else None
        if start and end and _precedes(end, start):  # FHIR R4, per-1
            raise ValueError(f"until '{self.until}' lies before the start")
        period = {"start": start, "end": end}
        if start or end:
            resource["effectivePeriod"] = {name: time for name, time in period.items() if time}
        return [resource]

    def _medicine(self, terminology: Terminology) -> Json:
        if self.what == _TEXT:
            return {"text": self.words}
        value_set = terminology.value_sets.get(self.what)
        if value_set is not None and value_set.every_medicine:
            return {"text": value_set.name}  # whatever it is called
        return concept(self.what, self.words, _KINDS, terminology)

    def _dosage(self, terminology: Terminology) -> Json:
        dosage: Json = {}
        route = self.route or self._needed_route(terminology)
        if route:
            system, code, name = terminology.formulary.sent_as(route)
            dosage["route"] = coding(system, code, name) if code else {"text": name}
        match = _DOSE.fullmatch(self.dose)
        if match is not None:
            unit = match["unit"]
            hours = int(match["hours"] or 0)
            ucum = ucum_of(unit, None) or ucum_of(None, unit)
            quantity: Json = {"value": _number(match["value"]), "unit": unit}
            if ucum is not None:
                quantity |= {"system": "http://unitsofmeasure.org", "code": ucum}
            span = {"daily": "d", "weekly": "wk"}.get(match["unit_of_time"] or "", "h")
            repeat = {"frequency": int(match["times"] or 1), "period": hours or 1}
            dosage["timing"] = {"repeat": {**repeat, "periodUnit": span}}
            dosage["doseAndRate"] = [{"doseQuantity": quantity}]
        return dosage

    def _needed_route(self, terminology: Terminology) -> str:
        """The route without which a medicine would not be of the value set that is named."""
        if self.what == _TEXT or named(self.what) is not None:
            return ""
        inner = next((name for name, _ in entries_of(self.what, _KINDS, terminology)), self.what)
        value_set = terminology.value_sets[inner]
        needed = value_set.route_must_be_known or SYSTEMIC not in value_set.routes
        return value_set.routes[0] if needed else ""

    def _end(self, as_of: int) -> str:
        rest, when = split_time(self.until)
        end = when.fhir(as_of) if when is not None and not when.lasting else None
        if rest or end is None:
            raise ValueError(f"until '{self.until}' is not a time such as '2 days ago'")
        return end


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _precedes(one: str, other: str) -> bool:
    """Whether a FHIR dateTime lies before another, as far as both are known."""
    zulu = all(time.endswith("Z") for time in (one, other) if len(time) > 10)
    known = min(len(one), len(other)) if zulu else 10
    return one[:known] < other[:known]
