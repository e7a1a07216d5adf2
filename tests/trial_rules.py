"""Rules of a few lines for trying, over the shipped terminology, and patients of a few lines."""

from __future__ import annotations

from dataclasses import replace

from cds.cases import Case, Expect
from cds.forms import parse
from cds.mutation.operators import AnalyteMutant, Mutant, analyte_mutants, mutants_of
from cds.program import compile_program
from cds.rechecks import Rechecks
from cds.rules import Rulesets
from small_rules import rules_of

AS_OF = 1_793_491_200  # 2026-11-01T00:00:00Z

HEAD = """\
group: trial
title: Rules for trying
version: 1.0.0
recheck:
  title: "{title}: old result"
  summary: Old result
  detail: Repeat it.
  patient: Ask for a new blood test within two weeks.
  evidence: [{source: A guideline, statement: old results are repeated}]
rules:
"""
CARD = """\
    title: A title
    review: draft
    evidence: [{source: A guideline, statement: It says so.}]
    card: {summary: A summary, detail: A detail., patient: Call your doctor today.}
"""


def written(*rules: str) -> str:
    """A rule file of these rules, each as its lines without title, review, evidence and card."""
    return HEAD + "".join(f"  - {rule.strip()}\n{CARD}" for rule in rules)


def loaded(base: Rulesets, *rules: str, path: str = "trial/rules.yaml") -> Rulesets:
    """Those rules, loaded with the terminology of `base`."""
    return rules_of(written(*rules), base, path=path)


def rule(id_: str, *criteria: str, tier: str = "urgent", more: str = "") -> str:
    """A rule with these entries of `when`; `more` are further lines, each with its indentation."""
    when = "".join(f"\n      - {criterion}" for criterion in criteria)
    return f"id: {id_}\n    tier: {tier}\n    when:{when}{more}"


def patient(*lines: str, name: str = "x", expect: Expect | None = None) -> Case:
    """A case of lines such as "lab: potassium 2.9 mmol/L"; further keys after a comma and blank."""
    forms = []
    for line in lines:
        parts = [part.split(": ", 1) for part in line.split(", ")]
        forms.append(parse({key: text for key, text in parts}))
    return Case(name, AS_OF, tuple(forms), expect or Expect(), "", 0)


def expecting(**expect: object) -> Expect:
    """What must come out; `not_` stands for "not"."""
    return Expect.model_validate({key.rstrip("_"): value for key, value in expect.items()})


def all_mutants(rulesets: Rulesets) -> dict[str, Mutant | AnalyteMutant]:
    """Every mutant of loaded rules by its id, also those that mean the same as another."""
    used: dict[str, list[str]] = {}
    for key in sorted(rulesets.program.keys):
        kind, concept, *_ = key.split("/")
        used.setdefault(kind, []).append(concept)
    rules = [r for f in rulesets.files for r in f.rules if not r.recheck_of]
    found: list[Mutant | AnalyteMutant] = [
        mutant for r in rules for mutant in mutants_of(r, rulesets.terminology, used)
    ]
    found += analyte_mutants(rulesets.terminology, used["lab"])
    return {mutant.id: mutant for mutant in found}


def mutated(rulesets: Rulesets, mutant: Mutant | AnalyteMutant) -> Rulesets:
    """The rules with a mutant in them, loaded as if it had been written so: the slow way."""
    terminology = rulesets.terminology
    files = [
        replace(f, rules=tuple(r for r in f.rules if not r.recheck_of)) for f in rulesets.files
    ]
    if isinstance(mutant, AnalyteMutant):
        analyte = terminology.analytes[mutant.analyte]
        changed = (
            replace(analyte, fresh=mutant.seconds)
            if mutant.field == "fresh"
            else replace(analyte, context=mutant.seconds)
        )
        terminology = replace(
            terminology, analytes={**terminology.analytes, mutant.analyte: changed}
        )
    else:
        files = [
            replace(f, rules=tuple(mutant.mutated if r.id == mutant.rule else r for r in f.rules))
            for f in files
        ]
    files = Rechecks(files, terminology).add(files)
    program = compile_program(files, terminology)
    return replace(rulesets, files=tuple(files), terminology=terminology, program=program)
