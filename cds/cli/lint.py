"""The command `lint`: what is wrong with rule files."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from cds.cli.common import FAILED, page, place, print_json, unusable

if TYPE_CHECKING:
    from cds.lint import Lint
    from cds.report import Page

__all__ = ["lint"]

_COLORS = {"error": "red", "warning": "yellow", "info": ""}
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}


@click.command()
@click.argument(
    "folders", nargs=-1, metavar="[DIR]...", type=click.Path(exists=True, file_okay=False)
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
)
@click.option(
    "--against",
    metavar="REV",
    help="The git revision with which versions are compared. Default: HEAD.",
)
@click.option("--strict", is_flag=True, help="Warnings make the command fail, too.")
@click.option(
    "--all", "everything", is_flag=True, help="List every info and every accepted lint, too."
)
@click.option("--explain", "id_", metavar="ID", help="Say what a lint is, and how to repair it.")
@click.option("--list", "listed", is_flag=True, help="List every lint that there is.")
def lint(
    folders: tuple[str, ...],
    form: str,
    against: str | None,
    strict: bool,
    everything: bool,
    id_: str | None,
    listed: bool,
) -> None:
    """Check ruleset folders, by default the shipped one: each fault with its place and a remedy.

    Exit code 1 where there is an error.
    """
    if id_ is not None:
        _explain(id_, form)
    elif listed:
        _list(form)
    else:
        from cds import lint as linting

        found = linting.lint(folders, against=against)
        failing = {"error", "warning"} if strict else {"error"}
        _WRITERS[form](found, everything)
        if any(e.severity in failing and not e.accepted for e in found):
            sys.exit(FAILED)


# ---------------------------------------------------------------- what was found


def _write_text(found: list[Lint], everything: bool) -> None:
    out = page()
    quiet: Counter[str] = Counter()
    for entry in found:
        if not everything and (entry.severity == "info" or entry.accepted):
            quiet[entry.id] += not entry.accepted
            continue
        _write(out, entry)
    if any(quiet.values()):
        ids = ", ".join(f"{id_} {n}" for id_, n in sorted(quiet.items()) if n)
        out.line(f"Not listed without --all: {ids}")
    out.line(_summary(found), style="bold")


def _write(out: Page, entry: Lint) -> None:
    about = f" {entry.rule}:" if entry.rule else ""
    severity = "accepted" if entry.accepted else entry.severity
    style = "" if entry.accepted else _COLORS[entry.severity]
    out.line(f"{place(entry.path)}{entry.place}: {severity} {entry.id}", style=style)
    out.line(f"{about} {entry.message}".strip(), indent=4)
    reason = f"accepted: {entry.accepted}" if entry.accepted else f"-> {entry.fix}"
    out.line(reason, indent=4)


def _summary(found: list[Lint]) -> str:
    counts = Counter("accepted" if e.accepted else e.severity for e in found)
    words = [f"{counts[s]} {s}{'' if counts[s] == 1 else 's'}" for s in ("error", "warning")]
    return ", ".join([*words, f"{counts['info']} info", f"{counts['accepted']} accepted"])


def _write_json(found: list[Lint], everything: bool) -> None:
    counts = Counter(e.severity for e in found if not e.accepted)
    print_json(
        {
            "errors": counts["error"],
            "warnings": counts["warning"],
            "infos": counts["info"],
            "lints": [
                {
                    "id": e.id,
                    "severity": e.severity,
                    "path": place(e.path),
                    "line": e.line or None,
                    "column": e.column or None,
                    "rule": e.rule or None,
                    "message": e.message,
                    "fix": e.fix,
                    "accepted": e.accepted or None,
                }
                for e in found
            ],
        }
    )


def _write_github(found: list[Lint], everything: bool) -> None:
    """Write workflow commands, which mark the lines of a change on GitHub."""
    for e in found:
        if e.accepted or (e.severity == "info" and not everything):
            continue
        where = f"file={_property(place(e.path))}" + (f",line={e.line}" if e.line else "")
        where += f",col={e.column}" if e.column else ""
        about = f"{e.rule}: " if e.rule else ""
        text = _data(f"{about}{e.message}\n{e.fix}")
        click.echo(f"::{_GITHUB[e.severity]} {where},title={e.id}::{text}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


_WRITERS = {"text": _write_text, "json": _write_json, "github": _write_github}


# ---------------------------------------------------------------- what there is


def _explain(id_: str, form: str) -> None:
    from cds.lint import validators

    known = validators()
    found = known.get(id_.upper())
    if found is None:
        unusable(f"there is no lint '{id_}'; 'cds lint --list' lists them")
    if form == "json":
        values = ("id", "severity", "title", "why", "fix")
        print_json({name: getattr(found, name) for name in values})
        return
    out = page()
    out.line(f"{found.id} ({found.severity}): {found.title}", style="bold")
    for paragraph in found.why.split("\n\n"):
        out.line()
        out.line(paragraph)
    out.line()
    out.line(f"-> {found.fix}")


def _list(form: str) -> None:
    from cds.lint import validators

    known = validators().values()
    if form == "json":
        print_json([{"id": v.id, "severity": v.severity, "title": v.title} for v in known])
        return
    out = page()
    for v in known:
        out.line(v.title, label=f"{v.id}  {v.severity:<8} ")
