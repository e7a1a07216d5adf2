"""What must come out of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from cds.rulefile import Shape

__all__ = ["Expect"]


_TierName = Literal["none", "info", "routine", "soon", "urgent", "emergency"]


class Expect(Shape):
    """What must come out. `fires` and `not` are rules, `shows` is every finding shown, by id.

    `shows` and `tier` (``none`` where nothing may be found) speak of the findings of the group
    that the case stands in, `patient_tier` of those of all groups. `missing` names concepts that
    some rule must wait for, or maps a rule to the concept it must wait for ("adult": the rule is
    for adults). `card` and
    `patient_card` are fragments of the cards' text.
    """

    fires: tuple[str, ...] = ()
    not_: Annotated[tuple[str, ...], Field(alias="not")] = ()
    shows: tuple[str, ...] | None = None
    tier: _TierName | None = None
    patient_tier: _TierName | None = None
    missing: tuple[str, ...] | Mapping[str, str] = ()
    card: tuple[str, ...] = ()
    patient_card: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        texts = (self.fires, self.not_, self.missing, self.card, self.patient_card)
        return any((*texts, self.tier, self.patient_tier)) or self.shows is not None

    def joined(self, more: Expect) -> Expect:
        """Return both together; of two single values that of `more` counts.

        Raises: ValueError where one lists what is missing and the other maps it.
        """
        missing: tuple[str, ...] | Mapping[str, str]
        if isinstance(self.missing, tuple) and isinstance(more.missing, tuple):
            missing = (*self.missing, *more.missing)
        elif isinstance(self.missing, Mapping) and isinstance(more.missing, Mapping):
            missing = {**self.missing, **more.missing}
        else:
            missing = more.missing or self.missing
            if self.missing and more.missing:
                raise ValueError("write 'missing' in the same way above and in 'each'")
        return Expect.model_construct(
            fires=(*self.fires, *more.fires),
            not_=(*self.not_, *more.not_),
            shows=self.shows if more.shows is None else more.shows,
            tier=more.tier or self.tier,
            patient_tier=more.patient_tier or self.patient_tier,
            missing=missing,
            card=(*self.card, *more.card),
            patient_card=(*self.patient_card, *more.patient_card),
        )

    def texts(self) -> Iterator[str]:
        """Yield everything that is written in lists."""
        for words in (self.fires, self.not_, self.shows or (), self.card, self.patient_card):
            yield from words
        if isinstance(self.missing, Mapping):
            yield from self.missing.values()
        yield from self.missing

    def filled(self, fill: Callable[[str], str]) -> Expect:
        """Return it with `fill` done to everything that is written in lists."""

        def all_of(words: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(map(fill, words))

        missing = self.missing
        return Expect.model_construct(
            fires=all_of(self.fires),
            not_=all_of(self.not_),
            shows=None if self.shows is None else all_of(self.shows),
            tier=self.tier,
            patient_tier=self.patient_tier,
            missing={fill(k): fill(v) for k, v in missing.items()}
            if isinstance(missing, Mapping)
            else all_of(missing),
            card=all_of(self.card),
            patient_card=all_of(self.patient_card),
        )
