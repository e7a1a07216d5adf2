"""Reading one line of the short form."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from cds.forms.lab import Lab
from cds.forms.patient import Patient
from cds.forms.presence import PRESENCES, Presence
from cds.forms.statement import Form
from cds.forms.takes import Takes
from cds.yamlmodel import nearest

__all__ = ["KEYS", "parse"]

KEYS: Final = ("patient", "lab", *PRESENCES, "takes", "requested")
"""The keys that a line of a case can have, one each."""


def parse(entry: Mapping[str, object]) -> Form:
    """Read one entry of a case's `data`: one of `KEYS` with its text, and its further keys.

    Raises: ValueError that says what is wrong and how it is written.

    >>> parse({"lab": "potassium 2.4 mmol/L 2 days ago"}).value
    Decimal('2.4')
    """
    given = [key for key in KEYS if key in entry]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are two entries; begin a new line with '- '")
    if not given:
        hints = (nearest(key, KEYS) for key in entry)
        hint = next((hint for hint in hints if hint), "")
        raise ValueError(f"an entry needs one of {', '.join(KEYS)}{hint}")
    (key,) = given
    texts = {name: _text(name, value) for name, value in entry.items()}
    text = texts.pop(key)
    if key == "patient":
        return Patient.parse(text, texts)
    if key == "lab":
        return Lab.parse(text, texts)
    if key in ("takes", "requested"):
        return Takes.parse_as(key, text, texts)
    return Presence.parse_as(key, text, texts)


def _text(name: str, value: object) -> str:
    """Return what was written, with single spaces. Raises: ValueError where it is no text."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if not isinstance(value, str):
        raise ValueError(f"'{name}' must be text")
    text = " ".join(value.split())
    if not text:
        raise ValueError(f"'{name}' says nothing; leave it out or fill it in")
    return text
