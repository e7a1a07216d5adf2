"""Small rulesets and evaluations made by hand, for tests of cards.

Nothing is loaded: a card depends on rules, texts and evaluation only, so these tests hold
whatever the shipped rule files say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

from cds.model import Caveat, Doubt, Evaluation, Fact, Finding, NotEvaluated, Source, Tier
from cds.program import AnyOf, Atom, CompiledRule, Leaf, Need, Program, Test, grid_code
from cds.rulefile import (
    CardText,
    CardTexts,
    CodeText,
    Evidence,
    FindingCriterion,
    Order,
    Rule,
    Ruleset,
    Suggestion,
)
from cds.rules import Rulesets
from cds.terminology import Terminology

PATIENT = "Patient/p1"
AS_OF = 1_793_534_400  # 2026-11-01T12:00:00Z
HOOK = "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"
DAY = 86_400

GROUPS = ("electrolyte", "medication", "neurological-referral", "lifestyle", "workup", "education")

ANALYTES = {
    "potassium": SimpleNamespace(name="potassium", unit="mmol/L", decimals=1),
    "magnesium": SimpleNamespace(name="magnesium", unit="mmol/L", decimals=2),
    "sodium": SimpleNamespace(name="sodium", unit="mmol/L", decimals=0),
    "egfr": SimpleNamespace(name="estimated GFR", unit="mL/min/{1.73_m2}", decimals=0),
    "creatine-kinase-ratio": SimpleNamespace(name="creatine kinase", unit="1", decimals=1),
}
VALUE_SETS = {
    "cramp": SimpleNamespace(name="muscle cramp"),
    "loop-diuretic": SimpleNamespace(name="loop diuretic"),
}

LOINC = "http://loinc.org"


def order(code: str, display: str) -> Order:
    return Order(
        code=CodeText(system=LOINC, code=code, display=display), description=f"{display}, today"
    )


TEXTS = CardTexts(
    disclaimer="Decision support only. A missing test is not a normal test.",
    patient_disclaimer="A computer wrote this. If you feel worse, get help.",
    tiers={tier.name: f"Tier {tier.name}." for tier in Tier},
    patient_tiers={
        "emergency": "Call your local emergency number now.",
        "urgent": "Get medical help today.",
        "soon": "Call your doctor's office in the next few days.",
        "routine": "Talk about this at your next planned visit.",
        "info": "This is for you to know.",
    },
    groups={
        group: CodeText(system="urn:example:group", code=group, display=group.capitalize())
        for group in GROUPS
    },
    override_reasons=(
        CodeText(system="urn:example:reason", code="known", display="Already known"),
        CodeText(system="urn:example:reason", code="declined", display="The person declined"),
    ),
    suggestions={
        "panel": Suggestion(
            label="Order electrolytes",
            orders=(order("2823-3", "Potassium"), order("2601-3", "Magnesium")),
        ),
        "ecg": Suggestion(label="Order an ECG", orders=(order("34534-8", "12 lead EKG panel"),)),
    },
    age_unknown="Age is not recorded: the limits for adults were used.",
    ask_next="To ask or check next:",
    ask_result="What is the current {name}?",
    not_evaluated={"missing": "no result on record", "stale": "too old"},
)

EVIDENCE = Evidence(
    source="Example guideline", year=2023, section="2.1", statement="below 2.5 is severe",
    url="https://example.org/guideline",
)  # fmt: skip


def text(**changes: Any) -> CardText:
    usual = {
        "summary": "Potassium {potassium} is severely low",
        "detail": "Potassium was {potassium} on {potassium.date}. Check the ECG.",
        "patient": "A blood test needs attention.",
    }
    return CardText(**{**usual, **changes})


def rule(id: str = "potassium-low", *, tier: str = "emergency", **changes: Any) -> Rule:
    usual: dict[str, Any] = {
        "id": id,
        "title": id.replace("-", " ").capitalize(),
        "review": "draft",
        "tier": tier,
        "evidence": (EVIDENCE,),
        "card": text(),
    }
    return Rule(**{**usual, **changes})


def rulesets(
    rules: Iterable[tuple[str, Rule]],
    *,
    texts: CardTexts = TEXTS,
    limits: Sequence[str] = ("2.5", "3.5"),
    needs: tuple[Need, ...] = (),
    version: str = "1.2.0",
) -> Rulesets:
    """Return rules of groups as loaded; every rule compares potassium with the limits."""
    rules = list(rules)
    key = "lab/potassium"
    atoms = tuple(Atom(key, (Test("low", "lt", grid_code(Decimal(t))),)) for t in limits)
    when = AnyOf((Leaf(FindingCriterion(finding="x"), key, atoms),))
    compiled = tuple(
        CompiledRule(r, group, f"finding/{r.finding_id}", 0, when, None) for group, r in rules
    )
    files = tuple(
        Ruleset(
            group,
            group.capitalize(),
            version,
            f"sha256:{group}",
            f"{group}/rules.yaml",
            tuple(r for g, r in rules if g == group),
            {},
        )
        for group in dict.fromkeys(g for g, _ in rules)
    )
    terminology = cast(Terminology, SimpleNamespace(analytes=ANALYTES, value_sets=VALUE_SETS))
    return Rulesets(files, terminology, texts, Program(compiled, frozenset({key}), needs))


def source(value: str | None = "2.4", **changes: Any) -> Source:
    usual: dict[str, Any] = {
        "resource": "Observation/k1",
        "effective": "2026-10-31T08:00:00Z",
        "value": Decimal(value) if value is not None else None,
        "unit": "mmol/L",
        "sent": f"{value} mmol/L" if value is not None else None,
    }
    return Source(**{**usual, **changes})


def lab(analyte: str = "potassium", *sources: Source, age: int = DAY) -> Fact:
    sources = sources or (source(),)
    values = [s.value for s in sources if s.value is not None and s.value.is_finite()]
    codes = [grid_code(v) for v in values]
    props = {"low": min(codes), "high": max(codes)} if codes else {}
    return Fact(f"lab/{analyte}", "lab", analyte, {**props, "age": age}, sources)


AGE = Fact("patient/age", "demographic", "age", {"years": 56}, (Source(resource=PATIENT),))


def finding(
    id: str = "potassium-low",
    tier: Tier = Tier.emergency,
    group: str = "electrolyte",
    *,
    because: tuple[str, ...] = ("lab/potassium",),
    title: str | None = None,
    rules: tuple[str, ...] | None = None,
    caveats: tuple[Caveat, ...] = (),
) -> Finding:
    return Finding(
        id=id,
        group=group,
        tier=tier,
        title=title or id.replace("-", " ").capitalize(),
        rules=rules or (id,),
        covers=(),
        because=because,
        caveats=caveats,
    )


def evaluation(
    *findings: Finding,
    facts: Iterable[Fact] = (lab(), AGE),
    not_evaluated: tuple[NotEvaluated, ...] = (),
    patient: str = PATIENT,
    **changes: Any,
) -> Evaluation:
    ranked = sorted(findings or [finding()], key=lambda f: (-f.tier, f.group))  # as evaluate does
    usual: dict[str, Any] = {
        "patient": patient,
        "as_of": AS_OF,
        "facts": {fact.key: fact for fact in facts},
        "findings": tuple(ranked),
        "suppressed": (),
        "not_evaluated": not_evaluated,
        "problems": (),
    }
    return Evaluation(**{**usual, **changes})


HEMOLYZED = Doubt("hemolyzed", "The sample may be hemolyzed: repeat it.")
