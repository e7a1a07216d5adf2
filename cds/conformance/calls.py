"""Checks of hook requests and their contexts (CH-55 to CH-79; CDS Hooks 2.0, "Calling a Service").

What a request has to have is a duty of the client. Of the service is asked that it accepts every
valid form (STR) and answers a faulty one at all, but not with 5xx. That it refuses the faulty one
with 4xx is LOCAL: the specification leaves it open.
"""

from __future__ import annotations

import copy
from typing import Any, Final
from uuid import UUID, uuid1, uuid4

from cds.conformance.checks import (
    Found,
    Skip,
    check,
    failed,
    faults,
    not_applicable,
    passed,
    skipped,
)
from cds.conformance.client import Answer
from cds.conformance.records import HOOKS, Hook, bundle
from cds.conformance.run import Asked, Run, bare

__all__: list[str] = []

_UUIDS: Final = {
    "version 1": str(uuid1(node=0, clock_seq=0)),
    "version 4": str(uuid4()),
    "version 7": "018f4d1e-7c3a-7b2e-9d5f-0a1b2c3d4e5f",
    "in upper case": str(UUID("d1577c69-dfbe-44ad-ba6d-3e05e953b2ea")).upper(),
}
_DEEP: Final = 10_000
_HUGE_BYTES: Final = 50_000_000


def _asked_again(run: Run, **members: Any) -> list[tuple[str, Answer]]:
    """Make the good call with each of these members replaced, one at a time."""
    return [
        (name, run.post(run.first.service, {**run.changed(), **change}))
        for name, change in members.items()
    ]


def _without(run: Run, *names: str) -> list[tuple[str, Answer]]:
    return [(f"no {name}", run.again(**{name: None})) for name in names]


def _accepted(calls: list[tuple[str, Answer]]) -> Found:
    return faults(
        (f"{name}: {answer}" for name, answer in calls if answer.status != 200),
        f"200: {', '.join(name for name, _ in calls)}",
    )


def _survived(calls: list[tuple[str, Answer]], found: Found | None = None) -> Found:
    """Fault what is no answer or 5xx, after what was already faulted."""
    if found is not None and found.result == "fail":
        return found
    seen = ", ".join(f"{name} {answer}" for name, answer in calls)
    return faults(
        (f"{name}: {answer}" for name, answer in calls if not answer.clean),
        f"{found.seen}; {seen}" if found else seen,
    )


def _refused(calls: list[tuple[str, Answer]]) -> Found:
    return faults(
        (f"{name}: {answer}, not 4xx" for name, answer in calls if not answer.refused),
        ", ".join(f"{name}: {answer}" for name, answer in calls),
    )


# ---------------------------------------------------------------- the endpoint


@check("CH-55", "SHALL", "a service is called by POST at {base}/cds-services/{id}")
def _endpoint(run: Run) -> Found:
    calls = [run.full(each) for each in run.callable]
    return faults(
        (f"{a.service}: {a.answer}" for a in calls if a.answer.status not in (200, 412)),
        ", ".join(f"{a.service.id}: {a.answer}" for a in calls),
    )


@check("CH-55.1", "LOCAL", "an unknown id is answered with 404")
def _unknown_id(run: Run) -> Found:
    url = run.client.service_url("no-such-service-" + str(uuid4()))
    answer = run.client.request("POST", url, body=run.changed())
    return passed("404") if answer.status == 404 else failed(str(answer))


@check("CH-55.2", "LOCAL", "another method is answered with 405")
def _method(run: Run) -> Found:
    url = run.client.service_url(run.first.service.id)
    calls = [(m, run.client.request(m, url)) for m in ("GET", "PUT", "DELETE")]
    return faults((f"{m}: {a}" for m, a in calls if a.status != 405), "405 for GET, PUT, DELETE")


@check("CH-55.3", "LOCAL", "another media type is answered with 415")
def _media_type(run: Run) -> Found:
    answer = run.post(run.first.service, run.changed(), headers={"Content-Type": "text/plain"})
    return passed("415") if answer.status == 415 else failed(f"text/plain: {answer}")


@check("CH-55.4", "LOCAL", "a body that is no JSON object is refused with 4xx")
def _no_json(run: Run) -> Found:
    url = run.client.service_url(run.first.service.id)
    bodies = {
        "nothing": b"",
        "half an object": b'{"hook": ',
        "a comment": b"{} // a comment",
        "a list": b"[]",
        "not UTF-8": b'{"hook": "\xff"}',
    }
    return _refused(
        [(name, run.client.request("POST", url, content=body)) for name, body in bodies.items()]
    )


# ---------------------------------------------------------------- members


@check("CH-56", "STR", "'hook' is read; a request without it does no harm")
def _hook(run: Run) -> Found:
    return _survived(_hook_faults(run), _accepted([("valid", run.again())]))


@check("CH-56.1", "LOCAL", "a hook that is missing or of another service is refused")
def _hook_refused(run: Run) -> Found:
    return _refused(_hook_faults(run))


def _hook_faults(run: Run) -> list[tuple[str, Answer]]:
    other = {"hook": "org.example.other-hook"}
    return [*_without(run, "hook"), *_asked_again(run, other=other, number={"hook": 7})]


@check("CH-57", "STR", "'hookInstance' may be any UUID")
def _instance(run: Run) -> Found:
    valid = [(n, run.again(hookInstance=value)) for n, value in _UUIDS.items()]
    return _survived(_instance_faults(run), _accepted(valid))


@check("CH-57.1", "LOCAL", "a hookInstance that is missing or no UUID is refused")
def _instance_refused(run: Run) -> Found:
    return _refused(_instance_faults(run))


def _instance_faults(run: Run) -> list[tuple[str, Answer]]:
    wrong = _asked_again(run, abc={"hookInstance": "abc"}, number={"hookInstance": 1})
    return [*_without(run, "hookInstance"), *wrong]


@check("CH-58", "STR", "'fhirServer' may be there alone; authorization without it does no harm")
def _server(run: Run) -> Found:
    alone = [("fhirServer alone", run.again(fhirServer="https://fhir.example.org/r4"))]
    return _survived(_server_faults(run), _accepted(alone))


@check(
    "CH-58.1", "LOCAL", "authorization without a server, and a server that is no URL, are refused"
)
def _server_refused(run: Run) -> Found:
    return _refused(_server_faults(run))


def _server_faults(run: Run) -> list[tuple[str, Answer]]:
    return [
        ("authorization alone", run.again(fhirAuthorization=run.authorization())),
        ("no URL", run.again(fhirServer="not a URL", fhirAuthorization=run.authorization())),
    ]


@check("CH-59", "STR", "'fhirAuthorization' may be there")
def _authorization(run: Run) -> Found:
    server = "https://fhir.example.org/r4"
    answer = run.again(fhirServer=server, fhirAuthorization=run.authorization())
    return _accepted([("server and authorization", answer)])


@check("CH-60", "STR", "'context' is read; a request without it does no harm")
def _context(run: Run) -> Found:
    return _survived(_context_faults(run), _accepted([("valid", run.again())]))


@check("CH-60.1", "LOCAL", "a context that is missing or no object is refused")
def _context_refused(run: Run) -> Found:
    return _refused(_context_faults(run))


def _context_faults(run: Run) -> list[tuple[str, Answer]]:
    wrong = _asked_again(run, list={"context": [run.first.body["context"]]}, text={"context": "x"})
    return [*_without(run, "context"), *wrong]


@check("CH-61", "STR", "'prefetch' may be missing, which is as good as empty")
def _prefetch(run: Run) -> Found:
    missing = run.again(prefetch=None)
    empty = run.post(run.first.service, {**run.changed(), "prefetch": {}})
    seen = f"missing: {missing}, empty: {empty}"
    if missing.status != empty.status or missing.status not in (200, 412):
        return failed(seen)
    return passed(seen)


@check("CH-62", "LOCAL", "unknown members, context fields and prefetch keys change nothing")
def _unknown(run: Run) -> Found:
    first = run.first
    context = {**first.body["context"], "unknownField": {"a": [1]}}
    prefetch = run.with_key(first, "unknownKey", {"resourceType": "Basic", "id": "unknown"})
    more = {"unknownMember": [1, {"b": None}], "context": context, "prefetch": prefetch}
    return _same(run, {**run.changed(), **more}, "with unknown members")


def _same(run: Run, body: dict[str, Any], what: str) -> Found:
    """Compare the cards of a body with those of the good call."""
    answer = run.post(run.first.service, body)
    if answer.status != 200:
        return failed(f"{what}: {answer}")
    if bare(answer.cards) != bare(run.first.answer.cards):
        return failed(f"{what}: other cards")
    return passed(f"the same {len(answer.cards)} cards")


@check("CH-63", "LOCAL", "a body that is nested deeply or huge is refused")
def _limits(run: Run) -> Found:
    url = run.client.service_url(run.first.service.id)
    deep = b'{"hook":' + b"[" * _DEEP + b"]" * _DEEP + b"}"
    calls = [(f"{_DEEP:,} lists deep", run.client.request("POST", url, content=deep))]
    wrong = [f"{name}: {answer}" for name, answer in calls if not answer.refused]
    seen = [f"{name}: {answer}" for name, answer in calls]
    if run.thorough:
        huge = run.client.request("POST", url, content=b" " * _HUGE_BYTES + b"{}")
        # Many servers end the connection before all has been sent.
        if huge.status and not huge.refused:
            wrong.append(f"{_HUGE_BYTES:,} bytes: {huge}")
        seen.append(f"{_HUGE_BYTES:,} bytes: {huge}")
    if run.again().status != 200:
        wrong.append("afterwards a good call fails")
    return faults(wrong, ", ".join(seen))


@check("CH-65", "LOCAL", "the same request gives the same cards")
def _stateless(run: Run) -> Found:
    return _same(run, run.first.body, "the same request again")


@check("CH-66", "LOCAL", "patientId may be written Patient/<id>")
def _patient(run: Run) -> Found:
    context = {**run.first.body["context"], "patientId": f"Patient/{run.patient}"}
    return _same(run, {**run.changed(), "context": context}, "patientId with its type")


@check("CH-67", "SHALL", "resources of another FHIR version in the context do no harm")
def _versions(run: Run) -> Found:
    for service in run.callable:
        if "draftOrders" in (known := HOOKS.get(service.hook, Hook("", ()))).required:
            break
    else:
        return not_applicable("no service has a hook with draft orders")
    asked, calls = run.full(service), []
    for name, orders in {
        "of DSTU2": run.records.drafts["older_orders"],
        "mixed": [*run.records.drafts["orders"], *run.records.drafts["older_orders"]],
    }.items():
        context = {**asked.body["context"], "draftOrders": bundle(orders, "collection")}
        if "selections" in known.required:
            context["selections"] = [f"{o['resourceType']}/{o['id']}" for o in orders]
        calls.append((name, run.again(asked, context=context)))
    return _survived(calls)


# ---------------------------------------------------------------- hooks


def _of_hook(run: Run, hook: str) -> Asked:
    for service in run.services:
        if service.hook == hook:
            return run.full(service)
    raise Skip(f"no service has the hook {hook}", applicable=False)


def _check_hook(hook: str, about: Hook) -> None:
    @check(about.row, "STR", f"{hook}: valid contexts are taken, faulty ones do no harm")
    def _valid(run: Run) -> Found:
        asked = _of_hook(run, hook)
        calls = [("required fields", asked.answer)]
        body = run.request(asked.service, optional=True)
        if about.optional and body is not None:
            calls.append(("all fields", run.post(asked.service, body)))
        if hook == "order-select":
            context = copy.deepcopy(asked.body["context"])
            for entry in context["draftOrders"].get("entry", []):
                entry.get("resource", {}).pop("dosageInstruction", None)
            calls.append(("drafts without a dose", run.again(asked, context=context)))
        bad = [(n, a) for n, a in calls if a.status not in (200, 412)]
        if bad:
            return failed(", ".join(f"{name}: {answer}" for name, answer in bad))
        seen = passed(", ".join(f"{name}: {answer}" for name, answer in calls))
        return _survived(_missing(run, asked), seen)

    @check(f"{about.row}.1", "LOCAL", f"{hook}: a context without a required field is refused")
    def _faulty(run: Run) -> Found:
        return _refused(_missing(run, _of_hook(run, hook)))

    def _missing(run: Run, asked: Asked) -> list[tuple[str, Answer]]:
        context = asked.body["context"]
        calls = []
        for name in about.required:
            left = {field: value for field, value in context.items() if field != name}
            calls.append((f"no {name}", run.again(asked, context=left)))
        return calls


for _name, _about in HOOKS.items():
    _check_hook(_name, _about)


@check("CH-71.2", "LOCAL", "order-select: a selection that is no draft order is refused or ignored")
def _selections(run: Run) -> Found:
    asked = _of_hook(run, "order-select")
    context = {**asked.body["context"], "selections": ["MedicationRequest/no-such-draft"]}
    answer = run.again(asked, context=context)
    return passed(str(answer)) if answer.clean else failed(str(answer))


@check("CH-152", "LOCAL", "unknown extensions change nothing")
def _extensions(run: Run) -> Found:
    first = run.first
    extension = {"org.example.unknown": {"value": [1, "two"]}}
    context = {**first.body["context"], "extension": extension}
    return _same(
        run, {**run.changed(), "extension": extension, "context": context}, "with extensions"
    )


@check(
    "CH-153", "LOCAL", "usageRequirements say R4; resources of STU3 are answered the same each time"
)
def _fhir_version(run: Run) -> Found:
    services = [each for each in run.listed if isinstance(each, dict)]
    silent = [
        str(each.get("id")) for each in services if "R4" not in str(each.get("usageRequirements"))
    ]
    if silent:
        return failed(f"no word of R4: {', '.join(silent)}")
    try:
        asked = run.with_prefetch
    except Skip as skip:
        return skipped(f"R4 is named by all; {skip}")
    old = bundle(run.records.drafts["older_orders"], "searchset")
    body = run.changed(asked)
    for key in asked.service.searches:
        body["prefetch"] = run.with_key(asked, key, old)
        break
    one, two = run.post(asked.service, body), run.post(asked.service, body)
    if not one.clean or (one.status, bare(one.cards)) != (two.status, bare(two.cards)):
        return failed(f"a DSTU2 resource in prefetch: {one}, then {two}")
    return passed(f"R4 is named by all; a DSTU2 resource in prefetch: {one}, twice the same")
