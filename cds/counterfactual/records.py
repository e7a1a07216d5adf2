"""Records with one thing more, less or newer; each a copy, the record itself stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from cds.bounds import STEP
from cds.counterfactual.numbers import Edit
from cds.facts import iso
from cds.model import (
    ChangeOp,
    Coding,
    Fact,
    Instant,
    Measurement,
    MedicationUse,
    Presence,
    Quantity,
    Record,
)
from cds.program import GRID, Leaf
from cds.terminology import SYSTEMS, Terminology

__all__ = [
    "RECORDED",
    "age_limit",
    "feeders",
    "fresher",
    "measured",
    "recorded",
    "taken_away",
    "with_any_result",
    "with_result",
]

RECORDED: Final = ("symptom", "condition", "lifestyle", "history", "medication")
"""Kinds of facts that are records of something present."""

_HOUR, _DAY = 3600, 86_400
# What a result has to be for the test of a rule to hold.
_HOLDS: Final[Mapping[str, ChangeOp]] = {
    "lt": "below",
    "le": "at or below",
    "gt": "above",
    "ge": "at or above",
}


def feeders(concept: str, terminology: Terminology) -> tuple[str, ...]:
    """Return the analytes that are measured for a fact of this concept, the plainest first."""
    calcium = terminology.adjusted_calcium
    if concept == calcium.id:
        return (calcium.result, calcium.total)
    derived = terminology.derived.get(concept)
    return (derived.of,) if derived else (concept,)


def measured(record: Record, old: Measurement, new: Measurement) -> Record:
    """Return the record with another measurement in the place of one."""
    return replace(record, measurements=[new if m is old else m for m in record.measurements])


# ---------------------------------------------------------------- results


def age_limit(leaf: Leaf) -> int | None:
    """Return how old a result may be for a criterion, in seconds; None where that is open."""
    tests = (t for atom in leaf.atoms for t in atom.tests)
    return max((t.value for t in tests if (t.prop, t.op) == ("age", "le")), default=None)


def fresher(
    record: Record, m: Measurement, key: str, limit: int, as_of: int
) -> tuple[Edit, Record]:
    """Return the record with a result just not older than `limit` seconds at `as_of`."""
    then = as_of - limit
    new = replace(m, effective=Instant(then, then, iso(then)))
    unit, size = ("h", _HOUR) if limit % _DAY else ("d", _DAY)
    edit = Edit(key, "within", Decimal(limit) / size, unit, m.resource)
    return edit, measured(record, m, new)


def with_result(
    record: Record, leaf: Leaf, as_of: int, terminology: Terminology
) -> tuple[Edit, Record] | None:
    """Return the record with a missing result that meets a criterion; None without a number."""
    tests = [t for atom in leaf.atoms for t in atom.tests if t.prop in ("low", "high")]
    if not tests:
        return None
    concept = leaf.key.split("/")[1]
    bound = Decimal(tests[0].value) / (2 * GRID)
    if concept in terminology.derived:
        bound *= terminology.derived[concept].default
    op = _HOLDS[tests[0].op]
    value = bound + STEP if op == "above" else bound - STEP if op == "below" else bound
    name, more = _with(record, concept, value, as_of, terminology)
    return Edit(f"lab/{name}", op, bound, terminology.analytes[name].unit), more


def with_any_result(
    record: Record, concept: str, as_of: int, terminology: Terminology
) -> tuple[Edit, Record]:
    """Return the record with a result where there was none; which one makes no difference."""
    plausible = terminology.analytes[feeders(concept, terminology)[0]].plausible
    ends = (plausible.ge, plausible.le) if plausible else ()
    inside = [end for end in ends if end is not None]
    value = Decimal(round(sum(inside) / len(inside))) if inside else Decimal(1)
    name, more = _with(record, concept, value, as_of, terminology)
    return Edit(f"lab/{name}", "with"), more


def _with(
    record: Record, concept: str, value: Decimal, as_of: int, terminology: Terminology
) -> tuple[str, Record]:
    name = feeders(concept, terminology)[0]
    analyte = terminology.analytes[name]
    code, unit = analyte.codes[0], analyte.unit
    result = Measurement(
        "",
        name,
        Coding(SYSTEMS[code.system], code.code),
        "final",
        Instant(as_of, as_of, iso(as_of)),
        Quantity(value, None, unit, unit, f"{value:f} {unit}"),
    )
    return name, replace(record, measurements=[*record.measurements, result])


# ---------------------------------------------------------------- what is recorded as present


def taken_away(record: Record, fact: Fact) -> tuple[Edit, Record]:
    """Return the record without what makes a fact of a kind in `RECORDED`.

    The same code in the same resource may say more than this concept; all of it goes.
    """
    resources = {s.resource for s in fact.sources}
    said = {
        (p.resource, p.coding)
        for p in record.presences
        if p.concept == fact.concept and p.resource in resources
    }
    presences = [p for p in record.presences if (p.resource, p.coding) not in said]
    medications = record.medications
    if fact.kind == "medication":
        medications = [u for u in medications if u.resource not in resources]
    only = next(iter(resources)) if len(resources) == 1 else None
    edit = Edit(fact.key, "without", resource=only)
    return edit, replace(record, presences=presences, medications=medications)


def recorded(
    record: Record, leaf: Leaf, as_of: int, terminology: Terminology
) -> tuple[Edit, Record]:
    """Return the record with what a criterion of a kind in `RECORDED` asks for, seen `as_of`.

    Under the first code of its value set, which may say more than this concept.
    """
    kind, concept = leaf.key.split("/")[:2]
    coding = _coding(concept, terminology)
    now = Instant(as_of, as_of, iso(as_of))
    edit = Edit(leaf.key, "with")
    if kind == "medication":
        taken = replace(now, text=f"{now.text}/", open=True)  # a Period that begins now
        use = MedicationUse("", (coding,), "", "active", "", taken, None)
        return edit, replace(record, medications=[*record.medications, use])
    onset = now
    tests = [t for atom in leaf.atoms for t in atom.tests if t.prop == "oldest"]
    if tests:
        begun = as_of - tests[0].value - 1
        onset = Instant(begun, begun, iso(begun))
        edit = Edit(leaf.key, "with", Decimal(tests[0].value) / _DAY, "d")
    concepts = terminology.concepts_of(coding.system, coding.code) or (concept,)
    more = [
        Presence(
            "",
            name,
            coding,
            True,
            onset,
            now,
            lasting=kind in ("condition", "history"),
            relative=kind == "history",
        )
        for name in concepts
    ]
    return edit, replace(record, presences=[*record.presences, *more])


def _coding(concept: str, terminology: Terminology) -> Coding:
    """Return the first code of a value set, or of the nearest set that it includes."""
    waiting = [concept]
    for name in waiting:  # grows while it is read; no set includes itself
        value_set = terminology.value_sets[name]
        if value_set.codes:
            return Coding(SYSTEMS[value_set.codes[0].system], value_set.codes[0].code)
        if value_set.uncoded:
            return Coding(SYSTEMS["concept"], name)
        waiting += value_set.includes
    return Coding("", "")
