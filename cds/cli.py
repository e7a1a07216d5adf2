"""The command `cds`: arguments in, results to standard output, all else to standard error.

No clinical logic and no layout stand here (`report.py` has the views). What is heavy is
imported inside the commands, so that help and usage errors answer at once. This is the only
place that reads the clock.

Exit codes: 0 done; 1 a check failed; 2 unusable arguments, or nothing at all could be read;
3 finished, but something was rejected; 4 internal error. If several apply: 4, 2, 1, 3. A
closed pipe and Ctrl-C end quietly with 141 and 130, as a shell reports these signals.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from cds import __version__
from cds.errors import CardError, CdsError, EngineError
from cds.model import Tier

if TYPE_CHECKING:
    from cds.fhir import ReadLog
    from cds.model import Record
    from cds.report import Page
    from cds.rules import Rulesets
    from cds.screening import Assessment, Audience, Screener

__all__ = ["main"]

FAILED, UNUSABLE, REJECTED, INTERNAL = 1, 2, 3, 4
INTERRUPTED, PIPE_CLOSED = 130, 141

_PATIENCE = 2.0  # seconds before progress is shown
_NAMED = 10  # patients or kinds that a message names


# ---------------------------------------------------------------- what may go wrong


class _Commands(click.Group):
    """Gives every way to end its exit code, and never shows a traceback by itself."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            # Python would try to flush the closed pipe once more, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except OSError as error:  # input that cannot be read is rejected, so this is output
            _say(f"the output cannot be written: {error.strerror}")
            ctx.exit(INTERNAL)
        except (EngineError, CardError) as error:
            _internal_error(error)
            ctx.exit(INTERNAL)
        except CdsError as error:
            _say(str(error))
            ctx.exit(UNUSABLE)
        except Exception as error:
            _internal_error(error)
            ctx.exit(INTERNAL)


def _say(text: str) -> None:
    from cds.report import visible

    for line in text.splitlines():
        click.echo(f"cds: {visible(line)}", err=True)


def _internal_error(error: Exception, patient: str = "") -> None:
    """Name an error that should not happen; its own text only where it is one of ours.

    The text of any other exception may quote the patient's data.
    """
    if isinstance(error, CdsError):
        what = str(error)
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} at {os.path.basename(frame.filename)}:{frame.lineno}"
    who = f", so {patient} has no result" if patient else ""
    hint = "" if os.environ.get("CDS_DEBUG") else " (CDS_DEBUG=1 shows more, also patient data)"
    _say(f"internal error{who}: {what}{hint}")
    if os.environ.get("CDS_DEBUG"):
        _say("".join(traceback.format_exception(error)))


# ---------------------------------------------------------------- arguments


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read ISO 8601 with offset; a plain date is its first second in UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None and len(value) == len("2026-11-01"):
            moment = moment.replace(tzinfo=UTC)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!a} is not a time such as 2026-11-01T00:00:00Z") from None
    raise click.BadParameter(
        f"{value!a} has no time zone; write for example 2026-11-01T08:30:00Z "
        "or 2026-11-01T08:30:00+01:00"
    )


def _existing(
    ctx: click.Context, param: click.Parameter, paths: tuple[str, ...]
) -> tuple[str, ...]:
    for path in paths:
        # A link that leads nowhere exists; reading it is what fails.
        if path != "-" and not os.path.lexists(path):
            raise click.BadParameter(f"{path!a} does not exist", ctx, param)
    return paths


F = TypeVar("F", bound=Callable[..., Any])


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_RULESETS = click.option(
    "--rulesets",
    "folders",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="Folder of rule files to use in place of the shipped ones; can be given several times.",
)
_INPUT = _options(
    click.argument("paths", nargs=-1, required=True, metavar="PATH...", callback=_existing),
    click.option(
        "--as-of",
        callback=_moment,
        metavar="TIME",
        help="The instant for which patients are judged, ISO 8601 with offset; a plain date "
        "means 00:00 UTC. Default: now.",
    ),
    _RULESETS,
    click.option(
        "--engine",
        type=click.Choice(["auto", "durable", "reference", "verify"]),
        default="auto",
        show_default=True,
        help="Which engine runs the rules; verify runs both and compares.",
    ),
    click.option(
        "--strict", is_flag=True, help="Validate every used resource wholly with fhir.resources."
    ),
)


def _as_of(moment: datetime | None) -> int:
    from cds.screening import instant

    return instant(moment or datetime.now(UTC))


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
        self._shows_progress = _on_terminal()

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
        _internal_error(error, patient)

    def tell(self) -> None:
        """List what was rejected since the last time."""
        for rejected in self.log.rejected[self._told :]:
            _say(f"rejected: {rejected.where}: {rejected.message}")
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
            _say(f"{problem.severity}: {problem.message} [{problem.code}]")
        count = self.patients.total()
        _say(f"{count} patient{'s' * (count != 1)} assessed" + _kinds(self.patients))
        for total, what, kinds in (
            (sum(self.log.skipped.values()), "skipped, of no use to any rule", self.log.skipped),
            (self.problems.total(), "noted inside used resources", self.problems),
            (len(self.log.rejected), "rejected, listed above", {}),
        ):
            if total:
                _say(f"{total} {what}{_kinds(kinds)}")

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
            _say("nothing at all could be read")
            return UNUSABLE
        if failed:
            return FAILED
        return REJECTED if self.log.rejected else 0


def _on_terminal() -> bool:
    """Whether a person waits for a command whose results go elsewhere."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


def _kinds(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ranked) - _NAMED} other kinds" if len(ranked) > _NAMED else ""
    return " (" + ", ".join(f"{kind} {n}" for kind, n in ranked[:_NAMED]) + more + ")"


# ---------------------------------------------------------------- commands


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cds", message="%(prog)s %(version)s")
def main() -> None:
    """Decision support for muscle twitching: FHIR in, explained findings out.

    Not a medical device. The rules are drafts that no clinician has signed.
    """


@main.command()
@_INPUT
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
    engine: str,
    strict: bool,
    form: str,
    audience: Audience,
    fail_on: str | None,
    everything: bool,
) -> None:
    """Assess each patient found in PATHs.

    A PATH is a Bundle (of any type), a single resource, an NDJSON file, a folder of these
    (*.json, *.ndjson, also gzipped), or - for standard input.

    Results go to standard output, everything else to standard error. What was rejected is
    listed on standard error; with --format text also at the end of the output.
    """
    from cds.rules import load_rulesets
    from cds.screening import Screener

    rulesets = load_rulesets(*folders)
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
    run.assessments(_as_of(as_of), use)
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
        self.page = _page()

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


def _page() -> Page:
    from cds.report import Page

    # A terminal that cannot show a letter gets its number, never an exception.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return Page(sys.stdout)


@main.command()
@_INPUT
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
    engine: str,
    strict: bool,
    rule_id: str,
    patient: str | None,
    form: str,
) -> None:
    """Say why a rule fired or did not: each criterion with what was found."""
    from cds.catalog import explanation_dict
    from cds.report import write_explanation
    from cds.rules import load_rulesets
    from cds.screening import Screener

    rulesets = load_rulesets(*folders)
    if rule_id not in rulesets.program.by_id:
        raise click.BadParameter(_unknown_rule(rule_id, rulesets), param_hint="--rule")
    run = _Run(Screener(rulesets, engine, strict=strict), paths)
    record = _one_patient(run, patient)
    try:
        assessment = run.screener.assess(record, _as_of(as_of))
        explanation = explanation_dict(assessment.explain(rule_id), assessment.evaluation, rulesets)
    except Exception as error:
        run.fail(error, record.patient)
    else:
        run.patients["explained"] += 1
        if form == "json":
            _print_json(explanation)
        else:
            write_explanation(_page(), explanation)
    sys.stdout.flush()
    sys.exit(run.exit_code())


def _unknown_rule(rule_id: str, rulesets: Rulesets) -> str:
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
        _say("nothing at all could be read")
        sys.exit(UNUSABLE)
    listed = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    if not found:
        _unusable(f"no patient {wanted}; found: {listed}" if wanted else "no patient was found")
    if len(found) > 1:
        if wanted or len(names) == 1:
            _unusable(f"{found[0].patient} stands in several Bundles; name only one of the files")
        _unusable(f"{len(names)} patients were found, name one with --patient: {listed}")
    return found[0]


def _unusable(message: str) -> NoReturn:
    _say(message)
    sys.exit(UNUSABLE)


@main.command()
@_RULESETS
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
        _print_json(covered) if form == "json" else report.write_coverage(_page(), covered)
        return
    entries = catalog.catalog(rulesets)
    match form:
        case "json":
            _print_json(entries)
        case "md":
            click.echo(report.catalog_markdown(entries))
        case "html":
            click.echo(report.catalog_html(entries))
        case _:
            report.write_catalog(_page(), entries)


def _print_json(values: object) -> None:
    import orjson

    click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2))
