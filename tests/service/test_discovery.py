"""What the service offers, and that its prefetch templates are ones that any client can expand."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qsl

import orjson
import pytest
from hook_records import Demo

from cds.facts import Normalizer
from cds.program import FOREVER
from cds.rules import Rulesets
from cds.screening import Screener
from cds.service.discovery import RULESETS, Discovery, kind_of
from cds.service.requests import CONTEXTS
from cds.terminology import SYSTEMS

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
DATED = ("laboratory", "signs", "signs2", "questionnaireResponses")


@pytest.fixture(scope="module")
def discovery(rulesets: Rulesets, screener: Screener) -> Discovery:
    return Discovery(rulesets, screener.normalizer)


@pytest.fixture(scope="module")
def normalizer(screener: Screener) -> Normalizer:
    return screener.normalizer


def queries(discovery: Discovery) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    found = {}
    for key, template in discovery.prefetch(NOW).items():
        kind, _, query = template.partition("?")
        found[key] = kind, parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    return found


def test_there_is_one_service_for_each_hook_with_all_that_discovery_may_say(
    discovery: Discovery,
) -> None:
    services = orjson.loads(discovery.document(NOW))["services"]
    assert {s["hook"] for s in services} == set(CONTEXTS)
    for service in services:
        assert service["id"] == f"twitching-{service['hook']}"
        assert re.fullmatch(r"[a-z-]+", service["id"])
        for member in ("title", "description", "usageRequirements"):
            assert service[member].strip(), member
            assert "<" not in service[member]
        assert set(service["prefetch"]) == set(discovery.prefetch(NOW))
        assert "R4" in service["usageRequirements"]


def test_discovery_names_the_rules_that_answer(discovery: Discovery, rulesets: Rulesets) -> None:
    (made, *_) = (
        s["extension"][RULESETS] for s in orjson.loads(discovery.document(NOW))["services"]
    )
    assert made["digest"] == rulesets.digest
    assert [(r["id"], r["version"]) for r in made["rulesets"]] == [
        (f.group, f.version) for f in rulesets.files
    ]


def test_templates_keep_to_the_subset_that_any_client_can_expand(discovery: Discovery) -> None:
    for key, (kind, parameters) in queries(discovery).items():
        names = [name for name, _ in parameters]
        assert len(names) == len(set(names)), key  # CH-37
        assert set(names) <= {"patient", "code", "date", "authored", "_sort"}, key  # CH-34
        assert re.fullmatch(r"[A-Z][A-Za-z]+(/\{\{context\.patientId\}\})?", kind), key
        for name, value in parameters:
            tokens = re.findall(r"\{\{(.*?)\}\}", value)
            assert tokens == (["context.patientId"] if name == "patient" else []), key  # CH-33
            if name in ("date", "authored"):
                assert re.fullmatch(r"ge\d{4}-\d\d-01", value), key


def test_no_query_is_too_long_for_a_url(discovery: Discovery) -> None:
    assert max(map(len, discovery.prefetch(NOW).values())) < 4_500


def test_what_is_asked_for_is_what_the_rules_want(
    discovery: Discovery, rulesets: Rulesets, normalizer: Normalizer
) -> None:
    asked: dict[str, set[str]] = {}
    for key, (_, parameters) in queries(discovery).items():
        codes = dict(parameters).get("code")
        asked.setdefault(kind_of(key), set()).update(codes.split(",") if codes else ())
    terms = rulesets.terminology
    analytes = normalizer.wanted & terms.analytes.keys()
    assert asked["laboratory"] == {
        f"{SYSTEMS[code.system]}|{code.code}" for a in analytes for code in terms.analytes[a].codes
    }
    signs = [
        terms.value_sets[name]
        for name in normalizer.wanted & terms.value_sets.keys()
        if terms.value_sets[name].kind in ("symptom", "lifestyle")
    ]
    observed = {f"{SYSTEMS[c.system]}|{c.code}" for v in signs for c in v.codes}
    icd = {code for code in observed if code.startswith(SYSTEMS["icd10cm"])}
    assert asked["signs"] >= observed - icd
    assert not asked["signs"] & icd


def test_results_are_asked_for_as_far_back_as_a_rule_looks(
    discovery: Discovery, rulesets: Rulesets, normalizer: Normalizer
) -> None:
    found = queries(discovery)
    analytes = normalizer.wanted & rulesets.terminology.analytes.keys()
    bounded = {a for a in analytes if normalizer.lookback(a) < FOREVER}
    assert analytes - bounded  # else nobody would need the key without a date
    since = date.fromisoformat(dict(found["laboratory"][1])["date"].removeprefix("ge"))
    for name in bounded:
        # Still at the last moment of the month, for who has kept the templates so long.
        assert since <= (NOW.replace(day=1) - timedelta(seconds=normalizer.lookback(name))).date()
    for name in analytes - bounded:
        codes = dict(found["laboratoryAnyDate"][1])["code"]
        assert all(code.code in codes for code in rulesets.terminology.analytes[name].codes)
    assert "date" not in dict(found["laboratoryAnyDate"][1])


def test_the_answer_is_the_same_all_month_and_after_a_restart(
    discovery: Discovery, rulesets: Rulesets
) -> None:
    first = discovery.document(datetime(2026, 11, 1, tzinfo=UTC))
    assert discovery.document(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)) == first
    assert discovery.document(datetime(2026, 12, 1, tzinfo=UTC)) != first
    again = Discovery(rulesets, Screener(rulesets).normalizer)
    assert again.document(datetime(2026, 11, 17, tzinfo=UTC)) == first


def test_every_query_names_the_patient_of_the_call(discovery: Discovery) -> None:
    found = discovery.queries(discovery.prefetch(NOW), "p-1.x", NOW)
    assert found["patient"] == "Patient/p-1.x"
    assert all("{{" not in query and "p-1.x" in query for query in found.values())


def test_a_running_server_offers_them(server: Demo) -> None:
    one, other = (server.client.get("/cds-services") for _ in range(2))
    assert one.status_code == 200
    assert one.headers["content-type"] == "application/json"
    assert one.content == other.content
    assert {s["hook"] for s in one.json()["services"]} == set(CONTEXTS)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/cds-services", 405),
        ("POST", "/cds-services", 405),
        ("DELETE", "/cds-services", 405),
        ("GET", "/cds-services/", 404),  # no address has a slash at its end
        ("GET", "/cds-services/twitching-patient-view", 405),
        ("GET", "/elsewhere", 404),
        ("GET", "/health/live", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/openapi.json", 200),
    ],
)
def test_other_methods_and_addresses(server: Demo, method: str, path: str, status: int) -> None:
    found = server.client.request(method, path)
    assert found.status_code == status
    if status == 405:
        assert found.headers["allow"]
    if status >= 400 and method != "HEAD":
        assert found.json()["resourceType"] == "OperationOutcome"
