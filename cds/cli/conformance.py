"""The command `conformance`: numbered checks against any CDS Hooks service."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from cds.cli.common import FAILED, page, print_json, progress, unusable

if TYPE_CHECKING:
    from cds.conformance import Check, Outcome, Run

__all__ = ["conformance"]

_NEEDED = {"httpx": "httpx"}
_TO_SIGN = {"jwt": "PyJWT", "cryptography": "cryptography"}
_STYLES = {"pass": "green", "fail": "red", "skip": "yellow", "n/a": ""}


def _listen(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!a} is not HOST:PORT")
    return host.strip("[]"), int(port)


@click.command()
@click.argument("url", required=False, metavar="URL")
@click.option(
    "--request",
    "requests",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A hook request to use for services of its hook in place of a made one; can be given "
    "several times.",
)
@click.option(
    "--jwk",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Private key (JWK or JWK Set) of a client that the service knows; signs each call.",
)
@click.option("--iss", help="The issuer as whom calls are signed.")
@click.option("--jku", metavar="URL", help="Where the service fetches the public key, if it does.")
@click.option(
    "--fhir-base",
    metavar="URL",
    help="Base URL that the service may call: our FHIR server listens there. Default: a free "
    "port of this machine if the service runs here, else none.",
)
@click.option(
    "--fhir-listen",
    callback=_listen,
    metavar="HOST:PORT",
    help="Where our FHIR server listens if a proxy serves --fhir-base.",
)
@click.option(
    "--subject",
    default="cds-conformance",
    show_default=True,
    metavar="ID",
    help="The service's client id at the authorization server (fhirAuthorization.subject).",
)
@click.option("--origin", metavar="URL", help="An origin whose pages may call the service (CORS).")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Certificates to trust besides those of the system.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds for one call.",
)
@click.option(
    "--local",
    is_flag=True,
    help="Every failure counts, also where the specification is silent or only recommends; and "
    "send a body of 50 MB.",
)
@click.option(
    "--only", metavar="ID,...", multiple=True, help="Only these checks or rows (CH-10,CH-55.1)."
)
@click.option("--list", "listing", is_flag=True, help="List the checks and make none.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "md"]),
    default="text",
    show_default=True,
)
def conformance(
    url: str | None,
    requests: tuple[str, ...],
    jwk: str | None,
    iss: str | None,
    jku: str | None,
    fhir_base: str | None,
    fhir_listen: tuple[str, int] | None,
    subject: str,
    origin: str | None,
    ca: str | None,
    timeout: float,
    local: bool,
    only: tuple[str, ...],
    listing: bool,
    form: str,
) -> None:
    """Check the CDS Hooks 2.0 service at URL (its base, without /cds-services).

    Each service of its discovery is called with requests for an invented patient, good and faulty
    ones; feedback is sent, too. Failures of SHALL and STR count. Exit code 1 where there is one, 2
    where the service cannot be reached or refuses every call (401).
    """
    checks = _checks(only)
    if listing:
        _list(checks, form)
        return
    if url is None:
        raise click.UsageError("Missing argument 'URL'.")
    from cds.conformance import Signer, session
    from cds.conformance.report import failing, json_report, markdown_report

    if (jwk is None) != (iss is None):
        unusable("--jwk and --iss go together")
    if jku and not jwk:
        unusable("--jku needs --jwk")
    if jwk:
        _installed(_TO_SIGN)
    signer = Signer.read(jwk, iss or "", jku) if jwk else None
    with session(
        url,
        signer=signer,
        requests=[_request(path) for path in requests],
        fhir_base=fhir_base,
        fhir_listen=fhir_listen,
        subject=subject,
        origin=origin,
        ca=ca,
        timeout=timeout,
        thorough=local,
    ) as run:
        _usable(run)
        outcomes = list(progress(run.checked(checks), "checks", len(checks)))
    if form == "json":
        print_json(json_report(run.client.base, outcomes, local=local))
    elif form == "md":
        click.echo(markdown_report(run.client.base, outcomes, local=local), nl=False)
    else:
        _write(run.client.base, outcomes, local)
    if failing(outcomes, local=local):
        sys.exit(FAILED)


def _installed(needed: dict[str, str]) -> None:
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        unusable(
            f"'cds conformance' needs what is not installed: {', '.join(missing)}; run: "
            "pip install 'cds-twitch[service]'"
        )


def _checks(only: tuple[str, ...]) -> list[Check]:
    _installed(_NEEDED)
    from cds.conformance import LEFT_OUT, NOT_CHECKED, chosen

    names = [name.strip() for value in only for name in value.split(",") if name.strip()]
    for name in names:
        if name in NOT_CHECKED:
            raise click.BadParameter(f"{name} cannot be checked: {NOT_CHECKED[name]}")
        if name in LEFT_OUT:
            raise click.BadParameter(f"{name} is of version 3.0: {LEFT_OUT[name]}")
    try:
        return chosen(names)
    except KeyError as error:
        raise click.BadParameter(
            f"there is no check or row {error.args[0]!a}; --list shows them",
            param_hint="'--only'",
        ) from None


def _request(path: str) -> dict[str, Any]:
    from pathlib import Path

    from cds.conformance.client import strict_json

    try:
        value = strict_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        unusable(f"{path}: no hook request can be read: {error}")
    if not isinstance(value, dict) or not isinstance(value.get("hook"), str):
        unusable(f"{path}: is no hook request: there is no 'hook'")
    if not isinstance(value.get("context"), dict):
        unusable(f"{path}: is no hook request: 'context' is no object")
    if not isinstance(value.get("prefetch", {}), dict):
        unusable(f"{path}: is no hook request: 'prefetch' is no object")
    return value


def _usable(run: Run) -> None:
    """End the command where nothing could be checked at all."""
    discovery = run.discovery
    if not discovery.status:
        unusable(f"{run.client.discovery_url}: {discovery.fault}")
    if discovery.status == 401:
        signed = run.client.signer is not None
        unusable(
            "the service answers 401 "
            + ("although calls are signed: does it know this --iss and its key?" if signed
               else "without a token: --jwk and --iss sign each call")
        )  # fmt: skip
    from cds.conformance.checks import Skip

    try:
        statuses = {run.full(service).answer.status for service in run.callable}
    except Skip:
        return
    if statuses == {401}:
        unusable("the service answers every call with 401: --jwk and --iss sign each call")


def _list(checks: list[Check], form: str) -> None:
    if form == "json":
        print_json([{"id": c.id, "level": c.level, "requirement": c.requirement} for c in checks])
        return
    for each in checks:
        click.echo(f"{each.id:9}{each.level:8}{each.requirement}")


def _write(url: str, outcomes: list[Outcome], local: bool) -> None:
    """Print a line for each check with what was seen, and a table of figures by level."""
    from cds.conformance import COUNTED, LEFT_OUT, LEVELS, NOT_CHECKED
    from cds.conformance.report import RESULTS, counts, failing

    out = page()
    out.line(f"CDS Hooks 2.0: {url}", style="bold")
    out.line()
    for each in outcomes:
        about, found = each.about, each.found
        counted = local or about.level in COUNTED
        # What does not count is information, whatever it found.
        style = _STYLES[found.result] if counted or found.result != "fail" else "yellow"
        label = f"{found.result:5}{about.id:9}{about.level:7}"
        out.line(about.requirement, label=label, style=style)
        if found.seen:
            out.line(found.seen, indent=len(label))
    out.heading("Not checked")
    for row, reason in NOT_CHECKED.items():
        out.line(reason, label=f"     {row:16}")
    out.line(f"of version 3.0 (ballot): {', '.join(LEFT_OUT)}", label=" " * 21)
    out.heading("".join(f"{result:>6}" for result in ("", *RESULTS)))
    for level, number in counts(outcomes).items():
        figures = "".join(f"{number[result]:6}" for result in RESULTS)
        mark = "" if level in COUNTED or local else " (does not count)"
        out.line(f"{LEVELS[level]}{mark}", label=f"{level:6}{figures}   ")
    wrong = len(failing(outcomes, local=local))
    out.line()
    out.line(f"{wrong} failures that count" if wrong else "no failure that counts", style="bold")
