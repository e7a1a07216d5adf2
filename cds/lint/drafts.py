"""Validator CDS605: what `cds new-rule` has left for the author to fill in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from cds.lint.registry import Spot, validator
from cds.lint.subject import SourceFile, Subject

__all__: list[str] = []

_TODO: Final = re.compile(r"\bTODO\b")
_SHOWN: Final = 60  # characters of a text that is quoted


@validator(
    "CDS605",
    "error",
    "a place that its author has not filled in",
    fix="write in its place what it asks for",
)
def not_filled_in(subject: Subject) -> Iterator[Spot]:
    """A text of a rule or case that says TODO, as `cds new-rule` writes it.

    Nobody has thought about it yet, so the rule must not reach a patient. Comments may say TODO.
    """
    for file in subject.of_kind("rules", "cases"):
        for place, text in _texts(file.data):
            if _TODO.search(text):
                words = " ".join(text.split())
                shown = words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "..."
                yield Spot(file.path, file.line(*place), f"says '{shown}'", _rule(file, place))


def _texts(data: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """Yield every text of a file, with its place."""
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _texts(value, (*place, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _texts(value, (*place, number))


def _rule(file: SourceFile, place: tuple[str | int, ...]) -> str:
    """The id of the rule that a place is in, or ""."""
    if file.kind != "rules" or len(place) < 2 or place[0] != "rules":
        return ""
    rule = file.data["rules"][place[1]]
    return str(rule.get("id", "")) if isinstance(rule, dict) else ""
