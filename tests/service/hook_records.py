"""A running server to call, and resources of the patient of a call, dated by days before now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
from ops_server import Running

Json = dict[str, Any]
Answer = Callable[..., Json]

HOOK_INSTANCE = "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"
PATIENT: Json = {
    "resourceType": "Patient",
    "id": "p1",
    "gender": "female",
    "birthDate": "1960-01-01",
}

SUBJECT = {"reference": "Patient/p1"}
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
THIAZIDE = "5487"  # hydrochlorothiazide
LITHIUM = "6448"


def lab(code: str, value: float, unit: str, *, days: float = 1, **more: Any) -> Json:
    when = datetime.now(UTC) - timedelta(days=days)
    return {
        "resourceType": "Observation",
        "id": f"o-{code}-{days}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": SUBJECT,
        "effectiveDateTime": when.isoformat(timespec="seconds"),
        "valueQuantity": {
            "value": value,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
        **more,
    }


def potassium(value: float, **more: Any) -> Json:
    return lab("2823-3", value, "mmol/L", **more)


def order(code: str, *, id: str = "d1", status: str = "draft", **more: Any) -> Json:
    return {
        "resourceType": "MedicationRequest",
        "id": id,
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": code}]},
        "subject": SUBJECT,
        **more,
    }


def statement(code: str, *, id: str = "s1") -> Json:
    return {
        "resourceType": "MedicationStatement",
        "id": id,
        "status": "active",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": code}]},
        "subject": SUBJECT,
        "effectivePeriod": {"start": "2020-01-01"},
    }


def fasciculation(**more: Any) -> Json:
    return {
        "resourceType": "Condition",
        "id": "c1",
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "82470000"}]},
        "subject": SUBJECT,
        **more,
    }


def bundle(*resources: Json, **more: Any) -> Json:
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "searchset", "entry": entries, **more}


def rules_on(answer: Json) -> set[str]:
    """The rules that the cards of an answer rest on."""
    return {
        rule["id"]
        for card in answer["cards"]
        for rule in card.get("extension", {}).get("org.cds-twitch.provenance", {}).get("rules", ())
    }


def timeless(value: Any) -> Any:
    """An answer without the second of the call, in which two calls may differ."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("as_of", "authoredOn")}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def summaries(answer: Json) -> list[str]:
    return [card["summary"] for card in answer["cards"]]


class Demo:
    """`cds serve --insecure-demo`, running."""

    def __init__(self, running: Running) -> None:
        self.url, self.running = running.url, running
        self.client = httpx.Client(base_url=running.url, timeout=60)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        head = {"content-type": "application/json", **headers}
        return self.client.post(path, content=content, headers=head)

    def call(self, service: str, body: object, **headers: str) -> httpx.Response:
        return self.post(f"/cds-services/{service}", body, **headers)
