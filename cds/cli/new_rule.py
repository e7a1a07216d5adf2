"""The command `new-rule`: the skeleton of a rule with its cases."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cds.cli.common import page, unusable, whole_file
from cds.model import Tier

if TYPE_CHECKING:
    from cds.scaffold import LabTest, NewRule, Skeleton

__all__ = ["new_rule"]

F = TypeVar("F", bound=Callable[..., Any])


def _number(ctx: click.Context, param: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        raise click.BadParameter(f"{value!a} is not a number such as 3.5") from None


def _limit(name: str, words: str) -> Callable[[F], F]:
    return click.option(
        name,
        callback=_number,
        metavar="NUMBER",
        help=f"The result is {words} NUMBER, in the analyte's own unit.",
    )


def _recorded(kind: str, words: str) -> Callable[[F], F]:
    return click.option(
        f"--{kind}",
        kind,
        multiple=True,
        metavar="ID",
        help=f"{words} of this value set is recorded; can be given several times.",
    )


@click.command("new-rule")
@click.argument("rule_id", metavar="ID")
@click.option("--group", required=True, metavar="GROUP", help="The group of the rule.")
@click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The ruleset folder: DIR/GROUP/rules.yaml is made, or the rule is put at its end.",
)
@click.option(
    "--tier",
    required=True,
    type=click.Choice([tier.name for tier in Tier]),
    help="How soon somebody must act; no default can decide that.",
)
@click.option("--title", default="", metavar="TEXT", help="What was found, in a few words.")
@click.option("--lab", metavar="ID", help="A result of this analyte; needs one of the limits.")
@_limit("--below", "below")
@_limit("--at-most", "at or below")
@_limit("--above", "above")
@_limit("--at-least", "at or above")
@_recorded("symptom", "A symptom")
@_recorded("condition", "A condition")
@_recorded("lifestyle", "A circumstance of life")
@_recorded("medication", "A medicine")
def new_rule(
    rule_id: str,
    group: str,
    folder: Path,
    tier: str,
    title: str,
    lab: str | None,
    below: Decimal | None,
    at_most: Decimal | None,
    above: Decimal | None,
    at_least: Decimal | None,
    symptom: tuple[str, ...],
    condition: tuple[str, ...],
    lifestyle: tuple[str, ...],
    medication: tuple[str, ...],
) -> None:
    """Write the skeleton of the rule ID, with cases that fail until it is thought through.

    What the rule looks for must all hold at once; more can be written in the file afterwards.
    What is left to be written says TODO.

    \b
    cds new-rule low-potassium-cramp --group trial --dir my-rules \\
        --tier urgent --lab potassium --below 3.0 --symptom cramp
    """  # noqa: D301 - click wants that one
    from cds.scaffold import NewRule, skeleton

    limits = {"lt": below, "le": at_most, "gt": above, "ge": at_least}
    kinds = {
        "symptom": symptom,
        "condition": condition,
        "lifestyle": lifestyle,
        "medication": medication,
    }
    present = tuple((kind, name) for kind, names in kinds.items() for name in names)
    test = _lab_test(lab, {op: value for op, value in limits.items() if value is not None})
    if test is None and not present:
        raise click.UsageError(
            "say what the rule looks for: --lab with a limit, --symptom, --condition, "
            "--lifestyle or --medication"
        )
    new = NewRule(rule_id, group, tier, test, present, title)
    made = skeleton(new, folder)
    _write(made)
    _say(made, new, folder)


def _lab_test(lab: str | None, limits: dict[str, Decimal]) -> LabTest | None:
    from cds.scaffold import LabTest

    if lab is None:
        if limits:
            raise click.UsageError("a limit needs --lab: which analyte?")
        return None
    if len(limits) != 1:
        raise click.UsageError("--lab needs one of --below, --at-most, --above, --at-least")
    ((op, value),) = limits.items()
    return LabTest(lab, op, value)


def _write(made: Skeleton) -> None:
    """Write both files or, where anything goes wrong before both are complete, neither."""
    drafts = (made.rules, made.cases)
    for draft in drafts:
        if draft.old != (draft.path.read_bytes() if draft.path.exists() else None):
            unusable(f"{draft.path} was changed meanwhile; nothing was written")
    drafts[0].path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        for draft in drafts:
            files.enter_context(whole_file(draft.path)).write_bytes(draft.text)


def _say(made: Skeleton, new: NewRule, folder: Path) -> None:
    """Say what was written, and what the author does next."""
    out = page()
    for draft, what in ((made.rules, f"rule {new.id}"), (made.cases, f"{made.case_count} cases")):
        verb = "made" if draft.old is None else "appended to"
        out.line(f"{what} in {draft.path}:{draft.line} ({verb})")
    out.heading("Next")
    name = shlex.quote(str(folder))
    out.line(
        "Write what the rule and its cases leave open; each such place says TODO:", label="1. "
    )
    out.line(f"cds lint {name}", indent=5)
    out.line("Answer the cases: does the rule fire there? They fail until you have:", label="2. ")
    out.line(f"cds test {name}", indent=5)
    out.line("See the card of each case:", label="3. ")
    out.line(f"cds test {name} --export cases-out", indent=5)
    out.line(f"cds screen cases-out --rulesets {name} --as-of 2026-11-01", indent=5)
    if made.version:
        out.line(
            f"Raise `version` in {made.rules.path} (now {made.version}): a new rule raises the "
            "second number.",
            label="4. ",
        )
