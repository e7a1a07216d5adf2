"""A small ruleset folder in which nothing is wrong, for tests that break one thing in it."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent, indent

HEAD = 'version: 1.0.0\nsource: "A table"\nretrieved: "2026-11-21"\nlicense: "Free"\n'

ANALYTES = (
    HEAD
    + """\
analytes:
  - id: potassium
    name: potassium
    unit: mmol/L
    decimals: 1
    molar_mass: 39.0983
    fresh: P7D
    context: P90D
    plausible: {ge: 0.5, le: 15}
    codes:
      - {code: "2823-3", property: substance, display: "Potassium [Moles/volume] in Serum"}
  - {id: calcium, name: calcium, unit: mmol/L, decimals: 2, fresh: P7D, context: P90D}
  - id: calcium-total
    name: total calcium
    unit: mmol/L
    decimals: 2
    fresh: P7D
    context: P90D
    codes: [{code: "2000-8", property: substance, display: "Calcium"}]
  - id: calcium-adjusted
    name: adjusted calcium
    unit: mmol/L
    decimals: 2
    fresh: P7D
    context: P90D
    codes: [{code: "29265-6", property: substance, display: "Calcium adjusted"}]
  - id: calcium-ionized
    name: ionized calcium
    unit: mmol/L
    decimals: 2
    fresh: P7D
    context: P90D
    codes: [{code: "1995-0", property: substance, display: "Calcium ionized"}]
  - id: albumin
    name: albumin
    unit: g/L
    decimals: 0
    fresh: P7D
    context: P90D
    codes: [{code: "1751-7", property: mass, display: "Albumin"}]
  - id: egfr
    name: estimated glomerular filtration rate
    unit: "mL/min/{1.73_m2}"
    decimals: 0
    fresh: P7D
    context: P7D
    codes: [{code: "98979-8", property: clearance, display: "Filtration rate"}]
adjusted_calcium:
  id: calcium
  result: calcium-adjusted
  ionized: calcium-ionized
  total: calcium-total
  albumin: albumin
  egfr: egfr
  coefficient: 0.02
  reference_albumin: 40
  albumin_range: {ge: 20, le: 50}
  unreliable_egfr_lt: 60
  same_draw_within: PT6H
  source: A guideline
derived: []
doubts: {unadjusted: "Not adjusted."}
hemolysis:
  {specimen_conditions: [HEM], words: [hemolyzed], negations: [not], raises: [potassium], source: A}
symptom_window: P30D
"""
)

VALUE_SETS = (
    HEAD
    + """\
value_sets:
  - id: twitching
    kind: symptom
    name: twitching
    includes: [fasciculation]
    codes:
      - {system: icd10cm, code: "R25.3", display: "Fasciculation"}
  - id: fasciculation
    kind: symptom
    name: fasciculation
    codes:
      - {system: snomed, code: "82470000", display: "Fasciculation"}
  - id: weakness
    kind: symptom
    name: weakness
    codes:
      - {system: snomed, code: "26544005", display: "Muscle weakness"}
  - id: pregnancy
    kind: condition
    name: pregnancy
    codes:
      - {system: snomed, code: "77386006", display: "Pregnancy"}
  - id: loop-diuretic
    kind: medication
    name: loop diuretic
    codes:
      - {system: rxnorm, code: "4603", display: "furosemide"}
"""
)

CARDS = """\
disclaimer: Decision support only.
patient_disclaimer: A computer made this. If you feel worse, get help now.
tiers: {emergency: Now., urgent: Today., soon: In days., routine: Some day., info: To know.}
patient_tiers:
  emergency: Call your local emergency number now.
  urgent: Get medical help today.
  soon: Call your doctor in the next few days.
  routine: Talk about this at your next planned visit.
  info: This is for you to know.
age_unknown: Age is not recorded.
ask_next: "To ask next:"
ask_result: "What is the {name}?"
groups:
  trial: {system: "urn:cds-twitch:group", code: trial, display: Trial}
override_reasons:
  - {system: "urn:cds-twitch:override-reason", code: known, display: Already known}
suggestions:
  repeat-potassium:
    label: Repeat potassium
    orders:
      - description: Potassium
        code:
          system: "http://loinc.org"
          code: "2823-3"
          display: "Potassium [Moles/volume] in Serum"
"""

SOURCES = HEAD + "thresholds:\n  - {id: TH-001, text: Low potassium}\n"

RULES = """\
group: trial
title: Rules for trying
version: 1.0.0
recheck:
  title: "{title} (old result)"
  summary: "{title}: repeat the test"
  detail: Repeat the test.
  patient: Ask your doctor's office for a new blood test within two weeks.
  evidence: [{source: A guideline, statement: It says so., url: "https://example.org", year: 2020}]
rules:
  - id: wanted
    title: A symptom is recorded
    tier: info
    step: true
    when: [{any: [{symptom: twitching}, {symptom: weakness}]}]
    evidence: [{source: A guideline, statement: So., url: "https://example.org", year: 2020}]
    review: draft
"""

CASES = """\
as_of: 2026-11-01T00:00:00Z
cases:
  - name: Every rule fires for somebody.
    data: []
    expect: {fires: [], not: []}
"""


def rule(id: str, when: str, *, tier: str = "soon", family: str | None = "low", **more: str) -> str:
    """A rule as YAML; `more` are further keys, or take the place of one (`card`, `evidence`)."""
    patient = {
        "emergency": "Call your local emergency number now.",
        "urgent": "Call your doctor's office today.",
    }.get(tier, "Call your doctor's office in the next few days.")
    keys = {
        "title": f"Title of {id}",
        "tier": tier,
        "family": family,
        "when": when,
        "evidence": "[{source: A guideline, statement: It says so., "
        'url: "https://example.org", year: 2020}]',
        "review": "draft",
        "card": f'{{summary: Short, detail: Long., patient: "{patient}"}}',
        **more,
    }
    lines = [f"{key}: {value}" for key, value in keys.items() if value]
    return f"- id: {id}\n" + indent("\n".join(lines), "  ")


MILD = rule(
    "mild",
    "[{lab: potassium, lt: 3.5, unit: mmol/L, first_band: true}, {finding: wanted}]",
    recheck="true",
    covers="[TH-001]",
    unless="[{condition: pregnancy}, {medication: loop-diuretic}]",
    card='{summary: "Potassium low at {potassium}", detail: "Seen on {potassium.date}.", '
    'patient: "Your potassium is low. Call your doctor in the next few days.", '
    "suggestions: [repeat-potassium]}",
)
MODERATE = rule(
    "moderate",
    "[{lab: potassium, lt: 3.0, unit: mmol/L, critical_flag: true}]",
    tier="urgent",
)
SEVERE = rule("severe", "[{lab: potassium, lt: 2.5, unit: mmol/L}]", tier="emergency")
USUAL = (MILD, MODERATE, SEVERE)


def write(
    root: Path,
    *rules: str,
    cases: bool = True,
    change: tuple[str, str, str] | None = None,
    **files: str,
) -> Path:
    """Write a folder with these rules (by default `USUAL`) and a case that names each.

    `change` is a file, and the text in it that another one replaces. `files` are further files,
    by name without ".yaml".
    """
    body = "\n".join(indent(dedent(text), "  ") for text in rules or USUAL)
    ids = re.findall(r"^- id: (\S+)$", "\n".join(rules or USUAL), re.MULTILINE)
    texts = {
        "analytes.yaml": ANALYTES,
        "valuesets/all.yaml": VALUE_SETS,
        "cards.yaml": CARDS,
        "sources/all.yaml": SOURCES,
        "trial/rules.yaml": RULES + body + "\n",
        **{f"{name}.yaml": text for name, text in files.items()},
    }
    if cases:
        texts["trial/cases.yaml"] = CASES.replace("fires: []", f"fires: [{', '.join(ids)}]")
    if change:
        name, old, new = change
        assert old in texts[name], f"{name} has no {old!r}"
        texts[name] = texts[name].replace(old, new, 1)
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
