"""What `cds test` shows: the outcome of a run as text, JSON and JUnit XML."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import click

from cds.cli.common import place
from cds.facts import iso
from cds.report import visible

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from cds.harness import CaseResult
    from cds.mcdc import Coverage, OpenCriterion
    from cds.mutation import MutationReport
    from cds.report import Page
    from cds.rules import Rulesets

__all__ = ["SHOWN", "Outcome", "junit_xml", "outcome_dict", "write_outcome"]

SHOWN: Final = 5
"""Open criteria and surviving mutants that get a case to paste, unless all are asked for."""

# Characters that no XML 1.0 document may hold (section 2.2).
_NO_XML: Final = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_Suggest = Callable[["OpenCriterion"], str | None]


@dataclass
class Outcome:
    """What a run of cases came to.

    Args:
        rulesets: the rules that were tested.
        groups: the groups whose cases were meant.
        results: one for each case, in file order.
        fail_under: the coverage, of 100, that is demanded; None for none.
        coverage: of the groups' rules; None where it was not measured.
        mutants: None where the rules were not mutated.
    """

    rulesets: Rulesets
    groups: Sequence[str]
    results: Sequence[CaseResult]
    fail_under: float | None = None
    coverage: Coverage | None = None
    mutants: MutationReport | None = None

    @cached_property
    def failed(self) -> list[CaseResult]:
        """The cases that failed."""
        return [result for result in self.results if not result.passed]

    @property
    def covered_enough(self) -> bool:
        """Whether as many criteria are covered as was demanded."""
        wanted = self.fail_under
        return wanted is None or self.coverage is None or self.coverage.percent >= wanted

    @property
    def passed(self) -> bool:
        """Whether nothing failed; to have no case at all is a failure."""
        killed = self.mutants is None or not (self.mutants.survivors or self.mutants.faults)
        return bool(self.results) and not self.failed and self.covered_enough and killed

    @property
    def summary(self) -> str:
        """The whole in one line."""
        if not self.results:
            return f"no case in {', '.join(self.groups)}: write a cases.yaml beside rules.yaml"
        count, failed = len(self.results), len(self.failed)
        text = f"{count:,} case{'s' * (count != 1)}: {count - failed:,} passed"
        text += f", {failed:,} failed" if failed else ""
        if self.coverage is not None:
            text += f"; criteria {self.coverage.covered:,} of {self.coverage.total:,}"
            if not self.covered_enough:
                text += f" ({self.coverage.percent:.1f} %, {self.fail_under:g} % demanded)"
        if self.mutants is not None:
            m = self.mutants
            text += f"; mutants {m.total:,}: {m.killed:,} killed"
            text += f", {m.accepted:,} accepted" if m.accepted else ""
            text += f", {len(m.survivors):,} survived" if m.survivors else ""
            text += f", {len(m.faults):,} faults in mutants.yaml" if m.faults else ""
        return text

    def by_file(self) -> Iterator[tuple[str, str, list[CaseResult]]]:
        """Yield each group with its file of cases, "" for none, and the results of these."""
        for group in self.groups:
            own = [result for result in self.results if result.case.group == group]
            yield group, place(own[0].case.path) if own else "", own


# ---------------------------------------------------------------- text


def write_outcome(page: Page, outcome: Outcome, *, verbose: bool, suggest: _Suggest) -> None:
    """Write a table, then what failed, then what no case tries; the last line sums up.

    `verbose` lists every case, open criterion and mutant. `suggest` gives a case for a criterion.
    """
    rows = [("group", "file", "passed", "failed")]
    for group, file, results in outcome.by_file():
        failed = sum(not result.passed for result in results)
        counts = (str(len(results) - failed), str(failed)) if results else ("", "")
        rows.append((group, file or "no case", *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        sides = zip(row, widths, "<<>>", strict=True)
        _verbatim("  ".join(f"{cell:{side}{width}}" for cell, width, side in sides))
    for result in outcome.results if verbose else outcome.failed:
        _write_case(page, result)
    if outcome.coverage is not None:
        _write_open(page, outcome.coverage, verbose, suggest)
    if outcome.mutants is not None:
        _write_mutants(page, outcome.mutants, verbose)
    page.line()
    _verbatim(outcome.summary, color="green" if outcome.passed else "red")


def _write_case(page: Page, result: CaseResult) -> None:
    case = result.case
    where = place(case.path, case.line)
    if result.passed:
        page.line(f"passed {where} {case.name}")
        return
    page.line()
    page.line(f"FAILED {where} {case.name}", style="red")
    for failure in result.failures:
        page.line(failure.message, indent=4)
        for line in failure.why:
            page.line(line.strip(), indent=6 + len(line) - len(line.lstrip()))


def _write_open(page: Page, coverage: Coverage, verbose: bool, suggest: _Suggest) -> None:
    shown = coverage.open if verbose else coverage.open[:SHOWN]
    if not shown:
        return
    page.heading("Criteria that no case tries wholly")
    for open_ in shown:
        page.line(f"{place(open_.path, open_.line)} {open_.rule}: {open_.criterion}")
        page.line(f"{open_.lacks} [{open_.where}]", indent=4)
        _write_yaml(page, suggest(open_), "no case was found that does; perhaps none can")
    if len(coverage.open) > len(shown):
        page.line(f"and {len(coverage.open) - len(shown)} more; -v lists all of them")


def _write_mutants(page: Page, mutants: MutationReport, verbose: bool) -> None:
    shown = mutants.survivors if verbose else mutants.survivors[:SHOWN]
    if shown:
        page.heading("Changes of the rules that no case notices")
    for mutant in shown:
        page.line(f"{place(mutant.path, mutant.line)} {mutant.rule}: {mutant.description}")
        page.line(f"mutant {mutant.id}", indent=4)
        _write_yaml(page, mutant.case, _UNNOTICED)
    if len(mutants.survivors) > len(shown):
        page.line(f"and {len(mutants.survivors) - len(shown)} more; -v lists all of them")
    if mutants.faults:
        page.heading("Faults in the list of accepted mutants")
    for fault in mutants.faults:
        page.line(str(fault))


_UNNOTICED: Final = (
    "no case was found that does; if none can, list it with the reason in mutants.yaml beside the "
    "cases"
)


def _write_yaml(page: Page, case: str | None, otherwise: str) -> None:
    """Write a case as it can be pasted, line by line."""
    if case is None:
        page.line(otherwise, indent=4)
        return
    page.line("a case that does:", indent=4)
    for line in case.splitlines():
        _verbatim(line)


def _verbatim(line: str, *, color: str | None = None) -> None:
    """Write a line as it is, however long."""
    plain = bool(os.environ.get("NO_COLOR"))
    click.secho(visible(line.rstrip()), fg=color, color=False if plain else None)


# ---------------------------------------------------------------- JSON


def outcome_dict(outcome: Outcome, *, verbose: bool, suggest: _Suggest) -> dict[str, Any]:
    """Return the outcome as JSON-ready values; `verbose` gives a case for everything."""
    values: dict[str, Any] = {
        "passed": outcome.passed,
        "summary": outcome.summary,
        "groups": [
            {
                "group": group,
                "path": file or None,
                "passed": sum(result.passed for result in results),
                "failed": sum(not result.passed for result in results),
            }
            for group, file, results in outcome.by_file()
        ],
        "cases": [_case_dict(result) for result in outcome.results],
    }
    if outcome.coverage is not None:
        covered = outcome.coverage
        values["coverage"] = {
            "total": covered.total,
            "covered": covered.covered,
            "percent": round(covered.percent, 2),
            "open": [
                {
                    "rule": open_.rule,
                    "path": place(open_.path),
                    "line": open_.line,
                    "where": open_.where,
                    "criterion": open_.criterion,
                    "lacks": open_.lacks,
                    **({"case": suggest(open_)} if verbose or number < SHOWN else {}),
                }
                for number, open_ in enumerate(covered.open)
            ],
        }
    if outcome.mutants is not None:
        mutants = outcome.mutants
        values["mutation"] = {
            "total": mutants.total,
            "killed": mutants.killed,
            "accepted": mutants.accepted,
            "evaluations": mutants.evaluations,
            "seconds": round(mutants.seconds, 3),
            "survivors": [
                {
                    "id": mutant.id,
                    "rule": mutant.rule,
                    "path": place(mutant.path),
                    "line": mutant.line,
                    "description": mutant.description,
                    **({"case": mutant.case} if verbose or number < SHOWN else {}),
                }
                for number, mutant in enumerate(mutants.survivors)
            ],
            "faults": [str(fault) for fault in mutants.faults],
        }
    return values


def _case_dict(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "group": case.group,
        "name": case.name,
        "path": place(case.path),
        "line": case.line,
        "as_of": iso(case.as_of),
        "passed": result.passed,
        "failures": [
            {"kind": f.kind, "subject": f.subject, "message": f.message, "why": list(f.why)}
            for f in result.failures
        ],
    }


# ---------------------------------------------------------------- JUnit


def junit_xml(outcome: Outcome, *, verbose: bool) -> bytes:
    """Return the outcome as JUnit XML: a suite for each group, and one for mutants that survived.

    Coverage below what was demanded is a failing test of the suite "criteria". `verbose` gives a
    case for every mutant.
    """
    from xml.etree.ElementTree import Element, indent, tostring

    root = Element("testsuites", name="cds test")
    for group, _, results in outcome.by_file():
        suite = _suite(root, group)
        for result in results:
            case = result.case
            where = {"file": place(case.path), "line": str(case.line)}
            faults = [(f.kind, f.message, str(f)) for f in result.failures]
            _test(suite, case.name, group, where, faults)
    if outcome.fail_under is not None and outcome.coverage is not None:
        missed = [] if outcome.covered_enough else [("coverage", outcome.summary, outcome.summary)]
        _test(_suite(root, "criteria"), "coverage of criteria", "criteria", {}, missed)
    if outcome.mutants is not None and (outcome.mutants.survivors or outcome.mutants.faults):
        suite = _suite(root, "mutants")
        for number, mutant in enumerate(outcome.mutants.survivors):
            where = {"file": place(mutant.path), "line": str(mutant.line)}
            said = f"no case notices: {mutant.description}"
            paste = mutant.case if verbose or number < SHOWN else None
            fault = ("mutant", said, "\n".join([said, paste or ""]))
            _test(suite, mutant.id, "mutants", where, [fault])
        for number, text in enumerate(map(str, outcome.mutants.faults), start=1):
            _test(suite, f"mutants.yaml {number}", "mutants", {}, [("mutant", text, text)])
    for suite in root:
        suite.set("tests", str(len(suite)))
        for word in ("failure", "error"):
            suite.set(f"{word}s", str(sum(test.find(word) is not None for test in suite)))
    indent(root)
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _suite(root: Element, name: str) -> Element:
    from xml.etree.ElementTree import SubElement

    return SubElement(root, "testsuite", name=name)


def _test(
    suite: Element,
    name: str,
    group: str,
    where: dict[str, str],
    faults: Sequence[tuple[str, str, str]],
) -> None:
    """Add one test; its faults are (kind, message, whole text)."""
    from xml.etree.ElementTree import SubElement

    test = SubElement(suite, "testcase", {"classname": group, "name": _xml(name), **where})
    if faults:
        kind, message, _ = faults[0]
        word = "error" if kind in ("error", "internal") else "failure"
        fault = SubElement(test, word, type=kind, message=_xml(message))
        fault.text = _xml("\n".join(text for _, _, text in faults))


def _xml(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
