"""The commands `screen` and `explain`: patients in, findings or reasons out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from cds.cli.common import (
    FAILED,
    INPUT,
    INTERNAL,
    NAMED,
    REJECTED,
    UNUSABLE,
    as_of_seconds,
    counted,
    internal_error,
    loaded,
    on_terminal,
    page,
    print_json,
    say,
    starting,
    unusable,
)
from cds.errors import CdsError
from cds.model import Tier

if TYPE_CHECKING:
    from cds.fhir import ReadLog
    from cds.model import Record
    from cds.rules import Rulesets
    from cds.screening import Assessment, Audience, Screener

__all__ = ["explain", "screen"]

_PATIENCE = 2.0  # seconds before progress is shown


# ---------------------------------------------------------------- reading


class _Run:
    """One run over files: what was read, rejected and assessed, and what that means at the end."""

    def __init__(self, screener: Screener, paths: Sequence[str]) -> None:
        from cds.fhir import ReadLog

        self.screener, self.paths = screener, paths
        self.log: ReadLog = ReadLog()
        self.broken = False
        self.patients: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self._told = 0
        self._started = monotonic()
        self._shows_progress = on_terminal()

    def records(self) -> Iterator[Record]:
        """Yield every patient as read; what is rejected is told as soon as it is known."""
        records = self.screener.reader.read_paths(list(self.paths), self.log)
        while True:
            try:
                record = next(records, None)
            except (CdsError, OSError):
                raise
            except Exception as error:
                self.fail(error)
                record = None
            self.tell()
            if record is None:
                return
            yield record

    def assessments(self, as_of: int, use: Callable[[Assessment], None]) -> None:
        """Assess every patient and hand it to `use`; an error loses only that patient."""
        for record in self.records():
            try:
                assessment = self.screener.assess(record, as_of)
                use(assessment)
            except OSError:  # of the output
                raise
            except Exception as error:
                self.fail(error, record.patient)
                continue
            tier = assessment.tier
            self.patients[tier.name if tier is not None else "no finding"] += 1
            self.problems.update(p.code for p in assessment.evaluation.problems)
            self.progress()

    def fail(self, error: Exception, patient: str = "") -> None:
        """Note an internal error; the run goes on."""
        self.broken = True
        internal_error(error, patient)

    def tell(self) -> None:
        """List what was rejected since the last time."""
        for rejected in self.log.rejected[self._told :]:
            say(f"rejected: {rejected.where}: {rejected.message}")
        self._told = len(self.log.rejected)

    def progress(self) -> None:
        """Count on a terminal, once a run has taken a while and nothing else shows it."""
        if self._shows_progress and monotonic() - self._started > _PATIENCE:
            click.echo(f"\r{self.patients.total()} patients assessed", err=True, nl=False)

    def finish(self) -> None:
        """Say in a few lines what the run was."""
        if self._shows_progress and monotonic() - self._started > _PATIENCE:
            click.echo(err=True)
        self.tell()
        for problem in self.log.problems:
            say(f"{problem.severity}: {problem.message} [{problem.code}]")
        count = self.patients.total()
        say(f"{count} patient{'s' * (count != 1)} assessed" + counted(self.patients))
        for total, what, kinds in (
            (sum(self.log.skipped.values()), "skipped, of no use to any rule", self.log.skipped),
            (self.problems.total(), "noted inside used resources", self.problems),
            (len(self.log.rejected), "rejected, listed above", {}),
        ):
            if total:
                say(f"{total} {what}{counted(kinds)}")

    @property
    def nothing_read(self) -> bool:
        """Whether the paths held no FHIR resource that could be read, of whatever use."""
        of_no_use = sum(n for kind, n in self.log.skipped.items() if kind != "not FHIR")
        return self.log.used + of_no_use == 0

    def exit_code(self, *, failed: bool = False) -> int:
        """Return the exit code of the contract: of several, 4, 2, 1, 3 in this order."""
        if self.broken:
            return INTERNAL
        if self.nothing_read:
            say("nothing at all could be read")
            return UNUSABLE
        if failed:
            return FAILED
        return REJECTED if self.log.rejected else 0


@click.command()
@INPUT
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "ndjson"]),
    default="text",
    show_default=True,
    help="json: one array of assessments; ndjson: one assessment a line.",
)
@click.option(
    "--audience",
    type=click.Choice(["clinician", "patient"]),
    default="clinician",
    show_default=True,
    help="Whom the cards speak to.",
)
@click.option(
    "--language",
    metavar="TAG",
    help="Language of the card texts (es, pt-BR), where the rules have a translation.",
)
@click.option(
    "--fail-on",
    type=click.Choice([tier.name for tier in Tier]),
    help="Exit with 1 if any patient has a finding of this tier or a higher one.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List every rule that could not be decided, not only those that nearly fired.",
)
def screen(
    paths: tuple[str, ...],
    as_of: datetime | None,
    folders: tuple[str, ...],
    site: str | None,
    engine: str,
    strict: bool,
    form: str,
    audience: Audience,
    language: str | None,
    fail_on: str | None,
    everything: bool,
) -> None:
    """Assess each patient found in PATHs.

    A PATH is a Bundle (of any type), a single resource, an NDJSON file, a folder of these
    (*.json, *.ndjson, also gzipped), or - for standard input.

    Results go to standard output, everything else to standard error. What was rejected is
    listed on standard error; with --format text also at the end of the output.
    """
    with starting():
        from cds.screening import Screener

        rulesets = loaded(folders, site, language)
        run = _Run(Screener(rulesets, engine, strict=strict), paths)
    worst = -1

    def use(assessment: Assessment) -> None:
        nonlocal worst
        output.write(assessment)
        worst = max(worst, -1 if assessment.tier is None else assessment.tier)

    output: _Json | _Text
    if form == "text":
        output = _Text(rulesets, audience, everything)
    else:
        output = _Json(audience, everything, lines=form == "ndjson")
    run.assessments(as_of_seconds(as_of), use)
    output.close(run.log)
    sys.stdout.flush()
    run.finish()
    failed = fail_on is not None and worst >= Tier[fail_on]
    sys.exit(run.exit_code(failed=failed))


class _Json:
    """Writes assessments as they come: one array, or one object a line.

    The last one also says, under `rejected`, what the run could not use.
    """

    def __init__(self, audience: Audience, everything: bool, *, lines: bool) -> None:
        self.audience, self.everything = audience, everything
        self.between, self.end = (b"", b"") if lines else (b",", b"]\n")
        self.before = b"" if lines else b"["
        self.held: dict[str, Any] | None = None

    def write(self, assessment: Assessment) -> None:
        values = assessment.to_dict(audience=self.audience, everything=self.everything)
        self._put_held()
        self.held = values

    def _put_held(self) -> None:
        import orjson

        if self.held is not None:
            text = orjson.dumps(self.held)
            sys.stdout.buffer.write(self.before + text + b"\n")
            self.before = self.between

    def close(self, log: ReadLog) -> None:
        from cds.wording import utf8

        if self.held is not None and log.rejected:
            self.held["rejected"] = [
                {"where": utf8(r.where), "message": utf8(r.message)} for r in log.rejected
            ]
        self._put_held()
        if self.end:
            sys.stdout.buffer.write((self.before if self.held is None else b"") + self.end)


class _Text:
    """Writes assessments for people."""

    def __init__(self, rulesets: Rulesets, audience: Audience, everything: bool) -> None:
        self.rulesets, self.audience, self.everything = rulesets, audience, everything
        self.page = page()

    def write(self, assessment: Assessment) -> None:
        from cds.report import write_assessment

        write_assessment(
            self.page,
            assessment,
            self.rulesets,
            audience=self.audience,
            everything=self.everything,
        )

    def close(self, log: ReadLog) -> None:
        if log.rejected:
            self.page.line("Rejected, so not part of any assessment", style="bold")
            for rejected in log.rejected:
                self.page.line(f"{rejected.where}: {rejected.message}", label="- ")


@click.command()
@INPUT
@click.option("--rule", "rule_id", required=True, metavar="ID", help="The rule to explain.")
@click.option(
    "--patient",
    metavar="REF",
    help='Which patient ("Patient/123" or "123"), where PATH holds several.',
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)
def explain(
    paths: tuple[str, ...],
    as_of: datetime | None,
    folders: tuple[str, ...],
    site: str | None,
    engine: str,
    strict: bool,
    rule_id: str,
    patient: str | None,
    form: str,
) -> None:
    """Say why a rule fired or did not: each criterion with what was found."""
    with starting():
        from cds.catalog import explanation_dict
        from cds.report import write_explanation
        from cds.screening import Screener

        rulesets = loaded(folders, site)
    if rulesets.site is not None and rule_id in rulesets.site.not_run:
        _explain_not_run(rulesets, rule_id, form)
        return
    if rule_id not in rulesets.program.by_id:
        raise click.BadParameter(unknown_rule(rule_id, rulesets), param_hint="--rule")
    run = _Run(Screener(rulesets, engine, strict=strict), paths)
    record = _one_patient(run, patient)
    try:
        assessment = run.screener.assess(record, as_of_seconds(as_of))
        explanation = explanation_dict(
            assessment.explain(rule_id),
            assessment.evaluation,
            rulesets,
            assessment.changes(rule_id),
        )
    except Exception as error:
        run.fail(error, record.patient)
    else:
        run.patients["explained"] += 1
        if form == "json":
            print_json(explanation)
        else:
            write_explanation(page(), explanation)
    sys.stdout.flush()
    sys.exit(run.exit_code())


def _explain_not_run(rulesets: Rulesets, rule_id: str, form: str) -> None:
    """Say why a site does not run a rule: the answer for every patient."""
    from cds.catalog import catalog
    from cds.report import write_not_run

    entry = next(e for e in catalog(rulesets) if e["id"] == rule_id)
    if form == "json":
        print_json({"rule": entry, "fired": False, "outcome": entry["not_run"]})
    else:
        write_not_run(page(), entry)


def unknown_rule(rule_id: str, rulesets: Rulesets) -> str:
    import difflib

    near = difflib.get_close_matches(rule_id, rulesets.program.by_id, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "'cds rules' lists them."
    return f"there is no rule {rule_id!a}; {hint}"


def _one_patient(run: _Run, wanted: str | None) -> Record:
    """Return the one patient that is wanted. Ends the command where there is none or more."""
    names: dict[str, int] = {}
    found: list[Record] = []
    for record in run.records():
        names[record.patient] = names.get(record.patient, 0) + 1
        if wanted is None or record.patient in (wanted, f"Patient/{wanted}"):
            found = [*found[-1:], record]
    if run.broken:
        sys.exit(INTERNAL)
    if not names and run.nothing_read:
        say("nothing at all could be read")
        sys.exit(UNUSABLE)
    listed = ", ".join(sorted(names)[:NAMED]) + (", ..." if len(names) > NAMED else "")
    if not found:
        unusable(f"no patient {wanted}; found: {listed}" if wanted else "no patient was found")
    if len(found) > 1:
        if wanted or len(names) == 1:
            unusable(f"{found[0].patient} stands in several Bundles; name only one of the files")
        unusable(f"{len(names)} patients were found, name one with --patient: {listed}")
    return found[0]
