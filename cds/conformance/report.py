"""What was found, as JSON values and as Markdown; the terminal is a matter of the command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cds.conformance.checks import COUNTED, LEVELS, Level, Outcome, Result
from cds.conformance.rows import LEFT_OUT, NOT_CHECKED

__all__ = ["RESULTS", "counts", "failing", "json_report", "markdown_report"]

RESULTS: tuple[Result, ...] = ("pass", "fail", "skip", "n/a")


def counts(outcomes: Sequence[Outcome]) -> dict[Level, Counter[Result]]:
    """Return how many checks of each level found what; levels without a check are left out."""
    found: dict[Level, Counter[Result]] = {}
    for level in LEVELS:
        of_level = [each.found.result for each in outcomes if each.about.level == level]
        if of_level:
            found[level] = Counter(of_level)
    return found


def failing(outcomes: Sequence[Outcome], *, local: bool = False) -> list[Outcome]:
    """Return the failures that count: of SHALL and STR, with `local` of every level."""
    return [
        each
        for each in outcomes
        if each.found.result == "fail" and (local or each.about.level in COUNTED)
    ]


def json_report(url: str, outcomes: Sequence[Outcome], *, local: bool = False) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "url": url,
        "specification": "CDS Hooks 2.0",
        "conformant": not failing(outcomes, local=local),
        "checks": [
            {
                "id": each.about.id,
                "level": each.about.level,
                "requirement": each.about.requirement,
                "result": each.found.result,
                "seen": each.found.seen,
            }
            for each in outcomes
        ],
        "counts": {
            level: {result: found[result] for result in RESULTS}
            for level, found in counts(outcomes).items()
        },
        "not_checked": _rows(NOT_CHECKED),
        "left_out": _rows(LEFT_OUT),
    }


def _rows(rows: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"id": row, "about": about} for row, about in rows.items()]


def markdown_report(url: str, outcomes: Sequence[Outcome], *, local: bool = False) -> str:
    """Return everything as GitHub Flavored Markdown."""
    wrong = failing(outcomes, local=local)
    lines = [
        f"# CDS Hooks 2.0: {_cell(url)}",
        "",
        f"{len(wrong)} failures count." if wrong else "No failure that counts.",
        "",
        "| id | level | requirement | result | seen |",
        "|---|---|---|---|---|",
    ]
    for each in outcomes:
        about, found = each.about, each.found
        cells = (about.id, about.level, about.requirement, found.result, found.seen)
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    lines += ["", "| level | " + " | ".join(RESULTS) + " |", "|---|" + "--:|" * len(RESULTS)]
    for level, number in counts(outcomes).items():
        figures = " | ".join(str(number[result]) for result in RESULTS)
        lines.append(f"| {level} | {figures} |")
    lines += ["", "Not checked:", ""]
    lines += [f"- {row}: {_cell(reason)}" for row, reason in NOT_CHECKED.items()]
    lines += ["", "Of version 3.0 (ballot), left out:", ""]
    lines += [f"- {row}: {_cell(about)}" for row, about in LEFT_OUT.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text of one line in which nothing is Markdown or HTML."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]{}|":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
