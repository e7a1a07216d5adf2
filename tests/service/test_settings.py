"""What can be set, from where, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from cds.errors import UsageError
from cds.service.settings import Client, Settings, documented, is_loopback, load

PROXY = {
    "behind_proxy": True,
    "trusted_proxies": ("10.0.0.7",),
    "public_url": "https://cds.example.org/x",
}
EHR = {"iss": "https://ehr.example.org", "jwks_file": "keys.json"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("CDS_SERVICE_"):
            monkeypatch.delenv(name)


def faults(**given: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(**given)  # type: ignore[arg-type]
    return str(caught.value)


# ---------------------------------------------------------------- where they come from


def test_a_demo_needs_nothing_else() -> None:
    settings = load(insecure_demo=True, port=9000, base_path="/cds/")
    assert settings.auth == "off"
    assert settings.public_url == settings.url == "http://127.0.0.1:9000/cds"
    assert not settings.tls


def test_a_demo_may_want_tokens() -> None:
    assert load(insecure_demo=True, auth="required").auth == "required"


def test_each_source_overrides_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cds.toml"
    file.write_text("insecure_demo = true\nport = 9001\nworkers = 2\ndepth_limit = 30\n")
    monkeypatch.setenv("CDS_SERVICE_PORT", "9002")
    monkeypatch.setenv("CDS_SERVICE_WORKERS", "3")
    settings = load(file, workers=4)
    assert (settings.depth_limit, settings.port, settings.workers) == (30, 9002, 4)
    assert settings.entry_limit == Settings.model_fields["entry_limit"].default


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cds.toml"
    file.write_text("insecure_demo = true\nport = 9001\n")
    monkeypatch.setenv("CDS_SERVICE_CONFIG", str(file))
    assert load().port == 9001


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "cds.toml"
    file.write_text(
        'public_url = "https://cds.example.org"\ntls_certificate = "a.pem"\ntls_key = "/b.pem"\n'
        'rulesets = ["rules"]\n[[clients]]\niss = "https://e"\njwks_file = "keys/e.json"\n'
    )
    settings = load(file)
    assert settings.tls_certificate == tmp_path / "a.pem"
    assert settings.tls_key == Path("/b.pem")
    assert settings.rulesets == (tmp_path / "rules",)
    assert settings.clients[0].jwks_file == tmp_path / "keys/e.json"


@pytest.mark.parametrize("text", ["10.0.0.7, 10.1.0.0/16", '["10.0.0.7", "10.1.0.0/16"]'])
def test_a_list_in_the_environment_is_json_or_has_commas(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDS_SERVICE_TRUSTED_PROXIES", text)
    settings = load(behind_proxy=True, public_url="https://cds.example.org")
    assert settings.trusted_proxies == ("10.0.0.7", "10.1.0.0/16")


def test_clients_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDS_SERVICE_CLIENTS", '[{"iss": "https://e", "jku": "https://e/jwks"}]')
    assert load(**PROXY).clients == (Client(iss="https://e", jku="https://e/jwks"),)


def test_settings_stay_as_they_are_also_in_another_process() -> None:
    settings = load(insecure_demo=True)
    with pytest.raises(ValidationError):
        settings.port = 1
    again = pickle.loads(pickle.dumps(settings))  # noqa: S301
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set


# ---------------------------------------------------------------- what is refused


def test_a_fault_is_said_with_its_source_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cds.toml"
    file.write_text('engine = "x"\nbody_limit = 3\n[[clients]]\niss = "a"\nkeys = "b"\n')
    monkeypatch.setenv("CDS_SERVICE_DEPTH_LIMIT", "many")
    said = faults(config=file, workers=0, insecure_demo=True).splitlines()
    assert f"{file}: engine: " in "\n".join(said)
    assert f"{file}: body_limit: there is no such setting; 'body_limit_bytes'?" in said
    assert f"{file}: clients.0.keys: there is no such setting" in "\n".join(said)
    assert any(s.startswith("environment variable CDS_SERVICE_DEPTH_LIMIT: ") for s in said)
    assert any(s.startswith("option --workers: ") for s in said)


def test_a_variable_that_sets_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDS_SERVICE_PROT", "80")
    assert faults(insecure_demo=True) == (
        "environment variable CDS_SERVICE_PROT: there is no such setting; 'port'?"
    )


def test_clients_in_the_environment_that_are_no_json_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CDS_SERVICE_CLIENTS", "hush")
    said = faults(**PROXY)
    assert "CDS_SERVICE_CLIENTS" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    "text", ["port = ", "\xff", "[[clients]]\niss=1", "clients = 3", "rulesets = 3"]
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cds.toml"
    file.write_bytes(text.encode("latin1"))
    assert str(file) in faults(config=file, insecure_demo=True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "no.toml") in faults(config=tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("given", "key"),
    [
        # CH-02: no production on plain HTTP.
        ({"public_url": "https://a"}, "tls_certificate"),
        ({"public_url": "https://a", "tls_certificate": "a.pem"}, "tls_key"),
        ({**PROXY, "trusted_proxies": ()}, "behind_proxy"),
        ({**PROXY, "behind_proxy": False}, "trusted_proxies"),
        ({**PROXY, "trusted_proxies": ("0.0.0.0/0",)}, "trusted_proxies"),
        ({**PROXY, "trusted_proxies": ("*",)}, "trusted_proxies"),
        ({**PROXY, "public_url": None}, "public_url"),
        ({**PROXY, "public_url": "http://cds.example.org"}, "public_url"),
        ({**PROXY, "public_url": "https://cds.example.org/?a"}, "public_url"),
        ({**PROXY, "public_url": "https://u:p@cds.example.org/"}, "public_url"),
        # CH-129: no production without tokens.
        ({**PROXY, "auth": "off"}, "auth"),
        ({**PROXY, "clients": [{"iss": "a"}]}, "clients.0"),
        ({**PROXY, "clients": [EHR, EHR]}, "clients.1.iss"),
        ({**PROXY, "clients": [{**EHR, "algorithms": ["HS256"]}]}, "clients.0.algorithms.0"),
        ({**PROXY, "clients": [{**EHR, "algorithms": ["none"]}]}, "clients.0.algorithms.0"),
        ({**PROXY, "clients": [{**EHR, "algorithms": []}]}, "clients.0.algorithms"),
        ({**PROXY, "clients": [{**EHR, "jku": "http://e/k"}]}, "clients.0.jku"),
        ({**PROXY, "clients": [{**EHR, "fhir_servers": ["http://e"]}]}, "clients.0.fhir_servers"),
        ({**PROXY, "clients": [{**EHR, "fhir_servers": ["file:///e"]}]}, "clients.0.fhir_servers"),
        # CH-143: named origins only.
        ({**PROXY, "cors_origins": ("*",)}, "cors_origins"),
        ({**PROXY, "cors_origins": ("null",)}, "cors_origins"),
        ({**PROXY, "cors_origins": ("https://a/",)}, "cors_origins"),
        ({**PROXY, "cors_origins": ("https://a:443",)}, "cors_origins"),
        ({**PROXY, "cors_origins": ("http://a",)}, "cors_origins"),
        # A demo is for this machine only.
        ({"insecure_demo": True, "host": "0.0.0.0"}, "host"),  # noqa: S104
        ({"insecure_demo": True, "host": "example.org"}, "host"),
        ({**PROXY, "insecure_demo": True}, "behind_proxy"),
        ({"insecure_demo": True, "port": 0}, "port"),
        ({"insecure_demo": True, "base_path": "cds"}, "base_path"),
        ({"insecure_demo": True, "base_path": "/a/../b"}, "base_path"),
        ({"insecure_demo": True, "fetch_timeout_seconds": 9}, "fetch_timeout_seconds"),
        ({"insecure_demo": True, "on_failure": "cards"}, "on_failure"),
    ],
)
def test_what_is_not_safe_is_refused_by_its_key(given: dict[str, object], key: str) -> None:
    said = faults(**given)
    first, _, rest = key.partition(".")
    sources = f"option --{first.replace('_', '-')}", first
    places = [f"{source}.{rest}" if rest else source for source in sources]
    assert any(line.startswith(f"{p}: ") for line in said.splitlines() for p in places)


def test_no_value_is_repeated_in_a_fault() -> None:
    said = faults(**{**PROXY, "public_url": "https://user:hush@example.org", "engine": "hush2"})
    assert "hush" not in said


def test_production_with_a_proxy_or_tls_is_accepted() -> None:
    assert load(**PROXY, clients=[EHR]).auth == "required"
    tls = {"tls_certificate": "a.pem", "tls_key": "b.pem"}
    assert load(public_url="https://a/cds/", **tls).url == "https://a/cds"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_without_a_name_server(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# ---------------------------------------------------------------- the documented file


def test_every_member_is_documented() -> None:
    for model in (Settings, Client):
        assert all(field.description for field in model.model_fields.values())
    text = documented()
    assert tomllib.loads(text) == {}
    for name in (*Settings.model_fields, *Client.model_fields):
        assert f"# {name} =" in text or f"# [[{name}]]" in text


def test_the_documented_defaults_are_those_that_hold(tmp_path: Path) -> None:
    lines = documented().splitlines()
    on = [
        line.removeprefix("# ")
        for line in lines
        if line.startswith("# ")
        and line.removeprefix("# ").partition(" =")[0] in Settings.model_fields
        and not line.endswith("=")
    ]
    file = tmp_path / "cds.toml"
    file.write_text("\n".join(on).replace("insecure_demo = false", "insecure_demo = true"))
    # "required" is the default that insecure_demo changes where nothing is said.
    assert load(file) == load(insecure_demo=True, auth="required")


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    client = Client(iss='https://e/"q"', jku="https://e/k", tenants=("a", "b"), client_id="c")
    settings = Settings(**PROXY, clients=(client,), cors_origins=("https://ehr.example.org",))
    file = tmp_path / "cds.toml"
    file.write_text(documented(settings))
    assert load(file) == settings


def test_no_password_is_printed() -> None:
    url = "postgresql://cds:hu@sh@db.example.org/cds"
    settings = Settings(insecure_demo=True, database_url=url)
    assert 'database_url = "postgresql://cds:***@db.example.org/cds"' in documented(settings)
    assert "sh@" not in repr(settings)


def test_the_command_prints_the_file_for_nothing_given() -> None:
    command = [sys.executable, "-m", "cds", "serve", "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == documented()


@pytest.mark.parametrize(
    ("options", "keys"),
    [(["--workers", "0"], ["option --workers"]), ([], ["tls_certificate", "public_url"])],
)
def test_the_command_says_why_it_does_not_start(options: list[str], keys: list[str]) -> None:
    command = [sys.executable, "-m", "cds", "serve", "--check", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [["cds", k] for k in keys]
