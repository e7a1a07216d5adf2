"""The command `diff`: what changed between two versions of rules, also on patients."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from cds.cli.common import (
    INTERNAL,
    REJECTED,
    SITE,
    UNUSABLE,
    as_of_seconds,
    existing,
    internal_error,
    moment,
    page,
    print_json,
    progress,
    say,
)

if TYPE_CHECKING:
    from cds.diff import CohortDiff

__all__ = ["diff"]


@click.command()
@click.argument("old")
@click.argument("new")
@click.option(
    "--cohort",
    "paths",
    multiple=True,
    metavar="PATH",
    callback=existing,
    help="Patients to assess with both versions: files and folders as for 'cds screen'; can be "
    "given several times.",
)
@click.option(
    "--as-of",
    callback=moment,
    metavar="TIME",
    help="The instant for which the cohort is judged, ISO 8601 with offset; a plain date means "
    "00:00 UTC. Default: now.",
)
@click.option(
    "--rules-path",
    default="rulesets",
    show_default=True,
    metavar="PATH",
    help="The folder of rules in a git revision, from the top of the checkout.",
)
@SITE
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "md"]),
    default="text",
    show_default=True,
)
def diff(
    old: str,
    new: str,
    paths: tuple[str, ...],
    as_of: datetime | None,
    rules_path: str,
    site: str | None,
    form: str,
) -> None:
    """Say what changed from the rules OLD to the rules NEW.

    OLD and NEW are folders of rules, or git revisions of the checkout that you are in (HEAD~1,
    v1.2.0). Where a name is both, write ./NAME for the folder and git:NAME for the revision.

    What can change who is found comes first, texts after. A difference is no failure: the exit
    code is 0.
    """
    from cds.diff import CohortDiff, compare, load_version
    from cds.diff.layout import Report, markdown, to_dict, write_text

    before, after = (load_version(name, rules_path, site) for name in (old, new))
    when = as_of_seconds(as_of)
    cohort = None
    if paths:
        cohort = CohortDiff(before.rulesets, after.rulesets)
        for _ in progress(_told(cohort, paths, when), "Patients"):
            pass
    report = Report(before, after, compare(before.rulesets, after.rulesets), cohort, when)
    if form == "json":
        print_json(to_dict(report))
    elif form == "md":
        click.echo(markdown(report), nl=False)
    else:
        write_text(page(), report)
    sys.stdout.flush()
    if cohort is not None:
        sys.exit(_exit_code(cohort))


def _told(cohort: CohortDiff, paths: tuple[str, ...], as_of: int) -> Iterator[str]:
    """Yield each patient; an error is told as soon as it is known."""
    told = 0
    for patient in cohort.run(paths, as_of):
        for who, error in cohort.failed[told:]:
            internal_error(error, who)
        told = len(cohort.failed)
        yield patient


def _exit_code(cohort: CohortDiff) -> int:
    """Say what could not be used, and return the exit code of the contract."""
    for where, message in cohort.rejected:
        say(f"rejected: {where}: {message}")
    if cohort.failed:
        return INTERNAL
    if cohort.nothing_read:
        say("nothing at all could be read")
        return UNUSABLE
    if not cohort.total:
        say("no patient was found")
    return REJECTED if cohort.rejected else 0
