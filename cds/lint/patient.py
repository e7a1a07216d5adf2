"""Validators CDS801 to CDS808: texts for patients. What they go by stands in `lint.yaml`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from cds.lint.logic import always
from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject
from cds.lint.words import Gate, Phrase
from cds.program import CompiledRule, leaves
from cds.wording import fill

__all__ = ["PatientText", "grade", "patient_texts"]

_WORD: Final = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
# The end of a sentence, of a line of its own, or of an item of a list.
_END: Final = re.compile(r"[.!?:]+(?=[\s\"')]|$)|\n\s*\n|\n\s*[-*] ")
_ABBREVIATION: Final = re.compile(r"\b(?=[A-Z0-9-]*[A-Z][A-Z0-9-]*[A-Z])[A-Z][A-Z0-9-]+\b")
_PASSAGE: Final = 15  # words
_NUMBER: Final = re.compile(r"\b\d+(?:[.,]\d+)?\b")


@dataclass(frozen=True)
class PatientText:
    """One text for patients: where it stands, the rule (or key) that it is of, its tier."""

    path: str
    line: int
    owner: str
    text: str
    tier: str = ""
    whole: bool = True  # says all that a patient is told, apart from the sentence of the tier
    rule: CompiledRule | None = None

    def spot(self, message: str) -> Spot:
        """Return this place with a message."""
        return Spot(self.path, self.line, message, self.owner)


def patient_texts(subject: Subject) -> Iterator[PatientText]:
    """Yield every text for patients: of rules, of `recheck`, and those that all cards share."""
    for rule in subject.rules:
        r = rule.rule
        if r.card and not r.caveat_for:
            place = subject.at(r, "card", "patient")
            yield PatientText(*place, r.id, r.card.patient, r.tier, rule=rule)
    for file in subject.of_kind("rules"):
        recheck = file.data.get("recheck") if isinstance(file.data, dict) else None
        text = recheck.get("patient") if isinstance(recheck, dict) else None
        if isinstance(text, str):
            yield PatientText(file.path, file.line("recheck", "patient"), "recheck", text, "soon")
    for file in subject.of_kind("cards"):
        data: dict[str, Any] = file.data if isinstance(file.data, dict) else {}
        tiers = data.get("patient_tiers")
        for tier, text in tiers.items() if isinstance(tiers, dict) else ():
            if isinstance(text, str):
                line = file.line("patient_tiers", tier)
                yield PatientText(file.path, line, f"patient_tiers.{tier}", text, tier)
        text = data.get("patient_disclaimer")
        if isinstance(text, str):
            line = file.line("patient_disclaimer")
            yield PatientText(file.path, line, "patient_disclaimer", text, "", whole=False)
        medicine = data.get("patient_medicine")
        for key, tier in (("below_urgent", "soon"), ("urgent", "urgent")):
            text = medicine.get(key) if isinstance(medicine, dict) else None
            if isinstance(text, str):
                line, owner = file.line("patient_medicine", key), f"patient_medicine.{key}"
                yield PatientText(file.path, line, owner, text, tier, whole=False)


@lru_cache(maxsize=4096)
def _whole_words(entries: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(re.escape(e) for e in sorted(entries, key=len, reverse=True))
    return re.compile(rf"\b(?:{words})\b" if entries else r"(?!)", re.IGNORECASE)


def _finds(entries: Iterable[str], text: str) -> str:
    """The first of the entries that stands in the text, as whole words; "" for none."""
    match = _whole_words(tuple(entries)).search(" ".join(text.split()))
    return match[0] if match else ""


def _sentences(text: str) -> list[str]:
    return [s for s in (part.strip() for part in _END.split(text)) if _WORD.search(s)]


# ---------------------------------------------------------------- reading level


def grade(text: str, names: Sequence[Sequence[str]], syllables: Callable[[str], int]) -> float:
    """Return the Flesch-Kincaid grade of a text; 0 for none.

    Args:
        text: plain sentences; placeholders in braces count as one word of one syllable.
        names: names of medicines, tests and conditions as lists of words in small letters, the
            longest first; each counts as one word of one syllable.
        syllables: gives the number of syllables of one word.

    Source: Kincaid et al. 1975, Research Branch Report 8-75, Naval Technical Training Command.
    """
    sentences = _sentences(fill(text, lambda _: "x"))
    counts = [n for s in sentences for n in _syllables(_WORD.findall(s), names, syllables)]
    if not counts:
        return 0.0
    return 0.39 * len(counts) / len(sentences) + 11.8 * sum(counts) / len(counts) - 15.59


def _syllables(
    words: Sequence[str], names: Sequence[Sequence[str]], syllables: Callable[[str], int]
) -> Iterator[int]:
    small = [w.casefold().replace("’", "'").removesuffix("'s") for w in words]
    place = 0
    while place < len(words):
        name = next((n for n in names if small[place : place + len(n)] == n), None)
        if name is None:
            yield max(1, syllables(words[place]))
        else:
            yield 1
        place += len(name) if name else 1


def _names(subject: Subject) -> list[list[str]]:
    """Names of the terminology and of lint.yaml as words, the longest first, also in the plural.

    Medicines count by every name that the formulary knows, with and without hyphens.
    """
    found: set[str] = set(subject.words.names)
    if subject.terminology:
        found.update(a.name for a in subject.terminology.analytes.values())
        for value_set in subject.terminology.value_sets.values():
            found.add(value_set.name)
            found.update(code.display for code in value_set.codes)
        for words in subject.terminology.formulary.spellings:
            found.update((" ".join(words), "-".join(words)))
    split = {tuple(w.casefold() for w in _WORD.findall(name)) for name in found}
    split |= {(*name[:-1], f"{name[-1]}s") for name in split if name}
    return sorted((list(name) for name in split if name), key=lambda n: (-len(n), n))


@validator(
    "CDS801",
    "warning",
    "a patient text that is hard to read",
    fix="write shorter sentences and shorter words",
)
def hard_to_read(subject: Subject) -> Iterator[Spot]:
    """A text above the Flesch-Kincaid grade of `max_grade` in lint.yaml.

    Names of medicines, tests and conditions count as one syllable: they cannot be shorter. A text
    of less than 15 words is measured with the sentence for its tier, which comes before it; the
    formula says nothing of a few words, so fewer than 15 in all are not measured.
    """
    if find_spec("syllapy") is None:
        return
    count = import_module("syllapy").count  # optional, and only this validator needs it
    by_first: dict[str, list[list[str]]] = {}
    names = _names(subject)
    for name in names:
        by_first.setdefault(name[0], []).append(name)
    tiers = subject.rulesets.texts.patient_tiers if subject.rulesets else {}
    for text in patient_texts(subject):
        read = text.text
        if len(_WORD.findall(read)) < _PASSAGE:
            read = f"{tiers.get(text.tier, '')} {read}"
        words = _WORD.findall(read)
        if len(words) < _PASSAGE:
            continue
        near = [n for first in {w.casefold() for w in words} for n in by_first.get(first, ())]
        near.sort(key=lambda n: (-len(n), n))
        found = grade(read, near, count)
        if found > subject.words.max_grade:
            yield text.spot(f"needs grade {found:.1f}, more than {subject.words.max_grade:g}")


@validator(
    "CDS802",
    "info",
    "the reading level was not measured",
    fix='install syllapy (python -m pip install "cds-twitch[test]") and lint again',
)
def not_measured(subject: Subject) -> Iterator[Spot]:
    """The library that counts syllables is not installed, so CDS801 has found nothing."""
    if find_spec("syllapy") is None:
        yield Spot(str(subject.folders[0]), 0, "patient texts were not measured: no syllapy")


# ---------------------------------------------------------------- what a text must and must not say


@validator(
    "CDS803",
    "warning",
    "an abbreviation that nobody explains",
    fix='write it out, "a heart tracing (ECG)", or leave the abbreviation out',
)
def abbreviation(subject: Subject) -> Iterator[Spot]:
    """Capitals that a patient may not know, without the words they stand for beside them.

    Explained is what stands in brackets after words, or before words in brackets. `abbreviations`
    of lint.yaml holds those that everybody knows.
    """
    known = set(subject.words.abbreviations)
    for text in patient_texts(subject):
        for short in dict.fromkeys(_ABBREVIATION.findall(fill(text.text, lambda _: ""))):
            explained = rf"\w \({re.escape(short)}\)|\b{re.escape(short)} \("
            if short not in known and not re.search(explained, " ".join(text.text.split())):
                yield text.spot(f"'{short}' is not explained")


@validator(
    "CDS804",
    "warning",
    "a patient text without a next step, or without a time for it",
    fix='say what to do and by when: "Call your doctor\'s office in the next few days."',
)
def no_next_step(subject: Subject) -> Iterator[Spot]:
    """A text that does not say what to do (`steps` of lint.yaml) and by when (`times`).

    The sentence for the tier in cards.yaml comes before the text of a rule and may say when. What
    a card says for information alone needs no step.
    """
    shared = subject.rulesets.texts.patient_tiers if subject.rulesets else {}
    for text in patient_texts(subject):
        if not text.whole or text.tier == "info" or not text.text.strip():
            continue
        if not _finds(subject.words.steps, text.text):
            yield text.spot("does not say what to do next")
        elif not _finds(subject.words.times, f"{shared.get(text.tier, '')} {text.text}"):
            yield text.spot("does not say by when")


@validator(
    "CDS805",
    "error",
    "a phrase that a patient text must not have",
    fix="say it differently; lint.yaml names the words that make it right",
)
def bad_phrase(subject: Subject) -> Iterator[Spot]:
    """Words that can harm: to stop a medicine, to take potassium, to feel safe without a reason.

    `phrases` of lint.yaml holds them, each with its reason and with what makes it right.
    """
    for text in patient_texts(subject):
        for phrase in subject.words.phrases:
            if text.tier and phrase.tiers and text.tier not in phrase.tiers:
                continue
            for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text.text):
                said = _finds(phrase.words, sentence)
                if said and not _made_right(subject, phrase, text, sentence):
                    yield text.spot(f"says '{said}': {phrase.why}")


def _made_right(subject: Subject, phrase: Phrase, text: PatientText, sentence: str) -> bool:
    """Whether words around a phrase, or what the rule asks, make it right."""
    if phrase.fine_in and _finds(phrase.fine_in, sentence):
        return True
    if phrase.needs and all(_finds(words, text.text) for words in phrase.needs):
        return True
    return phrase.gate is not None and _gated(subject, phrase.gate, text.rule)


def _gated(subject: Subject, gate: Gate, rule: CompiledRule | None) -> bool:
    """Whether a rule cannot hold without these results and not with these value sets."""
    if rule is None:
        return False
    sure = {k.split("/")[1] for k in always(rule.when, subject.logic.makers) if k[:4] == "lab/"}
    blocked = {leaf.key.split("/")[1] for leaf in leaves(rule.unless)} if rule.unless else set()
    return sure.issuperset(gate.known) and blocked.issuperset(gate.unless)


@validator(
    "CDS806",
    "error",
    "an emergency text that does not say whom to call",
    fix='write "Call your local emergency number now."',
)
def no_emergency_number(subject: Subject) -> Iterator[Spot]:
    """A patient text of an emergency rule without the words of `emergency` in lint.yaml."""
    for text in patient_texts(subject):
        if (
            text.tier == "emergency"
            and text.whole
            and not _finds(subject.words.emergency, text.text)
        ):
            wanted = " or ".join(f"'{w}'" for w in subject.words.emergency)
            yield text.spot(f"is for an emergency and does not say {wanted}")


@validator(
    "CDS807",
    "warning",
    "a number that a patient has to interpret",
    fix="say what the number means instead; the card shows no limit to a patient",
)
def number(subject: Subject) -> Iterator[Spot]:
    """Digits, or a value in braces, in a text for patients.

    A number without the knowledge around it frightens or soothes for no reason.
    """
    for text in patient_texts(subject):
        found = re.findall(r"\{[^{}]*\}", text.text) or _NUMBER.findall(_unnamed(subject, text))
        if found:
            yield text.spot(f"has {found[0]}, a number to interpret")


def _unnamed(subject: Subject, text: PatientText) -> str:
    """The text without names of tests that hold digits (25-hydroxyvitamin D)."""
    analytes = subject.terminology.analytes.values() if subject.terminology else ()
    numbered = tuple(a.name for a in analytes if re.search(r"\d", a.name))
    return _whole_words(numbered).sub("", text.text)


@validator(
    "CDS808",
    "warning",
    "an urgent text about a medicine without the prescriber",
    fix='write "call the person who prescribed it today, before your next dose"',
)
def no_prescriber(subject: Subject) -> Iterator[Spot]:
    """An urgent or emergency text that speaks of medicine and not of whom to call about it.

    Nobody is told to stop a medicine, so somebody who may decide has to be asked, today and
    before the next dose.
    """
    for text in patient_texts(subject):
        if text.tier not in ("urgent", "emergency") or not _finds(
            subject.words.medicine, text.text
        ):
            continue
        lacking = [words[0] for words in subject.words.prescriber if not _finds(words, text.text)]
        if lacking:
            yield text.spot(f"speaks of medicine and does not say '{lacking[0]}'")
