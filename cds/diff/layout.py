"""A difference between two versions for people (text, Markdown) and programs (JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final, Literal

from cds.diff.changes import WEIGHTS, Change
from cds.diff.cohort import CohortDiff, sorted_moves
from cds.diff.versions import Version
from cds.diff.words import word_diff
from cds.facts import iso
from cds.model import Tier
from cds.report import Page
from cds.wording import code_span, escape, utf8

__all__ = ["NAMED", "Report", "markdown", "to_dict", "write_text"]

NAMED: Final = 10
"""So many patients are named; JSON names all."""

_PER: Final = 1000
_LONG: Final = 60  # longer texts are compared word by word
_NAMES: Final = {"cards": "of the shared card texts", "terminology": "of the shared terms"}
_Row = tuple[str, float, float]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is to be said: two versions, what changed, and a cohort judged at `as_of`."""

    old: Version
    new: Version
    changes: Sequence[Change]
    cohort: CohortDiff | None = None
    as_of: int = 0


# ---------------------------------------------------------------- JSON


def to_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON-ready values; every patient whose answer changed is named.

    ``{"old", "new", "changes": [...], "cohort": {...} or None}``: a change has the members of
    `Change`, the cohort those of `CohortDiff` with alerts per 1,000 patients.
    """
    changes = [
        {**asdict(c), "more": list(c.more), "used_by": list(c.used_by)} for c in report.changes
    ]
    return {
        "old": _version_dict(report.old),
        "new": _version_dict(report.new),
        "changes": changes,
        "cohort": None if report.cohort is None else _cohort_dict(report.cohort, report.as_of),
    }


def _version_dict(version: Version) -> dict[str, Any]:
    files = version.rulesets.files
    return {
        "name": version.name,
        "commit": version.commit or None,
        "rulesets": [{"id": f.group, "version": f.version, "digest": f.digest} for f in files],
    }


def _cohort_dict(cohort: CohortDiff, as_of: int) -> dict[str, Any]:
    moves = sorted_moves(cohort.moved)
    return {
        "as_of": iso(as_of),
        "patients": cohort.total,
        "newly_flagged": [
            {"patient": utf8(who), "tier": str(is_)}
            for (was, is_), whose in moves
            if was is None
            for who in whose
        ],
        "no_longer_flagged": [
            {"patient": utf8(who), "tier": str(was)}
            for (was, is_), whose in moves
            if is_ is None
            for who in whose
        ],
        "tier_changed": [
            {"from": str(was), "to": str(is_), "patients": [utf8(who) for who in whose]}
            for (was, is_), whose in moves
            if was is not None and is_ is not None
        ],
        "other_findings": [utf8(who) for who in cohort.otherwise],
        "alerts_per_1000": {
            "cards": _pair(_cards(cohort)),
            "tiers": {row[0]: _pair(row) for row in _tiers(cohort)},
            "rules": {row[0]: _pair(row) for row in _rules(cohort)},
        },
        "rejected": [
            {"where": utf8(where), "message": utf8(text)} for where, text in cohort.rejected
        ],
        "failed": [utf8(who) for who, _ in cohort.failed],
    }


def _pair(row: _Row) -> dict[str, float]:
    return {"before": row[1], "after": row[2]}


def _cards(cohort: CohortDiff) -> _Row:
    before, after = cohort.before.cards.total(), cohort.after.cards.total()
    return "all cards", _rate(before, cohort), _rate(after, cohort)


def _tiers(cohort: CohortDiff) -> list[_Row]:
    before, after = cohort.before.cards, cohort.after.cards
    return [
        (str(tier), _rate(before[tier], cohort), _rate(after[tier], cohort))
        for tier in reversed(Tier)
    ]


def _rules(cohort: CohortDiff) -> list[_Row]:
    before, after = cohort.before.rules, cohort.after.rules
    return [
        (rule, _rate(before[rule], cohort), _rate(after[rule], cohort))
        for rule in sorted({*before, *after})
    ]


def _rate(count: int, cohort: CohortDiff) -> float:
    return round(count * _PER / cohort.total, 1) if cohort.total else 0.0


# ---------------------------------------------------------------- what both layouts say


def _sides(report: Report) -> Iterator[tuple[str, str]]:
    old, new = report.old, report.new
    was = {f.group: f for f in old.rulesets.files}
    yield "From", f"{old.title}: {_groups(old)}"
    same = [
        f.group
        for f in new.rulesets.files
        if f.group in was and was[f.group].version == f.version and was[f.group].digest != f.digest
    ]
    note = f" (other content under the same version: {', '.join(same)})" if same else ""
    yield "To", f"{new.title}: {_groups(new)}{note}"


def _groups(version: Version) -> str:
    return ", ".join(f"{f.group} {f.version}" for f in version.rulesets.files)


def _summary(report: Report) -> str:
    """Count what changed ("1 rule added, 2 rules and 1 value set changed")."""
    if not report.changes:
        same = report.old.rulesets.digest == report.new.rulesets.digest
        more = "" if same else "; the files differ in comments or layout only"
        return f"No difference{more}."
    added = _counted(c for c in report.changes if c.what == c.subject and c.old is None)
    removed = _counted(c for c in report.changes if c.what == c.subject and c.new is None)
    changed = _counted(c for c in report.changes if c.what != c.subject)
    parts = ((added, "added"), (removed, "removed"), (changed, "changed"))
    return "; ".join(f"{what} {verb}" for what, verb in parts if what) + "."


def _counted(changes: Iterator[Change]) -> str:
    ids: dict[str, set[str]] = {}
    for c in changes:
        ids.setdefault(c.subject, set()).add(c.id)
    return ", ".join(
        f"{len(found)} " + (_NAMES.get(subject) or subject + "s" * (len(found) != 1))
        for subject, found in ids.items()
    )


def _label(c: Change) -> str:
    if c.where in ("card", "recheck"):
        label = f"{c.where} {c.what}"
    else:
        label = f"{c.what} ({c.where})" if c.where else c.what
    if c.old is None or c.new is None:
        label += " added" if c.old is None else " removed"
    return label


def _by_subject(changes: Sequence[Change]) -> Iterator[tuple[str, list[Change]]]:
    for (subject, id_), group in groupby(changes, key=lambda c: (c.subject, c.id)):
        found = list(group)
        users = found[0].used_by
        head = id_ if subject in ("cards", "terminology") else f"{subject} {id_}"
        if users:
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            head += f" (used by {', '.join(users[:3])}{more})"
        elif subject in ("value set", "analyte"):
            head += " (used by no rule)"
        yield head, found


def _moves(cohort: CohortDiff) -> Iterator[tuple[str, list[str]]]:
    """Yield what became of patients, and their references."""
    yield "Newly flagged", cohort.newly_flagged
    yield "No longer flagged", cohort.no_longer_flagged
    between = {k: v for k, v in cohort.moved.items() if None not in k}
    for (was, is_), whose in sorted_moves(between):
        yield f"Tier {was} -> {is_}", whose
    if not between:
        yield "Tier changed", []
    yield "Other findings of the same tier", cohort.otherwise


def _rows(cohort: CohortDiff) -> tuple[list[_Row], list[_Row], int]:
    """Return cards in all and by tier, the rules whose alerts changed, and how many did not."""
    rules = _rules(cohort)
    changed = [row for row in rules if row[1] != row[2]]
    tiers = [row for row in _tiers(cohort) if row[1] or row[2]]
    return [_cards(cohort), *tiers], changed, len(rules) - len(changed)


def _head(cohort: CohortDiff, as_of: int) -> str:
    count = cohort.total
    return f"On {count} patient{'s' * (count != 1)}, as of {iso(as_of)}"


# ---------------------------------------------------------------- text


def write_text(page: Page, report: Report) -> None:
    """Write the report for a terminal."""
    for label, text in _sides(report):
        page.line(text, label=f"{label:<5}")
    page.line()
    page.line(_summary(report), style="bold")
    for weight, changes in groupby(report.changes, key=lambda c: c.weight):
        page.heading(WEIGHTS[weight])
        for head, found in _by_subject(list(changes)):
            page.line()
            page.line(head, indent=2, style="bold")
            for c in found:
                page.line(_change_text(c), indent=4, label=_label(c) + ": ")
                for line in c.more:
                    page.line(line, indent=6, label="- ")
    if report.cohort is not None:
        _write_cohort(page, report.cohort, report.as_of)


def _change_text(c: Change) -> str:
    if c.old is None or c.new is None:
        return " ".join((c.old or c.new or "").split())
    if max(len(c.old), len(c.new)) <= _LONG or c.where.startswith(("when", "unless")):
        return f"{' '.join(c.old.split())} -> {' '.join(c.new.split())}"
    marks = {"same": "{}", "old": "[-{}-]", "new": "{{+{}+}}"}
    return " ".join(marks[kind].format(text) for kind, text in word_diff(c.old, c.new))


def _write_cohort(page: Page, cohort: CohortDiff, as_of: int) -> None:
    page.heading(_head(cohort, as_of))
    page.line()
    for label, whose in _moves(cohort):
        page.line(_named(whose), indent=2, label=f"{label}: ")
    cards, rules, same = _rows(cohort)
    for title, rows in (
        ("Cards per 1,000 patients", cards),
        ("Patients per 1,000 with an alert of the rule", rules),
    ):
        if rows:
            page.line()
            width = max(len(title), *(len(row[0]) for row in rows))
            page.line(f"{title:<{width}} {'before':>8} {'after':>8} {'change':>8}", indent=2)
            for name, was, is_ in rows:
                text = f"{name:<{width}} {was:>8.1f} {is_:>8.1f} {is_ - was:>+8.1f}"
                page.line(text, indent=2)
    page.line()
    page.line(_unchanged(rules, same), indent=2)


def _unchanged(rules: Sequence[_Row], same: int) -> str:
    if not rules and not same:
        return "No rule of either version alerts."
    others = f"{same} {'other ' if rules else ''}rule{'s' * (same != 1)}"
    return f"{others} alert{'s' * (same == 1)} as often as before."


def _named(whose: Sequence[str]) -> str:
    if not whose:
        return "nobody"
    more = f" and {len(whose) - NAMED} more" if len(whose) > NAMED else ""
    return f"{len(whose)}: {', '.join(whose[:NAMED])}{more}"


# ---------------------------------------------------------------- Markdown


def markdown(report: Report) -> str:
    """Return the report as GitHub Flavored Markdown, as for the description of a change."""
    lines = ["# What changed in the rules", ""]
    lines += [f"- {label}: {escape(text)}" for label, text in _sides(report)]
    lines += ["", escape(_summary(report))]
    for weight, changes in groupby(report.changes, key=lambda c: c.weight):
        lines += ["", f"## {WEIGHTS[weight]}"]
        for head, found in _by_subject(list(changes)):
            lines += ["", f"**{escape(head)}**", ""]
            for c in found:
                lines.append(f"- {escape(_label(c))}: {_change_markdown(c)}")
                lines += [f"  - {escape(line)}" for line in c.more]
    if report.cohort is not None:
        lines += ["", *_cohort_markdown(report.cohort, report.as_of)]
    return "\n".join(lines) + "\n"


def _change_markdown(c: Change) -> str:
    if c.old is None or c.new is None:
        return escape(c.old or c.new or "")
    if max(len(c.old), len(c.new)) <= _LONG or c.where.startswith(("when", "unless")):
        return f"{escape(c.old)} → **{escape(c.new)}**"
    marks: Mapping[Literal["same", "old", "new"], str] = {
        "same": "{}",
        "old": "~~{}~~",
        "new": "**{}**",
    }
    pieces = word_diff(c.old, c.new)
    return " ".join(marks[kind].format(escape(text)) for kind, text in pieces)


def _cohort_markdown(cohort: CohortDiff, as_of: int) -> Iterator[str]:
    yield f"## {_head(cohort, as_of)}"
    yield ""
    for label, whose in _moves(cohort):
        names = ", ".join(code_span(utf8(who)) for who in whose[:NAMED])
        more = f" and {len(whose) - NAMED} more" if len(whose) > NAMED else ""
        yield f"- {escape(label.replace('->', '→'))}: " + (
            f"{len(whose)}: {names}{more}" if whose else "nobody"
        )
    cards, rules, same = _rows(cohort)
    for title, rows in (
        ("Cards per 1,000 patients", cards),
        ("Patients per 1,000 with an alert of the rule", rules),
    ):
        if rows:
            yield from ("", f"| {title} | before | after | change |", "|---|---:|---:|---:|")
            for name, was, is_ in rows:
                yield f"| {name} | {was:.1f} | {is_:.1f} | {is_ - was:+.1f} |"
    yield ""
    yield _unchanged(rules, same)
