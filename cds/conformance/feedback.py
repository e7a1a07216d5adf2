"""Checks of feedback (CH-119 to CH-127; CDS Hooks 2.0, "Feedback").

Sent is feedback on cards that the checks themselves were given, and on cards that never were. A
service that keeps figures of feedback counts it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from cds.conformance.checks import Found, Skip, check, failed, faults, passed, skipped
from cds.conformance.client import Answer
from cds.conformance.run import Run, is_uuid, objects

__all__: list[str] = []

_ABSENT: Final = (404, 405, 501)
_ID: Final = "fb51a8b2-0c4e-4a10-8a38-6a7f1f7c2f10"


def _url(run: Run) -> str:
    return run.client.service_url(run.first.service.id) + "/feedback"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _item(run: Run, **changes: Any) -> dict[str, Any]:
    """Return valid feedback: a card of ours was overridden; a change to None takes one away."""
    cards = [c["uuid"] for c in objects(run.first.answer.cards) if is_uuid(c.get("uuid"))]
    item = {
        "card": cards[0] if cards else str(uuid4()),
        "outcome": "overridden",
        "outcomeTimestamp": _now(),
        **changes,
    }
    return {name: value for name, value in item.items() if value is not None}


def _send(run: Run, *items: dict[str, Any], **more: Any) -> Answer:
    return run.client.request("POST", _url(run), body={"feedback": list(items)}, **more)


def _offered(run: Run) -> None:
    """Raise Skip if the service takes no feedback."""
    answer = _send(run, _item(run))
    if answer.status in _ABSENT:
        raise Skip(f"the service takes no feedback ({answer})", applicable=False)


def _taken(calls: list[tuple[str, Answer]]) -> Found:
    return faults(
        (f"{name}: {answer}" for name, answer in calls if not 200 <= answer.status < 300),
        ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


def _survived(calls: list[tuple[str, Answer]], found: Found) -> Found:
    if found.result == "fail":
        return found
    return faults(
        (f"{name}: {answer}" for name, answer in calls if not answer.clean),
        f"{found.seen}; " + ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


def _refused(calls: list[tuple[str, Answer]]) -> Found:
    return faults(
        (f"{name}: {answer}, not 4xx" for name, answer in calls if not answer.refused),
        ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


@check("CH-119", "MAY", "each service may take feedback at {base}/cds-services/{id}/feedback")
def _endpoint(run: Run) -> Found:
    _offered(run)
    wrong, ids = [], sorted({service.id for service in run.services})
    for id_ in ids:
        url = run.client.service_url(id_) + "/feedback"
        answer = run.client.request("POST", url, body={"feedback": [_item(run)]})
        if answer.status in _ABSENT:
            wrong.append(f"{id_}: {answer}, but {run.first.service.id} takes feedback")
    return faults(wrong, f"taken for {len(ids)} services")


def _body_faults(run: Run) -> list[tuple[str, Answer]]:
    bodies = {
        "no feedback": {},
        "a bare array": [_item(run)],
        "an object": {"feedback": _item(run)},
    }
    return [(n, run.client.request("POST", _url(run), body=body)) for n, body in bodies.items()]


@check("CH-120", "SHALL", "the body is an object with an array 'feedback'")
def _body(run: Run) -> Found:
    _offered(run)
    return _survived(_body_faults(run), _taken([("valid", _send(run, _item(run)))]))


@check("CH-120.1", "LOCAL", "another body is refused")
def _body_refused(run: Run) -> Found:
    _offered(run)
    return _refused(_body_faults(run))


def _item_faults(run: Run) -> list[tuple[str, Answer]]:
    changes: dict[str, dict[str, Any]] = {
        "no card": {"card": None},
        "no outcome": {"outcome": None},
        "no time": {"outcomeTimestamp": None},
        "another outcome": {"outcome": "ignored"},
        "a time without zone": {"outcomeTimestamp": "2026-01-02T03:04:05"},
    }
    return [(name, _send(run, _item(run, **change))) for name, change in changes.items()]


@check("CH-121", "STR", "card, outcome and outcomeTimestamp are read")
def _item_valid(run: Run) -> Found:
    _offered(run)
    earlier = datetime.now(UTC) - timedelta(hours=3)
    times = {
        "Z": _now(),
        "fractions": f"{earlier:%Y-%m-%dT%H:%M:%S}.123Z",
        "an offset": f"{earlier:%Y-%m-%dT%H:%M:%S}+00:00",
    }
    calls = [(name, _send(run, _item(run, outcomeTimestamp=time))) for name, time in times.items()]
    return _survived(_item_faults(run), _taken(calls))


@check("CH-121.1", "LOCAL", "an item without them is refused")
def _item_refused(run: Run) -> Found:
    _offered(run)
    return _refused(_item_faults(run))


def _accepted_faults(run: Run) -> list[tuple[str, Answer]]:
    return [
        ("accepted nothing", _send(run, _item(run, outcome="accepted"))),
        ("an empty list", _send(run, _item(run, outcome="accepted", acceptedSuggestions=[]))),
    ]


@check("CH-122", "STR", "'accepted' comes with acceptedSuggestions")
def _accepted(run: Run) -> Found:
    _offered(run)
    ids = [
        suggestion["uuid"]
        for card in objects(run.first.answer.cards)
        for suggestion in objects(card.get("suggestions"))
        if is_uuid(suggestion.get("uuid"))
    ]
    one = [{"id": (ids or [_ID])[0]}]
    valid = _send(run, _item(run, outcome="accepted", acceptedSuggestions=one))
    return _survived(_accepted_faults(run), _taken([("accepted", valid)]))


@check("CH-122.1", "LOCAL", "'accepted' without acceptedSuggestions is refused")
def _accepted_refused(run: Run) -> Found:
    _offered(run)
    return _refused(_accepted_faults(run))


@check("CH-123", "STR", "overrideReason may have a reason, a comment, both, or be left out")
def _reasons(run: Run) -> Found:
    _offered(run)
    reason = {"code": "other", "system": "https://example.org/reasons"}
    ways: dict[str, dict[str, Any]] = {
        "a reason": {"reason": {**reason, "display": "Other"}},
        "a reason without display": {"reason": reason},
        "a comment": {"userComment": "Synthetic feedback."},
        "both": {"reason": reason, "userComment": "Synthetic feedback."},
    }
    calls = [(name, _send(run, _item(run, overrideReason=value))) for name, value in ways.items()]
    return _taken([("none", _send(run, _item(run))), *calls])


@check("CH-124", "SHALL", "many items at once, and the same card again, are taken")
def _many(run: Run) -> Found:
    _offered(run)
    item = _item(run)
    others = [_item(run, card=str(uuid4())) for _ in range(3)]
    calls = [
        ("four cards", _send(run, item, *others)),
        ("one card twice", _send(run, item, item)),
        ("the same again", _send(run, item)),
    ]
    return _taken(calls)


@check("CH-126", "SHALL", "feedback is authenticated as every call")
def _authenticated(run: Run) -> Found:
    signer = run.client.signer
    if signer is None:
        return skipped("needs the key of a client (--jwk, --iss)")
    _offered(run)
    own = _send(run, _item(run))
    bare = _send(run, _item(run), token=None)
    foreign = signer.token(signer.claims(_url(run)), key=signer.stranger())
    forged = _send(run, _item(run), token=foreign)
    wrong = [] if 200 <= own.status < 300 else [f"aud is the URL of feedback: {own}"]
    wrong += [] if bare.status == 401 else [f"without a token: {bare}"]
    wrong += [] if forged.status == 401 else [f"with a forged token: {forged}"]
    return faults(wrong, "401 without a token and with a forged one")


@check("CH-127", "LOCAL", "feedback on a card that is not known is taken")
def _unknown(run: Run) -> Found:
    _offered(run)
    answer = _send(run, _item(run, card=str(uuid4())))
    return passed(str(answer)) if 200 <= answer.status < 300 else failed(str(answer))
