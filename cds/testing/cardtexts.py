"""Properties of the cards: they can be shown, they say every finding, and every gap is filled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

from hypothesis import strategies as st

from cds.cards import placeholders
from cds.errors import CardError
from cds.rulefile import CardText
from cds.screening import Assessment
from cds.testing.drawing import Drawing, Record, joined
from cds.testing.subject import Counterexample, Property, Subject, case, expected

__all__ = ["CARDS"]

_AUDIENCES: Final[tuple[Literal["clinician", "patient"], ...]] = ("clinician", "patient")
_PROVENANCE: Final = "org.cds-twitch.provenance"


@st.composite
def _with_findings(draw: st.DrawFn, drawing: Drawing) -> Record:
    """Draw a record that brings some rules to hold, each wholly."""
    rules = draw(st.lists(drawing.rules, min_size=1, max_size=3, unique=True))
    near = [draw(drawing.near(rule, wholly=True)) for rule in rules]
    return joined(*near, draw(drawing.few(drawing.anything, 2)))


def _shown(assessment: Assessment, forms: Record, message: str) -> Counterexample:
    return Counterexample(message, (case("What is found", forms, expected(assessment)),))


# ---------------------------------------------------------------- what CDS Hooks asks


def _valid(subject: Subject, forms: Record) -> Counterexample | None:
    from cds.testing.card_invariants import check_cards

    assessment = subject.assess(forms)
    for audience in _AUDIENCES:
        try:
            cards = assessment.cards(audience)
        except CardError as error:
            return _shown(assessment, forms, f"no {audience} card can be made: {error}")
        faults = check_cards(cards, patient=assessment.patient)
        if faults:
            return _shown(assessment, forms, f"{audience} {faults[0]}")
    return None


# ---------------------------------------------------------------- what rules say


def _filled(subject: Subject, forms: Record) -> Counterexample | None:
    assessment = subject.assess(forms)
    for fault in _gaps(subject, assessment):
        return _shown(assessment, forms, fault)
    for audience in _AUDIENCES:
        try:
            cards = assessment.cards(audience)
        except CardError as error:
            return _shown(assessment, forms, f"no {audience} card can be made: {error}")
        said = [
            entry["finding"] for card in cards for entry in card["extension"][_PROVENANCE]["rules"]
        ]
        for finding in assessment.findings:
            if finding.id not in said:
                return _shown(assessment, forms, f"no {audience} card has '{finding.id}'")
        for card in cards:
            if not card.get("detail", "").strip():
                return _shown(assessment, forms, f"a {audience} card says nothing: {card}")
    return None


def _gaps(subject: Subject, assessment: Assessment) -> Iterator[str]:
    """Placeholders of the texts that are shown for which there is no result."""
    by_id = subject.screener.rulesets.program.by_id
    facts = assessment.evaluation.facts
    for finding in assessment.findings:
        spoken = [(rule, by_id[rule].rule.card) for rule in finding.rules]
        spoken += [(rule, by_id[rule].rule.card) for c in finding.caveats for rule in c.rules]
        for rule, text in spoken:
            for name in sorted(_names(text)):
                if name != "age_days" and f"lab/{name.partition('.')[0]}" not in facts:
                    yield (
                        f"rule {rule} shows '{{{name}}}' to a patient who has no such result; a "
                        "text may name only what its rule cannot do without"
                    )


def _names(text: CardText | None) -> set[str]:
    if text is None:
        return set()
    parts: tuple[Any, ...] = (text.summary, text.detail, text.patient, text.patient_summary or "")
    return {name for part in parts for name in placeholders(part)}


CARDS: Final = (
    Property(
        "cards-valid",
        "Every card is one that CDS Hooks clients accept, with no HTML in it.",
        _with_findings,
        _valid,
    ),
    Property(
        "cards-filled",
        "Every finding stands on a card for clinicians and for patients, with its values.",
        _with_findings,
        _filled,
    ),
)
