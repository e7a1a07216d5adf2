"""Patients for a goal: the fewest statements with which every criterion is judged as wanted.

Facts that come from the same input are settled together: all results of one analyte, all that
is recorded as present, all medicines, the patient. For each the first candidate that fits is
taken; candidates aim at the very bounds of the criteria, round values and short times first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction as _Exact
from itertools import islice, product
from typing import Final

from cds.bounds import STEP, number_bounds
from cds.engine import holds
from cds.forms import NOW, Form, Lab, Patient, Presence, Takes, When, ago
from cds.program import FOREVER, GRID, Leaf, Need, Program, Test, grid_code, need_of
from cds.rulefile import NoResultCriterion, RatioCriterion, RiseCriterion
from cds.synthesis.goals import Goal, Want, Wanted
from cds.terminology import SYSTEMS, Analyte, CodeEntry, Terminology, ValueSet

__all__ = ["Patients"]

_HOUR: Final = 3600
_DAY: Final = 86_400
_ADULT: Final = 50  # years; the age of a case that says nothing of it (`cds.cases`)
_LAB_KINDS: Final = ("lab", "rise", "ratio", "no-result")
_FLAGS: Final = ("", "L", "LL", "H", "HH", "N")
_AGES: Final = ("age", "newest", "oldest", "since")
_MEDICINES: Final = ("medication", "stopped", "ordered")
_SPANS: Final = ("newest", "oldest", "onset", "seen")
_YEAR: Final = 365 * _DAY  # how long a dose was taken before it was raised
_DOSE: Final = "10 mg daily"  # any dose, and a higher one
_MORE: Final = "20 mg daily"
_LONG: Final = 10 * _DAY  # how long something has lasted where nothing says so

_Props = Mapping[str, int]
_Row = tuple[Decimal, int, str]  # value, age in seconds, flag of the laboratory


class _Impossible(Exception):
    """No candidate fits; it only ends one attempt."""


@dataclass(frozen=True, slots=True)
class _Code:
    """A way to name a concept in a form, and every concept that it brings."""

    name: str
    words: str
    concepts: frozenset[str]


class Patients:
    """Finds patients for goals over facts (`Goals.flat`); what it gives has to be verified."""

    def __init__(self, program: Program, terminology: Terminology) -> None:
        self.terminology = terminology
        self._numbers = number_bounds(program)
        self._needs = {need.key: need for need in program.needs}
        self._keys = program.keys
        self._found: dict[object, list[Form] | None] = {}

    def find(self, goal: Goal) -> tuple[Form, ...] | None:
        """Return the statements with which all is as wanted, or None where that cannot be."""
        groups: dict[str, list[Wanted]] = {}
        for wanted in goal:
            groups.setdefault(self._group(wanted.leaf.key), []).append(wanted)
        forms: list[Form] = []
        try:
            forms += self._person(groups.pop("person", []))
            presences = self._presences(groups.pop("presence", []))
            takes = self._medicines(groups.pop("medication", []))
            takes += self._sequels(groups.pop("after", []))
            faults = groups.pop("quality", [])
            for name, wanted_of in groups.items():
                forms += self._results(name, wanted_of)
            forms += self._faulty(faults, groups)
        except (_Impossible, ValueError):  # a form refuses what cannot be sent as FHIR
            return None
        return (*forms, *presences, *takes)

    def _group(self, key: str) -> str:
        kind, concept, *_ = key.split("/")
        if kind in _LAB_KINDS:
            derived = self.terminology.derived.get(concept)
            return f"lab/{derived.of if derived else concept}"
        if kind in ("sex", "patient"):
            return "person"
        if kind in _MEDICINES:
            return "medication"
        return kind if kind in ("quality", "after") else "presence"

    # ------------------------------------------------------------ the patient

    def _person(self, wanted: Sequence[Wanted]) -> list[Form]:
        if not wanted:
            return []
        bounds = [test.value for test in _tests(w.leaf for w in wanted)]
        near = [value + more for value in bounds for more in (0, -1, 1)]
        for years in (*dict.fromkeys((_ADULT, *near)), None):
            for sex in ("unknown", "female", "male"):
                known: dict[str, _Props] = {f"sex/{sex}": {}}
                if years is not None:
                    known["patient/age"] = {"years": years}
                if all(_as_wanted(w, _state(w.leaf, known)) for w in wanted):
                    if (years, sex) == (_ADULT, "unknown"):
                        return []
                    return [Patient(None if sex == "unknown" else sex, years)]
        raise _Impossible

    # ------------------------------------------------------------ results of one analyte

    def _results(self, group: str, wanted: Sequence[Wanted]) -> list[Form]:
        """The results with which all is as wanted; the same is often asked for."""
        key = (group, frozenset((w.leaf.key, w.leaf.atoms, w.want) for w in wanted))
        if key not in self._found:
            self._found[key] = self._search(wanted)
        found = self._found[key]
        if found is None:
            raise _Impossible
        return found

    def _search(self, wanted: Sequence[Wanted]) -> list[Form] | None:
        if self._fits([], wanted):
            return []
        concept = _tested(wanted)
        for series in self._series(concept, self.terminology.analytes[concept], wanted):
            if self._fits(series, wanted):
                rows = sorted(series, key=lambda row: -row[1])
                return [self._lab(concept, value, age, flag) for value, age, flag in rows]
        return None

    def _fits(self, series: Sequence[_Row], wanted: Sequence[Wanted]) -> bool:
        known = self._lab_facts(series, [w.leaf for w in wanted])
        return all(_as_wanted(w, _state(w.leaf, known)) for w in wanted)

    def _lab(self, concept: str, value: Decimal, age: int, flag: str) -> Lab:
        """Say a result; a multiple of the upper limit as what is measured, without that limit."""
        derived = self.terminology.derived.get(concept)
        if derived is not None:
            concept, value = derived.of, _plain(value * derived.default)
        return Lab(concept, value, self._unit(concept), _when(age), flag=flag)

    def _unit(self, concept: str) -> str:
        unit = self.terminology.analytes[concept].unit
        return "" if unit == "1" else unit

    def _possible(self, concept: str, value: Decimal) -> bool:
        t = self.terminology
        analyte = t.analytes[
            t.adjusted_calcium.result if concept == t.adjusted_calcium.id else concept
        ]
        return value > 0 and (analyte.plausible is None or analyte.plausible.hold(value))

    def _series(
        self, concept: str, analyte: Analyte, wanted: Sequence[Wanted]
    ) -> Iterator[list[_Row]]:
        """Yield results (value, age in seconds, flag) that might do, the plainest first."""
        leaves_ = [w.leaf for w in wanted]
        tests, needs = _tests(leaves_), [n for leaf in leaves_ if (n := self._need(leaf))]
        last = Decimal(1).scaleb(-analyte.decimals)
        neutral = self._neutral(concept, last)
        bounds = [Decimal(t.value) / (2 * GRID) for t in tests if t.prop in ("low", "high")]
        values = list(dict.fromkeys((*_around(bounds, last), neutral)))
        values = [value for value in values if self._possible(concept, value)]
        windows = {t.value for t in tests if t.prop == "age"}
        ages = _times({*windows, *(n.seconds for n in needs if n.kind == "no-result")})
        sides = {t.prop for t in tests}
        flags = [""]
        flags += ["L", "LL"] if "low_flag" in sides else []
        flags += ["H", "HH"] if "high_flag" in sides else []
        flags += ["N"] if len(flags) > 1 else []
        for age, flag in product(ages, flags):
            for value in values if bounds else self._edges(concept, flag, neutral):
                yield [(value, age, flag)]
        changes = [n.seconds for n in needs if n.kind != "no-result"]
        if changes:
            pairs = [
                (earlier, latest)
                for earlier, latest in self._pairs(leaves_, values, neutral, last)
                if self._possible(concept, earlier) and self._possible(concept, latest)
            ]
            spans = sorted({min(changes), *_times(changes)[1:]})
            for age, span, (earlier, latest) in product(ages, spans, pairs):
                yield [(earlier, age + span, ""), (latest, age, "")]

    def _pairs(
        self, leaves_: Sequence[Leaf], values: Sequence[Decimal], neutral: Decimal, last: Decimal
    ) -> Iterator[tuple[Decimal, Decimal]]:
        yield neutral, neutral
        rises: list[Decimal] = []
        ratios: list[Decimal] = []
        for leaf in leaves_:
            amounts = [Decimal(t.value) / (2 * GRID) for t in _tests([leaf]) if t.prop == "amount"]
            if isinstance(leaf.criterion, RatioCriterion):
                ratios += _around(amounts, Decimal("0.1"))
            elif isinstance(leaf.criterion, RiseCriterion):
                rises += _around(amounts, last)
        bases = [neutral, *(base * n for base in rises[:1] for n in (1, 2, 4, 10)), *values]
        for rise in rises:
            for base in bases:
                yield base, base + rise
            for value in values:
                yield value - rise, value
        for ratio in ratios:
            for base in bases:
                yield base, base * ratio

    def _need(self, leaf: Leaf) -> Need | None:
        """The need of a criterion, also where the program itself does not have it."""
        if leaf.key in self._needs:
            return self._needs[leaf.key]
        c = leaf.criterion
        if isinstance(c, (RiseCriterion, RatioCriterion, NoResultCriterion)):
            return need_of(c)
        return None

    def _neutral(self, concept: str, last: Decimal) -> Decimal:
        """A value that no rule asks about, as far as there is one."""
        bounds = self._numbers.get(f"lab/{concept}", ())
        low = max((b.value for b in bounds if b.op in ("lt", "le")), default=None)
        high = min((b.value for b in bounds if b.op in ("gt", "ge")), default=None)
        if low is not None and high is not None:
            return ((low + high) / 2).quantize(last) if low < high else low
        if low is not None:
            return (low * Decimal("1.2")).quantize(last) + last
        if high is not None:
            return max((high * Decimal("0.8")).quantize(last), last)
        for name, derived in self.terminology.derived.items():
            if derived.of == concept and f"lab/{name}" in self._numbers:
                return (self._neutral(name, Decimal("0.1")) * derived.default).quantize(last)
        limits = self.terminology.analytes[concept].plausible
        if limits is not None and limits.le is not None and limits.ge is not None and limits.ge > 0:
            # The middle of the possible, counted in powers.
            middle = (float(limits.ge) * float(limits.le)) ** 0.5
            return Decimal(f"{middle:.1g}").quantize(last) or last
        return 100 * last

    def _edges(self, concept: str, flag: str, neutral: Decimal) -> list[Decimal]:
        """Values for a flag: best just at the mildest limit of that side."""
        low = flag in ("L", "LL")
        bounds = [
            b.value
            for b in self._numbers.get(f"lab/{concept}", ())
            if (b.op in ("lt", "le")) == low and flag
        ]
        return list(
            dict.fromkeys([*([max(bounds) if low else min(bounds)] if bounds else ()), neutral])
        )

    def _lab_facts(self, series: Sequence[_Row], found: Sequence[Leaf]) -> dict[str, _Props]:
        """The facts that results make, as `cds.facts` says: newest last, one result at a time."""
        known: dict[str, _Props] = {}
        rows = sorted(series, key=lambda row: -row[1])
        for leaf in found:
            key = leaf.key
            kind = key.partition("/")[0]
            if kind == "lab":
                if rows:
                    value, age, flag = rows[-1]
                    code = grid_code(value)
                    known[key] = {
                        "low": code,
                        "high": code,
                        "age": age,
                        "low_flag": {"": 1, "L": 2, "LL": 3}.get(flag, 0),
                        "high_flag": {"": 1, "H": 2, "HH": 3}.get(flag, 0),
                    }
                continue
            need = self._need(leaf)
            if need is None:
                continue
            if kind == "no-result":
                if not any(age <= need.seconds for _, age, _ in rows):
                    known[key] = {}
            elif len(rows) > 1:
                (before, then, _), (latest, age, _) = rows
                if then - age <= need.seconds:
                    amount = latest - before if kind == "rise" else _Exact(latest) / _Exact(before)
                    known[key] = {"amount": grid_code(amount), "age": age}
        return known

    # ------------------------------------------------------------ implausible results

    def _faulty(self, wanted: Sequence[Wanted], groups: Mapping[str, object]) -> list[Form]:
        forms: list[Form] = []
        for w in wanted:
            if w.want != "yes":
                continue
            _, _, *of = w.leaf.key.split("/")
            names = of or [
                name
                for name, analyte in self.terminology.analytes.items()
                if f"lab/{name}" in self._keys and analyte.codes and f"lab/{name}" not in groups
            ]
            for name in names:
                analyte = self.terminology.analytes[name]
                if analyte.plausible and analyte.plausible.le is not None:
                    last = Decimal(1).scaleb(-analyte.decimals)
                    above = (
                        Decimal(analyte.plausible.le.numerator) / analyte.plausible.le.denominator
                    )
                    forms.append(Lab(name, above + last, self._unit(name)))
                    break
            else:
                raise _Impossible
        if any(w.want != "yes" for w in wanted) and forms:
            raise _Impossible
        return forms

    # ------------------------------------------------------------ what is recorded as present

    def _presences(self, wanted: Sequence[Wanted]) -> list[Form]:
        chosen: dict[str, tuple[str, _Record | None]] = {}
        by_key: dict[str, list[Wanted]] = {}
        for w in wanted:
            by_key.setdefault(w.leaf.key, []).append(w)
        for key, wanted_of in by_key.items():
            chosen[key] = _presence_choice(key, wanted_of)
        shut = {
            key.split("/")[1] for key, (how, _) in chosen.items() if how in ("absent", "denied")
        }
        forms: list[Form] = []
        for key, (how, record) in chosen.items():
            kind, concept = key.split("/")
            if how == "denied":
                forms += [Presence("denies", name, NOW) for name in self._to_deny(concept)]
            elif how == "unusable":
                code = self._code(concept, shut)
                forms.append(Presence(kind, code.name, ago(-2 * _DAY), words=code.words))
            elif record is not None:
                code = self._code(concept, shut)
                forms += record.forms(kind, code.name, code.words)
        order = ("symptom", "condition", "lifestyle", "history", "denies")
        forms.sort(key=lambda f: order.index(f.kind) if isinstance(f, Presence) else 0)
        return forms

    def _to_deny(self, concept: str) -> list[str]:
        value_set = self.terminology.value_sets[concept]
        if value_set.codes or value_set.uncoded:
            return [concept]
        return [name for inner in value_set.includes for name in self._to_deny(inner)]

    def _code(self, concept: str, shut: Iterable[str]) -> _Code:
        """A code of a value set that brings none of the concepts that must stay away."""
        shut = set(shut)
        for code in self._codes(concept):
            if not code.concepts & shut:
                return code
        raise _Impossible

    def _codes(self, concept: str) -> Iterator[_Code]:
        t = self.terminology
        if t.value_sets[concept].every_medicine:
            yield from self._any_medicine(concept)
            return
        waiting, seen, first = [concept], set(), True
        while waiting:
            name = waiting.pop(0)
            if name in seen:
                continue
            seen.add(name)
            for entry in (*t.value_sets[name].codes, *_own_entry(t.value_sets[name])):
                brings = frozenset(t.concepts_of(SYSTEMS[entry.system], entry.code)) | {concept}
                code = f"{entry.system.upper()}#{entry.code}"
                yield _Code(concept, "", brings) if first else _Code(code, entry.display, brings)
                first = False
            waiting += t.value_sets[name].includes

    def _any_medicine(self, concept: str) -> Iterator[_Code]:
        """Medicines for the set of all of them, best one that few other sets name."""
        t = self.terminology
        listed = (
            (t.concepts_of(SYSTEMS[e.system], e.code), e)
            for value_set in t.value_sets.values()
            if value_set.kind == "medication"
            for e in value_set.codes
        )
        for brings, e in sorted(listed, key=lambda one: len(one[0])):
            code = f"{e.system.upper()}#{e.code}"
            yield _Code(code, e.display, frozenset(brings) | {concept})

    # ------------------------------------------------------------ medicines

    def _medicines(self, wanted: Sequence[Wanted]) -> list[Form]:
        by_key: dict[str, list[Wanted]] = {}
        for w in wanted:
            by_key.setdefault(w.leaf.key, []).append(w)
        away = {k for k, of in by_key.items() if all(_as_wanted(w, "unknown") for w in of)}
        try:
            return self._taken(by_key, away, away)
        except _Impossible:
            # One medicine of a set does no harm where two are too many.
            plain = {"since": FOREVER, "changed": FOREVER, "longest": 0, "count": 1}
            strict = {
                key
                for key in away
                if not all(_as_wanted(w, _state(w.leaf, {key: plain})) for w in by_key[key])
            }
            if strict == away:
                raise
            return self._taken(by_key, away, strict)

    def _taken(
        self, by_key: Mapping[str, Sequence[Wanted]], away: Iterable[str], shut: Iterable[str]
    ) -> list[Form]:
        """Say medicines for all keys but those away, of which none is in a set that is shut."""
        courses: dict[str, tuple[int | None, int, bool]] = {}
        forms: list[Form] = []
        barred: dict[str, set[str]] = {kind: set() for kind in _MEDICINES}
        for key in shut:
            kind, concept = key.split("/")
            barred[kind].add(concept)
        for key, wanted_of in by_key.items():
            kind, concept = key.split("/")
            if key in away:
                continue
            if kind == "stopped":
                forms.append(self._stopped(key, wanted_of, self._code(concept, barred[kind])))
            elif kind == "ordered":
                code = self._code(concept, barred[kind])
                order = Takes(code.name, words=code.words, request=True, status="draft")
                forms.append(self._fitting(wanted_of, {key: {"age": 0}}, order))
            else:
                courses[concept] = self._course(key, wanted_of)
        for concept, (age, count, raised) in courses.items():
            when = None if age is None else ago(age, lasting=True)
            allowed = (c for c in self._codes(concept) if not c.concepts & barred["medication"])
            codes = list(islice(allowed, count))
            if len(codes) < count:
                raise _Impossible
            for code in codes:
                if raised and age is not None:
                    before = ago(age + _YEAR, lasting=True)
                    forms.append(
                        Takes(code.name, before, until=str(ago(age)), words=code.words, dose=_DOSE)
                    )
                    forms.append(Takes(code.name, when, words=code.words, dose=_MORE))
                else:
                    forms.append(Takes(code.name, when, words=code.words))
        return forms

    def _course(self, key: str, wanted: Sequence[Wanted]) -> tuple[int | None, int, bool]:
        """Since when, in seconds, how many medicines of a set are taken; whether more since then.

        With a raised dose the time is that of the raise.
        """
        tests = _tests(w.leaf for w in wanted)
        times = _times({t.value for t in tests if t.prop != "count"})[1:]
        counts = [1, *sorted({t.value for t in tests if t.prop == "count"})]
        for count, raised in product(counts, (False, True)):
            for age in times if raised else (None, *times):
                since, longest = (FOREVER, 0) if age is None else (age, age)
                props = {"since": since, "changed": since, "longest": longest, "count": count}
                if raised and age is not None:
                    props.update(since=age + _YEAR, longest=age + _YEAR)
                if all(_as_wanted(w, _state(w.leaf, {key: props})) for w in wanted):
                    return age, count, raised
        raise _Impossible

    def _stopped(self, key: str, wanted: Sequence[Wanted], code: _Code) -> Form:
        tests = _tests(w.leaf for w in wanted)
        for end in _times({t.value for t in tests if t.prop == "ago"})[1:] or [_DAY]:
            for lasted in (*_times({t.value for t in tests if t.prop == "lasted"})[1:], _DAY):
                for span in (lasted, lasted - _DAY):
                    if span <= 0:
                        continue
                    known = {key: {"ago": end, "lasted": span}}
                    if all(_as_wanted(w, _state(w.leaf, known)) for w in wanted):
                        begun = ago(end + span, lasting=True)
                        return Takes(code.name, begun, until=str(ago(end)), words=code.words)
        raise _Impossible

    def _fitting(self, wanted: Sequence[Wanted], known: Mapping[str, _Props], form: Form) -> Form:
        if not all(_as_wanted(w, _state(w.leaf, known)) for w in wanted):
            raise _Impossible
        return form

    def _sequels(self, wanted: Sequence[Wanted]) -> list[Form]:
        """What began after, or before, a medicine was started or stopped."""
        by_key: dict[str, list[Wanted]] = {}
        for w in wanted:
            by_key.setdefault(w.leaf.key, []).append(w)
        forms: list[Form] = []
        for key, wanted_of in by_key.items():
            if all(_as_wanted(w, "unknown") for w in wanted_of):
                continue
            _, concept, event, medicine = key.split("/")
            windows = {t.value for t in _tests(w.leaf for w in wanted_of)}
            for delay in (_DAY, *_times(windows)[1:], -_DAY):
                known = {key: {"delay": delay}}
                states = [_state(w.leaf, known) if delay >= 0 else "no" for w in wanted_of]
                if all(map(_as_wanted, wanted_of, states)):
                    forms += self._sequel(concept, event, medicine, delay)
                    break
            else:
                raise _Impossible
        return forms

    def _sequel(self, concept: str, event: str, medicine: str, delay: int) -> list[Form]:
        kind = self.terminology.kind_of(concept)
        begun, taken = self._code(concept, ()), self._code(medicine, ())
        first = Presence(kind, begun.name, ago(_LONG, lasting=True), words=begun.words)
        when = _LONG + delay
        if event == "start":
            return [first, Takes(taken.name, ago(when, lasting=True), words=taken.words)]
        return [first, Takes(taken.name, until=str(ago(when)), words=taken.words)]


@dataclass(frozen=True, slots=True)
class _Record:
    """How something is recorded: a Condition that has lasted, or seen on some days."""

    age: int | None  # seconds; None for no time
    lasting: bool
    days: int = 1
    sites: int = 0
    severe: bool = False

    @property
    def props(self) -> _Props:
        age = self.age or 0
        onset = age if self.lasting and self.age is not None else FOREVER
        last = FOREVER if self.age is None else age  # nobody knows when it was seen
        return {
            "newest": age,
            "oldest": age + (self.days - 1) * _DAY,
            "onset": onset,
            "seen": last,
            "days": self.days if last < FOREVER else 0,
            "sites": self.sites,
            "severe": int(self.severe),
        }

    def forms(self, kind: str, what: str, words: str) -> list[Form]:
        """Return one statement for each day."""
        severity = "severe" if self.severe else ""
        if self.age is None and not self.lasting:
            return [Presence(kind, what, None, words=words, sites=self.sites)]
        ages = [(self.age or 0) + number * _DAY for number in range(self.days)]
        return [
            Presence(
                "condition" if self.age is None and kind == "symptom" else kind,
                what,
                None if self.age is None else ago(age, lasting=self.lasting),
                words=words,
                sites=self.sites,
                severity=severity,
            )
            for age in ages
        ]


# ---------------------------------------------------------------- judging candidates


def _tested(wanted: Sequence[Wanted]) -> str:
    """The analyte that criteria are about: of several that one result makes, the one tested."""
    concepts = {w.leaf.key.split("/")[1] for w in wanted}
    tested = {w.leaf.key.split("/")[1] for w in wanted if not w.leaf.key.startswith("no-result/")}
    return min(tested or concepts)


def _presence_choice(key: str, wanted: Sequence[Wanted]) -> tuple[str, _Record | None]:
    """How a concept has to be recorded."""
    if any(w.want == "unusable" for w in wanted):
        return "unusable", None
    if all(_as_wanted(w, "unknown") for w in wanted):
        return "absent", None
    for record in _records(key, _tests(w.leaf for w in wanted)):
        if all(_as_wanted(w, _state(w.leaf, {key: record.props})) for w in wanted):
            return "present", record
    if not key.startswith("history/") and all(_as_wanted(w, "no") for w in wanted):
        return "denied", None
    raise _Impossible


def _records(key: str, tests: Sequence[Test]) -> Iterator[_Record]:
    """Yield ways to record something, the plainest first."""
    yield _Record(None, lasting=False)
    if key.startswith("history/"):
        return
    times = _times({t.value for t in tests if t.prop in _SPANS})[1:]
    most = {
        prop: max((t.value for t in tests if t.prop == prop), default=least)
        for prop, least in (("days", 1), ("sites", 0), ("severe", 0))
    }
    for age in times:
        yield _Record(age, lasting=True)
    plain = [age for age in times if age < FOREVER]
    for age in plain:
        yield _Record(age, lasting=False)
    for days, sites, severe in product(
        sorted({1, most["days"]}), sorted({0, most["sites"]}), sorted({0, most["severe"]})
    ):
        for age in (*plain, _DAY):
            if severe or days == 1:
                yield _Record(age, True, 1, sites, bool(severe))
            if not severe:
                yield _Record(age, False, days, sites)


def _own_entry(value_set: ValueSet) -> tuple[CodeEntry, ...]:
    """The code of this project, where a set has no other."""
    if not value_set.uncoded:
        return ()
    return (CodeEntry(system="concept", code=value_set.id, display=value_set.name),)


def _state(leaf: Leaf, known: Mapping[str, _Props]) -> Want:
    """Judge one criterion over facts without doubt, as `cds.evaluate` does."""
    if holds(leaf, known):
        return "yes"
    if leaf.key in known or leaf.key.startswith(("no-result/", "sex/", "quality/")):
        return "no"
    return "unknown"


def _as_wanted(wanted: Wanted, state: Want) -> bool:
    if wanted.want == "not":
        return state != "yes"
    return state == wanted.want


def _tests(found: Iterable[Leaf]) -> list[Test]:
    return [test for leaf in found for atom in leaf.atoms for test in atom.tests]


def _around(bounds: Iterable[Decimal], last: Decimal) -> list[Decimal]:
    """The bounds, one last place beside them, and one step beside them."""
    exact = sorted(set(bounds))
    near = [*exact]
    for step in (last, STEP):
        for bound in exact:
            near += [bound - step, bound + step]
    return [_plain(value) for value in dict.fromkeys(near)]


def _plain(value: Decimal) -> Decimal:
    """The number without zeros at its end."""
    return value.quantize(Decimal(1)) if value == value.to_integral() else value.normalize()


def _times(windows: Iterable[int]) -> list[int]:
    """Ages at the ends of windows: now, each window, and a day (or an hour) more."""
    exact = sorted(w for w in windows if w < FOREVER)
    return list(dict.fromkeys((0, *exact, *(w + (_DAY if w >= _DAY else _HOUR) for w in exact))))


def _when(age: int) -> When:
    return NOW if age == 0 else ago(age)
