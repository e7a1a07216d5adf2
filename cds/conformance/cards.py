"""Checks of answers and cards (CH-90 to CH-118, CH-150, CH-151, CH-154).

Source: CDS Hooks 2.0, "CDS Service Response". Looked at are all answers to valid calls.
"""

from __future__ import annotations

import copy
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

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
from cds.conformance.run import Run, bare, is_uuid, items, objects, text, walk

__all__: list[str] = []

_INDICATORS: Final = ("critical", "warning", "info")
_SUMMARY_LIMIT: Final = 140
# The tags that GitHub Flavored Markdown disallows ("Disallowed Raw HTML"), and what runs code.
_HTML: Final = re.compile(
    r"<\s*(title|textarea|style|xmp|iframe|noembed|noframes|script|plaintext)\b|<[^>]*\son\w+\s*=",
    re.IGNORECASE,
)
_INJECTED: Final = '<b id="cds-conformance-injected">x</b>'
# Nothing in a code span or a fenced block is HTML (GFM, 6.3 and 4.5).
_CODE: Final = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_REVERSE_DOMAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*(\.[A-Za-z0-9_-]+)+")
_RELATIVE: Final = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64}")
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def _absolute(url: Any) -> bool:
    if not isinstance(url, str) or any(c.isspace() or c in '<>"' for c in url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname)


def _having(parts: Iterable[dict[str, Any]], member: str, what: str) -> list[Any]:
    """Return the values of a member that is optional. Raises: Skip if no part has it."""
    found = [part[member] for part in parts if member in part]
    if not found:
        raise Skip(f"no {what} has '{member}'", applicable=False)
    return found


def _coding(coding: Any, *members: str) -> Iterator[str]:
    if not isinstance(coding, dict):
        yield "is no object"
        return
    for member in members:
        if not text(coding.get(member)):
            yield f"has no {member}"


# ---------------------------------------------------------------- the answer


@check("CH-90", "SHALL", "success is 200 with an object that has an array 'cards'")
def _array(run: Run) -> Found:
    wrong, seen = [], 0
    for asked in run.good:
        answer, value = asked.answer, asked.answer.value
        if not 200 <= answer.status < 300:
            continue
        seen += 1
        if answer.status != 200:
            wrong.append(f"{asked.service}: {answer}")
        elif not isinstance(value, dict) or not isinstance(value.get("cards"), list):
            wrong.append(f"{asked.service} with {asked.about}: no array 'cards'")
        elif any(not isinstance(card, dict) for card in value["cards"]):
            wrong.append(f"{asked.service}: a card is no object")
    if not seen:
        return skipped(f"no valid request succeeded (seen: {run.good[0].answer})")
    return faults(wrong, f"{seen} answers")


@check("CH-91", "SHOULD", "no guidance is 200 with cards: []")
def _none(run: Run) -> Found:
    seen = []
    for asked in run.good:
        answer = asked.answer
        if answer.status == 200 and answer.cards:
            continue
        value = answer.value
        if answer.status == 412 or not answer.clean:
            continue
        if answer.status != 200 or not isinstance(value, dict) or value.get("cards") != []:
            return failed(f"{asked.service} with {asked.about}: {answer} without cards: []")
        seen.append(asked)
    if not seen:
        return skipped("every valid call gave guidance")
    return passed(f"{len(seen)} calls: 200 and cards: []")


@check("CH-92", "MAY", "other statuses are of 4xx or 5xx")
def _statuses(run: Run) -> Found:
    asked = [
        *(each.answer for each in run.good),
        run.again(hook=None),
        run.client.request("POST", run.client.service_url(run.first.service.id), content=b"{"),
        run.client.request("POST", run.client.service_url("no-such-service"), body=run.changed()),
    ]
    seen = Counter(answer.status for answer in asked)
    wrong = sorted(status for status in seen if status != 200 and not 400 <= status < 600)
    told = ", ".join(f"{n} times {status}" for status, n in sorted(seen.items()))
    return failed(f"{wrong[0]} ({told})") if wrong else passed(told)


@check("CH-93", "STR", "'systemActions' is an array of actions, where there is one")
def _system_actions(run: Run) -> Found:
    found = [
        (asked, asked.answer.value["systemActions"])
        for asked in run.answers
        if "systemActions" in asked.answer.value
    ]
    if not found:
        return not_applicable("no answer has systemActions")
    return faults(
        (
            f"{asked.service}: systemActions is no array of objects, or empty"
            for asked, value in found
            if not isinstance(value, list) or not value or len(objects(value)) != len(value)
        ),
        f"{len(found)} answers have some",
    )


# ---------------------------------------------------------------- members of a card


@check("CH-94", "STR", "'uuid' is a UUID that no other card of the answer has")
def _uuid(run: Run) -> Found:
    ids = _having(run.cards, "uuid", "card")
    wrong = [f"{value!a} is no UUID" for value in ids if not is_uuid(value)]
    for asked in run.answers:
        numbers = Counter(str(card.get("uuid")) for card in objects(asked.answer.cards))
        wrong += [f"{n} cards of one answer have the same uuid" for n in numbers.values() if n > 1]
    return faults(wrong, f"{len(ids)} of {len(run.cards)} cards have one")


@check("CH-95", "SHALL", "'summary' is required, in fewer than 140 characters")
def _summary(run: Run) -> Found:
    longest, wrong = 0, []
    for card in run.cards:
        summary = card.get("summary")
        if not text(summary):
            wrong.append("a card has no summary")
            continue
        length = len(str(summary).encode("utf-16-le", "surrogatepass")) // 2
        longest = max(longest, length)
        if length >= _SUMMARY_LIMIT:
            wrong.append(f"a summary has {length} characters")
    return faults(wrong, f"{len(run.cards)} cards; the longest summary has {longest} characters")


@check("CH-96", "SHALL", "'detail' is GitHub Flavored Markdown")
def _detail(run: Run) -> Found:
    details = _having(run.cards, "detail", "card")
    return faults(
        (
            "a detail is no text" if not isinstance(detail, str)
            else "a detail has HTML that GFM disallows"
            for detail in details
            if not isinstance(detail, str) or _HTML.search(detail)
        ),
        f"{len(details)} of {len(run.cards)} cards have one",
    )  # fmt: skip


@check("CH-96.1", "LOCAL", "text of a patient's record is not shown as HTML")
def _injection(run: Run) -> Found:
    asked = run.with_prefetch
    prefetch = _marked(copy.deepcopy(asked.body.get("prefetch") or {}))
    answer = run.again(asked, prefetch=prefetch)
    if not answer.clean:
        return failed(f"names with HTML: {answer}")
    shown = [
        path
        for path, value in walk(answer.cards)
        if isinstance(value, str) and _INJECTED in _CODE.sub("", value) and ".resource" not in path
    ]
    return faults((f"{path} shows it" for path in shown), f"{len(answer.cards)} cards without it")


def _marked(value: Any) -> Any:
    """Put HTML into every text that a person reads."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name in ("display", "text", "family", "unit") and isinstance(part, str):
                value[name] = f"{part} {_INJECTED}"
            else:
                _marked(part)
    elif isinstance(value, list):
        for part in value:
            _marked(part)
    return value


@check("CH-97", "SHALL", "'indicator' is info, warning or critical")
def _indicator(run: Run) -> Found:
    counts = Counter(str(card.get("indicator")) for card in run.cards)
    return faults(
        (f"{value!a}" for value in counts if value not in _INDICATORS),
        ", ".join(f"{n} {value}" for value, n in counts.items()),
    )


@check("CH-98", "SHALL", "'source' is required")
def _source(run: Run) -> Found:
    return faults(
        ("a card has no source" for card in run.cards if not isinstance(card.get("source"), dict)),
        f"{len(run.cards)} cards",
    )


def _sources(run: Run) -> list[dict[str, Any]]:
    found = [card["source"] for card in run.cards if isinstance(card.get("source"), dict)]
    if not found:
        raise Skip("no card has a source")
    return found


@check("CH-99", "SHALL", "'source.label' is required")
def _label(run: Run) -> Found:
    sources = _sources(run)
    return faults(
        ("a source has no label" for source in sources if not text(source.get("label"))),
        ", ".join(sorted({str(source.get("label")) for source in sources})),
    )


@check("CH-100", "STR", "'source.url' is an absolute URL, and not about the patient")
def _url(run: Run) -> Found:
    urls = _having(_sources(run), "url", "source")
    return faults(
        (
            f"{url!a} is not absolute" if not _absolute(url) else "a URL names the patient"
            for url in urls
            # A shorter id may stand in any URL by chance.
            if not _absolute(url) or (len(run.patient) > 4 and run.patient in url)
        ),
        f"{len(urls)} URLs",
    )


@check("CH-101", "SHOULD", "'source.icon' is an absolute URL of a PNG of 100 x 100 without alpha")
def _icon(run: Run) -> Found:
    icons = sorted(map(str, _having(_sources(run), "icon", "source")))
    wrong = [f"{icon!a} is not absolute" for icon in icons if not _absolute(icon)]
    seen = f"{len(icons)} URLs"
    ours = urlsplit(run.client.base).netloc
    for icon in sorted({icon for icon in icons if _absolute(icon)}):
        if urlsplit(icon).netloc != ours:
            seen += "; images of other servers were not looked at"
            continue
        wrong += _image(run.client.request("GET", icon, token=None).content)
    return faults(wrong, seen)


def _image(content: bytes) -> Iterator[str]:
    if content[:8] != _PNG or len(content) < 26:
        yield "an icon is no PNG"
        return
    width, height, _, color = struct.unpack(">IIBB", content[16:26])
    if (width, height) != (100, 100):
        yield f"an icon has {width} x {height} pixels"
    if color in (4, 6) or b"tRNS" in content:
        yield "an icon is transparent"


@check("CH-102", "STR", "'source.topic' is a Coding with code and system")
def _topic(run: Run) -> Found:
    topics = _having(_sources(run), "topic", "source")
    return faults(
        (f"a topic {fault}" for topic in topics for fault in _coding(topic, "code", "system")),
        f"{len(topics)} topics",
    )


# ---------------------------------------------------------------- suggestions and actions


@check("CH-103", "SHALL", "suggestions come with a selectionBehavior: at-most-one or any")
def _selection(run: Run) -> Found:
    with_some = [card for card in run.cards if "suggestions" in card]
    if not with_some:
        return not_applicable("no card has suggestions")
    wrong = [
        f"selectionBehavior is {card.get('selectionBehavior')!a}"
        for card in with_some
        if card.get("selectionBehavior") not in ("at-most-one", "any")
    ]
    strange = [card for card in with_some if not objects(card["suggestions"])]
    wrong += ["'suggestions' is no array of objects"] if strange else []
    return faults(wrong, f"{len(with_some)} cards with suggestions")


@check("CH-104", "STR", "a suggestion has a label; its uuid is unique")
def _suggestion(run: Run) -> Found:
    wrong = ["a suggestion has no label" for each in run.suggestions if not text(each.get("label"))]
    ids = [each["uuid"] for each in run.suggestions if "uuid" in each]
    wrong += [f"{value!a} is no UUID" for value in ids if not is_uuid(value)]
    for asked in run.answers:
        numbers = Counter(
            str(suggestion["uuid"])
            for card in objects(asked.answer.cards)
            for suggestion in objects(card.get("suggestions"))
            if "uuid" in suggestion
        )
        wrong += [f"{n} suggestions have the same uuid" for n in numbers.values() if n > 1]
    return faults(wrong, f"{len(run.suggestions)} suggestions, {len(ids)} with uuid")


@check("CH-105", "SHALL", "isRecommended is a boolean; several only where any may be chosen")
def _recommended(run: Run) -> Found:
    values = _having(run.suggestions, "isRecommended", "suggestion")
    wrong = [f"isRecommended is {value!a}" for value in values if not isinstance(value, bool)]
    for card in run.cards:
        several = [s for s in objects(card.get("suggestions")) if s.get("isRecommended") is True]
        if len(several) > 1 and card.get("selectionBehavior") != "any":
            wrong.append(f"{len(several)} are recommended, but only one may be chosen")
    return faults(wrong, f"{len(values)} suggestions have it")


@check("CH-106", "SHALL", "'actions' of a suggestion is an array that is not empty")
def _actions(run: Run) -> Found:
    lists = _having(run.suggestions, "actions", "suggestion")
    return faults(
        ("'actions' is empty or no array of objects" for each in lists if not objects(each)),
        f"{len(lists)} suggestions have actions",
    )


@check("CH-107", "SHALL", "an action's type is create, update or delete")
def _type(run: Run) -> Found:
    counts = Counter(str(action.get("type")) for action in run.actions)
    return faults(
        (f"type is {value!a}" for value in counts if value not in ("create", "update", "delete")),
        ", ".join(f"{n} {value}" for value, n in counts.items()),
    )


@check("CH-108", "SHALL", "an action has a description")
def _described(run: Run) -> Found:
    return faults(
        ("an action has no description" for a in run.actions if not text(a.get("description"))),
        f"{len(run.actions)} actions",
    )


def _of_type(run: Run, kind: str) -> list[dict[str, Any]]:
    found = [action for action in run.actions if action.get("type") == kind]
    if not found:
        raise Skip(f"no action is of the type {kind}", applicable=False)
    return found


def _resource(action: dict[str, Any]) -> dict[str, Any] | None:
    resource = action.get("resource")
    good = isinstance(resource, dict) and text(resource.get("resourceType"))
    return resource if good else None


@check("CH-109", "SHALL", "create has a new resource, as an object")
def _create(run: Run) -> Found:
    actions = _of_type(run, "create")
    wrong = ["there is no resource that is an object" for a in actions if _resource(a) is None]
    for action in actions:
        resource = _resource(action) or {}
        subject = resource.get("subject")
        reference = subject.get("reference") if isinstance(subject, dict) else None
        if reference is not None and reference != f"Patient/{run.patient}":
            wrong.append("the resource is for another patient")
    return faults(wrong, f"{len(actions)} actions")


@check("CH-110", "SHALL", "update has the whole resource")
def _update(run: Run) -> Found:
    actions = _of_type(run, "update")
    return faults(
        (
            "there is no whole resource with its id"
            for action in actions
            if not text((_resource(action) or {}).get("id"))
        ),
        f"{len(actions)} actions",
    )


@check("CH-111", "SHOULD", "delete has a resourceId, and no resource")
def _delete(run: Run) -> Found:
    actions = _of_type(run, "delete")
    wrong = []
    for action in actions:
        reference = action.get("resourceId")
        if not isinstance(reference, str) or not _RELATIVE.fullmatch(reference):
            wrong.append("resourceId is no relative reference")
        if "resource" in action:
            wrong.append("there is a resource, which is deprecated")
    return faults(wrong, f"{len(actions)} actions")


@check("CH-112", "SHALL", "'overrideReasons' are Codings with code, system and display")
def _reasons(run: Run) -> Found:
    lists = _having(run.cards, "overrideReasons", "card")
    wrong = ["overrideReasons is no array" for each in lists if not isinstance(each, list)]
    reasons = [reason for each in lists for reason in items(each)]
    wrong += [f"a reason {f}" for r in reasons for f in _coding(r, "code", "system", "display")]
    return faults(wrong, f"{len(reasons)} reasons on {len(lists)} cards")


@check("CH-113", "SHALL", "a link has a label, a URL and the type absolute or smart")
def _link(run: Run) -> Found:
    wrong = []
    for link in run.links:
        if not text(link.get("label")):
            wrong.append("a link has no label")
        if not _absolute(link.get("url")):
            wrong.append("a link has no absolute URL")
        if link.get("type") not in ("absolute", "smart"):
            wrong.append(f"the type of a link is {link.get('type')!a}")
        elif link["type"] == "smart" and "launch=" in str(link.get("url")):
            wrong.append("a smart link has launch parameters")
    return faults(wrong, f"{len(run.links)} links")


@check("CH-114", "SHALL", "'appContext' is text, and on smart links only")
def _app_context(run: Run) -> Found:
    links = [link for link in run.links if "appContext" in link]
    if not links:
        return not_applicable("no link has an appContext")
    return faults(
        (
            "an appContext is no text" if not isinstance(link["appContext"], str)
            else "an absolute link has an appContext"
            for link in links
            if not isinstance(link["appContext"], str) or link.get("type") != "smart"
        ),
        f"{len(links)} links have one",
    )  # fmt: skip


@check("CH-117", "STR", "a Coding has code and system")
def _codings(run: Run) -> Found:
    codings = [
        coding
        for card in run.cards
        for coding in (
            *items(card.get("overrideReasons")),
            *([card["source"]["topic"]] if "topic" in (objects([card.get("source")]) or [{}])[0]
              else []),
        )
    ]  # fmt: skip
    if not codings:
        return not_applicable("no card has a Coding")
    return faults(
        (f"a Coding {fault}" for coding in codings for fault in _coding(coding, "code", "system")),
        f"{len(codings)} Codings",
    )


@check("CH-118", "LOCAL", "cards are in the order of their urgency, and always in the same")
def _order(run: Run) -> Found:
    wrong = []
    for asked in run.answers:
        ranks = [
            _INDICATORS.index(card["indicator"])
            for card in objects(asked.answer.cards)
            if card.get("indicator") in _INDICATORS
        ]
        if ranks != sorted(ranks):
            wrong.append(f"{asked.service}: the most urgent card is not first")
    again = run.again()
    if bare(again.cards) != bare(run.first.answer.cards):
        wrong.append("the same call gives other cards or another order")
    return faults(wrong, f"{len(run.answers)} answers")


# ---------------------------------------------------------------- extensions


def _extensions(run: Run) -> list[tuple[str, Any]]:
    """Return every extension of CDS Hooks itself; those of FHIR resources are another matter."""
    bodies = [run.discovery.value, *(asked.answer.value for asked in run.answers)]
    found = [
        (path, value)
        for body in bodies
        for path, value in walk(body)
        if path.rpartition(".")[2] == "extension" and ".resource." not in path
        and ".extension." not in path
    ]  # fmt: skip
    if not found:
        raise Skip("nothing has an extension", applicable=False)
    return found


@check("CH-150", "SHALL", "'extension' is a JSON object")
def _extension(run: Run) -> Found:
    found = _extensions(run)
    return faults(
        (f"{path} is no object" for path, value in found if not isinstance(value, dict)),
        f"{len(found)} extensions",
    )


@check("CH-151", "SHOULD", "names in an extension are unique in the world")
def _names(run: Run) -> Found:
    names = {name for _, value in _extensions(run) if isinstance(value, dict) for name in value}
    return faults(
        (f"{name!a} is no reverse-domain name" for name in names if not _unique(name)),
        ", ".join(sorted(names)),
    )


def _unique(name: str) -> bool:
    return bool(_REVERSE_DOMAIN.fullmatch(name)) or _absolute(name)


@check("CH-154", "LOCAL", "an auditor can see the version of the rules")
def _version(run: Run) -> Found:
    silent = [card for card in run.cards if not _told(card.get("extension"))]
    if silent:
        return failed(f"{len(silent)} of {len(run.cards)} cards tell no version or digest")
    return passed(_told(run.cards[0].get("extension")))


def _told(extension: Any) -> str:
    """Return the path of a version or digest; "" if there is none."""
    paths = (path for path, _ in walk(extension, "extension"))
    return next((path for path in paths if re.search("version|digest", path.lower())), "")
