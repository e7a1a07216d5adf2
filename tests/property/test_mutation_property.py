"""For all mutants and patients: trying only what changed finds what loading the mutant finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, note
from hypothesis import strategies as st

from cds import Screener
from cds.cases import Case, Expect
from cds.forms import parse
from cds.harness import run_case
from cds.mutation.operators import AnalyteMutant
from cds.mutation.trials import Trials
from cds.mutation.variants import Variants
from cds.rules import Rulesets
from cds.screening import Assessment
from strategies import examples
from trial_rules import AS_OF, all_mutants, loaded, mutated, rule

# Patients around which rules turn: each statement alone does something to some rule.
LINES: tuple[dict[str, str], ...] = (
    *({"lab": f"potassium {value} mmol/L"} for value in ("2.4999", "3", "3.4999", "5.5", "6.5")),
    *({"lab": f"potassium 3.4 mmol/L {age} days ago"} for age in (6, 7, 8, 90, 91)),
    {"lab": "potassium 4.9 mmol/L 12 hours ago"},
    {"lab": "potassium 3.6 mmol/L", "flag": "LL"},
    {"lab": "potassium <2.9 mmol/L"},
    {"lab": "potassium 2.9 mg/dL"},
    *({"lab": f"magnesium {value} mmol/L"} for value in ("0.4999", "0.7", "3.3001", "13")),
    *({"lab": f"calcium {value} mmol/L"} for value in ("1.89", "2.1999", "2.6001")),
    {"lab": "calcium-ionized 1.0999 mmol/L"},
    {"lab": "creatinine 126 umol/L"},
    {"lab": "creatinine 100 umol/L 2 days ago"},
    {"lab": "egfr 29 mL/min/{1.73_m2} 89 days ago"},
    {"lab": "creatine-kinase 2000 U/L"},
    {"lab": "qtc 460 ms"},
    {"lab": "qtc 501 ms"},
    {"symptom": "twitching"},
    {"symptom": "eyelid-myokymia"},
    {"symptom": "weakness for 30 days"},
    {"symptom": "weakness for 31 days"},
    {"symptom": "seizure"},
    {"denies": "weakness-nonspecific"},
    {"condition": "pregnancy"},
    {"condition": "prolonged-qt"},
    {"condition": "dialysis"},
    {"takes": "magnesium-sulfate"},
    {"takes": "magnesium-supplement"},
    {"patient": "male, 50 years"},
    {"patient": "female, 10 years"},
)
lines = st.lists(st.sampled_from(LINES), min_size=1, max_size=5, unique_by=lambda e: str(e)).filter(
    lambda chosen: sum("patient" in entry for entry in chosen) <= 1
)
EXPECTED = (
    ("fires", "not"),
    ("shows", "tier"),
    ("missing",),
    ("waits",),
    ("card",),
    ("patient_card",),
)


def expected(assessment: Assessment, kinds: Sequence[str]) -> Expect:
    """What a patient shows, of these kinds, so that any change of it would be noticed."""
    undecided = assessment.evaluation.not_evaluated
    needs = [n for n in undecided if n.reason != "population"]
    all_: dict[str, Any] = {
        "fires": sorted(assessment.fired),
        "not": sorted(assessment._screener.rulesets.program.by_id.keys() - assessment.fired),
        "shows": [finding.id for finding in assessment.findings],
        "tier": "none" if assessment.tier is None else assessment.tier.name,
        "missing": sorted({n.needs for n in needs}),
        "card": [part for card in assessment.cards() for part in _parts(card)],
        "patient_card": [part for card in assessment.cards("patient") for part in _parts(card)],
    }
    chosen = {kind: all_[kind] for kind in kinds if kind in all_}
    if "waits" in kinds:
        chosen["missing"] = {n.rule: n.needs for n in needs}
    return Expect.model_validate(chosen)


def _parts(card: dict[str, Any]) -> list[str]:
    return [
        card["summary"],
        *(line for line in card.get("detail", "").splitlines() if line.strip()),
    ]


class Trying:
    """Rules with their mutants, both ways of trying them, and patients once assessed.

    The mutants are those of rules that one of the patients' lines alone brings near: of the
    others, most of all, no patient here could tell anything.
    """

    def __init__(self, rulesets: Rulesets, entries: Sequence[dict[str, str]]) -> None:
        self.rulesets = rulesets
        self.screener = Screener(rulesets, "reference")
        near: set[str] = set()
        for entry in entries:
            _, assessment = self.patient([entry])
            near |= assessment.fired | {n.rule for n in assessment.evaluation.not_evaluated}
        near |= {self.rulesets.program.by_id[id_].rule.recheck_of or "" for id_ in near}
        self.mutants = {
            id_: mutant
            for id_, mutant in all_mutants(rulesets).items()
            if isinstance(mutant, AnalyteMutant) or mutant.rule in near
        }
        self.variants = Variants(rulesets)
        self.trials = Trials(self.screener, map(self.variants.of, self.mutants.values()))

    def patient(self, chosen: Sequence[dict[str, str]]) -> tuple[Case, Assessment]:
        """A patient of these lines, as a case that expects nothing."""
        case = Case("x", AS_OF, tuple(parse(entry) for entry in chosen), Expect(), "", 0)
        assessment = run_case(self.screener, case).assessment
        assert assessment is not None
        return case, assessment

    def agree(self, mutant_id: str, case: Case, assessment: Assessment) -> None:
        """Assert that both ways say the same of a case that passes."""
        mutant = self.mutants[mutant_id]
        trial = self.trials.trial(case, assessment)
        fast = self.trials.notices(self.variants.of(mutant), trial)
        slowly = run_case(Screener(mutated(self.rulesets, mutant), "reference"), case)
        note(f"{mutant_id}: {mutant.description}")
        note("\n".join(map(str, slowly.failures)))
        assert fast is not slowly.passed


@pytest.fixture(scope="module")
def shipped(rulesets: Rulesets) -> Trying:
    return Trying(rulesets, LINES)


@pytest.mark.parametrize("kinds", EXPECTED, ids="-".join)
@examples(0.3)
@given(data=st.data(), chosen=lines)
@pytest.mark.slow
def test_trying_a_mutant_agrees_with_loading_it(
    shipped: Trying, kinds: tuple[str, ...], data: st.DataObject, chosen: list[dict[str, str]]
) -> None:
    case, assessment = shipped.patient(chosen)
    expect = expected(assessment, kinds)
    assume(expect)
    waiting = not {"missing", "waits"}.isdisjoint(kinds)
    near = sorted(_near(shipped, assessment, waiting=waiting))
    assume(near)
    mutant_id = data.draw(st.sampled_from(near))
    shipped.agree(mutant_id, replace(case, expect=expect), assessment)


def _near(trying: Trying, assessment: Assessment, *, waiting: bool) -> set[str]:
    """The mutants that may matter: of what waits, or of what fires and of what was measured."""
    undecided = {n.rule for n in assessment.evaluation.not_evaluated if n.reason != "population"}
    rules = undecided if waiting else assessment.fired
    written = {trying.rulesets.program.by_id[id_].rule.recheck_of or id_ for id_ in rules}
    measured = {m.analyte for m in assessment.record.measurements}
    return {
        id_
        for id_, mutant in trying.mutants.items()
        if mutant.rule in written
        or (isinstance(mutant, AnalyteMutant) and mutant.analyte in measured)
        or (assessment.normalized.child and id_.startswith("pediatric"))
    }


CIRCLE = (
    rule(
        "first", "any: [{finding: second}, {symptom: cramp}]", tier="soon", more="\n    family: f"
    ),
    rule("second", "any: [{finding: first}, {lab: potassium, lt: 3.0, unit: mmol/L}]", tier="info"),
    rule(
        "third",
        "{no_result: magnesium, within: P90D}",
        more="\n    family: f\n    unless:\n      - {finding: second}\n      - {symptom: tremor}",
    ),
    rule("fourth", "all: [{finding: third}, {finding: first}]", tier="emergency"),
)
CIRCLE_LINES = (
    {"symptom": "cramp"},
    {"symptom": "dark-urine"},
    {"symptom": "tremor"},
    {"lab": "potassium 2.9 mmol/L"},
    {"lab": "potassium 3.0 mmol/L"},
    {"lab": "magnesium 0.8 mmol/L 90 days ago"},
)


@pytest.fixture(scope="module")
def circle(rulesets: Rulesets) -> Trying:
    return Trying(loaded(rulesets, *CIRCLE), CIRCLE_LINES)


@given(
    data=st.data(),
    chosen=st.lists(st.sampled_from(CIRCLE_LINES), max_size=3, unique_by=lambda e: str(e)),
)
def test_trying_a_mutant_agrees_with_loading_it_where_findings_hold_each_other_up(
    circle: Trying, data: st.DataObject, chosen: list[dict[str, str]]
) -> None:
    case, assessment = circle.patient(chosen)
    mutant_id = data.draw(st.sampled_from(sorted(circle.mutants)))
    expect = expected(assessment, ["fires", "not", "tier", "shows"])
    circle.agree(mutant_id, replace(case, expect=expect), assessment)


@given(chosen=lines)
def test_facts_made_for_all_mutants_at_once_are_those_made_for_the_rules_alone(
    shipped: Trying, chosen: list[dict[str, str]]
) -> None:
    case, assessment = shipped.patient(chosen)
    known = shipped.trials.trial(case, assessment).known
    keys = shipped.rulesets.program.keys
    own = {fact.key: fact.props for fact in assessment.normalized.facts if fact.key in keys}
    made = {key: props for key, props in known.items() if not key.startswith("finding/")}
    assert {key: props for key, props in made.items() if key in keys} == own
    assert made.keys() <= shipped.trials.union.keys
