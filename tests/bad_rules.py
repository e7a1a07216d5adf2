"""Small rule files for tests of what is tried against rules: good ones, and ones with a fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEAD = "group: small\ntitle: Small rules\nversion: 1.0.0\nrules:\n"


def rule(
    id: str,
    tier: str,
    *when: str,
    unless: Sequence[str] = (),
    family: str = "",
    detail: str = "Look at it.",
    suggestions: str = "",
) -> str:
    """One rule; `when` and `unless` are criteria in YAML without their braces."""
    lines = [f"  - id: {id}", f"    title: Rule {id}", f"    tier: {tier}"]
    if family:
        lines.append(f"    family: {family}")
    for name, criteria in (("when", when), ("unless", unless)):
        if criteria:
            lines += [f"    {name}:", *(f"      - {{{c}}}" for c in criteria)]
    lines += [
        "    evidence: [{source: Test, statement: Made for a test., from_knowledge: true}]",
        "    review: draft",
        "    card:",
        f"      summary: What rule {id} says",
        f"      detail: {detail!r}",
        "      patient: Talk to somebody who knows.",
    ]
    if suggestions:
        lines.append(f"      suggestions: [{suggestions}]")
    return "\n".join(lines) + "\n"


def below(analyte: str, number: str, unit: str = "mmol/L") -> str:
    return f"lab: {analyte}, lt: {number}, unit: {unit}"


def above(analyte: str, number: str, unit: str = "mmol/L") -> str:
    return f"lab: {analyte}, gt: {number}, unit: {unit}"


GOOD = HEAD + "".join(
    [
        rule("low", "soon", below("potassium", "3.5"), "symptom: twitching", family="low"),
        rule("very-low", "emergency", below("potassium", "2.5"), family="low"),
        rule("high", "urgent", above("potassium", "6.25"), family="high"),
        rule("seizure", "emergency", "symptom: seizure, within: P30D"),
        rule("diuretic", "routine", "medication: magnesium-sulfate, started_within: P12W"),
    ]
)


def folder(root: Path, text: str = GOOD, *, group: str = "small") -> Path:
    """Write a folder of rulesets with one group; returns it."""
    home = root / group
    home.mkdir(parents=True, exist_ok=True)
    text = text.replace("group: small\n", f"group: {group}\n")
    home.joinpath("rules.yaml").write_text(text, encoding="utf-8")
    return root
