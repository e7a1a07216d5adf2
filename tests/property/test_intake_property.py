"""Answers of any shape never end a run, never vanish, and the newest of them count."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds import Screener
from cds.fhir import Reader, ReadLog
from cds.model import Record
from cds.rules import Rulesets
from cds.shipped import shipped
from trial_rules import loaded, rule

Json = dict[str, Any]

URL = "urn:cds-twitch:questionnaire:twitching-intake"
FORM = orjson.loads(
    (shipped("fhir_examples") / "questionnaires" / "twitching-intake.json").read_bytes()
)
AS_OF = "2026-11-01T00:00:00Z"


def _links(owner: Json) -> list[str]:
    found = []
    for item in owner.get("item", ()):
        found += [item["linkId"], *_links(item)]
    return found


LINKS = _links(FORM)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-10, 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "yes", "2026-10", "none", "x"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
CODINGS = st.fixed_dictionaries(
    {
        "system": st.sampled_from(
            ["urn:cds-twitch:concept", "urn:cds-twitch:answer", "http://snomed.info/sct", 7]
        ),
        "code": st.sampled_from(
            ["none", "severe", "numbness", "373067005", "26544005", "over-2-weeks"]
        )
        | JUNK,
    }
)
VALUES = st.sampled_from(
    [
        "valueBoolean",
        "valueInteger",
        "valueDecimal",
        "valueDate",
        "valueString",
        "valueCoding",
        "valueQuantity",
        "valueReference",
        "value",
    ]
)
ANSWERS = st.dictionaries(VALUES, CODINGS | JUNK, max_size=2) | JUNK
NODES = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "linkId": st.sampled_from([*LINKS, "/93832-4", "nobody knows"]) | JUNK,
            "answer": st.lists(ANSWERS, max_size=3) | ANSWERS,
        },
    )
    | JUNK,
    lambda inner: st.fixed_dictionaries(
        {"linkId": st.sampled_from(LINKS), "item": st.lists(inner, max_size=3) | inner}
    ),
    max_leaves=6,
)


def response(items: object, id_: str = "q", authored: object = "2026-10-31") -> Json:
    return {
        "resourceType": "QuestionnaireResponse",
        "id": id_,
        "status": "completed",
        "questionnaire": URL,
        "subject": {"reference": "Patient/p"},
        "authored": authored,
        "item": items,
    }


def patient() -> Json:
    return {"resourceType": "Patient", "id": "p", "birthDate": "1970-01-01"}


@pytest.fixture(scope="module")
def reader(rulesets: Rulesets) -> Reader:
    return Reader(rulesets.terminology)


def read(reader: Reader, *resources: Json) -> tuple[Record, ReadLog]:
    log = ReadLog()
    (record,) = reader.read([patient(), *resources], log)
    return record, log


@given(items=NODES | st.lists(NODES, max_size=4), authored=st.just("2026-10-31") | JUNK)
def test_answers_of_any_shape_are_read_and_counted(
    reader: Reader, screener: Screener, items: object, authored: object
) -> None:
    sent = response(items, authored=authored)
    _, log = read(reader, sent)
    assert log.rejected == []
    assert log.used + sum(log.skipped.values()) == 2
    screener.screen([patient(), sent], as_of=AS_OF)


@given(answers=st.lists(ANSWERS, min_size=1, max_size=6))
def test_no_answer_to_an_unknown_question_vanishes(reader: Reader, answers: list[Any]) -> None:
    values = [{"valueString": "x"} if a is None else a for a in answers]
    record, _ = read(reader, response([{"linkId": "nobody knows", "answer": values}]))
    counted = 0
    for problem in record.problems:
        if problem.code in ("answer-not-known", "wrong-type") and problem.path == "item":
            counted += int(problem.message.split()[0])
    findings = sum(
        1
        for a in values
        if isinstance(a, dict)
        and isinstance(a.get("valueCoding"), dict)
        and a["valueCoding"].get("code") in ("numbness", "26544005")
    )
    without = sum(1 for a in values if isinstance(a, dict) and {"item", "extension"} & a.keys())
    assert len(values) - findings - without <= counted <= len(values)


CONCEPTS = {
    "weakness": "weakness",
    "saddle": "saddle-numbness",
    "fit": "seizure",
    "pregnant": "pregnancy",
    "twitching": "twitching",
}


@pytest.fixture(scope="module")
def present(rulesets: Rulesets) -> Screener:
    kinds = rulesets.terminology.value_sets
    texts = [rule(f"has-{link}", f"{{{kinds[c].kind}: {c}}}") for link, c in CONCEPTS.items()]
    return Screener(loaded(rulesets, *texts))


FORMS = st.dictionaries(st.sampled_from(sorted(CONCEPTS)), st.booleans(), max_size=5)


@given(
    forms=st.lists(FORMS, min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_the_newest_answer_to_each_question_wins_whatever_the_order(
    present: Screener, forms: list[dict[str, bool]], order: Any
) -> None:
    sent = [
        response(
            [{"linkId": k, "answer": [{"valueBoolean": v}]} for k, v in form.items()],
            id_=f"q{number}",
            authored=f"2026-10-{10 + number}",
        )
        for number, form in enumerate(forms)
    ]
    newest = {link: value for form in forms for link, value in form.items()}
    order.shuffle(sent)
    fired = present.screen([patient(), *sent], as_of=AS_OF).fired
    assert fired == {f"has-{link}" for link, value in newest.items() if value}
