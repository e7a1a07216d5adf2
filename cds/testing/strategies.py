"""Hypothesis strategies: statements about a patient, aimed at the limits of any ruleset.

Everything drawn is a `cds.forms.Form` or a list of them, with times relative to `AS_OF`: it prints
as the lines of a case. Shrinking leads to few lines, round numbers and plain results of now.
Without `rulesets` a strategy aims at the shipped rules.

Asking for an analyte, value set or rule that the rules do not use is a `UsageError`: at once, or
for the shipped rules when they are loaded, with the first draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

from hypothesis import strategies as st

from cds.cases import Case, Expect
from cds.forms import Form, Lab, Patient, Presence, Takes
from cds.rules import Rulesets, load_rulesets
from cds.screening import Assessment, Screener, instant
from cds.testing.drawing import Drawing, Record
from cds.testing.targets import AS_OF, Targets

__all__ = [
    "AS_OF",
    "assess",
    "bundle_of",
    "bundles",
    "conditions",
    "denials",
    "histories",
    "labs",
    "medications",
    "near",
    "patients",
    "records",
    "symptoms",
    "values",
]

T = TypeVar("T")

Json = dict[str, Any]


# ---------------------------------------------------------------- from forms to an assessment


def bundle_of(forms: Sequence[Form], rulesets: Rulesets, as_of: str = AS_OF) -> Json:
    """Return what was drawn as a FHIR R4B Bundle, exactly as a case with these lines would.

    Raises: ValueError where the terminology has no such name, code or unit.
    """
    case = Case("drawn", instant(as_of), tuple(forms), Expect(), "", 0)
    return case.bundle(rulesets.terminology)


def assess(screener: Screener, forms: Sequence[Form], as_of: str = AS_OF) -> Assessment:
    """Assess one drawn patient."""
    return screener.screen(bundle_of(forms, screener.rulesets, as_of), as_of)


# ---------------------------------------------------------------- strategies


def values(analyte: str, *, rulesets: Rulesets | None = None) -> st.SearchStrategy[Decimal]:
    """Values of an analyte in its own unit: at each limit of the rules, beside it, and any other.

    Beside means one last place as shown and one `cds.bounds.STEP`. Only what is possible.
    """
    return _drawn(rulesets, lambda d: d.values(analyte))


def labs(
    analyte: str | None = None, *, plain: bool = False, rulesets: Rulesets | None = None
) -> st.SearchStrategy[Lab]:
    """Results of one analyte, or of any that the rules can use.

    `plain` ones are fresh, exact and usable. Others come with comparators, flags and ranges of
    the laboratory, statuses, old and imprecise dates, other units, and values that are not
    possible.
    """
    return _drawn(rulesets, lambda d: d.labs(analyte, plain=plain))


def histories(
    analyte: str | None = None, *, rulesets: Rulesets | None = None
) -> st.SearchStrategy[list[Lab]]:
    """Several results of one analyte over time, the latest first, around the rises of rules."""
    return _drawn(rulesets, lambda d: d.histories(analyte))


def symptoms(
    concept: str | None = None, *, rulesets: Rulesets | None = None
) -> st.SearchStrategy[Presence]:
    """Symptoms, seen or lasting, at the windows of the rules; of one value set or any."""
    return _drawn(rulesets, lambda d: d.presences("symptom", concept))


def conditions(
    concept: str | None = None, *, rulesets: Rulesets | None = None
) -> st.SearchStrategy[Presence]:
    """Conditions with clinical and verification status; of one value set or any."""
    return _drawn(rulesets, lambda d: d.presences("condition", concept))


def denials(*, rulesets: Rulesets | None = None) -> st.SearchStrategy[Presence]:
    """Symptoms and conditions that somebody said to be absent."""
    return _drawn(rulesets, lambda d: d.denials)


def medications(
    concept: str | None = None, *, rulesets: Rulesets | None = None
) -> st.SearchStrategy[Takes]:
    """Medicines taken, ordered, ended or paused; of one value set or any."""
    return _drawn(rulesets, lambda d: d.medications(concept))


def patients(*, rulesets: Rulesets | None = None) -> st.SearchStrategy[Patient]:
    """Sex and age: adults, children, unknown ages, imprecise birth dates, the ages of rules."""
    return _drawn(rulesets, lambda d: d.patients)


def near(rule: str, *, rulesets: Rulesets | None = None) -> st.SearchStrategy[Record]:
    """What makes one rule hold: each criterion just met, or now and then left out."""
    return _drawn(rulesets, lambda d: d.near(rule))


def records(*, rulesets: Rulesets | None = None) -> st.SearchStrategy[Record]:
    """Whole records, the patient first where one is said; often near some rule."""
    return _drawn(rulesets, lambda d: d.records)


def bundles(*, rulesets: Rulesets | None = None) -> st.SearchStrategy[Json]:
    """Whole records as FHIR R4B Bundles."""

    def drawn(d: Drawing) -> st.SearchStrategy[Json]:
        return d.records.map(lambda forms: bundle_of(forms, d.targets.rulesets))

    return _drawn(rulesets, drawn)


@cache
def _shipped() -> Drawing:
    return Drawing(Targets(load_rulesets()))


def _drawn(
    rulesets: Rulesets | None, strategy: Callable[[Drawing], st.SearchStrategy[T]]
) -> st.SearchStrategy[T]:
    """Return a strategy; the shipped rules are loaded when it is first drawn from."""
    if rulesets is None:
        return st.deferred(lambda: strategy(_shipped()))
    return strategy(Drawing(Targets(rulesets)))
