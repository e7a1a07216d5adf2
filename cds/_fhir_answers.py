"""The answers of a QuestionnaireResponse: as Presences, Measurements and MedicationUses.

A response carries no codes of its questions. What an answer means says, first that counts:

1. ``questionnaires.yaml``, by the canonical URL of the questionnaire and the linkId;
2. the code of the question: of the Questionnaire where it is contained or in the same Bundle,
   else the linkId where it ends in a LOINC code, as LHC-Forms writes it. Then the answer is read
   as the value of an Observation with that code;
3. the code of the answer itself, where it is a finding.

All else is counted and said, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from cds._fhir_parts import EARLIEST, Codes, Item, Json, Terms, Uses, make_coding
from cds.model import Coding, Instant, Measurement, MedicationUse, Presence, Quantity
from cds.questionnaires import Question, Questionnaire

__all__ = ["Answers", "Form", "Given", "given"]

CONCEPT: Final = "urn:cds-twitch:concept"
_LOINC: Final = "http://loinc.org"
# The last code in a path such as "/54126-8/54128-4"; older ones end in numbers of repetition.
_LOINC_LINK: Final = re.compile(r"(?:.*/)?(\d{1,7}-\d)(?:/\d{1,4}){0,8}", re.ASCII)
_UNIT: Final = "http://hl7.org/fhir/StructureDefinition/questionnaire-unit"
_UNFINISHED: Final = frozenset(("in-progress", "stopped"))
_FINAL: Final = {"completed": "final", "amended": "amended"}  # statuses of an Observation
# FHIR R4 and R5, QuestionnaireResponse.item.answer.value[x]: what holds a number or a date.
_NUMBERS: Final = ("valueInteger", "valueDecimal")
_DATES: Final = ("valueDate", "valueDateTime")

Form = Mapping[str, Json]
"""For each linkId of a Questionnaire the code of its question and, perhaps, a unit."""


class Given(NamedTuple):
    """One answer with the linkId of its question ("" for none); `answer` None: not an answer."""

    link: str
    answer: Json | None


def given(response: Json) -> Iterator[Given]:
    """Yield every answer of a response, nested ones too, in their order."""
    waiting: list[Any] = list(reversed(_members(response.get("item"))))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            yield Given("", None)
            continue
        link = node.get("linkId")
        below: list[Any] = []
        for answer in _members(node.get("answer")):
            yield Given(link if isinstance(link, str) else "", answer if _sound(answer) else None)
            below += _members(answer.get("item")) if isinstance(answer, dict) else ()
        waiting += reversed(below + _members(node.get("item")))


def _members(value: object) -> list[Any]:
    """The members of a list, or the one thing in its place; nothing where it is absent."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _sound(answer: object) -> bool:
    """Whether an answer is an object with one value, or with none for a stated reason."""
    if not isinstance(answer, dict):
        return False
    values = [key for key in answer if isinstance(key, str) and key.startswith("value")]
    return len(values) == 1 or (not values and bool({"item", "extension"} & answer.keys()))


def _value(answer: Json) -> tuple[str, Any]:
    """The name and value of value[x]; ("", None) where there is none."""
    for key, value in answer.items():
        if isinstance(key, str) and key.startswith("value"):
            return key, value
    return "", None


class _Said(NamedTuple):
    """One statement of an answer: a concept by its id, or a code that was sent."""

    concept: str
    coding: Coding | None
    present: bool
    relative: bool = False


class Answers:
    """Reads responses.

    Args:
        terms: the loaded terminology.
        codes: looks codes up.
        as_observation: reads an answer as an Observation: (part, item, codes, status, time).
    """

    def __init__(
        self,
        terms: Terms,
        codes: Codes,
        as_observation: Callable[[Json, Item, Uses, str, Instant | None], None],
    ) -> None:
        self.codes, self.as_observation = codes, as_observation
        self._terms = terms

    def form(self, questionnaire: Json) -> Form:
        """Return the codes of the questions of a Questionnaire that say anything to a rule."""
        found: dict[str, Json] = {}
        waiting = _members(questionnaire.get("item"))
        while waiting:
            node = waiting.pop()
            if not isinstance(node, dict):
                continue
            waiting += _members(node.get("item"))
            code, link = {"coding": node.get("code")}, node.get("linkId")
            if isinstance(link, str) and self.recognized(code):
                unit = next(
                    (
                        each.get("valueCoding")
                        for each in _members(node.get("extension"))
                        if isinstance(each, dict) and each.get("url") == _UNIT
                    ),
                    None,
                )
                found[link] = {"code": code, "unit": unit if isinstance(unit, dict) else {}}
        return found

    def of(self, response: Json) -> Questionnaire | None:
        """Return what is known of the questionnaire that a response answers."""
        named = response.get("questionnaire")
        if isinstance(named, dict):  # before R4 a Reference
            named = named.get("reference")
        if not isinstance(named, str):
            return None
        return self._terms.questionnaires.get(named.partition("|")[0])

    def read(self, response: Json, item: Item, status: str, form: Form) -> bool:
        """Read all answers of a response into `item`; whether a code of a question would help."""
        when = item.time_at(response, "authored")
        reading = _Reading(self, self.of(response), item, status, when, form)
        for link, answer in given(response):
            reading.take(link, answer)
        reading.finish()
        return reading.unknown > 0

    def stated(self, said: _Said) -> dict[str, tuple[Coding, bool]]:
        """Return the value sets of which a statement says something.

        Presence holds for every set that includes the concept, a denial for it alone.
        """
        coding = said.coding or make_coding(CONCEPT, said.concept, "")
        sent = {"coding": [{"system": coding.system, "code": coding.code}]}
        return {
            concept: (coding, said.present)
            for known, _ in self.codes.uses(sent)[0]
            for concept in (known.concepts if said.present else known.own)
        }

    def yes_no(self, key: str, value: object) -> bool | None:
        """Return whether an answer says yes or no, None where it says neither."""
        if key == "valueBoolean" and isinstance(value, bool):
            return value
        if key == "valueCoding" and isinstance(value, dict) and isinstance(value.get("code"), str):
            return self.codes.yes_no.get((self.codes.system(value.get("system")), value["code"]))
        return None

    def names_nothing(self, text: str) -> bool:
        """Whether a text in the place of a medicine says that there is none."""
        return text.strip().strip(".").casefold() in self._terms.nothing

    def recognized(self, concept: Json) -> bool:
        """Whether a code is of a finding, a number or a question, wanted by a rule or not.

        A medicine as the answer to who knows what (perhaps an allergy) says nothing.
        """
        for sent in _members(concept.get("coding")):
            if not isinstance(sent, dict):
                continue
            system, code = sent.get("system"), sent.get("code")
            if isinstance(system, str) and isinstance(code, str):
                terms, system = self._terms, self._terms.canonical_system(system)
                if (
                    (system, code) in terms.questions
                    or terms.analyte_of(system, code) is not None
                    or any(
                        terms.kind_of(c) != "medication" for c in terms.concepts_of(system, code)
                    )
                ):
                    return True
        return False


class _Reading:
    """One response being read."""

    def __init__(
        self,
        answers: Answers,
        known: Questionnaire | None,
        item: Item,
        status: str,
        when: Instant | None,
        form: Form,
    ) -> None:
        self.answers, self.known, self.item, self.form = answers, known, item, form
        self.status, self.when = status, when
        self.unfinished = status in _UNFINISHED
        self.said: dict[_Said, None] = {}
        self.begun: dict[str, Instant] = {}
        # By analyte and linkId the numbers as answered.
        self.numbers: dict[str, dict[str, list[Quantity]]] = {}
        self.unknown = self.uncoded = self.unusable = 0

    @property
    def observed(self) -> str:
        """The status of an Observation that says the same."""
        return _FINAL.get(self.status, "unknown")

    def take(self, link: str, answer: Json | None) -> None:
        """Read one answer."""
        if answer is None:
            self.unusable += 1
            return
        key, value = _value(answer)
        if not key:
            return
        question = self.known.by_link.get(link) if self.known is not None else None
        judged = self.known is None or link not in self.known.not_judged
        if question is not None and self._means(question, key, value):
            return
        if judged and question is None and self._coded(link, key, value):
            return
        if judged and self._finding(value if key == "valueCoding" else None):
            return
        if key in ("valueString", "valueMarkdown") and self.known and (question or not judged):
            self.uncoded += 1
        elif judged:
            self.unknown += 1

    # ------------------------------------------------------------ one answer

    def _means(self, question: Question, key: str, value: object) -> bool:
        """Read an answer to a question that is known; False where it is not understood."""
        if question.measures is not None:
            return self._number(question, question.measures, key, value)
        if question.medicines:
            return self._medicine(key, value)
        if question.says or question.implies or question.denies:
            yes = self.answers.yes_no(key, value)
            if yes is None:
                return False
            more = question.implies if yes else question.denies
            self._state((*question.says, *more), yes, relative=question.relative)
            return True
        if key in _DATES:
            self._begin(question, self.item.time_at({key: value}, key, "item.answer."))
            return True
        return self._choice(question, value) if key == "valueCoding" else False

    def _choice(self, question: Question, value: object) -> bool:
        code = value.get("code") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(code, str):
            return False
        choice = question.choice(self.answers.codes.system(value.get("system")), code)
        if choice is None:
            return False
        self._state(choice.says, True)
        self._state(choice.denies, False)
        if choice.seconds is not None and self.when is not None:
            # "More than two weeks" is known to be longer, and not known to be older than that.
            start = max(self.when.start - choice.seconds - 1, EARLIEST)
            day = datetime.fromtimestamp(start, UTC).date().isoformat()
            self._begin(question, Instant(start, start, f"/{day}"))
        return True

    def _begin(self, question: Question, onset: Instant | None) -> None:
        if onset is None:
            return
        if self.when is not None and onset.start > self.when.end:
            message = "a beginning after the time of the answer; not used"
            self.item.error("date-invalid", "item.answer", message)
            return
        for concept in question.began:
            # Of a date and a duration, the date; of two dates, the earlier.
            other = self.begun.get(concept)
            self.begun[concept] = min(onset, other, key=_exactness) if other else onset

    def _number(self, question: Question, analyte: str, key: str, value: object) -> bool:
        path = f"item.where(linkId='{question.link}').answer.{key}"
        if key in _NUMBERS:
            found = self.item.quantity({"value": value}, path)
        elif key == "valueQuantity":
            found = self.item.quantity(value, path)
        else:
            return False
        if found is not None:
            self.numbers.setdefault(analyte, {}).setdefault(question.link, []).append(found)
        return True  # what is wrong with it has been said

    def _medicine(self, key: str, value: object) -> bool:
        codings: tuple[Coding, ...] = ()
        if key == "valueCoding":
            sent = {"coding": [value]}
            codings = tuple(self.answers.codes.codings(sent, self.item, "item.answer"))
            text = value.get("display") if isinstance(value, dict) else None
        else:
            text = value if key == "valueString" else None
        name = text.strip() if isinstance(text, str) else ""
        if not codings and self.answers.names_nothing(name):
            return True
        if codings or name:
            use = MedicationUse(self.item.label, codings, name, "active", "", None, self.when)
            self.item.values.append(use)
        return bool(codings or name)

    def _coded(self, link: str, key: str, value: Any) -> bool:
        """Read an answer to a question that has a code, as the value of an Observation."""
        asked = self.form.get(link)
        if asked is None:
            match = _LOINC_LINK.fullmatch(link)
            if match is None:
                return False
            asked = {"code": {"coding": [{"system": _LOINC, "code": match[1]}]}, "unit": {}}
        uses, _ = self.answers.codes.uses(asked["code"])
        if not uses:
            return self.answers.recognized(asked["code"])
        if key == "valueCoding":
            part: Json = {"valueCodeableConcept": {"coding": [value]}}
        elif key in _NUMBERS:
            unit = asked["unit"]
            sent = {"value": value, "unit": unit.get("display"), "code": unit.get("code")}
            system = {"system": unit["system"]} if "system" in unit else {}
            part = {"valueQuantity": {k: v for k, v in sent.items() if v is not None} | system}
        else:
            part = {key: value}
        if self.unfinished and self.answers.yes_no(key, value) is False:
            return True
        self.answers.as_observation(part, self.item, uses, self.observed, self.when)
        return True

    def _finding(self, coding: object) -> bool:
        """Read an answer that is itself a finding."""
        concept = {"coding": [coding]}
        uses, _ = self.answers.codes.uses(concept)
        for known, sent in uses:
            if known.concepts:
                own = known.code if known.system == CONCEPT else ""
                self.said.setdefault(_Said(own, known.coding(sent), True))
        return any(known.concepts for known, _ in uses) or self.answers.recognized(concept)

    def _state(self, concepts: tuple[str, ...], present: bool, *, relative: bool = False) -> None:
        # What is not finished may still change: it must take nothing back that others recorded.
        if present or not (self.unfinished or relative):
            for concept in concepts:
                self.said.setdefault(_Said(concept, None, present, relative))

    # ------------------------------------------------------------ all answers together

    def finish(self) -> None:
        """Add what all answers say together, and the problems."""
        for said in self.said:
            onset = self.begun.get(said.concept) if said.present else None
            for concept, (coding, present) in self.answers.stated(said).items():
                self.item.values.append(
                    Presence(
                        self.item.label,
                        concept,
                        coding,
                        present,
                        onset,
                        self.when,
                        lasting=False,
                        status=self.status,
                        relative=said.relative,
                    )
                )
        for analyte, by_link in self.numbers.items():
            self._total(analyte, by_link)
        self._problems()

    def _total(self, analyte: str, by_link: Mapping[str, list[Quantity]]) -> None:
        """Add up the answers that measure the same; with one missing it is at least the sum."""
        assert self.known is not None  # noqa: S101 - only its questions measure
        asked = self.known.measuring(analyte)
        parts = [
            self._part(self.known.by_link[link], answers, alone=len(asked) == 1)
            for link, answers in by_link.items()
        ]
        found = [part for part in parts if part is not None]
        if not found:
            return  # what is wrong has been said
        value = found[0]
        if len(asked) > 1:
            unit = value.unit or ""
            partial = len(found) < len(asked) or any(part.comparator for part in found)
            value = _quantity(sum(part.value for part in found), ">=" if partial else None, unit)
        self.item.values.append(
            Measurement(
                self.item.label,
                analyte,
                make_coding(CONCEPT, analyte, ""),
                self.observed,
                self.when,
                value,
                path="item",
            )
        )

    def _part(self, question: Question, answers: list[Quantity], *, alone: bool) -> Quantity | None:
        """Return the number of one question in its unit; None (noted) where it cannot be used."""
        path = f"item.where(linkId='{question.link}').answer"
        one = answers[0]
        own = one.code or one.unit
        if any(other != one for other in answers):
            self.item.error("conflict", path, "several different numbers; none is used")
        elif own and not own.startswith("{"):
            if alone and question.each == 1:
                return one
            self.item.error("unit-unknown", path, "a plain number is asked for; not used")
        elif one.value < 0:
            self.item.error("implausible", path, "less than nothing; not used")
        elif one.comparator and one.comparator[0] == "<" and not alone:
            self.item.error("comparator-unknown", path, "no number that can be added; not used")
        else:
            return _quantity(one.value * question.each, one.comparator, question.unit or "")
        return None

    def _problems(self) -> None:
        if self.when is None and any(type(v) is Presence for v in self.item.values):
            message = "no usable time of the answers; what they say of findings is not used"
            self.item.error("date-missing", "authored", message)
        if self.unfinished:
            message = "not finished; what it affirms is used, what it denies is not"
            self.item.info("answers-unfinished", "status", message)
        for count, report, code, what in (
            (self.unknown, self.item.info, "answer-not-known", "no rule knows what it means"),
            (self.uncoded, self.item.info, "answer-not-coded", "in words that no rule reads"),
            (self.unusable, self.item.error, "wrong-type", "not an item or answer of FHIR"),
        ):
            if count:
                answers = "1 answer" if count == 1 else f"{count} answers"
                report(code, "item", f"{answers} not used: {what}")


def _quantity(value: Decimal | int, comparator: str | None, unit: str) -> Quantity:
    value = Decimal(value)
    text = f"{comparator or ''}{value.normalize():f} {unit}"
    return Quantity(value, comparator, unit, unit, text)


def _exactness(onset: Instant) -> tuple[bool, int]:
    return "/" in onset.text, onset.start
