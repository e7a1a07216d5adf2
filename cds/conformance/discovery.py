"""Checks of discovery and its prefetch templates (CH-10 to CH-37; CDS Hooks 2.0, "Discovery").

Templates are read as text; nothing of the service is called but discovery, and each service once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

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
from cds.conformance.records import HOOKS
from cds.conformance.run import Run, Service, objects, text

__all__: list[str] = []

_USERS: Final = (
    "userPractitionerId", "userPractitionerRoleId", "userPatientId", "userRelatedPersonId",
)  # fmt: skip
_TOKEN: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_READ: Final = re.compile(r"[A-Z][A-Za-z]+/[^/?]+")
_SEARCH: Final = re.compile(r"[A-Z][A-Za-z]+\?(.+)", re.DOTALL)
_DATE: Final = re.compile(r"(?:[a-z]{2})?(?=\d{4})")
_DATES: Final = ("eq", "lt", "gt", "ge", "le", "")
_OTHER_HOOKS: Final = ("medication-verify", "medication-prescribe", "order-review")
_CUSTOM: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)+")
_SAFE: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")


def _each(run: Run, member: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield of each entry its name, the member's value, and whether it is there."""
    for number, entry in enumerate(run.listed):
        if not isinstance(entry, dict):
            yield f"services[{number}]", None, False
            continue
        id_ = entry.get("id")
        name = id_ if isinstance(id_, str) else f"services[{number}]"
        yield name, entry.get(member), member in entry


def _required(run: Run, member: str) -> Found:
    entries = list(_each(run, member))
    return faults(
        (f"{name}: no {member} that is text" for name, value, _ in entries if not text(value)),
        f"{len(entries)} entries have one",
    )


# ---------------------------------------------------------------- the answer


@check("CH-10", "SHALL", "discovery answers GET at {base}/cds-services")
def _there(run: Run) -> Found:
    first = run.discovery
    second = run.client.request("GET", run.client.discovery_url)
    for answer in (first, second):
        if answer.status in (404, 405, 410) or 300 <= answer.status < 400 or not answer.clean:
            return failed(f"GET /cds-services: {answer}")
    return passed(f"GET /cds-services: {first}, and again {second}")


@check("CH-10.1", "LOCAL", "discovery answers no POST")
def _only_get(run: Run) -> Found:
    answer = run.client.request("POST", run.client.discovery_url, body={})
    seen = f"POST /cds-services: {answer}"
    return passed(seen) if answer.status in (404, 405) else failed(seen)


@check("CH-11", "SHALL", "the body is an object with an array 'services'")
def _array(run: Run) -> Found:
    value = run.discovery.value
    if run.discovery.status != 200:
        return skipped(f"discovery: {run.discovery}")
    if not isinstance(value, dict) or not isinstance(value.get("services"), list):
        return failed("there is no array 'services' in an object")
    strange = [part for part in value["services"] if not isinstance(part, dict)]
    if strange:
        return failed(f"{len(strange)} entries of 'services' are not objects")
    return passed(f"{len(value['services'])} services")


@check("CH-12", "SHALL", "success has the status 200")
def _ok(run: Run) -> Found:
    answer = run.discovery
    if 200 <= answer.status < 300:
        return passed("200") if answer.status == 200 else failed(f"{answer}")
    if isinstance(answer.value, dict) and "services" in answer.value:
        return failed(f"services are listed with the status {answer}")
    return skipped(f"discovery was no success: {answer}")


@check("CH-13", "MAY", "failures have a status of 4xx or 5xx")
def _failure(run: Run) -> Found:
    if run.client.signer is None:
        return not_applicable("without keys of a client (--jwk) discovery cannot be made to fail")
    answer = run.client.request("GET", run.client.discovery_url, token=None)
    if answer.status == 200:
        return passed("discovery is open: 200 without a token")
    seen = f"without a token: {answer}"
    return passed(seen) if answer.status >= 400 else failed(seen)


# ---------------------------------------------------------------- entries


@check("CH-14", "STR", "'hook' is required text")
def _hook(run: Run) -> Found:
    return _required(run, "hook")


@check("CH-15", "SHOULD", "'title' is recommended text")
def _title(run: Run) -> Found:
    return _required(run, "title")


@check("CH-16", "STR", "'description' is required text")
def _description(run: Run) -> Found:
    return _required(run, "description")


@check("CH-17", "STR", "'id' is required, and the service is at {base}/cds-services/{id}")
def _id(run: Run) -> Found:
    found = _required(run, "id")
    if found.result == "fail":
        return found
    wrong = [f"{s.id!a} cannot stand in a path" for s in run.services if not _SAFE.fullmatch(s.id)]
    for service in {each.id: each for each in run.services}.values():
        asked = run.full(service).answer if run.request(service) else run.post(service, {})
        if asked.status in (0, 404, 405):
            wrong.append(f"POST to {service.id}: {asked}")
    return faults(wrong, f"{found.seen}; each answers POST")


@check("CH-18", "STR", "'prefetch' is an object of text by key")
def _prefetch(run: Run) -> Found:
    entries = [(name, value) for name, value, there in _each(run, "prefetch") if there]
    if not entries:
        return not_applicable("no service asks for prefetch")
    wrong = []
    for name, value in entries:
        if not isinstance(value, dict):
            wrong.append(f"{name}: prefetch is not an object")
            continue
        wrong += [f"{name}: {key!a} is not text" for key, query in value.items() if not text(query)]
        wrong += [f"{name}: a key is blank" for key in value if not key.strip()]
    return faults(wrong, f"{sum(len(value) for _, value in entries)} templates")


@check("CH-19", "STR", "'usageRequirements' is text")
def _usage(run: Run) -> Found:
    entries = [(name, value) for name, value, there in _each(run, "usageRequirements") if there]
    if not entries:
        return not_applicable("no service has usageRequirements")
    return faults(
        (f"{name}: usageRequirements is not text" for name, value in entries if not text(value)),
        f"{len(entries)} services have some",
    )


@check("CH-20", "MAY", "an id that is listed twice has different hooks")
def _twice(run: Run) -> Found:
    pairs = Counter((s.id, s.hook) for s in run.services)
    if len({s.id for s in run.services}) == len(run.services):
        return not_applicable("no id is listed twice")
    return faults(
        (f"{id_} is listed {n} times for {hook}" for (id_, hook), n in pairs.items() if n > 1),
        "ids that are listed twice differ in their hook",
    )


@check("CH-23", "MAY", "'extension' in discovery is an object")
def _extension(run: Run) -> Found:
    entries = [(name, value) for name, value, there in _each(run, "extension") if there]
    if not entries:
        return not_applicable("no entry has an extension")
    return faults(
        (f"{n}: extension is not an object" for n, value in entries if not isinstance(value, dict)),
        f"{len(entries)} extensions are objects",
    )


@check("CH-24", "LOCAL", "discovery is the same each time")
def _same(run: Run) -> Found:
    again = run.client.request("GET", run.client.discovery_url)
    if run.discovery.status != 200:
        return skipped(f"discovery: {run.discovery}")
    same = again.content == run.discovery.content
    return passed("two bodies are the same") if same else failed("two bodies differ")


# ---------------------------------------------------------------- templates


def _templates(run: Run) -> Iterator[tuple[Service, str, str]]:
    for service in run.services:
        for key, template in service.prefetch.items():
            yield service, f"{service.id}, {key}", template


def _asked(run: Run) -> list[tuple[Service, str, str]]:
    found = list(_templates(run))
    if not found:
        raise Skip("no service asks for prefetch", applicable=False)
    return found


def _tokens(run: Run) -> list[tuple[Service, str, str]]:
    found = [
        (service, name, token)
        for service, name, template in _asked(run)
        for token in _TOKEN.findall(template)
    ]
    if not found:
        raise Skip("no template has a token", applicable=False)
    return found


@check("CH-30", "SHALL", "tokens stand between {{ and }}")
def _braces(run: Run) -> Found:
    templates = _asked(run)
    return faults(
        (f"{name}: a single brace" for _, name, t in templates if re.search("[{}]", _left(t))),
        f"{len(templates)} templates",
    )


def _left(template: str) -> str:
    """Return a template without its tokens."""
    return _TOKEN.sub("", template)


@check("CH-31", "SHALL", "a token is a path to a field of the context, or the user's id")
def _paths(run: Run) -> Found:
    tokens = _tokens(run)
    return faults(
        (
            f"{name}: {token!a} is no path"
            for _, name, token in tokens
            if not _PATH.fullmatch(token)
        ),
        f"{len(tokens)} tokens",
    )


@check("CH-32", "SHALL", "a token of the context is named context.<field>")
def _named(run: Run) -> Found:
    tokens = _tokens(run)
    return faults(
        (
            f"{name}: {token!a} is no field of the context"
            for _, name, token in tokens
            if token.strip() not in _USERS and not token.strip().startswith("context.")
        ),
        f"{len(tokens)} tokens",
    )


@check("CH-33", "SHALL", "a token is a field of the first level that the hook allows as token")
def _allowed(run: Run) -> Found:
    tokens = _tokens(run)
    wrong = []
    for service, name, token in tokens:
        field = token.strip().removeprefix("context.")
        if field == token.strip():
            continue  # CH-32
        known = HOOKS.get(service.hook)
        if "." in field:
            wrong.append(f"{name}: {token!a} is not of the first level")
        elif known is not None and field not in known.tokens:
            wrong.append(f"{name}: {token!a} is no token of {service.hook}")
    return faults(wrong, f"{len(tokens)} tokens")


@check("CH-34", "SHOULD", "queries keep to the subset that every client can be expected to know")
def _subset(run: Run) -> Found:
    templates = _asked(run)
    return faults(
        (f"{name}: {fault}" for _, name, query in templates for fault in _query(query)),
        f"{len(templates)} templates",
    )


def _parameters(template: str) -> list[tuple[str, str]]:
    match = _SEARCH.fullmatch(_TOKEN.sub("X", template))
    return parse_qsl(match[1], keep_blank_values=True) if match else []


def _query(template: str) -> Iterator[str]:
    plain = _TOKEN.sub("X", template)
    if _READ.fullmatch(plain):
        return
    if not _SEARCH.fullmatch(plain):
        yield "is neither a read nor a search of a type"
        return
    for name, value in _parameters(template):
        bare, _, modifier = name.partition(":")
        if bare.startswith("_") and bare not in ("_id", "_count", "_sort"):
            yield f"parameter {name!a}"
        elif "." in bare:
            yield f"chained parameter {name!a}"
        elif modifier and not (modifier == "in" or modifier[:1].isupper()):
            yield f"modifier of {name!a}"
        prefix = _DATE.match(value)
        if prefix and prefix[0] not in _DATES:
            yield f"prefix {prefix[0]!a} of {name!a}"


@check("CH-35", "LOCAL", "sorting is written as FHIR R4 has it: _sort=-date")
def _sort(run: Run) -> Found:
    templates = _asked(run)
    wrong = (name for _, name, t in templates for p, _ in _parameters(t) if p.startswith("sort"))
    return faults((f"{name}: 'sort' is DSTU2" for name in wrong), f"{len(templates)} templates")


@check("CH-36", "MAY", "templates may have tokens, and what they ask for can be asked")
def _expanded(run: Run) -> Found:
    templates = _asked(run)
    tokens = sum(len(_TOKEN.findall(template)) for _, _, template in templates)
    wrong = (
        f"{name}: {unquote(urlsplit(plain).path)!a} is no path of FHIR"
        for _, name, template in templates
        if not re.match(r"[A-Z][A-Za-z]+([/?]|$)", plain := _TOKEN.sub("X", template))
    )
    return faults(wrong, f"{tokens} tokens in {len(templates)} templates")


@check("CH-37", "LOCAL", "no parameter stands twice in a query")
def _repeated(run: Run) -> Found:
    templates = _asked(run)
    wrong = [
        f"{name}: {parameter!a} stands {n} times"
        for _, name, template in templates
        for parameter, n in Counter(p for p, _ in _parameters(template)).items()
        if n > 1
    ]
    return faults(wrong, f"{len(templates)} templates")


@check("CH-79a", "SHALL", "hooks of others have a reverse-domain name")
def _hooks(run: Run) -> Found:
    known = (*HOOKS, *_OTHER_HOOKS)
    hooks = sorted({str(e["hook"]) for e in objects(run.listed) if text(e.get("hook"))})
    return faults(
        (
            f"{h!a} is no published hook"
            for h in hooks
            if h not in known and not _CUSTOM.fullmatch(h)
        ),
        ", ".join(hooks),
    )
