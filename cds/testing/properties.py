"""The property suite: what must hold for every patient, whatever the rules; `cds check` runs it.

Examples are drawn with Hypothesis around the limits of the rules (`cds.testing.strategies`). What
speaks against a property is shrunk to the fewest statements and printed as cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from hypothesis import Phase, find, settings
from hypothesis.errors import Flaky, NoSuchExample, Unsatisfiable

from cds.errors import CdsError
from cds.testing.cardtexts import CARDS
from cds.testing.sameness import SAMENESS
from cds.testing.subject import Counterexample, Property, Subject
from cds.testing.tiers import EMERGENCIES, MONOTONE

__all__ = ["EXAMPLES", "PROPERTIES", "Counterexample", "Outcome", "Property", "Subject", "check"]

EXAMPLES: Final = 200
"""How many patients are drawn for each property, unless it costs much more than others."""

PROPERTIES: Final[tuple[Property, ...]] = (MONOTONE, EMERGENCIES, *SAMENESS, *CARDS)
"""Every property, those first that only the rules can break."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one property: `examples` patients were tried.

    It holds where nothing speaks against it and it was not `skipped` (then that says why).
    """

    about: Property
    examples: int
    seconds: float
    against: Counterexample | None = None
    skipped: str = ""

    @property
    def holds(self) -> bool:
        """Whether it was checked and nothing speaks against it."""
        return self.against is None and not self.skipped


def check(
    subject: Subject,
    properties: Iterable[Property] = PROPERTIES,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    before_each: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Yield the outcome of each property; the same seed draws the same patients.

    Args:
        subject: the rules.
        properties: which ones, in this order.
        examples: how many patients to draw for each; some draw fewer (`Property.share`).
        seed: any whole number.
        before_each: called before each patient; KeyboardInterrupt ends everything.
    """
    for property_ in properties:
        count = max(1, round(examples * property_.share))
        yield _checked(subject, property_, count, seed, before_each)


def _checked(
    subject: Subject,
    property_: Property,
    examples: int,
    seed: int,
    before_each: Callable[[], None],
) -> Outcome:
    start = time.perf_counter()
    skipped = property_.skipped(subject)
    if skipped:
        return Outcome(property_, 0, 0.0, skipped=skipped)
    tried = 0
    first: int | None = None
    last: Counterexample | None = None

    def speaks_against(drawn: Any) -> bool:
        nonlocal tried, first, last
        before_each()
        tried += 1
        found = _against(subject, property_, drawn)
        if found is not None:
            first = tried if first is None else first
            last = found
        return found is not None

    limits = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
    )
    try:
        least = find(
            property_.drawn(subject.drawing),
            speaks_against,
            settings=limits,
            random=Random(seed),  # noqa: S311 - nothing secret
        )
    except (NoSuchExample, Unsatisfiable):
        return Outcome(property_, tried, time.perf_counter() - start)
    except Flaky:  # holds for a patient at one time and not at another
        pass
    else:  # what was tried last is not what shrinking ended with
        last = _against(subject, property_, least) or last
    return Outcome(property_, first or tried, time.perf_counter() - start, last)


def _against(subject: Subject, property_: Property, drawn: Any) -> Counterexample | None:
    try:
        return property_.against(subject, drawn)
    except CdsError as error:
        return Counterexample(f"a patient could not be assessed: {error}")
    except Exception as error:
        # Nothing drawn is anybody's data, so the text of the error may be shown.
        return Counterexample(f"a patient could not be assessed: {type(error).__name__}: {error}")
