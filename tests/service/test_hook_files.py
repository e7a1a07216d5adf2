"""Hook requests that others wrote, sent to a running server: the status of each, and why.

They were made for services that name their prefetch keys otherwise ("Patient"), and in all but one
the patient of the context is another than that of the data. So each is sent as it is, with the keys
that this service asks for, and with these and the patient of the data in the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
import pytest
from hook_records import Demo

OURS = {
    "Patient": "patient",
    "Observation": "laboratory",
    "Condition": "conditions",
    "MedicationRequest": "medicationRequests",
    "MedicationStatement": "medicationStatements",
}


class Row(NamedTuple):
    file: str
    service: str
    sent: Literal["as-it-is", "our-keys", "our-patient"]
    status: int
    why: str


THEIR_KEYS = "what is sent stands under keys of another service; its server is not one of ours"
OTHER_PATIENT = "the Patient sent is not the one of the context"
ENOUGH = "the patient is there; what else is not sent is said to be missing"
NO_PREFETCH = "no prefetch, and its server is not one of ours"
NOT_OURS = "no service answers this hook"
ORDERS = ("encounter-discharge", "encounter-start", "order-select", "order-sign")
OTHERS = ("appointment-book", "fancy-structure", "order-dispatch")
AHRQ = (
    "missing_prefetch_keys",
    "null_prefetch_values",
    "patient-view-Adolfo777_Braun514",
    "patient-view-Adrian111_Wunsch504",
    "patient-view-Cher186_Crooks415",
    "patient-view-Debora709_Mayer370",
)
FILES = (
    *(Row(f"ahrq-{name}", "patient-view", "as-it-is", 412, THEIR_KEYS) for name in AHRQ),
    *(Row(f"ahrq-{name}", "patient-view", "our-keys", 412, OTHER_PATIENT) for name in AHRQ),
    *(Row(f"ahrq-{name}", "patient-view", "our-patient", 200, ENOUGH) for name in AHRQ),
    Row("ahrq-patient-view-unhealthy_patient", "patient-view", "as-it-is", 412, THEIR_KEYS),
    Row("ahrq-patient-view-unhealthy_patient", "patient-view", "our-keys", 200, ENOUGH),
    *(Row(f"inferno-{hook}", hook, "as-it-is", 412, NO_PREFETCH) for hook in ORDERS),
    *(Row(f"inferno-{hook}", hook, "as-it-is", 404, NOT_OURS) for hook in OTHERS),
    *(Row(f"inferno-{hook}", "patient-view", "as-it-is", 400, NOT_OURS) for hook in OTHERS),
)


def stem(row: Row) -> str:
    """The name of the file without its ending."""
    inferno = row.file.startswith("inferno-")
    return f"inferno-{row.file[8:].replace('-', '_')}_hook_request" if inferno else row.file


def read(sample_data: Path, row: Row) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads((sample_data / "hooks" / f"{stem(row)}.json").read_bytes())
    if row.sent != "as-it-is":
        body["prefetch"] = {OURS.get(key, key): value for key, value in body["prefetch"].items()}
    if row.sent == "our-patient":
        body["context"]["patientId"] = body["prefetch"]["patient"]["id"]
    return body


@pytest.mark.parametrize("row", FILES, ids=lambda row: f"{row.file}-{row.service}-{row.sent}")
def test_a_request_of_others_gets_its_status(server: Demo, sample_data: Path, row: Row) -> None:
    body = read(sample_data, row)
    found = server.call(f"twitching-{row.service}", body)
    assert found.status_code == row.status, row.why
    assert found.headers["content-type"] == "application/json"
    if row.status != 200:
        outcome = found.json()
        assert outcome["resourceType"] == "OperationOutcome"
        text = outcome["issue"][0]["details"]["text"]
        assert {412: "prefetch.patient", 400: "hook", 404: "no CDS Service"}[row.status] in text
        assert body["context"]["patientId"] not in text
    else:
        cards = found.json()["cards"]
        assert cards  # each lacks some data, and that is said
        assert "Not all data" in cards[-1]["summary"]


def test_no_file_is_left_out(sample_data: Path) -> None:
    assert {path.stem for path in (sample_data / "hooks").glob("*.json")} == set(map(stem, FILES))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"user": "Practitioner/x", "patient": "1"}, "context.patientId"),
        ({"context": [{"resourceType": "MedicationOrder"}]}, "a list was the form before"),
        ({"context": {"patientId": "1", "userId": "Practitioner/x", "orders": {}}}, "draftOrders"),
        ({"context": {"patient": "1", "userId": "Practitioner/x"}}, "send context.patientId"),
        ({"oauth": {}, "context": {}}, "send fhirAuthorization"),
    ],
)
def test_members_of_older_versions_are_refused_by_name(
    server: Demo, body: dict[str, Any], says: str
) -> None:
    envelope = {"hook": "order-sign", "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"}
    found = server.call("twitching-order-sign", {**envelope, **body})
    assert found.status_code == 400
    assert says in found.json()["issue"][0]["details"]["text"]


def test_the_wrapper_of_before_1_0_is_refused_with_its_key(server: Demo) -> None:
    body = {
        "hook": "patient-view",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"userId": "Practitioner/x", "patientId": "1"},
        "prefetch": {
            "patient": {"response": {"status": "200"}, "resource": {"resourceType": "Patient"}}
        },
    }
    found = server.call("twitching-patient-view", body)
    assert found.status_code == 400
    assert "prefetch.patient: is wrapped" in found.json()["issue"][0]["details"]["text"]
