"""Reading the client's FHIR server: rows CH-81 to CH-89, against a real server process."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import logging
import posixpath
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fhir_server import FhirServer, running
from hypothesis import given, settings
from hypothesis import strategies as st

from cds.errors import UsageError
from cds.service.auth import Caller
from cds.service.fhirclient import (
    Fetched,
    FhirReader,
    GuardedNetwork,
    GuardedTransport,
    Pages,
    Unreadable,
)
from cds.service.requests import FhirAuthorization
from cds.service.settings import Client, Settings

TOKEN = "canary-7f3a-token"  # noqa: S105 - no secret
EVERYTHING = {
    "patient": "Patient/p1",
    "laboratory": "Observation?patient=p1&category=laboratory&code=http://loinc.org|2823-3,"
    "http://loinc.org|19123-9&date=ge2026-01-01&_count=10",
    "conditions": "Condition?patient=p1",
}


def observation(number: int, patient: str = "p1", day: str = "2026-10-01") -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "2823-3"}]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": f"{day}T08:00:00Z",
        "valueQuantity": {"value": 3.9, "code": "mmol/L"},
    }


RESOURCES = [
    {"resourceType": "Patient", "id": "p1", "birthDate": "1970-01-01"},
    {"resourceType": "Patient", "id": "p2"},
    *(observation(number) for number in range(25)),
    observation(90, day="2019-01-01"),  # too old for the query
    observation(91, patient="p2"),
    {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}},
]


@pytest.fixture(scope="module")
def process() -> Iterator[FhirServer]:
    with running(RESOURCES, token=TOKEN) as server:
        yield server


@pytest.fixture
def server(process: FhirServer) -> FhirServer:
    process.reset()
    return process


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FhirServer]:
    """A second server, which nobody listed."""
    with running(RESOURCES, token=TOKEN) as server:
        yield server


def client(*servers: str, client_id: str | None = "cds-at-ehr") -> Client:
    return Client(
        iss="https://ehr.example.org",
        client_id=client_id,
        jku="https://ehr.example.org/jwks",
        fhir_servers=servers,
    )


def demo(*clients: Client, **how: Any) -> Settings:
    return Settings(insecure_demo=True, clients=clients, **how)


def production(*clients: Client, **how: Any) -> Settings:
    return Settings(
        tls_certificate=Path("c.pem"),
        tls_key=Path("k.pem"),
        public_url="https://cds.example.org",
        clients=clients,
        **how,
    )


def authorization(**changes: Any) -> FhirAuthorization:
    members = {
        "access_token": TOKEN,
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "patient/*.read",
        "subject": "cds-at-ehr",
        "patient": "p1",
    }
    return FhirAuthorization.model_validate(members | changes)


def caller(who: Client) -> Caller:
    return Caller(iss=who.iss, client=who, jti="1")


def read(
    server: str,
    wanted: Mapping[str, str] = EVERYTHING,
    *,
    listed: tuple[str, ...] | None = None,
    token: FhirAuthorization | None = None,
    patient: str = "p1",
    seconds: float = 5,
    config: Settings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    **how: Any,
) -> dict[str, Fetched]:
    """One call of a client that has this server listed, by default in the demo."""
    config = config or demo(client(*(listed if listed is not None else (server,))), **how)

    async def run() -> dict[str, Fetched]:
        reader = FhirReader(config, transport)
        try:
            deadline = asyncio.get_running_loop().time() + seconds
            return await reader.read(
                wanted,
                server,
                token or authorization(),
                caller(config.clients[0]),
                deadline,
                patient=patient,
            )
        finally:
            await reader.aclose()

    return asyncio.run(run())


def ids(fetched: Fetched) -> list[str]:
    assert isinstance(fetched, Pages), fetched
    return [resource["id"] for resource in fetched.resources]


def one(server: str, query: str = "Observation?patient=p1&_count=10", **how: Any) -> Fetched:
    return read(server, {"key": query}, **how)["key"]


# ---------------------------------------------------------------- CH-82, CH-83, CH-84, CH-85


def test_ch82_all_queries_are_read_with_all_their_pages(server: FhirServer) -> None:
    fetched = read(server.base)
    assert ids(fetched["patient"]) == ["p1"]
    assert ids(fetched["laboratory"]) == [f"o{number}" for number in range(25)]
    assert ids(fetched["conditions"]) == ["c1"]
    assert all(isinstance(f, Pages) and f.complete and not f.foreign for f in fetched.values())
    assert len(server.requests()) == 5  # three pages of observations


def test_ch82_a_query_that_finds_nothing_is_complete(server: FhirServer) -> None:
    assert one(server.base, "MedicationStatement?patient=p1") == Pages([], True)


def test_ch82_a_patient_id_may_be_written_with_its_type(server: FhirServer) -> None:
    fetched = read(server.base, patient="Patient/p1", token=authorization(patient="Patient/p1"))
    assert ids(fetched["patient"]) == ["p1"]


def test_ch82_a_compressed_answer_is_read(server: FhirServer) -> None:
    server.behave("*", "gzip")
    assert len(ids(read(server.base)["laboratory"])) == 25


def test_ch83_each_request_presents_the_token_in_the_header_only(server: FhirServer) -> None:
    read(server.base)
    requests = server.requests()
    assert [r["headers"]["authorization"] for r in requests] == [f"Bearer {TOKEN}"] * 5
    assert TOKEN not in str([r["target"] for r in requests])
    assert all("cookie" not in r["headers"] and "referer" not in r["headers"] for r in requests)


def test_ch83_a_server_that_knows_another_token_answers_401_once(server: FhirServer) -> None:
    fetched = one(server.base, token=authorization(access_token="x" * 8))
    assert fetched == Unreadable("unauthorized", 401)
    assert len(server.requests()) == 1


def test_ch84_a_token_is_used_for_its_own_call_only(server: FhirServer) -> None:
    config = demo(client(server.base))

    async def run() -> list[Fetched]:
        reader = FhirReader(config)
        results = []
        for token in (TOKEN, "second", TOKEN):
            deadline = asyncio.get_running_loop().time() + 5
            fetched = await reader.read(
                {"patient": "Patient/p1"},
                server.base,
                authorization(access_token=token),
                caller(config.clients[0]),
                deadline,
                patient="p1",
            )
            results.append(fetched["patient"])
        await reader.aclose()
        return results

    first, second, third = asyncio.run(run())
    assert first == third
    assert second == Unreadable("unauthorized", 401)
    sent = [(r["headers"]["authorization"], r["headers"].get("cookie")) for r in server.requests()]
    assert sent == [(f"Bearer {t}", None) for t in (TOKEN, "second", TOKEN)]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("gzip", {}),
        ("dead", {}),
        ("cut", {}),
        ("html", {}),
        ("status", {"status": 500}),
        ("redirect", {"location": "http://127.0.0.1:1/?x=y"}),
        ("extra", {"resources": [observation(92, patient="p2")]}),
    ],
)
def test_ch84_neither_token_nor_patient_nor_url_is_logged(
    server: FhirServer, caplog: pytest.LogCaptureFixture, kind: str, how: dict[str, Any]
) -> None:
    canary = "canary-patient-51"
    caplog.set_level(logging.DEBUG)
    server.behave("*", kind, **how)
    fetched = read(
        server.base,
        {"patient": f"Patient/{canary}", "laboratory": f"Observation?patient={canary}"},
        patient=canary,
        token=authorization(patient=canary),
    )
    assert fetched.keys() == {"patient", "laboratory"}
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "fhir-read" in logged
    for secret in (TOKEN, canary, server.base, "x=y"):
        assert secret not in logged
    assert TOKEN not in repr(fetched)


def test_ch85_a_type_that_is_forbidden_is_asked_once_and_hinders_no_other(
    server: FhirServer,
) -> None:
    server.behave("Observation", "status", status=403, headers={"Retry-After": "0"})
    fetched = read(server.base)
    assert fetched["laboratory"] == Unreadable("forbidden", 403)
    assert ids(fetched["conditions"]) == ["c1"]
    assert len(server.requests()) == 3


# ---------------------------------------------------------------- CH-81, CH-86, CH-88, CH-89


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patient": "p2"}, "other-patient"),  # CH-81
        ({"patient": "Patient/p2"}, "other-patient"),
        ({"expires_in": 0}, "expired"),  # CH-88
        ({"expires_in": -60}, "expired"),
        ({"expires_in": 2}, "expired"),  # sooner than the time for reading is over
        ({"subject": "somebody-else"}, "not-allowed"),  # CH-89
        ({"subject": "CDS-AT-EHR"}, "not-allowed"),
        ({"scope": "openid launch patient/Encounter.read"}, "no-scope"),  # CH-86
        ({"access_token": "two words"}, "unauthorized"),  # could not be sent as it is
        ({"access_token": "line\r\nbreak"}, "unauthorized"),
        ({"access_token": "umläut"}, "unauthorized"),
    ],
)
def test_ch81_ch88_ch89_a_token_that_is_not_for_this_call_is_not_used(
    server: FhirServer, changes: dict[str, Any], reason: str
) -> None:
    fetched = read(server.base, token=authorization(**changes))
    assert fetched == {key: Unreadable(reason, None) for key in EVERYTHING}  # type: ignore[arg-type]
    assert server.requests() == []


def test_ch81_a_token_that_names_no_patient_is_used(server: FhirServer) -> None:
    assert len(ids(read(server.base, token=authorization(patient=None))["laboratory"])) == 25


def test_ch89_without_a_client_id_no_token_is_used_but_in_the_demo(server: FhirServer) -> None:
    nameless = client(server.base, client_id=None)
    assert ids(read(server.base, config=demo(nameless))["patient"]) == ["p1"]
    secure = client("https://fhir.example.org", client_id=None)
    transport = Recorder("")
    fetched = one("https://fhir.example.org", config=production(secure), transport=transport)
    assert fetched == Unreadable("not-allowed")
    assert transport.asked == []


FULL, PART, NONE = "full", "part", "none"


@pytest.mark.parametrize(
    ("scope", "search", "instance"),
    [
        ("patient/Observation.read", FULL, NONE),
        ("patient/Observation.*", FULL, NONE),
        ("patient/*.read", FULL, FULL),
        ("patient/*.*", FULL, FULL),
        ("user/*.read", FULL, FULL),
        ("system/Observation.read patient/Patient.read", FULL, FULL),
        ("patient/Observation.write patient/Patient.write", NONE, NONE),
        ("patient/Observation.rs patient/Patient.rs", FULL, FULL),
        ("patient/*.cruds", FULL, FULL),
        ("patient/*.s", FULL, NONE),
        ("patient/*.r", NONE, FULL),
        ("patient/*.cud", NONE, NONE),
        ("patient/*.sr", NONE, NONE),  # not in the order of the grammar
        ("patient/*.", NONE, NONE),
        ("patient/Observation.rs?category=laboratory patient/Patient.r", PART, FULL),
        ("patient/Observation.rs?category=laboratory patient/Observation.s", FULL, NONE),
        ("patient/ObservationDefinition.read", NONE, NONE),
        ("patient/observation.read", NONE, NONE),
        ("patient/Observation.read,patient/Patient.read", NONE, NONE),
        ("launch/patient openid fhirUser", NONE, NONE),
        ("", NONE, NONE),
    ],
)
def test_ch86_only_what_a_scope_allows_is_asked(
    server: FhirServer, scope: str, search: str, instance: str
) -> None:
    wanted = {"search": "Observation?patient=p1", "instance": "Patient/p1"}
    fetched = read(server.base, wanted, token=authorization(scope=scope))
    for key, expected in (("search", search), ("instance", instance)):
        found = fetched[key]
        if expected == NONE:
            assert found == Unreadable("no-scope")
        else:
            assert isinstance(found, Pages)
            assert found.resources
            # The server may leave out what the query of the scope does not match.
            assert found.complete is (expected == FULL)
            assert found.reason == (None if expected == FULL else "no-scope")
    assert len(server.requests()) == (search != NONE) + (instance != NONE)


# ---------------------------------------------------------------- CH-87: which servers


class Recorder(httpx.AsyncBaseTransport):
    """Notes what is asked and answers an empty Bundle with this next page."""

    def __init__(self, following: str) -> None:
        self.following, self.asked = following, list[httpx.Request]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
        if self.following:
            bundle["link"] = [{"relation": "next", "url": self.following}]
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps(bundle).encode()))


LISTED = ("https://fhir.example.org/r4", "https://fhir.example.org:8443/a/b", "https://10.1.2.3/")


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ("https://fhir.example.org/r4", "https://fhir.example.org/r4/Patient/p1"),
        ("https://fhir.example.org/r4/", "https://fhir.example.org/r4/Patient/p1"),
        ("https://fhir.example.org:443/r4", "https://fhir.example.org/r4/Patient/p1"),
        ("HTTPS://FHIR.example.ORG/r4", "https://fhir.example.org/r4/Patient/p1"),
        ("https://fhir.example.org/r4/tenant-1", "https://fhir.example.org/r4/tenant-1/Patient/p1"),
        ("https://fhir.example.org:8443/a/b", "https://fhir.example.org:8443/a/b/Patient/p1"),
        ("https://10.1.2.3", "https://10.1.2.3/Patient/p1"),
    ],
)
def test_ch87_a_listed_server_is_asked(sent: str, asked: str) -> None:
    transport = Recorder("")
    config = production(client(*LISTED))
    read(sent, {"patient": "Patient/p1"}, config=config, transport=transport)
    assert [str(request.url) for request in transport.asked] == [asked]


@pytest.mark.parametrize(
    "sent",
    [
        "http://fhir.example.org/r4",
        "https://fhir.example.org",
        "https://fhir.example.org/",
        "https://fhir.example.org/r4x",
        "https://fhir.example.org/R4",
        "https://fhir.example.org/r",
        "https://fhir.example.org:8443/r4",
        "https://fhir.example.org:443/a/b",
        "https://fhir.example.org/r4/../admin",
        "https://fhir.example.org/r4/..",
        "https://fhir.example.org/r4/./x",
        "https://fhir.example.org/r4/.../x",
        "https://fhir.example.org/r4//x",
        "https://fhir.example.org/r4/%2e%2e/admin",
        "https://fhir.example.org/%72%34",
        "https://fhir.example.org/r4%2f..%2fadmin",
        "https://fhir.example.org/r4/..;/admin",
        "https://fhir.example.org/r4;x=1",
        "https://fhir.example.org/r4?x=1",
        "https://fhir.example.org/r4#x",
        "https://fhir.example.org/r4#@evil.example",
        "https://fhir.example.org@evil.example/r4",
        "https://user:pass@fhir.example.org/r4",
        "https://evil.example/r4",
        "https://fhir.example.org.evil.example/r4",
        "https://evil.example?https://fhir.example.org/r4",
        "https://evil.example#https://fhir.example.org/r4",
        "https://evil.example\\@fhir.example.org/r4",
        "https://fhir.example.org\\.evil.example/r4",
        "https://fhir.example.org:8443@evil.example/a/b",
        "https://fhir.example.org:99999/r4",
        "https://fhir.example.org:/r4",
        "https://fhir.example.org:+443/r4",
        "https://fhir.example.org:4\uff143/r4",
        "https://fhir。example。org/r4",
        "https://\uff46hir.example.org/r4",
        "https://fhir.example.org./r4",
        "https:///fhir.example.org/r4",
        "https:fhir.example.org/r4",
        "//fhir.example.org/r4",
        " https://fhir.example.org/r4",
        "https://fhir.example.org/r4\n",
        "https://fhir.example.org/r4\r\nHost: evil.example",
        "https://fhir.example.org\t/r4",
        "https://fhir.example.org/r4\x00",
        "https://[::ffff:10.1.2.3]/",
        "https://167838211/",
        "https://10.1.515/",
        "https://0xa.1.2.3/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "gopher://fhir.example.org/r4",
        "ftp://fhir.example.org/r4",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "",
        "https://fhir.example.org/r4/" + "a" * 20_000,
    ],
)
def test_ch87_no_other_server_is_asked(sent: str) -> None:
    transport = Recorder("")
    assert one(sent, config=production(client(*LISTED)), transport=transport) == Unreadable(
        "not-allowed"
    )
    assert transport.asked == []


@pytest.mark.parametrize(
    "query",
    [
        "/Observation",
        "../Observation",
        "Observation/../../admin",
        "Observation/..",
        "Observation/%2e%2e",
        "Observation#x",
        "Observation?a=b#c",
        "Observation?a=b c",
        "Observation?a=b\r\nX: y",
        "observation?patient=p1",
        "@evil.example/x",
        "//evil.example/Observation",
        "https://evil.example/Observation?patient=p1",
        "https://fhir.example.org/Observation?patient=p1",
        "https://fhir.example.org:8443/a/b/Observation?patient=p1",  # listed, but not this call's
        "",
    ],
)
def test_ch87_no_query_leads_out_of_the_server_of_the_call(query: str) -> None:
    transport = Recorder("")
    config = production(client(*LISTED))
    assert one(LISTED[0], query, config=config, transport=transport) == Unreadable("not-allowed")
    assert transport.asked == []


def test_ch87_a_client_is_held_to_its_own_list() -> None:
    other = client("https://fhir.example.net").model_copy(update={"iss": "https://other.example"})
    transport = Recorder("")
    config = production(client(*LISTED), other)
    fetched = one("https://fhir.example.net", config=config, transport=transport)
    assert fetched == Unreadable("not-allowed")
    assert transport.asked == []


def test_ch87_a_caller_without_a_list_reaches_this_machine_only_and_only_in_the_demo(
    server: FhirServer,
) -> None:
    assert ids(read(server.base, listed=())["patient"]) == ["p1"]
    transport = Recorder("")
    for url in (
        "https://fhir.example.org/r4",
        "http://10.1.2.3/",
        "http://127.1/",
        "http://2130706433/",
    ):
        assert one(url, listed=(), transport=transport) == Unreadable("not-allowed")
        # In the demo not even what is listed.
        assert one(url, listed=(url,), transport=transport) == Unreadable("not-allowed")
    nobody = production(client())
    assert one("https://127.0.0.1", config=nobody, transport=transport) == Unreadable("not-allowed")
    assert transport.asked == []


def test_ch87_the_demo_keeps_to_a_list_where_there_is_one(
    server: FhirServer, elsewhere: FhirServer
) -> None:
    assert one(elsewhere.base, listed=(server.base,)) == Unreadable("not-allowed")
    assert elsewhere.requests() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_ch87_no_redirect_is_followed(
    server: FhirServer, elsewhere: FhirServer, status: int
) -> None:
    for location in (
        f"{elsewhere.base}/Observation?patient=p1",
        f"{server.base}/Patient/p1",
        "https://a:b",
    ):
        server.behave("Observation", "status", status=status, headers={"Location": location})
        assert one(server.base) == Unreadable("not-allowed", status)
    assert elsewhere.requests() == []
    assert all("Patient" not in target for target in server.targets())


def test_ch87_a_next_page_on_another_server_is_not_read(
    server: FhirServer, elsewhere: FhirServer
) -> None:
    server.behave("Observation", "next", url=f"{elsewhere.base}/Observation?patient=p1&_page=10")
    fetched = one(server.base)
    assert len(ids(fetched)) == 10
    assert fetched[1:] == (False, "not-allowed", 0)
    assert elsewhere.requests() == []


@pytest.mark.parametrize(
    "link", ["{base}/Observation?{rest}", "Observation?{rest}", "/fhir/Observation?{rest}"]
)
def test_ch46_a_next_page_on_the_same_server_is_read(server: FhirServer, link: str) -> None:
    rest = "patient=p1&_page=10&_count=100"
    server.behave("Observation", "next", times=1, url=link.format(base=server.base, rest=rest))
    fetched = one(server.base)
    assert len(ids(fetched)) == 26
    assert fetched[1:] == (True, None, 0)


def test_ch46_the_further_pages_of_a_prefetched_bundle_are_read(
    server: FhirServer, elsewhere: FhirServer
) -> None:
    page = f"{server.base}/Observation?patient=p1&_page=20"
    fetched = read(server.base, {"good": page, "bad": page.replace(server.base, elsewhere.base)})
    assert len(ids(fetched["good"])) == 6
    assert fetched["bad"] == Unreadable("not-allowed")
    narrow = authorization(scope="patient/Patient.read")
    assert one(server.base, page, token=narrow) == Unreadable("no-scope")
    assert elsewhere.requests() == []


def test_a_listed_server_that_could_never_be_asked_is_refused_at_the_start() -> None:
    for url in ("https://fhir.example.org/r4/%41", "https://fhir.example.org/a/../b"):
        with pytest.raises(UsageError, match=r"clients\.0\.fhir_servers\.0: must be a base URL"):
            FhirReader(production(client(url)))


_SEGMENTS = ("..", ".", "%2e%2e", "%2E.", "..;", "", "r4", "a", "b", "r%34", "..\\x", "admin")
_BENDS = ("none", "none", "none", "scheme", "user", "host", "port", "path", "cut", "longer", "text")


@st.composite
def _urls(draw: st.DrawFn, *tails: str) -> str:
    """A URL of a listed server, or one that is bent in one place."""
    base = urlsplit(draw(st.sampled_from(LISTED)))
    bend = draw(st.sampled_from(_BENDS))
    scheme, host, path = base.scheme, base.hostname or "", base.path.rstrip("/")
    port = f":{base.port}" if base.port else ""
    user = ""
    if bend == "scheme":
        scheme = draw(st.sampled_from(("http", "HTTPS", "ftp", "file", "https:https")))
    elif bend == "user":
        user = draw(
            st.sampled_from(
                ("evil.example@", "a:b@", f"{host}@evil.example", f"{host}\\@evil.example")
            )
        )
        host = host if user[-1] == "@" else ""
    elif bend == "host":
        evil = ("evil.example", f"{host}.evil.example", "169.254.169.254", "[::1]", f"{host}.")
        host = draw(st.sampled_from((*evil, "fhir.example.org", "10.1.2.3")))
    elif bend == "port":
        port = draw(st.sampled_from(("", ":443", ":8443", ":80", ":0", ":99999", ":")))
    elif bend == "path":
        segments = draw(st.lists(st.sampled_from(_SEGMENTS), min_size=1, max_size=3))
        path += "/" + "/".join(segments)
    elif bend == "cut":
        path = path[: draw(st.integers(0, len(path)))] + draw(st.sampled_from(("", "x", "/x", "4")))
    elif bend == "longer":
        path += draw(st.sampled_from(("x", "4", "-", "~")))
    text = f"{scheme}://{user}{host}{port}{path}{draw(st.sampled_from(tails))}"
    if bend == "text":
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(min_size=1, max_size=3)) + text[place:]
    return text


_PAGES = ("/Observation?page=2", "?_getpages=1", "/?_getpages=1", "/Observation?page=2#x")
_RELATIVE = (
    "Observation?page=2",
    "/r4/Observation?page=2",
    "/a/b/Observation?page=2",
    "../x",
    "//x",
)
_asked: list[str] = []


_SERVERS = st.sampled_from(LISTED)
_QUERIES = st.sampled_from(("Condition?patient=p1", "Observation?code=http://loinc.org|2823-3"))
_LINKS = st.sampled_from(_RELATIVE)


@settings(max_examples=400)
@given(
    # One of the three is bent, so that what is done with it is not hidden by the others.
    st.tuples(_urls("", "/"), _QUERIES, _LINKS)
    | st.tuples(_SERVERS, _urls(*_PAGES), _LINKS)
    | st.tuples(_SERVERS, _QUERIES, _urls(*_PAGES))
)
def _no_url_outside_the_list_is_asked(sent: tuple[str, str, str]) -> None:
    server, query, following = sent
    transport = Recorder(following)
    config = production(client(*LISTED), fetch_pages_limit=3)
    fetched = read(server, {"key": query}, config=config, transport=transport)
    assert fetched.keys() == {"key"}
    for request in transport.asked:
        url = str(request.url)
        _asked.append(url)
        # Judged by another parser than the one that allowed it, and by what goes over the wire.
        parts = urlsplit(url)
        assert parts.username is None
        assert not parts.fragment
        assert request.headers["Host"] == parts.netloc
        assert "evil" not in parts.netloc
        path = posixpath.normpath(unquote(unquote(parts.path)) or "/")
        assert path == (parts.path.rstrip("/") or "/")
        assert request.url.raw_path.decode().partition("?")[0] == (parts.path or "/")
        assert any(
            (parts.scheme, parts.hostname, parts.port or 443)
            == (base.scheme, base.hostname, base.port or 443)
            and f"{path}/".startswith(f"{base.path.rstrip('/')}/")
            for base in map(urlsplit, LISTED)
        ), url
        assert TOKEN not in url
        if server in LISTED:  # then nothing but that very one
            assert url.startswith(server.rstrip("/")), url


def test_ch87_no_url_outside_the_list_is_ever_asked() -> None:
    _asked.clear()
    _no_url_outside_the_list_is_asked()
    # The property says nothing unless some were asked, on each server and also further pages.
    for base in LISTED:
        found = {url for url in _asked if url.startswith(base)}
        assert any("page" in url for url in found)
        assert len(found) > 2, base


# ---------------------------------------------------------------- CH-87: which addresses


class Line(httpcore.AsyncNetworkBackend):
    """Notes to which address a connection would go, and makes none."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.called.append(host)
        raise httpcore.ConnectError("a test")


def called(config: Settings, *addresses: str) -> list[str]:
    """Which addresses are tried when a name has these."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    async def run() -> list[str]:
        line = Line()
        with pytest.raises(httpcore.ConnectError):
            await GuardedNetwork(config, resolve, line).connect_tcp("fhir.example.org", 443)
        return line.called

    return asyncio.run(run())


# IANA's registries of special-purpose addresses, as far as they are not for all the world.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
        *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
        *("::/128", "::1/128", "fe80::/10", "fc00::/7", "ff00::/8", "2001:db8::/32", "100::/64"),
        *("::ffff:10.0.0.0/104", "::ffff:127.0.0.0/104", "::ffff:169.254.0.0/112"),
        *("64:ff9b::a9fe:0/112", "64:ff9b::a00:0/104", "2002:a00::/24", "2002:a9fe::/32"),
    )
]
_ADDRESSES = st.one_of(
    st.sampled_from(_NOT_PUBLIC).flatmap(lambda n: st.ip_addresses(network=n)), st.ip_addresses()
)


@pytest.mark.parametrize("network", _NOT_PUBLIC, ids=str)
def test_ch87_no_name_leads_into_a_network_that_is_not_public(network: Any) -> None:
    config = production(client("https://fhir.example.org"))
    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        assert called(config, str(address)) == []
        assert called(config, "8.8.8.8", str(address)) == []


@given(st.lists(_ADDRESSES, min_size=1, max_size=3, unique=True))
def test_ch87_a_name_leads_to_no_address_that_is_not_public(addresses: list[Any]) -> None:
    tried = called(production(client("https://fhir.example.org")), *map(str, addresses))
    private = [a for a in addresses if any(a in network for network in _NOT_PUBLIC)]
    if private:
        assert tried == []  # one bad address makes the name suspect
    assert set(tried) <= set(map(str, addresses))


def test_ch87_public_addresses_are_tried_one_after_the_other() -> None:
    public = ["2600::1", "64:ff9b::808:808", "8.8.8.8", "9.9.9.9"]
    assert called(production(client("https://fhir.example.org")), *public) == public


def test_ch87_a_private_address_is_called_if_it_is_listed_itself() -> None:
    config = production(client("https://fhir.example.org", "https://10.1.2.3/"))
    assert called(config, "10.1.2.3") == ["10.1.2.3"]
    assert called(config, "::ffff:10.1.2.3") == ["::ffff:10.1.2.3"]
    assert called(config, "10.1.2.4") == []
    assert called(config, "10.1.2.3", "169.254.169.254") == []


@given(_ADDRESSES)
def test_ch87_the_demo_calls_no_address_but_this_machine(address: Any) -> None:
    tried = called(demo(client("https://fhir.example.org")), str(address))
    inner = getattr(address, "ipv4_mapped", None) or address
    assert tried == ([str(address)] if inner.is_loopback else [])


def test_ch87_a_name_that_leads_to_a_private_address_is_reported_as_not_allowed() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["169.254.169.254"]

    config = production(client("https://fhir.example.org"))
    transport = GuardedTransport(GuardedNetwork(config, resolve))
    fetched = one("https://fhir.example.org", config=config, transport=transport)
    assert fetched == Unreadable("not-allowed")


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    config = production(client("https://fhir.invalid"))
    assert one("https://fhir.invalid", config=config).reason in ("unreachable", "timeout")


# ---------------------------------------------------------------- over TLS, as in production


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for fhir.test and 127.0.0.1, which signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("fhir.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.fixture(scope="module")
def secure(tls: tuple[Path, Path]) -> Iterator[FhirServer]:
    with running(RESOURCES, token=TOKEN, tls=tls) as server:
        yield server


def test_in_production_a_server_is_read_over_tls(
    secure: FhirServer, tls: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[0]))
    # A proxy of the environment would be another way out.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    fetched = read(secure.base, config=production(client(secure.base)))
    assert len(ids(fetched["laboratory"])) == 25


def test_in_production_a_name_is_proven_by_the_certificate(
    secure: FhirServer, tls: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[0]))

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    for host, expected in (("fhir.test", True), ("other.test", False)):
        named = secure.base.replace("127.0.0.1", host)
        config = production(client(named, secure.base))
        transport = GuardedTransport(GuardedNetwork(config, resolve))
        fetched = one(named, "Patient/p1", config=config, transport=transport)
        assert isinstance(fetched, Pages) is expected
        assert expected or fetched == Unreadable("unreachable")


def test_in_production_an_authority_that_the_system_does_not_trust_is_refused(
    secure: FhirServer,
) -> None:
    before = len(secure.requests())
    assert one(secure.base, config=production(client(secure.base))) == Unreadable("unreachable")
    assert len(secure.requests()) == before


# ---------------------------------------------------------------- servers that fail or lie


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("dead", {}, Unreadable("unreachable")),
        ("cut", {}, Unreadable("unreachable")),
        ("slow", {"seconds": 1.5}, Unreadable("timeout")),
        ("drip", {"seconds": 0.05}, Unreadable("timeout")),
        ("html", {}, Unreadable("not-fhir", 200)),
        ("outcome", {}, Unreadable("server-error", 200)),
        ("huge", {"bytes": 4_000_000}, Unreadable("too-large", 200)),
        ("bomb", {"bytes": 50_000_000}, Unreadable("too-large", 200)),
        ("gzip-cut", {}, Unreadable("not-fhir", 200)),
        ("raw", {"body": ""}, Unreadable("not-fhir", 200)),
        ("raw", {"body": "[]"}, Unreadable("not-fhir", 200)),
        ("raw", {"body": "null"}, Unreadable("not-fhir", 200)),
        ("raw", {"body": "{}"}, Unreadable("not-fhir", 200)),
        ("raw", {"body": '{"resourceType": "Bundle"}'}, Unreadable("not-fhir", 200)),
        ("raw", {"body": '{"resourceType": "Observation"}'}, Unreadable("not-fhir", 200)),
        ("raw", {"body": "[" * 100_000}, Unreadable("not-fhir", 200)),
        ("raw", {"body": "{}", "headers": {"Content-Encoding": "br"}}, Unreadable("not-fhir", 200)),
        (
            "raw",
            {"body": "{}", "headers": {"Content-Encoding": "gzip"}},
            Unreadable("not-fhir", 200),
        ),
        ("raw", {"body": "{}", "headers": {"Content-Length": "9"}}, Unreadable("timeout")),
        (
            "status",
            {"status": 204, "headers": {"Content-Length": "0"}},
            Unreadable("not-fhir", 204),
        ),
        ("status", {"status": 304}, Unreadable("not-allowed", 304)),
        ("status", {"status": 400}, Unreadable("server-error", 400)),
        ("status", {"status": 401}, Unreadable("unauthorized", 401)),
        ("status", {"status": 403}, Unreadable("forbidden", 403)),
        ("status", {"status": 404}, Unreadable("not-found", 404)),
        ("status", {"status": 410}, Unreadable("not-found", 410)),
        ("status", {"status": 429}, Unreadable("server-error", 429)),
        ("status", {"status": 500}, Unreadable("server-error", 500)),
        ("status", {"status": 503}, Unreadable("server-error", 503)),
    ],
)
def test_what_cannot_be_read_has_its_reason_and_hinders_no_other(
    server: FhirServer, kind: str, how: dict[str, Any], expected: Unreadable
) -> None:
    server.behave("Observation", kind, **how)
    started = time.monotonic()
    fetched = read(server.base, fetch_timeout_seconds=1, fetch_limit_bytes=1_000_000)
    assert time.monotonic() - started < 2
    assert fetched["laboratory"] == expected
    if expected.reason != "too-large":  # there the budget of all is used up
        assert ids(fetched["patient"]) == ["p1"]
        assert ids(fetched["conditions"]) == ["c1"]
    assert len([t for t in server.targets() if t.startswith("Observation")]) == 1


def test_a_server_that_is_not_there_is_unreachable() -> None:
    assert one("http://127.0.0.1:1/fhir") == Unreadable("unreachable")
    assert one("http://localhost:1/fhir") == Unreadable("unreachable")


@pytest.mark.parametrize("entry", ["{}", "null", "0", '{"a": 1}', '[{"resource": {}}]', "[null]"])
def test_entries_that_are_none_are_never_taken_for_an_empty_result(
    server: FhirServer, entry: str
) -> None:
    body = f'{{"resourceType": "Bundle", "type": "searchset", "entry": {entry}}}'
    server.behave("Observation", "raw", body=body)
    fetched = one(server.base)
    assert fetched.reason == "not-fhir"
    assert fetched in (Unreadable("not-fhir", 200), Pages([], False, "not-fhir"))


@pytest.mark.parametrize(
    "link", ['"x"', '[{"relation": "next"}]', "[null]", '{"relation": "next"}']
)
def test_links_that_cannot_be_read_make_a_result_incomplete(server: FhirServer, link: str) -> None:
    body = f'{{"resourceType": "Bundle", "type": "searchset", "link": {link}}}'
    server.behave("Observation", "raw", body=body)
    assert one(server.base) == Pages([], False, "not-fhir")


def test_an_operation_outcome_among_the_entries_makes_a_result_incomplete(
    server: FhirServer,
) -> None:
    server.behave("Condition", "outcome-entry")
    fetched = one(server.base, "Condition?patient=p1")
    assert ids(fetched) == ["c1"]
    assert fetched[1:] == (False, "server-error", 0)


def test_a_server_that_counts_more_than_it_gives_makes_a_result_incomplete(
    server: FhirServer,
) -> None:
    server.behave("Condition", "total", total=2)
    assert one(server.base, "Condition?patient=p1")[1:] == (False, "server-error", 0)


def test_ch48_resources_of_another_patient_are_dropped(server: FhirServer) -> None:
    strangers = [
        observation(92, patient="p2"),
        {"resourceType": "Patient", "id": "p2"},
        {"resourceType": "AllergyIntolerance", "id": "a", "patient": {"reference": "Patient/p2"}},
        {"resourceType": "Observation", "id": "b", "subject": {"reference": "urn:uuid:1"}},
        {
            "resourceType": "Observation",
            "id": "c",
            "subject": {"reference": "https://other.example/fhir/Patient/p1"},
        },
    ]
    kin = [
        {"resourceType": "Medication", "id": "m"},
        {
            "resourceType": "Observation",
            "id": "d",
            "subject": {"reference": "Patient/p1/_history/2"},
        },
        {
            "resourceType": "Observation",
            "id": "e",
            "subject": {"reference": f"{server.base}/Patient/p1"},
        },
    ]
    server.behave("Condition", "extra", resources=[*strangers, *kin])
    fetched = one(server.base, "Condition?patient=p1")
    assert ids(fetched) == ["c1", "m", "d", "e"]
    assert fetched[1:] == (False, "other-patient", 5)


def test_ch48_nothing_but_resources_of_another_patient_is_nothing(server: FhirServer) -> None:
    assert one(server.base, "Patient/p2") == Unreadable("other-patient", 200)
    assert one(server.base, "Observation?patient=p2") == Unreadable("other-patient", 200)


def test_pages_without_end_are_given_up_and_what_was_read_is_kept(server: FhirServer) -> None:
    server.behave("Observation", "endless")
    fetched = one(server.base, fetch_pages_limit=4)
    assert len(ids(fetched)) == 26
    assert fetched[1:] == (False, "too-many-pages", 0)
    assert len(server.requests()) == 4


def test_a_page_that_follows_itself_is_read_once(server: FhirServer) -> None:
    query = "Observation?patient=p1"
    server.behave("Observation", "next", url=query)
    fetched = one(server.base, query)
    assert fetched[1:] == (False, "too-many-pages", 0)
    assert len(server.requests()) == 1


def test_the_last_page_of_as_many_as_are_allowed_completes(server: FhirServer) -> None:
    assert one(server.base, fetch_pages_limit=3)[1:] == (True, None, 0)


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        ("slow", {"seconds": 1.5}, "timeout"),
        ("dead", {}, "unreachable"),
        ("status", {"status": 500}, "server-error"),
        ("html", {}, "not-fhir"),
        ("bomb", {"bytes": 5_000_000}, "too-large"),
    ],
)
def test_a_further_page_that_fails_leaves_what_was_read(
    server: FhirServer, kind: str, how: dict[str, Any], reason: str
) -> None:
    server.behave("Observation", "next", url="Condition?patient=p1")
    server.behave("Condition", kind, **how)
    fetched = one(server.base, seconds=0.7, fetch_limit_bytes=1_000_000)
    assert len(ids(fetched)) == 10
    assert fetched[1:] == (False, reason, 0)


def test_the_bytes_of_all_queries_count_together(server: FhirServer) -> None:
    wanted = {f"k{number}": "Observation?patient=p1&_count=50" for number in range(4)}
    size = len(json.dumps([r for r in RESOURCES if r["resourceType"] == "Observation"]))
    fetched = read(server.base, wanted, fetch_limit_bytes=int(size * 2.8))
    reasons = [result.reason for result in fetched.values()]
    assert reasons.count(None) == 2
    assert reasons.count("too-large") == 2


def test_the_resources_of_all_queries_count_together(server: FhirServer) -> None:
    wanted = {f"k{number}": "Observation?patient=p1&_count=50" for number in range(3)}
    reasons = [result.reason for result in read(server.base, wanted, entry_limit=60).values()]
    assert sorted(map(str, reasons)) == ["None", "None", "too-large"]


def test_all_queries_share_one_time_and_are_asked_at_once(server: FhirServer) -> None:
    server.behave("*", "slow", seconds=0.4)
    wanted = {f"k{number}": "Condition?patient=p1" for number in range(8)}
    started = time.monotonic()
    fetched = read(server.base, wanted, seconds=2)
    assert time.monotonic() - started < 1.5
    assert all(ids(result) == ["c1"] for result in fetched.values())


def test_a_deadline_that_is_over_asks_nothing(server: FhirServer) -> None:
    assert one(server.base, seconds=-1) == Unreadable("timeout")
    assert server.requests() == []


def test_the_time_for_reading_holds_even_if_the_call_has_more(server: FhirServer) -> None:
    server.behave("*", "slow", seconds=2)
    started = time.monotonic()
    assert one(server.base, seconds=30, fetch_timeout_seconds=0.3) == Unreadable("timeout")
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_once_more_if_it_says_when(server: FhirServer, status: int) -> None:
    http_date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for after in ("0", http_date):
        server.reset()
        busy = {"status": status, "headers": {"Retry-After": after}}
        server.behave("Condition", "status", times=1, **busy)
        assert ids(one(server.base, "Condition?patient=p1")) == ["c1"]
        assert len(server.requests()) == 2
        server.behave("Condition", "status", **busy)
        assert one(server.base, "Condition?patient=p1") == Unreadable("server-error", status)
        assert len(server.requests()) == 4


@pytest.mark.parametrize(
    "after", [None, "60", "-1", "soon", "9" * 5000, "Wed, 21 Oct 2099 07:28:00 GMT"]
)
def test_a_busy_server_is_not_asked_again_if_it_says_nothing_or_too_late(
    server: FhirServer, after: str | None
) -> None:
    headers = {} if after is None else {"Retry-After": after}
    server.behave("Condition", "status", times=1, status=503, headers=headers)
    started = time.monotonic()
    assert one(server.base, "Condition?patient=p1") == Unreadable("server-error", 503)
    assert time.monotonic() - started < 1
    assert len(server.requests()) == 1


def test_calls_that_were_given_up_leave_no_connection_behind(server: FhirServer) -> None:
    config = demo(client(server.base))

    async def run() -> tuple[list[Fetched], Fetched, int]:
        reader = FhirReader(config)
        now = asyncio.get_running_loop().time

        async def ask(seconds: float) -> Fetched:
            wanted = {"key": "Condition?patient=p1"}
            who = caller(config.clients[0])
            fetched = await reader.read(
                wanted, server.base, authorization(), who, now() + seconds, patient="p1"
            )
            return fetched["key"]

        server.behave("Condition", "slow", seconds=0.5)
        late = await asyncio.gather(*(ask(0.2) for _ in range(20)))
        cancelled = asyncio.create_task(ask(5))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        server.reset()
        good = await ask(5)
        # What the pool holds now is the one connection that may be used again.
        pool = reader._client._transport._pool  # type: ignore[attr-defined]
        held = len(pool.connections)
        await reader.aclose()
        return late, good, held

    late, good, held = asyncio.run(run())
    assert late == [Unreadable("timeout")] * 20
    assert ids(good) == ["c1"]
    assert held == 1


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_server_answers_is_said_and_never_raised(data: st.DataObject) -> None:
    json_values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=4)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *("resourceType", "type", "entry", "resource", "search", "mode", "link"),
                        *("relation", "url", "total", "subject", "reference", "id", "patient"),
                    ]
                ),
                inner
                | st.sampled_from(
                    ["Bundle", "searchset", "next", "Observation", "Patient", "Patient/p1"]
                ),
                max_size=4,
            )
        ),
        max_leaves=12,
    )
    sound = {"resourceType": "Bundle", "type": "searchset"}
    members = st.fixed_dictionaries(
        {}, optional={name: json_values for name in ("entry", "link", "total", "type")}
    )
    answers = itertools.chain(
        data.draw(st.lists(members.map(lambda m: {**sound, **m}) | json_values, max_size=4)),
        itertools.repeat(None),
    )

    async def answer(request: httpx.Request) -> httpx.Response:
        status = data.draw(st.sampled_from([200, 200, 200, 200, 301, 404, 500]))
        return httpx.Response(status, stream=httpx.ByteStream(json.dumps(next(answers)).encode()))

    config = production(client(*LISTED))
    fetched = read(LISTED[0], config=config, transport=httpx.MockTransport(answer))
    assert fetched.keys() == EVERYTHING.keys()
    for result in fetched.values():
        if isinstance(result, Pages):
            assert result.complete is (result.reason is None)
            assert all(r["resourceType"] != "OperationOutcome" for r in result.resources)
        else:
            assert result.reason
