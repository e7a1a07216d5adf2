"""Checks of how the service reads the client's FHIR server (CH-80 to CH-88).

Source: CDS Hooks 2.0, "FHIR Resource Access". All but CH-80 need a FHIR server that the service
may call; whether it read is seen there.
"""

from __future__ import annotations

from typing import Any

from cds.conformance.checks import Found, Skip, check, failed, faults, passed
from cds.conformance.client import Answer
from cds.conformance.fhirserver import Seen
from cds.conformance.run import CANARY, Run

__all__: list[str] = []

_REQUIRED = ("access_token", "token_type", "expires_in", "scope", "subject")


def _read(run: Run, **authorization: Any) -> tuple[Answer, list[Seen]]:
    """Make a call without prefetch; return the answer and what was read."""
    with run.fhir.behaving() as seen:
        answer = run.post(run.with_prefetch.service, run.reading(**authorization))
    return answer, list(seen)


def _faulty(run: Run) -> list[tuple[str, Answer]]:
    calls = []
    ways: dict[str, dict[str, Any]] = {f"no {member}": {member: None} for member in _REQUIRED}
    ways["token_type mac"] = {"token_type": "mac"}
    ways["expires_in soon"] = {"expires_in": "soon"}
    for name, changes in ways.items():
        body = run.changed(fhirServer="https://fhir.example.org/r4")
        body["fhirAuthorization"] = run.authorization(**changes)
        calls.append((name, run.post(run.first.service, body)))
    return calls


@check("CH-80", "STR", "a token with its five required members is taken, a faulty one does no harm")
def _members(run: Run) -> Found:
    authorization = run.authorization(patient=None)
    server = "https://fhir.example.org/r4"
    valid = run.again(fhirServer=server, fhirAuthorization=authorization)
    if valid.status != 200:
        return failed(f"the five members: {valid}")
    calls = _faulty(run)
    return faults(
        (f"{name}: {answer}" for name, answer in calls if not answer.clean),
        "the five members: 200; " + ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


@check("CH-80.1", "LOCAL", "a token without a required member is refused")
def _refused(run: Run) -> Found:
    calls = _faulty(run)
    return faults(
        (f"{name}: {answer}, not 4xx" for name, answer in calls if not answer.refused),
        ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


@check("CH-81", "SHOULD", "a token that is limited to another patient is not used")
def _other_patient(run: Run) -> Found:
    run.must_read()
    scope = "patient/*.read"
    answer, seen = _read(run, patient="somebody-else", scope=scope)
    if not answer.clean:
        return failed(f"{answer}")
    return failed(f"{len(seen)} reads") if seen else passed(f"no reads; {answer}")


@check("CH-82", "MAY", "with server and token the service may read")
def _reads(run: Run) -> Found:
    seen = run.must_read()
    answer, _ = run.read
    kinds = ", ".join(sorted({each.kind for each in seen}))
    return faults(
        [] if answer.clean else [f"{len(seen)} reads, but then {answer}"],
        f"{len(seen)} reads ({kinds}); {answer}",
    )


@check("CH-83", "SHALL", "each read presents the token")
def _presented(run: Run) -> Found:
    seen = run.must_read()
    return faults(
        (
            f"{each.kind}: {'another' if each.authorization else 'no'} Authorization"
            for each in seen
            if each.authorization != f"Bearer {CANARY}"
        ),
        f"{len(seen)} reads, each with the Bearer token",
    )


@check("CH-84", "SHALL", "a token is for one call and is never shown")
def _transient(run: Run) -> Found:
    run.must_read()
    answer, _ = _read(run)
    wrong = ["the token stands in the answer"] if CANARY.encode() in answer.content else []
    body = run.reading()
    del body["fhirAuthorization"]
    with run.fhir.behaving() as seen:
        later = run.post(run.with_prefetch.service, body)
    if any(each.authorization for each in seen):
        wrong.append("a later call without a token read with the old one")
    if CANARY.encode() in later.content:
        wrong.append("the token stands in a later answer")
    _, other = _read(run, access_token="another-token")  # noqa: S106 - it is none
    if any(each.authorization == f"Bearer {CANARY}" for each in other):
        wrong.append("a later call with another token read with the old one")
    return faults(wrong, f"three calls; without a token then: {later}, {len(seen)} reads")


@check("CH-85", "SHALL", "after 403 for one type the service goes on or answers 412; no second try")
def _forbidden(run: Run) -> Found:
    kinds = sorted({each.kind for each in run.must_read()})
    wrong = []
    for kind in kinds:
        before = len([each for each in run.must_read() if each.kind == kind])
        with run.fhir.behaving(forbidden=kind) as seen:
            answer = run.post(run.with_prefetch.service, run.reading())
        if answer.status not in (200, 412):
            wrong.append(f"403 for {kind}: {answer}, neither 200 nor 412")
        if len([each for each in seen if each.kind == kind]) > before:
            wrong.append(f"403 for {kind}: asked again")
    return faults(wrong, f"403 for each of {', '.join(kinds)}: 200 or 412, asked once")


@check("CH-86", "LOCAL", "scopes of SMART v1 and v2 are understood; without a scope no read")
def _scopes(run: Run) -> Found:
    kinds = {each.kind for each in run.must_read()}
    wrong = []
    for scope in ("patient/*.read", "patient/*.rs", "user/*.cruds"):
        _, seen = _read(run, scope=scope)
        if {each.kind for each in seen} != kinds:
            wrong.append(f"scope {scope!a}: {len(seen)} reads")
    _, seen = _read(run, scope="patient/Basic.read")
    if seen:
        wrong.append(f"read without a scope for it: {', '.join(sorted({e.kind for e in seen}))}")
    return faults(wrong, "v1 and v2 read the same; without a scope nothing is read")


@check("CH-87", "LOCAL", "no other server is called: not by a redirect, not by another scheme")
def _strays(run: Run) -> Found:
    run.must_read()
    wrong = []
    with run.elsewhere.behaving() as strayed, run.fhir.behaving(redirect=run.elsewhere.url):
        answer = run.post(run.with_prefetch.service, run.reading())
        if strayed:
            wrong.append(f"a redirect to another server was followed ({len(strayed)} requests)")
        if answer.status not in (200, 412):
            wrong.append(f"redirected: {answer}")
    for url in ("file:///etc/hostname", f"http://user:secret@{run.elsewhere.url[7:]}"):
        body = run.reading()
        body["fhirServer"] = url
        with run.elsewhere.behaving() as strayed:
            answer = run.post(run.with_prefetch.service, body)
        if not answer.clean:
            wrong.append(f"fhirServer {url.partition(':')[0]}: {answer}")
        if strayed:
            wrong.append("a fhirServer with a user name was called")
    return faults(wrong, "redirect, file: and user name: no request elsewhere")


@check("CH-88", "LOCAL", "a token that has expired is not used")
def _expired(run: Run) -> Found:
    run.must_read()
    seen = []
    for seconds in (0, -1):
        answer, reads = _read(run, expires_in=seconds)
        if not answer.clean:
            raise Skip(f"expires_in {seconds}: {answer}")
        seen += reads
    return failed(f"{len(seen)} reads") if seen else passed("no reads for 0 and -1 seconds")
