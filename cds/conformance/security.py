"""Checks of authentication and CORS (CH-128 to CH-143; CDS Hooks 2.0, "Security and Safety").

Most need the private key of a client that the service knows (--jwk, --iss). A token whose required
members are missing, or whose signature, algorithm or audience is wrong, must not be accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cds.conformance.checks import (
    Found,
    Skip,
    check,
    failed,
    faults,
    passed,
    skipped,
)
from cds.conformance.client import Answer, Signer
from cds.conformance.run import Run

__all__: list[str] = []

_STRANGE_ORIGIN: Final = "https://cds-conformance.example.org"


def _signer(run: Run) -> Signer:
    if run.client.signer is None:
        raise Skip("needs the key of a client (--jwk, --iss)")
    return run.client.signer


def _url(run: Run) -> str:
    return run.client.service_url(run.first.service.id)


def _with(run: Run, token: str | None) -> Answer:
    return run.post(run.first.service, run.changed(), token=token)


def _claiming(run: Run, header: Mapping[str, Any] | None = None, **claims: Any) -> Answer:
    """Call with a well-signed token of which some claims or header members are changed."""
    signer = _signer(run)
    made = signer.claims(_url(run), **claims)
    return _with(run, signer.token(made, signer.header(**(header or {}))))


def _unauthorized(calls: list[tuple[str, Answer]]) -> Found:
    return faults(
        (f"{name}: {answer}, not 401" for name, answer in calls if answer.status != 401),
        f"401: {', '.join(name for name, _ in calls)}",
    )


def _corrupted(token: str) -> str:
    """Change a letter in the midst of the signature."""
    head, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{head}.{signature[:middle]}{other}{signature[middle + 1 :]}"


@check("CH-128", "BP", "401 is the same whatever the cause, and tells nothing")
def _alike(run: Run) -> Found:
    signer = _signer(run)
    good = signer.claims(_url(run))
    answers = {
        "no token": _with(run, None),
        "no JWT": _with(run, "x"),
        "a bad signature": _with(run, _corrupted(signer.token(good))),
        "expired": _claiming(run, exp=1, iat=0),
        "another iss": _claiming(run, iss="https://stranger.example.org"),
        "another aud": _claiming(run, aud="https://stranger.example.org"),
    }
    wrong = [f"{name}: {answer}" for name, answer in answers.items() if answer.status != 401]
    if len({answer.content for answer in answers.values()}) > 1:
        wrong.append("the bodies differ")
    return faults(wrong, f"{len(answers)} causes, the same 401")


@check("CH-129", "SHOULD", "calls are authenticated")
def _required(run: Run) -> Found:
    if run.client.signer is None and run.loopback:
        return skipped("called on this machine only, and without the key of a client (--jwk)")
    answer = _with(run, None)
    if answer.status in (401, 403):
        return passed(f"without a token: {answer}")
    return failed(f"without a token: {answer}")


@check("CH-130", "SHALL", "the signature is verified with the client's public key")
def _signature(run: Run) -> Found:
    signer = _signer(run)
    foreign = signer.token(signer.claims(_url(run)), key=signer.stranger())
    return _unauthorized(
        [
            ("a changed signature", _with(run, _corrupted(signer.token(signer.claims(_url(run)))))),
            ("the key of another", _with(run, foreign)),
            ("an unknown kid", _claiming(run, {"kid": "no-such-key"})),
        ]
    )


@check("CH-131", "SHALL", "alg none is refused")
def _none(run: Run) -> Found:
    signer = _signer(run)
    names = ("none", "None", "NONE", "nOnE")
    calls = [(n, _with(run, signer.unsigned(signer.claims(_url(run)), n))) for n in names]
    empty = signer.unsigned(signer.claims(_url(run)), signer.algorithm)
    return _unauthorized([*calls, ("an empty signature", _with(run, empty))])


@check("CH-132", "SHALL", "symmetric algorithms are refused")
def _symmetric(run: Run) -> Found:
    signer = _signer(run)
    calls = [
        (name, _with(run, signer.symmetric(signer.claims(_url(run)), name, secret)))
        for name in ("HS256", "HS384", "HS512")
        for secret in (signer.public_pem(), b"")
    ]
    return _unauthorized(calls)


@check("CH-133", "SHOULD", "ES384 and RS384 are accepted")
def _algorithms(run: Run) -> Found:
    signer = _signer(run)
    answer = _claiming(run)
    wrong = [] if answer.status == 200 else [f"{signer.algorithm}: {answer}"]
    if signer.algorithm not in ("ES384", "RS384"):
        return faults(wrong, f"{signer.algorithm} is accepted; the key allows no other")
    confused = signer.token(signer.claims(_url(run)), signer.header(alg=_other(signer.algorithm)))
    mixed = _with(run, confused)
    wrong += [] if mixed.status == 401 else [f"alg of another kind of key: {mixed}"]
    return faults(wrong, f"{signer.algorithm} is accepted, and {_other(signer.algorithm)} refused")


def _other(algorithm: str) -> str:
    return "RS384" if algorithm == "ES384" else "ES384"


@check("CH-134", "STR", "the header has alg, kid and typ JWT")
def _header(run: Run) -> Found:
    return _unauthorized(
        [
            ("no kid", _claiming(run, {"kid": None})),
            ("no alg", _claiming(run, {"alg": None})),
            ("no typ", _claiming(run, {"typ": None})),
            ("another typ", _claiming(run, {"typ": "at+jwt"})),
        ]
    )


@check("CH-135", "STR", "the claims iss, aud, exp, iat and jti are required")
def _claims(run: Run) -> Found:
    names = ("iss", "aud", "exp", "iat", "jti")
    return _unauthorized([(f"no {name}", _claiming(run, **{name: None})) for name in names])


@check("CH-136", "SHALL", "aud is the URL that is called, alone or in an array")
def _audience(run: Run) -> Found:
    url = _url(run)
    listed = _claiming(run, aud=["https://other.example.org", url])
    if listed.status != 200:
        return failed(f"an array with the URL: {listed}")
    wrong = {
        "another path": f"{run.client.discovery_url}/another",
        "another host": "https://other.example.org/cds-services",
        "the base": run.client.base,
        "an array without it": ["https://other.example.org"],
    }
    return _unauthorized([(name, _claiming(run, aud=value)) for name, value in wrong.items()])


@check("CH-137", "BP", "exp is in the future, iat is not, and the time between is short")
def _times(run: Run) -> Found:
    now = int(_signer(run).claims("")["iat"])
    day = 86_400
    return _unauthorized(
        [
            ("expired", _claiming(run, iat=now - 2 * day, exp=now - day)),
            ("iat tomorrow", _claiming(run, iat=now + day, exp=now + day + 300)),
            ("valid for a month", _claiming(run, exp=now + 30 * day)),
        ]
    )


@check("CH-138", "BP", "a token is accepted once")
def _once(run: Run) -> Found:
    signer = _signer(run)
    token = signer.token(signer.claims(_url(run)))
    first, second = _with(run, token), _with(run, token)
    if first.status != 200:
        return failed(f"the first time: {first}")
    return _unauthorized([("the second time", second)])


@check("CH-139", "SHOULD", "only known issuers are trusted, and no other jku is fetched")
def _strangers(run: Run) -> Found:
    signer = _signer(run)
    stranger = signer.stranger()
    try:
        jku = f"{run.elsewhere.url}/jwks.json"
    except Skip:
        jku = "https://stranger.example.org/jwks.json"
    header = signer.header(jku=jku, kid="stranger")
    own = signer.token(signer.claims(_url(run)), header, key=stranger)
    foreign = signer.token(
        signer.claims(_url(run), iss="https://stranger.example.org"), header, key=stranger
    )
    calls = [("another iss", _claiming(run, iss="https://stranger.example.org"))]
    if run.loopback:
        with run.elsewhere.behaving() as seen:
            calls += [("another jku", _with(run, own)), ("a stranger", _with(run, foreign))]
        if seen:
            return failed(f"a jku that is not known was fetched ({len(seen)} requests)")
    else:
        calls += [("another jku", _with(run, own)), ("a stranger", _with(run, foreign))]
    return _unauthorized(calls)


@check("CH-142", "BP", "a token is never shown")
def _shown(run: Run) -> Found:
    signer = _signer(run)
    wrong = []
    for name, token in {
        "a good token": signer.token(signer.claims(_url(run))),
        "a bad token": signer.token(signer.claims("x")),
    }.items():
        answer = _with(run, token)
        told = answer.content + repr(answer.headers).encode()
        if token.encode() in told:
            wrong.append(f"{name} stands in the answer")
    return faults(wrong, "in no answer to a good and a bad token")


def _preflight(run: Run, origin: str) -> Answer:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return run.client.request("OPTIONS", _url(run), headers=headers, token=None)


def _listed(answer: Answer, header: str) -> set[str]:
    value = str(answer.headers.get(f"access-control-allow-{header}", ""))
    return {part.strip().lower() for part in value.split(",") if part.strip()}


@check("CH-143", "SHALL", "browsers of known origins may call, others get no credentials (CORS)")
def _cors(run: Run) -> Found:
    strange = run.post(run.first.service, run.changed(), headers={"Origin": _STRANGE_ORIGIN})
    wrong = []
    for answer in (_preflight(run, _STRANGE_ORIGIN), strange):
        allowed = str(answer.headers.get("access-control-allow-origin", ""))
        secret = str(answer.headers.get("access-control-allow-credentials", "")).lower() == "true"
        if secret and allowed in ("*", _STRANGE_ORIGIN):
            wrong.append("a page of any origin may call with credentials")
    if run.origin is None:
        if wrong:
            return faults(wrong, "")
        return skipped(
            "any origin gets no credentials; no origin that may call is known (--origin)"
        )
    answer = _preflight(run, run.origin)
    if not 200 <= answer.status < 300:
        wrong.append(f"OPTIONS without a token: {answer}")
    if not _listed(answer, "origin") & {"*", run.origin.lower()}:
        wrong.append(f"{run.origin} is not allowed")
    missing = {"authorization", "content-type"} - _listed(answer, "headers")
    if missing and "*" not in _listed(answer, "headers"):
        wrong.append(f"the header {' and '.join(sorted(missing))} is not allowed")
    if not _listed(answer, "methods") & {"post", "*"}:
        wrong.append("POST is not allowed")
    for name, status in (("200", run.changed()), ("a refusal", {})):
        answer = run.post(run.first.service, status, headers={"Origin": run.origin})
        if not _listed(answer, "origin"):
            wrong.append(f"{name} has no Access-Control-Allow-Origin")
    return faults(wrong, f"{run.origin} may call; any other gets no credentials")
