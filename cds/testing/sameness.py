"""Properties of what must change nothing: they hold for every ruleset unless the software is wrong.

Each compares two answers byte by byte, as far as both speak of the same resources. A case can
show such a difference only where it lies in what is found, and only if it can say the difference
of the input: the message names both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from hypothesis import strategies as st

from cds.forms import Form, Lab, Patient, Presence, Takes
from cds.program import grid_code
from cds.testing.drawing import Drawing, Record, joined
from cds.testing.laws import (
    answer,
    as_error,
    as_patient,
    conclusions,
    difference,
    renamed,
    screened,
    unrelated,
    whole,
)
from cds.testing.strategies import bundle_of
from cds.testing.subject import Counterexample, Property, Subject, case, expected
from cds.testing.targets import AS_OF

__all__ = ["SAMENESS"]

Json = dict[str, Any]
_Sent = tuple[Record, list[Json]]
"""A record, and the resources that are sent in place of its own."""


def _resources(drawing: Drawing, forms: Sequence[Form]) -> list[Json]:
    bundle = bundle_of(forms, drawing.targets.rulesets)
    return [entry["resource"] for entry in bundle["entry"]]


def _named(resources: Sequence[Json]) -> str:
    return ", ".join(f"{r['resourceType']}/{r.get('id')}" for r in resources)


def _compared(
    subject: Subject, forms: Record, sent: Sequence[Json], what: str
) -> Counterexample | None:
    """What differs between a record and the same record sent in another way."""
    before = subject.assess(forms)
    differing = difference(answer(before), answer(subject.screen(sent)))
    if not differing:
        return None
    message = f"{what} changes {differing}. Sent: {_named(sent)}"
    return Counterexample(message, (case("As it is judged now", forms, expected(before)),))


# ---------------------------------------------------------------- order, repetition, the unrelated


@st.composite
def _shuffled(draw: st.DrawFn, drawing: Drawing) -> _Sent:
    forms = draw(drawing.records)
    return forms, draw(st.permutations(_resources(drawing, forms)))


def _order(subject: Subject, drawn: _Sent) -> Counterexample | None:
    return _compared(subject, *drawn, "another order of the resources")


@st.composite
def _repeated(draw: st.DrawFn, drawing: Drawing) -> _Sent:
    forms = draw(drawing.records)
    resources = _resources(drawing, forms)
    again = draw(st.lists(st.sampled_from(resources), min_size=1, max_size=3))
    return forms, [*resources, *again]


def _duplicates(subject: Subject, drawn: _Sent) -> Counterexample | None:
    return _compared(subject, *drawn, "sending a resource twice")


@st.composite
def _with_more(draw: st.DrawFn, drawing: Drawing) -> _Sent:
    forms = draw(drawing.records)
    resources = _resources(drawing, forms)
    patient = next(r for r in resources if r["resourceType"] == "Patient")
    others = unrelated(f"Patient/{patient['id']}")
    more = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique_by=_id))
    return forms, [*more, *resources]


def _id(resource: Json) -> str:
    return str(resource["id"])


def _unrelated(subject: Subject, drawn: _Sent) -> Counterexample | None:
    return _compared(subject, *drawn, "a resource that no rule can use")


_MEDICINES: Final = ("MedicationStatement", "MedicationRequest", "Medication")


@st.composite
def _with_names(draw: st.DrawFn, drawing: Drawing) -> _Sent:
    forms = draw(drawing.records)
    # What must not be read: the words of the rules' own concepts above all.
    names = [v.name for v in drawing.terminology.value_sets.values()]
    names += [a.name for a in drawing.terminology.analytes.values()]
    text = draw(st.sampled_from(names) | st.text(st.characters(codec="utf-8"), max_size=12))
    return forms, [
        # A medicine is read by its name as well; a name that contradicts its code is said.
        r if r["resourceType"] in _MEDICINES else renamed(r, text)
        for r in _resources(drawing, forms)
    ]


def _display_text(subject: Subject, drawn: _Sent) -> Counterexample | None:
    return _compared(subject, *drawn, "another text for people")


# ---------------------------------------------------------------- entered in error


@st.composite
def _marked(draw: st.DrawFn, drawing: Drawing) -> tuple[Record, list[Json], int]:
    said = drawing.records.filter(lambda forms: any(not isinstance(f, Patient) for f in forms))
    forms = draw(said)
    resources = _resources(drawing, forms)
    can = [n for n, r in enumerate(resources) if r["resourceType"] not in ("Patient", "Specimen")]
    return forms, resources, draw(st.sampled_from(can))


def _entered_in_error(
    subject: Subject, drawn: tuple[Record, list[Json], int]
) -> Counterexample | None:
    forms, resources, index = drawn
    wrong = as_error(resources[index])
    name = _named([wrong])
    marked = answer(subject.screen([*resources[:index], wrong, *resources[index + 1 :]]))
    marked["problems"] = [p for p in marked.get("problems", ()) if p["resource"] != name]
    without = answer(subject.screen([*resources[:index], *resources[index + 1 :]]))
    without.setdefault("problems", [])
    differing = difference(without, marked)
    if not differing:
        return None
    message = f"{name}, entered in error, is not like one that was left out: {differing}"
    place = next(n for n in range(len(forms)) if name.endswith(f"/r{n + 1}"))
    left = (*forms[:place], *forms[place + 1 :])
    expect = expected(subject.screen([*resources[:index], *resources[index + 1 :]]))
    cases = [case("Without what was entered in error", left, expect)]
    said = _said_in_error(forms[place])
    if said is not None:
        with_it = (*forms[:place], said, *forms[place + 1 :])
        cases.append(case("What was entered in error is as if it were not there", with_it, expect))
    return Counterexample(message, tuple(cases))


def _said_in_error(form: Form) -> Form | None:
    """The statement with its status, where a line of a case can say it."""
    if isinstance(form, Presence) and form.is_condition:
        return replace(form, clinical="", verification="entered-in-error")
    if isinstance(form, Lab | Takes):
        return replace(form, status="entered-in-error")
    return None


# ---------------------------------------------------------------- units


@st.composite
def _two_units(draw: st.DrawFn, drawing: Drawing) -> tuple[Record, Lab, Lab] | None:
    """Draw a record and one more result, in its own unit and in another."""
    targets = drawing.targets
    names = [what for what in targets.labs if len(targets.units(what)) > 1]
    if not names:
        return None
    what = draw(st.sampled_from(names))
    own, *others = targets.units(what)
    value, unit = draw(drawing.values(what)), draw(st.sampled_from(others))
    sent = targets.sent(what, value, unit)
    if sent is None:
        # What is round in the other unit, and the same to all digits that can be sent in this.
        sent = round(targets.sent_nearly(what, value, unit), 4)
        exact = targets.canonical(what, sent, unit)
        value = round(Decimal(exact.numerator) / Decimal(exact.denominator), 9)
        low, high = targets.limits(what)
        if grid_code(value) != grid_code(exact) or not low < value < high:
            return None  # a rounded number would lie on the other side of a limit
    one = draw(drawing.labs(what, plain=True))
    first, second = (Lab(what, v, u, one.when) for v, u in ((value, own), (sent, unit)))
    return draw(drawing.records), first, second


def _units(subject: Subject, drawn: tuple[Record, Lab, Lab] | None) -> Counterexample | None:
    if drawn is None:
        return None
    record, first, second = drawn
    one, other = joined(record, [first]), joined(record, [second])
    judged = subject.assess(one)
    differing = difference(conclusions(judged), conclusions(subject.assess(other)))
    if not differing:
        return None
    message = f"{first.what} {first.value} {first.unit} and {second.value} {second.unit} are "
    message += f"the same, but are judged differently: {differing}"
    expect = expected(judged)
    return Counterexample(
        message,
        (
            case(f"In {first.unit}, as it is judged now", one, expect),
            case(f"In {second.unit} it is the same", other, expect),
        ),
    )


# ---------------------------------------------------------------- one patient and another


@st.composite
def _two_records(draw: st.DrawFn, drawing: Drawing) -> tuple[Record, Record]:
    return draw(drawing.records), draw(drawing.records)


def _other_patient(subject: Subject, drawn: tuple[Record, Record]) -> Counterexample | None:
    records = [as_patient(subject.resources(f), i) for f, i in zip(drawn, "ab", strict=True)]
    mixed = [r for pair in zip(*_equally_long(records), strict=True) for r in pair if r]
    found = {a.patient: answer(a) for a in subject.screener.screen_all(whole(mixed), AS_OF)}
    for forms, resources, name in zip(drawn, records, ("Patient/a", "Patient/b"), strict=True):
        alone = subject.screen(resources)
        differing = difference(answer(alone), found.get(name, {}))
        if differing:
            message = f"another patient in the same Bundle changes {differing}"
            return Counterexample(message, _both(forms, drawn, expected(alone)))
    return None


def _equally_long(records: Sequence[list[Json]]) -> list[list[Json | None]]:
    longest = max(map(len, records))
    return [[*r, *[None] * (longest - len(r))] for r in records]


def _both(
    forms: Record, drawn: tuple[Record, Record], expect: Mapping[str, Any]
) -> tuple[str, ...]:
    other = drawn[1] if forms is drawn[0] else drawn[0]
    return (
        case("The patient alone", forms, expect),
        case("The other patient", other, {}).replace("    expect:\n", ""),
    )


def _memory(subject: Subject, drawn: tuple[Record, Record]) -> Counterexample | None:
    first, second = drawn
    before = subject.assess(first)
    said = answer(before)
    subject.assess(second)
    differing = difference(said, answer(subject.assess(first)))
    if not differing:
        return None
    message = f"a patient who was assessed in between changes {differing}"
    return Counterexample(message, _both(first, drawn, expected(before)))


# ---------------------------------------------------------------- engines


def _engines(subject: Subject, forms: Record) -> Counterexample | None:
    if subject.reference is None:
        return None
    one = subject.assess(forms)
    other = screened(subject.reference, subject.resources(forms), AS_OF)
    differing = difference(answer(other), answer(one))
    if not differing:
        return None
    names = f"{subject.screener.engine.name} and {subject.reference.engine.name}"
    message = f"the engines {names} differ in {differing}"
    return Counterexample(message, (case("By the reference engine", forms, expected(other)),))


def _one_engine(subject: Subject) -> str:
    return "" if subject.reference else "there is only one engine on this Python"


def _records(drawing: Drawing) -> st.SearchStrategy[Record]:
    return drawing.records


SAMENESS: Final = (
    Property("order", "The order of the resources changes nothing.", _shuffled, _order),
    Property("duplicates", "A resource that is sent twice counts once.", _repeated, _duplicates),
    Property("units", "The same value in another unit is judged the same.", _two_units, _units),
    Property(
        "entered-in-error",
        "What was entered in error is as if it were not there, and is said.",
        _marked,
        _entered_in_error,
    ),
    Property(
        "other-patient",
        "Another patient in the same Bundle changes nothing.",
        _two_records,
        _other_patient,
        share=0.5,
    ),
    Property(
        "memory",
        "A patient who was assessed before changes nothing.",
        _two_records,
        _memory,
        share=0.5,
    ),
    Property("engines", "All engines give the same answer.", _records, _engines, 1.0, _one_engine),
    Property("unrelated", "What no rule can use changes nothing.", _with_more, _unrelated),
    Property(
        "display-text",
        "Text for people is not read, but for the names of medicines.",
        _with_names,
        _display_text,
    ),
)
