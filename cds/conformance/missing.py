"""Checks of prefetch that is missing, empty, failed or not whole (CH-40 to CH-49).

Source: CDS Hooks 2.0, "Providing FHIR Resources to a CDS Service". Null is what clients of 2.0 have
to send for a search that found nothing, so a service that cannot take it fails CH-44 as SHALL.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

from cds.conformance.checks import Found, Skip, check, failed, faults, passed, skipped
from cds.conformance.client import Answer
from cds.conformance.records import bundle
from cds.conformance.run import Asked, Run, bare, objects

__all__: list[str] = []

_NOTHING: Final[dict[str, Any]] = {
    "null": None,
    "a Bundle without entries": {"resourceType": "Bundle", "type": "searchset"},
    "a Bundle with an empty list": {"resourceType": "Bundle", "type": "searchset", "entry": []},
    "a Bundle with total 0": {"resourceType": "Bundle", "type": "searchset", "total": 0},
}
_FAILED: Final[dict[str, Any]] = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "exception", "diagnostics": "The search failed."}],
}


def _searches(run: Run) -> dict[str, str]:
    searches = run.with_prefetch.service.searches
    if not searches:
        raise Skip("no template asks for a search", applicable=False)
    return searches


def _asked_for(run: Run, key: str) -> str:
    """Return the type of resource that a template asks for."""
    template = run.with_prefetch.service.prefetch[key]
    return template.partition("?")[0].partition("/")[0]


def _unfit(answer: Answer, what: str) -> Iterator[str]:
    """Yield a fault if an answer is neither cards nor "data are missing"."""
    if answer.status not in (200, 412):
        yield f"{what}: {answer}, neither 200 nor 412"


@check("CH-40", "MAY", "of partial prefetch the service itself reads what is missing")
def _partial(run: Run) -> Found:
    run.must_read()
    asked = run.with_prefetch
    wrong: list[str] = []
    for key in asked.service.prefetch:
        body = run.reading(run.without_key(asked, key))
        with run.fhir.behaving() as seen:
            answer = run.post(asked.service, body)
        wrong += _unfit(answer, f"without {key}")
        if answer.status == 412:
            continue
        if _asked_for(run, key) not in {each.kind for each in seen}:
            wrong.append(f"{key} was not there and was not read either")
    return faults(wrong, f"each of {len(asked.service.prefetch)} keys is read if it is missing")


@check("CH-41", "SHOULD", "prefetch and reading the FHIR server give the same cards")
def _both(run: Run) -> Found:
    asked = run.with_prefetch
    if run.requests:
        return skipped("the records of --request are not on our FHIR server")
    answer, seen = run.read
    if not seen and not run.fhir_promised:
        run.must_read()
    if not seen:
        return failed(f"the service does not read {run.fhir.url}: {answer}")
    if answer.status != 200:
        return failed(f"with prefetch: {asked.answer}; with {len(seen)} reads: {answer}")
    if bare(answer.cards) != bare(asked.answer.cards):
        return failed(
            f"other cards: {len(asked.answer.cards)} with prefetch, {len(answer.cards)} with reads"
        )
    return passed(f"the same {len(answer.cards)} cards; {len(seen)} reads")


@check("CH-42", "SHALL", "412 if data that are needed cannot be had")
def _needed(run: Run) -> Found:
    asked = run.with_prefetch
    alone = run.post(asked.service, run.changed(asked, prefetch=None))
    wrong = list(_unfit(alone, "no prefetch and no FHIR server"))
    tried = "no FHIR server"
    if run.fhir_server is not None and run.read[1]:
        ways: dict[str, dict[str, Any]] = {str(code): {"status": code} for code in (401, 403, 404)}
        ways |= {"500": {"status": 500}, "a connection that is closed": {"closes": True}}
        for name, how in ways.items():
            with run.fhir.behaving(**how):
                answer = run.post(asked.service, run.reading())
            what = f"no prefetch and {name} from the FHIR server"
            wrong += _unfit(answer, what)
            if alone.status == 412 and answer.status == 200:
                wrong.append(f"{what}: 200, but 412 without a FHIR server")
        tried += ", " + ", ".join(ways)
    return faults(wrong, f"without prefetch: {alone} ({tried})")


@check("CH-43", "SHALL", "a key that is left out is no fault of the request")
def _omitted(run: Run) -> Found:
    asked = run.with_prefetch
    wrong: list[str] = []
    needed: list[str] = []
    for key in asked.service.prefetch:
        answer = run.again(asked, prefetch=run.without_key(asked, key))
        wrong += _unfit(answer, f"without {key}")
        needed += [key] if answer.status == 412 else []
    return faults(wrong, f"needed, 412 without: {', '.join(needed) or 'none'}; the others: 200")


@check("CH-44", "SHALL", "null and an empty Bundle mean that nothing was found")
def _found_nothing(run: Run) -> Found:
    asked = run.with_prefetch
    wrong: list[str] = []
    searches = _searches(run)
    for key in searches:
        seen = {}
        for name, value in _NOTHING.items():
            answer = run.again(asked, prefetch=run.with_key(asked, key, value))
            if answer.status != 200:
                wrong.append(f"{key} is {name}: {answer}, not 200")
            seen[name] = bare(answer.cards)
        wrong += [
            f"{key}: other cards for null than for {name}"
            for name, cards in seen.items()
            if cards != seen["null"]
        ]
    return faults(wrong, f"{len(searches)} searches, {len(_NOTHING)} ways to say nothing each")


@check("CH-44.1", "LOCAL", "what is known to be empty is not read again")
def _not_again(run: Run) -> Found:
    run.must_read()
    searches = _searches(run)
    prefetch = {
        **(run.with_prefetch.body.get("prefetch") or {}),
        **dict.fromkeys(searches),
    }
    return _unread(run, prefetch, "null")


def _unread(run: Run, prefetch: dict[str, Any], what: str) -> Found:
    with run.fhir.behaving() as seen:
        answer = run.post(run.with_prefetch.service, run.reading(prefetch))
    if not answer.clean:
        return failed(f"prefetch is {what}: {answer}")
    kinds = sorted({each.kind for each in seen})
    if kinds:
        return failed(f"prefetch is {what}, but the service reads {', '.join(kinds)}")
    return passed(f"no reads; {answer}")


@check("CH-45", "SHOULD", "an OperationOutcome in prefetch means that the query failed")
def _outcomes(run: Run) -> Found:
    asked = run.with_prefetch
    wrong: list[str] = []
    for key in asked.service.prefetch:
        ways = [("an OperationOutcome", _FAILED)]
        if key in asked.service.searches:
            within = bundle([], "searchset")
            within["entry"] = [{"resource": _FAILED, "search": {"mode": "outcome"}}]
            ways.append(("a Bundle with an OperationOutcome", within))
        for name, value in ways:
            answer = run.again(asked, prefetch=run.with_key(asked, key, value))
            wrong += _unfit(answer, f"{key} is {name}")
    return faults(wrong, f"{len(asked.service.prefetch)} keys: 200 or 412")


@check("CH-45.1", "SHOULD", "a query that the client says failed is not repeated")
def _not_repeated(run: Run) -> Found:
    run.must_read()
    failing = {key: _FAILED for key in run.with_prefetch.service.prefetch}
    return _unread(run, copy.deepcopy(failing), "an OperationOutcome")


def _page(value: Any, url: str) -> Any:
    """Return a Bundle with its first entry only, and a link to the rest."""
    page = copy.deepcopy(value)
    page["entry"] = page.get("entry", [])[:1]
    page["link"] = [{"relation": "next", "url": url}]
    return page


def _paged(run: Run) -> tuple[Asked, str, dict[str, Any]]:
    asked = run.with_prefetch
    for key in _searches(run):
        value = (asked.body.get("prefetch") or {}).get(key)
        if isinstance(value, dict) and value.get("entry"):
            return asked, key, value
    raise Skip("no search of the request has entries")


@check("CH-46", "MAY", "a Bundle of which only the first page is there can be taken")
def _first_page(run: Run) -> Found:
    asked, key, value = _paged(run)
    page = _page(value, "https://fhir.example.org/page/2")
    answer = run.again(asked, prefetch=run.with_key(asked, key, page))
    return faults(_unfit(answer, f"{key} has a next page"), f"{key} has a next page: {answer}")


@check("CH-46.1", "LOCAL", "further pages are read, and from the same server only")
def _next_page(run: Run) -> Found:
    run.must_read()
    asked, key, value = _paged(run)
    kind = _asked_for(run, key)
    here = _page(value, f"{run.fhir.url}/{kind}?page=2")
    with run.fhir.behaving(next_base=run.fhir.url) as seen:
        run.post(asked.service, run.reading(run.with_key(asked, key, here)))
        followed = [each for each in seen if "page=2" in each.path]
    there = _page(value, f"{run.elsewhere.url}/{kind}?page=2")
    with run.elsewhere.behaving() as strayed, run.fhir.behaving(next_base=run.elsewhere.url):
        run.post(asked.service, run.reading(run.with_key(asked, key, there)))
        run.post(asked.service, run.reading())
    if strayed:
        return failed(f"a next page at another server was read ({len(strayed)} requests)")
    return passed(f"next pages of the same server read: {len(followed)}; of another one: none")


@check("CH-47", "LOCAL", "the prefetch of before 1.0 ({response, resource}) is refused")
def _wrapped(run: Run) -> Found:
    asked = run.with_prefetch
    old = {
        key: {"response": {"status": "200 OK"}, "resource": value}
        for key, value in (asked.body.get("prefetch") or {}).items()
    }
    answer = run.again(asked, prefetch=old)
    return passed(f"{answer}") if answer.refused else failed(f"{answer}, not 4xx")


@check("CH-48", "LOCAL", "resources of another patient are not used")
def _foreign(run: Run) -> Found:
    asked = run.with_prefetch
    wrong: list[str] = []
    tried = 0
    for key in _searches(run):
        value = (asked.body.get("prefetch") or {}).get(key)
        if not isinstance(value, dict) or not value.get("entry"):
            continue
        tried += 1
        nobody = run.again(asked, prefetch=run.with_key(asked, key, bundle([], "searchset")))
        other = _of_another(copy.deepcopy(value))
        answer = run.again(asked, prefetch=run.with_key(asked, key, other))
        # A card that tells of what was dropped is welcome; one that own data give is not.
        own = _heads(asked.answer) - _heads(nobody)
        if answer.status == 200 and own & _heads(answer):
            wrong.append(f"{key}: resources of another patient give cards")
        elif not answer.clean:
            wrong.append(f"{key}: {answer}")
    if not tried:
        return skipped("no search of the request has entries")
    return faults(wrong, f"{tried} keys: refused or without effect")


def _heads(answer: Answer) -> set[tuple[str, str]]:
    return {(str(c.get("summary")), str(c.get("indicator"))) for c in objects(answer.cards)}


def _of_another(value: Any) -> Any:
    if isinstance(value, dict):
        for member in ("subject", "patient", "beneficiary"):
            if isinstance(value.get(member), dict) and "reference" in value[member]:
                value[member]["reference"] = "Patient/somebody-else"
        for part in value.values():
            _of_another(part)
    elif isinstance(value, list):
        for part in value:
            _of_another(part)
    return value


@check("CH-49", "LOCAL", "412 is for missing access, not for values that are old")
def _old(run: Run) -> Found:
    asked = run.with_prefetch
    old = _dated(copy.deepcopy(asked.body.get("prefetch") or {}))
    answer = run.again(asked, prefetch=old)
    seen = f"all data 30 years old: {answer}"
    return passed(seen) if answer.status == 200 else failed(seen)


def _dated(value: Any) -> Any:
    """Make every date of clinical data one of 30 years ago; those of persons stay."""
    if isinstance(value, dict):
        for name, part in value.items():
            if isinstance(part, str) and ("DateTime" in name or name in ("authoredOn", "start")):
                value[name] = "1996-01-02"
            else:
                _dated(part)
    elif isinstance(value, list):
        for part in value:
            _dated(part)
    return value
