"""What a clinician and a patient read on a card, and where it comes from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from cds.cards import because, placeholders, render
from cds.errors import CardError
from cds.model import Caveat, Evaluation, Fact, NotEvaluated, Source, Suppressed, Tier
from cds.program import Need
from cds.rulefile import CodeText, Evidence
from cds.rules import Rulesets
from cds.wording import Wording, Words, code_span, escape, one_line, shorten, utf8, when
from conformance.card_examples import (
    AGE,
    DAY,
    EVIDENCE,
    HEMOLYZED,
    HOOK,
    TEXTS,
    evaluation,
    finding,
    lab,
    rule,
    rulesets,
    source,
    text,
)
from conformance.card_invariants import check_cards, shown

ONE = rulesets([("electrolyte", rule())])


def card(
    e: Evaluation | None = None, r: Rulesets = ONE, *, audience: str = "clinician"
) -> dict[str, object]:
    cards = render(e or evaluation(), r, audience=audience)  # type: ignore[arg-type]
    assert len(cards) == 1
    assert check_cards(cards) == []
    return cards[0]


def with_text(**changes: object) -> Rulesets:
    return rulesets([("electrolyte", rule(card=text(**changes)))])


def read(e: Evaluation | None = None, r: Rulesets = ONE, *, audience: str = "clinician") -> str:
    """The detail as a reader sees it."""
    return shown(str(card(e, r, audience=audience)["detail"]))


# ---------------------------------------------------------------- which cards there are


def cards_of(*entries: tuple[str, str, Tier]) -> list[dict[str, object]]:
    """Cards of findings given as (id, group, tier)."""
    rules = rulesets([(group, rule(id_, tier=tier.name)) for id_, group, tier in entries])
    findings = [finding(id_, tier, group) for id_, group, tier in entries]
    cards = render(evaluation(*findings), rules)
    assert check_cards(cards) == []
    return cards


def test_nothing_found_gives_no_card():
    nothing = replace(evaluation(), findings=())
    assert render(nothing, ONE) == []
    assert render(nothing, ONE, audience="patient") == []


def test_findings_of_one_group_and_tier_share_a_card_and_the_others_do_not():
    cards = cards_of(
        ("sodium-low", "electrolyte", Tier.soon),
        ("magnesium-low", "electrolyte", Tier.urgent),
        ("potassium-low", "electrolyte", Tier.urgent),
        ("see-neurologist", "neurological-referral", Tier.urgent),
    )
    assert [c["summary"] for c in cards] == [
        "Potassium 2.4 mmol/L is severely low and 1 more",
        "Potassium 2.4 mmol/L is severely low",
        "Potassium 2.4 mmol/L is severely low",
    ]
    assert "Magnesium low" in cards[0]["detail"]
    assert "Potassium low" in cards[0]["detail"]
    assert "See neurologist" in cards[1]["detail"]
    assert "Sodium low" in cards[2]["detail"]


def test_info_and_routine_findings_of_lifestyle_workup_and_education_merge_into_one_card():
    cards = cards_of(
        ("sleep", "lifestyle", Tier.routine),
        ("missing-tests", "workup", Tier.info),
        ("about-twitching", "education", Tier.info),
        ("vitamin", "electrolyte", Tier.routine),
        ("smoking", "lifestyle", Tier.soon),
    )
    assert [c["indicator"] for c in cards] == ["warning", "info", "info"]
    merged = cards[2]
    assert merged["summary"].endswith(" and 2 more")
    for title in ("Sleep", "Missing tests (info)", "About twitching (info)"):
        assert title in shown(str(merged["detail"]))


@pytest.mark.parametrize(
    ("tier", "indicator", "priority"),
    [
        (Tier.emergency, "critical", "stat"),
        (Tier.urgent, "warning", "urgent"),
        (Tier.soon, "warning", "routine"),
        (Tier.routine, "info", "routine"),
        (Tier.info, "info", "routine"),
    ],
)
def test_the_tier_decides_indicator_and_priority_of_the_orders(tier, indicator, priority):
    r = rulesets([("electrolyte", rule(tier=tier.name, card=text(suggestions=("ecg",))))])
    got = card(evaluation(finding(tier=tier)), r)
    assert got["indicator"] == indicator
    assert got["suggestions"][0]["actions"][0]["resource"]["priority"] == priority
    assert got["detail"].startswith(f"Tier {tier.name}.")


def test_where_several_rules_assert_a_finding_those_of_its_tier_speak_and_all_give_evidence():
    other = Evidence(source="Second guideline", statement="also says so")
    r = rulesets(
        [
            ("electrolyte", rule("mild", tier="soon", finding="kidney", evidence=(other,))),
            ("electrolyte", rule("quiet", finding="kidney", card=None, step=True)),
            ("electrolyte", rule("severe", finding="kidney", card=text(detail="Act at once."))),
        ]
    )
    seen = read(evaluation(finding("kidney", rules=("severe", "quiet", "mild"))), r)
    assert "Act at once." in seen
    assert "Check the ECG" not in seen
    assert "Second guideline: also says so" in seen


def test_a_finding_without_any_card_text_is_an_error_that_names_it():
    r = rulesets([("electrolyte", rule("step", card=None, step=True))])
    with pytest.raises(CardError, match=r"finding 'step': none of its rules \(step\) has a card"):
        render(evaluation(finding("step")), r)


# ---------------------------------------------------------------- the summary


def test_the_summary_loses_its_full_stop_before_and_n_more():
    r = rulesets(
        [("electrolyte", rule(i, card=text(summary="Potassium is low."))) for i in ("a", "b", "c")]
    )
    assert card(evaluation(*(finding(i) for i in "abc")), r)["summary"] == (
        "Potassium is low and 2 more"
    )


@pytest.mark.parametrize("filler", ["word ", "\U0001f642 ", "long" * 80, "\U0001f642" * 90])
@pytest.mark.parametrize("findings", [1, 12])
def test_a_too_long_summary_is_cut_at_a_word_but_keeps_each_analyte_with_its_value(
    filler, findings
):
    summary = f"{filler * 60} {{potassium}} {filler * 60} {{magnesium}}"
    ids = [f"finding-{n}" for n in range(findings)]
    r = rulesets([("electrolyte", rule(i, card=text(summary=summary))) for i in ids])
    facts = (lab(), lab("magnesium", source("0.41")), AGE)
    got = card(evaluation(*(finding(i) for i in ids), facts=facts), r)["summary"]
    assert "… (potassium 2.4 mmol/L, magnesium 0.41 mmol/L)" in got
    assert got.endswith("and 11 more" if findings > 1 else "L)")
    assert len(got.encode("utf-16-le")) // 2 < 140


def test_a_too_long_summary_without_values_is_only_cut():
    whole = "low potassium " * 20
    got = card(r=with_text(summary=whole))["summary"]
    assert got[-1] == "…"
    assert whole.startswith(got[:-1] + " ")
    assert 120 < len(got) < 140


def test_a_summary_of_139_is_left_alone_and_one_of_140_is_not():
    for length, kept in ((139, True), (140, False)):
        sentence = "a" * 69 + " " + "b" * (length - 70)
        assert (card(r=with_text(summary=sentence))["summary"] == sentence) is kept


def test_a_summary_that_shows_nothing_gives_way_to_the_title():
    assert card(r=with_text(summary=" \u200b "))["summary"] == "Potassium low"


# ---------------------------------------------------------------- values in words


@pytest.mark.parametrize(
    ("value", "sent", "expected"),
    [
        ("2.4", "2.4 mmol/L", "2.4 mmol/L"),
        ("2.40", "2.40 mmol/L", "2.40 mmol/L"),
        ("2.43", "2.43 mmol/L", "2.43 mmol/L"),  # as the laboratory wrote it
        ("2.43219", "9.51 mg/dL", "2.4 mmol/L"),
        ("2.4996", "9.773 mg/dL", "2.4996 mmol/L"),  # never shown as 2.5, which is not below 2.5
        ("2.46", "9.6 mg/dL", "2.46 mmol/L"),  # 2.5 again
        ("3.4999999999999", "13.68 mg/dL", "3.4999999999999 mmol/L"),
        ("2.50004", "9.775 mg/dL", "2.50004 mmol/L"),
        ("2.56", "10.01 mg/dL", "2.6 mmol/L"),
        ("140", "140 mmol/L", "140.0 mmol/L"),
        ("1E+2", "100 mmol/L", "100.0 mmol/L"),
        ("-1E+300", "-1e300 mmol/L", "beyond -1000000000000000 mmol/L"),
        ("1E-7", "0.0000000001 mol/L", "0.0 mmol/L"),
        ("-0.01", "-0.01 mmol/dL", "-0.01 mmol/L"),
        ("-0.0001", "x", "0.0 mmol/L"),
        ("2.0", "<2.0 mmol/L", "<2.0 mmol/L"),
        ("2.0", " >= 7.82 mg/dL", ">=2.0 mmol/L"),
        ("1E+300", "1e300 mmol/L", "beyond 1000000000000000 mmol/L"),
    ],
)
def test_a_value_is_shown_in_plain_digits_on_its_own_side_of_every_threshold(value, sent, expected):
    e = evaluation(facts=(lab("potassium", source(value, sent=sent)), AGE))
    assert Wording(e, ONE).result("potassium").text == expected


def test_a_computed_value_is_rounded_even_where_no_rule_has_a_threshold():
    e = evaluation(facts=(lab("sodium", source("139.62", sent="321 mg/dL")), AGE))
    assert Wording(e, ONE).result("sodium").text == "140 mmol/L"


@pytest.mark.parametrize(
    ("analyte", "unit", "expected"),
    [
        ("egfr", "mL/min/{1.73_m2}", "28 mL/min/1.73 m2"),
        ("creatine-kinase-ratio", "1", "28.0"),
        ("potassium", "m[IU]/L", "28.0 mIU/L"),
        ("potassium", None, "28.0"),
    ],
)
def test_ucum_brackets_are_not_shown_to_people(analyte, unit, expected):
    e = evaluation(facts=(lab(analyte, source("28", unit=unit)),))
    assert Wording(e, ONE).result(analyte).text == expected


def test_a_range_is_shown_as_sent_because_it_has_no_one_value():
    fact = lab("potassium", source("2.0", sent="2.0-2.4 mmol/L"))
    fact = replace(fact, props={"low": 48000, "high": 40000, "age": DAY})
    e = evaluation(facts=(fact, AGE))
    assert card(e)["summary"] == "Potassium 2.0-2.4 mmol/L is severely low"
    assert "Potassium `2.0-2.4 mmol/L`, 2026-10-31 08:00 UTC\n" in card(e)["detail"]


def test_two_results_of_which_nobody_knows_the_later_are_both_shown():
    both = (source("4.0", resource="Observation/a"), source("6.8", resource="Observation/b"))
    e = evaluation(facts=(lab("potassium", *both), AGE))
    assert card(e)["summary"] == "Potassium 4.0 mmol/L or 6.8 mmol/L is severely low"


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        ("2026-10-31T08:00:00Z", Words("2026-10-31 08:00 UTC")),
        ("2026-10-31T08:00:09.25+01:00", Words("2026-10-31 08:00 +01:00")),
        ("2026-10-31T08:00", Words("2026-10-31 08:00")),
        ("2026-10-31", Words("2026-10-31")),
        ("2026", Words("2026")),
        ("2026-01-01/", Words("from 2026-01-01")),
        ("/2026-01", Words("until 2026-01")),
        ("2026-01-01/2026-02-01", Words("2026-01-01 to 2026-02-01")),
        (None, Words("undated")),
        ("/", Words("/", sent=True)),
        ("yesterday/2026", Words("yesterday/2026", sent=True)),
    ],
)
def test_dates_are_shown_as_precisely_as_they_were_sent(effective, expected):
    assert when(effective) == expected


# ---------------------------------------------------------------- placeholders


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("K {potassium}.", "K 2.4 mmol/L."),
        ("of {potassium.date}", "of 2026-10-31"),
        ("sent {potassium.sent}", "sent 9.4 mg/dL"),
        ("{age_days} days old", "12 days old"),
        ("Mg {magnesium}", "Mg (no result)"),
        ("Mg {magnesium.date}", "Mg undated"),
        ("{sodium} and {sodium.sent}", "(no value) and (no value)"),
    ],
)
def test_placeholders_stand_for_the_judged_result(template, expected):
    k = lab("potassium", source("2.4", sent="9.4 mg/dL"), age=12 * DAY + 5)
    sodium = Fact("lab/sodium", "lab", "sodium", {}, ())
    e = evaluation(facts=(k, sodium, AGE))
    assert card(e, with_text(summary=template))["summary"] == expected
    assert expected in read(e, with_text(detail=template))


def test_the_age_of_a_result_is_unknown_where_the_finding_rests_on_none():
    e = evaluation(finding(because=("patient/age",)))
    assert card(e, with_text(summary="{age_days} days"))["summary"] == ("an unknown number of days")


@pytest.mark.parametrize("name", ["kalium", "potassium.value", "", "cramp", "age"])
@pytest.mark.parametrize("member", ["summary", "detail", "patient"])
def test_an_unknown_placeholder_is_an_error_that_names_rule_and_placeholder(name, member):
    r = with_text(**{member: f"Value {{{name}}}", "patient_summary": "Call us"})
    with pytest.raises(CardError) as error:
        render(evaluation(), r, audience="patient" if member == "patient" else "clinician")
    assert str(error.value).startswith(f"rule 'potassium-low': unknown placeholder '{{{name}}}'")


def test_placeholders_of_a_text_can_be_listed_for_lint():
    assert placeholders("{potassium} of {potassium.date}, {potassium}") == {
        "potassium",
        "potassium.date",
    }
    assert placeholders("none") == set()


# ---------------------------------------------------------------- the detail for a clinician


def test_the_detail_names_value_date_as_sent_range_doubt_text_evidence_and_state_of_review():
    k = source("2.4", sent="9.4 mg/dL", laboratory_range="3.5 to 5.1", doubts=(HEMOLYZED,))
    e = evaluation(
        facts=(lab("potassium", k), AGE),
        not_evaluated=(
            NotEvaluated("r1", "missing", "magnesium"),
            NotEvaluated("r2", "missing", "magnesium"),
            NotEvaluated("r2", "missing", "cramp"),
            NotEvaluated("r3", "stale", "sodium"),
            NotEvaluated("r4", "population", "age of 18 years or more"),
        ),
    )
    assert read(e).split("\n") == [
        "Tier emergency.",
        "Potassium low",
        "Potassium 2.4 mmol/L, 2026-10-31 08:00 UTC (sent as 9.4 mg/dL; "
        "laboratory range 3.5 to 5.1)",
        "Caution: The sample may be hemolyzed: repeat it.",
        "Potassium was 2.4 mmol/L on 2026-10-31. Check the ECG.",
        "Evidence: Example guideline (2023, 2.1): below 2.5 is severe",
        "Not evaluated (too old: sodium; population: age of 18 years or more; "
        "no result on record: magnesium).",
        "Draft: no clinician has signed this rule (potassium-low, electrolyte 1.2.0).",
        "Decision support only. A missing test is not a normal test.",
    ]


def test_what_could_not_be_evaluated_stands_on_the_first_card_only():
    r = rulesets([("electrolyte", rule("a")), ("medication", rule("b"))])
    e = evaluation(
        finding("a"),
        finding("b", group="medication"),
        not_evaluated=tuple(NotEvaluated("r", "stale", f"test-{n}") for n in range(9)),
    )
    first, second = render(e, r)
    assert "(too old: test 0, " in first["detail"]
    assert "test 5, and 3 more)." in first["detail"]
    assert "Not evaluated" not in second["detail"]


def test_symptoms_and_medicines_that_nobody_recorded_are_not_listed_as_not_evaluated():
    """Only results: a list of all that could be asked would have no end."""
    missing = [NotEvaluated("r", "missing", name) for name in ("magnesium", "cramp", "ssri")]
    r = rulesets([("electrolyte", rule("a"))])
    (card,) = render(evaluation(finding("a"), not_evaluated=tuple(missing)), r)
    assert "(no result on record: magnesium)." in card["detail"]


def test_an_unknown_age_is_said_where_limits_for_adults_were_used():
    nobody_knows = evaluation(facts=(lab(),))
    assert TEXTS.age_unknown in read(nobody_knows)
    assert TEXTS.age_unknown not in read(evaluation())
    any_age = rulesets([("electrolyte", rule(population="any"))])
    assert TEXTS.age_unknown not in read(nobody_knows, any_age)


def test_states_of_review_are_told_apart():
    r = rulesets([("electrolyte", rule("a", review="approved")), ("electrolyte", rule("b"))])
    seen = read(evaluation(finding("a"), finding("b")), r)
    assert "no clinician has signed this rule (b, electrolyte 1.2.0). Signed" in seen
    assert "Signed by a clinician (a, electrolyte 1.2.0)." in seen


def test_a_proposal_without_a_source_says_so():
    proposal = EVIDENCE.model_copy(update={"from_knowledge": True, "section": None})
    seen = read(r=rulesets([("electrolyte", rule(evidence=(proposal,)))]))
    assert "Proposal, no source read: Example guideline (2023): below 2.5" in seen


def test_a_caveat_is_shown_with_its_values_and_its_rule_is_in_the_provenance():
    warning = rule(
        "edta", caveat_for=("hyperkalemia",), card=text(detail="Repeat: potassium {potassium}.")
    )
    caveat = Caveat(
        "edta",
        "Tube additive?",
        warning.card.detail,
        ("edta",),
        ("lab/magnesium", "lab/potassium"),
    )
    r = rulesets([("electrolyte", rule()), ("electrolyte", warning)])
    mg = lab("magnesium", source("0.5", resource="Observation/mg"))
    e = evaluation(finding(caveats=(caveat,)), facts=(lab(), mg, AGE))
    assert (
        "Caution: Tube additive?. Repeat: potassium 2.4 mmol/L.\n"
        "Magnesium 0.50 mmol/L, 2026-10-31 08:00 UTC\n"
    ) in read(e, r)
    provenance = card(e, r)["extension"]["org.cds-twitch.provenance"]
    assert [entry["id"] for entry in provenance["rules"]] == ["potassium-low", "edta"]
    assert provenance["resources"] == ["Observation/k1", "Observation/mg"]


NEEDS = (
    Need("no-result", "magnesium", "P90D", 90 * DAY),
    Need("rise", "potassium", "PT12H", 43_200),
    Need("ratio", "potassium", "P7D", 7 * DAY),
)


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (Fact("no-result/magnesium/P90D", "absence", "magnesium", {}),
         "No usable result within 90 days: magnesium"),
        (Fact("rise/potassium/PT12H", "trend", "potassium", {"amount": 1, "age": 0},
              (source("4.9"), source("5.6", effective="2026-10-31T14:00:00Z"))),
         "Potassium, rise within 12 hours: 4.9 mmol/L, 2026-10-31 08:00 UTC; "
         "5.6 mmol/L, 2026-10-31 14:00 UTC"),
        (Fact("ratio/potassium/P7D", "trend", "potassium", {"amount": 1, "age": 0}, (source(),)),
         "Potassium, against the lowest within 7 days: 2.4 mmol/L, 2026-10-31 08:00 UTC"),
        (Fact("ratio/potassium/P9D", "trend", "potassium", {"amount": 1, "age": 0}),
         "Potassium, against the lowest:"),
        (Fact("symptom/cramp", "symptom", "cramp", {},
              (Source("Condition/c", "2026-10-20"), Source("Condition/d"))),
         "Muscle cramp, 2026-10-20; undated"),
        (Fact("history/cramp", "history", "cramp", {}, (Source("FamilyMemberHistory/f"),)),
         "In the family: muscle cramp, undated"),
        (Fact("medication/loop-diuretic", "medication", "loop-diuretic", {},
              (Source("MedicationStatement/m", "2026-01-01/"),)),
         "Loop diuretic, from 2026-01-01"),
        (Fact("quality/implausible/potassium", "quality", "implausible", {},
              (source(None, sent="999 mmol/L"),)),
         "Data in doubt: implausible: potassium 999 mmol/L, 2026-10-31 08:00 UTC"),
        (Fact("sex/female", "demographic", "sex", {}, (Source("Patient/p1"),)), "Sex: female"),
        (AGE, "Age: 56 years"),
    ],
    ids=lambda value: value.key if isinstance(value, Fact) else "",
)  # fmt: skip
def test_every_kind_of_fact_is_named_with_value_and_date(fact, expected):
    e = evaluation(finding(because=(fact.key,)), facts=(fact, AGE))
    r = rulesets([("electrolyte", rule(card=text(summary="x", detail="y")))], needs=NEEDS)
    assert expected in read(e, r).split("\n")


def test_many_sources_of_one_fact_are_counted_not_listed():
    many = tuple(Source(f"Condition/{n}", f"2026-10-{n:02}") for n in range(1, 21))
    cramp = Fact("symptom/cramp", "symptom", "cramp", {}, many)
    e = evaluation(finding(because=(cramp.key,)), facts=(cramp, lab(), AGE))
    assert "2026-10-06; and 14 more" in read(e)


def test_what_earlier_findings_rest_on_is_shown_once_however_they_are_linked():
    facts = (lab(), Fact("symptom/cramp", "symptom", "cramp", {}), AGE)
    hidden = finding("hidden", because=("symptom/cramp", "finding/potassium-low"))
    e = evaluation(
        finding(because=("finding/step", "finding/hidden", "finding/unknown", "lab/unknown")),
        facts=facts,
        suppressed=(Suppressed(hidden, "superseded"),),
        steps={"step": ("lab/potassium", "finding/hidden")},
    )
    lines = read(e).split("\n")
    assert lines[2:4] == ["Potassium 2.4 mmol/L, 2026-10-31 08:00 UTC", "Muscle cramp"]
    assert lines[4].startswith("Potassium was")


# ---------------------------------------------------------------- texts of a sender


HOSTILE = (
    "<script>alert(1)</script> `x` | [a](javascript:b) **b** &lt; # https://evil.example \n- 1."
)


def test_what_a_sender_wrote_is_shown_to_the_letter_and_is_never_markup():
    k = source("2.4", sent=HOSTILE, laboratory_range=HOSTILE, effective=HOSTILE)
    e = evaluation(facts=(lab("potassium", k), AGE))
    seen = read(e, with_text(detail="As sent: {potassium.sent}. Of {potassium.date}."))
    assert seen.count(one_line(HOSTILE)) == 5


def test_a_comparator_in_a_text_of_ours_stays_a_comparator():
    e = evaluation(facts=(lab("potassium", source("2.0", sent="<2.0 mmol/L")), AGE))
    assert "Potassium <2.0 mmol/L, 2026-10-31" in read(e)


def test_html_in_a_rule_text_is_shown_not_interpreted():
    r = with_text(detail="Below <b>2.5</b>, so <{potassium} <3 <!-- x --> <https://x.example>")
    assert "Below <b>2.5</b>, so <2.4 mmol/L <3 <!-- x -->" in read(r=r)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain", "`plain`"),
        ("`", "`` ` ``"),
        ("a``b", "```a``b```"),
        ("two\nlines\x00\u202e", "`two lines`"),
        ("  ", ""),
        ("x" * 500, f"`{'x' * 119}…`"),
    ],
)
def test_a_code_span_holds_any_text(raw, expected):
    assert code_span(raw) == expected


def test_text_helpers_keep_what_a_reader_needs():
    assert escape("a*b_c [d] <e> & #1 ~ | ` \\") == (r"a\*b\_c \[d\] \<e\> \& \#1 \~ \| \` \\")
    assert one_line("  a  b ") == "a b"
    assert shorten("one two three", 9) == "one two…"
    assert shorten("\U0001f642" * 5, 4) == "\U0001f642…"
    assert shorten("\U0001f642" * 5, 6) == "\U0001f642\U0001f642…"
    assert utf8("ä\ud800") == "ä\ufffd"
    assert utf8("\U0001f642") == "\U0001f642"


# ---------------------------------------------------------------- source, links, orders


def test_the_source_is_the_first_evidence_of_the_top_finding_and_the_others_are_links():
    urls = (
        "https://example.org/b", "http://example.org/plain", None, "https://example.org/guideline",
        "https://example.org/b", "https://bad host/", "javascript:alert(1)",
    )  # fmt: skip
    others = tuple(Evidence(source=f"Source {n}", statement="s", url=u, year=2020 + n)
                   for n, u in enumerate(urls))  # fmt: skip
    r = rulesets([("electrolyte", rule("a")), ("electrolyte", rule("b", evidence=others))])
    got = card(evaluation(finding("a"), finding("b")), r)
    assert got["source"] == {
        "label": "Example guideline",
        "url": "https://example.org/guideline",
        "topic": {
            "code": "electrolyte",
            "system": "urn:example:group",
            "display": "Electrolyte",
        },
    }
    assert got["links"] == [
        {"label": "Source 0 (2020)", "url": "https://example.org/b", "type": "absolute"}
    ]


def test_a_source_without_address_or_topic_has_a_label_only():
    bare = EVIDENCE.model_copy(update={"url": None})
    r = rulesets(
        [("electrolyte", rule(evidence=(bare,)))], texts=TEXTS.model_copy(update={"groups": {}})
    )
    assert card(r=r)["source"] == {"label": "Example guideline"}
    assert "links" not in card(r=r)


def test_each_suggestion_is_offered_once_as_draft_orders_for_the_patient():
    r = rulesets(
        [
            ("electrolyte", rule("a", card=text(suggestions=("panel",)))),
            ("electrolyte", rule("b", card=text(suggestions=("ecg", "panel")))),
        ]
    )
    got = card(evaluation(finding("a"), finding("b")), r)
    assert [s["label"] for s in got["suggestions"]] == ["Order electrolytes", "Order an ECG"]
    assert got["selectionBehavior"] == "any"
    first = got["suggestions"][0]["actions"][0]
    assert first == {
        "type": "create",
        "description": "Potassium, today",
        "resource": {
            "resourceType": "ServiceRequest",
            "status": "draft",
            "intent": "proposal",
            "priority": "stat",
            "code": {
                "coding": [
                    {"code": "2823-3", "system": "http://loinc.org", "display": "Potassium"}
                ],
                "text": "Potassium",
            },
            "subject": {"reference": "Patient/p1"},
            "authoredOn": "2026-11-01T12:00:00Z",
            "reasonCode": [{"text": "A"}],
        },
    }


def test_an_order_carries_the_category_that_cards_yaml_gives_it():
    category = CodeText(system="urn:example:category", code="lab", display="Laboratory")
    panel = TEXTS.suggestions["ecg"]
    with_category = panel.model_copy(
        update={"orders": (panel.orders[0].model_copy(update={"category": category}),)}
    )
    texts = TEXTS.model_copy(update={"suggestions": {"ecg": with_category}})
    r = rulesets([("electrolyte", rule(card=text(suggestions=("ecg",))))], texts=texts)
    order = card(r=r)["suggestions"][0]["actions"][0]["resource"]
    assert order["category"][0]["coding"][0]["code"] == "lab"


def test_an_unknown_suggestion_is_an_error_that_names_rule_and_suggestion():
    with pytest.raises(
        CardError, match=r"rule 'potassium-low': suggestion 'xray' is not in cards\.yaml"
    ):
        render(evaluation(), with_text(suggestions=("xray",)))


def test_without_suggestions_and_reasons_their_members_are_left_out():
    r = rulesets([("electrolyte", rule())], texts=TEXTS.model_copy(update={"override_reasons": ()}))
    assert (
        card(r=r)
        .keys()
        .isdisjoint({"suggestions", "selectionBehavior", "overrideReasons", "links"})
    )


# ---------------------------------------------------------------- identity


def test_the_same_call_gives_the_same_bytes_and_anything_else_another_uuid():
    r = with_text(suggestions=("panel", "ecg"))

    def ids(e: Evaluation = evaluation(), r: Rulesets = r, **options: str) -> set[str]:  # noqa: B008
        (got,) = render(e, r, **options)
        return {got["uuid"], *(s["uuid"] for s in got.get("suggestions", ()))}

    assert json.dumps(render(evaluation(), r)) == json.dumps(render(evaluation(), r))
    others = [
        ids(),
        ids(hook_instance=HOOK),
        ids(audience="patient"),
        ids(evaluation(patient="Patient/p2")),
        ids(evaluation(as_of=evaluation().as_of + 1)),
        ids(evaluation(finding(tier=Tier.urgent))),
        ids(evaluation(finding(group="medication"))),
        ids(r=rulesets([("other", rule(card=text(suggestions=("panel",))))])),
    ]
    assert sum(map(len, others)) == len(set().union(*others))
    later = evaluation(as_of=evaluation().as_of + 60)
    assert ids(later, hook_instance=HOOK) == ids(hook_instance=HOOK)


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_a_card_takes_the_order_in_which_findings_stand(order):
    card_of = {i: text(summary=f"Summary {i}", suggestions=()) for i in "abc"}
    r = rulesets([("electrolyte", rule(i, card=card_of[i])) for i in "abc"])
    (got,) = render(evaluation(*(finding(i) for i in order)), r)
    assert got["summary"] == f"Summary {order[0]} and 2 more"
    titles = re.findall(r"^\*\*([ABC])\*\*$", str(got["detail"]), re.MULTILINE)
    assert titles == list(order.upper())
    rules = got["extension"]["org.cds-twitch.provenance"]["rules"]
    assert [entry["id"] for entry in rules] == list(order)


def test_the_provenance_names_rules_versions_digest_and_resources():
    assert card()["extension"] == {
        "org.cds-twitch.provenance": {
            "as_of": "2026-11-01T12:00:00Z",
            "digest": ONE.digest,
            "rules": [
                {
                    "id": "potassium-low",
                    "finding": "potassium-low",
                    "group": "electrolyte",
                    "version": "1.2.0",
                    "review": "draft",
                }
            ],
            "resources": ["Observation/k1"],
        }
    }


# ---------------------------------------------------------------- the patient


def for_patient(tier: Tier, **changes: object) -> tuple[dict[str, object], str]:
    r = rulesets([("electrolyte", rule(tier=tier.name, card=text(**changes)))])
    got = card(evaluation(finding(tier=tier)), r, audience="patient")
    return got, shown(str(got["detail"]))


def test_a_patient_reads_what_to_do_the_patient_text_and_the_disclaimer_and_nothing_else():
    got, seen = for_patient(Tier.soon, patient="Your potassium was {potassium}.")
    assert seen.split("\n") == [
        "Call your doctor's office in the next few days.",
        "Your potassium was 2.4 mmol/L.",
        "A computer wrote this. If you feel worse, get help.",
    ]
    assert got["summary"] == "Call your doctor's office in the next few days."
    assert got["source"].keys() == {"label", "topic"}
    assert got.keys().isdisjoint({"suggestions", "selectionBehavior", "overrideReasons", "links"})


def test_in_an_emergency_a_patient_gets_no_number_to_interpret():
    got, seen = for_patient(
        Tier.emergency,
        patient="We saw {potassium} ({potassium.sent}) on {potassium.date}.",
        patient_summary="Call now: {potassium} " + "is dangerous " * 20,
    )
    assert "We saw your result (your result) on 2026-10-31." in seen
    assert got["summary"].startswith("Call now: your result is dangerous")
    assert "2.4" not in json.dumps(got)


def test_a_patient_summary_counts_the_others_but_a_bare_instruction_does_not():
    rules = [
        ("electrolyte", rule(i, card=text(patient_summary=s, patient=f"Text {i}.")))
        for i, s in (("a", "Your potassium is low"), ("b", None))
    ]
    both = render(evaluation(finding("a"), finding("b")), rulesets(rules), audience="patient")
    assert both[0]["summary"] == "Your potassium is low and 1 more"
    assert "Text a.\n\nText b." in both[0]["detail"]
    other = render(
        evaluation(finding("b"), finding("c")),
        rulesets([*rules, ("electrolyte", rule("c"))]),
        audience="patient",
    )
    assert other[0]["summary"] == "Call your local emergency number now."


def test_without_a_sentence_for_the_tier_the_patient_text_itself_is_the_summary():
    texts = TEXTS.model_copy(update={"patient_tiers": {}})
    r = rulesets([("electrolyte", rule(card=text(patient="Please call us.")))], texts=texts)
    got = card(r=r, audience="patient")
    assert got["summary"] == "Please call us."
    assert shown(got["detail"]).startswith("Please call us.\nA computer")


# ---------------------------------------------------------------- because, as JSON


def test_because_gives_each_source_as_sent_and_as_converted():
    k = source("2.4", sent="9.4 mg/dL", laboratory_range="3.5 to 5.1", doubts=(HEMOLYZED,))
    e = evaluation(
        facts=(
            lab("potassium", k),
            Fact("no-result/magnesium/P90D", "absence", "magnesium", {}),
            Fact("symptom/cramp", "symptom", "cramp", {}, (Source("Condition/c"),)),
        )
    )
    keys = ("finding/step", "lab/potassium", "no-result/magnesium/P90D", "symptom/cramp")
    assert because(e, keys) == [
        {"kind": "finding", "id": "step"},
        {
            "kind": "lab",
            "concept": "potassium",
            "value": 2.4,
            "unit": "mmol/L",
            "sent": "9.4 mg/dL",
            "effective": "2026-10-31T08:00:00Z",
            "resource": "Observation/k1",
            "range": "3.5 to 5.1",
            "doubts": ["hemolyzed"],
        },
        {"kind": "absence", "concept": "magnesium", "aspect": "P90D"},
        {"kind": "symptom", "concept": "cramp", "resource": "Condition/c"},
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("140", 140),
        ("140.0", 140),
        ("0", 0),
        ("2.4", 2.4),
        ("2.43219876543", 2.432199),
        ("0.000123456789", 0.000123457),
        ("2.49999999999", 2.49999999999),  # six decimals would be 2.5
        ("NaN", None),
        ("1E+400", None),
    ],
)
def test_numbers_in_json_are_short_but_never_cross_a_threshold(value, expected):
    (entry,) = because(evaluation(facts=(lab("potassium", source(value)),)), ("lab/potassium",))
    assert entry.get("value") == expected
    assert type(entry.get("value")) is type(expected)
    assert ("unit" in entry) is (expected is not None)


def test_lone_surrogates_never_reach_the_json():
    odd = source(sent="\ud800", resource="Observation/\udfff", effective="\ud800")
    e = evaluation(facts=(lab("potassium", odd), AGE), patient="Patient/\ud800")
    r = with_text(suggestions=("panel",))
    json.dumps(render(e, r), ensure_ascii=False).encode()
    json.dumps(because(e, ("lab/potassium",)), ensure_ascii=False).encode()


def test_decimals_without_end_are_never_needed():
    """A value as close to the threshold as a conversion can bring it is still told apart."""
    close = Decimal("2.5") - Decimal(10) ** -27
    e = evaluation(facts=(lab("potassium", source(str(close), sent="x")), AGE))
    assert Wording(e, ONE).result("potassium").text == f"{close} mmol/L"
