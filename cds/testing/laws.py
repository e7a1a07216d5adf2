"""What must change nothing, as operations on FHIR resources, and how two answers are compared.

Each law is a plain function, so that a property of one's own can use it: build two inputs of which
the second must not be judged otherwise, and ask for the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from cds.errors import CardError
from cds.screening import Assessment, Screener

__all__ = [
    "answer",
    "as_error",
    "as_patient",
    "conclusions",
    "difference",
    "renamed",
    "screened",
    "unrelated",
    "whole",
]

Json = dict[str, Any]

_SYSTEM: Final = "https://example.org/no-such-code-system"
_VERIFICATION: Final = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_ERROR: Final = "entered-in-error"


def whole(resources: Iterable[Json]) -> Json:
    """Return resources as a Bundle, in their order."""
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


# ---------------------------------------------------------------- answers


def answer(assessment: Assessment) -> Json:
    """Return everything that is said of a patient, with the cards for both audiences.

    Where a card cannot be made, its error stands in place of the cards.
    """
    try:
        return {**assessment.to_dict(), "patient_cards": assessment.cards("patient")}
    except CardError as error:
        return {**conclusions(assessment), "cards": str(error)}


def conclusions(assessment: Assessment) -> Json:
    """Return what is concluded of a patient, without values, texts and problems of the data."""
    evaluation = assessment.evaluation
    return {
        "tier": assessment.tier.name if assessment.tier is not None else None,
        "findings": [[f.id, f.tier.name, list(f.rules)] for f in assessment.findings],
        "suppressed": sorted([s.finding.id, s.reason] for s in evaluation.suppressed),
        "rules": sorted(assessment.fired),
        "not_evaluated": [[n.rule, n.reason, n.needs] for n in evaluation.not_evaluated],
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Name the members in which two answers differ, byte by byte; "" where they are the same."""
    names = [*one, *(name for name in other if name not in one)]
    missing = object()

    def same(name: str) -> bool:
        values = [side.get(name, missing) for side in (one, other)]
        return missing not in values and orjson.dumps(values[0]) == orjson.dumps(values[1])

    return ", ".join(name for name in names if not same(name))


# ---------------------------------------------------------------- what is sent


def as_error(resource: Json) -> Json:
    """Return a resource marked as entered in error."""
    wrong = dict(resource)
    if wrong["resourceType"] == "Condition":
        wrong.pop("clinicalStatus", None)  # FHIR R4B, con-5
        coding = {"system": _VERIFICATION, "code": _ERROR}
        return {**wrong, "verificationStatus": {"coding": [coding]}}
    return {**wrong, "status": _ERROR}


def as_patient(resources: Sequence[Json], id_: str) -> list[Json]:
    """Return a record as that of another patient, with ids that nobody else has.

    Only references from one of its resources to another are changed.
    """
    own = {f"{r['resourceType']}/{r['id']}": r for r in resources}
    names = {
        ref: f"{r['resourceType']}/{id_}"
        if r["resourceType"] == "Patient"
        else f"{r['resourceType']}/{id_}-{r['id']}"
        for ref, r in own.items()
    }

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: moved(v) for k, v in value.items()}
        if isinstance(value, list):
            return [moved(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    return [{**moved(r), "id": names[ref].partition("/")[2]} for ref, r in own.items()]


def renamed(resource: Json, display: str) -> Json:
    """Return a resource whose codes have another text for people, and a narrative of it.

    The name of a medicine stays: it is read, and may contradict the code.
    """
    changed = dict(resource)
    concept = changed.get("code")
    if isinstance(concept, dict):
        codings = [{**coding, "display": display} for coding in concept["coding"]]
        changed["code"] = {"coding": codings, "text": display}
    if resource["resourceType"] != "Patient":
        # The text of people is escaped as XHTML wants it; nothing of it may be read.
        plain = display.replace("&", "&amp;").replace("<", "&lt;")
        div = f'<div xmlns="http://www.w3.org/1999/xhtml">{plain}</div>'
        changed["text"] = {"status": "generated", "div": div}
    return changed


def unrelated(subject: str) -> tuple[Json, ...]:
    """Return resources about a patient that no rule can use: other types, unknown codes."""
    code = {"coding": [{"system": _SYSTEM, "code": "x"}], "text": "nothing known"}
    about = {"subject": {"reference": subject}}
    quantity = {"value": 1, "unit": "mmol/L", "system": "http://unitsofmeasure.org"}
    return (
        {"resourceType": "Encounter", "id": "u1", "status": "finished", **about},
        {
            "resourceType": "Immunization",
            "id": "u2",
            "status": "completed",
            "vaccineCode": code,
            "patient": {"reference": subject},
        },
        {
            "resourceType": "Observation",
            "id": "u3",
            "status": "final",
            "code": code,
            "valueQuantity": {**quantity, "code": "mmol/L"},
            **about,
        },
        {"resourceType": "Observation", "id": "u4", "status": "final", "code": {}, **about},
        {"resourceType": "Condition", "id": "u5", "code": code, **about},
        {"resourceType": "Organization", "id": "u6", "name": "General"},
        {"resourceType": "CarePlan", "id": "u7", "status": "active", "intent": "plan", **about},
    )


def screened(screener: Screener, resources: Iterable[Json], as_of: str) -> Assessment:
    """Assess the one patient whom resources are about."""
    return screener.screen(whole(resources), as_of)
