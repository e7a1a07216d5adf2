"""Validators CDS701 to CDS703: whether what a card says fits on it, for any value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from cds.cards import SUMMARY_LIMIT
from cds.lint.loading import faults
from cds.lint.registry import Spot, validator
from cds.lint.subject import Subject
from cds.model import Evaluation, Fact, Source
from cds.program import CompiledRule
from cds.rules import Rulesets
from cds.terminology import Analyte
from cds.wording import SENT_ROOM, Wording, fill, one_line, utf16_units

__all__ = ["widest_words"]

_MORE: Final = " and 99 more"  # of the findings that share a card
_DIGITS: Final = Decimal(99_999)  # a value whose analyte has no upper limit
_DATE: Final = "2026-10-31"
_AGE: Final = "an unknown number of"


def widest_words(rulesets: Rulesets) -> Mapping[str, str]:
    """Return the widest text that each placeholder can become, by its name.

    Of a number, the widest within `plausible` with all its `decimals` and a comparator, as
    `cds.wording` writes it. Of a result as sent, the most that a sentence repeats of it.
    """
    facts = {}
    for name, analyte in rulesets.terminology.analytes.items():
        sources = tuple(_sources(analyte))
        facts[f"lab/{name}"] = Fact(f"lab/{name}", "lab", name, {"low": 0, "high": 0}, sources)
    evaluation = Evaluation("", 0, facts, (), (), (), ())
    words = {"age_days": _AGE}
    for name in rulesets.terminology.analytes:
        fact = facts[f"lab/{name}"]
        texts = []
        for source in fact.sources:
            alone = {fact.key: replace(fact, sources=(source,))}
            texts.append(Wording(replace(evaluation, facts=alone), rulesets).result(name).plain)
        words[name] = max(texts, key=utf16_units)
        words[f"{name}.date"] = _DATE
        words[f"{name}.sent"] = "x" * (SENT_ROOM // 2)
    return words


def _sources(analyte: Analyte) -> Iterator[Source]:
    """The lowest and the highest possible value, each sent with a comparator."""
    limits = analyte.plausible
    low = limits.ge if limits and limits.ge is not None else 0
    high = limits.le if limits and limits.le is not None else _DIGITS
    for end in (low, high):
        numerator, denominator = end.as_integer_ratio()
        value = round(Decimal(numerator) / Decimal(denominator), analyte.decimals)
        yield Source(None, value=value, unit=analyte.unit, sent=f"<={value} {analyte.unit}")


@validator(
    "CDS701",
    "error",
    "a summary that does not fit on its card",
    fix="shorten the summary, or name fewer values in it",
)
def long_summary(subject: Subject) -> Iterator[Spot]:
    """A summary that reaches 140 UTF-16 code units with the widest possible values in it.

    CDS Hooks 2.0 wants strictly fewer. The card would show it cut off, which may cut the action.
    """
    if subject.rulesets is None:
        return
    widest = widest_words(subject.rulesets)
    for rule in subject.program.rules:
        for key, text, rest in _summaries(subject, rule):
            line = one_line(fill(text, lambda name: widest.get(name, "")))
            units = utf16_units(line.rstrip(" .;:,") + rest if rest else line)
            if units > SUMMARY_LIMIT:
                place = subject.at(rule.rule, "card", key)
                who = f" of '{rule.rule.id}'" if rule.rule.recheck_of else ""
                message = f"{key}{who} can become {units} units long, {SUMMARY_LIMIT} fit: {line}"
                yield Spot(*place, message, rule.rule.recheck_of or rule.rule.id)


def _summaries(subject: Subject, rule: CompiledRule) -> Iterator[tuple[str, str, str]]:
    """Yield what becomes a summary of either audience: its key, the text, what may follow it."""
    card = rule.rule.card
    if card is None or rule.rule.caveat_for:
        return
    yield "summary", card.summary, _MORE
    if card.patient_summary:
        yield "patient_summary", card.patient_summary, _MORE
    elif subject.rulesets:
        tier = subject.rulesets.texts.patient_tiers.get(rule.rule.tier)
        yield "patient", tier or card.patient, "" if tier else _MORE


@validator(
    "CDS702",
    "warning",
    "a label that is too long",
    fix="shorten it; details belong in the description or the statement",
)
def long_label(subject: Subject) -> Iterator[Spot]:
    """The label of a suggestion, an override reason or a source that no button or line holds.

    CDS Hooks sets no limit; `label_limit` of lint.yaml does.
    """
    limit = subject.words.label_limit
    for rule in subject.rules:
        for number, e in enumerate(rule.rule.evidence):
            if utf16_units(one_line(e.source)) > limit:
                where = subject.at(rule.rule, "evidence", number, "source")
                yield Spot(*where, f"'{e.source}' is longer than {limit}", rule.rule.id)
    for file in subject.of_kind("cards"):
        for place, name, text in _labels(file.data):
            if utf16_units(one_line(text)) > limit:
                yield Spot(file.path, file.line(*place), f"'{text}' is longer than {limit}", name)


def _labels(data: object) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    if not isinstance(data, dict):
        return
    suggestions = data.get("suggestions")
    for name, item in suggestions.items() if isinstance(suggestions, dict) else ():
        if isinstance(item, dict) and isinstance(item.get("label"), str):
            yield ("suggestions", name, "label"), name, item["label"]
    reasons = data.get("override_reasons")
    for number, item in enumerate(reasons if isinstance(reasons, list) else ()):
        if isinstance(item, dict) and isinstance(item.get("display"), str):
            place = ("override_reasons", number, "display")
            yield place, str(item.get("code", "")), item["display"]


@validator(
    "CDS703",
    "error",
    "a card without a text for the patient",
    fix="write `patient`: short plain sentences, one clear next step and by when",
)
def no_patient_text(subject: Subject) -> Iterator[Spot]:
    """A rule that somebody is shown and that says nothing to the person it is about."""
    for fault in faults(subject, "CDS703"):
        yield Spot(fault.path, fault.line or 0, fault.message, fault.rule or "")
    for rule in subject.rules:
        if rule.rule.card and not rule.rule.card.patient.strip():
            place = subject.at(rule.rule, "card", "patient")
            yield Spot(*place, "the text for the patient is blank", rule.rule.id)
