"""``symptom:``, ``condition:``, ``lifestyle:``, ``history:`` and ``denies:`` in the short form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

from cds.forms.statement import (
    TERMINOLOGY,
    Form,
    Json,
    coding,
    concept,
    entries_of,
    first_code,
    named,
    no_more,
    one_of,
    resource_id,
    words_after,
)
from cds.forms.when import NOW, When, split_time
from cds.terminology import SYSTEMS, Terminology

__all__ = ["PRESENCES", "Presence"]

# The kinds of value set that each key may name.
PRESENCES: Final[dict[str, tuple[str, ...]]] = {
    "symptom": ("symptom",),
    "condition": ("condition", "symptom"),
    "lifestyle": ("lifestyle",),
    "history": ("history", "condition", "symptom"),
    "denies": ("symptom", "condition", "lifestyle"),
}
_OF_A_CONDITION: Final = ("clinical", "verification", "severity", "recorded")
_SEVERE: Final = "severe"
# FHIR R4, Condition.clinicalStatus and .verificationStatus (required bindings).
_OWN_PLACES: Final = "urn:cds-twitch:place"
_PLACES: Final = tuple(f"place-{number}" for number in range(1, 10))
_CLINICAL: Final = ("active", "recurrence", "relapse", "inactive", "remission", "resolved")
_VERIFICATION: Final = (
    "unconfirmed",
    "provisional",
    "differential",
    "confirmed",
    "refuted",
    "entered-in-error",
)


@dataclass(frozen=True, slots=True)
class Presence(Form):
    """``symptom: twitching for 20 days``; also condition, lifestyle, history and denies.

    A symptom that is seen ("2 days ago"; without a time, now) is an Observation; one that lasts
    ("for 20 days", "since 2026-10") and every condition is a Condition, whose time is its onset.
    A history is a relative's. `kind` is the key of the line, `what` a value set or a code.
    `clinical` and `verification` are statuses of a Condition, `severity` is "severe", `recorded`
    when it was written down ("2 days ago"). `sites` is at how many places of the body it is.
    """

    kind: str
    what: str
    when: When | None = None
    clinical: str = ""
    verification: str = ""
    words: str = ""
    severity: str = ""
    recorded: str = ""
    sites: int = 0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, PRESENCES)
        one_of("clinical", self.clinical, _CLINICAL)
        one_of("verification", self.verification, _VERIFICATION)
        one_of("severity", self.severity, (_SEVERE,))
        words_after(self.what, self.words, self.words)
        if self.sites and self.kind in ("history", "denies"):
            raise ValueError("'sites' is for what is present")
        if not 0 <= self.sites <= len(_PLACES):
            raise ValueError(f"'sites' is a number up to {len(_PLACES)}")
        if self.recorded:
            self._recorded(0)
        if self.kind == "history" and self.when is not None:
            raise ValueError("a relative's condition has no time; leave it out")
        if self.kind == "denies" and self.when is not None and self.when.lasting:
            raise ValueError("a denial has one time: write '2 days ago' or 'on 2026-10-30'")
        given = [name for name in _OF_A_CONDITION if getattr(self, name)]
        if given and not self.is_condition:
            raise ValueError(
                f"'{given[0]}' is for a Condition: write condition, or say since when it lasts "
                "('for 20 days')"
            )
        if self.clinical and self.verification == "entered-in-error":  # FHIR R4, con-5
            raise ValueError("what was entered in error has no clinical status; leave it out")

    @classmethod
    def parse_as(cls, kind: str, text: str, more: Mapping[str, str]) -> Presence:
        """Read the text after ``symptom:`` or another key. Raises: ValueError."""
        rest, when = split_time(text)
        what, _, words = rest.partition(" ")
        if not what:
            raise ValueError(
                f"'{text}' names nothing; write for example 'twitching for 20 days' or "
                "'SNOMED#82470000 muscle fasciculation 2 days ago'"
            )
        words_after(what, words, words)
        form = cls(kind, what, when, words=words)
        allowed = _OF_A_CONDITION if form.is_condition else ()
        no_more(more, kind, allowed if kind in ("history", "denies") else (*allowed, "sites"))
        if not more:
            return form
        if not more.get("sites", "0").isdigit():
            raise ValueError("'sites' is a number: at how many places of the body")
        sites = int(more.get("sites", "0"))
        return cls(
            kind,
            what,
            when,
            words=words,
            sites=sites,
            clinical=more.get("clinical", ""),
            verification=more.get("verification", ""),
            severity=more.get("severity", ""),
            recorded=more.get("recorded", ""),
        )

    @property
    def is_condition(self) -> bool:
        """Whether it is sent as a Condition."""
        lasts = self.when is not None and self.when.lasting
        return self.kind == "condition" or (lasts and self.kind in ("symptom", "lifestyle"))

    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case."""
        parts = (self.what, self.words, "" if self.when is None else str(self.when))
        further = (*_OF_A_CONDITION, "sites")
        more = {name: str(value) for name in further if (value := getattr(self, name))}
        return {self.kind: " ".join(p for p in parts if p), **more}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the Observations, the Condition or the FamilyMemberHistory."""
        kinds = PRESENCES[self.kind]
        if self.is_condition:
            code = concept(self.what, self.words, kinds, terminology)
            return [self._condition(code, terminology, as_of, id_, subject)]
        if self.kind == "history":
            relative = {
                "resourceType": "FamilyMemberHistory",
                "id": id_,
                "status": "completed",
                "patient": {"reference": subject},
                "relationship": coding(f"{TERMINOLOGY}/v3-RoleCode", "PRN"),
                "condition": [{"code": concept(self.what, self.words, kinds, terminology)}],
            }
            return [relative]
        time = (self.when or NOW).fhir(as_of)
        return [
            {
                "resourceType": "Observation",
                "id": resource_id(id_, number),
                "status": "final",
                "code": code,
                "subject": {"reference": subject},
                **({"effectiveDateTime": time} if time else {}),
                **({"bodySite": site} if site else {}),
                **value,
            }
            for number, ((code, value), site) in enumerate(
                product(self._seen(terminology), self._sites() or [{}])
            )
        ]

    def _sites(self) -> list[Json]:
        """Return places of the body by name only: what matters is how many they are."""
        return [coding(_OWN_PLACES, place) for place in _PLACES[: self.sites]]

    def _recorded(self, as_of: int) -> str:
        rest, when = split_time(self.recorded)
        time = when.fhir(as_of) if when is not None and not when.lasting else None
        if rest or time is None:
            raise ValueError(f"recorded '{self.recorded}' is not a time such as '2 days ago'")
        return time

    def _seen(self, terminology: Terminology) -> list[tuple[Json, Json]]:
        """Return code and value of each Observation.

        A value set without codes of its own is denied by denying all that it includes; one that
        only answers name is answered.
        """
        kinds, present = PRESENCES[self.kind], self.kind != "denies"
        value: Json = {"valueBoolean": present}
        if named(self.what) is not None:
            return [(concept(self.what, self.words, kinds, terminology), value)]
        if first_code(self.what, kinds, terminology) is None:
            answer = terminology.answer_saying(self.what, present=present)
            if answer is None:
                raise ValueError(f"no answer says that '{self.what}' is absent; give a FHIR file")
            question, said = answer
            return [(coding(*question), {"valueCodeableConcept": coding(*said)})]
        entries = [codes[0] for _, codes in entries_of(self.what, kinds, terminology)]
        return [
            (coding(SYSTEMS[entry.system], entry.code, entry.display), value)
            for entry in (entries[:1] if present else entries)
        ]

    def _condition(
        self, code: Json, terminology: Terminology, as_of: int, id_: str, subject: str
    ) -> Json:
        # What was refuted or entered in error has no clinical status (FHIR R4, con-5).
        false = self.verification in ("refuted", "entered-in-error")
        statuses = {
            "clinicalStatus": ("condition-clinical", self.clinical or ("" if false else "active")),
            "verificationStatus": ("condition-ver-status", self.verification or "confirmed"),
        }
        onset = self.when.fhir(as_of) if self.when is not None else None
        severe = next(iter(terminology.severities), None) if self.severity else None
        if self.severity and severe is None:
            raise ValueError("no code of the value sets says 'severe'")
        return {
            "resourceType": "Condition",
            "id": id_,
            **{k: coding(f"{TERMINOLOGY}/{s}", word) for k, (s, word) in statuses.items() if word},
            "code": code,
            "subject": {"reference": subject},
            **({"onsetDateTime": onset} if onset else {}),
            **({"severity": coding(*severe)} if severe else {}),
            **({"bodySite": self._sites()} if self.sites else {}),
            **({"recordedDate": self._recorded(as_of)} if self.recorded else {}),
        }
