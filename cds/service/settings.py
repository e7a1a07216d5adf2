"""The settings of the service: what they are, where they come from, what must not be.

Sources, a later one wins: the defaults, a TOML file, the environment (``CDS_SERVICE_PORT``), the
options of the command. `load` reads them all and says every fault with its key and its source;
`documented` writes them as TOML with a comment for each.

What stands in no specification is decided here: production mode (anything but `insecure_demo`)
needs TLS or a trusted proxy that ends it (CH-02), authentication (CH-129) and an address at which
clients call it, with which the audience of their tokens is compared (CH-136).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from cds.errors import UsageError

__all__ = [
    "CONFIG_VARIABLE",
    "Client",
    "Settings",
    "documented",
    "is_loopback",
    "load",
    "variables",
]

CONFIG_VARIABLE: Final = "CDS_SERVICE_CONFIG"
"""The environment variable that names the TOML file where no option does."""

_PREFIX: Final = "CDS_SERVICE_"


def is_loopback(host: str) -> bool:
    """Whether this host is this machine itself, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listed(value: object) -> object:
    """Read a list from one text: JSON, or items with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("is no valid JSON list") from None
    return [item.strip() for item in value.split(",") if item.strip()]


def _web_address(value: str, *, path: bool = True) -> str:
    """Return the URL without a slash at its end, or say why it is none that we can use."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// (or http://)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or a password")
    if "?" in value or "#" in value or any(c.isspace() or c == "\\" for c in value):
        raise ValueError("must hold no '?', '#', backslash or blank")
    if not path and parts.path:
        raise ValueError("must be scheme, host and port only (https://ehr.example.org)")
    return value.rstrip("/")


Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_listed)]
Algorithm = Literal[
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"
]
"""Never "none" and never a symmetric one (CH-131, CH-132)."""


class Client(BaseModel):
    """A system that may call the service (an EHR)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    iss: str = Field(min_length=1)
    """Who issues the client's tokens: the claim `iss`, compared letter by letter (CH-139)."""

    client_id: str | None = Field(default=None, min_length=1)
    """Our id at the client's authorization server: `fhirAuthorization.subject` (CH-89)."""

    jwks_file: Path | None = None
    """File with the client's public keys, a JWK Set (CH-140)."""

    jku: str | None = None
    """URL of the client's public keys; no other URL is ever fetched for them (CH-139)."""

    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_listed)] = Field(
        default=("ES384", "RS384"), min_length=1
    )
    """Signatures that are accepted (CH-133)."""

    tenants: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Values of the claim `tenant` that are accepted; empty: any, and none (CH-139)."""

    fhir_servers: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Base URLs of the client's FHIR servers; only these are ever called (CH-87)."""

    audience: Literal["clinician", "patient"] = "clinician"
    """For whom cards are written where the call does not say who the user is."""

    @field_validator("jku")
    @classmethod
    def _jku(cls, value: str | None) -> str | None:
        # Compared letter by letter with what tokens say, so it stays as it was written.
        if value is not None:
            _web_address(value)
        return value

    @field_validator("fhir_servers")
    @classmethod
    def _fhir_servers(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_web_address(value) for value in values)


class Settings(BaseSettings):
    """Everything that can be set.

    A new one reads the environment too; what is given by name wins. Units stand in the names.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    # ---- where it answers

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on."""

    port: int = Field(default=8080, ge=1, le=65535)
    """Port to listen on."""

    workers: int = Field(default=1, ge=1, le=256)
    """Processes that answer calls."""

    base_path: str = ""
    """Path under which everything stands, such as "/cds"."""

    public_url: str | None = None
    """Scheme, host and base path as clients call them; tokens are issued for it (`aud`).
    Required, except with insecure_demo (there: made of host, port and base_path)."""

    tls_certificate: Path | None = None
    """PEM file with the certificate and its chain."""

    tls_key: Path | None = None
    """PEM file with the key of the certificate."""

    behind_proxy: bool = False
    """A proxy ends TLS and forwards calls; needs trusted_proxies."""

    trusted_proxies: Texts = ()
    """Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed."""

    insecure_demo: bool = False
    """For playing on one's own machine: loopback only, plain HTTP, no authentication."""

    # ---- who may call

    auth: Literal["required", "off"] = "required"
    """Whether calls need a token; "off" only (and by default) with insecure_demo."""

    open_discovery: bool = False
    """Whether the list of services is answered without a token."""

    clients: tuple[Client, ...] = ()
    """The systems that may call, one table [[clients]] each."""

    clock_leeway_seconds: float = Field(default=30, ge=0, le=300)
    """How far the clocks of clients may be off."""

    token_lifetime_max_seconds: float = Field(default=3600, gt=0)
    """Longest time between `iat` and `exp` of a token."""

    cors_origins: Texts = ()
    """Origins of browser clients, such as "https://ehr.example.org"; empty: none."""

    # ---- limits

    body_limit_bytes: int = Field(default=10_000_000, ge=1)
    """Largest body of a call."""

    depth_limit: int = Field(default=64, ge=8, le=200)
    """Deepest nesting of the JSON of a call."""

    entry_limit: int = Field(default=20_000, ge=1)
    """Most resources of a call."""

    call_timeout_seconds: float = Field(default=8.0, gt=0)
    """Longest time for all of a call, receiving it included."""

    fetch_timeout_seconds: float = Field(default=2.5, gt=0)
    """Longest time for everything that a call reads from the client's FHIR server."""

    fetch_limit_bytes: int = Field(default=20_000_000, ge=1)
    """Most bytes that a call reads from the client's FHIR server."""

    fetch_pages_limit: int = Field(default=20, ge=1)
    """Most pages that one query reads from the client's FHIR server."""

    graceful_seconds: int = Field(default=10, ge=0)
    """How long running calls may go on after SIGTERM."""

    concurrent_calls_limit: int = Field(default=64, ge=1)
    """Calls that one worker answers at a time; more are told to come again (503)."""

    # ---- what it answers with

    database_url: str = Field(default="sqlite:///cds-service.db", min_length=1, repr=False)
    """Database of calls, cards and feedback (SQLAlchemy). A path is relative to where the
    service is started; insecure_demo uses a temporary one where none is named."""

    rulesets: Paths = ()
    """Folders of rule files in place of the shipped and the installed ones."""

    site: Path | None = None
    """Profile of an institution, which changes the rules."""

    language: str | None = None
    """Language of the texts; empty: as the rules are written."""

    engine: Literal["auto", "durable", "reference", "verify"] = "auto"
    """Which engine runs the rules."""

    on_failure: Literal["error", "card"] = "error"
    """What a failure of ours is answered with: HTTP 500, or a card that says so (CH-64)."""

    suppress_repeats_hours: float = Field(default=0, ge=0)
    """For how long the same finding is not shown again for a patient; 0: always shown."""

    # ---- what is kept and shown of it

    audit: bool = True
    """Whether each call and its cards are kept in the database."""

    metrics_public: bool = False
    """Whether /metrics answers anybody; else only this machine and the operator."""

    operator_token_file: Path | None = None
    """File with the token (Bearer) of the operator: metrics and the page of feedback."""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """What is logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return what a new one is made from: what is given by name, then the environment."""
        return init_settings, env_settings

    @property
    def tls(self) -> bool:
        """Whether the service itself ends TLS."""
        return self.tls_certificate is not None

    @property
    def url(self) -> str:
        """`public_url`, which validation has filled in where it may be missing."""
        assert self.public_url is not None  # noqa: S101 - validation holds to it
        return self.public_url

    @field_validator("base_path")
    @classmethod
    def _base_path(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not value.startswith("/"):
            raise ValueError('must begin with "/", such as "/cds"')
        if any(not (c.isascii() and (c.isalnum() or c in "/-_.~")) for c in value):
            raise ValueError("may hold only letters, digits and / - _ . ~")
        if "//" in value or {".", ".."} & set(value.split("/")):
            raise ValueError('must hold no "//", "/." or "/.."')
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str | None) -> str | None:
        return value if value is None else _web_address(value)

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value in ("*", "null"):
                raise ValueError(f'"{value}" would let any page call; name each origin (CH-143)')
            if _web_address(value, path=False) != value or value != value.lower():
                raise ValueError("an origin has small letters and no slash at its end")
            parts = urlsplit(value)
            if parts.port == {"http": 80, "https": 443}[parts.scheme]:
                raise ValueError("browsers leave out the usual port of an origin; so must this")
        return values

    @field_validator("trusted_proxies")
    @classmethod
    def _trusted_proxies(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                network = ip_network(value)
            except ValueError:
                raise ValueError("must be addresses or networks (10.0.0.7, 10.0.0.0/24)") from None
            if network.prefixlen == 0:
                raise ValueError("must not be the whole internet: any caller could then forge")
        return values

    @model_validator(mode="after")
    def _together(self) -> Self:
        faults = [*self._transport_faults(), *self._caller_faults()]
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_certificate else "tls_certificate"
            faults.append(f"{missing}: certificate and key are of use only together")
        if self.fetch_timeout_seconds > self.call_timeout_seconds:
            faults.append("fetch_timeout_seconds: must not be more than call_timeout_seconds")
        if faults:
            raise ValueError("\n".join(faults))
        # The model is frozen for everybody else; these are defaults that rest on other members.
        if self.insecure_demo and "auth" not in self.model_fields_set:
            self.__dict__["auth"] = "off"
        if self.public_url is None:
            scheme = "https" if self.tls else "http"
            host = f"[{self.host}]" if ":" in self.host else self.host
            self.__dict__["public_url"] = f"{scheme}://{host}:{self.port}{self.base_path}"
        return self

    def _transport_faults(self) -> list[str]:
        """Return what CH-02 and `insecure_demo` do not allow."""
        faults = []
        if self.behind_proxy and not self.trusted_proxies:
            faults.append("behind_proxy: needs trusted_proxies, the addresses that it calls from")
        if self.trusted_proxies and not self.behind_proxy:
            faults.append("trusted_proxies: is of use only with behind_proxy = true")
        if self.insecure_demo:
            if not is_loopback(self.host):
                faults.append(
                    "host: insecure_demo listens on this machine only (127.0.0.1, ::1, localhost)"
                )
            if self.behind_proxy:
                faults.append("behind_proxy: insecure_demo must not be reached through a proxy")
            return faults
        if not self.tls and not self.behind_proxy:
            faults.append(
                "tls_certificate: production needs TLS: set tls_certificate and tls_key, or "
                "behind_proxy and trusted_proxies where a proxy ends TLS"
            )
        if self.public_url is None:
            faults.append("public_url: is required: the URL at which clients call the service")
        elif not self.public_url.startswith("https://"):
            faults.append("public_url: must begin with https:// in production")
        return faults

    def _caller_faults(self) -> list[str]:
        """Return what is wrong with who may call."""
        faults = []
        if self.auth == "off" and not self.insecure_demo:
            faults.append('auth: "off" is possible only with insecure_demo')
        off = self.auth == "off" or (self.insecure_demo and "auth" not in self.model_fields_set)
        seen: set[str] = set()
        for number, client in enumerate(self.clients):
            where = f"clients.{number}"
            if client.iss in seen:
                faults.append(f"{where}.iss: is that of another client, too")
            seen.add(client.iss)
            if not off and client.jwks_file is None and client.jku is None:
                faults.append(f"{where}: needs jwks_file or jku, the client's public keys")
            if self.insecure_demo:
                continue
            if client.jku is not None and not client.jku.startswith("https://"):
                faults.append(f"{where}.jku: must begin with https:// in production")
            if not all(url.startswith("https://") for url in client.fhir_servers):
                faults.append(f"{where}.fhir_servers: must begin with https:// in production")
        if not self.insecure_demo:
            for origin in self.cors_origins:
                parts = urlsplit(origin)
                if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                    faults.append("cors_origins: must begin with https:// in production")
                    break
        return faults


# ---------------------------------------------------------------- reading


def load(config: str | Path | None = None, **options: Any) -> Settings:
    """Return the settings from all sources.

    Args:
        config: the TOML file; by default the one that `CONFIG_VARIABLE` names, if any. Paths in
            it are relative to its folder.
        options: what the command line gives, by member; those that are None are left out.

    Raises: UsageError with a line for every fault, each with its source and key; what does not fit
    together is said when each member is right by itself. No value is repeated: it may be secret.
    """
    file = config or os.environ.get(CONFIG_VARIABLE) or None
    given = {name: value for name, value in options.items() if value is not None}
    written = _from_file(Path(file)) if file else {}
    _refuse_unknown_variables()
    try:
        # Validation takes the environment itself; only what it may override has to go before.
        return Settings(**{**_without_environment(written), **given})
    except SettingsError:
        raise UsageError(_unreadable_variables()) from None
    except ValidationError as error:
        raise UsageError("\n".join(_faults(error, written, given, str(file)))) from None


def _from_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            written = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"{file}: the configuration cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: is no valid TOML: {error}") from None
    folder = file.resolve().parent
    for table in [written, *_tables(written.get("clients"))]:
        for name in ("tls_certificate", "tls_key", "site", "operator_token_file", "jwks_file"):
            if isinstance(table.get(name), str):
                table[name] = str(folder / table[name])
    if isinstance(written.get("rulesets"), list):
        written["rulesets"] = [
            str(folder / path) if isinstance(path, str) else path for path in written["rulesets"]
        ]
    return written


def _tables(value: object) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def variables() -> dict[str, str]:
    """Return the environment variables of the service by what each sets, in small letters."""
    found = {}
    for variable in os.environ:
        upper = variable.upper()
        if upper.startswith(_PREFIX):
            found[upper.removeprefix(_PREFIX).lower()] = variable
    return found


def _without_environment(written: Mapping[str, Any]) -> dict[str, Any]:
    set_there = {name.partition("__")[0] for name in variables()}
    return {name: value for name, value in written.items() if name not in set_there}


def _refuse_unknown_variables() -> None:
    """Refuse a variable that names no member: it would change nothing, unseen."""
    faults = []
    for name, variable in sorted(variables().items()):
        member = name.partition("__")[0]
        if member != "config" and member not in Settings.model_fields:
            faults.append(f"environment variable {variable}: {_no_such(member, Settings)}")
    if faults:
        raise UsageError("\n".join(faults))


def _no_such(name: str, model: type[BaseModel]) -> str:
    close = get_close_matches(name, model.model_fields, n=1)
    return "there is no such setting" + (f"; '{close[0]}'?" if close else "")


def _unreadable_variables() -> str:
    """Say which variable holds no JSON though it must (pydantic-settings names only one)."""
    for name, variable in sorted(variables().items()):
        try:
            if name == "clients":
                json.loads(os.environ[variable])
        except ValueError:
            return f"environment variable {variable}: must be a JSON list of clients"
    return "the environment variables of the service cannot be read"


def _faults(
    error: ValidationError, written: Mapping[str, Any], given: Mapping[str, Any], file: str
) -> list[str]:
    """Return each fault as a line: source, key, what is wrong; never a value."""
    lines: list[str] = []
    named = variables()

    def source(member: str) -> str:
        if member in given:
            return f"option --{member.replace('_', '-')}"
        for name, variable in named.items():
            if name.partition("__")[0] == member:
                return f"environment variable {variable}"
        return f"{file}: {member}" if member in written else member

    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        path = [str(part) for part in fault["loc"]]
        message = fault["msg"].removeprefix("Value error, ")
        if not path:  # of several members together; each line begins with its own key
            for line in message.splitlines():
                key, _, text = line.partition(": ")
                lines.append(f"{_place(source, key.split('.'))}: {text}")
            continue
        if fault["type"] == "extra_forbidden":
            message = _no_such(path[-1], Client if path[0] == "clients" else Settings)
        lines.append(f"{_place(source, path)}: {message}")
    return lines


def _place(source: Any, path: list[str]) -> str:
    first: str = source(path[0].partition(" ")[0])
    rest = ".".join(path[1:])
    return f"{first}.{rest}" if rest else first


# ---------------------------------------------------------------- writing


def documented(settings: Settings | None = None) -> str:
    """Return TOML with every member, what it is for and its default.

    Members that `settings` were given have their values, the others are comments. A password in
    the database's URL is not shown.
    """
    lines = ["# Settings of `cds serve`. A line that begins with '#' holds the default."]
    tables: list[str] = []
    for name, field in Settings.model_fields.items():
        if name == "clients":
            tables = _documented_clients(settings)
            continue
        about = " ".join((field.description or "").split())
        given = settings is not None and name in settings.model_fields_set
        value = getattr(settings, name) if given else field.default
        if name == "database_url":
            value = _without_password(value)
        text = "" if value is None else _toml(value)
        mark = "" if given and value is not None else "# "
        lines += ["", f"# {about}", f"{mark}{name} = {text}".rstrip()]
    return "\n".join([*lines, "", *tables]).rstrip() + "\n"


def _documented_clients(settings: Settings | None) -> list[str]:
    lines = [f"# {Settings.model_fields['clients'].description}"]
    clients = settings.clients if settings else ()
    for client in clients or (None,):
        lines.append("[[clients]]" if client else "# [[clients]]")
        for name, field in Client.model_fields.items():
            given = client is not None and name in client.model_fields_set
            value = getattr(client, name) if given else field.get_default()
            if given and value is not None:
                lines.append(f"{name} = {_toml(value)}")
                continue
            default = _toml(value) if isinstance(value, str | tuple) else ""
            about = " ".join((field.description or "").split())
            lines += [f"# {about}", f"# {name} = {default}".rstrip()]
        lines.append("")
    return lines


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    scheme, _, who = head.partition("://")
    return f"{scheme}://{who.partition(':')[0]}:***@{tail}" if at and ":" in who else url
