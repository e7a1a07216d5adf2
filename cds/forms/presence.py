"""``symptom:``, ``condition:``, ``lifestyle:``, ``history:`` and ``denies:`` in the short form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
_FURTHER: Final = ("clinical", "verification")
# FHIR R4, Condition.clinicalStatus and .verificationStatus (required bindings).
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
    `clinical` and `verification` are statuses of a Condition.
    """

    kind: str
    what: str
    when: When | None = None
    clinical: str = ""
    verification: str = ""
    words: str = ""

    def __post_init__(self) -> None:
        one_of("kind", self.kind, PRESENCES)
        one_of("clinical", self.clinical, _CLINICAL)
        one_of("verification", self.verification, _VERIFICATION)
        words_after(self.what, self.words, self.words)
        if self.kind == "history" and self.when is not None:
            raise ValueError("a relative's condition has no time; leave it out")
        if self.kind == "denies" and self.when is not None and self.when.lasting:
            raise ValueError("a denial has one time: write '2 days ago' or 'on 2026-10-30'")
        if (self.clinical or self.verification) and not self.is_condition:
            raise ValueError(
                "'clinical' and 'verification' are for a Condition: write condition, or say since "
                "when it lasts ('for 20 days')"
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
        no_more(more, kind, _FURTHER if form.is_condition else ())
        if not more:
            return form
        return replace(
            form, clinical=more.get("clinical", ""), verification=more.get("verification", "")
        )

    @property
    def is_condition(self) -> bool:
        """Whether it is sent as a Condition."""
        lasts = self.when is not None and self.when.lasting
        return self.kind == "condition" or (lasts and self.kind in ("symptom", "lifestyle"))

    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case."""
        parts = (self.what, self.words, "" if self.when is None else str(self.when))
        more = {name: value for name in _FURTHER if (value := getattr(self, name))}
        return {self.kind: " ".join(p for p in parts if p), **more}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the Observations, the Condition or the FamilyMemberHistory."""
        kinds = PRESENCES[self.kind]
        if self.is_condition:
            code = concept(self.what, self.words, kinds, terminology)
            return [self._condition(code, as_of, id_, subject)]
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
                **value,
            }
            for number, (code, value) in enumerate(self._seen(terminology))
        ]

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

    def _condition(self, code: Json, as_of: int, id_: str, subject: str) -> Json:
        # What was refuted or entered in error has no clinical status (FHIR R4, con-5).
        false = self.verification in ("refuted", "entered-in-error")
        statuses = {
            "clinicalStatus": ("condition-clinical", self.clinical or ("" if false else "active")),
            "verificationStatus": ("condition-ver-status", self.verification or "confirmed"),
        }
        onset = self.when.fhir(as_of) if self.when is not None else None
        return {
            "resourceType": "Condition",
            "id": id_,
            **{k: coding(f"{TERMINOLOGY}/{s}", word) for k, (s, word) in statuses.items() if word},
            "code": code,
            "subject": {"reference": subject},
            **({"onsetDateTime": onset} if onset else {}),
        }
