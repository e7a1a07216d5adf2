"""What every CDS Hooks 2.0 card has to satisfy, checked by our own hand.

Numbers are those of our checklist of CDS Hooks 2.0, "CDS Service Response": CH-03 to CH-05
(JSON), CH-94 to CH-118 (cards), CH-150 and CH-151 (extensions). Nothing here knows how cards are
made. Needs markdown-it-py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["INDICATORS", "check_card", "check_cards", "shown", "tokens"]

INDICATORS = ("critical", "warning", "info")

_MEMBERS = {
    "card": {
        "uuid", "summary", "detail", "indicator", "source", "suggestions", "selectionBehavior",
        "overrideReasons", "links", "extension",
    },
    "source": {"label", "url", "icon", "topic"},
    "suggestion": {"label", "uuid", "isRecommended", "actions"},
    "action": {"type", "description", "resource", "resourceId"},
    "link": {"label", "url", "type", "appContext"},
    "coding": {"code", "system", "display"},
}  # fmt: skip

# GitHub Flavored Markdown as clients render it, raw HTML allowed: the worst case.
_GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def tokens(markdown: str) -> list[Token]:
    """All tokens of a text, those inside paragraphs too."""
    return [t for block in _GFM.parse(markdown) for t in (block, *(block.children or ()))]


def shown(markdown: str) -> str:
    """The plain text that a reader sees, one line for each block."""
    lines = []
    for block in _GFM.parse(markdown):
        if block.type == "inline":
            parts = [
                "\n" if t.type in ("softbreak", "hardbreak") else t.content
                for t in block.children or ()
            ]
            lines.append("".join(parts))
        elif block.type in ("code_block", "fence", "html_block"):
            lines.append(block.content)
    return "\n".join(lines)


def check_card(card: Any, *, patient: str | None = None) -> list[str]:
    """Every fault of one card; `patient` is whom its orders must be for."""
    if not isinstance(card, dict):
        return ["a card is an object"]
    return [
        *_json(card),
        *_members("card", card),
        *_uuid(card, "card"),
        *_summary(card.get("summary")),
        *_detail(card.get("detail")),
        *_unless("CH-97 indicator", card.get("indicator") in INDICATORS),
        *_source(card.get("source")),
        *_suggestions(card, patient),
        *(f for c in card.get("overrideReasons", ()) for f in _coding(c, "CH-112 reason", True)),
        *(fault for link in card.get("links", ()) for fault in _link(link)),
        *_extension(card),
    ]


def check_cards(cards: list[Any], *, patient: str | None = None) -> list[str]:
    """Every fault of the cards of one response, alone and together."""
    faults = [f"card {n}: {f}" for n, c in enumerate(cards) for f in check_card(c, patient=patient)]
    if faults:
        return faults
    ranks = [INDICATORS.index(card["indicator"]) for card in cards]
    ids = [c["uuid"] for c in cards]
    ids += [s["uuid"] for c in cards for s in c.get("suggestions", ())]
    return [
        *_unless("CH-118 order: most urgent first", ranks == sorted(ranks)),
        *_unless("CH-94 uuids are unique", len(ids) == len(set(ids))),
    ]


def _unless(fault: str, holds: bool) -> list[str]:
    return [] if holds else [fault]


def _json(card: Any) -> Iterator[str]:
    try:
        again = json.loads(json.dumps(card, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        yield f"CH-01 not JSON: {error}"
        return
    yield from _unless("CH-01 changes on its way through JSON", again == card)
    for path, value in _walk(card, ""):
        if value is None:
            yield f"CH-03 null at {path}"
        elif value in ("", [], {}) and not isinstance(value, bool | int | float):
            yield f"CH-04 empty at {path}"
        elif isinstance(value, str) and not value.strip():
            yield f"CH-04 blank at {path}"


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, value
    children = (
        value.items() if isinstance(value, dict) else enumerate(value)
        if isinstance(value, list) else ()
    )  # fmt: skip
    for key, child in children:
        yield from _walk(child, f"{path}/{key}")


def _members(kind: str, value: dict[str, Any]) -> list[str]:
    # CH-115 and CH-116: members of later versions never appear.
    unknown = sorted(value.keys() - _MEMBERS[kind])
    return [f"{kind} has unknown members {unknown}"] if unknown else []


def _uuid(owner: dict[str, Any], what: str) -> list[str]:
    try:
        return _unless(f"CH-94 {what}.uuid", str(UUID(owner["uuid"])) == owner["uuid"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return [f"CH-94 {what}.uuid is not a UUID"]


def _summary(summary: Any) -> Iterator[str]:
    if not isinstance(summary, str):
        yield "CH-95 summary is required"
        return
    yield from _unless("CH-95 summary: code points < 140", len(summary) < 140)
    units = len(summary.encode("utf-16-le", "surrogatepass")) // 2
    yield from _unless("CH-95 summary: UTF-16 units < 140", units < 140)
    yield from _unless("CH-95 summary is one line", summary.isprintable())


def _detail(detail: Any) -> Iterator[str]:
    if detail is None:
        return
    if not isinstance(detail, str):
        yield "CH-96 detail is text"
        return
    for token in tokens(detail):
        if token.type in ("html_block", "html_inline"):
            yield "CH-96 detail has raw HTML"
        elif token.type == "image":
            yield "CH-96 detail loads an image"
        elif token.type == "link_open":
            yield from _https(token.attrs.get("href"), "CH-144 link in detail")


def _https(url: Any, what: str) -> list[str]:
    if not isinstance(url, str) or re.search(r"[\s<>\"]", url):
        return [f"{what}: no URL"]
    parts = urlsplit(url)
    return _unless(f"{what}: absolute https", parts.scheme == "https" and bool(parts.hostname))


def _source(source: Any) -> Iterator[str]:
    if not isinstance(source, dict):
        yield "CH-98 source is required"
        return
    yield from _members("source", source)
    yield from _unless("CH-99 source.label", isinstance(source.get("label"), str))
    for member in ("url", "icon"):
        if member in source:
            yield from _https(source[member], f"CH-100 source.{member}")
    if "topic" in source:
        yield from _coding(source["topic"], "CH-102 source.topic", False)


def _suggestions(card: dict[str, Any], patient: str | None) -> Iterator[str]:
    suggestions = card.get("suggestions", [])
    if not suggestions:
        yield from _unless("CH-103 no suggestions", "selectionBehavior" not in card)
        return
    behavior = card.get("selectionBehavior")
    yield from _unless("CH-103 selectionBehavior", behavior in ("at-most-one", "any"))
    recommended = [s for s in suggestions if s.get("isRecommended")]
    yield from _unless("CH-105 recommended", behavior == "any" or len(recommended) <= 1)
    for suggestion in suggestions:
        yield from _members("suggestion", suggestion)
        yield from _uuid(suggestion, "suggestion")
        yield from _unless("CH-104 suggestion.label", isinstance(suggestion.get("label"), str))
        yield from _unless("CH-106 actions", bool(suggestion.get("actions")))
        for action in suggestion.get("actions", ()):
            yield from _action(action, patient)


def _action(action: dict[str, Any], patient: str | None) -> Iterator[str]:
    yield from _members("action", action)
    yield from _unless("CH-107 action.type is create", action.get("type") == "create")
    yield from _unless("CH-108 action.description", isinstance(action.get("description"), str))
    resource = action.get("resource")
    if not isinstance(resource, dict):
        yield "CH-109 resource is an object"
        return
    yield from _unless("CH-109 no id", not {"id", "meta", "identifier"} & resource.keys())
    yield from _unless("CH-109 type", resource.get("resourceType") == "ServiceRequest")
    drafts = (resource.get("status"), resource.get("intent"))
    yield from _unless("CH-109 draft proposal", drafts == ("draft", "proposal"))
    subject = resource.get("subject", {}).get("reference")
    yield from _unless("CH-109 subject", subject == patient if patient else bool(subject))


def _coding(coding: Any, what: str, display: bool) -> Iterator[str]:
    if not isinstance(coding, dict):
        yield f"{what} is an object"
        return
    yield from _members("coding", coding)
    for member in ("code", "system", *(("display",) if display else ())):
        yield from _unless(f"CH-117 {what}.{member}", isinstance(coding.get(member), str))


def _link(link: Any) -> Iterator[str]:
    yield from _members("link", link)
    yield from _unless("CH-113 link.label", isinstance(link.get("label"), str))
    yield from _unless("CH-113 link.type", link.get("type") in ("absolute", "smart"))
    yield from _https(link.get("url"), "CH-113 link.url")
    if link.get("type") == "absolute":
        yield from _unless("CH-114 appContext", "appContext" not in link)


def _extension(card: dict[str, Any]) -> Iterator[str]:
    if "extension" not in card:
        return
    if not isinstance(card["extension"], dict):
        yield "CH-150 extension is an object"
        return
    for name in card["extension"]:
        yield from _unless(
            f"CH-151 name {name}", bool(re.fullmatch(r"[a-z]+(\.[a-z0-9-]+)+", name))
        )
