"""``patient:`` in the short form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from cds.forms.statement import Form, Json, no_more, one_of
from cds.forms.when import When, check_date
from cds.terminology import Terminology

__all__ = ["Patient"]

_PATIENT: Final = re.compile(
    r"(?:(?P<sex>female|male|other|unknown sex), ?)?"
    r"(?:(?P<years>\d{1,4}) years?|born (?P<born>\d{4}(?:-\d\d(?:-\d\d)?)?)|(?P<none>unknown age))",
    re.ASCII,
)
_SEXES: Final = ("female", "male", "other")


@dataclass(frozen=True, slots=True)
class Patient(Form):
    """``patient: female, 56 years``; ``male, born 1970-05``; ``unknown sex, unknown age``.

    `sex` is FHIR's administrative gender, None where none is sent. `years` is the age, completed
    on the very day of judgment; `born` a FHIR date.
    """

    sex: str | None = None
    years: int | None = None
    born: str | None = None

    key: ClassVar[str] = "patient"

    def __post_init__(self) -> None:
        one_of("sex", self.sex or "", _SEXES)
        if self.years is not None and (self.born is not None or self.years < 0):
            raise ValueError("give either an age in years or a date of birth")
        if self.born is not None:
            check_date(self.born)
            if "T" in self.born:
                raise ValueError(f"'{self.born}' is not a date such as 1970-05-01")

    @classmethod
    def parse(cls, text: str, more: Mapping[str, str]) -> Patient:
        """Read the text after ``patient:``. Raises: ValueError."""
        no_more(more, cls.key)
        match = _PATIENT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"'{text}' is not understood; write for example 'female, 56 years', "
                "'male, born 1970-05-01', 'female, unknown age', 'unknown sex, 40 years'"
            )
        sex = None if match["sex"] in (None, "unknown sex") else match["sex"]
        return cls(sex, int(match["years"]) if match["years"] else None, match["born"])

    def entry(self) -> dict[str, str]:
        """Return the statement as it stands in a case."""
        if self.born:
            age = f"born {self.born}"
        else:
            age = "unknown age" if self.years is None else f"{self.years} years"
        return {self.key: f"{self.sex or 'unknown sex'}, {age}"}

    def resources(self, terminology: Terminology, as_of: int, id_: str, subject: str) -> list[Json]:
        """Return the Patient, under the id that ends `subject`."""
        resource: Json = {"resourceType": "Patient", "id": re.split("[/:]", subject)[-1]}
        if self.sex:
            resource["gender"] = self.sex
        born = self.born
        if born is None and self.years is not None:
            # The birthday is that very day: just that many years old.
            born = (When(0, months=12 * self.years).fhir(as_of) or "")[:10]
        if born:
            resource["birthDate"] = born
        return [resource]
