"""What all commands share: how they end, their options, where results and messages go."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from cds.errors import CardError, CdsError, EngineError

if TYPE_CHECKING:
    from cds.report import Page
    from cds.rules import Rulesets

__all__ = [
    "FAILED",
    "INPUT",
    "INTERNAL",
    "NAMED",
    "REJECTED",
    "RULESETS",
    "SITE",
    "UNUSABLE",
    "Commands",
    "as_of_seconds",
    "counted",
    "existing",
    "internal_error",
    "loaded",
    "moment",
    "on_terminal",
    "options",
    "page",
    "place",
    "print_json",
    "progress",
    "say",
    "starting",
    "unusable",
    "whole_file",
]

FAILED, UNUSABLE, REJECTED, INTERNAL = 1, 2, 3, 4
INTERRUPTED, PIPE_CLOSED = 130, 141

NAMED = 10  # patients or kinds that a message names


# ---------------------------------------------------------------- what may go wrong


class Commands(click.Group):
    """Gives every way to end its exit code, and never shows a traceback by itself.

    Args:
        modules: each command and the module of this package that holds it as a function of
            that name ("new-rule": `new_rule`). A module is imported when it is needed.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if name not in self.modules:
            return None
        module = import_module(f"cds.cli.{self.modules[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; every error ends with a message and its exit code."""
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
            say(f"the output cannot be written: {error.strerror}")
            ctx.exit(INTERNAL)
        except (EngineError, CardError) as error:
            internal_error(error)
            ctx.exit(INTERNAL)
        except CdsError as error:
            say(str(error))
            ctx.exit(UNUSABLE)
        except Exception as error:
            internal_error(error)
            ctx.exit(INTERNAL)
        finally:
            gc.unfreeze()  # what `starting` did is for this command alone


@contextmanager
def starting() -> Iterator[None]:
    """Look for no garbage while that is loaded which stays to the end, and never among it.

    These looks would be about a sixth of what a command takes to start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def say(text: str) -> None:
    """Write to standard error, each line marked as ours."""
    from cds.report import visible

    for line in text.splitlines():
        click.echo(f"cds: {visible(line)}", err=True)


def internal_error(error: Exception, patient: str = "") -> None:
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
    say(f"internal error{who}: {what}{hint}")
    if os.environ.get("CDS_DEBUG"):
        say("".join(traceback.format_exception(error)))


# ---------------------------------------------------------------- arguments


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
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


def existing(ctx: click.Context, param: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a path that does not exist; - is standard input."""
    for path in paths:
        # A link that leads nowhere exists; reading it is what fails.
        if path != "-" and not os.path.lexists(path):
            raise click.BadParameter(f"{path!a} does not exist", ctx, param)
    return paths


F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Make one decorator of several options."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


SITE = click.option(
    "--site",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Profile of an institution, which changes the rules.",
)
RULESETS = options(
    click.option(
        "--rulesets",
        "folders",
        type=click.Path(exists=True, file_okay=False),
        multiple=True,
        metavar="DIR",
        help="Folder of rule files to use in place of the shipped and the installed ones; can be "
        "given several times.",
    ),
    SITE,
)
"""The rules that a command works with; `loaded` takes the values of both options."""


def loaded(folders: tuple[str, ...], site: str | None, language: str | None = None) -> Rulesets:
    """Return the rules of the options `RULESETS`. Raises: as `cds.load_rulesets`."""
    with starting():
        from cds.rules import load_rulesets

        return load_rulesets(*folders, site=site, language=language)


INPUT = options(
    click.argument("paths", nargs=-1, required=True, metavar="PATH...", callback=existing),
    click.option(
        "--as-of",
        callback=moment,
        metavar="TIME",
        help="The instant for which patients are judged, ISO 8601 with offset; a plain date "
        "means 00:00 UTC. Default: now.",
    ),
    RULESETS,
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


def as_of_seconds(moment: datetime | None) -> int:
    """Return the moment, by default now, in seconds since the epoch."""
    from cds.screening import instant

    return instant(moment or datetime.now(UTC))


def on_terminal() -> bool:
    """Whether a person waits for a command whose results go elsewhere."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


def counted(counts: dict[str, int]) -> str:
    """Return counts by kind in brackets, the most frequent first; "" for none."""
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", and {len(ranked) - NAMED} other kinds" if len(ranked) > NAMED else ""
    return " (" + ", ".join(f"{kind} {n}" for kind, n in ranked[:NAMED]) + more + ")"


def page() -> Page:
    """Return the page that views write to: standard output."""
    from cds.report import Page

    # A terminal that cannot show a letter gets its number, never an exception.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return Page(sys.stdout)


def unusable(message: str) -> NoReturn:
    """End the command: its arguments cannot be used."""
    say(message)
    sys.exit(UNUSABLE)


def print_json(values: object) -> None:
    """Print values as indented JSON."""
    import orjson

    click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2))


def progress(items: Iterable[T], label: str, length: int | None = None) -> Iterator[T]:
    """Yield the items and, where a person waits at a terminal, count them on standard error."""
    with click.progressbar(
        items, label=label, length=length, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        yield from bar


def place(path: str, line: int | None = None) -> str:
    """Return a path, from where we are if it lies below, and its line."""
    here, absolute = Path.cwd(), Path(os.path.abspath(path))
    short = str(absolute.relative_to(here)) if absolute.is_relative_to(here) else path
    return short if line is None else f"{short}:{line}"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to that takes the place of `path` only when all went well.

    Ctrl-C, an error or a full disk leave what was there before.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
