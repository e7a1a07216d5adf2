"""Validators CDS601 to CDS604: evidence, review and cases of rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from cds.lint.links import cases_of
from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject

__all__: list[str] = []


@validator(
    "CDS601",
    "info",
    "evidence without address or year",
    fix="add `url` and `year` of the source, where it has them",
)
def vague_evidence(subject: Subject) -> Iterator[Spot]:
    """A source that a reader cannot look up, or whose age nobody can see.

    Proposals marked `from_knowledge` have neither; they are reported as CDS603.
    """
    for rule in subject.rules:
        for number, e in enumerate(rule.rule.evidence):
            lacking = [word for word, value in (("url", e.url), ("year", e.year)) if not value]
            if lacking and not e.from_knowledge:
                place = subject.at(rule.rule, "evidence", number)
                message = f"'{e.source}' has no {' and no '.join(lacking)}"
                yield Spot(*place, message, rule.rule.id)


@validator(
    "CDS602",
    "error",
    "approved without the date of the review",
    fix="write the day of the review as `last_reviewed: 2026-11-30`, or set `review` to draft",
)
def approved_undated(subject: Subject) -> Iterator[Spot]:
    """A rule that is `approved` and does not say when, or says it in no date (YYYY-MM-DD)."""
    for rule in subject.rules:
        r = rule.rule
        if r.last_reviewed is not None and not _is_date(r.last_reviewed):
            place = subject.at(r, "last_reviewed")
            yield Spot(*place, f"'{r.last_reviewed}' is no date such as 2026-11-30", r.id)
        elif r.review == "approved" and r.last_reviewed is None:
            yield Spot(*subject.at(r, "review"), "is approved, and nobody knows when", r.id)


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


@validator(
    "CDS603",
    "info",
    "a rule without a source that was read",
    fix="find a source and read it; until then the card says that the rule is a proposal",
)
def only_proposals(subject: Subject) -> Iterator[Spot]:
    """A rule of which all evidence is `from_knowledge`."""
    for rule in subject.rules:
        if all(e.from_knowledge for e in rule.rule.evidence):
            place = subject.at(rule.rule, "evidence")
            yield Spot(*place, "rests on proposals alone", rule.rule.id)


@validator(
    "CDS604",
    "warning",
    "a rule that no case shows firing",
    fix="add a case to cases.yaml beside the rules that expects it under `fires` or `shows`",
)
def no_case(subject: Subject) -> Iterator[Spot]:
    """A rule that somebody is shown, and no case names it or its finding.

    Nobody would notice if it stopped firing. Steps need no case of their own.
    """
    expected: dict[Path, set[str]] = {}
    unreadable: set[Path] = set()
    for file in subject.of_kind("cases"):
        cases, faults = cases_of(subject, file)
        folder = Path(file.path).parent
        unreadable |= {folder} if faults else set()
        names = expected.setdefault(folder, set())
        for case in cases:
            names.update((*case.expect.fires, *(case.expect.shows or ())))
    unreadable |= {Path(f.path).parent for f in subject.files if f.kind == "cases" and f.fault}
    for source in subject.of_kind("rules"):
        folder = Path(source.path).parent
        if folder in unreadable:
            continue
        shown = [r.rule for r in subject.rules if subject.at(r.rule)[0] == source.path]
        named = expected.get(folder, set())
        lacking = [r for r in shown if not r.step and not named & {r.id, r.finding_id}]
        if lacking and folder not in expected:
            message = f"there is no cases.yaml: {len(lacking)} rules have no case"
            yield Spot(source.path, 0, message)
            continue
        for rule in lacking:
            yield Spot(*subject.at(rule), "no case of cases.yaml expects it to fire", rule.id)
