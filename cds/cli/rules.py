"""The command `rules`: the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cds.cli.common import RULESETS, loaded, page, print_json

if TYPE_CHECKING:
    from cds.rules import Rulesets

__all__ = ["rules"]


@click.command()
@RULESETS
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "md", "html"]),
    default="text",
    show_default=True,
)
@click.option(
    "--coverage",
    is_flag=True,
    help="Which claims, red flags, thresholds and medication rules are covered by which rules.",
)
def rules(folders: tuple[str, ...], site: str | None, form: str, coverage: bool) -> None:
    """Show the rules: criteria, thresholds, evidence, review state, what a site changed."""
    from cds import catalog, report
    from cds import coverage as covering

    if coverage and form not in ("text", "json"):
        raise click.UsageError("--coverage can be shown as text or json")
    rulesets = loaded(folders, site)
    if coverage:
        found = covering.coverage(rulesets, *folders)
        if form == "json":
            print_json(found)
        else:
            report.write_coverage(page(), found, covering.rows(*folders))
        return
    entries = catalog.catalog(rulesets)
    match form:
        case "json":
            print_json(entries)
        case "md":
            click.echo(report.catalog_markdown(entries))
        case "html":
            from cds.catalog_page import catalog_page

            cases, tried = _tried(rulesets)
            page_text = catalog_page(rulesets, cases=cases, coverage=tried)
            click.echo(page_text.encode())  # the page says that it is UTF-8
        case _:
            report.write_catalog(page(), entries, rulesets.site)


def _tried(rulesets: Rulesets) -> tuple[dict[str, list[Any]] | None, dict[str, Any] | None]:
    """Return the cases of each rule and what they cover, or None where there is no case."""
    from cds import mcdc
    from cds.cases import load_cases
    from cds.harness import run
    from cds.screening import Screener

    results = list(run(Screener(rulesets), load_cases(rulesets)))
    if not results:
        return None, None
    makers: dict[str, list[str]] = {}
    for compiled in rulesets.program.rules:
        makers.setdefault(compiled.rule.finding_id, []).append(compiled.rule.id)
    cases: dict[str, list[Any]] = {}
    for result in results:
        case, expect = result.case, result.case.expect
        shown = [r for finding in expect.shows or () for r in makers[finding]]
        shown = [r for r in shown if r not in expect.fires and r not in expect.not_]
        for rules, word in (
            (expect.fires, "fires"),
            (shown, "its finding is shown"),
            (expect.not_, "does not fire"),
        ):
            for rule in rules:
                tier = f"; tier of the patient: {expect.tier}" if expect.tier else ""
                failed = "" if result.passed else " (FAILS)"
                entry = {"name": case.name, "expectation": word + tier + failed}
                place = {"path": "/".join(Path(case.path).parts[-2:]), "line": case.line}
                cases.setdefault(rule, []).append({**entry, **place})
    coverage: dict[str, Any] = {}
    measured = mcdc.measure(results, rulesets)
    for rule, covered in measured.by_rule.items():
        left = [f"{o.criterion}: {o.lacks}" for o in measured.open if o.rule == rule]
        coverage[rule] = {"criteria": covered.total, "covered": covered.covered, "open": left}
    return cases, coverage
