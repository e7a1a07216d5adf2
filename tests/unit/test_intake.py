"""The intake questionnaire and what answers to it, and to other questionnaires, become."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import syllapy
from fhir.resources.R4B.questionnaire import Questionnaire as FhirQuestionnaire
from fhir.resources.R4B.questionnaireresponse import QuestionnaireResponse

from cds import Assessment, Screener, load_rulesets
from cds.errors import TerminologyError
from cds.fhir import Reader, ReadLog
from cds.lint.patient import grade
from cds.model import Presence, Record
from cds.questionnaires import ANSWER, Questionnaire
from cds.rules import Rulesets
from cds.shipped import shipped
from cds.terminology import load_terminology
from trial_rules import loaded, rule

Json = dict[str, Any]

FOLDER = shipped("fhir_examples") / "questionnaires"
URL = "urn:cds-twitch:questionnaire:twitching-intake"
CONCEPT = "urn:cds-twitch:concept"
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
WEAKNESS = {"system": SNOMED, "code": "26544005"}
AS_OF = "2026-11-01T00:00:00Z"
LAST_WEEK, YESTERDAY = "2026-10-25T08:00:00Z", "2026-10-31T08:00:00Z"


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def reader(rulesets: Rulesets) -> Reader:
    return Reader(rulesets.terminology)


@pytest.fixture(scope="module")
def known(rulesets: Rulesets) -> Questionnaire:
    return rulesets.terminology.questionnaires[URL]


# ------------------------------------------------------------ building and reading


def form() -> Json:
    loaded_: Json = orjson.loads((FOLDER / "twitching-intake.json").read_bytes())
    return loaded_


def items(owner: Json, *, leaves: bool = False) -> Iterator[Json]:
    """Every item of a Questionnaire; only those that can be answered if `leaves`."""
    for item in owner.get("item", ()):
        if not leaves or item["type"] not in ("group", "display"):
            yield item
        yield from items(item, leaves=leaves)


def boolean(value: bool) -> Json:
    return {"valueBoolean": value}


def coded(system: str, code: str) -> Json:
    return {"valueCoding": {"system": system, "code": code}}


def response(answers: dict[str, Any], **more: Any) -> Json:
    """A response; `answers` has for a linkId one answer or a list of them."""
    return {
        "resourceType": "QuestionnaireResponse",
        "id": "q",
        "status": "completed",
        "questionnaire": f"{URL}|1.0.0",
        "subject": {"reference": "Patient/p"},
        "authored": YESTERDAY,
        "item": [
            {"linkId": link, "answer": each if isinstance(each, list) else [each]}
            for link, each in answers.items()
        ],
        **more,
    }


def observation(code: Json, when: str, **value: Any) -> Json:
    return {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": [code]},
        "subject": {"reference": "Patient/p"},
        "effectiveDateTime": when,
        **value,
    }


def bundle(*resources: Json) -> Json:
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": each} for each in resources],
    }


def read(reader: Reader, *resources: Any) -> Record:
    log = ReadLog()
    (record,) = reader.read(list(resources), log)
    assert log.rejected == []
    return record


def said(record: Record, concept: str) -> list[bool | None]:
    return [p.present for p in record.presences if p.concept == concept]


def first(record: Record, concept: str) -> Presence:
    return next(p for p in record.presences if p.concept == concept)


def codes(record: Record) -> list[str]:
    return sorted(p.code for p in record.problems if p.code != "patient-missing")


def numbers(record: Record) -> list[tuple[str, str]]:
    return [(m.analyte, m.value.text if m.value else "") for m in record.measurements]


# ------------------------------------------------------------ the questionnaire


def test_the_questionnaire_is_valid_fhir() -> None:
    resource = FhirQuestionnaire.model_validate(form())
    assert resource.url == URL
    links = [item["linkId"] for item in items(form())]
    assert len(links) == len(set(links))


def test_every_question_is_mapped_or_listed_as_not_judged_and_nothing_else_is(
    known: Questionnaire,
) -> None:
    asked = {item["linkId"] for item in items(form(), leaves=True)}
    assert asked == set(known.by_link) | set(known.not_judged)


def test_every_choice_has_a_meaning_and_no_meaning_lacks_its_choice(
    known: Questionnaire, rulesets: Rulesets
) -> None:
    for item in items(form(), leaves=True):
        offered = {
            (c["system"], c["code"]) for o in item.get("answerOption", ()) for c in o.values()
        }
        question = known.by_link.get(item["linkId"])
        if not offered or question is None:
            assert not (question and question.answers)
            continue
        own = {code for system, code in offered if system == CONCEPT}
        assert own <= rulesets.terminology.value_sets.keys()
        assert {(c.system, c.code) for c in question.answers} == {
            pair for pair in offered if pair[0] != CONCEPT
        }


def test_none_of_these_denies_every_other_choice(known: Questionnaire) -> None:
    lists = 0
    for item in items(form(), leaves=True):
        question = known.by_link.get(item["linkId"])
        none = question.choice(ANSWER, "none") if question else None
        if none is not None:
            lists += 1
            offered = [o["valueCoding"]["code"] for o in item["answerOption"]]
            assert [*none.denies, "none"] == offered
    assert lists >= 8


def test_a_question_carries_the_code_of_the_concept_that_it_asks_for(
    known: Questionnaire, rulesets: Rulesets
) -> None:
    for item in items(form(), leaves=True):
        question = known.by_link.get(item["linkId"])
        if question is not None and len(question.says) == 1:
            own = [c["code"] for c in item["code"] if c["system"] == CONCEPT]
            assert own == list(question.says)
        for code in item.get("code", ()):
            if code["system"] == SNOMED:
                known_as = rulesets.terminology.value_sets[question.says[0]].codes
                assert (code["code"], code["display"]) in [(c.code, c.display) for c in known_as]


def test_urgent_questions_come_first_and_an_emergency_text_before_them() -> None:
    text, urgent, *_ = form()["item"]
    assert text["type"] == "display"
    assert "local emergency number" in text["text"]
    asked = [item["linkId"] for item in items(urgent, leaves=True)]
    assert {"breathless-flat", "swallowing", "face", "weakness", "bladder", "fit", "jaw"} <= set(
        asked
    )
    assert not {"coffee", "sleep", "first-noticed"} & set(asked)


def test_a_person_of_eighth_grade_can_read_it() -> None:
    names = [name.split() for name in ("motor neuron disease", "frontotemporal dementia", "als")]
    asked = [item for item in items(form()) if item["linkId"] != "examination"]
    asked = asked[: next(n for n, i in enumerate(asked) if i["linkId"] == "twitching-seen")]
    hard = {
        item["linkId"]: grade(item["text"], names, syllapy.count)
        for item in asked
        if grade(item["text"], names, syllapy.count) > 8
    }
    assert hard == {}


def test_conditional_questions_name_questions_before_them() -> None:
    before: set[str] = set()
    for item in items(form()):
        for when in item.get("enableWhen", ()):
            assert when["question"] in before
        before.add(item["linkId"])


# ------------------------------------------------------------ answers become facts


def yes_no_questions(known: Questionnaire) -> list[Any]:
    return [question for question in known.questions if question.says]


def test_a_yes_is_present_and_a_no_is_an_explicit_denial(
    reader: Reader, known: Questionnaire
) -> None:
    assert len(yes_no_questions(known)) > 50
    for question in yes_no_questions(known):
        yes = read(reader, response({question.link: boolean(True)}))
        no = read(reader, response({question.link: boolean(False)}))
        for concept in question.says:
            assert True in said(yes, concept)
            assert said(no, concept) == ([] if question.relative else [False])
            assert all(p.relative == question.relative for p in yes.presences)
        for concept in question.implies:
            assert True in said(yes, concept)
            assert said(no, concept) == []
        for concept in question.denies:
            assert said(yes, concept) == []
            assert said(no, concept) == [False]


def test_every_choice_and_every_yes_reaches_a_fact(
    rulesets: Rulesets, known: Questionnaire
) -> None:
    kinds = rulesets.terminology.value_sets
    answers: list[tuple[str, Json, tuple[str, ...], bool]] = [
        (q.link, boolean(True), q.says + q.implies, q.relative) for q in yes_no_questions(known)
    ]
    for item in items(form(), leaves=True):
        for option in item.get("answerOption", ()):
            coding = option["valueCoding"]
            choice = known.by_link[item["linkId"]].choice(coding["system"], coding["code"])
            stated = choice.says if choice else (coding["code"],)
            answers.append((item["linkId"], option, stated, False))
    wanted = {(c, relative) for *_, stated, relative in answers for c in stated}
    texts = [
        rule(f"has-{c}" + "-relative" * r, f"{{{'history' if r else kinds[c].kind}: {c}}}")
        for c, r in sorted(wanted)
        if r or kinds[c].kind != "history"
    ]
    screener = Screener(loaded(rulesets, *texts))
    for link, answer, stated, relative in answers:
        got = screener.screen(response({link: answer}), as_of=AS_OF)
        for concept in stated:
            if relative or kinds[concept].kind != "history":
                assert f"has-{concept}" + "-relative" * relative in got.fired, (link, concept)


def test_other_ways_to_say_yes_and_no(reader: Reader) -> None:
    for yes, no in (
        (coded(SNOMED, "373066001"), coded(SNOMED, "373067005")),
        (coded(LOINC, "LA33-6"), coded(LOINC, "LA32-8")),
        (
            coded("http://terminology.hl7.org/CodeSystem/v2-0136", "Y"),
            coded("http://terminology.hl7.org/CodeSystem/v2-0136", "N"),
        ),
    ):
        assert said(read(reader, response({"weakness": yes})), "weakness") == [True]
        assert said(read(reader, response({"weakness": no})), "weakness") == [False]


def test_questions_may_be_nested_and_answers_repeated(reader: Reader) -> None:
    deep = response({})
    deep["item"] = [
        {
            "linkId": "now",
            "item": [
                {
                    "linkId": "weakness",
                    "answer": [
                        {
                            "valueBoolean": True,
                            "item": [{"linkId": "saddle", "answer": [boolean(True)]}],
                        }
                    ],
                },
                {
                    "linkId": "feeling",
                    "answer": [coded(CONCEPT, "numbness"), coded(CONCEPT, "diplopia")],
                },
            ],
        }
    ]
    record = read(reader, deep)
    assert {"weakness", "saddle-numbness", "numbness", "diplopia"} <= {
        p.concept for p in record.presences if p.present
    }
    assert codes(record) == []


@pytest.mark.parametrize(
    "url", [URL, f"{URL}|7", pytest.param({"reference": URL}, id="as before R4")]
)
def test_any_version_of_the_questionnaire_counts(reader: Reader, url: Any) -> None:
    record = read(reader, response({"weakness": boolean(True)}, questionnaire=url))
    assert said(record, "weakness") == [True]


@pytest.mark.parametrize("authored", [None, "yesterday"])
def test_findings_without_a_time_do_not_count_and_that_is_said(
    weak: Screener, authored: str | None
) -> None:
    got = weak.screen(response({"weakness": boolean(True)}, authored=authored), as_of=AS_OF)
    assert "weak" not in got.fired
    assert "date-missing" in problems(got)


# ------------------------------------------------------------ since when


def test_when_it_was_first_noticed_is_the_onset_of_the_twitching(reader: Reader) -> None:
    record = read(
        reader,
        response(
            {
                "twitching": boolean(True),
                "where": coded(CONCEPT, "eyelid-myokymia"),
                "weakness": boolean(True),
                "first-noticed": {"valueDate": "2026-09-01"},
                "how-long": coded(ANSWER, "over-3-months"),
            }
        ),
    )
    for concept in ("twitching", "eyelid-myokymia"):
        onset = first(record, concept).onset
        assert onset is not None
        assert onset.text == "2026-09-01"
    assert first(record, "weakness").onset is None


@pytest.mark.parametrize(
    ("code", "longer", "within"),
    [("up-to-3-days", False, True), ("over-3-days", False, True), ("over-2-weeks", True, False)],
)
def test_how_long_it_has_lasted_is_known_as_at_least_that(
    rulesets: Rulesets, code: str, longer: bool, within: bool
) -> None:
    screener = Screener(
        loaded(
            rulesets,
            rule("longer", "{symptom: twitching, longer_than: P14D}"),
            rule("within", "{symptom: twitching, within: P14D}"),
        )
    )
    sent = response({"twitching": boolean(True), "how-long": coded(ANSWER, code)}, authored=AS_OF)
    fired = screener.screen(sent, as_of=AS_OF).fired
    assert ("longer" in fired, "within" in fired) == (longer, within)


def test_a_beginning_after_the_answer_is_not_used(reader: Reader) -> None:
    late = response({"twitching": boolean(True), "first-noticed": {"valueDate": "2026-12-24"}})
    record = read(reader, late)
    assert first(record, "twitching").onset is None
    assert codes(record) == ["date-invalid"]


# ------------------------------------------------------------ numbers


def test_drinks_are_added_up_to_caffeine(reader: Reader) -> None:
    cups = {
        "coffee": {"valueInteger": 2},
        "espresso": {"valueInteger": 0},
        "tea": {"valueDecimal": 1.5},
        "energy-drinks": {"valueQuantity": {"value": 1, "unit": "{can}", "code": "{can}"}},
        "cola": {"valueInteger": 1},
    }
    assert numbers(read(reader, response(cups))) == [("caffeine-intake", "375 mg/d")]


def test_what_was_not_answered_is_not_nothing(reader: Reader) -> None:
    record = read(reader, response({"coffee": {"valueInteger": 5}}))
    assert numbers(record) == [("caffeine-intake", ">=450 mg/d")]
    (measured,) = record.measurements
    assert measured.value is not None
    assert measured.value.comparator == ">="


def test_a_number_may_come_with_a_unit_that_converts(rulesets: Rulesets, reader: Reader) -> None:
    ucum = {"system": "http://unitsofmeasure.org", "code": "min"}
    minutes = response({"sleep": {"valueQuantity": {"value": 330, **ucum}}})
    assert numbers(read(reader, minutes)) == [("sleep-duration", "330 min")]
    screener = Screener(loaded(rulesets, rule("short", "{lab: sleep-duration, lt: 6, unit: h}")))
    assert "short" in screener.screen(minutes, as_of=AS_OF).fired
    assert "short" in screener.screen(response({"sleep": {"valueInteger": 5}}), as_of=AS_OF).fired
    assert (
        "short" not in screener.screen(response({"sleep": {"valueInteger": 6}}), as_of=AS_OF).fired
    )


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([{"valueInteger": 2}, {"valueInteger": 3}], "conflict"),
        ([{"valueInteger": -1}], "implausible"),
        ([{"valueQuantity": {"value": 2, "unit": "L"}}], "unit-unknown"),
        ([{"valueQuantity": {"value": 2, "comparator": "<"}}], "comparator-unknown"),
        ([{"valueInteger": "many"}], "not-numeric"),
    ],
)
def test_a_number_that_cannot_be_used_is_said(
    reader: Reader, answers: list[Json], problem: str
) -> None:
    record = read(reader, response({"coffee": answers, "tea": {"valueInteger": 1}}))
    assert problem in codes(record)
    assert numbers(record) == [("caffeine-intake", ">=50 mg/d")]  # the tea is known all the same


def test_the_same_number_twice_counts_once(reader: Reader) -> None:
    twice = response({"glasses": [{"valueInteger": 8}, {"valueInteger": 8}]})
    assert numbers(read(reader, twice)) == [("fluid-intake", "1920 mL/d")]


# ------------------------------------------------------------ medicines


def test_medicines_are_taken_as_written_or_coded(reader: Reader) -> None:
    record = read(
        reader,
        response(
            {
                "medicines": [
                    {"valueString": " water tablet "},
                    {"valueString": "None."},
                    coded("http://www.nlm.nih.gov/research/umls/rxnorm", "4603"),
                ]
            }
        ),
    )
    assert [(m.text, [c.code for c in m.codings], m.status) for m in record.medications] == [
        ("water tablet", [], "active"),
        ("", ["4603"], "active"),
    ]
    assert codes(record) == []


# ------------------------------------------------------------ what is not understood


def test_what_nobody_knows_is_counted_once_for_a_response(reader: Reader) -> None:
    record = read(
        reader,
        response(
            {
                "no-such-question": boolean(True),
                "": coded(SNOMED, "0"),
                "weakness": {"valueString": "a bit"},
                "anything-else": {"valueString": "I am fine"},
                "coffee": {"valueDate": "2026"},
            }
        ),
    )
    assert record.presences == []
    messages = {p.code: p.message for p in record.problems}
    assert messages["answer-not-known"].startswith("3 answers not used")
    assert messages["answer-not-coded"].startswith("2 answers not used")


def test_answers_to_an_unknown_questionnaire_are_not_dropped_in_silence(reader: Reader) -> None:
    sent = response({"weakness": boolean(True)}, questionnaire="https://hospital.example/q")
    record = read(reader, sent)
    assert record.presences == []
    assert codes(record) == ["answer-not-known"]


def test_no_message_quotes_an_answer(reader: Reader) -> None:
    secret = "Mueller"  # noqa: S105  a name, not a password
    sent = response(
        {
            secret: {"valueString": secret},
            "weakness": {"valueString": secret},
            "coffee": {"valueQuantity": {"value": secret, "unit": secret}},
            "medicines": {"valueString": secret},
            "first-noticed": {"valueDate": secret},
        }
    )
    sent["item"].append(secret)
    record = read(reader, sent)
    assert secret not in str(record.problems)
    assert "wrong-type" in codes(record)


# ------------------------------------------------------------ statuses, several responses


def test_what_was_entered_in_error_has_no_effect(reader: Reader) -> None:
    record = read(reader, response({"weakness": boolean(True)}, status="entered-in-error"))
    assert (record.presences, codes(record)) == ([], ["dropped-by-status"])


@pytest.mark.parametrize("status", ["in-progress", "stopped"])
def test_what_is_not_finished_affirms_but_takes_nothing_back(reader: Reader, status: str) -> None:
    sent = response({"weakness": boolean(True), "saddle": boolean(False)}, status=status)
    record = read(reader, sent)
    assert said(record, "weakness") == [True]
    assert said(record, "saddle-numbness") == []
    assert codes(record) == ["answers-unfinished"]


@pytest.fixture(scope="module")
def weak(rulesets: Rulesets) -> Screener:
    return Screener(loaded(rulesets, rule("weak", "{symptom: weakness}")))


def problems(assessment: Assessment) -> set[str]:
    return {p.code for p in assessment.evaluation.problems}


@pytest.mark.parametrize("newer_says", [True, False])
def test_the_newest_response_wins_whatever_the_order(weak: Screener, newer_says: bool) -> None:
    older = response({"weakness": boolean(not newer_says)}, id="a", authored=LAST_WEEK)
    newer = response({"weakness": boolean(newer_says)}, id="b", authored=YESTERDAY)
    for order in itertools.permutations((older, newer)):
        got = weak.screen(list(order), as_of=AS_OF)
        assert ("weak" in got.fired) == newer_says
        assert "conflict" in problems(got)


@pytest.mark.parametrize(("answered", "stays"), [(YESTERDAY, False), ("2026-10-01", True)])
def test_an_answer_and_an_observation_disagree(weak: Screener, answered: str, stays: bool) -> None:
    sent = [
        observation(WEAKNESS, LAST_WEEK, valueBoolean=True),
        response({"weakness": boolean(False)}, authored=answered),
    ]
    got = weak.screen(sent, as_of=AS_OF)
    assert ("weak" in got.fired) == stays
    assert "conflict" in problems(got)


@pytest.mark.parametrize(("hours", "disagree"), [(5, True), (8, False)])
def test_a_number_answered_and_one_observed_disagree_where_a_rule_would_care(
    rulesets: Rulesets, hours: int, disagree: bool
) -> None:
    screener = Screener(loaded(rulesets, rule("short", "{lab: sleep-duration, lt: 7, unit: h}")))
    code = {"system": LOINC, "code": "93832-4"}
    value = {"value": 9, "code": "h", "system": "http://unitsofmeasure.org"}
    observed = observation(code, LAST_WEEK, valueQuantity=value)
    answered = response({"sleep": {"valueInteger": hours}})
    for order in itertools.permutations((observed, answered)):
        got = screener.screen(list(order), as_of=AS_OF)
        assert ("short" in got.fired) == (hours < 7)
        assert ("conflict" in problems(got)) == disagree


# ------------------------------------------------------------ other questionnaires


@pytest.mark.parametrize(
    "link", ["93832-4", "/93832-4", "/54126-8/93832-4", "/54126-8/93832-4/1/1"]
)
def test_a_link_may_end_in_a_loinc_code(reader: Reader, link: str) -> None:
    answer = {"valueQuantity": {"value": 5, "unit": "h"}}
    record = read(reader, response({link: answer}, questionnaire="https://hospital.example/q"))
    assert numbers(record) == [("sleep-duration", "5 h")]
    assert codes(record) == []


def test_a_coded_answer_to_a_loinc_question_is_read_as_that_of_an_observation(
    reader: Reader,
) -> None:
    sent = response({"/93038-8": coded(LOINC, "LA13914-9")}, questionnaire="https://x.example/q")
    assert said(read(reader, sent), "stress") == [True]


def other_form(code: str = "26544005", **more: Any) -> Json:
    weak = {"linkId": "1", "type": "boolean", "code": [{"system": SNOMED, "code": code}]}
    slept = {
        "linkId": "2",
        "type": "decimal",
        "code": [{"system": LOINC, "code": "93832-4"}],
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/questionnaire-unit",
                "valueCoding": {"system": "http://unitsofmeasure.org", "code": "h"},
            }
        ],
    }
    return {
        "resourceType": "Questionnaire",
        "id": "form",
        "status": "active",
        "url": "https://hospital.example/q",
        "item": [{"linkId": "0", "type": "group", "item": [weak, slept]}],
        **more,
    }


ANSWERS = {"1": {"valueBoolean": True}, "2": {"valueDecimal": 5.5}}


def test_a_questionnaire_in_the_same_bundle_gives_the_codes_of_its_questions(
    reader: Reader,
) -> None:
    sent = response(ANSWERS, questionnaire="https://hospital.example/q|2")
    assert codes(read(reader, sent)) == ["answer-not-known"]
    for order in itertools.permutations((sent, other_form())):
        record = read(reader, bundle(*order))
        assert said(record, "weakness") == [True]
        assert numbers(record) == [("sleep-duration", "5.5 h")]
        assert codes(record) == []


def test_a_contained_questionnaire_gives_the_codes_of_its_questions(reader: Reader) -> None:
    sent = response(ANSWERS, questionnaire="#form", contained=[other_form()])
    record = read(reader, sent)
    assert said(record, "weakness") == [True]
    assert numbers(record) == [("sleep-duration", "5.5 h")]


def test_questionnaires_that_differ_say_nothing(reader: Reader) -> None:
    sent = response(ANSWERS, questionnaire="https://hospital.example/q")
    differs = other_form(code="91175000", id="other")
    record = read(reader, bundle(sent, other_form(), differs))
    assert record.presences == []
    assert codes(record) == ["answer-not-known"]


INSTITUTION = """\
version: 1.0.0
questionnaires:
  - url: https://hospital.example/q
    title: Ours
    questions:
      - {link: a1, says: [weakness]}
      - {link: a2, measures: sleep-duration, unit: min}
"""


def with_questions(folder: Path, text: str) -> Reader:
    (folder / "questionnaires.yaml").write_text(text, encoding="utf-8")
    return Reader(load_terminology(shipped("rulesets"), folder))


def test_an_institution_adds_its_own_questionnaires(tmp_path: Path) -> None:
    reader = with_questions(tmp_path, INSTITUTION)
    answers = {"a1": boolean(False), "a2": {"valueInteger": 400}}
    record = read(reader, response(answers, questionnaire="https://hospital.example/q"))
    assert said(record, "weakness") == [False]
    assert numbers(record) == [("sleep-duration", "400 min")]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("[weakness]", "[weaknes]", 6, "no such value set; did you mean 'weakness'?"),
        ("[weakness]", "[loop-diuretic]", 6, "no answer can state 'loop-diuretic'"),
        ("sleep-duration", "sleep", 7, "there is no analyte 'sleep'"),
        ("unit: min", "unit: kg", 7, "kg"),
        ("unit: min", "unit: min, each: 2", 7, "evidence"),
        ("unit: min", "unit: min, says: [weakness]", 7, "give one of"),
        (", unit: min", "", 7, "belong together"),
        ("link: a2", "link: a1", 3, "'a1' stands twice"),
        ("example/q", "example/q|1", 3, "leave the version out"),
        ("https://hospital.example/q", URL, 3, "stands twice"),
    ],
)
def test_a_mistake_in_a_mapping_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in INSTITUTION
    with pytest.raises(TerminologyError) as error:
        with_questions(tmp_path, INSTITUTION.replace(old, new))
    assert f"questionnaires.yaml:{line}: " in str(error.value)
    assert says in str(error.value)


# ------------------------------------------------------------ the value sets, the examples


def test_the_questionnaire_asks_for_every_concept_that_only_people_state(
    known: Questionnaire,
) -> None:
    text = (shipped("rulesets") / "valuesets" / "intake.yaml").read_text(encoding="utf-8")
    names = set(re.findall(r"^  - id: (\S+)$", text, re.MULTILINE))
    options = [o["valueCoding"] for i in items(form()) for o in i.get("answerOption", ())]
    asked = {c["code"] for c in options if c["system"] == CONCEPT}
    asked |= {c for q in known.questions for c in q.says}
    asked |= {c for q in known.questions for choice in q.answers for c in choice.says}
    assert names <= asked


def test_concepts_that_only_people_state_have_a_name_and_most_a_question(
    rulesets: Rulesets,
) -> None:
    text = (shipped("rulesets") / "valuesets" / "intake.yaml").read_text(encoding="utf-8")
    names = re.findall(r"^  - id: (\S+)$", text, re.MULTILINE)
    sets = rulesets.terminology.value_sets
    assert len(names) > 60
    for name in names:
        assert sets[name].codes or sets[name].uncoded
        assert "twitching" not in rulesets.terminology.included(name)
        asked = sets[name].ask
        assert asked is None or asked.endswith("?")
    unasked = {name for name in names if sets[name].ask is None}
    assert unasked == {
        "weakness-examined-normal",
        "examination-normal",
        "reflexes-lost",
        "ocular-clonus",
    }


@pytest.mark.parametrize("path", sorted(FOLDER.glob("response-*.json")), ids=lambda p: p.stem)
def test_a_response_alone_is_valid_and_wholly_understood(reader: Reader, path: Path) -> None:
    sent = orjson.loads(path.read_bytes())
    QuestionnaireResponse.model_validate(copy.deepcopy(sent))
    links = {item["linkId"] for item in items(form())}
    assert {item["linkId"] for item in items(sent)} <= links
    record = read(reader, sent)
    assert record.presences
    assert set(codes(record)) <= {"answers-unfinished", "answer-not-coded"}


def test_a_decimal_is_exact(reader: Reader) -> None:
    (measured,) = read(reader, response({"sleep": {"valueDecimal": 6.1}})).measurements
    assert measured.value is not None
    assert measured.value.value == Decimal("6.1")


def test_a_medicine_as_the_answer_to_an_unknown_question_is_not_taken(reader: Reader) -> None:
    rxnorm = coded("http://www.nlm.nih.gov/research/umls/rxnorm", "4603")
    record = read(reader, response({"x": rxnorm}, questionnaire="https://hospital.example/q"))
    assert record.medications == []
    assert codes(record) == ["answer-not-known"]


def test_what_is_known_but_wanted_by_no_loaded_rule_is_no_problem(rulesets: Rulesets) -> None:
    reader = Reader(rulesets.terminology, wanted=["weakness"])
    answers = {
        "saddle": boolean(True),
        "feeling": coded(CONCEPT, "diplopia"),
        "/93832-4": {"valueDecimal": 5},
        "x": coded(SNOMED, "80313002"),
    }
    record = read(reader, response(answers))
    assert (record.presences, codes(record)) == ([], [])
