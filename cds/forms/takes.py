"""``takes:`` and ``requested:`` in the short form: medicines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from cds.forms.statement import Form, Json, concept, no_more, one_of, words_after
from cds.forms.when import When, split_time
from cds.terminology import Terminology

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


@dataclass(frozen=True, slots=True)
class Takes(Form):
    """``takes: RXNORM#4603 furosemide since 3 months``; ``takes: loop-diuretic``.

    Args:
        what: a value set or ``RXNORM#code``.
        when: since when it is taken, or when it was requested.
        status: of the resource, by default active.
        until: when it ended ("2 days ago"); not of a request.
        words: what stands after a code, for readers.
        request: it is a MedicationRequest (``requested: loop-diuretic 2 days ago``), else a
            MedicationStatement.
    """

    what: str
    when: When | None = None
    status: str = ""
    until: str = ""
    words: str = ""
    request: bool = False

    key: ClassVar[str] = "takes"

    def __post_init__(self) -> None:
        one_of("status", self.status, _REQUESTED if self.request else _TAKEN)
        words_after(self.what, self.words, self.words)
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
        no_more(more, kind, ("status",) if request else ("status", "until"))
        rest, when = split_time(text)
        what, _, words = rest.partition(" ")
        if not what:
            raise ValueError(
                f"'{text}' names nothing; write for example "
                "'RXNORM#4603 furosemide since 3 months' or 'loop-diuretic'"
            )
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
        more = {name: value for name in ("status", "until") if (value := getattr(self, name))}
        return {"requested" if self.request else "takes": " ".join(p for p in parts if p), **more}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the MedicationStatement or MedicationRequest."""
        start = self.when.fhir(as_of) if self.when is not None else None
        resource: Json = {
            "resourceType": "MedicationRequest" if self.request else "MedicationStatement",
            "id": id_,
            "status": self.status or "active",
            "medicationCodeableConcept": concept(
                self.what, self.words, ("medication",), terminology
            ),
            "subject": {"reference": subject},
        }
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

    def _end(self, as_of: int) -> str:
        rest, when = split_time(self.until)
        end = when.fhir(as_of) if when is not None and not when.lasting else None
        if rest or end is None:
            raise ValueError(f"until '{self.until}' is not a time such as '2 days ago'")
        return end


def _precedes(one: str, other: str) -> bool:
    """Whether a FHIR dateTime lies before another, as far as both are known."""
    zulu = all(time.endswith("Z") for time in (one, other) if len(time) > 10)
    known = min(len(one), len(other)) if zulu else 10
    return one[:known] < other[:known]
