"""Validators CDS811 to CDS814: card texts in other languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cds.lint.registry import Spot, validator
from cds.lint.subject import SourceFile, Subject
from cds.shipped import shipped
from cds.translation import Entry, Fallback, TranslationFile, english_texts, fallbacks, load_file
from cds.wording import listed
from cds.yamlmodel import nearest

__all__: list[str] = []


def _english(subject: Subject) -> Mapping[str, str]:
    """Every text that can be translated, by key; nothing where rules cannot be loaded."""
    if "english" not in subject.memo:
        rules = subject.rulesets if subject.complete else None
        subject.memo["english"] = (
            english_texts(rules.files, rules.terminology, rules.texts, rules.program.keys)
            if rules
            else {}
        )
    found: Mapping[str, str] = subject.memo["english"]
    return found


def _translations(subject: Subject) -> Iterator[tuple[SourceFile, TranslationFile]]:
    """Yield the translations that can be used, where all texts are known."""
    for source in subject.of_kind("translations") if _english(subject) else ():
        file, _ = load_file(Path(source.path), [])
        if file is not None:
            yield source, file


def _fallbacks(
    subject: Subject, why: str
) -> Iterator[tuple[SourceFile, Mapping[str, Entry], list[Fallback]]]:
    for source, file in _translations(subject):
        found = [f for f in fallbacks(_english(subject), file.texts) if f.why == why]
        if found:
            yield source, file.texts, found


@validator(
    "CDS811",
    "warning",
    "texts that are not translated",
    fix="run `cds translate`, and translate what has no text; it is shown in English until then",
)
def not_translated(subject: Subject) -> Iterator[Spot]:
    """Texts that a translation does not give, so that a card mixes two languages.

    One lint for each file, because a new rule brings several texts at once.
    """
    for source, _, found in _fallbacks(subject, "missing"):
        given = _given_by_shipped(Path(source.path).name)
        names = [f.key for f in found if f.key not in given]
        if names:
            message = f"{len(names)} texts are missing: {listed(names)}"
            yield Spot(source.path, source.line("texts"), message)


def _given_by_shipped(name: str) -> Mapping[str, Entry]:
    """What the shipped translation of that name gives, on which a folder's own builds."""
    path = shipped("rulesets") / "translations" / name
    file = load_file(path, [])[0] if path.is_file() else None
    return {k: e for k, e in file.texts.items() if e.text} if file else {}


@validator(
    "CDS812",
    "warning",
    "a translation of a text that has changed",
    fix="read the English text again, correct the translation, and set `of` to its fingerprint",
)
def outdated(subject: Subject) -> Iterator[Spot]:
    """A text whose English is no longer the one that it was translated from.

    What it says may be wrong by now, so the English text is shown in its place.
    """
    for source, _, found in _fallbacks(subject, "outdated"):
        for f in found:
            line = source.line("texts", f.key, "of")
            yield Spot(source.path, line, f"the English of {f.key} has changed", f.key)


@validator(
    "CDS813",
    "error",
    "a translation with other placeholders",
    fix="keep what stands in braces as it is",
)
def other_placeholders(subject: Subject) -> Iterator[Spot]:
    """A text that would lose a value, or name one that the rule may not have.

    The English text is shown in its place.
    """
    for source, _, found in _fallbacks(subject, "placeholders"):
        for f in found:
            line = source.line("texts", f.key, "text")
            yield Spot(source.path, line, f"other placeholders than in English: {f.key}", f.key)


@validator(
    "CDS814",
    "error",
    "a translation of a text that there is not",
    fix="correct the key, or remove it",
)
def unknown_key(subject: Subject) -> Iterator[Spot]:
    """A key that no rule, card text, test or value set has. Nobody would ever read its text."""
    english = _english(subject)
    for source, file in _translations(subject):
        for key in file.texts:
            if key not in english:
                hint = nearest(key, english)
                line = source.line("texts", key)
                yield Spot(source.path, line, f"nothing has the text {key}{hint}", key)
