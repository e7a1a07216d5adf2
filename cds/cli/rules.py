"""The command `rules`: the catalog."""

from __future__ import annotations

import click

from cds.cli.common import RULESETS, page, print_json

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
def rules(folders: tuple[str, ...], form: str, coverage: bool) -> None:
    """Show the rules: criteria, thresholds, evidence, review state."""
    from cds import catalog, report
    from cds.rules import load_rulesets

    if coverage and form not in ("text", "json"):
        raise click.UsageError("--coverage can be shown as text or json")
    rulesets = load_rulesets(*folders)
    if coverage:
        covered = catalog.coverage(rulesets, *folders)
        print_json(covered) if form == "json" else report.write_coverage(page(), covered)
        return
    entries = catalog.catalog(rulesets)
    match form:
        case "json":
            print_json(entries)
        case "md":
            click.echo(report.catalog_markdown(entries))
        case "html":
            click.echo(report.catalog_html(entries))
        case _:
            report.write_catalog(page(), entries)
