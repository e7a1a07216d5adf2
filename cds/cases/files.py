"""FHIR files of a case: their resources, taken as they are, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cds.cases.case import BASE

__all__ = ["entries_in", "patient_of"]

Json = dict[str, Any]


def entries_in(data: object, name: str) -> list[Json]:
    """Return what a FHIR file holds as entries of a Bundle, each with a resource of some type.

    Bundles in a Bundle (the answer to a batch) are opened.

    Args:
        data: the JSON of a resource or Bundle.
        name: of the file, for messages.

    Raises: ValueError where something else stands there.
    """
    found: list[tuple[Json, str | None]] = []
    waiting: list[tuple[object, object, str]] = [(data, None, name)]
    while waiting:
        resource, url, where = waiting.pop()
        kind = resource.get("resourceType") if isinstance(resource, dict) else None
        if not isinstance(resource, dict) or not isinstance(kind, str) or not kind.isalpha():
            raise ValueError(f"{where} holds no FHIR resource")
        if url is not None and not (isinstance(url, str) and url):
            raise ValueError(f"{where}.fullUrl is not text")
        if kind != "Bundle":
            found.append((resource, url))
            continue
        entries = resource.get("entry", [])
        if not isinstance(entries, list):
            raise ValueError(f"{where}: Bundle.entry is not a list")
        for number, entry in reversed(list(enumerate(entries))):
            each = entry if isinstance(entry, dict) else {}
            waiting.append((each.get("resource"), each.get("fullUrl"), f"{where} entry[{number}]"))
    linked = any(url for _, url in found)
    return [_linked(resource, url, linked) for resource, url in found]


def _linked(resource: Json, url: str | None, linked: bool) -> Json:
    """Return an entry; where no entry of its file has a full URL, each gets one of our server."""
    if url is None and not linked and isinstance(resource.get("id"), str):
        url = f"{BASE}/{resource['resourceType']}/{resource['id']}"
    return {"resource": resource} if url is None else {"fullUrl": url, "resource": resource}


def patient_of(files: Sequence[Json]) -> str:
    """Return the reference of the one patient that FHIR files are of, "" where they name none.

    Raises: ValueError where there are several, or a Patient has no id.
    """
    own: set[str] = set()
    for entry in files:
        if entry["resource"]["resourceType"] == "Patient":
            id_ = entry["resource"].get("id")
            if "fullUrl" not in entry and not isinstance(id_, str):
                raise ValueError("the Patient of a file has no id; give it one")
            own.add(entry.get("fullUrl") or f"Patient/{id_}")
    if not own:
        for entry in files:
            for element in ("subject", "patient"):
                value = entry["resource"].get(element)
                if isinstance(value, dict) and isinstance(value.get("reference"), str):
                    own.add(value["reference"])
    if len(own) > 1:
        raise ValueError(
            "a case has one patient, its files have several: " + ", ".join(sorted(own))
        )
    return next(iter(own), "")
