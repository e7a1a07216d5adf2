"""How statements about a patient are drawn, with Hypothesis, around the targets of some rules.

`cds.testing.strategies` is the public face. Choices stand with the plainest first, because that is
where shrinking leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from cds.errors import UsageError
from cds.forms import NOW, Form, Lab, Patient, Presence, Takes, When, ago
from cds.program import Program
from cds.screening import instant
from cds.terminology import Terminology
from cds.testing.nearby import Near
from cds.testing.targets import AS_OF, DAY, Targets

__all__ = ["Drawing", "Record", "joined"]

Record = tuple[Form, ...]
"""All that is said of one patient."""

T = TypeVar("T")

_NOW: Final = instant(AS_OF)
_DATES: Final = (10, 7, 4)  # how much of "2026-11-01T12:00:00Z" makes a day, a month, a year
_FUTURE: Final = (-1, -DAY, -2 * DAY)
_PLACES: Final = Decimal("0.0001")  # of a value that is not exact in another unit

_RESULT_STATUSES: Final = (
    "preliminary", "amended", "corrected", "registered", "unknown", "cancelled", "entered-in-error",
)  # fmt: skip
_FLAGS: Final = ("N", "L", "LL", "H", "HH")
_CLINICAL: Final = ("recurrence", "relapse", "inactive", "remission", "resolved")
_VERIFICATION: Final = ("unconfirmed", "provisional", "refuted", "entered-in-error")
_TAKEN: Final = ("unknown", "completed", "stopped", "on-hold", "entered-in-error")


def joined(*parts: Sequence[Form]) -> Record:
    """Return several lists of statements as one record: the patient first, and nothing twice."""
    forms = list(dict.fromkeys(form for part in parts for form in part))
    who = [form for form in forms if isinstance(form, Patient)]
    return (*who[:1], *(form for form in forms if not isinstance(form, Patient)))


class Drawing:
    """Strategies around the targets of one ruleset; each is made once."""

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self._made: dict[tuple[Any, ...], Any] = {}

    @property
    def program(self) -> Program:
        """The rules that are aimed at."""
        return self.targets.program

    @property
    def terminology(self) -> Terminology:
        """Their analytes and value sets."""
        return self.targets.terminology

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what belongs to a key, made when it is first asked for."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    # ------------------------------------------------------------ results

    def values(self, what: str) -> st.SearchStrategy[Decimal]:
        """Draw a possible value of an analyte in its own unit."""
        self._known_lab(what)
        return self.once(("values", what), lambda: self._values(what))

    def _values(self, what: str) -> st.SearchStrategy[Decimal]:
        low, high = self.targets.limits(what)
        place = self.targets.last_place(what)
        first = (low / place).to_integral_value(ROUND_CEILING)
        last = (high / place).to_integral_value(ROUND_FLOOR)
        aimed = st.sampled_from(self.targets.values(what))
        if first > last:  # nothing round is possible
            return aimed
        anywhere = st.integers(int(first), int(last)).map(lambda n: n * place)
        return aimed | aimed | anywhere

    def labs(self, what: str | None = None, *, plain: bool = False) -> st.SearchStrategy[Lab]:
        """Draw a result of one analyte or of any; `plain` ones are fresh, exact and usable."""
        if what is None:
            names = self.targets.labs
            if not names:
                return st.nothing()
            return st.sampled_from(names).flatmap(lambda name: self.labs(name, plain=plain))
        self._known_lab(what)
        make = self._plain_lab if plain else self._lab
        return self.once(("labs", what, plain), lambda: make(what))

    def _known_lab(self, what: str) -> None:
        if what not in self.targets.labs:
            known = ", ".join(self.targets.labs)
            raise UsageError(f"no rule can use a result of '{what}'; take one of {known}")

    def unit(self, what: str) -> str:
        """Return the unit to write behind a value; "" where none can be said."""
        return "" if what in self.terminology.derived else self.targets.analyte(what).unit

    def _plain_lab(self, what: str) -> st.SearchStrategy[Lab]:
        fresh = self.targets.analyte(what).fresh
        times = st.sampled_from([ago(a) for a in self.targets.ages(what) if a <= fresh])
        unit = self.unit(what)
        return st.builds(lambda v, when: Lab(what, v, unit, when), self.values(what), times)

    def _lab(self, what: str) -> st.SearchStrategy[Lab]:
        targets, unit = self.targets, self.unit(what)
        place, (low, high) = targets.last_place(what), targets.limits(what)
        others = targets.units(what)[1:] if unit else ()
        beyond = [v for v in (high + place, low - place) if v >= 0]
        return _result(
            self,
            what,
            values=self.values(what),
            impossible=st.sampled_from(beyond if targets.analyte(what).plausible else [high]),
            units=st.sampled_from([unit] * (1 + len(others)) + list(others)),
            times=self._result_times(what),
            marks=("tube-1", *self.terminology.hemolysis.specimen_conditions),
        )

    def _result_times(self, what: str) -> st.SearchStrategy[When]:
        ages = self.targets.ages(what)
        near = st.sampled_from([ago(a) for a in ages])
        days = st.integers(0, 2 * max(ages) // DAY).map(lambda n: ago(n * DAY))
        odd = st.sampled_from([*(ago(a) for a in _FUTURE), When()])
        return near | days | near | _dates(ages) | odd

    def histories(self, what: str | None = None) -> st.SearchStrategy[list[Lab]]:
        """Draw two to five results of one analyte: rises at the limits of rules, and any other."""
        if what is None:
            # What rules compare over time comes first.
            names = sorted(self.targets.labs, key=lambda n: n not in self.targets.changes)
            if not names:
                return st.nothing()
            return st.sampled_from(names).flatmap(self.histories)
        self._known_lab(what)
        return self.once(("histories", what), lambda: self._history(what))

    def _history(self, what: str) -> st.SearchStrategy[list[Lab]]:
        windows = (DAY, *(over for _, _, over in self.targets.changes.get(what, ())))
        gaps = st.sampled_from([w + more for w in windows for more in (0, 1, -1)])
        return _course(self, what, gaps)

    # ------------------------------------------------------------ what is recorded as present

    def presences(self, kind: str, concept: str | None = None) -> st.SearchStrategy[Presence]:
        """Draw a symptom, condition, lifestyle or history; of one value set or of any."""
        names = self._names(kind, concept)
        if not names:
            return st.nothing()
        if concept is None:
            return st.sampled_from(names).flatmap(lambda name: self.presences(kind, name))
        return self.once(("presence", kind, concept), lambda: self._presence(kind, concept))

    def _names(self, kind: str, concept: str | None) -> tuple[str, ...]:
        names = self.targets.concepts.get(kind, ())
        if concept is not None and concept not in names:
            raise UsageError(f"no rule asks for the {kind} '{concept}'")
        return names

    def coded(self, concept: str) -> st.SearchStrategy[tuple[str, str]]:
        """Draw how a line names a value set: by its id, or by one of its codes with its words."""
        named = [(concept, "")]
        codes = [(what, _words(display)) for what, display in self.targets.codes(concept)]
        return self.once(("coded", concept), lambda: st.sampled_from(named * len(codes) + codes))

    def _presence(self, kind: str, concept: str) -> st.SearchStrategy[Presence]:
        onsets = self.targets.onsets(kind, concept)
        coded = self.coded(concept)
        seen = st.sampled_from([NOW, *(ago(a) for a in onsets)])
        lasts = st.sampled_from([ago(a, lasting=True) for a in onsets])
        odd = st.sampled_from([*(ago(a) for a in _FUTURE), When()]) | _dates(onsets)
        times = st.none() if kind == "history" else seen | seen | lasts | odd
        return _presence(kind, coded, times)

    @cached_property
    def denials(self) -> st.SearchStrategy[Presence]:
        """Draw that somebody said a symptom, condition or circumstance to be absent."""
        names = [
            (kind, name)
            for kind in ("symptom", "condition", "lifestyle")
            for name in self.targets.concepts.get(kind, ())
        ]
        if not names:
            return st.nothing()

        def denied(named: tuple[str, str]) -> st.SearchStrategy[Presence]:
            kind, name = named
            times = st.sampled_from([NOW, *(ago(a) for a in self.targets.onsets(kind, name))])
            return st.builds(
                lambda code, when: Presence("denies", code[0], when, words=code[1]),
                self.coded(name),
                times,
            )

        return st.sampled_from(names).flatmap(denied)

    # ------------------------------------------------------------ medicines, the patient

    def medications(self, concept: str | None = None) -> st.SearchStrategy[Takes]:
        """Draw a medicine that is or was taken; of one value set or of any."""
        names = self._names("medication", concept)
        if not names:
            return st.nothing()
        if concept is None:
            return st.sampled_from(names).flatmap(self.medications)
        return self.once(("medication", concept), lambda: self._medication(concept))

    def _medication(self, concept: str) -> st.SearchStrategy[Takes]:
        coded = self.coded(concept)
        starts = [ago(a, lasting=True) for a in self.targets.onsets("medication", concept)]
        return _takes(coded, st.sampled_from([None, *starts]))

    @cached_property
    def patients(self) -> st.SearchStrategy[Patient]:
        """Draw sex and age, adults first."""
        sexes = st.sampled_from(["female", "male", None, "other"])
        years = st.sampled_from([50, 80, *self.targets.years]) | st.integers(0, 110)
        # Where nobody knows on which side of a birthday of the rules the patient is.
        births = [str(_year(_NOW) - y) for y in self.targets.years]
        births += [f"{b}-{month}" for b in births for month in ("10", "11", "12")]
        return st.one_of(
            st.builds(Patient, sexes, years),
            st.builds(Patient, sexes),
            st.builds(lambda sex, born: Patient(sex, born=born), sexes, st.sampled_from(births)),
        )

    # ------------------------------------------------------------ whole records

    @cached_property
    def anything(self) -> st.SearchStrategy[Form]:
        """Draw one statement of any kind, the patient's age and sex aside."""
        kinds: list[st.SearchStrategy[Any]] = [
            self.presences("symptom"),
            self.labs(plain=True),
            self.labs(),
            self.presences("condition"),
            self.medications(),
            self.presences("lifestyle"),
            self.presences("history"),
            self.denials,
        ]
        return st.one_of(*(kind for kind in kinds if not kind.is_empty))

    def near(self, rule: str, *, wholly: bool = False) -> st.SearchStrategy[Record]:
        """Draw what makes a rule hold: each criterion just met, and nothing else.

        Unless `wholly`, now and then a criterion is left out.
        """
        if rule not in self.program.by_id:
            raise UsageError(f"no rule '{rule}' in the loaded rules; 'cds rules' lists them")
        return self.once(("near", rule, wholly), lambda: _near(Near(self, rule), wholly))

    @cached_property
    def rules(self) -> st.SearchStrategy[str]:
        """Draw the id of a rule that engines run."""
        ids = [r.rule.id for r in self.program.rules if not r.rule.stands_in_from]
        return st.sampled_from(ids)

    @cached_property
    def records(self) -> st.SearchStrategy[Record]:
        """Draw all that is said of one patient: a few statements, and what brings rules near."""
        return _records(self, self.few(self.anything, 4))

    def few(self, kind: st.SearchStrategy[T], most: int) -> st.SearchStrategy[list[T]]:
        """Draw a list of up to so many; an empty one where there is nothing of the kind."""
        return st.just([]) if kind.is_empty else st.lists(kind, max_size=most)


# Strategies are composed here and not where their parts are known: Hypothesis looks long at each
# function that it composes.


@st.composite
def _result(
    draw: st.DrawFn,
    drawing: Drawing,
    what: str,
    *,
    values: st.SearchStrategy[Decimal],
    impossible: st.SearchStrategy[Decimal],
    units: st.SearchStrategy[str],
    times: st.SearchStrategy[When],
    marks: Sequence[str],
) -> Lab:
    """Draw a result as senders send it: mostly plain, or with one oddity."""
    odd = draw(st.integers(0, 15))
    value, unit = draw(impossible if odd == 15 else values), draw(units)
    own = drawing.unit(what)
    if unit != own:
        value = draw(_sent(drawing.targets, what, value, unit))
    form = Lab(what, value, unit, draw(times))
    match odd:
        case 7 | 8:
            return replace(form, comparator=draw(st.sampled_from(["<", ">", "<=", ">="])))
        case 9 | 10:
            return replace(form, flag=draw(st.sampled_from(_FLAGS)))
        case 11 | 12 if own:
            step = drawing.targets.last_place(what) if unit == own else value / 10
            return replace(form, range=draw(_range(value, step)))
        case 13:
            return replace(form, status=draw(st.sampled_from(_RESULT_STATUSES)))
        case 14:
            return replace(form, specimen=draw(st.sampled_from(marks)))
    return form


@st.composite
def _sent(draw: st.DrawFn, targets: Targets, what: str, value: Decimal, unit: str) -> Decimal:
    """Draw the value in another unit, or one beside it where it has too many digits."""
    exact = targets.sent(what, value, unit)
    if exact is not None:
        return exact
    nearly = targets.sent_nearly(what, value, unit)
    place = min(_PLACES, Decimal(1).scaleb(nearly.adjusted() - 3))
    return nearly.quantize(place, draw(st.sampled_from([ROUND_FLOOR, ROUND_CEILING])))


@st.composite
def _range(draw: st.DrawFn, value: Decimal, step: Decimal) -> str:
    """Draw a laboratory's range that begins or ends at a value or beside it."""
    ends = [end for end in (value, value - step, value + step) if end > 0] or [step]
    end = draw(st.sampled_from(ends))
    wide = end + 10 * step
    forms = (f"from {end:f}", f"up to {end:f}", f"{end:f} to {wide:f}")
    return draw(st.sampled_from(forms))


@st.composite
def _course(
    draw: st.DrawFn, drawing: Drawing, what: str, gaps: st.SearchStrategy[int]
) -> list[Lab]:
    """Draw results of one analyte over time, the latest first."""
    targets, values = drawing.targets, drawing.values(what)
    place, (low, high) = targets.last_place(what), targets.limits(what)
    known = targets.changes.get(what, ())
    age = draw(drawing.labs(what, plain=True)).when.seconds or 0
    drawn = [draw(values)]
    for _ in range(draw(st.integers(1, 4))):
        if not known or draw(st.booleans()):
            drawn.append(draw(values))
            continue
        kind, amount, _ = draw(st.sampled_from(known))
        risen = drawn[-1] + amount if kind == "rise" else drawn[-1] * amount
        beside = draw(st.sampled_from([Decimal(0), place, -place]))
        risen = risen.quantize(place, ROUND_FLOOR) + beside
        drawn.append(min(max(risen, low), high))
    forms = []
    for value in reversed(drawn):
        forms.append(Lab(what, value, drawing.unit(what), ago(age)))
        age += draw(gaps)
    return forms


@st.composite
def _presence(
    draw: st.DrawFn,
    kind: str,
    coded: st.SearchStrategy[tuple[str, str]],
    times: st.SearchStrategy[When | None],
) -> Presence:
    """Draw that something is present; a condition now and then with another status."""
    what, words = draw(coded)
    form = Presence(kind, what, draw(times), words=words)
    odd = draw(st.integers(0, 7)) if form.is_condition else 0
    if odd == 7:
        return replace(form, verification=draw(st.sampled_from(_VERIFICATION)))
    if odd == 6:
        return replace(form, clinical=draw(st.sampled_from(_CLINICAL)))
    return form


@st.composite
def _takes(
    draw: st.DrawFn,
    coded: st.SearchStrategy[tuple[str, str]],
    times: st.SearchStrategy[When | None],
) -> Takes:
    """Draw a medicine that is taken; now and then ended, paused or only ordered."""
    what, words = draw(coded)
    form = Takes(what, draw(times), words=words)
    odd = draw(st.integers(0, 7))
    if odd == 7:
        return replace(form, status=draw(st.sampled_from(_TAKEN)))
    if odd == 6:
        past = form.when is None or (form.when.seconds or 0) > DAY
        ends = ["now", "in 1 day", *(["1 day ago"] if past else [])]
        return replace(form, until=draw(st.sampled_from(ends)))
    # An order has a day on which it was written, but nothing that lasts.
    when = form.when and ago(form.when.seconds or 0)
    return replace(form, request=True, when=when) if odd == 5 else form


@st.composite
def _near(draw: st.DrawFn, near: Near, wholly: bool) -> Record:
    """Draw what brings a rule near; unless `wholly`, now and then less than it needs."""
    forms = near.draw(draw)
    if not wholly:
        forms = [form for form in forms if draw(st.integers(0, 9))]
    return joined(forms)


@st.composite
def _records(draw: st.DrawFn, drawing: Drawing, few: st.SearchStrategy[list[Form]]) -> Record:
    """Draw a whole record."""
    who = [draw(drawing.patients)] if draw(st.booleans()) else []
    near = [draw(drawing.near(draw(drawing.rules))) for _ in range(draw(st.integers(0, 2)))]
    rising = bool(drawing.targets.labs) and draw(st.integers(0, 3)) == 3
    course = draw(drawing.histories()) if rising else []
    return joined(who, *near, course, draw(few))


def _dates(ages: Sequence[int]) -> st.SearchStrategy[When]:
    """Draw a day, month or year without time, that long before the instant of judgment."""
    texts = dict.fromkeys(_text(age)[:length] for length in _DATES for age in ages)
    return st.sampled_from([When(date=text) for text in texts])


def _text(age: int) -> str:
    return datetime.fromtimestamp(_NOW - age, UTC).isoformat()


def _year(seconds: int) -> int:
    return datetime.fromtimestamp(seconds, UTC).year


def _words(display: str) -> str:
    """Return the words of a code as a line can hold them."""
    return " ".join(display.split())
