"""What a prefetched value is: absent, empty, data, a part of the data, or a failure.

CDS Hooks 2.0, "Prefetch Template" and "Providing FHIR Resources to a CDS Service"; rows CH-40 to
CH-49. Decided here:

* A key that is absent is unknown, never "no data" (CH-43); null and a Bundle without entries are
  known to be empty (CH-44). A null `patient` is no patient: the required data is not there (412).
* An OperationOutcome, as the value or as an entry that says "error" or "fatal" or no severity,
  means that the client could not get the data; it is not asked for again (CH-45). One that only
  informs or warns is passed over.
* A Bundle with a ``next`` link, or with a `total` above the number of its entries, is incomplete
  (CH-46).
* The wrapper ``{"response": ..., "resource": ...}`` of before 1.0 is refused (CH-47).
* Resources of another patient than `context.patientId` are dropped and counted (CH-48). A
  reference to another server than `fhirServer` is to another patient: in doubt apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cds.service.outcomes import Refusal

__all__ = ["State", "Value", "classify", "entries_of", "is_of_another"]

State = Literal["absent", "empty", "data", "incomplete", "unavailable"]
"""absent: nobody said anything. unavailable: the client says that it could not get it."""

_HARMLESS: Final = frozenset({"information", "warning", "success"})


@dataclass(slots=True)
class Value:
    """One prefetched value: `entries` as in a Bundle, `next` the link to what follows them."""

    state: State
    entries: list[dict[str, Any]] = field(default_factory=list)
    next: str | None = None

    @property
    def complete(self) -> bool:
        """Whether what is there is all that there is."""
        return self.state in ("empty", "data")


def classify(prefetch: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Value]:
    """Return what came for each of the keys; other keys are ignored (CH-62).

    Raises: Refusal (400) for a value that is no FHIR resource, with its key.
    """
    found: dict[str, Value] = {}
    for key in keys:
        if key not in prefetch:
            found[key] = Value("absent")
            continue
        sent = prefetch[key]
        if sent is None:
            found[key] = Value("empty")
            continue
        kind = sent.get("resourceType") if isinstance(sent, dict) else None
        if not isinstance(kind, str):
            if isinstance(sent, dict) and "resource" in sent:
                why = "is wrapped as before CDS Hooks 1.0; send the resource itself"
            else:
                why = "must be a FHIR resource, a Bundle or null"
            raise Refusal(400, f"prefetch.{key}: {why}", word="malformed")
        if kind == "Bundle":
            found[key] = _bundle(sent, key)
        elif kind == "OperationOutcome":
            found[key] = Value("unavailable")
        else:
            found[key] = Value("data", [{"resource": sent}])
    return found


def entries_of(bundle: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """Return the entries of a Bundle. Raises: Refusal (400) where they are no list of objects."""
    entries = bundle.get("entry")
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise Refusal(400, f"{path}.entry: must be a list of objects", word="malformed")
    return entries


def _bundle(bundle: Mapping[str, Any], key: str) -> Value:
    kept: list[dict[str, Any]] = []
    failed = False
    included = 0
    for entry in entries_of(bundle, f"prefetch.{key}"):
        resource = entry.get("resource")
        search = entry.get("search")
        mode = search.get("mode") if isinstance(search, dict) else None
        if mode == "outcome" or (
            isinstance(resource, dict) and resource.get("resourceType") == "OperationOutcome"
        ):
            failed = failed or _says_failure(resource)
        elif resource is not None:
            kept.append(entry)
            included += mode == "include"
    following = _next(bundle)
    if failed:
        return Value("unavailable", kept)
    total = bundle.get("total")
    missing = type(total) is int and total > len(kept) - included
    if following is not None or missing:
        return Value("incomplete", kept, following)
    return Value("data" if kept else "empty", kept)


def _says_failure(outcome: object) -> bool:
    """Whether an OperationOutcome says more than a hint; what cannot be read does."""
    issues = outcome.get("issue") if isinstance(outcome, dict) else None
    if not isinstance(issues, list) or not issues:
        return True
    return not all(isinstance(i, dict) and i.get("severity") in _HARMLESS for i in issues)


def _next(bundle: Mapping[str, Any]) -> str | None:
    """Return the URL of what follows: "" where there is a link without one."""
    links = bundle.get("link")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("relation") == "next":
            url = link.get("url")
            return url if isinstance(url, str) else ""
    return None


def is_of_another(
    resource: Mapping[str, Any], patient: str, own: Collection[str], server: str | None
) -> bool:
    """Whether a resource says that it is of another patient than the one of the call.

    `patient` is the bare id, `own` the references that mean this patient. What says nothing, or
    needs the rest of the data to be understood (``urn:uuid:...``), is left to the reader.
    """
    if resource.get("resourceType") == "Patient":
        return resource.get("id") != patient
    subject = resource.get("subject")
    if subject is None:
        subject = resource.get("patient")
    reference = subject.get("reference") if type(subject) is dict else None
    if type(reference) is not str or reference in own:
        return False
    if reference.startswith(("urn:", "#")):
        return False
    base, _, name = reference.partition("/_history/")[0].rpartition("/Patient/")
    if not base:
        return reference.partition("/_history/")[0] != f"Patient/{patient}"
    return name != patient or (server is not None and base != server)
