"""The property suite: sound rules pass it, and each property can be broken, by rules or by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bad_rules import GOOD, HEAD, above, below, folder, rule
from cds import Screener, load_rulesets
from cds.cases import load_cases_file
from cds.harness import run
from cds.model import Fact, Firing, Problem
from cds.rules import Rulesets
from cds.screening import Assessment
from cds.testing.properties import PROPERTIES, Counterexample, Outcome, Property, Subject, check
from small_rules import rules_of

Json = dict[str, Any]


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def good(shipped: Rulesets) -> Rulesets:
    return rules_of(GOOD, shipped)


def named(*ids: str) -> list[Property]:
    return [each for each in PROPERTIES if each.id in ids]


def outcome_of(subject: Subject, id: str, examples: int = 60) -> Outcome:
    (outcome,) = check(subject, named(id), examples=examples)
    return outcome


def against(subject: Subject, id: str, examples: int = 60) -> Counterexample:
    """What speaks against a property that must not hold here."""
    outcome = outcome_of(subject, id, examples)
    assert not outcome.holds
    assert outcome.against is not None
    return outcome.against


def pasted(root: Path, text: str, found: Counterexample) -> list[bool]:
    """Whether each printed case passes, once it stands in `cases.yaml` beside the rules."""
    home = folder(root, text) / "small"
    path = home / "cases.yaml"
    path.write_text("cases:\n" + "\n".join(found.cases), encoding="utf-8")
    rulesets = load_rulesets(root)
    cases = load_cases_file(path, "small", rulesets)
    return [result.passed for result in run(Screener(rulesets), cases)]


# ---------------------------------------------------------------- what holds


def test_every_property_holds_for_the_shipped_rules(shipped: Rulesets) -> None:
    outcomes = list(check(Subject.of(shipped), examples=4))
    assert [(o.about.id, o.against) for o in outcomes if o.against is not None] == []
    assert [o.about.id for o in outcomes] == [p.id for p in PROPERTIES]
    assert all(o.examples >= 2 for o in outcomes if not o.skipped)


@pytest.mark.slow
def test_every_property_holds_for_many_patients_of_the_shipped_rules(shipped: Rulesets) -> None:
    outcomes = check(Subject.of(shipped), examples=300, seed=1)
    assert [(o.about.id, o.against) for o in outcomes if o.against is not None] == []


def test_every_property_holds_for_small_sound_rules(good: Rulesets) -> None:
    for outcome in check(Subject.of(good), examples=4):
        assert outcome.against is None
        assert outcome.holds or outcome.skipped


def test_the_same_seed_draws_the_same_patients_and_another_one_others(good: Rulesets) -> None:
    def drawn(seed: int) -> list[str]:
        seen: list[str] = []

        def note(subject: Subject, record: Any) -> None:
            seen.append(str(record))

        (order,) = named("engines")
        noting = replace(order, against=note, skipped=lambda subject: "")
        list(check(Subject.of(good), [noting], examples=10, seed=seed))
        return seen

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        (HEAD + rule("only", "emergency", "symptom: seizure"), "worse-value"),
        (HEAD + rule("only", "soon", below("potassium", "3.5")), "emergencies"),
    ],
)
def test_what_the_rules_give_no_occasion_for_is_said_and_does_not_count(
    shipped: Rulesets, text: str, id: str
) -> None:
    outcome = outcome_of(Subject.of(rules_of(text, shipped)), id)
    assert outcome.skipped
    assert not outcome.holds
    assert outcome.against is None


# ---------------------------------------------------------------- rules with a fault

_SODIUM = "lab: sodium, {op}: {n}, unit: mmol/L"

FAULTS: dict[str, tuple[str, str, list[str]]] = {
    "a two-sided band below which nothing is said": (
        "worse-value",
        HEAD
        + rule("low", "soon", below("sodium", "135"), "lab: sodium, ge: 130, unit: mmol/L")
        + rule("very-low", "emergency", below("sodium", "120")),
        ["sodium: soon at 130 mmol/L", "none at 129", "none at 135"],
    ),
    "a band whose far side falls silent, for people with a sign only": (
        "worse-value",
        HEAD
        + rule("high", "urgent", above("potassium", "6"), "lab: potassium, le: 7, unit: mmol/L",
               "symptom: tremor")
        + rule("low", "soon", below("potassium", "3")),
        ["potassium: urgent at 7 mmol/L", "none at 6", "none at 7.1"],
    ),
    "a tier that falls as the value gets worse": (
        "worse-value",
        HEAD
        + rule("low", "urgent", below("potassium", "3.5"), unless=[below("potassium", "2.5")])
        + rule("very-low", "soon", below("potassium", "2.5")),
        ["potassium: urgent at 2.5 mmol/L", "soon at 2.4", "none at 3.5"],
    ),
    "a band that falls silent behind a more urgent finding of something else": (
        "worse-value",
        HEAD
        + rule("magnesium", "emergency", below("magnesium", "0.4"))
        + rule("low", "soon", below("potassium", "3.5"), below("magnesium", "0.4"),
               unless=[below("potassium", "3")]),
        ["potassium: soon at 3 mmol/L", "none at 2.9", "none at 3.5"],
    ),
    "a rise that counts only up to a limit": (
        "worse-value",
        HEAD
        + rule("rising", "urgent", "rise: potassium, gt: 0.5, unit: mmol/L, over: PT12H",
               "lab: potassium, lt: 6, unit: mmol/L"),
        ["potassium: urgent at"],
    ),
    "two emergencies, each of which is silent beside the other": (
        "emergencies",
        HEAD
        + rule("seizure", "emergency", "symptom: seizure", unless=["symptom: syncope"])
        + rule("syncope", "emergency", "symptom: syncope", unless=["symptom: seizure"]),
        ["together only 'none'"],
    ),
    "a card that loads an image": (
        "cards-valid",
        HEAD + rule("low", "soon", below("potassium", "3.5"), detail="![x](https://x.example/x)"),
        ["clinician card 0", "image"],
    ),
    "a card with an order that nobody defined": (
        "cards-valid",
        HEAD + rule("low", "soon", below("potassium", "3.5"), suggestions="no-such-order"),
        ["no clinician card can be made", "no-such-order"],
    ),
    "a text with a value that the rule can do without": (
        "cards-filled",
        HEAD
        + rule("low", "soon", below("potassium", "3.5"), detail="Magnesium was {magnesium}.")
        + rule("magnesium", "soon", below("magnesium", "0.5")),
        ["rule low shows '{magnesium}'"],
    ),
    "a text with a placeholder that is nothing": (
        "cards-filled",
        HEAD + rule("low", "soon", below("potassium", "3.5"), detail="It was {kalium}."),
        ["{kalium}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_rules_is_found_and_the_printed_cases_show_it_beside_the_rules(
    shipped: Rulesets, tmp_path: Path, fault: str
) -> None:
    id, text, said = FAULTS[fault]
    found = against(Subject.of(rules_of(text, shipped)), id, 120)
    for words in said:
        assert words in found.message
    passed = pasted(tmp_path, text, found)
    if id.startswith("cards"):
        # What a card says wrongly no case can expect; it says who sees it.
        assert len(passed) == 1
    else:
        assert passed == [*[True] * (len(passed) - 1), False]


def test_a_counterexample_has_no_statement_that_it_can_do_without(shipped: Rulesets) -> None:
    _, text, _ = FAULTS["a band whose far side falls silent, for people with a sign only"]
    found = against(Subject.of(rules_of(text, shipped)), "worse-value", 120)
    assert found.cases[1].count("- lab:") == 1
    assert found.cases[1].count("- symptom:") == 1
    assert "patient:" not in found.cases[1]


@pytest.mark.parametrize(
    "text",
    [
        # The rule itself says what stops it.
        HEAD
        + rule("seizure", "emergency", "symptom: seizure", unless=["finding: syncope"])
        + rule("syncope", "emergency", "symptom: syncope"),
        # What is missing is no longer missing.
        HEAD
        + rule("blind", "emergency", "symptom: seizure", "no_result: potassium, within: P90D")
        + rule("low", "emergency", below("potassium", "2.5")),
    ],
)
def test_an_emergency_that_its_rule_says_gives_way_to_another_is_no_fault(
    shipped: Rulesets, text: str
) -> None:
    assert outcome_of(Subject.of(rules_of(text, shipped)), "emergencies", 25).holds


# ---------------------------------------------------------------- software with a fault


class Spoiled(Screener):
    """A screener whose input is changed before it is read."""

    def __init__(self, rulesets: Rulesets, spoil: Callable[[list[Json]], list[Json]]) -> None:
        super().__init__(rulesets)
        self.spoil = spoil

    def screen_all(self, source: Any, as_of: Any, *, log: Any = None) -> Iterator[Assessment]:
        resources = self.spoil([entry["resource"] for entry in source["entry"]])
        bundle = {**source, "entry": [{"resource": resource} for resource in resources]}
        return super().screen_all(bundle, as_of, log=log)


def _last_is_lost(resources: list[Json]) -> list[Json]:
    return resources[:-1] if len(resources) > 1 else resources


def _repeated_counts_twice(resources: list[Json]) -> list[Json]:
    return [
        {**r, "id": f"{r['id']}-again"}
        if r["resourceType"] != "Patient" and r in resources[:n]
        else r
        for n, r in enumerate(resources)
    ]


def _units_are_ignored(resources: list[Json]) -> list[Json]:
    own = {"unit": "mmol/L", "code": "mmol/L"}
    return [
        {**r, "valueQuantity": {**r["valueQuantity"], **own}} if "valueQuantity" in r else r
        for r in resources
    ]


def _errors_are_believed(resources: list[Json]) -> list[Json]:
    return [{**r, "status": "final"} if r.get("status") == "entered-in-error" else r
            for r in resources]  # fmt: skip


def _all_is_of_the_first_patient(resources: list[Json]) -> list[Json]:
    first = next(r for r in resources if r["resourceType"] == "Patient")
    subject = {"reference": f"Patient/{first['id']}"}
    return [{**r, "subject": subject} if "subject" in r else r for r in resources]


def _an_encounter_hides_results(resources: list[Json]) -> list[Json]:
    kinds = {r["resourceType"] for r in resources}
    hidden = "Observation" if "Encounter" in kinds else ""
    return [r for r in resources if r["resourceType"] != hidden]


def _text_is_read(resources: list[Json]) -> list[Json]:
    return [r for r in resources if "text" not in r]


class _Remembering:
    """Takes the first result that it ever saw for one of everybody."""

    def __init__(self) -> None:
        self.first: Json | None = None

    def __call__(self, resources: list[Json]) -> list[Json]:
        results = [r for r in resources if "valueQuantity" in r]
        remembered, self.first = self.first, self.first or next(iter(results), None)
        if remembered is None:
            return resources
        patient = next(r for r in resources if r["resourceType"] == "Patient")
        subject = {"reference": f"Patient/{patient['id']}"}
        return [*resources, {**remembered, "id": "remembered", "subject": subject}]


@pytest.mark.parametrize(
    ("id", "spoil", "said"),
    [
        ("order", _last_is_lost, "another order of the resources changes"),
        ("duplicates", _repeated_counts_twice, "sending a resource twice changes"),
        ("units", _units_are_ignored, "are judged differently"),
        ("entered-in-error", _errors_are_believed, "is not like one that was left out"),
        ("other-patient", _all_is_of_the_first_patient, "another patient in the same Bundle"),
        ("memory", _Remembering(), "assessed in between changes"),
        ("unrelated", _an_encounter_hides_results, "a resource that no rule can use changes"),
        ("display-text", _text_is_read, "another text for people changes"),
    ],
)
def test_a_fault_of_the_software_is_found_and_said(
    good: Rulesets, id: str, spoil: Callable[[list[Json]], list[Json]], said: str
) -> None:
    subject = replace(Subject.of(good), screener=Spoiled(good, spoil))
    found = against(subject, id)
    assert said in found.message
    assert found.cases
    assert all("  - name: " in case for case in found.cases)
    if id == "entered-in-error":
        assert "status: entered-in-error" in found.cases[-1]
        assert "tier: none" in found.cases[-1]


class _Forgetful:
    """An engine that loses the last rule that fires."""

    name = "forgetful"

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        firings: list[Firing] = self.engine.run(facts)
        return firings[:-1]


def test_engines_that_differ_are_found(good: Rulesets) -> None:
    screener = Screener(good)
    screener.engine = _Forgetful(screener.engine)
    subject = replace(Subject.of(good), screener=screener, reference=Screener(good, "reference"))
    found = against(subject, "engines")
    assert "forgetful and reference differ in tier, findings" in found.message
    assert len(found.cases) == 1


def test_with_one_engine_only_there_is_nothing_to_compare(good: Rulesets) -> None:
    subject = replace(Subject.of(good), reference=None)
    outcome = outcome_of(subject, "engines")
    assert "only one engine" in outcome.skipped


def test_a_finding_that_is_lost_on_its_way_to_the_card_is_found(good: Rulesets) -> None:
    class Silent(Screener):
        def screen_all(self, source: Any, as_of: Any, *, log: Any = None) -> Iterator[Assessment]:
            for assessment in super().screen_all(source, as_of, log=log):
                assessment.cards = lambda *a, **m: []  # type: ignore[method-assign]
                yield assessment

    subject = replace(Subject.of(good), screener=Silent(good))
    assert "no clinician card has" in against(subject, "cards-filled").message


def test_an_error_while_a_patient_is_assessed_speaks_against_a_property(good: Rulesets) -> None:
    class Fragile(Screener):
        def screen_all(self, source: Any, as_of: Any, *, log: Any = None) -> Iterator[Assessment]:
            for assessment in super().screen_all(source, as_of, log=log):
                if assessment.tier is not None:
                    raise ZeroDivisionError("a fault of ours")
                assessment.add_problems([Problem("info", "x", None, "", "")])
                yield assessment

    subject = replace(Subject.of(good), screener=Fragile(good))
    found = against(subject, "order")
    assert found.message == ("a patient could not be assessed: ZeroDivisionError: a fault of ours")
