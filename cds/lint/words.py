"""The shape of `lint.yaml`: limits and word lists that validators of texts go by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cds.rulefile import Id, Shape, Text

__all__ = ["Gate", "Phrase", "Words", "WordsFile"]


class Gate(Shape):
    """What a rule must ask before its text may give an advice.

    `known` are tests without whose result the rule cannot hold: an `unless` alone would let
    pass what nobody has measured. `unless` are value sets that the rule names there.
    """

    known: tuple[Id, ...] = ()
    unless: tuple[Id, ...] = ()


class Phrase(Shape):
    """Words that a patient text must not have, or only together with others.

    Every entry is compared without regard to case, in whole words. `fine_in` are words of the
    same sentence that make it right ("do not"), `needs` words of the same text of which each must
    be there; a list inside `needs` are alternatives. `gate` is what the rule has to ask itself.
    Without any of these the words are never right. `tiers` are those whose texts are looked at,
    all if none is given; a text that belongs to no tier always is.
    """

    words: Annotated[tuple[Text, ...], Field(min_length=1)]
    fine_in: tuple[Text, ...] = ()
    needs: tuple[tuple[Text, ...], ...] = ()
    gate: Gate | None = None
    tiers: tuple[Literal["info", "routine", "soon", "urgent", "emergency"], ...] = ()
    why: Text


class WordsFile(Shape):
    """`lint.yaml` of a folder: what it adds to the shipped lists."""

    phrases: tuple[Phrase, ...] = ()
    abbreviations: tuple[Text, ...] = ()
    names: tuple[Text, ...] = ()


class Words(WordsFile):
    """The shipped `lint.yaml`.

    `max_grade` is the highest Flesch-Kincaid grade of a patient text, `label_limit` the most
    UTF-16 code units of a label. `steps` are verbs of a next step, `times` say by when,
    `emergency` whom to call. An urgent or emergency text that has one of `medicine` needs one
    of each list of `prescriber`. `abbreviations` are known to everybody, `names` are words of
    medicine that count as one syllable, beside those of the terminology.
    """

    max_grade: Annotated[float, Field(gt=0)]
    label_limit: Annotated[int, Field(gt=0)]
    steps: Annotated[tuple[Text, ...], Field(min_length=1)]
    times: Annotated[tuple[Text, ...], Field(min_length=1)]
    emergency: Annotated[tuple[Text, ...], Field(min_length=1)]
    medicine: tuple[Text, ...]
    prescriber: tuple[tuple[Text, ...], ...]

    def with_more(self, more: WordsFile) -> Words:
        """Return these words and those that a folder adds."""
        return self.model_copy(
            update={
                "phrases": (*self.phrases, *more.phrases),
                "abbreviations": (*self.abbreviations, *more.abbreviations),
                "names": (*self.names, *more.names),
            }
        )
