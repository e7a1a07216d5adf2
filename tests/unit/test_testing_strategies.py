"""The strategies: what they draw can be written as a case, and lies where answers change."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import cds.testing
from bad_rules import GOOD, HEAD, below, rule
from cds import Screener, Tier, load_rulesets
from cds.bounds import STEP, number_bounds, window_bounds
from cds.errors import UsageError
from cds.forms import Form, Lab, Patient, When, ago, parse
from cds.rules import Rulesets
from cds.testing import (
    AS_OF,
    Targets,
    assess,
    bundle_of,
    bundles,
    conditions,
    denials,
    histories,
    labs,
    medications,
    near,
    patients,
    records,
    symptoms,
    values,
)
from cds.yamlfile import parse_yaml
from small_rules import rules_of


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(shipped: Rulesets) -> Screener:
    return Screener(shipped)


@pytest.fixture(scope="module")
def targets(shipped: Rulesets) -> Targets:
    return Targets(shipped)


def least(
    strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool], tries: int = 1000
) -> Any:
    """The least of what is drawn that is as wanted, always the same."""
    return find(
        strategy,
        wanted,
        settings=settings(max_examples=tries, database=None, phases=[Phase.generate, Phase.shrink]),
        random=random.Random(0),  # noqa: S311 - nothing secret
    )


def several(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many of what is drawn, always the same."""
    drawn: list[Any] = []
    with pytest.raises(NoSuchExample):
        least(strategy, drawn.append, count)
    return drawn


# ---------------------------------------------------------------- what is drawn can be a case


@settings(max_examples=30)
@given(records())
def test_a_record_is_what_a_case_can_say_the_patient_first_and_nothing_twice(
    record: tuple[Form, ...],
) -> None:
    for form in record:
        ((entry,), _) = parse_yaml(form.line())
        assert parse(entry) == form
    assert not any(isinstance(form, Patient) for form in record[1:])
    assert len(set(record)) == len(record)


@settings(max_examples=20)
@given(bundles())
def test_every_drawn_bundle_is_valid_fhir(bundle: dict[str, Any]) -> None:
    from fhir.resources.R4B.bundle import Bundle

    assert Bundle.model_validate(bundle).entry


@settings(max_examples=30)
@given(
    st.one_of(labs(), symptoms(), conditions(), denials(), medications(), patients()),
    histories(),
)
def test_every_kind_of_statement_can_be_sent(
    shipped: Rulesets, form: Form, history: list[Lab]
) -> None:
    for each in (form, *history):
        assert bundle_of([each], shipped)["entry"]
    assert len({lab.what for lab in history}) == 1
    times = [lab.when.seconds or 0 for lab in history]
    assert len(history) >= 2
    assert times == sorted(times)


# ---------------------------------------------------------------- at the limits of any ruleset


def test_values_lie_at_each_limit_one_step_and_one_last_place_beside_it(
    shipped: Rulesets, targets: Targets
) -> None:
    for key, bounds in number_bounds(shipped.program).items():
        kind, analyte = key.split("/")[:2]
        if kind != "lab":
            continue
        tried = set(targets.values(analyte))
        low, high = targets.limits(analyte)
        place = Decimal(1).scaleb(-shipped.terminology.analytes[analyte].decimals)
        for bound in bounds:
            for beside in (0, STEP, -STEP, place, -place):
                value = bound.value + beside
                assert value in tried or not low <= value <= high


def test_results_are_as_old_as_the_windows_of_the_rules_and_a_second_beside(
    shipped: Rulesets, targets: Targets
) -> None:
    for key, windows in window_bounds(shipped.program).items():
        kind, concept = key.split("/")[:2]
        if kind in ("rise", "ratio"):
            continue  # of the latest result, so as old as any
        ages = targets.ages(concept) if kind == "lab" else targets.onsets(kind, concept)
        for window in windows:
            assert {window.seconds + more for more in (-1, 0, 1)} <= set(ages)


def test_another_ruleset_has_other_limits(shipped: Rulesets) -> None:
    own = rules_of(HEAD + rule("odd", "soon", below("potassium", "4.321")), shipped)
    assert least(values("potassium", rulesets=own), lambda v: True) == Decimal("4.321")
    found = least(records(rulesets=own), lambda r: "odd" in assess(Screener(own), r).fired)
    assert [form.line() for form in found] == ["- lab: potassium 4.221 mmol/L now"]


def test_values_at_beside_and_far_from_a_limit_are_drawn(shipped: Rulesets) -> None:
    own = rules_of(HEAD + rule("odd", "soon", below("potassium", "4.321")), shipped)
    drawn = several(values("potassium", rulesets=own), 200)
    for text in ("4.321", "4.3211", "4.3209", "4.421", "4.221"):
        assert Decimal(text) in drawn
    assert len(set(drawn)) > 20


def test_ages_gather_where_a_rule_asks_for_one(shipped: Rulesets) -> None:
    own = rules_of(HEAD + rule("old", "soon", "age: years, ge: 65"), shipped)
    drawn = several(patients(rulesets=own), 200)
    assert {64, 65, 66, 17, 18, None} <= {who.years for who in drawn}
    assert {"female", "male", "other", None} <= {who.sex for who in drawn}
    assert {4, 7} <= {len(who.born) for who in drawn if who.born}


ODDITIES: dict[str, Callable[[Lab], object]] = {
    "a comparator": lambda lab: lab.comparator == "<",
    "a critical flag": lambda lab: lab.flag == "LL",
    "a laboratory's range": lambda lab: "to" in lab.range,
    "a result entered in error": lambda lab: lab.status == "entered-in-error",
    "a hemolyzed specimen": lambda lab: lab.specimen == "HEM",
    "another unit": lambda lab: lab.unit == "mg/dL",
    "an impossible value": lambda lab: lab.unit == "mmol/L" and lab.value > 15,
    "a month for a date": lambda lab: lab.when.date and len(lab.when.date) == 7,
    "no date": lambda lab: lab.when == When(),
    "a date to come": lambda lab: lab.when == ago(-1),
    "a second more than a week": lambda lab: lab.when == ago(7 * 86_400 + 1),
}


def test_results_have_the_oddities_that_senders_have() -> None:
    drawn = several(labs("potassium"), 500)
    assert [name for name, has in ODDITIES.items() if not any(map(has, drawn))] == []


@settings(max_examples=30)
@given(labs(plain=True))
def test_a_plain_result_is_fresh_exact_and_in_its_own_unit(targets: Targets, lab: Lab) -> None:
    fresh = targets.analyte(lab.what).fresh
    assert 0 <= (lab.when.seconds or 0) <= fresh
    assert not any((lab.comparator, lab.flag, lab.range, lab.status, lab.specimen))
    low, high = targets.limits(lab.what)
    assert low <= lab.value <= high


@settings(max_examples=30)
@given(st.data())
def test_a_value_in_another_unit_is_exactly_the_same_value_or_none_is_given(
    targets: Targets, data: st.DataObject
) -> None:
    what = data.draw(st.sampled_from(targets.labs))
    value = data.draw(values(what))
    unit = data.draw(st.sampled_from(targets.units(what)))
    sent = targets.sent(what, value, unit)
    if sent is not None:
        assert targets.canonical(what, sent, unit) == Fraction(value)
        assert len(sent.as_tuple().digits) <= 15


# ---------------------------------------------------------------- near a rule, and shrinking


@pytest.mark.parametrize(
    ("rule_id", "lines"),
    [
        ("hypokalemia-severe", ["- lab: potassium 2.4 mmol/L now"]),
        ("hypokalemia-severe-recheck", ["- lab: potassium 2.4 mmol/L 7 days 1 second ago"]),
        (
            "hypokalemia-with-danger-signs",
            ["- lab: potassium 2.5 mmol/L now", "- symptom: weakness now"],
        ),
        (
            "potassium-rising",
            ["- lab: potassium 6 mmol/L now", "- lab: potassium 5.4999 mmol/L 12 hours ago"],
        ),
        ("qtc-above-limit", ["- lab: qtc 500 ms now"]),
        ("caveat-magnesium-treatment", None),
        ("hypokalemia-mild-pregnancy", None),
        ("laboratory-critical-flag", None),
        ("implausible-result", None),
    ],
)
def test_what_is_drawn_near_a_rule_makes_it_hold_and_shrinks_to_little(
    screener: Screener, rule_id: str, lines: list[str] | None
) -> None:
    found = least(near(rule_id), lambda r: rule_id in assess(screener, r).fired, 60)
    if lines is not None:
        assert [form.line() for form in found] == lines


def test_whole_records_make_many_rules_hold(screener: Screener, shipped: Rulesets) -> None:
    # One record for every fourth rule: each is near one or two of them.
    count = len(shipped.program.rules) // 4
    fired = {rule for r in several(records(), count) for rule in assess(screener, r).fired}
    assert len(fired) > len(shipped.program.rules) / 4


def test_a_record_that_is_an_emergency_shrinks_to_what_makes_it_one(screener: Screener) -> None:
    def emergency(record: tuple[Form, ...]) -> bool:
        return assess(screener, record).tier is Tier.emergency

    found = least(records(), emergency)
    for number in range(len(found)):
        assert not emergency((*found[:number], *found[number + 1 :]))


# ---------------------------------------------------------------- asking for what is not there


@pytest.mark.parametrize(
    "ask",
    [
        lambda rules: values("magnesium", rulesets=rules),
        lambda rules: labs("magnesium", rulesets=rules),
        lambda rules: histories("magnesium", rulesets=rules),
        lambda rules: symptoms("tremor", rulesets=rules),
        lambda rules: conditions("pregnancy", rulesets=rules),
        lambda rules: medications("loop-diuretic", rulesets=rules),
        lambda rules: near("hypokalemia", rulesets=rules),
    ],
)
def test_what_the_rules_cannot_use_is_refused_by_name(
    shipped: Rulesets, ask: Callable[[Rulesets], object]
) -> None:
    own = rules_of(GOOD, shipped)
    with pytest.raises(UsageError, match=r"magnesium|tremor|pregnancy|loop-diuretic|hypokalemia"):
        ask(own)


def test_rules_that_ask_for_one_thing_only_can_be_drawn_for(shipped: Rulesets) -> None:
    own = rules_of(HEAD + rule("only", "soon", "sex: male"), shipped)
    found = least(records(rulesets=own), lambda r: "only" in assess(Screener(own), r).fired)
    assert found == (Patient("male"),) or found[0].sex == "male"


# ---------------------------------------------------------------- as public API


def test_the_example_of_a_property_in_the_documentation_holds() -> None:
    text = (cds.testing.__doc__ or "").split("itself")[-1]
    block = re.search(r"^    from decimal.*?tier\.urgent$", text, re.DOTALL | re.MULTILINE | re.I)
    assert block
    code = "\n".join(line.removeprefix("    ") for line in block[0].splitlines())
    names: dict[str, Any] = {}
    exec(compile(code, "example", "exec"), names)  # noqa: S102 - our own documentation
    (name,) = [name for name in names if name.startswith("test_")]
    names[name]()


def test_every_public_name_is_there_and_nothing_else_is() -> None:
    for name in cds.testing.__all__:
        assert getattr(cds.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'laboratories'"):
        cds.testing.laboratories  # noqa: B018
    assert AS_OF in cds.testing.__dict__.values()


def test_nothing_is_imported_before_it_is_used() -> None:
    slow = {"hypothesis", "pydantic", "yaml", "fhir", "markdown_it", "cds.rules", "cds.forms"}
    code = f"import sys, cds.testing.plugin; print(*sorted({slow} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
