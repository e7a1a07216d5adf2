"""The values that travel from FHIR JSON to card: small, frozen, typed.

Nothing here computes or knows a clinical code. First what *read* gives (one `Record` a
patient), then what *normalize* gives (`Fact`), what *chain* gives (`Firing`) and what
*evaluate* gives (`Finding`).

Times are whole seconds since 1970-01-01T00:00:00Z. A FHIR time of any precision is an
`Instant`: the first second it may mean and the last one (FHIR R4 section 2.24.0.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from typing import Literal

__all__ = [
    "Caveat",
    "Change",
    "ChangeOp",
    "Coding",
    "Doubt",
    "Evaluation",
    "Fact",
    "Finding",
    "Firing",
    "FollowUp",
    "Instant",
    "Measurement",
    "MedicationUse",
    "NotEvaluated",
    "Presence",
    "Problem",
    "Quantity",
    "Record",
    "Source",
    "Suppressed",
    "Tier",
]


class Tier(IntEnum):
    """How soon somebody must act, least to most urgent."""

    info = 0
    routine = 1  # next planned visit
    soon = 2  # within days, 14 at most
    urgent = 3  # same day
    emergency = 4  # now

    def __str__(self) -> str:
        return self.name

    @property
    def indicator(self) -> Literal["info", "warning", "critical"]:
        """The CDS Hooks 2.0 ``indicator`` of a card of this tier."""
        if self is Tier.emergency:
            return "critical"
        return "warning" if self >= Tier.soon else "info"


# ---------------------------------------------------------------- what read gives


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the input that was not as it should be; never patient data.

    Args:
        severity: "error" (the resource or element was not used), "warning" (it was used,
            with a stated reading) or "info".
        code: stable, kebab-case ("unit-unknown", "subject-missing").
        resource: reference of the resource, or None where the file is meant.
        path: FHIRPath inside the resource, or "".
        message: what is wrong and what was done; names no value of the patient.
    """

    severity: Literal["error", "warning", "info"]
    code: str
    resource: str | None
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Instant:
    """A FHIR date, dateTime, instant or Period as the seconds it may mean.

    `start` and `end` are inclusive; for an exact time they are equal. `open` marks a
    Period without end. `text` is the element as sent.
    """

    start: int
    end: int
    text: str
    open: bool = False


@dataclass(frozen=True, slots=True)
class Coding:
    """One code as sent; `system` is the FHIR URI, never an OID or an alias."""

    system: str
    code: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A FHIR Quantity (or a Range) as sent.

    `value` is the number, `high` the upper end where a Range was sent. `comparator` is
    one of ``< <= >= >`` or None. `code` is the UCUM code (only where `system` says UCUM or
    is absent), `unit` the text for people. `text` is the whole as sent ("<2.0 mmol/L").
    """

    value: Decimal
    comparator: str | None
    unit: str | None
    code: str | None
    text: str
    high: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One numeric result: an Observation or one of its components.

    `analyte` is the concept of the value set that its code stands in, `coding` the code that
    matched. `value` None means that none was usable; `missing` says why ("dataAbsentReason",
    "no-value", "not-numeric"). `low` and `high` are the laboratory's own limits.
    `flags` are interpretation codes (HL7 v3 ObservationInterpretation: "LL", "H", "N").
    `specimen` identifies the draw, `conditions` are Specimen.condition codes and, as the
    pseudo-code "text:<word>", words of a note that analytes.yaml asks for.
    """

    resource: str
    analyte: str
    coding: Coding
    status: str
    effective: Instant | None
    value: Quantity | None
    missing: str = ""
    low: Quantity | None = None
    high: Quantity | None = None
    flags: tuple[str, ...] = ()
    specimen: str | None = None
    conditions: tuple[str, ...] = ()
    path: str = "valueQuantity"


@dataclass(frozen=True, slots=True)
class Presence:
    """A finding recorded as present or absent: Condition, Observation, answer, family history.

    `concept` is the value set that a code stands in (its kind, symptom, condition or
    lifestyle, is known there). `present` False is an explicit denial ("refuted", value
    false, "absent"); None means the sender says that it is unknown. `onset` is when it began,
    `recorded` when it was seen or written down. `lasting` is True for a Condition (counts
    whatever its onset) and False for an observed symptom (counts for a stated time).
    `sites` are body-site codes. `relative` is True for a family member's condition.
    """

    resource: str
    concept: str
    coding: Coding
    present: bool | None
    onset: Instant | None
    recorded: Instant | None
    lasting: bool
    status: str = ""
    sites: tuple[Coding, ...] = ()
    severity: str | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True)
class MedicationUse:
    """One MedicationStatement or MedicationRequest (or draft order).

    `codings` are the product codes as sent, from the resource, a contained or a referenced
    Medication; `text` is the name where only text was sent. `status` and `intent` are as sent.
    `period` is when it is or was taken, `authored` when it was written. `route` is a coding
    of dosage.route; without code and system where only text was sent. `unresolved` names a
    Medication reference that leads nowhere. `request` is True for an order, `dose` is what is
    taken on one day, where that can be computed.
    """

    resource: str
    codings: tuple[Coding, ...]
    text: str
    status: str
    intent: str
    period: Instant | None
    authored: Instant | None
    route: Coding | None = None
    unresolved: str | None = None
    request: bool = False
    dose: Quantity | None = None


@dataclass(slots=True)
class Record:
    """Everything of one patient that a rule can need, as read.

    `patient` is the reference ("Patient/123"). `birth` None means age unknown. `sex` is
    FHIR's administrative gender ("male", "female", "other", "unknown") or None.
    `skipped` counts resources that no rule can use, by type.
    """

    patient: str
    birth: Instant | None = None
    sex: str | None = None
    deceased: Instant | bool | None = None
    measurements: list[Measurement] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    medications: list[MedicationUse] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


# ---------------------------------------------------------------- what normalize gives


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a fact deserves a second look; shown beside it, never a reason to hide it.

    `code` is stable ("hemolyzed", "unit-slip", "preliminary", "unadjusted"), `text` is the
    clinical wording from `rulesets/analytes.yaml`.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """One resource that a fact rests on, with the value as sent and as converted.

    `concept` names what was measured where the fact itself does not (data quality).
    """

    resource: str | None
    effective: str | None = None
    value: Decimal | None = None
    unit: str | None = None
    sent: str | None = None
    laboratory_range: str | None = None
    doubts: tuple[Doubt, ...] = ()
    concept: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """One normalized statement about one patient, unique by `key` for that patient.

    `key` is "<kind>/<concept>[/<aspect>]" ("lab/potassium"). `props` is what the engine
    sees: named whole numbers. `sources` are what it rests on.
    """

    key: str
    kind: str
    concept: str
    props: Mapping[str, int]
    sources: tuple[Source, ...] = ()


# ---------------------------------------------------------------- what chain gives


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule that holds, with the keys of the facts and findings that made it hold (sorted)."""

    rule: str
    because: tuple[str, ...]


# ---------------------------------------------------------------- what evaluate gives


@dataclass(frozen=True, slots=True)
class Caveat:
    """A warning attached to findings of a family (possible specimen error)."""

    id: str
    title: str
    text: str
    rules: tuple[str, ...]
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A conclusion: what was found, how urgent, on what facts, by which rules.

    `because` holds keys: of facts, or "finding/<id>" of earlier findings.
    """

    id: str
    group: str
    tier: Tier
    title: str
    rules: tuple[str, ...]
    covers: tuple[str, ...]
    because: tuple[str, ...]
    family: str | None = None
    caveats: tuple[Caveat, ...] = ()


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that holds but is not shown, with the reason."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """A rule that could not be decided.

    `reason` is one of: missing, not-sent, stale, future, date, unit, implausible, comparator,
    status, unknown-code, reference, population, conflict. `needs` names the concept.
    """

    rule: str
    reason: str
    needs: str
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A question whose answer would sharpen the assessment.

    `needs` is the value set or analyte that it is about, "" where a rule asks it in its own words;
    `rules` are those that would use the answer.
    """

    question: str
    needs: str
    rules: tuple[str, ...]


ChangeOp = Literal[
    "below", "at or below", "at or above", "above", "within", "unflagged", "with", "without"
]


@dataclass(frozen=True, slots=True)
class Change:
    """One input changed just so far that an answer changes, found true by assessing again.

    Args:
        key: the fact that the input makes ("lab/potassium", "symptom/weakness").
        op: "below", "at or below", "at or above" or "above": the result is that of `value`, in
            the canonical `unit`; "within": it is as it is, but at most `value` `unit` ("d", "h")
            old; "unflagged": the laboratory does not flag it; "with" and "without": it is
            recorded, or is not ("with" `value` and `unit`: for longer than that).
        outcome: a rule or finding "stops" or "fires", or the finding has another "tier".
        tier: of what is then found in the family of the finding; None for nothing.
        finding: the finding, also that of the rule.
        rule: whose answer it is, or "" where it is that of the finding.
        value, unit: see `op`.
        resource: what is changed; None where several are, or where one is added.
        value_sent, unit_sent: the nearest number that will do as the resource would have it, in
            a UCUM unit; None where it is `value` itself or just beside it.
    """

    key: str
    op: ChangeOp
    outcome: Literal["stops", "fires", "tier"]
    tier: Tier | None
    finding: str
    rule: str = ""
    value: Decimal | None = None
    unit: str | None = None
    resource: str | None = None
    value_sent: Decimal | None = None
    unit_sent: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything known of one patient at one instant; what cards and reports are made of.

    `findings` stand most urgent first, then by group and the order of their rules. `facts` are
    by key. `not_evaluated` has the undecided rules that came close (at least one criterion met, or
    a recorded datum that could not be used) and population reasons. `as_of` is in seconds.
    `steps` are the keys that each intermediate finding, shown to nobody, rests on, by its id.
    """

    patient: str
    as_of: int
    facts: Mapping[str, Fact]
    findings: tuple[Finding, ...]
    suppressed: tuple[Suppressed, ...]
    not_evaluated: tuple[NotEvaluated, ...]
    problems: tuple[Problem, ...]
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def tier(self) -> Tier | None:
        """The highest tier of any finding, or None where nothing was found."""
        return max((f.tier for f in self.findings), default=None)
