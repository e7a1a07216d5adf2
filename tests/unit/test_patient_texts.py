"""The seven rules for texts that patients read, on every shipped text and on trial texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builders import AS_OF, bundle, lab, patient
from cds import Rulesets, Screener, Tier, load_rulesets
from cds.cards import render
from cds.lint import lint
from cds.lint.patient import PatientText, patient_texts
from cds.lint.subject import Subject, read_subject
from cds.model import Finding
from lint_folder import CARDS, write
from lint_folder import rule as trial_rule

MEDICINE_WORDS = re.compile(r"\b(medicines?|pills?|drugs?|tablets?)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return read_subject(())


@pytest.fixture(scope="module")
def texts(subject: Subject) -> list[PatientText]:
    return list(patient_texts(subject))


# ------------------------------------------------------------ the shipped texts


def test_lint_reads_every_text_that_a_patient_is_shown(
    subject: Subject, texts: list[PatientText]
) -> None:
    read = {text.owner for text in texts}
    shown = {r.rule.id for r in subject.rules if r.rule.card and not r.rule.caveat_for}
    assert shown <= read
    assert {"patient_disclaimer", "patient_medicine.urgent", "recheck"} <= read
    assert {f"patient_tiers.{tier.name}" for tier in Tier} <= read


def test_no_shipped_text_breaks_a_rule_for_patient_texts() -> None:
    found = [e for e in lint() if e.id.startswith("CDS80") and not e.accepted]
    assert [(e.id, e.rule, e.message) for e in found if e.severity != "info"] == []


def test_an_urgent_text_never_says_do_not_stop_without_whom_to_call_and_when(
    texts: list[PatientText],
) -> None:
    for text in texts:
        if text.tier in ("urgent", "emergency") and re.search(r"(?i)(not|never) stop", text.text):
            assert re.search(r"(?i)\btoday\b", text.text), text.owner
            assert re.search(r"(?i)before (your|the) next dose", text.text), text.owner


def test_an_emergency_text_has_an_action_and_no_number(texts: list[PatientText]) -> None:
    for text in texts:
        if text.tier == "emergency":
            assert "local emergency number" in " ".join(text.text.split()), text.owner
            # An age, and the names of vitamins, are no results.
            assert set(re.findall(r"\d+", text.text)) <= {"12", "18"}, text.owner


# ------------------------------------------------------------ texts on trial


def found_in(folder: Path) -> set[str]:
    return {e.id for e in lint([folder]) if e.id.startswith("CDS80") and e.rule == "tried"}


def tried(tmp_path: Path, text: str, *, tier: str = "soon", **keys: str) -> set[str]:
    card = f'{{summary: Short, detail: Long., patient: "{text}"}}'
    keys = {"when": "[{symptom: weakness}]", **keys}
    return found_in(write(tmp_path, trial_rule("tried", tier=tier, family=None, card=card, **keys)))


SOON = "Call your doctor's office in the next few days."
NOW = "Call your local emergency number now."
TODAY = "Call the person who prescribed it today, before your next dose."


@pytest.mark.parametrize(
    ("tier", "text", "wrong"),
    [
        # 1: "do not stop" alone delays help
        ("urgent", "Call your doctor's office today. Do not stop it.", True),
        ("urgent", f"Do not stop your medicine. {TODAY}", False),
        ("emergency", f"{NOW} Do not stop it.", True),
        ("soon", f"{SOON} Do not stop it on your own.", False),
        ("soon", f"{SOON} Stop taking it.", True),
        # 2: potassium and magnesium
        ("soon", f"{SOON} Eat more bananas.", True),
        ("soon", f"{SOON} Sports drinks help.", True),
        ("soon", f"{SOON} Do not use salt substitutes.", False),
        # 3: fluids
        ("soon", f"{SOON} Drink 8 or 9 glasses of water.", True),
        ("soon", f"{SOON} Drink water before you train.", True),
        ("soon", f"{SOON} Drink when you are thirsty.", False),
        # 4: alcohol, caffeine, smoking
        ("soon", f"{SOON} Drink less alcohol.", True),
        ("soon", f"{SOON} Ask your doctor how to drink less alcohol.", False),
        ("soon", f"{SOON} Cut down on coffee.", True),
        ("soon", f"{SOON} Cut down on coffee step by step.", False),
        ("soon", f"{SOON} Stop smoking.", True),
        ("soon", f"{SOON} Tell us which medicines you take before you stop smoking.", False),
        # 5: massage and heat
        ("soon", f"{SOON} Massage helps.", True),
        (
            "soon",
            f"{SOON} Massage may help. Not if it is swollen, red, painful or numb, or if heat made "
            "you ill.",
            False,
        ),
        (
            "soon",
            f"{SOON} A hot bath may help. Not if the spot is swollen, red, painful or numb, or if "
            "heat made you ill.",
            True,
        ),
        # 6: claims not to be repeated
        ("soon", f"{SOON} It is lactic acid.", True),
        ("soon", f"{SOON} It is a sign of adaptation.", True),
        ("soon", f"{SOON} A muscle relaxant can help.", True),
        ("soon", f"{SOON} Tell us if you take a muscle relaxant.", False),
        ("soon", f"{SOON} Herbal tea helps.", True),
        # 7: no reassurance from missing data
        ("emergency", f"{NOW} No problem found in your blood.", True),
    ],
)  # fmt: skip
def test_a_phrase_is_wrong_alone_and_right_with_what_makes_it_safe(
    tmp_path: Path, tier: str, text: str, wrong: bool
) -> None:
    assert ("CDS805" in tried(tmp_path, text, tier=tier)) is wrong


def test_an_urgent_text_about_a_medicine_needs_the_prescriber_in_an_emergency_too(
    tmp_path: Path,
) -> None:
    assert tried(tmp_path, f"{NOW} Take your pills with you.", tier="emergency") == {"CDS808"}
    assert tried(tmp_path, f"{NOW} {TODAY} Show your pills.", tier="emergency") == set()


def test_an_emergency_text_without_an_action_is_wrong(tmp_path: Path) -> None:
    assert "CDS806" in tried(tmp_path, "Call for help now.", tier="emergency")


GATED = """\
group: trial
title: Trial
version: 1.0.0
rules:
  - id: tried
    title: Tried
    review: draft
    tier: soon
    when: {when}
    unless: {unless}
    evidence: [{{source: Ourselves, statement: we think so}}]
    card:
      summary: Short
      detail: Long.
      patient: Call your doctor's office in the next few days. Eat food that is rich in potassium.
"""
EGFR = "{lab: egfr, ge: 60, unit: 'mL/min/{1.73_m2}'}"
POTASSIUM = "{lab: potassium, lt: 3.5, unit: mmol/L}"
BLOCKERS = "[{medication: raas-inhibitor}]"


@pytest.mark.parametrize(
    ("when", "unless", "wrong"),
    [
        ("[{symptom: cramp}]", "[]", True),
        (f"[{EGFR}]", BLOCKERS, True),
        (f"[{{any: [{EGFR}, {POTASSIUM}]}}]", BLOCKERS, True),
        ("[{symptom: cramp}]", f"[{EGFR}, {POTASSIUM}, {{medication: raas-inhibitor}}]", True),
        (f"[{EGFR}, {POTASSIUM}]", "[]", True),
        (f"[{EGFR}, {POTASSIUM}]", BLOCKERS, False),
    ],
    ids=["nothing", "kidneys", "either", "excluded if known", "blockers", "all"],
)
def test_advice_on_potassium_needs_a_rule_that_knows_kidneys_and_potassium(
    tmp_path: Path, when: str, unless: str, wrong: bool
) -> None:
    (tmp_path / "trial").mkdir()
    text = GATED.format(when=when, unless=unless)
    (tmp_path / "trial" / "rules.yaml").write_text(text, encoding="utf-8")
    found = {e.id for e in lint([tmp_path]) if e.severity == "error"}
    assert found == ({"CDS805"} if wrong else set())


# ------------------------------------------------------------ names in the reading level


def test_names_of_medicines_tests_and_conditions_count_as_one_syllable(subject: Subject) -> None:
    from cds.lint.patient import _names

    names = {" ".join(words) for words in _names(subject)}
    terminology = subject.terminology
    assert terminology is not None
    for value_set in terminology.value_sets.values():
        assert " ".join(re.findall(r"\w+", value_set.name.casefold())) in {
            " ".join(re.findall(r"\w+", name)) for name in names
        }, value_set.id
    assert {"hydrochlorothiazide", "hypokalemia", "potassium"} <= names
    assert {"acetaminophen", "paracetamol", "suxamethonium"} & names  # also where no rule asks


# ------------------------------------------------------------ a medicine on a patient's card


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("audience", ["patient", "clinician"])
def test_a_patient_is_told_about_medicines_wherever_one_may_be_the_cause(
    rulesets: Rulesets, tier: Tier, audience: str
) -> None:
    from dataclasses import replace

    low = Screener(rulesets).screen(bundle(patient(), lab("potassium", 2.0)), AS_OF).evaluation
    words = rulesets.texts.patient_medicine
    assert words is not None

    def detail(group: str) -> str:
        # A finding of that group; which rule speaks for it does not matter here.
        finding: Finding = replace(low.findings[0], group=group, tier=tier)
        (card,) = render(replace(low, findings=(finding,)), rulesets, audience=audience)  # type: ignore[arg-type]
        return str(card["detail"])

    said = words.urgent if tier >= Tier.urgent else words.below_urgent
    other = words.below_urgent if tier >= Tier.urgent else words.urgent
    assert (said in detail("medication")) is (audience == "patient")
    assert other not in detail("medication")
    assert said not in detail("electrolyte")
    if tier >= Tier.urgent:
        assert "today and before your next dose" in " ".join(said.split())
        assert "Do not stop" not in said


def test_a_folder_with_card_texts_of_its_own_keeps_the_sentence_about_medicines(
    tmp_path: Path, rulesets: Rulesets
) -> None:
    (tmp_path / "trial").mkdir()
    text = GATED.format(when="[{symptom: cramp}]", unless="[]")
    (tmp_path / "trial" / "rules.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "cards.yaml").write_text(CARDS, encoding="utf-8")
    assert "patient_medicine" not in CARDS
    assert load_rulesets(tmp_path).texts.patient_medicine == rulesets.texts.patient_medicine
