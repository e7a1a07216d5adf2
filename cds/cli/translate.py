"""The command `translate`: a file in which card texts are put into another language."""

from __future__ import annotations

from pathlib import Path

import click

from cds.cli.common import say, whole_file

__all__ = ["translate"]


@click.command()
@click.argument("language")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write to this file; what it holds already is kept. Default: standard output.",
)
@click.option(
    "--rulesets",
    "folder",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of rules to translate in place of the shipped ones.",
)
def translate(language: str, out: str | None, folder: str | None) -> None:
    """Write every text that a card can show, to be translated into LANGUAGE (es, pt-BR).

    Each English text stands above its key, with what was translated already. Put the file into
    translations/ of the folder of rules; cds lint says what is missing, outdated or wrong in it.
    """
    from cds import translation
    from cds.errors import RuleError, RuleErrors
    from cds.rules import load_rulesets
    from cds.shipped import shipped

    home = Path(folder) if folder else shipped("rulesets")
    loaded = load_rulesets(home)
    english = translation.english_texts(
        loaded.files, loaded.terminology, loaded.texts, loaded.program.keys
    )
    there = Path(out) if out else home / "translations" / f"{language}.yaml"
    given = None
    if there.is_file():
        errors: list[RuleError] = []
        given = translation.load_file(there, errors)[0]
        if errors:
            raise RuleErrors(errors)
    text = translation.skeleton(language, english, given)
    if out is None:
        click.echo(text, nl=False)
        return
    with whole_file(out) as part:
        part.write_text(text, encoding="utf-8")
    left = sum(1 for _ in translation.fallbacks(english, given.texts if given else {}))
    say(f"{out}: {len(english)} texts, {left} of them to translate or to read again")
