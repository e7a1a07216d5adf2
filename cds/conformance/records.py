"""Requests for hooks: contexts of an invented patient, and prefetch as its templates ask for it.

The contexts are those of the hook definitions that were published with CDS Hooks 2.0 (rows CH-70
to CH-79). The patient stands in records.json; dates there count from today.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

__all__ = ["HOOKS", "PATIENT", "Hook", "Records", "expand", "is_search"]

PATIENT: Final = "cds-conformance"
_FILE: Final = Path(__file__).with_name("records.json")
_WHEN: Final = re.compile(r"@([+-]\d+)([dy])(T\S+)?")
_TOKEN: Final = re.compile(r"\{\{([^{}]*)\}\}")
_QUERY: Final = re.compile(r"([A-Z][A-Za-z]+)(?:/([^/?]+))?(?:\?(.*))?", re.DOTALL)
_SUBJECTS: Final = ("subject", "patient", "beneficiary", "for")
_DATES: Final = (
    "effectiveDateTime", "authoredOn", "onsetDateTime", "occurrenceDateTime", "performedDateTime",
    "recordedDate", "dateAsserted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hook:
    """A published hook: its row, the fields of its context, and which of them may be tokens."""

    row: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ("encounterId",)
    tokens: tuple[str, ...] = ("userId", "patientId", "encounterId")


HOOKS: Final = {
    "patient-view": Hook("CH-70", ("userId", "patientId")),
    "order-select": Hook("CH-71", ("userId", "patientId", "selections", "draftOrders")),
    "order-sign": Hook("CH-72", ("userId", "patientId", "draftOrders")),
    "encounter-start": Hook("CH-73", ("userId", "patientId", "encounterId"), ()),
    "encounter-discharge": Hook("CH-74", ("userId", "patientId", "encounterId"), ()),
    "problem-list-item-create": Hook("CH-75", ("userId", "patientId", "conditions")),
    "medication-refill": Hook("CH-76", ("patientId", "medications"), ("userId", "encounterId")),
    "allergyintolerance-create": Hook("CH-77", ("userId", "patientId", "allergyIntolerance")),
    "order-dispatch": Hook(
        "CH-78",
        ("patientId", "dispatchedOrders", "performer"),
        ("fulfillmentTasks",),
        ("patientId", "dispatchedOrders", "performer"),
    ),
    "appointment-book": Hook("CH-79", ("userId", "patientId", "appointments")),
}


def expand(template: str, context: Mapping[str, Any]) -> str:
    """Return the query of a template; a token without a value becomes nothing.

    Source: CDS Hooks 2.0, "Prefetch tokens"; collections become lists with commas.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        found: Any
        if name.startswith("context."):
            found = context.get(name.removeprefix("context."), "")
        else:
            kind, _, number = str(context.get("userId", "")).partition("/")
            found = number if name == f"user{kind}Id" else ""
        if isinstance(found, list):
            return ",".join(str(part) for part in found)
        return str(found)

    return _TOKEN.sub(value, template)


def is_search(template: str) -> bool:
    """Whether a template asks for a search, which is answered with a Bundle, not for one resource.

    Only then is "nothing was found" a possible answer.
    """
    return "?" in template


class Records:
    """The invented patient's record, as of a moment."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        read = json.loads(_FILE.read_text(encoding="utf-8"))
        self.resources: list[dict[str, Any]] = self._dated(read["resources"])
        self.drafts: dict[str, Any] = self._dated(read["drafts"])

    def _dated(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._dated(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self._dated(part) for part in value]
        if isinstance(value, str) and (match := _WHEN.fullmatch(value)):
            days = int(match[1]) * (365 if match[2] == "y" else 1)
            return f"{self._now + timedelta(days=days):%Y-%m-%d}{match[3] or ''}"
        return value

    # ------------------------------------------------------------ contexts

    @cached_property
    def _fields(self) -> dict[str, Any]:
        orders = self.drafts["orders"]
        medicines = [order for order in orders if order["resourceType"] == "MedicationRequest"]
        return {
            "userId": f"Practitioner/{PATIENT}",
            "patientId": PATIENT,
            "encounterId": PATIENT,
            "selections": [f"{order['resourceType']}/{order['id']}" for order in orders],
            "draftOrders": bundle(orders, "collection"),
            "conditions": bundle(self.drafts["conditions"], "collection"),
            "medications": bundle(medicines, "collection"),
            "allergyIntolerance": self.drafts["allergy"],
            "dispatchedOrders": ["ServiceRequest/open-order"],
            "performer": f"Practitioner/{PATIENT}",
            "fulfillmentTasks": self.drafts["tasks"],
            "appointments": bundle(self.drafts["appointments"], "collection"),
        }

    def context(self, hook: str, *, optional: bool = False) -> dict[str, Any] | None:
        """Return a valid context of a hook, with all or none of what is optional.

        None for a hook that we do not know.
        """
        known = HOOKS.get(hook)
        if known is None:
            return None
        names = known.required + (known.optional if optional else ())
        return {name: copy.deepcopy(self._fields[name]) for name in names}

    def prefetch(
        self, templates: Mapping[str, str], context: Mapping[str, Any]
    ) -> dict[str, dict[str, Any] | None]:
        """Return what a client would find for each template; None where it finds nothing."""
        return {
            key: copy.deepcopy(self.find(expand(template, context)))
            for key, template in templates.items()
        }

    # ------------------------------------------------------------ queries

    def find(self, query: str) -> dict[str, Any] | None:
        """Return the resource of a read, or the Bundle of a search; None for nothing."""
        match = _QUERY.fullmatch(query)
        if match is None:
            return None
        kind, number, search = match.groups()
        if number is not None:
            return next(
                (r for r in self.resources if (r["resourceType"], r["id"]) == (kind, number)), None
            )
        found = self.search(kind, search or "")
        return bundle(found, "searchset") if found else None

    def search(self, kind: str, query: str) -> list[dict[str, Any]]:
        """Return the resources that a search finds.

        Of the parameters those are heard that narrow by patient, id, code, category, status and
        date; what is not understood does not narrow.
        """
        of_kind = (r for r in self.resources if r["resourceType"] == kind)
        asked = parse_qsl(urlsplit(f"?{query}").query)
        return [r for r in of_kind if all(_matches(r, name, value) for name, value in asked)]


def bundle(resources: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return a Bundle of resources; a searchset says how many there are."""
    entries = [{"resource": resource} for resource in resources]
    if kind == "searchset":
        entries = [{**entry, "search": {"mode": "match"}} for entry in entries]
        return {"resourceType": "Bundle", "type": kind, "total": len(entries), "entry": entries}
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def _matches(resource: Mapping[str, Any], name: str, value: str) -> bool:
    name = name.partition(":")[0]
    if name in ("_id", "id"):
        return resource["id"] in value.split(",")
    if name in ("patient", "subject", "beneficiary"):
        subjects = {resource[member]["reference"] for member in _SUBJECTS if member in resource}
        wanted = {v if "/" in v else f"Patient/{v}" for v in value.split(",")}
        return not subjects or bool(subjects & wanted)
    if name == "status":
        return resource.get("status", value) in value.split(",")
    if name in ("code", "category"):
        concepts = resource.get(name) or resource.get("medicationCodeableConcept") or []
        has = set(_codes(concepts if isinstance(concepts, list) else [concepts]))
        return not has or bool(has & set(value.split(",")))
    if name in ("date", "authoredon", "effective") and value[:2] in ("ge", "gt", "le", "lt"):
        dates = [resource[member] for member in _DATES if member in resource]
        limit, after = value[2:12], value[0] == "g"
        return all(date[:10] >= limit if after else date[:10] <= limit for date in dates)
    return True


def _codes(concepts: list[Any]) -> Iterator[str]:
    for concept in concepts:
        for coding in concept.get("coding", ()):
            yield coding["code"]
            yield f"{coding['system']}|{coding['code']}"
