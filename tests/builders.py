"""Small FHIR R4 JSON builders for tests, and how a test reads an assessment.

Every builder gives a plain dict with what a sender usually sends; keyword arguments change one
thing. Nothing here knows what the software should conclude.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"
HPO = "http://human-phenotype-ontology.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
UCUM = "http://unitsofmeasure.org"

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
AS_OF = "2026-11-01T12:00:00Z"

# analyte: LOINC code and usual UCUM unit
LABS = {
    "potassium": ("2823-3", "mmol/L"),
    "magnesium": ("2601-3", "mmol/L"),
    "calcium": ("29265-6", "mmol/L"),  # adjusted by the laboratory
    "calcium-total": ("2000-8", "mmol/L"),
    "calcium-ionized": ("1995-0", "mmol/L"),
    "albumin": ("1751-7", "g/L"),
    "sodium": ("2951-2", "mmol/L"),
    "phosphate": ("14879-1", "mmol/L"),
    "creatinine": ("14682-9", "umol/L"),
    "egfr": ("98979-8", "mL/min/{1.73_m2}"),
    "qtc": ("76634-5", "ms"),
    "creatine-kinase": ("2157-6", "U/L"),
    "glucose": ("14749-6", "mmol/L"),
    "bicarbonate": ("1963-8", "mmol/L"),
    "tsh": ("3016-3", "m[IU]/L"),
    "vitamin-d": ("68438-1", "nmol/L"),
    "vitamin-b12": ("2132-9", "ng/L"),
    "ferritin": ("2276-4", "ug/L"),
    "heart-rate": ("8867-4", "/min"),
    "respiratory-rate": ("9279-1", "/min"),
}

# sign, symptom or diagnosis: code system and code
SIGNS = {
    "twitching": (SNOMED, "82470000"),
    "cramp": (SNOMED, "55300003"),
    "tremor": (SNOMED, "26079004"),
    "weakness": (SNOMED, "26544005"),
    "paresthesia": (SNOMED, "91019004"),
    "circumoral-paresthesia": (SNOMED, "1141007"),
    "tetany": (ICD10, "R29.0"),
    "seizure": (SNOMED, "91175000"),
    "laryngospasm": (ICD10, "J38.5"),
    "chvostek": (SNOMED, "124745005"),
    "trousseau": (SNOMED, "124746006"),
    "palpitations": (SNOMED, "80313002"),
    "syncope": (SNOMED, "271594007"),
    "prolonged-qt": (SNOMED, "111975006"),
    "confusion": (SNOMED, "286933003"),
    "reduced-consciousness": (SNOMED, "419284004"),
    "acute-kidney-injury": (SNOMED, "14669001"),
    "dark-urine": (HPO, "HP:0040319"),
    "myoglobinuria": (SNOMED, "48165008"),
    "eating-disorder": (SNOMED, "72366004"),
    "alcohol-dependence": (SNOMED, "66590003"),
    "numbness": (SNOMED, "44077006"),
    "gait-change": (SNOMED, "22325002"),
    "memory-change": (SNOMED, "386807006"),
    "pregnancy": (SNOMED, "77386006"),
    "headache": (SNOMED, "25064002"),
}


def ago(*, days: float = 0, hours: float = 0, seconds: float = 0) -> str:
    """The instant that long before `NOW`, as FHIR dateTime; negative is after it."""
    when = NOW - timedelta(days=days, hours=hours, seconds=seconds)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: object) -> int | float:
    """A JSON number with the very digits of `value` ("2.50" is 2.5)."""
    exact = Decimal(str(value))
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def patient(id: str = "p1", *, birth: str | None = "1970-05-01", gender: str = "female") -> Json:
    resource = {"resourceType": "Patient", "id": id, "gender": gender}
    return resource if birth is None else {**resource, "birthDate": birth}


def quantity(value: object, unit: str, *, comparator: str | None = None) -> Json:
    result = {"value": number(value), "unit": unit, "system": UCUM, "code": unit}
    return result if comparator is None else {**result, "comparator": comparator}


def lab(
    analyte: str,
    value: object,
    unit: str | None = None,
    *,
    id: str | None = None,
    code: str | None = None,
    when: str | None = ago(days=1),
    subject: str = "p1",
    comparator: str | None = None,
    low: object = None,
    high: object = None,
    flag: str | None = None,
    status: str = "final",
    **more: Any,
) -> Json:
    """One laboratory Observation; `low` and `high` are the laboratory's own limits."""
    usual_code, usual_unit = LABS[analyte]
    unit = unit or usual_unit
    resource: Json = {
        "resourceType": "Observation",
        "id": id or analyte,
        "status": status,
        "code": {"coding": [{"system": LOINC, "code": code or usual_code}]},
        "subject": {"reference": f"Patient/{subject}"},
        "valueQuantity": quantity(value, unit, comparator=comparator),
    }
    if when is not None:
        resource["effectiveDateTime"] = when
    limits = {"low": low, "high": high}
    sent = {side: quantity(v, unit) for side, v in limits.items() if v is not None}
    if sent:
        resource["referenceRange"] = [sent]
    if flag is not None:
        system = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
        resource["interpretation"] = [{"coding": [{"system": system, "code": flag}]}]
    return {**resource, **more}


def _status(kind: str, code: str) -> Json:
    return {"coding": [{"system": f"http://terminology.hl7.org/CodeSystem/{kind}", "code": code}]}


def condition(
    sign: str,
    *,
    id: str | None = None,
    clinical: str | None = "active",
    verification: str | None = "confirmed",
    onset: str | None = ago(days=2),
    subject: str = "p1",
) -> Json:
    """One coded Condition, by default begun two days ago."""
    system, code = SIGNS[sign]
    resource: Json = {
        "resourceType": "Condition",
        "id": id or sign,
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": f"Patient/{subject}"},
    }
    if clinical is not None:
        resource["clinicalStatus"] = _status("condition-clinical", clinical)
    if verification is not None:
        resource["verificationStatus"] = _status("condition-ver-status", verification)
    if onset is not None:
        resource["onsetDateTime"] = onset
    return resource


def symptom(
    sign: str,
    *,
    id: str | None = None,
    present: bool = True,
    when: str | None = ago(days=2),
    status: str = "final",
    subject: str = "p1",
) -> Json:
    """One Observation of a symptom."""
    system, code = SIGNS[sign]
    resource: Json = {
        "resourceType": "Observation",
        "id": id or f"seen-{sign}",
        "status": status,
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": f"Patient/{subject}"},
        "valueBoolean": present,
    }
    return resource if when is None else {**resource, "effectiveDateTime": when}


def statement(
    rxcui: str, *, id: str = "medicine", since: str | None = ago(days=100), subject: str = "p1"
) -> Json:
    """One MedicationStatement of an RxNorm product or ingredient that is being taken."""
    resource: Json = {
        "resourceType": "MedicationStatement",
        "id": id,
        "status": "active",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": rxcui}]},
        "subject": {"reference": f"Patient/{subject}"},
    }
    return resource if since is None else {**resource, "effectivePeriod": {"start": since}}


def specimen(id: str, condition: str | None = None, *, subject: str = "p1") -> Json:
    """One Specimen, with a code of HL7 v2 table 0493 ("HEM") as its condition."""
    resource: Json = {
        "resourceType": "Specimen",
        "id": id,
        "subject": {"reference": f"Patient/{subject}"},
    }
    if condition is not None:
        system = "http://terminology.hl7.org/CodeSystem/v2-0493"
        resource["condition"] = [{"coding": [{"system": system, "code": condition}]}]
    return resource


def bundle(*resources: Json) -> Json:
    """A collection Bundle of these resources."""
    entries = [{"resource": r} for r in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


# ------------------------------------------------------------ reading an assessment

TIERS = (None, "info", "routine", "soon", "urgent", "emergency")

_CONCEPTS = {
    "calcium": {"calcium", "calcium-adjusted", "calcium-total"},
    "creatine-kinase": {"creatine-kinase", "creatine-kinase-ratio"},
}


def rank(tier: str | None) -> int:
    """How urgent: 0 for no finding, then info to emergency."""
    return TIERS.index(tier)


def highest(tiers: Iterable[str | None]) -> str | None:
    return max(tiers, key=rank, default=None)


def about(assessment: Json, analyte: str) -> list[Json]:
    """The findings that rest on a result of the analyte."""
    concepts = _CONCEPTS.get(analyte, {analyte})
    return [
        finding
        for finding in assessment["findings"]
        if finding["group"] == "electrolyte"
        and any(
            b["kind"] in ("lab", "trend") and b["concept"] in concepts for b in finding["because"]
        )
    ]


def tier_about(assessment: Json, analyte: str) -> str | None:
    """The highest tier of the findings that rest on a result of the analyte."""
    return highest(f["tier"] for f in about(assessment, analyte))


def card_text(assessment: Json) -> str:
    """Everything that the cards say, as one text."""
    parts: list[str] = []
    for card in assessment["cards"]:
        parts += [card["summary"], card.get("detail", "")]
        parts += [suggestion["label"] for suggestion in card.get("suggestions", ())]
    return "\n".join(parts)


def problem_codes(assessment: Json, resource: str) -> set[str]:
    return {p["code"] for p in assessment["problems"] if p["resource"] == resource}


def reasons(assessment: Json) -> set[str]:
    return {n["reason"] for n in assessment["not_evaluated"]}
