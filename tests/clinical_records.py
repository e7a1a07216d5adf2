"""The ordinary part of a medical record: years of visits that have nothing to do with twitching.

`background` gives what surrounds a complaint in real life: check-ups, vaccines, vital signs,
panels of normal results (and old abnormal ones that settled), chronic illness with the medicines
that fit it, colds that passed, family history, survey answers, reports and care plans. The same
profile, size and name give the same record on every run.

By itself it asks for nothing: no symptom of the last 300 days is in it, no result of the last
two years is abnormal beyond what its chronic illness explains, and in the last 300 days no
medicine was begun or stopped (lasting ones are prescribed anew each year). What it may still
bring about, beside a complaint, is stated for each profile in `PROFILES` and is never more than
`routine`.

Codes of observations, vaccines, visits and illness are as Synthea or the value sets of the rules
write them, those of products as RxNorm does. Nothing here knows what the software should conclude.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from builders import LOINC, RXNORM, SNOMED, Json, ago, quantity

__all__ = ["PROFILES", "Profile", "background"]

CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
CVX = "http://hl7.org/fhir/sid/cvx"

# Conditions, by their words.
SNOMED_OF = {
    "Hypertension": "38341003",
    "Type 2 diabetes mellitus": "44054006",
    "Idiopathic atrophic hypothyroidism": "83664006",
    "Chronic congestive heart failure": "88805009",
    "Osteoarthritis of hip": "239872002",
    "Osteoporosis": "64859006",
    "Coronary Heart Disease": "53741008",
    "Body mass index 30+ - obesity": "162864005",
    "Polyp of colon": "68496003",
    "Chronic sinusitis": "40055000",
    "End stage renal disease": "46177005",
    "Acute bronchitis": "10509002",
    "Viral sinusitis": "444814009",
    "Otitis media": "65363002",
    "Streptococcal sore throat": "43878008",
    "Acute viral pharyngitis": "195662009",
    "Laceration of foot": "284551006",
}

# Products, by their words; of the last four no code was seen, so they are sent as text alone.
RXNORM_OF = {
    "lisinopril 5 MG Oral Tablet": "311354",
    "losartan potassium 50 MG Oral Tablet": "979492",
    "atorvastatin 20 MG Oral Tablet": "617310",
    "rosuvastatin calcium 10 MG Oral Tablet": "859747",
    "levothyroxine sodium 0.1 MG Oral Tablet": "892246",
    "empagliflozin 10 MG Oral Tablet": "1545658",
    "insulin glargine 100 UNT/ML Injectable Solution": "311041",
    "Calcium Carbonate 500 MG Chewable Tablet": "308907",
    "Cholecalciferol 400 UNT Oral Tablet": "309263",
    "Sumatriptan 50 MG Oral Tablet": "313161",
    "ibuprofen 400 MG Oral Tablet": "197805",
    "Naproxen 500 MG Oral Tablet": "198014",
    "clarithromycin 500 MG Oral Tablet": "197517",
    "ciprofloxacin 250 MG Oral Tablet": "197511",
    "Prednisone 10 MG Oral Tablet": "198145",
    "Omeprazole 20 MG Delayed Release Oral Capsule": "198051",
    "tramadol hydrochloride 50 MG Oral Tablet": "835603",
    "Lorazepam 1 MG Oral Tablet": "197901",
    "metformin hydrochloride 500 mg tablet": "",
    "amlodipine 5 mg tablet": "",
    "acetaminophen 500 mg tablet, as needed": "",
    "amoxicillin 500 mg capsule": "",
}


@dataclass(frozen=True)
class Profile:
    """What a person lives with, and what is measured in them.

    Args:
        chronic: lasting conditions.
        medicines: taken for years.
        results: mean results that differ from those of a healthy person, by LOINC code.
        panels: whether blood is taken at visits.
        by_products: findings that it may add to those of a complaint; for readers.
    """

    chronic: tuple[str, ...] = ()
    medicines: tuple[str, ...] = ()
    results: tuple[tuple[str, float], ...] = ()
    panels: bool = True
    by_products: str = "tests that are missing, at most routine"


PROFILES = {
    "healthy": Profile(),
    "never tested": Profile(panels=False),
    "child": Profile(panels=False),
    "hypertension": Profile(
        ("Hypertension",),
        ("losartan potassium 50 MG Oral Tablet", "amlodipine 5 mg tablet"),
        by_products="the routine check of blood pressure medicines beside twitching",
    ),
    "diabetes and hypertension": Profile(
        ("Type 2 diabetes mellitus", "Hypertension", "Body mass index 30+ - obesity"),
        (
            "metformin hydrochloride 500 mg tablet",
            "lisinopril 5 MG Oral Tablet",
            "atorvastatin 20 MG Oral Tablet",
        ),
        (("4548-4", 6.9), ("2339-0", 140.0)),
        by_products="routine: a statin beside cramps or muscle pain, blood pressure medicines",
    ),
    "older adult": Profile(
        ("Osteoarthritis of hip", "Osteoporosis", "Polyp of colon"),
        ("acetaminophen 500 mg tablet, as needed", "Calcium Carbonate 500 MG Chewable Tablet"),
    ),
    "heart disease": Profile(
        ("Coronary Heart Disease", "Hypertension"),
        ("rosuvastatin calcium 10 MG Oral Tablet", "amlodipine 5 mg tablet"),
        by_products="routine: a statin beside cramps or muscle pain",
    ),
    "hypothyroidism": Profile(
        ("Idiopathic atrophic hypothyroidism",),
        ("levothyroxine sodium 0.1 MG Oral Tablet",),
    ),
    "kidney failure": Profile(
        ("End stage renal disease", "Hypertension"),
        ("amlodipine 5 mg tablet", "Calcium Carbonate 500 MG Chewable Tablet"),
        (("33914-3", 8.0), ("38483-4", 6.8), ("6299-2", 58.0), ("718-7", 10.9), ("6298-4", 4.9)),
        by_products="routine: the low eGFR; tests that are missing",
    ),
}

# LOINC code, name, unit, mean and spread of a healthy person, decimals.
BASIC = (
    ("2339-0", "Glucose", "mg/dL", 88.0, 6.0, 0),
    ("6299-2", "Urea Nitrogen", "mg/dL", 14.0, 3.0, 0),
    ("38483-4", "Creatinine", "mg/dL", 0.9, 0.05, 2),
    ("49765-1", "Calcium", "mg/dL", 9.5, 0.15, 1),
    ("2947-0", "Sodium", "mmol/L", 140.0, 1.2, 0),
    ("6298-4", "Potassium", "mmol/L", 4.3, 0.2, 1),
    ("2069-3", "Chloride", "mmol/L", 103.0, 1.5, 0),
    ("20565-8", "Carbon Dioxide", "mmol/L", 25.0, 1.0, 0),
    ("33914-3", "Estimated Glomerular Filtration Rate", "mL/min/{1.73_m2}", 88.0, 2.0, 0),
)
COUNT = (
    ("6690-2", "Leukocytes", "10*3/uL", 6.8, 0.8, 1),
    ("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 14.1, 0.4, 1),
    ("787-2", "MCV [Entitic volume] by Automated count", "fL", 89.0, 2.0, 0),
    ("777-3", "Platelets", "10*3/uL", 245.0, 25.0, 0),
)
LIPIDS = (
    ("2093-3", "Total Cholesterol", "mg/dL", 182.0, 12.0, 0),
    ("2571-8", "Triglycerides", "mg/dL", 120.0, 15.0, 0),
    ("18262-6", "Low Density Lipoprotein Cholesterol", "mg/dL", 105.0, 10.0, 0),
    ("2085-9", "High Density Lipoprotein Cholesterol", "mg/dL", 54.0, 4.0, 0),
)
SUGAR = (("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%", 5.4, 0.1, 1),)
PANELS = (
    ("51990-0", "Basic Metabolic Panel", BASIC),
    ("58410-2", "Complete blood count (hemogram) panel", COUNT),
    ("57698-3", "Lipid Panel", LIPIDS),
    ("4548-4", "Hemoglobin A1c", SUGAR),
)
VITALS = (
    ("29463-7", "Body Weight", "kg", 76.0, 1.0, 1),
    ("8302-2", "Body Height", "cm", 171.0, 0.0, 0),
    ("8867-4", "Heart rate", "/min", 72.0, 3.0, 0),
    ("9279-1", "Respiratory rate", "/min", 14.0, 1.0, 0),
    ("8331-1", "Oral temperature", "Cel", 36.8, 0.1, 1),
)
# What was abnormal once, long ago, and settled: code and value.
ONCE = (("6298-4", 2.9), ("2947-0", 128.0), ("49765-1", 8.1), ("38483-4", 1.4), ("2339-0", 61.0))
EPISODES = (
    ("Viral sinusitis", "amoxicillin 500 mg capsule"),
    ("Acute bronchitis", "clarithromycin 500 MG Oral Tablet"),
    ("Acute viral pharyngitis", "ibuprofen 400 MG Oral Tablet"),
    ("Laceration of foot", "tramadol hydrochloride 50 MG Oral Tablet"),
    ("Streptococcal sore throat", "Prednisone 10 MG Oral Tablet"),
    ("Otitis media", "ciprofloxacin 250 MG Oral Tablet"),
    ("Viral sinusitis", "Omeprazole 20 MG Delayed Release Oral Capsule"),
    ("Acute bronchitis", "Lorazepam 1 MG Oral Tablet"),
    ("Acute viral pharyngitis", "Naproxen 500 MG Oral Tablet"),
)
SETTLED = 730  # days: no result since then is abnormal


def background(
    profile: str,
    resources: int,
    subject: str,
    *,
    name: str = "",
    newest: int = 40,
    years: int = 50,
) -> list[Json]:
    """The ordinary record around a complaint.

    Args:
        profile: a key of `PROFILES`.
        resources: how many.
        subject: reference of the patient.
        name: makes the record of one patient another than that of the next.
        newest: days since the last visit.
        years: the age of the patient; nothing is older.
    """
    draw = random.Random(f"{profile}/{resources}/{name}")  # noqa: S311 - the same on every run
    record = _record(PROFILES[profile], draw, newest, years)
    made = [
        {**resource, "id": f"bg-{number}", _owner(resource): {"reference": subject}}
        for number, resource in zip(range(resources), record, strict=False)
    ]
    if len(made) < resources:
        raise ValueError(f"a life of {years} years has only {len(made)} resources")
    return made


def _owner(resource: Json) -> str:
    patient = resource["resourceType"] in ("Immunization", "FamilyMemberHistory")
    return "patient" if patient else "subject"


def _record(profile: Profile, draw: random.Random, newest: int, years: int) -> Iterator[Json]:
    """Yield a life from its newest visit backward; each part is complete before the next."""
    life = years * 365 - 30
    for name in profile.chronic:
        yield _condition(name, min(draw.randint(1500, 4000), life))
    yield from _family(draw)
    if profile.chronic:
        yield _care_plan(profile.chronic[0], min(1200, life))
    episodes = iter(EPISODES)
    for visit in count():
        days = newest + visit * 180 + (draw.randint(0, 30) if visit else 0)
        if days > life:
            return
        yield from _visit(profile, draw, days, visit)
        if visit and visit % 2 == 0:
            if (episode := next(episodes, None)) is not None:
                yield from _episode(*episode, days - 20)
            for name in profile.medicines:
                yield _renewal(name, days, 365, "completed")
        if visit == 0:
            for name in profile.medicines:
                yield _renewal(name, newest, 365, "active")
                yield _renewal(name, newest + 365, 365, "completed")


def _visit(profile: Profile, draw: random.Random, days: int, number: int) -> Iterator[Json]:
    yield {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "type": [_coded(SNOMED, "185349003", "Encounter for check up (procedure)")],
        "period": {"start": ago(days=days), "end": ago(days=days, hours=-1)},
    }
    yield _pressure(draw, days)
    for row in VITALS:
        yield _measured(row, draw, days, {}, "vital-signs")
    yield _answer(
        "72166-2", "Tobacco smoking status NHIS", "266919005", "Never smoked tobacco", days
    )
    yield {
        **_observation("72514-3", "Pain severity - 0-10 verbal numeric rating", days, "survey"),
        "valueQuantity": quantity(draw.randint(0, 2), "{score}"),
    }
    if profile.panels:
        means = dict(profile.results)
        if days > SETTLED and number % 3 == 0:
            means.update([ONCE[number // 3 % len(ONCE)]])
        for code, title, rows in PANELS:
            results = [_measured(row, draw, days, means, "laboratory") for row in rows]
            yield from results
            yield _report(code, title, days)
    if number % 2 == 0:
        yield {
            "resourceType": "Immunization",
            "status": "completed",
            "vaccineCode": _coded(CVX, "140", "Influenza, seasonal, injectable"),
            "occurrenceDateTime": ago(days=days),
        }


def _episode(condition: str, medicine: str, days: int) -> Iterator[Json]:
    """Yield an illness that passed, a symptom of that time, and the course that treated it."""
    yield {
        **_condition(condition, days, clinical="resolved"),
        "abatementDateTime": ago(days=days - 14),
    }
    yield {
        **_observation("", "", days, "exam"),
        "code": _coded(SNOMED, "25064002", "Headache"),
        "valueBoolean": True,
    }
    yield _renewal(medicine, days, 7, "completed")


def _renewal(name: str, days: int, length: int, status: str) -> Json:
    """One prescription; a lasting medicine is prescribed anew each year."""
    code = RXNORM_OF[name]
    medicine = _coded(RXNORM, code, name) if code else {"text": name}
    start, end = ago(days=days), ago(days=days - length)
    return {
        "resourceType": "MedicationRequest",
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": medicine,
        "authoredOn": start,
        "dispenseRequest": {"validityPeriod": {"start": start, "end": end}},
    }


def _family(draw: random.Random) -> Iterator[Json]:
    for role, condition in (("FTH", "Hypertension"), ("MTH", "Type 2 diabetes mellitus")):
        yield {
            "resourceType": "FamilyMemberHistory",
            "status": "completed",
            "relationship": _coded("http://terminology.hl7.org/CodeSystem/v3-RoleCode", role, ""),
            "condition": [{"code": _coded(SNOMED, SNOMED_OF[condition], condition)}],
            "ageString": str(draw.randint(70, 90)),
        }


def _care_plan(title: str, days: int) -> Json:
    return {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "title": f"Plan for {title}",
        "period": {"start": ago(days=days)},
    }


def _report(code: str, title: str, days: int) -> Json:
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": _coded(LOINC, code, title),
        "effectiveDateTime": ago(days=days),
    }


def _condition(name: str, days: int, clinical: str = "active") -> Json:
    return {
        "resourceType": "Condition",
        "clinicalStatus": _coded(CLINICAL, clinical, ""),
        "verificationStatus": _coded(VERIFICATION, "confirmed", ""),
        "code": _coded(SNOMED, SNOMED_OF[name], name),
        "onsetDateTime": ago(days=days),
        "recordedDate": ago(days=days),
    }


def _observation(code: str, name: str, days: int, category: str) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [_coded(CATEGORY, category, "")],
        "code": _coded(LOINC, code, name),
        "effectiveDateTime": ago(days=days),
    }


Row = tuple[str, str, str, float, float, int]


def _measured(
    row: Row, draw: random.Random, days: int, means: dict[str, float], category: str
) -> Json:
    code, name, unit, mean, spread, decimals = row
    drawn = draw.uniform(-1, 1)  # never farther from the mean than the spread
    value = round(means.get(code, mean) + drawn * spread * (code not in means), decimals)
    return {
        **_observation(code, name, days, category),
        "valueQuantity": quantity(int(value) if decimals == 0 else value, unit),
    }


def _pressure(draw: random.Random, days: int) -> Json:
    rows = (
        ("8480-6", "Systolic Blood Pressure", draw.randint(118, 134)),
        ("8462-4", "Diastolic Blood Pressure", draw.randint(70, 84)),
    )
    return {
        **_observation("55284-4", "Blood Pressure", days, "vital-signs"),
        "component": [
            {"code": _coded(LOINC, code, name), "valueQuantity": quantity(value, "mm[Hg]")}
            for code, name, value in rows
        ],
    }


def _answer(code: str, name: str, said: str, words: str, days: int) -> Json:
    return {
        **_observation(code, name, days, "survey"),
        "valueCodeableConcept": _coded(SNOMED, said, words),
    }


def _coded(system: str, code: str, display: str) -> Json:
    coding = {"system": system, "code": code}
    return {"coding": [{**coding, "display": display} if display else coding]}
