"""For all patients: what is said to change an answer changes it, in the FHIR JSON itself."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from builders import AS_OF, NOW, Json, ago, bundle, condition, lab, number, patient, rank
from cds import Assessment, Screener
from cds.bounds import STEP, number_bounds
from cds.cards import change_json
from cds.forms import parse
from cds.rules import Rulesets
from cds.terminology import Terminology
from clinical_table import ANALYTES, PLAUSIBLE
from conformance.card_invariants import check_cards
from strategies import ADULTS, SIGN_NAMES, examples, records, values

# ------------------------------------------------------------ a change made by hand


def really_changed(record: list[Json], change: Json, terms: Terminology) -> list[Json]:
    """The same resources with one change made in them, as a program would read it.

    `change` is the JSON of `cds explain` or of a card's provenance.
    """
    resource, op = change.get("resource"), change["op"]
    if resource is None and op != "without":
        return [*record, new_resource(change, terms)]
    if op == "without":
        return [r for r in record if reference(r) != resource]
    (old,) = (r for r in record if reference(r) == resource)
    new = json.loads(json.dumps(old))
    if op == "within":
        assert change["unit"] in ("d", "h")
        span = {"d": timedelta(days=1), "h": timedelta(hours=1)}[change["unit"]]
        when = NOW - change["value"] * span
        new["effectiveDateTime"] = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    else:
        # What the laboratory says of a value it says of that value.
        new.pop("interpretation", None)
    if op not in ("within", "unflagged"):
        new["valueQuantity"].pop("comparator", None)
        new["valueQuantity"]["value"] = number(value_of(change))
    return [new if r is old else r for r in record]


def value_of(change: Json) -> Decimal:
    """The number that would be sent."""
    if change.get("value_sent") is not None:
        return Decimal(str(change["value_sent"]))
    beside = {"below": -STEP, "above": STEP}
    return Decimal(str(change["value"])) + beside.get(change["op"], Decimal(0))


def new_resource(change: Json, terms: Terminology) -> Json:
    """What is recorded in addition, seen at the time of assessment."""
    kind, concept = change["kind"], change["concept"]
    if kind == "lab":
        # Where any result will do, one that is possible.
        possible = Decimal(str(sum(map(float, PLAUSIBLE.get(concept, ("1", "100")))) / 2))
        value = value_of(change) if change.get("value") is not None else possible
        line = {"lab": f"{concept} {value} {terms.analytes[concept].unit} now"}
    elif kind == "medication":
        line = {"takes": f"{concept} since 0 hours"}
    else:
        line = {kind: f"{concept} since 0 hours"}
    as_of = int(datetime.fromisoformat(AS_OF).timestamp())
    (resource,) = parse(line).resources(terms, as_of, "new", "Patient/p1")
    return resource


def reference(resource: Json) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


# ------------------------------------------------------------ reading an answer


def tier_of_family(assessment: Assessment, finding: str, rulesets: Rulesets) -> str | None:
    """The tier of what is shown of the family of a finding, or of the finding alone."""
    rules = {r.rule.finding_id: r.rule for r in rulesets.program.rules}
    family = rules[finding].family
    tiers = [
        f.tier
        for f in assessment.findings
        if f.id == finding or (family is not None and rules[f.id].family == family)
    ]
    return max(tiers).name if tiers else None


def said_on_cards(assessment: Assessment) -> list[Json]:
    cards = assessment.cards()
    made = [c["extension"]["org.cds-twitch.provenance"] for c in cards]
    return [change for provenance in made for change in provenance.get("changes", ())]


def assert_true(screener: Screener, record: list[Json], change: Json, rulesets: Rulesets) -> None:
    """Make the change in the JSON, screen again, and look whether it has the outcome it says."""
    after = screener.screen(bundle(*really_changed(record, change, rulesets.terminology)), AS_OF)
    assert tier_of_family(after, change["finding"], rulesets) == change.get("tier"), change
    if change.get("rule"):
        assert after.explain(change["rule"]).fired is (change["outcome"] == "fires"), change
    elif change["outcome"] == "stops":
        assert change.get("tier") is None


# ------------------------------------------------------------ the properties


@examples(2)
@given(record=records())
def test_every_value_that_a_card_names_has_the_effect_that_it_names(
    screener: Screener, rulesets: Rulesets, record: list[Json]
) -> None:
    assessment = screener.screen(bundle(*record), AS_OF)
    assert check_cards(assessment.cards(), patient="Patient/p1") == []
    for change in said_on_cards(assessment):
        assert change["outcome"] in ("stops", "tier")
        assert change.get("tier") != tier_of_family(assessment, change["finding"], rulesets)
        assert_true(screener, record, change, rulesets)


@examples(1)
@given(record=records(), place=st.integers(0, 10_000), anywhere=st.booleans())
def test_every_change_that_an_explanation_names_has_the_effect_that_it_names(
    screener: Screener, rulesets: Rulesets, record: list[Json], place: int, anywhere: bool
) -> None:
    assessment = screener.screen(bundle(*record), AS_OF)
    fired = [rule for f in assessment.findings for rule in f.rules]
    near = sorted({*fired, *(n.rule for n in assessment.evaluation.not_evaluated)})
    every = sorted(rulesets.program.by_id)
    among = every if anywhere or not near else near
    rule = among[place % len(among)]
    before = assessment.explain(rule).fired
    for change in map(change_json, assessment.changes(rule)):
        if change["rule"]:
            assert change["outcome"] == ("stops" if before else "fires")
        if change["op"] == "without" and change["resource"] is None:
            continue  # several resources say it
        assert_true(screener, record, change, rulesets)


# One result of an analyte that is judged as it is measured, so that its value is its input.
_PLAIN = sorted(set(ANALYTES) - {"calcium", "creatine-kinase"})


@examples(2)
@given(
    data=st.data(),
    who=ADULTS,
    analyte=st.sampled_from(_PLAIN),
    present=st.lists(SIGN_NAMES, max_size=2, unique=True),
    limit=st.sampled_from([None, None, "low", "high"]),
)
def test_no_nearer_value_would_do(
    screener: Screener,
    rulesets: Rulesets,
    data: st.DataObject,
    who: Json,
    analyte: str,
    present: list[str],
    limit: str | None,
) -> None:
    sent = data.draw(values(analyte))
    own = data.draw(values(analyte))
    limits = {} if limit is None or own == 0 else {limit: own}
    others = [who, *(condition(sign) for sign in present)]

    def tier(value: Decimal, finding: str) -> int:
        record = bundle(*others, lab(analyte, value, **limits))
        return rank(tier_of_family(screener.screen(record, AS_OF), finding, rulesets))

    assessment = screener.screen(bundle(*others, lab(analyte, sent, **limits)), AS_OF)
    ends = {bound.value for bound in number_bounds(rulesets.program)[f"lab/{analyte}"]}
    ends |= set(limits.values())
    for change in said_on_cards(assessment):
        now = rank(tier_of_family(assessment, change["finding"], rulesets))
        then, named = rank(change.get("tier")), value_of(change)
        nearer = {end + beside for end in ends for beside in (-STEP, Decimal(0), STEP)}
        for value in nearer:
            if min(sent, named) < value < max(sent, named):
                found = tier(value, change["finding"])
                if then > now:
                    assert found <= now
                elif then > 0:
                    assert found >= now
                else:  # before the end there may be milder tiers
                    assert found > 0


@examples(1)
@given(
    value=st.integers(100, 500).map(lambda n: Decimal(n) / 100),
    signs=st.lists(st.sampled_from(["twitching", "palpitations"]), unique=True),
)
def test_of_one_abnormal_result_the_value_at_which_its_finding_stops_is_always_named(
    screener: Screener, value: Decimal, signs: list[str]
) -> None:
    record = bundle(patient(), lab("potassium", value), *(condition(s) for s in signs))
    assessment = screener.screen(record, AS_OF)
    found = {f.id for f in assessment.findings if f.family == "hypokalemia"}
    changes = [c for c in said_on_cards(assessment) if c["finding"] in found]
    ends = [c["value"] for c in changes if c["outcome"] == "stops"]
    assert ends == [3.5 if "twitching" in signs else 3] * len(found)


_TOTAL_CALCIUM = st.tuples(
    st.integers(120, 400).map(lambda n: lab("calcium-total", Decimal(n) / 100))
    | st.integers(50, 160).map(lambda n: lab("calcium-total", Decimal(n) / 10, "mg/dL")),
    st.integers(200, 500).map(lambda n: lab("albumin", Decimal(n) / 10)),
)
_CREATINE_KINASE = st.tuples(
    st.builds(
        lambda value, limit: lab("creatine-kinase", value, high=limit),
        st.integers(10, 20_000),
        st.none() | st.integers(100, 400),
    )
)
_CREATININE = st.builds(
    lambda low, high, unit: (
        lab("creatinine", low, unit, id="before", when=ago(hours=40)),
        lab("creatinine", high, unit, id="after", when=ago(hours=3)),
    ),
    st.integers(8, 25).map(lambda n: Decimal(n) / 10),
    st.integers(8, 60).map(lambda n: Decimal(n) / 10),
    st.just("mg/dL"),
)
_POTASSIUM = st.builds(
    lambda low, high: (
        lab("potassium", low, id="before", when=ago(hours=10)),
        lab("potassium", high, id="after", when=ago(hours=3)),
    ),
    st.integers(40, 60).map(lambda n: Decimal(n) / 10),
    st.integers(50, 70).map(lambda n: Decimal(n) / 10),
)


@examples(1)
@given(labs=st.one_of(_TOTAL_CALCIUM, _CREATINE_KINASE, _CREATININE, _POTASSIUM))
def test_what_is_computed_from_results_changes_as_the_result_sent_does(
    screener: Screener, rulesets: Rulesets, labs: tuple[Json, ...]
) -> None:
    record = [patient(), condition("twitching"), *labs]
    assessment = screener.screen(bundle(*record), AS_OF)
    changes = said_on_cards(assessment)
    families = {"hypocalcemia", "hypercalcemia", "creatine-kinase", "hyperkalemia", "kidney"}
    judged = {f.id for f in assessment.findings if f.family in families}
    assert {c["finding"] for c in changes if c["outcome"] == "stops"} == judged
    for change in changes:
        assert_true(screener, record, change, rulesets)


@examples(0.5)
@given(record=records(), order=st.randoms())
def test_the_order_of_resources_changes_no_byte_of_what_is_said(
    screener: Screener, record: list[Json], order: random.Random
) -> None:
    first = screener.screen(bundle(*record), AS_OF)
    shuffled = [*record]
    order.shuffle(shuffled)
    second = screener.screen(bundle(*shuffled), AS_OF)
    assert json.dumps(second.cards()) == json.dumps(first.cards())
    for finding in first.findings:
        assert second.changes(finding.rules[0]) == first.changes(finding.rules[0])
