"""Questionnaires: what an answer to each of their questions means.

The shapes of ``questionnaires.yaml`` and what can be checked of it. Which questionnaires there
are, and what their answers say, is knowledge and stands in that file; `cds._fhir_answers` reads
responses by it. Nothing here looks at a patient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Final

import pydantic
from pydantic import Field

from cds.yamlmodel import ID, nearest

__all__ = ["ANSWER", "Choice", "Question", "Questionnaire", "QuestionnaireFile", "faults_of"]

ANSWER: Final = "urn:cds-twitch:answer"
"""The system of answers to choose from that are no concept of their own ("none of these")."""

_Text = Annotated[str, Field(min_length=1)]
_Id = Annotated[str, Field(pattern=ID)]
_Ids = tuple[_Id, ...]
_Days = Annotated[str, Field(pattern=r"^P\d{1,4}D$")]
_Factor = Annotated[Decimal, Field(gt=0)]
_KNOWN_KEYS_ONLY: Final = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer to choose from: what is present, what is absent, for how long it has lasted.

    `system` is a FHIR URI. `longer_than` (whole days) dates what the question says has begun.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    code: _Text
    display: _Text | None = None
    system: _Text = ANSWER
    says: _Ids = ()
    denies: _Ids = ()
    longer_than: _Days | None = None

    @property
    def seconds(self) -> int | None:
        """`longer_than` in seconds."""
        return int(self.longer_than[1:-1]) * 86_400 if self.longer_than else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, by its linkId, and what answers to it mean.

    * `says`: present where the answer is yes, absent where it is no. `implies`: present where
      it is yes; a no says nothing of them. `denies`: absent where it is no; a yes says nothing
      of them. `relative`: all are of a relative.
    * `answers`: what each answer to choose from says. A coded answer that is none of these says
      what its own code says; with `own_codes` that holds for all of them.
    * `began`: an answer that is a date, or a choice with `longer_than`, says when these began.
    * `measures`: a number of that analyte, `each` (a factor) times the answer in `unit`. Several
      questions that measure the same are added up.
    * `medicines`: each answer names a medicine in use.

    `evidence` is where a factor comes from, `covers` which rows of ``sources/`` it implements.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    link: _Text
    says: _Ids = ()
    implies: _Ids = ()
    denies: _Ids = ()
    relative: bool = False
    answers: tuple[Choice, ...] = ()
    own_codes: bool = False
    began: _Ids = ()
    measures: _Id | None = None
    unit: _Text | None = None
    each: _Factor = Decimal(1)
    medicines: bool = False
    evidence: _Text | None = None
    covers: tuple[_Text, ...] = ()

    def __post_init__(self) -> None:
        yes_no = bool(self.says or self.implies or self.denies)
        coded = bool(self.answers or self.began or self.own_codes)
        if sum((yes_no, coded, self.measures is not None, self.medicines)) != 1:
            raise ValueError("give one of says, answers (or own_codes, began), measures, medicines")
        if (self.measures is None) != (self.unit is None):
            raise ValueError("'measures' and 'unit' belong together")
        if self.each != 1 and not self.evidence:
            raise ValueError("say in 'evidence' where the factor 'each' comes from")
        if any(choice.longer_than for choice in self.answers) and not self.began:
            raise ValueError("'longer_than' needs 'began', which says of what")

    @property
    def concepts(self) -> Iterator[str]:
        """Every value set that an answer may state, as present or absent, or date."""
        yield from (*self.says, *self.implies, *self.denies, *self.began)
        for choice in self.answers:
            yield from (*choice.says, *choice.denies)

    def choice(self, system: str, code: str) -> Choice | None:
        """The answer with this code, or None."""
        for choice in self.answers:
            if (choice.system, choice.code) == (system, code):
                return choice
        return None


@dataclass(frozen=True, kw_only=True)
class Questionnaire:
    """One questionnaire, by its canonical URL without version.

    `not_judged` are the questions, by linkId, whose answers no rule reads, each with the reason.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    url: _Text
    title: _Text
    questions: tuple[Question, ...] = ()
    not_judged: Mapping[str, _Text] = Field(default_factory=dict)
    covers: tuple[_Text, ...] = ()

    def __post_init__(self) -> None:
        if "|" in self.url:
            raise ValueError("leave the version out of 'url': every version is read alike")
        links = [question.link for question in self.questions] + list(self.not_judged)
        for link in links:
            if links.count(link) > 1:
                raise ValueError(f"linkId '{link}' stands twice")

    @cached_property
    def by_link(self) -> Mapping[str, Question]:
        """The questions by linkId."""
        return {question.link: question for question in self.questions}

    def measuring(self, analyte: str) -> frozenset[str]:
        """The linkIds of the questions whose answers are added up to one number."""
        return frozenset(q.link for q in self.questions if q.measures == analyte)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionnaireFile:
    """The whole of ``questionnaires.yaml``.

    `nothing` are texts in the place of a medicine that name none ("none").
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    version: _Text
    nothing: tuple[_Text, ...] = ()
    questionnaires: tuple[Questionnaire, ...] = ()


def faults_of(
    form: Questionnaire, concepts: Collection[str], analytes: Collection[str]
) -> Iterator[tuple[int, str]]:
    """Yield the number of a question and what is wrong with a name that it uses.

    `concepts` are the value sets that an answer can state, `analytes` all that is measured.
    """
    for number, question in enumerate(form.questions):
        for name in dict.fromkeys(question.concepts):
            if name not in concepts:
                hint = nearest(name, concepts)
                yield number, f"no answer can state '{name}': there is no such value set{hint}"
        if question.measures is not None and question.measures not in analytes:
            hint = nearest(question.measures, analytes)
            yield number, f"there is no analyte '{question.measures}'{hint}"
