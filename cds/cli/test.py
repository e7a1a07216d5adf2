"""The command `test`: cases beside rules, which criteria they try, which mistakes they notice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cds.cli.common import (
    FAILED,
    INTERNAL,
    SITE,
    page,
    print_json,
    progress,
    say,
    unusable,
    whole_file,
)

if TYPE_CHECKING:
    from cds.cases import Case
    from cds.cli.case_views import Outcome
    from cds.harness import CaseResult
    from cds.mcdc import Coverage
    from cds.mutation import MutationReport
    from cds.rules import Rulesets
    from cds.screening import Screener

__all__ = ["test"]


@click.command()
@click.argument(
    "folders", nargs=-1, metavar="[DIR]...", type=click.Path(exists=True, file_okay=False)
)
@click.option(
    "-k", "words", metavar="EXPR", help="Only cases that match words joined by and/or/not."
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="List every case, and each open criterion and unnoticed change with a case for it.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)
@click.option(
    "--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Also write JUnit XML."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit with 1 if less of the criteria is covered.",
)
@click.option("--no-mutation", is_flag=True, help="Do not try whether the cases see changed rules.")
@click.option(
    "--export",
    "export_to",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write each case as a FHIR Bundle and as a CDS Hooks request, and test nothing.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "durable", "reference", "verify"]),
    default="auto",
    show_default=True,
    help="Which engine runs the rules; verify runs both and compares.",
)
@SITE
def test(
    folders: tuple[str, ...],
    words: str | None,
    verbose: bool,
    form: str,
    junit: str | None,
    fail_under: float | None,
    no_mutation: bool,
    export_to: str | None,
    engine: str,
    site: str | None,
) -> None:
    """Run the cases of ruleset folders, or of single groups; by default of the shipped rules.

    A DIR is a folder with groups of rules, or one such group, which is tested together with the
    groups beside it. Cases stand in cases.yaml beside rules.yaml.

    Also says which criteria of the rules no case decides, and changes the rules in many small
    ways to see whether a case notices each; with -k neither.

    Exit code 1 where anything fails.
    """
    from cds.cases import load_tested, matcher
    from cds.screening import Screener

    if words is not None and fail_under is not None:
        raise click.UsageError("--fail-under is about all cases; it does not go with -k")
    if export_to is not None and (junit or fail_under is not None or form != "text"):
        raise click.UsageError("--export tests nothing, so there is nothing else to write")
    matches = matcher(words) if words is not None else None
    rulesets, groups = load_tested(*folders, site=site)
    cases = _cases(rulesets, groups)
    chosen = [case for case in cases if matches is None or matches(case)]
    if cases and not chosen:
        unusable(f"none of {len(cases)} cases matches -k '{words}'")
    if export_to is not None:
        from cds.cli.case_export import export

        export(chosen, rulesets.terminology, Path(export_to))
        return

    from cds.cli.case_views import Outcome

    screener = Screener(rulesets, engine)
    results = _run(screener, chosen)
    outcome = Outcome(rulesets, groups, results, fail_under=fail_under)
    if results and matches is None:
        outcome.coverage = _covered(rulesets, results, groups)
        if not no_mutation and outcome.failed:
            say("the rules are changed and tried only when no case fails")
        elif not no_mutation:
            outcome.mutants = _mutants(screener, results, groups)
    _write(outcome, form, verbose, junit, screener)
    if any(f.kind == "internal" for result in results for f in result.failures):
        sys.exit(INTERNAL)
    if not outcome.passed:
        sys.exit(FAILED)


def _cases(rulesets: Rulesets, groups: Sequence[str]) -> list[Case]:
    """Return the cases of the groups; says which group has none."""
    from cds.cases import load_cases

    cases = load_cases(rulesets, groups)
    having = {case.group for case in cases}
    for group in groups:
        if having and group not in having:
            say(f"warning: group '{group}' has no case")
    return cases


def _run(screener: Screener, cases: Sequence[Case]) -> list[CaseResult]:
    from cds.harness import run

    return list(progress(run(screener, cases), "cases", len(cases)))


def _covered(rulesets: Rulesets, results: Sequence[CaseResult], groups: Sequence[str]) -> Coverage:
    """Return which criteria of the rules of these groups the cases try."""
    from cds.mcdc import Coverage, measure

    measured = measure(results, rulesets)
    own = {rule.id for file in rulesets.files if file.group in groups for rule in file.rules}
    by_rule = {id_: rule for id_, rule in measured.by_rule.items() if id_ in own}
    return Coverage(
        sum(rule.total for rule in by_rule.values()),
        sum(rule.covered for rule in by_rule.values()),
        tuple(open_ for open_ in measured.open if open_.rule in own),
        by_rule,
    )


def _mutants(
    screener: Screener, results: Sequence[CaseResult], groups: Sequence[str]
) -> MutationReport:
    """Change the rules of these groups in many small ways; return which changes were noticed."""
    from cds.mutation import test_mutants

    with ExitStack() as stack:
        bars: list[Any] = []

        def tell(done: int, total: int) -> None:
            if not bars:
                hidden = not sys.stderr.isatty()
                bar = click.progressbar(
                    length=total, label="mutants", file=sys.stderr, hidden=hidden
                )
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        return test_mutants(screener, results, groups=groups, progress=tell)


def _write(
    outcome: Outcome, form: str, verbose: bool, junit: str | None, screener: Screener
) -> None:
    """Write the outcome in every form that was asked for."""
    from cds.cli import case_views
    from cds.mcdc import OpenCriterion, suggest

    as_of = max((result.case.as_of for result in outcome.results), default=0)

    def suggested(open_: OpenCriterion) -> str | None:
        return suggest(screener, open_, as_of)

    if junit is not None:
        with whole_file(junit) as part:
            part.write_bytes(case_views.junit_xml(outcome, verbose=verbose))
    if form == "json":
        print_json(case_views.outcome_dict(outcome, verbose=verbose, suggest=suggested))
    else:
        case_views.write_outcome(page(), outcome, verbose=verbose, suggest=suggested)
