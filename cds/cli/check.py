"""The command `check`: properties that must hold for every patient, tried on drawn ones."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from cds.cli.common import FAILED, SITE, page, print_json, progress, unusable

if TYPE_CHECKING:
    from cds.report import Page
    from cds.testing.properties import Counterexample, Outcome, Property

__all__ = ["check"]

_NEEDED = ("hypothesis", "markdown_it")
_STORAGE = "HYPOTHESIS_STORAGE_DIRECTORY"


def _seed(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if value == "random":
        return secrets.randbelow(1_000_000)
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!a} is neither a whole number nor 'random'") from None


@click.command()
@click.argument(
    "folders", nargs=-1, metavar="[DIR]...", type=click.Path(exists=True, file_okay=False)
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many patients to draw for each property (default: 200; some draw half as many).",
)
@click.option(
    "--seed",
    callback=_seed,
    default="0",
    show_default=True,
    metavar="N",
    help="Which patients are drawn; 'random' for new ones each time (the seed is shown).",
)
@click.option(
    "--only", multiple=True, metavar="ID", help="Only this property; can be given several times."
)
@click.option("--list", "listing", is_flag=True, help="List the properties and check nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)
@SITE
def check(
    folders: tuple[str, ...],
    examples: int | None,
    seed: int,
    only: tuple[str, ...],
    listing: bool,
    form: str,
    site: str | None,
) -> None:
    """Check properties that must hold for every patient; by default with the shipped rules.

    A worse value never makes a patient less urgent, the order of resources changes nothing, and
    so on: for each property patients are drawn around the limits of the rules. A patient for whom
    it does not hold is made as small as possible and printed as a case for cases.yaml.

    A DIR is a folder with groups of rules, or one such group, which is checked together with the
    groups beside it. The same seed draws the same patients. Exit code 1 where any property does
    not hold.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        unusable(
            "'cds check' draws patients with Hypothesis, which is not installed (missing: "
            f"{', '.join(missing)}); run: pip install 'cds-twitch[test]'"
        )
    with _nothing_left_behind(), _interruptible() as stop_if_asked:
        from cds.testing.properties import EXAMPLES, PROPERTIES, Subject
        from cds.testing.properties import check as checked

        chosen = _chosen(PROPERTIES, only)
        if listing:
            _list(chosen, form)
            return
        from cds.cases import load_tested

        rulesets, _ = load_tested(*folders, site=site)
        found = checked(
            Subject.of(rulesets),
            chosen,
            examples=examples or EXAMPLES,
            seed=seed,
            before_each=stop_if_asked,
        )
        outcomes = list(progress(found, "properties", len(chosen)))
    if form == "json":
        print_json({"seed": seed, "properties": [_json(outcome) for outcome in outcomes]})
    else:
        _write(page(), outcomes, seed)
    if any(outcome.against for outcome in outcomes):
        sys.exit(FAILED)


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Let Hypothesis keep its files elsewhere than in the folder of whoever runs the command."""
    if _STORAGE in os.environ:
        yield
        return
    with TemporaryDirectory(prefix="cds-check-") as folder:
        os.environ[_STORAGE] = folder
        try:
            yield
        finally:
            del os.environ[_STORAGE]


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Give what ends the command after Ctrl-C; a second one ends it at once.

    Hypothesis watches the garbage collector, and Python ignores an interrupt that meets it there.
    """
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop_if_asked
        stop_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)


def _chosen(properties: tuple[Property, ...], only: tuple[str, ...]) -> list[Property]:
    from cds.yamlmodel import nearest

    known = {each.id: each for each in properties}
    for name in only:
        if name not in known:
            raise click.BadParameter(
                f"there is no property '{name}'{nearest(name, known)}; --list shows them",
                param_hint="'--only'",
            )
    return [each for each in properties if not only or each.id in only]


def _list(properties: list[Property], form: str) -> None:
    if form == "json":
        print_json([{"id": each.id, "sentence": each.sentence} for each in properties])
        return
    for each in properties:
        click.echo(f"{each.id:18}{each.sentence}")


def _json(outcome: Outcome) -> dict[str, Any]:
    against = outcome.against
    result: dict[str, Any] = {
        "id": outcome.about.id,
        "sentence": outcome.about.sentence,
        "holds": None if outcome.skipped else outcome.holds,
        "examples": outcome.examples,
    }
    if outcome.skipped:
        result["skipped"] = outcome.skipped
    if against is not None:
        result |= {"message": against.message, "cases": list(against.cases)}
    return result


def _write(out: Page, outcomes: list[Outcome], seed: int) -> None:
    """Print a line for each property, and behind one that fails what speaks against it."""
    for outcome in outcomes:
        state, style = (
            ("ok", "green") if outcome.holds else ("-", "") if outcome.skipped else ("FAIL", "red")
        )
        out.line(outcome.about.sentence, label=f"{state:6}{outcome.about.id:18}", style=style)
        if outcome.skipped:
            out.line(f"not checked: {outcome.skipped}", indent=24)
        if outcome.against is not None:
            _write_against(out, outcome.against)
    checked = [outcome for outcome in outcomes if not outcome.skipped]
    holding = sum(outcome.holds for outcome in checked)
    tried = sum(outcome.examples for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    out.line()
    out.line(
        f"{holding} of {len(checked)} properties hold; {tried:,} patients drawn in "
        f"{seconds:.0f} s (seed {seed})",
        style="bold",
    )


def _write_against(out: Page, against: Counterexample) -> None:
    out.line()
    out.line(against.message, indent=2)
    if against.cases:
        out.line()
        out.line("To paste into cases.yaml, under 'cases':", indent=2)
    for case in against.cases:
        click.echo(f"\n{case.rstrip()}")
    out.line()
