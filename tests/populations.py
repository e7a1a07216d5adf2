"""Generated people: a benign population, and one person with everything wrong at once.

Run as a program it prints what the shipped rules find in the benign population and in the real
records, as `tests/data/alert_burden.yaml` pins it. Read the table before you take it over:

    CDS_SAMPLE_DATA=... python tests/populations.py > tests/data/alert_burden.yaml
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from builders import AS_OF, LABS, LOINC, Json, ago, bundle, patient, quantity
from cds import Rulesets, Screener, load_rulesets
from cds.cards import card_place
from cds.model import Evaluation
from cds.program import leaves
from cds.terminology import SYSTEMS, ValueSet
from cds.units import unit_of

SIZE = 1_000
REAL_AS_OF = "2020-06-01T00:00:00Z"

SNOMED, ICD10 = SYSTEMS["snomed"], SYSTEMS["icd10cm"]
TWITCHING = (SNOMED, "82470000"), (ICD10, "R25.3"), (SYSTEMS["hpo"], "HP:0031166")  # of an eyelid
EYELID = {"coding": [{"system": SNOMED, "code": "80243003", "display": "Eyelid"}]}
SITES = ({"text": "left calf"}, {"text": "right biceps"}, {"text": "thumb"}, EYELID, None)
AFTER_EXERCISE = (SYSTEMS["concept"], "twitching-after-exercise")
CAFFEINE, SLEEP = ("80489-8", "mg/d"), ("93832-4", "h")
# Of no use to any rule: hypertension, osteoarthritis of hip, osteoporosis, chronic sinusitis, polyp
# of colon, as the real records code them; and results within every limit.
CHRONIC = tuple((SNOMED, c) for c in ("38341003", "239872002", "64859006", "40055000", "68496003"))
NORMAL = (
    *((LABS[name][0], LABS[name][1], value) for name, value in (
        ("potassium", "4.2"), ("sodium", "140"), ("magnesium", "0.85"), ("creatinine", "75"),
        ("tsh", "1.8"), ("glucose", "5.1"), ("calcium", "2.35"), ("egfr", "95"),
        ("heart-rate", "70"),
    )),
    ("29463-7", "kg", "72"), ("8302-2", "cm", "171"), ("2093-3", "mg/dL", "180"),
)  # fmt: skip


# ---------------------------------------------------------------- benign


def benign(size: int = SIZE) -> Iterator[Json]:
    """People who twitch after exercise, coffee or a short night, and have nothing else."""
    draw = random.Random(20_261_101)  # noqa: S311 - the same people on every run
    for n in range(size):
        yield bundle(*_person(f"p{n}", draw))


def _person(id: str, draw: random.Random) -> list[Json]:
    age, gender = draw.randint(18, 80), draw.choice(["female", "male", "other", "unknown"])
    who = patient(id, birth=f"{2026 - age}-03-01", gender=gender)
    resources = [who, _twitch(id, draw)]
    if draw.random() < 0.5:
        resources.append(_said(AFTER_EXERCISE, id, draw.randint(1, 5)))
    if draw.random() < 0.5:
        # No more than the amount that no source calls too much.
        resources.append(_measured(*CAFFEINE, str(draw.randint(1, 4) * 100), id, 1))
    if draw.random() < 0.5:
        resources.append(_measured(*SLEEP, str(draw.choice(["6.5", "7", "8"])), id, 1))
    for code in draw.sample(CHRONIC, draw.randint(0, 3)):
        resources.append(_condition(code, id, ago(days=draw.randint(400, 4000))))
    for _ in range(draw.choice([0, 1, 5])):  # small and large records
        days = draw.randint(1, 700)
        resources += [_measured(*row, id, days) for row in draw.sample(NORMAL, 6)]
    return [r if r is who else {**r, "id": f"{id}-{number}"} for number, r in enumerate(resources)]


def _twitch(id: str, draw: random.Random) -> Json:
    """One twitch, in the last two weeks, at one place."""
    code, days = draw.choice(TWITCHING), draw.randint(1, 12)
    resource = (
        _condition(code, id, ago(days=days)) if draw.random() < 0.5 else _said(code, id, days)
    )
    site = draw.choice(SITES)
    if site and code != TWITCHING[2]:
        resource["bodySite"] = [site] if resource["resourceType"] == "Condition" else site
    return resource


def _coded(code: tuple[str, str]) -> Json:
    return {"coding": [{"system": code[0], "code": code[1]}]}


def _said(code: tuple[str, str], id: str, days: int) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": _coded(code),
        "subject": {"reference": f"Patient/{id}"},
        "effectiveDateTime": ago(days=days),
        "valueBoolean": True,
    }


def _condition(code: tuple[str, str], id: str, onset: str) -> Json:
    return {
        "resourceType": "Condition",
        "clinicalStatus": _coded(
            ("http://terminology.hl7.org/CodeSystem/condition-clinical", "active")
        ),
        "code": _coded(code),
        "subject": {"reference": f"Patient/{id}"},
        "onsetDateTime": onset,
    }


def _measured(code: str, unit: str, value: str, id: str, days: int) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": _coded((LOINC, code)),
        "subject": {"reference": f"Patient/{id}"},
        "effectiveDateTime": ago(days=days),
        "valueQuantity": quantity(value, unit),
    }


# ---------------------------------------------------------------- everything wrong


def everything_wrong(rulesets: Rulesets, *, low: bool) -> Json:
    """One woman of 56 with every sign, condition, medicine and the worst result of every test."""
    terms = rulesets.terminology
    resources = [r for v in terms.value_sets.values() for r in _all_of(v)]
    for analyte, value in sorted(_worst(rulesets, low=low).items()):
        unit = terms.analytes[analyte].unit
        codes = [c for c in terms.analytes[analyte].codes if c.property == unit_of(unit).kind]
        resources.append(_measured(codes[0].code, unit, str(value), "p1", 1))
    return bundle(patient(), *({**r, "id": f"w{n}"} for n, r in enumerate(resources)))


def _all_of(value_set: ValueSet) -> Iterator[Json]:
    codes = [(SYSTEMS[c.system], c.code) for c in value_set.codes]
    if not codes and value_set.own_code:
        codes = [value_set.own_code]
    subject = {"reference": "Patient/p1"}
    for code in codes[:1]:
        match value_set.kind:
            case "medication":
                yield {
                    "resourceType": "MedicationStatement",
                    "status": "active",
                    "medicationCodeableConcept": _coded(code),
                    "subject": subject,
                    "effectivePeriod": {"start": ago(days=10)},
                }
            case "history":
                yield {
                    "resourceType": "FamilyMemberHistory",
                    "status": "completed",
                    "patient": subject,
                    "relationship": {"text": "mother"},
                    "condition": [{"code": _coded(code)}],
                }
            case "condition":
                yield _condition(code, "p1", ago(days=5))
            case _:
                yield _said(code, "p1", 1)


def _worst(rulesets: Rulesets, *, low: bool) -> dict[str, Decimal]:
    """For each analyte with codes, a possible value beyond every limit on one side."""
    bounds: dict[str, list[Decimal]] = {}
    for rule in rulesets.program.rules:
        for leaf in (*leaves(rule.when), *leaves(rule.unless)):
            bound = getattr(leaf.criterion, "bound", None)
            if leaf.key.startswith("lab/") and bound and (bound[0][0] == "l") is low:
                bounds.setdefault(leaf.key.split("/")[1], []).append(bound[1])
    terms, worst = rulesets.terminology, {}
    for name, limits in bounds.items():
        value = min(limits) * Decimal("0.98") if low else max(limits) * Decimal("1.02")
        if name in terms.derived:
            ratio = terms.derived[name]
            name, value = ratio.of, value * ratio.default
        if name in terms.analytes and terms.analytes[name].codes:
            worst[name] = round(value, 3)
    return worst


# ---------------------------------------------------------------- what it comes to


def tally(evaluations: Iterable[Evaluation]) -> dict[str, dict[str, int]]:
    """Count patients, findings and cards by group and tier, and patients by number of cards."""
    findings: Counter[str] = Counter()
    cards: Counter[str] = Counter()
    per_patient: Counter[str] = Counter()
    patients: Counter[str] = Counter()
    for e in evaluations:
        findings.update(f"{f.group} {f.tier.name}" for f in e.findings)
        places = {card_place(f) for f in e.findings}
        cards.update(f"{group} {tier.name}" for group, tier in places)
        per_patient[f"patients with {len(places)} cards"] += 1
        patients[f"patients {e.tier.name if e.tier is not None else 'without finding'}"] += 1
    return {
        "patients": dict(sorted({**patients, **per_patient}.items())),
        "findings": dict(sorted(findings.items())),
        "cards": dict(sorted(cards.items())),
    }


def table(tallies: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return tallies as the YAML that is pinned."""
    lines = [
        "# What the shipped rules find in people who need nothing, and in real records. Written by",
        "# `python tests/populations.py`; read every changed number before it is taken over.",
    ]
    for name, parts in tallies.items():
        lines += ["", f"{name}:"]
        for part, counts in parts.items():
            lines.append(f"  {part}:" + ("" if counts else " {}"))
            lines += [f"    {what}: {count}" for what, count in counts.items()]
    return "\n".join(lines) + "\n"


def real(screener: Screener, folder: Path) -> list[Evaluation]:
    """The evaluations of the real records, in the order of their file names."""
    paths = sorted((folder / "synthea").glob("*.json"))
    return [screener.screen(path, REAL_AS_OF).evaluation for path in paths]


def main() -> None:
    """Print the pins."""
    screener = Screener(load_rulesets())
    people = [screener.screen(person, AS_OF).evaluation for person in benign()]
    tallies = {"benign": tally(people)}
    tallies["real"] = tally(real(screener, Path(os.environ["CDS_SAMPLE_DATA"])))
    sys.stdout.write(table(tallies))


if __name__ == "__main__":
    main()
