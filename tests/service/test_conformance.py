"""`cds conformance`: each check passes on a good service and fails on one that is wrong there.

The wrong services are real ones in a process of their own (`conformance_servers.py`). Last, our own
service has to pass: each row of the checklist is a test.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from click.testing import CliRunner
from conformance_servers import CARDS, ISS, ORIGIN
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_server import Running, free_port

from cds.cli import main
from cds.conformance import CHECKS, LEFT_OUT, NOT_CHECKED, Outcome, Run, Signer, chosen, session
from cds.conformance.client import Client, base_of, strict_json
from cds.conformance.records import HOOKS, Records, expand
from cds.conformance.report import json_report, markdown_report
from cds.conformance.run import bare
from cds.errors import UsageError

SERVERS = Path(__file__).with_name("conformance_servers.py")


# ---------------------------------------------------------------- the services


@dataclass(frozen=True)
class Services:
    """The process of good and wrong services, and what is needed to call them."""

    plain: str
    tls: str
    mixed: str
    certificate: Path
    jwk: Path

    def signer(self) -> Signer:
        return Signer.read(self.jwk, ISS)

    def url(self, fault: str, mode: str = "open") -> str:
        return f"{self.plain}/{mode}/{fault}"

    def found(self, url: str, *only: str, **more: Any) -> dict[str, Outcome]:
        if "/signed/" in url:
            more.setdefault("signer", self.signer())
        with session(url, timeout=5, **more) as run:
            return {each.about.id: each for each in run.checked(chosen(only))}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("conformance")
    key = ec.generate_private_key(ec.SECP384R1())
    jwk = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key)), "kid": "k1", "alg": "ES384"}
    (folder / "private.json").write_text(json.dumps(jwk))
    public = {name: value for name, value in jwk.items() if name not in ("d", "key_ops")}
    (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA384())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    command = [sys.executable, SERVERS, *(folder / n for n in ("jwks.json", "cert.pem", "key.pem"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        assert len(ports) == 3, "the wrong services did not start"
        try:
            yield Services(
                f"http://127.0.0.1:{ports[0]}",
                f"https://localhost:{ports[1]}",
                f"https://localhost:{ports[2]}",
                folder / "cert.pem",
                folder / "private.json",
            )
        finally:
            process.kill()


# ---------------------------------------------------------------- good services pass

SIGNED = {
    "CH-13", "CH-126", "CH-128", "CH-129", "CH-130", "CH-131", "CH-132", "CH-133", "CH-134",
    "CH-135", "CH-136", "CH-137", "CH-138", "CH-139", "CH-142",
}  # fmt: skip


def test_good_service_passes_every_check(services: Services) -> None:
    found = services.found(services.url("good"), origin=ORIGIN, thorough=True)
    unlike = {id_: each.found for id_, each in found.items() if each.found.result != "pass"}
    assert unlike.keys() == SIGNED | {"CH-02"}, unlike
    assert {each.result for each in unlike.values()} <= {"skip", "n/a"}


def test_good_service_with_authentication_passes_every_check(services: Services) -> None:
    found = services.found(services.url("good", "signed"), origin=ORIGIN)
    unlike = {id_: each.found for id_, each in found.items() if each.found.result != "pass"}
    assert unlike.keys() == {"CH-02"}, unlike


def test_good_service_passes_with_tls(services: Services) -> None:
    url = f"{services.tls}/open/good"
    found = services.found(url, "CH-02", "CH-01", ca=str(services.certificate))
    assert {each.found.result for each in found.values()} == {"pass"}


# ---------------------------------------------------------------- wrong services fail

# The fault of a service, and the checks that see it.
WRONG: list[tuple[str, str]] = [
    ("media-type", "CH-01"),
    ("not-json", "CH-01"),
    ("null", "CH-03 CH-05 CH-96"),
    ("discovery-null", "CH-03 CH-05 CH-15"),
    ("empty", "CH-04 CH-05"),
    ("empty-object", "CH-04 CH-05"),
    ("system-actions-empty", "CH-04 CH-93"),
    ("system-actions-object", "CH-93"),
    ("blank", "CH-05"),
    ("slow", "CH-08"),
    ("other-path", "CH-10"),
    ("post-discovery", "CH-10.1"),
    ("list", "CH-11"),
    ("discovery-201", "CH-12"),
    ("no-hook", "CH-14"),
    ("no-title", "CH-15"),
    ("no-description", "CH-16"),
    ("no-id", "CH-17"),
    ("unroutable", "CH-17"),
    ("id-path", "CH-17"),
    ("prefetch-list", "CH-18"),
    ("prefetch-object", "CH-18"),
    ("usage-number", "CH-19 CH-153"),
    ("twice-same", "CH-20"),
    ("discovery-extension", "CH-23 CH-150"),
    ("changing", "CH-24"),
    ("brace", "CH-30"),
    ("expression", "CH-31"),
    ("old-token", "CH-32"),
    ("deep-token", "CH-33"),
    ("no-token", "CH-33"),
    ("include", "CH-34"),
    ("chained", "CH-34"),
    ("modifier", "CH-34"),
    ("date-prefix", "CH-34"),
    ("old-sort", "CH-35"),
    ("no-type", "CH-34 CH-36"),
    ("twice", "CH-37"),
    ("own-hook", "CH-79a"),
    ("partial", "CH-40"),
    ("reads-differ", "CH-41"),
    ("no-412", "CH-42 CH-43 CH-45 CH-61 CH-85"),
    ("200-anyway", "CH-42"),
    ("omitted-400", "CH-42 CH-43"),
    ("null-412", "CH-44"),
    ("empty-differs", "CH-44"),
    ("reads-null", "CH-44.1"),
    ("outcome-500", "CH-45"),
    ("reads-outcome", "CH-45.1"),
    ("next-400", "CH-46"),
    ("strays", "CH-46.1"),
    ("wrapped", "CH-47"),
    ("foreign", "CH-48"),
    ("old-412", "CH-49"),
    ("call-fails", "CH-55"),
    ("any-id", "CH-55.1"),
    ("any-method", "CH-55.2"),
    ("any-type", "CH-55.3"),
    ("crashes", "CH-56 CH-57 CH-58 CH-60 CH-80 CH-120 CH-121 CH-122"),
    ("lenient", "CH-55.4 CH-56.1 CH-57.1 CH-58.1 CH-60.1 CH-80.1 CH-120.1 CH-121.1 CH-122.1"),
    ("crashes", " ".join(about.row for about in HOOKS.values())),
    ("lenient", " ".join(f"{about.row}.1" for about in HOOKS.values())),
    ("uuid-4", "CH-57"),
    ("no-server", "CH-58 CH-59"),
    ("no-authorization", "CH-59 CH-80"),
    ("prefetch-needed", "CH-61"),
    ("strict", "CH-62"),
    ("no-limit", "CH-63"),
    ("stateful", "CH-65 CH-118"),
    ("patient-type", "CH-66"),
    ("dstu2-500", "CH-67"),
    ("optional-400", "CH-70"),
    ("selection-500", "CH-71.2"),
    ("other-patient", "CH-81"),
    ("read-500", "CH-82"),
    ("tokenless", "CH-83"),
    ("keeps-token", "CH-84"),
    ("shows-token", "CH-84"),
    ("retries", "CH-85"),
    ("no-scope", "CH-86"),
    ("scope-v1", "CH-86"),
    ("redirects", "CH-87"),
    ("expired-token", "CH-88"),
    ("no-cards", "CH-90"),
    ("card-text", "CH-90"),
    ("call-201", "CH-90"),
    ("nothing-empty", "CH-91"),
    ("nothing-204", "CH-91"),
    ("unknown-302", "CH-92"),
    ("uuid", "CH-94"),
    ("uuid-twice", "CH-94"),
    ("summary-140", "CH-95"),
    ("summary-utf16", "CH-95"),
    ("no-summary", "CH-95"),
    ("detail-script", "CH-96"),
    ("detail-handler", "CH-96"),
    ("detail-number", "CH-96"),
    ("injected", "CH-96.1"),
    ("hard-stop", "CH-97"),
    ("no-source", "CH-98"),
    ("no-label", "CH-99"),
    ("relative-url", "CH-100"),
    ("url-of-patient", "CH-100"),
    ("relative-icon", "CH-101"),
    ("small-icon", "CH-101"),
    ("clear-icon", "CH-101"),
    ("topic-text", "CH-102 CH-117"),
    ("no-behavior", "CH-103"),
    ("behavior", "CH-103"),
    ("no-suggestion-label", "CH-104"),
    ("suggestion-uuid-twice", "CH-104"),
    ("recommended-text", "CH-105"),
    ("both-recommended", "CH-105"),
    ("no-actions", "CH-106"),
    ("upper-type", "CH-107"),
    ("no-description", "CH-108"),
    ("create-text", "CH-109"),
    ("create-other", "CH-109"),
    ("update-part", "CH-110"),
    ("delete-resource", "CH-111"),
    ("delete-no-id", "CH-111"),
    ("reason-no-display", "CH-112"),
    ("reason-no-system", "CH-112 CH-117"),
    ("link-relative", "CH-113"),
    ("link-type", "CH-113"),
    ("link-launch", "CH-113"),
    ("context-absolute", "CH-114"),
    ("order", "CH-118"),
    ("feedback-one", "CH-119"),
    ("only-z", "CH-121"),
    ("no-accepted", "CH-122"),
    ("reason-needed", "CH-123"),
    ("conflict", "CH-124"),
    ("unknown-404", "CH-127"),
    ("cors-any", "CH-143"),
    ("extension-list", "CH-150"),
    ("extension-name", "CH-151"),
    ("extension-400", "CH-152"),
    ("no-r4", "CH-153"),
    ("no-version", "CH-154"),
]
WRONG_SIGNED: list[tuple[str, str]] = [
    ("discovery-302", "CH-13"),
    ("feedback-open", "CH-126"),
    ("tells-cause", "CH-128"),
    ("no-auth", "CH-129 CH-130 CH-131 CH-134 CH-135"),
    ("no-signature", "CH-130"),
    ("none-ok", "CH-131"),
    ("symmetric-ok", "CH-132"),
    ("alg-ignored", "CH-133"),
    ("no-header", "CH-134"),
    ("no-claims", "CH-135"),
    ("no-audience", "CH-136"),
    ("one-audience", "CH-136"),
    ("no-times", "CH-137"),
    ("replay", "CH-138"),
    ("any-iss", "CH-139"),
    ("any-jku", "CH-139"),
    ("echoes", "CH-142"),
]


@pytest.mark.parametrize(("fault", "ids"), WRONG)
def test_wrong_service_fails(services: Services, fault: str, ids: str) -> None:
    found = services.found(services.url(fault), *ids.split())
    for id_ in ids.split():
        assert found[id_].found.result == "fail", (id_, found[id_].found)


@pytest.mark.parametrize(("fault", "ids"), WRONG_SIGNED)
def test_wrong_authentication_fails(services: Services, fault: str, ids: str) -> None:
    found = services.found(services.url(fault, "signed"), *ids.split())
    for id_ in ids.split():
        assert found[id_].found.result == "fail", (id_, found[id_].found)


@pytest.mark.parametrize("fault", ["cors-none", "cors-headers", "cors-refusal", "preflight-405"])
def test_an_origin_that_should_be_allowed_and_is_not_fails(services: Services, fault: str) -> None:
    found = services.found(services.url(fault), "CH-143", origin=ORIGIN)
    assert found["CH-143"].found.result == "fail"


def test_plain_http_beside_tls_fails(services: Services) -> None:
    url = f"{services.mixed}/open/good"
    found = services.found(url, "CH-02", ca=str(services.certificate))
    assert found["CH-02"].found.result == "fail"


def test_every_check_has_been_seen_to_fail() -> None:
    seen = {id_ for _, ids in (*WRONG, *WRONG_SIGNED) for id_ in ids.split()} | {"CH-02"}
    assert {each.id for each in CHECKS} - seen == set()


def test_every_wrong_card_is_used() -> None:
    assert set(CARDS) - {fault for fault, _ in WRONG} == set()


def test_a_service_that_does_not_read_fails_only_where_it_is_expected_to(
    services: Services,
) -> None:
    url, base = services.url("never-reads"), f"http://127.0.0.1:{free_port()}/r4"
    assert services.found(url, "CH-41")["CH-41"].found.result == "skip"
    assert services.found(url, "CH-41", fhir_base=base)["CH-41"].found.result == "fail"
    good = services.found(services.url("good"), "CH-41", fhir_base=base)
    assert good["CH-41"].found.result == "pass"


@pytest.mark.parametrize("name", ["ES256", "ES384", "RS384", "EdDSA"])
def test_every_kind_of_key_signs(name: str) -> None:
    key = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "RS384": lambda: rsa.generate_private_key(65537, 2048),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[name]()
    jwk = jwt.get_algorithm_by_name(name).to_jwk(key, as_dict=True)
    signer = Signer({**jwk, "kid": "1"}, ISS, "https://ehr.example.org/jwks.json")
    token = signer.token(signer.claims("https://cds.example.org"))
    read = jwt.decode(token, key.public_key(), [name], audience="https://cds.example.org")
    assert read["iss"] == ISS
    assert jwt.get_unverified_header(token) == {
        "alg": name, "typ": "JWT", "kid": "1", "jku": "https://ehr.example.org/jwks.json"
    }  # fmt: skip
    forged = signer.token(signer.claims("https://cds.example.org"), key=signer.stranger())
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(forged, key.public_key(), [name], audience="https://cds.example.org")
    assert b"PUBLIC KEY" in signer.public_pem()
    for lacking in ("d", "kid", "kty"):
        with pytest.raises(UsageError):
            Signer({**jwk, "kid": "1", lacking: None} if lacking != "d" else
                   {**{k: v for k, v in jwk.items() if k != "d"}, "kid": "1"}, ISS)  # fmt: skip


# ---------------------------------------------------------------- the parts


def test_strict_json() -> None:
    assert strict_json(b'{"a": [1, null]}') == {"a": [1, None]}
    for text in (b"NaN", b'{"a": 1, "a": 2}', b"\xff", b"{} //", b"[" * 100_000, b"[" * 200):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            strict_json(text)
    with pytest.raises(ValueError, match="deep"):
        strict_json(b"[" * 200 + b"]" * 200)


def test_cards_are_compared_without_what_tells_them_apart() -> None:
    now = datetime.now(UTC)
    texts = [
        f"{now:%Y-%m-%dT%H:%M:%SZ}",
        f"at {now:%Y-%m-%d %H:%M} UTC; from 2020-01-01",
        f"{now + timedelta(hours=2):%Y-%m-%dT%H:%M:%S.%f}+02:00",
        f"{now - timedelta(hours=2):%Y-%m-%d %H:%M} UTC",
        "2020-13-40T99:99Z",
    ]
    cards = [{"uuid": "1", "extension": {"a": 1}, "detail": text} for text in texts]
    assert [card["detail"] for card in bare(cards)] == [
        "now", "at now; from 2020-01-01", "now", *texts[3:]
    ]  # fmt: skip
    assert set(bare(cards)[0]) == {"detail"}


@pytest.mark.parametrize(
    "url", ["ftp://a", "cds.example.org", "https://", "https://u:p@a", "https://a?b", "http://["]
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UsageError):
        base_of(url)


def test_the_url_may_be_that_of_discovery() -> None:
    assert base_of("https://a.example.org/x/cds-services/") == "https://a.example.org/x"


@pytest.mark.parametrize("hook", HOOKS)
def test_contexts_are_valid_fhir(hook: str) -> None:
    from fhir.resources.R4B import get_fhir_model_class

    context = Records(datetime.now(UTC)).context(hook, optional=True)
    assert context is not None
    assert set(context) == {*HOOKS[hook].required, *HOOKS[hook].optional}
    for value in context.values():
        for resource in value if isinstance(value, list) else [value]:
            if isinstance(resource, dict):
                get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_the_record_is_valid_fhir_of_one_patient() -> None:
    from fhir.resources.R4B import get_fhir_model_class

    records = Records(datetime.now(UTC))
    for resource in records.resources:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    assert "@" not in json.dumps(records.resources)


def test_templates_are_expanded_and_answered() -> None:
    records = Records(datetime.now(UTC))
    context = {"patientId": "cds-conformance", "userId": "Practitioner/7", "list": ["a", "b"]}
    assert expand("X/{{context.patientId}}?{{userPractitionerId}}", context) == (
        "X/cds-conformance?7"
    )
    assert expand("{{context.list}}{{userPatientId}}", context) == "a,b"
    found = records.prefetch(
        {
            "patient": "Patient/{{context.patientId}}",
            "labs": "Observation?patient={{context.patientId}}&category=laboratory",
            "code": "Observation?patient={{context.patientId}}&code=http://loinc.org|2823-3",
            "old": "Observation?patient={{context.patientId}}&date=le1990-01-01",
            "other": "Observation?patient=nobody",
        },
        context,
    )
    totals = {key: value and value.get("total") for key, value in found.items()}
    assert totals == {"patient": None, "labs": 3, "code": 1, "old": None, "other": None}
    assert found["patient"] == records.resources[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["services", "cards", "id", "hook", "prefetch", "uuid", "summary", "detail",
                 "indicator", "source", "label", "url", "icon", "topic", "suggestions", "actions",
                 "type", "resource", "subject", "reference", "links", "overrideReasons",
                 "extension", "systemActions", "appContext", "resourceId", "isRecommended"]
            ),
            parts,
            max_size=4,
        )
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=25)
@given(listed=JSON, more=JSON, answer=JSON, card=JSON)
def test_no_answer_makes_a_check_raise(listed: Any, more: Any, answer: Any, card: Any) -> None:
    good = {"id": "a", "hook": "patient-view", "prefetch": {"p": "Observation?a=1"}}
    entry = {**good, **(more if isinstance(more, dict) else {})}

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"services": [entry, listed]})
        cards = {"cards": [card]} if isinstance(card, dict) else {}
        return httpx.Response(200, json={**cards, **answer} if isinstance(answer, dict) else answer)

    client = Client("http://127.0.0.1:9", transport=httpx.MockTransport(respond))
    run = Run(client, records=Records(datetime.now(UTC)))
    outcomes = list(run.checked(CHECKS))
    assert len(outcomes) == len(CHECKS)
    json.dumps(json_report("x", outcomes))
    markdown_report("x", outcomes)
    client.close()


# ---------------------------------------------------------------- the command


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["conformance", *map(str, arguments)])


def test_command_tells_each_check_and_figures(services: Services) -> None:
    result = command(services.url("good"), "--only", "CH-95,CH-97", "--only", "CH-15")
    assert result.exit_code == 0, result.output
    assert re.search(r"^pass +CH-95 +SHALL", result.stdout, re.MULTILINE)
    assert re.search(r"^SHALL +2 +0 +0 +0", result.stdout, re.MULTILINE)
    assert "no failure that counts" in result.stdout


def test_command_ends_with_1_only_for_what_counts(services: Services) -> None:
    assert command(services.url("summary-140"), "--only", "CH-95").exit_code == 1
    assert command(services.url("no-title"), "--only", "CH-15").exit_code == 0
    assert command(services.url("no-title"), "--only", "CH-15", "--local").exit_code == 1


def test_command_writes_json_and_markdown(services: Services) -> None:
    url = services.url("summary-140")
    result = command(url, "--only", "CH-95,CH-11", "--format", "json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["conformant"] is False
    assert [each["result"] for each in report["checks"]] == ["pass", "fail"]
    assert report["counts"]["SHALL"] == {"pass": 1, "fail": 1, "skip": 0, "n/a": 0}
    assert {each["id"] for each in report["not_checked"]} == set(NOT_CHECKED)
    text = command(url, "--only", "CH-95", "--format", "md").stdout
    assert "| CH-95 | SHALL |" in text
    assert "| fail |" in text


def test_command_signs(services: Services) -> None:
    url = services.url("good", "signed")
    result = command(url, "--jwk", services.jwk, "--iss", ISS, "--only", "CH-130,CH-133")
    assert result.exit_code == 0, result.output
    assert re.search(r"^pass +CH-130", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "CH-95"], "401 without a token"),
        (["--iss", ISS], "--jwk and --iss go together"),
        (["--only", "CH-999"], "there is no check or row"),
        (["--only", "CH-64"], "cannot be checked"),
        (["--only", "CH-38"], "version 3.0"),
        (["--fhir-base", "https://fhir.example.org"], "needs a proxy"),
        (["--fhir-listen", "7"], "HOST:PORT"),
    ],
)
def test_command_with_arguments_that_cannot_be_used(
    services: Services, arguments: list[str], words: str
) -> None:
    result = command(services.url("good", "signed"), *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_command_without_a_server(tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{free_port()}/r4"
    result = command(base)
    assert result.exit_code == 2
    assert f"{base}/cds-services" in result.output
    wrong = tmp_path / "request.json"
    wrong.write_text('{"hook": 7}')
    assert command(base, "--request", wrong).exit_code == 2


def test_command_uses_a_request_of_the_user(services: Services, tmp_path: Path) -> None:
    request = {
        "hook": "org.example.custom",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"patientId": "1"},
    }
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    result = command(services.url("good"), "--only", "CH-55", "--format", "json")
    assert "custom" not in result.stdout
    result = command(services.url("good"), "--request", file, "--only", "CH-55", "--format", "json")
    assert result.exit_code == 0
    assert "custom: 200" in result.stdout


def test_command_lists_its_checks() -> None:
    result = command("--list", "--format", "json")
    assert [each["id"] for each in json.loads(result.stdout)] == [each.id for each in CHECKS]
    assert command().exit_code == 2


# ---------------------------------------------------------------- the checklist


def test_every_row_of_the_checklist_is_checked_or_says_why_not(clinical_data: Path) -> None:
    paper = clinical_data.resolve().parent / "cds_hooks_conformance.md"
    if not paper.is_file():
        pytest.skip(f"there is no {paper.name} beside the folder of clinical data")
    rows = re.findall(r"^(?:\| )?(CH-\d+a?)\b", paper.read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 100
    told = {each.row for each in CHECKS} | set(NOT_CHECKED) | set(LEFT_OUT)
    assert set(rows) - told == set()
    assert told - set(rows) == set()


def test_no_row_is_told_twice() -> None:
    ids = [each.id for each in CHECKS]
    assert len(ids) == len(set(ids))
    rows = {each.row for each in CHECKS}
    assert not rows & set(NOT_CHECKED)
    assert not rows & set(LEFT_OUT)
    assert not set(NOT_CHECKED) & set(LEFT_OUT)


# ---------------------------------------------------------------- our own service

Found = dict[str, list[Outcome]]

# What our service does not have, so that a row has nothing to which it could apply.
NOT_OFFERED = {
    "CH-20": "no id has two hooks",
    "CH-77": "no service for allergyintolerance-create",
    "CH-78": "no service for order-dispatch",
    "CH-79": "no service for appointment-book",
    "CH-93": "no system actions",
    "CH-101": "no icon",
    "CH-105": "no suggestion is recommended above others",
    "CH-110": "no action changes a resource",
    "CH-111": "no action deletes one",
    "CH-114": "no SMART links",
    "CH-141": "no mutual TLS",
}
# Rows that nobody can check from outside, and the test of ours that does; "" where the row is
# about what people agree on or do.
INSIDE = {
    "CH-25": "service/test_discovery.py::"
    "test_there_is_one_service_for_each_hook_with_all_that_discovery_may_say",
    "CH-64": "service/test_calls.py::test_a_failure_of_a_rule_is_an_error_without_its_text",
    "CH-89": "service/test_fhirclient.py::"
    "test_ch81_ch88_ch89_a_token_that_is_not_for_this_call_is_not_used",
    "CH-125": "service/test_store.py::test_the_latest_outcome_counts_and_silence_is_neither",
    "CH-140": "service/test_auth.py::test_a_client_with_a_file_is_never_asked",
    "CH-144": "",  # links stand in rule files, which are reviewed; there is no list of them
    "CH-145": "clinical/test_ground_rules.py::test_a_result_older_than_its_window_is_stale",
    "CH-155": "",
}


@pytest.fixture(scope="module")
def ours(server: Any, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What the checks find in our service: as a demonstration, and then as in production.

    The first reads a FHIR server, which in production would have to have TLS. The second has TLS,
    signed calls and an origin that may call; it is asked what the first could not be.
    """
    found: Found = {}
    with session(server.url, thorough=True) as run:
        for each in run.checked(CHECKS):
            found.setdefault(each.about.row, []).append(each)
    with production(services, tmp_path_factory.mktemp("production")) as run:
        skipped = [e.about for row in found.values() for e in row if e.found.result != "pass"]
        for each in run.checked(skipped):
            found[each.about.row].append(each)
    return found


@contextmanager
def production(services: Services, folder: Path) -> Iterator[Run]:
    port = free_port()
    url = f"https://localhost:{port}"
    config = folder / "cds.toml"
    config.write_text(
        f"""
        port = {port}
        public_url = "{url}"
        tls_certificate = "{services.certificate}"
        tls_key = "{services.certificate.with_name("key.pem")}"
        database_url = "sqlite:///{folder}/cds.db"
        cors_origins = ["{ORIGIN}"]
        [[clients]]
        iss = "{ISS}"
        jwks_file = "{services.certificate.with_name("jwks.json")}"
        """
    )
    ca = str(services.certificate)
    command = [sys.executable, "-m", "cds", "serve", "--config", str(config)]
    with (
        Running(command, url, verify=ssl.create_default_context(cafile=ca)),
        session(url, signer=services.signer(), ca=ca, origin=ORIGIN) as run,
    ):
        yield run


@pytest.mark.slow  # two servers with all rules, one of them in production mode
@pytest.mark.parametrize("row", [*dict.fromkeys(each.row for each in CHECKS)])
def test_row(ours: Found, row: str) -> None:
    failures = [(each.about.id, each.found) for each in ours[row] if each.found.result == "fail"]
    assert failures == []
    for id_ in {each.about.id for each in ours[row]}:
        results = {each.found.result for each in ours[row] if each.about.id == id_}
        if row in NOT_OFFERED:
            assert results <= {"n/a", "skip"}, f"{id_}: {NOT_OFFERED[row]} is no longer true"
        else:
            assert "pass" in results, (id_, [each.found for each in ours[row]])


@pytest.mark.parametrize("row", [row for row in NOT_CHECKED if row not in NOT_OFFERED])
def test_row_that_cannot_be_checked_from_outside(row: str) -> None:
    """The test that is named is there."""
    file, _, name = INSIDE[row].partition("::")
    if file:
        text = (Path(__file__).parents[1] / file).read_text("utf-8")
        assert f"def {name}(" in text
