"""Card texts in another language: from `translations/<language>.yaml` into loaded rules.

Rules are written in English. A translation gives texts by key ("rules/<id>/patient"), each with
the fingerprint of the English text that it was made from, so that a text whose English has changed
since is never shown. What is missing, outdated or has other placeholders stays English, and that is
said. Only wording is replaced: criteria, tiers, ids and codes are never touched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from cds.errors import RuleError, RuleErrors, UsageError
from cds.rechecks import Rechecks
from cds.rulefile import CardTexts, Rule, Ruleset, Shape
from cds.terminology import Terminology
from cds.yamlfile import Lines
from cds.yamlmodel import VERSION, load_model, nearest

__all__ = [
    "ENGLISH",
    "Entry",
    "Fallback",
    "Translation",
    "TranslationFile",
    "english_texts",
    "fallbacks",
    "fingerprint",
    "languages",
    "load_file",
    "skeleton",
    "translate",
]

ENGLISH: Final = "en"
"""The language that rules are written in."""

_LANGUAGE: Final = r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$"  # BCP 47, without private parts
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")
_CODES: Final = frozenset({"system", "code", "category", "source_url", "evidence"})  # no wording
_WIDTH: Final = 100

Why = Literal["missing", "outdated", "placeholders"]
_WHY: Final[Mapping[str, str]] = {
    "missing": "not translated",
    "outdated": "translated from an older text",
    "placeholders": "translated with other placeholders",
}


class Entry(Shape):
    """One translated text; `of` is the fingerprint of the English one. No text: not done yet."""

    of: str
    text: str | None = None


class TranslationFile(Shape):
    """`translations/<language>.yaml`."""

    language: Annotated[str, Field(pattern=_LANGUAGE)]
    version: Annotated[str, Field(pattern=VERSION)]
    review: Literal["draft", "under-review", "approved"]
    texts: Mapping[str, Entry] = {}


@dataclass(frozen=True, slots=True)
class Fallback:
    """A text that stays English, and why."""

    key: str
    why: Why


@dataclass(frozen=True, slots=True)
class Translation:
    """A translation that was applied: what it is, and what stayed English.

    `version` and `review` are those of the last file that gives texts; `digest` is over all files.
    """

    language: str
    version: str
    review: str
    digest: str
    total: int
    english: tuple[Fallback, ...]

    @property
    def notice(self) -> str:
        """What every assessment has to say of texts that are not translated; "" for none."""
        counts = {why: sum(f.why == why for f in self.english) for why in _WHY}
        parts = ", ".join(f"{n} {_WHY[why]}" for why, n in counts.items() if n)
        return f"{len(self.english)} of {self.total} texts are in English: {parts}" if parts else ""


def fingerprint(text: str) -> str:
    """Return what tells an English text from a changed one; white space does not count."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


# ---------------------------------------------------------------- the texts


Change = Callable[[str, str], str]


def _reworded(value: Any, key: str, change: Change) -> Any:
    """Return a shape with every wording in it replaced by ``change(its key, wording)``."""
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, Shape):
        new = {
            name: _reworded(getattr(value, name), f"{key}/{name}", change)
            for name in type(value).model_fields
            if name not in _CODES
        }
        return value.model_copy(update=new)
    if isinstance(value, Mapping):
        return {name: _reworded(part, f"{key}/{name}", change) for name, part in value.items()}
    if isinstance(value, tuple) and value and isinstance(value[0], Shape):
        return tuple(_reworded(part, f"{key}/{n}", change) for n, part in enumerate(value))
    return value  # a list of ids


def _rule(rule: Rule, change: Change) -> Rule:
    key = f"rules/{rule.id}"
    ask = tuple(change(f"{key}/ask/{n}", text) for n, text in enumerate(rule.ask))
    card = _reworded(rule.card, key, change)
    return rule.model_copy(
        update={"title": change(f"{key}/title", rule.title), "ask": ask, "card": card}
    )


def _files(files: Sequence[Ruleset], terminology: Terminology, change: Change) -> Iterator[Ruleset]:
    """Yield the files with reworded rules; companions for older results follow their rules."""
    written = [replace(f, rules=tuple(r for r in f.rules if not r.recheck_of)) for f in files]
    new = [
        replace(
            f,
            rules=tuple(_rule(r, change) for r in f.rules),
            recheck=_reworded(f.recheck, f"rechecks/{f.group}", change),
        )
        for f in written
    ]
    rechecks = Rechecks(written, terminology)
    for before, after in zip(files, new, strict=True):
        by_id = {r.id: r for r in after.rules}

        def companion(rule: Rule, after: Ruleset = after, by_id: dict[str, Rule] = by_id) -> Rule:
            made_from = by_id.get(rule.recheck_of or "")
            if made_from is None:
                return by_id.get(rule.id, rule)
            if rule.step or after.recheck is None:
                return rule.model_copy(update={"title": made_from.title})
            words = rechecks.companion(made_from, after.recheck)
            return rule.model_copy(
                update={"title": words.title, "card": words.card, "ask": made_from.ask}
            )

        yield replace(after, rules=tuple(companion(r) for r in before.rules))


def _terminology(terminology: Terminology, shown: Iterable[str], change: Change) -> Terminology:
    """Return the terminology with reworded names: of analytes, and of the value sets `shown`."""
    analytes = {
        id_: replace(
            a,
            name=change(f"analytes/{id_}/name", a.name),
            slips=tuple(
                replace(s, says=change(f"analytes/{id_}/slips/{n}", s.says))
                for n, s in enumerate(a.slips)
            ),
        )
        for id_, a in terminology.analytes.items()
    }
    value_sets = dict(terminology.value_sets)
    for id_ in sorted(set(shown) & value_sets.keys()):
        old = value_sets[id_]
        ask = change(f"value-sets/{id_}/ask", old.ask) if old.ask else old.ask
        value_sets[id_] = replace(old, name=change(f"value-sets/{id_}/name", old.name), ask=ask)
    doubts = {code: change(f"doubts/{code}", text) for code, text in terminology.doubts.items()}
    return replace(terminology, analytes=analytes, value_sets=value_sets, doubts=doubts)


def _all(
    files: Sequence[Ruleset],
    terminology: Terminology,
    texts: CardTexts,
    shown: Iterable[str],
    change: Change,
) -> tuple[list[Ruleset], Terminology, CardTexts]:
    new: CardTexts = _reworded(texts, "cards", change)
    rules = list(_files(files, terminology, change))
    return rules, _terminology(terminology, shown, change), new


def english_texts(
    files: Sequence[Ruleset], terminology: Terminology, texts: CardTexts, keys: Iterable[str]
) -> dict[str, str]:
    """Return every text that can be translated, by its key, in the order of the files.

    `keys` are those of the program: the names of value sets that no rule asks for are never shown.
    """
    found: dict[str, str] = {}

    def keep(key: str, text: str) -> str:
        found.setdefault(key, text)
        return text

    _all(files, terminology, texts, _concepts(keys), keep)
    return found


def _concepts(keys: Iterable[str]) -> set[str]:
    return {key.split("/")[1] for key in keys}


# ---------------------------------------------------------------- the files


def languages(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the translations of these folders of rules, by language."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted((folder / "translations").glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return found


def load_file(path: Path, errors: list[RuleError]) -> tuple[TranslationFile | None, Lines | None]:
    """Read one translation; every fault is added to `errors`."""
    file, lines = load_model(TranslationFile, path, errors)
    placed = path.parent.name == "translations"  # there the name is what is asked for
    if file is not None and lines is not None and placed and file.language != path.stem:
        message = f"language '{file.language}' in a file named {path.name}"
        errors.append(RuleError(message, path=str(path), line=lines.of(("language",))))
    return file, lines


def fallbacks(english: Mapping[str, str], given: Mapping[str, Entry]) -> Iterator[Fallback]:
    """Yield each text that has to stay English, and why."""
    for key, text in english.items():
        entry = given.get(key)
        if entry is None or not (entry.text or "").strip():
            yield Fallback(key, "missing")
        elif entry.of != fingerprint(text):
            yield Fallback(key, "outdated")
        elif set(_PLACEHOLDER.findall(entry.text or "")) != set(_PLACEHOLDER.findall(text)):
            yield Fallback(key, "placeholders")


def translate(
    language: str,
    folders: Sequence[Path],
    files: Sequence[Ruleset],
    terminology: Terminology,
    texts: CardTexts,
    keys: Iterable[str],
) -> tuple[list[Ruleset], Terminology, CardTexts, Translation]:
    """Return rule files, terminology and card texts in a language, and what stayed English.

    Args:
        language: as in the name of its files.
        folders: folders of rules; of two files that give one text the later counts.
        files: the rule files, companions included, as a site has changed them.
        terminology: their terminology.
        texts: their card texts.
        keys: of the program, see `english_texts`.

    Raises: UsageError for a language without files, RuleErrors where a file cannot be used.
    """
    known = languages(folders)
    if language not in known:
        have = ", ".join(sorted({ENGLISH, *known}))
        hint = nearest(language, known)
        raise UsageError(f"there is no translation '{language}'{hint}; there is {have}")
    errors: list[RuleError] = []
    loaded = [file for path in known[language] if (file := load_file(path, errors)[0])]
    if errors:
        raise RuleErrors(errors)
    given = {key: entry for file in loaded for key, entry in file.texts.items()}
    shown = _concepts(keys)
    english = english_texts(files, terminology, texts, keys)
    kept = tuple(fallbacks(english, given))
    stays = {f.key for f in kept}
    # A rule that stands under its key with another text (of a site) is outdated, so English.
    new = {k: given[k].text or "" for k in english if k not in stays}
    rules, names, cards = _all(files, terminology, texts, shown, lambda k, t: new.get(k, t))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in known[language])).hexdigest()
    last = loaded[-1]
    done = Translation(language, last.version, last.review, f"sha256:{digest}", len(english), kept)
    return rules, names, cards, done


def skeleton(language: str, english: Mapping[str, str], given: TranslationFile | None) -> str:
    """Return a translation file to fill in: each key with its English, and what was done already.

    A text that was made from an older English keeps its old fingerprint, and is marked; one whose
    key nothing has any more stands at the end.

    Raises: UsageError where `language` is no language tag or is English.
    """
    if language == ENGLISH or not re.fullmatch(_LANGUAGE, language):
        raise UsageError(f"'{language}' is not a language to translate into; write es, or pt-BR")
    done = given.texts if given else {}
    lines = [
        "# Texts of cards in another language. The English text stands above each key. `of` is its",
        "# fingerprint: set it to the new one when you have read a changed text again. Keep what",
        "# stands in braces. A text without translation is shown in English.",
        "",
        f"language: {language}",
        f"version: {given.version if given else '0.1.0'}",
        f"review: {given.review if given else 'draft'}",
        "texts:",
    ]
    for key, text in english.items():
        entry = done.get(key)
        print_ = fingerprint(text)
        lines += ["", *_comment(text)]
        if entry and entry.text and entry.of != print_:
            lines.append(f"  # CHANGED since it was translated; its fingerprint is now {print_}")
            print_ = entry.of
        lines += _entry(key, print_, entry.text if entry else None)
    gone = {key: entry for key, entry in done.items() if key not in english and entry.text}
    if gone:
        lines += ["", "  # Nothing has these keys any more."]
    for key, entry in gone.items():
        lines += _entry(key, entry.of, entry.text)
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        yield from wrap(line, _WIDTH, initial_indent="  # ", subsequent_indent="  # ") or ["  #"]


def _entry(key: str, print_: str, text: str | None) -> list[str]:
    said = "" if not text else " " + json.dumps(text, ensure_ascii=False)
    return [f"  {key}:", f'    of: "{print_}"', f"    text:{said}"]
