"""Hook calls from body to cards: envelopes, draft orders, audiences, failures, records."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hook_records import (
    HOOK_INSTANCE,
    LITHIUM,
    PATIENT,
    THIAZIDE,
    Answer,
    Demo,
    bundle,
    fasciculation,
    lab,
    order,
    potassium,
    rules_on,
    statement,
    summaries,
    timeless,
)

from cds.rules import Rulesets
from cds.screening import Screener
from cds.service.auth import Caller
from cds.service.calls import TRACE, Calls
from cds.service.fhirclient import Pages, Unreadable
from cds.service.outcomes import Refusal
from cds.service.requests import CONTEXTS, parse_feedback, parse_hook
from cds.service.settings import Settings
from cds.service.store import Store, StoreDown

Json = dict[str, Any]

DRAFTS = bundle(order(THIAZIDE))
CONTEXT = {
    "patient-view": {},
    "order-select": {"selections": ["MedicationRequest/d1"], "draftOrders": DRAFTS},
    "order-sign": {"draftOrders": DRAFTS},
    "encounter-start": {"encounterId": "e1"},
    "encounter-discharge": {"encounterId": "e1"},
    "problem-list-item-create": {"conditions": bundle(fasciculation())},
    "medication-refill": {"medications": DRAFTS},
}
LOW = bundle(potassium(3.2))


# ---------------------------------------------------------------- envelopes


@pytest.mark.parametrize("hook", CONTEXTS)
def test_every_hook_is_answered(server: Demo, request_of: Answer, hook: str) -> None:
    found = server.call(f"twitching-{hook}", request_of(hook, CONTEXT[hook]))
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert isinstance(found.json()["cards"], list)


@pytest.mark.parametrize("hook", CONTEXTS)
def test_each_required_member_of_a_context_is_missed_by_name(
    answer: Answer, request_of: Answer, hook: str
) -> None:
    required = {"patientId", *CONTEXT[hook]}
    required |= set() if hook == "medication-refill" else {"userId"}
    for member in required:
        body = request_of(hook, CONTEXT[hook])
        del body["context"][member]
        with pytest.raises(Refusal, match=rf"context\.{member}: is required") as refused:
            answer(body)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hook": "order-sign"}, "hook: must be 'patient-view'"),
        ({"hook": None}, "hook: must be text"),
        ({"hookInstance": "abc"}, "hookInstance: must be a UUID"),
        ({"hookInstance": None}, "hookInstance: must be a UUID"),
        ({"fhirServer": "ehr"}, "fhirServer: must be the https URL"),
        ({"fhirServer": "file:///etc/passwd"}, "fhirServer: must be the https URL"),
        ({"fhirAuthorization": {}}, "fhirAuthorization.access_token: is required"),
        ({"context": None}, "context: must be an object"),
        ({"context": {"patientId": "a b", "userId": "P/1"}}, "context.patientId: must be the id"),
        ({"context": {"patientId": "1", "userId": "joe"}}, "context.userId: must be a type"),
        ({"context": {"patientId": 7, "userId": "P/1"}}, "context.patientId: must be text"),
        ({"prefetch": []}, "prefetch: must be an object"),
    ],
)
def test_what_is_wrong_in_an_envelope_is_said_by_path(
    request_of: Answer, changes: Json, says: str
) -> None:
    with pytest.raises(Refusal) as refused:
        parse_hook({**request_of(), **changes}, "patient-view")
    assert refused.value.status == 400
    assert says in refused.value.message


TOKEN = {
    "access_token": "canary",
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "patient/*.read",
    "subject": "us",
}


@pytest.mark.parametrize("member", TOKEN)
def test_a_token_without_one_of_its_members_is_refused(request_of: Answer, member: str) -> None:
    token = {key: value for key, value in TOKEN.items() if key != member}
    body = {**request_of(), "fhirServer": "https://ehr.example.org", "fhirAuthorization": token}
    with pytest.raises(Refusal, match=rf"fhirAuthorization\.{member}: is required"):
        parse_hook(body, "patient-view")


def test_a_token_needs_a_server_and_its_type_and_never_shows(request_of: Answer) -> None:
    with pytest.raises(Refusal, match="fhirServer: is required with fhirAuthorization"):
        parse_hook({**request_of(), "fhirAuthorization": TOKEN}, "patient-view")
    body = {**request_of(), "fhirServer": "https://ehr.example.org/r4/"}
    wrong = {**body, "fhirAuthorization": {**TOKEN, "token_type": "mac"}}
    with pytest.raises(Refusal, match=r"token_type: must be 'Bearer'"):
        parse_hook(wrong, "patient-view")
    found = parse_hook(
        {**body, "fhirAuthorization": {**TOKEN, "token_type": "bearer"}}, "patient-view"
    )
    assert found.server == "https://ehr.example.org/r4"
    assert "canary" not in repr(found)


def test_plain_http_servers_are_for_the_demo_only(request_of: Answer) -> None:
    body = {**request_of(), "fhirServer": "http://127.0.0.1:8080"}
    with pytest.raises(Refusal, match="must begin with https"):
        parse_hook(body, "patient-view")
    assert parse_hook(body, "patient-view", plain_http=True).server == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "instance",
    [HOOK_INSTANCE.upper(), f"urn:uuid:{HOOK_INSTANCE}", "018f2b6e-7c00-7000-8000-000000000000"],
)
def test_a_hook_instance_may_have_any_version_and_case(request_of: Answer, instance: str) -> None:
    found = parse_hook({**request_of(), "hookInstance": instance}, "patient-view")
    assert found.hook_instance == str(UUID(instance))


def test_ids_with_their_type_are_read_and_noted(answer: Answer, request_of: Answer) -> None:
    body = request_of(laboratory=bundle(potassium(2.2)))
    other = copy.deepcopy(body)
    other["context"]["patientId"] = "Patient/p1"
    other["context"]["userId"] = "https://ehr.example.org/Practitioner/a"
    assert timeless(answer(other)) == timeless(answer(body))
    assert parse_hook(other, "patient-view").warnings == (
        "patient-id-with-type",
        "user-id-with-server",
    )


def test_unknown_members_and_extensions_change_nothing(answer: Answer, request_of: Answer) -> None:
    body = request_of(laboratory=bundle(potassium(2.2)))
    more = copy.deepcopy(body)
    more |= {"extension": {"com.example.x": [1]}, "junk": {"a": None}}
    more["context"] |= {"encounterId": "e1", "extension": [], "junk": 5}
    more["prefetch"]["somethingElse"] = 5
    assert timeless(answer(more)) == timeless(answer(body))


def test_selections_that_are_no_draft_order_are_noted(request_of: Answer) -> None:
    context = {**CONTEXT["order-select"], "selections": ["MedicationRequest/other"]}
    found = parse_hook(request_of("order-select", context), "order-select")
    assert found.warnings == ("selection-not-in-draft-orders",)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "must be a JSON object"),
        ({}, "feedback: is required"),
        ({"feedback": {}}, "feedback: must be a list"),
        ({"feedback": [{"outcome": "overridden"}]}, r"feedback\.0\.card: is required"),
        (
            {"feedback": [{"card": HOOK_INSTANCE, "outcome": "accepted", "outcomeTimestamp": "x"}]},
            r"feedback\.0\.outcomeTimestamp: must be a time",
        ),
        (
            {
                "feedback": [
                    {
                        "card": HOOK_INSTANCE,
                        "outcome": "accepted",
                        "outcomeTimestamp": "2026-11-01T00:00:00Z",
                    }
                ]
            },
            r"feedback\.0\.acceptedSuggestions: is required",
        ),
        (
            {
                "feedback": [
                    {
                        "card": HOOK_INSTANCE,
                        "outcome": "overridden",
                        "outcomeTimestamp": "2026-11-01T00:00:00",
                    }
                ]
            },
            "must have an offset",
        ),
    ],
)
def test_feedback_that_is_wrong_is_said_by_path(body: Any, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        parse_feedback(body)
    assert refused.value.status == 400


def test_feedback_is_read_in_utc_and_may_be_empty() -> None:
    assert parse_feedback({"feedback": []}) == ()
    (item,) = parse_feedback(
        {
            "feedback": [
                {
                    "card": HOOK_INSTANCE.upper(),
                    "outcome": "overridden",
                    "outcomeTimestamp": "2026-11-01T02:00:00+02:00",
                    "overrideReason": {"reason": {"code": "x"}, "userComment": "because"},
                    "unknown": 1,
                }
            ]
        }
    )
    assert item.card == HOOK_INSTANCE
    assert item.outcomeTimestamp == datetime(2026, 11, 1, tzinfo=UTC)
    assert "because" not in repr(item)


# ---------------------------------------------------------------- draft orders, conditions


@pytest.mark.parametrize("hook", ["order-sign", "order-select", "medication-refill"])
def test_a_draft_thiazide_on_low_potassium_is_judged_as_if_started(
    answer: Answer, request_of: Answer, hook: str
) -> None:
    assert not rules_on(answer(request_of(laboratory=LOW)))
    found = answer(request_of(hook, CONTEXT[hook], laboratory=LOW))
    (card,) = (c for c in found["cards"] if "diuretic" in c["summary"])
    assert card["detail"].startswith("**Draft order:**")
    assert "as if they were started" in card["detail"]
    assert "diuretic-hypokalemia" in rules_on(found)


def test_a_running_server_says_as_if_started(server: Demo, request_of: Answer) -> None:
    body = request_of("order-sign", CONTEXT["order-sign"], laboratory=LOW)
    cards = server.call("twitching-order-sign", body).json()["cards"]
    assert any("as if they were started" in card["detail"] for card in cards)


def test_a_medicine_on_record_is_not_called_a_draft(answer: Answer, request_of: Answer) -> None:
    taken = bundle(order(THIAZIDE, status="active"))
    found = answer(request_of(medicationRequests=taken, laboratory=LOW))
    assert "diuretic-hypokalemia" in rules_on(found)
    assert "as if they were started" not in str(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "stopped"},
        {"status": "cancelled"},
        {"status": "entered-in-error"},
        {"doNotPerform": True},
        {"subject": {"reference": "Patient/p2"}},
    ],
)
def test_an_order_that_is_none_or_of_another_starts_nothing(
    answer: Answer, request_of: Answer, changes: Json
) -> None:
    drafts = bundle({**order(THIAZIDE), **changes})
    found = answer(request_of("order-sign", {"draftOrders": drafts}, laboratory=LOW))
    assert not rules_on(found)


@pytest.mark.parametrize("gone", ["id", "status", "subject", "intent"])
def test_a_draft_that_lacks_something_is_judged_all_the_same(
    answer: Answer, request_of: Answer, gone: str
) -> None:
    draft = {key: value for key, value in order(THIAZIDE).items() if key != gone}
    found = answer(request_of("order-sign", {"draftOrders": bundle(draft)}, laboratory=LOW))
    assert "diuretic-hypokalemia" in rules_on(found)
    assert "as if they were started" in str(found)


def test_a_draft_counts_as_a_draft_too(answer: Answer, request_of: Answer) -> None:
    drafts = bundle(order("8591"))  # potassium chloride
    taken = bundle(order("9997", status="active", id="r1"))  # spironolactone
    high = bundle(potassium(5.3))
    body = request_of(
        "order-sign", {"draftOrders": drafts}, medicationRequests=taken, laboratory=high
    )
    assert "potassium-supplement-check" in rules_on(answer(body))


def test_the_level_since_a_draft_started_is_missing_only_if_all_levels_are_known(
    answer: Answer, request_of: Answer
) -> None:
    taken = bundle(statement(LITHIUM))
    known = request_of("order-sign", CONTEXT["order-sign"], medicationStatements=taken)
    assert "lithium-interaction-unchecked" in rules_on(answer(known))
    del known["prefetch"]["laboratoryAnyDate"]
    assert "lithium-interaction-unchecked" not in rules_on(answer(known))


def test_new_problems_count_like_those_on_record(answer: Answer, request_of: Answer) -> None:
    hook = "problem-list-item-create"
    new = rules_on(answer(request_of(hook, CONTEXT[hook])))
    assert new == rules_on(answer(request_of(conditions=bundle(fasciculation()))))
    assert "isolated-twitching" in new


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("user", "patient"),
    [
        ("Practitioner/a", False),
        ("PractitionerRole/a", False),
        ("Patient/p1", True),
        ("RelatedPerson/r", True),
    ],
)
def test_the_user_says_whom_cards_speak_to(
    answer: Answer, request_of: Answer, user: str, patient: bool
) -> None:
    body = request_of("order-sign", CONTEXT["order-sign"], laboratory=LOW, leave_out=("signs",))
    body["context"]["userId"] = user
    *_, about, missing = answer(body)["cards"]
    assert ("overrideReasons" in about) is not patient
    assert ("Your " in about["summary"]) is patient
    assert ("as if you had already started" in about["detail"]) is patient
    # What to do comes first for a patient.
    assert not about["detail"].startswith("This message counts")
    assert ("your health record" in missing["summary"]) is patient


def test_the_same_call_gives_the_same_cards_and_another_other_uuids(
    answer: Answer, request_of: Answer
) -> None:
    body = request_of(laboratory=bundle(potassium(2.2)), leave_out=("signs",))
    first, again = answer(body), answer(copy.deepcopy(body))
    uuids = [card["uuid"] for card in first["cards"]]
    assert uuids == [card["uuid"] for card in again["cards"]]
    assert len(set(uuids)) == len(uuids) > 1
    body["hookInstance"] = "d1577c69-dfbe-44ad-ba6d-3e05e953b2eb"
    assert not set(uuids) & {card["uuid"] for card in answer(body)["cards"]}


def test_no_member_of_an_answer_is_null_or_empty(answer: Answer, request_of: Answer) -> None:
    def walk(value: Any, path: str) -> None:
        assert value not in (None, "", [], {}), path
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}.{key}")
        elif isinstance(value, list):
            for part in value:
                walk(part, path)

    body = request_of("order-sign", CONTEXT["order-sign"], laboratory=LOW, leave_out=("signs",))
    body["extension"] = {TRACE: True}
    found = answer(body)
    walk(found, "")
    trace = found["extension"][TRACE]
    assert {f["id"] for f in trace["findings"]} >= {"diuretic-hypokalemia"}
    assert trace["unavailable"] == [{"key": "signs", "reason": "not-sent"}]
    assert "cards" not in trace
    del body["extension"]
    assert timeless(answer(body)) == timeless({"cards": found["cards"]})


def test_every_summary_is_shorter_than_140(answer: Answer, request_of: Answer) -> None:
    keys = tuple(key for key in request_of()["prefetch"] if key != "patient")
    for user in ("Practitioner/a", "Patient/p1"):
        body = request_of(leave_out=keys)
        body["context"]["userId"] = user
        (card,) = answer(body)["cards"]
        assert 0 < len(card["summary"]) < 140
        assert set(card) == {"uuid", "summary", "indicator", "detail", "source"}


def test_a_large_call_gets_the_cards_of_a_small_one(answer: Answer, request_of: Answer) -> None:
    many = [lab("2951-2", 140, "mmol/L", days=n / 50) for n in range(1, 700)]
    body = request_of(laboratory=bundle(potassium(2.2), *many))
    size = len(orjson.dumps(body))
    assert size > 200_000
    assert timeless(answer(body, size=size)) == timeless(answer(body, size=0))


def test_calls_at_once_do_not_see_each_other(calls: Calls, request_of: Answer) -> None:
    def body(number: int) -> Json:
        low = {**potassium(2.2 if number % 2 else 4.2)}
        low["subject"] = {"reference": f"Patient/n{number}"}
        made = request_of(patient={**PATIENT, "id": f"n{number}"}, laboratory=bundle(low))
        made["context"]["patientId"] = f"n{number}"
        return made

    async def all_at_once() -> list[bool]:
        found = await asyncio.gather(
            *(
                calls.answer(
                    "twitching-patient-view",
                    body(number),
                    Caller.anonymous,
                    f"r{number}",
                    size=300_000 * (number % 3),
                )
                for number in range(24)
            )
        )
        return [bool(orjson.loads(each.payload)["cards"]) for each in found]

    assert asyncio.run(all_at_once()) == [bool(number % 2) for number in range(24)]


def test_no_resource_sent_is_changed(answer: Answer, request_of: Answer) -> None:
    body = request_of("order-sign", CONTEXT["order-sign"], laboratory=LOW)
    before = copy.deepcopy(body)
    answer(body)
    assert body == before


# ---------------------------------------------------------------- reading what was not sent


class Reads:
    """Stands where the client's FHIR server is read; says what was asked."""

    def __init__(self, answers: Json) -> None:
        self.answers, self.asked = answers, {}

    async def read(self, wanted: dict[str, str], *args: Any, **more: Any) -> Json:
        self.asked.update(wanted)
        return {key: self.answers.get(key, Pages([], True)) for key in wanted}


def reading(
    rulesets: Rulesets, screener: Screener, body: Json, answers: Json
) -> tuple[Json, dict[str, str]]:
    fhir = Reads(answers)
    calls = Calls(Settings(insecure_demo=True), rulesets, screener, None, fhir)  # type: ignore[arg-type]
    body = {**body, "fhirServer": "https://ehr.example.org/r4", "fhirAuthorization": TOKEN}
    service = f"twitching-{body['hook']}"
    found = asyncio.run(calls.answer(service, body, Caller.anonymous, "r1"))
    return orjson.loads(found.payload), fhir.asked


def test_what_was_not_sent_is_read_and_gives_the_same_cards(
    rulesets: Rulesets, screener: Screener, answer: Answer, request_of: Answer
) -> None:
    severe = potassium(2.2)
    sent = request_of(laboratory=bundle(severe), conditions=bundle(fasciculation()))
    answers = {
        "patient": Pages([PATIENT], True),
        "laboratory": Pages([severe], True),
        "conditions": Pages([fasciculation()], True),
    }
    bare = {**request_of(), "prefetch": {}}
    found, asked = reading(rulesets, screener, bare, answers)
    assert timeless(found) == timeless(answer(sent))
    assert set(asked) == set(sent["prefetch"])
    assert asked["patient"] == "Patient/p1"


def test_only_what_is_unknown_is_asked_for(
    rulesets: Rulesets, screener: Screener, request_of: Answer
) -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}
    link = [{"relation": "next", "url": "https://ehr.example.org/r4?page=2"}]
    body = request_of(
        laboratory=bundle(potassium(4.0, days=3), link=link),
        signs=outcome,
        leave_out=("conditions",),
    )
    answers = {"laboratory": Pages([potassium(2.2)], True), "conditions": Unreadable("timeout")}
    found, asked = reading(rulesets, screener, body, answers)
    assert asked == {"laboratory": link[0]["url"], "conditions": "Condition?patient=p1"}
    assert "Potassium 2.2" in found["cards"][0]["summary"]
    assert summaries(found)[-1].endswith("recorded signs and habits, conditions")


def test_a_patient_that_cannot_be_read_is_412(
    rulesets: Rulesets, screener: Screener, request_of: Answer
) -> None:
    body = request_of(leave_out=("patient",))
    for failure in (Unreadable("forbidden", 403), Unreadable("timeout"), Pages([], True)):
        with pytest.raises(Refusal, match=r"prefetch\.patient") as refused:
            reading(rulesets, screener, body, {"patient": failure})
        assert refused.value.status == 412


def test_a_system_that_does_not_let_us_read_is_not_a_failed_query(
    rulesets: Rulesets, screener: Screener, request_of: Answer
) -> None:
    body = request_of(leave_out=("questionnaireResponses",))
    denied, _ = reading(
        rulesets, screener, body, {"questionnaireResponses": Unreadable("no-scope")}
    )
    assert denied == {"cards": []}
    failed, _ = reading(rulesets, screener, body, {"questionnaireResponses": Unreadable("timeout")})
    assert "answers to questionnaires" in summaries(failed)[0]


# ---------------------------------------------------------------- failures


class Broken:
    def run(self, facts: object) -> Any:
        raise ValueError("canary: potassium 2.2")


def broken(rulesets: Rulesets, on_failure: str) -> Calls:
    screener = Screener(rulesets)
    screener.engine = Broken()  # type: ignore[assignment]
    settings = Settings(insecure_demo=True, on_failure=on_failure)  # type: ignore[arg-type]
    return Calls(settings, rulesets, screener, None, None)


def test_a_failure_of_a_rule_is_an_error_without_its_text(
    rulesets: Rulesets, request_of: Answer
) -> None:
    calls = broken(rulesets, "error")
    with pytest.raises(Refusal) as refused:
        asyncio.run(calls.answer("twitching-patient-view", request_of(), Caller.anonymous, "r1"))
    assert refused.value.status == 500
    assert "canary" not in refused.value.message


@pytest.mark.parametrize("user", ["Practitioner/a", "Patient/p1"])
def test_a_failure_can_be_a_card_but_never_no_card(
    rulesets: Rulesets, request_of: Answer, user: str
) -> None:
    calls = broken(rulesets, "card")
    body = request_of()
    body["context"]["userId"] = user
    found = asyncio.run(calls.answer("twitching-patient-view", body, Caller.anonymous, "r1"))
    assert found.status == 200
    assert found.failed
    (card,) = orjson.loads(found.payload)["cards"]
    assert card["indicator"] == "warning"
    assert "canary" not in found.payload.decode()
    assert ("health" in card["detail"]) is (user == "Patient/p1")


class Down(Store):
    async def record_call(self, *args: Any, **more: Any) -> None:
        raise StoreDown("gone")


def recording(
    rulesets: Rulesets, screener: Screener, store: Store, body: Json, **settings: Any
) -> Any:
    made = Settings(insecure_demo=True, **settings)
    calls = Calls(made, rulesets, screener, store, None)

    async def one() -> Any:
        async with store:
            return await calls.answer("twitching-patient-view", body, Caller.anonymous, "r1")

    return asyncio.run(one())


def test_cards_outlive_a_database_that_is_down(
    rulesets: Rulesets, screener: Screener, request_of: Answer, answer: Answer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    found = request_of(laboratory=bundle(potassium(2.2)))
    with pytest.raises(Refusal) as refused:
        recording(rulesets, screener, Down(url), found)
    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"]
    kept = recording(rulesets, screener, Down(url), found, on_failure="card")
    assert kept.store_failed
    assert timeless(orjson.loads(kept.payload)) == timeless(answer(found))
    empty = recording(rulesets, screener, Down(url), request_of(), on_failure="card")
    (card,) = orjson.loads(empty.payload)["cards"]
    assert "could not be recorded" in card["summary"]


def test_calls_and_cards_are_recorded_by_rule(
    rulesets: Rulesets, screener: Screener, request_of: Answer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    body = request_of(laboratory=bundle(potassium(2.2)), leave_out=("signs",))
    found = orjson.loads(recording(rulesets, screener, Store(url), body).payload)

    async def shown() -> dict[str | None, int]:
        async with Store(url) as store:
            return {entry.rule: entry.shown for entry in await store.summary()}

    counts = asyncio.run(shown())
    assert rules_on(found) <= counts.keys()
    assert all(counts[rule] == 1 for rule in rules_on(found))


def test_a_repeated_finding_can_be_left_out(
    rulesets: Rulesets, screener: Screener, request_of: Answer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    body = request_of(conditions=bundle(fasciculation()))
    answers = []
    for number in range(2):
        body["hookInstance"] = f"d1577c69-dfbe-44ad-ba6d-3e05e953b2e{number}"
        answers.append(recording(rulesets, screener, Store(url), body, suppress_repeats_hours=24.0))
    assert orjson.loads(answers[0].payload)["cards"]
    assert orjson.loads(answers[1].payload) == {"cards": []}
    assert answers[1].suppressed == 2


# ---------------------------------------------------------------- over HTTP


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b'{"a": NaN}', {}, 400),
        (b'{"a": 1,}', {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": ""}, 415),
        (b"{}", {"content-type": "application/json; charset=utf-8"}, 400),
        (b"{}", {"content-type": "application/fhir+json"}, 400),
    ],
)
def test_a_body_that_is_none(server: Demo, body: bytes, headers: Json, status: int) -> None:
    for path in ("twitching-patient-view", "twitching-patient-view/feedback"):
        found = server.call(path, body, **headers)
        assert found.status_code == status
        assert found.json()["resourceType"] == "OperationOutcome"
        assert found.headers["content-type"] == "application/json"


def test_an_unknown_service_is_not_found(server: Demo, request_of: Answer) -> None:
    assert server.call("other", request_of()).status_code == 404
    assert server.call("other/feedback", {"feedback": []}).status_code == 404


def test_feedback_on_a_card_is_taken(server: Demo, request_of: Answer) -> None:
    (card, *_) = server.call(
        "twitching-patient-view", request_of(laboratory=bundle(potassium(2.2)))
    ).json()["cards"]
    item = {
        "card": card["uuid"],
        "outcome": "accepted",
        "acceptedSuggestions": [{"id": card["suggestions"][0]["uuid"]}],
        "outcomeTimestamp": "2026-11-01T08:00:00Z",
    }
    for _ in range(2):  # reported again, it changes nothing
        found = server.call("twitching-patient-view/feedback", {"feedback": [item]})
        assert found.status_code == 200
        assert found.json() == {"recorded": 1}


def test_an_operation_outcome_is_valid_fhir(server: Demo, request_of: Answer) -> None:
    from fhir.resources.R4B.operationoutcome import OperationOutcome

    answers = [
        server.call("twitching-patient-view", b"{"),
        server.call("other", request_of()),
        server.call("twitching-patient-view", request_of(leave_out=("patient",))),
        server.client.get("/nowhere"),
    ]
    assert [a.status_code for a in answers] == [400, 404, 412, 404]
    for found in answers:
        OperationOutcome.model_validate_json(found.content)


def test_openapi_describes_bodies_and_answers(server: Demo) -> None:
    schema = server.client.get("/openapi.json").json()
    hook = schema["paths"]["/cds-services/{service_id}"]["post"]
    assert {"200", "400", "401", "404", "412", "413", "415", "500", "503"} <= hook[
        "responses"
    ].keys()
    text = orjson.dumps(schema).decode()
    for name in ("HookRequest", "FeedbackRequest", "Cards", "OperationOutcome"):
        assert name in schema["components"]["schemas"]
        assert f"#/components/schemas/{name}" in text
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= schema["components"]["schemas"].keys()
