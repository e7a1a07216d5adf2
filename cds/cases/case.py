"""One case: a patient with what must be found, as FHIR and as a CDS Hooks request."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from uuid import UUID, uuid5

from cds.cases.expect import Expect
from cds.facts import iso
from cds.forms import Form, Patient
from cds.terminology import Terminology

__all__ = ["BASE", "Case"]

Json = dict[str, Any]

BASE: Final = "https://example.org/fhir"
_NAMESPACE: Final = UUID("0f8f0d0c-6a55-4c47-9a39-0d5b1f3f8c55")
# The member of `prefetch` for each type; what no type stands for goes with what refers to it.
_PREFETCH: Final = {
    "Observation": "observations",
    "Condition": "conditions",
    "MedicationStatement": "medicationStatements",
    "MedicationRequest": "medicationRequests",
    "FamilyMemberHistory": "familyMemberHistories",
    "QuestionnaireResponse": "questionnaireResponses",
}
_INCLUDED: Final = {"Specimen": "Observation", "Medication": "MedicationRequest"}


@dataclass(frozen=True)
class Case:
    """One patient with what must be found.

    Args:
        name: a sentence that says what must hold; unique in its file.
        as_of: the instant of judgment in seconds since the epoch.
        forms: the lines of the short form.
        expect: what must come out.
        path: the file it stands in, at `line`.
        group: the rule group that it stands beside.
        files: entries of a Bundle, taken as they are from FHIR files.
        patient: reference of the patient that the files are of; "" where they name none.
        beside: findings that `tier` and `shows` do not speak of, unless `shows` names one.
    """

    name: str
    as_of: int
    forms: tuple[Form, ...]
    expect: Expect
    path: str
    line: int
    group: str = ""
    files: tuple[Json, ...] = ()
    patient: str = ""
    beside: tuple[str, ...] = ()

    @cached_property
    def slug(self) -> str:
        """The name as a file name and FHIR id: small letters, digits, hyphens, at most 60."""
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode()
        words = re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", plain.lower())
        return "-".join(words)[:60].strip("-.") or "case"

    def bundle(self, terminology: Terminology) -> Json:
        """Return the patient as a collection Bundle of FHIR R4B resources.

        A line `patient` takes the place of the Patient of a file. Without either the patient is
        50 years old; one of whom a file speaks has no known age then.

        Raises: ValueError where the terminology has no such name, code or unit.
        """
        subject = self.patient or f"Patient/{self.slug}"
        told = any(isinstance(form, Patient) for form in self.forms)
        entries = [e for e in self.files if not (told and _type(e) == "Patient")]
        forms = self.forms if told or self.files else (Patient(years=50), *self.forms)
        ids = [str(entry["resource"].get("id")) for entry in entries]
        prefix = "r"
        while any(id_.startswith(prefix) for id_ in ids):
            prefix += "r"
        base = next((_server(entry) for entry in entries if _server(entry)), BASE)
        made: dict[tuple[str, str], Json] = {}
        for number, form in enumerate(forms, start=1 + len(self.forms) - len(forms)):
            for resource in form.resources(terminology, self.as_of, f"{prefix}{number}", subject):
                key = resource["resourceType"], resource["id"]
                url = f"{base}/{key[0]}/{key[1]}"
                if key[0] == "Patient" and ":" in subject:
                    url = subject
                made.setdefault(key, {"fullUrl": url, "resource": resource})
        return {
            "resourceType": "Bundle",
            "type": "collection",
            "timestamp": iso(self.as_of),
            "entry": [*entries, *made.values()],
        }

    def hook_request(self, terminology: Terminology) -> Json:
        """Return the patient as a CDS Hooks 2.0 request of the hook patient-view.

        All that is known stands in the prefetch: the Patient as `patient`, and a searchset for
        each type that rules read, empty where the case has none.

        Raises: ValueError where the terminology has no such name, code or unit.
        """
        bundle = self.bundle(terminology)
        by_type: dict[str, list[Json]] = {name: [] for name in _PREFETCH}
        for entry in bundle["entry"]:
            kind = _type(entry)
            mode = "include" if kind in _INCLUDED else "match"
            found = {**entry, "search": {"mode": mode}}
            by_type.setdefault(_INCLUDED.get(kind, kind), []).append(found)
        patients = by_type.pop("Patient", [])
        reference = self.patient or f"Patient/{self.slug}"
        id_ = re.split("[/:]", reference)[-1]
        patient = patients[0]["resource"] if patients else {"resourceType": "Patient", "id": id_}
        prefetch: Json = {"patient": patient}
        for kind, entries in by_type.items():
            searchset = {
                "resourceType": "Bundle",
                "type": "searchset",
                "timestamp": bundle["timestamp"],
                "total": sum(entry["search"]["mode"] == "match" for entry in entries),
            }
            name = _PREFETCH.get(kind) or kind[0].lower() + kind[1:] + "s"
            prefetch[name] = {**searchset, "entry": entries} if entries else searchset
        return {
            "hook": "patient-view",
            "hookInstance": str(uuid5(_NAMESPACE, f"{self.group}/{self.name}")),
            "context": {"userId": "Practitioner/example", "patientId": patient.get("id", id_)},
            "prefetch": prefetch,
        }


def _type(entry: Json) -> str:
    return str(entry["resource"]["resourceType"])


def _server(entry: Json) -> str:
    """Return the server of an entry's full URL, "" where it has none."""
    match = re.fullmatch(r"(https?://.*)/[A-Z]\w+/[^/]+", str(entry.get("fullUrl")))
    return match[1] if match else ""
