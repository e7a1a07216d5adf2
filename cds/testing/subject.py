"""What a property is about: rules with a screener for them, and what speaks against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from cds.cases import written
from cds.engine import make_engine
from cds.forms import Form
from cds.rules import Rulesets
from cds.screening import Assessment, Screener
from cds.testing.drawing import Drawing
from cds.testing.laws import screened
from cds.testing.strategies import assess, bundle_of
from cds.testing.targets import AS_OF, Targets

__all__ = ["Counterexample", "Property", "Subject", "case", "expected", "tier_name"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """What speaks against a property: a sentence, and cases in YAML that show it.

    Of several cases the last is the one that fails as long as the property does not hold, where
    a case can say it at all.
    """

    message: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """Rules to be checked. `reference` runs them on the other engine, where there are two."""

    screener: Screener
    drawing: Drawing
    reference: Screener | None = None

    @classmethod
    def of(cls, rulesets: Rulesets) -> Subject:
        """Return the subject for loaded rulesets, on the engine that screens patients."""
        screener = Screener(rulesets)
        two = screener.engine.name != make_engine("reference", rulesets.program).name
        reference = Screener(rulesets, "reference") if two else None
        return cls(screener, Drawing(Targets(rulesets)), reference)

    def resources(self, forms: Sequence[Form]) -> list[Json]:
        """Return the FHIR resources of a record, the Patient among them."""
        bundle = bundle_of(forms, self.screener.rulesets)
        return [entry["resource"] for entry in bundle["entry"]]

    def assess(self, forms: Sequence[Form]) -> Assessment:
        """Assess a record."""
        return assess(self.screener, forms)

    def screen(self, resources: Iterable[Json]) -> Assessment:
        """Assess the one patient whom these resources are about."""
        return screened(self.screener, resources, AS_OF)


@dataclass(frozen=True, slots=True)
class Property:
    """Something that must hold for every patient.

    `drawn` is the strategy of its examples; `against` says what speaks against it in one of
    them, or nothing. `share` is how many examples it gets, as a multiple of the usual number.
    `skipped` says why it cannot be checked here, or "".
    """

    id: str
    sentence: str
    drawn: Callable[[Drawing], st.SearchStrategy[Any]]
    against: Callable[[Subject, Any], Counterexample | None]
    share: float = 1.0
    skipped: Callable[[Subject], str] = lambda subject: ""


def tier_name(assessment: Assessment) -> str:
    """Return the tier as a case expects it: "none" where nothing was found."""
    return "none" if assessment.tier is None else assessment.tier.name


def expected(assessment: Assessment) -> Mapping[str, Sequence[str] | str]:
    """Return what a case expects of a patient who is judged like this one."""
    return {"shows": sorted(f.id for f in assessment.findings), "tier": tier_name(assessment)}


def case(
    name: str, forms: Sequence[Form], expect: Mapping[str, Sequence[str] | Mapping[str, str] | str]
) -> str:
    """Return a case in YAML, judged at the instant for which records are drawn."""
    return written(name, AS_OF, forms, expect)
